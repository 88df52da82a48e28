"""The file that holds a conversation between two runs of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transom.errors import InputError, StateError
from transom.outputs import check_target
from transom.policies import parse

if TYPE_CHECKING:
    from transom.context import Context
    from transom.models import Loaded

__all__ = ["SessionFile"]


class Fingerprint(NamedTuple):
    """What the file system changes when somebody writes a file."""

    inode: int
    size: int
    modified_ns: int


class SessionFile:
    """A state file that one conversation owns. It is whole after every turn.

    Args:
        path: of the file. A symbolic link stays a link; the file it points to is written.

    Attributes:
        path: of the file, without links.
        note: what a conversation saved beside its state; None when there is no file yet.

    Raises:
        StateError: when the file is no state, or a damaged one.
        InputError: when there is no file and none can be made, for example on a device.
    """

    def __init__(self, path: Path) -> None:
        from transom.state import read_state, remove_leftovers

        # A save renames a new file over the old one. Over a link, that would replace the link.
        self.path = path = path.resolve() if path.is_symlink() else path
        self.note: Mapping[str, Any] | None = None
        check_target(path)
        if path.exists() and not path.is_file():
            raise InputError(
                f"{path} is no regular file, so it cannot hold a conversation; expected the name "
                "of a file."
            )
        self._saved = _fingerprint(path)
        if self._saved is not None:
            _, facts = read_state(path)  # now, because loading a model takes a while
            self.note = facts.get("note", {})
        remove_leftovers(path)

    def load(self, loaded: Loaded, policy: str | None) -> Context:
        """The context in the file.

        Args:
            policy: the policy to expect; None accepts the one in the file.

        Raises:
            StateError: when it was saved with another model or policy. The message names both.
        """
        from transom.context import Context

        model, tokenizer, _ = loaded
        # A policy with a budget in bytes gets its size in tokens from the model.
        expected = None if policy is None else Context(model, policy=parse(policy)).policy
        return Context.load(self.path, model, tokenizer, policy=expected)

    def save(self, context: Context, note: Mapping[str, object]) -> None:
        """Write the context and the note: either both get into the file, or neither does.

        Raises:
            StateError: when the file cannot be written, or somebody else has changed it.
        """
        if _fingerprint(self.path) != self._saved:
            raise StateError(
                f"{self.path} was not written: something else has changed, made or removed it "
                "since. Expected it as this conversation left it; it stays as it is now."
            )
        context.save(self.path, note=note)
        self._saved = _fingerprint(self.path)


def _fingerprint(path: Path) -> Fingerprint | None:
    """The fingerprint of a file; None when there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"cannot read {path}: {error.strerror}; expected a file that can be read."
        ) from error
    return Fingerprint(found.st_ino, found.st_size, found.st_mtime_ns)
