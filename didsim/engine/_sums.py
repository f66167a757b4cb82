"""Sums Σ_j w_j F(t_i − s_j) over so many points that their table of pairs cannot be made.

As a function of one variable, such a sum is as smooth as F. So cut the line into panels with a few Chebyshev nodes
each. On a pair of panels F(t − s) is a polynomial in t and s up to rounding, and with its coefficients C

    T_i = Σ_k T_k(t_i) Σ_p C_kp Σ_q F(x_p − y_q) Σ_l C_lq Σ_j w_j T_l(s_j)

needs F at differences of nodes only, which depend on the offset between the panels. Panels are halved until the error
on a finer grid is about what rounding explains. Only panels that hold points exist, so scores of −10⁴, which stand
for log 0, cost nothing; widths are powers of two, so that the place of a point in its panel is exact.

L stands for rows, n and m for targets and sources, A and B for their panels, d for some offsets.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from didsim._checks import message

Kernel = Callable[[Tensor], Tensor]
"""An elementwise function of margins [L, ·, ·]; its hyperparameters may have the shape [L, 1, 1]."""

NODES, CHECKS = 16, (37, 9)
"""Chebyshev nodes per panel: a pole three panels away is not seen. Points of the grid where errors are measured, in
panels of targets and of sources: ends, and among the few extremes of T_16, where interpolation is at its worst."""

WIDEST, NARROWEST = 1.0, 2.0**-16
"""The first width of panels, where e^(−m) varies little and the grid sees features of some hundredths, and the last."""

MOST_PANELS, MOST_OFFSETS = 2**11, 2**13
"""Panels are halved no further than to so many, in all rows together, with so many offsets between them."""

FEW, SMALL_TABLE, MODERATE_TABLE = 4, 2**16, 2**26
"""A table is summed outright if it has few rows or columns, is small, or is moderate and panels do not resolve F."""

BLOCK, CHUNK = 2**22, 2**13
"""So many numbers of a table are held at once; so many points, since their polynomials then fit into a cache."""

EPS = torch.finfo(torch.float64).eps

ROUNDINGS = 32.0
"""Roundings of a sum, in units of the largest |F| on a pair of panels; a handful are seen."""

SAFETY = 4.0
"""The true error may be so many times that on the grid."""

RESOLVED, ROUGH = 8.0 * SAFETY, 1e3
"""Interpolation may be so many times worse than rounding, as the grid shows roundings too; and if F is rough itself."""


@dataclass(frozen=True)
class Sums:
    """Sums over sources `values`, and an upper estimate `error` of how far off they are, float64 [L, n] each."""

    values: Tensor
    error: Tensor


def smooth_sums(kernel: Kernel, targets: Tensor, sources: Tensor, weights: Tensor) -> Sums:
    """Return T_i = Σ_j w_j F(t_i − s_j) of a smooth F for all i, in O(n + m) operations.

    The error is one against F as the kernel computes it, and infinite where that overflows. It is measured, not
    proved: a feature of F narrower than some hundredths may be missed. Where points lie so scattered that the
    widest panels are too many, the table is summed in blocks: slowly, but right. Where narrow ones are, a table of up
    to 2²⁶ numbers is summed as well; for a larger one the error says what the panels could do.

    Args:
        kernel: F, elementwise on margins [L, ·, ·].
        targets: t, float64 [L, n].
        sources: s, float64 [L, m].
        weights: w, of any sign, float64 [L, m].

    Raises:
        ValueError: if the shapes do not fit, the numbers are not float64, or one is infinite or NaN.
    """
    _check(targets, sources, weights)
    table = targets.shape[1] * sources.shape[1]
    # few points on one side: the table costs no more than a look at each point
    if table <= max(SMALL_TABLE, FEW * max(targets.shape[1], sources.shape[1])):
        return _table_sums(kernel, targets, sources, weights)
    (ascending, places), (ordered, order) = _sorted(targets), _sorted(sources)
    panels = _resolve(kernel, ascending, ordered, weights.gather(1, order))
    if panels is None or (len(targets) * table <= MODERATE_TABLE and panels.excess[1] > ROUGH):
        return _table_sums(kernel, targets, sources, weights)
    values, error = (torch.empty_like(part).scatter_(1, places, part) for part in panels.sums())
    return Sums(values, error.where(values.isfinite(), math.inf))


def dense_sums(kernel: Kernel, targets: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_j w_j F(t_i − s_j) [L, n] of any F as it is written, by a table in blocks; arguments as above."""
    sums, rows = torch.zeros_like(targets), max(1, len(targets))
    width = max(1, min(sources.shape[1], BLOCK // rows))
    height = max(1, BLOCK // (rows * width))
    for i in range(0, targets.shape[1], height):
        for j in range(0, sources.shape[1], width):
            values = kernel(targets[:, i : i + height, None] - sources[:, None, j : j + width])
            sums[:, i : i + height] += (values * weights[:, None, j : j + width]).sum(-1)
    return sums


def step_sums(threshold: float | Tensor, targets: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_j w_j 1[t_i − s_j < c] [L, n], c a number or [L, 1, 1], in O((n + m) log m) operations.

    A pair counts if and only if t_i − s_j, rounded to float64, is below c, which is when c − (t_i − s_j) is positive
    in floating point. The rounded difference does not rise with s_j, so that bisection finds where it passes c.

    Raises:
        ValueError: if the shapes do not fit, the numbers are not float64, or one is infinite or NaN.
    """
    _check(targets, sources, weights)
    if sources.shape[1] == 0:
        return torch.zeros_like(targets)
    limit = threshold.reshape(-1, 1) if isinstance(threshold, Tensor) else threshold
    ordered, order = sources.sort(dim=-1)
    low, high = (torch.full_like(targets, end, dtype=torch.int64) for end in (0, sources.shape[1]))
    for _ in range(sources.shape[1].bit_length()):
        middle = (low + high) // 2
        counts = targets - ordered.gather(1, middle.clamp(max=sources.shape[1] - 1)) < limit
        low = torch.where(counts | (low == high), low, middle + 1)
        high = torch.where(counts, middle, high)
    sums, step = torch.nn.functional.pad(weights.gather(1, order), (0, 1)), 1
    # Σ_{j ≥ k} by doubling, so that each sum is rounded log₂ m times
    while step < sums.shape[1]:
        sums[:, :-step] = sums[:, :-step] + sums[:, step:]
        step *= 2
    return sums.gather(1, low)


def _check(targets: Tensor, sources: Tensor, weights: Tensor) -> None:
    for name, numbers in (("targets", targets), ("sources", sources), ("weights", weights)):
        if numbers.dtype != torch.float64 or numbers.ndim != 2:
            raise ValueError(message(name, "float64 [L, ·]", f"{numbers.dtype} {list(numbers.shape)}"))
        if not numbers.isfinite().all():
            odd = numbers[~numbers.isfinite()][0].item()
            raise ValueError(message(name, "finite", odd, "Let a large negative number stand for log 0."))
    if weights.shape != sources.shape or len(targets) != len(sources):
        shapes = ", ".join(str(list(numbers.shape)) for numbers in (targets, sources, weights))
        raise ValueError(message("targets, sources, weights", "of shapes [L, n], [L, m], [L, m]", shapes))


def _sorted(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in ascending order, and the places of the points; that of sorted ones is seen, not made."""
    if bool((points[:, 1:] >= points[:, :-1]).all()):
        return points, torch.arange(points.shape[1]).expand_as(points)
    ascending, order = points.sort(dim=-1)
    return ascending, order


def _table_sums(kernel: Kernel, targets: Tensor, sources: Tensor, weights: Tensor) -> Sums:
    """Sum the table, and estimate the rounding of its terms and of its margins."""
    step = math.sqrt(EPS)

    def roundings(margins: Tensor) -> Tensor:
        # m F′(m) ≈ [F(m + δm) − F(m)] / δ says how far F moves with a relative rounding of m
        values = kernel(margins)
        return ROUNDINGS * values.abs() + (kernel(margins * (1.0 + step)) - values).abs() / step

    values = dense_sums(kernel, targets, sources, weights)
    error = EPS * dense_sums(roundings, targets, sources, weights.abs())
    return Sums(values, _or_infinite(error).where(values.isfinite(), math.inf))


def _or_infinite(error: Tensor) -> Tensor:
    return error.nan_to_num(nan=math.inf, posinf=math.inf)


def _polynomials(x: Tensor) -> Tensor:
    """Return T_k(x), [NODES, n], of points [n] in [−1, 1]."""
    values, twice = x.new_empty(NODES, len(x)), 2.0 * x
    values[0], values[1] = 1.0, x
    for k in range(2, NODES):
        torch.mul(twice, values[k - 1], out=values[k]).sub_(values[k - 2])
    return values


def _cosines(multiples: Tensor, parts: int) -> Tensor:
    """Return cos(π·multiple / parts), of arguments below 2π, so that they are rounded little."""
    return torch.cos((multiples % (2 * parts)).double() * (math.pi / parts))


_ODD = 2 * torch.arange(NODES) + 1
_PLACES = _cosines(_ODD, 2 * NODES)
_CHECKED = [_cosines(torch.arange(count), count - 1) for count in CHECKS]
# C_kq = (2 − δ_k0) T_k(x_q) / NODES
_SERIES = _cosines(torch.arange(NODES)[:, None] * _ODD, 2 * NODES) * (2.0 / NODES)
_SERIES[0] *= 0.5
_BETWEEN = [_polynomials(places).T @ _SERIES for places in _CHECKED]


@dataclass(frozen=True)
class _Side:
    """Points [L, m], ascending; each one's panel in its row; and the panels' numbers [L, P], padded with ∞.

    Panel k reaches from k·width to (k + 1)·width.
    """

    points: Tensor
    width: float
    rank: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, points: Tensor, width: float) -> "_Side":
        """Cut rows of points into panels."""
        numbers = torch.floor(points / width)
        rank = torch.nn.functional.pad((numbers[:, 1:] != numbers[:, :-1]).cumsum(1), (1, 0))
        listed = points.new_full((len(points), int(rank[:, -1].max()) + 1), math.inf)
        return cls(points, width, rank, listed.scatter_(1, rank, numbers))

    def runs(self) -> Iterator[tuple[slice, Tensor, list[tuple[int, int, int]]]]:
        """Yield chunks of points of all rows, with T_k [NODES, ·], and runs in one panel: which of L·P, from, to."""
        slots = (self.rank + torch.arange(len(self.rank))[:, None] * self.numbers.shape[1]).flatten()
        places = 2.0 * (self.points / self.width - self.numbers.gather(1, self.rank)).flatten() - 1.0
        for start in range(0, len(slots), CHUNK):
            chunk = slice(start, start + CHUNK)
            panels, counts = slots[chunk].unique_consecutive(return_counts=True)
            runs = torch.stack([panels, counts.cumsum(0) - counts, counts.cumsum(0)], dim=1).tolist()
            yield chunk, _polynomials(places[chunk]), runs


@dataclass(frozen=True)
class _Panels:
    """The panels of targets and sources, the weights [L, m], and all differences between the panels' numbers."""

    kernel: Kernel
    targets: _Side
    sources: _Side
    weights: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, kernel: Kernel, targets: Tensor, sources: Tensor, weights: Tensor, width: float) -> "_Panels | None":
        """Cut sorted points into panels; None if these are too many, or their numbers too large to be exact."""
        sides = _Side.of(targets, width), _Side.of(sources, width)
        # of all rows together
        a, b = (numbers[numbers.isfinite()] for numbers in (side.numbers.unique() for side in sides))
        if max(len(a), len(b)) > MOST_PANELS or max(float(a.abs().max()), float(b.abs().max())) > 0.5 / EPS:
            return None
        offsets = (a[:, None] - b).unique()
        return cls(kernel, *sides, weights, offsets) if len(offsets) <= MOST_OFFSETS else None

    @cached_property
    def errors(self) -> Tensor:
        """Estimates of the errors of interpolation and of rounding in each panel of targets, [2, L, A]."""
        mass = torch.zeros_like(self.sources.numbers).scatter_add_(1, self.sources.rank, self.weights.abs())
        total = torch.zeros(2, *self.targets.numbers.shape, dtype=torch.float64)
        for offsets, place, hit in self._meetings(max(CHECKS[0] * CHECKS[1], total.shape[2])):
            masses = torch.where(hit, mass.gather(1, place), 0.0).view(len(mass), len(offsets), -1)
            # an infinite estimate counts for nothing where there are no weights
            total += torch.where(masses > 0, masses * self._bounds(offsets)[..., None], 0.0).sum(2)
        return total

    @cached_property
    def excess(self) -> tuple[float, float]:
        """How many times interpolation is worse than rounding: at the worst target, and where errors are largest."""
        finite = self.errors.where(self.errors.isfinite().all(0), 0.0)
        each, largest = ((part[0] / part[1]).nan_to_num(0.0).max() for part in (finite, finite.amax(2)))
        return float(each), float(largest)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return the sums and their errors, [L, n] each, in the order of the sorted targets."""
        moments = torch.zeros(self.sources.numbers.numel(), NODES, dtype=torch.float64)
        for chunk, polynomials, runs in self.sources.runs():
            polynomials *= self.weights.flatten()[chunk]
            for panel, start, end in runs:
                moments[panel] += polynomials[:, start:end].sum(1)
        series = (self._transfer(moments.view(len(self.weights), -1, NODES) @ _SERIES) @ _SERIES.T).flatten(0, 1)
        values = torch.empty_like(self.targets.points)
        for chunk, polynomials, runs in self.targets.runs():
            for panel, start, end in runs:
                values.view(-1)[chunk][start:end] = series[panel] @ polynomials[:, start:end]
        return values, self.errors.sum(0).gather(1, self.targets.rank)

    def _transfer(self, weights: Tensor) -> Tensor:
        """Sum F between nodes: weights on those of the sources [L, B, NODES] to sums at the targets' [L, A, NODES]."""
        sums = torch.zeros(*self.targets.numbers.shape, NODES, dtype=torch.float64)
        for offsets, place, hit in self._meetings(sums.shape[1] * NODES):
            taken = weights.gather(1, place[..., None].expand(-1, -1, NODES)).unflatten(1, (len(offsets), -1))
            parts = taken @ self._values(offsets, _PLACES, _PLACES).mT
            sums += torch.where(hit.view(*parts.shape[:3], 1), parts, 0.0).sum(1)
        return sums

    def _bounds(self, offsets: Tensor) -> Tensor:
        """Estimate the largest errors of F between two panels by interpolation and by rounding, [2, L, d]."""
        values = self._values(offsets, *_CHECKED)
        guessed = _BETWEEN[0] @ self._values(offsets, _PLACES, _PLACES) @ _BETWEEN[1].T
        # the rounding of a margin of up to (|d| + 1)·width moves F by its slope
        slope = (values.diff(dim=-2) / _CHECKED[0].diff()[:, None]).abs().amax((-2, -1)) * (2.0 / self.targets.width)
        farthest = (offsets.abs() + 1.0) * self.targets.width
        rounding = EPS * (ROUNDINGS * values.abs().amax((-2, -1)) + farthest * slope)
        return _or_infinite(torch.stack([SAFETY * (guessed - values).abs().amax((-2, -1)), rounding]))

    def _values(self, offsets: Tensor, above: Tensor, below: Tensor) -> Tensor:
        """Return F between places in panels of targets and of sources, [L, d, above, below]."""
        margins = self.targets.width * (offsets[:, None, None] + 0.5 * (above[:, None] - below))
        rows = margins.flatten(0, 1).repeat(len(self.weights), 1, 1)
        return self.kernel(rows).reshape(-1, *margins.shape)

    def _meetings(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield offsets [d], and for each, with each panel of targets, the panel of sources [L, d·A] if there is one.

        The `size` of an offset, in numbers per row, decides how many come at once.
        """
        numbers = self.sources.numbers
        for offsets in self.offsets.split(max(1, BLOCK // 2 // (len(numbers) * size))):
            wanted = (self.targets.numbers[:, None, :] - offsets[:, None]).flatten(1)
            place = torch.searchsorted(numbers, wanted).clamp_(max=numbers.shape[1] - 1)
            yield offsets, place, (numbers.gather(1, place) == wanted) & wanted.isfinite()


def _resolve(kernel: Kernel, targets: Tensor, sources: Tensor, weights: Tensor) -> _Panels | None:
    """Halve the panels of sorted points until they resolve the kernel, or are too many; None if they always are.

    A kernel that has lost its digits, in a tail that is a difference of larger numbers, rounds so roughly that this
    looks like an error of interpolation. Then narrower panels are of no help, and the search ends.
    """
    panels, width = _Panels.of(kernel, targets, sources, weights, WIDEST), WIDEST
    while panels is not None and panels.excess[0] > RESOLVED and width > NARROWEST:
        width *= 0.5
        finer = _Panels.of(kernel, targets, sources, weights, width)
        if finer is None:
            break
        pairs = zip(finer.excess, panels.excess, strict=True)
        helps = any(after < 0.5 * before and before > RESOLVED for after, before in pairs)
        if panels.excess[1] <= ROUGH and not helps:
            break
        panels = finer
    return panels
