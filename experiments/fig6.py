"""Figure 6 of the DID paper: the true reward of policies trained with the log-ratio reward, and with log π."""

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from didsim import Policy, Problem, closed_form, kl, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import draw_band, objective_look

SPEC = Spec(
    id="fig6",
    title="Expected true reward under the log-ratio reward and under log π",
    source="DID paper, Fig. 6",
    caption=(
        "Expected true reward, less that of π_ref, of the policies to which r = β log π/π_ref (DPO) and r′ = β log π "
        "lead, from preferences that are Bradley–Terry in the reward R ~ N(0, 1) of 32 responses. Lines: exactly, π ∝ "
        "π_ref e^{R/β} and π ∝ e^{R/β}; dots: after 2000 steps of training from π_ref, which are too few for small β, "
        "and where log π has far to go. Columns differ in how log π_ref is correlated with R. Top: at equal β the "
        "log-ratio reward wins if π_ref knows something of R, loses if it has it wrong, and draws if it knows nothing. "
        "So a higher reward at the same β, from which the paper's Fig. 6 infers what preferences encode, says how good "
        "π_ref is: the preferences are the same throughout. Bottom: at equal KL(π‖π_ref) the log-ratio reward wins "
        "always, since its policy maximises E R − β KL(π‖π_ref). Means over seeds, bands 95% bootstrap intervals of "
        "the mean. The paper takes the best β of four for a language model, and the reward of a reward model."
    ),
    alt=(
        "Six panels. In the first row DPO's curve lies below that of log π for a negative correlation, on it for "
        "none, above it for a positive one; in the second row always above."
    ),
    axes={"correlation": (-0.7, 0.0, 0.7)},
    batch={"seed": seeds(20), "beta": (0.2, 0.5, 1.0, 2.0, 5.0)},
    constants={"num_classes": 32, "steps": 2000, "points": 21},
    quick={"seed": seeds(3), "steps": 300},
    panels=(2, 3),
    size=(7.0, 4.2),
    headline="gain",
    minutes=0.1,
)

_REWARDS = ("dpo", "log_pi")


def run_cell(params):
    """Compute where both rewards lead for every β, and train with some, for one correlation."""
    worlds = {seed: _world(params["num_classes"], params["correlation"], seed) for seed in params["seed"]}
    betas = np.geomspace(min(params["beta"]), max(params["beta"]), params["points"])
    rows = []
    for name in _REWARDS:
        for seed, (problem, reward) in worlds.items():
            for beta in betas:
                policy = closed_form(problem, objective(name, beta=float(beta)))
                rows += _measured((name, seed, float(beta)), problem, reward, policy, "")
    runs = [(name, seed, beta) for name in _REWARDS for seed in worlds for beta in params["beta"]]
    histories = train_many(
        [(worlds[seed][0], objective(name, beta=beta)) for name, seed, beta in runs],
        steps=params["steps"],
        record_every=params["steps"],
        seed=[seed for _, seed, _ in runs],
        metrics=(),
    )
    for run, history in zip(runs, histories, strict=True):
        rows += _measured(run, *worlds[run[1]], history.policy, "_trained")
    frame = pd.DataFrame(rows, columns=["objective", "seed", "x", "quantity", "value"])
    return frame.assign(correlation=params["correlation"])


def _world(num_classes, correlation, seed):
    """Return a problem whose pairs are Bradley–Terry in a reward, w, l ∝ π_ref e^{±R/2}, and the reward."""
    reward, other = np.random.default_rng(seed).standard_normal((2, num_classes))
    log_ref = correlation * reward + np.sqrt(1.0 - correlation**2) * other
    reference, target, rejected, chosen = (Policy.from_logits(log_ref + s * reward) for s in (0.0, 1.0, -0.5, 0.5))
    return Problem(reference, target, rejected, chosen), reward


def _measured(run, problem, reward, policy, kind):
    gain = float((policy.probs - problem.reference.probs) @ reward)
    return [(*run, f"gain{kind}", gain), (*run, f"kl{kind}", float(kl(policy, problem.reference)))]


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["correlation", "objective", "quantity", "x"], "value")
    points["panel"] = "correlation " + points["correlation"].map(lambda value: f"{value:g}".replace("-", "−"))
    points = points.rename(columns={"objective": "series"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw the gain against β, and against the divergence from the reference."""
    for column, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        for name, points in rows.groupby("series", sort=False):
            colour, (line, label) = objective_look(str(name))[0], _LOOKS[str(name)]
            look = {"color": colour, "linestyle": line, "label": label}
            of = {quantity: part for quantity, part in points.groupby("quantity")}
            draw_band(axes[0, column], of["gain"], **look)
            axes[1, column].plot(of["kl"]["mean"], of["gain"]["mean"], **look)
            dots = {"color": colour, "marker": "o", "markersize": 2.5, "linestyle": ""}
            axes[0, column].plot(of["gain_trained"]["x"], of["gain_trained"]["mean"], **dots)
            axes[1, column].plot(of["kl_trained"]["mean"], of["gain_trained"]["mean"], **dots)
        axes[0, column].set_xscale("log")
        ticks = rows.loc[rows["quantity"] == "gain_trained", "x"].unique()
        axes[0, column].set_xticks(ticks, [f"{beta:g}" for beta in ticks])
        axes[0, column].xaxis.set_minor_locator(NullLocator())
        axes[0, column].set_title(panel)
        axes[0, column].set_xlabel("β")
        axes[1, column].set_xlabel(r"KL(π‖$\pi_{\mathrm{ref}}$) [nats]")
    for axis in axes[:, 0]:
        axis.set_ylabel("expected reward gained")
    axes[0, 0].legend()


_LOOKS = {"dpo": ("-", r"β log π/$\pi_{\mathrm{ref}}$"), "log_pi": ((0, (4, 1.5)), "β log π")}
