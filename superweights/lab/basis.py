"""The basis in which an optimizer moves the residual stream: where outliers may hide that a rotation only turned."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from superweights.lab.optimizers.making import rotation
from superweights.lab.optimizers.rotations import Axes
from superweights.lab.optimizers.spec import OptimizerSpec


def own_basis(spec: OptimizerSpec, optimizer: Any, model: nn.Module) -> Tensor | None:
    """The rotation `[d, d]` that takes the residual stream (`x @ rotation`) into the basis of the embedding's moments.

    OrthoAdam and rotated Adam draw it from a seed and the parameter's name; SOAP has the eigenvectors that it holds
    now. None for an optimizer that works number by number, or that mixes numbers of different channels' rows.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    parameter = embedding.weight
    if spec.name in ("orthoadam", "rotated_adam"):
        name = next(name for name, each in model.named_parameters() if each is parameter)
        found = (
            None
            if spec.rotation == "global"
            else rotation(spec, name, parameter, tokens=True, embedding=True)
        )
        return found.right.T if isinstance(found, Axes) and found.right is not None else None
    if spec.name == "soap":
        held = optimizer.state.get(parameter, {}).get("Q")
        last = held[-1] if held else None
        return last if isinstance(last, Tensor) and last.shape == (parameter.shape[1],) * 2 else None
    return None
