"""What an exercise is: a function with a hole or a list of questions, with its reference, inputs, hints and slips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Inputs = Mapping[str, Any]
"""The arguments of one call by name, in the order of the function's arguments."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Slip:
    """A plausible mistake: a function that makes it, and the sentence that names it."""

    words: str
    function: Function


def call(function: Function, inputs: Inputs) -> Any:
    """Call a function with its inputs in order: what most exercises look at is its result."""
    return function(*inputs.values())


@dataclass(frozen=True)
class Exercise:
    """A function to write, and what it is compared with.

    Attributes:
        name: such as "ex01".
        lesson: the number of the lesson that it belongs to.
        title: what it is about.
        reference: the right function, under the name that the file gives it; its source is the solution.
        draw: random inputs from a numpy generator, of numbers with few digits so that they can be copied.
        extremes: inputs at which a careless function breaks, by the words that describe them.
        hints: from the gentlest to the plainest.
        slips: mistakes that are recognised by what they return.
        observe: what of a call is compared: its result, unless gradients matter.
        relative: the error that is allowed, relative to the expected number.
        absolute: the error that is allowed where the expected number is 0.
    """

    name: str
    lesson: int
    title: str
    reference: Function
    draw: Callable[[Any], Inputs]
    extremes: Mapping[str, Inputs]
    hints: tuple[str, ...]
    slips: tuple[Slip, ...]
    observe: Callable[[Function, Inputs], Any] = call
    relative: float = 1e-9
    absolute: float = 1e-12


@dataclass(frozen=True)
class Quiz:
    """Questions of multiple choice, answered in a mapping ANSWERS of the student's file.

    Attributes:
        name: such as "ex17".
        lesson: the number of the lesson that it belongs to.
        title: what it is about.
        answers: the right choice of each question.
        choices: the words that may be chosen for each question.
        reasons: why the answer is right, by question; the solution.
        hints: from the gentlest to the plainest.
        looks: for a wrong answer, what to look at, by question; it does not say the answer.
    """

    name: str
    lesson: int
    title: str
    answers: Mapping[str, str]
    choices: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]
    hints: tuple[str, ...]
    looks: Mapping[str, str]


__all__ = ["Exercise", "Function", "Inputs", "Quiz", "Slip", "call"]
