"""Generated tokens one by one, each with its text, its probability and why it was the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from transom.context.runner import Incoming, ModelRunner
from transom.context.stop import StopFinder
from transom.errors import CacheError
from transom.sampling import Draw, end_tokens
from transom.tokens.pieces import Detokenizer

__all__ = ["Step", "steps_from"]


class Step(NamedTuple):
    """One generated token.

    Attributes:
        token: its id. The last one may be a token that ends the text, which has no text itself.
        text: the text that became certain with it. It is empty while a character is incomplete, or
            while it may be the start of a stop string; what was held back comes with a later token.
        finish_reason: None but for the last step: `"stop"` when the model ended or a stop string
            was found, `"length"` when there were as many tokens as allowed.
        logprob: natural logarithm of the probability that the model gave it, before temperature,
            penalty and filters; the negative of its loss in `Context.score`.
    """

    token: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprob: float


def steps_from(
    runner: ModelRunner, tokenizer: Any, draw: Draw, stops: Sequence[str], longest: int
) -> Iterator[Step]:
    """Steps from where the runner stands now.

    Each token is fed before its step is given out; but a token that ends an answer to chat
    messages is not, because the chat template says what closes an answer.

    Args:
        stops: stop strings. One that is a special token of the tokenizer ends the text as the
            model's own end tokens do.
        longest: the most tokens.

    Raises:
        CacheError: when the runner is fed, cropped or reset by anyone else in between.
    """
    special = _special_tokens(tokenizer)
    ends = end_tokens(runner.model, tokenizer) | {special[x] for x in stops if x in special}
    finder = StopFinder([stop for stop in stops if stop not in special])
    return _steps(runner, draw, ends, Detokenizer(tokenizer), finder, longest, runner.cache.seen)


def _steps(
    runner: ModelRunner,
    draw: Draw,
    ends: set[int],
    detokenizer: Detokenizer,
    finder: StopFinder,
    longest: int,
    seen: int,
) -> Iterator[Step]:
    generated: list[int] = []
    while len(generated) < longest:
        with runner.exclusive():
            if runner.logits is None or runner.cache.seen != seen + len(generated):
                raise CacheError(
                    "the context was fed, trimmed or reset while it was generating; finish or drop "
                    "a stream before going on, or fork() the context for it."
                )
            logits = runner.logits
            token = draw(logits, generated)
            logprob = _logprob(logits, token)
            if token in ends and runner.dialogue.answering:
                runner.dialogue = runner.dialogue.ended(token)
            else:
                _feed(runner, token)
        generated.append(token)
        text = finder.push("" if token in ends else detokenizer.push(token))
        ended = token in ends or finder.found
        if ended or len(generated) == longest:
            text += finder.push(detokenizer.finish()) + finder.finish()
            ended |= finder.found
            yield Step(token, text, "stop" if ended else "length", logprob)
            return
        yield Step(token, text, None, logprob)


def _feed(runner: ModelRunner, token: int) -> None:
    """Feed a token; the dialogue stays where it is."""
    runner.feed(Incoming([runner.ids([token])], runner.dialogue, plain=False))


def _logprob(logits: Tensor, token: int) -> float:
    logits = logits.float()
    return float(logits[token] - logits.logsumexp(0))


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """The tokens that the text of generated ids leaves out."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token.content: index for index, token in added.items() if token.special}
