"""Checks of policies whose layers compute attention themselves, with a slow reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.helpers.models import chunked_logits, difference, distinct, tiny
from tests.helpers.token_by_token import logits_by
from transom.kv import BoundedCache

CLOSE = 1e-3  # of logits, in float32; the measured difference is about 2e-5


class Contract:
    """Checks of one kind of policy.

    Args:
        reference: the context manager in which a model runs its slow reference.
        length: of texts long enough for everything to happen.
    """

    def __init__(self, reference: Any, length: int) -> None:
        self.reference = partial(logits_by, reference)
        self.length = length

    def padded_rows_are_the_rows_alone(self, policy: Any) -> None:
        """Padding on the left, and in the middle as between turns."""
        length = self.length
        model, ids = tiny("llama"), distinct(3, length)
        mask = torch.ones(3, length, dtype=torch.long)
        mask[1, :13] = 0
        mask[2, [0, 1, 2, 20, 21, 30]] = 0
        expected, _ = self.reference(model, ids, policy, mask)
        real = mask.bool()
        for sizes in ([length], [1] * length, [13, 1, 1, length - 15]):
            cache = BoundedCache(policy, config=model.config)
            got = chunked_logits(model, ids, cache, sizes, mask)
            assert difference(got[real], expected[real]) < CLOSE
        alone, _ = self.reference(model, ids[1:2, 13:], policy)
        assert difference(expected[1, 13:], alone[0]) < CLOSE

    def beams_reorder_repeat_and_reset(self, policy: Any) -> None:
        first = self.length - 5
        model, ids = tiny("llama"), distinct(2, first)
        order = torch.tensor([1, 1, 0])
        cache = BoundedCache(policy, config=model.config)
        chunked_logits(model, ids, cache, [first])
        cache.reorder_cache(order)
        followed = torch.cat((ids[order], distinct(3, 25, seed=5)), dim=1)
        got = chunked_logits(model, followed, cache, [1, 24])
        fresh = BoundedCache(policy, config=model.config)
        expected = chunked_logits(model, followed, fresh, [first, 1, 24])[:, first:]
        assert difference(got, expected) < CLOSE
        cache.reset()
        assert cache.cold_nbytes == 0
        again = chunked_logits(model, followed, cache, [first, 1, 24])[:, first:]
        assert difference(again, expected) < CLOSE

    def generate(self, policy: Any) -> None:
        """transformers' own generate, two turns, and beams."""
        start = self.length - 10
        model, ids = tiny("llama"), distinct(1, start)
        cache = BoundedCache(policy, config=model.config)

        def generate(ids: torch.Tensor, new: int, **settings: Any) -> torch.Tensor:
            given = {"do_sample": False, "eos_token_id": None, **settings}
            mask = torch.ones_like(ids)
            return model.generate(ids, attention_mask=mask, max_new_tokens=new, **given)

        first = generate(ids, 12, past_key_values=cache)
        both = torch.cat((first, distinct(1, 9, seed=3)), dim=1)
        second = generate(both, 8, past_key_values=cache)
        logits, _ = self.reference(model, second[:, :-1], policy)
        likeliest = logits[0].argmax(-1).tolist()
        assert likeliest[start - 1 : start + 11] == first[0, start:].tolist()
        assert likeliest[start + 20 :] == second[0, start + 21 :].tolist()
        beams = BoundedCache(policy, config=model.config)
        assert generate(ids, 6, past_key_values=beams, num_beams=3).shape == (1, start + 6)
