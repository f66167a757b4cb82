"""The eight lessons of the course, one module each."""

from collections.abc import Mapping
from types import MappingProxyType

from didsim.lessons import Lesson  # loaded before this package is

LESSONS: Mapping[str, Lesson] = MappingProxyType({lesson.slug: lesson for lesson in ()})
"""The lessons by their names, in the order of the course; the steps of each are computed when they are asked for."""

__all__ = ["LESSONS"]
