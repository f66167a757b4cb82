"""Figure 2 of the RMiPO paper: how sensitive DPO, SimPO and RMiPO are to β and γ, where they end."""

import numpy as np
import pandas as pd

from didsim import bayes_accuracy, objective
from didsim.experiment import Spec, mean_bands, mean_js, seeds
from didsim.objectives import Responses
from didsim.plotting import draw_band, family_look, label_ends
from didsim.stationary import solve_many
from didsim.torch_bridge import to_array, to_tensor
from didsim.worlds import boilerplate, win_rate

SPEC = Spec(
    id="rmipo_fig2",
    title="Sensitivity of DPO, SimPO and RMiPO to β and γ",
    source="RMiPO paper, Fig. 2",
    caption=(
        "How DPO, SimPO and RMiPO depend on β and γ where they end, solved for exactly, in a world where four "
        "prompts share two popular responses of eight: the distance from the truth π* (at its β, 1), how often a "
        "response is preferred to one of π_ref, and how often the implied reward ranks a pair as labelled, less "
        "what the best judge reaches; dotted: π_ref. RMiPO's γ is its largest one, and its smallest is 0.3/1.6 of "
        "it. As in the paper, what is seen on the training pairs hardly tells settings apart, whose scores differ: "
        "DPO and SimPO rank pairs as well as can be at every β and γ, RMiPO less well by at most {short:.3f}. But "
        "the scores do not follow γ more than β, as its Insight I has it: from β = 1/4 to 8 the win rate of SimPO "
        "falls by {simpo_beta:.2f}, from γ = 0 to 3 it rises by {simpo_gamma:.2f}. β is more than a scale of "
        "gradients: it is the temperature at which the profile that γ and the pairs fix becomes a policy. Nor is "
        "RMiPO's margin a buffer against β: its win rate falls by {rmipo_beta:.2f} over β, and changes over its bounds "
        "{share:.0%} as much as that of SimPO over γ. Small β and large γ win often and end far from π*; no setting "
        "drawn brings SimPO or RMiPO as near to π* as π_ref is, for they forget what is popular. DPO's best β depends "
        "on what one asks for, too: 1 for the distance, by construction, and the smallest for winning. Means over "
        "seeds, bands 95% bootstrap intervals of the mean. The paper's figure has MT-Bench scores of a language "
        "model, SimPO at γ = 1 over β and at β = 2 over γ, as here."
    ),
    alt=(
        "Six panels. Over β, distances and win rates of SimPO and RMiPO fall together, with DPO's below; over γ "
        "both rise slowly, SimPO's more. The accuracies lie on zero throughout, RMiPO's slightly below for small β."
    ),
    axes={"objective": ("dpo", "simpo", "rmipo")},
    batch={
        "seed": seeds(20),
        "betas": (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
        "gammas": (0.0, 0.3, 0.6, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0),
    },
    constants={"num_prompts": 4, "num_classes": 8, "num_popular": 2, "beta": 2.0, "gamma": 1.0},
    quick={"seed": seeds(3), "betas": (0.5, 2.0, 8.0), "gammas": (0.0, 1.6, 3.0)},
    panels=(3, 2),
    size=(7.0, 5.6),
    headline="win_rate",
    minutes=0.1,
)


def run_cell(params):
    """Solve for one objective at every β and at every γ; measure distance, win rate and accuracy."""
    sizes = {name: params[name] for name in ("num_prompts", "num_classes", "num_popular")}
    problems = {seed: boilerplate(**sizes, seed=seed) for seed in params["seed"]}
    runs = [(*place, seed) for place in _places(params) for seed in problems]
    jobs = [(problems[seed], objective(params["objective"], **options)) for _, _, options, seed in runs]
    rows = []
    for (panel, x, _, seed), solution in zip(runs, solve_many(jobs, starts=1), strict=True):
        rows += [(panel, quantity, x, seed, value) for quantity, value in _scores(problems[seed], solution).items()]
    rows += [("start", "js_target", 0.0, seed, mean_js(p, p.target, p.reference)) for seed, p in problems.items()]
    frame = pd.DataFrame(rows, columns=["panel", "quantity", "x", "seed", "value"])
    return frame.assign(series=params["objective"])


def _places(params):
    """Return the panel, place and hyperparameters of every point; RMiPO's γ is its γ_max, whose share γ_min stays."""
    beta, gamma = params["beta"], params["gamma"]
    match params["objective"]:
        case "dpo":
            return [("β", b, {"beta": b}) for b in params["betas"]]
        case "simpo":
            over_beta = [("β", b, {"beta": b, "gamma": gamma}) for b in params["betas"]]
            return over_beta + [("γ", g, {"beta": beta, "gamma": g}) for g in params["gammas"]]
        case _:
            over_beta = [("β", b, {"beta": b}) for b in params["betas"]]
            share = _PAPER[0] / _PAPER[1]
            return over_beta + [
                ("γ", g, {"beta": beta, "gamma_min": share * g, "gamma_max": g}) for g in params["gammas"]
            ]


_PAPER = (0.3, 1.6)
"""RMiPO's bounds."""


def _scores(problem, solution):
    """Return how far a policy is from π*, how often it wins, and how often its reward ranks a pair as labelled."""
    policy = solution.policy
    log_ref, log_pi = (to_tensor(one.log_probs) for one in (problem.reference, policy))
    reward = to_array(solution.loss.implicit_reward(Responses(log_pi, log_ref, log_pi.new_ones(log_pi.shape))))
    ranked = 0.5 * (1.0 + np.sign(reward[:, :, None] - reward[:, None, :]))
    accuracy = float(problem.prompt_weights @ (problem.pairs * ranked).sum(axis=(1, 2)))
    return {
        "js_target": mean_js(problem, problem.target, policy),
        "win_rate": win_rate(problem, policy),
        "accuracy": accuracy,
        "missed": round(accuracy - bayes_accuracy(problem), 12),  # 0 up to rounding is 0
    }


def summarise(df):
    """Average over seeds."""
    point = ["panel", "series", "quantity", "x"]
    points = mean_bands(df, point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_ROWS = {
    "js_target": "JS(π*‖π) [nats]",
    "win_rate": r"win rate against $\pi_{\mathrm{ref}}$",
    "missed": "accuracy on the pairs,\nless the best there is",
}


def draw(df, axes):
    """Draw what each score does over β, on the left, and over γ."""
    for row, (quantity, words) in zip(axes, _ROWS.items(), strict=True):
        for axis, panel in zip(row, ("β", "γ"), strict=True):
            points = df[(df["panel"] == panel) & (df["quantity"] == quantity)]
            for name, curve in points.groupby("series", sort=False):
                colour, line, label = family_look(str(name))
                draw_band(axis, curve, color=colour, linestyle=line, label=label)
            axis.margins(x=0)
        row[0].set_xscale("log", base=2)
        row[0].sharey(row[1])
        row[0].set_ylabel(words)
    start = df[df["panel"] == "start"]["mean"].iloc[0]
    for row, level in zip(axes, (start, 0.5, 0.0), strict=True):
        for axis in row:
            axis.axhline(level, color="0.35", linewidth=0.8, linestyle=":", zorder=1)
    axes[2, 0].set_ylim(-0.011, 0.006)
    axes[0, 0].set_title("over β; SimPO at γ = 1, RMiPO at its bounds")
    axes[0, 1].set_title(r"over γ at β = 2; RMiPO's is $\gamma_{\max}$")
    axes[-1, 0].set_xlabel("β")
    axes[-1, 1].set_xlabel("γ [nats]")
    for axis in axes.flat:
        label_ends(axis)


def numbers(df):
    """Return by how much win rates change over β and γ, and accuracies fall short at most."""
    rates = df[df["quantity"] == "win_rate"].groupby(["series", "panel"])["mean"].agg(np.ptp)
    return {
        "short": -df[df["quantity"] == "missed"]["mean"].min(),
        "simpo_beta": rates["simpo", "β"],
        "simpo_gamma": rates["simpo", "γ"],
        "rmipo_beta": rates["rmipo", "β"],
        "share": rates["rmipo", "γ"] / rates["simpo", "γ"],
    }
