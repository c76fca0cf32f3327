"""A pruned checkpoint written: the tensors that stay, and a config that says what is gone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.writing import Form, write_folder, write_settings
from superweights.progress import Progress
from superweights.pruning.absent import Gaps
from superweights.pruning.checking import ProbeLogits, check, probe, read
from superweights.pruning.dropped import Dropped
from superweights.pruning.leaving_out import without
from superweights.pruning.mark import GAPS, marked
from superweights.pruning.sublayers import gaps_of, sublayers_of
from superweights.stream import streaming
from superweights.subject import device_of, layout_of, vocabulary_of
from superweights.taps import sites_of
from superweights.taps.trace import CANNOT_RUN

_SUBLAYERS = """# A model without {dropped}

```python
import superweights  # pip install superweights
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")
```

Pruned by superweights. Without `import superweights` transformers does not know this model type and says so.
"""
_BLOCKS = """# A model without {dropped}

Pruned by superweights. The blocks that stay are numbered anew, and the config has fewer layers: whatever reads the
original reads this.
"""


@dataclass(frozen=True)
class Pruned:
    """What `prune` has written: the folder, bytes of its weights and of the whole model's in the same form, and how
    far its logits are from the original's without the same sub-layers, as a share of the largest."""

    folder: Path
    dropped: Dropped
    """Which layers lack what."""
    nbytes: int
    """Bytes of its weights."""
    whole_nbytes: int
    """Bytes of the whole model's."""
    difference: float
    """Of the logits, a share of the largest."""


@dataclass(frozen=True)
class _Cut:
    """What to do with the checkpoint: tensors that go, new names of those that change, the config, and the proof."""

    left_out: frozenset[str]
    names: Mapping[str, str]
    config: Callable[[dict[str, Any]], None]
    expected: ProbeLogits
    ids: torch.Tensor


def prune(
    checkpoint: Checkpoint,
    dropped: Dropped,
    to: Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    **writing: int,
) -> Pruned:
    """The folder `to`: `checkpoint` without the sub-layers `dropped`.

    Without whole blocks only, the folder is an ordinary checkpoint of fewer layers, which every program reads. Without
    attentions or MLPs, transformers reads it after `import superweights`. Before the folder appears it is opened and
    run on random tokens beside the original without the same sub-layers, in float32, once at a time and once with a
    key-value cache. Tensors that transformers does not load are not carried over.

    Raises `SuperweightsError` for layers that do not exist or cannot be told apart, for blocks together with
    sub-layers, for a quantized checkpoint, and where the written model does not predict the same.
    """
    if checkpoint.config.get("quantization_config"):
        raise SuperweightsError(
            f"{checkpoint.name} is quantized already.", hint="prune the original, and quantize the result."
        )
    if not dropped.count:
        raise SuperweightsError("Nothing is to be dropped.", hint="name at least one layer.")
    if dropped.blocks and (dropped.attention or dropped.mlp):
        raise SuperweightsError(
            "Whole blocks and sub-layers are dropped one after the other.",
            hint="drop the blocks first, then prune the result.",
        )
    cut = _cut(checkpoint, dropped, device)
    difference = [float("nan")]

    def settings(folder: Path) -> None:
        readme = (_BLOCKS if dropped.blocks else _SUBLAYERS).format(dropped=dropped)
        write_settings(checkpoint, folder, cut.config, readme)
        difference[0] = check(cut.expected, _read_back(folder, cut.ids, device))

    form = Form(
        f"pruned {dropped}", "model", lambda name, held: {cut.names.get(name, name): held}, cut.left_out
    )
    done = write_folder(checkpoint, Path(to), form, settings, progress=progress, **writing)
    whole = sum(info.size * info.torch_dtype.itemsize for info in checkpoint.tensors.values())
    return Pruned(done.folder, dropped, done.nbytes, whole, difference[0])


def _read_back(folder: Path, ids: torch.Tensor, device: str) -> ProbeLogits:
    """The written model's logits. Raises `SuperweightsError` where it cannot be opened or run."""
    hint = "this architecture needs what was dropped; drop other layers."
    try:
        with open_checkpoint(folder) as written, streaming(written, dtype="float32", device=device) as model:
            return read(model, ids)
    except SuperweightsError as error:
        said = error.message.replace(str(folder), "the result")
        raise SuperweightsError(
            f"Without these layers the model cannot be opened: {said}", hint=hint
        ) from error
    except CANNOT_RUN as error:
        raise SuperweightsError(f"Without these layers the model cannot run: {error}", hint=hint) from error


def _cut(checkpoint: Checkpoint, dropped: Dropped, device: str) -> _Cut:
    with streaming(checkpoint, dtype="float32", device=device) as opened:
        model: Any = opened
        ids = probe(vocabulary_of(model)).to(device_of(model))
        with without(model, dropped):
            expected = read(model, ids)
        layout: Any = layout_of(model)
        targets: Mapping[str, str] = layout.targets
        blocks = sites_of(model).blocks
        if dropped.blocks:
            _refuse_shared(model, blocks)
            names, gone = _renumbered(targets, blocks, dropped)
            config: Callable[[dict[str, Any]], None] = lambda held: _shortened(checkpoint, dropped, held)  # noqa: E731
        else:
            gaps = gaps_of(model, sublayers_of(model, ids), dropped)
            earlier = getattr(model.config, GAPS, None)
            gaps = gaps if earlier is None else Gaps.from_dict(earlier).joined(gaps)
            names, gone = {}, tuple(gaps.modules)
            config = lambda held: _marked(gaps, held)  # noqa: E731
        stays = {name for name, target in targets.items() if not _within_any(target, gone)}
        _refuse_loss(model, targets, stays, gone)
        return _Cut(frozenset(checkpoint.tensors.keys() - stays), names, config, expected, ids)


def _within_any(path: str, holders: tuple[str, ...]) -> bool:
    return any(path.startswith(f"{holder}.") for holder in holders)


def _renumbered(
    targets: Mapping[str, str], blocks: tuple[str, ...], dropped: Dropped
) -> tuple[dict[str, str], tuple[str, ...]]:
    """New names of the tensors in blocks whose number changes, and the paths of the blocks that go."""
    stays = [layer for layer in range(len(blocks)) if layer not in dropped.blocks]
    names = {}
    for name, target in targets.items():
        for new, old in enumerate(stays):
            if new != old and target.startswith(f"{blocks[old]}."):
                parts = name.split(".")
                # the block's own number is the first in the name; an expert's comes later
                at = next((n for n, part in enumerate(parts) if part == blocks[old].rpartition(".")[2]), None)
                if at is None:
                    raise SuperweightsError(
                        f"The number of block {old} does not stand in the name of its tensor {name}.",
                        hint="drop its attention and MLP instead.",
                    )
                names[name] = ".".join([*parts[:at], blocks[new].rpartition(".")[2], *parts[at + 1 :]])
    return names, tuple(blocks[layer] for layer in dropped.blocks)


def _shortened(checkpoint: Checkpoint, dropped: Dropped, held: dict[str, Any]) -> None:
    """Make `held` the config of the checkpoint with fewer layers: its depth, and every list with an entry a layer."""
    config = copy.deepcopy(checkpoint.model_config())
    text = config.get_text_config()
    try:
        layers = text.num_hidden_layers
        stays = [layer for layer in range(layers) if layer not in dropped.blocks]
        for name, value in list(vars(text).items()):
            if isinstance(value, list | tuple) and len(value) == layers:
                setattr(text, name, [value[layer] for layer in stays])
        text.num_hidden_layers = len(stays)
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        raise SuperweightsError(
            f"The depth of {type(text).__name__} cannot be set: {error}",
            hint="drop attentions or MLPs instead.",
        ) from error
    held.clear()
    held.update(json.loads(config.to_json_string()))


def _marked(gaps: Gaps, held: dict[str, Any]) -> None:
    held[GAPS] = gaps.to_dict()
    held.update(marked(held))


def _refuse_shared(model: torch.nn.Module, blocks: tuple[str, ...]) -> None:
    """Raise where blocks share parameters: a block that goes would take another's with it."""
    owner: dict[int, str] = {}
    for block in blocks:
        for parameter in model.get_submodule(block).parameters():
            if owner.setdefault(id(parameter), block) != block:
                raise SuperweightsError(
                    f"The blocks {owner[id(parameter)]} and {block} share weights.",
                    hint="blocks of this model cannot be dropped one by one.",
                )


def _refuse_loss(
    model: torch.nn.Module, targets: Mapping[str, str], stays: set[str], gone: tuple[str, ...]
) -> None:
    """Raise where a parameter that stays is stored only under the name of one that goes (shared weights)."""
    kept = {targets[name] for name in stays}
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    for group in names.values():
        here = {name for name in group if not _within_any(name, gone)}
        stored = group & set(targets.values())
        if here and stored and not stored & kept:
            raise SuperweightsError(
                f"{min(here)} is stored as {min(stored)}, which would go.", hint="drop another layer."
            )
