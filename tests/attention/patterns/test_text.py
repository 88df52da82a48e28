"""Patterns as text: what is printed can be read again, and nothing but patterns is evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.patterns import SPELLED, combined, lengths_of_documents
from tests.helpers.policy_strategies import policies
from transom.attention import patterns
from transom.attention.patterns import (
    Pattern,
    causal,
    dilated,
    documents,
    global_tokens,
    parse_pattern,
    pattern,
    random_blocks,
    sinks,
    sliding,
)
from transom.attention.patterns.text import CONSTRUCTORS
from transom.errors import InputError, PolicyError
from transom.policies import Policy, Sinks

readable = combined(
    st.one_of(*SPELLED.values(), st.builds(documents, lengths_of_documents())), inverted=True
)


@given(readable)
def test_what_is_printed_reads_back(some: Pattern) -> None:
    assert parse_pattern(repr(some)) == some


@given(policies())
def test_a_policy_reads_as_everywhere_else(policy: Policy) -> None:
    assert parse_pattern(str(policy)) == parse_pattern(f" {policy} ") == pattern(policy)


def test_every_constructor_is_known_under_its_own_name() -> None:
    for name, make in CONSTRUCTORS.items():
        assert getattr(patterns, name) is make
    from_tensors = {"padding", "head_groups", "from_mask_mod"}  # or from functions
    functions = {name for name in patterns.__all__ if name[0].islower()} - {"parse_pattern"}
    assert functions - from_tensors == set(CONSTRUCTORS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sinks:4,window=508", pattern(Sinks(4, 508))),
        ("sinks", pattern(Sinks())),
        ("sinks(4)", sinks(4)),
        ('pattern("sinks:4,window=8")', pattern(Sinks(4, 8))),
        (" sliding( 512 )|sinks(count=4)\n", sliding(512) | sinks(4)),
        ("sliding(8, future=2)", sliding(8, 2)),
        ("causal() & ~dilated(8, 2)", causal() & ~dilated(8, 2)),
        ("random_blocks(3, seed=1, block=64)", random_blocks(3, block=64, seed=1)),
        ("global_tokens([7, 3])", global_tokens([3, 7])),
        ("causal() & documents([5, 3])", causal() & documents([5, 3])),
        # As in Python, & binds before |, and ~ before both.
        ("sinks(1) | ~sinks(2) & sinks(3)", sinks(1) | ((~sinks(2)) & sinks(3))),
        ("sinks(1) & (sinks(2) & sinks(3))", sinks(1) & (sinks(2) & sinks(3))),
    ],
)
def test_texts(text: str, expected: Pattern) -> None:
    assert parse_pattern(text) == expected


@pytest.mark.parametrize(
    ("some", "text"),
    [
        (sliding(8), "sliding(8)"),
        (sliding(8, 2), "sliding(8, 2)"),
        (sinks(1) & sinks(2) & sinks(3), "sinks(1) & sinks(2) & sinks(3)"),
        (sinks(1) & (sinks(2) & sinks(3)), "sinks(1) & (sinks(2) & sinks(3))"),
        (sinks(1) | sinks(2) & sinks(3), "sinks(1) | (sinks(2) & sinks(3))"),
        (~(sinks(1) | ~~sinks(2)), "~(sinks(1) | ~~sinks(2))"),
        (global_tokens(3), "global_tokens(3)"),
        (documents([5, 3]), "documents([5, 3])"),
        (pattern("sinks:4,window=8"), "pattern('sinks:4,window=8')"),
    ],
)
def test_printed(some: Pattern, text: str) -> None:
    assert repr(some) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a policy nor an expression"),
        ("windw:8", "neither a policy nor an expression"),
        ("sliding(8", "neither a policy nor an expression"),
        ("causal()\0", "neither a policy nor an expression"),
        ("causal(); causal()", "neither a policy nor an expression"),
        ("~" * 20_000 + "causal()", "cannot read"),
        ("|".join(["causal()"] * 5_000), "nested too deeply"),
        ("causal", "'causal' is not a pattern"),
        ("3", "'3' is not a pattern"),
        ("causal() + causal()", "'causal() + causal()' is not a pattern"),
        ("causal() | 3", "'3' is not a pattern"),
        ("not causal()", "'not causal()' is not a pattern"),
        ("causal().mask(3)", "'causal().mask(3)' is not a pattern"),
        ("causal() if 1 else causal()", "is not a pattern"),
        ("slidng(4)", "there is no 'slidng'"),
        ("__import__('os')", "there is no '__import__'"),
        ("padding([[1]])", "there is no 'padding'"),
        ("causal() & from_mask_mod(f)", "takes a Python function, which has no text"),
        ("sliding(int('4'))", "int('4')"),
        ("sliding(4.0)", "'4.0' is not a whole number, list or text"),
        ("sliding(2 * 4)", "'2 * 4' is not a whole number"),
        ("sliding(*[4])", "'*[4]' is not a whole number"),
        ("sliding(4, **3)", "unexpected keyword argument 'None'"),
        ("sliding()", "sliding(size, future=0) does not take these arguments: missing"),
        ("sliding(1, 2, 3)", "too many positional arguments"),
        (
            "random_blocks(3, 64)",
            "random_blocks(count, block=64, seed=0) does not take these arguments",
        ),
        ("sliding(1, size=2)", "multiple values for argument 'size'"),
        ("sliding(1, future=2, future=3)", "names an argument twice"),
    ],
    ids=lambda text: text[:30].replace("\0", "0"),
)
def test_a_mistake_lists_what_is_known(text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_pattern(text)
    said = str(raised.value)
    assert said.startswith("cannot read the pattern ")
    assert message in said
    assert "(full, window, sinks, chunked, hierarchical)" in said
    assert all(f"{name}(" in said for name in CONSTRUCTORS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("causal() & sliding(0)", "sliding: size is 0; expected at least 1"),
        ("sliding(-4)", "sliding: size is -4; expected at least 1"),
        ("sliding(True)", "sliding: size is True"),
        ("sliding('4')", "sliding: size is '4'"),
        ("documents(4)", "documents: numbers is 4; expected a list"),
        ("global_tokens([[1]])", r"global_tokens: position is \[1\]"),
        ("pattern(4)", "pattern: policy is 4"),
    ],
)
def test_what_a_constructor_refuses(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["window:0", "pattern('window:0')"])
def test_what_a_policy_refuses(text: str) -> None:
    with pytest.raises(PolicyError, match="window: size is 0; expected at least 1"):
        parse_pattern(text)
