"""Where long sampled training ends, against the policy that the solver says it leads to."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.ticker import NullLocator

from didsim import Problem, js, objective, train_many
from didsim.experiment import KINDS, Spec, describe, is_isolated, kind_of, mean_bands, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import EXACT, OKABE_ITO, objective_look
from didsim.stationary import solve_many

SPEC = Spec(
    id="training_ends",
    title="Long sampled training against the solver's policy, for every objective",
    source="ours",
    caption=(
        "Jensen–Shannon divergence (nats) between the stationary policy that the solver finds from π_ref, and a policy "
        "trained from π_ref with the same objective at its default hyperparameters: at the start, after a tenth of the "
        "steps, and at the end (τ = 2, 8 classes, fresh batches of 512 pairs, 3000 steps of RMSprop whose rate falls "
        "linearly from 1e-2 to 0, so that noise dies out; otherwise the engine's defaults). Means over seeds, bands "
        "95% bootstrap intervals of the mean. Bar: half the divergence between two trainings of one problem on "
        "different draws, which is what noise alone leaves; a last dot well to the right of it is bias or slowness. ∂: "
        "for some seeds the solver names a limit on the boundary of the simplex, which training approaches without "
        "arriving. Crosses: the same training with exact expectations, for objectives whose sampled gradient is a "
        "function of the whole batch and so need not have the population's mean. The lowest line of the axis holds "
        "whatever is below 1e-12. none: no isolated solution for some seeds, with their share; hence nothing to "
        "compare with. Most objectives end at their noise, α-DPO too, whose batch of 512 shows no bias above it. At "
        "more than three times their noise end {late}: they are slower, most of them because their solutions are the "
        "farthest from π_ref. DPOP's is π_ref itself, up to 1e-12. DiscoPOP's loss has several local minima; so has "
        "AOT's, one for each order in which its quantiles couple the pairs: training ends in another one than the "
        "solver, which started from π_ref too but takes longer steps."
    ),
    alt=(
        "A row for each objective with dots on a logarithmic axis: for most of them the divergence falls from about "
        "0.1 at the start to its noise at the end."
    ),
    axes={"objective": tuple(IMPLEMENTATIONS)},
    batch={"seed": seeds(20)},
    constants={"num_classes": 8, "tau": 2.0, "steps": 3000, "learning_rate": 1e-2},
    quick={
        "objective": ("dpo", "cal_dpo", "simpo", "orpo", "kto", "alpha_dpo", "dpo_pg"),
        "seed": seeds(3),
        "steps": 400,
    },
    size=(5.2, 7.4),
    headline="js_solver",
    minutes=1.3,
)

_OF_A_BATCH = ("alpha_dpo", "beta_dpo", "aot", "aot_unpaired", "dpo_pg")
"""Objectives whose gradient on a batch is no mean over its pairs."""

_OTHER_DRAWS = 10_000
"""Added to a seed: the draws of the second training."""


def run_cell(params):
    """Solve for one objective, and train it twice on each problem."""
    loss, steps = objective(params["objective"]), params["steps"]
    problems = [Problem.from_temperature(params["num_classes"], params["tau"], seed) for seed in params["seed"]]
    solutions = solve_many([(problem, loss) for problem in problems], starts=1)
    pairs = list(zip(problems, solutions, strict=True))
    rows = []
    for seed, solution in zip(params["seed"], solutions, strict=True):
        kind = kind_of(solution)
        rows += [(seed, name, steps, float(name == kind)) for name in KINDS]
    if all(map(is_isolated, solutions)):
        # with the solution as their target, problems are the same to training, and js_target is what is asked for
        aimed = [replace(problem, target=solution.policy) for problem, solution in pairs]
        rows += _trained(aimed, loss, params)
    frame = pd.DataFrame(rows, columns=["seed", "quantity", "step", "value"])
    return frame.assign(objective=params["objective"], hyperparameters=describe(loss))


def _trained(problems, loss, params):
    """Return the distances of training to the targets of the problems: (seed, quantity, step, value)."""
    seed, steps = params["seed"], params["steps"]
    shared = {
        "steps": steps,
        "learning_rate": params["learning_rate"],
        "schedule": "linear",
        "record_every": max(1, steps // 10),
        "metrics": ("js_target",),
    }
    jobs = [(problem, loss) for problem in problems]
    draws = [*seed, *(one + _OTHER_DRAWS for one in seed)]
    histories = train_many(jobs + jobs, seed=draws, **shared)
    first, second = histories[: len(jobs)], histories[len(jobs) :]
    rows = [
        (one, "js_solver", int(history.steps[at]), float(history.metrics["js_target"][at]))
        for one, history in zip(seed, first, strict=True)
        for at in (0, 1, -1)
    ]
    for one, history, other in zip(seed, first, second, strict=True):
        if history.policy is not None and other.policy is not None:
            rows.append((one, "js_noise", steps, 0.5 * float(js(history.policy, other.policy))))
    if loss.name in _OF_A_BATCH:
        exact = train_many(jobs, mode="population", dtype="float64", **shared)
        ends = [float(history.metrics["js_target"][-1]) for history in exact]
        rows += [(one, "js_population", steps, end) for one, end in zip(seed, ends, strict=True)]
    return rows


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["objective", "hyperparameters", "quantity", "step"], "value")
    points["panel"] = (
        points["quantity"].str.startswith("js_").map({True: "JS(solver‖trained)", False: "share of seeds"})
    )
    points = points.rename(columns={"objective": "series", "step": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def draw(df, axes):
    """Draw a row of markers for each objective, the one that ends nearest at the top."""
    axis = axes[0, 0]
    tables = dict(list(df.groupby("quantity")))
    distances = tables["js_solver"]
    ends = distances[distances["x"] == distances["x"].max()].set_index("series")["mean"]
    shares = df.pivot_table(index="series", columns="quantity", values="mean", aggfunc="last")[list(KINDS)]
    looks = {name: number for number, name in enumerate(IMPLEMENTATIONS)}
    order = sorted(shares.index, key=lambda name: (ends.get(name, np.inf), looks.get(name, len(looks))))
    heights = {name: float(row) for row, name in enumerate(order)}
    seen = df[df["quantity"].str.startswith("js_") & (df["mean"] >= EXACT)]["mean"]
    floor = _lay_out(axis, seen.min(), df[df["quantity"].str.startswith("js_")]["mean"].min() < EXACT)
    for (number, (step, rows)), look in zip(enumerate(distances.groupby("x")), _TIMES, strict=True):
        words = f"step {step}" if number else r"start ($\pi_{\mathrm{ref}}$)"
        _draw_markers(axis, rows, heights, floor, {"label": words, "zorder": 2 + number, **look})
    _draw_markers(axis, tables["js_noise"], heights, floor, {"label": "noise at the end", **_NOISE})
    if "js_population" in tables:
        _draw_markers(axis, tables["js_population"], heights, floor, {"label": "end, exact expectation", **_POPULATION})
    for name, share in shares.iterrows():
        if name not in ends:
            axis.text(
                0.02, heights[name], _why_none(share), transform=axis.get_yaxis_transform(), va="center", color="0.35"
            )
    marked = [
        f"{objective_look(name)[2]}{' ∂' if name in ends and shares['boundary'][name] > 0 else ''}" for name in order
    ]
    axis.set_yticks(range(len(order)), marked)
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlabel("JS(solver‖trained) [nats]")
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)


_TIMES = (
    {"marker": "o", "markerfacecolor": "white", "color": OKABE_ITO[0]},
    {"marker": "D", "color": OKABE_ITO[2], "markersize": 3.2},
    {"marker": "o", "color": OKABE_ITO[5]},
)
_NOISE = {"marker": "|", "color": OKABE_ITO[6], "markersize": 7.5, "markeredgewidth": 1.3, "zorder": 5}
_POPULATION = {"marker": "x", "color": OKABE_ITO[3], "markersize": 4.5, "markeredgewidth": 1.2, "zorder": 6}


def _lay_out(axis, least, has_floor):
    """Make the axis logarithmic, with a line on the left for what cannot be shown there; return its place."""
    axis.set_xscale("log")
    low = 10.0 ** np.floor(np.log10(least))
    floor = low / 10.0
    axis.set_xlim(floor / 2.0 if has_floor else low / 1.5, 1.0)
    axis.xaxis.set_minor_locator(NullLocator())
    if has_floor:
        powers = np.arange(round(np.log10(low)), 1)
        powers = powers[:: -(-len(powers) // 8)]
        axis.set_xticks([floor, *10.0**powers], ["<1e−12", *(f"$10^{{{power}}}$" for power in powers)])
    return floor


def _draw_markers(axis, rows, heights, floor, look):
    """Draw means with their bands, one for each objective."""
    values = np.where(rows["mean"] < EXACT, floor, rows["mean"])
    heads = [heights[name] for name in rows["series"]]
    axis.plot(values, heads, linestyle="", **{"markersize": 4.0, **look})
    axis.hlines(
        heads,
        np.maximum(rows["lo"], floor),
        np.maximum(rows["hi"], floor),
        color=look["color"],
        linewidth=rcParams["lines.linewidth"],
    )


def _why_none(share):
    """Say why there is nothing to compare with."""
    lacking = {"not isolated": share["continuum"], "not found": share["unsolved"]}
    return "none: " + ", ".join(f"{part:.0%} {why}" for why, part in lacking.items() if part > 0.0)


def numbers(df):
    """Return who of those with an isolated stationary policy ends far above the noise, the farthest last."""
    last = df[df["x"] == df["x"].max()].pivot_table(index="series", columns="quantity", values="mean")
    late = last[(last["js_solver"] > 3.0 * last["js_noise"]) & (last["boundary"] == 0.0)].sort_values("js_solver")
    names = [objective_look(str(name))[2] for name in late.index if name not in _ELSEWHERE]
    return {"late": " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names) or "none"}


_ELSEWHERE = frozenset({"discopop", "aot"})
"""Training ends at another stationary policy of theirs: see the caption."""
