"""Stop strings: where a text that comes in pieces ends."""

from __future__ import annotations

from collections.abc import Sequence

from transom.errors import InputError

__all__ = ["StopFinder", "as_stops"]


class StopFinder:
    r"""Finds the first of some stop strings in a text that comes in pieces.

    The first is the one that is complete first; if several end at the same place, the longest of
    them. It makes no difference where the pieces begin and end.

    >>> finder = StopFinder(["\nUser:"])
    >>> [finder.push(piece) for piece in ["Yes.\n", "Use", " it.\nUs", "er: and"]]
    ['Yes.', '', '\nUse it.', '']
    >>> finder.found
    True

    Args:
        stops: none of them empty.

    Attributes:
        found: whether a stop string was found. No text comes after that.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece; returns the text that is now certain to be before any stop string.

        The end of the text is held back as long as it may be the start of a stop string.
        """
        if self.found:
            return ""
        text = self._held + piece
        ends = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in text]
        if ends:
            end, length = min(ends)
            self.found, self._held = True, ""
            return text[: end + length]
        held = self._start_of_stop(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """The text that is still held back, once no more pieces come."""
        held, self._held = self._held, ""
        return held

    def _start_of_stop(self, text: str) -> int:
        """How many of the last characters may be the start of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


def as_stops(owner: str, stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """`stop` as a user gives it, as stop strings.

    Raises:
        InputError: naming the owner, when it is not a text or a list of texts, or one is empty.
    """
    stops = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if not isinstance(stops, (list, tuple)) or not all(isinstance(one, str) for one in stops):
        raise InputError(
            f"{owner}: stop is {stop!r:.80}; expected a text or a list of texts that end what is "
            "generated."
        )
    if "" in stops:
        raise InputError(
            f"{owner}: stop is {stop!r:.80}; an empty text would end everything before it starts. "
            "Leave it out."
        )
    return tuple(stops)
