"""`transom patterns`: the sketch, the figures, the picture, mistakes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from transom.attention.patterns import parse_pattern
from transom.cli import main
from transom.policies import ModelShape, Sinks, Window, attention_flops, parse
from transom.units import plain_flops, plain_size

pytestmark = pytest.mark.usefixtures("piped")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(("patterns", *arguments))
    return ended.value.code or 0


def rows(printed: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]


def test_the_sketch_and_the_figures(capsys):
    assert run("sliding(2) | sinks(1)", "--length", "4") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "sliding(2) | sinks(1), 4 tokens\n#...\n##..\n###.\n#.##\n\npattern  "
    )
    # 9 of 10 causal pairs (16 in all); 4 * 9 heads * 64 operations each; 2 * 3 * 64 * 4 bytes a key
    lines = rows(printed)
    assert ["sliding(2) | sinks(1)", "4", "9", "56.25%", "90.00%"] in lines
    assert "One layer of 9 heads of 64; keys and values (KV) of 3 in float32" in printed
    costs = ["20.7 kFLOP", "23 kFLOP", "4.61 kB", "6.14 kB"]
    assert ["sliding(2) | sinks(1)", *costs] in lines
    assert printed.isascii()
    assert "\x1b" not in printed


@pytest.mark.parametrize("text", ["sinks:4,window=508", "window:1000"])
def test_a_policy_costs_what_policies_say(text, capsys):
    sizes = ["--heads", "8", "--kv-heads", "2", "--head-dim", "32", "--dtype", "bfloat16"]
    assert run(text, *sizes) == 0
    printed = capsys.readouterr().out
    policy, shape = parse(text), ModelShape(1, heads=8, kv_heads=2, head_dim=32, itemsize=2)
    assert parse_pattern(text).sketch(4096) in printed
    assert [
        f"pattern({text!r})",
        plain_flops(attention_flops(policy, shape, 4096)),
        plain_flops(4 * 4096 * 4097 // 2 * 8 * 32),
        plain_size(policy.kept(4096) * shape.token_bytes),
        plain_size(4096 * shape.token_bytes),
    ] in rows(printed)


def test_several_patterns_share_the_tables(capsys):
    assert run(f"{Sinks(1, 2)}; prefix_lm(3) ;{Window(2)};", "--length", "4") == 0
    printed = capsys.readouterr().out
    assert printed.count(", 4 tokens\n") == 3
    shares = [line[2:] for line in rows(printed) if line[1:2] == ["4"]]
    assert shares == [
        ["9", "56.25%", "90.00%"],
        ["13", "81.25%", "130.00%"],
        ["7", "43.75%", "70.00%"],
    ]


def test_plot_is_a_picture(tmp_path, capsys):
    picture = tmp_path / "p.png"
    assert run("dilated(8, 2)", "--length", "2000", "--plot", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert capsys.readouterr().out.endswith(f"\n\n{picture}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slidng(8)"], "there is no 'slidng'. Expected a policy (full, window"),
        (["window:0"], "window: size is 0; expected at least 1"),
        ([" ; "], "PATTERN is ' ; ', 0 patterns; expected at least one"),
        (
            ["full;full", "--plot", "FOLDER/p.png"],
            "2 patterns; expected one, because --plot draws one",
        ),
        (["full", "--plot", "FOLDER"], "is a folder; expected the name of a file"),
        (["full", "--plot", "FOLDER/none/p.png"], "is not a folder open to writing"),
        (["full", "--length", "0"], "length is 0; expected at least 1"),
        (["documents([3, 2])"], "length is 4096 and documents([3, 2]) is made for 5 tokens"),
        (["full", "--heads", "0"], "--heads is 0; expected at least 1"),
        (["full", "--kv-heads", "-1"], "--kv-heads is -1; expected at least 1"),
        (["full", "--head-dim", "0"], "--head-dim is 0; expected at least 1"),
        (["full", "--heads", "8"], "--heads is 8 and --kv-heads 3; expected a multiple"),
        (["full", "--dtype", "int8"], "--dtype is 'int8'; expected one of float32, float16"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    given = [a.replace("FOLDER", str(tmp_path)) for a in arguments]
    assert run(*given) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("transom: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_torch_it_says_what_to_install_and_the_others_start():
    script = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from transom.cli import main; main(sys.argv[1:])"
    )
    result, listed = (
        subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        for words in (["patterns", "full"], ["policies"])
    )
    assert result.returncode == 2
    assert result.stdout == ""
    expected = "patterns need torch, which is not installed: pip install 'transom[torch]'"
    assert result.stderr == f"transom: {expected}\n"
    assert listed.returncode == 0, listed.stderr
