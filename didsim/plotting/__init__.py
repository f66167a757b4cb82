"""Drawing on DataFrames: styles, curves with bands, and files with reproducible bytes."""

from didsim.plotting import _backend  # noqa: F401 - must come before anything that imports matplotlib
from didsim.plotting._curves import draw_band, draw_levels, draw_objectives, label_ends, spread
from didsim.plotting._render import FORMATS, render
from didsim.plotting._solutions import Picture, solution_picture
from didsim.plotting._style import OBJECTIVE_LOOK, OKABE_ITO, STYLES, family_look, objective_look
from didsim.plotting._tables import EXACT, divergence_word, draw_divergences

__all__ = [
    "EXACT",
    "FORMATS",
    "OBJECTIVE_LOOK",
    "OKABE_ITO",
    "STYLES",
    "Picture",
    "divergence_word",
    "draw_band",
    "draw_divergences",
    "draw_levels",
    "draw_objectives",
    "family_look",
    "label_ends",
    "objective_look",
    "render",
    "solution_picture",
    "spread",
]
