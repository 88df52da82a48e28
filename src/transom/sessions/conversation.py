"""A conversation on a bounded context. Its last turn can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Unpack

from transom.chat import Message, Turns
from transom.validation import known_keywords

if TYPE_CHECKING:
    from transom.context import Context, Usage
    from transom.sampling import UnseededSampling
    from transom.sessions.session_file import SessionFile

__all__ = ["Conversation", "Reply", "Turn"]

# How much text is kept to show it again: the newest turns, each cut to some characters.
RECENT = 10
CHARACTERS = 4000
CUT = " [...]"


class Turn(NamedTuple):
    """A question and its answer. Long ones are cut."""

    question: str
    answer: str


class Reply:
    """An answer that the model is writing. Iterate over it for its text.

    The conversation does not change until `Conversation.keep` takes the reply.

    Attributes:
        context: a fork of the conversation's context. It is fed as the answer is written.
        question: what was asked.
        text: the answer so far.
    """

    def __init__(self, context: Context, question: str, pieces: Iterator[str]) -> None:
        self.context = context
        self.question = question
        self.text = ""
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.text += piece
            yield piece

    @property
    def unfinished(self) -> bool:
        """Whether the answer was cut before the model ended it."""
        return self.context.unfinished


@dataclass(frozen=True)
class Checkpoint:
    """A conversation after one of its turns.

    Attributes:
        context: is forked and never fed, so that the conversation can come back here.
        turns: questions answered so far.
        recent: the newest of these turns.
    """

    context: Context
    turns: int = 0
    recent: tuple[Turn, ...] = ()


@known_keywords
class Conversation:
    """Questions and answers on one context. With a session file, every turn is saved.

    Memory is bounded: the policy bounds the context, and only the newest text is kept.

    Args:
        context: to start from; it is forked and never fed. If it was loaded from a session file,
            the conversation in that file goes on.
        model: the name by which the user asked for the model.
        dtype: the user's choice for the weights; None for the model's default.
        system: the system prompt of a new conversation; None for the template's own.
        session: the file to save to; None to save nothing.

    Raises:
        InputError: when the model has no chat template, when turns cannot be appended one by one
            under its template, or when the template refuses a system prompt.
    """

    def __init__(
        self,
        context: Context,
        model: str,
        *,
        dtype: str | None = None,
        system: str | None = None,
        session: SessionFile | None = None,
    ) -> None:
        note = context.note
        recent = tuple(Turn(**turn) for turn in note.get("recent", ()))
        self._now = Checkpoint(context, note.get("turns", 0), recent)
        self._earlier: Checkpoint | None = None
        self.model = model
        self.dtype = dtype
        self.system = system
        self.session = session
        self.unsaved = False
        # Rendered now, so that a template that cannot be used is refused before any answer.
        self._opening = Turns(context.tokenizer).opening(self._messages("?"), reply=True)

    @property
    def usage(self) -> Usage:
        """Tokens and bytes of the context."""
        return self._now.context.usage

    @property
    def turns(self) -> int:
        """Questions answered so far."""
        return self._now.turns

    @property
    def recent(self) -> tuple[Turn, ...]:
        """The newest turns, at most `RECENT`."""
        return self._now.recent

    @property
    def context(self) -> Context:
        """The context after the last turn. Do not feed it."""
        return self._now.context

    @property
    def system_tokens(self) -> int:
        """Tokens from the start of the text to the end of the user's system prompt; 0 without."""
        if not self.system:
            return 0
        before, given, _ = self._opening.partition(self.system)
        return len(self.context.encode(before + given)) if given else 0

    @property
    def undo_bytes(self) -> int:
        """Bytes of keys and values that are held only for `undo`."""
        return 0 if self._earlier is None else self._earlier.context.usage.kv_bytes

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int,
        seed: int | None = None,
        **sampling: Unpack[UnseededSampling],
    ) -> Reply:
        """Feed a question to a fork of the context. Iterate over the reply to get the answer.

        The turn before this one can no longer be undone.

        Args:
            seed: each turn draws from its own stream, made from this seed and the turn's number.
                So a conversation gives the same answers after a restart.
            sampling: as for `Context.generate`.
        """
        self._earlier = None  # or three contexts would be held during the answer
        fork = self._now.context.fork()
        pieces = fork.generate(
            self._messages(question),
            max_new_tokens=max_new_tokens,
            stream=True,
            seed=None if seed is None else seed + self.turns,
            **sampling,
        )
        return Reply(fork, question, pieces)

    def keep(self, reply: Reply) -> None:
        """Add a reply to the conversation, as far as it has come, and save the conversation.

        Raises:
            StateError: when it could not be saved. The reply is added all the same.
        """
        turn = Turn(_shortened(reply.question), _shortened(reply.text))
        recent = (*self.recent, turn)[-RECENT:]
        self._go_to(Checkpoint(reply.context, self.turns + 1, recent), earlier=self._now)

    def reset(self) -> None:
        """Start again from an empty context. `undo` brings the conversation back.

        Raises:
            StateError: when it could not be saved. The conversation is reset all the same.
        """
        fresh = self._now.context.fork()
        fresh.reset()
        self._go_to(Checkpoint(fresh), earlier=self._now)

    def undo(self) -> bool:
        """Undo the last turn or reset exactly; false when there is nothing to undo.

        Raises:
            StateError: when it could not be saved. The turn is undone all the same.
        """
        if self._earlier is None:
            return False
        self._go_to(self._earlier, earlier=None)
        return True

    def note(self) -> dict[str, object]:
        """What a session file holds beside the state of the context, as JSON values."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "system": self.system,
            "turns": self.turns,
            "recent": [turn._asdict() for turn in self.recent],
        }

    def _go_to(self, checkpoint: Checkpoint, *, earlier: Checkpoint | None) -> None:
        """Stand at `checkpoint`, from where `undo` leads to `earlier`, and save."""
        self._earlier, self._now = earlier, checkpoint  # before a save that may fail
        self.unsaved = True
        if self.session is not None:
            self.session.save(checkpoint.context, self.note())
            self.unsaved = False

    def _messages(self, question: str) -> list[Message]:
        asked: list[Message] = [{"role": "user", "content": question}]
        if self.system is None or self.turns:
            return asked
        return [{"role": "system", "content": self.system}, *asked]


def _shortened(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS] + CUT
