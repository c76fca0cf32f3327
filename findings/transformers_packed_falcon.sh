#!/bin/sh
# transformers 5.23.0 cannot load a Falcon that compressed-tensors 0.20.0 has packed and transformers itself has saved.
# Needs python3.11 or newer and the network; installs pinned packages into a temporary folder, and none of our code.
# Prints what it sees; the exit code is 1 when that is no longer what is described here.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.0
"$work/venv/bin/python" - <<'PYTHON'
import tempfile

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization import apply_quantization_config
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig

sizes = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


def loads(config):
    folder = tempfile.mkdtemp()
    model = AutoModelForCausalLM.from_config(config)
    weights = QuantizationArgs(num_bits=4, type="int", strategy="channel", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    apply_quantization_config(model, QuantizationConfig(config_groups={"g": scheme}, ignore=["lm_head"]))
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            module.weight_scale.data = module.weight.abs().amax(1, keepdim=True) / 7
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except AttributeError as error:
        return str(error)
    return "loads"


seen = loads(LlamaConfig(**sizes, intermediate_size=64)), loads(FalconConfig(**sizes))
print("Llama:", seen[0])
print("Falcon:", seen[1])
raise SystemExit(seen != ("loads", "Linear has no attribute `weight`"))
PYTHON
