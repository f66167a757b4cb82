"""Optional dependencies: what an extra brings, and whether it is there."""

import importlib.util

MODULES = {"llm": ("trl", "peft")}
"""Modules by which one sees whether an extra is installed."""


def missing(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed.

    >>> missing("")
    []
    """
    return [name for name in MODULES.get(extra, ()) if importlib.util.find_spec(name) is None]
