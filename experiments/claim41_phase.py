"""Claim 4.1 of the DID paper on a map: which updates have a differential information below the reference's entropy."""

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from matplotlib.ticker import NullLocator

from didsim import Policy, Problem, did, entropy, kl
from didsim.experiment import Spec, mean_bands, seeds

SPEC = Spec(
    id="claim41_phase",
    title="Where Claim 4.1 holds: H(q) − H(π_ref) over updates and references",
    source="DID paper, Claim 4.1",
    caption=(
        "H(q) − H(π_ref) in nats, q being the differential information from π_ref to π, for four families of updates "
        "and references π_ref ∝ exp(σθ), θ ~ N(0, I), of 32 classes, from flat (σ = 1/8) to peaked (σ = 4). Claim 4.1 "
        "expects purple (below 0) of updates that reinforce π_ref and orange (above 0) of those that smooth it; "
        "hatched is where the mean has the other sign, and on the thick line it is 0. Reinforcing by a temperature "
        "meets the claim left of τ = 1/2 only, whatever the reference, since q is π_ref itself there. Boosting the "
        "likeliest response meets it beyond a boost that grows with the sharpness of π_ref. Smoothing by τ ≤ 8 meets "
        "it everywhere on this map; mixing with the uniform policy does not beyond a weight, on the thick line, which "
        "is the smaller the sharper π_ref is: q then concentrates on what π_ref hardly gives. An update in a random "
        "direction neither reinforces nor smooths, and here too the sign follows its size: left of the dotted line, R² "
        "= 8 (log K − H(π_ref)), no update of range R can have a negative one. Dashed: KL(π_ref‖π) = 1 nat, where the "
        "ledger of claims sets the bound that the claim asks for. Means over seeds; bands 95% bootstrap intervals of "
        "the mean are in the CSV. The paper has no such figure: families and references are ours."
    ),
    alt=(
        "Four maps coloured by H(q) − H(π_ref). In the first the sign changes at τ = 1/2; in the second and the fourth "
        "along a curve that rises with the size of the update, in the third along one that falls."
    ),
    axes={"family": ("temperature", "boost", "mixture", "direction")},
    batch={"seed": seeds(20)},
    constants={"num_classes": 32, "points": 25, "sharpness": tuple(2.0 ** (0.5 * k) for k in range(-6, 5))},
    quick={"seed": seeds(3), "points": 9},
    panels=(2, 2),
    size=(7.0, 5.2),
    headline="excess",
    minutes=0.1,
)

_FAMILIES = {
    "temperature": ("temperature:\nreinforcing below 1, smoothing above", "temperature τ", (0.125, 8.0)),
    "boost": (
        "likeliest response boosted:\nreinforcing",
        "factor of its probability, before normalising",
        (1.5, 1500.0),
    ),
    "mixture": (
        "mixed with the uniform policy: smoothing",
        "weight of the uniform policy, that of π_ref being 1",
        (0.01, 100.0),
    ),
    "direction": ("random direction: neither", "range R of log π/π_ref [nats]", (0.25, 16.0)),
}
"""Title, axis, and from where to where the strength of an update goes, in even ratios."""


def run_cell(params):
    """Compute the differential information of every update of one family, for all references."""
    scales = np.array(params["sharpness"])
    strengths = np.geomspace(*_FAMILIES[params["family"]][2], params["points"])
    grid = {"sharpness": np.repeat(scales, len(strengths)), "x": np.tile(strengths, len(scales))}
    frames = []
    for seed in params["seed"]:
        theta = Problem.from_temperature(params["num_classes"], 1.0, seed).reference.log_probs
        references = Policy.from_logits(scales[:, None, None] * theta)
        policies = Policy.from_logits(_update(params["family"], references.log_probs, strengths[:, None], seed))
        excess = entropy(did(policies, references)) - entropy(references)
        certain = np.sqrt(8.0 * (np.log(params["num_classes"]) - entropy(references).ravel()))
        frames += [
            pd.DataFrame({**grid, "value": excess.ravel(), "quantity": "excess", "seed": seed}),
            pd.DataFrame({**grid, "value": kl(references, policies).ravel(), "quantity": "kl", "seed": seed}),
            pd.DataFrame({"sharpness": scales, "x": 0.0, "value": certain, "quantity": "certain_range", "seed": seed}),
        ]
    return pd.concat(frames, ignore_index=True).assign(family=params["family"])


def _update(family, log_ref, strength, seed):
    """Return the logits of π for each reference [S, 1, K] and strength [N, 1]."""
    if family == "temperature":
        return log_ref / strength
    if family == "boost":
        return log_ref + np.log(strength) * (log_ref == log_ref.max(axis=-1, keepdims=True))
    if family == "mixture":
        return np.logaddexp(log_ref, np.log(strength / log_ref.shape[-1]))
    direction = np.random.default_rng([seed, 1]).standard_normal(log_ref.shape[-1])
    return log_ref + strength * direction / np.ptp(direction)


def summarise(df):
    """Average over seeds, point by point of the maps."""
    points = mean_bands(df, ["family", "sharpness", "quantity", "x"], "value")
    points["series"] = "σ = " + points["sharpness"].map("{:.3g}".format)
    points["panel"] = points["family"]
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw a map for each family, one colour bar for all."""
    maps = zip(axes.flat, df.groupby("panel", sort=False), strict=True)
    colours = [_draw_map(axis, family, rows) for axis, (family, rows) in maps][-1]
    for axis in axes[:, 0]:
        axis.set_ylabel(r"sharpness σ of $\pi_{\mathrm{ref}}$")
    bar = axes[0, 0].figure.colorbar(colours, ax=axes, shrink=0.8, aspect=35)
    bar.set_label(r"H(q) − H($\pi_{\mathrm{ref}}$) [nats]")


def _draw_map(axis, family, rows):
    """Draw the map of one family, and return what its colours mean."""
    names = list(rows["series"].unique())
    scales = np.array([float(name.partition("=")[2]) for name in names])
    excess, moved, certain = (
        rows[rows["quantity"] == quantity].pivot_table(index="series", columns="x", values="mean").loc[names]
        for quantity in ("excess", "kl", "certain_range")
    )
    strengths = excess.columns.to_numpy(float)
    title, label, _ = _FAMILIES[family]
    axis.set(xscale="log", yscale="log", title=title, xlabel=label.replace("π_ref", r"$\pi_{\mathrm{ref}}$"))
    axis.grid(False)
    levels = np.linspace(-2.0, 2.0, 17)
    colours = axis.contourf(
        strengths, scales, excess, levels, norm=CenteredNorm(halfrange=2.0), cmap="PuOr_r", extend="both"
    )
    axis.contour(strengths, scales, excess, [0.0], colors="black", linewidths=1.6)
    axis.contour(strengths, scales, moved, [1.0], colors="0.25", linewidths=0.8, linestyles="dashed")
    for part, wrong in _against(family, strengths):
        hatching = {"colors": "none", "hatches": ["////"]}
        axis.contourf(strengths[part], scales, excess.to_numpy()[:, part], wrong, **hatching)
    if family == "direction":
        axis.plot(certain.to_numpy()[:, 0], scales, linestyle=":", color="black")
    ticks = {"temperature": (0.125, 0.25, 0.5, 1, 2, 4, 8), "direction": (0.25, 0.5, 1, 2, 4, 8, 16)}.get(family)
    for axle, places in ((axis.xaxis, ticks), (axis.yaxis, (0.125, 0.25, 0.5, 1, 2, 4))):
        if places:
            axle.set_ticks(places, [f"{place:g}" for place in places])
        axle.set_minor_locator(NullLocator())
    axis.set_xlim(strengths[0], strengths[-1])
    axis.set_ylim(scales[0], scales[-1])
    return colours


def _against(family, strengths):
    """Return which strengths have which sign of H(q) − H(π_ref) against the claim, as levels."""
    above, below, every = [0.0, np.inf], [-np.inf, 0.0], np.full(len(strengths), True)
    if family == "temperature":
        return [(strengths <= 1.0, above), (strengths >= 1.0, below)]
    return {"boost": [(every, above)], "mixture": [(every, below)], "direction": []}[family]
