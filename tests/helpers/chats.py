"""A tiny model that chats; each letter is a token."""

from __future__ import annotations

import io
import string
import sys
from typing import Any

import pytest
import torch

from tests.helpers.letters import tokenizer_of
from tests.helpers.models import tiny
from transom import Context
from transom.cli import main

SMALL = "sinks:3,window=40"
QUESTIONS = ["abc", "d e", "c", "Who? f", "xyz"]
ENDS, LONG = (
    "c",
    "i",
)  # questions: the model ends its answer to ENDS at once, and its answer to LONG later


def never_ending() -> Any:
    """The same model, but its answers do not end."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # the logit of the end token
    return model


def tokenizer() -> Any:
    return tokenizer_of(string.ascii_letters + string.digits + "?.,!'-")


def context(policy: str = SMALL) -> Context:
    return Context(tiny("llama"), tokenizer(), policy)


class PipedChat:
    """Runs the command with questions on standard input, in this process."""

    def __init__(self, folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._capsys, self._patch = folder, capsys, monkeypatch

    def __call__(self, questions: list[str], *options: str, code: int = 0) -> tuple[str, str]:
        data = "".join(f"{question}\n" for question in questions).encode()
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["chat", self._folder, "--max-new-tokens", "12", *options])
        assert (ended.value.code or 0) == code
        return self._capsys.readouterr()
