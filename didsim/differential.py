"""Differential information: the distribution of what a policy update has learnt.

Source: "Differential Information Distribution" paper, Definition 3.1, Theorems 3.2 and 3.3, Eq. 1.
"""

from typing import NamedTuple

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import POSITIVE, check_number, message
from didsim.info import Distribution
from didsim.policy import Policy, as_policy, same_classes


def did(pi: Distribution, pi_ref: Distribution) -> Policy:
    """Return the Differential Information Distribution q(y) = (π(y)/π_ref(y)) / Z from π_ref to π.

    Args:
        pi: the updated policy π, [..., K].
        pi_ref: the policy π_ref it was updated from, [..., K].

    Raises:
        ValueError: if π gives mass to a class that π_ref excludes: the ratio would be infinite.

    Source: Theorem 3.2. Deviation: the paper assumes full support; a class that both exclude has q = 0.

    >>> did([0.5, 0.5], [0.25, 0.75]).probs
    array([0.75, 0.25])
    """
    updated, reference = same_classes(pi, pi_ref)
    return Policy.from_logits(_log_ratio(updated, reference))


def ideal_rejected(reference: Distribution, target: Distribution, beta: float = 1.0) -> Policy:
    """Return the ideal rejected distribution π_l ∝ π_ref (π_ref/π*)^β.

    With chosen responses drawn from π_ref and rejected ones from π_l, the DPO loss at this β is smallest
    at the target π*.

    Args:
        reference: π_ref, [..., K].
        target: π*, [..., K].
        beta: the exponent β > 0 of the power law.

    Raises:
        ValueError: if β ≤ 0, or if π* excludes a class that π_ref does not.

    Source: Eq. 1 (Section 3.4).

    >>> ideal_rejected([0.5, 0.5], [0.75, 0.25]).probs
    array([0.25, 0.75])
    """
    exponent = check_number("beta", beta, POSITIVE)
    return tilt(reference, reference, target, exponent)


def tilt(base: Distribution, numerator: Distribution, denominator: Distribution, exponent: float) -> Policy:
    """Return the policy ∝ base · (numerator/denominator)^exponent, [..., K].

    Raises:
        ValueError: if the ratio or its power is infinite: β is then too extreme for float64.
    """
    start, (above, below) = as_policy(base), same_classes(numerator, denominator)
    start, above = same_classes(start, above)
    ratio = _log_ratio(above, below)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = start.log_probs + exponent * ratio
    if not np.all(np.isfinite(scores) | np.isneginf(start.log_probs) | np.isneginf(ratio)):
        raise ValueError(
            message("beta", "moderate enough for ratios to its power to be finite", f"exponent {exponent:g}")
        )
    return Policy.from_logits(scores)


UNIFORM_TOLERANCE = 1e-13
"""Log-probabilities this close are equal up to the rounding of a normalisation in float64."""


class PowerLaw(NamedTuple):
    """A fit log q₁ = β log q₂ + c: its exponent β, and the largest residual in nats."""

    exponent: float
    residual: float


def power_law(first: Distribution, second: Distribution) -> PowerLaw:
    """Fit q₁ ∝ q₂^β between two DIDs by least squares in log space.

    Returns:
        The exponent β and the largest |log q₁ − β log q₂ − c| over the classes, in nats: 0 to rounding
        when the power law of Theorem 3.3 holds.

    Raises:
        ValueError: if a class has probability 0, or if q₂ is uniform (any β fits).

    >>> round(power_law(did([0.5, 0.5], [0.2, 0.8]), did([0.8, 0.2], [0.5, 0.5])).exponent, 6)
    1.0
    """
    log_first, log_second = (policy.log_probs for policy in same_classes(first, second))
    if not (np.all(np.isfinite(log_first)) and np.all(np.isfinite(log_second))):
        raise ValueError(message("both distributions", "positive on every class", "a probability of 0"))
    centred_first, centred_second = log_first - log_first.mean(), log_second - log_second.mean()
    if np.ptp(log_second) <= UNIFORM_TOLERANCE:
        raise ValueError(message("the second distribution", "other than uniform", "a uniform one"))
    exponent = float(centred_first @ centred_second) / float(centred_second @ centred_second)
    return PowerLaw(exponent, float(np.abs(centred_first - exponent * centred_second).max()))


SAMPLES_PER_FIT = 4
"""Samples to which the paper fits β′ of a prompt."""


def slope_signs(x: FloatArray, y: FloatArray, rounding: float = 0.0) -> FloatArray:
    """Return numbers with the signs of the slopes of y on x, fitted to each row, where x varies by more than rounding.

    They are the covariances. Source: Appendix K.1, where x = log π/π_ref and y = log π̃.

    >>> slope_signs(np.array([[0.0, 1.0], [2.0, 2.0]]), np.array([[0.0, -3.0], [0.0, 1.0]]))
    array([-1.5])
    """
    varies = np.ptp(x, axis=1) > rounding
    x, y = x[varies], y[varies]
    return np.sum((x - x.mean(1, keepdims=True)) * (y - y.mean(1, keepdims=True)), axis=1)


def _log_ratio(numerator: Policy, denominator: Policy) -> np.ndarray:
    """Return log(p/q) with 0/0 = 0; refuse p/0."""
    log_p, log_q = np.broadcast_arrays(numerator.log_probs, denominator.log_probs)
    outside = (log_p > -np.inf) & (log_q == -np.inf)
    if np.any(outside):
        where = [int(i) for i in np.argwhere(outside)[0]]
        hint = f"Class {where} has mass above the line and none below it."
        raise ValueError(message("the ratio of the two policies", "finite", "x/0", hint))
    return np.subtract(log_p, log_q, out=np.full(log_p.shape, -np.inf), where=log_p > -np.inf)


__all__ = ["PowerLaw", "did", "ideal_rejected", "power_law"]
