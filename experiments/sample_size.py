"""How far n pairs lead: the error of the maximum-likelihood policy against its limit, and how often there is none."""

import numpy as np
import pandas as pd

from didsim import (
    PreferenceDataset,
    bayes_accuracy,
    fisher_information,
    identify,
    kl,
    objective,
    predicted_error,
    train_many,
)
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import OKABE_ITO, draw_band, label_ends
from didsim.stationary import solve_many
from didsim.worlds import bradley_terry, draw_finite

SPEC = Spec(
    id="sample_size",
    title="The error of DPO on n pairs, its Fisher-information limit, and datasets without an answer",
    source="ours",
    caption=(
        "What n pairs tell in a Bradley–Terry world: 8 responses, drawn in pairs from π_ref and labelled by a true "
        "reward; 25 datasets of each size in each of 20 worlds. Top left: the error KL(π*‖π̂) of DPO's "
        "maximum-likelihood policy π̂. At every n there is a chance that π̂ does not exist, so that the plain mean "
        "is infinite; drawn are quantiles over datasets, where they are finite in all worlds. Thin: the quantiles "
        "of ½ zᵀ(diag π* − π*π*ᵀ)z, z ~ N(0, I⁺/n), with the Fisher information I of a pair, to which KL tends. JS "
        "is bounded and has a mean, here after 1000 steps of exact gradients on the dataset whether π̂ exists or "
        "not; it tends to a quarter of that law's mean. From n = {reached} on the bands contain the limits; at n = "
        "{few}, where {without} of the datasets have no estimate, JS is {excess} times its limit. Top right: the "
        "same policies rank the pairs that they were trained on better than any judge can rank fresh ones, and "
        "fresh ones worse. Bottom: whether π̂ exists, by who ever beat whom. It may lie at infinity; in the words "
        "of didsim.identify of a dataset of 100 pairs: “The maximum-likelihood policy does not exist: response 5 "
        "never loses, so its probability grows to 1 as training goes on.” Or it is left open, since some were never "
        "compared: if only three in ten pairs of responses may be compared, that is {open} of the largest datasets "
        "still. Means over worlds, bands 95% bootstrap intervals of the mean."
    ),
    alt=(
        "Errors fall along straight lines of slope −1 from 1000 pairs on; JS lies above its line between 30 and 300. "
        "Training accuracy falls and fresh accuracy rises to Bayes's. The share of datasets with an estimate rises "
        "from 0 to 1 between 30 and 1000 pairs; where few pairs may be compared it levels off at one half."
    ),
    axes={"num_pairs": (10, 30, 100, 300, 1000, 3000, 10_000)},
    batch={"seed": seeds(20)},
    constants={"num_classes": 8, "datasets": 25, "steps": 1000, "coverage": 0.3},
    quick={"seed": seeds(3), "num_pairs": (10, 100, 1000), "datasets": 10, "steps": 200},
    panels=(2, 2),
    size=(7.0, 5.0),
    headline="kl",
    minutes=0.2,
)

_QUANTILES = {"median": 0.5, "90% quantile": 0.9}

_DRAWS = 20_000
"""Of the law to which n·KL tends, for its quantiles."""

_STATUSES = {
    "exists": (OKABE_ITO[3], "-", "exists"),
    "at-infinity": (OKABE_ITO[1], (0, (4, 1.5)), "at infinity"),
    "not-identified": (OKABE_ITO[7], (0, (4, 1.2, 1, 1.2)), "left open"),
}
"""What `identify` may say: colour, line and label."""


def run_cell(params):
    """Draw datasets of one size in every world; measure the error, its limit, accuracies, and what they identify."""
    worlds = {seed: bradley_terry(params["num_classes"], seed=seed) for seed in params["seed"]}
    rows = []
    for panel, coverage in (("all pairs", 1.0), ("few pairs", params["coverage"])):
        samples = {seed: _samples(world, coverage, seed, params) for seed, world in worlds.items()}
        statuses = {seed: [_identified(sample).status for sample in drawn] for seed, drawn in samples.items()}
        for seed, found in statuses.items():
            rows += [(panel, name, "share", seed, found.count(name) / len(found)) for name in _STATUSES]
        if coverage == 1.0:
            rows += _errors(worlds, samples, statuses, params["num_pairs"])
            rows += _trained(worlds, samples, params)
    frame = pd.DataFrame(rows, columns=["panel", "series", "quantity", "seed", "value"])
    return frame.assign(x=params["num_pairs"])


def _samples(world, coverage, seed, params):
    """Return the datasets of one world, as problems."""
    count = params["datasets"]
    return [draw_finite(world, params["num_pairs"], coverage, seed * count + number) for number in range(count)]


def _identified(sample):
    """Return what the pairs of a sample determine: it depends on who ever beat whom, and on nothing else."""
    chosen, rejected = np.nonzero(sample.pairs)
    return identify(PreferenceDataset.from_classes(chosen, rejected, sample.num_classes), sample.num_classes)


def _errors(worlds, samples, statuses, num_pairs):
    """Return quantiles of KL(π*‖π̂) over datasets, unless infinite, and those of the law to which it tends."""
    found = {seed: np.full(len(drawn), np.inf) for seed, drawn in samples.items()}
    exist = [(seed, i) for seed, drawn in statuses.items() for i, status in enumerate(drawn) if status == "exists"]
    jobs = [(samples[seed][i], objective("dpo", beta=1.0)) for seed, i in exist]
    for (seed, i), solution in zip(exist, solve_many(jobs, starts=1) if jobs else (), strict=True):
        assert solution.policy is not None  # it exists
        found[seed][i] = kl(worlds[seed].target, solution.policy)
    rows = []
    for seed, world in worlds.items():
        limits = _limiting_errors(world, num_pairs)
        for name, share in _QUANTILES.items():
            value = float(np.quantile(found[seed], share, method="inverted_cdf"))
            rows += [("error", name, "kl", seed, value)] if np.isfinite(value) else []
            rows.append(("error", name, "kl_limit", seed, float(np.quantile(limits, share))))
        rows.append(("error", "mean", "kl_limit", seed, predicted_error(world, num_pairs).kl))
    return rows


def _limiting_errors(world, num_pairs):
    """Return draws of ½ zᵀ(diag π* − π*π*ᵀ)z, z ~ N(0, I⁺/n), to which KL(π*‖π̂) tends: of Σ λ χ²₁/(2n)."""
    shape = np.diag(world.target.probs) - np.outer(world.target.probs, world.target.probs)
    values, vectors = np.linalg.eigh(fisher_information(world))
    root = vectors[:, 1:] / np.sqrt(values[1:])  # the first eigenvector is constant, and moves nothing
    weights = np.linalg.eigvalsh(root.T @ shape @ root)
    return np.random.default_rng(0).chisquare(1.0, (_DRAWS, len(weights))) @ weights / (2.0 * num_pairs)


def _trained(worlds, samples, params):
    """Return mean accuracies and JS(π*‖π) of policies after training on each dataset, and what they tend to."""
    jobs = [(sample, objective("dpo", beta=1.0)) for drawn in samples.values() for sample in drawn]
    histories = train_many(
        jobs,
        steps=params["steps"],
        record_every=params["steps"],
        mode="population",  # the exact expectation over the pairs of a dataset
        learning_rate=1e-2,
        schedule="linear",
        metrics=("accuracy", "js_target"),
    )
    count = params["datasets"]
    by_world = {seed: histories[i * count : (i + 1) * count] for i, seed in enumerate(worlds)}
    rows = []
    for seed, world in worlds.items():
        ends = [history.metrics for history in by_world[seed]]
        rows.append(("error", "mean", "js", seed, float(np.mean([end["js_target"][-1] for end in ends]))))
        rows.append(("error", "mean", "js_limit", seed, predicted_error(world, params["num_pairs"]).js))
        best = bayes_accuracy(world)
        accuracies = {
            "training pairs": np.mean([end["accuracy"][-1] for end in ends]),
            "fresh pairs": np.mean([_accuracy(world, history.policy) for history in by_world[seed]]),
            "Bayes": best,
        }
        for name, accuracy in accuracies.items():
            rows.append(("accuracy", name, "accuracy", seed, float(accuracy)))
            rows.append(("accuracy", name, "excess", seed, float(accuracy - best)))
    return rows


def _accuracy(world, policy):
    """Return how often the log-ratio of a policy ranks a fresh pair as labelled; a tie counts one half."""
    log_ratio = policy.log_probs - world.reference.log_probs
    return float((world.pairs * 0.5 * (1.0 + np.sign(log_ratio[:, None] - log_ratio))).sum())


def summarise(df):
    """Average over worlds; where some world has no finite quantile there is no mean of them."""
    point = ["panel", "series", "quantity", "x"]
    complete = df.groupby(point)["seed"].transform("nunique") == df["seed"].nunique()
    points = mean_bands(pd.DataFrame(df[complete]), point, "value")
    return points[[*point, "mean", "lo", "hi", "n", "band"]]


_ERRORS = {
    ("kl", "90% quantile"): (OKABE_ITO[6], (0, (4, 1.5)), "KL, 90%"),
    ("kl", "median"): (OKABE_ITO[5], "-", "KL, median"),
    ("js", "mean"): (OKABE_ITO[3], (0, (4, 1.2, 1, 1.2)), "JS, mean"),
}

_ACCURACIES = {
    "training pairs": (OKABE_ITO[6], (0, (4, 1.5))),
    "fresh pairs": (OKABE_ITO[5], "-"),
    "Bayes": (OKABE_ITO[0], (0, (1, 1.2))),
}


def draw(df, axes):
    """Draw errors and accuracies above, and below what becomes of the maximum of the likelihood."""
    panels = dict(list(df.groupby("panel")))
    _draw_errors(axes[0, 0], panels["error"])
    for name, (colour, line) in _ACCURACIES.items():
        rows = panels["accuracy"][(panels["accuracy"]["series"] == name) & (panels["accuracy"]["quantity"] == "excess")]
        draw_band(axes[0, 1], rows, color=colour, linestyle=line, label=name)
    best = panels["accuracy"][panels["accuracy"]["series"] == "Bayes"]["mean"].max()
    axes[0, 1].set_title(f"accuracy, less Bayes's ({best:.2f})")
    axes[0, 1].set_ylabel("probability")
    for axis, (panel, title) in zip(axes[1], _TITLES.items(), strict=True):
        for name, (colour, line, label) in _STATUSES.items():
            rows = panels[panel][panels[panel]["series"] == name]
            draw_band(axis, rows, color=colour, linestyle=line, label=label)
        axis.set_title(title)
        axis.set_ylim(-0.03, 1.03)
    axes[1, 0].set_ylabel("share of datasets")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.margins(x=0)
        axis.set_xlabel("pairs n")
        label_ends(axis)


_TITLES = {"all pairs": "the estimate, any two compared", "few pairs": "the estimate, three in ten compared"}


def _draw_errors(axis, rows):
    """Draw errors, and thin lines for what they tend to."""
    axis.set_yscale("log")
    for (quantity, series), (colour, line, label) in _ERRORS.items():
        of = {name: part for name, part in rows[rows["series"] == series].groupby("quantity")}
        draw_band(axis, of[quantity], color=colour, linestyle=line, label=label)
        limit = of[f"{quantity}_limit"]
        axis.plot(limit["x"], limit["mean"], color=colour, linewidth=0.6)
    axis.set_title(r"error of $\hatπ$ against π*; thin: its limit")
    axis.set_ylabel("nats")


def numbers(df):
    """Return from where bands contain limits, by how much JS exceeds its own, and how often there is no estimate."""
    value = df.set_index(["panel", "series", "quantity", "x"])["mean"]
    sizes = sorted(df["x"].unique())
    few = 100 if 100 in sizes else sizes[0]
    return {
        "reached": _reached(df[df["panel"] == "error"]),
        "few": f"{few:g}",
        "without": f"{1.0 - value['all pairs', 'exists', 'share', few]:.0%}",
        "excess": f"{value['error', 'mean', 'js', few] / value['error', 'mean', 'js_limit', few]:.1f}",
        "open": f"{value['few pairs', 'not-identified', 'share', sizes[-1]]:.0%}",
    }


def _reached(rows):
    """Return the least n from which on the bands of all errors contain their limits."""
    found, limits = (rows[rows["quantity"].isin(names)] for names in (["kl", "js"], ["kl_limit", "js_limit"]))
    limits = limits.assign(quantity=limits["quantity"].str.removesuffix("_limit"))
    both = found.merge(
        limits[["series", "quantity", "x", "mean"]], on=["series", "quantity", "x"], suffixes=("", "_limit")
    )
    outside = both[(both["mean_limit"] < both["lo"]) | (both["mean_limit"] > both["hi"])]["x"]
    later = both[both["x"] > outside.max()]["x"] if len(outside) else both["x"]
    return f"{later.min():g}" if len(later) else "more pairs"
