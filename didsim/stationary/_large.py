"""The field of spaces so large that their pairs have no table: one run, in the logits of its responses.

As in `ResponseField` a response is a class whatever the space. Here the pairs of a prompt are drawn independently, and
the loss is a link of a score of one response minus one of the other, with terms of single responses beside: then the
field, and its derivative along a direction, are sums of functions of one variable over both responses apart. Scores
may depend on statistics of all pairs, and on other prompts: all prompts of the run are one row of unknowns.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from didsim.engine import Group, LinkSums, ProductWeights, nested_backward, reason_against_sums, separable_losses
from didsim.objectives import BoundObjective, IndependentPairs, Responses, score_difference
from didsim.stationary._field import is_shift_free
from didsim.stationary._krylov import KrylovEquations

SERVED = frozenset({"reference", "length", "mean_kl", "marginal", "given_prior", "batch"})
"""What a loss may need: nothing of single decisions, and nothing that is learned beside the policy."""


def reason_against_large(group: Group) -> str | None:
    """Return why a group cannot be solved without a table of pairs, or None if it can."""
    loss = group.loss
    if group.policies.features is not None:
        return "policies that are restricted to features have no logits of responses"
    if unserved := loss.needs - SERVED:
        return f"it needs {', '.join(sorted(unserved))}"
    if loss.link_corner is not None or getattr(loss.objective.score, "corner", None) is not None:
        return "it has kinks"
    return reason_against_sums(loss)


@dataclass
class HeldSums:
    """The sums of a link at one point, made when they are first asked for; `sums` makes those at any point.

    Scores are put in order once, which spares the sums most of their sorting.

    Attributes:
        sums: whose point it is.
        is_local: leave out of tangents what other responses do: the diagonal of the derivative.
    """

    sums: LinkSums
    is_local: bool = False
    _point: "_Point | None" = field(default=None)

    def slopes(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return c and d at the point, whose scores u and v are."""
        point = self._at(u, v)
        return point.unsorted(*point.slopes)

    def tangents(self, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Return how c and d move when u and v do."""
        point = self._at(u, v)
        du, dv = point.sorted(du, dv)
        along_u, along_v = point.curvatures
        if self.is_local:
            return point.unsorted(du * along_u, -dv * along_v)
        across_v, across_u = point.sums.crossed(point.u, point.v, du, dv)
        return point.unsorted(du * along_u - across_v, across_u - dv * along_v)

    @property
    def local(self) -> "HeldSums":
        """The same sums without what other responses do."""
        return replace(self, is_local=True)

    def _at(self, u: Tensor, v: Tensor) -> "_Point":
        if self._point is None:
            self._point = _Point.of(self.sums, u, v)
        return self._point


@dataclass(frozen=True)
class _Point:
    """Scores u and v in ascending order, [X, K, 1], the order of each side, and the sums for them."""

    sums: LinkSums
    u: Tensor
    v: Tensor
    orders: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, sums: LinkSums, u: Tensor, v: Tensor) -> "_Point":
        """Put scores in order."""
        by_chosen = u.argsort(1)
        ordered = v.gather(1, by_chosen)  # most losses see the same score on both sides, but for a constant
        by_rejected = by_chosen if bool((ordered[:, 1:] >= ordered[:, :-1]).all()) else v.argsort(1)
        orders = by_chosen, by_rejected
        sides = sums.chosen.gather(1, orders[0]), sums.rejected.gather(1, orders[1])
        ordered = LinkSums(sums.loss, *sides, sums.mass)
        return cls(ordered, u.gather(1, orders[0]), v.gather(1, orders[1]), orders)

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Return c and d."""
        return self.sums.slopes(self.u, self.v)

    @cached_property
    def curvatures(self) -> tuple[Tensor, Tensor]:
        """Return the sums of curvatures on both sides."""
        return self.sums.curvatures(self.u, self.v)

    def sorted(self, *sides: Tensor) -> list[Tensor]:
        """Put numbers of responses in the order of the scores on either side."""
        return [side.gather(1, order) for side, order in zip(sides, self.orders, strict=True)]

    def unsorted(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        """Put them back."""
        by_chosen, by_rejected = self.orders
        return torch.empty_like(chosen).scatter_(1, by_chosen, chosen), torch.empty_like(rejected).scatter_(
            1, by_rejected, rejected
        )


@dataclass(frozen=True)
class LargeField:
    """The field of one run with X prompts, whose unknowns [1, X·K] are the logits of responses to each of them.

    Logits are normalised by the way that changes no margin: log π = θ + ω c, Σ π = 1, where all scores move alike along
    ω. Then a convex link makes a convex loss; ω = 1 is the softmax. Whatever ω > 0, g = G − π (ω·G)/(ω·π) is 0 where
    G − π Σ G is. Where the loss is a link of score differences alone, a common shift of all scores changes nothing, and
    so G itself is 0 there (the lemma of `didsim.optima`): then g = G, without the rounding of a sum that is 0.

    Attributes:
        loss: the objective, its numbers stacked to [X, 1, 1].
        pairs: π_ref, with what else of responses does not change, and the weights of the pairs, [X, K, 1].
        allowed: False for responses that the reference excludes, and for those that stay as they are, [1, X·K].
        pace: ω, [1, X·K].
    """

    loss: BoundObjective
    pairs: IndependentPairs
    allowed: Tensor
    pace: Tensor

    is_gradient = False
    """Of some losses it is, but no use is made of that."""

    is_ramped = False
    """Losses with kinks are refused."""

    @classmethod
    def of(cls, group: Group, weights: ProductWeights, excluded: Tensor) -> "LargeField":
        """Take the only run of a group.

        Args:
            group: the run.
            weights: those of its pairs.
            excluded: True for responses of probability 0, [X, K].
        """
        zeros = group.policies.next_log_ref.new_zeros(1, group.policies.num_parameters)
        pairs = weights.independent_pairs(group.snapshot(zeros), group.streams)
        allowed = ~excluded.reshape(1, -1)
        field = cls(group.loss, pairs, allowed, _pace(group.loss, pairs).reshape(allowed.shape))
        # normalised as every policy, so that at π_ref log-ratios are 0 to the last digit, and their variance with them
        log_ref = field.log_pi(pairs.responses.reference.reshape(allowed.shape)).reshape(pairs.chosen.shape)
        return replace(field, pairs=replace(pairs, responses=replace(pairs.responses, log_ref=log_ref)))

    def take(self, rows: Tensor) -> "LargeField":
        """Return the only row."""
        return self

    def freeze(self, unknowns: Tensor, dead: Tensor) -> "LargeField":
        """Return the same field, in which dead responses stay as they are."""
        return replace(self, allowed=self.allowed & ~dead)

    @property
    def scale(self) -> Tensor:
        """The mass a + b of pairs in which each response stands, [1, X·K]."""
        return (self.pairs.mass * (self.pairs.chosen + self.pairs.rejected)).reshape(1, -1)

    @property
    def shifts(self) -> Tensor:
        """The directions in which logits change no policy: one for each prompt, [1, X·K, X]."""
        prompts = torch.arange(self._shape[0]).repeat_interleave(self._shape[1])
        directions = torch.nn.functional.one_hot(prompts, self._shape[0])
        return (directions * self.allowed[0, :, None] * self.pace[0, :, None]).unsqueeze(0)

    def log_pi(self, unknowns: Tensor) -> Tensor:
        """Return log π of each response, [L, X·K]; to be differentiated where ω = 1 only."""
        logits, pace = (part.unflatten(1, self._shape) for part in (unknowns, self.pace))
        if not is_shift_free(self.loss):
            return torch.log_softmax(logits, dim=2).flatten(1)
        shift, total = torch.zeros_like(logits[..., :1]), torch.ones_like(logits[..., :1])
        for _ in range(MOST_SHIFTS):
            total, shift = _shifted(logits, pace, shift)
            if not bool((total.abs() > NORMALISED).any()):
                break
        return (logits + pace * shift).flatten(1)

    def choices(self, unknowns: Tensor) -> Tensor:
        """Return how far log π of each response is below that of π_ref, [L, X·K]: many are rare, and not dying."""
        return (self.log_pi(unknowns) - self.pairs.responses.reference.reshape(self.allowed.shape)).clamp(max=0.0)

    def change(self, unknowns: Tensor, step: Tensor) -> Tensor:
        """Return how a small step changes log π of each response, [1, X·K]."""
        return self._change(self.log_pi(unknowns), step)

    def gradient(self, unknowns: Tensor) -> Tensor:
        """Return g, [L, X·K], also at several places at once."""
        return torch.cat([self._field(row, HeldSums(self._sums)) for row in unknowns.split(1)])

    def noise(self, unknowns: Tensor) -> Tensor:
        """Return 0: the terms that are added up are not known apart, [L, D]."""
        return torch.zeros_like(unknowns)

    def equations(self, unknowns: Tensor) -> KrylovEquations:
        """Return Newton's equations, whose matrix is only applied."""
        held, log_pi = HeldSums(self._sums), self.log_pi(unknowns)

        def along(step: Tensor) -> Tensor:
            if is_shift_free(self.loss):
                moved = self._change(log_pi, step)
                return torch.func.jvp(lambda y: self._by_log_pi(y, held), (log_pi,), (moved,))[1]
            return torch.func.jvp(lambda x: self._field(x, held), (unknowns,), (step,))[1]

        return KrylovEquations.of(self, self._field(unknowns, held), along, self._diagonal(log_pi, held.local))

    def _field(self, unknowns: Tensor, sums: HeldSums) -> Tensor:
        """Return g of logits: the gradient in training's eyes, which moves forwards with all that moves it."""
        if is_shift_free(self.loss):
            return self._by_log_pi(self.log_pi(unknowns), sums)
        return nested_backward(lambda x: separable_losses(self.loss, self._seen(self.log_pi(x)), sums), unknowns)

    def _by_log_pi(self, log_pi: Tensor, sums: HeldSums) -> Tensor:
        """Return G, the gradient by log π."""
        return nested_backward(lambda y: separable_losses(self.loss, self._seen(y), sums), log_pi)

    def _change(self, log_pi: Tensor, step: Tensor) -> Tensor:
        """Return how a small step of the logits changes log π."""
        pi, pace, moved = (part.unflatten(1, self._shape) for part in (log_pi.exp(), self.pace, step))
        share = (pi * moved).sum(2, keepdim=True) / (pi * pace).sum(2, keepdim=True)
        return (moved - pace * share).flatten(1)

    def _diagonal(self, log_pi: Tensor, sums: HeldSums) -> Tensor:
        """Return the diagonal of dg/dθ without smooth parts, [1, X·K]: what each log π does to its own derivative."""
        seen = self._seen(log_pi).responses  # of which what all responses make together is held

        def by_log_pi(x: Tensor) -> Tensor:
            def losses(y: Tensor) -> Tensor:
                responses = replace(seen, log_pi=y.reshape(*self._shape, 1))
                return separable_losses(self.loss, replace(self.pairs, responses=responses), sums)

            return nested_backward(losses, x)

        first, second = torch.func.jvp(by_log_pi, (log_pi,), (torch.ones_like(log_pi),))[:2]
        if is_shift_free(self.loss):
            return second
        pi, pace = log_pi.exp().reshape(self._shape), self.pace.reshape(self._shape)
        total = (pace * first.reshape(self._shape)).sum(1, keepdim=True) / (pace * pi).sum(1, keepdim=True)
        return second - (total * pi).reshape(second.shape)

    def _seen(self, log_pi: Tensor) -> IndependentPairs:
        """Return what the loss sees of log π, [1, X·K]."""
        table, fixed = log_pi.reshape(*self._shape, 1), self.pairs.responses
        mass = self.pairs.mass
        mean_kl = marginal = None
        if "mean_kl" in self.loss.needs:
            divergence = (table.exp() * (table - fixed.reference)).sum(1, keepdim=True)
            mean_kl = (mass * divergence).sum(0, keepdim=True).expand_as(mass)
        if "marginal" in self.loss.needs:
            marginal = torch.logsumexp(table + mass.log(), dim=0, keepdim=True).expand_as(table)
        responses = Responses(table, fixed.log_ref, fixed.length, None, marginal, fixed.log_zeta, mean_kl)
        return replace(self.pairs, responses=responses)

    @property
    def _sums(self) -> LinkSums:
        return LinkSums(self.loss, self.pairs.chosen, self.pairs.rejected, self.pairs.mass)

    @property
    def _shape(self) -> tuple[int, int]:
        """Prompts and responses, [X, K]."""
        chosen = self.pairs.chosen
        return chosen.shape[0], chosen.shape[1]


def _shifted(logits: Tensor, pace: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Σ e^{θ + ω c}, and c after a step of Newton's method towards its zero, [L, X, 1] each.

    The sum is convex and rises in c, so that from the second step on c falls to the solution.
    """
    moved = logits + pace * shift
    total = torch.logsumexp(moved, dim=2, keepdim=True)
    return total, shift - total / ((moved - total).exp() * pace).sum(2, keepdim=True)


def _pace(loss: BoundObjective, pairs: IndependentPairs) -> Tensor:
    """Return ω [X, K, 1]: how far log π of each response moves while its score moves by the same as all others do."""
    log_ref = pairs.responses.log_pi
    if not is_shift_free(loss):
        return torch.ones_like(log_ref)

    def scores(x: Tensor) -> Tensor:
        seen = replace(pairs, responses=replace(pairs.responses, log_pi=x))
        return score_difference(loss, seen).chosen.expand_as(x)

    slope = torch.func.jvp(scores, (log_ref,), (torch.ones_like(log_ref),))[1]
    pace = slope.mean() / slope
    return torch.where((pace > 0) & pace.isfinite(), pace, 1.0).clamp(1.0 / MOST_PACE, MOST_PACE)


MOST_PACE = 100.0
"""Paces further from 1 are cut: they would be those of scores that saturate."""

MOST_SHIFTS, NORMALISED = 60, 1e-12
"""Steps to a normalised policy, and what may be left of log Σ π before the last."""
