"""One model, one policy, one cache: text of any length in bounded memory."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
import torch
from torch import Tensor

from transom import models
from transom.attention.modes import lasting
from transom.attention.versions import cache_argument
from transom.chat import Dialogue, Message, Turns
from transom.errors import CacheError, InputError, StateError, UnsupportedModelError
from transom.kv import BoundedCache
from transom.kv.compiled import CompiledStep
from transom.kv.planner import Positions
from transom.policies import Policy, Sinks, parse
from transom.sampling import Draw, Sampler, end_tokens
from transom.scoring import by_windows, losses
from transom.state import differences, fingerprint, read_state, write_state
from transom.tokens import as_ids, pieces
from transom.tokens.special import special_before
from transom.tokens.whole import as_whole, in_chunks, text_pieces
from transom.validation import check_keywords, known_keywords, whole_number
from transom.windows import SlidingWindow

__all__ = ["Context", "Usage"]

REBASE_AT = 8192  # positions beyond which float32 angles are worth refreshing


class Usage(NamedTuple):
    """Where a context stands.

    Attributes:
        seen: tokens fed so far.
        kept: tokens still visible.
        dropped: tokens that no longer are.
        kv_bytes: bytes allocated for keys and values in the cache: the hot ones.
        position: rotary position that the next token gets.
        cold_bytes: bytes outside it of what can be recalled, and of what it is found by; grows with
            the text. It can be more than full attention would hold.
    """

    seen: int
    kept: int
    dropped: int
    kv_bytes: int
    position: int
    cold_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Hot and cold bytes together."""
        return self.kv_bytes + self.cold_bytes


class Incoming(NamedTuple):
    """What is to be fed.

    Attributes:
        chunks: of ids, `(tokens,)` each.
        after: where the dialogue stands once they are fed.
        plain: they are no messages, whose template says what closes an answer before them.
    """

    chunks: Iterable[Tensor]
    after: Dialogue
    plain: bool


@known_keywords
class Context:
    """A model's context, kept inside the budget of a policy however much is appended.

    Tokens are fed in chunks and every token sees exactly what the policy says, so the result does
    not depend on how the text was cut up. Several contexts can share one model.

    What raises on the way (an interrupt, an error of the model, memory that runs out) leaves the
    context as it was before the call, where that can be undone exactly: where `trim_to` works.
    Otherwise everything but `usage` and `reset` raises a CacheError from then on; a `fork` made
    before can be gone on from. What is generated, and text from an iterator, is a step at a time:
    the tokens and the chunks before the one that failed are in, as `usage` says.

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
        InputError: on a chunk below 1, or on what is no model.
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
        chunk = whole_number("Context", "chunk", chunk, 1, unit="tokens per forward pass")
        if not hasattr(model, "config"):
            raise InputError(
                f"model is {type(model).__name__}; expected a causal language model of "
                "transformers. To load one by its name, use Context.from_pretrained(name)."
            )
        _refuse_virtual_tokens(model)
        self.model = model
        self.tokenizer = tokenizer
        self.chunk = chunk
        self.cache = BoundedCache(policy, config=model.config, positions=positions, cold=cold)
        self._compiled = CompiledStep(model, self.cache) if compile else None
        self._last_only = {"logits_to_keep": 1} if _keeps_some_logits(model) else {}
        self._cache_argument = cache_argument(model)
        self.note: dict[str, Any] = {}
        self._logits: Tensor | None = None
        self._dialogue = Dialogue()
        self._stopped = False  # half-way through something that could not be undone

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
    def policy(self) -> Policy:
        """What is kept; a size that was given in bytes is in tokens."""
        return self.cache.policy

    @property
    def usage(self) -> Usage:
        """Tokens seen, kept and dropped, bytes held, the next position, bytes in cold storage."""
        cache = self.cache
        position = cache.seen - cache.planner.base
        return Usage(
            cache.seen, cache.kept, cache.dropped, cache.nbytes, position, cache.cold_nbytes
        )

    @property
    def unfinished(self) -> bool:
        """Whether the newest thing here is an answer to messages that the model has not ended."""
        return self._dialogue.unfinished

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as the next thing in this context.

        Special tokens that the tokenizer puts before a text are added only at the very start, and
        those that it puts behind one never, since more may come.
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
        self._check_whole()
        stretches, content = text_pieces(content)
        if stretches is None:
            return self._feed(self._incoming(content, reply=False))
        arrays = in_chunks(as_whole(stretches, self.encode, self.tokenizer), self.chunk)
        chunks = (self._checked(array) for array in arrays)
        text = Incoming(chunks, self._dialogue.left(), plain=True)
        if isinstance(content, str):
            return self._feed(text)
        return sum(self._feed(text._replace(chunks=[chunk])) for chunk in chunks)

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
        self._check_whole()
        incoming = self._incoming(content, reply=False)
        scored = []
        with self._all_or_nothing():
            for chunk in self._led(incoming):
                before = self._logits
                logits = self._forward(chunk, every=True)
                unknown = torch.full((1,), torch.nan, dtype=torch.float32, device=chunk.device)
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

        What is generated becomes part of the context. After chat messages the model answers them,
        whether they are the prompt or were appended; without either it goes on with an answer that
        `max_new_tokens` has cut short.

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
        self._check_whole()
        known = ["prompt", "max_new_tokens", "stream", *inspect.signature(Sampler).parameters]
        check_keywords("generate", sampling, known)
        longest = whole_number("generate", "max_new_tokens", max_new_tokens, 0)
        draw = Sampler(**sampling).start(_device_of(self.model))
        incoming = self._incoming([] if prompt is None else prompt, reply=True)
        if not incoming.chunks and self._dialogue.asked:
            incoming = self._said([], reply=True)
            self._dialogue = self._dialogue if incoming.chunks else incoming.after
        elif not incoming.chunks:
            if self.cache.seen == 0:
                raise InputError("the context is empty, so nothing can be continued; append first.")
            if self._logits is None:
                raise InputError(
                    "the newest tokens were trimmed, so what comes next is not known; append first."
                )
            if self._dialogue.end is not None:  # what comes next is no part of that answer
                ended = self._checked([self._dialogue.end])
                incoming = Incoming([ended], self._dialogue.left(), plain=False)
        self._feed(incoming)
        text = pieces(self.tokenizer, self._sample(draw, longest, self.cache.seen))
        return text if stream else "".join(text)

    def fork(self) -> Context:
        """An independent context that goes on from here.

        The model is shared, and so is what the cache holds, until one of the two appends.

        Raises:
            CacheError: when something stopped half-way before; see `Context`.
        """
        self._check_whole()
        twin = copy.copy(self)
        twin.cache = self.cache.fork()
        if self._compiled is not None:
            twin._compiled = CompiledStep(self.model, twin.cache)
        return twin

    def trim_to(self, tokens: int) -> None:
        """Drop the newest tokens, so that the first `tokens` seen are left.

        What is appended next goes on as if the others had never been there. What the model would
        have said next after the token that is now the newest is not known any more: append before
        generating (or fork before what may have to be taken back). After chat messages it is not
        known either where the conversation stands, unless nothing is left: no messages can follow.

        Raises:
            InputError: when fewer tokens have been seen.
            CacheError: when it would not be exact, because the dropped tokens have evicted others,
                been rounded or had a say in the scores of others; nothing is changed then.
        """
        self._check_whole()
        tokens = whole_number("trim_to", "tokens", tokens, 0)
        if tokens > self.cache.seen:
            raise InputError(f"cannot trim to {tokens} tokens; only {self.cache.seen} were seen.")
        if tokens < self.cache.seen:
            self._stopped = True
            try:
                self.cache.crop(tokens - self.cache.seen)
            except CacheError:  # which changes nothing
                self._stopped = False
                raise
            self._logits, self._dialogue = None, self._dialogue.cut(tokens)
            self._stopped = False

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
        self._check_whole()
        if note is not None:
            self.note = _as_json(note)
        state = self.cache.state_dict()
        if self._logits is not None:
            state["logits"] = self._logits
        facts = {
            **fingerprint(self.model, self.tokenizer),
            "policy": str(self.policy),
            "positions": self.cache.planner.positions,
            "chunk": self.chunk,
            "dialogue": self._dialogue._asdict(),
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
                "start anew, take another file."
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
        context._logits = None if logits is None else logits.to(_device_of(model))
        context.cache.load_state_dict(state, _device_of(model))
        context._dialogue = Dialogue(**facts["dialogue"])
        context.note = facts.get("note", {})
        return context

    def reset(self) -> None:
        """Forget everything; the memory stays allocated."""
        self._stopped = True
        self.cache.reset()
        self._logits, self._dialogue = None, Dialogue()
        self._stopped = False

    def __repr__(self) -> str:
        usage = self.usage
        return (
            f"Context({type(self.model).__name__}, {str(self.policy)!r}, seen={usage.seen}, "
            f"kept={usage.kept}, kv_bytes={usage.kv_bytes})"
        )

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
        before = special_before(self.tokenizer) if special else []
        plain = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [*before, *plain]

    def _incoming(self, content: Any, reply: bool) -> Incoming:
        """Any accepted content."""
        if _are_messages(content):
            return self._said(content, reply)
        if isinstance(content, (PathLike, bytes)):
            raise InputError(
                f"cannot use {type(content).__name__} as content; expected text, token ids or "
                "messages. For the text in a file give the open file: append(path.open())."
            )
        ids = self._checked(self.encode(content) if isinstance(content, str) else content)
        return Incoming(self._chunks(ids), self._dialogue.left(), plain=True)

    def _said(self, messages: Sequence[Message], reply: bool) -> Incoming:
        """Messages as the template continues the conversation with them."""
        text = self._dialogue.text(Turns(self.tokenizer), messages, reply)
        ids = self._checked(self._encode(text, special=False))
        return Incoming(self._chunks(ids), self._dialogue.then(messages, reply), plain=False)

    def _checked(self, ids: Any) -> Tensor:
        """`(tokens,)` int64 on the model's device."""
        vocabulary = self.model.config.get_text_config().vocab_size
        return torch.from_numpy(as_ids(ids, vocabulary)).to(_device_of(self.model))

    def _chunks(self, ids: Tensor) -> tuple[Tensor, ...]:
        return ids.split(self.chunk) if len(ids) else ()

    def _feed(self, incoming: Incoming) -> int:
        """Feed all chunks or none; how many tokens these were."""
        count = 0
        with self._all_or_nothing():
            for chunk in self._led(incoming):
                self._forward(chunk, every=False)
                count += len(chunk)
        return count

    def _led(self, incoming: Incoming) -> Iterator[Tensor]:
        """The chunks, to be fed one by one, with what goes with them."""
        for chunk in incoming.chunks:
            if incoming.plain and self._dialogue.end is not None:
                self._forward(self._checked([self._dialogue.end]), every=False)
            yield chunk
            self._dialogue = incoming.after

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What raises inside leaves everything as it was; or else nothing more can be done."""
        cache = self.cache
        before = cache.seen, cache.planner.base
        kept = self._logits, self._dialogue
        self._stopped = True
        try:
            yield
        except BaseException:
            if cache.go_back(*before):
                self._logits, self._dialogue = kept
                self._stopped = False
            raise
        self._stopped = False

    def _check_whole(self) -> None:
        if self._stopped:
            raise CacheError(
                "an earlier call stopped half-way (an interrupt or an error) and could not be "
                "undone exactly. Call reset() and feed the text again, or go on from an earlier "
                "fork or saved state. Next time, fork() before a call that may be interrupted."
            )

    def _sample(self, draw: Draw, longest: int, seen: int) -> Iterator[int]:
        """Token ids, each fed before it is given out, in a context that has seen so many."""
        ends = end_tokens(self.model, self.tokenizer)
        generated: list[int] = []
        while len(generated) < longest:
            if self._logits is None or self.cache.seen != seen + len(generated):
                raise CacheError(
                    "the context was fed, trimmed or reset while it was generating; finish or drop "
                    "a stream before going on, or fork() the context for it."
                )
            token = draw(self._logits, generated)
            if token in ends and self._dialogue.answering:
                self._dialogue = self._dialogue.ended(token)
                return
            with self._all_or_nothing():
                self._forward(self._checked([token]), every=False)
            if token in ends:
                return
            generated.append(token)
            yield token

    @lasting
    @torch.no_grad()
    def _forward(self, ids: Tensor, every: bool) -> Tensor:
        """Feed `(tokens,)` ids; logits `(tokens, vocabulary)`, or of the last one only."""
        self._rebase(len(ids))
        start = self.cache.seen - self.cache.planner.base
        logits: Tensor
        if self._compiled is not None and len(ids) == 1 and self._compiled.ready:
            logits = self._compiled(ids, start)
        else:
            logits = self.model(
                input_ids=ids[None],
                position_ids=torch.arange(start, start + len(ids), device=ids.device)[None],
                use_cache=True,
                **{self._cache_argument: self.cache},
                **({} if every else self._last_only),
            ).logits[0]
        self._logits = logits[-1].clone()
        return logits

    def _rebase(self, tokens: int) -> None:
        """Keep positions small, where the model's float32 angles are accurate.

        Not in a model to whose queries the true position matters.
        """
        cache, planner = self.cache, self.cache.planner
        capacity = self.policy.capacity
        if capacity is None or planner.positions == "absolute" or not cache.is_bounded_throughout:
            return
        if cache.scales_by_position:
            return
        position = cache.seen - planner.base
        if position + tokens > max(REBASE_AT, 4 * capacity) and position > capacity:
            cache.rebase(position - capacity)


def _device_of(model: Any) -> torch.device:
    """Where a model computes; weights that are offloaded (accelerate) are somewhere else."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    for module in model.modules():
        brought = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if brought is not None:
            return torch.device(brought)
    raise UnsupportedModelError(
        "the model's weights are on the meta device, so it cannot be run; load them first."
    )


def _refuse_virtual_tokens(model: Any) -> None:
    """Refuse adapters (peft) of learned tokens, which a model puts before whatever it is fed."""
    learned: Any = getattr(model, "active_peft_config", None)
    if getattr(learned, "is_prompt_learning", False):
        kind = str(getattr(learned.peft_type, "value", learned.peft_type))
        raise UnsupportedModelError(
            f"the model has an adapter of learned tokens ({kind}), which would come again with "
            "every chunk, or be left out; expected one that changes weights, such as LoRA. Use "
            "model.generate with the whole text."
        )


def _keeps_some_logits(model: Any) -> bool:
    """Whether a model, or the one that it is wrapped around, can leave logits out."""
    known = inspect.signature(model.forward).parameters
    if "logits_to_keep" in known:
        return True
    passed_on = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in known.values())
    inside = model.modules() if isinstance(model, torch.nn.Module) else ()
    kinds = {type(module) for module in inside} if passed_on else ()
    return any("logits_to_keep" in inspect.signature(kind.forward).parameters for kind in kinds)


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
