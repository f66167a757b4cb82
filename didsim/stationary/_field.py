"""The gradient field of whole-response losses in the logits of responses, and its derivative.

Where policies are free and a loss is made of log π, log π_ref and length of single responses, a response is a class
whatever the space: every positive distribution over responses is a policy, so that stationary policies do not depend
on its parameters. A *row* is one prompt of one run, with unknown logits θ [K] of its own.

With s and r the scores of a chosen and a rejected response, A and B the anchors, f the link, a and b the weights of
classes as chosen and as rejected responses, and W_ij those of pairs, the derivative of the expected loss by log π_k is

    G_k = s′_k Σ_j W_kj f′(s_k − r_j) − r′_k Σ_i W_ik f′(s_i − r_k) + a_k A′_k + b_k B′_k,

and by θ, since log π = θ − log Σ e^θ, it is g = G − π Λ with Λ = Σ G.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from didsim.objectives import BoundObjective, Part, Responses
from didsim.stationary._dense import DenseEquations

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Corners:
    """How the steps of kinked functions are resolved: slopes between those of both sides are subgradients.

    A convex kink at x = c has all slopes between the left and the right one: left + μ (right − left), μ in [0, 1]. In
    a window around the kink μ + (x − c)/width, cut to [0, 1], stands for the step; it is the proximal method of
    multipliers, whose μ tends to a subgradient, whatever the width.

    Attributes:
        multipliers: μ wherever there is a kink, one tensor [L, …] for each function that has some.
        width: of the window, [L, 1, 1]; 0 takes μ itself wherever x is within `CORNER_TOLERANCE` of the kink.
    """

    multipliers: tuple[Tensor, ...]
    width: Tensor

    def take(self, rows: Tensor) -> "Corners":
        """Return the corners of some rows."""
        return Corners(tuple(part[rows] for part in self.multipliers), self.width[rows])

    def share(self, number: int, x: Tensor, corner: Tensor | float) -> Tensor:
        """Return how much of the jump of a function, by its number, is behind x."""
        multiplier, beyond = self.multipliers[number], x - corner
        at_once = torch.where(beyond.abs() <= CORNER_TOLERANCE, multiplier, (beyond > 0).to(x.dtype))
        ramp = (multiplier + beyond / torch.where(self.width > 0, self.width, 1.0)).clamp(0.0, 1.0)
        return torch.where(self.width > 0, ramp, at_once)


CORNER_TOLERANCE = 1e-9
"""A margin so near its kink, in nats of score, is at it."""


@dataclass(frozen=True)
class ResponseField:
    """The field of L rows that share one objective and its named options.

    Attributes:
        loss: the objective, its numbers stacked to [L, 1, 1].
        weights: W, [L, K, K]; each prompt's sum is its weight.
        log_ref: log π_ref, [L, K, 1].
        length: the lengths of responses, [L, K, 1].
        allowed: False for responses that the reference excludes, [L, K].
        corners: how kinks are resolved; None takes the slopes that training takes.
    """

    loss: BoundObjective
    weights: Tensor
    log_ref: Tensor
    length: Tensor
    allowed: Tensor
    corners: Corners | None = None

    @property
    def is_gradient(self) -> bool:
        """Whether the field is the gradient of a loss, and its derivative symmetric."""
        return not self._has_stops

    def take(self, rows: Tensor) -> "ResponseField":
        """Return the field of some rows."""
        return ResponseField(
            self.loss.take(rows),
            self.weights[rows],
            self.log_ref[rows],
            self.length[rows],
            self.allowed[rows],
            self.corners and self.corners.take(rows),
        )

    def equations(self, unknowns: Tensor) -> DenseEquations:
        """Return Newton's equations of all rows."""
        return DenseEquations.of(self, unknowns)

    @property
    def is_ramped(self) -> bool:
        """Whether ramps stand for kinks."""
        return self.corners is not None

    def freeze(self, unknowns: Tensor, dead: Tensor) -> "ResponseField":
        """Return the same field, in which dead responses stay as they are."""
        return replace(self, allowed=self.allowed & ~dead)

    def choices(self, unknowns: Tensor) -> Tensor:
        """Return log π of each response, [L, K]."""
        return self.log_pi(unknowns)

    @property
    def scale(self) -> Tensor:
        """The mass a + b of pairs in which each response stands, [L, K]."""
        return self.weights.sum(2) + self.weights.sum(1)

    @property
    def shifts(self) -> Tensor:
        """The directions in which logits change no policy, [L, K, 1]."""
        return self.allowed.to(self.weights.dtype).unsqueeze(2)

    def log_pi(self, unknowns: Tensor) -> Tensor:
        """Return log π of each response, [L, K]."""
        return torch.log_softmax(unknowns, dim=1)

    def scores(self, log_pi: Tensor) -> Tensor:
        """Return the scores of chosen responses with log-probabilities [L, K], [L, K]."""
        return self.loss.score(self._responses(log_pi.unsqueeze(2))).expand_as(log_pi.unsqueeze(2))[..., 0]

    def change(self, unknowns: Tensor, step: Tensor) -> Tensor:
        """Return how a small step changes log π of each response, [L, K]."""
        return step - (self.log_pi(unknowns).exp() * step).sum(1, keepdim=True)

    def gradient(self, unknowns: Tensor) -> Tensor:
        """Return g, [L, K]."""
        log_pi = self.log_pi(unknowns)
        return _by_logits(log_pi.exp(), self._by_log_pi(log_pi.unsqueeze(2)))

    def linearise(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return g, [L, K], and dg/dθ, [L, K, K]: the Hessian of the expected loss."""
        log_pi = self.log_pi(unknowns)
        pi, (by_log_pi, table) = log_pi.exp(), self._derivatives(log_pi.unsqueeze(2))
        table = table - table.sum(2, keepdim=True) * pi.unsqueeze(1)  # d log π = dθ − Σ π dθ
        table = table - pi.unsqueeze(2) * table.sum(1, keepdim=True)
        total = by_log_pi.sum(1)[:, None, None]  # Λ, times dπ = (diag π − π πᵀ) dθ
        table = table - total * (torch.diag_embed(pi) - pi.unsqueeze(2) * pi.unsqueeze(1))
        return _by_logits(pi, by_log_pi), table

    @property
    def has_corners(self) -> bool:
        """Whether the loss has kinks."""
        return self.loss.link_corner is not None or getattr(self.loss.objective.score, "corner", None) is not None

    def with_corners(self, corners: Corners | None = None) -> "ResponseField":
        """Resolve the kinks; without multipliers, in the middle of windows of width 1."""
        if corners is None:
            middle = torch.full_like(self.weights, 0.5)
            corners = Corners((middle, middle[..., :1]), torch.ones_like(middle[:, :1, :1]))
        return replace(self, corners=corners)

    def resolve(self, unknowns: Tensor) -> tuple[Tensor, ...]:
        """Return the multipliers that the windows around the kinks show: the next ones of the method."""
        assert self.corners is not None  # asked for where there are kinks
        margin, y = self._margin(unknowns)
        return (
            self.corners.share(LINK, margin, _corner(self.loss.link_corner)),
            self.corners.share(SCORE, y.log_pi, _corner(self._score_corner(y))),
        )

    def at_corners(self, unknowns: Tensor) -> Tensor:
        """Return the kinks at which rows stand: (row, chosen, rejected), or (row, chosen, −1), int64 [N, 3]."""
        margin, y = self._margin(unknowns)
        weighty = self.weights > 0
        pairs = torch.nonzero(weighty & ((margin - _corner(self.loss.link_corner)).abs() <= CORNER_TOLERANCE))
        alone = torch.nonzero((y.log_pi - _corner(self._score_corner(y))).abs() <= CORNER_TOLERANCE)
        return torch.cat([pairs[pairs[:, 1] != pairs[:, 2]], alone - (alone.new_tensor([0, 0, 1]))])

    def _margin(self, unknowns: Tensor) -> tuple[Tensor, Responses]:
        y = self._responses(self.log_pi(unknowns).unsqueeze(2))
        return self.loss.score(y) - self.loss.rejected_score(y).mT, y

    def _responses(self, log_pi: Tensor) -> Responses:
        return Responses(log_pi, self.log_ref, self.length)

    def noise(self, unknowns: Tensor) -> Tensor:
        """Return how large the rounding of g is at most, [L, K]: that of the terms that it adds up."""
        log_pi = self.log_pi(unknowns)
        terms = self._terms(log_pi.unsqueeze(2))
        size = sum((term.abs() for term in terms), torch.zeros_like(log_pi).unsqueeze(2))[..., 0]
        return torch.finfo(size.dtype).eps * (size + log_pi.exp() * size.sum(1, keepdim=True))

    def _by_log_pi(self, log_pi: Tensor) -> Tensor:
        """Return G, [L, K], of log π [L, K, 1]."""
        return sum(self._terms(log_pi), torch.zeros_like(log_pi))[..., 0]

    def _terms(self, log_pi: Tensor) -> Iterator[Tensor]:
        """Yield the terms of G, [L, K, 1]."""
        y, record = self._responses(log_pi), self.loss.objective
        for part, mass in self._anchors():
            yield mass * self.loss.slope_of(part, y)(log_pi)
        if record.score is not None:
            margin = self.loss.score(y) - self.loss.rejected_score(y).mT
            slopes = self._pair_weights * self._link_slope(margin)(margin)
            s1 = self._score_slope(y)(log_pi)
            r1 = s1 if record.rejected_score is None else self.loss.slope_of(record.rejected_score, y)(log_pi)
            yield s1 * slopes.sum(2, keepdim=True)
            yield -r1 * slopes.sum(1).unsqueeze(2)

    @property
    def _pair_weights(self) -> Tensor:
        """The weights of pairs whose margin moves: of a response with itself it is 0, which would leave rounding."""
        if self.loss.objective.rejected_score is not None:
            return self.weights
        return self.weights - torch.diag_embed(self.weights.diagonal(dim1=1, dim2=2))

    def _derivatives(self, log_pi: Tensor) -> tuple[Tensor, Tensor]:
        """Return G, [L, K], and dG/d log π, [L, K, K], of log π [L, K, 1], taken for free numbers."""
        y = self._responses(log_pi)
        first, second = torch.zeros_like(log_pi), torch.diag_embed(torch.zeros_like(log_pi[..., 0]))
        for part, mass in self._anchors():
            slope, curvature = _derived(part)(self.loss.slope_of(part, y), log_pi)
            first = first + mass * slope
            second = second + torch.diag_embed((mass * curvature)[..., 0])
        if self.loss.objective.score is not None:
            by_score, by_pair = self._score_derivatives(y)
            first, second = first + by_score, second + by_pair
        return first[..., 0], second

    def _anchors(self) -> Iterator[tuple[Part, Tensor]]:
        """Yield the anchors that there are, with the masses of the responses that they look at, [L, K, 1]."""
        record = self.loss.objective
        if record.chosen_anchor is not None:
            yield record.chosen_anchor, self.weights.sum(2, keepdim=True)
        if record.rejected_anchor is not None:
            yield record.rejected_anchor, self.weights.sum(1).unsqueeze(2)

    def _score_derivatives(self, y: Responses) -> tuple[Tensor, Tensor]:
        loss, record, x = self.loss, self.loss.objective, y.log_pi
        # in training's eyes: a stopped term moves the margin, but has no slope
        s1, s2 = _derived(record.score)(self._score_slope(y), x)
        r1, r2 = (s1, s2)
        if record.rejected_score is not None:
            r1, r2 = _derived(record.rejected_score)(loss.slope_of(record.rejected_score, y), x)
        by_chosen, by_rejected = s1, r1
        if self._has_stops:
            _, by_chosen = derived_through_stops(lambda log_pi: loss.score(replace(y, log_pi=log_pi)), x)
            _, by_rejected = derived_through_stops(lambda log_pi: loss.rejected_score(replace(y, log_pi=log_pi)), x)
        score, other = loss.score(y), loss.rejected_score(y)
        margin = score - other.mT
        slopes, curvatures = (self._pair_weights * part for part in derived(self._link_slope(margin), margin))
        rows, columns = slopes.sum(2, keepdim=True), slopes.sum(1).unsqueeze(2)
        diagonal = s2 * rows - r2 * columns + s1 * by_chosen * curvatures.sum(2, keepdim=True)
        diagonal = diagonal + r1 * by_rejected * curvatures.sum(1).unsqueeze(2)
        across = s1 * curvatures * by_rejected.mT + r1 * curvatures.mT * by_chosen.mT
        return s1 * rows - r1 * columns, torch.diag_embed(diagonal[..., 0]) - across

    @property
    def _has_stops(self) -> bool:
        return self.loss.hyperparameters.get("stop_gradient") is True

    def _link_slope(self, margin: Tensor) -> Function:
        corner = self.loss.link_corner
        if corner is None or self.corners is None:
            return self.loss.slope
        return _ramped(self.loss.slope, torch.as_tensor(corner, dtype=margin.dtype), self.corners, LINK)

    def _score_slope(self, y: Responses) -> Function:
        assert self.loss.objective.score is not None  # its caller asks
        slope, corner = self.loss.slope_of(self.loss.objective.score, y), self._score_corner(y)
        if corner is None or self.corners is None:
            return slope
        return _ramped(slope, corner, self.corners, SCORE)

    def _score_corner(self, y: Responses) -> Tensor | None:
        corner = getattr(self.loss.objective.score, "corner", None)
        return None if corner is None else corner(y)


def _by_logits(pi: Tensor, by_log_pi: Tensor) -> Tensor:
    """Return g = G − π Λ, Λ = Σ G."""
    return by_log_pi - pi * by_log_pi.sum(1, keepdim=True)


def is_shift_free(loss: BoundObjective) -> bool:
    """Whether the loss is a link of differences of one score, and of nothing else."""
    record = loss.objective
    parts = (record.rejected_score, record.chosen_anchor, record.rejected_anchor)
    return record.margin_link is not None and all(part is None for part in parts)


def derived_through_stops(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return an elementwise function and its derivative, stopped terms included, by forward-mode differentiation."""
    value, *derivative = torch.func.jvp(function, (x,), (torch.ones_like(x),))
    return value.expand_as(x), derivative[0].expand_as(x)


def derived(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of a function in which nothing is stopped, by backward-mode differentiation.

    Forwards it would take four times as long: PyTorch takes each tensor of constants for one with a tangent of zeros,
    whose shape it works out in Python.
    """
    free = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(free).expand_as(free)
    if not value.requires_grad:
        return value, torch.zeros_like(x)
    return value.detach(), torch.autograd.grad(value, free, torch.ones_like(x))[0]


def _derived(part: Part | None) -> Callable[[Function, Tensor], tuple[Tensor, Tensor]]:
    """Return how the slope of a part is derived; in an automatic one something may be stopped."""
    return derived_through_stops if getattr(part, "slope", None) is None else derived


LINK, SCORE = 0, 1
"""The numbers of the multipliers of the link, [L, K, K], and of the score of chosen responses, [L, K, 1]."""


def _corner(corner: Tensor | float | None) -> Tensor | float:
    """Return a kink, at infinity where there is none."""
    return torch.inf if corner is None else corner


def _ramped(function: Function, corner: Tensor, corners: Corners, number: int) -> Function:
    """Replace a function's jump at its corner by a ramp that starts and ends at its values on both sides."""

    def ramp(x: Tensor) -> Tensor:
        below = function(torch.minimum(x, torch.nextafter(corner, corner - 1.0)))
        above = function(torch.maximum(x, torch.nextafter(corner, corner + 1.0)))
        share = corners.share(number, x, corner)
        return (1.0 - share) * below + share * above

    return ramp
