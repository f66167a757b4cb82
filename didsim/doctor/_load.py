"""Finding the function that a person names on the command line: `module:function` or `path/to/file.py:function`."""

import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from didsim._checks import did_you_mean, message


def example_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Return the DPO loss as most people write it: something for `didsim check-loss` to look at."""
    policy_log_ratio = policy_chosen_logps - policy_rejected_logps
    reference_log_ratio = reference_chosen_logps - reference_rejected_logps
    return -torch.nn.functional.logsigmoid(beta * (policy_log_ratio - reference_log_ratio)).mean()


@contextmanager
def load_loss(target: str) -> Iterator[Callable[..., Any]]:
    """Import a function; while the context lasts, its own late imports find their modules too.

    Importing a module runs it: name only code that you would run.

    Args:
        target: ``module:function`` (the current directory is searched first) or ``path/to/file.py:function``; the
            function may be an attribute of an object, ``module:object.method``.

    Raises:
        ValueError: if there is no such module, file or function, or the module fails when it runs.
        TypeError: if what is found cannot be called.

    >>> with load_loss("didsim.doctor:example_loss") as function:
    ...     function.__name__
    'example_loss'
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ValueError(message("the loss", "module:function or path/to/file.py:function", target))
    path = Path(place) if place.endswith(".py") else None
    with _searching(path.resolve().parent if path else Path.cwd()):
        module = _imported(place, path)
        found = _attribute(module, name, place)
        if not callable(found):
            raise TypeError(message(target, "a function", type(found).__name__))
        yield found


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _imported(place: str, path: Path | None) -> ModuleType:
    try:
        return _run_file(path) if path else pkgutil.resolve_name(f"{place}:")
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{place} cannot be imported: {said}. Modules are looked for in {Path.cwd()} first."
        ) from error


def _run_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"didsim_loss_{path.stem}", path)
    assert specification is not None  # a .py file has a loader
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    specification.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            hint = did_you_mean(part, functions) or f"It has: {', '.join(functions[:10]) or 'no function'}."
            raise ValueError(f"{place} has no function {name!r}. {hint}")
        found = getattr(found, part)
    return found


__all__ = ["example_loss", "load_loss"]
