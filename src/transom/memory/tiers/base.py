"""What every tier is: a mapping from whole numbers to bytes that keeps to its capacity."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from typing import ClassVar, Literal, Self

from transom.errors import BudgetError, InputError, StoreError, TransomError
from transom.memory.tiers.given import as_key, given_header, given_key
from transom.memory.tiers.payload import Items, Payload, Values, as_payload, same_bytes
from transom.memory.tiers.sharing import Sharing, TierEvent
from transom.validation import known_keywords

__all__ = ["LONGEST_HEADER", "Payload", "Tier", "TierEvent", "as_payload"]

LONGEST_HEADER = 4096  # bytes


@known_keywords
class Tier(Sharing, MutableMapping[int, Payload]):
    """Payloads under whole numbers of 64 bits, in at most `capacity` bytes.

    Anything with the buffer interface may be stored. It comes back as a read-only `(bytes,)` uint8
    array. Two tiers, or a tier and a dictionary, are equal when their keys and bytes are.

    A tier never evicts by itself: `store` returns False when there is no room. A payload that
    cannot be read back as it was written is gone: reading it raises a `KeyError`, and `corrupt`
    grows by one. Wrong bytes are never returned.

    Subclasses implement the methods with a leading underscore, whose arguments are checked already.

    Attributes:
        name: what the tier is called in errors and statistics.
        capacity: most bytes it may take.
        corrupt: how many payloads were found damaged.
        durable: whether payloads outlive the process.
        writable: whether it can be changed.
        closed: whether it was closed; reading or writing then raises a `StoreError`.
        salt: a secret number to start hashes from, the same for all who share the tier.

    Notes:
        Several threads may use a tier only under a lock of their own; the manager has one.
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
        """Bytes taken, with all that is needed to hold the payloads."""

    @property
    @abstractmethod
    def peak(self) -> int:
        """Most bytes taken since it was opened."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that its tables take, without the keys."""

    @property
    def growth(self) -> int:
        """Bytes of memory that its tables take in addition when they grow."""
        return self.nbytes // 3

    @property
    def full(self) -> bool:
        """Whether the tables must grow for one more payload."""
        return False

    @abstractmethod
    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes fits into the empty tier."""

    # Payloads

    def store(self, key: int, payload: object, header: bytes = b"") -> bool:
        """Hold a copy of `payload` under `key`.

        Args:
            key: from 1 to 2**64 - 1.
            payload: bytes, or anything with the buffer interface.
            header: at most 4,096 bytes about it, to be read without it.

        Returns:
            Whether it was stored. It is not when there is no room, when the tier is read-only, or
            when the key is held already; nothing is changed then.

        Raises:
            InputError: on another key, payload or header.
            StoreError: when the tier is closed.
        """
        self._check_open()
        key, source = given_key(self.name, key), as_payload(payload)
        header = given_header(self.name, header)
        return self.writable and len(header) <= LONGEST_HEADER and self._store(key, source, header)

    def size(self, key: int) -> int:
        """Bytes of a payload.

        Raises:
            KeyError: when `key` is not held.
        """
        return self._size(self._held_key(key))

    def header(self, key: int) -> bytes:
        """The header that was stored with a payload.

        Raises:
            KeyError: when `key` is not held.
        """
        return self._header(self._held_key(key))

    def replace_header(self, key: int, header: bytes) -> None:
        """Replace the header of `key` with another one of the same length.

        Raises:
            KeyError: when `key` is not held.
            InputError: when `header` is not bytes, or of another length.
            StoreError: when the tier is read-only.
        """
        former, header = self.header(key), given_header(self.name, header)
        if len(former) != len(header):
            raise InputError(
                f"{self.name} tier: the header of entry {key} has {len(former):,} bytes, and "
                f"{len(header):,} were given in its place; expected as many."
            )
        self._check_writable(key)
        self._replace_header(key, header)

    def label(self, key: int) -> bytes:
        """The former name of `header`; deprecated."""
        warnings.warn("Tier.label is now Tier.header; call that.", DeprecationWarning, 3)
        return self.header(key)

    def relabel(self, key: int, label: bytes) -> None:
        """The former name of `replace_header`; deprecated."""
        warnings.warn("Tier.relabel is now Tier.replace_header; call that.", DeprecationWarning, 3)
        self.replace_header(key, label)

    def __getitem__(self, key: int) -> Payload:
        return self._load(self._held_key(key))

    def __setitem__(self, key: int, payload: object) -> None:
        """Hold `payload` under `key`. If that fails, the former payload stays.

        Raises:
            InputError: when it is not a valid key or payload.
            BudgetError: when it is larger than the tier, or there is no room for it.
            StoreError: when the tier is closed or read-only.
        """
        self._check_open()
        key, source = given_key(self.name, key), as_payload(payload)
        self._check_writable(key)
        if not self.fits(source.nbytes):
            raise BudgetError(
                f"{self.name} tier: entry {key} has {source.nbytes:,} bytes, more than the "
                f"{self.capacity:,} that the tier may take; store a smaller one."
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
        found = as_key(key)
        return found is not None and self._has(found)

    def values(self) -> ValuesView[Payload]:
        return Values(self)

    def items(self) -> ItemsView[int, Payload]:
        return Items(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and all(
            key in other and same_bytes(value, other[key]) for key, value in self.items()
        )

    # The whole

    @abstractmethod
    def verify(self) -> list[int]:
        """Read everything and delete what is damaged; the keys of that."""

    def flush(self) -> None:
        """Make what is held survive a loss of power, if the tier is durable."""
        self._check_open()

    def close(self) -> None:
        """Close files and connections; calling it again does nothing."""
        if not self.closed:
            self._close()
            self.closed = True

    def __enter__(self) -> Self:
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
        """Replace the payload of `key`; False, with nothing changed, without room."""
        former, header = self._load(key).copy(), self._header(key)
        self._delete(key)
        if self._store(key, source, b""):
            return True
        self._store(key, former, header)  # Its place is still free.
        return False

    def _not_stored(self, key: int, size: int) -> TransomError:
        """The error for a payload of `size` bytes that fits into the tier but was not stored."""
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

    def _held_key(self, key: object) -> int:
        """`key` as a number; a KeyError when it is no key."""
        self._check_open()
        found = as_key(key)
        if found is None:
            raise KeyError(key)
        return found
