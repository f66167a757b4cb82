"""A function whose gradient is that of the expected loss, for losses that see both responses of a pair apart.

The margin of a link f is u_i − v_j. With c and d the sums of its slopes over all pairs, held fixed, the expected loss
moves with u and v as Σ_i c_i u_i − Σ_j d_j v_j does; anchors are added as they are.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from didsim.objectives import BoundObjective, IndependentPairs, score_difference


class SlopeSums(Protocol):
    """Sums of a link's slopes over all pairs, and how they move; every tensor is [L, K, 1]."""

    def slopes(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return c and d."""
        ...

    def tangents(self, u: Tensor, v: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Return how they move when u and v do."""
        ...


class _HeldSlopes(torch.autograd.Function):
    """The sums c and d of scores, constant in a backward pass and their own forward-mode derivative."""

    @staticmethod
    def forward(u: Tensor, v: Tensor, sums: SlopeSums) -> tuple[Tensor, Tensor]:
        return sums.slopes(u, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        u, v, ctx.sums = inputs
        ctx.save_for_forward(u, v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        u, v = ctx.saved_tensors
        du, dv = (torch.zeros_like(u) if part is None else part for part in tangents[:2])
        return ctx.sums.tangents(u, v, du, dv)


def separable_losses(loss: BoundObjective, pairs: IndependentPairs, sums: SlopeSums) -> Tensor:
    """Return a number whose gradient is that of the expected loss, summed over all runs.

    Backward it sees what training sees; forward-mode differentiation of its gradient sees all that moves the field.

    Args:
        loss: one that `reason_against_sums` has nothing against.
        pairs: all responses of each row, as far as the loss may look at them.
        sums: the sums of slopes for the same rows.
    """
    record, y = loss.objective, pairs.responses
    total = y.log_pi.new_zeros(())
    if record.margin_link is not None:
        scores = score_difference(loss, pairs)
        u, v = scores.chosen.expand_as(y.log_pi), scores.rejected.expand_as(y.log_pi)
        held: Any = _HeldSlopes.apply(u, v, sums)
        by_chosen, by_rejected = held
        total = total + (by_chosen * u).sum() - (by_rejected * v).sum()
    for anchor, part, given in (
        (record.chosen_anchor, loss.chosen_anchor, pairs.chosen),
        (record.rejected_anchor, loss.rejected_anchor, pairs.rejected),
    ):
        if anchor is not None:
            weights = pairs.mass * given
            total = total + torch.where(weights > 0, weights * part(y), 0.0).sum()
    return total
