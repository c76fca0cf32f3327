"""Depth: angles in closed form, stacks of known variance, removed blocks against a model built without them."""

from __future__ import annotations

import copy

import families
import pytest
import torch
from laid_open import answers, embedded, prose
from torch import nn

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.interpretability import Study, ask
from superweights.interpretability.depth.question import Depths, angular_distance, investigate
from superweights.interpretability.depth.skipping import removal_effects, skipping
from superweights.interpretability.jacobian import investigate as jacobian
from superweights.interpretability.jacobian import probe
from superweights.scoring import perplexity
from superweights.stream import streaming

pytestmark = pytest.mark.unit


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(rows: int = 4, length: int = 12) -> torch.Tensor:
    return torch.randint(3, families.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))


def test_same_opposite_and_orthogonal_directions_have_their_angles():
    x = drawn(5, 8)
    assert angular_distance(x, 3 * x).tolist() == pytest.approx([0] * 5, abs=1e-7)
    assert angular_distance(x, -x).tolist() == pytest.approx([1] * 5, abs=1e-7)
    assert angular_distance(torch.eye(4)[:3], torch.eye(4)[1:]).tolist() == pytest.approx([0.5] * 3)
    half = torch.full((4,), 3e4, dtype=torch.float16)
    assert angular_distance(half, half).item() < 1e-3, "no overflow, no nan"


def test_angles_obey_the_triangle():
    one, two, three = drawn(50, 8), drawn(50, 8, seed=1), drawn(50, 8, seed=2)
    whole = angular_distance(one, three)
    assert (whole <= angular_distance(one, two) + angular_distance(two, three) + 1e-12).all()


@pytest.mark.tiny
def test_distances_and_variances_are_those_of_transformers_states():
    model = families.tiny_model("llama")
    ids = tokens()
    (found,) = ask(model, ids, Depths(), batch_size=3)
    with torch.no_grad():
        seen = []
        hooks = [
            layer.register_forward_hook(lambda m, a, out: seen.append(out)) for layer in model.model.layers
        ]
        states = [model(input_ids=ids, output_hidden_states=True).hidden_states[0], *seen]
    for hook in hooks:
        hook.remove()
    for start in range(3):
        for n in range(1, 4 - start):
            expected = angular_distance(states[start], states[start + n]).mean().item()
            assert found.distances[n - 1][start] == pytest.approx(expected, rel=1e-5)
    variance = states[2][:, 1:].double().var(-1, correction=0)
    assert found.layers[1].variance == pytest.approx(variance.mean().item(), rel=1e-5)
    assert found.layers[1].angle == pytest.approx(found.distances[0][1], rel=1e-5)


@pytest.mark.tiny
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "opt"])
def test_a_removed_block_is_a_model_built_without_it(kind):
    model, ids = families.tiny_model(kind), tokens()
    base, removals = removal_effects(Study(model, ids, batch_size=3))
    assert base.value == pytest.approx(perplexity(model, ids).value, rel=1e-6)
    path = next(name for name, m in model.named_modules() if isinstance(m, nn.ModuleList))
    for each in removals:
        smaller = copy.deepcopy(model)
        parent, _, name = path.rpartition(".")
        blocks = smaller.get_submodule(path)
        kept = [block for number, block in enumerate(blocks) if number != each.layer]
        setattr(smaller.get_submodule(parent), name, nn.ModuleList(kept))
        smaller.config.num_hidden_layers -= 1
        expected = perplexity(smaller, ids).value
        assert each.perplexity.value == pytest.approx(expected, rel=1e-4)
        with skipping(model, [each.layer]):
            assert perplexity(model, ids).value == pytest.approx(expected, rel=1e-4)
    assert perplexity(model, ids).value == pytest.approx(base.value, rel=1e-6), "everything is put back"


@pytest.mark.tiny
def test_a_block_that_writes_nothing_turns_nothing_and_costs_nothing():
    model = families.tiny_model("llama")
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    found = investigate(Study(model, tokens()))
    assert found.layers[1].angle == pytest.approx(0, abs=1e-6)
    assert found.removals[1].loss.value == pytest.approx(0, abs=1e-6)
    near = jacobian(Study(model, tokens())).layers[1]
    assert near.distance.value == pytest.approx(0, abs=1e-6)
    assert near.diagonal.value == pytest.approx(1)
    assert near.diagonal_share == pytest.approx(1)


@pytest.mark.tiny
def test_a_streamed_model_is_measured_as_a_resident_one(tmp_path):
    families.save_tiny("llama", tmp_path)
    found = []
    for resident in (True, False):
        with open_checkpoint(tmp_path) as checkpoint, streaming(checkpoint, resident=resident) as model:
            found.append((removal_effects(Study(model, tokens())), jacobian(Study(model, tokens()))))
    for one, other in zip(found[0][0][1], found[1][0][1], strict=True):
        assert one.loss.value == pytest.approx(other.loss.value, abs=1e-6)
    assert found[0][1].layers[1].distance.value == pytest.approx(
        found[1][1].layers[1].distance.value, rel=1e-5
    )


def test_the_jacobian_of_a_linear_map_is_its_matrix():
    d = 24
    matrix = torch.eye(d, dtype=torch.float64) * 0.8 + 0.1 * drawn(d, d)
    block = nn.Linear(d, d, bias=False).double()
    with torch.no_grad():
        block.weight.copy_(matrix)
    found = probe(block, (drawn(3, 5, d),), {}, position=2, probes=400)
    apart = (matrix - torch.eye(d)).square().sum().item() / d
    assert found.apart.mean().item() == pytest.approx(apart, rel=0.1)
    assert found.gain.mean().item() == pytest.approx(matrix.square().sum().item() / d, rel=0.1)
    assert found.trace.mean().item() == pytest.approx(matrix.trace().item() / d, rel=0.05)


@pytest.mark.tiny
def test_the_jacobian_of_a_block_is_that_of_autograd_in_full():
    model, ids = families.tiny_model("llama"), tokens(1, 6)
    found = jacobian(Study(model, ids)).layers[0]
    block, seen = model.model.layers[0], {}
    with (
        block.register_forward_pre_hook(lambda m, a, k: seen.update(a=a, k=k), with_kwargs=True),
        torch.no_grad(),
    ):
        model(input_ids=ids, use_cache=False)
    hidden = seen["a"][0].detach()

    def at_three(x: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([hidden[:, :3], x[None, None], hidden[:, 4:]], 1)
        return block(whole, *seen["a"][1:], **seen["k"])[0, 3]

    exact = torch.autograd.functional.jacobian(at_three, hidden[0, 3])
    expected = ((exact - torch.eye(len(exact))).square().sum() / len(exact)).sqrt().item()
    assert found.distance.value == pytest.approx(expected, abs=4 * found.distance.standard_error)


@pytest.mark.tiny
def test_too_short_windows_are_refused():
    model = families.tiny_model("llama")
    for ask_of in (removal_effects, jacobian, investigate):
        with pytest.raises(SuperweightsError, match="longer windows"):
            ask_of(Study(model, torch.ones(4, 1, dtype=torch.long)))


@pytest.mark.real
def test_angles_and_variances_of_the_embedded_model_are_the_known_ones():
    layers = answers()["depth"].layers
    assert layers[0].angle == pytest.approx(0.499, abs=0.005)
    assert layers[24].angle == pytest.approx(0.173, abs=0.01)
    assert layers[29].angle == pytest.approx(0.242, abs=0.01)
    assert layers[11].angle == pytest.approx(0.089, abs=0.005), "the angle misses the writer"
    for layer, known in ((0, 3.9), (2, 26), (20, 98), (24, 355), (28, 857), (29, 1191)):
        assert layers[layer].variance == pytest.approx(known, rel=0.2)


@pytest.mark.real
def test_the_writer_of_the_massive_activation_is_missed_and_its_neighbour_is_not():
    model, ids = embedded()[0], prose(3)
    base = perplexity(model, ids).value
    without = {}
    for layer in (5, 11, 28):
        with skipping(model, [layer]):
            without[layer] = perplexity(model, ids).value / base
    assert without[5] < 1.15
    assert without[11] > 5
    assert without[28] > 2
