"""Policies from their scores: what policy has these scores, up to a constant for each prompt?

A level is what the score of each response must be, [..., K], up to a constant c that Σ π = 1 fixes; where it is −inf
the policy is 0. Sums over the simplex are monotone in c, so that bisection finds it to the last digits, in log space.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import message
from didsim._numerics import expectation, log_softmax, logsumexp
from didsim.policy import Policy
from didsim.spaces import Space


def policy_of(log_probs: FloatArray, level: FloatArray) -> Policy:
    """Normalise log-probabilities [..., K], those of a level of −inf to probability 0.

    Raises:
        ValueError: if another one is not finite.
    """
    never = np.isneginf(level)
    log_probs = np.where(never, -np.inf, log_probs)
    if not np.all(np.isfinite(log_probs) | never):
        accepted = "moderate enough for log-probabilities to be finite"
        raise ValueError(message("the hyperparameters of a closed form", accepted, "an overflow"))
    return Policy.from_logits(log_probs)


def normalised(log_probs: Callable[[FloatArray], FloatArray], level: FloatArray) -> Policy:
    """Return the policy log_probs(t) at the t of each prompt where its probabilities sum to 1.

    Args:
        log_probs: from t [..., 1] to log-probabilities [..., K] that increase in t, with a sum that passes 1.
        level: −inf where the probability is 0, [..., K].

    >>> normalised(lambda t: np.array([t[0], 2 * t[0]]), np.zeros(2)).probs     # x + x² = 1
    array([0.61803399, 0.38196601])
    """
    never = np.isneginf(level)

    def mass(t: FloatArray) -> FloatArray:
        return np.exp(np.where(never, -np.inf, log_probs(t))).sum(axis=-1, keepdims=True)

    high = np.ones((*level.shape[:-1], 1))
    low = -high
    with np.errstate(all="ignore"):  # far from the root a number may overflow; at the root `policy_of` looks
        while np.any(above := (mass(low) > 1.0) & (low > -LARGEST)):
            low = np.where(above, 2.0 * low, low)
        while np.any(below := (mass(high) < 1.0) & (high < LARGEST)):
            high = np.where(below, 2.0 * high, high)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            above = mass(middle) > 1.0
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return policy_of(log_probs(0.5 * (low + high)), level)


BISECTIONS = 64
"""Halvings of a bracket about as wide as its root is large, or 2: beyond the rounding of float64."""

LARGEST = 1e300
"""Where the search for a bracket ends: the sum reaches 1 in the limit only."""


def linear(level: FloatArray, offset: Any = 0.0, rate: Any = 1.0) -> Policy:
    """Return the policy log π = offset + rate·(level + c); with one rate for all, π ∝ e^{offset + rate·level}.

    Args:
        level: what the scores must be, [..., K].
        offset: a part of log π that is no score, [..., K] or [K].
        rate: positive, [K] or a number: how fast log π grows with the score.

    >>> linear(np.log([0.8, 0.2]), rate=2.0).probs
    array([0.94117647, 0.05882353])
    """
    if np.ptp(rate) == 0.0:
        with np.errstate(over="ignore"):
            return policy_of(offset + rate * level, level)
    edge = level.max(axis=-1, keepdims=True)
    return normalised(lambda c: offset + rate * (level - edge + c), level)


def power(level: FloatArray, exponent: float, offset: Any = 0.0, rate: Any = 1.0) -> Policy | None:
    """Return the policy log π = offset + rate·x, (e^{px} − 1)/p = level + c, or None if there is none.

    Since 1 + p(level + c) must be positive, c has a bound, the one at which this vanishes for one response, the edge.
    With e^{ps} for 1 + p(edge + c), x = log(e^{ps} + p(level − edge))/p, in which s takes every value. For p < 0 the
    edge is the largest level, whose x has no bound: the sum takes every value. For p > 0 it is the smallest, whose
    probability reaches 0 first: there the sum has its least value, and where that is not below 1 no policy inside the
    simplex has such scores.

    Args:
        level: what the scores must be, [..., K].
        exponent: p; at 0 the score is x itself.
        offset: a part of log π that is no score, [..., K] or [K].
        rate: positive, [K] or a number.

    >>> power(np.array([0.0, 1.0]), -1.0, np.log([0.5, 0.5])).probs       # ½/(1 − c) + ½/(−c) = 1, c = −1/√2
    array([0.29289322, 0.70710678])
    """
    if exponent == 0.0:
        return linear(level, offset, rate)
    alive = np.isfinite(level)
    if exponent < 0.0:
        edge = level.max(axis=-1, keepdims=True)
    else:
        edge = np.where(alive, level, np.inf).min(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        distance = np.log(np.where(alive, np.abs(exponent * (level - edge)), 1.0))
        least = logsumexp(np.where(alive, offset + rate * distance / exponent, -np.inf), axis=-1)
    if exponent > 0.0 and np.any(least >= 0.0):
        return None
    return normalised(lambda s: offset + rate * np.logaddexp(exponent * s, distance) / exponent, level)


def tree(
    space: Space, log_ref: FloatArray, level: FloatArray, alpha: float, *, reverse: bool = False, gain: Any = 0.0
) -> Policy:
    """Return the policy with Σ_t (h_t − g_t + αK_t) = level + c for each response, or −αK′_t in place of αK_t.

    K = KL(π_ref ‖ π) and K′ = KL(π ‖ π_ref) are those of the prefix x in which a decision is made.

    Derivation: let π(a|x) = π_ref(a|x) e^{u(xa) − Z(x)}, u = g + V, with V(y) = level at the end of a response, and
    Z = log Σ_a π_ref e^u. Then h − g = V(xa) − Z(x), K = Z − E_{π_ref} u and K′ = E_π u − Z. Hence
    h − g + αK = V(xa) − V(x) with V(x) = (1 − α) Z + α E_{π_ref} u, and h − g − αK′ = V(xa) − V(x) with E_π for
    E_{π_ref}. The sum over a response telescopes to its level − V(root). Levels (up to c) and policies correspond one
    to one, smoothly.

    Args:
        space: what the responses are.
        log_ref: log π_ref of each decision, [X, N, A].
        level: what the sum must be, [..., K]; −inf for what the reference excludes, and for nothing else.
        alpha: α ≥ 0, the weight of the divergence.
        reverse: whether the divergence is −K′.
        gain: g of each decision, [X, N, A].
    """
    contexts, actions, lengths = space.contexts, space.actions, space.lengths
    values, ends = np.zeros(log_ref.shape), (np.arange(len(lengths)), lengths - 1)
    values[:, contexts[ends], actions[ends]] = np.where(np.isfinite(level), level, 0.0)
    for step in range(space.max_length - 1, 0, -1):
        log_weights = log_ref + gain + values
        log_pi = log_softmax(log_weights, axis=-1)
        mean = expectation(np.exp(log_pi if reverse else log_ref), gain + values)
        value = (1.0 - alpha) * logsumexp(log_weights, axis=-1) + alpha * mean
        inside = lengths > step
        values[:, contexts[inside, step - 1], actions[inside, step - 1]] = value[:, contexts[inside, step]]
    log_pi = log_softmax(log_ref + gain + values, axis=-1)
    return policy_of(space.log_probs(log_pi).reshape(level.shape), level)
