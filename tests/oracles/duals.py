"""Numbers that carry their derivatives, in mpmath.

Numerical differentiation takes steps: across a kink, a jump or a change of order it is wrong, and it sees through a
stopped gradient. A number that carries its derivatives needs no steps, and sg[x] is simply x without them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mpmath
from mpmath import mpf


class Dual:
    """A number and its derivatives by named variables; those not named are 0."""

    __slots__ = ("slopes", "value")

    def __init__(self, value: Any, slopes: Mapping[Any, Any]):
        self.value = value
        self.slopes = slopes

    def __neg__(self):
        return Dual(-self.value, {key: -slope for key, slope in self.slopes.items()})

    def __add__(self, other):
        if not isinstance(other, Dual):
            return Dual(self.value + other, self.slopes)
        slopes = dict(self.slopes)
        for key, slope in other.slopes.items():
            slopes[key] = slopes[key] + slope if key in slopes else slope
        return Dual(self.value + other.value, slopes)

    __radd__ = __add__

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, other):
        if not isinstance(other, Dual):
            return Dual(self.value * other, {key: slope * other for key, slope in self.slopes.items()})
        slopes = {key: slope * other.value for key, slope in self.slopes.items()}
        for key, slope in other.slopes.items():
            term = slope * self.value
            slopes[key] = slopes[key] + term if key in slopes else term
        return Dual(self.value * other.value, slopes)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self * (1 / other) if not isinstance(other, Dual) else self * other.inverse()

    def __rtruediv__(self, other):
        return self.inverse() * other

    def inverse(self):
        return _chain(self, lambda x: 1 / x, lambda x: -1 / x**2)

    def __pow__(self, power: int):
        return _chain(self, lambda x: x**power, lambda x: power * x ** (power - 1))

    def __abs__(self):
        return -self if self.value < 0 else self

    def __lt__(self, other):
        return self.value < plain(other)

    def __gt__(self, other):
        return self.value > plain(other)

    def __le__(self, other):
        return self.value <= plain(other)

    def __ge__(self, other):
        return self.value >= plain(other)


def variable(key: Any, value: Any) -> Dual:
    """Return a number by which to differentiate."""
    return Dual(mpf(value), {key: mpf(1)})


def plain(x: Any) -> Any:
    """Return a number without its derivatives."""
    return x.value if isinstance(x, Dual) else x


def slope(x: Any, key: Any) -> Any:
    """Return the derivative of a number by a variable."""
    return x.slopes.get(key, mpf(0)) if isinstance(x, Dual) else mpf(0)


def _chain(x: Any, function: Callable[[Any], Any], derivative: Callable[[Any], Any]) -> Any:
    if not isinstance(x, Dual):
        return function(x)
    factor = derivative(x.value)
    return Dual(function(x.value), {key: factor * each for key, each in x.slopes.items()})


def exp(x: Any) -> Any:
    """Return e^x."""
    return _chain(x, mpmath.exp, mpmath.exp)


def expm1(x: Any) -> Any:
    """Return e^x − 1."""
    return _chain(x, mpmath.expm1, mpmath.exp)


def log(x: Any) -> Any:
    """Return log x."""
    return _chain(x, mpmath.log, lambda v: 1 / v)


def log1p(x: Any) -> Any:
    """Return log(1 + x)."""
    return _chain(x, mpmath.log1p, lambda v: 1 / (1 + v))


def sqrt(x: Any) -> Any:
    """Return √x."""
    return _chain(x, mpmath.sqrt, lambda v: 1 / (2 * mpmath.sqrt(v)))


def cos(x: Any) -> Any:
    """Return cos x."""
    return _chain(x, mpmath.cos, lambda v: -mpmath.sin(v))


_transparent: list[bool] = []
_corners: list[Any] = []


def stop(x: Any) -> Any:
    """Return sg[x]: the number, held fixed where one differentiates."""
    return x if _transparent else plain(x)


@contextmanager
def without_stops() -> Iterator[None]:
    """Differentiate through stopped gradients too."""
    _transparent.append(True)
    try:
        yield
    finally:
        _transparent.pop()


def relu(x: Any) -> Any:
    """Return max(0, x), with slope 0 at the kink."""
    _corners.append(abs(plain(x)))
    return x if x > 0 else mpf(0)


def least(x: Any, limit: Any) -> Any:
    """Return min(x, limit), with the slope of x where they meet."""
    return limit - relu(limit - x)


@contextmanager
def noting_corners() -> Iterator[list[Any]]:
    """Collect how far from its kink each `relu` was evaluated."""
    _corners.clear()
    yield _corners
