"""What a fixed amount of hot memory keeps: loss, recall, and what recalling costs.

Four claims, measured on SmolLM2-135M with fixed seeds over the Python documentation that CPython
carries, or another text:

1. loss at a budget of 1,024 tokens against full attention's within the trained 8,192, and flat up
   to 32,768 tokens: the last quarter's over the second quarter's;
2. a pass key in repeated filler and in real prose, 30 trials each at 4k, 8k, 16k and 32k
   tokens, with at most 2,048 hot tokens per layer;
3. decode and prefill time against sinks and a window of the same hot size, and at 32k over at 8k;
4. of the pass keys that the second claim missed, how many are found when the blocks they are in are
   recalled by force: what is left is the model's own.

Run `python benchmarks/quality.py`, or with the numbers of the claims to run: `... quality.py 1 3`.
Trials and losses are written down one by one in `results/quality/`, so an interrupted run goes on
where it was. `--quick` does everything once, short, and writes no results.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _measure import RESULTS, interleaved, ratio, run_claims

from transom import Context, models
from transom.evaluate.measures import Bench
from transom.evaluate.plan import LOSS, EvaluationPlan, State, carry_out
from transom.evaluate.record import ResultLog
from transom.evaluate.reference import reference
from transom.evaluate.rows import LossRow, RecallRow, Row
from transom.evaluate.summary import PolicySummary, summaries
from transom.evaluate.tasks import REVISION, task
from transom.evaluate.tasks.base import Cell
from transom.kv.recall import RecallLayer
from transom.policies import parse

# Policies with recall or scores go into these lists; what they are compared with comes first.
RECALL = "hierarchical:1024,global=100000,recall=blocks"  # 2,048 hot tokens
AT_1024 = (
    "full",
    "sinks:4,window=1020",
    "window:1024",
    "hierarchical:512,global=100000,recall=blocks,blocks=6",
)
AT_2048 = {RECALL: 32_768, "sinks:4,window=2044": 8192, "full": 8192}  # and up to which length
TIMED = ("sinks:4,window=2044", RECALL)  # the first is what the others are measured against
TASKS = ("passkey", "passkey-prose")

CHUNK = 512
TRAINED = 8192
QUESTION, ANSWER = 48, 8  # tokens that a question takes at most, and an answer
BY_FORCE = 1e4  # votes
DEPTHS = tuple(round(0.05 + 0.1 * step, 2) for step in range(10))

reading = argparse.ArgumentParser(description=__doc__.splitlines()[0])
reading.add_argument("claims", nargs="*", type=int, help="numbers of claims; all by default")
reading.add_argument("--quick", action="store_true", help="once and short, nothing written")
reading.add_argument("--text", type=Path, help="read this text instead")
reading.add_argument("--dtype", default="float32", help="of the weights, such as bfloat16")
reading.add_argument("--policies", help="parted by ';', instead of those of each claim")
reading.add_argument("--tasks", default=",".join(TASKS), help="of the second claim, parted by ','")
reading.add_argument("--longest", type=int, default=32_768, help="tokens of the second claim")
OPTIONS = reading.parse_args()

QUICK: bool = OPTIONS.quick
LENGTHS = (1024, 2048) if QUICK else (4096, 8192, 16_384, 32_768)
LONGEST = LENGTHS[-1]
TRIALS = 1 if QUICK else 3


@functools.cache
def loaded() -> models.Loaded:
    return models.load("smollm2", dtype=OPTIONS.dtype, report=print)


@functools.cache
def bench() -> Bench:
    text = OPTIONS.text.read_text(encoding="utf-8") if OPTIONS.text else reference()
    return Bench.of(context, loaded().tokenizer, text)


def context(policy: str) -> Context:
    return Context(loaded().model, loaded().tokenizer, policy, chunk=CHUNK)


def chosen(policies: Iterable[str]) -> tuple[str, ...]:
    """Those of the command line, if it has any."""
    given = OPTIONS.policies.split(";") if OPTIONS.policies else policies
    return tuple(str(parse(policy)) for policy in given)


def measured(claim: str, plan: EvaluationPlan) -> list[Row]:
    """Carry the plan out, or what is still missing of it, and give all its rows."""
    folder = RESULTS / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    name = OPTIONS.text.stem if OPTIONS.text else "reference"
    settings: dict[str, Any] = {
        "model": "smollm2",
        "dtype": OPTIONS.dtype,
        "text": name,
        "chunk": CHUNK,
    }
    settings["trials"] = REVISION
    record = ResultLog(folder / f"{claim}-{name}-{OPTIONS.dtype}.jsonl", settings)
    began = time.monotonic()
    shown = [began]

    def tell(state: State) -> None:
        now = time.monotonic()
        if now - shown[0] < 30 and state.done:
            return
        shown[0] = now
        left = (now - began) * (state.total - state.done) / max(1, state.done) / 60
        what = f"{state.measure.title}, {state.measure.policy}"
        print(f"  {state.done / state.total:4.0%}  {what}  ({left:.0f} min left)", flush=True)

    carry_out(plan, bench(), record, on_state=tell)
    wanted = {key for measure in plan.measures(bench()) for key in measure.keys}
    return [row for row in record.rows if row.key in wanted]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))


def mean_loss(row: LossRow, start: int, stop: int) -> float:
    """Over the whole stretches of a reading that lie in those tokens."""
    inside = [(b - a, loss) for a, b, loss in row.points if start <= a and b <= stop]
    return float(np.average([loss for _, loss in inside], weights=[size for size, _ in inside]))


def loss() -> dict[str, Any]:
    plan = EvaluationPlan(tuple(map(parse, chosen(AT_1024))), tasks=(LOSS,), lengths=(LONGEST,))
    within = min(TRAINED, LONGEST // 4)
    runs: dict[str, Any] = {}
    for one in summaries(measured("loss", plan), tuple(map(str, plan.policies))):
        assert one.loss is not None
        tokens = one.loss.tokens
        runs[one.policy] = {
            "within": mean_loss(one.loss, 0, within),
            "second quarter": mean_loss(one.loss, tokens // 4, tokens // 2),
            "last quarter": mean_loss(one.loss, 3 * tokens // 4, tokens),
            "last over second": one.flatness,
            "hot_bytes": one.hot_bytes,
            "cold_bytes": one.cold_bytes,
        }
    header = ("policy", f"up to {within:,}", "2nd quarter", "last quarter", "last/2nd", "hot MB")
    rows = [
        (
            policy,
            *(f"{run[key]:.3f}" for key in ("within", "second quarter", "last quarter")),
            f"{run['last over second']:.3f}",
            f"{run['hot_bytes'] / 1e6:.1f}",
        )
        for policy, run in runs.items()
    ]
    table(header, rows)
    return {
        "claim": f"loss over {LONGEST:,} tokens (goal: the best at 1,024 tokens <= full's within "
        f"{within:,}, and last over second quarter within 2 %)",
        "runs": runs,
    }


def answers() -> list[PolicySummary]:
    """Of every policy to every pass key; what is still missing is measured."""
    policies = chosen(AT_2048)
    rows: list[Row] = []
    for policy in policies:
        longest = min(OPTIONS.longest, AT_2048.get(policy, LONGEST))
        for name in OPTIONS.tasks.split(","):
            plan = EvaluationPlan(
                (parse(policy),),
                tasks=(name,),
                lengths=tuple(n for n in LENGTHS if n <= longest),
                depths=DEPTHS[::4] if QUICK else DEPTHS,
                trials=TRIALS,
            )
            rows += measured(f"recall-{name}", plan)
    return summaries(rows, policies)


def recall() -> dict[str, Any]:
    found = answers()
    cells = sorted({(row.task, row.length) for one in found for row in one.recall})
    rows, runs = [], {}
    for one in found:
        scores = [one.of(task, length) for task, length in cells]
        rows.append((one.policy, *(f"{s.right}/{s.total}" if s else "-" for s in scores)))
        runs[one.policy] = {
            "recall": {
                f"{task} {length}": {"rate": s.rate, "right": s.right, "total": s.total}
                for (task, length), s in zip(cells, scores, strict=True)
                if s is not None
            },
            "hot_bytes": one.hot_bytes,
            "cold_bytes": one.cold_bytes,
            "missed": [
                [row.task, row.length, row.depth, row.trial, row.expected, row.answer]
                for row in one.recall
                if not row.right
            ],
        }
    table(("policy", *(f"{task} {length // 1024}k" for task, length in cells)), rows)
    return {
        "claim": "answers to a pass key in filler and a needle in prose (goal >= 95 % at 4k to "
        "32k with at most 2,048 hot tokens per layer)",
        "runs": runs,
    }


def reader(policy: str, tokens: int) -> Context:
    one = context(policy)
    one.append(np.resize(bench().ids, tokens))
    return one


def appending(one: Context, tokens: int, passes: int) -> Callable[[], object]:
    """Feeds the next tokens of the text in each pass of a call; the text starts over at its end."""
    ids = bench().ids

    def step() -> None:
        for _ in range(passes):
            places = np.arange(one.usage.seen, one.usage.seen + tokens) % len(ids)
            one.append(ids[places])

    return step


def speed() -> dict[str, Any]:
    """Every policy at two lengths, all in turns: ratios to the first, and of long over short."""
    policies = chosen(TIMED)
    short, long = (LENGTHS[0], LENGTHS[-1]) if QUICK else (TRAINED, LONGEST)
    readers = {(policy, n): reader(policy, n) for policy in policies for n in (short, long)}
    runs: dict[str, Any] = {policy: {} for policy in policies}
    rows: list[list[str]] = [[policy] for policy in policies]
    # Blocks are selected once in eight tokens, so that many are decoded at a time.
    for what, tokens, passes, rounds in (("decode", 1, 8, 20), ("prefill", CHUNK, 1, 12)):
        steps = {f"{p} {n}": appending(one, tokens, passes) for (p, n), one in readers.items()}
        seconds = interleaved(steps, 3 if QUICK else rounds, warm=1 if QUICK else 3)
        for row, policy in zip(rows, policies, strict=True):
            at = {n: f"{policy} {n}" for n in (short, long)}
            against = {n: ratio(seconds, at[n], f"{policies[0]} {n}") for n in (short, long)}
            growth = ratio(seconds, at[long], at[short])
            runs[policy][what] = {
                "over the first": {str(n): value for n, value in against.items()},
                "long over short": growth,
                "seconds": {str(n): median(seconds[at[n]]) / passes for n in (short, long)},
            }
            row += [f"{median(seconds[at[long]]) / passes * 1e3:.1f}", f"{against[long]:.2f}"]
            row += [f"{growth:.2f}"]
    header = [
        f"{what} {one}" for what in ("decode", "prefill") for one in ("ms", "ratio", "growth")
    ]
    table(("policy", *header), rows)
    return {
        "claim": f"time at {long:,} tokens over that of {policies[0]} (goal: decode <= 1.6, "
        f"prefill of {CHUNK} <= 1.5), and growth from {short:,} tokens (goal: flat)",
        "runs": runs,
    }


def forced(policy: str, row: RecallRow) -> str | None:
    """The answer with the blocks that the key is in held by every head; None if they are local."""
    asked = task(row.task).trial(bench().material, Cell(row.length, row.depth, row.trial))
    one, ids = context(policy), asked.ids
    one.append(ids[:-QUESTION])
    layers = [layer for layer in one.cache.layers if isinstance(layer, RecallLayer)]
    size = layers[0].policy.block_size
    key = loaded().tokenizer(" " + asked.expected, add_special_tokens=False).input_ids[-5:]
    places = [at for at in range(len(ids) - QUESTION) if ids[at : at + 5].tolist() == key]
    assert places
    blocks = sorted({end // size for at in places for end in (at, at + 4)})
    cold = layers[0].row_blocks[0].stored
    if blocks[-1] > cold:
        return None
    for layer in layers:
        layer.tensors["votes"][:, :, [block - 1 for block in blocks]] = BY_FORCE
    one.append(ids[-QUESTION:])
    return one.generate(max_new_tokens=ANSWER)


def misses() -> dict[str, Any]:
    policy = str(parse(RECALL))
    rows = [row for one in answers() for row in one.recall if one.policy == policy]
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.right:
            continue
        answer = forced(policy, row)
        kind = "local" if answer is None else "found" if row.expected in answer else "not used"
        cell = counts.setdefault(f"{row.task} {row.length}", {})
        cell[kind] = cell.get(kind, 0) + 1
        print(f"  {row.task} {row.length:,} at {row.depth}: {kind} ({row.expected}, {answer})")
    return {
        "claim": "missed keys with their blocks recalled by force: found (so they were not "
        "recalled), not used by the model even then, or among the local tokens anyway",
        "misses": counts,
    }


if __name__ == "__main__":
    report = f"quality-{OPTIONS.text.stem}" if OPTIONS.text else "quality"
    run_claims(report, (loss, recall, speed, misses), OPTIONS.claims, keep=not QUICK)
