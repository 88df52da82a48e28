"""Rotary positions: turning keys and queries by any number of positions after the fact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from transom.attention.trial import MIDDLE, NEAR, ModelTrial, TrialLayer, trial
from transom.errors import UnsupportedModelError

__all__ = ["Rotary", "rotary_of"]


@dataclass(frozen=True)
class Rotary:
    """How a model turns its keys and queries by their position.

    Turning by `a` and then by `b` equals turning by `a + b`, so a key that carries the angle of
    position 7 is moved to position 100 by turning it by 93; nothing needs to be turned back first.

    Attributes:
        inv_freq: `(rotary_dim / 2,)` float64, radians per position of each pair of dimensions.
            Float64 because an angle in float32 is off by 0.06 rad at a million tokens.
        interleaved: pairs are `(0, 1), (2, 3), ...` rather than `(0, n/2), (1, n/2 + 1), ...`.

    Dimensions past `rotary_dim` are left as they are (partial rotary).

    Source: RoFormer, https://arxiv.org/abs/2104.09864.
    """

    inv_freq: Tensor
    interleaved: bool = False

    @property
    def dim(self) -> int:
        """How many leading dimensions of a head are turned."""
        return 2 * self.inv_freq.numel()

    def angles(self, by: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of a turn by `by` positions, `(*by.shape, rotary_dim)` float32 each."""
        theta = by.to(torch.float64)[..., None] * self.inv_freq.to(by.device)
        pairs = (
            theta.repeat_interleave(2, -1) if self.interleaved else torch.cat((theta, theta), -1)
        )
        return pairs.cos().float(), pairs.sin().float()

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x`, `(..., head_dim)`, turned by the given angles; computed in float32, dtype kept."""
        pairs = x[..., : self.dim].float()
        rotated = (pairs * cos + self._quarter(pairs) * sin).to(x.dtype)
        if self.dim == x.shape[-1]:
            return rotated
        rest = x[..., self.dim :].expand(*rotated.shape[:-1], -1)
        return torch.cat((rotated, rest), dim=-1)

    def matrix(self, by: Tensor, head_dim: int) -> Tensor:
        """`(*by.shape, head_dim, head_dim)` float32: `x @ matrix` is `x` turned by `by`."""
        identity = torch.eye(head_dim, dtype=torch.float32, device=by.device)
        cos, sin = self.angles(by)
        return self.rotate(identity, cos[..., None, :], sin[..., None, :])

    def cis(self, by: Tensor) -> Tensor:
        """Turns by `by` positions as complex numbers, `(*by.shape, rotary_dim / 2)` complex64."""
        theta = by.to(torch.float64)[..., None] * self.inv_freq.to(by.device)
        return torch.polar(torch.ones_like(theta), theta).to(torch.complex64)

    def paired(self, x: Tensor) -> Tensor:
        """`x` with the two dimensions of each pair beside each other, as `rotate_paired` takes it.

        A product of two vectors does not depend on the order of their dimensions, so keys and
        queries that are both paired attend as before.
        """
        if self.interleaved:
            return x
        pairs = x[..., : self.dim].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        return pairs if self.dim == x.shape[-1] else torch.cat((pairs, x[..., self.dim :]), -1)

    def unpaired(self, x: Tensor) -> Tensor:
        """The order of dimensions that the model has, from that of `paired`."""
        if self.interleaved:
            return x
        halves = x[..., : self.dim].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return halves if self.dim == x.shape[-1] else torch.cat((halves, x[..., self.dim :]), -1)

    def rotate_paired(self, x: Tensor, cis: Tensor) -> Tensor:
        """`x`, `(..., head_dim)` paired, turned by `cis`; both broadcast; float32.

        One complex product, five times as fast as `rotate`.
        """
        pairs = torch.view_as_complex(x[..., : self.dim].float().unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * cis).flatten(-2)
        if self.dim == x.shape[-1]:
            return rotated
        rest = x[..., self.dim :].float().expand(*rotated.shape[:-1], -1)
        return torch.cat((rotated, rest), dim=-1)

    def _quarter(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    @classmethod
    def from_config(cls, config: Any) -> Rotary:
        """The rotary positions of a transformers model, from the model's own code.

        The model is run once without its weights (`trial`), so no list of models is kept here.
        Where only some layers attend to all of the text, it is these that count.

        Raises:
            UnsupportedModelError: when positions are not rotary, when the frequencies depend on
                the length of the text, or when the model turns keys in a way not known here.
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
        """How one key was turned to several positions; None when it was not by these frequencies.

        Args:
            keys: `(positions, heads, head_dim)` float32.
            positions: `(positions,)` where the key is.
            frequencies: radians per position of each pair, in either direction; one is chosen.
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


def rotary_of(made: ModelTrial, layers: Iterable[int]) -> dict[int, Rotary | None]:
    """How each of the given layers of a cache turns its keys; None for those that do not.

    Raises:
        UnsupportedModelError: when one depends on positions in another way, or two differ.
    """
    kind = made.config.model_type
    if made.failure is not None:
        raise UnsupportedModelError(
            f"{kind} cannot be run without weights to see how it turns its keys "
            f"({made.failure}). Use a config that transformers can run."
        )
    with torch.inference_mode(False), torch.no_grad():  # these outlive the mode of the caller
        found = {index: _rotary_of(made, made.layers[index]) for index in layers}
    turning = [rotary for rotary in found.values() if rotary is not None]
    for rotary in turning[1:]:
        same = torch.equal(rotary.inv_freq, turning[0].inv_freq)
        if not same or rotary.interleaved != turning[0].interleaved:
            raise UnsupportedModelError(
                f"{kind} turns its keys differently in layers to which one policy would apply, "
                "which is not supported yet. Use the policy 'full'."
            )
    return found


def _rotary_of(made: ModelTrial, layer: TrialLayer) -> Rotary | None:
    kind, keys = made.config.model_type, layer.keys
    if not all(call.repeated for call in layer.calls):
        raise UnsupportedModelError(
            f"{kind} attends to keys that it computes from those in its cache (latent keys, say), "
            "which are not supported under a bounded policy. Use the policy 'full'."
        )
    close = 1e-4 * float(keys.abs().max())
    still = len(keys) == len(NEAR) and float((keys - keys[0]).abs().max()) <= close
    rotated = None if still else _rotated(made, layer)
    if not (still or rotated or made.frequencies):
        if layer.level and layer.far is not None:
            raise UnsupportedModelError(
                f"{kind} turns its keys by frequencies that it keeps nowhere; expected them as a "
                "1-D tensor in one of its modules, such as inv_freq. Use the policy 'full'."
            )
        raise UnsupportedModelError(
            f"{kind} has no rotary positions (learned absolute positions or ALiBi, say); a "
            "bounded policy needs keys whose position can be changed. Use the policy 'full', "
            "or a model with rotary positions."
        )
    if not (still or rotated):
        raise UnsupportedModelError(
            f"{kind} turns its keys neither by halves nor by neighbouring pairs, or changes them "
            "once they are turned (by a norm with weights, say), so they cannot be moved to "
            "another position. Use the policy 'full'."
        )
    if layer.far is None:
        raise UnsupportedModelError(
            f"{kind} looks its positions up in a table that ends, and a bounded policy goes on for "
            "any number of tokens. Use the policy 'full'."
        )
    if float((layer.far - keys).abs().max()) > close:
        raise UnsupportedModelError(
            f"{kind} has rotary positions whose frequencies depend on the largest position so far "
            f"({rope_type(made.config)!r} in rope_parameters), so kept keys would go stale. Use "
            "the policy 'full', or load the model with other rope_parameters."
        )
    if (
        layer.middle is not None
        and float((layer.middle - _at(MIDDLE, keys, rotated)).abs().max()) > 10 * close
    ):
        raise UnsupportedModelError(
            f"{kind} turns its keys at position {MIDDLE} otherwise than at the first ones "
            "(positions that are clipped or shared, say), which is not supported under a "
            "bounded policy. Use the policy 'full'."
        )
    if not layer.steady:
        raise UnsupportedModelError(
            f"{kind} changes its queries by how many tokens the cache has seen, besides turning "
            "them, which is not supported with compact positions yet. Use the policy 'full'."
        )
    return rotated


def _at(position: int, keys: Tensor, rotary: Rotary | None) -> Tensor:
    """The key that is at the first of `NEAR`, at another position."""
    if rotary is None:
        return keys[0]
    return rotary.rotate(keys[0], *rotary.angles(torch.tensor(position - NEAR[0], device="cpu")))


@lru_cache(maxsize=4096)
def _rotated(made: ModelTrial, layer: TrialLayer) -> Rotary | None:
    if len(layer.keys) != len(NEAR):
        return None
    return Rotary.of_keys(layer.keys, torch.tensor(NEAR, device="cpu"), made.frequencies)


def rope_type(config: Any) -> str | None:
    """The kind of rotary positions, as in `rope_parameters`; None where there are none."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or getattr(config, "alibi", False):
        return None
    if "full_attention" in parameters:
        parameters = parameters["full_attention"] or {}
    return str(parameters.get("rope_type", "default"))
