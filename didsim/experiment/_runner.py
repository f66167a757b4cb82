"""Running the cells of experiments: in parallel, resumable, each with one thread whatever the number of jobs."""

import ast
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import didsim
from didsim.errors import CellsFailedError
from didsim.experiment._pool import in_processes
from didsim.experiment._resolver import Experiment, load_experiment
from didsim.experiment._spec import Spec
from didsim.experiment._store import cell_key, decode_cell, encode_cell, write_atomic
from didsim.torch_bridge import threads

LIBRARIES = ("numpy", "scipy", "torch", "pandas", "matplotlib")

Params = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One batch of runs to be done: the unit of hash, file, resume and job."""

    experiment: Experiment
    params: Params
    path: Path

    def load(self) -> pd.DataFrame | None:
        """Return the stored rows; None if there are none, or if they are damaged."""
        return decode_cell(self.path.read_bytes()) if self.path.is_file() else None


def plan_cells(experiment: Experiment, spec: Spec, out: Path) -> list[Cell]:
    """Return the cells of an experiment, with the places of their files."""
    code = code_version() + computing_source(experiment.path)
    folder = out / "cells" / spec.id
    return [Cell(experiment, params, folder / f"{cell_key(spec.id, params, code)}.json.gz") for params in spec.cells()]


def computing_source(path: Path) -> str:
    """Return the part of an experiment file that its cells depend on: all but the plan and what becomes of rows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if not _AFTERWARDS & _names(node)]
    return ast.unparse(ast.Module(kept, type_ignores=[]))


_AFTERWARDS = {"SPEC", "summarise", "draw", "numbers"}


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement of a module defines, as far as an experiment file goes."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}


@cache
def code_version() -> str:
    """Return a digest of all code and libraries that a cell's numbers may depend on.

    Left out are the command line and the drawing: changing them does not make results stale.
    """
    package = Path(didsim.__file__).parent
    digest = hashlib.sha256(repr([platform.machine(), *(version(name) for name in LIBRARIES)]).encode())
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0]
        if part not in {"plotting", "lessons", "cli.py", "_reproducing.py", "_experiments", "__init__.py"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_cells(cells: Sequence[Cell], jobs: int, report: Callable[[Cell, str], None]) -> None:
    """Run the cells that are not done yet, and store each as it finishes.

    Args:
        cells: the cells, of one experiment or of several.
        jobs: how many processes may work at once; with 1 everything runs in this one.
        report: called for each cell with what happened: "done before", "damaged", "done" or an error.

    Raises:
        CellsFailedError: if some cells failed; all others are done by then.
        ResourceError: if a result cannot be written.
    """
    pending = []
    for cell in cells:
        if cell.load() is not None:
            report(cell, "done before")
        else:
            if cell.path.exists():
                report(cell, "damaged")
            pending.append(cell)
    failures = []
    for cell, outcome in _run_in_process(pending) if min(jobs, len(pending)) <= 1 else _run_in_pool(pending, jobs):
        if isinstance(outcome, BaseException):
            failures.append(f"{cell.experiment.spec.id} {_short(cell.params)}: {outcome!r}")
            report(cell, failures[-1])
        else:
            write_atomic(cell.path, outcome)
            report(cell, "done")
    if failures:
        raise CellsFailedError(
            f"{len(failures)} of {len(cells)} cells failed; the first: {failures[0]}. "
            "The others are kept: the same command runs only what is missing."
        )


Outcome = tuple[Cell, bytes | BaseException]


def _run_in_process(cells: Sequence[Cell]) -> Iterator[Outcome]:
    for cell in cells:
        try:
            yield cell, _run(cell.experiment, cell.params)
        except (Exception, SystemExit) as error:  # an experiment that calls sys.exit has failed like any other
            yield cell, error


def _run_in_pool(cells: Sequence[Cell], jobs: int) -> Iterator[Outcome]:
    calls = [(str(cell.experiment.path), cell.params) for cell in cells]
    for number, outcome in in_processes(_run_file, calls, jobs):
        yield cells[number], outcome


def _run_file(path: str, params: Params) -> bytes:
    return _run(load_experiment(path), params)


def _run(experiment: Experiment, params: Params) -> bytes:
    with threads(1):
        return encode_cell(experiment.module.run_cell(dict(params)))


def _short(params: Params) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items() if not isinstance(value, list | tuple))
