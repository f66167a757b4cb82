"""Figure 7 of the DID paper: which objective comes nearest to the target policy, for four temperatures."""

import pandas as pd

from didsim.experiment import RULES, Spec, mean_bands, seeds, select_tuned, solve_grid, stationary_levels, train_grid
from didsim.plotting import draw_levels, draw_objectives, label_ends

SPEC = Spec(
    id="fig7",
    title="JS(π*‖π) during training, DPO against four tuned objectives",
    source="DID paper, Fig. 7",
    caption=(
        "Jensen–Shannon divergence to the target policy π* (nats) during training on pairs that encode the "
        "differential information from π_ref to π*, for two reinforcing (τ < 1) and two smoothing (τ > 1) targets. "
        "Each objective is shown at the hyperparameters of its search grid that are best on average over seeds: by "
        "the smallest value over training (top, the paper's rule) or by the last value (bottom). Where an objective "
        "never improves on its start, its grid ties by the first rule, and the last value decides. Both rules look at"
        " the target, so they are an oracle's. Dashed: the same distance of the stationary policy to which those "
        "hyperparameters lead, solved for exactly and averaged over seeds; for DPO it is 0. What a curve keeps from "
        "its dashed line is slowness, or the noise of sampling; the dashed line itself is bias. Lines are means over "
        "seeds, bands 95% bootstrap intervals of the mean. The paper does not state the number of steps, the initial "
        "policy or the set of τ: here training starts at π_ref and takes 6000 steps, since RMSprop at 1e-3 moves a "
        "logit by about 1 in 1000 steps and the farthest target lies about 2.5 away."
    ),
    alt=(
        "Eight panels of falling curves on a logarithmic scale. In each, DPO ends one to four orders of magnitude "
        "below SLiC, ORPO, SimPO and Cal-DPO, which level off early or rise again, towards dashed lines of their own."
    ),
    axes={"seed": seeds(20)},
    batch={"taus": (0.5, 0.8, 2.0, 4.0), "objectives": ("dpo", "slic", "orpo", "simpo", "cal_dpo")},
    constants={"num_classes": 32, "steps": 6000, "record_every": 100},
    quick={"seed": seeds(3), "steps": 2000},
    panels=(2, 4),
    size=(7.2, 3.9),
    headline="js_target",
    minutes=0.9,
)


def run_cell(params):
    """Train the whole grid of one seed as one batch, and solve for where each run would end."""
    where = {name: params[name] for name in ("objectives", "taus", "seed", "num_classes")}
    trained = train_grid(**params).assign(quantity="js_target")
    return pd.concat([trained, solve_grid(**where).assign(quantity="js_stationary", step=0)], ignore_index=True)


def summarise(df):
    """Average the tuned runs over seeds, for both selection rules, and the stationary policies of the same runs."""
    tuned = select_tuned(df[df["quantity"] == "js_target"])
    curves = mean_bands(tuned, ["rule", "tau", "objective", "hyperparameters", "step"], "js_target")
    levels = stationary_levels(df[df["quantity"] == "js_stationary"], tuned).assign(step=tuned["step"].max())
    points = pd.concat(
        [curves.assign(quantity="js_target"), levels.assign(quantity="js_stationary")], ignore_index=True
    )
    points["panel"] = "τ = " + points["tau"].map("{:g}".format) + ", best by " + points["rule"]
    points = points.rename(columns={"objective": "series", "step": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def draw(df, axes):
    """Draw one panel per temperature and rule."""
    for index, (panel, points) in enumerate(df.groupby("panel", sort=False)):
        row, column = divmod(index, axes.shape[1])
        axis = axes[row, column]
        axis.sharey(axes[0, 0])
        draw_objectives(axis, points[points["quantity"] == "js_target"])
        draw_levels(axis, points[points["quantity"] == "js_stationary"])
        axis.set_title(str(panel).partition(",")[0] if row == 0 else "")
        if row == len(axes) - 1:
            axis.set_xlabel("training step")
        if column == 0:
            axis.set_ylabel(f"JS(π*‖π) [nats]\nbest by {RULES[row]}")
        else:
            axis.tick_params(labelleft=False)
    for axis in axes.flat:
        label_ends(axis)
