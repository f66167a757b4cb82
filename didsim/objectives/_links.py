"""Links: scalar functions of the score margin m = score(y_w) − score(y_l)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from didsim.objectives._math import scaled, sigmoid, softplus_neg


@dataclass(frozen=True)
class Link:
    """A scalar function of the margin, and its slope.

    Attributes:
        value: ``value(margin, **hyperparameters)``.
        slope: d value / d margin, same arguments. Written out because sums over a K × K table need
            nothing else; the tests hold it against the automatic derivative of `value`. The operations
            in place spare copies of the table: they touch intermediate results, never the margin. The
            solver differentiates it backwards.
        corner: the margin at which the slope jumps upwards, same hyperparameters; None for a smooth link.
        is_step: whether the slope is −1 below the corner, and 0 from there on.
    """

    value: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    corner: Callable[..., Any] | None = None
    is_step: bool = False


def _negated(x: Tensor) -> Tensor:
    """Return −x: in its place, unless its derivative needs x."""
    return -x if x.requires_grad else x.neg_()


def _is_positive(x: Tensor) -> Tensor:
    """Return 1[x > 0] in the place of x, whose derivative is 0; a comparison's booleans would be slow to convert."""
    return x.detach().relu_().sign_()


LOGISTIC = Link(
    value=lambda margin: softplus_neg(margin),
    slope=lambda margin: _negated(margin.neg().sigmoid_()),
)
"""S(m): the negative log-likelihood of a Bradley–Terry preference."""


def target_margin(gamma: Any, beta: float | Tensor, gamma_form: str) -> Any:
    """Return the reward margin that is asked for: γ itself, or βγ where γ is given per unit of β (the "ratio" γ/β)."""
    return beta * gamma if gamma_form == "ratio" else gamma


LOGISTIC_WITH_TARGET_MARGIN = Link(
    value=lambda margin, *, beta, gamma, gamma_form: softplus_neg(margin - target_margin(gamma, beta, gamma_form)),
    slope=lambda margin, *, beta, gamma, gamma_form: _negated(
        (target_margin(gamma, beta, gamma_form) - margin).sigmoid_()
    ),
)
"""S(m − γ): the margin is asked to exceed γ, or βγ."""


WEIGHTED_LOGISTIC = Link(
    value=lambda margin, *, lam: scaled(lam, softplus_neg(margin)),
    slope=lambda margin, *, lam: -lam * margin.neg().sigmoid_(),
)
"""λ S(m)."""


SMOOTHED_LOGISTIC = Link(
    value=lambda margin, *, label_smoothing: (
        (1.0 - label_smoothing) * softplus_neg(margin) + scaled(label_smoothing, softplus_neg(-margin))
    ),
    # −(1−ε) σ(−m) + ε σ(m) = ε − σ(−m)
    slope=lambda margin, *, label_smoothing: label_smoothing - torch.sigmoid(-margin),
)
"""(1 − ε) S(m) + ε S(−m): labels are taken to be wrong with probability ε."""


HINGE = Link(
    value=lambda margin, *, delta: torch.relu(delta - margin),
    slope=lambda margin, *, delta: _negated(_is_positive(delta - margin)),
    corner=lambda *, delta: delta,
    is_step=True,
)
"""max(0, δ − m); its slope at the kink m = δ is taken as 0, as automatic differentiation does."""


HINGE_WITH_TARGET_MARGIN = Link(
    value=lambda margin, *, gamma: torch.relu(gamma - margin),
    slope=lambda margin, *, gamma: _negated(_is_positive(gamma - margin)),
    corner=lambda *, gamma: gamma,
    is_step=True,
)
"""max(0, γ − m)."""


UNIT_HINGE = Link(
    value=lambda margin: torch.relu(1.0 - margin),
    slope=lambda margin: _negated(_is_positive(1.0 - margin)),
    corner=lambda: 1.0,
    is_step=True,
)
"""max(0, 1 − m)."""


ROBUST_LOGISTIC = Link(
    value=lambda margin, *, label_smoothing: (
        ((1.0 - label_smoothing) * softplus_neg(margin) - scaled(label_smoothing, softplus_neg(-margin)))
        / (1.0 - 2.0 * label_smoothing)
    ),
    slope=lambda margin, *, label_smoothing: (
        -((1.0 - label_smoothing) * torch.sigmoid(-margin) + label_smoothing * torch.sigmoid(margin))
        / (1.0 - 2.0 * label_smoothing)
    ),
)
"""[(1 − ε) S(m) − ε S(−m)] / (1 − 2ε): unbiased when labels are flipped with probability ε."""


EXACT_REVERSE_KL = Link(
    value=lambda margin, *, label_smoothing: (
        scaled(sigmoid(margin), -softplus_neg(margin) - _log1m(label_smoothing))
        + scaled(sigmoid(-margin), -softplus_neg(-margin) - _log(label_smoothing))
    ),
    # q (1 − q) [logit q − logit(1 − ε)] with q = σ(m)
    slope=lambda margin, *, label_smoothing: scaled(
        torch.sigmoid(margin) * torch.sigmoid(-margin), margin + _log(label_smoothing) - _log1m(label_smoothing)
    ),
)
"""q log(q/(1 − ε)) + (1 − q) log((1 − q)/ε), q = σ(m): KL of the model's preference from the smoothed label."""


EXPONENTIAL = Link(
    value=lambda margin: torch.exp(-margin),
    slope=lambda margin: _negated(margin.neg().exp_()),
)
"""e^(−m)."""


SQUARED = Link(
    value=lambda margin, *, tau: (margin - 0.5 / tau) ** 2,
    slope=lambda margin, *, tau: 2.0 * (margin - 0.5 / tau),
)
"""(m − 1/(2τ))²."""


SIGMOID = Link(
    value=lambda margin: sigmoid(-margin),
    slope=lambda margin: -torch.sigmoid(margin) * torch.sigmoid(-margin),
)
"""1 − σ(m)."""


CLIPPED_LOGISTIC = Link(
    value=lambda margin, *, r_max: softplus_neg(torch.clamp(margin, -2.0 * r_max, 2.0 * r_max)),
    slope=lambda margin, *, r_max: -torch.sigmoid(-margin) * (margin.abs() <= 2.0 * r_max),
    corner=lambda *, r_max: 2.0 * r_max,
)
"""S(m cut to [−2R, 2R]); its slope jumps downwards at −2R too, where no minimum can be."""


def _blend(margin: Tensor, *, tau: float | Tensor) -> Tensor:
    # σ(m/τ) e^(−m) as one exponential: the factors alone may be 0 and infinite; m = −∞ would leave ∞ − ∞
    finite = margin.clamp(min=torch.finfo(margin.dtype).min)
    return sigmoid(-margin / tau) * softplus_neg(margin) + torch.exp(-softplus_neg(margin / tau) - finite)


def _blend_slope(margin: Tensor, *, tau: float | Tensor) -> Tensor:
    share, rest = torch.sigmoid(margin / tau), torch.sigmoid(-margin / tau)
    logistic = -share * rest * softplus_neg(margin) / tau - rest * torch.sigmoid(-margin)
    return logistic + torch.exp(-softplus_neg(margin / tau) - margin) * (rest / tau - 1.0)


LOGISTIC_EXPONENTIAL = Link(value=_blend, slope=_blend_slope)
"""(1 − σ(m/τ)) S(m) + σ(m/τ) e^(−m)."""


def _log(x: float | Tensor) -> float | Tensor:
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def _log1m(x: float | Tensor) -> float | Tensor:
    return torch.log1p(-x) if isinstance(x, Tensor) else math.log1p(-x)
