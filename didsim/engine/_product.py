"""Weights of pairs whose responses are drawn independently: no table, and sums over all pairs in O(K) operations.

With the margin u_i − v_j of a link f, and the weights p(x)·a_i·b_j of pairs, the derivatives of the expected loss by
u_i and by −v_j need only

    c_i = p a_i Σ_j b_j f′(u_i − v_j)    and    d_j = p b_j Σ_i a_i f′(u_i − v_j),

each a sum of a function of one variable, as `smooth_sums` takes it; a slope that is a step, as `step_sums` does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didsim._checks import message
from didsim.engine._policies import Snapshot
from didsim.engine._sums import MOST_OFFSETS, MOST_PANELS, dense_sums, smooth_sums, step_sums
from didsim.engine._weights import Streams
from didsim.objectives import BoundObjective, IndependentPairs, Pairs
from didsim.preference import Problem
from didsim.torch_bridge import to_tensor

ROWS = 2**20
"""So many responses, of all rows together, are summed at once."""

UNRESOLVED = 1e-8
"""An error of a sum above this share of Σ |w| (1 + |F|) says that panels do not resolve the link."""

LARGEST_TABLE = 2**30
"""Such a link is summed over a table of up to so many pairs, which takes some ten seconds."""


def reason_against_sums(loss: BoundObjective) -> str | None:
    """Return why a loss cannot be summed over both responses of a pair apart, or None if it can."""
    record = loss.objective
    if record.gradient_rule is not None:
        return "it is a rule for gradients, not the gradient of a loss"
    if not record.separates and record.contrast is None:
        return "its loss does not separate: it is no function of a score of one response minus that of the other"
    if loss.link_corner is not None and not _is_step(loss):
        return "the slope of its link jumps, and is no step"
    return None


def _is_step(loss: BoundObjective) -> bool:
    link = loss.objective.margin_link
    return link is not None and link.is_step


@dataclass(frozen=True)
class LinkSums:
    """The sums of a link's slopes and curvatures for L rows; every tensor of them is [L, K, 1].

    Attributes:
        loss: whose link it is, its numbers stacked to [L, 1, 1].
        chosen: a, the probability of each response as a chosen one, float64.
        rejected: b, as a rejected one, float64.
        mass: p, the weight of each row, float64 [L, 1, 1].
    """

    loss: BoundObjective
    chosen: Tensor
    rejected: Tensor
    mass: Tensor

    def slopes(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return c and d, in the dtype of u; NaN in rows with a score that is infinite or NaN."""
        parts = [part._slopes(*scores) for part, *scores in self._chunks(u, v)]
        by_chosen, by_rejected = (torch.cat(side).to(u.dtype) for side in zip(*parts, strict=True))
        return by_chosen, by_rejected

    def tangents(self, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Return how c and d move when u and v do."""
        parts = [part._tangents(*scores) for part, *scores in self._chunks(u, v, du, dv)]
        by_chosen, by_rejected = (torch.cat(side).to(u.dtype) for side in zip(*parts, strict=True))
        return by_chosen, by_rejected

    def curvatures(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return p a_i Σ_j b_j f″(u_i − v_j) and p b_j Σ_i a_i f″(u_i − v_j)."""
        by_chosen = self.chosen * self._sum(self.curvature, u, v, self.rejected)
        by_rejected = self.rejected * self._sum(_mirrored(self.curvature), v, u, self.chosen)
        return self.mass * by_chosen, self.mass * by_rejected

    def crossed(self, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Return p a_i Σ_j b_j f″(u_i − v_j) dv_j and p b_j Σ_i a_i f″(u_i − v_j) du_i."""
        by_chosen = self.chosen * self._sum(self.curvature, u, v, self.rejected * dv)
        by_rejected = self.rejected * self._sum(_mirrored(self.curvature), v, u, self.chosen * du)
        return self.mass * by_chosen, self.mass * by_rejected

    def curvature(self, margin: Tensor) -> Tensor:
        """Return f″ of margins."""
        return torch.func.jvp(self.loss.slope, (margin,), (torch.ones_like(margin),))[1]

    def _chunks(self, *scores: Tensor) -> "list[tuple[LinkSums, *tuple[Tensor, ...]]]":
        """Cut the rows into parts, that memory may not run out."""
        rows = torch.arange(len(self.chosen)).split(max(1, ROWS // self.chosen.shape[1]))
        if len(rows) == 1:
            return [(self, *(part.double() for part in scores))]
        return [(self._take(some), *(part[some].double() for part in scores)) for some in rows]

    def _take(self, rows: Tensor) -> "LinkSums":
        return LinkSums(self.loss.take(rows), self.chosen[rows], self.rejected[rows], self.mass[rows])

    def _slopes(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u, v, broken = _harmless(u, v, self.chosen, self.rejected)
        if _is_step(self.loss):
            corner = self.loss.link_corner
            by_chosen = -_columns(step_sums, corner, u, v, self.rejected)
            by_rejected = -_columns(step_sums, corner, -v, -u, self.chosen)
        else:
            by_chosen = self._sum(self.loss.slope, u, v, self.rejected)
            by_rejected = self._sum(_mirrored(self.loss.slope), v, u, self.chosen)
        sides = (self.mass * self.chosen * by_chosen, self.mass * self.rejected * by_rejected)
        return tuple(side.masked_fill_(broken, torch.nan) for side in sides)  # type: ignore[return-value]

    def _tangents(self, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        u, v, _ = _harmless(u, v, self.chosen, self.rejected)
        (along_u, along_v), (across_v, across_u) = self.curvatures(u, v), self.crossed(u, v, du, dv)
        return du * along_u - across_v, across_u - dv * along_v

    def _sum(self, kernel: Callable[[Tensor], Tensor], targets: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
        """Return Σ_j w_j F(t_i − s_j) of a smooth F; NaN where a large space has scores thousands of nats apart."""
        columns = (targets[..., 0], sources[..., 0], weights[..., 0])
        if targets.shape[1] * sources.shape[1] > LARGEST_TABLE and _are_scattered(*columns[:2]):
            return torch.full_like(targets, torch.nan)
        sums = smooth_sums(kernel, *columns)
        bound = UNRESOLVED * columns[2].abs().sum(1, keepdim=True) + UNRESOLVED * sums.values.abs()
        if not bool(((sums.error > bound) & sums.error.isfinite()).any()):
            return sums.values.unsqueeze(2)
        if targets.shape[1] * sources.shape[1] > LARGEST_TABLE:
            hint = "Panels of scores do not resolve its slope."
            raise ValueError(message(f"the link of {self.loss.name}", "smooth in spaces this large", self.loss, hint))
        return _columns(dense_sums, kernel, targets, sources, weights)


def _columns(function: Callable[..., Tensor], first: object, *columns: Tensor) -> Tensor:
    """Call a function of rows [L, K] with columns [L, K, 1], and return one."""
    return function(first, *(column[..., 0] for column in columns)).unsqueeze(2)


def _are_scattered(targets: Tensor, sources: Tensor) -> bool:
    """Return whether scores are so far apart that panels would be too many, and all that is left is the table."""
    if sum(float(scores.max() - scores.min()) for scores in (targets, sources)) < MOST_PANELS - 2:
        return False  # a panel per unit of score are few, and need not be counted
    panels = [scores.floor().unique() for scores in (targets, sources)]
    if max(map(len, panels)) > MOST_PANELS:
        return True
    return len((panels[0][:, None] - panels[1]).unique()) > MOST_OFFSETS


def _mirrored(kernel: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return F(−m): the margin as rejected responses see it."""
    return lambda margin: kernel(-margin)


def _harmless(u: Tensor, v: Tensor, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put scores that do not count, since their weight is 0, among the others; name rows whose scores are broken."""
    u, v = _among_others(u, chosen), _among_others(v, rejected)
    broken = ~(u.isfinite() & v.isfinite()).all(1, keepdim=True)
    return torch.where(broken, 0.0, u), torch.where(broken, 0.0, v), broken


def _among_others(scores: Tensor, weights: Tensor) -> Tensor:
    lowest = torch.where(weights > 0, scores, torch.inf).amin(1, keepdim=True)
    highest = torch.where(weights > 0, scores, -torch.inf).amax(1, keepdim=True)
    return torch.where(weights > 0, scores, torch.minimum(torch.maximum(scores, lowest), highest))


@dataclass(frozen=True)
class ProductWeights:
    """Weights p(x)·a(i|x)·b(j|x), P for all prompts of all streams, float64.

    Attributes:
        chosen_given: a, [P, K, 1].
        rejected_given: b, [P, K, 1].
        mass: p, [P, 1, 1].
        dtype: that of training.
    """

    chosen_given: Tensor
    rejected_given: Tensor
    mass: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, problems: Sequence[Problem], dtype: torch.dtype) -> "ProductWeights":
        """Collect the weights of the population of each problem."""
        chosen = torch.cat([to_tensor(problem.chosen.probs).reshape(problem.num_prompts, -1) for problem in problems])
        rejected = torch.cat([to_tensor(p.rejected.probs).reshape(p.num_prompts, -1) for p in problems])
        mass = torch.cat([to_tensor(problem.prompt_weights) for problem in problems])
        return cls(chosen.unsqueeze(2), rejected.unsqueeze(2), mass[:, None, None], dtype)

    def chosen(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a chosen response, [L, K, 1]."""
        return (self.mass * self.chosen_given).index_select(0, streams.index).to(self.dtype)

    def rejected(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a rejected response, [L, K, 1]."""
        return (self.mass * self.rejected_given).index_select(0, streams.index).to(self.dtype)

    def sums(self, loss: BoundObjective, streams: Streams) -> LinkSums:
        """Return the sums of a loss for the rows of some streams."""
        parts = (self.chosen_given, self.rejected_given, self.mass)
        return LinkSums(loss, *(part.index_select(0, streams.index) for part in parts))

    def slope_sums(
        self, loss: BoundObjective, chosen: Tensor, rejected: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Sum link slopes over all pairs, without a table of them."""
        return self.sums(loss, streams).slopes(chosen, rejected)

    def independent_pairs(self, snapshot: Snapshot, streams: Streams) -> IndependentPairs:
        """Lay out all responses of each row with their weights, [L, K, 1]."""
        parts = (self.chosen_given, self.rejected_given, self.mass)
        return IndependentPairs(
            snapshot.every_response().map(lambda part: part.unsqueeze(2)),
            *(part.index_select(0, streams.index).to(self.dtype) for part in parts),
            rows_per_run=snapshot.policies.num_prompts,
        )

    def pairs(self, snapshot: Snapshot, streams: Streams) -> Pairs:
        """Refuse to lay out all pairs.

        Raises:
            ValueError: always.
        """
        hint = 'A loss that separates needs no table; take path="table" for one that does not.'
        raise ValueError(message("the weights of pairs", "a table or a list", "a product over both responses", hint))
