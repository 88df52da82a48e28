"""Tokenizing files: cut where that is safe, on all cores, by faster libraries; and text that grows.

1. megabytes of text per second, SmolLM2's tokenizer over 4 MB of CPython's own sources: the
   tokenizers library in one call, and by file on all cores; in blocks, on one thread and on two;
   fastokens and gigatoken in its place; and cutting into blocks alone, without tokenizing;
2. the same by `tokenize_files`, from a file of JSON lines on the disk;
3. a sentence appended, and its ids read, when 100 MB of text are there already, over when 1 MB is;
   and tokenizing the whole 1 MB again over appending to it;
4. memory that tokenizing a text file of 200 MB takes beyond that of one of 20 MB.

Run `python benchmarks/tokenization.py`, or with the numbers of the claims to run. Takes about ten
minutes. Not called tokenize.py, for Python has a module of that name. Peers: `pip install -c
constraints.txt fastokens gigatoken`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from _measure import interleaved, ratio, run_claims

from transom.models import load_tokenizer
from transom.tokens import Encoder, IncrementalTokenizer, tokenize_files
from transom.tokens.backends import choose_backend
from transom.tokens.blocks import Cutter, TextBlock
from transom.tokens.parallel import in_order

SENTENCE = "And then, as she had always known it would, the rain set in again at 7.30. "
THREADS = 2


@cache
def sources(size: int) -> list[str]:
    """Python files of the standard library, `size` characters together."""
    texts, held = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts or held >= size:
            continue
        texts.append(path.read_text(encoding="utf-8", errors="replace")[: size - held])
        held += len(texts[-1])
    return texts


def much(size: int) -> str:
    """Text of `size` characters: the sources, over and over."""
    text = "".join(sources(10_000_000))
    return (text * (1 + size // len(text)))[:size]


@cache
def encoders() -> dict[str, Encoder]:
    tokenizer = load_tokenizer("smollm2", report=print)
    found = {}
    for name in ("tokenizers", "fastokens", "gigatoken"):
        choice = choose_backend(tokenizer, sources(500_000), name)
        print(choice.why)
        found[name] = Encoder(tokenizer, choice.backend)
    return found


def megabytes_per_second(steps: dict[str, Callable[[], object]], size: int, rounds: int) -> Any:
    """Of wall time and of processor time, each the median, and the ratios to the first step."""
    busy: dict[str, list[float]] = {name: [] for name in steps}

    def timed(name: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            steps[name]()
            busy[name].append(time.process_time() - start)

        return run

    seconds = interleaved({name: timed(name) for name in steps}, rounds, warm=1)
    first = next(iter(steps))
    return {
        name: {
            "MB/s": size / median(seconds[name]) / 1e6,
            "MB per CPU-second": size / median(busy[name][1:]) / 1e6,
            "times the first": ratio(seconds, first, name),
        }
        for name in steps
    }


def blocks_of(encoder: Encoder, texts: list[str]) -> list[TextBlock]:
    cutter = Cutter(encoder.boundaries, encoder.backend.block)
    return [block for text in texts for block in (*cutter.add(text), cutter.end())]


def speed() -> dict[str, Any]:
    texts = sources(4_000_000)
    text = "".join(texts)
    size = len(text.encode())
    found = encoders()
    plain = found["tokenizers"]

    def in_blocks(encoder: Encoder, threads: int) -> int:
        cut = blocks_of(encoder, [text])
        groups = [cut[i : i + 4] for i in range(0, len(cut), 4)]
        return sum(len(ids) for made in in_order(encoder.encode, groups, threads) for ids in made)

    one = load_tokenizer("smollm2")
    steps: dict[str, Callable[[], object]] = {
        "tokenizers, in one call": lambda: one.encode(text).ids,
        "tokenizers, encode_batch of files": lambda: [e.ids for e in one.encode_batch(texts)],
        "blocks, 1 thread": lambda: in_blocks(plain, 1),
        f"blocks, {THREADS} threads": lambda: in_blocks(plain, THREADS),
        "fastokens": lambda: in_blocks(found["fastokens"], 1),
        "gigatoken": lambda: in_blocks(found["gigatoken"], 1),
        "cutting alone": lambda: blocks_of(plain, [text]),
    }
    return {
        "claim": "tokenization, MB of UTF-8 per second: tokenizers, parallel, fast backends",
        "text": f"{len(texts)} Python files, {size:,} bytes",
        **megabytes_per_second(steps, size, 5),
    }


def from_files() -> dict[str, Any]:
    texts = sources(4_000_000)
    found = encoders()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sources.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        size = sum(len(text.encode()) for text in texts)

        def step(name: str, workers: int) -> Callable[[], object]:
            return lambda: [
                len(part.ids) for part in tokenize_files([path], found[name], workers=workers)
            ]

        steps = {
            "tokenizers, 1 worker": step("tokenizers", 1),
            f"tokenizers, {THREADS} workers": step("tokenizers", THREADS),
            "fastokens": step("fastokens", 1),
            "gigatoken": step("gigatoken", 1),
        }
        measured = megabytes_per_second(steps, size, 5)
    return {"claim": "tokenize_files over JSON lines, MB of UTF-8 per second", **measured}


def appending() -> dict[str, Any]:
    tokenizer = load_tokenizer("smollm2")
    encoder = Encoder(tokenizer, encoders()["fastokens"].backend)
    growing = {}
    for size in (1_000_000, 100_000_000):
        growing[f"{size:,}"] = IncrementalTokenizer(encoder)
        growing[f"{size:,}"].append(much(size))
    encoder.backend = encoder.reference  # the others were for the long text only

    def append(text: IncrementalTokenizer) -> None:
        for _ in range(20):
            kept = text.append(SENTENCE)
            text[kept:]

    steps = {size: lambda text=text: append(text) for size, text in growing.items()}
    seconds = interleaved(steps, 400, warm=20)
    early, late = seconds
    whole = much(1_000_000)
    again = interleaved({"whole": lambda: encoder.reference.encode([whole])}, 5, warm=1)["whole"]
    return {
        "claim": "a sentence appended, its ids read, at 100 MB over at 1 MB of text (goal <= 1.2)",
        "ratio": ratio(seconds, late, early),
        "ratio_of_means": sum(seconds[late]) / sum(seconds[early]),
        "microseconds": {size: 1e6 * median(times) / 20 for size, times in seconds.items()},
        "tokens": {size: len(text) for size, text in growing.items()},
        "tokenizing 1 MB again over appending to it": 20 * median(again) / median(seconds[early]),
    }


READER = """
import sys
from transom.evaluate.rss import peak_rss
from transom.models import load_tokenizer
from transom.tokens import Encoder, tokenize_files
from transom.tokens.backends import choose_backend
tokenizer = load_tokenizer("smollm2")
encoder = Encoder(tokenizer, choose_backend(tokenizer, [], "fastokens").backend)
tokens = sum(len(part.ids) for part in tokenize_files(sys.argv[1:], encoder))
print(peak_rss(), tokens)
"""


def memory() -> dict[str, Any]:
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (20_000_000, 200_000_000):
            path = Path(folder) / "a.txt"
            path.write_text(much(size))
            command = [sys.executable, "-c", READER, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[f"{size:,} characters"] = int(done.stdout.split()[0])
    small, large = peaks.values()
    return {
        "claim": "peak memory of tokenizing one text file, by its size",
        "bytes": peaks,
        "more for ten times the text": large - small,
    }


CLAIMS = (speed, from_files, appending, memory)

if __name__ == "__main__":
    run_claims("tokenization", CLAIMS)
