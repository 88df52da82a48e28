"""`transom chat`: a conversation of any length, in a fixed window, that survives its process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.exit_codes import INTERRUPTED
from transom.cli.options import DEVICE, DTYPE, MAX_NEW_TOKENS, check_placement, load
from transom.cli.repl import AskSettings, ChatRepl
from transom.cli.values import at_least, named, number
from transom.errors import InputError, StateError
from transom.models.load import require_torch
from transom.models.packaged import ALIASES
from transom.policies import Sinks, parse
from transom.sessions import Conversation, SessionFile

__all__ = ["chat"]

MODEL = "smollm2"


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Load this model; see `transom models`. "
            f"[default: that of the session, or {MODEL}]",
        ),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=named, help="Keep the conversation in FILE, and go on from it."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Choose what to keep; see `transom policies`. "
            f"[default: that of the session, or {Sinks()}]",
        ),
    ] = None,
    dtype: DTYPE = None,
    device: DEVICE = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Begin with this system prompt.")
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="T",
            parser=number,
            help="Sample at this temperature; 0 takes the likeliest token.",
        ),
    ] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            parser=number,
            help="Sample only from the likeliest tokens that together have probability P.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(0),
            help="Seed sampling: the same N gives the same answers.",
        ),
    ] = None,
    max_new_tokens: MAX_NEW_TOKENS = 512,
) -> None:
    """Chat with a model, for as long as you like, in a fixed window.

    With --session, FILE has the conversation after every turn, and the next run goes on from it.
    Answers go to standard output, everything else to standard error. If standard input is not a
    terminal, each of its lines is a question. Type /help for the commands of a conversation.
    """
    if sys.stdin is None:
        raise InputError("cannot read standard input: it is closed; expected questions there.")
    check_placement(dtype, device)
    settings = _settings(temperature, top_p, seed, max_new_tokens)
    expected = None if policy is None else str(parse(policy))
    file = None if session is None else SessionFile(session)
    repl = ChatRepl(_conversation(model, file, expected, system, dtype, device), settings)
    repl.introduce()
    ended = repl.at_terminal() if repl.typed else repl.through(_piped_questions())
    repl.close()
    if not ended:
        raise typer.Exit(INTERRUPTED)


def _settings(
    temperature: float, top_p: float | None, seed: int | None, max_new_tokens: int
) -> AskSettings:
    """The keyword arguments of `Conversation.ask`, after a check that they make sense."""
    require_torch()
    import torch

    from transom.sampling import Sampler

    Sampler(temperature=temperature, top_p=top_p, seed=seed).start(torch.device("cpu"))
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }


def _conversation(
    model: str | None,
    session: SessionFile | None,
    policy: str | None,
    system: str | None,
    dtype: str | None,
    device: str | None,
) -> Conversation:
    """A new conversation, or the one in the session file."""
    from transom.context import Context  # here, so that the terminal starts without torch

    saved = None if session is None else session.note
    name = model if model is not None else (saved or {}).get("model", MODEL)
    if saved and saved["turns"] and system not in (None, saved["system"]):
        raise StateError(
            f"{session and session.path} was saved with something else: the system prompt "
            f"{saved['system']!r} (here {system!r}). Expected the same, or none given."
        )
    if sys.stdin.isatty():
        print(f"loading {name} ...", file=sys.stderr)
    dtype = dtype or (saved or {}).get("dtype")
    loaded = load(name, dtype, device)
    if session is not None and saved is not None:
        context = session.load(loaded, policy)
        system = system if system is not None else saved.get("system")
    else:
        context = Context(loaded.model, loaded.tokenizer, policy or Sinks())
    return Conversation(context, _absolute(name), dtype=dtype, system=system, session=session)


def _absolute(name: str) -> str:
    """The name of a model, made absolute if it is a path, so that it works from other folders."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in ALIASES and path.exists() else name


def _piped_questions() -> Iterator[str]:
    """The lines of standard input that are not blank."""
    for at, line in enumerate(sys.stdin.buffer, 1):
        try:
            question = line.decode("utf-8-sig" if at == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(
                f"line {at:,} of standard input is not UTF-8 text (byte "
                f"{line[error.start]:#04x}); convert it first, e.g. with iconv -t UTF-8."
            ) from error
        if question:
            yield question
