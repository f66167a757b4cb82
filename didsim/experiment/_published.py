"""Whether the numbers of a figure are the published ones, which lie in a checkout's figures/."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from didsim.experiment._publish import read_csv
from didsim.experiment._resolver import Experiment, known_experiments

CLOSE, SMALL = 1e-6, 1e-9
"""Numbers are the same up to this share, or this difference, which is rounding."""

OUTLIERS = 0.01
"""The share of means that may differ by more than their intervals: these hold 95% of what chance does, not all."""

ESTIMATES = ["mean", "lo", "hi"]


@dataclass(frozen=True)
class Comparison:
    """Whether a figure has the published numbers: `agrees`, and `words` that say how far."""

    agrees: bool
    words: str


def published_csv(experiment: Experiment) -> Path:
    """Return the published CSV of an experiment that comes with didsim.

    Raises:
        ValueError: if there is none: the experiment is a user's own, or didsim was installed without its checkout.
    """
    name = experiment.spec.id
    home = known_experiments().get(name, experiment.path)
    path = home.parent.parent / "figures" / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"{name} has no published numbers here: they are in figures/ of a checkout.")
    return path


def compare(found: Path, published: Path) -> Comparison:
    """Compare the CSV of a figure with the published one.

    Another processor rounds otherwise, and where training is chaotic that grows. So numbers are the same if they differ
    by rounding, and agree if hardly a mean differs by more than the width of its published interval.

    Raises:
        BadDataError: if one of the files cannot be used.
    """
    ours, theirs = read_csv(found), read_csv(published)
    places = [name for name in theirs.columns if name not in [*ESTIMATES, "x"]]
    if list(ours.columns) != list(theirs.columns) or not ours[places].equals(theirs[places]):
        return Comparison(False, f"has other rows or columns than {published}")
    if not np.allclose(ours["x"], theirs["x"], rtol=CLOSE, atol=0.0):
        return Comparison(False, f"stands at other x than {published}")
    apart = (ours[ESTIMATES] - theirs[ESTIMATES]).abs()
    same = apart.to_numpy() <= np.maximum(SMALL, CLOSE * theirs[ESTIMATES].abs().to_numpy())
    if same.all():
        return Comparison(True, "has the published numbers")
    excess = np.where(same[:, 0], 0.0, apart["mean"] - (theirs["hi"] - theirs["lo"]))
    far, worst = int((excess > 0.0).sum()), int(np.argmax(excess))
    if far <= OUTLIERS * len(same):
        count = int((~same).any(axis=1).sum())
        words = f"agrees with the published numbers: {count} of {len(same)} rows differ, {far} by more than an interval"
        return Comparison(True, words)
    place = theirs.iloc[worst]
    where = f"line {worst + 2} ({place['panel']}, {place['series']}, {place['quantity']} at x = {place['x']:g})"
    values = f"the mean is {ours['mean'].iloc[worst]:.9g}, not {place['mean']:.9g}"
    return Comparison(False, f"differs from {published} in {far} of {len(same)} rows: most in {where}, where {values}")
