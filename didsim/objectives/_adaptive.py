"""Objectives whose margin or β adapts to the pair, or to the whole batch: α-DPO, β-DPO, RMiPO and AOT.

Two pairs with log-ratio margins of 2 and 0 nats, and log-probabilities whose margins are 2 and 0 too:

>>> from torch import ones, tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0, -2.0]), log_pi_rejected=tensor([-3.0, -2.0]),
...     log_ref_chosen=tensor([-2.0, -2.0]), log_ref_rejected=tensor([-2.0, -2.0]),
...     length_chosen=ones(2), length_rejected=ones(2),
...     log_marginal_chosen=tensor([-1.0, -2.0]), log_marginal_rejected=tensor([-2.0, -2.0]))

α-DPO asks the first pair for γ + α and the second for γ − α, since their z-scores are ±1; β-DPO multiplies β by 1 ± α
(and S(0) = log 2 whatever β); RMiPO asks for γ_min + (γ_max − γ_min)/e where the chosen response has one nat of
pointwise mutual information more, and for γ_max where it has none; AOT couples sorted margins of π and of π_ref, and
unpaired the sorted h_w = 0, 1 with the sorted h_l = −1, 0:

>>> objective("alpha_dpo", beta=1.0, gamma=0.3, alpha=0.2)(pairs)
tensor([0.2014, 0.7444])
>>> objective("beta_dpo", beta=1.0, alpha=0.5)(pairs)
tensor([0.0486, 0.6931])
>>> objective("rmipo", beta=1.0, gamma_min=0.0, gamma_max=1.0)(pairs)
tensor([0.1786, 1.3133])
>>> objective("aot", beta=1.0)(pairs), objective("aot_unpaired", beta=1.0)(pairs)
(tensor([0.1269, 0.6931]), tensor([0.3133, 0.3133]))
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, REAL, Interval
from didsim.objectives._links import LOGISTIC, target_margin
from didsim.objectives._log_ratio import scaled_log_ratio
from didsim.objectives._math import softplus_neg, stop_gradient_if
from didsim.objectives._math import stop_gradient as sg
from didsim.objectives._objective import BOOLEAN, Objective, Parameter
from didsim.objectives._pair_functions import Contrast
from didsim.objectives._pairs import Pairs, Responses
from didsim.objectives._reference_free import GAMMA_FORM, scaled_mean_log_pi
from didsim.objectives._token_level import forward_kl


class Contrasts(Protocol):
    """Pairs, or `IndependentPairs`, as far as a `Contrast` may look at them: differences are tensors, or both sides."""

    def difference(self, part: Callable[[Responses], Tensor]) -> Any:
        """Return part(y_w) − part(y_l)."""
        ...

    def standardise(self, values: Any) -> Any:
        """Return (v − mean v)/std v over all pairs; 0 where all are equal."""
        ...


def reward_margin(pairs: Contrasts, beta: float | Tensor, length_normalise: bool) -> Any:
    """Return SimPO's u = β a_w − β a_l, or β (log π_w − log π_l)."""
    return beta * pairs.difference(lambda y: y.mean_log_pi if length_normalise else y.log_pi)


def log_ratio_margin(pairs: Pairs) -> Tensor:
    """Return D = h_w − h_l."""
    return pairs.difference(lambda y: y.log_ratio)


def reference_reward(y: Responses, reference_form: str, margin: str) -> Tensor:
    """Return what the implicit reference U·(…)^α gives to a response, per unit of β and α."""
    match reference_form:
        case "policy":
            return y.log_pi
        case "reference":
            return y.reference
        case "inverse_reference":
            return -y.reference
        case "uniform":
            return torch.zeros_like(y.log_pi)
        case _ if margin == "tdpo":
            return -forward_kl(y)
        case _:
            return y.log_ratio


def alpha_dpo_margin(
    pairs: Contrasts,
    *,
    beta: float | Tensor,
    gamma: float | Tensor,
    alpha: float | Tensor,
    gamma_form: str,
    reference_form: str,
    margin: str,
    normalise: bool,
    length_normalise: bool,
    stop_gradient: bool,
) -> Any:
    """Return u − [γ + α z]; what z is made of is stopped, and so z."""
    margins = pairs.difference(lambda y: stop_gradient_if(stop_gradient, reference_reward(y, reference_form, margin)))
    # z-scores do not change with β > 0, whose square may overflow
    z = pairs.standardise(margins) if normalise else beta * margins
    return reward_margin(pairs, beta, length_normalise) - target_margin(gamma + alpha * z, beta, gamma_form)


ADAPTED_MARGIN = Contrast(alpha_dpo_margin, LOGISTIC)
"""S(u − sg[γ + α z])."""


def kept_fraction(pairs: Pairs, margins: Tensor, rho: float | Tensor) -> Tensor:
    """Return the probability that β-DPO's filter keeps a pair when it drops a fraction ρ of a large batch.

    The repository draws a fraction 1 − ρ of the batch without replacement, with weights p from the normal density of
    the margins. Such draws keep the pair whose exponential clock E/p rings before a time t, so that in the limit of
    large batches a pair is kept with probability 1 − e^(−tp), with t such that their mean is 1 − ρ.
    """
    dropped = torch.as_tensor(rho, dtype=margins.dtype)
    if not bool((dropped > 0).any()):
        return torch.ones_like(margins)
    some = torch.where(dropped > 0, dropped, 0.5)
    score = pairs.standardise(margins)
    density = torch.exp(-0.5 * score**2)
    # densities are at most 1, so that t ≥ −log ρ; the mean of e^(−tp) is convex in t, so that no step passes its end
    time, held = -torch.log(some) + torch.zeros_like(pairs.mean(density)), density.detach()
    for _ in range(MOST_STEPS):
        step = _newton(pairs, held, time, some)
        time = (time + step).clamp(max=torch.finfo(time.dtype).max)
        if bool((step <= time * torch.finfo(time.dtype).eps ** 0.5).all()):
            break
    # one more squares the error, and gives the derivative: t follows the densities, as the solver must know
    time = time + _newton(pairs, density, time, some)
    return torch.where(dropped > 0, -torch.expm1(-time * density), 1.0)


def _newton(pairs: Pairs, density: Tensor, time: Tensor, rho: Tensor) -> Tensor:
    """Return Newton's step from t towards the time at which a fraction ρ of clocks has not rung; its slope is held."""
    silent = torch.exp(-time * density)
    slope = pairs.mean(density * silent).detach()
    return torch.where(slope > 0, (pairs.mean(silent) - rho) / torch.where(slope > 0, slope, 1.0), 0.0)


MOST_STEPS = 200
"""Of Newton's towards t. A handful is enough, unless most of the mass are outliers: t doubles with each."""


def beta_dpo(
    pairs: Pairs, *, beta: float | Tensor, alpha: float | Tensor, rho: float | Tensor, margin: str, level: str
) -> Tensor:
    """S(β_i D), β_i = sg[β₀ (1 + α(M − mean M))], of the pairs that the filter keeps."""
    difference = log_ratio_margin(pairs)
    margins = beta * difference if margin == "scaled" else difference
    kept = kept_fraction(pairs, difference, rho)
    excess = margins - pairs.mean(margins)
    if level == "batch":
        excess = pairs.mean(kept * excess) / (1.0 - rho)
    adapted = beta * (1.0 + alpha * excess)
    return sg(kept / (1.0 - rho)) * softplus_neg(sg(adapted) * difference)


def pmi_margin(pairs: Pairs, per_token: bool) -> Tensor:
    """Return Δpmi = [log π(y_w|x) − log π(y_w)] − [log π(y_l|x) − log π(y_l)], or of means over tokens."""
    chosen, rejected = (y.log_pi - y.marginal for y in (pairs.chosen, pairs.rejected))
    if per_token:
        chosen, rejected = chosen / pairs.chosen.num_tokens, rejected / pairs.rejected.num_tokens
    return chosen - rejected


def decay(signal: Tensor, schedule: str) -> Tensor:
    """Return the share of γ_max − γ_min that is left at a signal: 1 at 0 and below, and falling."""
    positive = torch.relu(signal)
    match schedule:
        case "linear":
            return torch.relu(1.0 - positive)
        case "cosine":
            return 0.5 * (1.0 + torch.cos(math.pi * positive.clamp(max=1.0)))
        case "none":
            return torch.ones_like(positive)
        case _:
            return torch.exp(-positive)


def rmipo(
    pairs: Pairs,
    *,
    beta: float | Tensor,
    gamma_min: float | Tensor,
    gamma_max: float | Tensor,
    gamma_form: str,
    schedule: str,
    signal: str,
    aggregation: str,
    length_normalise: bool,
    stop_gradient: bool,
) -> Tensor:
    """S(u − sg[γ]), γ = γ_min + (γ_max − γ_min) e^{−max(0, Δpmi)}."""
    if schedule == "none":
        evidence = torch.zeros_like(pairs.chosen.log_pi - pairs.rejected.log_pi)
    elif signal == "pmi":
        evidence = pmi_margin(pairs, per_token=aggregation == "mean")
    else:
        evidence = reward_margin(pairs, 1.0, length_normalise=aggregation == "mean")
    gamma = gamma_min + (gamma_max - gamma_min) * decay(evidence, schedule)
    target = stop_gradient_if(stop_gradient, target_margin(gamma, beta, gamma_form))
    return softplus_neg(reward_margin(pairs, beta, length_normalise) - target)


def aot(pairs: Pairs, *, beta: float | Tensor) -> Tensor:
    """S(β (quantile of log π_w − log π_l − the same quantile of log π_ref,w − log π_ref,l))."""
    policy = pairs.chosen.log_pi - pairs.rejected.log_pi
    reference = pairs.chosen.reference - pairs.rejected.reference
    return pairs.quantile_coupling(beta * policy, beta * reference, _logistic_cost)


def aot_unpaired(pairs: Pairs, *, beta: float | Tensor) -> Tensor:
    """S(β (quantile of h_w − the same quantile of h_l))."""
    return pairs.quantile_coupling(beta * pairs.chosen.log_ratio, beta * pairs.rejected.log_ratio, _logistic_cost)


def _logistic_cost(x: Tensor, y: Tensor) -> Tensor:
    return softplus_neg(x - y)


def scaled_reward(y: Responses, *, beta: float | Tensor, length_normalise: bool) -> Tensor:
    """β log π / |y|, or β log π."""
    return scaled_mean_log_pi(y, beta=beta) if length_normalise else beta * y.log_pi


NORMALISED = Parameter(True, BOOLEAN, (True,), "whether rewards are divided by the length")
REFERENCE_FORMS = ("ratio", "uniform", "policy", "reference", "inverse_reference")
ADAPTED = ("reference_form", ("ratio", "policy", "reference", "inverse_reference"))
SCHEDULED = ("schedule", ("exponential", "linear", "cosine"))

ALPHA_DPO = Objective(
    name="alpha_dpo",
    title="α-DPO",
    formula="S(β a_w − β a_l − sg[γ + α z]),  z = (M − mean M)/std M,  M = β(h_w − h_l)",
    source="α-DPO paper, Eqs. 8 to 12; grid of its Table 4",
    parameters={
        "beta": Parameter(2.5, POSITIVE, (2.5, 10.0), "scale of the reward"),
        "gamma": Parameter(0.3, REAL, (0.1, 0.3, 0.5), "the reward margin γ that is asked for"),
        "alpha": Parameter(0.1, NON_NEGATIVE, (0.01, 0.05, 0.1, 0.2), "how far the margin adapts", ADAPTED),
        "gamma_form": GAMMA_FORM,
        "reference_form": Parameter(
            "ratio", REFERENCE_FORMS, ("ratio",), "the implicit reference: U·(π/π_ref)^α, U, U·π^α, U·π_ref^{±α}"
        ),
        "margin": Parameter(
            "log_ratio",
            ("log_ratio", "tdpo"),
            ("log_ratio",),
            "M, or TDPO's β(K_l − K_w)",
            ("reference_form", ("ratio",)),
        ),
        "normalise": Parameter(True, BOOLEAN, (True,), "z-scores, or M itself with nothing subtracted", ADAPTED),
        "length_normalise": NORMALISED,
        "stop_gradient": Parameter(True, BOOLEAN, (True,), "whether the target is a constant to the gradient", ADAPTED),
    },
    pair=ADAPTED_MARGIN.pair,
    contrast=ADAPTED_MARGIN,
    implicit_reward=scaled_reward,
    option_needs={
        ("reference_form", "ratio"): frozenset({"reference"}),
        ("reference_form", "reference"): frozenset({"reference"}),
        ("reference_form", "inverse_reference"): frozenset({"reference"}),
        ("margin", "tdpo"): frozenset({"reference", "tokens", "vocabulary"}),
        ("normalise", True): frozenset({"batch"}),
        ("length_normalise", True): frozenset({"length"}),
    },
    conventions=(
        "γ is absolute; the repository takes the ratio γ/β, and multiplies α by β too: gamma_form='ratio' is both.",
        "Mean and std are those of the batch or population (paper: of the dataset); the repository keeps running ones.",
        "M uses log-ratios summed over tokens (Eq. 10), the repository's their means. Where all are equal, z is 0.",
        "reference_form names the rows of Table 2: 'uniform' is SimPO, and leaves α unread.",
    ),
)

BETA_DPO = Objective(
    name="beta_dpo",
    title="β-DPO",
    formula="S(β_i(h_w − h_l)),  β_i = sg[β(1 + α(M_i − mean M))],  M = β(h_w − h_l)",
    source="Wu et al. 2024, Eqs. 6 to 9; instance level as in the α-DPO and RMiPO papers' tables",
    parameters={
        "beta": Parameter(0.1, POSITIVE, (0.01, 0.05, 0.1), "the base β₀"),
        "alpha": Parameter(0.6, NON_NEGATIVE, (0.4, 0.6, 0.8, 1.0), "how far β adapts"),
        "rho": Parameter(
            0.0, Interval(0.0, 1.0, closed_low=True), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), "fraction ρ that is filtered out"
        ),
        "margin": Parameter("scaled", ("scaled", "raw"), ("scaled",), "M = β₀ D (paper), or D (repository)"),
        "level": Parameter("instance", ("instance", "batch"), ("instance",), "one β per pair, or per batch"),
    },
    pair=beta_dpo,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference", "batch"}),
    conventions=(
        "margin='raw' is the repository's: with β₀ = 0.1, α means ten times as much.",
        "mean M is that of the batch or population; the repository keeps a running mean, and cuts β at 0.001 from "
        "below.",
        "The filter is random in the repository; here each pair has the weight that it has in the limit of large "
        "batches, so that nothing is drawn inside a loss.",
        "level='batch': one β from the mean margin of the pairs that are kept.",
    ),
)

RMIPO = Objective(
    name="rmipo",
    title="RMiPO, response-level mutual-information preference optimisation",
    formula="S(β a_w − β a_l − sg[γ]),  γ = γ_min + (γ_max − γ_min) e^{−max(0, Δpmi)}",
    source="RMiPO paper, Eqs. 7 to 10 and Algorithm 1; bounds of its Table 8",
    parameters={
        "beta": Parameter(2.0, POSITIVE, (2.0,), "scale of the reward"),
        "gamma_min": Parameter(0.3, REAL, (0.3,), "the margin asked of a pair of great relevance", SCHEDULED),
        "gamma_max": Parameter(1.6, REAL, (1.6,), "the margin asked of a pair of none"),
        "gamma_form": GAMMA_FORM,
        "schedule": Parameter(
            "exponential", ("exponential", "linear", "cosine", "none"), ("exponential",), "how γ falls with Δpmi"
        ),
        "signal": Parameter("pmi", ("pmi", "log_pi"), ("pmi",), "what γ follows: Δpmi, or that of log π", SCHEDULED),
        "aggregation": Parameter("sum", ("sum", "mean"), ("sum",), "the signal per response, or per token", SCHEDULED),
        "length_normalise": NORMALISED,
        "stop_gradient": Parameter(True, BOOLEAN, (True,), "whether γ is a constant to the gradient", SCHEDULED),
    },
    pair=rmipo,
    implicit_reward=scaled_reward,
    option_needs={
        ("signal", "pmi"): frozenset({"marginal"}),
        ("aggregation", "mean"): frozenset({"length"}),
        ("length_normalise", True): frozenset({"length"}),
    },
    conventions=(
        "log π(y) is the marginal Σ_x p(x) π(y|x) in a tabular world, and an unprompted pass of a language model.",
        "aggregation='mean' and the stopped gradient are the repository's; the paper is silent on the gradient.",
        "linear: γ falls as max(0, 1 − Δpmi); cosine: as ½(1 + cos(π min(1, Δpmi))); none: it stays at γ_max. The "
        "paper names these schedules without formulas; these are ours.",
        "Table 3 leaves its rows undefined; ours: GM only: schedule='none'. MI only: schedule='linear' with bounds 0 "
        "and 1. GM+MI: 'linear'. GM+ED: signal='log_pi'. MI+ED: 'exponential' with bounds 0 and 1.",
    ),
)

AOT = Objective(
    name="aot",
    title="Alignment via optimal transport, paired",
    formula="S(β(sort(log π_w − log π_l) − sort(log π_ref,w − log π_ref,l)))",
    source="Melnyk et al. 2024, Eq. 6",
    parameters={"beta": Parameter(1.0, POSITIVE, (0.01, 0.05, 0.1, 1.0), "scale β of the implicit reward")},
    pair=aot,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference", "batch"}),
    conventions=("Sorted over the batch; with weights, over the quantiles of the population.",),
)

AOT_UNPAIRED = Objective(
    name="aot_unpaired",
    title="Alignment via optimal transport, unpaired",
    formula="S(β(sort h_w − sort h_l))",
    source="Melnyk et al. 2024, Eq. 7",
    parameters={"beta": Parameter(1.0, POSITIVE, (0.01, 0.05, 0.1, 1.0), "scale β of the implicit reward")},
    pair=aot_unpaired,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference", "batch"}),
    conventions=("Sorted over the batch; with weights, over the quantiles of the population.",),
)
