"""Every loss that looks at one pair of whole responses, in mpmath, written from OBJECTIVES.md and from nothing else.

Notation: lw, ll = log π(y_w), log π(y_l); rw, rl the same under π_ref; nw, nl the lengths; mw, ml = log π(y) without
the prompt; zw, zl = log ζ(y) of a learned prior; kl the mean KL(π‖π_ref); aw = lw/nw, al = ll/nl; hw = lw − rw,
hl = ll − rl; D = hw − hl; S(z) = −log σ(z). Losses of tokens and of batches stand in files of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mpmath import mp, mpf, pi

from oracles.duals import (
    cos,
    exp,
    expm1,
    least,
    log,
    log1p,
    noting_corners,
    plain,
    relu,
    slope,
    stop,
    variable,
    without_stops,
)

DIGITS = 50
"""Working precision; float64 has 16 digits, so what is compared has some 30 to spare."""


@dataclass(frozen=True)
class Pair:
    """What the formulas look at, as exact numbers."""

    lw: Any
    ll: Any
    rw: Any = -1.0
    rl: Any = -1.5
    nw: Any = 1.0
    nl: Any = 1.0
    mw: Any = -2.25
    ml: Any = -1.75
    zw: Any = -1.25
    zl: Any = -2.5
    kl: Any = 0.25

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


OF_THE_POLICY = ("lw", "ll", "mw", "ml", "zw", "zl", "kl")
"""The parts of a pair that move with what is trained."""


def s(z):
    """S(z) = −log σ(z) = log(1 + e^−z), with the exponential of a negative number only."""
    return log1p(exp(-z)) if z > 0 else log1p(exp(z)) - z


def sigma(z):
    """σ(z), with the exponential of a negative number only; 1 − σ(z) is written σ(−z), which loses no digits."""
    return 1 / (1 + exp(-z)) if z > 0 else exp(z) / (1 + exp(z))


def logit_of_exp(a):
    """Logit p = log p − log(1 − p) of p = e^a."""
    return a - log1p_of_minus_exp(a)


def log1p_of_minus_exp(a):
    """log(1 − e^a)."""
    return log1p(-exp(a)) if a < -1 else log(-expm1(a))


def dpo(y: Pair, beta):
    return s(beta * y.d)


def cdpo(y: Pair, beta, label_smoothing):
    return (1 - label_smoothing) * s(beta * y.d) + label_smoothing * s(-beta * y.d)


def robust_dpo(y: Pair, beta, label_smoothing):
    flipped = (1 - label_smoothing) * s(beta * y.d) - label_smoothing * s(-beta * y.d)
    return flipped / (1 - 2 * label_smoothing)


def ipo(y: Pair, tau, aggregation):
    margin = {"sum": y.d, "mean": y.hw / y.nw - y.hl / y.nl}[aggregation]
    return (margin - 1 / (2 * tau)) ** 2


def hinge(y: Pair, beta):
    return relu(1 - beta * y.d)


def exponential(y: Pair, beta):
    return exp(-beta * y.d)


def exo(y: Pair, beta, label_smoothing):
    z = beta * y.d
    log_q, log_not_q = -s(z), -s(-z)
    right = sigma(z) * (log_q - log1p(-label_smoothing))
    return right + sigma(-z) * (log_not_q - log(label_smoothing))


def discopop(y: Pair, beta, tau):
    z = beta * y.d
    return sigma(-z / tau) * s(z) + sigma(z / tau) * exp(-z)


def r_dpo(y: Pair, beta, alpha):
    return s(beta * y.d + alpha * (y.nw - y.nl))


def dpop(y: Pair, beta, lam):
    return s(beta * (y.d - lam * relu(y.rw - y.lw)))


def h_dpo(y: Pair, beta, eta):
    return s(beta * ((eta * y.lw - y.rw) - (eta * y.ll - y.rl)))


def dpo_norm(y: Pair, beta):
    return s(beta * (y.hw / y.nw - y.hl / y.nl))


def f_dpo(y: Pair, beta, divergence, cut, alpha=None):
    f_prime = {
        "reverse_kl": lambda h: h,
        "forward_kl": lambda h: -expm1(least(-h, cut)),
        "js": lambda h: log(mpf(2)) - s(h),
        "alpha": lambda h: expm1(least((alpha - 1) * h, cut)) / (alpha - 1) if alpha != 1 else h,
    }[divergence]
    return s(beta * (f_prime(y.hw) - f_prime(y.hl)))


def chi_po(y: Pair, beta, r_max, cut):
    phi_w, phi_l = exp(least(y.hw, cut)) + y.hw, exp(least(y.hl, cut)) + y.hl
    above = least(beta * (phi_w - phi_l), 2 * r_max)
    return s(-least(-above, 2 * r_max))


def cal_dpo(y: Pair, beta, calibration_weight):
    goal = 1 / (2 * beta)
    return s(y.d) + calibration_weight * ((y.hw - goal) ** 2 + (y.hl + goal) ** 2)


def sppo(y: Pair, beta):
    goal = 1 / (2 * beta)
    return (y.hw - goal) ** 2 + (y.hl + goal) ** 2


def kto(y: Pair, beta, lam_w, lam_l):
    z = stop(y.kl)
    return lam_w * sigma(-beta * (y.hw - z)) + lam_l * sigma(-beta * (z - y.hl))


def nca(y: Pair, beta):
    c, r = beta * y.hw, beta * y.hl
    return s(c) + s(-c) / 2 + s(-r) / 2


def bco(y: Pair, beta):
    return s(beta * y.hw) + s(-beta * y.hl)


def apo_zero(y: Pair, beta):
    return sigma(-beta * y.hw) + sigma(beta * y.hl)


def apo_down(y: Pair, beta, rounding_w=1, rounding_l=1):
    return rounding_w * sigma(rounding_w * beta * y.hw) + rounding_l * sigma(-rounding_l * beta * y.d)


def log_pi(y: Pair, beta):
    return s(beta * (y.lw - y.ll))


def entropy_probe(y: Pair):
    return s(y.lw - y.ll)


def slic(y: Pair, delta, lam):
    return relu(delta - y.lw + y.ll) - lam * y.lw


def cpo(y: Pair, beta, lam):
    return s(beta * (y.lw - y.ll)) - lam * y.lw


def orpo(y: Pair, lam):
    return -y.aw + lam * s(logit_of_exp(y.aw) - logit_of_exp(y.al))


def asked(margin, beta, gamma_form):
    """The reward margin: as it stands, or given per unit of β."""
    return {"absolute": margin, "ratio": beta * margin}[gamma_form]


def simpo(y: Pair, beta, gamma, gamma_form):
    return s(beta * y.aw - beta * y.al - asked(gamma, beta, gamma_form))


def alphapo(y: Pair, beta, gamma, alpha, gamma_form, cut):
    def reward(a):
        return -expm1(least(-alpha * a, cut)) / alpha if alpha != 0 else a

    return s(beta * reward(y.aw) - beta * reward(y.al) - asked(gamma, beta, gamma_form))


def repo(y: Pair, gamma):
    return relu(gamma - (y.aw - y.al))


def simper(y: Pair, rounding_w=1, rounding_l=1):
    return -rounding_w * exp(y.aw) + rounding_l * exp(y.al)


def dpo_pg(y: Pair):
    """The loss of which g_w is the gradient; the rule itself is `projected` below."""
    return -y.lw


def projected(chosen: list, rejected: list) -> list:
    """g_w − max(0, g_w·g_l)/‖g_l‖² g_l, and g_w where g_l = 0."""
    square = sum(b * b for b in rejected)
    if square == 0:
        return list(chosen)
    overlap = max(mpf(0), sum(a * b for a, b in zip(chosen, rejected, strict=True)))
    return [a - overlap / square * b for a, b in zip(chosen, rejected, strict=True)]


def rmipo(
    y: Pair,
    beta,
    gamma_max,
    gamma_form,
    schedule,
    length_normalise,
    gamma_min=None,
    signal=None,
    aggregation=None,
    stop_gradient=False,
):
    gamma = gamma_max
    if schedule != "none":
        evidence = _rmipo_signal(y, signal, aggregation)
        share = {
            "exponential": lambda x: exp(-x),
            "linear": lambda x: relu(1 - x),
            "cosine": lambda x: (1 + cos(pi * x)) / 2 if x < 1 else mpf(0),
        }[schedule](relu(evidence))
        gamma = gamma_min + (gamma_max - gamma_min) * share
    gamma = asked(gamma, beta, gamma_form)
    margin = beta * y.aw - beta * y.al if length_normalise else beta * y.lw - beta * y.ll
    return s(margin - (stop(gamma) if stop_gradient else gamma))


def _rmipo_signal(y: Pair, signal, aggregation):
    """Δpmi, or Δ log π in its place, as a whole or per token."""
    w, l = {"pmi": (y.lw - y.mw, y.ll - y.ml), "log_pi": (y.lw, y.ll)}[signal]  # noqa: E741
    return w / y.nw - l / y.nl if aggregation == "mean" else w - l


def mi_dpo(y: Pair, alpha, prior, stop_gradient, rounding_w=1, rounding_l=1, **values):
    log_zeta = LOG_PRIORS[prior](y, alpha=alpha, **values)
    zeta_w, zeta_l = (stop(each) if stop_gradient else each for each in log_zeta)
    return s(alpha * ((y.lw - rounding_w * zeta_w) - (y.ll - rounding_l * zeta_l)))


LOG_PRIORS: Mapping[str, Callable[..., tuple[Any, Any]]] = {
    "reference": lambda y, **_: (y.rw, y.rl),
    "previous": lambda y, **_: (y.rw, y.rl),
    "uniform": lambda y, **_: (mpf(0), mpf(0)),
    "centropy": lambda y, eta, **_: (y.rw + (1 - eta) * y.lw, y.rl + (1 - eta) * y.ll),
    "simpo": lambda y, alpha, gamma, **_: (
        (1 - 1 / y.nw) * y.lw + gamma / (2 * alpha),
        (1 - 1 / y.nl) * y.ll - gamma / (2 * alpha),
    ),
    "r_dpo": lambda y, alpha, length_penalty, **_: (
        y.rw - length_penalty / alpha * y.nw,
        y.rl - length_penalty / alpha * y.nl,
    ),
    "marginal": lambda y, **_: (y.mw, y.ml),
    "learned": lambda y, **_: (y.zw, y.zl),
    "given": lambda y, **_: (y.zw, y.zl),
}
"""log ζ of the chosen and of the rejected response, up to a shared constant."""

LOSSES: Mapping[str, Callable[..., Any]] = {
    loss.__name__: loss
    for loss in (
        *(dpo, cdpo, robust_dpo, ipo, hinge, exponential, exo, discopop, r_dpo, dpop, h_dpo, dpo_norm, f_dpo, chi_po),
        *(mi_dpo, cal_dpo, sppo, kto, bco, nca, apo_zero, apo_down, log_pi, entropy_probe, slic, cpo, orpo, simpo),
        *(alphapo, repo, simper, dpo_pg, rmipo),
    )
}
"""The oracle of each registered objective, by its name there."""

CUT = frozenset({"f_dpo", "chi_po", "alphapo"})
"""Losses of e^h whose exponent is cut at half the logarithm of the largest number, as their documentation says:
without that they would be infinite, and differences of two of them NaN."""

ROUNDED = frozenset({"mi_dpo", "apo_down", "simper"})
"""Losses that are differences of two numbers which have to be computed first, and may be far larger: each stands there
with a factor of 1, so that its rounding counts as that of an input does. A factor inside σ stands for the rounding of
an exponent."""

POSITIVE, NON_NEGATIVE, REAL = "(0, inf)", "[0, inf)", "(-inf, inf)"

DOMAINS: Mapping[str, Mapping[str, str]] = {
    **{
        name: {"beta": POSITIVE}
        for name in (
            *("dpo", "log_pi", "hinge", "exponential", "sppo", "nca", "bco", "apo_zero", "apo_down", "dpo_norm"),
            *("tdpo1", "wpo", "aot", "aot_unpaired"),
        )
    },
    **{name: {} for name in ("entropy_probe", "simper", "dpo_pg")},
    "cdpo": {"beta": POSITIVE, "label_smoothing": "[0, 0.5)"},
    "robust_dpo": {"beta": POSITIVE, "label_smoothing": "[0, 0.5)"},
    "exo": {"beta": POSITIVE, "label_smoothing": "(0, 0.5)"},
    "discopop": {"beta": POSITIVE, "tau": POSITIVE},
    "ipo": {"tau": POSITIVE, "aggregation": "names"},
    "r_dpo": {"beta": POSITIVE, "alpha": NON_NEGATIVE},
    "dpop": {"beta": POSITIVE, "lam": NON_NEGATIVE},
    "h_dpo": {"beta": POSITIVE, "eta": POSITIVE},
    "f_dpo": {"beta": POSITIVE, "divergence": "names", "alpha": REAL},
    "chi_po": {"beta": POSITIVE, "r_max": POSITIVE},
    "cal_dpo": {"beta": POSITIVE, "calibration_weight": POSITIVE},
    "kto": {"beta": POSITIVE, "lam_w": NON_NEGATIVE, "lam_l": NON_NEGATIVE},
    "slic": {"delta": POSITIVE, "lam": NON_NEGATIVE},
    "cpo": {"beta": POSITIVE, "lam": NON_NEGATIVE},
    "orpo": {"lam": NON_NEGATIVE},
    "simpo": {"beta": POSITIVE, "gamma": REAL, "gamma_form": "names"},
    "alphapo": {"beta": POSITIVE, "gamma": REAL, "alpha": REAL, "gamma_form": "names"},
    "repo": {"gamma": REAL},
    "tdpo2": {"beta": POSITIVE, "alpha": NON_NEGATIVE},
    "tis_dpo": {"beta": POSITIVE, "alpha": NON_NEGATIVE},
    "sparse_po": {"beta": POSITIVE, "lam": NON_NEGATIVE, "masks": "names"},
    "epsilon_dpo": {"beta": POSITIVE, "epsilon": "[0, 1)"},
    "ld_dpo": {"beta": POSITIVE, "ld_alpha": "[0, 1]"},
    "mi_dpo": {
        "alpha": POSITIVE,
        "prior": "names",
        "eta": POSITIVE,
        "gamma": REAL,
        "length_penalty": NON_NEGATIVE,
        "kl_weight": NON_NEGATIVE,
        "stop_gradient": "truth values",
    },
    "alpha_dpo": {
        "beta": POSITIVE,
        "gamma": REAL,
        "alpha": NON_NEGATIVE,
        "gamma_form": "names",
        "reference_form": "names",
        "margin": "names",
        "normalise": "truth values",
        "length_normalise": "truth values",
        "stop_gradient": "truth values",
    },
    "beta_dpo": {"beta": POSITIVE, "alpha": NON_NEGATIVE, "rho": "[0, 1)", "margin": "names", "level": "names"},
    "rmipo": {
        "beta": POSITIVE,
        "gamma_min": REAL,
        "gamma_max": REAL,
        "gamma_form": "names",
        "schedule": "names",
        "signal": "names",
        "aggregation": "names",
        "length_normalise": "truth values",
        "stop_gradient": "truth values",
    },
}
"""The hyperparameters of each loss and where its formula makes sense: a scale of 0 forgets the reward, a
label that is wrong half the time says nothing, and a weight of 0 switches a term off."""


@dataclass(frozen=True)
class Evaluation:
    """A loss in high precision, and how sensitive it is to the rounding of what it is computed from.

    Attributes:
        value: the loss.
        gradient: its derivatives by the parts of the pair that move with what is trained.
        value_scale: |f| + Σ |x ∂f/∂x| over the log-probabilities x and the hyperparameters: a relative
            change of ε in each moves the loss by at most ε times this.
        gradient_scale: the same for each of the derivatives.
        corner: how far the pair is from the nearest kink of the loss; infinite when it has none.
    """

    value: float
    gradient: Mapping[str, float]
    value_scale: float
    gradient_scale: Mapping[str, float]
    corner: float


STEP = mpf("1e-20")
"""Relative step of the differences that weigh sensitivities: of 50 digits some 30 are left, and 20 are right."""


def split(hyperparameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the numbers among hyperparameters from the names and truth values."""
    options = {key: value for key, value in hyperparameters.items() if isinstance(value, str | bool)}
    return {key: mpf(value) for key, value in hyperparameters.items() if key not in options}, options


def _inputs(name: str, pair: Pair, hyperparameters: Mapping[str, Any], cut: float) -> tuple[dict, dict]:
    """All numbers that enter the loss, and its options."""
    numbers, options = split(hyperparameters)
    if name in CUT:
        numbers["cut"] = mpf(cut)
    if name in ROUNDED:
        numbers |= {"rounding_w": mpf(1), "rounding_l": mpf(1)}
    return {part.name: mpf(getattr(pair, part.name)) for part in fields(pair)} | numbers, options


def _loss(name: str, numbers: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    parts = {part.name: numbers[part.name] for part in fields(Pair)}
    rest = {key: value for key, value in numbers.items() if key not in parts}
    return LOSSES[name](Pair(**parts), **rest, **options)


def _varying(numbers: Mapping[str, Any], keys: Any) -> dict[str, Any]:
    return {key: variable(key, value) if key in keys else value for key, value in numbers.items()}


def evaluate(name: str, pair: Pair, hyperparameters: Mapping[str, Any], cut: float) -> Evaluation:
    """Evaluate a loss, its gradient, and the sensitivity of both."""
    with mp.workdps(DIGITS):
        numbers, options = _inputs(name, pair, hyperparameters, cut)
        with without_stops(), noting_corners() as corners:
            loss = _loss(name, _varying(numbers, numbers), options)
            corner = min(map(float, corners), default=float("inf"))
        terms = {key: slope(loss, key) * value for key, value in numbers.items()}
        base = _loss(name, _varying(numbers, OF_THE_POLICY), options)
        gradient = {key: slope(base, key) for key in OF_THE_POLICY}
        scales = {key: abs(each) for key, each in gradient.items()}
        for key in (key for key, term in terms.items() if term != 0):
            moved = {**numbers, key: numbers[key] * (1 + STEP)}
            there = _loss(name, _varying(moved, OF_THE_POLICY), options)
            scales = {k: scale + abs(slope(there, k) - gradient[k]) / STEP for k, scale in scales.items()}
        return Evaluation(
            float(plain(base)),
            {key: float(each) for key, each in gradient.items()},
            float(abs(plain(base)) + sum(map(abs, terms.values()))),
            {key: float(scale) for key, scale in scales.items()},
            corner,
        )


def value_and_gradient(
    name: str, pair: Pair, hyperparameters: Mapping[str, Any], cut: float
) -> tuple[float, Mapping[str, float]]:
    """Return the loss and its gradient only, which takes no differences: fit for hyperparameters such as 1e300."""
    with mp.workdps(DIGITS_FOR_1E300):
        numbers, options = _inputs(name, pair, hyperparameters, cut)
        loss = _loss(name, _varying(numbers, OF_THE_POLICY), options)
        return float(plain(loss)), {key: float(slope(loss, key)) for key in OF_THE_POLICY}


DIGITS_FOR_1E300 = 700
"""A goal of ±1/(2·1e-300) beside a log-ratio of 1e-12 takes more than 300 digits, and its square twice as many."""
