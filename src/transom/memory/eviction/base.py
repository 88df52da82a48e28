"""The interface of eviction policies: an order in which the entries of a tier leave it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import ClassVar, NamedTuple

from transom.errors import InputError
from transom.validation import whole_number

__all__ = ["Eviction", "MayGo", "Newcomer"]

MayGo = Callable[[Hashable], bool]

# Bytes that a number and a pair take in memory, with what the garbage collector adds.
NUMBER, PAIR = 32, 72
KEY = 64  # bytes of a key of twenty or thirty characters


class Newcomer(NamedTuple):
    """What room is made for.

    Attributes:
        key: its key.
        size: its bytes.
        cost: seconds that it takes to compute it again.
    """

    key: Hashable
    size: int
    cost: float = 0.0


class Eviction(ABC):
    """The order in which keys leave a tier of `capacity` bytes. It knows keys, not data.

    The holder of the data tells the policy what happens to it, and asks for a `victim` until there
    is room:

    ```
    while eviction.bytes + new.size > eviction.capacity:
        key = eviction.victim(new)
        if key is None or key == new.key:
            return                      # all keys are pinned, or the newcomer is worth the least
        eviction.remove(key, evicted=True)
    eviction.add(*new)
    ```

    A pinned key is never a victim. Pins are counted: one for each reader, and one for each block
    that continues it, so that chains are evicted from their ends. Touch the deepest block of a
    chain first, so that parents outlive their children.

    A policy implements the methods with a leading underscore. Their arguments are checked already,
    and `self._sizes` and `self._pins` are up to date when they are called.

    Attributes:
        name: what the policy is called in settings.
        summary: one line for lists of policies.
        capacity: bytes that the tier may hold.
        bytes: sum of the sizes of the keys held.

    Notes:
        Every call takes O(log n) amortized, however many keys are pinned. Not safe for use from
        several threads.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    capacity: int
    bytes: int

    def __init__(self, capacity: int) -> None:
        self.capacity = whole_number(type(self).__name__, "capacity", capacity, 1, unit="bytes")
        self.bytes = 0
        self._sizes: dict[Hashable, int] = {}
        self._pins: dict[Hashable, int] = {}  # only keys with pins

    def add(self, key: Hashable, size: int, cost: float = 0.0) -> None:
        """`key` is held from now on.

        Args:
            key: what is held.
            size: its bytes.
            cost: seconds that it takes to compute it again.

        Raises:
            InputError: when it is held already.
        """
        if key in self._sizes:
            raise InputError(
                f"{self!r}: {key!r} is added, but it is held already; remove it first."
            )
        self._sizes[key] = size
        self.bytes += size
        self._add(key, size, cost)

    def touch(self, key: Hashable) -> None:
        """`key` was used.

        Raises:
            InputError: when it is not held.
        """
        if key not in self._sizes:
            raise self._not_held(key, "touched")
        self._touch(key)

    def pin(self, key: Hashable) -> None:
        """`key` may not leave until it is unpinned as often as it was pinned.

        Raises:
            InputError: when it is not held.
        """
        if key not in self._sizes:
            raise self._not_held(key, "pinned")
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: Hashable) -> None:
        """Take one pin off `key`.

        Raises:
            InputError: when it is not held or not pinned.
        """
        pins = self._pins.get(key)
        if pins is None:
            if key not in self._sizes:
                raise self._not_held(key, "unpinned")
            raise InputError(f"{self!r}: {key!r} is unpinned more often than it was pinned.")
        if pins > 1:
            self._pins[key] = pins - 1
        else:
            del self._pins[key]
            self._unpinned(key)

    def victim(
        self, newcomer: Newcomer | None = None, may_go: MayGo | None = None
    ) -> Hashable | None:
        """The key that should leave first. It stays held until it is removed.

        Args:
            newcomer: what room is made for. A policy with admission may return the key of the
                newcomer, when every held key is worth more.
            may_go: a last check, for what pins do not say. Keys that it refuses are passed over one
                by one, so it should refuse few.

        Returns:
            The key; None when no key may leave.
        """
        if len(self._pins) == len(self._sizes):
            return None
        return self._victim(newcomer, may_go)

    def remove(self, key: Hashable, *, evicted: bool = False) -> None:
        """`key` is no longer held, whether pinned or not.

        Args:
            key: what is no longer held.
            evicted: whether it was the victim. A policy may remember it then.

        Raises:
            InputError: when it is not held.
        """
        size = self._sizes.pop(key, None)
        if size is None:
            raise self._not_held(key, "removed")
        self._pins.pop(key, None)
        self.bytes -= size
        self._remove(key, size, evicted)

    @property
    def pinned(self) -> int:
        """How many keys are pinned."""
        return len(self._pins)

    @property
    def nbytes(self) -> int:
        """An upper bound of the bytes of memory that this takes, without the keys held."""
        return sys.getsizeof(self._sizes) + sys.getsizeof(self._pins) + NUMBER * len(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._sizes

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name}: {len(self):,} keys, {self.bytes:,} of {self.capacity:,} bytes>"

    @abstractmethod
    def _add(self, key: Hashable, size: int, cost: float) -> None: ...

    @abstractmethod
    def _touch(self, key: Hashable) -> None: ...

    @abstractmethod
    def _unpinned(self, key: Hashable) -> None:
        """The last pin of `key` was taken off."""

    @abstractmethod
    def _victim(self, newcomer: Newcomer | None, may_go: MayGo | None) -> Hashable | None: ...

    @abstractmethod
    def _remove(self, key: Hashable, size: int, evicted: bool) -> None: ...

    def _not_held(self, key: Hashable, what: str) -> InputError:
        return InputError(f"{self!r}: {key!r} is {what}, but it is not held.")
