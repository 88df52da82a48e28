"""The attention weights of one piece of block-sparse attention."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.kernels.pieces import Piece

__all__ = ["Apart", "Scratch", "gathered", "weights_of"]


class Apart(NamedTuple):
    """Keys besides those of a layout, with queries of their own, in the same softmax.

    They are the pinned keys of a bounded cache. For them, the queries are rotated otherwise than
    for the other keys.

    Attributes:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, keys, head_dim)`.
        v: `(batch, kv_heads, keys, value_dim)`.
        hidden: `(q_len, keys)` bool, true where a query does not see a key; None if every query
            sees every key.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    hidden: Tensor | None = None


class Scratch:
    """Scratch memory of one thread, used again for every piece."""

    def __init__(self) -> None:
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of that shape, with the dtype and device of `like`.

        It is valid until the same name is taken again.
        """
        size = math.prod(shape)
        taken = self._taken.get(name)
        if taken is None or taken.numel() < size:
            taken = self._taken[name] = like.new_empty(size)
        view: Tensor = taken[:size].view(shape)
        return view


def weights_of(
    piece: Piece, q: Tensor, k: Tensor, scale: float, scratch: Scratch, apart: Apart | None = None
) -> Tensor:
    """The attention weights of a piece, `(kv, group * queries, columns)`.

    The keys of `apart` are the first columns. The weights are in `scratch`.
    """
    source = piece.queries(q)
    kv, group, rows, dim = source.shape
    first = [] if apart is None else [apart.k[piece.row, piece.kv_heads]]
    packed = k.dtype != torch.float32
    keys = gathered([*first, *piece.keys(k)], "k", scratch, packed=packed)
    scores = scratch.take("scores", keys, kv, group * rows, keys.shape[1])
    by_query = scores.view(kv, group, rows, -1)
    queries = scratch.take("q", source, *source.shape)
    torch.mul(source, scale, out=queries)
    torch.bmm(queries.view(kv, group * rows, dim), keys.transpose(1, 2), out=scores)
    ahead = 0
    if apart is not None:
        # The product above met these keys with the wrong queries; overwrite its scores.
        ahead = first[0].shape[1]
        other = (piece.queries(apart.q) * scale).reshape(kv, group * rows, dim)
        right = torch.bmm(other, first[0].transpose(1, 2)).view(kv, group, rows, ahead)
        if apart.hidden is not None:
            right.masked_fill_(apart.hidden[slice(*piece.block.queries)], -math.inf)
        by_query[..., :ahead] = right
    for column, hidden in piece.block.hidden:
        by_query[..., ahead + column : ahead + column + hidden.shape[1]].masked_fill_(
            hidden, -math.inf
        )
    weights = scratch.take("weights", scores, *scores.shape)
    torch.softmax(scores, -1, out=weights)
    blind = piece.block.blind
    if blind is not None and apart is not None:
        if apart.hidden is None:
            blind = None
        else:
            blind = blind & apart.hidden[slice(*piece.block.queries)].all(1)
    if blind is not None:
        weights.view(by_query.shape).masked_fill_(blind[:, None], 0)
    return weights


def gathered(parts: list[Tensor], name: str, scratch: Scratch, packed: bool = False) -> Tensor:
    """Stretches of keys or values as one tensor, `(kv, columns, dim)`.

    Args:
        name: of the scratch memory to use.
        packed: copy even a single stretch. In half precision, `torch.bmm` with transposed keys
            makes such a copy itself, and is slower at it.
    """
    if len(parts) == 1 and not packed:
        return parts[0]
    shape = len(parts[0]), sum(part.shape[1] for part in parts), parts[0].shape[2]
    return torch.cat(parts, 1, out=scratch.take(name, parts[0], *shape))
