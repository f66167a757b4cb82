"""Policies and information quantities in mpmath, by plain loops over the classes.

A distribution is a list of normalised log-probabilities; −inf marks a class of probability 0. Where 0·log 0
arises, the loop skips the class.
"""

from collections.abc import Iterable, Sequence

from mpmath import exp, fsum, inf, log, log1p, mp, mpf

DIGITS = 400
"""Working precision. Probabilities down to 1e-308 count, and a class that is all but certain has 1 − p as
small: sums that start with 1 need 308 digits to see it, and as many more as are compared."""

LogProbs = list

MINUS_INF = -inf


def log_softmax(logits: Iterable[float]) -> LogProbs:
    """log π(i) = θ_i − log Σ_j e^θ_j."""
    with mp.workdps(DIGITS):
        theta = [mpf(float(x)) for x in logits]
        top = max(theta)
        total = fsum(exp(x - top) for x in theta if x > MINUS_INF)
        return [x - top - log(total) if x > MINUS_INF else MINUS_INF for x in theta]


def softmax(logits: Iterable[float]) -> list:
    with mp.workdps(DIGITS):
        return probs(log_softmax(logits))


def probs(p: LogProbs) -> list:
    with mp.workdps(DIGITS):
        return [exp(x) if x > MINUS_INF else mpf(0) for x in p]


def _normalise(scores: Sequence) -> LogProbs:
    top = max(scores)
    total = fsum(exp(x - top) for x in scores if x > MINUS_INF)
    return [x - top - log(total) if x > MINUS_INF else MINUS_INF for x in scores]


def entropy(p: LogProbs):
    """−Σ p log p."""
    with mp.workdps(DIGITS):
        return -fsum(exp(x) * x for x in p if x > MINUS_INF)


def kl(p: LogProbs, q: LogProbs):
    """Σ p log(p/q)."""
    with mp.workdps(DIGITS):
        if any(x > MINUS_INF and y == MINUS_INF for x, y in zip(p, q, strict=True)):
            return inf
        return fsum(exp(x) * (x - y) for x, y in zip(p, q, strict=True) if x > MINUS_INF)


def mixture(p: LogProbs, q: LogProbs) -> LogProbs:
    """log (p + q)/2."""
    with mp.workdps(DIGITS):
        out = []
        for x, y in zip(p, q, strict=True):
            high, low = max(x, y), min(x, y)
            if high == MINUS_INF:
                out.append(MINUS_INF)
            else:
                share = log1p(exp(low - high)) if low > MINUS_INF else mpf(0)
                out.append(high + share - log(2))
        return out


def js(p: LogProbs, q: LogProbs):
    """½ KL(p‖m) + ½ KL(q‖m)."""
    with mp.workdps(DIGITS):
        m = mixture(p, q)
        return (kl(p, m) + kl(q, m)) / 2


def tv(p: LogProbs, q: LogProbs):
    """½ Σ |p − q|."""
    with mp.workdps(DIGITS):
        return fsum(abs(x - y) for x, y in zip(probs(p), probs(q), strict=True)) / 2


def renyi(p: LogProbs, q: LogProbs, alpha: float):
    """log(Σ p^α q^(1−α)) / (α − 1); KL at α = 1."""
    if alpha == 1:
        return kl(p, q)
    with mp.workdps(DIGITS):
        a = mpf(alpha)
        terms = []
        for x, y in zip(p, q, strict=True):
            if x == MINUS_INF or (y == MINUS_INF and a < 1):
                continue
            if y == MINUS_INF:
                return inf
            terms.append(exp(a * x + (1 - a) * y))
        return log(fsum(terms)) / (a - 1) if terms else inf


def did(pi: LogProbs, pi_ref: LogProbs) -> LogProbs:
    """log q, q(y) = (π(y)/π_ref(y)) / Z."""
    with mp.workdps(DIGITS):
        pairs = zip(pi, pi_ref, strict=True)
        return _normalise([x - y if x > MINUS_INF else MINUS_INF for x, y in pairs])


def ideal_rejected(reference: LogProbs, target: LogProbs, beta: float) -> LogProbs:
    """log π_l, π_l ∝ π_ref (π_ref/π*)^β."""
    with mp.workdps(DIGITS):
        b, pairs = mpf(beta), zip(reference, target, strict=True)
        return _normalise([x + b * (x - y) if x > MINUS_INF else MINUS_INF for x, y in pairs])


def preference(chosen: LogProbs, rejected: LogProbs, i: int, j: int):
    """p*(i ≻ j) = w_i l_j / (w_i l_j + w_j l_i)."""
    with mp.workdps(DIGITS):
        first = exp(chosen[i] + rejected[j])
        return first / (first + exp(chosen[j] + rejected[i]))


def dpo_optimum(prior: LogProbs, chosen: LogProbs, rejected: LogProbs, beta: float) -> LogProbs:
    """log π, π ∝ ζ (w/l)^{1/β}."""
    with mp.workdps(DIGITS):
        b = mpf(beta)
        scores = []
        for z, w, x in zip(prior, chosen, rejected, strict=True):
            empty = z == MINUS_INF or w == MINUS_INF
            scores.append(MINUS_INF if empty else z + (w - x) / b)
        return _normalise(scores)


def sigmoid(x):
    """σ(x) = 1/(1 + e^−x)."""
    with mp.workdps(DIGITS):
        return 1 / (1 + exp(-mpf(x)))


def log_of_two():
    with mp.workdps(DIGITS):
        return log(mpf(2))


__all__ = [
    "did",
    "dpo_optimum",
    "entropy",
    "ideal_rejected",
    "js",
    "kl",
    "log_of_two",
    "log_softmax",
    "mixture",
    "preference",
    "probs",
    "renyi",
    "sigmoid",
    "softmax",
    "tv",
]
