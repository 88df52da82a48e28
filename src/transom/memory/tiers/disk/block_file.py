"""Immutable files of one payload each: a header with a checksum per MiB, then the bytes."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from transom.atomic_files import sync_folder
from transom.memory.tiers.base import Payload

__all__ = ["DamagedError", "file_size", "in_use", "map_file", "on_disk", "write_file"]

MAGIC = b"transomB"
HEAD = struct.Struct("<8sIIQQQ")  # magic, version, 0, key, bytes of payload, salt
VERSION = 1
PIECE = 1 << 20  # bytes under one checksum
PAGE = mmap.PAGESIZE


class DamagedError(ValueError):
    """A file does not hold what was written. Never leaves the tier."""


def file_size(size: int) -> int:
    """Bytes of the file for a payload of `size` bytes: whole pages."""
    return _header_size(size) + -(-size // PAGE) * PAGE


def on_disk(path: Path) -> int:
    """Bytes that the file system has allocated for a file; 0 without one."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def write_file(path: Path, key: int, payload: Payload) -> None:
    """Write a file atomically, so that it survives a loss of power.

    Its room is allocated before anything is written, so a full disk is an error at once.

    Raises:
        OSError: when it cannot be written; nothing of it is left.
    """
    pieces = [payload[at : at + PIECE] for at in range(0, payload.nbytes, PIECE)]
    head = HEAD.pack(MAGIC, VERSION, 0, key, payload.nbytes, 0)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _reserve(file, file_size(payload.nbytes))
        at = _header_size(payload.nbytes)
        checks = bytearray()
        for piece in pieces:
            checks += struct.pack("<Q", xxh3_64_intdigest(piece.data, key))
            _write(file, piece.data, at)
            at += piece.nbytes
        header = head + checks
        _write(file, memoryview(header + struct.pack("<Q", xxh3_64_intdigest(header, key))), 0)
        os.fsync(file)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(file)
    sync_folder(path.parent)


def map_file(path: Path, key: int) -> Payload:
    """The payload of a file, `(bytes,)` uint8, mapped and checked.

    The file is marked as in use while anything refers to the payload.

    Raises:
        DamagedError: when a checksum is wrong, or the file is that of another key.
        OSError: when the file cannot be read.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size = os.fstat(file).st_size
        if size < HEAD.size + 8:
            raise DamagedError(f"{path} has {size} bytes, fewer than a header")
        whole = np.frombuffer(mmap.mmap(file, size, prot=mmap.PROT_READ), dtype=np.uint8)
        start, length = _checked(path, key, whole)
        for number, at in enumerate(range(start, start + length, PIECE)):
            piece = whole[at : min(at + PIECE, start + length)]
            expected = struct.unpack_from("<Q", whole.data, HEAD.size + 8 * number)[0]
            if xxh3_64_intdigest(piece.data, key) != expected:
                raise DamagedError(f"{path}: piece {number} is damaged")
    except BaseException:
        os.close(file)
        raise
    weakref.finalize(whole, os.close, file)
    return whole[start : start + length]


def in_use(path: Path) -> bool:
    """Whether anything, in any process, refers to the payload of a file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _checked(path: Path, key: int, whole: Payload) -> tuple[int, int]:
    """Where the payload starts, and how many bytes it has, from a header that is checked."""
    magic, version, _, found, length, _ = HEAD.unpack_from(whole.data)
    end = HEAD.size + 8 * len(range(0, length, PIECE)) if length < len(whole) else 0
    if magic != MAGIC or version != VERSION or found != key or not end or end + 8 > len(whole):
        raise DamagedError(f"{path} has no header of entry {key}")
    if xxh3_64_intdigest(whole[:end].data, key) != struct.unpack_from("<Q", whole.data, end)[0]:
        raise DamagedError(f"{path}: the header is damaged")
    start = _header_size(length)
    if start + length > len(whole):
        raise DamagedError(f"{path} has {len(whole)} bytes, expected {start + length}")
    return start, length


def _header_size(size: int) -> int:
    return -(-(HEAD.size + 8 * len(range(0, size, PIECE)) + 8) // PAGE) * PAGE


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def _write(file: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


def files(folder: Path, suffix: str) -> Iterator[Path]:
    """Files in `folder` whose names end in `suffix`."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.endswith(suffix):
                yield Path(entry.path)
