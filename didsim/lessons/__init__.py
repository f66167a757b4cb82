"""The course: lessons as data, and the pages that are made from them.

The quickstart notebook, `quickstart.ipynb`, lies beside this file.
"""

from didsim.lessons._lesson import (
    Axis,
    Chart,
    Control,
    Lesson,
    Mark,
    Notes,
    Question,
    Step,
    View,
    evenly,
    geometrically,
)
from didsim.lessons.course import LESSONS

__all__ = [
    "LESSONS",
    "Axis",
    "Chart",
    "Control",
    "Lesson",
    "Mark",
    "Notes",
    "Question",
    "Step",
    "View",
    "evenly",
    "geometrically",
]
