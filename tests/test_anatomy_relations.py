"""Relation neurons: average precision against scikit-learn, planted units, zeroing by hand, and the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
import torch
from laid_open import embedded, prose

from superweights.errors import SuperweightsError
from superweights.interpretability import Body, Study
from superweights.interpretability.relations.average_precision import average_precision, chance
from superweights.interpretability.relations.examination import Examination
from superweights.interpretability.relations.prompts import OWN, read_relations
from superweights.interpretability.relations.question import investigate, rank
from superweights.interpretability.relations.units import unit_modules, unit_values, units_zeroed

pytestmark = pytest.mark.unit

POSITIVE = torch.tensor([True] * 6 + [False] * 24)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("decimals", [None, 0], ids=["all apart", "many ties"])
def test_average_precision_is_scikit_learns(decimals):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores = drawn(30, 40) if decimals is None else drawn(30, 40).round()
    found = average_precision(scores, POSITIVE)
    expected = [metrics.average_precision_score(POSITIVE, scores[:, m]) for m in range(40)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_constant_unit_has_the_share_of_positives():
    assert average_precision(torch.ones(30, 1), POSITIVE).item() == pytest.approx(0.2)


def test_chance_is_near_the_share_of_positives_and_repeats():
    null = chance(drawn(30, 200), POSITIVE, 20, seed=3)
    assert null.shape == (20, 200)
    assert null.mean().item() == pytest.approx(0.27, abs=0.03), (
        "AP of few positives lies a little above their share"
    )
    assert torch.equal(null, chance(drawn(30, 200), POSITIVE, 20, seed=3))
    assert (null < 1 - 1e-9).float().mean() > 0.999


def test_a_planted_unit_is_first_with_either_sign():
    values = {"one": drawn(30, 20), "two": drawn(30, 10, seed=1)}
    values["two"][POSITIVE, 7] += 50
    values["one"][POSITIVE, 3] -= 100
    up = rank(values, POSITIVE)
    assert (up.paths[up.module[0]], int(up.unit[0]), up.precision[0].item()) == ("two", 7, 1.0)
    both = rank(values, POSITIVE, "both")
    assert {(int(both.module[n]), int(both.unit[n])) for n in (0, 1)} == {(0, 3), (1, 7)}
    assert both.chosen(0, 2)["two"].tolist() == [7]
    with pytest.raises(SuperweightsError, match="no sign"):
        rank(values, POSITIVE, "up")


@pytest.mark.tiny
def test_units_are_seen_as_the_layers_put_them_out_and_zeroed_as_by_hand():
    model = families.tiny_model("llama")
    body = Body.of(model)
    modules = unit_modules(body)
    assert len(modules) == 3 * body.layers
    assert modules["model.layers.1.mlp.up_proj"] == (1, families.INNER)
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12], [13, 14]]
    values, peaks = unit_values(model, modules, prompts, "mean")
    seen: list[torch.Tensor] = []
    gate = model.model.layers[1].mlp.gate_proj
    with gate.register_forward_hook(lambda m, a, out: seen.append(out)), torch.no_grad():
        for prompt in prompts:
            model(torch.tensor([prompt]))
    expected = torch.stack([out[0].mean(0) for out in seen])
    path = "model.layers.1.mlp.gate_proj"
    assert torch.allclose(values[path], expected, atol=1e-5)
    assert torch.allclose(peaks[path], torch.cat([out[0] for out in seen]).abs().amax(0), atol=1e-5)
    last, _ = unit_values(model, modules, prompts, "last")
    assert torch.allclose(last[path], torch.stack([out[0, -1] for out in seen]), atol=1e-5)

    ids = torch.tensor([[5, 6, 7]])
    with (
        torch.no_grad(),
        units_zeroed(model, {path: torch.tensor([2, 4]), "model.layers.0.mlp.up_proj": torch.tensor([])}),
    ):
        found = model(ids).logits
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter[[2, 4]] = 0
        assert torch.allclose(found, model(ids).logits, atol=1e-6)


@pytest.mark.tiny
@pytest.mark.parametrize(("kind", "layers"), [("gpt2", 2), ("opt", 2), ("gpt_neox", 2), ("phi3", 2)])
def test_the_linear_layers_of_other_mlps_are_found(kind, layers):
    assert len(unit_modules(Body.of(families.tiny_model(kind)))) == layers * families.LAYERS


@pytest.mark.tiny
def test_experts_are_refused():
    with pytest.raises(SuperweightsError, match="mlp_act"):
        unit_modules(Body.of(families.tiny_model("mixtral")))


class Words:
    """A tokenizer of words, for prompts on random models."""

    bos_token_id = 1

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [self.known.setdefault(word, len(self.known) + 3) for word in text.split()]}


def relation_file(path: Path, **relations: dict) -> Path:
    path.write_text(json.dumps({"relations": relations}))
    return path


@pytest.mark.tiny
def test_a_completion_is_two_greedy_tokens(tmp_path):
    """Against transformers' own greedy generation, prompt by prompt."""
    model = families.tiny_model("llama")
    tokenizer = Words()
    prompts = [f"s{n}" for n in range(8)]
    pairs = []
    for n, subject in enumerate(prompts):
        ids = torch.tensor([tokenizer(f"the x of {subject} is")["input_ids"]])
        said = model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)[0, -2:].tolist()
        word = f"w{n}"
        tokenizer.known.update(
            {f"{word}a": said[0], f"{word}b": said[1] if n % 2 == 0 else (said[1] + 1) % 200}
        )
        pairs.append([subject, f"{word}a {word}b rest"])
    other = {"template": "y {}", "pairs": [[f"t{n}", pairs[0][1]] for n in range(8)]}
    path = relation_file(tmp_path / "r.json", x={"template": "the x of {} is", "pairs": pairs}, y=other)
    relation = read_relations(path)[0]
    study = Study(model, torch.zeros(1, 4, dtype=torch.long), tokenizer)
    exam = Examination.__new__(Examination)
    exam.study = study
    right = exam._asked(relation, relation.template, range(8))
    assert right.tolist() == [n % 2 == 0 for n in range(8)]
    with pytest.raises(SuperweightsError, match="completes"):
        Examination(study, read_relations(path))


@pytest.mark.parametrize(
    ("relations", "said"),
    [
        ({"a": {"template": "{}", "pairs": [["x", "y"]] * 4}}, "twice"),
        ({"a": {"template": "no place", "pairs": [["x", "y"]]}}, "one {}"),
        ({"a": {"template": "{}", "pairs": [["x", "y"]]}}, "too few"),
        ({"a": {"template": "{}"}}, "no set of relations"),
        ({}, "0 relation"),
    ],
)
def test_a_wrong_file_of_relations_is_one_sentence(relations, said, tmp_path):
    with pytest.raises(SuperweightsError, match=said):
        read_relations(relation_file(tmp_path / "r.json", **relations))


def test_the_built_in_relations_are_sound():
    relations = read_relations()
    assert [relation.name for relation in relations] == ["capital", "language", "opposite"]
    assert all(
        len(relation.pairs) == 32 and relation.other_template and relation.neutral for relation in relations
    )


@pytest.mark.real
def test_capitals_go_with_their_units_and_opposites_stay(tmp_path):
    """The known answer: 500 units (0.5 %) take capitals from 1 to 0.1 and leave the others; random ones do nothing."""
    model, checkpoint = embedded()
    held = json.loads(OWN.read_text())["relations"]
    path = relation_file(tmp_path / "r.json", capital=held["capital"], opposite=held["opposite"])
    study = Study(model, prose()[:4], checkpoint.tokenizer(), prompts=path)
    found = investigate(study, counts=(500,))
    assert found.units == 109_440
    capital, opposite = found.relations
    assert capital.perfect > 5_000, "thousands of units tell two topics apart"
    assert capital.perfect_by_chance < 10
    assert capital.best[0].precision == 1.0
    own, other = found.drop("capital", "capital", 500), found.drop("capital", "opposite", 500)
    assert own is not None
    assert own > 0.7
    assert other is not None
    assert other < 0.2
    for draw in (1, 2, 3):
        random = found.drop(f"random {draw}", "capital", 500)
        assert random is not None
        assert random < 0.5
    assert sum(opposite.by_layer) == 500
    assert found.controls[0].neutral is not None
