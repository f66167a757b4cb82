"""Figures 4 and 6 of the α-DPO paper: distributions of reward margins and of likelihoods, over α and over SimPO's γ."""

import numpy as np
import pandas as pd

from didsim import objective, train_many
from didsim.engine import snapshot_pairs
from didsim.experiment import Spec, mean_bands, seeds
from didsim.objectives import reward_margin
from didsim.plotting import OKABE_ITO, draw_band
from didsim.torch_bridge import to_array
from didsim.worlds import length_bias

SPEC = Spec(
    id="alpha_fig4_6",
    title="Distributions of reward margins and likelihoods, over SimPO's γ and over α",
    source="α-DPO paper, Figs. 4 and 6",
    caption=(
        "How reward margins r(y_w) − r(y_l), r = β log π/|y|, and log-likelihoods of chosen responses are distributed "
        "over pairs of two different responses, after training with SimPO over γ (top) and with α-DPO over α (γ = "
        "0.15, bottom; α = 0 is SimPO), β = 2.5. Right: how wide they are, and the mean of −log π(y_w). As in the "
        "paper, a larger γ flattens both distributions and lowers the likelihood of chosen responses. What the paper "
        "says of α does not show here: it finds flatter margins for a smaller α, and likelihoods that remain as they "
        "are. Here a larger α flattens margins too, if less than γ does, and lowers and spreads likelihoods about as "
        "much: the same spread of margins costs α-DPO more likelihood than SimPO. Pairs are labelled by a true "
        "reward, over the 31 sequences of up to four of two tokens; densities are smoothed by 0.4 nats. Means over "
        "seeds, bands 95% bootstrap intervals of the mean. β = 2.5 with γ = 0.15 and 0.6 are the paper's for "
        "Mistral-Instruct and Llama3-Instruct, and the α are of its search; as in the authors' code, γ and α count β "
        "times: the margin asked for is β(γ + αz). The paper does not say which setting its figures have. 700 steps of "
        "Adam with exact expectations, whose rate falls from 0.3 to 0 as a cosine, where the paper has an epoch of "
        "batches. Panel (a) of the paper's Fig. 4, win rates over α, is in alpha_table2."
    ),
    alt=(
        "Six panels. Densities of margins of SimPO become flat and wide as γ grows; those of α-DPO become a little "
        "flatter as α grows. Densities of likelihoods widen in both. Standard deviations and the mean of −log π of "
        "chosen responses rise with γ and with α."
    ),
    axes={"objective": ("simpo", "alpha_dpo")},
    batch={"seed": seeds(20)},
    constants={"beta": 2.5, "gamma": (0.0, 0.15, 0.3, 0.6), "alpha": (0.0, 0.05, 0.1, 0.2), "points": 61, "steps": 700},
    quick={"seed": seeds(3)},
    panels=(2, 3),
    size=(7.2, 4.2),
    headline="margin_sd",
    minutes=0.1,
)

_GAMMA = 0.15
"""The margin γ of α-DPO, per unit of β: that of the paper's setting for Mistral-Instruct, whose β is 2.5."""


def run_cell(params):
    """Train one objective for all numbers, and measure how margins and likelihoods are distributed then."""
    problems = {seed: length_bias(2, 4, bias=0.0, seed=seed) for seed in params["seed"]}
    runs = [(number, seed, loss) for number, loss in _losses(params).items() for seed in problems]
    histories = train_many(
        [(problems[seed], loss) for _, seed, loss in runs],
        steps=params["steps"],
        record_every=params["steps"],
        mode="population",
        optimiser="adam",
        learning_rate=0.3,
        schedule="cosine",
        dtype="float64",
        metrics=(),
    )
    frames = [
        _measured(history, params["points"]).assign(number=number, seed=seed)
        for (number, seed, _), history in zip(runs, histories, strict=True)
    ]
    return pd.concat(frames, ignore_index=True).assign(objective=params["objective"])


def _losses(params):
    """Return the losses by the number that is varied."""
    scale = {"beta": params["beta"], "gamma_form": "ratio"}
    if params["objective"] == "simpo":
        return {gamma: objective("simpo", gamma=gamma, **scale) for gamma in params["gamma"]}
    return {alpha: objective("alpha_dpo", gamma=_GAMMA, alpha=alpha, **scale) for alpha in params["alpha"]}


def _measured(history, points):
    """Return densities of reward margins and of log π(y_w) over pairs of two responses, their means and spreads."""
    pairs, _ = snapshot_pairs(history.problem, history.policy, history.loss)
    margin = to_array(reward_margin(pairs, history.loss.hyperparameters["beta"], length_normalise=True))
    log_pi = np.broadcast_to(to_array(pairs.chosen.log_pi), margin.shape)
    weights = history.problem.pair_probs() * ~np.eye(margin.shape[-1], dtype=bool)  # a response is no pair with itself
    weights = weights.ravel() / weights.sum()
    rows = []
    for (quantity, (low, high)), values in zip(_RANGES.items(), (margin, log_pi), strict=True):
        numbers, grid = values.ravel(), np.linspace(low, high, points)
        rows += [(quantity, x, y) for x, y in zip(grid, _density(numbers, weights, grid), strict=True)]
        mean = weights @ numbers
        rows += [(f"{quantity}_mean", 0.0, mean), (f"{quantity}_sd", 0.0, np.sqrt(weights @ (numbers - mean) ** 2))]
    return pd.DataFrame(rows, columns=["quantity", "x", "value"])


_RANGES = {"margin": (-6.0, 6.0), "log_pi": (-9.0, 0.5)}
"""Where densities are drawn, in nats."""

_WIDTH = 0.4
"""The standard deviation by which densities are smoothed, in nats."""


def _density(values, weights, grid):
    """Return the density of weighted values at the points of a grid, smoothed by a normal kernel."""
    kernel = np.exp(-0.5 * ((grid[:, None] - values) / _WIDTH) ** 2) / (_WIDTH * np.sqrt(2.0 * np.pi))
    return kernel @ weights


def summarise(df):
    """Average over seeds; what is one number for each value of γ or α stands at that value."""
    points = mean_bands(df, ["objective", "number", "quantity", "x"], "value").rename(columns={"objective": "panel"})
    single = ~points["quantity"].isin(list(_RANGES))
    names = zip(points["panel"], points["number"], strict=True)
    points["series"] = [f"{_SYMBOLS[panel]} = {number:g}" for panel, number in names]
    points.loc[single, "x"] = points.loc[single, "number"]
    points.loc[single, "series"] = points.loc[single, "quantity"]
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_SYMBOLS = {"simpo": "γ", "alpha_dpo": "α"}
_TITLES = {"simpo": "SimPO", "alpha_dpo": "α-DPO"}
_COLOURS = (OKABE_ITO[0], OKABE_ITO[5], OKABE_ITO[3], OKABE_ITO[6])
_LINES = ("-", (0, (4, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1, 1.2)))
_SUMMARIES = {
    "log_pi_mean": (OKABE_ITO[0], r"mean of −log π($y_w$)", -1.0),
    "log_pi_sd": (OKABE_ITO[1], r"s.d. of log π($y_w$)", 1.0),
    "margin_sd": (OKABE_ITO[5], "s.d. of the margin", 1.0),
}
"""Colour, name and sign of what is one number for each γ or α."""


def draw(df, axes):
    """Draw a row for each objective: both distributions, and how wide they are."""
    for row, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        for axis, first, quantity in zip(axes[row], axes[0], _RANGES, strict=False):
            axis.sharey(first)
            curves = rows[rows["quantity"] == quantity].groupby("series", sort=False)
            for (name, curve), colour, line in zip(curves, _COLOURS, _LINES, strict=False):
                draw_band(axis, curve, color=colour, linestyle=line, label=name)
            axis.margins(x=0)
        axes[row, 0].legend(loc="upper left")
        axes[row, 2].sharey(axes[0, 2])
        for (quantity, (colour, words, sign)), line in zip(_SUMMARIES.items(), _LINES, strict=False):
            curve = rows[rows["quantity"] == quantity]
            curve = curve.assign(**{name: sign * curve[name] for name in ("mean", "lo", "hi")})
            draw_band(axes[row, 2], curve, color=colour, linestyle=line, label=words, marker="o", markersize=2.5)
        axes[row, 0].set_ylabel(f"{_TITLES[str(panel)]}\nprobability density")
        axes[row, 2].set_xlabel(_SYMBOLS[str(panel)])
    axes[0, 2].set_ylim(0.0, 5.4)
    axes[0, 2].legend(loc="upper left")
    axes[0, 2].set_title("mean and s.d. [nats]")
    axes[1, 0].set_xlabel(r"reward margin r($y_w$) − r($y_l$) [nats]")
    axes[1, 1].set_xlabel(r"log π($y_w$) [nats]")
