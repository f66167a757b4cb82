"""Spaces of responses: prompts, sequences and restricted policies, alone and under every objective."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import didsim as ds
from didsim import OBJECTIVES, Categorical, Policy, PreferenceDataset, Problem, Sequences, objective, train, train_many
from didsim.engine import Settings
from didsim.engine._gradient import gradient_of, plain_losses
from didsim.engine._plan import plan_runs
from didsim.engine._weights import DrawnWeights, TableWeights
from didsim.torch_bridge import threads

ROUNDING = 1e-12
"""Absolute, on log-probabilities, or relative to the largest entry of a gradient: sums of some hundred terms."""

TRAINED = 1e-9
"""Absolute, on log-probabilities after some float64 steps: an optimiser divides rounding by small gradients."""

EXACT = {"mode": "population", "dtype": "float64", "learning_rate": 0.01, "steps": 25}

OPTIONS = (
    *((name, {}) for name in OBJECTIVES),
    *(("mi_dpo", {"prior": prior}) for prior in ds.PRIORS if prior != "given"),
    ("sparse_po", {"masks": "learned", "lam": 0.01}),
    ("alpha_dpo", {"margin": "tdpo", "stop_gradient": False}),
    ("beta_dpo", {"level": "batch", "rho": 0.2}),
    ("rmipo", {"stop_gradient": False}),
)
"""Every objective by its defaults, and the options that look at something else."""

EVERY_LOSS = pytest.mark.parametrize(
    ("name", "options"), [pytest.param(n, o, id="-".join([n, *map(str, o.values())])) for n, o in OPTIONS]
)

JUMPS = {"epsilon_dpo"}
"""Objectives whose field jumps where margins cross 0: rounding there may decide which way."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threads(1):
        yield


def logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def unrelated(*shape: int, seed: int = 0, **facts) -> Problem:
    """Four unrelated distributions, so that nothing holds by construction."""
    policies = [Policy.from_logits(logits(*shape, seed=seed + k)) for k in range(4)]
    return Problem(*policies, **facts)


def restricted(problem: Problem, features: np.ndarray) -> Problem:
    parts = (problem.reference, problem.target, problem.rejected, problem.chosen)
    return Problem(*parts, prompts=problem.prompts, space=problem.space, features=features)


PROBLEMS = {
    "prompts": lambda: unrelated(3, 4, prompts=[0.2, 0.5, 0.3]),
    "sequences": lambda: unrelated(15, space=Sequences(2, 3)),
    "sequences with prompts": lambda: unrelated(2, 7, space=Sequences(2, 2), prompts=[0.25, 0.75]),
    "restricted": lambda: restricted(unrelated(2, 5, prompts=[0.5, 0.5]), logits(2, 5, 3, seed=9)),
    "restricted sequences": lambda: restricted(unrelated(7, space=Sequences(2, 2)), logits(9, 4, seed=9)),
}
EVERY_SPACE = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)


# --- sequences ------------------------------------------------------------------------------------------

SPACES = [Sequences(1, 1), Sequences(1, 4), Sequences(2, 3), Sequences(3, 2), Sequences(4, 1)]


def by_hand(space: Sequences) -> list[tuple[int, ...]]:
    tokens = range(space.vocabulary)
    return [s for length in range(space.max_length + 1) for s in itertools.product(tokens, repeat=length)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_responses_are_all_sequences_by_length_and_then_in_order(space):
    assert [space.tokens(number) for number in range(space.num_responses)] == by_hand(space)
    assert [space.index(tokens) for tokens in by_hand(space)] == list(range(space.num_responses))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_end_counts_as_a_decision_and_a_cut_does_not(space):
    expected = [min(len(tokens) + 1, space.max_length) for tokens in by_hand(space)]
    assert space.lengths.tolist() == expected


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_response_decides_its_tokens_in_its_prefixes(space):
    for number, tokens in enumerate(by_hand(space)):
        decided = [*tokens, space.vocabulary][: space.lengths[number]]
        prefixes = [space.index(tokens[:t]) for t in range(space.lengths[number])]
        assert space.actions[number, : len(decided)].tolist() == decided
        assert space.contexts[number, : len(decided)].tolist() == prefixes


@pytest.mark.parametrize("space", [*SPACES, Categorical(5)], ids=str)
def test_the_probability_of_a_response_is_the_product_over_its_decisions(space):
    next_log_probs = Policy.from_logits(logits(space.num_contexts, space.num_actions)).log_probs
    steps = np.arange(space.max_length) < space.lengths[:, None]
    product = np.where(steps, next_log_probs[space.contexts, space.actions], 0.0).sum(1)
    np.testing.assert_allclose(space.log_probs(next_log_probs), product, rtol=0.0, atol=ROUNDING)


@pytest.mark.parametrize("space", [*SPACES, Categorical(5)], ids=str)
def test_probabilities_of_responses_and_of_decisions_determine_each_other(space):
    next_log_probs = Policy.from_logits(logits(3, space.num_contexts, space.num_actions)).log_probs
    again = space.next_log_probs(space.log_probs(next_log_probs))
    np.testing.assert_allclose(again, next_log_probs, rtol=0.0, atol=ROUNDING)
    policy = Policy.from_logits(logits(space.num_responses, seed=1))
    same = space.log_probs(space.next_log_probs(policy.log_probs))
    np.testing.assert_allclose(same, policy.log_probs, rtol=0.0, atol=ROUNDING)


def test_a_prefix_that_is_never_reached_gets_a_uniform_choice_and_no_mass():
    space = Sequences(2, 2)
    never = Policy.from_probs(
        [0.5 if tokens[:1] != (1,) else 0.0 for tokens in by_hand(space)][:2] + [0.0] * 3 + [0, 0]
    )
    next_log_probs = space.next_log_probs(never.log_probs)
    np.testing.assert_allclose(np.exp(next_log_probs[space.index((1,))]), 1.0 / 3.0)
    np.testing.assert_allclose(np.exp(space.log_probs(next_log_probs)), never.probs, atol=ROUNDING)


@given(vocabulary=st.integers(1, 4), max_length=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_every_autoregressive_policy_has_total_probability_one(vocabulary, max_length, seed):
    space = Sequences(vocabulary, max_length)
    next_log_probs = Policy.from_logits(5.0 * logits(space.num_contexts, space.num_actions, seed=seed)).log_probs
    assert abs(np.exp(space.log_probs(next_log_probs)).sum() - 1.0) < ROUNDING


def test_three_hundred_thousand_sequences_have_total_probability_one_and_can_be_trained_on():
    space = Sequences(8, 6)
    assert space.num_responses == 299_593
    next_log_probs = Policy.from_logits(logits(space.num_contexts, space.num_actions)).log_probs
    assert abs(np.exp(space.log_probs(next_log_probs)).sum() - 1.0) < ROUNDING
    problem = Problem.from_temperature(space=space, tau=2.0, seed=1)
    jobs = [(problem, objective(name)) for name in ("dpo", "tdpo2", "simpo")]
    for history in train_many(jobs, steps=3):
        assert history.status == "completed"
        assert abs(history.policy.probs.sum() - 1.0) < ROUNDING
        assert history.metrics["js_target"][-1] < history.metrics["js_target"][0]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_did_construction_holds_on_sequences(space):
    problem = Problem.from_temperature(space=space, tau=2.0, seed=3)
    other = ds.did(problem.reference, problem.rejected)
    np.testing.assert_allclose(other.log_probs, problem.did.log_probs, rtol=0.0, atol=ROUNDING)
    history = train(
        problem,
        objective("dpo"),
        mode="population",
        dtype="float64",
        learning_rate=0.01,
        steps=1500,
        schedule="cosine",
        record_every=1500,
    )
    assert history.metrics["js_target"][-1] < 1e-8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequences(0, 2), "vocabulary must be a whole number from 1"),
        (lambda: Sequences(2, 0), "max_length must be a whole number from 1"),
        (lambda: Sequences(2, 3.0), "max_length must be a whole number"),
        (lambda: Sequences(10, 9), "the number of sequences must be at most"),
        (lambda: Categorical(-1), "num_classes must be a whole number"),
        (lambda: Sequences(2, 2).tokens(7), "response must be a whole number from 0 to 6"),
        (lambda: Sequences(2, 2).index((0, 2)), "a token must be a whole number from 0 to 1"),
        (lambda: Sequences(2, 2).index((0, 0, 0)), "tokens must be at most 2"),
        (lambda: Sequences(2, 2).policy(np.zeros((3, 2))), "the shape of logits must be"),
        (lambda: unrelated(7, space=Sequences(2, 3)), "number of classes of the policies must be that of the space"),
        (lambda: unrelated(2, 4), "of one shape .K.; got .* need prompts="),
        (lambda: unrelated(2, 4, prompts=[0.3, 0.3, 0.4]), "of one shape .3, K."),
        (lambda: unrelated(2, 4, prompts=[0.3, 0.3]), "the sum of the probabilities must be 1"),
        (lambda: unrelated(2, 4, prompts=[0.0, 1.0]), "prompts.0. must be a positive weight"),
        (lambda: unrelated(2, 4, prompts=[math.nan, 1.0]), "prompts.0. must be a finite number"),
        (lambda: unrelated(2, 4, prompts=["a", "b"]), "prompts must be an array of real numbers"),
        (lambda: unrelated(4, features=np.zeros((3, 2))), "the shape of features must be .4, d."),
        (lambda: unrelated(4, features=np.zeros((4, 0))), "the shape of features must be"),
        (lambda: unrelated(4, features=np.full((4, 2), np.inf)), "features.0, 0. must be a finite number"),
        (lambda: unrelated(2, 4, prompts=[0.5, 0.5], features=np.zeros((3, 4, 2))), "the first axis of features must"),
        (lambda: unrelated(4, token_weights={"weigths": np.ones(4)}), "Did you mean weights"),
        (lambda: unrelated(4, token_weights={"weights": np.ones(3)}), "of shape .4.; got"),
        (lambda: unrelated(4, token_weights={"weights": -np.ones(4)}), "non-negative"),
        (lambda: Problem.from_temperature(4, space=Sequences(2, 2)), "num_classes and space must be given one at a"),
        (lambda: Problem.from_temperature(4, num_prompts=0), "num_prompts must be a whole number"),
        (lambda: Problem.from_temperature(4, num_features=0), "num_features must be a whole number"),
        (lambda: Problem.from_temperature(10**6, num_features=10**6), "prompts × decisions × features must be at most"),
    ],
)  # fmt: skip
def test_what_makes_no_space_or_problem_is_refused_with_the_reason(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# --- the same numbers on every space --------------------------------------------------------------------


def policies_after(problem: Problem, loss, **changes) -> np.ndarray:
    history = train(problem, loss, **{**EXACT, **changes})
    assert history.status == "completed"
    return history.policy.log_probs


def state_at(problem: Problem, loss, theta: np.ndarray):
    """The plan of one run and parameters away from the reference."""
    plan = plan_runs([(problem, loss)], Settings(mode="population", steps=1, dtype="float64"))
    parameters = plan.initial.clone()
    parameters[0, : theta.size] += torch.tensor(theta.ravel())
    return plan, parameters, TableWeights.from_joint(plan.joint("float64"))


def value_and_gradient(problem: Problem, loss, theta: np.ndarray) -> tuple[float, np.ndarray]:
    plan, parameters, weights = state_at(problem, loss, theta)
    value = plain_losses(plan.groups[0], parameters, weights).item()
    gradient = gradient_of(plan.groups, parameters, weights)[0, : plan.policies.num_parameters]
    return value, gradient.numpy()


@EVERY_LOSS
def test_sequences_of_one_token_are_classes(name, options):
    """Sequence 0 is the empty one, whose only decision is the last action."""
    space, loss = Sequences(3, 1), objective(name, **options)
    sequences, order = unrelated(4, space=space, seed=3), [3, 0, 1, 2]  # the action of each response

    def as_classes(policy: Policy) -> Policy:
        return Policy(policy.log_probs[np.argsort(order)])

    parts = (sequences.reference, sequences.target, sequences.rejected, sequences.chosen)
    classes, theta = Problem(*map(as_classes, parts)), logits(4, seed=11)
    ours, theirs = (value_and_gradient(problem, loss, theta) for problem in (sequences, classes))
    assert ours[0] == pytest.approx(theirs[0], rel=ROUNDING)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0.0, atol=ROUNDING * max(1.0, np.abs(theirs[1]).max()))


@EVERY_LOSS
@pytest.mark.parametrize("settings", [EXACT, {**EXACT, "mode": "sampled"}], ids=["population", "sampled"])
def test_one_prompt_is_none(name, options, settings):
    alone = unrelated(5, seed=2)
    parts = (alone.reference, alone.target, alone.rejected, alone.chosen)
    single = Problem(*(Policy(policy.log_probs[None].copy()) for policy in parts), prompts=[1.0])
    loss = objective(name, **options)
    first, second = train(alone, loss, **settings), train(single, loss, **settings)
    np.testing.assert_array_equal(second.policy.log_probs[0], first.policy.log_probs)
    assert first.frame.equals(second.frame)


@EVERY_LOSS
def test_two_equal_prompts_are_one(name, options):
    """Weights of ½ halve the gradient of each; without clipping, gradient descent then takes half steps."""
    alone = unrelated(4, seed=5)
    parts = (alone.reference, alone.target, alone.rejected, alone.chosen)
    twice = Problem(*(Policy(np.stack([p.log_probs] * 2)) for p in parts), prompts=[0.5, 0.5])
    loss, plain = objective(name, **options), {"optimiser": "sgd", "clip": None}
    if {"prior", "masks"} & loss.needs:  # what is learned beside the policy sees the sum of both, not the half of each
        return
    one = policies_after(alone, loss, **plain, learning_rate=0.01)
    two = policies_after(twice, loss, **plain, learning_rate=0.02)
    if name in ("aot", "aot_unpaired"):  # equal values of both prompts tie, and the sort decides which one moves
        return
    if "marginal" in loss.needs and not options.get("stop_gradient", name == "rmipo"):
        return  # gradient flows through log Σ_x p(x) π(y|x), where each prompt moves its own half only
    np.testing.assert_allclose(two, np.stack([one] * 2), rtol=0.0, atol=TRAINED)


@EVERY_LOSS
def test_masking_a_class_equals_deleting_it(name, options):
    keep = np.array([0, 2, 3, 5])
    whole_logits = logits(4, 6, seed=7)
    whole_logits[:, [1, 4]] = -np.inf
    whole = Problem(*map(Policy.from_logits, whole_logits))
    part = Problem(*map(Policy.from_logits, whole_logits[:, keep]))
    loss = objective(name, **options)
    np.testing.assert_allclose(policies_after(whole, loss)[keep], policies_after(part, loss), rtol=0.0, atol=TRAINED)


@EVERY_LOSS
def test_masking_a_token_equals_a_smaller_vocabulary(name, options):
    large, small = Sequences(3, 2), Sequences(2, 2)
    kept = [large.index(small.tokens(number)) for number in range(small.num_responses)]
    whole_logits = np.full((4, large.num_responses), -np.inf)
    whole_logits[:, kept] = logits(4, len(kept), seed=8)
    whole = Problem(*map(Policy.from_logits, whole_logits), space=large)
    part = Problem(*map(Policy.from_logits, whole_logits[:, kept]), space=small)
    loss = objective(name, **options)
    np.testing.assert_allclose(policies_after(whole, loss)[kept], policies_after(part, loss), rtol=0.0, atol=TRAINED)


@EVERY_SPACE
@pytest.mark.parametrize("path", ["table", "gather"])
def test_a_run_in_a_mixed_batch_equals_the_run_alone(make, path):
    problem, common = make(), {"steps": 6, "dtype": "float64", "batch_size": 32, "path": path, "learning_rate": 0.01}
    jobs = [(problem, objective(name, **options)) for name, options in OPTIONS if name not in JUMPS]
    for (_, loss), history in zip(jobs, train_many(jobs, **common), strict=True):
        alone = train(problem, loss, **common)
        assert history.status == alone.status == "completed"
        np.testing.assert_allclose(
            history.policy.log_probs, alone.policy.log_probs, rtol=0.0, atol=TRAINED, err_msg=repr(loss)
        )


@EVERY_SPACE
def test_a_table_and_a_list_of_the_same_pairs_give_the_same_gradient(make):
    """Every objective, on pairs that are drawn once and laid out in both ways."""
    problem, batch = make(), 40
    rng = np.random.default_rng(1)
    prompts, classes = (
        rng.integers(problem.num_prompts, size=(1, batch)),
        rng.integers(problem.num_classes, size=(2, 1, batch)),
    )
    sides = [[prompts * problem.num_classes + side] for side in classes]
    sizes = (problem.num_prompts, problem.num_classes, torch.float64)
    for name, options in OPTIONS:
        loss, gradients = objective(name, **options), []
        for path, layout in (("table", TableWeights), ("gather", DrawnWeights)):
            plan = plan_runs([(problem, loss)], Settings(steps=1, dtype="float64", path=path, metrics=()))
            parameters = plan.initial + torch.tensor(logits(*plan.initial.shape, seed=4))
            gradients.append(gradient_of(plan.groups, parameters, layout.from_draws(*sides, *sizes).at(0)).numpy())
        scale = max(1e-3, np.abs(gradients[0]).max())
        np.testing.assert_allclose(*gradients, rtol=0.0, atol=ROUNDING * scale * 10, err_msg=repr(loss))


@EVERY_SPACE
@pytest.mark.parametrize("name", ["dpo", "simpo", "orpo", "tdpo1", "sparse_po", "cal_dpo", "aot"])
def test_the_gradient_is_the_slope_of_the_expected_loss(make, name):
    """Finite differences, for objectives that stop no gradient."""
    problem, loss, step = make(), objective(name), 1e-5
    plan, parameters, weights = state_at(problem, loss, np.zeros(0))
    parameters = parameters + 0.3 * torch.tensor(logits(*parameters.shape, seed=6))

    def value(change: torch.Tensor) -> float:
        return plain_losses(plan.groups[0], parameters + change, weights).item()

    gradient = gradient_of(plan.groups, parameters, weights)[0]
    for number in range(0, parameters.shape[1], 3):
        unit = torch.zeros_like(parameters)
        unit[0, number] = step
        assert gradient[number].item() == pytest.approx((value(unit) - value(-unit)) / (2 * step), rel=1e-5, abs=1e-8)


# --- prompts --------------------------------------------------------------------------------------------


def test_prompts_are_drawn_by_their_weights_and_responses_by_their_prompt():
    problem = unrelated(3, 4, prompts=[0.2, 0.5, 0.3])
    dataset = train_dataset(problem, 200_000)
    counts = np.zeros((3, 4, 4))
    np.add.at(counts, (dataset.prompts, dataset.chosen, dataset.rejected), 1.0)
    chosen, rejected = problem.chosen.probs, problem.rejected.probs
    expected = problem.prompts[:, None, None] * chosen[:, :, None] * rejected[:, None, :] * len(dataset)
    assert np.max(np.abs(counts - expected) / np.sqrt(expected)) < 5.0


def train_dataset(problem: Problem, size: int) -> PreferenceDataset:
    from didsim.engine._draws import sample_dataset

    return sample_dataset(problem, size, seed=1, batch_size=64)


def test_dpo_recovers_the_target_of_every_prompt():
    problem = Problem.from_temperature(6, tau=2.0, seed=1, num_prompts=3)
    history = train(problem, objective("dpo"), **{**EXACT, "steps": 3000, "schedule": "cosine"})
    assert history.metrics["js_target"][-1] < 1e-10
    assert ds.js(history.policy, problem.target).max() < 1e-9


def test_metrics_are_averages_over_prompts_by_their_weights():
    problem = unrelated(3, 4, prompts=[0.2, 0.5, 0.3])
    history = train(problem, objective("dpo"), steps=10, dtype="float64", record_every=10)
    expected = problem.prompts @ ds.js(problem.target, history.policy)
    assert history.metrics["js_target"][-1] == pytest.approx(expected, rel=ROUNDING)
    information = ds.mutual_information(history.policy, problem.prompts)
    assert history.metrics["mutual_information"][-1] == pytest.approx(float(information), rel=ROUNDING)


def test_a_dataset_names_the_prompt_of_each_pair():
    problem = unrelated(2, 3, prompts=[0.5, 0.5])
    rows = PreferenceDataset.from_classes([0, 1], [1, 2], 3, prompts=[1, 1], num_prompts=2)
    history = train(problem, objective("dpo"), mode="dataset", dataset=rows, steps=5, dtype="float64")
    moved = np.abs(history.policy.log_probs - problem.reference.log_probs).max(axis=1)
    assert moved[0] < ROUNDING < 1e-3 < moved[1]
    with pytest.raises(ValueError, match=r"prompts\[1\] must be a prompt from 0 to 1"):
        PreferenceDataset.from_classes([0, 1], [1, 2], 3, prompts=[0, 2], num_prompts=2)
    outside = PreferenceDataset.from_classes([0], [1], 3, prompts=[2], num_prompts=3)
    with pytest.raises(ValueError, match="dataset must be of prompts below 2"):
        train(problem, objective("dpo"), mode="dataset", dataset=outside, steps=1)


class TestInformation:
    POLICY = Policy.from_logits(logits(3, 4, seed=2))
    PROMPTS = np.array([0.2, 0.5, 0.3])

    def test_mutual_information_is_the_least_divergence_from_a_single_distribution(self):
        information = float(ds.mutual_information(self.POLICY, self.PROMPTS))
        best = ds.marginal(self.POLICY, self.PROMPTS)
        assert information == pytest.approx(float(self.PROMPTS @ ds.kl(self.POLICY, best)), rel=ROUNDING)
        for seed in range(20):
            other = Policy.from_logits(best.log_probs + 0.3 * logits(4, seed=seed))
            assert float(self.PROMPTS @ ds.kl(self.POLICY, other)) > information

    def test_mutual_information_is_the_mean_of_the_pointwise_one(self):
        mean = float(self.PROMPTS @ (self.POLICY.probs * ds.pmi(self.POLICY, self.PROMPTS)).sum(1))
        assert float(ds.mutual_information(self.POLICY, self.PROMPTS)) == pytest.approx(mean, rel=1e-10)

    def test_equal_prompts_say_nothing(self):
        same = Policy(np.stack([self.POLICY.log_probs[0]] * 2))
        assert float(ds.mutual_information(same, [0.5, 0.5])) == pytest.approx(0.0, abs=ROUNDING)

    def test_an_impossible_response_has_minus_infinity(self):
        assert ds.pmi([[1.0, 0.0], [1.0, 0.0]], [0.5, 0.5]).tolist() == [[0.0, -math.inf]] * 2

    @pytest.mark.parametrize("function", [ds.marginal, ds.mutual_information, ds.pmi])
    def test_shapes_that_do_not_match_are_refused(self, function):
        with pytest.raises(ValueError, match=r"the shapes of policy and prompts must be \[..., X, K\] and \[X\]"):
            function([0.5, 0.5], [1.0])


# --- restricted policies --------------------------------------------------------------------------------


def test_one_feature_for_each_class_restricts_nothing():
    free = unrelated(5, seed=4)
    plain = {"optimiser": "sgd", "clip": None, "learning_rate": 0.05}
    for name in ("dpo", "simpo", "kto", "tdpo2", "alpha_dpo"):
        loss = objective(name)
        ours = policies_after(restricted(free, np.eye(5)), loss, **plain)
        np.testing.assert_allclose(ours, policies_after(free, loss, **plain), rtol=0.0, atol=TRAINED)


def test_the_direction_to_the_target_is_all_that_dpo_needs():
    free = Problem.from_temperature(6, tau=2.0, seed=1)
    towards = (free.target.log_probs - free.reference.log_probs)[:, None]
    history = train(restricted(free, towards), objective("dpo"), **{**EXACT, "steps": 2000, "schedule": "cosine"})
    assert history.metrics["js_target"][-1] < 1e-10


def test_a_policy_that_cannot_represent_the_target_ends_elsewhere():
    problem = Problem.from_temperature(8, tau=3.0, seed=1, num_features=2)
    history = train(problem, objective("dpo"), **{**EXACT, "steps": 2000, "schedule": "cosine"})
    assert history.metrics["js_target"][-1] > 1e-3
    # and no policy of the class has a smaller loss nearby
    plan, _, weights = state_at(problem, objective("dpo"), np.zeros(0))
    change = history.policy.log_probs - problem.reference.log_probs
    fitted = np.linalg.lstsq(np.c_[problem.features[0], np.ones(8)], change, rcond=None)
    np.testing.assert_allclose(np.c_[problem.features[0], np.ones(8)] @ fitted[0], change, atol=1e-9)
    best = torch.tensor(fitted[0][None, :2])
    losses = [
        plain_losses(plan.groups[0], best + torch.tensor([[a, b]]), weights).item()
        for a, b in [(0.0, 0.0), (0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)]
    ]
    assert losses[0] == min(losses)


def test_a_restricted_policy_starts_at_the_reference_only():
    problem = Problem.from_temperature(4, num_features=2)
    with pytest.raises(ValueError, match="initial_policy must be left out for problems with features"):
        train(problem, objective("dpo"), steps=1, initial_policy=problem.reference)


def test_jobs_on_different_spaces_are_refused_in_one_batch():
    problems = [
        Problem.from_temperature(7),
        Problem.from_temperature(space=Sequences(2, 2)),
        Problem.from_temperature(7, num_prompts=2),
        Problem.from_temperature(7, num_features=2),
    ]
    for first, second in itertools.combinations(problems, 2):
        with pytest.raises(ValueError, match=r"must be the same.*separate calls"):
            train_many([(first, objective("dpo")), (second, objective("dpo"))], steps=1)


# --- what is learned beside the policy ------------------------------------------------------------------


class TestPriors:
    def test_a_given_prior_is_what_dpo_is_measured_against(self):
        """π ends at ζ (w/l)^(1/α): DPO with ζ for the reference, from any start."""
        free, zeta = unrelated(5, seed=3), Policy.from_logits(logits(5, seed=9))
        parts = (free.reference, free.target, free.rejected, free.chosen)
        for space in (None, Sequences(4, 1)):
            problem = Problem(*parts, space=space, prior=zeta)
            loss = objective("mi_dpo", prior="given", alpha=2.0)
            ours = policies_after(problem, loss, steps=3000, schedule="cosine")
            optimum = ds.dpo_optimum(free, beta=2.0, prior=zeta).log_probs
            np.testing.assert_allclose(ours, optimum, rtol=0.0, atol=1e-6)

    def test_a_given_prior_that_is_the_reference_is_dpo(self):
        for problem in (unrelated(5, seed=3), unrelated(7, seed=3, space=Sequences(2, 2))):
            parts = (problem.reference, problem.target, problem.rejected, problem.chosen)
            given = Problem(*parts, space=problem.space, prior=problem.reference)
            for path in ("table", "gather"):
                ours, dpo = (
                    train(p, loss, path=path, dtype="float64", steps=20, batch_size=32).policy.log_probs
                    for p, loss in ((given, objective("mi_dpo", prior="given")), (problem, objective("dpo")))
                )
                np.testing.assert_allclose(ours, dpo, rtol=0.0, atol=TRAINED)

    def test_a_problem_without_a_prior_cannot_meet_the_need(self):
        with pytest.raises(ValueError, match=r"the problem must be given with a prior .*Problem.from_policies"):
            train(unrelated(4), objective("mi_dpo", prior="given"), steps=1)

    @pytest.mark.parametrize(
        ("prior", "message"),
        [
            ([0.5, 0.5, 0.0, 0.0], "prior must be positive wherever the reference is; got '0 for class 2'"),
            ([0.5, 0.5], r"the shape of prior must be \[4\]"),
            ([0.5, 0.6, 0.1, 0.1], "the sum of the probabilities must be 1"),
        ],
    )
    def test_a_prior_that_is_not_positive_is_refused(self, prior, message):
        with pytest.raises(ValueError, match=message):
            Problem.from_policies([0.25] * 4, [0.1, 0.2, 0.3, 0.4], prior=prior)

    def problem(self) -> Problem:
        return unrelated(3, 4, prompts=[0.2, 0.5, 0.3], seed=6)

    def test_a_learned_prior_only_lowers_the_loss(self):
        problem, common = self.problem(), {**EXACT, "steps": 400}
        learned = train(problem, objective("mi_dpo", prior="learned"), **common)
        start = ds.marginal(problem.reference, problem.prompts)
        assert learned.metrics["loss"][-1] < learned.metrics["loss"][0]
        assert float(ds.kl(learned.prior, start)) > 1e-3
        assert abs(learned.prior.probs.sum() - 1.0) < ROUNDING

    @pytest.mark.parametrize("radius", [0.0, 1e-3, 0.05])
    def test_a_trust_region_holds_the_prior(self, radius):
        problem = self.problem()
        history = train(problem, objective("mi_dpo", prior="learned"), trust_region=radius, **{**EXACT, "steps": 200})
        distance = float(ds.kl(history.prior, ds.marginal(problem.reference, problem.prompts)))
        assert distance <= radius + ROUNDING
        assert distance >= 0.5 * radius  # it would go further if it could

    def test_the_projection_is_the_nearest_prior_of_the_region(self):
        from didsim.engine._priors import project

        prior, reference, radius = (Policy.from_logits(logits(4, seed=k)) for k in (1, 2)), None, 0.05
        prior, reference = prior
        nearest = project(prior, reference, radius)
        assert float(ds.kl(nearest, reference)) == pytest.approx(radius, rel=1e-9)
        for seed in range(200):
            other = Policy.from_logits(nearest.log_probs + 0.05 * logits(4, seed=seed))
            if ds.kl(other, reference) <= radius:
                assert ds.kl(other, prior) >= ds.kl(nearest, prior) - ROUNDING
        assert project(nearest, reference, 2 * radius) is nearest

    def test_a_trust_region_without_a_learned_prior_is_refused(self):
        with pytest.raises(ValueError, match="trust_region must be left out unless a prior is learned"):
            train(self.problem(), objective("dpo"), steps=1, trust_region=0.1)

    def test_alternating_with_the_marginal_is_training_with_a_stopped_prior(self):
        """Each step sees ζ at the current policy: the gradient with ζ held there, recomputed by hand."""
        problem, loss = self.problem(), objective("mi_dpo", prior="marginal", stop_gradient=True)
        plan, parameters, weights = state_at(problem, loss, logits(12, seed=3))
        policy = plan.policies.policies(parameters)
        log_zeta = ds.marginal(Policy(policy.log_probs[0].copy()), problem.prompts).log_probs
        leaf = parameters.clone().requires_grad_()
        log_pi = torch.log_softmax(leaf.reshape(3, 4), dim=1) - torch.tensor(log_zeta)
        margins = log_pi[:, :, None] - log_pi[:, None, :]
        total = (weights.joint * -torch.nn.functional.logsigmoid(margins)).sum()
        (expected,) = torch.autograd.grad(total, leaf)
        np.testing.assert_allclose(gradient_of(plan.groups, parameters, weights), expected, rtol=0.0, atol=ROUNDING)

    def test_learned_masks_move_from_one(self):
        problem = unrelated(7, space=Sequences(2, 2))
        heavy = train(problem, objective("sparse_po", masks="learned", lam=1.0), **{**EXACT, "steps": 300})
        given = train(problem, objective("sparse_po", masks="given", lam=1.0), **{**EXACT, "steps": 300})
        assert heavy.metrics["loss"][-1] < given.metrics["loss"][-1] - 0.1

    def test_given_token_weights_are_used(self):
        space, base = Sequences(2, 2), unrelated(7, space=Sequences(2, 2))
        parts = (base.reference, base.target, base.rejected, base.chosen)
        nothing = Problem(*parts, space=space, token_weights={"weights": np.zeros(9)})
        history = train(nothing, objective("tis_dpo"), **EXACT)
        np.testing.assert_allclose(history.policy.log_probs, base.reference.log_probs, rtol=0.0, atol=ROUNDING)


# --- gradient rules, outer loops, probes ------------------------------------------------------------------


@EVERY_SPACE
def test_dpo_pg_raises_the_chosen_without_raising_the_rejected(make):
    problem = make()
    history = train(
        problem,
        objective("dpo_pg"),
        mode="population",
        dtype="float64",
        optimiser="sgd",
        clip=None,
        learning_rate=1e-3,
        steps=20,
        record_every=1,
    )
    chosen, rejected = history.metrics["log_pi_chosen"], history.metrics["log_pi_rejected"]
    assert np.all(np.diff(chosen) >= -1e-10)
    # orthogonal to the rejected gradient: a change of second order in the step at most
    assert np.all(np.diff(rejected) <= 1e-5)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_dpo_pg_has_a_finite_result_where_both_gradients_vanish_or_agree(clip):
    """At chosen = rejected = π the gradients are zero; with chosen = rejected they are equal."""
    reference = Policy.from_logits(logits(4))
    other = Policy.from_logits(logits(4, seed=1))
    for problem in (Problem(*[reference] * 4), Problem(reference, other, other, other)):
        history = train(problem, objective("dpo_pg"), clip=clip, **EXACT)
        assert history.status == "completed"
        np.testing.assert_allclose(history.policy.log_probs, reference.log_probs, rtol=0.0, atol=1e-6)


class TestDice:
    def test_one_round_is_dpo(self):
        problem = Problem.from_temperature(5, tau=2.0)
        [once] = ds.dice(problem, rounds=1, steps=20)
        assert once.frame.equals(train(problem, objective("dpo"), steps=20).frame)

    def test_each_round_starts_at_the_last_policy_and_refers_to_it(self):
        histories = ds.dice(Problem.from_temperature(5, tau=2.0), rounds=3, steps=20, dtype="float64")
        for before, after in itertools.pairwise(histories):
            np.testing.assert_array_equal(after.problem.reference.log_probs, before.policy.log_probs)
            assert after.metrics["js_target"][0] == pytest.approx(before.metrics["js_target"][-1], rel=1e-9)
            assert after.metrics["loss"][0] == pytest.approx(math.log(2.0))

    def test_two_converged_rounds_go_twice_as_far(self):
        """Each round multiplies the policy by (w/l)^(1/β), so that two of them give π_ref (w/l)^(2/β)."""
        problem = Problem.from_temperature(4, tau=2.0)
        last = ds.dice(problem, rounds=2, **{**EXACT, "steps": 3000, "schedule": "cosine"})[-1]
        expected = Policy.from_logits(problem.reference.log_probs + 2.0 * problem.did.log_probs)
        assert float(ds.js(last.policy, expected)) < 1e-9

    def test_relabelled_pairs_are_chosen_by_the_implicit_reward(self):
        problem = Problem.from_temperature(5, tau=2.0, num_prompts=2)
        first, second = ds.dice(problem, rounds=2, relabel=300, steps=40)
        from didsim.engine._outer import relabelled_pairs

        pairs = relabelled_pairs(problem, first.policy, 300, 0.0, seed=42)
        reward = first.policy.log_probs - problem.reference.log_probs
        assert np.all(reward[pairs.prompts, pairs.chosen] >= reward[pairs.prompts, pairs.rejected])
        assert second.metrics["accuracy"][-1] > 0.5

    def test_a_length_penalty_prefers_short_responses(self):
        from didsim.engine._outer import relabelled_pairs

        space = Sequences(2, 3)
        problem = Problem.from_temperature(space=space, tau=2.0)
        pairs = relabelled_pairs(problem, problem.target, 500, 100.0, seed=0)
        assert np.all(space.lengths[pairs.chosen] <= space.lengths[pairs.rejected])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rounds": 0}, "rounds must be a whole number from 1"),
            ({"rounds": 2, "relabel": 0}, "relabel must be a whole number from 1"),
            ({"rounds": 1, "relabel": 5}, "relabel must be given with at least 2 rounds"),
            ({"length_penalty": 0.1}, "length_penalty must be given together with relabel"),
            ({"length_penalty": -1.0, "relabel": 3}, "length_penalty must be a finite number"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ds.dice(Problem.from_temperature(4), steps=2, **arguments)


class TestEntropyProbe:
    POLICY, REFERENCE = Policy.from_logits(logits(6, seed=1)), Policy.from_logits(0.5 * logits(6, seed=2))

    def test_a_converged_probe_has_the_entropy_of_the_did(self):
        result = ds.entropy_probe(
            self.POLICY, self.REFERENCE, samples=200_000, **{**EXACT, "steps": 4000, "schedule": "cosine"}
        )
        truth = float(ds.entropy(ds.did(self.POLICY, self.REFERENCE)))
        assert result.true_entropy == pytest.approx(truth, rel=ROUNDING)
        assert result.probe_entropy == pytest.approx(truth, abs=1e-6)
        assert result.estimate == pytest.approx(truth, abs=0.02)
        assert result.beta_accuracy == 1.0

    def test_an_untrained_probe_is_at_the_reference(self):
        result = ds.entropy_probe(self.POLICY, self.REFERENCE, steps=1, learning_rate=1e-9)
        assert result.probe_entropy == pytest.approx(float(ds.entropy(self.REFERENCE)), abs=1e-5)
        assert result.beta_accuracy < 1.0

    def test_greedy_pairs_lead_elsewhere(self):
        other = ds.did(self.REFERENCE, self.POLICY)  # its likeliest class is another
        greedy = ds.entropy_probe(self.POLICY, other, decoding="greedy", **{**EXACT, "steps": 3000})
        assert greedy.probe_entropy < 0.5 * greedy.true_entropy

    def test_greedy_pairs_of_one_response_twice_teach_nothing(self):
        assert self.POLICY.probs.argmax() == self.REFERENCE.probs.argmax()
        greedy = ds.entropy_probe(self.POLICY, self.REFERENCE, decoding="greedy", **EXACT)
        np.testing.assert_allclose(greedy.probe.log_probs, self.REFERENCE.log_probs, rtol=0.0, atol=ROUNDING)

    def test_greedy_decoding_of_sequences_takes_the_likeliest_token_each_time(self):
        from didsim.engine._probe import greedy

        space = Sequences(2, 2)
        # the likeliest sequence is (1,) with 0.35, but 0 is the likelier first token
        policy = Policy.from_probs([0.05, 0.2, 0.35, 0.2, 0.2, 0.0, 0.0])
        assert space.tokens(int(greedy(policy, space).probs.argmax())) in {(0,), (0, 0), (0, 1)}

    def test_the_monte_carlo_estimate_is_unbiased(self):
        estimates = [ds.monte_carlo_entropy(self.POLICY, 100, seed=seed) for seed in range(400)]
        error = np.std(estimates, ddof=1) / 20.0
        assert abs(np.mean(estimates) - float(ds.entropy(self.POLICY))) < 4.0 * error

    def test_beta_accuracy_tells_a_right_probe_from_a_wrong_one(self):
        did = ds.did(self.POLICY, self.REFERENCE)
        opposite = ds.did(self.REFERENCE, self.POLICY)
        assert ds.beta_accuracy(did, self.POLICY, self.REFERENCE) == 1.0
        assert ds.beta_accuracy(opposite, self.POLICY, self.REFERENCE) < 0.05
        assert math.isnan(ds.beta_accuracy(did, self.POLICY, self.POLICY))

    def test_unknown_decoding_is_refused(self):
        with pytest.raises(ValueError, match="decoding must be one of sampled, greedy"):
            ds.entropy_probe(self.POLICY, self.REFERENCE, decoding="beam")
