"""Questions typed or pasted at a terminal."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from types import ModuleType

try:
    import readline
except ImportError:  # not everywhere
    readline = None  # type: ignore[assignment]

__all__ = ["Prompt"]

FIRST, MORE = "> ", "  "
CONTINUED = "\\"
PASTED_WITHIN = 0.02  # seconds in which the next line of what is pasted is there


class Prompt:
    """Asks for one message after the other, of one line or several.

    A backslash at the end of a line goes on to the next. What is pasted is one message, by the
    brackets that terminals put around it where GNU readline reads them, elsewhere because its
    lines are all there at once.

    Args:
        earlier: messages that the arrow keys find, beside those typed since; oldest first.

    Attributes:
        spaced: whether the last message had spaces in front.
    """

    spaced = False

    def __init__(self, earlier: Iterable[str] = ()) -> None:
        self._readline: ModuleType | None = readline if sys.stdout.isatty() else None
        self._brackets = False
        if self._readline is not None:
            self._brackets = "libedit" not in (self._readline.__doc__ or "")
            if self._brackets:  # Python turns them off, for its own prompt
                self._readline.parse_and_bind("set enable-bracketed-paste on")
            self._readline.set_auto_history(False)
            for message in earlier:
                self._remember(message)

    def __call__(self) -> str:
        """The next message, without spaces around it.

        Raises:
            EOFError: at the end of the input (Ctrl-D) where nothing has been typed.
            KeyboardInterrupt: on Ctrl-C; what has been typed is gone then.
        """
        lines = [self._line(FIRST)]
        while True:
            try:
                if lines[-1].endswith(CONTINUED):
                    lines[-1] = lines[-1].removesuffix(CONTINUED)
                    lines.append(self._line(MORE))
                elif not self._brackets and _more_waits():
                    lines.append(self._line(""))
                else:
                    break
            except EOFError:
                break
        message = "\n".join(lines).strip()
        self.spaced = lines[0][:1].isspace()
        self._remember(message)
        # Bytes that are not text in the terminal's encoding come as lone surrogates.
        return message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _line(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        sys.stderr.write(prompt)  # or it would be among the answers
        sys.stderr.flush()
        return input()

    def _remember(self, message: str) -> None:
        if self._readline is None or not message:
            return
        count = self._readline.get_current_history_length()
        if not count or self._readline.get_history_item(count) != message:
            self._readline.add_history(message)


def _more_waits() -> bool:
    try:
        return bool(select.select([sys.stdin.fileno()], [], [], PASTED_WITHIN)[0])
    except (OSError, ValueError):  # where only sockets can be waited for
        return False
