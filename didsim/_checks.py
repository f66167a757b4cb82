"""Argument checks with one message format: what, what was accepted, what came, what to do."""

import difflib
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def message(name: str, accepted: str, got: object, hint: str = "") -> str:
    """Word an error: ``name must be <accepted>; got <got>. <hint>``."""
    text = f"{name} must be {accepted}; got {got!r}."
    return f"{text} {hint}" if hint else text


@dataclass(frozen=True)
class Interval:
    """An interval of real numbers, open where not said otherwise; infinite ends are never members."""

    low: float = -math.inf
    high: float = math.inf
    closed_low: bool = False
    closed_high: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = value >= self.low if self.closed_low else value > self.low
        below = value <= self.high if self.closed_high else value < self.high
        return above and below

    def __str__(self) -> str:
        left, right = "[" if self.closed_low else "(", "]" if self.closed_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


POSITIVE = Interval(0.0)
NON_NEGATIVE = Interval(0.0, closed_low=True)
REAL = Interval()


def check_number(name: str, value: Any, interval: Interval = REAL) -> float:
    """Return ``value`` as a float inside ``interval``, or raise TypeError or ValueError."""
    accepted = f"a finite number in {interval}"
    if isinstance(value, str | bytes) or value is None or _is_truth_value(value):
        raise TypeError(message(name, accepted, value))
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(message(name, accepted, value)) from error
    except OverflowError as error:
        raise ValueError(message(name, accepted, value, "It overflows a float64.")) from error
    if number not in interval:
        raise ValueError(message(name, accepted, value))
    return number


def _is_truth_value(value: Any) -> bool:
    """Tell True and False apart from 1 and 0, numpy's and torch's too (without loading either)."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def check_truth(name: str, value: Any) -> bool:
    """Return an argument that is True or False."""
    if not _is_truth_value(value):
        raise TypeError(message(name, "True or False", value))
    return bool(value)


def parse_number(name: str, text: str, interval: Interval = REAL) -> float:
    """Read a number typed by a person; a value that float64 would round to zero is refused."""
    accepted = f"a finite number in {interval}"
    try:
        number = float(text)
    except ValueError as error:
        hint = "Use a decimal point." if "," in text else ""
        raise ValueError(message(name, accepted, text, hint)) from error
    mantissa = text.lower().partition("e")[0]
    if number == 0.0 and any(digit in mantissa for digit in "123456789"):
        raise ValueError(message(name, accepted, text, "It underflows to 0 in float64."))
    return check_number(name, number, interval)


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` as an int in [low, high], or raise TypeError or ValueError."""
    accepted = f"a whole number from {low} to {high}"
    if _is_truth_value(value):
        raise TypeError(message(name, accepted, value))
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(message(name, accepted, value)) from error
    if not low <= number <= high:
        raise ValueError(message(name, accepted, value))
    return number


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, or raise ValueError naming the near ones."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    raise ValueError(message(name, f"one of {', '.join(known)}", value, did_you_mean(str(value), known)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the names nearest to a mistyped one; empty when none is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else ""
