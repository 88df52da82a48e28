"""A registry of datasets that packages above this one make of a corpus, by name of method.

`TokenCorpus.torch_dataset` needs torch, which this package must not import. So the package that
has the dataset registers a function here that makes it. `transom/__init__.py` does so for
`transom.torch_data`, before anyone can import a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transom.corpus.reader import CorpusReader
from transom.errors import InputError

__all__ = ["make_dataset", "register_dataset"]

_MAKERS: dict[str, Callable[..., Any]] = {}


def register_dataset(name: str, make: Callable[..., Any]) -> None:
    """Have the method `name` of a corpus call `make(corpus, size, **settings)`.

    Raises:
        InputError: when another function has that name already.
    """
    if _MAKERS.setdefault(name, make) is not make:
        raise InputError(f"a dataset called {name!r} is registered already; use another name.")


def make_dataset(name: str, corpus: CorpusReader, size: int, settings: Mapping[str, Any]) -> Any:
    """The dataset that the function registered as `name` makes.

    Raises:
        InputError: when none is registered, naming those that are.
        MissingExtraError: when it needs a package that is not installed.
    """
    if name not in _MAKERS:
        raise InputError(f"no dataset is called {name!r}; there are {', '.join(_MAKERS)}.")
    return _MAKERS[name](corpus, size, **settings)
