#!/bin/sh
# transformers 5.23.0: a BltForCausalLM cannot be called as other models are. model(ids) makes a cache, which asks the
# config for a number of layers that it has not; model(ids, use_cache=False) runs.
# Needs python3.11 or newer and the network; installs pinned packages into a temporary folder, and none of our code.
# Prints what it sees; the exit code is 1 when that is no longer what is described here.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from transformers import BltConfig, BltForCausalLM

width = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1}
local = {**width, "hidden_size": 32, "vocab_size": 260}
crossed = {**local, "cross_attn_k": 2, "hidden_size_global": 48}
config = BltConfig(
    vocab_size=260,
    cross_attn_k=2,
    encoder_hash_byte_group_vocab=64,
    encoder_hash_byte_group_size=[3, 4],
    patcher_config=local,
    encoder_config=crossed,
    decoder_config=crossed,
    global_config={**width, "hidden_size": 48},
)
model, ids = BltForCausalLM(config).eval(), torch.arange(10, 34)[None]


def called(**how):
    try:
        return f"logits {tuple(model(ids, **how).logits.shape)}"
    except AttributeError as error:
        return f"AttributeError: {error}"


seen = called(), called(use_cache=False)
print("model(ids):", seen[0])
print("model(ids, use_cache=False):", seen[1])
raise SystemExit(seen != ("AttributeError: 'BltConfig' object has no attribute 'num_hidden_layers'", "logits (1, 24, 260)"))
PYTHON
