"""Scores: against closed forms, against transformers' own loss, and against known answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from small import embedded_model, embedded_tokenizer, tiny
from torch import nn
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
)

import superweights.scoring.predictions as head
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.editing import Edit, edited, zero
from superweights.errors import SuperweightsError
from superweights.scoring import (
    Variant,
    bits_per_byte,
    compare,
    compare_all,
    kl_and_agreement,
    loss_change,
    loss_per_window,
    perplexity,
    perplexity_of,
    token_losses,
)
from superweights.scoring.compare import kl_nats
from superweights.scoring.error import bootstrap, bootstrap_error, mean_error
from superweights.stream import streaming
from superweights.subject.text import cut, read_text, windows

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "wikitext2_test.txt"
SMALL = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def gpt2(**extra) -> nn.Module:
    return tiny(GPT2Config(vocab_size=97, n_positions=64, n_embd=16, n_layer=2, n_head=2, **extra))


def gemma2() -> nn.Module:
    """Its logits are capped after the head: a softcap so tight that forgetting it changes every loss."""
    return tiny(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.05))


MODELS = [
    pytest.param(lambda: tiny(LlamaConfig(**SMALL)), id="llama"),
    pytest.param(lambda: tiny(LlamaConfig(**SMALL, tie_word_embeddings=True)), id="tied"),
    pytest.param(gpt2, id="gpt2"),
    pytest.param(gemma2, id="softcap"),
    pytest.param(lambda: tiny(MixtralConfig(**SMALL, num_local_experts=4)), id="experts"),
]


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(97, (5, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def their_losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """transformers' own loss, row by row."""
    return torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in ids]).double()


@pytest.mark.tiny
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_losses_equal_those_of_transformers_however_they_are_cut(make, batch_size, piece, ids, monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 97 * piece)
    model = make()
    ours = loss_per_window(model, ids, batch_size=batch_size)
    torch.testing.assert_close(ours, their_losses(model, ids), rtol=1e-6, atol=1e-6)


@pytest.mark.tiny
@pytest.mark.parametrize("make", MODELS)
def test_logits_made_in_pieces_take_the_short_way_and_equal_the_whole(make, ids):
    model = make()
    at = torch.tensor([0, 0, 3, 4]), torch.tensor([0, 19, 7, 1])
    predictions = head.Predictions(Variant(model), ids, at)
    assert predictions._hidden is not None, "the hidden states were not caught"
    with torch.no_grad():
        whole = model(ids).logits[at]
    torch.testing.assert_close(predictions.logits(slice(0, 4)), whole, rtol=1e-6, atol=1e-6)


class Twisted(nn.Module):
    """A model whose logits depend on more than one position's hidden state: no piece can stand alone."""

    base_model_prefix = "model"

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.model, self.lm_head, self.config = inner.model, inner.lm_head, inner.config

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def forward(self, input_ids, use_cache=False, logits_to_keep=0):
        output = self.model(input_ids=input_ids, use_cache=use_cache)
        logits = self.lm_head(output.last_hidden_state).cumsum(1)
        return type("Output", (), {"logits": logits[:, -logits_to_keep:] if logits_to_keep else logits})


class Plain(Twisted):
    """A model that cannot be asked for few logits."""

    def forward(self, input_ids, use_cache=False):
        return Twisted.forward(self, input_ids)


@pytest.mark.tiny
@pytest.mark.parametrize("kind", [Twisted, Plain])
def test_a_model_whose_logits_cannot_be_made_in_pieces_is_run_row_by_row(kind, ids, monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 97 * 7)
    model = kind(tiny(LlamaConfig(**SMALL))).eval()
    with torch.no_grad():
        logits = model(ids).logits
    wanted = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(token_losses(model, ids, batch_size=2), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.tiny
def test_scoring_leaves_the_model_as_it_was(ids):
    model = tiny(LlamaConfig(**SMALL))
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    with torch.no_grad():
        logits = model(ids).logits
    token_losses(model, ids)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)


@pytest.mark.tiny
def test_uniform_logits_cost_the_logarithm_of_the_vocabulary(ids):
    model = tiny(LlamaConfig(**SMALL))
    model.lm_head.weight.data.zero_()
    score = perplexity(model, ids)
    assert score.value == pytest.approx(97, rel=1e-6)
    assert score.standard_error == pytest.approx(0, abs=1e-6)
    assert score.n == len(ids)


@pytest.mark.tiny
def test_losses_of_half_precision_models_are_taken_in_float32(ids):
    model = tiny(LlamaConfig(**SMALL)).bfloat16()
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[3] = 1e4
    losses = token_losses(model, ids)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()


@pytest.mark.tiny
def test_progress_counts_windows(ids):
    seen = []
    token_losses(tiny(LlamaConfig(**SMALL)), ids, batch_size=2, progress=lambda _, *done: seen.append(done))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.tiny
def test_overlapping_windows_that_skip_what_was_scored_score_each_token_once():
    model = tiny(LlamaConfig(**SMALL))
    row = torch.randint(97, (44,), generator=torch.Generator().manual_seed(2))
    overlapping = cut(row, 20, stride=8)
    losses = token_losses(model, overlapping)
    assert loss_per_window(model, overlapping, first=12).tolist() == pytest.approx(
        losses[:, 11:].double().mean(1).tolist()
    )


@pytest.mark.tiny
def test_a_comparison_can_leave_the_beginning_of_each_window_out(ids):
    model, other = tiny(LlamaConfig(**SMALL)), tiny(LlamaConfig(**SMALL)).bfloat16()
    found = compare(model, other, ids, first=12)
    assert found.base_losses == pytest.approx(token_losses(model, ids)[:, 11:].mean(1).tolist(), rel=1e-6)
    assert found.other_losses == pytest.approx(token_losses(other, ids)[:, 11:].mean(1).tolist(), rel=1e-6)
    for first in (0, 20):
        with pytest.raises(SuperweightsError, match="leaves nothing"):
            compare(model, other, ids, first=first)


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (torch.full((2, 8), 97), "97"),
        (torch.full((2, 8), -1), "token"),
        (torch.zeros(2, 1, dtype=torch.long), "2 or more"),
        pytest.param(torch.zeros(8, dtype=torch.long), "shape", marks=pytest.mark.misshapen),
        (torch.zeros(0, 8, dtype=torch.long), "shape"),
        (torch.zeros(1, 65, dtype=torch.long), "at most 64"),
    ],
)
def test_windows_that_the_model_cannot_read_are_refused(wrong, word):
    with pytest.raises(SuperweightsError, match=word):
        token_losses(gpt2(), wrong)


@pytest.mark.tiny
def test_the_comparison_of_a_model_with_itself_is_nought(ids):
    model = tiny(LlamaConfig(**SMALL))
    found = compare(model, model, ids)
    assert found.base == found.other
    assert (found.loss.value, found.kl.value, found.agreement.value) == (0, 0, 1)


@pytest.mark.tiny
@pytest.mark.parametrize("make", MODELS)
def test_the_comparison_equals_the_plain_computation_on_whole_logits(make, ids, monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 97 * 7)
    model = make()
    name = next(n for n, p in model.named_parameters() if "norm" in n or "ln_" in n)
    edit = Edit(Address(name, (3,)), value=30)
    with torch.no_grad():
        log_p = model(ids).logits[:, :-1].double().log_softmax(-1)
        with edited(model, edit):
            log_q = model(ids).logits[:, :-1].double().log_softmax(-1)
            after = their_losses(model, ids)
    found = compare(model, Variant(model, lambda: edited(model, edit)), ids, batch_size=2)
    kl = nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    assert found.kl.value == pytest.approx(kl.mean().item(), rel=1e-4)
    assert found.kl.value > 1e-6
    assert found.agreement.value == pytest.approx(
        (log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item(),
        abs=2.1 / 95,  # near ties
    )
    change = after - their_losses(model, ids)
    assert found.loss.value == pytest.approx(change.mean().item(), abs=1e-6)
    assert found.loss.standard_error == pytest.approx(change.std().item() / math.sqrt(5), rel=1e-3)
    assert found.other.value == pytest.approx(after.mean().exp().item(), rel=1e-5)
    assert kl_and_agreement(model, Variant(model, lambda: edited(model, edit)), ids)[0].unit == "nats/token"


@pytest.mark.tiny
def test_a_streamed_model_scores_as_the_whole_one_edited_or_not(ids, tmp_path):
    whole = tiny(LlamaConfig(**SMALL))
    whole.save_pretrained(tmp_path)
    edits = [Edit(Address("model.layers.1.mlp.down_proj.weight", (3, 5)), value=9)]
    wanted = compare(whole, Variant(whole, lambda: edited(whole, edits)), ids)
    with (
        open_checkpoint(tmp_path) as checkpoint,
        streaming(checkpoint, device="cpu", resident=False) as model,
    ):
        assert model.get_parameter("model.layers.1.mlp.down_proj.weight").is_meta
        assert compare(model, Variant(model, lambda: edited(model, edits)), ids) == wanted
        with edited(model, edits) as changes:
            assert perplexity(model, ids) == wanted.other
        assert [change.after for change in changes] == [9]
    assert wanted.loss.value != 0


@pytest.mark.tiny
def test_many_variants_are_compared_with_one_pass_of_the_base(ids):
    model = tiny(LlamaConfig(**SMALL))
    runs = []
    model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    changes = [[Edit(Address("model.norm.weight", (i,)), value=9)] for i in range(3)]
    variants = [Variant(model, lambda edits=edits: edited(model, edits)) for edits in changes]
    together = compare_all(model, variants, ids, batch_size=5)
    assert len(runs) == 4
    assert together == [compare(model, variant, ids) for variant in variants]


@pytest.mark.tiny
def test_an_edit_of_the_head_itself_is_seen(ids):
    model = tiny(LlamaConfig(**SMALL))
    edits = zero([Address("lm_head.weight", (5, i)) for i in range(16)])
    with edited(model, edits):
        wanted = their_losses(model, ids).mean().exp().item()
    found = compare(model, Variant(model, lambda: edited(model, edits)), ids)
    assert found.other.value == pytest.approx(wanted, rel=1e-6) != found.base.value


@pytest.mark.unit
def test_kl_of_nearly_equal_distributions_is_positive_and_right():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5000, generator=generator)
    other = logits + 1e-4 * torch.randn(64, 5000, generator=generator)
    exact = nn.functional.kl_div(
        other.double().log_softmax(-1), logits.double().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    ours = kl_nats(logits.log_softmax(-1), other.log_softmax(-1))
    assert ours.min() > 0
    torch.testing.assert_close(ours.double(), exact, rtol=0.02, atol=0)


@pytest.mark.unit
def test_the_first_choice_is_torchs_and_of_several_alike_the_first():
    logits = torch.randn(3, 7, 500)
    assert torch.equal(head.first_choices(logits), logits.argmax(-1))
    assert torch.equal(head.first_choices(logits.bfloat16()), logits.bfloat16().argmax(-1))
    assert head.first_choices(torch.tensor([[1.0, 2.0, 2.0]])).tolist() == [1]


def test_the_bootstrap_of_a_mean_is_the_textbook_error():
    values = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 10
    textbook = (values.var() / 24).sqrt().item()
    assert mean_error(values) == pytest.approx(textbook)
    ours = bootstrap_error(values[:, None], lambda means: means[:, 0])
    assert ours == pytest.approx(textbook, rel=4 / math.sqrt(2 * 2000))


@pytest.mark.unit
def test_the_error_of_a_perplexity_follows_the_delta_method_for_many_windows():
    means = 3 + 0.5 * torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = perplexity_of(means)
    delta = means.mean().exp().item() * means.std().item() / math.sqrt(1000)
    assert score.standard_error == pytest.approx(delta, rel=4 / math.sqrt(2 * 2000))
    assert perplexity_of(means) == score, "the resamples are seeded"


@pytest.mark.unit
def test_resamples_beyond_one_chunk_are_all_drawn():
    values = torch.ones(5000, 1)
    assert bootstrap(values, lambda means: means[:, 0]).shape == (2000,)


@pytest.mark.unit
def test_one_window_has_no_error():
    assert perplexity_of(torch.tensor([2.0])).standard_error is None
    assert loss_change(torch.tensor([2.0]), torch.tensor([3.0])).standard_error is None


@pytest.mark.unit
@pytest.mark.misshapen
def test_losses_of_different_windows_cannot_be_paired():
    with pytest.raises(SuperweightsError, match="paired"):
        loss_change(torch.zeros(3), torch.zeros(4))


@pytest.mark.unit
def test_one_bit_for_each_byte_is_one_bit_per_byte():
    nbytes = torch.tensor([[9, 1, 2, 3], [9, 4, 0, 2]])
    score = bits_per_byte(nbytes[:, 1:] * math.log(2), nbytes)
    assert score.value == pytest.approx(1)
    assert score.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.real
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/wikitext2_test.txt")
def test_the_super_weight_costs_what_is_known():
    """Two of the 24 windows of docs/test.md, to be short; transformers' own loss agrees on the first."""
    model, tokenizer = embedded_model(), embedded_tokenizer()
    first = windows(tokenizer, read_text(SHARED), 512, count=2)
    base = loss_per_window(model, first)
    assert base[:1].tolist() == pytest.approx(their_losses(model, first[:1]).tolist(), rel=1e-5)
    assert perplexity_of(base).value == pytest.approx(20.4646, abs=2e-3)
    with edited(model, Edit.parse("model.layers.11.mlp.down_proj.weight[507, 1229]=0")):
        broken = loss_per_window(model, first)
    assert perplexity_of(broken).value == pytest.approx(102.376, abs=1e-2)
    assert loss_change(base, broken).value > 5 * loss_change(base, broken).standard_error
