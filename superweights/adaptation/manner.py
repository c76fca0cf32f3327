"""How an expert is trained: every dial of a run, the paper's value where it tells one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from superweights.errors import SuperweightsError

METHODS, DIRECTIONS = ("reinforce", "supervised"), ("paper", "code")


# Beyond this AdamW itself leaves what numbers can hold.
_FASTEST = 1e6


@dataclass(frozen=True)
class Manner:
    """How an expert is trained. The defaults are the paper's, but for `batch` (256 there) and `steps` (not told).

    `method`: `reinforce` (rewards of the model's own completions) or `supervised` (next-token loss of the answers).
    `rate` is AdamW's learning rate, going down as a cosine to 0 after `steps`; `clip` bounds the gradient's norm.
    `kl` weighs the divergence between the expert's and the base's next-token distributions on the completions, in
    nats summed over their tokens: KL(expert || base) for `kl_direction` `paper` (equation 1), KL(base || expert) for
    `code` (the published code). `temperature` 0 completes greedily, as the paper does. Every `every` steps the
    validation split is answered; after `patience` of them without a better mean reward the run stops. There is no
    weight decay: it would pull z to 0, not to 1.
    """

    method: str = "reinforce"
    steps: int = 100
    batch: int = 32
    """Prompts of an update."""
    rate: float = 2e-3
    clip: float = 1e-3
    kl: float = 0.0
    kl_direction: str = "paper"
    temperature: float = 0.0
    every: int = 5
    patience: int = 5
    seed: int = 0
    """Of the order of prompts, and of what is sampled."""

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.kl_direction not in DIRECTIONS:
            raise SuperweightsError(
                f"There is no method {self.method!r} with KL direction {self.kl_direction!r}.",
                hint=f"methods: {', '.join(METHODS)}; directions: {', '.join(DIRECTIONS)}.",
            )
        numbers = (self.rate, self.clip, self.kl, self.temperature)
        fine = (
            all(math.isfinite(x) and x >= 0 for x in numbers) and 0 < self.rate <= _FASTEST and self.clip > 0
        )
        if not fine or min(self.steps, self.batch, self.every, self.patience) < 1:
            raise SuperweightsError(
                "Steps, batch, every and patience are 1 or more, kl and temperature 0 or more, rate and clip above 0 "
                "(the rate up to a million).",
                hint="leave an option out to have the paper's value.",
            )
