"""Registered objectives that the loss may be: every way to read its hyperparameters as theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from didsim.doctor._batches import Batch
from didsim.doctor._probe import LossError, Probe, Settings
from didsim.doctor._report import Match
from didsim.doctor._subject import LOOKS_AT
from didsim.objectives import OBJECTIVES, BoundObjective, Objective, Pairs, Parameter

Transform = Callable[[Batch, Mapping[str, Any]], Batch]
"""A change of a batch, which may depend on the objective's hyperparameters."""

USUAL = (0.0, 1.0, 0.01, 0.05, 0.1, 0.2, 0.5, 2.0, 2.5, 5.0, 10.0)
"""What people write into a loss as a number, besides the values of the registry."""


@dataclass(frozen=True)
class Source:
    """Where the value of an objective's hyperparameter comes from: one of the function's own, or a constant.

    Attributes:
        own: the function's hyperparameter.
        constant: the value, without one.
        times: another hyperparameter of the function that multiplies it: γ may be given as the ratio γ/β.
    """

    own: str | None = None
    constant: Any = None
    times: str | None = None

    def value(self, settings: Settings) -> Any:
        """Return the value at the function's hyperparameters."""
        value = settings[self.own] if self.own is not None else self.constant
        return value if self.times is None else value * settings[self.times]


@dataclass(frozen=True)
class Reading:
    """An objective, and where each of its hyperparameters comes from."""

    record: Objective
    sources: Mapping[str, Source]

    def values(self, settings: Settings) -> dict[str, Any]:
        """Return the objective's hyperparameters at those of the function."""
        return {name: source.value(settings) for name, source in self.sources.items()}

    @property
    def own(self) -> list[str]:
        """The function's hyperparameters that are read."""
        return [source.own for source in self.sources.values() if source.own is not None]


def losses(probe: Probe, record: Objective, values: Mapping[str, Any], batch: Batch) -> Tensor | None:
    """Return an objective's losses in the form of the function's, or None where they cannot be computed.

    A function that takes no lengths sees log-probabilities per token, or does not care: every length is 1 then. No
    domain is checked, since a bug may well lead outside it.
    """
    if "length_chosen" not in probe.subject.takes:
        batch = {name: torch.ones_like(x) if name.startswith("length") else x for name, x in batch.items()}
    cast = {name: x.to(probe.dtype) if x.is_floating_point() else x for name, x in batch.items()}
    try:
        return probe.reduce(BoundObjective(record, values)(Pairs.from_log_probs(**cast)))
    except (ArithmeticError, ValueError, TypeError, RuntimeError):  # a mistake may lead anywhere
        return None


def agrees(
    probe: Probe, reading: Reading, settings: Settings, change: Transform | None = None, sign: float = 1.0
) -> bool:
    """Tell whether the function has an objective's values, possibly those of changed pairs or of another sign.

    Args:
        probe: the function.
        reading: the objective.
        settings: hyperparameters of the function that differ from its own.
        change: what is done to the pairs before the objective sees them.
        sign: a factor, mostly 1 or −1.
    """
    try:
        values = reading.values({**probe.subject.settings, **settings})
    except (ArithmeticError, KeyError):  # a mistake that cannot happen with these hyperparameters
        return False
    for batch, ours in zip(probe.batches, probe.values(settings), strict=True):
        theirs = losses(probe, reading.record, values, change(batch, values) if change else batch)
        if theirs is None or not probe.close(ours, sign * theirs):
            return False
    return True


def follows(probe: Probe, reading: Reading, change: Transform | None = None, sign: float = 1.0) -> bool:
    """Tell whether they stay equal when the hyperparameters that are read take other values."""
    moved = {name: probe.shifted[name] for name in reading.own if name in probe.shifted}
    return not moved or agrees(probe, reading, moved, change, sign)


def is_complete(probe: Probe, reading: Reading) -> bool:
    """Tell whether every hyperparameter that makes a difference is read."""
    return set(probe.subject.settings) - probe.ignored <= set(reading.own)


def same_gradient(probe: Probe, reading: Reading) -> bool:
    """Tell whether the function's gradient is the objective's."""
    values = reading.values(probe.subject.settings)
    for batch in probe.batches:
        try:
            ours = probe.gradients(batch)
        except LossError:
            return False
        theirs = objective_gradients(probe, reading.record, values, batch)
        if not all(probe.close(ours[name], theirs[name]) for name in ours):
            return False
    return True


def objective_gradients(probe: Probe, record: Objective, values: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """Return d(sum of losses)/d log π of an objective."""
    names = ("log_pi_chosen", "log_pi_rejected")
    leaves = {name: batch[name].to(probe.dtype).clone().requires_grad_() for name in names}
    found = losses(probe, record, values, {**batch, **leaves})
    assert found is not None  # only asked of objectives that have been evaluated there
    factor = len(batch[names[0]]) if probe.aggregation == "mean" and not probe.separate else 1
    gradients = torch.autograd.grad(factor * found.sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def candidates(probe: Probe) -> list[Objective]:
    """Return the registered objectives that look at no more than the function can, in the registry's order."""
    if probe.aggregation == "other":
        return []
    return [
        record
        for record in OBJECTIVES.values()
        if record.needs <= LOOKS_AT
        and record.gradient_rule is None
        and (record.pair is None or record.pair is not probe.subject.function)
    ]


def depends_alike(probe: Probe, record: Objective, options: Mapping[str, Any]) -> bool:
    """Tell whether an objective needs just what the function turned out to use; equal losses do."""
    needs = BoundObjective(record, options).needs
    reference = any(name.startswith("log_ref") for name in probe.used)
    return ("reference" in needs) == reference and ("batch" in needs) != probe.separate


def readings(probe: Probe, record: Objective, alike: bool = True) -> Iterator[Reading]:
    """Yield every reading of the function as an objective.

    A hyperparameter of the same name is taken for the objective's, unless the function ignores it. Another one is
    read from any of the function's that are left, or is one of the usual constants.

    Args:
        probe: the function.
        record: the objective.
        alike: whether to pass over options under which the objective looks at other things than the function.
    """
    for options in _options(probe, record):
        if BoundObjective(record, options).needs <= LOOKS_AT and not (
            alike and not depends_alike(probe, record, options)
        ):
            names = [name for name in record.active(options) if name not in options]
            sources = [_sources(probe, record, name) for name in names]
            for chosen in product(*sources):
                fixed = {name: Source(constant=value) for name, value in options.items()}
                reading = Reading(record, {**dict(zip(names, chosen, strict=True)), **fixed})
                if len(set(reading.own)) == len(reading.own):
                    yield reading


def _options(probe: Probe, record: Objective) -> Iterator[dict[str, Any]]:
    """Yield the objective's named options: the function's own where it has them."""
    choices = {}
    for name, parameter in record.parameters.items():
        if parameter.is_option:
            said = probe.subject.options.get(name)
            known = isinstance(parameter.domain, tuple) and said in parameter.domain and said is not None
            values = parameter.grid if "batch" in record.needs or record.pair else parameter.domain
            choices[name] = (said,) if known else values
    seen = []
    for point in product(*choices.values()):
        options = dict(zip(choices, point, strict=True))
        options = {name: value for name, value in options.items() if name in record.active(options)}
        if options not in seen:
            seen.append(options)
            yield options


def _sources(probe: Probe, record: Objective, name: str) -> list[Source]:
    settings = probe.subject.settings
    parameter = record.parameters[name]
    if name in settings and name not in probe.ignored:
        return [Source(own=name)]
    spare = [own for own in settings if own not in record.parameters and own not in probe.ignored]
    ratios = [Source(own=own, times="beta") for own in spare if name in ("gamma", "delta") and "beta" in settings]
    return [
        *(Source(own=own) for own in spare),
        *ratios,
        *(Source(constant=value) for value in _constants(parameter, record)),
    ]


def _constants(parameter: Parameter, record: Objective) -> list[Any]:
    few = (0.0, 1.0) if record.pair is not None or len(record.parameters) > 2 else USUAL
    values = dict.fromkeys([parameter.default, *parameter.grid, *few])
    return [value for value in values if value in parameter.domain]  # type: ignore[operator]


@dataclass(frozen=True)
class Reckoning:
    """What was found of a reading that has the function's values at its own hyperparameters.

    Attributes:
        reading: the reading.
        faithful: whether the two stay equal when the hyperparameters that are read change.
        complete: whether those are all that make a difference to the function.
        gradient: whether the gradients are equal too.
    """

    reading: Reading
    faithful: bool
    complete: bool
    gradient: bool

    @property
    def follows(self) -> bool:
        """Whether the two are equal whatever the hyperparameters."""
        return self.faithful and self.complete


def equal_readings(probe: Probe, records: Sequence[Objective]) -> list[Reckoning]:
    """Return the readings with the function's values, one for each objective, the closest first.

    Those come first that stay equal when all hyperparameters change, then the least far-fetched, then those of the
    registry's order.
    """
    found = []
    for record in records:
        equal = [reading for reading in readings(probe, record) if agrees(probe, reading, {})]
        reckoned = [_reckon(probe, reading) for reading in equal]
        found += sorted(reckoned, key=lambda item: _order(probe, item))[:1]
    return sorted(found, key=lambda item: _order(probe, item))


def _reckon(probe: Probe, reading: Reading) -> Reckoning:
    return Reckoning(reading, follows(probe, reading), is_complete(probe, reading), same_gradient(probe, reading))


def _order(probe: Probe, item: Reckoning) -> tuple[bool, bool, int]:
    return not item.follows, not item.gradient, remoteness(probe, item.reading)


def remoteness(probe: Probe, reading: Reading) -> int:
    """Return how far-fetched a reading is: how much of it the function's own names and defaults do not say."""
    parameters, options = reading.record.parameters, probe.subject.options
    said = sum(
        options.get(name, parameters[name].default) == source.constant
        if parameters[name].is_option
        else source.own == name
        for name, source in reading.sources.items()
    )
    return len(reading.sources) - said + 10 * presumes_means(probe, reading)


def presumes_means(probe: Probe, reading: Reading) -> bool:
    """Tell whether the objective divides by the length, and the function takes none: it must be given means."""
    options = {name: source.constant for name, source in reading.sources.items() if source.own is None}
    named = {name: value for name, value in options.items() if reading.record.parameters[name].is_option}
    needs = BoundObjective(reading.record, named).needs
    return "length" in needs and "length_chosen" not in probe.subject.takes


def match_of(probe: Probe, item: Reckoning) -> Match:
    """Word a reckoning for the report."""
    values = item.reading.values(probe.subject.settings)
    return Match(item.reading.record.name, values, probe.aggregation, item.follows)


__all__ = [
    "Reading",
    "Reckoning",
    "Source",
    "Transform",
    "agrees",
    "candidates",
    "equal_readings",
    "follows",
    "losses",
    "match_of",
    "objective_gradients",
    "presumes_means",
    "readings",
    "remoteness",
]
