"""From a start to the place where the flow rests: inside the simplex, at its boundary, on a continuum, or nowhere."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from didsim.stationary._march import FIRST_TIME, RESIDUAL, Field, March, advance

MOST_ITERATIONS = 250
"""How many steps are taken."""

NEARLY_GONE = -16.0
"""A choice of log-probability below this that is still falling is tried at probability 0."""

DEPTHS = (20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1e4)
"""How far below 0 the log-probability of a dead choice is put, to see whether it would come back."""

GRAVE = 1e6
"""How far below 0 the log-probability of a dead choice is kept, in nats."""

BURIALS = (6, 12, 18, 24, 32, 48, 64, 96, 128, 192)
"""The steps after which choices that may die are looked at, which takes many evaluations of the field."""

PATIENCE = 6
"""After so many steps, rows of a small residual without a Newton step are looked at."""


class Simplex(Field, Protocol):
    """A field whose unknowns are logits of choices, some of which may die out."""

    def take(self, rows: Tensor) -> "Simplex":
        """Return the field of some rows."""
        ...

    def choices(self, unknowns: Tensor) -> Tensor:
        """Return the log-probability of each choice, [L, D]; 0 for an unknown that is none."""
        ...

    def freeze(self, unknowns: Tensor, dead: Tensor) -> "Simplex":
        """Return the same field, in which dead choices, and those that come only after them, stay as they are."""
        ...


@dataclass(frozen=True)
class Rest:
    """Where rows ended: `march` with the dead choices [L, D], and which rows are on a continuum, and its dimension."""

    march: March
    field: Simplex
    dead: Tensor
    continuum: Tensor


def settle(field: Simplex, start: Tensor, gone: Tensor | None = None, time: float = FIRST_TIME) -> Rest:
    """Follow the flow of all rows until they rest, or give up.

    Args:
        field: the field.
        start: the unknowns from which to start, [L, D].
        gone: choices that are dead already, [L, D].
        time: the first time step.
    """
    march, rows = March.start(start, time), len(start)
    dead = torch.zeros_like(start, dtype=torch.bool) if gone is None else gone.clone()
    continuum, waited = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    free, frozen = field, field if gone is None else field.freeze(start, dead)
    for iteration in range(MOST_ITERATIONS):
        open_rows = torch.nonzero(~march.settled & (continuum == 0))[:, 0]
        if len(open_rows) == 0:
            break
        advance(frozen, march, open_rows)
        buried = iteration in BURIALS and _bury(free, march, dead, open_rows)
        if _dig_up(free, march, dead, open_rows) or buried:
            frozen = free.freeze(march.unknowns, dead)
        _look_for_continuum(frozen, march, continuum, waited, open_rows)
    return Rest(march, frozen, dead, continuum)


def _bury(field: Simplex, march: March, dead: Tensor, rows: Tensor) -> bool:
    """Put choices at probability 0 that are nearly gone, and would not come back; say whether there are any."""
    part = field.take(rows)
    low = (part.choices(march.unknowns[rows]) < NEARLY_GONE) & part.allowed & ~dead[rows] & ~march.settled[rows, None]
    buried = False
    for number in torch.nonzero(low.any(1))[:, 0].tolist():
        row, sinking = int(rows[number]), low[number]
        while bool(sinking.any()):  # some sink only as long as others do, that would come back
            grave = _moved(field, march.unknowns[row], sinking, row, GRAVE)
            returning = _returning(field, grave, sinking, row)
            if not bool(returning.any()):
                march.unknowns[row], buried = grave, True
                dead[row] |= sinking
                break
            sinking = sinking & ~returning
    return buried


def _dig_up(field: Simplex, march: March, dead: Tensor, rows: Tensor) -> bool:
    """Let choices live of rows that have settled, if they would come back by themselves; say whether any are."""
    back = False
    for row in rows[march.settled[rows] & dead[rows].any(1)].tolist():
        rising = _returning(field, march.unknowns[row], dead[row], row)
        if bool(rising.any()):
            march.unknowns[row] = _moved(field, march.unknowns[row], rising, row, DEPTHS[0])
            march.settled[row], march.time[row], back = False, FIRST_TIME, True
            dead[row] &= ~rising
    return back


def _returning(field: Simplex, unknowns: Tensor, choices: Tensor, row: int) -> Tensor:
    """Return which of some dead choices of a row would come back, [D].

    One does that rises at some depth, alone, while the others stay dead. All do if together they rise at some depth:
    what they do to one another cancels, and what is left is the push of those that live.
    """
    depths = torch.tensor(DEPTHS, dtype=unknowns.dtype)[:, None]
    part, at = field.take(torch.full((len(depths),), row)), unknowns.expand(len(depths), -1)
    buried = torch.where(choices, _at_depth(part, at, depths), at)
    pushes, rounding = (values[:, choices].sum(1) for values in (part.gradient(buried), part.noise(buried)))
    if bool((pushes < 0).any()) or not bool((pushes > rounding).any()):
        return choices
    numbers = choices.nonzero()[:, 0]
    alone = torch.nn.functional.one_hot(numbers, len(choices)).bool().repeat(len(depths), 1)
    part, at = field.take(torch.full((len(alone),), row)), unknowns.expand(len(alone), -1)
    moved = torch.where(alone, _at_depth(part, at, depths.repeat_interleave(len(numbers), 0)), at)
    shape = len(depths), len(numbers)
    pushes, rounding = (values[alone].reshape(shape) for values in (part.gradient(moved), part.noise(moved)))
    stays = (pushes >= 0).all(0) & (pushes > rounding).any(0)
    return torch.zeros_like(choices).index_put((numbers,), ~stays)


def _moved(field: Simplex, unknowns: Tensor, choices: Tensor, row: int, depth: float) -> Tensor:
    """Return the unknowns of a row [D] with some choices at a log-probability of about −depth."""
    at = _at_depth(field.take(torch.tensor([row])), unknowns[None], depth)[0]
    return torch.where(choices, at, unknowns)


def _at_depth(field: Simplex, unknowns: Tensor, depth: float | Tensor) -> Tensor:
    """Return the unknowns that would give each choice a log-probability of about −depth."""
    return unknowns - field.choices(unknowns) - depth


def _look_for_continuum(field: Simplex, march: March, continuum: Tensor, waited: Tensor, rows: Tensor) -> None:
    """Count the null directions of rows that are at zeros of the field but have no Newton step."""
    waiting = rows[(march.residual[rows] <= RESIDUAL) & ~march.settled[rows] & march.stalled[rows]]
    waited[waiting] += 1
    ripe = waiting[waited[waiting] >= PATIENCE]
    if len(ripe) == 0:
        return
    waited[ripe] = 0
    part = field.take(ripe)
    continuum[ripe] = part.equations(march.unknowns[ripe]).null_directions()
