"""The lab's optimizers against torch's AdamW, the definition of a rotation, and each other's saved states."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.models.building import build
from superweights.lab.optimizers.making import make_optimizer, rotation
from superweights.lab.optimizers.rotations import haar
from superweights.lab.optimizers.spec import OPTIMIZERS, ROTATIONS, OptimizerSpec

pytestmark = pytest.mark.tiny

TOKENS = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(1))
DESIGN = Architecture(width=16, layers=2, norm="rms_single")
ALL = [(name, kind) for name in OPTIMIZERS for kind in ROTATIONS.get(name, ("",)) if kind != "dense"]


def spec_of(name: str, kind: str) -> OptimizerSpec:
    if name in ("soap", "muon"):
        pytest.importorskip("pytorch_optimizer")
    return OptimizerSpec(name, rotation=kind, every=3, block=10)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """The model's weights after some steps on the same batch, as one vector."""
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def after(spec: OptimizerSpec, steps: int = 8) -> Tensor:
    model = build(DESIGN, seed=0)
    return trained(model, make_optimizer(spec, model), steps)


def test_a_signed_permutation_is_adamw_to_the_bit_and_a_rotation_is_not():
    adamw = after(OptimizerSpec())
    assert torch.equal(after(OptimizerSpec("orthoadam", rotation="signed_permutation")), adamw)
    assert not torch.allclose(after(OptimizerSpec("orthoadam", rotation="kron")), adamw, atol=1e-4)


def test_our_adamw_decays_matrices_and_nothing_else():
    model = build(DESIGN, seed=0)
    groups = {
        group["weight_decay"]: group["parameter_names"]
        for group in make_optimizer(OptimizerSpec(), model).param_groups
    }
    assert set(groups) == {0.1, 0.0}
    assert all("norm" in name for name in groups[0.0])
    assert len(groups[0.1]) == 2 + 2 * 7


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_training_goes_on_from_a_saved_state_to_the_same_weights(name, kind):
    spec = spec_of(name, kind)
    model = build(DESIGN, seed=0)
    optimizer = make_optimizer(spec, model)
    trained(model, optimizer, 4)
    saved = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], saved)
    straight = trained(model, optimizer, 4)
    saved.seek(0)
    weights, state = torch.load(saved, weights_only=True)
    other = build(DESIGN, seed=7)
    other.load_state_dict(weights)
    resumed = make_optimizer(spec, other)
    resumed.load_state_dict(state)
    assert torch.equal(trained(other, resumed, 4), straight)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_every_optimizer_lowers_the_loss(name, kind):
    model = build(DESIGN, seed=0)
    before = model(input_ids=TOKENS, labels=TOKENS).loss.item()
    spec = spec_of(name, kind)
    if name == "sgd":  # its steps are as large as its gradients
        spec = OptimizerSpec("sgd", learning_rate=0.1)
    trained(model, make_optimizer(spec, model), 12)
    assert model(input_ids=TOKENS, labels=TOKENS).loss.item() < before - 0.1


@pytest.mark.parametrize("kind", ["kron", "block", "dense", "signed_permutation", "in", "out", "flat"])
def test_a_rotation_keeps_lengths_and_is_undone(kind):
    name = "orthoadam" if kind in ROTATIONS["orthoadam"] else "rotated_adam"
    gradient = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    turned = rotation(OptimizerSpec(name, rotation=kind, block=16), "layer.weight", gradient)
    inside = turned.into(gradient)
    assert inside.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-5)
    torch.testing.assert_close(turned.out_of(inside), gradient, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(inside, gradient)


@pytest.mark.parametrize("kind", ["kron", "block", "signed_permutation"])
def test_a_rotation_is_a_dense_one_with_its_own_matrix(kind):
    """Every rotation is linear and orthogonal: its matrix, column by column, does what it does."""
    shape = (6, 5)
    turned = rotation(OptimizerSpec("orthoadam", rotation=kind, block=8), "layer.weight", torch.zeros(shape))
    matrix = torch.stack([turned.into(one.view(shape)).flatten() for one in torch.eye(30)], 1)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(30), atol=1e-5, rtol=0)
    gradient = torch.randn(30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(turned.into(gradient.view(shape)).flatten(), matrix @ gradient)


def test_scopes_turn_the_axis_they_name():
    gradient = torch.randn(6, 5)
    inward, outward = (
        rotation(OptimizerSpec("rotated_adam", rotation=s), "w", gradient) for s in ("in", "out")
    )
    torch.testing.assert_close(inward.into(gradient).norm(dim=1), gradient.norm(dim=1))  # rows stay apart
    torch.testing.assert_close(outward.into(gradient).norm(dim=0), gradient.norm(dim=0))  # columns stay apart


def test_tokens_are_not_mixed_and_a_single_gain_is_not_turned():
    rows = torch.randn(20, 6)
    turned = rotation(OptimizerSpec("orthoadam"), "embed", rows, tokens=True, embedding=True).into(rows)
    torch.testing.assert_close(turned.norm(dim=1), rows.norm(dim=1))
    gain = torch.randn(1)
    assert torch.equal(rotation(OptimizerSpec("orthoadam"), "norm", gain).into(gain), gain)


def test_a_parameter_keeps_its_basis_when_others_come_and_go():
    spec, gradient = OptimizerSpec("orthoadam"), torch.randn(6, 5)
    alone = rotation(spec, "a", gradient).into(gradient)
    rotation(spec, "b", gradient)
    assert torch.equal(rotation(spec, "a", gradient).into(gradient), alone)
    assert not torch.equal(rotation(spec, "b", gradient).into(gradient), alone)


def test_haar_matrices_are_orthogonal_and_uniform():
    drawn = torch.stack([haar(3, seed) for seed in range(2000)])
    torch.testing.assert_close(
        drawn.transpose(1, 2) @ drawn, torch.eye(3).expand(2000, 3, 3), atol=1e-5, rtol=0
    )
    # uniform: every entry has mean zero and variance one third, the signs of the diagonal among them
    assert drawn.mean(0).abs().max() < 4 * (1 / 3 / 2000) ** 0.5
    torch.testing.assert_close(drawn.var(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0)


def test_sgd_does_not_notice_a_rotation():
    """The oracle of the rotated scopes: a linear update commutes with any orthogonal map."""
    weight, gradient = torch.randn(6, 5), torch.randn(6, 5)
    turned = rotation(OptimizerSpec("orthoadam"), "w", gradient)
    torch.testing.assert_close(
        weight - 0.1 * turned.out_of(turned.into(gradient)), weight - 0.1 * gradient, atol=1e-6, rtol=0
    )


def test_the_global_rotation_mixes_parameters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    spec = OptimizerSpec("rotated_adam", rotation="global", weight_decay=0.0, block=9)
    still = copy.deepcopy(model)
    optimizer = make_optimizer(spec, model)
    model[0].weight.grad, model[1].weight.grad = torch.randn(3, 4), torch.zeros(2, 3)
    optimizer.step()
    # a parameter whose gradient is zero moves, because Adam divided in a basis that it shares
    assert not torch.equal(model[1].weight, still[1].weight)


def test_the_first_step_of_one_sided_shampoo_is_the_orthogonalized_gradient():
    layer = nn.Linear(2, 2, bias=False)
    start = layer.weight.detach().clone()
    optimizer = make_optimizer(OptimizerSpec("shampoo", weight_decay=0.0, learning_rate=0.01), layer)
    left, right = haar(2, 0), torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    layer.weight.grad = left @ torch.diag(torch.tensor([3.0, 1.0])) @ right
    optimizer.step()
    # in the eigenbasis of G G^T the gradient is S V^T; Adam's first step is its signs, and those of V are sqrt(2) V
    torch.testing.assert_close(
        start - layer.weight.detach(), 0.01 * 2**0.5 * left @ right, atol=1e-6, rtol=1e-4
    )


def test_a_state_of_other_parameters_is_refused():
    one, other = build(DESIGN, seed=0), build(DESIGN.with_(norm="layer"), seed=0)
    spec = OptimizerSpec("orthoadam")
    state = make_optimizer(spec, one).state_dict()
    with pytest.raises(SuperweightsError, match="belongs to other parameters"):
        make_optimizer(spec, other).load_state_dict(state)


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        ({"name": "adam"}, "no optimizer named 'adam'"),
        ({"name": "orthoadam", "rotation": "in"}, "orthoadam has no rotation named 'in'"),
        ({"rotation": "kron"}, "adamw has no rotation"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ],
)
def test_dials_that_make_no_sense_are_refused(dials, said):
    with pytest.raises(SuperweightsError, match=said):
        OptimizerSpec(**dials)


def test_a_dense_rotation_of_a_large_parameter_is_refused():
    with pytest.raises(SuperweightsError, match="a matrix of 4096 x 4096"):
        rotation(OptimizerSpec("orthoadam", rotation="dense"), "w", torch.zeros(64, 64))
