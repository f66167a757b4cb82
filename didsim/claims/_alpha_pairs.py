"""What the α-DPO and RMiPO groups share: single pairs with lengths, and worlds that the solver can see through."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim.claims._common import problem_of
from didsim.claims._fields import Count, Field, Instance, Reals
from didsim.objectives import BoundObjective, Pairs
from didsim.preference import Problem


@dataclass(frozen=True)
class Lengths:
    """Whole numbers from 1 to `high`: the numbers of tokens of responses."""

    high: int
    sizes: tuple[str, ...] = ("num_pairs",)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Any:
        """Return each with equal chances."""
        return rng.integers(1, self.high, size=shape, endpoint=True).tolist()

    def numbers(self, value: Any) -> FloatArray:
        """Return none: lengths are not continuous."""
        return np.empty(0)

    def value(self, numbers: FloatArray, shape: tuple[int, ...]) -> Any:
        """Refuse: there are no numbers."""
        raise TypeError("lengths have no numbers")

    def simpler(self, value: Any) -> Iterator[Any]:
        """Yield responses of one token."""
        yield np.ones(np.shape(value), dtype=int).tolist()


SURPRISAL = Reals(low=0.0, sizes=("num_pairs",))
"""−log of the probability of each response, in nats."""

PAIRS: dict[str, Field] = {
    "num_pairs": Count(1, 3),
    "chosen": SURPRISAL,
    "rejected": SURPRISAL,
    "ref_chosen": SURPRISAL,
    "ref_rejected": SURPRISAL,
    "length_chosen": Lengths(3),
    "length_rejected": Lengths(3),
}
"""Pairs by the surprisal of each response under π and under π_ref, and its length."""

ONE_PAIR = {
    "num_pairs": 1,
    "chosen": [1.0],
    "rejected": [2.0],
    "ref_chosen": [2.0],
    "ref_rejected": [2.0],
    "length_chosen": [1],
    "length_rejected": [1],
}
"""One pair of tokens; the policy prefers the chosen one by a nat, the reference neither."""

RELATIVE = 1e-10
"""Of the largest term: some ten thousand units in the last place, since terms cancel in a margin."""

RELATIVE_REASON = "an identity: what is left is rounding, relative to the largest term of a margin"


def log_probs_of(instance: Instance) -> Tensor:
    """Return log π of the chosen and of the rejected responses, [2, B], at which a gradient may be taken."""
    return -torch.tensor([instance["chosen"], instance["rejected"]], dtype=torch.float64).requires_grad_()


def pairs_of(instance: Instance, log_pi: Tensor) -> Pairs:
    """Return the pairs of an instance at other log-probabilities of the policy, [2, B]; lengths are 1 if not given."""
    given = {
        name: torch.tensor(instance[key], dtype=torch.float64)
        for name, key in (
            ("log_ref_chosen", "ref_chosen"),
            ("log_ref_rejected", "ref_rejected"),
            ("length_chosen", "length_chosen"),
            ("length_rejected", "length_rejected"),
        )
        if key in instance
    }
    given |= {name: -value for name, value in given.items() if name.startswith("log_ref")}
    ones = torch.ones_like(log_pi[0].detach())
    lengths = {"length_chosen": ones, "length_rejected": ones}
    return Pairs.from_log_probs(log_pi_chosen=log_pi[0], log_pi_rejected=log_pi[1], **(lengths | given))


def evaluate(loss: BoundObjective, instance: Instance) -> tuple[Tensor, Tensor]:
    """Return the losses of all pairs, [B], and the gradient of their sum by log π, [2, B]."""
    log_pi = log_probs_of(instance)
    values = loss(pairs_of(instance, log_pi))
    (gradient,) = torch.autograd.grad(values.sum(), log_pi)
    return values.detach(), gradient


def size_of(instance: Instance) -> float:
    """Return 1 + β times 1 + the largest surprisal: the size of the terms of a margin."""
    surprisals = [
        abs(x) for name in ("chosen", "rejected", "ref_chosen", "ref_rejected") for x in instance.get(name, [])
    ]
    return (1.0 + instance.get("beta", 1.0)) * (1.0 + max(surprisals))


def disagreement(first: BoundObjective, second: BoundObjective, instance: Instance) -> float:
    """Return how far two losses are from each other in value and gradient, in units of the terms of a margin."""
    pieces = zip(evaluate(first, instance), evaluate(second, instance), strict=True)
    return max(float((one - other).abs().max()) for one, other in pieces) / size_of(instance)


def largest(values: Tensor) -> float:
    """Return the largest number of a tensor, or 0 if none is positive; NaN if one is NaN."""
    return float(torch.relu(values).max())


def world_of(instance: Instance) -> Problem:
    """Return the problem, whose exponent is 1 whatever the β of the loss."""
    return problem_of({name: value for name, value in instance.items() if name != "beta"})


MODERATE = "no probability of the world is below 0.01 and no γ above 5, so that the solver sees all responses"


def moderate(instance: Instance) -> bool:
    """Return whether a world is far enough from the boundary of the simplex for the solver's certificate."""
    lowest = min(np.min(instance[name]) for name in ("reference", "target"))
    return bool(lowest >= 0.01) and max(instance.get(name, 0.0) for name in ("gamma", "gamma_max")) <= 5.0
