"""Super activations set to zero, to a mean, or back to what they were: as taps.

A super weight acts on its channel at every token; the super activation is one token's. Setting only the
activation back while the weight is gone is the paper's row "Prune SW, +SA" (arXiv 2411.07191, Table 1), and
zero against mean is the intervention of Sun et al. (arXiv 2402.17762, section 3): zero is catastrophic, the
mean is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.subject import device_of, objective_of
from superweights.subject.facts import forward
from superweights.taps.site import Site, Tap
from superweights.taps.tapping import tapping


@dataclass(frozen=True, order=True)
class SuperActivation:
    """One number of the residual stream: `channel` of the token at `position`, after block `layer`.

    Positions count from 0 in each forward pass, so they mean the text's tokens only without padding on the
    left and without a key-value cache.
    """

    layer: int
    channel: int
    position: int = 0

    def __str__(self) -> str:
        return f"channel {self.channel} of token {self.position} after block {self.layer}"


@dataclass(frozen=True, eq=False)
class Recording:
    """What some activations were on some texts: `values [rows, n]`, float32, in the order of `activations`.

    Each value is filed under the embeddings of the tokens up to its position, which determine it in a causal
    model: batches may be cut and ordered otherwise when it is played back.
    """

    activations: tuple[SuperActivation, ...]
    values: Tensor
    _filed: Mapping[tuple[SuperActivation, bytes], float] = field(repr=False)

    def mean(self) -> tuple[float, ...]:
        """The mean of each activation over the texts."""
        return tuple(self.values.double().mean(0).tolist())


def zeroed(activations: SuperActivation | Iterable[SuperActivation]) -> dict[Site, Tap]:
    """Taps that set each activation to zero."""
    listed = _each(activations)
    return assigned(listed, [0.0] * len(listed))


def assigned(
    activations: SuperActivation | Iterable[SuperActivation], values: Sequence[float] | float
) -> dict[Site, Tap]:
    """Taps that set each activation to its value, the same in every text.

    With `record_activations(...).mean()` as values this is the set-to-mean intervention.
    """
    listed = _each(activations)
    given = [values] * len(listed) if isinstance(values, int | float) else list(values)
    if len(given) != len(listed):
        raise SuperweightsError(
            f"There are {len(listed)} activations and {len(given)} values.", hint="give one value for each."
        )
    wanted = dict(zip(listed, given, strict=True))

    def tap_of(here: list[SuperActivation]) -> Tap:
        return lambda hidden: _with_values(hidden, [(a, wanted[a]) for a in here])

    return {site: tap_of(here) for site, here in _by_site(listed).items()}


def record_activations(
    model: nn.Module,
    activations: SuperActivation | Iterable[SuperActivation],
    ids: Int[Tensor, "rows tokens"],
    *,
    batch_size: int = 8,
) -> Recording:
    """What `activations` are when `model` reads `ids [rows, tokens]`."""
    listed = _each(activations)
    embedded, seen = _Prefixes(listed), {}
    taps: dict[Site, Tap] = {Site("embed"): embedded}
    for site, here in _by_site(listed).items():
        taps[site] = lambda hidden, here=here: seen.update({a: _read(hidden, a).float() for a in here})
    rows: list[Tensor] = []
    filed: dict[tuple[SuperActivation, bytes], float] = {}
    with torch.no_grad(), tapping(model, taps):
        for batch in ids.split(batch_size):
            forward(model, objective_of(model).batch(batch.to(device_of(model)), whole=True))
            values = torch.stack([seen[a] for a in listed], 1).cpu()
            rows.append(values)
            for i, row in enumerate(values.tolist()):
                filed |= {(a, embedded.key(i, a)): v for a, v in zip(listed, row, strict=True)}
    return Recording(listed, torch.cat(rows), filed)


def restored(recording: Recording) -> dict[Site, Tap]:
    """Taps that set each activation back to what it was when the same text was recorded.

    The texts are recognised by their embeddings up to the activation's position; one that was not recorded
    raises `SuperweightsError`.
    """
    embedded = _Prefixes(recording.activations)

    def original(activation: SuperActivation, row: int) -> float:
        found = recording._filed.get((activation, embedded.key(row, activation)))
        if found is None:
            raise SuperweightsError(
                f"{str(activation).capitalize()} was not recorded for this text.",
                hint="record the activations on the same tokens, with the same embeddings.",
            )
        return found

    def tap_of(here: list[SuperActivation]) -> Tap:
        return lambda hidden: _with_values(
            hidden, [(a, torch.tensor([original(a, row) for row in range(len(hidden))])) for a in here]
        )

    taps: dict[Site, Tap] = {Site("embed"): embedded}
    return taps | {site: tap_of(here) for site, here in _by_site(recording.activations).items()}


class _Prefixes:
    """A tap on the embeddings that knows each row's beginnings, as hashes."""

    def __init__(self, activations: Iterable[SuperActivation]):
        self._positions = {a.position for a in activations}
        self._keys: dict[tuple[int, int], bytes] = {}

    def __call__(self, embedded: Tensor) -> None:
        held = embedded.detach().float().cpu().contiguous()
        self._keys = {
            (row, position): hashlib.blake2b(
                held[row, : position + 1].contiguous().numpy().data, digest_size=16
            ).digest()
            for row in range(len(held))
            for position in self._positions
        }

    def key(self, row: int, activation: SuperActivation) -> bytes:
        return self._keys[row, activation.position]


def _with_values(hidden: Tensor, values: Iterable[tuple[SuperActivation, float | Tensor]]) -> Tensor:
    """A copy of `hidden` in which each activation has its value (one, or one for each row)."""
    changed = hidden.clone()
    for activation, value in values:
        place = _read(changed, activation)
        place.copy_(torch.as_tensor(value).to(place))
    return changed


def _read(hidden: Tensor, activation: SuperActivation) -> Tensor:
    """The activation in every row: `[rows]`."""
    _, tokens, width = hidden.shape
    if not (0 <= activation.position < tokens and 0 <= activation.channel < width):
        raise SuperweightsError(
            f"There is no {activation}: it has {tokens} tokens of {width} channels.",
            hint="positions and channels count from 0.",
        )
    return hidden[:, activation.position, activation.channel]


def _by_site(activations: Iterable[SuperActivation]) -> dict[Site, list[SuperActivation]]:
    found: dict[Site, list[SuperActivation]] = {}
    for activation in activations:
        found.setdefault(Site("block_out", activation.layer), []).append(activation)
    return found


def _each(activations: SuperActivation | Iterable[SuperActivation]) -> tuple[SuperActivation, ...]:
    listed = (activations,) if isinstance(activations, SuperActivation) else tuple(activations)
    if not listed or len(set(listed)) < len(listed):
        raise SuperweightsError(
            "Activations must be given, each once.", hint="for example SuperActivation(11, 507)."
        )
    return listed
