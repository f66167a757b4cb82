"""From what the starts led to, to a solution and a sentence."""

import numpy as np

from didsim._arrays import BoolArray
from didsim.engine import Job
from didsim.policy import Policy
from didsim.stationary._attempts import Attempt
from didsim.stationary._march import RESIDUAL
from didsim.stationary._solution import Solution, named

SAME = 1e-6
"""Policies whose log-probabilities differ by less than this, in nats, are one."""


def judge(job: Job, attempts: list[Attempt]) -> Solution:
    """Return the solution of a job, of which the first attempt started where the flow is asked for."""
    problem, loss = job
    first = attempts[0]
    allowed = np.atleast_2d(problem.reference.log_probs) > -np.inf
    status = _status(first, allowed)
    same = [attempt for attempt in attempts if _is_same(attempt, first)]
    others: list[Attempt] = []
    for attempt in attempts:
        if attempt.settled and not any(_is_same(attempt, known) for known in [first, *others]):
            others.append(attempt)
    reached = first.settled or first.continuum > 0
    basin = len(same) / len(attempts) if reached else 0.0

    def laid_out(log_probs: np.ndarray) -> Policy:
        return Policy((log_probs if problem.prompts is not None else log_probs[0]).copy())

    survivors = first.survivors if problem.prompts is not None else first.survivors[0]
    return Solution(
        problem=problem,
        loss=loss,
        status=status,
        policy=laid_out(first.log_probs) if reached else None,
        residual=first.residual,
        newton_step=first.newton_step,
        iterations=first.iterations,
        eigenvalue=first.eigenvalue,
        survivors=survivors,
        others=tuple(laid_out(other.log_probs) for other in others),
        starts=len(attempts),
        basin=basin,
        continuum=first.continuum,
        corners=first.corners,
        sentence=_sentence(first, status, allowed, len(attempts), len(others), basin),
        prior=None if first.log_prior is None or not reached else Policy(first.log_prior.copy()),
    )


def _status(attempt: Attempt, allowed: BoolArray) -> str:
    if not attempt.settled:
        return "no-stationary-point"
    return "converged" if np.array_equal(attempt.survivors, allowed) else "boundary"


def _is_same(one: Attempt, other: Attempt) -> bool:
    if one is other:
        return True
    if not (one.settled and other.settled) or not np.array_equal(one.survivors, other.survivors):
        return False
    alive = one.survivors
    return bool(np.abs(one.log_probs[alive] - other.log_probs[alive]).max() <= SAME)


def _sentence(first: Attempt, status: str, allowed: BoolArray, starts: int, others: int, basin: float) -> str:
    if first.continuum:
        dimensions = "1 dimension" if first.continuum == 1 else f"{first.continuum} dimensions"
        return (
            f"Stationary policies are not isolated: around this one they form a set of {dimensions}, and the problem "
            "does not say at which of them training ends."
        )
    if status == "no-stationary-point" and first.residual <= RESIDUAL:
        return (
            "None was found: around here the field is nearly 0, and float64 does not resolve where exactly: a Newton "
            f"step may still lead {first.newton_step:.1e} nats (asked: 1e-8), or rounding moves it by as much."
        )
    if status == "no-stationary-point":
        return (
            f"None was found: after {first.iterations} steps the field is still {first.residual:.1e} of the mass of "
            f"pairs somewhere (asked: 1e-9), and {_where_to(first, allowed)}."
        )
    if status == "boundary":
        text = f"The policy tends to the boundary of the simplex: {_survival(first.survivors, allowed)}"
        place = "limit"
    else:
        text, place = "A stationary policy inside the simplex", "one"
    if first.eigenvalue is not None and first.eigenvalue < 0 and status == "converged":
        text += ", which repels: an eigenvalue of the Jacobian is negative"
    if len(first.corners):
        text += f"; it stands at {len(first.corners)} kinks or jumps of the loss, where a subgradient vanishes"
    if starts == 1:
        return text + "."
    if others:
        return f"{text}. It is not the only {place}: {basin:.0%} of {starts} starts led here, others to {others} more."
    tail = f"all {starts} starts led here" if basin == 1.0 else f"{basin:.0%} of {starts} starts led here"
    return f"{text}; {tail}."


def _where_to(attempt: Attempt, allowed: BoolArray) -> str:
    if not np.array_equal(attempt.survivors, allowed):
        return (
            "it does not vanish at the boundary of the simplex either, where it leads: the loss may have no lower bound"
        )
    lowest = float(attempt.log_probs[attempt.survivors].min())
    if lowest < -50.0:
        return f"a log-probability has fallen to {lowest:.0f}: the flow does not come to rest"
    return "no Newton step leads to a zero"


def _survival(survivors: BoolArray, allowed: BoolArray) -> str:
    """Say which responses keep probability, for each prompt."""
    parts = []
    for prompt, (alive, able) in enumerate(zip(survivors, allowed, strict=True)):
        if np.array_equal(alive, able):
            continue
        where = f" to prompt {prompt}" if len(survivors) > 1 else ""
        parts.append(f"of the responses{where} only {named(np.flatnonzero(alive).tolist())} keep probability")
    shown = "; ".join(parts[:3])
    return shown if len(parts) <= 3 else f"{shown}; and so on for {len(parts)} prompts"
