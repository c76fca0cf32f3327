"""Frames of a film: the attention of one row of text and the norms of its tokens, each time a run is looked at."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from superweights.artefacts.file import new_file
from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.taps import Site, tapping

# So many tokens of the row are shown at most.
_MOST = 64
_DAMAGED = "remove it: the page shows the others."


@dataclass(frozen=True, eq=False)
class Frame:
    """`attention [L, H, T, T]`: |weights| of one row over their sums, as bytes (255 is 1). `norms [L + 1, T]`: of the
    residual stream, before the first block and after each, float32."""

    step: int
    """After how many updates."""
    attention: np.ndarray
    norms: np.ndarray


@torch.no_grad()
def frame_of(model: nn.Module, ids: Tensor, step: int) -> Frame:
    """The frame of one row `ids [T]`, its first 64 tokens."""
    body = Body.of(model)
    maps: dict[int, Tensor] = {}
    norms: dict[int, Tensor] = {}

    def keep(layer: int):
        def look(weights: Tensor) -> None:
            sizes = weights[0].detach().abs().float()
            maps[layer] = sizes / sizes.sum(-1, keepdim=True).clamp_min(1e-8)

        return look

    def measure(at: int):
        def look(hidden: Tensor) -> None:
            norms[at] = hidden[0].detach().float().norm(dim=-1)

        return look

    taps = {Site("weights", layer): keep(layer) for layer in body.attending()}
    taps |= {Site("block_out", layer): measure(layer + 1) for layer in range(body.layers)}
    taps[Site("block_in", 0)] = measure(0)
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]), tapping(model, taps):
        model(input_ids=ids[None, :_MOST].to(body.device), use_cache=False)
    model.train(training)
    attention = torch.stack([maps[layer] for layer in sorted(maps)]).mul(255).round().byte().cpu().numpy()
    return Frame(step, attention, torch.stack([norms[at] for at in sorted(norms)]).cpu().numpy())


def save_frame(folder: Path, frame: Frame) -> None:
    """Write a frame into `folder`, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{frame.step:08d}.npz"
    held = io.BytesIO()
    np.savez_compressed(held, attention=frame.attention, norms=frame.norms)
    with new_file(file, replace=True) as partial:
        partial.write_bytes(held.getvalue())


def load_frames(folder: Path) -> list[Frame]:
    """The frames of a run, in order. Raises `SuperweightsError` for a file that holds none."""
    return [_read(file) for file in sorted(folder.glob(f"step-{'[0-9]' * 8}.npz"))]


def _read(file: Path) -> Frame:
    try:
        with np.load(file) as held:
            attention, norms = held["attention"], held["norms"]
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        MemoryError,
        NotImplementedError,
        BadZipFile,
        zlib.error,
    ) as error:
        raise SuperweightsError(f"{file} is damaged: {error}.", hint=_DAMAGED) from error
    fits = (
        attention.dtype == np.uint8 and norms.dtype == np.float32 and attention.ndim == 4 and norms.ndim == 2
    )
    if not fits or not np.isfinite(norms).all():
        raise SuperweightsError(f"{file} holds no attention and norms of a row.", hint=_DAMAGED)
    return Frame(int(file.stem.removeprefix("step-")), attention, norms)
