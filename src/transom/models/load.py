"""Names to `Loaded`: an alias, a local folder, a `.gguf` file or a hub id."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transom.errors import MissingExtraError, ModelNotFoundError
from transom.models.conversion import converted
from transom.models.packaged import ALIASES, Report, cache_folder
from transom.models.pretrained import from_gguf, from_pretrained, gist, no_progress_bars

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
    **kwargs: Any,
) -> Loaded:
    """Load the causal language model called `name` and its tokenizer.

    Args:
        name: An alias (`smollm2`), a local folder in transformers' format, a local `.gguf` file,
            or a hub id (`Qwen/Qwen3-0.6B`); looked up in this order.
        dtype: Of the weights; by default float32 for an alias, else transformers' `"auto"`.
        device: Where to move the model, e.g. `"cuda"`; by default it stays where it was loaded.
        report: Called with one line before each slow step of an alias' first use, e.g. `print`.
        **kwargs: Passed on to `AutoModelForCausalLM.from_pretrained`; those that say where to
            look (`revision`, `token`, `cache_dir`, ...) to `AutoTokenizer` as well.

    Raises:
        ModelNotFoundError: `name` resolves to nothing that can be loaded from here.
        MissingExtraError: torch or transformers is not installed.

    The first use of an alias writes to the cache folder. That is atomic: an interrupted one leaves
    nothing behind that later calls would take for a model, and processes may race.
    """
    _require_torch()
    path = Path(name).expanduser()
    if name in ALIASES:
        folder = converted(ALIASES[name], report or _unheard)
        model, tokenizer = _from_folder(folder, dtype or "float32", kwargs)
    elif name and path.is_dir():
        model, tokenizer = _from_folder(path, dtype or "auto", kwargs)
    elif path.is_file() and path.suffix == ".gguf":
        model, tokenizer = from_gguf(path, dtype or "auto", kwargs)
    else:
        model, tokenizer = _from_hub(name, dtype or "auto", kwargs)
    if device is not None:
        model.to(device)
    return Loaded(model.eval(), tokenizer, name)


def _unheard(line: str) -> None:
    """Report to nobody."""


def _require_torch() -> None:
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


def _from_folder(folder: Path, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    from safetensors import SafetensorError

    try:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError("it has no config.json")
        with no_progress_bars():
            return from_pretrained(str(folder), dtype, kwargs)
    except (OSError, SafetensorError) as error:
        expected = (
            "It is in transom's cache: delete it and load again."
            if folder.parent == cache_folder()
            else "Expected what `save_pretrained` writes: config, weights and tokenizer."
        )
        raise ModelNotFoundError(
            f"the folder {folder} holds no model that transformers can load: {gist(error)}. "
            + expected
        ) from error


def _from_hub(name: str, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    obstacle = None
    try:
        url = _hub_url(name)
        if not kwargs.get("local_files_only"):
            obstacle = _hub_obstacle(url, kwargs.get("token"))
            # Asked all the same, transformers would try again for 23 s for each file.
            kwargs = kwargs | {"local_files_only": obstacle is not None}
        return from_pretrained(name, dtype, kwargs)
    except OSError as error:
        why = (
            f"the hub cannot be reached ({obstacle}) and there is no copy of it on this machine"
            if obstacle
            else gist(error)
        )
        raise ModelNotFoundError(
            f"no model {name!r}: {why}. Expected an alias ({', '.join(ALIASES)}), a local folder "
            "in transformers' format, a local .gguf file, or the id of a model on the hub such as "
            "'Qwen/Qwen3-0.6B': check the spelling, and for a hub id the network."
        ) from error


def _hub_url(name: str) -> str:
    """Where the hub would have the file that every model has."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        return hf_hub_url(name, "config.json")
    except HFValidationError as error:
        raise OSError("no file or folder has that name, and no hub id is spelled so") from error


def _hub_obstacle(url: str, token: str | bool | None) -> str | None:
    """Why the hub does not answer, by one request without retries; None if it does."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(url, token=token)
    except HfHubHTTPError:
        return None  # A refusal is an answer too, and transformers words it better.
    except Exception as error:  # The errors of whichever HTTP client the hub's library uses.
        return gist(error)
    return None
