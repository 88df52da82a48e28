"""A hash of all numbers that a model computes with."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeAlias, cast

import torch
import xxhash
from torch import Tensor, nn

from transom.errors import UnsupportedModelError

__all__ = ["adapters", "weights"]

# Attributes in which adapters and torch.compile keep the module that they wrap.
WRAPPED = ("base_layer", "original_module", "token_adapter", "_orig_mod")

Digests: TypeAlias = dict[tuple[object, ...], bytes]  # by where a tensor is in memory


class AdaptedLayer(Protocol):
    """A layer with adapters, as far as it is needed here; those of peft are such."""

    adapter_layer_names: tuple[str, ...]
    active_adapters: list[str]
    disable_adapters: bool

    def merge(self) -> None: ...

    def unmerge(self) -> None: ...

    def get_base_layer(self) -> nn.Module: ...


def weights(model: nn.Module) -> str:
    """A hash of every number that a forward pass computes with.

    These are parameters, buffers and the packed numbers of quantized layers. Adapters (peft) in use
    count as if they were merged into the weights, so the hash is the same before and after merging.
    It reads all bytes each time, because weights can change without notice.

    Raises:
        UnsupportedModelError: when some weights are not in memory, or are of an unknown kind.
    """
    layers, known = dict(_adapted(model)), Digests()
    sums = {
        _plain(name): b"".join(_sums(name, x, known))
        for name, x in _tensors(model)
        if _owner(name, layers) is None
    }
    for name, layer in layers.items():
        if _owner(name, layers) is None:
            for own, x in _effective(layer):
                full = f"{name}.{own}"
                # No digests are shared here: the next tensor may get the same address.
                sums[_plain(full)] = b"".join(_sums(full, x, {}))
    total = xxhash.xxh3_128()
    for name in sorted(sums):
        total.update(name.encode())
        total.update(sums[name])
    return str(total.hexdigest())


def adapters(model: nn.Module) -> list[str]:
    """The names of the adapters in use, sorted; merged ones are marked as such."""
    used = set()
    for _, layer in _adapted(model):
        if not layer.disable_adapters:
            used |= {*_in_use(layer), *(f"{name} (merged)" for name in _merged(layer))}
    return sorted(used)


def _adapted(model: nn.Module) -> Iterator[tuple[str, AdaptedLayer]]:
    """Layers with adapters (peft), by name."""
    for name, module in model.named_modules():
        held = getattr(module, "adapter_layer_names", ())
        # A name with a dot belongs to a layer inside this one.
        if held and hasattr(module, "active_adapters") and "." not in held[0]:
            yield name, cast(AdaptedLayer, module)


def _owner(name: str, layers: Mapping[str, object]) -> str | None:
    """The outermost layer with adapters that contains a tensor of this name."""
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((one for one in above if one in layers), None)


def _effective(layer: AdaptedLayer) -> Iterator[tuple[str, object]]:
    """The tensors that a layer with adapters computes with, by name."""
    if _merges_exactly(layer):
        twin, merges = copy.deepcopy(layer), True
        try:
            if _merged(layer):
                if layer.disable_adapters:  # the next forward pass unmerges them too
                    twin.unmerge()
            elif _in_use(layer):
                twin.merge()
        except Exception:  # adapters that cannot be merged raise errors of any kind
            merges = False
        if merges:
            yield from _tensors(twin.get_base_layer())
            return
    used = _in_use(layer)
    whole = "modules_to_save" in layer.adapter_layer_names  # then one takes the other's place
    for name, x in _tensors(cast(nn.Module, layer)):
        first, _, rest = name.partition(".")
        if first not in layer.adapter_layer_names:
            if not (whole and used):
                yield name, x
        elif rest.partition(".")[0] in used:
            yield (rest.partition(".")[2] if whole else name), x
    if not whole:
        for adapter in used:
            yield f"scaling {adapter}", getattr(layer, "scaling", {}).get(adapter)


def _merges_exactly(layer: AdaptedLayer) -> bool:
    """Whether merging changes a plain weight, with no other adapters inside."""
    inside = getattr(layer, "base_layer", None)
    weight = getattr(inside, "weight", None)
    plain = isinstance(weight, Tensor) and weight.is_floating_point()
    return plain and hasattr(layer, "unmerge") and not hasattr(inside, "adapter_layer_names")


def _in_use(layer: AdaptedLayer) -> list[str]:
    """The adapters whose weights the layer adds in its forward pass."""
    if layer.disable_adapters or _merged(layer):
        return []
    held = {key for name in layer.adapter_layer_names for key in getattr(layer, name, ())}
    return [name for name in layer.active_adapters if name in held]


def _merged(layer: AdaptedLayer) -> list[str]:
    return list(getattr(layer, "merged_adapters", ()))


def _plain(name: str) -> str:
    """A name without the parts that adapters and compilation have added."""
    parts = name.removeprefix("base_model.model.").split(".")
    return ".".join(part for part in parts if part not in WRAPPED)


def _tensors(model: nn.Module) -> Iterator[tuple[str, object]]:
    """All tensors by name, shared ones by each of their names, also those no checkpoint has."""
    kept = model.state_dict(keep_vars=True)
    yield from kept.items()
    for name, buffer in model.named_buffers():
        if name not in kept:
            yield name, buffer
    for owner, module in model.named_modules():
        for name, x in vars(module).items():
            if isinstance(x, Tensor):  # not registered as a buffer, but used like one
                yield f"{owner}.{name}" if owner else name, x


def _sums(name: str, x: object, known: Digests) -> Iterator[bytes]:
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
            f"{name} of the model is {type(x).__name__}, which cannot be hashed, so a state could "
            "be loaded with other weights; use a model whose weights are tensors."
        )


def _digest(name: str, x: Tensor, known: Digests) -> bytes:
    if x.is_meta:
        raise UnsupportedModelError(
            f"{name} of the model is not in memory (meta device), so it cannot be known which "
            "states belong to the model; load the model without offloading."
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
        if key not in known:  # so that tied weights are read once
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
