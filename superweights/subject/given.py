"""Given inputs: the model's own arguments, from a file of named tensors, where no text can be cut for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.subject.batch import UNSCORED, Batch
from superweights.subject.objective import next_labels

_LABELS = "labels"


def read_inputs(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file. Raises `SuperweightsError` for what is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise SuperweightsError(f"There is no file {path}.", hint="check the path of the inputs.") from None
    except (OSError, SafetensorError) as error:
        raise SuperweightsError(
            f"{path} is no safetensors file: {str(error).splitlines()[0]}",
            hint="write the model's arguments with safetensors.torch.save_file(arguments, path).",
        ) from error


def given_batch(
    arguments: Mapping[str, Tensor], objective: str, parameters: Mapping[str, Any], config: Any
) -> Batch:
    """The batch of a model's arguments as they are.

    `labels [rows, length]` among them are what the model should predict at each position of its logits. Without them a
    decoder's next token is scored, where it stands for no image and no sound; an embedding needs none.
    `parameters` are those of the model's forward.

    Raises `SuperweightsError` for an argument that the model does not take, rows that differ in number, and a masked
    model without labels.
    """
    held = {name: tensor for name, tensor in arguments.items() if name != _LABELS}
    _check(held, parameters)
    if objective == "embedding":
        return Batch(held)
    if _LABELS in arguments:
        return Batch(held, arguments[_LABELS])
    ids = held.get("decoder_input_ids", held.get("input_ids"))
    if objective == "masked" or ids is None:
        raise SuperweightsError(
            f"The inputs have no labels, and what a model of the objective {objective} should predict does not follow "
            "from the rest.",
            hint=f"add labels [rows, length]: the token id at each position, {UNSCORED} where nothing is asked.",
        )
    return Batch(held, _unseen(next_labels(ids), config))


def marks_of(config: Any) -> dict[str, int]:
    """The token that stands for each sense, by its first word in the config: `image`, `video`, `audio`."""
    senses = ("image", "video", "audio")
    return {
        key.partition("_")[0]: value
        for key, value in vars(config).items()
        if key.partition("_")[0] in senses
        and key.endswith(("_token_id", "_token_index"))
        and len(key.split("_")) == 3
        and isinstance(value, int)
    }


def _unseen(labels: Tensor, config: Any) -> Tensor:
    """The labels without those that stand for an image, a film or a sound, by the config's own numbers for them."""
    marks = labels.new_tensor(list(marks_of(config).values()))
    return labels.masked_fill(torch.isin(labels, marks), UNSCORED)


def _check(held: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> None:
    """Raise unless the model takes each argument, and all hold as many rows."""
    strange = [name for name in held if name not in parameters]
    if not held or strange:
        raise SuperweightsError(
            f"The model takes no argument {strange[0]}." if strange else "The inputs are empty.",
            hint=f"it takes {', '.join(list(parameters)[:8])}.",
        )
    counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in held.items()}
    rows = min(counts.values())
    odd = next((name for name, count in counts.items() if not rows or count % rows), None)
    if odd is not None:
        raise SuperweightsError(
            f"The inputs hold unequal rows: {', '.join(f'{k} {n}' for k, n in counts.items())}.",
            hint="the first axis of each argument is the rows.",
        )
