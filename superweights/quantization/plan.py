"""Which tensors of a checkpoint are rounded, how, and which of their weights are kept exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch

from superweights.address import Address
from superweights.artefacts.reading import parse_json, read_text
from superweights.artefacts.shape import Between, shaped
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized, check_shape, quantize_tensor

# What tensors that are not rounded may be stored in.
NARROW = ("bfloat16", "float16")


@dataclass(frozen=True)
class Plan:
    """A scheme for each tensor, by its name in the checkpoint, and the weights that are kept exactly.

    Tensors that `schemes` does not name stay as they are stored. `out_axes` gives the axis of output channels
    where it is not 0 (1 for Conv1D, 1 or 2 for stacked experts). `narrowed` gives the dtype in which tensors are stored
    that are not rounded, but need not stay as wide as they are (embeddings). Prints, compares and round-trips
    through JSON.
    """

    schemes: Mapping[str, Scheme]
    keep: tuple[Address, ...] = ()
    """Their addresses."""
    out_axes: Mapping[str, int] = field(default_factory=dict)
    narrowed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def uniform(cls, tensors: Mapping[str, int], scheme: Scheme, keep: Iterable[Address] = ()) -> Plan:
        """The plan that rounds every one of `tensors` (name to axis of output channels) by `scheme`."""
        axes = {name: axis for name, axis in tensors.items() if axis}
        return cls(dict.fromkeys(tensors, scheme), tuple(dict.fromkeys(keep)), axes)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan in a file that `--save-plan` or `superweights plan --save` wrote. Errors as `from_json`."""
        hint = "superweights quantize --save-plan FILE writes one."
        return cls.from_json(read_text(Path(path), hint=hint), str(path))

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise `SuperweightsError` where the plan does not fit `checkpoint`: an absent tensor, a shape that its
        scheme cannot cut, storage that is no weight, a kept weight that is not there or that nothing rounds."""
        if not self.schemes:
            raise SuperweightsError(
                "The plan rounds nothing.", hint="give it the tensors of linear_tensors(checkpoint)."
            )
        for name, scheme in self.schemes.items():
            info = checkpoint.tensors.get(name)
            if info is None:
                checkpoint.read_rows(name, 0, 0)  # says which names are close
                raise AssertionError
            if not info.torch_dtype.is_floating_point or info.torch_dtype.itemsize < 2:
                raise SuperweightsError(
                    f"{name} is stored as {str(info.torch_dtype).removeprefix('torch.')}: it is quantized already.",
                    hint="quantize the original checkpoint.",
                )
            check_shape(torch.Size(info.shape), scheme, self.out_axes.get(name, 0))
        for name, dtype in self.narrowed.items():
            if name not in checkpoint.tensors or name in self.schemes or dtype not in NARROW:
                raise SuperweightsError(
                    f"The plan cannot store {name} in {dtype}.",
                    hint=f"narrowed names tensors that are not rounded, in one of {', '.join(NARROW)}.",
                )
        for address in self.keep:
            checkpoint.element(address.tensor, address.index)
            if address.tensor not in self.schemes:
                raise SuperweightsError(
                    f"{address} is to be kept, but the plan does not round its tensor.",
                    hint="a tensor that stays as it is keeps all of its weights: leave the address out."
                    if address.tensor not in self.narrowed
                    else "--embeddings keep stores it as it is; leave the address out then.",
                )

    def kept_of(self, tensor: str) -> list[tuple[int, ...]]:
        """The indices of the weights of `tensor` that are kept."""
        return [address.index for address in self.keep if address.tensor == tensor]

    def round(self, name: str, weight: torch.Tensor) -> Quantized:
        """`weight`, the tensor `name`, rounded by its scheme with its kept weights held out.

        Raises `SuperweightsError` as `quantize_tensor`, which refuses the fit `second_order`: matrices of that fit are
        rounded with all of the model at hand, by `superweights.reconstruction.rounded_plan`.
        """
        try:
            return quantize_tensor(weight, self.schemes[name], self.kept_of(name), self.out_axes.get(name, 0))
        except SuperweightsError as error:
            raise SuperweightsError(f"{name}: {error.message}", hint=error.hint) from error

    def fingerprint(self) -> str:
        """What tells this rounding from every other one."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def stored(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """`weight`, a tensor `name` that is not rounded, as it is stored."""
        return weight.to(getattr(torch, self.narrowed[name])) if name in self.narrowed else weight

    def without(self, tensors: Iterable[str]) -> Plan:
        """The plan in which `tensors` are not rounded, and so need no weight to be kept."""
        left = set(tensors)
        schemes = {name: scheme for name, scheme in self.schemes.items() if name not in left}
        return replace(self, schemes=schemes, keep=tuple(a for a in self.keep if a.tensor not in left))

    def to_json(self) -> str:
        """JSON that `from_json` reads back; each scheme stands in it once."""
        schemes = list(dict.fromkeys(self.schemes.values()))
        data = {
            "schemes": [json.loads(scheme.to_json()) for scheme in schemes],
            "tensors": {name: schemes.index(scheme) for name, scheme in self.schemes.items()},
            "out_axes": dict(self.out_axes),
            "keep": [str(address) for address in self.keep],
            "narrowed": dict(self.narrowed),
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str = "the plan") -> Plan:
        """The plan that `to_json` wrote. Raises `SuperweightsError` naming `where` and the field for anything else."""
        hint = "superweights quantize --save-plan FILE writes one."
        held = shaped(_Stored, parse_json(text, where, hint=hint), where, hint, "whole")
        schemes = {name: held.schemes[place] for name, place in held.tensors.items()}
        return cls(schemes, held.keep, held.out_axes, held.narrowed)


@dataclass(frozen=True)
class _Stored:
    """A plan as it stands in a file: each scheme once, and for each tensor its place among them."""

    schemes: tuple[Scheme, ...]
    tensors: Mapping[str, Annotated[int, Between(0, 2**31)]]
    out_axes: Mapping[str, Annotated[int, Between(0, 2)]]
    keep: tuple[Address, ...]
    narrowed: Mapping[str, Literal["bfloat16", "float16"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, place in self.tensors.items():
            if place >= len(self.schemes):
                raise SuperweightsError(
                    f"tensors.{name} has the scheme {place} of {len(self.schemes)}", hint="they count from 0."
                )
