"""Where pairs come from: exact sampling, streams that depend on nothing else, and epochs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from didsim import Policy, PreferenceDataset, Problem, objective, train, train_many
from didsim.engine import Settings
from didsim.engine._draws import (
    MODES,
    count_table,
    dataset_blocks,
    sample_classes,
    sample_dataset,
    sampled_blocks,
)
from didsim.engine._gradient import gradient_of
from didsim.engine._plan import plan_runs
from didsim.engine._weights import DrawnWeights, Streams, TableWeights

P_VALUE = 1e-3
"""A correct sampler fails a test at this level once in a thousand seeds; the seeds are fixed."""

Z_LIMIT = 4.5
"""Standard errors; the largest of a dozen true z-scores exceeds this with probability 1e-4."""

ROUNDING = 1e-13
"""Absolute, on float64 gradients and weights of size at most 1: a few hundred additions."""

BELOW_ONE = float(np.nextafter(1.0, 0.0))


def small_problem(seed: int = 3) -> Problem:
    return Problem.from_temperature(6, tau=2.0, seed=seed)


def gapped_problem() -> Problem:
    """Classes 0, 2 and 5 are never drawn."""
    theta = np.array([-np.inf, 0.3, -np.inf, -0.4, 1.0, -np.inf])
    return Problem.from_policies(Policy.from_logits(theta), Policy.from_logits(0.5 * theta))


def first_pairs(problem, steps, *, seed=0, batch_size=8, block=4):
    """The first steps of a stream of fresh pairs, [steps, B, 2]."""
    blocks = sampled_blocks(problem, seed, batch_size, block)
    taken = [np.stack(next(blocks), axis=-1) for _ in range(-(-steps // block))]
    return np.concatenate(taken)[:steps]


def first_minibatches(dataset, steps, *, seed=0, batch_size=8, block=4, problem=None):
    """The first steps of a stream of minibatches, [steps, B, 2]."""
    blocks = dataset_blocks(dataset, problem or small_problem(), seed, batch_size, block)
    taken = [np.stack(next(blocks), axis=-1) for _ in range(-(-steps // block))]
    return np.concatenate(taken)[:steps]


# --- sampling classes -----------------------------------------------------------------------------------


def by_definition(policy: Policy, uniforms: np.ndarray) -> np.ndarray:
    """The inverse of the cumulative distribution, class by class, in plain Python."""
    cumulative = np.cumsum(policy.probs)
    cumulative = cumulative / cumulative[-1]
    flat = [next(k for k, level in enumerate(cumulative) if level > u) for u in uniforms.ravel()]
    return np.array(flat).reshape(uniforms.shape)


logit = st.one_of(st.floats(-30.0, 30.0), st.just(float("-inf")), st.floats(-1e4, 1e4))
supported_logits = st.lists(logit, min_size=1, max_size=12).filter(lambda row: max(row) > float("-inf"))


@settings(max_examples=150, deadline=None)
@given(supported_logits, st.lists(st.floats(0.0, BELOW_ONE), min_size=1, max_size=20))
def test_sampling_equals_the_inverse_of_the_cumulative_distribution(logits, extra):
    policy = Policy.from_logits(logits)
    cumulative = np.cumsum(policy.probs)
    cumulative = cumulative / cumulative[-1]
    edges = np.array([0.0, 1 / 4096, 1.5 / 4096, 0.25, 0.5, 4095 / 4096, BELOW_ONE])
    near = np.concatenate([cumulative, np.nextafter(cumulative, 0.0), np.nextafter(cumulative, 1.0)])
    uniforms = np.concatenate([edges, near[near < 1.0], extra])
    classes = sample_classes(policy, uniforms)
    np.testing.assert_array_equal(classes, by_definition(policy, uniforms))
    assert np.all(policy.probs[classes] > 0.0)


@pytest.mark.parametrize("num_classes", [1, 2, 4096, 5000])
def test_uniforms_on_every_bin_edge_fall_in_the_right_class(num_classes):
    """With 4096 equally likely classes every cumulative value is itself an edge of a bin."""
    policy = Policy.from_probs(np.full(num_classes, 1.0 / num_classes))
    edges = np.arange(4096) / 4096
    uniforms = np.sort(np.concatenate([edges, np.nextafter(edges, 1.0), np.nextafter(edges[1:], 0.0)]))
    cumulative = np.cumsum(policy.probs)
    expected = np.searchsorted(cumulative / cumulative[-1], uniforms, side="right")
    np.testing.assert_array_equal(sample_classes(policy, uniforms), expected)


def test_sampling_keeps_the_shape_of_the_uniforms_and_leaves_them_alone():
    uniforms = np.random.default_rng(0).random((3, 4, 5))
    before = uniforms.copy()
    classes = sample_classes(small_problem().chosen, uniforms)
    assert classes.shape == (3, 4, 5)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(uniforms, before)


def test_chosen_and_rejected_classes_follow_their_laws_and_are_independent():
    problem, size = small_problem(), 400_000
    pairs = first_pairs(problem, 1, seed=11, batch_size=size, block=1)[0]
    observed = count_table(pairs[None, :, 0], pairs[None, :, 1], 1, 6)[0, 0]
    expected = np.outer(problem.chosen.probs, problem.rejected.probs) * size
    assert stats.chisquare(observed.sum(1), expected.sum(1)).pvalue > P_VALUE
    assert stats.chisquare(observed.sum(0), expected.sum(0)).pvalue > P_VALUE
    assert stats.chisquare(observed.ravel(), expected.ravel()).pvalue > P_VALUE


def test_the_steps_of_a_stream_are_independent_of_each_other():
    """The chosen class of one step against that of the next: a chi-square test of independence."""
    chosen = first_pairs(small_problem(), 400, seed=12, batch_size=500, block=16)[..., 0]
    table = count_table(chosen[:-1].reshape(1, -1), chosen[1:].reshape(1, -1), 1, 6)[0, 0]
    assert stats.chi2_contingency(table).pvalue > P_VALUE


def test_a_dataset_drawn_from_a_problem_follows_the_same_law():
    problem, size = small_problem(), 200_000
    dataset = sample_dataset(problem, size, seed=5, batch_size=64)
    observed = count_table(dataset.chosen[None], dataset.rejected[None], 1, 6)[0, 0]
    expected = np.outer(problem.chosen.probs, problem.rejected.probs) * size
    assert stats.chisquare(observed.ravel(), expected.ravel()).pvalue > P_VALUE


def test_a_class_of_probability_zero_is_never_drawn():
    pairs = first_pairs(gapped_problem(), 40, batch_size=500)
    assert set(np.unique(pairs)) == {1, 3, 4}


def test_counting_pairs_agrees_with_counting_by_hand():
    chosen, rejected = np.array([[0, 0, 2], [1, 1, 1]]), np.array([[1, 1, 0], [2, 0, 2]])
    table = count_table(chosen, rejected, 1, 3)[:, 0]
    np.testing.assert_array_equal(table[0], [[0, 2, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(table[1], [[0, 0, 0], [1, 0, 2], [0, 0, 0]])


# --- what draws depend on -------------------------------------------------------------------------------


def test_the_same_stream_is_drawn_again():
    np.testing.assert_array_equal(first_pairs(small_problem(), 7), first_pairs(small_problem(), 7))


def test_draws_depend_on_the_value_of_a_problem_and_not_on_the_object():
    problem = small_problem()
    rebuilt = Problem(
        Policy.from_logits(problem.reference.log_probs.copy()),
        problem.target,
        Policy(problem.rejected.log_probs.copy()),
        Policy(problem.chosen.log_probs.copy()),
    )
    np.testing.assert_array_equal(first_pairs(problem, 5), first_pairs(rebuilt, 5))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"batch_size": 16}, {"problem": small_problem(seed=4)}], ids=lambda c: next(iter(c))
)
def test_draws_change_with_the_seed_the_batch_size_and_the_problem(change):
    """The first 8 uniforms of both streams are turned into classes of one problem, so that they compare."""
    arguments = {"problem": small_problem(), "seed": 0, "batch_size": 8, **change}
    other = first_pairs(arguments.pop("problem"), 40, **arguments).reshape(-1, 2)[:300]
    plain = first_pairs(small_problem(), 40).reshape(-1, 2)[:300]
    agreement = float(np.mean(np.all(other == plain, axis=1)))
    assert agreement < 0.5  # independent pairs of 36 cells agree in about 1 of 15


def test_two_problems_that_differ_only_in_the_last_bit_have_different_draws():
    problem = small_problem()
    nudged = problem.rejected.log_probs.copy()
    nudged[0] = np.nextafter(nudged[0], 0.0)
    other = Problem(problem.reference, problem.target, Policy(nudged), problem.chosen)
    assert not np.array_equal(first_pairs(problem, 5), first_pairs(other, 5))


def test_the_pairs_of_a_dataset_are_not_those_of_fresh_sampling():
    problem = small_problem()
    dataset = sample_dataset(problem, 64, seed=0, batch_size=8)
    fresh = first_pairs(problem, 8).reshape(-1, 2)
    assert not np.array_equal(np.stack([dataset.chosen, dataset.rejected], axis=-1), fresh)
    assert MODES == ("sampled", "dataset", "population")


@pytest.mark.parametrize("block", [1, 3, 64])
def test_fresh_pairs_do_not_depend_on_the_size_of_blocks(block):
    np.testing.assert_array_equal(
        first_pairs(small_problem(), 70, block=block), first_pairs(small_problem(), 70, block=7)
    )


@pytest.mark.parametrize("block", [1, 3, 64])
def test_minibatches_do_not_depend_on_the_size_of_blocks(block):
    dataset = sample_dataset(small_problem(), 29, seed=0, batch_size=8)
    np.testing.assert_array_equal(first_minibatches(dataset, 70, block=block), first_minibatches(dataset, 70, block=7))


@pytest.mark.parametrize("mode", [{"mode": "sampled"}, {"mode": "dataset", "dataset": 50}])
@pytest.mark.parametrize("path", ["table", "gather"])
def test_all_objectives_see_the_same_pairs(mode, path):
    """Three names of one formula: they can only train alike if they are given the same pairs."""
    problem, other = small_problem(), small_problem(seed=9)
    twins = [
        objective("mi_dpo", alpha=0.7, prior="reference"),
        objective("dpo", beta=0.7),
        objective("cdpo", beta=0.7, label_smoothing=0.0),
    ]
    jobs = [(other, objective("slic"))]
    for twin in twins:
        jobs += [(problem, twin), (other, objective("orpo"))]
    histories = train_many(jobs, steps=40, batch_size=16, dtype="float64", record_every=10, path=path, **mode)
    for history in histories[3::2]:
        np.testing.assert_allclose(
            history.policy.log_probs, histories[1].policy.log_probs, rtol=0.0, atol=ROUNDING * 1000
        )  # a thousand: RMSprop divides by gradients of about 0.01


def test_runs_share_a_stream_exactly_when_problem_and_seed_are_the_same():
    problem, rebuilt, other = small_problem(), small_problem(), small_problem(seed=9)
    jobs = [(p, objective(name)) for p in (problem, rebuilt, other) for name in ("dpo", "slic")]
    plan = plan_runs(jobs, Settings(steps=5, seed=[0, 0, 0, 1, 0, 0]))
    assert len(plan.streams) == 3


def test_each_job_may_have_its_own_seed():
    """Seeds stay with their jobs, whatever order the engine works in."""
    problem = small_problem()
    losses = [objective(name) for name in ("slic", "dpo", "simpo", "dpo")]
    common = {"steps": 30, "dtype": "float64", "batch_size": 4}
    together = train_many([(problem, loss) for loss in losses], seed=[4, 5, 6, 7], **common)
    for seed, loss, history in zip((4, 5, 6, 7), losses, together, strict=True):
        alone = train(problem, loss, seed=seed, **common)
        np.testing.assert_allclose(history.policy.log_probs, alone.policy.log_probs, rtol=0.0, atol=ROUNDING * 1000)
    assert not np.allclose(together[1].policy.log_probs, together[3].policy.log_probs)


@pytest.mark.parametrize("changed", [{"seed": 7}, {"batch_size": 99}])
def test_the_population_mode_draws_nothing(changed):
    fixed = {"mode": "population", "steps": 20, "seed": 1, "batch_size": 8}
    first = train(small_problem(), objective("dpo"), **fixed)
    second = train(small_problem(), objective("dpo"), **{**fixed, **changed})
    np.testing.assert_array_equal(first.policy.log_probs, second.policy.log_probs)


# --- datasets -------------------------------------------------------------------------------------------


def numbered_dataset(size: int) -> PreferenceDataset:
    """Row r is the pair (r, r + 1): minibatches tell which rows they took."""
    return PreferenceDataset.from_classes(np.arange(size), np.arange(size) + 1, size + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 5))
def test_every_row_is_seen_once_per_epoch(size, batch_size, seed):
    steps = -(-3 * size // batch_size)
    pairs = first_minibatches(numbered_dataset(size), steps, seed=seed, batch_size=batch_size)
    assert pairs.shape == (steps, batch_size, 2)
    rows = pairs.reshape(-1, 2)
    np.testing.assert_array_equal(rows[:, 1], rows[:, 0] + 1)
    for epoch in rows[: 3 * size, 0].reshape(3, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_epochs_are_shuffled_anew():
    rows = first_minibatches(numbered_dataset(30), 15)[..., 0].reshape(-1)[:90].reshape(3, 30)
    for order in (*rows[1:], np.arange(30)):
        assert not np.array_equal(rows[0], order)


def test_a_number_of_pairs_stands_for_the_dataset_drawn_from_the_problem():
    problem, loss = small_problem(), objective("dpo")
    common = {"mode": "dataset", "steps": 25, "batch_size": 16, "seed": 3, "record_every": 5}
    by_number = train(problem, loss, dataset=40, **common)
    explicit = train(problem, loss, dataset=sample_dataset(problem, 40, seed=3, batch_size=16), **common)
    assert by_number.frame.equals(explicit.frame)


@pytest.mark.parametrize("path", ["table", "gather"])
def test_a_minibatch_of_the_whole_dataset_leaves_nothing_to_chance(path):
    problem, loss = small_problem(), objective("simpo")
    dataset = sample_dataset(problem, 24, seed=0, batch_size=1)
    common = {"mode": "dataset", "dataset": dataset, "batch_size": 24, "steps": 40, "dtype": "float64"}
    first, second = (train(problem, loss, seed=seed, path=path, **common) for seed in (1, 2))
    np.testing.assert_allclose(first.policy.log_probs, second.policy.log_probs, rtol=0.0, atol=ROUNDING * 1000)


def test_the_loss_and_accuracy_of_a_dataset_are_means_over_its_pairs():
    problem, beta = small_problem(), 0.8
    dataset = sample_dataset(problem, 37, seed=2, batch_size=8)
    history = train(problem, objective("dpo", beta=beta), mode="dataset", dataset=dataset, steps=30, dtype="float64")
    reward = beta * (history.policy.log_probs - problem.reference.log_probs)
    margins = [reward[w] - reward[loser] for w, loser in zip(dataset.chosen, dataset.rejected, strict=True)]
    expected_loss = np.mean([np.log1p(np.exp(-margin)) for margin in margins])
    expected_accuracy = np.mean([0.5 * (1.0 + np.sign(margin)) for margin in margins])
    assert history.metrics["loss"][-1] == pytest.approx(expected_loss, abs=ROUNDING)
    assert history.metrics["accuracy"][-1] == pytest.approx(expected_accuracy, abs=ROUNDING)


def test_a_dataset_that_names_a_class_the_problem_lacks_is_refused():
    """Its pairs would be counted in other cells of the table."""
    dataset = PreferenceDataset.from_classes([0, 1], [9, 2], num_classes=100)
    for path in ("table", "gather"):
        with pytest.raises(ValueError, match="dataset"):
            train(small_problem(), objective("dpo"), mode="dataset", dataset=dataset, steps=2, path=path)


# --- weights --------------------------------------------------------------------------------------------


def drawn(layout, pairs, num_classes=6):
    return layout.from_draws([pairs[..., 0]], [pairs[..., 1]], 1, num_classes, torch.float64)


def test_counted_weights_are_the_shares_of_the_pairs():
    pairs = first_pairs(small_problem(), 3, batch_size=20)
    table = drawn(TableWeights, pairs).at(1)
    expected = np.zeros((6, 6))
    for winner, loser in pairs[1]:
        expected[winner, loser] += 1 / 20
    np.testing.assert_allclose(table.joint[0].numpy(), expected, rtol=0.0, atol=ROUNDING)
    streams = Streams.of([0], 1)
    for weights in (table, drawn(DrawnWeights, pairs).at(1)):
        np.testing.assert_allclose(weights.chosen(streams)[0, :, 0], expected.sum(1), rtol=0.0, atol=ROUNDING)
        np.testing.assert_allclose(weights.rejected(streams)[0, :, 0], expected.sum(0), rtol=0.0, atol=ROUNDING)


@pytest.mark.parametrize("name", ["dpo", "slic", "orpo", "cal_dpo"])
def test_the_population_gradient_is_the_expectation_of_sampled_gradients(name):
    problem, steps = small_problem(), 3000
    plan = plan_runs([(problem, objective(name))], Settings(mode="population", steps=1, dtype="float64"))
    logits = torch.tensor(np.random.default_rng(8).standard_normal((1, 6)))
    exact = gradient_of(plan.groups, logits, TableWeights.from_joint(plan.joint("float64")))[0].numpy()
    layout = drawn(TableWeights, first_pairs(problem, steps, seed=21, batch_size=32, block=steps))
    sampled = np.stack([gradient_of(plan.groups, logits, layout.at(step))[0].numpy() for step in range(steps)])
    error = sampled.std(axis=0, ddof=1) / np.sqrt(steps)
    assert np.all(error > 0.0)
    assert np.max(np.abs(sampled.mean(axis=0) - exact) / error) < Z_LIMIT
    assert np.max(np.abs(exact) / error) > 2 * Z_LIMIT  # otherwise a gradient of zero would pass too
