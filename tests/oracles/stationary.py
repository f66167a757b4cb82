"""What makes a policy over classes stationary, in plain numpy and mpmath: fields, subgradients and convex programs.

A problem is given by arrays of one prompt: w and l, the probabilities of chosen and rejected classes. By log π_k the
expected loss Σ w_i l_j ℓ(i, j) has the derivative G_k, and by logits G_k − π_k Σ G. Nothing here knows the solver.
"""

from dataclasses import dataclass, fields

import numpy as np
from mpmath import mp, mpf
from scipy.optimize import linprog

from oracles.duals import slope, variable
from oracles.losses import CUT, DIGITS, LOSSES, OF_THE_POLICY, ROUNDED, Pair, split

AT_A_KINK = 1e-8
"""Margins so near a kink, in nats, may take every slope between both sides."""

LARGEST_EXPONENT = 354.0
"""Where float64 cuts exponents."""


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def softplus(x):
    return np.logaddexp(0.0, x)


# --- smooth losses of whole responses: the field in mpmath --------------------------------------------------


def exact_field(name, hyperparameters, weights, chosen, rejected, log_pi, log_ref):
    """g of every logit, [X][K], by 50 digits: policies are rows of float64 log-probabilities, weights those of prompts.

    Responses are classes, of length 1. The mean KL and the marginal are those of the policies themselves.
    """
    with mp.workdps(DIGITS):
        numbers, options = split(hyperparameters)
        if name in CUT:
            numbers["cut"] = mpf(LARGEST_EXPONENT)
        if name in ROUNDED:
            numbers |= {"rounding_w": mpf(1), "rounding_l": mpf(1)}
        given = [[[mpf(float(value)) for value in row] for row in table] for table in (log_pi, log_ref)]
        log_pi, log_ref = given
        p = [mpf(float(weight)) for weight in weights]
        kl = sum(
            (p[x] * mp.exp(a) * (a - r) for x in range(len(p)) for a, r in zip(log_pi[x], log_ref[x], strict=True)),
            mpf(0),
        )
        classes = range(len(log_pi[0]))
        marginal = [mp.log(sum(p[x] * mp.exp(log_pi[x][k]) for x in range(len(p)))) for k in classes]
        field = []
        for x in range(len(p)):
            by_log_pi = [mpf(0) for _ in classes]
            for i in classes:
                for j in classes:
                    mass = p[x] * mpf(float(chosen[x][i])) * mpf(float(rejected[x][j]))
                    parts = {
                        **{"lw": log_pi[x][i], "ll": log_pi[x][j], "rw": log_ref[x][i], "rl": log_ref[x][j]},
                        **{"mw": marginal[i], "ml": marginal[j], "kl": kl},
                    }
                    parts = {
                        key: variable(key, value) if key in OF_THE_POLICY else value for key, value in parts.items()
                    }
                    loss = LOSSES[name](Pair(**{key: parts.get(key, mpf(1)) for key in PARTS}), **numbers, **options)
                    # what the method stops has slope 0, or it would have to be followed further
                    assert all(slope(loss, key) == 0 for key in ("mw", "ml", "kl"))
                    by_log_pi[i] += mass * slope(loss, "lw")
                    by_log_pi[j] += mass * slope(loss, "ll")
            total = sum(by_log_pi, mpf(0))
            field.append([float(g - mp.exp(a) * total) for g, a in zip(by_log_pi, log_pi[x], strict=True)])
        return np.array(field)


PARTS = tuple(part.name for part in fields(Pair))


# --- losses with kinks on classes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Kinked:
    """A loss link(s_i − r_j) − λ log π_i of classes, by its values and by its slopes on both sides.

    Attributes:
        scores: s and r, and the slopes of s on both sides and of r, [K] each, as functions of log π and log π_ref.
        link: the values of the link, and its slopes on both sides.
        likelihood: λ.
    """

    scores: object
    link: object
    likelihood: float = 0.0

    def value(self, log_pi, log_ref, chosen, rejected):
        """The expected loss."""
        s, r, *_ = self.scores(log_pi, log_ref)
        values, *_ = self.link(s[:, None] - r)
        return chosen @ values @ rejected - self.likelihood * (chosen @ log_pi)

    def least_residual(self, log_pi, log_ref, chosen, rejected):
        """The smallest max |g_k|/(w_k + l_k) that slopes between both sides of all kinks allow: a linear program."""
        s, r, below, above, rejected_slope = self.scores(log_pi, log_ref)
        _, left, right = self.link(s[:, None] - r)
        pairs, size = np.outer(chosen, rejected), len(s)
        unit = np.eye(size)
        fixed, free = -self.likelihood * chosen, []
        for i in range(size):
            for j in range(size):
                bend = above[i] != below[i]
                assert not (bend and left[i, j] != right[i, j])  # two kinks at once would be a product
                first, *rest = (
                    {(below[i], left[i, j]), (above[i], right[i, j])} if i != j or bend else {(below[i], left[i, j])}
                )
                direction = [pairs[i, j] * f * (a * unit[i] - rejected_slope[j] * unit[j]) for a, f in (first, *rest)]
                fixed = fixed + direction[0]
                free += [direction[1] - direction[0]] if rest else []
        tangent = (unit - np.exp(log_pi)[:, None]) / (chosen + rejected)[:, None]
        base, moves = tangent @ fixed, np.array([tangent @ move for move in free]).reshape(len(free), size).T
        if not free:
            return float(np.abs(base).max())
        matrix = np.block([[moves, -np.ones((size, 1))], [-moves, -np.ones((size, 1))]])
        found = linprog(
            np.append(np.zeros(len(free)), 1.0),
            A_ub=matrix,
            b_ub=np.append(-base, base),
            bounds=[(0.0, 1.0)] * len(free) + [(0.0, None)],
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert found.status == 0
        return float(np.abs(base + moves @ found.x[:-1]).max())


def _linear(scale, of_ratio):
    def scores(log_pi, log_ref):
        s, slopes = scale * (log_pi - log_ref if of_ratio else log_pi), np.full(len(log_pi), scale)
        return s, s, slopes, slopes, slopes

    return scores


def _hinge(goal):
    def link(margin):
        left, right = -(margin < goal + AT_A_KINK).astype(float), -(margin < goal - AT_A_KINK).astype(float)
        return np.maximum(0.0, goal - margin), left, right

    return link


def _logistic(margin):
    slopes = -sigmoid(-margin)
    return softplus(-margin), slopes, slopes


def _clipped(limit):
    def link(margin):
        value, slopes, _ = _logistic(np.clip(margin, -limit, limit))
        inside = slopes * (margin >= -limit - AT_A_KINK)
        return value, inside * (margin <= limit + AT_A_KINK), inside * (margin < limit - AT_A_KINK)

    return link


def _two_slopes(low, high):
    """E S(β D), β = `high` where D < 0, `low` where D > 0: its gradient is the expected field of ε-DPO on classes."""

    def link(margin):
        value = np.where(margin > 0, softplus(-low * margin), softplus(-high * margin))
        positive, negative = -low * sigmoid(-low * margin), -high * sigmoid(-high * margin)
        left = np.where(margin > AT_A_KINK, positive, negative)
        return value, left, np.where(margin < -AT_A_KINK, negative, positive)

    return link


def _chi_squared(beta):
    def scores(log_pi, log_ref):
        h = log_pi - log_ref
        slopes = beta * (1.0 + np.exp(h))
        return beta * (np.exp(h) + h), beta * (np.exp(h) + h), slopes, slopes, slopes

    return scores


def _penalised(beta, lam):
    def scores(log_pi, log_ref):
        h = log_pi - log_ref
        below = beta * (1.0 + lam * (h < AT_A_KINK))
        above = beta * (1.0 + lam * (h < -AT_A_KINK))
        return beta * (h - lam * np.maximum(0.0, -h)), beta * h, below, above, np.full(len(h), beta)

    return scores


KINKED = {
    "hinge": lambda beta: Kinked(_linear(beta, True), _hinge(1.0)),
    "repo": lambda gamma: Kinked(_linear(1.0, False), _hinge(gamma)),
    "slic": lambda delta, lam: Kinked(_linear(1.0, False), _hinge(delta), lam),
    "dpop": lambda beta, lam: Kinked(_penalised(beta, lam), _logistic),
    "chi_po": lambda beta, r_max: Kinked(_chi_squared(beta), _clipped(2.0 * r_max)),
    "epsilon_dpo": lambda beta, epsilon: Kinked(
        _linear(1.0, True), _two_slopes(beta / (1.0 + epsilon), beta / (1.0 - epsilon))
    ),
}
"""The objectives with kinks by their names, given their hyperparameters."""

CONVEX = ("hinge", "repo", "slic", "dpop", "epsilon_dpo")
"""Those of KINKED that are convex in logits."""


def least_hinge(goal, chosen, rejected):
    """The smallest Σ w_i l_j max(0, goal − (s_i − s_j)) over all scores s: a linear program."""
    size = len(chosen)
    first, second = np.divmod(np.arange(size * size), size)
    rows = np.eye(size)[second] - np.eye(size)[first]  # −(s_i − s_j) − t ≤ −goal
    found = linprog(
        np.append(np.zeros(size), np.outer(chosen, rejected).ravel()),
        A_ub=np.hstack([rows, -np.eye(size * size)]),
        b_ub=np.full(size * size, -goal),
        bounds=[(None, None)] * size + [(0.0, None)] * size * size,
    )
    assert found.status == 0
    return float(found.fun)
