"""Exercises of lesson 2: the policy that maximises a reward at a price on KL, and the limits of β."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import numbers, positive, probabilities, size


def optimal_policy(reference, reward, beta):
    """Return the policy π, [K], that maximises E_π[r] − β KL(π‖π_ref)."""
    with np.errstate(divide="ignore"):
        scores = np.log(reference) + reward / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _draw_optimal(rng: np.random.Generator) -> Inputs:
    classes = size(rng)
    return {"reference": probabilities(rng, classes), "reward": numbers(rng, classes), "beta": positive(rng)}


def _normalised(weights):
    return weights / weights.sum()


OPTIMAL_POLICY = Exercise(
    "ex03",
    2,
    "the policy that maximises reward minus β KL",
    optimal_policy,
    draw=_draw_optimal,
    extremes={
        "a small β": {"reference": np.array([0.6, 0.4]), "reward": np.array([1.0, 2.0]), "beta": 0.001},
        "a large β": {"reference": np.array([0.6, 0.4]), "reward": np.array([1.0, 2.0]), "beta": 1e9},
        "large rewards, of which only differences matter": {
            "reference": np.array([0.2, 0.3, 0.5]),
            "reward": np.array([5000.0, 5001.0, 5000.5]),
            "beta": 0.5,
        },
        "the best response is excluded by π_ref": {
            "reference": np.array([0.5, 0.5, 0.0]),
            "reward": np.array([0.0, 1.0, 9.0]),
            "beta": 1.0,
        },
    },
    hints=(
        "Write the Lagrangian with Σ π = 1, and set its derivative by π(y) to 0. You get log π(y) up to a constant.",
        "π(y) ∝ π_ref(y) exp(r(y)/β). The constant is there to make the probabilities sum to 1.",
        "As in ex01: add in log space, log π_ref + r/β, subtract the largest, then exp, then divide by the sum.",
    ),
    slips=(
        Slip(
            "The reward is multiplied by β. A large β keeps the policy near π_ref, so the reward is divided by it.",
            lambda reference, reward, beta: optimal_policy(reference, reward, 1.0 / beta),
        ),
        Slip(
            "π_ref is missing: this is a softmax of the rewards.",
            lambda reference, reward, beta: optimal_policy(np.ones_like(reference), reward, beta),
        ),
        Slip(
            "exp(r/β) overflows. Work in log space and subtract the largest score before you take exp.",
            lambda reference, reward, beta: _normalised(reference * np.exp(reward / beta)),
        ),
        Slip(
            "The probabilities do not sum to 1: divide by their sum, Z.",
            lambda reference, reward, beta: reference * np.exp(reward / beta),
        ),
    ),
)


def limits(reference, reward):
    """Return the limits of the optimal policy, [2, K]: for β → 0 first, then for β → ∞."""
    allowed = np.where(reference > 0, reward, -np.inf)
    best = np.where(allowed == allowed.max(), reference, 0.0)
    return np.stack([best / best.sum(), reference])


def _draw_limits(rng: np.random.Generator) -> Inputs:
    classes = size(rng)
    return {"reference": probabilities(rng, classes), "reward": rng.integers(-2, 3, classes).astype(float)}


def _one_best(reference, reward):
    return np.stack([np.eye(len(reward))[np.argmax(reward)], reference])


def _uniform_best(reference, reward):
    return np.stack([_normalised(1.0 * (limits(reference, reward)[0] > 0)), reference])


LIMITS = Exercise(
    "ex04",
    2,
    "what remains at β → 0 and at β → ∞",
    limits,
    draw=_draw_limits,
    extremes={
        "all rewards are equal": {"reference": np.array([0.2, 0.3, 0.5]), "reward": np.array([1.0, 1.0, 1.0])},
        "two best responses, of unequal π_ref": {
            "reference": np.array([0.1, 0.3, 0.6]),
            "reward": np.array([2.0, 2.0, 0.0]),
        },
        "the best response is excluded by π_ref": {
            "reference": np.array([0.25, 0.75, 0.0]),
            "reward": np.array([0.0, 1.0, 9.0]),
        },
    },
    hints=(
        "Look at π ∝ π_ref exp(r/β). For β → ∞ the exponents go to 0: what is left?",
        "For β → 0 the best responses win over all others by a factor without bound. Among several best ones, r/β is "
        "the same: what tells them apart?",
        "Keep π_ref where the reward is the largest among responses that π_ref allows, put 0 elsewhere, and divide by "
        "the sum.",
    ),
    slips=(
        Slip(
            "Of several best responses only the first is kept. They share the mass, in the proportions of π_ref.",
            _one_best,
        ),
        Slip("Several best responses share the mass in the proportions of π_ref, not equally.", _uniform_best),
        Slip(
            "The two limits are exchanged: the first row is β → 0, where only reward counts.",
            lambda reference, reward: limits(reference, reward)[::-1],
        ),
        Slip(
            "For β → ∞ the policy is not uniform: KL(π‖π_ref) is what then counts, and it is 0 at π_ref.",
            lambda reference, reward: np.stack([limits(reference, reward)[0], np.full(len(reward), 1 / len(reward))]),
        ),
    ),
)

EXERCISES = (OPTIMAL_POLICY, LIMITS)
