"""Names to tokenizers, without loading the model and, where there is a file, without torch."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from transom.errors import ModelNotFoundError
from transom.models.conversion import converted
from transom.models.hub import from_hub
from transom.models.load import require_torch, unheard
from transom.models.packaged import ALIASES, Report
from transom.models.pretrained import gist, tokenizer_from_pretrained
from transom.validation import known_keywords

__all__ = ["load_tokenizer"]

FILE = "tokenizer.json"


@known_keywords
def load_tokenizer(name: str, *, report: Report | None = None) -> Tokenizer:
    """Load the tokenizer called `name`; it neither truncates nor pads.

    Args:
        name: An alias (`smollm2`), a local folder or file `tokenizer.json`, or a hub id.
        report: Called with one line before each slow step of an alias' first use, e.g. `print`.

    Raises:
        ModelNotFoundError: `name` resolves to no tokenizer, or to one that has no fast
            implementation.
        MissingExtraError: torch or transformers is needed to get it, and not installed.
    """
    path = Path(name).expanduser()
    if name in ALIASES:
        if not ALIASES[name].folder.is_dir():
            require_torch()
        path = converted(ALIASES[name], report or unheard)
    if name and path.is_dir():
        path = path / FILE
    if path.is_file() and path.suffix != ".json":
        raise ModelNotFoundError(
            f"{path} is a file, and no {FILE}; expected an alias ({', '.join(ALIASES)}), a folder "
            f"that has a {FILE}, that file itself, or the id of a model on the hub."
        )
    tokenizer = _from_file(path) if path.suffix == ".json" else _from_hub(name)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_file(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing more specific.
        raise ModelNotFoundError(
            f"{path} is no tokenizer: {gist(error)}. Expected the {FILE} that `save_pretrained` "
            "writes for a fast tokenizer, or a folder that has it."
        ) from error


def _from_hub(name: str) -> Tokenizer:
    require_torch()
    tokenizer = from_hub(name, lambda found: tokenizer_from_pretrained(name, found), {})
    if not tokenizer.is_fast:
        raise ModelNotFoundError(
            f"{name} has no fast tokenizer ({type(tokenizer).__name__}); expected one that can be "
            f"saved as {FILE}."
        )
    found: Tokenizer = tokenizer.backend_tokenizer
    return found
