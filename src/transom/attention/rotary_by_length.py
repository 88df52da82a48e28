"""Rotary frequencies that depend on the length of the text: longrope and dynamic NTK."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from transom.attention.rope_type import rope_type
from transom.attention.rotary import Rotary
from transom.attention.trial import MIDDLE, NEAR, ModelTrial
from transom.errors import CacheError, UnsupportedModelError

__all__ = ["RotaryByLength", "rotary_by_length"]


@dataclass(eq=False)
class RotaryByLength:
    """How a model rotates in a pass, by the largest position in it.

    The model takes the largest position id of a pass plus one for the length of the text, and
    rotates the new queries and keys of all rows by the frequencies for that length.

    Attributes:
        config: of the model.
        kind: its `rope_type`, `"longrope"` or one with `"dynamic"` in it.
        near: how the model rotates in short texts.

    Source: LongRoPE, https://arxiv.org/abs/2402.13753.
    """

    config: PretrainedConfig
    kind: str
    near: Rotary
    _known: dict[int, Rotary] = field(default_factory=dict, repr=False)

    @property
    def limit(self) -> int | None:
        """Lengths must be smaller, or the frequencies depend on earlier passes; None for no limit.

        With dynamic NTK, a model keeps the frequencies of the longest text that it has been given
        by anyone, until it gets a text that is shorter than its trained length.
        """
        return None if self.kind == "longrope" else int(self.config.max_position_embeddings)

    def constant(self, capacity: int | None) -> Rotary:
        """How the model rotates in a text of `capacity` tokens, for all passes under a policy.

        Args:
            capacity: tokens in the largest distance that the policy leaves; None for no bound.

        Raises:
            UnsupportedModelError: when there is no bound, or the model's frequencies for such a
                text depend on earlier passes.
        """
        about = f"{self.config.model_type} ({self.kind!r} in rope_parameters) has frequencies"
        if capacity is None:
            raise UnsupportedModelError(
                f"{about} that depend on the length of the text, so they must be those for the "
                "largest distance, and here distances grow without bound. Use a bounded policy "
                "with compact positions, or the policy 'full' without kv=int8 or kv=int4."
            )
        if self.limit is not None and capacity >= self.limit:
            raise UnsupportedModelError(
                f"{about} that depend on earlier passes from position {self.limit - 1} on; choose "
                f"a policy of fewer than {self.limit} tokens (this one keeps {capacity}), or the "
                "policy 'full'."
            )
        return self.at(capacity)

    def at(self, length: int) -> Rotary:
        """How the model rotates in a pass in which the largest position is `length - 1`.

        Raises:
            CacheError: when the length is not below the limit.
        """
        if self.limit is None:
            return self.unchecked(length)
        if length >= self.limit:
            raise CacheError(
                f"the pass has position {length - 1}, and {self.config.model_type} "
                f"({self.kind!r} in rope_parameters) has frequencies that depend on earlier passes "
                f"from position {self.limit - 1} on. Use a Context, which lets positions start "
                "over, and feed fewer tokens at a time (chunk); or call BoundedCache.rebase."
            )
        return self.near

    def unchecked(self, length: int) -> Rotary:
        """The same for a model that has not been given a longer text before."""
        parameters = self.config.rope_parameters
        by_type = {"layer_type": "full_attention"} if "full_attention" in parameters else {}
        if self.kind == "longrope":  # it has two sets of frequencies
            trained = (parameters[by_type["layer_type"]] if by_type else parameters)[
                "original_max_position_embeddings"
            ]
            length = trained + (length > trained)
        if length not in self._known:
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                found, _ = ROPE_INIT_FUNCTIONS[self.kind](
                    self.config, torch.device("cpu"), seq_len=length, **by_type
                )
                sign = self.near.inv_freq[:1].sign()
                self._known[length] = replace(self.near, inv_freq=sign * found.double())
        return self._known[length]


def rotary_by_length(made: ModelTrial, found: dict[int, Rotary | None]) -> RotaryByLength | None:
    """How a model rotates by length; None where its frequencies do not depend on it.

    Args:
        made: what the model did.
        found: how each layer rotates keys in a short text.

    Raises:
        UnsupportedModelError: when they depend on it in a way that is not known here.
    """
    depending = [index for index in found if made.layers[index].depends_on_length]
    if not depending:
        return None
    kind, name = rope_type(made.config), made.config.model_type
    near = next((rotary for rotary in found.values() if rotary is not None), None)
    known = kind is not None and (kind == "longrope" or "dynamic" in kind)
    own = RotaryByLength(made.config, str(kind), near) if known and near is not None else None
    if own is None or not all(_explains(own, made, index) for index in depending):
        raise UnsupportedModelError(
            f"{name} has rotary frequencies or scales that depend on the largest position so far, "
            f"in a way that is not known here ({kind!r} in rope_parameters), so kept keys would "
            "become wrong. Use the policy 'full', or load the model with other rope_parameters."
        )
    return own


def _explains(own: RotaryByLength, made: ModelTrial, index: int) -> bool:
    """Whether the keys of a layer are those of the model's frequencies, near and far."""
    layer = made.layers[index]
    if layer.far is None or layer.middle is None:
        return False
    key, close = layer.keys[0], 1e-4 * float(layer.keys.abs().max())
    expected = ((layer.keys, NEAR, max(NEAR) + 1), (layer.far, NEAR, made.longest + 1))
    for keys, places, length in (*expected, (layer.middle[None], (MIDDLE,), made.longest + 1)):
        rotary = own.unchecked(length)
        by = torch.tensor(places, device="cpu")[:, None] - NEAR[0]
        if float((rotary.rotate(key, *rotary.angles(by)) - keys).abs().max()) > 10 * close:
            return False
    return True
