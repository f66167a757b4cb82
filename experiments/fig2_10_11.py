"""Figures 2, 10 and 11 of the DID paper: likelihood displacement, by entropy and by where pairs come from."""

from fractions import Fraction

import numpy as np
import pandas as pd

from didsim import Policy, Problem, entropy, kl, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends

SPEC = Spec(
    id="fig2_10_11",
    title="Likelihood displacement under DPO, and what predicts it",
    source="DID paper, Figs. 2, 10 and 11",
    caption=(
        "How far the mean log-likelihoods of chosen (top) and rejected (bottom) responses move when DPO (β = 1) "
        "learns a differential information q of low entropy (left: π* reinforces π_ref) or of high entropy (middle: "
        "π* smooths it), for pairs of the same preference probabilities from four places: w ∝ π_ref e^{su}, l ∝ w "
        "e^{−u}, with e^u ∝ π*/π_ref. s = 0 is the DID construction, s = 1 draws chosen responses from π*. The paper "
        "observes displacement together with a high entropy. Here low entropy displaces chosen responses too, and "
        "more: both fall at s = 0, where nothing could raise them, and at s = −1, and both rise at s = 1. Right: what "
        "decides is s. The first move is (1/2) ⟨w − π_ref, w − l⟩ per unit of step (lines; dots: one step of exact "
        "gradient descent), which changes its sign at s = 0, and the whole move up to π* is KL(w‖π_ref) − KL(w‖π*), "
        "which does so near s = 1/2, for low and high entropy alike; between the two, likelihoods rise at first and "
        "end below their start. Means over seeds, bands 95% bootstrap intervals of the mean; 32 classes; the "
        "low-entropy runs have not arrived after 4000 steps. The paper's figures are of language models."
    ),
    alt=(
        "Curves of log-likelihoods against training steps for four values of s, which fan out in the same order for "
        "low and for high entropy; and two curves against s that change sign at 0 and near one half."
    ),
    axes={"tau": (1 / 3, 3.0)},
    batch={"seed": seeds(20), "powers": (-1.0, 0.0, 0.5, 1.0)},
    constants={"num_classes": 32, "steps": 4000, "record_every": 100},
    quick={"seed": seeds(3), "steps": 1000},
    panels=(2, 3),
    size=(7.2, 4.2),
    headline="log_pi_chosen",
    minutes=0.2,
)

_POWERS = tuple(np.linspace(-1.5, 1.5, 13))
"""Of chosen responses w ∝ π_ref e^{su}, in the panels on the right."""

_SMALL = 1e-4
"""A learning rate at which one step is the derivative."""


def run_cell(params):
    """Train DPO in the worlds of one temperature, and predict its first and its last move."""
    train = {"steps": params["steps"], "record_every": params["record_every"]}
    tiny = {"steps": 1, "mode": "population", "optimiser": "sgd", "clip": None, "learning_rate": _SMALL}
    curves = _trained(params, params["powers"], **train).melt(["seed", "power", "x"], var_name="quantity")
    first = _trained(params, _POWERS, dtype="float64", **tiny).query("x == 1")
    first = first.assign(value=first["log_pi_chosen"] / _SMALL, quantity="rate", x=first["power"])
    closed = pd.DataFrame(
        [
            {"seed": seed, "x": power, "quantity": quantity, "value": value}
            for seed in params["seed"]
            for power in _POWERS
            for quantity, value in _predicted(_world(params, power, seed)).items()
        ]
    )
    series = "s = " + curves["power"].map(_written)
    rows = pd.concat([curves.assign(series=series), first.assign(series="all s"), closed.assign(series="all s")])
    return rows[["series", "quantity", "x", "seed", "value"]].assign(tau=params["tau"])


def _trained(params, powers, **settings):
    """Train DPO for all powers and seeds as one batch; return how far both log-likelihoods have moved."""
    runs = [(power, seed) for power in powers for seed in params["seed"]]
    metrics = ["log_pi_chosen", "log_pi_rejected"]
    histories = train_many(
        [(_world(params, power, seed), objective("dpo", beta=1.0)) for power, seed in runs],
        seed=[seed for _, seed in runs],
        metrics=tuple(metrics),
        **settings,
    )
    frames = []
    for (power, seed), history in zip(runs, histories, strict=True):
        frame = history.frame.rename(columns={"step": "x"})
        frame[metrics] -= frame[metrics].iloc[0]
        frames.append(frame.assign(power=power, seed=seed))
    return pd.concat(frames, ignore_index=True)


def _world(params, power, seed):
    """Return a problem in which DPO ends at π* ∝ π_ref^{1/τ} = π_ref e^u, from pairs w ∝ π_ref e^{su}, l ∝ w e^{−u}."""
    log_ref = Problem.from_temperature(params["num_classes"], params["tau"], seed).reference.log_probs
    update = (1.0 / params["tau"] - 1.0) * log_ref
    steps = (0.0, 1.0, power - 1.0, power)
    reference, target, rejected, chosen = (Policy.from_logits(log_ref + step * update) for step in steps)
    return Problem(reference, target, rejected, chosen)


def _written(power):
    """Return a number with a minus sign that is one."""
    return f"{power:g}".replace("-", "−")


def _predicted(problem):
    """Return the first move of E log π(y_w) per unit of step, the whole one, and what the entropies are."""
    chosen, rejected, reference = (p.probs for p in (problem.chosen, problem.rejected, problem.reference))
    return {
        "rate_predicted": 0.5 * (chosen - reference) @ (chosen - rejected),
        "end": float(kl(problem.chosen, problem.reference) - kl(problem.chosen, problem.target)),
        "entropy_did": float(entropy(problem.did)),
        "entropy_reference": float(entropy(problem.reference)),
    }


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["tau", "series", "quantity", "x"], "value")
    points["panel"] = "τ = " + points["tau"].map(lambda tau: str(Fraction(tau).limit_denominator(9)))
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_LOOKS = (
    (OKABE_ITO[6], ":"),
    (OKABE_ITO[0], "-"),
    (OKABE_ITO[3], (0, (4, 1.2, 1, 1.2))),
    (OKABE_ITO[5], (0, (4, 1.5))),
)
"""Of the four places that pairs come from."""

_KINDS = {"low": (OKABE_ITO[1], "-"), "high": (OKABE_ITO[7], (0, (4, 1.5)))}


def draw(df, axes):
    """Draw training in the first two columns, and the first and the last move in the third."""
    for column, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        means = rows.groupby("quantity")["mean"].first()
        kind, sign = ("low", "<") if means["entropy_did"] < means["entropy_reference"] else ("high", ">")
        entropies = f"H(q) = {means['entropy_did']:.2f} {sign} {means['entropy_reference']:.2f} = H"
        axes[0, column].set_title(rf"{kind} entropy ({panel})" + "\n" + rf"{entropies}($\pi_{{\mathrm{{ref}}}}$)")
        for axis, quantity in zip(axes[:, column], ("log_pi_chosen", "log_pi_rejected"), strict=True):
            curves = rows[rows["quantity"] == quantity].groupby("series", sort=False)
            for (name, curve), (colour, line) in zip(curves, _LOOKS, strict=True):
                draw_band(axis, curve, color=colour, linestyle=line, label=name)
            axis.margins(x=0)
        _draw_moves(axes[:, 2], rows, kind)
    for row, letter in zip(axes, "wl", strict=True):
        row[0].set_ylabel(rf"change of E log π($y_{letter}$) [nats]")
    for axis in axes[:, :2].flat:
        label_ends(axis)
    for axis in axes[1, :2]:
        axis.set_xlabel("training step")
    axes[0, 2].set_title("first move")
    axes[0, 2].set_ylabel("nats per unit of step")
    axes[1, 2].set_title("whole move")
    axes[1, 2].set_ylabel("nats")
    axes[1, 2].set_xlabel(r"s of $w \propto \pi_{\mathrm{ref}} e^{su}$")
    for axis in axes[:, 2]:
        axis.axhline(0.0, color="0.5", linewidth=0.6)
        axis.legend()


def _draw_moves(axes, rows, kind):
    """Draw the first and the whole move against s: lines are formulas, dots a step of the engine."""
    colour, line = _KINDS[kind]
    for axis, quantity in zip(axes, ("rate_predicted", "end"), strict=True):
        points = rows[rows["quantity"] == quantity]
        draw_band(axis, points, color=colour, linestyle=line, label=f"{kind} entropy")
        axis.margins(x=0)
    steps = rows[rows["quantity"] == "rate"]
    axes[0].plot(steps["x"], steps["mean"], "o", color=colour, markersize=2.5)
