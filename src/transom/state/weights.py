"""What a model's weights compute with, as a hash."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

from transom.errors import UnsupportedModelError

__all__ = ["adapters", "weights"]

WRAPPED = ("base_layer", "original_module")  # what an adapter's layer is put around


def weights(model: Any) -> str:
    """A hash of all that a forward pass computes with: every bit of it, wherever it is.

    Parameters, buffers and what quantized layers pack. Of adapters (peft), those that are in use,
    with their scale; one that is merged has become part of the weights, bit for bit, which rounds
    them a little: that is another model. Reads all bytes each time, since what may have changed
    them does not always say so.

    Raises:
        UnsupportedModelError: when some of it is not in memory, or of an unknown kind.
    """
    layers = dict(_adapted(model))
    named = {_plain(name): x for name, x in _tensors(model) if not _idle(name, layers)}
    for name, layer in layers.items():
        for adapter in _in_use(layer):
            scale = getattr(layer, "scaling", {})
            named[f"{_plain(name)} {adapter}"] = scale.get(adapter)
    total, known = xxhash.xxh3_128(), dict[tuple[Any, ...], bytes]()
    for name in sorted(named):
        total.update(name.encode())
        _add(total, name, named[name], known)
    return str(total.hexdigest())


def adapters(model: Any) -> list[str]:
    """The names of the adapters in use, sorted; those that are merged as such."""
    used = set()
    for _, layer in _adapted(model):
        used |= {*_in_use(layer), *(f"{name} (merged)" for name in _merged(layer))}
    return sorted(used)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers with adapters of peft's kind, by name."""
    for name, module in model.named_modules():
        if getattr(module, "adapter_layer_names", ()) and hasattr(module, "active_adapters"):
            yield name, module


def _in_use(layer: Any) -> list[str]:
    """Adapters whose weights the layer computes with."""
    if layer.disable_adapters or _merged(layer):
        return []
    held = {key for name in layer.adapter_layer_names for key in getattr(layer, name, ())}
    return [name for name in layer.active_adapters if name in held]


def _merged(layer: Any) -> list[str]:
    return list(getattr(layer, "merged_adapters", ()))


def _idle(name: str, layers: Mapping[str, Any]) -> bool:
    """Whether a tensor is part of an adapter that is not in use."""
    parts = name.split(".")
    for length in range(len(parts) - 1):
        layer = layers.get(".".join(parts[:length]))
        if layer is not None and parts[length] in layer.adapter_layer_names:
            return parts[length + 1] not in _in_use(layer)
    return False


def _plain(name: str) -> str:
    """A name as it would be without what adapters have put around it."""
    parts = name.removeprefix("base_model.model.").split(".")
    return ".".join(part for part in parts if part not in WRAPPED)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Everything by name, in several places by several: also what is not saved with a model."""
    kept = model.state_dict(keep_vars=True)
    yield from kept.items()
    for name, buffer in model.named_buffers():
        if name not in kept:
            yield name, buffer


def _add(total: Any, name: str, x: Any, known: dict[tuple[Any, ...], bytes]) -> None:
    if isinstance(x, Tensor):
        total.update(_digest(name, x.detach(), known))
    elif isinstance(x, Mapping):
        for key in sorted(x, key=str):
            _add(total, f"{name}.{key}", x[key], known)
    elif isinstance(x, (tuple, list)):
        for item in x:
            _add(total, name, item, known)
    elif isinstance(x, io.BytesIO):
        total.update(x.getvalue())
    elif x is None or isinstance(x, (bool, int, float, str, bytes, torch.dtype)):
        total.update(repr(x).encode())
    else:
        raise UnsupportedModelError(
            f"{name} of the model is {type(x).__name__}, of which nothing can be told apart, so "
            "a state could be loaded with other weights; use a model whose weights are tensors."
        )


def _digest(name: str, x: Tensor, known: dict[tuple[Any, ...], bytes]) -> bytes:
    if x.is_meta:
        raise UnsupportedModelError(
            f"{name} of the model is not in memory (meta device), so states cannot be told to "
            "belong to it; load the model without offloading."
        )
    total = xxhash.xxh3_128(f"{tuple(x.shape)} {x.dtype}".encode())
    if hasattr(x, "__tensor_flatten__"):
        parts, about = x.__tensor_flatten__()
        total.update(repr(about).encode())
        for part in parts:
            total.update(_digest(name, getattr(x, part), known))
    elif x.is_quantized:
        total.update(f"{x.qscheme()} {_scales(x)}".encode())
        total.update(_digest(name, x.int_repr(), {}))
    elif x.layout != torch.strided:
        total.update(_digest(name, x.to_dense(), {}))
    else:
        key = (x.device, x.data_ptr(), tuple(x.shape), x.stride(), x.dtype)
        if key not in known:  # tied ones are read once; of what is made here, places come again
            flat = x.cpu().contiguous().flatten()
            if flat.numel():
                total.update(flat.view(torch.uint8).numpy().data)
            known[key] = total.digest()
        return known[key]
    return bytes(total.digest())


def _scales(x: Tensor) -> str:
    if x.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{x.q_scale()!r} {x.q_zero_point()!r}"
    scales, zeros = x.q_per_channel_scales(), x.q_per_channel_zero_points()
    return f"{scales.tolist()} {zeros.tolist()} {x.q_per_channel_axis()}"
