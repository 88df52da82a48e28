"""Files for builds of corpora, and ways to stop a build."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from transom.corpus import Done, Watch

WORDS = {f"w{number}": number for number in range(1, 300)} | {"?": 0}


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def write(folder: Path) -> list[Path]:
    """Files of several kinds, some of them without any document."""
    folder.mkdir(exist_ok=True)
    one, rows, nothing, other, last = (
        folder / name for name in ("a.txt", "b.jsonl", "c.jsonl", "d.txt", "e.jsonl")
    )
    one.write_text("w1 w2 w3")
    rows.write_text(
        "".join(json.dumps({"text": f"w{n} w{n + 1}" * (n % 3)}) + "\n" for n in range(9))
    )
    nothing.write_text("")
    other.write_text("w7 " * 500)
    last.write_text(json.dumps({"text": "w4"}) + "\n")
    return [one, rows, nothing, other, last]


def stop_after(documents: int) -> Watch:
    """A Ctrl-C while the run adds its n-th document."""
    so_far = [0]

    def stopping() -> bool:
        so_far[0] += 1
        return so_far[0] >= documents

    return Watch(stopping=stopping)


class Killed(Exception):
    pass


def kill_after(pieces: int) -> Watch:
    """A kill that ends the run without a chance to commit."""
    left = [pieces]

    def moved(done: Done) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return Watch(moved=moved)
