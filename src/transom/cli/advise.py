"""`transom advise`: which policy, and how large, for a text and a budget."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from transom.cli.evaluation_run import EvaluationRun
from transom.cli.exit_codes import INTERRUPTED, NOTHING_FITS
from transom.cli.figures import JSON, check_outputs, write_json
from transom.cli.options import CHUNK, DEVICE, DTYPE, MODEL, SEED, TEXT, tokens_option
from transom.cli.tables import print_table, result_console
from transom.cli.values import STREAM, named, split, whole
from transom.evaluate.advisor import Advice, Option, Wish, advise, candidates
from transom.evaluate.plan import LOSS, SPEED, EvaluationPlan
from transom.units import plain_seconds, plain_size, to_bytes, to_seconds

__all__ = ["advise_command"]

NEEDLES = "needles"  # the task that asks the most questions for the tokens it reads


def advise_command(
    model: MODEL,
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Fit all keys and values into SIZE, such as 2GiB."),
    ],
    text: TEXT = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Spend at most TIME per token, such as 60ms.")
    ] = None,
    sessions: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Hold N sessions at once.")
    ] = 1,
    policies: Annotated[
        str,
        typer.Option(
            metavar="POLICIES", help="Try these, separated by ';'; {} stands for the size."
        ),
    ] = "sinks:4,window={}",
    length: Annotated[int, tokens_option("--length", help="Test sessions of N tokens.")] = 4096,
    trials: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole,
            help="Hide facts in N texts; ask eight questions each.",
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=named, help="Keep the measurements here, with a report."
        ),
    ] = None,
    json: JSON = None,
    seed: SEED = 0,
    dtype: DTYPE = None,
    device: DEVICE = None,
    chunk: CHUNK = 512,
) -> None:
    """Choose a policy and its size for a text and a budget.

    Computes what fits, and measures a few sizes on the beginning of the text: loss, answers about
    hidden facts, speed. Recommends the smallest size that is nearly as good as the best.
    """
    wish = Wish(
        to_bytes(memory, "--memory"),
        sessions,
        None if latency is None else to_seconds(latency, "--latency"),
    )
    families = split(policies, ";")
    check_outputs(json, None, text)
    with tempfile.TemporaryDirectory() as scratch:
        evaluation = EvaluationRun(model, text, out or Path(scratch), dtype, device, seed, chunk)
        book = evaluation.read_text()
        log = evaluation.open_log(book)
        loaded = evaluation.load_model()

        from transom.evaluate.facts import facts, shape_of

        known = facts(loaded)
        shape, trained = shape_of(loaded.model), known["trained_length"]
        tried = candidates(families, shape, wish, length, trained)
        plan = EvaluationPlan(
            policies=tuple(one.policy for one in tried),
            tasks=(LOSS, NEEDLES, SPEED),
            lengths=(length,),
            trials=trials,
        )
        results = evaluation.measure(plan, loaded, book, log)
        page = evaluation.write_report(results) if out is not None and results.rows else None
        if not results.complete:
            raise typer.Exit(INTERRUPTED)
        wanted = {str(one.policy) for one in tried}
        advice = advise(wish, tried, [one for one in results.policies if one.policy in wanted])
    console = result_console(stderr=json == STREAM)
    weights = sum(weight.nbytes for weight in loaded.model.parameters())
    try:
        _print(console, advice, length, shape.token_bytes, weights)
        if advice.best is not None:
            _print_use(console, advice.best, model, text)
        if page is not None:
            console.print(f"\n{page}", soft_wrap=True)
    finally:  # also when nobody reads all of the output
        write_json(advice.to_json(), json)
    if advice.best is None:
        raise typer.Exit(NOTHING_FITS)


def _print(console: Console, advice: Advice, tokens: int, each: int, weights: int) -> None:
    wish = advice.wish
    of = "one session" if wish.sessions == 1 else f"each of {wish.sessions} sessions"
    console.print(
        f"{plain_size(wish.memory)} of memory give {plain_size(wish.each)} to {of}: keys and "
        f"values of {wish.each // each:,} tokens, {each:,} bytes per token. The weights take "
        f"another {plain_size(weights)}.\n",
        soft_wrap=True,
    )
    print_table(
        console,
        f"Tried on {tokens:,} tokens",
        ("policy", "", "KV", "sessions", "loss", "over full", "found", "per token"),
        [
            (
                option.policy,
                "recommended" if option is advice.best else option.obstacle,
                plain_size(option.bytes),
                f"{option.sessions:,}",
                f"{option.loss:.3f}",
                f"{option.loss - advice.full.loss:+.3f}",
                f"{option.recall.right}/{option.recall.total}" if option.recall else "-",
                plain_seconds(option.seconds),
            )
            for option in advice.options
        ],
        left=2,
    )
    console.print()
    for sentence in in_words(advice):
        console.print(sentence, soft_wrap=True)


def in_words(advice: Advice) -> list[str]:
    """The recommendation and its costs, and those of the next larger and smaller policy."""
    best, full, wish = advice.best, advice.full, advice.wish
    if best is None:
        fastest = min(
            (one for one in advice.options if one.obstacle == "too slow"),
            key=lambda one: one.seconds,
            default=None,
        )
        if fastest is None or wish.latency is None:
            return ["No policy that was tried fits. Give more memory, or hold fewer sessions."]
        return [
            f"No policy that fits takes {plain_seconds(wish.latency)} per token or less. The "
            f"fastest, {fastest.policy}, takes {plain_seconds(fastest.seconds)}. Allow that time, "
            "or use a smaller model or a faster machine."
        ]
    said = [
        f"Use {best.policy}: {plain_size(best.bytes)} a session, {best.sessions:,} of which fit. "
        f"Against full attention it has {best.loss - full.loss:+.3f} nats a token of loss"
        f"{_found(best, full)}; a token takes {plain_seconds(best.seconds)}."
    ]
    for name, other in (("larger", advice.larger), ("smaller", advice.smaller)):
        if other is None:
            said.append(f"There is no {name} one among those tried.")
            continue
        given = f"The next {name}, {other.policy}, takes {plain_size(other.bytes)} a session"
        given += f" ({other.obstacle})" if other.obstacle else ""
        given += f": {other.loss - best.loss:+.3f} nats a token of loss against this one"
        said.append(f"{given}{_found(other, best)}; {plain_seconds(other.seconds)} a token.")
    return said


def _found(one: Option, other: Option) -> str:
    if one.recall is None or other.recall is None:
        return ""
    return (
        f", and answers {one.recall.right} of {one.recall.total} questions "
        f"instead of {other.recall.right}"
    )


def _print_use(console: Console, best: Option, model: str, text: str | None) -> None:
    file = "book.txt" if text in (None, "-") else str(text)
    command = ["transom", "read", file, "--model", model, "--policy", best.policy]
    console.print(f"\n{shlex.join(command)}", soft_wrap=True)
    console.print(
        f'context = Context.from_pretrained("{model}", policy="{best.policy}")', soft_wrap=True
    )
