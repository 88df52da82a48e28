"""What a model's weights compute with, as a hash."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

from transom.errors import UnsupportedModelError

__all__ = ["adapters", "weights"]

# What an adapter's layer, or torch.compile, is put around.
WRAPPED = ("base_layer", "original_module", "token_adapter", "_orig_mod")


def weights(model: Any) -> str:
    """A hash of all that a forward pass computes with: every bit of it, wherever it is.

    Parameters, buffers and what quantized layers pack. Adapters (peft) count as what merging those
    in use would make of the weights, so that it is the same whether they are merged. Reads all
    bytes each time, since what may have changed them does not always say so.

    Raises:
        UnsupportedModelError: when some of it is not in memory, or of an unknown kind.
    """
    layers, known = dict(_adapted(model)), dict[tuple[Any, ...], bytes]()
    sums = {
        _plain(name): b"".join(_sums(name, x, known))
        for name, x in _tensors(model)
        if _owner(name, layers) is None
    }
    for name, layer in layers.items():
        if _owner(name, layers) is None:
            for own, x in _effective(layer):
                full = f"{name}.{own}"
                sums[_plain(full)] = b"".join(_sums(full, x, {}))  # places come again
    total = xxhash.xxh3_128()
    for name in sorted(sums):
        total.update(name.encode())
        total.update(sums[name])
    return str(total.hexdigest())


def adapters(model: Any) -> list[str]:
    """The names of the adapters in use, sorted; those that are merged as such."""
    used = set()
    for _, layer in _adapted(model):
        if not layer.disable_adapters:
            used |= {*_in_use(layer), *(f"{name} (merged)" for name in _merged(layer))}
    return sorted(used)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers with adapters of peft's kind, by name."""
    for name, module in model.named_modules():
        held = getattr(module, "adapter_layer_names", ())
        # One with a dot is of a layer inside.
        if held and hasattr(module, "active_adapters") and "." not in held[0]:
            yield name, module


def _owner(name: str, layers: Mapping[str, Any]) -> str | None:
    """The outermost layer with adapters that something is inside of."""
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((one for one in above if one in layers), None)


def _effective(layer: Any) -> Iterator[tuple[str, Any]]:
    """What a layer with adapters computes with, by name."""
    if _merges_exactly(layer):
        twin = copy.deepcopy(layer)
        try:
            if _merged(layer):
                if layer.disable_adapters:  # which the next forward pass does as well
                    twin.unmerge()
            elif _in_use(layer):
                twin.merge()
        except Exception:  # some adapters cannot be merged, and say so in their own ways
            twin = None
        if twin is not None:
            yield from _tensors(twin.get_base_layer())
            return
    used = _in_use(layer)
    whole = "modules_to_save" in layer.adapter_layer_names  # then one takes the other's place
    for name, x in _tensors(layer):
        first, _, rest = name.partition(".")
        if first not in layer.adapter_layer_names:
            if not (whole and used):
                yield name, x
        elif rest.partition(".")[0] in used:
            yield (rest.partition(".")[2] if whole else name), x
    if not whole:
        for adapter in used:
            yield f"scaling {adapter}", getattr(layer, "scaling", {}).get(adapter)


def _merges_exactly(layer: Any) -> bool:
    """Whether merging changes plain numbers, and inside are no other adapters."""
    inside = getattr(layer, "base_layer", None)
    weight = getattr(inside, "weight", None)
    plain = isinstance(weight, Tensor) and weight.is_floating_point()
    return plain and hasattr(layer, "unmerge") and not hasattr(inside, "adapter_layer_names")


def _in_use(layer: Any) -> list[str]:
    """Adapters whose weights the layer computes with."""
    if layer.disable_adapters or _merged(layer):
        return []
    held = {key for name in layer.adapter_layer_names for key in getattr(layer, name, ())}
    return [name for name in layer.active_adapters if name in held]


def _merged(layer: Any) -> list[str]:
    return list(getattr(layer, "merged_adapters", ()))


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
    for owner, module in model.named_modules():
        for name, x in vars(module).items():
            if isinstance(x, Tensor):  # no buffer, but as good as one to who computes with it
                yield f"{owner}.{name}" if owner else name, x


def _sums(name: str, x: Any, known: dict[tuple[Any, ...], bytes]) -> Iterator[bytes]:
    if isinstance(x, Tensor):
        yield _digest(name, x.detach(), known)
    elif isinstance(x, Mapping):
        for key in sorted(x, key=str):
            yield from _sums(f"{name}.{key}", x[key], known)
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from _sums(name, item, known)
    elif isinstance(x, io.BytesIO):
        yield x.getvalue()
    elif x is None or isinstance(x, (bool, int, float, str, bytes, torch.dtype)):
        yield repr(x).encode()
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
