"""What is where in the data file, as one immutable file, so that opening need not look for it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from transom.memory.tiers.disk.blockfile import DamagedError, file_size, map_file, write_file
from transom.memory.tiers.disk.record import HEADER, Record

__all__ = ["index_file_size", "item_size", "load_index", "write_index"]

HEAD = struct.Struct("<QQ")  # generation, records
ITEM = struct.Struct("<QI")  # start, bytes of the header with its label
KEY = int.from_bytes(b"transomI", "little")


def item_size(label_size: int) -> int:
    """Bytes that the index takes for a record with a label of that size."""
    return ITEM.size + HEADER + label_size


def index_file_size(items: int) -> int:
    """Bytes of the file when the records take `items` bytes in it."""
    return file_size(HEAD.size + items)


def write_index(path: Path, records: Iterable[Record], generation: int, salt: int) -> None:
    """Write which records there are after so many changes.

    Raises:
        OSError: when it cannot be written; an older index is then still there.
    """
    parts = [b""]
    for record in records:
        packed = record.pack(salt)
        parts += [ITEM.pack(record.start, len(packed)), packed]
    parts[0] = HEAD.pack(generation, len(parts) // 2)
    write_file(path, KEY, np.frombuffer(b"".join(parts), dtype=np.uint8))


def load_index(path: Path, salt: int) -> tuple[int, list[Record]] | None:
    """After how many changes it was written, and the records then; None without a good one."""
    try:
        data = map_file(path, KEY).tobytes()
        generation, count = HEAD.unpack_from(data)
        at, records = HEAD.size, []
        for _ in range(count):
            start, size = ITEM.unpack_from(data, at)
            at += ITEM.size
            record = Record.unpack(data[at : at + size], start, salt)
            if record is None:
                return None
            records.append(record)
            at += size
    except (OSError, DamagedError, struct.error):
        return None
    return generation, records
