"""Figures 5, 8 and 9 of the DID paper: log-likelihoods and the DPO loss under DPO, DPOP, Cal-DPO and DPO-PG."""

import numpy as np
import pandas as pd

from didsim import Pairs, Policy, Problem, objective, train_many
from didsim.experiment import Spec, describe, mean_bands, seeds
from didsim.plotting import draw_band, label_ends, objective_look
from didsim.torch_bridge import to_array, to_tensor

SPEC = Spec(
    id="fig5_8_9",
    title="Log-likelihoods and the DPO loss under four objectives, by where pairs come from",
    source="DID paper, Figs. 5, 8 and 9",
    caption=(
        "How far the mean log-likelihoods of chosen and rejected responses have moved from π_ref, and the DPO loss of "
        "the same policy (β = 1, whatever was trained), during training with DPO (β = 1), DPOP (β = 1, λ = 50), "
        "Cal-DPO (β = 0.1) and DPO-PG. Each row is a world of 32 classes with π* ∝ π_ref e^u, u ~ N(0, I); they have "
        "the same preference probabilities and the same DPO optimum, π*, but their pairs come from elsewhere: chosen "
        "responses from π*, from π_ref as in the DID construction, or from the side away from π*, always with w/l ∝ "
        "e^u. Whether likelihoods are displaced depends on that and not on the information, which is the same: DPO "
        "raises y_w, or lowers it, or lowers it more. In the DID construction nothing can raise it, since E log π is "
        "largest at π_ref. DPOP's penalty holds the policy at π_ref. Cal-DPO displaces y_w about as much as DPO in "
        "the second row and less in the third, at a higher DPO loss. DPO-PG never lowers y_w by more than {lowered} "
        "nats; but where both responses come from the far side it raises y_l too, and the DPO loss. The paper's "
        "Corollary H.5.1 rules that out for small steps along the projected gradient; here each batch projects its "
        "own noise, and RMSprop rescales the result. Means over seeds, bands 95% bootstrap intervals of the mean. The "
        "paper's figures are of language models, with the DPO loss at β = 0.1; training is that of its tabular "
        "experiments."
    ),
    alt=(
        "Nine panels. Under DPO the likelihood of chosen responses rises in the first row and falls in the second and "
        "third, most in the third. The DPO loss of DPO-PG falls in the first row and rises in the third."
    ),
    axes={"power": (1.0, 0.0, -1.0)},
    batch={"seed": seeds(20), "objective": ("dpo", "dpop", "cal_dpo", "dpo_pg")},
    constants={"num_classes": 32, "steps": 3000, "record_every": 100},
    quick={"seed": seeds(3), "steps": 1000},
    panels=(3, 3),
    size=(7.2, 5.4),
    headline="dpo_loss",
    minutes=0.1,
)

_WORLDS = {
    1.0: ("π*", r"$\pi_{\mathrm{ref}}$"),
    0.0: (r"$\pi_{\mathrm{ref}}$", r"$\pi_{\mathrm{ref}}^2/$π*"),
    -1.0: (r"$\pi_{\mathrm{ref}}^2/$π*", r"$\pi_{\mathrm{ref}}^3/$π*$^2$"),
}
"""Chosen and rejected responses, w ∝ π_ref e^{su} and l ∝ w e^{−u}, by the power s."""

_HYPERPARAMETERS = {"dpo": {"beta": 1.0}, "dpop": {"beta": 1.0, "lam": 50.0}, "cal_dpo": {"beta": 0.1}, "dpo_pg": {}}


def run_cell(params):
    """Train every objective for all seeds of one world as one batch."""
    problems = {seed: _world(params["num_classes"], params["power"], seed) for seed in params["seed"]}
    losses = [objective(name, **_HYPERPARAMETERS[name]) for name in params["objective"]]
    runs = [(seed, loss) for loss in losses for seed in problems]
    histories = train_many(
        [(problems[seed], loss) for seed, loss in runs],
        steps=params["steps"],
        record_every=params["record_every"],
        seed=[seed for seed, _ in runs],
        metrics=("log_pi_chosen", "log_pi_rejected"),
        keep_policies=True,
    )
    frames = []
    for (seed, loss), history in zip(runs, histories, strict=True):
        frame = history.frame.assign(dpo_loss=_dpo_loss(history))
        for name in ("log_pi_chosen", "log_pi_rejected"):
            frame[name] -= frame[name].iloc[0]
        frame = frame.melt(id_vars="step", var_name="quantity")
        frames.append(frame.assign(seed=seed, objective=loss.name, hyperparameters=describe(loss)))
    return pd.concat(frames, ignore_index=True).assign(power=params["power"])


def _world(num_classes, power, seed):
    """Return a problem whose pairs have the log-odds u wherever they come from, so that DPO ends at π_ref e^u."""
    log_ref, update = np.random.default_rng(seed).standard_normal((2, num_classes))
    steps = (0.0, 1.0, power - 1.0, power)
    reference, target, rejected, chosen = (Policy.from_logits(log_ref + step * update) for step in steps)
    return Problem(reference, target, rejected, chosen)


def _dpo_loss(history):
    """Return the population's DPO loss at β = 1 of each recorded policy, [N]."""
    problem, log_pi = history.problem, history.policies.log_probs
    tables = np.broadcast_arrays(
        log_pi[:, :, None], log_pi[:, None, :], problem.reference.log_probs[:, None], problem.reference.log_probs
    )
    names = ("log_pi_chosen", "log_pi_rejected", "log_ref_chosen", "log_ref_rejected")
    pairs = Pairs.from_log_probs(**{name: to_tensor(table.copy()) for name, table in zip(names, tables, strict=True)})
    losses = to_array(objective("dpo", beta=1.0)(pairs))
    return np.einsum("i,j,nij->n", problem.chosen.probs, problem.rejected.probs, losses)


def summarise(df):
    """Average over seeds."""
    by = ["power", "quantity", "objective", "hyperparameters", "step"]
    points = mean_bands(df, by, "value").rename(columns={"objective": "series", "step": "x"})
    points["panel"] = "s = " + points["power"].map("{:g}".format)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


_COLUMNS = {
    "log_pi_chosen": r"change of E log π($y_w$) [nats]",
    "log_pi_rejected": r"change of E log π($y_l$) [nats]",
    "dpo_loss": "DPO loss, β = 1",
}


def draw(df, axes):
    """Draw a row for each world, a column for each quantity."""
    for row, (power, (chosen, rejected)) in enumerate(_WORLDS.items()):
        points = df[df["panel"] == f"s = {power:g}"]
        for axis, first, (quantity, label) in zip(axes[row], axes[0], _COLUMNS.items(), strict=True):
            axis.sharey(first)
            for name, curve in points[points["quantity"] == quantity].groupby("series", sort=False):
                colour, line, words = objective_look(str(name))
                draw_band(axis, curve, color=colour, linestyle=line, label=words)
            axis.set_title("" if row else label, pad=12.0)
        axes[row, 0].set_ylabel(f"$y_w$ ∼ {chosen},  $y_l$ ∼ {rejected}")
    for axis in axes.flat:
        axis.margins(x=0, y=0.12)
        label_ends(axis)
    for axis in axes[-1]:
        axis.set_xlabel("training step")


def numbers(df):
    """Return by how much DPO-PG lowers chosen responses at most."""
    moved = df[(df["series"] == "dpo_pg") & (df["quantity"] == "log_pi_chosen")]["mean"]
    return {"lowered": f"{-moved.min():.1g}"}
