"""Whether the numbers of a figure are the published ones, which lie in a checkout's figures/."""

from pathlib import Path

import numpy as np

from didsim.experiment._publish import NUMBERS, read_csv
from didsim.experiment._resolver import Experiment

CLOSE, SMALL = 1e-6, 1e-9
"""Numbers are the same up to this share, or this difference: other processors round otherwise."""


def published_csv(experiment: Experiment) -> Path:
    """Return the published CSV of an experiment that comes with didsim.

    Raises:
        ValueError: if there is none: the experiment is a user's own, or didsim was installed without its checkout.
    """
    path = experiment.path.parent.parent / "figures" / f"{experiment.spec.id}.csv"
    if not path.is_file():
        raise ValueError(f"{experiment.spec.id} has no published numbers here: they are in figures/ of a checkout.")
    return path


def departure(found: Path, published: Path) -> str:
    """Say in words where the numbers of a CSV are not the published ones; nothing where they are.

    Raises:
        BadDataError: if one of the files cannot be used.
    """
    ours, theirs = read_csv(found), read_csv(published)
    numbers = [name for name in theirs.columns if name in NUMBERS]
    words = [name for name in theirs.columns if name not in NUMBERS]
    if list(ours.columns) != list(theirs.columns) or not ours[words].equals(theirs[words]):
        return f"has other rows or columns than {published}"
    same = np.isclose(ours[numbers].to_numpy(float), theirs[numbers].to_numpy(float), rtol=CLOSE, atol=SMALL)
    lines = np.flatnonzero(~same.all(axis=1))
    if lines.size == 0:
        return ""
    first = int(lines[0])
    name = numbers[int(np.argmin(same[first]))]
    values = f"{ours[name].iloc[first]:.6g}, published {theirs[name].iloc[first]:.6g}"
    return (
        f"differs from {published} in {lines.size} of {len(theirs)} rows, first in line {first + 2}: {name} is {values}"
    )
