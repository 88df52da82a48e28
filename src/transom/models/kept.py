"""What GGUF files were converted to: folders in the cache, named by the content of the file."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from transom.errors import InputError
from transom.models.packaged import cache_folder
from transom.units import plain_size, to_bytes

__all__ = [
    "KeptModel",
    "cache_limit",
    "is_whole",
    "kept_folder",
    "kept_models",
    "make_room",
    "seal",
]

FORMAT = 1
PREFIX = "gguf-"
MANIFEST = "transom.json"
LIMIT = "32GiB"
_PIECE = 2**22


@dataclass(frozen=True)
class KeptModel:
    """A `.gguf` file in transformers' own format, in the cache folder.

    Attributes:
        file: the path that was converted; others with the same content use the folder too.
        path: of the folder.
        size_bytes: what it takes on disk.
        last_used: seconds since the epoch.
    """

    file: str
    path: Path
    size_bytes: int
    last_used: float


def kept_folder(file: Path, dtype: str) -> Path:
    """Where the conversion of a file to a dtype is kept, by this release of transformers.

    The file is read whole: its name, size and times say nothing about what is in it now.
    """
    name = f"{PREFIX}{_digest(file)}-{dtype}-{version('transformers')}"
    return cache_folder() / name


def is_whole(folder: Path) -> bool:
    """Whether a conversion is there, with every byte that was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return manifest["format"] == FORMAT and all(
            _digest(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def seal(made: Path, file: Path) -> None:
    """Write the checksums of all files in a new conversion of `file`, for `is_whole`."""
    files = {each.name: _digest(each) for each in sorted(made.iterdir())}
    manifest = {"format": FORMAT, "file": str(file.resolve()), "files": files}
    (made / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def kept_models() -> list[KeptModel]:
    """The conversions in the cache folder, the one that was used last first."""
    found = []
    for folder in cache_folder().glob(f"{PREFIX}*"):
        with suppress(OSError):  # Another process may remove it at the same time.
            size = sum(each.stat().st_size for each in folder.iterdir())
            found.append(KeptModel(_source(folder), folder, size, folder.stat().st_mtime))
    return sorted(found, key=lambda kept: -kept.last_used)


def make_room(size: int, limit: int, scratch: Path) -> str | None:
    """Remove the conversions that were used longest ago, until one more of `size` bytes fits.

    Args:
        size: of the new one.
        limit: of all together, in bytes.
        scratch: a folder on the same disk, to remove them in.

    Returns:
        Why it cannot fit, or None if it does.
    """
    if size > limit:
        return (
            f"it takes {plain_size(size)}, and TRANSOM_CACHE_LIMIT is {plain_size(limit)} for all "
            "converted files"
        )
    kept = kept_models()
    while kept and size + sum(each.size_bytes for each in kept) > limit:
        oldest = kept.pop()
        with suppress(OSError):  # Another process may remove it at the same time.
            # First out of sight, so that nobody finds half of it.
            shutil.rmtree(oldest.path.rename(scratch / oldest.path.name))
    free = shutil.disk_usage(scratch).free
    if size > free:
        return f"it takes {plain_size(size)}, and {plain_size(free)} are free"
    return None


def cache_limit() -> int:
    """The most bytes that all conversions may take: `$TRANSOM_CACHE_LIMIT`.

    Raises:
        InputError: when that is no size.
    """
    text = os.environ.get("TRANSOM_CACHE_LIMIT") or LIMIT
    try:
        return 0 if text.strip() == "0" else to_bytes(text, "TRANSOM_CACHE_LIMIT")
    except InputError as error:
        raise InputError(f"{error} Or 0, to keep no converted files.") from None


def _source(folder: Path) -> str:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        return str(manifest["file"])
    except (OSError, ValueError, TypeError, KeyError):
        return "damaged; it is made anew when it is needed"


def _digest(file: Path) -> str:
    """The xxh3 of a file's bytes, 128 bits in hexadecimal."""
    total = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            total.update(piece)
    return total.hexdigest()
