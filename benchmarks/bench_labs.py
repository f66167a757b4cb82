"""Time the labs: how long all cells of each take, which bounds what a slider can set off, and how long its figures."""

import argparse
import importlib
import statistics
import time

import torch

from didsim.lessons.labs import LABS, tools


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    drawing, render = [], tools.render

    def timed(*arguments, **settings):
        start = time.perf_counter()
        files = render(*arguments, **settings)
        drawing.append(time.perf_counter() - start)
        return files

    tools.render = timed
    print("lab            all cells   figures")
    for lab in LABS.values():
        app = importlib.import_module(f"didsim.lessons.labs.{lab.path.stem}").app
        app.run()  # warm up
        seconds = []
        drawing.clear()
        for _ in range(options.rounds):
            start = time.perf_counter()
            app.run()
            seconds.append(time.perf_counter() - start)
        figures = len(drawing) // options.rounds
        each = statistics.median(drawing)
        print(f"{lab.name:13s}  {1e3 * statistics.median(seconds):6.0f} ms   {figures} of {1e3 * each:.0f} ms")


if __name__ == "__main__":
    main()
