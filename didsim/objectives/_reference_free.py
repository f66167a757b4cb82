"""Objectives without a reference policy: SLiC, CPO, ORPO, SimPO and its relatives.

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

CPO is log(1 + 1/4) − log 0.8; SimPER −0.8 + 0.2; RePO's margin log 4 exceeds γ = 0.5; α-PO with α = −1 has the
reward π − 1, hence S(0.6).

>>> [round(float(objective(name, **options)(pairs)), 4) for name, options in [
...     ("cpo", {"beta": 1.0, "lam": 1.0}), ("simper", {}), ("repo", {"gamma": 0.5}),
...     ("alphapo", {"beta": 1.0, "gamma": 0.0, "alpha": -1.0})]]
[0.4463, -0.6, 0.0, 0.4375]
"""

import torch
from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, REAL
from didsim.objectives._links import (
    HINGE,
    HINGE_WITH_TARGET_MARGIN,
    LOGISTIC,
    LOGISTIC_WITH_TARGET_MARGIN,
    WEIGHTED_LOGISTIC,
)
from didsim.objectives._log_ratio import log_pi, scaled_log_pi
from didsim.objectives._math import bounded_exp_slope, log1mexp, log1mexp_slope, power_transform, scaled
from didsim.objectives._objective import Objective, Parameter, slope
from didsim.objectives._pairs import Responses


@slope(lambda y: (1.0 - log1mexp_slope(y.mean_log_pi)) / y.num_tokens)
def log_odds(y: Responses) -> Tensor:
    """Log p/(1 − p) of p = π^(1/|y|)."""
    return y.mean_log_pi - log1mexp(y.mean_log_pi)


@slope(lambda y, *, beta: beta / y.num_tokens)
def scaled_mean_log_pi(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β log π / |y|."""
    return beta * y.mean_log_pi


@slope(lambda y, *, lam: -lam)
def weighted_nll(y: Responses, *, lam: float | Tensor) -> Tensor:
    """−λ log π."""
    return scaled(lam, -y.log_pi)


@slope(lambda y: -1.0 / y.num_tokens)
def mean_nll(y: Responses) -> Tensor:
    """−log π / |y|."""
    return -y.mean_log_pi


@slope(lambda y: 1.0 / y.num_tokens)
def mean_log_pi(y: Responses) -> Tensor:
    """Log π / |y|."""
    return y.mean_log_pi


@slope(lambda y: -torch.exp(y.mean_log_pi) / y.num_tokens)
def minus_inverse_perplexity(y: Responses) -> Tensor:
    """−π^(1/|y|)."""
    return -torch.exp(y.mean_log_pi)


@slope(lambda y: torch.exp(y.mean_log_pi) / y.num_tokens)
def inverse_perplexity(y: Responses) -> Tensor:
    """π^(1/|y|)."""
    return torch.exp(y.mean_log_pi)


@slope(lambda y, *, beta, alpha: beta * bounded_exp_slope(-alpha * y.mean_log_pi) / y.num_tokens)
def alpha_reward(y: Responses, *, beta: float | Tensor, alpha: float | Tensor) -> Tensor:
    """β (1 − π^(−α/|y|)) / α, which is SimPO's β log π / |y| for α = 0."""
    return beta * power_transform(y.mean_log_pi, -alpha)


GAMMA_FORM = Parameter(
    "absolute", ("absolute", "ratio"), ("absolute",), "whether γ is the reward margin itself, or per unit of β"
)

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
        "gamma_form": GAMMA_FORM,
    },
    score=scaled_mean_log_pi,
    link=LOGISTIC_WITH_TARGET_MARGIN,
    needs=frozenset({"length"}),
    conventions=("γ is absolute; the SimPO repository and HALOs take the ratio γ/β: gamma_form='ratio'.",),
)

CPO = Objective(
    name="cpo",
    title="Contrastive preference optimisation",
    formula="S(β(log π_w − log π_l)) − λ log π_w",
    source="Xu et al. 2024, Eq. 6",
    parameters={
        "beta": Parameter(0.1, POSITIVE, (0.01, 0.05, 0.1), "scale of the reward"),
        "lam": Parameter(1.0, NON_NEGATIVE, (1.0,), "weight λ of the chosen log-likelihood"),
    },
    score=scaled_log_pi,
    link=LOGISTIC,
    chosen_anchor=weighted_nll,
    conventions=(
        "The log-likelihood stands outside σ and is summed over tokens; TRL's is a mean over the tokens of the batch.",
    ),
)

SIMPER = Objective(
    name="simper",
    title="SimPER",
    formula="−e^{a_w} + e^{a_l},  a = log π / |y|",
    source="Xiao et al. 2025, Eq. 6",
    chosen_anchor=minus_inverse_perplexity,
    rejected_anchor=inverse_perplexity,
    implicit_reward=inverse_perplexity,
    needs=frozenset({"length"}),
)

ALPHAPO = Objective(
    name="alphapo",
    title="AlphaPO",
    formula="S(β r_w − β r_l − γ),  r = (1 − e^{−α a})/α,  a = log π / |y|",
    source="Gupta et al. 2025, Eq. 6",
    parameters={
        "beta": Parameter(2.5, POSITIVE, (2.5, 10.0), "scale of the reward"),
        "gamma": Parameter(0.1, REAL, (0.1, 0.3, 0.5), "the reward margin γ that is asked for"),
        "alpha": Parameter(0.25, REAL, (-0.25, 0.1, 0.25), "shape α of the reward; 0 is SimPO"),
        "gamma_form": GAMMA_FORM,
    },
    score=alpha_reward,
    link=LOGISTIC_WITH_TARGET_MARGIN,
    needs=frozenset({"length"}),
    conventions=(
        "γ is absolute, as in TRL's AlphaPO with simpo_gamma; the paper tunes the ratio γ/β: gamma_form='ratio'.",
    ),
)

REPO = Objective(
    name="repo",
    title="ReLU-based preference optimisation",
    formula="max(0, γ − (a_w − a_l)),  a = log π / |y|",
    source="Wu et al. 2025, Eq. 7",
    parameters={"gamma": Parameter(0.5, REAL, (0.2, 0.4, 0.5, 0.6, 0.8, 1.0), "the margin γ that is asked for")},
    score=mean_log_pi,
    link=HINGE_WITH_TARGET_MARGIN,
    needs=frozenset({"length"}),
    conventions=("It is SimPO's limit β → ∞ with γ per unit of β.",),
)
