"""Objectives without a reference policy: SLiC, ORPO and SimPO.

With π(y_w) = 0.8 and π(y_l) = 0.2, one token each:

>>> from torch import ones, tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([0.8]).log(), log_pi_rejected=tensor([0.2]).log(),
...     length_chosen=ones(1), length_rejected=ones(1))

SLiC's hinge is inactive (the margin log 4 exceeds δ = 1) and −λ log 0.8 remains; ORPO's odds are 4 and 1/4,
so it is −log 0.8 + λ log(1 + 1/16); SimPO is log(1 + e^γ/16).

>>> objective("slic", delta=1.0, lam=1.0)(pairs)
tensor([0.2231])
>>> objective("orpo", lam=1.0)(pairs)
tensor([0.2838])
>>> objective("simpo", beta=2.0, gamma=0.5)(pairs)
tensor([0.0981])
"""

from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, REAL
from didsim.objectives._links import HINGE, LOGISTIC_WITH_TARGET_MARGIN, WEIGHTED_LOGISTIC
from didsim.objectives._math import log1mexp, log1mexp_slope, scaled
from didsim.objectives._objective import Objective, Parameter, slope
from didsim.objectives._pairs import Responses


@slope(lambda y: 1.0)
def log_pi(y: Responses) -> Tensor:
    """Log π."""
    return y.log_pi


@slope(lambda y: (1.0 - log1mexp_slope(y.mean_log_pi)) / y.length)
def log_odds(y: Responses) -> Tensor:
    """Log p/(1 − p) of p = π^(1/|y|)."""
    return y.mean_log_pi - log1mexp(y.mean_log_pi)


@slope(lambda y, *, beta: beta / y.length)
def scaled_mean_log_pi(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β log π / |y|."""
    return beta * y.mean_log_pi


@slope(lambda y, *, lam: -lam)
def weighted_nll(y: Responses, *, lam: float | Tensor) -> Tensor:
    """−λ log π."""
    return scaled(lam, -y.log_pi)


@slope(lambda y: -1.0 / y.length)
def mean_nll(y: Responses) -> Tensor:
    """−log π / |y|."""
    return -y.mean_log_pi


SLIC = Objective(
    name="slic",
    title="Sequence likelihood calibration",
    formula="max(0, δ − log π_w + log π_l) − λ log π_w",
    source="Zhao et al. 2023; grid of the DID paper, Appendix J.1",
    parameters={
        "delta": Parameter(1.0, POSITIVE, (0.1, 0.5, 1.0, 2.0), "the margin δ that is asked for"),
        "lam": Parameter(0.1, NON_NEGATIVE, (0.1, 0.5, 1.0, 10.0), "weight λ of the chosen log-likelihood"),
    },
    score=log_pi,
    link=HINGE,
    chosen_anchor=weighted_nll,
    conventions=("δ is the DID paper's β. It has no reference: TRL's 'hinge' is another loss.",),
)

ORPO = Objective(
    name="orpo",
    title="Odds-ratio preference optimisation",
    formula="−a_w + λ S(logit e^{a_w} − logit e^{a_l}),  a = log π / |y|",
    source="Hong et al. 2024; grid of the DID paper, Appendix J.1",
    parameters={"lam": Parameter(0.1, NON_NEGATIVE, (0.1, 0.5, 1.0, 2.0), "weight λ of the odds-ratio term")},
    score=log_odds,
    link=WEIGHTED_LOGISTIC,
    chosen_anchor=mean_nll,
    needs=frozenset({"length"}),
    conventions=("λ is the DID paper's β and TRL's beta. TRL's NLL term is a token mean over the batch.",),
)

SIMPO = Objective(
    name="simpo",
    title="Simple preference optimisation",
    formula="S(β a_w − β a_l − γ),  a = log π / |y|",
    source="Meng et al. 2024; grid of the DID paper, Appendix J.1",
    parameters={
        "beta": Parameter(2.0, POSITIVE, (2.0, 2.5), "scale of the reward"),
        "gamma": Parameter(0.5, REAL, (0.3, 0.5, 1.0, 1.2, 1.4, 1.6), "the reward margin γ that is asked for"),
    },
    score=scaled_mean_log_pi,
    link=LOGISTIC_WITH_TARGET_MARGIN,
    needs=frozenset({"length"}),
    conventions=("γ is absolute; the SimPO repository and HALOs take the ratio γ/β.",),
)
