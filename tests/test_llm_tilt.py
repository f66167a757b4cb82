"""The nearest exponential tilt: convexity, the exact minimiser, estimates from draws, and what cannot be told."""

import math

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import numpy as np
import test_llm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from didsim.llm._tilt import Draws, fit_within, nearest_tilt

pytestmark = test_llm.pytestmark


def world(seed, prompts=3, classes=6):
    """Log-probabilities of π and π_ref, and rewards, all [X, K]."""
    rng = np.random.default_rng(seed)
    policy, reference = (z - logsumexp(z, axis=1, keepdims=True) for z in rng.normal(size=(2, prompts, classes)))
    return policy, reference, rng.normal(size=(prompts, classes))


def kl_to_tilt(policy, reference, reward, slope):
    """KL(π ‖ π_β) averaged over prompts, from the definition."""
    tilted = reference + slope * reward
    tilted -= logsumexp(tilted, axis=1, keepdims=True)
    return float((np.exp(policy) * (policy - tilted)).sum(1).mean())


def whole(log_probs, policy, reference, reward):
    """All responses, weighted by their probabilities under a policy."""
    return Draws(*(torch.tensor(part) for part in (reward, np.exp(log_probs), policy - reference)))


def risen(seed):
    """A world in which π has a higher mean reward than π_ref."""
    policy, reference, reward = world(seed)
    gain = np.sum((np.exp(policy) - np.exp(reference)) * reward)
    return policy, reference, np.sign(gain) * reward


def fallen(seed):
    """A world in which it has a lower one."""
    policy, reference, reward = risen(seed)
    return policy, reference, -reward


def exact(policy, reference, reward):
    return nearest_tilt(whole(policy, policy, reference, reward), whole(reference, policy, reference, reward))


def drawn(rng, log_probs, policy, reference, reward, count):
    prompts = np.repeat(np.arange(len(reward)), count)
    classes = np.concatenate([rng.choice(reward.shape[1], count, p=np.exp(row)) for row in log_probs])
    parts = (prompts, reward[prompts, classes], (policy - reference)[prompts, classes])
    return Draws.of(*map(torch.tensor, parts))


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_tilt_is_the_exact_minimiser(seed):
    policy, reference, reward = risen(seed)
    found = exact(policy, reference, reward)
    want = minimize_scalar(
        lambda slope: kl_to_tilt(policy, reference, reward, slope),
        bounds=(0, 50),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found.inverse_beta == pytest.approx(want.x, abs=1e-6)  # as near as values tell a minimum
    assert found.kl == pytest.approx(want.fun, abs=1e-10)
    assert found.kl == pytest.approx(kl_to_tilt(policy, reference, reward, found.inverse_beta), abs=1e-10)


@given(seed=st.integers(0, 10**6), slopes=st.tuples(*[st.floats(0, 20)] * 2), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_divergence_is_convex_in_inverse_beta(seed, slopes, share):
    def f(slope):
        return kl_to_tilt(*world(seed), slope)

    mixed = share * slopes[0] + (1 - share) * slopes[1]
    assert f(mixed) <= share * f(slopes[0]) + (1 - share) * f(slopes[1]) + 1e-9


@pytest.mark.parametrize("beta", [0.1, 1.0, 25.0])
def test_a_tilt_is_its_own_nearest_with_its_beta(beta):
    _, reference, reward = world(1)
    policy = reference + reward / beta
    policy -= logsumexp(policy, axis=1, keepdims=True)
    found = exact(policy, reference, reward)
    assert found.kl == pytest.approx(0.0, abs=1e-10)
    assert found.beta == pytest.approx(beta, rel=1e-10)
    groups = torch.arange(3).repeat_interleave(6)
    fit = fit_within(groups, torch.tensor(reward).flatten(), torch.tensor(policy - reference).flatten())
    assert (fit.slope, fit.r_squared) == pytest.approx((1 / beta, 1.0), rel=1e-10)


def test_the_nearest_tilt_has_the_reward_of_the_policy():
    policy, reference, reward = risen(3)
    tilted = reference + exact(policy, reference, reward).inverse_beta * reward
    tilted -= logsumexp(tilted, axis=1, keepdims=True)
    assert np.sum(np.exp(tilted) * reward) == pytest.approx(np.sum(np.exp(policy) * reward), abs=1e-10)


def test_the_units_and_the_zero_of_rewards_do_not_matter():
    policy, reference, reward = risen(4)
    one, other = exact(policy, reference, reward), exact(policy, reference, 1e6 * reward + np.array([[3.0], [5], [-7]]))
    assert other.kl == pytest.approx(one.kl, abs=1e-9)
    assert other.beta == pytest.approx(1e6 * one.beta, rel=1e-8)


def test_a_policy_with_less_reward_than_the_reference_is_nearest_to_the_reference():
    policy, reference, reward = fallen(5)
    found = exact(policy, reference, reward)
    assert (found.inverse_beta, found.beta) == (0.0, math.inf)
    assert found.kl == pytest.approx(kl_to_tilt(policy, reference, reward, 0.0), abs=1e-12)


def test_estimates_from_draws_have_the_spread_and_the_bias_that_they_state():
    noise, reference, reward = world(6)
    policy = reference + 0.8 * reward + 0.3 * noise  # β is far from infinite in all draws
    policy -= logsumexp(policy, axis=1, keepdims=True)
    rng, want = np.random.default_rng(0), exact(policy, reference, reward)
    found = [
        nearest_tilt(*(drawn(rng, p, policy, reference, reward, count) for p, count in ((policy, 60), (reference, 40))))
        for _ in range(300)
    ]
    kls, errors = np.array([tilt.kl for tilt in found]), np.array([tilt.error for tilt in found])
    assert np.std(kls) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.15)
    slopes, slope_errors = zip(*((tilt.inverse_beta, tilt.inverse_beta_error) for tilt in found), strict=True)
    assert np.std(slopes) == pytest.approx(np.sqrt(np.mean(np.square(slope_errors))), rel=0.15)
    bias = np.mean([tilt.bias for tilt in found])
    assert bias > 0
    # minimising over β lowers it too, by ½ Var f′/f″ at most, which is small here
    assert abs(np.mean(kls) + bias - want.kl) < 4 * np.std(kls) / math.sqrt(300) + 0.01


def test_at_slope_zero_the_normaliser_rests_on_all_responses_and_has_no_bias():
    policy, reference, reward = fallen(5)
    rng = np.random.default_rng(0)
    flat = nearest_tilt(*(drawn(rng, p, policy, reference, reward, 30) for p in (policy, reference)))
    assert flat.inverse_beta == 0.0
    assert flat.effective == pytest.approx(30.0)
    assert flat.bias == pytest.approx(0.0, abs=1e-12)


def some(rewards):
    values = torch.tensor(rewards, dtype=torch.float64)
    rows = torch.arange(len(values)).repeat_interleave(values.shape[1])
    return Draws.of(rows, values.flatten(), torch.zeros(values.numel()))


def test_equal_rewards_tell_no_tilt():
    found = nearest_tilt(some([[1.0, 1.0], [2.0, 2.0]]), some([[1.0, 1.0], [2.0, 2.0]]))
    assert "all equal" in found.unknown
    assert math.isnan(found.kl)


@pytest.mark.parametrize("top", [2.0, 3.0])
def test_rewards_as_high_as_the_best_of_the_reference_tell_no_tilt(top):
    found = nearest_tilt(some([[top, top]]), some([[1.0, 2.0]]))
    assert "no β > 0 is best" in found.unknown
    assert math.isnan(found.beta)


def test_a_normaliser_that_rests_on_one_response_is_not_trusted():
    found = nearest_tilt(some([[0.99, 0.99]]), some([[0.0, 0.0, 0.0, 1.0]]))
    assert "Draw more" in found.unknown
    assert found.effective < 1.1


def test_prompts_may_have_different_numbers_of_responses():
    rows, rewards = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0])
    draws = Draws.of(rows, rewards, torch.zeros(5))
    assert draws.mean(draws.reward).tolist() == [2.0, 4.0]
    # the variances of the two means: ((1 + 1)/1)/2 and ((4 + 0 + 4)/2)/3
    assert draws.error(draws.reward) == pytest.approx(math.sqrt(1.0 + 4.0 / 3.0) / 2)


def test_the_fit_is_that_of_least_squares_with_an_intercept_for_each_prompt():
    rng = np.random.default_rng(2)
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    x, y = rng.normal(size=(2, 8))
    design = np.column_stack([x, *(groups == g for g in range(3))])
    coefficients, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    spread = sum(np.sum((y[groups == g] - y[groups == g].mean()) ** 2) for g in range(3))
    fit = fit_within(*map(torch.tensor, (groups, x, y)))
    assert fit.slope == pytest.approx(coefficients[0], rel=1e-12)
    assert fit.r_squared == pytest.approx(1 - residual[0] / spread, rel=1e-12)


def test_a_fit_to_equal_rewards_is_unknown():
    fit = fit_within(torch.tensor([0, 0]), torch.ones(2), torch.tensor([0.0, 1.0]))
    assert math.isnan(fit.slope)
    assert math.isnan(fit.r_squared)
