"""Windows of a corpus on disk come about as fast as memory, and it is checked as fast as read.

1. random windows of 512 tokens out of 1 GB, in batches of 64, into buffers that are there already,
   against datatrove's reader and nanoGPT's `get_batch`;
2. the same where documents are kept apart, where windows are packed, and out of many shards;
3. memory while all windows of 1 GB are read in order;
4. `verify` against reading the same files and doing nothing with them;
5. appending and committing, and opening, of a corpus of 1 GB against one of 1 MB.

The corpus is made in the folder that `TRANSOM_BENCH` names, or in a temporary one, and takes 2 GB.
`pip install datatrove` for its reader, which is left out where it is not installed. Tokenization is
measured by `tokenization.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _measure import interleaved, ratio, run_claims

from transom import TokenCorpus
from transom.corpus import verify

TOKENS = 500_000_000  # of two bytes
VOCABULARY = 49_152
SIZE, BATCH = 512, 64
ROUNDS, IN_TURN = 60, 20  # turns, and batches in each of them, so that none finds another's caches
FOLDER = Path(os.environ.get("TRANSOM_BENCH") or tempfile.mkdtemp(prefix="transom-bench-"))


def made(name: str, tokens: int = TOKENS, mean: int | None = None, **settings: Any) -> TokenCorpus:
    """A corpus of random ids, in documents of `mean` tokens on average, or in a single one."""
    path = FOLDER / name
    if not path.exists():
        rng = np.random.default_rng(0)
        with TokenCorpus.create(path, vocab_size=VOCABULARY, **settings) as writer:
            for at in range(0, tokens, 1 << 22):
                count = min(1 << 22, tokens - at)
                ids = rng.integers(0, VOCABULARY, count, dtype=np.uint16)
                ends = np.flatnonzero(rng.random(count) < 1 / mean) if mean else None
                writer.add_tokens(ids, documents=ends)
    return TokenCorpus.open(path)


@cache
def corpus() -> TokenCorpus:
    return warm(made("books"))


def warm(known: TokenCorpus) -> TokenCorpus:
    """With all of it in the system's cache, and mapped, as it is after an epoch."""
    known.read(0, known.tokens).max()
    return known


def random_batches(windows: Any) -> Any:
    """A call that fills the same buffers with windows of other numbers each time."""
    numbers = numbers_below(len(windows))
    out = windows.buffers(BATCH)
    return lambda: windows.batch(next(numbers), out=out)


def numbers_below(count: int) -> Iterator[Any]:
    rng = np.random.default_rng(1)
    return iter(rng.integers(0, count, ((ROUNDS + 10) * IN_TURN, BATCH)))


def in_turn(steps: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per batch of each step."""

    def several(step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(IN_TURN):
                step()

        return run

    seconds = interleaved({name: several(step) for name, step in steps.items()}, ROUNDS)
    return {name: [each / IN_TURN for each in times] for name, times in seconds.items()}


def nanogpt() -> Any:
    """`get_batch` of nanoGPT's `train.py`, without the copy to a GPU."""
    import torch

    rng = np.random.default_rng(2)
    path = FOLDER / "books" / "000000.tokens"

    def get_batch() -> Any:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        starts = rng.integers(0, len(data) - SIZE, BATCH).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + SIZE].astype(np.int64)) for i in starts])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + SIZE].astype(np.int64)) for i in starts]
        )
        return x, y

    return get_batch


def datatrove() -> Any:
    from datatrove.utils.dataset import DatatroveFileDataset

    data = DatatroveFileDataset(str(FOLDER / "books" / "000000.tokens"), SIZE, token_size=2)
    numbers = numbers_below(len(data))

    def batch() -> Any:
        return [data[number] for number in next(numbers).tolist()]

    return batch


def random_windows() -> dict[str, Any]:
    windows = corpus().windows(SIZE)
    steps = {"transom": random_batches(windows), "nanoGPT": nanogpt()}
    try:
        steps["datatrove"] = datatrove()
    except ImportError as error:
        print(f"without datatrove: {error}")
    seconds = in_turn(steps)
    return {
        "claim": "random windows out of 1 GB, batches of 64 (goals <= 1 us, >= 5 and >= 15 times)",
        "microseconds_per_window": _per_window(seconds),
        "ratio": {name: ratio(seconds, name, "transom") for name in steps if name != "transom"},
    }


def other_windows() -> dict[str, Any]:
    several = warm(made("shards", shard_bytes=16 << 20))
    short = warm(made("short", mean=500))
    opened = TokenCorpus.open(corpus().path)
    steps = {
        "one document": random_batches(corpus().windows(SIZE)),
        "one document, just opened": random_batches(opened.windows(SIZE)),
        f"one document, {len(several.manifest.shards)} shards": random_batches(
            several.windows(SIZE)
        ),
        "a million documents, packed": random_batches(short.windows(SIZE, packed=True)),
        "a million documents, kept apart": random_batches(short.windows(SIZE)),
    }
    seconds = in_turn(steps)
    return {
        "claim": "the same with documents kept apart, packed, and out of many shards",
        "microseconds_per_window": _per_window(seconds),
        "documents": short.documents,
    }


SCAN = """
import sys
from pathlib import Path
from transom import TokenCorpus

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024

corpus = TokenCorpus.open(sys.argv[1])
windows = corpus.windows(512, stride=256)
out = windows.buffers(64)
windows.batch(slice(0, 64), out=out)
start = most = resident()
total = 0
if sys.argv[2] == "batch":
    for at in range(0, len(windows), 64):
        total += int(windows.batch(slice(at, at + 64), out=out).ids[0, 0])
        if at % 6400 == 0:
            most = max(most, resident())
elif sys.argv[2] == "each":
    for number, window in enumerate(windows):
        total += int(window.ids[0]) + int(window.ids[-1])
        if number % 10_000 == 0:
            most = max(most, resident())
else:
    for piece in corpus.pieces():
        total += int(piece.max())
        most = max(most, resident())
print(most - start)
"""


def scanning() -> dict[str, Any]:
    short = made("short", mean=500)
    grown = {}
    for name, path in (("one document", corpus().path), ("a million documents", short.path)):
        for way in ("batch", "each", "pieces"):
            command = [sys.executable, "-c", SCAN, str(path), way]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            grown[f"{name}, {way}"] = int(ran.stdout) / 1e6
    return {
        "claim": "memory added by reading all of 1 GB in order, in MB (goal < 50)",
        "megabytes": grown,
    }


def verifying() -> dict[str, Any]:
    folder = corpus().path
    files = [folder / stored.name for stored in corpus().manifest.files if stored.bytes]
    buffer = memoryview(bytearray(1 << 20))

    def read() -> None:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def verified() -> None:
        assert not [*verify(folder)]

    seconds = interleaved({"read": read, "verify": verified}, 9, warm=2)
    size = corpus().nbytes
    return {
        "claim": "bytes/s of verify over those of reading alone (goal >= 0.5)",
        "ratio": ratio(seconds, "read", "verify"),
        "gigabytes_per_second": {name: size / median(s) / 1e9 for name, s in seconds.items()},
    }


def committing() -> dict[str, Any]:
    corpus()
    small = made("small", tokens=500_000)
    paths = {"1 GB": made("appended").path, "1 MB": small.path}
    ids = np.arange(1000)

    def append(path: Path) -> None:
        with TokenCorpus.append(path) as writer:
            writer.add_document(ids)

    appends = {name: lambda path=path: append(path) for name, path in paths.items()}
    opens = {name: lambda path=path: TokenCorpus.open(path) for name, path in paths.items()}
    appended, opened = interleaved(appends, 30, warm=3), interleaved(opens, 100, warm=10)
    return {
        "claim": "an append of 1,000 tokens with its commit, and an open, at 1 GB over at 1 MB",
        "ratio": {
            "append": ratio(appended, "1 GB", "1 MB"),
            "open": ratio(opened, "1 GB", "1 MB"),
        },
        "milliseconds": {
            "append": {name: 1e3 * median(times) for name, times in appended.items()},
            "open": {name: 1e3 * median(times) for name, times in opened.items()},
        },
    }


def _per_window(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: 1e6 * median(times) / BATCH for name, times in seconds.items()}


CLAIMS = (random_windows, other_windows, scanning, verifying, committing)

if __name__ == "__main__":
    run_claims("corpus", CLAIMS)
