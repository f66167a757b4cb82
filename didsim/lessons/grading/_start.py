"""Handing out exercises: copies of the files with holes, and the curves of the zoo."""

import inspect
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from didsim.lessons.exercises import FILES
from didsim.lessons.grading._check import WIDTH
from didsim.lessons.grading._exercise import Quiz
from didsim.lessons.grading._exercises import EXERCISES
from didsim.lessons.grading._zoo import CURVES, ZOO_NAMES

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Curves of ten runs: DPO, and nine mistakes"
ALT = (
    "Ten rows of three curves over 200 steps: the loss, the distance JS(π*‖π) and the mean margin of a run. "
    "The same numbers lie in zoo.csv."
)
PANELS = {"loss": "loss", "js_target": "distance JS(π*‖π)", "margin": "mean margin of log π/π_ref"}


def start(names: Sequence[str], folder: Path) -> tuple[list[Path], list[Path]]:
    """Copy the files of exercises into a folder; one that is there already is left alone.

    Args:
        names: of the exercises.
        folder: where to put them; it is made if need be.

    Returns:
        The paths that were written, and those that were there.

    Raises:
        ResourceError: if the folder cannot be written to.
    """
    from didsim.experiment import write_atomic

    makers = {FILES[name].name: FILES[name].read_bytes for name in names}
    if ZOO_NAMES.name in names:
        zoo = cache(zoo_files)
        makers.update({file: partial(lambda file: zoo()[file], file) for file in ZOO_FILES})
    paths = {folder / file: make for file, make in makers.items()}
    kept = [path for path in paths if os.path.lexists(path)]
    written = [path for path in paths if path not in kept]
    for path in written:
        write_atomic(path, paths[path]())
    return written, kept


ZOO_FILES = ("zoo.csv", "zoo.svg", "zoo.png")


def zoo_files() -> Mapping[str, bytes]:
    """Train the runs of the zoo; return their numbers and their picture, by file name."""
    from didsim.lessons.grading.specimens import curves
    from didsim.plotting import OKABE_ITO, render

    frame = _lettered(curves())

    def draw(axes):
        for row, (letter, group) in zip(axes, frame.groupby("curve"), strict=True):
            for axis, column in zip(row, PANELS, strict=True):
                axis.plot(group["step"], group[column], color=OKABE_ITO[5])
            row[0].set_ylabel(letter, rotation=0, weight="bold", labelpad=12)
        for axis, label in zip(axes[0], PANELS.values(), strict=True):
            axis.set_title(label)
        for axis in axes[-1]:
            axis.set_xlabel("step")

    pictures = render(draw, (len(CURVES), len(PANELS)), (9.0, 17.0), ("svg", "png"), title=TITLE, alt=ALT)
    csv = frame.to_csv(index=False, lineterminator="\n").encode()
    return {"zoo.csv": csv, **{f"zoo.{kind}": content for kind, content in pictures.items()}}


def _lettered(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Put letters in the place of the names, in their order."""
    import pandas as pd

    parts = [frame[frame["run"] == name].drop(columns="run").assign(curve=letter) for letter, name in CURVES.items()]
    return pd.concat(parts).loc[:, ["curve", "step", *PANELS]]


def solution(name: str) -> str:
    """Return the solution of an exercise: the source of its reference, or the answers with their reasons."""
    exercise = EXERCISES[name]
    if isinstance(exercise, Quiz):
        answers = [f"{question}: {reason}" for question, reason in exercise.reasons.items()]
        return "\n".join(textwrap.fill(answer, WIDTH, subsequent_indent="    ") for answer in answers)
    return inspect.getsource(exercise.reference).rstrip()


__all__ = ["ZOO_FILES", "solution", "start", "zoo_files"]
