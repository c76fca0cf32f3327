"""How close each block is to doing nothing: its Jacobian against the identity.

Source: "The Curse of Depth" (arXiv 2502.05795, figure 5): deep blocks' Jacobians approach the identity. Here
J = d(output of one token) / d(input of the same token), the others fixed; `||J - I|| / ||I||` (Frobenius) and
the diagonal's part are estimated without bias from random probes (Hutchinson 1990): for signs u,
E ||(J' - I) u||² = ||J - I||², and E u'J'u = tr J. Nothing of size d x d is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.study import Study
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.scoring.error import mean_error
from superweights.subject.calls import first_tensor, hidden_of, with_hidden
from superweights.wording import counted

# Random probes of each token, and windows; two tokens of each window are probed, the first and one in its middle.
PROBES, WINDOWS = 16, 4


@dataclass(frozen=True)
class LayerJacobian:
    """One block, tokens in the middle of windows: `||J - I|| / ||I||` and the mean of J's diagonal, with errors
    over probes; `diagonal_share` is the part of `||J||²` that a multiple of the identity has. `first_distance`
    is the distance at the first token.
    """

    layer: int
    """The block, counted from 0."""
    distance: Score
    diagonal: Score
    diagonal_share: float
    first_distance: float


@dataclass(frozen=True)
class Jacobian:
    """How close each block is to the identity; `control` is the distance of a random map of the same gain,
    which has nothing to do with the identity: `sqrt(||J||² / d + 1)`, mean over layers.
    """

    layers: tuple[LayerJacobian, ...]
    control: float
    windows: int
    """On how many windows."""
    probes: int
    """By how many random probes each."""

    def scores(self) -> tuple[Score, ...]:
        closest = min(self.layers, key=lambda each: each.distance.value)
        return (replace(closest.distance, name=f"distance to the identity, least (layer {closest.layer})"),)

    def sheets(self) -> tuple[Sheet, ...]:
        titles = (
            "layer",
            "‖J - I‖ / ‖I‖",
            "mean of the diagonal",
            "diagonal's share",
            "first token: ‖J - I‖ / ‖I‖",
        )
        rows = [
            (e.layer, str(e.distance), str(e.diagonal), e.diagonal_share, e.first_distance)
            for e in self.layers
        ]
        note = (
            f"{counted(self.windows, 'window')}, {counted(self.probes, 'probe')}. A random map of the same gain would "
            f"stand {self.control:.4g} from the identity (mean over layers)."
        )
        return (Sheet("Jacobian of each block", titles, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        series = [
            Series("a token in the middle", [(e.layer, e.distance.value) for e in self.layers],
                   [e.distance.standard_error for e in self.layers]),
            Series("the first token", [(e.layer, e.first_distance) for e in self.layers], dashed=True),
        ]  # fmt: skip
        return (
            line_chart(
                "distance of the Jacobian to the identity", "layer", "‖J - I‖ / ‖I‖", series, log=True
            ),
        )


@dataclass(frozen=True, eq=False)
class Probed:
    """What probes found of one token's Jacobian, each `[probes, windows]` and divided by the width: estimates of
    `||J - I||²`, `||J||²` and the trace.
    """

    apart: Tensor
    """`||J - I||²`."""
    gain: Tensor
    """`||J||²`."""
    trace: Tensor
    """The trace."""


def probe(block: nn.Module, args: tuple, kwargs: dict, position: int, probes: int, seed: int = 0) -> Probed:
    """Probe the Jacobian of `block`, called with `args` and `kwargs`, at one position of every row."""
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.enable_grad():
        hidden = hidden_of(args, kwargs).detach().clone().requires_grad_(True)
        out = first_tensor(
            block.forward(*_called(args, kwargs, hidden)[0], **_called(args, kwargs, hidden)[1])
        )
        width = out.shape[-1]
        for number in range(probes):
            signs = torch.randint(2, (len(out), width), generator=generator).mul(2).sub(1)
            signs = signs.to(out.device, out.dtype)
            (gradient,) = torch.autograd.grad(
                (out[:, position] * signs).sum(), hidden, retain_graph=number < probes - 1
            )
            back = gradient[:, position].double()
            signs = signs.double()
            apart, gain = (back - signs).square().mean(-1), back.square().mean(-1)
            found.append((apart.cpu(), gain.cpu(), (back * signs).mean(-1).cpu()))
    return Probed(*(torch.stack(part) for part in zip(*found, strict=True)))


def investigate(study: Study) -> Jacobian:
    """The question for `study`, on its first four windows.

    Raises `SuperweightsError` for windows of fewer than three tokens and for models whose blocks cannot be
    differentiated (quantized ones).
    """
    body = Body.of(study.model)
    ids = study.ids[:WINDOWS].to(body.device)
    if ids.shape[1] < 3:
        raise SuperweightsError("A Jacobian needs windows of three tokens.", hint="use longer windows.")
    middle = ids.shape[1] // 2
    found: list[tuple[Probed, Probed]] = []

    def look(block: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        study.progress("probing", len(found), body.layers)
        try:
            each = [probe(block, args, kwargs, at, PROBES, study.seed) for at in (middle, 0)]
        except RuntimeError as error:
            raise SuperweightsError(
                f"Block {len(found)} cannot be differentiated: {str(error).splitlines()[0]}",
                hint="open the unquantized checkpoint.",
            ) from error
        found.append((each[0], each[1]))

    # before the hook that drops a streamed block's weights
    hooks = [
        body.model.get_submodule(path).register_forward_hook(look, with_kwargs=True, prepend=True)
        for path in body.sites.blocks
    ]
    try:
        with torch.no_grad():
            body.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(_layer(layer, *each) for layer, each in enumerate(found))
    control = sum((each.gain.mean().item() + 1) ** 0.5 for each, _ in found) / len(found)
    return Jacobian(layers, control, len(ids), PROBES)


def _layer(layer: int, middle: Probed, first: Probed) -> LayerJacobian:
    squares = middle.apart.mean(1)
    distance = squares.mean().item() ** 0.5
    error = mean_error(squares)
    error = error / (2 * distance) if error is not None and distance else None
    traces = middle.trace.mean(1)
    return LayerJacobian(
        layer,
        Score("distance to the identity", distance, "", len(squares), error),
        Score("mean of the diagonal", traces.mean().item(), "", len(traces), mean_error(traces)),
        traces.mean().item() ** 2 / middle.gain.mean().item() if middle.gain.mean() > 0 else 0.0,
        first.apart.mean().item() ** 0.5,
    )


def _called(args: tuple, kwargs: dict, hidden: Tensor) -> tuple[tuple, dict]:
    return with_hidden(args, kwargs, hidden)
