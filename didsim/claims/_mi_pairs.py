"""What claims about the special cases of MI-DPO share: all pairs of a problem over sequences, as a loss sees them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from didsim.claims._fields import Choice, Count, Field, Instance, Simplex
from didsim.engine import Evaluation, evaluated, snapshot_pairs
from didsim.objectives import BoundObjective, objective
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.spaces import Sequences

TABLES: tuple[str, ...] = ("num_prompts", "num_classes")
SEQUENCES: Mapping[str, Field] = {
    "num_prompts": Count(1, 2),
    "num_classes": Count(2, 7),
    "policy": Simplex(TABLES),
    "reference": Simplex(TABLES),
    "chosen": Simplex(TABLES),
    "rejected": Simplex(TABLES),
    "alpha": Choice((0.1, 0.5, 1.0, 2.0, 10.0)),
}
"""A policy and a reference over sequences, and the weights with which each is chosen and rejected."""

RELATIVE = "an identity: the rounding of losses relative to the largest, and of gradients relative to their scale α"

COST = 4
"""A check takes four times as long as an ordinary one: it differentiates through whole trees of sequences."""


def space_of(num_classes: int) -> Sequences:
    """Return sequences of unequal lengths: of one token, or for K = 7 at most two of two tokens."""
    return Sequences(2, 2) if num_classes == 7 else Sequences(1, num_classes - 1)


def problem_of(instance: Instance, **changes: Any) -> Problem:
    """Return the problem that an instance describes, with prompts of equal weight."""
    reference, chosen, rejected = (Policy.from_probs(instance[name]) for name in ("reference", "chosen", "rejected"))
    prompts = np.full(instance["num_prompts"], 1.0 / instance["num_prompts"])
    space = space_of(instance["num_classes"])
    problem = Problem(
        reference=reference, target=reference, chosen=chosen, rejected=rejected, prompts=prompts, space=space
    )
    return replace(problem, **changes)


def distance(first: Evaluation, second: Evaluation, scale: float) -> float:
    """Return the larger of the relative differences of values and of gradients."""
    value = np.abs(first[0] - second[0]).max() / (1.0 + np.abs(second[0]).max())
    return float(max(value, np.abs(first[1] - second[1]).max() / (1.0 + scale)))


def compared(instance: Instance, prior: Mapping[str, Any], original: BoundObjective, problem: Problem) -> float:
    """Return how far MI-DPO under a prior is from the loss that it is said to recover, in value or gradient."""
    alpha, frozen = instance["alpha"], instance.get("frozen", False)
    loss = objective("mi_dpo", alpha=alpha, stop_gradient=frozen, **prior)
    pairs, logits = snapshot_pairs(problem, Policy.from_probs(instance["policy"]), loss)
    return distance(evaluated(loss(pairs), pairs, logits), evaluated(original(pairs), pairs, logits), alpha)


def both_ways(instance: Instance, prior: Mapping[str, Any], original: BoundObjective, problem: Problem) -> float:
    """Return the larger of these distances with gradient through ζ and with ζ frozen."""
    return max(compared({**instance, "frozen": frozen}, prior, original, problem) for frozen in (False, True))


def flows(instance: Instance) -> bool:
    """Return whether gradient flows through ζ, as it does unless an instance says that ζ is frozen."""
    return not instance.get("frozen", False)


def one_decision(instance: Instance) -> bool:
    """Return whether all responses consist of one decision."""
    return bool((space_of(instance["num_classes"]).lengths == 1).all())
