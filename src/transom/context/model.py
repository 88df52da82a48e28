"""What a context needs of a model, and what it asks about one."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch

from transom.errors import InputError, UnsupportedModelError

__all__ = [
    "CausalLM",
    "can_skip_logits",
    "check_model",
    "device_of",
    "logits_of",
    "text_config_of",
    "vocabulary_of",
]


class CausalLM(Protocol):
    """A causal language model of transformers, or a wrapper around one (peft, accelerate)."""

    @property
    def config(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def forward(self) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def check_model(model: CausalLM) -> None:
    """Refuse what is not a model, and a model that cannot be fed in chunks.

    Raises:
        InputError: when it is not a model.
        UnsupportedModelError: when it has an adapter (peft) of learned tokens: the model puts them
            before whatever it is fed.
    """
    if not hasattr(model, "config"):
        raise InputError(
            f"model is {type(model).__name__}; expected a causal language model of transformers. "
            "To load one by its name, use Context.from_pretrained(name)."
        )
    learned = getattr(model, "active_peft_config", None)
    if getattr(learned, "is_prompt_learning", False):
        kind = getattr(learned, "peft_type", None)
        raise UnsupportedModelError(
            f"the model has an adapter of learned tokens ({getattr(kind, 'value', kind)}). They "
            "would be repeated with every chunk, or left out; expected an adapter that changes "
            "weights, such as LoRA. Use model.generate with the whole text."
        )


def device_of(model: CausalLM) -> torch.device:
    """Where a model computes. Weights that accelerate offloads are stored somewhere else.

    Raises:
        UnsupportedModelError: when the weights are on the meta device and nothing loads them.
    """
    device = model.device
    if device.type != "meta":
        return device
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    for module in modules:
        execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
    raise UnsupportedModelError(
        "the model's weights are on the meta device, so it cannot be run; load them first."
    )


def text_config_of(model: CausalLM) -> Any:
    """The config of the part of a model that reads text; any other object as it is."""
    config = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def vocabulary_of(model: CausalLM) -> int:
    """How many token ids a model knows."""
    return int(model.config.get_text_config().vocab_size)


def logits_of(model: CausalLM, output: Any) -> torch.Tensor:
    """`(tokens, vocabulary)` logits of the first row in what a model gave.

    Raises:
        UnsupportedModelError: when there are none, because its head is not one for language.
    """
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        if logits.ndim == 3 and logits.shape[2] >= vocabulary_of(model):
            return logits[0]
        given = f"logits of shape {tuple(logits.shape)}"
    else:
        given = "no logits"
    raise UnsupportedModelError(
        f"{type(model).__name__} gives {given}; expected a causal language model, which gives "
        f"(1, tokens, {vocabulary_of(model)}). Load it with AutoModelForCausalLM."
    )


def can_skip_logits(model: CausalLM) -> bool:
    """Whether a model, or the one that it wraps, can compute the logits of the last token only."""
    parameters = inspect.signature(model.forward).parameters
    if "logits_to_keep" in parameters:
        return True
    passed_on = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in parameters.values())
    inside = model.modules() if isinstance(model, torch.nn.Module) else ()
    kinds = {type(module) for module in inside} if passed_on else ()
    return any("logits_to_keep" in inspect.signature(kind.forward).parameters for kind in kinds)
