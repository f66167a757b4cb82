"""Experiments: the plan of a figure, the runner of its cells, and the summaries it is drawn from."""

from didsim.experiment._estimates import BAND, bootstrap_mean, mean_bands, mean_js
from didsim.experiment._pool import in_processes
from didsim.experiment._publish import caption_of, headline_table, publish, publish_all, read_csv, redraw
from didsim.experiment._published import Comparison, compare, published_csv
from didsim.experiment._resolver import MAIN, Experiment, known_experiments, load_experiment
from didsim.experiment._runner import Cell, plan_cells, run_cells
from didsim.experiment._spec import MAX_SEEDS, Spec, seeds
from didsim.experiment._store import output_directory, write_atomic
from didsim.experiment._tuning import (
    KINDS,
    RULES,
    describe,
    grid,
    is_isolated,
    kind_of,
    select_tuned,
    solve_grid,
    spread_over,
    stationary_levels,
    train_grid,
)

__all__ = [
    "BAND",
    "KINDS",
    "MAIN",
    "MAX_SEEDS",
    "RULES",
    "Cell",
    "Comparison",
    "Experiment",
    "Spec",
    "bootstrap_mean",
    "caption_of",
    "compare",
    "describe",
    "grid",
    "headline_table",
    "in_processes",
    "is_isolated",
    "kind_of",
    "known_experiments",
    "load_experiment",
    "mean_bands",
    "mean_js",
    "output_directory",
    "plan_cells",
    "publish",
    "publish_all",
    "published_csv",
    "read_csv",
    "redraw",
    "run_cells",
    "seeds",
    "select_tuned",
    "solve_grid",
    "spread_over",
    "stationary_levels",
    "train_grid",
    "write_atomic",
]
