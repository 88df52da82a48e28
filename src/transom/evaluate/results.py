"""The results of an evaluation: its rows, its settings, and both as JSON."""

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
    """Everything that a report shows.

    Attributes:
        settings: those of the record: model, text, seed and the like.
        facts: what else a reader needs: the trained length, the machine, the command.
        rows: all rows of the record.
        order: policies in the order to show them; others come after.
        complete: whether the whole plan was measured.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    order: Sequence[str]
    complete: bool = True

    @cached_property
    def compared(self) -> list[Row]:
        """The rows by which policies are compared; see `comparable`."""
        return comparable(self.rows, self.order)

    @cached_property
    def policies(self) -> list[PolicySummary]:
        """A summary of each policy, made of the rows that can be compared."""
        return summaries(self.compared, self.order)

    def front(self, quality: str, held: Held = "hot_bytes") -> list[str]:
        """The policies on the front of `quality` against bytes, hot ones or all."""
        return [self.policies[index].policy for index in by_bytes(self.policies, quality, held)]

    def to_json(self) -> dict[str, object]:
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
