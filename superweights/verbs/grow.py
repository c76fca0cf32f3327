"""`grow`: a TokenFormer with more slots, in a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.lab.tokenformer.folder import Growth


def grow(
    folder: Path | str,
    slots: int,
    to: Path | str,
    *,
    ffn_slots: int | None = None,
    way: Literal["exact", "paper", "released"] = "exact",
    optimizer: Literal["carry", "restart"] = "carry",
    seed: int = 0,
) -> Growth:
    """What growing the TokenFormer in `folder` by `slots` slots gave; the grown one stands in the new folder `to`.

    q, k, v and output of every block get `slots`, the feed-forward networks `ffn_slots` (None: in the model's ratio).
    With `exact` the logits stay equal to the bit; `paper` and `released` are what stands there. `optimizer.pt` of a
    Trainer is carried, or left behind (`restart`).

    Raises `SuperweightsError` for a folder that holds no TokenFormer, fewer than one slot, or a `to` that holds
    anything; nothing is written then.

    >>> grow("small", 16, "larger").logits_equal  # doctest: +SKIP
    True
    """
    from transformers import AutoModelForCausalLM

    from superweights.checkpoint import open_checkpoint
    from superweights.lab.tokenformer.config import TokenFormerConfig
    from superweights.lab.tokenformer.folder import Growing, grow_folder

    with open_checkpoint(str(folder)) as checkpoint:
        config = checkpoint.model_config()
        if not isinstance(config, TokenFormerConfig):
            raise SuperweightsError(
                f"{folder} holds a {config.model_type}, which has no slots to add to.",
                hint="only a TokenFormer grows this way; its config.json says superweights_tokenformer.",
            )
        if checkpoint.path is None:
            raise SuperweightsError(f"{folder} is not on this machine.", hint="download it first.")
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype="auto").eval()
        growing = Growing(slots, ffn_slots, way, optimizer, seed)
        return grow_folder(model, Path(folder), Path(to), growing, checkpoint.fingerprint())
