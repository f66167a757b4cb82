"""Losses where numbers overflow: margins of ±700, log-probabilities of −1e4 and of −1e-12, in float64 and float32."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from didsim.doctor._batches import Batch, extremes
from didsim.doctor._probe import LossError, Probe
from didsim.doctor._readings import Reckoning, losses, objective_gradients
from didsim.doctor._report import Finding

RELATIVE, ABSOLUTE = 1e-2, 1e-2
"""Rounding of log-probabilities of 1e4 in float32 leaves an error of 1e-3 in a margin."""


@dataclass(frozen=True)
class Failure:
    """An extreme pair on which a loss is wrong: where, in which dtype, what came, and the truth if it is known."""

    where: str
    dtype: torch.dtype
    quantity: str
    got: float
    truth: float | None

    @property
    def text(self) -> str:
        """What came in place of what."""
        kind = str(self.dtype).removeprefix("torch.")
        truth = "" if self.truth is None else f", where the true value is {self.truth:.6g}"
        return f"{self.quantity} is {_plain(self.got)} at {self.where} in {kind}{truth}"


def examine_extremes(probe: Probe, equal: Reckoning | None) -> Finding:
    """Try the loss on extreme pairs, and hold it against the objective that it equals elsewhere.

    Args:
        probe: the function.
        equal: the objective that it equals on generic pairs, at least in value; without one, only what is not a
            number, or infinite, can be told.
    """
    reading = equal.reading if equal else None
    values = reading.values(probe.subject.settings) if reading else {}
    scale = _scale(values.get("beta", probe.subject.settings.get("beta", 1.0)))
    dtypes = [torch.float64, torch.float32] if probe.dtype == torch.float64 else [torch.float32]
    cases = [(text, pair, dtype) for text, pair in extremes(scale).items() for dtype in dtypes]
    try:
        failures = [found for case in cases for found in _failures(probe, equal, *case)]
    except LossError as error:
        return Finding("extremes", "problem", f"On extreme pairs {error}.")
    if not failures:
        return Finding("extremes", "ok", "Margins of ±700 and log-probabilities of −1e4 and −1e-12 are handled.")
    worst = min(failures, key=lambda failure: (_rank(failure), failures.index(failure)))
    count = len({(failure.where, failure.dtype) for failure in failures})
    sentence = f"{_cause(worst)}{worst.text} ({count} of {len(cases)} extreme inputs go wrong). {_remedy(worst)}"
    grave = equal is not None or any(math.isnan(failure.got) for failure in failures)
    return Finding("extremes", "problem" if grave else "warning", sentence)


def _scale(beta: object) -> float:
    return float(beta) if isinstance(beta, int | float) and 1e-3 <= beta <= 1e3 else 1.0


def _failures(probe: Probe, equal: Reckoning | None, where: str, pair: Batch, dtype: torch.dtype) -> Iterator[Failure]:
    """Yield what is wrong with value and gradient on one pair."""
    there = replace(probe, dtype=dtype, separate=True)
    ours = {"the loss": there.losses(pair), **_named(there.gradients(pair))}
    theirs = _truth(there, equal, pair) if equal else {}
    for quantity, value in ours.items():
        truth = theirs.get(quantity)
        if equal is None and not bool(value.isfinite().all()):
            yield Failure(where, dtype, quantity, float(value), None)
        elif truth is not None and not _near(value, truth):
            yield Failure(where, dtype, quantity, float(value), float(truth))


def _truth(probe: Probe, equal: Reckoning, pair: Batch) -> dict[str, Tensor]:
    """Return the objective's value, and the gradient where that is equal too, as far as they are numbers here."""
    reading = equal.reading
    values = reading.values(probe.subject.settings)
    found = losses(probe, reading.record, values, pair)
    if found is None:
        return {}
    gradients = objective_gradients(probe, reading.record, values, pair) if equal.gradient else {}
    known = {"the loss": found.detach(), **_named(gradients)}
    return {quantity: value for quantity, value in known.items() if bool(value.isfinite().all())}


def _named(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    words = {"log_pi_chosen": "the gradient on log π(y_w)", "log_pi_rejected": "the gradient on log π(y_l)"}
    return {words[name]: gradient for name, gradient in gradients.items()}


def _near(value: Tensor, truth: Tensor) -> bool:
    return bool((value.double() - truth.double()).abs() <= ABSOLUTE + RELATIVE * truth.double().abs())


def _rank(failure: Failure) -> int:
    """A value that is not finite says most, a wrong gradient least."""
    return 2 * (failure.quantity != "the loss") + math.isfinite(failure.got)


def _cause(worst: Failure) -> str:
    if worst.truth is not None and _is_underflow(worst):
        return "log(sigmoid(x)), or log(1 + e^−x), in place of logsigmoid(x): "
    if worst.truth is not None and _is_near_one(worst):
        return "log(1 − e^x) loses x next to 0: "
    if math.isfinite(worst.got):
        return "A number was cut off, by an epsilon inside a logarithm or by a clamp: "
    return "A number overflows: "


def _remedy(worst: Failure) -> str:
    if _is_underflow(worst) and worst.truth is None:
        return "Where it takes log(sigmoid(x)) or log(1 + e^−x), use torch.nn.functional.logsigmoid(x)."
    if _is_underflow(worst):
        return "Use torch.nn.functional.logsigmoid(x), which is accurate for every x."
    if _is_near_one(worst):
        return "Use log(−expm1(x)) there."
    return "Look at the logarithms, exponentials and quotients."


def _is_underflow(failure: Failure) -> bool:
    """Whether it looks like the logarithm of a sigmoid that has underflowed, or of an exponential that overflowed."""
    return "margin of −" in failure.where and not math.isfinite(failure.got)


def _is_near_one(failure: Failure) -> bool:
    """Whether a probability next to 1 has been rounded to 1."""
    return "−1e-12" in failure.where and not math.isfinite(failure.got)


def _plain(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.6g}" if math.isfinite(value) else "infinite" if value > 0 else "minus infinite"


__all__ = ["examine_extremes"]
