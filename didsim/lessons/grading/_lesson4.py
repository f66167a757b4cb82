"""Exercises of lesson 4: the differential information distribution, and the ideal rejected distribution."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import pair, positive


def did(policy, reference):
    """Return the DID from π_ref to π, q(y) ∝ π(y)/π_ref(y), [K]; a response that both exclude has q = 0."""
    ratio = np.zeros(len(policy))
    ratio[policy > 0] = policy[policy > 0] / reference[policy > 0]
    return ratio / ratio.sum()


def _plain_did(policy, reference):
    return policy / reference / np.sum(policy / reference)


DID = Exercise(
    "ex07",
    4,
    "the differential information distribution",
    did,
    draw=lambda rng: pair(rng, "policy", "reference"),
    extremes={
        "π = π_ref: nothing was learnt, and q is uniform": {
            "policy": np.array([0.1, 0.2, 0.7]),
            "reference": np.array([0.1, 0.2, 0.7]),
        },
        "π gives a response up": {"policy": np.array([0.5, 0.5, 0.0]), "reference": np.array([0.25, 0.5, 0.25])},
        "both exclude a response": {"policy": np.array([0.5, 0.5, 0.0]), "reference": np.array([0.25, 0.75, 0.0])},
    },
    hints=(
        "The DID asks: which distribution, multiplied onto π_ref and normalised, gives π? That is Bayes' rule, and q "
        "is the likelihood.",
        "π ∝ π_ref · q, so that q ∝ π/π_ref. A ratio of two distributions does not sum to 1 by itself.",
        "Where both are 0 the ratio 0/0 is nan: compute it where π > 0 alone, leave 0 elsewhere, then divide by the "
        "sum.",
    ),
    slips=(
        Slip(
            "The ratio does not sum to 1: divide by its sum, Z.",
            lambda policy, reference: policy / reference,
        ),
        Slip(
            "The ratio is upside down: this is the DID from π to π_ref.",
            lambda policy, reference: did(reference, policy),
        ),
        Slip(
            "This multiplies π and π_ref; q is what π_ref must be multiplied by to give π.",
            lambda policy, reference: policy * reference / np.sum(policy * reference),
        ),
        Slip(
            "0/0 is nan, and spoils the sum. A response that both exclude has q = 0.",
            _plain_did,
        ),
    ),
)


def ideal_rejected(reference, target, beta):
    """Return the distribution of rejected responses, [K], for which DPO at this β ends at the target."""
    scores = np.log(reference) + beta * (np.log(reference) - np.log(target))
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _draw_rejected(rng: np.random.Generator) -> Inputs:
    return {**pair(rng, "reference", "target"), "beta": positive(rng)}


def _plain_rejected(reference, target, beta):
    weights = reference * (reference / target) ** beta
    return weights / weights.sum()


def _without_first(reference, target, beta):
    return _plain_rejected(np.ones_like(reference), target / reference, beta)


IDEAL_REJECTED = Exercise(
    "ex08",
    4,
    "the ideal rejected distribution",
    ideal_rejected,
    draw=_draw_rejected,
    extremes={
        "π* = π_ref: there is nothing to teach, and both kinds of response are drawn alike": {
            "reference": np.array([0.3, 0.7]),
            "target": np.array([0.3, 0.7]),
            "beta": 2.0,
        },
        "a large β": {"reference": np.array([0.9, 0.1]), "target": np.array([0.01, 0.99]), "beta": 200.0},
        "a small β": {"reference": np.array([0.9, 0.1]), "target": np.array([0.01, 0.99]), "beta": 1e-6},
    },
    hints=(
        "With chosen responses from π_ref and rejected ones from π_l, y_1 beats y_2 with odds "
        "π_ref(y_1) π_l(y_2) : π_l(y_1) π_ref(y_2). DPO fits β times the margin of log π/π_ref to the log of these "
        "odds.",
        "So β log π*/π_ref must equal log π_ref/π_l up to a constant. Solve for π_l.",
        "π_l ∝ π_ref (π_ref/π*)^β. For a large β the power overflows: work with logarithms and subtract the largest, "
        "as in ex03.",
    ),
    slips=(
        Slip(
            "The ratio is upside down: rejected responses are those that the target gives up, so that π* stands below "
            "the line.",
            lambda reference, target, beta: _plain_rejected(reference, reference**2 / target, beta),
        ),
        Slip(
            "β is an exponent, not a factor: a factor is lost in the normalisation.",
            lambda reference, target, beta: _plain_rejected(reference, target, 1.0),
        ),
        Slip("The first π_ref is missing: π_l ∝ π_ref · (π_ref/π*)^β.", _without_first),
        Slip(
            "The probabilities do not sum to 1: divide by their sum.",
            lambda reference, target, beta: reference * (reference / target) ** beta,
        ),
        Slip(
            "The power overflows. Work with logarithms, and subtract the largest before you take exp.", _plain_rejected
        ),
    ),
)

EXERCISES = (DID, IDEAL_REJECTED)
