"""Time a training step of every objective against DPO's, alternately in one run: quartiles of ratios.

They are written to objectives.csv beside this file, for the leaderboard's reader.
"""

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
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
    rows = []
    for name in IMPLEMENTATIONS:
        ratios = [seconds(name) / seconds("dpo") for _ in range(options.rounds)]
        rows.append((name, *statistics.quantiles(ratios, n=4, method="inclusive")))
    table = pd.DataFrame(rows, columns=["objective", "lo", "time_per_step", "hi"]).round(2)
    table = table[["objective", "time_per_step", "lo", "hi"]].sort_values("time_per_step", kind="stable")
    print("Time of a step, DPO's being 1: median and quartiles")
    print(table.to_string(index=False))
    table.to_csv(Path(__file__).with_name("objectives.csv"), index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
