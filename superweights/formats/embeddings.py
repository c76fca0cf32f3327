"""How embeddings and heads are stored, which no scheme rounds: a third of a small model in float32."""

from __future__ import annotations

from dataclasses import replace

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.quantization.plan import Plan
from superweights.quantization.scheme import Blocks, Scheme
from superweights.stream.linears import embedding_tensors

CHOICES = ("bf16", "int8", "keep")
# What each format can have, the default first.
_POSSIBLE = {
    "packed": CHOICES,
    "dense": CHOICES,
    "compressed-tensors": ("bf16", "keep"),  # transformers reads no rounded embeddings in it
    "gguf": ("keep", "int8"),  # tensors that are not rounded stay byte for byte as the source has them
}


def check_embeddings(form: str, choice: str | None) -> str:
    """How embeddings are stored: `choice`, or what is usual in `form`. Raises where the format cannot."""
    possible = _POSSIBLE[form]
    if choice is not None and choice not in possible:
        raise SuperweightsError(
            f"--embeddings {choice} is not possible with --format {form}.",
            hint=f"choose from {', '.join(possible)}.",
        )
    return choice or possible[0]


def with_embeddings(checkpoint: Checkpoint, plan: Plan, form: str, choice: str | None = None) -> Plan:
    """The plan with embeddings and heads as `choice` says: `bf16` where they are stored wider, `int8` or `keep`.

    int8 rounds the table of tokens and the head, each row by its own scale (GGUF: Q8_0); other tables (positions) are
    stored in bfloat16. What the plan speaks of already stays as it says.
    """
    choice = check_embeddings(form, choice)
    if choice == "keep":
        return plan
    left = {
        name: rounds
        for name, rounds in embedding_tensors(checkpoint).items()
        if name not in plan.schemes and name not in plan.narrowed
    }
    tables = [name for name, rounds in left.items() if rounds and choice == "int8"]
    group = Blocks("group", (32,)) if form == "gguf" else Blocks("channel", ())
    scheme = Scheme("int8", zero_point="none", blocks=group)
    wide = [name for name in left if checkpoint.tensors[name].torch_dtype.itemsize > 2 and name not in tables]
    narrowed = {} if form == "gguf" else dict.fromkeys(wide, "bfloat16")
    return replace(
        plan,
        schemes={**plan.schemes, **dict.fromkeys(tables, scheme)},
        narrowed={**plan.narrowed, **narrowed},
    )
