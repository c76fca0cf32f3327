"""Singular values turned: the closed forms, the base given back bit for bit, and what may be turned at all."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import families
import pytest
import torch
from letters import saved_speaker, speaking_llama
from small import tiny
from transformers import GPT2Config

from superweights.adaptation import (
    Expert,
    Singular,
    combined,
    decompose,
    decompose_streamed,
    decompositions,
    load_expert,
    load_experts,
    matrices_of,
    random_like,
    save_expert,
    shuffled,
    turned,
)
from superweights.adaptation.applying import is_whole
from superweights.adaptation.cache import cache_folder, remembered
from superweights.adaptation.learners import worth_composing
from superweights.adaptation.matrices import weight_of
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.stream import streaming

pytestmark = pytest.mark.tiny

IDS = torch.randint(96, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return speaking_llama()


@pytest.fixture(scope="module")
def factors(model, tmp_path_factory):
    return decompositions(model, matrices_of(model, "both"), folder=tmp_path_factory.mktemp("singular"))


def drawn(factors, spread=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {path: 1 + spread * torch.randn(len(each), generator=generator) for path, each in factors.items()}


def test_z_of_one_is_the_base_bit_for_bit(model, factors):
    base = model(IDS).logits
    with turned(model, factors, {path: torch.ones(len(each)) for path, each in factors.items()}) as composed:
        assert torch.equal(model(IDS).logits, base)
        assert not composed


def test_z_near_one_is_the_base_to_1e_5_where_it_is_composed(model, factors):
    base = model(IDS).logits
    z = {
        path: torch.ones(len(each)).index_fill_(0, torch.tensor([0]), 1 + 1e-7)
        for path, each in factors.items()
    }
    with turned(model, factors, z) as composed:
        assert len(composed) == len(factors)
        assert (model(IDS).logits - base).abs().max() < 1e-5


def test_turning_is_multiplying_singular_values_by_torch_svd(model, factors):
    path, z = "model.layers.0.mlp.down_proj", drawn(factors)
    weight = model.get_submodule(path).weight.detach()
    U, sigma, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    with turned(model, factors, {path: z[path]}):
        found = model.get_submodule(path).weight.detach().double()
    assert torch.allclose(found, U @ torch.diag(sigma * z[path]) @ Vh, atol=1e-6)


def test_the_base_is_back_bit_for_bit_even_when_the_body_raises(model, factors):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError), turned(model, factors, drawn(factors)):
        raise ZeroDivisionError
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert pointers == {name: p.data_ptr() for name, p in model.named_parameters()}


@pytest.fixture(params=["beside", "in its place", "composed"])
def way(request, monkeypatch):
    """Each way of learning, as the number of tokens that leads to it."""
    if request.param == "beside":
        monkeypatch.setattr("superweights.adaptation.learners.is_whole", lambda module, factors: False)
    return 10**9 if request.param == "composed" else 1


def test_the_gradient_of_z_is_sigma_u_g_v(model, factors, way):
    learner, tokens = Singular(model, factors, drawn(factors)), way
    with turned(model, factors, {path: z.detach() for path, z in learner.parameters.items()}):
        model.zero_grad(set_to_none=True)
        model(IDS).logits.square().mean().backward()
        gradients = {path: model.get_submodule(path).weight.grad.clone() for path in factors}
        model.zero_grad(set_to_none=True)
    with learner.learning(tokens):
        model(IDS).logits.square().mean().backward()
    model.zero_grad(set_to_none=True)
    for path, held in factors.items():
        U, sigma, Vh = held.U.double(), held.sigma.double(), held.Vh.double()
        wanted = torch.stack(
            [s * u @ gradients[path].double() @ v for u, s, v in zip(U.T, sigma, Vh, strict=True)]
        )
        assert torch.allclose(learner.parameters[path].grad.double(), wanted, rtol=1e-3, atol=1e-6), path


def test_learning_leaves_the_model_and_its_gradients_as_they_were(model, factors, way):
    parameter = model.get_submodule("model.layers.0.mlp.up_proj").weight
    parameter.grad = torch.full_like(parameter, 2.0)
    before, base = parameter.detach().clone(), model(IDS).logits
    with Singular(model, factors, drawn(factors)).learning(way):
        assert not torch.equal(model(IDS).logits, base)
    assert torch.equal(parameter, before)
    assert torch.equal(model(IDS).logits, base)
    assert not any("forward" in vars(module) for module in model.modules())
    assert bool((parameter.grad == 2.0).all())
    assert parameter.requires_grad
    parameter.grad = None


def test_every_way_of_learning_is_the_function_of_the_turned_weights(model, factors, way):
    learner = Singular(model, factors, drawn(factors))
    with learner.on(), torch.no_grad():
        turned_logits = model(IDS).logits
    with learner.learning(way):
        assert (model(IDS).logits - turned_logits).abs().max() < 2e-6


def test_factors_that_leave_something_out_are_never_put_in_the_layer_s_place(model, factors):
    path = next(iter(factors))
    module, held = model.get_submodule(path), factors[path]
    assert is_whole(module, held)
    assert not is_whole(module, decompose(module.weight, rank=len(held) - 1))
    assert not is_whole(copy.deepcopy(module).to(torch.bfloat16), held)


@pytest.mark.parametrize("whole", [False, True])
def test_composing_is_worth_it_from_the_token_on_where_the_counts_cross(factors, whole):
    held = factors["model.layers.0.mlp.down_proj"]
    k, m, n = len(held), *weight_shape(held)
    t = worth_composing(held, whole)
    saved = m * n if whole else 0
    assert math.isclose(2 * k * m * n + m * n * t, 2 * (k * (m + n) - saved) * t)


def weight_shape(held):
    return len(held.U), held.Vh.shape[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox", "phi3", "opt", "qwen3_next"])
def test_attention_and_mlp_are_told_apart_without_names(family):
    model = families.tiny_model(family)
    found = {part: {m.path for m in matrices_of(model, part)} for part in ("attention", "mlp")}
    assert not found["attention"] & found["mlp"]
    inside = [p for p in found["attention"] if "attn" in p or "attention" in p]
    assert len(inside) == len(found["attention"])
    assert not [p for p in found["mlp"] if "attn" in p or "attention" in p]


def test_conv1d_is_turned_as_the_matrix_it_multiplies_with(tmp_path):
    model = tiny(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    (matrix,) = [m for m in matrices_of(model, "mlp", [0]) if m.path.endswith("c_fc")]
    held = decompositions(model, [matrix], folder=tmp_path)
    assert matrix.transposed
    assert matrix.shape == (256, 64)
    z = drawn(held)
    with turned(model, held, z):
        found = model.get_submodule(matrix.path).weight.detach().T.clone()
    assert torch.allclose(found, weight_of(model, matrix) + held[matrix.path].delta(z[matrix.path]))
    learner = Singular(model, held, z)
    got = []
    for tokens in (1, 10**9):
        learner.parameters[matrix.path].grad = None
        with learner.learning(tokens):
            model(IDS).logits.square().mean().backward()
        got.append(learner.parameters[matrix.path].grad.clone())
    assert torch.allclose(*got, rtol=1e-3, atol=1e-6)


def test_factors_are_read_again_from_the_cache_and_never_another_matrix_s(tmp_path, monkeypatch):
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    made = remembered(weight, None, tmp_path, "w")
    monkeypatch.setattr("superweights.adaptation.cache.decompose", lambda *a, **k: pytest.fail("made again"))
    again = remembered(weight, None, tmp_path, "w")
    assert torch.equal(made.U, again.U)
    assert (made.error, made.energy, made.method) == (again.error, again.energy, again.method)
    monkeypatch.undo()
    changed = weight.clone()
    changed[11, 7] += 1e-6
    assert not torch.equal(remembered(changed, None, tmp_path, "w").sigma, made.sigma)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cut_file_of_the_cache_is_made_again(tmp_path):
    weight = torch.randn(12, 8)
    remembered(weight, None, tmp_path, "w")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert torch.allclose(remembered(weight, None, tmp_path, "w").sigma, torch.linalg.svdvals(weight))


def test_the_cache_s_place_is_the_user_s_to_choose(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "singular"


def test_a_streamed_model_is_decomposed_block_by_block_to_the_same_factors(tmp_path):
    folder = saved_speaker(tmp_path / "model")
    with open_checkpoint(str(folder)) as checkpoint:
        with streaming(checkpoint, resident=True) as model:
            whole = decompositions(model, matrices_of(model, "both"), folder=tmp_path / "a")
        with streaming(checkpoint, resident=False) as model:
            matrices = matrices_of(model, "both")
            found = decompose_streamed(model, matrices, folder=tmp_path / "b")
            with pytest.raises(SuperweightsError, match="is not in memory"):
                weight_of(model, matrices[0])
    assert list(found) == list(whole)
    assert all(torch.equal(found[path].sigma, whole[path].sigma) for path in whole)


def test_randomized_factors_tell_an_error_that_is_theirs():
    generator = torch.Generator().manual_seed(0)
    U, _ = torch.linalg.qr(torch.randn(300, 200, generator=generator))
    V, _ = torch.linalg.qr(torch.randn(200, 200, generator=generator))
    sigma = 0.9 ** torch.arange(200.0)
    weight = (U * sigma) @ V.T
    held = decompose(weight, 20)
    assert held.method == "randomized"
    assert torch.allclose(held.sigma, sigma[:20], rtol=1e-4)
    worst = (weight.T @ held.U - held.Vh.T * held.sigma).norm(dim=0).max() / held.sigma[0]
    assert math.isclose(held.error, worst.item(), rel_tol=1e-3)
    assert held.error < 1e-4
    assert math.isclose(held.energy, (sigma[:20] ** 2).sum().item() / (sigma**2).sum().item(), rel_tol=1e-4)


def test_components_that_are_noise_are_left_alone():
    weight = torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 7)) + torch.outer(
        torch.ones(8), torch.ones(6)
    )
    assert len(decompose(weight)) == 2


def test_a_matrix_of_zeros_has_no_singular_value_above_noise():
    with pytest.raises(SuperweightsError, match="no singular value above noise"):
        decompose(torch.zeros(4, 4), name="model.layers.0.mlp.up_proj")


def test_nan_in_a_matrix_is_told():
    with pytest.raises(SuperweightsError, match="holds nan"):
        decompose(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))


def test_quantized_weights_of_others_cannot_be_decomposed(model):
    module = model.get_submodule("model.layers.0.mlp.up_proj")
    kept = module.weight
    module.weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    try:
        with pytest.raises(SuperweightsError, match="cannot be decomposed"):
            matrices_of(model, "mlp")
    finally:
        module.weight = kept


@pytest.mark.parametrize("wrong", [{"part": "heads"}, {"layers": [7]}])
def test_parts_and_layers_that_are_not_there_are_refused(model, wrong):
    with pytest.raises(SuperweightsError):
        matrices_of(model, **wrong)


def expert(factors, seed=0, **told) -> Expert:
    settings = {"name": f"e{seed}", "z": drawn(factors, seed=seed), "base": "tiny", "fingerprint": "f" * 32}
    return Expert(**{**settings, **told})


def test_an_expert_comes_back_from_its_folder_bit_for_bit(factors, tmp_path):
    made = expert(factors, about="sums", made={"steps": 3})
    save_expert(made, tmp_path / "e")
    held = load_expert(tmp_path / "e")
    assert all(torch.equal(held.z[path], z) for path, z in made.z.items())
    assert (held.name, held.about, held.base, held.fingerprint) == (made.name, "sums", "tiny", "f" * 32)
    assert held.made == {"steps": 3}
    assert held.parameters == sum(map(len, factors.values()))


def test_alpha_of_one_and_nothing_is_the_first_expert_exactly(model, factors):
    first, second = expert(factors, 0), expert(factors, 1)
    z = combined([first, second], (1, 0))
    assert all(torch.equal(z[path], first.z[path]) for path in z)
    with turned(model, factors, first.z):
        alone = model(IDS).logits
    with turned(model, factors, z):
        assert torch.equal(model(IDS).logits, alone)


def test_alphas_sum_the_z_themselves_by_matrix_where_asked(factors):
    first, second = expert(factors, 0), expert(factors, 1)
    path, *others = factors
    z = combined([first, second], {path: (0.25, 0.5), **dict.fromkeys(others, (0, 1))})
    assert torch.allclose(z[path], 0.25 * first.z[path] + 0.5 * second.z[path])
    assert torch.equal(z[others[0]], second.z[others[0]])


def test_an_expert_that_does_not_turn_a_matrix_leaves_it_at_one(factors):
    path, other = list(factors)[:2]
    first = expert(factors, 0, z={path: torch.full((len(factors[path]),), 2.0)})
    second = expert(factors, 1, z={other: torch.full((len(factors[other]),), 3.0)})
    z = combined([first, second], (0.5, 0.5))
    assert bool((z[path] == 1.5).all())
    assert bool((z[other] == 2.0).all())


def test_controls_keep_what_they_should(factors):
    z = drawn(factors)
    for path, each in shuffled(z, 3).items():
        assert torch.equal(each.sort().values, z[path].sort().values)
        assert not torch.equal(each, z[path])
    far = torch.cat([each - 1 for each in random_like({"a": 1 + 0.3 * torch.randn(5000)}, 3).values()])
    assert math.isclose(far.square().mean().sqrt().item(), 0.3, rel_tol=0.05)


@pytest.mark.parametrize("alpha", [(1,), (1, 0, 0)])
def test_a_wrong_number_of_alphas_is_refused(factors, alpha):
    with pytest.raises(SuperweightsError, match="alphas"):
        combined([expert(factors, 0), expert(factors, 1)], alpha)


def test_experts_of_other_bases_and_nan_are_refused(factors, tmp_path):
    made = expert(factors)
    with pytest.raises(SuperweightsError, match="was made for tiny"):
        made.check_base("0" * 32, "another")
    with pytest.raises(SuperweightsError, match="was made for"):
        combined([made, expert(factors, 1, fingerprint="0" * 32)], (1, 0))
    path = next(iter(factors))
    broken = expert(factors, z={path: torch.full((len(factors[path]),), float("nan"))})
    with pytest.raises(SuperweightsError, match="nan"):
        save_expert(broken, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_what_is_no_expert_is_refused_and_nothing_is_overwritten(factors, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SuperweightsError, match="holds no experts"):
        load_experts(tmp_path / "empty")
    with pytest.raises(SuperweightsError, match="holds no expert"):
        load_expert(tmp_path)
    (tmp_path / "expert.safetensors").write_bytes(b"nothing")
    with pytest.raises(SuperweightsError, match="damaged"):
        load_expert(tmp_path)
    with pytest.raises(SuperweightsError, match="not an empty folder"):
        save_expert(expert(factors), tmp_path)


def test_a_z_of_another_length_is_refused_and_the_model_left_alone(model, factors):
    base = model(IDS).logits
    path = next(iter(factors))
    with (
        pytest.raises(SuperweightsError, match="singular values"),
        turned(model, factors, {path: torch.ones(3)}),
    ):
        pytest.fail("entered")
    assert torch.equal(model(IDS).logits, base)


def test_importing_the_package_does_not_bring_torch():
    code = "import sys, superweights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
