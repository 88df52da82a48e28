"""`transom advise`: which policy, and how large, for a text and a budget."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from transom.cli.compare import INTERRUPTED
from transom.cli.evaluation_run import Sweep
from transom.cli.figures import JSON, check_json, write_json
from transom.cli.options import (
    CHUNK,
    DEVICE,
    DTYPE,
    SEED,
    STREAM,
    TEXT,
    named,
    tokens_option,
    whole,
)
from transom.cli.tables import print_table, result_console
from transom.evaluate.advisor import Advice, Option, Wish, advise, candidates
from transom.evaluate.plan import LOSS, SPEED, EvaluationPlan
from transom.units import plain_seconds, plain_size, to_bytes, to_seconds

__all__ = ["advise_command"]

NOTHING = 1  # the exit code where nothing can be recommended
NEEDLES = "needles"  # the task that asks most for what it reads


def advise_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See `transom models`.")],
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Fit all keys and values into SIZE, such as 2GiB."),
    ],
    text: TEXT = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Allow a token at most TIME, such as 60ms.")
    ] = None,
    sessions: Annotated[
        int, typer.Option(metavar="N", parser=whole, help="Hold N sessions at once.")
    ] = 1,
    policies: Annotated[
        str,
        typer.Option(
            metavar="POLICIES", help="Choose from these, {} for the size, separated by ';'."
        ),
    ] = "sinks:4,window={}",
    length: Annotated[int, tokens_option("--length", help="Try sessions of N tokens.")] = 4096,
    trials: Annotated[
        int,
        typer.Option(
            metavar="N", parser=whole, help="Hide things in N texts, for eight questions each."
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=named, help="Keep what is measured here, with a report."
        ),
    ] = None,
    json: JSON = None,
    seed: SEED = 0,
    dtype: DTYPE = None,
    device: DEVICE = None,
    chunk: CHUNK = 512,
) -> None:
    """Choose a policy and its size for a text and a budget.

    Computes what fits, tries a few sizes on the beginning of the text (loss, questions about
    what was hidden in it, speed), and recommends the smallest that is nearly as good as the best.
    """
    wish = Wish(
        to_bytes(memory, "--memory"),
        sessions,
        None if latency is None else to_seconds(latency, "--latency"),
    )
    families = [one.strip() for one in policies.split(";") if one.strip()]
    check_json(json, text)
    with tempfile.TemporaryDirectory() as scratch:
        sweep = Sweep(model, text, out or Path(scratch), dtype, device, seed, chunk)
        book = sweep.read()
        record = sweep.record(book)
        loaded = sweep.load()

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
        results = sweep.run(plan, loaded, book, record)
        page = sweep.write(results) if out is not None and results.rows else None
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
    finally:  # also where nobody reads all of it
        write_json(advice.to_json(), json)
    if advice.best is None:
        raise typer.Exit(NOTHING)


def _print(console: Console, advice: Advice, tokens: int, each: int, weights: int) -> None:
    wish = advice.wish
    of = "one session" if wish.sessions == 1 else f"each of {wish.sessions} sessions"
    console.print(
        f"{plain_size(wish.memory)} of memory are {plain_size(wish.each)} for {of}: keys and "
        f"values of {wish.each // each:,} tokens, {each:,} bytes a token. The weights take "
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
    """The recommendation, what it costs, and what the next larger and smaller would give."""
    best, full, wish = advice.best, advice.full, advice.wish
    if best is None:
        fastest = min(
            (one for one in advice.options if one.obstacle == "too slow"),
            key=lambda one: one.seconds,
            default=None,
        )
        if fastest is None or wish.latency is None:
            return ["Nothing that was tried fits: give more memory, or fewer sessions."]
        return [
            f"Nothing that fits takes {plain_seconds(wish.latency)} a token or less: the fastest, "
            f"{fastest.policy}, takes {plain_seconds(fastest.seconds)}. Allow for that, take a "
            "smaller model, or a faster machine."
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
