"""Losses with kinks and fields with jumps: the flow rests where a subgradient vanishes, by the method of multipliers.

A stationary policy of SLiC, say, has pairs that stand exactly at the kink of the hinge, where its slope is any number
between −1 and 0. Each round settles the field with ramps in place of the steps, and takes the height that each ramp
shows for the next multiplier: a proximal step in the dual problem, which for a convex piecewise linear loss ends after
finitely many rounds. What is left is checked with the multipliers alone, no ramp: the certificate.

Source: Rockafellar 1976, Augmented Lagrangians and applications of the proximal point algorithm in convex programming.
"""

from typing import Protocol

import torch
from torch import Tensor

from didsim.stationary._field import Corners
from didsim.stationary._march import RESIDUAL, relative_residual
from didsim.stationary._settle import Rest, Simplex, settle

MOST_ROUNDS = 40

LATER_TIME = 1e4
"""The first time step of the later rounds, which start near their end."""

NARROWING, NARROWEST = 4.0, 1e-3
"""By how much the ramps get narrower in each round, and how narrow they get."""


class Cornered(Simplex, Protocol):
    """A field with steps, which ramps stand for."""

    @property
    def corners(self) -> Corners | None:
        """The multipliers, and the width of the ramps."""
        ...

    def with_corners(self, corners: Corners | None = None) -> "Cornered":
        """Return the same field with ramps of these multipliers and width; of first ones without."""
        ...

    def take(self, rows: Tensor) -> "Cornered":
        """Return the field of some rows."""
        ...

    def resolve(self, unknowns: Tensor) -> tuple[Tensor, ...]:
        """Return the heights of the ramps: the next multipliers."""
        ...


def settle_corners(field: Cornered, start: Tensor) -> Rest:
    """Follow the flow of all rows to where a subgradient vanishes; a row that is done is left alone."""
    field = field.with_corners()
    rest = settle(field, start)
    _certify(field, rest)
    for _ in range(MOST_ROUNDS):
        rows = torch.nonzero(~rest.march.settled & (rest.continuum == 0))[:, 0]
        if len(rows) == 0:
            break
        part, march = field.take(rows), rest.march
        assert part.corners is not None  # they were given
        narrower = Corners(part.resolve(march.unknowns[rows]), (part.corners.width / NARROWING).clamp(min=NARROWEST))
        field = field.with_corners(_put(field.corners, rows, narrower))
        again = settle(field.take(rows), march.unknowns[rows], rest.dead[rows], LATER_TIME)
        _certify(field.take(rows), again)
        again.march.iterations += march.iterations[rows]
        for name, values in vars(again.march).items():
            getattr(march, name)[rows] = values
        rest.dead[rows], rest.continuum[rows] = again.dead, again.continuum
    return rest


def _certify(field: Cornered, rest: Rest) -> None:
    """Let only those rows count as settled where the multipliers alone, without ramps, make the field vanish."""
    march, corners = rest.march, field.corners
    assert corners is not None  # they were given
    exact = field.with_corners(Corners(field.resolve(march.unknowns), torch.zeros_like(corners.width)))
    exact = exact.freeze(march.unknowns, rest.dead)
    march.residual = relative_residual(exact, exact.gradient(march.unknowns))
    march.settled = march.settled & (march.residual <= RESIDUAL)


def _put(corners: Corners | None, rows: Tensor, new: Corners) -> Corners:
    """Replace the corners of some rows."""
    assert corners is not None  # they were given
    parts = zip(corners.multipliers, new.multipliers, strict=True)
    multipliers = tuple(old.index_put((rows,), value) for old, value in parts)
    return Corners(multipliers, corners.width.index_put((rows,), new.width))
