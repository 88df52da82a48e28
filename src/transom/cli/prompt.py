"""Questions typed or pasted at a terminal."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from types import ModuleType

try:
    import readline
except ImportError:  # Windows has none
    readline = None  # type: ignore[assignment]

__all__ = ["Prompt"]

FIRST, MORE = "> ", "  "
CONTINUED = "\\"
PASTED_WITHIN = 0.02  # seconds: the next line of pasted text arrives within this time


class Prompt:
    """Asks for one message after the other. A message has one line or several.

    A backslash at the end of a line continues the message in the next line. Pasted text is one
    message: GNU readline sees the brackets that terminals put around it; without GNU readline,
    lines belong together if they arrive at once.

    Args:
        earlier: messages that the arrow keys find besides those typed now; oldest first.

    Attributes:
        spaced: whether the last message started with a space.
    """

    spaced = False

    def __init__(self, earlier: Iterable[str] = ()) -> None:
        self._readline: ModuleType | None = readline if sys.stdout.isatty() else None
        self._brackets = False
        if self._readline is not None:
            self._brackets = "libedit" not in (self._readline.__doc__ or "")
            if self._brackets:  # Python turns bracketed paste off, for its own prompt
                self._readline.parse_and_bind("set enable-bracketed-paste on")
            self._readline.set_auto_history(False)
            for message in earlier:
                self._remember(message)

    def __call__(self) -> str:
        """The next message, without spaces around it.

        Raises:
            EOFError: at the end of the input (Ctrl-D) when nothing was typed.
            KeyboardInterrupt: on Ctrl-C. What was typed is lost.
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
        # Bytes that are invalid in the terminal's encoding arrive as lone surrogates.
        return message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _line(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        sys.stderr.write(prompt)  # and not to standard output, among the answers
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
    except (OSError, ValueError):  # on Windows, select() waits for sockets only
        return False
