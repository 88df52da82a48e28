"""Chat messages to text, one turn at a time, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transom.errors import InputError

__all__ = ["Message", "Turns"]

Message = Mapping[str, Any]

ANSWER = "transom-answer"
EARLIER: tuple[Message, ...] = (
    {"role": "user", "content": "transom-question"},
    {"role": "assistant", "content": ANSWER},
)


class Turns:
    """Renders new messages as they continue a conversation, without the conversation at hand.

    A chat template renders a whole conversation. Rendering a stand-in for the earlier turns with
    and without the new messages gives the text of the new ones alone, in memory that does not grow.

    Args:
        tokenizer: a transformers tokenizer with a chat template.

    Raises:
        InputError: when it has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "chat messages need a model with a chat template, and this tokenizer has none; "
                "append plain text instead, or use an instruction-tuned model."
            )
        self._tokenizer = tokenizer

    def opening(self, messages: Sequence[Message], reply: bool) -> str:
        """The first messages of a conversation, with the template's default system prompt.

        With `reply`, up to where the model's answer starts.
        """
        return self._render(messages, reply)

    def next(self, messages: Sequence[Message], reply: bool) -> str:
        """Messages that follow a finished turn.

        Raises:
            InputError: when the template renders earlier turns differently once others follow.
        """
        before = self._render(EARLIER, reply=False)
        after = self._render([*EARLIER, *messages], reply)
        if not after.startswith(before):
            raise InputError(
                "this model's chat template changes earlier turns when new ones follow, so turns "
                "cannot be appended one by one; append the rendered text instead."
            )
        return after[len(before) :]

    def closing(self, ended: bool) -> str:
        """What the template puts after an answer; without its end token if that was generated."""
        after = self._render(EARLIER, reply=False).rpartition(ANSWER)[2]
        end = self._tokenizer.eos_token
        return after.removeprefix(end) if ended and end else after

    def _render(self, messages: Sequence[Message], reply: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=reply
            )
        except Exception as error:  # templates are programs and raise whatever they like
            raise InputError(
                f"the chat template refused the messages: {error}. Expected a list of "
                "{'role': ..., 'content': ...} with the roles that this model knows."
            ) from error
        return str(text)
