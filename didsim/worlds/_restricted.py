"""Worlds whose policies cannot be the truth."""

from dataclasses import dataclass, replace

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import check_integer, message
from didsim._numerics import expectation
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.worlds._labelled import bradley_terry

MOST_STEPS, CONVERGED = 200, 1e-12

SMALLEST, ROUNDING = 1e-10, 1e-14


def restricted(
    num_classes: int = 32,
    num_features: int = 4,
    scale: float = 1.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
) -> Problem:
    """Build `bradley_terry`, with policies restricted to π_w ∝ π_ref e^{φ·w}, which cannot follow all rewards.

    Args:
        num_classes: K ≥ 1.
        num_features: the number d of features φ ~ N(0, 1) of each response; fewer than K − 1 exclude the truth.
        scale: the standard deviation of the true rewards, in nats.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        seed: of π_ref, r and the features.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.
    """
    problem = bradley_terry(num_classes, scale, beta, seed=seed, num_prompts=num_prompts)
    check_integer("num_features", num_features, 1, 10**6)
    rng = np.random.default_rng([seed, num_features])
    features = rng.standard_normal((*problem.reference.log_probs.shape, num_features))
    return replace(problem, features=features)


def best_in_class(problem: Problem) -> Policy:
    """Return the policy of a problem's class with the least Σ_x p(x) KL(π*‖π_w), by Newton's method.

    Decisions part the divergence: it is the mean of KL(π*(·|c)‖π_w(·|c)) over the contexts that π* visits, convex in w,
    with gradient E_w φ − E_* φ and Hessian Cov_w φ. Without features the class holds every policy that gives nothing to
    what π_ref excludes, and the best one is the target.

    Returns:
        The policy, [K], or [X, K] with prompts.

    Raises:
        ValueError: if the target excludes what the reference does not: the least may then be a limit at infinity.

    >>> from didsim.info import kl
    >>> problem = restricted(num_classes=6, num_features=2)
    >>> bool(0.0 < kl(problem.target, best_in_class(problem)) < kl(problem.target, problem.reference))
    True
    """
    if problem.features is None:
        return problem.target
    if np.any(np.isneginf(problem.target.log_probs) & np.isfinite(problem.reference.log_probs)):
        raise ValueError(message("the target", "positive wherever the reference is", "a probability of 0"))
    divergence, w = _Divergence.of(problem), np.zeros(problem.features.shape[-1])
    for _ in range(MOST_STEPS):
        gradient, hessian = divergence.derivatives(w)
        step = np.asarray(-np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0], dtype=np.float64)
        if np.abs(divergence.features @ step).max() <= CONVERGED:
            log_probs = problem.space.log_probs(divergence.policy(w).log_probs)
            return Policy.from_log_probs(log_probs.reshape(problem.target.log_probs.shape))
        w = w + divergence.step_size(w, step, float(gradient @ step)) * step
    raise ValueError(message("the target", "so near the class that Newton's method finds its best policy", "another"))


@dataclass(frozen=True)
class _Divergence:
    """Σ v_c KL(π*(·|c)‖π_w(·|c)) over prompts and contexts, up to a constant, as a function of w [d].

    Attributes:
        features: φ, [X, N, A, d].
        log_ref: log π_ref(a|x, c), [X, N, A].
        wanted: π*(a|x, c), [X, N, A].
        visits: v, how often a response of the target to a prompt x makes the decision c, times p(x), [X, N].
    """

    features: FloatArray
    log_ref: FloatArray
    wanted: FloatArray
    visits: FloatArray

    @classmethod
    def of(cls, problem: Problem) -> "_Divergence":
        assert problem.features is not None  # its caller has looked
        space = problem.space
        return cls(
            problem.features.reshape(problem.num_prompts, space.num_contexts, space.num_actions, -1),
            problem.next_log_ref,
            np.exp(space.next_log_probs(np.atleast_2d(problem.target.log_probs))),
            problem.prompt_weights[:, None] * _visits(problem),
        )

    def policy(self, w: FloatArray) -> Policy:
        """Return π_w of each decision, [X, N, A]."""
        return Policy.from_logits(self.log_ref + self.features @ w)

    def value(self, w: FloatArray) -> float:
        """Return −Σ v_c Σ_a π* log π_w."""
        return -float((self.visits * expectation(self.wanted, self.policy(w).log_probs)).sum())

    def derivatives(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the gradient [d] and the Hessian [d, d]."""
        pi = self.policy(w).probs
        mean = np.einsum("xna,xnad->xnd", pi, self.features)
        gradient = np.einsum("xn,xnd->d", self.visits, mean - np.einsum("xna,xnad->xnd", self.wanted, self.features))
        centred = self.features - mean[:, :, None, :]
        return gradient, np.einsum("xn,xna,xnad,xnae->de", self.visits, pi, centred, centred, optimize=True)

    def step_size(self, w: FloatArray, step: FloatArray, slope: float) -> float:
        """Halve a step until the value falls by some of what its slope promises, or by less than rounding shows."""
        now, size = self.value(w), 1.0
        while size > SMALLEST and self.value(w + size * step) > now + 1e-4 * size * slope + ROUNDING * (1.0 + abs(now)):
            size *= 0.5
        return size


def _visits(problem: Problem) -> FloatArray:
    """Return how often a response of the target makes the decision of each context, [X, N]."""
    space, probs = problem.space, np.atleast_2d(problem.target.probs)
    made = np.arange(space.max_length) < space.lengths[:, None]
    visits = np.zeros((len(probs), space.num_contexts))
    for prompt, row in enumerate(probs):
        np.add.at(visits[prompt], space.contexts[made], np.broadcast_to(row[:, None], made.shape)[made])
    return visits
