"""Reading on for ever costs the same per token, and the loss stays flat.

Four claims, measured on SmolLM2-135M in float32 over the Python documentation that CPython carries:

1. a step at token 50,000 takes as long as one at token 2,000, with the same bytes;
2. a step under `sinks:4,window=1020` against transformers' DynamicCache at 8,192 tokens, and
   against a step over an empty cache, which is what the weights alone cost;
3. a step against computing the whole window again for every token;
4. the loss of window, sinks and full attention along a text longer than the trained length.

Run `python benchmarks/stream.py`, or with the numbers of the claims to run: `... stream.py 2 3`.
"""

from __future__ import annotations

from collections.abc import Callable
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import numpy as np
import torch
from _measure import interleaved, ratio, run_claims
from transformers import DynamicCache

from transom import Context, models

POLICY = "sinks:4,window=1020"
WINDOW = 1024
ROUNDS = 60

loaded = models.load("smollm2", report=print)
MODEL, TOKENIZER = loaded.model, loaded.tokenizer
TEXT = "\n\n".join(f"{name}\n{topics[name]}" for name in sorted(topics))
IDS = torch.tensor(TOKENIZER(TEXT, verbose=False).input_ids)


def reader(tokens: int, policy: str = POLICY) -> Context:
    context = Context(MODEL, TOKENIZER, policy)
    context.append(IDS[:tokens])
    return context


def stepper(context: Context) -> Callable[[], object]:
    """Feeds the context one token of the text per call."""
    return lambda: context.append(IDS[context.usage.seen :][:1])


def stock(tokens: int) -> Callable[[], object]:
    """The same with transformers' own cache and attention."""
    cache = DynamicCache(config=MODEL.config)

    def feed(count: int) -> None:
        start = cache.get_seq_length()
        with torch.no_grad():
            MODEL(IDS[None, start : start + count], past_key_values=cache, logits_to_keep=1)

    def step() -> None:
        ours, MODEL.config._attn_implementation = MODEL.config._attn_implementation, "sdpa"
        feed(1)
        MODEL.config._attn_implementation = ours

    while cache.get_seq_length() < tokens:
        feed(min(512, tokens - cache.get_seq_length()))
    return step


def recomputing(window: int) -> Callable[[], object]:
    """The next token's logits from the whole window, without a cache."""
    position = [5_000]

    def step() -> None:
        position[0] += 1
        ids = IDS[None, position[0] - window : position[0]]
        with torch.no_grad():
            MODEL(ids, use_cache=False, logits_to_keep=1)

    return step


def along_the_text() -> dict[str, Any]:
    early, late = reader(2_000), reader(50_000)
    seconds = interleaved({"2k": stepper(early), "50k": stepper(late)}, ROUNDS)
    return {
        "claim": "step at 50,000 tokens over step at 2,000 (goal <= 1.05)",
        "ratio": ratio(seconds, "50k", "2k"),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "kv_bytes": {"2k": early.usage.kv_bytes, "50k": late.usage.kv_bytes},
    }


def against_full() -> dict[str, Any]:
    seconds = interleaved(
        {"bounded": stepper(reader(2_000)), "empty": stock(0), "dynamic 8k": stock(8_192)}, ROUNDS
    )
    return {
        "claim": "bounded step over DynamicCache at 8,192 (goal <= 0.7), over empty (<= 1.15)",
        "over_dynamic_8k": ratio(seconds, "bounded", "dynamic 8k"),
        "over_empty": ratio(seconds, "bounded", "empty"),
        "seconds": {name: median(times) for name, times in seconds.items()},
    }


def against_recomputing() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "recomputing the window for every token over a streaming step (goal > 22.2)"
    }
    for window, rounds in ((WINDOW, 21), (4 * WINDOW, 5)):
        streaming = stepper(reader(5_000, f"sinks:4,window={window - 4}"))
        seconds = interleaved(
            {"streaming": streaming, "recomputing": recomputing(window)}, rounds, warm=2
        )
        result[f"window {window}"] = {
            "ratio": ratio(seconds, "recomputing", "streaming"),
            "seconds": {name: median(times) for name, times in seconds.items()},
        }
    return result


def losses(tokens: int = 12_500) -> dict[str, Any]:
    runs = {}
    for policy in (POLICY, f"window:{WINDOW}", "full"):
        loss = Context(MODEL, TOKENIZER, policy).score(IDS[:tokens])
        runs[policy] = {
            "overall": float(np.nanmean(loss)),
            "below 8,192": float(np.nanmean(loss[:8_192])),
            "past 8,192": float(loss[8_192:].mean()),
            "past 10,000": float(loss[10_000:].mean()),
        }
    return {"claim": f"loss in nats per token over {tokens} tokens", "runs": runs}


if __name__ == "__main__":
    run_claims("stream", (along_the_text, against_full, against_recomputing, losses))
