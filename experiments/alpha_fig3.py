"""Figure 3 of the α-DPO paper: divergence from the reference along training, and what it buys."""

import numpy as np
import pandas as pd

from didsim import Policy, kl, objective, preference_probabilities, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends
from didsim.worlds import length_bias

SPEC = Spec(
    id="alpha_fig3",
    title="Divergence from the reference under α-DPO, and the true win rate that it buys",
    source="α-DPO paper, Fig. 3",
    caption=(
        "How far α-DPO (α = 0 is SimPO) moves from π_ref during training, and what it gains by it. "
        "Left and middle: the sequential divergence Σ_t KL(π_ref‖π) along chosen and along rejected responses. The "
        "paper finds that it stays as it is, or falls a little, as α grows; here it grows with α at every step, for "
        "chosen and rejected responses alike, since a pair in which π has moved further than in others is asked for a "
        "larger margin still. Right: how often a response of the policy is preferred to one of π_ref by the true "
        "reward, against KL(π‖π_ref), with dots at four checkpoints; grey: the policies π_ref e^{sr} of exact "
        "reinforcement learning with the true reward r. All α share one path, α = 0.2 a little below it: at equal "
        "divergence a larger α wins no more, it goes further along. No curve bends down as over-optimisation would, "
        "neither for a labeller of the true reward (top) nor for one who adds half a nat for each token (bottom); but "
        "far more could be won at the same divergence. Responses are the 15 sequences of up to three of two tokens. "
        "Means over seeds, bands 95% bootstrap intervals of the mean. β = 2.5 and γ = 0.15 are the paper's for "
        "Mistral-Instruct and the α are those of its search; as in the authors' code, γ and α count β times: the "
        "margin asked for is β(γ + αz). The paper does not say which setting its figure has. 800 steps of Adam on "
        "batches of 128 pairs, whose rate falls from 2e-2 to 0 as a cosine; the paper trains language models in this "
        "way for one epoch, with a warm-up of 10%."
    ),
    alt=(
        "Six panels. Divergences along chosen and rejected responses rise and level off, the higher the larger α. "
        "Against the divergence, the win rates of all α rise along one curve, well below that of exact reinforcement "
        "learning."
    ),
    axes={"bias": (0.0, 0.5)},
    batch={"seed": seeds(20), "alpha": (0.0, 0.01, 0.05, 0.1, 0.2)},
    constants={"beta": 2.5, "gamma": 0.15, "steps": 800, "record_every": 10, "batch_size": 128},
    quick={"seed": seeds(3), "alpha": (0.0, 0.2), "steps": 100},
    panels=(2, 3),
    size=(7.2, 4.4),
    headline="win_rate",
    minutes=0.2,
)


def run_cell(params):
    """Train α-DPO for every α on labels with one bias for length, and measure the policies on the way."""
    problems = {seed: length_bias(2, 3, params["bias"], seed=seed) for seed in params["seed"]}
    numbers = {"beta": params["beta"], "gamma": params["gamma"], "gamma_form": "ratio"}
    runs = [(alpha, seed) for alpha in params["alpha"] for seed in problems]
    histories = train_many(
        [(problems[seed], objective("alpha_dpo", alpha=alpha, **numbers)) for alpha, seed in runs],
        steps=params["steps"],
        record_every=params["record_every"],
        batch_size=params["batch_size"],
        optimiser="adam",
        learning_rate=2e-2,
        schedule="cosine",
        seed=[seed for _, seed in runs],
        metrics=(),
        keep_policies=True,
    )
    frames = []
    for (alpha, seed), history in zip(runs, histories, strict=True):
        frame = pd.DataFrame({"x": history.steps, **_measured(problems[seed], history.policies)})
        frames.append(frame.assign(seed=seed, series=f"α = {alpha:g}"))
    for seed, problem in problems.items():
        frame = pd.DataFrame({"x": _TILTS, **_measured(problem, _tilted(problem))})
        frames.append(frame.assign(seed=seed, series="exact RL"))
    rows = pd.concat(frames, ignore_index=True).melt(["seed", "series", "x"], var_name="quantity")
    return rows.assign(bias=params["bias"])


_TILTS = np.linspace(0.0, 6.0, 61)
"""The exponents s of the policies π_ref e^{sr} of exact reinforcement learning with the true reward."""


def _tilted(problem):
    """Return the policies π_ref e^{sr}, r = log π*/π_ref, one for each exponent."""
    log_ref = problem.reference.log_probs
    return Policy.from_logits(log_ref + _TILTS[:, None] * (problem.target.log_probs - log_ref))


def _measured(problem, policy):
    """Return divergences of policies [..., K] from the reference, in nats, and how often they win against it."""
    wins = preference_probabilities(problem.target, problem.reference)  # by the true reward, not by the labeller's
    sequential = _sequential_kl(problem, policy)
    return {
        "kl": kl(policy, problem.reference),
        "kl_chosen": sequential @ problem.chosen.probs,
        "kl_rejected": sequential @ problem.rejected.probs,
        "win_rate": policy.probs @ wins @ problem.reference.probs,
    }


def _sequential_kl(problem, policy):
    """Return Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t)) for each response y, [..., K], in nats."""
    space = problem.space
    reference, trained = (Policy(space.next_log_probs(one.log_probs)) for one in (problem.reference, policy))
    made = np.arange(space.max_length) < space.lengths[:, None]
    return (kl(reference, trained)[..., space.contexts] * made).sum(axis=-1)


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["bias", "series", "quantity", "x"], "value")
    points["panel"] = points["bias"].map("bias {:g}".format)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_COLOURS = (OKABE_ITO[6], OKABE_ITO[1], OKABE_ITO[3], OKABE_ITO[5], OKABE_ITO[0])
_LINES = ((0, (1, 1.2)), "-", (0, (4, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (7, 1.5)))

_CHECKPOINTS = 4
"""So many places of training are marked, as in the paper."""


def draw(df, axes):
    """Draw a row for each labeller: the divergences along training, and the win rate against the divergence."""
    for row, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        names = [name for name in rows["series"].unique() if name != "exact RL"]
        _draw_path(axes[row, 2], rows[rows["series"] == "exact RL"], {"color": "0.6", "label": "exact RL"}, False)
        for name, colour, line in zip(names, _COLOURS, _LINES, strict=False):
            curves, style = rows[rows["series"] == name], {"color": colour, "linestyle": line, "label": name}
            for axis, quantity in zip(axes[row], ("kl_chosen", "kl_rejected"), strict=False):
                draw_band(axis, curves[curves["quantity"] == quantity], **style)
            _draw_path(axes[row, 2], curves, {**style, "label": "_"}, True)
        axes[row, 0].set_ylabel(f"labeller's {panel}\nSeqKL($y_w$) [nats]")
        axes[row, 1].set_ylabel("SeqKL($y_l$) [nats]")
        axes[row, 2].set_ylabel("true win rate")
        axes[row, 2].set_xlim(0.0, 1.15 * rows[(rows["quantity"] == "kl") & rows["series"].isin(names)]["mean"].max())
        for axis in axes[row, :2]:
            axis.margins(x=0)
            label_ends(axis)
    for axis, label in zip(
        axes[1], ("training step", "training step", r"KL(π‖$\pi_{\mathrm{ref}}$) [nats]"), strict=True
    ):
        axis.set_xlabel(label)
    axes[0, 2].legend(loc="lower right")


def _draw_path(axis, curves, style, marked):
    """Draw the win rate against the divergence; dots mark checkpoints."""
    along, heights = (curves[curves["quantity"] == name]["mean"].to_numpy() for name in ("kl", "win_rate"))
    axis.plot(along, heights, **style)
    if marked:
        every = max(1, (len(along) - 1) // _CHECKPOINTS)
        look = {"linestyle": "", "marker": "o", "markersize": 2.5, "color": style["color"]}
        axis.plot(along[every::every], heights[every::every], **look)
