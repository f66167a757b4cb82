"""Whether a figure has the published numbers, and how `didsim reproduce --check` says so."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from didsim.errors import BadDataError
from didsim.experiment import compare, known_experiments, load_experiment, published_csv
from didsim.experiment._published import CLOSE, OUTLIERS

FIGURES = Path(__file__).parent.parent / "figures"
ROW = 5


@pytest.fixture
def copy(tmp_path):
    """A copy of a published CSV, to be changed."""
    return Path(shutil.copy(FIGURES / "fig4.csv", tmp_path))


def with_change(path, change):
    """Return how a CSV compares after one of its rows has been changed."""
    frame = pd.read_csv(FIGURES / "fig4.csv").astype({"x": float})
    changed = change(frame)
    (frame if changed is None else changed).to_csv(path, index=False)
    return compare(path, FIGURES / "fig4.csv")


def moved(column, by, rows=1):
    """Return a change of a column, by a function of the row, in some rows from `ROW` on."""

    def change(frame):
        for row in range(ROW, ROW + rows):
            frame.loc[row, column] += by(frame.loc[row])

    return change


@pytest.mark.parametrize("name", known_experiments())
def test_what_is_published_agrees_with_itself(name):
    found = compare(FIGURES / f"{name}.csv", published_csv(load_experiment(name)))
    assert found.agrees
    assert found.words == "has the published numbers"


@pytest.mark.parametrize("column", ["mean", "lo", "hi"])
def test_rounding_is_no_difference_and_what_is_more_is_said(copy, column):
    rounded = with_change(copy, moved(column, lambda row: 0.5 * CLOSE * row[column]))
    assert (rounded.agrees, rounded.words) == (True, "has the published numbers")
    near = with_change(copy, moved(column, lambda row: 2.0 * CLOSE * row[column]))
    assert near.agrees
    assert f"1 of {len(pd.read_csv(copy))} rows differ" in near.words


def test_means_agree_up_to_the_width_of_their_intervals_but_for_one_in_a_hundred(copy):
    total = len(pd.read_csv(copy))
    few = int(OUTLIERS * total)
    assert few > 0
    assert with_change(copy, moved("mean", lambda row: 0.9 * (row["hi"] - row["lo"]), rows=few + 1)).agrees
    assert with_change(copy, moved("mean", lambda row: 1.1 * (row["hi"] - row["lo"]), rows=few)).agrees
    far = with_change(copy, moved("mean", lambda row: 1.1 * (row["hi"] - row["lo"]), rows=few + 1))
    assert not far.agrees
    assert f"in {few + 1} of {total} rows: most in line " in far.words


def test_a_number_without_an_interval_is_to_be_the_same(copy):
    published = copy.with_name("published.csv")
    frame = pd.read_csv(FIGURES / "fig4.csv")
    frame["lo"] = frame["hi"] = frame["mean"]
    frame.to_csv(published, index=False)
    frame[["mean", "lo", "hi"]] *= 1.0 + 2.0 * CLOSE
    frame.to_csv(copy, index=False)
    assert not compare(copy, published).agrees


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop(index=len(frame) - 1),
        lambda frame: frame.drop(columns="band"),
        lambda frame: frame.__setitem__("n", frame["n"] + 1),
        moved("series", lambda row: "x"),
        moved("panel", lambda row: "x"),
        moved("x", lambda row: 0.5),
    ],
    ids=["a row less", "a column less", "other seeds", "another series", "another panel", "another place"],
)
def test_other_rows_are_a_difference(copy, change):
    found = with_change(copy, change)
    assert not found.agrees
    assert "other" in found.words


def test_a_file_that_cannot_be_read_is_an_error(copy):
    copy.write_text("")
    with pytest.raises(BadDataError):
        compare(copy, FIGURES / "fig4.csv")


def test_an_experiment_of_ones_own_has_no_published_numbers_and_an_unchanged_copy_has(tmp_path):
    path = Path(shutil.copy(load_experiment("fig4").path, tmp_path / "mine.py"))
    assert published_csv(load_experiment(str(path))) == FIGURES / "fig4.csv"
    path.write_text(path.read_text("utf-8").replace('id="fig4"', 'id="mine"'), "utf-8")
    with pytest.raises(ValueError, match="mine has no published numbers here"):
        published_csv(load_experiment(str(path)))


class TestCommand:
    def test_the_numbers_of_this_machine_are_the_published_ones(self, run):
        outcome = run("reproduce", "fig4", "--check", "--json", "--out", "o")
        assert outcome.code == 0
        assert json.loads(outcome.stdout)["check"]["fig4"]["agrees"]

    def test_others_end_with_1_and_are_named(self, run, here, monkeypatch, copy):
        with_change(copy, moved("mean", lambda row: 1.0, rows=20))
        monkeypatch.setattr("didsim.experiment.published_csv", lambda item: copy)
        outcome = run("reproduce", "fig4", "--check", "--out", "o")
        assert outcome.code == 1
        assert "fig4 differs from" in outcome.stdout
        assert (here / "o" / "fig4.csv").exists()

    @pytest.mark.parametrize("option", [("--quick",), ("--seeds", "3"), ("--dry-run",)])
    def test_numbers_of_another_plan_are_not_compared(self, run, here, option):
        outcome = run("reproduce", "fig4", "--check", *option, "--out", "o")
        assert outcome.code == 2
        assert "full plan" in outcome.stderr
        assert not (here / "o").exists()


@pytest.mark.slow
def test_an_older_processor_agrees_too(run, monkeypatch):
    """What trains rounds otherwise without the newer instructions, and gradient descent beyond its rate is chaotic."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    monkeypatch.setenv("DIDSIM_REPRODUCE_JOBS", "2")  # processes of their own, which read these when they start
    outcome = run("reproduce", "hyperparameter_phase", "--check", "--json", "--out", "o")
    found = json.loads(outcome.stdout)["check"]["hyperparameter_phase"]
    assert found["agrees"], found["words"]
