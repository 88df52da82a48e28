"""The state of a conversation, as far as the text of the next messages depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transom.chat.template import Message, Turns
from transom.errors import InputError

__all__ = ["Dialogue"]


class Dialogue(NamedTuple):
    """The state of the conversation in a context. The methods return the state after an event.

    Attributes:
        role: of the newest message; None before the first message.
        answering: whether the newest tokens are an answer of the model, or the start of one.
        end: the token with which the model ended that answer. It has not been fed, because the
            template says which token closes a turn.
        asked: whether the newest tokens are a message that the model may answer.
        trimmed: whether tokens of the newest message were removed.
    """

    role: str | None = None
    answering: bool = False
    end: int | None = None
    asked: bool = False
    trimmed: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether the newest tokens are an answer that the model has not ended."""
        return self.answering and self.end is None

    def text(self, turns: Turns, messages: Sequence[Message], reply: bool) -> str:
        """The text of the next messages; with `reply`, up to the start of the answer.

        Raises:
            InputError: when the template refuses the messages, or would change earlier ones.
        """
        if self.trimmed:
            raise InputError(
                "messages cannot follow a conversation that was trimmed, because nothing says how "
                "much of its newest message is left. Call fork() before a turn that you may have "
                "to undo, and go on from that fork."
            )
        if self.role is None:
            return turns.opening(messages, reply)
        if self.answering:
            return turns.after_answer(messages, reply)
        return turns.after(self.role, messages, reply)

    def then(self, messages: Sequence[Message], reply: bool) -> Dialogue:
        """After messages were fed."""
        role = "assistant" if reply else str(messages[-1].get("role"))
        return Dialogue(role, answering=reply, asked=not reply)

    def ended(self, token: int) -> Dialogue:
        """After the model ended its answer with this token."""
        return self._replace(end=token)

    def left(self) -> Dialogue:
        """After something other than messages was fed."""
        return Dialogue(self.role, trimmed=self.trimmed)

    def cut(self, tokens: int) -> Dialogue:
        """After all but the first `tokens` tokens were removed."""
        return Dialogue(self.role, trimmed=self.role is not None) if tokens else Dialogue()
