"""Lab models: built from an architecture and a seed, saved and opened as any other model of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the model type
from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.models.building import build

pytestmark = pytest.mark.tiny


def test_an_architecture_survives_json_and_toml():
    design = Architecture(
        width=96, heads=3, attention="softmax1", tied=True, branch_scale=0.2, placement="op"
    )
    assert Architecture.from_json(design.to_json()) == design
    assert Architecture.from_toml(design.to_toml()) == design


def test_an_unknown_part_is_refused_with_the_known_ones():
    with pytest.raises(
        SuperweightsError, match=r"did you mean softpick\? known attention names: softmax, softmax1"
    ):
        Architecture(attention="softpik")
    with pytest.raises(SuperweightsError, match="no dial 'depth'"):
        Architecture.from_dict({"depth": 3})


def test_the_same_seed_gives_the_same_model_and_another_does_not():
    one, same, other = (build(Architecture(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_saved_model_opens_and_gives_the_same_logits(tmp_path):
    model = build(Architecture(), seed=0).eval()
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    assert torch.equal(opened(tokens).logits, model(tokens).logits)
