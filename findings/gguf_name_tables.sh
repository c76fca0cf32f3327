#!/bin/sh
# gguf 0.19.0: asking for the names of one architecture changes the names of another in the same process.
# Needs python3.11 or newer and the network; installs pinned packages into a temporary folder, and none of our code.
# Prints what it sees; the exit code is 1 when that is no longer what is described here.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0
"$work/venv/bin/python" - <<'PYTHON'
import gguf

NORM = "model.layers.0.post_attention_layernorm"
before = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1).get_name(NORM)
gguf.get_tensor_name_map(gguf.MODEL_ARCH.ARCTIC, 1)
after = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1).get_name(NORM)
print(f"Llama's {NORM}: {before} before, {after} after Arctic's table was asked for")
raise SystemExit((before, after) != ("blk.0.ffn_norm", None))
PYTHON
