"""A loss at one policy: all pairs of a problem as it sees them, their losses, and the gradient of their mean."""

import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim.engine._plan import plan_runs
from didsim.engine._settings import Settings
from didsim.objectives import BoundObjective, Pairs
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.torch_bridge import to_array

Evaluation = tuple[FloatArray, FloatArray]
"""The loss of every pair, [X, K, K], and the gradient of its mean by the logits of decisions, [D]."""


def snapshot_pairs(problem: Problem, policy: Policy, loss: BoundObjective) -> tuple[Pairs, Tensor]:
    """Return all pairs of a problem as a loss sees them under a policy, and the logits they are differentiated by.

    >>> from didsim.objectives import objective
    >>> problem = Problem.from_policies([0.5, 0.5], [0.8, 0.2])
    >>> pairs, logits = snapshot_pairs(problem, problem.target, objective("dpo"))
    >>> pairs.chosen.log_ratio[0, :, 0].exp().detach().numpy().round(6)
    array([1.6, 0.4])
    """
    settings = Settings(steps=1, mode="population", path="table", dtype="float64", metrics=(), initial_policy=policy)
    plan = plan_runs([(problem, loss)], settings)
    group, weights = plan.groups[0], plan.exact_weights("float64")
    logits = plan.initial.clone().requires_grad_()
    return weights.pairs(group.snapshot(logits), group.streams), logits


def evaluated(losses: Tensor, pairs: Pairs, logits: Tensor) -> Evaluation:
    """Return losses of all pairs, and the gradient of their mean.

    Args:
        losses: one loss for each pair, [X, K, K], made of what `snapshot_pairs` returned.
        pairs: the pairs, with their weights.
        logits: what the losses are differentiated by.
    """
    mean = pairs.mean(losses).mean()  # the same number for each prompt
    (gradient,) = torch.autograd.grad(mean, logits, retain_graph=True)
    return to_array(losses), to_array(gradient).ravel()
