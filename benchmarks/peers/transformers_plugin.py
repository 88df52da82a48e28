"""A pytest plugin: transformers' generation tests, with a cache of ours in place of the default.

`transformers_tests.py` runs pytest with it. `$PEER_POLICY` is the policy of the cache; `stock`
leaves transformers as it is. Of what pytest collects, the tests of `GenerationTesterMixin` run.

Two checks of that mixin look at the tensors inside of a cache. For a bounded cache they are noted,
not raised, and the cache is asked instead: how many tokens it has seen, and whether its whole state
equals that of the other. Where a test asks whether a cache is a `DynamicCache`, that is noted, and
a bounded one will do. So the rest of such a test counts too.

What became of each test is a line of JSON in `$PEER_OUT`: its `family` and `test`, its `outcome`,
the checks that looked `inside` and failed, and for a failure its `error`, its `message` and the
`functions` that it came through, the innermost last.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.generation import GenerationMixin

from transom import BoundedCache

POLICY = os.environ["PEER_POLICY"]
MIXIN = "GenerationTesterMixin"
NAMES = ("cache", "past_key_values")  # since and before transformers 5.24

inside: list[str] = []  # the checks of the running test that failed because they look inside


def swap_default_cache() -> None:
    """Let `generate` make a bounded cache where it would make a plain `DynamicCache`."""
    prepare = GenerationMixin._prepare_cache_for_generation

    def prepared(self: Any, generation_config: Any, model_kwargs: Any, *args: Any) -> Any:
        given = {name for name in NAMES if model_kwargs.get(name) is not None}
        result = prepare(self, generation_config, model_kwargs, *args)
        for name in NAMES:
            made = model_kwargs.get(name)
            if name not in given and type(made) is DynamicCache and not made.offloading:
                cache = model_kwargs[name] = BoundedCache(POLICY, config=self.config)
                if getattr(generation_config, "is_assistant", False):
                    cache.activate_past_recording()
        return result

    GenerationMixin._prepare_cache_for_generation = prepared


def same_size(batch_size: int, past_key_values: BoundedCache, seq_length: int, config: Any) -> None:
    """What `_check_past_key_values_for_generate` is about, asked of the cache."""
    assert past_key_values.get_seq_length() == seq_length
    held = past_key_values.state_dict().values()
    assert all(len(tensor) == batch_size for tensor in held if tensor.ndim == 4)
    layers = config.get_text_config(decoder=True).num_hidden_layers
    assert len(past_key_values.layers) == layers


def same_state(cache1: BoundedCache, cache2: BoundedCache) -> None:
    """What `_check_caches_are_equal` is about, asked of the caches."""
    assert str(cache1.policy) == str(cache2.policy)
    first, second = cache1.state_dict(), cache2.state_dict()
    assert first.keys() == second.keys()
    for name, held in first.items():
        torch.testing.assert_close(held, second[name])


INSTEAD: dict[str, Callable[..., None]] = {
    "_check_past_key_values_for_generate": same_size,
    "_check_caches_are_equal": same_state,
}


def ask_instead(kind: Any, name: str) -> None:
    """Where a check of a test class gets a bounded cache, note its failure and ask the cache."""
    check = vars(kind)[name]

    def asked(test: Any, *args: Any, **kwargs: Any) -> None:
        if not any(isinstance(each, BoundedCache) for each in (*args, *kwargs.values())):
            return check(test, *args, **kwargs)
        try:
            check(test, *args, **kwargs)
        except Exception:
            inside.append(name)
        return INSTEAD[name](*args, **kwargs)

    setattr(kind, name, asked)


def take_testing_utils(source: Path) -> None:
    """Give the tests the `transformers.testing_utils` of their own release, if it is there."""
    if source.is_file():
        name = "transformers.testing_utils"
        spec: Any = importlib.util.spec_from_file_location(name, source)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def fill_in_names(tests: Path) -> None:
    """Let tests of another release be imported: names that are gone from this one are None.

    What uses them fails stock, and does not count.
    """
    shared = [*tests.glob("*.py"), *tests.glob("generation/*.py"), *tests.glob("exporters/*.py")]
    for node in (node for file in shared for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers."):
            try:
                module = importlib.import_module(node.module or "")
            except ImportError:
                continue
            for name in node.names:
                if not hasattr(module, name.name):
                    setattr(module, name.name, None)


take_testing_utils(Path("src/transformers/testing_utils.py"))
# Otherwise the source of the checkout would take the place of the installed release.
transformers.utils.direct_transformers_import = lambda *args, **kwargs: transformers
fill_in_names(Path("tests"))


class EitherCacheType(type):
    """The type of `EitherCache`."""

    def __instancecheck__(cls, cache: object) -> bool:
        if isinstance(cache, BoundedCache):
            inside.append("isinstance(..., DynamicCache)")
        return isinstance(cache, (BoundedCache, DynamicCache))


class EitherCache(DynamicCache, metaclass=EitherCacheType):
    """A `DynamicCache` of which bounded caches are instances too."""


if POLICY != "stock":
    swap_default_cache()


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep the tests of the mixin, also where a model has its own version of one."""
    kept, others, kinds = [], [], set()
    for item in items:
        found = [kind for kind in getattr(item.cls, "__mro__", ()) if kind.__name__ == MIXIN]
        (kept if found and _is_test_of(found[0], item) else others).append(item)
        kinds |= {kind for kind in item.cls.__mro__ if found}
    config.hook.pytest_deselected(items=others)
    items[:] = kept
    if POLICY != "stock":
        for kind in kinds:
            if kind.__name__ == MIXIN:
                sys.modules[kind.__module__].DynamicCache = EitherCache  # type: ignore[attr-defined]
            for name in INSTEAD.keys() & vars(kind).keys():
                ask_instead(kind, name)


def _is_test_of(mixin: type, item: Any) -> bool:
    # Parameterized tests have a number and more behind their name.
    names = [name for name in vars(mixin) if name.startswith("test_")]
    return any(item.name == name or item.name.startswith(f"{name}_") for name in names)


def pytest_runtest_setup(item: Any) -> None:
    inside.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" and report.outcome == "passed":
        return
    entry = {
        "family": item.path.parent.name,
        "test": f"{item.cls.__name__}.{item.name}",
        "outcome": report.outcome,
        "inside": sorted(set(inside)),
    }
    if report.outcome == "failed":
        entry |= {
            "error": f"{call.excinfo.type.__module__}.{call.excinfo.type.__qualname__}",
            "message": str(call.excinfo.value),
            "functions": [each.name for each in call.excinfo.traceback],
        }
    with open(os.environ["PEER_OUT"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
