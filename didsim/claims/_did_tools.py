"""What the claims of the DID paper share: the population loss by the sum over all pairs, and what float64 resolves."""

import numpy as np
import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim.claims._common import problem_of
from didsim.claims._fields import Instance
from didsim.objectives import BoundObjective, Pairs
from didsim.policy import Policy
from didsim.preference import Problem

RESOLVED = 12.0
"""A spread of log-probabilities, in nats, up to which float64 tells the curvature of a loss from rounding."""

LARGEST_SCALE = 100.0
"""A scale of log-ratios up to which their rounding leaves a gradient below the solver's tolerance."""

RESOLVABLE = "spreads of log-probabilities and log-odds are at most 12 nats and β at most 100, as float64 needs"


def spread(values: FloatArray) -> float:
    """Return the largest difference of two numbers along the last axis, over all other axes."""
    return float(np.ptp(np.asarray(values), axis=-1).max())


def is_moderate(instance: Instance, *policies: Policy) -> bool:
    """Return whether policies, odds of preferences, and scales are not too extreme for float64."""
    if max(instance.get("beta", 1.0), instance.get("alpha", 1.0)) > LARGEST_SCALE:
        return False
    problem = problem_of({**instance, "target": instance.get("target", instance["reference"])})
    odds = problem.chosen.log_probs - problem.rejected.log_probs
    own = (problem.reference, problem.target, problem.chosen, problem.rejected)
    return max(spread(values) for values in (odds, *(policy.log_probs for policy in (*own, *policies)))) <= RESOLVED


def expected_loss(problem: Problem, loss: BoundObjective, log_pi: Tensor, shift: FloatArray | float = 0.0) -> Tensor:
    """Return the population loss of a policy [..., K], by the sum over all pairs; log π_ref is shifted per prompt."""
    size = problem.num_classes
    logs, weights = log_pi.reshape(-1, size), torch.tensor(problem.prompt_weights)[:, None, None]
    reference = torch.tensor(np.atleast_2d(problem.reference.log_probs) + np.reshape(shift, (-1, 1)))
    chosen, rejected = (torch.tensor(np.atleast_2d(p.probs)) for p in (problem.chosen, problem.rejected))
    first, second = (index.ravel() for index in np.indices((size, size)))
    pairs = Pairs.from_log_probs(
        log_pi_chosen=logs[:, first].flatten(),
        log_pi_rejected=logs[:, second].flatten(),
        log_ref_chosen=reference[:, first].flatten(),
        log_ref_rejected=reference[:, second].flatten(),
    )
    return (weights * chosen[:, :, None] * rejected[:, None, :]).flatten() @ loss(pairs)


def slope_at(problem: Problem, loss: BoundObjective, policy: Policy, shift: FloatArray | float = 0.0) -> float:
    """Return the largest |d loss/d logit| at a policy, per weight of the response in pairs."""
    logits = torch.tensor(policy.log_probs, requires_grad=True)
    (slope,) = torch.autograd.grad(expected_loss(problem, loss, torch.log_softmax(logits, -1), shift), logits)
    weights = np.atleast_2d(problem.chosen.probs + problem.rejected.probs) * problem.prompt_weights[:, None]
    return float(np.abs(slope.numpy() / weights).max())


def distance(policy: Policy | None, aim: Policy) -> float:
    """Return the largest difference of log-probabilities, in nats; infinite without a policy."""
    return float("inf") if policy is None else float(np.abs(policy.log_probs - aim.log_probs).max())
