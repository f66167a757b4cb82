"""The documents say what is true: code runs, commands exist, numbers are those of the data, pins are complete."""

import ast
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest
from conftest import ALL_COMMANDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import didsim
from didsim import OBJECTIVES, errors
from didsim.cli import cli
from didsim.experiment import MAIN, known_experiments

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


ROUNDING = 1e-8
"""What is 0 in exact arithmetic is less than this on every machine: residuals, and distances from an optimum."""


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- README -----------------------------------------------------------------------------------------------


def test_the_python_of_the_readme_runs(capsys):
    found = blocks(README, "python")
    assert len(found) >= 2
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    OBJECTIVES.remove("squared_hinge")
    printed = capsys.readouterr().out
    shown = [float(number) for number in re.findall(r"^(-?\d\S*)$", printed, re.MULTILINE)]
    trained, optimum = shown[:2]
    assert trained < 0.01
    assert abs(optimum) < 1e-12  # "where the loss ends: 0"
    assert "tensor([" in printed


def test_the_table_of_solutions_in_the_readme_is_what_is_printed(run):
    [sample] = [block for block in blocks(README, "text") if block.startswith("$ didsim solve")]
    command, shown = sample.split("\n", 1)
    assert differing(run(*command.split()[2:]).stdout, shown, tolerance=1e-3) == []


def differing(printed: str, shown: str, tolerance: float) -> list[tuple[str, str]]:
    """Return the words in which an output differs from what a page shows; rounding errors differ between machines."""
    words, said = printed.split(), shown.split()
    pairs = [pair for pair in zip(words, said, strict=False) if not _close(*pair, tolerance)]
    return pairs + [(word, "") for word in words[len(said) :]] + [("", word) for word in said[len(words) :]]


def _close(one: str, other: str, tolerance: float) -> bool:
    try:
        return float(one) == pytest.approx(float(other), rel=tolerance, abs=ROUNDING)
    except ValueError:
        return one == other


def test_a_page_that_shows_another_output_is_found_out():
    assert differing("dpo 0.2162 1e-31\n", "dpo  0.2163 7e-16", tolerance=1e-3) == []
    assert differing("dpo 0.2162", "simpo 0.2192 end", tolerance=1e-3) == [
        ("dpo", "simpo"),
        ("0.2162", "0.2192"),
        ("", "end"),
    ]


def rows_of_the_command_table() -> dict[str, str]:
    """Return the rows of the table of commands: name and the whole row."""
    return {name: row for row, name in re.findall(r"^(\| `didsim ([a-z-]+(?: [a-z-]+)?).*)$", README, re.MULTILINE)}


def test_the_readme_names_every_command_and_no_other():
    assert set(rows_of_the_command_table()) == set(ALL_COMMANDS)


def options_of(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("name", sorted(ALL_COMMANDS))
def test_the_readme_names_options_that_their_command_has(name):
    named = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][a-z-]*)", rows_of_the_command_table()[name]))
    assert named <= options_of(ALL_COMMANDS[name])


def test_the_options_that_every_command_takes_are_taken_by_every_command():
    [sentence] = re.findall(r"Every command takes (.*?)\.", README, re.DOTALL)
    named = set(re.findall(r"`(--?[a-z]+)`", sentence))
    assert named >= {"--json", "-q", "-v", "--help"}
    for command in ALL_COMMANDS.values():
        assert named <= options_of(command)


def test_every_option_named_anywhere_in_the_readme_exists():
    known = set().union(*map(options_of, ALL_COMMANDS.values()), options_of(cli))
    of_accelerate = {"--num_processes", "--use_fsdp", "--fsdp_version", "--fsdp_auto_wrap_policy", "--mixed_precision"}
    foreign = {"--extra-index-url", *of_accelerate}  # the first is pip's
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z_-]*)", re.sub(r"<!--.*?-->", "", README)))
    assert named - foreign <= known


@pytest.mark.parametrize("name", ["list"])
def test_the_readme_names_what_can_be_listed(name):
    [kind] = [p for p in cli.commands[name].params if isinstance(p, click.Argument)]
    assert isinstance(kind.type, click.Choice)
    assert r"[" + r"\|".join(kind.type.choices) + "]" in rows_of_the_command_table()[name]


def test_the_readme_names_every_exit_code():
    [sentence] = re.findall(r"Exit codes: (.*?)signals\.", README, re.DOTALL)
    codes = {int(code) for code in re.findall(r"\b(\d+)\b", sentence)}
    of_errors = {error.exit_code for error in vars(errors).values() if isinstance(error, type)}
    assert codes == of_errors | {0, 1, 2, 3, 130, 143}


def test_what_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", README)
    files = [link for link in links if not link.startswith(("http:", "https:", "#"))]
    assert len(files) >= 3
    assert [link for link in files if not (ROOT / link.partition("#")[0]).is_file()] == []


def test_the_picture_of_the_readme_has_a_description():
    assert all(len(text) > 20 for text in re.findall(r"!\[(.*?)\]", README))


def test_the_numbers_of_the_readme_are_those_of_the_figure():
    path = ROOT / "figures" / "readme_table.py"
    specification = importlib.util.spec_from_file_location("readme_table", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    numbers = script.final_distances(ROOT / "figures" / "fig7.csv")
    assert "**DPO**" in numbers
    assert README == script.filled(README, numbers), "run `make figures`, or figures/readme_table.py"


def committed(name: str, ending: str) -> Path:
    return ROOT / "figures" / f"{name}.{ending}"


@pytest.mark.parametrize("name", known_experiments())
def test_a_committed_figure_is_the_full_one_and_belongs_to_its_numbers(name):
    from hashlib import sha256

    from didsim.experiment import caption_of, load_experiment

    manifest = json.loads(committed(name, "json").read_text("utf-8"))
    experiment = load_experiment(name)
    spec = experiment.spec
    assert manifest["csv_sha256"] == sha256(committed(name, "csv").read_bytes()).hexdigest()
    assert manifest["parameters"] == json.loads(
        json.dumps({"axes": dict(spec.axes), "batch": dict(spec.batch), "constants": dict(spec.constants)})
    )
    assert (manifest["caption"], manifest["alt"]) == (caption_of(experiment, spec, committed(name, "csv")), spec.alt)
    assert all(committed(name, ending).stat().st_size > 1000 for ending in ("svg", "pdf", "png"))


def test_the_readme_names_the_main_figures_as_the_command_does():
    assert "main figures" in README
    for name in MAIN:
        assert name in (cli.commands["reproduce"].help or "")


# --- make -------------------------------------------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", "constraints.txt"])
def test_every_make_target_that_is_named_exists(path):
    text = (ROOT / path).read_text("utf-8")
    named = {word for word in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)}
    assert named <= TARGETS


def test_make_explains_every_target():
    explained = set(re.findall(r'@echo "make ([a-z-]+)', MAKEFILE))
    assert explained == TARGETS - {"help"}
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == TARGETS


def test_the_main_branch_must_pass_checks_tests_and_slow_tests():
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make test", "make test-all"]
    assert "set -euo pipefail" in lines
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_contributing_names_files_that_exist():
    for name in re.findall(r"`((?:didsim|tests|experiments)/[\w/.]+)`", CONTRIBUTING):
        assert (ROOT / name).exists(), name


# --- versions and pins ------------------------------------------------------------------------------------


def test_the_changelog_names_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## .*\b{re.escape(didsim.__version__)}\b", changelog, re.MULTILINE)


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [didsim.__version__]
    assert re.findall(r"^license: (.*)$", citation, re.MULTILINE) == [PROJECT["license"]]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    requirements = [Requirement(line.partition("#")[0].strip()) for line in lines if line.partition("#")[0].strip()]
    assert len(requirements) == len({canonicalize_name(r.name) for r in requirements}), "a package is pinned twice"
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


EXTRAS = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
OTHERS = [text for text in EXTRAS if Requirement(text).name != PROJECT["name"]]  # an extra may bring in another
REQUIREMENTS = [*PROJECT["dependencies"], *OTHERS]


def test_every_pin_is_exact():
    for pin in pins().values():
        assert [part.operator for part in pin.specifier] == ["=="], str(pin)
        assert "*" not in str(pin.specifier)


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_every_requirement_is_pinned_within_its_range(text):
    requirement = Requirement(text)
    pin = pins()[canonicalize_name(requirement.name)]
    [version] = [part.version for part in pin.specifier]
    assert requirement.specifier.contains(version, prereleases=True)


def test_every_requirement_has_a_lower_bound():
    for text in REQUIREMENTS:
        assert any(part.operator == ">=" for part in Requirement(text).specifier), text


def imported_by(paths):
    """Return the libraries outside Python's own that some modules import."""
    imported = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    return imported - set(sys.stdlib_module_names) - {"didsim"}


def names_of(texts):
    return {canonicalize_name(Requirement(text).name) for text in texts}


PARTS = {"llm": ROOT / "didsim" / "llm", "teach": ROOT / "didsim" / "lessons"}
"""The parts of the package that an extra serves."""


def test_what_the_code_imports_is_required():
    required = names_of(PROJECT["dependencies"])
    package = {path for path in (ROOT / "didsim").rglob("*.py") if not set(PARTS.values()) & set(path.parents)}
    assert imported_by([*package, *(ROOT / "experiments").glob("*.py")]) == required
    for extra, part in PARTS.items():
        assert imported_by(part.rglob("*.py")) - required <= names_of(PROJECT["optional-dependencies"][extra])
