"""Comparing what a student's function returns with what the reference returns, and putting both into words."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Function, Inputs

DIGITS, MOST_SHOWN = 10, 600


@dataclass(frozen=True)
class Difference:
    """Where two results differ: what is wrong in a sentence, and both as text."""

    sentence: str
    expected: str
    got: str


def difference(exercise: Exercise, expected: Any, got: Any) -> Difference | None:
    """Return how a result differs from the right one, or None if it does not."""
    if isinstance(expected, Mapping):
        return _first_difference(exercise, expected, got)
    right = np.asarray(expected)
    sentence = _wrong_kind(right, got) or _wrong_shape(right, np.asarray(got))
    if sentence:
        return Difference(sentence, shown(right), shown(got))
    values = np.asarray(got)
    if right.dtype == bool:
        return None if np.array_equal(right, values) else Difference("", shown(right), shown(values))
    if _close(exercise, right, values):
        return None
    return Difference(_wrong_numbers(right, values), *_told_apart(right, values))


def _first_difference(exercise: Exercise, expected: Mapping[str, Any], got: Any) -> Difference | None:
    """Compare the parts of an observation one by one: a loss, and its gradients."""
    if not isinstance(got, Mapping):
        none = "Your function returns None: is there a return?"
        sentence = none if got is None else f"Your result is of type {type(got).__name__}; a torch tensor is expected."
        return Difference(sentence, shown(next(iter(expected.values()))), shown(got))
    for name, value in expected.items():
        if got.get(name) is None:
            return Difference(f"{name}: there is none, since the loss does not depend on it.", shown(value), "none")
        found = difference(exercise, value, got[name])
        if found:
            words = f"{name} is wrong. {found.sentence}".strip()
            return Difference(words[0].upper() + words[1:], found.expected, found.got)
    return None


def _close(exercise: Exercise, right: np.ndarray, values: np.ndarray) -> bool:
    if not np.issubdtype(values.dtype, np.number):
        return False
    return bool(np.allclose(values, right, rtol=exercise.relative, atol=exercise.absolute))


def _wrong_kind(right: np.ndarray, got: Any) -> str:
    """Say what is wrong with a result that is no array of numbers, or nothing."""
    if got is None:
        return "Your function returns None: is there a return?"
    try:
        values = np.asarray(got)
    except ValueError:
        return "Your result is a list of parts of different lengths, which is no array."
    if right.dtype == bool:
        return (
            "" if values.dtype == bool else f"Your result is of type {_type(got, values)}; truth values are expected."
        )
    if np.issubdtype(values.dtype, np.complexfloating):
        return "Your result has complex numbers. Is there a logarithm or a root of something negative?"
    if values.dtype == bool or not np.issubdtype(values.dtype, np.number):
        return f"Your result is of type {_type(got, values)}; numbers are expected."
    return ""


def _type(got: Any, values: np.ndarray) -> str:
    return "bool" if values.dtype == bool else type(got).__name__


def _wrong_shape(right: np.ndarray, values: np.ndarray) -> str:
    if values.shape == right.shape:
        return ""
    return f"Your result is {_shape(values)}; expected is {_shape(right)}."


def _shape(values: np.ndarray) -> str:
    return f"an array of shape {values.shape}" if values.shape else "a single number"


def _wrong_numbers(right: np.ndarray, values: np.ndarray) -> str:
    if np.any(np.isnan(values) & ~np.isnan(right)):
        return "nan comes of 0 · log 0, 0/0, ∞/∞ or ∞ − ∞."
    if np.any(np.isinf(values) & np.isfinite(right)):
        return "An infinite number comes of exp above 709, of a division by 0 or of log 0."
    if values.dtype in (np.float32, np.float16) and np.allclose(values, right, rtol=1e-3, atol=1e-6):
        return f"Your result is {values.dtype}, which keeps too few digits. Compute in float64."
    if np.allclose(values, right, rtol=1e-4, atol=1e-8):
        return "It is nearly right: is there a small number added somewhere, a rounding, or a cancellation?"
    return ""


def _told_apart(right: np.ndarray, values: np.ndarray) -> tuple[str, str]:
    """Return both as text, with all digits if they look alike with fewer."""
    texts = shown(right), shown(values)
    return texts if texts[0] != texts[1] else (shown(right, 17), shown(values, 17))


def shown(value: Any, digits: int = DIGITS) -> str:
    """Return a value as plain text, so that it can be read and copied.

    >>> shown(np.array([0.5, -np.inf])), shown(2.0), shown(np.array([1, 0]) == 1)
    ('[0.5, -inf]', '2', '[True, False]')
    """
    if callable(value):
        return f"{getattr(value, '__name__', value)}: {' '.join(str(value.__doc__).split())}"
    if isinstance(value, str) or not isinstance(value, float | int | list | tuple | np.ndarray | np.generic):
        return repr(value)[:MOST_SHOWN]
    try:
        text = np.array2string(
            np.asarray(value),
            separator=", ",
            threshold=40,
            max_line_width=76,
            formatter={"float_kind": lambda x: f"{x:.{digits}g}", "bool": str},
        )
    except ValueError:  # parts of different lengths
        text = repr(value)
    return text[:MOST_SHOWN]


def recognised(exercise: Exercise, function: Function, cases: Sequence[Inputs]) -> str:
    """Return the words of the slip that gives what the student's function gives, or nothing."""
    for slip in exercise.slips:
        try:
            if all(_same(exercise, slip.function, function, inputs) for inputs in cases):
                return slip.words
        except Exception:  # theirs fails elsewhere in another way
            return ""
    return ""


def _same(exercise: Exercise, slip: Function, function: Function, inputs: Inputs) -> bool:
    """Return whether a slip and the student's function give the same, nan for nan."""
    theirs = exercise.observe(function, copy.deepcopy(dict(inputs)))
    ours = exercise.observe(slip, inputs)
    pairs = [(ours[k], theirs.get(k)) for k in ours] if isinstance(ours, Mapping) else [(ours, theirs)]
    return all(_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or object in (a.dtype, b.dtype):
        return a.shape == b.shape and a.dtype == b.dtype and a.tolist() == b.tolist()
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True))


__all__ = ["Difference", "difference", "recognised", "shown"]
