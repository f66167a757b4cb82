"""The stationary policies of population losses, one function per equation of the scores.

Each function takes a problem and what its objective reads, and returns a policy, or None where the equation has no
solution inside the simplex or is not that of the objective. The notation, and why scores must satisfy these equations,
stand in `didsim.optima`; `didsim._scores` solves them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import wrightomega

from didsim._arrays import FloatArray
from didsim._checks import message
from didsim._numerics import expectation, logsumexp
from didsim._scores import linear, normalised, power, tree
from didsim.differential import did, tilt
from didsim.policy import Policy
from didsim.preference import Problem

Form = Callable[..., Policy | None]
"""``form(problem, **hyperparameters)``."""


def _divided(values: FloatArray, by: Any, name: str) -> FloatArray:
    """Return values/by; refuse a hyperparameter of that name so small that this overflows."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        result = values / by
    if np.any(np.isfinite(values) & ~np.isfinite(result)):
        raise ValueError(message(name, "moderate enough for target scores to be finite", "one that is too small"))
    return result


def _level(problem: Problem, beta: float) -> FloatArray:
    """Return v/β up to a constant per prompt, [..., K]; −inf for a response that is never chosen."""
    return _divided(did(problem.chosen, problem.rejected).log_probs, beta, "beta")


def _has_gaps(problem: Problem, level: FloatArray) -> bool:
    """Tell whether a response that the reference allows is never chosen: its score would have to be −∞."""
    return bool(np.any(np.isneginf(level) & np.isfinite(problem.reference.log_probs)))


def _log_ref(problem: Problem) -> FloatArray:
    """Return log π_ref, [..., K], with 0 for what it excludes: the level is −inf there."""
    log_ref = problem.reference.log_probs
    return np.where(np.isfinite(log_ref), log_ref, 0.0)


def tilted(problem: Problem, beta: float, prior: Policy) -> Policy:
    """Return the policy ∝ ζ (w/l)^{1/β}: β (log π − log ζ) = v + c."""
    return tilt(prior, problem.chosen, problem.rejected, 1.0 / beta)


def where(form: Form, **required: float | str) -> Form:
    """Restrict a form to the hyperparameters that have these values."""

    def policy(problem: Problem, **hyperparameters: Any) -> Policy | None:
        met = all(hyperparameters[name] == value for name, value in required.items())
        return form(problem, **hyperparameters) if met else None

    return policy


def dpo(problem: Problem, *, beta: float, **_: Any) -> Policy:
    """β h = v + c."""
    return tilted(problem, beta, problem.reference)


def log_pi(problem: Problem, *, beta: float = 1.0, **_: Any) -> Policy:
    """β log π = v + c."""
    return linear(_level(problem, beta))


def given_prior(problem: Problem, *, beta: float, **_: Any) -> Policy | None:
    """β (log π − log ζ) = v + c."""
    return None if problem.prior is None else tilted(problem, beta, problem.prior)


def exponential(problem: Problem, *, beta: float) -> Policy:
    """2β h = v + c.

    The loss is a product A·B, A = Σ w e^{−βh} and B = Σ l e^{βh}, so that G/β = l e^{βh} A − w e^{−βh} B = 0.
    """
    return tilted(problem, 2.0 * beta, problem.reference)


def h_dpo(problem: Problem, *, beta: float, eta: float, **_: Any) -> Policy:
    """β (η log π − log π_ref) = v + c."""
    return linear(_level(problem, beta), _log_ref(problem) / eta, 1.0 / eta)


def r_dpo(problem: Problem, *, beta: float, alpha: float, **_: Any) -> Policy:
    """β h + α|y| = v + c."""
    return linear(_level(problem, beta), _log_ref(problem) - alpha / beta * problem.space.lengths)


def dpo_norm(problem: Problem, *, beta: float) -> Policy:
    """β h/|y| = v + c."""
    return linear(_level(problem, beta), _log_ref(problem), problem.space.lengths)


def simpo(problem: Problem, *, beta: float, length_normalise: bool = True, **_: Any) -> Policy:
    """β a = v + c, or without normalisation β log π = v + c."""
    return linear(_level(problem, beta), 0.0, problem.space.lengths if length_normalise else 1.0)


def alphapo(problem: Problem, *, beta: float, alpha: float, **_: Any) -> Policy | None:
    """β (1 − e^{−αa})/α = v + c. For α < 0 rewards exceed −β/|α|, and v may be too wide for them."""
    level = _level(problem, beta)
    if alpha < 0.0 and _has_gaps(problem, level):
        return None
    return power(level, -alpha, 0.0, problem.space.lengths)


def orpo(problem: Problem, **_: Any) -> Policy:
    """−Σ w log π/|y| is least at π ∝ w/|y|."""
    return Policy.from_logits(problem.chosen.log_probs - np.log(problem.space.lengths))


def f_dpo(problem: Problem, *, beta: float, divergence: str, alpha: float = 0.0) -> Policy | None:
    """β f′(e^h) = v + c, with f′ = h, 1 − e^{−h}, log 2 + log σ(h), or (e^{(α−1)h} − 1)/(α − 1)."""
    level, log_ref = _level(problem, beta), _log_ref(problem)
    if divergence == "js":
        return _jensen_shannon(level, log_ref)
    exponent = {"reverse_kl": 0.0, "forward_kl": -1.0, "alpha": alpha - 1.0}[divergence]
    return None if exponent > 0.0 and _has_gaps(problem, level) else power(level, exponent, log_ref)


def _jensen_shannon(level: FloatArray, log_ref: FloatArray) -> Policy:
    """Solve log σ(h) = −y, with y = max level − level + S(t), t the largest h, by h = −log(e^y − 1)."""
    below = np.where(np.isfinite(level), level.max(axis=-1, keepdims=True) - level, 0.0)

    def log_probs(t: FloatArray) -> FloatArray:
        y = below + np.logaddexp(0.0, -t)
        return log_ref - y - np.log(-np.expm1(-y))

    return normalised(log_probs, level)


def chi_po(problem: Problem, *, beta: float, r_max: float) -> Policy | None:
    """β (e^h + h) = v + c, hence e^h = ω((v + c)/β), if no margin is clipped: max |v_i − v_j| ≤ 2R."""
    level = _level(problem, beta)
    log_ref = _log_ref(problem)
    below = np.where(np.isfinite(level), level.max(axis=-1, keepdims=True) - level, 0.0)
    if _has_gaps(problem, level) or beta * below.max() > 2.0 * r_max:
        return None

    def log_probs(t: FloatArray) -> FloatArray:
        z = t - below
        omega = wrightomega(z)
        return log_ref + np.where(z > 1.0, np.log(omega), z - omega)  # equal: ω + log ω = z

    return normalised(log_probs, level)


def _calibration(problem: Problem) -> tuple[FloatArray, FloatArray]:
    """Return r = (w − l)/(w + l) = tanh(v/2) and log(w + l), [..., K] each; both are −inf where w = l = 0."""
    log_w, log_l = problem.chosen.log_probs, problem.rejected.log_probs
    seen = np.isfinite(np.maximum(log_w, log_l))
    v = np.subtract(log_w, log_l, out=np.zeros(log_w.shape), where=seen)
    return np.where(seen, np.tanh(0.5 * v), -np.inf), np.logaddexp(log_w, log_l)


def ipo(problem: Problem, *, tau: float, aggregation: str) -> Policy:
    """Scores s = h or h/|y| are r/(2τ(1 + V/2)) + c, r = (w − l)/(w + l), V = Σ (w − l)²/(w + l).

    With t = 1/(2τ) and the means s_w, s_l of s under w and l, G_i/2 = w_i (s_i − s_l − t) − l_i (s_w − s_i − t) = 0
    gives s_i = (s_w + s_l)/2 + r_i (t − d/2), d = s_w − s_l. Hence d = Σ (w − l) s = V (t − d/2) = Vt/(1 + V/2).
    """
    r, log_sum = _calibration(problem)
    v = expectation(np.exp(log_sum), r * r)[..., None]
    rate = 1.0 if aggregation == "sum" else problem.space.lengths
    return linear(_divided(r, 2.0 * tau * (1.0 + 0.5 * v), "tau"), _log_ref(problem), rate)


def sppo(problem: Problem, *, beta: float) -> Policy | None:
    """Solve h = tr − ω(tr + log π_ref/(w + l) + s), with t = 1/(2β), r = (w − l)/(w + l), and Σ π = 1.

    There are no margins, and Λ stays: G_i = 2(w_i + l_i)(h_i − t r_i) = π_i Λ. With Λ = −2e^s and δ = tr − h this is
    δ + log δ = tr + log π_ref/(w + l) + s. As s grows Σ π falls from M = Σ π_ref e^{tr} to 0, so that there is one
    solution if M > 1; no other has Λ ≥ 0, since then h ≥ tr. If w = π_ref, as in the DID construction, M ≥ 1:
    log M ≥ t Σ w r by Jensen's inequality, and Σ w r = ½ Σ (w + l) r² because Σ (w + l) r = 0.
    """
    r, log_sum = _calibration(problem)
    alive, log_ref = np.isfinite(r), _log_ref(problem)
    target = _divided(np.where(alive, r, 0.0), 2.0 * beta, "beta")
    share = log_ref - np.where(alive, log_sum, 0.0)
    log_m = logsumexp(np.where(alive, log_ref + target, -np.inf), axis=-1)
    if np.any(log_m < -SUM_ROUNDING):
        return None
    return normalised(lambda t: log_ref + target - wrightomega(target + share - t), r)


SUM_ROUNDING = 1e-13
"""How far below 0 the rounding of a sum may leave log M = 0."""


def tdpo(problem: Problem, *, beta: float, **_: Any) -> Policy | None:
    """β Σ_t (h_t + K_t) = v + c. With one decision per response K is a constant, and this is DPO."""
    return _tree(problem, beta, 1.0)


def sparse_po(problem: Problem, *, beta: float, **_: Any) -> Policy | None:
    """TDPO's equation where the masks are 1; their norm is a constant."""
    return tdpo(problem, beta=beta) if _weighs_alike(problem, "reward_mask", "kl_mask") else None


def tis_dpo(problem: Problem, *, beta: float, alpha: float, **_: Any) -> Policy | None:
    """β Σ_t (h_t − αK′_t) = v + c where the weights are 1."""
    return _tree(problem, beta, alpha, reverse=True) if _weighs_alike(problem, "weights") else None


def _tree(problem: Problem, beta: float, alpha: float, **options: Any) -> Policy | None:
    """Solve Σ_t (h_t − g_t + αK_t) = v/β + c, or with −αK′_t."""
    level = _level(problem, beta)
    if _has_gaps(problem, level):  # K would be infinite, unless it is the same for all
        return tilted(problem, beta, problem.reference) if problem.space.max_length == 1 else None
    return tree(problem.space, problem.next_log_ref, level, alpha, **options)


def _weighs_alike(problem: Problem, *names: str) -> bool:
    """Tell whether the problem's token weights of these names are all 1."""
    return all(bool(np.all(problem.token_weight(name) == 1.0)) for name in names)


def ld_dpo(problem: Problem, *, beta: float, ld_alpha: float) -> Policy | None:
    """β h = v + c where no token counts less."""
    alike = ld_alpha == 1.0 or np.ptp(problem.space.lengths) == 0
    return tilted(problem, beta, problem.reference) if alike else None


def beta_dpo(problem: Problem, *, beta: float, alpha: float, rho: float, level: str, **_: Any) -> Policy | None:
    """β h = v + c where β does not adapt; the unfiltered batch's mean of M − mean M is 0."""
    fixed = rho == 0.0 and (alpha == 0.0 or level == "batch")
    return tilted(problem, beta, problem.reference) if fixed else None


def rmipo(
    problem: Problem, *, gamma_max: float, gamma_min: float = 0.0, signal: str = "", **reward: Any
) -> Policy | None:
    """SimPO's equation where γ is always 0; with one prompt there is no mutual information, and γ = γ_max."""
    zero = gamma_max == 0.0 and (gamma_min == 0.0 or (signal == "pmi" and problem.num_prompts == 1))
    return simpo(problem, **reward) if zero else None


def alpha_dpo(problem: Problem, *, reference_form: str, alpha: float = 0.0, **options: Any) -> Policy | None:
    """SimPO's equation where the target margin is 0: γ = 0, and α = 0 or no reference, or TDPO's K of one decision."""
    if options["gamma"] != 0.0:
        return None
    same_kl = options.get("margin") == "tdpo" and problem.space.max_length == 1
    if reference_form == "uniform" or alpha == 0.0 or same_kl:
        return simpo(problem, **options)
    if options["normalise"]:
        return None
    strength = alpha * options["beta"] if options["gamma_form"] == "ratio" else alpha
    if options.get("margin") == "tdpo":
        return _alpha_dpo_tree(problem, strength, **options)
    return _alpha_dpo_mixture(problem, strength, reference_form, **options)


def _alpha_dpo_mixture(
    problem: Problem, strength: float, reference_form: str, *, beta: float, length_normalise: bool, **_: Any
) -> Policy | None:
    """β (a − αq) = v + c, q = h, log π or ±log π_ref, where the coefficient of log π is positive for every response.

    The target margin is a difference of scores itself, so that the total margin is. Where its gradient is stopped the
    lemma has φ′ = β/|y| in place of that coefficient.
    """
    of_policy, of_reference = {
        "ratio": (1.0, -1.0),
        "policy": (1.0, 0.0),
        "reference": (0.0, 1.0),
        "inverse_reference": (0.0, -1.0),
    }[reference_form]
    coefficient = 1.0 / (problem.space.lengths if length_normalise else 1.0) - strength * of_policy
    if np.any(coefficient <= 0.0):
        return None
    offset = strength * of_reference * _log_ref(problem) / coefficient
    return linear(_level(problem, beta), offset, 1.0 / coefficient)


def _alpha_dpo_tree(
    problem: Problem, strength: float, *, beta: float, length_normalise: bool, **_: Any
) -> Policy | None:
    """β Σ_t (log π_t + αK_t) = v + c, without normalisation by length: log π = h − g with g = −log π_ref."""
    if length_normalise:
        return None
    log_ref = problem.next_log_ref
    return _tree(problem, beta, strength, gain=np.where(np.isfinite(log_ref), -log_ref, 0.0))
