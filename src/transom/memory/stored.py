"""A manager of what is in a folder already, with the settings that it was made with."""

from __future__ import annotations

import os

from transom.memory.entry_header import EntryHeader
from transom.memory.manager import ContextMemoryManager
from transom.memory.tiers.disk.tier import DiskTier
from transom.validation import given_folder

__all__ = ["open_store"]

VOCABULARIES = {1: 2**8, 2: 2**16, 4: 2**31, 8: 2**63}


def open_store(path: str | os.PathLike[str], max_memory: int = 2**28) -> ContextMemoryManager:
    """A manager of the store in a folder; ids are held in as many bytes as there.

    Raises:
        StoreError: when there is no store, or it cannot be used.
    """
    folder = given_folder("open_store", "path", path)
    with DiskTier(folder) as tier:
        headers = map(EntryHeader.unpack, map(tier.header, tier))
        sizes = (header.itemsize for header in headers if header is not None and not header.state)
        itemsize = next(sizes, 4)  # where there is nothing, any will do
    return ContextMemoryManager(max_memory, disk=folder, vocab_size=VOCABULARIES[itemsize])
