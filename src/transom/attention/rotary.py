"""Rotary positions: rotates keys and queries by any number of positions, at any time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from transom.attention.rope_type import rope_type
from transom.attention.trial import MIDDLE, NEAR, ModelTrial, TrialLayer, trial
from transom.errors import UnsupportedModelError

__all__ = ["Rotary", "rotary_of"]


@dataclass(frozen=True)
class Rotary:
    """How a model rotates its keys and queries by their position.

    Rotating by `a` and then by `b` equals rotating by `a + b`. So a key from position 7 moves to
    position 100 by a rotation by 93; it need not be rotated back first.

    Attributes:
        inv_freq: `(rotary_dim / 2,)` float64, radians per position of each pair of dimensions.
            Float64, because a float32 angle is off by 0.06 rad at a million tokens.
        interleaved: pairs are `(0, 1), (2, 3), ...` rather than `(0, n/2), (1, n/2 + 1), ...`.
        query_start: the first dimension of a query that is rotated. Latent attention caches the
            rotated part of a key apart, and a query has it behind the others.

    Dimensions past `rotary_dim` are not rotated (partial rotary).

    Source: RoFormer, https://arxiv.org/abs/2104.09864.
    """

    inv_freq: Tensor
    interleaved: bool = False
    query_start: int = 0

    @property
    def dim(self) -> int:
        """How many dimensions of a key are rotated, from the first."""
        return 2 * self.inv_freq.numel()

    def same(self, other: Rotary) -> bool:
        """Whether the other rotates keys and queries as this one does."""
        if (self.interleaved, self.query_start) != (other.interleaved, other.query_start):
            return False
        return torch.equal(self.inv_freq, other.inv_freq)

    def angles(self, by: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of a rotation by `by`, `(*by.shape, rotary_dim)` float32 each."""
        theta = by.to(torch.float64)[..., None] * self.inv_freq.to(by.device)
        pairs = (
            theta.repeat_interleave(2, -1) if self.interleaved else torch.cat((theta, theta), -1)
        )
        return pairs.cos().float(), pairs.sin().float()

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x`, `(..., head_dim)`, rotated by these angles; computed in float32, dtype kept."""
        pairs = x[..., : self.dim].float()
        rotated = (pairs * cos + self._quarter(pairs) * sin).to(x.dtype)
        if self.dim == x.shape[-1]:
            return rotated
        rest = x[..., self.dim :].expand(*rotated.shape[:-1], -1)
        return torch.cat((rotated, rest), dim=-1)

    def rotate_queries(self, q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries, `(..., head_dim)`, rotated by these angles; computed in float32, dtype kept."""
        if not self.query_start:
            return self.rotate(q, cos, sin)
        rotated = self.rotate(q[..., self.query_start :], cos, sin)
        still = q[..., : self.query_start].expand(*rotated.shape[:-1], -1)
        return torch.cat((still, rotated), dim=-1)

    def matrix(self, by: Tensor, head_dim: int) -> Tensor:
        """`(*by.shape, head_dim, head_dim)` float32: `x @ matrix` is `x` rotated by `by`."""
        identity = torch.eye(head_dim, dtype=torch.float32, device=by.device)
        cos, sin = self.angles(by)
        return self.rotate(identity, cos[..., None, :], sin[..., None, :])

    def cis(self, by: Tensor) -> Tensor:
        """A rotation by `by` in complex numbers, `(*by.shape, rotary_dim / 2)` complex64."""
        theta = by.to(torch.float64)[..., None] * self.inv_freq.to(by.device)
        return torch.polar(torch.ones_like(theta), theta).to(torch.complex64)

    def paired(self, x: Tensor) -> Tensor:
        """`x` with the two dimensions of each pair next to each other, as `rotate_paired` takes it.

        The product of two vectors does not depend on the order of their dimensions. So attention is
        the same when keys and queries are both paired.
        """
        if self.interleaved:
            return x
        pairs = x[..., : self.dim].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        return pairs if self.dim == x.shape[-1] else torch.cat((pairs, x[..., self.dim :]), -1)

    def unpaired(self, x: Tensor) -> Tensor:
        """`x` from `paired`, with its dimensions in the model's order again."""
        if self.interleaved:
            return x
        halves = x[..., : self.dim].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return halves if self.dim == x.shape[-1] else torch.cat((halves, x[..., self.dim :]), -1)

    def rotate_paired(self, x: Tensor, cis: Tensor) -> Tensor:
        """`x`, `(..., head_dim)` from `paired`, rotated by `cis`; float32. Shapes broadcast.

        This is one complex product, five times as fast as `rotate`.
        """
        pairs = torch.view_as_complex(x[..., : self.dim].float().unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * cis).flatten(-2)
        if self.dim == x.shape[-1]:
            return rotated
        rest = x[..., self.dim :].float().expand(*rotated.shape[:-1], -1)
        return torch.cat((rotated, rest), dim=-1)

    def _quarter(self, x: Tensor) -> Tensor:
        """`x` with each pair rotated by 90 degrees."""
        if self.interleaved:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Rotary:
        """The rotary positions of a transformers model, found by running the model's own code.

        The model is run once without weights; see `trial`. If some layers slide and others attend
        to the whole text, these are the rotary positions of the others.

        Raises:
            UnsupportedModelError: when positions are not rotary, when the frequencies depend on
                the length of the text, or when the model rotates keys in a way not known here.
        """
        made = trial(config)
        whole = [
            index
            for index, layer in made.layers.items()
            if not any("sliding_window" in call.given for call in layer.calls)
        ]
        found = rotary_of(made, whole or list(made.layers))
        rotary = next((one for one in found.values() if one is not None), None)
        if rotary is None:
            raise UnsupportedModelError(
                f"{config.model_type} has no rotary positions; expected a model with them."
            )
        return rotary

    @classmethod
    def of_keys(cls, keys: Tensor, positions: Tensor, frequencies: list[Tensor]) -> Rotary | None:
        """How one key was rotated to several positions; None if not by any of these frequencies.

        Args:
            keys: `(positions, heads, head_dim)` float32, the key at each position.
            positions: `(positions,)`.
            frequencies: each a tensor of radians per position of each pair, of either sign. The
                one that fits best is chosen.
        """
        tolerance = 1e-4 * float(keys.abs().max())
        by, best = (positions - positions[0])[:, None], None
        for inv_freq in frequencies:
            if 2 * len(inv_freq) > keys.shape[-1] or not len(inv_freq):
                continue
            for interleaved, sign in product((False, True), (1, -1)):
                rotary = cls(sign * inv_freq, interleaved)
                off = float((rotary.rotate(keys[0], *rotary.angles(by)) - keys).abs().max())
                if off < tolerance:
                    best, tolerance = rotary, off
        return best


def rotary_of(
    made: ModelTrial, layers: Iterable[int], any_length: bool = False
) -> dict[int, Rotary | None]:
    """How each of the given layers of a cache rotates its keys; None for one that does not.

    Args:
        made: what the model did.
        layers: by their index in the cache.
        any_length: how it does in a short text will do; for long ones see `rotary_by_length`.

    Raises:
        UnsupportedModelError: when a layer's keys depend on positions in another way, or two layers
            rotate differently.
    """
    kind = made.config.model_type
    if made.failure is not None:
        raise UnsupportedModelError(
            f"{kind} cannot be run without weights to see how it rotates its keys "
            f"({made.failure}). Use a config that transformers can run."
        )
    with torch.inference_mode(False), torch.no_grad():  # these are used in every mode
        found = {at: _rotary_of(made, made.layers[at], any_length) for at in layers}
    rotating = [rotary for rotary in found.values() if rotary is not None]
    for rotary in rotating[1:]:
        if not rotary.same(rotating[0]):
            raise UnsupportedModelError(
                f"{kind} rotates its keys differently in different layers, and one policy would "
                "apply to all of them; this is not supported yet. Use the policy 'full'."
            )
    return found


def _rotary_of(made: ModelTrial, layer: TrialLayer, any_length: bool) -> Rotary | None:
    kind, keys = made.config.model_type, layer.keys
    if not layer.latent and not all(call.repeated for call in layer.calls):
        raise UnsupportedModelError(
            f"{kind} attends to keys that it computes from those in its cache in a way that is "
            "not known here, which is not supported under a bounded policy. Use the policy 'full'."
        )
    close = 1e-4 * float(keys.abs().max())
    still = len(keys) == len(NEAR) and float((keys - keys[0]).abs().max()) <= close
    rotated = None if still else _rotated(made, layer)
    if not (still or rotated or made.frequencies):
        if layer.level and layer.far is not None:
            raise UnsupportedModelError(
                f"{kind} rotates its keys by frequencies that it keeps nowhere; expected them as a "
                "1-D tensor in one of its modules, such as inv_freq. Use the policy 'full'."
            )
        raise UnsupportedModelError(
            f"{kind} has no rotary positions (but learned absolute positions or ALiBi, say); a "
            "bounded policy needs keys that can be moved to another position. Use the policy "
            "'full', or a model with rotary positions."
        )
    if not (still or rotated):
        raise UnsupportedModelError(
            f"{kind} rotates its keys neither by halves nor by neighbouring pairs, or changes them "
            "once they are rotated (by a norm with weights, say), so they cannot be moved to "
            "another position. Use the policy 'full'."
        )
    if layer.far is None:
        raise UnsupportedModelError(
            f"{kind} looks its positions up in a table that ends, but a bounded policy must work "
            "for any number of tokens. Use the policy 'full'."
        )
    if layer.depends_on_length and not any_length:
        raise UnsupportedModelError(
            f"{kind} has rotary frequencies that depend on the largest position so far "
            f"({rope_type(made.config)!r} in rope_parameters), so no constant ones can be given. "
            "Load the model with other rope_parameters."
        )
    if (
        layer.middle is not None
        and not layer.depends_on_length
        and float((layer.middle - _at(MIDDLE, keys, rotated)).abs().max()) > 10 * close
    ):
        raise UnsupportedModelError(
            f"{kind} rotates its keys at position {MIDDLE} otherwise than at the first positions "
            "(positions may be clipped or shared), which is not supported under a bounded "
            "policy. Use the policy 'full'."
        )
    if not layer.steady:
        raise UnsupportedModelError(
            f"{kind} not only rotates and scales its queries but changes them in another way with "
            "the number of tokens in the cache, which is not supported with compact positions. "
            "Use the policy 'full'."
        )
    if rotated is None:
        return None
    rotary = replace(rotated, query_start=layer.query_start)
    if not _rotates_queries(rotary, layer.queries):
        raise UnsupportedModelError(
            f"{kind} does not rotate its queries as its keys, or changes them once they are "
            "rotated (by a weight for each dimension, say), so they cannot meet keys at another "
            "position. Use the policy 'full'."
        )
    return rotary


def _rotates_queries(rotary: Rotary, queries: Tensor | None) -> bool:
    """Whether the queries at `NEAR` are one query rotated, but for their size."""
    if queries is None or len(queries) != len(NEAR):
        return True
    angles = rotary.angles(torch.tensor(NEAR, device="cpu")[:, None] - NEAR[0])
    expected = rotary.rotate_queries(queries[0], *angles)
    found, expected = (F.normalize(each, dim=-1) for each in (queries, expected))
    return torch.allclose(found, expected, rtol=0, atol=1e-3)


def _at(position: int, keys: Tensor, rotary: Rotary | None) -> Tensor:
    """The first of `keys`, which is at the first position of `NEAR`, moved to another position."""
    if rotary is None:
        return keys[0]
    return rotary.rotate(keys[0], *rotary.angles(torch.tensor(position - NEAR[0], device="cpu")))


@lru_cache(maxsize=4096)
def _rotated(made: ModelTrial, layer: TrialLayer) -> Rotary | None:
    """How the keys at `NEAR` are rotated; None if they are not, by any of the frequencies."""
    if len(layer.keys) != len(NEAR):
        return None
    return Rotary.of_keys(layer.keys, torch.tensor(NEAR, device="cpu"), made.frequencies)
