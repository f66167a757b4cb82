"""The pictures of `didsim solve`: drawn from a CSV alone, beside it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from didsim.errors import BadDataError
from didsim.experiment import read_csv, write_atomic
from didsim.plotting import FORMATS, Picture, render, solution_picture


def redraw_solution(csv: Path, formats: Sequence[str] = FORMATS, style: str = "paper") -> list[Path]:
    """Draw the picture of a CSV of `didsim solve`, beside it; return the paths.

    Raises:
        BadDataError: if the file is missing, empty or not such a CSV.
    """
    picture = _picture(csv)
    try:
        files = render(picture.draw, picture.panels, picture.size, formats, style, picture.title, picture.alt)
    except Exception as error:
        raise BadDataError(f"{csv} cannot be drawn as solve: {type(error).__name__}: {error}") from error
    for name, content in files.items():
        write_atomic(csv.with_suffix(f".{name}"), content)
    return [csv.with_suffix(f".{name}") for name in files]


def describe(csv: Path) -> dict[str, str]:
    """Return title, caption and description of a CSV's picture, and the checksum of the CSV."""
    picture = _picture(csv)
    return {
        "title": picture.title,
        "caption": picture.caption,
        "alt": picture.alt,
        "csv_sha256": hashlib.sha256(csv.read_bytes()).hexdigest(),
    }


def _picture(csv: Path) -> Picture:
    frame = read_csv(csv)
    try:
        return solution_picture(frame)
    except Exception as error:
        raise BadDataError(f"{csv} cannot be drawn as solve: {type(error).__name__}: {error}") from error
