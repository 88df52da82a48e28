"""What transformers loads: a model with its tokenizer, from its own format or from GGUF."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from transom.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The arguments that transom itself takes when it loads a model.
_OURS = ("policy", "positions", "chunk", "compile", "cold", "dtype", "device", "report")
# The keywords of `from_pretrained` that say where to look; a tokenizer needs them as well.
_WHERE = {
    "cache_dir",
    "force_download",
    "gguf_file",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
}
# While transformers loads a model, it replaces methods of all models and puts them back afterwards.
# Two threads at once can leave `tie_weights` doing nothing, for good.
_one_at_a_time = Lock()


def from_pretrained(
    where: str, dtype: torch.dtype | str, kwargs: Mapping[str, object]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; an OSError if one of them is missing or cannot be read."""
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_from_pretrained(where, kwargs)
    try:
        with _one_at_a_time:
            return AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **kwargs), tokenizer
    except TypeError as error:  # It passes unknown arguments to the model's own class.
        for name in kwargs:
            if f"unexpected keyword argument '{name}'" in str(error):
                raise _unknown(name) from error
        raise


def _unknown(name: str) -> InputError:
    near = get_close_matches(name, (*_OURS, *_WHERE), n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(
        f"loading a model has no parameter {name!r}{meant} Expected one of Context.from_pretrained "
        f"or transom.models.load ({', '.join(_OURS)}), or of AutoModelForCausalLM.from_pretrained."
    )


def tokenizer_from_pretrained(where: str, kwargs: Mapping[str, object]) -> PreTrainedTokenizerBase:
    """The tokenizer alone; an OSError if it is missing or cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            where, **{key: value for key, value in kwargs.items() if key in _WHERE}
        )
    except ValueError as error:  # transformers says this of a tokenizer that does not exist.
        raise OSError(f"there is no tokenizer to be read: {gist(error)}") from error


def from_gguf(
    file: Path, dtype: torch.dtype | str, kwargs: Mapping[str, object]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as plain dense weights, which can be saved, cast and compiled."""
    from transformers import GgufConfig

    dense = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    try:
        # The progress bar of the GGUF reader cannot be switched off by itself.
        with no_progress_bars(), redirect_stderr(io.StringIO()):
            model, tokenizer = from_pretrained(str(file.parent), dtype, {**dense, **kwargs})
    except OSError as error:
        raise ModelNotFoundError(
            f"{file} is no GGUF model that transformers can load: {gist(error)}"
        ) from error
    # Where other threads load models meanwhile, transformers can leave an output layer that shares
    # the input's weights without any. Sharing them again changes nothing where it went well.
    model.tie_weights()
    empty = [name for name, weight in model.named_parameters() if weight.is_meta]
    if empty:
        raise ModelNotFoundError(
            f"transformers loaded {file} without weights for {', '.join(empty[:3])}; try again, or "
            "load the model in transformers' own format."
        )
    return model, tokenizer


def from_folder(
    folder: Path, dtype: torch.dtype | str, kwargs: Mapping[str, object], expected: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of a folder in transformers' format.

    Raises:
        ModelNotFoundError: when they cannot be read; it says what was `expected`.
    """
    from safetensors import SafetensorError

    try:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError("it has no config.json")
        with no_progress_bars():
            return from_pretrained(str(folder), dtype, kwargs)
    except (OSError, SafetensorError) as error:
        raise ModelNotFoundError(
            f"the folder {folder} holds no model that transformers can load: {gist(error)}. "
            + expected
        ) from error


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer to a folder, in transformers' format."""
    with no_progress_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """While open, keep transformers silent; its bars are restored afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def gist(error: Exception) -> str:
    """An error's message on one line, to stand inside a sentence."""
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" [...]").rstrip(
        "."
    )
