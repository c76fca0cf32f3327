"""The published procedure, for comparison: one prompt, the largest input and output of each layer, threshold 50.

Source: arXiv 2411.07191, section 3.1, and the authors' code (its prompt, its module name, its threshold,
one value per layer). Where we differ: the script prints spikes of inputs and of outputs and leaves it to the
reader to pair them; here a layer with both gives one coordinate, whose product is then checked by dominance.
It ran in float16; this runs in the type that `stream` chooses.
"""

from __future__ import annotations

from typing import Any

import torch

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.record import SuperWeight
from superweights.stream import streaming
from superweights.subject import check_next_token, device_of, layout_of
from superweights.subject.text import PROMPTS
from superweights.watch import Product, watching

PROMPT = PROMPTS[0].split(" It sells")[0]
_MODULE = "mlp.down_proj.weight"


def find_as_published(checkpoint: Checkpoint, threshold: float = 50.0, **loading: Any) -> list[SuperWeight]:
    """The coordinate of every layer whose largest down-projection input and output both pass `threshold`.

    Without verdicts: the procedure proves nothing. `dominance` far from 1 marks a false pair (input and
    output spike at different tokens, or belong to different neurons).
    Raises `SuperweightsError` without a tokenizer, or where no module is called `mlp.down_proj`.
    """
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer, and the published procedure starts from a sentence.",
            hint="leave out --mode reference: the default search runs on raw token ids too.",
        )
    found: list[SuperWeight] = []
    seen: list[str] = []
    with streaming(checkpoint, **{"resident": False, **loading}) as model:

        def see(product: Product) -> None:
            if product.kind == "weight" and product.parameter.endswith(_MODULE):
                seen.append(product.parameter)
                found.extend(_pair(product, threshold, model))

        check_next_token(model)
        with watching(model, see):
            model(tokenizer(PROMPT, return_tensors="pt").input_ids.to(device_of(model)))
    if not seen:
        raise SuperweightsError(
            f"{checkpoint.name} has no module called mlp.down_proj, the only one the published script looks at.",
            hint="leave out --mode reference: the default search needs no module names.",
        )
    return found


def _pair(product: Product, threshold: float, model: torch.nn.Module) -> list[SuperWeight]:
    """The layer's one pair of extremes, if both pass the threshold."""
    (row_in, k), (row_out, j) = (divmod(int(v.abs().argmax()), v.shape[1]) for v in (product.x, product.y))
    spike_in, spike_out = float(product.x[row_in, k]), float(product.y[row_out, j])
    if min(abs(spike_in), abs(spike_out)) <= threshold:
        return []
    value = float(product.operand[j, k])
    return [
        SuperWeight(
            address=layout_of(model).address_of(product.parameter, product.index(j, k)),
            value=value,
            spike_in=spike_in,
            spike_out=spike_out,
            dominance=spike_in * value / spike_out,
            parameter=product.parameter,
            out_channel=j,
            in_neuron=k,
            position=row_out if row_in == row_out else None,
        )
    ]
