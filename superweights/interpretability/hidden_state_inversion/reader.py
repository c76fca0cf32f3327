"""Reading a token's hidden states back into the text before it: pooling, adapter, and a copy of the model.

Source: LLM-Microscope (arXiv 2502.15007, section 3.2): the states of one token after every block, a trainable linear
pooling over layers, a two-layer MLP, and a trainable copy of the model that must emit the prefix from the one
vector that comes out. Learning rates, steps, prefix lengths and whether its score is a mean are not published;
`Training` holds ours. The vector stands behind a start token: at position 0 it would become the sink, whose
state hardly depends on what it holds. States are divided by their layer's root mean square over the training
tokens, or the few layers with massive activations would be all that the pooling sees.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Float, Int
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.subject import is_streamed


@dataclass(frozen=True)
class Training:
    """How the reader is trained: AdamW, `steps` batches of `batch` tokens; `copy` trains a copy of the model too
    (as published; several times the memory), otherwise the model itself reads, frozen.
    """

    steps: int = 60
    batch: int = 16
    rate: float = 1e-3
    """Learning rate of the reader."""
    copy: bool = False
    copy_rate: float = 1e-4
    """Learning rate of the copy."""
    seed: int = 0
    """Of first weights and batches."""


class Reader(nn.Module):
    """States `[n, L, d]` in, soft tokens `[n, d]` out: a mix of layers, then d -> d -> d with GELU."""

    scale: Tensor

    def __init__(self, layers: int, width: int, into: int, scale: Tensor, size: float):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, into)
        self.register_buffer("scale", scale)
        self.size = size

    def forward(self, states: Tensor) -> Tensor:
        shares = self.mix.softmax(0) / self.scale
        pooled = torch.einsum("nld,l->nd", states, shares)
        return self.size * self.second(functional.gelu(self.first(pooled)))


@dataclass(frozen=True, eq=False)
class Trained:
    """A reader, the model that it speaks to, and the loss at each step in nats per prefix token."""

    reader: Reader
    model: nn.Module
    curve: tuple[float, ...]
    """The loss, step by step."""

    @torch.no_grad()
    def nats(self, states: Tensor, prefixes: Tensor, batch: int = 32) -> Tensor:
        """What each prefix `[n, k]` costs given its token's states `[n, L, d]`: nats, `[n, k]`, float64."""
        found = [
            prefix_nats(self.model, self.reader(states[i : i + batch]), prefixes[i : i + batch])
            for i in range(0, len(states), batch)
        ]
        return torch.cat(found).double()


def prefix_nats(
    model: nn.Module, soft: Float[Tensor, "n d"], prefixes: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """What `model` pays for `prefixes [n, k]` after a start token and one soft token `[n, d]`: nats, `[n, k]`."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    start = prefixes.new_full((len(prefixes), 1), _start_token(model))
    embedded = embedding(torch.cat([start, prefixes[:, :-1]], 1))
    inputs = torch.cat([embedded[:, :1], soft[:, None].to(embedded.dtype), embedded[:, 1:]], 1)
    logits = model(inputs_embeds=inputs, use_cache=False).logits[:, 1:].float()
    flat = functional.cross_entropy(logits.flatten(0, 1), prefixes.flatten(), reduction="none")
    return flat.reshape(prefixes.shape)


def _start_token(model: nn.Module) -> int:
    """The beginning-of-sequence token, or the end's, or token 0."""
    config: Any = getattr(model, "config", None)
    for name in ("bos_token_id", "eos_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return 0


def train_reader(
    model: nn.Module,
    states: Float[Tensor, "n L d"],
    prefixes: Int[Tensor, "n k"],
    training: Training,
    progress: Progress = silent,
) -> Trained:
    """A reader trained to say `prefixes [n, k]` from `states [n, L, d]`; `model` itself is left as it was.

    Raises `SuperweightsError` for a model that is not wholly in memory.
    """
    if is_streamed(model) or any(p.is_meta for p in model.parameters()):
        raise SuperweightsError(
            "A streamed model cannot be trained through.", hint="use a machine that holds the whole model."
        )
    torch.manual_seed(training.seed)
    speaker = copy.deepcopy(model).train(False) if training.copy else model
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    scale = states.float().square().mean((0, 2)).sqrt().clamp_min(1e-12)
    size = embedding.weight.float().square().mean().sqrt().item()
    reader = Reader(states.shape[1], states.shape[2], embedding.weight.shape[1], scale, size).to(
        states.device
    )
    groups: list[dict[str, Any]] = [{"params": reader.parameters(), "lr": training.rate}]
    if training.copy:
        groups.append({"params": [*speaker.requires_grad_(True).parameters()], "lr": training.copy_rate})
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(training.seed)
    curve = []
    with torch.enable_grad():
        for step in range(training.steps):
            chosen = torch.randint(len(states), (training.batch,), generator=generator)
            loss = prefix_nats(speaker, reader(states[chosen]), prefixes[chosen]).mean()
            _step(optimizer, loss)
            curve.append(loss.item())
            progress("training", step + 1, training.steps)
    return Trained(reader.eval(), speaker.requires_grad_(False) if training.copy else speaker, tuple(curve))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of what is trained, and of nothing else: no gradient is left in a frozen model."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
