"""What each policy costs and what it is worth: loss, bytes, time, finding a number again.

SmolLM2-135M over two texts and at budgets of 256, 512 and 1,024 tokens:

1. the loss of every policy beside full attention, a window and sinks, from token 1,024 on; with
   keys and values in 8 and 4 bits too;
2. bytes allocated, and the time per token of prefill and of decoding, in float32, over those of
   sinks of the same budget;
3. pass-key prompts of 2,048 tokens at a budget of a quarter of that, the question at the end;
4. the same prompts, and the loss of 64 tokens that follow 2,048, side by side with NVIDIA kvpress.

Run `python benchmarks/policies.py`, or with the numbers of the claims to run: `... policies.py 1`.
All takes hours on two slow cores, so what `results/policies.json` has already is kept: delete it to
measure anew. `--novel FILE` reads another text than the documentation that installs with Python.
Claim 4 needs the python of an environment with kvpress, `--kvpress PYTHON` (see
`peers/kvpress_run.py`); without it only transom's side is measured.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import numpy as np
import torch
from _cells import Cells
from _measure import interleaved, ratio
from _passkey import FILLER, Trial, trials

from transom import Context, models

SCORES = ("heavy-hitters", "tova", "snapkv", "keydiff", "key-norm", "expected-attention")
BUDGETS = (256, 512, 1024)
KV = ("int8", "int4")
TOKENS = 2_560  # read for a loss
FROM = 1_024  # the first of them that counts: by then the largest budget is used up
PROMPT, QUARTER = 2_048, 512
FINDERS = (
    "keydiff:512,every=8,heads=adaptive",
    "keydiff:512,heads=adaptive",
    "heavy-hitters:512,recent=32",
    *(f"{name}:512" for name in SCORES),
    "sinks:4,window=508",
)
THIRD = slice(1, None, 3)  # of the trials, for kvpress: it reads every prompt from the start
FOLLOWING = 64  # tokens whose loss is compared with kvpress, which evicts none of them
STARTS = (0, 2_500, 5_000, 7_500)  # of prompts in a text


def policies(budget: int) -> list[str]:
    half = budget // 2
    return [
        f"window:{budget}",
        sinks(budget),
        *(f"{name}:{budget}" for name in SCORES),
        f"heavy-hitters:{budget},recent={half}",
        f"keydiff:{budget},recent={half}",
        f"snapkv:{budget},heads=adaptive",
        f"keydiff:{budget},heads=adaptive",
        f"snapkv:{budget},layers=pyramid",
        *(f"{name},kv={kv}" for name in (sinks(budget), f"snapkv:{budget}") for kv in KV),
    ]


def sinks(budget: int) -> str:
    return f"sinks:4,window={budget - 4}"


class Bench:
    """A model and the texts it reads.

    Attributes:
        texts: by name.
    """

    def __init__(self, dtype: str, novel: Path | None, trials: int, kvpress: str | None) -> None:
        self.dtype, self.count, self.kvpress = dtype, trials, kvpress
        loaded = models.load("smollm2", dtype=dtype, report=print)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.texts = {"python source": inspect.getsource(inspect)}
        if novel is None:
            self.texts["python documentation"] = "\n\n".join(topics[x] for x in sorted(topics))
        else:
            self.texts[novel.stem] = novel.read_text()
        self.prose = list(self.texts)[-1]

    def ids(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(self.texts[text], verbose=False).input_ids)

    def reader(self, policy: str, positions: Any = "compact") -> Context:
        return Context(self.model, self.tokenizer, policy, positions=positions)

    def losses(self) -> None:
        cells = Cells(
            "policies",
            "losses",
            f"loss in nats per token, {FROM} to {TOKENS} (goal: int8 within 0.5 %, int4 3 %)",
            dtype=self.dtype,
            tokens=TOKENS,
        )
        worse: dict[str, dict[str, float]] = {kv: {} for kv in KV}
        for text in self.texts:
            ids = self.ids(text)[:TOKENS]

            def loss(policy: str, text: str = text, ids: torch.Tensor = ids) -> float:
                def measure() -> dict[str, Any]:
                    return {"loss": float(self.reader(policy).score(ids)[FROM:].mean())}

                found: float = cells(text, policy, measure=measure)["loss"]
                return found

            rows = {
                policy: loss(policy)
                for policy in (
                    "full",
                    *(f"full:kv={kv}" for kv in KV),
                    *(policy for budget in BUDGETS for policy in policies(budget)),
                )
            }
            for policy in rows:
                plain, _, kv = policy.replace(":kv=", ",kv=").partition(",kv=")
                if kv:
                    worse[kv][f"{text} | {plain}"] = rows[policy] / rows[plain] - 1
        cells.conclude(
            **{f"{kv} over exact, worst": max(rows.values()) for kv, rows in worse.items()},
            changes=worse,
        )

    def times(self) -> None:
        cells = Cells(
            "policies",
            "times",
            "bytes, and time per token over that of sinks (goal: decoding <= 1.3), float32",
            dtype=self.dtype,
        )
        for budget in BUDGETS:
            chosen = ["full", *policies(budget)]
            cells(str(budget), measure=lambda: self._race(budget, chosen))  # noqa: B023

    def _race(self, budget: int, chosen: Sequence[str]) -> dict[str, Any]:
        """Contexts side by side: fed in chunks of 256, then token by token."""
        ids = self.ids("python source")
        contexts = {policy: self.reader(policy) for policy in chosen}
        for context in contexts.values():
            context.append(ids[:budget])

        def feeder(tokens: int, context: Context) -> Callable[[], object]:
            return lambda: context.append(ids[context.usage.seen :][:tokens])

        def race(tokens: int, rounds: int) -> dict[str, list[float]]:
            steps = {policy: feeder(tokens, context) for policy, context in contexts.items()}
            return interleaved(steps, rounds, warm=0)

        prefill, decode = race(256, 3), race(1, 64)
        under = sinks(budget)
        return {
            policy: {
                "bytes": context.usage.kv_bytes,
                "prefill": ratio(prefill, policy, under),
                "decode": ratio(decode, policy, under),
                # The same with what evicting now and then takes.
                "decode, mean": sum(decode[policy]) / sum(decode[under]),
                "seconds": {"prefill": median(prefill[policy]), "decode": median(decode[policy])},
            }
            for policy, context in contexts.items()
        }

    def _trials(self) -> Iterator[list[Trial]]:
        for kind, text in (("filler", FILLER * 200), ("prose", self.texts[self.prose][30_000:])):
            yield list(trials(self.tokenizer, kind, text, self.count, PROMPT))

    def passkey(self) -> None:
        cells = Cells(
            "policies",
            "passkey",
            f"pass keys found in {PROMPT} tokens at a budget of {QUARTER} (goal: 0.9 of full's)",
            dtype=self.dtype,
            trials=self.count,
            prose=self.prose,
        )
        found: dict[str, list[float]] = {}
        kinds = list(self._trials())
        for policy in ("full", *FINDERS):
            for kind in kinds:
                row = cells(
                    kind[0].kind,
                    policy,
                    measure=lambda: self._find(policy, kind),  # noqa: B023
                )
                found.setdefault(policy, []).append(row["accuracy"])
        full = sum(found["full"])
        shares = {policy: sum(row) / full for policy, row in found.items()}
        best = max(
            (policy for policy in shares if policy.startswith(SCORES)), key=shares.__getitem__
        )
        cells.conclude(best=best, share_of_full=shares)

    def _find(
        self, policy: str, kind: Sequence[Trial], positions: Any = "compact"
    ) -> dict[str, Any]:
        """How often all ids of the number were the likeliest, and how likely they were."""
        reader, hits, losses = self.reader(policy, positions), [], []
        for trial in kind:
            reader.append(
                trial.before[reader.usage.seen :]
            )  # trials have their beginnings in common
            one = reader.fork()
            one.append(trial.after + trial.question)
            loss, hit = read(one, trial.key)
            losses.append(float(loss.sum()))
            hits.append(bool(hit.all()))
        return {"accuracy": sum(hits) / len(hits), "loss": sum(losses) / len(losses), "hits": hits}

    def peers(self) -> None:
        cells = Cells(
            "policies",
            "peers",
            f"{PROMPT} tokens at a budget of {QUARTER}, then {FOLLOWING} more: transom and kvpress",
            dtype=self.dtype,
            trials=self.count,
            prose=self.prose,
        )
        names = ("snapkv", "key-norm", "tova", "expected-attention")
        tasks: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for text in self.texts:
            ids = self.ids(text).tolist()
            parts = [ids[start : start + PROMPT + FOLLOWING] for start in STARTS]
            for policy in ("full", *(f"{name}:{QUARTER}" for name in (*names, "keydiff"))):
                for positions in ("compact", "absolute")[: 1 if policy == "full" else 2]:
                    cells(
                        f"loss of {text}",
                        f"transom {policy}, {positions}",
                        measure=lambda: self._follow(policy, parts, positions),  # noqa: B023
                    )
            tasks[f"loss of {text}", ""] = [
                {"context": part[:PROMPT], "continuation": part[PROMPT:]} for part in parts
            ]
        for kind in self._trials():
            where = f"pass keys in {kind[0].kind}"
            tasks[where, ", question compressed"] = [
                {
                    "context": trial.before + trial.after + trial.question[:-1],
                    "continuation": trial.question[-1:] + trial.key,
                }
                for trial in kind[THIRD]
            ]
            tasks[where, ", question afterwards"] = [
                {
                    "context": trial.before + trial.after,
                    "continuation": trial.question + trial.key,
                }
                for trial in kind[THIRD]
            ]
        if self.kvpress is None:
            print("  kvpress is left out; --kvpress PYTHON runs it from an environment of its own")
            return
        for (where, how), jobs in tasks.items():
            for name in names:
                cells(where, f"kvpress {name}{how}", measure=lambda: self._press(name, jobs))  # noqa: B023

    def _follow(self, policy: str, parts: list[list[int]], positions: Any) -> dict[str, Any]:
        losses = []
        for ids in parts:
            reader = self.reader(policy, positions)
            reader.append(ids[: PROMPT + 1])
            losses.append(float(reader.score(ids[PROMPT + 1 :]).mean()))
        return {"loss": sum(losses) / len(losses)}

    def _press(self, name: str, jobs: list[dict[str, Any]]) -> dict[str, Any]:
        """The other environment's answers, over all jobs."""
        common = {"name": name, "press": name, "budget": QUARTER}
        job = {
            "model": self.model.config._name_or_path,
            "dtype": self.dtype,
            "tasks": [common | each for each in jobs],
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(job, file)
            file.flush()
            script = Path(__file__).parent / "peers" / "kvpress_run.py"
            command = [str(self.kvpress), str(script), file.name]
            quiet = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=quiet)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        if len(jobs[0]["continuation"]) == FOLLOWING:
            losses = [loss for answer in answers for loss in answer["losses"]]
            return {"loss": float(np.mean(losses)), "kept": answers[0]["kept"]}
        keys = len(self.tokenizer("12345", add_special_tokens=False).input_ids)
        hits = [all(answer["hits"][-keys:]) for answer in answers]
        losses = [sum(answer["losses"][-keys:]) for answer in answers]
        return {
            "accuracy": sum(hits) / len(hits),
            "loss": sum(losses) / len(losses),
            "hits": hits,
            "versions": answers[0]["versions"],
        }


def read(context: Context, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each next id, and whether it was the likeliest."""
    losses, hits = [], []
    for token in ids:
        fork = context.fork()
        assert fork._logits is not None
        hits.append(int(fork._logits.argmax()) == token)
        losses.append(float(context.score([token])[0]))
    return torch.tensor(losses), torch.tensor(hits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("claims", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--novel", type=Path)
    parser.add_argument("--kvpress", metavar="PYTHON")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--trials", type=int, default=15, help="pass keys of each kind")
    given = parser.parse_args()
    bench = Bench(given.dtype, given.novel, given.trials, given.kvpress)
    for number in given.claims:
        (bench.losses, bench.times, bench.passkey, bench.peers)[number - 1]()
