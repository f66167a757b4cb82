"""What the solver tells of a run."""

from dataclasses import dataclass, field

from didsim._arrays import BoolArray, IntArray
from didsim.objectives import BoundObjective
from didsim.policy import Policy
from didsim.preference import Problem

STATUSES = ("converged", "boundary", "no-stationary-point")


@dataclass(frozen=True)
class Solution:
    """Where the expected loss of an objective leads, with a certificate.

    Attributes:
        problem: the problem.
        loss: the objective.
        status: "converged": an isolated stationary policy inside the simplex, with a residual of at most 1e-9 and a
            Newton step of at most 1e-8 in log π. "boundary": the policy tends to one that excludes responses, the
            limit. "no-stationary-point": none was found, or they are not isolated; `sentence` says which.
        policy: the stationary policy, or the limit, [K], or [X, K] with prompts; where stationary policies are not
            isolated, one of them; None where nothing was reached.
        residual: max_i |g_i|/(a_i + b_i), where g is the field in the logits of responses (or the parameters of the
            policy), a and b the weights of responses as chosen and as rejected ones; of survivors at the boundary.
        newton_step: the largest change of log π by a Newton step, in nats; infinite where it does not exist.
        iterations: how many steps the solver took from the first start.
        eigenvalue: the smallest eigenvalue of the Hessian of the expected loss in logits, off the shifts that change no
            policy; for a field that is no gradient the smallest real part of those of its Jacobian; None at kinks, in
            large spaces, and where there is no solution.
        survivors: True for responses that keep probability, of the policy's shape; all of them inside the simplex.
        others: the other isolated solutions that were found from other starts.
        starts: how many starts were tried.
        basin: the share of the starts that led to `policy`.
        continuum: the number of dimensions of the set of stationary policies around this one; 0 if it is isolated.
        corners: the pairs (prompt, chosen, rejected) that stand at a kink or jump of the loss, int64 [N, 3]; for a
            kink of a single response the rejected one is −1.
        sentence: all of this in words.
        prior: the prior ζ that is learned beside the policy, or None.
    """

    problem: Problem
    loss: BoundObjective
    status: str
    policy: Policy | None
    residual: float
    newton_step: float
    iterations: int
    eigenvalue: float | None
    survivors: BoolArray
    others: "tuple[Policy, ...]"
    starts: int
    basin: float
    continuum: int
    corners: IntArray
    sentence: str
    prior: Policy | None = field(default=None)

    @property
    def unique(self) -> bool:
        """Whether all starts led to the same isolated policy: evidence for uniqueness, not a proof."""
        return self.continuum == 0 and self.policy is not None and self.basin == 1.0


def named(responses: list[int], most: int = 8) -> str:
    """Return a set of numbers in braces, the first few of it."""
    shown = ", ".join(map(str, responses[:most]))
    return f"{{{shown}, … {len(responses)} in all}}" if len(responses) > most else f"{{{shown}}}"
