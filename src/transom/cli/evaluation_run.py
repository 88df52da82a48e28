"""Several policies measured on one text, with a table that fills and a bar, until Ctrl-C."""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transom.cli.interrupt import Interrupt
from transom.cli.live_table import columns, lines
from transom.cli.options import check_placement, load
from transom.cli.progress import Bars
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

__all__ = ["REPORT", "Sweep"]

RECORD, FIGURES, REPORT = "rows.jsonl", "results.json", "report.html"


@dataclass(frozen=True)
class Sweep:
    """What is measured, and the folder that it is written to.

    Attributes:
        model: a name that `transom.models.load` knows.
        text: a file, `-`, or None for the Python language reference.
        out: the folder; made if need be.
        dtype: of the weights; None for the model's own.
        device: to run on; None for the processor.
        seed: of all chance.
        chunk: tokens per forward pass.
        fresh: whether what the folder has already is measured again.
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
    def name(self) -> str:
        """Of the text."""
        return "the Python language reference" if self.text is None else Path(self.text).name

    def read(self) -> str:
        """The text.

        Raises:
            InputError: when it cannot be read.
        """
        return reference() if self.text is None else read_text(self.text)

    def load(self) -> Loaded:
        """The model, with a line on stderr for what takes long."""
        return load(self.model, self.dtype, self.device)

    def record(self, text: str) -> ResultLog:
        """The rows in the folder.

        Raises:
            InputError: when they are of something else, or the folder cannot be written to.
        """
        settings = {
            "model": self.model,
            "dtype": self.dtype or "default",
            **({} if self.device in (None, "cpu") else {"device": self.device}),
            "text": self.name,
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

    def run(self, plan: EvaluationPlan, loaded: Loaded, text: str, record: ResultLog) -> Results:
        """Carry the plan out, until Ctrl-C; the results say whether it was completed."""
        from transom.context import Context  # here, so that the terminal starts without torch
        from transom.evaluate.facts import facts
        from transom.evaluate.measures import Bench

        order = tuple(map(str, plan.policies))

        def standing() -> Any:
            found = summaries(record.rows, order)
            return table_of(columns(found), lines(found), ruled=True) if found else ""

        bars = Bars(standing, remaining=True)
        with bars, Interrupt(bars.stopping) as interrupt:
            bench = Bench.of(
                lambda policy: Context(loaded.model, loaded.tokenizer, policy, chunk=self.chunk),
                loaded.tokenizer,
                text,
                seed=self.seed,
                name=self.name,
            )
            move = None

            def moved(state: State) -> None:
                nonlocal move
                if move is None:
                    move = bars.start("tokens", state.total)
                move(state.done, f"{state.measure.title}  {state.measure.policy}")

            complete = carry_out(
                plan, bench, record, on_state=moved, stop=lambda: interrupt.requested
            )
        if not complete:
            print("interrupted; the figures so far:", file=sys.stderr)
        command = shlex.join(["transom", *sys.argv[1:]])
        return Results(
            record.settings, {**facts(loaded), "command": command}, record.rows, order, complete
        )

    def write(self, results: Results) -> Path:
        """Write the figures and the page; gives where the page is."""
        from transom.evaluate.report import page

        write_text(self.out / FIGURES, results.dumps())
        write_text(self.out / REPORT, page(results))
        return self.out / REPORT
