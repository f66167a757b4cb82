"""Exercises: files with a hole each, to be copied and filled in; what they are compared with lies elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

FILES: Mapping[str, Path] = MappingProxyType(
    {path.stem.partition("_")[0]: path for path in sorted(Path(__file__).parent.glob("ex[0-9][0-9]_*.py"))}
)
"""The file of each exercise, by its name."""

__all__ = ["FILES"]
