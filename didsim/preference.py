"""Preference problems: who is preferred to whom, where the pairs come from, and what the truth is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from didsim._arrays import ArrayLike, FloatArray, IntArray
from didsim._checks import POSITIVE, check_integer, check_number, message
from didsim.differential import did, ideal_rejected
from didsim.info import Distribution
from didsim.policy import MAX_CLASSES, Policy, as_policy, same_classes

MAX_SEED = 2**63 - 1


def preference_probabilities(chosen: Distribution, rejected: Distribution) -> FloatArray:
    """Return p*(i ≻ j) when y_w ~ chosen and y_l ~ rejected, a table [..., K, K].

    Of the two ways in which the unordered pair {i, j} can arise, p* is the share in which i was chosen:
    p*(i ≻ j) = w_i l_j / (w_i l_j + w_j l_i) = σ(log(w/l)_i − log(w/l)_j).

    Raises:
        ValueError: if a class has probability 0 under either distribution.

    Source: Appendix F.2.

    >>> preference_probabilities([0.75, 0.25], [0.5, 0.5])
    array([[0.5 , 0.75],
           [0.25, 0.5 ]])
    """
    winners, losers = same_classes(chosen, rejected)
    if np.any(np.isneginf(winners.log_probs)) or np.any(np.isneginf(losers.log_probs)):
        raise ValueError(message("both distributions", "positive on every class", "a probability of 0"))
    score = winners.log_probs - losers.log_probs
    return expit(score[..., :, None] - score[..., None, :])


@dataclass(frozen=True, eq=False)
class Problem:
    """A preference problem over K classes whose truth is known.

    Chosen responses are drawn from `chosen`, rejected ones independently from `rejected`; the population
    loss of an objective ℓ is L(θ) = Σ_ij chosen(i) rejected(j) ℓ(i, j; θ).

    Attributes:
        reference: π_ref, from which training starts and to which log-ratios refer.
        target: π*, the policy one hopes to learn.
        rejected: π_l, the distribution of rejected responses.
        chosen: the distribution of chosen responses; in the DID construction it is π_ref.

    >>> Problem.from_temperature(num_classes=4, tau=2.0, seed=0).did
    Policy(probs=[...])
    """

    reference: Policy
    target: Policy
    rejected: Policy
    chosen: Policy

    def __post_init__(self) -> None:
        shapes = {policy.log_probs.shape for policy in (self.reference, self.target, self.rejected, self.chosen)}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise ValueError(message("the policies of a problem", "of one shape [K]", sorted(shapes)))
        excluded = np.isneginf(self.reference.log_probs)
        for name in ("chosen", "rejected", "target"):
            if np.any(excluded & np.isfinite(getattr(self, name).log_probs)):
                raise ValueError(message(name, "zero wherever the reference is zero", "a positive probability"))

    @classmethod
    def from_temperature(cls, num_classes: int = 32, tau: float = 4.0, seed: int = 42) -> "Problem":
        """Build the synthetic problem of the DID paper.

        θ_ref ~ N(0, I), θ* = θ_ref/τ, θ_l = 2θ_ref − θ*: then q_{π_ref/π_l} = q_{π*/π_ref}.

        Args:
            num_classes: K ≥ 1.
            tau: the temperature τ > 0; τ < 1 reinforces, τ > 1 smooths.
            seed: the seed of θ_ref.

        Source: Section 3.5.
        """
        size = check_integer("num_classes", num_classes, 1, MAX_CLASSES)
        temperature = check_number("tau", tau, POSITIVE)
        rng = np.random.default_rng(check_integer("seed", seed, 0, MAX_SEED))
        theta_ref = rng.standard_normal(size)
        with np.errstate(over="ignore"):
            theta_star = theta_ref / temperature
        if not np.all(np.isfinite(theta_star)):
            raise ValueError(message("tau", "large enough for θ_ref/τ to be finite", tau))
        reference = Policy.from_logits(theta_ref)
        return cls(
            reference=reference,
            target=Policy.from_logits(theta_star),
            rejected=Policy.from_logits(2.0 * theta_ref - theta_star),
            chosen=reference,
        )

    @classmethod
    def from_policies(cls, reference: Distribution, target: Distribution, beta: float = 1.0) -> "Problem":
        """Build the problem in which DPO at this β recovers `target`: rejected = ideal rejected distribution.

        Args:
            reference: π_ref, [K].
            target: π*, [K].
            beta: the exponent β > 0 of the power law between the DIDs.

        Source: Eq. 1, Theorem 3.4.
        """
        pi_ref, pi_star = as_policy(reference), as_policy(target)
        return cls(
            reference=pi_ref,
            target=pi_star,
            rejected=ideal_rejected(pi_ref, pi_star, beta),
            chosen=pi_ref,
        )

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return self.reference.num_classes

    @cached_property
    def did(self) -> Policy:
        """The differential information distribution q_{π*/π_ref} that leads from π_ref to π*."""
        return did(self.target, self.reference)

    @cached_property
    def preferences(self) -> FloatArray:
        """The preference probabilities p*(i ≻ j) that the pairs encode, [K, K]."""
        return preference_probabilities(self.chosen, self.rejected)

    @cached_property
    def pair_digest(self) -> bytes:
        """A fingerprint of the distribution of pairs, by value: it seeds the draws."""
        return hashlib.sha256(self.chosen.log_probs.tobytes() + self.rejected.log_probs.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class PreferenceDataset:
    """A finite set of n preference pairs, as class indices.

    Attributes:
        chosen: the classes of y_w, int64 [n], read-only.
        rejected: the classes of y_l, int64 [n], read-only.
    """

    chosen: IntArray
    rejected: IntArray

    @classmethod
    def from_classes(cls, chosen: ArrayLike, rejected: ArrayLike, num_classes: int) -> "PreferenceDataset":
        """Check and copy two equally long lists of classes in 0..K−1.

        Raises:
            ValueError: if they are empty, differ in length, or name a class that does not exist.
            TypeError: if a class is not a whole number.

        >>> len(PreferenceDataset.from_classes([0, 1], [2, 2], num_classes=3))
        2
        """
        pair = _as_classes("chosen", chosen, num_classes), _as_classes("rejected", rejected, num_classes)
        if len(pair[0]) != len(pair[1]):
            raise ValueError(message("chosen and rejected", "equally long", (len(pair[0]), len(pair[1]))))
        return cls(*pair)

    def __len__(self) -> int:
        return len(self.chosen)


def _as_classes(name: str, values: ArrayLike, num_classes: int) -> IntArray:
    check_integer("num_classes", num_classes, 1, MAX_CLASSES)
    try:
        shape = np.shape(values)
    except ValueError as error:
        raise ValueError(message(f"the shape of {name}", "[n] with n ≥ 1", "a ragged list")) from error
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(message(f"the shape of {name}", "[n] with n ≥ 1", shape))
    if np.asarray(values).dtype.kind not in "iu" or isinstance(values, Sequence):
        # a look at each, before numpy turns True into 1, or 3.0 and its neighbours into floats
        for row, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else list(values)):  # type: ignore[arg-type]
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(message(f"{name}[{row}]", "a whole number", value))
    classes = np.array(values)
    outside = np.flatnonzero((classes < 0) | (classes >= num_classes))
    if outside.size:
        row = int(outside[0])
        raise ValueError(message(f"{name}[{row}]", f"a class from 0 to {num_classes - 1}", int(classes[row])))
    classes = classes.astype(np.int64)
    classes.setflags(write=False)
    return classes
