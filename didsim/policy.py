"""Policies: categorical distributions over K classes, kept as normalised log-probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from didsim._arrays import ArrayLike, FloatArray
from didsim._checks import message
from didsim._numerics import log_softmax

__all__ = [
    "MAX_CLASSES",
    "SUM_TOLERANCE",
    "Policy",
    "as_policy",
]

MAX_CLASSES = 10_000_000
"""The largest K that is accepted: a table of log-probabilities of 80 MB."""

SUM_TOLERANCE = 1e-6
"""How far given probabilities may be from summing to 1: the rounding of a float32 softmax, with room."""


@dataclass(frozen=True, eq=False)
class Policy:
    """A softmax policy π(i) = exp θ_i / Σ_j exp θ_j over K classes.

    Build one with `from_logits`, `from_probs` or `from_log_probs`; the result is normalised once, in
    log space. Leading axes, if any, are a batch of policies.

    Attributes:
        log_probs: log π, float64, shape [..., K], read-only; −inf marks a class of probability 0.

    >>> Policy.from_probs([0.5, 0.25, 0.25]).probs
    array([0.5 , 0.25, 0.25])
    """

    log_probs: FloatArray

    def __post_init__(self) -> None:
        self.log_probs.setflags(write=False)

    @classmethod
    def from_logits(cls, logits: ArrayLike) -> "Policy":
        """Normalise unnormalised scores, shape [..., K]; −inf gives probability exactly 0.

        Raises:
            ValueError: if a score is NaN or +inf, or if all the scores of a policy are −inf.
        """
        scores = _as_scores("logits", logits)
        if np.any(np.all(scores == -np.inf, axis=-1)):
            raise ValueError(message("logits", "finite for at least one class", "all −inf"))
        with np.errstate(over="ignore"):  # scores further apart than float64 reaches: probability 0
            return cls(log_softmax(scores, axis=-1))

    @classmethod
    def from_probs(cls, probs: ArrayLike) -> "Policy":
        """Take probabilities, shape [..., K], that sum to 1 within 1e-6; the remainder is divided out.

        Raises:
            ValueError: if one is negative or not finite, or if they do not sum to 1.
        """
        values = _as_scores("probs", probs)
        if np.any(values < 0):
            index = tuple(int(i) for i in np.argwhere(values < 0)[0])
            raise ValueError(message("probs", "non-negative", float(values[index]), f"Look at index {index}."))
        with np.errstate(divide="ignore"):
            return cls.from_log_probs(np.log(values))

    @classmethod
    def from_log_probs(cls, log_probs: ArrayLike) -> "Policy":
        """Take log-probabilities in nats, shape [..., K], whose exponentials sum to 1 within 1e-6.

        Raises:
            ValueError: if one is NaN or +inf, or if the probabilities do not sum to 1.
        """
        values = _as_scores("log_probs", log_probs)
        with np.errstate(over="ignore"):  # an infinite sum is refused below
            totals = np.exp(values).sum(axis=-1)
        if np.any(np.abs(totals - 1.0) > SUM_TOLERANCE):
            worst = float(totals.flat[np.argmax(np.abs(totals - 1.0))])
            hint = "For unnormalised scores use Policy.from_logits."
            raise ValueError(message("the sum of the probabilities", "1 within 1e-6", worst, hint))
        return cls.from_logits(values)

    @property
    def probs(self) -> FloatArray:
        """The probabilities π, float64, shape [..., K]."""
        return np.exp(self.log_probs)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return self.log_probs.shape[-1]

    def __repr__(self) -> str:
        with np.printoptions(precision=4, threshold=8):
            return f"Policy(probs={self.probs})"


def _as_scores(name: str, values: Any) -> FloatArray:
    """Copy to float64 [..., K]; refuse what is not a number, not finite from above, or too large."""
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "fiuO":  # neither text, nor complex numbers, nor truth values
            raise TypeError(f"an array of {given.dtype}")
        scores = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(message(name, "an array of real numbers", values)) from error
    if scores.ndim == 0 or scores.size == 0:
        raise ValueError(message(f"the shape of {name}", "[..., K] with K ≥ 1", scores.shape))
    check_num_classes(scores.shape[-1])
    bad = np.isnan(scores) | (scores == np.inf)
    if np.any(bad):
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(message(f"{name}{list(index)}", "a number below +inf", float(scores[index])))
    return scores


def check_num_classes(num_classes: int) -> int:
    """Refuse a number of classes that could not be allocated."""
    if num_classes > MAX_CLASSES:
        raise ValueError(message("num_classes", f"at most {MAX_CLASSES}", num_classes))
    return num_classes


def same_classes(p: "Policy | ArrayLike", q: "Policy | ArrayLike") -> "tuple[Policy, Policy]":
    """Accept two policies, or arrays of probabilities, over the same classes."""
    first, second = as_policy(p), as_policy(q)
    if first.num_classes != second.num_classes:
        sizes = (first.num_classes, second.num_classes)
        raise ValueError(message("the numbers of classes of p and q", "equal", sizes))
    return first, second


def as_policy(value: "Policy | ArrayLike") -> Policy:
    """Accept a policy, or an array of probabilities in its place."""
    return value if isinstance(value, Policy) else Policy.from_probs(value)
