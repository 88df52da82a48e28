"""A recommendation among measured candidates, with its next larger and smaller neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.errors import InputError
from transom.evaluate.advisor.candidates import Candidate, Wish
from transom.evaluate.summary import PolicySummary, Score

__all__ = ["LOSS_TOLERANCE", "RECALL_TOLERANCE", "Advice", "Option", "advise"]

LOSS_TOLERANCE = 0.02  # nats that a smaller choice may lose: two percent of perplexity
RECALL_TOLERANCE = 0.05  # of the answers


@dataclass(frozen=True)
class Option:
    """A candidate with its measurements.

    Attributes:
        bytes: of keys and values in one session: as computed, or as measured if that is more.
        sessions: how many fit into the memory.
        loss: in nats per token along the text.
        recall: score of the questions about the text; None if there were none.
        seconds: time for one more token.
        obstacle: why it cannot be chosen, `"grows"`, `"too large"` or `"too slow"`; else empty.
    """

    candidate: Candidate
    bytes: int
    sessions: int
    loss: float
    recall: Score | None
    seconds: float
    obstacle: str = ""

    @property
    def policy(self) -> str:
        """The policy's text."""
        return str(self.candidate.policy)

    def to_json(self) -> dict[str, object]:
        """The option as JSON values."""
        recall = self.recall
        return {
            "policy": self.policy,
            "bytes": self.bytes,
            "sessions": self.sessions,
            "loss": self.loss,
            "recall": None if recall is None else {"right": recall.right, "total": recall.total},
            "seconds_per_token": self.seconds,
            "obstacle": self.obstacle or None,
        }


@dataclass(frozen=True)
class Advice:
    """A recommendation, the options it was chosen from, and its neighbours.

    Attributes:
        wish: the limits that it must keep.
        options: all options by bytes, smallest first.
        best: the recommended one; None when none can be.
        larger, smaller: the next size of the same family; None if there is none.
    """

    wish: Wish
    options: tuple[Option, ...]
    best: Option | None
    larger: Option | None
    smaller: Option | None

    @property
    def full(self) -> Option:
        """Full attention, with which all others are compared."""
        return next(one for one in self.options if one.candidate.family == "full")

    def to_json(self) -> dict[str, object]:
        """The advice as JSON values."""

        def named(one: Option | None) -> str | None:
            return None if one is None else one.policy

        return {
            "memory": self.wish.memory,
            "sessions": self.wish.sessions,
            "latency": self.wish.latency,
            "recommended": named(self.best),
            "larger": named(self.larger),
            "smaller": named(self.smaller),
            "options": [one.to_json() for one in self.options],
        }


def advise(wish: Wish, tried: Sequence[Candidate], measured: Sequence[PolicySummary]) -> Advice:
    """Choose the smallest of the candidates that are nearly as good as the best that fits.

    Nearly means within 0.02 nats of the lowest loss, and within 5 % of the most right answers.

    Raises:
        InputError: when a candidate was not measured.
    """
    by_policy = {one.policy: one for one in measured}
    options = tuple(
        sorted(
            (_option(wish, one, by_policy.get(str(one.policy))) for one in tried),
            key=lambda option: (option.bytes, option.loss),
        )
    )
    possible = [one for one in options if not one.obstacle]
    best = None
    if possible:
        loss = min(one.loss for one in possible)
        recall = max(_rate(one) for one in possible)
        good = [one for one in possible if one.loss <= loss + LOSS_TOLERANCE]
        both = [one for one in good if _rate(one) >= recall - RECALL_TOLERANCE]
        # Where no candidate has both, the answers decide: a little loss can be made up for, a
        # forgotten fact cannot.
        most = [one for one in possible if _rate(one) >= recall - RECALL_TOLERANCE]
        best = (both or most)[0]
    family = [one for one in options if best and one.candidate.family == best.candidate.family]
    at = family.index(best) if best else 0
    return Advice(
        wish,
        options,
        best,
        larger=family[at + 1] if at + 1 < len(family) else None,
        smaller=family[at - 1] if at > 0 else None,
    )


def _option(wish: Wish, candidate: Candidate, summary: PolicySummary | None) -> Option:
    if summary is None or summary.loss is None or summary.loss.loss is None or not summary.speeds:
        raise InputError(f"{candidate.policy} was not measured; expected its loss and its speed.")
    bytes_ = max(candidate.bytes, summary.total_bytes)
    seconds = summary.speeds[-1].decode_seconds
    obstacle = ""
    if candidate.family == "full":
        obstacle = "grows"  # for comparison only: no budget holds it
    elif bytes_ > wish.each:
        obstacle = "too large"
    elif wish.latency is not None and seconds > wish.latency:
        obstacle = "too slow"
    return Option(
        candidate,
        bytes_,
        wish.memory // bytes_,
        summary.loss.loss,
        summary.recalled,
        seconds,
        obstacle,
    )


def _rate(option: Option) -> float:
    return option.recall.rate if option.recall else 0.0
