"""The command line: `didsim COMMAND`. Results go to stdout, progress and messages to stderr."""

import io
import json
import platform
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import click

from didsim import __version__
from didsim._arguments import (
    SETTINGS,
    build_problem,
    describe_world,
    find_objective,
    read_free_settings,
    read_settings,
    take_shape,
    world_options,
)
from didsim._catalogue import LISTS, explain
from didsim._language_models import llm
from didsim._reproducing import cores, reproduce
from didsim._solving import solve
from didsim._teaching import teach
from didsim._terminal import (
    SCHEMA_VERSION,
    Number,
    Whole,
    command_with_examples,
    common_options,
    emit,
    run,
    say,
    table,
    usage_errors,
)
from didsim._verifying import verify
from didsim.errors import BadDataError

WELCOME = """didsim: a laboratory for the theory of direct preference optimisation.

  didsim list                         what there is
  didsim train dpo --steps 1000       train one policy, and compare it with the truth
  didsim reproduce fig4               make a figure
didsim --help names all commands."""


def command(*examples: str, **settings: Any) -> Any:
    """Make a command of the group with examples in its help, and the common options."""

    def decorate(function: Any) -> click.Command:
        made = command_with_examples(*examples, **settings)(function)
        cli.add_command(made)
        return made

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


cli.add_command(solve)
cli.add_command(verify)
cli.add_command(reproduce)
cli.add_command(llm)
cli.add_command(teach)


@command("didsim list figures", "didsim list objectives --json", name="list")
@click.argument("kind", type=click.Choice(list(LISTS)), required=False)
def list_(kind: str | None) -> None:
    """Name what exists: figures, claims, objectives by what they need, priors, metrics, worlds, lessons."""
    kinds = [kind] if kind else list(LISTS)
    lists = {name: LISTS[name]() for name in kinds}
    blocks = [(f"{name}\n" if len(kinds) > 1 else "") + text for name, (_, text) in lists.items()]
    emit({name: rows for name, (rows, _) in lists.items()}, "\n\n".join(blocks))


@command("didsim objective simpo", "didsim objective cal_dpo --json")
@click.argument("name")
def objective(name: str) -> None:
    """Explain an objective: formula, hyperparameters, conventions, source, and what libraries compute by that name."""
    with usage_errors():
        record = find_objective(name)
    emit(*explain(record))


@command(
    "didsim train dpo --steps 1000",
    "didsim train simpo -S beta=2 -S gamma=0.3 --tau 0.5 --steps 500 --json",
    "didsim train tdpo2 --vocabulary 3 --max-length 3 --num-prompts 2 --steps 500",
)
@click.argument("objective")
@SETTINGS
@world_options
@click.option("--seed", type=Whole(0, 2**63 - 1), default=42, show_default=True, help="Seed of the draws.")
@click.option("--steps", type=Whole(1, 10**9), default=6000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=Whole(1, 10**7), default=512, show_default=True, help="Pairs per step.")
@click.option("--learning-rate", type=Number(), default=1e-3, show_default=True, help="Step size.")
@click.option("--schedule", default="constant", show_default=True, help="constant, linear or cosine.")
@click.option("--optimiser", default="rmsprop", show_default=True, help="rmsprop, adam or sgd.")
@click.option("--mode", type=click.Choice(["sampled", "population"]), default="sampled", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--trust-region", type=Number(), default=None, help="Bound on KL(ζ‖π_ref) of a learned prior.")
@click.option("--rounds", type=Whole(1, 10_000), default=1, show_default=True, help="DICE: the policy becomes π_ref.")
@click.option("--relabel", type=Whole(1, 10**7), default=None, help="DICE: draw and label so many pairs anew.")
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
    rounds: int,
    relabel: int | None,
    out: Path | None,
    record_every: int | None,
    **options: Any,
) -> None:
    """Train one policy by an objective, and compare it with the truth as it goes.

    The objective is one that `didsim list objectives` names, or a function of pairs of your own, MODULE:FUNCTION or
    FILE.py:FUNCTION, whose file is run.
    """
    import pandas as pd

    from didsim import dice

    with usage_errors():
        record = find_objective(objective)
        loss = record.bind(**read_settings(record, settings))
        shape = take_shape(options)
        problem = build_problem(shape)
        options["record_every"] = record_every or max(1, options["steps"] // 10)
        histories = dice(problem, loss, rounds=rounds, relabel=relabel, **options)
    frames = [history.frame.assign(round=number) for number, history in enumerate(histories, 1)]
    frame = pd.concat(frames, ignore_index=True) if rounds > 1 else histories[0].frame
    settings_given = {**options, "rounds": rounds, "relabel": relabel}
    document = {
        "objective": loss.name,
        "hyperparameters": dict(loss.hyperparameters),
        "world": describe_world(shape, problem),
        "settings": {name: value for name, value in settings_given.items() if value is not None},
        "status": histories[-1].status,
        "records": frame.to_dict(orient="records"),
    }
    if out is not None:
        _keep_training(out, loss.name, frame, document)
    shown = [name for name in SHOWN if name in frame and (name != "mutual_information" or problem.num_prompts > 1)]
    rows = [
        [int(value) if name in WHOLE_COLUMNS else value for name, value in zip(shown, row, strict=True)]
        for row in frame[shown].to_numpy().tolist()
    ]
    emit(document, f"{loss!r}\n{table(shown, rows)}\n{histories[-1].status}; quantities in nats")


SHOWN = (
    *("round", "step", "loss", "js_target", "js_did", "kl_target_policy", "margin", "accuracy", "did_entropy"),
    "mutual_information",
)
WHOLE_COLUMNS = ("round", "step")


def _keep_training(out: Path, name: str, frame: Any, document: dict[str, Any]) -> None:
    from didsim.experiment import output_directory, write_atomic

    with output_directory(out):
        csv = frame.to_csv(index=False, lineterminator="\n")
        write_atomic(out / f"train_{name}.csv", csv.encode())
        content = {"schema_version": SCHEMA_VERSION, **document}
        del content["records"]
        write_atomic(out / f"train_{name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    say(f"Wrote {out / f'train_{name}.csv'} and {out / f'train_{name}.json'}.")


@command("didsim plot --help")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--experiment", default=None, help="Whose CSV it is [said by the manifest, or by the file's name].")
@click.option("--style", type=click.Choice(["paper", "slides"]), default="paper", show_default=True)
@click.option("--format", "formats", default="svg,pdf,png", show_default=True, help="Formats, separated by commas.")
def plot(data: Path, experiment: str | None, style: str, formats: str) -> None:
    """Redraw a figure, or a picture of `didsim solve`, from its CSV alone, beside it."""
    from didsim.experiment import load_experiment, read_csv, redraw
    from didsim.plotting import FORMATS

    wanted = formats.split(",")
    if not set(wanted) <= set(FORMATS):
        raise click.UsageError(f"--format takes {', '.join(FORMATS)}, separated by commas; got {formats!r}.")
    read_csv(data)
    name = experiment or _experiment_of(data)
    if name == SOLVED:
        from didsim._pictures import redraw_solution

        paths = redraw_solution(data, wanted, style)
    else:
        with usage_errors():
            loaded = load_experiment(name)
        paths = redraw(data, loaded, loaded.spec, wanted, style)
    emit({"figures": [str(path) for path in paths]}, "\n".join(str(path) for path in paths))


SOLVED = "solve"
"""What the manifests of `didsim solve` name in place of an experiment."""


def _experiment_of(data: Path) -> str:
    """Read the experiment's name from the manifest beside a CSV; without one, the file's name stands for it."""
    manifest = data.with_suffix(".json")
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))["experiment"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        said = None
    name = said if isinstance(said, str) else SOLVED if data.stem.startswith(f"{SOLVED}_") else data.stem
    if name.endswith(".py"):  # data may name an experiment, not a file of code
        raise BadDataError(
            f"{data} names the file {name} as its experiment. Give it with --experiment if you trust it."
        )
    return name


@command(
    "didsim check-loss didsim.doctor:example_loss",
    "didsim check-loss didsim.doctor:example_loss -S beta=0.5 --json",
    name="check-loss",
)
@click.argument("target", metavar="MODULE:FUNCTION|FILE.py:FUNCTION")
@SETTINGS
@click.option("--objective", default=None, help="The objective that it is meant to be [said by its name, or any].")
def check_loss(target: str, settings: tuple[str, ...], objective: str | None) -> None:
    """Examine a preference loss before training with it, and say in words what is wrong.

    The function takes tensors of log-probabilities and lengths by name (policy_chosen_logps, log_ref_rejected,
    length_chosen, ...), or one argument called pairs. Modules are looked for in the current directory first.
    Importing a module runs it: name only code that you would run.

    Ends with 1 if a problem is found.
    """
    from didsim.doctor import check_loss as examine
    from didsim.doctor import load_loss

    # what the user's code prints is no part of the result
    with usage_errors(), redirect_stdout(io.StringIO()), load_loss(target) as function:
        report = examine(function, objective=objective, **read_free_settings(settings))
    emit(report.document(), str(report))
    if not report.ok:
        click.get_current_context().exit(1)


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
        "cores": cores(),
        "cuda": torch.cuda.is_available(),
        "figures": len(known_experiments()),
    }
    emit(document, table(["", ""], [[key, str(value)] for key, value in document.items()]).strip())


def main() -> NoReturn:
    """Run the command line."""
    run(cli)
