"""`hierarchical`: recent tokens in two tiers, local and global."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from transom.errors import PolicyError
from transom.policies.base import at_least, bytes_of, tokens_of
from transom.policies.positional import Positional, PositionsT
from transom.policies.shape import ModelShape

__all__ = ["Hierarchical"]

RECALLS = ("none", "blocks")
EXAMPLE = "2GiB"
RECALLED = ("block", "blocks", "common", "representatives", "chunk")
BLOCK, CHUNK, COMMON = 64, 8, 4
NUMBER_BYTES = 8  # int64, the number of each recalled block of a kv head
SUM_BYTES = 4  # float32, for each query of the present chunk
FINDING_BYTES = 4  # float32: votes for cold blocks, and the keys that find them


@dataclass(frozen=True)
class Hierarchical(Positional):
    """The `local` most recent tokens, and the `global_` tokens before those.

    Without recall both tiers are visible, so for a model this is a window of `local + global_`
    tokens. The tiers matter to `transom.windows.HierarchicalContext`, which holds them apart.

    With `recall="blocks"` the cache holds only the first block, the local tokens and a few blocks
    of global tokens; the other blocks are in a cold store. Every `chunk` tokens, each kv head of
    each layer looks for the blocks that would receive much of its queries' attention, and fetches
    them into the cache (InfLLM, https://arxiv.org/abs/2402.04617; Quest,
    https://arxiv.org/abs/2406.10774). It sees only the blocks that it looks for now; those that it
    looked for before stay in the cache while there is room. Tokens leave the local tier in whole
    blocks, so it holds up to `block - 1` tokens more.

    >>> Hierarchical(local=2, global_=3).spans(10)
    (Span(start=5, stop=10),)
    >>> Hierarchical(local=1024, global_=100_000, recall="blocks").capacity
    2048

    Attributes:
        local: the most recent tokens, always visible.
        global_: the tokens before those. With recall it may be given in bytes for a batch of one,
            as text (`"2GiB"`), and counts whole blocks.
        recall: `"none"` or `"blocks"`.
        block: tokens that are evicted and recalled together; 64 by default.
        blocks: the most blocks recalled at once; by default so many that `capacity` is twice
            `local`.
        common: how many of these, at most, a head takes because lower layers looked for them; by
            default 4, or half of `blocks` if that is less.
        representatives: how many keys of a block it is found by, those that stand out; by default
            all of its keys.
        chunk: tokens between two selections of blocks; 8 by default.
    """

    local: int = 512
    global_: int | str = 2048
    recall: str = "none"
    block: int | None = None
    blocks: int | None = None
    common: int | None = None
    representatives: int | None = None
    chunk: int | None = None

    name: ClassVar[str] = "hierarchical"
    summary: ClassVar[str] = "keeps recent tokens as local, and those before them as global"

    def check(self) -> None:
        at_least(self, "local", 1)
        if self.recall not in RECALLS:
            raise PolicyError(
                f"{self.name}: recall is {self.recall!r}; expected one of {', '.join(RECALLS)}."
            )
        given = [x for x in RECALLED if getattr(self, x) is not None]
        if not self.recalls:
            at_least(self, "global_", 1)
            if given:
                raise PolicyError(
                    f"{self.name}: {', '.join(given)} say how blocks are recalled; expected "
                    "recall=blocks beside them."
                )
            return
        for name in given:
            at_least(self, name, 0 if name == "common" else 1)
        if isinstance(self.global_, str):
            bytes_of(self, "global_", EXAMPLE)
        else:
            at_least(self, "global_", 1)
        if self.kv != "auto":
            raise PolicyError(
                f"{self.name}: kv={self.kv} cannot be combined with recall=blocks yet; leave one "
                "of them out."
            )
        block = self.block_size
        if self.local % block:
            near = max(block, round(self.local / block) * block)
            raise PolicyError(
                f"{self.name}: local is {self.local}, and tokens leave it in blocks of {block}; "
                f"expected a multiple of the block, such as {near}."
            )
        if block % self.chunk_size:
            raise PolicyError(
                f"{self.name}: chunk is {self.chunk_size} and a block has {block} tokens; expected "
                "a chunk that divides the block."
            )
        if self.representatives_per_block > block:
            raise PolicyError(
                f"{self.name}: representatives is {self.representatives} and a block has {block} "
                "tokens; expected at most as many."
            )
        if self.in_common > self.recalled >= 1:
            raise PolicyError(
                f"{self.name}: common is {self.common}, and {self.recalled} blocks are recalled; "
                "expected at most as many."
            )
        if isinstance(self.global_, int) and self.recalled > self.global_blocks:
            raise PolicyError(
                f"{self.name}: {self.recalled} blocks of {block} are to be recalled, and global is "
                f"{self.global_}; expected at least {self.recalled * block}, or fewer blocks."
            )
        if self.recalled < 1:
            raise PolicyError(
                f"{self.name}: local is {self.local}, and twice that has no room for a recalled "
                f"block of {block}; expected a larger local, a smaller block, or blocks=8, say."
            )

    @property
    def recalls(self) -> bool:
        """Whether old blocks are recalled."""
        return self.recall == "blocks"

    @property
    def block_size(self) -> int:
        """`block`, or its default."""
        return BLOCK if self.block is None else self.block

    @property
    def chunk_size(self) -> int:
        """`chunk`, or its default."""
        return min(CHUNK, self.block_size) if self.chunk is None else self.chunk

    @property
    def representatives_per_block(self) -> int:
        """`representatives`, or its default."""
        return self.block_size if self.representatives is None else self.representatives

    @property
    def recalled(self) -> int:
        """`blocks`, or its default."""
        return self.local // self.block_size - 2 if self.blocks is None else self.blocks

    @property
    def in_common(self) -> int:
        """`common`, or its default."""
        return min(COMMON, self.recalled // 2) if self.common is None else self.common

    @property
    def local_blocks(self) -> int:
        """Whole blocks of the local tier."""
        return self.local // self.block_size

    @property
    def global_blocks(self) -> int:
        """Blocks of the global tier: the cold ones.

        Raises:
            PolicyError: when it is given in bytes; `on` converts it to tokens.
        """
        return -(-tokens_of(self, "global_") // self.block_size)

    @property
    def capacity(self) -> int:
        if self.recalls:
            return self.local + (self.recalled + 2) * self.block_size
        return self.local + int(self.global_)

    @property
    def pinned(self) -> int:
        return self.block_size if self.recalls else 0

    def local_start(self, q: PositionsT) -> PositionsT:
        if not self.recalls:
            return q - self.capacity + 1
        block = self.block_size
        return (q // block - self.local_blocks - self.global_blocks) * block

    @property
    def decides_by(self) -> str:
        return "recall" if self.recalls else "position"

    def layer_bytes(self, shape: ModelShape, tokens: int) -> int:
        """Bytes of one layer that holds `tokens` tokens in each kv head, without cold blocks.

        With recall a layer also holds the numbers of the recalled blocks, and the queries of the
        present chunk with their sums.
        """
        if not self.recalls:
            return super().layer_bytes(shape, tokens)
        head = min(tokens, self.capacity) * shape.head_bytes + self.recalled * NUMBER_BYTES
        query = shape.head_dim * shape.itemsize + SUM_BYTES
        return shape.kv_heads * head + shape.heads * self.chunk_size * query

    def cold_block_bytes(self, shape: ModelShape) -> int:
        """Bytes of a cold block over all layers, with the keys and the vote that find it."""
        found_by = self.representatives_per_block * max(1, shape.head_dim // 2) + 1  # and a vote
        finding = shape.layers * shape.kv_heads * found_by * FINDING_BYTES
        return self.block_size * shape.token_bytes + finding

    def visible_pairs(self, start: int, stop: int) -> int:
        """As `Policy.visible_pairs`; with recall, as if every recalled block were seen."""
        if not self.recalls:
            return super().visible_pairs(start, stop)
        queries = np.arange(start, stop, dtype=np.int64)
        newest = self.block_size - 1 - queries % self.block_size
        return int(np.minimum(queries + 1, self.capacity - newest).sum())

    def on(self, shape: ModelShape) -> Hierarchical:
        if not isinstance(self.global_, str):
            return self
        budget = bytes_of(self, "global_", EXAMPLE)
        each = self.cold_block_bytes(shape)
        blocks = budget // each
        if not blocks:
            raise PolicyError(
                f"{self.name}: global is {self.global_}, and one block of {self.block_size} tokens "
                f"takes {each:,} bytes in this model; expected more."
            )
        return replace(self, global_=blocks * self.block_size)
