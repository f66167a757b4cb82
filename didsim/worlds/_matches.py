"""Who meets whom, and how often a policy wins."""

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import message
from didsim.info import Distribution
from didsim.policy import same_classes
from didsim.preference import Problem


def distinct_pairs(problem: Problem) -> FloatArray:
    """Return the law of a prompt and a pair of two different responses, p(x) P(y_w = i, y_l = j | x), [X, K, K].

    Raises:
        ValueError: if there is no such pair.

    >>> from didsim.worlds import bradley_terry
    >>> distinct_pairs(bradley_terry(num_classes=2, scale=0.0)).round(12)
    array([[[0. , 0.5],
            [0.5, 0. ]]])
    """
    law = problem.prompt_weights[:, None, None] * problem.pair_probs() * (1.0 - np.eye(problem.num_classes))
    if not law.sum() > 0.0:
        raise ValueError(message("the pairs", "of different responses at times", "each response with itself"))
    return law / law.sum()


def win_rate(problem: Problem, policy: Distribution) -> float:
    """Return how often a response of π is preferred to one of π_ref: Σ_x p(x) Σ_ij π(i|x) π_ref(j|x) p*(i ≻ j).

    Args:
        problem: whose preferences judge, as its labeller has them.
        policy: π, [K], or [X, K] with prompts.

    Raises:
        ValueError: if some responses are never compared, so that nobody knows which is preferred.

    >>> from didsim.worlds import bradley_terry
    >>> problem = bradley_terry(num_classes=4)
    >>> round(win_rate(problem, problem.reference), 12), win_rate(problem, problem.target) > 0.5
    (0.5, True)
    """
    ours, theirs = same_classes(policy, problem.reference)
    if np.isnan(problem.preferences).any():
        raise ValueError(message("the preferences", "known of every two responses", "some that are never compared"))
    rates = np.einsum("...i,...ij,...j->...", ours.probs, problem.preferences, theirs.probs)
    return float(np.atleast_1d(rates) @ problem.prompt_weights)
