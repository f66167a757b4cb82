"""A small transformer trained by the language-model path, against the exact stationary policy of each objective."""

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from didsim import Policy, Problem, Sequences, entropy, js, objective, solve
from didsim.experiment import KINDS, Spec, describe, kind_of, mean_bands, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import OKABE_ITO, objective_look

SPEC = Spec(
    id="bridge",
    title="A transformer trained with each objective ends at the policy that the solver finds",
    source="ours",
    caption=(
        "Jensen–Shannon divergence (nats, the larger of two prompts) between the stationary policy that the solver "
        "finds and the policy of a transformer (two layers, width 64, 40 responses of at most 3 tokens), enumerated: "
        "before training, where it is π_ref, and after 300 steps of Adam, at a rate that falls from 0.003 to 0, "
        "through didsim.llm's trainer on all pairs, weighted by their exact probabilities (τ = 2, each objective at "
        "its defaults; one transformer, no band). Those with farther to go have two to four times the steps; SLiC "
        "and WPO have half the rate, and χPO a quarter, since a margin beyond its ±2R has no gradient that would lead "
        "back. Dotted: 1e-5. To "
        "the right of it: hinge and RePO, nearly flat near their kinks; DiscoPOP, which has several stationary "
        "policies and ends at another one (cross); ε-DPO, which is not there yet. Left out: β-DPO and AOT in both "
        "forms, for which the solver finds none in this world. DPOP's policy is π_ref itself."
    ),
    alt="A row for each objective with two dots on a logarithmic axis: for most of them the second is below 1e-5.",
    axes={"objective": tuple(name for name in IMPLEMENTATIONS if name not in {"beta_dpo", "aot", "aot_unpaired"})},
    batch={"seed": seeds(1)},
    constants={"vocabulary": 3, "max_length": 3, "num_prompts": 2, "tau": 2.0, "steps": 300, "learning_rate": 3e-3},
    quick={"objective": ("dpo", "entropy_probe", "tdpo2"), "steps": 40},
    size=(5.2, 6.6),
    headline="js_solver",
    minutes=3.6,
    extra="llm",
)

_LONGER = {
    **dict.fromkeys(("exo", "log_pi", "entropy_probe", "simpo", "alpha_dpo", "dpo_norm", "cal_dpo", "tdpo2"), 2),
    **dict.fromkeys(("alphapo", "tdpo1", "sparse_po", "ld_dpo", "discopop"), 3),
    **dict.fromkeys(("slic", "wpo", "tis_dpo"), 4),
}
"""So many times the steps: their policies lie far from π_ref, or their losses are flat."""

_GENTLER = {"chi_po": 0.25, "slic": 0.5, "wpo": 0.5}
"""So many times the learning rate: a margin beyond χPO's ±2R has no gradient that would lead back, and where a loss is
nearly flat, large steps go on to the end."""

_ASIDE = frozenset({"marginal", "mean_kl"})
"""Needs that a language model meets with other numbers than a table: its own log π(y) without a prompt, and KTO's z."""

_NEAR = 1e-5

_LEAST = 1e-12
"""Smaller distances are drawn here."""


def run_cell(params):
    """Solve for one objective, and train a transformer with it from π_ref, for each seed."""
    loss, rows = objective(params["objective"]), []
    for seed in params["seed"]:
        model, problem = _world(seed, params)
        solution = solve(problem, loss, starts=1)
        kind = kind_of(solution)
        rows += [(seed, name, 0, float(name == kind)) for name in KINDS]
        if kind == "converged" and not loss.needs & _ASIDE:
            rows += _trained(seed, model, problem, solution, params)
    frame = pd.DataFrame(rows, columns=["seed", "quantity", "step", "value"])
    return frame.assign(objective=loss.name, hyperparameters=describe(loss))


def _world(seed, params):
    """Return a transformer, and the problem in which its policy is π_ref and π* has a temperature."""
    from didsim.llm import enumerate_policy, sequence_transformer

    space = Sequences(params["vocabulary"], params["max_length"])
    model = sequence_transformer(space, seed)
    reference = enumerate_policy(model, space, params["num_prompts"])
    target = Policy.from_logits(reference.log_probs / params["tau"])
    prompts = np.full(params["num_prompts"], 1.0 / params["num_prompts"])
    return model, Problem.from_policies(reference, target, prompts=prompts, space=space)


def _trained(seed, model, problem, solution, params):
    """Train, and return the distances before and after.

    Of an end that is far from there also the distance to the stationary policy that is found from it, and of the probe
    of entropies what it is for.
    """
    from didsim.llm import train_transformer

    steps = params["steps"] * _LONGER.get(solution.loss.name, 1)
    rate = params["learning_rate"] * _GENTLER.get(solution.loss.name, 1.0)
    policy = train_transformer(problem, model, solution.loss, steps=steps, learning_rate=rate)
    before, after = (float(np.max(js(one, solution.policy))) for one in (problem.reference, policy))
    rows = [(seed, "js_solver", 0, before), (seed, "js_solver", steps, after)]
    if after > _NEAR:
        nearest = solve(problem, solution.loss, initial_policy=policy, starts=1)
        if nearest.policy is not None and kind_of(nearest) == "converged":
            rows.append((seed, "js_nearest", steps, float(np.max(js(policy, nearest.policy)))))
    if solution.loss.name == "entropy_probe":
        exact, probed = (float(np.mean(entropy(one))) for one in (problem.did, policy))
        rows += [(seed, "did_entropy", steps, exact), (seed, "probe_entropy", steps, probed)]
    return rows


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["objective", "hyperparameters", "quantity", "step"], "value")
    points["panel"] = points["quantity"].map(_panel)
    points = points.rename(columns={"objective": "series", "step": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band", "hyperparameters"]]


def _panel(quantity):
    if quantity.startswith("js_"):
        return "JS(solver‖transformer)"
    return "entropy" if quantity.endswith("entropy") else "share of seeds"


def draw(df, axes):
    """Draw a row of two dots for each objective, the one that ends nearest at the top."""
    axis = axes[0, 0]
    distances = df[df["quantity"] == "js_solver"]
    ends = distances[distances["x"] > 0].set_index("series")["mean"]
    shares = df.pivot_table(index="series", columns="quantity", values="mean", aggfunc="last")[list(KINDS)]
    looks = {name: number for number, name in enumerate(IMPLEMENTATIONS)}
    order = sorted(shares.index, key=lambda name: (ends.get(name, np.inf), looks.get(name, len(looks))))
    heights = {name: float(row) for row, name in enumerate(order)}
    axis.axvline(_NEAR, color="0.6", linestyle=":", linewidth=1.0)
    for (trained, rows), look in zip(distances.groupby(distances["x"] > 0), _TIMES, strict=True):
        words = "after training" if trained else r"before training ($\pi_{\mathrm{ref}}$)"
        _draw_dots(axis, rows.set_index("series")["mean"], heights, label=words, **look)
    nearest = df[df["quantity"] == "js_nearest"].set_index("series")["mean"]
    elsewhere = nearest[(nearest < _NEAR) & (ends[nearest.index] > _NEAR)]
    if len(elsewhere):
        _draw_dots(axis, elsewhere, heights, label="to the stationary policy nearest to that", **_FROM_THERE)
    _write_beside(axis, df, shares, ends, heights)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_yticks(range(len(order)), [objective_look(name)[2] for name in order])
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlabel("JS(solver‖transformer) [nats]")
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def _draw_dots(axis, distances, heights, **look):
    heads = [heights[name] for name in distances.index]
    axis.plot(distances.clip(_LEAST), heads, linestyle="", markersize=4.0, **look)


def _write_beside(axis, df, shares, ends, heights):
    """Say why a row has no dots, and what the probe of entropies found."""
    for name, share in shares.iterrows():
        if name not in ends:
            place = {"transform": axis.get_yaxis_transform(), "va": "center", "color": "0.35"}
            axis.text(0.02, heights[name], _why_none(share), **place)
    probed = df[df["quantity"].isin(["did_entropy", "probe_entropy"])].set_index("quantity")["mean"]
    if len(probed):
        words = f"its H is {probed['probe_entropy']:.5f} nats, the DID's {probed['did_entropy']:.5f}"
        place = {"textcoords": "offset points", "va": "center", "color": "0.35", "fontsize": "small"}
        axis.annotate(
            words, (max(_LEAST, ends["entropy_probe"]), heights["entropy_probe"]), (-6, 0), ha="right", **place
        )


_TIMES = (
    {"marker": "o", "markerfacecolor": "white", "color": OKABE_ITO[0]},
    {"marker": "o", "color": OKABE_ITO[5]},
)

_FROM_THERE = {"marker": "x", "color": OKABE_ITO[5]}


def _why_none(share):
    """Say why there is nothing to compare with."""
    words = {"boundary": "ends on the boundary", "continuum": "not isolated", "unsolved": "none found"}
    found = ", ".join(text for kind, text in words.items() if share[kind] > 0.0)
    return f"none: {found}" if found else "a language model's marginal is another quantity"
