from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer

from tests.helpers.tokenizer_families import FAMILIES, PROSE, TEXTS, family
from transom.errors import InputError, MissingExtraError
from transom.tokens import Encoder, IncrementalTokenizer, tokenize_text
from transom.tokens.backends import Reference, backends, choose_backend
from transom.tokens.backends.complete import Complete
from transom.tokens.backends.fastokens import Fastokens
from transom.tokens.backends.gigatoken import Gigatoken

FAST = [Fastokens, Gigatoken]


def whole(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def lacking_bytes() -> Tokenizer:
    """A byte-level vocabulary that lacks some bytes, like that of SmolLM2."""
    settings = json.loads(family("gpt2").to_str())
    model = settings["model"]
    lacking = {*"Ã©Ą"}  # 0xC3 and 0xA9 (together é), and 0x04
    model["merges"] = [merge for merge in model["merges"] if not lacking & {*"".join(merge)}]
    kept = [token for token in model["vocab"] if not lacking & {*token}]
    model["vocab"] = {token: i for i, token in enumerate(kept)}
    settings["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(settings))


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("name", ["gpt2", "gpt2, prefix space", "llama3", "llama2"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_the_same_ids(kind: Any, name: str, text: str) -> None:
    backend = BACKENDS[kind, name]
    assert [ids.tolist() for ids in backend.encode([text, "", PROSE])] == [
        whole(family(name), text),
        whole(family(name), ""),
        whole(family(name), PROSE),
    ]


BACKENDS = {
    (kind, name): kind(Reference(family(name)))
    for kind in FAST
    for name in ("gpt2", "gpt2, prefix space", "llama3", "llama2")
}


@pytest.mark.parametrize("kind", FAST)
def test_the_same_ids_in_blocks(kind: Any) -> None:
    encoder = Encoder(family("llama2"), BACKENDS[kind, "llama2"])
    text = PROSE * 20
    arrays = list(tokenize_text(encoder, [text[:1000], text[1000:]]))
    assert np.concatenate(arrays).tolist() == whole(family("llama2"), text)
    growing = IncrementalTokenizer(encoder)
    for start in range(0, len(PROSE), 7):
        growing.append(PROSE[start : start + 7])
    assert growing.ids.tolist() == whole(family("llama2"), PROSE)


@pytest.mark.parametrize("kind", FAST)
def test_bytes_that_a_vocabulary_lacks(kind: Any) -> None:
    tokenizer = lacking_bytes()
    backend = kind(Reference(tokenizer))
    texts = [PROSE, "théese the", "thé", "\x04", "tag \x04\x04 ing", ""]
    assert [ids.tolist() for ids in backend.encode(texts)] == [whole(tokenizer, t) for t in texts]
    assert whole(tokenizer, "thée") == whole(tokenizer, "the")  # the é is lost
    choice = choose_backend(tokenizer, [PROSE], kind.name)
    assert choice.backend.name == kind.name


def test_settings_that_lack_no_byte_are_not_changed() -> None:
    assert Complete(Reference(family("gpt2"))).settings == family("gpt2").to_str()
    assert Complete(Reference(family("bert"))).settings == family("bert").to_str()


def test_the_first_backend_that_agrees_is_chosen() -> None:
    choice = choose_backend(family("gpt2"), [PROSE])
    assert choice.backend.name in ("fastokens", "gigatoken")
    assert "which agrees with tokenizers on" in choice.why
    assert choice.why.startswith(choice.backend.name)
    assert Encoder(family("gpt2"), choice.backend).backend is choice.backend


@pytest.mark.parametrize("name", FAMILIES)
def test_the_chosen_backend_gives_the_same_ids(name: str) -> None:
    choice = choose_backend(family(name), [PROSE])
    [ids] = choice.backend.encode([PROSE * 3])
    assert ids.tolist() == whole(family(name), PROSE * 3)


def test_tokenizers_is_chosen_if_no_other_backend_supports_the_tokenizer() -> None:
    choice = choose_backend(family("bert"), [PROSE])
    assert choice.backend.name == "tokenizers"
    assert choice.why.startswith("tokenizers 0.")
    assert "fastokens does not support this tokenizer (" in choice.why
    assert "gigatoken does not support this tokenizer (" in choice.why


class Wrong(Fastokens):
    def encode(self, texts: Sequence[str]) -> list[Any]:
        made = super().encode(texts)
        return [
            ids[:-1] if text.startswith("Only here") else ids
            for text, ids in zip(texts, made, strict=True)
        ]


def test_a_backend_that_differs_on_the_sample_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transom.tokens.backends.fastokens.Fastokens", Wrong)
    assert choose_backend(family("gpt2"), [PROSE]).backend.name == "fastokens"
    choice = choose_backend(family("gpt2"), [PROSE, "Only here it shows."])
    assert choice.backend.name == "gigatoken"
    with pytest.raises(InputError, match="cannot use fastokens gives other ids for 'Only here"):
        choose_backend(family("gpt2"), ["Only here"], "fastokens")


def test_added_tokens_are_part_of_the_check() -> None:
    choice = choose_backend(family("gpt2, spaced tokens"), [], "auto")
    assert choice.backend.name == "fastokens"
    with pytest.raises(InputError, match="gigatoken gives other ids for"):
        choose_backend(family("gpt2, spaced tokens"), [], "gigatoken")


def test_a_sample_with_half_a_character() -> None:
    assert choose_backend(family("gpt2"), ["a\ud83d b"]).backend.name == "fastokens"


def test_special_tokens_as_text_are_left_to_tokenizers() -> None:
    tokenizer = Tokenizer.from_str(family("gpt2").to_str())
    tokenizer.encode_special_tokens = True
    choice = choose_backend(tokenizer, [])
    assert choice.backend.name == "tokenizers"
    assert "cannot read special tokens as text" in choice.why


def test_a_backend_asked_for_by_name() -> None:
    assert choose_backend(family("gpt2"), [], "tokenizers").why.startswith("tokenizers 0.")
    assert choose_backend(family("gpt2"), [], "gigatoken").backend.name == "gigatoken"
    with pytest.raises(InputError, match="cannot use gigatoken does not support"):
        choose_backend(family("bert"), [], "gigatoken")
    with pytest.raises(
        InputError, match="no backend is called 'fast'; known: auto, tokenizers, fas"
    ):
        choose_backend(family("gpt2"), [], "fast")
    assert backends() == ("auto", "tokenizers", "fastokens", "gigatoken")


def test_tokenizers_is_chosen_if_no_other_backend_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("fastokens", "gigatoken"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"transom.tokens.backends.{name}", raising=False)
    choice = choose_backend(family("gpt2"), [PROSE])
    assert choice.backend.name == "tokenizers"
    assert "fastokens is not installed; gigatoken is not installed" in choice.why
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[fast\]'"):
        choose_backend(family("gpt2"), [PROSE], "fastokens")


@pytest.mark.model
def test_the_real_tokenizer(smollm2: Any) -> None:
    choice = choose_backend(smollm2.tokenizer, [PROSE])
    assert choice.backend.name == "fastokens"
    encoder = Encoder(smollm2.tokenizer, choice.backend)
    text = PROSE * 10 + "\x04\U00050000" + PROSE
    expected = whole(smollm2.tokenizer.backend_tokenizer, text)
    assert np.concatenate(list(tokenize_text(encoder, [text]))).tolist() == expected
