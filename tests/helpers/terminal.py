"""A command in a pseudo-terminal, at which a test types and reads."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Self

STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
WAIT = 60.0  # seconds; on a busy machine, starting takes most of them


class Terminal:
    """Runs a command at a pseudo-terminal, and collects what it shows.

    Attributes:
        shown: what came and was not expected yet, with `\\n` for new lines, without colours.
    """

    def __init__(self, *command: str, columns: int = 80) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=kept | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
        )
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, text: str) -> str:
        """Wait for a text; returns what was shown since the last one, up to its end."""
        until = time.monotonic() + WAIT
        while text not in self.shown:
            if not self._read(until - time.monotonic()):
                raise AssertionError(f"{text!r} did not come; there was:\n{self.shown}")
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Read all output; returns the exit code."""
        until = time.monotonic() + WAIT
        while self._read(until - time.monotonic()):
            pass
        return self._process.wait(timeout=WAIT)

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux raises this when the other end is closed
            return False
        shown = self.shown + data.decode(errors="replace").replace("\r\n", "\n")
        self.shown = STYLE.sub("", shown)
        return bool(data)
