"""`transom models`: the models that have a short name, and the files that were converted."""

from __future__ import annotations

from transom.cli.tables import result_console
from transom.units import plain_size

__all__ = ["models"]


def models() -> None:
    """List the models with a short name, and converted .gguf files."""
    from transom.models import catalogue, kept_models

    console = result_console()
    for entry in catalogue():
        kept = f"in {entry.path} ({plain_size(entry.size_bytes)})" if entry.cached else "not yet"
        console.print(
            f"{entry.name}\n"
            f"  description  {entry.description}\n"
            f"  source       {entry.source}\n"
            f"  cached       {kept}\n",
            soft_wrap=True,
        )
    for model in kept_models():
        console.print(
            f"{model.file}\n  converted    in {model.path} ({plain_size(model.size_bytes)})\n",
            soft_wrap=True,
        )
    console.print("MODEL can also be a hub id, a local folder or a .gguf file.", soft_wrap=True)
