"""The reference: each query alone with the tokens that it may see, through the model's own code.

Compact positions mean: a query and the tokens that it sees stand one after the other, as if nothing
had ever been between them. So for each query, the attention module of a layer is run on what came
to it for just these tokens, with the positions of a text of that length and without a cache. What
the last token gets is the answer. Nothing here knows how a module rotates, biases, caps or expands
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tests.helpers.model_kinds.feeding import whole
from transom.attention.versions import cache_argument

__all__ = ["attention_modules", "bounded_layers", "lone_logits"]

Visible = Callable[[int, int], bool]
CONTENT = ("hidden_states", "residual", "x")  # names of what belongs to a token, not to a position


def lone_logits(model: Any, ids: Tensor, visible: Visible, *, compact: bool = True) -> Tensor:
    """Logits of `ids`, `(batch, length)`, each query seeing the tokens that `visible` names.

    Args:
        model: with its own attention, `sdpa` or `eager`.
        visible: whether the token at one position may see that at another, at or before it.
        compact: seen tokens are at positions 0, 1, 2 …; otherwise at those that they have.
    """
    with _lone(model, visible, compact):
        return whole(model, ids)


def bounded_layers(config: Any) -> list[int]:
    """Layers that a policy applies to: those that attend to everything, or else all that slide."""
    layers = DynamicCache(config=config.get_text_config(decoder=True)).layers
    growing = {i: layer for i, layer in enumerate(layers) if isinstance(layer, DynamicLayer)}
    return [i for i, layer in growing.items() if not layer.is_sliding] or list(growing)


def attention_modules(model: Any, ids: Tensor) -> dict[int, nn.Module]:
    """The module that gives each layer of a cache its keys: the innermost one that was running."""
    running: list[nn.Module] = []
    found: dict[int, nn.Module] = {}

    class Watching(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kw: Any):
            found[layer_idx] = running[-1]
            return super().update(key_states, value_states, layer_idx, *args, **kw)

    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(lambda module, _: running.append(module)))
        hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad():
            cache = Watching(config=model.config.get_text_config(decoder=True))
            model(ids[:, :4], **{cache_argument(model): cache})
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _lone(model: Any, visible: Visible, compact: bool) -> Iterator[None]:
    chosen = _chosen(model)
    shared: dict[tuple[int, int], Any] = {}
    for module in chosen:
        module.forward = _LoneForward(module.forward, visible, compact, shared)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def _chosen(model: Any) -> list[nn.Module]:
    """The attention modules of bounded layers, and those that take over the keys of such layers."""
    found = attention_modules(model, torch.full((1, 4), 3))
    giving = [found[index] for index in bounded_layers(model.config) if index in found]
    alike = {(type(module), getattr(module, "layer_type", None)) for module in giving}
    taking = [
        module
        for module in model.modules()
        if getattr(module, "is_kv_shared_layer", False)
        and (type(module), getattr(module, "layer_type", None)) in alike
    ]
    return list(dict.fromkeys([*giving, *taking]))


class _LoneForward:
    """Stands in for the `forward` of one attention module."""

    def __init__(self, forward: Any, visible: Visible, compact: bool, shared: Any) -> None:
        self.forward, self.visible, self.compact, self.shared = forward, visible, compact, shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        length = hidden.shape[1]
        lone, output = [], None
        for query in range(length):
            seen = [key for key in range(query + 1) if self.visible(query, key)]
            places = list(range(len(seen))) if self.compact else seen
            cut = _Cut(hidden.shape, query, seen, places, self.shared)
            output = self.forward(
                *(cut("hidden_states" if n == 0 else "", x) for n, x in enumerate(args)),
                **{name: cut(name, value) for name, value in kwargs.items()},
            )
            lone.append((output if isinstance(output, Tensor) else output[0])[:, -1:])
        whole = torch.cat(lone, 1)
        if isinstance(output, Tensor):
            return whole
        return (whole, *[None] * (len(output) - 1))


class _Cut:
    """What a module is given, for the tokens that one query sees."""

    def __init__(self, shape: Any, query: int, seen: list[int], places: list[int], shared: Any):
        self.shape, self.query, self.shared = tuple(shape), query, shared
        self.seen, self.places = torch.tensor(seen), torch.tensor(places)

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            content = name in CONTENT or tuple(value.shape) == self.shape
            for dim, size in enumerate(value.shape):
                if size == self.shape[1]:
                    value = value.index_select(dim, self.seen if content else self.places)
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self("", x) for x in value)
        if isinstance(value, Mapping):  # where some layers leave keys for others
            found = self.shared.setdefault((id(value), self.query), (value, type(value)(value)))
            return found[1]  # beside the original, which thereby keeps its id
        return value
