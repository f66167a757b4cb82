"""Newton's method that follows the flow: pseudo-transient continuation.

A stationary policy matters as the place where training ends, so the iteration follows dθ/dt = −C⁻¹ g(θ), with C > 0 the
size of the field's own slopes, by implicit Euler steps

    (C/δ + J) Δ = −g,    J = dg/dθ,

whose time step δ grows as long as the steps are accurate. Where the flow comes to rest δ is large, and the iteration
is Newton's. It does not approach a repelling zero of the field, such as a saddle of the loss: C/δ + J must be positive.

Source: Kelley and Keyes 1998, Convergence analysis of pseudo-transient continuation.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

RESIDUAL = 1e-9
"""A policy is stationary if no component of the field exceeds this share of the mass of pairs that it sees."""

STEP = 1e-8
"""… and if a Newton step would move log π by no more than this, in nats."""

STALLED = 0.7
"""A residual that is more than this share of the last one has not fallen."""

FIRST_TIME, LONGEST = 1.0, 1e30
"""The first time step, and one so long that it no longer matters."""

STUCK, NUDGE = 1e-8, 1e-6
"""A time step below which the field must jump, and how far a step then leads, in nats."""

AIM, SHRINK, REJECTED, GROWTH = 0.4, 0.1, 0.2, 30.0
"""What may be left of the field after a step (Newton's method leaves 1/e of e^(−x)) for the time step to grow, by how
much it shrinks at most, and at least after a step that is not taken, and by how much it grows at most."""

FARTHEST, HALVINGS, OVERSHOOT = 10.0, 20, 0.3
"""How far a step leads at most, in nats, where ramps may leave the field without a slope; how often it is halved, and
which share of the field's first push may stand against its end."""

ACCURATE = 0.5
"""An implicit Euler step is accepted if what is left of its equation is below this share of the field."""


AT_REST = 1e-13
"""A change of an unknown, in nats, that rounding makes."""


class Field(Protocol):
    """A field of L rows with D unknowns each, whose zeros are wanted."""

    @property
    def is_gradient(self) -> bool:
        """Whether its Jacobian is symmetric."""
        ...

    @property
    def is_ramped(self) -> bool:
        """Whether steep ramps stand for the kinks of a convex loss."""
        ...

    @property
    def scale(self) -> Tensor:
        """The mass S of pairs that each unknown sees, [L, D]; 0 for one that none sees."""
        ...

    @property
    def shifts(self) -> Tensor:
        """Directions that change nothing, [L, D, N] or [D, N]."""
        ...

    @property
    def allowed(self) -> Tensor:
        """False for unknowns that stay as they are, [L, D]."""
        ...

    def take(self, rows: Tensor) -> "Field":
        """Return the field of some rows."""
        ...

    def gradient(self, unknowns: Tensor) -> Tensor:
        """Return g, [L, D]."""
        ...

    def noise(self, unknowns: Tensor) -> Tensor:
        """Return how large the rounding of g is at most, [L, D]; 0 where it is not known."""
        ...

    def equations(self, unknowns: Tensor) -> "Equations":
        """Return Newton's equations of all rows."""
        ...

    def log_pi(self, unknowns: Tensor) -> Tensor:
        """Return the log-probabilities that the unknowns make, [L, M]."""
        ...

    def change(self, unknowns: Tensor, step: Tensor) -> Tensor:
        """Return how a small step changes them, [L, M]."""
        ...


@dataclass
class March:
    """Where the iteration stands; the unknowns are replaced as it goes.

    Attributes:
        unknowns: θ, [L, D].
        time: δ of each row, [L].
        residual: max |g_i|/S_i, [L].
        newton_step: the largest change of log π by a Newton step, [L]; infinite where none was asked for.
        stalled: whether the residual has not fallen by the last step, [L].
        iterations: of each row, int64 [L].
        settled: whether the row is at a zero of the field, [L].
    """

    unknowns: Tensor
    time: Tensor
    residual: Tensor
    newton_step: Tensor
    stalled: Tensor
    iterations: Tensor
    settled: Tensor

    @classmethod
    def start(cls, unknowns: Tensor, time: float) -> "March":
        """Begin at some unknowns, with a time step."""
        rows = len(unknowns)
        infinite = torch.full((rows,), torch.inf, dtype=unknowns.dtype)
        return cls(
            unknowns=unknowns.clone(),
            time=torch.full_like(infinite, time),
            residual=infinite,
            newton_step=infinite.clone(),
            stalled=torch.zeros(rows, dtype=torch.bool),
            iterations=torch.zeros(rows, dtype=torch.int64),
            settled=torch.zeros(rows, dtype=torch.bool),
        )


class Equations(Protocol):
    """The equations (C/δ + J) Δ = −g of some rows, scaled by C^−½ from both sides, with 1 along the shifts."""

    @property
    def right(self) -> Tensor:
        """C^−½ g, [L, D]; 0 for unknowns that stay as they are."""
        ...

    @property
    def root(self) -> Tensor:
        """C^½, [L, D]."""
        ...

    def step(self, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return Δ for times δ [L], or the Newton step without, and which rows could be solved, [L]."""
        ...

    def are_positive(self, time: Tensor) -> Tensor:
        """Return where C/δ + J is positive, so that the step goes the way of the flow, [L]."""
        ...

    def are_regular(self, noise: Tensor) -> Tensor:
        """Return where J, off the shifts, has no null direction, and rounding of g moves no Newton step, [L]."""
        ...

    def null_directions(self) -> Tensor:
        """Count the directions in which the field is 0 and stays so, [L]; 0 where it is not 0 along one of them."""
        ...


def relative_residual(field: Field, gradient: Tensor) -> Tensor:
    """Return max |g_i|/S_i of each row, [L]; an unknown that no pair sees counts as if it saw all."""
    scale = field.scale
    return torch.where(field.allowed, gradient / torch.where(scale > 0, scale, 1.0), 0.0).abs().amax(1)


def advance(field: Field, march: March, rows: Tensor) -> None:
    """Take one step of some rows [n], or shorten their time steps; note which of them have settled."""
    part, unknowns, time = field.take(rows), march.unknowns[rows], march.time[rows]
    equations = part.equations(unknowns)
    residual = relative_residual(part, equations.right * equations.root)
    march.iterations[rows] += 1
    march.stalled[rows] = residual >= STALLED * march.residual[rows]
    march.residual[rows] = residual
    near = residual <= RESIDUAL
    if bool(near.any()):
        _settle(part, equations, march, rows, near)
    step, fine = equations.step(time)
    if part.is_ramped:
        moved, worth = _search(part, unknowns, step)
    else:
        moved, worth = unknowns + step, _left_over(part, equations, unknowns + step, step, time)
        uphill = part.gradient(unknowns + 0.5 * step) * step
        halfway = torch.where(step.abs() > AT_REST, uphill, 0.0).sum(1)
        worth = torch.where(halfway <= 0.0, worth, torch.inf)  # else the step leads over a hill
    accepted = fine & (worth <= ACCURATE) & equations.are_positive(time)
    stuck = ~accepted & (time < STUCK)  # where the field jumps no step is accurate: a short one leaves the jump
    push = equations.right * equations.root / torch.where(part.scale > 0, part.scale, 1.0)
    march.unknowns[rows] -= torch.where(stuck[:, None], NUDGE * push, 0.0)
    factor = (AIM / worth).nan_to_num(SHRINK).clamp(SHRINK, GROWTH)
    factor = torch.where(accepted, factor.clamp(min=1.0), factor.clamp(max=REJECTED))
    time = torch.where(stuck, FIRST_TIME, time * factor)
    march.time[rows] = time.clamp(max=LONGEST)
    keep = march.settled[rows] | ~accepted
    march.unknowns[rows] = torch.where(keep[:, None], march.unknowns[rows], moved)


def _left_over(field: Field, equations: Equations, moved: Tensor, step: Tensor, time: Tensor) -> Tensor:
    """Return what is left of the implicit Euler equation after a step, as a share of the field before it, [L]."""
    after = torch.where(field.allowed, field.gradient(moved) / equations.root, 0.0)
    left = after + equations.root * step / time[:, None]
    # what moves an unknown by its rounding only says nothing of the step, and may be larger than what rare ones have
    left = torch.where((left / equations.root).abs() <= AT_REST, 0.0, left)
    return left.norm(dim=1) / equations.right.norm(dim=1).clamp(min=torch.finfo(left.dtype).tiny)


def _search(field: Field, unknowns: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Halve steps until they do not go much beyond the minimum along their way, where the field is against them.

    Newton's method on ramps may jump to and fro between their ends; on a convex loss this ends it.

    Returns:
        Where the steps lead, and 0 where they were taken as they were, else a share that keeps the time step.
    """
    before = (field.gradient(unknowns) * step).sum(1)
    length = (FARTHEST / step.abs().amax(1)).clamp(max=1.0)
    for _ in range(HALVINGS):
        after = (field.gradient(unknowns + length[:, None] * step) * step).sum(1)
        beyond = ~(after <= -OVERSHOOT * before)
        if not bool(beyond.any()):
            break
        length = torch.where(beyond, 0.5 * length, length)
    worth = torch.where(before < 0, torch.where(length == 1.0, 0.0, AIM), torch.inf)
    return unknowns + length[:, None] * step, worth


def _settle(field: Field, equations: Equations, march: March, rows: Tensor, near: Tensor) -> None:
    """Note the Newton step of rows whose residual is small, and take it where it is small and no worse."""
    step, fine = equations.step(None)
    unknowns = march.unknowns[rows]
    change = field.change(unknowns, step).abs().amax(1)
    march.newton_step[rows] = torch.where(near, torch.where(fine, change, torch.inf), march.newton_step[rows])
    settled = near & fine & (change <= STEP)
    if bool(settled.any()):
        settled &= equations.are_regular(field.noise(unknowns))
    march.settled[rows] = settled
    improved = settled & (relative_residual(field, field.gradient(unknowns + step)) <= march.residual[rows])
    march.unknowns[rows] = torch.where(improved[:, None], unknowns + step, unknowns)
