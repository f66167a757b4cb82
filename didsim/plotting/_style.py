"""One look for all figures: colours, line styles, and the matplotlib style they are drawn in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from types import MappingProxyType

import matplotlib.style

OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""The colour-blind safe palette of Okabe and Ito."""

STYLES = ("paper", "slides")

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = OKABE_ITO

SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2))
LONG = (0, (7, 1.5))

OBJECTIVE_LOOK: Mapping[str, tuple[str, object, str]] = MappingProxyType(
    {
        "dpo": (BLUE, SOLID, "DPO"),
        "cdpo": (BLUE, DASHED, "cDPO"),
        "log_pi": (BLACK, SOLID, "log π"),
        "slic": (ORANGE, DASHED, "SLiC"),
        "orpo": (GREEN, DASHDOT, "ORPO"),
        "simpo": (VERMILION, DOTTED, "SimPO"),
        "cal_dpo": (PURPLE, LONG, "Cal-DPO"),
        "mi_dpo": (SKY, LONG, "MI-DPO"),
    }
)
"""Colour, line style and label of each objective, the same in every figure."""


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """Draw in didsim's style, whatever matplotlibrc says, and restore the former settings."""
    sheets = [files("didsim.plotting") / f"{sheet}.mplstyle" for sheet in dict.fromkeys(("paper", name))]
    with (
        as_file(sheets[0]) as first,
        as_file(sheets[-1]) as last,
        matplotlib.style.context(["default", first, last]),
    ):
        yield
