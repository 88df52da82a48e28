"""Finds which characters a regular expression may read one right after the other.

It builds Glushkov's automaton of the expression (Russian Mathematical Surveys 16, 1961): its states
are the places in the pattern that read a character, and an edge leads to a place that may read the
next character. When no edge joins two characters, no match attempt crosses the place between them,
so that the text on one side does not affect the matches on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Regex, pre_tokenizers

from transom.tokens.boundaries.parse import (
    Alternatives,
    Concatenation,
    Lookahead,
    Node,
    Reader,
    Repeat,
    parse,
)

__all__ = ["SplitPattern"]

Edge = tuple[Reader, Reader | None]  # None: a lookahead sees the next character


class SplitPattern:
    r"""What is known of the matches of an expression in any text.

    Args:
        expression: in the syntax of Oniguruma, which `tokenizers` uses.

    Raises:
        Unprovable: when it has a construct whose reach is not understood.

    >>> words = SplitPattern(r" ?\w+|\s+")
    >>> words.joins("a", "b"), words.joins("a", " "), words.joins(" ", "a")
    (True, False, True)
    >>> words.matches("a"), words.matches("!")
    (True, False)
    """

    def __init__(self, expression: str) -> None:
        shape = _shape(parse(expression))
        self._edges = shape.edges
        self._alone = shape.alone
        self._readers = {reader for edge in shape.edges for reader in edge if reader is not None}
        self._readers |= shape.first | shape.last
        self._may_be_empty = shape.nullable
        self._reads: dict[tuple[Reader, str], bool] = {}
        self._engines: dict[Reader, Callable[[str], list[Any]]] = {}

    def joins(self, left: str, right: str) -> bool:
        """Whether a match, or a match attempt, may depend on both of two neighbours."""
        if self._may_be_empty or self._folds(left) or self._folds(right):
            return True
        return any(
            self._read(one, left) and (other is None or self._read(other, right))
            for one, other in self._edges
        )

    def matches(self, character: str) -> bool | None:
        """Whether a character is always part of a match; False for never, None for not known."""
        if self._may_be_empty or self._folds(character):
            return None
        if not any(self._read(reader, character) for reader in self._readers):
            return False
        for reader, others in self._alone:
            if self._read(reader, character) and not any(self._read(o, character) for o in others):
                return True
        return None

    def _read(self, reader: Reader, character: str) -> bool:
        # The engine itself decides, so that its own tables of characters apply.
        known = self._reads.get((reader, character))
        if known is None:
            if reader not in self._engines:
                split = pre_tokenizers.Split(Regex(reader.expression), "removed")
                self._engines[reader] = split.pre_tokenize_str
            known = self._reads[reader, character] = not self._engines[reader](character)
        return known

    def _folds(self, character: str) -> bool:
        """Whether one character may match several, because case is ignored."""
        return len(character.casefold()) > 1 and any(r.ignores_case for r in self._readers)


@dataclass
class _Shape:
    nullable: bool
    first: set[Reader] = field(default_factory=set)
    last: set[Reader] = field(default_factory=set)
    edges: set[Edge] = field(default_factory=set)
    looks: bool = False  # whether it looks ahead before it reads anything
    # Readers whose single character is a match, unless one of the given other readers takes it.
    alone: list[tuple[Reader, frozenset[Reader]]] = field(default_factory=list)


def _shape(node: Node) -> _Shape:
    if isinstance(node, Reader):
        return _Shape(False, {node}, {node}, alone=[(node, frozenset())])
    if isinstance(node, Lookahead):
        return _Shape(True, looks=True)
    if isinstance(node, Alternatives):
        return _one_of([_shape(option) for option in node.options])
    if isinstance(node, Repeat):
        return _repeated(node)
    return _in_series(node)


def _one_of(shapes: list[_Shape]) -> _Shape:
    return _Shape(
        any(shape.nullable for shape in shapes),
        _union(shape.first for shape in shapes),
        _union(shape.last for shape in shapes),
        _union(shape.edges for shape in shapes),
        any(shape.looks for shape in shapes),
        [pair for shape in shapes for pair in shape.alone],
    )


def _repeated(node: Repeat) -> _Shape:
    shape = _shape(node.inner)
    if node.more_than_once:
        shape.edges |= _joined(shape, shape)
    if node.at_least > 1:
        shape.alone = []
    shape.nullable |= node.at_least == 0
    return shape


def _in_series(node: Concatenation) -> _Shape:
    whole = _Shape(True)
    taken: frozenset[Reader] = frozenset()
    conditional = False
    for part in node.parts:
        shape = _shape(part)
        conditional |= shape.looks
        whole.edges |= shape.edges | _joined(whole, shape)
        passed = [(one, others | taken) for one, others in shape.alone if whole.nullable]
        whole.alone = [*(whole.alone if shape.nullable else []), *passed]
        if isinstance(part, Repeat) and part.possessive:
            # It never backtracks, so only characters that it does not take reach the next part.
            taken |= shape.first
        if whole.nullable:
            whole.first |= shape.first
            whole.looks |= shape.looks
        whole.last = shape.last | (whole.last if shape.nullable else set())
        whole.nullable &= shape.nullable
    if conditional:
        whole.alone = []
    return whole


def _joined(shape: _Shape, following: _Shape) -> set[Edge]:
    edges: set[Edge] = {(one, other) for one in shape.last for other in following.first}
    return edges | {(one, None) for one in shape.last if following.looks}


def _union(sets: Iterable[set[Any]]) -> set[Any]:
    return set().union(*sets)
