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
        "before training, where it is π_ref, and after 1200 steps of Adam through didsim.llm's trainer on all pairs, "
        "weighted by their exact probabilities (τ = 2, each objective at its defaults). Means over two transformers, "
        "bands 95% bootstrap intervals of the mean. Dotted: 1e-5. Those that end to the right of it were not yet "
        "there, or lie in another minimum: near their kinks hinge and RePO are nearly flat, so that exact tabular "
        "training is slow too; DiscoPOP has several local minima; χPO's reward e^h + h saturates early; TIS-DPO, WPO, "
        "TDPO1 and SparsePO have the farthest to go. Left out, since they take long: ε-DPO, LD-DPO, α-DPO, β-DPO, "
        "RMiPO, AOT in both forms, DPO-PG."
    ),
    alt="A row for each objective with two dots on a logarithmic axis: for most of them the second is below 1e-5.",
    axes={
        "objective": tuple(
            name
            for name in IMPLEMENTATIONS
            if name not in {"epsilon_dpo", "ld_dpo", "alpha_dpo", "beta_dpo", "rmipo", "aot", "aot_unpaired", "dpo_pg"}
        )
    },
    batch={"seed": seeds(2)},
    constants={"vocabulary": 3, "max_length": 3, "num_prompts": 2, "tau": 2.0, "steps": 1200, "learning_rate": 5e-3},
    quick={"objective": ("dpo", "entropy_probe", "tdpo2"), "steps": 60},
    size=(5.2, 6.6),
    headline="js_solver",
    minutes=15.0,
)

_ASIDE = frozenset({"marginal", "mean_kl"})
"""Needs that a language model meets with other numbers than a table: its own log π(y) without a prompt, and KTO's z."""

_NEAR = 1e-5


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
    """Train, and return the distances before and after; of the probe of entropies also what it is for."""
    from didsim.llm import train_transformer

    steps, rate = params["steps"], params["learning_rate"]
    policy = train_transformer(problem, model, solution.loss, steps=steps, learning_rate=rate)
    rows = [
        (seed, "js_solver", step, float(np.max(js(one, solution.policy))))
        for step, one in ((0, problem.reference), (steps, policy))
    ]
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
    if quantity == "js_solver":
        return "JS(solver‖transformer)"
    return "entropy" if quantity.endswith("entropy") else "share of seeds"


def draw(df, axes):
    """Draw a row of two dots for each objective, the one that ends nearest at the top."""
    axis = axes[0, 0]
    distances = df[df["quantity"] == "js_solver"]
    ends = distances[distances["x"] == distances["x"].max()].set_index("series")["mean"]
    shares = df.pivot_table(index="series", columns="quantity", values="mean", aggfunc="last")[list(KINDS)]
    looks = {name: number for number, name in enumerate(IMPLEMENTATIONS)}
    order = sorted(shares.index, key=lambda name: (ends.get(name, np.inf), looks.get(name, len(looks))))
    heights = {name: float(row) for row, name in enumerate(order)}
    axis.axvline(_NEAR, color="0.6", linestyle=":", linewidth=1.0)
    for (number, (step, rows)), look in zip(enumerate(distances.groupby("x")), _TIMES, strict=True):
        heads = [heights[name] for name in rows["series"]]
        words = f"after {step} steps" if number else "before training (π_ref)"
        axis.plot(rows["mean"], heads, linestyle="", markersize=4.0, label=words, **look)
        axis.hlines(heads, rows["lo"], rows["hi"], color=look["color"], linewidth=1.0)
    for name, share in shares.iterrows():
        if name not in ends:
            place = {"transform": axis.get_yaxis_transform(), "va": "center", "color": "0.35"}
            axis.text(0.02, heights[name], _why_none(share), **place)
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_yticks(range(len(order)), [objective_look(name)[2] for name in order])
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlabel("JS(solver‖transformer) [nats]")
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)


_TIMES = (
    {"marker": "o", "markerfacecolor": "white", "color": OKABE_ITO[0]},
    {"marker": "o", "color": OKABE_ITO[5]},
)


def _why_none(share):
    """Say why there is nothing to compare with."""
    words = {"boundary": "ends on the boundary", "continuum": "not isolated", "unsolved": "none found"}
    found = ", ".join(text for kind, text in words.items() if share[kind] > 0.0)
    return f"none: {found}" if found else "a language model's marginal is another quantity"
