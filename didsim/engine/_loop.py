"""The training loop: many runs, one tensor."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from didsim._checks import check_choice
from didsim.engine._draws import PairBlock, dataset_blocks, sampled_blocks
from didsim.engine._gradient import gradient_of
from didsim.engine._history import History, Recorder
from didsim.engine._optimisers import OPTIMISERS, clip_by_run_
from didsim.engine._plan import Job, Plan, Stream, plan_runs
from didsim.engine._priors import confine_priors_
from didsim.engine._settings import Settings
from didsim.engine._weights import DrawnWeights, TableWeights, Weights
from didsim.objectives import BoundObjective
from didsim.preference import Problem
from didsim.torch_bridge import as_dtype, to_array

BLOCK_STEPS = 64
BLOCK_NUMBERS = 2**23
"""Pairs are drawn for this many steps at once, or fewer if a block would exceed this many numbers."""


def train(problem: Problem, loss: BoundObjective, **settings: Any) -> History:
    """Train one policy on one problem.

    Args:
        problem: the preference problem.
        loss: an objective from `didsim.objective`.
        **settings: the fields of `Settings`: steps, batch_size, learning_rate, seed, record_every, …

    Returns:
        The recorded metrics, the final policy and the status of the run.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    >>> from didsim.objectives import objective
    >>> history = train(Problem.from_temperature(8, tau=2.0), objective("dpo"), steps=100, seed=0)
    >>> history.status
    'completed'
    """
    return train_many([(problem, loss)], **settings)[0]


def train_many(jobs: Sequence[Job], *, progress: Callable[[int], None] | None = None, **settings: Any) -> list[History]:
    """Train many policies at once, as one batch of runs.

    A run inside the batch equals the same run alone up to float rounding.

    Args:
        jobs: pairs of a problem and an objective; all problems have the same space, number of prompts and number of
            features.
        progress: called with the number of steps taken so far, at each record after the first.
        **settings: the fields of `Settings`; `seed` may be one number, or one for each job.

    Returns:
        One history for each job, in the order of the jobs.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.
    """
    for name in settings:
        check_choice("setting", name, Settings.__dataclass_fields__)
    checked = Settings(**settings)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
        return _run(plan_runs(jobs, checked), checked, [loss for _, loss in jobs], progress)


def _run(
    plan: Plan, settings: Settings, losses: list[BoundObjective], progress: Callable[[int], None] | None
) -> list[History]:
    recorder = Recorder(plan, plan.initial, settings.keep_policies)
    parameters = plan.initial.to(as_dtype(settings.dtype), copy=True)
    optimiser = OPTIMISERS[settings.optimiser](parameters)
    weights = _weights_by_step(plan, settings)
    finite_steps = torch.zeros(len(parameters), dtype=torch.int64)
    for step in range(1, settings.steps + 1):
        gradient = gradient_of(plan.groups, parameters, next(weights))
        if settings.clip is not None:
            clip_by_run_(gradient, settings.clip)
        optimiser.update(parameters, gradient, settings.learning_rate * settings.schedule_factor(step - 1))
        if settings.trust_region is not None:
            confine_priors_(plan, parameters, settings.trust_region)
        # true unless some number is infinite or NaN; faster than isfinite
        finite_steps += (0.0 * parameters).sum(1) == 0.0
        if step % settings.record_every == 0 or step == settings.steps:
            recorder.record(step, parameters)
            if progress:
                progress(step)
    return recorder.histories(losses, to_array(finite_steps))


def _weights_by_step(plan: Plan, settings: Settings) -> Iterator[Weights]:
    """Yield the weights of the pairs of each step, without end."""
    dtype = as_dtype(settings.dtype)
    if settings.mode == "population":
        exact = plan.exact_weights(settings.dtype)
        while True:
            yield exact
    sizes = (plan.problems[0].num_prompts, plan.problems[0].num_classes)
    per_step = len(plan.streams) * max(settings.batch_size, sizes[0] * sizes[1] ** 2 if plan.path == "table" else 0)
    size = max(1, min(BLOCK_STEPS, BLOCK_NUMBERS // per_step))
    blocks = [_pair_blocks(stream, settings, size) for stream in plan.streams]
    layout = TableWeights.from_draws if plan.path == "table" else DrawnWeights.from_draws
    for drawn in zip(*blocks, strict=True):
        block = layout([pairs.chosen for pairs in drawn], [pairs.rejected for pairs in drawn], *sizes, dtype)
        for step in range(size):
            yield block.at(step)


def _pair_blocks(stream: Stream, settings: Settings, size: int) -> Iterator[PairBlock]:
    if stream.dataset is None:
        return sampled_blocks(stream.problem, stream.seed, settings.batch_size, size)
    return dataset_blocks(stream.dataset, stream.problem, stream.seed, settings.batch_size, size)
