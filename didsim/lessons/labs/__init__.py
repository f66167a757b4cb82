"""Labs: marimo notebooks with the library live, one for each of four lessons.

What they share is in `didsim.lessons.labs.tools`, and what serves them in `didsim.lessons.labs.serving`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Lab:
    """A lab.

    Attributes:
        name: the name of the lesson that it belongs to.
        lesson: the number of that lesson.
        title: what it is about.
    """

    name: str
    lesson: int
    title: str

    @property
    def path(self) -> Path:
        """The notebook: a Python file."""
        return Path(__file__).with_name(f"lab{self.lesson}_{self.name.replace('-', '_')}.py")


_LABS = (
    Lab("did", 4, "The DID construction, and what it recovers"),
    Lab("convergence", 5, "Training against the exact solution"),
    Lab("entropy", 6, "Entropy, Claim 4.1, and displacement"),
    Lab("failure-modes", 8, "Failure modes"),
)

LABS: Mapping[str, Lab] = MappingProxyType({lab.name: lab for lab in _LABS})
"""The labs by the name of their lesson."""

__all__ = ["LABS", "Lab"]
