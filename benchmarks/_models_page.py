"""The page docs/models.md, from the rows of `models.py`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from textwrap import fill

from tests.helpers.model_kinds.examine import Row
from tests.helpers.model_kinds.feeding import WAYS

# Families that people know first, in this order, by how the names of their kinds begin.
KNOWN = {
    "Llama": r"llama",
    "Mistral": r"mi(ni)?stral|mixtral",
    "Qwen": r"qwen",
    "Gemma": r"gemma|vaultgemma",
    "gpt-oss": r"gpt_oss",
    "DeepSeek": r"deepseek",
    "Phi": r"phi",
    "GLM": r"glm",
    "Granite": r"granite",
    "Cohere": r"cohere",
    "OLMo": r"(flex_)?olmo",
    "EXAONE": r"exaone",
    "Falcon": r"falcon",
    "StarCoder": r"starcoder|gpt_bigcode",
    "StableLM": r"stablelm",
    "SmolLM": r"smollm",
    "Hybrids": r"jamba|bamba|zamba|nemotron_h|lfm|minimax$|kimi_linear|recurrent_gemma",
}
WIDTH = 120
COLUMNS = ("full", "by position", "by score", "by recall", "quantized")
MARKS = {"works": "✓", "refused": "–", "no reference": "?"}
# What ends the part of a refusal that says why.
AFTER_WHY = r", (so no policy|which|but under|fewer than)|; (a bounded|choose|expected)|\.$"

INTRODUCTION = [
    """Every causal language model of transformers {transformers}, tiny and random, under every kind
    of policy. `make models` makes this page; nobody writes down here what should work.""",
    """Each model is fed in one prompt, in chunks, in single steps, in left-padded batches and as
    beams. What comes out is compared with the model's own code, run for each query on just the
    tokens that the policy lets it see, at the positions of a text of that length. By score and by
    recall, the policies have room for the whole text, and the model gives what it gives with its
    own cache; what they evict and recall is compared with references in the tests, on fewer
    models.""",
    """**✓** works: the same logits, however it is fed. **–** is refused by name, before anything
    is wrong. **?** runs, but nothing here can say whether it is right. Words in capitals are
    faults.""",
    """By position: {by_position}. By score: {by_score}. By recall: {by_recall}. Quantized:
    {quantized}.""",
]


def page(rows: list[Row], machine: dict[str, object]) -> str:
    """The whole page."""
    made = [row for row in rows if not row.not_made]
    families: dict[str, list[Row]] = {name: [] for name in [*KNOWN, "Others"]}
    for row in made:
        families[_family(row.kind)].append(row)
    policies = {
        column.replace(" ", "_"): ", ".join(f"`{policy}`" for policy in verdicts)
        for row in made[:1]
        for column, verdicts in row.verdicts.items()
    }
    parts = ["# Models\n"]
    for paragraph in INTRODUCTION:
        text = " ".join(paragraph.split()).format(transformers=machine["transformers"], **policies)
        parts.append(fill(text, WIDTH, break_on_hyphens=False) + "\n")
    parts += _summary(rows, made)
    parts += ["\n## Families\n", *_table((name, families[name]) for name in KNOWN)]
    parts += ["\n## The others\n", *_table([("", families["Others"])])]
    faults = [fault for row in made for fault in row.faults()]
    if faults:
        parts += ["\n## Faults\n", *(f"- {fault}" for fault in faults)]
    parts += ["\n## Why others are refused\n", *_reasons(made)]
    if len(made) < len(rows):
        parts += ["\n## Not made\n"]
        parts += [f"- `{row.kind}`: {row.not_made}." for row in rows if row.not_made]
    return "\n".join(parts) + "\n"


def _summary(rows: list[Row], made: list[Row]) -> list[str]:
    counts = {column: Counter(_cell(row, column) for row in made) for column in COLUMNS}
    words = list(dict.fromkeys([*MARKS.values(), *(w for c in counts.values() for w in c)]))
    lines = [
        f"{len(rows)} kinds of models, {len(made)} made.\n",
        f"| | {' | '.join(words)} |",
        f"|---|{'---|' * len(words)}",
    ]
    return lines + [
        f"| {column} | {' | '.join(str(counts[column][word]) for word in words)} |"
        for column in COLUMNS
    ]


def _table(families: Iterable[tuple[str, list[Row]]]) -> list[str]:
    lines = [f"| family | `model_type` | {' | '.join(COLUMNS)} | note |", f"|---|---|{'---|' * 6}"]
    for name, rows in families:
        for n, row in enumerate(sorted(rows, key=lambda row: row.kind)):
            cells = " | ".join(_cell(row, column) for column in COLUMNS)
            lines.append(f"| {name if n == 0 else ''} | `{row.kind}` | {cells} | {_note(row)} |")
    return lines


def _family(kind: str) -> str:
    hybrid = re.match(KNOWN["Hybrids"], kind)
    if hybrid:
        return "Hybrids"
    return next((name for name, begin in KNOWN.items() if re.match(begin, kind)), "Others")


def _cell(row: Row, column: str) -> str:
    """The one verdict of a column, or all there are."""
    words = {verdict.word for verdict in row.verdicts[column].values()}
    return ", ".join(MARKS.get(word, word) for word in sorted(words))


def _note(row: Row) -> str:
    found = [why for column in COLUMNS for why in _whys(row, column)]
    absolute = {verdict.word for verdict in row.verdicts["absolute"].values()}
    if absolute == {"works"} and _cell(row, "by position") != MARKS["works"]:
        found.append("works with absolute positions")
    if row.left_out and _cell(row, "by position") != MARKS["refused"]:
        ways = ", ".join(row.left_out)
        found.append(f"evicting not tried in {ways}: its own cache differs there")
    return "; ".join(dict.fromkeys(found))


def _whys(row: Row, column: str) -> list[str]:
    """Why a column is not all good, in short."""
    return [
        _short(verdict.why, row.kind)
        for verdict in row.verdicts[column].values()
        if verdict.word != "works"
    ]


def _short(why: str, kind: str) -> str:
    """A reason without the way of feeding, the name of the kind, and what follows from it."""
    without_way = re.sub(rf"^({'|'.join(WAYS)}): ", "", why)
    return re.split(AFTER_WHY, without_way.removeprefix(f"{kind} "), maxsplit=1)[0]


def _reasons(made: list[Row]) -> list[str]:
    """Kinds by reason, the most frequent first."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in made:
        by_reason: dict[str, list[str]] = defaultdict(list)
        for column in COLUMNS:
            if _cell(row, column) != MARKS["refused"]:
                continue
            for why in dict.fromkeys(_whys(row, column)):
                by_reason[why].append(column)
        for why, columns in by_reason.items():
            found[why][", ".join(columns)].append(f"`{row.kind}`")
    ordered = sorted(found.items(), key=lambda item: -sum(map(len, item[1].values())))
    lines = []
    for why, kinds in ordered:
        lines.append(f"- {why}:")
        for columns, names in kinds.items():
            every = columns == ", ".join(COLUMNS)
            lines.append(f"  - {'all policies' if every else columns}: {', '.join(names)}")
    return lines
