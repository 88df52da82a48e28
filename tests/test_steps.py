"""Steps of a generation, stop strings across token boundaries, and threads."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.models import tiny, tokens
from transom import Context, Step
from transom.context.call_lock import CallLock
from transom.context.stop import StopFinder
from transom.errors import CacheError, InputError


class MarkedLetters:
    """One id per character; `$` ends a text, and `#` is a special token."""

    eos_token_id = 2
    added_tokens_decoder = {  # noqa: RUF012 - as tokenizers of transformers have it
        2: type("Added", (), {"content": "$", "special": True}),
        7: type("Added", (), {"content": "#", "special": True}),
        8: type("Added", (), {"content": "+", "special": False}),
    }

    def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> Any:
        return type("Encoding", (), {"input_ids": [3 + ord(letter) % 90 for letter in text]})

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(30 + i) for i in ids if i not in (2, 7))


def first_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the stop string that is complete first, found character by character."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


TEXTS = st.text("abc", max_size=20)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


@given(TEXTS, STOPS, st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=300, deadline=None)
def test_stop_strings_are_found_wherever_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    finder, shown = StopFinder(stops), ""
    expected = first_stop(text, stops)
    for start, stop in pairwise(edges):
        shown += finder.push(text[start:stop])
        assert text.startswith(shown)
        if expected is not None:
            assert expected.startswith(shown)  # no part of the stop string is ever shown
        else:  # text that is held back is the start of a stop string
            held = text[len(shown) : stop]
            assert held == "" or any(one.startswith(held) for one in stops)
    assert finder.found == (expected is not None)
    assert shown + finder.finish() == (text if expected is None else expected)
    assert finder.finish() == ""


SEED: dict[str, Any] = {"temperature": 1.5, "seed": 4}


def asked(policy: str = "sinks:3,window=20") -> Context:
    context = Context(tiny("llama"), MarkedLetters(), policy)
    context.append(tokens(20))
    return context


def text_of(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


def test_steps_are_the_text_of_generate() -> None:
    whole = asked().generate(max_new_tokens=9, **SEED)
    context = asked()
    steps = list(context.steps(max_new_tokens=9, **SEED))
    assert text_of(steps) == whole
    assert [step.finish_reason for step in steps] == [None] * (len(steps) - 1) + ["length"]
    assert len(steps) == 9 == context.usage.seen - 20
    assert "".join(asked().generate(max_new_tokens=9, stream=True, **SEED)) == whole
    assert list(asked().steps(max_new_tokens=0)) == []


def test_logprobs_are_the_losses_that_scoring_gives() -> None:
    context = asked()
    again = context.fork()
    steps = list(context.steps(max_new_tokens=9, repetition_penalty=1.5, top_k=50, **SEED))
    losses = again.score([step.token for step in steps])
    np.testing.assert_allclose([-step.logprob for step in steps], losses, atol=1e-4)


@pytest.mark.parametrize("place", [0, 3])
def test_an_end_token_is_the_last_step(place: int) -> None:
    free = list(asked().steps(max_new_tokens=9, **SEED))
    end = free[place].token
    assert end not in [step.token for step in free[:place]]
    context = asked()
    context.model.generation_config.eos_token_id = [end]
    try:
        steps = list(context.steps(max_new_tokens=9, **SEED))
    finally:
        context.model.generation_config.eos_token_id = 2
    assert steps[:-1] == free[:place]
    assert steps[-1] == Step(end, "", "stop", free[place].logprob)
    assert context.usage.seen == 20 + place + 1


@given(st.integers(0, 11), st.integers(1, 4), st.integers(0, 11), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_stop_strings_end_a_generation(a: int, b: int, c: int, d: int) -> None:
    free = list(asked().steps(max_new_tokens=12, **SEED))
    text = text_of(free)
    stops = [text[a : a + b] or "~", text[c : c + d] or "~"]
    expected = first_stop(text, stops)
    context = asked()
    steps = list(context.steps(max_new_tokens=12, stop=stops, **SEED))
    assert [step.token for step in steps] == [step.token for step in free[: len(steps)]]
    assert text_of(steps) == (text if expected is None else expected)
    assert steps[-1].finish_reason == ("length" if expected is None else "stop")
    assert context.usage.seen == 20 + len(steps)
    assert asked().generate(max_new_tokens=12, stop=stops, **SEED) == text_of(steps)


def test_text_that_was_held_back_comes_if_it_was_not_a_stop_string() -> None:
    text = asked().generate(max_new_tokens=6, **SEED)
    stop = text[1:4] + "~"
    steps = list(asked().steps(max_new_tokens=6, stop=stop, **SEED))
    assert [len(step.text) for step in steps][:5] == [1, 0, 0, 0, 4]
    assert text_of(steps) == text
    cut = list(asked().steps(max_new_tokens=3, stop=stop, **SEED))
    assert (text_of(cut), cut[-1].finish_reason) == (text[:3], "length")


def test_a_special_token_can_be_a_stop_string() -> None:
    """Special tokens are not in the text, so the stop string is found by its id."""
    context = asked()
    assert context._runner.logits is not None
    context._runner.logits[7] = 1e4
    (step,) = context.steps(max_new_tokens=9, stop=["#", "never"])
    assert step[:3] == (7, "", "stop")


@pytest.mark.parametrize("stop", ["", ["a", ""], 5, [5], b"a", {"a": 1}])
def test_an_invalid_stop_string_is_refused_before_anything_is_fed(stop: Any) -> None:
    context = asked()
    for call in (context.generate, context.steps):
        with pytest.raises(InputError, match=f"^{call.__name__}: stop is"):
            call("hello", stop=stop)
    assert context.usage.seen == 20


def test_settings_of_steps_are_checked_by_name() -> None:
    with pytest.raises(InputError, match="steps has no parameter 'stream'"):
        asked().steps(stream=True)
    with pytest.raises(InputError, match=r"generate has no parameter 'stops'.*'stop'"):
        asked().generate(stops="x")
    with pytest.raises(InputError, match="steps gives text, so it needs a tokenizer"):
        Context(tiny("llama")).steps()


@pytest.mark.parametrize("call", ["append", "score", "fork", "trim_to", "save", "reset", "steps"])
def test_a_second_thread_in_a_context_is_refused(call: str, tmp_path: Any) -> None:
    context = asked()
    inside, done = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        done.wait(60)

    hook = context.model.lm_head.register_forward_hook(wait)
    arguments = {"append": [[5]], "score": [[5]], "trim_to": [3], "save": [tmp_path / "state"]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(context.append, [5, 6])
        try:
            assert inside.wait(60)
            assert context.usage.seen >= 20  # `usage` can always be read
            with pytest.raises(CacheError, match=r"another thread .*fork\(\)"):
                getattr(context, call)(*arguments.get(call, []))
        finally:
            hook.remove()
            done.set()
        assert first.result(60) == 2
    alone = asked()
    alone.append([5, 6])
    assert context.usage == alone.usage
    np.testing.assert_array_equal(context.score([7, 8]), alone.score([7, 8]))


@pytest.mark.parametrize(
    "policy",
    ["sinks:3,window=20", "snapkv:24,sinks=2,every=4", "window:24,kv=int8", "full"],
)
def test_forks_run_in_threads_as_they_do_alone(policy: str) -> None:
    context = asked(policy)
    texts = [tokens(40, seed=seed) for seed in range(4)]
    alone = [context.fork().score(ids) for ids in texts]
    for _ in range(3):
        forks = [context.fork() for _ in texts]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(Context.score, forks, texts))
        np.testing.assert_allclose(got, alone, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_lock_of_another_thread_is_free_in_a_fork() -> None:
    lock, inside, done = CallLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert inside.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # Python warns about a fork in a process with threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                with lock:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


def test_the_former_module_of_losses_says_where_they_are() -> None:
    import transom.scoring
    from transom.context.scoring import losses

    with pytest.warns(DeprecationWarning, match=r"now transom\.context\.scoring\.losses"):
        assert transom.scoring.losses is losses
    with pytest.raises(AttributeError, match="no attribute 'loses'"):
        transom.scoring.loses  # noqa: B018
