"""The table of the MI-DPO paper: which loss MI-DPO becomes by each prior, how exactly, and where it ends."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from didsim import Policy, dpo_optimum, objective
from didsim.engine import evaluated, snapshot_pairs
from didsim.experiment import Spec, is_isolated, mean_bands, mean_js, seeds
from didsim.plotting import OKABE_ITO
from didsim.stationary import solve_many
from didsim.worlds import length_bias

SPEC = Spec(
    id="mi_table",
    title="MI-DPO under each prior against the loss that it recovers",
    source="MI-DPO paper, summary of priors in Section 1, and Section 4",
    caption=(
        "Left: how far MI-DPO under each prior ζ is from the loss that the paper says it recovers, over sequences of "
        "unequal lengths (all 7 of at most two tokens, two prompts, α = 2): the largest difference of the losses of "
        "all pairs and of the gradient of their mean, at a random policy, relative to the largest loss and gradient, "
        "and JS in nats between the policies at which the two are stationary. Where gradient flows through ζ all of "
        "them are equal to rounding (0: below 1e-17), but for R-DPO as printed: e^{−β|y|} with β = 1/α is right for "
        "the coefficient a = 1 alone; here a = 1/2. If ζ is frozen, as where Section 3 derives the loss, the gradient "
        "is another one wherever ζ contains π: for cEntropy (η = 0.8) 1/η times as large. A free policy ends at the "
        "same place nevertheless. Right: how far that is from π* (0: below 1e-5), w/l being the odds of chosen and "
        "rejected responses. Pairs are labelled by a true reward r, π* ∝ π_ref e^{r/2}, and ζ = π_ref (DPO) alone "
        "ends there; a second round of DICE goes too far. SimPO (γ = 1/2) needs a ζ that depends on the role of a "
        "response, chosen or rejected; in these pairs every response has both. K is TDPO's sum of KL(π_ref‖π) over "
        "the decisions of a response, K_μ the same with masks, K_w that of KL(π‖π_ref) with weights; weights w and "
        "masks μ of tokens are random in [1/2, 3/2]. SparsePO has its log σ here, which the paper's display omits. "
        "Means over seeds, bands 95% bootstrap intervals of the mean, most of them narrower than the markers."
    ),
    alt=(
        "A table of ten priors. Losses, gradients and ends differ by 0 or by rounding for nine of them, and visibly "
        "for the printed prior of R-DPO. Gradients with frozen priors differ in five rows more, their ends do not. In "
        "a second panel the prior of DPO alone ends at the target."
    ),
    axes={
        "prior": (
            *("reference", "previous", "uniform", "centropy", "r_dpo", "r_dpo, printed"),
            *("simpo", "tdpo", "tis_dpo", "sparse_po"),
        )
    },
    batch={"seed": seeds(20)},
    constants={"alpha": 2.0, "num_prompts": 2},
    quick={"prior": ("reference", "centropy", "simpo", "tdpo"), "seed": seeds(3)},
    panels=(1, 2),
    size=(7.2, 3.7),
    headline="js_target",
    minutes=0.2,
)

_RECOVERED = {
    "reference": ({}, "dpo", {}),
    "previous": ({}, "dpo", {}),
    "uniform": ({}, "log_pi", {}),
    "centropy": ({"eta": 0.8}, "h_dpo", {"eta": 0.8}),
    "r_dpo": ({"length_penalty": 0.5}, "r_dpo", {"alpha": 0.5}),
    "r_dpo, printed": ({"length_penalty": 1.0}, "r_dpo", {"alpha": 0.5}),
    "simpo": ({"gamma": 0.5}, "simpo", {"gamma": 0.5}),
    "tdpo": ({}, "tdpo1", {}),
    "tis_dpo": ({}, "tis_dpo", {"alpha": 1.0}),
    "sparse_po": ({}, "sparse_po", {"lam": 0.0}),
}
"""Hyperparameters of MI-DPO, and the loss that it becomes with its own.

The paper prints R-DPO's prior as π_ref e^{−β|y|} with β = 1/α, where every coefficient a asks for e^{−(a/α)|y|}.
"""


def run_cell(params):
    """Compare MI-DPO under one prior with the loss that it recovers, at a random policy and where both end."""
    name, alpha = params["prior"], params["alpha"]
    options, original, given = _RECOVERED[name]
    recovered = objective(original, beta=alpha, **given)
    flowing, frozen = (
        objective("mi_dpo", alpha=alpha, prior=name.partition(",")[0], stop_gradient=stop, **options)
        for stop in (False, True)
    )
    worlds = [_world(params, seed) for seed in params["seed"]]
    rows = []
    for seed, (problem, policy) in zip(params["seed"], worlds, strict=True):
        wanted, *found = (_evaluated(problem, policy, loss) for loss in (recovered, flowing, frozen))
        for kind, (value, gradient) in zip(("", "_frozen"), found, strict=True):
            rows += [(seed, f"value{kind}", _apart(value, wanted[0]))]
            rows += [(seed, f"gradient{kind}", _apart(gradient, wanted[1]))]
    losses = {"": flowing, "_frozen": frozen, "_recovered": recovered}
    solutions = iter(solve_many([(problem, loss) for loss in losses.values() for problem, _ in worlds], starts=1))
    ends = {kind: [next(solutions) for _ in worlds] for kind in losses}
    for place, (seed, (problem, _)) in enumerate(zip(params["seed"], worlds, strict=True)):
        if all(is_isolated(one[place]) for one in ends.values()):
            own, held, other = (one[place].policy for one in ends.values())
            assert own is not None  # isolated policies exist
            assert held is not None
            assert other is not None
            rows += [(seed, "end", mean_js(problem, other, own)), (seed, "end_frozen", mean_js(problem, other, held))]
            rows += [(seed, "js_target", mean_js(problem, problem.target, own))]
    return pd.DataFrame(rows, columns=["seed", "quantity", "value"]).assign(prior=name)


def _world(params, seed):
    """Return sequences labelled by a true reward, with numbers for their tokens, and a policy to look at losses at."""
    problem = length_bias(2, 2, bias=0.0, beta=params["alpha"], seed=seed, num_prompts=params["num_prompts"])
    rng = np.random.default_rng([seed, 1])
    decisions = problem.space.num_contexts * problem.space.num_actions
    weights = {name: rng.uniform(0.5, 1.5, decisions) for name in ("weights", "reward_mask", "kl_mask")}
    policy = Policy.from_logits(problem.reference.log_probs + rng.standard_normal(problem.reference.log_probs.shape))
    if params["prior"] == "previous":
        problem = replace(problem, reference=dpo_optimum(problem, params["alpha"]))
    return replace(problem, token_weights=weights), policy


def _evaluated(problem, policy, loss):
    """Return the losses of all pairs at a policy, and the gradient of their mean."""
    pairs, logits = snapshot_pairs(problem, policy, loss)
    return evaluated(loss(pairs), pairs, logits)


def _apart(found, wanted):
    """Return the largest difference, relative to the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["prior", "quantity"], "value").rename(columns={"prior": "series"})
    points["panel"] = points["quantity"].map(lambda name: "π*" if name == "js_target" else "recovered loss")
    return points.assign(x=0)[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_REF = r"$\pi_{\mathrm{ref}}$"

_NAMES = {
    "reference": (_REF, "DPO"),
    "previous": (r"$\pi^{(t-1)}$", "DICE, round 2"),
    "uniform": ("uniform", "log π"),
    "centropy": (_REF + r" $\pi^{1-\eta}$", "cEntropy"),
    "r_dpo": (_REF + r" $e^{-(a/\alpha)|y|}$", "R-DPO"),
    "r_dpo, printed": (_REF + r" $e^{-|y|/\alpha}$, printed", "R-DPO"),
    "simpo": (r"$\pi^{1-1/|y|}$ $e^{\pm\gamma/(2\alpha)}$", "SimPO"),
    "tdpo": (_REF + r" $e^{-K}$", "TDPO1"),
    "tis_dpo": (r"$\pi$ $\Pi$($\pi_{\mathrm{ref}}/\pi$)$^w$ $e^{K_w}$", "TIS-DPO"),
    "sparse_po": (r"$\pi$ $\Pi$($\pi_{\mathrm{ref}}/\pi$)$^{\mu_1}$ $e^{-K_{\mu_2}}$", "SparsePO"),
}
"""The prior, and the loss that it is to recover, in the paper's notation."""

_ENDS = {
    "reference": _REF + r" $(w/l)^{1/\alpha}$ = π*",
    "previous": _REF + r" $(w/l)^{2/\alpha}$",
    "uniform": r"$(w/l)^{1/\alpha}$",
    "centropy": r"$(\pi_{\mathrm{ref}}$ $(w/l)^{1/\alpha})^{1/\eta}$",
    "r_dpo": _REF + r" $(w/l)^{1/\alpha}$ $e^{-(a/\alpha)|y|}$",
    "r_dpo, printed": _REF + r" $(w/l)^{1/\alpha}$ $e^{-|y|/\alpha}$",
}
"""The policy at which MI-DPO is stationary, up to a constant factor, where it has a short form."""

_LOOKS = {
    "value": {"marker": "o", "color": OKABE_ITO[0], "markerfacecolor": "white", "label": "losses"},
    "gradient": {"marker": "o", "color": OKABE_ITO[5], "label": "gradient"},
    "end": {"marker": "D", "color": OKABE_ITO[3], "markersize": 3.2, "label": "where it ends, JS"},
    "gradient_frozen": {"marker": "x", "color": OKABE_ITO[6], "label": "gradient, ζ frozen"},
    "end_frozen": {"marker": "+", "color": OKABE_ITO[6], "label": "where it ends, ζ frozen"},
    "js_target": {"marker": "o", "color": OKABE_ITO[0]},
}

_LOWEST = {"difference": 1e-17, "distance": 1e-5}
"""Smaller numbers stand on the line of 0."""


def draw(df, axes):
    """Draw a row for each prior: how far MI-DPO is from the loss that it recovers, and from the target."""
    names = list(dict.fromkeys(df["series"]))
    for axis, (panel, lowest) in zip(axes[0], _LOWEST.items(), strict=True):
        _lay_out(axis, lowest, len(names))
        for quantity in [name for name in _LOOKS if (name == "js_target") == (panel == "distance")]:
            _draw_markers(axis, df[df["quantity"] == quantity], names, quantity, lowest)
    axes[0, 0].set_yticks(range(len(names)), [" → ".join(_NAMES[name]) for name in names])
    axes[0, 1].set_yticks(range(len(names)), [""] * len(names))
    for height, name in enumerate(names):
        end = f"π ∝ {_ENDS[name]}" if name in _ENDS else "no short form"
        axes[0, 1].text(1.03, height, end, transform=axes[0, 1].get_yaxis_transform(), va="center")
    axes[0, 0].set_xlabel("difference from the recovered loss")
    axes[0, 1].set_xlabel("JS(π*‖π) of its end [nats]")
    axes[0, 0].figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)


def _lay_out(axis, lowest, rows):
    """Make the axis logarithmic, with a line on the left for what is 0 to rounding."""
    axis.set_xscale("log")
    powers = (-14, -10, -6, -2) if lowest < 1e-10 else (-4, -3, -2, -1)
    axis.set_xlim(lowest / 2.0, 2.0)
    axis.set_xticks([lowest, *(10.0**power for power in powers)], ["0", *(f"$10^{{{power}}}$" for power in powers)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(rows - 0.4, -0.6)


def _draw_markers(axis, points, names, quantity, lowest):
    """Draw means with their bands, each quantity at a height of its own within the row."""
    kinds = [name for name in _LOOKS if name != "js_target"]
    shift = 0.15 * (kinds.index(quantity) - 2.0) if quantity in kinds else 0.0
    heights = points["series"].map(names.index) + shift
    ends = [points[side].clip(lower=lowest) for side in ("lo", "hi")]
    axis.hlines(heights, *ends, color=_LOOKS[quantity]["color"])
    look = {"linestyle": "", "markersize": 4.0, **_LOOKS[quantity]}
    axis.plot(points["mean"].clip(lower=lowest), heights, **look)
