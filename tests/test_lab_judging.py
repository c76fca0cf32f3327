"""Verdicts on planted numbers: what the rules say when the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superweights.lab.claims import claims
from superweights.lab.columns import COLUMNS
from superweights.lab.comparison import cell, compared
from superweights.lab.judging import Spread, best_rate, judge, judge_arm
from superweights.lab.profile import Profile
from superweights.lab.recipe import Recipe
from superweights.lab.result import Result
from superweights.lab.suites import SUITES, Arm, Sign, Suite

pytestmark = pytest.mark.unit

PROFILE = Profile(
    rows=4, tokens=48, parameters=1000, loss=3.0, loss_by_role={}, uniform_mass=0.074, argmax_share=0.5, mass=0.2,
    mass_proxy=0.2, sink_rate=0.0, sink_rate_proxy=0.0, largest_alpha=0.2, mass_by_role={}, row_sum=1.0, nowhere=0.0,
    causal_zeros=0.0, dead_heads=0.0, value_drain=0.5, peak_first=50.0, peak_others=40.0, norm_ratio=1.5, massive=0.0,
    max_median_ratio=20.0, kurtosis_channel_first=20.0, kurtosis_channel_others=6.0, kurtosis_neuron=4.0,
    kurtosis_flat=9.0, rotated_first={"random": 3.0}, rotated_others={"random": 3.0},
)  # fmt: skip
START = replace(PROFILE, argmax_share=0.074, kurtosis_channel_first=3.5)


def run(
    argmax=0.5,
    kurtosis=20.0,
    *,
    seed=0,
    loss=3.0,
    parameters=1000,
    tokens=100,
    status="done",
    own=None,
    **more,
):
    rotated = {"random": 3.0} | ({} if own is None else {"own": own})
    end = replace(
        PROFILE, argmax_share=argmax, kurtosis_channel_first=kurtosis, loss=loss, rotated_first=rotated
    )
    done = status == "done"
    return Result(
        Recipe(seed=seed), status, None if done else "why", 10, tokens, 1.0, 1.0, 1, None, 8000, {},
        replace(START, parameters=parameters), replace(end, parameters=parameters, **more) if done else None,
    )  # fmt: skip


def seeds(*argmaxes, **more):
    return {seed: run(value, seed=seed, **more) for seed, value in enumerate(argmaxes)}


CONTROL = ("control", seeds(0.5, 0.4, 0.3))


def word(arm, control=CONTROL, phenomenon="sink", **more):
    return judge_arm("arm", phenomenon, arm, control, **more)


def test_gone_in_every_seed_is_prevented():
    verdict = word(seeds(0.05, 0.1, 0.14))
    assert (verdict.word, verdict.lower, verdict.against) == ("prevented", 3, "control")


def test_lower_in_every_seed_and_still_there_is_not_prevented():
    verdict = word(seeds(0.05, 0.1, 0.16))
    assert verdict.word == "not prevented"
    assert "still there in 1 of 3" in verdict.why


def test_higher_in_one_seed_is_not_prevented():
    control = ("control", seeds(0.5, 0.4, 0.15))
    verdict = word(seeds(0.01, 0.01, 0.16), control)
    assert verdict.word == "not prevented"
    assert "lower in 2 of 3" in verdict.why


def test_a_control_that_shows_nothing_in_one_seed_makes_every_verdict_inconclusive():
    verdict = word(seeds(0.01, 0.01, 0.01), ("control", seeds(0.5, 0.4, 0.1)))
    assert verdict.word == "inconclusive"
    assert "control shows it in 2 of 3" in verdict.why


def test_two_seeds_decide_nothing():
    assert word(seeds(0.01, 0.01)).word == "inconclusive"
    assert word(seeds(0.01, 0.01, 0.01), ("control", seeds(0.5, 0.4))).word == "inconclusive"


def test_a_diverged_seed_decides_nothing():
    arm = seeds(0.01, 0.01, 0.01) | {1: run(seed=1, status="diverged")}
    assert "seed 1 diverged at step 10" in word(arm).why


def test_other_parameters_need_a_control_that_has_them():
    arm = seeds(0.01, 0.01, 0.01, parameters=1100)
    verdict = word(arm)
    assert verdict.word == "inconclusive"
    assert "+10.0% parameters" in verdict.why
    wider = {"wider": seeds(0.5, 0.4, 0.3, parameters=1095)}
    assert (word(arm, matched=wider).word, word(arm, matched=wider).against) == ("prevented", "wider")
    assert word(seeds(0.01, 0.01, 0.01, parameters=1009)).word == "prevented"


def test_other_tokens_decide_nothing():
    assert "number of tokens" in word(seeds(0.01, 0.01, 0.01, tokens=200)).why


def test_attention_that_looks_nowhere_sinks_nowhere_and_hidden_attention_is_not_read():
    looks_nowhere = seeds(None, None, None, nowhere=1.0)
    assert word(looks_nowhere).word == "prevented"
    assert word(seeds(None, None, None)).word == "not prevented"


def test_outliers_are_judged_by_kurtosis_beside_the_start():
    low = {seed: run(kurtosis=6.9, seed=seed) for seed in range(3)}
    high = {seed: run(kurtosis=7.1, seed=seed) for seed in range(3)}
    assert word(low, phenomenon="outliers").word == "prevented"
    assert word(high, phenomenon="outliers").word == "not prevented"


def test_outliers_that_stand_in_the_optimizers_basis_are_only_hidden():
    hidden = {seed: run(kurtosis=3.0, own=15.0, seed=seed) for seed in range(3)}
    gone = {seed: run(kurtosis=3.0, own=3.0, seed=seed) for seed in range(3)}
    assert "optimizer's own" in word(hidden, phenomenon="outliers").why
    assert word(gone, phenomenon="outliers").word == "prevented"


def test_the_loss_stands_beside_the_verdict():
    verdict = word(seeds(0.05, 0.1, 0.14, loss=3.2))
    assert verdict.loss.mean == pytest.approx(0.2)


ARMS = (
    Arm("calm", "optimizer.weight_decay", 0.2, "", "paper", prevents=("sink",), claim="50 -> 5 %"),
    Arm("other", "optimizer.name", "sgd", "", "paper", prevents=("outliers",), rates=(0.1, 0.3, 1.0)),
    Arm("fake", "optimizer.beta1", 0.8, "", "paper", negative=True),
)
SUITE = Suite("planted", "", Recipe(), ARMS, rates=(1e-3, 3e-3, 6e-3))


def planted():
    own = SUITE.control.optimizer.learning_rate
    found = {}
    for seed in range(3):
        found["control", own, seed] = run(0.5, seed=seed, loss=3.0)
        found["calm", own, seed] = run(0.05, seed=seed)
        found["fake", own, seed] = run(0.45, kurtosis=19.0, seed=seed)
        # The control's best rate is another one, and there it has a smaller kurtosis.
        found["control", 6e-3, seed] = run(0.6, kurtosis=9.0, seed=seed, loss=2.9)
        found["other", 0.3, seed] = run(0.5, kurtosis=8.0, seed=seed, loss=2.8)
    found["control", 1e-3, 0] = run(loss=3.1)
    found["other", 0.1, 0] = run(loss=2.9)
    found["other", 1.0, 0] = run(status="diverged")
    return found


def test_an_arm_with_another_optimizer_takes_part_at_its_best_rate_against_the_controls_best():
    results = planted()
    assert best_rate(SUITE, results, "other") == 0.3
    judged = judge(SUITE, results)
    verdict = judged.verdict("other", "outliers")
    assert verdict.control == (9.0, 9.0, 9.0)
    assert "still there in 3 of 3" in verdict.why
    row = judged.rows["other"]
    assert [(rate.rate, rate.loss, rate.best) for rate in row] == [
        (0.1, 2.9, False),
        (0.3, 2.8, True),
        (1.0, None, False),
    ]
    assert [rate.status for rate in row] == ["done", "done", "diverged"]  # fmt: skip


def test_an_arm_with_the_controls_optimizer_is_held_against_the_controls_own_rate():
    judged = judge(SUITE, planted())
    assert judged.verdict("calm", "sink").control == (0.5, 0.5, 0.5)
    assert judged.verdict("calm", "sink").word == "prevented"


def test_claims_say_what_held_and_what_did_not():
    rows = {row.claim: row for row in claims(SUITE, judge(SUITE, planted()))}
    calm = rows["calm prevents sinks (paper)"]
    assert (calm.paper, calm.verdict) == ("50 -> 5 %", "holds")
    assert calm.ours.startswith("argmax share of token 0 50% 50% 50% -> 5% 5% 5%, lower in 3 of 3")
    assert "in direction" in rows["other prevents outliers (paper)"].verdict
    assert rows["fake does not prevent sinks (paper)"].verdict == "holds"


def test_a_negative_control_that_prevents_is_told():
    results = planted()
    own = SUITE.control.optimizer.learning_rate
    results |= {("fake", own, seed): run(0.01, seed=seed) for seed in range(3)}
    rows = {row.claim: row for row in claims(SUITE, judge(SUITE, results))}
    assert rows["fake does not prevent sinks (paper)"].verdict.startswith("does not hold")


def test_a_cell_is_the_mean_with_smallest_and_largest():
    loss = next(column for column in COLUMNS if column.title == "loss")
    assert cell(loss, Spread.of([3.0, 3.1, 3.5])) == ("3.2000", "3.0000..3.5000")
    assert cell(loss, Spread.of([3.0])) == ("3.0000", "")
    assert cell(loss, Spread.of([None, float("nan")])) == ("", "")


def test_the_three_kurtoses_are_three_columns():
    titles = [column.title for column in COLUMNS]
    assert len(set(titles)) == len(titles)
    assert {"kurt_channel t=0", "kurt_neuron", "kurt_flat"} <= set(titles)
    table = compared({"one": [run(kurtosis=11.0)]})
    shown = dict(zip((column.title for column in table.columns), table.lines[0].spreads, strict=True))
    assert [shown[each].mean for each in ("kurt_channel t=0", "kurt_neuron", "kurt_flat")] == [11.0, 4.0, 9.0]


# --- signs ----------------------------------------------------------------------------------------------------

SIGNED = Suite(
    "signed",
    "",
    Recipe(),
    (
        Arm("arm", "optimizer.weight_decay", 0.0, "", "source", signs=(Sign("argmax_share", "down", "1 -> 0"),)),
        Arm("other", "seed", 0, "", "source", signs=(Sign("loss", "up", "", against="arm"),)),
    ),
)  # fmt: skip


def signed_rows(arm, other):
    rate = Recipe().optimizer.learning_rate
    held = {"control": seeds(0.5, 0.4, 0.3), "arm": arm, "other": other}
    results = {(name, rate, seed): run for name, runs in held.items() for seed, run in runs.items()}
    return {row.claim.split(":")[0]: row for row in claims(SIGNED, judge(SIGNED, results))}


def test_a_sign_holds_where_the_number_goes_there_with_every_seed():
    rows = signed_rows(seeds(0.4, 0.3, 0.2), seeds(0.1, 0.1, 0.1, loss=3.5))
    assert rows["arm"].verdict == "holds"
    assert rows["arm"].paper == "1 -> 0"
    assert rows["arm"].ours == "0.5 0.4 0.3 -> 0.4 0.3 0.2, down in 3 of 3"
    assert rows["other"].verdict == "holds", "held against the arm that it names"


def test_a_sign_does_not_hold_where_one_seed_disagrees_and_is_open_with_two():
    rows = signed_rows(seeds(0.4, 0.3, 0.35), seeds(0.1, 0.1))
    assert rows["arm"].verdict == "does not hold: down in 2 of 3"
    assert rows["other"].verdict == "open: 2 of 3 seeds"


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_every_suite_can_be_built_and_asks_for_numbers_that_there_are(suite):
    for arm in suite.arms:
        assert suite.recipe(arm.name).architecture.vocabulary == suite.control.architecture.vocabulary
        assert not arm.rates or len(arm.rates) >= 3, "an optimizer's row has three learning rates"
        for sign in arm.signs:
            assert sign.measure in Profile.__dataclass_fields__
            assert sign.against in suite.names
    names = [name for each in SUITES.values() for name in each.names[1:]]
    assert len(names) == len(set(names)), "an arm is asked for by its name alone"
