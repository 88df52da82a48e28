"""Cutting tokens into windows is about as fast as memory, and adding to a window costs the same.

1. 10 million ids to `(n, 512)` int32 ids and uint8 masks at stride 256, in buffers that are there
   already, against copying output of that size (a memcpy, the limit);
2. the same against the tutorial's plain lists, as lists and as arrays;
3. the same against `datasets.map` that makes strided lists, over a million ids;
4. adding 16 tokens when 10 million have been seen against when 1,000 have;
5. perplexity by sliding window against transformers' documented recipe, on SmolLM2-135M.

Run `python benchmarks/windows.py`, or with the numbers of the claims to run: `... windows.py 2 3`.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
from _measure import interleaved, ratio, run_claims

from transom import ContextWindowFactory, SlidingWindow

IDS = 10_000_000
SIZE, STRIDE = 512, 256
VOCABULARY = 49_152  # SmolLM2's, so that two bytes hold an id


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, count, dtype=np.int32)


def filled(count: int, vocab_size: int = VOCABULARY) -> SlidingWindow:
    window = SlidingWindow(SIZE, STRIDE, vocab_size=vocab_size)
    window.add_tokens(tokens(count))
    return window


def against_memcpy() -> dict[str, Any]:
    narrow, wide = filled(IDS), filled(IDS, 2**31)
    windows = len(narrow.get_windows())
    out, source = narrow.buffers(windows), narrow.batch(0, windows)
    small = narrow.buffers(64)

    def memcpy() -> None:
        for target, array in zip(out[:3], source[:3], strict=True):
            np.copyto(target, array)

    def in_batches_of_64() -> None:
        for at in range(0, windows, 64):
            narrow.batch(at, at + 64, out=small)

    steps = {
        "memcpy": memcpy,
        "from 2-byte ids": lambda: narrow.batch(0, windows, out=out),
        "from 4-byte ids": lambda: wide.batch(0, windows, out=out),
        "batches of 64, one buffer": in_batches_of_64,
    }
    seconds = interleaved(steps, 21, warm=3)
    size = sum(array.nbytes for array in out[:3])
    return {
        "claim": "bytes/s of all windows, over a memcpy of the output (goal >= 0.8)",
        "ratio": {name: ratio(seconds, "memcpy", name) for name in steps if name != "memcpy"},
        "gigabytes_per_second": {name: size / median(s) / 1e9 for name, s in seconds.items()},
        "output_bytes": size,
    }


class Tutorial:
    """What the tutorial has: lists, windows of tokens already covered, padding unmasked."""

    def __init__(self, window_size: int, stride: int) -> None:
        self.window_size = window_size
        self.stride = stride
        self.tokens: list[int] = []

    def get_windows(self) -> list[tuple[list[int], list[int]]]:
        windows = []
        for start in range(0, len(self.tokens), self.stride):
            ids = self.tokens[start : start + self.window_size]
            ids.extend([0] * (self.window_size - len(ids)))
            windows.append((ids, [1] * len(ids)))
        return windows


def against_the_tutorial() -> dict[str, Any]:
    window, tutorial = filled(IDS), Tutorial(SIZE, STRIDE)
    tutorial.tokens.extend(tokens(IDS).tolist())
    windows = len(window.get_windows())
    out = window.buffers(windows)

    def as_arrays() -> None:
        made = tutorial.get_windows()
        np.array([ids for ids, _ in made], dtype=np.int32)
        np.array([mask for _, mask in made], dtype=np.uint8)

    steps = {
        "transom": lambda: window.batch(0, windows, out=out),
        "tutorial, lists": tutorial.get_windows,
        "tutorial, arrays": as_arrays,
    }
    seconds = interleaved(steps, 5, warm=1)
    return {
        "claim": "the tutorial's plain lists over transom (goal >= 100)",
        "ratio": {name: ratio(seconds, name, "transom") for name in steps if name != "transom"},
        "seconds": {name: median(times) for name, times in seconds.items()},
    }


def against_datasets() -> dict[str, Any]:
    import datasets

    count = 1_000_000
    datasets.disable_caching()
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"input_ids": tokens(count).reshape(100, -1).tolist()})
    documents = tokens(count).reshape(100, -1)
    window = SlidingWindow(SIZE, STRIDE, vocab_size=VOCABULARY)
    for document in documents:
        window.add_tokens(document, documents=[len(document)])
    windows = len(window.get_windows())
    out = window.buffers(windows)

    def strided(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids, masks = [], []
        for row in rows["input_ids"]:
            for start in range(0, max(1, len(row) - SIZE + STRIDE), STRIDE):
                piece = row[start : start + SIZE]
                pad = SIZE - len(piece)
                ids.append(piece + [0] * pad)
                masks.append([1] * len(piece) + [0] * pad)
        return {"input_ids": ids, "attention_mask": masks}

    def mapped() -> Any:
        return data.map(strided, batched=True, batch_size=10, keep_in_memory=True)

    assert len(mapped()) == windows
    steps = {
        "transom": lambda: window.batch(0, windows, out=out),
        "datasets.map": mapped,
    }
    seconds = interleaved(steps, 5, warm=1)
    return {
        "claim": "datasets.map with strided lists over transom (goal >= 50)",
        "ratio": ratio(seconds, "datasets.map", "transom"),
        "seconds": {name: median(times) for name, times in seconds.items()},
    }


def adding() -> dict[str, Any]:
    ids = tokens(16)
    result: dict[str, Any] = {
        "claim": "adding 16 tokens at 10 million seen over at 1,000 seen (goal <= 1.1)"
    }
    for name in ContextWindowFactory.known():
        early, late = (
            ContextWindowFactory.create_window(name, vocab_size=VOCABULARY) for _ in range(2)
        )
        early.add_tokens(tokens(1000))
        late.add_tokens(tokens(IDS))

        def add(window: Any) -> None:
            for _ in range(20):
                window.add_tokens(ids)

        # Rounds enough for every buffer to be made anew several times.
        steps = {"10M": lambda w=late: add(w), "1k": lambda w=early: add(w)}
        seconds = interleaved(steps, 400, warm=20)
        totals = {step: sum(times) / len(times) / 20 for step, times in seconds.items()}
        result[name] = {
            "ratio": ratio(seconds, "10M", "1k"),
            "ratio_of_means": totals["10M"] / totals["1k"],
            "microseconds": {step: 1e6 * mean for step, mean in totals.items()},
        }
    return result


def perplexity(tokens: int = 4096) -> dict[str, Any]:
    import torch

    from transom import Context, models
    from transom.cli.demo import reference

    model, tokenizer, _ = models.load("smollm2", report=print)
    ids = torch.tensor(tokenizer(reference(), verbose=False).input_ids[:tokens])

    def documented(stride: int) -> tuple[float, int]:
        total, counted, before = 0.0, 0, 0
        for start in range(0, tokens, stride):
            stop = min(start + SIZE, tokens)
            labels = ids[None, start:stop].clone()
            labels[:, : -(stop - before)] = -100
            with torch.no_grad():
                loss = float(model(ids[None, start:stop], labels=labels).loss)
            weight = int((labels != -100).sum()) - 1  # for the shift, which most do not need
            total, counted, before = total + loss * weight, counted + weight, stop
            if stop == tokens:
                break
        return total / counted, counted

    result: dict[str, Any] = {"claim": f"mean loss by windows of {SIZE} over {tokens} tokens"}
    for stride in (512, 256, 64):
        losses = Context(model, tokenizer).score(ids, window=SlidingWindow(SIZE, stride))
        mean, counted = documented(stride)
        result[f"stride {stride}"] = {
            "transom": float(np.nanmean(losses)),
            "documented": mean,
            "tokens counted": {"transom": int((~np.isnan(losses)).sum()), "documented": counted},
        }
    return result


CLAIMS = (against_memcpy, against_the_tutorial, against_datasets, adding, perplexity)

if __name__ == "__main__":
    run_claims("windows", CLAIMS)
