"""Chooses a faster library in place of tokenizers, if it gives the same ids for a sample."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from itertools import chain
from typing import NamedTuple

import numpy as np

from transom.errors import InputError, MissingExtraError
from transom.tokens.backends.base import Backend
from transom.tokens.backends.reference import Reference
from transom.tokens.ids import TokenIds
from transom.tokens.protocols import TokenizerLike

__all__ = ["BackendChoice", "backends", "choose_backend"]

CLASSES = {"fastokens": "Fastokens", "gigatoken": "Gigatoken"}
AUTO = "auto"
SAMPLED = 2_000_000  # characters of the sample that are compared, in a second or less

# Texts on which implementations were found to disagree.
HARD = (
    "",
    " ",
    "\n\n  \n\t x\r\n\r\n   y  ",
    "It's WE'LL they'Re 'ſ don't'd ''s",
    "1 12 123 1234567 ½ ² ٣٤ 3.14e-10 0x1F",
    "漢字かな交じり文。中文句子，没有空格！한국어 문장",
    "naïve cafe\u0301 I\u0307 ﬁ Å \u212b straße न\u0940ति হ\u09cd",
    "\U0001f600\U0001f389 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufe0f",
    "\x00\x01\x1c\x7f\x85\xa0\u200b\u2028\u3000\ufeff\ufffd\U00050000\U0010ffff",
    "{'key': [1, 2], \"x\":-1}  # comment\n\tif a!=b and c>=d: return f(x)**2;//--==><=::",
    "https://example.org/a?b=c&d=%20#frag user@host.example `code` ``quoted'' -- … — «»",
    "a" * 300,
    " " * 300 + "x" + "\n" * 300,
    "=" * 80 + "\n" + "ab" * 200,
)


class BackendChoice(NamedTuple):
    """The backend that was chosen.

    Attributes:
        backend: the backend, for `Encoder`.
        why: the reason, in words for a user.
    """

    backend: Backend
    why: str


def backends() -> tuple[str, ...]:
    """The names that `choose_backend` knows."""
    return (AUTO, Reference.name, *CLASSES)


def choose_backend(
    tokenizer: TokenizerLike, sample: Iterable[str], name: str = AUTO
) -> BackendChoice:
    """The fastest library that gives the same ids as tokenizers for a sample.

    It compares the sample, texts known to be hard, and texts around each added token. That is
    evidence and not a proof: to be certain of the ids, ask for `tokenizers`.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a transformers tokenizer that has one.
        sample: texts like those to tokenize; the first two million characters are used.
        name: one of `backends()`. With `auto`, the first installed library that agrees, or
            tokenizers itself if none does.

    Raises:
        InputError: when the name is unknown, or the named library does not support this tokenizer
            or gives other ids.
        MissingExtraError: when the named library is not installed.
    """
    if name not in backends():
        raise InputError(f"no backend is called {name!r}; known: {', '.join(backends())}.")
    reference = Reference(tokenizer)
    if name == Reference.name:
        return BackendChoice(reference, f"{name} {version(name)}")
    texts = _texts(reference, sample)
    characters = sum(len(text) for text in texts)
    expected = reference.encode(texts)
    found = []
    for candidate in CLASSES if name == AUTO else (name,):
        made, reason = _made(candidate, reference)
        if made is not None:
            reason = _disagreement(made, texts, expected)
            if reason is None:
                agreed = f"agrees with tokenizers on {characters:,} characters"
                return BackendChoice(made, f"{candidate} {version(candidate)}, which {agreed}")
        elif name != AUTO and reason is None:
            raise MissingExtraError(
                f"{candidate} is not installed: pip install 'transom[fast]'.", name=candidate
            )
        found.append(f"{candidate} {reason or 'is not installed'}")
    if name != AUTO:
        raise InputError(f"cannot use {'; '.join(found)}; expected another backend.")
    return BackendChoice(
        reference, f"{Reference.name} {version(Reference.name)}: {'; '.join(found)}"
    )


def _made(name: str, reference: Reference) -> tuple[Backend | None, str | None]:
    """The backend, or the reason why there is none; both None when it is not installed."""
    try:
        module = import_module(f"transom.tokens.backends.{name}")
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None, None
    if reference.tokenizer.encode_special_tokens:
        return None, "cannot read special tokens as text"
    try:
        backend: Backend = getattr(module, CLASSES[name])(reference)
    except (ValueError, RuntimeError) as error:
        return None, f"does not support this tokenizer ({str(error).splitlines()[0]})"
    return backend, None


def _texts(reference: Reference, sample: Iterable[str]) -> list[str]:
    texts, left = [], SAMPLED
    for text in sample:
        # Half a character, which JSON may hold, is refused later, when it is tokenized.
        texts.append(text[:left].encode(errors="replace").decode())
        left -= len(texts[-1])
        if not left:
            break
    added = [t.content for t in reference.tokenizer.get_added_tokens_decoder().values()]
    around = (f"a{token}b {token} {token}\n文{token}{token}" for token in added)
    return [*chain(HARD, around), " ".join(HARD), *texts]


def _disagreement(backend: Backend, texts: list[str], expected: list[TokenIds]) -> str | None:
    try:
        got = backend.encode(texts)
    except (ValueError, RuntimeError) as error:
        return f"fails ({str(error).splitlines()[0]})"
    for text, ids, right in zip(texts, got, expected, strict=True):
        if not np.array_equal(ids, right):
            return f"gives other ids for {text!r:.60}"
    return None
