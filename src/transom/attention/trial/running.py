"""Runs a model without weights, with one token at several positions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from transom.attention.trial import hooks
from transom.attention.trial.hollow import hollow_model, rank_one
from transom.attention.trial.hooks import RecordingCache
from transom.attention.trial.recorder import Recorder, recording
from transom.attention.trial.records import MIDDLE, NEAR, ModelTrial
from transom.attention.versions import cache_argument

__all__ = ["run_without_weights"]

FAR = 2**22  # the least far position; also beyond the positions that the config names
CLOSE = 1e-3  # of a norm; a rotation in float32 changes it by less
TOKEN = 3  # its id


def run_without_weights(kind: type[PreTrainedModel], config: PretrainedConfig) -> ModelTrial:
    """What a model of this class and config does; see `ModelTrial`.

    The token is fed three times: as a prompt, at each position of `NEAR`, and at these, `MIDDLE`
    and a far one, with a cache that claims to be as long. An error in the model's code is no error
    here: it becomes `failure`.
    """
    hooks.register()
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        try:
            model = hollow_model(kind, config)
            config._attn_implementation = hooks.NAME
            frequencies = _frequencies(model)
            prompt, length = RecordingCache(config=config), 0
            made = near = far = _feed(model, prompt)
            axes = False
            if "position_ids" in inspect.signature(model.forward).parameters:
                with suppress(IndexError):  # a table of positions that ends before
                    near = _feed(model, prompt.after(len(NEAR)), NEAR)
                    axes = _depend_on_axes(model, prompt, near)
        except Exception as error:  # whatever the model's own code raises is the answer
            reason = " ".join(str(error).split())[:200]
            return ModelTrial(config, failure=f"{type(error).__name__}: {reason}")
        if near is not made:  # otherwise the model counts positions itself and takes none
            length = max(FAR, 4 * (getattr(config, "max_position_embeddings", None) or 0))
            positions = (*NEAR, MIDDLE, length)
            try:
                far = _feed(model, prompt.after(len(positions), length), positions)
            except (IndexError, RuntimeError):  # a table of positions that ends
                far = Recorder()
    for index, layer in made.layers.items():
        layer.keys = near.layers.get(index, layer).keys
        layer.queries = near.queries.get(index)
        keys = far.layers[index].keys if index in far.layers else layer.keys[:0]
        if len(keys):  # some models cut off what they think the cache has already
            layer.far = keys[: len(NEAR)]
            layer.middle = keys[len(NEAR)] if len(keys) > len(NEAR) else None
            same = 1 if layer.depends_on_length else len(NEAR)
            layer.steady = _same_start(near.queries.get(index), far.queries.get(index), same)
            queries = [each.queries[index] for each in (near, far) if index in each.queries]
            layer.level = _same_norm(*queries) and _same_norm(far.layers[index].keys)
    return ModelTrial(config, made.layers, frequencies, length, made.strays, axes)


def _feed(
    model: PreTrainedModel,
    cache: RecordingCache,
    positions: Sequence[int] = (),
    fixed_axes: int = 0,
) -> Recorder:
    """What each layer does with one token: repeated as a prompt, or at each of some positions.

    The positions are rows of a batch, so that no token is in the past of another. With
    `fixed_axes`, they are the last axis of several; the token is at 0 on the others.
    """
    recorder = Recorder()
    given: dict[str, object] = {cache_argument(model): cache, "use_cache": True}
    ids = torch.full((1, len(NEAR)), TOKEN)
    if positions:
        ids = torch.full((len(positions), 1), TOKEN)
        places = torch.tensor(positions)[:, None]
        if fixed_axes:
            places = torch.stack((*[torch.zeros_like(places)] * fixed_axes, places))
        given["position_ids"] = places
    token = recording.set(recorder)
    try:
        with rank_one():
            model(input_ids=ids, **given)
    finally:
        recording.reset(token)
    return recorder


def _depend_on_axes(model: PreTrainedModel, prompt: RecordingCache, near: Recorder) -> bool:
    """Whether keys differ when only one of three or four axes of the positions changes."""
    for axes in (3, 4):  # four with one for the text
        try:
            made = _feed(model, prompt.after(len(NEAR)), NEAR, fixed_axes=axes - 1)
        except Exception:  # a model with one axis may fail in any way
            continue
        for index, layer in made.layers.items():
            known = near.layers[index].keys
            if layer.keys.shape == known.shape and not torch.allclose(layer.keys, known):
                return True
    return False


def _frequencies(model: PreTrainedModel) -> list[Tensor]:
    """The 1-D floating-point tensors of a model that are no weights, each once, float64."""
    found: list[Tensor] = []
    for module in model.modules():
        for value in (*module.buffers(recurse=False), *vars(module).values()):
            plain = isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter)
            if plain and value.ndim == 1 and value.is_floating_point() and not value.is_meta:
                numbers = value.detach().double().cpu()
                if not any(torch.equal(numbers, known) for known in found):
                    found.append(numbers)
    return found


def _same_norm(*states: Tensor) -> bool:
    """Whether one token's states, `(positions, heads, head_dim)` each, are as large everywhere."""
    if not states:
        return True
    norms = torch.cat(states).norm(dim=-1)
    return bool(((norms - norms[0]).abs() <= CLOSE * norms[0]).all())


def _same_start(near: Tensor | None, far: Tensor | None, count: int) -> bool:
    """Whether the first `count` of the far queries are the near ones, but for their size."""
    if near is None or far is None:
        return True
    near, far = (F.normalize(queries[:count], dim=-1) for queries in (near, far))
    return torch.allclose(near, far, rtol=0, atol=1e-4)
