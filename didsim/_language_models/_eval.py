"""The command `didsim llm eval`: how far policies moved from their reference, and from the tilt by a reward."""

import csv
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from didsim._arguments import SETTINGS, find_objective, read_settings
from didsim._language_models._options import HUB, ON_BAD_ROW
from didsim._terminal import Whole, command_with_examples, emit, flag, say, screen_width, table, usage_errors

COLUMNS = {
    "displacement/chosen_share": "fell",
    "displacement/chosen": "chosen",
    "displacement/rejected": "rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "kl/policy_ref": "KL(π‖π_ref)",
    "kl/ref_policy_samples": "KL(π_ref‖π)",
}
"""What of a row is shown, and under which heads."""

NOTES = {
    "displacement/chosen_share": "fell: the share of pairs whose chosen response is less likely than under π_ref.",
    "displacement/chosen": "chosen, rejected, margin: means of log π − log π_ref and of its difference, in nats,\n"
    "± standard errors over pairs. If chosen responses were drawn from π_ref, −chosen estimates KL(π_ref‖π).",
    "rewards/accuracies": "accuracy: the share of pairs whose chosen response has the higher log π/π_ref.",
    "kl/policy_ref": "KL: the mean over responses drawn for these prompts, cut off at --max-new-tokens, in nats.",
}

OWN = {"rewards/margins": "margin", "rewards/accuracies": "accuracy", "loss": "loss"}
"""What of an objective is shown."""

OF_REWARDS = {
    "tilt/kl": "KL to tilt",
    "tilt/beta": "β",
    "tilt/effective": "effective",
    "tilt/bias": "too low by",
    "fit_samples/r_squared": "R²",
    "fit_samples/inverse_beta": "slope",
    "fit_pairs/r_squared": "R², pairs",
    "fit_pairs/inverse_beta": "slope, pairs",
}

LINE = "of log π/π_ref as a straight line in r within"

NOTES_OF_REWARDS = {
    "tilt/kl": "KL to tilt: the least KL from π to π_ref exp(r/β)/Z over β > 0, in nats; β: where (∞: π_ref itself).\n"
    "effective: so many responses of π_ref to a prompt Z rests on; too low by: about the bias of that, in nats.",
    "fit_samples/r_squared": f"R²: {LINE} prompts, 1 for a tilt; slope: an estimate of 1/β.",
    "fit_pairs/r_squared": f"R², pairs: {LINE} pairs, 1 for a tilt; slope: an estimate of 1/β.",
}


@command_with_examples(
    "didsim llm eval --model target --reference reference --data pairs.jsonl",
    "didsim llm eval --model training --reference reference --data pairs.jsonl --samples 0 --out rows.csv",
    "didsim llm eval --model target --reference reference --data pairs.jsonl --objective simpo -S gamma=0.3 --json",
    "didsim llm eval --model target --reference reference --data pairs.jsonl --samples-out responses.jsonl",
    name="eval",
)
@click.option("--model", "models", multiple=True, required=True,
              help="A model, or what a training wrote: then each checkpoint. May be repeated.")  # fmt: skip
@click.option("--reference", required=True, help="The model π_ref.")
@click.option("--data", required=True, help="Pairs: a JSON-lines file, or a folder that datasets saved.")
@click.option("--objective", default=None, help="Report rewards and mean loss of this objective too.")
@SETTINGS
@click.option("--reward", type=click.Path(path_type=Path), default=None, metavar="FILE.jsonl",
              help="Rewards of responses: prompt, response, reward on each line.")  # fmt: skip
@click.option("--samples-out", type=click.Path(path_type=Path), default=None, metavar="FILE.jsonl",
              help="Write responses of each model and of π_ref, for --reward.")  # fmt: skip
@click.option("--samples", type=Whole(0, 10**5), default=4, show_default=True, help="Drawn for each prompt.")
@click.option("--prompts", type=Whole(1, 10**7), default=32, show_default=True, help="For so many prompts of the data.")
@click.option("--max-new-tokens", type=Whole(1, 10**6), default=256, show_default=True, help="Longest drawn response.")
@click.option("--max-length", type=Whole(2, 10**7), default=1024, show_default=True,
              help="Tokens of prompt and response of a pair, which is cut off there.")  # fmt: skip
@click.option("--batch-size", type=Whole(2, 10**5), default=8, show_default=True, help="Looked at together.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--seed", type=Whole(0, 2**32 - 2), default=0, show_default=True, help="Seed of the drawn responses.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, metavar="FILE.csv", help="Write all numbers there."
)
@ON_BAD_ROW
@HUB
def evaluate(models: tuple[str, ...], reference: str, objective: str | None, settings: tuple[str, ...],
             samples_out: Path | None, out: Path | None, **options: Any) -> None:  # fmt: skip
    """Compare language models with their reference, on pairs and on responses of their own.

    Displacement, rewards and accuracies are those that training logs. Divergences are estimated from responses drawn
    at temperature 1 from all tokens.

    With rewards r of responses, how far π is from the nearest tilt of π_ref by r, π_ref exp(r/β)/Z. It needs rewards
    of responses of both: write them with --samples-out, add "reward" to each line, and give the file back with
    --reward. Rewards of the pairs alone (columns reward_chosen and reward_rejected, or --reward) tell only how well
    log π/π_ref is a straight line in r, whose slope is 1/β.
    """
    _check_combination(objective, settings, samples_out, out, options)
    with usage_errors():
        loss = None
        if objective is not None:
            record = find_objective(objective)
            loss = record.bind(**read_settings(record, settings))
        from didsim.llm import without_chatter
    with without_chatter(heard=flag("verbose")):
        evaluation, policies, data = _read(models, reference, loss, samples_out, options)
        with usage_errors():
            rows = [
                {"model": stage.source, "step": stage.step, "epoch": stage.epoch, **row}
                for stage, row in _reports(evaluation, policies, options)
            ]
    _tell(rows, reference, data, loss)  # first: what was computed is not lost with a disk that is full
    _write(samples_out, out, evaluation, rows)


def _check_combination(
    objective: str | None,
    settings: tuple[str, ...],
    samples_out: Path | None,
    out: Path | None,
    options: dict[str, Any],
) -> None:
    """Refuse options that would not be read."""
    if settings and objective is None:
        raise click.UsageError("-S sets hyperparameters of --objective, which is not given.")
    if samples_out is not None and options["samples"] == 0:
        raise click.UsageError("--samples-out writes drawn responses; --samples 0 draws none.")
    if samples_out is not None and options["reward"] is not None:
        raise click.UsageError("--samples-out and --reward are two steps: draw, score, and then give back. Use one.")
    if out is not None and out.suffix.lower() != ".csv":
        raise click.UsageError(f"--out takes a FILE.csv; got {str(out)!r}.")


def _read(
    models: tuple[str, ...], reference: str, loss: Any, samples_out: Path | None, options: dict[str, Any]
) -> tuple[Any, list[Any], Any]:
    """Read all but the policies themselves; data that are no pairs come to light before models are read."""
    from didsim import llm

    hub = options["hub"]
    data = llm.load_pairs(options["data"], hub=hub, on_bad_row=options["on_bad_row"])
    policies = [stage for model in models for stage in llm.stages(model)]
    model = llm.load_model(reference, hub=hub, dtype=options["dtype"])
    has_tokenizer = hub or Path(policies[0].source, "tokenizer_config.json").is_file()
    tokenizer = llm.load_tokenizer(policies[0].source if has_tokenizer else reference, hub=hub)
    names = ("batch_size", "max_length", "samples", "prompts", "max_new_tokens", "seed")
    looks = llm.EvaluationSettings(
        loss=loss, with_reference=samples_out is not None, **{name: options[name] for name in names}
    )
    rewards = None
    if options["reward"] is not None:
        rewards = llm.read_rewards(options["reward"], tokenizer, model.config.get_text_config().vocab_size)
    return llm.Evaluation(model, reference, tokenizer, data.pairs, looks, rewards), policies, data


def _reports(evaluation: Any, policies: list[Any], options: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Look at one policy after the other, and say on a terminal how far it is."""
    from tqdm import tqdm

    from didsim.llm import load_model

    hidden = True if flag("quiet") else None  # None: shown on a terminal only
    with tqdm(total=len(policies) * len(evaluation.pairs), unit="pair", file=sys.stderr, disable=hidden) as bar:
        for stage in policies:
            bar.set_postfix_str(stage.source)
            model = load_model(stage.source, hub=options["hub"], dtype=options["dtype"])
            yield stage, evaluation.report(model, stage.source, bar.update)


def _write(samples_out: Path | None, out: Path | None, evaluation: Any, rows: list[dict[str, Any]]) -> None:
    """Write responses and numbers, each file whole or not at all."""
    from didsim.experiment import write_atomic
    from didsim.llm import response_lines

    if samples_out is not None:
        lines = [
            line
            for source, drawn in evaluation.drawn.items()
            for line in response_lines(source, evaluation.prompts, drawn.samples, evaluation.tokenizer)
        ]
        write_atomic(samples_out, ("\n".join(lines) + "\n").encode())
        say(f'Wrote {len(lines)} responses to {samples_out}. Add "reward" to each, and give the file with --reward.')
    if out is not None:
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(out, text.getvalue().encode())
        say(f"Wrote {len(rows)} {'row' if len(rows) == 1 else 'rows'} to {out}.")


# --- text -------------------------------------------------------------------------------------------------


def _tell(rows: list[dict[str, Any]], reference: str, data: Any, loss: Any) -> None:
    """Print a row for each policy, and what its numbers mean."""
    from didsim._findings import without_infinities

    document = {
        "reference": reference,
        "data": data.sentence,
        "objective": None if loss is None else {"name": loss.name, "hyperparameters": dict(loss.hyperparameters)},
        "rows": rows,
    }
    own = {} if loss is None else {f"{loss.name}/{name}": head for name, head in OWN.items()}
    blocks = [
        f"{data.sentence}, beside {reference}.",
        _table(rows, COLUMNS),
        _notes(rows, NOTES),
        "" if loss is None else f"With {loss!r}:\n" + _table(rows, own),
        _table(rows, OF_REWARDS),
        _notes(rows, NOTES_OF_REWARDS),
        "\n".join(_remarks(rows, len(data.pairs))),
    ]
    emit(without_infinities(document), "\n\n".join(block for block in blocks if block))


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Return a table of what some row has; nothing if none has any."""
    shown = {name: head for name, head in columns.items() if any(name in row for row in rows)}
    if not shown:
        return ""
    epochs = ["epoch"] if any(row["epoch"] is not None for row in rows) else []
    cells = [
        [row["model"], *(_number(row["epoch"]) for _ in epochs), *(_estimate(row, name) for name in shown)]
        for row in rows
    ]
    return table(["model", *epochs, *shown.values()], cells, screen_width())


def _notes(rows: list[dict[str, Any]], notes: dict[str, str]) -> str:
    return "\n".join(text for name, text in notes.items() if any(name in row for row in rows))


def _estimate(row: dict[str, Any], name: str) -> str:
    """Return an estimate with its error, or a dash."""
    error = row.get(f"{name}_error", math.nan)
    return _number(row.get(name)) + ("" if math.isnan(error) else f" ± {error:.2g}")


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def _remarks(rows: list[dict[str, Any]], pairs: int) -> Iterator[str]:
    """Say what the numbers alone do not."""
    if left_out := pairs - rows[0]["pairs"]:
        yield f"{left_out} of {pairs} pairs are left out: their prompts alone fill --max-length."
    for row in rows:
        if row.get("tilt/unknown"):
            yield f"{row['model']}: the nearest tilt is unknown. {row['tilt/unknown']}"
    if any("fit_pairs/r_squared" in row for row in rows) and not any("tilt/kl" in row for row in rows):
        yield "The nearest tilt needs rewards of responses drawn from π and from π_ref: see --samples-out."
    cut = [row["samples/cut_share"] for row in rows if "samples" in row]
    if any(cut):
        yield f"Up to {max(cut):.0%} of a model's drawn responses were cut off; whole ones may diverge more."
