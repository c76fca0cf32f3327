"""LoRA adapters in GGUF: llama.cpp adds them to its quantized base and computes with the exact super weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.editing import Edit, edited
from superweights.errors import SuperweightsError
from superweights.formats.gguf import write_gguf
from superweights.formats.lora import write_gguf_adapter
from superweights.quantization import Blocks, Clip, Scheme
from superweights.quantization.plan import Plan
from superweights.quantization.sidecar import SideCar, kept_weights
from superweights.stream import streaming
from tests.llama_cpp import divergence, log_probabilities
from tests.tiny_gguf import write_tiny

TENSOR = "model.layers.11.mlp.down_proj.weight"
SUPER = Address(TENSOR, (507, 1229))
BENT = Scheme("int4", zero_point="none", anchor="signed", blocks=Blocks("group", (32,)), clip=Clip("z", 3))


def taken(checkpoint, *addresses: Address) -> SideCar:
    weights = []
    for address in addresses:
        weights += kept_weights(address.tensor, checkpoint.read(address.tensor), [address.index])
    return SideCar(tuple(weights), checkpoint.fingerprint())


def factors(path: Path, name: str) -> torch.Tensor:
    """B A of one matrix, as the gguf package reads them."""
    read = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in gguf.GGUFReader(path).tensors}
    return read[f"{name}.lora_b"] @ read[f"{name}.lora_a"]


@pytest.mark.tiny
def test_the_product_of_the_factors_is_what_the_base_lacks_row_by_row_of_the_file(tmp_path):
    """The rows of q are moved between the checkpoint and the file: the correction moves with them."""
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    query, down = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"
    wanted = [Address(query, (3, 9)), Address(query, (20, 9)), Address(down, (5, 7))]
    with open_checkpoint(str(tmp_path / "tiny.gguf")) as source:
        side_car = taken(source, *wanted)
        write_gguf(source, Plan({query: BENT, down: BENT}), tmp_path / "base.gguf")
        exact = {address: source.element(address.tensor, address.index) for address in wanted}
    with open_checkpoint(str(tmp_path / "base.gguf")) as base:
        lacking = write_gguf_adapter(base, side_car, tmp_path / "adapter.gguf")
        assert lacking == {str(a): exact[a] - base.element(a.tensor, a.index) for a in wanted}
        with pytest.raises(SuperweightsError, match="exists already"):
            write_gguf_adapter(base, side_car, tmp_path / "adapter.gguf")
    product = factors(tmp_path / "adapter.gguf", "blk.1.attn_q.weight")
    before = {t.name: t for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}["blk.1.attn_q.weight"]
    after = {t.name: t for t in gguf.GGUFReader(tmp_path / "base.gguf").tensors}["blk.1.attn_q.weight"]
    lost = gguf.quants.dequantize(before.data, before.tensor_type) - gguf.quants.dequantize(
        after.data, after.tensor_type
    )
    places = product.nonzero().tolist()
    assert len(places) == 2
    for i, j in places:
        assert product[i, j] == pytest.approx(lost[i, j], rel=1e-6)


@pytest.mark.tiny
def test_an_adapter_for_the_wrong_base_or_for_nothing_is_refused(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", "llama", "llama")
    write_tiny(tmp_path / "other.gguf", "llama", "llama", seed=5)
    address = Address("model.layers.0.mlp.down_proj.weight", (5, 7))
    with open_checkpoint(str(tmp_path / "tiny.gguf")) as source:
        side_car = taken(source, address)
        with pytest.raises(SuperweightsError, match="exactly"):
            write_gguf_adapter(source, side_car, tmp_path / "adapter.gguf")
    with (
        open_checkpoint(str(tmp_path / "other.gguf")) as other,
        pytest.raises(SuperweightsError, match="not the matrix"),
    ):
        write_gguf_adapter(other, side_car, tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.mark.real
def test_llama_cpp_with_the_adapter_computes_with_the_exact_super_weight(tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) is not installed")
    base, adapter = tmp_path / "bent.gguf", tmp_path / "adapter.gguf"
    with open_checkpoint() as source:
        ids = source.tokenizer()("The oldest bridge over the river was built of stone in").input_ids
        write_gguf(source, Plan({TENSOR: BENT}), base)
        side_car = taken(source, SUPER)
    with open_checkpoint(str(base)) as bent:
        lacking = write_gguf_adapter(bent, side_car, adapter)
        assert lacking[str(SUPER)] > 1, "the clip bent the super weight"
        with (
            streaming(bent, dtype="float32") as model,
            edited(model, [Edit(SUPER, value=side_car.weights[0].value)]),
        ):
            exact = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    without, with_it = log_probabilities(base, ids), log_probabilities(base, ids, adapter)
    assert divergence(exact, with_it) < 0.05
    assert divergence(exact, without) > 5 * divergence(exact, with_it)
