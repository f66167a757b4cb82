"""Whether a figure has the published numbers, and how `didsim reproduce --check` says so."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from didsim.errors import BadDataError
from didsim.experiment import departure, load_experiment, published_csv

FIGURES = Path(__file__).parent.parent / "figures"


@pytest.fixture
def copy(tmp_path):
    """A copy of a published CSV, to be changed."""
    return Path(shutil.copy(FIGURES / "fig4.csv", tmp_path))


def changed(path, column, factor):
    frame = pd.read_csv(path)
    frame = frame.astype({column: float})
    frame.loc[5, column] *= factor
    frame.to_csv(path, index=False)
    return departure(path, FIGURES / "fig4.csv")


def test_what_is_published_departs_from_itself_nowhere(copy):
    assert departure(copy, FIGURES / "fig4.csv") == ""


@pytest.mark.parametrize("column", ["x", "mean", "lo", "hi"])
def test_rounding_is_no_departure_and_one_number_is(copy, column):
    assert changed(copy, column, 1.0 + 1e-12) == ""
    words = changed(copy, column, 1.001)
    assert f"in 1 of {len(pd.read_csv(copy))} rows, first in line 7: {column} is " in words


def test_other_rows_are_a_departure(copy):
    frame = pd.read_csv(copy)
    frame.iloc[:-1].to_csv(copy, index=False)
    assert "other rows or columns" in departure(copy, FIGURES / "fig4.csv")
    frame.drop(columns="band").to_csv(copy, index=False)
    assert "other rows or columns" in departure(copy, FIGURES / "fig4.csv")
    frame.assign(n=frame["n"] + 1).to_csv(copy, index=False)
    assert "other rows or columns" in departure(copy, FIGURES / "fig4.csv")


def test_a_file_that_cannot_be_read_is_an_error(copy):
    copy.write_text("")
    with pytest.raises(BadDataError):
        departure(copy, FIGURES / "fig4.csv")


def test_an_experiment_of_ones_own_has_no_published_numbers(tmp_path):
    path = Path(shutil.copy(load_experiment("fig4").path, tmp_path / "mine.py"))
    path.write_text(path.read_text("utf-8").replace('id="fig4"', 'id="mine"'), "utf-8")
    with pytest.raises(ValueError, match="mine has no published numbers here"):
        published_csv(load_experiment(str(path)))


class TestCommand:
    def test_the_numbers_of_this_machine_are_the_published_ones(self, run):
        outcome = run("reproduce", "fig4", "--check", "--json", "--out", "o")
        assert outcome.code == 0
        assert json.loads(outcome.stdout)["check"] == {"fig4": "has the published numbers"}

    def test_others_end_with_1_and_are_named(self, run, here, monkeypatch, copy):
        changed(copy, "mean", 1.01)
        monkeypatch.setattr("didsim.experiment.published_csv", lambda item: copy)
        outcome = run("reproduce", "fig4", "--check", "--out", "o")
        assert outcome.code == 1
        assert "fig4 differs from" in outcome.stdout
        assert (here / "o" / "fig4.csv").exists()

    @pytest.mark.parametrize("option", [("--quick",), ("--seeds", "3")])
    def test_numbers_of_another_plan_are_not_compared(self, run, here, option):
        outcome = run("reproduce", "fig4", "--check", *option, "--out", "o")
        assert outcome.code == 2
        assert "full plan" in outcome.stderr
        assert not (here / "o").exists()
