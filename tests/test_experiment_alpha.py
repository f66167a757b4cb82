"""Laws of the numbers in the figures that answer to the α-DPO paper, against values that their code does not use."""

import numpy as np
import pytest

from didsim import Policy, kl
from didsim.experiment import load_experiment, seeds
from didsim.worlds import bradley_terry, length_bias

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

SEEDS = seeds(3)


def cell(name, **changes):
    """Return the rows of one cell of an experiment, of its full plan but for few seeds and these changes."""
    experiment = load_experiment(name)
    first = experiment.spec.cells()[0]
    return experiment.module.run_cell({**first, "seed": SEEDS, **changes})


def values(rows, quantity, by):
    """Return a quantity, with rows for seeds and columns for the points of a curve."""
    return rows[rows["quantity"] == quantity].pivot_table(index="seed", columns=by, values="value")


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


def js(p, q):
    middle = 0.5 * (p + q)
    return 0.5 * (p @ np.log(p / middle) + q @ np.log(q / middle))


# --- alpha_table2 -----------------------------------------------------------------------------------------


def ends(variant, lengths="equal lengths", **changes):
    return cell("alpha_table2", lengths=lengths, variant=variant, **changes)


def test_without_z_scores_a_variant_without_a_margin_ends_on_the_path_away_from_the_reference():
    """π ∝ π_ref (π_0/π_ref)^{1/(1−αβ)} with π_0 ∝ e^{r/β}, for α counts β times; and DPO at π_ref e^{r/β}."""
    found = values(ends("no z-score", gamma=0.0, alpha=(0.0, 0.1)), "js_target", "x")
    dpo = values(ends("dpo"), "js_target", "x")[0.0]
    for seed in SEEDS:
        world = bradley_terry(15, seed=seed)
        log_ref, reward = world.reference.log_probs, world.target.log_probs - world.reference.log_probs
        for alpha in (0.0, 0.1):
            policy = softmax(log_ref + (reward / 2.5 - log_ref) / (1.0 - 2.5 * alpha))
            assert found.loc[seed, alpha] == pytest.approx(js(world.target.probs, policy), abs=1e-9)
        assert dpo[seed] == pytest.approx(js(world.target.probs, softmax(log_ref + reward / 2.5)), abs=1e-9)


@pytest.mark.parametrize("lengths", ["equal lengths", "unequal lengths"])
def test_at_zero_all_forms_are_simpo_and_normalisation_matters_for_unequal_lengths(lengths):
    at_zero = {
        name: values(ends(name, lengths, alpha=(0.0,)), "win_rate", "x")[0.0].to_numpy()
        for name in ("ratio", "no z-score", "no stop", "policy", "reference", "inverse", "TDPO's δ", "no lengths")
    }
    plain = at_zero.pop("no lengths")
    for name, found in at_zero.items():
        np.testing.assert_allclose(found, at_zero["ratio"], atol=1e-9, err_msg=name)
    assert np.allclose(plain, at_zero["ratio"], atol=1e-9) == (lengths == "equal lengths")


def test_the_reference_pulls_with_one_sign_and_pushes_with_the_other_and_single_decisions_have_one_divergence():
    """U π_ref^α leads from SimPO towards DPO, whose distance to the target is less; the inverse leads away."""
    changes = {
        name: values(ends(name, alpha=(0.0, 0.2)), "js_target", "x").diff(axis=1)[0.2]
        for name in ("reference", "inverse", "TDPO's δ")
    }
    assert (changes["reference"] < -1e-3).all()
    assert (changes["inverse"] > 1e-3).all()
    assert (changes["TDPO's δ"].abs() < 1e-12).all()


def test_a_win_rate_is_that_of_a_loop_over_rewards():
    found = values(ends("dpo"), "win_rate", "x")[0.0]
    for seed in SEEDS:
        world = bradley_terry(15, seed=seed)
        reward = world.target.log_probs - world.reference.log_probs
        policy = softmax(world.reference.log_probs + reward / 2.5)
        expected = sum(
            policy[i] * world.reference.probs[j] / (1.0 + np.exp(reward[j] - reward[i]))
            for i in range(15)
            for j in range(15)
        )
        assert found[seed] == pytest.approx(expected, abs=1e-9)


# --- alpha_fig2 -------------------------------------------------------------------------------------------


def test_where_rejected_responses_are_uniform_the_margin_of_the_reference_is_its_distance_from_uniform():
    """At τ = 1/2 rejected responses are uniform: the margin is KL(π_ref‖U) + KL(U‖π_ref)."""
    rows = cell("alpha_fig2", world="DID, τ = 1/2", num_classes=5, steps=400, record_every=1, objective=("dpo",))
    batches = values(rows[rows["series"] == "batch"], "margin", "step").mean(axis=1)
    ranked = values(rows, "ranked", "step")[0]
    for seed in SEEDS:
        p = softmax(np.random.default_rng(seed).standard_normal(5))
        assert batches[seed] == pytest.approx(p @ np.log(5.0 * p) - np.log(5.0 * p).mean(), abs=0.05)
        likelier = (p[:, None] > p).sum(axis=1) + 0.5  # of five, and itself half
        assert ranked[seed] == pytest.approx(p @ likelier / 5.0, abs=1e-12)


# --- alpha_fig3 -------------------------------------------------------------------------------------------


def test_for_responses_of_the_reference_the_sequential_divergence_is_the_divergence():
    problem = length_bias(2, 3, seed=42)
    other = Policy.from_logits(np.random.default_rng(0).standard_normal((4, problem.num_classes)))
    found = load_experiment("alpha_fig3").module._sequential_kl(problem, other)
    np.testing.assert_allclose(found @ problem.reference.probs, kl(problem.reference, other), atol=1e-12)


# --- alpha_fig4_6 -----------------------------------------------------------------------------------------


def test_simpo_without_a_margin_learns_the_margins_of_the_true_reward():
    rows = cell("alpha_fig4_6", objective="simpo", gamma=(0.0,), points=801, steps=1500)
    spread, centre = values(rows, "margin_sd", "number")[0.0], values(rows, "margin_mean", "number")[0.0]
    density = values(rows, "margin", "x")
    for seed in SEEDS:
        world = length_bias(2, 4, bias=0.0, seed=seed)
        reward, law = world.target.log_probs - world.reference.log_probs, world.pairs - np.diag(np.diag(world.pairs))
        margins, law = reward[:, None] - reward, law / law.sum()
        mean = (law * margins).sum()
        assert centre[seed] == pytest.approx(mean, abs=2e-3)
        assert spread[seed] == pytest.approx(np.sqrt((law * (margins - mean) ** 2).sum()), abs=2e-3)
        x = density.columns.to_numpy()
        inside = law[(margins > x[0]) & (margins < x[-1])].sum()
        assert density.loc[seed].sum() * (x[1] - x[0]) == pytest.approx(inside, abs=0.01)
