"""Facts about the model and the machine, for a report."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transom.policies import ModelShape

if TYPE_CHECKING:
    from transom.models import Loaded

__all__ = ["facts", "shape_of"]

CPUINFO = Path("/proc/cpuinfo")


def facts(loaded: Loaded) -> dict[str, Any]:
    """The model's size and trained length, the bytes of a token, the machine and the date."""
    config = loaded.model.config.get_text_config(decoder=True)
    return {
        "parameters": sum(weights.numel() for weights in loaded.model.parameters()),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "trained_length": getattr(config, "max_position_embeddings", None),
        "token_bytes": shape_of(loaded.model).token_bytes,
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": str(loaded.model.device),
        "versions": {name: version(name) for name in ("transom", "torch", "transformers")},
    }


def shape_of(model: Any) -> ModelShape:
    """The sizes of a model that decide how many bytes its keys and values take."""
    config = model.config.get_text_config(decoder=True)
    return ModelShape.from_config(config, itemsize=model.dtype.itemsize)


def _cpu() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
