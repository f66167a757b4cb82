"""Figure 2 of the α-DPO paper: the reference's margin between chosen and rejected responses along training."""

import numpy as np
import pandas as pd

from didsim import Problem, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, family_look, label_ends
from didsim.worlds import bradley_terry

SPEC = Spec(
    id="alpha_fig2",
    title="The margin of the reference, and those of policies, along training",
    source="α-DPO paper, Fig. 2",
    caption=(
        "The margin E log π(y_w) − E log π(y_l) of π_ref (black: means over batches of 128 pairs, as they are drawn; "
        "titles: how many pairs it ranks as they are labelled) and of policies during training with DPO, SimPO and "
        "α-DPO. The paper's figure shows the first: flat and near 0, from which it concludes that a reference cannot "
        "tell chosen responses from rejected ones. Flat it is always, for π_ref does not learn; where it lies says "
        "only where pairs come from. Among 16 responses it is well above 0 for a target that reinforces π_ref, near 0 "
        "where responses are drawn from π_ref and labelled by a reward that has nothing to do with it, and below 0 for "
        "a target that smooths π_ref. DPO adds to it, and so ends at different margins. SimPO and α-DPO start from it "
        "and forget it: for a target that reinforces π_ref they give up part of its margin. On average α-DPO's margins "
        "are nearly those of SimPO, since its z-scores have mean 0; what α changes are single pairs (see "
        "alpha_fig4_6). Means over seeds, bands 95% bootstrap intervals of the mean. β = 2.5, γ = 0.15 and α = 0.05 "
        "are the paper's for Mistral-Instruct, where, as in the authors' code, γ and α count β times: the margin asked "
        "for is β(γ + αz). It does not say which of its settings this figure has, and for DPO its β is 0.1 at most. "
        "1500 steps of Adam on batches of 128 pairs, whose rate falls from 5e-3 to 0 as a cosine; the paper has an "
        "epoch of these, with a warm-up of 10%."
    ),
    alt=(
        "Three panels. The reference's margin is a flat noisy line, well above 0 in the first, near 0 in the second "
        "and below 0 in the third. DPO ends above it everywhere, SimPO and α-DPO together: below it in the first, "
        "above it in the others."
    ),
    axes={"world": ("DID, τ = 1/2", "Bradley–Terry", "DID, τ = 2")},
    batch={"seed": seeds(20), "objective": ("dpo", "simpo", "alpha_dpo")},
    constants={"num_classes": 16, "steps": 1500, "record_every": 30, "batch_size": 128},
    quick={"seed": seeds(3), "steps": 300},
    panels=(1, 3),
    size=(7.2, 2.7),
    headline="margin",
    minutes=0.2,
)

_LOSSES = {
    "dpo": {"beta": 2.5},
    "simpo": {"beta": 2.5, "gamma": 0.15, "gamma_form": "ratio"},
    "alpha_dpo": {"beta": 2.5, "gamma": 0.15, "alpha": 0.05, "gamma_form": "ratio"},
}
"""The paper's setting for Mistral-Instruct, whose γ and α count β times in the authors' code; DPO's β is ours."""


def run_cell(params):
    """Train three objectives in one world, and draw batches to see what the reference says of them."""
    problems = {seed: _world(params["world"], params["num_classes"], seed) for seed in params["seed"]}
    runs = [(name, seed) for name in params["objective"] for seed in problems]
    histories = train_many(
        [(problems[seed], objective(name, **_LOSSES[name])) for name, seed in runs],
        steps=params["steps"],
        record_every=params["record_every"],
        batch_size=params["batch_size"],
        optimiser="adam",
        learning_rate=5e-3,
        schedule="cosine",
        seed=[seed for _, seed in runs],
        metrics=("log_pi_chosen", "log_pi_rejected"),
    )
    frames = []
    for (name, seed), history in zip(runs, histories, strict=True):
        margin = history.frame["log_pi_chosen"] - history.frame["log_pi_rejected"]
        frames.append(pd.DataFrame({"step": history.steps, "value": margin, "seed": seed, "series": name}))
    margins = pd.concat(frames, ignore_index=True).assign(quantity="margin")
    steps = margins["step"].unique()
    facts = [row for seed in problems for row in _reference(problems[seed], seed, steps, params["batch_size"])]
    reference = pd.DataFrame(facts, columns=["seed", "step", "series", "quantity", "value"])
    return pd.concat([margins, reference], ignore_index=True).assign(world=params["world"])


def _world(name, num_classes, seed):
    """Return pairs that the reference ranks mostly right, at random, or mostly wrong."""
    if name == "Bradley–Terry":
        return bradley_terry(num_classes, seed=seed)
    return Problem.from_temperature(num_classes, 0.5 if name == "DID, τ = 1/2" else 2.0, seed)


def _reference(problem, seed, steps, batch_size):
    """Return rows for log π_ref(y_w) − log π_ref(y_l): means over batches of pairs, and how often it is positive."""
    log_ref, pairs = problem.reference.log_probs, problem.pair_probs()[0]
    margin = log_ref[:, None] - log_ref
    drawn = np.random.default_rng([seed, 1]).choice(margin.size, (len(steps), batch_size), p=pairs.ravel())
    ranked = float((pairs * np.heaviside(margin, 0.5)).sum())
    means = zip(steps, margin.ravel()[drawn].mean(axis=1), strict=True)
    return [(seed, step, "batch", "margin", mean) for step, mean in means] + [(seed, 0, "batch", "ranked", ranked)]


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["world", "series", "quantity", "step"], "value")
    points = points.rename(columns={"world": "panel", "step": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw the margins in each world, with the share of pairs that the reference ranks as they are labelled."""
    for axis, (panel, rows) in zip(axes[0], df.groupby("panel", sort=False), strict=True):
        axis.sharey(axes[0, 0])
        for name, curve in rows[rows["quantity"] == "margin"].groupby("series", sort=False):
            known = {"batch": (OKABE_ITO[0], "-", r"$\pi_{\mathrm{ref}}$")}
            colour, line, label = known.get(str(name)) or family_look(str(name))
            draw_band(axis, curve, color=colour, linestyle=line, label=label)
        share = rows[rows["quantity"] == "ranked"]["mean"].iloc[0]
        axis.set_title(f"{panel}\n$\\pi_{{\\mathrm{{ref}}}}$ ranks {share:.0%} right")
        axis.margins(x=0)
        axis.set_xlabel("training step")
    axes[0, 0].set_ylabel(r"E log π($y_w$) − E log π($y_l$) [nats]")
    for axis in axes.flat:
        label_ends(axis, 1.35)
