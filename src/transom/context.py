"""One model, one policy, one cache: text of any length in bounded memory."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
import torch
from torch import Tensor

from transom import models
from transom.attention.versions import cache_argument
from transom.chat import Message, Turns
from transom.checks import whole_number
from transom.errors import InputError, StateError
from transom.kv import BoundedCache
from transom.kv.compiled import CompiledStep
from transom.kv.rows import Positions
from transom.policies import Policy, Sinks, parse
from transom.sampling import Sampler, end_tokens
from transom.scoring import by_windows, losses
from transom.state import differences, fingerprint, read_state, write_state
from transom.tokens import as_ids, pieces
from transom.tokens.whole import as_whole, in_chunks, text_pieces
from transom.windows import SlidingWindow

__all__ = ["Context", "Usage"]

REBASE_AT = 8192  # positions beyond which float32 angles are worth refreshing


class Usage(NamedTuple):
    """Where a context stands.

    Attributes:
        seen: tokens fed so far.
        kept: tokens still visible.
        dropped: tokens that no longer are.
        kv_bytes: bytes allocated for keys and values.
        position: rotary position that the next token gets.
        cold_bytes: bytes of what can be recalled, which is in no forward pass; grows with the text.
    """

    seen: int
    kept: int
    dropped: int
    kv_bytes: int
    position: int
    cold_bytes: int = 0


class Context:
    """A model's context, kept inside the budget of a policy however much is appended.

    Tokens are fed in chunks and every token sees exactly what the policy says, so the result does
    not depend on how the text was cut up. Several contexts can share one model.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer; not needed when only ids are appended.
        policy: what to keep, as a policy or its text.
        positions: see `BoundedCache`.
        chunk: tokens per forward pass; larger is faster and takes more scratch memory.
        compile: run single-token steps through `torch.compile`, once for all of them.
        cold: see `BoundedCache`.

    Attributes:
        note: what was saved beside the state that this was loaded from; otherwise empty.

    Raises:
        UnsupportedModelError: when the model cannot be bounded, or not be compiled.
        PolicyError: on a policy text that makes no sense.
        InputError: on a chunk below 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        policy: Policy | str = Sinks(),  # noqa: B008 - frozen, so sharing the default is safe
        *,
        positions: Positions = "compact",
        chunk: int = 512,
        compile: bool = False,
        cold: Path | str | None = None,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk is {chunk}; expected at least 1 token per forward pass.")
        self.model = model
        self.tokenizer = tokenizer
        policy = parse(policy) if isinstance(policy, str) else policy
        self.chunk = chunk
        self.cache = BoundedCache(policy, config=model.config, positions=positions, cold=cold)
        self.policy = self.cache.policy
        self._compiled = CompiledStep(model, self.cache) if compile else None
        self._last_only = (
            {"logits_to_keep": 1}
            if "logits_to_keep" in inspect.signature(model.forward).parameters
            else {}
        )
        self._cache_argument = cache_argument(model)
        self.note: dict[str, Any] = {}
        self._logits: Tensor | None = None
        self._conversing = False
        self._reply: Literal["open", "ended"] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        policy: Policy | str = Sinks(),  # noqa: B008
        *,
        positions: Positions = "compact",
        chunk: int = 512,
        compile: bool = False,
        cold: Path | str | None = None,
        **kwargs: Any,
    ) -> Context:
        """Load a model and its tokenizer and give them a context.

        Args:
            name: `"smollm2"`, a hub id or a local folder; see `transom.models.load`, which also
                takes the remaining arguments.

        Raises:
            ModelNotFoundError: when the name resolves to nothing that can be loaded.
        """
        loaded = models.load(name, **kwargs)
        return cls(
            loaded.model,
            loaded.tokenizer,
            policy,
            positions=positions,
            chunk=chunk,
            compile=compile,
            cold=cold,
        )

    @property
    def usage(self) -> Usage:
        """Tokens seen, kept and dropped, bytes held, the next position, bytes in cold storage."""
        cache = self.cache
        position = cache.seen - cache.slots.base
        return Usage(
            cache.seen, cache.kept, cache.dropped, cache.nbytes, position, cache.cold_nbytes
        )

    @property
    def unfinished(self) -> bool:
        """Whether the newest thing here is an answer to messages that the model has not ended."""
        return self._reply == "open"

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as the next thing in this context.

        Special tokens that the tokenizer puts before a text are added only at the very start.
        """
        return self._encode(text, special=self.cache.seen == 0)

    def append(self, content: str | Iterator[str] | Sequence[int] | Sequence[Message] | Any) -> int:
        """Feed text, token ids or chat messages; returns how many tokens that was.

        Text may come in pieces, from an iterator such as an open file or a generator; they are
        tokenized as the one text that they are, a stretch at a time. What one call appends is
        tokenized by itself: ids that a model has been fed cannot be taken back for what a later
        call brings. Ids may be a list, a range, or a 1-D numpy array or torch tensor. Messages are
        `{"role": ..., "content": ...}` and go through the model's chat template.

        Raises:
            InputError: when the content is none of these; nothing has been fed then, but for the
                pieces before one that is no text.
        """
        pieces, content = text_pieces(content)
        if pieces is not None:
            count = 0
            for chunk in in_chunks(as_whole(pieces, self.encode, self.tokenizer), self.chunk):
                self._feed(self._ids(chunk, reply=False))
                count += len(chunk)
            return count
        ids = self._ids(content, reply=False)
        self._feed(ids)
        return len(ids)

    def score(
        self, content: str | Sequence[int] | Any, *, window: SlidingWindow | None = None
    ) -> np.ndarray:
        """Append, and say how surprising each token was.

        Scoring a text piece by piece gives the same as scoring it at once.

        With `window`, nothing is appended. The text is read as one by itself, in windows of these
        settings that each start from nothing, and every token counts in the first window it is in:
        perplexity by sliding window, `exp(nanmean(losses))`. It takes `window_size / stride` times
        as long as reading the text once, and each token has at least `overlap` before it.

        Args:
            content: text or token ids.
            window: how to cut; what it holds is neither used nor changed.

        Returns:
            `(tokens,)` float32: negative log-likelihood in nats of each token given what the policy
            let it see, or what was before it in its window. NaN for the first token, which nothing
            predicts, and for what a window with `drop_last` leaves out.

        Raises:
            InputError: when the content cannot be used, or a window is larger than what the
                policy lets be seen.
        """
        if window is not None:
            return self._score_by(window, content)
        scored = []
        for chunk in self._chunks(self._ids(content, reply=False)):
            before = self._logits
            logits = self._forward(chunk, every=True)
            self._logits = logits[-1].clone()
            unknown = torch.full((1,), torch.nan, device=chunk.device)
            scored.append(losses(before[None], chunk[:1]) if before is not None else unknown)
            if len(chunk) > 1:
                scored.append(losses(logits[:-1], chunk[1:]))
        return torch.cat(scored).cpu().numpy() if scored else np.empty(0, dtype=np.float32)

    @overload
    def generate(
        self,
        prompt: str | Sequence[int] | Sequence[Message] | None = ...,
        *,
        max_new_tokens: int = ...,
        stream: Literal[False] = ...,
        **sampling: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str | Sequence[int] | Sequence[Message] | None = ...,
        *,
        max_new_tokens: int = ...,
        stream: Literal[True],
        **sampling: Any,
    ) -> Iterator[str]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | Sequence[Message] | None = None,
        *,
        max_new_tokens: int = 256,
        stream: bool = False,
        **sampling: Any,
    ) -> str | Iterator[str]:
        """Continue the context, after appending `prompt` if there is one.

        What is generated becomes part of the context. After chat messages the model answers them;
        without a prompt it goes on with an answer that `max_new_tokens` has cut short.

        Args:
            max_new_tokens: where to stop if the model does not end by itself.
            stream: give an iterator over pieces of text as they come, instead of all of it.
            sampling: `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `seed`; see
                `transom.sampling.Sampler`. By default always the likeliest token.

        Raises:
            InputError: without a tokenizer, in an empty context, or on unknown settings.
        """
        if self.tokenizer is None:
            raise InputError("generate gives text, so it needs a tokenizer; pass one to Context.")
        unknown = sampling.keys() - inspect.signature(Sampler).parameters.keys()
        if unknown:
            known = ", ".join(inspect.signature(Sampler).parameters)
            raise InputError(f"unknown settings {sorted(unknown)}; known: {known}.")
        sampler = Sampler(**sampling)
        ids = self._ids(prompt, reply=True) if prompt is not None else torch.empty(0)
        if self.cache.seen + len(ids) == 0:
            raise InputError("the context is empty, so nothing can be continued; append first.")
        if self._logits is None and not len(ids):
            raise InputError(
                "the newest tokens were trimmed, so what comes next is not known; append first."
            )
        replies = self.unfinished if prompt is None else _are_messages(prompt)
        self._feed(ids)
        text = pieces(self.tokenizer, self._sample(sampler, max_new_tokens, replies))
        return text if stream else "".join(text)

    def fork(self) -> Context:
        """An independent context that goes on from here.

        The model is shared, and so is what the cache holds, until one of the two appends.
        """
        twin = copy.copy(self)
        twin.cache = self.cache.fork()
        if self._compiled is not None:
            twin._compiled = CompiledStep(self.model, twin.cache)
        return twin

    def trim_to(self, tokens: int) -> None:
        """Drop the newest tokens, so that the first `tokens` seen are left.

        What is appended next goes on as if the others had never been there. What the model would
        have said next after the token that is now the newest is not known any more: append before
        generating (or fork before what may have to be taken back).

        Raises:
            InputError: when fewer tokens have been seen.
            CacheError: when it would not be exact, because the dropped tokens have evicted others,
                been rounded or had a say in the scores of others; nothing is changed then.
        """
        tokens = whole_number("trim_to", "tokens", tokens, 0)
        if tokens > self.cache.seen:
            raise InputError(f"cannot trim to {tokens} tokens; only {self.cache.seen} were seen.")
        if tokens < self.cache.seen:
            self.cache.crop(tokens - self.cache.seen)
            self._logits = None
            self._reply = None

    def save(self, path: Path | str, *, note: Mapping[str, Any] | None = None) -> int:
        """Write the context to a file, from which `load` goes on as if it had never stopped.

        The file holds keys, values and settings, not the model, and no pickled code; it is either
        written whole or not at all, and says when any of its bytes has changed.

        Args:
            note: anything of yours to keep beside the state, as JSON; becomes `self.note`, which
                is saved again from then on. By default the present one.

        Returns:
            The bytes of the file.

        Raises:
            InputError: when the note does not fit JSON.
            StateError: when it cannot be written there; what was there is unchanged.
        """
        if note is not None:
            self.note = _as_json(note)
        state = self.cache.state_dict()
        if self._logits is not None:
            state["logits"] = self._logits
        facts = {
            **fingerprint(self.model, self.tokenizer),
            "policy": str(self.policy),
            "positions": self.cache.slots.positions,
            "chunk": self.chunk,
            "conversing": self._conversing,
            "reply": self._reply,
            "note": self.note,
        }
        return write_state(path, state, facts)

    @classmethod
    def load(
        cls,
        path: Path | str,
        model: Any,
        tokenizer: Any = None,
        *,
        policy: Policy | str | None = None,
        compile: bool = False,
        cold: Path | str | None = None,
    ) -> Context:
        """A context as it was saved.

        Args:
            model: the model it was saved with, or the name of it (see `transom.models.load`).
            tokenizer: the tokenizer it was saved with; comes with the model if that is a name.
            policy: if given, the policy that is expected.
            cold: see `BoundedCache`; where cold blocks were when it was saved does not matter.

        Raises:
            StateError: when the file is damaged, or was saved with another model, other weights,
                another tokenizer or policy; the message names what differs.
        """
        state, facts = read_state(path)
        if isinstance(model, str):
            loaded = models.load(model)
            model, tokenizer = loaded.model, loaded.tokenizer
        found = differences(facts, fingerprint(model, tokenizer))
        wanted = parse(policy) if isinstance(policy, str) else policy
        if wanted is not None and str(wanted) != facts["policy"]:
            found.append(f"the policy {facts['policy']} (here {wanted})")
        if found:
            raise StateError(
                f"{path} was saved with something else: {'; '.join(found)}. Expected the same; to "
                "start anew, make a Context."
            )
        context = cls(
            model,
            tokenizer,
            facts["policy"],
            positions=facts["positions"],
            chunk=facts["chunk"],
            compile=compile,
            cold=cold,
        )
        logits = state.pop("logits", None)
        context._logits = None if logits is None else logits.to(model.device)
        context.cache.load_state_dict(state, model.device)
        context._conversing, context._reply = facts["conversing"], facts["reply"]
        context.note = facts.get("note", {})
        return context

    def reset(self) -> None:
        """Forget everything; the memory stays allocated."""
        self.cache.reset()
        self._logits = None
        self._conversing = False
        self._reply = None

    def _score_by(self, window: SlidingWindow, content: Any) -> np.ndarray:
        size, capacity = window.cut.size, self.policy.capacity
        if capacity is not None and size > capacity:
            raise InputError(
                f"windows of {size} ids were asked for, and {self.policy} lets {capacity} be seen; "
                "expected smaller windows, or a context whose policy is 'full'."
            )
        if _are_messages(content):
            raise InputError("messages cannot be scored by windows; expected text or token ids.")
        ids = self._encode(content, special=True) if isinstance(content, str) else content
        reader = Context(self.model, policy="full", chunk=self.chunk)

        def read(ids: np.ndarray) -> np.ndarray:
            reader.cache.reset()  # but not the last logits: they predict the first token here
            return reader.score(ids)

        vocabulary = self.model.config.get_text_config().vocab_size
        return by_windows(as_ids(ids, vocabulary), window.cut, read)

    def _encode(self, text: str, special: bool) -> list[int]:
        if self.tokenizer is None:
            raise InputError("text needs a tokenizer; pass one to Context, or append token ids.")
        return cast(
            "list[int]", self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        )

    def _ids(self, content: Any, reply: bool) -> Tensor:
        """Any accepted content as `(tokens,)` int64 ids on the model's device."""
        messages = _are_messages(content)
        if messages:
            ids = self._encode(self._render(content, reply), special=False)
        elif isinstance(content, str):
            ids = self.encode(content)
        else:
            ids = content
        vocabulary = self.model.config.get_text_config().vocab_size
        checked = torch.from_numpy(as_ids(ids, vocabulary)).to(self.model.device)
        self._conversing |= messages
        self._reply = None
        return checked

    def _feed(self, ids: Tensor) -> None:
        for chunk in self._chunks(ids):
            self._logits = self._forward(chunk, every=False)[-1]

    def _chunks(self, ids: Tensor) -> tuple[Tensor, ...]:
        return ids.split(self.chunk) if len(ids) else ()

    def _render(self, messages: Sequence[Message], reply: bool) -> str:
        turns = Turns(self.tokenizer)
        if not self._conversing:
            return turns.opening(messages, reply)
        closing = turns.closing(self._reply == "ended") if self._reply else ""
        return closing + turns.next(messages, reply)

    def _sample(self, sampler: Sampler, max_new_tokens: int, replies: bool) -> Iterator[int]:
        draw = sampler.start(self.model.device)
        ends = end_tokens(self.model, self.tokenizer)
        generated: list[int] = []
        while len(generated) < max_new_tokens:
            assert self._logits is not None
            token = draw(self._logits, generated)
            self._logits = self._forward(torch.tensor([token]).to(self.model.device), False)[-1]
            self._reply = ("ended" if token in ends else "open") if replies else None
            if token in ends:
                return
            generated.append(token)
            yield token

    @torch.no_grad()
    def _forward(self, ids: Tensor, every: bool) -> Tensor:
        """Feed `(tokens,)` ids; logits `(tokens, vocabulary)`, or of the last one only."""
        self._rebase(len(ids))
        start = self.cache.seen - self.cache.slots.base
        if self._compiled is not None and len(ids) == 1 and self._compiled.ready:
            return self._compiled(ids, start)
        output = self.model(
            input_ids=ids[None],
            position_ids=torch.arange(start, start + len(ids), device=ids.device)[None],
            use_cache=True,
            **{self._cache_argument: self.cache},
            **({} if every else self._last_only),
        )
        logits: Tensor = output.logits[0]
        return logits

    def _rebase(self, tokens: int) -> None:
        """Keep positions small, where the model's float32 angles are accurate."""
        cache, slots = self.cache, self.cache.slots
        capacity = self.policy.capacity
        if capacity is None or slots.positions == "absolute" or not cache.is_bounded_throughout:
            return
        position = cache.seen - slots.base
        if position + tokens > max(REBASE_AT, 4 * capacity) and position > capacity:
            cache.rebase(position - capacity)


def _are_messages(content: Any) -> bool:
    return (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and len(content) > 0
        and isinstance(content[0], Mapping)
    )


def _as_json(note: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as it will come back from a file."""
    try:
        return cast("dict[str, Any]", json.loads(json.dumps(dict(note), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the note cannot be written as JSON: {error}. Expected a mapping of text to text, "
            "finite numbers, booleans, None, lists and mappings of these."
        ) from error
