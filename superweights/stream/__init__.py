"""The model's own transformers forward, with one block's weights in memory at a time.

Nothing here knows an architecture: transformers builds the model and converts the checkpoint's tensors
(renames, fused experts); we only decide when each block's tensors are read and when they are dropped.
Measured bit-equal to the whole model's logits in fp32 (tests/test_stream.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.complaints import complaints
from superweights.errors import SuperweightsError
from superweights.stream.blocks import BlockStream
from superweights.stream.device import available_memory, choose_device, choose_dtype, give_back_memory
from superweights.stream.layout import ConvertedNames
from superweights.stream.objectives import objective_for, opening_of
from superweights.stream.placing import DeviceMap, staying_blocks
from superweights.stream.sharing import shared_device, sharing
from superweights.stream.skeleton import Skeleton
from superweights.subject import announce
from superweights.subject.choosing import AUTO

__all__ = ["give_back_memory", "opened", "streaming"]


@contextmanager
def streaming(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype | str | None = None,
    device: str = "auto",
    resident: bool | None = None,
    objective: str = AUTO,
    tensor_parallel: bool = False,
    device_map: DeviceMap = None,
) -> Iterator[PreTrainedModel]:
    """The model of `checkpoint`, ready for forward passes inside the `with`.

    With `resident=False` each block's weights are read when the block runs and dropped after it; with True
    the whole model is in memory; None keeps it in memory when it takes less than half of what is free.
    `dtype` None computes in the stored type, but in float32 where that is float16 (massive activations overflow it),
    or bfloat16 on a processor without arithmetic for it (see `device.choose_dtype`). `device` "auto" is the
    accelerator where there is one.

    `objective` is a word of `subject.choosing.NAMES`, or auto: what the checkpoint's own class is for. It says which
    class of transformers' is opened, so whether there is a head.

    With `tensor_parallel` the processes that torchrun has started share the model (see `stream.sharing`): each does the
    same with it, and holds its slice in memory. A `device_map` says block by block what stays in memory, and what waits
    on the disk (see `stream.placing`).

    The model is in eval mode, without gradients or cache. `subject.layout_of` tells where the checkpoint's scalars
    are in it, `subject.objective_of` what it predicts, `subject.stream_of` how its weights come while it is streamed.

    Raises `SuperweightsError` for a checkpoint without such an objective, or that lacks tensors.
    """
    _refuse_both(tensor_parallel, device_map)
    device_ = shared_device(device) if tensor_parallel else choose_device(device)
    dtype_ = choose_dtype(checkpoint, dtype, device_)
    if checkpoint.config.get("quantization_config"):
        _refuse_dividing(checkpoint, tensor_parallel, device_map)
        yield _load_with_transformers(
            checkpoint, device_, None if dtype in (None, "auto") else dtype_, objective
        )
        return
    skeleton = Skeleton(checkpoint, dtype_, device_, objective)
    model: Any = skeleton.model
    layout = ConvertedNames(skeleton)
    goal = objective_for(checkpoint, skeleton.opening, model)
    announce(model, layout, objective=goal)
    if tensor_parallel:
        with sharing(skeleton), torch.no_grad():
            yield model
        return
    stream = BlockStream(skeleton, () if device_map is None else staying_blocks(model, device_map, device_))
    fits = skeleton.nbytes < available_memory(device_) // 2
    stays = device_map is None and (fits if resident is None else resident)
    if not stays and stream.blocks:
        with stream.one_block_at_a_time(), torch.no_grad():
            announce(model, layout, stream, goal)
            yield model
        return
    skeleton.load(skeleton.names)
    with torch.no_grad():
        yield model


def _refuse_both(tensor_parallel: bool, device_map: DeviceMap) -> None:
    if tensor_parallel and device_map is not None:
        raise SuperweightsError(
            "Processes that share a model hold their slices in memory, so there is nothing to map.",
            hint="use --tensor-parallel or --device-map.",
        )


def _refuse_dividing(checkpoint: Checkpoint, tensor_parallel: bool, device_map: DeviceMap) -> None:
    """Raise where the packed weights of a quantized checkpoint should be divided."""
    if tensor_parallel or device_map is not None:
        raise SuperweightsError(
            f"{checkpoint.name} is quantized: its packed weights are loaded whole.",
            hint="give the original checkpoint, or leave --tensor-parallel and --device-map out.",
        )


@contextmanager
def opened(
    checkpoint: Checkpoint,
    *,
    trainable: bool = False,
    dtype: torch.dtype | str | None = None,
    device: str = "auto",
) -> Iterator[PreTrainedModel]:
    """The whole model in memory, by `streaming`'s loader; with `trainable` for training: in train mode, gradients on.

    The weights of a trainable model are copies of their own, so that an optimizer may write to them; the files are
    never written. Raises `SuperweightsError` as `streaming`, and for quantized weights that are to be trained.
    """
    if not trainable:
        with streaming(checkpoint, dtype=dtype, device=device, resident=True) as model:
            yield model
        return
    if checkpoint.config.get("quantization_config"):
        raise SuperweightsError(
            f"{checkpoint.name} is quantized: its weights cannot be trained.",
            hint="train the unquantized checkpoint.",
        )
    device_ = choose_device(device)
    skeleton = Skeleton(checkpoint, choose_dtype(checkpoint, dtype, device_), device_)
    skeleton.load(skeleton.names)
    announce(skeleton.model, ConvertedNames(skeleton))
    for module in skeleton.model.modules():
        module.requires_grad_(True)
    with torch.no_grad():
        for parameter in skeleton.model.parameters():
            parameter.data = parameter.data.clone()
    yield skeleton.model.train()


def _load_with_transformers(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype | None, objective: str
) -> PreTrainedModel:
    """The whole model as transformers' own quantizers load it."""
    opening = opening_of(checkpoint, objective)
    if checkpoint.path is not None and (checkpoint.path / "adapter_config.json").exists():
        raise SuperweightsError(
            f"An adapter lies beside the weights of {checkpoint.name}, and transformers would load that with them.",
            hint="move adapter_config.json and adapter_model.safetensors into a folder of their own.",
        )
    with complaints(
        f"transformers cannot load the quantized checkpoint {checkpoint.name}",
        hint="install what its quantization method needs, or give the unquantized checkpoint.",
    ):
        loaded: Any = getattr(transformers, opening.auto_class).from_pretrained(
            checkpoint.path or checkpoint.name,
            revision=checkpoint.revision,
            dtype=dtype or "auto",
            device_map={"": device},
            trust_remote_code=checkpoint.trust_remote_code,
            output_loading_info=True,
        )
        model, info = loaded
    if info["missing_keys"]:
        raise SuperweightsError(
            f"{checkpoint.name} lacks {min(info['missing_keys'])}, for which transformers would put random numbers.",
            hint="config.json belongs to another checkpoint, or the download is not complete.",
        )
    logging.getLogger(__name__).info("loaded whole: quantized checkpoints are not streamed")
    announce(model, objective=objective_for(checkpoint, opening, model))
    return model.eval()
