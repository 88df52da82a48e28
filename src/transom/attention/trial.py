"""What a model's attention layers do with positions, found out by running its own code once.

A config names a model's parts, not what they do with them. So the model is built without weights
and run on a few tokens. Which keys a layer gives its cache at which position says whether and how
it turns them, and what reaches transformers' attention function says whether transom can take
over. No list of models is kept that could fall out of date.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
)
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from transom.attention.eager import eager_attention_of
from transom.attention.hollow import hollow_model, rank_one
from transom.attention.kernels.one_core import use_one_core
from transom.attention.versions import cache_argument
from transom.errors import UnsupportedModelError

__all__ = [
    "MIDDLE",
    "NEAR",
    "Call",
    "ModelTrial",
    "TrialLayer",
    "model_class",
    "scales_by_position",
    "trial",
]

NAME = "transom-trial"
NEAR = (0, 1, 2, 5, 11, 23)
MIDDLE = 250  # where float32 angles are still good
FAR = 2**22  # at least, and beyond the positions that the config names
LOUD = 4.0  # standard deviation of queries and keys that attention is tried with
LEVEL = 1e-3  # of a norm; turns in float32 change it by less
REMEMBERED = 64  # trials that are kept, by config


@dataclass(frozen=True)
class Call:
    """One call of transformers' attention function.

    Attributes:
        layer: the index that the module gives itself; None without one.
        same: it attends to the very keys that the cache gave out.
        repeated: it attends to those, each of them once or more.
        own_mask: to a mask other than the one transformers made.
        ahead: tokens may see later ones.
        given: names of what else it was given, such as `softcap`.
        plain: the model's own eager attention gives what attention is; true if it has none.
    """

    layer: int | None
    same: bool
    repeated: bool
    own_mask: bool
    ahead: bool
    given: frozenset[str]
    plain: bool


@dataclass(eq=False)
class TrialLayer:
    """What happened in one layer of the cache.

    Attributes:
        updates: how often the cache was given keys in one pass.
        keys: `(positions, kv_heads, head_dim)` float32, of the same token at each of `NEAR`.
        far: the same while another token, and the length of the cache, are far beyond the trained
            length; None where there are no such positions.
        middle: `(kv_heads, head_dim)`, the same at `MIDDLE`.
        steady: what the cache's length is changes no query.
        level: queries and keys are as large at every position.
        calls: how they were attended to, in the order of the model.
    """

    updates: int = 0
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    far: Tensor | None = None
    middle: Tensor | None = None
    steady: bool = True
    level: bool = True
    calls: list[Call] = field(default_factory=list)


@dataclass(eq=False)
class ModelTrial:
    """What a model did.

    Attributes:
        config: of the model, a copy.
        layers: by their index in the cache.
        frequencies: every 1-D tensor of numbers in the model that is no weight; what keys are
            turned by is among them.
        strays: there is attention to what no layer of the cache holds.
        failure: why the model did not run, if it did not.
    """

    config: Any
    layers: dict[int, TrialLayer] = field(default_factory=dict)
    frequencies: list[Tensor] = field(default_factory=list)
    strays: bool = False
    failure: str | None = None


def trial(config: Any) -> ModelTrial:
    """Run the model of a config once, or recall what it did.

    Takes half a second for a model of 30 layers, some seconds for one of 90, and no memory for its
    weights. Changes neither the config nor the random numbers of torch.

    Raises:
        UnsupportedModelError: when transformers knows no causal language model for it.
    """
    kind = model_class(config)
    key = (kind, json.dumps(config.to_dict(), sort_keys=True, default=str))
    made = _remembered.get(key)
    if made is None:
        # In a thread of its own, with one core: several would wait for each other most of the time.
        with ThreadPoolExecutor(1, initializer=use_one_core) as alone:
            made = alone.submit(_run, kind, config).result()
        with _remembering:
            if len(_remembered) >= REMEMBERED:
                del _remembered[next(iter(_remembered))]
            _remembered[key] = made
    return made


_remembered: dict[tuple[Any, str], ModelTrial] = {}
_remembering = Lock()


def model_class(config: Any) -> Any:
    """The class that transformers runs for `config`, with a head for language if it has one.

    Raises:
        UnsupportedModelError: when transformers knows none.
    """
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise UnsupportedModelError(
        f"transformers has no causal language model for {type(config).__name__}; expected the "
        "(text) config of one, or one made known with AutoModelForCausalLM.register."
    )


def _run(kind: Any, config: Any) -> ModelTrial:
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        try:
            model = hollow_model(kind, config)
            config._attn_implementation = NAME
            frequencies = _frequencies(model)
            prompt = _RecordingCache(config=config)
            made = near = far = _feed(model, prompt)
            if "position_ids" in inspect.signature(model.forward).parameters:
                with suppress(IndexError):  # a table of positions that ends before
                    near = _feed(model, prompt.after(len(NEAR)), NEAR)
        except Exception as error:  # whatever the model's own code raises is the answer
            reason = " ".join(str(error).split())[:200]
            return ModelTrial(config, failure=f"{type(error).__name__}: {reason}")
        if near is not made:  # else the model counts by itself, and cannot be told
            length = max(FAR, 4 * (getattr(config, "max_position_embeddings", None) or 0))
            positions = (*NEAR, MIDDLE, length)
            try:
                far = _feed(model, prompt.after(len(positions), length), positions)
            except (IndexError, RuntimeError):  # a table of positions, and it ends
                far = _Recorder()
    for index, layer in made.layers.items():
        layer.keys = near.layers.get(index, layer).keys
        keys = far.layers[index].keys if index in far.layers else layer.keys[:0]
        if len(keys):  # some cut off what they take for known from the length of the cache
            layer.far = keys[: len(NEAR)]
            layer.middle = keys[len(NEAR)] if len(keys) > len(NEAR) else None
            layer.steady = _alike(near.queries.get(index), far.queries.get(index))
            layer.level = _level(far.queries.get(index)) and _level(far.layers[index].keys)
    return ModelTrial(config, made.layers, frequencies, made.strays)


def scales_by_position(made: ModelTrial) -> bool:
    """Whether a model's queries or keys are larger at some positions than at others.

    So Llama 4 and Ministral 3 keep attention sharp in long texts. Then positions cannot start over,
    though a turn by all of them would.
    """
    return any(not layer.level for layer in made.layers.values())


def _level(states: Tensor | None) -> bool:
    """Whether one token has as large states, `(positions, heads, head_dim)`, everywhere."""
    if states is None:
        return True
    norms = states.norm(dim=-1)
    return bool(((norms - norms[0]).abs() <= LEVEL * norms[0]).all())


def _alike(near: Tensor | None, far: Tensor | None) -> bool:
    """Whether the first queries are the same."""
    if near is None or far is None:
        return True
    return torch.allclose(near, far[: len(near)], rtol=0, atol=1e-4 * float(near.abs().max()))


def _frequencies(model: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for module in model.modules():
        for value in (*module.buffers(recurse=False), *vars(module).values()):
            plain = isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter)
            if plain and value.ndim == 1 and value.is_floating_point() and not value.is_meta:
                numbers = value.detach().double().cpu()
                if not any(torch.equal(numbers, known) for known in found):
                    found.append(numbers)
    return found


def _feed(model: Any, cache: _RecordingCache, positions: Sequence[int] = ()) -> _Recorder:
    """What each layer does with one and the same token, as a prompt or at each of some positions.

    Those positions are rows of a batch, so that no token is the past of another.
    """
    recorder = _Recorder()
    ids, given = torch.full((1, len(NEAR)), 3), dict[str, Any]()
    if positions:
        ids = torch.full((len(positions), 1), 3)
        given = {"position_ids": torch.tensor(positions)[:, None]}
    given |= {cache_argument(model): cache, "use_cache": True}
    token = _recording.set(recorder)
    try:
        with rank_one():
            model(input_ids=ids, **given)
    finally:
        _recording.reset(token)
    return recorder


class _Recorder:
    def __init__(self) -> None:
        self.layers: dict[int, TrialLayer] = {}
        self.strays = False
        self.queries: dict[int, Tensor] = {}  # of the last call, by the layer that has the keys
        self.masks: list[Tensor] = []
        self._cached: dict[int, Tensor] = {}  # the keys themselves, by layer

    def update(self, keys: Tensor, index: int) -> None:
        layer = self.layers.setdefault(index, TrialLayer())
        layer.updates += 1
        layer.keys = keys.float().transpose(1, 2).flatten(0, 1)
        self._cached[index] = keys

    def attend(
        self,
        index: int | None,
        queries: Tensor,
        keys: Tensor,
        mask: Any,
        given: frozenset[str],
        plain: bool,
    ) -> None:
        owner = next((at for at, cached in self._cached.items() if cached is keys), index)
        if owner is None or owner not in self.layers:
            self.strays = True
            return
        self.queries[owner] = queries.float().transpose(1, 2).flatten(0, 1)
        cached = self._cached[owner]
        call = Call(
            layer=index,
            same=keys is cached,
            repeated=keys is cached or _repeats(keys, cached),
            own_mask=not any(mask is made for made in self.masks),
            ahead=any(mask is made and bool((made > 0).any()) for made in self.masks),
            given=given,
            plain=plain,
        )
        self.layers[owner].calls.append(call)


def _repeats(keys: Tensor, cached: Tensor) -> bool:
    """Whether every head of `keys` is one of `cached`."""
    if keys.shape[2:] != cached.shape[2:]:
        return False
    alike = (keys[:, :, None] == cached[:, None]).flatten(3).all(-1)
    return bool(alike.any(2).all())


_recording: ContextVar[_Recorder] = ContextVar("transom-trial")


class _RecordingCache(DynamicCache):
    """Notes keys and gives them back; layers without attention keep what they always do."""

    length = 0

    def after(self, rows: int, length: int = 0) -> _RecordingCache:
        """A copy that says it has seen `length` tokens; each row has the states of the only one.

        With these, recurrent layers take one step, where a prompt of one token would be padded.
        """
        twin = copy.deepcopy(self)
        twin.length = length
        first: Any = torch.zeros(rows, dtype=torch.int64)
        for layer in twin.layers:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                layer.reorder_cache(first)
        return twin

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        _recording.get().update(key_states, layer_idx)
        return key_states, value_states


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    **given: Any,
) -> tuple[Tensor, None]:
    names = frozenset(name for name, what in given.items() if what is not None)
    plain = _is_plain(module, query, key, value, given)
    index = getattr(module, "layer_idx", None)
    _recording.get().attend(index, query, key, attention_mask, names, plain)
    # Each token sees itself alone, so that none learns of the positions of others.
    own = value[:, :, -query.shape[2] :].repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return own.transpose(1, 2).contiguous(), None


def _is_plain(module: Any, query: Tensor, key: Tensor, value: Tensor, given: Any) -> bool:
    """Whether a model's eager attention is nothing else: no bias, cap or sink of its own.

    Tried with large numbers, since a cap hardly changes small ones.
    """
    eager = eager_attention_of(module)
    if eager is None:
        return True
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(x.shape, generator=generator, dtype=torch.float32) for x in (query, key, value)
    )
    q, k = LOUD * q, LOUD * k
    seen = torch.zeros(len(q), 1, q.shape[2], k.shape[2], dtype=torch.float32)
    try:
        found = eager(module, q, k, v, seen, **given)[0]
    except Exception:  # then whoever runs the model runs another attention
        return True
    scale = given.get("scaling")
    usual = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True).transpose(1, 2)
    return torch.allclose(found, usual, rtol=0, atol=1e-3)


def _mask(
    *, batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any], **_: Any
) -> Tensor:
    """Zeros, or ones where a token would see a later one, for the recorder to notice."""
    ahead = mask_function(*(torch.tensor(at) for at in (0, 0, 0, 1)))
    mask = torch.full((batch_size, 1, q_length, kv_length), float(ahead))
    _recording.get().masks.append(mask)
    return mask
