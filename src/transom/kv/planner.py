"""The base of planners: counts the tokens of each row, and plans each forward pass once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from transom.attention.correction import Correction
from transom.attention.patterns import Pattern
from transom.attention.rotary import Rotary
from transom.attention.rotary_by_length import RotaryByLength
from transom.errors import CacheError, InputError, UnsupportedModelError
from transom.kv.gradients import in_backward
from transom.policies import Policy, Precision

__all__ = ["AnyPlanner", "PassPlanner", "PolicyT", "Positions"]

Positions = Literal["compact", "absolute"]


class Pass(Protocol):
    """A plan of a forward pass, as far as it is needed to count tokens."""

    tokens: int
    lengths: list[int]
    started: bool
    correction: Correction | None


class PassRequest(NamedTuple):
    """What a pass was planned for; see `PassPlanner.begin`."""

    tokens: int
    before: list[int]
    base: int
    device: torch.device
    valid: Tensor | None
    pattern: Pattern | None
    blocks: Tensor | None

    def same(self, other: PassRequest | None) -> bool:
        """Whether a plan made for the other request serves this one too."""
        if other is None or self[:4] != other[:4] or self.pattern is not other.pattern:
            return False
        return _equal(self.valid, other.valid) and _equal(self.blocks, other.blocks)


PassT = TypeVar("PassT", bound=Pass)
PolicyT = TypeVar("PolicyT", bound=Policy)


class PassPlanner(ABC, Generic[PolicyT, PassT]):
    """Counts tokens, real tokens and padding, and plans each forward pass once for all layers.

    Mutated by `begin` (the pending plan), `commit`, `reorder`, `crop` and `clear`.

    Attributes:
        seen: columns fed to the model, padding included; what transformers counts.
        lengths: real tokens per row; empty before the first pass.
        real: `(batch, seen)` bool on the CPU, which columns are real tokens; None if all are. Never
            written to, so that copies can share it.
        base: by how much the model's positions are lower than those in the text; see
            `BoundedCache.rebase`.
        plan: of the pass under way, if there is one.
        layers_without_rope: layers without rotary positions.
        own: how the model rotates by the length of the text; None where it does not depend on it.
    """

    def __init__(
        self,
        policy: PolicyT,
        positions: Positions,
        rotary: Rotary | None,
        head_dim: int,
        layers_without_rope: frozenset[int],
        own: RotaryByLength | None = None,
    ) -> None:
        self.policy = policy
        self.positions = positions
        self.rotary = rotary
        self.head_dim = head_dim
        self.layers_without_rope = layers_without_rope
        self.own = own
        self.clear()

    def fork(self) -> Self:
        """The same counts for another cache, with all that has been computed from them."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self) | {"plan": None, "_request": None})
        return twin

    def __getstate__(self) -> dict[str, object]:
        # A copy makes its own plan: tensors made in inference mode would be of no use outside.
        return vars(self) | {"plan": None, "_request": None}

    def clear(self) -> None:
        """Forget every token."""
        self.seen = 0
        self.base = 0
        self.lengths: list[int] = []
        self.real: Tensor | None = None
        self.plan: PassT | None = None
        self._request: PassRequest | None = None

    @property
    def longest(self) -> int:
        """Real tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    @abstractmethod
    def filled(self) -> int:
        """Slots in use in the fullest row."""

    @abstractmethod
    def _plan(
        self,
        before: list[int],
        valid: Tensor | None,
        tokens: int,
        device: torch.device,
        pattern: Pattern | None,
        blocks: Tensor | None,
    ) -> PassT:
        """Plan a pass; `valid` is `(batch, tokens)` bool on the CPU, None for no padding."""

    @abstractmethod
    def visible(self, plan: PassT) -> Any:
        """What the attention function gets in place of a mask."""

    def newest(self, columns: int) -> list[int]:
        """How many of the newest columns are real tokens, in each row."""
        if self.real is None:
            return [columns] * len(self.lengths)
        return [int(row) for row in self.real[:, self.seen - columns :].sum(1)]

    def crop_obstacle(self, columns: int) -> str | None:
        """Why the newest columns cannot be removed, by the counts alone; None if they can."""
        return f"only {self.seen} have been seen" if columns > self.seen else None

    def trace(self, length: int) -> str | None:
        """What the newest tokens of a row of `length` tokens did that cannot be undone, or None.

        The length alone says whether they evicted others or had others quantized.
        """
        precision, capacity = Precision.of(self.policy), self.policy.capacity
        if capacity is not None and length > capacity:
            return "they have evicted others, which cannot come back; use a larger policy or 'full'"
        if precision is not None and length > precision.exact:
            return f"some have been stored in {self.policy.kv}, which stays so; leave kv off"
        return None

    def begin(
        self,
        tokens: int,
        batch: int,
        attention_mask: Tensor | None,
        device: torch.device,
        pattern: Pattern | None = None,
        blocks: Tensor | None = None,
    ) -> PassT:
        """Plan a forward pass of `tokens` new tokens for each of `batch` rows.

        Args:
            attention_mask: `(batch, seen + tokens)`, nonzero for real tokens; None for all real.
            pattern: what must let a key through besides the policy.
            blocks: `(batch, tokens)` int64 on the CPU, see `image_blocks`; None for none.

        Raises:
            CacheError: when the pass before this one did not finish, the batch size changed, or
                the policy cannot keep a block whole.
            InputError: when the mask has the wrong shape.
            UnsupportedModelError: when the model has no weights (meta device).
        """
        if tokens == 0:
            raise InputError(
                f"the forward pass has no new tokens: the cache has already seen {self.seen}, and "
                "the model was given no more. Give the whole text so far and something new; for "
                "another text, make a new cache or call reset()."
            )
        if device.type == "meta":
            raise UnsupportedModelError(
                "the model's weights are on the meta device, where nothing is computed, so there "
                "would be no keys and values to keep; load the weights first."
            )
        if batch == 0:
            raise InputError("the forward pass has no rows; expected a batch of at least 1.")
        if in_backward():
            raise CacheError(
                "a backward pass runs a forward pass again (gradient checkpointing), so its tokens "
                "would be fed to the cache twice. Leave out the cache or the checkpointing."
            )
        if self.plan is not None and self.plan.started:
            raise CacheError(
                "the forward pass before this one stopped half-way (an interrupt or an error), so "
                "some layers are a step ahead of others. Call reset() and feed the text again."
            )
        if self.lengths and batch != len(self.lengths):
            raise CacheError(
                f"the cache holds a batch of {len(self.lengths)} and the model was given {batch}; "
                "expected the same batch. For another one, make a new cache or call reset()."
            )
        before = self.lengths or [0] * batch
        valid = self._valid(attention_mask, tokens, batch)
        request = PassRequest(tokens, before, self.base, device, valid, pattern, blocks)
        if self.plan is None or not request.same(self._request):
            self._request = request
            self.plan = self._plan(before, valid, tokens, device, pattern, blocks)
        return self.plan  # the same one again: a model with two types of layers asks once for each

    @property
    def real_after(self) -> Tensor | None:
        """What `real` will be once the pass under way is done."""
        assert self.plan is not None
        entering = None if self._request is None else self._request.valid
        if self.real is None and entering is None:
            return None
        parts = ((self.real, self.seen), (entering, self.plan.tokens))
        batch = len(self.plan.lengths)
        return torch.cat([_as_tensor(*part, batch) for part in parts], dim=1)

    def _correction(
        self, places: Tensor, valid: Tensor | None, device: torch.device
    ) -> Correction | None:
        """What a pass with tokens at these places in the text, `(rows, tokens)`, is corrected by.

        Raises:
            CacheError: when the model's frequencies in such a pass are not known.
        """
        if self.own is None or self.rotary is None:
            return None
        positions = places - self.base
        return Correction.of_pass(
            self.own, self.rotary, positions, valid, device, self.layers_without_rope
        )

    def commit(self) -> None:
        """Count the tokens of the pass under way, which is done in every layer."""
        assert self.plan is not None
        self.real = self.real_after
        self.seen += self.plan.tokens
        self.lengths = self.plan.lengths
        self.plan = self._request = None

    def crop(self, columns: int) -> None:
        """Remove the newest columns; only where there is no obstacle."""
        removed = self.newest(columns)
        self.lengths = [length - new for length, new in zip(self.lengths, removed, strict=True)]
        self.seen -= columns
        if self.real is not None:
            left = self.real[:, : self.seen]
            self.real = None if bool(left.all()) else left

    def reorder(self, rows: list[int]) -> None:
        """Row `i` becomes what row `rows[i]` was; rows may be repeated or left out."""
        self.lengths = [self.lengths[row] for row in rows] if self.lengths else []
        self.real = None if self.real is None else self.real[rows]

    def _valid(self, attention_mask: Tensor | None, tokens: int, batch: int) -> Tensor | None:
        if attention_mask is None:
            return None
        expected = (batch, self.seen + tokens)
        if tuple(attention_mask.shape) != expected:
            raise InputError(
                f"attention_mask is {tuple(attention_mask.shape)}; expected {expected}: one column "
                f"for each of the {self.seen} tokens already seen and for each of the {tokens} new "
                "ones."
            )
        valid = attention_mask[:, self.seen :].bool()
        return None if bool(valid.all()) else valid.cpu()


AnyPlanner: TypeAlias = PassPlanner[Any, Any]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _as_tensor(real: Tensor | None, columns: int, batch: int) -> Tensor:
    if real is not None:
        return real
    return torch.ones(batch, columns, dtype=torch.bool, device="cpu")
