"""The results of an evaluation: rows, what they are about, and both as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transom.evaluate.rows import Row, to_json
from transom.evaluate.summary import Held, PolicySummary, by_bytes, comparable, summaries

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """Everything that a report says.

    Attributes:
        settings: of the record: model, text, seed and the like.
        facts: what else is to be said: the trained length, the machine, the command.
        rows: all that was found out.
        order: policies in the order to show them; others come after.
        complete: whether all of the plan was measured.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    order: Sequence[str]
    complete: bool = True

    @cached_property
    def compared(self) -> list[Row]:
        """The rows that policies are compared by; see `comparable`."""
        return comparable(self.rows, self.order)

    @cached_property
    def policies(self) -> list[PolicySummary]:
        """What each policy came to, in what they can be compared by."""
        return summaries(self.compared, self.order)

    def front(self, quality: str, held: Held = "hot_bytes") -> list[str]:
        """The policies that no other beats at `quality` with as few bytes, hot or in all."""
        return [self.policies[index].policy for index in by_bytes(self.policies, quality, held)]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "settings": dict(self.settings),
            "facts": dict(self.facts),
            "complete": self.complete,
            "policies": [one.to_json() for one in self.policies],
            "front": {quality: self.front(quality) for quality in ("loss", "recall")},
            "front_in_all": {
                quality: self.front(quality, "total_bytes") for quality in ("loss", "recall")
            },
            "rows": [to_json(row) for row in self.rows],
        }

    def dumps(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
