"""Laws of the numbers in the figures that answer to the RMiPO paper, against values that their code does not use."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from didsim import Pairs, bayes_accuracy, marginal, objective, pmi, solve
from didsim.experiment import load_experiment, seeds
from didsim.worlds import boilerplate, length_bias

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

ABLATION, SIGNALS, SENSITIVITY, DYNAMICS = map(
    load_experiment, ("rmipo_table3", "rmipo_fig3", "rmipo_fig2", "rmipo_fig6_7")
)
SMALL = {"seed": seeds(2), "num_prompts": 2, "num_classes": 4, "num_popular": 1}


def cell(experiment, number=0, **changes):
    """Return the rows of one cell, of the full plan but for a small world and these changes."""
    return experiment.module.run_cell({**experiment.spec.cells()[number], **SMALL, **changes})


# --- rmipo_table3 -----------------------------------------------------------------------------------------


def test_an_unprompted_model_that_says_what_the_policy_does_on_average_changes_nothing():
    """At RMiPO's stationary policy the marginal is some ζ(y): given that ζ, the policy is stationary too."""
    problem = boilerplate(num_prompts=2, num_classes=4, num_popular=1)
    policy = solve(problem, objective("rmipo")).policy
    given = replace(problem, prior=marginal(policy, problem.prompts))
    again = solve(given, ABLATION.module._UNPROMPTED.bind(), initial_policy=policy, starts=1)
    np.testing.assert_allclose(again.policy.log_probs, policy.log_probs, atol=1e-7)
    other = solve(problem, ABLATION.module._UNPROMPTED.bind(), initial_policy=policy, starts=1)
    assert np.abs(other.policy.log_probs - policy.log_probs).max() > 1e-3


def test_the_margins_are_those_of_the_papers_formula():
    problem = boilerplate(num_prompts=2, num_classes=4, num_popular=1)
    information = pmi(problem.target, problem.prompts)
    rows = ABLATION.module._distribution(problem, information)
    total = mean = at_most = 0.0
    for x in range(2):
        for i in range(4):
            for j in range(4):
                if i != j:
                    evidence = information[x, i] - information[x, j]
                    total += problem.pairs[x, i, j]
                    mean += problem.pairs[x, i, j] * (0.3 + 1.3 * np.exp(-max(0.0, evidence)))
                    at_most += problem.pairs[x, i, j] * (evidence <= 0.0)
    assert rows[-1] == ("mean", 0, pytest.approx(mean / total, abs=1e-12))
    shares = [share for quantity, _, share in rows if quantity == "share"]
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    assert shares[-1] >= at_most / total - 1e-12


def test_with_no_bias_the_labeller_of_unequal_lengths_is_the_truth():
    rows = cell(ABLATION, 1, bias=0.0)
    rates = rows.pivot_table(index=["panel", "series", "seed"], columns="quantity", values="value")
    np.testing.assert_allclose(rates["win_rate"], rates["win_rate_truth"], atol=1e-12)
    plain = rates.xs("dpo", level="series").loc["without", "js_target"]
    assert (plain < 1e-12).all()


def test_simper_that_is_not_normalised_ends_on_the_response_that_is_most_often_rather_chosen_than_rejected():
    """Σ_i (l_i − w_i) π_i is linear in π, and so least in a corner."""
    rows = cell(ABLATION, 1, max_length=2)
    found = rows[(rows["panel"] == "without") & (rows["series"] == "simper") & (rows["quantity"] == "win_rate")]
    for seed, rate in zip(found["seed"], found["value"], strict=True):
        problem = length_bias(2, 2, 0.5, num_prompts=2, seed=seed)
        best = (problem.pairs - problem.pairs.swapaxes(1, 2)).sum(axis=2).argmax(axis=1)
        wins = [problem.preferences[x, best[x]] @ problem.reference.probs[x] for x in range(2)]
        assert rate == pytest.approx(np.mean(wins), abs=1e-6)


# --- rmipo_fig3 -------------------------------------------------------------------------------------------


def test_what_mutual_information_removes_is_the_same_for_every_prompt():
    problem = boilerplate(num_prompts=3, num_classes=5, num_popular=2)
    plain, by_marginal, by_prior = SIGNALS.module._signals(problem, problem.target).values()
    for signal in (by_marginal, by_prior):
        removed = plain - signal
        np.testing.assert_allclose(removed, np.broadcast_to(removed[0], removed.shape), atol=1e-12)
    average = np.log(problem.target.probs.mean(axis=0))
    np.testing.assert_allclose((plain - by_marginal)[0], average[:, None] - average, atol=1e-12)


def test_at_the_reference_the_gap_favours_popular_responses_by_what_was_added():
    """Their logits are N(popularity, 1) against N(0, 1); pairs are weighted by π_ref, hence a loop."""
    problem = boilerplate(num_prompts=2, num_classes=6, num_popular=2)
    popular = np.arange(6) < 2
    signals = SIGNALS.module._signals(problem, problem.reference)
    rows = SIGNALS.module._by_prompt(problem, signals["Δ log π"], popular)
    order = np.argsort(-problem.reference.probs[:, :2].sum(axis=1))
    for (_, rank, found), prompt in zip(rows, order, strict=True):
        p = problem.reference.probs[prompt]
        pairs = [(p[i] * p[j], np.log(p[i] / p[j])) for i in range(2) for j in range(2, 6)]
        expected = sum(w * gap for w, gap in pairs) / sum(w for w, _ in pairs)
        assert found == pytest.approx(expected, abs=1e-12), rank


# --- rmipo_fig2 -------------------------------------------------------------------------------------------


def test_simpo_at_another_beta_is_the_same_ranking():
    """β log π is the same at every β: β changes how sharp a policy is, and no order of responses, which is the best."""
    rows = cell(SENSITIVITY, 1, betas=(1.0, 2.0, 4.0), gammas=(0.0, 2.0))
    over = rows[rows["panel"] == "β"].pivot_table(index=["seed", "quantity"], columns="x", values="value")
    best = [bayes_accuracy(boilerplate(num_prompts=2, num_classes=4, num_popular=1, seed=s)) for s in SMALL["seed"]]
    for accuracy in over.xs("accuracy", level="quantity").to_numpy().T:
        np.testing.assert_allclose(accuracy, best, atol=1e-12)
    assert (over.xs("win_rate", level="quantity")[1.0] > over.xs("win_rate", level="quantity")[4.0]).all()


def test_dpo_ends_at_the_truth_at_its_beta_and_at_a_power_of_it_elsewhere():
    rows = cell(SENSITIVITY, 0, betas=(1.0, 2.0))
    for seed in SMALL["seed"]:
        problem = boilerplate(num_prompts=2, num_classes=4, num_popular=1, seed=seed)
        found = rows[rows["seed"] == seed].set_index(["quantity", "x"])["value"]
        assert found["js_target", 1.0] < 1e-12
        half = problem.reference.probs * np.sqrt(problem.target.probs / problem.reference.probs)
        half /= half.sum(axis=1, keepdims=True)
        wins = [half[x] @ problem.preferences[x] @ problem.reference.probs[x] for x in range(2)]
        assert found["win_rate", 2.0] == pytest.approx(np.mean(wins), abs=1e-9)


# --- rmipo_fig6_7 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in DYNAMICS.module._LOSSES if name != "epsilon_dpo"])  # sees tokens
def test_a_step_is_charged_for_what_its_loss_cannot_do_without(name):
    loss, numbers = DYNAMICS.module._LOSSES[name], torch.tensor([-1.0, -2.0])
    whole = {"log_pi": numbers, "length": numbers.abs(), "log_ref": numbers, "log_marginal": numbers}

    def can_do_without(left_out):
        given = {f"{key}_{side}": x for key, x in whole.items() if key != left_out for side in ("chosen", "rejected")}
        try:
            loss(Pairs.from_log_probs(**given))
        except ValueError:
            return False
        return True

    reference, marginal_ = (not can_do_without(key) for key in ("log_ref", "log_marginal"))
    assert DYNAMICS.module._passes(loss, 0.25) == 3.0 + reference + 0.75 * marginal_


def test_rewards_of_dpo_at_the_truth_are_the_true_ones_and_shifted_ones_are_apart_by_the_shift():
    module, problem = DYNAMICS.module, boilerplate(num_prompts=2, num_classes=4, num_popular=1)
    true = module._differences(module._true_reward(problem))
    odds = np.log(problem.pairs / problem.pairs.swapaxes(1, 2))
    np.testing.assert_allclose(true, odds, atol=1e-12)
    found = module._differences(module._reward(objective("dpo", beta=1.0), problem, problem.target.probs))
    weights = np.full(true.shape, 1.0 / true.size)
    assert module._apart(found, true, weights) < 1e-12
    assert module._apart(found + 0.25, true, weights) == pytest.approx(0.25, abs=1e-12)
