"""Figure 1, right, of the DID paper: which objective comes nearest to the target policy, for τ = 4."""

from didsim.experiment import Spec, mean_bands, seeds, select_tuned, train_grid
from didsim.plotting import draw_objectives, label_ends

SPEC = Spec(
    id="fig1_right",
    title="JS(π*‖π) during training at τ = 4",
    source="DID paper, Fig. 1 right",
    caption=(
        "Jensen–Shannon divergence to the target policy π* (nats) at τ = 4: DPO against SLiC, ORPO, SimPO and "
        "Cal-DPO, each at the hyperparameters of its grid with the smallest value over training, averaged over "
        "seeds (an oracle's choice: it looks at the target). Lines are means over seeds, bands 95% bootstrap "
        "intervals of the mean. Training starts at π_ref; the paper does not state its number of steps."
    ),
    alt="Five curves on a logarithmic scale: DPO falls two orders of magnitude below the four others.",
    axes={"seed": seeds(20)},
    batch={"taus": (4.0,), "objectives": ("dpo", "slic", "orpo", "simpo", "cal_dpo")},
    constants={"num_classes": 32, "steps": 6000, "record_every": 100},
    quick={"seed": seeds(3), "steps": 2000},
    size=(3.4, 2.5),
    headline="js_target",
    minutes=0.6,
)


def run_cell(params):
    """Train the whole grid of one seed as one batch."""
    return train_grid(**params)


def summarise(df):
    """Average the runs tuned by the paper's rule over seeds."""
    tuned = select_tuned(df).query("rule == 'minimum'")
    points = mean_bands(tuned, ["tau", "objective", "hyperparameters", "step"], "js_target")
    points = points.rename(columns={"objective": "series", "step": "x"})
    points = points.assign(quantity="js_target", panel="τ = " + points["tau"].map("{:g}".format))
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def draw(df, axes):
    """Draw all objectives in one panel."""
    axis = axes[0, 0]
    draw_objectives(axis, df)
    label_ends(axis)
    axis.set_xlabel("training step")
    axis.set_ylabel("JS(π*‖π) [nats]")
