"""What a cache holds, as named tensors for a file, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from transom.errors import StateError
from transom.kv.cache_layer import CacheLayer
from transom.kv.native_layers import NativeLayer, restore_native, tensors_of
from transom.kv.planner import AnyPlanner

__all__ = ["load_state", "state_of"]

LAYER = "layers."  # how the names of a layer's tensors start


def state_of(layers: Sequence[CacheLayer | NativeLayer], planner: AnyPlanner) -> dict[str, Tensor]:
    """All that layers and planner hold, as tensors; not copied.

    Raises:
        UnsupportedModelError: when a layer of the model's own holds what cannot be saved.
    """
    state = {
        "seen": torch.tensor(planner.seen, device="cpu"),
        "base": torch.tensor(planner.base, device="cpu"),
        "lengths": torch.tensor(planner.lengths, dtype=torch.int64, device="cpu"),
        **({} if planner.real is None else {"real": planner.real}),
        "made_for": torch.tensor(list(_made_for(planner)), dtype=torch.uint8, device="cpu"),
    }
    for index, layer in enumerate(layers):
        held = layer.state if isinstance(layer, CacheLayer) else tensors_of(layer)
        state |= {f"{LAYER}{index}.{name}": tensor for name, tensor in held.items()}
    return state


def load_state(
    layers: Sequence[CacheLayer | NativeLayer],
    planner: AnyPlanner,
    state: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Give layers and planner what `state_of` found in others; takes the tensors over.

    Raises:
        StateError: when the others had another policy, other positions or more layers. Nothing is
            changed then.
    """
    saved, here = bytes(state["made_for"].tolist()), _made_for(planner)
    if saved != here:
        raise StateError(
            f"the state was saved under {saved.decode()} and this cache has {here.decode()}; "
            "expected the same policy and positions."
        )
    by_layer: list[dict[str, Tensor]] = [{} for _ in layers]
    for name, tensor in state.items():
        if name.startswith(LAYER):
            _, index, own = name.split(".", 2)
            if int(index) >= len(layers):
                raise StateError(
                    f"the state has a layer {index} and this cache {len(layers)} layers; "
                    "expected one of the same model."
                )
            by_layer[int(index)][own] = tensor
    for layer, held in zip(layers, by_layer, strict=True):
        if isinstance(layer, CacheLayer):
            layer.restore(held, device)
        else:
            restore_native(layer, held, device)
    planner.clear()
    planner.seen, planner.base = int(state["seen"]), int(state["base"])
    planner.lengths = state["lengths"].tolist()
    planner.real = state["real"].cpu() if "real" in state else None


def _made_for(planner: AnyPlanner) -> bytes:
    return f"{planner.policy} with {planner.positions} positions".encode()
