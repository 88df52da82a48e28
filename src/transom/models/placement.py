"""In which dtype a model's weights are loaded, and on which device it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transom.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "check_device", "check_dtype"]

AUTO = "auto"  # the dtype that the weights were saved in
DTYPES = ("float32", "bfloat16", "float16", AUTO)


def check_dtype(dtype: object, name: str = "dtype") -> None:
    """Refuse a dtype that weights cannot have; any floating-point `torch.dtype` is accepted.

    Args:
        dtype: one of `DTYPES`, a `torch.dtype`, or None for a model's default.
        name: what the error calls it.

    Raises:
        InputError: on anything else.
    """
    if dtype is None or dtype in DTYPES or getattr(dtype, "is_floating_point", False):
        return
    raise InputError(f"{name} is {dtype!r}; expected one of {', '.join(DTYPES)}.")


def check_device(device: torch.device | str | None, name: str = "device") -> None:
    """Refuse a device that cannot be used on this machine, before anything is loaded.

    Args:
        device: such as `cpu`, `cuda`, `cuda:1` or `mps`; None for where a model is loaded to.
        name: what the error calls it.

    Raises:
        InputError: when this torch has no such device; it lists those that it has.
    """
    if device is None:
        return
    import torch

    try:
        # On `meta` there would be a model without weights.
        usable = torch.empty(1, device=device).device.type != "meta"
    except (AssertionError, NotImplementedError, RuntimeError, TypeError):
        usable = False
    if not usable:
        raise InputError(
            f"{name} is {str(device)!r}, which cannot be used here; expected one of "
            f"{', '.join(_devices())}. For another, install the torch that is built for it."
        )


def _devices() -> list[str]:
    """What this torch can run models on."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{at}" for at in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
