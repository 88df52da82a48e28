"""The commands of a conversation, such as /undo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transom.cli.wrapping import visible
from transom.errors import InputError, StateError
from transom.sessions import Conversation, SessionFile
from transom.units import plain_size

__all__ = ["ChatCommands", "count", "transcript"]

Say = Callable[[str], None]

HELP = """\
/usage      show tokens seen and kept, bytes, policy, model and file
/history    show the last turns again
/undo       undo the last turn or /reset
/reset      start a new conversation
/save FILE  save a copy; --session FILE goes on from it
/exit       end, as Ctrl-D does

Ctrl-C stops an answer. A second Ctrl-C ends the program. End a line with a backslash to go on in
the next line. Pasted text is one question. To ask a question that begins with /, start the line
with a space."""


class ChatCommands:
    """Runs lines such as `/usage`.

    Args:
        conversation: the one that the commands show and change.
        say: shows some lines to the user.

    Attributes:
        copies: the files that /save has written.
    """

    def __init__(self, conversation: Conversation, say: Say) -> None:
        self._conversation = conversation
        self._say = say
        self.copies: dict[Path, SessionFile] = {}
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
        now = self._conversation
        usage, capacity = now.usage, now.context.policy.capacity
        undo = f", and {plain_size(now.undo_bytes)} more for /undo" if now.undo_bytes else ""
        cold = f", and {usage.cold_bytes:,} cold" if usage.cold_bytes else ""
        file = "none; --session FILE keeps a conversation"
        if now.session is not None:
            written = now.session.path.exists()
            size = plain_size(now.session.path.stat().st_size) if written else "not yet written"
            file = f"{now.session.path} ({size})"
        self._say(
            f"model   {now.model}\n"
            f"policy  {now.context.policy}\n"
            f"turns   {now.turns:,}\n"
            f"seen    {count(usage.seen, 'token')}\n"
            f"kept    {usage.kept:,}{'' if capacity is None else f' of at most {capacity:,}'}\n"
            f"bytes   {usage.kv_bytes:,} for keys and values{cold}{undo}\n"
            f"file    {file}"
        )

    def _undo(self) -> None:
        before = self._conversation.turns
        try:
            undone = self._conversation.undo()
        except StateError:  # It is undone all the same.
            self._say(self._undone(before))
            raise
        self._say(
            self._undone(before)
            if undone
            else "nothing to undo: /undo reaches back one turn or /reset, in this run only"
        )

    def _undone(self, before: int) -> str:
        left = self._conversation.turns
        if left >= before:
            return f"the reset is undone: {count(left, 'turn')}"
        return f"the last turn is undone; {count(left, 'turn')} left"

    def _reset(self) -> None:
        before = self._conversation.turns
        said = f"{count(before, 'turn')} forgotten; /undo brings them back until you ask again"
        try:
            self._conversation.reset()
        except StateError:  # It is reset all the same.
            self._say(said)
            raise
        self._say(said)

    def _save(self, target: str) -> None:
        if not target:
            raise InputError("/save needs the name of a file to write: /save FILE.")
        path, now = Path(target).expanduser(), self._conversation
        if path not in self.copies:
            if path.exists():
                raise InputError(f"{path} exists and was left as it is; expected a new name.")
            self.copies[path] = SessionFile(path)
        self.copies[path].save(now.context, now.note())
        if now.session is None:
            now.unsaved = False
        size = plain_size(path.stat().st_size)
        self._say(f"saved as {path} ({size}); --session {path} goes on from it")


def transcript(conversation: Conversation, turns: int | None = None) -> str:
    """The newest turns as text, as far as the conversation keeps them; None for all of those."""
    shown = conversation.recent[-turns:] if turns else conversation.recent
    return "\n\n".join(visible(f"> {turn.question}\n{turn.answer}".rstrip()) for turn in shown)


def count(number: int, what: str) -> str:
    """A number of things in words.

    >>> count(1, "turn"), count(2_000, "token")
    ('1 turn', '2,000 tokens')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"
