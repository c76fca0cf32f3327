"""Byte Latent Transformer: boundaries, hashes and logits against the published ones and transformers' own."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, BltConfig, BltForCausalLM

from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.alphabet import BOE, VOCABULARY, decode, encode
from superweights.lab.byte_latent.config import ByteLatentConfig
from superweights.lab.byte_latent.entropy import EntropyModel
from superweights.lab.byte_latent.hashing import ngram_places
from superweights.lab.byte_latent.layers import by_windows, local_mask
from superweights.lab.byte_latent.measuring import bits_per_byte, boundary_f1, multiplications_per_byte
from superweights.lab.byte_latent.patching import Patches, Patching, from_lengths, lengths, threshold_for

pytestmark = pytest.mark.tiny

# The two rows of the known answers: entropies in nats, made with the official functions.
E = torch.tensor(
    [
        [3.0, 0.5, 2.5, 0.4, 0.3, 1.9, 2.2, 0.1, 0.2, 1.6],
        [3.0, 0.2, 0.2, 0.2, 0.2, 0.2, 2.0, 0.2, 0.2, 0.2],
    ]
)
TEN = torch.full((2, 10), 70)


def sizes(mode: str = "entropy", window: int | None = 512, **more) -> dict:
    local = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    cross = {"cross_attn_k": 2, "hidden_size_global": 48}
    return {
        "patching_mode": mode,
        "patching_threshold": 5.4,
        "local_attention_window_len": window,
        "encoder_hash_byte_group_size": [3, 4],
        "encoder_hash_byte_group_vocab": 64,
        "patcher_config": {**local, "num_hidden_layers": 1},
        "encoder_config": {**local, **cross, "num_hidden_layers": 2, "cross_attn_all_layers": True},
        "decoder_config": {**local, **cross, "num_hidden_layers": 2},
        "global_config": {
            "hidden_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 64,
        },
        **more,
    }


def built(**more) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ByteLatentConfig(**sizes(**more))).eval()
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return built()


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def where(starts: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in starts]


@pytest.mark.parametrize(
    ("rule", "first", "second", "following"),
    [
        (Patching("entropy", 1.5), [0, 1, 3, 6, 7, 10], [0, 1, 7], [[1, 2, 3, 1, 3, 1], [1, 6, 4, 0, 0, 0]]),
        (
            Patching("monotonic", rise=1.0, released=True),
            [0, 1, 2, 3, 6, 10],
            [0, 1, 2, 7],
            [[1, 1, 1, 3, 4, 1], [1, 1, 5, 4, 0, 0]],
        ),
        (
            Patching("both", 1.5, 0.5, released=True),
            [0, 1, 2, 6, 10],
            [0, 1, 2, 7],
            [[1, 1, 4, 4, 1], [1, 1, 5, 4, 0]],
        ),
        (Patching("monotonic", rise=1.0), [0, 1, 3, 6, 10], [0, 1, 7], [[1, 2, 3, 4, 1], [1, 6, 4, 0, 0]]),
    ],
)
def test_boundaries_are_the_published_ones(rule, first, second, following):
    starts = rule.starts(TEN, E)
    assert where(starts) == [first, second]
    assert lengths(starts).tolist() == following
    assert torch.equal(from_lengths(lengths(starts), 10), starts)


def test_lengths_without_the_byte_that_follows_sum_to_the_row():
    starts = Patching("entropy", 1.5).starts(TEN, E)
    assert lengths(starts, following=False).tolist() == [[1, 2, 3, 1, 3], [1, 6, 3, 0, 0]]


def test_each_byte_knows_its_patch_and_the_one_it_may_read():
    patches = Patches.of(Patching("entropy", 1.5).starts(TEN, E))
    assert patches.inside[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert patches.read[0].tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3, 4]


def test_spaces_end_patches_as_published():
    assert where(Patching("space").starts(encode("The cat, sat. on")[None])) == [[0, 1, 4, 8, 13]]


def test_a_low_threshold_gives_bytes_and_a_high_one_a_single_patch():
    assert bool(Patching("entropy", 0.0).starts(TEN, E).all())
    assert where(Patching("entropy", math.inf).starts(TEN, E)) == [[0, 1], [0, 1]]


def test_a_threshold_that_makes_one_patch_of_everything_is_told_before_training():
    model, ids = built(mode="entropy", patching_threshold=99.0, patch_in_forward=True), rows(2, 40)
    assert bool(torch.isfinite(model.eval()(ids).logits).all())  # reading does no harm
    with pytest.raises(SuperweightsError, match="One patch holds all but the first of 40 bytes") as told:
        model.train()(ids, labels=ids)
    assert "threshold_for" in told.value.hint
    model(ids[:, :20], labels=ids[:, :20])  # a word


def test_long_patches_are_cut_from_the_left():
    assert where(Patching("entropy", math.inf, longest=4).starts(TEN, E))[0] == [0, 1, 5, 9]


@pytest.mark.parametrize("rule", ["entropy", "monotonic", "both", "space", "static", "byte"])
@settings(max_examples=25, deadline=None)
@given(data=st.binary(min_size=2, max_size=40), cut=st.integers(1, 39))
def test_what_comes_later_moves_no_boundary(rule, data, cut):
    """And lengths are positive, and sum to one more than the bytes."""
    ids = encode(data)[None]
    e = torch.rand(1, 64, generator=torch.Generator().manual_seed(len(data)))[:, : ids.shape[1]] * 3
    patching = Patching(rule, 1.5, 0.5, stride=3, longest=7)
    whole = patching.starts(ids, e)
    part = patching.starts(ids[:, :cut], e[:, :cut])
    assert torch.equal(whole[:, : part.shape[1]], part)
    assert int(lengths(whole).sum()) == ids.shape[1] + 1
    assert int(lengths(whole).min()) > 0


def test_a_threshold_for_a_size_gives_that_size():
    e = torch.rand(20, 512, generator=torch.Generator().manual_seed(0))
    starts = Patching("entropy", threshold_for(e, 4.5)).starts(torch.full((20, 512), 70), e)
    assert 512 / float(starts[:, :-1].sum(1).float().mean()) == pytest.approx(4.5, rel=0.02)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (3, [324997, 462189, 402282, 413822, 462292, 402282]),
        (4, [340779, 102969, 80858, 243059, 191794, 80961]),
        (8, [138997, 125661, 493652, 354081, 185057, 444244]),
    ],
)
def test_hashes_are_the_published_ones(size, expected):
    assert ngram_places(encode("abcabc")[None], [3, 4, 8], 500_002)[[3, 4, 8].index(size)].tolist() == [
        expected
    ]


@given(st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_bytes_come_back_whether_or_not_they_are_text(data):
    assert decode(encode(data, bos=True)) == data


def test_text_comes_back_with_emoji_and_nul():
    text = "naïve 😀\0 \u202e"
    assert decode(encode(text)).decode() == text
    assert decode([BOE, 259, 4]) == b"\xff\0"


@pytest.mark.parametrize("window", [512, 8])
@pytest.mark.parametrize("all_layers", [True, False])
def test_logits_are_those_of_transformers_from_the_same_weights(window, all_layers):
    given = sizes(window=window)
    given["encoder_config"]["cross_attn_all_layers"] = all_layers
    theirs = BltForCausalLM(BltConfig(**given)).eval()
    ours = AutoModelForCausalLM.from_config(ByteLatentConfig(**given)).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = rows(3, 37)
    e, _, _ = theirs.model.patcher(ids)
    starts = Patching("entropy", float(e.median())).starts(ids, e)
    with torch.no_grad():
        expected = theirs(ids, patch_lengths=lengths(starts), use_cache=False).logits
        assert torch.allclose(ours.model.patcher.entropies(ids), e, atol=1e-5)
        assert torch.allclose(ours(ids, starts=starts).logits, expected, atol=1e-5)
        assert torch.allclose(ours(ids, patch_lengths=lengths(starts)).logits, expected, atol=1e-5)


def test_gradients_are_those_of_transformers():
    given = sizes()
    theirs = BltForCausalLM(BltConfig(**given))
    ours = AutoModelForCausalLM.from_config(ByteLatentConfig(**given))
    ours.load_state_dict(theirs.state_dict())
    ids = rows(2, 24)
    starts = Patching("static", stride=4).starts(ids)
    theirs(ids, patch_lengths=lengths(starts), labels=ids, use_cache=False).loss.backward()
    ours(ids, starts=starts, labels=ids).loss.backward()
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()  # released patches are pooled anew: only the last layer's count
    for name, grad in expected.items():
        assert torch.allclose(found[name], grad, atol=1e-5), name


def test_windows_say_what_a_mask_over_all_pairs_says():
    q, k, v = (torch.randn(2, 21, 3, 8) for _ in range(3))
    mask = local_mask(21, 5, q)
    whole = nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask
    )
    assert torch.allclose(by_windows(q, k, v, 5), whole.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_shared_keys_and_short_windows_read_as_transformers_does(training):
    """Two queries for each key, rows longer than the window: in training by blocks, else by windows."""
    given = sizes(window=8)
    for stack in ("encoder_config", "decoder_config"):
        given[stack]["num_key_value_heads"] = 1
    theirs = BltForCausalLM(BltConfig(**given)).eval()
    ours = AutoModelForCausalLM.from_config(ByteLatentConfig(**given)).train(training)
    ours.load_state_dict(theirs.state_dict())
    ids = rows(2, 37)
    starts = Patching("static", stride=4).starts(ids)
    with torch.no_grad():
        expected = theirs(ids, patch_lengths=lengths(starts), use_cache=False).logits
        assert torch.allclose(ours(ids, starts=starts).logits, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["entropy", "space"])
def test_a_row_does_not_depend_on_its_neighbours(mode):
    model, ids = built(mode=mode), rows(4, 40)
    with torch.no_grad():
        model.config.patching_threshold = (
            float(model.model.patcher.entropies(ids).median()) if model.model.patcher else 0.0
        )
        together = model(ids).logits
        starts = model.model.starts(ids)
        for row in range(4):
            assert torch.equal(model.model.starts(ids[row : row + 1])[0], starts[row])
            assert torch.allclose(model(ids[row : row + 1]).logits[0], together[row], atol=1e-5)
    assert len({int(n) for n in starts.sum(1)}) > 1, "rows with unlike numbers of patches are what is tested"


def test_later_bytes_change_nothing_before_them_with_boundaries_found_again(model):
    ids = rows(1, 30)
    other = ids.clone()
    other[0, 20:] = rows(10, seed=5)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits[:, :20], model(other).logits[:, :20], atol=1e-5)


def test_padding_on_the_right_is_never_seen(model):
    ids = rows(1, 17)
    padded = nn.functional.pad(ids, (0, 6))
    with torch.no_grad():
        assert torch.allclose(model(padded).logits[:, :17], model(ids).logits, atol=1e-5)
    with pytest.raises(SuperweightsError, match="padding on the left"):
        model(padded, attention_mask=torch.tensor([[0] * 6 + [1] * 17]))


def test_after_a_reset_the_entropies_do_not_know_what_came_before(model):
    newline = int(encode("\n")[0])
    line = rows(9, seed=3)
    line[line == newline] = 50
    end = torch.tensor([newline])
    one = torch.cat([rows(6, seed=1), end, line])[None]
    two = torch.cat([rows(11, seed=2), end, line])[None]
    patcher: EntropyModel = model.model.patcher
    reset = [patcher.entropies(text, newline)[0, -9:] for text in (one, two)]
    free = [patcher.entropies(text)[0, -9:] for text in (one, two)]
    assert torch.allclose(*reset, atol=1e-5)
    assert not torch.allclose(*free, atol=1e-3)


@pytest.mark.parametrize("flag", ["cross_attention_residual", "ngram_sum", "ngram_start", "encoder_patches"])
def test_each_variant_of_the_paper_changes_the_function(model, flag):
    other = built(**{flag: "paper"})
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(other(rows(1, 20)).logits, model(rows(1, 20)).logits, atol=1e-3)


def test_the_released_residual_is_two_of_the_papers_inputs_and_the_same_output(model):
    """With an output projection of zeros a released cross-attention doubles its input, the paper's leaves it."""
    paper = built(cross_attention_residual="paper")
    for each in (model, paper):
        cross = each.model.local_decoder.cross_attn_layers[0]
        x, patches, read = torch.randn(1, 5, 32), torch.randn(1, 2, 2, 32), torch.zeros(1, 5).long()
        before = cross.o_proj.weight.detach().clone()
        nn.init.zeros_(cross.o_proj.weight)
        factor = 1.0 if each is model else 0.0
        assert torch.equal(cross(x, patches, read), factor * x)
        cross.o_proj.weight.data.copy_(before)


def test_a_uniform_model_has_log2_of_the_ids():
    assert bits_per_byte(lambda ids: torch.zeros(*ids.shape, 260), rows(3, 20)) == pytest.approx(
        math.log2(260)
    )


def test_special_ids_are_read_and_not_scored():
    ids = encode("ab", bos=True)[None].repeat(1, 3)
    sure = nn.functional.one_hot(ids.roll(-1, 1), 260) * 1000.0
    assert bits_per_byte(lambda _: sure, ids) == pytest.approx(0.0)


def test_longer_patches_cost_less_in_the_latent_transformer_alone(model):
    short, long = (multiplications_per_byte(model, 512, patch) for patch in (4.0, 8.0))
    assert long.latent < short.latent / 1.9
    assert long.local > 0.9 * short.local


def test_boundary_f1_is_one_for_the_same_and_zero_for_others():
    starts = Patching("entropy", 1.5).starts(TEN, E)
    assert boundary_f1(starts, starts) == 1.0
    assert boundary_f1(Patching("entropy", math.inf).starts(TEN, E), starts) == 0.0


def test_a_saved_model_opens_again_and_generates_what_reading_says(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = rows(1, 12)
    assert torch.equal(again(ids).logits, model(ids).logits)
    made = again.generate(ids, max_new_tokens=3, do_sample=False)
    for n in (12, 13, 14):
        assert int(made[0, n]) == int(model(made[:, :n]).logits[0, -1].argmax())


def test_find_reads_a_saved_model_with_a_planted_weight(model, tmp_path):
    import superweights
    from superweights.discovery import Search
    from superweights.subject.reading import raw_prompts

    planted = built(mode="static", patching_threshold=None)
    mlp = planted.model.global_transformer.layers[0].mlp
    seen: list[torch.Tensor] = []
    hook = mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    planted(raw_prompts(260, 8, 12))
    hook.remove()
    neuron = int(seen[0].detach().abs().amax((0, 1)).argmax())
    mlp.down_proj.weight.data[17, neuron] = 3000.0
    planted.save_pretrained(tmp_path)
    found = superweights.find(str(tmp_path), Search(windows=0))
    address = f"model.global_transformer.layers.0.mlp.down_proj.weight[17, {neuron}]"
    assert address in [str(weight.address) for weight in found.candidates]


def test_all_stacks_are_matrices_to_round(model, tmp_path):
    from superweights.checkpoint import open_checkpoint
    from superweights.stream.linears import linear_tensors

    model.save_pretrained(tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        names = linear_tensors(checkpoint)
    for stack in ("local_encoder", "global_transformer", "local_decoder"):
        assert any(f"{stack}.layers.0.mlp.down_proj.weight" in name for name in names)
    assert not any("embed" in name for name in names)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Patching("words"), "no rule 'words'"),
        (lambda: Patching("static", stride=0), "Patches of 0 bytes"),
        (lambda: Patching("byte").starts(torch.empty(1, 0).long()), "empty text has no patches"),
        (lambda: Patching("entropy").starts(TEN), "needs entropies"),
        (lambda: ByteLatentConfig(ngram_sum="mean"), "ngram_sum is 'mean'"),
        (lambda: threshold_for(E, 100.0), "No threshold makes patches of 100 bytes"),
        (lambda: built(patch_in_forward=False)(TEN), "no entropy model"),
    ],
)
def test_what_makes_no_patches_is_refused(wrong, said):
    with pytest.raises(SuperweightsError, match=said):
        wrong()


def test_transformers_can_be_imported_after_us_in_any_order(tmp_path):
    """Our config is a class of transformers' own, whose module must not be needed while its table is made."""
    code = "import superweights; from transformers.models.auto.modeling_auto import AutoModelForCausalLM as A; print(A)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-500:]
