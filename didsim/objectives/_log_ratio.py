"""Objectives on the log-ratio h = log π − log π_ref: DPO, other links of its margin, and other functions of h.

At π = π_ref every log-ratio is 0, so the DPO loss is log 2:

>>> from torch import tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0]), log_pi_rejected=tensor([-2.0]),
...     log_ref_chosen=tensor([-1.0]), log_ref_rejected=tensor([-2.0]))
>>> objective("dpo", beta=0.5)(pairs)
tensor([0.6931])

Smoothed labels leave it there; r = β log π sees the margin of 1 nat between the two responses, and so does cEntropy
with η = 2, since 2 log π − log π_ref = log π here:

>>> [round(float(objective(name, **options)(pairs)), 4) for name, options in [
...     ("cdpo", {"label_smoothing": 0.1}), ("robust_dpo", {"label_smoothing": 0.1}), ("log_pi", {}),
...     ("entropy_probe", {}), ("h_dpo", {"eta": 2.0})]]
[0.6931, 0.6931, 0.3133, 0.3133, 0.3133]

Other links of the same margin 0: the hinge max(0, 1 − 0), the exponential e⁰, IPO's (0 − 1/(2τ))², DiscoPOP's half
and half of log 2 and e⁰, and EXO's ½ log(½/0.9) + ½ log(½/0.1):

>>> [round(float(objective(name, **options)(pairs)), 4) for name, options in [
...     ("hinge", {}), ("exponential", {}), ("ipo", {"tau": 0.5}), ("discopop", {}), ("exo", {"label_smoothing": 0.1})]]
[1.0, 1.0, 1.0, 0.8466, 0.5108]

With log-ratios 1 and −1 instead, β = 1 and |y| = 1 and 2: the margin is 2 for DPO and 1 + ½ per token; R-DPO adds
α(1 − 2); DPOP's penalty is 0, since the chosen response is above its reference; f′ of the forward KL is 1 − e^(−h),
of the Jensen–Shannon divergence log 2 + log σ(h); χPO's margin is 2 + e − 1/e.

>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0]), log_pi_rejected=tensor([-3.0]),
...     log_ref_chosen=tensor([-2.0]), log_ref_rejected=tensor([-2.0]),
...     length_chosen=tensor([1.0]), length_rejected=tensor([2.0]))
>>> [round(float(objective(name, **options)(pairs)), 4) for name, options in [
...     ("dpo", {"beta": 1.0}), ("dpo_norm", {"beta": 1.0}), ("r_dpo", {"beta": 1.0, "alpha": 0.5}),
...     ("dpop", {"beta": 1.0}), ("f_dpo", {"beta": 1.0, "divergence": "forward_kl"}),
...     ("f_dpo", {"beta": 1.0, "divergence": "js"}), ("chi_po", {"beta": 1.0, "r_max": 10.0})]]
[0.1269, 0.2014, 0.2014, 0.1269, 0.0911, 0.3133, 0.0128]

"""

import math

import torch
from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, REAL, Interval
from didsim.objectives._links import (
    CLIPPED_LOGISTIC,
    EXACT_REVERSE_KL,
    EXPONENTIAL,
    LOGISTIC,
    LOGISTIC_EXPONENTIAL,
    ROBUST_LOGISTIC,
    SMOOTHED_LOGISTIC,
    SQUARED,
    UNIT_HINGE,
)
from didsim.objectives._math import bounded_exp, bounded_exp_slope, power_transform, scaled, softplus_neg
from didsim.objectives._objective import Objective, Parameter, slope
from didsim.objectives._pairs import Responses


@slope(lambda y, *, beta: beta)
def scaled_log_ratio(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β h."""
    return beta * y.log_ratio


@slope(lambda y: 1.0)
def log_ratio(y: Responses) -> Tensor:
    """The log-ratio h, without β."""
    return y.log_ratio


@slope(lambda y: 1.0)
def log_pi(y: Responses) -> Tensor:
    """Log π."""
    return y.log_pi


@slope(lambda y, *, beta: beta)
def scaled_log_pi(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β log π."""
    return beta * y.log_pi


@slope(lambda y, *, beta: beta / y.num_tokens)
def scaled_mean_log_ratio(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β h / |y|."""
    return beta * (y.log_ratio / y.num_tokens)


@slope(lambda y, *, aggregation: 1.0 if aggregation == "sum" else 1.0 / y.num_tokens)
def aggregated_log_ratio(y: Responses, *, aggregation: str) -> Tensor:
    """The log-ratio h, summed over tokens or as their mean."""
    return y.log_ratio if aggregation == "sum" else y.log_ratio / y.num_tokens


@slope(lambda y, *, beta, alpha: beta)
def length_regularised(y: Responses, *, beta: float | Tensor, alpha: float | Tensor) -> Tensor:
    """β h + α |y|."""
    return beta * y.log_ratio + alpha * y.num_tokens


@slope(
    lambda y, *, beta, lam: beta + scaled(beta * lam, (y.log_ratio < 0).to(y.log_pi.dtype)),
    corner=lambda y: y.reference,
)
def penalised_log_ratio(y: Responses, *, beta: float | Tensor, lam: float | Tensor) -> Tensor:
    """β (h − λ max(0, −h)): a chosen response below its reference is pushed up λ + 1 times as hard."""
    return beta * (y.log_ratio - scaled(lam, torch.relu(-y.log_ratio)))


@slope(lambda y, *, beta, eta: beta * eta)
def entropy_controlled(y: Responses, *, beta: float | Tensor, eta: float | Tensor) -> Tensor:
    """β (η log π − log π_ref)."""
    return beta * (eta * y.log_pi - y.reference)


@slope(lambda y, *, beta: beta * (1.0 + bounded_exp_slope(y.log_ratio)))
def mixed_chi_squared(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β (e^h + h)."""
    return beta * (bounded_exp(y.log_ratio) + y.log_ratio)


def divergence_derivative(y: Responses, *, beta: float | Tensor, divergence: str, alpha: float | Tensor) -> Tensor:
    """β f′(π/π_ref), the derivative of the divergence that ties the policy to its reference."""
    match divergence:
        case "reverse_kl":
            return beta * y.log_ratio
        case "forward_kl":
            return beta * power_transform(y.log_ratio, -1.0)
        case "js":
            return beta * (math.log(2.0) - softplus_neg(y.log_ratio))
        case _:
            return beta * power_transform(y.log_ratio, alpha - 1.0)


BETA = Parameter(1.0, POSITIVE, (0.01, 0.05, 0.1, 0.5, 1.0), "scale β of the implicit reward")

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")

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

ROBUST_DPO = Objective(
    name="robust_dpo",
    title="Robust DPO",
    formula="[(1−ε) S(β(h_w − h_l)) − ε S(−β(h_w − h_l))] / (1−2ε)",
    source="Chowdhury et al. 2024, Eq. 9",
    parameters={
        "beta": BETA,
        "label_smoothing": Parameter(
            0.1, Interval(0.0, 0.5, closed_low=True), (0.05, 0.1, 0.2), "probability ε of a wrong label"
        ),
    },
    score=scaled_log_ratio,
    link=ROBUST_LOGISTIC,
    needs=frozenset({"reference"}),
    conventions=("Its expectation over flipped labels is the DPO loss of the true ones; it is unbounded below.",),
)

EXO = Objective(
    name="exo",
    title="Efficient exact optimisation, pairwise",
    formula="q log(q/(1−ε)) + (1−q) log((1−q)/ε),  q = σ(β(h_w − h_l))",
    source="Ji et al. 2024, Eq. 16",
    parameters={
        "beta": BETA,
        "label_smoothing": Parameter(1e-3, Interval(0.0, 0.5), (1e-3,), "probability ε of a wrong label"),
    },
    score=scaled_log_ratio,
    link=EXACT_REVERSE_KL,
    needs=frozenset({"reference"}),
    conventions=("ε must be positive: the reverse KL from a certain label is infinite.",),
)

HINGE_LOSS = Objective(
    name="hinge",
    title="Hinge loss with reference (RSO)",
    formula="max(0, 1 − β(h_w − h_l))",
    source="Liu et al. 2024, statistical rejection sampling, Eq. 7",
    parameters={"beta": BETA},
    score=scaled_log_ratio,
    link=UNIT_HINGE,
    needs=frozenset({"reference"}),
    conventions=("SLiC's own hinge has no reference and a likelihood term: that is 'slic'.",),
)

EXPONENTIAL_LOSS = Objective(
    name="exponential",
    title="Exponential loss",
    formula="e^{−β(h_w − h_l)}",
    source="Tang et al. 2024, generalised preference optimisation, Table 1",
    parameters={"beta": BETA},
    score=scaled_log_ratio,
    link=EXPONENTIAL,
    needs=frozenset({"reference"}),
)

DISCOPOP = Objective(
    name="discopop",
    title="DiscoPOP, log-ratio modulated loss",
    formula="(1−m) S(z) + m e^{−z},  m = σ(z/τ),  z = β(h_w − h_l)",
    source="Lu et al. 2024, Eq. 5",
    parameters={
        "beta": BETA,
        "tau": Parameter(0.05, POSITIVE, (0.05,), "temperature τ of the blend"),
    },
    score=scaled_log_ratio,
    link=LOGISTIC_EXPONENTIAL,
    needs=frozenset({"reference"}),
)

IPO = Objective(
    name="ipo",
    title="Identity preference optimisation",
    formula="(h_w − h_l − 1/(2τ))²",
    source="Azar et al. 2024, Eq. 17",
    parameters={
        "tau": Parameter(0.1, POSITIVE, (0.01, 0.1, 0.5, 1.0), "the margin that is asked for is 1/(2τ)"),
        "aggregation": Parameter("sum", ("sum", "mean"), ("sum",), "log-ratios summed over tokens, or their mean"),
    },
    score=aggregated_log_ratio,
    link=SQUARED,
    needs=frozenset({"reference"}),
    option_needs={("aggregation", "mean"): frozenset({"length"})},
    conventions=(
        "aggregation='sum' is the papers' formula; 'mean' is what TRL and HALOs compute: h_w/|y_w| − h_l/|y_l|. "
        "τ then differs by about the length of a response.",
    ),
)

DPO_NORM = Objective(
    name="dpo_norm",
    title="Length-normalised DPO",
    formula="S(β(h_w/|y_w| − h_l/|y_l|))",
    source="Tülu 3 (Lambert et al. 2024), Section 5.1",
    parameters={"beta": Parameter(5.0, POSITIVE, (1.0, 2.0, 5.0, 10.0), "scale of the reward per token")},
    score=scaled_mean_log_ratio,
    link=LOGISTIC,
    needs=frozenset({"reference", "length"}),
)

R_DPO = Objective(
    name="r_dpo",
    title="Length-regularised DPO",
    formula="S(β(h_w − h_l) + α(|y_w| − |y_l|))",
    source="Park et al. 2024, Eq. 9",
    parameters={
        "beta": BETA,
        "alpha": Parameter(0.1, NON_NEGATIVE, (0.05, 0.1, 0.5, 1.0), "penalty α on length in the reward"),
    },
    score=length_regularised,
    link=LOGISTIC,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference", "length"}),
    conventions=(
        "The sign is plus: max E[r − α|y|] − β KL gives r = β h + α|y| + const. Printed formulas disagree on it.",
    ),
)

DPOP = Objective(
    name="dpop",
    title="DPO-Positive",
    formula="S(β[h_w − h_l − λ max(0, −h_w)])",
    source="Pal et al. 2024, Eq. 3",
    parameters={
        "beta": BETA,
        "lam": Parameter(50.0, NON_NEGATIVE, (5.0, 50.0, 500.0), "weight λ of the fall of the chosen response"),
    },
    score=penalised_log_ratio,
    rejected_score=scaled_log_ratio,
    link=LOGISTIC,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference"}),
    conventions=(
        "The penalty stands inside σ and is multiplied by β; the first arXiv version has it outside the bracket.",
        "At the kink h_w = 0, where training from π_ref starts, its slope is taken as 0.",
    ),
)

H_DPO = Objective(
    name="h_dpo",
    title="Entropy-controllable DPO (cEntropy)",
    formula="S(β[(η log π_w − log π_ref,w) − (η log π_l − log π_ref,l)])",
    source="Omura et al. 2024, Eq. 9",
    parameters={
        "beta": BETA,
        "eta": Parameter(0.95, POSITIVE, (0.8, 0.9, 0.95, 1.0), "weight η of the policy's entropy"),
    },
    score=entropy_controlled,
    link=LOGISTIC,
    needs=frozenset({"reference"}),
    conventions=("η is the paper's α. η < 1 sharpens the policy, η > 1 flattens it.",),
)

CHI_PO = Objective(
    name="chi_po",
    title="χ²-preference optimisation",
    formula="S(clip_{±2R}[β(φ(e^{h_w}) − φ(e^{h_l}))]),  φ(u) = u + log u",
    source="Huang et al. 2024, Algorithm 1",
    parameters={
        "beta": BETA,
        "r_max": Parameter(1.0, POSITIVE, (1.0,), "bound R on the reward; the margin is cut to [−2R, 2R]"),
    },
    score=mixed_chi_squared,
    link=CLIPPED_LOGISTIC,
    needs=frozenset({"reference"}),
    conventions=(
        "e^h is cut at e^354 in float64 and e^44 in float32. One response beyond it is clipped anyway; where both are, "
        "the margin is β(h_w − h_l).",
    ),
)

F_DPO = Objective(
    name="f_dpo",
    title="DPO with an f-divergence",
    formula="S(β[f′(e^{h_w}) − f′(e^{h_l})])",
    source="Wang et al. 2024, Eq. 7 and Table 1",
    parameters={
        "beta": BETA,
        "divergence": Parameter(
            "reverse_kl", DIVERGENCES, DIVERGENCES, "what ties π to π_ref: f′ is h, 1−e^{−h}, log 2+log σ(h), or α's"
        ),
        "alpha": Parameter(
            0.5, REAL, (0.5,), "order of the α-divergence, f′ = (e^{(α−1)h} − 1)/(α−1)", ("divergence", ("alpha",))
        ),
    },
    score=divergence_derivative,
    link=LOGISTIC,
    needs=frozenset({"reference"}),
    conventions=(
        "f′(u) up to constants, which cancel: log u for the reverse KL, without its + 1.",
        "α as in TRL; the authors' code has f′ ∝ −u^(−α), so that their α is 1 − α here. At ½ they agree.",
        "TRL cuts the exponent of the α-divergence at 80 in float32; here it is cut at 44 in float32, 354 in float64.",
    ),
)

ENTROPY_PROBE = Objective(
    name="entropy_probe",
    title="Probe for the entropy of the DID",
    formula="S(log π_w − log π_l) on y_w ~ π′, y_l ~ π_ref",
    source="DID paper, Appendix K",
    score=log_pi,
    link=LOGISTIC,
    conventions=(
        "It is log_pi with β = 1: what makes it a probe is its data. didsim.entropy_probe draws them and trains it.",
        "With y_w drawn from a policy π′ and y_l from π_ref it ends at the DID q_{π′/π_ref}.",
    ),
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
