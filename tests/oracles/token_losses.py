"""Every loss that looks at the tokens of a response, in mpmath, written from OBJECTIVES.md and from nothing else.

A response is a list of positions; at each stand the next-token distributions of both policies and the token taken.
All sums are plain loops over positions and over the vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpmath import mp, mpf

from oracles.duals import exp, log, plain, slope, stop, variable
from oracles.losses import DIGITS, s, split


@dataclass(frozen=True)
class Tokens:
    """A response as numbers: what the tests choose.

    Attributes:
        logits: unnormalised scores of the policy, one row of V per position; −inf where a token is impossible.
        ref_logits: the same of the reference.
        taken: the index of the token at each position.
        w: the importance weight of each token.
        mu1: the mask on its log-ratio.
        mu2: the mask on the divergence there.
    """

    logits: Sequence[Sequence[float]]
    ref_logits: Sequence[Sequence[float]]
    taken: Sequence[int]
    w: Sequence[float]
    mu1: Sequence[float]
    mu2: Sequence[float]


@dataclass(frozen=True)
class Response:
    """A response as exact distributions: tables of log π(v|y_<t), None where π is 0."""

    policy: list[list[Any]]
    reference: list[list[Any]]
    taken: Sequence[int]
    w: Sequence[Any]
    mu1: Sequence[Any]
    mu2: Sequence[Any]

    @property
    def positions(self) -> range:
        return range(len(self.taken))

    def l(self, t):  # noqa: E743
        """log π of the token at a position."""
        return self.policy[t][self.taken[t]]

    def h(self, t):
        """Its log-ratio."""
        return self.l(t) - self.reference[t][self.taken[t]]

    def forward(self, t):
        """KL(π_ref‖π) at a position."""
        return kl(self.reference[t], self.policy[t])

    def reverse(self, t):
        """KL(π‖π_ref) at a position."""
        return kl(self.policy[t], self.reference[t])


def kl(p: list, q: list):
    """Σ_v p (log p − log q), where p = 0 contributes 0."""
    return sum((exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a is not None), mpf(0))


def log_softmax(logits: Sequence[Any]) -> list[Any]:
    """Normalise scores; −inf becomes None."""
    present = [x for x in logits if plain(x) > -mp.inf]
    top = max(plain(x) for x in present)
    total = log(sum(exp(x - top) for x in present)) + top
    return [x - total if plain(x) > -mp.inf else None for x in logits]


def total(terms) -> Any:
    return sum(terms, mpf(0))


def d(w: Response, l: Response):  # noqa: E741
    """D = h_w − h_l, both summed over tokens."""
    return total(map(w.h, w.positions)) - total(map(l.h, l.positions))


def tdpo1(w, l, beta):  # noqa: E741
    k_w, k_l = total(map(w.forward, w.positions)), total(map(l.forward, l.positions))
    return s(beta * (d(w, l) - (k_l - k_w)))


def tdpo2(w, l, beta, alpha):  # noqa: E741
    k_w, k_l = total(map(w.forward, w.positions)), total(map(l.forward, l.positions))
    return s(beta * (d(w, l) - alpha * (k_l - stop(k_w))))


def tis_dpo(w, l, beta, alpha):  # noqa: E741
    h_w, h_l = (total(y.w[t] * y.h(t) for t in y.positions) for y in (w, l))
    k_w, k_l = (total(y.w[t] * y.reverse(t) for t in y.positions) for y in (w, l))
    return s(beta * (h_w - h_l - alpha * (k_w - k_l)))


def sparse_po(w, l, beta, lam, masks):  # noqa: E741
    h_w, h_l = (total(y.mu1[t] * y.h(t) for t in y.positions) for y in (w, l))
    k_w, k_l = (total(y.mu2[t] * y.forward(t) for t in y.positions) for y in (w, l))
    size = total(abs(y.mu1[t]) + abs(y.mu2[t]) for y in (w, l) for t in y.positions)
    return s(beta * (h_w - h_l - (k_l - k_w))) + lam * size


def tilted(y: Response, epsilon):
    """log π of a response under per-token logits (1 + ε)θ − ε θ_ref."""
    result = mpf(0)
    for t in y.positions:
        scores = [
            -mp.inf if a is None else (1 + epsilon) * a - epsilon * b
            for a, b in zip(y.policy[t], y.reference[t], strict=True)
        ]
        result = result + log_softmax(scores)[y.taken[t]]
    return result


def epsilon_sign(w, l, epsilon):  # noqa: E741
    """+1 if z₊ > z > z₋, −1 if reversed, else 0; at π = π_ref all three are the same but for their last digits."""
    z_plus, z, z_minus = (plain(tilted(w, e) - tilted(l, e)) for e in (epsilon, mpf(0), -epsilon))
    same = mpf(10) ** (10 - DIGITS)
    rises, falls = z_plus - z > same and z - z_minus > same, z - z_plus > same and z_minus - z > same
    return rises - falls


def epsilon_dpo(w, l, beta, epsilon):  # noqa: E741
    return s(beta / (1 + epsilon * epsilon_sign(w, l, epsilon)) * d(w, l))


def self_likelihood(y: Response):
    """Π exp mean_t [log π(y_t) − log Σ_v π(v)²], its logarithm."""
    terms = [y.l(t) - log(total(exp(2 * a) for a in y.policy[t] if a is not None)) for t in y.positions]
    return total(terms) / len(terms)


def wpo(w, l, beta):  # noqa: E741
    return stop(exp(self_likelihood(w) + self_likelihood(l))) * s(beta * d(w, l))


def ld_dpo(w, l, beta, ld_alpha):  # noqa: E741
    shared = min(len(w.taken), len(l.taken))
    h_w, h_l = (total((1 if t < shared else ld_alpha) * y.h(t) for t in y.positions) for y in (w, l))
    return s(beta * (h_w - h_l))


def mi_dpo(w, l, alpha, prior, stop_gradient, **values):  # noqa: E741
    information = []
    for y in (w, l):
        log_pi = total(map(y.l, y.positions))
        log_zeta = LOG_PRIORS[prior](y, log_pi, log_pi - total(map(y.h, y.positions)), **values)
        information.append(log_pi - (stop(log_zeta) if stop_gradient else log_zeta))
    return s(alpha * (information[0] - information[1]))


LOG_PRIORS: Mapping[str, Callable[..., Any]] = {
    "tdpo": lambda y, log_pi, log_ref: log_ref - total(map(y.forward, y.positions)),
    "tis_dpo": lambda y, log_pi, log_ref, kl_weight: (
        log_pi - total(y.w[t] * (y.h(t) - kl_weight * y.reverse(t)) for t in y.positions)
    ),
    "sparse_po": lambda y, log_pi, log_ref: (
        log_pi - total(y.mu1[t] * y.h(t) + y.mu2[t] * y.forward(t) for t in y.positions)
    ),
}
"""log ζ of a response: the prior under which MI-DPO is the loss of that name."""

LOSSES: Mapping[str, Callable[..., Any]] = {
    loss.__name__: loss for loss in (tdpo1, tdpo2, tis_dpo, sparse_po, epsilon_dpo, wpo, ld_dpo)
}
"""The oracle of each token-level objective, by its name in the registry."""


def read(side: str, y: Tokens, differentiate: bool = True) -> Response:
    """Make the exact response of which every logit, weight and mask is a variable (side, what, t, v)."""

    def known(value, *key):
        return variable((side, *key), value) if differentiate and value > -mp.inf else mpf(value)

    policy = [log_softmax([known(x, "logits", t, v) for v, x in enumerate(row)]) for t, row in enumerate(y.logits)]
    reference = [log_softmax([mpf(x) for x in row]) for row in y.ref_logits]
    per_token = ([known(x, what, t) for t, x in enumerate(getattr(y, what))] for what in ("w", "mu1", "mu2"))
    return Response(policy, reference, y.taken, *per_token)


def evaluate(name: str, chosen: Tokens, rejected: Tokens, hyperparameters: Mapping[str, Any]):
    """Return the loss, and its gradient by every (side, what, t[, v]); what is not there is 0."""
    with mp.workdps(DIGITS):
        numbers, options = split(hyperparameters)
        function = mi_dpo if name == "mi_dpo" else LOSSES[name]
        loss = function(read("w", chosen), read("l", rejected), **numbers, **options)
        return float(plain(loss)), {key: float(slope(loss, key)) for key in loss.slopes}
