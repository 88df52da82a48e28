"""What can be typed in a conversation besides questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transom.cli.conversation import Conversation
from transom.cli.session import Session
from transom.cli.tables import plain_size
from transom.cli.wrapping import visible
from transom.errors import InputError

__all__ = ["ChatCommands", "count", "transcript"]

Say = Callable[[str], None]

HELP = """\
/usage      tokens seen and kept, bytes, policy, model, file
/history    the last turns again
/undo       take the last turn or /reset back, exactly
/reset      begin anew
/save FILE  write a copy of the conversation, to go on from with --session FILE
/exit       end; so does Ctrl-D

Ctrl-C stops an answer, and a second one ends. A backslash at the end of a line goes on to the
next one, and what is pasted is one question. A space in front sends a line that begins with /."""


class ChatCommands:
    """Runs lines such as `/usage`.

    Args:
        conversation: what they are about.
        say: shows a few lines to the user.

    Attributes:
        copies: the files that /save has written.
    """

    def __init__(self, conversation: Conversation, say: Say) -> None:
        self._conversation = conversation
        self._say = say
        self.copies: dict[Path, Session] = {}
        self._known: dict[str, Callable[[], None]] = {
            "/help": lambda: say(HELP),
            "/usage": self._usage,
            "/history": lambda: say(transcript(conversation) or "nothing has been said yet"),
            "/undo": self._undo,
            "/reset": self._reset,
        }

    def __call__(self, line: str) -> bool:
        """Run one line; false when it ends the conversation.

        Raises:
            InputError: when there is no such command, or a file cannot be written.
            StateError: when the conversation could not be saved.
        """
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/save":
            self._save(rest)
            return True
        if rest or name not in (*self._known, "/exit", "/quit"):
            raise InputError(
                f"there is no command {line!r}; expected one that /help lists. To send it as a "
                "question, put a space in front."
            )
        if name in self._known:
            self._known[name]()
        return name in self._known

    def _usage(self) -> None:
        talk = self._conversation
        usage, capacity = talk.usage, talk.context.policy.capacity
        held = f", and as much again for /undo ({plain_size(talk.held)})" if talk.held else ""
        cold = f", and {usage.cold_bytes:,} cold" if usage.cold_bytes else ""
        file = "none; --session FILE keeps a conversation"
        if talk.session is not None:
            written = talk.session.path.exists()
            size = plain_size(talk.session.path.stat().st_size) if written else "not yet written"
            file = f"{talk.session.path} ({size})"
        self._say(
            f"model   {talk.model}\n"
            f"policy  {talk.context.policy}\n"
            f"turns   {talk.turns:,}\n"
            f"seen    {count(usage.seen, 'token')}\n"
            f"kept    {usage.kept:,}{'' if capacity is None else f' of at most {capacity:,}'}\n"
            f"bytes   {usage.kv_bytes:,} for keys and values{cold}{held}\n"
            f"file    {file}"
        )

    def _undo(self) -> None:
        before = self._conversation.turns
        if not self._conversation.undo():
            self._say("nothing to take back: only the last turn or /reset since the start can be")
        elif self._conversation.turns > before:
            self._say(f"brought back: {count(self._conversation.turns, 'turn')}")
        else:
            self._say(f"the last turn is taken back; {count(before - 1, 'turn')} left")

    def _reset(self) -> None:
        before = self._conversation.turns
        self._conversation.reset()
        self._say(f"{count(before, 'turn')} forgotten; until the next question /undo brings back")

    def _save(self, target: str) -> None:
        if not target:
            raise InputError("/save needs the name of a file to write: /save FILE.")
        path, talk = Path(target).expanduser(), self._conversation
        if path not in self.copies:
            if path.exists():
                raise InputError(f"{path} exists and was left as it is; expected a new name.")
            self.copies[path] = Session(path)
        self.copies[path].save(talk.context, talk.note())
        if talk.session is None:
            talk.unsaved = False
        size = plain_size(path.stat().st_size)
        self._say(f"saved as {path} ({size}); go on from it with --session {path}")


def transcript(conversation: Conversation, turns: int | None = None) -> str:
    """The newest turns as they were said, as far as they are kept; all of those by default."""
    shown = conversation.recent[-turns:] if turns else conversation.recent
    return "\n\n".join(visible(f"> {turn.question}\n{turn.answer}".rstrip()) for turn in shown)


def count(number: int, what: str) -> str:
    """A number of things in words.

    >>> count(1, "turn"), count(2_000, "token")
    ('1 turn', '2,000 tokens')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"
