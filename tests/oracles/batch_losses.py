"""Every loss that looks at the whole batch of pairs, in mpmath, written from OBJECTIVES.md and from nothing else.

A batch is a list of pairs with a list of weights. A loss returns one number per pair, each of which may depend on all
pairs: what is compared with the package is the whole Jacobian.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mpmath
from mpmath import mp, mpf

from oracles.duals import exp, plain, slope, sqrt, stop, variable
from oracles.losses import DIGITS, Pair, log1p_of_minus_exp, s, split


def mean(values: list, weights: list):
    return sum((w * v for v, w in zip(values, weights, strict=True)), mpf(0)) / sum(weights)


def std(values: list, weights: list):
    centre = mean(values, weights)
    variance = mean([(v - centre) ** 2 for v in values], weights)
    return sqrt(variance) if variance > 0 else mpf(0)


def standardised(values: list, weights: list) -> list:
    """z = (M − mean M)/std M, and 0 where all M are equal."""
    centre, spread = mean(values, weights), std(values, weights)
    return [(v - centre) / spread if spread > 0 else mpf(0) for v in values]


def forward_kl(r, a):
    """KL(π_ref‖π) of one token out of two, of which the other has the rest of the probability."""
    return exp(r) * (r - a) + (1 - exp(r)) * (log1p_of_minus_exp(r) - log1p_of_minus_exp(a))


def alpha_dpo(
    pairs: list[Pair],
    weights: list,
    beta,
    gamma,
    gamma_form,
    reference_form,
    length_normalise,
    alpha=0,
    margin="log_ratio",
    normalise=False,
    stop_gradient=False,
):
    target = {
        "ratio": lambda y: y.d if margin == "log_ratio" else forward_kl(y.rl, y.ll) - forward_kl(y.rw, y.lw),
        "uniform": lambda y: mpf(0),
        "policy": lambda y: y.lw - y.ll,
        "reference": lambda y: y.rw - y.rl,
        "inverse_reference": lambda y: -(y.rw - y.rl),
    }[reference_form]
    m = [beta * target(y) for y in pairs]
    z = standardised(m, weights) if normalise else m
    losses = []
    for y, each in zip(pairs, z, strict=True):
        u = beta * y.aw - beta * y.al if length_normalise else beta * y.lw - beta * y.ll
        asked = (gamma + alpha * each) * {"absolute": 1, "ratio": beta}[gamma_form]
        losses.append(s(u - (stop(asked) if stop_gradient else asked)))
    return losses


def kept_fractions(m: list, weights: list, rho) -> list:
    """1 − e^(−tp) with p the normal density of the margins, where t makes its mean 1 − ρ: by bisection of log t."""
    density = [mpmath.exp(-(plain(z) ** 2) / 2) for z in standardised(m, weights)]
    low, high = mpf(-100), mpf(1000)
    for _ in range(120):
        middle = (low + high) / 2
        kept = [-mpmath.expm1(-mpmath.exp(middle) * p) for p in density]
        low, high = (middle, high) if mean(kept, weights) < 1 - rho else (low, middle)
    return kept


def beta_dpo(pairs: list[Pair], weights: list, beta, alpha, rho, margin, level):
    m = [beta * y.d if margin == "scaled" else y.d for y in pairs]
    kept = kept_fractions(m, weights, rho) if rho > 0 else [mpf(1)] * len(pairs)
    centre = mean(m, weights)
    excess = [each - centre for each in m]
    if level == "batch":
        of_the_kept = mean([k * e for k, e in zip(kept, excess, strict=True)], weights) / (1 - rho)
        excess = [of_the_kept] * len(pairs)
    return [
        stop(k / (1 - rho)) * s(stop(beta * (1 + alpha * e)) * y.d) for y, k, e in zip(pairs, kept, excess, strict=True)
    ]


def coupled(x: list, y: list, weights: list, cost: Callable[[Any, Any], Any]) -> list:
    """Let the q-quantile of x meet that of y for every q: fill the sorted x with the sorted y, pair by pair."""
    rest_x, rest_y = list(weights), list(weights)
    order_x, order_y = (sorted(range(len(v)), key=lambda i, v=v: plain(v[i])) for v in (x, y))
    ascribed = [mpf(0)] * len(x)
    i = j = 0
    while i < len(x) and j < len(y):
        a, b = order_x[i], order_y[j]
        mass = min(rest_x[a], rest_y[b])
        if mass > 0:
            ascribed[a] = ascribed[a] + mass * cost(x[a], y[b])
        rest_x[a] -= mass
        rest_y[b] -= mass
        i += rest_x[a] == 0
        j += rest_y[b] == 0
    return [total / w if w > 0 else mpf(0) for total, w in zip(ascribed, weights, strict=True)]


def aot(pairs: list[Pair], weights: list, beta):
    return coupled([y.lw - y.ll for y in pairs], [y.rw - y.rl for y in pairs], weights, lambda a, b: s(beta * (a - b)))


def aot_unpaired(pairs: list[Pair], weights: list, beta):
    return coupled([y.hw for y in pairs], [y.hl for y in pairs], weights, lambda a, b: s(beta * (a - b)))


LOSSES: Mapping[str, Callable[..., Any]] = {loss.__name__: loss for loss in (alpha_dpo, beta_dpo, aot, aot_unpaired)}
"""The oracle of each objective of a batch, by its name in the registry."""


def evaluate(name: str, pairs: Sequence[Pair], weights: Sequence[float] | None, hyperparameters: Mapping[str, Any]):
    """Return the loss of each pair, and its derivatives by (lw, ll) of each pair, [pairs][2][pairs]."""
    with mp.workdps(DIGITS):
        numbers, options = split(hyperparameters)
        exact = [
            replace(
                Pair(**{key: mpf(value) for key, value in vars(y).items()}),
                lw=variable((0, i), y.lw),
                ll=variable((1, i), y.ll),
            )
            for i, y in enumerate(pairs)
        ]
        mass = [mpf(1)] * len(exact) if weights is None else [mpf(w) for w in weights]
        losses = LOSSES[name](exact, mass, **numbers, **options)
        jacobian = [[[float(slope(loss, (side, i))) for i in range(len(pairs))] for side in (0, 1)] for loss in losses]
        return [float(plain(loss)) for loss in losses], jacobian
