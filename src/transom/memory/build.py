"""An entry store made from the settings of a manager."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from transom.errors import InputError, StoreError
from transom.memory.byte_budget import ByteBudget
from transom.memory.entry_store import EntryStore
from transom.memory.eviction import eviction as eviction_named
from transom.memory.tier_with_eviction import TierWithEviction
from transom.memory.tiers.base import Tier
from transom.memory.tiers.ram import RamTier
from transom.tokens import id_dtype
from transom.validation import given_folder

__all__ = ["build_store", "exclusive"]


def build_store(
    owner: str,
    budget: ByteBudget,
    *,
    disk: str | os.PathLike[str] | None,
    max_disk: int | None,
    write: Literal["through", "back"],
    eviction: str,
    vocab_size: int,
    quotas: Mapping[str, int],
) -> EntryStore:
    """An empty entry store, which has not learnt yet what is on disk.

    Args:
        owner: for errors.
        budget: what its memory is charged to.
        disk: as `ContextMemoryManager` takes it, like all that follow.
        max_disk: bytes.
        write: when entries go to disk.
        eviction: name of the policy.
        vocab_size: ids are below it.
        quotas: bytes by namespace.

    Raises:
        InputError: on settings that make no sense.
        StoreError: when the folder cannot be used.
    """
    if disk is None and max_disk is not None:
        raise InputError(f"{owner}: max_disk is {max_disk!r}, but no folder is given as disk.")
    if write not in ("through", "back"):
        raise InputError(f"{owner}: write is {write!r}; expected 'through' or 'back'.")
    fast = TierWithEviction(RamTier(budget), eviction_named(eviction, budget.capacity))
    slow = None
    if disk is not None:
        tier = _disk_tier(given_folder(owner, "disk", disk), max_disk)
        slow = TierWithEviction(tier, eviction_named(eviction, tier.capacity))
    salt = slow.payloads.salt if slow is not None else secrets.randbits(63)
    through = write == "through"
    return EntryStore(budget, fast, slow, id_dtype(vocab_size), through, quotas, salt)


def exclusive(store: EntryStore) -> AbstractContextManager[object]:
    """A context in which no other process changes the slow tier; it can be entered again."""
    slow = store.tables.slow
    return nullcontext() if slow is None else slow.payloads.exclusive()


def _disk_tier(path: Path, capacity: int | None) -> Tier:
    if os.name != "posix":
        raise StoreError(
            f"{path}: contexts can be kept on disk only on systems that lock files as Linux and "
            "macOS do; leave out disk here."
        )
    from transom.memory.tiers.disk import DiskTier

    return DiskTier(path, capacity)
