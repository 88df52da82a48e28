"""Tensors and facts in one file: written completely or not at all, with a checksum."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import xxhash
from torch import Tensor

from transom.atomic_files import atomic_write
from transom.errors import StateError

__all__ = ["read_state", "remove_leftovers", "write_state"]

FORMAT = "transom state 2"
CHECKSUM = re.compile(rb'"xxh3_128":"([0-9a-f]{32})"')
UNKNOWN = b'"xxh3_128":"' + b"0" * 32 + b'"'
BEGINNING = 64  # bytes in which the marks are; a file with neither mark is not ours
OPENING = b'{"__metadata__"'
MARKS = (OPENING[1:], b"transom state")
ALIGNED = 64
HEADER_AT_MOST = 100 * 2**20
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
Facts: TypeAlias = Mapping[str, Any]  # JSON

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_state(path: Path | str, tensors: Mapping[str, Tensor], facts: Facts) -> int:
    """Write tensors and facts to `path`: all of them, or the file stays as it was.

    The file is in the safetensors format: a header with names, dtypes and shapes, then the bytes.
    The facts are JSON in its metadata, beside a checksum of the whole file. A temporary file in the
    same folder is written, synced to disk and renamed; see `transom.atomic_files`.

    Returns:
        The size of the file in bytes.

    Raises:
        StateError: when it cannot be written there.
    """
    path = Path(path)
    # Wide dtypes first, so that each tensor starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    flat = {name: _bytes_of(tensors[name]) for name in names}
    header = _header(tensors, flat, facts)
    sum_ = xxhash.xxh3_128(header)
    for data in flat.values():
        sum_.update(data)
    header = header.replace(UNKNOWN, UNKNOWN.replace(b"0" * 32, sum_.hexdigest().encode()))
    try:
        with atomic_write(path) as file:
            file.write(header)
            for part in flat.values():
                file.write(part)
    except OSError as error:
        raise StateError(
            f"{path} could not be written: {error.strerror or error}. What was there before is "
            "unchanged; expected a folder that can be written to, with room for "
            f"{len(header) + sum(map(len, flat.values())):,} bytes."
        ) from error
    return len(header) + sum(map(len, flat.values()))


def read_state(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file, after checking its checksum.

    The tensors are on the CPU, in the pages of the file, mapped privately: writing to them does not
    change the file, and the system can take back the memory of pages that were only read. The file
    may be deleted or replaced meanwhile, as `write_state` does, but must not be changed in place.

    Raises:
        StateError: when there is no such file, or it is damaged, or is no saved state.
    """
    path = Path(path)
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise _damaged(path, f"it ends after {size} bytes")
            data = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.uint8)
    except OSError as error:
        raise StateError(
            f"{path} could not be read: {error.strerror or error}. Expected a file that "
            "Context.save has written."
        ) from error
    beginning = data[:BEGINNING].tobytes()
    if size > 8 and not (OPENING.startswith(beginning[8:]) or any(x in beginning for x in MARKS)):
        raise StateError(
            f"{path} is no saved context: it begins with {beginning[:16]!r}. Nothing was read or "
            "changed; expected a file that Context.save or `transom chat --session` has written, "
            "or for a new one a name that is not taken."
        )
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(HEADER_AT_MOST, len(data) - 8):
        raise _damaged(path, "its header is longer than the file")
    header = data[: 8 + length].tobytes()
    found = CHECKSUM.findall(header)
    if len(found) != 1:
        raise _damaged(path, "its header has no checksum")
    sum_ = xxhash.xxh3_128(CHECKSUM.sub(UNKNOWN, header))
    sum_.update(data[8 + length :].data)
    if sum_.hexdigest().encode() != found[0]:
        raise _damaged(path, "its checksum does not fit its bytes")
    listed = json.loads(header[8:])
    facts = json.loads(listed.pop("__metadata__")["facts"])
    if (written := facts.pop("format")) != FORMAT:
        raise StateError(
            f"{path} was written in another format, {written!r}, by another version of transom; "
            f"expected {FORMAT!r}. Load it with that version, or feed the text again."
        )
    whole = torch.from_numpy(data)[8 + length :]
    tensors = {}
    for name, entry in listed.items():
        start, stop = entry["data_offsets"]
        tensors[name] = whole[start:stop].view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return tensors, facts


def remove_leftovers(path: Path | str) -> None:
    """Remove the temporary files that killed writers of `path` have left beside it."""
    if os.name != "posix":  # on Windows, os.kill would end the process
        return
    path = Path(os.path.realpath(path))
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for other in path.parent.iterdir():
        if (match := pattern.fullmatch(other.name)) and not _runs(int(match[1])):
            other.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _header(tensors: Mapping[str, Tensor], flat: Mapping[str, memoryview], facts: Facts) -> bytes:
    """The length, then JSON, padded so that the tensors behind it are aligned."""
    metadata = {"facts": json.dumps({"format": FORMAT, **facts}), "xxh3_128": "0" * 32}
    listed: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, data in flat.items():
        tensor = tensors[name]
        listed[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
    written = json.dumps(listed, separators=(",", ":")).encode()
    written += b" " * (-(len(written) + 8) % ALIGNED)
    return len(written).to_bytes(8, "little") + written


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _damaged(path: Path, what: str) -> StateError:
    return StateError(
        f"{path} is damaged: {what}. Nothing was loaded; expected a file as Context.save wrote it. "
        "Restore it from a copy, or start again."
    )
