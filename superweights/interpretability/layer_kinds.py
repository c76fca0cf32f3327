"""Of which kinds a model's layers are: as its config calls them, or by whether they are seen to attend."""

from __future__ import annotations

from typing import Any

from superweights.interpretability.body import Body

# Where transformers' configs name the kind of each layer, and its word for a layer that attends to all tokens before.
_FIELDS = ("layer_types", "layers_block_type")
_FULL = "full_attention"


def kinds_of_layers(body: Body) -> tuple[str, ...]:
    """The kind of each layer, in the order in which they run: the word of the config of the stack they stand in.

    Where it names none for each: `attention` where the layer's attention weights can be seen, `no attention` elsewhere.
    """
    told = _told(body)
    if told is not None:
        return told
    seen = body.sites.layers_with("weights")
    return tuple("attention" if layer in seen else "no attention" for layer in range(body.layers))


def attending_to_all(body: Body) -> tuple[int, ...]:
    """The layers with full attention, by the config's own word for it; those that are seen to attend where no layer is
    called so (as where attention stands beside another mixer in one block)."""
    called = tuple(layer for layer, kind in enumerate(kinds_of_layers(body)) if kind == _FULL)
    return called or body.sites.layers_with("weights")


def _told(body: Body) -> tuple[str, ...] | None:
    """What the config of the innermost module around the blocks says, one word a layer."""
    path = body.sites.blocks[0]
    while path:
        path = path.rpartition(".")[0]
        config: Any = getattr(body.model.get_submodule(path), "config", None)
        for field in _FIELDS:
            words = getattr(config, field, None)
            if isinstance(words, list | tuple) and len(words) == body.layers:
                return tuple(map(str, words))
    return None
