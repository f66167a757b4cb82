"""Experiments: plans, estimates, tuning, cells, and files that come out the same whatever happened on the way."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import didsim
from didsim import Problem, js
from didsim.errors import BadDataError, CellsFailedError
from didsim.experiment import (
    BAND,
    MAIN,
    MAX_SEEDS,
    Spec,
    _publish,
    _runner,
    bootstrap_mean,
    caption_of,
    grid,
    headline_table,
    in_processes,
    known_experiments,
    load_experiment,
    mean_bands,
    mean_js,
    plan_cells,
    publish,
    publish_all,
    run_cells,
    seeds,
    select_tuned,
    train_grid,
)
from didsim.experiment._estimates import NO_BAND, RESAMPLES

MODEST = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
DIDSIM = str(Path(sys.executable).with_name("didsim"))
FORMATS = ("csv", "svg", "pdf", "png", "json")
COLUMNS = ["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]

MINE = '''\
"""A user's own experiment: four cells, real training, and a log of what was computed."""

import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd

from didsim import Problem, objective, train_many
from didsim.experiment import Spec, mean_bands, seeds

SPEC = Spec(
    id="mine",
    title="Mine",
    source="nowhere",
    caption="A test.",
    alt="Four lines.",
    axes={"tau": (0.5, 1.0, 2.0, 4.0)},
    batch={"seed": seeds(20)},
    constants={"steps": 6},
    quick={"seed": seeds(2)},
    headline="js_target",
)


def run_cell(params):
    with open("log.txt", "a") as log:
        print(params["tau"], file=log)
    pass  # here
    problems = [Problem.from_temperature(4, params["tau"], seed) for seed in params["seed"]]
    histories = train_many(
        [(problem, objective("dpo")) for problem in problems],
        steps=params["steps"],
        record_every=3,
        seed=params["seed"],
        metrics=("js_target",),
    )
    return pd.concat(
        [history.frame.assign(tau=params["tau"], seed=s) for history, s in zip(histories, params["seed"], strict=True)]
    )


def summarise(df):
    points = mean_bands(df, ["tau", "step"], "js_target").rename(columns={"step": "x"})
    points = points.assign(panel="one", series=points["tau"].map("{:g}".format), quantity="js_target")
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]


def draw(df, axes):
    for _, points in df.groupby("series", sort=False):
        axes[0, 0].plot(points["x"], points["mean"])
'''


def write_mine(folder: Path, here: str = "pass", name: str = "mine.py") -> Path:
    """Write the user's experiment, with a statement of the test's own in its run_cell."""
    path = folder / name
    path.write_text(MINE.replace("pass  # here", f"{here}  # here"), "utf-8")
    return path


def computed(folder: Path) -> list[str]:
    """Return the cells that were computed since this was last asked."""
    log = folder / "log.txt"
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def cell_files(out: Path) -> list[Path]:
    return sorted(out.glob("cells/*/*"))


def contents(out: Path, name: str = "mine") -> dict[str, bytes]:
    """Return the published files and the cells, by name."""
    published = {f"{name}.{ending}": (out / f"{name}.{ending}").read_bytes() for ending in FORMATS}
    return published | {path.name: path.read_bytes() for path in cell_files(out)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of an undisturbed run of the user's experiment."""
    folder = tmp_path_factory.mktemp("expected")
    experiment = load_experiment(str(write_mine(folder)))
    spec = experiment.spec.version(quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make(experiment, spec, folder / "out")
    return contents(folder / "out")


def make(experiment, spec, out: Path) -> Path:
    """Run and publish an experiment; return its CSV."""
    cells = plan_cells(experiment, spec, out)
    run_cells(cells, 1, lambda cell, what: None)
    publish(experiment, spec, pd.concat([cell.load() for cell in cells], ignore_index=True), out)
    return out / f"{spec.id}.csv"


# --- the plan ---------------------------------------------------------------------------------------------


def spec(**changes) -> Spec:
    fields = {
        "id": "plan",
        "title": "A plan",
        "source": "nowhere",
        "caption": "",
        "alt": "",
        "axes": {"tau": (1.0, 2.0), "kind": ("a", "b")},
        "batch": {"seed": seeds(20)},
        "constants": {"steps": 100},
        "quick": {"seed": seeds(3), "steps": 10},
    }
    return Spec(**{**fields, **changes})


class TestSpec:
    def test_there_is_one_cell_for_each_combination_of_the_axes(self):
        cells = spec().cells()
        assert [(cell["tau"], cell["kind"]) for cell in cells] == [(1.0, "a"), (1.0, "b"), (2.0, "a"), (2.0, "b")]
        assert all(cell["seed"] == seeds(20) and cell["steps"] == 100 for cell in cells)

    def test_a_plan_without_axes_is_one_cell(self):
        assert spec(axes={}).cells() == [{"seed": seeds(20), "steps": 100}]

    def test_the_quick_version_replaces_what_it_names(self):
        quick = spec().version(quick=True)
        assert (quick.batch["seed"], quick.constants["steps"]) == (seeds(3), 10)
        assert quick.axes == spec().axes

    def test_the_full_version_is_the_plan_itself(self):
        assert spec().version() == spec()

    def test_a_number_of_seeds_wins_over_the_quick_version(self):
        assert spec().version(quick=True, num_seeds=5).batch["seed"] == seeds(5)

    def test_seeds_may_be_an_axis(self):
        plan = spec(axes={"seed": seeds(20)}, batch={"tau": (1.0,)}).version(num_seeds=2)
        assert [cell["seed"] for cell in plan.cells()] == [42, 43]

    def test_a_version_leaves_the_plan_unchanged(self):
        plan = spec()
        plan.version(quick=True, num_seeds=2)
        assert plan == spec()

    def test_replaced_changes_axes_batch_and_constants_by_name(self):
        plan = spec().replaced(tau=(3.0,), seed=(1,), steps=5)
        assert (plan.axes["tau"], plan.batch["seed"], plan.constants["steps"]) == ((3.0,), (1,), 5)

    def test_replacing_what_is_not_there_is_refused_by_name(self):
        with pytest.raises(ValueError, match="must be an axis, batch entry or constant; got \\['step'\\]"):
            spec().replaced(step=5)

    @pytest.mark.parametrize("name", ["", "A", "Fig4", "../x", "a/b", "a-b", "a b", ".x", "_x", "é", "fig4\n", "a.py"])
    def test_an_id_that_could_not_name_a_file_is_refused(self, name):
        with pytest.raises(ValueError, match=r"SPEC\.id must be lower-case letters, digits and _"):
            spec(id=name)

    @pytest.mark.parametrize("name", ["fig4", "fig1_left", "4", "heatmap_8x8"])
    def test_lower_case_words_are_ids(self, name):
        assert spec(id=name).id == name

    @pytest.mark.parametrize(
        "parts", [{"batch": {"tau": (1,)}}, {"constants": {"tau": 1}}, {"batch": {"n": (1,)}, "constants": {"n": 1}}]
    )
    def test_one_name_in_two_parts_is_refused(self, parts):
        with pytest.raises(ValueError, match="of different names"):
            spec(**parts)


class TestSeeds:
    def test_they_start_at_the_papers_seed(self):
        assert seeds(3) == (42, 43, 44)

    def test_fewer_seeds_are_the_first_of_more(self):
        assert seeds(20)[:7] == seeds(7)

    @pytest.mark.parametrize("count", [0, -1, MAX_SEEDS + 1])
    def test_a_count_out_of_range_is_refused(self, count):
        with pytest.raises(ValueError, match="seeds must be a whole number from 1 to 10000"):
            seeds(count)

    @pytest.mark.parametrize("count", [True, 3.0, "3", None])
    def test_a_count_that_is_not_whole_is_refused(self, count):
        with pytest.raises(TypeError, match="seeds must be a whole number"):
            seeds(count)


# --- means and their intervals ----------------------------------------------------------------------------


def exact_percentiles(values: list[float], *tails: float) -> list[float]:
    """Return percentiles of the mean over all n^n equally likely resamples."""
    means = np.sort([np.mean(resample) for resample in itertools.product(values, repeat=len(values))])
    return [float(means[int(np.ceil(tail * len(means))) - 1]) for tail in tails]


class TestBootstrapMean:
    @pytest.mark.parametrize("values", [[0.0, 1.0, 10.0], [0.0, 0.0, 0.0, 1.0], [-3.0, 5.0, 5.0], [1.0, 2.0]])
    def test_the_interval_of_few_values_is_that_of_all_their_resamples(self, values):
        mean, low, high = bootstrap_mean(np.array(values))
        assert mean == pytest.approx(np.mean(values), rel=1e-15)
        # ties are broken away from 2.5 % here: the sampling error of 2000 resamples is 0.35 %
        assert [float(low), float(high)] == pytest.approx(exact_percentiles(values, 0.025, 0.975), rel=1e-14)

    def test_the_interval_agrees_with_scipy(self):
        rng = np.random.default_rng(1)
        data = rng.exponential(size=(20, 40))
        _, low, high = bootstrap_mean(data)
        other = scipy.stats.bootstrap(
            (data,), np.mean, method="percentile", n_resamples=9999, rng=rng, vectorized=True
        ).confidence_interval
        scale = data.std(axis=0) / np.sqrt(20)
        # A 2.5 % point of B resamples has the standard error sqrt(0.025·0.975/B)/0.058 = 0.06 of the mean's own.
        for ours, theirs in ((low, other.low), (high, other.high)):
            error = (ours - theirs) / scale
            assert np.abs(error).max() < 0.35
            assert abs(error.mean()) < 0.1

    def test_the_level_is_the_share_of_resampled_means_inside(self):
        data = np.random.default_rng(2).normal(size=(400, 30))
        for level, width in ((0.95, 1.960), (0.8, 1.2816), (0.5, 0.6745)):
            mean, low, high = bootstrap_mean(data, level)
            scale = data.std(axis=0) / 20.0
            assert np.mean((mean - low) / scale) == pytest.approx(width, abs=0.06)
            assert np.mean((high - mean) / scale) == pytest.approx(width, abs=0.06)

    def test_it_covers_the_truth_as_often_as_theory_says(self):
        data = np.random.default_rng(3).normal(size=(20, 4000))
        _, low, high = bootstrap_mean(data)
        # The percentile interval is mean ± 1.96 s √(n−1)/n, hence |t₁₉| < 1.96 √(19/20).
        half_width = scipy.stats.norm.ppf(0.975) * np.sqrt(19.0 / 20.0)
        theory = 1.0 - 2.0 * scipy.stats.t.sf(half_width, df=19)
        assert np.mean((low < 0.0) & (high > 0.0)) == pytest.approx(theory, abs=0.02)

    def test_one_seed_is_its_own_interval(self):
        for part in bootstrap_mean(np.array([[0.1, -2.0]])):
            np.testing.assert_array_equal(part, [0.1, -2.0])

    def test_trailing_axes_are_kept_and_treated_alone(self):
        data = np.random.default_rng(4).normal(size=(6, 3, 2))
        parts = bootstrap_mean(data)
        assert [part.shape for part in parts] == [(3, 2)] * 3
        for whole, alone in zip(parts, bootstrap_mean(data[:, 1, 0]), strict=True):
            assert whole[1, 0] == pytest.approx(float(alone), rel=1e-14)

    def test_it_does_not_touch_numpys_global_generator(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        first = bootstrap_mean(np.arange(5.0))
        np.testing.assert_array_equal(first, bootstrap_mean(np.arange(5.0)))
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_nothing_has_no_mean(self):
        with pytest.raises((ValueError, ZeroDivisionError)):
            bootstrap_mean(np.empty((0, 3)))

    @MODEST
    @hypothesis.given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=25))
    def test_the_mean_lies_in_its_interval(self, values):
        mean, low, high = bootstrap_mean(np.array(values))
        slack = 1e-9 * max(map(abs, values))
        assert low - slack <= mean <= high + slack

    def test_seeds_that_agree_leave_no_width_on_either_side(self):
        values = np.random.default_rng(5).normal(size=(1, 300))
        for count in (2, 3, 5, 20, 40):
            mean, low, high = bootstrap_mean(np.repeat(values, count, axis=0))
            assert np.all(low <= mean), f"lo > mean with {count} equal seeds"
            assert np.all(mean <= high), f"hi < mean with {count} equal seeds"

    def test_there_are_enough_resamples_for_the_tails(self):
        assert RESAMPLES * 0.025 >= 50


class TestMeanBands:
    ROWS = pd.DataFrame(
        [{"curve": c, "step": s, "seed": i, "loss": i * (c == "b") + s} for c in "ba" for s in (10, 0) for i in (1, 3)]
    )

    def test_it_averages_over_seeds_point_by_point(self):
        bands = mean_bands(self.ROWS, ["curve", "step"], "loss").set_index(["curve", "step"])
        assert bands["mean"].to_dict() == {("b", 10): 12.0, ("b", 0): 2.0, ("a", 10): 10.0, ("a", 0): 0.0}
        assert bands["lo"].to_dict() == {("b", 10): 11.0, ("b", 0): 1.0, ("a", 10): 10.0, ("a", 0): 0.0}
        assert bands["hi"].to_dict() == {("b", 10): 13.0, ("b", 0): 3.0, ("a", 10): 10.0, ("a", 0): 0.0}

    def test_it_names_the_number_of_seeds_and_the_band(self):
        bands = mean_bands(self.ROWS, ["curve", "step"], "loss")
        assert list(bands.columns) == ["curve", "step", "mean", "lo", "hi", "n", "band"]
        assert set(bands["n"]) == {2}
        assert set(bands["band"]) == {BAND}

    def test_points_keep_the_order_of_the_rows(self):
        bands = mean_bands(self.ROWS, ["curve", "step"], "loss")
        assert list(zip(bands["curve"], bands["step"], strict=True)) == [("b", 10), ("b", 0), ("a", 10), ("a", 0)]

    def test_one_seed_has_no_band_and_says_so(self):
        bands = mean_bands(self.ROWS[self.ROWS["seed"] == 1], ["curve", "step"], "loss")
        assert set(bands["band"]) == {NO_BAND}
        assert (bands["lo"] == bands["mean"]).all()
        assert (bands["hi"] == bands["mean"]).all()

    def test_a_seed_that_lacks_a_point_is_refused(self):
        with pytest.raises(ValueError, match="Some seeds lack values of loss"):
            mean_bands(self.ROWS.iloc[:-1], ["curve", "step"], "loss")

    def test_a_value_that_is_not_a_number_is_refused(self):
        rows = self.ROWS.astype({"loss": float})
        rows.loc[0, "loss"] = np.nan
        with pytest.raises(ValueError, match="Some seeds lack values of loss"):
            mean_bands(rows, ["curve", "step"], "loss")

    def test_a_point_that_no_seed_has_a_number_for_does_not_vanish(self):
        rows = self.ROWS.astype({"loss": float})
        rows.loc[rows["step"] == 10, "loss"] = np.nan
        with pytest.raises(ValueError, match="Some seeds lack values of loss"):
            mean_bands(rows, ["curve", "step"], "loss")

    def test_the_rows_stay_as_they_were(self):
        rows = self.ROWS.copy()
        mean_bands(rows, ["curve", "step"], "loss")
        pd.testing.assert_frame_equal(rows, self.ROWS)


# --- grids and tuning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("dpo", 1), ("slic", 16), ("orpo", 4), ("simpo", 12), ("cal_dpo", 5)])
def test_a_grid_has_the_papers_size(name, size):
    points = grid(name)
    assert len(points) == size
    assert len({repr(point) for point in points}) == size
    assert {point.name for point in points} == {name}


def test_one_seed_of_figure_7_trains_38_configurations_for_each_temperature():
    names = load_experiment("fig7").spec.batch["objectives"]
    assert sum(len(grid(name)) for name in names) == 38


def test_training_a_grid_gives_one_row_for_each_configuration_and_record():
    rows = train_grid(["dpo", "orpo"], [0.5, 2.0], seed=42, num_classes=4, steps=4, record_every=2)
    assert list(rows.columns) == ["step", "js_target", "seed", "tau", "objective", "hyperparameters"]
    counts = rows.groupby(["tau", "objective"]).size()
    assert counts.to_dict() == {(t, n): 3 * len(grid(n)) for t in (0.5, 2.0) for n in ("dpo", "orpo")}
    assert rows["hyperparameters"].nunique() == 5


def curves(values: dict) -> pd.DataFrame:
    """Rows of runs from {(tau, objective, hyperparameters, seed): values of js_target at steps 0, 1, …}."""
    return pd.DataFrame(
        [
            {"tau": t, "objective": o, "hyperparameters": h, "seed": s, "step": step, "js_target": value}
            for (t, o, h, s), run in values.items()
            for step, value in enumerate(run)
        ]
    )


class TestSelectTuned:
    ROWS = curves(
        {
            (4.0, "simpo", "dips", 1): [0.9, 0.1, 0.8],
            (4.0, "simpo", "dips", 2): [0.9, 0.3, 0.8],
            (4.0, "simpo", "lasts", 1): [0.9, 0.5, 0.4],
            (4.0, "simpo", "lasts", 2): [0.9, 0.5, 0.4],
            (4.0, "simpo", "lucky once", 1): [0.9, 0.01, 0.05],
            (4.0, "simpo", "lucky once", 2): [0.9, 0.9, 0.9],
            (4.0, "dpo", "only", 1): [0.7, 0.6, 0.5],
            (4.0, "dpo", "only", 2): [0.7, 0.6, 0.5],
        }
    )

    def chosen(self, rows: pd.DataFrame) -> dict:
        tuned = select_tuned(rows).groupby(["rule", "tau", "objective"])["hyperparameters"]
        assert (tuned.nunique() == 1).all()
        return tuned.first().to_dict()

    def test_the_two_rules_look_at_the_minimum_and_at_the_end(self):
        assert self.chosen(self.ROWS) == {
            ("minimum", 4.0, "simpo"): "dips",
            ("final", 4.0, "simpo"): "lasts",
            ("minimum", 4.0, "dpo"): "only",
            ("final", 4.0, "dpo"): "only",
        }

    def test_equal_minima_tie_to_the_last_bit_whatever_the_order_of_the_rows(self):
        """Means of the same twenty numbers, added up in two orders, may differ by a rounding; the end decides then."""
        for draw in range(12):
            starts = 0.01 * np.random.default_rng(draw).random(20)
            runs = {
                (0.8, "simpo", f"end {end}", seed): [start, start + end]
                for end in range(1, 13)
                for seed, start in enumerate(starts)
            }
            for shuffle in range(2):
                rows = curves(runs).sample(frac=1.0, random_state=shuffle)
                assert self.chosen(rows)["minimum", 0.8, "simpo"] == "end 1"

    def test_one_choice_serves_all_seeds(self):
        seeds_of = select_tuned(self.ROWS).groupby(["rule", "objective"])["seed"].agg(set)
        assert all(seen == {1, 2} for seen in seeds_of)

    def test_the_whole_curve_of_the_chosen_is_kept(self):
        tuned = select_tuned(self.ROWS).query("rule == 'minimum' and objective == 'simpo' and seed == 2")
        assert tuned["js_target"].tolist() == [0.9, 0.3, 0.8]

    def test_each_temperature_is_tuned_for_itself(self):
        other = curves(
            {
                (0.5, "simpo", "dips", 1): [0.9, 0.8, 0.7],
                (0.5, "simpo", "lasts", 1): [0.9, 0.2, 0.1],
                (4.0, "simpo", "dips", 1): [0.9, 0.1, 0.1],
                (4.0, "simpo", "lasts", 1): [0.9, 0.5, 0.5],
            }
        )
        assert self.chosen(other) == {
            (rule, tau, "simpo"): name for rule in ("minimum", "final") for tau, name in ((0.5, "lasts"), (4.0, "dips"))
        }

    @pytest.mark.parametrize("order", [1, -1])
    def test_where_the_start_is_the_minimum_of_all_the_last_value_decides(self, order):
        runs = {"strays": [0.1, 0.5, 0.9], "stays": [0.1, 0.4, 0.2], "returns": [0.1, 0.9, 0.3]}
        tied = {(4.0, "simpo", name, 1): values for name, values in list(runs.items())[::order]}
        assert self.chosen(curves(tied)) == dict.fromkeys([("minimum", 4.0, "simpo"), ("final", 4.0, "simpo")], "stays")

    @pytest.mark.parametrize("shuffle", [lambda rows: rows[::-1], lambda rows: rows.sample(frac=1.0, random_state=0)])
    def test_the_order_of_the_rows_does_not_matter(self, shuffle):
        shuffled = shuffle(self.ROWS)
        assert self.chosen(shuffled) == self.chosen(self.ROWS)
        assert len(select_tuned(shuffled)) == len(select_tuned(self.ROWS)) == 2 * (2 * 3 + 2 * 3)


# --- the experiments that come with didsim ----------------------------------------------------------------


def marked() -> list:
    """Return the names of the experiments; those of language models are marked so, all but the main ones as slow."""

    def mark(name: str, path: Path):
        return pytest.mark.llm if "didsim.llm" in path.read_text("utf-8") else () if name in MAIN else pytest.mark.slow

    return [pytest.param(name, marks=mark(name, path)) for name, path in known_experiments().items()]


def with_numbers(folder: Path, numbers: str):
    """Load the user's experiment with a caption that has a field, and a function that fills it."""
    path = write_mine(folder)
    source = path.read_text("utf-8").replace('"A test."', '"Ends at {end} nats."')
    path.write_text(f"{source}\n\ndef numbers(df):\n    return {numbers}\n", "utf-8")
    return load_experiment(str(path))


class TestNumbersInCaptions:
    def test_are_those_of_the_csv(self, here):
        experiment = with_numbers(here, '{"end": f"{df[\'mean\'].iloc[-1]:.4f}"}')
        spec = experiment.spec.replaced(seed=seeds(1), tau=(0.5,))
        csv = make(experiment, spec, here / "out")
        end = pd.read_csv(csv)["mean"].iloc[-1]
        assert json.loads(csv.with_suffix(".json").read_text("utf-8"))["caption"] == f"Ends at {end:.4f} nats."

    @pytest.mark.parametrize("numbers", ["{}", "df['nothing']"])
    def test_are_missed_where_they_are_not_there(self, here, numbers):
        experiment = with_numbers(here, numbers)
        with pytest.raises(BadDataError, match="no numbers for the caption of mine"):
            make(experiment, experiment.spec.replaced(seed=seeds(1), tau=(0.5,)), here / "out")

    def test_do_not_make_cells_stale(self, here):
        plain, filled = load_experiment(str(write_mine(here))), with_numbers(here, "{}")
        assert _runner.computing_source(plain.path) == _runner.computing_source(filled.path)


def test_divergences_are_averaged_over_prompts_by_their_weights():
    problem = Problem.from_policies([[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.9, 0.1]], prompts=[0.3, 0.7])
    assert mean_js(problem, problem.target, problem.reference) == pytest.approx(0.3 * float(js([0.2, 0.8], [0.5, 0.5])))
    alone = Problem.from_policies([0.5, 0.5], [0.2, 0.8])
    assert mean_js(alone, alone.target, alone.reference) == pytest.approx(float(js([0.2, 0.8], [0.5, 0.5])))


@pytest.mark.slow
def test_processes_that_others_started_live_on():
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60.0,))
    other.start()
    try:
        assert sorted(in_processes(abs, [(-1,), (-2,)], 2)) == [(0, 1), (1, 2)]
        other.join(1.0)
        assert other.exitcode is None
    finally:
        other.terminate()
        other.join()


class TestPublishingMany:
    @pytest.fixture
    def plans(self, here, monkeypatch):
        """Two plans of one experiment, whose cells are there; and two are many."""
        monkeypatch.setattr(_publish, "MANY", 2)
        experiment = load_experiment(str(write_mine(here)))
        found = [(experiment, dataclasses.replace(experiment.spec.version(quick=True), id=name)) for name in "ba"]
        for _, plan in found:
            run_cells(plan_cells(experiment, plan, here / "out"), 1, lambda cell, what: None)
        return found

    @pytest.mark.slow
    def test_in_processes_gives_what_one_gives(self, here, plans):
        seen, files = [], []
        for jobs in (1, 2):
            paths = publish_all(plans, here / "out", jobs, lambda plan: seen.append(plan.id))
            files.append({path.name: path.read_bytes() for path in paths})
            assert [path.name for path in paths if path.suffix == ".csv"] == ["b.csv", "a.csv"]
            for path in paths:
                path.unlink()
        assert files[0] == files[1]
        assert seen[:2] == ["b", "a"]
        assert sorted(seen[2:]) == ["a", "b"]

    @pytest.mark.slow
    def test_a_figure_that_cannot_be_drawn_is_named(self, here, plans):
        (here / "mine.py").write_text(MINE.replace('axes[0, 0].plot(points["x"]', 'axes[0, 0].plot(points["nothing"]'))
        with pytest.raises(BadDataError, match=r"cannot be drawn as [ab]: KeyError"):
            publish_all(plans, here / "out", 2, lambda plan: None)

    def test_a_figure_that_cannot_be_published_leaves_the_others(self, here, plans):
        plan_cells(*plans[0], here / "out")[-1].path.unlink()
        with pytest.raises(CellsFailedError, match=r"runs it again\.$"):
            publish_all(plans, here / "out", 1, lambda plan: None)
        assert (here / "out" / "a.csv").exists()
        assert not (here / "out" / "b.csv").exists()
        plan_cells(*plans[1], here / "out")[-1].path.unlink()
        with pytest.raises(CellsFailedError, match="1 more could not be published"):
            publish_all(plans, here / "out", 1, lambda plan: None)

    @pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["removed", "damaged"])
    def test_no_figure_leaves_out_a_cell_that_was_lost(self, here, plans, lose):
        lost = plan_cells(*plans[1], here / "out")[-1].path
        lose(lost)
        with pytest.raises(CellsFailedError, match=lost.stem):
            publish_all(plans, here / "out", 1, lambda plan: None)
        assert not (here / "out" / "a.csv").exists()


FEW_SEEDS = {"bridge": 1}
"""Experiments of which each run is a check, and takes long."""


@pytest.fixture(scope="module", params=marked())
def small(request, tmp_path_factory):
    """An experiment, the smallest version of its quick plan, and its CSV."""
    experiment = load_experiment(request.param)
    quick = experiment.spec.version(quick=True)
    least = {"seed": seeds(2), "steps": 20, "record_every": 10}
    tiny = quick.replaced(**{k: v for k, v in least.items() if k in {*quick.axes, *quick.batch, *quick.constants}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_publish, "FORMATS", ("svg",))  # the slow test draws them all
        return experiment, tiny, make(experiment, tiny, tmp_path_factory.mktemp(request.param))


IN_EITHER_ORDER = [
    name if name in {"fig1_left", "fig4"} else pytest.param(name, marks=pytest.mark.slow)
    for name in known_experiments()
]


class TestEveryExperiment:
    def test_its_csv_has_the_agreed_columns(self, small):
        frame = pd.read_csv(small[2])
        assert list(frame.columns[: len(COLUMNS)]) == COLUMNS
        assert set(frame.columns[len(COLUMNS) :]) <= {"hyperparameters"}

    def test_its_csv_has_no_hole_and_no_infinity(self, small):
        frame = pd.read_csv(small[2], keep_default_na=False)
        assert not frame.isin(["", "nan", "NaN", "inf", "-inf"]).any(axis=None)
        assert np.isfinite(frame[["x", "mean", "lo", "hi", "n"]].to_numpy(float)).all()

    def test_its_means_lie_in_their_bands(self, small):
        frame = pd.read_csv(small[2])
        assert (frame["lo"] <= frame["mean"]).all()
        assert (frame["mean"] <= frame["hi"]).all()
        assert (frame["lo"] < frame["hi"]).any()
        assert set(frame["n"]) == {2}
        assert set(frame["band"]) == {BAND}

    def test_every_point_of_a_curve_stands_there_once(self, small):
        frame = pd.read_csv(small[2])
        assert not frame.duplicated(["panel", "series", "quantity", "x"]).any()

    def test_its_manifest_is_strict_json_that_says_what_was_run(self, small):
        experiment, plan, csv = small
        manifest = json.loads(csv.with_suffix(".json").read_text("utf-8"), parse_constant=pytest.fail)
        assert manifest["schema_version"] == 1
        assert manifest["experiment"] == plan.id == experiment.path.stem
        assert manifest["csv_sha256"] == hashlib.sha256(csv.read_bytes()).hexdigest()
        assert manifest["caption"] == caption_of(experiment, plan, csv)
        assert manifest["alt"] == plan.alt
        written = {name: value for part in manifest["parameters"].values() for name, value in part.items()}
        assert written == json.loads(json.dumps({**plan.axes, **plan.batch, **plan.constants}))
        assert set(manifest["versions"]) >= {"didsim", "python", "numpy", "scipy", "torch", "pandas", "matplotlib"}

    def test_its_headline_is_the_end_of_every_curve(self, small):
        _, plan, csv = small
        frame = pd.read_csv(csv)
        frame = frame[frame["quantity"] == plan.headline]
        table = headline_table(plan, csv)
        assert list(table.columns) == ["figure", "panel", "series", "mean", "lo", "hi", "n"]
        assert set(table["figure"]) == {plan.id}
        assert len(table) == len(frame[["panel", "series"]].drop_duplicates()) > 0
        for row in table.itertuples():
            curve = frame[(frame["panel"] == row.panel) & (frame["series"] == row.series)]
            assert row.mean == curve.set_index("x")["mean"][curve["x"].max()]

    def test_its_figure_is_drawn(self, small):
        assert small[2].with_suffix(".svg").read_bytes().startswith(b"<?xml")

    def test_its_full_form_has_at_least_twenty_seeds(self, small):
        plan = small[0].spec.version()
        assert len({*plan.axes.get("seed", ()), *plan.batch.get("seed", ())}) >= FEW_SEEDS.get(plan.id, 20)

    def test_its_quick_form_is_less_work(self, small):
        plan = small[0].spec

        def work(version):
            seed_count = len(version.axes.get("seed", ())) + len(version.batch.get("seed", ()))
            return seed_count * version.constants.get("steps", 1)

        assert work(plan.version(quick=True)) * 5 < work(plan)

    def test_its_caption_says_what_the_band_is(self, small):
        plan = small[0].spec
        alone = len({*plan.axes.get("seed", ()), *plan.batch.get("seed", ())}) == 1
        assert ("no band" if alone else "bands 95% bootstrap intervals of the mean") in plan.caption

    def test_its_words_are_all_there(self, small):
        plan = small[0].spec
        assert all((plan.title, plan.source, plan.caption, plan.alt, plan.headline))

    def test_summarising_leaves_the_rows_alone(self, small):
        experiment, plan, csv = small
        rows = pd.concat([cell.load() for cell in plan_cells(experiment, plan, csv.parent)], ignore_index=True)
        before = rows.copy()
        experiment.module.summarise(rows)
        pd.testing.assert_frame_equal(rows, before)

    @pytest.mark.parametrize("small", IN_EITHER_ORDER, indirect=True, scope="module")
    def test_the_order_of_its_cells_does_not_change_a_byte(self, small, tmp_path):
        experiment, plan, csv = small
        cells = plan_cells(experiment, plan, tmp_path)
        run_cells(cells[::-1], 1, lambda cell, what: None)
        rows = pd.concat([cell.load() for cell in cells], ignore_index=True)
        again = experiment.module.summarise(rows).to_csv(index=False, lineterminator="\n").encode()
        assert again == csv.read_bytes()


def test_the_main_figures_come_with_didsim():
    assert set(MAIN) <= set(known_experiments())


def test_all_figures_but_those_whose_extra_is_missing(run, monkeypatch):
    everything = run("reproduce", "--all", "--dry-run", "--json")
    monkeypatch.setattr("didsim._extras.missing", lambda extra: ["trl"] if extra == "llm" else [])
    done = run("reproduce", "--all", "--dry-run", "--json")
    figures = [{row["figure"] for row in json.loads(one.stdout)["figures"]} for one in (everything, done)]
    assert figures[1] == figures[0] - {"bridge"} == set(known_experiments()) - {"bridge"}
    assert "bridge is left out: it needs trl: pip install 'didsim[llm]'" in done.stderr


# --- cells ------------------------------------------------------------------------------------------------


def keys(experiment, plan: Spec) -> set[str]:
    return {cell.path.name for cell in plan_cells(experiment, plan, Path("out"))}


class TestCellKeys:
    def test_every_cell_has_its_own(self, here):
        experiment = load_experiment(str(write_mine(here)))
        assert len(keys(experiment, experiment.spec)) == 4

    @pytest.mark.parametrize("change", [{"steps": 7}, {"seed": seeds(3)}, {"seed": (42, 44)}, {"tau": (0.25, 8.0)}])
    def test_they_change_with_the_parameters(self, here, change):
        experiment = load_experiment(str(write_mine(here)))
        plan = experiment.spec.version(quick=True)
        assert not keys(experiment, plan) & keys(experiment, plan.replaced(**change))

    def test_a_cell_that_two_plans_share_has_one_key(self, here):
        experiment = load_experiment(str(write_mine(here)))
        assert keys(experiment, experiment.spec.replaced(tau=(0.5, 3.0))) & keys(experiment, experiment.spec)

    def test_they_change_with_the_source_of_run_cell(self, here):
        before = load_experiment(str(write_mine(here)))
        first = keys(before, before.spec)
        after = load_experiment(str(write_mine(here, here="params = dict(params)", name="other.py")))
        assert not first & keys(after, after.spec)

    def test_they_change_with_a_function_that_run_cell_calls(self, here):
        source = MINE.replace("pass  # here", "scale()") + "\n\ndef scale():\n    return 1\n"
        paths = [here / "one.py", here / "two.py"]
        paths[0].write_text(source)
        paths[1].write_text(source.replace("return 1", "return 2"))
        one, two = (load_experiment(str(path)) for path in paths)
        assert not keys(one, one.spec) & keys(two, two.spec)

    def test_they_do_not_change_with_the_drawing(self, here):
        before = load_experiment(str(write_mine(here)))
        path = here / "other.py"
        path.write_text(MINE.replace("axes[0, 0].plot(", "axes[0, 0].semilogy("))
        after = load_experiment(str(path))
        assert keys(before, before.spec) == keys(after, after.spec)

    def test_they_do_not_change_with_where_results_or_the_file_lie(self, here):
        (here / "deep").mkdir()
        here_too, there = load_experiment(str(write_mine(here))), load_experiment(str(write_mine(here / "deep")))
        assert keys(here_too, here_too.spec) == keys(there, there.spec)

    @pytest.fixture
    def version_of(self, tmp_path, monkeypatch):
        """The digest of the package's code after a change to one of its files."""
        copy = tmp_path / "didsim"
        original = Path(didsim.__file__).parent
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))

        def digest(name: str = "", text: str = "") -> str:
            if name:
                (copy / name).parent.mkdir(exist_ok=True)
                with open(copy / name, "a", encoding="utf-8") as file:
                    file.write(text)
            monkeypatch.setattr(didsim, "__file__", str(copy / "__init__.py"))
            return _runner.code_version.__wrapped__()

        return digest

    @pytest.mark.parametrize(
        "name", ["engine/_loop.py", "objectives/_links.py", "preference.py", "experiment/_tuning.py", "new_module.py"]
    )
    def test_they_change_with_the_code_that_computes(self, version_of, name):
        assert version_of() == version_of()
        assert version_of() != version_of(name, "\n# changed\n")

    @pytest.mark.parametrize("name", ["cli.py", "plotting/_curves.py", "lessons/__init__.py", "_experiments/mine.py"])
    def test_they_do_not_change_with_the_code_that_shows(self, version_of, name):
        assert version_of() == version_of(name, "\n# changed\n")

    def test_they_contain_the_codes_version(self, here, monkeypatch):
        experiment = load_experiment(str(write_mine(here)))
        first = keys(experiment, experiment.spec)
        monkeypatch.setattr(_runner, "code_version", lambda: "another")
        assert not first & keys(experiment, experiment.spec)

    def test_they_change_with_the_version_of_a_library(self, monkeypatch):
        first = _runner.code_version.__wrapped__()
        monkeypatch.setattr(_runner, "version", lambda name: "0.0")
        assert _runner.code_version.__wrapped__() != first


class TestRunningCells:
    def test_the_users_own_file_runs_from_where_it_lies(self, run, here, expected):
        write_mine(here)
        done = run("reproduce", "./mine.py", "--quick", "--out", "out")
        assert done.code == 0
        assert contents(here / "out") == expected
        assert computed(here) == ["0.5", "1.0", "2.0", "4.0"]

    def test_what_is_done_is_not_done_again(self, run, here, expected):
        write_mine(here)
        for times in (4, 0):
            assert run("reproduce", "mine.py", "--quick", "--out", "out").code == 0
            assert len(computed(here)) == times
            assert contents(here / "out") == expected

    def test_a_missing_cell_is_computed_alone(self, run, here, expected):
        write_mine(here)
        run("reproduce", "mine.py", "--quick", "--out", "out")
        computed(here)
        cell_files(here / "out")[1].unlink()
        done = run("reproduce", "mine.py", "--quick", "--out", "out")
        assert len(computed(here)) == 1
        assert "damaged" not in done.stderr
        assert contents(here / "out") == expected

    def test_a_truncated_cell_is_said_and_computed_again(self, run, here, expected):
        write_mine(here)
        run("reproduce", "mine.py", "--quick", "--out", "out")
        computed(here)
        broken = cell_files(here / "out")[2]
        broken.write_bytes(broken.read_bytes()[:50])
        done = run("reproduce", "mine.py", "--quick", "--out", "out")
        assert done.code == 0
        assert f"{broken.name} is damaged; it is computed again" in done.stderr
        assert len(computed(here)) == 1
        assert contents(here / "out") == expected

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[: len(content) // 2],
            lambda content: content[:-1],
            lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
            lambda content: b"garbage",
            lambda content: gzip.compress(b'{"tau": [0.5'),
            lambda content: gzip.compress(b"null"),
            lambda content: gzip.compress(b"\xff\xfe"),
        ],
        ids=["empty", "half", "one byte short", "bit flipped", "garbage", "half JSON", "null", "not UTF-8"],
    )
    def test_whatever_the_damage_a_cell_is_restored(self, here, damage):
        experiment = load_experiment(str(write_mine(here)))
        cells = plan_cells(experiment, experiment.spec.version(quick=True), here / "out")
        run_cells(cells, 1, lambda cell, what: None)
        whole = cells[2].path.read_bytes()
        cells[2].path.write_bytes(damage(whole))
        said = []
        run_cells(cells, 1, lambda cell, what: said.append((cells.index(cell), what)))
        assert (2, "damaged") in said
        assert (2, "done") in said
        assert cells[2].path.read_bytes() == whole

    def test_an_experiment_of_the_same_id_in_the_same_run_is_refused(self, run, here):
        write_mine(here)
        (here / "other.py").write_text(MINE.replace('"steps": 6', '"steps": 7'))
        done = run("reproduce", "mine.py", "other.py", "--quick")
        assert done.code == 2, "the figure of one file was drawn from the cells of the other"

    def test_more_seeds_are_other_cells_beside_the_first(self, run, here, expected):
        write_mine(here)
        run("reproduce", "mine.py", "--quick", "--out", "out")
        run("reproduce", "mine.py", "--quick", "--seeds", "3", "--out", "out")
        assert len(cell_files(here / "out")) == 8
        run("reproduce", "mine.py", "--quick", "--out", "out")
        files = contents(here / "out")
        assert {name: files[name] for name in expected} == expected

    @pytest.mark.slow
    def test_another_hash_seed_locale_and_time_zone_give_the_same_bytes(self, here, expected):
        write_mine(here)
        env = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "0"}
        subprocess.run([DIDSIM, "reproduce", "mine.py", "--quick", "--out", "out"], env=env, check=True)
        assert contents(here / "out") == expected

    @pytest.mark.slow
    def test_two_jobs_give_the_same_bytes_as_one(self, run, here, expected):
        write_mine(here)
        done = run("reproduce", "mine.py", "--quick", "--jobs", "2", "--out", "out")
        assert done.code == 0, done.stderr
        assert sorted(computed(here)) == ["0.5", "1.0", "2.0", "4.0"]
        assert contents(here / "out") == expected


class TestFailingCells:
    BROKEN = "assert not (params['tau'] == 2.0 and Path('broken').exists()), 'out of luck'"

    @pytest.fixture
    def broken(self, here):
        write_mine(here, self.BROKEN)
        (here / "broken").touch()
        return here

    def test_the_others_are_kept_and_the_exit_code_is_6(self, run, broken):
        done = run("reproduce", "mine.py", "--quick")
        assert done.code == 6
        assert "1 of 4 cells failed" in done.stderr
        assert "mine tau=2.0" in done.stderr
        assert "out of luck" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert computed(broken) == ["0.5", "1.0", "2.0", "4.0"]
        assert len(cell_files(broken / "didsim-out")) == 3

    def test_the_same_command_goes_on_after_the_fix(self, run, broken):
        run("reproduce", "mine.py", "--quick")
        (broken / "broken").unlink()
        computed(broken)
        done = run("reproduce", "mine.py", "--quick")
        assert done.code == 0
        assert computed(broken) == ["2.0"]

    def test_a_fix_of_run_cell_itself_computes_everything_again(self, run, broken, expected):
        run("reproduce", "mine.py", "--quick")
        computed(broken)
        write_mine(broken)
        done = run("reproduce", "mine.py", "--quick")
        assert done.code == 0
        assert len(computed(broken)) == 4
        files = contents(broken / "didsim-out")
        assert {name: files[name] for name in expected} == expected

    @pytest.mark.parametrize(
        "fault",
        [
            "return pd.DataFrame({'seed': [1], 'js_target': [float('nan')]})",
            "return pd.DataFrame({'seed': [1], 'js_target': [float('inf')]})",
            "return None",
            "raise KeyError('tau')",
            "raise MemoryError",
        ],
    )
    def test_whatever_a_cell_does_wrong_it_is_a_failed_cell(self, run, here, fault):
        write_mine(here, fault)
        done = run("reproduce", "mine.py", "--quick")
        assert done.code == 6
        assert "4 of 4 cells failed" in done.stderr
        assert cell_files(here / "didsim-out") == []
        assert not (here / "didsim-out" / "mine.csv").exists()

    def test_a_cell_that_exits_is_a_failed_cell_too(self, run, here):
        write_mine(here, "sys.exit(0)")
        done = run("reproduce", "mine.py", "--quick")
        assert done.code == 6, f"exit code {done.code} without a figure"

    @pytest.mark.slow
    def test_failures_in_other_processes_are_told_alike(self, run, broken):
        done = run("reproduce", "mine.py", "--quick", "--jobs", "2")
        assert done.code == 6
        assert "1 of 4 cells failed" in done.stderr
        assert "out of luck" in done.stderr
        assert len(cell_files(broken / "didsim-out")) == 3

    @pytest.mark.slow
    def test_a_killed_worker_costs_cells_but_not_the_run(self, run, here, expected):
        write_mine(here, "Path('calm').exists() or os.kill(os.getpid(), signal.SIGKILL)")
        done = run("reproduce", "mine.py", "--quick", "--jobs", "2")
        assert done.code == 6
        assert "Traceback" not in done.stderr
        (here / "calm").touch()
        done = run("reproduce", "mine.py", "--quick", "--jobs", "2")
        assert done.code == 0, done.stderr
        assert (here / "didsim-out" / "mine.csv").read_bytes() == expected["mine.csv"]

    def test_the_exception_of_the_python_interface_says_the_same(self, broken):
        experiment = load_experiment(str(broken / "mine.py"))
        said = []
        cells = plan_cells(experiment, experiment.spec.version(quick=True), broken / "out")
        with pytest.raises(CellsFailedError, match="1 of 4 cells failed") as failure:
            run_cells(cells, 1, lambda cell, what: said.append((cell.params["tau"], what)))
        assert failure.value.exit_code == 6
        assert [tau for tau, what in said if what == "done"] == [0.5, 1.0, 4.0]
        assert [tau for tau, what in said if "out of luck" in what] == [2.0]


# --- the user's own file ----------------------------------------------------------------------------------


class TestUsersFile:
    @pytest.mark.parametrize("name", ["SPEC", "run_cell", "summarise", "draw"])
    def test_a_file_that_lacks_one_of_the_four_names_is_bad_data(self, run, here, name):
        old = "SPEC = Spec(" if name == "SPEC" else f"def {name}("
        assert MINE.count(old) == 1
        (here / "mine.py").write_text(MINE.replace(old, old.replace(name, "something_else")))
        done = run("reproduce", "./mine.py")
        assert done.code == 4
        assert f"mine.py lacks {name}. An experiment file defines SPEC, run_cell, summarise, draw." in done.stderr
        assert not (here / "didsim-out").exists()

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("1 / 0", "ZeroDivisionError"),
            ("def", "SyntaxError"),
            ("import nosuchmodule", "No module named 'nosuchmodule'"),
            (MINE.replace('id="mine"', 'id="../mine"'), "SPEC.id must be lower-case letters"),
            ("", "lacks SPEC, run_cell, summarise, draw"),
        ],
    )
    def test_a_file_that_cannot_be_loaded_is_bad_data(self, run, here, source, said):
        (here / "mine.py").write_text(source)
        done = run("reproduce", "./mine.py")
        assert done.code == 4
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_file_that_is_not_text_is_bad_data(self, run, here):
        (here / "mine.py").write_bytes(b"\x00\xff\x89PNG")
        assert run("reproduce", "./mine.py").code == 4

    @pytest.mark.parametrize("name", ["./nosuch.py", "/nosuch/nosuch.py", ".py"])
    def test_a_file_that_is_not_there_is_bad_data(self, run, name):
        done = run("reproduce", name)
        assert done.code == 4
        assert f"There is no experiment file {name}" in done.stderr

    def test_a_directory_is_not_a_file(self, run, here):
        (here / "mine.py").mkdir()
        assert run("reproduce", "./mine.py").code == 4

    def test_a_spec_that_is_not_one_is_the_files_fault(self, run, here):
        (here / "mine.py").write_text(MINE.replace("SPEC = Spec(", "SPEC = dict("))
        done = run("reproduce", "./mine.py", "--quick")
        assert "bug in didsim" not in done.stderr
        assert done.code == 4

    @pytest.mark.parametrize("name", ["summarise", "draw"])
    def test_an_error_in_the_users_summary_or_drawing_is_not_a_bug_in_didsim(self, run, here, name):
        start = {"summarise": "def summarise(df):\n", "draw": "def draw(df, axes):\n"}[name]
        (here / "mine.py").write_text(MINE.replace(start, f"{start}    raise RuntimeError('ours')\n"))
        done = run("reproduce", "./mine.py", "--quick")
        assert "bug in didsim" not in done.stderr
        assert done.code not in {0, 3}
        assert "ours" in done.stderr

    def test_a_headline_is_not_needed(self, run, here):
        (here / "mine.py").write_text(MINE.replace('    headline="js_target",\n', ""))
        done = run("reproduce", "./mine.py", "--quick", "--json")
        assert done.code == 0
        assert json.loads(done.stdout)["table"] == []

    def test_the_python_interface_raises_bad_data(self, here):
        with pytest.raises(BadDataError, match=r"There is no experiment file nosuch\.py"):
            load_experiment("nosuch.py")

    def test_a_name_that_is_not_known_suggests_the_nearest(self):
        with pytest.raises(ValueError, match=r"must be one of .*fig1_left.*Did you mean fig1_left"):
            load_experiment("fig1_lefr")


# --- interruptions ----------------------------------------------------------------------------------------


def test_what_a_kill_interrupts_goes_on_and_ends_with_the_same_bytes(run, here, expected):
    write_mine(here, "Path('calm').exists() or params['tau'] == 2.0 and os.kill(os.getpid(), signal.SIGKILL)")
    command = ["reproduce", "mine.py", "--quick", "--out", "out", "--jobs", "1"]
    killed = subprocess.run([DIDSIM, *command], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert computed(here) == ["0.5", "1.0", "2.0"]
    assert len(cell_files(here / "out")) == 2
    (here / "calm").touch()
    assert run(*command).code == 0
    assert computed(here) == ["2.0", "4.0"]
    files = contents(here / "out")
    assert {name: files[name] for name in files if name.startswith("mine")} == {
        name: expected[name] for name in expected if name.startswith("mine")
    }


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_half_done(run, here, expected):
    fault = (
        "Path('calm').exists() or params['tau'] == 2.0 and setattr(os, 'replace', lambda *_: os.kill(os.getpid(), 9))"
    )
    write_mine(here, fault)
    command = ["reproduce", "mine.py", "--quick", "--out", "out", "--jobs", "1"]
    killed = subprocess.run([DIDSIM, *command], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    leftovers = list((here / "out").rglob(".didsim-part-*"))
    assert len(leftovers) == 1
    assert len(set(cell_files(here / "out")) - set(leftovers)) == 2
    (here / "calm").touch()
    assert run(*command).code == 0
    assert list((here / "out").rglob(".didsim-part-*")) == []
    assert (here / "out" / "mine.csv").read_bytes() == expected["mine.csv"]


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")


def processes() -> dict[int, tuple[str, int]]:
    """Return the state and the parent of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found[int(folder.name)] = state, int(parent)
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid, (state, _) in processes().items() if pid in pids and state != "Z"}


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def parallel(here):
    """Start a run of two endless workers; return it, and a way to name all its processes."""
    write_mine(here, "Path(f'work-{os.getpid()}').touch(); time.sleep(600)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a background process ignores it
    with open(here / "stderr.txt", "w") as stderr:
        parent = subprocess.Popen(
            [DIDSIM, "reproduce", "mine.py", "--quick", "--jobs", "2"],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    signal.signal(signal.SIGINT, before)
    family: set[int] = set()

    def look() -> set[int]:
        family.update(pid for pid, (_, source) in processes().items() if source == parent.pid)
        return family

    yield parent, look
    for pid in alive(family | {parent.pid}):
        os.kill(pid, signal.SIGKILL)
    parent.wait()


def at_work(folder: Path) -> bool:
    return len(list(folder.glob("work-*"))) == 2


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_leaves_no_worker_behind(parallel, here, sent, code):
    parent, look = parallel
    assert wait_until(lambda: at_work(here), 180)  # a loaded machine starts slowly
    assert len(look()) >= 2
    parent.send_signal(sent)
    assert parent.wait(20) == code
    assert wait_until(lambda: not alive(look()), 10)
    said = (here / "stderr.txt").read_text()
    assert "Traceback" not in said
    if code > 0:
        assert "What was finished is kept; the same command continues." in said


@linux
@pytest.mark.slow
def test_a_kill_while_the_workers_start_leaves_none_behind(parallel):
    parent, look = parallel
    assert wait_until(lambda: len(look()) >= 3, 60)  # two workers, and the process that tracks semaphores
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not alive(look()), 20), "workers outlive a parent that was killed while they started"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_while_the_workers_start_is_quiet(parallel, here, sent):
    parent, look = parallel
    assert wait_until(lambda: len(look()) >= 3, 60)
    os.killpg(parent.pid, sent)
    assert parent.wait(20) == 128 + sent
    assert wait_until(lambda: not alive(look()), 10)
    assert "Traceback" not in (here / "stderr.txt").read_text()
