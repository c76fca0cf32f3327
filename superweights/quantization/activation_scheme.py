"""What rounding the inputs of linear layers is: bits, who shares a scale, what is held out, smoothed or clipped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.quantization.scheme import Blocks, Scheme

Scale = Literal["token", "tensor", "static"]
HoldRule = Literal["none", "top", "deviations", "places"]

# One scale for each output channel, the largest |w| at 127: what W8A8 kernels multiply.
INT8_WEIGHTS = Scheme("int8", "none", Blocks("channel", ()), scale_dtype="float32")


def _one_of(what: str, given: object, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise SuperweightsError(
            f"There is no {what} {given!r}.", hint=f"choose one of: {', '.join(allowed)}."
        )


@dataclass(frozen=True, order=True)
class HeldPlace:
    """Where a super activation enters a product: input `channel` of `module` at token `position` of a sequence.

    `module` may be a pattern, which is how a range of layers is named: `model.layers.[2-9].mlp.*`. Position None
    is every token. Positions count from the first token of a forward pass.
    """

    module: str
    """The module whose input it is."""
    channel: int
    """The input channel."""
    position: int | None = 0
    """The token."""

    def __post_init__(self) -> None:
        numbers = (self.channel, 0 if self.position is None else self.position)
        if not self.module or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
            raise SuperweightsError(
                f"No place: module {self.module!r}, channel {self.channel!r}, position {self.position!r}.",
                hint='for example HeldPlace("model.layers.11.mlp.down_proj", channel=1229, position=0).',
            )

    def __str__(self) -> str:
        return f"{self.module}[{'any token' if self.position is None else f'token {self.position}'}, {self.channel}]"

    def is_in(self, module: str) -> bool:
        """Whether it names a scalar of this module's input."""
        return fnmatchcase(module, self.module)


@dataclass(frozen=True)
class Hold:
    """Which input scalars are held out: left out of the scale, multiplied exactly, added back to the product.

    `top`: the `amount` largest |x|; `deviations`: every |x| above `amount` root mean squares (about 0) - of one
    token's input or of one sequence's, as `per` says. `places`: the listed ones, whatever their size.
    Source: REPLACE and RESTORE of arXiv 2411.07191, equation 1, which hold out one scalar of a tensor and put the
    median in its place; since the exact value comes back, what stands in between changes nothing. Here it is 0.
    """

    rule: HoldRule = "none"
    """none, top, deviations or places."""
    amount: float | None = None
    """How many, or how many root mean squares; None for the other rules."""
    per: Literal["token", "tensor"] = "tensor"
    """Whether a rule looks at one token's input or at a whole sequence's."""
    places: tuple[HeldPlace, ...] = ()
    """The listed ones."""

    def __post_init__(self) -> None:
        _one_of("rule of what to hold out", self.rule, get_args(HoldRule))
        _one_of("reach of a rule", self.per, ("token", "tensor"))
        counted = self.rule in ("top", "deviations")
        fits = (self.amount is not None) == counted and bool(self.places) == (self.rule == "places")
        if fits and self.amount is not None:
            fits = 0 < self.amount < float("inf") and (self.rule != "top" or self.amount == int(self.amount))
        if not fits:
            raise SuperweightsError(
                f"The rule {self.rule!r} cannot take amount {self.amount!r} and {len(self.places)} places.",
                hint='for example Hold("top", 4), Hold("deviations", 20), Hold("places", places=(HeldPlace(...),)).',
            )

    def __str__(self) -> str:
        if self.rule == "none":
            return "nothing held out"
        if self.rule == "places":
            return f"{len(self.places)} places held out"
        what = f"the {self.amount:g} largest" if self.rule == "top" else f"beyond {self.amount:g} deviations"
        return f"{what} of each {self.per} held out"


@dataclass(frozen=True)
class Smooth:
    """SmoothQuant: input channel j is divided by s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), the weights multiplied.

    max|X_j| comes from calibration text, max|W_j| from all layers that read the same input. `everywhere` False
    smooths what reads a norm's output (q, k, v, gate, up), as published: those scales can be folded into the norm.
    True also smooths the rest. Both are applied at run time, in float32: the numbers are those of a folded model,
    and no norm's way of storing its gain has to be known. Source: arXiv 2211.10438, equation 4.
    """

    alpha: float = 0.5
    """How much of the range moves into the weights, from 0 to 1."""
    everywhere: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SuperweightsError(
                f"SmoothQuant's alpha lies between 0 and 1, not {self.alpha!r}.",
                hint="0.5 and 0.85 are usual.",
            )

    def __str__(self) -> str:
        return f"smoothed {self.alpha:g}{' everywhere' if self.everywhere else ''}"


@dataclass(frozen=True)
class ActivationScheme:
    """A complete recipe for rounding the inputs of linear layers (and their weights, by `weights`).

    Inputs are rounded to symmetric integers of `bits`, round half to even. `scale`: `token` takes each token's
    largest |x|, `tensor` that of a sequence (a row of the batch; results do not depend on the batch size),
    `static` the largest seen in calibration; larger inputs saturate. What `hold` holds out counts for none of
    them. `clip` cuts the rest at so many root mean squares. `weights` None leaves weights as they are. `skip`
    holds patterns of module names to leave alone; the output head always is.
    """

    bits: int = 8
    scale: Scale = "token"
    hold: Hold = Hold()
    clip: float | None = None
    smooth: Smooth | None = None
    """SmoothQuant before the rounding; None: without."""
    weights: Scheme | None = INT8_WEIGHTS
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("scale of activations", self.scale, get_args(Scale))
        if isinstance(self.bits, bool) or self.bits not in range(2, 9):
            raise SuperweightsError(
                f"Activations are rounded to 2 to 8 bits, not {self.bits!r}.",
                hint="8 is what kernels multiply.",
            )
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise SuperweightsError(
                f"Inputs cannot be clipped at {self.clip!r} root mean squares.", hint="for example clip=20."
            )
        if self.scale == "static" and self.hold.rule == "deviations" and self.hold.per == "token":
            raise SuperweightsError(
                "A static scale needs a static threshold: deviations of each token are dynamic.",
                hint='use Hold("deviations", k, per="tensor"), whose threshold is calibrated too.',
            )

    @property
    def levels(self) -> int:
        """The largest code: 127 for 8 bits."""
        return 2 ** (self.bits - 1) - 1

    @property
    def calibrated(self) -> bool:
        """Whether a text has to be seen first: for static scales, and for SmoothQuant."""
        return self.scale == "static" or self.smooth is not None

    def skips(self, module: str) -> bool:
        """Whether this module is left alone."""
        return any(fnmatchcase(module, pattern) for pattern in self.skip)

    def __str__(self) -> str:
        weights = "weights as they are" if self.weights is None else f"weights {self.weights}"
        parts = [f"activations int{self.bits} per {self.scale}" if self.scale != "static" else
                 f"activations int{self.bits} static", str(self.hold)]  # fmt: skip
        parts += [] if self.clip is None else [f"clipped at {self.clip:g} deviations"]
        parts += [] if self.smooth is None else [str(self.smooth)]
        return "; ".join([*parts, weights])

    def to_json(self) -> str:
        """One line that `from_json` reads back."""
        data = asdict(self)
        data["weights"] = None if self.weights is None else json.loads(self.weights.to_json())
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> ActivationScheme:
        """The scheme that `to_json` wrote. Raises `SuperweightsError` naming the field for anything else."""
        hint = "ActivationScheme(...).to_json() writes it."
        return shaped(cls, parse_json(text, "a scheme", hint=hint), "a scheme", hint, "whole")
