"""A reading reports the losses of the dense reference and the bytes that the policy computes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.helpers.models import VOCABULARY, dense_logits, tiny, tokens
from transom import Chunked, Context, Full, Sinks, Window
from transom.evaluate import read
from transom.policies import ModelShape, kv_bytes_bound

LENGTH = 150
CHUNK = 16


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


@pytest.fixture
def tokenizer():
    words = Tokenizer(WordLevel({"?": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}, "?"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


def ids():
    return tokens(LENGTH).numpy()


@pytest.mark.parametrize("policy", [Full(), Window(24), Sinks(2, window=20), Chunked(24, chunk=6)])
def test_the_losses_are_those_of_one_dense_pass(llama, policy):
    run = read(Context(llama, policy=policy, chunk=CHUNK), ids())
    logits = dense_logits(llama, tokens(1, LENGTH), policy)[0]
    expected = torch.nn.functional.cross_entropy(
        logits[:-1], tokens(1, LENGTH)[0, 1:], reduction="none"
    ).numpy()
    assert run.tokens == LENGTH
    assert run.loss == pytest.approx(expected.mean(), abs=1e-4)
    assert run.perplexity == pytest.approx(math.exp(expected.mean()), rel=1e-4)
    for start, stop, loss in run.stretches:
        assert loss == pytest.approx(expected[max(0, start - 1) : stop - 1].mean(), abs=1e-4)


def test_the_stretches_make_up_the_whole(llama):
    run = read(Context(llama, policy=Window(24), chunk=CHUNK), ids())
    assert 1 < len(run.stretches) <= 8
    scored = [stop - max(start, 1) for start, stop, _ in run.stretches]
    assert sum(scored) == LENGTH - 1
    losses = [stretch.loss for stretch in run.stretches]
    assert np.average(losses, weights=scored) == pytest.approx(run.loss, rel=1e-9)


@pytest.mark.parametrize("policy", [Window(24), Sinks(2, window=20), Chunked(24, chunk=6)])
def test_bytes_are_counted_and_bounded_by_the_policy(llama, policy):
    context = Context(llama, policy=policy, chunk=CHUNK)
    run = read(context, ids())
    assert run.policy == str(policy)
    assert run.kept == policy.kept(LENGTH)
    assert run.kept + run.dropped == LENGTH
    assert run.kv_bytes_peak == context.cache.nbytes > 0
    shape = ModelShape.from_config(llama.config, itemsize=4)
    assert run.kv_bytes_peak <= run.kv_bytes_bound == kv_bytes_bound(policy, shape)


def test_half_the_bytes_per_number_halve_the_bound():
    model = tiny("llama").to(torch.bfloat16)
    run = read(Context(model, policy=Window(24), chunk=CHUNK), ids())
    assert run.kv_bytes_bound == kv_bytes_bound(Window(24), ModelShape.from_config(model.config, 2))


def test_a_policy_without_a_bound_states_none(llama):
    assert read(Context(llama, policy=Full(), chunk=CHUNK), ids()).kv_bytes_bound is None
    hybrid = Context(tiny("gemma3"), policy=Window(24), chunk=CHUNK)
    assert read(hybrid, ids()).kv_bytes_bound is None


def test_progress_follows_the_reading(llama):
    context = Context(llama, policy=Window(24), chunk=CHUNK)
    seen = []
    run = read(context, ids(), on_progress=seen.append)
    assert [p.tokens for p in seen] == [*range(CHUNK, LENGTH, CHUNK), LENGTH]
    assert {p.total for p in seen} == {LENGTH}
    assert max(p.kv_bytes for p in seen) == run.kv_bytes_peak
    assert seen[-1].loss == pytest.approx(run.loss, rel=1e-6)  # fewer than 1,024 tokens: all count
    assert seen[-1].tokens_per_second == pytest.approx(run.tokens_per_second)


def test_the_running_loss_is_over_the_last_tokens_only(llama):
    losses = [1.0] * 1000 + [5.0] * 1024

    class Reciting(Context):
        def score(self, content):
            super().score(content)
            return np.array([losses.pop(0) for _ in content], dtype=np.float32)

    seen = []
    context = Reciting(llama, policy=Window(24), chunk=1000)
    read(context, tokens(2024).numpy(), on_progress=seen.append)
    assert seen[0].loss == 1.0
    assert seen[-1].loss == 5.0


def test_stops_between_slices_with_the_figures_so_far(llama):
    slices = []
    run = read(
        Context(llama, policy=Window(24), chunk=CHUNK),
        ids(),
        ask="w5",
        on_progress=slices.append,
        stop=lambda: len(slices) == 2,
    )
    assert run.tokens == run.kept + run.dropped == 2 * CHUNK
    assert math.isfinite(run.loss)
    assert run.answer is None


def test_asks_in_plain_text_without_a_chat_template(llama, tokenizer):
    context = Context(llama, tokenizer, Sinks(2, window=20), chunk=CHUNK)
    run = read(context, ids(), ask="w5 w6", max_new_tokens=5)
    other = Context(llama, tokenizer, Sinks(2, window=20), chunk=CHUNK)
    other.append(ids())
    assert run.answer == other.generate("\n\nQuestion: w5 w6\nAnswer:", max_new_tokens=5).strip()
    assert run.answer
    assert run.tokens == LENGTH  # the figures are of the reading alone


def test_asks_through_the_chat_template(llama, tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}w7 {{ m.content }} w8 {% endfor %}"
        "{% if add_generation_prompt %}w9 {% endif %}"
    )
    context = Context(llama, tokenizer, Window(24), chunk=CHUNK)
    run = read(context, ids(), ask="w5", max_new_tokens=5)
    other = Context(llama, tokenizer, Window(24), chunk=CHUNK)
    other.append(ids())
    # Also with a template under which no second question could follow.
    assert run.answer == other.generate("w7 w5 w8 w9 ", max_new_tokens=5).strip()
    assert run.answer


def test_json_has_no_nan(llama):
    run = read(Context(llama, policy=Window(24), chunk=CHUNK), ids()[:1])
    assert math.isnan(run.loss)
    figures = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert figures["loss"] is figures["perplexity"] is None
    assert figures["stretches"] == [{"start": 0, "stop": 1, "loss": None}]
