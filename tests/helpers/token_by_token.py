"""Runs a model whose full-attention layers work row by row and token by token."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from tests.helpers.models import Rule, full_attention_is
from transom.attention.rotary import Rotary


class Stepper(Protocol):
    """One layer of one row."""

    def step(self, position: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token: `q` `(heads, dim)`, `k` and `v` `(kv_heads, dim)`, before rotary."""


@contextmanager
def token_by_token(model: Any, make: Callable[[int, Rotary | None, Rule], Stepper]) -> Any:
    """While open, `make(number among full layers, rotary, rule)` says what layers do.

    Gives out a list that will hold, for each row of the batch, the layers in order.
    """
    layers: list[list[Stepper]] = []

    def attend(q, k, v, mask, *, layer, rotary, rule):
        out = torch.zeros(*q.shape[:3], v.shape[3])
        for row in range(len(q)):
            if len(layers) <= row:
                layers.append([])
            stepper = make(layer, rotary, rule)
            layers[row].append(stepper)
            columns = range(q.shape[2]) if mask is None else mask[row].nonzero().flatten().tolist()
            for position, column in enumerate(columns):
                mine = [x[row, :, column] for x in (q, k)]
                if rotary is not None:
                    back = rotary.angles(torch.tensor(-position))
                    mine = [rotary.rotate(x, *back) for x in mine]
                out[row, :, column] = stepper.step(position, *mine, v[row, :, column])
        return out

    with full_attention_is(model, attend):
        yield layers


def logits_by(reference: Any, model: Any, ids: Any, policy: Any, mask: Any = None, **how: Any):
    """Logits of a reference, and its layers for each row."""
    places = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
    with reference(model, policy, **how) as layers, torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=places, use_cache=False).logits
    return logits, layers
