"""Exercises that check themselves: the references, and what compares a student's file with them.

The files with holes lie in `didsim.lessons.exercises`. A check runs the student's file, in a process of its own.
"""

from didsim.lessons.grading._check import SECONDS, Outcome, check_file, exercise_of
from didsim.lessons.grading._exercise import Exercise, Quiz, Slip
from didsim.lessons.grading._exercises import EXERCISES, find
from didsim.lessons.grading._start import solution, start

__all__ = [
    "EXERCISES",
    "SECONDS",
    "Exercise",
    "Outcome",
    "Quiz",
    "Slip",
    "check_file",
    "exercise_of",
    "find",
    "solution",
    "start",
]
