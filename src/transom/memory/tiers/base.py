"""What every tier is: a mapping from whole numbers to bytes that keeps to its capacity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.errors import BudgetError, InputError, StoreError, TransomError
from transom.validation import known_keywords

__all__ = ["LONGEST_LABEL", "Payload", "Tier", "TierEvent", "as_payload"]

Payload = NDArray[np.uint8]

LARGEST_KEY = 2**64 - 1
LONGEST_LABEL = 4096  # bytes


class TierEvent(NamedTuple):
    """What another process did to a tier, or what was there when it was opened.

    Attributes:
        what: `add`, `drop` or `replace_header`.
        key: of which entry.
    """

    what: Literal["add", "drop", "new header"]
    key: int


@known_keywords
class Tier(MutableMapping[int, Any]):
    """Payloads under whole numbers of 64 bits, never more than `capacity` bytes of them.

    Values may be given as anything that has the buffer interface and come back as read-only
    `(bytes,)` uint8 arrays; two tiers, or a tier and a dictionary, are equal when their keys and
    bytes are. A tier never evicts by itself: `store` answers False when there is no room, and
    whoever composes tiers decides what leaves. A payload that cannot be read back as it was written
    is gone: a `KeyError`, and one more in `corrupt`; never wrong bytes.

    A tier implements the methods with a leading underscore, for which keys and payloads have been
    checked.

    Attributes:
        capacity: most bytes it may take.
        corrupt: payloads found damaged so far.
        durable: whether payloads outlive the process.
        writable: whether anything may be changed.
        closed: whether it was closed; then all that reads or writes raises a `StoreError`.
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
    closed: bool = False
    salt: int = 0

    # Bytes

    @property
    @abstractmethod
    def used(self) -> int:
        """Bytes taken, with everything that is needed to hold them."""

    @property
    @abstractmethod
    def peak(self) -> int:
        """Most bytes ever taken since it was opened."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that the bookkeeping takes, the keys left out."""

    @property
    def growth(self) -> int:
        """Bytes of memory that it may take beyond that, when tables are made anew to grow."""
        return self.nbytes // 3

    @property
    def full(self) -> bool:
        """Whether one more makes these tables grow."""
        return False

    @abstractmethod
    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes would fit if nothing else were held."""

    # Payloads

    def store(self, key: int, payload: Any, header: bytes = b"") -> bool:
        """Hold a copy of `payload` under `key`; False, and nothing changed, when that cannot be.

        That is so when there is no room, the tier cannot be written to, or the key is held already.

        Args:
            key: from 1 to 2**64 - 1.
            payload: bytes, or anything with the buffer interface.
            label: at most 4,096 bytes about it that can be had without it.

        Raises:
            InputError: on another key, payload or label.
            StoreError: when the tier is closed.
        """
        self._check_open()
        key, source = self._given_key(key), as_payload(payload)
        header = self._given_header(header)
        return self.writable and len(header) <= LONGEST_LABEL and self._store(key, source, header)

    def size(self, key: int) -> int:
        """Bytes of a payload; raises KeyError when it is not held."""
        return self._size(self._held_key(key))

    def header(self, key: int) -> bytes:
        """What was stored with the payload; raises KeyError when it is not held."""
        return self._header(self._held_key(key))

    def replace_header(self, key: int, header: bytes) -> None:
        """Put `header` in place of another one of the same length.

        Raises:
            KeyError: when `key` is not held.
            InputError: when the length is another, or it is no bytes.
            StoreError: when the tier cannot be written to.
        """
        former, header = self.header(key), self._given_header(header)
        if len(former) != len(header):
            raise InputError(
                f"{self.name} tier: the label of entry {key} has {len(former):,} bytes, and "
                f"{len(header):,} were given in its place; expected as many."
            )
        self._check_writable(key)
        self._replace_header(key, header)

    def __getitem__(self, key: int) -> Payload:
        return self._load(self._held_key(key))

    def __setitem__(self, key: int, payload: Any) -> None:
        """Hold `payload` in place of what is held under `key`, which stays when that fails.

        Raises:
            InputError: when the key or the payload is none.
            BudgetError: when it is larger than the tier, or there is no room for it now.
            StoreError: when the tier is closed, or cannot be written to.
        """
        self._check_open()
        key, source = self._given_key(key), as_payload(payload)
        self._check_writable(key)
        if not self.fits(source.nbytes):
            raise BudgetError(
                f"{self.name} tier: entry {key} has {source.nbytes:,} bytes, more than the "
                f"{self.capacity:,} that the tier may take; expected a smaller one."
            )
        with self.exclusive():
            held = key in self
            stored = self._replace(key, source) if held else self._store(key, source, b"")
        if not stored:
            raise self._not_stored(key, source.nbytes)

    def __delitem__(self, key: int) -> None:
        key = self._held_key(key)
        self._check_writable(key)
        self._delete(key)

    def __iter__(self) -> Iterator[int]:
        self._check_open()
        return iter(self._keys())

    def __contains__(self, key: object) -> bool:
        self._check_open()
        return is_key(key) and self._has(int(key))  # type: ignore[call-overload]

    def values(self) -> ValuesView[Any]:
        return Values(self)

    def items(self) -> ItemsView[int, Any]:
        return Items(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and all(
            key in other and same_bytes(value, other[key]) for key, value in self.items()
        )

    # For those who share it

    def news(self) -> Iterable[TierEvent]:
        """What changed since the last call by others; at the first call, everything there is."""
        return ()

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

    # The whole

    @abstractmethod
    def verify(self) -> list[int]:
        """Read everything; the keys of what was damaged, which is no longer held."""

    def flush(self) -> None:
        """Make what is held outlive the machine, where the tier can."""
        self._check_open()

    def close(self) -> None:
        """Let go of files and connections; again, and nothing happens."""
        if not self.closed:
            self._close()
            self.closed = True

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        self.close()
        return False

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.closed:
            return f"<{name}: closed>"
        return f"<{name}: {len(self):,} entries, {self.used:,} of {self.capacity:,} bytes>"

    # What a tier implements

    @abstractmethod
    def _store(self, key: int, source: Payload, header: bytes) -> bool:
        """As `store` does."""

    @abstractmethod
    def _load(self, key: int) -> Payload: ...

    @abstractmethod
    def _delete(self, key: int) -> None: ...

    @abstractmethod
    def _has(self, key: int) -> bool: ...

    @abstractmethod
    def _keys(self) -> list[int]: ...

    @abstractmethod
    def _size(self, key: int) -> int: ...

    @abstractmethod
    def _header(self, key: int) -> bytes: ...

    @abstractmethod
    def _replace_header(self, key: int, header: bytes) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _replace(self, key: int, source: Payload) -> bool:
        """Hold `source` in place of what `key` has; False, and nothing changed, without room.

        A copy of the former payload is kept until the new one is held.
        """
        former, header = self._load(key).copy(), self._header(key)
        self._delete(key)
        if self._store(key, source, b""):
            return True
        self._store(key, former, header)  # where it was before, so there is room
        return False

    def _not_stored(self, key: int, size: int) -> TransomError:
        """Why a payload that fits, of `size` bytes, was not stored."""
        return BudgetError(
            f"{self.name} tier: no room for the {size:,} bytes of entry {key}, "
            f"{self.used:,} of {self.capacity:,} are taken; delete something first."
        )

    # Checks

    def _check_open(self) -> None:
        if self.closed:
            raise StoreError(f"this {type(self).__name__} was closed; open another one.")

    def _check_writable(self, key: int) -> None:
        if not self.writable:
            raise StoreError(
                f"{self.name} tier: entry {key} cannot be changed, because the tier can only be "
                "read; open it where it can be written to."
            )

    def _given_key(self, key: Any) -> int:
        if not is_key(key):
            raise InputError(
                f"{self.name} tier: {key!r} ({type(key).__name__}) is no key; expected a whole "
                "number from 1 to 2**64 - 1."
            )
        return int(key)

    def _given_header(self, header: Any) -> bytes:
        if type(header) is bytes:
            return header
        if not isinstance(header, (bytes, bytearray, memoryview)):
            raise InputError(
                f"{self.name} tier: {header!r:.100} ({type(header).__name__}) is no header; "
                "expected bytes."
            )
        return bytes(header)

    def _held_key(self, key: Any) -> int:
        """`key` as a number; KeyError when it cannot be held."""
        self._check_open()
        if not is_key(key):
            raise KeyError(key)
        return int(key)


class Values(ValuesView[Any]):
    """The payloads of a tier; one is among them when its bytes are those of another."""

    def __contains__(self, value: object) -> bool:
        return any(same_bytes(held, value) for held in self)


class Items(ItemsView[int, Any]):
    """Keys and payloads of a tier, compared by their bytes."""

    def __init__(self, tier: Tier) -> None:
        super().__init__(tier)
        self._tier = tier

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        held = self._tier.get(item[0])
        return held is not None and same_bytes(held, item[1])


def is_key(key: object) -> bool:
    """Whether a tier may hold something under `key`."""
    whole = type(key) is int or (isinstance(key, (int, np.integer)) and not isinstance(key, bool))
    return whole and 1 <= key <= LARGEST_KEY  # type: ignore[operator]


def same_bytes(payload: Payload, other: object) -> bool:
    """Whether `other` has a buffer, with the bytes of `payload`.

    >>> same_bytes(as_payload(b"ab"), bytearray(b"ab")), same_bytes(as_payload(b"ab"), "ab")
    (True, False)
    """
    try:
        return np.array_equal(payload, as_payload(other))
    except InputError:
        return False


def as_payload(payload: Any) -> Payload:
    """The bytes of `payload`, `(bytes,)` uint8, sharing its memory.

    Raises:
        InputError: when it has no contiguous buffer.

    >>> as_payload(b"ab")
    array([97, 98], dtype=uint8)
    """
    try:
        if type(payload) is np.ndarray and payload.ndim == 1 and payload.flags.c_contiguous:
            found: Payload = payload.view(np.uint8)
            return found
        view = memoryview(payload)
        return np.frombuffer(view.cast("B") if view.nbytes else b"", dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(
            f"cannot store {type(payload).__name__} ({error}); expected bytes, or an object whose "
            "memory is one contiguous buffer."
        ) from error
