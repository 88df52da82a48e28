"""An evaluation of several policies on one text: shows a table and a bar, stops on Ctrl-C."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from transom.cli.interrupt import Interrupt
from transom.cli.live_table import columns, lines
from transom.cli.options import check_placement, load
from transom.cli.progress import ProgressBars
from transom.cli.tables import table_of
from transom.cli.text import read_text
from transom.errors import InputError
from transom.evaluate.plan import EvaluationPlan, State, carry_out
from transom.evaluate.record import ResultLog
from transom.evaluate.reference import reference
from transom.evaluate.results import Results
from transom.evaluate.summary import summaries
from transom.evaluate.tasks import REVISION
from transom.outputs import write_text

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = ["REPORT", "EvaluationRun"]

RECORD, FIGURES, REPORT = "rows.jsonl", "results.json", "report.html"


@dataclass(frozen=True)
class EvaluationRun:
    """The settings of an evaluation, and the folder that it writes to.

    Attributes:
        model: a name that `transom.models.load` knows.
        text: a file, `-`, or None for the Python language reference.
        out: the folder; it is made if it is missing.
        dtype: of the weights; None for the model's own.
        device: to run on; None for the processor.
        seed: of everything random.
        chunk: tokens per forward pass.
        fresh: whether to measure again what the folder already has.
    """

    model: str
    text: str | None
    out: Path
    dtype: str | None = None
    device: str | None = None
    seed: int = 0
    chunk: int = 512
    fresh: bool = False

    def __post_init__(self) -> None:
        check_placement(self.dtype, self.device)

    @property
    def text_name(self) -> str:
        """What to call the text."""
        return "the Python language reference" if self.text is None else Path(self.text).name

    def read_text(self) -> str:
        """The text.

        Raises:
            InputError: when it cannot be read.
        """
        return reference() if self.text is None else read_text(self.text)

    def load_model(self) -> Loaded:
        """The model. Slow steps are announced on standard error."""
        return load(self.model, self.dtype, self.device)

    def open_log(self, text: str) -> ResultLog:
        """The results in the folder, to add to.

        Raises:
            InputError: when they are of another model, text or seed, or the folder cannot be
                written to.
        """
        settings = {
            "model": self.model,
            "dtype": self.dtype or "default",
            **({} if self.device in (None, "cpu") else {"device": self.device}),
            "text": self.text_name,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seed": self.seed,
            "chunk": self.chunk,
            "trials": REVISION,
        }
        path = self.out / RECORD
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if self.fresh:
                path.unlink(missing_ok=True)
            return ResultLog(path, settings)
        except OSError as error:
            raise InputError(
                f"cannot write to {self.out}: {error.strerror}; expected --out to be a folder."
            ) from error

    def measure(self, plan: EvaluationPlan, loaded: Loaded, text: str, log: ResultLog) -> Results:
        """Carry out the plan until it is complete, or until Ctrl-C."""
        from transom.context import Context  # here, so that the terminal starts without torch
        from transom.evaluate.facts import facts
        from transom.evaluate.measures import Bench

        order = tuple(map(str, plan.policies))

        def table() -> RenderableType:
            found = summaries(log.rows, order)
            return table_of(columns(found), lines(found), ruled=True) if found else ""

        bars = ProgressBars(table, remaining=True)
        with bars, Interrupt(bars.stopping) as interrupt:
            bench = Bench.of(
                lambda policy: Context(loaded.model, loaded.tokenizer, policy, chunk=self.chunk),
                loaded.tokenizer,
                text,
                seed=self.seed,
                name=self.text_name,
            )
            move = None

            def moved(state: State) -> None:
                nonlocal move
                if move is None:
                    move = bars.start("tokens", state.total)
                move(state.done, f"{state.measure.title}  {state.measure.policy}")

            complete = carry_out(plan, bench, log, on_state=moved, stop=lambda: interrupt.requested)
        if not complete:
            print("interrupted; the figures so far:", file=sys.stderr)
        command = shlex.join(["transom", *sys.argv[1:]])
        return Results(
            log.settings, {**facts(loaded), "command": command}, log.rows, order, complete
        )

    def write_report(self, results: Results) -> Path:
        """Write the figures and the page; returns the page's path."""
        from transom.evaluate.report import page

        write_text(self.out / FIGURES, results.dumps())
        write_text(self.out / REPORT, page(results))
        return self.out / REPORT
