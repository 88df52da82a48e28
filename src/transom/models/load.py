"""Names to `Loaded`: an alias, a local folder, a `.gguf` file or a hub id."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transom.errors import MissingExtraError, ModelNotFoundError
from transom.models.conversion import converted
from transom.models.gguf import from_gguf_once
from transom.models.hub import from_hub
from transom.models.packaged import ALIASES, Report, cache_folder
from transom.models.placement import check_device, check_dtype
from transom.models.pretrained import from_folder, from_pretrained

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded(NamedTuple):
    """A model in evaluation mode, its tokenizer, and the name they were asked for by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str


def load(
    name: str,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    report: Report | None = None,
    **kwargs: object,
) -> Loaded:
    """Load the causal language model called `name` and its tokenizer.

    Args:
        name: An alias (`smollm2`), a local folder in transformers' format, a local `.gguf` file,
            or a hub id (`Qwen/Qwen3-0.6B`); looked up in this order.
        dtype: Of the weights: a `torch.dtype`, its name, or `"auto"`, the one that they were saved
            in; by default float32 for an alias, else `"auto"`.
        device: Where to move the model, e.g. `"cuda"`; by default it stays where it was loaded.
        report: Called with one line before each slow step of the first use of an alias or of a
            `.gguf` file, e.g. `print`.
        **kwargs: Passed on to `AutoModelForCausalLM.from_pretrained`; those that say where to
            look (`revision`, `token`, `cache_dir`, ...) to `AutoTokenizer` as well.

    Raises:
        ModelNotFoundError: `name` resolves to nothing that can be loaded from here.
        InputError: no weights can be loaded in that dtype, or this machine has no such device.
        MissingExtraError: torch or transformers is not installed.

    The first use of an alias or of a `.gguf` file writes to the cache folder. That is atomic: an
    interrupted one leaves nothing behind that later calls would take for a model, and processes
    may race.
    """
    require_torch()
    check_dtype(dtype)
    check_device(device)
    path = Path(name).expanduser()
    if name in ALIASES:
        folder = converted(ALIASES[name], report or unheard)
        model, tokenizer = from_folder(folder, dtype or "float32", kwargs, _expected(folder))
    elif name and path.is_dir():
        model, tokenizer = from_folder(path, dtype or "auto", kwargs, _expected(path))
    elif path.is_file() and path.suffix == ".gguf":
        model, tokenizer = from_gguf_once(path, dtype or "auto", kwargs, report or unheard)
    elif path.is_file():
        raise ModelNotFoundError(
            f"{path} is a file, and not a .gguf file; expected an alias ({', '.join(ALIASES)}), a "
            "local folder in transformers' format, a local .gguf file, or a hub id."
        )
    else:
        model, tokenizer = from_hub(
            name, lambda found: from_pretrained(name, dtype or "auto", kwargs | found), kwargs
        )
    if device is not None:
        model.to(device)  # type: ignore[arg-type]  # transformers wraps it without its types
    return Loaded(model.eval(), tokenizer, name)


def unheard(line: str) -> None:
    """Report to nobody."""


def require_torch() -> None:
    """Say what to install where torch or transformers is missing."""
    for module in ("torch", "transformers"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise MissingExtraError(
                f"loading a model needs {module}, which is not installed: "
                "pip install 'transom[torch]'",
                name=module,
            ) from error


def _expected(folder: Path) -> str:
    if folder.parent == cache_folder():
        return "It is in transom's cache: delete it and load again."
    return "Expected what `save_pretrained` writes: config, weights and tokenizer."
