"""A state depends on everything that its model computes with, and on nothing else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tests.helpers.models import ids_of, tiny
from transom import Context
from transom.errors import StateError, UnsupportedModelError
from transom.state.weights import weights

CONFIG = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def adapted(model: Any = None, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{**CONFIG, **changes})
    return peft.get_peft_model(tiny("llama") if model is None else model, config).eval()


def packed(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def saved(model: Any, folder: Path) -> Path:
    context = Context(model, policy="window:20")
    context.append(ids_of(9))
    context.save(folder / "state")
    return folder / "state"


def altered_data(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.data[3, 2] += 1e-3


def a_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(1.0001)


def another_tensor(model: Any) -> None:
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(layer.weight + 0.1)


@pytest.mark.parametrize("change", [altered_data, a_buffer, another_tensor])
def test_a_change_of_any_kind_is_seen(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = tiny("llama")
    path = saved(model, tmp_path)
    change(model)
    with pytest.raises(StateError, match="weights"):
        Context.load(path, model)
    path = saved(model, tmp_path)
    equal = copy.deepcopy(model)
    assert Context.load(path, equal).usage.seen == 9


def test_tied_weights_and_moves_change_nothing() -> None:
    tied = tiny("llama", tie_word_embeddings=True)
    before = weights(tied)
    assert weights(copy.deepcopy(tied)) == weights(tied.to(torch.float64).float()) == before
    untied = tiny("llama")
    untied.load_state_dict(tied.state_dict())
    assert weights(untied) == before
    assert weights(tied.bfloat16()) != before


def test_packed_weights(tmp_path: Path) -> None:
    model = tiny("llama")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].self_attn.k_proj.weight.mul_(1.5)
    path = saved(packed(model), tmp_path)
    assert Context.load(path, packed(model)).usage.seen == 9
    with pytest.raises(StateError, match="weights"):
        Context.load(path, packed(other))


def test_the_adapter_in_use_decides(tmp_path: Path) -> None:
    model = adapted()
    path = saved(model, tmp_path)
    model.add_adapter("other", peft.LoraConfig(task_type="CAUSAL_LM", **CONFIG))
    assert (
        Context.load(path, model).usage.seen == 9
    )  # an adapter that is not in use makes no difference
    model.set_adapter("other")
    with pytest.raises(StateError, match=r"adapters default \(here other\)"):
        Context.load(path, model)
    model.set_adapter("default")
    with model.disable_adapter(), pytest.raises(StateError, match=r"default \(here none\)"):
        Context.load(path, model)
    assert Context.load(path, model).usage.seen == 9
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] *= 2
    with pytest.raises(StateError, match="weights"):
        Context.load(path, model)


def test_a_model_with_its_adapters_off_counts_as_its_base_model() -> None:
    plain = weights(tiny("llama"))
    model = adapted()
    assert weights(model) != plain
    with model.disable_adapter():
        assert weights(model) == plain


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "single tokens": {"trainable_token_indices": [3, 4]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_is_the_same_as_one_in_use(kind: str, tmp_path: Path) -> None:
    model = adapted(**KINDS[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    merged, alone = copy.deepcopy(model), copy.deepcopy(model).merge_and_unload()
    merged.merge_adapter()
    for one in (model, merged, alone):
        path = saved(one, tmp_path)
        for other in (model, merged, alone):
            assert Context.load(path, other).usage.seen == 9
    with model.disable_adapter():
        assert weights(model) == weights(tiny("llama")) != weights(alone)
        with pytest.raises(StateError, match="weights"):
            Context.load(path, model)


def test_switching_adapters_off_unmerges_them(tmp_path: Path) -> None:
    """The next forward pass unmerges them, so a state of the merged weights does not fit."""
    model = adapted()
    model.merge_adapter()
    path = saved(model, tmp_path)
    with model.disable_adapter():
        before = weights(model)
        with pytest.raises(StateError, match=r"default \(merged\) \(here none\)"):
            Context.load(path, model)
        saved(model, tmp_path)
        assert weights(model) == before


def test_an_adapter_that_cannot_be_merged_counts_as_it_is(tmp_path: Path) -> None:
    model = adapted(lora_bias=True)
    path = saved(model, tmp_path)
    assert Context.load(path, model).usage.seen == 9
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    with pytest.raises(StateError, match="weights"):
        Context.load(path, model)


def test_compiling_changes_nothing() -> None:
    model = tiny("llama")
    assert weights(torch.compile(model)) == weights(model)


def test_modules_trained_beside_an_adapter_count() -> None:
    model = adapted(modules_to_save=["lm_head"])
    before = weights(model)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    assert weights(model) != before
    with model.disable_adapter():
        assert weights(model) == weights(tiny("llama"))


class Coded(torch.nn.Module):
    """A linear layer in 4 bits, in tensors that are neither parameters nor buffers."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.scale = weight.abs().amax(1, keepdim=True) / 7
        self.codes = (weight / self.scale).round().to(torch.int8)

    def forward(self, x: Any) -> Any:
        return x @ (self.codes * self.scale).T


def test_tensors_that_are_not_buffers_count() -> None:
    model = tiny("llama")
    layer = model.model.layers[0].self_attn
    layer.k_proj = Coded(layer.k_proj)
    before = weights(model)
    assert weights(copy.deepcopy(model)) == before
    layer.k_proj.scale *= 2
    assert weights(model) != before


def test_weights_that_cannot_be_read_are_refused() -> None:
    model = tiny("llama").to("meta")
    with pytest.raises(UnsupportedModelError, match="not in memory"):
        weights(model)


class Around(torch.nn.Module):
    """A wrapper from a user's own code."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config
        self.dtype, self.device = model.dtype, model.device

    def forward(self, **given: Any) -> Any:
        return self.inner(**given)


def patched(model: Any) -> Any:
    before = model.forward
    model.forward = lambda *args, **given: before(*args, **given)
    return model


@pytest.mark.parametrize("wrapped", [adapted, Around, patched])
def test_a_wrapped_model_computes_the_last_logits_only(wrapped: Any) -> None:
    model, shapes = tiny("llama"), []
    model.lm_head.register_forward_hook(
        lambda module, given, output: shapes.append(output.shape[1])
    )
    context = Context(wrapped(model), policy="window:20")
    context.append(ids_of(9))
    context.score(ids_of(5))
    assert shapes == [1, 5]


@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_learned_tokens_are_refused(kind: Any) -> None:
    model = peft.get_peft_model(tiny("llama"), kind(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UnsupportedModelError, match="adapter of learned tokens"):
        Context(model)
