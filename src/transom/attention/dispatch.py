"""Attention under a pattern: `attend` chooses the kernel, and `explain` says which and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from transom.attention.kernels.block_sparse import block_sparse
from transom.attention.kernels.decode import decode
from transom.attention.kernels.dense import dense
from transom.attention.kernels.flex import flex
from transom.attention.kernels.naive import naive
from transom.attention.kernels.products import multiplied_in
from transom.attention.modes import as_autocast, like_fused
from transom.attention.patterns import Dilated, Pattern, causal, everything, sliding
from transom.attention.patterns.layout import Layout, layout
from transom.errors import InputError
from transom.policies import Span

__all__ = ["Attend", "Explanation", "Kernel", "attend", "blocks_pay"]

Kernel = Literal["auto", "block_sparse", "decode", "dense", "flex", "naive"]

# The largest share of all scores at which blocks are used in float32. There the fused kernel takes
# 0.6 to 0.8 of the time per score that blocks take. In half precision it takes twice the time of
# blocks, on CPUs that have instructions for it but no matrix units.
SPARSE_ENOUGH = 0.6


@dataclass(frozen=True)
class Explanation:
    """What `attend` would do.

    Attributes:
        kernel: the kernel that would compute it.
        why: the reason, in a sentence.
        pairs: visible (query, key) pairs, the mean over rows and heads.
        fraction: visible pairs divided by all pairs, `q_len * kv_len`.
        flops: for the scores and the weighted sums of all visible pairs, over all rows and heads;
            a multiplication with its addition counts as two.
        bytes: of queries, keys, values and output, which are read or written at least once.
    """

    kernel: Kernel
    why: str
    pairs: float
    fraction: float
    flops: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.kernel}: {self.why}\n{self.pairs:,.0f} pairs ({self.fraction:.2%} of all), "
            f"{self.flops:,} FLOPs, {self.bytes:,} bytes at least"
        )


class Attend:
    """The type of `attend`: it can be called, and it can explain what a call would do."""

    @like_fused
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Pattern | None = None,
        *,
        scale: float | None = None,
        kernel: Kernel = "auto",
    ) -> Tensor:
        """Attention output, `(batch, heads, q_len, value_dim)` in the dtype of `q`.

        The last query is at the position of the last key. So if there are fewer queries than keys,
        the first keys were cached. Queries that see nothing give zeros. Gradients flow to `q`, `k`
        and `v`. Only the kernel `"naive"` makes a mask of `q_len * kv_len`.

        Args:
            q: `(batch, heads, q_len, head_dim)`.
            k: `(batch, kv_heads, kv_len, head_dim)`; `heads` is a multiple of `kv_heads`.
            v: `(batch, kv_heads, kv_len, value_dim)`.
            pattern: who sees whom; by default every query sees every key.
            scale: of the scores, `head_dim ** -0.5` by default.
            kernel: the kernel to use; by default the one that `explain` names.

        Raises:
            InputError: when sizes or dtypes do not fit each other, the pattern or the kernel.
        """
        pattern = everything() if pattern is None else pattern
        _check(q, k, v, pattern, kernel)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        chosen = _choose(q, k, pattern)[0] if kernel == "auto" else kernel
        if chosen == "decode":
            return decode(q, k, v, _spans(k, pattern) or (), scale)
        if chosen == "block_sparse":
            if isinstance(pattern, Dilated):
                return _by_remainder(q, k, v, pattern, scale)
            return block_sparse(q, k, v, _layout(q, k, pattern), scale)
        compute = {"dense": dense, "flex": flex, "naive": naive}[chosen]
        return compute(q, k, v, pattern, scale)

    def explain(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern | None = None
    ) -> Explanation:
        """Which kernel `attend` would choose for the same arguments, why, and what it costs.

        Raises:
            InputError: as `attend`.
        """
        q, k, v = as_autocast(q, k, v)
        pattern = everything() if pattern is None else pattern
        _check(q, k, v, pattern, "auto")
        kernel, why = _choose(q, k, pattern)
        pairs = pattern.pairs(q.shape[2], k.shape[2])
        made = q.shape[:3].numel() * v.shape[3] * q.element_size()
        return Explanation(
            kernel=kernel,
            why=why,
            pairs=pairs,
            fraction=pairs / (q.shape[2] * k.shape[2]),
            flops=round(2 * pairs * q.shape[0] * q.shape[1] * (q.shape[3] + v.shape[3])),
            bytes=sum(x.numel() * x.element_size() for x in (q, k, v)) + made,
        )


attend = Attend()


def _choose(q: Tensor, k: Tensor, pattern: Pattern) -> tuple[Kernel, str]:
    q_len, kv_len = q.shape[2], k.shape[2]
    if q_len == 1 and (spans := _spans(k, pattern)) is not None:
        return "decode", f"one query sees {sum(map(len, spans)):,} keys"
    if pattern == everything() or (pattern == causal() and q_len in (1, kv_len)):
        return "dense", "the fused kernel needs no mask for this"
    if q.is_cuda:
        return "flex", "on a GPU, one kernel that skips blocks is faster than many small products"
    if isinstance(pattern, Dilated):
        plain = f"{pattern.step} plain windows, one for each remainder of positions"
        return "block_sparse", plain + _in_which(q)
    share = _layout(q, k, pattern).columns / (q_len * kv_len)
    if not blocks_pay(share, q):
        return "dense", f"blocks would still compute {share:.0%} of all scores"
    return "block_sparse", f"blocks compute {share:.1%} of all scores{_in_which(q)}"


def _in_which(q: Tensor) -> str:
    """The end of the reason: in which dtype blocks are computed, if not in that of `q`."""
    dtype, given = (str(x).removeprefix("torch.") for x in (multiplied_in(q), q.dtype))
    return "" if dtype == given else f", in {dtype}, which this processor multiplies faster"


def blocks_pay(share: float, q: Tensor) -> bool:
    """Whether blocks that compute this share of all scores are faster than one kernel for all."""
    return share <= (SPARSE_ENOUGH if q.is_cuda or multiplied_in(q) == torch.float32 else 1)


def _spans(k: Tensor, pattern: Pattern) -> tuple[Span, ...] | None:
    """The keys that the last query sees, if the pattern has a formula for them; otherwise None."""
    spans = pattern.spans(k.shape[2] - 1)
    if spans and spans[-1].stop > k.shape[2]:
        spans = tuple(Span(a, min(b, k.shape[2])) for a, b in spans if a < k.shape[2])
    return spans


def _layout(q: Tensor, k: Tensor, pattern: Pattern) -> Layout:
    return layout(pattern, q.shape[2], k.shape[2], q.device)


def _by_remainder(q: Tensor, k: Tensor, v: Tensor, pattern: Dilated, scale: float) -> Tensor:
    """A dilated window as `step` plain windows, one for each remainder of positions."""
    first = k.shape[2] - q.shape[2]
    parts = []
    for remainder in range(pattern.step):
        mine = q[:, :, (remainder - first) % pattern.step :: pattern.step]
        keys, values = (x[:, :, remainder :: pattern.step] for x in (k, v))
        if mine.shape[2]:
            blocks = _layout(mine, keys, sliding(pattern.size))
            parts.append((remainder, block_sparse(mine, keys, values, blocks, scale)))
    out = q.new_empty(*q.shape[:3], v.shape[3])
    for remainder, part in parts:
        out[:, :, (remainder - first) % pattern.step :: pattern.step] = part
    return out


def _check(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, kernel: str) -> None:
    shapes = f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if any(x.ndim != 4 for x in (q, k, v)):
        raise InputError(f"{shapes}; expected (batch, heads, length, dim) each.")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise InputError(
            f"{shapes}; expected the same batch, k and v with the same heads and length, and q and "
            "k with the same head_dim."
        )
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise InputError(f"{shapes}; expected the heads of q to be a multiple of those of k.")
    if q.shape[2] > k.shape[2]:
        raise InputError(f"{shapes}; expected no more queries than keys.")
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise InputError(
            f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; expected one floating-point dtype."
        )
    if kernel not in get_args(Kernel):
        raise InputError(f"kernel is {kernel!r}; expected one of {', '.join(get_args(Kernel))}.")
    if kernel == "decode" and (q.shape[2] > 1 or pattern.spans(0) is None):
        raise InputError(
            f"kernel is 'decode', for {q.shape[2]} queries under {pattern!r}; expected one query, "
            "and a pattern with a formula for what it sees. Use kernel='auto'."
        )
    if pattern.limit is not None and k.shape[2] > pattern.limit:
        raise InputError(
            f"{pattern!r} is made for {pattern.limit} tokens and there are {k.shape[2]} keys; "
            "expected at most that many."
        )
    for name, size in (("batch", q.shape[0]), ("heads", q.shape[1])):
        wanted = getattr(pattern, name)
        if wanted not in (None, size):
            raise InputError(
                f"{pattern!r} is made for {name} of {wanted}; {shapes}. Expected the same {name}."
            )
