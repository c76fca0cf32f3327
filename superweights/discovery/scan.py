"""Weights only: what the numbers of a checkpoint show without a forward pass, tensor by tensor.

The score of an output row `j` of a gated feed-forward block is
`s_j = sqrt(sum_k W[j,k]^2 * |G[k]|^2 * |U[k]|^2)`, with the norms of neuron k's gate and up rows. It is what
the Frobenius norm of the row's bilinear form `U_j = sum_k W[j,k] U[k] G[k]^T` would be if the neurons were
orthogonal to each other; the cross terms are left out here (they cost a product of all neurons with all) and
are counted by `spectrum`, for the rows at the top. An ungated block has no bilinear form: there the score is
`sqrt(sum_k W[j,k]^2 * |A[k]|^2)`. Gains of the norm before the block are not folded in.

Source: the cold-weight score of the Georgakopoulos-Soares lab's audit of super weights, where the same
approximation is called `uk_norm` (Llama-7B, layer 2, row 3968: 123.64, exactly 137.62). What such a score
does not do is predict damage: see `findings.scan.CAVEAT`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.discovery.mlps import Mlp, find_mlps
from superweights.discovery.outliers import Tally, tally_for, tiles
from superweights.errors import SuperweightsError
from superweights.findings.scan import Scan, Spectrum, SuperNeuron, Suspect, TensorOutliers
from superweights.progress import Progress

# Rows and neurons kept from each matrix: a neuron that writes many rows must not crowd out the others.
_ROWS, _NEURONS = 3, 2


def scan(
    checkpoint: Checkpoint | str | Path | None = None,
    *,
    top: int = 20,
    spectrum: bool = False,
    progress: Progress | None = None,
) -> Scan:
    """The `top` suspicious rows and neurons of a checkpoint, and the outliers of every tensor; no forward pass.

    `checkpoint` is a name or an open one (None: the embedded model). Every tensor is read once, and let go;
    peak memory is about one tensor. `spectrum` adds the exact norm and concentration of the top rows, which
    costs a matrix product each. `progress(name, done, total)` is called before each tensor. NaN and infinite
    entries are reported (`Scan.damaged`) and count as 0. Raises `SuperweightsError` where nothing is to scan.

    >>> found = scan()                                                      # doctest: +SKIP
    >>> found.suspects[0].address                                           # doctest: +SKIP
    """
    if checkpoint is None or isinstance(checkpoint, str | Path):
        with open_checkpoint(checkpoint) as opened:
            return scan(opened, top=top, spectrum=spectrum, progress=progress)
    if top < 1:
        raise SuperweightsError(f"The number of rows to show must be at least 1, got {top}.", hint="--top 20")
    mlps, skipped = find_mlps(checkpoint)
    reading = _Reading(checkpoint, mlps, progress or (lambda *_: None))
    reading.run()
    suspects = sorted(reading.suspects, key=lambda suspect: -suspect.ratio)[:top]
    if spectrum:
        places = {mlp.down: mlp for mlp in mlps}
        suspects = [
            _with_spectrum(checkpoint, places[suspect.address.tensor], suspect) for suspect in suspects
        ]
    return Scan(
        suspects=tuple(suspects),
        neurons=tuple(sorted(reading.neurons, key=lambda neuron: -neuron.ratio)[:top]),
        tensors=tuple(sorted(reading.tensors, key=lambda tensor: -(tensor.z or 0.0))),
        blocks=len(mlps),
        skipped=tuple(skipped),
        conditions={**checkpoint.origin(), "top": top, "spectrum": spectrum},
    )


class _Reading:
    """One pass over a checkpoint: inputs of a block before its output, then everything else."""

    def __init__(self, checkpoint: Checkpoint, mlps: list[Mlp], progress: Progress):
        self.checkpoint, self.mlps, self.progress = checkpoint, mlps, progress
        self.names = [name for name, info in checkpoint.tensors.items() if _is_numbers(info)]
        if not self.names:
            raise SuperweightsError(
                f"{checkpoint.name} holds no floating-point tensors to scan.",
                hint="packed quantized weights need dequantizing first.",
            )
        self.suspects: list[Suspect] = []
        self.neurons: list[SuperNeuron] = []
        self.tensors: list[TensorOutliers] = []

    def run(self) -> None:
        for mlp in self.mlps:
            sizes = _neuron_sizes(mlp, [self._read(name) for name in mlp.inputs])
            weighing = _Weighing(mlp, sizes)
            tally = self._read(mlp.down, weighing.add)
            self.suspects += weighing.suspects(tally)
            self.neurons += weighing.super_neurons(tally)
        done = {tensor.name for tensor in self.tensors}
        for name in self.names:
            if name not in done:
                self._read(name)

    def _read(self, name: str, also: Callable[[int, int, Tensor], None] | None = None) -> Tally:
        """The tally of one tensor, which is then let go; `also` sees each cleaned tile."""
        self.progress(name, len(self.tensors), len(self.names))
        info = self.checkpoint.tensors[name]
        tally = tally_for(tuple(info.shape))
        for expert, start, tile in tiles(self.checkpoint, name):
            tile = tally.add(expert, start, tile)
            if also is not None:
                also(expert, start, tile)
        self.checkpoint.release([name])
        self.tensors.append(tally.summary(name, tuple(info.shape), info.dtype))
        return tally


class _Weighing:
    """The scores of one block's rows, added up over tiles of its output matrix in either order of storage."""

    def __init__(self, mlp: Mlp, sizes: Tensor):
        self.mlp, self.sizes = mlp, sizes
        shape = len(sizes), mlp.hidden
        self.energy = torch.zeros(shape, dtype=torch.float64)
        self.most = torch.zeros(shape)
        self.neuron = torch.zeros(shape, dtype=torch.long)
        self.weight = torch.zeros(shape)
        self.column_most = torch.zeros(len(sizes), mlp.neurons)
        self.channel = torch.zeros(len(sizes), mlp.neurons, dtype=torch.long)

    def add(self, expert: int, start: int, tile: Tensor) -> None:
        """Rows `start` onwards of the stored matrix of one expert."""
        here = slice(start, start + len(tile))
        every = slice(None)
        rows, columns = (here, every) if self.mlp.out_first else (every, here)
        w = tile if self.mlp.out_first else tile.T
        parts = (w * self.sizes[expert, columns]).square()
        self.energy[expert, rows] += parts.sum(1, dtype=torch.float64)
        most, at = parts.max(1)
        better = most > self.most[expert, rows]
        values = w.gather(1, at[:, None])[:, 0]
        at = at + (0 if self.mlp.out_first else start)
        for kept, new in ((self.most, most), (self.neuron, at), (self.weight, values)):
            kept[expert, rows] = torch.where(better, new, kept[expert, rows])
        most, at = w.abs().max(0)
        better = most > self.column_most[expert, columns]
        at = at + (start if self.mlp.out_first else 0)
        for kept, new in ((self.column_most, most), (self.channel, at)):
            kept[expert, columns] = torch.where(better, new, kept[expert, columns])

    def suspects(self, tally: Tally) -> list[Suspect]:
        """The first rows of each matrix by score."""
        scores = self.energy.sqrt()
        return [
            self._suspect(tally, expert, rank, int(row), scores[expert])
            for expert in range(len(scores))
            for rank, row in enumerate(scores[expert].topk(min(_ROWS, self.mlp.hidden)).indices)
            if scores[expert].median() > 0
        ]

    def _suspect(self, tally: Tally, expert: int, rank: int, row: int, scores: Tensor) -> Suspect:
        neuron, value = int(self.neuron[expert, row]), float(self.weight[expert, row])
        return Suspect(
            address=Address(self.mlp.down, self._index(expert, row, neuron)),
            value=value,
            layer=self.mlp.layer,
            out_channel=row,
            in_neuron=neuron,
            score=float(scores[row]),
            ratio=float(scores[row] / scores.median()),
            rank=rank,
            share=float(self.most[expert, row] / self.energy[expert, row]),
            value_rank=tally.rank_of(value),
            z=tally.sigmas(value),
            kind=self.mlp.kind,
            expert=None if self.mlp.experts is None else expert,
        )

    def _index(self, expert: int, row: int, neuron: int) -> tuple[int, ...]:
        """The index as the file stores it."""
        pair = (row, neuron) if self.mlp.out_first else (neuron, row)
        return pair if self.mlp.experts is None else (expert, *pair)

    def super_neurons(self, tally: Tally) -> list[SuperNeuron]:
        """The first neurons of each matrix by the size of what they write."""
        squares = tally.column_squares if self.mlp.out_first else tally.row_squares
        strengths = self.sizes * squares.sqrt()
        sparsity = self.column_most.square() / squares
        return [
            SuperNeuron(
                tensor=self.mlp.down,
                layer=self.mlp.layer,
                in_neuron=int(neuron),
                out_channel=int(self.channel[expert, neuron]),
                ratio=float(strengths[expert, neuron] / strengths[expert].median()),
                sparsity=float(sparsity[expert, neuron]),
                expert=None if self.mlp.experts is None else expert,
            )
            for expert in range(len(strengths))
            for neuron in strengths[expert].topk(min(_NEURONS, self.mlp.neurons)).indices
            if strengths[expert].median() > 0
        ]


def _neuron_sizes(mlp: Mlp, tallies: list[Tally]) -> Tensor:
    """For each neuron `[experts, neurons]`: the product of the norms of its input rows."""
    norms = [(t.row_squares if mlp.out_first else t.column_squares).sqrt() for t in tallies]
    if mlp.kind == "fused":
        norms = list(norms[0].split(mlp.neurons, dim=1))
    return torch.stack(norms).prod(0)


def _with_spectrum(checkpoint: Checkpoint, mlp: Mlp, suspect: Suspect) -> Suspect:
    """`suspect` with the exact norm of its row's form, and how concentrated that is."""
    weights = _matrix(checkpoint, mlp.down, mlp, suspect)[suspect.out_channel].double()
    ways = [_matrix(checkpoint, name, mlp, suspect) for name in mlp.inputs]
    checkpoint.release([*mlp.inputs, mlp.down])
    if mlp.kind == "ungated":
        return replace(suspect, spectrum=Spectrum(float((weights @ ways[0].double()).norm()), None, None))
    if mlp.kind == "fused":
        ways = list(ways[0].split(mlp.neurons))
    form = torch.zeros(mlp.hidden, mlp.hidden, dtype=torch.float64)
    for part in torch.arange(mlp.neurons).split(1024):
        gate, up = (way[part].double() for way in ways)
        form += (up * weights[part, None]).T @ gate
    squares = torch.linalg.eigvalsh(form.T @ form).clamp(min=0)
    total = squares.sum()
    spread = float(total**2 / squares.square().sum())
    return replace(suspect, spectrum=Spectrum(float(total.sqrt()), float(squares[-1] / total), spread))


def _matrix(checkpoint: Checkpoint, name: str, mlp: Mlp, suspect: Suspect) -> Tensor:
    """A copy of one plain matrix, `[out, in]` in float32, with NaN and infinity as 0."""
    tensor = checkpoint.read(name)
    matrix = (tensor if suspect.expert is None else tensor[suspect.expert]).float()
    return torch.nan_to_num(matrix if mlp.out_first else matrix.T, nan=0.0, posinf=0.0, neginf=0.0)


def _is_numbers(info: Any) -> bool:
    return 1 <= len(info.shape) <= 3 and 0 not in info.shape and info.torch_dtype.is_floating_point
