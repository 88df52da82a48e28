"""The tokenizer that a corpus was made with, and any other."""

from __future__ import annotations

from pathlib import Path

from transom.corpus.manifest import Manifest
from transom.errors import CorpusError
from transom.tokens import differences, fingerprint
from transom.tokens.protocols import TokenizerLike

__all__ = ["check_tokenizer", "fingerprint_of"]


def fingerprint_of(tokenizer: TokenizerLike | str | None) -> str:
    """The fingerprint of a tokenizer, or one that is given; empty for None."""
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer or ""
    return fingerprint(tokenizer)


def check_tokenizer(
    folder: Path, manifest: Manifest, tokenizer: TokenizerLike | str | None
) -> None:
    """See that a tokenizer is the one of a corpus; None, and a corpus without one, are not asked.

    Raises:
        CorpusError: when it is another, saying what differs.
    """
    given = fingerprint_of(tokenizer)
    if not given or not manifest.fingerprint:
        return
    named = differences(manifest.fingerprint, given)
    if named:
        made_with = f" ({manifest.tokenizer})" if manifest.tokenizer else ""
        raise CorpusError(
            f"{folder} was made with another tokenizer{made_with}: {', '.join(named)} "
            "differ, so its ids would mean something else; expected the tokenizer it was made with."
        )
