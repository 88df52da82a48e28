"""Equal ids have equal fingerprints; different fingerprints say what differs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from transom.errors import InputError
from transom.tokens import differences, fingerprint

VOCABULARY = {"a": 0, "b": 1, "ab": 2}


def bpe(**settings: Any) -> Tokenizer:
    return Tokenizer(models.BPE(VOCABULARY, [("a", "b")], **settings))


def test_equal_tokenizers_have_equal_fingerprints() -> None:
    one, other = bpe(), Tokenizer.from_str(bpe().to_str())
    assert fingerprint(one) == fingerprint(other)
    assert differences(fingerprint(one), fingerprint(other)) == ()


def test_the_order_of_the_vocabulary_and_the_decoder_make_no_difference() -> None:
    other = Tokenizer(models.BPE(dict(reversed(VOCABULARY.items())), [("a", "b")]))
    other.decoder = decoders.ByteLevel()
    other.enable_truncation(4)
    other.enable_padding()
    assert fingerprint(other) == fingerprint(bpe())


def test_digits_lost_in_json_make_no_difference() -> None:
    rng = random.Random(0)
    scores = [(f"w{number}", -20 * rng.random()) for number in range(500)]
    unigram = Tokenizer(models.Unigram([("?", 0.0), *scores], unk_id=0))
    assert fingerprint(Tokenizer.from_str(unigram.to_str())) == fingerprint(unigram)
    scores[7] = ("w7", scores[7][1] + 1e-6)
    other = Tokenizer(models.Unigram([("?", 0.0), *scores], unk_id=0))
    assert fingerprint(other) != fingerprint(unigram)


def changed(part: str) -> Tokenizer:
    tokenizer = bpe()
    if part == "normalizer":
        tokenizer.normalizer = normalizers.Lowercase()
    elif part == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    elif part == "added tokens":
        tokenizer.add_tokens([AddedToken("<end>")])
    elif part == "merges":
        tokenizer.model = models.BPE(VOCABULARY, [])
    else:
        tokenizer.model = models.BPE({"b": 0, "a": 1, "ab": 2}, [("a", "b")])
    return tokenizer


@pytest.mark.parametrize(
    "part", ["normalizer", "pre-tokenizer", "added tokens", "merges", "vocabulary"]
)
def test_a_change_that_changes_ids_is_named(part: str) -> None:
    named = differences(fingerprint(bpe()), fingerprint(changed(part)))
    assert len(named) == 1
    assert part in named[0]


def test_a_tokenizer_of_transformers_has_the_fingerprint_of_its_backend() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transom[torch]")
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe())
    assert fingerprint(wrapped) == fingerprint(bpe())


def test_a_tokenizer_with_python_parts_has_no_fingerprint() -> None:
    class Mine:
        def pre_tokenize(self, text: Any) -> None: ...

    tokenizer = bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Mine())
    for what in (tokenizer, "smollm2"):
        with pytest.raises(InputError, match=r"Expected a tokenizers\.Tokenizer"):
            fingerprint(what)
