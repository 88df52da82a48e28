"""Patterns as text, such as `sinks(4) | sliding(508)`, for the command line and config files."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import TypeAlias

from transom.attention.patterns import chosen, from_policy, positional, rows
from transom.attention.patterns.base import Pattern
from transom.errors import InputError
from transom.policies import Positional, known, parse
from transom.validation import known_keywords

__all__ = ["CONSTRUCTORS", "parse_pattern"]

Value: TypeAlias = "int | str | list[Value]"

CONSTRUCTORS: Mapping[str, Callable[..., Pattern]] = {
    "causal": positional.causal,
    "chunked": positional.chunked,
    "dilated": positional.dilated,
    "documents": rows.documents,
    "everything": positional.everything,
    "global_tokens": chosen.global_tokens,
    "pattern": from_policy.of_policy,
    "prefix_lm": positional.prefix_lm,
    "random_blocks": chosen.random_blocks,
    "sinks": positional.sinks,
    "sliding": positional.sliding,
}


@known_keywords
def parse_pattern(text: str) -> Pattern:
    """Read a pattern from the text of a policy, or from an expression in Python syntax.

    An expression calls functions of `transom.attention.patterns` with whole numbers, texts and
    lists of those, and combines the patterns with `&`, `|` and `~`. Nothing else is evaluated. The
    `repr` of a pattern that was read can be read again, and gives an equal pattern.

    Raises:
        InputError: if the text cannot be read, or a function does not take its arguments. The
            message lists the policies and functions.
        PolicyError: if the parameters of a policy make no sense.

    >>> parse_pattern("causal() & ~dilated(8, 2)")
    causal() & ~dilated(8, 2)
    >>> parse_pattern("sinks:4,window=508") == parse_pattern("pattern('sinks:4,window=508')")
    True
    """
    if text.partition(":")[0].strip() in known():
        return from_policy.of_policy(parse(text))
    try:
        return _pattern(_expression(text))
    except _Unreadable as error:
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    raise InputError(
        f"cannot read the pattern {text!r}: {reason}. Expected a policy "
        f"({', '.join(_by_position())}), such as sinks:4,window=508; or some of these, combined "
        f"with &, | and ~: {', '.join(_call(name) for name in CONSTRUCTORS)}."
    )


class _Unreadable(Exception):
    """Why a part of an expression cannot be read."""


def _expression(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError):
        raise _Unreadable("it is neither a policy nor an expression") from None


def _pattern(node: ast.expr) -> Pattern:
    match node:
        case ast.BinOp(left, ast.BitAnd(), right):
            return _pattern(left) & _pattern(right)
        case ast.BinOp(left, ast.BitOr(), right):
            return _pattern(left) | _pattern(right)
        case ast.UnaryOp(ast.Invert(), operand):
            return ~_pattern(operand)
        case ast.Call(ast.Name(name), arguments, keywords) if name in CONSTRUCTORS:
            named = {str(keyword.arg): _value(keyword.value) for keyword in keywords}
            if len(named) < len(keywords):
                raise _Unreadable(f"{ast.unparse(node)} names an argument twice")
            return _made(name, [_value(argument) for argument in arguments], named)
        case ast.Call(ast.Name("from_mask_mod")):
            raise _Unreadable("from_mask_mod takes a Python function, which has no text")
        case ast.Call(ast.Name(name)):
            raise _Unreadable(f"there is no {name!r}")
    raise _Unreadable(f"{ast.unparse(node)!r} is not a pattern")


def _made(name: str, values: list[Value], named: dict[str, Value]) -> Pattern:
    make = CONSTRUCTORS[name]
    try:
        signature(make).bind(*values, **named)
    except TypeError as error:
        raise _Unreadable(f"{_call(name)} does not take these arguments: {error}") from None
    return make(*values, **named)


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(int() | str() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)):
            return -value
        case ast.List(elements):
            return [_value(element) for element in elements]
    raise _Unreadable(f"{ast.unparse(node)!r} is not a whole number, list or text")


def _call(name: str) -> str:
    """How a function is called, with its defaults."""
    parameters = [
        p.name if p.default is Parameter.empty else f"{p.name}={p.default}"
        for p in signature(CONSTRUCTORS[name]).parameters.values()
    ]
    return f"{name}({', '.join(parameters)})"


def _by_position() -> list[str]:
    return [name for name, kind in known().items() if issubclass(kind, Positional)]
