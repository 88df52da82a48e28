"""What a saved state was made for, and how that differs from what is at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
import xxhash

from transom.attention.rotary import Rotary
from transom.errors import UnsupportedModelError
from transom.state.weights import adapters, weights
from transom.tokens.fingerprint import differences as token_differences
from transom.tokens.fingerprint import fingerprint as token_fingerprint

__all__ = ["differences", "fingerprint"]

# Of a config, what says where it came from or how it is run rather than what it computes.
INCIDENTAL = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}

_seen: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def fingerprint(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What keys and values depend on besides the tokens: JSON.

    `config` as the model has it, `weights` and `rotary` as hashes, names of the `adapters` in use,
    `dtype`, `tokenizer` by what decides its ids (None without one), and the `versions` in use.

    Raises:
        UnsupportedModelError: when the weights cannot be read; see `weights`.
    """
    config = model.config.to_dict()
    return {
        "config": _plain({k: v for k, v in config.items() if k not in INCIDENTAL}),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": weights(model),
        "adapters": adapters(model),
        "rotary": _rotary(model),
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer),
        "versions": {
            "transom": version("transom"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What stands in the way of going on with a saved state here, in words; empty for nothing.

    Other versions of libraries are no obstacle: the format has a version of its own.
    """
    found = []
    if saved["config"] != here["config"]:
        mine, theirs = here["config"], saved["config"]
        keys = [k for k in sorted({*mine, *theirs}) if mine.get(k) != theirs.get(k)]
        named = [f"{k} {theirs.get(k)!r} (here {mine.get(k)!r})" for k in keys[:5]]
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        found.append(f"the model's config: {', '.join(named)}{more}")
    elif saved["weights"] != here["weights"] and saved["dtype"] == here["dtype"]:
        mine, theirs = (", ".join(x["adapters"]) or "none" for x in (here, saved))
        adapted = f", with the adapters {theirs} (here {mine})" if mine != theirs else ""
        found.append(f"the model's weights{adapted}")
    if saved["dtype"] != here["dtype"]:
        found.append(f"the dtype {saved['dtype']} (here {here['dtype']})")
    if saved["rotary"] != here["rotary"]:
        found.append(f"the rotary settings {saved['rotary']} (here {here['rotary']})")
    one, other = saved["tokenizer"], here["tokenizer"]
    if one is not None and other is not None and one != other:
        found.append(f"the tokenizer: {', '.join(token_differences(one, other))}")
    return found


def _tokenizer(tokenizer: Any) -> str:
    """Its fingerprint; taken once for each tokenizer, until tokens are added."""
    size = len(tokenizer)
    if tokenizer not in _seen or _seen[tokenizer][0] != size:
        _seen[tokenizer] = (size, token_fingerprint(tokenizer))
    return _seen[tokenizer][1]


def _rotary(model: Any) -> str | None:
    config = model.config.get_text_config(decoder=True)
    try:
        rotary = Rotary.from_config(config)
    except UnsupportedModelError:
        return None  # a policy without a bound runs all the same, and turns nothing
    kind = "interleaved" if rotary.interleaved else "halves"
    return f"{kind}:{rotary.dim}:{xxhash.xxh3_64_hexdigest(rotary.inv_freq.numpy().tobytes())}"


def _plain(config: Any) -> Any:
    """As it comes back from JSON, so that saved and present compare."""
    return json.loads(json.dumps(config, sort_keys=True, default=str))
