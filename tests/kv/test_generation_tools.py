"""What people use around `generate` works with a bounded cache: pipelines, streamers, criteria."""

from __future__ import annotations

import string
from threading import Thread
from typing import Any

import pytest
import torch
from tokenizers import decoders
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    pipeline,
)

from tests.helpers.letters import tokenizer_of
from tests.helpers.models import dense_reference, tiny, tokens
from transom.kv import BoundedCache
from transom.policies import Sinks, parse

POLICY = Sinks(3, 17)
TEXT = "we keep what a reader needs, and no more than that. so it goes on"
NEW = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}


def letters() -> Any:
    tokenizer = tokenizer_of(string.ascii_lowercase + string.digits + ".,")
    tokenizer.pad_token = "#"
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    return tokenizer


def both(call: Any) -> tuple[Any, Any]:
    """`call(model, cache)` with a bounded cache, and `call(model, None)` by the slow reference."""
    model = tiny("llama")
    torch.manual_seed(3)
    mine = call(model, {"past_key_values": BoundedCache(POLICY, config=model.config)})
    torch.manual_seed(3)
    with dense_reference(model, POLICY):
        return mine, call(model, {"use_cache": False})


CHAT = [{"role": "user", "content": "what is kept of a long text, and why"}]
BEGUN = [*CHAT, {"role": "assistant", "content": "as much as"}]


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (TEXT, {}),
        (TEXT, {"return_full_text": False, "stop_sequence": ["z", "qu"]}),
        (CHAT, {}),
        (BEGUN, {}),
        (BEGUN, {"continue_final_message": True}),
        (BEGUN, {"continue_final_message": False}),
    ],
)
def test_a_pipeline(content: Any, settings: dict[str, Any]) -> None:
    def run(model: Any, given: dict[str, Any]) -> Any:
        pipe = pipeline("text-generation", model=model, tokenizer=letters())
        return pipe(content, **NEW, **settings, **given)

    mine, theirs = both(run)
    assert mine == theirs


def test_a_pipeline_of_a_padded_batch() -> None:
    def run(model: Any, given: dict[str, Any]) -> Any:
        pipe = pipeline("text-generation", model=model, tokenizer=letters(), batch_size=2)
        return pipe([TEXT, "a few words"], **NEW, **given)

    mine, theirs = both(run)
    assert mine == theirs


def test_a_streamer_in_a_thread() -> None:
    def run(model: Any, given: dict[str, Any]) -> str:
        tokenizer = letters()
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        ids = tokenizer(TEXT, return_tensors="pt").input_ids
        settings = {"input_ids": ids, "streamer": streamer, **NEW, **given}
        thread = Thread(target=model.generate, kwargs=settings)
        thread.start()
        text = "".join(streamer)
        thread.join()
        return text

    mine, theirs = both(run)
    assert len(mine) > 3
    assert mine == theirs


class OddOnes(LogitsProcessor):
    """Lets a token be chosen after one of the other kind only, by all that came before."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        odd = (input_ids.sum(1) % 2 == 0)[:, None]
        return scores.masked_fill((torch.arange(scores.shape[1]) % 2 == 1) != odd, -torch.inf)


class Until(StoppingCriteria):
    """Ends a row after a token that is divisible by 7."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids[:, -1] % 7 == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"logits_processor": LogitsProcessorList([OddOnes()])},
        {"stopping_criteria": StoppingCriteriaList([Until()]), "min_new_tokens": None},
        {"num_return_sequences": 3, "do_sample": True, "temperature": 0.7},
        {"num_return_sequences": 3, "do_sample": True, "num_beams": 3},
        {"num_beams": 4, "length_penalty": 0.5, "early_stopping": True},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"output_scores": True, "return_dict_in_generate": True, "output_logits": True},
        {"guidance_scale": 1.5},
        {"use_cache": True, "cache_implementation": None},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_generate(settings: dict[str, Any]) -> None:
    ids = tokens(2, 30)

    def run(model: Any, given: dict[str, Any]) -> Any:
        return model.generate(ids, **{**NEW, **settings, **given})

    mine, theirs = both(run)
    if settings.get("return_dict_in_generate"):
        for name in ("scores", "logits"):
            for one, other in zip(mine[name], theirs[name], strict=True):
                finite = one.isfinite()
                assert torch.equal(finite, other.isfinite())
                torch.testing.assert_close(one[finite], other[finite], atol=1e-3, rtol=1e-3)
        mine, theirs = mine.sequences, theirs.sequences
    assert torch.equal(mine, theirs)


def test_decoding_that_needs_code_from_the_hub_says_so_itself() -> None:
    """transformers 5 has contrastive search and DoLa as code on its hub, and asks to trust it."""
    model, ids = tiny("llama"), tokens(1, 9)
    for settings in ({"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}):
        for text in ("full", "window:20"):
            cache = BoundedCache(parse(text), config=model.config)
            with pytest.raises(ValueError, match="trust_remote_code"):
                model.generate(ids, past_key_values=cache, max_new_tokens=4, **settings)
            assert cache.seen == 0
