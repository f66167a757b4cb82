"""From rows to what is looked at: CSV first, then the figure from that CSV alone, and a manifest."""

import hashlib
import io
import json
import platform
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from didsim import __version__
from didsim.errors import BadDataError, CellsFailedError
from didsim.experiment._pool import in_processes
from didsim.experiment._resolver import Experiment, load_experiment
from didsim.experiment._runner import LIBRARIES, Cell, plan_cells
from didsim.experiment._spec import Spec
from didsim.experiment._store import SCHEMA_VERSION, write_atomic
from didsim.plotting import FORMATS, render

MAX_CSV_BYTES = 100 * 2**20

NUMBERS = {"x", "mean", "lo", "hi"}


def publish(experiment: Experiment, spec: Spec, rows: pd.DataFrame, out: Path) -> list[Path]:
    """Summarise rows, and write the CSV, the figure in all formats and the manifest; return their paths."""
    csv = out / f"{spec.id}.csv"
    with _blaming(f"summarise of {experiment.path} failed"):
        content = experiment.module.summarise(rows).to_csv(index=False, lineterminator="\n").encode()
    write_atomic(csv, content)
    figures = redraw(csv, experiment, spec, FORMATS)
    manifest = out / f"{spec.id}.json"
    write_atomic(manifest, _manifest(spec, caption_of(experiment, spec, csv), content))
    return [*figures, csv, manifest]


def publish_all(
    plans: Sequence[tuple[Experiment, Spec]], out: Path, jobs: int, report: Callable[[Spec], object]
) -> list[Path]:
    """Publish experiments whose cells are all there, several at once if there are many; return the paths in order.

    Args:
        plans: experiments, and their plans as they were run.
        out: the directory of their cells, and of the files to be written.
        jobs: how many processes may work at once.
        report: called with each plan when its files are there.

    Raises:
        CellsFailedError: if a cell is not there, or cannot be read.
        BadDataError: if an experiment cannot summarise or draw its rows.
        ResourceError: if a file cannot be written.

    All other figures are published by then.
    """
    done: dict[int, list[Path]] = {}
    failures: list[BaseException] = []
    calls = [(str(experiment.path), spec, out) for experiment, spec in plans]
    # a few figures are drawn before another process has loaded what it needs
    at_once = in_processes(_publish_file, calls, jobs) if jobs > 1 and len(plans) >= MANY else _one_by_one(calls)
    for number, paths in at_once:
        if isinstance(paths, BaseException):
            failures.append(paths)
        else:
            done[number] = paths
            report(plans[number][1])
    if failures:
        if len(failures) > 1:
            failures[0].args = (f"{failures[0]} ({len(failures) - 1} more could not be published.)",)
        raise failures[0]
    return [path for number in sorted(done) for path in done[number]]


MANY = 8
"""So many figures are worth a process of their own."""


def _one_by_one(calls: Sequence[tuple[str, Spec, Path]]) -> Iterator[tuple[int, list[Path] | Exception]]:
    for number, call in enumerate(calls):
        outcome: list[Path] | Exception
        try:
            outcome = _publish_file(*call)
        except Exception as error:
            outcome = error
        yield number, outcome


def _publish_file(path: str, spec: Spec, out: Path) -> list[Path]:
    experiment = load_experiment(path)
    rows = pd.concat([_rows_of(cell) for cell in plan_cells(experiment, spec, out)], ignore_index=True)
    return publish(experiment, spec, rows, out)


def _rows_of(cell: Cell) -> pd.DataFrame:
    """Return the rows of a cell that has been run; a figure never leaves out one that has been lost since."""
    rows = cell.load()
    if rows is None:
        raise CellsFailedError(
            f"{cell.path} has been removed or damaged since it was run: the same command runs it again."
        )
    return rows


def caption_of(experiment: Experiment, spec: Spec, csv: Path) -> str:
    """Return the caption of a figure, with the numbers of its CSV where the experiment has a function `numbers`.

    `numbers(df)` returns, from the table that is drawn, the words for the fields {name} of the caption.

    Raises:
        BadDataError: if they cannot be found in that CSV.
    """
    numbers = getattr(experiment.module, "numbers", None)
    if numbers is None:
        return spec.caption
    with _blaming(f"{csv} has no numbers for the caption of {spec.id}"):
        return spec.caption.format(**numbers(read_csv(csv)))


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Say which file or function is at fault: the user's experiment or CSV, not didsim."""
    try:
        yield
    except Exception as error:
        raise BadDataError(f"{what}: {type(error).__name__}: {error}") from error


def redraw(csv: Path, experiment: Experiment, spec: Spec, formats: Sequence[str], style: str = "paper") -> list[Path]:
    """Draw a figure from its CSV, beside it; return the paths.

    Raises:
        BadDataError: if the file is missing, empty or not the CSV of this figure.
    """
    frame = read_csv(csv)
    with _blaming(f"{csv} cannot be drawn as {spec.id}"):
        if spec.headline and spec.headline not in set(frame["quantity"]):
            raise ValueError(f"it has no rows of {spec.headline}")
        files = render(
            lambda axes: experiment.module.draw(frame, axes),
            spec.panels,
            spec.size,
            formats,
            style,
            spec.title,
            spec.alt,
        )
    paths = {name: csv.with_suffix(f".{name}") for name in formats}
    for name, content in files.items():
        write_atomic(paths[name], content)
    return list(paths.values())


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV written by `publish`; BadDataError if it cannot be used."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadDataError(f"Cannot read {path}: it is not a file.")
        if path.stat().st_size > MAX_CSV_BYTES:
            raise BadDataError(f"{path} is larger than {MAX_CSV_BYTES // 2**20} MiB.")
        frame = pd.read_csv(io.BytesIO(path.read_bytes()), keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadDataError(f"Cannot read {path}: {error}") from error
    if frame.empty:
        raise BadDataError(f"{path} holds no rows.")
    for column in NUMBERS & set(frame.columns):
        _check_numbers(path, frame, column)
    return frame


def _check_numbers(path: Path, frame: pd.DataFrame, column: str) -> None:
    values = np.asarray(pd.to_numeric(frame[column], errors="coerce"), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = int(bad[0])
        got = frame[column].iloc[row]
        raise BadDataError(f"{path}, line {row + 2}: {column} must be a finite number; got {got!r}.")


def _manifest(spec: Spec, caption: str, csv: bytes) -> bytes:
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "experiment": spec.id,
        "title": spec.title,
        "source": spec.source,
        "caption": caption,
        "alt": spec.alt,
        "parameters": {"axes": spec.axes, "batch": spec.batch, "constants": spec.constants},
        "csv_sha256": hashlib.sha256(csv).hexdigest(),
        "versions": {
            "didsim": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "machine": platform.machine(),
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def headline_table(spec: Spec, csv: Path) -> pd.DataFrame:
    """Return the end of every curve of the headline quantity: figure, panel, series, mean, lo, hi, n."""
    frame = read_csv(csv)
    frame = frame[frame["quantity"] == spec.headline]
    ends = frame.loc[frame.groupby(["panel", "series"], sort=False)["x"].idxmax()]
    columns = ["panel", "series", "mean", "lo", "hi", "n"]
    return ends[columns].assign(figure=spec.id)[["figure", *columns]].reset_index(drop=True)
