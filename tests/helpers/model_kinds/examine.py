"""One kind of model under every kind of policy: works, is refused, or is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor
from transformers import DynamicCache

from tests.helpers.model_kinds.exceptions import NOT_MADE
from tests.helpers.model_kinds.feeding import IN_STEPS, LENGTH, WAYS, Fed, texts, whole
from tests.helpers.model_kinds.lone_query import lone_logits
from tests.helpers.model_kinds.small_configs import small_config, small_model
from transom import BoundedCache
from transom.errors import TransomError
from transom.policies import parse

__all__ = ["CASES", "FEW_CASES", "FEW_WAYS", "Case", "Row", "Verdict", "examine"]

CLOSE = 2e-3  # of the standard deviation of logits
QUANTIZED = 0.1  # the same in the middle, where keys and values have 8 bits
NEWEST = 8  # tokens of a text that see some in 8 bits; the newest 64 and the first 4 are exact
TELLING = 20.0  # how much larger than what is close a policy's effect has to be
MOST_WAYS = ("one prompt", "chunks", "single steps", "left-padded chunks", "beams")
MAKING = "making the cache"
LONG = 83  # of a text, under kv=int8


@dataclass(frozen=True)
class Case:
    """A policy, and what it is compared with.

    Attributes:
        column: of the table.
        policy: as text.
        positions: of the cache.
        evicts: it is compared with the reference; otherwise it keeps all, and gives what the model
            gives by itself.
        length: of the texts.
        close: the largest difference of a logit that is none, in standard deviations.
        ways: in which texts are fed.
    """

    column: str
    policy: str
    positions: Literal["compact", "absolute"] = "compact"
    evicts: bool = False
    length: int = LENGTH
    close: float = CLOSE
    ways: tuple[str, ...] = MOST_WAYS


FEW_WAYS = ("chunks", "left-padded chunks", "beams")  # with several tokens, one, and padding
CASES = [
    Case("full", "full"),
    Case("by position", "window:20", evicts=True),
    Case("by position", "sinks:3,window=17", evicts=True),
    Case("by position", "chunked:20,chunk=6", evicts=True, ways=FEW_WAYS),
    Case("by position", "hierarchical:8,global=12", evicts=True, ways=FEW_WAYS),
    Case("absolute", "sinks:3,window=17", positions="absolute", evicts=True, ways=FEW_WAYS),
    Case("by score", "snapkv:64"),
    Case("by score", "heavy-hitters:64", ways=FEW_WAYS),
    Case("by recall", "hierarchical:1024,global=100000,recall=blocks"),
    Case("quantized", "sinks:3,window=73,kv=int8", evicts=True, length=LONG, close=QUANTIZED),
]
# Enough for a test of many kinds.
FEW_CASES = [replace(CASES[n], ways=FEW_WAYS) for n in (0, 2, 6, 8, 9)]


@dataclass(frozen=True)
class Verdict:
    """What one policy gives.

    Attributes:
        word: `works`, `refused`, `no reference`, `WRONG` or `RAW ERROR`.
        why: the reason, in a sentence; empty where it works.
        off: the largest difference of a logit, in standard deviations.
    """

    word: str
    why: str = ""
    off: float | None = None


@dataclass
class Row:
    """What is known of one kind of model.

    Attributes:
        kind: its `model_type`.
        not_made: why there is no model; empty where there is one.
        verdicts: by column and policy.
        left_out: ways to feed it in which transformers' own cache fails, or gives something else
            than no cache; under a policy that evicts, they are left out.
    """

    kind: str
    not_made: str = ""
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """Everything that is wrong, or an error that does not come from transom."""
        return [
            f"{self.kind}, {policy} ({column}): {verdict.word}: {verdict.why}"
            for column, verdicts in self.verdicts.items()
            for policy, verdict in verdicts.items()
            if verdict.word in ("WRONG", "RAW ERROR")
        ]

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Row:
        """What `dataclasses.asdict` made of a row."""
        verdicts = {
            column: {policy: Verdict(**verdict) for policy, verdict in policies.items()}
            for column, policies in found["verdicts"].items()
        }
        return cls(found["kind"], found["not_made"], verdicts, found["left_out"])


def examine(kind: str, cases: Sequence[Case] = CASES) -> Row:
    """Make a model of this kind, feed it under these policies, and compare."""
    row = Row(kind)
    if kind in NOT_MADE:
        row.not_made = NOT_MADE[kind]
        return row
    try:
        model = small_model(small_config(kind))
        lengths = sorted({case.length for case in cases})
        # All references first: a bounded cache changes which attention the config names.
        found = [
            _Examination(model, row, [case for case in cases if case.length == length])
            for length in lengths
        ]
    except Exception as error:
        row.not_made = _said(error)
        return row
    for examination in found:
        examination.run()
    return row


class _Examination:
    """Texts of one length: what the model gives with its own cache, and what each case should."""

    def __init__(self, model: Any, row: Row, cases: list[Case]) -> None:
        self.model, self.row, self.ids = model, row, texts(cases[0].length)
        self.plain = whole(model, self.ids)
        self.scale = float(self.plain.std())
        self.own: dict[str, Fed] = {}
        self.exact: dict[str, bool] = {}
        for way in dict.fromkeys(way for case in cases for way in case.ways):
            self._feed_own_cache(way)
            if not self.exact.get(way) and way in IN_STEPS:
                self._feed_own_cache(IN_STEPS[way])
        proof = self._proof()
        self.expected = {case: self._expected(case, proof) for case in cases}

    def run(self) -> None:
        for case, expected in self.expected.items():
            verdict = self._verdict(case, expected)
            self.row.verdicts.setdefault(case.column, {})[case.policy] = verdict

    def _feed_own_cache(self, way: str) -> None:
        """Note what comes, and whether it is what the model gives without a cache."""
        try:
            cache = DynamicCache(config=self.model.config)
            fed = WAYS[way](self.model, cache, self.ids)
            off = self._off(fed, _cut(self.plain, fed))
        except Exception as error:
            self.row.left_out[way] = f"fails with a DynamicCache: {_said(error)}"
            return
        self.own[way] = fed
        self.exact[way] = off <= CLOSE
        if off > CLOSE:
            self.row.left_out[way] = f"differs by {off:.1g} with a DynamicCache"

    def _proof(self) -> str:
        """Why there is no reference; empty where it gives what the model gives, under no bound."""
        try:
            found = lone_logits(self.model, self.ids, lambda query, key: True)
        except Exception as error:
            return f"the reference fails: {_said(error)}"
        off = float((found - self.plain).abs().max()) / self.scale
        return f"the reference is off by {off:.1g} under no bound" if off > CLOSE else ""

    def _expected(self, case: Case, proof: str) -> dict[str, list[Tensor]] | str:
        """Logits by way of feeding, or why there are none."""
        if not case.evicts:
            own = {way: [logits for logits, _ in fed] for way, fed in self.own.items()}
            return {way: own[way] for way in case.ways if way in own}
        if proof:
            return proof
        policy: Any = parse(case.policy)

        def visible(query: int, key: int) -> bool:
            return bool(policy.visible(query, key))

        compact = case.positions == "compact"
        logits = lone_logits(self.model, self.ids, visible, compact=compact)
        effect = float((logits - self.plain).abs().max()) / self.scale
        if effect < TELLING * CLOSE:
            return f"the policy changes logits by {effect:.1g} only, which tells nothing"
        ways = [way if self.exact.get(way) else IN_STEPS.get(way, way) for way in case.ways]
        return {way: _cut(logits, self.own[way]) for way in ways if self.exact.get(way)}

    def _verdict(self, case: Case, expected: dict[str, list[Tensor]] | str) -> Verdict:
        worst, way = 0.0, MAKING
        known = expected if isinstance(expected, dict) else {}
        try:
            self._cache(case)
            for way in known or self.own:
                fed = WAYS[way](self.model, self._cache(case), self.ids)
                off = self._off(fed, known[way], case.column == "quantized") if known else 0.0
                if not off <= case.close:
                    return Verdict("WRONG", f"{way}: off by {off:.2g} standard deviations", off)
                worst = max(worst, off)
        except TransomError as error:
            said = _first_sentence(error)
            return Verdict("refused", said if way == MAKING else f"{way}: {said}")
        except Exception as error:
            return Verdict("RAW ERROR", f"{way}: {_said(error)}")
        if isinstance(expected, str):
            return Verdict("no reference", expected)
        if not known:
            return Verdict("no reference", "with its own cache the model gives something else")
        return Verdict("works", off=worst)

    def _cache(self, case: Case) -> BoundedCache:
        policy: Any = parse(case.policy)
        return BoundedCache(policy, config=self.model.config, positions=case.positions)

    def _off(self, fed: Fed, expected: list[Tensor], quantized: bool = False) -> float:
        """The largest difference of a logit, in standard deviations.

        Of a quantized cache it is that of the middle one of the newest tokens: where a number
        decides which experts are asked, the least error can change all logits of a token.
        """
        offs = []
        for (logits, _), right in zip(fed, expected, strict=True):
            by_token = (logits - right).abs().amax(-1)
            offs.append(float(by_token[-NEWEST:].median() if quantized else by_token.max()))
        return max(offs) / self.scale


def _cut(logits: Tensor, fed: Fed) -> list[Tensor]:
    """Of the logits of whole texts, those of what was fed."""
    return [logits[row, : len(given)] for given, row in fed]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(". ")[0].rstrip(".")[:300] + "."
