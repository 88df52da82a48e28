"""Every causal language model of transformers under every kind of policy: the table of models.

Each kind is made tiny and random, and fed in one prompt, in chunks, in single steps, in left-padded
batches and as beams, under policies of every kind. What comes out is compared with the model's own
code run on just the tokens that each query may see (`tests/helpers/model_kinds/`). A kind runs in a
child process, so one that hangs or takes too much memory is a row and stops nothing.

Run `python benchmarks/models.py` for all kinds, some twenty minutes on one core: it writes
`docs/models.md` and `results/models.json`. With names of kinds (`... models.py llama gpt_oss`) only
their rows are made anew. It exits with 1 when anything is wrong, or raises an error that is not
transom's own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' helpers, which this shares with the tests

import torch  # noqa: E402
from _measure import RESULTS, machine  # noqa: E402
from _models_page import page  # noqa: E402
from tests.helpers.model_kinds.examine import FEW_CASES, Row, examine  # noqa: E402
from tests.helpers.model_kinds.small_configs import kinds  # noqa: E402

SECONDS = 300  # for one kind
LOST = "the examination did not end"
MEMORY = 12 * 2**30  # of address space, for one kind


class Child(NamedTuple):
    """A process that examines one kind, and when it has had its time."""

    kind: str
    process: Any
    end: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help="names of kinds (model_type); all by default")
    parser.add_argument("--few", action="store_true", help="fewer policies and ways; only prints")
    parser.add_argument("--jobs", type=int, default=1, help="kinds at a time, a core for each")
    given = parser.parse_args()
    chosen, few = given.kinds or kinds(), [FEW_CASES] if given.few else []
    unknown = sorted(set(chosen) - set(kinds()))
    if unknown:
        parser.error(f"transformers has no causal language model {', '.join(unknown)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    rows = []
    for row in sweep(chosen, given.jobs, *few):
        print(summary(row), flush=True)
        rows.append(row)
        if not few:  # at once, for what is known to stay when this is stopped
            write(rows)
    faults = [fault for row in rows for fault in row.faults()]
    faults += [f"{row.kind}: {row.not_made}" for row in rows if row.not_made.startswith(LOST)]
    made = sum(not row.not_made for row in rows)
    print(f"\n{len(rows)} kinds, {made} made; faults: {len(faults)}")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


def write(rows: list[Row]) -> None:
    """The results and the page: these rows, and from earlier runs those of other kinds."""
    path, here = RESULTS / "models.json", machine()
    before = json.loads(path.read_text()) if path.exists() else {"rows": [], "machine": {}}
    known = {row.kind: row for row in map(Row.from_json, before["rows"])}
    if before["machine"].get("transformers") != here["transformers"]:
        known = {}
    known |= {row.kind: row for row in rows}
    ordered = sorted(known.values(), key=lambda row: row.kind)
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": here, "rows": [asdict(row) for row in ordered]}
    path.write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "docs/models.md").write_text(page(ordered, here))


def sweep(kinds: Sequence[str], jobs: int, *how: Sequence[Any]) -> Iterator[Row]:
    """The rows of these kinds as they come, each from a process of its own, `jobs` at a time."""
    context = multiprocessing.get_context("fork")  # what is imported here is imported there
    waiting, running = list(reversed(kinds)), dict[Connection, Child]()
    while waiting or running:
        while waiting and len(running) < jobs:
            receiving, sending = context.Pipe(duplex=False)
            kind = waiting.pop()
            child = context.Process(target=_child, args=(sending, kind, *how))
            child.start()
            sending.close()
            running[receiving] = Child(kind, child, time.monotonic() + SECONDS)
        for receiving in wait(list(running), timeout=1):
            assert isinstance(receiving, Connection)
            kind, child, _ = running.pop(receiving)
            try:
                row = receiving.recv()
            except EOFError:
                child.join()
                row = _lost(kind, f"its process ended with {child.exitcode}")
            child.join()
            yield row
        for receiving, (kind, child, end) in list(running.items()):
            if time.monotonic() > end:
                del running[receiving]
                child.kill()
                yield _lost(kind, f"it took more than {SECONDS} s")


def _child(sending: Connection, kind: str, *how: Sequence[Any]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sending.send(examine(kind, *how))


def _lost(kind: str, why: str) -> Row:
    return Row(kind, not_made=f"{LOST}: {why}")


def summary(row: Row) -> str:
    if row.not_made:
        return f"{row.kind}: not made: {row.not_made}"
    parts = []
    for column, verdicts in row.verdicts.items():
        said = {v.word if v.word == "works" else f"{v.word}: {v.why}" for v in verdicts.values()}
        parts.append(f"{column}: {' / '.join(sorted(said))}")
    parts += [f"left out {way}: {why}" for way, why in row.left_out.items()]
    return f"{row.kind}: " + "\n    ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
