"""The usual mistakes: ways to get a registered objective wrong, each with the words that name it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from didsim.doctor._batches import SIDES, Batch
from didsim.doctor._probe import Probe
from didsim.doctor._readings import Reading, Source, Transform, agrees, follows, losses, readings, remoteness
from didsim.doctor._report import Match, symbol
from didsim.objectives import Objective


@dataclass(frozen=True)
class Bug:
    """A mistake in what the loss does with its pairs.

    Attributes:
        words: what is wrong, and what to do; ``{name}`` stands for the objective.
        change: the pairs on which the right objective gives the wrong loss.
        needs: what the objective must look at for the mistake to be possible.
        sign: −1 if the loss is negated besides.
    """

    words: str
    change: Transform
    needs: frozenset[str] = frozenset()
    sign: float = 1.0


@dataclass(frozen=True)
class SettingBug:
    """A mistake in what the loss does with a hyperparameter.

    Attributes:
        words: what is wrong; ``{p}`` stands for the hyperparameter, ``{name}`` for the objective, ``{got}`` for the
            value that acts and ``{value}`` for the one that was given.
        acting: what acts in place of the hyperparameter.
        change: the value that acts, from the one given and all values of the objective.
        only: the hyperparameters with which it happens, or () for all.
    """

    words: str
    acting: str
    change: Callable[[float, Mapping[str, Any]], float]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """A mistake that explains the loss: the objective, and the words."""

    match: Match
    words: str


def _exchanged(kinds: Sequence[str]) -> Transform:
    """Give each response what belongs to the other one of its pair."""

    def change(batch: Batch, values: Mapping[str, Any]) -> dict[str, Tensor]:
        there = {f"{kind}_{side}": batch[f"{kind}_{other}"] for kind in kinds for side, other in _OTHER.items()}
        return {**batch, **there}

    return change


_OTHER = dict(zip(SIDES, reversed(SIDES), strict=True))


def _each(**functions: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]) -> Transform:
    """Replace quantities of each response by a function of its own `log_pi`, `log_ref` and `length`."""

    def change(batch: Batch, values: Mapping[str, Any]) -> dict[str, Tensor]:
        changed = dict(batch)
        for side in SIDES:
            own = {kind: batch[f"{kind}_{side}"] for kind in ("log_pi", "log_ref", "length")}
            changed.update({f"{kind}_{side}": function(own, values) for kind, function in functions.items()})
        return changed

    return change


def _length_of(side: str) -> Transform:
    return lambda batch, values: {**batch, **{f"length_{other}": batch[f"length_{side}"] for other in SIDES}}


def _unchanged(batch: Batch, values: Mapping[str, Any]) -> Batch:
    return batch


REFERENCE, LENGTH = frozenset({"reference"}), frozenset({"length"})

BUGS = (
    Bug(
        "The sign of the margin is flipped: the loss is that of {name} with chosen and rejected exchanged, so it falls "
        "as the rejected response becomes likelier. Turn the margin round: chosen minus rejected.",
        _exchanged(("log_pi", "log_ref", "length")),
    ),
    Bug(
        "The sign of the loss is flipped: it is minus {name}, so minimising it does the opposite. Negate it, as in "
        "−logsigmoid(margin).",
        _unchanged,
        sign=-1.0,
    ),
    Bug(
        "The reference is swapped: log π(y_w) is set against log π_ref(y_l), and log π(y_l) against log π_ref(y_w); in "
        "the margin that adds the reference's log-ratio instead of subtracting it. Otherwise it is {name}. Check the "
        "order of the two reference arguments, and the signs.",
        _exchanged(("log_ref",)),
        REFERENCE,
    ),
    Bug(
        "The reference has the wrong sign: log π_ref is added to log π, not subtracted. Otherwise it is {name}.",
        _each(log_ref=lambda y, h: -y["log_ref"]),
        REFERENCE,
    ),
    Bug(
        "The policy's log-probabilities of chosen and rejected are exchanged, the reference's are not. Otherwise it is "
        "{name}. Check the order of the two policy arguments.",
        _exchanged(("log_pi",)),
        REFERENCE,
    ),
    Bug(
        "Policy and reference are exchanged: the loss is {name} with log π_ref in the place of log π. Turn the "
        "log-ratio round: log π − log π_ref.",
        _each(log_pi=lambda y, h: y["log_ref"], log_ref=lambda y, h: y["log_pi"]),
        REFERENCE,
    ),
    Bug(
        "The reference is missing: the loss is {name} with log π_ref = 0. Subtract the log-probabilities of the "
        "reference policy.",
        _each(log_ref=lambda y, h: 0.0 * y["log_ref"]),
        REFERENCE,
    ),
    Bug(
        "β multiplies the policy's log-probabilities only, not the reference's. Otherwise it is {name}. Put brackets "
        "round the log-ratio: β(log π − log π_ref).",
        _each(log_ref=lambda y, h: y["log_ref"] / h.get("beta", 1.0)),
        REFERENCE,
    ),
    Bug(
        "The lengths are of the wrong side: each response is given the length of the other one, so that log π(y_w) is "
        "divided by the length of the rejected response where {name} divides by that of the chosen one. Exchange the "
        "two lengths.",
        _exchanged(("length",)),
        LENGTH,
    ),
    Bug(
        "A length is of the wrong side: both responses are given the length of the chosen one. Otherwise it is {name}. "
        "Use the rejected response's own length for log π(y_l).",
        _length_of("chosen"),
        LENGTH,
    ),
    Bug(
        "A length is of the wrong side: both responses are given the length of the rejected one. Otherwise it is "
        "{name}. Use the chosen response's own length for log π(y_w).",
        _length_of("rejected"),
        LENGTH,
    ),
    Bug(
        "Sum for mean: the log-probabilities are summed over tokens and not divided by the length, as {name} asks. "
        "Divide each by its response's length.",
        _each(length=lambda y, h: 0 * y["length"] + 1),
        LENGTH,
    ),
    Bug(
        "Mean for sum: log π and log π_ref are divided by the length, where {name} sums them over tokens. Drop the "
        "division; it changes what β means by about the length of a response.",
        _each(log_pi=lambda y, h: y["log_pi"] / y["length"], log_ref=lambda y, h: y["log_ref"] / y["length"]),
    ),
    Bug(
        "Mean for sum in the policy only: log π is divided by the length and log π_ref is not. Otherwise it is {name}. "
        "Sum both over tokens.",
        _each(log_pi=lambda y, h: y["log_pi"] / y["length"]),
        REFERENCE,
    ),
    Bug(
        "Mean for sum in the reference only: log π_ref is divided by the length and log π is not. Otherwise it is "
        "{name}. Sum both over tokens.",
        _each(log_ref=lambda y, h: y["log_ref"] / y["length"]),
        REFERENCE,
    ),
)
"""Mistakes with the pairs; of two that give the same loss the first is named."""

ENDING = "the loss equals {name} at {acting} = {got} in place of {p} = {value}."

SETTING_BUGS = (
    SettingBug("{p} enters twice: " + ENDING + " Multiply by {p} once.", "{p}²", lambda v, h: v * v),
    SettingBug(
        "{p} has the wrong sign: " + ENDING + " Turn it round.", "−{p}", lambda v, h: -v, ("gamma", "delta", "alpha")
    ),
    SettingBug("{p} divides where it should multiply: " + ENDING, "1/{p}", lambda v, h: 1.0 / v),
    SettingBug(
        "{p} is multiplied by β: "
        + ENDING
        + " That reads {p} as the ratio {p}/β, as some repositories do; leave β out, "
        "or say so.",
        "β{p}",
        lambda v, h: v * h["beta"],
        only=("gamma", "delta"),
    ),
    SettingBug(
        "{p} is divided by β: " + ENDING + " Leave the division out.",
        "{p}/β",
        lambda v, h: v / h["beta"],
        only=("gamma", "delta"),
    ),
    SettingBug("{p} counts double: " + ENDING + " Look for a factor 2.", "2{p}", lambda v, h: 2.0 * v),
    SettingBug("{p} counts half: " + ENDING + " Look for a factor ½.", "{p}/2", lambda v, h: 0.5 * v),
)
"""Mistakes with a hyperparameter; of two that give the same loss the first is named."""


@dataclass(frozen=True)
class _Altered(Source):
    """A source whose value a mistake alters, in view of all values that were meant."""

    change: Callable[[float, Mapping[str, Any]], float] = lambda value, meant: value
    meant: Reading | None = None

    def value(self, settings: Any) -> Any:
        assert self.meant is not None
        return self.change(super().value(settings), self.meant.values(settings))


def diagnose(probe: Probe, records: Sequence[Objective], nearest: bool = False) -> Diagnosis | None:
    """Return the first usual mistake that turns one of these objectives into the function, or None.

    Args:
        probe: the function.
        records: the objectives.
        nearest: whether to take only those whose hyperparameters are all the function's own, by name.
    """
    limit = 0 if nearest else 1000
    found = list(_setting_bugs(probe, records, limit)) or list(_bugs(probe, records, limit))
    return found[0] if found else None


def _ways(probe: Probe, records: Sequence[Objective], limit: int, alike: bool) -> list[Reading]:
    """Return all readings up to a remoteness, the least far-fetched first."""
    ways = [reading for record in records for reading in readings(probe, record, alike)]
    return sorted((way for way in ways if remoteness(probe, way) <= limit), key=lambda way: remoteness(probe, way))


def _bugs(probe: Probe, records: Sequence[Objective], limit: int) -> Iterator[Diagnosis]:
    """Yield mistakes with the pairs: at most one."""
    for bug, reading in product(BUGS, _ways(probe, records, limit, alike=False)):
        if bug.needs <= _needs(reading.record, reading) and _explains(probe, reading, bug):
            match = Match(reading.record.name, reading.values(probe.subject.settings), probe.aggregation, True)
            yield Diagnosis(match, bug.words.format(name=str(match)))
            return


def _needs(record: Objective, reading: Reading) -> frozenset[str]:
    return record.bind(**{k: s.constant for k, s in reading.sources.items() if record.parameters[k].is_option}).needs


def _explains(probe: Probe, reading: Reading, bug: Bug) -> bool:
    return agrees(probe, reading, {}, bug.change, bug.sign) and follows(probe, reading, bug.change, bug.sign)


def _setting_bugs(probe: Probe, records: Sequence[Objective], limit: int) -> Iterator[Diagnosis]:
    """Yield mistakes with a hyperparameter: at most one."""
    for bug, reading in product(SETTING_BUGS, _ways(probe, records, limit, alike=True)):
        for key in _alterable(reading, bug):
            source = _Altered(own=reading.sources[key].own, change=bug.change, meant=reading)
            acting = Reading(reading.record, {**reading.sources, key: source})
            if agrees(probe, acting, {}) and follows(probe, acting):
                yield _worded(probe, reading, acting, key, bug)
                return


def _alterable(reading: Reading, bug: SettingBug) -> list[str]:
    if bug.only:
        return [key for key in bug.only if key in reading.sources and reading.sources[key].own == key]
    return [key for key, source in reading.sources.items() if source.own is not None]


def _worded(probe: Probe, meant: Reading, acting: Reading, key: str, bug: SettingBug) -> Diagnosis:
    settings = probe.subject.settings
    match = Match(meant.record.name, meant.values(settings), probe.aggregation, True)
    letters = {
        "p": symbol(key),
        "acting": bug.acting.format(p=symbol(key)),
        "got": f"{acting.values(settings)[key]:.4g}",
        "value": f"{meant.values(settings)[key]:.4g}",
        "name": meant.record.name,
    }
    return Diagnosis(match, bug.words.format(**letters))


def multiple_of(probe: Probe, records: Sequence[Objective]) -> str | None:
    """Say of which objective the function is a multiple, or None."""
    for record in records:
        for reading in readings(probe, record):
            values = reading.values(probe.subject.settings)
            theirs = losses(probe, record, values, probe.batches[0])
            index = int(theirs.abs().argmax()) if theirs is not None else 0
            if theirs is not None and float(theirs[index]) != 0.0:
                factor = float(probe.own[0][index] / theirs[index])
                if factor > 0.0 and agrees(probe, reading, {}, sign=factor):
                    match = Match(record.name, values, probe.aggregation, False)
                    return (
                        f"The loss is {factor:.4g} times {match}: it has the same minimisers, and the factor acts on "
                        "the step size. Drop it if hyperparameters are to mean what they mean elsewhere."
                    )
    return None


__all__ = ["Diagnosis", "diagnose", "multiple_of"]
