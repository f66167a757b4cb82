"""Worlds: what each promises of its pairs and of its truth, against expectations that share none of its code."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import chisquare

import didsim as ds
from didsim.engine._draws import sampled_blocks
from didsim.worlds import (
    WORLDS,
    best_in_class,
    boilerplate,
    bradley_terry,
    distinct_pairs,
    draw_finite,
    finite_data,
    intransitivity,
    labelled_pairs,
    length_bias,
    nash_policy,
    non_transitive,
    restricted,
    suboptimal_reference,
    ties,
    win_rate,
)

SMALL = {name: {"num_classes": 6} for name in WORLDS} | {
    "length_bias": {"max_length": 2},
    "restricted": {"num_classes": 6, "num_features": 2},
    "suboptimal_reference": {"num_classes": 6, "mass": 1e-2},
}
DPO_ENDS_AT_THE_TRUTH = ("did", "bradley_terry", "ties", "boilerplate", "suboptimal_reference")


def build(name, **options):
    return WORLDS[name].build(**{**SMALL[name], **options})


def reward_of(problem, beta):
    """The reward whose optimum is the target, [..., K]; up to a constant."""
    return beta * (problem.target.log_probs - problem.reference.log_probs)


def odds(problem):
    return np.log(problem.pairs) - np.log(problem.pairs.swapaxes(-1, -2))


def differences(values):
    return values[..., :, None] - values[..., None, :]


# --- all of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_says_what_it_is(name):
    world = WORLDS[name]
    assert world.name == name
    assert world.description.count(". ") >= 2
    assert world.description.endswith(".")
    assert not world.title.endswith(".")
    assert "π*" in world.description
    assert world.source
    assert "seed" in world.options
    assert world.build is getattr(ds.worlds, name)
    assert world.build.__doc__


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_made_of_its_defaults_and_its_seed(name):
    problem = WORLDS[name].build()
    assert isinstance(problem, ds.Problem)
    assert np.all(np.isfinite(problem.target.log_probs))
    first, again, other = build(name, seed=3), build(name, seed=3), build(name, seed=4)
    assert first.pair_digest == again.pair_digest != other.pair_digest
    assert np.array_equal(first.target.log_probs, again.target.log_probs)
    assert (problem.pairs is None) == (name == "did")


@pytest.mark.parametrize("name", WORLDS)
def test_prompts_have_worlds_of_their_own(name):
    more = {"num_pairs": 10**6} if name == "finite_data" else {}
    problem = build(name, num_prompts=3, **more)
    assert problem.target.log_probs.shape == (3, problem.num_classes)
    assert ds.tv(problem.target, problem.reference).min() > 1e-3
    assert np.abs(np.diff(problem.target.probs, axis=0)).max() > 1e-3
    assert problem.prompt_weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"boilerplate", "suboptimal_reference"}))
def test_the_reference_is_that_of_the_did_construction_but_where_the_world_is_about_it(name):
    given = {"space": ds.Sequences(2, 2)} if name == "length_bias" else {"num_classes": 6}
    want = ds.Problem.from_temperature(seed=5, **given).reference
    np.testing.assert_allclose(build(name, seed=5).reference.probs, want.probs, rtol=1e-12)


@pytest.mark.parametrize("name", WORLDS)
def test_drawn_pairs_have_the_law_of_the_world(name):
    problem = build(name)
    k = problem.num_classes
    block = next(sampled_blocks(problem, seed=0, batch_size=400, block=100))
    counts = np.bincount((block.chosen * k + block.rejected % k).ravel(), minlength=problem.num_prompts * k * k)
    law = (problem.prompt_weights[:, None, None] * problem.pair_probs()).ravel()
    assert counts[law == 0.0].sum() == 0
    often = law * 40_000 >= 5.0
    seen = np.append(counts[often], counts[~often].sum())
    wanted = 40_000 * np.append(law[often], law[~often].sum())
    keep = wanted > 0.0
    assert chisquare(seen[keep], wanted[keep]).pvalue > 1e-3


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", DPO_ENDS_AT_THE_TRUTH)
def test_dpo_ends_at_the_truth_of_these(name, beta):
    problem = build(name, beta=beta)
    loss = ds.objective("dpo", beta=beta)
    np.testing.assert_allclose(ds.closed_form(problem, loss).log_probs, problem.target.log_probs, atol=1e-10)
    solution = ds.solve(problem, loss)
    assert solution.status == "converged", solution.sentence
    np.testing.assert_allclose(solution.policy.probs, problem.target.probs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["non_transitive", "finite_data", "length_bias", "restricted"])
def test_dpo_does_not_end_at_the_truth_of_those(name):
    problem = build(name)
    assert ds.js(problem.target, ds.solve(problem, ds.objective("dpo")).policy) > 1e-3


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"did", "non_transitive", "suboptimal_reference"}))
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_truth_is_least_at_the_reward_with_a_penalty(name, beta):
    """d/dπ [E r − β KL(π‖π_ref)] is the same number for every response: the condition of the maximum on the simplex.

    The reward is read off another problem of the same seed, whose β is 1.
    """
    problem = build(name, beta=beta)
    reward = reward_of(build(name, beta=1.0), 1.0)
    slope = reward - beta * (problem.target.log_probs - problem.reference.log_probs + 1.0)
    assert np.ptp(slope, axis=-1).max() < 1e-10
    assert np.ptp(reward, axis=-1).max() > 0.1


# --- Bradley–Terry ----------------------------------------------------------------------------------------


def test_pairs_are_labelled_by_the_reward():
    problem = bradley_terry(num_classes=5, scale=2.0, beta=0.5)
    mu, r = problem.reference.probs, reward_of(problem, 0.5)
    want = [[2 * mu[i] * mu[j] / (1 + np.exp(r[j] - r[i])) for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(problem.pairs, want, rtol=1e-12)


def test_rewards_have_the_scale_that_was_asked_for():
    r = reward_of(bradley_terry(num_classes=1000, scale=3.0), 1.0)
    assert r.std() == pytest.approx(3.0, rel=0.1)


def test_labels_are_flipped_as_often_as_was_asked_for():
    clean, noisy = bradley_terry(num_classes=5), bradley_terry(num_classes=5, noise=0.2)
    np.testing.assert_allclose(noisy.pairs, 0.8 * clean.pairs + 0.2 * clean.pairs.T, rtol=1e-12)
    np.testing.assert_array_equal(noisy.target.log_probs, clean.target.log_probs)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_robust_dpo_undoes_the_noise_and_nothing_else_does(noise):
    problem = bradley_terry(num_classes=6, noise=noise)
    losses = {
        "robust_dpo": ds.objective("robust_dpo", label_smoothing=noise),
        "dpo": ds.objective("dpo"),
        "cdpo": ds.objective("cdpo", label_smoothing=noise),
    }
    solutions = ds.solve_many([(problem, loss) for loss in losses.values()])
    apart = {name: ds.js(problem.target, s.policy) for name, s in zip(losses, solutions, strict=True)}
    assert apart["robust_dpo"] < 1e-20
    assert 1e-4 < apart["dpo"] < apart["cdpo"]


def test_the_sampler_decides_what_is_seen_and_not_where_dpo_ends():
    sampler = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    problem = bradley_terry(num_classes=6, sampler=sampler)
    np.testing.assert_allclose(problem.pairs + problem.pairs.T, 2 * np.outer(sampler, sampler), rtol=1e-12)
    end = ds.solve(problem, ds.objective("dpo")).policy
    np.testing.assert_allclose(end.probs, problem.target.probs, atol=1e-10)


# --- ties -------------------------------------------------------------------------------------------------


def davidson(r, nu):
    """Win, tie probabilities of i against j, by the definition."""
    a, b = np.exp(r[:, None]), np.exp(r[None, :])
    total = a + b + nu * np.sqrt(a * b)
    return a / total, nu * np.sqrt(a * b) / total


@pytest.mark.parametrize("nu", [0.0, 0.7, 5.0])
def test_ties_are_davidsons(nu):
    dropped, split = (ties(num_classes=5, propensity=nu, kept=kept, beta=0.5) for kept in ("dropped", "split"))
    mu, (win, tie) = dropped.reference.probs, davidson(reward_of(dropped, 0.5), nu)
    law = np.outer(mu, mu) * win
    np.testing.assert_allclose(dropped.pairs, law / law.sum(), rtol=1e-12)
    np.testing.assert_allclose(split.pairs, 2 * np.outer(mu, mu) * (win + 0.5 * tie), rtol=1e-12)


def test_dropped_ties_leave_the_odds_alone_and_split_ones_do_not():
    dropped, split = ties(num_classes=6), ties(num_classes=6, kept="split")
    np.testing.assert_allclose(odds(dropped), differences(reward_of(dropped, 1.0)), atol=1e-12)
    assert split.independent is None
    assert ds.js(split.target, ds.solve(split, ds.objective("dpo")).policy) > 1e-3
    assert np.all(np.abs(odds(split)) <= np.abs(odds(dropped)) + 1e-12)


def test_the_more_alike_two_responses_are_the_less_is_seen_of_them_where_ties_are_dropped():
    problem = ties(num_classes=6, propensity=3.0)
    seen = (problem.pairs + problem.pairs.T) / np.outer(problem.reference.probs, problem.reference.probs)
    apart = np.abs(differences(reward_of(problem, 1.0)))
    order = np.argsort(apart.ravel())
    assert np.all(np.diff(seen.ravel()[order]) > -1e-12)


# --- circles ----------------------------------------------------------------------------------------------


def game(problem, beta, ours, theirs):
    """E p(y ≻ y′) − β KL(ours‖π_ref) + β KL(theirs‖π_ref)."""
    value = ours.probs @ problem.preferences @ theirs.probs
    return value - beta * ds.kl(ours, problem.reference) + beta * ds.kl(theirs, problem.reference)


@pytest.mark.parametrize("beta", [0.02, 0.3, 2.0])
def test_no_policy_beats_the_truth_of_circles(beta):
    problem, rng = non_transitive(num_classes=6, beta=beta, cycle=3.0), np.random.default_rng(0)
    assert game(problem, beta, problem.target, problem.target) == pytest.approx(0.5)
    for size in (1e-3, 0.1, 1.0, 5.0):
        for _ in range(50):
            other = ds.Policy.from_logits(problem.target.log_probs + size * rng.standard_normal(6))
            assert game(problem, beta, other, problem.target) < 0.5


def test_the_truth_of_circles_is_its_own_best_answer():
    problem = non_transitive(num_classes=6, beta=0.1, num_prompts=2)
    against = np.einsum("xij,xj->xi", problem.preferences, problem.target.probs)
    want = ds.Policy.from_logits(problem.reference.log_probs + against / 0.1)
    np.testing.assert_allclose(problem.target.log_probs, want.log_probs, atol=1e-10)


def test_scissors_paper_and_rock_are_played_alike_where_the_penalty_is_small():
    beats = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    reference = ds.Policy.from_probs([0.8, 0.1, 0.1])
    np.testing.assert_allclose(nash_policy(reference, beats, 1e-4).probs, 1 / 3, atol=1e-3)
    np.testing.assert_allclose(nash_policy(reference, beats, 1e4).probs, reference.probs, atol=1e-3)


def test_preferences_of_a_game_add_up_to_one():
    with pytest.raises(ValueError, match="p_ij \\+ p_ji = 1"):
        nash_policy(ds.Policy.from_probs([0.5, 0.5]), np.array([[0.5, 0.9], [0.2, 0.5]]))
    with pytest.raises(ValueError, match="the shape of preferences"):
        nash_policy(ds.Policy.from_probs([0.5, 0.5]), np.eye(3))


def test_circles_have_the_log_odds_that_were_asked_for():
    problem, plain = (non_transitive(num_classes=5, cycle=cycle) for cycle in (2.0, 0.0))
    place = np.arange(5)
    circle = 2.0 * np.sin(2 * np.pi * differences(place) / 5)
    np.testing.assert_allclose(odds(problem), odds(plain) + circle, atol=1e-12)
    assert plain.independent is not None


def test_intransitivity_is_the_worst_circle_of_three():
    problem = non_transitive(num_classes=5)
    a = odds(problem)
    want = max(abs(a[i, j] + a[j, k] + a[k, i]) for i, j, k in itertools.permutations(range(5), 3))
    assert intransitivity(problem) == pytest.approx(want)
    assert intransitivity(replace(problem, pairs=None)) < 1e-12


def test_dpo_of_circles_is_certified_and_misses_the_preferences():
    problem = non_transitive(num_classes=6)
    solution = ds.solve(problem, ds.objective("dpo"))
    assert solution.status == "converged"
    assert solution.residual < 1e-9
    margins = differences(solution.policy.log_probs - problem.reference.log_probs)
    worst = np.abs(margins - odds(problem)).max()
    assert worst >= intransitivity(problem) / 3 > 0.5
    assert ds.closed_form(problem, ds.objective("dpo")) is None


def test_where_dpo_ends_on_circles_depends_on_what_is_compared():
    problem = non_transitive(num_classes=6)
    others = labelled_pairs(np.full(6, 1 / 6), problem.preferences)
    even = ds.Problem.from_pairs(problem.reference, problem.target, others)
    ends = [ds.solve(world, ds.objective("dpo")).policy for world in (problem, even)]
    assert ds.tv(*ends) > 1e-2


# --- finite data ------------------------------------------------------------------------------------------


def dataset_of(problem, size):
    """The pairs whose shares a problem has."""
    share = problem.prompt_weights[:, None, None] * problem.pair_probs()
    counts = np.rint(share * size).astype(int)
    assert counts.sum() == size
    x, i, j = (np.repeat(part, counts[counts > 0]) for part in np.nonzero(counts))
    return ds.PreferenceDataset.from_classes(i, j, problem.num_classes, x, problem.num_prompts)


@pytest.mark.parametrize("prompts", [None, 2])
@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo"])
def test_the_empirical_law_is_solved_as_its_dataset_is(name, prompts):
    sample, loss = finite_data(num_classes=5, num_pairs=300, num_prompts=prompts), ds.objective(name)
    direct = ds.solve(sample, loss)
    listed = ds.solve(sample, loss, dataset=dataset_of(sample, 300))
    assert direct.status == listed.status == "converged"
    np.testing.assert_allclose(direct.policy.log_probs, listed.policy.log_probs, atol=1e-9)


def test_the_truth_and_the_reference_stay_the_populations():
    sample, world = finite_data(num_classes=5, num_pairs=50), bradley_terry(num_classes=5)
    for name in ("target", "reference"):
        assert np.array_equal(getattr(sample, name).log_probs, getattr(world, name).log_probs)


def test_pairs_are_drawn_by_the_law_of_their_world():
    world = ds.Problem.from_temperature(5, num_prompts=3)
    sample = draw_finite(world, 10**5)
    law = (world.prompt_weights[:, None, None] * world.pair_probs()).ravel()
    counts = (sample.prompt_weights[:, None, None] * sample.pair_probs()).ravel() * 10**5
    assert chisquare(np.rint(counts), law * 10**5).pvalue > 1e-3


def test_more_pairs_come_nearer_to_the_truth():
    apart = []
    for size in (10**3, 10**5):
        ends = [ds.solve(finite_data(4, size, seed=seed), ds.objective("dpo"), starts=1).policy for seed in range(5)]
        apart.append(np.mean([ds.kl(bradley_terry(4, seed=seed).target, end) for seed, end in enumerate(ends)]))
    assert 30 < apart[0] / apart[1] < 300


def test_incomplete_coverage_leaves_pairs_out():
    sample = finite_data(num_classes=12, num_pairs=10**6, coverage=0.4)
    compared = (sample.pairs + sample.pairs.T) > 0
    share = compared[np.triu_indices(12, 1)].mean()
    assert 0.2 < share < 0.6
    assert np.all(np.diag(compared))
    assert np.isnan(sample.preferences).any()


def test_what_was_never_compared_is_found_out():
    sample = finite_data(num_classes=8, num_pairs=5)
    found = ds.identify(dataset_of(sample, 5), 8)
    solution = ds.solve(sample, ds.objective("dpo"))
    assert found.status == "not-identified"
    assert solution.status != "converged"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_pairs": 0}, "num_pairs must be a whole number from 1"),
        ({"coverage": 0.0}, "coverage must be a finite number in"),
        ({"coverage": 1.5}, "coverage must be a finite number in"),
        ({"num_pairs": 1, "num_prompts": 2}, "num_pairs must be so many that each prompt gets one"),
    ],
)
def test_too_little_data_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        finite_data(num_classes=4, **options)


def test_tables_too_large_are_refused():
    with pytest.raises(ValueError, match="prompts × responses² must be"):
        draw_finite(ds.Problem.from_temperature(space=ds.Sequences(8, 6)), 100)


# --- boilerplate ------------------------------------------------------------------------------------------


def test_boilerplate_is_popular_everywhere_and_says_little_about_the_prompt():
    problem = boilerplate(num_prompts=5, num_classes=10, num_popular=2)
    popular, rest = problem.reference.probs[:, :2], problem.reference.probs[:, 2:]
    assert popular.mean() > 4 * rest.mean()
    marginal = problem.target.probs.mean(axis=0)
    information = np.log(problem.target.probs / marginal)
    assert np.abs(information[:, :2]).mean() < np.abs(information[:, 2:]).mean()
    reward = reward_of(problem, 1.0)
    np.testing.assert_allclose(np.ptp(reward[:, :2], axis=1), 0.0, atol=1e-12)


def test_without_a_prompt_boilerplate_is_popular_too_and_otherwise_unlike_the_answers():
    log_ratios, correlations = [], []
    for seed in range(200):
        problem = boilerplate(num_prompts=2, num_classes=10, num_popular=2, popularity=1.5, seed=seed)
        unprompted = problem.prior.log_probs
        log_ratios.append(unprompted[:2].mean() - unprompted[2:].mean())
        correlations.append(np.corrcoef(unprompted[2:], problem.reference.log_probs[0, 2:])[0, 1])
    # means of 200 numbers of spread √(1/2 + 1/8) and 1/√7
    assert np.mean(log_ratios) == pytest.approx(1.5, abs=4 * np.sqrt(0.625 / 200))
    assert np.mean(correlations) == pytest.approx(0.0, abs=4 / np.sqrt(7 * 200))


# --- how often a policy wins ------------------------------------------------------------------------------


def test_the_win_rate_is_that_of_a_loop_over_all_matches():
    problem = length_bias(max_length=2, num_prompts=3, bias=0.7)
    target, reference = problem.target.probs, problem.reference.probs
    reward = reward_of(problem, 1.0) + 0.7 * problem.space.lengths
    expected = sum(
        target[x, i] * reference[x, j] / (1.0 + np.exp(reward[x, j] - reward[x, i])) / 3.0
        for x, i, j in itertools.product(range(3), range(problem.num_classes), range(problem.num_classes))
    )
    assert win_rate(problem, problem.target) == pytest.approx(expected, abs=1e-12)
    assert win_rate(problem, problem.reference) == pytest.approx(0.5, abs=1e-12)


def test_distinct_pairs_are_all_pairs_but_those_of_a_response_with_itself():
    problem = boilerplate(num_prompts=2, num_classes=4)
    law = distinct_pairs(problem)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)
    for prompt, (kept, whole) in enumerate(zip(law, problem.pairs, strict=True)):
        assert np.diag(kept).tolist() == [0.0] * 4
        off = ~np.eye(4, dtype=bool)
        np.testing.assert_allclose(kept[off] / kept[0, 1], whole[off] / whole[0, 1], rtol=1e-12)
        asked = 0.5 * whole[off].sum() / sum(0.5 * table[off].sum() for table in problem.pairs)
        assert law[prompt].sum() == pytest.approx(asked, abs=1e-12)
    with pytest.raises(ValueError, match="each response with itself"):
        distinct_pairs(bradley_terry(num_classes=1))


def test_who_is_never_compared_has_no_win_rate():
    sample = draw_finite(bradley_terry(num_classes=6), num_pairs=3)
    with pytest.raises(ValueError, match="some that are never compared"):
        win_rate(sample, sample.target)


# --- length -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_dpo_takes_the_bias_over_and_r_dpo_takes_it_back(beta):
    problem = length_bias(max_length=3, bias=0.4, beta=beta)
    dpo, r_dpo = (
        ds.solve(problem, loss).policy
        for loss in (ds.objective("dpo", beta=beta), ds.objective("r_dpo", beta=beta, alpha=0.4))
    )
    biased = ds.Policy.from_logits(problem.target.log_probs + 0.4 / beta * problem.space.lengths)
    np.testing.assert_allclose(dpo.probs, biased.probs, atol=1e-10)
    np.testing.assert_allclose(r_dpo.probs, problem.target.probs, atol=1e-10)


def test_averages_over_tokens_end_elsewhere():
    problem = length_bias(max_length=3)
    dpo = ds.solve(problem, ds.objective("dpo")).policy
    for loss in (ds.objective("dpo_norm"), ds.objective("simpo", beta=1.0, gamma=0.0)):
        solution = ds.solve(problem, loss)
        assert solution.status == "converged"
        assert min(ds.js(end, solution.policy) for end in (dpo, problem.target)) > 1e-3


def test_without_bias_the_lengths_do_not_matter():
    problem = length_bias(max_length=3, bias=0.0)
    np.testing.assert_allclose(ds.dpo_optimum(problem).probs, problem.target.probs, rtol=1e-9)


# --- restricted policies ----------------------------------------------------------------------------------


def restricted_policy(problem, w):
    """π_w of every response, by a loop over decisions."""
    space, features = problem.space, problem.features
    log_ref = problem.next_log_ref
    rows = []
    for x in range(problem.num_prompts):
        logits = log_ref[x] + (features[x] @ w).reshape(log_ref.shape[1:])
        rows.append(space.log_probs(torch.log_softmax(torch.tensor(logits), -1).numpy()))
    return np.stack(rows).reshape(problem.target.log_probs.shape)


WITH_FEATURES = {
    "classes": lambda: restricted(num_classes=8, num_features=3),
    "prompts": lambda: restricted(num_classes=6, num_features=3, num_prompts=3),
    "sequences": lambda: ds.Problem.from_temperature(space=ds.Sequences(2, 3), num_features=3, num_prompts=2, tau=0.5),
}


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_the_best_policy_of_the_class_is_a_general_optimisers(name):
    problem = WITH_FEATURES[name]()

    def divergence(w):
        other = ds.Policy.from_log_probs(restricted_policy(problem, w))
        return float(np.atleast_1d(ds.kl(problem.target, other)) @ problem.prompt_weights)

    found = minimize(divergence, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    best = best_in_class(problem)
    np.testing.assert_allclose(best.log_probs, restricted_policy(problem, found.x), atol=1e-5)
    assert float(np.atleast_1d(ds.kl(problem.target, best)) @ problem.prompt_weights) <= found.fun + 1e-12
    assert found.fun > 1e-3


def test_the_best_policy_of_the_class_has_the_largest_likelihood_of_the_truth():
    problem = restricted(num_classes=8, num_features=3, num_prompts=2)
    choosing = replace(problem, pairs=None, chosen=problem.target, rejected=problem.reference)
    solution = ds.solve(choosing, ds.objective("orpo", lam=0.0))
    np.testing.assert_allclose(best_in_class(problem).log_probs, solution.policy.log_probs, atol=1e-9)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo"])
def test_no_objective_comes_nearer_than_the_best_policy_of_the_class(name):
    problem = restricted(num_classes=8, num_features=3)
    end = ds.solve(problem, ds.objective(name)).policy
    assert ds.kl(problem.target, best_in_class(problem)) < ds.kl(problem.target, end)


def test_a_class_that_holds_the_truth_has_it_for_its_best():
    problem = restricted(num_classes=4, num_features=6)
    np.testing.assert_allclose(best_in_class(problem).log_probs, problem.target.log_probs, atol=1e-9)
    free = bradley_terry(num_classes=4)
    assert best_in_class(free) is free.target


def test_a_truth_beyond_the_class_has_no_best():
    problem = restricted(num_classes=4, num_features=3)
    corner = replace(problem, target=ds.Policy.from_probs([1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="the target must be positive wherever the reference is"):
        best_in_class(corner)


# --- a suboptimal reference -------------------------------------------------------------------------------


def test_good_responses_are_rare_under_the_reference_and_common_under_the_truth():
    problem = suboptimal_reference(num_classes=10, num_good=3, mass=1e-6, scale=0.0)
    np.testing.assert_allclose(problem.reference.probs[:3], 1e-6, rtol=1e-9)
    np.testing.assert_allclose(problem.target.probs[:3], 1 / (4 - 3e-6), rtol=1e-6)
    assert np.all(problem.reference.probs > 0)


def test_an_even_sampler_shows_them():
    even = np.full(6, 1 / 6)
    problem = suboptimal_reference(num_classes=6, num_good=2, mass=1e-6, sampler=even)
    np.testing.assert_allclose(problem.pairs + problem.pairs.T, 1 / 18, rtol=1e-9)
    end = ds.solve(problem, ds.objective("dpo"))
    assert end.status == "converged"
    np.testing.assert_allclose(end.policy.probs, problem.target.probs, atol=1e-8)


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("did", {"beta": 0.0}, "beta must be"),
        ("did", {"vocabulary": 2}, "vocabulary and max_length must be given together"),
        ("did", {"num_classes": 4, "vocabulary": 2, "max_length": 2}, "given one at a time"),
        ("bradley_terry", {"num_classes": 0}, "num_classes must be"),
        ("bradley_terry", {"num_classes": 20_000}, "prompts × responses² must be at most"),
        ("bradley_terry", {"noise": 0.5}, "noise must be"),
        ("bradley_terry", {"scale": -1.0}, "scale must be"),
        ("bradley_terry", {"beta": 1e-320}, "beta must be large enough"),
        ("ties", {"kept": "kept"}, "kept must be one of dropped, split"),
        ("ties", {"propensity": -1.0}, "propensity must be"),
        ("non_transitive", {"beta": 1e-5}, "beta must be"),
        ("boilerplate", {"num_popular": 99}, "num_popular must be"),
        ("restricted", {"num_features": 0}, "num_features must be"),
        ("suboptimal_reference", {"num_classes": 1}, "num_classes must be a whole number from 2"),
        ("suboptimal_reference", {"num_good": 40}, "num_good must be"),
        ("suboptimal_reference", {"mass": 0.3}, "mass must be"),
    ],
)
def test_what_makes_no_world_is_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        WORLDS[name].build(**options)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", [-1, 1.5, "abc"])
def test_a_seed_is_a_whole_number(name, seed):
    with pytest.raises((ValueError, TypeError), match="seed"):
        build(name, seed=seed)


def test_the_did_world_has_any_exponent():
    problem = ds.worlds.did(num_classes=6, tau=2.0, beta=0.3)
    plain = ds.Problem.from_temperature(6, 2.0)
    want = plain.reference.log_probs + 0.3 * (plain.reference.log_probs - plain.target.log_probs)
    np.testing.assert_allclose(problem.rejected.probs, ds.Policy.from_logits(want).probs, rtol=1e-12)
    assert ds.worlds.did(num_classes=6, tau=2.0).pair_digest == plain.pair_digest


def test_the_package_is_loaded_when_it_is_asked_for():
    import didsim.worlds

    assert ds.worlds is didsim.worlds
    assert ds.WORLDS is WORLDS
