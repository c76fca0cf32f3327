"""What a model is made of, by its config alone: numbers, multiplications, the largest block. No weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.checkpoint import open_checkpoint
from superweights.checkpoint.settings import FolderSettings
from superweights.errors import SuperweightsError
from superweights.subject.blocks import find_blocks

# How configs call the number of experts that a token is sent to.
_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts", "num_experts_per_token")


@dataclass(frozen=True)
class Shape:
    """The size of a causal language model."""

    name: str
    """The folder or hub name whose config it is."""
    parameters: int
    """Numbers, those that two places share counted once."""
    outside: int
    """Of these, in embeddings, head and norms: in memory for the whole run."""
    blocks: int
    """How many blocks there are."""
    largest_block: int
    """Numbers of the largest block: one is in memory at a time where the model is streamed."""
    per_token: int
    """Multiplications of a forward pass for each token, attention apart: every matrix that it meets, of experts
    those that it is sent to; the head included."""
    attended: int
    """Multiplications for each token and each token that it attends to, over all layers."""
    width: int
    """Of the residual stream."""
    inner: int
    """The widest matrix of a block, on its longer side."""
    vocabulary: int
    """Tokens."""
    stored_bytes: int
    """Bytes of a number as the config says that it is stored."""


def shape_of(model: str | Path) -> Shape:
    """The shape of the model whose config.json is in the folder `model`, or is that file; otherwise of what
    `open_checkpoint` opens by that name (a GGUF file, `embedded`, a model on the hub), of which no weight is read.

    Raises `SuperweightsError` where there is no config, or it is no causal language model's.
    """
    config = _config(model)
    built = _built(config, str(model))
    found = find_blocks(built)
    if not found:
        raise SuperweightsError(f"{model} has no blocks.", hint="its config.json may be damaged.")
    blocks = [sum(p.numel() for p in block.parameters()) for block in found.values()]
    parameters = sum(p.numel() for p in built.parameters())
    text = config.get_text_config()
    inside = [p for block in found.values() for p in block.parameters()]
    head = built.get_output_embeddings()
    heads, width = getattr(text, "num_attention_heads", 0), text.hidden_size  # none: nothing attends
    head_width = getattr(text, "head_dim", None) or width // (heads or 1)
    return Shape(
        name=str(model),
        parameters=parameters,
        outside=parameters - sum(blocks),
        blocks=len(blocks),
        largest_block=max(blocks),
        per_token=sum(_met(p, text) for p in inside) + (head.weight.numel() if head is not None else 0),
        attended=2 * heads * head_width * len(blocks),
        width=width,
        inner=max(max(p.shape[-2:]) for p in inside if p.dim() > 1),
        vocabulary=text.vocab_size,
        stored_bytes=getattr(getattr(config, "dtype", None), "itemsize", None) or 4,
    )


def _met(parameter: Any, config: Any) -> int:
    """Multiplications of one token with a parameter: none with vectors, a share of stacked experts."""
    if parameter.dim() < 2:
        return 0
    if parameter.dim() == 2:
        return parameter.numel()
    chosen = next((getattr(config, name) for name in _CHOSEN if getattr(config, name, None)), None)
    return parameter.numel() * chosen // parameter.shape[0] if chosen else parameter.numel()


def _config(model: str | Path) -> Any:
    """The config of a folder that may hold nothing else, or of whatever a checkpoint can be opened as."""
    place = Path(model).expanduser()
    folder = place.parent if place.name == "config.json" else place
    if (folder / "config.json").is_file():
        return FolderSettings(folder).model_config(False)
    if folder.is_dir() and not any(folder.glob("*.gguf")):
        raise SuperweightsError(f"{model} has no config.json.", hint="an estimate is made from a config.")
    with open_checkpoint(model) as checkpoint:
        return checkpoint.model_config()


def _built(config: Any, name: str) -> Any:
    """The model without numbers."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        raise SuperweightsError(
            f"{name} ({type(config).__name__}) is no causal language model that transformers can build.",
            hint="estimates are made for decoders; check config.json and the version of transformers.",
        ) from error
    built.tie_weights()
    return built
