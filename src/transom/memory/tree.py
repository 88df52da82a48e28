"""Which tokens are held already: contexts are a tree of entries, found by chained hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from transom.memory.entry import Entry, Namespace

__all__ = ["Match", "common_length", "holder", "key_hash", "match"]

Tokens = Callable[[Entry], Iterable[NDArray[np.generic]]]
Listed = Callable[[Namespace, int], Entry | None]
Kids = Callable[[Entry], Iterable[Entry]]


class Match(NamedTuple):
    """How far tokens are held already.

    Attributes:
        length: tokens held, a whole number of blocks.
        parent: the entry that holds the last of them; None when none is held.
        at: how many of that entry's own tokens belong to it.
        key: hash of all tokens up to the end of the next block; None without a next block.
    """

    length: int
    parent: Entry | None
    at: int
    key: int | None


def match(
    space: Namespace, ids: NDArray[np.generic], block: int, tokens: Tokens, listed: Listed
) -> Match:
    """The longest run of whole blocks of `ids` that `space` holds from the start.

    An entry is looked up by the hash of all tokens up to the end of its first block, with the salt
    of the namespace. The tokens themselves are then compared, so a collision does no harm.

    Args:
        space: whose contexts may be found.
        ids: `(tokens,)`, in the dtype that tokens are held in.
        block: tokens per block.
        tokens: the own tokens of an entry, in pieces; no pieces when they cannot be read.
        listed: the entry that a namespace has under the hash of its first block.
    """
    length, at, hashed = 0, 0, 0
    parent: Entry | None = None
    chain = xxh3_64(seed=space.salt)
    while length + block <= len(ids):
        chain.update(ids[hashed : length + block].data)
        hashed = length + block
        key = chain.intdigest() or 1
        child = listed(space, key)
        # An entry whose key was taken has another one, and is not found here.
        if child is None or child.parent is not parent or child.at != at:
            return Match(length, parent, at, key)
        same = 0
        for piece in tokens(child):
            found = common_length(ids[length + same :], piece)
            same += found
            if found < len(piece):
                break
        same -= same % block
        if not same:
            return Match(length, parent, at, key)
        parent, at = child, same
        length += same
    return Match(length, parent, at, None)


def common_length(one: NDArray[np.generic], other: NDArray[np.generic]) -> int:
    """How many elements at the start are equal.

    >>> common_length(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    size = min(len(one), len(other))
    differ = one[:size] != other[:size]
    first = int(differ.argmax()) if size else 0
    return first if size and differ[first] else size


def holder(entry: Entry, at: int, kids: Kids) -> tuple[str, int] | None:
    """The context that holds `entry` up to its first `at` tokens, and how many tokens that is.

    It is the context that ends with `entry`, or the one that continues the most of it. None if
    there is none, as for entries that are about to be forgotten.

    Args:
        entry: what is held.
        at: how many of its own tokens.
        kids: all entries that continue an entry.
    """
    if entry.name is not None:
        return entry.name, entry.start + at
    for kid in sorted(kids(entry), key=lambda kid: -kid.at):
        below = holder(kid, 0, kids)
        if below is not None:
            return below[0], entry.start + min(at, kid.at)
    return None


def key_hash(*parts: str | int) -> int:
    """A key, of 64 bits, for an entry without a whole block.

    >>> key_hash("a", "b") == key_hash("ab")
    False
    """
    text = "\0".join(map(str, parts))
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), len(parts)) or 1
