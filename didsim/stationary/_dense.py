"""Newton's equations as dense matrices, one for each row."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from didsim.stationary._march import STEP, Field

SINGULAR = 1e-13
"""An eigenvalue of the scaled Jacobian this small, relative to the largest, is 0 to rounding."""

NO_FORCE = 1e-14
"""A component of the field along a null direction that is this small, relative to the mass of pairs, is rounding."""


class DenseField(Field, Protocol):
    """A field whose Jacobian is small enough to be written down."""

    @property
    def has_corners(self) -> bool:
        """Whether the loss has kinks or jumps."""
        ...

    def take(self, rows: Tensor) -> "DenseField":
        """Return the field of some rows."""
        ...

    def freeze(self, unknowns: Tensor, dead: Tensor) -> "DenseField":
        """Return the same field, in which dead choices stay as they are."""
        ...

    def linearise(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return g, [L, D], and dg/dθ, [L, D, D]."""
        ...


@dataclass(frozen=True)
class DenseEquations:
    """H = C^−½ J C^−½ plus 1 along the shifts [L, D, D], and the right side C^−½ g, with C = max(|diag J|, |g|).

    Attributes:
        matrix: H.
        right: C^−½ g, [L, D].
        root: C^½, [L, D].
        mass: the mass of pairs that each unknown sees, [L, D].
        symmetric: whether H is.
    """

    matrix: Tensor
    right: Tensor
    root: Tensor
    mass: Tensor
    symmetric: bool

    @classmethod
    def of(cls, field: DenseField, unknowns: Tensor) -> "DenseEquations":
        """Evaluate a field and its Jacobian."""
        gradient, matrix = field.linearise(unknowns)
        size = torch.maximum(matrix.diagonal(dim1=1, dim2=2).abs(), gradient.abs())
        root = torch.where(field.allowed & (size > 0), size, 1.0).sqrt()
        matrix = matrix / (root.unsqueeze(2) * root.unsqueeze(1))
        allowed = field.allowed
        matrix = torch.where(allowed.unsqueeze(2) & allowed.unsqueeze(1), matrix, 0.0)
        matrix = matrix + torch.diag_embed((~allowed).to(matrix.dtype))
        shifts = root.unsqueeze(2) * field.shifts  # orthogonal: they touch different unknowns
        norms = shifts.norm(dim=1, keepdim=True)
        shifts = shifts / torch.where(norms > 0, norms, 1.0)
        right = torch.where(allowed, gradient / root, 0.0)
        return cls(matrix + shifts @ shifts.mT, right, root, field.scale, field.is_gradient)

    def step(self, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return Δ for times δ [L], or the Newton step without, and which rows could be solved, [L]."""
        matrix = self.matrix if time is None else self._shifted(time)
        solved, failed = torch.linalg.solve_ex(matrix, -self.right)
        solved = solved / self.root
        fine = (failed == 0) & solved.isfinite().all(1)
        return torch.where(fine[:, None], solved, 0.0), fine

    def are_positive(self, time: Tensor) -> Tensor:
        """Return where C/δ + J is positive, so that the step goes the way of the flow, [L]."""
        shifted = self._shifted(time)
        finite = shifted.isfinite().all(2).all(1)
        shifted = torch.where(finite[:, None, None], shifted, 0.0)
        if self.symmetric:
            return finite & (torch.linalg.cholesky_ex(0.5 * (shifted + shifted.mT)).info == 0)
        return finite & (_spectrum(shifted) > 0).all(1)

    def are_regular(self, noise: Tensor) -> Tensor:
        """Return where J, off the shifts, has no null direction, and rounding of g moves no Newton step, [L]."""
        inverse, failed = torch.linalg.inv_ex(torch.where(self.matrix.isfinite(), self.matrix, 0.0))
        size = self.matrix.abs().amax((1, 2)) * inverse.abs().amax((1, 2))
        moved = (inverse.abs() @ (noise / self.root).unsqueeze(2))[..., 0] / self.root
        return (failed == 0) & (size <= 1.0 / SINGULAR) & (moved.amax(1) <= STEP)

    def null_directions(self) -> Tensor:
        """Count the directions in which the field is 0 and stays so, [L]; 0 where it is not 0 along one of them."""
        left, values, _ = torch.linalg.svd(self.matrix)
        null = values <= SINGULAR * values[:, :1]
        force = torch.where(null, (left.mT @ self.right.unsqueeze(2))[..., 0], 0.0)
        mass = torch.where(self.mass > 0, self.mass, 1.0)
        still = ((left @ force.unsqueeze(2))[..., 0] * self.root / mass).abs().amax(1) <= NO_FORCE
        return torch.where(still, null.sum(1), 0)

    def weakest_directions(self) -> Tensor:
        """Return the direction in which the field changes least, or a shift, its largest entry 1, [L, D]."""
        _, _, right = torch.linalg.svd(self.matrix)
        direction = right[:, -1] / self.root
        return direction / direction.abs().amax(1, keepdim=True)

    def _shifted(self, time: Tensor) -> Tensor:
        return self.matrix + torch.diag_embed((1.0 / time)[:, None].expand_as(self.right))


LARGEST_SPECTRUM = 512
"""Of so many unknowns eigenvalues are computed."""


def lowest_eigenvalues(field: DenseField, unknowns: Tensor) -> Tensor:
    """Return the smallest eigenvalue (real part) of the Jacobian of each row off the shifts, [L]; NaN if large."""
    if unknowns.shape[1] > LARGEST_SPECTRUM:
        return torch.full((len(unknowns),), torch.nan, dtype=unknowns.dtype)
    matrix, allowed, shifts = field.linearise(unknowns)[1], field.allowed, field.shifts
    matrix = torch.where(allowed.unsqueeze(2) & allowed.unsqueeze(1), matrix, 0.0)
    # what stays, and what changes no policy, is moved beyond all other eigenvalues
    beyond = 2.0 * matrix.flatten(1).norm(dim=1)[:, None, None]
    shifts = shifts / shifts.norm(dim=1, keepdim=True).clamp(min=1.0)
    matrix = matrix + beyond * (shifts @ shifts.mT + torch.diag_embed((~allowed).to(matrix.dtype)))
    return (torch.linalg.eigvalsh(matrix) if field.is_gradient else _spectrum(matrix)).amin(1)


def _spectrum(matrices: Tensor) -> Tensor:
    """Return the real parts of the eigenvalues of matrices [L, D, D], [L, D]; NaN where LAPACK finds none."""
    try:
        return torch.linalg.eigvals(matrices).real
    except torch.linalg.LinAlgError:  # type: ignore[reportPrivateImportUsage]  # of one matrix, not of all
        if len(matrices) == 1:
            return torch.full_like(matrices[:, 0], torch.nan)
        return torch.cat([_spectrum(matrix) for matrix in matrices.split(1)])
