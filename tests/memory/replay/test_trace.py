"""Traces as files, whole and broken."""

from __future__ import annotations

import pytest

from transom.errors import InputError
from transom.memory.replay import Prefill, TraceBlock, read_trace

PREFILL = Prefill(per_token=1.0, per_pair=0.0, load=0.0)


def read(tmp_path, name, text, block_tokens=512):
    path = tmp_path / name
    path.write_text(text)
    return read_trace(path, PREFILL, block_tokens)


def test_mooncake(tmp_path):
    line = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [7, 8]}'
    trace = read(tmp_path, "t.jsonl", line + "\n\n" + line.replace("600", "1024"))
    assert trace.requests == (
        (TraceBlock(7, 1, 512, 512.0), TraceBlock(8, 1, 88, 88.0)),
        (TraceBlock(7, 1, 512, 512.0), TraceBlock(8, 1, 512, 512.0)),
    )
    assert trace.tokens == 1624
    assert trace.sizes() == {7: 1, 8: 1}


def test_csv_of_prompts(tmp_path):
    trace = read(tmp_path, "t.csv", "input_length,hash_ids\n10,a b c\n4,a\n,d e\n0,\n", 4)
    assert [[block.tokens for block in request] for request in trace.requests] == [
        [4, 4, 2],
        [4],
        [4, 4],
        [],
    ]
    assert trace.requests[0][0].key == trace.requests[1][0].key == "a"


def test_csv_of_keys(tmp_path):
    trace = read(tmp_path, "t.csv", "key,size,tokens,seconds\nx,100,7,0.5\ny,,,\nz,3,2,\n")
    assert trace.requests == (
        (TraceBlock("x", 100, 7, 0.5),),
        (TraceBlock("y", 1, 1, 1.0),),
        (TraceBlock("z", 3, 2, 2.0),),
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", "", "has no requests"),
        ("t.txt", "x", "expected .jsonl or .csv"),
        ("t.jsonl", "{", "line 1 is not JSON"),
        ("t.jsonl", "[1]", "expected an object per line"),
        ("t.jsonl", '{"input_length": 5}', "line 1: no hash_ids and no key; there are input_len"),
        ("t.jsonl", '{"hash_ids": 5}', "expected a list of numbers or strings"),
        ("t.jsonl", '{"hash_ids": [[5]]}', "expected a list of numbers or strings"),
        ("t.jsonl", '{"hash_ids": [5], "input_length": 1024}', "is the number of tokens per block"),
        ("t.jsonl", '{"hash_ids": [5, 6], "input_length": 512}', "cannot be a prompt of 512"),
        (
            "t.jsonl",
            '{"hash_ids": [1, 2]}\n{"hash_ids": [3, 2]}',
            "line 2: block 2 follows 3, else",
        ),
        ("t.jsonl", '{"hash_ids": [1, 1]}', "block 1 follows 1"),
        ("t.jsonl", '{"hash_ids": [1], "input_length": "many"}', "line 1: invalid literal"),
        ("t.csv", "key,size\na,0\n", "size is 0"),
        ("t.csv", "key,seconds\na,soon\n", "line 2: could not convert"),
    ],
)
def test_broken_files_are_refused_by_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, text)


def test_missing_files_and_sizes(tmp_path):
    with pytest.raises(InputError, match="cannot read the trace"):
        read_trace(tmp_path / "t.jsonl")
    with pytest.raises(InputError, match="block_tokens is 0"):
        read_trace(tmp_path / "t.jsonl", block_tokens=0)


def test_a_mark_at_the_start_is_left_out(tmp_path):
    assert read(tmp_path, "t.csv", "\ufeffkey\nx\n", 4).requests[0][0].key == "x"
    assert read(tmp_path, "t.jsonl", '\ufeff{"key": "x"}\n', 4).requests[0][0].key == "x"
    with pytest.raises(InputError, match=r"line 1: key is \['x'\]; expected a number or a string"):
        read(tmp_path, "u.jsonl", '{"key": ["x"]}\n', 4)
