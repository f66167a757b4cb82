"""Exercises of lesson 3: the DPO loss as a Bradley–Terry log-likelihood, and the weight of its gradient."""

from typing import Any

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import numbers, positive


def dpo_loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta):
    """Return the DPO loss of each pair, [B], from log-probabilities, [B] each."""
    margin = (log_pi_chosen - log_ref_chosen) - (log_pi_rejected - log_ref_rejected)
    return np.logaddexp(0.0, -beta * margin)


LOGS = ("log_pi_chosen", "log_pi_rejected", "log_ref_chosen", "log_ref_rejected")


def _draw_dpo(rng: np.random.Generator) -> Inputs:
    pairs = int(rng.integers(2, 4))
    return {**{name: np.round(-rng.exponential(5.0, pairs), 2) for name in LOGS}, "beta": positive(rng)}


def _pairs(*rows: list[float], beta: float) -> Inputs:
    return {**{name: np.array(row) for name, row in zip(LOGS, rows, strict=True)}, "beta": beta}


def _without_reference(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta):
    return np.logaddexp(0.0, -beta * (log_pi_chosen - log_pi_rejected))


def _added_reference(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta):
    return dpo_loss(log_pi_chosen, log_pi_rejected, -log_ref_chosen, -log_ref_rejected, beta)


def _exchanged(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta):
    return dpo_loss(log_pi_rejected, log_pi_chosen, log_ref_rejected, log_ref_chosen, beta)


def _careless_dpo(*inputs: Any) -> Any:
    chance = np.exp(-dpo_loss(*inputs))  # 1/(1 + exp(−βm)): 0 where exp overflows
    return -np.log(chance)


DPO_LOSS = Exercise(
    "ex05",
    3,
    "the DPO loss, safe at any margin",
    dpo_loss,
    draw=_draw_dpo,
    extremes={
        "π = π_ref, where every loss is log 2": _pairs([-3.0], [-5.0], [-3.0], [-5.0], beta=0.1),
        "a pair that is very wrong": _pairs([-900.0], [-1.0], [-2.0], [-801.0], beta=1.0),
        "a pair that is very right": _pairs([-1.0], [-900.0], [-801.0], [-2.0], beta=1.0),
        "sequences of thousands of nats": _pairs([-9000.0], [-8000.0], [-8999.0], [-8000.5], beta=0.1),
    },
    hints=(
        "The implicit reward of a response is β log π(y)/π_ref(y). Bradley–Terry says σ(r_chosen − r_rejected) is the "
        "probability of the label, and the loss is minus its logarithm.",
        "The margin is (log π − log π_ref) of the chosen response minus the same of the rejected one. The loss is "
        "−log σ(β margin).",
        "−log σ(x) = log(1 + exp(−x)), and exp overflows for a pair that is very wrong. numpy has a function for the "
        "logarithm of a sum of two exponentials; 1 is exp(0).",
    ),
    slips=(
        Slip("The reference is missing: subtract log π_ref from log π.", _without_reference),
        Slip(
            "The reference is added, not subtracted (or those of chosen and rejected are exchanged): the log-ratio of "
            "a response is log π − log π_ref.",
            _added_reference,
        ),
        Slip("Chosen and rejected are exchanged: the loss must fall as the chosen one becomes likelier.", _exchanged),
        Slip("The sign is turned round: a loss is minus the log-probability of the label.", lambda *a: -dpo_loss(*a)),
        Slip("β enters twice: once is enough, before σ.", lambda a, b, c, d, beta: dpo_loss(a, b, c, d, beta**2)),
        Slip(
            "exp overflows for a pair that is very wrong. Use np.logaddexp, or treat the two signs apart.",
            _careless_dpo,
        ),
        Slip("This is the mean over the pairs. Return one loss for each.", lambda *inputs: dpo_loss(*inputs).mean()),
    ),
)


def gradient_weight(margin, beta):
    """Return −∂loss/∂log π(y_chosen) of the DPO loss, [B], from the margins of the log-ratios, [B]."""
    return beta / (1.0 + np.exp(beta * margin))


GRADIENT_WEIGHT = Exercise(
    "ex06",
    3,
    "how hard a pair pulls: the weight of DPO's gradient",
    gradient_weight,
    draw=lambda rng: {"margin": numbers(rng, 3, scale=3.0), "beta": positive(rng)},
    extremes={
        "margin 0, as at π = π_ref": {"margin": np.array([0.0]), "beta": 0.1},
        "a saturated pair: its pull is tiny, and not 0": {"margin": np.array([40.0, 300.0]), "beta": 1.0},
        "a pair that is very wrong: its pull is β, and no more": {"margin": np.array([-5000.0]), "beta": 0.5},
    },
    hints=(
        "The loss is −log σ(βm), with m = log π(y_chosen) − … : differentiate by m, since ∂m/∂log π(y_chosen) = 1.",
        "d/dx [−log σ(x)] = −σ(−x), and the chain rule brings one factor β.",
        "The weight is β σ(−βm). Do not write it as 1 minus something: for a saturated pair that rounds to 0.",
    ),
    slips=(
        Slip(
            "1 − σ(βm) is 0 in floating point as soon as βm > 37. Write σ(−βm), which keeps its digits.",
            lambda margin, beta: beta * (1.0 - 1.0 / (1.0 + np.exp(-beta * margin))),
        ),
        Slip(
            "This is β σ(βm): it grows as the pair comes right. A pair that is already right should pull less.",
            lambda margin, beta: gradient_weight(-margin, beta),
        ),
        Slip(
            "The factor β is missing: the chain rule brings it.",
            lambda margin, beta: gradient_weight(margin, beta) / beta,
        ),
        Slip(
            "This is the derivative of the loss itself; the weight is minus that, a positive number.",
            lambda margin, beta: -gradient_weight(margin, beta),
        ),
    ),
    absolute=0.0,
)

EXERCISES = (DPO_LOSS, GRADIENT_WEIGHT)
