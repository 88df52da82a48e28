"""What the documents show runs as shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from transom.cli import main
from transom.memory.eviction import Eviction

ROOT = Path(__file__).parent.parent


def python_blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<document>", "exec", dont_inherit=True), names)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What `docs/add-a-policy.md` shows, installed: a package with its entry points."""
    half, loud = python_blocks("docs/add-a-policy.md")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text(half + loud)
    text = (ROOT / "docs/add-a-policy.md").read_text(encoding="utf-8")
    [declared] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    points = tomllib.loads(declared)["project"]["entry-points"]
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k}={v}\n" for k, v in x.items()) for group, x in points.items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    return tmp_path


def test_the_policies_of_the_recipe_are_known_once_installed(package: Path) -> None:
    script = """
import torch, sys
from tests.helpers.models import chunked_logits, tiny, tokens
from transom.kv import BoundedCache
from transom.policies import Span, parse
half = parse("half:8")
assert half.spans(20) == (Span(0, 4), Span(16, 20)) and half.kept(8) == half.capacity == 8
assert str(half) == "half:8"
model = tiny("llama")
for text in ("half:16", "loud-values:16", "loud-values:20,floor=3,heads=adaptive,kv=int8"):
    caches = [BoundedCache(parse(text), config=model.config) for _ in range(2)]
    one = chunked_logits(model, tokens(1, 60), caches[0], [60])
    other = chunked_logits(model, tokens(1, 60), caches[1], [7] * 8 + [4])
    assert "int8" in text or torch.allclose(one, other, atol=1e-3)
    assert caches[0].seen == 60
from transom.cli import main
main(["policies"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    listed = {line.split()[0] for line in ran.stdout.splitlines() if line.strip()}
    assert {"half", "loud-values", "sinks"} <= listed


def test_the_eviction_policy_of_the_recipe_evicts() -> None:
    [code] = python_blocks("CONTRIBUTING.md")
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


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.txt"
    path.write_text("Call me Ishmael. Some years ago, I went to sea. " * 120)
    return path


@pytest.mark.model
def test_the_readme(smollm2: Any, book: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = python_blocks("README.md")
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


@pytest.mark.model
def test_the_guide(smollm2: Any, book: Path, capsys: pytest.CaptureFixture) -> None:
    """Its blocks in order, each with what those before it made."""
    state, recall, attention, windows, tokens, corpus, memory, monitor = python_blocks(
        "docs/guide.md"
    )
    names: dict[str, Any] = {"model": smollm2.model}
    run(state, names)
    assert names["again"].usage == names["context"].usage
    assert names["draft"].usage.seen > names["tokens"] == names["again"].usage.seen
    run(recall, names)
    assert names["hot"] > names["cold"] > 0
    names["inputs"] = smollm2.tokenizer("Once upon a time", return_tensors="pt")
    run(attention, names)
    assert names["y"].shape == (2, 100, 768)
    assert "block_sparse: blocks compute" in capsys.readouterr().out
    run(windows, names)
    assert names["batch"].ids.shape == (3, 512)
    run(tokens, names)
    assert names["growing"].ids.tolist() == smollm2.tokenizer("Text that grows.").input_ids
    assert names["part"].last
    copies = [f"book{number}.txt" for number in range(20)]
    for copy in copies:
        Path(copy).write_text(book.read_text())
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "build", "books", *copies, "--tokenizer", "smollm2"])
    assert not ended.value.code
    run(corpus, names)
    assert len(names["windows"]) > 64
    run(memory, names)
    assert names["found"] == ("alice/42", 1024)
    assert len(names["held"]) == 1024
    capsys.readouterr()
    run(monitor, names)
    assert "p99" in capsys.readouterr().out
