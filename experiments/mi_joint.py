"""Section 5.2 of the MI-DPO paper: fixed, alternating and learned priors, by their loss and by where they end."""

from dataclasses import replace

import pandas as pd

from didsim import dpo_optimum, marginal, objective, train_many
from didsim.engine import snapshot_pairs
from didsim.experiment import Spec, mean_bands, mean_js, seeds
from didsim.plotting import OKABE_ITO, draw_band
from didsim.stationary import solve_alternating
from didsim.torch_bridge import to_array
from didsim.worlds import best_in_class, restricted

SPEC = Spec(
    id="mi_joint",
    title="Fixed, alternating and learned priors: loss, and distance to the target",
    source="MI-DPO paper, Section 5.2",
    caption=(
        "MI-DPO with fixed priors, with ζ(y) learned beside the policy, and alternating (ζ is the marginal of the "
        "policy, which takes a step while ζ stands still): its expected loss above the least that any policy and prior "
        "can have, and JS(π*‖π). Pairs of 8 responses are labelled by a true reward, π* ∝ π_ref e^r, with four prompts "
        "or one; restricted policies are π_ref e^{φ·w} with four features. Left: all fixed priors and the learned one "
        "attain the least loss, so that learning ζ gains nothing; DPO alone ends at π*, and the learned prior, whose "
        "minimum leaves the policy open, no nearer to it than training began. Middle: no prior attains the least loss. "
        "The learned one has less of it than any fixed ζ(y), but not than DPO, since π_ref(y|x) knows the prompt and a "
        "learned ζ(y) does not; its policy is on average farther from π* than that of every fixed prior. Right: with "
        "one prompt the paper's claim is true and strict, the learned prior attains the least loss and DPO does not; "
        "but its policy is farther from π* than DPO's, for what is gained in loss is said by the prior and not by the "
        "policy. Alternation attains the least loss nowhere (right: its margins are 0 throughout) and ends farthest "
        "from π*; exact alternation, each step to its end, leaves no more of the eight responses than there are "
        "prompts (dashed, bottom left: its JS). Dotted: the policy of the class with the least KL(π*‖π). With one "
        "prompt π_ref(y) is π_ref(y|x). Means over seeds, bands 95% bootstrap intervals of the mean. The paper has no "
        "experiments; here exact expectations, and 300 steps of RMSprop whose rate falls from 2e-2 to 0."
    ),
    alt=(
        "Six panels. The learned prior reaches zero excess loss on the left and on the right, and lies between DPO "
        "and the other priors in the middle. Below, DPO's curve is lowest in every panel; the learned prior lies "
        "above it, and alternation above all or most."
    ),
    axes={"world": ("all policies", "restricted policies", "restricted, one prompt")},
    batch={"seed": seeds(20)},
    constants={"num_classes": 8, "num_prompts": 4, "num_features": 4, "steps": 300, "record_every": 5},
    quick={"seed": seeds(3), "steps": 60},
    panels=(2, 3),
    size=(7.2, 4.2),
    headline="js_target",
    minutes=0.2,
)

_PRIORS = {
    "reference": {},
    "uniform": {},
    "given": {},
    "marginal": {"stop_gradient": True},
    "learned": {},
}
"""What else is asked of MI-DPO under each prior: alternating, ζ stands still while the policy takes a step."""


def run_cell(params):
    """Train MI-DPO with every prior in one world, and find the best policies of its class."""
    problems = {seed: _world(params, seed) for seed in params["seed"]}
    frames = [_levels(seed, problem) for seed, problem in problems.items()]
    for name, options in _PRIORS.items():
        histories = train_many(
            [(problem, objective("mi_dpo", prior=name, **options)) for problem in problems.values()],
            steps=params["steps"],
            record_every=params["record_every"],
            mode="population",
            learning_rate=2e-2,
            schedule="linear",
            dtype="float64",
            metrics=("loss", "js_target"),
        )
        for (seed, problem), history in zip(problems.items(), histories, strict=True):
            excess = history.metrics["loss"] - _least_loss(problem)
            frame = pd.DataFrame({"step": history.steps, "excess": excess, "js_target": history.metrics["js_target"]})
            frames.append(frame.melt("step", var_name="quantity").assign(seed=seed, prior=name))
    return pd.concat(frames, ignore_index=True).assign(world=params["world"])


def _levels(seed, problem):
    """Return rows for the policy of the class that is nearest to π*, and for the end of exact alternation."""
    rows = [("best", "js_best", mean_js(problem, problem.target, best_in_class(problem)))]
    if problem.features is None:
        exact = solve_alternating(problem).policy
        assert exact is not None  # alternation ends somewhere
        rows.append(("marginal", "js_exact", mean_js(problem, problem.target, exact)))
    return pd.DataFrame(rows, columns=["prior", "quantity", "value"]).assign(seed=seed, step=0)


def _world(params, seed):
    """Return prompts labelled by a true reward, with the marginal of the reference as a given prior."""
    sizes = {name: params[name] for name in ("num_classes", "num_prompts", "num_features")}
    if params["world"] == "restricted, one prompt":
        sizes["num_prompts"] = 1
    problem = restricted(**sizes, seed=seed)
    if params["world"] == "all policies":
        problem = replace(problem, features=None)
    return replace(problem, prior=marginal(problem.reference, problem.prompt_weights))


def _least_loss(problem):
    """Return the least expected loss, in nats: that of the policy that meets every preference."""
    free, loss = replace(problem, features=None), objective("mi_dpo", prior="reference")
    pairs, _ = snapshot_pairs(free, dpo_optimum(free), loss)
    return float(to_array(pairs.mean(loss(pairs))).mean())


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["world", "quantity", "prior", "step"], "value")
    points = points.rename(columns={"world": "panel", "prior": "series", "step": "x"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


_LOOKS = {
    "reference": (OKABE_ITO[5], "-", r"ζ = $\pi_{\mathrm{ref}}$(y|x): DPO"),
    "uniform": (OKABE_ITO[0], (0, (1, 1.2)), "ζ uniform"),
    "given": (OKABE_ITO[2], (0, (4, 1.5)), r"ζ = $\pi_{\mathrm{ref}}$(y)"),
    "marginal": (OKABE_ITO[1], (0, (4, 1.2, 1, 1.2)), "alternating ζ"),
    "learned": (OKABE_ITO[6], "-", "learned ζ"),
}
"""Colour, line and name of each prior."""


def draw(df, axes):
    """Draw the loss above its least value, and below it the distance to the target, a column for each world."""
    for column, (panel, rows) in enumerate(df.groupby("panel", sort=False)):
        for axis, first, quantity in zip(axes[:, column], axes[:, 0], ("excess", "js_target"), strict=True):
            if quantity == "excess":
                axis.sharey(first)
            for name, curve in rows[rows["quantity"] == quantity].groupby("series", sort=False):
                colour, line, label = _LOOKS[str(name)]
                draw_band(axis, curve, color=colour, linestyle=line, label=label)
            axis.margins(x=0)
        for quantity, (colour, line) in _LEVELS.items():
            for height in rows[rows["quantity"] == quantity]["mean"]:
                axes[1, column].axhline(height, color=colour, linestyle=line, linewidth=0.9)
        axes[0, column].set_title(panel)
        axes[1, column].set_xlabel("training step")
    axes[0, 0].set_ylabel("loss above the least [nats]")
    axes[1, 0].set_ylabel("JS(π*‖π) [nats]")
    axes[0, 0].figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)


_LEVELS = {"js_best": ("0.5", ":"), "js_exact": (OKABE_ITO[1], (0, (6, 3)))}
"""Colour and line of levels: the best policy of the class, and where exact alternation ends."""
