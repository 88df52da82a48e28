"""Folders, files and names to models."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from transom import Context
from transom.errors import InputError, MissingExtraError, ModelNotFoundError
from transom.models import Loaded, load
from transom.models.pretrained import _OURS

ASKING = "huggingface_hub.get_hf_file_metadata"


def test_a_folder_loads_as_transformers_would(tiny):
    loaded = load(str(tiny))
    assert isinstance(loaded, Loaded)
    assert loaded.name == str(tiny)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.bfloat16  # the dtype it was saved in
    assert loaded.tokenizer("a fox naps").input_ids == [1, 2, 3]
    expected = AutoModelForCausalLM.from_pretrained(tiny, dtype="auto").state_dict()
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, expected[name])


def test_dtype_device_and_other_keywords_reach_the_model(tiny):
    loaded = load(
        str(tiny),
        dtype=torch.float64,
        device="cpu",
        attn_implementation="eager",
        trust_remote_code=False,
    )
    assert loaded.model.dtype == torch.float64
    assert loaded.model.device.type == "cpu"
    assert loaded.model.config._attn_implementation == "eager"


def test_loading_a_folder_is_silent_and_restores_the_progress_bars(tiny, capfd):
    logging.enable_progress_bar()
    load(str(tiny))
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_whole_model_is_named(tiny, tmp_path, missing):
    for file in tiny.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"holds no model.*save_pretrained") as caught:
        load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_damaged_weights_are_named(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:500])
    (tmp_path / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        load(str(tmp_path))


def test_a_wrong_keyword_is_not_called_a_missing_model(tiny):
    with pytest.raises(ValueError, match="nonsense") as caught:
        load(str(tiny), attn_implementation="nonsense")
    assert not isinstance(caught.value, ModelNotFoundError)


@pytest.mark.parametrize(("misspelt", "meant"), [("polcy", "policy"), ("devcie", "device")])
def test_a_misspelt_keyword_is_named(tiny, misspelt, meant):
    for call in (load, Context.from_pretrained):
        with pytest.raises(InputError, match=f"no parameter '{misspelt}'; did you mean '{meant}'"):
            call(str(tiny), **{misspelt: "x"})


def test_all_keywords_of_our_own_are_suggested():
    ours = {*signature(load).parameters, *signature(Context.from_pretrained).parameters}
    assert ours - {"name", "kwargs"} == set(_OURS)


def test_a_file_that_is_no_gguf_is_named(tmp_path):
    file = tmp_path / "junk.gguf"
    file.write_bytes(b"junk")
    with pytest.raises(ModelNotFoundError, match=r"junk\.gguf is no GGUF model"):
        load(str(file))


@pytest.mark.parametrize("name", ["", "./nowhere", "no such name!", "a/b/c", "/none.gguf"])
def test_a_name_that_is_no_hub_id_does_not_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr(ASKING, lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFoundError, match="no hub id is spelled so") as caught:
        load(name)
    for expected in (repr(name), "smollm2", "local folder", ".gguf", "Qwen/Qwen3-0.6B"):
        assert expected in str(caught.value)


def test_an_unreachable_hub_is_given_up_at_once(answerless, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", answerless)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        answerless + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited to try again"))
    with pytest.raises(ModelNotFoundError, match=r"hub cannot be reached \(.+\)") as caught:
        load("smolm2/typo", cache_dir=tmp_path)
    assert "smollm2" in str(caught.value)


def test_local_files_only_does_not_ask_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(ASKING, lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFoundError, match="no model 'some/model'"):
        load("some/model", local_files_only=True, cache_dir=tmp_path)


def test_the_module_imports_without_torch_and_loading_says_what_to_install():
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from transom.errors import MissingExtraError
from transom.models import catalogue, load
assert catalogue()[0].name == "smollm2"
try:
    load("smollm2")
except MissingExtraError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'transom[torch]'" in ran.stdout


def test_a_fault_inside_torch_is_not_called_a_missing_extra(monkeypatch):
    def broken(module):
        raise ModuleNotFoundError("No module named 'libgomp'", name="libgomp")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="libgomp") as caught:
        load("smollm2")
    assert not isinstance(caught.value, MissingExtraError)
