"""Curves with bands, labelled at their ends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from didsim.plotting._style import OBJECTIVE_LOOK

BAND_ALPHA = 0.22


def draw_band(axes: Axes, points: pd.DataFrame, **look: Any) -> None:
    """Draw the columns mean, lo, hi against x: a line, and a band of the same colour.

    Raises:
        ValueError: if the axis is logarithmic and a mean is not positive: it would vanish from sight.
    """
    if axes.get_yscale() == "log" and np.any(points["mean"].to_numpy() <= 0.0):
        raise ValueError("A mean that is not positive cannot be drawn on a logarithmic axis.")
    axes.plot(points["x"], points["mean"], **look)
    axes.fill_between(points["x"], points["lo"], points["hi"], color=look["color"], alpha=BAND_ALPHA, linewidth=0)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap_points: float = 8.0) -> None:
    """Write labels to the right of curves' ends, moved apart where they would overlap.

    Args:
        axes: where the curves are; its limits must be final.
        ends: for each curve, x and y of its end, the label and the colour.
        gap_points: the least distance between two labels, in points.
    """
    ordered = sorted(ends, key=lambda end: end[1])
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes are drawn on a figure
    figure.draw_without_rendering()  # fixes the layout, and with it the height of the axes
    height = axes.get_window_extent().height * 72.0 / figure.dpi
    wanted = [_height_of(axes, y) * height for _, y, _, _ in ordered]
    for (x, y, label, colour), place, natural in zip(ordered, spread(wanted, gap_points), wanted, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(3.0, place - natural),
            textcoords="offset points",
            color=colour,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move sorted positions as little as needed (in least squares) to be at least `gap` apart.

    With z_i = position_i − i·gap that is the isotonic regression of z.

    >>> spread([0.0, 1.0, 20.0], gap=5.0)
    [-2.0, 3.0, 20.0]
    """
    steps = gap * np.arange(len(positions))
    return (isotonic_regression(np.asarray(positions) - steps).x + steps).tolist()


def _height_of(axes: Axes, y: float) -> float:
    """Return where a value lies on the axis, as a fraction of its height."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        low, high, y = np.log(low), np.log(high), np.log(y)
    return (y - low) / (high - low)


def draw_objectives(axes: Axes, points: pd.DataFrame) -> None:
    """Draw one labelled curve with its band for each objective in the column `series`, log scale upwards."""
    axes.set_yscale("log")
    ends = []
    for name, curve in points.groupby("series", sort=False):
        colour, line, label = OBJECTIVE_LOOK[str(name)]
        draw_band(axes, curve, color=colour, linestyle=line)
        last = curve.loc[curve["x"].idxmax()]
        ends.append((last["x"], last["mean"], label, colour))
    axes.margins(x=0)
    label_ends(axes, ends)
