"""A long prompt through a whole model, each token seeing 1,024: block-sparse against stock ways.

SmolLM2-135M in bfloat16, tokens at random, one forward pass.

1. A window of 1,024 through a bounded cache (in one pass and in chunks of 4,096) and through
   `use_pattern`, at 4,096 and 8,192 tokens, against transformers' `sdpa` (full causal attention)
   and against FlexAttention with the same window, compiled.
2. How the time grows from 8,192 to 32,768 tokens: 4 is linear.

Run `python benchmarks/prefill.py`, or with the numbers of the claims to run.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from _measure import interleaved, ratio, run_claims
from transformers import AttentionInterface, AttentionMaskInterface

from transom import BoundedCache, Window, models
from transom.attention.dispatch import attend
from transom.attention.huggingface import use_pattern
from transom.attention.patterns import sliding

WINDOW = 1024
CHUNK = 4096  # tokens per forward pass, where a prompt is fed in several
MODEL = models.load("smollm2", dtype="bfloat16", report=print).model
IDS = torch.randint(3, 49_000, (1, 32_768), generator=torch.Generator().manual_seed(0))


def _flex(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    out = attend(q, k, v, sliding(WINDOW), scale=kwargs.get("scaling"), kernel="flex")
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("flex-window", _flex)
AttentionMaskInterface.register("flex-window", lambda **kwargs: None)


def stock(tokens: int, attention: str = "sdpa") -> Callable[[], object]:
    def run() -> None:
        MODEL.config._attn_implementation = attention
        with torch.inference_mode():
            MODEL(IDS[:, :tokens], use_cache=False, logits_to_keep=1)

    return run


def patterned(tokens: int) -> Callable[[], object]:
    def run() -> None:
        MODEL.config._attn_implementation = "sdpa"
        with torch.inference_mode(), use_pattern(MODEL, sliding(WINDOW)):
            MODEL(IDS[:, :tokens], use_cache=False, logits_to_keep=1)

    return run


def bounded(tokens: int, chunk: int | None = None) -> Callable[[], object]:
    def run() -> None:
        MODEL.config._attn_implementation = "sdpa"
        cache = BoundedCache(Window(WINDOW), config=MODEL.config)
        with torch.inference_mode():
            for ids in IDS[:, :tokens].split(chunk or tokens, 1):
                MODEL(ids, past_key_values=cache, logits_to_keep=1)

    return run


def prefill() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "stock prefill over one with a window of 1,024 (goal 3.5 at 8,192, 2 at 4,096)"
    }
    for tokens in (4096, 8192):
        steps = {
            "sdpa": stock(tokens),
            "flex": stock(tokens, "flex-window"),
            "bounded cache": bounded(tokens),
            "in chunks": bounded(tokens, CHUNK),
            "pattern": patterned(tokens),
        }
        seconds = interleaved(steps, 3, warm=1)
        result[f"{tokens} tokens"] = {
            f"{slow} over {fast}": ratio(seconds, slow, fast)
            for slow in ("sdpa", "flex")
            for fast in ("bounded cache", "in chunks", "pattern")
        } | {"seconds": {step: median(times) for step, times in seconds.items()}}
    return result


def growth() -> dict[str, Any]:
    steps = {
        f"{tokens}{name}": bounded(tokens, chunk)
        for name, chunk in (("", None), (" in chunks", CHUNK))
        for tokens in (8192, 32_768)
    }
    seconds = interleaved(steps, 3, warm=0)
    return {
        "claim": "prefill of 32,768 tokens over one of 8,192, bounded cache (goal <= 4.4)",
        "in chunks": ratio(seconds, "32768 in chunks", "8192 in chunks"),
        "in one pass": ratio(seconds, "32768", "8192"),
        "seconds": {step: median(times) for step, times in seconds.items()},
    }


if __name__ == "__main__":
    run_claims("prefill", (prefill, growth))
