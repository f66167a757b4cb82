"""The pictures of `didsim solve`: where an objective ends, and how far from π* that is over a grid."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from didsim.plotting._curves import label_ends
from didsim.plotting._style import (
    BLACK,
    BLUE,
    DASHDOT,
    DASHED,
    DOTTED,
    GREEN,
    LINES,
    OKABE_ITO,
    ORANGE,
    SOLID,
    VERMILION,
    YELLOW,
    objective_look,
)

SERIES_LOOK = {
    "stationary": (ORANGE, SOLID, r"$\pi$"),  # broad and below the others, which it may coincide with
    "reference": (BLACK, SOLID, r"$\pi_{\mathrm{ref}}$"),
    "target": (BLUE, DASHED, r"$\pi^*$"),
    "rejected": (GREEN, DOTTED, r"$\pi_l$"),
    "did": (VERMILION, DASHDOT, "q"),
}

COLOURS = tuple(colour for colour in OKABE_ITO if colour != YELLOW)
"""Of the lines of a grid: words in yellow cannot be read."""

INDEXED_HEIGHT = 1.6
"""The distance between two labels with indices, in font sizes."""

VISIBLE = 1e-12
"""Smaller numbers are drawn on the lowest line of the axis, which says so."""

TOO_SMALL = f"{VISIBLE:.0e}".replace("-", "−")

MOST_MARKED, MOST_LINES = 64, 8
"""Up to so many responses have markers; so many lines of a grid are drawn."""

JS = "JS(π*‖π)"


@dataclass(frozen=True)
class Picture:
    """A picture that a CSV asks for.

    Attributes:
        draw: draws on an array of axes.
        panels: rows and columns.
        size: width and height in inches.
        title: one line.
        caption: what is seen.
        alt: a description for those who cannot see it.
    """

    draw: Callable[[np.ndarray], None]
    panels: tuple[int, int]
    size: tuple[float, float]
    title: str
    caption: str
    alt: str


def solution_picture(frame: pd.DataFrame) -> Picture:
    """Return the picture of a CSV of `didsim solve`, of one solution or of a grid.

    Raises:
        ValueError: if a number is missing or impossible.
        KeyError: if a column is missing.
    """
    return _grid_picture(frame) if "tick" in frame else _policy_picture(frame)


# --- one solution -----------------------------------------------------------------------------------------


def _policy_picture(frame: pd.DataFrame) -> Picture:
    _check(_numbers(frame, "value"), "value")
    unknown = set(frame["series"]) - set(SERIES_LOOK)
    if unknown:
        raise ValueError(f"These series are not of a solution: {sorted(unknown)}.")
    panels = [(str(name), rows) for name, rows in frame.groupby("panel", sort=False)]
    shape = (1, 1) if len(panels) == 1 else (-(-len(panels) // 2), 2)
    heading = f"{_heading(frame)}: {_status(frame)}"

    def draw(axes: np.ndarray) -> None:
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, (name, rows) in zip(axes.flat, panels, strict=False):
            _draw_policies(axis, rows)
            if len(panels) > 1:
                axis.set_title(f"{name}: {_ending(rows)}")
        if len(panels) > 1:
            _entitle(axes, textwrap.fill(heading, 84))
        else:
            _entitle(axes, f"{textwrap.fill(_heading(frame), 50)}\n{_status(frame)}; {_ending(frame)}")
        for axis in axes.flat[: len(panels)][-shape[1] :]:
            axis.set_xlabel("response, by its reference probability")
        for axis in axes[:, 0]:
            axis.set_ylabel("probability")

    size = (4.6, 3.0) if len(panels) == 1 else (7.0, 0.4 + 2.5 * shape[0])
    return Picture(draw, shape, size, heading, _POLICY_CAPTION, _describe_policies(panels))


_POLICY_CAPTION = (
    "Probabilities of the responses in the order of their probability under π_ref: of the reference π_ref, the target "
    "π*, the rejected distribution π_l, the differential information q of π_ref → π*, and the policy π at which the "
    "objective is stationary. Responses on the lowest line have a probability of 0, or one too small to draw."
)


def _heading(frame: pd.DataFrame) -> str:
    name, given = (str(frame[column].iloc[0]) for column in ("objective", "hyperparameters"))
    return f"{objective_look(name)[2]}{f' ({given})' if given else ''}"


def _status(frame: pd.DataFrame) -> str:
    dimensions = int(frame["continuum"].iloc[0])
    if dimensions:
        return f"one of a set of {dimensions} dimension{'s' if dimensions > 1 else ''}"
    return str(frame["status"].iloc[0])


def _ending(rows: pd.DataFrame) -> str:
    apart = _numbers(_where(rows, rows["quantity"] == "js_target"), "value")
    if len(apart) == 0:
        return "no policy"
    distance = float(apart[0])
    return f"{JS} = {distance:.3g} nats" if distance >= VISIBLE else f"{JS} < {TOO_SMALL} nats"


def _describe_policies(panels: list[tuple[str, pd.DataFrame]]) -> str:
    parts = ["Probabilities on a logarithmic axis against the rank of the response under the reference."]
    for name, rows in panels:
        points = _where(rows, (rows["quantity"] == "probability") & (rows["series"] == "stationary"))
        if len(points):
            values = _numbers(points, "value")
            best = int(values.argmax())
            where = f"{name}: " if name else ""
            rank, zeros = int(_numbers(points, "x")[best]), int((values == 0).sum())
            parts.append(
                f"{where}{_ending(rows)}; the stationary policy is largest at rank {rank}, with probability "
                f"{values[best]:.2g}, and 0 at {zeros} of {len(points)} responses."
            )
    return " ".join(parts)


def _draw_policies(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the probabilities of one prompt."""
    points = _where(rows, rows["quantity"] == "probability")
    count = int(_numbers(points, "x").max())
    floor = _logarithmic(axes, _numbers(points, "value"))
    axes.set_xlim(0.5, count + 0.5)
    for name, (colour, line, label) in SERIES_LOOK.items():
        curve = _where(points, points["series"] == name).sort_values("x")
        if curve.empty:
            continue
        wide = 1.8 if name == "stationary" else 1.0
        look = {"color": colour, "linewidth": wide * rcParams["lines.linewidth"]}
        marker = {"marker": "o", "markersize": 1.6 + 1.2 * wide} if count <= MOST_MARKED else {}
        heights = _shown(_numbers(curve, "value"), floor)
        axes.plot(_numbers(curve, "x"), heights, linestyle=line, label=label, **look, **marker)
    label_ends(axes, INDEXED_HEIGHT)


def _logarithmic(axes: Axes, values: np.ndarray) -> float:
    """Make the axis upwards logarithmic, with a lowest line for numbers that cannot be shown; return its height."""
    axes.set_yscale("log")
    seen = values[values >= VISIBLE]
    hidden = values[values < VISIBLE]
    least, most = (seen.min(), seen.max()) if len(seen) else (VISIBLE, 1.0)
    if len(hidden) == 0:
        room = max((most / least) ** 0.06, 1.1)
        axes.set_ylim(least / room**2, most * room)  # labels of the lowest ends need room below
        return 0.0
    low, high = 10.0 ** np.floor(np.log10(least)), 10.0 ** np.ceil(np.log10(most))
    high = max(high, 10.0 * low)
    floor = low * (low / high) ** 0.14
    axes.set_ylim(floor * (low / high) ** 0.03, high * (high / low) ** 0.03)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks([tick for tick in axes.get_yticks() if 0.99 * low <= tick <= 1.01 * high])
    axes.axhline(floor, color="0.6", linewidth=rcParams["axes.linewidth"], zorder=0.5)
    words = f"< {TOO_SMALL}" if np.any(hidden) else "0"
    axes.annotate(
        words,
        (0.0, floor),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-4.5, 0.0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=rcParams["ytick.labelsize"],
    )
    return floor


def _shown(values: np.ndarray, floor: float) -> np.ndarray:
    """Return the heights of numbers: what cannot be seen stands on the lowest line."""
    return np.where(values < VISIBLE, floor, values)


def _entitle(axes: np.ndarray, text: str) -> None:
    """Put a title over all panels, and over labels that stick out of them."""
    axes.flat[0].figure.suptitle(text, fontsize=rcParams["axes.titlesize"])


def _where(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """Return some rows."""
    return pd.DataFrame(frame[mask])


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column of numbers; a ValueError for what is none."""
    return np.asarray(frame[column], dtype=np.float64)


def _check(values: np.ndarray, name: str) -> None:
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(f"{name} must be finite and not negative.")


# --- a grid -----------------------------------------------------------------------------------------------


def _grid_picture(frame: pd.DataFrame) -> Picture:
    known = _where(frame, frame["js_target"] != "")
    _check(_numbers(known, "js_target"), "js_target")
    names = list(dict.fromkeys(frame["series"].astype(str)))
    axis = str(frame["axis"].iloc[0])
    label = objective_look(str(frame["objective"].iloc[0]))[2]
    drawn = f"{MOST_LINES} of {len(names)} lines; " if len(names) > MOST_LINES else ""
    title = f"{label}: where it ends, by {axis}"
    longest = max(map(len, names[:MOST_LINES]))
    size = (min(7.0, 4.2 + 0.055 * longest), 3.2 if pd.api.types.is_numeric_dtype(frame["tick"]) else 3.8)

    def draw(axes: np.ndarray) -> None:
        _draw_grid(axes[0, 0], frame, known, names[:MOST_LINES])
        _entitle(axes, f"{title}\n{drawn}{_marks(frame)}")
        axes[0, 0].set_xlabel(axis)

    return Picture(draw, (1, 1), size, title, _GRID_CAPTION, _describe_grid(known, axis))


_GRID_CAPTION = (
    "JS(π*‖π) from the target π* to the policy π at which the objective is stationary, against the first axis of the "
    "grid; one line for each combination of the others. Numbers below 1e-12 stand on the lowest line; where no policy "
    "was found there is a cross at the upper edge."
)

MARKERS = {
    "converged": ("o", ""),
    "boundary": ("o", "white"),
    "no-stationary-point": ("s", "white"),
}
"""Shape and filling of a point, by status."""


def _marks(frame: pd.DataFrame) -> str:
    """Say what the markers mean that occur."""
    found = set(_where(frame, frame["js_target"] != "")["status"])
    words = ["filled: converged"] if "converged" in found else []
    words += ["open circle: boundary"] if "boundary" in found else []
    words += ["open square: not isolated"] if "no-stationary-point" in found else []
    words += ["cross: none found"] if "" in set(frame["js_target"]) else []
    return "all converged" if words == ["filled: converged"] else "; ".join(words)


def _draw_grid(axes: Axes, frame: pd.DataFrame, known: pd.DataFrame, names: list[str]) -> None:
    chosen = _where(known, known["series"].astype(str).isin(names))
    floor = _logarithmic(axes, _numbers(chosen, "js_target"))
    named = _lay_out_ticks(axes, frame)
    for number, name in enumerate(names):
        colour, line = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
        curve = _where(chosen, chosen["series"].astype(str) == name).sort_values("x")
        along, heights = _numbers(curve, "x"), _shown(_numbers(curve, "js_target"), floor)
        if len(curve):
            axes.plot(along, heights, label=name or "_", color=colour, linestyle="none" if named else line)
        for status, (marker, fill) in MARKERS.items():
            at = np.asarray(curve["status"] == status)
            look = {"marker": marker, "markersize": 3.5, "markerfacecolor": fill or colour}
            axes.plot(along[at], heights[at], linestyle="none", color=colour, **look)
        missing = _numbers(_where(frame, (frame["series"].astype(str) == name) & (frame["js_target"] == "")), "x")
        upper = {"transform": axes.get_xaxis_transform(), "marker": "x", "markersize": 4.0}
        axes.plot(missing, np.full(len(missing), 0.98), linestyle="none", color=colour, **upper)
    label_ends(axes)
    axes.set_ylabel(f"{JS} [nats]")


def _lay_out_ticks(axes: Axes, frame: pd.DataFrame) -> bool:
    """Name the values along the axis, and say whether they are names, between which no line leads.

    A wide range of positive numbers is laid out logarithmically.
    """
    ticks = frame.drop_duplicates("x").sort_values("x")
    values = _numbers(ticks, "x")
    numeric = pd.api.types.is_numeric_dtype(ticks["tick"]) and not pd.api.types.is_bool_dtype(ticks["tick"])
    words = [f"{tick:g}" if numeric else str(tick) for tick in ticks["tick"]]
    if not numeric:
        axes.set_xticks(values, words, rotation=0 if sum(map(len, words)) < 40 else 30)
        axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)
    elif values[0] > 0 and values[-1] > 5.0 * values[0]:
        axes.set_xscale("log")
        room = (values[-1] / values[0]) ** 0.03
        axes.set_xlim(values[0] / room, values[-1] * room)
        apart = np.diff(np.log(values)).min() / np.log(values[-1] / values[0])
        if apart * 45 > max(map(len, words)) + 1:  # about so many characters fit along the axis
            axes.set_xticks(values, words)
            axes.xaxis.set_minor_locator(NullLocator())
    return not numeric


def _describe_grid(known: pd.DataFrame, axis: str) -> str:
    if known.empty:
        return "No policy was found anywhere on the grid."
    distances = _numbers(known, "js_target")
    tick, series = known[["tick", "series"]].to_numpy()[distances.argmin()]
    where = f"{axis} {tick}{f', {series}' if series else ''}"
    return (
        f"{JS} against {axis} on a logarithmic axis. It is smallest at {where}: {distances.min():.2g} nats; the "
        f"largest is {distances.max():.2g}."
    )
