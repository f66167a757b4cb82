"""What the labs share: sliders, figures in the house style, and the claims of the ledger behind a step."""

from collections.abc import Callable, Iterable
from threading import Lock

import marimo as mo
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

import didsim as ds
from didsim.plotting import OKABE_ITO, render

BLACK, ORANGE, SKY, GREEN, _, BLUE, VERMILION, PURPLE = OKABE_ITO

SIZE = (4.6, 2.7)
"""Of a figure in inches. It is scaled to the width of the page, so that its words can be read on a phone too."""

MARGINS = {"left": 0.13, "bottom": 0.17, "top": 0.96}

_DRAWING = Lock()


def slider(label: str, values: Iterable[float], start: float) -> mo.ui.slider:
    """Return a slider over given values, the start among them."""
    steps = sorted({*values, start})
    return mo.ui.slider(steps=steps, value=start, label=label, show_value=True, full_width=True)


def figure(draw: Callable[[Axes], None], alt: str, right: float = 0.98) -> mo.Html:
    """Draw a figure as SVG, as wide as the page.

    Args:
        draw: draws on axes.
        alt: what is to be seen, for those who do not see it.
        right: where the panel ends, as a share of the width: labels of lines stand beyond it.
    """

    def draw_few_ticks(axes: np.ndarray) -> None:
        draw(axes[0, 0])
        for line in (axes[0, 0].xaxis, axes[0, 0].yaxis):
            if isinstance(locator := line.get_major_locator(), MaxNLocator):
                locator.set_params(nbins=5)  # each tick takes time

    with _DRAWING:  # matplotlib's settings are the process's, and each visitor of a lab has a thread
        margins = {**MARGINS, "right": right}
        files = render(draw_few_ticks, (1, 1), SIZE, ("svg",), "slides", alt=alt, margins=margins)
    svg = files["svg"].decode()
    return mo.Html(svg[svg.index("<svg ") :].replace("<svg ", '<svg style="width: 100%; height: auto" ', 1))


def decades(axis: Axes, low: int, high: int, every: int = 2) -> None:
    """Make the vertical axis logarithmic, from 10^low to 10^high, with a tick at every so many decades."""
    axis.set_yscale("log")
    axis.set_ylim(10.0**low, 10.0**high)
    axis.set_yticks([10.0**n for n in range(low, high + 1, every)])
    axis.minorticks_off()


def short(number: float) -> str:
    """Write a number with three digits; what is 0 to rounding is 0.

    >>> short(0.123456), short(-3e-17), short(12345.0)
    ('0.123', '0', '12345')
    """
    if abs(number) < 1e-12:
        return "0"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def claims(*names: str) -> mo.Html:
    """Name the claims of the ledger behind a step, each with its verdict and the command that checks it."""
    return mo.md("In the ledger: " + "; ".join(f"`didsim verify {name}` ({ds.CLAIMS[name].verdict})" for name in names))


__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "claims",
    "decades",
    "figure",
    "short",
    "slider",
]
