"""The slowest reference of a policy by position: a model of one layer, fed what a query may see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transom.policies import Positional


@torch.no_grad()
def logits_by_subsequence(model: Any, ids: Tensor, policy: Positional) -> Tensor:
    """Logits of one row of `ids`, `(1, tokens, vocabulary)`, with compact positions.

    The states of a model with one layer depend on no other token before they attend. So the query
    of a token under a policy computes what the model computes for the last token of the text that
    is left when all tokens that the query may not see are taken out.
    """
    assert model.config.num_hidden_layers == 1
    positions = torch.arange(ids.shape[1])
    found = []
    for position in positions:
        seen = policy.visible(position, positions) & (positions <= position)
        found.append(model(ids[:, seen], use_cache=False).logits[:, -1:])
    return torch.cat(found, dim=1)
