"""The command line: `didsim COMMAND`. Results go to stdout, progress and messages to stderr."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from didsim import __version__
from didsim._terminal import (
    SCHEMA_VERSION,
    Number,
    Whole,
    common_options,
    emit,
    flag,
    parse_number,
    run,
    say,
    table,
    usage_errors,
)
from didsim.errors import BadDataError

WELCOME = """didsim: a laboratory for the theory of direct preference optimisation.

  didsim list                         what there is
  didsim train dpo --steps 1000       train one policy, and compare it with the truth
  didsim reproduce fig4               make a figure
didsim --help names all commands."""


class ExampleCommand(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write_text(example)


def command(*examples: str, **settings: Any) -> Any:
    """Make a command of the group with examples in its help, and the common options."""

    def decorate(function: Any) -> click.Command:
        return cli.command(cls=ExampleCommand, examples=examples, **settings)(common_options(function))

    return decorate


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="didsim", allow_from_autoenv=False)
@common_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A laboratory for the theory of direct preference optimisation.

    Reproduce the synthetic figures of the papers, train policies where the truth is known, and compare.
    """
    if ctx.invoked_subcommand is None:
        click.echo(WELCOME)


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("didsim-out"),
    show_default=True,
    help="Directory for results; a new one, or one that didsim made.",
)


@command("didsim list figures", "didsim list objectives --json", name="list")
@click.argument("kind", type=click.Choice(["figures", "objectives", "priors", "metrics"]), required=False)
def list_(kind: str | None) -> None:
    """Name what exists: figures, objectives, priors, metrics."""
    kinds = [kind] if kind else ["figures", "objectives", "priors", "metrics"]
    tables = {name: _LISTS[name]() for name in kinds}
    document = {name: [dict(zip(heads, row, strict=True)) for row in rows] for name, (heads, rows) in tables.items()}
    blocks = [(f"{name}\n" if len(kinds) > 1 else "") + table(*content) for name, content in tables.items()]
    emit(document, "\n\n".join(blocks))


def _list_figures() -> tuple[list[str], list[list[object]]]:
    from didsim.experiment import known_experiments, load_experiment

    specs = [load_experiment(name).spec for name in known_experiments()]
    rows: list[list[object]] = [[spec.id, spec.title, spec.source, spec.minutes] for spec in specs]
    return ["name", "shows", "counterpart of", "minutes"], rows


def _list_objectives() -> tuple[list[str], list[list[object]]]:
    from didsim import OBJECTIVES

    return ["name", "title", "loss per pair", "needs", "hyperparameters"], [
        [o.name, o.title, o.formula, " ".join(sorted(o.needs)) or "-", " ".join(o.parameters)]
        for o in OBJECTIVES.values()
    ]


def _list_priors() -> tuple[list[str], list[list[object]]]:
    from didsim import PRIORS

    return ["name", "ζ(y)", "recovers"], [[p.name, p.formula, p.recovers] for p in PRIORS.values()]


def _list_metrics() -> tuple[list[str], list[list[object]]]:
    from didsim import METRICS

    return ["name"], [[name] for name in METRICS]


_LISTS = {
    "figures": _list_figures,
    "objectives": _list_objectives,
    "priors": _list_priors,
    "metrics": _list_metrics,
}


@command("didsim objective simpo", "didsim objective cal_dpo --json")
@click.argument("name")
def objective(name: str) -> None:
    """Explain an objective: its formula, hyperparameters, conventions and source."""
    from didsim.objectives import OBJECTIVES
    from didsim.objectives import objective as bind

    with usage_errors():
        record = bind(name).objective
    assert record is OBJECTIVES[name]
    parameters = [
        {
            "name": key,
            "default": parameter.default,
            "domain": ", ".join(parameter.domain) if isinstance(parameter.domain, tuple) else str(parameter.domain),
            "grid": list(parameter.grid),
            "meaning": parameter.meaning,
        }
        for key, parameter in record.parameters.items()
    ]
    document = {
        "name": record.name,
        "title": record.title,
        "formula": record.formula,
        "source": record.source,
        "needs": sorted(record.needs),
        "parameters": parameters,
        "conventions": list(record.conventions),
    }
    rows = [[p["name"], p["default"], p["domain"], " ".join(map(str, p["grid"])), p["meaning"]] for p in parameters]
    lines = [
        f"{record.name}: {record.title}",
        f"  loss per pair   {record.formula}",
        f"  source          {record.source}",
        f"  needs           {' '.join(sorted(record.needs)) or 'nothing but log π'}",
        *(f"  convention      {text}" for text in record.conventions),
        "",
        table(["hyperparameter", "default", "domain", "grid", "meaning"], rows),
        "",
        "S(z) = −log σ(z);  h = log π − log π_ref;  w chosen, l rejected;  |y| tokens;  nats.",
    ]
    emit(document, "\n".join(lines))


@command("didsim train dpo --steps 1000", "didsim train simpo -S beta=2 -S gamma=0.3 --tau 0.5 --steps 500 --json")
@click.argument("objective")
@click.option("-S", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a hyperparameter.")
@click.option("--world", type=click.Choice(["did"]), default="did", show_default=True, help="Where pairs come from.")
@click.option("--num-classes", type=Whole(1, 4096), default=32, show_default=True, help="Number of classes K.")
@click.option("--tau", type=Number(), default=4.0, show_default=True, help="Temperature of the target, τ.")
@click.option("--problem-seed", type=Whole(0, 2**63 - 1), default=42, show_default=True, help="Seed of the policies.")
@click.option("--seed", type=Whole(0, 2**63 - 1), default=42, show_default=True, help="Seed of the draws.")
@click.option("--steps", type=Whole(1, 10**9), default=6000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=Whole(1, 10**7), default=512, show_default=True, help="Pairs per step.")
@click.option("--learning-rate", type=Number(), default=1e-3, show_default=True, help="Step size.")
@click.option("--schedule", default="constant", show_default=True, help="constant, linear or cosine.")
@click.option("--optimiser", default="rmsprop", show_default=True, help="rmsprop, adam or sgd.")
@click.option("--mode", type=click.Choice(["sampled", "population"]), default="sampled", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--record-every", type=Whole(1, 10**9), default=None, help="Steps between records [steps/10].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory for the record; none is kept without.",
)
def train(
    objective: str,
    settings: tuple[str, ...],
    world: str,
    num_classes: int,
    tau: float,
    problem_seed: int,
    out: Path | None,
    record_every: int | None,
    **options: Any,
) -> None:
    """Train one policy by an objective, and compare it with the truth as it goes."""
    from didsim import Problem
    from didsim import train as train_policy

    with usage_errors():
        loss = _bind(objective, settings)
        problem = Problem.from_temperature(num_classes, tau, problem_seed)
        options["record_every"] = record_every or max(1, options["steps"] // 10)
        history = train_policy(problem, loss, **options)
    document = {
        "objective": loss.name,
        "hyperparameters": dict(loss.hyperparameters),
        "world": {"name": world, "num_classes": num_classes, "tau": tau, "seed": problem_seed},
        "settings": options,
        "status": history.status,
        "records": history.frame.to_dict(orient="records"),
    }
    if out is not None:
        _keep_training(out, loss.name, history, document)
    shown = ["step", "loss", "js_target", "js_did", "kl_target_policy", "margin", "accuracy", "did_entropy"]
    rows = history.frame[shown].to_numpy().tolist()
    text = table(shown, [[int(row[0]), *row[1:]] for row in rows])
    emit(document, f"{loss!r}\n{text}\n{history.status}; quantities in nats")


def _bind(name: str, settings: tuple[str, ...]) -> Any:
    """Bind an objective's hyperparameters, given as NAME=VALUE."""
    from didsim.objectives import objective as bind

    record = bind(name).objective
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"-S takes NAME=VALUE, such as -S beta=2; got {setting!r}.")
        if key in values:
            raise ValueError(f"-S {key} is given twice.")
        domain = record.parameters[key].domain if key in record.parameters else ()
        values[key] = value if isinstance(domain, tuple) else parse_number(key, value, domain)
    return record.bind(**values)


def _keep_training(out: Path, name: str, history: Any, document: dict[str, Any]) -> None:
    from didsim.experiment import output_directory, write_atomic

    with output_directory(out):
        csv = history.frame.to_csv(index=False, lineterminator="\n")
        write_atomic(out / f"train_{name}.csv", csv.encode())
        content = {"schema_version": SCHEMA_VERSION, **document}
        del content["records"]
        write_atomic(out / f"train_{name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    say(f"Wrote {out / f'train_{name}.csv'} and {out / f'train_{name}.json'}.")


@command("didsim reproduce fig4 --quick", "didsim reproduce fig7 --dry-run", "didsim reproduce --dry-run --json")
@click.argument("experiments", nargs=-1, metavar="[ID|FILE.py]...")
@click.option("--all", "every", is_flag=True, help="Make every figure that `didsim list figures` names.")
@click.option("--quick", is_flag=True, help="Fewer seeds and steps, for a first look.")
@click.option("--seeds", type=Whole(1, 10_000), default=None, help="Number of seeds [the figure's own].")
@click.option(
    "--jobs", type=Whole(1, 1024), default=None, help="Processes that work at once [one per core; 1 with --quick]."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@OUT
def reproduce(
    experiments: tuple[str, ...],
    every: bool,
    quick: bool,
    seeds: int | None,
    jobs: int | None,
    dry_run: bool,
    out: Path,
) -> None:
    """Make figures: the main ones (fig1_left, fig1_right, fig7, fig4) unless others are named.

    Interrupted runs continue where they stopped.
    """
    from didsim.experiment import MAIN, known_experiments, load_experiment, plan_cells

    if experiments and every:
        raise click.UsageError("Name figures, or use --all; not both.")
    with usage_errors():
        names = list(dict.fromkeys(experiments)) or list(known_experiments() if every else MAIN)
        loaded = [load_experiment(name) for name in names]
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
    # a quick look is over before a second process has loaded PyTorch
    _reproduce(plans, cells, out, jobs or (1 if quick else _cores()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reproduce(plans: list, cells: dict, out: Path, jobs: int) -> None:
    import pandas as pd
    from tqdm import tqdm

    from didsim.experiment import headline_table, output_directory, publish, run_cells

    started = time.monotonic()
    todo = [cell for group in cells.values() for cell in group]
    paths, tables = [], []
    with output_directory(out):
        hidden = True if flag("quiet") else None  # None: shown on a terminal only
        with tqdm(total=len(todo), unit="cell", file=sys.stderr, disable=hidden) as bar:

            def report(cell: Any, what: str) -> None:
                bar.update(what != "damaged")
                bar.set_postfix_str(f"{cell.experiment.spec.id} {what}"[:60])
                if what == "damaged":
                    say(f"{cell.path} is damaged; it is computed again.")

            run_cells(todo, jobs, report)
        for experiment, spec in plans:
            rows = pd.concat([cell.load() for cell in cells[spec.id]], ignore_index=True)
            paths += publish(experiment, spec, rows, out)
            tables.append(headline_table(spec, out / f"{spec.id}.csv"))
    ends = pd.concat(tables, ignore_index=True)
    document = {"figures": [str(path) for path in paths], "table": ends.to_dict(orient="records")}
    listing = "\n".join(f"  {path}" for path in paths if path.suffix in {".png", ".csv"})
    numbers = table(list(ends.columns), ends.to_numpy().tolist())
    emit(document, f"{numbers}\n\nMeans over n seeds with their 95% intervals, in nats.\n\n{listing}")
    say(f"Done in {time.monotonic() - started:.0f} s.")


@command("didsim plot --help")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--experiment", default=None, help="Whose CSV it is [said by the manifest, or by the file's name].")
@click.option("--style", type=click.Choice(["paper", "slides"]), default="paper", show_default=True)
@click.option("--format", "formats", default="svg,pdf,png", show_default=True, help="Formats, separated by commas.")
def plot(data: Path, experiment: str | None, style: str, formats: str) -> None:
    """Redraw a figure from its CSV alone, beside it."""
    from didsim.experiment import load_experiment, read_csv, redraw
    from didsim.plotting import FORMATS

    wanted = formats.split(",")
    if not set(wanted) <= set(FORMATS):
        raise click.UsageError(f"--format takes {', '.join(FORMATS)}, separated by commas; got {formats!r}.")
    read_csv(data)
    with usage_errors():
        loaded = load_experiment(experiment or _experiment_of(data))
    paths = redraw(data, loaded, loaded.spec, wanted, style)
    emit({"figures": [str(path) for path in paths]}, "\n".join(str(path) for path in paths))


def _experiment_of(data: Path) -> str:
    """Read the experiment's name from the manifest beside a CSV; without one, the file's name stands for it."""
    manifest = data.with_suffix(".json")
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))["experiment"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        said = None
    name = said if isinstance(said, str) else data.stem
    if name.endswith(".py"):  # data may name an experiment, not a file of code
        raise BadDataError(
            f"{data} names the file {name} as its experiment. Give it with --experiment if you trust it."
        )
    return name


@command("didsim env", "didsim env --json")
def env() -> None:
    """Show versions and the machine, for a bug report."""
    from importlib.metadata import version

    import torch

    from didsim.experiment import known_experiments

    document = {
        "didsim": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "torch", "pandas", "matplotlib", "click")},
        "platform": platform.platform(),
        "cores": _cores(),
        "cuda": torch.cuda.is_available(),
        "figures": len(known_experiments()),
    }
    emit(document, table(["", ""], [[key, str(value)] for key, value in document.items()]).strip())


def main() -> NoReturn:
    """Run the command line."""
    run(cli)
