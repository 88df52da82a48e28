from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from transom.tokens import pieces

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
byte_level = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
byte_level.decoder = decoders.ByteLevel()
BYTES = PreTrainedTokenizerFast(tokenizer_object=byte_level)


@given(st.text(max_size=30))
@settings(deadline=None)
def test_pieces_join_to_the_text_and_end_at_characters(text: str) -> None:
    ids = BYTES(text, add_special_tokens=False).input_ids
    streamed = list(pieces(BYTES, ids))
    assert "".join(streamed) == BYTES.decode(ids)
    assert all("\ufffd" not in piece for piece in streamed) or "\ufffd" in text


def test_a_character_cut_short_comes_at_the_end() -> None:
    ids = BYTES("a\N{GRINNING FACE}").input_ids[:-1]
    assert list(pieces(BYTES, ids)) == ["a", "\ufffd"]


def test_no_ids_give_no_text() -> None:
    assert list(pieces(BYTES, [])) == []


@pytest.mark.model
def test_the_real_tokenizer(smollm2: Any) -> None:
    text = "Naïve café, 漢字 and \N{GRINNING FACE}\N{PARTY POPPER}!\n\n  indented\tand done. "
    ids = smollm2.tokenizer(text).input_ids
    assert "".join(pieces(smollm2.tokenizer, ids)) == text
