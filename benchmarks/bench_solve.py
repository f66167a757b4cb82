"""Time the solver: the 152 DPO problems that the issue names, and every objective at four temperatures.

    python benchmarks/bench_solve.py

Seconds are of this machine, single-threaded; the ratio to one problem at a time is what carries over.
"""

import statistics
import time
import warnings

import torch

from didsim import OBJECTIVES, Problem, objective
from didsim.stationary import solve_many

ROUNDS = 3


def seconds(jobs, starts):
    """Solve jobs as one batch, and return the time."""
    started = time.perf_counter()
    solve_many(jobs, starts=starts)
    return time.perf_counter() - started


def main():
    """Print the times."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch.func says on first use that it will change
    problems = [Problem.from_temperature(32, tau=4.0, seed=seed) for seed in range(152)]
    jobs = [(problem, objective("dpo")) for problem in problems]
    solve_many(jobs[:2])  # what is loaded once
    batch, alone = [], []
    for _ in range(ROUNDS):
        batch.append(seconds(jobs, starts=1))
        alone.append(sum(seconds([job], starts=1) for job in jobs[::8]) * 8)
    together, each = statistics.median(batch), statistics.median(alone)
    print(f"152 DPO problems, K = 32: {together:.2f} s in one batch, {each / together:.0f} times faster than alone")
    worlds = [Problem.from_temperature(32, tau, seed=1) for tau in (0.25, 0.5, 2.0, 4.0)]
    times = {name: seconds([(world, objective(name)) for world in worlds], starts=1) for name in OBJECTIVES}
    slowest = sorted(times, key=times.__getitem__)[-5:]
    print(f"all {len(times)} objectives at 4 temperatures: {sum(times.values()):.0f} s; the slowest are", end=" ")
    print(", ".join(f"{name} ({times[name]:.1f} s)" for name in reversed(slowest)))


if __name__ == "__main__":
    main()
