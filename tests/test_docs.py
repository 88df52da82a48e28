"""Examples, links, file names and hops in the documents are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.documents import python_blocks
from transom import Context, ContextMemoryManager
from transom.cli import main
from transom.memory.eviction import Eviction

ROOT = Path(__file__).parent.parent


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<document>", "exec", dont_inherit=True), names)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package with the policies of `docs/add-a-policy.md` and their entry points."""
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
    [code] = python_blocks("README.md")
    smollm2.model.generation_config.max_new_tokens = 4
    names: dict[str, Any] = {"model": smollm2.model}
    names["inputs"] = smollm2.tokenizer("Once upon a time", return_tensors="pt")
    run(code, names)
    usage = names["context"].usage
    assert usage.seen > 1200
    assert usage.kept == 1024
    assert len(names["losses"]) > 3
    assert "kv_bytes=47278080" in capsys.readouterr().out
    assert names["cache"].seen >= 5


@pytest.mark.model
def test_the_guide(smollm2: Any, book: Path, capsys: pytest.CaptureFixture) -> None:
    """Runs the blocks in order; each one sees the names that earlier ones defined."""
    state, steps, plain, _, *blocks = python_blocks("docs/guide.md")  # _: test_lm_eval.py
    recall, attention, windows, tokens, corpus, memory, monitor = blocks
    smollm2.model.generation_config.max_new_tokens = 4
    names: dict[str, Any] = {"model": smollm2.model}
    names["inputs"] = smollm2.tokenizer("Once upon a time", return_tensors="pt")
    run(state, names)
    assert names["again"].usage == names["context"].usage
    assert names["draft"].usage.seen > names["tokens"] == names["again"].usage.seen
    run(steps, names)
    assert names["step"].finish_reason in {"stop", "length"}
    run(plain, names)
    assert names["cache"].seen >= 5
    run(recall, names)
    assert names["hot"] > names["cold"] > 0
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


@pytest.mark.model
def test_contexts_are_parked_as_the_walk_shows(smollm2: Any, book: Path) -> None:
    [code] = python_blocks("docs/walks.md")
    names: dict[str, Any] = {}
    run(code, names)
    model, tokenizer = smollm2.model, smollm2.tokenizer
    with names["manager"]:
        assert names["wake"]("alice", model, tokenizer) is None
        context = Context(model, tokenizer, "sinks:4,window=28")
        context.append(book.read_text()[:400])
        assert names["park"]("alice", context)
        woken = names["wake"]("alice", model, tokenizer)
        assert woken.usage == context.usage
        assert woken.generate(max_new_tokens=4) == context.generate(max_new_tokens=4)


PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)


def anchors(page: Path) -> set[str]:
    """The anchors that a link to a page may name: its headings, spelt as on GitHub."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", text):
            target = ((ROOT / page).parent / link).resolve()
            waiting.append(str(target.relative_to(ROOT)))
    assert set(PAGES) - reached == set()


# Files that a document tells the reader to write.
NOT_YET = {
    "src/transom/policies/NAME.py",
    "src/transom/policies/KIND.py",
    "src/transom/memory/tiers/objects.py",
    "src/transom/memory/eviction/largest.py",
}


SOURCES = [
    str(path.relative_to(ROOT))
    for folder in ("src", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    """Files and folders in backticks exist under that path, or under a path that ends so."""
    text = (ROOT / page).read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:[\w.-]+/)*\w+\.py)(?::\w+)?`", text))
    folders = set(re.findall(r"`((?:\w+/)+)`", text))
    ends = tuple("/" + source for source in SOURCES)
    missing = {x for x in files if not any(end.endswith("/" + x) for end in ends)}
    missing |= {
        x for x in folders if not (ROOT / x).is_dir() and not any("/" + x in y for y in ends)
    }
    assert missing <= NOT_YET, f"{page} names {sorted(missing - NOT_YET)}"


HOP = re.compile(r"^\| \d+ \| `([\w/.]+)` \| `([\w.]+)` \|", re.MULTILINE)


@contextmanager
def calls_of_transom() -> Iterator[list[tuple[str, str]]]:
    """While open, record file and name of each function of transom that is called, in order."""
    source = str(ROOT / "src/transom") + os.sep
    calls: list[tuple[str, str]] = []

    def note(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(source):
            calls.append((file.removeprefix(source), frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def check_hops(page: str, section: str, calls: list[tuple[str, str]], least: int) -> None:
    """Assert that the calls took the hops listed in a section of a page, in that order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    [part] = re.findall(rf"^## {section}.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    hops = HOP.findall(part)
    assert len(hops) >= least
    rest = iter(calls[calls.index(hops[0]) :])
    missing = next((hop for hop in hops if hop not in rest), None)
    assert missing is None, f"{missing} does not come after the hops before it"


@pytest.mark.model
def test_a_token_takes_the_hops_of_its_life(smollm2: Any, book: Path) -> None:
    short = ["--limit", "70", "--chunk", "16", "--ask", "So", "--max-new-tokens", "2"]
    with calls_of_transom() as calls, pytest.raises(SystemExit) as ended:
        main(["read", str(book), "--policy", "sinks:4,window=28", *short])
    assert not ended.value.code
    check_hops("docs/life-of-a-token.md", "Reading", calls, 15)
    check_hops("docs/life-of-a-token.md", "Answering", calls, 8)


def test_an_eviction_from_disk_takes_the_hops_of_the_walk(tmp_path: Path) -> None:
    sizes = {"max_memory": 2**20, "max_disk": 2**20, "vocab_size": 50_000}
    ids = np.random.default_rng(7).integers(0, 50_000, (300, 3_000))
    with ContextMemoryManager(disk=tmp_path / "store", **sizes) as manager:
        for number, context in enumerate(ids):
            with calls_of_transom() as calls:
                assert manager.add_context(str(number), context)
            if manager.stats().tiers[-1].evicted:
                break
        else:
            pytest.fail("nothing left the disk")
    check_hops("docs/walks.md", "Mend a fault in disk eviction", calls, 6)
