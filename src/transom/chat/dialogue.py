"""Where a conversation stands, as far as what comes next depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transom.chat.template import Message, Turns
from transom.errors import InputError

__all__ = ["Dialogue"]


class Dialogue(NamedTuple):
    """Where the conversation in a context stands.

    Attributes:
        role: of the newest message; None before the first.
        answering: the newest tokens are an answer of the model, or where one starts.
        end: the token by which the model ended that answer; it has not been fed, because which
            token closes a turn is for the template to say.
        asked: the newest tokens are a message, which the model may answer next.
        trimmed: the newest were taken away, so what the newest message is, is not known.
    """

    role: str | None = None
    answering: bool = False
    end: int | None = None
    asked: bool = False
    trimmed: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether there is an answer that the model has not ended."""
        return self.answering and self.end is None

    def text(self, turns: Turns, messages: Sequence[Message], reply: bool) -> str:
        """The text of messages that come next; with `reply`, up to where their answer starts.

        Raises:
            InputError: when the template refuses them, or would change what is there already.
        """
        if self.trimmed:
            raise InputError(
                "messages cannot follow a conversation that was trimmed, since how much of its "
                "newest message is left is not known. Call fork() before what may have to be taken "
                "back, and go on from there."
            )
        if self.role is None:
            return turns.opening(messages, reply)
        if self.answering:
            return turns.after_answer(messages, reply)
        return turns.after(self.role, messages, reply)

    def then(self, messages: Sequence[Message], reply: bool) -> Dialogue:
        """Where it stands once messages have been fed."""
        role = "assistant" if reply else str(messages[-1].get("role"))
        return Dialogue(role, answering=reply, asked=not reply)

    def ended(self, token: int) -> Dialogue:
        """Where it stands once the model has ended its answer by this token."""
        return self._replace(end=token)

    def left(self) -> Dialogue:
        """Where it stands once something else has been fed."""
        return Dialogue(self.role, trimmed=self.trimmed)

    def cut(self, tokens: int) -> Dialogue:
        """Where it stands once all but the first so many tokens have been taken away."""
        return Dialogue(self.role, trimmed=self.role is not None) if tokens else Dialogue()
