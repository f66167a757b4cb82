"""All exercises by name, in the order of the course."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from didsim.lessons.grading import (
    _lesson1,
    _lesson2,
    _lesson3,
    _lesson4,
    _lesson5,
    _lesson6,
    _lesson7,
    _lesson7_torch,
    _lesson8,
    _zoo,
)
from didsim.lessons.grading._exercise import Exercise, Quiz

_MODULES = (_lesson1, _lesson2, _lesson3, _lesson4, _lesson5, _lesson6, _lesson7, _lesson7_torch, _lesson8, _zoo)

EXERCISES: Mapping[str, Exercise | Quiz] = MappingProxyType(
    {exercise.name: exercise for module in _MODULES for exercise in module.EXERCISES}
)
"""Every exercise by its name."""


def find(name: str) -> Exercise | Quiz:
    """Return the exercise of that name; ValueError if there is none. "ex3" and "3" will do for "ex03".

    >>> find("3").name
    'ex03'
    """
    number = re.fullmatch(r"(?:ex)?0*([0-9]{1,2})", name)
    full = f"ex{int(number.group(1)):02}" if number else name
    if full not in EXERCISES:
        raise ValueError(f"exercise must be one of ex01 to {max(EXERCISES)}; got {name!r}.")
    return EXERCISES[full]


__all__ = ["EXERCISES", "find"]
