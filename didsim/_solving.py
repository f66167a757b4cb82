"""The command `didsim solve`: where an objective ends, for one setting of its hyperparameters or for a grid."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import click

from didsim._arguments import (
    SETTINGS,
    build_problem,
    describe_world,
    find_objective,
    read_settings,
    read_value,
    take_shape,
    world_options,
)
from didsim._checks import POSITIVE, check_choice, parse_number
from didsim._terminal import SCHEMA_VERSION, Whole, command_with_examples, emit, flag, say, usage_errors

MOST_COMBINATIONS = 10_000

AT_ONCE, NUMBERS_AT_ONCE = 256, 2**24
"""So many combinations, and numbers in their tables of pairs, are solved in one batch."""


@command_with_examples(
    "didsim solve simpo -S beta=2 -S gamma=0.3 --tau 0.5",
    "didsim solve dpo --grid beta=0.1,0.5,1 --grid tau=0.5,2 --num-classes 8",
    "didsim solve dpo --pairs 20 --num-classes 8 --json",
)
@click.argument("objective")
@SETTINGS
@world_options
@click.option("--pairs", type=Whole(1, 10**7), default=None, help="Solve for so many drawn pairs [the population].")
@click.option(
    "--seed",
    type=Whole(0, 2**63 - 1),
    default=42,
    show_default=True,
    help="Seed of the drawn pairs and the random starts.",
)
@click.option("--starts", type=Whole(1, 1000), default=3, show_default=True, help="From so many starts.")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="NAME=V1,V2,...|search",
    help="Solve for each of these values, and for all combinations of several grids. tau is the temperature of the "
    "target, unless the objective has a hyperparameter tau. search: the objective's own search grid.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory for the numbers and a picture; none is kept without.",
)
def solve(
    objective: str,
    settings: tuple[str, ...],
    pairs: int | None,
    seed: int,
    starts: int,
    grids: tuple[str, ...],
    out: Path | None,
    **options: Any,
) -> None:
    """Find the stationary policy at which training by an objective ends, to machine precision, with a certificate.

    It stands beside the reference π_ref, the target π*, the rejected distribution π_l and the differential
    information q; -v shows all responses. That there is no stationary policy is a result too.
    """
    with usage_errors():
        record = find_objective(objective)
        fixed, shape = read_settings(record, settings), take_shape(options)
        task = Task(record, fixed, shape, read_grid(record, fixed, grids) if grids else None, pairs, seed, starts)
        jobs = task.jobs()
        solutions = solve_all(jobs, task)
    told = {"objective": record.name, "world": describe_world(shape, jobs[0][0]), **task.settings()}
    _tell(told, task, solutions, out)


@dataclass(frozen=True)
class Grid:
    """Combinations of values.

    Attributes:
        axes: the names that vary, in the order in which they were given.
        points: the values of each combination; a name that its options leave unread is missing.
    """

    axes: tuple[str, ...]
    points: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Task:
    """What is to be solved.

    Attributes:
        record: the objective.
        fixed: hyperparameters that were set.
        shape: the options that describe the world.
        grid: the combinations of a grid, or None.
        pairs: the number of pairs of a dataset, or None for the population.
        seed: of the pairs and the random starts.
        starts: the number of starts.
    """

    record: Any
    fixed: dict[str, Any]
    shape: dict[str, Any]
    grid: Grid | None
    pairs: int | None
    seed: int
    starts: int

    def jobs(self) -> list[tuple[Any, Any]]:
        """Return a problem and a bound objective for each combination; equal problems are one object."""
        problems: dict[float | None, Any] = {}
        jobs = []
        for point in self.grid.points if self.grid else ({},):
            values = {**self.fixed, **point}
            tau = self.shape["tau"] if "tau" in self.record.parameters else values.pop("tau", self.shape["tau"])
            if tau not in problems:
                problems[tau] = build_problem({**self.shape, "tau": tau})
            jobs.append((problems[tau], self.record.bind(**values)))
        return jobs

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as parts of a document."""
        return {"pairs": self.pairs, "seed": self.seed, "starts": self.starts}


def read_grid(record: Any, fixed: dict[str, Any], texts: tuple[str, ...]) -> Grid:
    """Read the --grid options: NAME=V1,V2,... each, or the word search."""
    axes, searched = {}, False
    for text in texts:
        name, equals, values = text.partition("=")
        if text == "search" and not searched:
            searched = True
            continue
        if not equals or not name:
            raise ValueError(f"--grid takes NAME=V1,V2,... such as --grid beta=0.1,1, or search once; got {text!r}.")
        if name in axes or name in fixed:
            raise ValueError(f"{name} is given twice: set it once, with --grid or with -S.")
        axes[name] = _read_axis(record, name, values)
    if (searched and set(axes) - {"tau"}) or (searched and "tau" in axes and "tau" in record.parameters):
        raise ValueError("--grid search names all hyperparameters; beside it only the temperature tau has a grid.")
    search = _search_grid(record, fixed) if searched else [{}]
    count = len(search) * prod(map(len, axes.values()))
    if count > MOST_COMBINATIONS:
        raise ValueError(f"--grid makes at most {MOST_COMBINATIONS} combinations; these are {count}.")
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    points = tuple({**point, **values} for point in search for values in combinations)
    return Grid(tuple(dict.fromkeys([*_varying(search), *axes])) or tuple(search[0])[:1], points)


def _read_axis(record: Any, name: str, text: str) -> list[Any]:
    """Read the values of one grid."""
    check_choice("the name of a --grid", name, list(dict.fromkeys([*record.parameters, "tau"])))
    texts = text.split(",")
    hint = "Commas separate values; decimals take a point."
    if not all(part.strip() for part in texts):
        raise ValueError(f"--grid {name} takes values separated by commas, none of them empty; got {text!r}. {hint}")
    try:
        if name in record.parameters:
            parameter = record.parameters[name]
            values = [parameter.check(name, read_value(name, part, parameter)) for part in texts]
        else:
            values = [parse_number(name, part, POSITIVE) for part in texts]
    except ValueError as error:
        raise ValueError(f"--grid {name}={text}: {error} {hint}") from error
    if len(set(values)) < len(values):
        raise ValueError(f"--grid {name} names a value twice; got {text!r}. {hint}")
    return values


def _search_grid(record: Any, fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points of the objective's own grid that have the values which were set."""
    record.bind(**fixed)
    points = [point for point in record.grid() if all(point.get(name) == value for name, value in fixed.items())]
    if not points:
        set_ = ", ".join(f"{name}={value}" for name, value in fixed.items())
        raise ValueError(f"No point of the search grid of {record.name} has {set_}. `didsim objective` shows the grid.")
    return points


def _varying(points: list[dict[str, Any]]) -> list[str]:
    """Return the names that have several values, one of which may be that they are unread; those of numbers first."""
    names = list(dict.fromkeys(name for point in points for name in point))
    varying = [name for name in names if len({point.get(name) for point in points}) > 1]
    return sorted(varying, key=lambda name: any(isinstance(point.get(name), str | bool) for point in points))


def solve_all(jobs: list[tuple[Any, Any]], task: Task) -> list[Any]:
    """Solve all jobs, in batches, and say on a terminal how far it is."""
    from tqdm import tqdm

    from didsim.stationary import solve_many

    solutions: dict[int, Any] = {}
    hidden = True if flag("quiet") or len(jobs) == 1 else None  # None: shown on a terminal only
    with tqdm(total=len(jobs), unit="policy", file=sys.stderr, disable=hidden) as bar:
        for numbers, dataset in _batches(jobs, task):
            batch = [jobs[number] for number in numbers]
            found = solve_many(batch, dataset=dataset, starts=task.starts, seed=task.seed)
            solutions.update(zip(numbers, found, strict=True))
            bar.update(len(batch))
    return [solutions[number] for number in range(len(jobs))]


def _batches(jobs: list[tuple[Any, Any]], task: Task) -> Iterator[tuple[list[int], Any]]:
    """Yield the numbers of jobs that are solved together, and their pairs: those of one problem, or the population."""
    problem = jobs[0][0]
    size = min(AT_ONCE, max(1, NUMBERS_AT_ONCE // (task.starts * problem.num_prompts * problem.num_classes**2)))
    for group in [list(range(len(jobs)))] if task.pairs is None else _by_problem(jobs):
        dataset = None if task.pairs is None else draw_pairs(*jobs[group[0]], task.pairs, task.seed)
        yield from ((group[first : first + size], dataset) for first in range(0, len(group), size))


def _by_problem(jobs: list[tuple[Any, Any]]) -> Iterable[list[int]]:
    groups: dict[int, list[int]] = {}
    for number, (problem, _) in enumerate(jobs):
        groups.setdefault(id(problem), []).append(number)
    return groups.values()


def draw_pairs(problem: Any, loss: Any, pairs: int, seed: int) -> Any:
    """Draw the pairs that `didsim.train(mode="dataset", dataset=pairs, seed=seed)` would run through."""
    from didsim.engine import Settings, plan_runs

    settings = Settings(mode="dataset", dataset=pairs, seed=seed, metrics=(), dtype="float64")
    return plan_runs([(problem, loss)], settings).streams[0].dataset


def _tell(told: dict[str, Any], task: Task, solutions: list[Any], out: Path | None) -> None:
    """Print the result, and keep it where that was asked for."""
    from didsim import _findings as findings

    if task.grid is None:
        [solution] = solutions
        drawn = None if task.pairs is None else draw_pairs(solution.problem, solution.loss, task.pairs, task.seed)
        data = findings.pairs_of(solution.problem, told["world"], drawn)
        document = told | findings.document(solution, data)
        text, name = findings.text(document, solution, everything=flag("verbose")), task.record.name
        frame = findings.frame(solution)
    else:
        rows = findings.grid_rows(task.grid.axes, task.grid.points, solutions)
        document = told | {"fixed": task.fixed, "axes": list(task.grid.axes), "rows": rows}
        text, name = findings.grid_text(task.grid.axes, rows), f"{task.record.name}_grid"
        frame = findings.grid_frame(task.record.name, task.grid.axes, rows, "tau" in task.record.parameters)
    document = findings.without_infinities(document)
    if out is not None:
        _keep(out, f"solve_{name}", frame, document)
    emit(document, text)


def _keep(out: Path, name: str, frame: Any, document: dict[str, Any]) -> None:
    """Write the numbers, then the picture from them, then all that was found."""
    from didsim._pictures import describe, redraw_solution
    from didsim.experiment import output_directory, write_atomic
    from didsim.plotting import FORMATS

    csv = out / f"{name}.csv"
    with output_directory(out):
        write_atomic(csv, frame.to_csv(index=False, lineterminator="\n").encode())
        paths = redraw_solution(csv, FORMATS)
        content = {"schema_version": SCHEMA_VERSION, "experiment": "solve", **describe(csv), **document}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(csv.with_suffix(".json"), (text + "\n").encode())
    say(f"Wrote {', '.join(str(path) for path in (csv, *paths))} and {csv.with_suffix('.json')}.")
