"""What a quantization is: the grid, the blocks that share a scale, clipping, and how the scale is found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError

BlockKind = Literal["tensor", "channel", "group", "run", "tile"]
ClipRule = Literal["none", "z", "z_of_absolute", "block_share", "tensor_share", "iqr"]
ZeroPoint = Literal["none", "integer", "float"]
Fit = Literal["range", "mse", "half_quadratic", "least_squares", "centred", "second_order"]
Anchor = Literal["absolute", "signed"]

INTEGERS = {f"int{bits}": bits for bits in range(2, 9)}
CODEBOOKS = {"nf4": 4, "nf3": 3, "fp8_e4m3": 8, "fp8_e5m2": 8, "mxfp4": 4, "nvfp4": 4, "iq4_nl": 4}
# The block sizes that the two standards fix (OCP MX 1.0; NVFP4): along the input, no other size is that format.
STANDARD_GROUPS = {"mxfp4": 32, "nvfp4": 16}
SCALE_DTYPES = ("float32", "float16", "bfloat16", "super")
# What llama.cpp's types of super-blocks store: grid, zero point and anchor, and how many inputs share a scale.
SUPER_BLOCKS = {
    ("int4", "float", "absolute"): 32,
    ("int5", "float", "absolute"): 32,
    ("int6", "none", "signed"): 16,
    ("int3", "none", "signed"): 16,
    ("iq4_nl", "none", "signed"): 32,
}


def _one_of(what: str, given: object, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise SuperweightsError(
            f"There is no {what} {given!r}.", hint=f"choose one of: {', '.join(allowed)}."
        )


@dataclass(frozen=True)
class Blocks:
    """Which weights share one scale.

    `tensor`: all of them. `channel`: one output channel. `group` (size,): consecutive inputs of one output
    channel; the last group of a channel is padded. `tile` (outputs, inputs): a two-dimensional tile, padded at
    the edges. `run` (size,): consecutive elements of the flattened tensor, across channels, as arXiv 2411.07191
    has it: its "128x128" is a run of 16,384 elements and no tile. A run must divide the tensor.
    """

    kind: BlockKind = "group"
    """One of the five above."""
    size: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        _one_of("block kind", self.kind, get_args(BlockKind))
        needed = {"tensor": 0, "channel": 0, "group": 1, "run": 1, "tile": 2}[self.kind]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in self.size)
        if len(self.size) != needed or not whole:
            raise SuperweightsError(
                f"Blocks of kind {self.kind!r} take {needed} positive sizes, got {self.size!r}.",
                hint='for example Blocks("channel", ()), Blocks("group", (64,)) or Blocks("tile", (512, 512)).',
            )

    def __str__(self) -> str:
        return " ".join([self.kind, "x".join(map(str, self.size))]).strip()


@dataclass(frozen=True)
class Clip:
    """Where weights are cut off before the scale is taken; `amount` is read by `rule`.

    `z`: `amount` standard deviations of W from its mean. `z_of_absolute`: at mean(|W|) + amount * std(|W|), as
    published; for a Gaussian 9 means 6.2 standard deviations of W. `block_share`: at the k-th largest |W| of the
    block, k = int(elements * amount + 1). `tensor_share`: one threshold for the tensor, k = max(int(elements *
    amount), 1). `iqr`: at q75 + amount * (q75 - q25) of |W|. Standard deviations divide by n - 1.
    Source: arXiv 2411.07191, section 4.2, and the authors' code for what the text leaves open.
    """

    rule: ClipRule = "none"
    amount: float | None = None

    def __post_init__(self) -> None:
        _one_of("clip rule", self.rule, get_args(ClipRule))
        share = self.rule.endswith("_share")
        fits = (self.amount is None) == (self.rule == "none")
        if fits and self.amount is not None:
            fits = 0 <= self.amount < (1 if share else float("inf"))
        if not fits:
            raise SuperweightsError(
                f"Clip rule {self.rule!r} cannot take the amount {self.amount!r}.",
                hint='shares lie between 0 and 1, for example Clip("block_share", 1e-5); Clip("z", 10); Clip().',
            )

    @property
    def by(self) -> float:
        """`amount` as a number; only a rule other than "none" has one."""
        assert self.amount is not None
        return self.amount

    def __str__(self) -> str:
        return "no clip" if self.rule == "none" else f"clip {self.rule} {self.amount:g}"


@dataclass(frozen=True)
class Scheme:
    """A complete recipe for rounding one tensor; prints, compares and round-trips through JSON.

    `grid`: int2 to int8, nf4, nf3, fp8_e4m3, fp8_e5m2, mxfp4, nvfp4. `zero_point`: "none" is a symmetric grid,
    "integer" keeps 0 exact, "float" stores each block's offset as a number. `anchor` is for symmetric integers:
    "absolute" maps the largest |w| to 2^(N-1) - 1; "signed" maps the extreme, with its sign, to -2^(N-1) and so
    uses all 2^N levels, as GGML's Q4_0 does. `fit`: see `superweights.quantization.fit`.
    `scale_dtype` is how scales and float zero points are stored, and the rounding is done with the stored ones;
    "super" are whole multiples of one float16 for 256 inputs, as llama.cpp's K types have them.

    `paper_compat` computes as the authors of arXiv 2411.07191 do, in the weight's own dtype; `scale_shift` is
    their variant (2^N - 0.01) / range with a shift of 0.49, which gives 2^N + 1 levels. See `as_published`.
    """

    grid: str = "int4"
    """The values that a weight can take."""
    zero_point: ZeroPoint = "float"
    blocks: Blocks = Blocks()
    """Which weights share a scale."""
    clip: Clip = Clip()
    """What is cut off before scales are taken."""
    fit: Fit = "range"
    anchor: Anchor = "absolute"
    scale_dtype: str = "float16"
    paper_compat: bool = False
    scale_shift: bool = False

    def __post_init__(self) -> None:
        _one_of("grid", self.grid, (*INTEGERS, *CODEBOOKS))
        _one_of("zero point", self.zero_point, get_args(ZeroPoint))
        _one_of("fit", self.fit, get_args(Fit))
        _one_of("anchor", self.anchor, get_args(Anchor))
        _one_of("scale dtype", self.scale_dtype, SCALE_DTYPES)
        for wrong, said, hint in self._conflicts():
            if wrong:
                raise SuperweightsError(said, hint=hint)

    def _conflicts(self) -> list[tuple[bool, str, str]]:
        """Combinations that mean nothing: whether this is one, what is wrong, and what to do."""
        integer = self.grid in INTEGERS
        group = STANDARD_GROUPS.get(self.grid)
        standard = ("none", True, Blocks("group", (group,)) if group else None)
        from_range = self.fit in ("range", "second_order")  # both take a standard's scales from the range
        return [
            (
                group is not None and (self.zero_point, from_range, self.blocks) != standard,
                f"{self.grid} is a standard: symmetric, scales from the range, groups of {group}.",
                f'use Scheme("{self.grid}", zero_point="none", blocks=Blocks("group", ({group},))).',
            ),
            (
                not integer and self.zero_point == "integer",
                f"{self.grid} has no integer zero point.",
                'use zero_point="none" (as QLoRA does) or "float" (as arXiv 2411.07191 does).',
            ),
            (
                self.grid.startswith("fp8") and self.scale_dtype == "float16",
                f"The scales of {self.grid} are too small for float16, whose smallest normal number is 6e-5.",
                'use scale_dtype="float32" or "bfloat16".',
            ),
            (
                self.grid == "iq4_nl"
                and (self.zero_point, self.anchor, self.blocks) != ("none", "signed", Blocks("group", (32,))),
                "iq4_nl is llama.cpp's table: symmetric, the extreme of 32 inputs on its end.",
                'use Scheme("iq4_nl", zero_point="none", anchor="signed", blocks=Blocks("group", (32,))).',
            ),
            (
                self.scale_dtype == "super" and not self._is_super(),
                "Super-blocks are of five kinds: int4 and int5 with a float zero point in groups of "
                "32, int3 and int6 symmetric with a signed anchor in groups of 16, iq4_nl in groups of 32.",
                'use Scheme("int4", blocks=Blocks("group", (32,)), scale_dtype="super") for Q4_K, and so on.',
            ),
            (
                self.anchor == "signed"
                and not ((integer or self.grid == "iq4_nl") and self.zero_point == "none"),
                'Only symmetric integers and iq4_nl have a "signed" anchor.',
                'use zero_point="none" with an integer grid, or leave anchor="absolute".',
            ),
            (
                self.fit in ("half_quadratic", "centred") and not (integer and self.zero_point == "float"),
                f"The fit {self.fit!r} moves a float zero point of an integer grid.",
                'use zero_point="float", or fit="least_squares", which fits every grid.',
            ),
            (
                self.scale_shift and not (self.paper_compat and integer),
                "scale_shift is a variant of the published integer arithmetic.",
                "set paper_compat=True with it, or leave it out.",
            ),
            (
                self.paper_compat and not self._was_published(),
                "paper_compat covers integers, nf4 and nf3, affine, from the range.",
                "Scheme.as_published(...) builds every combination that was published.",
            ),
        ]

    def _is_super(self) -> bool:
        size = SUPER_BLOCKS.get((self.grid, self.zero_point, self.anchor))
        return size is not None and self.blocks == Blocks("group", (size,)) and not self.paper_compat

    def _was_published(self) -> bool:
        grid = self.grid in INTEGERS or self.grid in ("nf4", "nf3")
        blocks = self.blocks.kind in ("run", "channel", "tensor")
        return grid and blocks and (self.zero_point, self.fit) == ("float", "range") and self.clip.rule != "z"

    @classmethod
    def as_published(
        cls,
        grid: str = "int4",
        size: int | None = None,
        clip: Clip | None = None,
        *,
        scale_shift: bool = False,
    ) -> Scheme:
        """The scheme of arXiv 2411.07191 with runs of `size` elements (None: one block for the tensor)."""
        blocks = Blocks("tensor", ()) if size is None else Blocks("run", (size,))
        clip = Clip() if clip is None else clip
        return cls(grid, blocks=blocks, clip=clip, paper_compat=True, scale_shift=scale_shift)

    @property
    def bits(self) -> int:
        """Bits that one code takes. The published 2^N + 1 levels of `scale_shift` need one more than N."""
        return {**INTEGERS, **CODEBOOKS}[self.grid] + self.scale_shift

    def __str__(self) -> str:
        zero = {"none": "symmetric", "integer": "integer zero point", "float": "float zero point"}
        words = [f"{self.grid} {zero[self.zero_point]}", str(self.blocks), str(self.clip), f"fit {self.fit}"]
        words += ["signed anchor"] * (self.anchor == "signed") + ["as published"] * self.paper_compat
        words += ["scale shift"] * self.scale_shift
        return ", ".join([*words, f"scales {self.scale_dtype}"])

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Scheme:
        """The scheme that `to_json` wrote. Raises `SuperweightsError` for anything else."""
        hint = "Scheme(...).to_json() writes it."
        return shaped(cls, parse_json(text, "a scheme", hint=hint), "a scheme", hint, "whole")
