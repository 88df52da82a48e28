"""What every tier is: a mapping from whole numbers to bytes that keeps to its capacity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.errors import BudgetError, InputError

__all__ = ["News", "Payload", "Tier", "as_payload"]

Payload = NDArray[np.uint8]


class News(NamedTuple):
    """What another process did to a tier, or what was there when it was opened.

    Attributes:
        what: `add`, `drop` or `relabel`.
        key: of which entry.
        label: what is stored with it.
    """

    what: Literal["add", "drop", "relabel"]
    key: int
    label: bytes


class Tier(MutableMapping[int, Any]):
    """Payloads under whole numbers of 64 bits, never more than `capacity` bytes of them.

    Values may be given as anything that has the buffer interface and come back as read-only
    `(bytes,)` uint8 arrays. A tier never evicts by itself: `store` answers False when there is no
    room, and whoever composes tiers decides what leaves. A payload that cannot be read back as it
    was written is gone: a `KeyError`, and one more in `corrupt`; never wrong bytes.

    Attributes:
        capacity: most bytes it may take.
        corrupt: payloads found damaged so far.
        durable: whether payloads outlive the process.
        writable: whether anything may be changed.
        salt: a number that hashes of what is held may start from, so that nobody can guess them;
            the same for all who share the tier.

    Notes:
        A tier may be used from several threads only under a lock that they share, which the
        manager has.
    """

    name: ClassVar[str]
    durable: ClassVar[bool]
    capacity: int
    corrupt: int = 0
    writable: bool = True
    salt: int = 0

    @property
    @abstractmethod
    def used(self) -> int:
        """Bytes taken, with everything that is needed to hold them."""

    @property
    @abstractmethod
    def peak(self) -> int:
        """Most bytes ever taken since it was opened."""

    @abstractmethod
    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes would fit if nothing else were held."""

    @abstractmethod
    def store(self, key: int, payload: Any, label: bytes = b"") -> bool:
        """Hold a copy of `payload` under `key`; False, and nothing changed, when there is no room.

        Args:
            key: from 1 to 2**64 - 1, not held so far.
            payload: bytes, or anything with the buffer interface.
            label: a few bytes about it that can be had without it.
        """

    @abstractmethod
    def size(self, key: int) -> int:
        """Bytes of a payload; raises KeyError when it is not held."""

    @abstractmethod
    def label(self, key: int) -> bytes:
        """What was stored with the payload; raises KeyError when it is not held."""

    @abstractmethod
    def relabel(self, key: int, label: bytes) -> None:
        """Put `label` in place of another one of the same length."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that the bookkeeping takes, the keys left out."""

    def news(self) -> list[News]:
        """What changed since the last call by others; at the first call, everything there is."""
        return []

    def exclusive(self) -> AbstractContextManager[object]:
        """While it lasts, no other process changes the tier."""
        return nullcontext()

    @property
    def steady(self) -> bool:
        """Whether nobody else can change the tier at this moment."""
        return True

    def maps(self, size: int) -> bool:
        """Whether a payload of `size` bytes is read in place, so that a copy gains nothing."""
        return False

    def report(self, numbers: Sequence[int]) -> None:
        """Tell who shares the tier about this process; see `transom.memory.activity`."""

    def pin(self, key: int) -> None:
        """Have other processes keep `key` as well; what this process keeps, it knows itself."""

    def unpin(self, key: int) -> None:
        """One pin of `key` fewer."""

    def may_go(self, key: int) -> bool:
        """Whether nobody else needs `key` to stay, in this process or another."""
        return True

    @abstractmethod
    def verify(self) -> list[int]:
        """Read everything; the keys of what was damaged, which is no longer held."""

    def flush(self) -> None:
        """Make what is held outlive the machine, where the tier can."""

    def close(self) -> None:
        """Let go of files and connections; the tier cannot be used afterwards."""

    def __setitem__(self, key: int, payload: Any) -> None:
        """Hold `payload` in place of what is held under `key`.

        Raises:
            BudgetError: when it is larger than the tier, or there is no room for it now.
        """
        payload = as_payload(payload)
        if not self.fits(payload.nbytes):
            raise BudgetError(
                f"{self.name} tier: entry {key} has {payload.nbytes:,} bytes, more than the "
                f"{self.capacity:,} that the tier may take; expected a smaller one."
            )
        if key in self:
            del self[key]
        if not self.store(key, payload):
            raise BudgetError(
                f"{self.name} tier: no room for the {payload.nbytes:,} bytes of entry {key}, "
                f"{self.used:,} of {self.capacity:,} are taken; delete something first."
            )

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        self.close()
        return False

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name}: {len(self):,} entries, {self.used:,} of {self.capacity:,} bytes>"


def as_payload(payload: Any) -> Payload:
    """The bytes of `payload`, `(bytes,)` uint8, sharing its memory.

    Raises:
        InputError: when it has no contiguous buffer.

    >>> as_payload(b"ab")
    array([97, 98], dtype=uint8)
    """
    if type(payload) is np.ndarray and payload.ndim == 1 and payload.flags.c_contiguous:
        found: Payload = payload.view(np.uint8)
        return found
    try:
        view = memoryview(payload)
        return np.frombuffer(view.cast("B") if view.nbytes else b"", dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(
            f"cannot store {type(payload).__name__} ({error}); expected bytes, or an object whose "
            "memory is one contiguous buffer."
        ) from error
