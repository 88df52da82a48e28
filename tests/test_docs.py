"""What the documents show runs as shown."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from transom.memory.eviction import Eviction
from transom.policies import Policy, Span

ROOT = Path(__file__).parent.parent


def python_blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<document>", "exec", dont_inherit=True), names)


def test_the_policy_of_the_recipe_is_a_policy() -> None:
    code, _ = python_blocks("CONTRIBUTING.md")
    names: dict[str, Any] = {"__name__": "half"}
    run(code, names)
    half: Policy = names["Half"](8)
    assert half.spans(20) == (Span(0, 4), Span(16, 20))
    assert half.kept(8) == half.capacity == 8
    assert str(half) == "half:8"


def test_the_eviction_policy_of_the_recipe_evicts() -> None:
    _, code = python_blocks("CONTRIBUTING.md")
    names: dict[str, Any] = {"__name__": "largest"}
    run(code, names)
    policy: Eviction = names["Largest"](100)
    for key, size in (("a", 30), ("b", 40), ("c", 20), ("d", 40)):
        policy.add(key, size)
    policy.pin("b")
    gone = []
    while (key := policy.victim()) is not None:
        gone.append(key)
        policy.remove(key, evicted=True)
    assert gone == ["d", "a", "c"]
    policy.unpin("b")
    assert policy.victim() == "b"


@pytest.mark.model
def test_the_readme(
    smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("Call me Ishmael. Some years ago, I went to sea. " * 120)
    first, second, attention, windows = python_blocks("README.md")
    names: dict[str, Any] = {"model": smollm2.model}
    run(first, names)
    usage = names["context"].usage
    assert usage.seen > 1200
    assert usage.kept == 1024
    assert len(names["losses"]) > 3
    assert "kv_bytes=47278080" in capsys.readouterr().out
    names["inputs"] = smollm2.tokenizer("Once upon a time", return_tensors="pt")
    names["model"].generation_config.max_new_tokens = 4
    run(second, names)
    assert names["cache"].seen >= 5
    run(attention, names)
    assert names["y"].shape == (2, 100, 768)
    assert "block_sparse: blocks compute" in capsys.readouterr().out
    run(windows, names)
    assert names["batch"].ids.shape == (3, 512)
