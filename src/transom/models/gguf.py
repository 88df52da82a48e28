"""A `.gguf` file, converted once and then read from what was kept of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transom.errors import ModelNotFoundError
from transom.models import whole_folders
from transom.models.kept import cache_limit, is_whole, kept_folder, make_room, seal
from transom.models.packaged import Report, cache_folder
from transom.models.pretrained import from_folder, from_gguf, gist, save

if TYPE_CHECKING:
    import torch

__all__ = ["from_gguf_once"]

_logger = logging.getLogger("transom.models")
_SCRATCH = "converting"
# With these, transformers is asked for something else than the weights of this file as numbers.
_OTHERWISE = frozenset({"gguf_file", "quantization_config", "subfolder"})


def from_gguf_once(
    file: Path, dtype: torch.dtype | str, kwargs: dict[str, Any], report: Report
) -> Any:
    """Model and tokenizer of a GGUF file; the first call for a content converts and keeps it.

    Where it cannot be kept (no room, a cache folder that cannot be written), it is converted all
    the same, and the logger `transom.models` says why.

    Raises:
        ModelNotFoundError: when transformers cannot load the file.
        InputError: when `TRANSOM_CACHE_LIMIT` is no size.
    """
    if kwargs.keys() & _OTHERWISE:
        return from_gguf(file, dtype, kwargs)
    try:
        folder = kept_folder(file, str(dtype).removeprefix("torch."))
    except OSError as error:
        raise ModelNotFoundError(f"{file} cannot be read: {gist(error)}.") from error
    if is_whole(folder):
        return _read(folder, file, dtype, kwargs)
    limit = cache_limit()
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(_alone(folder))
        except OSError as error:
            _say(file, f"{cache_folder()} cannot be written ({error})")
            return from_gguf(file, dtype, kwargs)
        if not is_whole(folder):  # Another process may have made it while this one waited.
            report(f"converting {file.name} to {folder} ...")
            model, tokenizer = from_gguf(file, dtype, {})
            obstacle = _keep(model, tokenizer, file, folder, scratch, limit)
            if obstacle is not None:
                _say(file, obstacle)
                return (model, tokenizer) if not kwargs else from_gguf(file, dtype, kwargs)
            del model
    return _read(folder, file, dtype, kwargs)


def _read(folder: Path, file: Path, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    with suppress(OSError):  # In a folder that is read only, nothing is removed either.
        os.utime(folder)
    try:
        return from_folder(folder, dtype, kwargs, f"It was made of {file}.")
    except ModelNotFoundError:
        if is_whole(folder):
            raise
        return from_gguf(file, dtype, kwargs)  # Another process has just removed it.


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """A scratch folder to make `folder` in, once no other process makes it."""
    whole_folders.sweep(_SCRATCH)
    with whole_folders.scratch(_SCRATCH) as scratch:
        lock = folder.with_name(f".{folder.name}.lock")
        with lock.open("ab") as held:
            with suppress(OSError, ModuleNotFoundError):
                # Without file locks, several processes may make it, and the first one counts.
                locks = import_module("fcntl")
                locks.flock(held, locks.LOCK_EX)
            try:
                yield scratch
            finally:
                lock.unlink(missing_ok=True)


def _keep(
    model: Any, tokenizer: Any, file: Path, folder: Path, scratch: Path, limit: int
) -> str | None:
    """Keep a converted model in `folder`; why that cannot be, or None if it was done."""
    from safetensors import SafetensorError

    made = scratch / "model"
    try:
        if folder.exists():
            _logger.warning("%s is damaged; it is made anew from %s", folder, file)
            folder.rename(scratch / "damaged")
        if (obstacle := make_room(_size(model), limit, scratch)) is not None:
            return obstacle
        save(model, tokenizer, made)
        seal(made, file)
        if (changed := _changed(model, tokenizer, made)) is not None:
            return f"once saved, transformers reads {changed}"
        whole_folders.publish(made, folder)
    except (OSError, SafetensorError) as error:
        return f"{cache_folder()} cannot be written ({gist(error)})"
    return None


def _changed(model: Any, tokenizer: Any, made: Path) -> str | None:
    """What is not the same once it was saved and read; None if everything is."""
    import torch

    try:
        again, words = from_folder(made, model.dtype, {}, "")
    except Exception as error:  # The library of tokenizers raises nothing more specific.
        return f"an error ({gist(error)})"
    mine, theirs = model.state_dict(), again.state_dict()
    if mine.keys() != theirs.keys() or not all(torch.equal(mine[k], theirs[k]) for k in mine):
        return "other weights"
    if tokenizer.backend_tokenizer.to_str() != words.backend_tokenizer.to_str():
        return "another tokenizer"
    return None


def _size(model: Any) -> int:
    """Bytes of the weights; shared ones count once."""
    parts = (*model.parameters(), *model.buffers())
    return sum(part.numel() * part.element_size() for part in parts)


def _say(file: Path, obstacle: str) -> None:
    _logger.warning("%s is converted anew at each start: %s", file, obstacle)
