"""Every causal language model of transformers, tiny and random, and what bounded caches give on it.

`small_configs` makes the models, `exceptions` names those that need more than a rule, `lone_query`
is the reference, `feeding` has the ways in which a text reaches a cache, and `examine` compares
them. The tests use some kinds of models, `benchmarks/models.py` all of them.
"""
