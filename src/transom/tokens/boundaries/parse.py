"""Parses the regular expressions of pre-tokenizers into trees."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "Alternatives",
    "Concatenation",
    "Lookahead",
    "Node",
    "Reader",
    "Repeat",
    "Unprovable",
    "parse",
]

# Escapes that read one character: a class, a property, a code, or the character itself.
ESCAPE = re.compile(
    r"""\\(?: [sSdDwWhH] | [pP]\{\^?\w+\} | x\{[0-9a-fA-F]+\} | x[0-9a-fA-F]{2} | u[0-9a-fA-F]{4}
          | [rntfvae] | [^\w\s] | \s )""",
    re.VERBOSE,
)
COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")


class Unprovable(Exception):
    """The ids may depend on more text than is understood here; the message says why."""


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads one character; each place in an expression is a separate reader."""

    expression: str
    ignores_case: bool


@dataclass(frozen=True)
class Lookahead:
    """Reads nothing, but looks at the next character."""


@dataclass(frozen=True)
class Repeat:
    """Repeats its inner part."""

    inner: Node
    at_least: int
    more_than_once: bool
    possessive: bool


@dataclass(frozen=True)
class Alternatives:
    """The first of its options that matches."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Concatenation:
    """All its parts, one after the other."""

    parts: tuple[Node, ...]


Node = Reader | Lookahead | Repeat | Alternatives | Concatenation


def parse(expression: str) -> Node:
    """The tree of an expression in Oniguruma's Ruby syntax.

    Raises:
        Unprovable: when it has a construct that is not known here, such as a lookbehind.
    """
    parser = _Parser(expression)
    node = parser.choice(ignores_case=False)
    if parser.rest:
        raise parser.unknown()
    return node


class _Parser:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._at = 0

    @property
    def rest(self) -> str:
        return self._expression[self._at :]

    def unknown(self) -> Unprovable:
        return Unprovable(f"{self.rest:.12} in the regular expression {self._expression}")

    def take(self, *options: str) -> str:
        """Step over the first of `options` that comes next, and return it; else an empty string."""
        for option in options:
            if self._expression.startswith(option, self._at):
                self._at += len(option)
                return option
        return ""

    def choice(self, ignores_case: bool) -> Node:
        options = [self.series(ignores_case)]
        while self.take("|"):
            options.append(self.series(ignores_case))
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def series(self, ignores_case: bool) -> Node:
        parts: list[Node] = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self.counted(self.single(ignores_case)))
        return Concatenation(tuple(parts))

    def counted(self, node: Node) -> Node:
        while sign := self.take("*", "+", "?", "{"):
            if isinstance(node, Lookahead):
                raise self.unknown()
            at_least, at_most = {"*": (0, 2), "+": (1, 2), "?": (0, 1)}.get(sign) or self.count()
            # After a count, + is another repetition; after a sign, it makes it possessive.
            possessive = sign != "{" and bool(self.take("+"))
            if not possessive and at_least != at_most:  # {n}? means that it is optional
                self.take("?")
            node = Repeat(node, at_least, at_most > 1, possessive)
        return node

    def count(self) -> tuple[int, int]:
        self._at -= 1
        found = COUNT.match(self._expression, self._at)
        if not found or not (found[1] or found[3]):
            raise self.unknown()
        at_least = int(found[1] or 0)
        at_most = at_least if not found[2] else int(found[3] or at_least + 2)
        if not at_most:
            raise self.unknown()
        self._at = found.end()
        return at_least, at_most

    def single(self, ignores_case: bool) -> Node:
        if self.take("(?:"):
            return self.closed(self.choice(ignores_case))
        if self.take("(?i:"):
            return self.closed(self.choice(ignores_case=True))
        if self.take("(?!", "(?="):
            return self.look(ignores_case)
        if self.take("$", r"\z"):
            return Lookahead()
        if self.rest[0] == "(":
            if self.rest.startswith("(?"):
                raise self.unknown()
            self.take("(")
            return self.closed(self.choice(ignores_case))
        return self.reader(ignores_case)

    def closed(self, node: Node) -> Node:
        if not self.take(")"):
            raise self.unknown()
        return node

    def look(self, ignores_case: bool) -> Node:
        before = self._at
        inner = self.closed(self.choice(ignores_case))
        options = inner.options if isinstance(inner, Alternatives) else (inner,)
        for option in options:
            parts = option.parts if isinstance(option, Concatenation) else (option,)
            if len(parts) != 1 or not isinstance(parts[0], Reader | Lookahead):
                self._at = before
                raise self.unknown()
        return Lookahead()

    def reader(self, ignores_case: bool) -> Reader:
        start = self._at
        if self.rest[0] == "[":
            self.bracket()
        elif self.rest[0] == "\\":
            found = ESCAPE.match(self._expression, self._at)
            if not found:
                raise self.unknown()
            self._at = found.end()
        elif self.rest[0] in "^*+?{":
            raise self.unknown()
        else:
            self._at += 1
        expression = self._expression[start : self._at]
        return Reader(f"(?i:{expression})" if ignores_case else expression, ignores_case)

    def bracket(self) -> None:
        """Step over [...] with nested brackets; the regex engine decides what it matches."""
        start, depth = self._at, 0
        while self.rest:
            if self.rest[0] == "\\":
                self._at += 2
                continue
            if self.take("["):
                depth += 1
                self.take("^")
                self.take("]")  # a bracket at the start is a literal
            elif self.take("]"):
                depth -= 1
                if not depth:
                    return
            else:
                self._at += 1
        self._at = start
        raise self.unknown()
