"""Sparse attention against dense: speed-up, and how near it comes to what its FLOPs allow.

9 query heads over 3 kv heads of 64 numbers, 16,384 tokens unless said otherwise, against PyTorch's
fused causal attention.

1. Patterns, forward: windows with sinks, BigBird, dilated; also through FlexAttention, and with
   dense causal attention by our own blocks as a second baseline.
2. Blocks chosen by content.
3. Forward and backward.
4. One query at 16,384 keys, against dense attention with the query heads of a group folded.
5. The most memory beyond inputs and output, against dense attention with a mask.

On AMD processors the fused kernel is no faster in bfloat16 than in float32 while a matrix product
is; the probe in the results says by how much on this machine.

Run `python benchmarks/attention.py`, or with the numbers of the claims to run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from _measure import interleaved, ratio, run_claims

from transom.attention.dispatch import attend
from transom.attention.patterns import (
    Pattern,
    causal,
    dilated,
    global_tokens,
    random_blocks,
    sinks,
    sliding,
)
from transom.attention.pruning import attend_blocks, choose_blocks, mass_kept

HEADS, KV_HEADS, DIM = 9, 3, 64
LONG = 16_384
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BIGBIRD = causal() & (sliding(192) | global_tokens(128) | random_blocks(3, block=64))


def tensors(length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    return [torch.randn(1, count, length, DIM).to(dtype) for count in heads]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def efficiency(speedup: float, pattern: Pattern, length: int) -> float:
    """Speed-up times the fraction of causal pairs that is visible: 1 is all that FLOPs allow."""
    return speedup * pattern.pairs(length) / causal().pairs(length)


def probe(dtype: torch.dtype) -> float:
    """How much faster a plain product of score size is than the fused kernel, per FLOP."""
    q, k, v = tensors(2048, dtype)
    a, b = q[0, :3], k[0].transpose(1, 2)
    seconds = interleaved({"fused": lambda: dense(q, k, v), "bmm": lambda: torch.bmm(a, b)}, 15)
    # The fused kernel: two products of half the pairs, in 9 heads; bmm: one of all, in 3.
    return ratio(seconds, "fused", "bmm") / 3


@torch.inference_mode()
def forward() -> dict[str, Any]:
    result: dict[str, Any] = {"claim": "dense causal attention over sparse, forward"}
    cases = [
        ("sliding 512 + 4 sinks", sliding(512) | sinks(4), LONG),
        ("sliding 1024", sliding(1024), LONG),
        ("BigBird, blocks of 64: w3 g2 r3", BIGBIRD, LONG),
        ("dilated 256 of every 4th", dilated(256, 4), LONG),
        ("sliding 512 at 4,096", sliding(512), 4096),
    ]
    for name, dtype in DTYPES.items():
        result[f"{name}: bmm over fused, per FLOP"] = probe(dtype)
        for case, pattern, length in cases:
            q, k, v = tensors(length, dtype)
            steps: dict[str, Callable[[], object]] = {
                "dense": lambda: dense(q, k, v),  # noqa: B023
                "transom": lambda: attend(q, k, v, pattern),  # noqa: B023
                "own dense": lambda: attend(q, k, v, causal(), kernel="block_sparse"),  # noqa: B023
            }
            if case == "sliding 512 + 4 sinks":
                steps["flex"] = lambda: attend(q, k, v, pattern, kernel="flex")  # noqa: B023
            seconds = interleaved(steps, 3 if length == LONG else 9, warm=1)
            speedup = ratio(seconds, "dense", "transom")
            result[f"{name}, {case}"] = {
                "speed-up": speedup,
                "efficiency": efficiency(speedup, pattern, length),
                "over our own dense": ratio(seconds, "own dense", "transom"),
                "our own dense over fused": ratio(seconds, "dense", "own dense"),
                **({"over flex": ratio(seconds, "flex", "transom")} if "flex" in steps else {}),
                "seconds": {step: median(times) for step, times in seconds.items()},
            }
    return result


@torch.inference_mode()
def pruned() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "dense causal attention over the best 16 blocks of 64, choosing included"
    }
    for name, dtype in DTYPES.items():
        q, k, v = tensors(LONG, dtype)
        seconds = interleaved(
            {
                "dense": lambda: dense(q, k, v),  # noqa: B023
                "transom": lambda: attend_blocks(q, k, v, choose_blocks(q, k)),  # noqa: B023
            },
            5,
            warm=1,
        )
        result[name] = {
            "speed-up": ratio(seconds, "dense", "transom"),
            "attention kept, of random keys": mass_kept(q, k, choose_blocks(q, k)),
            "seconds": {step: median(times) for step, times in seconds.items()},
        }
    return result


def training() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "dense causal attention over sliding 1024, forward and backward"
    }
    for name, dtype in DTYPES.items():
        inputs = [x.requires_grad_() for x in tensors(LONG, dtype)]
        gradient = torch.randn(1, HEADS, LONG, DIM).to(dtype)

        def both(compute: Callable[..., torch.Tensor]) -> Callable[[], object]:
            return lambda: torch.autograd.grad(compute(*inputs), inputs, gradient)  # noqa: B023

        seconds = interleaved(
            {"dense": both(dense), "transom": both(lambda *x: attend(*x, sliding(1024)))}, 3, warm=1
        )
        result[name] = {
            "speed-up": ratio(seconds, "dense", "transom"),
            "seconds": {step: median(times) for step, times in seconds.items()},
        }
    return result


@torch.inference_mode()
def decoding() -> dict[str, Any]:
    result: dict[str, Any] = {
        "claim": "one query: dense attention, query heads of a group folded, over sparse"
    }
    for name, dtype in DTYPES.items():
        q, k, v = tensors(LONG, dtype)
        q = q[:, :, -1:]
        folded = q.view(1, KV_HEADS, HEADS // KV_HEADS, DIM)
        for case, pattern in (
            ("sliding 512 + 4 sinks", sliding(512) | sinks(4)),
            ("sliding 1024", sliding(1024)),
        ):
            seconds = interleaved(
                {
                    "dense": lambda: F.scaled_dot_product_attention(folded, k, v),  # noqa: B023
                    "transom": lambda: attend(q, k, v, pattern),  # noqa: B023
                },
                300,
                warm=20,
            )
            result[f"{name}, {case}"] = {
                "speed-up": ratio(seconds, "dense", "transom"),
                "microseconds": {step: 1e6 * median(times) for step, times in seconds.items()},
            }
    return result


MEMORY = """
import torch
from transom.attention.dispatch import attend
from transom.attention.patterns import sinks, sliding
from transom.evaluate.rss import peak_rss, reset_peak_rss
q, k, v = (torch.randn(1, h, {length}, 64) for h in (9, 3, 3))
pattern = sliding(512) | sinks(4)
with torch.inference_mode():
    attend(q[:, :, :512], k[:, :, :512], v[:, :, :512], pattern)
    reset_peak_rss()
    before = peak_rss()
    if {sparse}:
        out = attend(q, k, v, pattern)
    else:
        mask = pattern.mask({length})
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, enable_gqa=True
        )
    print(peak_rss() - before - out.nbytes)
"""


def memory() -> dict[str, Any]:
    def peak(sparse: bool) -> int:
        """Of a process that does nothing else; the planning of the pattern is counted."""
        code = MEMORY.format(length=LONG, sparse=sparse)
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return int(ran.stdout)

    return {
        "claim": "most bytes beyond inputs and output at 16,384 tokens (goal <= 32 MB)",
        "sliding 512 + 4 sinks": peak(sparse=True),
        "dense with a mask": peak(sparse=False),
    }


if __name__ == "__main__":
    run_claims("attention", (forward, pruned, training, decoding, memory))
