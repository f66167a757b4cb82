"""Where every objective leads, exactly: its stationary policy against the target, and against the DID."""

import numpy as np
import pandas as pd

from didsim import Problem, js
from didsim.experiment import (
    KINDS,
    Spec,
    describe,
    grid,
    is_isolated,
    kind_of,
    mean_bands,
    seeds,
    spread_over,
)
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import EXACT, divergence_word, draw_divergences, objective_look
from didsim.stationary import solve_many

SPEC = Spec(
    id="stationary",
    title="Stationary policies of every objective, without training",
    source="ours",
    caption=(
        "Jensen–Shannon divergence (nats) from the target π* (left), and from the differential information "
        "distribution q of π_ref → π* (right), to the stationary policy π of each objective's population loss, for "
        "updates that reinforce (τ < 1) or smooth (τ > 1) the reference. Nothing is trained: π is solved for, from "
        "π_ref. Means over seeds; bands 95% bootstrap intervals of the mean are in the CSV. For each τ an objective "
        "stands at the point of its search grid (of twelve spread over it, where it is larger) with the smallest "
        "JS(π*‖π) on average over seeds, of those at which every seed has an isolated stationary policy or limit; "
        "this choice looks at the target, so it is an oracle's, and the right panel shows the same policies. exact: "
        "below 1e-12, which is rounding. ∂: for some seeds π is a limit on the boundary of the simplex, which "
        "excludes responses. none: no point of the grid has one for every seed, or for the first two, which are tried "
        "first; none ~: mostly because stationary policies are not isolated. Objectives are in the order of their "
        "geometric mean of JS(π*‖π). At τ = 1/2, q is π_ref itself. The responses are K = 8 single classes, so that "
        "objectives that differ by lengths or tokens only coincide here."
    ),
    alt=(
        "Two tables coloured by divergence, with objectives as rows and six temperatures as columns; the smaller the "
        "divergence, the lighter the cell, and exact recovery is white."
    ),
    axes={"objective": tuple(IMPLEMENTATIONS)},
    batch={"seed": seeds(20), "tau": (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)},
    constants={"num_classes": 8, "trial_seeds": 2, "most_points": 12},
    quick={
        "tau": (0.5, 4.0),
        "objective": ("dpo", "cdpo", "cal_dpo", "log_pi", "simpo", "kto", "tdpo1"),
        "seed": seeds(3),
    },
    panels=(1, 2),
    size=(7.2, 8.0),
    headline="js_target",
    minutes=1.3,
)

_DISTANCES = {"js_target": "JS(π*‖π)", "js_did": "JS(q‖π)"}


def run_cell(params):
    """Solve for one objective at points of its grid, for every τ and seed; keep the best point for each τ."""
    size, numbers = params["num_classes"], params["seed"]
    problems = {(tau, seed): Problem.from_temperature(size, tau, seed) for tau in params["tau"] for seed in numbers}
    points = dict(enumerate(spread_over(grid(params["objective"]), params["most_points"])))
    first = {place: problem for place, problem in problems.items() if place[1] in numbers[: params["trial_seeds"]]}
    tried = _solved(first, dict.fromkeys(params["tau"], points))
    kept = {tau: _worth_solving(tau, points, tried) for tau in params["tau"]}
    tried |= _solved({place: problem for place, problem in problems.items() if place not in first}, kept)
    rows = []
    for tau in params["tau"]:
        found = {number: [tried[tau, seed, number] for seed in numbers] for number in kept[tau]}
        best = min(found, key=lambda number: _score(found[number]))
        complete = all(map(is_isolated, found[best]))
        for seed, solution in zip(numbers, found[best], strict=True):
            facts = _observe(solution, complete)
            rows += [(tau, describe(points[best]), seed, quantity, value) for quantity, value in facts.items()]
    frame = pd.DataFrame(rows, columns=["tau", "hyperparameters", "seed", "quantity", "value"])
    return frame.assign(objective=params["objective"])


def _solved(problems, points):
    """Return the solutions of problems by τ and seed, at the points of their τ, by τ, seed and number of the point."""
    jobs = {
        (tau, seed, number): (problem, loss)
        for (tau, seed), problem in problems.items()
        for number, loss in points[tau].items()
    }
    return dict(zip(jobs, solve_many(list(jobs.values()), starts=1) if jobs else [], strict=True))


def _worth_solving(tau, points, tried):
    """Return the points at which the first seeds have solutions; if none is, the one that comes nearest to it."""
    found = {number: [tried[place] for place in tried if place[0] == tau and place[2] == number] for number in points}
    kept = {number: points[number] for number, solutions in found.items() if all(map(is_isolated, solutions))}
    best = min(found, key=lambda number: _score(found[number]))
    return kept or {best: points[best]}


def _score(solutions):
    """Return what orders the points of a grid: how many problems are not solved, then the mean JS(π*‖π)."""
    solved = list(filter(is_isolated, solutions))
    distance = np.mean([float(js(one.problem.target, one.policy)) for one in solved]) if solved else 1.0
    # points that differ by rounding only tie, and the first of the grid comes first
    return len(solutions) - len(solved), float(f"{max(distance, EXACT):.8e}")


def _observe(solution, complete):
    """Return what is recorded of a solution, by quantity."""
    values = {name: float(name == kind_of(solution)) for name in KINDS}
    if complete:
        values["js_target"] = float(js(solution.problem.target, solution.policy))
        values["js_did"] = float(js(solution.problem.did, solution.policy))
    return values


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["tau", "objective", "hyperparameters", "quantity"], "value")
    points["panel"] = points["quantity"].map(lambda name: _DISTANCES.get(name, "share of seeds"))
    points = points.rename(columns={"objective": "series", "tau": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def draw(df, axes):
    """Draw a table for each of the two distances, coloured by its value, objectives in one order."""
    tables = {
        name: rows.pivot_table(index="series", columns="x", values="mean") for name, rows in df.groupby("quantity")
    }
    order = _order(tables["js_target"], tables["converged"].index)
    taus = list(tables["converged"].columns)
    shares = {kind: tables[kind].reindex(index=order, columns=taus) for kind in KINDS}
    meshes = []
    for axis, (name, title) in zip(axes.flat, _DISTANCES.items(), strict=True):
        table = tables[name].reindex(index=order, columns=taus)
        meshes.append(draw_divergences(axis, table, _words(table, shares)))
        axis.set_title(title)
        axis.set_xticks(np.arange(len(taus)), [f"{tau:g}" for tau in taus])
        axis.set_xlabel("τ")
        axis.set_yticks(np.arange(len(order)), [objective_look(one)[2] for one in order])
    axes.flat[1].tick_params(labelleft=False)
    bar = axes.flat[0].figure.colorbar(
        meshes[0], ax=list(axes.flat), location="bottom", aspect=60, pad=0.01, extend="min"
    )
    bar.set_label(
        "JS [nats], on a logarithmic scale; white: exact (below 1e−12)\n"
        "∂: limit on the boundary; none: no solution for every seed (~: not isolated)"
    )


def _order(targets, names):
    """Return the objectives, nearest to the target first: by the mean logarithm of the distances that exist."""
    heights = np.log10(targets.clip(lower=EXACT)).mean(axis=1).reindex(names).fillna(np.inf)
    looks = {name: number for number, name in enumerate(IMPLEMENTATIONS)}
    return sorted(names, key=lambda name: (round(float(heights[name]), 6), looks.get(name, len(looks))))


def _words(table, shares):
    """Return what stands in each cell."""
    words = table.map(divergence_word, na_action="ignore")
    words += shares["boundary"].map(lambda share: " ∂" if share > 0.0 else "")
    none = shares["continuum"].map(lambda share: "none ~" if share > 0.5 else "none")
    return words.where(table.notna(), none)
