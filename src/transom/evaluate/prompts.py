"""Messages to the token ids of a prompt, in the form that the model was trained to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transom.chat import Message, Turns

__all__ = ["prompt_ids"]


def prompt_ids(tokenizer: Any, messages: Sequence[Message], lead: str = "") -> list[int]:
    """Ids of a whole conversation, up to where the model's answer goes on.

    Through the model's chat template if it has one; otherwise the contents, a line apart, with
    `Answer:` before the lead.

    Args:
        messages: the conversation; the last one is the question.
        lead: how the answer starts. What is scored comes after it, so that a small model is asked
            for what it remembers and not for its manners (as in RULER, arXiv 2404.06654).
    """
    if getattr(tokenizer, "chat_template", None):
        text, special = Turns(tokenizer).whole(messages, reply=True) + lead, False
    else:
        contents = "\n\n".join(str(message["content"]) for message in messages)
        text, special = f"{contents}\n\nAnswer: {lead}".rstrip(), True
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False).input_ids
    return ids
