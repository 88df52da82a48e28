"""Long measurements in pieces: what is in the results file already is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from _measure import RESULTS, machine


class Cells:
    """Measurements of one claim, each under a path of names, written down one by one.

    Args:
        script: whose results these are.
        claim: of the script.
        settings: what all cells depend on; cells measured under other settings are dropped.
    """

    def __init__(self, script: str, claim: str, text: str, **settings: Any) -> None:
        self.path = RESULTS / f"{script}.json"
        self.claim = claim
        before = self._read().get(claim, {})
        self.runs: dict[str, Any] = before.get("runs", {})
        if before.get("settings") != settings:
            self.runs = {}
        self.head = {"claim": text, "settings": settings}
        print(f"\n{text}")

    def __call__(self, *names: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The measurement of that name, made now unless it was before."""
        here = self.runs
        for name in names[:-1]:
            here = here.setdefault(name, {})
        if names[-1] not in here:
            here[names[-1]] = measure()
            self._write({})
        print(f"  {' | '.join(names)}: {here[names[-1]]}", flush=True)
        found: dict[str, Any] = here[names[-1]]
        return found

    def conclude(self, **found: Any) -> None:
        """Write down what follows from the cells."""
        self._write(found)
        for name, value in found.items():
            print(f"  {name}: {value}")

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self, found: dict[str, Any]) -> None:
        everything = self._read()
        everything[self.claim] = self.head | found | {"runs": self.runs, "machine": machine()}
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(everything, indent=1) + "\n")
