"""Where in a loaded model an edit falls, and the plain tensor of weights that it falls on."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from superweights.address import Address, SameNames
from superweights.editing.kinds import Edit
from superweights.errors import SuperweightsError
from superweights.shards import element, is_shared, local, put
from superweights.subject import layout_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_HASH_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class ParameterPlace:
    """Where in a model one edit falls: the parameter, the index in it, and the tensor itself."""

    edit: Edit
    parameter: str
    index: tuple[int, ...]
    tensor: Tensor

    @classmethod
    def find(cls, model: nn.Module, edit: Edit) -> ParameterPlace:
        """The place of `edit`; raises `SuperweightsError` where `model` has no such plain weight."""
        layout = layout_of(model)
        parameter, index = layout.parameter_of(edit.address)
        tensor = tensor_named(model, parameter)
        if tensor is None:
            raise SuperweightsError(f"The model has no tensor {parameter}.", hint=_closest(model, parameter))
        refuse_storage(parameter, tensor)
        same = isinstance(layout, SameNames)
        (edit.address if same else Address(parameter, index)).check_shape(tuple(tensor.shape))
        return cls(edit, parameter, index, tensor)


def refuse_duplicates(places: list[ParameterPlace]) -> None:
    """Raise when two edits fall on one number, be it under two names (tied weights)."""
    seen: dict[tuple[int, object], ParameterPlace] = {}
    for place in places:
        apart = place.tensor.is_meta or is_shared(place.tensor)
        key = (id(place.tensor), place.index) if apart else (place.tensor[place.index].data_ptr(), None)
        first = seen.setdefault(key, place)
        if first is not place:
            raise SuperweightsError(
                f"Two edits fall on one weight: {first.edit} and {place.edit}.", hint="keep one of them."
            )


def tensor_named(model: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of that name, or None."""
    path, _, leaf = name.rpartition(".")
    module: Any = model
    for part in path.split(".") if path else ():
        module = module._modules.get(part)
        if module is None:
            return None
    found = module._parameters.get(leaf)
    return module._buffers.get(leaf) if found is None else found


def refuse_storage(name: str, tensor: Tensor) -> None:
    """Raise for anything but a plain tensor of floating-point weights."""
    if type(tensor) not in _PLAIN and not is_shared(tensor):
        raise SuperweightsError(
            f"{name} is stored as {type(tensor).__name__}, whose single weights cannot be edited exactly.",
            hint="open the unquantized checkpoint.",
        )
    if tensor.dtype not in _FLOATS:
        raise SuperweightsError(
            f"{name} is quantized storage ({kind_of(tensor)}): one stored number is not one weight.",
            hint="open the unquantized checkpoint, or dequantize it first.",
        )


def get_element(tensor: Tensor, index: tuple[int, ...]) -> Tensor:
    """One element as it is; where processes share the tensor, in each of them."""
    return element(tensor, index) if is_shared(tensor) else tensor[index].detach()


def set_element(tensor: Tensor, index: tuple[int, ...], bits: Tensor) -> None:
    """Write one element in place; tensors made in inference mode may only be written in it."""
    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
        if is_shared(tensor):
            put(tensor, index, bits)
        else:
            tensor[index] = bits.to(tensor.device)


def tensor_hash(tensor: Tensor) -> str:
    """A hash of the tensor's type, shape and bits (of this process's slice, where several share it), in hexadecimal;
    reads 16 MiB at a time."""
    tensor = local(tensor) if is_shared(tensor) else tensor
    digest = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)}".encode(), digest_size=16)
    flat = tensor.detach()
    flat = flat.reshape(-1) if flat.is_contiguous() or flat.ndim == 0 else flat.contiguous().reshape(-1)
    step = _HASH_BYTES // tensor.element_size()
    for start in range(0, flat.numel(), step):
        digest.update(flat[start : start + step].cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two single numbers are the same bits (so that nan equals itself, and 0.0 is not -0.0)."""
    return one.dtype == other.dtype and _bits(one) == _bits(other)


def kind_of(tensor: Tensor) -> str:
    """The short name of the tensor's type, as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def _bits(scalar: Tensor) -> bytes:
    return scalar.detach().cpu().reshape(1).view(torch.uint8).numpy().tobytes()


def _closest(model: nn.Module, name: str) -> str:
    names = list(dict(model.named_parameters(remove_duplicate=False))) + list(dict(model.named_buffers()))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    return f"the closest names are {', '.join(close)}." if close else "this model has no tensors at all."
