"""Does a denoiser of sentence vectors say something where squared error says the mean? Beside the rows that need no
model: the sentence before, the mean of the document, the mean of the training text, a random sentence of it.

Source of the question: arXiv 2412.08821, section 3.2. The signature to look for: squared error has the smallest
distance, and short vectors that fit anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from superweights.lab.concepts.documents import Documents
from superweights.lab.concepts.metrics import contrastive_accuracy, l2, paraphrasing
from superweights.lab.concepts.models import BaseLcm, TwoTowerLcm
from superweights.lab.concepts.noise import Guidance
from superweights.lab.concepts.normalizer import ConceptNormalizer
from superweights.lab.concepts.planted import Planted, learned
from superweights.lab.concepts.retrieving import ranks
from superweights.lab.designs.fitting import Schedule, fit

Progress = Callable[[str, int, int], None]
MODELS = ("Base", "Two-Tower, g 1", "Two-Tower, g 3")
REFERENCES = ("sentence before", "mean of document", "mean of training", "random sentence")
ARMS = (*MODELS, *REFERENCES)


@dataclass(frozen=True)
class ConceptSettings:
    """Sizes: width; layers of Base and of the two towers; steps and rows of training; steps of sampling."""

    width: int = 128
    base_layers: int = 4
    """Layers of Base."""
    context_layers: int = 2
    """Layers of the context tower."""
    layers: int = 2
    """Layers of the tower that takes noise away."""
    steps: int = 200
    rows: int = 32
    sampling: int = 20
    rate: float = 1e-3
    """The largest learning rate."""
    branch_steps: int = 1500
    """Updates where the sentence branches."""


@dataclass(frozen=True)
class ConceptRun:
    """One seed. `scores[arm]`: `l2`, `norm`, `ca`, `ca_unit` (predictions brought to length 1), `par`, `l2_nn` (of the
    nearest sentence of other documents, at length 1), `mrr`. `branch`: distance to the nearer of two planted branches
    over their distance from the middle, of squared error and of the denoiser. `parameters` of each model."""

    seed: int
    scores: dict[str, dict[str, float]]
    branch: dict[str, float]
    parameters: dict[str, int]


def concept_run(documents: Documents, settings: ConceptSettings, seed: int, progress: Progress) -> ConceptRun:
    """Both models trained on four fifths of the documents, and judged on every sentence of the others but the first."""
    order = torch.randperm(len(documents.lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = len(order) // 5
    held, training = documents.part(order[:cut]), documents.part(order[cut:])
    normalizer = ConceptNormalizer(documents.vectors.shape[-1]).fit(training.vectors[training.seen()])
    torch.manual_seed(seed)
    concept = documents.vectors.shape[-1]
    base = BaseLcm(concept, settings.width, settings.base_layers)
    towers = TwoTowerLcm(concept, settings.width, settings.context_layers, settings.layers)
    for number, model in enumerate((base, towers)):
        progress(f"seed {seed}: {type(model).__name__}", number, 4)
        _trained(model, training, normalizer, settings, seed)
    progress(f"seed {seed}: judged", 2, 4)
    found = _predictions(base, towers, normalizer, held, training, settings, seed)
    scores = {arm: _scores(vectors, held, training) for arm, vectors in found.items()}
    progress(f"seed {seed}: planted branch", 3, 4)
    parameters = {type(m).__name__: sum(p.numel() for p in m.parameters()) for m in (base, towers)}
    return ConceptRun(seed, scores, _branch(seed, settings), parameters)


def _trained(
    model: BaseLcm | TwoTowerLcm,
    training: Documents,
    normalizer: ConceptNormalizer,
    settings: ConceptSettings,
    seed: int,
) -> None:
    x, seen = normalizer.normalize(training.vectors), training.seen()
    generator = torch.Generator().manual_seed(seed)

    def loss(step: int) -> Tensor:
        rows = torch.randperm(len(x), generator=generator)[: settings.rows]
        return model.loss(x[rows], seen[rows])

    plan = Schedule(settings.steps, settings.rate, clip=25.0, epsilon=1e-5)
    fit(model, loss, plan)


@torch.no_grad()
def _predictions(
    base: BaseLcm,
    towers: TwoTowerLcm,
    normalizer: ConceptNormalizer,
    held: Documents,
    training: Documents,
    settings: ConceptSettings,
    seed: int,
) -> dict[str, Tensor]:
    """What each arm says of every held-out sentence but the first of a document, `[m, C]`."""
    rows, places = _asked(held)
    x = normalizer.normalize(held.vectors)
    generator = torch.Generator().manual_seed(seed)
    found = {"Base": normalizer.denormalize(base(x)[rows, places - 1])}
    for name, scale in (("Two-Tower, g 1", 1.0), ("Two-Tower, g 3", 3.0)):
        noise = torch.randn(len(rows), x.shape[-1], generator=generator)
        drawn = towers.sample_next(x[rows], places, Guidance(settings.sampling, scale), noise)
        found[name] = normalizer.denormalize(drawn)
    known = training.vectors[training.seen()]
    before = held.vectors.cumsum(1) / torch.arange(1, held.vectors.shape[1] + 1)[:, None]
    found["sentence before"] = held.vectors[rows, places - 1]
    found["mean of document"] = before[rows, places - 1]
    found["mean of training"] = known.mean(0).expand(len(rows), -1)
    found["random sentence"] = known[torch.randint(len(known), (len(rows),), generator=generator)]
    return found


def _asked(held: Documents) -> tuple[Tensor, Tensor]:
    """Document and place of every sentence that is to be predicted."""
    seen = held.seen().clone()
    seen[:, 0] = False
    rows, places = seen.nonzero().T
    return rows, places


def _scores(found: Tensor, held: Documents, training: Documents) -> dict[str, float]:
    rows, places = _asked(held)
    true, unit = held.vectors[rows, places], functional.normalize(found, dim=-1)
    known = training.vectors[training.seen()]  # other documents by construction
    nearest = known[(unit @ known.T).argmax(1)]
    bank = held.vectors[held.seen()]
    offsets = torch.cat([torch.zeros(1).long(), held.lengths.cumsum(0)[:-1]])
    rank = ranks(found, bank, offsets[rows] + places).float()
    before = [held.vectors[row, :place] for row, place in zip(rows.tolist(), places.tolist(), strict=True)]
    return {
        "l2": float(l2(found, true).mean()),
        "norm": float(found.norm(dim=-1).mean()),
        "ca": contrastive_accuracy(found, true, rows),
        "ca_unit": contrastive_accuracy(unit, true, rows),
        "par": paraphrasing(found, true, before),
        "l2_nn": float(l2(nearest, true).mean()),
        "mrr": float((1 / rank).mean()),
    }


def _branch(seed: int, settings: ConceptSettings) -> dict[str, float]:
    planted = Planted.drawn(seed, 3.0)
    guess, denoise = learned(planted, settings.branch_steps, seed, 1.0)
    generator = torch.Generator().manual_seed(seed + 1)
    x, _ = planted.pairs(2000, generator)
    with torch.no_grad():
        drawn = denoise.drawn(x, Guidance(50), generator)
        return {
            "squared error": planted.to_branch(x, guess(x))[0],
            "denoiser": planted.to_branch(x, drawn)[0],
        }
