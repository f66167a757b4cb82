"""What an experiment is: data that says which cells to run, and how its figure is laid out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from didsim._checks import check_integer, message

FIRST_SEED = 42
"""The paper's seed; N seeds are 42, 43, …, 41 + N."""

MAX_SEEDS = 10_000


def seeds(count: int) -> tuple[int, ...]:
    """Return the first `count` seeds, starting with the paper's."""
    return tuple(range(FIRST_SEED, FIRST_SEED + check_integer("seeds", count, 1, MAX_SEEDS)))


@dataclass(frozen=True)
class Spec:
    """The plan of one figure.

    Attributes:
        id: its name, also of its files.
        title: one line.
        source: the figure of a paper that it answers to.
        caption: what is seen, what the band is, and what differs from the paper; with fields {name} for numbers of
            the CSV, if the experiment file has a function `numbers` that returns them.
        alt: a description for those who cannot see the figure.
        axes: names and values; each combination is one cell, run and stored on its own.
        batch: names and values that one cell runs together.
        constants: further parameters of every cell.
        quick: replacements, by name, for a quick look.
        panels: rows and columns of the figure.
        size: width and height of the figure in inches.
        headline: the quantity whose values at the end of the curves are reported in a table.
        minutes: how long the full version takes on two cores.
        extra: the extra of didsim that it needs, such as "llm"; "" for none.
    """

    id: str
    title: str
    source: str
    caption: str
    alt: str
    axes: Mapping[str, tuple]
    batch: Mapping[str, tuple]
    constants: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    panels: tuple[int, int] = (1, 1)
    size: tuple[float, float] = (3.4, 2.6)
    headline: str = ""
    minutes: float = 1.0
    extra: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", self.id):
            raise ValueError(message("SPEC.id", "lower-case letters, digits and _", self.id))
        names = [*self.axes, *self.batch, *self.constants]
        if len(set(names)) < len(names):
            raise ValueError(message("axes, batch and constants", "of different names", names))

    def replaced(self, **values: Any) -> "Spec":
        """Return the plan with the values of some axes, batch entries or constants replaced."""
        unknown = set(values) - {*self.axes, *self.batch, *self.constants}
        if unknown:
            raise ValueError(message("a replacement", "an axis, batch entry or constant", sorted(unknown)))
        parts = {
            part: {name: values.get(name, value) for name, value in getattr(self, part).items()}
            for part in ("axes", "batch", "constants")
        }
        return replace(self, **parts)

    def version(self, *, quick: bool = False, num_seeds: int | None = None) -> "Spec":
        """Return the plan as asked for: quick or full, and with so many seeds."""
        values = dict(self.quick) if quick else {}
        if num_seeds is not None and ("seed" in self.axes or "seed" in self.batch):
            values["seed"] = seeds(num_seeds)
        return self.replaced(**values)

    def cells(self) -> list[dict[str, Any]]:
        """Return the parameters of every cell."""
        combinations = product(*self.axes.values())
        shared = {**self.batch, **self.constants}
        return [{**dict(zip(self.axes, values, strict=True)), **shared} for values in combinations]
