"""Figure 4 of the DID paper: reinforcing and smoothing, with the true differential information drawn."""

import numpy as np
import pandas as pd

from didsim import Problem, entropy
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends

SPEC = Spec(
    id="fig4",
    title="Policy reinforcing and smoothing, with the true DID",
    source="DID paper, Fig. 4",
    caption=(
        "A reference policy, an update of it that reinforces (τ = 1/4) or smooths (τ = 4), and the differential "
        "information distribution q of the update, over the 32 classes in the order of their reference "
        "probability. The paper's figure is an illustration; here q is the true one. Shaded: classes that lose "
        "probability. Lines are means over seeds, bands 95% bootstrap intervals of the mean. Under this temperature "
        "family q ∝ π_ref^(1/τ − 1): it is π_ref itself at τ = 1/2."
    ),
    alt=(
        "Two panels of probabilities against class rank. Left: the DID and, more sharply, the update concentrate on "
        "the likeliest classes. Right: the update is flatter than the reference, and the DID rises towards the "
        "least likely classes."
    ),
    axes={"tau": (0.25, 4.0)},
    batch={"seed": seeds(20)},
    constants={"num_classes": 32},
    quick={"seed": seeds(3)},
    panels=(1, 2),
    size=(7.0, 2.7),
    headline="entropy",
    minutes=0.02,
)


def run_cell(params):
    """Compute the three policies of each seed, sorted by the reference, and their entropies."""
    frames = []
    for seed in params["seed"]:
        problem = Problem.from_temperature(params["num_classes"], params["tau"], seed)
        order = np.argsort(-problem.reference.log_probs)
        for name, policy in {
            "reference": problem.reference,
            "target": problem.target,
            "did": problem.did,
        }.items():
            ranks = {
                "x": np.arange(1, len(order) + 1),
                "value": policy.probs[order],
                "quantity": "probability",
            }
            total = {"x": [0], "value": [float(entropy(policy))], "quantity": "entropy"}
            both = pd.concat([pd.DataFrame(ranks), pd.DataFrame(total)])
            frames.append(both.assign(seed=seed, tau=params["tau"], series=name))
    return pd.concat(frames, ignore_index=True)


def summarise(df):
    """Average over seeds, class rank by class rank."""
    points = mean_bands(df, ["tau", "series", "quantity", "x"], "value")
    points["panel"] = "τ = " + points["tau"].map("{:g}".format)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw one panel per update, with the entropies in its title."""
    looks = {
        "reference": (OKABE_ITO[0], "-", r"$\pi_{\mathrm{ref}}$"),
        "target": (OKABE_ITO[5], (0, (4, 1.5)), r"$\pi^*$"),
        "did": (OKABE_ITO[6], (0, (4, 1.2, 1, 1.2)), "q"),
    }
    kinds = ("reinforcing", "smoothing")
    for axis, (panel, rows), kind in zip(axes.flat, df.groupby("panel", sort=False), kinds, strict=True):
        points = rows[rows["quantity"] == "probability"]
        axis.set_yscale("log")
        axis.set_xlim(0.5, points["x"].max() + 0.5)
        for name, curve in points.groupby("series", sort=False):
            colour, line, label = looks[str(name)]
            draw_band(axis, curve, color=colour, linestyle=line, label=label)
        _shade_losers(axis, points)
        label_ends(axis)
        entropies = rows[rows["quantity"] == "entropy"].set_index("series")["mean"]
        sign = "<" if entropies["did"] < entropies["reference"] else ">"
        title = rf"H(q) = {entropies['did']:.2f} {sign} H($\pi_{{\mathrm{{ref}}}}$) = {entropies['reference']:.2f}"
        axis.set_title(f"{kind} ({panel})\n{title}")
        axis.set_xlabel("class, in the order of its reference probability")
    axes[0, 0].set_ylabel("probability")


def _shade_losers(axis, points):
    """Shade the classes whose probability the update lowers."""
    means = points.pivot_table(index="x", columns="series", values="mean")
    losers = means.index[means["target"] < means["reference"]]
    axis.axvspan(losers.min() - 0.5, losers.max() + 0.5, color=OKABE_ITO[2], alpha=0.15, linewidth=0)
    label = r"$\pi^* < \pi_{\mathrm{ref}}$"
    axis.text(losers.to_series().mean(), 0.97, label, transform=axis.get_xaxis_transform(), ha="center", va="top")
