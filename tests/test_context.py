from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.helpers.letters import Letters
from tests.helpers.models import VOCABULARY, dense_logits, dense_reference, tiny, tokens
from tests.helpers.policy_examples import that_decide_by
from transom.chat import Dialogue
from transom.context import Context
from transom.errors import CacheError, InputError, PolicyError, UnsupportedModelError
from transom.kv import BoundedCache
from transom.policies import Full, Policy, Sinks, Window


@pytest.mark.parametrize("policy", that_decide_by("position"), ids=str)
def test_score_is_the_loss_of_the_dense_pass(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(1, 70)
    logits = dense_logits(model, ids, policy)
    expected = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none").numpy()
    got = Context(model, policy=policy, chunk=16).score(ids[0])
    assert got.dtype == np.float32
    assert np.isnan(got[0])
    np.testing.assert_allclose(got[1:], expected, atol=1e-3)


@given(cuts=st.lists(st.integers(0, 60), max_size=5), chunk=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_score_does_not_depend_on_the_cuts(cuts: list[int], chunk: int) -> None:
    model, ids = tiny("llama"), tokens(60)
    whole = Context(model, policy=Sinks(3, 9)).score(ids)
    edges = [0, *sorted(cuts), 60]
    context = Context(model, policy=Sinks(3, 9), chunk=chunk)
    pieces = [context.score(ids[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-3)


def test_append_then_score_equals_score() -> None:
    model, ids = tiny("llama"), tokens(60)
    whole = Context(model, policy=Window(12)).score(ids)
    context = Context(model, policy=Window(12), chunk=8)
    assert context.append(ids[:41]) == 41
    np.testing.assert_allclose(context.score(ids[41:]), whole[41:], atol=1e-3)


def characters() -> PreTrainedTokenizerFast:
    """A tokenizer that merges letters within words and puts a special id before every text."""
    letters = {letter: i for i, letter in enumerate("?<> .abcdefghij")}
    vocabulary = letters | {pair: 20 + i for i, pair in enumerate(["ab", "abc", "de", " a"])}
    merges = [("a", "b"), ("ab", "c"), ("d", "e"), (" ", "a")]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="?"))
    tokenizer.pre_tokenizer = Split(Regex(" ?[a-z]+|[^a-z]"), "isolated")
    tokenizer.post_processor = TemplateProcessing("> $A", special_tokens=[(">", letters[">"])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@given(
    words=st.lists(
        st.sampled_from(["ab", "c", " ", " ab", ".", "de", "abcabc"]), min_size=1, max_size=30
    ),
    chunk=st.integers(3, 20),
    cut=st.integers(1, 30),
)
@settings(max_examples=12, deadline=None)
def test_text_in_pieces_is_one_text(words: list[str], chunk: int, cut: int) -> None:
    text = "".join(words)
    model, tokenizer = tiny("llama"), characters()
    contexts = [Context(model, tokenizer, Sinks(2, 9), chunk=chunk) for _ in range(3)]
    ids, whole, pieces = contexts
    counts = {ids.append(tokenizer(text).input_ids), whole.append(text)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "transom.tokens.whole.LONG", cut
        )  # longer texts are tokenized a stretch at a time
        counts.add(pieces.append(iter(words)))
    assert len(counts) == 1
    assert ids.usage == whole.usage == pieces.usage
    assert torch.equal(ids._runner.logits, whole._runner.logits)  # type: ignore[arg-type]
    assert torch.equal(ids._runner.logits, pieces._runner.logits)  # type: ignore[arg-type]


def test_an_open_file_is_text(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("ab abc\nde. " * 40)
    contexts = [Context(tiny("llama"), characters(), Window(12), chunk=16) for _ in range(2)]
    with path.open() as file:
        count = contexts[0].append(file)
    assert count == contexts[1].append(path.read_text())
    assert torch.equal(contexts[0]._runner.logits, contexts[1]._runner.logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", that_decide_by("position"), ids=str)
def test_generate_is_greedy_generate_under_the_mask(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(1, 50)
    context = Context(model, Letters(), policy, chunk=16)
    context.append(ids[0])
    text = context.generate(max_new_tokens=12)
    with dense_reference(model, policy):
        full = model.generate(ids, use_cache=False, do_sample=False, max_new_tokens=12)
    new = full[0, 50:].tolist()
    assert text == Letters().decode(new, True)
    assert context.usage.seen == 50 + len(new)


def test_stream_gives_the_same_text_in_pieces() -> None:
    model = tiny("llama")
    contexts = [Context(model, Letters(), Sinks(3, 9)) for _ in range(2)]
    settings: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0.8, "top_k": 30, "seed": 5}
    whole = contexts[0].generate("hello there", **settings)
    pieces = list(contexts[1].generate("hello there", stream=True, **settings))
    assert "".join(pieces) == whole
    assert len(pieces) > 1


def test_generated_text_is_part_of_the_context() -> None:
    model = tiny("llama")
    context = Context(model, Letters(), Window(12))
    context.append(tokens(20))
    generated = context.generate(max_new_tokens=5)
    again = Context(model, Letters(), Window(12))
    again.append(tokens(20))
    again.append([ord(letter) - 30 for letter in generated])
    np.testing.assert_allclose(again.score(tokens(9)), context.score(tokens(9)), atol=1e-3)


def test_an_end_token_stops_and_is_fed() -> None:
    model = tiny("llama")
    context = Context(model, Letters(), Window(12))
    context.append(tokens(20))
    first = context.fork()
    token = ord(first.generate(max_new_tokens=1)) - 30
    model.generation_config.eos_token_id = [token]
    try:
        assert context.generate(max_new_tokens=9) == ""
    finally:
        model.generation_config.eos_token_id = 2
    assert context.usage.seen == 21


def test_a_fork_is_independent() -> None:
    model, ids = tiny("llama"), tokens(60)
    whole = Context(model, policy=Sinks(3, 9)).score(ids)
    context = Context(model, policy=Sinks(3, 9))
    context.append(ids[:30])
    twin = context.fork()
    twin.append(tokens(25, seed=8))
    np.testing.assert_allclose(context.score(ids[30:]), whole[30:], atol=1e-3)
    assert (twin.usage.seen, context.usage.seen) == (55, 60)


def test_contexts_share_a_model_and_take_turns() -> None:
    model, ids = tiny("llama"), tokens(60)
    policies: list[Policy] = [Full(), Window(9), Sinks(2, 9)]
    alone = [Context(model, policy=policy).score(ids) for policy in policies]
    contexts = [Context(model, policy=policy) for policy in policies]
    turns = [[c.score(ids[i : i + 10]) for c in contexts] for i in range(0, 60, 10)]
    for index, expected in enumerate(alone):
        got = np.concatenate([turn[index] for turn in turns])
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_positions_stay_small_in_a_long_text() -> None:
    """Rebasing keeps float32 angles accurate, and does not change the loss."""
    model, ids = tiny("llama"), tokens(20_000)
    context = Context(model, policy=Sinks(3, 29), chunk=700)
    losses = context.score(ids)
    assert context.usage.position < 8192 + 700
    assert context.cache.next_position < context.cache.seen
    tail = Context(model, policy=Window(32), chunk=700)  # without sinks the losses differ
    tail.append(ids[:19_000])
    assert np.abs(tail.score(ids[19_000:]) - losses[19_000:]).max() > 0.1
    expected = dense_logits(model, torch.cat((ids[:3], ids[-29 - 29 * 3 :]))[None], Sinks(3, 29))
    # Through three layers the last loss depends on 3 * 29 tokens and the sinks, and on no others.
    last = F.cross_entropy(expected[0, -2:-1], ids[-1:]).item()
    assert losses[-1] == pytest.approx(last, abs=1e-3)


def test_reset_starts_over() -> None:
    model, ids = tiny("llama"), tokens(40)
    context = Context(model, policy=Window(9))
    first = context.score(ids)
    context.reset()
    assert context.usage[:3] == (0, 0, 0)
    np.testing.assert_array_equal(context.score(ids), first)


def test_empty_input_changes_nothing() -> None:
    context = Context(tiny("llama"), Letters(), Window(9))
    assert context.append([]) == 0
    assert context.score([]).shape == (0,)
    context.append([4])
    assert context.append("") == 0
    assert context.usage.seen == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, VOCABULARY], f"0 to {VOCABULARY - 1}"), (["a", "b"], "cannot use list"), (None, "None")],
)
def test_bad_content_changes_nothing(content: Any, message: str) -> None:
    context = Context(tiny("llama"), policy=Window(9))
    context.append([4, 5])
    with pytest.raises(InputError, match=message):
        context.append(content)
    assert context.usage.seen == 2


def test_bad_content_does_not_forget_an_unfinished_answer() -> None:
    context = Context(tiny("llama"), policy=Window(9))
    context._runner.dialogue = Dialogue("assistant", answering=True)
    with pytest.raises(InputError):
        context.append([-1])
    assert context.unfinished


def test_missing_and_wrong_arguments_are_named() -> None:
    model = tiny("llama")
    with pytest.raises(InputError, match="needs a tokenizer"):
        Context(model).append("text")
    with pytest.raises(InputError, match="needs a tokenizer"):
        Context(model).generate()
    with pytest.raises(InputError, match="chat template"):
        Context(model, Letters()).append([{"role": "user", "content": "hi"}])
    with pytest.raises(InputError, match="context is empty"):
        Context(model, Letters()).generate()
    with pytest.raises(InputError, match="no parameter 'temprature'; did you mean 'temperature'"):
        Context(model, Letters()).generate("hi", temprature=1)
    with pytest.raises(InputError, match="chunk is 0"):
        Context(model, chunk=0)
    with pytest.raises(PolicyError, match="Known policies"):
        Context(model, policy="windw:3")


@pytest.mark.model
def test_the_snippet_of_the_readme(smollm2: Any) -> None:
    context = Context(smollm2.model, smollm2.tokenizer, policy=Sinks(4, window=124))
    context.append("The whale swam past the ship, and the captain shouted. " * 60)
    answer = context.generate(
        [{"role": "user", "content": "What swam past the ship?"}], max_new_tokens=12
    )
    assert "whale" in answer.lower()
    assert context.usage.kept == 128
    assert context.usage.seen > 300


@pytest.mark.parametrize("ends", ["> $A .", "> $A", "$A .", "$A", "> < $A . ."])
def test_special_tokens_do_not_depend_on_the_number_of_calls(ends: str) -> None:
    """BOS stands at the very start only, and tokens that end a text are left out in the middle."""
    tokenizer = characters()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in "><."]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single=ends, special_tokens=special)
    before = [dict(special)[token] for token in ends.partition("$A")[0].split()]
    plain = tokenizer("ab cde", add_special_tokens=False).input_ids
    model = tiny("llama", eos_token_id=None)
    reference = Context(model, policy="window:30")
    reference.append([*before, *plain])
    for parts in (["ab", " cde"], ["", "ab cde"], ["ab cde", ""]):
        context = Context(model, tokenizer, "window:30")
        for part in parts:
            context.append(part)
        assert context.usage == reference.usage
        torch.testing.assert_close(context._runner.logits, reference._runner.logits)
    pieces, scored, asked = (Context(model, tokenizer, "window:30") for _ in range(3))
    pieces.append(iter(["ab", " c", "de"]))
    torch.testing.assert_close(pieces._runner.logits, reference._runner.logits)
    assert len(scored.score("ab cde")) == len(before) + len(plain)
    asked.generate("ab cde", max_new_tokens=0)
    assert asked.usage == reference.usage


def test_first_mistakes_are_named(tmp_path: Path) -> None:
    model = tiny("llama")
    misspelt: dict[str, Any] = {"polcy": "window:9"}
    with pytest.raises(InputError, match="Context has no parameter 'polcy'; did you mean 'policy'"):
        Context(model, **misspelt)
    with pytest.raises(InputError, match="BoundedCache has no parameter 'polcy'"):
        BoundedCache(config=model.config, **misspelt)
    with pytest.raises(InputError, match=r"config is LlamaForCausalLM; .*config=model.config"):
        BoundedCache("window:9", config=model)
    for wrong in (5, None, {"window": 9}):
        with pytest.raises(PolicyError, match=r"expected one of transom.policies"):
            Context(model, policy=wrong)  # type: ignore[arg-type]
    for chunk in (1.5, "5", True):
        with pytest.raises(InputError, match="chunk is"):
            Context(model, chunk=chunk)  # type: ignore[arg-type]
    context = Context(model, Letters(), "window:9")
    for call in (context.append, context.score, context.generate):
        with pytest.raises(InputError, match=r"path.open\(\)"):
            call(tmp_path / "book.txt")  # type: ignore[arg-type]
    context.append([4, 5])
    shown = repr(context)
    assert shown.startswith("Context(LlamaForCausalLM, 'window:9', seen=2, kept=2, kv_bytes=")


def test_a_used_cache_given_a_shorter_prompt_says_so() -> None:
    model = tiny("llama")
    cache = BoundedCache("window:9", config=model.config)
    model.generate(tokens(1, 20), past_key_values=cache, max_new_tokens=2, do_sample=False)
    with pytest.raises(InputError, match=r"already seen 21.*new cache"):
        model.generate(tokens(1, 5), past_key_values=cache, max_new_tokens=2)


def test_why_tokens_cannot_be_removed_is_the_reason() -> None:
    reasons = {
        "window:200,kv=int8": "have been stored in int8",
        "window:20": "evicted others, which cannot come back",
        "heavy-hitters:200": "had a say",
    }
    for policy, reason in reasons.items():
        context = Context(tiny("llama"), policy=policy)
        context.append(tokens(90))
        with pytest.raises(CacheError, match=reason):
            context.trim_to(80)


@pytest.mark.parametrize("model", [None, "smollm2", tiny("llama").config, torch.nn.Linear(2, 2)])
def test_an_object_that_is_not_a_model_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=rf"is {type(model).__name__}; .*from_pretrained"):
        Context(model)


def test_offloaded_weights_compute_on_their_execution_device() -> None:
    accelerate = pytest.importorskip("accelerate")
    ids = list(range(3, 30))
    expected = Context(tiny("llama"), policy="window:9").score(ids)
    model = tiny("llama")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    context = Context(model, policy="window:9")
    np.testing.assert_allclose(context.score(ids), expected, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match="load the model without offloading"):
        context.save("nowhere")
    with pytest.raises(UnsupportedModelError, match="meta device, so it cannot be run"):
        Context(tiny("llama").to("meta"), policy="window:9").append(ids)


@pytest.mark.parametrize("length", [3, 70_000])
def test_the_start_token_is_found_in_a_vocabulary_without_letters(length: int) -> None:
    backend = Tokenizer(BPE({"<s>": 0, "</s>": 1, "C": 2, "G": 3}, []))
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    context = Context(tiny("llama"), tokenizer, policy="window:9")
    assert context.encode("CG") == [0, 2, 3]
    assert context.append(iter(["CG", "G" * (length - 2)])) == 1 + length
