"""The half of a context that generates: as one text, as a stream, or step by step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Unpack, overload

from transom.context.content import Content, ContentEncoder
from transom.context.model import CausalLM
from transom.context.runner import ModelRunner
from transom.context.steps import Step, steps_from
from transom.context.stop import as_stops
from transom.errors import InputError
from transom.kv import BoundedCache
from transom.policies import Policy
from transom.sampling import Sampler, Sampling
from transom.validation import check_keywords, whole_number

__all__ = ["GeneratingContext"]


class GeneratingContext:
    """The parts of a context, and how it generates with them; `Context` adds the rest.

    Attributes:
        tokenizer: of the model; None where only ids are appended.
        chunk: tokens per forward pass.
    """

    tokenizer: Any
    chunk: int
    _runner: ModelRunner

    @property
    def model(self) -> CausalLM:
        """The model."""
        return self._runner.model

    @property
    def cache(self) -> BoundedCache:
        """The keys and values that are kept."""
        return self._runner.cache

    @property
    def policy(self) -> Policy:
        """What is kept; a size that was given in bytes is in tokens."""
        return self.cache.policy

    @property
    def unfinished(self) -> bool:
        """Whether the newest tokens are an answer that the model has not ended."""
        return self._runner.dialogue.unfinished

    @property
    def _encoder(self) -> ContentEncoder:
        return ContentEncoder(self._runner, self.tokenizer, self.chunk)

    @overload
    def generate(
        self,
        prompt: Content | None = ...,
        *,
        max_new_tokens: int = ...,
        stop: str | Sequence[str] | None = ...,
        continue_final_message: bool = ...,
        stream: Literal[False] = ...,
        **sampling: Unpack[Sampling],
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: Content | None = ...,
        *,
        max_new_tokens: int = ...,
        stop: str | Sequence[str] | None = ...,
        continue_final_message: bool = ...,
        stream: Literal[True],
        **sampling: Unpack[Sampling],
    ) -> Iterator[str]: ...

    def generate(
        self,
        prompt: Content | None = None,
        *,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] | None = None,
        continue_final_message: bool = False,
        stream: bool = False,
        **sampling: Unpack[Sampling],
    ) -> str | Iterator[str]:
        """Continue the context, after appending `prompt` if there is one.

        The generated tokens become part of the context. After chat messages the model answers them,
        whether they are the prompt or were appended; without either it goes on with an answer that
        `max_new_tokens` has cut short. `steps` gives the same token by token, and says why it
        ended.

        Args:
            max_new_tokens: where to stop if the model does not end by itself.
            stop: texts that end what is generated, wherever tokens begin and end. The text ends
                before the first of them; but the tokens that spelled it are in the context.
            continue_final_message: the last message of `prompt` is the start of the model's own
                answer, which goes on from there; what is given back is what follows.
            stream: give an iterator over pieces of text as they come, instead of all of it.
            sampling: `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `seed`; see
                `transom.sampling.Sampler`. By default always the likeliest token.

        Raises:
            InputError: without a tokenizer, in an empty context, or on unknown settings.
            CacheError: as for `append`; from a stream also when the context is fed in between.
        """
        steps = self._steps(
            "generate", ("stream",), prompt, max_new_tokens, stop, continue_final_message, sampling
        )
        text = (step.text for step in steps if step.text)
        return text if stream else "".join(text)

    def steps(
        self,
        prompt: Content | None = None,
        *,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] | None = None,
        continue_final_message: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Step]:
        """Generate as `generate` does, and give every token as a `Step` as it comes.

        The prompt is fed at once, and each token before its step is given out. The last step has a
        `finish_reason`; there is none at all if `max_new_tokens` is 0.

        Args:
            max_new_tokens, stop, continue_final_message, sampling: see `generate`.

        Raises:
            InputError, CacheError: as `generate` does.
        """
        return self._steps(
            "steps", (), prompt, max_new_tokens, stop, continue_final_message, sampling
        )

    def _steps(
        self,
        owner: str,
        others: tuple[str, ...],
        prompt: Content | None,
        max_new_tokens: int,
        stop: str | Sequence[str] | None,
        continues: bool,
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Steps for the method `owner`, which takes `others` besides the parameters here."""
        if self.tokenizer is None:
            raise InputError(f"{owner} gives text, so it needs a tokenizer; pass one to Context.")
        known = ["prompt", "max_new_tokens", "stop", "continue_final_message", *others]
        check_keywords(owner, sampling, [*known, *inspect.signature(Sampler).parameters])
        longest = whole_number(owner, "max_new_tokens", max_new_tokens, 0)
        stops = as_stops(owner, stop)
        draw = Sampler(**sampling).start(self._runner.device)
        with self._runner.exclusive():
            encode = self._encoder.begun_answer if continues else self._encoder.prompt
            self._runner.feed(encode(prompt))
            return steps_from(self._runner, self.tokenizer, draw, stops, longest)
