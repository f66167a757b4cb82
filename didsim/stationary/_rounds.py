"""Outer loops: what rounds of training lead to when each ends at its stationary policy, which is the next reference."""

from dataclasses import replace
from typing import Any

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import POSITIVE, check_integer, check_number, message
from didsim.info import marginal
from didsim.objectives import BoundObjective, objective
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.stationary._march import RESIDUAL, STEP
from didsim.stationary._solution import Solution, named
from didsim.stationary._solve import solve

MOST_ROUNDS = 10_000


def solve_rounds(
    problem: Problem, loss: BoundObjective | None = None, *, rounds: int = 100, **settings: Any
) -> list[Solution]:
    """Solve in rounds, π_ref := π^(t−1), until the policy no longer changes: the exact counterpart of `didsim.dice`.

    With DPO on the same pairs every round adds log(w/l)/β to log π, so that no policy is a fixed point: what responses
    keep probability in the end is what `argmax log(w/l)` names. A reference-free objective is at its fixed point after
    one round.

    Args:
        problem: the pairs, and the first reference.
        loss: what each round minimises, relative to its own reference; `dpo` unless given.
        rounds: at most so many.
        **settings: as in `solve`.

    Returns:
        One solution per round. The last one is the fixed point, "converged"; or if the rounds keep changing log π by
        the same amounts, their limit, "boundary"; or a round that was not solved; or the last of the rounds asked for,
        "no-stationary-point", whose sentence says that it is no fixed point.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    >>> problem = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])
    >>> [solution.status for solution in solve_rounds(problem, objective("log_pi"))]
    ['converged', 'converged']
    >>> solve_rounds(problem, objective("dpo"))[-1].survivors
    array([False, False,  True])
    """
    check_integer("rounds", rounds, 1, MOST_ROUNDS)
    solutions: list[Solution] = []
    current, before = problem, None
    for _ in range(rounds):
        solution = solve(current, loss or objective("dpo"), **settings)
        solutions.append(solution)
        if solution.status != "converged" or solution.policy is None:
            return solutions
        change = _change(current.reference, solution.policy)
        if np.abs(change).max() <= STEP:
            return solutions
        if before is not None and np.abs(change - before).max() <= STEP:
            solutions[-1] = _limit(solution, change)
            return solutions
        before, current = change, replace(current, reference=solution.policy)
    sentence = f"After {rounds} rounds the policy still changes: {solutions[-1].sentence}"
    solutions[-1] = replace(solutions[-1], status="no-stationary-point", sentence=sentence)
    return solutions


def _change(before: Policy, after: Policy) -> FloatArray:
    """Return log π^(t) − log π^(t−1) relative to its largest, 0 where both are zero, of the policies' shape."""
    supported = before.log_probs > -np.inf
    ratio = np.subtract(after.log_probs, before.log_probs, out=np.full(supported.shape, -np.inf), where=supported)
    return np.where(supported, ratio - ratio.max(axis=-1, keepdims=True), 0.0)


def _limit(solution: Solution, change: FloatArray) -> Solution:
    """Return where the rounds lead if all of them add the same to log π: the responses that gain most survive."""
    assert solution.policy is not None  # its caller has looked
    alive = (change >= -STEP) & (solution.policy.log_probs > -np.inf)
    shown = "; ".join(named(np.flatnonzero(row).tolist()) for row in np.atleast_2d(alive)[:3])
    return replace(
        solution,
        status="boundary",
        policy=Policy.from_logits(np.where(alive, solution.policy.log_probs, -np.inf)),
        survivors=alive,
        eigenvalue=None,
        sentence=f"Every round changes log π by the same amounts, so that in the end only {shown} keep probability.",
    )


def solve_alternating(problem: Problem, alpha: float = 1.0, *, rounds: int = 100_000) -> Solution:
    """Alternate between policy and prior: π solves MI-DPO given ζ, then ζ := Σ_x p(x) π(·|x), until neither moves.

    Given ζ the policy is π(·|x) ∝ ζ e^{v_x}, v = log(w/l)/α, so that a round multiplies ζ(y) by the factor
    Σ_x p(x) e^{v_x(y)}/Z_x, Z_x = Σ_y ζ(y) e^{v_x(y)}. It is the iteration of Blahut and Arimoto for the largest
    Σ_x p(x) log Z_x, a concave function of ζ, whose conditions of optimality certify its end: the factor is 1 where ζ
    is positive, and at most 1 elsewhere. There are K of these conditions and only X policies, so that in general no
    more than X responses survive: "boundary".

    Args:
        problem: the pairs, and the reference at whose marginal ζ starts. With one prompt argmax v alone survives.
        alpha: α > 0 of MI-DPO.
        rounds: at most so many.

    Returns:
        The policy with its `prior`, both from π_ref's marginal on; `residual` is the largest violation of the
        conditions, `newton_step` the last change of log ζ of survivors, in nats.

    Raises:
        ValueError, TypeError: if an argument is not acceptable, or a response is chosen or rejected with probability 0.

    Source: MI-DPO paper, Section 5; Arimoto 1972, Blahut 1972.
    """
    scale = check_number("alpha", alpha, POSITIVE)
    check_integer("rounds", rounds, 1, 10**7)
    if (world := problem.independent) is None:
        raise ValueError(message("the preferences", "σ(v_i − v_j) of scores v", "pairs that no scores explain"))
    chosen, rejected = (np.atleast_2d(side.log_probs) for side in (world.chosen, world.rejected))
    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise ValueError(message("chosen and rejected", "positive for every response", "a probability of 0"))
    gain, weights = (chosen - rejected) / scale, problem.prompt_weights
    tilt = np.exp(gain - gain.max(axis=1, keepdims=True))  # a factor for each prompt cancels in the factors
    zeta = marginal(Policy(np.atleast_2d(problem.reference.log_probs)), weights).probs
    used, change, done = 0, np.inf, False
    while used < rounds and not done:
        factor = (weights / (tilt @ zeta)) @ tilt
        alive = zeta > EXTINCT
        change = float(np.abs(np.log(factor[alive])).max())
        done = change <= STEP and bool((factor[~alive] <= 1.0 + RESIDUAL).all())
        zeta, used = zeta * factor, used + 1
    alive = zeta > EXTINCT
    prior = Policy.from_logits(np.log(np.where(alive, zeta, 1.0)) + np.where(alive, 0.0, -np.inf))
    factor = (weights / (tilt @ prior.probs)) @ tilt
    residual = float(max(np.abs(factor[alive] - 1.0).max(), (factor[~alive] - 1.0).max(initial=0.0)))
    policy = Policy.from_logits(prior.log_probs + gain)
    status = "no-stationary-point" if not done else "converged" if alive.all() else "boundary"
    kept = named(np.flatnonzero(alive).tolist())
    sentence = {
        "converged": "A policy and a prior that is its marginal, both inside the simplex.",
        "boundary": f"The prior tends to the boundary of the simplex: only {kept} keep probability.",
        "no-stationary-point": f"After {rounds} rounds log ζ still changes by {change:.1e} a round.",
    }
    single = problem.prompts is None
    return Solution(
        problem=problem,
        loss=objective("mi_dpo", prior="marginal", alpha=scale, stop_gradient=True),
        status=status,
        policy=(Policy(policy.log_probs[0].copy()) if single else policy) if done else None,
        residual=residual,
        newton_step=change,
        iterations=used,
        eigenvalue=None,
        survivors=alive if single else np.tile(alive, (len(weights), 1)),
        others=(),
        starts=1,
        basin=1.0 if done else 0.0,
        continuum=0,
        corners=np.empty((0, 3), dtype=np.int64),
        sentence=sentence[status],
        prior=prior if done else None,
    )


EXTINCT = 1e-26
"""A smaller prior probability counts as 0, if its factor is below 1."""
