"""Exercises of lesson 8: what a loss must do at step 0, and how much finitely many pairs can say."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Function, Inputs, Slip
from didsim.lessons.grading._inputs import pair, positive
from didsim.lessons.grading._lesson3 import dpo_loss


def step_zero(loss, log_ref_chosen, log_ref_rejected, beta):
    """Return two truth values about a loss of one pair at π = π_ref: is it log 2, and is its slope −β/2?

    The slope is that by log π_chosen. loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta).
    """

    def at(log_pi_chosen):
        return loss(log_pi_chosen, log_ref_rejected, log_ref_chosen, log_ref_rejected, beta)

    step = 1e-4
    slope = (at(log_ref_chosen + step) - at(log_ref_chosen - step)) / (2 * step)
    return bool(np.isclose(at(log_ref_chosen), np.log(2.0))), bool(np.isclose(slope, -beta / 2, rtol=1e-3))


def right(*inputs):
    """DPO."""
    return dpo_loss(*inputs)


def flipped_sign(chosen, rejected, ref_chosen, ref_rejected, beta):
    """DPO with the margin turned round."""
    return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, -beta)


def beta_twice(chosen, rejected, ref_chosen, ref_rejected, beta):
    """DPO with β²."""
    return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta**2)


def lost_reference(chosen, rejected, ref_chosen, ref_rejected, beta):
    """DPO with log π_ref = 0."""
    return dpo_loss(chosen, rejected, 0.0, 0.0, beta)


def wrong_log_base(*inputs):
    """DPO with a logarithm of base 2."""
    return dpo_loss(*inputs) / np.log(2.0)


def detached_margin(*inputs):
    """DPO of a margin that is always 0: policy and reference are one model."""
    return np.log(2.0)


LOSSES = (right, flipped_sign, beta_twice, lost_reference, wrong_log_base, detached_margin)


def _draw_step(rng: np.random.Generator) -> Inputs:
    logs = np.round(-rng.exponential(5.0, 2) - 0.1, 2)
    beta = positive(rng, 0.1, 0.8)
    return _step(LOSSES[rng.integers(len(LOSSES))], float(logs[0]), float(logs[1]) - 0.5, beta)


def _step(loss: Function, chosen: float, rejected: float, beta: float) -> Inputs:
    return {"loss": loss, "log_ref_chosen": chosen, "log_ref_rejected": rejected, "beta": beta}


STEP_ZERO = Exercise(
    "ex15",
    8,
    "two checks before the first step of training",
    step_zero,
    draw=_draw_step,
    extremes={
        "DPO with a small β": _step(right, -3.0, -5.0, 0.01),
        "DPO of long sequences": _step(right, -2000.0, -2500.0, 0.1),
        "β twice, where only the slope can tell": _step(beta_twice, -3.0, -5.0, 0.1),
        "a logarithm of base 2, where the value tells": _step(wrong_log_base, -3.0, -5.0, 0.1),
        "a margin without a gradient": _step(detached_margin, -3.0, -5.0, 0.1),
    },
    hints=(
        "At π = π_ref the log-probabilities of the policy are those of the reference: call the loss with them in both "
        "places. DPO's margin is then 0, and −log σ(0) = log 2.",
        "For the slope, raise and lower log_pi_chosen by a small step and divide the difference of the losses by twice "
        "the step. At margin 0 the weight of ex06 is β/2.",
        "Compare with a tolerance, as with np.isclose(slope, −β/2, rtol=1e-3), and return two truth values.",
    ),
    slips=(
        Slip(
            "The second value is always true: look at the slope too.",
            lambda *inputs: (step_zero(*inputs)[0], True),
        ),
        Slip(
            "The two values are exchanged: log 2 first, then the slope.",
            lambda *inputs: step_zero(*inputs)[::-1],
        ),
        Slip(
            "The sign of the slope is turned round: the loss falls as the chosen response becomes likelier.",
            lambda loss, chosen, rejected, beta: step_zero(
                lambda a, b, c, d, e: loss(2 * c - a, b, c, d, e), chosen, rejected, beta
            ),
        ),
        Slip(
            "Any falling slope passes. It must be −β/2: another one acts like another β.",
            lambda *inputs: (step_zero(*inputs)[0], inputs[0] not in (flipped_sign, detached_margin)),
        ),
    ),
)


def pair_information(chosen, rejected):
    """Return the Fisher information, [K, K], of one pair about the scores v = log chosen/rejected.

    The two responses are drawn from `chosen` and `rejected`, [K] each; i beats j with probability σ(v_i − v_j).
    """
    wins = chosen[:, None] * rejected[None, :]  # [i, j]: how often i is chosen over j
    compared = wins + wins.T
    weight = np.zeros_like(wins)
    seen = compared > 0
    weight[seen] = wins[seen] * wins.T[seen] / compared[seen]
    return np.diag(weight.sum(axis=1)) - weight


def _off_diagonal(matrix):
    return matrix - np.diag(np.diag(matrix))


def _certain(chosen, rejected):
    wins = chosen[:, None] * rejected[None, :]
    compared = _off_diagonal(wins + wins.T)
    return np.diag(compared.sum(axis=1)) - compared


def _absolute(chosen, rejected):
    return np.abs(pair_information(chosen, rejected))


PAIR_INFORMATION = Exercise(
    "ex16",
    8,
    "finite data: how much one pair says about the scores",
    pair_information,
    draw=lambda rng: pair(rng, "chosen", "rejected"),
    extremes={
        "both of one law: every outcome is a coin toss": {
            "chosen": np.array([0.5, 0.5]),
            "rejected": np.array([0.5, 0.5]),
        },
        "saturated pairs: the outcome is nearly certain, and says little": {
            "chosen": np.array([1 - 1e-6, 1e-6]),
            "rejected": np.array([1e-6, 1 - 1e-6]),
        },
        "a response that is never rejected: its wins say nothing about how much better it is": {
            "chosen": np.array([0.2, 0.3, 0.5]),
            "rejected": np.array([0.6, 0.4, 0.0]),
        },
        "a response that never occurs": {
            "chosen": np.array([0.4, 0.6, 0.0]),
            "rejected": np.array([0.6, 0.4, 0.0]),
        },
    },
    hints=(
        "A toss of a coin with log-odds s = v_i − v_j says σ(s)σ(−s) about s: most where it is fair, nothing where it "
        "is certain. How often are i and j compared, and what is σ(s)?",
        "i and j are compared with probability ν = w_i l_j + w_j l_i, and i wins with p = w_i l_j/ν. The information "
        "about v_i − v_j is ν p (1 − p); as a matrix that is ν p (1 − p) (e_i − e_j)(e_i − e_j)ᵀ.",
        "Summed over i < j: minus ν p (1 − p) off the diagonal, and on the diagonal what makes each row sum to 0.",
    ),
    slips=(
        Slip(
            "The rows do not sum to 0: off the diagonal the entries are negative, since only differences of scores are "
            "seen.",
            _absolute,
        ),
        Slip(
            "Each pair i, j is counted twice. Sum over i < j.",
            lambda chosen, rejected: 2 * pair_information(chosen, rejected),
        ),
        Slip(
            "These count how often two responses are compared. What a comparison says is p(1 − p): nothing where the "
            "outcome is certain.",
            _certain,
        ),
        Slip(
            "Only the diagonal is here: scores are compared, so that they are known in differences.",
            lambda chosen, rejected: np.diag(np.diag(pair_information(chosen, rejected))),
        ),
    ),
)

EXERCISES = (STEP_ZERO, PAIR_INFORMATION)
