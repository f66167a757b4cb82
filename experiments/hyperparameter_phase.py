"""Where gradient descent converges, crawls, oscillates or diverges, over β, γ and the learning rate."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from didsim import Problem, fisher_information, js, objective, train_many
from didsim.experiment import Spec, is_isolated, kind_of, mean_bands, seeds
from didsim.plotting import EXACT, OKABE_ITO
from didsim.stationary import solve_many

SPEC = Spec(
    id="hyperparameter_phase",
    title="Convergence over β, γ and the learning rate",
    source="ours",
    caption=(
        "Jensen–Shannon divergence between the policy that is solved for and the one that 1000 steps of plain gradient "
        "descent from π_ref lead to, with exact expectations in float64, over β and the learning rate (τ = 2, 8 "
        "classes). DPO converges in a diagonal strip. To its left it crawls, to its right it jumps from corner to "
        "corner without ever overflowing. The strip is known beforehand: where DPO is stationary the Hessian by logits "
        "is β² I, with the Fisher information I of a pair, so that descent is stable up to a rate of 2/(β² λ_max) "
        "(solid) and its slowest error has fallen by a factor of 1000 at rates above ln(1000)/(1000 β² λ_min) "
        "(dashed); means over seeds of both. They know the neighbourhood of the end, not the way there: for β between "
        "0.1 and 0.6 some seeds need more steps. The exponential loss has such a strip too, but to its right it "
        "overflows (hatched: most seeds diverge), because its slope has no bound. APO-zero's limit excludes responses, "
        "at every β (dotted): it is approached in small steps by a slope that fades, and at large β hardly at all. "
        "SimPO with γ = 1/2 has a strip like DPO's, in which it comes less near from β = 1 on. Across γ, at one rate, "
        "the strip is crossed at β = 1; a larger γ arrives later there, and sooner at the next β. Bottom right: what "
        "converging is worth, JS(π*‖π) of the policy at which SimPO is stationary: nowhere small, least for large β "
        "and small γ, where the policy is nearly uniform. Means over seeds; bands 95% bootstrap intervals of the mean "
        "are in the CSV."
    ),
    alt=(
        "Six maps. In four a pale diagonal strip of convergence runs from high β and low rates to low β and high "
        "rates; for the exponential loss its right is hatched, for APO-zero all is dotted and the strip pale at low β "
        "only. Across γ it is a horizontal band that darkens. The last is dark, and palest at the top left."
    ),
    axes={"part": ("dpo", "exponential", "apo_zero", "simpo", "simpo trained over γ", "simpo over γ")},
    batch={"seed": seeds(20)},
    constants={"num_classes": 8, "tau": 2.0, "steps": 1000, "points": 11, "rate": 10.0},
    quick={"seed": seeds(3), "steps": 50, "points": 5},
    panels=(2, 3),
    size=(7.2, 4.6),
    headline="js",
    minutes=0.3,
)

_BETAS, _RATES, _GAMMAS = (0.05, 20.0), (0.01, 1e4), (0.0, 5.0)


def run_cell(params):
    """Measure how far training ends from the stationary policy, or how far that is from the target."""
    problems = {seed: Problem.from_temperature(params["num_classes"], params["tau"], seed) for seed in params["seed"]}
    betas = np.geomspace(*_BETAS, params["points"]).tolist()
    gammas = np.linspace(*_GAMMAS, params["points"]).tolist()
    rates = np.geomspace(*_RATES, params["points"]).tolist()
    match params["part"]:
        case "simpo over γ":
            rows = _stationary(problems, betas, gammas)
        case "simpo trained over γ":
            rows = [
                row
                for gamma in gammas
                for row in _trained(problems, betas, {gamma: params["rate"]}, params["steps"], "simpo", gamma=gamma)
            ]
        case name:
            rows = _trained(problems, betas, {rate: rate for rate in rates}, params["steps"], name)
            if name == "dpo":
                rows += [row for seed in problems for row in _lines(problems[seed], seed, betas, params["steps"])]
    return pd.DataFrame(rows, columns=["seed", "beta", "x", "quantity", "value"]).assign(panel=params["part"])


def _stationary(problems, betas, gammas):
    """Return JS(π*‖π) of the policies at which SimPO is stationary."""
    runs = [(beta, gamma, seed) for beta in betas for gamma in gammas for seed in problems]
    jobs = [(problems[seed], objective("simpo", beta=beta, gamma=gamma)) for beta, gamma, seed in runs]
    rows = []
    for (beta, gamma, seed), solution in zip(runs, solve_many(jobs, starts=1), strict=True):
        end = solution.policy if is_isolated(solution) else None
        distance = _FARTHEST if end is None else float(js(problems[seed].target, end))
        rows += [(seed, beta, gamma, "js", max(distance, EXACT))]
    return rows


_FARTHEST = float(np.log(2.0))
"""The largest divergence, which stands for that of a run that diverged."""


def _trained(problems, betas, rates, steps, name, **options):
    """Return for every β how far training ends from what is solved for, or whether it overflows, by x and its rate."""
    runs = [(beta, seed) for beta in betas for seed in problems]
    jobs = [(problems[seed], objective(name, beta=beta, **options)) for beta, seed in runs]
    settings = {"mode": "population", "optimiser": "sgd", "clip": None, "dtype": "float64", "metrics": ()}
    solutions, rows = solve_many(jobs, starts=1), []
    for x, rate in rates.items():
        histories = train_many(jobs, steps=steps, record_every=steps, learning_rate=rate, **settings)
        for (beta, seed), history, solution in zip(runs, histories, solutions, strict=True):
            wanted, policy = solution.policy, history.policy
            distance = _FARTHEST if wanted is None or policy is None else float(js(wanted, policy))
            rows += [(seed, beta, x, "js", max(distance, EXACT)), (seed, beta, x, "diverged", float(policy is None))]
            rows += [(seed, beta, x, "boundary", float(kind_of(solution) == "boundary"))]
    return rows


def _lines(problem, seed, betas, steps):
    return [(seed, beta, 0.0, *rate) for beta in betas for rate in _rates(problem, beta, steps)]


def _rates(problem, beta, steps):
    """Return the learning rates up to which DPO is stable where it ends, and from which it arrives in so many steps.

    The Hessian by logits is β² times the Fisher information I, so that an error along an eigenvector shrinks by the
    factor |1 − rate·β²·λ| in each step.
    """
    values = np.linalg.eigvalsh(fisher_information(problem))[1:]  # the first belongs to constants, which move nothing
    stable, arrival = 2.0 / (beta**2 * values[-1]), np.log(1000.0) / (steps * beta**2 * values[0])
    return [("stable_rate", stable), ("arrival_rate", arrival)]


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["panel", "beta", "quantity", "x"], "value")
    points["series"] = "β = " + points["beta"].map("{:.4g}".format)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_TITLES = {
    "dpo": "DPO",
    "exponential": "exponential loss",
    "apo_zero": "APO-zero",
    "simpo": "SimPO, γ = 1/2",
    "simpo trained over γ": "SimPO, rate 10",
    "simpo over γ": "SimPO, stationary",
}


_NORM, _OWN_NORM = LogNorm(1e-8, 1.0), LogNorm(1e-2, 1.0)
"""Of divergences that training can bring to 0, and of those of stationary policies from π*."""


def draw(df, axes):
    """Draw a map for each part."""
    panels = zip(axes.flat, df.groupby("panel", sort=False), strict=True)
    images = [_draw_map(axis, str(part), rows) for axis, (part, rows) in panels]
    for axis in axes[:, 0]:
        axis.set_ylabel("β")
    figure = axes[0, 0].figure
    figure.colorbar(images[0], ax=axes[0, :], label="JS(solved‖trained) [nats]", extend="min")
    figure.colorbar(images[-1], ax=axes[1, :], label="right: JS(π*‖solved) [nats]")


def _draw_map(axis, part, rows):
    """Draw the map of one part, and return what its colours mean."""
    names = list(rows["series"].unique())
    betas = np.array([float(name.partition("=")[2]) for name in names])
    maps = {
        quantity: table.pivot_table(index="series", columns="x", values="mean").loc[names]
        for quantity, table in rows.groupby("quantity")
    }
    along, over_gamma = maps["js"].columns.to_numpy(float), "γ" in part
    axis.set(yscale="log", xscale="linear" if over_gamma else "log", title=_TITLES[part])
    axis.set_xlabel("γ" if over_gamma else "learning rate")
    axis.grid(False)
    sides = _edges(along) if over_gamma else np.exp(_edges(np.log(along))), np.exp(_edges(np.log(betas)))
    norm = _OWN_NORM if part == "simpo over γ" else _NORM
    image = axis.pcolormesh(*sides, maps["js"], norm=norm, cmap="cividis_r")
    for quantity, hatch in _HATCHES.items():
        if quantity in maps:
            _hatch(axis, sides, maps[quantity].to_numpy() > 0.5, hatch)
    axis.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]])
    for quantity, line in (("stable_rate", "-"), ("arrival_rate", (0, (4, 1.5)))):
        if quantity in maps:
            axis.plot(maps[quantity].iloc[:, 0], betas, color=OKABE_ITO[6], linestyle=line)
    return image


_HATCHES = {"diverged": "////", "boundary": "...."}
"""Of cells in which most seeds overflow, and in which most end where responses are excluded."""


def _hatch(axis, sides, cells, hatch):
    """Hatch whole cells of a map."""
    for row, column in np.argwhere(cells):
        (left, right), (low, high) = sides[0][column : column + 2], sides[1][row : row + 2]
        look = {"fill": False, "hatch": hatch, "edgecolor": "white", "linewidth": 0.0}
        axis.add_patch(Rectangle((left, low), right - left, high - low, **look))


def _edges(centres):
    """Return the edges of cells of equal widths."""
    half = (centres[1] - centres[0]) / 2.0
    return np.append(centres - half, centres[-1] + half)
