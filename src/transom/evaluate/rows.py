"""The rows of an evaluation: a trial, a reading, a speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

__all__ = ["LossRow", "RecallRow", "Row", "RowKey", "SpeedRow", "from_json", "to_json"]


RowKey: TypeAlias = tuple[str | int | float, ...]


@dataclass(frozen=True)
class RecallRow:
    """One trial of a recall task.

    Attributes:
        length, depth, trial: the place of the trial in the grid, see `Cell`.
        tokens: the length of the prompt as it was.
        expected, answer: the right answer, and all that the model said.
        right: whether the model gave the right answer.
        hot_bytes, cold_bytes: keys and values in the cache and outside it, at the question.
    """

    policy: str
    task: str
    length: int
    depth: float
    trial: int
    tokens: int
    expected: str
    answer: str
    right: bool
    hot_bytes: int
    cold_bytes: int

    kind: ClassVar[str] = "recall"

    @property
    def key(self) -> RowKey:
        """What identifies the row; a record has one row of each key."""
        return self.kind, self.policy, self.task, self.length, self.depth, self.trial


@dataclass(frozen=True)
class LossRow:
    """A text read under one policy.

    Attributes:
        tokens: how many were read.
        loss: mean, in nats per token; None when nothing could be scored.
        points: the loss along the text as `(start, stop, loss)` of neighbouring stretches.
        seconds: time that the reading took, with the losses.
    """

    policy: str
    tokens: int
    loss: float | None
    points: tuple[tuple[int, int, float | None], ...]
    seconds: float
    hot_bytes: int
    cold_bytes: int

    kind: ClassVar[str] = "loss"

    @property
    def key(self) -> RowKey:
        """What identifies the row; a record has one row of each key."""
        return self.kind, self.policy, self.tokens


@dataclass(frozen=True)
class SpeedRow:
    """How long a prompt of `length` tokens takes, and each token after it.

    Attributes:
        prefill_seconds: time for the whole prompt; None where there is no prefill.
        decode_seconds: time for one more token, the median of several.
    """

    policy: str
    length: int
    prefill_seconds: float | None
    decode_seconds: float
    hot_bytes: int
    cold_bytes: int

    kind: ClassVar[str] = "speed"

    @property
    def key(self) -> RowKey:
        """What identifies the row; a record has one row of each key."""
        return self.kind, self.policy, self.length


Row = RecallRow | LossRow | SpeedRow
KINDS = {kind.kind: kind for kind in (RecallRow, LossRow, SpeedRow)}


def to_json(row: Row) -> dict[str, object]:
    """A row as JSON values, with its kind."""
    return {"kind": row.kind, **asdict(row)}


def from_json(values: dict[str, Any]) -> Row:
    """The row that `to_json` made these of.

    Raises:
        KeyError, TypeError: when they are not a row of this version.
    """
    given = dict(values)
    kind = KINDS[given.pop("kind")]
    if "points" in given:
        given["points"] = tuple(tuple(point) for point in given["points"])
    row: Row = kind(**given)
    return row
