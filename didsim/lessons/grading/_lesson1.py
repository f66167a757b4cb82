"""Exercises of lesson 1: softmax policies, and how far apart two of them are."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Slip
from didsim.lessons.grading._inputs import numbers, pair, size


def log_softmax(logits):
    """Return log π, [K], of the policy with these logits, [K]."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


LOG_SOFTMAX = Exercise(
    "ex01",
    1,
    "a log-softmax that no logit can break",
    log_softmax,
    draw=lambda rng: {"logits": numbers(rng, size(rng))},
    extremes={
        "large logits": {"logits": np.array([1000.0, 999.0, 998.0])},
        "very negative logits": {"logits": np.array([-1000.0, -1001.0])},
        "logits far apart": {"logits": np.array([0.0, -2000.0, 3.0])},
        "a logit of −∞: a response that is excluded": {"logits": np.array([1.0, -np.inf, 0.0])},
        "one response only": {"logits": np.array([7.0])},
    },
    hints=(
        "π(i) = exp θ_i / Σ_j exp θ_j. Take the logarithm on paper before you write any code: no exp is left in the "
        "numerator.",
        "exp overflows above 709. Adding the same number to all logits leaves the policy as it is: which number makes "
        "every exp safe?",
        "With the largest logit subtracted, the sum lies between 1 and K. Subtract its logarithm from the shifted "
        "logits.",
    ),
    slips=(
        Slip(
            "exp overflows above 709, or all of its values underflow to 0. Shift the logits before you take exp.",
            lambda logits: logits - np.log(np.exp(logits).sum()),
        ),
        Slip(
            "The logarithm is taken of a probability that has underflowed to 0. Subtract in log space instead.",
            lambda logits: np.log(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()),
        ),
        Slip(
            "These are probabilities. The function is to return their logarithms.",
            lambda logits: np.exp(log_softmax(logits)),
        ),
    ),
)


def kl(p, q):
    """Return KL(p‖q) in nats of two distributions, [K] each, some of whose probabilities may be 0."""
    support = p > 0
    with np.errstate(divide="ignore"):
        return np.sum(p[support] * (np.log(p[support]) - np.log(q[support])))


def _plain_kl(p, q):
    return np.sum(p * np.log(p / q))


KL = Exercise(
    "ex02",
    1,
    "KL divergence with zero probabilities",
    kl,
    draw=lambda rng: pair(rng, "p", "q"),
    extremes={
        "p excludes a response": {"p": np.array([0.5, 0.5, 0.0]), "q": np.array([0.25, 0.25, 0.5])},
        "both exclude a response": {"p": np.array([0.5, 0.5, 0.0]), "q": np.array([0.25, 0.75, 0.0])},
        "q excludes a response that p has: the divergence is infinite": {
            "p": np.array([0.5, 0.5]),
            "q": np.array([1.0, 0.0]),
        },
        "two certainties that differ": {"p": np.array([1.0, 0.0]), "q": np.array([0.0, 1.0])},
        "p = q": {"p": np.array([0.2, 0.8]), "q": np.array([0.2, 0.8])},
        "a probability of 1e-300": {"p": np.array([0.5, 0.5]), "q": np.array([1.0, 1e-300])},
    },
    hints=(
        "KL(p‖q) = Σ p log(p/q): the average under p of how much more likely p finds a response than q does.",
        "A response with p = 0 adds nothing, whatever q is: x log x → 0 as x → 0. In floating point 0 · log 0 is nan, "
        "so such responses must not reach the logarithm.",
        "Select the responses with p > 0 by a mask, and sum over those alone. Where q = 0 among them, numpy's "
        "logarithm gives the right −∞ by itself.",
    ),
    slips=(
        Slip("This is KL(q‖p): the two arguments are exchanged.", lambda p, q: kl(q, p)),
        Slip("This is in bits. Nats need the natural logarithm, np.log.", lambda p, q: kl(p, q) / np.log(2)),
        Slip(
            "0 · log 0 is nan in floating point, and 0 in information theory: leave responses with p = 0 out of the "
            "sum.",
            _plain_kl,
        ),
        Slip(
            "A small number inside a logarithm hides an infinite divergence, and shifts the finite ones.",
            lambda p, q: np.sum(p * np.log((p + 1e-12) / (q + 1e-12))),
        ),
        Slip(
            "Responses with q = 0 are left out too: but where p > 0 and q = 0 the divergence is infinite.",
            lambda p, q: _plain_kl(p[(p > 0) & (q > 0)], q[(p > 0) & (q > 0)]),
        ),
        Slip("The sign is turned round: a divergence is never negative.", lambda p, q: -kl(p, q)),
    ),
)

EXERCISES = (LOG_SOFTMAX, KL)
