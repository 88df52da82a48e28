"""Models of text and images under bounded caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.helpers.models import difference, tokens
from tests.helpers.vision_models import FAMILIES, Prompt, prompt, tiny_vision
from transom import BoundedCache, Context
from transom.attention import visibility
from transom.errors import CacheError, UnsupportedModelError
from transom.policies import parse

MROPE = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")
PLAIN = ("smolvlm", "idefics3", "llava")
POLICIES = ("window:12", "sinks:4,window=8", "sinks:8,window=20")


@torch.no_grad()
def embedded(model: Any, given: Prompt) -> dict[str, Any]:
    """What the text model is given: text and image as vectors, and their positions."""
    found: dict[str, Any] = {}

    def note(module: Any, args: Any, kwargs: Any) -> None:
        found.update(kwargs)

    hook = model.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    model(input_ids=given.ids, **given.given, use_cache=False)
    hook.remove()
    forget(model)
    return {"inputs_embeds": found["inputs_embeds"], "position_ids": found.get("position_ids")}


def forget(model: Any) -> None:
    """Qwen models remember how far the image of their last prompt has moved positions."""
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None


@torch.no_grad()
def by_subsequence(
    model: Any, given: Prompt, policy: Any, compact: bool, block: slice = slice(0, 0)
) -> Tensor:
    """Logits of each token of a model with one layer, from a text of the tokens that it sees.

    With absolute positions they keep the positions that they have in the whole text. The tokens of
    `block` see each other.
    """
    states = embedded(model, given)
    places, found = torch.arange(given.ids.shape[1]), []
    together = (places >= block.start) & (places < block.stop)
    for place in places:
        seen = policy.visible(place, places) | (together[place] & together)
        count, own = int(seen.sum()), int(seen[:place].sum())
        positions = None
        if not compact:
            positions = places[None] if states["position_ids"] is None else states["position_ids"]
            positions = positions[..., seen]
        hidden = model.model.get_decoder()(
            inputs_embeds=states["inputs_embeds"][:, seen],
            position_ids=positions,
            attention_mask=torch.ones(1, 1, count, count, dtype=torch.bool),
            use_cache=False,
        ).last_hidden_state
        found.append(model.get_output_embeddings()(hidden[:, own : own + 1]))
    return torch.cat(found, dim=1)


@torch.no_grad()
def fed(model: Any, given: Prompt, cache: Any, prefill: int) -> Tensor:
    """Logits of a prompt whose first `prefill` tokens, with the image, are one pass."""
    kinds = ("token_type_ids", "mm_token_type_ids")
    first = {name: x[:, :prefill] if name in kinds else x for name, x in given.given.items()}
    out = [model(input_ids=given.ids[:, :prefill], **first, past_key_values=cache).logits]
    for at in (prefill, prefill + 1):
        stop = at + 1 if at == prefill else given.ids.shape[1]
        out.append(model(input_ids=given.ids[:, at:stop], past_key_values=cache).logits)
    forget(model)
    return torch.cat(out, dim=1)


def apart_from_image(logits: Tensor, given: Prompt) -> Tensor:
    """Without the image tokens, whose states some models change after the layer."""
    return torch.cat((logits[:, : given.image.start], logits[:, given.image.stop :]), dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_tokens_of_these_models_differ(family):
    """Otherwise it would not matter which of them a query sees."""
    given = prompt(family)
    states = embedded(tiny_vision(family), given)["inputs_embeds"][0]
    image, text = states[given.image], states[given.image.stop :]
    assert torch.pdist(image).min() > 0.02 * torch.pdist(text).mean()


@pytest.mark.parametrize("positions", ["compact", "absolute"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", PLAIN)
def test_image_tokens_are_tokens_like_others(family, policy, positions):
    model, given = tiny_vision(family), prompt(family)
    want = by_subsequence(model, given, parse(policy), positions == "compact")
    cache = BoundedCache(policy, config=model.config, positions=positions)
    assert difference(fed(model, given, cache, prefill=24), want) < 1e-4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", MROPE)
def test_positions_of_several_axes_stay_absolute(family, policy):
    model, given = tiny_vision(family), prompt(family)
    want = by_subsequence(model, given, parse(policy), compact=False)
    cache = BoundedCache(policy, config=model.config, positions="absolute")
    got = fed(model, given, cache, prefill=24)
    assert difference(apart_from_image(got, given), apart_from_image(want, given)) < 1e-4


@pytest.mark.parametrize("family", MROPE)
def test_a_policy_that_moves_no_keys_takes_several_axes_with_compact_positions(family):
    model, given = tiny_vision(family), prompt(family)
    want = by_subsequence(model, given, parse("window:12"), compact=False)
    got = fed(model, given, BoundedCache("window:12", config=model.config), prefill=24)
    assert difference(apart_from_image(got, given), apart_from_image(want, given)) < 1e-4


@pytest.mark.parametrize(
    ("policy", "positions"),
    [
        ("sinks:4,window=8", "compact"),
        ("snapkv:16", "compact"),
        ("expected-attention:16", "absolute"),
        ("hierarchical:1024,global=4096,recall=blocks", "compact"),
    ],
)
@pytest.mark.parametrize("family", MROPE)
def test_a_policy_that_moves_keys_by_tokens_is_refused_where_images_take_fewer_positions(
    family, policy, positions
):
    model = tiny_vision(family)
    with pytest.raises(UnsupportedModelError, match=r"M-RoPE.*get_text_config"):
        BoundedCache(policy, config=model.config, positions=positions)


@pytest.mark.parametrize("family", [*MROPE, *PLAIN, "gemma3"])
def test_text_alone_is_bounded_as_in_a_text_model(family):
    model, ids = tiny_vision(family), tokens(1, 30)
    given, policy = Prompt(ids, {}, slice(0, 0)), "sinks:4,window=8"
    want = by_subsequence(model, given, parse(policy), compact=True)
    cache = BoundedCache(policy, config=model.config.get_text_config())
    assert difference(fed(model, given, cache, prefill=20), want) < 1e-4


@pytest.mark.parametrize("family", ["qwen2.5-vl", "smolvlm"])
def test_a_context_reads_text_with_a_model_of_text_and_images(family):
    model, ids = tiny_vision(family), tokens(1, 30)
    given, policy = Prompt(ids, {}, slice(0, 0)), "sinks:4,window=8"
    logits = by_subsequence(model, given, parse(policy), compact=True)[0].log_softmax(-1)
    want = -logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
    got = Context(model, None, policy, chunk=7).score(ids[0].tolist())
    assert difference(torch.from_numpy(got[1:]), want) < 1e-4


@pytest.mark.parametrize("policy", ["full", "window:200", "snapkv:200"])
@pytest.mark.parametrize("family", [*MROPE, *PLAIN])
def test_generates_after_an_image_as_without_a_bound_when_all_is_kept(family, policy):
    model, given = tiny_vision(family), prompt(family)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    found = []
    for cache in (
        DynamicCache(config=model.config),
        BoundedCache(policy, config=model.config, positions="absolute"),
    ):
        forget(model)
        out = model.generate(given.ids, **given.given, past_key_values=cache, **settings)
        found.append(out.tolist())
    assert found[0] == found[1]


def seeing_each_other(family: str, given: Prompt) -> slice:
    """The image in Gemma 3; all tokens of type 0, the image and the prompt, in PaliGemma."""
    kinds = given.given["token_type_ids"][0]
    return given.image if family == "gemma3" else slice(0, int((kinds == 0).sum()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["compact", "absolute"])
@pytest.mark.parametrize("prefill", [27, 33])
@pytest.mark.parametrize("policy", ["full", "window:26", "sinks:4,window=21", "sinks:8,window=20"])
@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_tokens_that_see_each_other_are_kept_together(
    family, policy, prefill, positions, attention
):
    model, given = tiny_vision(family, attention), prompt(family)
    block = seeing_each_other(family, given)
    want = by_subsequence(model, given, parse(policy), positions == "compact", block)
    cache = BoundedCache(policy, config=model.config, positions=positions)
    assert difference(fed(model, given, cache, prefill), want) < 1e-4


@pytest.mark.parametrize("policy", ["window:26", "sinks:4,window=21", "sinks:8,window=20"])
@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_blocks_of_queries_may_cut_what_is_kept_together(family, policy, monkeypatch):
    """A long prompt attends 512 queries at a time; here 8."""
    monkeypatch.setattr(visibility, "QUERY_BLOCK", 8)
    model, given = tiny_vision(family), prompt(family)
    block = seeing_each_other(family, given)
    want = by_subsequence(model, given, parse(policy), True, block)
    got = fed(model, given, BoundedCache(policy, config=model.config), prefill=33)
    assert difference(got, want) < 1e-4


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("window:12", "16 tokens see each other"),
        ("sinks:4,window=12", "16 tokens see each other"),
        ("snapkv:64", "kept one by one"),
        ("hierarchical:1024,global=4096,recall=blocks", "kept one by one"),
    ],
)
def test_an_image_that_cannot_be_kept_together_is_refused(policy, message):
    model, given = tiny_vision("gemma3"), prompt("gemma3")
    cache = BoundedCache(policy, config=model.config)
    with pytest.raises(CacheError, match=message):
        fed(model, given, cache, prefill=24)


@torch.no_grad()
def test_rows_with_images_at_different_places_are_as_each_alone():
    model = tiny_vision("gemma3")
    rows = [prompt("gemma3", 5, 14), prompt("gemma3", 9, 6)]
    pads = [0, 4]
    alone = [
        model(
            input_ids=row.ids,
            **row.given,
            past_key_values=BoundedCache("sinks:4,window=20", config=model.config),
        ).logits
        for row in rows
    ]
    pad = torch.nn.functional.pad
    together = model(
        input_ids=torch.cat([pad(row.ids, (n, 0)) for row, n in zip(rows, pads, strict=True)]),
        attention_mask=torch.cat(
            [pad(torch.ones_like(row.ids), (n, 0)) for row, n in zip(rows, pads, strict=True)]
        ),
        token_type_ids=torch.cat(
            [pad(row.given["token_type_ids"], (n, 0)) for row, n in zip(rows, pads, strict=True)]
        ),
        pixel_values=torch.cat([row.given["pixel_values"] for row in rows]),
        past_key_values=BoundedCache("sinks:4,window=20", config=model.config),
    ).logits
    for row, n in enumerate(pads):
        assert difference(together[row : row + 1, n:], alone[row]) < 1e-4


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_generates_after_a_block_as_without_a_bound_when_all_is_kept(family):
    model, given = tiny_vision(family), prompt(family)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    found = [
        model.generate(given.ids, **given.given, past_key_values=cache, **settings).tolist()
        for cache in (
            DynamicCache(config=model.config),
            BoundedCache("sinks:4,window=100", config=model.config),
        )
    ]
    assert found[0] == found[1]


def test_weights_of_a_block_are_those_of_a_pass_without_a_bound():
    model, given = tiny_vision("gemma3", "eager"), prompt("gemma3")
    found = [
        model(
            input_ids=given.ids, **given.given, past_key_values=cache, output_attentions=True
        ).attentions[0]
        for cache in (
            DynamicCache(config=model.config),
            BoundedCache("sinks:4,window=100", config=model.config),
        )
    ]
    assert difference(*found) < 1e-5
