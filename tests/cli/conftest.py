"""Fixtures for the tests of several commands."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from tests.helpers.chats import PipedChat, never_ending, tokenizer
from tests.helpers.cli import WORDS, words_of
from tests.helpers.models import VOCABULARY, tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """A folder with a random Llama, trained on 64 tokens, that knows the words w1 to w96."""
    folder = tmp_path_factory.mktemp("model")
    words = Tokenizer(WordLevel({"?": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}, "?"))
    words.pre_tokenizer = Whitespace()
    tiny("llama").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def piped(monkeypatch):
    """Output that goes to a pipe, in a narrow and in a wide terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "30")


@pytest.fixture
def book(tmp_path) -> str:
    path = tmp_path / "book.txt"
    path.write_text(words_of(WORDS))
    return str(path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random Llama that chats; each letter is a token."""
    path = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("endless")
    never_ending().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def piped_chat(folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> PipedChat:
    return PipedChat(folder, capsys, monkeypatch)
