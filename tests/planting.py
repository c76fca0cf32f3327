"""Super weights planted where we know them: the ground truth that the discovery is tested against.

Test support, independent of the library. Which parameters are down-projections is said by name, as a
person would (the table of names of all families is short); how each is stored is read off its shape,
because `families` makes every inner width differ from the hidden width; and both are checked by
differentiation, which needs to know neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from families import HIDDEN
from torch import nn
from transformers import PreTrainedModel

# The last linear map of a feed-forward network, by the names that transformers' families give it.
DOWN = re.compile(
    r"""(^|\.)(
      (mlp|feed_forward|mlp_block|ffn|mixer|block_sparse_moe)\.((shared_)?experts?\.|shared_mlp\.)?down_proj(\.weight)?
    | mlps\.\d+\.down_proj\.weight
    | (layers\.\d+|mlp)\.fc2\.weight
    | (layer\.\d+|layers\.\d+\.feed_forward)\.output\.dense\.weight
    | mlp\.(dense_4h_to_h|fc_out|c_proj|Wo|output_linear)\.weight
    | shared_mlp\.output_linear\.weight
    | feed_forward\.(w2|output|value)\.weight
    | ffn\.(2|proj_down|ffn\.w_out)\.weight
    | ffn\.experts\.mlp\.w2
    | ffns\.\d+\.lin2\.weight
    | ff\.layer_2\.weight
    )$""",
    re.VERBOSE,
)
# Towers that text does not pass through, and networks inside norms that have the same names.
ASIDE = re.compile(r"vision|visual|audio|image|speech|patcher|norm\.mlp")


@dataclass(frozen=True)
class Planted:
    """One planted weight: the parameter, its index as stored, what the index means, and the value set."""

    parameter: str
    index: tuple[int, ...]
    out_channel: int
    in_neuron: int
    expert: int | None
    value: float
    spike_in: float
    spike_out: float


@dataclass(frozen=True)
class Storage:
    """Which axis of a stored tensor is the expert, the output channel and the input neuron.

    DBRX stacks the experts of one matrix along the input axis; there `stacked` is the width of one.
    """

    out_axis: int
    in_axis: int
    expert_axis: int | None = None
    stacked: int | None = None

    def read(self, index: tuple[int, ...]) -> tuple[int, int, int | None]:
        """(output channel, input neuron, expert) of `index`."""
        out, neuron = index[self.out_axis], index[self.in_axis]
        if self.stacked is not None:
            return out, neuron % self.stacked, neuron // self.stacked
        return out, neuron, None if self.expert_axis is None else index[self.expert_axis]


def down_projections(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that are MLP down-projections of the text stack, in the model's order."""
    return [name for name, _ in model.named_parameters() if DOWN.search(name) and not ASIDE.search(name)]


def storage(model: PreTrainedModel, name: str) -> Storage:
    """How `name` is stored: the axis as wide as the hidden state is the output."""
    shape = model.get_parameter(name).shape
    (out_axis,) = [axis for axis in range(len(shape)) if shape[axis] == HIDDEN]
    if len(shape) == 3:
        assert out_axis > 0, f"{name} {tuple(shape)}: the first axis of three must be the experts"
        return Storage(out_axis, 3 - out_axis, expert_axis=0)
    experts = getattr(model.get_submodule(name.rpartition(".")[0]), "moe_num_experts", None)
    return Storage(out_axis, 1 - out_axis, stacked=shape[1 - out_axis] // experts if experts else None)


def block_of(name: str) -> tuple[str, int]:
    """The stack of blocks that a parameter belongs to and its number there: `model.layers`, 1."""
    stack, number = re.match(r"(.*?)\.(\d+)\.", name).groups()
    return stack, int(number)


def early_down_projection(model: PreTrainedModel) -> str:
    """The down-projection to plant in: in the second block that has one where three have; experts first."""
    names = down_projections(model)
    assert names, f"{type(model).__name__} has no MLP down-projection"
    stack = block_of(names[0])[0]
    blocks = sorted({block_of(name)[1] for name in names if block_of(name)[0] == stack})
    chosen = blocks[1] if len(blocks) > 2 else blocks[0]
    inside = [name for name in names if block_of(name) == (stack, chosen)]
    return next(
        (name for name in inside if model.get_parameter(name).ndim == 3 or ".experts." in name), inside[0]
    )


def spread(
    model: PreTrainedModel, name: str, input_ids: torch.Tensor, channel: int
) -> tuple[Any, torch.Tensor]:
    """What each token's output at `channel` takes from each weight of `name`: the true inputs, unarranged.

    Returns the output of the module that holds the parameter, `[tokens, hidden]`, and the derivative of
    `output[t, channel]` by the parameter for every token, `[tokens, *parameter.shape]`: zero but for the
    weights that write `channel`, where it is the neuron's activation (times the expert's routing weight).
    """
    parameter = model.get_parameter(name)
    module_name = name.rpartition(".")[0]
    while True:
        output = _rerun(model, model.get_submodule(module_name), parameter, input_ids)
        if output is not None:
            break
        module_name = module_name.rpartition(".")[0]
        assert module_name, f"no module of {name} passes a derivative on"
    derivatives = [torch.autograd.grad(row[channel], parameter, retain_graph=True)[0] for row in output]
    return output.detach(), torch.stack(derivatives)


def _rerun(model, module: nn.Module, parameter: nn.Parameter, input_ids: torch.Tensor) -> torch.Tensor | None:
    """The module's output for the model's first call of it, with a graph back to `parameter` alone."""
    calls: list[tuple[tuple, dict]] = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    wanted = {p: p.requires_grad for p in model.parameters()}
    try:
        with torch.no_grad():
            model(input_ids=input_ids, use_cache=False)
        hook.remove()
        assert calls, "the module was not called"
        model.requires_grad_(False)
        parameter.requires_grad_(True)
        with torch.enable_grad():
            output = module(*calls[0][0], **calls[0][1])
    finally:
        hook.remove()
        for p, grad in wanted.items():
            p.requires_grad_(grad)
    output = output[0] if isinstance(output, tuple) else output
    if not output.requires_grad:
        return None
    (derivative,) = torch.autograd.grad(output.sum(), parameter, retain_graph=True, allow_unused=True)
    return None if derivative is None else output.flatten(0, -2)


def plant(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    seed: int = 0,
    parameter: str | None = None,
    times: float = 1000.0,
) -> Planted:
    """Plant one super weight in `model`: a massive activation on a random channel.

    The neuron is the one whose activation is largest at some token of `input_ids` (in an expert that gets a
    token); the weight is set so that the product is `times` the median output of the down-projection.
    """
    name = parameter or early_down_projection(model)
    channel = int(torch.randint(HIDDEN, (), generator=torch.Generator().manual_seed(seed)))
    output, inputs = spread(model, name, input_ids, channel)
    flat = int(inputs.abs().flatten().argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), inputs.shape))
    spike_in, index = inputs[where].item(), where[1:]
    size = times * output[output != 0].abs().median().item()
    value = size / spike_in
    with torch.no_grad():
        model.get_parameter(name)[index] = value
    out_channel, in_neuron, expert = storage(model, name).read(index)
    assert out_channel == channel
    return Planted(name, index, out_channel, in_neuron, expert, value, spike_in, spike_in * value)
