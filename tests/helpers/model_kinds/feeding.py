"""Ways in which texts reach a cache, each with the logits of its own reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from transom.attention.versions import cache_argument

__all__ = ["IN_STEPS", "LENGTH", "WAYS", "Fed", "texts", "whole"]

LENGTH = 43  # of a text; no dimension of a small model is as large
STEPS = 30
PADDING = 9
LAST = 7  # tokens in which the first and the last text differ

Fed = list[tuple[Tensor, int]]  # logits, `(tokens, vocabulary)`, and of which text they are
Way = Callable[[Any, Any, Tensor], Fed]


def texts(length: int = LENGTH) -> Tensor:
    """Three texts, `(3, length)`; the first and the last begin alike."""
    ids = torch.randint(3, 97, (3, length), generator=torch.Generator().manual_seed(1))
    ids[2, :-LAST] = ids[0, :-LAST]
    return ids


def one_prompt(model: Any, cache: Any, ids: Tensor) -> Fed:
    return _in_pieces(model, cache, ids, [ids.shape[1]])


def chunks(model: Any, cache: Any, ids: Tensor) -> Fed:
    return _in_pieces(model, cache, ids, [20, 1, 1, ids.shape[1] - 22])


def steps(model: Any, cache: Any, ids: Tensor) -> Fed:
    """Steps from the first token on until others have left; the last ones of a longer text."""
    begun = 0 if ids.shape[1] == LENGTH else ids.shape[1] - STEPS
    sizes = [*[begun] * (begun > 0), *[1] * STEPS]
    return _in_pieces(model, cache, ids[:, : sum(sizes)], sizes)


def left_padded(model: Any, cache: Any, ids: Tensor) -> Fed:
    return _padded(model, cache, ids, [20, 1, 1, ids.shape[1] - 22])


def padded_steps(model: Any, cache: Any, ids: Tensor) -> Fed:
    return _padded(model, cache, ids, [ids.shape[1] - LAST, *[1] * LAST])


def _padded(model: Any, cache: Any, ids: Tensor, sizes: Sequence[int]) -> Fed:
    """The first text, and the second without its end and with padding before it."""
    padded = torch.cat((torch.zeros(1, PADDING, dtype=ids.dtype), ids[1:2, :-PADDING]), 1)
    mask = torch.ones(2, ids.shape[1], dtype=torch.long)
    mask[1, :PADDING] = 0
    logits = _feed(model, cache, torch.cat((ids[:1], padded)), sizes, mask)
    return [(logits[0], 0), (logits[1, PADDING:], 1)]


def beams(model: Any, cache: Any, ids: Tensor) -> Fed:
    """Two beams; both go on from the first in steps, one with the end of the last text."""
    common = ids.shape[1] - LAST
    begun = _feed(model, cache, ids[:2, :common], [common])
    cache.reorder_cache(torch.tensor([0, 0]))
    ended = _feed(model, cache, ids[[0, 2]][:, common:], [1] * LAST, seen=common)
    return [(torch.cat((begun[0], end)), row) for end, row in zip(ended, (0, 2), strict=True)]


# All give logits from the first token of a text on.
WAYS: dict[str, Way] = {
    "one prompt": one_prompt,
    "chunks": chunks,
    "single steps": steps,
    "left-padded chunks": left_padded,
    "beams": beams,
    "left-padded steps": padded_steps,
}
# What stands in for chunks with models that lose what came before a chunk (some linear layers).
IN_STEPS = {"chunks": "single steps", "left-padded chunks": "left-padded steps"}


def positions(model: Any, places: Tensor) -> dict[str, Any]:
    """Positions for a model that takes them, as `generate` gives them.

    Not every model counts right by itself when there is a cache, and some begin elsewhere.
    """
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return {"position_ids": places} if takes else {}


def whole(model: Any, ids: Tensor) -> Tensor:
    """Logits of `ids`, `(batch, length)`, in one pass without a cache."""
    places = torch.arange(ids.shape[1]).expand(len(ids), -1)
    with torch.no_grad():
        return model(ids, use_cache=False, **positions(model, places)).logits


def _in_pieces(model: Any, cache: Any, ids: Tensor, sizes: Sequence[int]) -> Fed:
    return [(_feed(model, cache, ids[:1], sizes)[0], 0)]


def _feed(
    model: Any,
    cache: Any,
    ids: Tensor,
    sizes: Sequence[int],
    mask: Tensor | None = None,
    seen: int = 0,
) -> Tensor:
    """Logits of `ids`, fed in pieces of these sizes to a cache that has `seen` tokens."""
    if mask is None:
        places = torch.arange(seen + ids.shape[1]).expand(len(ids), -1)
    else:
        places = (mask.cumsum(1) - 1).clamp(min=0)
    logits, start = [], 0
    for size in sizes:
        stop = start + size
        given = positions(model, places[:, seen + start : seen + stop])
        given |= {cache_argument(model): cache}
        if mask is not None:
            given["attention_mask"] = mask[:, : seen + stop]
        with torch.no_grad():
            logits.append(model(ids[:, start:stop], **given).logits)
        start = stop
    return torch.cat(logits, 1)
