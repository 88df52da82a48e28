"""Timing things against each other on a noisy machine, and writing down what came out."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(
    steps: dict[str, Callable[[], object]], rounds: int, warm: int = 5
) -> dict[str, list[float]]:
    """Seconds per call of each step, taken in turns, so that a slow moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm + rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios of calls made one right after the other."""
    return median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def machine() -> dict[str, Any]:
    """What this ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "transformers")},
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Write results, each with the machine it came from, to `results/NAME.json`.

    Results that are there already and not among these stay.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {key: {**value, "machine": machine()} for key, value in result.items()}
    path.write_text(json.dumps(known, indent=2) + "\n")
    print(f"\nwrote {path}")


def run_claims(
    name: str,
    claims: Sequence[Callable[[], dict[str, Any]]],
    numbers: Sequence[int] | None = None,
    *,
    keep: bool = True,
) -> None:
    """Run the claims with these numbers, or all, printing results and, to keep them, writing them.

    By default the numbers are those on the command line.
    """
    if numbers is None:
        numbers = [int(number) for number in sys.argv[1:]]
    for number in numbers or range(1, len(claims) + 1):
        claim = claims[number - 1]
        result = claim()
        print(f"\n{result['claim']}")
        for key, value in result.items():
            print(f"  {key}: {value}")
        if keep:
            write(name, {claim.__name__: result})
