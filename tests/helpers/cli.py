"""The command line, in this process."""

from __future__ import annotations

import pytest

from tests.helpers.models import tokens
from transom.cli import main

WORDS = 300  # of the fixture `book`


def words_of(count: int) -> str:
    return " ".join(f"w{token}" for token in tokens(count).tolist())


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code or 0
