"""Super experts: experts of a mixture whose down-projection makes a massive activation, and what is lost without them.

A router sends few tokens to such an expert, so that how often it is used says nothing. Two maxima are read in the
first pass: over the tokens that are *routed* to the expert, and over all tokens when each is *forced* through
every expert. The proof masks an expert in the router's choice, once with the survivors' gates as they were and
once renormalised to the same sum.

Source: Su et al., arXiv 2507.23279, whose rule (`by_paper`) is an output above the 99.5th percentile of all experts
and above a tenth of the largest, in a layer where massive activations form. Where we differ: the maximum is taken
forced too, and an expert is judged by the loss without it, not by the size of its output. The known false
positives are experts of the last layers with large outputs and no effect.

An expert module is told by how it is called: it holds stacked weights, and gets states, chosen indices and gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from superweights.branch import Branch
from superweights.discovery.trials import Trial
from superweights.subject.blocks import towers_of
from superweights.watch import Product, watching

# An expert's output is put to the proof from this many times the median expert's of its layer, and this share of the
# largest residual value after the block; so many experts of a model.
_RATIO, _SHARE_OF_PEAK, _MOST = 8.0, 0.05, 8
_PERCENTILE, _SHARE_OF_LARGEST = 0.995, 0.1


@dataclass(eq=False)
class ExpertSeen:
    """What the first pass saw of one expert.

    `routed` and `forced` are the largest |output| of its down-projection over the tokens that the router sent to it
    (`tokens` of them) and over all; `inside` is the index, in its parameter, of the weight that makes the larger
    of the two, with its `value`, output and share of that output.

    Its trials: no token reaches it, the other gates `as_was` or `renormalised`; and `others`, each of which masks
    another expert of the module, the controls.
    """

    module: str
    block: str
    layer: int
    expert: int
    of: int
    parameter: str = ""
    routed: float = 0.0
    tokens: int = 0
    forced: float = 0.0
    inside: tuple[int, ...] | None = None
    value: float = 0.0
    output: float = 0.0
    share: float = 0.0
    as_was: Trial | None = None
    renormalised: Trial | None = None
    others: list[Trial] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max(self.routed, self.forced)

    @property
    def control(self) -> Trial | None:
        """What another expert costs, the mean over those that were masked; None before any was."""
        return Trial.mean_of(self.others) if self.others and all(t.seen for t in self.others) else None

    def note(self, product: Product, forced: bool) -> None:
        """Take over the largest output of one product with its down-projection."""
        y = product.y.float().abs()
        largest = float(y.max())
        before = self.largest
        if forced:
            self.forced = max(self.forced, largest)
        else:
            self.routed, self.tokens = max(self.routed, largest), self.tokens + y.shape[0]
        if largest > before or self.inside is None:
            row, channel = divmod(int(y.argmax()), y.shape[1])
            terms = product.x[row].float() * product.operand[channel].float()
            neuron = int(terms.abs().argmax())
            self.inside, self.parameter = product.index(channel, neuron), product.parameter
            self.output, self.value = float(product.y[row, channel]), float(product.operand[channel, neuron])
            self.share = float(terms[neuron]) / self.output if self.output else 0.0


@dataclass(eq=False)
class ExpertReader:
    """Reads every expert of a model while it runs once."""

    blocks: Sequence[str]
    seen: dict[tuple[str, int], ExpertSeen] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def reading(self, model: nn.Module, aside: Callable[[], Any]) -> Iterator[None]:
        """Inside the `with`, the modules that are called as experts are also run forced; `aside()` is a context in
        which other watches look away, and says with None that this call is no reading of the model's own."""
        held = [
            (path, module)
            for path, module in model.named_modules()
            if sum(p.dim() == 3 for p in module._parameters.values() if p is not None) > 1
        ]
        hooks = [
            module.register_forward_pre_hook(partial(self._called, model, path, aside), with_kwargs=True)
            for path, module in held
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _called(
        self, model: nn.Module, path: str, aside: Callable, module: nn.Module, args: tuple, kwargs: dict
    ) -> None:
        with aside() as own:
            call = choice_of(args, kwargs)
            block = next((block for block in self.blocks if path.startswith(f"{block}.")), None)
            if not own or block is None:
                return
            stacks = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
            count, smallest = stacks[0].shape[0], min(p[0].numel() for p in stacks)
            if call is None or count < 2:
                reason = (
                    "has one expert only" if call is not None else "are not called with a router's choice"
                )
                self._say(f"the experts at {path} {reason}: they were not looked at one by one.")
                return
            hidden, index, gates = call
            towers = towers_of(self.blocks)
            number = [other for other in self.blocks if towers[other] == towers[block]].index(block)
            for forced in (False, True):
                if forced:
                    index = torch.arange(count, device=index.device).expand(hidden.shape[0], count)
                    gates = torch.ones_like(index, dtype=gates.dtype) / count

                def see(product: Product, forced: bool = forced) -> None:
                    if product.kind != "weight" or product.operand.numel() != smallest:
                        return  # the matrices into the expert are fused, so that the one out of it is the smallest
                    where = product.index(0, 0)
                    if len(where) == 3 and product.y.shape[-1] == hidden.shape[-1]:
                        key = path, where[0]
                        seen = self.seen.setdefault(key, ExpertSeen(path, block, number, where[0], count))
                        seen.note(product, forced)

                with watching(model, see):
                    module.forward(hidden, index, gates)

    def _say(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def suspects(self, peaks: dict[str, float], forming: set[str]) -> list[ExpertSeen]:
        """The experts to put to the proof: outliers of their layer, or super by the paper's rule; the largest first.

        `peaks` are the largest residual values after each block, `forming` the blocks where they step up.
        """
        found = []
        for expert in self.seen.values():
            layer = torch.tensor([e.largest for e in self.seen.values() if e.module == expert.module])
            outlier = expert.largest >= _RATIO * float(layer.median())
            reaches = expert.largest >= _SHARE_OF_PEAK * peaks.get(expert.block, 0.0)
            if (outlier and reaches) or self.by_paper(expert, forming):
                found.append(expert)
        found.sort(key=lambda expert: -expert.largest)
        if len(found) > _MOST:
            self._say(
                f"{len(found) - _MOST} more experts with large outputs were not put to the proof: at most {_MOST} are."
            )
        return found[:_MOST]

    def by_paper(self, expert: ExpertSeen, forming: set[str]) -> bool:
        """Whether the paper's three criteria hold, on the tokens that were routed."""
        outputs = torch.tensor([each.routed for each in self.seen.values()])
        above = expert.routed > float(outputs.quantile(_PERCENTILE))
        return above and expert.routed > _SHARE_OF_LARGEST * float(outputs.max()) and expert.block in forming


def choice_of(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor, Tensor] | None:
    """States `[tokens, width]`, chosen experts and gates `[tokens, k]` of a call; None if it is no such."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if len(given) != 3 or any(value.dim() != 2 for value in given):
        return None
    hidden, index, gates = given
    fits = index.shape == gates.shape and hidden.shape[0] == index.shape[0]
    whole = not index.is_floating_point() and gates.is_floating_point()
    return (hidden, index, gates) if fits and whole else None


def masked(model: nn.Module, expert: ExpertSeen, number: int, *, renormalise: bool) -> Trial:
    """The model in which no token reaches expert `number` of the module of `expert`."""
    around = partial(_masking, model, expert.module, number, renormalise)
    return Trial(lambda windows: Branch(at=expert.block, around=around))


@contextmanager
def _masking(model: nn.Module, path: str, number: int, renormalise: bool) -> Iterator[None]:
    def mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        call = choice_of(args, kwargs)
        assert call is not None, "it was called with a choice when it was read"
        index, gates = call[1], call[2]
        left = gates.masked_fill(index == number, 0.0)
        if renormalise:
            rest = left.sum(-1, keepdim=True)
            left = torch.where(rest > 0, left * (gates.sum(-1, keepdim=True) / rest), left)
        swap = lambda value: left if value is gates else value  # noqa: E731
        return tuple(map(swap, args)), {key: swap(value) for key, value in kwargs.items()}

    module: Any = model.get_submodule(path)
    hook = module.register_forward_pre_hook(mask, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
