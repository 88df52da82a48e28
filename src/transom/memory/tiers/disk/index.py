"""The index: the headers of all records in one file, so that opening need not search for them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transom.memory.tiers.base import Payload
from transom.memory.tiers.disk.block_file import DamagedError, file_size, map_file, write_file
from transom.memory.tiers.disk.record import HEADER, DiskRecord

__all__ = ["index_file_size", "item_size", "load_index", "write_index"]

HEAD = struct.Struct("<QQ")  # generation, records
ITEM = struct.Struct("<QI")  # start, bytes of the packed record
KEY = int.from_bytes(b"transomI", "little")


def item_size(header_size: int) -> int:
    """Bytes that the index takes for a record whose entry header has `header_size` bytes."""
    return ITEM.size + HEADER + header_size


def index_file_size(items: int) -> int:
    """Bytes of the index file when the records take `items` bytes in it."""
    return file_size(HEAD.size + items)


def write_index(path: Path, records: Iterable[DiskRecord], generation: int, salt: int) -> None:
    """Write the index of all records after `generation` changes.

    Raises:
        OSError: when it cannot be written; an older index then stays.
    """
    content, count = bytearray(HEAD.size), 0
    for record in records:
        packed = record.pack(salt)
        content += ITEM.pack(record.start, len(packed))
        content += packed
        count += 1
    HEAD.pack_into(content, 0, generation, count)
    write_file(path, KEY, np.frombuffer(content, dtype=np.uint8))


class Indexed(NamedTuple):
    """What an index says.

    Attributes:
        generation: how many changes there were when it was written.
        total: how many records there were.
        records: the records, read one by one.
    """

    generation: int
    total: int
    records: Iterator[DiskRecord]


def load_index(path: Path, salt: int) -> Indexed | None:
    """What the index says; None without a good one.

    Raises:
        DamagedError: from `records`, when one of them is damaged.
    """
    try:
        data = map_file(path, KEY)
        generation, count = HEAD.unpack_from(data.data)
    except (OSError, DamagedError, struct.error):
        return None
    return Indexed(generation, count, _records(data, count, salt))


def _records(data: Payload, count: int, salt: int) -> Iterator[DiskRecord]:
    at = HEAD.size
    for _ in range(count):
        if at + ITEM.size > len(data):
            raise DamagedError(f"the index ends before its {count:,} records do")
        start, size = ITEM.unpack_from(data.data, at)
        at += ITEM.size
        record = DiskRecord.unpack(data[at : at + size].tobytes(), start, salt)
        if record is None:
            raise DamagedError(f"the index has no record at byte {at:,}")
        yield record
        at += size
