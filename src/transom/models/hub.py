"""Models on the hub: loaded by transformers, with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from transom.errors import ModelNotFoundError
from transom.models.packaged import ALIASES
from transom.models.pretrained import gist

__all__ = ["from_hub"]

ReadT = TypeVar("ReadT")


def from_hub(
    name: str, read: Callable[[dict[str, bool]], ReadT], kwargs: Mapping[str, Any]
) -> ReadT:
    """What `read` makes of the model called `name` on the hub, or of a copy that is here already.

    Args:
        read: called with `local_files_only`, true where the hub cannot be reached.
        kwargs: what was asked of transformers: `token` and `local_files_only` matter here.

    Raises:
        ModelNotFoundError: when there is no such model to be had.
    """
    obstacle = None
    try:
        url = _hub_url(name)
        if not kwargs.get("local_files_only"):
            obstacle = _hub_obstacle(url, kwargs.get("token"))
            # Asked all the same, transformers would try again for 23 s for each file.
            return read({"local_files_only": obstacle is not None})
        return read({})
    except OSError as error:
        why = (
            f"the hub cannot be reached ({obstacle}) and there is no copy of it on this machine"
            if obstacle
            else gist(error)
        )
        near = get_close_matches(name, ALIASES, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelNotFoundError(
            f"no model {name!r}: {why}.{meant} Expected an alias ({', '.join(ALIASES)}), a local "
            "folder in transformers' format, a local .gguf file, or the id of a model on the hub "
            "such as 'Qwen/Qwen3-0.6B': check the spelling, and for a hub id the network."
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
