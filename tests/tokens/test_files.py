"""Files tokenized in parts, by several threads, have the ids of each document as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.forking import in_a_fork
from tests.helpers.tokenizer_families import FAMILIES, PROSE, TEXTS, UNSPLIT, family
from transom.errors import InputError
from transom.tokens import Encoder, documents, tokenize_files
from transom.tokens.files import sample
from transom.tokens.parallel import in_order

NAMES = [*FAMILIES, *UNSPLIT]


def write(folder: Path, texts: list[str]) -> list[Path]:
    """Write all texts but the last to one file, and the last to another."""
    lines, text = folder / "a.jsonl", folder / "b.txt"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:-1]))
    text.write_bytes(texts[-1].encode())
    return [lines, text]


def together(paths: list[Path], tokenizer: Any, **options: Any) -> list[tuple[str, list[int]]]:
    """The name and the ids of every document, joined."""
    found: list[tuple[str, list[int]]] = []
    ids: list[int] = []
    for part in tokenize_files(paths, tokenizer, **options):
        ids += part.ids.tolist()
        if part.last:
            found.append((part.document, ids))
            ids = []
    assert not ids
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    copies=st.integers(1, 40),
    block=st.integers(1, 300),
)
def test_parallel_equals_serial_equals_whole(
    name: str, texts: list[str], copies: int, block: int, folder: Path
) -> None:
    paths = write(folder, [text * copies for text in texts])
    whole = [
        (document, family(name).encode(text, add_special_tokens=False).ids)
        for path in paths
        for document, pieces in documents(path)
        for text in ["".join(pieces)]
    ]
    encoder = Encoder(family(name))
    encoder.backend.block = block  # type: ignore[misc]
    serial, parallel = (together(paths, encoder, workers=workers) for workers in (1, 3))
    assert serial == parallel == whole


def test_large_documents_come_in_pieces(folder: Path) -> None:
    [*_, path] = write(folder, [PROSE * 300])
    parts = list(tokenize_files([path], family("gpt2")))
    assert len(parts) > 2
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part.document for part in parts} == {str(path)}
    read = [part.read for part in parts]
    assert read == sorted(read)
    assert read[-1] == path.stat().st_size
    assert all(part.ids.dtype == np.uint16 for part in parts)


def test_where_nothing_is_safe_documents_stay_whole(folder: Path) -> None:
    [*_, path] = write(folder, [PROSE * 300])
    [part] = tokenize_files([path], family("scripts"), workers=2)
    assert part.last


def test_every_document_gives_at_least_one_item(folder: Path) -> None:
    paths = write(folder, ["", "a", "", ""])
    parts = list(tokenize_files(paths, family("gpt2")))
    assert [len(part.ids) for part in parts] == [0, 1, 0, 0]
    assert all(part.last for part in parts)
    assert list(tokenize_files([], family("gpt2"))) == []


def test_the_same_file_twice(folder: Path) -> None:
    [*_, path] = write(folder, ["twice"])
    first, second = tokenize_files([path, path], family("gpt2"))
    assert first.ids.tolist() == second.ids.tolist()
    assert (first.last, second.last) == (True, True)
    assert second.read == 2 * path.stat().st_size


def test_a_sample_has_a_part_of_every_file(folder: Path) -> None:
    paths = write(folder, ["a" * 30, "b" * 90, "c" * 500])
    assert "".join(sample(paths, characters=200)) == "a" * 30 + "b" * 70 + "c" * 100
    assert "".join(sample(paths[:1], characters=200)) == "a" * 30 + "b" * 90
    assert list(sample([])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_the_line_with_half_a_character(folder: Path, workers: int) -> None:
    path = folder / "half.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "half: \\ud83d"}\n')
    parts = tokenize_files([path], family("gpt2"), workers=workers)
    with pytest.raises(
        InputError, match=r"half\.jsonl:2: the text has half a character in it, .* at 6"
    ):
        list(parts)


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_invalid_numbers_of_workers_are_refused(workers: Any) -> None:
    with pytest.raises(InputError, match="workers is"):
        list(tokenize_files([], family("gpt2"), workers=workers))


def test_results_come_in_order_a_few_at_a_time() -> None:
    taken: list[int] = []

    def things() -> Any:
        for i in range(100):
            taken.append(i)
            yield i

    results = in_order(lambda i: i * i, things(), workers=3)
    assert next(results) == 0
    assert len(taken) < 12
    assert list(results) == [i * i for i in range(1, 100)]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_threads_are_raised(workers: int) -> None:
    results = in_order(lambda i: 1 // (3 - i), range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fork_takes_nothing_from_its_parent(workers: int) -> None:
    """A fork has neither the threads nor a position of its own in the files."""
    going = in_order(str, range(50), workers)
    assert next(going) == "0"
    with pytest.raises(InputError, match="what goes through files belongs to process"):
        in_a_fork(lambda: next(going))
    assert [*going] == [str(number) for number in range(1, 50)]
