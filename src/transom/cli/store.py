"""`transom memory stats|ls|verify|evict|clear`: a store of contexts in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from transom.cli.tables import print_table, result_console
from transom.cli.values import named
from transom.memory.stats import ContextInfo, Stats
from transom.memory.stored import open_store
from transom.units import plain_size, to_bytes

__all__ = ["clear", "evict", "ls", "stats", "verify"]

PATH = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", parser=named, help="The folder that a manager was given as disk."
    ),
]
NAMESPACE = Annotated[str | None, typer.Option(metavar="NAME", help="Take only this namespace.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DAMAGED = 1  # exit status


def stats(path: PATH, as_json: JSON = False) -> None:
    """Show how much of its budget a store takes, and for what."""
    with open_store(path) as manager:
        found = manager.stats()
        spaces = _by_namespace(list(manager.contexts()))
    disk = found.tiers[1]
    if as_json:
        figures = {
            "contexts": found.contexts,
            "tokens": found.tokens,
            "states": found.states,
            "shared_bytes": found.shared,
            "disk_bytes": disk.bytes,
            "disk_capacity": disk.capacity,
            "namespaces": {name: dict(zip(COLUMNS, row, strict=True)) for name, *row in spaces},
        }
        print(json.dumps(figures, indent=2))
        return
    console = result_console()
    _print_budget(found)
    if len(spaces) > 1 or (spaces and spaces[0][0]):
        console.print()
        rows = [
            (name or "(none)", f"{count:,}", f"{tokens:,}", plain_size(own), plain_size(states))
            for name, count, tokens, own, states in spaces
        ]
        print_table(console, "", ("namespace", "contexts", "tokens", "own bytes", "states"), rows)


COLUMNS = ("contexts", "tokens", "own_bytes", "state_bytes")


def _by_namespace(contexts: list[ContextInfo]) -> list[tuple[str, int, int, int, int]]:
    found: dict[str, list[int]] = {}
    for context in contexts:
        sums = found.setdefault(context.namespace, [0, 0, 0, 0])
        parts = (1, context.tokens, context.own_bytes, context.state_bytes)
        for place, part in enumerate(parts):
            sums[place] += part
    return [(name, *sums) for name, sums in sorted(found.items())]  # type: ignore[misc]


def _print_budget(found: Stats) -> None:
    disk = found.tiers[1]
    header = ("contexts", "tokens", "states", "shared", "disk", "of", "", "entries")
    row = (
        f"{found.contexts:,}",
        f"{found.tokens:,}",
        f"{found.states:,}",
        plain_size(found.shared),
        plain_size(disk.bytes),
        plain_size(disk.capacity),
        f"{disk.bytes / disk.capacity:.0%}",
        f"{disk.entries:,}",
    )
    print_table(result_console(), "", header, [row], left=0)


def ls(path: PATH, namespace: NAMESPACE = None, as_json: JSON = False) -> None:
    """List the contexts of a store, the largest first."""
    with open_store(path) as manager:
        found = [c for c in manager.contexts() if namespace is None or c.namespace == namespace]
    found.sort(key=lambda c: (-(c.own_bytes + c.state_bytes), c.namespace, c.id))
    if as_json:
        print(json.dumps([context._asdict() for context in found], indent=2))
        return
    print_table(
        result_console(),
        "",
        ("namespace", "id", "tokens", "own bytes", "state", "expires in"),
        [
            (
                context.namespace,
                context.id,
                f"{context.tokens:,}",
                f"{context.own_bytes:,}",
                f"{context.state_bytes:,}" if context.state_bytes else "-",
                "-" if context.expires_in is None else f"{context.expires_in:,.0f} s",
            )
            for context in found
        ],
        left=2,
    )


def verify(path: PATH) -> None:
    """Read all of a store, recount it, and delete what is damaged.

    Exits with 1 if anything was damaged.
    """
    with open_store(path) as manager:
        found = manager.verify()
    console = result_console()
    for name in found.damaged:
        console.print(f"damaged, and deleted: {name}")
    for problem in found.problems:
        console.print(f"does not come out: {problem}")
    verdict = "all as they were written" if found.ok else f"{len(found.damaged):,} contexts damaged"
    console.print(f"{found.entries:,} entries read, {verdict}")
    if not found.ok:
        raise typer.Exit(DAMAGED)


def evict(
    path: PATH,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Bytes, or 500MB, or 2GiB.")],
) -> None:
    """Evict SIZE bytes of contexts or more, those worth the least first."""
    wanted = to_bytes(size, "SIZE")
    with open_store(path) as manager:
        before = len(manager)
        gone = manager.evict(wanted)
        after = len(manager)
    print(f"{plain_size(gone)} evicted: {before - after:,} of {before:,} contexts")


def clear(
    path: PATH,
    namespace: NAMESPACE = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
) -> None:
    """Remove all contexts of a store, or of a namespace."""
    with open_store(path) as manager:
        held = [c for c in manager.contexts() if namespace is None or c.namespace == namespace]
        if held and not yes:
            typer.confirm(f"Remove {len(held):,} contexts from {path}?", abort=True)
        count = manager.clear(namespace=namespace)
    print(f"{count:,} contexts removed")
