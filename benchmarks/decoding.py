"""The matrix of docs/audit.md: random valid files by the libraries that own each format, decoded by them and by us.

    python benchmarks/decoding.py --files 1000          # the table, on standard output
    python benchmarks/decoding.py --write tests/owners  # one small file of each row, with its owner's decode

A row whose library is not installed says so. Every other row must say 0 wrong; the exit code is 1 where one does not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import random
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from superweights.checkpoint import open_checkpoint
from superweights.decoding import Decoding
from superweights.errors import SuperweightsError

MODULE = "model.layers.1.mlp.down_proj"
WEIGHT = f"{MODULE}.weight"


@dataclass
class Case:
    """A file's contents: the quantization config, the tensors, and what the owner makes of them (None: none can be)."""

    settings: dict
    parts: dict[str, Tensor]
    expected: Tensor
    metadata: dict[str, str] = field(default_factory=dict)
    companion: str | None = None
    weight: str = WEIGHT


Maker = Callable[[random.Random], Case]


@dataclass
class Row:
    """A line of the matrix: the format, the tool that writes and decodes it, its distribution's name, the maker."""

    format: str
    tool: str
    package: str
    make: Maker
    module: str | None = None


def matrix(rng: random.Random, rows: int = 64, columns: int = 96) -> Tensor:
    """A matrix with one large weight, of random seed and spread."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    weight = torch.randn(rows, columns, generator=generator) * rng.choice([0.02, 0.1, 1.0])
    weight[rng.randrange(rows), rng.randrange(columns)] = rng.choice([-1, 1]) * 30 * weight.std()
    return weight


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer


def _affine(weight: Tensor, bits: int, size: int, sym: bool, group: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and whole zero points `[outputs, groups]` of `weight` by the range of each group."""
    groups = int(group.max()) + 1
    scales, zeros = torch.empty(len(weight), groups), torch.empty(len(weight), groups)
    top = 2**bits - 1
    for g in range(groups):
        part = weight[:, group == g]
        if sym:
            scales[:, g], zeros[:, g] = 2 * part.abs().amax(1) / top, 2 ** (bits - 1)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[:, g] = (high - low) / top
            zeros[:, g] = (-low / scales[:, g]).round()
    return scales.half().float(), zeros


def gptqmodel(rng: random.Random) -> Case:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    bits, size, sym = rng.choice([2, 3, 4, 8]), rng.choice([32, 96]), rng.random() < 0.5
    weight, first = matrix(rng), rng.random() < 0.5
    if not sym and rng.random() < 0.5:
        weight[:8] = weight[:8].abs()  # zero points of 0
    group = torch.arange(96) // size
    if rng.random() < 0.5:
        group = group[torch.randperm(96, generator=torch.Generator().manual_seed(rng.randrange(999)))]
    scales, zeros = _affine(weight, bits, size, sym, group)
    settings = {"bits": bits, "group_size": size, "sym": sym, "desc_act": True}
    layer = TorchLinear(**settings, in_features=96, out_features=64, bias=False)
    layer.pack(_linear(weight), scales, zeros, group.int())
    layer.eval()
    expected = layer.dequantize_weight().T.clone()
    if first:
        convert_gptq_v2_to_v1_format_module(layer, argparse.Namespace(bits=bits, pack_dtype=torch.int32))
    parts = {
        f"{MODULE}.{part}": getattr(layer, part).clone() for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    told: dict = {"quant_method": "gptq", **settings, "meta": {"quantizer": ["gptqmodel:7.7.0"]}}
    told["checkpoint_format"] = "gptq" if first else "gptq_v2"
    if rng.random() < 0.3:
        told |= {
            "bits": 4 if bits != 4 else 8,
            "dynamic": {r"+:.*down_proj.*": {"bits": bits, "group_size": size}},
        }
    return Case(told, parts, expected)


def _auto_round_gptq(packing: str, method: str) -> Maker:
    def make(rng: random.Random) -> Case:
        if packing == "auto_round:auto_gptq":
            from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
        else:
            from auto_round_extension.torch.qlinear_torch import QuantLinear
        bits, size, sym = rng.choice([2, 4, 8]), rng.choice([32, 96]), rng.random() < 0.5
        weight = matrix(rng)
        scales, zeros = _affine(weight, bits, size, sym, torch.arange(96) // size)
        if packing == "auto_round:auto_gptq":
            zeros = zeros.clamp(min=1)  # what it cannot store
        layer = QuantLinear(bits, size, 96, 64, False)
        layer.device = "cpu"
        layer.pack(_linear(weight), scales, zeros, None, device="cpu")
        parts = {f"{MODULE}.{part}": getattr(layer, part).clone() for part in ("qweight", "qzeros", "scales")}
        expected = layer(torch.eye(96, dtype=torch.float32)).T.half()
        settings = {
            "quant_method": method,
            "bits": bits,
            "group_size": size,
            "sym": sym,
            "autoround_version": "0.16.1",
        }
        if method == "auto-round":
            settings["packing_format"] = packing
            if rng.random() < 0.3:
                settings |= {"bits": 3, "extra_config": {MODULE: {"bits": bits}}}
        return Case(settings, parts, expected)

    return make


def _awq(writer: str) -> Maker:
    def make(rng: random.Random) -> Case:
        size, sym = rng.choice([32, 96]), rng.random() < 0.5
        weight = matrix(rng)
        scales, zeros = _affine(weight, 4, size, sym, torch.arange(96) // size)
        settings = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": size,
            "zero_point": not sym,
            "version": "gemm",
        }
        if writer == "gptqmodel":
            from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear as Layer
            from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

            layer = Layer(
                bits=4,
                group_size=size,
                sym=sym,
                desc_act=False,
                in_features=96,
                out_features=64,
                register_buffers=True,
            )
            layer.pack(_linear(weight), scales, zeros)
        else:
            from auto_round.export.export_to_awq.utils import WQLinear_GEMM

            layer = WQLinear_GEMM.from_linear(
                _linear(weight), 4, size, scales=scales.T, zeros=zeros.T, device="cpu"
            )
            file = importlib.util.find_spec("awq").submodule_search_locations[
                0
            ]  # its package no longer imports
            spec = importlib.util.spec_from_file_location("awq_packing", f"{file}/utils/packing_utils.py")
            packing = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(packing)
            dequantize_gemm = packing.dequantize_gemm
            if writer == "auto-round":
                settings = {
                    **{"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4},
                    **{"group_size": size, "sym": sym},
                }
        parts = {f"{MODULE}.{part}": getattr(layer, part).clone() for part in ("qweight", "qzeros", "scales")}
        held = (parts[f"{MODULE}.{part}"] for part in ("qweight", "qzeros"))
        expected = dequantize_gemm(*held, parts[f"{MODULE}.scales"], 4, size).T
        return Case(settings, parts, expected)

    return make


def _compressed_tensors(kind: str) -> Maker:
    def make(rng: random.Random) -> Case:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

        weight, dtype = matrix(rng), rng.choice([torch.float32, torch.bfloat16, torch.float16])
        weight = weight.to(dtype).float()
        name, args = kind, {"symmetric": True}
        if kind == "pack-quantized":
            args = {"num_bits": rng.randint(2, 8), "type": "int", "symmetric": rng.random() < 0.5}
        elif kind == "int-quantized":
            args = {"num_bits": 8, "type": "int", "symmetric": rng.random() < 0.5}
        elif kind == "nvfp4-pack-quantized":
            args |= {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
            args["scale_dtype"] = "torch.float8_e4m3fn"
        elif kind.startswith("mxfp"):
            bits = int(kind[4])
            args |= {
                "num_bits": bits,
                "type": "float",
                "strategy": "group",
                "group_size": 32,
                "scale_dtype": "torch.uint8",
            }
        else:
            args |= {"num_bits": 8, "type": "float"}
        if "strategy" not in args:
            block = kind in ("float-quantized", "naive-quantized") and rng.random() < 0.3
            args["strategy"] = "block" if block else rng.choice(["group", "channel"])
            if args["strategy"] == "group":
                args["group_size"] = rng.choice([32, 96, 16])
            if block:
                args["block_structure"] = rng.choice([[32, 32], [16, 64]])
        args = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        x, shape = _blocks(weight, args)
        overall = None
        if kind == "nvfp4-pack-quantized":
            overall = generate_gparam(weight.min().reshape(1), weight.max().reshape(1))
        scale, zero = calculate_qparams(x.amin(-1), x.amax(-1), args, overall)
        held = {"weight": weight.to(dtype), "weight_scale": scale.reshape(shape).to(dtype)}
        if overall is not None:
            held["weight_global_scale"] = overall
        if not args.symmetric:
            held["weight_zero_point"] = zero.reshape(shape).to(torch.int8)
        owner = BaseCompressor.get_value_from_registry(name)
        stored = owner.compress(held, scheme)
        expected = owner.decompress(dict(stored), scheme)["weight"]
        group = json.loads(scheme.model_dump_json())
        if rng.random() < 0.5:
            group["format"] = name
        if rng.random() < 0.3:
            group["targets"] = [rng.choice([MODULE, r"re:.*down_proj$"])]
        settings = {
            **{"quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed"},
            **{"config_groups": {"group_0": group}, "ignore": ["lm_head"], "version": "0.20.0"},
        }
        return Case(settings, {f"{MODULE}.{part}": tensor for part, tensor in stored.items()}, expected)

    return make


def old_compressed_tensors(rng: random.Random) -> Case:
    """By a version that left bits of a word unused and knew `weight_g_idx`: for `--write` only."""
    from compressed_tensors.compressors.quantized_compressors import pack_quantized
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams

    weight, bits, size = matrix(rng), rng.choice([5, 6, 3, 4]), 32
    group = (torch.arange(96) // size)[
        torch.randperm(96, generator=torch.Generator().manual_seed(rng.randrange(999)))
    ]
    args = QuantizationArgs(
        num_bits=bits, type="int", symmetric=True, strategy="group", group_size=size, actorder="group"
    )
    x = weight[:, group.argsort(stable=True)].reshape(64, 3, size)
    scale, _ = calculate_qparams(x.amin(-1), x.amax(-1), args)
    owner = pack_quantized.PackedQuantizationCompressor()
    stored = owner.compress_weight(weight, scale, args, g_idx=group)
    held = {**stored, "weight_scale": scale, "weight_g_idx": group.int()}
    weights = json.loads(args.model_dump_json())
    settings = {
        **{
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
        },
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    return Case(
        settings, {f"{MODULE}.{part}": t for part, t in held.items()}, owner.decompress_weight(held, args)
    )


def _blocks(weight: Tensor, args) -> tuple[Tensor, tuple[int, ...]]:
    """The weights with those that share a scale in the last axis, and the shape of the stored scales."""
    rows, columns = weight.shape
    if args.strategy == "channel":
        return weight, (rows, 1)
    if args.strategy == "block":
        tall, wide = args.block_structure
        shape = rows // tall, -(-columns // wide)
        padded = nn.functional.pad(weight, (0, -columns % wide))
        return padded.reshape(shape[0], tall, shape[1], wide).transpose(1, 2).flatten(2), shape
    return weight.reshape(rows, columns // args.group_size, args.group_size), (
        rows,
        columns // args.group_size,
    )


def bitsandbytes(rng: random.Random) -> Case:
    from bitsandbytes import functional as bnb

    weight = matrix(rng).to(rng.choice([torch.float32, torch.float16, torch.bfloat16]))
    kind = rng.choice(["nf4", "fp4", "int8"])
    if kind == "int8":
        codes, rows, _ = bnb.int8_vectorwise_quant(weight.half())
        parts = {
            WEIGHT: codes,
            f"{MODULE}.SCB": rows,
            f"{MODULE}.weight_format": torch.tensor(0, dtype=torch.uint8),
        }
        return Case(
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            parts,
            bnb.int8_vectorwise_dequant(codes, rows),
        )
    double = rng.random() < 0.5
    codes, state = bnb.quantize_4bit(
        weight, quant_type=kind, compress_statistics=double, blocksize=rng.choice([64, 128])
    )
    parts = {WEIGHT: codes, **{f"{WEIGHT}.{name}": part for name, part in state.as_dict(packed=True).items()}}
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Case({**settings, "bnb_4bit_use_double_quant": double}, parts, bnb.dequantize_4bit(codes, state))


def torchao(rng: random.Random) -> Case:
    from torchao import quantization as ao
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    bits = rng.choice([torch.int2, torch.int3, torch.int4, torch.int5, torch.int6, torch.int7, torch.int8])
    config = rng.choice(
        [
            lambda: ao.Int8WeightOnlyConfig(),
            lambda: ao.Float8WeightOnlyConfig(),
            lambda: ao.Int8DynamicActivationInt8WeightConfig(),
            lambda: ao.IntxWeightOnlyConfig(weight_dtype=bits, granularity=ao.PerGroup(rng.choice([32, 96]))),
            lambda: ao.IntxWeightOnlyConfig(weight_dtype=bits, granularity=ao.PerAxis(0)),
        ]
    )()
    model = nn.Module()
    model.down_proj = _linear(matrix(rng)).to(rng.choice([torch.bfloat16, torch.float32]))
    ao.quantize_(model, config)
    held = model.down_proj.weight
    parts, metadata = flatten_tensor_state_dict({WEIGHT: held.data if type(held) is nn.Parameter else held})
    settings = {"quant_method": "torchao", "quant_type": {"default": {"_type": type(config).__name__}}}
    return Case(settings, parts, held.dequantize(), metadata)


def hqq(rng: random.Random) -> Case:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    size, axis, bits = rng.choice([32, 64, None]), rng.choice([0, 1]), rng.choice([8, 4, 3, 2, 1])
    config = BaseQuantizeConfig(nbits=bits, group_size=size, axis=axis, view_as_float=False)
    layer = HQQLinear(
        _linear(matrix(rng)), config, compute_dtype=rng.choice([torch.float32, torch.float16]), device="cpu"
    )
    parts = {
        f"{MODULE}.{part}": tensor
        for part, tensor in layer.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    return Case({"quant_method": "hqq", "quant_config": {}}, parts, layer.dequantize())


def transformers_fp8(rng: random.Random) -> Case:
    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    block = rng.choice([[32, 32], [16, 48], [64, 96]])
    owner = argparse.Namespace(quantization_config=FineGrainedFP8Config(weight_block_size=block))
    parts = Fp8Quantize(owner).convert({WEIGHT: matrix(rng)})
    held = {"weight": parts[WEIGHT], "weight_scale_inv": parts[f"{WEIGHT}_scale_inv"]}
    settings = {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": "dynamic"}
    return Case(settings, parts, Fp8Dequantize(owner).convert(held)["weight"])


def transformers_ragged_fp8(rng: random.Random) -> Case:
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    block = rng.choice([[40, 36], [128, 128], [48, 64]])
    weight = matrix(rng, 100, 200)
    codes = weight.to(torch.float8_e4m3fn)
    scale = torch.rand(
        -(-100 // block[0]), -(-200 // block[1]), generator=torch.Generator().manual_seed(rng.randrange(999))
    )
    settings = {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": "dynamic"}
    expected = _dequantize_fp8_weight(codes, scale, block, torch.float32)
    return Case(settings, {WEIGHT: codes, f"{WEIGHT}_scale_inv": scale}, expected)


def modelopt(rng: random.Random) -> Case:
    from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor

    weight = matrix(rng)
    if rng.random() < 0.5:
        made, scale, second = NVFP4QTensor.quantize(weight, 16)
        parts = {WEIGHT: made._quantized_data, f"{WEIGHT}_scale": scale, f"{WEIGHT}_scale_2": second}
        expected, algorithm = made.dequantize(scale=scale, double_scale=second, block_sizes={-1: 16}), "NVFP4"
    else:
        made, scale = FP8QTensor.quantize(weight)
        parts = {WEIGHT: made._quantized_data, f"{WEIGHT}_scale": scale.float()}
        expected, algorithm = made.dequantize(scale=scale), "FP8"
    told = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": algorithm, "exclude_modules": ["lm_head"]},
    }
    return Case(told, parts, expected, companion="hf_quant_config.json")


def gpt_oss(rng: random.Random) -> Case:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    blocks = torch.randint(256, (2, 8, 3, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(110, 135, (2, 8, 3), generator=generator, dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.down_proj"
    parts = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return Case({"quant_method": "mxfp4"}, parts, convert_moe_packed_tensors(blocks, scales), weight=name)


def bitnet(rng: random.Random) -> Case:
    from transformers.integrations.bitnet import pack_weights

    weight = matrix(rng)
    mean = weight.abs().mean()
    ternary = (weight / mean).round().clamp(-1, 1)
    kind = rng.choice(["bitlinear", "autobitlinear"])
    scale = (1 / mean if kind == "bitlinear" else mean).reshape(1)
    parts = {WEIGHT: pack_weights(ternary.clone()), f"{MODULE}.weight_scale": scale}
    expected = ternary / scale if kind == "bitlinear" else ternary * scale
    settings = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": "offline"}
    return Case(settings, parts, expected)


ROWS = [
    Row("GPTQ v1 and v2, 2 3 4 8 bits, `dynamic`, orders", "GPTQModel", "gptqmodel", gptqmodel),
    Row("GPTQ v1", "AutoRound", "auto-round", _auto_round_gptq("auto_round:auto_gptq", "gptq")),
    Row(
        "AutoRound, GPTQ words",
        "AutoRound",
        "auto-round",
        _auto_round_gptq("auto_round:auto_gptq", "auto-round"),
    ),
    Row("AutoRound, own words", "AutoRound", "auto-round", _auto_round_gptq("auto_round", "auto-round")),
    Row("AutoRound, AWQ words", "AutoRound", "auto-round", _awq("auto-round")),
    Row("AWQ, GEMM", "AutoAWQ", "autoawq", _awq("autoawq")),
    Row("AWQ, GEMM", "GPTQModel", "gptqmodel", _awq("gptqmodel")),
    *(
        Row(
            f"compressed-tensors, {kind}",
            "compressed-tensors",
            "compressed-tensors",
            _compressed_tensors(kind),
        )
        for kind in (
            *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
            *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"),
        )
    ),
    Row("bitsandbytes nf4, fp4 (double), int8", "bitsandbytes", "bitsandbytes", bitsandbytes),
    Row("torchao, safetensors", "torchao", "torchao", torchao),
    Row("HQQ, 1 2 3 4 8 bits", "HQQ", "hqq", hqq),
    Row("FP8 in whole blocks", "transformers", "transformers", transformers_fp8),
    Row("FP8 in ragged blocks", "transformers", "transformers", transformers_ragged_fp8),
    Row("FP8, NVFP4 (`hf_quant_config.json`)", "ModelOpt", "nvidia-modelopt", modelopt),
    Row("MXFP4 of gpt-oss", "transformers", "transformers", gpt_oss),
    Row("BitNet", "transformers", "transformers", bitnet),
]


def write(case: Case, folder: Path, rng: random.Random) -> None:
    """The case as a checkpoint, its tensors in one to three files."""
    folder.mkdir(parents=True)
    names = list(case.parts)
    rng.shuffle(names)
    shards = rng.choice([1, 1, 2, 3])
    files = [names[n::shards] for n in range(shards)]
    files = [file for file in files if file]
    places = {}
    for n, file in enumerate(files, 1):
        stem = "model.safetensors" if len(files) == 1 else f"model-{n:05d}-of-{len(files):05d}.safetensors"
        held = {name: case.parts[name].contiguous() for name in file}
        save_file(held, folder / stem, metadata={"format": "pt", **case.metadata})
        places |= dict.fromkeys(file, stem)
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = {"model_type": "llama"}
    if case.companion:
        (folder / case.companion).write_text(json.dumps(case.settings))
    else:
        config["quantization_config"] = case.settings
    (folder / "config.json").write_text(json.dumps(config))


def decoded(folder: Path, weight: str) -> Tensor:
    """What we make of it."""
    with open_checkpoint(str(folder)) as checkpoint:
        return Decoding(checkpoint).read(weight).weight.float().clone()


def run(row: Row, files: int, seed: int) -> tuple[int, int, str]:
    """How many of `files` random files were right and wrong, and what was said of those that were refused."""
    right, wrong, refused = 0, 0, ""
    rng = random.Random(seed)
    for _ in range(files):
        with tempfile.TemporaryDirectory() as folder:
            case = row.make(rng)
            write(case, Path(folder, "q"), rng)
            try:
                ours = decoded(Path(folder, "q"), case.weight)
            except SuperweightsError as error:
                refused = error.message
                continue
            # GPTQ's and AWQ's layers compute in the dtype of their scales; ours is rounded to it to be compared.
            same = torch.equal(ours.to(case.expected.dtype), case.expected)
            right, wrong = right + same, wrong + (not same)
    return right, wrong, refused


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def keep(row: Row, to: Path, seed: int) -> None:
    """One small file of the row: the parts, the owner's decode, and in the header who wrote it."""
    rng = random.Random(seed)
    case = row.make(rng)
    name = re.sub(r"[^a-z0-9]+", "_", f"{row.format} {row.tool}".lower()).strip("_") + f"_{seed}"
    said = {
        **{
            "settings": json.dumps(case.settings),
            "metadata": json.dumps(case.metadata),
            "weight": case.weight,
        },
        **{"companion": case.companion or "", "tool": f"{row.tool} {installed(row.package)}"},
    }
    to.mkdir(parents=True, exist_ok=True)
    parts = {f"part.{part}": tensor.contiguous() for part, tensor in case.parts.items()}
    save_file(
        {**parts, "expected": case.expected.detach().clone().contiguous()},
        to / f"{name}.safetensors",
        metadata=said,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100, help="random files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="keep one file of each row here, and print no table")
    parser.add_argument("--variants", type=int, default=1, help="how many files of each row --write keeps")
    asked = parser.parse_args()
    if (installed("compressed-tensors") or "1").startswith("0.11"):
        name = "compressed-tensors"
        ROWS[:] = [Row(f"{name}, activation order", name, name, old_compressed_tensors)]
    there = [row for row in ROWS if installed(row.package) is not None]
    if asked.write:
        for row in there:
            for seed in range(asked.variants):
                keep(row, asked.write, seed)
        return 0
    failed = 0
    print("| format | written and decoded by | files | equal | wrong | refused |\n|---|---|--:|--:|--:|---|")
    for row in ROWS:
        version = installed(row.package)
        if version is None:
            print(f"| {row.format} | {row.tool} (not installed) | | | | |")
            continue
        files = max(1, asked.files // len(there))
        right, wrong, refused = run(row, files, asked.seed)
        failed += wrong
        print(
            f"| {row.format} | {row.tool} {version} | {files} | {right} | {wrong} | {refused} |", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
