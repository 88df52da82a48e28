"""Checks that a tokenizer is the one that a corpus was made with."""

from __future__ import annotations

from pathlib import Path

from transom.corpus.manifest import Manifest
from transom.errors import CorpusError
from transom.tokens import differences, fingerprint
from transom.tokens.protocols import TokenizerLike

__all__ = ["check_tokenizer", "fingerprint_of"]


def fingerprint_of(tokenizer: TokenizerLike | str | None) -> str:
    """The fingerprint of a tokenizer; a fingerprint is returned as it is, None becomes empty."""
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer or ""
    return fingerprint(tokenizer)


def check_tokenizer(
    folder: Path, manifest: Manifest, tokenizer: TokenizerLike | str | None
) -> None:
    """Check that a tokenizer is that of a corpus; not checked for None or a corpus without one.

    Raises:
        CorpusError: when it is another one; the message says what differs.
    """
    given = fingerprint_of(tokenizer)
    if not given or not manifest.fingerprint:
        return
    named = differences(manifest.fingerprint, given)
    if named:
        made_with = f" ({manifest.tokenizer})" if manifest.tokenizer else ""
        raise CorpusError(
            f"{folder} was made with another tokenizer{made_with}: {', '.join(named)} "
            "differ, so its ids would mean something else; use the tokenizer it was made with."
        )
