"""What a stranger gets: a wheel that works without the checkout, and a notebook that runs. All slow."""

import json
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import didsim
from didsim._extras import missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "didsim" / "lessons" / "quickstart.ipynb"


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; what it says on failure is shown."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "-w", folder, ROOT, cwd=folder)
    [path] = folder.glob("didsim-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it, which sees the libraries of this one but not its didsim."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    # plain paths: unlike site directories, these do not bring in the .pth file of an editable didsim
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(libraries)))
    return folder


@pytest.fixture
def clean():
    """The environment of a stranger: no path to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DIDSIM"))}


class TestWheel:
    def test_it_holds_the_package_and_the_experiments_and_nothing_else(self, wheel):
        names = set(zipfile.ZipFile(wheel).namelist())
        tops = {name.partition("/")[0] for name in names}
        assert tops == {"didsim", f"didsim-{didsim.__version__}.dist-info"}
        for path in (ROOT / "experiments").glob("*.py"):
            assert f"didsim/_experiments/{path.name}" in names
        sources = [*(ROOT / "didsim").rglob("*.py"), *(ROOT / "didsim").rglob("*.mplstyle"), NOTEBOOK]
        sources = [path for path in sources if "__pycache__" not in path.parts]
        assert {str(path.relative_to(ROOT)) for path in sources} <= names
        assert "didsim/py.typed" in names
        assert not [name for name in names if name.endswith((".pyc", ".csv", ".png"))]

    def test_it_is_built_the_same_twice(self, wheel, tmp_path):
        isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
        command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "-w", tmp_path, ROOT)
        run(*command, cwd=tmp_path)
        [again] = tmp_path.glob("*.whl")
        assert again.read_bytes() == wheel.read_bytes()

    def test_it_is_the_one_that_is_imported(self, installed, tmp_path, clean):
        code = "import didsim, didsim.experiment; print(didsim.__file__, didsim.__version__)"
        path, version = run(installed / "bin" / "python", "-c", code, cwd=tmp_path, env=clean).split()
        assert Path(path).is_relative_to(installed)
        assert version == didsim.__version__

    def test_its_figures_are_those_of_the_checkout(self, installed, tmp_path, clean):
        told = json.loads(run(installed / "bin" / "didsim", "list", "figures", "--json", cwd=tmp_path, env=clean))
        assert [row["name"] for row in told["figures"]] == sorted(p.stem for p in (ROOT / "experiments").glob("*.py"))

    def test_it_reproduces_a_figure_from_an_empty_directory_with_the_bytes_of_the_checkout(
        self, installed, tmp_path, clean
    ):
        there, here = tmp_path / "there", tmp_path / "here"
        for folder, didsim_command in (
            (there, [installed / "bin" / "didsim"]),
            (here, [sys.executable, "-c", "from didsim.cli import main; main()"]),
        ):
            folder.mkdir()
            env = clean if folder == there else {**clean, "PYTHONPATH": str(ROOT)}
            run(*didsim_command, "reproduce", "fig4", "--quick", cwd=folder, env=env)
        files = {path.name: path.read_bytes() for path in (there / "didsim-out").glob("fig4.*")}
        assert set(files) == {"fig4.csv", "fig4.svg", "fig4.pdf", "fig4.png", "fig4.json"}
        assert files == {path.name: path.read_bytes() for path in (here / "didsim-out").glob("fig4.*")}

    def test_it_makes_every_figure_in_its_quick_form_from_an_empty_directory(self, installed, tmp_path, clean):
        told = run(installed / "bin" / "didsim", "reproduce", "--all", "--quick", "--json", cwd=tmp_path, env=clean)
        made = json.loads(told, parse_constant=pytest.fail)["figures"]
        names = {path.stem for path in (ROOT / "experiments").glob("*.py")} - ({"bridge"} if missing("llm") else set())
        endings = {".csv": b"pane", ".svg": b"<?xm", ".pdf": b"%PDF", ".png": b"\x89PNG", ".json": b"{\n  "}
        assert {Path(path).name for path in made} == {f"{name}{ending}" for name in names for ending in endings}
        for path in made:
            assert (tmp_path / path).read_bytes()[:4] == endings[Path(path).suffix]

    def test_it_runs_the_users_own_experiment(self, installed, tmp_path, clean):
        source = (ROOT / "experiments" / "fig4.py").read_text("utf-8").replace('id="fig4"', 'id="mine"')
        (tmp_path / "mine.py").write_text(source, "utf-8")
        run(installed / "bin" / "didsim", "reproduce", "./mine.py", "--quick", cwd=tmp_path, env=clean)
        assert (tmp_path / "didsim-out" / "mine.svg").exists()

    def test_it_can_be_removed_again(self, wheel, tmp_path, clean):
        venv.create(tmp_path / "env", with_pip=True)
        pip = [tmp_path / "env" / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path, env=clean)
        run(*pip, "uninstall", "--quiet", "--yes", "didsim", cwd=tmp_path, env=clean)
        assert [path for path in (tmp_path / "env").rglob("*didsim*")] == []


class TestNotebook:
    def notebook(self) -> dict:
        return json.loads(NOTEBOOK.read_text("utf-8"))

    def test_it_exists_and_is_a_notebook(self):
        assert NOTEBOOK.is_file()
        assert self.notebook()["nbformat"] == 4

    def test_it_is_kept_without_outputs(self):
        cells = [cell for cell in self.notebook()["cells"] if cell["cell_type"] == "code"]
        assert cells
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)

    def test_it_explains_itself(self):
        kinds = [cell["cell_type"] for cell in self.notebook()["cells"]]
        assert kinds[0] == "markdown"
        assert kinds.count("markdown") >= 3

    def test_it_runs(self, tmp_path, monkeypatch):
        nbclient = pytest.importorskip("nbclient", reason="nbclient belongs to the development tools")
        pytest.importorskip("ipykernel", reason="ipykernel belongs to the development tools")
        import nbformat

        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert outputs
        assert not [output for output in outputs if output.get("name") == "stderr"]
