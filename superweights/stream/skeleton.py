"""The model without weights, and how the checkpoint's tensors become its parameters.

The only file that knows transformers' loader. transformers 5 renames and fuses checkpoint tensors on the
way in (`core_model_loading`); we hand it a few tensors at a time, so that the same code that loads a whole
model also loads one block of it.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    PreTrainedModel,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.complaints import complaints
from superweights.errors import SuperweightsError
from superweights.stream.objectives import opening_of
from superweights.subject.choosing import AUTO, Opening


class Skeleton:
    """A transformers model on the meta device and the way from checkpoint names to its parameters.

    `targets[name]` is the parameter that the tensor `name` goes into, and `converters[parameter]` the
    transformers converter that makes it, where it is more than a rename. Buffers that no checkpoint stores
    (rotary frequencies) are real from the start.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, objective: str = AUTO
    ):
        self.checkpoint = checkpoint
        self.device = device
        self.opening = opening_of(checkpoint, objective)
        self.model = _empty_model(checkpoint, dtype, self.opening)
        self._move_buffers()
        rules = get_model_conversion_mapping(self.model)
        self._rules = cast("list[WeightConverter | WeightRenaming]", rules)
        self._wanted = self.model.state_dict()
        self.targets, self.converters = self._plan()
        self._untie()
        self.names = set(self.targets)
        self.first_target = dict(_further_targets(self.converters))
        self.shared = _shared_parameters(self.model)
        self.nbytes = sum(p.numel() * p.element_size() for p in self.model.parameters())

    def load(self, names: Collection[str]) -> None:
        """Read the tensors `names` into the model; what shares a parameter with them follows."""
        lazy = {name: _Lazy(self.checkpoint, name) for name in names}
        config = LoadStateDictConfig(device_map={"": self.device}, weight_mapping=self._rules)
        with _quiet():
            info, _ = convert_and_load_state_dict_in_model(self.model, lazy, config)
        self._explain(info)
        for group in self.shared:
            _share(self.model, group)

    def refresh(self) -> None:
        """See the model's parameters anew: they were replaced by slices."""
        self._wanted = self.model.state_dict()
        self.shared = _shared_parameters(self.model)

    def convert(self, target: str) -> dict[str, torch.Tensor]:
        """What the converter filed under `target` makes of the checkpoint, by parameter name."""
        made = [target, *(name for name, first in self.first_target.items() if first == target)]
        held = {name: self.model.get_parameter(name) for name in made}
        if any(parameter.is_meta for parameter in held.values()):
            self.load([name for name, goes_to in self.targets.items() if goes_to == target])
            loaded = {name: self.model.get_parameter(name).detach() for name in made}
            for name, parameter in held.items():
                path, _, leaf = name.rpartition(".")
                self.model.get_submodule(path)._parameters[leaf] = parameter
            return loaded
        return {name: parameter.detach() for name, parameter in held.items()}

    def _plan(self) -> tuple[dict[str, str], dict[str, WeightConverter]]:
        """Which parameter each checkpoint tensor goes into, and by which converter."""
        by_pattern = {
            pattern: rule
            for rule in self._rules
            if isinstance(rule, WeightConverter)
            for pattern in rule.source_patterns
        }
        targets: dict[str, str] = {}
        made_by: dict[str, WeightConverter] = {}
        for name in self.checkpoint.tensors:
            target, pattern = self._renamed(name)
            if target is None:
                continue  # e.g. rotary tables of old checkpoints, or a prediction head that is not used
            targets[name] = target
            if pattern is not None:
                made_by[target] = by_pattern[pattern]
        self._check_complete(targets, made_by)
        return targets, made_by

    def target_of(self, name: str) -> str | None:
        """The parameter that a tensor of this name would go into; None where the model has none."""
        return self._renamed(name)[0]

    def _renamed(self, name: str) -> tuple[str | None, str | None]:
        """The parameter that transformers' loader puts the tensor `name` into, and the pattern of its converter."""
        renamings = [rule for rule in self._rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in self._rules if isinstance(rule, WeightConverter)]
        prefix = self.model.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, self._wanted)
        if target not in self._wanted and name in self._wanted:
            target, pattern = rename_source_key(name, [], [], prefix, self._wanted)
        return (target, pattern) if target in self._wanted else (None, None)

    def _untie(self) -> None:
        """Give tied parameters that the checkpoint stores apart, with different values, their own places.

        As transformers 5 does (`PreTrainedModel.tie_weights`): what config.json ties is tied only where the file does
        not say otherwise.
        """
        stored: dict[str, list[str]] = {}
        for name, target in self.targets.items():
            stored.setdefault(target, []).append(name)
        tied: dict[str, str] = getattr(self.model, "all_tied_weights_keys", None) or {}
        for target, source in list(tied.items()):
            one, other = stored.get(target, []), stored.get(source, [])
            if (
                not one
                or not other
                or {target, source} & self.converters.keys()
                or self._same(one[-1], other[-1])
            ):
                continue
            path, _, leaf = target.rpartition(".")
            parameter = self.model.get_parameter(target)
            alone = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            self.model.get_submodule(path)._parameters[leaf] = alone
            tied.pop(target)

    def _same(self, one: str, other: str) -> bool:
        tensors = self.checkpoint.tensors
        if tensors[one].shape != tensors[other].shape:
            return False
        self.checkpoint.prefetch([one, other])
        same = torch.equal(self.checkpoint.read(one), self.checkpoint.read(other))
        self.checkpoint.release([one, other])
        return same

    def _check_complete(self, targets: dict[str, str], made_by: dict[str, WeightConverter]) -> None:
        """Raise unless every parameter is stored, made by a converter, or shared with one that is."""
        reached = set(targets.values()) | dict(_further_targets(made_by)).keys()
        for group in _shared_parameters(self.model):
            if reached & set(group):
                reached |= set(group)
        missing = [name for name, _ in self.model.named_parameters() if name not in reached]
        missing = [name for name in missing if not self._computed(name)]
        if missing:
            raise SuperweightsError(
                f"{self.checkpoint.name} lacks {len(missing)} of the tensors that its config asks for, "
                f"{missing[0]} first.",
                hint="the download may be incomplete, or config.json belongs to another checkpoint.",
            )

    def _computed(self, name: str) -> bool:
        """Whether a parameter is made by the model itself and never stored (sinusoidal positions); then it is made.

        What comes out different a second time is drawn at random, and would have to be stored.
        """
        patterns = getattr(self.model, "_keys_to_ignore_on_save", None) or ()
        if not any(re.search(pattern, name) for pattern in patterns):
            return False
        path, _, leaf = name.rpartition(".")
        module, empty = self.model.get_submodule(path), self.model.get_parameter(name)
        found = []
        for _ in range(2):
            made = torch.zeros(empty.shape, dtype=empty.dtype, device=self.device)
            module._parameters[leaf] = nn.Parameter(made, requires_grad=False)
            with torch.no_grad():
                self.model._init_weights(module)
            found.append(module._parameters[leaf])
        return torch.equal(found[0], found[1]) and bool(found[0].any())

    def _explain(self, info) -> None:
        """Raise for tensors that transformers could not fit into the model."""
        for name, found, expected in sorted(info.mismatched_keys):
            raise SuperweightsError(
                f"{name} has shape {list(found)} in the checkpoint, and {list(expected)} by its config.",
                hint="config.json belongs to another checkpoint, or the file is damaged.",
            )
        for name, reason in info.conversion_errors.items():
            raise SuperweightsError(
                f"transformers cannot convert {name}: {str(reason).strip().splitlines()[-1]}",
                hint="the file may be damaged, or made for another version of transformers.",
            )

    def _move_buffers(self) -> None:
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and not buffer.is_meta:
                    module._buffers[name] = buffer.to(self.device)


class _Lazy:
    """A checkpoint tensor as transformers' loader wants it: read when sliced, all of it or a process's share."""

    def __init__(self, checkpoint: Checkpoint, name: str):
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, part) -> torch.Tensor:
        return self._checkpoint.read(self._name)[part]

    def get_shape(self) -> list[int]:
        """Its shape, as safetensors' slices tell theirs."""
        return list(self._checkpoint.tensors[self._name].shape)


def _empty_model(checkpoint: Checkpoint, dtype: torch.dtype, opening: Opening) -> PreTrainedModel:
    """The model of the checkpoint's config, its parameters on the meta device."""
    config = checkpoint.model_config()
    with (
        complaints(
            f"{checkpoint.name} ({type(config).__name__}) is not a model that the installed transformers can build "
            f"with {opening.auto_class}",
            hint="check config.json and the transformers version.",
        ),
        no_init_weights(),
        init_empty_weights(include_buffers=False),
        _quiet(),
    ):
        model = _from_config(config, dtype, checkpoint.trust_remote_code, opening)
    model.tie_weights()  # the meta device made separate parameters of tied ones
    for module in model.modules():  # the towers of a composite model have configs of their own
        held: Any = getattr(module, "config", None)
        if hasattr(held, "use_cache"):
            held.use_cache = False
    model.config.use_cache = False
    return model.eval()


def _from_config(
    config: Any, dtype: torch.dtype, trust_remote_code: bool, opening: Opening
) -> PreTrainedModel:
    """The model of `config`, or of the part of a composite one that its class is built from."""
    model_class = opening.model_class
    wanted = getattr(model_class, "config_class", None)
    if wanted is not None and not isinstance(config, wanted):
        parts = [getattr(config, name, None) for name in config.sub_configs]
        inner = next((part for part in parts if isinstance(part, wanted)), None)
        if inner is not None:
            return model_class._from_config(inner, dtype=dtype)
    if model_class is not None:
        # What pools the states for a classifier is no part of an embedding; checkpoints with a head do not store it.
        pools = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        less = {"add_pooling_layer": False} if pools and opening.objective == "embedding" else {}
        return model_class._from_config(config, dtype=dtype, **less)
    auto: Any = getattr(transformers, opening.auto_class)
    return auto.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """Groups of names that are one parameter (tied embeddings, shared blocks)."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _share(model: nn.Module, group: list[str]) -> None:
    """Give every name of `group` the parameter that one of them has received."""
    held = {name: model.get_parameter(name) for name in group}
    real = next((parameter for parameter in held.values() if not parameter.is_meta), None)
    if real is None:
        return
    for name in group:
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._parameters[leaf] = real


def _further_targets(made_by: dict[str, WeightConverter]) -> Iterator[tuple[str, str]]:
    """The other parameters that a converter with several targets makes, each with its first target."""
    for target, rule in made_by.items():
        first = rule.target_patterns[0]
        for pattern in rule.target_patterns[1:]:
            yield target.replace(first, pattern), target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its own progress bars and load reports: ours is the one a person sees."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
