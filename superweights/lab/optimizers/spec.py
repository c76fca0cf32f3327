"""Which optimizer trains a lab model: every dial in one frozen dataclass. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from superweights.errors import SuperweightsError

OPTIMIZERS: Mapping[str, str] = {
    "adamw": "AdamW (torch)",
    "sgd": "SGD with momentum and decoupled weight decay",
    "orthoadam": "Adam's moments in a fixed random basis (Kaul et al. 2410.17174)",
    "rotated_adam": "the same with the rotation on one scope of a matrix (2410.19964)",
    "soap": "SOAP (2409.11321), from pytorch-optimizer",
    "muon": "Muon on matrices of blocks, AdamW on the rest, from pytorch-optimizer",
    "shampoo": "Adam in the eigenbasis of one side's gradient covariance (one-sided SOAP)",
}
ROTATIONS: Mapping[str, tuple[str, ...]] = {
    "orthoadam": ("kron", "block", "dense", "signed_permutation"),
    "rotated_adam": ("in", "out", "both", "flat", "global"),
}


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer and its dials. Raises `SuperweightsError` for a name or rotation that does not exist.

    >>> OptimizerSpec("orthoadam", rotation="kron").rotation
    'kron'
    """

    name: str = "adamw"  # see OPTIMIZERS
    learning_rate: float = 3e-3  # the largest; the schedule says how it goes
    beta1: float = 0.9  # how slowly the mean of gradients moves
    beta2: float = 0.95  # how slowly the mean of their squares moves
    epsilon: float = 1e-8  # added to the root of that mean
    weight_decay: float = 0.1  # decoupled; of matrices only (see `make_optimizer`)
    momentum: float = 0.9  # of sgd and muon
    rotation: str = ""  # of orthoadam and rotated_adam, see ROTATIONS; "" is the first of them
    block: int = 64  # side of the shared rotation of the block, flat and global rotations
    largest_rotated: int = 4096  # a longer axis (the vocabulary's) is left as it is
    every: int = 10  # steps between two bases of soap and shampoo
    router_rate: float = 10.0  # times learning_rate, of LIMe's routers (as in its paper)
    seed: int = 0  # of the rotations; each parameter's own seed is made of it and of the parameter's name

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise SuperweightsError(
                f"There is no optimizer named {self.name!r}.", hint=f"known: {', '.join(OPTIMIZERS)}."
            )
        known = ROTATIONS.get(self.name, ())
        if self.rotation and self.rotation not in known:
            raise SuperweightsError(
                f"{self.name} has no rotation named {self.rotation!r}.",
                hint=f"known: {', '.join(known)}." if known else "it has none: leave rotation out.",
            )
        if not self.rotation and known:
            object.__setattr__(self, "rotation", known[0])
        for name in ("learning_rate", "epsilon", "block", "largest_rotated", "every", "router_rate"):
            if not getattr(self, name) > 0:
                raise SuperweightsError(
                    f"{name} is {getattr(self, name)!r}.", hint="write a positive number."
                )
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise SuperweightsError(f"{name} is {getattr(self, name)!r}.", hint="from 0 to below 1.")
        if not self.weight_decay >= 0:
            raise SuperweightsError(f"weight_decay is {self.weight_decay!r}.", hint="0 is none.")

    def to_dict(self) -> dict[str, Any]:
        """Every dial by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, dials: Mapping[str, Any]) -> OptimizerSpec:
        """The inverse of `to_dict`; raises for a dial that does not exist."""
        known = [field.name for field in fields(cls)]
        for name in dials:
            if name not in known:
                raise SuperweightsError(
                    f"An optimizer has no dial {name!r}.", hint=f"the dials are {', '.join(known)}."
                )
        return cls(**dials)
