"""Time the engine against the reference loop on the paper's whole grid: 38 configurations × 4 temperatures.

Both do the same work, alternately, and the ratio of their medians is printed. The cost of a step does not depend on
the number of steps, so the default takes few; `--steps 6000` does the paper's.
"""

import argparse
import resource
import statistics
import sys
import time

import reference_loop
import torch
from tqdm import tqdm

from didsim import Problem, train_many
from didsim.experiment import grid

TAUS = (0.5, 0.8, 2.0, 4.0)
OBJECTIVES = ("dpo", "slic", "orpo", "simpo", "cal_dpo")


def engine_seconds(losses, steps):
    jobs = [(Problem.from_temperature(32, tau, 42), loss) for tau in TAUS for loss in losses]
    start = time.perf_counter()
    train_many(jobs, steps=steps, record_every=100, metrics=("js_target",))
    return time.perf_counter() - start


def reference_seconds(losses, steps):
    theta_ref = torch.tensor(Problem.from_temperature(32, 1.0, 42).reference.log_probs, dtype=torch.float32)
    start = time.perf_counter()
    for tau in TAUS:
        for loss in losses:
            reference_loop.train(loss.name, dict(loss.hyperparameters), theta_ref, tau, steps)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads; more slow both down on tensors this small"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    losses = [loss for name in OBJECTIVES for loss in grid(name)]
    engine_seconds(losses, 10), reference_seconds(losses[:1], 10)  # warm up
    engine, reference = [], []
    for _ in tqdm(range(options.rounds), desc="rounds", file=sys.stderr, disable=None):
        engine.append(engine_seconds(losses, options.steps))
        reference.append(reference_seconds(losses, options.steps))
    fast, slow = statistics.median(engine), statistics.median(reference)
    runs = len(losses) * len(TAUS)
    print(f"{runs} runs × {options.steps} steps, batch 512, K = 32, {options.threads} torch thread(s)")
    print(f"reference loop  {slow:8.2f} s   {slow / options.steps / runs * 1e6:7.1f} µs per step and run")
    print(f"engine          {fast:8.2f} s   {fast / options.steps / runs * 1e6:7.1f} µs per step and run")
    print(f"ratio           {slow / fast:8.1f} ×  (medians of {options.rounds} alternating rounds)")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"peak memory     {peak:8.2f} GiB, PyTorch included")


if __name__ == "__main__":
    main()
