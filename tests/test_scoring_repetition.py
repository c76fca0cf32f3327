"""The repetition rate of greedy text: closed forms, transformers' own text, and a model made to repeat itself."""

from __future__ import annotations

import families
import grounds
import pytest
import torch
from small import tiny
from transformers import LlamaConfig

from superweights.checkpoint import open_checkpoint
from superweights.discovery import Findings, Search, find
from superweights.scoring.repetition import greedy_repetition, repetition_rate

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    eos_token_id=None,
)


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [
        (range(20), 0.0),
        ([7] * 20, 16 / 17),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4], 1 / 6),
        ([1, 2, 3], 0.0),
        ([], 0.0),
    ],
)
def test_the_rate_is_the_share_of_runs_of_four_that_occurred_before(tokens, rate):
    assert repetition_rate(list(tokens)) == pytest.approx(rate)


def test_it_is_the_rate_of_what_transformers_writes():
    model, prompts = tiny(CONFIG), torch.arange(24).reshape(3, 8)
    found = greedy_repetition(model, prompts, 40)
    rates = []
    for row in prompts:
        ids = row[None]
        for _ in range(40):  # the likeliest token each time, from logits alone
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        rates.append(repetition_rate(ids[0, 8:].tolist()))
    assert found.value == pytest.approx(sum(rates) / 3)
    assert (found.n, found.unit) == (3, "share")
    assert found.value > 0.3, "random models repeat themselves: a rate that is 0 would say nothing"


def searched(ground, folder):
    families.save_tiny("llama", folder, ground.model)
    with open_checkpoint(str(folder)) as checkpoint:
        return find(checkpoint, Search(greedy=16), token_ids=ground.ids)


def test_a_search_that_is_asked_tells_it_for_each_super_weight_and_reads_it_back(tmp_path):
    found = searched(grounds.planted_together("llama", 0, 1), tmp_path)
    assert found.super_weights, "something was planted"
    assert found.repetition is not None
    assert 0 <= found.repetition.value <= 1
    assert all(weight.repetition is not None for weight in found.super_weights)
    assert all(c.repetition is None for c in found.candidates if not c.matters)
    assert Findings.from_json(found.to_json()) == found
