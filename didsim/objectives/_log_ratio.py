"""Objectives on the log-ratio to a reference or prior: DPO and its closest relatives.

At π = π_ref every log-ratio is 0, so the DPO loss is log 2:

>>> from torch import tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0]), log_pi_rejected=tensor([-2.0]),
...     log_ref_chosen=tensor([-1.0]), log_ref_rejected=tensor([-2.0]))
>>> objective("dpo", beta=0.5)(pairs)
tensor([0.6931])

Smoothed labels leave it there; r = β log π sees the margin of 1 nat between the two responses,

>>> objective("cdpo", label_smoothing=0.1)(pairs)
tensor([0.6931])
>>> objective("log_pi")(pairs)
tensor([0.3133])

MI-DPO is DPO under the prior ζ = π_ref and r = α log π under the uniform one,

>>> objective("mi_dpo", prior="reference")(pairs), objective("mi_dpo", prior="uniform")(pairs)
(tensor([0.6931]), tensor([0.3133]))

and Cal-DPO adds the squared distance of both log-ratios from ±1/(2β), here 2·5².

>>> objective("cal_dpo", beta=0.1)(pairs)
tensor([50.6931])
"""

from torch import Tensor

from didsim._checks import POSITIVE, Interval
from didsim.objectives._links import LOGISTIC, SMOOTHED_LOGISTIC
from didsim.objectives._objective import Objective, Parameter, slope
from didsim.objectives._pairs import Responses
from didsim.objectives._priors import PRIORS


@slope(lambda y, *, beta: beta)
def scaled_log_ratio(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β h."""
    return beta * y.log_ratio


@slope(lambda y: 1.0)
def log_ratio(y: Responses) -> Tensor:
    """The log-ratio h, without β."""
    return y.log_ratio


@slope(lambda y, *, beta: beta)
def scaled_log_pi(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β log π."""
    return beta * y.log_pi


def information(y: Responses, *, alpha: float | Tensor, prior: str) -> Tensor:
    """α (log π − log ζ); no slope is written down, since ζ may contain π."""
    return alpha * (y.log_pi - PRIORS[prior].log_zeta(y))


@slope(lambda y, *, beta, calibration_weight: 2.0 * calibration_weight * (y.log_ratio - 0.5 / beta))
def chosen_calibration(y: Responses, *, beta: float | Tensor, calibration_weight: float | Tensor) -> Tensor:
    """(h − 1/(2β))², weighted."""
    return calibration_weight * (y.log_ratio - 0.5 / beta) ** 2


@slope(lambda y, *, beta, calibration_weight: 2.0 * calibration_weight * (y.log_ratio + 0.5 / beta))
def rejected_calibration(y: Responses, *, beta: float | Tensor, calibration_weight: float | Tensor) -> Tensor:
    """(h + 1/(2β))², weighted."""
    return calibration_weight * (y.log_ratio + 0.5 / beta) ** 2


DPO = Objective(
    name="dpo",
    title="Direct preference optimisation",
    formula="S(β(h_w − h_l))",
    source="Rafailov et al. 2023, Eq. 7; DID paper, Theorem 3.4",
    parameters={"beta": Parameter(1.0, POSITIVE, (1.0,), "scale of the implicit reward; 0.1 is usual for LLMs")},
    score=scaled_log_ratio,
    link=LOGISTIC,
    needs=frozenset({"reference"}),
)

CDPO = Objective(
    name="cdpo",
    title="Conservative DPO",
    formula="(1−ε) S(β(h_w − h_l)) + ε S(−β(h_w − h_l))",
    source="Mitchell 2023, note on DPO and noisy preferences",
    parameters={
        "beta": Parameter(1.0, POSITIVE, (1.0,), "scale of the implicit reward"),
        "label_smoothing": Parameter(
            0.1, Interval(0.0, 0.5, closed_low=True), (0.05, 0.1, 0.2), "probability ε of a wrong label"
        ),
    },
    score=scaled_log_ratio,
    link=SMOOTHED_LOGISTIC,
    needs=frozenset({"reference"}),
)

LOG_PI = Objective(
    name="log_pi",
    title="Reward r = β log π",
    formula="S(β(log π_w − log π_l))",
    source="DID paper, Section 3.5 and Fig. 1 left",
    parameters={"beta": Parameter(1.0, POSITIVE, (1.0,), "scale of the reward")},
    score=scaled_log_pi,
    link=LOGISTIC,
)

MI_DPO = Objective(
    name="mi_dpo",
    title="Mutual-information DPO",
    formula="S(α[(log π_w − log ζ_w) − (log π_l − log ζ_l)])",
    source="MI-DPO paper, the loss of Section 3",
    parameters={
        "alpha": Parameter(1.0, POSITIVE, (1.0,), "scale of the implicit reward"),
        "prior": Parameter("reference", tuple(PRIORS), tuple(PRIORS), "the prior ζ"),
    },
    score=information,
    link=LOGISTIC,
    needs=frozenset({"reference"}),
    conventions=("Gradient flows through ζ where ζ contains π. The prior 'uniform' needs no reference.",),
)

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
    needs=frozenset({"reference"}),
    conventions=(
        "There is no β inside σ.",
        "calibration_weight is 1 in the paper and 1/2 in the current repository.",
    ),
)
