"""The probe of DID paper, Appendix K: the entropy of a DID, estimated by training a policy towards it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from didsim._arrays import ArrayLike
from didsim._checks import check_choice, check_integer, message
from didsim._numerics import expectation
from didsim.differential import SAMPLES_PER_FIT, did, slope_signs
from didsim.engine._draws import sample_classes
from didsim.engine._history import History
from didsim.engine._loop import train
from didsim.info import Distribution, entropy
from didsim.objectives import objective
from didsim.policy import Policy, as_policy
from didsim.preference import MAX_SEED, Problem
from didsim.spaces import Space
from didsim.torch_bridge import finite_log

MAX_SAMPLES = 10**7


@dataclass(frozen=True)
class ProbeResult:
    """What a probe says of the DID q_{π/π_ref}, and what is true.

    Attributes:
        history: the training of the probe; its target is the DID itself.
        probe: the trained policy π̃, or None if training diverged.
        true_entropy: H(q_{π/π_ref}), in nats, averaged over prompts.
        probe_entropy: H(π̃), or None.
        estimate: the Monte-Carlo estimate of H(π̃) from samples, as the paper's, or None.
        beta_accuracy: the share of prompts, or of repeated draws, whose slope β′ is not negative, or None.
    """

    history: History
    probe: Policy | None
    true_entropy: float
    probe_entropy: float | None
    estimate: float | None
    beta_accuracy: float | None


def entropy_probe(
    policy: Distribution,
    reference: Distribution,
    *,
    prompts: ArrayLike | None = None,
    space: Space | None = None,
    decoding: str = "sampled",
    samples: int = 4000,
    seed: int = 42,
    **settings: Any,
) -> ProbeResult:
    """Estimate the entropy of the DID q_{π/π_ref} by the paper's procedure, and compare it with the exact one.

    A probe π̃ starts at π_ref and is trained with r = log π̃ on pairs y_w ~ π, y_l ~ π_ref, whose optimum is the DID;
    its entropy is then estimated from samples.

    Args:
        policy: π, [K], or [X, K] with prompts.
        reference: π_ref, likewise; positive everywhere that π is.
        prompts: the weights of the prompts, [X]; no prompt unless given.
        space: what the K responses are; classes unless given.
        decoding: "sampled" pairs (the paper's theory), or "greedy" ones (what its experiment does).
        samples: how many responses estimate the entropy of the probe; β′-accuracy takes them in fours.
        seed: of the draws.
        **settings: the fields of `Settings`: steps, batch_size, learning_rate, …

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: Appendix K and K.1.

    >>> result = entropy_probe([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], steps=2000, learning_rate=0.01)
    >>> abs(result.probe_entropy - result.true_entropy) < 0.01, result.beta_accuracy > 0.95
    (True, True)
    """
    pi, pi_ref = as_policy(policy), as_policy(reference)
    check_choice("decoding", decoding, DECODINGS)
    check_integer("samples", samples, SAMPLES_PER_FIT, MAX_SAMPLES)
    target = did(pi, pi_ref)
    problem = Problem(pi_ref, target, pi_ref, pi, prompts, space)  # type: ignore[arg-type]
    if decoding == "greedy":
        chosen, rejected = greedy(pi, problem.space), greedy(pi_ref, problem.space)
        problem = Problem(pi_ref, target, rejected, chosen, prompts, space)  # type: ignore[arg-type]
    history = train(problem, objective("entropy_probe"), seed=seed, **settings)
    probe, weights = history.policy, problem.prompt_weights
    return ProbeResult(
        history=history,
        probe=probe,
        true_entropy=float(expectation(weights, np.atleast_1d(entropy(target)))),
        probe_entropy=None if probe is None else float(expectation(weights, np.atleast_1d(entropy(probe)))),
        estimate=None if probe is None else monte_carlo_entropy(probe, samples, seed, prompts=weights),
        beta_accuracy=None if probe is None else beta_accuracy(probe, pi, pi_ref, draws=samples // 4, seed=seed),
    )


DECODINGS = ("sampled", "greedy")


def greedy(policy: Policy, space: Space) -> Policy:
    """Return the policy that always gives the greedy response: the likeliest action in each context, [..., K]."""
    next_log_probs = space.next_log_probs(policy.log_probs)
    best = next_log_probs.argmax(axis=-1)[..., None]
    certain = np.where(np.arange(space.num_actions) == best, 0.0, -np.inf)
    return Policy(space.log_probs(certain))


def monte_carlo_entropy(
    policy: Distribution, samples: int, seed: int = 42, *, prompts: ArrayLike | None = None
) -> float:
    """Estimate H(π) ≈ −mean log π(y_i) from samples y_i ~ π, in nats; with prompts, drawn by their weights.

    Source: Appendix K.

    >>> round(monte_carlo_entropy([0.5, 0.5], samples=10), 6)
    0.693147
    """
    log_pi = np.atleast_2d(as_policy(policy).log_probs)
    if log_pi.ndim > 2:
        raise ValueError(message("the shape of policy", "[K] or [X, K]", log_pi.shape))
    check_integer("samples", samples, 1, MAX_SAMPLES)
    rng = np.random.default_rng(check_integer("seed", seed, 0, MAX_SEED))
    weights = Policy.from_probs(np.full(len(log_pi), 1.0 / len(log_pi)) if prompts is None else prompts)
    if weights.num_classes != len(log_pi):
        raise ValueError(message("prompts", f"{len(log_pi)} weights", weights.num_classes))
    asked = sample_classes(weights, rng.random(samples))
    total = 0.0
    for prompt, count in zip(*np.unique(asked, return_counts=True), strict=True):
        drawn = sample_classes(Policy(log_pi[prompt].copy()), rng.random(count))
        total -= log_pi[prompt][drawn].sum()
    return float(total / samples)


def beta_accuracy(
    probe: Distribution, policy: Distribution, reference: Distribution, *, draws: int = 1000, seed: int = 42
) -> float:
    """Return how often the slope β′ of log π̃ on log π/π_ref, fitted to four samples of the probe, is not negative.

    The paper takes four samples for each of many prompts and reports the share of prompts; in a world of few prompts
    the samples of each are drawn again and again. Draws whose samples all have the same log π/π_ref determine no
    slope, and are left out.

    Args:
        probe: π̃, [K] or [X, K].
        policy: π, likewise.
        reference: π_ref, likewise.
        draws: fits for each prompt.
        seed: of the draws.

    Returns:
        A share between 0 and 1; NaN if no draw determines a slope.

    Raises:
        ValueError, TypeError: if the policies differ in shape, or an argument is not acceptable.

    Source: Appendix K.1.
    """
    shapes = [as_policy(p).log_probs.shape for p in (probe, policy, reference)]
    if len(set(shapes)) > 1 or len(shapes[0]) > 2:
        raise ValueError(message("probe, policy and reference", "of one shape, [K] or [X, K]", shapes))
    log_probe, log_pi, log_ref = (np.atleast_2d(as_policy(p).log_probs) for p in (probe, policy, reference))
    check_integer("draws", draws, 1, MAX_SAMPLES)
    rng = np.random.default_rng([check_integer("seed", seed, 0, MAX_SEED), draws])
    right = usable = 0
    for row, log_ratio in zip(log_probe, finite_log(log_pi) - finite_log(log_ref), strict=True):
        drawn = sample_classes(Policy(row.copy()), rng.random((draws, SAMPLES_PER_FIT)))
        slopes = slope_signs(log_ratio[drawn], row[drawn])
        usable += len(slopes)
        right += int(np.sum(slopes >= 0.0))
    return right / usable if usable else float("nan")
