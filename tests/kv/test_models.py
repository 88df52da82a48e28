"""The families of models that people run, under a policy of each kind; `make models` tries all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.model_kinds import examine as examination
from tests.helpers.model_kinds.examine import FEW_CASES, Case, Row, examine
from tests.helpers.model_kinds.exceptions import NOT_MADE
from tests.helpers.model_kinds.feeding import texts, whole
from tests.helpers.model_kinds.lone_query import lone_logits
from tests.helpers.model_kinds.small_configs import kinds, small_config
from tests.helpers.models import dense_logits, difference, tiny
from transom import BoundedCache
from transom.policies import parse

TABLE = Path(__file__).parents[2] / "benchmarks/results/models.json"
FAMILIES = [
    "llama",
    "llama4_text",
    "mistral",
    "ministral",
    "ministral3",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_text",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "gpt_oss",
    "phi",
    "phi3",
    "smollm3",
    "olmo2",
    "olmo3",
    "glm",
    "glm4",
    "glm4_moe",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "cohere",
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "exaone4",
    "falcon",
    "starcoder2",
    "stablelm",
    "jamba",
    "bamba",
    "zamba2",
    "falcon_h1",
    "nemotron_h",
    "lfm2",
    "minimax",
    "mimo_v2_flash",
    "gpt_neox",
    "bloom",
    "mpt",
]
SINKS = Case("by position", "sinks:3,window=17", evicts=True)


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    """What the last run of `make models` found, by kind."""
    return {row["kind"]: row for row in json.loads(TABLE.read_text())["rows"]}


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind in kinds()])
def test_a_family_is_right_or_refused_and_what_the_table_says(
    kind: str, table: dict[str, Any]
) -> None:
    row = examine(kind, FEW_CASES)
    assert not row.not_made
    assert row.faults() == []
    for column, verdicts in row.verdicts.items():
        for policy, verdict in verdicts.items():
            if table[kind]["verdicts"][column][policy]["word"] == "works":
                assert verdict.word == "works", f"{policy} is {verdict}"


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-neox", "phi", "smollm3", "lfm2"])
@pytest.mark.parametrize("policy", ["window:9", "sinks:3,window=7", "chunked:9,chunk=4"])
@pytest.mark.parametrize("compact", [True, False])
def test_the_reference_agrees_with_one_that_knows_rotary_positions(
    family: str, policy: str, compact: bool
) -> None:
    model, ids = tiny(family), texts(30)
    made: Any = parse(policy)
    found = lone_logits(model, ids, made.visible, compact=compact)
    expected = dense_logits(model, ids, made, compact=compact)
    assert difference(found, expected) < 1e-4


@pytest.mark.parametrize("kind", ["deepseek_v3", "bloom", "gpt_oss", "gemma2", "gemma4_text"])
def test_the_reference_gives_what_the_model_gives_where_everything_is_seen(kind: str) -> None:
    model, ids = examination.small_model(small_config(kind)), texts(30)
    expected = whole(model, ids)
    assert difference(lone_logits(model, ids, lambda query, key: True), expected) < 1e-4
    sliding = lone_logits(model, ids, lambda query, key: key > query - 9)
    assert difference(sliding, expected) > 0.1


def verdict_with(monkeypatch: pytest.MonkeyPatch, cache: Any, case: Case = SINKS) -> Row:
    monkeypatch.setattr(examination, "BoundedCache", cache)
    return examine("llama", [case])


def test_a_cache_that_keeps_others_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    row = verdict_with(monkeypatch, lambda _, **kw: BoundedCache("sinks:3,window=18", **kw))
    assert row.verdicts["by position"][SINKS.policy].word == "WRONG"
    assert "WRONG" in row.faults()[0]
    assert "off by" in row.faults()[0]


@pytest.mark.parametrize("case", [SINKS, FEW_CASES[-1]])
def test_positions_that_are_others_are_wrong(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def absolute(policy: Any, *, config: Any, positions: str) -> BoundedCache:
        return BoundedCache(policy, config=config, positions="absolute")

    row = verdict_with(monkeypatch, absolute, case)
    assert row.verdicts[case.column][case.policy].word == "WRONG"


def test_an_error_of_nobody_is_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(policy: Any, **_: Any) -> BoundedCache:
        raise KeyError("layer")

    row = verdict_with(monkeypatch, failing)
    assert row.verdicts["by position"][SINKS.policy].word == "RAW ERROR"
    assert "making the cache: KeyError: 'layer'" in row.faults()[0]


def test_every_kind_has_a_small_config() -> None:
    for kind in set(kinds()) - set(NOT_MADE):
        assert small_config(kind).model_type == kind
