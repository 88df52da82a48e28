"""One layer that holds tokens in pools of slots, in the order of the text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from transom.errors import CacheError
from transom.kv.bounded_layer import fewest
from transom.kv.cache_layer import CacheLayer, zeros
from transom.kv.planner import AnyPlanner
from transom.kv.quantization import Codes
from transom.kv.readable_layer import KeptStates
from transom.kv.scored.head_budgets import HeadBudgets
from transom.kv.scored.pool import PoolPart
from transom.kv.scored.scored_planner import ScoredPlanner
from transom.kv.scored.token_states import states
from transom.kv.self_attending_layer import SelfAttendingLayer
from transom.policies import Precision, Scored

__all__ = ["RECEIVED", "PoolLayer"]

RECEIVED = "received"  # the attention received, by the name that saved states have for it


class PoolLayer(SelfAttendingLayer):
    """Keys and values of at most `policy.size` tokens per head.

    Slots are in the order of the text, so a token's slot is its compact position. Keys are stored
    unrotated (pre-RoPE) under compact positions, and as they came under absolute ones, with the
    two numbers of a rotary pair beside each other.

    Attributes:
        policy: of this layer.
        budgets: how many tokens each head of each row may hold.
    """

    planner: ScoredPlanner

    def __init__(self, index: int, policy: Scored, planner: ScoredPlanner, last: bool) -> None:
        super().__init__(index, planner, last)
        self.budgets = HeadBudgets(0, 0, policy.heads == "equal")
        self.fit(policy)

    def fit(self, policy: Scored) -> None:
        self.policy = policy
        self.precision = Precision.of(policy)
        self._keys, self._values = states(self.precision)

    def _allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        size = self.policy.tokens
        self.tensors |= self._keys.allocate(key_states, size)
        self.tensors |= self._values.allocate(value_states, size)
        self.tensors["positions"] = zeros(key_states, size, dtype=torch.int32)
        if self.policy.watches != 0:
            self.tensors[RECEIVED] = zeros(key_states, size, dtype=torch.float32)
        rows, heads = key_states.shape[:2]
        self.budgets = HeadBudgets(rows, heads, self.policy.heads == "equal")

    def in_use(self, name: str, seen: int | None) -> int | None:
        if name in ("keys", "values", "positions", RECEIVED):
            return fewest(seen, self.policy.tokens)
        if self.precision is None or name.startswith("queries."):
            return None
        exact, part = self.precision.exact, name.partition(".")[2]
        if part in Codes._fields:
            return fewest(
                None if seen is None else max(0, seen - exact), self.policy.tokens - exact
            )
        few = {"newest": exact, "first": self.precision.first}
        return fewest(seen, few[part]) if part in few else None

    def kept_positions(self, row: int = 0) -> list[Tensor]:
        """Which tokens each kv head of a row holds now: positions in the text, ascending, int64."""
        length = self.planner.lengths[row]
        found = []
        for part, _ in self.budgets.parts(slice(row, row + 1)):
            held = self.policy.filled(length) + part.extra
            found += list(part.slots(self.tensors["positions"])[0, :, :held].long())
        return found

    def _kept_states(self) -> KeptStates:
        if self.policy.heads != "equal":
            raise CacheError(
                f"under {self.policy} the heads of a layer keep different numbers of tokens, which "
                "fit into no tensor. Look at kept_positions(), or use a policy with heads=equal."
            )
        held = [self.policy.filled(length) for length in self.planner.lengths]
        if len(set(held)) == 1:
            return self._states_of(slice(None), held[0])
        rows = []
        for row, count in enumerate(held):
            found = self._states_of(slice(row, row + 1), count)
            rows.append([F.pad(x, (0, 0, max(held) - count, 0)) for x in found])
        return KeptStates(*map(torch.cat, zip(*rows, strict=True)))

    def _states_of(self, rows: slice, held: int) -> KeptStates:
        """The first `held` slots of some rows; keys rotated to where attention has them."""
        part, rotary = PoolPart(rows), self._rotary
        keys, values = (x.read(self.tensors, part, held) for x in (self._keys, self._values))
        if rotary is None:
            return KeptStates(keys.clone(), values.clone())
        rotated = keys
        if self.planner.positions == "compact":
            rotated = rotary.rotate_paired(keys, self.planner.rotations(held, self.device))
        return KeptStates(rotary.unpaired(rotated).to(values.dtype, copy=True), values.clone())

    def fork(self, planner: AnyPlanner) -> CacheLayer:
        twin = super().fork(planner)
        assert isinstance(twin, PoolLayer)
        twin.budgets = self.budgets.copy()
        return twin

    @property
    def state(self) -> dict[str, Tensor]:
        return {**super().state, "extra": self.budgets.state} if self.is_initialized else {}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        tensors = {name: tensor for name, tensor in state.items() if name != "extra"}
        super().restore(tensors, device)
        if state:
            self.budgets = HeadBudgets.restored(state["extra"], self.policy.heads == "equal")

    def clear(self) -> None:
        super().clear()
        self.budgets.reset()

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        if self.is_initialized:
            self.budgets = self.budgets.take_rows(rows.tolist())
