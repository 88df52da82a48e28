"""Rotary positions: turning keys and queries by any number of positions after the fact."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transom.errors import UnsupportedModelError

__all__ = ["Rotary"]

POSITION_DEPENDENT = ("dynamic", "longrope")
LATENT = ("kv_lora_rank", "qk_rope_head_dim")


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

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x`, `(..., head_dim)`, turned by the given angles; computed in float32, dtype kept."""
        pairs = x[..., : self.dim].float()
        turned = (pairs * cos + self._quarter(pairs) * sin).to(x.dtype)
        if self.dim == x.shape[-1]:
            return turned
        rest = x[..., self.dim :].expand(*turned.shape[:-1], -1)
        return torch.cat((turned, rest), dim=-1)

    def matrix(self, by: Tensor, head_dim: int) -> Tensor:
        """`(*by.shape, head_dim, head_dim)` float32: `x @ matrix` is `x` turned by `by`."""
        identity = torch.eye(head_dim, dtype=torch.float32, device=by.device)
        cos, sin = self.angles(by)
        return self.turn(identity, cos[..., None, :], sin[..., None, :])

    def cis(self, by: Tensor) -> Tensor:
        """Turns by `by` positions as complex numbers, `(*by.shape, rotary_dim / 2)` complex64."""
        theta = by.to(torch.float64)[..., None] * self.inv_freq.to(by.device)
        return torch.polar(torch.ones_like(theta), theta).to(torch.complex64)

    def paired(self, x: Tensor) -> Tensor:
        """`x` with the two dimensions of each pair beside each other, as `spin` takes it.

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

    def spin(self, x: Tensor, cis: Tensor) -> Tensor:
        """`x`, `(..., head_dim)` paired, turned by `cis`; both broadcast; float32.

        One complex product, five times as fast as `turn`.
        """
        pairs = torch.view_as_complex(x[..., : self.dim].float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * cis).flatten(-2)
        if self.dim == x.shape[-1]:
            return turned
        rest = x[..., self.dim :].float().expand(*turned.shape[:-1], -1)
        return torch.cat((turned, rest), dim=-1)

    def _quarter(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    @classmethod
    def from_config(cls, config: Any) -> Rotary:
        """The rotary positions of a transformers model, from the model's own code.

        The frequencies come from the model's rotary embedding, and its `apply_rotary_pos_emb` is
        run on a random vector to see which pairs it turns, so no list of models is kept here.

        Raises:
            UnsupportedModelError: when positions are not rotary, when the frequencies depend on
                the length of the text, or when the model turns keys in a way not known here.
        """
        kind = config.model_type
        scaling = rope_type(config)
        if scaling is None:
            raise UnsupportedModelError(
                f"{kind} has no rotary positions (learned absolute positions or ALiBi, say); a "
                "bounded policy needs keys whose position can be changed. Use the policy 'full', "
                "or a model with rotary positions."
            )
        if scaling in POSITION_DEPENDENT:
            raise UnsupportedModelError(
                f"{kind} has {scaling!r} rotary positions, whose frequencies depend on the largest "
                "position so far, so kept keys would go stale. Use the policy 'full', or load the "
                "model with other rope_parameters."
            )
        if any(getattr(config, name, None) for name in LATENT):
            raise UnsupportedModelError(
                f"{kind} keeps latent keys (multi-head latent attention), which are not supported "
                "under a bounded policy. Use the policy 'full'."
            )
        module = modelling_module(config)
        embeddings = [
            value
            for name, value in vars(module).items()
            if name.endswith("RotaryEmbedding") and "Vision" not in name and isinstance(value, type)
        ]
        apply = getattr(module, "apply_rotary_pos_emb", None)
        if len(embeddings) != 1 or apply is None:
            raise UnsupportedModelError(
                f"{module.__name__} does not have exactly one rotary embedding and an "
                "apply_rotary_pos_emb, so how it turns keys is unknown. Use the policy 'full'."
            )
        with torch.device("cpu"):  # whatever the default
            embedding = embeddings[0](config)
        return cls._probe(kind, embedding, apply, layered=_layered(config))

    @classmethod
    def _probe(cls, kind: str, embedding: Any, apply: Any, layered: bool) -> Rotary:
        layer = ("full_attention",) if layered else ()
        inv_freq = getattr(embedding, "_".join((*layer, "inv_freq")))
        size, random = (1, 1, 2, 2 * inv_freq.numel()), torch.Generator("cpu").manual_seed(0)
        x = torch.randn(size, generator=random, dtype=torch.float32, device="cpu")
        cos, sin = embedding(x, torch.tensor([[3, 11]], device="cpu"), *layer)
        theirs = apply(x, x, cos, sin)[1]
        # Some models also scale the keys (YaRN); a turn does not, whatever length it starts from.
        theirs = theirs * (x.norm() / theirs.norm())
        for interleaved in (False, True):
            rotary = cls(inv_freq.double().cpu(), interleaved)
            ours = rotary.turn(x, *rotary.angles(torch.tensor([[[3, 11]]], device="cpu")))
            if torch.allclose(ours, theirs, atol=1e-4):
                return rotary
        raise UnsupportedModelError(
            f"{kind} turns its keys neither by halves nor by neighbouring pairs, so they cannot be "
            "moved to another position. Use the policy 'full'."
        )


def rope_type(config: Any) -> str | None:
    """The kind of rotary positions, as in `rope_parameters`; None where there are none."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or getattr(config, "alibi", False):
        return None
    if _layered(config):
        parameters = parameters["full_attention"]
    if "mrope_section" in parameters:
        return "mrope"
    return str(parameters.get("rope_type", "default"))


def modelling_module(config: Any) -> Any:
    """The transformers module that defines the causal language model of `config`.

    Raises:
        UnsupportedModelError: when transformers knows no causal language model for it.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise UnsupportedModelError(
            f"transformers has no causal language model for {type(config).__name__}; expected the "
            "(text) config of one."
        ) from None
    return sys.modules[model_class.__module__]


def _layered(config: Any) -> bool:
    return "full_attention" in (getattr(config, "rope_parameters", None) or {})
