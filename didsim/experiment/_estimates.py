"""Means over prompts and over seeds, and how sure one can be of them."""

import numpy as np
import pandas as pd

from didsim._arrays import FloatArray
from didsim.info import Distribution, js
from didsim.preference import Problem

BAND = "95% percentile bootstrap of the mean over seeds"
NO_BAND = "none (one seed)"
RESAMPLES = 2000


def bootstrap_mean(values: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean over the first axis and its percentile bootstrap interval.

    Args:
        values: one row per seed, [n, ...].
        level: the coverage aimed at.

    Returns:
        mean, lower and upper end, each [...]; with one row all three are that row.
    """
    count = len(values)
    flat = np.asarray(values, dtype=np.float64).reshape(count, -1)
    # resampling n rows with replacement and averaging is a product with multinomial counts
    counts = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
    first = flat[0]  # everything is taken relative to it, so that equal rows leave no width by rounding
    mean = first + (flat - first).mean(axis=0)
    means = first + (counts / count) @ (flat - first)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail], axis=0)
    shape = np.shape(values)[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


def mean_js(problem: Problem, one: Distribution, other: Distribution) -> float:
    """Return JS(one‖other) in nats, its mean over the problem's prompts.

    Args:
        problem: whose prompts weigh.
        one: a policy, [K], or [X, K] with prompts.
        other: another.
    """
    return float(np.atleast_1d(js(one, other)) @ problem.prompt_weights)


def mean_bands(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Average a column over seeds.

    Args:
        rows: long form, with the columns `by`, "seed" and `value`; every group has the same seeds.
        by: the columns that name a point of a curve.
        value: the column to average.

    Returns:
        One row per point: the columns `by`, then mean, lo, hi, n, band.
    """
    wide = rows.pivot_table(index="seed", columns=by, values=value, aggfunc="first", observed=True, sort=False)
    if rows[value].isna().to_numpy().any() or wide.isna().to_numpy().any():
        raise ValueError(f"Some seeds lack values of {value}: runs diverged, or the cells are incomplete.")
    mean, low, high = bootstrap_mean(wide.to_numpy())
    points = wide.columns.to_frame(index=False)
    band = BAND if len(wide) > 1 else NO_BAND
    return points.assign(mean=mean, lo=low, hi=high, n=len(wide), band=band)
