"""How a list of jobs becomes one batch: runs ordered by objective, shared streams of pairs, truth."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from didsim._checks import message
from didsim.differential import did
from didsim.engine._draws import count_table, sample_dataset
from didsim.engine._gradient import Group
from didsim.engine._metrics import METRICS, TABLE_METRICS, Truth
from didsim.engine._policies import PolicyClass
from didsim.engine._product import ProductWeights, reason_against_sums
from didsim.engine._settings import Settings
from didsim.engine._weights import Streams, TableWeights, Weights
from didsim.info import marginal
from didsim.objectives import BoundObjective, group_key, stack
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem
from didsim.torch_bridge import Tensor, as_dtype, finite_log, to_tensor

Job = tuple[Problem, BoundObjective]

TABLE_PAIRS = 64**2
"""Up to so many pairs X·K² a table is faster than a list of 512 drawn ones (`make bench` shows both)."""

METRIC_PAIRS = 2**22
"""Up to so many pairs the metrics that sum over all of them are recorded unless others are asked for."""

SUMS_NUMBERS = 64
"""So many numbers per response are held while sums are made, in units of those of a table."""

MOST_TABLED = 2**22
"""Up to so many pairs X·K² of the population are a table; beyond, losses that separate need none."""


@dataclass(frozen=True)
class Stream:
    """One source of pairs, shared by all runs that have the same problem and seed."""

    problem: Problem
    seed: int
    dataset: PreferenceDataset | None

    def joint(self) -> np.ndarray:
        """Return the exact weights of all pairs, float64 [X, K, K]: the population's, or the dataset's."""
        problem, dataset = self.problem, self.dataset
        if dataset is None:
            return problem.prompt_weights[:, None, None] * problem.pair_probs()
        size, first = problem.num_classes, dataset.prompts * problem.num_classes
        counts = count_table(
            (first + dataset.chosen)[None], (first + dataset.rejected)[None], problem.num_prompts, size
        )
        return counts[0] / len(dataset)


@dataclass(frozen=True)
class Plan:
    """A batch of runs in working order.

    Attributes:
        order: for each run, its position in the caller's list.
        problems: the problem of each run.
        policies: the policy classes of all runs, in the dtype of training.
        groups: the runs by objective, in the dtype of training; those with a fused gradient first.
        streams: the distinct sources of pairs.
        initial: the parameters from which training starts, float64 [R, D + companions].
        truth: what recorded policies are compared with.
        metrics: the names of the recorded quantities.
        path: how steps sum over pairs: over a "table" of them, a list of drawn ones ("gather"), or by "sums" over both
            responses apart.
    """

    order: list[int]
    problems: list[Problem]
    policies: PolicyClass
    groups: list[Group]
    streams: list[Stream]
    initial: Tensor
    truth: Truth
    metrics: tuple[str, ...]
    path: str

    def joint(self, dtype: str) -> Tensor:
        """Return the exact weights of all pairs, [P, K, K] for the P prompts of all streams."""
        return _joint_tensor(self.streams, dtype)

    def exact_weights(self, dtype: str) -> Weights:
        """Return the exact weights of all pairs, without a table where the path needs none."""
        if self.path == "sums":
            return ProductWeights.of([stream.problem for stream in self.streams], as_dtype(dtype))
        return TableWeights.from_joint(self.joint(dtype))


def plan_runs(jobs: Sequence[Job], settings: Settings) -> Plan:
    """Order jobs by objective and collect what their runs share."""
    _check_jobs(jobs)
    if settings.trust_region is not None and not any("prior" in loss.needs for _, loss in jobs):
        hint = 'It bounds the prior that objective("mi_dpo", prior="learned") learns.'
        raise ValueError(message("trust_region", "left out unless a prior is learned", settings.trust_region, hint))
    first = jobs[0][0]
    num_pairs = first.num_prompts * first.num_classes**2
    path = _path(jobs, settings, num_pairs)
    metrics = _metrics(settings, num_pairs)
    sizes = {"table": num_pairs, "gather": settings.batch_size, "sums": SUMS_NUMBERS * num_pairs // first.num_classes}
    _check_memory(jobs, settings, num_pairs if TABLE_METRICS & set(metrics) else sizes[path])
    streams, numbers = _share_streams([problem for problem, _ in jobs], settings.seeds(len(jobs)), settings)
    order = sorted(range(len(jobs)), key=lambda run: (*_group_order(jobs[run]), numbers[run]))
    problems, losses = [jobs[run][0] for run in order], [jobs[run][1] for run in order]
    index = [numbers[run] for run in order]
    policies = PolicyClass.of(problems, as_dtype(settings.dtype))
    groups = _group(losses, policies, index, len(streams), rows_per_run=1 if path == "gather" else first.num_prompts)
    return Plan(
        order=order,
        problems=problems,
        policies=policies,
        groups=groups,
        streams=streams,
        initial=_initial_parameters(problems, groups, settings),
        truth=_truth(problems, losses, streams, index, metrics),
        metrics=metrics,
        path=path,
    )


def _path(jobs: Sequence[Job], settings: Settings, num_pairs: int) -> str:
    """Return how steps sum over pairs."""
    reasons = [(loss.name, _reason_against_sums(problem, loss)) for problem, loss in jobs]
    refused = [(name, reason) for name, reason in reasons if reason is not None]
    if settings.path == "sums" and refused:
        name, reason = refused[0]
        accepted = '"auto" or "table" for objectives whose responses cannot be summed apart'
        raise ValueError(message("path", accepted, f'"sums" for {name}', f"{name}: {reason}."))
    if settings.path != "auto":
        return settings.path
    if settings.mode == "population":
        return "table" if refused or num_pairs <= MOST_TABLED else "sums"
    return "table" if num_pairs <= TABLE_PAIRS else "gather"


def _reason_against_sums(problem: Problem, loss: BoundObjective) -> str | None:
    """Return why the responses of pairs cannot be summed over apart, or None if they can."""
    if problem.pairs is not None:
        return "chosen and rejected responses are drawn together"
    return reason_against_sums(loss)


def _group_order(job: Job) -> tuple[bool, tuple[str, ...]]:
    """Sort by objective, those first whose gradient needs no automatic differentiation of the policy."""
    return (not job[1].sees_responses_only, group_key(job[1]))


def _metrics(settings: Settings, num_pairs: int) -> tuple[str, ...]:
    if settings.metrics is not None:
        return settings.metrics
    return tuple(name for name in METRICS if num_pairs <= METRIC_PAIRS or name not in TABLE_METRICS)


def _check_jobs(jobs: Sequence[Job]) -> None:
    accepted = "at least one pair (problem, objective), in a list"
    if isinstance(jobs, str) or not isinstance(jobs, Sequence):
        raise TypeError(message("jobs", accepted, jobs))
    if not jobs:
        raise ValueError(message("jobs", accepted, "none"))
    for job in jobs:
        match job:
            case (Problem() as problem, BoundObjective() as loss):
                _check_one_run(loss)
                _check_needs(problem, loss)
            case _:
                hint = 'Make them with didsim.Problem… and didsim.objective("dpo", …).'
                raise TypeError(message("a job", "a pair (problem, objective)", job, hint))
    problems = [problem for problem, _ in jobs]
    _check_alike("num_classes of all jobs", [problem.num_classes for problem in problems])
    _check_alike("the spaces of all jobs", [str(problem.space) for problem in problems])
    _check_alike("the numbers of prompts of all jobs", [problem.num_prompts for problem in problems])
    features = [0 if problem.features is None else problem.features.shape[-1] for problem in problems]
    _check_alike("the numbers of features of all jobs", features)


def _check_alike(name: str, values: list[Any]) -> None:
    if len(set(values)) > 1:
        raise ValueError(message(name, "the same", sorted(set(values)), "Train them in separate calls."))


def _check_needs(problem: Problem, loss: BoundObjective) -> None:
    """Refuse an objective whose needs the problem cannot meet; all but this one are met by every problem."""
    if "given_prior" in loss.needs and problem.prior is None:
        hint = "Make it with Problem.from_policies(…, prior=ζ), or take another prior: `didsim list priors`."
        raise ValueError(message("the problem", f"given with a prior for {loss!r}", "one without", hint))


def _check_one_run(loss: BoundObjective) -> None:
    for name, value in loss.hyperparameters.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            hint = "Several values are several jobs."
            raise ValueError(message(f"{name} of a job", "one number", f"a tensor of {value.numel()}", hint))


def _check_memory(jobs: Sequence[Job], settings: Settings, pairs: int) -> None:
    problem, num_runs = jobs[0][0], len(jobs)
    numbers = problem.num_prompts * (problem.space.num_contexts * problem.space.num_actions + problem.num_classes)
    if problem.features is not None:
        numbers += problem.features.size
    needed = 8 * num_runs * (6 * pairs + 12 * numbers)
    needed += 8 * 8 * problem.num_classes * problem.space.max_length  # the decisions of each response, and their making
    kept = problem.num_prompts * problem.num_classes if settings.keep_policies else 0
    needed += 8 * num_runs * (len(METRICS) + kept) * (settings.steps // settings.record_every + 2)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    if needed > available:
        got = f"about {needed / 2**30:.1f} GiB for {num_runs} runs of {problem.num_classes} classes"
        summed = settings.mode == "population" or settings.path == "table"
        instead = 'mode="sampled" with path="auto"' if summed else "metrics without loss and accuracy"
        hint = f"Use fewer runs or classes, or {instead}: a table of pairs has X·K² numbers."
        if settings.mode == "population" and settings.path != "sums":
            hint += ' Losses that separate need none: path="sums".'
        raise ValueError(message("memory of the batch", f"below {available / 2**30:.1f} GiB", got, hint))


def _share_streams(problems: list[Problem], seeds: list[int], settings: Settings) -> tuple[list[Stream], list[int]]:
    """Return the distinct streams, and for each run the number of its own."""
    numbers: dict[tuple[bytes, int], int] = {}
    streams: list[Stream] = []
    for problem, seed in zip(problems, seeds, strict=True):
        key = (problem.pair_digest, seed)
        if key not in numbers:
            numbers[key] = len(streams)
            streams.append(Stream(problem, seed, _dataset(problem, seed, settings)))
    return streams, [numbers[problem.pair_digest, seed] for problem, seed in zip(problems, seeds, strict=True)]


def _dataset(problem: Problem, seed: int, settings: Settings) -> PreferenceDataset | None:
    dataset = settings.dataset
    if isinstance(dataset, int):
        return sample_dataset(problem, dataset, seed, settings.batch_size)
    if dataset is not None:
        seen = np.union1d(dataset.chosen, dataset.rejected)
        if seen[-1] >= problem.num_classes:
            raise ValueError(message("dataset", f"of classes below {problem.num_classes}", f"class {seen[-1]}"))
        if dataset.prompts.max() >= problem.num_prompts:
            got = f"prompt {dataset.prompts.max()}"
            raise ValueError(message("dataset", f"of prompts below {problem.num_prompts}", got))
        excluded = np.isneginf(np.atleast_2d(problem.reference.log_probs))
        for side, classes in (("chosen", dataset.chosen), ("rejected", dataset.rejected)):
            if np.any(impossible := excluded[dataset.prompts, classes]):
                row = int(np.argmax(impossible))
                accepted = "a class that the reference does not exclude"
                raise ValueError(message(f"{side}[{row}] of the dataset", accepted, int(classes[row])))
    return dataset


def _group(
    losses: list[BoundObjective], policies: PolicyClass, index: list[int], num_streams: int, rows_per_run: int
) -> list[Group]:
    """Collect runs, already ordered, into groups of one objective."""
    keys = [group_key(loss) for loss in losses]
    starts = [run for run, key in enumerate(keys) if run == 0 or key != keys[run - 1]]
    runs = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True)]
    # a stream has a table for each prompt, and a single list
    rows = [[stream * rows_per_run + row for stream in index[part] for row in range(rows_per_run)] for part in runs]
    streams = [Streams.of(numbers, num_streams * rows_per_run) for numbers in rows]
    return [
        _one_group(losses[part], policies[part], part, seen, rows_per_run)
        for part, seen in zip(runs, streams, strict=True)
    ]


def _one_group(
    losses: list[BoundObjective], policies: PolicyClass, runs: slice, streams: Streams, rows_per_run: int
) -> Group:
    repeated = [loss for loss in losses for _ in range(rows_per_run)]
    log_ref = policies.log_ref.reshape(len(repeated), -1, 1)
    lengths = to_tensor(policies.space.lengths, log_ref.dtype)
    return Group(
        loss=stack(repeated, log_ref.dtype),
        policies=policies,
        runs=runs,
        rows=slice(runs.start * rows_per_run, runs.stop * rows_per_run),
        streams=streams,
        log_ref=log_ref,
        length=lengths.repeat(log_ref.shape[1] // len(lengths))[None, :, None].expand_as(log_ref),
    )


def _truth(
    problems: list[Problem],
    losses: list[BoundObjective],
    streams: list[Stream],
    index: list[int],
    metrics: tuple[str, ...],
) -> Truth:
    reference, target = _batch([p.reference for p in problems]), _batch([p.target for p in problems])
    groups, weights = [], None
    if TABLE_METRICS & set(metrics):
        exact = PolicyClass.of(problems, as_dtype("float64"))
        groups = _group(losses, exact, index, len(streams), rows_per_run=problems[0].num_prompts)
        weights = TableWeights.from_joint(_joint_tensor(streams, "float64"))
    return Truth(
        prompts=np.stack([problem.prompt_weights for problem in problems]),
        reference=reference,
        target=target,
        did=did(target, reference),
        chosen=_batch([p.chosen for p in problems]),
        rejected=_batch([p.rejected for p in problems]),
        groups=groups,
        weights=weights,
    )


def _initial_parameters(problems: list[Problem], groups: list[Group], settings: Settings) -> Tensor:
    """Return the parameters of the initial policies, and of what is learned beside them, [R, D + companions]."""
    start = np.stack([_initial(problem, settings) for problem in problems])
    beside = max(sum(size for _, size in group.companion_sizes) for group in groups)
    parameters = np.pad(start, ((0, 0), (0, beside)))
    for group in groups:
        for run in range(group.runs.start, group.runs.stop):
            values = [COMPANION_STARTS[name](problems[run]) for name, _ in group.companion_sizes]
            learned = np.concatenate([np.empty(0), *values])
            parameters[run, start.shape[1] : start.shape[1] + len(learned)] = learned
    return to_tensor(parameters)


def _marginal_start(problem: Problem) -> np.ndarray:
    """Return the logits of the marginal of π_ref over prompts, at which a learned prior starts, [N·A]."""
    reference = marginal(np.atleast_2d(problem.reference.probs), problem.prompt_weights)
    return finite_log(problem.space.next_log_probs(reference.log_probs)).ravel()


COMPANION_STARTS = {
    "prior": _marginal_start,
    "masks": lambda problem: np.ones(2 * problem.space.num_contexts * problem.space.num_actions),
}
"""Where the parameters start of what is learned beside a policy."""


def _initial(problem: Problem, settings: Settings) -> np.ndarray:
    """Return the parameters of the policy from which a run starts, [D]."""
    initial, reference = settings.initial_policy, problem.reference
    if problem.features is not None:
        if initial is not None:
            hint = "A restricted policy starts at the reference, at w = 0."
            raise ValueError(message("initial_policy", "left out for problems with features", "one", hint))
        return np.zeros(problem.features.shape[-1])
    if initial is None:
        initial = reference
    if initial.log_probs.shape != reference.log_probs.shape:
        raise ValueError(
            message("initial_policy", f"of shape {list(reference.log_probs.shape)}", initial.log_probs.shape)
        )
    if np.any(np.isneginf(initial.log_probs) != np.isneginf(reference.log_probs)):
        got = "a probability of 0 for other classes"
        raise ValueError(message("initial_policy", "positive where the reference is, and nowhere else", got))
    return finite_log(problem.space.next_log_probs(np.atleast_2d(initial.log_probs))).ravel()


def _batch(policies: list[Policy]) -> Policy:
    """Stack the policies of all runs, [R, X, K]."""
    return Policy(np.stack([np.atleast_2d(policy.log_probs) for policy in policies]))


def _joint_tensor(streams: list[Stream], dtype: str) -> Tensor:
    return to_tensor(np.concatenate([stream.joint() for stream in streams]), as_dtype(dtype))
