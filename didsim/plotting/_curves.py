"""Curves with bands, labelled at their ends."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from didsim.plotting._style import OBJECTIVE_LOOK, objective_look

BAND_ALPHA = 0.22

LINE_HEIGHT = 1.2
"""The least distance between two labels, in font sizes."""


def draw_band(axes: Axes, points: pd.DataFrame, **look: Any) -> None:
    """Draw the columns mean, lo, hi against x: a line, and a band of the same colour.

    Raises:
        ValueError: if the axis is logarithmic and a mean is not positive: it would vanish from sight.
    """
    if axes.get_yscale() == "log" and np.any(points["mean"].to_numpy() <= 0.0):
        raise ValueError("A mean that is not positive cannot be drawn on a logarithmic axis.")
    axes.plot(points["x"], points["mean"], **look)
    axes.fill_between(points["x"], points["lo"], points["hi"], color=look["color"], alpha=BAND_ALPHA, linewidth=0)


def draw_objectives(axes: Axes, points: pd.DataFrame) -> None:
    """Draw one curve with its band for each objective in the column `series`, log scale upwards.

    Raises:
        ValueError: if none of them is an objective that comes with didsim: these are then other series.
    """
    if not set(points["series"]) & set(OBJECTIVE_LOOK):
        raise ValueError(f"None of these series is an objective of didsim: {sorted(set(points['series']))}.")
    axes.set_yscale("log")
    for name, curve in points.groupby("series", sort=False):
        colour, line, label = objective_look(str(name))
        draw_band(axes, curve, color=colour, linestyle=line, label=label)
    axes.margins(x=0)


def draw_levels(axes: Axes, points: pd.DataFrame) -> None:
    """Draw a dashed line across for each objective in the column `series`: where training would end.

    A level below `LOWEST_LEVEL` is 0 to rounding, which a logarithmic axis cannot show, and none is drawn.
    """
    for name, level in points.groupby("series", sort=False):
        height = float(level["mean"].iloc[0])
        if height >= LOWEST_LEVEL:
            colour, _, _ = objective_look(str(name))
            axes.axhline(height, color=colour, linestyle=(0, (6, 3)), linewidth=0.6, alpha=0.8, zorder=1)


LOWEST_LEVEL = 1e-12
"""A distance in nats that is 0 to rounding."""


def label_ends(axes: Axes, line_height: float = LINE_HEIGHT) -> None:
    """Write the label of each line to the right of its end, moved apart where labels would overlap.

    The limits of the axes must be final.

    Args:
        axes: where the lines are.
        line_height: the least distance between two labels, in font sizes; letters with indices need more.
    """
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    wanted = {line: _height_of(axes, float(np.asarray(line.get_ydata())[-1])) for line in lines}
    ordered = sorted(lines, key=lambda line: wanted[line])
    places = spread([wanted[line] for line in ordered], line_height * rcParams["font.size"] / _points_high(axes))
    for line, place in zip(ordered, places, strict=True):
        axes.annotate(
            str(line.get_label()),
            (1.0, place),
            xycoords="axes fraction",
            xytext=(3.0, 0.0),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
        )


def _points_high(axes: Axes) -> float:
    """Return about how high the axes will be: laying the figure out to know it exactly takes a second a panel."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None  # axes are drawn on a figure,
    assert place is not None  # in a grid of panels
    row = 72.0 * figure.get_figheight() / place.get_gridspec().nrows
    return max(0.3 * row, row - 5.5 * rcParams["font.size"])  # less title, tick labels, axis label and space between


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
