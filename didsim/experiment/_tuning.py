"""The comparison that Figures 1 and 7 make: every objective on its grid, then the best of each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from didsim.engine import train_many
from didsim.experiment._estimates import mean_bands
from didsim.info import js
from didsim.objectives import OBJECTIVES, BoundObjective
from didsim.preference import Problem
from didsim.stationary import Solution, solve_many

RULES = ("minimum", "final")
"""How the best hyperparameters are chosen: by the smallest JS(π*‖π) over training (the paper), or the last."""


def grid(name: str) -> list[BoundObjective]:
    """Return an objective at every point of its search grid."""
    return [OBJECTIVES[name].bind(**point) for point in OBJECTIVES[name].grid()]


def spread_over(points: Sequence[BoundObjective], most: int) -> list[BoundObjective]:
    """Return at most so many points of a grid, at equal distances."""
    return [points[number] for number in sorted({round(x) for x in np.linspace(0, len(points) - 1, most)})]


def train_grid(
    objectives: Sequence[str],
    taus: Sequence[float],
    seed: int,
    num_classes: int,
    steps: int,
    record_every: int,
) -> pd.DataFrame:
    """Train every objective at every point of its grid, for every τ, as one batch.

    Returns:
        Long form: seed, tau, objective, hyperparameters, step, js_target (nats).
    """
    losses = [loss for name in objectives for loss in grid(name)]
    problems = {tau: Problem.from_temperature(num_classes, tau, seed) for tau in taus}
    runs = [(tau, loss) for tau in taus for loss in losses]
    histories = train_many(
        [(problems[tau], loss) for tau, loss in runs],
        steps=steps,
        record_every=record_every,
        seed=seed,
        metrics=("js_target",),
    )
    frames = [
        history.frame.assign(seed=seed, tau=tau, objective=loss.name, hyperparameters=describe(loss))
        for (tau, loss), history in zip(runs, histories, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def solve_grid(objectives: Sequence[str], taus: Sequence[float], seed: int, num_classes: int) -> pd.DataFrame:
    """Solve for the stationary policy of every objective at every point of its grid, for every τ.

    Returns:
        Long form, the runs of `train_grid`: seed, tau, objective, hyperparameters, js_target (nats) of the stationary
        policy; runs that have none are left out.
    """
    losses = [loss for name in objectives for loss in grid(name)]
    problems = {tau: Problem.from_temperature(num_classes, tau, seed) for tau in taus}
    runs = [(tau, loss) for tau in taus for loss in losses]
    solutions = solve_many([(problems[tau], loss) for tau, loss in runs], starts=1)
    rows = [
        {
            "seed": seed,
            "tau": tau,
            "objective": loss.name,
            "hyperparameters": describe(loss),
            "js_target": float(js(problems[tau].target, solution.policy)),
        }
        for (tau, loss), solution in zip(runs, solutions, strict=True)
        if solution.policy is not None
    ]
    return pd.DataFrame(rows, columns=["seed", "tau", "objective", "hyperparameters", "js_target"])


def stationary_levels(rows: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Average the distances that `solve_grid` found over seeds, for tuned hyperparameters.

    Args:
        rows: what `solve_grid` returned for all seeds.
        tuned: what `select_tuned` returned: one level for each rule, τ and objective, unless a seed has none.

    Returns:
        The columns rule, tau, objective, hyperparameters, mean, lo, hi, n, band.
    """
    run = ["tau", "objective", "hyperparameters"]
    chosen = tuned[["rule", *run]].drop_duplicates().merge(rows, how="inner")
    counts = chosen.groupby(["rule", *run])["seed"].transform("nunique")
    solved = pd.DataFrame(chosen[counts == tuned["seed"].nunique()])
    return mean_bands(solved, ["rule", *run], "js_target")


KINDS = ("converged", "boundary", "continuum", "unsolved")
"""What the solver may say of a problem: its status, with problems whose stationary policies are not isolated apart."""


def kind_of(solution: Solution) -> str:
    """Return which of `KINDS` a solution is; the first two are isolated policies or limits."""
    if solution.continuum:
        return "continuum"
    return "unsolved" if solution.status == "no-stationary-point" else solution.status


def is_isolated(solution: Solution) -> bool:
    """Return whether a solution is one policy, inside the simplex or on its boundary."""
    return kind_of(solution) in ("converged", "boundary")


def describe(loss: BoundObjective) -> str:
    """Return the hyperparameters of a loss as text, such as ``beta=2.0 gamma=0.5``; "(none)" where it has none."""
    return " ".join(f"{name}={value}" for name, value in loss.hyperparameters.items()) or "(none)"


def select_tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep, for each τ and objective, the runs at its best hyperparameters, by each of the two rules.

    One choice serves all seeds: the hyperparameters whose score, averaged over seeds, is smallest. The score
    is an oracle's: it looks at the target.

    Returns:
        The rows of the selected runs, with a column `rule`.
    """
    run = ["tau", "objective", "hyperparameters", "seed"]
    curves = rows.sort_values([*run, "step"]).groupby(run, sort=False)["js_target"]
    # seeds in one order for all: the means of equal minima are then equal to the last bit, and tie
    scores = pd.DataFrame({"minimum": curves.min(), "final": curves.last()}).reset_index()
    configuration = ["tau", "objective", "hyperparameters"]
    means = pd.DataFrame(scores.groupby(configuration, sort=False, as_index=False)[list(RULES)].mean())
    chosen = []
    for rule in RULES:
        # an objective that never improves on its start has one minimum for its whole grid: ties go by the last value
        ranked = means.sort_values([rule, "final"], kind="stable")
        winners = ranked.drop_duplicates(["tau", "objective"])
        chosen.append(rows.merge(winners[configuration], how="inner").assign(rule=rule))
    return pd.concat(chosen, ignore_index=True)
