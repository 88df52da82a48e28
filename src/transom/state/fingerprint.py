"""Which model a saved state belongs to, and how that differs from the model at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
import transformers
import xxhash
from transformers import PreTrainedTokenizerBase

from transom.attention.rotary import Rotary
from transom.errors import UnsupportedModelError
from transom.state.weights import adapters, weights
from transom.tokens.fingerprint import differences as token_differences
from transom.tokens.fingerprint import fingerprint as token_fingerprint

__all__ = ["differences", "fingerprint"]

# Entries of a config that do not change what the model computes.
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

Facts: TypeAlias = Mapping[str, Any]  # JSON

_seen: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, str]] = WeakKeyDictionary()


def fingerprint(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> Facts:
    """All that keys and values depend on besides the tokens, as JSON.

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


def differences(saved: Facts, here: Facts) -> list[str]:
    """Why a saved state cannot be continued with the model at hand, in words; empty if it can.

    Other versions of libraries do not matter: the format has a version of its own.
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
    if saved["rotary"] not in (None, here["rotary"]):
        found.append(f"the rotary settings {saved['rotary']} (here {here['rotary']})")
    one, other = saved["tokenizer"], here["tokenizer"]
    if one is not None and other is not None and one != other:
        found.append(f"the tokenizer: {', '.join(token_differences(one, other))}")
    return found


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """The fingerprint of a tokenizer; computed once, and again when tokens were added."""
    size = len(tokenizer)
    if tokenizer not in _seen or _seen[tokenizer][0] != size:
        _seen[tokenizer] = (size, token_fingerprint(tokenizer))
    return _seen[tokenizer][1]


def _rotary(model: Any) -> str | None:
    config = model.config.get_text_config(decoder=True)
    try:
        rotary = Rotary.from_config(config)
    except UnsupportedModelError:
        return None  # policies without a bound still work, since they rotate nothing
    kind = "interleaved" if rotary.interleaved else "halves"
    return f"{kind}:{rotary.dim}:{xxhash.xxh3_64_hexdigest(rotary.inv_freq.numpy().tobytes())}"


def _plain(config: Facts) -> object:
    """The config as it comes back from JSON, so that it compares with a saved one."""
    return json.loads(json.dumps(config, sort_keys=True, default=str))
