"""The command `didsim llm doctor`: what usually goes wrong, found before a run or after it."""

import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from didsim._arguments import SETTINGS, find_objective, read_settings
from didsim._language_models._configuration import merged_settings, take_configuration
from didsim._language_models._options import HUB
from didsim._language_models._train import train
from didsim._terminal import Whole, command_with_examples, emit, flag, usage_errors


@command_with_examples(
    "didsim llm doctor config.toml",
    "didsim llm doctor --model model --data pairs.jsonl --max-length 64",
    "didsim llm doctor --model model --data pairs.jsonl --objective simpo -S gamma=0.3 --json",
    "didsim llm doctor --log training",
)
@click.argument(
    "configuration",
    metavar="[CONFIG.toml]",
    required=False,
    is_eager=True,
    type=click.Path(path_type=Path),
    callback=partial(take_configuration, command=train),
)
@click.option("--data", default=None, help="Look at these pairs, as the model's tokenizer splits them.")
@click.option("--model", default=None, help="The model, of which data alone need the tokenizer only.")
@click.option("--objective", default=None, help="Look at the first batch of a run with it, too.")
@SETTINGS
@click.option("--reference", default=None, help="π_ref, a folder [the model as it is before training].")
@click.option("--max-length", type=Whole(2, 10**7), default=1024, show_default=True, help="Tokens of a sequence.")
@click.option("--batch-size", type=Whole(1, 10**5), default=8, show_default=True, help="Pairs on each device.")
@click.option("--lora", type=Whole(0, 10**5), default=0, show_default=True, metavar="RANK", help="As of llm train.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Of the run."
)
@click.option("--log", default=None, help="Look at this log: trainer_state.json, JSON lines, CSV, or a run's folder.")
@HUB
def doctor(
    configuration: dict[str, Any],
    data: str | None,
    model: str | None,
    objective: str | None,
    settings: tuple[str, ...],
    log: str | None,
    **options: Any,
) -> None:
    """Find what usually goes wrong with preference data, at the first step, and in the log of a run.

    A file of settings is that of `didsim llm train`. Nothing is trained or written. Logs may be of any training that
    has TRL's names.

    Ends with 1 if a problem is found.
    """
    if (data is None) != (model is None):
        raise click.UsageError("--data and --model go together: it is the model's tokenizer that splits the data.")
    if data is None and log is None:
        raise click.UsageError("Give --data with --model, or --log: what is to be looked at?")
    if data is None and objective is not None:
        raise click.UsageError("--objective is looked at on --data with --model.")
    with usage_errors():
        loss = None
        if objective is not None:
            record = find_objective(objective)
            loss = record.bind(**read_settings(record, merged_settings(settings, configuration.get("set", {}))))
        elif settings:
            raise ValueError("-S sets hyperparameters of an --objective.")
    found: dict[str, list[Any]] = {}
    if data is not None and model is not None:
        from didsim.llm import without_chatter

        with without_chatter(heard=flag("verbose")):
            found |= _before(data, model, loss, {**options, "training": configuration.get("training", {})})
    if log is not None:
        from didsim.llm import examine_log, load_log

        found["log"] = examine_log(load_log(log))
    _tell(found)


def _before(data: str, model: str, loss: Any, options: dict[str, Any]) -> dict[str, list[Any]]:
    """Look at data, and at the first batch of a run if there is an objective."""
    from didsim.llm import Run, examine_data, examine_start, load_pairs, load_tokenizer, make_trainer

    pairs = load_pairs(data, hub=options["hub"], on_bad_row="skip")
    with usage_errors():
        found = {"data": examine_data(pairs, load_tokenizer(model, hub=options["hub"]), options["max_length"])}
        if loss is None or any(finding.name == "template" for finding in found["data"]):
            return found
        run = Run(model=model, data=data, objective=loss, **options)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(run, pairs, Path(folder))
            found["start"] = examine_start(trainer, own_reference=run.reference is None)
    return found


def _tell(found: dict[str, list[Any]]) -> None:
    from didsim.doctor import by_severity, in_words

    parts = {part: by_severity(findings) for part, findings in found.items()}
    findings = [finding for part in parts.values() for finding in part]
    fine = not any(finding.status == "problem" for finding in findings)
    document = {"ok": fine, **{part: [asdict(finding) for finding in told] for part, told in parts.items()}}
    emit(document, in_words(by_severity(findings)))
    if not fine:
        click.get_current_context().exit(1)
