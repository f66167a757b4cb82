"""The whole examination of a loss."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from didsim._checks import check_choice, message
from didsim.doctor._bugs import diagnose, multiple_of
from didsim.doctor._examine import (
    examine_aggregation,
    examine_arguments,
    examine_at_reference,
    examine_beta,
    examine_dtype,
    examine_gradient,
    examine_inputs,
    examine_reference,
    examine_repetition,
    examine_shift,
    examine_slope,
)
from didsim.doctor._extremes import examine_extremes
from didsim.doctor._probe import LossError, Probe, examine_form
from didsim.doctor._readings import (
    Reckoning,
    candidates,
    equal_readings,
    losses,
    match_of,
    presumes_means,
    remoteness,
)
from didsim.doctor._report import Finding, Match, Report, by_severity
from didsim.doctor._subject import LOOKS_AT, subject_of
from didsim.objectives import OBJECTIVES, Objective


def check_loss(function: Callable[..., Any], *, objective: str | None = None, **hyperparameters: Any) -> Report:
    """Examine a preference loss before anyone trains with it, and say in words what is wrong.

    Looked at are: value and gradient at π = π_ref, the sign of the margin's slope, finite differences, a shift of the
    logits, extremes in float64 and float32, the aggregation over pairs, whether the reference is used and β enters
    once, arguments that are ignored or changed in place, and which registered objective the loss equals; if none,
    which usual mistake turns an objective into it.

    Args:
        function: the loss: a function of `Pairs`, an objective, or a function of tensors [B] whose names say what
            they are: log_pi_chosen (or policy_chosen_logps, chosen_logps, pi_logp_w, …), log_ref_chosen (or
            reference_chosen_logps, …), length_chosen (or chosen_length, …), and the same of the rejected response. Its
            other arguments are hyperparameters. It returns one loss per pair, their mean or sum, or a tuple that
            begins with it.
        objective: the name of the objective that it is meant to be; without one, a name that is part of the
            function's own name is a hint.
        **hyperparameters: values for the function's other arguments, in place of their defaults.

    Returns:
        The findings, the gravest first, and the objectives that the function equals.

    Raises:
        TypeError: if it is not a function of the arguments that are accepted.
        ValueError: if the objective or a hyperparameter is unknown, or one has no value.
    """
    if objective is not None:
        _check_comparable(objective)
    subject = subject_of(function, hyperparameters)
    shown = {**subject.settings, **{name: str(value) for name, value in subject.options.items()}}
    try:
        probe, complaint = examine_form(subject)
        equals, findings = _examine(probe, complaint, objective)
    except LossError as error:
        failure = Finding("call", "problem", f"The loss cannot be examined: {error}.")
        return Report(subject.name, shown, (failure,))
    return Report(subject.name, shown, by_severity(findings), equals)


def _check_comparable(name: str) -> None:
    record = OBJECTIVES[check_choice("objective", name, OBJECTIVES)]
    beyond = record.bind().needs - LOOKS_AT
    if record.gradient_rule is not None or beyond:
        needs = ", ".join(sorted(beyond)) or "no loss: it is a rule for gradients"
        raise ValueError(message("objective", "one of log π, log π_ref and length alone", name, f"It needs {needs}."))


def _examine(probe: Probe, complaint: str, intended: str | None) -> tuple[tuple[Match, ...], list[Finding]]:
    records = candidates(probe)
    named = intended or hinted_name(probe.subject.name, [record.name for record in records])
    found = equal_readings(probe, records)
    found.sort(key=lambda item: item.reading.record.name != named)
    equals = _without_means(probe, [item for item in found if item.gradient])
    closest = next(iter([*equals, *found]), None)
    name = equals[0].reading.record.name if equals else ""
    anyway = {key: str(match_of(probe, item)) for item in reversed(found) for key in item.reading.sources}
    examinations: dict[str, Callable[[], Finding | Iterator[Finding]]] = {
        "objective": lambda: _examine_objective(probe, found, named, stated=intended is not None),
        "arguments": lambda: examine_arguments(probe, name, anyway),
        "slope": lambda: examine_slope(probe, name),
        "gradient": lambda: examine_gradient(probe, name),
        "extremes": lambda: examine_extremes(probe, closest),
        "in-place change": lambda: examine_inputs(probe),
        "repetition": lambda: repetition,
        "float64": lambda: examine_dtype(probe, complaint),
        "beta": lambda: examine_beta(probe, name),
        "aggregation": lambda: examine_aggregation(probe),
        "reference": lambda: examine_reference(probe),
        "at the reference": lambda: examine_at_reference(probe),
        "shift": lambda: examine_shift(probe),
    }
    repetition = examine_repetition(probe)
    if repetition.status == "problem":
        return (), [repetition]
    findings = [finding for what, examine in examinations.items() for finding in _findings(what, examine)]
    return tuple(match_of(probe, item) for item in equals), findings


def _without_means(probe: Probe, found: list[Reckoning]) -> list[Reckoning]:
    """Drop what would need means over tokens, where the first does not."""
    means = [presumes_means(probe, item.reading) for item in found]
    return [item for item, presumed in zip(found, means, strict=True) if presumed == means[0]]


def _findings(what: str, examine: Callable[[], Finding | Iterator[Finding]]) -> list[Finding]:
    """Run one examination; a function that fails in it may pass the others."""
    try:
        found = examine()
        return [found] if isinstance(found, Finding) else list(found)
    except LossError as error:
        return [Finding(what, "problem", f"This cannot be examined: {error}.")]


def hinted_name(function: str, names: Sequence[str]) -> str:
    """Return the objective that a function is named after, the longest of several, or "".

    >>> [hinted_name(name, ["dpo", "cal_dpo"]) for name in ("my_dpo_loss", "cal_dpo", "preference_loss")]
    ['dpo', 'cal_dpo', '']
    """
    words = f"_{'_'.join(re.findall('[a-z0-9]+', function.lower()))}_"
    named = [name for name in names if f"_{name}_" in words]
    return max(named, key=len, default="")


def _examine_objective(probe: Probe, found: Sequence[Reckoning], named: str, stated: bool) -> Finding:
    """Say which objective the loss is; if it is not the one that is meant, or none, which mistake explains it."""
    if named and not any(item.reading.record.name == named for item in found):
        return _not_the_named(probe, found, OBJECTIVES[named], stated)
    if found and not found[0].gradient:
        match = match_of(probe, found[0])
        sentence = f"In value the loss equals {match}, but its gradient is another: see the gradient."
        return Finding("objective", "problem", sentence)
    settled = bool(found) and (found[0].follows or (bool(named) and found[0].faithful))
    if settled and remoteness(probe, found[0].reading) < 2:
        return Finding("objective", "ok", _equality(probe, found))
    # a far-fetched reading may be a mistake with a simpler objective
    mistake = diagnose(probe, _comparable(probe), nearest=settled)
    if mistake is not None:
        return Finding("objective", "problem", mistake.words)
    if settled:
        return Finding("objective", "ok", _equality(probe, found))
    if found:
        beyond = " At other hyperparameters it is another loss."
        return Finding("objective", "info", _equality(probe, found) + beyond)
    multiple = multiple_of(probe, _comparable(probe))
    if multiple is not None:
        return Finding("objective", "warning", multiple)
    return Finding("objective", "info", "It equals no registered objective, and none with a usual mistake.")


def _not_the_named(probe: Probe, found: Sequence[Reckoning], meant: Objective, stated: bool) -> Finding:
    """Explain a loss that is not the objective it is meant to be."""
    mistake = diagnose(probe, [meant])
    why = f"It was said to be {meant.name}" if stated else f"Its name says {meant.name}"
    instead = f" {_equality(probe, found)}" if found else ""
    if mistake is not None:
        status = "problem" if stated or not found else "warning"
        return Finding("objective", status, f"{mistake.words}{instead}")
    multiple = multiple_of(probe, [meant])
    if multiple is not None:
        return Finding("objective", "warning", multiple)
    status = "problem" if stated else "warning"
    return Finding("objective", status, f"{why}, and it is not.{_difference(probe, meant)}{instead}")


def _difference(probe: Probe, meant: Objective) -> str:
    defaults = meant.bind().hyperparameters
    values = {name: probe.subject.settings.get(name, value) for name, value in defaults.items()}
    theirs = losses(probe, meant, values, probe.batches[0])
    if theirs is None:
        return ""
    there = f"{float(probe.own[0][0]):.4g} where {meant.name} gives {float(theirs[0]):.4g}"
    return f" On the first test pair it is {there}; no usual mistake explains that."


def _equality(probe: Probe, found: Sequence[Reckoning]) -> str:
    closest = match_of(probe, found[0])
    equals = _without_means(probe, [item for item in found if item.gradient])
    names = [item.reading.record.name for item in equals if item is not found[0]]
    others = f" (and, with suitable hyperparameters, {', '.join(names)})" if names else ""
    means = " if the log-probabilities are means over tokens" if presumes_means(probe, found[0].reading) else ""
    over = {"mean": ", averaged over pairs", "sum": ", summed over pairs"}.get(probe.aggregation, "")
    return f"The loss equals {closest}{over}{means}{others}."


def _comparable(probe: Probe) -> list[Objective]:
    """Return the objectives to look for mistakes in: those of single pairs, for a loss of single pairs."""
    return [record for record in candidates(probe) if (record.pair is None) == probe.separate]


__all__ = ["check_loss", "hinted_name"]
