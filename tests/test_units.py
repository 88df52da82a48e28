"""Sizes, times and counts as people write them."""

from __future__ import annotations

import pytest

from transom.errors import InputError
from transom.units import plain_seconds, to_bytes, to_seconds, to_tokens


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2**31),
        ("2 gib", 2**31),
        ("512MB", 512_000_000),
        ("1.5kB", 1500),
        ("1_000", 1000),
        ("1,000", 1000),
        ("7B", 7),
        (" 1TiB ", 2**40),
    ],
)
def test_bytes(text, size):
    assert to_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "2Gi", "2 G B", "-1MB", "0", "0.5", "1.2.3kB", "nan", "2ms", "1e9", "."]
)
def test_a_text_that_is_not_a_size_is_refused(text):
    with pytest.raises(InputError, match=r"--memory is .*expected a size such as 2GiB"):
        to_bytes(text, "--memory")


@pytest.mark.parametrize(
    ("text", "seconds"), [("60ms", 0.06), ("1.5s", 1.5), ("250us", 250e-6), ("2min", 120.0)]
)
def test_seconds(text, seconds):
    assert to_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["60", "", "ms", "0ms", "-5ms", "5 minutes", "60m"])
def test_a_text_that_is_not_a_time_is_refused(text):
    with pytest.raises(InputError, match=r"--latency is .*expected a time with its unit"):
        to_seconds(text, "--latency")


@pytest.mark.parametrize(("text", "count"), [("4k", 4096), ("4096", 4096), ("0.5K", 512)])
def test_tokens(text, count):
    assert to_tokens(text) == count


@pytest.mark.parametrize("text", ["0", "1.5", "k", "4kB", "four", "0.0001k"])
def test_a_text_that_is_not_a_count_of_tokens_is_refused(text):
    with pytest.raises(InputError, match=r"length is .*expected a number of tokens"):
        to_tokens(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0425, "42.5 ms"), (2.0, "2 s"), (3e-6, "3 µs"), (1000, "1,000 s")]
)
def test_times_read_well(seconds, text):
    assert plain_seconds(seconds) == text
