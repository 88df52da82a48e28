"""The former name of the package still works, and warns."""

from __future__ import annotations

import importlib
import sys

import pytest

import transom.torch_data


def test_the_former_name_says_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transom.data", raising=False)
    with pytest.deprecated_call(match=r"import transom\.torch_data"):
        data = importlib.import_module("transom.data")
    assert data.WindowDataset is transom.torch_data.WindowDataset
    assert data.WindowStream is transom.torch_data.WindowStream
