"""A short string that identifies a tokenizer, to keep beside the ids."""

from __future__ import annotations

import hashlib
import json

from transom.errors import InputError
from transom.tokens.backends.reference import rust_tokenizer
from transom.tokens.protocols import TokenizerLike
from transom.validation import known_keywords

__all__ = ["differences", "fingerprint"]

# The parts that decide the ids of a text. The others add special tokens around a text or decode
# ids; transformers rewrites those when it loads a tokenizer, which does not change ids.
PARTS = {
    "model": "the vocabulary or the merges",
    "added_tokens": "the added tokens",
    "normalizer": "the normalizer",
    "pre_tokenizer": "the pre-tokenizer",
}
DIGITS = 16  # of SHA-256: 64 bits


@known_keywords
def fingerprint(tokenizer: TokenizerLike) -> str:
    """A string that is equal for two tokenizers that turn every text into the same ids.

    It is made of the parts that decide the ids, as the library writes them: model, added tokens,
    normalizer and pre-tokenizer. Truncation, padding, decoders and templates of special tokens
    make no difference.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or a fast tokenizer of transformers.

    Raises:
        InputError: when it is something else, or has a part written in Python, which cannot be
            written out.

    >>> from tokenizers import Tokenizer, models
    >>> fingerprint(Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))[:26]
    'WordLevel:2 model:ade56dc3'
    """
    try:
        inner = rust_tokenizer(tokenizer)
        written = json.loads(inner.to_str())
        kind, size = written["model"]["type"], inner.get_vocab_size()
    except Exception as error:  # The library raises nothing more specific.
        raise InputError(
            f"cannot take the fingerprint of {type(tokenizer).__name__}: {error}. Expected a "
            "tokenizers.Tokenizer made of the library's own parts, or a fast tokenizer of "
            "transformers."
        ) from error
    sums = " ".join(f"{part}:{_digest(written.get(part))}" for part in PARTS)
    return f"{kind}:{size} {sums}"


@known_keywords
def differences(one: str, other: str) -> tuple[str, ...]:
    """In words, what differs between two fingerprints; empty when they are equal.

    >>> differences("BPE:9 model:1 normalizer:2", "BPE:8 model:3 normalizer:2")
    ('the vocabulary or the merges (BPE:9 and BPE:8)',)
    """
    if one == other:
        return ()
    mine, theirs = _parts(one), _parts(other)
    differing = [part for part in PARTS if mine.get(part) != theirs.get(part)]
    kinds = f"{one.partition(' ')[0]} and {other.partition(' ')[0]}"
    return tuple(
        f"{PARTS[part]} ({kinds})" if part == "model" else PARTS[part] for part in differing
    ) or (f"the size of the vocabulary ({kinds})",)


def _parts(text: str) -> dict[str, str]:
    return dict(part.partition(":")[::2] for part in text.split(" "))


def _digest(part: object) -> str:
    plain = json.dumps(_said(part), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()[:DIGITS]


def _said(part: object) -> object:
    """`part` without unset values, so that settings added by newer versions change nothing."""
    if isinstance(part, dict):
        return {key: _said(value) for key, value in part.items() if not _unset(value)}
    if isinstance(part, float):
        return f"{part:.12g}"  # the library's JSON is not exact about the last digits
    return [_said(value) for value in part] if isinstance(part, list) else part


def _unset(value: object) -> bool:
    return value is None or value is False or value == ""
