"""Recall tasks: what a model is asked to remember. One task per file, with seeded trials."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transom.errors import InputError
from transom.evaluate.tasks.base import REVISION, Cell, Material, Task, Trial
from transom.evaluate.tasks.haystack import Haystack, sentences
from transom.evaluate.tasks.kv_recall import KeyValueLines, KeyValueRecall
from transom.evaluate.tasks.multi_turn import MultiTurn
from transom.evaluate.tasks.needle import Needle
from transom.evaluate.tasks.needles import Needles
from transom.evaluate.tasks.passkey import Passkey, PasskeyInProse

__all__ = [
    "REVISION",
    "TASKS",
    "Cell",
    "Haystack",
    "Material",
    "Task",
    "Trial",
    "sentences",
    "task",
]

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        one.name: one
        for one in (
            Passkey(),
            PasskeyInProse(),
            Needle(),
            Needles(),
            KeyValueRecall(),
            KeyValueLines(),
            MultiTurn(),
        )
    }
)


def task(name: str) -> Task:
    """The recall task called `name`.

    Raises:
        InputError: when there is no such task; the message lists the known ones.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}.")
    return TASKS[name]
