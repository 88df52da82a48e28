"""Which sizes are worth measuring under a budget of memory: arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.errors import InputError, PolicyError
from transom.policies import ModelShape, Policy, kv_bytes_bound, parse

__all__ = ["HOLE", "Candidate", "Wish", "candidates", "sized"]

HOLE = "{}"  # what stands for the size in a policy's text
SMALLEST = 128  # tokens; below that a window is no context
SMALLER = 2  # sizes below the largest that fits, each half of the one above


@dataclass(frozen=True)
class Wish:
    """What a choice must fit into.

    Attributes:
        memory: bytes for the keys and values of all sessions; weights and scratch are besides.
        sessions: that are held at once.
        latency: seconds that a token may take, one session at a time; None for any.

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
        family: its text with a hole for the size; `"full"` for full attention.
        size: the most tokens it lets be seen, or the length that was looked at.
        bytes: of its keys and values, in one session.
        fits: whether as many sessions as wished fit into the memory.
    """

    family: str
    policy: Policy
    size: int
    bytes: int
    fits: bool


def candidates(
    families: Sequence[str], shape: ModelShape, wish: Wish, length: int, trained: int | None = None
) -> list[Candidate]:
    """Of each family the largest size that fits, the next larger and two smaller; and `full`.

    Sizes are powers of two, at most `length` and what the model was trained on: beyond the
    one nothing could be told apart, beyond the other models lose their way.

    Args:
        families: policies' texts with `{}` where the size goes: `sinks:4,window={}`.
        shape: sizes of the model.
        length: of the prompts that will be tried, in tokens.
        trained: tokens the model was trained on; None if unknown.

    Raises:
        InputError: when not even the smallest size fits, or a family has no hole.
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
            f"{wish.memory:,} bytes are {wish.each:,} for each session, and {SMALLEST} tokens of "
            f"keys and values take {least:,}; expected at least {least * wish.sessions:,}, or "
            "fewer sessions."
        )
    whole = length * shape.token_bytes
    return [*found, Candidate("full", parse("full"), length, whole, fits=False)]


def sized(family: str, size: int) -> Policy:
    """The policy of a family that lets `size` tokens be seen, sinks and all.

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
            return policy  # its parameters forbid that size; it is a little larger then
    return policy


def _candidate(family: str, size: int, shape: ModelShape, wish: Wish) -> Candidate:
    policy = sized(family, size)
    bound = kv_bytes_bound(policy, shape)
    bytes_ = size * shape.token_bytes if bound is None else bound
    return Candidate(family, policy, size, bytes_, bytes_ <= wish.each)
