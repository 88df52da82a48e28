from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.models import tiny, tokens
from tests.helpers.policy_examples import bounded
from transom.context import Context
from transom.errors import UnsupportedModelError
from transom.policies import Full, Policy, Sinks, Window


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_one_graph_serves_two_thousand_steps(policy: Policy) -> None:
    """Through filling up, wrapping round and rebasing, and equal to the uncompiled steps."""
    model, ids = tiny("llama"), tokens(2_010)
    plain = Context(model, policy=policy)
    compiled = Context(model, policy=policy, compile=True)
    expected = plain.score(ids)
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses = [compiled.score(ids[:10])]
        losses += [compiled.score(ids[i : i + 1]) for i in range(10, len(ids))]
    got = np.concatenate(losses)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert np.nanmax(np.abs(got - expected)) < 1e-3
    assert compiled.usage == plain.usage


def test_a_fork_and_a_longer_chunk_go_on_correctly() -> None:
    model, ids = tiny("llama"), tokens(200)
    expected = Context(model, policy=Sinks(3, 17)).score(ids)
    context = Context(model, policy=Sinks(3, 17), compile=True)
    got = [context.score(ids[:50])]
    got += [context.score(ids[i : i + 1]) for i in range(50, 80)]
    twin = context.fork()
    twin.append(tokens(30, seed=4))
    got.append(context.score(ids[80:150]))
    got += [context.score(ids[i : i + 1]) for i in range(150, 200)]
    assert np.nanmax(np.abs(np.concatenate(got) - expected)) < 1e-3


@pytest.mark.parametrize("policy", bounded(), ids=str)
def test_after_a_reset_nothing_of_before_is_left(policy: Policy) -> None:
    model, ids = tiny("llama"), tokens(60)
    expected = Context(model, policy=policy).score(ids)
    context = Context(model, policy=policy, compile=True)
    for _ in range(2):
        got = np.concatenate([context.score(ids[i : i + 1]) for i in range(len(ids))])
        assert np.nanmax(np.abs(got - expected)) < 1e-3
        context.reset()


@pytest.mark.parametrize(("family", "policy"), [("llama", Full()), ("gemma3", Window(12))])
def test_storage_that_changes_shape_is_refused(family: str, policy: Policy) -> None:
    with pytest.raises(UnsupportedModelError, match="fixed shape"):
        Context(tiny(family), policy=policy, compile=True)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_compiles_for_itself(again: Any) -> None:
    model, ids = tiny("llama"), tokens(60)
    expected = Context(model, policy=Sinks(3, 17)).score(ids)
    context = Context(model, policy=Sinks(3, 17), compile=True)
    context.append(ids[:30])
    context.append(ids[30:31])
    twin = again(context)
    context.append(tokens(5, seed=4))
    got = np.concatenate([twin.score(ids[i : i + 1]) for i in range(31, 60)])
    assert np.abs(got - expected[31:]).max() < 1e-3
    assert twin.usage.seen == 60
