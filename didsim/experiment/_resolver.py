"""Finding experiment files: in a checkout, in the installed package, or where the user says."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import didsim
from didsim._checks import check_choice
from didsim.errors import BadDataError
from didsim.experiment._spec import Spec

NAMES = ("SPEC", "run_cell", "summarise", "draw")
MAIN = ("fig1_left", "fig1_right", "fig7", "fig4")
"""The figures that `didsim reproduce` makes without being told which."""


@dataclass(frozen=True)
class Experiment:
    """An experiment file, loaded: its path, its plan, and its three functions in `module`."""

    path: Path
    spec: Spec
    module: ModuleType


def experiment_directory() -> Path:
    """Return the directory of the experiment files: the checkout's, else the copy inside the package."""
    package = Path(didsim.__file__).parent
    checkout = package.parent / "experiments"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "_experiments"


def known_experiments() -> dict[str, Path]:
    """Return the path of every experiment that comes with didsim, by name."""
    return {path.stem: path for path in sorted(experiment_directory().glob("[a-z]*.py"))}


def load_experiment(name: str) -> Experiment:
    """Load an experiment by its name, or from a file of the user's.

    A file is run as code: it is trusted like any script that one starts.

    Raises:
        ValueError: if there is no experiment of that name.
        BadDataError: if a file cannot be loaded, or lacks one of the four names.
    """
    if not name.endswith(".py"):
        known = known_experiments()
        return _load(known[check_choice("experiment", name, known)])
    path = Path(name)
    if not path.is_file():
        raise BadDataError(f"There is no experiment file {name}. `didsim list figures` names those that exist.")
    return _load(path)


def _load(path: Path) -> Experiment:
    module_name = f"didsim_experiment_{path.stem}"
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None  # a .py file has a loader
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise BadDataError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [name for name in NAMES if not hasattr(module, name)]
    if missing:
        raise BadDataError(f"{path} lacks {', '.join(missing)}. An experiment file defines {', '.join(NAMES)}.")
    if not isinstance(module.SPEC, Spec):
        raise BadDataError(f"SPEC of {path} must be a didsim.experiment.Spec; got {type(module.SPEC).__name__}.")
    return Experiment(path, module.SPEC, module)
