"""transformers' own generation tests, run with a bounded cache in place of the default one.

    python benchmarks/peers/transformers_tests.py CHECKOUT [FAMILY ...]

CHECKOUT is a checkout of huggingface/transformers. Its `tests` run against the installed release,
so it should be of that release or a near one. They need `parameterized`, beside what transom's own
tests need, and `httpx` where their release does. FAMILY is a folder of `tests/models`.

All tests run three times: stock, with `Full`, and with a `Sinks` that nothing in them fills. Those
that pass stock count. Writes `results/transformers-tests.json`; prints the table of
`docs/peers.md`, and each difference with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from _measure import write  # noqa: E402

FAMILIES = (
    *("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3"),
    *("gpt_neox", "stablelm", "falcon", "paligemma"),
)
POLICIES = ("full", "sinks:4,window=508")

Outcomes: TypeAlias = dict[tuple[str, str], dict[str, Any]]


class Difference(NamedTuple):
    """A test that passes stock and does not pass, as it is written, under a policy."""

    family: str
    policy: str
    test: str
    kind: str  # "inside", "refused" or "failed"
    reason: str


def run(checkout: Path, families: Sequence[str], policy: str) -> Outcomes:
    """What became of each test of these families, by family and test."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "transformers_plugin"]
        command += ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "log_cli=0", "--tb=no"]
        ran = subprocess.run(
            command + [f"tests/models/{name}/test_modeling_{name}.py" for name in families],
            cwd=checkout,
            env=os.environ
            | {"PEER_POLICY": policy, "PEER_OUT": str(out), "HF_HUB_OFFLINE": "1"}
            | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode not in (0, 1):
            raise SystemExit(f"pytest could not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        entries = [json.loads(line) for line in out.read_text().splitlines()]
    return {(entry["family"], entry["test"]): entry for entry in entries}


def differences(policy: str, stock: Outcomes, ours: Outcomes) -> list[Difference]:
    """The tests that pass stock and do not pass, as they are written, under a policy."""
    found = []
    for (family, test), entry in ours.items():
        if stock[family, test]["outcome"] != "passed":
            continue
        if entry["outcome"] != "passed":
            kind = "refused" if entry.get("error", "").startswith("transom.") else "failed"
            error = entry.get("error", entry["outcome"]).rpartition(".")[2]
            gist = f"{error}: {entry.get('message', '').strip()}"
            found.append(Difference(family, policy, test, kind, gist))
        elif entry["inside"]:
            found.append(Difference(family, policy, test, "inside", ", ".join(entry["inside"])))
    return found


def table(counts: Counter[str], found: list[Difference]) -> str:
    """One row per family, as Markdown."""
    lines = ["| family | stock | " + " | ".join(f"`{policy}`" for policy in POLICIES) + " |"]
    lines += ["|---" * (2 + len(POLICIES)) + "|"]
    for family, stock in [*counts.items(), ("all", sum(counts.values()))]:
        cells = []
        for policy in POLICIES:
            kinds = Counter(
                each.kind
                for each in found
                if each.policy == policy and family in (each.family, "all")
            )
            cell = f"{stock - kinds['refused'] - kinds['failed']}"
            named = [f"{kinds[kind]} {kind}" for kind in ("refused", "failed") if kinds[kind]]
            cells.append(f"{cell} ({', '.join(named)})" if named else cell)
        lines.append(f"| {family} | {stock} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of huggingface/transformers")
    parser.add_argument("families", nargs="*", default=FAMILIES, help="folders of tests/models")
    given = parser.parse_args()
    stock = run(given.checkout, given.families, "stock")
    counts = Counter(family for (family, _), x in stock.items() if x["outcome"] == "passed")
    found: list[Difference] = []
    for policy in POLICIES:
        found += differences(policy, stock, run(given.checkout, given.families, policy))
    result = {
        "passed_stock": counts,
        "failed_stock": [" ".join(key) for key, x in stock.items() if x["outcome"] == "failed"],
        "differences": [each._asdict() for each in found],
    }
    write("transformers-tests", {"generation": result})
    print(table(counts, found))
    for each in found:
        print(
            f"{each.family} {each.policy} {each.test}: {each.kind}: {each.reason.splitlines()[0]}"
        )


if __name__ == "__main__":
    main()
