"""Models without weights that can be run: each matrix is one of rank one, made up where it is used.

Building one takes no memory to speak of, and a pass costs next to nothing at any size. What does
not depend on weights, such as positions, is as in the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["hollow_model", "rank_one"]

LARGE = 2**14  # numbers; what a model makes of as many, or more, is a weight
FACTORIES = {
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
    torch.normal,
    torch.randint,
}


def hollow_model(kind: Any, config: Any) -> Any:
    """A model in float32 whose large weights have shapes and no numbers; for evaluation.

    The random numbers of torch go on as if nothing had happened.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _Hollow():
        model = kind(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if not weight.is_meta and weight.is_floating_point():
            # Norms start as ones everywhere, which would hide that they stretch what they scale.
            noise = torch.rand(weight.shape, generator=generator, dtype=torch.float32)
            weight.data = torch.nan_to_num(weight.data, 1.0, 1.0, 1.0) * (0.5 + noise)
    return model


@contextmanager
def rank_one() -> Iterator[None]:
    """While open, this thread runs hollow models; the same numbers are made up each time."""
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), _RankOne():
        yield


class _Hollow(TorchFunctionMode):
    """Large tensors that are made without looking at others have no storage."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            name = getattr(function, "__name__", "")
            if name.endswith("_") and not name.startswith("_"):  # to fill it takes its time
                return args[0]
        if function in FACTORIES and kwargs.get("out") is None:
            shaped = function(*args, **{**kwargs, "device": "meta"})
            if shaped.numel() >= LARGE:
                return shaped
        return function(*args, **kwargs)


class _RankOne(TorchFunctionMode):
    """What is computed with weights that have no numbers gets numbers that follow from the input.

    A product `x @ w` becomes `(x @ b) * a + c` with random vectors a, b and c: equal tokens stay
    equal, and different ones differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(x.is_meta for x in tensors):
            return function(*args, **kwargs)
        if function == Tensor.device.__get__:  # made anew each time it is looked up
            return torch.device("cpu")  # where the weights would be
        known = [x for x in tensors if not x.is_meta]
        if not known:
            return function(*args, **kwargs)
        if function is F.linear and not kwargs and not args[0].is_meta:
            return self._product([args[0]], torch.Size((*args[0].shape[:-1], len(args[1]))))
        result = function(*tree_map(_shape_of, args), **tree_map(_shape_of, kwargs))
        if not isinstance(result, Tensor):
            return result
        if function is F.embedding:
            return self._rows(known[0], result.shape[-1])
        numbers = [x for x in known if x.is_floating_point()]
        return self._product(numbers, result.shape) if numbers else result

    def _rows(self, ids: Tensor, size: int) -> Tensor:
        """Another vector for each id."""
        return self._draw(size) * (1 + 0.5 * torch.sin(ids.float()))[..., None]

    def _product(self, inputs: list[Tensor], shape: torch.Size) -> Tensor:
        for x in inputs:
            if x.ndim and shape and x.shape[:-1] == shape[:-1]:
                along: Tensor = x.float() @ self._draw(x.shape[-1]) * x.shape[-1] ** -0.5
                return along[..., None] * self._draw(shape[-1]) + self._draw(shape[-1])
        mean = torch.stack([x.float().mean() for x in inputs]).sum()
        if not shape:
            return mean
        return (mean * self._draw(shape[-1]) + self._draw(shape[-1])).expand(shape).contiguous()

    def _draw(self, size: int) -> Tensor:
        return torch.randn(size, generator=self._generator, dtype=torch.float32)


def _shape_of(x: Any) -> Any:
    """The same without numbers; in bfloat16, since some products take nothing else."""
    if not isinstance(x, Tensor):
        return x
    return x.to("meta", torch.bfloat16 if x.is_floating_point() else x.dtype)
