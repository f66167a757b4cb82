"""Where the pairs of each step come from.

Draws depend on the problem (by value), the seed, the batch size and the mode, and on nothing else: all
objectives see the same pairs, and so does a run alone or in a batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from didsim._arrays import FloatArray, IntArray
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem

GUIDE_BINS = 4096

MODES = ("sampled", "dataset", "population")
"""Fresh pairs at each step; a fixed set of pairs; the exact expectation over all pairs."""


class PairBlock(NamedTuple):
    """Chosen and rejected responses over a block of steps, int64 [steps, B]; y to prompt x has the number x·K + y."""

    chosen: IntArray
    rejected: IntArray


def sample_classes(policy: Policy, uniforms: FloatArray) -> IntArray:
    """Turn uniforms in [0, 1) into classes by the inverse of the cumulative distribution.

    Equal to ``searchsorted(cumsum(probs), uniforms, side="right")``, which is the definition; most uniforms
    fall in one of 4096 bins that lie within a single class, and only the others are searched.
    """
    return _invert(policy.probs, uniforms)


def _invert(probs: FloatArray, uniforms: FloatArray) -> IntArray:
    cumulative = np.cumsum(probs)
    cumulative /= cumulative[-1]
    edges = np.searchsorted(cumulative, np.arange(GUIDE_BINS + 1) / GUIDE_BINS, side="right")
    guide = np.where(edges[:-1] == edges[1:], edges[:-1], -1)
    classes = guide[(uniforms * GUIDE_BINS).astype(np.int64)]
    unsure = np.nonzero(classes < 0)
    classes[unsure] = np.searchsorted(cumulative, uniforms[unsure], side="right")
    return classes


def generator(problem: Problem, seed: int, batch_size: int, mode: str) -> np.random.Generator:
    """Return the generator of a run's draws."""
    words = np.frombuffer(problem.pair_digest, dtype=np.uint32)
    return np.random.default_rng([seed, batch_size, MODES.index(mode), *(int(word) for word in words)])


def sampled_blocks(problem: Problem, seed: int, batch_size: int, block: int) -> Iterator[PairBlock]:
    """Yield blocks of fresh pairs, y_w ~ chosen and y_l ~ rejected, without end."""
    rng = generator(problem, seed, batch_size, "sampled")
    while True:
        yield sample_pairs(problem, rng.random((block, batch_size, _numbers_per_pair(problem))))


def sample_pairs(problem: Problem, uniforms: FloatArray) -> PairBlock:
    """Turn uniforms [..., 2], or [..., 3] when there are several prompts, into y_w ~ chosen and y_l ~ rejected."""
    if problem.num_prompts == 1:
        return PairBlock(*_sample_at(problem, 0, uniforms))
    prompts = sample_classes(Policy.from_probs(problem.prompt_weights), uniforms[..., 2])
    numbers = [prompts * problem.num_classes for _ in range(2)]
    for prompt in range(problem.num_prompts):
        asked = np.nonzero(prompts == prompt)
        for number, drawn in zip(numbers, _sample_at(problem, prompt, uniforms[asked]), strict=True):
            number[asked] += drawn
    return PairBlock(*numbers)


def _sample_at(problem: Problem, prompt: int, uniforms: FloatArray) -> tuple[IntArray, IntArray]:
    """Turn uniforms [..., ≥ 2] into pairs of one prompt; those of a joint law need only the first."""
    if problem.pairs is not None:
        cells = _invert(problem.pair_probs()[prompt].ravel(), uniforms[..., 0])
        return cells // problem.num_classes, cells % problem.num_classes
    chosen, rejected = (Policy(np.atleast_2d(side.log_probs)[prompt]) for side in (problem.chosen, problem.rejected))
    return sample_classes(chosen, uniforms[..., 0]), sample_classes(rejected, uniforms[..., 1])


def _numbers_per_pair(problem: Problem) -> int:
    """Two uniforms per pair, and a third for the prompt if there is a choice."""
    return 2 if problem.num_prompts == 1 else 3


def dataset_blocks(
    dataset: PreferenceDataset, problem: Problem, seed: int, batch_size: int, block: int
) -> Iterator[PairBlock]:
    """Yield blocks of minibatches from a fixed dataset, shuffled anew in each epoch, without end.

    Every minibatch is full: one that reaches the end of an epoch continues in the next.
    """
    rng = generator(problem, seed, batch_size, "dataset").spawn(1)[0]  # the plain one has drawn the dataset
    wanted = block * batch_size
    rows = np.empty(0, dtype=np.int64)
    while True:
        epochs = -(-(wanted - len(rows)) // len(dataset))  # as many more as it takes, rounded up
        rows = np.concatenate([rows, *(rng.permutation(len(dataset)) for _ in range(epochs))])
        taken, rows = rows[:wanted].reshape(block, -1), rows[wanted:]
        first = dataset.prompts[taken] * problem.num_classes
        yield PairBlock(first + dataset.chosen[taken], first + dataset.rejected[taken])


def sample_dataset(problem: Problem, size: int, seed: int, batch_size: int) -> PreferenceDataset:
    """Draw n pairs from a problem once, by the same law as `sampled_blocks`."""
    rng = generator(problem, seed, batch_size, "dataset")
    drawn = sample_pairs(problem, rng.random((size, _numbers_per_pair(problem))))
    return PreferenceDataset.from_classes(
        drawn.chosen % problem.num_classes,
        drawn.rejected % problem.num_classes,
        problem.num_classes,
        drawn.chosen // problem.num_classes,
        problem.num_prompts,
    )


def count_table(chosen: IntArray, rejected: IntArray, num_prompts: int, num_classes: int) -> IntArray:
    """Count pairs of responses [S, B] into tables [S, X, K, K], rows for chosen and columns for rejected."""
    steps = np.arange(len(chosen))[:, None]
    answers = rejected % num_classes if num_prompts > 1 else rejected
    cells = (steps * num_prompts * num_classes + chosen) * num_classes + answers
    counts = np.bincount(cells.ravel(), minlength=len(chosen) * num_prompts * num_classes**2)
    return counts.reshape(len(chosen), num_prompts, num_classes, num_classes)
