"""Learned priors ζ, and their trust region: KL(ζ ‖ π_ref) ≤ ε, kept by projection after every step."""

import numpy as np

from didsim._arrays import FloatArray
from didsim.engine._plan import Plan
from didsim.info import kl, marginal
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.torch_bridge import Tensor, finite_log, to_array, to_tensor

BISECTIONS = 60
"""Halvings of [0, 1] that reach the rounding of float64."""


def confine_priors_(plan: Plan, parameters: Tensor, radius: float) -> None:
    """Project, in place, every learned prior that has left the trust region."""
    space, start = plan.policies.space, plan.policies.num_parameters
    decisions = space.num_contexts * space.num_actions
    for group in plan.groups:
        if "prior" not in group.loss.needs:
            continue
        for run in range(group.runs.start, group.runs.stop):
            logits = to_array(parameters[run, start : start + decisions])
            if not np.all(np.isfinite(logits)):
                continue  # the run has diverged, and will be reported
            problem = plan.problems[run]
            prior = learned_prior(problem, logits)
            projected = project(prior, prompt_marginal(problem), radius)
            if projected is not prior:
                new = finite_log(space.next_log_probs(projected.log_probs)).ravel()
                parameters[run, start : start + decisions] = to_tensor(new, parameters.dtype)


def prompt_marginal(problem: Problem) -> Policy:
    """Return the marginal Σ_x p(x) π_ref(y|x) of the reference, [K]."""
    return marginal(Policy(np.atleast_2d(problem.reference.log_probs)), problem.prompt_weights)


def learned_prior(problem: Problem, logits: FloatArray) -> Policy:
    """Return ζ of logits [N·A]; what the reference excludes for every prompt has probability 0."""
    excluded = np.isneginf(problem.space.next_log_probs(prompt_marginal(problem).log_probs))
    return problem.space.policy(np.where(excluded, -np.inf, logits.reshape(excluded.shape)))


def project(prior: Policy, reference: Policy, radius: float) -> Policy:
    """Return the ζ′ nearest to ζ, in KL(ζ′ ‖ ζ), among those with KL(ζ′ ‖ π_ref) ≤ ε.

    Setting the derivative of KL(ζ′‖ζ) + μ KL(ζ′‖π_ref) to 0 gives ζ′ ∝ ζ^{1−s} π_ref^s with s = μ/(1 + μ), along which
    the divergence from π_ref falls to 0 at s = 1: s is found by bisection.

    Args:
        prior: ζ, [K].
        reference: π_ref, [K]; with prompts, its marginal.
        radius: ε ≥ 0, in nats.
    """
    if kl(prior, reference) <= radius:
        return prior
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        outside = kl(_between(prior, reference, middle), reference) > radius
        low, high = (middle, high) if outside else (low, middle)
    return _between(prior, reference, high)


def _between(prior: Policy, reference: Policy, share: float) -> Policy:
    scores: FloatArray = (1.0 - share) * finite_log(prior.log_probs) + share * finite_log(reference.log_probs)
    return Policy.from_logits(np.where(np.isneginf(reference.log_probs), -np.inf, scores))
