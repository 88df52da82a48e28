"""What differs between releases of transformers, and the warning for one that is untested."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.models import tiny, tokens
from transom import BoundedCache, Context, Window
from transom.attention import versions
from transom.attention.huggingface import use_pattern
from transom.attention.versions import TESTED, cache_argument, warn_if_untested


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    major, minor = TESTED[1]
    version = f"{major}.{minor + 1}.0.dev0"
    monkeypatch.setattr(versions.transformers, "__version__", version)
    warn_if_untested.cache_clear()
    yield version
    warn_if_untested.cache_clear()


def follow(model: Any) -> None:
    with use_pattern(model, "window:8"):
        pass


def bound(model: Any) -> None:
    BoundedCache(Window(8), config=model.config)


@pytest.mark.parametrize("first_use", [follow, bound])
def test_an_untested_release_warns_once(newer: str, first_use: Callable[[Any], None]) -> None:
    model = tiny("llama")
    with pytest.warns(UserWarning, match=f"transformers {newer} is newer than"):
        first_use(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        follow(model)
        bound(model)


def test_a_tested_release_does_not_warn() -> None:
    warn_if_untested.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BoundedCache(Window(8), config=tiny("llama").config)


def test_importing_warns_of_nothing() -> None:
    code = "import transom, transom.kv, transom.attention.huggingface, transom.models"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_a_context_uses_no_deprecated_name() -> None:
    context = Context(tiny("llama"), policy="window:8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        context.append(tokens(1, 20)[0])


class Old:
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class New:
    def forward(self, input_ids: Any, cache: Any = None) -> None: ...


class Wrapper:
    def forward(self, *args: Any, **kwargs: Any) -> None: ...


def test_a_cache_is_given_by_the_name_that_the_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_argument(Old()) == "past_key_values"
    assert cache_argument(New()) == "cache"
    for version, name in [("5.23.4", "past_key_values"), ("5.24.0", "cache"), ("6.0.0", "cache")]:
        monkeypatch.setattr(versions.transformers, "__version__", version)
        assert cache_argument(Wrapper()) == name
