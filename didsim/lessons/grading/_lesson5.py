"""Exercises of lesson 5: where a loss ends. The expected gradient by hand, and SimPO's stationary policy."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import pair, positive, probabilities, size


def expected_gradient(policy, reference, rejected, beta):
    """Return the gradient of the expected DPO loss by the policy's logits, [K].

    Chosen responses are drawn from π_ref, rejected ones from `rejected`, [K] each.
    """
    log_ratio = np.log(policy) - np.log(reference)
    margin = log_ratio[:, None] - log_ratio[None, :]  # [i, j]: i chosen, j rejected
    pull = reference[:, None] * rejected[None, :] * beta / (1.0 + np.exp(beta * margin))
    return pull.sum(axis=0) - pull.sum(axis=1)


def _draw_gradient(rng: np.random.Generator) -> Inputs:
    classes = size(rng)
    names = ("policy", "reference", "rejected")
    return {**{name: probabilities(rng, classes) for name in names}, "beta": positive(rng)}


def _chosen_only(policy, reference, rejected, beta):
    log_ratio = np.log(policy / reference)
    pull = reference[:, None] * rejected * beta / (1.0 + np.exp(beta * (log_ratio[:, None] - log_ratio)))
    return -pull.sum(axis=1)


def _times_policy(policy, reference, rejected, beta):
    return policy * expected_gradient(policy, reference, rejected, beta)


EXPECTED_GRADIENT = Exercise(
    "ex09",
    5,
    "is the DID construction stationary at the target? The expected gradient by hand",
    expected_gradient,
    draw=_draw_gradient,
    extremes={
        "at the target, with ideal rejected responses: the gradient vanishes": {
            "policy": np.array([0.5, 0.5]),
            "reference": np.array([0.25, 0.75]),
            "rejected": np.array([0.1, 0.9]),
            "beta": 1.0,
        },
        "at π = π_ref, where every pair pulls with β/2": {
            "policy": np.array([0.25, 0.75]),
            "reference": np.array([0.25, 0.75]),
            "rejected": np.array([0.1, 0.9]),
            "beta": 0.1,
        },
        "chosen and rejected of the same law, where π_ref is stationary": {
            "policy": np.array([0.2, 0.3, 0.5]),
            "reference": np.array([0.2, 0.3, 0.5]),
            "rejected": np.array([0.2, 0.3, 0.5]),
            "beta": 2.0,
        },
    },
    hints=(
        "A pair (i chosen, j rejected) occurs with probability π_ref(i) π_l(j) and pulls with weight β σ(−β m_ij), as "
        "in ex06. What does it pull at? log π_i − log π_j = θ_i − θ_j: the normaliser cancels.",
        "So a pair adds −pull to the derivative by θ_i and +pull to that by θ_j. Write the pulls as a K × K table.",
        "Entry k of the gradient: the pulls in which k is rejected (a column of the table) minus those in which it is "
        "chosen (a row).",
    ),
    slips=(
        Slip(
            "The sign is turned round: the gradient of the loss is negative where a response is mostly chosen, since "
            "its logit is to rise.",
            lambda *inputs: -expected_gradient(*inputs),
        ),
        Slip("Rejected responses pull too: each pair lowers the logit of its rejected response.", _chosen_only),
        Slip(
            "The factor β is missing in the pull.",
            lambda policy, reference, rejected, beta: expected_gradient(policy, reference, rejected, beta) / beta,
        ),
        Slip(
            "The derivative is by the logits, where the normaliser cancels in the margin: no factor π is left.",
            _times_policy,
        ),
        Slip(
            "π_ref is missing in the margin: it is a difference of log π/π_ref.",
            lambda policy, reference, rejected, beta: expected_gradient(policy * reference, reference, rejected, beta),
        ),
    ),
)


def simpo_policy(reference, target, beta):
    """Return the policy at which SimPO without a margin is stationary, [K], on the pairs of the DID construction.

    Responses are single tokens; chosen ones are drawn from π_ref, rejected ones from π_l ∝ π_ref²/π*.
    """
    scores = (np.log(target) - np.log(reference)) / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _power(policy, exponent):
    weights = policy**exponent
    return weights / weights.sum()


SIMPO_POLICY = Exercise(
    "ex10",
    5,
    "where SimPO ends, in closed form",
    simpo_policy,
    draw=lambda rng: {**pair(rng, "reference", "target"), "beta": positive(rng)},
    extremes={
        "β = 1: the policy is the DID": {
            "reference": np.array([0.25, 0.75]),
            "target": np.array([0.5, 0.5]),
            "beta": 1.0,
        },
        "π* = π_ref: the policy is uniform, not π_ref": {
            "reference": np.array([0.1, 0.9]),
            "target": np.array([0.1, 0.9]),
            "beta": 2.0,
        },
        "a small β": {"reference": np.array([0.9, 0.1]), "target": np.array([0.1, 0.9]), "beta": 0.001},
        "a large β": {"reference": np.array([0.6, 0.4]), "target": np.array([0.3, 0.7]), "beta": 1e6},
    },
    hints=(
        "SimPO's margin is β(log π(i) − log π(j)). The label i ≻ j has log-odds log π_ref(i)/π_l(i) − "
        "log π_ref(j)/π_l(j). A loss −log σ is smallest where the two are equal.",
        "Insert π_l ∝ π_ref²/π*: the log-odds become a difference of log π*/π_ref. Solve for log π, up to a constant.",
        "π ∝ (π*/π_ref)^{1/β}. For a small β the power overflows: work with logarithms and subtract the largest.",
    ),
    slips=(
        Slip(
            "There is no reference in SimPO's margin, so none is multiplied on: this is where DPO at this β ends.",
            lambda reference, target, beta: _power(reference ** (1 - 1 / beta) * target ** (1 / beta), 1.0),
        ),
        Slip(
            "The exponent is 1/β: β multiplies log π, so the log-odds are divided by it.",
            lambda reference, target, beta: _power(target / reference, beta),
        ),
        Slip("This is the target. SimPO does not end there on these pairs.", lambda reference, target, beta: target),
        Slip(
            "The power overflows. Work with logarithms, and subtract the largest before you take exp.",
            lambda reference, target, beta: _power(target / reference, 1 / beta),
        ),
        Slip(
            "The probabilities do not sum to 1: divide by their sum.",
            lambda reference, target, beta: (target / reference) ** (1 / beta),
        ),
    ),
)

EXERCISES = (EXPECTED_GRADIENT, SIMPO_POLICY)
