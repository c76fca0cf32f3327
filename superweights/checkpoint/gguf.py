"""A GGUF file as a checkpoint: transformers' names and values, dequantized tensor by tensor on demand.

The names and the small rearrangements (llama's interleaved heads, GPT-2's transposes, norms stored plus
one) are transformers' own tables, so a tensor read here is bit-equal to the parameter that
`from_pretrained(gguf_file=...)` loads. Values are float32 whatever the file holds, as there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.quants import dequantize

from superweights.checkpoint.complaints import COMPLAINTS, complaints
from superweights.checkpoint.gguf_header import Block, Header, read_gguf_header
from superweights.checkpoint.gguf_settings import GgufSettings
from superweights.checkpoint.header import damaged
from superweights.checkpoint.mapped import MappedFile
from superweights.checkpoint.tensors import TensorInfo, Traffic, count
from superweights.errors import SuperweightsError

_SAFETENSORS = "open the original safetensors checkpoint instead."


class GgufStore:
    """The tensors of one GGUF file under transformers' names."""

    format = "gguf"

    def __init__(self, path: Path):
        self.path, self.traffic = path, Traffic()
        self._files = [MappedFile(path)]
        try:
            self._header = self._read_headers()
        except SuperweightsError:
            self.close()
            raise
        self.path = self._files[0].path
        self.settings = GgufSettings(self.path, self._header, self._files[0].view())

    def _read_headers(self) -> Header:
        """The header of the file; of all its parts together where it is one of several."""
        header = read_gguf_header(self._files[0].view(), str(self.path))
        if header.parts == 1:
            return header
        names = parts_of(self.path, header.parts)
        self.close()
        self._files = []
        for name in names:
            self._files.append(MappedFile(name))
        first, *others = (read_gguf_header(file.view(), str(file.path)) for file in self._files)
        return first.joined(others, str(names[0]))

    @property
    def parts(self) -> int:
        """Of how many files the checkpoint is."""
        return len(self._files)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._named[0]

    @cached_property
    def _named(self) -> tuple[dict[str, TensorInfo], dict[str, Block], dict[str, str]]:
        """Under transformers' names: the public descriptions, the places, the file's own names."""
        where = str(self.path)
        _check_per_tensor(self._header.architecture, where)
        config = self.settings.model_config(False)
        with complaints(f"transformers cannot build the model of {where}", hint=_SAFETENSORS):
            model = _blank_model(config)
            found = _names_of(model, self._processor, set(self._header.blocks))
        _check_complete(model, found, where)
        stored = {name: key for key, name in found.items()}
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name in stored}
        blocks = {name: self._header.blocks[stored[name]] for name in shapes}
        return {name: _info_of(name, shapes[name], blocks[name], where) for name in shapes}, blocks, stored

    @cached_property
    def _processor(self) -> Any:
        """transformers' own rearrangement of this architecture's tensors."""
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        kind = TENSOR_PROCESSORS.get(self._header.architecture, TensorProcessor)
        return kind(config=self.settings.config)

    def file_name(self, name: str) -> str:
        """What the file itself calls the tensor."""
        return self._named[2][name]

    def row_order(self, name: str) -> np.ndarray:
        """Which row of the file each row of the tensor is, `[rows]`. Raises for one that is more than moved rows."""
        order = self._row_order(name)
        if order is None:
            raise SuperweightsError(
                f"transformers rearranges {name!r} in {self.path}, and not by whole rows.",
                hint="leave this tensor out of the plan.",
            )
        return order

    def _block(self, name: str) -> Block:
        return self._named[1][name]

    def read(self, name: str) -> torch.Tensor:
        block = self._block(name)
        values = self._dequantized(name, np.arange(_rows_of(block)))
        with complaints(f"{name!r} in {self.path} does not fit its model", hint=_SAFETENSORS):
            values = self._rearranged(name, values.reshape(block.shape))
            if np.shape(values) != self.tensors[name].shape:
                raise ValueError(f"its shape is {list(np.shape(values))}")
            return torch.from_numpy(np.ascontiguousarray(values))

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        """Only the rows that are needed, where transformers moves whole rows; else all of them."""
        order = self._row_order(name)
        if order is None or last <= first:
            return self.read(name).reshape(-1)[first:last]
        width = self._block(name).shape[-1]
        top, bottom = first // width, -(-last // width)
        values = self._dequantized(name, order[top:bottom])
        return torch.from_numpy(values.reshape(-1)[first - top * width : last - top * width].copy())

    def _row_order(self, name: str) -> np.ndarray | None:
        """Which stored row each row of the tensor is; None where it is not a matter of whole rows.

        transformers' rearrangement is asked: it is given a column of row numbers, and moves them.
        """
        block = self._block(name)
        if len(block.shape) != 2 or block.shape != self.tensors[name].shape:
            return None
        numbers = np.arange(block.shape[0], dtype=np.float64)
        try:
            with np.errstate(all="ignore"):
                moved = np.asarray(self._rearranged(name, numbers.reshape(-1, 1).copy()))
        except COMPLAINTS:
            return None
        if moved.shape != (len(numbers), 1) or not np.array_equal(np.sort(moved[:, 0]), numbers):
            return None
        return moved[:, 0].astype(np.int64)

    def _dequantized(self, name: str, rows: np.ndarray) -> np.ndarray:
        """These stored rows as float32; a row is a line of the tensor's last dimension."""
        block = self._block(name)
        width = (block.stop - block.start) // max(_rows_of(block), 1)
        file = self._files[block.part]
        raw = file.tensor(torch.uint8, (_rows_of(block), width), block.start).numpy()
        whole = len(rows) == _rows_of(block) and np.array_equal(rows, np.arange(len(rows)))
        sentence = f"{name!r} in {self.path} is {block.kind.name}, which cannot be read"
        with complaints(sentence, hint=_SAFETENSORS), np.errstate(all="ignore"):
            return dequantize(raw if whole else raw[rows], block.kind)

    def _rearranged(self, name: str, values: np.ndarray) -> np.ndarray:
        sink: dict[str, dict[str, Any]] = {"tensors": {}}
        key = self._named[2][name]
        result = self._processor.process(
            weights=values, name=key, tensor_key_mapping={}, parsed_parameters=sink
        )
        return result.weights

    def raw(self, name: str, first: int, last: int) -> bytes:
        block = self._block(name)
        return self._files[block.part].from_disk(block.start + first, block.start + last)

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            block = self._block(name)
            self._files[block.part].will_need(block.start, block.stop)

    read_ahead = prefetch  # the system reads while we go on

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            block = self._block(name)
            self._files[block.part].drop(block.start, block.stop)

    def close(self) -> None:
        for file in self._files:
            file.close()


def parts_of(path: Path, parts: int) -> list[Path]:
    """The files of a checkpoint of several parts, by llama.cpp's way of naming them. Raises where one is not there."""
    stem, marked, _ = path.name.rpartition(f"-of-{parts:05d}.gguf")
    if not marked or not stem[-5:].isdecimal():
        raise SuperweightsError(
            f"{path} is one of {parts} parts, and its name does not tell those of the others.",
            hint=f"llama.cpp calls them NAME-00001-of-{parts:05d}.gguf and so on.",
        )
    names = [path.with_name(f"{stem[:-5]}{number:05d}-of-{parts:05d}.gguf") for number in range(1, parts + 1)]
    missing = [name for name in names if not name.is_file()]
    if missing:
        raise SuperweightsError(
            f"{path} is one of {parts} parts, and {missing[0].name} is not beside it.",
            hint="download all parts into one folder.",
        )
    return names


def _rows_of(block: Block) -> int:
    return count(block.shape[:-1])


def _info_of(name: str, shape: tuple[int, ...], block: Block, where: str) -> TensorInfo:
    if count(shape) != count(block.shape):
        raise damaged(where, f"{name!r} should have the shape {list(shape)}, not {list(block.shape)}")
    return TensorInfo(name, shape, block.kind.name, block.stop - block.start, torch.float32)


def _check_per_tensor(architecture: str, where: str) -> None:
    """Refuse what transformers loads by its newer converters: they know nothing of the tables used here."""
    from transformers.integrations.gguf.utils import is_gguf_arch_supported

    if is_gguf_arch_supported(architecture):
        raise SuperweightsError(
            f"{where} is of the architecture {architecture}, whose GGUF tensors cannot be read one by one.",
            hint=_SAFETENSORS,
        )


def _blank_model(config: Any) -> Any:
    """The model without memory for its weights: it knows every parameter's name and shape."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


class _Outside:
    """A module as transformers' name finder sees it, without its inside: it would walk every submodule."""

    def __init__(self, module: Any, config: Any):
        self.config, self._names = config, list(module.state_dict())

    def state_dict(self) -> list[str]:
        return self._names

    def named_children(self) -> tuple[()]:
        return ()


def _names_of(model: Any, processor: Any, stored: set[str]) -> dict[str, str]:
    """The file's tensor name to transformers' parameter name.

    transformers looks at the model and then at every module inside it, because some files name their
    tensors from the model without its head. Each look costs tens of milliseconds, hundreds of modules make
    it ten seconds; the head's neighbours are as deep as any file needs.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    wanted = set(dict(model.named_parameters()))
    found: dict[str, str] = {}
    for prefix, module in [("", model), *((f"{name}.", child) for name, child in model.named_children())]:
        names = get_gguf_hf_weights_map(_Outside(module, model.config), processor, qual_name=prefix)
        found = {**{key: value for key, value in names.items() if key in stored}, **found}
        if wanted <= set(found.values()):
            break
    return found


def _check_complete(model: Any, found: Mapping[str, str], where: str) -> None:
    """Raise unless every parameter has exactly one tensor: fused experts have two, unknown names none."""
    several = [name for name, times in Counter(found.values()).items() if times > 1]
    if several:
        raise SuperweightsError(
            f"{where} stores {several[0]!r} in several pieces, which cannot be read one by one.",
            hint=_SAFETENSORS,
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = [name for name, _ in model.named_parameters() if name not in {*found.values(), *tied}]
    if missing:
        raise SuperweightsError(
            f"{where} has no tensor for {missing[0]!r} ({len(missing)} parameters in all).", hint=_SAFETENSORS
        )
