"""Super weights planted where we know them: the ground truth that the discovery is tested against.

Test support, independent of the library. Which parameters are down-projections is said by name, as a
person would (the table of names of all families is short); how each is stored is read off its shape,
because `families` makes every inner width differ from the hidden width; and both are checked by
differentiation, which needs to know neither.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

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

# A spike reaches the residual stream when its channel moves this many times the median one.
REACH = 30.0

# Token ids, or all that the model is given, by name.
Inputs = torch.Tensor | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Planted:
    """One planted weight: the parameter, its index as stored, what the index means, and the value set.

    `gain` is the norm's gain that was raised so that the spike reaches the residual stream (name and value).
    """

    parameter: str
    index: tuple[int, ...]
    out_channel: int
    in_neuron: int
    expert: int | None
    value: float
    spike_in: float
    spike_out: float
    gain: tuple[str, float] | None = None


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


def storage(model: PreTrainedModel, name: str, width: int = HIDDEN) -> Storage:
    """How `name` is stored: the axis as wide as the hidden state is the output."""
    shape = model.get_parameter(name).shape
    (out_axis,) = [axis for axis in range(len(shape)) if shape[axis] == width]
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
    """The down-projection to plant in: of the longest stack's second block (of three or more); experts first."""
    names = down_projections(model)
    assert names, f"{type(model).__name__} has no MLP down-projection"
    stacks: dict[str, set[int]] = {}
    for name in names:
        stacks.setdefault(block_of(name)[0], set()).add(block_of(name)[1])
    stack = max(stacks, key=lambda stack: len(stacks[stack]))
    blocks = sorted(stacks[stack])
    chosen = blocks[1] if len(blocks) > 2 else blocks[0]
    inside = [name for name in names if block_of(name) == (stack, chosen)]
    return next(
        (name for name in inside if model.get_parameter(name).ndim == 3 or ".experts." in name), inside[0]
    )


def spread(
    model: PreTrainedModel, name: str, input_ids: Inputs, channel: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token's output at `channel` takes from each weight of `name`: the true inputs, unarranged.

    Returns the output of the module that holds the parameter, `[tokens, hidden]`, and the derivative of
    `output[t, channel]` by the parameter for every token, `[tokens, *parameter.shape]`: zero but for the
    weights that write `channel`, where it is the neuron's activation (times the expert's routing weight).
    """
    parameter = model.get_parameter(name)
    module_name = name.rpartition(".")[0]
    while True:
        _, output = _first_call(model, module_name, input_ids, [parameter])
        if output.requires_grad and _derivative(output.sum(), parameter) is not None:
            break
        module_name = module_name.rpartition(".")[0]
        assert module_name, f"no module of {name} passes a derivative on"
    output = output.flatten(0, -2)
    derivatives = [_derivative(row[channel], parameter) for row in output]
    return output.detach(), torch.stack(derivatives)


def plant(
    model: PreTrainedModel,
    input_ids: Inputs,
    seed: int = 0,
    parameter: str | None = None,
    times: float = 1000.0,
    width: int = HIDDEN,
) -> Planted:
    """Plant one super weight in `model`: a massive activation on a random channel.

    The neuron is the one whose activation is largest at some token of `input_ids` (in an expert that gets a
    token); the weight is set so that the product is `times` the median output of the down-projection. Where
    a norm stands between the product and the residual stream, its gain is raised too: see `_open_norm`. `input_ids` may
    be all of the model's arguments by name; `width` is that of the tower's hidden states.
    """
    name = parameter or early_down_projection(model)
    channel = int(torch.randint(width, (), generator=torch.Generator().manual_seed(seed)))
    output, inputs = spread(model, name, input_ids, channel)
    flat = int(inputs.abs().flatten().argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), inputs.shape))
    spike_in, index = inputs[where].item(), where[1:]
    value = times * output[output != 0].abs().median().item() / spike_in
    with torch.no_grad():
        model.get_parameter(name)[index] = value
    out_channel, in_neuron, expert = storage(model, name, width).read(index)
    assert out_channel == channel
    gain = _open_norm(model, "{}.{}".format(*block_of(name)), input_ids, channel, width)
    return Planted(name, index, out_channel, in_neuron, expert, value, spike_in, spike_in * value, gain)


def change(model: PreTrainedModel, block: str, input_ids: Inputs, width: int = HIDDEN) -> torch.Tensor:
    """The most that a block changes each channel of the residual stream over all tokens, `[hidden]`."""
    return _change(*_first_call(model, block, input_ids), width).abs().amax(0)


def _open_norm(
    model: PreTrainedModel, block: str, input_ids: Inputs, channel: int, width: int = HIDDEN
) -> tuple[str, float] | None:
    """Raise the gain that keeps a planted spike out of the residual stream; the gain's name and new value.

    A normalised state of 64 channels has no value above 8, so in families that normalise what a block writes
    no single weight can make a massive activation. Trained ones (Gemma 3, OLMo 2) write theirs through
    outlier gains, and so does this plant. None where the spike reaches the stream by itself, or no gain
    helps.
    """
    moved = change(model, block, input_ids, width)
    if moved[channel] >= REACH * moved.median():
        return None
    gains = {
        f"{block}.{path}.{name}": gain
        for path, module in model.get_submodule(block).named_modules()
        if "norm" in type(module).__name__.lower()
        for name, gain in module.named_parameters(recurse=False)
        if gain.shape == (width,) and name != "bias"
    }
    _, output = _first_call(model, block, input_ids, list(gains.values()))
    if not output.requires_grad:
        return None
    token = output[..., channel].abs().argmax()
    slopes = {name: _derivative(output[..., channel].flatten()[token], gain) for name, gain in gains.items()}
    slopes = {name: slope[channel].item() for name, slope in slopes.items() if slope is not None}
    name = max(slopes, key=lambda name: abs(slopes[name]))
    with torch.no_grad():
        gain = model.get_parameter(name)
        old = gain[channel].item()
        gain[channel] += 2 * REACH * moved.median() / abs(slopes[name])
        if change(model, block, input_ids, width).argmax() != channel:
            gain[channel] = old
            return None
    return name, gain[channel].item()


def _change(given: torch.Tensor | None, output: torch.Tensor, width: int = HIDDEN) -> torch.Tensor:
    """What a block adds to its input, `[tokens, hidden]`; its output where the two are not alike."""
    alike = given is not None and given.shape == output.shape
    return (output - given if alike else output).detach().reshape(-1, width)


def _first_call(
    model: PreTrainedModel,
    module_name: str,
    input_ids: Inputs,
    parameters: list[nn.Parameter] | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Input and output of the model's first call of a module, the output with a graph to `parameters` alone."""
    module = model.get_submodule(module_name)
    calls: list[tuple[tuple, dict]] = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    wanted = {p: p.requires_grad for p in model.parameters()}
    try:
        with torch.no_grad():
            given = {"input_ids": input_ids} if isinstance(input_ids, torch.Tensor) else input_ids
            takes = (
                isinstance(input_ids, torch.Tensor)
                or "use_cache" in inspect.signature(model.forward).parameters
            )
            more = {"use_cache": False} if takes else {}
            model(**{name: held for name, held in given.items() if name != "labels"}, **more)
        hook.remove()
        assert calls, "the module was not called"
        model.requires_grad_(False)
        for parameter in parameters or []:
            parameter.requires_grad_(True)
        args, kwargs = calls[0]
        with torch.enable_grad():
            output = module(*args, **kwargs)
    finally:
        hook.remove()
        for p, grad in wanted.items():
            p.requires_grad_(grad)
    given = args[0] if args else kwargs.get("hidden_states")
    return given, output if isinstance(output, torch.Tensor) else output[0]


def _derivative(output: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor | None:
    return torch.autograd.grad(output, parameter, retain_graph=True, allow_unused=True)[0]
