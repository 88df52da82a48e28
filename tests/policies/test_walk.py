"""Takes the walk of `docs/walks.md`: adds two policies, and runs the suites over them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Stands for step 1: puts the files where `transom.policies` looks for its modules.
ADDED = """
import transom.policies
transom.policies.__path__.append({folder!r})
"""
# Steps 2 to 4. The rule follows the description in `docs/add-a-policy.md`, not its code.
NAMED = """
import transom
from transom.policies.half import Half
from transom.policies.loud_values import LoudValues
for kind in (Half, LoudValues):
    for module in (transom, transom.policies):
        setattr(module, kind.__name__, kind)
        module.__all__.append(kind.__name__)

from tests.helpers.scored_reference import RULES

def loud_values(layer, head, now):
    watching = head.attended[-min(8, layer.policy.round):]
    received = [sum(seen.get(place, 0.0) for seen in watching) for place in head.positions]
    floor = layer.policy.floor / 1000
    return [(x + floor) * float(v.norm()) for x, v in zip(received, head.values, strict=True)]

RULES["loud-values"] = loud_values
"""
TWO = "half or loud"
# Model families that are left out, to save time.
FEW = "not (gemma or gpt or lfm or mistral or phi or qwen or smollm)"
SUITES = ("tests/kv/test_oracle.py", "tests/kv/test_scored.py", "tests/test_state.py")


def suites(folder: Path, plugin: str, *arguments: str) -> tuple[dict[str, str], str]:
    """The outcome of each test with the policies of the recipe added, and the whole output."""
    text = (ROOT / "docs/add-a-policy.md").read_text(encoding="utf-8")
    half, loud = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (folder / "half.py").write_text(half)
    (folder / "loud_values.py").write_text(loud)
    (folder / "added.py").write_text(plugin.format(folder=str(folder)))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "added", "-rA", "-q", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) (.*?)(?: - .*)?$", ran.stdout, re.MULTILINE)
    return {test: outcome for outcome, test in found}, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_policy_is_added_in_as_many_files_as_the_walk_says(tmp_path: Path) -> None:
    outcomes, said = suites(
        *(tmp_path, ADDED + NAMED, "-k", f"({TWO} or test_contract or test_cost) and {FEW}"),
        *("tests/policies/test_contract.py", "tests/policies/test_cost.py", *SUITES),
    )
    assert set(outcomes.values()) == {"PASSED"}, said[-4000:]

    def over(name: str, suite: str) -> int:
        return sum(suite in test and name in test for test in outcomes)

    assert over("half", "test_contract.py") >= 2
    assert over("loud-values", "test_contract.py") >= 5
    assert over("half:20", "test_oracle.py") >= 6
    assert over("loud-values:", "test_scored.py") >= 10
    assert over("half:20", "test_state.py") >= 5
    assert over("loud-values:20", "test_state.py") >= 5


@pytest.mark.slow
def test_a_forgotten_step_of_the_walk_fails_a_test(tmp_path: Path) -> None:
    tests = ("test_what_is_built_in_is_exported", "test_every_scored_policy_has_a_reference")
    outcomes, said = suites(
        *(tmp_path, ADDED, "-k", " or ".join(tests)),
        *("tests/policies/test_contract.py", "tests/kv/test_scored.py"),
    )
    failed = {test.rpartition("::")[2] for test, outcome in outcomes.items() if outcome != "PASSED"}
    assert failed == {f"{tests[0]}[half]", f"{tests[0]}[loud-values]", tests[1]}, said[-4000:]


def test_every_file_of_the_walk_is_there() -> None:
    text = (ROOT / "docs/walks.md").read_text(encoding="utf-8")
    files = {x for x in re.findall(r"`((?:src|tests)/[\w/.]+)`", text) if not x.endswith("/")}
    assert len(files) > 8
    missing = {x for x in files if not (ROOT / x).exists()}
    assert missing == {"src/transom/policies/NAME.py", "src/transom/policies/KIND.py"}
