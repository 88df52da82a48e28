"""The account of a budget: bytes are entered before they are taken."""

from __future__ import annotations

from transom.validation import whole_number

__all__ = ["ByteBudget"]


class ByteBudget:
    """Bytes charged against a capacity, which they never exceed.

    Attributes:
        capacity: bytes that may be charged.
        bytes: bytes that are charged.
        peak: most bytes that ever were.

    Notes:
        Has no lock of its own; whoever charges it holds the manager's.

    >>> budget = ByteBudget(100)
    >>> budget.charge(60), budget.charge(60), budget.bytes, budget.peak
    (True, False, 60, 60)
    """

    __slots__ = ("bytes", "capacity", "peak")

    def __init__(self, capacity: int, owner: str = "ByteBudget", name: str = "capacity") -> None:
        self.capacity = whole_number(owner, name, capacity, 1, unit="bytes")
        self.bytes = 0
        self.peak = 0

    @property
    def room(self) -> int:
        """Bytes that may still be charged."""
        return self.capacity - self.bytes

    def charge(self, size: int) -> bool:
        """Enter `size` bytes; False, and nothing entered, when they exceed what is left."""
        now = self.bytes + size
        if now > self.capacity:
            return False
        self.bytes = now
        if now > self.peak:
            self.peak = now
        return True

    def free(self, size: int) -> None:
        """Take `size` bytes off, which were charged."""
        self.bytes -= size
