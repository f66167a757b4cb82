"""The command `didsim reproduce`: make figures, from their plans to their files."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from didsim._terminal import OUT, Whole, command_with_examples, emit, flag, say, table, usage_errors

MOST_ROWS, FEW = 20, 6
"""Of each figure so many rows are shown when it is made, if there are so few figures."""

IN_NATS = ("js", "kl", "entropy")
"""How the names of quantities begin whose unit is said; others are rates, ranks, or an experiment's own."""


@command_with_examples(
    "didsim reproduce fig4 --quick", "didsim reproduce fig7 --dry-run", "didsim reproduce --dry-run --json"
)
@click.argument("experiments", nargs=-1, metavar="[ID|FILE.py]...")
@click.option("--all", "every", is_flag=True, help="Make every figure that `didsim list figures` names.")
@click.option("--quick", is_flag=True, help="Fewer seeds and steps, for a first look.")
@click.option("--seeds", type=Whole(1, 10_000), default=None, help="Number of seeds [the figure's own].")
@click.option(
    "--jobs",
    type=Whole(1, 1024),
    default=None,
    help="Processes that work at once [one per core; 1 with --quick but for --all].",
)
@click.option("--check", is_flag=True, help="Compare with the published numbers; exit code 1 if some are others.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@OUT
def reproduce(
    experiments: tuple[str, ...],
    every: bool,
    quick: bool,
    seeds: int | None,
    jobs: int | None,
    check: bool,
    dry_run: bool,
    out: Path,
) -> None:
    """Make figures: the main ones (fig1_left, fig1_right, fig7, fig4) unless others are named.

    Interrupted runs continue where they stopped.
    """
    from didsim.experiment import MAIN, known_experiments, load_experiment, plan_cells, published_csv

    if experiments and every:
        raise click.UsageError("Name figures, or use --all; not both.")
    if check and (quick or seeds or dry_run):
        raise click.UsageError("--check goes without --quick, --seeds and --dry-run: the full plan was published.")
    with usage_errors():
        names = list(dict.fromkeys(experiments)) or list(known_experiments() if every else MAIN)
        loaded = [load_experiment(name) for name in names]
        _refuse_taken_ids(loaded, known_experiments())
        if every:
            loaded = [item for item in loaded if not _left_out(item.spec.id, item.spec.extra)]
        published = {item.spec.id: published_csv(item) for item in loaded} if check else {}
        plans = [(item, item.spec.version(quick=quick, num_seeds=seeds)) for item in loaded]
    ids = [spec.id for _, spec in plans]
    if len(set(ids)) < len(ids):
        raise click.UsageError(f"Two experiments have the same id: {', '.join(sorted(ids))}. Run them one at a time.")
    cells = {spec.id: plan_cells(item, spec, out) for item, spec in plans}
    if dry_run:
        rows = [
            [spec.id, len(cells[spec.id]), sum(c.path.exists() for c in cells[spec.id]), spec.minutes]
            for _, spec in plans
        ]
        heads = ["figure", "cells", "done", "minutes (full, two cores)"]
        document = {
            "dry_run": True,
            "out": str(out),
            "figures": [dict(zip(heads, row, strict=True)) for row in rows],
        }
        emit(document, table(heads, rows) + f"\nNothing was written; results would go to {out}.")
        return
    # a quick look at a few figures is over before a second process has loaded PyTorch
    _reproduce(plans, cells, out, jobs or (1 if quick and not every else cores()), published)


def _refuse_taken_ids(loaded: Iterable[Any], known: Mapping[str, Path]) -> None:
    """Refuse a changed copy of a figure that comes with didsim: it would replace that figure's files."""
    for item in loaded:
        name = item.spec.id
        if name in known and item.path.read_bytes() != known[name].read_bytes():
            raise ValueError(f"{item.path} has the id of {known[name]}, {name}. Give its SPEC an id of its own.")


def _left_out(name: str, extra: str) -> bool:
    """Return whether a figure cannot be made here, and say so."""
    from didsim._extras import missing

    lacking = missing(extra)
    if lacking:
        say(f"{name} is left out: it needs {lacking[0]}: pip install 'didsim[{extra}]'")
    return bool(lacking)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reproduce(plans: list, cells: dict, out: Path, jobs: int, published: Mapping[str, Path]) -> None:
    import pandas as pd
    from tqdm import tqdm

    from didsim.experiment import compare, headline_table, output_directory, publish_all, run_cells

    started = time.monotonic()
    todo = [cell for group in cells.values() for cell in group]
    with output_directory(out):
        hidden = True if flag("quiet") else None  # None: shown on a terminal only
        with tqdm(total=len(todo), unit="cell", file=sys.stderr, disable=hidden) as bar:

            def report(cell: Any, what: str) -> None:
                bar.update(what != "damaged")
                bar.set_postfix_str(f"{cell.experiment.spec.id} {what}"[:60])
                if what == "damaged":
                    say(f"{cell.path} is damaged; it is computed again.")

            run_cells(todo, jobs, report)
        with tqdm(total=len(plans), unit="figure", file=sys.stderr, disable=hidden) as bar:
            paths = publish_all(plans, out, jobs, lambda _: bar.update())
        tables = [headline_table(spec, out / f"{spec.id}.csv") for _, spec in plans]
    for (_, spec), ends in zip(plans, tables, strict=True):
        ends.insert(1, "quantity", spec.headline)
    ends = pd.concat(tables, ignore_index=True)
    document = {"figures": [str(path) for path in paths], "table": ends.to_dict(orient="records")}
    listing = "\n".join(f"  {path}" for path in paths if path.suffix in {".png", ".csv"})
    numbers = _numbers(ends) if len(plans) <= FEW else f"{len(plans)} figures; their numbers are in the CSVs."
    checked = {name: compare(out / f"{name}.csv", path) for name, path in published.items()}
    if checked:
        document["check"] = {name: {"agrees": one.agrees, "words": one.words} for name, one in checked.items()}
        listing += "\n\n" + "\n".join(f"{name} {one.words}" for name, one in checked.items())
    emit(document, f"{numbers}\n\n{listing}")
    say(f"Done in {time.monotonic() - started:.0f} s.")
    if not all(one.agrees for one in checked.values()):
        click.get_current_context().exit(1)


def _numbers(ends: Any) -> str:
    """Return a table of the ends of curves."""
    shown = ends.groupby("figure", sort=False).head(MOST_ROWS)
    numbers = table(list(ends.columns), shown.to_numpy().tolist())
    if len(shown) < len(ends):
        numbers += f"\n\nOf each figure the first {MOST_ROWS} rows; the others are in its CSV."
    nats = [name for name in shown["quantity"].unique() if name.startswith(IN_NATS)]
    unit = f"; {', '.join(nats)} in nats" if nats else ""
    return f"{numbers}\n\nMeans over n seeds with their 95% intervals{unit}."
