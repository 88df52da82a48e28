"""Trials of models: each is run once per config, then remembered."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import cast

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from transom.attention.kernels.one_core import use_one_core
from transom.attention.trial.records import ModelTrial
from transom.attention.trial.running import run_without_weights
from transom.errors import UnsupportedModelError

__all__ = ["model_class", "scales_by_position", "trial"]

REMEMBERED = 64  # trials that are kept, by config

_remembered: dict[tuple[type[PreTrainedModel], str], ModelTrial] = {}
_remembering = Lock()


def trial(config: PretrainedConfig) -> ModelTrial:
    """Run the model of a config once without weights, or recall what it did.

    Takes half a second for a model of 30 layers, some seconds for one of 90, and no memory for its
    weights. Changes neither the config nor torch's random numbers.

    Raises:
        UnsupportedModelError: when transformers knows no causal language model for the config.
    """
    kind = model_class(config)
    key = (kind, json.dumps(config.to_dict(), sort_keys=True, default=str))
    made = _remembered.get(key)
    if made is None:
        # In a thread with one core: on tensors this small, more cores mostly wait for each other.
        with ThreadPoolExecutor(1, initializer=use_one_core) as alone:
            made = alone.submit(run_without_weights, kind, config).result()
        with _remembering:
            if len(_remembered) >= REMEMBERED:
                del _remembered[next(iter(_remembered))]
            _remembered[key] = made
    return made


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that transformers runs for `config`, with a language modelling head if it has one.

    Raises:
        UnsupportedModelError: when transformers knows none.
    """
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return cast("type[PreTrainedModel]", mapping[type(config)])
    raise UnsupportedModelError(
        f"transformers has no causal language model for {type(config).__name__}; expected the "
        "(text) config of one. Register a model of your own with AutoModelForCausalLM.register."
    )


def scales_by_position(made: ModelTrial) -> bool:
    """Whether a model's queries or keys are larger at some positions than at others.

    Llama 4 and Ministral 3 scale queries so, to keep attention sharp in long texts. Their positions
    cannot start over, because rotating everything back would not undo the scale.
    """
    return any(not layer.level for layer in made.layers.values())
