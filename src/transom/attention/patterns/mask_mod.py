"""Patterns from a `mask_mod`, the function of positions that FlexAttention takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from transom.attention.patterns.base import Pattern
from transom.attention.patterns.mask_function import Grid, Tiles
from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["MaskMod", "from_mask_mod"]

MaskMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
SHOWN = 64  # tokens in a sketch of a pattern that is made for any number


@dataclass(frozen=True)
class _MaskMod(Pattern):
    function: MaskMod
    rows: int | None
    query_heads: int | None
    tokens: int | None

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        # Positions before the text see nothing; the function gets none, as it may look them up.
        inside = (q >= 0) & (k >= 0)
        row = b if self.rows else torch.zeros_like(b)
        head = h if self.query_heads else torch.zeros_like(h)
        return self._asked((row, head, q.clamp(min=0), k.clamp(min=0))) & inside

    def tiles(self, grid: Grid) -> Tiles:
        if self.tokens is not None and int(grid.k_last.max()) >= self.tokens:
            raise InputError(
                f"{self!r} is made for {self.tokens} tokens and there are more than "
                f"{int(grid.k_last.max())}; give a larger length."
            )
        alone = (grid.q_first == grid.q_last) & (grid.k_first == grid.k_last)
        if not bool(alone.any()):  # and nothing is known of several positions together
            return Tiles(~alone, alone)
        seen = self.at(grid.q_first, grid.k_first)
        return Tiles(seen | ~alone, seen & alone)

    @property
    def batch(self) -> int | None:
        return self.rows

    @property
    def heads(self) -> int | None:
        return self.query_heads

    @property
    def limit(self) -> int | None:
        return self.tokens

    @property
    def scale(self) -> int:
        return self.tokens or SHOWN

    def __repr__(self) -> str:
        return f"from_mask_mod({self._name})"

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _asked(self, positions: Sequence[Tensor]) -> Tensor:
        try:
            seen = _elementwise(self.function, positions)
            problem = None if isinstance(seen, Tensor) else f"gave {type(seen).__name__}"
        except Exception as error:  # a function of the user's may raise anything
            raise self._unusable(f"raised {type(error).__name__}: {error}") from error
        if problem is None and seen.dtype != torch.bool:
            problem = f"gave {seen.dtype}"
        if problem is not None:
            raise self._unusable(problem)
        return seen

    def _unusable(self, problem: str) -> InputError:
        return InputError(
            f"from_mask_mod: {self._name} {problem}; expected a function (b, h, q_idx, kv_idx) of "
            "single positions that gives a bool tensor and does not branch on their values, as "
            "FlexAttention takes. If it looks positions up in a tensor, say with length= how many "
            "tokens that is made for, and with batch= and heads= how many rows and heads."
        )


@known_keywords
def from_mask_mod(
    mask_mod: MaskMod,
    *,
    batch: int | None = None,
    heads: int | None = None,
    length: int | None = None,
) -> Pattern:
    """The pattern of a FlexAttention `mask_mod`, a function `(b, h, q_idx, kv_idx)`.

    It is called as FlexAttention calls it: vectorized, so that it sees single positions. `q_idx`
    is a position in the text, also where the query follows what is in a cache. The answers for a
    size are kept, so tensors that the function looks into must not change.

    The function says nothing about many positions together, so for each new size it is asked about
    every pair, less those that other patterns decide: for `causal() & from_mask_mod(f)` about half
    of them.

    Two such patterns are equal if they are made of the same function. A function has no text, so
    `parse_pattern` cannot read one.

    Source: FlexAttention, https://arxiv.org/abs/2412.05496.

    Args:
        mask_mod: true where query `q_idx` may see key `kv_idx`.
        batch: rows of the batch, if it looks at `b`; otherwise that is 0.
        heads: query heads, if it looks at `h`; otherwise that is 0.
        length: how many tokens it is made for; by default any number.

    Raises:
        InputError: when it is no function, cannot be vectorized, or does not give bools.

    >>> from_mask_mod(lambda b, h, q_idx, kv_idx: kv_idx <= q_idx).mask(3)[0, 0].tolist()
    [[True, False, False], [True, True, False], [True, True, True]]
    """
    if not callable(mask_mod) or isinstance(mask_mod, Pattern):
        raise InputError(
            f"from_mask_mod: mask_mod is {mask_mod!r}; expected a function (b, h, q_idx, kv_idx)."
        )
    sizes = {"batch": batch, "heads": heads, "length": length}
    rows, query_heads, tokens = (
        None if size is None else whole_number("from_mask_mod", name, size, 1)
        for name, size in sizes.items()
    )
    made = _MaskMod(mask_mod, rows, query_heads, tokens)
    made.mask(min(2, tokens or 2), batch=rows or 1, heads=query_heads or 1)  # raises if unusable
    return made


def _elementwise(function: MaskMod, positions: Sequence[Tensor]) -> Tensor:
    """A function of scalars for tensors that broadcast, which are never written out at full size.

    It is mapped over one dimension after the other, over those tensors alone that have it.
    """
    shape = torch.broadcast_shapes(*(x.shape for x in positions))
    if 0 in shape:
        return torch.zeros(shape, dtype=torch.bool, device=positions[0].device)
    sizes = [(1,) * (len(shape) - x.ndim) + tuple(x.shape) for x in positions]
    mapped: Callable[..., Tensor] = function
    for dim in reversed(range(len(shape))):
        along = tuple(0 if size[dim] > 1 else None for size in sizes)
        if shape[dim] > 1:
            mapped = torch.vmap(mapped, in_dims=along)
    squeezed = [x.reshape([n for n in x.shape if n > 1]) for x in positions]
    seen = mapped(*squeezed)
    return seen.to(positions[0].device).reshape(shape) if isinstance(seen, Tensor) else seen
