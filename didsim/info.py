"""Information quantities of distributions over classes, in nats.

Each takes policies, or arrays of probabilities [..., K] in their place, and returns a float, or an array
over the leading axes. A divergence between distributions of different support is +inf where it should be.
"""

import math

import numpy as np

from didsim._arrays import ArrayLike, FloatArray
from didsim._checks import POSITIVE, check_number, message
from didsim._numerics import expectation, logsumexp, relative_entropy_terms
from didsim.policy import Policy, as_policy, same_classes

__all__ = [
    "Distribution",
    "entropy",
    "js",
    "kl",
    "marginal",
    "mutual_information",
    "pmi",
    "renyi",
    "tv",
]

Distribution = Policy | ArrayLike


def entropy(p: Distribution) -> FloatArray:
    """Return the Shannon entropy H(p) = −Σ p log p, in nats, shape [...].

    >>> round(float(entropy([0.5, 0.5])), 6)
    0.693147
    """
    policy = as_policy(p)
    return 0.0 - expectation(policy.probs, policy.log_probs)  # not −Σ: certainty has entropy 0, not −0


def kl(p: Distribution, q: Distribution) -> FloatArray:
    """Return the Kullback–Leibler divergence KL(p‖q) = Σ p log(p/q), in nats, shape [...].

    >>> round(float(kl([0.5, 0.5], [0.25, 0.75])), 6)
    0.143841
    """
    log_p, log_q = _log_probs(p, q)
    return relative_entropy_terms(log_p, log_q).sum(axis=-1)


def js(p: Distribution, q: Distribution) -> FloatArray:
    """Return the Jensen–Shannon divergence ½KL(p‖m) + ½KL(q‖m), m = (p + q)/2, in nats, shape [...].

    >>> round(float(js([1.0, 0.0], [0.0, 1.0])), 6)     # log 2, its largest value
    0.693147
    """
    log_p, log_q = _log_probs(p, q)
    log_m = np.logaddexp(log_p, log_q) - math.log(2.0)
    terms = relative_entropy_terms(log_p, log_m) + relative_entropy_terms(log_q, log_m)
    return 0.5 * terms.sum(axis=-1)


def tv(p: Distribution, q: Distribution) -> FloatArray:
    """Return the total variation distance ½ Σ |p − q|, between 0 and 1, shape [...].

    >>> float(tv([1.0, 0.0], [0.5, 0.5]))
    0.5
    """
    log_p, log_q = _log_probs(p, q)
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=-1)


def renyi(p: Distribution, q: Distribution, alpha: float) -> FloatArray:
    """Return the Rényi divergence log(Σ p^α q^(1−α)) / (α − 1), in nats, shape [...].

    Args:
        p: the first distribution.
        q: the second one.
        alpha: the order, positive; α = 1 is the limit KL(p‖q).

    >>> round(float(renyi([0.5, 0.5], [0.25, 0.75], alpha=2.0)), 6)
    0.287682
    """
    order = check_number("alpha", alpha, POSITIVE)
    log_p, log_q = _log_probs(p, q)
    if order == 1.0:
        return kl(p, q)
    # Σ p^α q^(1−α) = Σ p e^x with x = (1−α) log(q/p), and near 1 it is 1 + Σ p (e^x − 1)
    log_p, log_q = np.broadcast_arrays(log_p, log_q)
    supported = log_p > -np.inf
    x = (1.0 - order) * np.subtract(log_q, log_p, out=np.zeros(supported.shape), where=supported)
    near = np.clip(x, -1.0, 1.0)
    close = np.log1p(expectation(np.exp(log_p), np.expm1(near)))
    apart = logsumexp(np.where(supported, log_p + x, -np.inf), axis=-1)
    return np.where(np.all(near == x, axis=-1), close, apart) / (order - 1.0)


def marginal(policy: Distribution, prompts: ArrayLike) -> Policy:
    """Return the marginal π(y) = Σ_x p(x) π(y|x) of a policy over its prompts, [..., K].

    Args:
        policy: π(y|x), [..., X, K].
        prompts: the weights p(x) of the prompts, [X], or [..., X] for as many policies.

    Raises:
        ValueError: if there are not as many weights as prompts, or they do not sum to 1.

    >>> marginal([[1.0, 0.0], [0.0, 1.0]], [0.25, 0.75]).probs
    array([0.25, 0.75])
    """
    log_pi, log_weights = _over_prompts(policy, prompts)
    return Policy.from_log_probs(logsumexp(log_pi + log_weights[..., None], axis=-2))


def mutual_information(policy: Distribution, prompts: ArrayLike) -> FloatArray:
    """Return I(X; Y) = Σ_x p(x) KL(π(·|x) ‖ Σ_x p(x) π(·|x)), in nats, shape [...].

    Args:
        policy: π(y|x), [..., X, K].
        prompts: the weights p(x) of the prompts, [X].

    Source: MI-DPO paper, Lemma 1.

    >>> round(float(mutual_information([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])), 6)      # log 2: y names x
    0.693147
    """
    log_pi, log_weights = _over_prompts(policy, prompts)
    log_marginal = marginal(policy, prompts).log_probs[..., None, :]
    return expectation(np.exp(log_weights), relative_entropy_terms(log_pi, log_marginal).sum(axis=-1))


def pmi(policy: Distribution, prompts: ArrayLike) -> FloatArray:
    """Return the pointwise mutual information log π(y|x) − log π(y), in nats, [..., X, K].

    It is −inf where π(y|x) = 0, also where no prompt leads to y.

    Args:
        policy: π(y|x), [..., X, K].
        prompts: the weights p(x) of the prompts, [X].

    Source: RMiPO paper, Section 3.2.

    >>> pmi([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5])
    array([[0., 0.],
           [0., 0.]])
    """
    log_pi, _ = _over_prompts(policy, prompts)
    log_marginal = np.broadcast_to(marginal(policy, prompts).log_probs[..., None, :], log_pi.shape)
    return np.subtract(log_pi, log_marginal, out=np.full(log_pi.shape, -np.inf), where=log_pi > -np.inf)


def _over_prompts(policy: Distribution, prompts: ArrayLike) -> tuple[FloatArray, FloatArray]:
    log_pi, weights = as_policy(policy).log_probs, Policy.from_probs(prompts)
    if log_pi.ndim < 2 or weights.log_probs.shape not in (log_pi.shape[:-1], log_pi.shape[-2:-1]):
        got = (log_pi.shape, weights.log_probs.shape)
        raise ValueError(message("the shapes of policy and prompts", "[..., X, K] and [X]", got))
    return log_pi, weights.log_probs


def _log_probs(p: Distribution, q: Distribution) -> tuple[FloatArray, FloatArray]:
    first, second = same_classes(p, q)
    return first.log_probs, second.log_probs
