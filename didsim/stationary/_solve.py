"""`solve` and `solve_many`: stationary policies of the population problem, or of a finite dataset."""

import warnings
from collections.abc import Sequence

import torch

from didsim._checks import check_integer
from didsim.engine import MOST_TABLED, Job, Settings, plan_runs
from didsim.objectives import BoundObjective
from didsim.policy import Policy
from didsim.preference import MAX_SEED, PreferenceDataset, Problem
from didsim.stationary._attempts import MOST_STARTS, attempts
from didsim.stationary._solution import Solution
from didsim.stationary._verdict import judge
from didsim.torch_bridge import threads


def solve(
    problem: Problem,
    loss: BoundObjective,
    *,
    dataset: PreferenceDataset | None = None,
    initial_policy: Policy | None = None,
    starts: int | None = None,
    seed: int = 0,
) -> Solution:
    """Return the stationary policy to which an objective leads, computed to machine precision, with a certificate.

    It is the zero of the expected gradient field: of the gradient of the expected loss, or where a method stops
    gradients of the field as the method defines it.

    Args:
        problem: the preference problem.
        loss: an objective from `didsim.objective`.
        dataset: solve for these pairs in place of the population's.
        initial_policy: where the flow starts that decides which solution is reported; π_ref by default.
        starts: from how many starts solutions are sought: the first one, the uniform policy, and random ones; by
            default from three, in large spaces from one.
        seed: of the random starts.

    Returns:
        The policy with its status, certificate, and what other starts found. A problem that has no isolated stationary
        policy is not an error: the status and the sentence say so.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    >>> from didsim.objectives import objective
    >>> problem = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])
    >>> solution = solve(problem, objective("dpo"))
    >>> solution.status, solution.policy.probs.round(6)
    ('converged', array([0.2, 0.2, 0.6]))
    """
    jobs = [(problem, loss)]
    return solve_many(jobs, dataset=dataset, initial_policy=initial_policy, starts=starts, seed=seed)[0]


def solve_many(
    jobs: Sequence[Job],
    *,
    dataset: PreferenceDataset | None = None,
    initial_policy: Policy | None = None,
    starts: int | None = None,
    seed: int = 0,
) -> list[Solution]:
    """Solve many problems at once; those that share an objective are one batch. The arguments are those of `solve`.

    Args:
        jobs: pairs of a problem and an objective; all problems have the same space, number of prompts and number of
            features.
        dataset: as in `solve`.
        initial_policy: as in `solve`.
        starts: as in `solve`.
        seed: as in `solve`.

    Returns:
        One solution for each job, in the order of the jobs.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.
    """
    if starts is None:
        starts = 1 if any(_is_large(job) for job in jobs) else 3
    check_integer("starts", starts, 1, MOST_STARTS)
    check_integer("seed", seed, 0, MAX_SEED)
    settings = Settings(
        steps=1,
        mode="population" if dataset is None else "dataset",
        dataset=dataset,
        path="auto" if dataset is None else "table",
        dtype="float64",
        metrics=(),
        initial_policy=initial_policy,
    )
    # many small operations: with one thread they take less time than with two, and give the same bytes everywhere
    with threads(1), torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        # PyTorch's own, from the first forward-mode derivative of a process
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        # every job once for each start, as runs of one plan
        plan = plan_runs([job for job in jobs for _ in range(starts)], settings)
        found = attempts(plan, plan.exact_weights("float64"), starts, seed)
    by_job = [[found[number * starts + start] for start in range(starts)] for number in range(len(jobs))]
    return [judge(job, tried) for job, tried in zip(jobs, by_job, strict=True)]


def _is_large(job: object) -> bool:
    """Return whether a job, which may still prove to be none, has too many pairs for a table."""
    match job:
        case (Problem() as problem, _):
            return problem.num_prompts * problem.num_classes**2 > MOST_TABLED
        case _:
            return False
