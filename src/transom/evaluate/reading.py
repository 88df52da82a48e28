"""Reading a text through a context: its speed, its bytes, and the loss of each stretch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transom.chat import Turns
from transom.evaluate.facts import shape_of
from transom.evaluate.losses import LossCurve, Stretch
from transom.evaluate.rss import peak_rss, reset_peak_rss
from transom.policies import kv_bytes_bound
from transom.validation import known_keywords

if TYPE_CHECKING:
    from transom.context import Context

__all__ = ["Progress", "ReadingResult", "passes", "read"]

COLUMNS = 8  # stretches that a table has room for
RECENT = 1024  # tokens that the running loss is averaged over


class Progress(NamedTuple):
    """How far a reading is; `loss` is the mean of the last 1,024 tokens, in nats."""

    tokens: int
    total: int
    tokens_per_second: float
    kv_bytes: int
    loss: float


@known_keywords
@dataclass(frozen=True)
class ReadingResult:
    """The figures of a text read under one policy.

    Attributes:
        policy: the policy's text.
        curve: the loss along the text.
        kept, dropped: tokens still visible at the end, and no longer visible.
        tokens_per_second: of the reading alone, without the answer.
        kv_bytes_peak: the most bytes allocated for keys and values in the cache.
        kv_bytes_bound: the most the policy allows on this model; None without a bound.
        total_bytes_peak: the most bytes in the cache together with the blocks outside it that can
            be recalled.
        rss_peak: the most memory the process held meanwhile, in bytes; None if unknown.
        answer: the answer to the question asked afterwards; None if there was none.
    """

    policy: str
    curve: LossCurve
    kept: int
    dropped: int
    tokens_per_second: float
    kv_bytes_peak: int
    kv_bytes_bound: int | None
    total_bytes_peak: int
    rss_peak: int | None
    answer: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self.curve.tokens

    @property
    def loss(self) -> float:
        """Mean loss over the text, in nats per token; NaN when nothing was scored."""
        return self.curve.mean

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; infinite where that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The loss along the text, in as many equal stretches as a table has room for."""
        return self.curve.stretches(self.curve.length(COLUMNS))

    def to_json(self) -> dict[str, object]:
        """The run as JSON values; null stands for what is unknown, NaN or infinite."""
        return {
            "policy": self.policy,
            "tokens": self.tokens,
            "kept": self.kept,
            "dropped": self.dropped,
            "loss": _finite(self.loss),
            "perplexity": _finite(self.perplexity),
            "stretches": [
                {"start": start, "stop": stop, "loss": _finite(loss)}
                for start, stop, loss in self.stretches
            ],
            "tokens_per_second": _finite(self.tokens_per_second),
            "kv_bytes_peak": self.kv_bytes_peak,
            "kv_bytes_bound": self.kv_bytes_bound,
            "total_bytes_peak": self.total_bytes_peak,
            "rss_peak": self.rss_peak,
            "answer": self.answer,
        }


@known_keywords
def read(
    context: Context,
    ids: Sequence[int] | NDArray[np.integer],
    *,
    ask: str | None = None,
    max_new_tokens: int = 128,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ReadingResult:
    """Append `ids` to a fresh context, scoring and timing them, then ask about them.

    Args:
        ids: token ids, a list or a 1-D array.
        ask: a question, put through the model's chat template if it has one; the answer has at
            most `max_new_tokens` tokens.
        on_progress: called after every slice of `context.chunk` tokens.
        stop: asked before every slice and every piece of the answer. Once it is true the run ends
            with the figures so far.
    """
    reset_peak_rss()
    curve = LossCurve()
    recent: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    seconds = 0.0
    kv_bytes_peak = total_bytes_peak = 0
    for losses, took in passes(context, ids, stop):
        seconds += took
        curve.add(losses)
        usage = context.usage
        kv_bytes_peak = max(kv_bytes_peak, usage.kv_bytes)
        total_bytes_peak = max(total_bytes_peak, usage.total_bytes)
        recent = np.append(recent, losses[~np.isnan(losses)])[-RECENT:]
        if on_progress is not None:
            loss = float(recent.mean()) if len(recent) else math.nan
            speed = curve.tokens / seconds
            on_progress(Progress(curve.tokens, len(ids), speed, usage.kv_bytes, loss))
    usage = context.usage
    answer = None if ask is None or stop() else _answer(context, ask, max_new_tokens, stop)
    return ReadingResult(
        policy=str(context.policy),
        curve=curve,
        kept=usage.kept,
        dropped=usage.dropped,
        tokens_per_second=curve.tokens / seconds if seconds else 0.0,
        kv_bytes_peak=kv_bytes_peak,
        kv_bytes_bound=_bound(context),
        total_bytes_peak=total_bytes_peak,
        rss_peak=peak_rss(),
        answer=answer,
    )


def passes(
    context: Context, ids: Sequence[int] | NDArray[np.integer], stop: Callable[[], bool]
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Score `ids` in slices of `context.chunk`; gives the losses and the seconds of each slice.

    Ends before the next slice once `stop` is true.
    """
    for start in range(0, len(ids), context.chunk):
        if stop():
            return
        began = perf_counter()
        losses = context.score(ids[start : start + context.chunk])
        yield losses, perf_counter() - began


def _answer(context: Context, ask: str, max_new_tokens: int, stop: Callable[[], bool]) -> str:
    prompt = f"\n\nQuestion: {ask}\nAnswer:"
    if getattr(context.tokenizer, "chat_template", None):
        # As text: no message follows, so the template is free to change earlier turns.
        prompt = Turns(context.tokenizer).whole([{"role": "user", "content": ask}], reply=True)
    answer = ""
    for piece in context.generate(prompt, max_new_tokens=max_new_tokens, stream=True):
        answer += piece
        if stop():
            break
    return answer.strip()


def _bound(context: Context) -> int | None:
    if not context.cache.is_bounded_throughout:
        return None  # layers that the model bounds itself are not in the policy's arithmetic
    return kv_bytes_bound(context.policy, shape_of(context.model))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
