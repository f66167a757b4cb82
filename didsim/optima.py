"""Closed forms of the policies at which population losses are smallest."""

from didsim._checks import POSITIVE, check_number, message
from didsim.differential import tilt
from didsim.info import Distribution
from didsim.policy import Policy, as_policy
from didsim.preference import Problem


def dpo_optimum(problem: Problem, beta: float = 1.0, prior: Distribution | None = None) -> Policy:
    """Return the policy at which the population DPO loss of a problem is smallest.

    Derivation: E S(β m) with m_ij = h_i − h_j, h = log π/ζ, is smallest where the model's preference
    σ(β m_ij) equals p*(i ≻ j) = σ(log(w/l)_i − log(w/l)_j) for every pair, which β h = log(w/l) + c
    achieves. Hence π ∝ ζ (w/l)^{1/β}, with w and l the distributions of chosen and rejected responses.

    Args:
        problem: where the pairs come from.
        beta: the β > 0 of the loss.
        prior: ζ; π_ref (DPO) by default. The uniform one gives the optimum of r = β log π.

    Returns:
        A policy [K]. In the DID construction with the same β it is the target π*.

    Raises:
        ValueError: if β ≤ 0, or if a chosen class is never rejected (the optimum lies at infinity).

    Source: footnote 4 (π ∝ π_ref p*^{1/β}) with Appendix F.2.

    >>> problem = Problem.from_policies([0.5, 0.5], [0.8, 0.2], beta=0.5)
    >>> dpo_optimum(problem, beta=0.5).probs
    array([0.8, 0.2])
    """
    zeta = problem.reference if prior is None else as_policy(prior)
    if zeta.num_classes != problem.num_classes:
        raise ValueError(message("the number of classes of prior", str(problem.num_classes), zeta.num_classes))
    return tilt(zeta, problem.chosen, problem.rejected, 1.0 / check_number("beta", beta, POSITIVE))
