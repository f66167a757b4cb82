"""Who imports whom: the layers of the design, enforced over the import statements themselves."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import didsim
from didsim.experiment import known_experiments

PACKAGE = Path(didsim.__file__).parent
STDLIB = sys.stdlib_module_names

LAYER_0 = ("_numerics", "_checks", "_arrays", "errors", "_extras")
LAYER_1 = (
    *("policy", "spaces", "preference", "info", "differential", "optima"),
    *("identification", "_formulas", "_scores", "_dataset", "_joint", "_parts"),
)
BELOW_THE_TOP = (
    *(
        *LAYER_0,
        *LAYER_1,
        "worlds",
        "objectives",
        "torch_bridge",
        "doctor",
        "engine",
        "stationary",
        "claims",
        "experiment",
        "plotting",
    ),
)
HELPERS = ("_terminal", "_arguments", "_catalogue", "_findings", "_pictures", "_replaying", "_report")
COMMANDS = ("_reproducing", "_solving", "_verifying", "_language_models", "_teaching")
"""What the commands are made of, and the modules of one command each."""

EXACT = frozenset({"numpy", "scipy"})


class Layer(NamedTuple):
    """What a part of the package may import: parts of didsim, and libraries."""

    parts: tuple[str, ...]
    libraries: frozenset[str]


# The front door, `didsim` itself, counts as a part of the name ""; `from didsim import js` counts as "info".
LAYERS = {
    **dict.fromkeys(LAYER_0, Layer(LAYER_0, EXACT)),
    **dict.fromkeys(LAYER_1, Layer((*LAYER_0, *LAYER_1), EXACT)),
    "worlds": Layer((*LAYER_0, *LAYER_1, "worlds"), EXACT),
    "objectives": Layer((*LAYER_0, "objectives"), frozenset({"torch"})),
    "doctor": Layer((*LAYER_0, "objectives", "doctor"), frozenset({"torch"})),
    "torch_bridge": Layer(LAYER_0, frozenset({"numpy", "torch"})),
    "engine": Layer(
        (*LAYER_0, *LAYER_1, "objectives", "torch_bridge", "engine"), EXACT | frozenset({"torch", "pandas"})
    ),
    "stationary": Layer(
        (*LAYER_0, *LAYER_1, "objectives", "torch_bridge", "engine", "stationary"), EXACT | frozenset({"torch"})
    ),
    "claims": Layer(
        (*LAYER_0, *LAYER_1, "objectives", "torch_bridge", "engine", "stationary", "claims"),
        EXACT | frozenset({"torch"}),
    ),
    "llm": Layer(
        (*LAYER_0, *LAYER_1, "objectives", "torch_bridge", "doctor", "llm"),
        frozenset({"torch", "transformers", "tokenizers", "trl", "accelerate", "datasets", "peft"}),
    ),
    "plotting": Layer((*LAYER_0, "plotting"), EXACT | frozenset({"pandas", "matplotlib"})),
    "experiment": Layer(("", *BELOW_THE_TOP), EXACT | frozenset({"pandas", "filelock"})),
    "lessons": Layer(
        ("", "lessons", *BELOW_THE_TOP),
        EXACT | frozenset({"pandas", "matplotlib", "torch", "latex2mathml", "marimo"}),
    ),
    "_teaching": Layer(("lessons", *HELPERS, *BELOW_THE_TOP), frozenset({"click"})),
    "_terminal": Layer(LAYER_0, frozenset({"click"})),
    "_catalogue": Layer(("", "_terminal", "lessons", *BELOW_THE_TOP), frozenset()),
    "_arguments": Layer(("", "_terminal", *BELOW_THE_TOP), frozenset({"click"})),
    "_findings": Layer(("_terminal", *BELOW_THE_TOP), frozenset({"numpy", "pandas"})),
    "_pictures": Layer(("errors", "experiment", "plotting"), frozenset()),
    "_replaying": Layer(("claims", "errors", "_checks"), frozenset({"numpy"})),
    "_report": Layer(("", "plotting"), frozenset()),
    "_reproducing": Layer((*HELPERS, *BELOW_THE_TOP), frozenset({"click", "pandas", "tqdm"})),
    "_verifying": Layer((*HELPERS, *BELOW_THE_TOP), frozenset({"click", "tqdm"})),
    "_language_models": Layer(("", "_language_models", "llm", *HELPERS, *BELOW_THE_TOP), frozenset({"click", "tqdm"})),
    "_solving": Layer((*HELPERS, *BELOW_THE_TOP), frozenset({"click", "tqdm"})),
    "cli": Layer(("", *COMMANDS, *HELPERS, *BELOW_THE_TOP), frozenset({"click", "pandas", "torch", "tqdm"})),
    "__main__": Layer(("cli",), frozenset()),
    "": Layer((*LAYER_1, "objectives", "doctor", "engine", "stationary", "claims", "worlds"), frozenset()),
}


def source_files() -> dict[str, Path]:
    """Every module of the package by its name; the experiments inside a wheel are data here."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("didsim", *path.relative_to(PACKAGE).with_suffix("").parts)
        if "_experiments" not in parts:
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


FILES = source_files()


def imported(source: str) -> set[str]:
    """Return the modules that a source imports, wherever the statement stands; a relative one begins with a dot."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom) and node.module == "didsim":
            names.update(home_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return names


def home_of(name: str) -> str:
    """Return the module that `from didsim import name` reaches."""
    submodule = f"didsim.{name}"
    return submodule if submodule in FILES else didsim._HOME.get(name, "didsim")


def part_of(module: str) -> str:
    """Return the part of didsim that a module belongs to: the second word of its name."""
    return module.split(".")[1] if "." in module else ""


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "didsim"


def trespasses(module: str, source: str) -> list[str]:
    """Return the imports of a module that its layer does not allow."""
    layer = LAYERS[part_of(module)]
    wrong = []
    for name in sorted(imported(source)):
        if name.startswith("."):
            wrong.append(name)
        elif is_ours(name):
            if part_of(name) not in layer.parts:
                wrong.append(name)
        elif name.split(".")[0] not in STDLIB | layer.libraries:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_its_layer_allows(module):
    assert part_of(module) in LAYERS, f"say in {Path(__file__).name} which layer {module} belongs to"
    assert trespasses(module, FILES[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("didsim.policy", "import torch"),
        ("didsim.policy", "from didsim.objectives import Pairs"),
        ("didsim.policy", "from didsim import train"),
        ("didsim.info", "from . import policy"),
        ("didsim.info", "from .policy import Policy"),
        ("didsim._checks", "from didsim.policy import Policy"),
        ("didsim.errors", "import didsim"),
        ("didsim.objectives._links", "import numpy as np"),
        ("didsim.objectives._links", "from didsim.torch_bridge import to_array"),
        ("didsim.objectives._links", "def f():\n    from didsim.policy import Policy"),
        ("didsim.engine._loop", "from didsim.experiment import Spec"),
        ("didsim.engine._loop", "import matplotlib.figure"),
        ("didsim.engine._loop", "from didsim.stationary import solve"),
        ("didsim.stationary._solve", "import pandas"),
        ("didsim.stationary._solve", "from didsim.plotting import render"),
        ("didsim.claims._alpha", "import pandas"),
        ("didsim.claims._alpha", "from didsim.experiment import Spec"),
        ("didsim.stationary._solve", "from didsim.claims import verify"),
        ("didsim.torch_bridge", "from didsim.engine import train"),
        ("didsim.plotting._curves", "from didsim.engine import METRICS"),
        ("didsim.plotting._curves", "import torch.nn"),
        ("didsim.experiment._spec", "from didsim.cli import main"),
        ("didsim.experiment._spec", "from didsim import _terminal"),
        ("didsim.cli", "import requests"),
    ],
)
def test_a_planted_trespass_is_noticed(module, statement):
    assert len(trespasses(module, statement)) == 1


def test_nothing_imports_the_command_line_but_what_runs_it():
    importers = [module for module, path in FILES.items() if "didsim.cli" in imported(path.read_text("utf-8"))]
    assert importers == ["didsim.__main__"]


def test_numpy_and_torch_meet_in_one_module_only_and_in_the_checks_that_compare_them():
    def roots(path):
        return {name.split(".")[0] for name in imported(path.read_text("utf-8"))}

    meeting = [module for module, path in FILES.items() if {"numpy", "torch"} <= roots(path)]
    assert [module for module in meeting if part_of(module) != "claims"] == ["didsim.torch_bridge"]


@pytest.mark.parametrize("module", FILES)
def test_private_modules_of_a_subpackage_are_imported_from_inside_it_only(module):
    inside = module.rpartition(".")[0] if FILES[module].name != "__init__.py" else module
    for name in imported(FILES[module].read_text("utf-8")):
        package, _, last = name.rpartition(".")
        if is_ours(package) and package != "didsim" and last.startswith("_"):
            assert package == inside, f"{module} imports {name}"


def private_imports(module: str) -> set[str]:
    ours = {name for name in imported(FILES[module].read_text("utf-8")) if is_ours(name)}
    return {name for name in ours if any(part.startswith("_") for part in name.split("."))}


def test_the_command_line_uses_public_modules_and_its_own_helpers():
    helpers = {f"didsim.{name}" for name in (*HELPERS, *COMMANDS)}
    assert private_imports("didsim.cli") <= helpers
    for module in [name for name in FILES if part_of(name) in (*HELPERS, *COMMANDS)]:
        inside = {name for name in FILES if name.startswith(f"didsim.{part_of(module)}.")}
        assert private_imports(module) <= {*helpers, *inside, "didsim._checks", "didsim._extras"}, module


@pytest.mark.parametrize("module", [name for name in FILES if part_of(name) == "lessons"])
def test_lessons_use_public_modules_only(module):
    assert {name for name in private_imports(module) if part_of(name) != "lessons"} == set()


def test_the_command_line_takes_only_public_names():
    tree = ast.parse(FILES["didsim.cli"].read_text("utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and is_ours(str(node.module))]
    for node in froms:
        if str(node.module).removeprefix("didsim.") not in (*HELPERS, *COMMANDS):
            module = importlib.import_module(str(node.module))
            public = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
            assert {alias.name for alias in node.names} <= {*public, "__version__"}, node.module


def test_modules_are_loaded_by_name_only_at_the_front_door():
    def calls(path):
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        return {node.id for node in nodes if isinstance(node, ast.Name)} & {"import_module", "__import__"}

    assert [module for module, path in FILES.items() if calls(path)] == ["didsim"]


# --- the front door ---------------------------------------------------------------------------------------


def test_the_front_door_names_exactly_what_it_loads_lazily():
    assert sorted(didsim.__all__) == sorted([*didsim._HOME, "__version__"])


def test_the_front_door_shows_type_checkers_the_same_names():
    tree = ast.parse(FILES["didsim"].read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert homes == didsim._HOME


@pytest.mark.parametrize("name", didsim.__all__)
def test_a_name_of_the_front_door_is_its_homes_public_name(name):
    home = didsim._HOME.get(name)
    if home is not None:
        module = importlib.import_module(home)
        assert getattr(didsim, name) is getattr(module, name)
        assert name in getattr(module, "__all__", vars(module))


def test_a_name_that_the_front_door_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = didsim.trian


def test_listing_the_front_door_shows_all_of_it():
    assert set(dir(didsim)) == set(didsim.__all__)


def test_no_module_has_the_name_of_a_public_function():
    modules = {info.name for info in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules & set(didsim.__all__) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import didsim",
        "import sys, didsim.cli; sys.argv = ['didsim', '--help']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim', 'reproduce', '--help']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim', 'solve', '--help']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim', 'verify', '--help']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim', 'llm', '--help']; run()",
        "import sys, didsim.cli; sys.argv = ['didsim', 'teach', 'list']; run()",
    ],
)
def test_heavy_libraries_stay_unloaded(code):
    lines = (
        "import json, sys",
        "def run():",
        "    try: didsim.cli.main()",
        "    except SystemExit as ending: assert ending.code == 0",
        code,
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert "didsim" in loaded
    assert loaded & {"torch", "matplotlib", "pandas", "transformers"} == set()


# --- experiment files -------------------------------------------------------------------------------------


EXPERIMENTS = known_experiments()


def defined_names(tree: ast.Module) -> set[str]:
    """Return the names that a file defines at its top level, imports apart."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr), ast.dump(node)
    return names


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_defines_four_public_names_and_perhaps_the_numbers_of_its_caption(name):
    names = {word for word in defined_names(ast.parse(EXPERIMENTS[name].read_text("utf-8"))) if word[0] != "_"}
    assert names - {"numbers"} == {"SPEC", "run_cell", "summarise", "draw"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_imports_public_names_of_didsim_only(name):
    tree = ast.parse(EXPERIMENTS[name].read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_ours(str(node.module)):
            assert not any(part.startswith("_") for part in str(node.module).split("."))
            public = set(importlib.import_module(str(node.module)).__all__)
            assert {alias.name for alias in node.names} <= public
        else:
            assert not (isinstance(node, ast.Import) and any(is_ours(alias.name) for alias in node.names))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_file_is_named_after_its_figure(name):
    calls = [node for node in ast.walk(ast.parse(EXPERIMENTS[name].read_text("utf-8"))) if isinstance(node, ast.Call)]
    spec = next(call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Spec")
    keywords = {keyword.arg: keyword.value for keyword in spec.keywords}
    assert ast.literal_eval(keywords["id"]) == name
