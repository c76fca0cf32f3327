"""Where patches begin. A set of patches is a mask `starts [B, N + 1]`: whether byte p begins one, the byte that is not
read yet included.

`e[p]` is the entropy of the byte after p, so a large one begins a patch at p + 1. Byte 0 is a patch of its own, and
byte 1 begins one whatever the entropies say: what predicts byte i + 1 reads the last patch that is complete before it,
and there must be one. Source: arXiv 2412.09871, section 2.3 (global threshold, equation 2; approximate monotonic
constraint, equation 3) and the behaviour of the released code for the rule `both`.

Every rule is incremental: what comes later moves no boundary before it. Rows never see each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.alphabet import OFFSET

Rule = Literal["entropy", "monotonic", "both", "space", "static", "byte"]
RULES: tuple[Rule, ...] = ("entropy", "monotonic", "both", "space", "static", "byte")
BY_ENTROPY = ("entropy", "monotonic", "both")

# Rows of fewer bytes may well be one word.
_LONG = 32
# Letters, digits and the continuation bytes of UTF-8; every other byte is space-like.
_WORD = torch.zeros(256, dtype=torch.bool)
for _first, _last in (b"09", b"AZ", b"az", bytes([0x80, 0xBF])):
    _WORD[_first : _last + 1] = True


@dataclass(frozen=True)
class Patching:
    """A rule and its numbers.

    `rule`: `entropy` (e > threshold), `monotonic` (e rises by more than `rise`), `both`, `space` (a patch ends at a
    space-like byte), `static` (every `stride` bytes), `byte`. `threshold`, `rise`: nats. `longest`: patches longer than
    this are cut from the left; None leaves them. `released`: the released code begins a patch at byte 2 under the rules
    that look at a rise, and none at byte 3 under `both`; the paper has no such exception.
    """

    rule: Rule = "entropy"
    threshold: float = 1.335442066192627
    rise: float = 0.5
    stride: int = 4
    longest: int | None = None
    released: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SuperweightsError(
                f"There is no rule {self.rule!r} for patches.", hint=f"choose from {', '.join(RULES)}."
            )
        if self.stride < 1 or (self.longest is not None and self.longest < 1):
            raise SuperweightsError(
                f"Patches of {self.stride if self.stride < 1 else self.longest} bytes are not possible.",
                hint="give a stride and a longest patch of at least 1.",
            )

    @property
    def needs_entropies(self) -> bool:
        """Whether an entropy model has to read the bytes first."""
        return self.rule in BY_ENTROPY

    def starts(self, ids: Tensor, entropies: Tensor | None = None) -> Tensor:
        """The mask `[B, N + 1]` for `ids [B, N]`, whose entropies `[B, N]` in nats the entropy rules need."""
        rows, n = ids.shape
        if not n:
            raise SuperweightsError("An empty text has no patches.", hint="give at least one byte.")
        begins = torch.zeros(rows, n + 1, dtype=torch.bool, device=ids.device)
        if self.needs_entropies:
            if entropies is None:
                raise SuperweightsError(
                    f"The rule {self.rule} needs entropies.", hint="give those of an entropy model."
                )
            begins[:, 2:] = self._high(entropies)[:, 1:]
        elif self.rule == "space":
            begins[:, 1:] = _after_space(ids)
        elif self.rule == "static":
            begins[:, 1 :: self.stride] = True
        else:
            begins[:] = True
        begins[:, :2] = True
        return begins if self.longest is None else _cut(begins, self.longest)

    def _high(self, e: Tensor) -> Tensor:
        """Which entropies `[B, N]` begin a patch after them."""
        rise = torch.diff(e, dim=1, prepend=e[:, :1])
        if self.rule == "entropy":
            return e > self.threshold
        high = rise > self.rise if self.rule == "monotonic" else (e > self.threshold) & (rise > self.rise)
        if self.released:
            high[:, 1:2] = True
            if self.rule == "both":
                high[:, 2:3] = False
        return high


def lengths(starts: Tensor, *, following: bool = True) -> Tensor:
    """Patch lengths `[B, P]` of a mask, zeros on the right where a row has fewer patches.

    `following` counts the byte that is not read yet: a row sums to N + 1, else to N.
    """
    mask = starts if following else starts[:, :-1]
    ids = mask.long().cumsum(1) - 1
    counts = torch.zeros(len(mask), int(ids.max()) + 1, dtype=torch.long, device=mask.device)
    return counts.scatter_add(1, ids, torch.ones_like(ids))


def from_lengths(lengths: Tensor, n: int) -> Tensor:
    """The mask `[B, N + 1]` of patch lengths that sum to N or N + 1; the other way round from `lengths`."""
    ends = lengths.clamp_min(0).cumsum(1)
    begins = torch.zeros(len(lengths), n + 2, dtype=torch.bool, device=lengths.device)
    begins[:, 0] = True
    begins.scatter_(1, ends.clamp_max(n + 1), torch.ones_like(ends, dtype=torch.bool))
    begins[:, :1] = True
    return begins[:, : n + 1]


@dataclass(frozen=True, eq=False)
class Patches:
    """Which patch each byte belongs to, and which it may read: `inside [B, N]`, `read [B, N]`; `lengths [B, P]`.

    `read` is the last patch that is complete before the byte after this one. All are counted from the mask itself, so
    that rows with fewer patches than their neighbours cannot go wrong.
    """

    inside: Tensor
    read: Tensor
    lengths: Tensor
    """Bytes of each patch; 0 where a row has fewer patches than another."""

    @classmethod
    def of(cls, starts: Tensor) -> Patches:
        inside = starts[:, :-1].long().cumsum(1) - 1
        read = starts[:, 1:].long().cumsum(1) - 1
        return cls(inside, read, lengths(starts, following=False))


def check_patches(starts: Tensor) -> None:
    """Raise `SuperweightsError` where rows of 32 bytes or more `[B, N + 1]` all have one patch after byte 0: the rule
    cuts nothing, and a model learns nothing from its patches."""
    if starts.shape[1] > _LONG and not bool(starts[:, 2:-1].any()):
        raise SuperweightsError(
            f"One patch holds all but the first of {starts.shape[1] - 1} bytes, in every row.",
            hint="lower the threshold: threshold_for(entropies, size) finds one for patches of a size.",
        )


def threshold_for(entropies: Tensor, size: float) -> float:
    """The threshold in nats with which the rule `entropy` makes patches of `size` bytes on average.

    Raises `SuperweightsError` for a size that no threshold gives.
    """
    e = entropies[:, 1:].flatten().double()
    share = (entropies.shape[1] / size - 2) / max(entropies.shape[1] - 2, 1)
    if not 0 < share < 1:
        raise SuperweightsError(
            f"No threshold makes patches of {size:g} bytes out of rows of {entropies.shape[1]}.",
            hint="ask for more than 1 byte, and for longer rows than two patches.",
        )
    return float(e.quantile(1 - share)) if len(e) < 10_000_000 else float(e[:10_000_000].quantile(1 - share))


def _after_space(ids: Tensor) -> Tensor:
    """Whether a patch begins after each byte: where it is space-like and the byte before it was not (runs are one)."""
    values = (ids - OFFSET).clamp(0, 255)
    space = ~_WORD.to(ids.device)[values] & (ids >= OFFSET)
    before = torch.zeros_like(space)
    before[:, 1:] = space[:, :-1]
    return space & ~before


def _cut(begins: Tensor, longest: int) -> Tensor:
    """Patches cut from the left into pieces of at most `longest` bytes."""
    places = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    first = torch.where(begins, places, 0).cummax(1).values
    return begins | ((places - first) % longest == 0)
