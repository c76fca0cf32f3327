"""The price of a run: bytes read, multiplications, memory and time, from a model's shape and a machine's rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from superweights.costs.machine import Machine
from superweights.costs.shape import Shape
from superweights.errors import SuperweightsError
from superweights.scoring.loss import TOKENS_STREAMED
from superweights.scoring.predictions import PIECE_BYTES

# How many copies of the logits that stand at a time the loss takes.
_LOGIT_COPIES = 3
# Tensors of the stream's width and of the widest matrix that a block holds at a time, for each token.
_OF_WIDTH, _OF_INNER = 4, 3
# How often, for each token, a number of the stream's width, of the widest matrix (in each block) and of the vocabulary
# is touched: norms, rotations, residuals; the activation; the softmax of the loss. Fitted to docs/estimate.md's runs.
_TOUCHES = {"width": 20, "inner": 6, "vocabulary": 6}


@dataclass(frozen=True)
class Work:
    """What a command does, in windows of text."""

    passes: int
    """Passes over the weights."""
    windows: int
    """Windows of the model as it is, over all passes."""
    edited: int
    """Windows of edited models, over all passes."""
    share: float
    """Of a forward pass, what an edited window runs: the blocks from the edited one on."""
    at_once: int
    """Windows that are in memory at a time."""
    tokens: int
    """Tokens of a window."""
    searches: bool = False
    """Whether what it finds decides how many windows it takes: nobody else can say."""


# The defaults of the commands. What a search tries follows from what spikes: these are the trials of the embedded
# model (24 candidates and their controls), the only one measured.
WORK: Mapping[str, Work] = {
    "score": Work(passes=1, windows=24, edited=0, share=1.0, at_once=24, tokens=512),
    "ablate": Work(passes=2, windows=24, edited=24, share=1.0, at_once=24, tokens=512),
    "find": Work(passes=6, windows=40, edited=476, share=0.75, at_once=16, tokens=128, searches=True),
    "find --quick": Work(passes=3, windows=18, edited=220, share=0.75, at_once=8, tokens=32, searches=True),
}


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take. None of it was run."""

    shape: Shape
    """The model."""
    machine: Machine
    """Where, and how fast that is."""
    command: str
    """Of `WORK`."""
    work: Work
    """What it does."""
    read_bytes: int
    """Stored weights that are read, over all passes."""
    multiplications: float
    """Over all passes."""
    memory_bytes: int
    """The most that one device (or this program, on a CPU) holds, streamed block by block."""
    whole_bytes: int
    """The weights alone, where they are all kept in memory."""
    seconds: float
    """Reading, multiplying and what is done number by number, one after the other; starting the program and finding
    the text are not counted."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def price(shape: Shape, machine: Machine, command: str = "find", work: Work | None = None) -> Estimate:
    """What `command` (of `WORK`, or as `work` says) takes for a model of this shape.

    Weights, multiplications and blocks are divided evenly between the machine's devices; what these tell each other
    is not counted. Raises `SuperweightsError` for a command that has no price.
    """
    if work is None:
        if command not in WORK:
            raise SuperweightsError(f"There is no price of {command!r}.", hint=f"there is {', '.join(WORK)}.")
        work = WORK[command]
    n = machine.devices
    windows = work.windows + work.share * work.edited
    tokens = windows * work.tokens
    multiplications = tokens * (shape.per_token + shape.attended * work.tokens)
    touched = tokens * (
        shape.blocks * (_TOUCHES["width"] * shape.width + _TOUCHES["inner"] * shape.inner)
        + _TOUCHES["vocabulary"] * shape.vocabulary
    )
    inside = shape.parameters - shape.outside
    read = shape.stored_bytes * (work.passes * inside + shape.outside)
    return Estimate(
        shape=shape,
        machine=machine,
        command=command,
        work=work,
        read_bytes=read,
        multiplications=multiplications,
        memory_bytes=_memory(shape, machine, work),
        whole_bytes=machine.computed_bytes * shape.parameters // n,
        seconds=read / n / machine.reading
        + multiplications / n / machine.multiplications
        + touched / n / machine.touching,
    )


def _memory(shape: Shape, machine: Machine, work: Work) -> int:
    """Weights outside the blocks, one block and the next one's bytes, what flows, logits; on a CPU the program too."""
    n, computed, stored = machine.devices, machine.computed_bytes, shape.stored_bytes
    on_cpu = machine.name == "cpu"
    # a file that is mapped counts as memory while its pages are in use
    outside = shape.outside * (computed + (stored if on_cpu else 0))
    block = shape.largest_block * (computed + 2 * stored)
    flowing = min(work.at_once * work.tokens, max(TOKENS_STREAMED, work.tokens))
    stream = computed * flowing * (_OF_WIDTH * shape.width + _OF_INNER * shape.inner)
    logits = min(PIECE_BYTES, 4 * flowing * shape.vocabulary) * _LOGIT_COPIES
    return int((outside + block) / n + stream + logits) + machine.program_bytes
