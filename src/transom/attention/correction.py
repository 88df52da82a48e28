"""Makes the rotations of a pass those of constant frequencies, where a model's own change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transom.attention.rotary import Rotary
from transom.attention.rotary_by_length import RotaryByLength
from transom.errors import CacheError

__all__ = ["Correction"]


@dataclass(eq=False)
class Correction:
    """The difference between the rotations of one pass and those of constant frequencies.

    With compact positions no distance exceeds the policy's size, so that a text of this size
    decides the frequencies. A query or key at position `p` is rotated by `p` times the difference
    from the frequencies of the pass.

    Attributes:
        own: how the model rotates by length.
        length: the length that the model takes in this pass, as planned.
        positions: `(rows, q_len)` int64 on the CPU, position ids as planned.
        valid: `(rows, q_len)` bool on the CPU, which tokens are real; None for all.
        rotary: the difference; None where there is none in this pass.
        angles: cosines and sines, `(rows, 1, q_len, rotary_dim)` each, on the model's device.
        layers_without_rope: layers where nothing is rotated.
    """

    own: RotaryByLength
    length: int
    positions: Tensor
    valid: Tensor | None
    rotary: Rotary | None
    angles: tuple[Tensor, Tensor] | None
    layers_without_rope: frozenset[int]
    _checked: bool = False

    @classmethod
    def of_pass(
        cls,
        own: RotaryByLength,
        constant: Rotary,
        positions: Tensor,
        valid: Tensor | None,
        device: torch.device,
        layers_without_rope: frozenset[int],
    ) -> Correction:
        """The correction of a pass; for the arguments see the attributes.

        Raises:
            CacheError: when the frequencies of such a pass are not known.
        """
        real = positions if valid is None else positions[valid.expand_as(positions)]
        length = int(real.max()) + 1 if real.numel() else 1
        difference = constant.inv_freq - own.at(length).inv_freq
        rotary, angles = None, None
        if bool(difference.any()):
            rotary = replace(constant, inv_freq=difference)
            cos, sin = rotary.angles(positions[:, None])
            angles = cos.to(device), sin.to(device)
        return cls(own, length, positions, valid, rotary, angles, layers_without_rope)

    def of_keys(self, keys: Tensor, layer: int) -> Tensor:
        """Keys, `(batch, kv_heads, q_len, dim)`, as constant frequencies rotate them."""
        if self.rotary is None or self.angles is None or layer in self.layers_without_rope:
            return keys
        return self.rotary.rotate(keys, *self.angles)

    def of_queries(self, queries: Tensor, layer: int) -> Tensor:
        """Queries, `(batch, heads, q_len, dim)`, as constant frequencies rotate them."""
        if self.rotary is None or self.angles is None or layer in self.layers_without_rope:
            return queries
        return self.rotary.rotate_queries(queries, *self.angles)

    def check(self, position_ids: object) -> None:
        """Check the position ids that the model was given, once per pass, where they are known.

        Raises:
            CacheError: when they are not as planned, so that the correction would be wrong.
        """
        if self._checked or not isinstance(position_ids, Tensor):
            return
        self._checked = True
        given = position_ids.cpu()
        fits = given.shape[-1] == self.positions.shape[-1]
        if fits:
            differs = given != self.positions
            fits = not bool((differs if self.valid is None else differs & self.valid).any())
        length = int(given.max()) + 1
        if fits and length != self.length:
            own, planned = (self.own.at(each).inv_freq for each in (length, self.length))
            fits = torch.equal(own, planned)
        if not fits:
            raise CacheError(
                f"the model was given position_ids up to {length - 1}; expected the numbers of the "
                f"real tokens, up to {self.length - 1} in this pass and at most that for padding. "
                f"They decide the frequencies of {self.own.config.model_type} "
                f"({self.own.kind!r} in rope_parameters). For padded rows give "
                "position_ids=(attention_mask.cumsum(-1) - 1).masked_fill(attention_mask == 0, 0) "
                "of the new tokens, as model.generate does."
            )
