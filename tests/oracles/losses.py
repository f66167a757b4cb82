"""Every loss per pair, in mpmath, written from the formulas in OBJECTIVES.md and from nothing else.

Notation: lw, ll = log π(y_w), log π(y_l); rw, rl the same under π_ref; nw, nl the lengths;
aw = lw/nw, al = ll/nl; hw = lw − rw, hl = ll − rl; D = hw − hl; S(z) = −log σ(z).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpmath import diff, exp, expm1, log, log1p, mp, mpf

DIGITS = 50
"""Working precision; float64 has 16 digits, so what is compared has some 30 to spare."""


@dataclass(frozen=True)
class Pair:
    """What the formulas look at, as exact numbers."""

    lw: Any
    ll: Any
    rw: Any
    rl: Any
    nw: Any = 1
    nl: Any = 1

    @property
    def aw(self):
        return self.lw / self.nw

    @property
    def al(self):
        return self.ll / self.nl

    @property
    def hw(self):
        return self.lw - self.rw

    @property
    def hl(self):
        return self.ll - self.rl

    @property
    def d(self):
        return self.hw - self.hl


def s(z):
    """S(z) = −log σ(z) = log(1 + e^−z), with the exponential of a negative number only."""
    return log1p(exp(-z)) if z > 0 else log1p(exp(z)) - z


def logit_of_exp(a):
    """Logit p = log p − log(1 − p) of p = e^a."""
    return a - log(-expm1(a))


def dpo(y: Pair, beta):
    return s(beta * y.d)


def cdpo(y: Pair, beta, label_smoothing):
    return (1 - label_smoothing) * s(beta * y.d) + label_smoothing * s(-beta * y.d)


def log_pi(y: Pair, beta):
    return s(beta * (y.lw - y.ll))


def slic(y: Pair, delta, lam):
    return max(mpf(0), delta - y.lw + y.ll) - lam * y.lw


def orpo(y: Pair, lam):
    return -y.aw + lam * s(logit_of_exp(y.aw) - logit_of_exp(y.al))


def simpo(y: Pair, beta, gamma):
    return s(beta * y.aw - beta * y.al - gamma)


def cal_dpo(y: Pair, beta, calibration_weight):
    goal = 1 / (2 * beta)
    return s(y.d) + calibration_weight * ((y.hw - goal) ** 2 + (y.hl + goal) ** 2)


def mi_dpo(y: Pair, alpha, prior):
    log_zeta_w, log_zeta_l = LOG_PRIORS[prior](y)
    return s(alpha * ((y.lw - log_zeta_w) - (y.ll - log_zeta_l)))


LOG_PRIORS: Mapping[str, Callable[[Pair], tuple[Any, Any]]] = {
    "reference": lambda y: (y.rw, y.rl),
    "uniform": lambda y: (mpf(0), mpf(0)),
}
"""log ζ of the chosen and of the rejected response, up to a shared constant."""

LOSSES: Mapping[str, Callable[..., Any]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "log_pi": log_pi,
    "slic": slic,
    "orpo": orpo,
    "simpo": simpo,
    "cal_dpo": cal_dpo,
    "mi_dpo": mi_dpo,
}
"""The oracle of each registered objective, by its name there."""

DOMAINS: Mapping[str, Mapping[str, str]] = {
    "dpo": {"beta": "(0, inf)"},
    "cdpo": {"beta": "(0, inf)", "label_smoothing": "[0, 0.5)"},
    "log_pi": {"beta": "(0, inf)"},
    "slic": {"delta": "(0, inf)", "lam": "[0, inf)"},
    "orpo": {"lam": "[0, inf)"},
    "simpo": {"beta": "(0, inf)", "gamma": "(-inf, inf)"},
    "cal_dpo": {"beta": "(0, inf)", "calibration_weight": "(0, inf)"},
    "mi_dpo": {"alpha": "(0, inf)", "prior": "names"},
}
"""The hyperparameters of each loss and where its formula makes sense: a scale of 0 forgets the reward, a
label that is wrong half the time says nothing, and a weight of 0 switches a term off."""

KINKS: Mapping[str, Callable[..., Any]] = {"slic": lambda y, delta, lam: delta - y.lw + y.ll}
"""For a loss with a kink: what is 0 there."""


@dataclass(frozen=True)
class Evaluation:
    """A loss in high precision, and how sensitive it is to the rounding of what it is computed from.

    Attributes:
        value: the loss.
        gradient: its derivatives by log π(y_w) and log π(y_l).
        value_scale: |f| + Σ |x ∂f/∂x| over the log-probabilities x and the hyperparameters: a relative
            change of ε in each moves the loss by at most ε times this.
        gradient_scale: the same for each of the two derivatives.
    """

    value: float
    gradient: tuple[float, float]
    value_scale: float
    gradient_scale: tuple[float, float]


def _function(name: str, lengths: tuple[float, float], hyperparameters: Mapping[str, Any]):
    """The loss as a function of the four log-probabilities and the numeric hyperparameters."""
    options = {key: value for key, value in hyperparameters.items() if isinstance(value, str)}
    numbers = [key for key in hyperparameters if key not in options]
    nw, nl = map(mpf, lengths)

    def loss(lw, ll, rw, rl, *values):
        return LOSSES[name](Pair(lw, ll, rw, rl, nw, nl), **dict(zip(numbers, values, strict=True)), **options)

    return loss, [mpf(hyperparameters[key]) for key in numbers]


def _partial(function, point: list, *variables: int):
    orders = [0] * len(point)
    for variable in variables:
        orders[variable] += 1
    return diff(function, point, orders)


def _sensitivity(function, point: list, *variables: int):
    """|g| + Σ |x ∂g/∂x| of g, the derivative of the function by the variables."""
    slopes = (_partial(function, point, *variables, i) * x for i, x in enumerate(point) if x != 0)
    base = _partial(function, point, *variables) if variables else function(*point)
    return abs(base) + sum(map(abs, slopes))


def evaluate(
    name: str,
    log_probs: tuple[float, float, float, float],
    lengths: tuple[float, float],
    hyperparameters: Mapping[str, Any],
) -> Evaluation:
    """Evaluate a loss, its gradient by mpmath differentiation, and the sensitivity of both."""
    with mp.workdps(DIGITS):
        loss, numbers = _function(name, lengths, hyperparameters)
        point = [*map(mpf, log_probs), *numbers]
        return Evaluation(
            float(loss(*point)),
            (float(_partial(loss, point, 0)), float(_partial(loss, point, 1))),
            float(_sensitivity(loss, point)),
            (float(_sensitivity(loss, point, 0)), float(_sensitivity(loss, point, 1))),
        )


def value_and_gradient(
    name: str,
    log_probs: tuple[float, float, float, float],
    lengths: tuple[float, float],
    hyperparameters: Mapping[str, Any],
    digits: int,
) -> tuple[float, tuple[float, float]]:
    """Return the loss and its gradient only, at a precision fit for hyperparameters such as 1e300."""
    with mp.workdps(digits):
        loss, numbers = _function(name, lengths, hyperparameters)
        point = [*map(mpf, log_probs), *numbers]
        gradient = float(_partial(loss, point, 0)), float(_partial(loss, point, 1))
        return float(loss(*point)), gradient


def kink_distance(name: str, log_probs: tuple[float, float, float, float], hyperparameters: Mapping[str, Any]) -> float:
    """Return how far a pair is from the kink of a loss; infinite when it has none."""
    if name not in KINKS:
        return float("inf")
    with mp.workdps(DIGITS):
        return abs(float(KINKS[name](Pair(*map(mpf, log_probs)), **hyperparameters)))
