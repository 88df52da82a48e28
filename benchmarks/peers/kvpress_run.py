"""What NVIDIA kvpress makes of prompts given as JSON; run with the python of its own environment.

kvpress compresses what the first forward pass left in the cache, and works with transformers 4.56
to 5.2 only, so it cannot share an environment with transom:

    python -m venv kvpress-env
    kvpress-env/bin/pip install "kvpress==0.5.5" "transformers==5.2.0" torch

`benchmarks/policies.py --kvpress kvpress-env/bin/python` calls this script with a file of tasks:
`model` (a folder), `dtype`, and `tasks`, each with a `name`, a `press`, the `budget`, the ids of a
`context` that is compressed to it, and those of a `continuation` that is fed afterwards, at the
positions where they would have been. Each answer is one line of JSON on standard output: the
`losses` of the continuation and whether each of its ids was the likeliest, from the second one on
(the first was predicted before anything was compressed).
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from kvpress import ExpectedAttentionPress, KnormPress, SnapKVPress, TOVAPress
from transformers import AutoModelForCausalLM, DynamicCache

PRESSES = {
    "snapkv": SnapKVPress,
    "key-norm": KnormPress,
    "tova": TOVAPress,
    "expected-attention": ExpectedAttentionPress,
}


@torch.no_grad()
def run(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Compress the context, then read the continuation with what is left."""
    context = torch.tensor([task["context"]])
    continuation = torch.tensor([task["continuation"]])
    length, start = context.shape[1], time.perf_counter()
    # Half a token more, because the number kept is rounded down.
    press = PRESSES[task["press"]](compression_ratio=1 - (task["budget"] + 0.5) / length)
    cache = DynamicCache()
    with press(model):
        model(context, past_key_values=cache, logits_to_keep=1)
    kept = cache.get_seq_length()
    places = torch.arange(length, length + continuation.shape[1])[None]
    logits = model(continuation, past_key_values=cache, position_ids=places).logits[0, :-1]
    answer = continuation[0, 1:]
    losses = torch.nn.functional.cross_entropy(logits.float(), answer, reduction="none")
    return {
        "name": task["name"],
        "kept": kept,
        "losses": losses.tolist(),
        "hits": (logits.argmax(-1) == answer).tolist(),
        "seconds": time.perf_counter() - start,
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch")},
    }


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        job = json.load(file)
    loaded = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    for each in job["tasks"]:
        print(json.dumps(run(loaded.eval(), each)), flush=True)
