"""What is wrong with the log of a training run: TRL's, ours or anyone's with TRL's names."""

import csv
import io
import json
import math
import stat
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from didsim.doctor import Finding
from didsim.errors import BadDataError
from didsim.llm._training import STATE, last_checkpoint

Row = dict[str, float]

LARGEST_LOG = 2**28
"""Bytes of a log that is read."""

FEWEST = 5
"""From so few logged steps no trend is read."""

STILL = 1e-3
"""A loss that stays this near to log 2, in nats, has not moved."""

AT_START = 0.01
"""The implicit reward, in nats, below which a policy counts as its reference; bfloat16 rounds so."""

FALLEN = 1.0
"""Nats by which log-probabilities must fall to be worth a word."""

CHANCE = 0.55
"""Accuracies below are no better than chance."""

GROWN = 0.1
"""Nats by which margins must grow."""

EXPLODED = 100.0
"""How many times the median gradient norm is too large."""


# --- reading ----------------------------------------------------------------------------------------------


def load_log(source: str | Path) -> list[Row]:
    """Read what was logged at each step: trainer_state.json, JSON lines or CSV, or the folder of a run.

    What is no number is left out, and so is a last line that was not written to its end.

    Raises:
        BadDataError: if there is no such file, or no row of it has a loss.
    """
    path = Path(source)
    if path.is_dir():
        path = _in_folder(path)
    rows = [row for raw in _parsed(path, _text(path)) if "loss" in (row := _numbers(raw))]
    if not rows:
        hint = "It must have rows with a loss, as trainer_state.json, as JSON lines or as CSV with TRL's names."
        raise BadDataError(f"{path} is no log of a training run. {hint}")
    return rows


def _in_folder(folder: Path) -> Path:
    if (folder / STATE).exists():
        return folder / STATE
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise BadDataError(f"{folder} has no {STATE}, and no checkpoint that has one.")
    return checkpoint / STATE


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadDataError(f"{path} is not a file.")
        if status.st_size > LARGEST_LOG:
            raise BadDataError(f"{path} is larger than {LARGEST_LOG // 2**20} MiB.")
        return path.read_text("utf-8-sig").replace("\0", "")  # a machine that failed leaves zeros
    except UnicodeDecodeError as error:
        raise BadDataError(f"{path} is not UTF-8 text: byte {error.start}.") from error
    except OSError as error:
        raise BadDataError(f"{path} cannot be read: {error.strerror}.") from error


def _parsed(path: Path, text: str) -> Iterable[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip()[:1] in ("{", "["):
            return _lines(text)
        return csv.DictReader(io.StringIO(text))
    if isinstance(document, dict) and "log_history" in document:
        document = document["log_history"]
    return document if isinstance(document, list) else [document]


def _lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def _numbers(raw: Any) -> Row:
    """Return what is a number in a row, which may stand there as a text."""
    row = {}
    for name, value in raw.items() if isinstance(raw, dict) else ():
        if isinstance(name, str) and isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                row[name] = float(value)
            except (ValueError, OverflowError):
                continue
    return row


# --- examining --------------------------------------------------------------------------------------------


def examine_log(rows: Sequence[Row]) -> list[Finding]:
    """Look for what usually goes wrong in training, at what was logged of each step."""
    steps = [row["step"] for row in rows if "step" in row]
    span = f", steps {steps[0]:.0f} to {steps[-1]:.0f}" if steps else ""
    findings = [finding for check in CHECKS if (finding := check(rows)) is not None]
    looked = f"{len(rows)} rows were looked at{span}; the last loss is {rows[-1]['loss']:.4g}."
    return [*findings, Finding("log", "info", looked)]


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _ends(rows: Sequence[Row], name: str) -> tuple[float, float] | None:
    """Return the means over the first and the last quarter, or None where there is too little to see a trend."""
    values = _column(rows, name)
    if len(values) < FEWEST or not all(map(math.isfinite, values)):
        return None
    quarter = max(1, len(values) // 4)
    return statistics.fmean(values[:quarter]), statistics.fmean(values[-quarter:])


def _not_finite(rows: Sequence[Row]) -> Finding | None:
    for number, row in enumerate(rows):
        wrong = sorted(name for name, value in row.items() if not math.isfinite(value))
        if wrong:
            words = f"{', '.join(wrong[:3])} is no finite number from {_step(row, number)} on. Take a smaller "
            return Finding(
                "numbers", "problem", words + "learning rate, bfloat16 for float16, and look at the pairs of that step."
            )
    return None


def _step(row: Row, number: int) -> str:
    return f"step {row['step']:.0f}" if "step" in row else f"row {number}"


def _start(rows: Sequence[Row]) -> Finding | None:
    row = rows[0]
    name = next((name for name in ("displacement/chosen", "rewards/chosen") if name in row), None)
    if name is None or row.get("step", math.inf) > 1 or not abs(row[name]) > AT_START:
        return None
    words = (
        f"{name} is {row[name]:.4g} at the first step, before anything was learnt: the policy is not its reference. "
    )
    words += "That is right for an objective without a reference, or a reference of your own; else look for dropout, "
    return Finding("start", "warning", words + "another precision, or another checkpoint as reference.")


def _stuck(rows: Sequence[Row]) -> Finding | None:
    losses = _column(rows, "loss")
    if len(losses) < FEWEST or not all(abs(loss - math.log(2)) < STILL for loss in losses):
        return None
    words = (
        f"The loss has stayed at log 2 ({losses[-1]:.6g}) for all {len(losses)} rows: nothing is learnt. Look at the "
    )
    return Finding(
        "stuck", "problem", words + "learning rate, at frozen weights, and at what of the responses is scored."
    )


def _displaced(rows: Sequence[Row]) -> Finding | None:
    for kind in ("displacement", "logps", "rewards"):
        both = [_ends(rows, f"{kind}/{side}") for side in ("chosen", "rejected")]
        if both[0] is None or both[1] is None:
            continue
        falls = [after - before for before, after in (both[0], both[1])]
        least = GROWN if kind == "rewards" else FALLEN
        if not all(fall < -least for fall in falls):
            return None
        words = f"Chosen responses lose likelihood too ({kind}/chosen falls by {-falls[0]:.4g}, {kind}/rejected by "
        words += (
            f"{-falls[1]:.4g}): the margin grows by displacement, and likelihood goes to responses that nobody wrote. "
        )
        return Finding(
            "displacement", "warning", words + "Train less, or with an anchor on chosen ones (as in cal_dpo)."
        )
    return None


def _at_chance(rows: Sequence[Row]) -> Finding | None:
    margins, accuracies = _ends(rows, "rewards/margins"), _ends(rows, "rewards/accuracies")
    if margins is None or accuracies is None or accuracies[1] >= CHANCE or margins[1] - margins[0] < GROWN:
        return None
    words = f"The margin has grown by {margins[1] - margins[0]:.4g}, and accuracy is {accuracies[1]:.0%}: a few "
    return Finding(
        "chance", "problem", words + "pairs grow, and the others do not follow. Look at their labels and lengths."
    )


def _gradients(rows: Sequence[Row]) -> Finding | None:
    norms = [norm for norm in _column(rows, "grad_norm") if math.isfinite(norm)]
    if not norms:
        return None
    if all(norm == 0.0 for norm in norms):
        words = "The gradient is 0 at every step: nothing is trained. Are weights frozen, or all tokens masked?"
        return Finding("gradient", "problem", words)
    median, largest = statistics.median(norms), max(norms)
    if len(norms) >= FEWEST and largest > EXPLODED * median > 0.0:
        row = next(row for row in rows if row.get("grad_norm") == largest)
        words = (
            f"The gradient norm jumps to {largest:.4g} at {_step(row, rows.index(row))}; its median is {median:.4g}. "
        )
        return Finding(
            "gradient", "problem", words + "Clip it (max_grad_norm), or take a smaller learning rate or longer warm-up."
        )
    return None


def _learning_rate(rows: Sequence[Row]) -> Finding | None:
    rates = _column(rows, "learning_rate")
    if not rates or any(rates):
        return None
    return Finding("learning rate", "problem", "The learning rate is 0 at every step: nothing is learnt. Set it.")


def _masked(rows: Sequence[Row]) -> Finding | None:
    sums = [_column(rows, f"logps/{side}") for side in ("chosen", "rejected")]
    wrong = [side for side, values in zip(("chosen", "rejected"), sums, strict=True) if values and not any(values)]
    if not wrong:
        return None
    words = f"The log-probability of {' and '.join(wrong)} responses is 0 at every step: no token of them is scored. "
    return Finding(
        "masked", "problem", words + "Look at max_length and at the prompt mask (didsim llm doctor --data shows it)."
    )


CHECKS = (_not_finite, _start, _stuck, _displaced, _at_chance, _gradients, _learning_rate, _masked)
"""All that is looked for in a log."""
