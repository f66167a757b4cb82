"""Preferences that go round in circles, so that no reward explains them."""

import math

import numpy as np
from scipy.special import expit

from didsim._arrays import FloatArray
from didsim._checks import Interval, check_number, message
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.worlds._labelled import labelled_pairs
from didsim.worlds._setting import Setting, classes

BETA = Interval(1e-4, math.inf, closed_low=True)

CONVERGED, MOST_STEPS = 1e-12, 50


def non_transitive(
    num_classes: int = 32,
    scale: float = 1.0,
    cycle: float = 2.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
) -> Problem:
    """Build pairs y₁, y₂ ~ π_ref whose log-odds are r_i − r_j + c sin(2π(i − j)/K): each is beaten by the next ones.

    Args:
        num_classes: K ≥ 1. Cycles need K ≥ 3.
        scale: the standard deviation of the rewards r, in nats.
        cycle: the strength c of the circle, in nats.
        beta: the β ≥ 1e-4 of the truth, `nash_policy`.
        seed: of π_ref and r.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: Munos et al. 2024.
    """
    setting = Setting.draw(classes(num_classes), num_prompts, scale, seed)
    place = np.arange(setting.space.num_responses) / setting.space.num_responses
    ring = check_number("cycle", cycle) * np.sin(2.0 * np.pi * (place[:, None] - place))
    ring = 0.5 * (ring - ring.T)  # skew to the last digit
    wins = expit(setting.reward[..., :, None] - setting.reward[..., None, :] + ring)
    target = nash_policy(setting.reference, wins, beta)
    pairs = labelled_pairs(setting.reference, wins)
    return Problem.from_pairs(setting.reference, target, pairs, prompts=setting.prompts)


def nash_policy(reference: Policy, preferences: FloatArray, beta: float = 1.0) -> Policy:
    """Return the Nash policy of the game of being preferred, in which each side pays β KL(π‖π_ref).

    It is π ∝ π_ref e^{p(·≻π)/β} with p(i ≻ π) = Σ_j π_j p(i ≻ j), and there is one only. With A = p − ½, which is skew,
    and u = Aπ(u)/β, π(u) ∝ π_ref e^u, it is followed from 1/β = 0 on: I − A Cov/β never loses its inverse, since
    v = A Cov v/β implies vᵀ Cov v = vᵀ Cov A Cov v/β = 0.

    Args:
        reference: π_ref, [..., K].
        preferences: p(i ≻ j), with p_ij + p_ji = 1, [..., K, K].
        beta: the β ≥ 1e-4 of the penalty.

    Raises:
        ValueError: if preferences are none, or if β is too small.

    Source: Munos et al. 2024 (Nash learning from human feedback), Eq. 3.

    >>> beats = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    >>> nash_policy(Policy.from_probs([0.6, 0.2, 0.2]), beats, beta=0.01).probs.round(2)
    array([0.33, 0.32, 0.34])
    """
    inverse, table = 1.0 / check_number("beta", beta, BETA), np.asarray(preferences, dtype=np.float64)
    if table.shape != (*reference.log_probs.shape, reference.num_classes):
        got = f"{table.shape} for a reference of {reference.log_probs.shape}"
        raise ValueError(message("the shape of preferences", "[..., K, K] for a reference [..., K]", got))
    if not np.allclose(table + table.swapaxes(-1, -2), 1.0, rtol=0.0, atol=1e-9):
        raise ValueError(message("preferences", "p_ij with p_ij + p_ji = 1", "others"))
    rows = zip(np.atleast_2d(reference.log_probs), table.reshape(-1, *table.shape[-2:]), strict=True)
    found = [_nash_of_prompt(log_ref, wins - 0.5, inverse) for log_ref, wins in rows]
    return Policy.from_logits(np.stack(found).reshape(reference.log_probs.shape))


def _nash_of_prompt(log_ref: FloatArray, advantage: FloatArray, inverse: float) -> FloatArray:
    """Return the logits log π_ref + u."""
    gain = np.zeros(len(log_ref))
    for pressure in np.linspace(0.0, inverse, 1 + math.ceil(inverse))[1:]:
        for _ in range(MOST_STEPS):
            pi = Policy.from_logits(log_ref + gain).probs
            apart = gain - pressure * advantage @ pi
            if np.abs(apart).max() <= CONVERGED * max(1.0, pressure):
                break
            slope = np.eye(len(pi)) - pressure * advantage @ (np.diag(pi) - np.outer(pi, pi))
            gain = gain - np.linalg.solve(slope, apart)
        else:
            raise ValueError(message("beta", "large enough for its Nash policy to be found", 1.0 / inverse))
    return log_ref + gain


def intransitivity(problem: Problem) -> float:
    """Return the worst |log-odds i ≻ j + j ≻ k + k ≻ i| of three responses, in nats: 0 where a reward explains them.

    Whatever scores a policy gives, it misses the log-odds of one of the three pairs by a third of this at least.
    Triples of which two are never compared, or always agree, are left out: with none, it is 0.

    >>> from didsim.worlds import bradley_terry
    >>> intransitivity(bradley_terry(num_classes=5)) < 1e-12
    True
    """
    worst = 0.0
    shares = problem.preferences.reshape(-1, problem.num_classes, problem.num_classes)
    for table in shares:
        inside = (table > 0.0) & (table < 1.0)  # NaN is neither
        odds = np.where(inside, table, np.nan)
        odds = np.log(odds) - np.log(odds.T)
        for i in range(len(odds)):
            around = np.abs(odds[i][:, None] + odds + odds[:, i][None, :])
            worst = max(worst, float(np.max(around, where=np.isfinite(around), initial=0.0)))
    return worst
