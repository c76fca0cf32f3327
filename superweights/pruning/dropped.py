"""What is dropped: attentions, MLPs and whole blocks, by the number of their layer."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Dropped:
    """Layers whose attention, MLP or whole block is left out. Sorted, each once.

    >>> print(Dropped(attention=(26, 25)))
    attention 25, 26
    """

    attention: tuple[int, ...] = ()
    """Layers without attention."""
    mlp: tuple[int, ...] = ()
    """Layers without MLP."""
    blocks: tuple[int, ...] = ()
    """Layers that are gone as a whole."""

    def __post_init__(self) -> None:
        for name in ("attention", "mlp", "blocks"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    @property
    def count(self) -> int:
        """How many sub-layers or blocks are left out."""
        return len(self.attention) + len(self.mlp) + len(self.blocks)

    def check(self, layers: int) -> None:
        """Raise `SuperweightsError` unless a model of `layers` blocks can lose all this."""
        for layer in (*self.attention, *self.mlp, *self.blocks):
            if not 0 <= layer < layers:
                raise SuperweightsError(
                    f"There is no layer {layer}: the model has {layers}.", hint="layers count from 0."
                )
        twice = set(self.blocks) & {*self.attention, *self.mlp}
        if twice:
            raise SuperweightsError(
                f"Layer {min(twice)} is to go as a whole and in part.", hint="name it once."
            )
        if len(self.attention) + len(self.blocks) >= layers or len(self.mlp) + len(self.blocks) >= layers:
            raise SuperweightsError(
                f"Dropping {self} leaves nothing of its kind in a model of {layers} layers.",
                hint="drop fewer.",
            )

    def __str__(self) -> str:
        parts = (("attention", self.attention), ("mlp", self.mlp), ("block", self.blocks))
        said = [f"{name} {', '.join(map(str, layers))}" for name, layers in parts if layers]
        return "; ".join(said) or "nothing"
