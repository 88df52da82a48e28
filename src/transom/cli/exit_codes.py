"""What a command exits with, other than 0."""

from __future__ import annotations

__all__ = ["BROKEN_PIPE", "DAMAGED", "INTERRUPTED", "MISTAKE", "NOTHING_FITS"]

MISTAKE = 2  # the user's, or of the machine: an error was printed
INTERRUPTED = 130  # Ctrl-C ended the command
DAMAGED = 1  # `verify` found damage
NOTHING_FITS = 1  # `advise` has nothing to recommend
BROKEN_PIPE = 1  # the reader of the output has closed it, as `head` does
