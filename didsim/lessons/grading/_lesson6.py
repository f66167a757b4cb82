"""Exercises of lesson 6: the entropy of the DID under smoothing and reinforcing, and likelihood displacement."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import numbers, pair, positive, size


def did_entropy(logits, tau):
    """Return the entropy, in nats, of the DID from softmax(logits) to softmax(logits/τ)."""
    scores = logits / tau - logits
    shifted = scores - scores.max()
    log_did = shifted - np.log(np.exp(shifted).sum())
    return -np.sum(np.exp(log_did) * log_did)


def _target_entropy(logits, tau):
    return did_entropy(logits, tau / (1.0 + tau))  # its scores are logits/τ: the target's


def _plain_entropy(logits, tau):
    weights = np.exp(logits / tau - logits)
    did = weights / weights.sum()
    return -np.sum(did * np.log(did))


def _draw_entropy(rng: np.random.Generator) -> Inputs:
    return {"logits": numbers(rng, size(rng)), "tau": positive(rng)}


DID_ENTROPY = Exercise(
    "ex11",
    6,
    "the entropy of the DID, when τ smooths and when it reinforces",
    did_entropy,
    draw=_draw_entropy,
    extremes={
        "τ = 1: nothing is learnt, and the entropy is log K": {"logits": np.array([1.0, -2.0, 0.5]), "tau": 1.0},
        "τ → ∞: the target is uniform": {"logits": np.array([2.0, 0.0, -1.0]), "tau": 1e9},
        "a small τ, of a reinforcing target": {"logits": np.array([5.0, 1.0, -3.0]), "tau": 0.001},
        "equal logits": {"logits": np.array([4.0, 4.0]), "tau": 0.5},
    },
    hints=(
        "q ∝ π*/π_ref, and both are softmax policies. What are the logits of q?",
        "The logits of q are θ/τ − θ: normalisers do not matter. At τ = 1 they are all 0.",
        "Take a log-softmax of θ/τ − θ as in ex01, and −Σ q log q with log q from there: q = 0 then meets a finite "
        "log q, and no 0 · log 0 arises.",
    ),
    slips=(
        Slip("This is the entropy of the target, softmax(θ/τ). The DID has logits θ/τ − θ.", _target_entropy),
        Slip(
            "The sign of the DID's logits is turned round: this is the entropy of the DID from π* to π_ref.",
            lambda logits, tau: did_entropy(-logits, tau),
        ),
        Slip(
            "This is in bits. Nats need the natural logarithm, np.log.",
            lambda logits, tau: did_entropy(logits, tau) / np.log(2.0),
        ),
        Slip(
            "A probability that underflows to 0 meets the logarithm, or exp overflows. Keep log q from a log-softmax.",
            _plain_entropy,
        ),
        Slip(
            "The sign is missing: an entropy of a finite distribution is never negative.",
            lambda logits, tau: -did_entropy(logits, tau),
        ),
    ),
)


def displacement(reference, target):
    """Return two numbers: the expected change of log π, in nats, of chosen and of rejected responses.

    DPO goes from π_ref to π*; chosen responses are drawn from π_ref, rejected ones from π_l ∝ π_ref²/π*.
    """
    rejected = reference**2 / target
    rejected = rejected / rejected.sum()
    change = np.log(target) - np.log(reference)
    return np.sum(reference * change), np.sum(rejected * change)


def _under_target(reference, target):
    return np.sum(target * np.log(target / reference)), displacement(reference, target)[1]


def _unnormalised(reference, target):
    return displacement(reference, target)[0], np.sum(reference**2 / target * np.log(target / reference))


DISPLACEMENT = Exercise(
    "ex12",
    6,
    "displacement: by how much chosen and rejected responses fall",
    displacement,
    draw=lambda rng: pair(rng, "reference", "target"),
    extremes={
        "π* = π_ref: nothing moves": {"reference": np.array([0.3, 0.7]), "target": np.array([0.3, 0.7])},
        "a reference that is nearly certain": {
            "reference": np.array([1 - 1e-9, 1e-9]),
            "target": np.array([0.5, 0.5]),
        },
        "a response that the target gives up": {
            "reference": np.array([0.5, 0.5]),
            "target": np.array([1 - 1e-12, 1e-12]),
        },
    },
    hints=(
        "Both are expectations of one function of the response, log π*(y) − log π_ref(y), under two distributions.",
        "Chosen responses are drawn from π_ref, not from π*. So the first number is −KL(π_ref‖π*): never positive! "
        "Chosen responses fall, even at the target.",
        "Normalise π_ref²/π* to get π_l, and take the expectation of the same function under it.",
    ),
    slips=(
        Slip(
            "The first number is averaged under π*. Chosen responses of this construction are drawn from π_ref.",
            _under_target,
        ),
        Slip("π_l is not normalised: divide π_ref²/π* by its sum.", _unnormalised),
        Slip(
            "The signs are turned round: the change is the new log-probability minus the old one.",
            lambda reference, target: -np.array(displacement(reference, target)),
        ),
        Slip(
            "The two numbers are exchanged: the chosen responses come first.",
            lambda reference, target: displacement(reference, target)[::-1],
        ),
    ),
)

EXERCISES = (DID_ENTROPY, DISPLACEMENT)
