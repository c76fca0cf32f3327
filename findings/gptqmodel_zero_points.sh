#!/bin/sh
# GPTQModel 7.7.0: a zero point of 0 in a GPTQ file of version 1 is read in two ways by the library that wrote it.
# Needs python3.11 or newer and the network; installs pinned packages into a temporary folder, and none of our code.
# Prints what it sees; the exit code is 1 when that is no longer what is described here.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 pypcre device-smi tokenicer logbar defuser threadpoolctl pillow requests datasets protobuf numpy==2.4.6 torchao==0.18.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps gptqmodel==7.7.0
"$work/venv/bin/python" - <<'PYTHON'
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from gptqmodel.utils.model_dequant import convert_gptq_file
from safetensors.torch import save_file

torch.manual_seed(0)
linear = torch.nn.Linear(32, 32, bias=False)
linear.weight.data[0] = linear.weight.data[0].abs()  # its group's zero point is 0
low, high = linear.weight.data.amin(1).clamp(max=0), linear.weight.data.amax(1).clamp(min=0)
scales = ((high - low) / 15)[:, None]
zeros = (-low[:, None] / scales).round()
layer = TorchLinear(bits=4, group_size=32, sym=False, desc_act=False, in_features=32, out_features=32, bias=False)
layer.pack(linear, scales, zeros, torch.zeros(32, dtype=torch.int32))
layer.eval()
by_layer = layer.dequantize_weight().T.float()
convert_gptq_v2_to_v1_format_module(layer, SimpleNamespace(bits=4, pack_dtype=torch.int32))
path = Path(tempfile.mkdtemp(), "model.safetensors")
save_file({f"m.{n}": getattr(layer, n).contiguous() for n in ("qweight", "qzeros", "scales", "g_idx")}, path)
by_file = convert_gptq_file(path, torch.float32, {"bits": 4, "checkpoint_format": "gptq"}, "cpu")["m.weight"]
apart = (by_layer - by_file).abs().amax(1) > 0.01
print(f"rows that its layer and its dequantizer read differently: {apart.nonzero().flatten().tolist()}")
raise SystemExit(apart.nonzero().flatten().tolist() != [1])
PYTHON
