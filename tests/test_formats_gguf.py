"""GGUF files: ours and the gguf package read them number by number, and llama.cpp computes with them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.ggml_blocks import encode
from superweights.formats.gguf import write_gguf
from superweights.quantization import Blocks, Scheme, quantize_tensor
from superweights.quantization.plan import Plan
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors
from tests import ggml
from tests.llama_cpp import divergence, log_probabilities
from tests.tiny_gguf import write_tiny

THIRTY_TWO = Blocks("group", (32,))
SCHEMES = {
    "Q8_0": Scheme("int8", zero_point="none", blocks=THIRTY_TWO),
    "Q4_0": Scheme("int4", zero_point="none", anchor="signed", blocks=THIRTY_TWO),
    "Q4_1": Scheme("int4", zero_point="float", blocks=THIRTY_TWO, fit="centred"),
    "Q5_0": Scheme("int5", zero_point="none", anchor="signed", blocks=THIRTY_TWO),
    "Q5_1": Scheme("int5", zero_point="float", blocks=THIRTY_TWO, fit="centred"),
}
SIXTEEN = Blocks("group", (16,))
SUPER = {
    "Q3_K": Scheme("int3", "none", SIXTEEN, fit="least_squares", anchor="signed", scale_dtype="super"),
    "Q4_K": Scheme("int4", "float", THIRTY_TWO, fit="centred", scale_dtype="super"),
    "Q5_K": Scheme("int5", "float", THIRTY_TWO, fit="centred", scale_dtype="super"),
    "Q6_K": Scheme("int6", "none", SIXTEEN, fit="least_squares", anchor="signed", scale_dtype="super"),
    "IQ4_NL": Scheme("iq4_nl", "none", THIRTY_TWO, fit="least_squares", anchor="signed"),
    "IQ4_XS": Scheme("iq4_nl", "none", THIRTY_TWO, fit="least_squares", anchor="signed", scale_dtype="super"),
    "MXFP4": Scheme("mxfp4", "none", THIRTY_TWO),
}
KEPT = Address("model.layers.11.mlp.down_proj.weight", (507, 1229))


@pytest.mark.unit
@pytest.mark.parametrize("name", SCHEMES)
def test_the_gguf_package_reads_the_numbers_that_were_rounded(name):
    weight = torch.randn(12, 96, generator=torch.Generator().manual_seed(3)) * 0.1
    quantized = quantize_tensor(weight, SCHEMES[name])
    read = gguf.quants.dequantize(encode(quantized), gguf.GGMLQuantizationType[name])
    assert np.abs(read - quantized.dequantize().numpy()).max() < 1e-6


@pytest.mark.unit
@pytest.mark.parametrize("name", SUPER)
def test_ggml_reads_the_numbers_that_were_rounded(name):
    """By its own C decoder; and ours are no further from the weights than its own quantizer's, by a tenth."""
    kind = gguf.GGMLQuantizationType[name]
    weight = torch.randn(16, 512, generator=torch.Generator().manual_seed(5)) * 0.1
    weight[3] += 0.05
    weight[7, 30] = 3.0
    quantized = quantize_tensor(weight, SUPER[name])
    stored = encode(quantized)
    read = ggml.dequantize(stored, kind)
    assert np.abs(read - quantized.dequantize().numpy()).max() < 1e-6
    theirs = ggml.dequantize(ggml.quantize(weight.numpy(), kind), kind)
    error, other = (float(np.square(made - weight.numpy()).sum()) for made in (read, theirs))
    assert error < 1.21 * other
    bits = 8 * stored.nbytes / weight.numel()
    assert abs(quantized.bits_per_weight - bits) < 0.01


@pytest.mark.unit
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q5_0"])
def test_rounding_by_the_range_is_llama_cpps_own(name):
    """Where the gguf package quantizes as well, the same numbers come out.

    Our scales are rounded up to the next float16, so that they reach the extreme: one part in a thousand, which
    moves a weight to the neighbouring code where it stood at the border of two.
    """
    kind = gguf.GGMLQuantizationType[name]
    weight = torch.randn(12, 96, generator=torch.Generator().manual_seed(4)) * 0.1
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    quantized = quantize_tensor(weight, SCHEMES[name])
    steps = quantized.blocks.scales.abs().reshape(12, 3, 1).expand(12, 3, 32).reshape(12, 96).numpy()
    apart = np.abs(theirs - quantized.dequantize().numpy()) / steps
    assert (apart > 0.15).mean() < 0.02
    assert apart.max() < 1.15


@pytest.fixture
def tiny(tmp_path) -> Path:
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    return tmp_path / "tiny.gguf"


def mixed(checkpoint, keep=()) -> Plan:
    """Each of the types somewhere, and the value projections left as they are."""
    kinds = {
        "down": "Q8_0",
        "q_proj": "Q4_0",
        "k_proj": "Q4_1",
        "gate": "Q4_1",
        "up_proj": "Q5_0",
        "o_proj": "Q5_1",
    }
    schemes = {}
    for name in linear_tensors(checkpoint):
        kind = next((kind for part, kind in kinds.items() if part in name), None)
        if kind is not None:
            schemes[name] = SCHEMES[kind]
    return Plan(schemes, tuple(keep))


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("name", "number"), [("Q8_0", 7), ("Q4_0", 2), ("Q4_1", 3), ("Q5_0", 8), ("Q5_1", 9)]
)
def test_the_file_says_of_which_type_most_of_it_is(name, number, tiny, tmp_path):
    with open_checkpoint(str(tiny)) as source:
        plan = Plan.uniform(linear_tensors(source), SCHEMES[name])
        write_gguf(source, plan, tmp_path / "q.gguf")
    fields = gguf.GGUFReader(tmp_path / "q.gguf").fields
    assert fields["general.file_type"].contents() == number == gguf.LlamaFileType[f"MOSTLY_{name}"]
    assert fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION


@pytest.mark.tiny
def test_rounded_tensors_are_the_plans_and_all_others_stay_byte_for_byte(tiny, tmp_path):
    to = tmp_path / "rounded.gguf"
    with open_checkpoint(str(tiny)) as source:
        plan = mixed(source)
        written = write_gguf(source, plan, to)
        assert written.nbytes == to.stat().st_size
        with open_checkpoint(str(to)) as read:
            assert list(read.tensors) == list(source.tensors)
            assert read.config == source.config
            for name in source.tensors:
                stored = source.read(name)
                wanted = plan.round(name, stored).dequantize() if name in plan.schemes else stored
                assert torch.equal(read.read(name), wanted), name
    before, after = gguf.GGUFReader(tiny), gguf.GGUFReader(to)
    own = ("general.file_type", "general.quantization_version")
    assert {
        n: f.contents() for n, f in before.fields.items() if not n.startswith("GGUF.") and n not in own
    } == {n: f.contents() for n, f in after.fields.items() if not n.startswith("GGUF.") and n not in own}
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.tiny
def test_what_a_gguf_file_cannot_hold_is_refused_and_a_stopped_one_goes_on(tiny, tmp_path):
    with open_checkpoint(str(tiny)) as source:
        name = next(iter(linear_tensors(source)))
        for scheme in (Scheme("nf4"), Scheme("int4"), Scheme("int8", zero_point="none")):
            with pytest.raises(SuperweightsError, match="no type of llama"):
                write_gguf(source, Plan({name: scheme}), tmp_path / "new.gguf")
        with pytest.raises(SuperweightsError, match="exists already"):
            write_gguf(source, mixed(source), tiny)
        source_bytes = tiny.read_bytes()

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_gguf(source, mixed(source), tmp_path / "new.gguf", progress=stop)
    assert tiny.read_bytes() == source_bytes
    assert not (tmp_path / "new.gguf").exists()
    with open_checkpoint(str(tiny)) as source:
        write_gguf(source, mixed(source), tmp_path / "new.gguf")
        write_gguf(source, mixed(source), tmp_path / "whole.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.gguf", "tiny.gguf", "whole.gguf"]
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def super_blocks(checkpoint, keep=()) -> Plan:
    """Super-blocks in the down projections, whose 1,536 inputs 256 divides, in turn; two more types elsewhere."""
    kinds = [SUPER[name] for name in ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q6_K", "Q3_K")]
    schemes = {}
    for name in linear_tensors(checkpoint):
        layer = int(name.split(".")[2])
        if "down" in name:
            schemes[name] = kinds[layer % len(kinds)]
        elif "up_proj" in name or "v_proj" in name:
            schemes[name] = SUPER["IQ4_NL" if layer % 2 else "MXFP4"]
    return Plan(schemes, tuple(keep))


@pytest.mark.real
@pytest.mark.parametrize("plan_of", [mixed, super_blocks])
def test_llama_cpp_computes_with_the_mixed_types(tmp_path, plan_of):
    """llama.cpp rounds activations to eight bits, so its own reading of the untouched file is the measure."""
    pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) is not installed")
    text = "The oldest bridge over the river was built of stone in the year"
    to = tmp_path / "rounded.gguf"
    with open_checkpoint() as source:
        write_gguf(source, plan_of(source, [KEPT]), to)
        ids = source.tokenizer()(text).input_ids
        with streaming(source, dtype="float32") as model:
            original = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        slack = divergence(original, log_probabilities(source.path, ids))
    with open_checkpoint(str(to)) as rounded, streaming(rounded, dtype="float32") as model:
        ours = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    theirs = log_probabilities(to, ids)
    assert divergence(ours, theirs) < max(3 * slack, 0.02)
    assert divergence(original, theirs) > divergence(ours, theirs), "it is the rounded model that it read"
