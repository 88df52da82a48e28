"""One text, read under several policies one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from transom.cli.interrupt import Interrupt
from transom.cli.progress import ProgressBars
from transom.errors import InputError
from transom.evaluate import Progress, ReadingResult, read
from transom.policies import Policy
from transom.units import plain_size

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """A text, and the results of reading it under each policy.

    Attributes:
        model: the name it was loaded by.
        characters, tokens: of the text, after `limit`.
        trained_length: tokens that the model was trained on; None if the model does not say.
        runs: in the order of the policies. There are fewer after an interrupt.
        interrupted: whether Ctrl-C ended the reading early.
    """

    model: str
    characters: int
    tokens: int
    trained_length: int | None
    runs: tuple[ReadingResult, ...]
    interrupted: bool

    def to_json(self) -> dict[str, object]:
        """All figures as JSON values."""
        return {
            "model": self.model,
            "text": {"characters": self.characters, "tokens": self.tokens},
            "runs": [run.to_json() for run in self.runs],
        }


def _show(move: Callable[[int, str], None], progress: Progress) -> None:
    speed, size = f"{progress.tokens_per_second:,.0f} tok/s", plain_size(progress.kv_bytes)
    move(progress.tokens, f"{speed}  KV {size}  loss {progress.loss:.2f}")


def compare(
    loaded: Loaded,
    text: str,
    policies: Sequence[Policy],
    *,
    limit: int | None = None,
    ask: str | None = None,
    chunk: int = 512,
    max_new_tokens: int = 128,
) -> Comparison:
    """Read `text`, or its first `limit` tokens, under each policy. Show progress; stop on Ctrl-C.

    Raises:
        InputError: when the text has no tokens.
        UnsupportedModelError: when the model cannot follow one of the policies.
    """
    from transom.context import Context  # here, so that the terminal starts without torch

    # All contexts are made before the first reading, so that a mistake is refused at once.
    waiting = [Context(loaded.model, loaded.tokenizer, policy, chunk=chunk) for policy in policies]
    ids = np.array(waiting[0].encode(text), dtype=np.int32)
    characters = len(text)
    if limit is not None and limit < len(ids):
        ids = ids[:limit]
        characters = len(loaded.tokenizer.decode(ids, skip_special_tokens=True))
    if not len(ids):
        raise InputError("the tokenizer made no tokens of the text; expected at least one.")
    runs = []
    bars = ProgressBars(remaining=True)
    with bars, Interrupt(bars.stopping) as interrupt:
        while waiting and not interrupt.requested:
            context = waiting.pop(0)  # so that its memory is free for the next one
            run = read(
                context,
                ids,
                ask=ask,
                max_new_tokens=max_new_tokens,
                on_progress=partial(_show, bars.start(str(context.policy), len(ids))),
                stop=lambda: interrupt.requested,
            )
            if run.tokens:
                runs.append(run)
    if interrupt.requested:
        print("interrupted; the figures so far:", file=sys.stderr)
    config = loaded.model.config.get_text_config(decoder=True)
    return Comparison(
        model=loaded.name,
        characters=characters,
        tokens=len(ids),
        trained_length=getattr(config, "max_position_embeddings", None),
        runs=tuple(runs),
        interrupted=interrupt.requested,
    )
