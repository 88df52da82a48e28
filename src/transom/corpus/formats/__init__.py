"""File formats of other programs: a corpus can be written in all of them, and made from most."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from transom.corpus.formats.base import Format, Moved, unheard
from transom.corpus.formats.datatrove import Datatrove
from transom.corpus.formats.megatron import Megatron
from transom.corpus.formats.nanogpt import NanoGPT
from transom.corpus.formats.tables import Arrow, Datasets, Parquet
from transom.corpus.reader import CorpusReader
from transom.corpus.writer import CorpusWriter
from transom.errors import InputError
from transom.outputs import check_target
from transom.plugins import plugins
from transom.validation import named_path, whole_number

__all__ = ["Format", "formats", "read_format", "write_format"]

BUILT_IN = NanoGPT, Megatron, Datatrove, Parquet, Arrow, Datasets


def formats() -> Mapping[str, Format]:
    """All formats by name; packages add more through the entry-point group `transom.formats`."""
    kinds: Mapping[str, type[Format]] = plugins("transom.formats", Format, BUILT_IN, InputError)
    return MappingProxyType({name: kind() for name, kind in kinds.items()})


def write_format(
    corpus: CorpusReader,
    to: str,
    out: str | os.PathLike[str],
    *,
    separator: int | None = None,
    moved: Moved = unheard,
) -> list[Path]:
    """Write a corpus in the format of another program; returns the files written.

    Args:
        corpus: the corpus to write.
        to: name of the format.
        out: name of the file, with or without its suffix. When it is an existing folder, or ends
            in a slash (the folder is then made), the files in it are named after the corpus.
        separator: the id that ends documents, for formats that do not keep their ends.
        moved: called with how many more tokens were written.

    Raises:
        InputError: when the format is unknown, or cannot hold the corpus.
        MissingExtraError: when the format needs a package that is not installed.
    """
    format_ = _known(to)
    _check_separator(format_, separator, corpus.manifest.vocab_size)
    target = _named(out, "out")
    if os.fspath(out).endswith(("/", os.sep)) or target.is_dir():
        _make_folder(target)
        target = target / corpus.path.resolve().name
    elif target.exists() and not target.is_file():
        raise InputError(
            f"cannot write {target}: it is no regular file; expected a name for files, or a folder."
        )
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: {target.parent} is no folder.")
    for path in format_.files(target):
        if not path.is_dir():  # some formats make a folder, others refuse it themselves
            check_target(path)
    format_.write(corpus, target, separator=separator, moved=moved)
    return format_.files(target)


def read_format(
    writer: CorpusWriter,
    of: str,
    source: str | os.PathLike[str],
    *,
    separator: int | None = None,
    moved: Moved = unheard,
) -> None:
    """Append the documents of another program's files to a corpus; the caller commits.

    Raises:
        InputError: when the format is unknown, or the files do not have it.
    """
    format_ = _known(of)
    _check_separator(format_, separator, writer.committed.vocab_size)
    format_.read(_named(source, "source"), writer, separator=separator, moved=moved)


def _named(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a `Path` that the file system accepts."""
    named = named_path(what, path)
    try:
        named.exists()
    except OSError as error:
        raise InputError(
            f"{what} is {str(named)!r:.80}: {error.strerror}; expected another name."
        ) from error
    return named


def _check_separator(format_: Format, separator: int | None, vocab_size: int) -> None:
    if separator is None:
        return
    if not format_.separated:
        raise InputError(
            f"{format_.name}: separator is {separator!r}, and the format keeps where documents "
            "end beside their ids; expected no separator."
        )
    separator = whole_number(format_.name, "separator", separator, 0, unit="ids")
    if separator >= vocab_size:
        raise InputError(
            f"{format_.name}: separator is {separator}; the vocabulary has 0 to {vocab_size - 1}."
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}.") from error


def _known(name: str) -> Format:
    known = formats()
    if name not in known:
        raise InputError(f"there is no format {name!r}; the known ones are {', '.join(known)}.")
    return known[name]
