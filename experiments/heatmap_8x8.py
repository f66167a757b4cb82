"""DPO against exact KL-regularised reinforcement learning, on a world of eight prompts and eight responses."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from didsim import Policy, PreferenceDataset, Problem, identify, kl, objective, train_many
from didsim.experiment import Spec, mean_bands, mean_js, seeds
from didsim.worlds import draw_finite

SPEC = Spec(
    id="heatmap_8x8",
    title="DPO against exact reinforcement learning on eight prompts and eight responses",
    source="ours",
    caption=(
        "One world of eight prompts and eight responses: a reward R that is largest for the response that belongs to "
        "the prompt, a reference that prefers the first responses whatever the prompt, and the policy π* ∝ π_ref "
        "e^{{R/β}} (β = 1/2) of exact reinforcement learning, which maximises J = E R − β KL(π‖π_ref). Below: what DPO "
        "learns from Bradley–Terry labels of R without seeing R, from fresh pairs at every step and from fixed data "
        "sets (3000 steps of 512, mean of the policies over seeds). With enough pairs the two tables are one. Of data "
        "sets of 2000 pairs {without} have no maximum-likelihood policy, so that the last table is of where 3000 steps "
        "lead. There differ responses that π_ref hardly gives, of which the data have too few pairs, and J, which pays "
        "for their divergence, falls although the favoured responses are the right ones. Means over draws of the "
        "pairs; bands 95% bootstrap intervals of the mean are in the CSV. JS in nats, averaged over prompts. Such a "
        "comparison was asked for in the issues of a public project and never published."
    ),
    alt=(
        "Six tables of eight by eight cells. Reward and π* are largest on the diagonal, the reference in the first "
        "columns. Two tables of DPO look like π*, the one from 2000 pairs differs in rare responses."
    ),
    axes={"pairs": ("population", 20_000, 2_000)},
    batch={"seed": seeds(20)},
    constants={"size": 8, "beta": 0.5, "steps": 3000},
    quick={"seed": seeds(3), "steps": 300},
    panels=(2, 3),
    size=(7.0, 4.9),
    headline="js_target",
    minutes=0.1,
)


def run_cell(params):
    """Train DPO in one world from as many pairs, drawn anew for each seed."""
    problem, reward = _world(params["size"], params["beta"])
    whole, loss = params["pairs"] == "population", objective("dpo", beta=params["beta"])
    seen = [problem if whole else draw_finite(problem, params["pairs"], seed=seed) for seed in params["seed"]]
    histories = train_many(
        [(one, loss) for one in seen],
        seed=params["seed"],
        steps=params["steps"],
        record_every=params["steps"],
        learning_rate=1e-2,
        schedule="linear",
        metrics=(),
    )
    rows = []
    for seed, history in zip(params["seed"], histories, strict=True):
        if not whole:
            others = [draw_finite(problem, params["pairs"], seed=100 * seed + number) for number in range(20)]
            rows += [(seed, "trained", "no_estimate", 0, 1.0 - float(np.mean([_has_estimate(one) for one in others])))]
        policies = {"reference": problem.reference, "target": problem.target, "trained": history.policy}
        for name, policy in policies.items():
            value = float(np.mean((policy.probs * reward).sum(axis=1) - params["beta"] * kl(policy, problem.reference)))
            rows += [(seed, name, "objective", 0, value)]
            rows += [(seed, name, "js_target", 0, mean_js(problem, problem.target, policy))]
            rows += [(seed, name, "probability", cell, p) for cell, p in enumerate(policy.probs.ravel().tolist())]
        rows += [(seed, "reward", "reward", cell, value) for cell, value in enumerate(reward.ravel().tolist())]
    return pd.DataFrame(rows, columns=["seed", "series", "quantity", "x", "value"]).assign(pairs=str(params["pairs"]))


def _has_estimate(sample):
    """Say whether the pairs of a sample determine a maximum-likelihood policy at every prompt."""
    prompts, chosen, rejected = np.nonzero(sample.pairs)
    size, count = sample.num_classes, sample.num_prompts
    dataset = PreferenceDataset.from_classes(chosen, rejected, size, prompts, count)
    return identify(dataset, size, count).status == "exists"


def _world(size, beta):
    """Return a problem whose labels are Bradley–Terry in a reward, with π* of reinforcement learning, and the reward.

    Responses that belong to a prompt are rewarded, the more the nearer; the reference prefers the first responses.
    """
    prompt, response = np.indices((size, size))
    noise = np.random.default_rng(0).standard_normal((2, size, size))
    reward = 2.0 * np.exp(-0.5 * (prompt - response) ** 2) - 0.25 * np.abs(noise[0])
    log_ref = -0.4 * response + 0.5 * noise[1]
    shares = (0.0, 1.0 / beta, -0.5, 0.5)
    reference, target, rejected, chosen = (Policy.from_logits(log_ref + share * reward) for share in shares)
    return Problem(reference, target, rejected, chosen, np.full(size, 1.0 / size)), reward


def summarise(df):
    """Average over seeds."""
    points = mean_bands(df, ["pairs", "series", "quantity", "x"], "value").rename(columns={"pairs": "panel"})
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    """Draw the reward, the reference, what reinforcement learning asks for, and what DPO learns."""
    first = df[df["panel"] == df["panel"].iloc[0]]
    shown = [("reward R", first[first["quantity"] == "reward"])]
    for name, title in (("reference", r"$\pi_{\mathrm{ref}}$"), ("target", "exact RL, π*")):
        shown.append((title, first[first["series"] == name]))
    for panel, rows in df[df["series"] == "trained"].groupby("panel", sort=False):
        words = "DPO, fresh pairs" if panel == "population" else f"DPO, {int(panel)} pairs"
        shown.append((words, rows))
    images = []
    for axis, (title, rows) in zip(axes.flat, shown, strict=True):
        images.append(_draw_table(axis, title, rows))
    for axis in axes[:, 0]:
        axis.set_ylabel("prompt")
    for axis in axes[-1]:
        axis.set_xlabel("response")
    figure = axes[0, 0].figure
    figure.colorbar(images[0], ax=axes[0, :], label="reward (first table)", shrink=0.9)
    figure.colorbar(images[1], ax=axes[1, :], label="probability (all others)", shrink=0.9, extend="min")


def _draw_table(axis, title, rows):
    """Draw eight rows of eight numbers, and say how far a policy is from π* and what it attains."""
    cells = rows[rows["quantity"].isin(["reward", "probability"])].sort_values("x")["mean"].to_numpy()
    size = round(len(cells) ** 0.5)
    facts = rows.set_index("quantity")["mean"]
    if "objective" in facts:
        title += f"\nJ = {facts['objective']:.3f}, JS(π*‖π) = {facts['js_target']:.1g}"
    look = {"norm": LogNorm(1e-3, 1.0)} if "objective" in facts else {}
    image = axis.imshow(cells.reshape(size, size), cmap="cividis", **look)
    axis.set_title(title)
    axis.set_xticks(range(size), [str(k) for k in range(1, size + 1)])
    axis.set_yticks(range(size), [str(k) for k in range(1, size + 1)])
    axis.grid(False)
    return image


def numbers(df):
    """Return how many of the smaller data sets have no maximum-likelihood policy."""
    found = df[df["quantity"] == "no_estimate"]
    return {"without": f"{found['mean'].max():.0%}" if len(found) else "none"}
