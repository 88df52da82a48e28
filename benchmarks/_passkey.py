"""Pass-key prompts: a number hidden somewhere in a long text, and asked for at the end.

The prompt is the one of Landmark Attention (arXiv 2305.16300), in the model's chat format, with the
start of the answer given, so that what counts is the number alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n\n"
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
QUESTION = "\n\nWhat is the pass key?"
ANSWER = "The pass key is "
MARK = "transom-text"


@dataclass(frozen=True)
class Trial:
    """One prompt, as token ids: up to the number, from it to the question, and the question.

    Attributes:
        kind: of the text around the number.
        depth: where the number is, from 0 to 1.
        before: ids up to the number; those of a later trial of the same kind begin with them.
        after: the number and the text after it.
        question: and the beginning of the answer.
        key: the ids of the number.
    """

    kind: str
    depth: float
    before: list[int]
    after: list[int]
    question: list[int]
    key: list[int]


def trials(tokenizer: Any, kind: str, text: str, count: int, tokens: int) -> Iterator[Trial]:
    """`count` prompts of about `tokens` tokens, the number ever deeper; the same every time."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": MARK}], tokenize=False, add_generation_prompt=True
    )
    opening, _, closing = chat.partition(MARK)
    head, question = encode(opening + TASK), encode(QUESTION + closing + ANSWER)
    draw = random.Random(0)
    hidden = encode(_hidden("00000"))
    stream = encode(text)[: tokens - len(head) - len(question) - len(hidden)]
    for number in range(count):
        depth = (number + 0.5) / count
        key = str(draw.randint(10_000, 99_999))
        cut = int(depth * len(stream))
        before, after = head + stream[:cut], encode(_hidden(key)) + stream[cut:]
        yield Trial(kind, depth, before, after, question, encode(key))


def _hidden(key: str) -> str:
    return f" The pass key is {key}. Remember it. {key} is the pass key. "
