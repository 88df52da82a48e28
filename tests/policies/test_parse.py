from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from transom.errors import PolicyError
from transom.policies import Chunked, Full, Scored, Sinks, Window, known, parse


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("full", Full()),
        ("window:1024", Window(1024)),
        ("window:size=1024", Window(1024)),
        ("window", Window()),
        ("window:", Window()),
        (" sinks:4,window=1020 ", Sinks(4, 1020)),
        ("sinks:sinks=4, window=1020", Sinks(4, 1020)),
        ("sinks:window=8", Sinks(window=8)),
        ("chunked:4096,chunk=128", Chunked(4096, 128)),
        ("window:1_000", Window(1000)),
    ],
)
def test_spellings(text: str, policy: Any) -> None:
    assert parse(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("windw:4", "Known policies: full, window, sinks, chunked, hierarchical"),
        ("", "unknown policy ''"),
        ("window:sise=4", "has no parameter 'sise'. It takes size=1024, kv=auto"),
        ("full:3", "It takes kv=auto"),
        ("sinks:4,1020", "expected key=value, got '1020'. It takes sinks=4, window=1020, kv=auto"),
        ("sinks:4,sinks=5", "sinks is given twice"),
        ("window:4.5", "size is '4.5'; expected a whole number"),
        ("window:0", "size is 0; expected at least 1"),
        ("window:-3", "size is -3"),
    ],
)
def test_errors_say_what_came_and_what_is_known(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert message in str(caught.value)


class Mine(Window):
    name = "mine"


class Clash(Window):
    name = "sinks"


def registered(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    module = __import__("transom.plugins", fromlist=["entry_points"])
    entries = [EntryPoint(name=f"e{i}", value=v, group="g") for i, v in enumerate(values)]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    known.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_registry() -> Any:
    yield
    known.cache_clear()


def test_a_package_can_register_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, f"{__name__}:Mine")
    assert parse("mine:7") == Mine(7)
    assert str(Mine(7)) == "mine:7"


def test_a_name_can_be_used_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, f"{__name__}:Clash")
    with pytest.raises(PolicyError, match=r"'sinks', which transom\.policies\.sinks already"):
        known()


def test_an_entry_point_must_be_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, "builtins:int")
    with pytest.raises(PolicyError, match="expected a subclass of"):
        known()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sink:4", "Did you mean 'sinks:4'"),
        ("Window:64", "Did you mean 'window:64'"),
        ("full,kv=int4", "Did you mean 'full:kv=int4'"),
        ("window 64", "Did you mean 'window:64'"),
        ("snapkw", "Did you mean 'snapkv'"),
        ("full,window:128", "separate them with ';'"),
        ("full; window:128", "separate them with ';'"),
        ("", "unknown policy ''. Known"),
        ("xyzzy", "unknown policy 'xyzzy'. Known"),
    ],
)
def test_errors_suggest_what_was_probably_meant(text: str, meant: str) -> None:
    with pytest.raises(PolicyError, match=meant):
        parse(text)


def test_sizes_may_be_written_like_lengths() -> None:
    assert str(parse("window:1k")) == "window:1024"
    assert parse("snapkv:20k,every=1k") == parse("snapkv:20480,every=1024")
    assert parse("sinks:4,window=1.5K") == parse("sinks:4,window=1536")
    for wrong in ("window:1q", "window:k", "window:0.3k", "sinks:4,window=-1k"):
        with pytest.raises(PolicyError):
            parse(wrong)


@pytest.mark.parametrize("text", [3, None, b"window:64", Window(64)])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(PolicyError, match=f"is {type(text).__name__}; expected text such as"):
        parse(text)


def test_a_misspelt_keyword_is_named() -> None:
    wrong: dict[str, Any] = {"sink": 4}
    with pytest.raises(PolicyError, match="Sinks has no parameter 'sink'; did you mean 'sinks'"):
        Sinks(**wrong)


def test_small_budgets_do_not_evict_token_by_token() -> None:
    for size, together in ((8, 1), (20, 5), (30, 8), (64, 8), (128, 8), (1024, 64)):
        policy = parse(f"snapkv:{size}")
        assert isinstance(policy, Scored)
        assert policy.round == together
