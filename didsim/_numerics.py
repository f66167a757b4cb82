"""Helpers for sums in log space; the one place where 0·log 0 = 0 is settled."""

import numpy as np
from scipy import special
from scipy.special import log_softmax

from didsim._arrays import FloatArray

__all__ = ["expectation", "log_softmax", "logsumexp", "relative_entropy_terms"]


def logsumexp(values: FloatArray, axis: int = -1, keepdims: bool = False) -> FloatArray:
    """Return log Σ e^v over an axis."""
    return np.asarray(special.logsumexp(values, axis=axis, keepdims=keepdims))


def expectation(probs: FloatArray, values: FloatArray) -> FloatArray:
    """Return Σ p·v over the last axis, where a class of probability 0 contributes 0 whatever its value."""
    probs, values = np.broadcast_arrays(probs, values)
    return np.sum(np.multiply(probs, values, out=np.zeros(probs.shape), where=probs > 0), axis=-1)


def relative_entropy_terms(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """Return the non-negative terms p·(e^r − 1 − r), r = log q − log p, whose sum is KL(p‖q).

    Σ p·(e^r − 1) = Σ q − Σ p = 0, so adding it changes nothing; each term is then of second order in
    r, and nearby distributions lose no digits to cancellation. Where p = 0 the term is q.
    """
    log_p, log_q = np.broadcast_arrays(log_p, log_q)
    p, q, supported = np.exp(log_p), np.exp(log_q), log_p > -np.inf
    ratio = np.subtract(log_q, log_p, out=np.zeros(log_p.shape), where=supported)
    near = np.clip(ratio, -1.0, 1.0)  # further out e^r may overflow, and q − p − p·r loses nothing
    far = q - p - np.multiply(p, ratio, out=np.full(p.shape, -np.inf), where=ratio > -np.inf)
    return np.where(near == ratio, p * (np.expm1(near) - near), far) + np.where(supported, 0.0, q)
