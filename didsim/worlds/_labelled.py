"""Worlds whose pairs are drawn from a policy, and labelled by a true reward."""

from dataclasses import replace

import numpy as np
from scipy.special import expit

from didsim._arrays import FloatArray
from didsim._checks import NON_NEGATIVE, POSITIVE, Interval, check_choice, check_integer, check_number
from didsim.info import Distribution
from didsim.policy import MAX_CLASSES, Policy, as_policy
from didsim.preference import Problem
from didsim.spaces import Categorical, Sequences
from didsim.worlds._setting import Setting, classes


def labelled_pairs(sampler: Distribution, wins: FloatArray) -> FloatArray:
    """Return the law P_ij ∝ μ_i μ_j u_ij of labelled pairs y₁, y₂ ~ μ, [..., K, K].

    Args:
        sampler: μ, [..., K].
        wins: u_ij, how often i wins against j and the pair is kept, [..., K, K].

    >>> labelled_pairs([0.5, 0.5], np.array([[0.5, 0.8], [0.2, 0.5]]))
    array([[0.25, 0.4 ],
           [0.1 , 0.25]])
    """
    probs = as_policy(sampler).probs
    law = probs[..., :, None] * probs[..., None, :] * wins
    return law / law.sum(axis=(-1, -2), keepdims=True)


def _labelled(setting: Setting, target: Policy, wins: FloatArray, sampler: Distribution | None = None) -> Problem:
    """Return the problem of pairs from a sampler, π_ref unless given, that are labelled so."""
    pairs = labelled_pairs(setting.reference if sampler is None else sampler, wins)
    return Problem.from_pairs(setting.reference, target, pairs, prompts=setting.prompts, space=setting.space)


def _win_probabilities(reward: FloatArray) -> FloatArray:
    """Return σ(r_i − r_j), [..., K, K]."""
    return expit(reward[..., :, None] - reward[..., None, :])


NOISE = Interval(0.0, 0.5, closed_low=True)


def bradley_terry(
    num_classes: int = 32,
    scale: float = 1.0,
    beta: float = 1.0,
    noise: float = 0.0,
    seed: int = 42,
    num_prompts: int | None = None,
    sampler: Distribution | None = None,
) -> Problem:
    """Build pairs y₁, y₂ ~ μ of which y₁ is chosen with probability σ(r₁ − r₂), and labels then flipped at times.

    Args:
        num_classes: K ≥ 1.
        scale: the standard deviation s ≥ 0 of the true rewards r ~ N(0, s²), in nats.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        noise: the probability ε in [0, ½) that a label is flipped.
        seed: of π_ref and r.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.
        sampler: μ, [K] or [X, K], positive only where π_ref is; π_ref unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: Bradley and Terry 1952; Christiano et al. 2017; Rafailov et al. 2023, Eq. 4.

    >>> from didsim.optima import dpo_optimum
    >>> problem = bradley_terry(num_classes=4, beta=0.5)
    >>> bool(np.allclose(dpo_optimum(problem, beta=0.5).probs, problem.target.probs))
    True
    """
    setting = Setting.draw(classes(num_classes), num_prompts, scale, seed)
    flip = check_number("noise", noise, NOISE)
    wins = _win_probabilities(setting.reward)
    return _labelled(setting, setting.optimum(beta), (1.0 - flip) * wins + flip * wins.swapaxes(-1, -2), sampler)


TIES = ("dropped", "split")


def ties(
    num_classes: int = 32,
    scale: float = 1.0,
    beta: float = 1.0,
    propensity: float = 1.0,
    kept: str = "dropped",
    seed: int = 42,
    num_prompts: int | None = None,
) -> Problem:
    """Build pairs that a labeller may call equal, by Davidson's model: win, loss and tie are a : b : ν√(ab), a = e^r.

    Args:
        num_classes: K ≥ 1.
        scale: the standard deviation of the true rewards, in nats.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        propensity: ν ≥ 0; equal responses tie with probability ν/(2 + ν).
        kept: what becomes of ties: "dropped", or "split": chosen at random.
        seed: of π_ref and r.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: Davidson 1970.
    """
    setting = Setting.draw(classes(num_classes), num_prompts, scale, seed)
    strength = check_number("propensity", propensity, NON_NEGATIVE)
    check_choice("kept", kept, TIES)
    wins = _win_probabilities(setting.reward)
    # a : b : ν√(ab) over their sum, divided by a + b: p : q : ν√(pq) over 1 + ν√(pq)
    tie = strength * np.sqrt(wins * wins.swapaxes(-1, -2))
    share = wins if kept == "dropped" else wins + 0.5 * tie
    return _labelled(setting, setting.optimum(beta), share / (1.0 + tie))


def boilerplate(
    num_prompts: int = 4,
    num_classes: int = 16,
    num_popular: int = 3,
    popularity: float = 3.0,
    scale: float = 1.0,
    beta: float = 1.0,
    seed: int = 42,
) -> Problem:
    """Build prompts that share a few popular responses, which are never good and never bad.

    Args:
        num_prompts: X ≥ 1 prompts of equal weight.
        num_classes: K ≥ 1 responses.
        num_popular: how many of them, the first, are popular at every prompt.
        popularity: what this adds to their logits under π_ref, in nats.
        scale: the standard deviation of the rewards of all others, at each prompt; that of popular ones is 0.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        seed: of π_ref, r and the prior.

    Returns:
        A problem whose `prior` is what the reference says without a prompt: popular too, and otherwise like none of
        its answers.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: the RMiPO paper's case for mutual information.
    """
    check_integer("num_classes", num_classes, 1, MAX_CLASSES)
    popular = np.arange(num_classes) < check_integer("num_popular", num_popular, 0, num_classes)
    setting = Setting.draw(Categorical(num_classes), num_prompts, scale, seed)
    more = check_number("popularity", popularity)
    reference = Policy.from_logits(setting.reference.log_probs + more * popular)
    setting = replace(setting, reference=reference, reward=np.where(popular, 0.0, setting.reward))
    problem = _labelled(setting, setting.optimum(beta), _win_probabilities(setting.reward))
    unprompted = setting.rng.standard_normal(num_classes) + more * popular
    return replace(problem, prior=Policy.from_logits(unprompted))


def length_bias(
    vocabulary: int = 2,
    max_length: int = 4,
    bias: float = 0.5,
    scale: float = 1.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
) -> Problem:
    """Build sequences whose labeller rewards r(y) + b|y|, and whose truth does not.

    Args:
        vocabulary: V ≥ 1 content tokens.
        max_length: at most so many tokens.
        bias: b, in nats for each token, the end token among them.
        scale: the standard deviation of r of each sequence, in nats.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        seed: of π_ref and r.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: Singhal et al. 2023; Park et al. 2024 (R-DPO, which at α = b ends at the truth).
    """
    setting = Setting.draw(Sequences(vocabulary, max_length), num_prompts, scale, seed)
    seen = setting.reward + check_number("bias", bias) * setting.space.lengths
    return _labelled(setting, setting.optimum(beta), _win_probabilities(seen))


def suboptimal_reference(
    num_classes: int = 32,
    num_good: int = 4,
    mass: float = 1e-4,
    scale: float = 1.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
    sampler: Distribution | None = None,
) -> Problem:
    """Build a reference that excludes nothing, and gives next to no probability to the responses that are good.

    Args:
        num_classes: K ≥ 2.
        num_good: how many responses, the first, are good; fewer than K.
        mass: the probability of each of them under π_ref.
        scale: the standard deviation of rewards, in nats; a good response has β log(1/mass) more.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}, as much for each good one as for all others, but for rewards.
        seed: of π_ref and r.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.
        sampler: μ, from which pairs are drawn, [K] or [X, K]; π_ref unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.
    """
    check_integer("num_classes", num_classes, 2, MAX_CLASSES)
    good = np.arange(num_classes) < check_integer("num_good", num_good, 1, num_classes - 1)
    setting = Setting.draw(classes(num_classes), num_prompts, scale, seed)
    each = check_number("mass", mass, Interval(0.0, 1.0 / good.sum()))
    others = Policy.from_logits(np.where(good, -np.inf, setting.reference.log_probs)).log_probs
    reference = np.where(good, np.log(each), others + np.log1p(-each * good.sum()))
    reward = setting.reward - check_number("beta", beta, POSITIVE) * np.log(each) * good
    setting = replace(setting, reference=Policy.from_log_probs(reference), reward=reward)
    return _labelled(setting, setting.optimum(beta), _win_probabilities(reward), sampler)
