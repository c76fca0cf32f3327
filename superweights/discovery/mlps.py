"""Where the feed-forward blocks are in a checkpoint: told by shapes and by which tensors stand together.

No name of a layer or a model is looked for. A block has a matrix out of the hidden size and one or two into
it, side by side in one module; which dimension is which follows from the sizes in the config, from the
length of a bias beside a matrix, or, where neither tells, from the module classes of the model on the meta
device (`Conv1D` stores `[in, out]`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.findings.scan import Skipped

_HIDDEN_KEYS = {"hidden_size", "n_embd", "n_embed", "d_model", "model_dim", "embed_dim"}
_INNER_KEYS = re.compile(
    r"intermediate_(size|dim)|ffn|feed_forward|(^|_)d(im)?_?ff$|n_inner|inner_dim|mlp_dim"
)

Matrices = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Mlp:
    """One feed-forward block: the tensors into it, the tensor out of it, and how they are stored.

    `kind`: `gated` (two input matrices, `y = W (act(G x) * U x)`), `fused` (the same, stacked in one tensor)
    or `ungated` (`y = W act(A x)`). `out_first` is true where the file stores `[out, in]`. `experts` counts
    the matrices stacked in each tensor, None where they are plain matrices.
    """

    place: str
    """The module that holds the tensors, by its path in the file."""
    layer: int | None
    """Which block it belongs to, counted from 0; None where the names do not tell."""
    kind: str
    inputs: tuple[str, ...]
    """The names of the one or two tensors into it."""
    down: str
    """The name of the tensor out of it."""
    hidden: int
    """The width of the residual stream."""
    neurons: int
    """How many neurons it has (of each expert)."""
    out_first: bool
    experts: int | None = None


def find_mlps(checkpoint: Checkpoint) -> tuple[list[Mlp], list[Skipped]]:
    """The feed-forward blocks of `checkpoint` in layer order, and what looked like one but was left out."""
    return _Search(checkpoint).run()


class _Search:
    """One look through the names and shapes of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.shapes: Matrices = {}
        self.skipped: list[Skipped] = []
        packed = Counter()
        for name, info in checkpoint.tensors.items():
            if 0 in info.shape:
                continue
            if len(info.shape) in (2, 3) and info.torch_dtype.is_floating_point:
                self.shapes[name] = tuple(info.shape)
            elif len(info.shape) > 1:
                packed[_layer_place(name), info.dtype] += 1
        for (place, dtype), count in packed.items():
            reason = f"{count} tensors of {dtype} or of more than three dimensions: not plain numbers to scan"
            self.skipped.append(Skipped(place, reason))
        self.hidden = _sizes(checkpoint.config, _HIDDEN_KEYS.__contains__) or self._commonest()
        self.inner = _sizes(checkpoint.config, _INNER_KEYS.search)
        self._classes: dict[str, str] | None = None

    def run(self) -> tuple[list[Mlp], list[Skipped]]:
        found: list[Mlp] = []
        for place, group in _grouped(self.shapes, _parent).items():
            found += self._blocks_in(place, group)
        done = {_layer_place(mlp.down) for mlp in found} | {_layer_place(s.place) for s in self.skipped}
        for place, group in _grouped(self.shapes, _layer_place).items():
            if _layer(place) is None or place in done:
                continue
            # Some layers keep the two matrices in two modules.
            spread = list(self._blocks_in(place, group, spread=True))
            found += spread
            told = place in {_layer_place(s.place) for s in self.skipped}
            if not spread and not told and len([1 for a, b in _sides(group) if a != b]) > 1:
                self.skipped.append(Skipped(place, "no matrices that fit together as a feed-forward block"))
        return sorted(found, key=lambda mlp: (mlp.layer is None, mlp.layer or 0)), self.skipped

    def _blocks_in(self, place: str, group: Matrices, spread: bool = False) -> Iterator[Mlp]:
        """The feed-forward blocks among the matrices of one module: plain ones, and stacked experts."""
        for dimensions in (2, 3):
            same = {name: shape for name, shape in group.items() if len(shape) == dimensions}
            match = next(
                (m for hidden in sorted(self.hidden) for m in self._fits(same, hidden, spread)), None
            )
            if match is None:
                continue
            out_first = match.out_first
            if match.kind == "ungated":
                out_first = self._out_first((match.inputs[0], match.down))
            if out_first is None:
                reason = "its shapes fit both orders of storage, and no bias and no config tells which"
                self.skipped.append(Skipped(place, reason))
                continue
            inputs, down = match.inputs, match.down
            if match.kind == "ungated" and not out_first:
                inputs, down = (down,), inputs[0]
            experts = same[down][0] if dimensions == 3 else None
            yield replace(
                match,
                place=place,
                layer=_layer(place),
                inputs=inputs,
                down=down,
                out_first=out_first,
                experts=experts,
            )

    def _fits(self, group: Matrices, hidden: int, spread: bool) -> Iterator[Mlp]:
        """The ways in which matrices of `group` are a feed-forward block of this hidden size."""
        sides = {name: shape[-2:] for name, shape in group.items()}
        into = _by_size((name, a) for name, (a, b) in sides.items() if b == hidden and a != hidden)
        out = _by_size((name, b) for name, (a, b) in sides.items() if a == hidden and b != hidden)
        for neurons in sorted(set(into) | set(out)):
            for out_first, ins, outs in ((True, into, out), (False, out, into)):
                kind, first = "", ins.get(neurons, [])
                if len(first) == 2:
                    kind = "gated"
                elif not first and len(ins.get(2 * neurons, [])) == 1:
                    kind, first = "fused", ins[2 * neurons]
                elif len(first) == 1 and out_first:
                    kind = "ungated"
                last = outs.get(neurons, [])
                if (
                    kind
                    and len(last) == 1
                    and self._is_likely(kind, neurons, len(group) - 1 - len(first), spread)
                ):
                    yield Mlp("", None, kind, tuple(first), last[0], hidden, neurons, out_first)

    def _is_likely(self, kind: str, neurons: int, others: int, spread: bool) -> bool:
        """Whether these are no attention or state-space matrices, which can have such shapes too.

        Those have `others` beside them, or another inner size than the config's.
        """
        known = neurons in self.inner or (kind == "fused" and 2 * neurons in self.inner)
        if kind == "gated":
            return known or not (others or spread)
        if kind == "ungated" and spread:
            return known
        return (known or not self.inner) and not others

    def _out_first(self, pair: tuple[str, str]) -> bool | None:
        """Whether the two matrices of a block are stored `[out, in]`; None where nothing tells."""
        for name in pair:
            rows, columns = self.shapes[name][-2:]
            bias = self.checkpoint.tensors.get(f"{_module(name)}.bias")
            if bias is not None and tuple(bias.shape)[-1:] in ((rows,), (columns,)):
                return bias.shape[-1] == rows
        if self._classes is None:
            self._classes = _module_classes(self.checkpoint)
        modules = tuple(f".{_module(name)}" for name in pair)
        same = {kind for path, kind in self._classes.items() if f".{path}".endswith(modules)}
        kinds = same or set(self._classes.values())
        return kinds == {"Linear"} if len(kinds) == 1 else None

    def _commonest(self) -> set[int]:
        """The hidden size where no config tells it: the dimension that most matrices have."""
        counts = Counter(size for shape in self.shapes.values() for size in set(shape[-2:]))
        return {counts.most_common(1)[0][0]} if counts else set()


def _module_classes(checkpoint: Checkpoint) -> dict[str, str]:
    """`Linear` or `Conv1D` for every such module, from the config alone; empty where no model can be built."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        config = checkpoint.model_config()
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config)
    except (SuperweightsError, ValueError, ImportError, KeyError, TypeError, AttributeError):
        return {}
    kinds = {"Conv1D": Conv1D, "Linear": torch.nn.Linear}
    return {
        path: kind
        for path, module in model.named_modules()
        for kind, known in kinds.items()
        if isinstance(module, known)
    }


def _grouped(shapes: Matrices, key) -> dict[str, Matrices]:
    groups: dict[str, Matrices] = {}
    for name, shape in shapes.items():
        groups.setdefault(key(name), {})[name] = shape
    return groups


def _sides(group: Matrices) -> list[tuple[int, ...]]:
    return [shape[-2:] for shape in group.values()]


def _by_size(pairs: Iterator[tuple[str, int]]) -> dict[int, list[str]]:
    sizes: dict[int, list[str]] = {}
    for name, size in pairs:
        sizes.setdefault(size, []).append(name)
    return sizes


def _sizes(config: Mapping[str, Any], wanted) -> set[int]:
    """All whole numbers in `config` and what is nested in it whose key is `wanted`."""
    found: set[int] = set()
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _sizes(value, wanted)
        elif wanted(key):
            numbers = value if isinstance(value, list) else [value]
            found |= {n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n > 0}
    return found


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _parent(name: str) -> str:
    return _module(name).rpartition(".")[0]


def _layer(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _layer_place(name: str) -> str:
    """The path of the layer a tensor belongs to; the tensor's module where it is in none."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return _parent(name) if at is None else ".".join(parts[: at + 1])
