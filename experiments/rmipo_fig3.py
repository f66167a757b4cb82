"""Figure 3 of the RMiPO paper: the log-likelihood gap and Δpmi, by prompt and by popularity."""

import numpy as np
import pandas as pd

from didsim import marginal, objective
from didsim.experiment import Spec, mean_bands, seeds
from didsim.objectives import Pairs, Responses, pmi_margin, reward_margin
from didsim.plotting import OKABE_ITO, draw_band
from didsim.stationary import solve_many
from didsim.torch_bridge import to_array, to_tensor
from didsim.worlds import boilerplate, distinct_pairs

SPEC = Spec(
    id="rmipo_fig3",
    title="Log-likelihood gap and Δpmi, by prompt and by popularity",
    source="RMiPO paper, Fig. 3",
    caption=(
        "What RMiPO's margin may follow, for pairs of different responses in a world where four prompts share three "
        "popular responses of 16, of reward 0: the gap Δlog π of chosen and rejected response; Δpmi with the "
        "marginal over prompts as π(y); and Δpmi with an unprompted model, whose answers are as popular but "
        "otherwise its own. Top: their densities at π_ref. Δlog π says who is popular: it is mostly above 0 where a "
        "popular response beat an ordinary one, and below where it lost. Δpmi has all kinds of pairs around 0, as "
        "the paper wants it; the unprompted model adds its own noise. Bottom left: how far each favours popular "
        "responses over ordinary ones, by prompt. What is taken off is the same at every prompt, so that prompts "
        "which ask for popular answers more or less than the average keep the difference. Middle and right: how "
        "often each is positive, and its correlation with the gap of the true reward. At π_ref every signal tells "
        "next to nothing of the reward, mutual information no more than the rest: the clean-up is one of popularity "
        "alone. Where SimPO and RMiPO (at the paper's β = 2) end, Δlog π, which the paper calls weak, is nearly the "
        "reward gap itself, since methods without a reference forget what is popular, and Δpmi tells less. At π*, "
        "which remembers, Δpmi tells more than Δlog π, and none tells much. Means over seeds, bands 95% bootstrap "
        "intervals of the mean. The paper's figure has densities for language models on two kinds of prompts."
    ),
    alt=(
        "Three densities of four kinds of pairs: apart for the log-likelihood gap, on one another for Δpmi, wider "
        "for the unprompted one. Below, the gap favours popular responses by 2 to 3 nats and Δpmi by little either "
        "way; and dots of correlations near 0 at the reference, near 1 for the gap after SimPO and RMiPO, below one "
        "half at the target."
    ),
    axes={},
    batch={"seed": seeds(20)},
    constants={"num_prompts": 4, "num_classes": 16, "num_popular": 3},
    quick={"seed": seeds(3)},
    panels=(2, 3),
    size=(7.2, 4.4),
    headline="correlation",
    minutes=0.1,
)

_EDGES = np.linspace(-8.0, 8.0, 33)


def run_cell(params):
    """Measure three signals of all pairs: at the reference by kind and prompt, and where three objectives end."""
    sizes = {name: params[name] for name in ("num_prompts", "num_classes", "num_popular")}
    problems = {seed: boilerplate(**sizes, seed=seed) for seed in params["seed"]}
    ends = _ends(problems)
    rows = []
    for seed, problem in problems.items():
        popular = np.arange(problem.num_classes) < params["num_popular"]
        signals = _signals(problem, problem.reference)
        for name, signal in signals.items():
            rows += [(name, *fact, seed, value) for *fact, value in _by_kind(problem, signal, popular)]
            rows += [("prompts", name, *fact, seed, value) for *fact, value in _by_prompt(problem, signal, popular)]
        for place, (policy_name, policies) in enumerate(ends.items()):
            for name, signal in _signals(problem, policies[seed]).items():
                facts = _tells(problem, signal)
                rows += [(policy_name, name, quantity, place, seed, value) for quantity, value in facts.items()]
    return pd.DataFrame(rows, columns=["panel", "series", "quantity", "x", "seed", "value"])


def _ends(problems):
    """Return policies by their name and the seed: π_ref, where SimPO and RMiPO end, and π*, where DPO does."""
    losses = {"SimPO": objective("simpo"), "RMiPO": objective("rmipo")}
    runs = [(name, seed) for name in losses for seed in problems]
    solutions = solve_many([(problems[seed], losses[name]) for name, seed in runs], starts=1)
    solved = {run: solution.policy for run, solution in zip(runs, solutions, strict=True)}
    found = {name: {seed: solved[name, seed] for seed in problems} for name in losses}
    reference, target = ({s: getattr(p, name) for s, p in problems.items()} for name in ("reference", "target"))
    return {"π_ref": reference, **found, "π*": target}


def _signals(problem, policy):
    """Return each signal of all pairs of responses, [X, K, K]."""
    log_pi = to_tensor(policy.log_probs)
    found = {}
    for name, other in zip(_SIGNALS, (None, marginal(policy, problem.prompts), problem.prior), strict=True):
        log_other = None if other is None else to_tensor(other.log_probs).expand(log_pi.shape)
        both = Responses(log_pi, log_marginal=log_other)
        pairs = Pairs(both.map(lambda part: part.unsqueeze(2)), both.map(lambda part: part.unsqueeze(1)))
        gap = reward_margin(pairs, 1.0, length_normalise=False) if other is None else pmi_margin(pairs, per_token=False)
        found[name] = to_array(gap)
    return found


def _by_kind(problem, signal, popular):
    """Return the density of a signal over pairs of different responses, for each kind of pair."""
    weights = distinct_pairs(problem)
    kinds = {
        "popular chosen": np.outer(popular, ~popular),
        "both popular": np.outer(popular, popular),
        "both ordinary": np.outer(~popular, ~popular),
        "ordinary chosen": np.outer(~popular, popular),
    }
    values = np.clip(signal, _EDGES[0], _EDGES[-1])
    rows = []
    for kind, mask in kinds.items():
        density, _ = np.histogram(values, _EDGES, weights=weights * mask, density=True)
        rows += [
            (kind, "density", float(x), float(y))
            for x, y in zip(_EDGES[:-1] + 0.5 * np.diff(_EDGES), density, strict=True)
        ]
    return rows


def _by_prompt(problem, signal, popular):
    """Return how much a signal favours popular responses over ordinary ones, the prompt that is most popular first."""
    weights = distinct_pairs(problem)
    weights = (weights + weights.swapaxes(1, 2)) * np.outer(popular, ~popular)
    favours = (weights * signal).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
    shares = problem.reference.probs[:, popular].sum(axis=1)
    order = np.argsort(-shares)
    return [("favour", rank, float(favours[prompt])) for rank, prompt in enumerate(order, start=1)]


def _tells(problem, signal):
    """Return how often a signal is positive, and its correlation with the gap in the true reward."""
    weights, reward = distinct_pairs(problem), problem.target.log_probs - problem.reference.log_probs
    gap = reward[:, :, None] - reward[:, None, :]
    first, second = (part - (weights * part).sum() for part in (signal, gap))
    spread = np.sqrt((weights * first**2).sum() * (weights * second**2).sum())
    return {
        "right": float((weights * 0.5 * (1.0 + np.sign(signal))).sum()),
        "correlation": float((weights * first * second).sum() / spread),
    }


def summarise(df):
    """Average over seeds."""
    point = ["panel", "series", "quantity", "x"]
    points = mean_bands(df, point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_SIGNALS = {
    "Δ log π": (OKABE_ITO[0], "o", (0, (1, 1.2))),
    "Δpmi, marginal": (OKABE_ITO[5], "s", "-"),
    "Δpmi, unprompted": (OKABE_ITO[6], "^", (0, (4, 1.5))),
}
"""Colour, marker and line of what a margin may follow: nothing, the marginal, or the prior is subtracted from log π."""

_KINDS = {
    "popular chosen": (OKABE_ITO[6], "-"),
    "both popular": (OKABE_ITO[1], (0, (1, 1.2))),
    "both ordinary": (OKABE_ITO[2], (0, (4, 1.2, 1, 1.2))),
    "ordinary chosen": (OKABE_ITO[5], (0, (4, 1.5))),
}


def draw(df, axes):
    """Draw the densities of the three signals above; below, what they favour and what they tell."""
    for axis, name in zip(axes[0], _SIGNALS, strict=True):
        for kind, (colour, line) in _KINDS.items():
            rows = df[(df["panel"] == name) & (df["series"] == kind)]
            draw_band(axis, rows, color=colour, linestyle=line, label=kind)
        axis.set_title(f"{name}, π = " + r"$\pi_{\mathrm{ref}}$")
        axis.set_xlabel("[nats]")
    axes[0, 0].set_ylabel("probability density")
    figure = axes[0, 0].figure
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    for place, (name, (colour, marker, line)) in enumerate(_SIGNALS.items()):
        rows = df[df["series"] == name]
        look = {"color": colour, "marker": marker, "markersize": 3.5, "label": name}
        draw_band(axes[1, 0], rows[rows["quantity"] == "favour"], linestyle=line, **look)
        for axis, quantity in zip(axes[1, 1:], ("right", "correlation"), strict=True):
            points = rows[rows["quantity"] == quantity]
            along = points["x"] + 0.12 * (place - 1)
            axis.vlines(along, points["lo"], points["hi"], color=colour)
            axis.plot(along, points["mean"], linestyle="", **look)
    _lay_out(axes[1], df)


def _lay_out(axes, df):
    """Name the axes of the lower row."""
    axes[0].axhline(0.0, color="0.5", linewidth=0.6)
    axes[0].set_title("popular − ordinary responses")
    axes[0].set_xticks(sorted(df[df["quantity"] == "favour"]["x"].unique()))
    axes[0].set_xlabel("prompt, the most popular first")
    axes[0].set_ylabel("mean signal [nats]")
    names = df[df["quantity"] == "right"].drop_duplicates("panel").sort_values("x")
    words = [name.replace("π_ref", r"$\pi_{\mathrm{ref}}$") for name in names["panel"]]
    for axis, title, level in zip(
        axes[1:], ("how often it is positive", "correlation with the reward"), (0.5, 0.0), strict=True
    ):
        axis.axhline(level, color="0.5", linewidth=0.6)
        axis.set_title(title)
        axis.set_xticks(names["x"], words)
        axis.set_xlabel("policy")
    axes[0].set_ylim(bottom=-4.0)
    axes[0].legend(loc="lower left")
