"""Calls a function in a fork of this process."""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from transom.errors import TransomError


def in_a_fork(call: Callable[[], Any]) -> Any:
    """Call a function in a fork of this process; return its result, or raise its transom error."""
    back, to = os.pipe()
    with warnings.catch_warnings():
        # Python warns about the test runner's threads, which the child does not need.
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        try:
            os.close(back)
            try:
                found = call()
            except TransomError as error:
                found = error
            with open(to, "wb") as pipe:
                pickle.dump(found, pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(to)
    with open(back, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    found = pickle.loads(data)
    if isinstance(found, TransomError):
        raise found
    return found
