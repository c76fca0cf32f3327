"""A model that several processes share, by transformers' own tensor-parallel plan; started by torchrun.

Each process holds a slice of every matrix in the plan and reads that slice alone from the checkpoint. What the plan
leaves whole (norms) each process has; the residual stream is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from superweights import processes
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.complaints import complaints
from superweights.errors import SuperweightsError
from superweights.stream.device import choose_device
from superweights.stream.skeleton import Skeleton
from superweights.wording import counted

# The ways of the plan that our own looking and editing knows: matrices in slices, of which each process has one.
_KNOWN = {
    *("colwise", "colwise_rep", "colwise_gather_output", "rowwise", "rowwise_rep", "rowwise_split_input"),
    *("embedding_rowwise", "embedding_colwise", "replicated_with_grad_allreduce", "replicate"),
}


def shared_device(name: str) -> torch.device:
    """The device of this process: of several accelerators the one of its own number. Meets the other processes.

    Raises `SuperweightsError` for a process that was started alone, and where there are fewer accelerators than
    processes.
    """
    device = choose_device(name)
    if device.type not in ("cpu", "cuda"):
        raise SuperweightsError(
            f"Processes cannot share a model on {device.type}.", hint="use --device cpu or --device cuda."
        )
    if device.type == "cuda" and processes.local_count() > torch.cuda.device_count():
        raise SuperweightsError(
            f"This machine has {counted(torch.cuda.device_count(), 'accelerator')} for {processes.local_count()} "
            "processes, and each needs one of its own.",
            hint="start fewer processes, or use --device cpu.",
        )
    processes.join(device.type)
    if device.type == "cpu":
        return device
    local = torch.device("cuda", processes.local_number())
    torch.cuda.set_device(local)
    return local


def share(skeleton: Skeleton) -> None:
    """Cut the parameters of a model without weights into the slices of the plan; what is loaded then is this process's.

    Raises `SuperweightsError` where the model has no plan, or one that cannot be looked into, where its heads do not
    divide, and where the processes are unequal.
    """
    checkpoint, model = skeleton.checkpoint, skeleton.model
    processes.agree(
        {
            "the model": checkpoint.name,
            "its fingerprint": checkpoint.origin()["fingerprint"],
            "the objective": skeleton.opening.objective,
            "the type": str(model.dtype),
            "the device": skeleton.device.type,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
    )
    _check_plan(skeleton)
    _check_heads(checkpoint, model)
    with complaints(
        f"transformers cannot share {checkpoint.name} among {processes.count()} processes",
        hint="another number of processes may do, or run one process without --tensor-parallel.",
    ):
        from transformers.distributed.configuration_utils import DistributedConfig

        asked: Any = type(model)
        _part(model, skeleton.shared)
        config, _, mesh = asked.prepare_distribute_model(
            DistributedConfig(tp_size=processes.count(), tp_plan="auto")
        )
        asked.maybe_distribute_model(model, config, mesh)
        model.tie_weights()
    skeleton.refresh()


@contextmanager
def sharing(skeleton: Skeleton) -> Iterator[None]:
    """Inside, the processes work on one model, each with its slice in memory; the end of one of them is told by the
    others in a sentence."""
    with processes.together():
        share(skeleton)
        skeleton.load(skeleton.names)
        yield


def _part(model: torch.nn.Module, groups: list[list[str]]) -> None:
    """Give each name of a tied parameter one of its own: the plan cuts them one by one. They are tied again then."""
    for group in groups:
        for name in group[1:]:
            path, _, leaf = name.rpartition(".")
            alone = torch.nn.Parameter(torch.empty_like(model.get_parameter(name)), requires_grad=False)
            model.get_submodule(path)._parameters[leaf] = alone


def _check_plan(skeleton: Skeleton) -> None:
    """Raise unless the model has a plan of which every way is known."""
    name, plan = skeleton.checkpoint.name, getattr(skeleton.model, "tp_plan", None)
    if not plan:
        raise SuperweightsError(
            f"transformers has no tensor-parallel plan for {name} ({type(skeleton.model).__name__}).",
            hint="leave --tensor-parallel out: one process reads it a block at a time.",
        )
    strange = {place: way for place, way in plan.items() if way not in _KNOWN}
    if strange:
        place, way = next(iter(strange.items()))
        raise SuperweightsError(
            f"transformers' plan for {name} shares {place} as {way}, which superweights cannot look into.",
            hint="leave --tensor-parallel out: one process reads it a block at a time.",
        )


def _check_heads(checkpoint: Checkpoint, model: Any) -> None:
    """Raise unless the heads of attention go evenly into the processes."""
    size, config = processes.count(), model.config.get_text_config()
    held = {
        word: heads
        for field, word in (("num_attention_heads", "heads"), ("num_key_value_heads", "key-value heads"))
        if isinstance(heads := getattr(config, field, None), int)
    }
    for word, heads in held.items():
        if heads % size:
            fitting = [n for n in range(2, heads + 1) if not any(each % n for each in held.values())]
            raise SuperweightsError(
                f"{size} processes cannot share the {heads} {word} of {checkpoint.name} evenly.",
                hint=f"start {', '.join(map(str, fitting))} processes."
                if fitting
                else "one process reads it a block at a time.",
            )
