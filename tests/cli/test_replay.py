"""`transom memory replay`: the table, the bars, the files, mistakes."""

from __future__ import annotations

import json

import pytest

from transom.cli import main
from transom.memory.eviction import known

pytestmark = pytest.mark.usefixtures("piped")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "small.jsonl"
    chains = ([1, 2, 3], [1, 2, 4], [5, 6], [1, 2, 3], [7], [5, 6], [1, 2, 4])
    path.write_text("\n".join(json.dumps({"hash_ids": chain}) for chain in chains))
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(("memory", "replay", *arguments))
    return ended.value.code or 0


def test_the_table_and_the_files(trace, tmp_path, capsys):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--capacity", "1", "--capacity", "0.5", "--json", str(out), "--plot", str(picture)]
    assert run(str(trace), *options) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"trace", "requests", "blocks", "infinite_hit", "runs"}
    assert (result["trace"], result["requests"], result["blocks"]) == (str(trace), 7, 7)
    assert result["infinite_hit"] == 10 / 17
    assert [(one["capacity"], one["eviction"]) for one in result["runs"]] == [
        (part, name) for part in (1.0, 0.5) for name in known()
    ]
    for one in result["runs"]:
        assert set(one) == {"eviction", "capacity", "block_hit", "seconds_saved"}
        assert (one["block_hit"] == 10 / 17) == (one["capacity"] == 1)
        assert f"{one['block_hit']:.4f}" in printed
    assert "7 requests, 7 different blocks" in printed
    assert "1    lru          " + "#" * 50 + "  0.5882" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert printed.isascii()


def test_seconds_follow_from_the_options(trace, tmp_path):
    out = tmp_path / "out.json"
    costs = ["--token-us", "1000000", "--pair-ns", "0", "--load-us", "500000"]
    assert run(str(trace), "--eviction", "lru", "--capacity", "1", *costs, "--json", str(out)) == 0
    (one,) = json.loads(out.read_text())["runs"]
    assert one["seconds_saved"] == pytest.approx(10 * 512 * 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eviction", "mru", "--capacity", "1"], "unknown eviction 'mru'; known: lru"),
        (["--capacity", "0"], "capacity is 0.0"),
        (["--capacity", "inf"], "capacity is inf"),
        (["--capacity", "nan"], "capacity is nan"),
        (["--block-tokens", "0"], "--block-tokens is 0; expected at least 1 token"),
        (["--load-us", "-1"], "Prefill: load"),
        (["--plot", "/no/such/folder/out.png"], "not a folder open to writing"),
    ],
)
def test_mistakes(trace, capsys, options, message):
    assert run(str(trace), *options) == 2
    assert message in capsys.readouterr().err


def test_figures_on_standard_output(trace, capsys):
    assert run(str(trace), "--eviction", "lru", "--capacity", "0.5", "--json", "-") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["runs"][0]["eviction"] == "lru"
    assert "lru" in printed.err


def test_traces_without_tokens_or_hits(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"hash_ids": []}')
    assert run(str(path)) == 2
    assert "all prompts are empty" in capsys.readouterr().err
    path.write_text('{"hash_ids": [1, 2]}')
    assert run(str(path), "--eviction", "lru", "--capacity", "0.5") == 0
    assert "." * 50 + "  0.0000" in capsys.readouterr().out
