"""Models that others have wrapped or changed: adapters, few bits, offloading, other heads."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    EncoderDecoderConfig,
    T5Config,
    WhisperConfig,
)

from tests.helpers.models import (
    CONFIGS,
    chunked_logits,
    dense_logits,
    dense_reference,
    difference,
    ids_of,
    left_padded,
    tiny,
    tokens,
)
from transom import Context
from transom.errors import StateError, UnsupportedModelError
from transom.kv import BoundedCache
from transom.policies import Sinks, parse

POLICY = Sinks(3, 17)
IDS = tokens(2, 50)
SIZES = [30, 1, 1, 18]
CLOSE = 1e-3
LORA = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj"], "init_lora_weights": False}


def check_under_the_policy(model: Any, device: str = "cpu") -> Tensor:
    """The logits are those of one dense pass of the same model; returns these."""
    expected = dense_logits(model, IDS, POLICY)
    cache = BoundedCache(POLICY, config=model.config)
    assert difference(chunked_logits(model, IDS, cache, SIZES), expected) < CLOSE
    return expected


# Adapters.


def lora(seed: int = 3) -> Any:
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **LORA)
    model = peft.get_peft_model(tiny("llama"), config)
    model.add_adapter("other", config)
    return model.eval()


def off(model: Any) -> Any:
    model.base_model.disable_adapter_layers()
    return model


def switched(model: Any) -> Any:
    model.set_adapter("other")
    return model


def two(model: Any) -> Any:
    model.base_model.set_adapter(["default", "other"])
    return model


def added(model: Any) -> Any:
    model.add_weighted_adapter(["default", "other"], [0.7, 0.5], "sum", combination_type="linear")
    model.set_adapter("sum")
    return model


def merged(model: Any) -> Any:
    model.merge_adapter()
    return model


def two_merged(model: Any) -> Any:
    model.merge_adapter(["default", "other"])
    return model


STATES: dict[str, Callable[[Any], Any]] = {
    "on": lambda model: model,
    "off": off,
    "switched": switched,
    "two at once": two,
    "weighted": added,
    "merged": merged,
    "two merged": two_merged,
    "unloaded": lambda model: model.merge_and_unload(),
}
ALIKE = [{"on", "merged", "unloaded"}, {"two at once", "two merged"}]


@pytest.mark.parametrize("state", STATES)
def test_adapters_in_every_state(state: str) -> None:
    model = STATES[state](lora())
    found = check_under_the_policy(model)
    plain = dense_logits(tiny("llama"), IDS, POLICY)
    assert (difference(found, plain) < CLOSE) == (state == "off")


@pytest.mark.parametrize("policy", ["full", "window:64", "snapkv:64", "sinks:4,window=60"])
def test_generate_with_an_adapter(policy: str) -> None:
    model, ids = lora(), tokens(1, 30)
    given = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    expected = model.generate(input_ids=ids, **given)
    cache = BoundedCache(policy, config=model.config)
    assert torch.equal(model.generate(input_ids=ids, past_key_values=cache, **given), expected)


def test_each_row_may_have_its_own_adapter() -> None:
    model = lora()
    expected = torch.cat(
        [dense_logits(change(model), IDS[row : row + 1], POLICY)
         for row, change in enumerate((switched, lambda m: m))]
    )  # fmt: skip
    model.set_adapter("default")
    expected[1] = dense_logits(model, IDS[1:], POLICY)[0]
    cache, found, start = BoundedCache(POLICY, config=model.config), [], 0
    with torch.no_grad():
        for size in SIZES:
            part = IDS[:, start : start + size]
            names = ["other", "default"]
            found.append(model(part, past_key_values=cache, adapter_names=names).logits)
            start += size
    assert difference(torch.cat(found, 1), expected) < CLOSE


@pytest.mark.parametrize("saved", STATES)
def test_a_state_fits_what_computes_the_same_and_nothing_else(saved: str, tmp_path: Path) -> None:
    context = Context(STATES[saved](lora()), policy="window:20")
    context.append(ids_of(9))
    context.save(tmp_path / "state")
    for here, change in STATES.items():
        model = change(lora())
        if here == saved or any({here, saved} <= alike for alike in ALIKE):
            assert Context.load(tmp_path / "state", model).usage.seen == 9
        else:
            with pytest.raises(StateError, match="weights"):
                Context.load(tmp_path / "state", model)


# Weights in few bits.


class Int8Weight(torch.Tensor):
    """A weight in 8 bits with a scale for each row, as libraries of quantization make them."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Int8Weight:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)

        def whole(x: Any) -> Any:
            return x.codes * x.scale if isinstance(x, cls) else x

        return function(*tree_map(whole, args), **tree_map(whole, kwargs or {}))

    def __deepcopy__(self, memo: Any) -> Int8Weight:
        return type(self)(self.codes.clone(), self.scale.clone())


def with_subclass(model: Any) -> Any:
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module.weight.detach()
                scale = weight.abs().amax(1, keepdim=True) / 127
                codes = (weight / scale).round().to(torch.int8)
                module.weight = torch.nn.Parameter(Int8Weight(codes, scale), requires_grad=False)
    return model


def with_dynamic_int8(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def test_weights_of_a_tensor_subclass(tmp_path: Path) -> None:
    model = with_subclass(tiny("llama"))
    assert difference(check_under_the_policy(model), dense_logits(tiny("llama"), IDS, POLICY)) > 0
    context = Context(model, policy="window:20")
    context.append(ids_of(9))
    context.save(tmp_path / "state")
    assert Context.load(tmp_path / "state", with_subclass(tiny("llama"))).usage.seen == 9
    model.model.layers[1].mlp.up_proj.weight.scale.mul_(2)
    with pytest.raises(StateError, match="weights"):
        Context.load(tmp_path / "state", model)


def test_dynamic_int8() -> None:
    """Activations are quantized by the range of all that a pass is fed, so chunks change them."""
    model = with_dynamic_int8(tiny("llama"))
    cache = BoundedCache(POLICY, config=model.config)
    found = chunked_logits(model, IDS, cache, [50])
    assert difference(found, dense_logits(model, IDS, POLICY)) < CLOSE
    context = Context(model, policy=POLICY)
    context.append(IDS[0].tolist())
    assert context.usage.kept == POLICY.capacity


# Weights elsewhere.


def offloaded_to_cpu(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def offloaded_to_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def dispatched(model: Any, folder: Path) -> Any:
    where = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "disk",
        "model.layers.1": "cpu",
        "model.layers.2": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    return accelerate.dispatch_model(
        model, where, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


@pytest.mark.parametrize("move", [offloaded_to_cpu, offloaded_to_disk, dispatched])
def test_offloaded_layers(move: Any, tmp_path: Path) -> None:
    expected = dense_logits(tiny("llama"), IDS, POLICY)
    model = move(tiny("llama"), tmp_path)
    cache = BoundedCache(POLICY, config=model.config)
    assert difference(chunked_logits(model, IDS, cache, SIZES), expected) < CLOSE
    plain, moved = (Context(one, policy=POLICY) for one in (tiny("llama"), model))
    ids = IDS[0].tolist()
    assert abs(plain.score(ids)[1:] - moved.score(ids)[1:]).max() < CLOSE
    with pytest.raises(UnsupportedModelError, match="not in memory"):
        moved.save(tmp_path / "state")


def test_a_model_loaded_with_layers_on_disk(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    where = {"model": "cpu", "lm_head": "cpu", "model.layers.1": "disk"}
    where = {f"model.layers.{index}": "cpu" for index in (0, 2)} | {
        "model.layers.1": "disk", "model.embed_tokens": "cpu", "model.norm": "cpu",
        "model.rotary_emb": "cpu", "lm_head": "cpu",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=where, offload_folder=str(tmp_path / "offloaded")
    ).eval()
    expected = dense_logits(tiny("llama"), IDS, POLICY)
    cache = BoundedCache(POLICY, config=model.config)
    assert difference(chunked_logits(model, IDS, cache, SIZES), expected) < CLOSE


@pytest.mark.parametrize("policy", ["full", "window:20", "snapkv:20"])
def test_a_model_without_weights_is_refused(policy: str) -> None:
    model = tiny("llama").to("meta")
    cache = BoundedCache(policy, config=model.config)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        model(IDS.to("meta"), past_key_values=cache)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        Context(model, policy=policy).append(ids_of(9))


# Other heads.

HEADS = [AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModel]
HEADS += [AutoModelForQuestionAnswering]


def headed(kind: Any) -> Any:
    torch.manual_seed(7)
    config = copy.deepcopy(CONFIGS["llama"])
    config.num_labels = 5
    return kind.from_config(config, attn_implementation="sdpa").eval()


def output_of(model: Any, ids: Tensor, **given: Any) -> Tensor:
    with torch.no_grad():
        output = model(ids, **given)
    return next(
        getattr(output, x) for x in ("logits", "start_logits", "last_hidden_state") if x in output
    )


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_other_heads_see_what_the_policy_lets_them(kind: Any) -> None:
    model = headed(kind)
    mask = left_padded([50, 31], 50)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    given = {"attention_mask": mask, "position_ids": positions}
    with dense_reference(model, POLICY):
        expected = output_of(model, IDS, use_cache=False, **given)
    cache = BoundedCache(POLICY, config=model.config)
    found = output_of(model, IDS, past_key_values=cache, use_cache=True, **given)
    real = mask.bool() if found.shape[:2] == mask.shape else slice(None)
    assert difference(found[real], expected[real]) < CLOSE


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_a_context_needs_a_head_for_language(kind: Any) -> None:
    context = Context(headed(kind), policy=POLICY)
    for call in (context.append, context.score):
        with pytest.raises(UnsupportedModelError, match="expected a causal language model"):
            call(ids_of(9))
    assert context.usage.seen == 0


@pytest.mark.parametrize(
    "config",
    [
        T5Config(d_model=32, num_layers=2, num_heads=4),
        BartConfig(d_model=32),
        WhisperConfig(d_model=32),
        EncoderDecoderConfig.from_encoder_decoder_configs(
            BertConfig(), BertConfig(is_decoder=True, add_cross_attention=True)
        ),
        AutoConfig.for_model("mbart"),
    ],
    ids=lambda config: config.model_type,
)
def test_encoder_decoders_are_refused_by_name(config: Any) -> None:
    for policy in ("full", "window:20", "snapkv:20"):
        with pytest.raises(UnsupportedModelError, match=f"^{config.model_type} is an encoder-dec"):
            BoundedCache(parse(policy), config=config)
