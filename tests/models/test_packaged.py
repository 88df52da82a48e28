"""Where the models of the catalogue are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from transom.models import catalogue


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRANSOM_CACHE": "/t", "XDG_CACHE_HOME": "/x"}, "/t"),
        ({"TRANSOM_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/transom"),
        ({"TRANSOM_CACHE": "", "XDG_CACHE_HOME": ""}, "~/.cache/transom"),
    ],
)
def test_where_the_cache_is(environment, expected, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    [entry] = catalogue()
    assert entry.path.parent == Path(expected).expanduser()
