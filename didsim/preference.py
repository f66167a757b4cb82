"""Preference problems: who is preferred to whom, where the pairs come from, and what the truth is."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.special import expit

from didsim._arrays import ArrayLike, BoolArray, FloatArray
from didsim._checks import POSITIVE, check_choice, check_integer, check_number, message
from didsim._dataset import MAX_PROMPTS, PreferenceDataset
from didsim._joint import checked_joint, common_scores, margins, shares
from didsim._parts import MAX_NUMBERS, TOKEN_WEIGHTS, check_size, checked_prompts, finite, random_logits
from didsim.differential import did, ideal_rejected
from didsim.info import Distribution
from didsim.policy import MAX_CLASSES, Policy, as_policy, same_classes
from didsim.spaces import Categorical, Space

MAX_SEED = 2**63 - 1

__all__ = [
    "MAX_NUMBERS",
    "MAX_PROMPTS",
    "MAX_SEED",
    "PreferenceDataset",
    "Problem",
    "preference_probabilities",
]


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
    """A preference problem whose truth is known, over K classes or sequences, with or without prompts.

    A prompt x is drawn with its weight, a chosen response from `chosen`, a rejected one independently from `rejected`;
    the population loss of an objective ℓ is L(θ) = Σ_xij p(x) chosen(i|x) rejected(j|x) ℓ(i, j; θ). Where a pair is
    drawn first and labelled then, its responses are not independent: `pairs` is their joint law (`Problem.from_pairs`).

    Attributes:
        reference: π_ref, from which training starts and to which log-ratios refer; [K], or [X, K] with prompts.
        target: π*, the policy one hopes to learn.
        rejected: π_l, the distribution of rejected responses.
        chosen: the distribution of chosen responses; in the DID construction it is π_ref.
        prompts: the weights p(x) of X prompts, [X], or None when there is no prompt.
        space: what the K responses are: classes unless given.
        features: φ of each decision, [N·A, d] or [X, N·A, d] (classes: [K, d] or [X, K, d]); the policy is then
            restricted to the class π_w(a|x, c) ∝ π_ref(a|x, c) exp(φ(x, c, a)·w), whose d parameters all prompts share.
        prior: a fixed prior ζ of MI-DPO, [K], which knows no prompt and is positive wherever the reference is, or None.
        token_weights: numbers for each decision, [N·A] each, that token-level objectives look at: "weights"
            (TIS-DPO), "reward_mask" and "kl_mask" (SparsePO). Those not given are 1.
        pairs: the joint law P(y_w = i, y_l = j | x) of a pair, [K, K] or [X, K, K], whose margins are `chosen` and
            `rejected`; or None where both are drawn independently.

    >>> Problem.from_temperature(num_classes=4, tau=2.0, seed=0).did
    Policy(probs=[...])
    """

    reference: Policy
    target: Policy
    rejected: Policy
    chosen: Policy
    prompts: FloatArray | None = None
    space: Space = None  # type: ignore[assignment]  # K classes, once K is known
    features: FloatArray | None = None
    prior: Policy | None = None
    token_weights: Mapping[str, FloatArray] = field(default_factory=dict)
    pairs: FloatArray | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.space is None:
            object.__setattr__(self, "space", Categorical(self.reference.num_classes))
        if self.prompts is not None:
            object.__setattr__(self, "prompts", checked_prompts(self.prompts))
        self._check_policies()
        if self.pairs is not None:
            object.__setattr__(self, "pairs", self._checked_pairs(self.pairs))
        if self.features is not None:
            object.__setattr__(self, "features", self._checked_features(self.features))
        weights = {name: self._checked_token_weights(name, value) for name, value in self.token_weights.items()}
        object.__setattr__(self, "token_weights", weights)

    def _check_types(self) -> None:
        for name in ("reference", "target", "rejected", "chosen", "prior"):
            if not isinstance(getattr(self, name), Policy) and (name != "prior" or self.prior is not None):
                hint = "Make it with Policy.from_probs(…), or the problem with Problem.from_policies(…)."
                raise TypeError(message(name, "a didsim.Policy", getattr(self, name), hint))
        if self.space is not None and not isinstance(self.space, Space):
            raise TypeError(message("space", "such as didsim.Sequences(vocabulary=2, max_length=3)", self.space))
        if not isinstance(self.token_weights, Mapping):
            accepted = "a mapping of names to numbers for each decision"
            raise TypeError(message("token_weights", accepted, self.token_weights))

    def _check_policies(self) -> None:
        accepted = (self.num_classes,) if self.prompts is None else (len(self.prompts), self.num_classes)
        if self.space.num_responses != self.num_classes:
            got = f"{self.num_classes} for a space of {self.space}"
            raise ValueError(message("the number of classes of the policies", "that of the space", got))
        shapes = {policy.log_probs.shape for policy in (self.reference, self.target, self.rejected, self.chosen)}
        if shapes != {accepted}:
            alone = self.prompts is None
            hint = "Policies [X, K] need prompts=, the weights of X prompts." if alone else ""
            shape = "[K]" if alone else f"[{self.num_prompts}, K]"
            raise ValueError(message("the policies of a problem", f"of one shape {shape}", sorted(shapes), hint))
        excluded = np.isneginf(self.reference.log_probs)
        for name in ("chosen", "rejected", "target"):
            if np.any(excluded & np.isfinite(getattr(self, name).log_probs)):
                raise ValueError(message(name, "zero wherever the reference is zero", "a positive probability"))
        if self.prior is not None:
            self._check_prior(self.prior, excluded)

    def _check_prior(self, prior: Policy, excluded: BoolArray) -> None:
        if prior.log_probs.shape != (self.num_classes,):
            raise ValueError(message("the shape of prior", f"[{self.num_classes}]", prior.log_probs.shape))
        zero = np.isneginf(prior.log_probs) & ~excluded.reshape(-1, self.num_classes).all(axis=0)
        if np.any(zero):
            hint = "The log-ratio log π/ζ would be infinite; mix ζ with a little of a positive distribution."
            got = f"0 for class {int(np.argmax(zero))}"
            raise ValueError(message("prior", "positive wherever the reference is", got, hint))

    def _checked_pairs(self, pairs: ArrayLike) -> FloatArray:
        table = checked_joint(pairs)
        shape = (*self.chosen.log_probs.shape, self.num_classes)
        if table.shape != shape:
            raise ValueError(message("the shape of pairs", str(list(shape)), table.shape))
        for name, margin in zip(("chosen", "rejected"), margins(table), strict=True):
            apart = float(np.abs(margin.probs - getattr(self, name).probs).max())
            if not apart <= SAME_MARGIN:
                hint = "Problem.from_pairs(…) computes both margins of its pairs."
                raise ValueError(message(f"{name} of a problem with pairs", "their margin", f"{apart:g} apart", hint))
        return table

    def _checked_features(self, features: ArrayLike) -> FloatArray:
        values = finite("features", features)
        decisions = self.space.num_contexts * self.space.num_actions
        if values.ndim not in (2, 3) or values.shape[-2] != decisions or values.shape[-1] == 0:
            raise ValueError(message("the shape of features", f"[{decisions}, d] or [X, {decisions}, d]", values.shape))
        if values.ndim == 3 and len(values) != self.num_prompts:
            raise ValueError(message("the first axis of features", f"{self.num_prompts} prompts", len(values)))
        return np.broadcast_to(values, (self.num_prompts, *values.shape[-2:]))

    def _checked_token_weights(self, name: str, weights: ArrayLike) -> FloatArray:
        check_choice("a name in token_weights", name, TOKEN_WEIGHTS)
        values = finite(f"token_weights[{name!r}]", weights)
        decisions = self.space.num_contexts * self.space.num_actions
        if values.shape != (decisions,) or np.any(values < 0):
            got = values.shape if values.shape != (decisions,) else float(values.min())
            raise ValueError(message(f"token_weights[{name!r}]", f"non-negative, of shape [{decisions}]", got))
        return values

    @classmethod
    def from_temperature(
        cls,
        num_classes: int | None = None,
        tau: float = 4.0,
        seed: int = 42,
        *,
        num_prompts: int | None = None,
        space: Space | None = None,
        num_features: int | None = None,
    ) -> "Problem":
        """Build the synthetic problem of the DID paper.

        θ_ref ~ N(0, I), θ* = θ_ref/τ, θ_l = 2θ_ref − θ*: then q_{π_ref/π_l} = q_{π*/π_ref}. On sequences θ_ref are the
        logits of each prefix, and θ*, θ_l stand for the log-probabilities of whole responses.

        Args:
            num_classes: K ≥ 1; 32 unless given.
            tau: the temperature τ > 0; τ < 1 reinforces, τ > 1 smooths.
            seed: the seed of θ_ref, and of the features.
            num_prompts: X ≥ 1 prompts of equal weight, each with a θ_ref of its own; no prompt unless given.
            space: `didsim.spaces.Sequences(V, T)` in place of classes.
            num_features: restrict the policy to π_ref exp(φ·w) with so many features φ ~ N(0, 1) of each decision.

        Source: Section 3.5.
        """
        if space is not None and num_classes is not None:
            raise ValueError(message("num_classes and space", "given one at a time", f"{num_classes} and {space}"))
        if space is None:
            space = Categorical(
                check_integer("num_classes", 32 if num_classes is None else num_classes, 1, MAX_CLASSES)
            )
        temperature = check_number("tau", tau, POSITIVE)
        rng = np.random.default_rng(check_integer("seed", seed, 0, MAX_SEED))
        batch = () if num_prompts is None else (check_integer("num_prompts", num_prompts, 1, MAX_PROMPTS),)
        check_size(batch, space, num_features)
        theta_ref = space.log_probs(random_logits(rng, batch, space))
        with np.errstate(over="ignore"):
            theta_star = theta_ref / temperature
        if not np.all(np.isfinite(theta_star)):
            raise ValueError(message("tau", "large enough for θ_ref/τ to be finite", tau))
        reference = Policy.from_logits(theta_ref)
        decisions = space.num_contexts * space.num_actions
        return cls(
            reference=reference,
            target=Policy.from_logits(theta_star),
            rejected=Policy.from_logits(2.0 * theta_ref - theta_star),
            chosen=reference,
            prompts=np.full(batch, 1.0 / batch[0]) if batch else None,
            space=space,
            features=None if num_features is None else rng.standard_normal((*batch, decisions, num_features)),
        )

    @classmethod
    def from_policies(
        cls,
        reference: Distribution,
        target: Distribution,
        beta: float = 1.0,
        *,
        prompts: ArrayLike | None = None,
        space: Space | None = None,
        features: ArrayLike | None = None,
        prior: Distribution | None = None,
        token_weights: Mapping[str, ArrayLike] | None = None,
    ) -> "Problem":
        """Build the problem in which DPO at this β recovers `target`: rejected = ideal rejected distribution.

        Args:
            reference: π_ref, [K], or [X, K] with prompts.
            target: π*, likewise.
            beta: the exponent β > 0 of the power law between the DIDs.
            prompts: the weights of the prompts, [X]; no prompt unless given.
            space: what the K responses are; classes unless given.
            features: restrict the policy to a log-linear class; see `Problem`.
            prior: a fixed prior ζ of MI-DPO; see `Problem`.
            token_weights: numbers for each decision; see `Problem`.

        Source: Eq. 1, Theorem 3.4.
        """
        pi_ref, pi_star = as_policy(reference), as_policy(target)
        return cls(
            reference=pi_ref,
            target=pi_star,
            rejected=ideal_rejected(pi_ref, pi_star, beta),
            chosen=pi_ref,
            prompts=prompts,  # type: ignore[arg-type]
            space=space,  # type: ignore[arg-type]
            features=features,  # type: ignore[arg-type]
            prior=None if prior is None else as_policy(prior),
            token_weights=token_weights or {},  # type: ignore[arg-type]
        )

    @classmethod
    def from_pairs(
        cls,
        reference: Distribution,
        target: Distribution,
        pairs: ArrayLike,
        *,
        prompts: ArrayLike | None = None,
        space: Space | None = None,
        features: ArrayLike | None = None,
        prior: Distribution | None = None,
        token_weights: Mapping[str, ArrayLike] | None = None,
    ) -> "Problem":
        """Build the problem whose pairs have a joint law of their own, as labelled pairs have.

        Args:
            reference: π_ref, [K], or [X, K] with prompts.
            target: π*, likewise.
            pairs: P(y_w = i, y_l = j | x), [K, K], or [X, K, K] with prompts.
            prompts: as in `from_policies`, and so are the others.
            space: what the K responses are; classes unless given.
            features: restrict the policy to a log-linear class; see `Problem`.
            prior: a fixed prior ζ of MI-DPO; see `Problem`.
            token_weights: numbers for each decision; see `Problem`.

        Raises:
            ValueError, TypeError: if an argument is not acceptable.

        >>> Problem.from_pairs([0.5, 0.5], [0.8, 0.2], [[0.25, 0.4], [0.1, 0.25]]).preferences
        array([[0.5, 0.8],
               [0.2, 0.5]])
        """
        table = checked_joint(pairs)
        chosen, rejected = margins(table)
        return cls(
            reference=as_policy(reference),
            target=as_policy(target),
            rejected=rejected,
            chosen=chosen,
            prompts=prompts,  # type: ignore[arg-type]
            space=space,  # type: ignore[arg-type]
            features=features,  # type: ignore[arg-type]
            prior=None if prior is None else as_policy(prior),
            token_weights=token_weights or {},  # type: ignore[arg-type]
            pairs=table,
        )

    @property
    def num_classes(self) -> int:
        """The number of responses K."""
        return self.reference.num_classes

    @property
    def num_prompts(self) -> int:
        """The number of prompts X; 1 when there is none."""
        return 1 if self.prompts is None else len(self.prompts)

    @cached_property
    def prompt_weights(self) -> FloatArray:
        """The weights p(x) of the prompts, [X]; [1] when there is none."""
        return np.ones(1) if self.prompts is None else self.prompts

    @cached_property
    def next_log_ref(self) -> FloatArray:
        """The log-probabilities log π_ref(a|x, c) of each decision, [X, N, A]; X is 1 when there is no prompt."""
        return self.space.next_log_probs(np.atleast_2d(self.reference.log_probs))

    @property
    def next_log_prior(self) -> FloatArray:
        """The log-probabilities log ζ(a|c) of each decision, [1, N, A]; those of a uniform ζ when none is given."""
        log_zeta = np.full(self.num_classes, -np.log(self.num_classes)) if self.prior is None else self.prior.log_probs
        return self.space.next_log_probs(log_zeta[None])

    def token_weight(self, name: str) -> FloatArray:
        """Return the numbers of that name of each decision, [N·A]; ones unless they were given."""
        decisions = self.space.num_contexts * self.space.num_actions
        return self.token_weights.get(name, np.ones(decisions))

    @cached_property
    def did(self) -> Policy:
        """The differential information distribution q_{π*/π_ref} that leads from π_ref to π*."""
        return did(self.target, self.reference)

    def pair_probs(self) -> FloatArray:
        """Return the probabilities P(y_w = i, y_l = j | x) of all pairs, [X, K, K]."""
        if self.pairs is not None:
            return self.pairs.reshape(-1, *self.pairs.shape[-2:])
        chosen, rejected = np.atleast_2d(self.chosen.probs), np.atleast_2d(self.rejected.probs)
        return chosen[:, :, None] * rejected[:, None, :]

    @cached_property
    def independent(self) -> "Problem | None":
        """The problem of the same preferences whose responses are drawn independently; None if there is none.

        Without `pairs` it is this one. With them there is one if p*(i ≻ j) = σ(v_i − v_j) for scores v of responses,
        and comparisons lead from each response to every other: chosen responses then ∝ e^v, and rejected ones are
        uniform. Pairs are compared more or less often than here, so that losses differ; but a loss that is least where
        its policy meets all preferences is so at the same policy.
        """
        if self.pairs is None:
            return self
        allowed = np.isfinite(self.reference.log_probs)
        scores = common_scores(self.pairs, allowed)
        if scores is None:
            return None
        rejected = Policy.from_logits(np.where(allowed, 0.0, -np.inf))
        return replace(self, chosen=Policy.from_logits(scores), rejected=rejected, pairs=None)

    @cached_property
    def preferences(self) -> FloatArray:
        """The preference probabilities p*(i ≻ j) that the pairs encode, [..., K, K].

        Where they are drawn jointly it is P_ij/(P_ij + P_ji): NaN for two responses that are never compared.
        """
        if self.pairs is None:
            return preference_probabilities(self.chosen, self.rejected)
        return shares(self.pairs)

    @cached_property
    def pair_digest(self) -> bytes:
        """A fingerprint of the distribution of pairs, by value: it seeds the draws. One prompt counts as none."""
        weights = b"" if self.num_prompts == 1 else self.prompt_weights.tobytes()
        pairs = self.chosen.log_probs.tobytes() + self.rejected.log_probs.tobytes()
        joint = b"" if self.pairs is None else self.pairs.tobytes()
        return hashlib.sha256(pairs + weights + joint).digest()


SAME_MARGIN = 1e-9
"""How far a margin may be from the sum of the pairs."""
