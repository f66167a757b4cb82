"""Tables of divergences, coloured by their values."""

import numpy as np
import pandas as pd
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm

EXACT = 1e-12
"""A smaller divergence is rounding, and is called exact."""

_PALEST = 1e-4
"""A smaller divergence has the palest colour: hardly any are, but for exact ones."""

_NORM = LogNorm(_PALEST, np.log(2.0))


def draw_divergences(axes: Axes, values: pd.DataFrame, words: pd.DataFrame) -> QuadMesh:
    """Draw a table from top to bottom, a cell for each divergence in nats.

    Args:
        axes: where to draw.
        values: rows, columns and divergences; nan is grey, and what is below `EXACT` white.
        words: what stands in each cell, of the same shape; see `divergence_word`.

    Returns:
        The coloured cells, for a colour bar.
    """
    table = values.to_numpy(dtype=float)
    edges = [np.arange(size + 1) - 0.5 for size in table.shape]
    visible = np.ma.masked_where(~(table >= EXACT), table)
    mesh = axes.pcolormesh(edges[1], edges[0], visible, norm=_NORM, cmap=colormaps["cividis_r"], edgecolors="white")
    axes.set_xlim(-0.5, table.shape[1] - 0.5)
    axes.set_ylim(table.shape[0] - 0.5, -0.5)
    for (row, column), value in np.ndenumerate(table):
        dark = value >= EXACT and _NORM(value) > 0.55
        look = {"color": "white" if dark else "black", "fontsize": 0.8 * rcParams["ytick.labelsize"]}
        if np.isnan(value):
            axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color="0.9", linewidth=0, zorder=0.5)
            look["color"] = "0.35"
        axes.text(column, row, words.iat[row, column], ha="center", va="center", **look)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return mesh


def divergence_word(value: float) -> str:
    """Return a divergence as it stands in a cell.

    >>> divergence_word(0.1234), divergence_word(1.5e-5), divergence_word(1e-14)
    ('0.12', '2e−5', 'exact')
    """
    if value < EXACT:
        return "exact"
    if value >= 0.001:
        return f"{value:.2g}"
    digits, _, power = f"{value:.0e}".partition("e-")
    return f"{digits}e−{int(power)}"
