"""lm-evaluation-harness with a bounded cache, as the guide shows it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.helpers.documents import python_blocks
from tests.helpers.letters import tokenizer_of
from tests.helpers.models import dense_logits, tiny
from transom import BoundedCache
from transom.policies import parse

LETTERS = "abcdefghijklmnopqrstvwxyz"
PROMPTS = ["the quick brown fox naps", "a fox", "pack my box with five dozen jugs"]
CLOSE = 1e-3


@pytest.fixture(scope="module")
def guide() -> SimpleNamespace:
    """What the block of the guide defines, run on a tiny model and tasks of this file."""
    tasks = pytest.importorskip("lm_eval.tasks", reason="pip install lm-eval")
    blocks = [text for text in python_blocks("docs/guide.md") if "lm_eval" in text]
    here = "tasks=TASKS, task_manager=MANAGER"
    [code] = [text.replace('tasks=["lambada_openai"]', here) for text in blocks]
    tokenizer = tokenizer_of(LETTERS)
    tokenizer.pad_token = "#"
    names = {
        **{"BoundedCache": BoundedCache, "TASKS": [choices(), continuations()]},
        **{"model": tiny("llama"), "tokenizer": tokenizer},
        "MANAGER": tasks.TaskManager(include_defaults=False),  # thousands of files otherwise
    }
    exec(compile(code, "<guide>", "exec", dont_inherit=True), names)
    return SimpleNamespace(**names)


def rows() -> dict[str, Dataset]:
    return {"test": Dataset.from_list([{"text": text, "next": " a"} for text in PROMPTS])}


def task(name: str, **settings: Any) -> dict[str, Any]:
    given = {"custom_dataset": lambda **_: rows(), "test_split": "test", "doc_to_text": "text"}
    return {"task": name, **given, **settings}


def choices() -> dict[str, Any]:
    return task(
        "choices", output_type="multiple_choice", doc_to_choice=["fox", "box"], doc_to_target=0
    )


def continuations() -> dict[str, Any]:
    return task(
        "continuations",
        output_type="generate_until",
        doc_to_target="next",
        generation_kwargs={"until": ["$"], "max_gen_toks": 6},
        metric_list=[{"metric": "exact_match"}],
    )


def bounded(guide: SimpleNamespace, policy: str) -> Any:
    guide.lm.policy = policy
    return guide.lm


def requests(kind: str, *arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    make = partial(Instance, request_type=kind, doc={}, idx=0)
    return [make(arguments=each) for each in arguments]


def test_the_tasks_of_the_guide_run(guide: SimpleNamespace) -> None:
    assert guide.results.keys() == {"choices", "continuations"}
    assert 0 <= guide.results["choices"]["acc,none"] <= 1
    assert "exact_match,none" in guide.results["continuations"]


def test_no_gradients_are_recorded(guide: SimpleNamespace) -> None:
    ids = torch.tensor([guide.tokenizer(PROMPTS[0]).input_ids])
    assert not guide.lm._model_call(ids).requires_grad


@pytest.mark.parametrize("policy", ["full", "sinks:2,window=6", "window:8"])
def test_likelihoods_are_those_of_a_dense_pass_under_the_policy(
    guide: SimpleNamespace, policy: str
) -> None:
    """In batches of prompts of different lengths, which the harness pads on the right."""
    pairs = [(text, " box" + text[:5]) for text in PROMPTS]
    found = bounded(guide, policy).loglikelihood(requests("loglikelihood", *pairs))
    for (text, following), (likelihood, greedy) in zip(pairs, found, strict=True):
        ids = torch.tensor(guide.tokenizer(text + following).input_ids)
        logits = dense_logits(guide.model, ids[None, :-1], parse(policy))[0, -len(following) :]
        answer = ids[-len(following) :]
        losses = logits.log_softmax(-1).gather(1, answer[:, None])
        assert abs(likelihood - float(losses.sum())) < CLOSE
        assert greedy == bool((logits.argmax(-1) == answer).all())


@pytest.mark.parametrize("policy", ["full", "sinks:2,window=6", "window:8"])
def test_generated_texts_are_those_of_dense_passes_under_the_policy(
    guide: SimpleNamespace, policy: str
) -> None:
    settings = {"until": ["$"], "max_gen_toks": 6, "do_sample": False}
    given = requests("generate_until", *((text, settings) for text in PROMPTS))
    found = bounded(guide, policy).generate_until(given)
    for text, generated in zip(PROMPTS, found, strict=True):
        ids = guide.tokenizer(text).input_ids
        prompt = len(ids)
        for _ in range(6):
            logits = dense_logits(guide.model, torch.tensor([ids]), parse(policy))
            ids.append(int(logits[0, -1].argmax()))
        assert guide.tokenizer.decode(ids[prompt:]).partition("$")[0] == generated


RECALL = "hierarchical:8,global=100,recall=blocks,block=4,blocks=3,chunk=2"


@pytest.mark.parametrize("policy", ["snapkv:8", RECALL])
def test_policies_of_the_other_kinds_run(guide: SimpleNamespace, policy: str) -> None:
    pairs = [(text, " fox") for text in PROMPTS]
    found = bounded(guide, policy).loglikelihood(requests("loglikelihood", *pairs))
    assert all(likelihood < 0 for likelihood, _ in found)
