"""A conversation on a bounded context, in turns that can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from transom.chat import Message, Turns

if TYPE_CHECKING:
    from transom.cli.session import Session
    from transom.context import Context, Usage

__all__ = ["Conversation", "Reply", "Turn"]

# What is kept of the visible text, for showing it again: the newest turns, and little of each.
RECENT = 10
CHARACTERS = 4000
CUT = " [...]"


class Turn(NamedTuple):
    """What was said, as far as it is kept for showing."""

    question: str
    answer: str


class Reply:
    """An answer on its way: iterate for its text. Nothing has happened until it is kept."""

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
        """Whether the model had more to say."""
        return self.context.unfinished


@dataclass(frozen=True)
class Standing:
    """Where a conversation stands. Its context is forked and never fed, so it can be gone back to.

    Attributes:
        turns: questions answered so far.
        recent: the newest of them.
    """

    context: Context
    turns: int = 0
    recent: tuple[Turn, ...] = ()


class Conversation:
    """Questions and answers on one context, kept in a file if there is a session.

    Bounded whatever is said: by the policy, and by what is kept of the text for showing it again.

    Args:
        context: where to begin; never fed itself. With the note of a saved conversation it goes on
            from there.
        model: the name that the model was asked for by.
        dtype: that was asked for its weights; None for the model's default.
        system: the system prompt of a conversation that begins; None for the template's own.
        session: the file to keep it in; None for none.

    Raises:
        InputError: when the model has no chat template, or one that does not do turn by turn, or
            none for a system prompt.
    """

    def __init__(
        self,
        context: Context,
        model: str,
        *,
        dtype: str | None = None,
        system: str | None = None,
        session: Session | None = None,
    ) -> None:
        note = context.note
        recent = tuple(Turn(**turn) for turn in note.get("recent", ()))
        self._now = Standing(context, note.get("turns", 0), recent)
        self._earlier: Standing | None = None
        self.model = model
        self.dtype = dtype
        self.system = system
        self.session = session
        self.unsaved = False
        # Also for what it refuses, so that this is said before any answer.
        self._opening = Turns(context.tokenizer).opening(self._messages("?"), reply=True)

    @property
    def usage(self) -> Usage:
        """Where the context stands."""
        return self._now.context.usage

    @property
    def turns(self) -> int:
        """Questions answered so far."""
        return self._now.turns

    @property
    def recent(self) -> tuple[Turn, ...]:
        """The newest turns."""
        return self._now.recent

    @property
    def context(self) -> Context:
        """The context as it stands; not to be fed."""
        return self._now.context

    @property
    def system_tokens(self) -> int:
        """How many of the first tokens the system prompt that was given takes."""
        if not self.system:
            return 0
        before, given, _ = self._opening.partition(self.system)
        return len(self.context.encode(before + given)) if given else 0

    @property
    def held(self) -> int:
        """Bytes that the possibility of taking something back takes."""
        return 0 if self._earlier is None else self._earlier.context.usage.kv_bytes

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int,
        seed: int | None = None,
        **sampling: Any,
    ) -> Reply:
        """Feed a question to a fork; the answer is drawn as the reply is iterated over.

        Args:
            seed: another stream is drawn from it in every turn, the same one after a restart.
        """
        self._earlier = None  # or there would be three contexts for a while
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
        """Make a reply, as far as it came, part of the conversation, and save that.

        Raises:
            StateError: when it could not be saved; it is part of the conversation all the same.
        """
        turn = Turn(_shortened(reply.question), _shortened(reply.text))
        recent = (*self.recent, turn)[-RECENT:]
        self._go_to(Standing(reply.context, self.turns + 1, recent))

    def reset(self) -> None:
        """Begin anew; can be undone.

        Raises:
            StateError: as for `keep`.
        """
        fresh = self._now.context.fork()
        fresh.reset()
        self._go_to(Standing(fresh))

    def undo(self) -> bool:
        """Take the last turn or reset back, exactly; false when there is none to take back.

        Raises:
            StateError: as for `keep`.
        """
        if self._earlier is None:
            return False
        self._go_to(self._earlier)
        self._earlier = None
        return True

    def note(self) -> dict[str, Any]:
        """What is kept beside the state."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            "system": self.system,
            "turns": self.turns,
            "recent": [turn._asdict() for turn in self.recent],
        }

    def _go_to(self, standing: Standing) -> None:
        self._earlier, self._now = self._now, standing
        self.unsaved = True
        if self.session is not None:
            self.session.save(standing.context, self.note())
            self.unsaved = False

    def _messages(self, question: str) -> list[Message]:
        asked: list[Message] = [{"role": "user", "content": question}]
        if self.system is None or self.turns:
            return asked
        return [{"role": "system", "content": self.system}, *asked]


def _shortened(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS] + CUT
