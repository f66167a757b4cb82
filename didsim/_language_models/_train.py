"""The command `didsim llm train`: a language model trained with any objective."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from didsim._arguments import SETTINGS, find_objective, read_settings
from didsim._language_models._configuration import as_toml, merged_settings, take_configuration
from didsim._language_models._options import HUB, ON_BAD_ROW
from didsim._terminal import SCHEMA_VERSION, Number, Whole, command_with_examples, emit, flag, say, table, usage_errors
from didsim.errors import BadDataError, ResourceError

MANIFEST, STATE = "didsim.json", "trainer_state.json"

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft")

COLUMNS = {
    "step": "step",
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "log π(y_w)",
    "displacement/chosen_share": "chosen fell",
    "grad_norm": "grad norm",
}
"""What of a log is shown, and under which heads."""

SHOWN = 12
"""So many steps are shown, unless all are asked for."""


@command_with_examples(
    "didsim llm train config.toml --out run1",
    "didsim llm train --model model --data pairs.jsonl --objective simpo -S gamma=0.3 --steps 4 --out run2",
    "didsim llm train config.toml --lora 8 --out run3 --dry-run",
)
@click.argument("configuration", metavar="[CONFIG.toml]", required=False, is_eager=True,
                type=click.Path(path_type=Path), callback=take_configuration)  # fmt: skip
@click.option("--model", required=True, help="The model to train: a folder.")
@click.option("--reference", default=None, help="π_ref, a folder [the model as it is before training].")
@click.option("--data", required=True, help="Pairs: a JSON-lines file, or a folder that datasets saved.")
@click.option(
    "--objective", required=True, help="An objective that `didsim list objectives` names, or FILE.py:FUNCTION."
)
@SETTINGS
@click.option("--out", type=click.Path(), required=True, help="Folder for the model, a new one or an empty one.")
@click.option("--steps", type=Whole(1, 10**9), default=None, help="Optimiser steps [by epochs].")
@click.option("--epochs", type=Number(), default=1.0, show_default=True, help="Passes through the data.")
@click.option("--learning-rate", type=Number(), default=1e-6, show_default=True, help="Step size.")
@click.option("--batch-size", type=Whole(1, 10**5), default=8, show_default=True, help="Pairs on each device.")
@click.option("--accumulate", type=Whole(1, 10**5), default=1, show_default=True, help="So many batches make a step.")
@click.option(
    "--max-length", type=Whole(2, 10**7), default=1024, show_default=True, help="Tokens of prompt and response."
)
@click.option("--lora", type=Whole(0, 10**5), default=0, show_default=True, metavar="RANK",
              help="Train an adapter of this rank on all linear layers; 0: the model.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
              help="Compute in it; weights and optimiser are float32.")  # fmt: skip
@click.option("--seed", type=Whole(0, 2**32 - 1), default=42, show_default=True, help="Seed of the order of the pairs.")
@ON_BAD_ROW
@HUB
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in --out, if there is one.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, as TOML that can be kept; write nothing.")
def train(configuration: dict[str, Any], objective: str, settings: tuple[str, ...], out: str, resume: bool,
          dry_run: bool, **options: Any) -> None:  # fmt: skip
    """Train a language model with any objective of the laboratory, through TRL's trainer.

    A file of settings has the names of the options (learning_rate = 1e-6), a table [set] of hyperparameters, and a
    table [training] of other fields of trl.DPOConfig. Flags come first, then variables of the environment such as
    DIDSIM_LLM_TRAIN_STEPS, then the file. Paths are seen from the current directory.

    Checkpoints are written every 500 steps (save_steps in [training]) and at the end.
    """
    _choose_length(options)
    with usage_errors():
        record = find_objective(objective)
        loss = record.bind(**read_settings(record, merged_settings(settings, configuration.get("set", {}))))
        from didsim.llm import Run, load_pairs, without_chatter

        run = Run(objective=loss, training=configuration.get("training", {}), **options)
        _check_places(run, Path(out))
        resolved = _document(run, objective, out)
    with without_chatter(heard=flag("verbose")):
        data = load_pairs(run.data, hub=run.hub, on_bad_row=run.on_bad_row)
        if dry_run:
            with usage_errors():
                run.arguments(out)
        told = None if dry_run else _train(run, data, Path(out), resume, resolved)
    if dry_run:
        _tell_plan(resolved, data)
    elif told is not None:
        _tell(told)


def _choose_length(options: dict[str, Any]) -> None:
    """Count steps or epochs, whichever was said more closely; not both."""
    source = click.get_current_context().get_parameter_source
    order = [ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT,
             ParameterSource.COMMANDLINE]  # fmt: skip
    steps, epochs = (order.index(source(name) or ParameterSource.DEFAULT) for name in ("steps", "epochs"))
    if steps == epochs > 0:
        raise click.UsageError("Give --steps or --epochs, not both.")
    if epochs > steps:
        options["steps"] = None


def _check_places(run: Any, out: Path) -> None:
    for name in ("model", "reference", "data"):
        source = getattr(run, name)
        if source is not None and Path(source).resolve() == out.resolve():
            raise ValueError(f"--out {out} is where the {name} lies: take another folder.")


def _document(run: Any, objective: str, out: str) -> dict[str, Any]:
    """Return all settings by the names that the options have, in the form of a file of settings."""
    from dataclasses import fields

    plain = {part.name: getattr(run, part.name) for part in fields(run)}
    plain |= {"objective": objective, "out": out}
    if run.steps is not None:
        del plain["epochs"]
    tables = {"set": dict(run.objective.hyperparameters), "training": dict(plain.pop("training"))}
    return plain | tables


# --- the run ----------------------------------------------------------------------------------------------


def _train(run: Any, data: Any, out: Path, resume: bool, resolved: dict[str, Any]) -> dict[str, Any] | None:
    """Train and write, as one of however many processes; return what is told, on the first of them."""
    from didsim.experiment import output_directory
    from didsim.llm import fit, is_finite, last_checkpoint, make_trainer, read_log, save, steps_of

    first = os.environ.get("RANK", "0") == "0"
    with output_directory(out) if first else nullcontext():
        manifest, checkpoint = _manifest(run, data, resolved), last_checkpoint(out)
        earlier = _earlier(out, manifest, resume, checkpoint) if first or resume else None
        if earlier is not None and earlier["finished"]:
            say(f"The run in {out} is finished; there is nothing to do.")
            return {**earlier, "log": _plain(read_log(out))} if first else None
        with usage_errors(), _interruptions(out, first):
            trainer = make_trainer(run, data, out, say)
            check_processes(trainer, manifest["processes"])
            manifest["data"]["too_long"] = len(data.pairs) - len(trainer.train_dataset)
            if first:
                _write(out, manifest)
                _say_what(manifest, checkpoint, resume)
            fit(trainer, checkpoint if resume else None)
        log, finite = _plain(steps_of(trainer)), is_finite(trainer)
        if finite:
            save(trainer, out)
        metrics = log[-1] if log else {}
        manifest |= {"finished": True, "steps": trainer.state.global_step, "finite": finite, "metrics": metrics}
        if first:
            _write(out, manifest)
    return {**manifest, "log": log} if first else None


def check_processes(trainer: Any, wanted: int) -> None:
    """Refuse to be one of several processes that do not know of each other: each would write its own model."""
    found = trainer.accelerator.num_processes
    if found != wanted:
        raise ResourceError(
            f"{wanted} processes were started, of which the trainer sees {found}: use accelerate launch."
        )


def _manifest(run: Any, data: Any, resolved: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a run before it begins."""
    from importlib.metadata import version

    from didsim import __version__

    path = Path(run.data)
    told = {
        "path": run.data,
        "sha256": _sha256(path) if path.is_file() else None,
        "pairs": len(data.pairs),
        "skipped": len(data.skipped),
        "equal": data.equal,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "llm train",
        "finished": False,
        "versions": {"didsim": __version__, **{name: version(name) for name in LIBRARIES}},
        "config": _plain(resolved),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "data": told,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _earlier(out: Path, manifest: dict[str, Any], resume: bool, checkpoint: Path | None) -> dict[str, Any] | None:
    """Return the manifest of an earlier run in the folder, which is to be continued; None if nothing is kept of one.

    Raises:
        ResourceError: if it is not to be continued.
        UsageError: if it is another run.
    """
    path = out / MANIFEST
    try:
        earlier = json.loads(path.read_text("utf-8"))
        parts = {name: earlier[name] for name in ("config", "processes", "data", "finished")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadDataError(f"{path} is damaged. Take another --out.") from error
    if checkpoint is None and not parts["finished"]:
        return None
    if not resume:
        raise ResourceError(f"{out} holds a run already. Continue it with --resume, or take another --out.")
    then, now = ({**part["config"], "processes": part["processes"], "data of sha256": part["data"]["sha256"]}
                 for part in (parts, manifest))  # fmt: skip
    for name in now:
        if json.loads(json.dumps(now[name])) != then.get(name):
            hint = "Continue with the same, or take another --out."
            raise click.UsageError(f"The run in {out} has {name} = {then.get(name)!r}, not {now[name]!r}. {hint}")
    return earlier


def _say_what(manifest: dict[str, Any], checkpoint: Path | None, resume: bool) -> None:
    if resume:
        say("There is no checkpoint: beginning anew." if checkpoint is None else f"Continuing from {checkpoint}.")
    if manifest["data"]["skipped"]:
        say(f"{manifest['data']['skipped']} rows are skipped; --dry-run tells which.")
    if manifest["data"]["too_long"]:
        say(f"{manifest['data']['too_long']} pairs are left out: their prompts alone fill --max-length.")


@contextmanager
def _interruptions(out: Path, first: bool) -> Iterator[None]:
    """Say on the way out of a run that did not end what is kept of it."""
    from didsim.llm import last_checkpoint

    try:
        yield
    except BaseException:
        checkpoint = last_checkpoint(out)
        if first and checkpoint is not None:
            say(f"{checkpoint} is kept; --resume continues from there.")
        raise


def _write(out: Path, manifest: dict[str, Any]) -> None:
    from didsim.experiment import write_atomic

    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(out / MANIFEST, (text + "\n").encode())


def _plain(value: Any) -> Any:
    from didsim._findings import without_infinities

    return without_infinities(value)


# --- what is told -----------------------------------------------------------------------------------------


def _tell(told: dict[str, Any]) -> None:
    """Print the log and where the model is; end with 1 if there is none, since training diverged."""
    rows, out = told["log"], told["config"]["out"]
    shown = rows if flag("verbose") else _some(rows)
    heads = {name: head for name, head in COLUMNS.items() if any(row.get(name) is not None for row in shown)}
    cells = [[_cell(row.get(name)) for name in heads] for row in shown]
    where = f"The model is in {out}, with its log ({STATE}) and {MANIFEST}."
    if not told["finite"]:
        where = (
            f"Training diverged: weights are not finite, and no model was written. See didsim llm doctor --log {out}"
        )
    more = "" if len(shown) == len(rows) else f"{len(rows) - len(shown)} more logged steps: -v shows them.\n"
    text = f"{table(list(heads.values()), cells)}\n{more}\n{where}" if rows else where
    emit({name: value for name, value in told.items() if name != "schema_version"}, text)
    if not told["finite"]:
        click.get_current_context().exit(1)


def _cell(value: Any) -> Any:
    return "nan" if value is None else value


def _some(rows: list[Any]) -> list[Any]:
    """Return a dozen rows from the first to the last."""
    last = len(rows) - 1
    return rows if last < SHOWN else [rows[last * number // (SHOWN - 1)] for number in range(SHOWN)]


def _tell_plan(resolved: dict[str, Any], data: Any) -> None:
    """Print the settings, what the data are, and how to run it on several processes."""
    line = shlex.join(["didsim", *(part for part in sys.argv[1:] if part not in {"--dry-run", "--json"})])
    several = f"accelerate launch --num_processes 2 -m {line}"
    without_gpus = f"torchrun --nproc-per-node 2 -m {line}"
    sharded = f"accelerate config, then accelerate launch -m {line}"
    launch = {"gpus": several, "cpus": without_gpus, "fsdp": sharded}
    document = {"config": _plain(resolved), "data": data.sentence, "launch": launch}
    comments = [
        f"# Data: {data.sentence}.",
        "# On several GPUs, such as 2, and on CPUs; the batch size counts on each:",
        f"#   {several}",
        f"#   {without_gpus}",
        "# With parameters sharded over them (FSDP; not run here):",
        f"#   {sharded}",
    ]
    emit(document, "\n".join([as_toml(resolved), "", *comments]))
