"""The eight lessons of the course, one module each; the script of each page's models lies beside it."""

from collections.abc import Mapping
from types import MappingProxyType

from didsim.lessons import Lesson  # loaded before this package is
from didsim.lessons.course import lesson1, lesson2, lesson3, lesson4, lesson5, lesson6, lesson7, lesson8

LESSONS: Mapping[str, Lesson] = MappingProxyType(
    {
        module.LESSON.slug: module.LESSON
        for module in (lesson1, lesson2, lesson3, lesson4, lesson5, lesson6, lesson7, lesson8)
    }
)
"""The lessons by their names, in the order of the course; the steps of each are computed when they are asked for."""

__all__ = ["LESSONS"]
