"""A GGUF file is converted once for its content, and kept."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import GgufConfig, LlamaForCausalLM

from tests.helpers.gguf_files import write_gguf
from transom import Context
from transom.errors import InputError, ModelNotFoundError
from transom.models import gguf, kept, kept_models, load

DAY = 24 * 60 * 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were converted, in order."""
    converted: list[Path] = []

    def counted(file: Path, *args: Any) -> Any:
        converted.append(file)
        return from_gguf(file, *args)

    from_gguf = gguf.from_gguf
    monkeypatch.setattr(gguf, "from_gguf", counted)
    return converted


def visible(cache: Path) -> list[str]:
    """What is in the cache folder, hidden files included."""
    return sorted(entry.name for entry in cache.iterdir())


def weights(loaded: Any) -> dict[str, torch.Tensor]:
    """Copies, because transformers maps a file of weights into memory."""
    return {name: weight.clone() for name, weight in loaded.model.state_dict().items()}


def same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_the_first_use_converts_and_later_ones_read_what_was_kept(cache, file, conversions, capfd):
    lines: list[str] = []
    first = weights(load(str(file), report=lines.append))
    second = load(str(file), report=lines.append)
    assert conversions == [file]
    [kept_one] = kept_models()
    assert lines == [f"converting tiny.gguf to {kept_one.path} ..."]
    assert visible(cache) == [kept_one.path.name]
    assert kept_one.file == str(file)
    assert kept_one.size_bytes == sum(x.stat().st_size for x in kept_one.path.iterdir())
    assert same(first, weights(second))
    assert second.name == str(file)
    assert capfd.readouterr() == ("", "")


def test_what_was_kept_is_what_a_direct_conversion_gives(cache, file, tmp_path):
    """Also for a saved context, which compares model and tokenizer by everything they compute."""
    model, tokenizer = gguf.from_gguf(file, "auto", {})
    context = Context(model.eval(), tokenizer, "sinks:4,window=12")
    context.append("a fox, an ox " * 5)
    context.save(tmp_path / "state")
    for _ in range(2):
        loaded = load(str(file))
        again = Context.load(tmp_path / "state", loaded.model, loaded.tokenizer)
        assert again.usage == context.usage
        assert same(weights(loaded), model.state_dict())
        assert loaded.tokenizer("an ox").input_ids == tokenizer("an ox").input_ids
        assert loaded.tokenizer.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.model.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_a_changed_file_is_never_taken_for_the_former(cache, file, conversions):
    """Not even with the size and the times of the former."""
    before, times = weights(load(str(file))), file.stat()
    write_gguf(file, seed=1)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert not same(before, weights(load(str(file))))
    assert len(conversions) == 2
    write_gguf(file)
    assert same(weights(load(str(file))), before)
    assert len(conversions) == 2


def test_the_same_content_under_another_name_is_not_converted_again(cache, file, conversions):
    other = file.with_name("other.gguf")
    shutil.copy(file, other)
    assert same(weights(load(str(file))), weights(load(str(other))))
    assert conversions == [file]


def test_each_dtype_is_kept_by_itself(cache, file, conversions):
    half = load(str(file), dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    again = load(str(file), dtype=torch.bfloat16)
    assert conversions == [file]
    assert same(weights(half), weights(again))
    assert load(str(file), dtype="float32").model.dtype == torch.float32
    assert len(conversions) == len(kept_models()) == 2


def test_another_release_of_transformers_converts_anew(cache, file, conversions, monkeypatch):
    load(str(file))
    monkeypatch.setattr(kept, "version", lambda package: "99.0")
    load(str(file))
    assert len(conversions) == 2


def test_keywords_reach_the_model_of_every_call(cache, file, conversions):
    for _ in range(2):
        assert load(str(file), attn_implementation="eager").model.config._attn_implementation == (
            "eager"
        )
    assert load(str(file)).model.config._attn_implementation == "sdpa"
    assert len(conversions) == 1


def test_a_request_for_packed_weights_is_not_answered_with_what_was_kept(cache, file, conversions):
    load(str(file))
    load(str(file), quantization_config=GgufConfig(dequantize=True))
    assert len(conversions) == 2


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "harm",
    [flipped, lambda path: os.truncate(path, 40), Path.unlink],
    ids=["flipped", "truncated", "removed"],
)
def test_a_damaged_copy_is_noticed_and_made_anew(cache, file, conversions, caplog, name, harm):
    first = weights(load(str(file)))
    [whole] = kept_models()
    harm(whole.path / name)
    with caplog.at_level(logging.WARNING, "transom.models"):
        assert same(weights(load(str(file))), first)
    assert f"{whole.path} is damaged; it is made anew from {file}" in caplog.text
    assert len(conversions) == 2
    load(str(file))
    assert len(conversions) == 2
    assert visible(cache) == [whole.path.name]


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", "{}", '{"format": 0, "files": {}}', '{"format": 1, "files": 3}']
)
def test_a_manifest_that_makes_no_sense_is_damage(cache, file, conversions, manifest):
    load(str(file))
    [whole] = kept_models()
    (whole.path / kept.MANIFEST).write_text(manifest)
    assert kept_models()[0].file.startswith("damaged")
    load(str(file))
    assert len(conversions) == 2


def test_an_interrupted_conversion_leaves_nothing(cache, file, conversions, monkeypatch):
    def interrupted(self: Any, folder: Path) -> None:
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(str(file))
    assert visible(cache) == []
    load(str(file))
    assert len(conversions) == 2


def test_what_a_killed_conversion_left_is_removed_after_a_day(cache, file):
    for name, age in {".converting-killed": DAY + 60, ".converting-running": DAY - 60}.items():
        (cache / name / "model").mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    load(str(file))
    assert visible(cache) == [".converting-running", kept_models()[0].path.name]


def test_of_two_at_once_one_converts_and_the_other_waits(cache, file, conversions, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    counted = gguf.from_gguf

    def slow(*args: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return counted(*args)

    monkeypatch.setattr(gguf, "from_gguf", slow)
    loaded: list[Any] = []
    racers = [threading.Thread(target=lambda: loaded.append(load(str(file)))) for _ in range(2)]
    racers[0].start()
    assert begun.wait(60)
    racers[1].start()
    time.sleep(0.2)
    go_on.set()
    for racer in racers:
        racer.join()
    assert conversions == [file]
    assert same(*map(weights, loaded))
    assert visible(cache) == [kept_models()[0].path.name]


@pytest.mark.slow
def test_two_processes_at_once_convert_once(cache, file):
    code = "import sys; from transom.models import load; load(sys.argv[1], report=print)"
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    reports = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sum(report.count("converting") for report in reports) == 1


def test_a_folder_that_appears_meanwhile_counts(cache, file, conversions, monkeypatch):
    """Where a file system has no locks."""

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(gguf, "import_module", missing)
    counted = gguf.from_gguf

    def late(*args: Any) -> Any:
        monkeypatch.setattr(gguf, "from_gguf", counted)
        made = counted(*args)
        load(str(file))
        return made

    monkeypatch.setattr(gguf, "from_gguf", late)
    load(str(file))
    assert len(conversions) == 2
    assert visible(cache) == [kept_models()[0].path.name]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, SafetensorError("IoError(No space left on device)")])
@pytest.mark.parametrize("kwargs", [{}, {"attn_implementation": "eager"}])
def test_a_disk_that_gets_full_is_logged_and_the_model_loads(
    cache, file, caplog, monkeypatch, error, kwargs
):
    def full(self: Any, folder: Path) -> None:
        Path(folder).mkdir()
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    with caplog.at_level(logging.WARNING, "transom.models"):
        loaded = load(str(file), **kwargs)
    assert loaded.model.config._attn_implementation == kwargs.get("attn_implementation", "sdpa")
    [line] = caplog.messages
    assert line.startswith(f"{file} is converted anew at each start: {cache} cannot be written (")
    assert "No space left" in line
    assert visible(cache) == []


def test_a_disk_without_room_is_not_filled(cache, file, caplog, monkeypatch):
    usage = shutil.disk_usage(file)._replace(free=1000)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(gguf, "save", lambda *_: pytest.fail("saved"))
    load(str(file))
    assert "and 1 kB are free" in caplog.text
    assert visible(cache) == []


def test_a_cache_folder_that_cannot_be_written_is_logged(file, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSOM_CACHE", str(tmp_path / "file" / "cache"))
    load(str(file))
    assert f"{tmp_path / 'file' / 'cache'} cannot be written" in caplog.text


def test_the_files_used_longest_ago_leave_for_new_ones(cache, tmp_path, conversions, monkeypatch):
    files = [tmp_path / f"{seed}.gguf" for seed in range(3)]
    for seed, path in enumerate(files):
        write_gguf(path, seed)
    for path in files[:2]:
        load(str(path))
    for age, each in enumerate(kept_models(), 1):
        os.utime(each.path, (time.time() - age * DAY,) * 2)
    load(str(files[0]))  # now the second was used longest ago
    limit = sum(each.size_bytes for each in kept_models()) + 1000
    monkeypatch.setenv("TRANSOM_CACHE_LIMIT", str(limit))
    load(str(files[2]))
    assert [each.file for each in kept_models()] == [str(files[2]), str(files[0])]
    assert len(visible(cache)) == 2
    load(str(files[0]))
    assert len(conversions) == 3


@pytest.mark.parametrize("limit", ["0", "1kB"])
def test_a_limit_below_the_model_keeps_nothing(cache, file, caplog, monkeypatch, limit):
    monkeypatch.setenv("TRANSOM_CACHE_LIMIT", limit)
    load(str(file))
    assert "TRANSOM_CACHE_LIMIT is" in caplog.text
    assert visible(cache) == []


def test_a_limit_that_is_no_size_is_refused(cache, file, conversions, monkeypatch):
    monkeypatch.setenv("TRANSOM_CACHE_LIMIT", "much")
    with pytest.raises(InputError, match=r"TRANSOM_CACHE_LIMIT is 'much'.*Or 0"):
        load(str(file))
    assert conversions == []


@pytest.mark.parametrize("changed", ["weights", "tokenizer", "nothing at all"])
def test_what_does_not_survive_being_saved_is_not_kept(cache, file, caplog, monkeypatch, changed):
    save = gguf.save

    def saved_wrong(model: Any, tokenizer: Any, folder: Path) -> None:
        save(model, tokenizer, folder)
        if changed == "weights":
            flipped(folder / "model.safetensors")
        elif changed == "nothing at all":
            (folder / "tokenizer.json").write_text("{}")
        else:
            words = json.loads((folder / "tokenizer.json").read_text())
            words["normalizer"] = {"type": "Lowercase"}
            (folder / "tokenizer.json").write_text(json.dumps(words))

    monkeypatch.setattr(gguf, "save", saved_wrong)
    assert load(str(file)).tokenizer("OX").input_ids != load(str(file)).tokenizer("ox").input_ids
    words = {"weights": "other weights", "tokenizer": "another tokenizer"}
    word = words.get(changed, "an error (")
    assert f"once saved, transformers reads {word}" in caplog.text
    assert visible(cache) == []


def test_a_copy_that_is_removed_while_it_is_read_is_no_error(cache, file, conversions, monkeypatch):
    load(str(file))
    read = gguf.from_folder

    def removed(folder: Path, *args: Any) -> Any:
        shutil.rmtree(folder)
        return read(folder, *args)

    monkeypatch.setattr(gguf, "from_folder", removed)
    assert load(str(file)).tokenizer("an ox").input_ids
    assert len(conversions) == 2


def test_a_file_that_is_no_model_leaves_nothing(cache, tmp_path):
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    with pytest.raises(ModelNotFoundError, match="is no GGUF model"):
        load(str(tmp_path / "junk.gguf"))
    assert visible(cache) == []


def test_the_manifest_names_every_file(cache, file):
    load(str(file))
    [whole] = kept_models()
    manifest = json.loads((whole.path / kept.MANIFEST).read_text())
    names = {entry.name for entry in whole.path.iterdir()}
    assert names == {kept.MANIFEST, *manifest["files"]}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
