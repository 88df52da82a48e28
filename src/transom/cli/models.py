"""`transom models`: the models that have a short name here."""

from __future__ import annotations

from transom.cli.tables import plain_size, result_console

__all__ = ["models"]


def models() -> None:
    """List the models that have a short name."""
    from transom.models import catalogue

    console = result_console()
    for entry in catalogue():
        kept = f"{entry.path} ({plain_size(entry.size_bytes)})" if entry.cached else "nowhere yet"
        console.print(
            f"{entry.name}\n"
            f"  what it is  {entry.description}\n"
            f"  from        {entry.source}\n"
            f"  cached in   {kept}\n",
            soft_wrap=True,
        )
    console.print("--model also takes any hub id, local folder or .gguf file.", soft_wrap=True)
