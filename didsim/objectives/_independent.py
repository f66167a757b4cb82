"""Pairs whose responses are drawn independently: what is said of all K² of them, from both sides apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from didsim.objectives._objective import BoundObjective
from didsim.objectives._pairs import Responses


@dataclass(frozen=True)
class Difference:
    """The numbers x_i − y_j of all pairs: x of chosen responses and y of rejected ones, kept apart, [L, K, 1] each."""

    chosen: Tensor
    rejected: Tensor

    def __sub__(self, other: "Difference") -> "Difference":
        return Difference(self.chosen - other.chosen, self.rejected - other.rejected)

    def __rmul__(self, factor: float | Tensor) -> "Difference":
        return Difference(factor * self.chosen, factor * self.rejected)

    def __radd__(self, number: float | Tensor) -> "Difference":
        return Difference(number + self.chosen, self.rejected)


@dataclass(frozen=True)
class IndependentPairs:
    """All pairs of responses to each prompt, of which a chosen and a rejected one are drawn independently.

    It takes the place of `Pairs` where a loss is a `Contrast`, and gives the same numbers without a table.

    Attributes:
        responses: all K responses of each row, each quantity [L, K, 1]; a row is one prompt of one run.
        chosen: the probability of each as a chosen response, [L, K, 1].
        rejected: the probability of each as a rejected response, [L, K, 1].
        mass: the weight p(x) of each row among those of its run, [L, 1, 1].
        rows_per_run: how many consecutive rows are one run.
    """

    responses: Responses
    chosen: Tensor
    rejected: Tensor
    mass: Tensor
    rows_per_run: int

    def difference(self, part: Callable[[Responses], Tensor]) -> Difference:
        """Return part(y_w) − part(y_l)."""
        values = part(self.responses)
        return Difference(values, values)

    def standardise(self, values: Difference) -> Difference:
        """Return (v − mean v)/std v over all pairs of a run; 0 where all are equal."""
        # from the likeliest response on, so that equal numbers are 0 to the last digit
        origin = values.chosen.gather(1, self.chosen.argmax(1, keepdim=True))
        x, y = values.chosen - origin, values.rejected - origin
        mean_x, mean_y = _mean(self.chosen, x), _mean(self.rejected, y)
        mean = self._over_prompts(mean_x - mean_y)
        # of independent responses the variances add up; those of prompts come on top
        spread = _mean(self.chosen, (x - mean_x) ** 2) + _mean(self.rejected, (y - mean_y) ** 2)
        variance = self._over_prompts(spread + (mean_x - mean_y - mean) ** 2)
        scale = torch.where(variance > 0, 1.0 / torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
        return scale * Difference(x - mean, y)

    def _over_prompts(self, values: Tensor) -> Tensor:
        """Average numbers of rows, [L, 1, 1], over the prompts of each run, and repeat the result for its rows."""
        sums = (self.mass * values).reshape(-1, self.rows_per_run).sum(1)
        return sums.repeat_interleave(self.rows_per_run)[:, None, None]


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    """Return the mean of each row, [L, 1, 1]; a response of weight 0 does not count, even if infinite."""
    return torch.where(weights > 0, weights * values, 0.0).sum(1, keepdim=True)


def score_difference(loss: BoundObjective, pairs: IndependentPairs) -> Difference:
    """Return the scores whose difference is the margin that the link sees; `has_scores` says whether there are some.

    Raises:
        ValueError: if the margin of the loss depends on both responses of a pair.
    """
    contrast: Any = loss.objective.contrast
    if contrast is not None:
        return loss.bound(contrast.margin)(pairs)  # type: ignore[return-value]
    return Difference(loss.score(pairs.responses), loss.rejected_score(pairs.responses))
