"""The context itself: what a user appends, scores, generates, forks and saves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from transom import models
from transom.context.content import Content, TokenIds, are_messages
from transom.context.generation import GeneratingContext
from transom.context.model import CausalLM, check_model, text_config_of
from transom.context.persistence import Note, as_note, read_context, restore, write_context
from transom.context.runner import ModelRunner
from transom.context.scoring import check_windows, score, score_by_windows
from transom.context.usage import Usage, usage_of
from transom.errors import InputError
from transom.kv import BoundedCache
from transom.kv.planner import Positions
from transom.policies import Policy, Sinks
from transom.tokens.whole import text_pieces
from transom.validation import known_keywords, whole_number
from transom.windows import SlidingWindow

__all__ = ["Context"]


@known_keywords
class Context(GeneratingContext):
    """A model's context, kept inside the budget of a policy however much is appended.

    Tokens are fed in chunks and every token sees exactly what the policy says, so the result does
    not depend on how the text was cut up. Several contexts can share one model.

    A call that raises (an interrupt, an error of the model, memory that runs out) leaves the
    context as it was before the call, where that can be undone exactly: where `trim_to` works.
    Otherwise everything but `usage` and `reset` raises a CacheError from then on; go on from a
    `fork` made before. Generation, and text from an iterator, advance a step at a time: the tokens
    and the chunks before the one that failed stay in, as `usage` says.

    Threads: a context takes one call at a time. A call while another thread is in one raises a
    CacheError at once, and changes nothing. A stream holds the context only while it computes a
    step. Different contexts, forks of one another included, can be used in different threads at
    the same time, also on one model.

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
        InputError: on a chunk below 1, or when `model` is not a model.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Any = None,
        policy: Policy | str = Sinks(),  # noqa: B008 - frozen, so sharing the default is safe
        *,
        positions: Positions = "compact",
        chunk: int = 512,
        compile: bool = False,
        cold: Path | str | None = None,
    ) -> None:
        chunk = whole_number("Context", "chunk", chunk, 1, unit="tokens per forward pass")
        check_model(model)
        text = text_config_of(model)  # a context reads no images
        cache = BoundedCache(policy, config=text, positions=positions, cold=cold)
        self.tokenizer, self.chunk = tokenizer, chunk
        self.note: Note = {}
        self._runner = ModelRunner(model, cache, compile=compile)

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
        return usage_of(self.cache)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as the next thing in this context.

        Special tokens that the tokenizer puts before a text are added only at the very start, and
        those that it puts after a text never, since more text may come.
        """
        return self._encoder.next_text(text)

    def append(self, content: Content | Iterator[str] | Iterator[int]) -> int:
        """Feed text, token ids or chat messages; returns how many tokens that was.

        Text may come in pieces, from an iterator such as an open file or a generator. The pieces
        of one call are tokenized as one text, a stretch at a time. Texts of different calls are
        tokenized separately, because ids that the model was fed cannot be changed later. Ids may be
        a list, a range, or a 1-D numpy array or torch tensor. Messages are
        `{"role": ..., "content": ...}` and go through the model's chat template.

        Raises:
            InputError: when the content is none of these. Nothing has been fed then, except the
                pieces before one that is not text.
            CacheError: when another thread is in a call, or an earlier one stopped half-way.
        """
        with self._runner.exclusive():
            pieces, rest = text_pieces(content)
            if pieces is None:
                return self._runner.feed(self._encoder.content(rest, reply=False))
            incoming = self._encoder.pieces(pieces)
            if isinstance(content, str):
                return self._runner.feed(incoming)
            each = (incoming._replace(chunks=[chunk]) for chunk in incoming.chunks)
            return sum(map(self._runner.feed, each))

    def score(
        self, content: Content, *, window: SlidingWindow | None = None
    ) -> NDArray[np.float32]:
        """Append, and return the loss of each token.

        Scoring a text piece by piece gives the same as scoring it at once.

        With `window`, nothing is appended. The text is read without the context, in windows with
        these settings, each from an empty cache. Every token counts in the first window that has
        it, after at least `overlap` others. This is perplexity by sliding window,
        `exp(nanmean(losses))`. It takes `window_size / stride` times as long as a plain reading.

        Args:
            content: text, token ids or, without a window, chat messages.
            window: how to cut; what it holds is neither used nor changed.

        Returns:
            `(tokens,)` float32: negative log-likelihood of each token in nats, given the tokens
            that it sees under the policy, or those before it in its window. NaN for the first
            token, which nothing predicts, and for tokens that `drop_last` leaves out.

        Raises:
            InputError: when the content cannot be used, or a window is larger than the policy's
                capacity.
            CacheError: as for `append`.
        """
        if window is None:
            with self._runner.exclusive():
                return score(self._runner, self._encoder.content(content, reply=False))
        check_windows(window.cut, self.policy)
        if are_messages(content):
            raise InputError("messages cannot be scored by windows; expected text or token ids.")
        if isinstance(content, str):
            content = self._encoder.text(content, special=True)
        return score_by_windows(self.model, cast("TokenIds", content), window.cut, self.chunk)

    def fork(self) -> Context:
        """An independent context that goes on from here.

        The model is shared, and so is what the cache holds, until one of the two appends.

        Raises:
            CacheError: when something stopped half-way before; see `Context`.
        """
        twin = copy.copy(self)
        twin._runner = self._runner.fork()
        return twin

    def trim_to(self, tokens: int) -> None:
        """Remove the newest tokens, so that the first `tokens` seen are left.

        The context goes on as if the removed tokens had never been there. But the model's
        prediction of the next token is lost, so append something before you generate. (If you may
        want to go back, `fork` before you append.) The state of a conversation is lost too: after
        chat messages were trimmed, no messages can follow, unless all tokens were removed.

        Raises:
            InputError: when fewer tokens have been seen.
            CacheError: when it would not be exact, because the removed tokens have evicted others,
                been quantized, or influenced the scores of others. Nothing is changed then.
        """
        with self._runner.exclusive():
            tokens = whole_number("trim_to", "tokens", tokens, 0)
            seen = self.cache.seen
            if tokens > seen:
                raise InputError(f"cannot trim to {tokens} tokens; only {seen} were seen.")
            if tokens < seen:
                self._runner.crop(tokens)

    def save(self, path: Path | str, *, note: Mapping[str, object] | None = None) -> int:
        """Write the context to a file, from which `load` goes on as if it had never stopped.

        The file holds keys, values and settings, not the model, and no pickled code. It is written
        whole or not at all, and `load` notices when any of its bytes has changed.

        Args:
            note: anything of yours to keep beside the state, as JSON; becomes `self.note`, which
                is saved again from then on. By default the present one.

        Returns:
            The bytes of the file.

        Raises:
            InputError: when the note does not fit JSON.
            StateError: when it cannot be written there; what was there is unchanged.
            CacheError: as for `append`.
        """
        with self._runner.exclusive():
            if note is not None:
                self.note = as_note(note)
            return write_context(
                path, self._runner, self.tokenizer, chunk=self.chunk, note=self.note
            )

    @classmethod
    def load(
        cls,
        path: Path | str,
        model: CausalLM | str,
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
        saved = read_context(path, model, tokenizer, policy)
        context = cls(
            saved.model,
            saved.tokenizer,
            saved.facts["policy"],
            positions=saved.facts["positions"],
            chunk=saved.facts["chunk"],
            compile=compile,
            cold=cold,
        )
        restore(context._runner, saved)
        context.note = saved.note
        return context

    def reset(self) -> None:
        """Forget everything; the memory stays allocated.

        Raises:
            CacheError: when another thread is in a call.
        """
        self._runner.reset()

    def __repr__(self) -> str:
        usage = self.usage
        return (
            f"Context({type(self.model).__name__}, {str(self.policy)!r}, seen={usage.seen}, "
            f"kept={usage.kept}, kv_bytes={usage.kv_bytes})"
        )
