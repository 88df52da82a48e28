"""Whether a model's positions do anything but turn its queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from transom.attention.attending import Attending
from transom.attention.huggingface import PlannedOffset
from transom.attention.patterns import Pattern

__all__ = ["scales_by_position"]

FAR = 2**22  # a position at which any scale by position has grown
ALIKE = 0.02  # of a norm; in bfloat16 a turn changes it by less


def scales_by_position(model: Any) -> bool:
    """Whether queries or keys are larger at some positions than at others.

    So Llama 4 and Ministral 3 keep attention sharp in long texts. Then positions cannot start over,
    though a turn by all of them would. The model, which must run transom's attention, is run on
    one token, here and far away.
    """
    near, far = (_norms(model, position) for position in (0, FAR))
    return bool(((near - far).abs() > ALIKE * near).any())


@torch.no_grad()
def _norms(model: Any, position: int) -> Tensor:
    """The norms of one token's queries and keys in each layer, `(2 * layers,)`."""
    device = model.device
    watch = _Watch(config=model.config)
    model(
        input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device),
        position_ids=torch.full((1, 1), position, dtype=torch.int64, device=device),
        past_key_values=watch,
        use_cache=True,
    )
    return torch.stack(watch.met.norms)


class _Watch(DynamicCache):
    """A cache of which nothing is seen, as who attends only looks."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.met = _Norms()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        return length, PlannedOffset.of(offset, self)

    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None,
    ) -> Attending:
        return self.met


class _Norms(Attending):
    """Attends to nothing."""

    def __init__(self) -> None:
        self.norms: list[Tensor] = []

    @property
    def positions(self) -> Tensor:
        return torch.zeros(1, 1, dtype=torch.int64, device="cpu")

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float | None = None, layer: int = 0
    ) -> Tensor:
        self.norms += [x.float().norm() for x in (q, k)]
        return q.new_zeros(*q.shape[:3], v.shape[3])
