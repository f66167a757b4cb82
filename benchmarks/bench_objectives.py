"""Time a training step of every objective against DPO's, alternately in one run: medians of ratios."""

import argparse
import statistics
import time

import torch

import didsim as ds
from didsim.objectives import IMPLEMENTATIONS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = [ds.worlds.bradley_terry(8, seed=seed) for seed in range(42, 62)]

    def seconds(name):
        start = time.process_time()
        jobs = [(problem, ds.objective(name)) for problem in problems]
        ds.train_many(jobs, mode="population", steps=options.steps, record_every=options.steps, metrics=())
        return time.process_time() - start

    seconds("dpo")  # warm up
    ratios = {
        name: statistics.median(seconds(name) / seconds("dpo") for _ in range(options.rounds))
        for name in IMPLEMENTATIONS
    }
    print("objective      time of a step, DPO's being 1")
    for name, ratio in sorted(ratios.items(), key=lambda item: item[1]):
        print(f"{name:13s}  {ratio:.2f}")


if __name__ == "__main__":
    main()
