"""Time sums over all pairs by panels against the table of pairs, and by panels alone where there can be no table.

Both sum the slope of a logistic loss over K sources for K targets, alternately, and the ratio of their medians is
printed. The time of panels alone is that of a median round as well.
"""

import argparse
import resource
import statistics
import sys
import time

import torch
from tqdm import tqdm

from didsim.engine._sums import dense_sums, smooth_sums
from didsim.objectives import objective

RANGES = (20.0, 60.0)
WITH_TABLE = (2_000, 20_000)
WITHOUT_TABLE = (300_000, 1_000_000)


def points(count, spread):
    generator = torch.Generator().manual_seed(count)
    scores = spread * (torch.rand(1, count, generator=generator, dtype=torch.float64) - 0.5)
    weights = torch.softmax(4.0 * torch.randn(1, count, generator=generator, dtype=torch.float64), dim=-1)
    return scores, scores, weights


def seconds(sums, kernel, numbers):
    start = time.perf_counter()
    sums(kernel, *numbers)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kernel = objective("simpo", beta=2.0, gamma=0.5).slope
    seconds(smooth_sums, kernel, points(2000, 20.0)), seconds(dense_sums, kernel, points(2000, 20.0))  # warm up
    cases = [(count, spread) for count in (*WITH_TABLE, *WITHOUT_TABLE) for spread in RANGES]
    panels, table = {case: [] for case in cases}, {case: [] for case in cases}
    for _ in tqdm(range(options.rounds), desc="rounds", file=sys.stderr, disable=None):
        for case in cases:
            numbers = points(*case)
            panels[case].append(seconds(smooth_sums, kernel, numbers))
            if case[0] in WITH_TABLE:
                table[case].append(seconds(dense_sums, kernel, numbers))
    print(f"slope of SimPO, {options.threads} torch thread(s), medians of {options.rounds} alternating rounds")
    for case in cases:
        fast = statistics.median(panels[case])
        line = f"K = {case[0]:9,d}   range {case[1]:3.0f}   panels {fast:8.4f} s"
        if table[case]:
            slow = statistics.median(table[case])
            line += f"   table {slow:8.4f} s   ratio {slow / fast:8.1f} ×"
        print(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"peak memory     {peak:8.2f} GiB, PyTorch included")


if __name__ == "__main__":
    main()
