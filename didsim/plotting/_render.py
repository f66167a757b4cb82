"""From a drawing function to the bytes of a file: same input, same bytes, and no pyplot."""

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from didsim.plotting._style import figure_style

FORMATS = ("svg", "pdf", "png")

_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "didsim"},
    "pdf": {"CreationDate": None, "Creator": "didsim", "Producer": "didsim"},
    "png": {"Software": "didsim"},
}


def render(
    draw: Callable[[np.ndarray], None],
    panels: tuple[int, int],
    size: tuple[float, float],
    formats: Sequence[str],
    style: str = "paper",
    title: str = "",
    alt: str = "",
    margins: Mapping[str, float] | None = None,
) -> dict[str, bytes]:
    """Draw a figure once, and return its file in each format.

    Args:
        draw: draws on an array of axes, of the shape `panels`.
        panels: rows and columns.
        size: width and height in inches.
        formats: some of "svg", "pdf", "png".
        style: "paper" or "slides".
        title: the title of the file, for readers that show it.
        alt: a description for those who cannot see the figure.
        margins: where the panels lie, as `Figure.subplots_adjust` takes it. Unless given it is found from the words in
            the figure, which takes longer than drawing it.
    """
    with figure_style(style):
        figure = Figure(figsize=size, layout="constrained" if margins is None else None)
        draw(figure.subplots(*panels, squeeze=False, gridspec_kw=dict(margins or {})))
        if margins is None:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is found; finding it again for each format is slow
        return {name: _saved(figure, name, title, alt) for name in formats}


def _saved(figure: Figure, file_format: str, title: str, alt: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, metadata={**_METADATA[file_format], "Title": title})
    return _described(buffer.getvalue(), title, alt) if file_format == "svg" else buffer.getvalue()


def _described(svg: bytes, title: str, alt: str) -> bytes:
    """Give an SVG a title and a description that screen readers announce."""
    head, opening, rest = svg.partition(b"<svg ")
    attributes, closing, body = rest.partition(b">")
    text = f"\n <title>{escape(title)}</title>\n <desc>{escape(alt)}</desc>"
    return head + opening + b'role="img" ' + attributes + closing + text.encode() + body
