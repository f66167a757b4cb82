"""Links: scalar functions of the score margin m = score(y_w) − score(y_l)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from didsim.objectives._math import scaled, softplus_neg


@dataclass(frozen=True)
class Link:
    """A scalar function of the margin, and its slope.

    Attributes:
        value: ``value(margin, **hyperparameters)``.
        slope: d value / d margin, same arguments. Written out because sums over a K × K table need
            nothing else; the tests hold it against the automatic derivative of `value`. The operations
            in place spare copies of the table: they touch intermediate results, never the margin.
    """

    value: Callable[..., Tensor]
    slope: Callable[..., Tensor]


LOGISTIC = Link(
    value=lambda margin: softplus_neg(margin),
    slope=lambda margin: margin.neg().sigmoid_().neg_(),
)
"""S(m): the negative log-likelihood of a Bradley–Terry preference."""


LOGISTIC_WITH_TARGET_MARGIN = Link(
    value=lambda margin, *, gamma: softplus_neg(margin - gamma),
    slope=lambda margin, *, gamma: (gamma - margin).sigmoid_().neg_(),
)
"""S(m − γ): the margin is asked to exceed γ."""


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
    # sign(relu(x)) is 1[x > 0] without the slow conversion of a comparison's booleans
    slope=lambda margin, *, delta: (delta - margin).relu_().sign_().neg_(),
)
"""max(0, δ − m); its slope at the kink m = δ is taken as 0, as automatic differentiation does."""
