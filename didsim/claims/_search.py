"""The search for counterexamples: far draws, optimisation of the violation, and shrinking of what is found."""

import math
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize

from didsim._arrays import FloatArray
from didsim._checks import check_integer
from didsim.claims._claim import Claim
from didsim.claims._fields import Instance, pack, simpler, unpack
from didsim.claims._verify import LEAST_DRAWS, MOST_DRAWS, draw_instance, residual_of, rng_of

FAR = (3.0, 10.0)
"""By how much logits and logarithms of drawn instances are stretched, to come near the boundaries."""

STARTS, STEPS, MOST_STEPS = 6, 200, 1000
"""From how many of the worst draws the violation is optimised, and by how many evaluations per number, and in all."""

MOST_SHRINKS = 400


def search(claim: Claim, draws: int, seed: int = 0) -> Instance | None:
    """Look for a counterexample, and return the simplest that was found, or None.

    A claim with a condition is searched where the condition holds: outside it is known to fail.

    Args:
        claim: the claim.
        draws: how many random instances the search starts with; of a costly claim a share of them.
        seed: of the draws.
    """
    rng, count = rng_of(claim, seed), check_integer("draws", draws, 1, MOST_DRAWS)
    candidates = [
        instance for instance in _draws(claim, rng, max(LEAST_DRAWS, count // claim.cost)) if _counts(claim, instance)
    ]
    candidates.sort(key=lambda instance: -residual_of(claim, instance))
    for start in candidates[:STARTS]:
        if (found := _climb(claim, start)) is not None:
            return shrink(claim, found)
    return None


def shrink(claim: Claim, instance: Instance) -> Instance:
    """Make a counterexample smaller and rounder, as long as it violates the claim by well more than the tolerance."""
    least = max(10.0 * claim.tolerance, 0.1 * min(residual_of(claim, instance), 1.0))
    for _ in range(MOST_SHRINKS):
        for candidate in simpler(claim.fields, instance):
            if candidate != instance and _counts(claim, candidate) and residual_of(claim, candidate) > least:
                instance = candidate
                break
        else:
            return instance
    return instance


def _draws(claim: Claim, rng: np.random.Generator, draws: int) -> Iterator[Instance]:
    for _ in range(draws):
        near = draw_instance(claim, rng)
        yield near
        yield unpack(claim.fields, float(rng.choice(FAR)) * pack(claim.fields, near), near)


def _counts(claim: Claim, instance: Instance) -> bool:
    """Return whether a violation by an instance would count."""
    return claim.meets_assumptions(instance) and claim.meets_condition(instance)


def _climb(claim: Claim, start: Instance) -> Instance | None:
    """Optimise the violation from a start, and return the worst instance if it violates the claim."""

    def height(numbers: FloatArray) -> float:
        instance = unpack(claim.fields, numbers, start)
        residual = residual_of(claim, instance) if _counts(claim, instance) else -math.inf
        return -min(max(residual, -1.0), 1e6)

    if residual_of(claim, start) > claim.tolerance:
        return start
    numbers = pack(claim.fields, start)
    if len(numbers) == 0:
        return None
    evaluations = min(STEPS * len(numbers), MOST_STEPS) // claim.cost + 1
    found = minimize(height, numbers, method="Nelder-Mead", options={"maxfev": evaluations})
    instance = unpack(claim.fields, found.x, start)
    return instance if _counts(claim, instance) and residual_of(claim, instance) > claim.tolerance else None
