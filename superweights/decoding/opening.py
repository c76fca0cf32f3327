"""What a checkpoint says of its quantization, and the format that it is therefore read by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.codes import scale_beside
from superweights.decoding.auto_round import auto_round
from superweights.decoding.awq import awq
from superweights.decoding.bitsandbytes import bitsandbytes
from superweights.decoding.compressed_tensors import compressed_tensors
from superweights.decoding.decoded import Decoded, Format, Said
from superweights.decoding.float8 import float8
from superweights.decoding.gptq import gptq
from superweights.decoding.hqq import hqq
from superweights.decoding.packed import packed
from superweights.decoding.stacked import bitnet, mxfp4
from superweights.decoding.torchao import torchao
from superweights.errors import SuperweightsError

# What each `quant_method` of config.json is read by.
FORMATS: Mapping[str, Callable[[Checkpoint, Said], Format]] = {
    "gptq": gptq,
    "awq": awq,
    "auto-round": auto_round,
    "intel/auto-round": auto_round,
    "compressed-tensors": compressed_tensors,
    "bitsandbytes": bitsandbytes,
    "torchao": torchao,
    "hqq": hqq,
    "fp8": float8,
    "fbgemm_fp8": float8,
    "mxfp8": float8,
    "modelopt": float8,
    "mxfp4": mxfp4,
    "bitnet": bitnet,
    "superweights": packed,
}
# Files beside config.json in which older quantizers describe what they did.
_COMPANIONS = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
# The names of tensors that hold codes; a checkpoint that says nothing must not have one.
_CODES = ("qweight", "weight_packed", "W_q", "codes", "SCB", "absmax")


def said_by(checkpoint: Checkpoint) -> Said | None:
    """What the checkpoint says of its quantization, None where it says nothing: in config.json, else beside it."""
    config = checkpoint.config
    where = f"{checkpoint.name}/config.json"
    inner = config.get("text_config")
    for told in (config, inner if isinstance(inner, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            settings = told.get(key)
            if settings:
                return _said(settings, "compressed-tensors" if key == "compression_config" else None, where)
    if checkpoint.format == "gguf":
        return None
    for file, method in _COMPANIONS.items():
        settings = checkpoint.companion(file)
        if settings:
            return _said(
                {**settings, **settings.get("quantization", {})}, method, f"{checkpoint.name}/{file}"
            )
    return None


def method_of(checkpoint: Checkpoint) -> str:
    """The quantization method: `gguf`, what the checkpoint says, `float8` where only its scales tell, else `dense`."""
    if checkpoint.format == "gguf":
        return "gguf"
    said = said_by(checkpoint)
    if said is not None:
        return said.method
    told = any(scale_beside(checkpoint.tensors, name) for name in checkpoint.tensors)
    return "float8" if told else "dense"


def format_of(checkpoint: Checkpoint) -> Format:
    """The format of the checkpoint, which knows its weights. Raises for a method that is not in `FORMATS`."""
    if checkpoint.format == "gguf":
        return Format("gguf")
    said = said_by(checkpoint)
    if said is None:
        undeclared = next((n for n in checkpoint.tensors if n.rpartition(".")[2] in _CODES), None)
        if undeclared is not None:
            raise SuperweightsError(
                f"{checkpoint.name} holds codes ({undeclared}), and no JSON file beside it says whose.",
                hint="download the whole folder, with every JSON file in it.",
            )
        method = method_of(checkpoint)
        nothing = Said(method, {}, f"{checkpoint.name}/config.json")
        return float8(checkpoint, nothing) if method == "float8" else Format("dense")
    if said.method not in FORMATS:
        raise SuperweightsError(
            f"{checkpoint.name} is quantized by {said.method!r} ({said.where}), which cannot be read here.",
            hint=f"{', '.join(FORMATS)}, GGUF and dense checkpoints can.",
        )
    return FORMATS[said.method](checkpoint, said)


def _said(settings: Any, method: str | None, where: str) -> Said:
    if not isinstance(settings, Mapping):
        raise SuperweightsError(f"{where}: quantization_config is no object.", hint="the file is damaged.")
    told = settings.get("quant_method") or method
    if told is None and ("load_in_4bit" in settings or "load_in_8bit" in settings):
        told = "bitsandbytes"
    return Said(str(told), settings, where)


class Decoding:
    """A checkpoint's weights, decoded by the owner of its format, one at a time.

    Names are the checkpoint's own; a quantized layer's weight is `MODULE.weight`, whatever its parts are called.

    >>> decoding = Decoding(checkpoint)  # doctest: +SKIP
    >>> for name, decoded in decoding: print(name, decoded.weight.shape)  # doctest: +SKIP
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._format = format_of(checkpoint)
        self._used = {part for parts in self._format.parts.values() for part in parts}

    @property
    def method(self) -> str:
        """The quantization method."""
        return self._format.method

    @property
    def names(self) -> list[str]:
        """Every weight and plain tensor, in the checkpoint's order; parts of weights are not among them."""
        first = {parts[0]: name for name, parts in self._format.parts.items()}
        return [
            first.get(name, name)
            for name in self.checkpoint.tensors
            if name in first or name not in self._used
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._format.parts or (name in self.checkpoint.tensors and name not in self._used)

    def __iter__(self) -> Iterator[tuple[str, Decoded]]:
        for name in self.names:
            yield name, self.read(name)
            self.release(name)

    def parts(self, name: str) -> tuple[str, ...]:
        """The stored tensors that the weight is made of."""
        return self._format.parts.get(name, (name,))

    def read(self, name: str) -> Decoded:
        """The weight as its owner decodes it; a plain tensor as it is stored.

        Raises `SuperweightsError` for a name that is not there, and for parts that do not fit their format.
        """
        if name not in self._format.parts:
            if name in self._used:
                raise SuperweightsError(
                    f"{name} in {self.checkpoint.name} is part of a weight, and none itself.",
                    hint="ask for the weight.",
                )
            return Decoded(self.checkpoint.read(name))
        assert self._format.decode is not None, "a format with parts decodes them"
        try:
            return self._format.decode(name)
        except (
            KeyError,
            IndexError,
            ValueError,
            RuntimeError,
            TypeError,
            AssertionError,
            AttributeError,
            NotImplementedError,
        ) as error:
            said = " ".join(str(error).split())[:200]
            raise SuperweightsError(
                f"{name} in {self.checkpoint.name} is not stored as {self.method} stores it: "
                f"{said or type(error).__name__}.",
                hint="the file may be damaged, or of a newer version of the format.",
            ) from error

    def release(self, name: str) -> None:
        """Let the memory of the weight's parts go."""
        self.checkpoint.release([part for part in self.parts(name) if part in self.checkpoint.tensors])
