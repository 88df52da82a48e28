"""Choosing the next token from the model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from transom.errors import InputError
from transom.validation import known_keywords, whole_number

__all__ = ["Sampler", "Sampling", "UnseededSampling", "end_tokens"]

COLDEST = 1e-30  # The likeliest token is all but certain here, and logits are not yet infinite.
HUGE = 1e30


class UnseededSampling(TypedDict, total=False):
    """The settings of a `Sampler` but for its seed."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None


class Sampling(UnseededSampling, total=False):
    """The settings of a `Sampler`."""

    seed: int | None


@known_keywords
@dataclass(frozen=True)
class Sampler:
    """How to choose; the defaults choose the most likely token every time.

    Attributes:
        temperature: 0 for the most likely token; otherwise logits are divided by it.
        top_k, top_p, min_p: keep the k likeliest tokens; the likeliest that together have
            probability p; those at least p times as likely as the likeliest.
        repetition_penalty: divides the logits of tokens generated before in this call.
        seed: gives the same text each time; None gives a different one.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is None and name != "temperature":
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not abs(value) < HUGE:  # neither NaN nor infinity
                raise InputError(f"{name} is {value!r:.40}; expected a number.")
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature!r}; expected 0 or more.")
        if self.top_k is not None:
            whole_number("Sampler", "top_k", self.top_k, 1)
        if not (self.seed is None or (_is_whole(self.seed) and 0 <= self.seed < 2**63)):
            raise InputError(
                f"seed is {self.seed!r}; expected a whole number from 0 to 2**63 - 1, or None."
            )
        filters = (self.top_k, self.top_p, self.min_p)
        if self.temperature == 0 and any(value is not None for value in filters):
            raise InputError(
                "top_k, top_p and min_p choose among likely tokens, but temperature is 0, which "
                "always takes the likeliest; give a temperature above 0."
            )

    def start(self, device: torch.device) -> Draw:
        """Begin one generation."""
        processors = LogitsProcessorList()
        try:
            if self.repetition_penalty is not None:
                processors.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
            if self.temperature:
                processors.append(TemperatureLogitsWarper(max(float(self.temperature), COLDEST)))
            if self.top_k is not None:
                processors.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None:
                processors.append(TopPLogitsWarper(self.top_p))
            if self.min_p is not None:
                processors.append(MinPLogitsWarper(self.min_p))
        except ValueError as error:
            raise InputError(str(error)) from error
        generator = None
        if self.seed is not None:
            generator = torch.Generator(device).manual_seed(int(self.seed))
        return Draw(processors, generator, greedy=self.temperature == 0)


@dataclass(frozen=True)
class Draw:
    """One generation under way."""

    processors: LogitsProcessorList
    generator: torch.Generator | None
    greedy: bool

    def __call__(self, logits: Tensor, generated: Sequence[int]) -> int:
        """The next token id, given `(vocabulary,)` logits and what was generated before."""
        history = torch.tensor([list(generated)], dtype=torch.long, device=logits.device)
        scores: Tensor = self.processors(history, logits[None].float())[0]  # type: ignore[arg-type]
        if self.greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@known_keywords
def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a generation: the model's generation settings, else the tokenizer's."""
    settings = getattr(model, "generation_config", None) or model.config
    ends = tokenizer.eos_token_id if settings.eos_token_id is None else settings.eos_token_id
    return set() if ends is None else set(ends if isinstance(ends, list) else [ends])
