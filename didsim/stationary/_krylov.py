"""Newton's equations whose matrix is only applied: solved by GMRES, with the diagonal as a preconditioner.

Off its diagonal the derivative of the field is a smooth kernel of scores, of which a few dozen directions matter.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from didsim.stationary._march import Field
from didsim.torch_bridge import to_array, to_tensor

ROUGHLY, CLOSELY = 1e-3, 1e-7
"""What may be left of the equation of a short time step, and of a Newton step, as a share of its right side."""

RESTART, CYCLES = 60, 3
"""The directions that GMRES keeps, and how often it starts anew."""

LEAST, SMALLEST = 1e-6, 1e-4
"""The least scale of a response, per mass of pairs, and the least number that the preconditioner divides by."""

SOLVED = 0.1
"""An equation of which more than this share is left was not solved."""


@dataclasses.dataclass
class KrylovEquations:
    """H = C^−½ J C^−½ plus 1 along the shifts of one row, as a function, and the right side C^−½ g.

    C = max(|diag J|, |g|), without the smooth parts of J in its diagonal, so that H is 1 plus a smooth kernel; but at
    least a small share of the mass of pairs, below which a response's own slope is rounding to the norm of all.

    Attributes:
        field: whose equations they are.
        right: C^−½ g, [1, D].
        root: C^½, [1, D].
        along: J v for a direction v, [1, D] both.
        diagonal: of C^−½ J C^−½ as far as it is known, [1, D].
    """

    field: Field
    right: Tensor
    root: Tensor
    along: Callable[[Tensor], Tensor]
    diagonal: Tensor
    _last: tuple[Tensor, Tensor] | None = dataclasses.field(default=None)

    @classmethod
    def of(
        cls, field: Field, gradient: Tensor, along: Callable[[Tensor], Tensor], diagonal: Tensor
    ) -> "KrylovEquations":
        """Scale a field by the diagonal of its Jacobian."""
        size = torch.maximum(diagonal.abs(), gradient.abs()).clamp(min=LEAST * field.scale)
        root = torch.where(field.allowed & (size > 0), size, 1.0).sqrt()
        right = torch.where(field.allowed, gradient / root, 0.0)
        return cls(field, right, root, along, torch.where(field.allowed, diagonal / root**2, 1.0))

    def step(self, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return Δ for a time δ [1], or the Newton step without, and whether the equation could be solved, [1]."""
        rate = 0.0 if time is None else float(1.0 / time)
        aim = min(max(rate, CLOSELY), ROUGHLY)  # long time steps are Newton's, which are of no use if solved roughly
        if not bool(self.right.isfinite().all()):
            return torch.zeros_like(self.right), torch.zeros(1, dtype=torch.bool)
        solution, left = self._solve(-self.right, rate, aim)
        # responses of little mass hardly count in the norm: once more each on its own
        step = (solution + left * self._inverse(rate)) / self.root
        fine = (left.norm(dim=1) <= SOLVED * self.right.norm(dim=1)) & step.isfinite().all(1)
        step = torch.where(fine[:, None], step, 0.0)
        self._last = (step, fine)
        return step, fine

    def are_positive(self, time: Tensor) -> Tensor:
        """Return whether the last step goes down: less than that C/δ + J is positive, but without its matrix, [1]."""
        step, fine = self.step(time) if self._last is None else self._last
        return fine & ((self.right * self.root * step).sum(1) < 0)

    def are_regular(self, noise: Tensor) -> Tensor:
        """Return whether an equation of a random right side has a solution: evidence that no direction is null, [1]."""
        noise = torch.randn(self.right.shape, generator=torch.Generator().manual_seed(0), dtype=self.right.dtype)
        _, left = self._solve(noise, 0.0, CLOSELY)
        return left.norm(dim=1) <= 2.0 * CLOSELY * noise.norm(dim=1)

    def null_directions(self) -> Tensor:
        """Return 0, [1]: they are not looked for."""
        return torch.zeros(1, dtype=torch.int64)

    def _solve(self, wanted: Tensor, rate: float, aim: float) -> tuple[Tensor, Tensor]:
        """Return the solution of (1/δ + H) v = w, [1, D], and what is left of w; `aim` is the share that may be."""
        count, inverse = wanted.shape[1], self._inverse(rate)

        def product(vector: Any) -> Any:
            return to_array(inverse * self._applied(to_tensor(vector).reshape(1, -1), rate))[0]

        operator = LinearOperator((count, count), matvec=product, dtype=float)  # type: ignore[call-arg]
        found, _ = gmres(operator, to_array(inverse * wanted)[0], rtol=aim, restart=RESTART, maxiter=CYCLES)
        solution = to_tensor(found).reshape(1, -1)
        return solution, wanted - self._applied(solution, rate)

    def _inverse(self, rate: float) -> Tensor:
        """Return the inverse of the diagonal of 1/δ + H, the preconditioner, [1, D]."""
        return 1.0 / (rate + self.diagonal).abs().clamp(min=SMALLEST)

    def _applied(self, vector: Tensor, rate: float) -> Tensor:
        """Return (1/δ + H) v; unknowns that stay are their own equations."""
        allowed = self.field.allowed
        moved = torch.where(allowed, vector, 0.0)
        turned = self.along(moved / self.root) / self.root + rate * moved + self._along_shifts(moved)
        return torch.where(allowed, turned, vector)

    def _along_shifts(self, vector: Tensor) -> Tensor:
        """Return the part of a vector that is along the shifts, which change no policy."""
        shifts = self.root.unsqueeze(2) * self.field.shifts
        norms = shifts.norm(dim=1, keepdim=True)
        shifts = shifts / torch.where(norms > 0, norms, 1.0)
        return (shifts @ (shifts.mT @ vector.unsqueeze(2)))[..., 0]
