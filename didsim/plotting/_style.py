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
LONG, DASHDOTDOT = (0, (7, 1.5)), (0, (5, 1.2, 1, 1.2, 1, 1.2))
SPARSE, SHORT = (0, (1, 3)), (0, (2, 1))
LINES = (SOLID, DASHED, DOTTED, DASHDOT, LONG, DASHDOTDOT, SPARSE, SHORT)

OBJECTIVE_LOOK: Mapping[str, tuple[str, object, str]] = MappingProxyType(
    {
        # DPO and other links of its margin
        "dpo": (BLUE, SOLID, "DPO"),
        "cdpo": (BLUE, DASHED, "cDPO"),
        "robust_dpo": (BLUE, DOTTED, "rDPO"),
        "ipo": (BLUE, DASHDOT, "IPO"),
        "hinge": (BLUE, LONG, "hinge"),
        "exponential": (BLUE, DASHDOTDOT, "exponential"),
        "exo": (BLUE, SPARSE, "EXO"),
        "discopop": (BLUE, SHORT, "DiscoPOP"),
        # other functions of the log-ratio
        "h_dpo": (SKY, SOLID, "cEntropy"),
        "r_dpo": (SKY, DASHED, "R-DPO"),
        "dpo_norm": (SKY, DOTTED, "DPO, normalised"),
        "f_dpo": (SKY, DASHDOT, "f-DPO"),
        "mi_dpo": (SKY, LONG, "MI-DPO"),
        "chi_po": (SKY, DASHDOTDOT, "χPO"),
        "dpop": (SKY, SHORT, "DPOP"),
        # each response on its own
        "sppo": (PURPLE, SOLID, "SPPO"),
        "kto": (PURPLE, DASHED, "KTO"),
        "bco": (PURPLE, DOTTED, "BCO"),
        "nca": (PURPLE, DASHDOT, "NCA"),
        "cal_dpo": (PURPLE, LONG, "Cal-DPO"),
        "apo_zero": (PURPLE, DASHDOTDOT, "APO-zero"),
        "apo_down": (PURPLE, SHORT, "APO-down"),
        # without a reference
        "log_pi": (BLACK, SOLID, "log π"),
        "dpo_pg": (BLACK, DASHED, "DPO-PG"),
        "entropy_probe": (BLACK, DOTTED, "entropy probe"),
        "cpo": (ORANGE, SOLID, "CPO"),
        "slic": (ORANGE, DASHED, "SLiC"),
        "alphapo": (VERMILION, SOLID, "AlphaPO"),
        "repo": (VERMILION, DASHED, "RePO"),
        "simpo": (VERMILION, DOTTED, "SimPO"),
        "simper": (VERMILION, DASHDOT, "SimPER"),
        # adaptive
        "alpha_dpo": (VERMILION, LONG, "α-DPO"),
        "rmipo": (VERMILION, DASHDOTDOT, "RMiPO"),
        "aot": (ORANGE, DOTTED, "AOT"),
        "aot_unpaired": (ORANGE, DASHDOT, "AOT, unpaired"),
        "beta_dpo": (ORANGE, LONG, "β-DPO"),
        # token by token, and ORPO
        "tdpo1": (GREEN, SOLID, "TDPO1"),
        "tdpo2": (GREEN, DASHED, "TDPO2"),
        "tis_dpo": (GREEN, DOTTED, "TIS-DPO"),
        "orpo": (GREEN, DASHDOT, "ORPO"),
        "sparse_po": (GREEN, LONG, "SparsePO"),
        "epsilon_dpo": (GREEN, DASHDOTDOT, "ε-DPO"),
        "wpo": (GREEN, SPARSE, "WPO"),
        "ld_dpo": (GREEN, SHORT, "LD-DPO"),
    }
)
"""Colour, line style and label of each objective, the same in every figure but those that compare one family."""


def objective_look(name: str) -> tuple[str, object, str]:
    """Return colour, line style and label of an objective; one of a user's own is yellow, in a line of its own name."""
    line = LINES[sum(name.encode()) % len(LINES)]
    return OBJECTIVE_LOOK.get(name, (YELLOW, line, name))


def family_look(name: str) -> tuple[object, object, str]:
    """Return `objective_look`, but with a colour of its own, for a figure of few methods that share one elsewhere."""
    colour, line, label = objective_look(name)
    return _APART.get(name, colour), line, label


_APART = {"simpo": OKABE_ITO[1], "beta_dpo": OKABE_ITO[2], "rmipo": OKABE_ITO[7], "simper": OKABE_ITO[0]}
"""Colours of those that would share one with α-DPO, ε-DPO or each other."""


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
