"""Figures 6 and 7 of the RMiPO paper: whose rewards match the truth's, training dynamics, and the cost of a step."""

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from didsim import bayes_accuracy, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds
from didsim.objectives import Responses
from didsim.plotting import OKABE_ITO, draw_band, family_look, label_ends, objective_look
from didsim.torch_bridge import to_array, to_tensor
from didsim.worlds import boilerplate, distinct_pairs, win_rate

SPEC = Spec(
    id="rmipo_fig6_7",
    title="Rewards against the true ones, margins and win rates during training, and what a step costs",
    source="RMiPO paper, Figs. 6 and 7",
    caption=(
        "Methods trained on pairs of a world in which four prompts share two popular responses of eight, labelled "
        "by a true reward (1000 batches of 128 pairs, Adam, a cosine from 0.02; β = 1, that of the truth, for DPO, "
        "β- and ε-DPO; SimPO at β = 2 and γ = 1; α-DPO at its paper's β = 2.5, γ = 0.15, α = 0.05 for "
        "Mistral-Instruct, where γ and α count β times; RMiPO as in its paper). Top left: how the "
        "gaps between the rewards of the chosen and the rejected response, as the method implies them, are "
        "distributed over pairs of different responses at the end, and the true ones. Middle: the area between a "
        "method's curve and the truth's. The paper finds RMiPO nearest of SimPO, SimPER and RMiPO. Here SimPER is, "
        "barely, whose rewards cannot differ by more than 1, and SimPO if both are scaled to one variance; DPO, "
        "which the paper's figure leaves out, and ε-DPO are nearer than all three by either. Right: what a step "
        "costs, counted and not timed: a forward pass over prompt and response is 1, a backward pass 2; a reference "
        "(DPO, α-, β-, ε-DPO) is a forward pass more, and π(y) one over the response alone. RMiPO's overhead is a "
        "third for short prompts and small for long ones. The paper times SimPO at 6.17 hours, RMiPO at 6.75, SimPER "
        "at 6.92, DPO, β- and ε-DPO at nearly 8 and α-DPO at about 10. By the count RMiPO is between SimPO and DPO, "
        "too; but SimPER costs what SimPO does, where the paper has it dearer than RMiPO, and α-DPO what DPO does: "
        "these differences are not of passes. A reference pass can be made once for all epochs, which π(y) cannot. "
        "Bottom: margins of the implied rewards, each in its own unit; how often they rank a pair as labelled, less "
        "what the best judge reaches; and how often a response is preferred to one of π_ref. The paper has RMiPO lead "
        "in margin and win rate throughout. Here it goes with SimPO at γ = 1: DPO is first to rank pairs right, β-DPO "
        "has the largest margin, SimPER, which ranks worst, wins most. Means over seeds, bands 95% bootstrap "
        "intervals of the mean."
    ),
    alt=(
        "Cumulative distributions of reward gaps, where DPO lies on the truth; a row of two markers for each of "
        "seven methods; the cost of a step, 4/3 for methods with a reference, falling from 4/3 for RMiPO, 1 for "
        "SimPO; and three panels of rising training curves, in which RMiPO and SimPO lie together."
    ),
    axes={},
    batch={"seed": seeds(20)},
    constants={"num_prompts": 4, "num_classes": 8, "num_popular": 2, "steps": 1000, "record_every": 50},
    quick={"seed": seeds(3), "steps": 200},
    panels=(2, 3),
    size=(7.2, 4.6),
    headline="win_rate",
    minutes=0.2,
)

_LOSSES = {
    "dpo": objective("dpo", beta=1.0),
    "simpo": objective("simpo", beta=2.0, gamma=1.0),
    "alpha_dpo": objective("alpha_dpo", beta=2.5, gamma=0.15, alpha=0.05, gamma_form="ratio"),
    "beta_dpo": objective("beta_dpo", beta=1.0),
    "epsilon_dpo": objective("epsilon_dpo", beta=1.0),
    "simper": objective("simper"),
    "rmipo": objective("rmipo"),
}
"""With the β of the truth where there is a reference; α-DPO and RMiPO as in their papers."""

_GAPS = np.linspace(-4.0, 4.0, 81)

_PROMPT_SHARES = np.linspace(0.0, 0.75, 4)


def run_cell(params):
    """Train every method, compare the rewards that it implies with the true ones, and count what a step evaluates."""
    sizes = {name: params[name] for name in ("num_prompts", "num_classes", "num_popular")}
    problems = {seed: boilerplate(**sizes, seed=seed) for seed in params["seed"]}
    runs = [(name, seed) for name in _LOSSES for seed in problems]
    histories = train_many(
        [(problems[seed], _LOSSES[name]) for name, seed in runs],
        seed=[seed for _, seed in runs],
        steps=params["steps"],
        record_every=params["record_every"],
        batch_size=128,
        optimiser="adam",
        learning_rate=2e-2,
        schedule="cosine",
        metrics=("accuracy",),
        keep_policies=True,
    )
    rows = []
    for (name, seed), history in zip(runs, histories, strict=True):
        rows += [(*fact, name, seed, value) for *fact, value in _dynamics(history)]
    for seed, problem in problems.items():
        gaps, weights = _differences(_true_reward(problem)), distinct_pairs(problem)
        rows += [("rewards", "share", float(x), "truth", seed, _share_below(gaps, weights, x)) for x in _GAPS]
        counts = (
            (name, float(share), _passes(loss, share)) for name, loss in _LOSSES.items() for share in _PROMPT_SHARES
        )
        rows += [("cost", "passes", share, name, seed, count) for name, share, count in counts]  # it knows no chance
    return pd.DataFrame(rows, columns=["panel", "quantity", "x", "series", "seed", "value"])


def _dynamics(history):
    """Return margin, accuracy and win rate at each record, and at the last one how far rewards are from the truth."""
    problem, rows = history.problem, []
    weights, ranked = distinct_pairs(problem), history.metrics["accuracy"]
    missed = ranked - bayes_accuracy(problem)
    for quantity, values in (("accuracy", ranked), ("missed", missed)):
        rows += [("accuracy", quantity, *point) for point in zip(history.steps.tolist(), values.tolist(), strict=True)]
    for step, policy in zip(history.steps.tolist(), history.policies.probs, strict=True):
        margin = (weights * _differences(_reward(history.loss, problem, policy))).sum()
        rows += [
            ("margin", "margin", step, float(margin)),
            ("win rate", "win_rate", step, win_rate(problem, policy)),
        ]
    gaps = _differences(_reward(history.loss, problem, history.policies.probs[-1]))
    true = _differences(_true_reward(problem))
    rows += [("rewards", "share", float(x), _share_below(gaps, weights, x)) for x in _GAPS]
    for quantity, scale in (("apart", lambda _: 1.0), ("apart_scaled", lambda values: _deviation(values, weights))):
        rows.append(("match", quantity, 0.0, _apart(gaps / scale(gaps), true / scale(true), weights)))
    return rows


def _reward(loss, problem, probs):
    """Return the reward that a loss implies for each response, [X, K]."""
    log_pi, log_ref = to_tensor(np.log(probs)), to_tensor(problem.reference.log_probs)
    return to_array(loss.implicit_reward(Responses(log_pi, log_ref, log_pi.new_ones(log_pi.shape))))


def _true_reward(problem):
    """Return the reward of the truth π* ∝ π_ref e^r, up to a constant at each prompt, [X, K]."""
    return problem.target.log_probs - problem.reference.log_probs


def _differences(reward):
    """Return r_i − r_j of all pairs, [X, K, K]."""
    return reward[:, :, None] - reward[:, None, :]


def _share_below(gaps, weights, x):
    return float(weights[gaps <= x + _ROUNDING].sum())


_ROUNDING = 1e-9
"""Two popular responses have equal rewards, up to rounding."""


def _deviation(values, weights):
    return float(np.sqrt((weights * (values - (weights * values).sum()) ** 2).sum()))


def _apart(one, other, weights):
    """Return the area between the distributions of two rewards over pairs, in their unit."""
    return float(wasserstein_distance(one.ravel(), other.ravel(), weights.ravel(), weights.ravel()))


def _passes(loss, prompt_share):
    """Return what a step evaluates for a pair, in forward passes of the policy over prompt and response.

    A backward pass counts as two. A reference takes a forward pass more, and so does π(y), but without the prompt.
    """
    reference, unprompted = ("reference" in loss.needs), ("marginal" in loss.needs)
    return 3.0 + 1.0 * reference + (1.0 - prompt_share) * unprompted


def summarise(df):
    """Average over seeds."""
    point = ["panel", "series", "quantity", "x"]
    points = mean_bands(df, point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_SHOWN = ("dpo", "simpo", "simper", "rmipo")
"""Methods whose rewards are drawn: those of the paper's figure, and DPO."""


def draw(df, axes):
    """Draw rewards, their distance from the truth and the cost of a step above, and the dynamics below."""
    panels = dict(list(df.groupby("panel")))
    shares = panels["rewards"]
    truth = shares[shares["series"] == "truth"]
    draw_band(axes[0, 0], truth, color="0.6", linestyle="-", linewidth=3.0, label="truth")
    for name in _SHOWN:
        _draw_curve(axes[0, 0], name, shares)
    axes[0, 0].set_title("distribution of reward gaps")
    axes[0, 0].set_xlabel("reward gap [nats]")
    axes[0, 0].set_ylabel("share of pairs below")
    axes[0, 0].set_xlim(left=-6.5)  # room for the legend
    axes[0, 0].legend(loc="upper left", handlelength=1.5)
    _draw_match(axes[0, 1], panels["match"])
    _draw_cost(axes[0, 2], panels["cost"])
    titles = {
        "margin": "reward margin [nats]",
        "missed": "accuracy, less the best",
        "win_rate": r"win rate against $\pi_{\mathrm{ref}}$",
    }
    for axis, (quantity, title) in zip(axes[1], titles.items(), strict=True):
        for name in _LOSSES:
            _draw_curve(axis, name, df[df["quantity"] == quantity])
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.margins(x=0)
    axes[1, 1].set_ylim(top=0.03)
    for axis in axes[1]:
        label_ends(axis)


def _draw_curve(axis, name, rows):
    colour, line, label = family_look(name)
    draw_band(axis, rows[rows["series"] == name], color=colour, linestyle=line, label=label)


def _draw_match(axis, rows):
    """Draw the areas between the distributions of rewards and the true one, as they are and in standard deviations."""
    heights = {name: float(place) for place, name in enumerate(_LOSSES)}
    looks = {"apart": ("o", OKABE_ITO[5], "in nats"), "apart_scaled": ("s", OKABE_ITO[6], "both scaled to variance 1")}
    for quantity, (marker, colour, words) in looks.items():
        part = rows[rows["quantity"] == quantity]
        places = part["series"].map(heights)
        axis.hlines(places, part["lo"], part["hi"], color=colour)
        axis.plot(part["mean"], places, marker, color=colour, markersize=3.5, label=words)
    axis.set_yticks(list(heights.values()), [objective_look(name)[2] for name in heights])
    axis.set_ylim(len(heights) - 0.4, -2.4)
    axis.set_xscale("log")
    axis.set_title("distance from the true distribution")
    axis.set_xlabel("area between them")
    axis.legend(loc="upper center")


def _draw_cost(axis, rows):
    """Draw the cost of a step relative to SimPO's; methods that evaluate the same have one line."""
    table = rows.pivot_table(index="x", columns="series", values="mean")
    table = table.div(table["simpo"], axis=0)
    for name, words in {"dpo": "with reference", "rmipo": "RMiPO", "simpo": "SimPO, SimPER"}.items():
        colour, line, _ = family_look(name)
        axis.plot(table.index, table[name], color=colour, linestyle=line, label=words)
    axis.set_title("cost of a step, SimPO = 1")
    axis.set_xlabel("share of tokens in the prompt")
    axis.set_ylabel("forward passes, relative")
    axis.margins(x=0)
    label_ends(axis)
