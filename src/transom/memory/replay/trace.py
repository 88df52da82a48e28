"""Requests as they came in: which blocks their prompts consist of."""

from __future__ import annotations

import csv
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transom.errors import InputError
from transom.memory.replay.prefill import Prefill
from transom.tokens.json_line import read_object
from transom.validation import whole_number

__all__ = ["Trace", "TraceBlock", "read_trace"]

BLOCK_TOKENS = 512
SUFFIXES = (".jsonl", ".csv")


class TraceBlock(NamedTuple):
    """A piece of a prompt.

    Attributes:
        key: the same for pieces that are equal, as is everything before them.
        size: bytes that it takes when held, or any other unit.
        tokens: how many tokens it has.
        seconds: what is saved when it need not be computed.
    """

    key: Hashable
    size: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Trace:
    """What was asked for, in order.

    Attributes:
        name: where it was read from.
        requests: of each, the blocks of its prompt, first to last.
    """

    name: str
    requests: tuple[tuple[TraceBlock, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(block.tokens for request in self.requests for block in request)

    def sizes(self) -> dict[Hashable, int]:
        """Every block and its size: what a cache without a limit would end up with."""
        return {block.key: block.size for request in self.requests for block in request}


def read_trace(
    path: Path, prefill: Prefill | None = None, block_tokens: int = BLOCK_TOKENS
) -> Trace:
    """Read a trace, one request per line.

    `.jsonl` is the form of the Mooncake traces (arXiv 2407.00079): `hash_ids`, one for each block
    of `block_tokens` tokens and for a last one that may have fewer, each standing for the prompt
    up to its end, and `input_length` in tokens; tokens after the last block are left out. `.csv`
    has a header, and either these two columns, with ids parted by spaces, or `key` and, if wanted,
    `size` (bytes, 1 unless said), `tokens` (1) and `seconds` (to compute it). All blocks of
    `hash_ids` count as of one size, 1.

    Args:
        path: what to read.
        prefill: what a block takes to compute where the trace does not say.
        block_tokens: of every block but the last of a prompt.

    Raises:
        InputError: when it cannot be read, naming the line.
    """
    block_tokens = whole_number("read_trace", "block_tokens", block_tokens, 1)
    make = Blocks(prefill if prefill is not None else Prefill(), block_tokens)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and path.exists():
        raise InputError(f"{path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}.")
    requests = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _jsonl(file) if suffix == ".jsonl" else _csv(file)
            for number, fields in lines:
                try:
                    requests.append(make(fields))
                except (InputError, ValueError, TypeError, OverflowError) as error:
                    raise InputError(f"{path}, line {number}: {error}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the trace {path}: {error}.") from error
    if not requests:
        raise InputError(f"{path} has no requests; expected one per line.")
    return Trace(str(path), tuple(requests))


class Blocks:
    """Makes the blocks of requests, and sees to it that each always has the same one before it."""

    def __init__(self, prefill: Prefill, block_tokens: int) -> None:
        self._saved: Callable[[int, int], float] = prefill.saved
        self._tokens = block_tokens
        self._before: dict[Hashable, Hashable] = {}
        self._costs: dict[tuple[int, int], float] = {}

    def __call__(self, fields: dict[str, Any]) -> tuple[TraceBlock, ...]:
        """The blocks of one line.

        Raises:
            InputError: on missing or contradictory fields.
        """
        if fields.get("hash_ids") is not None:
            return self._chain(fields["hash_ids"], fields.get("input_length"))
        if fields.get("key") is not None:
            if isinstance(fields["key"], (list, dict)):
                raise InputError(f"key is {fields['key']!r:.80}; expected a number or a string.")
            return (self._single(fields),)
        raise InputError(f"no hash_ids and no key; there are {', '.join(map(str, fields))}.")

    def _chain(self, ids: Any, length: Any) -> tuple[TraceBlock, ...]:
        if isinstance(ids, str):
            ids = ids.split()
        elif not isinstance(ids, list) or any(isinstance(one, (list, dict)) for one in ids):
            raise InputError(f"hash_ids are {ids!r}; expected a list of numbers or strings.")
        whole = len(ids) * self._tokens
        tokens = whole if length in (None, "") else int(length)
        if not (tokens == 0 == whole or whole - self._tokens < tokens < whole + self._tokens):
            raise InputError(
                f"{len(ids)} blocks of {self._tokens} tokens cannot be a prompt of {tokens}; "
                "is the number of tokens per block another?"
            )
        before = None
        blocks = []
        for at, key in enumerate(ids):
            if self._before.setdefault(key, before) != before or key == before:
                raise InputError(
                    f"block {key!r} follows {before!r}, elsewhere {self._before[key]!r}; expected "
                    "that an id stands for all of the prompt up to its block."
                )
            before = key
            start = at * self._tokens
            blocks.append(self._block(key, start, min(start + self._tokens, tokens)))
        return tuple(blocks)

    def _block(self, key: Hashable, start: int, stop: int) -> TraceBlock:
        if (start, stop) not in self._costs:
            self._costs[start, stop] = self._saved(start, stop)
        return TraceBlock(key, 1, stop - start, self._costs[start, stop])

    def _single(self, fields: dict[str, Any]) -> TraceBlock:
        tokens = whole_number("request", "tokens", int(fields.get("tokens") or 1), 1)
        size = whole_number("request", "size", int(fields.get("size") or 1), 1, unit="bytes")
        given = fields.get("seconds")
        seconds = self._saved(0, tokens) if given in (None, "") else float(given)
        return TraceBlock(fields["key"], size, tokens, seconds)


def _jsonl(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, read_object(line)
            except InputError as error:
                raise InputError(f"line {number} {error}.") from error


def _csv(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(file, skipinitialspace=True)
    for fields in rows:
        yield rows.line_num, fields
