"""The function under examination, brought to one form: a call with a batch and hyperparameters.

A loss may take didsim's `Pairs`, or tensors. A tensor argument is known by the words of its name: one that says which
response, and one that says what about it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from didsim._checks import did_you_mean, message
from didsim.doctor._batches import QUANTITIES, Batch
from didsim.objectives import BoundObjective, Objective, Pairs

SIDE_WORDS = {"chosen": "chosen", "w": "chosen", "rejected": "rejected", "l": "rejected"}
KIND_WORDS = {
    **dict.fromkeys(("pi", "policy", "model"), "log_pi"),
    **dict.fromkeys(("ref", "reference"), "log_ref"),
    **dict.fromkeys(("length", "lengths", "len", "n"), "length"),
}
LOG_WORDS = frozenset({"log", "logp", "logps", "logprob", "logprobs", "prob", "probs"})
"""A name of these words alone, besides the side, is the policy's: `chosen_logps`."""

ACCEPTED = (
    "log_pi_chosen (or policy_chosen_logps, chosen_logps, pi_logp_w), log_ref_chosen (or reference_chosen_logps, "
    "ref_chosen_logps), length_chosen (or chosen_length, len_w), the same of the rejected response, "
    "or one argument called pairs"
)

LOOKS_AT = frozenset({"reference", "length", "batch"})
"""What a registered objective may need to be comparable: no tokens, no other prompts, no learned prior."""


def quantity_of(argument: str) -> str | None:
    """Return the quantity that an argument's name stands for, or None.

    >>> quantity_of("policy_chosen_logps"), quantity_of("ref_logp_l"), quantity_of("chosen_len"), quantity_of("beta")
    ('log_pi_chosen', 'log_ref_rejected', 'length_chosen', None)
    """
    words = argument.lower().strip("_").split("_")
    sides = [SIDE_WORDS[word] for word in words if word in SIDE_WORDS]
    kinds = [KIND_WORDS[word] for word in words if word in KIND_WORDS]
    logs = [word for word in words if word in LOG_WORDS]
    if len(sides) != 1 or len(kinds) > 1 or len(words) != len(sides) + len(kinds) + len(logs):
        return None
    if (kinds == ["length"] and logs) or not (kinds or logs):
        return None
    return f"{kinds[0] if kinds else 'log_pi'}_{sides[0]}"


@dataclass(frozen=True)
class Subject:
    """A loss function in one form.

    Attributes:
        name: the function's name.
        call: ``call(batch, settings)``, which returns whatever the function returns.
        takes: the function's own word for each quantity that it is given.
        settings: its hyperparameters that are numbers.
        options: its other hyperparameters, which stay as they are.
        takes_pairs: whether it takes `Pairs`, which offer everything, used or not.
        function: what was given.
    """

    name: str
    call: Callable[[Batch, Mapping[str, Any]], Any]
    takes: Mapping[str, str]
    settings: Mapping[str, float]
    options: Mapping[str, Any]
    takes_pairs: bool
    function: Any


def subject_of(function: Any, given: Mapping[str, Any]) -> Subject:
    """Bring a loss to one form.

    Raises:
        TypeError: if it is not a function of the arguments that are accepted.
        ValueError: if a hyperparameter is unknown, or has no value.
    """
    if isinstance(function, Objective | BoundObjective):
        return _from_objective(function, given)
    if isinstance(function, type) or not callable(function):
        raise TypeError(message("the loss", "a function, or an object that can be called", function))
    return _from_function(function, given)


def _from_objective(function: Objective | BoundObjective, given: Mapping[str, Any]) -> Subject:
    record = function.objective if isinstance(function, BoundObjective) else function
    known = dict(function.hyperparameters) if isinstance(function, BoundObjective) else {}
    bound = record.bind(**{**known, **given})
    beyond = sorted(bound.needs - LOOKS_AT)
    if beyond or record.gradient_rule is not None:
        needs = f"one that needs {', '.join(beyond)}" if beyond else "a rule for gradients"
        raise ValueError(message(record.name, "a loss of log π, log π_ref and length", needs))
    settings, options = _sorted_out(bound.hyperparameters)

    def call(batch: Batch, values: Mapping[str, Any]) -> Any:
        return BoundObjective(record, {**options, **values})(Pairs.from_log_probs(**batch))

    return Subject(record.name, call, _words_of_pairs(), settings, options, True, function)


def _from_function(function: Callable[..., Any], given: Mapping[str, Any]) -> Subject:
    parameters = _parameters(function)
    label = getattr(getattr(function, "func", function), "__name__", type(function).__name__)  # func: of a partial
    pairs = [parameter.name for parameter in parameters if _is_pairs(parameter)]
    takes = _words_of_pairs() if pairs else _quantities(parameters, label)
    read = {*pairs, *({} if pairs else takes.values())}
    others = [p for p in parameters if p.name not in read and p.kind is not inspect.Parameter.VAR_POSITIONAL]
    settings, options = _sorted_out(_values(others, given, label))

    def call(batch: Batch, values: Mapping[str, Any]) -> Any:
        tensors = {word: batch[quantity] for quantity, word in takes.items()}
        named = {pairs[0]: Pairs.from_log_probs(**batch)} if pairs else tensors
        return _call(function, parameters, {**named, **options, **values})

    return Subject(label, call, takes, settings, options, bool(pairs), function)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the arguments of a function, or of a PyTorch module's forward pass."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return list(inspect.signature(called).parameters.values())
    except ValueError as error:
        raise TypeError(message("the loss", "a function whose arguments have names", function)) from error


def _is_pairs(parameter: inspect.Parameter) -> bool:
    annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
    return parameter.name == "pairs" or annotation.split(".")[-1].strip("'\"") == "Pairs"


def _words_of_pairs() -> dict[str, str]:
    return {quantity: quantity for quantity in QUANTITIES}


def _quantities(parameters: list[inspect.Parameter], label: str) -> dict[str, str]:
    takes: dict[str, str] = {}
    for parameter in parameters:
        quantity = quantity_of(parameter.name)
        if quantity in takes:
            raise TypeError(f"{label} takes {quantity} twice, as {takes[quantity]} and {parameter.name}.")
        if quantity is not None:
            takes[quantity] = parameter.name
    missing = [name for name in QUANTITIES[:2] if name not in takes]
    if missing:
        got = ", ".join(parameter.name for parameter in parameters) or "none"
        raise TypeError(f"{label} takes no {' and no '.join(missing)}: its arguments are {got}. Known are {ACCEPTED}.")
    return takes


def _values(others: list[inspect.Parameter], given: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the value of every further argument: the one given, or its default."""
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in others)
    named = [parameter for parameter in others if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    for name in given:
        if not open_ended and name not in [parameter.name for parameter in named]:
            known = [parameter.name for parameter in named]
            hint = did_you_mean(name, known)
            raise ValueError(message(f"hyperparameter of {label}", f"one of: {', '.join(known) or 'none'}", name, hint))
    values = {p.name: p.default for p in named if p.default is not inspect.Parameter.empty}
    values.update(given)
    for parameter in named:
        if parameter.name not in values:
            name = parameter.name
            raise ValueError(
                f"{label} takes {name!r}, which has no default and is none of the known arguments. If it is a "
                f"hyperparameter, give its value: -S {name}=0.1, or {name}=0.1 in Python. Known are {ACCEPTED}."
            )
    return values


def _sorted_out(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Tell numbers from everything else."""
    numbers: dict[str, float] = {
        k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    return numbers, {name: value for name, value in values.items() if name not in numbers}


def _call(function: Callable[..., Any], parameters: list[inspect.Parameter], values: Mapping[str, Any]) -> Any:
    """Call by name, and by position where an argument has no other way in."""
    by_position = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    rest = {name: value for name, value in values.items() if name not in by_position}
    return function(*(values[name] for name in by_position), **rest)


__all__ = ["LOOKS_AT", "Subject", "quantity_of", "subject_of"]
