"""How a list of jobs becomes one batch: runs ordered by objective, shared streams of pairs, truth."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didsim._checks import message
from didsim.differential import did
from didsim.engine._draws import count_table, sample_dataset
from didsim.engine._gradient import Group
from didsim.engine._metrics import TABLE_METRICS, Truth
from didsim.engine._settings import Settings
from didsim.engine._weights import TableWeights
from didsim.objectives import BoundObjective, group_key, stack
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem
from didsim.torch_bridge import Tensor, as_dtype, finite_log, to_tensor

Job = tuple[Problem, BoundObjective]

TABLE_CLASSES = 64
"""Up to this K a table of pairs is faster than a list of 512 drawn ones (`make bench` shows both)."""


@dataclass(frozen=True)
class Stream:
    """One source of pairs, shared by all runs that have the same problem and seed."""

    problem: Problem
    seed: int
    dataset: PreferenceDataset | None

    def joint(self) -> np.ndarray:
        """Return the exact weights of all pairs, float64 [K, K]: the population's, or the dataset's."""
        if self.dataset is None:
            return np.outer(self.problem.chosen.probs, self.problem.rejected.probs)
        size = self.problem.num_classes
        return count_table(self.dataset.chosen[None], self.dataset.rejected[None], size)[0] / len(self.dataset)


@dataclass(frozen=True)
class Plan:
    """A batch of runs in working order.

    Attributes:
        order: for each run, its position in the caller's list.
        problems: the problem of each run.
        groups: the runs by objective, in the dtype of training.
        streams: the distinct sources of pairs.
        initial: the policies from which training starts, [R, K].
        truth: what recorded policies are compared with.
        use_table: whether steps sum over a table of pairs.
    """

    order: list[int]
    problems: list[Problem]
    groups: list[Group]
    streams: list[Stream]
    initial: Policy
    truth: Truth
    use_table: bool

    def initial_logits(self, dtype: str) -> Tensor:
        """Return the logits from which training starts, [R, K]."""
        return _log_tensor(self.initial, dtype)

    def joint(self, dtype: str) -> Tensor:
        """Return the exact weights of all pairs of each stream, [P, K, K]."""
        return _joint_tensor(self.streams, dtype)


def plan_runs(jobs: Sequence[Job], settings: Settings) -> Plan:
    """Order jobs by objective and collect what their runs share."""
    num_classes = _check_jobs(jobs)
    use_table = settings.path == "table" or (settings.path == "auto" and num_classes <= TABLE_CLASSES)
    use_table = use_table or settings.mode == "population"
    _check_memory(len(jobs), num_classes, settings, use_table)
    order = sorted(range(len(jobs)), key=lambda run: group_key(jobs[run][1]))
    problems, losses = [jobs[run][0] for run in order], [jobs[run][1] for run in order]
    seeds = settings.seeds(len(jobs))
    streams, index = _share_streams(problems, [seeds[run] for run in order], settings)
    reference = _batch([problem.reference for problem in problems])
    return Plan(
        order=order,
        problems=problems,
        groups=_group(losses, reference, index, settings.dtype),
        streams=streams,
        initial=_initial(problems, settings),
        truth=_truth(problems, losses, streams, index, settings),
        use_table=use_table,
    )


def _check_jobs(jobs: Sequence[Job]) -> int:
    accepted = "at least one pair (problem, objective), in a list"
    if isinstance(jobs, str) or not isinstance(jobs, Sequence):
        raise TypeError(message("jobs", accepted, jobs))
    if not jobs:
        raise ValueError(message("jobs", accepted, "none"))
    for job in jobs:
        match job:
            case (Problem(), BoundObjective() as loss):
                _check_one_run(loss)
            case _:
                hint = 'Make them with didsim.Problem… and didsim.objective("dpo", …).'
                raise TypeError(message("a job", "a pair (problem, objective)", job, hint))
    sizes = {problem.num_classes for problem, _ in jobs}
    if len(sizes) > 1:
        raise ValueError(message("num_classes of all jobs", "the same", sorted(sizes)))
    return sizes.pop()


def _check_one_run(loss: BoundObjective) -> None:
    for name, value in loss.hyperparameters.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            hint = "Several values are several jobs."
            raise ValueError(message(f"{name} of a job", "one number", f"a tensor of {value.numel()}", hint))


def _check_memory(num_runs: int, num_classes: int, settings: Settings, use_table: bool) -> None:
    per_pair = num_classes**2 if use_table or TABLE_METRICS & set(settings.metrics) else settings.batch_size
    needed = 8 * num_runs * (6 * per_pair + 20 * num_classes)
    needed += 8 * num_runs * len(settings.metrics) * (settings.steps // settings.record_every + 2)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    if needed > available:
        got = f"about {needed / 2**30:.1f} GiB for {num_runs} runs of {num_classes} classes"
        hint = "Use fewer runs or classes, or leave out the metrics loss and accuracy: they need K² numbers."
        raise ValueError(message("memory of the batch", f"below {available / 2**30:.1f} GiB", got, hint))


def _share_streams(problems: list[Problem], seeds: list[int], settings: Settings) -> tuple[list[Stream], Tensor]:
    """Return the distinct streams, and for each run the number of its own."""
    numbers: dict[tuple[bytes, int], int] = {}
    streams: list[Stream] = []
    for problem, seed in zip(problems, seeds, strict=True):
        key = (problem.pair_digest, seed)
        if key not in numbers:
            numbers[key] = len(streams)
            streams.append(Stream(problem, seed, _dataset(problem, seed, settings)))
    index = [numbers[problem.pair_digest, seed] for problem, seed in zip(problems, seeds, strict=True)]
    return streams, to_tensor(np.array(index))


def _dataset(problem: Problem, seed: int, settings: Settings) -> PreferenceDataset | None:
    dataset = settings.dataset
    if isinstance(dataset, int):
        return sample_dataset(problem, dataset, seed, settings.batch_size)
    if dataset is not None:
        seen = np.union1d(dataset.chosen, dataset.rejected)
        if seen[-1] >= problem.num_classes:
            raise ValueError(message("dataset", f"of classes below {problem.num_classes}", f"class {seen[-1]}"))
        if np.any(np.isneginf(problem.reference.log_probs[seen])):
            raise ValueError(message("dataset", "of classes that the reference does not exclude", seen.tolist()))
    return dataset


def _group(losses: list[BoundObjective], reference: Policy, streams: Tensor, dtype: str) -> list[Group]:
    """Collect runs, already ordered, into groups of one objective."""
    log_ref = _log_tensor(reference, dtype).unsqueeze(-1)
    keys = [group_key(loss) for loss in losses]
    starts = [run for run, key in enumerate(keys) if run == 0 or key != keys[run - 1]]
    rows = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True)]
    return [
        Group(
            stack(losses[run], log_ref.dtype),
            run,
            streams[run],
            log_ref[run],
            log_ref.new_ones(()).expand_as(log_ref[run]),
        )
        for run in rows
    ]


def _truth(
    problems: list[Problem],
    losses: list[BoundObjective],
    streams: list[Stream],
    index: Tensor,
    settings: Settings,
) -> Truth:
    reference, target = _batch([p.reference for p in problems]), _batch([p.target for p in problems])
    weights = None
    if TABLE_METRICS & set(settings.metrics):
        weights = TableWeights.from_joint(_joint_tensor(streams, "float64"))
    return Truth(
        reference=reference,
        target=target,
        did=did(target, reference),
        chosen=_batch([p.chosen for p in problems]),
        rejected=_batch([p.rejected for p in problems]),
        groups=_group(losses, reference, index, "float64"),
        weights=weights,
    )


def _initial(problems: list[Problem], settings: Settings) -> Policy:
    if settings.initial_policy is None:
        return _batch([problem.reference for problem in problems])
    initial = settings.initial_policy
    for problem in problems:
        if initial.log_probs.shape != (problem.num_classes,):
            raise ValueError(message("initial_policy", f"of shape [{problem.num_classes}]", initial.log_probs.shape))
        if np.any(np.isneginf(initial.log_probs) != np.isneginf(problem.reference.log_probs)):
            got = "a probability of 0 for other classes"
            raise ValueError(message("initial_policy", "positive where the reference is, and nowhere else", got))
    return _batch([initial] * len(problems))


def _batch(policies: list[Policy]) -> Policy:
    return Policy(np.stack([policy.log_probs for policy in policies]))


def _log_tensor(policy: Policy, dtype: str) -> Tensor:
    return to_tensor(finite_log(policy.log_probs), as_dtype(dtype))


def _joint_tensor(streams: list[Stream], dtype: str) -> Tensor:
    return to_tensor(np.stack([stream.joint() for stream in streams]), as_dtype(dtype))
