"""Which sizes are worth measuring under a budget of memory, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.errors import InputError, PolicyError
from transom.policies import ModelShape, Policy, kv_bytes_bound, parse

__all__ = ["HOLE", "Candidate", "Wish", "candidates", "sized"]

HOLE = "{}"  # stands for the size in a policy's text
SMALLEST = 128  # tokens; a smaller window is of no use as a context
SMALLER = 2  # how many sizes below the largest that fits, each half of the one above


@dataclass(frozen=True)
class Wish:
    """The limits that a choice must keep.

    Attributes:
        memory: bytes for the keys and values of all sessions, without weights and scratch memory.
        sessions: how many are held at once.
        latency: the most seconds for a token, one session at a time; None for no limit.

    Raises:
        InputError: when one of them is not above 0.
    """

    memory: int
    sessions: int = 1
    latency: float | None = None

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise InputError(f"sessions are {self.sessions}; expected at least 1.")
        if self.memory < 1 or (self.latency is not None and self.latency <= 0):
            raise InputError("memory and latency must be above 0.")

    @property
    def each(self) -> int:
        """Bytes for one session."""
        return self.memory // self.sessions


@dataclass(frozen=True)
class Candidate:
    """A policy of some size.

    Attributes:
        family: the policy's text with `{}` for the size; `"full"` for full attention.
        size: the most tokens that are visible at once; for `"full"`, the length of the prompts.
        bytes: of its keys and values, in one session.
        fits: whether the memory holds all the sessions.
    """

    family: str
    policy: Policy
    size: int
    bytes: int
    fits: bool


def candidates(
    families: Sequence[str], shape: ModelShape, wish: Wish, length: int, trained: int | None = None
) -> list[Candidate]:
    """The largest size of each family that fits, the next larger, two smaller ones, and `full`.

    Sizes are powers of two, at most `length` and `trained`. Sizes beyond `length` all do the same,
    and beyond what they were trained on models lose their way.

    Args:
        families: policies' texts with `{}` where the size goes: `sinks:4,window={}`.
        shape: sizes of the model.
        length: tokens of the prompts that will be tried.
        trained: tokens the model was trained on; None if unknown.

    Raises:
        InputError: when not even the smallest size fits, or a family has no `{}`.
        PolicyError: on a policy's text that makes no sense.
    """
    largest = min(length, trained or length)
    sizes = [SMALLEST << step for step in range(32) if SMALLEST << step <= largest]
    if not sizes:
        raise InputError(
            f"prompts of {largest:,} tokens are too short to choose by; expected at least "
            f"{SMALLEST}."
        )
    if not families:
        raise InputError("there are no policies to choose from; expected at least one.")
    found: list[Candidate] = []
    for family in dict.fromkeys(families):
        every = [_candidate(family, size, shape, wish) for size in sizes]
        fitting = sum(one.fits for one in every)
        found += every[max(0, fitting - 1 - SMALLER) : fitting + 1]
    if not any(one.fits for one in found):
        least = min(one.bytes for one in found)
        raise InputError(
            f"{wish.memory:,} bytes are {wish.each:,} for each session, but {SMALLEST} tokens of "
            f"keys and values take {least:,}; expected at least {least * wish.sessions:,}, or "
            "fewer sessions."
        )
    whole = length * shape.token_bytes
    return [*found, Candidate("full", parse("full"), length, whole, fits=False)]


def sized(family: str, size: int) -> Policy:
    """The policy of a family under which `size` tokens are visible, sinks included.

    >>> sized("sinks:4,window={}", 1024)
    Sinks(sinks=4, window=1020)
    """
    if HOLE not in family:
        raise InputError(
            f"{family!r} has no {HOLE}; expected a policy with {HOLE} where its size goes, such as "
            "sinks:4,window={}."
        )
    policy = parse(family.replace(HOLE, str(size)))
    over = 0 if policy.capacity is None else policy.capacity - size
    if 0 < over < size:
        try:
            return parse(family.replace(HOLE, str(size - over)))
        except PolicyError:
            return policy  # its parameters forbid the smaller size, so it is a little larger
    return policy


def _candidate(family: str, size: int, shape: ModelShape, wish: Wish) -> Candidate:
    policy = sized(family, size)
    bound = kv_bytes_bound(policy, shape)
    bytes_ = size * shape.token_bytes if bound is None else bound
    return Candidate(family, policy, size, bytes_, bytes_ <= wish.each)
