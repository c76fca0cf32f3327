"""An expert written into a dense checkpoint: any program that reads the base reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from superweights.adaptation.expert import Expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import Matrix
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.writing import Form, Written, write_folder, write_settings
from superweights.progress import Progress
from superweights.stream.skeleton import Skeleton

_README = """# A model with an expert merged in

superweights turned singular values of this checkpoint's matrices (`W + U diag(sigma (z - 1)) V^T`, Transformer²,
arXiv 2501.06252) and wrote the result in the original types. The expert: {name}, {about}.
"""


def merge(
    checkpoint: Checkpoint,
    expert: Expert,
    factors: Mapping[str, Factors],
    matrices: tuple[Matrix, ...],
    to: Path,
    *,
    progress: Progress | None = None,
) -> Written:
    """The folder `to`: `checkpoint` with the expert's matrices turned, each in its own stored type.

    The sum is taken in float32 and rounded once. One shard is in memory at a time, and a stopped run goes on where it
    was. Raises `SuperweightsError` for another base, and for matrices that are not stored as one tensor each.
    """
    expert.check_base(checkpoint.fingerprint(), checkpoint.name)
    if checkpoint.config.get("quantization_config"):
        raise SuperweightsError(
            f"{checkpoint.name} is quantized: a turned matrix has no codes on its grid.",
            hint="merge into the original, or use the expert beside the base: superweights adapt answer.",
        )
    tensor_of = _tensors_by_module(checkpoint)
    transposed = {matrix.path: matrix.transposed for matrix in matrices}
    missing = [path for path in expert.z if path not in tensor_of]
    if missing:
        raise SuperweightsError(
            f"{missing[0]} is not stored as one tensor of {checkpoint.name}, so it cannot be merged.",
            hint="use the expert beside the base: superweights adapt answer.",
        )
    turned = {tensor_of[path]: (path, z) for path, z in expert.z.items() if bool((z != 1).any())}

    def store(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name not in turned:
            return {name: tensor}
        path, z = turned[name]
        added = factors[path].delta(z)
        merged = tensor.float() + (added.T if transposed[path] else added)
        if not torch.isfinite(merged).all():
            raise SuperweightsError(f"{name} is not finite once merged.", hint="the expert is damaged.")
        return {name: merged.to(tensor.dtype)}

    def settings(folder: Path) -> None:
        about = expert.about or "no description"
        write_settings(checkpoint, folder, lambda config: None, _README.format(name=expert.name, about=about))

    work = f"expert {expert.name} {expert.digest()}"
    return write_folder(checkpoint, Path(to), Form(work, "model", store), settings, progress=progress)


def _tensors_by_module(checkpoint: Checkpoint) -> dict[str, str]:
    """The checkpoint's tensor that is a layer's own weight as stored, by the layer's path."""
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    return {
        target.removesuffix(".weight"): name
        for name, target in skeleton.targets.items()
        if target.endswith(".weight") and target not in skeleton.converters
    }
