"""Four ways to predict the next sentence's vector. All work on normalised vectors `[B, S, C]`.

Source: arXiv 2412.08821, sections 2.3.1 (Base), 2.3.3 (One-Tower), 2.3.4 (Two-Tower), 2.4 (Quant, in `quantized`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from superweights.lab.concepts.layers import CausalBlock, DenoiserLayer, TimestepEncoder
from superweights.lab.concepts.noise import Guidance, NoiseSchedule, sample

_DROPPED = 0.15


class BaseLcm(nn.Module):
    """A causal transformer that predicts x_{n + 1} from x_0 to x_n, by squared error."""

    def __init__(self, concept: int, width: int, layers: int, heads: int = 4):
        super().__init__()
        self.pre, self.post = nn.Linear(concept, width), nn.Linear(width, concept)
        self.layers = nn.ModuleList(CausalBlock(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, S, C]` to `[B, S, C]`: at each place what is predicted to follow."""
        h = self.pre(x)
        for layer in self.layers:
            h = layer(h)
        return self.post(self.norm(h))

    def loss(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Squared distance to the next vector, summed over dimensions, mean over places (those `seen`, `[B, S]`)."""
        return _mean(squared(self(x[:, :-1]), x[:, 1:]), None if seen is None else seen[:, 1:])


class TwoTowerLcm(nn.Module):
    """A contextualiser reads the document, a denoiser makes the next vector out of noise, looking at what it read.

    The context of place i is a zero vector and the contextualised x_0 to x_{i - 1}: place 0 sees the zero vector alone.
    `outputs` is what the denoiser gives for each place; a concept unless it says otherwise (Quant).
    """

    def __init__(
        self,
        concept: int,
        width: int,
        context_layers: int,
        layers: int,
        heads: int = 4,
        schedule: NoiseSchedule | None = None,
        outputs: int | None = None,
    ):
        super().__init__()
        self.schedule = schedule or NoiseSchedule()
        self.context_pre, self.pre = nn.Linear(concept, width), nn.Linear(concept, width)
        self.context_layers = nn.ModuleList(CausalBlock(width, heads) for _ in range(context_layers))
        self.context_norm, self.norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.layers = nn.ModuleList(DenoiserLayer(width, heads) for _ in range(layers))
        self.time, self.post = TimestepEncoder(width), nn.Linear(width, outputs or concept)

    def encode(self, x: Tensor) -> Tensor:
        """The context `[B, S + 1, d]` of documents `[B, S, C]`, the zero vector in front."""
        h = self.context_pre(x)
        for layer in self.context_layers:
            h = layer(h)
        h = self.context_norm(h)
        return torch.cat([torch.zeros_like(h[:, :1]), h], 1)

    def denoise(self, noisy: Tensor, t: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """`noisy [B, S, C]` at steps `t [B, S]` to vectors without noise; `mask [.., S, S' + 1]`: who sees what."""
        h, time = self.pre(noisy), self.time(t)
        for layer in self.layers:
            h = layer(h, context, time, mask)
        return self.post(self.norm(h))

    def loss(self, x: Tensor, seen: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Squared distance of the denoised to the true vector, each place at a step of its own; some without context.

        Summed over dimensions, mean over places (those `seen`).
        """
        rows, n = x.shape[:2]
        t = torch.randint(self.schedule.length, (rows, n), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        mask = context_mask(n, dropped_rows(n, generator))
        found = self.denoise(self.schedule.add_noise(x, noise, t), t, self.encode(x[:, :-1]), mask)
        return _mean(squared(found, x), seen)

    @torch.no_grad()
    def sample_next(
        self, documents: Tensor, lengths: Tensor, guidance: Guidance, noise: Tensor | None = None
    ) -> Tensor:
        """The next vectors `[B, C]` of documents `[B, S, C]`, of which the first `lengths [B]` places count.

        All at once; `noise [B, C]` is what they are made of, drawn where it is None.
        """
        context = self.encode(documents)
        place = torch.arange(context.shape[1])
        mask = (place <= lengths[:, None])[:, None, None]
        alone = (place == 0).expand_as(mask)

        def denoiser(x: Tensor, t: int, conditional: bool) -> Tensor:
            steps = torch.full((len(x), 1), t)
            return self.denoise(x[:, None], steps, context, mask if conditional else alone)[:, 0]

        begun = torch.randn(len(documents), documents.shape[-1]) if noise is None else noise
        return sample(denoiser, begun, self.schedule, guidance)


class OneTowerLcm(nn.Module):
    """One causal stack over clean and noisy vectors side by side, each with its time.

    All look at clean ones only, and a noisy one at itself. Positions are learned. Not in the released code: from the
    paper's text.
    """

    def __init__(
        self, concept: int, width: int, layers: int, longest: int, schedule: NoiseSchedule | None = None
    ):
        super().__init__()
        self.schedule = schedule or NoiseSchedule()
        self.time, self.position = TimestepEncoder(width), nn.Embedding(longest, width)
        self.pre, self.post = nn.Linear(concept + width, width), nn.Linear(width, concept)
        self.layers = nn.ModuleList(CausalBlock(width, 4, rotated=False) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def denoise(self, noisy: Tensor, t: Tensor, clean: Tensor, dropped: Tensor | None = None) -> Tensor:
        """`noisy [B, S, C]` at steps `t`; place i sees clean ones before it (none where `dropped [S]`), and itself."""
        n = noisy.shape[1]
        both = torch.cat([clean, noisy], 1)
        times = torch.cat([self.time(torch.zeros_like(t)), self.time(t + 1)], 1)
        where = torch.arange(n, device=noisy.device).repeat(2)
        h = self.pre(torch.cat([both, times], -1)) + self.position(where)
        mask = self._mask(n, dropped)
        for layer in self.layers:
            h = layer(h, mask)
        return self.post(self.norm(h[:, n:]))

    def loss(self, x: Tensor, seen: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """As the Two-Tower's."""
        rows, n = x.shape[:2]
        t = torch.randint(self.schedule.length, (rows, n), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        found = self.denoise(self.schedule.add_noise(x, noise, t), t, x, dropped_rows(n, generator))
        return _mean(squared(found, x), seen)

    @torch.no_grad()
    def sample_next(
        self, documents: Tensor, lengths: Tensor, guidance: Guidance, noise: Tensor | None = None
    ) -> Tensor:
        """As the Two-Tower's; a document may be one shorter than the model has places."""
        rows, n = torch.arange(len(documents)), documents.shape[1] + 1
        clean = torch.cat([documents, torch.zeros_like(documents[:, :1])], 1)
        nothing = torch.ones(n, dtype=torch.bool)

        def denoiser(x: Tensor, t: int, conditional: bool) -> Tensor:
            noisy = torch.zeros_like(clean)
            noisy[rows, lengths] = x
            steps = torch.full((len(x), n), t)
            return self.denoise(noisy, steps, clean, None if conditional else nothing)[rows, lengths]

        begun = torch.randn(len(documents), documents.shape[-1]) if noise is None else noise
        return sample(denoiser, begun, self.schedule, guidance)

    @staticmethod
    def _mask(n: int, dropped: Tensor | None) -> Tensor:
        before = torch.ones(n, n, dtype=torch.bool).tril(-1)
        itself, nothing = torch.eye(n, dtype=torch.bool), torch.zeros(n, n, dtype=torch.bool)
        noisy = before if dropped is None else before & ~dropped[:, None]
        return torch.cat([torch.cat([before | itself, nothing], 1), torch.cat([noisy, itself], 1)])


def context_mask(n: int, dropped: Tensor | None = None) -> Tensor:
    """Which of the zero vector and n - 1 vectors each of n places sees, `[n, n]`: the zero vector, and what is before.

    Places that are `dropped` see the zero vector alone.
    """
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    if dropped is not None:
        mask = mask & ~dropped[:, None]
    mask[:, 0] = True
    return mask


def dropped_rows(n: int, generator: torch.Generator | None = None) -> Tensor:
    """The places `[n]` trained without context: floor(0.15 (n - 1)) of them, never the first."""
    chosen = torch.randperm(n - 1, generator=generator)[: int(_DROPPED * (n - 1))] + 1
    return torch.zeros(n, dtype=torch.bool).index_fill(0, chosen, True)


def squared(found: Tensor, true: Tensor) -> Tensor:
    """Squared distances `[B, S]`."""
    return (found - true).square().sum(-1)


def _mean(values: Tensor, seen: Tensor | None) -> Tensor:
    return values.mean() if seen is None else (values * seen).sum() / seen.sum().clamp_min(1)
