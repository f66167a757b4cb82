"""Objectives that judge each response on its own, with or without a margin beside: KTO, NCA, BCO, SPPO, APO, Cal-DPO.

With log-ratios of 1 nat for the chosen response and −1 for the rejected one, and β = 1:

>>> from torch import tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0]), log_pi_rejected=tensor([-3.0]),
...     log_ref_chosen=tensor([-2.0]), log_ref_rejected=tensor([-2.0]), mean_kl=tensor(0.0))

Each side of KTO with z = 0, as of APO-zero, is 1 − σ(1); each side of BCO is S(1), and NCA has half of S(−1) and of
S(1) beside the S(1) of the chosen one. SPPO asks for log-ratios of ±½, so each side misses by ½; Cal-DPO adds the same
two squares to S(2).

>>> names = ("kto", "apo_zero", "apo_down", "bco", "nca", "sppo", "cal_dpo")
>>> [round(float(objective(name, beta=1.0)(pairs)), 4) for name in names]
[0.5379, 0.5379, 0.8503, 0.6265, 1.1265, 0.5, 0.6269]
"""

from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE
from didsim.objectives._links import LOGISTIC, SIGMOID
from didsim.objectives._log_ratio import BETA, log_ratio, scaled_log_ratio
from didsim.objectives._math import sigmoid, softplus_neg, stop_gradient
from didsim.objectives._objective import Objective, Parameter, slope
from didsim.objectives._pairs import Responses


def _bell(z: Tensor) -> Tensor:
    """σ′(z) = σ(z) σ(−z)."""
    return sigmoid(z) * sigmoid(-z)


@slope(lambda y, *, beta: 2.0 * (y.log_ratio - 0.5 / beta))
def chosen_square(y: Responses, *, beta: float | Tensor) -> Tensor:
    """(h − 1/(2β))²."""
    return (y.log_ratio - 0.5 / beta) ** 2


@slope(lambda y, *, beta: 2.0 * (y.log_ratio + 0.5 / beta))
def rejected_square(y: Responses, *, beta: float | Tensor) -> Tensor:
    """(h + 1/(2β))²."""
    return (y.log_ratio + 0.5 / beta) ** 2


@slope(lambda y, *, beta, calibration_weight: 2.0 * calibration_weight * (y.log_ratio - 0.5 / beta))
def chosen_calibration(y: Responses, *, beta: float | Tensor, calibration_weight: float | Tensor) -> Tensor:
    """(h − 1/(2β))², weighted."""
    return calibration_weight * chosen_square(y, beta=beta)


@slope(lambda y, *, beta, calibration_weight: 2.0 * calibration_weight * (y.log_ratio + 0.5 / beta))
def rejected_calibration(y: Responses, *, beta: float | Tensor, calibration_weight: float | Tensor) -> Tensor:
    """(h + 1/(2β))², weighted."""
    return calibration_weight * rejected_square(y, beta=beta)


def undesired_chosen(y: Responses, *, beta: float | Tensor, lam_w: float | Tensor) -> Tensor:
    """λ_w (1 − σ(β(h − sg[z])))."""
    return lam_w * sigmoid(-beta * (y.log_ratio - stop_gradient(y.policy_kl)))


def desired_rejected(y: Responses, *, beta: float | Tensor, lam_l: float | Tensor) -> Tensor:
    """λ_l (1 − σ(β(sg[z] − h)))."""
    return lam_l * sigmoid(beta * (y.log_ratio - stop_gradient(y.policy_kl)))


@slope(lambda y, *, beta: -beta * _bell(beta * y.log_ratio))
def improbability(y: Responses, *, beta: float | Tensor) -> Tensor:
    """1 − σ(β h)."""
    return sigmoid(-beta * y.log_ratio)


@slope(lambda y, *, beta: beta * _bell(beta * y.log_ratio))
def probability(y: Responses, *, beta: float | Tensor) -> Tensor:
    """σ(β h)."""
    return sigmoid(beta * y.log_ratio)


@slope(lambda y, *, beta: -beta * sigmoid(-beta * y.log_ratio))
def good(y: Responses, *, beta: float | Tensor) -> Tensor:
    """S(β h): the response is classified as good."""
    return softplus_neg(beta * y.log_ratio)


@slope(lambda y, *, beta: beta * sigmoid(beta * y.log_ratio))
def bad(y: Responses, *, beta: float | Tensor) -> Tensor:
    """S(−β h): the response is classified as bad."""
    return softplus_neg(-beta * y.log_ratio)


@slope(lambda y, *, beta: beta * (0.5 * sigmoid(beta * y.log_ratio) - sigmoid(-beta * y.log_ratio)))
def good_with_noise(y: Responses, *, beta: float | Tensor) -> Tensor:
    """S(β h) + ½ S(−β h)."""
    return softplus_neg(beta * y.log_ratio) + 0.5 * softplus_neg(-beta * y.log_ratio)


@slope(lambda y, *, beta: 0.5 * beta * sigmoid(beta * y.log_ratio))
def half_bad(y: Responses, *, beta: float | Tensor) -> Tensor:
    """½ S(−β h)."""
    return 0.5 * softplus_neg(-beta * y.log_ratio)


REFERENCE = frozenset({"reference"})

CAL_DPO = Objective(
    name="cal_dpo",
    title="Calibrated DPO",
    formula="S(h_w − h_l) + c[(h_w − 1/(2β))² + (h_l + 1/(2β))²]",
    source="Xiao et al. 2024; grid of the DID paper, Appendix J.1",
    parameters={
        "beta": Parameter(0.1, POSITIVE, (0.001, 0.002, 0.003, 0.01, 0.1), "target log-ratios are ±1/(2β)"),
        "calibration_weight": Parameter(1.0, POSITIVE, (1.0,), "weight c of the calibration terms"),
    },
    score=log_ratio,
    link=LOGISTIC,
    chosen_anchor=chosen_calibration,
    rejected_anchor=rejected_calibration,
    needs=REFERENCE,
    conventions=(
        "There is no β inside σ.",
        "calibration_weight is 1 in the paper and 1/2 in the current repository.",
    ),
)

KTO = Objective(
    name="kto",
    title="Kahneman–Tversky optimisation",
    formula="λ_w (1 − σ(β(h_w − z))) + λ_l (1 − σ(β(z − h_l))),  z = sg[KL(π‖π_ref)]",
    source="Ethayarajh et al. 2024, Eq. 8",
    parameters={
        "beta": BETA,
        "lam_w": Parameter(1.0, NON_NEGATIVE, (1.0,), "weight λ_w of chosen (desirable) responses"),
        "lam_l": Parameter(1.0, NON_NEGATIVE, (1.0,), "weight λ_l of rejected (undesirable) responses"),
    },
    chosen_anchor=undesired_chosen,
    rejected_anchor=desired_rejected,
    implicit_reward=scaled_log_ratio,
    needs=REFERENCE | {"mean_kl"},
    conventions=(
        "z is the exact mean KL over prompts in a tabular world; on a language model it is estimated from mismatched "
        "pairs of the batch and clamped at 0.",
        "The constant λ_y − v becomes λ(1 − σ). Two of the papers print the sign of the rejected term wrongly.",
    ),
)

NCA = Objective(
    name="nca",
    title="Noise contrastive alignment, pairwise",
    formula="S(c) + ½ S(−c) + ½ S(−r),  c = β h_w, r = β h_l",
    source="Chen et al. 2024, Eq. 13 with K = 2 and preference labels",
    parameters={"beta": BETA},
    chosen_anchor=good_with_noise,
    rejected_anchor=half_bad,
    implicit_reward=scaled_log_ratio,
    needs=REFERENCE,
)

BCO = Objective(
    name="bco",
    title="Binary classifier optimisation, pairwise",
    formula="S(c) + S(−r),  c = β h_w, r = β h_l",
    source="Jung et al. 2024, Eq. 4",
    parameters={"beta": BETA},
    chosen_anchor=good,
    rejected_anchor=bad,
    implicit_reward=scaled_log_ratio,
    needs=REFERENCE,
    conventions=("The paper's reward shift δ, a running mean of rewards, is left out, as TRL's bco_pair does.",),
)

SPPO = Objective(
    name="sppo",
    title="Self-play preference optimisation, hard labels",
    formula="(h_w − 1/(2β))² + (h_l + 1/(2β))²",
    source="Wu et al. 2024, Eq. 4.7 with preferences 1 and 0",
    parameters={"beta": Parameter(1.0, POSITIVE, (0.001, 0.01, 0.1, 1.0), "target log-ratios are ±1/(2β)")},
    chosen_anchor=chosen_square,
    rejected_anchor=rejected_square,
    implicit_reward=scaled_log_ratio,
    needs=REFERENCE,
    conventions=("The paper's soft labels come from a preference model; its η is 1/β here.",),
)

APO_ZERO = Objective(
    name="apo_zero",
    title="Anchored preference optimisation, zero",
    formula="1 − σ(c) + σ(r),  c = β h_w, r = β h_l",
    source="D'Oosterlinck et al. 2024, Eq. 7",
    parameters={"beta": BETA},
    chosen_anchor=improbability,
    rejected_anchor=probability,
    implicit_reward=scaled_log_ratio,
    needs=REFERENCE,
)

APO_DOWN = Objective(
    name="apo_down",
    title="Anchored preference optimisation, down",
    formula="σ(c) + 1 − σ(c − r),  c = β h_w, r = β h_l",
    source="D'Oosterlinck et al. 2024, Eq. 8",
    parameters={"beta": BETA},
    score=scaled_log_ratio,
    link=SIGMOID,
    chosen_anchor=probability,
    needs=REFERENCE,
)
