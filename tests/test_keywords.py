"""Every function with settings names a misspelt keyword in an error of transom's own."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, is_typeddict

import pytest

import transom
from tests.helpers.models import tiny
from transom.errors import InputError, TransomError
from transom.policies import Policy
from transom.validation import known_keywords

# Left out: modules that other modules share, commands, and the parts of Context.
NOT_FOR_CALLERS = (
    *("atomic_files", "forks", "outputs", "plugins", "slow_paths", "units", "validation"),
    *("cli", "kv", "state"),
)


def public() -> dict[str, Any]:
    """All public objects of transom's packages, and of its modules outside packages."""
    found = {}
    for info in [None, *pkgutil.iter_modules(transom.__path__)]:
        if info is None or info.name not in NOT_FOR_CALLERS:
            name = "transom" if info is None else f"transom.{info.name}"
            module = importlib.import_module(name)
            offered = {each: getattr(module, each) for each in getattr(module, "__all__", ())}
            found |= {
                f"{what.__module__}.{each}": what
                for each, what in offered.items()
                if callable(what)
                and not is_typeddict(what)
                and what.__module__.startswith("transom")
            }
    return found


def parameters(call: Any) -> list[inspect.Parameter]:
    """The parameters that can be given by name; none if any name is accepted."""
    every = inspect.signature(call).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in every):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one for one in every if one.kind in named and one.name not in ("self", "cls")]


def has_settings(call: Any) -> bool:
    return any(
        one.default is not inspect.Parameter.empty or one.kind is inspect.Parameter.KEYWORD_ONLY
        for one in parameters(call)
    )


def calls() -> Iterator[Any]:
    for name, what in public().items():
        if inspect.isfunction(what):
            if parameters(what):
                yield pytest.param(what, id=name)
        elif inspect.isclass(what) and not issubclass(what, (tuple, BaseException)):
            if has_settings(what) and not inspect.isabstract(what):
                yield pytest.param(what, id=name)
            for method in dir(what):
                if not method.startswith("_") and (call := of_class(what, method)):
                    yield pytest.param(call, id=f"{name}.{method}")


def of_class(owner: type, name: str) -> Callable[..., Any] | None:
    """A method, called without an object: those that a user meets first."""
    static, call = inspect.getattr_static(owner, name), getattr(owner, name)
    ours = getattr(call, "__module__", "").startswith("transom")
    if not callable(call) or not ours or inspect.isclass(call):
        return None
    foreign = any(
        name in vars(base) and not base.__module__.startswith("transom") for base in owner.__mro__
    )
    first = owner.__name__ in transom.__all__ and not issubclass(owner, Policy)
    if foreign or not (has_settings(call) or (first and parameters(call))):
        return None
    if isinstance(static, (classmethod, staticmethod)):
        return call  # type: ignore[no-any-return]
    return lambda **given: call(None, **given)


@pytest.mark.parametrize("call", list(calls()))
def test_a_misspelt_keyword_is_named(call: Callable[..., Any]) -> None:
    with pytest.raises(TransomError, match=r"has no parameter 'misspelt_'. It takes \w+"):
        call(misspelt_=1)


@known_keywords
class Base:
    def __init__(self, size: int = 0) -> None:
        self.size = size

    def grow(self, by: int = 1) -> None:
        self.size += by

    @classmethod
    def of(cls, size: int = 0) -> Base:
        return cls(size)

    @staticmethod
    def largest(among: int = 0) -> int:
        return among


@known_keywords
class Derived(Base):
    pass


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda given: Base(**given), "Base"),
        (lambda given: Derived(**given), "Derived"),
        (lambda given: Derived().grow(**given), r"Derived\.grow"),
        (lambda given: Derived.of(**given), r"Derived\.of"),
        (lambda given: Derived().of(**given), r"Derived\.of"),
        (lambda given: Base().grow(**given), r"Base\.grow"),
        (lambda given: Derived.largest(**given), r"Base\.largest"),  # as nobody's class is given
    ],
)
def test_an_inherited_method_is_named_after_the_class_at_hand(
    call: Callable[[dict[str, int]], object], name: str
) -> None:
    with pytest.raises(InputError, match=f"^{name} has no parameter 'sise'"):
        call({"sise": 1})


def test_a_method_of_a_bounded_cache_is_not_named_after_its_base() -> None:
    cache = transom.BoundedCache("window:8", config=tiny("llama").config)
    with pytest.raises(InputError, match=r"^BoundedCache\.rebase has no parameter 'bi'"):
        cache.rebase(bi=1)
