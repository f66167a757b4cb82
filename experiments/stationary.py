"""Where every objective leads, exactly: its stationary policy against the target, and against the DID."""

import numpy as np
import pandas as pd
from matplotlib import colormaps, rcParams
from matplotlib.colors import LogNorm

from didsim import Problem, js
from didsim.experiment import KINDS, Spec, describe, grid, is_isolated, kind_of, mean_bands, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import objective_look
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
        "JS(π*‖π) on average over the first two seeds, of those at which every seed has an isolated stationary policy "
        "or limit; this choice looks at the target, so it is an oracle's, and the right panel shows the same policies. "
        "exact: below 1e-12, which is rounding. ∂: for some seeds π is a limit on the boundary of the simplex, which "
        "excludes responses. none: no point of the grid "
        "has one for every seed; none ~: mostly because stationary policies are not isolated. Objectives are in the "
        "order of their geometric mean of JS(π*‖π). At τ = 1/2, q is π_ref itself. The responses are "
        "K = 8 single classes, so that objectives that differ by lengths or tokens only coincide here."
    ),
    alt=(
        "Two tables coloured by divergence, with objectives as rows and six temperatures as columns; the smaller the "
        "divergence, the lighter the cell, and exact recovery is white."
    ),
    axes={"tau": (0.25, 0.5, 0.8, 1.25, 2.0, 4.0), "objective": tuple(IMPLEMENTATIONS)},
    batch={"seed": seeds(20)},
    constants={"num_classes": 8, "tuning_seeds": 2, "most_points": 12},
    quick={
        "tau": (0.5, 4.0),
        "objective": ("dpo", "cdpo", "cal_dpo", "log_pi", "simpo", "kto", "tdpo1"),
        "seed": seeds(3),
    },
    panels=(1, 2),
    size=(7.2, 8.0),
    headline="js_target",
    minutes=12.0,
)

_EXACT = 1e-12
"""A smaller divergence is rounding."""

_PALEST = 1e-4
"""A smaller divergence, but for rounding, has the palest colour: hardly any are."""

_DISTANCES = {"js_target": "JS(π*‖π)", "js_did": "JS(q‖π)"}


def run_cell(params):
    """Tune one objective on the first seeds, then solve at what was chosen for all seeds."""
    problems = [Problem.from_temperature(params["num_classes"], params["tau"], seed) for seed in params["seed"]]
    count = params["tuning_seeds"]
    points = _spread(grid(params["objective"]), params["most_points"])
    loss, solutions = _tuned(points, problems[:count], problems[count:])
    rows = [
        (seed, quantity, value)
        for seed, solution in zip(params["seed"], solutions, strict=True)
        for quantity, value in _observe(solution, _complete(solutions)).items()
    ]
    facts = {name: params[name] for name in ("tau", "objective")}
    frame = pd.DataFrame(rows, columns=["seed", "quantity", "value"])
    return frame.assign(**facts, hyperparameters=describe(loss))


def _spread(points, most):
    """Return at most so many points of a grid, at equal distances."""
    return [points[number] for number in sorted({round(x) for x in np.linspace(0, len(points) - 1, most)})]


def _tuned(losses, trial, rest):
    """Return the best loss that has a solution for every problem, and its solutions; if none has, the best of all."""
    tried = _solve_all(trial, losses)
    ranked = sorted(range(len(losses)), key=lambda point: _score(tried[point]))
    found = []
    for point in [point for point in ranked if _complete(tried[point])] or ranked[:1]:
        found.append((losses[point], tried[point] + _solve_all(rest, [losses[point]])[0]))
        if _complete(found[-1][1]):
            return found[-1]
    return found[0]


def _solve_all(problems, losses):
    """Return the solutions of all problems, for each loss."""
    jobs = [(problem, loss) for loss in losses for problem in problems]
    solutions = iter(solve_many(jobs, starts=1) if jobs else [])
    return [[next(solutions) for _ in problems] for _ in losses]


def _complete(solutions):
    return all(map(is_isolated, solutions))


def _score(solutions):
    """Return what orders the points of a grid: how many problems are not solved, then the mean JS(π*‖π)."""
    solved = list(filter(is_isolated, solutions))
    distance = np.mean([float(js(one.problem.target, one.policy)) for one in solved]) if solved else 1.0
    # points that differ by rounding only tie, and the first of the grid comes first
    return len(solutions) - len(solved), float(f"{max(distance, _EXACT):.8e}")


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
    norm = LogNorm(_PALEST, np.log(2.0))
    shares = {kind: tables[kind].reindex(index=order, columns=taus) for kind in KINDS}
    meshes = []
    for axis, (name, title) in zip(axes.flat, _DISTANCES.items(), strict=True):
        meshes.append(_draw_table(axis, tables[name].reindex(index=order, columns=taus), shares, norm))
        axis.set_title(title)
        axis.set_xticks(np.arange(len(taus)), [f"{tau:g}" for tau in taus])
        axis.set_xlabel("τ")
        axis.grid(visible=False)
        axis.tick_params(length=0)
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
    heights = np.log10(targets.clip(lower=_EXACT)).mean(axis=1).reindex(names).fillna(np.inf)
    looks = {name: number for number, name in enumerate(IMPLEMENTATIONS)}
    return sorted(names, key=lambda name: (round(float(heights[name]), 6), looks.get(name, len(looks))))


def _draw_table(axis, table, shares, norm):
    """Draw one table from top to bottom, with the number in each cell."""
    values = table.to_numpy(dtype=float)
    edges = [np.arange(size + 1) - 0.5 for size in values.shape]
    visible = np.ma.masked_where(~(values >= _EXACT), values)
    mesh = axis.pcolormesh(edges[1], edges[0], visible, norm=norm, cmap=colormaps["cividis_r"], edgecolors="white")
    axis.set_xlim(-0.5, values.shape[1] - 0.5)
    axis.set_ylim(values.shape[0] - 0.5, -0.5)
    for (row, column), value in np.ndenumerate(values):
        word = _word(value, *(shares[kind].iat[row, column] for kind in ("boundary", "continuum")))
        dark = value >= _EXACT and norm(value) > 0.55
        look = {"color": "white" if dark else "black", "fontsize": 0.8 * rcParams["ytick.labelsize"]}
        if np.isnan(value):
            axis.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color="0.9", linewidth=0, zorder=0.5)
            look["color"] = "0.35"
        axis.text(column, row, word, ha="center", va="center", **look)
    return mesh


def _word(value, boundary, continuum):
    """Return what stands in a cell."""
    if np.isnan(value):
        return "none ~" if continuum > 0.5 else "none"
    mark = " ∂" if boundary > 0.0 else ""
    if value < _EXACT:
        return f"exact{mark}"
    if value >= 0.001:
        return f"{value:.2g}{mark}"
    digits, _, power = f"{value:.0e}".partition("e-")
    return f"{digits}e−{int(power)}{mark}"
