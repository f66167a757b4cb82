"""Worlds of finitely many pairs."""

from dataclasses import replace

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import Interval, check_integer, check_number, message
from didsim._joint import margins
from didsim.preference import MAX_NUMBERS, MAX_SEED, Problem
from didsim.worlds._labelled import bradley_terry


def finite_data(
    num_classes: int = 32,
    num_pairs: int = 1000,
    coverage: float = 1.0,
    scale: float = 1.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
) -> Problem:
    """Build the empirical law of n pairs of `bradley_terry`; see `draw_finite` for those of another world.

    Args:
        num_classes: K ≥ 1.
        num_pairs: n ≥ 1.
        coverage: the probability in (0, 1] that two responses may be compared at all.
        scale: the standard deviation of the true rewards, in nats.
        beta: the β > 0 of the truth π* ∝ π_ref e^{r/β}.
        seed: of π_ref, r and the pairs.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.
    """
    world = bradley_terry(num_classes, scale, beta, seed=seed, num_prompts=num_prompts)
    return draw_finite(world, num_pairs, coverage, seed)


def draw_finite(problem: Problem, num_pairs: int, coverage: float = 1.0, seed: int = 42) -> Problem:
    """Draw n pairs of a problem, and return the problem whose pairs they are; its truth stays that of the population.

    Args:
        problem: where pairs are drawn.
        num_pairs: n ≥ 1, over all prompts.
        coverage: the probability in (0, 1] that two responses may be compared at all, at each prompt.
        seed: of what may be compared, and of the pairs.

    Returns:
        A problem with `pairs` the shares of the n pairs, and `prompts` the shares of prompts.

    Raises:
        ValueError: if a prompt got no pair, nothing may be compared, or the table of pairs would be too large.
        TypeError: if an argument is no number.

    >>> sample = draw_finite(Problem.from_policies([0.5, 0.5], [0.8, 0.2]), num_pairs=10, seed=1)
    >>> sample.pairs * 10
    array([[1., 3.],
           [2., 4.]])
    """
    size = check_integer("num_pairs", num_pairs, 1, 10**12)
    check_integer("prompts × responses²", problem.num_prompts * problem.num_classes**2, 1, MAX_NUMBERS)
    rng = np.random.default_rng([check_integer("seed", seed, 0, MAX_SEED), size])
    law = problem.prompt_weights[:, None, None] * problem.pair_probs()
    law = law * _comparable(rng, law.shape, check_number("coverage", coverage, Interval(0.0, 1.0, closed_high=True)))
    if not law.sum() > 0.0:
        raise ValueError(message("coverage", "large enough for some responses to be compared", coverage))
    counts = rng.multinomial(size, (law / law.sum()).ravel()).reshape(law.shape)
    by_prompt = counts.sum(axis=(1, 2), keepdims=True)
    if np.any(by_prompt == 0):
        got = f"{size}, of which prompt {int(np.argmin(by_prompt))} got none"
        raise ValueError(message("num_pairs", "so many that each prompt gets one", got))
    table = (counts / by_prompt).reshape(*problem.chosen.log_probs.shape, problem.num_classes)
    chosen, rejected = margins(table)
    prompts = None if problem.prompts is None else by_prompt.ravel() / size
    return replace(problem, chosen=chosen, rejected=rejected, pairs=table, prompts=prompts)


def _comparable(rng: np.random.Generator, shape: tuple[int, ...], coverage: float) -> FloatArray:
    """Return 1 where two responses may be compared, in either order, and 0 elsewhere, [X, K, K]; with itself always."""
    upper = np.triu(rng.random(shape) < coverage, 1)
    return (upper | upper.swapaxes(-1, -2) | np.eye(shape[-1], dtype=bool)).astype(np.float64)
