"""What may be learnt of a model: its singular values (SVF), a few of its weights, or a low-rank addition (PEFT's LoRA).

Each learner can be on (its best speed, no gradients), learning (a forward pass inside has gradients for its
parameters) or off (the base, bit for bit), and gives and takes its numbers as a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from superweights.adaptation.applying import (
    beside,
    composed_weight,
    in_place_of,
    is_whole,
    standing_in,
    turned,
)
from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import Matrix, dense_parameter, is_packed
from superweights.errors import SuperweightsError


class Learner(Protocol):
    """What the training loop needs of whatever it trains."""

    parameters: dict[str, nn.Parameter]

    def on(self) -> AbstractContextManager[Any]:
        """The model computes with what was learnt; no gradients."""
        ...

    def off(self) -> AbstractContextManager[Any]:
        """The model is the base."""
        ...

    def learning(self, tokens: int) -> AbstractContextManager[Any]:
        """Forward passes inside have gradients for the parameters after `backward`; about `tokens` go through."""
        ...


class Singular:
    """SVF: one multiplier z per singular value of each matrix, 1 at the start.

    Learning has three ways to the same function, of which the one with fewest multiplications is taken. Where many
    tokens go through in a step, the weights are composed once and the gradient of z is pulled back from that of the
    weight (`sigma_i u_i^T G v_i`), as the published code does. Else the layer computes with the factors alone where
    they are whole (float32: equal to rounding), and where they are not, or it is packed, the term is added beside it.
    """

    def __init__(
        self, model: nn.Module, factors: Mapping[str, Factors], z: Mapping[str, Tensor] | None = None
    ):
        self.model, self.factors = model, dict(factors)
        start = {path: torch.ones(len(each)) for path, each in factors.items()} if z is None else z
        self.parameters = {path: nn.Parameter(each.detach().clone().float()) for path, each in start.items()}

    def on(self) -> AbstractContextManager[Any]:
        return turned(self.model, self.factors, {path: z.detach() for path, z in self.parameters.items()})

    def off(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @contextmanager
    def learning(self, tokens: int) -> Iterator[None]:
        with ExitStack() as stack:
            composed = {}
            for path, z in self.parameters.items():
                module, held = self.model.get_submodule(path), self.factors[path]
                whole = is_whole(module, held)
                if is_packed(module) or tokens < worth_composing(held, whole):
                    stack.enter_context((in_place_of if whole else beside)(module, held, z))
                else:
                    composed[path] = composed_weight(module, path, held, z.detach())
            stack.enter_context(_pulling(self.model, composed, self._pull))
            yield

    def _pull(self, path: str, gradient: Tensor) -> None:
        z = self.parameters[path]
        found = self.factors[path].to(gradient.device).pulled_back(gradient).to(z.device)
        z.grad = found if z.grad is None else z.grad + found


def worth_composing(factors: Factors, whole: bool = False) -> float:
    """From how many tokens on it takes fewer multiplications to compose the weight than to compute with the factors.

    Composing and pulling back cost `2 k m n` and `m n` per token (the weight's gradient) over what the layer costs
    anyway; factors beside it cost `2 k (m + n)` per token, forth and back, and in its place (`whole`) `2 m n` less.
    """
    k, m, n = len(factors), len(factors.U), factors.Vh.shape[1]
    saved = 2 * k * (m + n) - (3 if whole else 1) * m * n
    return 2 * k * m * n / saved if saved > 0 else float("inf")


class Sparse:
    """A few weights of each matrix, free to move while all others stay.

    `support` holds flat indices into each layer's weight as it is stored. Source: Super-Tuning, arXiv 2607.09287 (the
    same function as PEFT's Supertuning without its low-rank part); we differ in taking any support.
    """

    def __init__(self, model: nn.Module, support: Mapping[str, Tensor]):
        self.model = model
        self.support = {path: each.long() for path, each in support.items() if len(each)}
        if not self.support:
            raise SuperweightsError("No weight may move.", hint="give a support of one weight or more.")
        self.parameters = {path: nn.Parameter(torch.zeros(len(each))) for path, each in self.support.items()}

    def on(self) -> AbstractContextManager[Any]:
        return standing_in(self.model, self._weights())

    def off(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def learning(self, tokens: int) -> AbstractContextManager[Any]:
        return _pulling(self.model, self._weights(), self._pull, turn=False)

    def _weights(self) -> dict[str, Tensor]:
        found = {}
        for path, moved in self.parameters.items():
            weight = dense_parameter(self.model.get_submodule(path), path).data.clone()
            flat, at = weight.view(-1), self.support[path].to(weight.device)
            flat[at] = (flat[at].float() + moved.detach().to(weight.device)).to(weight.dtype)
            found[path] = weight
        return found

    def _pull(self, path: str, gradient: Tensor) -> None:
        moved = self.parameters[path]
        found = gradient.reshape(-1)[self.support[path].to(gradient.device)].to(moved.device)
        moved.grad = found if moved.grad is None else moved.grad + found


class LowRank:
    """PEFT's LoRA on some matrices. `close` takes its layers out of the model again."""

    def __init__(
        self, model: nn.Module, paths: Sequence[str], rank: int, *, alpha: int | None = None, seed: int = 0
    ):
        try:
            from peft import LoraConfig, get_peft_model
        except ModuleNotFoundError as error:
            raise SuperweightsError("LoRA needs peft.", hint="pip install 'superweights[adapt]'") from error
        settings: Any = LoraConfig(
            r=rank,
            lora_alpha=alpha or rank,
            target_modules=list(paths),
            task_type="CAUSAL_LM",  # type: ignore[arg-type]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.adapted: Any = get_peft_model(model, settings)  # type: ignore[arg-type]
        self.parameters = {n: p for n, p in self.adapted.named_parameters() if p.requires_grad}

    def on(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def off(self) -> AbstractContextManager[Any]:
        return self.adapted.disable_adapter()

    def learning(self, tokens: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None:
        """Take the adapter's layers out: the model is the base again."""
        self.adapted.unload()


def lora_like(matrices: Sequence[Matrix], numbers: int) -> tuple[tuple[str, ...], int]:
    """The matrices and the rank at which LoRA has as many numbers as wanted, as nearly as whole matrices allow.

    The same rank on all of `matrices` where there are enough numbers for rank 1; else rank 1 on some, evenly spread.
    """
    each = sum(sum(matrix.shape) for matrix in matrices)
    if numbers >= each:
        return tuple(m.path for m in matrices), round(numbers / each)
    count = max(1, round(numbers / (each / len(matrices))))
    places = sorted({int((n + 0.5) * len(matrices) / count) for n in range(count)})
    return tuple(matrices[place].path for place in places), 1


@contextmanager
def _pulling(
    model: nn.Module, weights: Mapping[str, Tensor], pull: Callable[[str, Tensor], None], turn: bool = True
) -> Iterator[None]:
    """The layers compute with `weights`; each one's gradient goes to `pull` as soon as it is there, and is dropped.

    With `turn` the gradient comes as `[outputs, inputs]`, else as the layer stores its weight. Float32.
    """
    handles = []
    with standing_in(model, weights):
        parameters = {path: dense_parameter(model.get_submodule(path), path) for path in weights}
        before = {path: (parameter.requires_grad, parameter.grad) for path, parameter in parameters.items()}

        def taking(path: str) -> Callable[[Tensor], None]:
            transposed = turn and isinstance(model.get_submodule(path), Conv1D)

            def take(parameter: Tensor) -> None:
                assert parameter.grad is not None
                pull(path, (parameter.grad.T if transposed else parameter.grad).float())
                parameter.grad = None

            return take

        try:
            for path, parameter in parameters.items():
                parameter.requires_grad_(True)
                parameter.grad = None
                handles.append(parameter.register_post_accumulate_grad_hook(taking(path)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for path, parameter in parameters.items():
                asked, parameter.grad = before[path]
                parameter.requires_grad_(asked)
