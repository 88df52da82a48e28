"""The file that a conversation is kept in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transom.errors import InputError, StateError
from transom.outputs import check_target
from transom.policies import parse

if TYPE_CHECKING:
    from transom.context import Context
    from transom.models import Loaded

__all__ = ["Session"]

Stamp = tuple[int, int, int] | None


class Session:
    """A state file that only this conversation writes to, whole after every turn.

    Attributes:
        path: of the file.
        note: what a conversation left there; None when there is no file yet.

    Raises:
        StateError: when there is a file that is not a state, or not a whole one.
        InputError: when there is none and none can be written there, as where a device is.
    """

    def __init__(self, path: Path) -> None:
        from transom.state import read_state, remove_leftovers

        # Renaming would put a file in the place of a link, and leave what it points to as it was.
        self.path = path = path.resolve() if path.is_symlink() else path
        self.note: Mapping[str, Any] | None = None
        check_target(path)
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file, so no conversation can be kept in it.")
        self._stamp = _stamp(path)
        if self._stamp is not None:
            _, facts = read_state(path)  # before a model is loaded, which takes a while
            self.note = facts.get("note", {})
        remove_leftovers(path)

    def load(self, loaded: Loaded, policy: str | None) -> Context:
        """The context in the file.

        Args:
            policy: if given, the policy that is expected.

        Raises:
            StateError: when it was saved with another model or policy; the message names what.
        """
        from transom.context import Context

        model, tokenizer, _ = loaded
        # Made for the model, so that a budget in bytes becomes the tokens that were saved.
        wanted = None if policy is None else Context(model, policy=parse(policy)).policy
        return Context.load(self.path, model, tokenizer, policy=wanted)

    def save(self, context: Context, note: Mapping[str, Any]) -> None:
        """Write the context and the note, so that the file has both or is as it was.

        Raises:
            StateError: when it cannot be written, or is not as this session left it.
        """
        if _stamp(self.path) != self._stamp:
            raise StateError(
                f"{self.path} was not written: something else has changed, made or removed it "
                "since. Expected it as this conversation left it; it stays as it is now."
            )
        context.save(self.path, note=note)
        self._stamp = _stamp(self.path)


def _stamp(path: Path) -> Stamp:
    """What changes when a file is written; None when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"{path} cannot be looked at: {error.strerror}; expected a file that can be read."
        ) from error
    return found.st_ino, found.st_size, found.st_mtime_ns
