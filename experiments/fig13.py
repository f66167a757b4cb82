"""Figure 13 and Appendix K.1 of the DID paper: when a probe of entropies is unstable, and what β′-accuracy tells."""

import numpy as np
import pandas as pd

from didsim import Policy, Problem, beta_accuracy, entropy, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends

SPEC = Spec(
    id="fig13",
    title="The probe of entropies during training, and what its β′-accuracy tells",
    source="DID paper, Fig. 13, Appendix K.1",
    caption=(
        "The probe π̃ that estimates the entropy of the differential information q from π_ref to π ∝ π_ref^{{1/τ}}, in "
        "training (16 classes, r = log π̃, y_w ~ π, y_l ~ π_ref, batches of 64, RMSprop, from π_ref). Top left: how "
        "much its mean log-likelihood changes in a step, over the last half of training so far; it is the learning "
        "rate that decides about the fluctuations of the paper's Fig. 13. Top right: the error of its entropy, which "
        "need not fall steadily: the path from π_ref to q can pass far from both entropies. Bottom left: the "
        "β′-accuracy, the share of positive slopes of log π̃ on log π/π_ref, fitted to four of its samples, which is "
        "to flag a bad probe. Bottom right: one against the other. Colours as above: an update that reinforces (τ < 1, "
        "red and yellow) has an accuracy near 1 from the start, when the error is largest (the rate 0.1 apart, whose "
        "first steps are too long); one that smooths (τ > 1, blue) starts at 0. An accuracy below 1/2 comes with "
        "errors from {low_from} to {low_to} nats, and one above 0.95 with errors from {high_from} to {high_to}: it "
        "tells in which direction π moved more than how good the estimate is. Means over seeds, bands 95% bootstrap "
        "intervals of the mean. The paper compares DPO at β = 0.1 with DPO-PG, for one run each."
    ),
    alt=(
        "Fluctuations grow with the learning rate. Errors fall in the end, for τ = 4 after a rise. The accuracy is 1 "
        "throughout for τ below 1 and climbs from 0 to 1 for τ above. Plotted against one another, points fill both "
        "edges at all heights."
    ),
    axes={"tau": (0.4, 0.7, 1.5, 4.0)},
    batch={"seed": seeds(20), "learning_rate": (1e-3, 1e-2, 1e-1)},
    constants={"num_classes": 16, "steps": 2048},
    quick={"tau": (0.4, 4.0), "seed": seeds(3), "steps": 256},
    panels=(2, 2),
    size=(7.0, 4.8),
    headline="error",
    minutes=0.3,
)


def run_cell(params):
    """Train the probe of one update at every learning rate, and look at it at the powers of 2 among the steps."""
    problems = {seed: _probed(params["num_classes"], params["tau"], seed) for seed in params["seed"]}
    steps = [0, *(2**k for k in range(20) if 2**k <= params["steps"])]
    frames = []
    for rate in params["learning_rate"]:
        histories = train_many(
            [(problem, objective("entropy_probe")) for problem in problems.values()],
            steps=params["steps"],
            record_every=1,
            batch_size=64,
            learning_rate=rate,
            seed=list(problems),
            metrics=("log_pi_chosen",),
            keep_policies=True,
        )
        for seed, history in zip(problems, histories, strict=True):
            frames.append(_observed(history, steps, seed).assign(seed=seed, rate=rate))
    return pd.concat(frames, ignore_index=True).assign(tau=params["tau"])


def _probed(num_classes, tau, seed):
    """Return the problem on which a probe of π ∝ π_ref^{1/τ} is trained: y_w ~ π, y_l ~ π_ref; its target is q."""
    update = Problem.from_temperature(num_classes, tau, seed)
    return Problem(update.reference, update.did, update.reference, update.target)


def _observed(history, steps, seed):
    """Return what can be said of a probe at some steps of its training."""
    problem, policies = history.problem, history.policies.probs
    likelihood = history.metrics["log_pi_chosen"]
    rows = []
    for step in steps:
        probe = Policy.from_probs(policies[step])
        accuracy = beta_accuracy(probe, problem.chosen, problem.reference, draws=1000, seed=seed)
        half = likelihood[step // 2 : step + 1]
        rows += [
            (step, "error", abs(float(entropy(probe) - entropy(problem.target)))),
            (step, "beta_accuracy", accuracy),
            (step, "log_pi_chosen", likelihood[step] - likelihood[0]),
            (step, "fluctuation", float(np.abs(np.diff(half)).mean()) if step else 0.0),
        ]
    return pd.DataFrame(rows, columns=["step", "quantity", "value"])


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["tau", "rate", "quantity", "step"], "value").rename(columns={"step": "x"})
    points["panel"] = "τ = " + points["tau"].map("{:g}".format)
    points["series"] = "rate " + points["rate"].map("{:g}".format)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_RATES = {
    "rate 0.001": (OKABE_ITO[3], (0, (4, 1.5)), "s"),
    "rate 0.01": (OKABE_ITO[0], "-", "o"),
    "rate 0.1": (OKABE_ITO[7], (0, (1, 1.2)), "^"),
}

_UPDATES = {
    "τ = 0.4": (OKABE_ITO[6], "-"),
    "τ = 0.7": (OKABE_ITO[1], (0, (4, 1.5))),
    "τ = 1.5": (OKABE_ITO[2], (0, (4, 1.5))),
    "τ = 4": (OKABE_ITO[5], "-"),
}

_FIRST, _MIDDLE = "τ = 4", "rate 0.01"
"""The update and the learning rate that are drawn where one is."""


def draw(df, axes):
    """Draw fluctuation, error and accuracy against steps, and the last two against one another."""
    curves = df[df["x"] > 0]
    for (rate, rows), (colour, line, _) in zip(_of(curves, "fluctuation", panel=_FIRST), _RATES.values(), strict=True):
        draw_band(axes[0, 0], rows, color=colour, linestyle=line, label=rate)
    for axis, quantity in ((axes[0, 1], "error"), (axes[1, 0], "beta_accuracy")):
        for name, (colour, line) in _UPDATES.items():
            rows = curves[(curves["panel"] == name) & (curves["series"] == _MIDDLE) & (curves["quantity"] == quantity)]
            if len(rows):
                draw_band(axis, rows, color=colour, linestyle=line, label=name)
    axes[0, 0].set_yscale("log")
    for axis in axes.flat[:3]:
        axis.set_xscale("log", base=2)
        axis.margins(x=0)
        axis.set_xlabel("training step")
        label_ends(axis)
    axes[0, 0].set_title(rf"fluctuation of E log $\tildeπ$($y_w$), {_FIRST}")
    axes[0, 0].set_ylabel("change in a step [nats]")
    axes[0, 1].set_title(f"error of the entropy, {_MIDDLE}")
    axes[0, 1].set_ylabel(r"|H($\tildeπ$) − H(q)| [nats]")
    axes[1, 0].set_title(f"β′-accuracy, {_MIDDLE}")
    _draw_flags(axes[1, 1], df)


def _of(df, quantity, panel):
    return df[(df["quantity"] == quantity) & (df["panel"] == panel)].groupby("series", sort=False)


def _draw_flags(axis, df):
    """Draw the error against the β′-accuracy of the same probe, at every step, rate and update."""
    wide = df.pivot_table(index=["panel", "series", "x"], columns="quantity", values="mean").reset_index()
    for (name, rate), rows in wide.groupby(["panel", "series"], sort=False):
        look = {"color": _UPDATES[name][0], "marker": _RATES[rate][2], "markersize": 2.5, "linestyle": ""}
        axis.plot(rows["beta_accuracy"], rows["error"], **look)
    for rate, (_, _, marker) in _RATES.items():
        axis.plot([], [], color="0.35", marker=marker, markersize=2.5, linestyle="", label=rate)
    axis.legend(loc="upper center")
    axis.set_title("every update, step and rate")
    axis.set_xlabel("β′-accuracy")
    axis.set_ylabel(r"|H($\tildeπ$) − H(q)| [nats]")


def numbers(df):
    """Return the range of errors where the accuracy is low, and where it is high."""
    wide = df.pivot_table(index=["panel", "series", "x"], columns="quantity", values="mean")
    low, high = (wide.loc[where, "error"] for where in (wide["beta_accuracy"] < 0.5, wide["beta_accuracy"] > 0.95))
    found = {"low_from": low.min(), "low_to": low.max(), "high_from": high.min(), "high_to": high.max()}
    return {name: f"{value:.2g}" for name, value in found.items()}
