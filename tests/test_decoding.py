"""Decoding: every format as the library that owns it decodes it, bit for bit; what is not known is refused by name.

`tests/owners` holds small files that those libraries wrote, with their own decode (benchmarks/decoding.py --write), so
that they need not be installed here. The same program makes random ones by the thousand.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import saved_llama
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.decoding import Decoding, method_of
from superweights.errors import SuperweightsError
from superweights.stream import streaming

OWNERS = sorted((Path(__file__).parent / "owners").glob("*.safetensors"))
NEEDS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "hqq": "hqq",
    "compressed_tensors": "compressed_tensors",
}
TENSOR = "model.layers.1.mlp.down_proj.weight"
MODULE = TENSOR.removesuffix(".weight")

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location(
        "decoding_benchmark", Path(__file__).parent.parent / "benchmarks" / "decoding.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def kept(file: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """What is said in the header of a kept file, and its tensors."""
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@pytest.mark.parametrize("file", OWNERS, ids=lambda file: file.stem)
def test_a_file_of_its_owner_is_decoded_as_the_owner_decodes_it(file, tmp_path, benchmark):
    for words, package in NEEDS.items():
        if file.stem.startswith(words) or (words == "compressed_tensors" and "modelopt" in file.stem):
            pytest.importorskip(package, reason=f"{package} decodes its own format, and is not installed")
    said, tensors = kept(file)
    parts = {name.removeprefix("part."): t for name, t in tensors.items() if name.startswith("part.")}
    case = benchmark.Case(
        *(json.loads(said["settings"]), parts, tensors["expected"], json.loads(said["metadata"])),
        *(said["companion"] or None, said["weight"]),
    )
    benchmark.write(case, tmp_path / "q", random.Random(2))
    ours = benchmark.decoded(tmp_path / "q", case.weight)
    assert torch.equal(ours.to(case.expected.dtype), case.expected), said["tool"]


def test_random_files_of_the_libraries_that_are_here_are_decoded_without_a_difference(benchmark):
    pytest.importorskip("compressed_tensors")
    rows = [row for row in benchmark.ROWS if row.package in ("compressed-tensors", "transformers")]
    for row in rows:
        right, wrong, refused = benchmark.run(row, 6, seed=11)
        assert (right, wrong, refused) == (6, 0, ""), row.format


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved_llama(tmp_path_factory.mktemp("llama"), {TENSOR: {(5, 7): 3.0}})


def stored_as(llama: Path, to: Path, settings: dict | None, parts: dict[str, torch.Tensor]) -> Path:
    """The checkpoint with one matrix in another form."""
    to.mkdir()
    tensors = load_file(llama / "model.safetensors")
    del tensors[TENSOR]
    save_file({**tensors, **parts}, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((llama / "config.json").read_text())
    (to / "config.json").write_text(
        json.dumps({**config, **({"quantization_config": settings} if settings else {})})
    )
    return to


@pytest.mark.parametrize("grid", ["int2", "int3", "int5", "int6", "int7", "int8"])
def test_what_we_write_as_compressed_tensors_is_read_as_transformers_reads_it(grid, llama, tmp_path):
    pytest.importorskip("compressed_tensors")
    options = [
        "--format",
        "compressed-tensors",
        "--grid",
        grid,
        "--group",
        "32",
        "--zero-point",
        "none",
        "--keep",
        "none",
    ]
    assert run(["quantize", str(llama), "--to", str(tmp_path / "q"), *options]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype="auto")
    model(torch.zeros((1, 2), dtype=torch.long))  # decompresses
    with open_checkpoint(str(tmp_path / "q")) as checkpoint:
        decoding = Decoding(checkpoint)
        quantized = [name for name in decoding.names if len(decoding.parts(name)) > 1]
        assert len(quantized) == 14
        for name in quantized:
            assert torch.equal(decoding.read(name).weight, model.get_parameter(name))


def float8(llama: Path) -> dict[str, torch.Tensor]:
    weight = load_file(llama / "model.safetensors")[TENSOR]
    scale = weight.abs().max() / 448
    return {TENSOR: (weight / scale).to(torch.float8_e4m3fn), f"{TENSOR}_scale": scale}


@pytest.mark.parametrize("told", ["by a companion", "by the tensors alone"])
def test_float8_codes_with_a_scale_beside_them_are_no_weights(told, llama, tmp_path, capsys):
    folder = stored_as(llama, tmp_path / "q", None, float8(llama))
    if told == "by a companion":
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    parts = float8(llama)
    with open_checkpoint(str(folder)) as checkpoint:
        assert method_of(checkpoint) == ("modelopt" if told == "by a companion" else "float8")
        wanted = parts[TENSOR].float() * parts[f"{TENSOR}_scale"]
        assert torch.equal(Decoding(checkpoint).read(TENSOR).weight, wanted)
        for read in (
            lambda: checkpoint.read(TENSOR),
            lambda: checkpoint.read_rows(TENSOR, 0, 1),
            lambda: checkpoint.element(TENSOR, (5, 7)),
        ):
            with pytest.raises(SuperweightsError, match="holds F8_E4M3 codes, whose scale is"):
                read()
    text = tmp_path / "text.txt"
    text.write_text("word " * 300)
    address = f"{TENSOR}[5, 7]"
    for command in (
        ["peel", str(folder), "--to", str(tmp_path / "p"), "--weights", address],
        ["scan", str(folder)],
        ["score", str(folder), "--windows", "1", "--window", "16"],
        ["quantize", str(folder), "--to", str(tmp_path / "x"), "--keep", "none"],
    ):
        assert run(command) == 1, command
        assert "codes" in (said := capsys.readouterr().err) or "quantized already" in said, command
    assert not (tmp_path / "p").exists()


def test_a_float8_original_is_decoded_too(llama, tmp_path, capsys):
    original = stored_as(llama, tmp_path / "q", None, float8(llama))
    command = [
        "audit",
        str(llama),
        "--against",
        str(original),
        "--weights",
        f"{TENSOR}[5, 7]",
        "--window",
        "16",
        "--json",
    ]
    assert run([*command, "--windows", "2"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found["weights"][0]["before"] == pytest.approx(3.0)
    assert found["verdict"] == "intact"


def test_a_head_that_the_file_stores_apart_is_not_tied_whatever_the_config_says(tmp_path):
    folder = saved_llama(tmp_path / "m", {}, tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    for resident in (True, False):
        with (
            open_checkpoint(str(folder)) as checkpoint,
            streaming(checkpoint, dtype="float32", resident=resident) as model,
        ):
            assert torch.equal(model(ids).logits, wanted)


def test_a_head_that_the_file_stores_twice_with_the_same_values_stays_tied(tmp_path):
    folder = saved_llama(tmp_path / "m", {}, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with open_checkpoint(str(folder)) as checkpoint, streaming(checkpoint, dtype="float32") as model:
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_stored_zero_point_of_all_ones_means_zero_in_version_one(llama, tmp_path):
    """As AutoGPTQ's kernels count, modulo 16; GPTQModel borrows from the neighbour, and says that it wrote the file."""
    words = torch.zeros(3, 8, dtype=torch.int32)
    words[0, 0] = 0x7777777F  # fields, lowest first: 15, 7, 7, ...
    parts = {
        **{f"{MODULE}.qweight": torch.zeros(12, 64, dtype=torch.int32), f"{MODULE}.qzeros": words},
        **{f"{MODULE}.scales": torch.ones(3, 64).half(), f"{MODULE}.g_idx": (torch.arange(96) // 32).int()},
    }
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    for writer, first_two in ((None, [0, -8]), ("gptqmodel:7.7.0", [0, -9])):
        meta = {"meta": {"quantizer": [writer]}} if writer else {}
        with open_checkpoint(
            str(stored_as(llama, tmp_path / str(writer), {**settings, **meta}, parts))
        ) as checkpoint:
            assert Decoding(checkpoint).read(TENSOR).weight[:2, 0].tolist() == first_two


CODES = {f"{MODULE}.qweight": torch.zeros(12, 64, dtype=torch.int32)}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
CT = {
    **{"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"},
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}},
}
REFUSED = {
    "a field of a later version": ({**GPTQ, "swizzle": True}, CODES, "'swizzle' = True of gptq is not known"),
    "a rotation": ({**GPTQ, "rotation": "hadamard"}, CODES, "'rotation' = 'hadamard'"),
    "a layout of another kernel": (
        {**GPTQ, "checkpoint_format": "marlin"},
        CODES,
        "'checkpoint_format' = 'marlin'",
    ),
    "two layouts": (
        {**GPTQ, "checkpoint_format": "gptq", "format": "gptq_v2"},
        *(CODES, "contradicts checkpoint_format = 'gptq'"),
    ),
    "no bits": ({"quant_method": "gptq"}, CODES, "does not say bits"),
    "bits that are no number": ({**GPTQ, "bits": "four"}, CODES, "'bits' = 'four'"),
    "codes that nobody declares": (None, CODES, "no JSON file beside it says whose"),
    "GEMV": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, CODES, "'version' = 'gemv'"),
    "a transform": (
        {**CT, "transform_config": {"config_groups": {"R1": {}}}},
        *({f"{MODULE}.weight_packed": torch.zeros(64, 12, dtype=torch.int32)}, "'transform_config'"),
    ),
    "a group for other modules": (
        {**CT, "config_groups": {"group_0": {**CT["config_groups"]["group_0"], "targets": ["re:.*q_proj"]}}},
        *({f"{MODULE}.weight_packed": torch.zeros(64, 12, dtype=torch.int32)}, f"says nothing of {MODULE}"),
    ),
    "words for other bits": (
        CT,
        {
            f"{MODULE}.weight_packed": torch.zeros(64, 9, dtype=torch.int32),
            f"{MODULE}.weight_scale": torch.ones(64, 3),
            f"{MODULE}.weight_shape": torch.tensor([64, 96]),
        },
        "which [64, 96] weights of 4 bits do not take",
    ),
    "scales of no known rule": (
        None,
        {TENSOR: torch.zeros(64, 96).to(torch.float8_e4m3fn), f"{TENSOR}_scale": torch.ones(7, 5)},
        "no rule is known",
    ),
    "another method": ({"quant_method": "exl3"}, CODES, "quantized by 'exl3'"),
    "an unknown dialect": (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:new"},
        *(CODES, "'packing_format' = 'auto_round:new'"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_the_name_of_the_field(case, llama, tmp_path, capsys):
    settings, parts, words = REFUSED[case]
    if "weight_packed" in "".join(parts):
        pytest.importorskip("compressed_tensors")
    folder = stored_as(llama, tmp_path / "q", settings, parts)
    command = [
        "audit",
        str(folder),
        "--against",
        str(llama),
        "--weights",
        f"{TENSOR}[5, 7]",
        "--weights-only",
    ]
    assert run(command) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert "hint:" in said


def test_a_stream_gives_every_weight_once_and_no_part_of_one(llama, tmp_path):
    pytest.importorskip("compressed_tensors")
    options = ["--format", "compressed-tensors", "--zero-point", "none", "--group", "32", "--keep", "none"]
    assert run(["quantize", str(llama), "--to", str(tmp_path / "q"), *options]) == 0
    with open_checkpoint(str(tmp_path / "q")) as checkpoint, open_checkpoint(str(llama)) as original:
        shapes = {name: tuple(decoded.weight.shape) for name, decoded in Decoding(checkpoint)}
        assert shapes == {name: tuple(info.shape) for name, info in original.tensors.items()}


def test_weights_of_a_checkpoint_that_the_loader_renames_are_found_again(tmp_path):
    """GPT-2 without "transformer.", as its first checkpoint is stored, in our packed form."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from superweights.audits import audit

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    held = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(held, file, metadata={"format": "pt"})
    command = [
        "quantize",
        str(tmp_path / "m"),
        "--to",
        str(tmp_path / "q"),
        "--grid",
        "int8",
        "--keep",
        "none",
    ]
    assert run(command) == 0
    with open_checkpoint(str(tmp_path / "q")) as quantized, open_checkpoint(str(tmp_path / "m")) as original:
        address = Address("h.1.mlp.c_proj.weight", (7, 5))
        found = audit(quantized, original, [address], torch.arange(24).reshape(2, 12))
    assert found.weights[0].after == pytest.approx(
        float(held["h.1.mlp.c_proj.weight"][7, 5]), rel=0.02, abs=1e-3
    )
    assert found.weights[0].matrix_error < 0.01
    assert found.comparison.kl.value < 1e-3


TYPES = (
    *(
        "F16",
        "BF16",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "IQ4_XS",
    ),
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4"),
)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_gguf_is_decoded_as_ggml_itself_decodes_it(kind, tmp_path):
    """One matrix of a small model in this type, quantized and decoded by ggml's own C."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    import ggml
    import tiny_gguf

    kind = gguf.GGMLQuantizationType[kind]
    tiny_gguf.write_tiny(tmp_path / "m.gguf", "llama", "llama", intermediate_size=256)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(kind.value)).numpy() * 0.1
    stored = (
        ggml.quantize(weight, kind)
        if kind.name not in ("F16", "BF16")
        else gguf.quants.quantize(weight, kind)
    )
    stored = stored.view("uint8")
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        ours = tensor.name == "blk.1.ffn_down.weight"
        writer.add_tensor(
            tensor.name, stored if ours else tensor.data, raw_dtype=kind if ours else tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(str(tmp_path / "q.gguf")) as checkpoint:
        assert checkpoint.tensors[TENSOR].dtype == kind.name
        ours = Decoding(checkpoint).read(TENSOR).weight
    assert torch.equal(ours, torch.from_numpy(ggml.dequantize(stored, kind)))
