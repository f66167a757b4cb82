"""Figure 1, right, of the DID paper: which objective comes nearest to the target policy, for τ = 4."""

import pandas as pd

from didsim.experiment import Spec, mean_bands, seeds, select_tuned, solve_grid, stationary_levels, train_grid
from didsim.plotting import draw_levels, draw_objectives, label_ends

SPEC = Spec(
    id="fig1_right",
    title="JS(π*‖π) during training at τ = 4",
    source="DID paper, Fig. 1 right",
    caption=(
        "Jensen–Shannon divergence to the target policy π* (nats) at τ = 4: DPO against SLiC, ORPO, SimPO and Cal-"
        "DPO, each at the hyperparameters of its grid with the smallest value over training, averaged over seeds (an "
        "oracle's choice: it looks at the target). Dashed: the same distance of the stationary policy to which those "
        "hyperparameters lead, solved for exactly; for DPO it is 0. Lines are means over seeds, bands 95% bootstrap "
        "intervals of the mean. Training starts at π_ref; the paper does not state its number of steps."
    ),
    alt="Five curves on a logarithmic scale: DPO falls an order of magnitude below the four others.",
    axes={"seed": seeds(20)},
    batch={"taus": (4.0,), "objectives": ("dpo", "slic", "orpo", "simpo", "cal_dpo")},
    constants={"num_classes": 32, "steps": 6000, "record_every": 100},
    quick={"seed": seeds(3), "steps": 2000},
    size=(3.4, 2.5),
    headline="js_target",
    minutes=0.5,
)


def run_cell(params):
    """Train the whole grid of one seed as one batch, and solve for where each run would end."""
    where = {name: params[name] for name in ("objectives", "taus", "seed", "num_classes")}
    trained = train_grid(**params).assign(quantity="js_target")
    return pd.concat([trained, solve_grid(**where).assign(quantity="js_stationary", step=0)], ignore_index=True)


def summarise(df):
    """Average the runs tuned by the paper's rule over seeds, and the stationary policies of the same runs."""
    tuned = select_tuned(df[df["quantity"] == "js_target"]).query("rule == 'minimum'")
    curves = mean_bands(tuned, ["tau", "objective", "hyperparameters", "step"], "js_target")
    levels = stationary_levels(df[df["quantity"] == "js_stationary"], tuned).assign(step=tuned["step"].max())
    points = pd.concat(
        [curves.assign(quantity="js_target"), levels.assign(quantity="js_stationary")], ignore_index=True
    )
    points = points.rename(columns={"objective": "series", "step": "x"})
    points = points.assign(panel="τ = " + points["tau"].map("{:g}".format))
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def draw(df, axes):
    """Draw all objectives in one panel."""
    axis = axes[0, 0]
    draw_objectives(axis, df[df["quantity"] == "js_target"])
    draw_levels(axis, df[df["quantity"] == "js_stationary"])
    label_ends(axis)
    axis.set_xlabel("training step")
    axis.set_ylabel("JS(π*‖π) [nats]")
