"""A model and its bounded cache, fed one chunk of token ids after the other."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from transom.attention.modes import lasting
from transom.attention.versions import cache_argument
from transom.chat import Dialogue
from transom.context.call_lock import CallLock
from transom.context.model import (
    CausalLM,
    can_skip_logits,
    device_of,
    logits_of,
    vocabulary_of,
)
from transom.errors import CacheError
from transom.kv import BoundedCache
from transom.kv.compiled import CompiledStep
from transom.tokens import as_ids
from transom.validation import IdsLike

__all__ = ["REBASE_AT", "Incoming", "ModelRunner"]

REBASE_AT = 8192  # positions beyond which float32 angles are worth refreshing


class Incoming(NamedTuple):
    """Token ids to be fed.

    Attributes:
        chunks: of ids, `(tokens,)` each.
        after: where the dialogue stands once they are fed.
        plain: they are not chat messages. Messages close an answer before them by themselves, as
            the chat template says; before plain text the end token of the answer has to be fed.
    """

    chunks: Iterable[Tensor]
    after: Dialogue
    plain: bool


class ModelRunner:
    """Feeds a model through its bounded cache, so that each call succeeds or changes nothing.

    Where a failed call cannot be undone exactly, the runner is halted: it refuses everything but
    `reset` from then on.

    Args:
        compile: run single-token steps through `torch.compile`.

    Attributes:
        logits: `(vocabulary,)`, the model's prediction of the next token; None where it is unknown.
        dialogue: where the conversation stands.
        halted: a call stopped half-way and could not be undone.

    Raises:
        UnsupportedModelError: when the model cannot be compiled.
    """

    def __init__(self, model: CausalLM, cache: BoundedCache, *, compile: bool = False) -> None:
        self.model = model
        self.cache = cache
        self.logits: Tensor | None = None
        self.dialogue = Dialogue()
        self.halted = False
        self._compiled = CompiledStep(model, cache) if compile else None
        self._last_only = {"logits_to_keep": 1} if can_skip_logits(model) else {}
        self._cache_argument = cache_argument(model)
        self._calls = CallLock()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return device_of(self.model)

    @property
    def position(self) -> int:
        """Rotary position of the next token."""
        return self.cache.next_position

    def ids(self, ids: IdsLike) -> Tensor:
        """`ids` as `(tokens,)` int64 on the model's device.

        Raises:
            InputError: when they are not ids of the model's vocabulary.
        """
        return torch.from_numpy(as_ids(ids, vocabulary_of(self.model))).to(self.device)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While open, no other thread can use the runner.

        Raises:
            CacheError: when another thread is using it, or when it is halted.
        """
        with self._calls:
            if self.halted:
                raise CacheError(
                    "an earlier call stopped half-way (an interrupt or an error) and could not be "
                    "undone exactly. Call reset() and feed the text again, or go on from an "
                    "earlier fork or saved state. Next time, fork() before a call that may be "
                    "interrupted."
                )
            yield

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo everything when something raises inside; halt if that cannot be done exactly."""
        with self.exclusive():
            cache = self.cache
            before = cache.seen, cache.planner.base
            kept = self.logits, self.dialogue
            self.halted = True
            try:
                yield
            except BaseException:
                if cache.go_back(*before):
                    self.logits, self.dialogue = kept
                    self.halted = False
                raise
            self.halted = False

    def feed(self, incoming: Incoming) -> int:
        """Feed all chunks or none; returns how many tokens these were."""
        count = 0
        with self.all_or_nothing():
            for chunk in self.each(incoming):
                self.forward(chunk)
                count += len(chunk)
        return count

    def each(self, incoming: Incoming) -> Iterator[Tensor]:
        """The chunks, for the caller to feed one by one; keeps the dialogue up to date."""
        for chunk in incoming.chunks:
            if incoming.plain and self.dialogue.end is not None:
                self.forward(self.ids([self.dialogue.end]))
            yield chunk
            self.dialogue = incoming.after

    @lasting
    @torch.no_grad()
    def forward(self, ids: Tensor, *, every: bool = False) -> Tensor:
        """Run the model on `(tokens,)` ids. Mutates the cache and `logits`.

        Args:
            every: return the logits of every token. Otherwise only those of the last one, if the
                model can leave out the others.

        Returns:
            Logits, `(tokens, vocabulary)` or `(1, vocabulary)`.

        Raises:
            UnsupportedModelError: when the model has no head for language.
        """
        self._rebase(len(ids))
        start = self.position
        logits: Tensor
        if self._compiled is not None and len(ids) == 1 and self._compiled.ready:
            logits = self._compiled(ids, start)
        else:
            output = self.model(
                input_ids=ids[None],
                position_ids=torch.arange(start, start + len(ids), device=ids.device)[None],
                use_cache=True,
                **{self._cache_argument: self.cache},
                **({} if every else self._last_only),
            )
            logits = logits_of(self.model, output)
        self.logits = logits[-1].clone()
        return logits

    def fork(self) -> ModelRunner:
        """An independent runner that goes on from here, with a fork of the cache."""
        with self.exclusive():
            twin = copy.copy(self)
            twin.cache = self.cache.fork()
            twin._calls = CallLock()
            if self._compiled is not None:
                twin._compiled = CompiledStep(self.model, twin.cache)
            return twin

    def crop(self, tokens: int) -> None:
        """Remove the newest tokens, so that the first `tokens` seen are left.

        Raises:
            CacheError: when that would not be exact; nothing is changed then.
        """
        with self.exclusive():
            self.halted = True
            try:
                self.cache.crop(tokens - self.cache.seen)
            except CacheError:  # which changes nothing
                self.halted = False
                raise
            self.logits, self.dialogue = None, self.dialogue.cut(tokens)
            self.halted = False

    def reset(self) -> None:
        """Forget everything; the memory stays allocated."""
        with self._calls:
            self.halted = True
            self.cache.reset()
            self.logits, self.dialogue = None, Dialogue()
            self.halted = False

    def _rebase(self, tokens: int) -> None:
        """Keep positions small, where the model's float32 angles are accurate, and in its limit.

        Does nothing for a model that scales queries by their true position.
        """
        cache, capacity = self.cache, self.cache.policy.capacity
        absolute = cache.positions == "absolute"
        if capacity is None or absolute or not cache.is_bounded_throughout:
            return
        if cache.scales_by_position:
            return
        position = self.position
        most = max(REBASE_AT, 4 * capacity)
        if cache.position_limit is not None:
            most = min(most, cache.position_limit)
        if position + tokens > most and position > capacity:
            cache.rebase(position - capacity)
