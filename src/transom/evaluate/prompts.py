"""Chat messages as the token ids of a prompt, in the form that the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transom.chat import Message, Turns
from transom.tokens.special import special_before

__all__ = ["prompt_ids"]


def prompt_ids(tokenizer: Any, messages: Sequence[Message], lead: str = "") -> list[int]:
    """Ids of a whole conversation, up to where the model continues the answer.

    They go through the model's chat template if it has one. Otherwise the contents are joined by
    empty lines, and `Answer:` stands before the lead.

    Args:
        messages: the conversation; the last one is the question.
        lead: how the answer starts. Only what comes after it is scored, so that a small model is
            tested on what it remembers and not on how it phrases an answer (as in RULER,
            arXiv 2404.06654).
    """
    if getattr(tokenizer, "chat_template", None):
        text, before = Turns(tokenizer).whole(messages, reply=True) + lead, []
    else:
        contents = "\n\n".join(str(message["content"]) for message in messages)
        text = f"{contents}\n\nAnswer: {lead}".rstrip()
        before = special_before(tokenizer)
    return [*before, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids]
