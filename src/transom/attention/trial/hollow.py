"""Models without weights that can be run: products with a weight get made-up numbers.

Building one takes hardly any memory, and a pass costs next to nothing at any size. What does not
depend on weights, such as positions, is as in the real model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["hollow_model", "rank_one"]

LARGE = 2**14  # numbers; a tensor of as many or more that a new model makes is a weight
FACTORIES: frozenset[object] = frozenset(
    {
        torch.empty,
        torch.zeros,
        torch.ones,
        torch.full,
        torch.rand,
        torch.randn,
        torch.normal,
        torch.randint,
    }
)


def hollow_model(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A float32 model in evaluation mode, whose large weights have a shape and no numbers.

    Small weights get random numbers. The state of torch's random generator does not change.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _Hollow():
        model: PreTrainedModel = kind(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if not weight.is_meta and weight.is_floating_point():
            # A new norm has ones everywhere, which would hide that it scales dimensions unequally.
            noise = torch.rand(weight.shape, generator=generator, dtype=torch.float32)
            weight.data = torch.nan_to_num(weight.data, 1.0, 1.0, 1.0) * (0.5 + noise)
    return model


@contextmanager
def rank_one() -> Iterator[None]:
    """While open, this thread can run hollow models; each time they get the same numbers."""
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), _RankOne():
        yield


class _Hollow(TorchFunctionMode):
    """While active, large new tensors have no storage: they are on the meta device."""

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            name = getattr(function, "__name__", "")
            if name.endswith("_") and not name.startswith("_"):  # filling it only takes time
                return args[0]
        if function in FACTORIES and kwargs.get("out") is None:
            shaped = function(*args, **{**kwargs, "device": "meta"})
            if isinstance(shaped, Tensor) and shaped.numel() >= LARGE:
                return shaped
        return function(*args, **kwargs)


class _RankOne(TorchFunctionMode):
    """While active, what is computed with weights without numbers gets numbers from the input.

    A product `x @ w` becomes `(x @ b) * a + c` with random vectors a, b and c. So equal tokens stay
    equal, and different tokens stay different.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(x.is_meta for x in tensors):
            return function(*args, **kwargs)
        if function == Tensor.device.__get__:  # a new object at each access, hence not `is`
            return torch.device("cpu")  # where the weights of a real model would be
        known = [x for x in tensors if not x.is_meta]
        if not known:
            return function(*args, **kwargs)
        if function is F.linear and not kwargs:
            x, weight = args[:2]
            if isinstance(x, Tensor) and isinstance(weight, Tensor) and not x.is_meta:
                return self._product([x], torch.Size((*x.shape[:-1], len(weight))))
        result = function(*tree_map(_shape_of, args), **tree_map(_shape_of, dict(kwargs)))
        if not isinstance(result, Tensor):
            return result
        if function is F.embedding:
            return self._rows(known[0], result.shape[-1])
        numbers = [x for x in known if x.is_floating_point()]
        return self._product(numbers, result.shape) if numbers else result

    def _rows(self, ids: Tensor, size: int) -> Tensor:
        """A different vector for each id, `(*ids.shape, size)`."""
        return self._draw(size) * (1 + 0.5 * torch.sin(ids.float()))[..., None]

    def _product(self, inputs: list[Tensor], shape: torch.Size) -> Tensor:
        """Numbers of this shape that follow from the inputs."""
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


def _shape_of(x: object) -> object:
    """A tensor's shape on the meta device; anything else as it is.

    In bfloat16, because some products take nothing else.
    """
    if not isinstance(x, Tensor):
        return x
    return x.to("meta", torch.bfloat16 if x.is_floating_point() else x.dtype)
