"""Memory: a planted one is read back, shuffled and absent ones are not, and nothing but the reader is trained."""

from __future__ import annotations

import copy
import math

import families
import pytest
import torch
from small import tiny
from transformers import LlamaConfig

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.interpretability import Study
from superweights.interpretability.hidden_state_inversion.question import PREFIX, investigate
from superweights.interpretability.hidden_state_inversion.reader import Training, prefix_nats, train_reader
from superweights.stream import streaming

pytestmark = pytest.mark.tiny

WORDS, WIDTH = 12, 48


def speaker():
    return tiny(LlamaConfig(vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=4, bos_token_id=0))  # fmt: skip


def planted(n: int = 400, k: int = 2):
    """Prefixes of `k` tokens, and states of three layers of which the middle one spells the prefix."""
    generator = torch.Generator().manual_seed(0)
    prefixes = torch.randint(WORDS, (n, k), generator=generator)
    spelled = torch.nn.functional.one_hot(prefixes, WORDS).float().flatten(1)
    states = torch.randn(n, 3, WIDTH, generator=generator)
    states[:, 1] = spelled @ torch.randn(k * WORDS, WIDTH, generator=generator)
    return states, prefixes


def test_a_planted_memory_is_read_back_and_another_texts_is_not():
    model, (states, prefixes) = speaker(), planted()
    training = Training(steps=250, batch=32, rate=5e-3, copy=True, copy_rate=2e-3)
    trained = train_reader(model, states[:300], prefixes[:300], training)
    known = trained.nats(states[300:], prefixes[300:]).mean().item()
    assert known < 0.5, "it is in the states, and new to the reader"
    assert trained.reader.mix.argmax() == 1, "the pooling finds the layer that knows"
    other = trained.nats(states[300:].roll(1, 0), prefixes[300:]).mean().item()
    assert other > math.log(WORDS)
    nothing = torch.zeros_like(states)
    without = train_reader(model, nothing[:300], prefixes[:300], training)
    assert without.nats(nothing[300:], prefixes[300:]).mean().item() > 0.9 * math.log(WORDS)


@pytest.mark.parametrize("trains_copy", [False, True])
def test_only_the_reader_and_the_copy_are_trained(trains_copy):
    model, (states, prefixes) = speaker(), planted(40)
    before = copy.deepcopy(model.state_dict())
    trained = train_reader(model, states, prefixes, Training(steps=3, batch=8, copy=trains_copy))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert (trained.model is model) != trains_copy
    changed = any(not torch.equal(before[name], value) for name, value in trained.model.state_dict().items())
    assert changed == trains_copy
    assert trained.reader.mix.abs().max() > 0
    assert len(trained.curve) == 3


def test_the_prefix_costs_what_the_models_own_logits_say():
    model, (_, prefixes) = speaker(), planted(5, 4)
    soft = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = prefix_nats(model, soft, prefixes)
        table = model.get_input_embeddings().weight
        for row in range(5):
            inputs = torch.stack([table[0], soft[row], *table[prefixes[row, :3]]])
            logits = model(inputs_embeds=inputs[None]).logits[0, 1:]
            expected = -logits.log_softmax(-1).gather(1, prefixes[row, :, None])[:, 0]
            assert torch.allclose(found[row], expected, atol=1e-5)


def test_training_is_the_same_twice():
    model, (states, prefixes) = speaker(), planted(40)
    one, two = (train_reader(model, states, prefixes, Training(steps=4, batch=8)).curve for _ in range(2))
    assert one == two


def test_the_question_is_answered_beside_both_controls():
    model = families.tiny_model("llama")
    ids = torch.randint(3, families.VOCABULARY, (8, 20), generator=torch.Generator().manual_seed(0))
    found = investigate(Study(model, ids), Training(steps=3, batch=4))
    assert len(found.by_distance) == PREFIX
    assert sum(found.mix) == pytest.approx(1)
    gain = found.unconditional.value - found.given_states.value
    assert found.gain.value == pytest.approx(gain, abs=1e-9)
    assert sum(found.by_distance) / PREFIX == pytest.approx(gain, abs=1e-9)
    assert sum(kind.tokens for kind in found.kinds) >= found.gain.n, "errors are over windows"


def test_short_windows_and_streamed_models_are_refused(tmp_path):
    model = families.tiny_model("llama")
    for shape in ((3, 64), (7, 64), (8, PREFIX + 1)):
        with pytest.raises(SuperweightsError, match="Reading back needs"):
            investigate(Study(model, torch.ones(shape, dtype=torch.long)))
    families.save_tiny("llama", tmp_path)
    with open_checkpoint(tmp_path) as checkpoint, streaming(checkpoint, resident=False) as streamed:
        with pytest.raises(SuperweightsError, match="streamed"):
            investigate(Study(streamed, torch.full((8, 20), 5)))
