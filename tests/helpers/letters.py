"""Tokenizers of one id per character."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}$\n{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def tokenizer_of(letters: str) -> Any:
    """A real fast tokenizer of one id per character."""
    vocabulary = ["#", "^", "$", *letters, *"uas \n"]
    words = {letter: index for index, letter in enumerate(dict.fromkeys(vocabulary))}
    backend = Tokenizer(models.WordLevel(words, unk_token="#"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="$", unk_token="#", chat_template=TEMPLATE
    )


class Letters:
    """A tokenizer of one id per character, with only the methods that a Context needs."""

    eos_token, eos_token_id, chat_template = "$", 2, None

    def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> Any:
        ids = [1] * add_special_tokens + [3 + ord(letter) % 90 for letter in text]
        return type("Encoding", (), {"input_ids": ids})

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(30 + i) for i in ids if i > 2 or not skip_special_tokens)
