"""What n pairs determine: the maximum-likelihood policy, its existence, and the rounds of an outer loop."""

import numpy as np
import pytest
from oracles.bradley_terry import choix_scores, newton_scores, sklearn_scores

import didsim as ds
from didsim import Policy, PreferenceDataset, Problem, objective
from didsim.engine._draws import sample_dataset
from didsim.stationary import maximum_likelihood, solve, solve_alternating, solve_rounds

AGREED = 1e-8
"""What the issue asks of the agreement with other libraries, in scores."""


def bradley_terry_pairs(num_classes, size, seed):
    """Pairs compared uniformly, labelled by normal scores."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(num_classes)
    first = rng.integers(0, num_classes, size)
    second = (first + rng.integers(1, num_classes, size)) % num_classes
    wins = rng.random(size) < 1.0 / (1.0 + np.exp(scores[second] - scores[first]))
    return np.where(wins, first, second), np.where(wins, second, first)


def centred(scores):
    return scores - scores.mean()


@pytest.mark.parametrize("fit", [newton_scores, sklearn_scores], ids=["newton", "scikit-learn"])
@pytest.mark.parametrize(("num_classes", "seed"), [(3, 0), (10, 1), (24, 2)])
def test_the_maximum_likelihood_policy_is_the_bradley_terry_fit_of_others(fit, num_classes, seed):
    chosen, rejected = bradley_terry_pairs(num_classes, 300 * num_classes, seed)
    problem = Problem.from_temperature(num_classes, tau=2.0, seed=seed)
    pairs = PreferenceDataset.from_classes(chosen, rejected, num_classes)
    uniform = np.full(num_classes, 1.0 / num_classes)
    result = maximum_likelihood(problem, pairs, prior=uniform)
    assert result.identification.status == "exists"
    assert result.policy is not None
    expected = fit(chosen, rejected, num_classes)
    np.testing.assert_allclose(centred(result.policy.log_probs), expected, rtol=0.0, atol=AGREED)


def test_it_is_choix_own_fit_too():
    chosen, rejected = bradley_terry_pairs(12, 4000, seed=3)
    problem = Problem.from_temperature(12, tau=2.0)
    pairs = PreferenceDataset.from_classes(chosen, rejected, 12)
    result = maximum_likelihood(problem, pairs, prior=np.full(12, 1.0 / 12))
    expected = choix_scores(chosen, rejected, 12, method="ilsr_pairwise")
    assert result.policy is not None
    np.testing.assert_allclose(centred(result.policy.log_probs), expected, rtol=0.0, atol=AGREED)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_with_a_reference_the_log_ratio_is_fitted(beta):
    chosen, rejected = bradley_terry_pairs(6, 2000, seed=4)
    problem = Problem.from_temperature(6, tau=2.0, seed=4)
    result = maximum_likelihood(problem, PreferenceDataset.from_classes(chosen, rejected, 6), beta)
    assert result.policy is not None
    log_ratio = result.policy.log_probs - problem.reference.log_probs
    np.testing.assert_allclose(beta * centred(log_ratio), newton_scores(chosen, rejected, 6), rtol=0.0, atol=AGREED)


def test_it_is_where_the_dataset_is_solved():
    problem = Problem.from_temperature(5, tau=2.0)
    pairs = sample_dataset(problem, 4000, seed=0, batch_size=512)
    by_hand = solve(problem, objective("dpo", beta=0.5), dataset=pairs)
    result = maximum_likelihood(problem, pairs, beta=0.5)
    assert by_hand.policy is not None
    assert result.policy is not None
    np.testing.assert_allclose(result.policy.log_probs, by_hand.policy.log_probs, rtol=0.0, atol=AGREED)


CASES = {
    "separable": ([2, 2, 0], [0, 1, 1], "at-infinity", "boundary"),
    "two groups": ([0, 1, 2, 3], [1, 0, 3, 2], "not-identified", "no-stationary-point"),
    "one never compared": ([0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2], "not-identified", "no-stationary-point"),
    "a cycle": ([0, 1, 2, 3], [1, 2, 3, 0], "exists", "converged"),
}


@pytest.mark.parametrize(("chosen", "rejected", "identified", "status"), CASES.values(), ids=CASES)
def test_the_graph_and_the_solver_agree_on_what_exists(chosen, rejected, identified, status):
    size = 3 if identified == "at-infinity" else 4
    problem = Problem.from_temperature(size, tau=2.0, seed=1)
    result = maximum_likelihood(problem, PreferenceDataset.from_classes(chosen, rejected, size))
    assert result.identification.status == identified
    assert result.solution.status == status
    assert (result.policy is None) == (status != "converged")
    assert (result.information is None) == (status != "converged")
    assert result.sentence == result.identification.sentence


def test_the_survivors_of_separable_pairs_are_those_whom_nobody_beats():
    problem = Problem.from_temperature(3, tau=2.0, seed=1)
    result = maximum_likelihood(problem, PreferenceDataset.from_classes([2, 2, 0], [0, 1, 1], 3))
    assert result.solution.survivors.tolist() == [False, False, True]
    np.testing.assert_array_equal(result.solution.survivors, np.ravel(result.identification.survivors))


def test_its_error_is_what_was_predicted():
    problem, size = Problem.from_temperature(4, tau=2.0, seed=0), 4000
    errors = []
    for seed in range(60):
        pairs = sample_dataset(problem, size, seed=seed, batch_size=512)
        policy = maximum_likelihood(problem, pairs).policy
        assert policy is not None
        errors.append(float(ds.kl(problem.target, policy)))
    predicted = maximum_likelihood(problem, pairs).predicted
    assert predicted is not None
    # 60 draws of a χ² of 3 degrees of freedom: a relative standard error of sqrt(2/(3·60)) = 0.105; five of them
    assert abs(np.mean(errors) / predicted.kl - 1.0) < 0.53


def test_no_error_is_predicted_where_the_population_has_no_optimum():
    world = Problem(
        Policy.from_probs([0.5, 0.5]),
        Policy.from_probs([0.5, 0.5]),
        Policy.from_probs([1.0, 0.0]),
        Policy.from_probs([0.5, 0.5]),
    )
    pairs = PreferenceDataset.from_classes([0, 1], [1, 0], 2)
    assert maximum_likelihood(world, pairs).predicted is None


# --- rounds ---------------------------------------------------------------------------------------------


def test_rounds_of_dpo_tend_to_the_response_of_the_greatest_ratio():
    problem = Problem.from_temperature(6, tau=2.0, seed=3)
    last = solve_rounds(problem, objective("dpo", beta=0.5), starts=1)[-1]
    ratio = problem.chosen.log_probs - problem.rejected.log_probs
    assert last.status == "boundary"
    assert np.flatnonzero(last.survivors).tolist() == [int(np.argmax(ratio))]
    assert last.policy is not None
    assert last.policy.probs.sum() == 1.0


def test_each_round_of_dpo_adds_the_log_ratio_of_chosen_to_rejected():
    problem = Problem.from_temperature(6, tau=2.0, seed=3)
    first = solve_rounds(problem, objective("dpo", beta=0.5), rounds=2, starts=1)[0]
    assert first.policy is not None
    expected = problem.reference.log_probs + 2.0 * (problem.chosen.log_probs - problem.rejected.log_probs)
    np.testing.assert_allclose(first.policy.log_probs, Policy.from_logits(expected).log_probs, rtol=0.0, atol=1e-12)


def test_an_objective_without_a_reference_is_at_its_fixed_point_at_once():
    problem = Problem.from_temperature(6, tau=2.0, seed=3)
    solutions = solve_rounds(problem, objective("simpo"), starts=1)
    assert [solution.status for solution in solutions] == ["converged", "converged"]
    assert solutions[0].policy is not None
    assert solutions[1].policy is not None
    np.testing.assert_allclose(solutions[0].policy.log_probs, solutions[1].policy.log_probs, rtol=0.0, atol=1e-8)


def test_too_few_rounds_are_no_fixed_point():
    problem = Problem.from_temperature(6, tau=2.0, seed=3)
    last = solve_rounds(problem, objective("cal_dpo", beta=0.5), rounds=1, starts=1)[-1]
    assert last.status == "no-stationary-point"
    assert "still changes" in last.sentence


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_a_number_of_rounds_is_checked(rounds):
    with pytest.raises((ValueError, TypeError), match="rounds"):
        solve_rounds(Problem.from_temperature(3, tau=2.0), rounds=rounds)


# --- alternating priors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "prompts", "tau"), [(6, 3, 2.0), (6, 3, 0.5), (8, 12, 4.0)])
def test_alternation_ends_where_policy_and_prior_make_each_other(num_classes, prompts, tau):
    problem = Problem.from_temperature(num_classes, tau, seed=1, num_prompts=prompts)
    solution = solve_alternating(problem, alpha=2.0)
    assert solution.status == "boundary"
    assert solution.policy is not None
    assert solution.prior is not None
    marginal = ds.marginal(solution.policy, problem.prompt_weights)
    np.testing.assert_allclose(marginal.probs, solution.prior.probs, rtol=0.0, atol=1e-7)
    alive = solution.survivors[0]
    ratio = solution.policy.log_probs[:, alive] - solution.prior.log_probs[alive]
    gain = (problem.chosen.log_probs - problem.rejected.log_probs)[:, alive] / 2.0
    np.testing.assert_allclose(ratio - ratio[:, :1], gain - gain[:, :1], rtol=0.0, atol=1e-9)


def test_alternation_climbs_to_the_largest_value_that_any_prior_has():
    problem = Problem.from_temperature(5, 2.0, seed=3, num_prompts=3)
    gain = problem.chosen.log_probs - problem.rejected.log_probs

    def value(log_zeta):
        return float(problem.prompt_weights @ np.logaddexp.reduce(log_zeta + gain, axis=1))

    best = solve_alternating(problem).prior
    assert best is not None
    rng = np.random.default_rng(0)
    others = [Policy.from_logits(rng.normal(0.0, 3.0, 5)).log_probs for _ in range(2000)]
    assert value(best.log_probs) >= max(map(value, others))


def test_with_one_prompt_alternation_keeps_the_response_of_the_greatest_ratio():
    problem = Problem.from_temperature(4, 2.0, seed=1)
    survivors = np.flatnonzero(solve_alternating(problem).survivors).tolist()
    assert survivors == [int(np.argmax(problem.chosen.log_probs - problem.rejected.log_probs))]


def test_alternation_that_is_cut_short_has_no_policy():
    solution = solve_alternating(Problem.from_temperature(6, 2.0, seed=1, num_prompts=3), rounds=5)
    assert (solution.status, solution.policy, solution.prior) == ("no-stationary-point", None, None)
    assert "still changes" in solution.sentence
