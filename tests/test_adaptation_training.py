"""Training: the bandit is won, a stopped run goes on exactly, rewards say what they should, and bad input is told."""

from __future__ import annotations

import json
import math

import datasets
import pytest
import torch
from letters import letters, speaking_llama

import superweights
from superweights.adaptation import (
    Example,
    LowRank,
    Manner,
    Reader,
    Singular,
    Sparse,
    Task,
    Training,
    decompositions,
    evolve,
    lora_like,
    matrices_of,
    mix_by_shots,
    read_task,
    reward_named,
    rewarded,
    support,
)
from superweights.adaptation.evolving import Search
from superweights.adaptation.expert import Expert
from superweights.adaptation.made_tasks import MADE, made_task, task_named
from superweights.adaptation.speaking import complete, continued, mean_log_likelihood, score
from superweights.adaptation.tasks import SPLITS, choice, exact, number, split_task, starts
from superweights.adaptation.training import kl_of
from superweights.address import Address
from superweights.errors import SuperweightsError
from superweights.interpretability.relations.prompts import read_relations

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def reader():
    return Reader(letters())


@pytest.fixture(scope="module")
def model():
    """Of weights as large as a trained model's: with the usual first ones no logit could reach what 0.9 takes."""
    return speaking_llama(initializer_range=0.2)


@pytest.fixture(scope="module")
def factors(model, tmp_path_factory):
    return decompositions(model, matrices_of(model, "both"), folder=tmp_path_factory.mktemp("singular"))


def bandit(wanted: str) -> Task:
    """The same question twice over: any prompt is answered by one letter."""
    examples = [(Example(f"{a}{b}?", wanted), None) for a in "abcdef" for b in "ghij"]
    return split_task("bandit", examples, new_tokens=1, stop=None)


def chance_of(model, reader, prompt: str, token: str) -> float:
    scored = score(model, [(reader.prompt(prompt), reader.answer(token))])
    return scored.of_tokens().exp().item()


def test_reinforce_wins_the_bandit_in_under_200_steps(model, reader, factors):
    task, learner = bandit("k"), Singular(model, factors)
    assert chance_of(model, reader, "ag?", "k") < 0.1
    manner = Manner(steps=199, batch=24, rate=0.05, temperature=1.0, every=50, patience=99)
    training = Training(model, reader, task, learner, reward_named("exact"), manner)

    def watch(label, step, total):
        if at_goal(model, reader, learner):
            raise ReachedError(step)

    training.progress = watch
    with pytest.raises(ReachedError) as reached:
        training.run()
    assert reached.value.args[0] < 200


class ReachedError(Exception):
    """The goal is reached, after so many steps."""


def at_goal(model, reader, learner) -> bool:
    with learner.on(), torch.no_grad():
        return chance_of(model, reader, "ag?", "k") > 0.9


@pytest.mark.parametrize("new_tokens", [1, 3])
def test_a_stopped_run_goes_on_exactly(model, reader, factors, tmp_path, new_tokens):
    examples = [(Example(f"{a}{b}?", "kk"[:new_tokens]), None) for a in "abcdef" for b in "ghij"]
    task = split_task("t", examples, new_tokens=new_tokens, stop=None)
    manner = Manner(steps=6, batch=7, rate=0.05, temperature=1.0, every=2, patience=9, kl=0.1, seed=3)
    reward = lambda said, example: 1.0 if said.count("k") else -1.0  # noqa: E731

    def run(state, stop_after=None):
        learner = Singular(model, factors)

        def watch(label, done, total):
            if done == stop_after:
                raise KeyboardInterrupt

        training = Training(model, reader, task, learner, reward, manner, state=state, progress=watch)
        return training.run(), learner

    whole, numbers = run(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", stop_after=3)
    again, resumed = run(tmp_path / "cut.pt")
    assert again.steps == whole.steps
    assert again.checks == whole.checks
    assert all(torch.equal(resumed.parameters[n], p) for n, p in numbers.parameters.items())
    assert all(torch.equal(again.numbers[n], z) for n, z in whole.numbers.items())


def test_another_training_does_not_go_on_from_it(model, reader, factors, tmp_path):
    manner = Manner(method="supervised", steps=2, batch=4, every=1)
    state, reward = tmp_path / "state.pt", reward_named("exact")
    Training(model, reader, bandit("k"), Singular(model, factors), reward, manner, state=state).run()
    with pytest.raises(SuperweightsError, match="unfinished training of another"):
        Training(model, reader, bandit("m"), Singular(model, factors), reward, manner, state=state).run()


def test_supervised_training_lowers_the_loss_and_leaves_the_base_alone(model, reader, factors):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    task, learner = bandit("k"), Singular(model, factors)
    manner = Manner(method="supervised", steps=10, batch=8, rate=0.05, every=5)
    trained = Training(model, reader, task, learner, reward_named("exact"), manner).run()
    assert trained.steps[-1].loss < trained.steps[0].loss - 0.1
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_loss_is_minus_the_rewarded_log_probability_plus_the_divergence(model, reader, factors):
    generator = torch.Generator().manual_seed(0)
    z = {path: 1 + 0.05 * torch.randn(len(held), generator=generator) for path, held in factors.items()}
    learner, task = Singular(model, factors, z), bandit("k")
    manner = Manner(steps=1, batch=2, kl=0.25, temperature=0.0)
    training = Training(model, reader, task, learner, lambda said, e: 0.5, manner)
    loss, kl, rewards = training._gradients(list(task.train[:2]), 0)
    asked = [reader.prompt(e.prompt) for e in task.train[:2]]
    with torch.no_grad():
        base = torch.stack([model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in asked])
        with learner.on():
            ours = torch.stack([model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in asked])
    wanted_kl = (ours.exp() * (ours - base)).sum(-1).mean().item()
    assert rewards == [0.5, 0.5]
    assert math.isclose(kl, wanted_kl, rel_tol=1e-3)
    assert math.isclose(loss, -0.5 * ours.max(-1).values.mean().item() + 0.25 * wanted_kl, rel_tol=1e-4)


def test_the_two_directions_of_the_divergence_are_told_apart():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log()
    forth = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
    back = torch.nn.functional.kl_div(p, q, log_target=True, reduction="sum")
    assert torch.allclose(kl_of(p, q, "paper"), forth)
    assert torch.allclose(kl_of(p, q, "code"), back)
    assert not torch.allclose(forth, back)


def test_rewards_that_are_all_equal_are_told_and_nothing_is_changed(model, reader, factors):
    learner = Singular(model, factors)
    with pytest.raises(SuperweightsError, match="nothing to learn from"):
        Training(model, reader, bandit("no such"), learner, reward_named("exact"), Manner()).run()
    assert all(bool((z == 1).all()) for z in learner.parameters.values())


def test_nan_stops_training_with_a_sentence_and_the_base_is_whole(model, reader, factors, tmp_path):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    path = next(iter(factors))
    learner = Singular(model, factors, {path: torch.full((len(factors[path]),), float("nan"))})
    manner = Manner(method="supervised", steps=3, batch=4)
    with pytest.raises(SuperweightsError, match="nan or infinity"):
        Training(model, reader, bandit("k"), learner, reward_named("exact"), manner).run()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_run_that_finds_nothing_better_keeps_the_base(model, reader, factors):
    learner = Singular(model, factors)
    manner = Manner(method="supervised", steps=3, batch=4, rate=1e-9, every=1, patience=2)
    trained = Training(model, reader, bandit("k"), learner, reward_named("exact"), manner).run()
    assert trained.best_step == 0
    assert trained.steps[-1].step == 2
    assert all(bool((z == 1).all()) for z in trained.numbers.values())
    assert "better than the base" in trained.notes[0]
    assert trained.ended.startswith("Stopped after step 2 of 3: the last 2 looks")


def test_why_a_run_ended_is_told_and_steps_whose_rewards_were_all_the_same(model, reader, factors):
    task = bandit("k")
    manner = Manner(steps=2, batch=4, temperature=1.0)
    trained = Training(model, reader, task, Singular(model, factors), lambda said, e: 1.0, manner).run()
    assert trained.ended == "All 2 steps were made."
    assert all(step.same for step in trained.steps)
    assert any("in 2 of 2 steps every reward was the same" in note for note in trained.notes)
    varied = Training(
        *(model, reader, task, Singular(model, factors)),
        lambda said, example: float(example.prompt[0] == "a"),
        Manner(steps=2, batch=24),
    ).run()
    assert not any(step.same for step in varied.steps)
    assert not any("same" in note for note in varied.notes)


@pytest.mark.parametrize(
    ("stopped_at", "told"), [(2, "nothing of this training is kept"), (6, "after step 4")]
)
def test_an_interrupt_says_which_step_the_same_training_goes_on_from(
    model, reader, factors, tmp_path, stopped_at, told
):
    def interrupt(label: str, done: int, total: int) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    training = Training(
        *(model, reader, bandit("k"), Singular(model, factors), reward_named("exact")),
        Manner(method="supervised", steps=9, batch=4, every=4),
        state=tmp_path / "state.pt",
        progress=interrupt,
    )
    with pytest.raises(KeyboardInterrupt) as stopped:
        training.run()
    (note,) = stopped.value.__notes__
    assert told in note
    assert (tmp_path / "state.pt").exists() == (stopped_at > 4)


def test_randomized_factors_are_told_with_their_error(factors):
    from dataclasses import replace

    from superweights.verbs.adapt_train import _of_factors

    assert _of_factors(factors) == []
    path = next(iter(factors))
    drawn = {**factors, path: replace(factors[path], method="randomized", error=3e-4, energy=0.987)}
    (note,) = _of_factors(drawn)
    assert "3.0e-04" in note
    assert "98.7 %" in note


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "guess"},
        {"kl_direction": "up"},
        {"rate": 0},
        {"rate": 1e38},
        {"steps": 0},
        {"kl": math.nan},
    ],
)
def test_manners_that_cannot_be_are_refused(wrong):
    with pytest.raises(SuperweightsError):
        Manner(**wrong)


def test_lora_is_off_exactly_and_leaves_the_model_as_it_was(model, reader):
    ids = torch.arange(12).reshape(1, 12)
    base, modules = model(ids).logits, [name for name, _ in model.named_modules()]
    paths, rank = lora_like(matrices_of(model, "mlp"), 6 * 64)
    low = LowRank(model, paths, rank)
    try:
        manner = Manner(method="supervised", steps=2, batch=4, rate=0.1)
        Training(model, reader, bandit("k"), low, reward_named("exact"), manner).run()
        assert not torch.equal(model(ids).logits, base)
        with low.off():
            assert torch.equal(model(ids).logits, base)
    finally:
        low.close()
    assert torch.equal(model(ids).logits, base)
    assert [name for name, _ in model.named_modules()] == modules


def test_lora_is_as_large_as_asked(model):
    matrices = matrices_of(model, "mlp")
    each = sum(sum(m.shape) for m in matrices)
    assert lora_like(matrices, 3 * each) == (tuple(m.path for m in matrices), 3)
    paths, rank = lora_like(matrices, each // 2)
    assert (len(paths), rank) == (3, 1)


def test_a_sparse_support_moves_its_weights_and_no_other(model, reader):
    matrices = matrices_of(model, "mlp")
    chosen = support(model, matrices, "random", 40, seed=1)
    learner = Sparse(model, chosen)
    manner = Manner(method="supervised", steps=2, batch=4, rate=0.1, every=1)
    before = {m.path: model.get_submodule(m.path).weight.detach().clone() for m in matrices}
    Training(model, reader, bandit("k"), learner, reward_named("exact"), manner).run()
    with learner.on():
        for path, weight in before.items():
            moved = (model.get_submodule(path).weight != weight).flatten().nonzero()[:, 0]
            assert set(moved.tolist()) <= set(chosen.get(path, torch.tensor([])).tolist())
        assert any(
            not torch.equal(model.get_submodule(path).weight, weight) for path, weight in before.items()
        )
    assert all(torch.equal(model.get_submodule(path).weight, weight) for path, weight in before.items())


def test_supports_are_what_they_are_called(model):
    matrices = matrices_of(model, "mlp")
    values = torch.cat([model.get_submodule(m.path).weight.detach().abs().flatten() for m in matrices])
    for kind, largest in (("largest", True), ("smallest", False)):
        chosen = support(model, matrices, kind, 25)
        found = torch.cat(
            [model.get_submodule(p).weight.detach().abs().flatten()[i] for p, i in chosen.items()]
        )
        assert torch.equal(found.sort().values, values.topk(25, largest=largest).values.sort().values)
    address = Address("model.layers.1.mlp.down_proj.weight", (5, 7))
    named = support(model, matrices, "super", 1, addresses=[address])
    assert named["model.layers.1.mlp.down_proj"].tolist() == [5 * 96 + 7]
    drawn = support(model, matrices, "random", 500, addresses=[address], seed=2)
    assert sum(map(len, drawn.values())) == 500
    with pytest.raises(SuperweightsError, match="none of the matrices"):
        support(model, matrices[:1], "super", 1, addresses=[address])
    with pytest.raises(SuperweightsError, match="weights among"):
        support(model, matrices, "odd", 5)


def test_completions_of_a_batch_are_those_of_each_prompt_alone(model, reader):
    prompts = ["a", "what is it? ", "12+3="]
    together = complete(model, reader, prompts, new_tokens=4)
    alone = [complete(model, reader, [prompt], new_tokens=4)[0] for prompt in prompts]
    assert [c.text for c in together] == [c.text for c in alone]
    one = complete(model, reader, prompts, new_tokens=1)
    assert [c.ids[0] for c in one] == [c.ids[0] for c in together]


def test_scores_are_transformers_own_log_probabilities(model, reader):
    pairs = [(reader.prompt("abc"), reader.answer("de")), (reader.prompt("a longer one"), reader.answer("x"))]
    with torch.no_grad():
        found = score(model, pairs).of_tokens()
        wanted = []
        for prompt, answer in pairs:
            log_p = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            wanted += [log_p[len(prompt) - 1 + i, token] for i, token in enumerate(answer)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)


@pytest.mark.parametrize(
    ("reward", "said", "answer", "choices", "worth"),
    [
        (exact, " 12 ", "12", (), 1), (exact, "12.", "12", (), -1), (starts, " Paris.", "Paris", (), 1),
        (starts, "Parisian", "Paris", (), -1), (choice, "I say b, not a", "b", ("a ", "b"), 1),
        (choice, "green tea", "tea", ("green", "tea"), -1), (choice, "nothing", "a", ("a1", "a"), -1),
        (number, "so 1,200 it is", "1200", (), 1), (number, "3 or 4", "3", (), -1), (number, "none", "3", (), -1),
    ],
)  # fmt: skip
def test_rewards_say_what_is_right(reward, said, answer, choices, worth):
    assert reward(said, Example("?", answer, choices)) == worth


def test_a_user_s_function_rewards_and_what_is_no_number_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("def long(said, example):\n    return len(said) or None\n")
    reward = reward_named(f"{tmp_path}/own.py:long")
    assert reward("abc", Example("?", "!")) == 3.0
    with pytest.raises(SuperweightsError, match="gave None"):
        reward("", Example("?", "!"))
    (tmp_path / "own.py").write_text("def broken(said, example):\n    return said.worth\n")
    with pytest.raises(SuperweightsError, match="AttributeError") as failed:
        reward_named(f"{tmp_path}/own.py:broken")("abc", Example("?", "!"))
    assert "line 2 of" in failed.value.hint
    for wrong in ("none", f"{tmp_path}/own.py:short", f"{tmp_path}/other.py:long"):
        with pytest.raises(SuperweightsError):
            reward_named(wrong)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "a"}', "has no 'answer'"), ("{", "is not JSON"), ('["a"]', "is no object"),
        ('{"prompt": "", "answer": "b"}', "needs a prompt"), ('{"prompt": "a", "answer": null}', "needs a prompt"),
        ('{"prompt": "a", "answer": "b", "split": "dev"}', "has the split"),
        ('{"prompt": "a", "answer": "b", "choices": ["c"]}', "none of its choices"),
    ],
)  # fmt: skip
def test_a_task_file_with_something_missing_is_told_by_its_line(tmp_path, line, told):
    good = "".join(f'{{"prompt": "{n}", "answer": "b"}}\n' for n in range(3))
    (tmp_path / "task.jsonl").write_text(good + line + "\n")
    with pytest.raises(SuperweightsError, match=f"line 4.*{told}"):
        read_task(tmp_path / "task.jsonl")


def test_a_task_is_split_without_a_prompt_on_two_sides(tmp_path):
    lines = "".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(20))
    (tmp_path / "task.jsonl").write_text(lines)
    task = read_task(tmp_path / "task.jsonl")
    parts = [{e.prompt for e in getattr(task, split)} for split in SPLITS]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20
    (tmp_path / "twice.jsonl").write_text(lines + '{"prompt": "3", "answer": "4"}\n')
    with pytest.raises(SuperweightsError, match="twice"):
        read_task(tmp_path / "twice.jsonl")
    with pytest.raises(SuperweightsError, match="none for"):
        split_task("few", [(Example("a", "b"), "train")])


def test_made_tasks_are_right_and_the_same_for_a_seed():
    for name in MADE:
        assert made_task(name, seed=1) == made_task(name, seed=1)
        assert made_task(name, seed=1) != made_task(name, seed=2)
    for e in made_task("arithmetic").train:
        a, b = e.prompt.splitlines()[-1].rstrip("=").split("+")
        assert int(a) + int(b) == int(e.answer)
    for e in made_task("copying").train:
        assert e.prompt.splitlines()[-1].split()[1] == e.answer.strip()
    capitals = [e for e in made_task("relations").train if "capital of" in e.prompt]
    known = dict(next(r for r in read_relations() if r.name == "capital").pairs)
    for e in capitals:
        asked = e.prompt.splitlines()[-1].removeprefix("The capital of ").removesuffix(" is")
        assert known[asked] == e.answer.strip()
        assert f"of {asked} is {known[asked]}" not in e.prompt
    assert capitals
    with pytest.raises(SuperweightsError, match="no task of that name"):
        task_named("no such")


def hub_of(monkeypatch, **splits):
    """The Hub as it would answer: `datasets`' own types, made here."""
    asked = []

    def load(name, config):
        asked.append((name, config))
        return datasets.DatasetDict({k: datasets.Dataset.from_list(rows) for k, rows in splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_data_set_of_the_hub_is_a_task_in_its_own_splits(monkeypatch):
    rows = [{"question": f"{n} and 1?", "answer": f"Add them. #### {n + 1}"} for n in range(20)]
    asked = hub_of(monkeypatch, train=rows[:12], test=rows[8:])
    task = task_named("hub:openai/gsm8k:main")
    assert asked == [("openai/gsm8k", "main")]
    assert {e.prompt for e in task.test} == {row["question"] for row in rows[8:]}  # what is in both judges
    assert (len(task.train), len(task.valid)) == (7, 1)
    assert number("It is 9.", next(e for e in task.test if e.prompt.startswith("8"))) == 1


@pytest.mark.parametrize("answer", [1, "B", "dog"])
def test_choices_of_the_hub_are_known_by_place_label_or_text(monkeypatch, answer):
    held = {"text": ["cat", "dog"], "label": ["A", "B"]}
    hub_of(
        monkeypatch,
        train=[{"question": f"Who barks, {n}?", "answer": answer, "choices": held} for n in range(9)],
    )
    task = task_named("hub:somebody/animals")
    assert {e.answer for e in (*task.train, *task.valid, *task.test)} == {"dog"}
    assert task.train[0].choices == ("cat", "dog")


def test_data_sets_that_cannot_be_asked_are_told(monkeypatch):
    hub_of(monkeypatch, train=[{"text": "Once upon a time"}])
    with pytest.raises(SuperweightsError, match="row 0 of train of hub:a/b has no text and answer"):
        task_named("hub:a/b")

    def away(*_):
        raise ConnectionError("no way to the Hub")

    monkeypatch.setattr(datasets, "load_dataset", away)
    with pytest.raises(SuperweightsError, match="no way to the Hub"):
        task_named("hub:a/b")


@pytest.mark.parametrize(
    "choices", [5, {"text": None}, {"text": ["a", "b"], "label": 3}, {"label": ["A"]}, "a or b"], ids=repr
)
def test_choices_of_the_hub_that_are_no_list_are_told(monkeypatch, choices):
    hub_of(monkeypatch, train=[{"question": f"{n}?", "answer": "A", "choices": choices} for n in range(9)])
    with pytest.raises(SuperweightsError, match="row 0 of train of hub:a/b has choices that are no list"):
        task_named("hub:a/b")


def test_a_data_set_without_a_name_and_one_that_cannot_be_made_are_told(tmp_path):
    with pytest.raises(SuperweightsError, match="names no data set"):
        task_named("hub:")
    (tmp_path / "train.jsonl").write_text('{"question": "a", "answer": "b"}\nnonsense\n')
    with pytest.raises(SuperweightsError, match="cannot be read: JSON parse error"):
        task_named(f"hub:{tmp_path}")


@pytest.mark.parametrize("error", [RuntimeError("Dataset scripts are no longer supported"), OSError()])
def test_what_datasets_raises_over_a_data_set_is_told(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        SuperweightsError, match=r"The data set a/b cannot be read: (Dataset scripts|OSError)"
    ):
        task_named("hub:a/b")


@pytest.mark.parametrize("choices", [5, "b", {"b": 1}], ids=repr)
def test_choices_of_a_file_that_are_no_list_are_told_with_the_line(tmp_path, choices):
    (tmp_path / "task.jsonl").write_text(json.dumps({"prompt": "a", "answer": "b", "choices": choices}))
    with pytest.raises(SuperweightsError, match="line 1 has choices that are no list"):
        task_named(str(tmp_path / "task.jsonl"))


def test_the_cross_entropy_method_finds_the_optimum_of_a_quadratic():
    best = torch.tensor([0.3, 0.8, 0.1])
    found = evolve(lambda a: (-(a - best).square().sum().item(), 0.0), 3, Search(iterations=30))
    assert torch.allclose(torch.tensor(found.alpha), best, atol=0.02)
    assert list(found.history) == sorted(found.history)


def test_likelihood_orders_members_where_accuracy_ties():
    found = evolve(lambda a: (1.0, -((a[0].item() - 0.6) ** 2)), 1, Search(iterations=20))
    assert abs(found.alpha[0] - 0.6) < 0.02


def test_mixing_chooses_the_expert_that_answers_and_refuses_test_prompts(model, reader, factors):
    task = bandit("k")
    learner = Singular(model, factors)
    manner = Manner(method="supervised", steps=20, batch=12, rate=0.05, every=5)
    z = Training(model, reader, task, learner, reward_named("exact"), manner).run().numbers
    good = Expert("good", z, "tiny", "f")
    bad = Expert("bad", {path: torch.ones_like(each) for path, each in z.items()}, "tiny", "f")
    search = Search(population=6, iterations=3)
    found = mix_by_shots(
        model, reader, factors, [good, bad], task, task.train[:4], reward_named("exact"), search
    )
    assert found.fitness[0] == 1.0
    assert found.alpha[0] > found.alpha[1]
    with pytest.raises(SuperweightsError, match="also a test prompt"):
        mix_by_shots(model, reader, factors, [good, bad], task, task.test[:2], exact, search)
    with pytest.raises(SuperweightsError, match="no shots"):
        mix_by_shots(model, reader, factors, [good, bad], task, (), exact, search)


def test_continuations_of_one_prompt_are_scored_from_its_cache_as_each_by_itself(model, reader):
    prompt, after = reader.prompt("abc def?"), [reader.answer(text) for text in ("k", "klm", "no")]
    shared = continued(model, prompt, after)
    assert shared is not None
    for found, tokens in zip(shared, after, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
        wanted = torch.stack([logits[len(prompt) - 1 + n, t] for n, t in enumerate(tokens)])
        assert torch.allclose(found, wanted, atol=1e-5)


def test_the_log_likelihood_is_of_whole_answers(model, reader):
    examples = [Example("ab", "cd"), Example("x", "y")]
    pairs = [(reader.prompt(e.prompt), reader.answer(e.answer)) for e in examples]
    with torch.no_grad():
        wanted = score(model, pairs).of_tokens().sum().item() / 2
    assert math.isclose(mean_log_likelihood(model, reader, examples), wanted, rel_tol=1e-5)


def test_rewarded_counts_the_model_s_own_answers(model, reader):
    said = complete(model, reader, ["ag?"], new_tokens=1)[0].text
    task = split_task("t", [(Example(f"{n}", said), None) for n in range(6)], new_tokens=1, stop=None)
    assert rewarded(model, reader, task, [Example("ag?", said), Example("ag?", "no")], exact).tolist() == [
        1.0,
        -1.0,
    ]


def test_what_a_killed_run_left_of_a_training_that_is_done_is_cleared_at_the_next_start(tmp_path):
    to, state = tmp_path / "sums", tmp_path / f".sums.{16 * 'a'}.training" / "state.pt"
    to.mkdir()
    (to / "expert.json").write_text("{}")
    state.parent.mkdir()
    for leftover in (state, state.with_name(".state.pt.1.partial")):
        leftover.write_bytes(b"x")
    with pytest.raises(SuperweightsError, match="is not an empty folder"):
        superweights.adapt_train("embedded", bandit("z"), to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sums"]
