"""Figure 1, left, of the DID paper: with r = log π the policy becomes the differential information."""

import numpy as np
import pandas as pd

from didsim import Policy, Problem, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends

SPEC = Spec(
    id="fig1_left",
    title="JS(q‖π) under the reward r = log π",
    source="DID paper, Fig. 1 left",
    caption=(
        "Jensen–Shannon divergence (nats) between the differential information distribution q of π* over π_ref and "
        "a policy trained with r = log π, for four temperatures: it falls to the noise of sampled training, as "
        "Theorem 3.3 says. Lines are means over seeds, bands 95% bootstrap intervals of the mean. The paper states "
        "neither the initial policy nor the number of steps: here training starts at the uniform policy, since this "
        "reward knows no reference, and takes 20 000 steps, by which all curves are level."
    ),
    alt="Four curves on a logarithmic scale, one per temperature, all falling to about 1e-4 nats or below.",
    axes={"tau": (0.5, 0.8, 2.0, 4.0)},
    batch={"seed": seeds(20)},
    constants={"num_classes": 32, "steps": 20000, "record_every": 400},
    quick={"seed": seeds(3), "steps": 4000},
    size=(3.4, 2.5),
    headline="js_did",
    minutes=0.3,
)


def run_cell(params):
    """Train all seeds of one temperature as one batch."""
    problems = [Problem.from_temperature(params["num_classes"], params["tau"], seed) for seed in params["seed"]]
    histories = train_many(
        [(problem, objective("log_pi")) for problem in problems],
        steps=params["steps"],
        record_every=params["record_every"],
        seed=params["seed"],
        initial_policy=Policy.from_logits(np.zeros(params["num_classes"])),
        metrics=("js_did",),
    )
    frames = [
        history.frame.assign(tau=params["tau"], seed=seed)
        for history, seed in zip(histories, params["seed"], strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["tau", "step"], "js_did").rename(columns={"step": "x"})
    points = points.assign(quantity="js_did", panel="r = log π", series="τ = " + points["tau"].map("{:g}".format))
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw one curve per temperature."""
    axis = axes[0, 0]
    axis.set_yscale("log")
    colours = (OKABE_ITO[6], OKABE_ITO[1], OKABE_ITO[5], OKABE_ITO[3])
    lines = (":", (0, (4, 1.2, 1, 1.2)), "-", (0, (4, 1.5)))
    for (name, points), colour, line in zip(df.groupby("series", sort=False), colours, lines, strict=True):
        draw_band(axis, points, color=colour, linestyle=line, label=str(name))
    axis.margins(x=0)
    axis.locator_params(axis="x", nbins=5)
    label_ends(axis)
    axis.set_xlabel("training step")
    axis.set_ylabel("JS(q‖π) [nats]")
