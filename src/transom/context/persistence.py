"""A context as a file: saved, checked against what it is loaded for, and restored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from torch import Tensor

from transom import models
from transom.chat import Dialogue
from transom.context.model import CausalLM
from transom.context.runner import ModelRunner
from transom.errors import InputError, StateError
from transom.policies import Policy, parse
from transom.state import differences, fingerprint, read_state, write_state

__all__ = ["Note", "SavedContext", "as_note", "read_context", "restore", "write_context"]

Note: TypeAlias = dict[str, Any]  # JSON


class SavedContext(NamedTuple):
    """The content of a file, with the model and tokenizer that it was checked against.

    Attributes:
        model, tokenizer: to go on with.
        tensors: of the cache, and the `logits` if the next token was known.
        facts: JSON, as `write_context` puts them there.
    """

    model: CausalLM
    tokenizer: Any
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def note(self) -> Note:
        """What was saved beside the state."""
        return cast("Note", self.facts.get("note", {}))


def write_context(
    path: Path | str, runner: ModelRunner, tokenizer: Any, *, chunk: int, note: Note
) -> int:
    """Write a file from which `read_context` and `restore` go on; returns its bytes.

    Raises:
        StateError: when it cannot be written; what was there is unchanged.
    """
    tensors = runner.cache.state_dict()
    if runner.logits is not None:
        tensors["logits"] = runner.logits
    facts = {
        **fingerprint(runner.model, tokenizer),
        "policy": str(runner.cache.policy),
        "positions": runner.cache.positions,
        "chunk": chunk,
        "dialogue": runner.dialogue._asdict(),
        "note": note,
    }
    return write_state(path, tensors, facts)


def read_context(
    path: Path | str, model: CausalLM | str, tokenizer: Any, policy: Policy | str | None
) -> SavedContext:
    """Read a file, and load the model if that is given by its name.

    Raises:
        StateError: when the file is damaged, or was saved with another model, other weights,
            another tokenizer or policy; the message names what differs.
    """
    tensors, facts = read_state(path)
    if isinstance(model, str):
        loaded = models.load(model)
        model, tokenizer = loaded.model, loaded.tokenizer
    found = differences(facts, fingerprint(model, tokenizer))
    wanted = parse(policy) if isinstance(policy, str) else policy
    if wanted is not None and str(wanted) != facts["policy"]:
        found.append(f"the policy {facts['policy']} (here {wanted})")
    if found:
        raise StateError(
            f"{path} was saved with something else: {'; '.join(found)}. Expected the same; to "
            "start anew, take another file."
        )
    return SavedContext(model, tokenizer, tensors, facts)


def restore(runner: ModelRunner, saved: SavedContext) -> None:
    """Bring a new runner to where the saved one stood."""
    tensors = dict(saved.tensors)
    logits = tensors.pop("logits", None)
    runner.logits = None if logits is None else logits.to(runner.device)
    runner.cache.load_state_dict(tensors, runner.device)
    runner.dialogue = Dialogue(**saved.facts["dialogue"])


def as_note(note: Mapping[str, object]) -> Note:
    """A copy of a note as it will come back from a file.

    Raises:
        InputError: when it does not fit JSON.
    """
    try:
        return cast("Note", json.loads(json.dumps(dict(note), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the note cannot be written as JSON: {error}. Expected a mapping of text to text, "
            "finite numbers, booleans, None, lists and mappings of these."
        ) from error
