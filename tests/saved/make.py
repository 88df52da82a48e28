"""Writes files of this release for later ones to open: `python -m tests.saved.make FOLDER`.

Run it at the commit of which the files are to be kept, and keep them in `tests/saved/DATE`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from transom import Context
from transom.corpus import TokenCorpus
from transom.memory import ContextMemoryManager

VOCABULARY = 97
STATES = {
    "full": "full",
    "sinks": "sinks:3,window=17",
    "int8": "sinks:3,window=97,kv=int8",
    "hierarchical": "hierarchical:8,global=12",
    "recall": "hierarchical:8,global=90,recall=blocks,block=4,blocks=2,chunk=2",
    "snapkv": "snapkv:20",
    "adaptive": "snapkv:20,heads=adaptive",
    "expected": "expected-attention:20",
}
READ = [(7 * i * i + 3 * i) % (VOCABULARY - 3) + 3 for i in range(130)]
MORE = [40, 50, 60]  # so few that rounding of scores does not yet decide which are kept
DOCUMENTS = [[3, 5, 8], [], [70_000, 1], list(range(300))]
CONTEXTS = {"a": range(600), "a/longer": [*range(512), *range(5, 400)], "b": [9] * 20}
STATE = bytes(range(256)) * 3


def model() -> Any:
    """A small model with the same weights on every machine: fractions of whole numbers."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    state = made.state_dict()
    for seed, (name, weight) in enumerate(state.items()):
        numbers = torch.arange(weight.numel()) * 7919 + 104_729 * (seed + 1)
        spread = (numbers * numbers % 1021).float() / 1024 - 0.5
        state[name] = torch.ones_like(weight) if "norm" in name else spread.view_as(weight)
    made.load_state_dict(state)
    return made


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    scores = {}
    for name, policy in STATES.items():
        context = Context(model(), policy=policy, chunk=32)
        context.append(READ)
        context.save(folder / f"{name}.state")
        scores[name] = context.score(MORE)
    np.savez(folder / "scores.npz", **scores)
    with TokenCorpus.create(folder / "corpus", vocab_size=80_000, shard_bytes=1024) as writer:
        for document in DOCUMENTS:
            writer.add_document(document)
    with ContextMemoryManager(2**22, disk=folder / "store", max_disk=2**20) as manager:
        for name, ids in CONTEXTS.items():
            manager.add_context(name, ids, namespace="tenant")
        manager.add_state("b", STATE, namespace="tenant")
        manager.remove_context("a", namespace="tenant")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
