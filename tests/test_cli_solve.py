"""The command `solve`: what it prints, keeps, draws and refuses."""

import io
import json
import re
import shlex
import shutil
import signal
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import document, refuses

import didsim as ds
from didsim.cli import main
from didsim.engine import METRICS

SMALL = ("--num-classes", "8")
ROUNDING = 1e-12
DISTANCES = {
    *("js_target", "js_did", "kl_target_policy", "kl_policy_target", "kl_policy_reference"),
    *("entropy_policy", "entropy_did"),
}
CERTIFICATE = {
    *("status", "residual", "newton_step", "iterations", "smallest_eigenvalue", "starts", "basin"),
    *("other_solutions", "continuum", "kinks", "died_out"),
}


def solved(run, *arguments) -> dict:
    done = run("solve", *arguments, "--json")
    assert done.code == 0, done.stderr
    return document(done.stdout)


class TestOneSolution:
    def test_the_document_has_the_same_parts_whatever_was_found(self, run):
        for arguments in (
            ["dpo"],
            ["dpo", "--pairs", "9"],
            ["dpo", "--num-prompts", "2"],
            ["mi_dpo", "-Sprior=learned"],
        ):
            told = solved(run, *arguments, *SMALL)
            assert set(told) == {
                *("schema_version", "objective", "world", "pairs", "seed", "starts", "hyperparameters", "sentence"),
                *("certificate", "distances", "closed_form", "identification", "responses", "other_policies"),
            }
            assert set(told["certificate"]) == CERTIFICATE
            assert set(told["distances"]) == DISTANCES

    def test_it_agrees_with_the_python_interface(self, run):
        told = solved(run, "simpo", "-S", "beta=2", "-S", "gamma=0.3", *SMALL, "--tau", "2", "--seed", "0")
        problem = ds.Problem.from_temperature(8, 2.0, 42)
        solution = ds.solve(problem, ds.objective("simpo", beta=2.0, gamma=0.3))
        rows = {row["response"]: row["stationary"] for row in told["responses"]}
        np.testing.assert_array_equal([rows[response] for response in range(8)], solution.policy.probs)
        assert told["sentence"] == solution.sentence
        assert told["certificate"]["residual"] == solution.residual

    def test_responses_stand_in_the_order_of_their_reference_probability_with_all_policies(self, run):
        told = solved(run, "cal_dpo", *SMALL)
        problem = ds.Problem.from_temperature(8, 4.0, 42)
        order = np.argsort(-problem.reference.probs)
        assert [row["response"] for row in told["responses"]] == order.tolist()
        for name in ("reference", "target", "rejected", "did"):
            assert [row[name] for row in told["responses"]] == getattr(problem, name).probs[order].tolist()

    def test_distances_are_those_that_training_records(self, run):
        told = solved(run, "cpo", "--num-prompts", "3", *SMALL)["distances"]
        problem = ds.Problem.from_temperature(8, 4.0, 42, num_prompts=3)
        policy = ds.solve(problem, ds.objective("cpo")).policy
        history = ds.train(problem, ds.objective("cpo"), steps=1, initial_policy=policy)
        for name in set(METRICS) & DISTANCES:
            assert told[name] == pytest.approx(history.metrics[name][0], rel=1e-9)

    def test_the_closed_form_is_named_with_its_distance(self, run):
        form = solved(run, "dpo", *SMALL)["closed_form"]
        assert form["formula"] == "π ∝ π_ref (w/l)^{1/β}"
        assert form["difference"] < 1e-8
        assert form["note"] is None

    def test_where_there_is_no_closed_form_the_reason_is_said(self, run):
        form = solved(run, "slic", *SMALL)["closed_form"]
        assert (form["formula"], form["difference"]) == (None, None)
        assert "piecewise linear" in form["note"]

    def test_a_policy_at_kinks_says_at_which(self, run):
        told = solved(run, "slic", *SMALL)["certificate"]
        assert told["status"] == "converged"
        assert told["kinks"]
        assert all(len(corner) == 3 for corner in told["kinks"])
        assert told["smallest_eigenvalue"] is None

    def test_at_the_boundary_those_that_die_out_are_named_and_the_infinite_divergence_is_null(self, run):
        told = solved(run, "kto", *SMALL, "--starts", "1")
        gone = {response for _, response in told["certificate"]["died_out"]}
        assert told["certificate"]["status"] == "boundary"
        assert gone == {row["response"] for row in told["responses"] if row["stationary"] == 0.0} != set()
        assert told["distances"]["kl_target_policy"] is None

    def test_stationary_policies_that_are_not_isolated_are_a_result(self, run):
        done = run("solve", "mi_dpo", "-S", "prior=learned", *SMALL)
        assert done.code == 0
        assert "not isolated" in done.stdout
        assert "each may lead to another one of the set" in done.stdout
        told = solved(run, "mi_dpo", "-S", "prior=learned", *SMALL)
        assert told["certificate"]["status"] == "no-stationary-point"
        assert told["certificate"]["continuum"] == 7
        assert sum(row["prior"] for row in told["responses"]) == pytest.approx(1.0)

    def test_where_nothing_was_found_the_certificate_and_the_sentence_are_told(self, run, monkeypatch):
        pretend_that_nothing_is_found(monkeypatch)
        done = run("solve", "dpo", *SMALL)
        assert done.code == 0
        assert "JS(" not in done.stdout
        assert "certificate" in done.stdout
        told = solved(run, "dpo", *SMALL)
        assert {row["stationary"] for row in told["responses"]} == {None}
        assert told["distances"]["js_target"] is None
        assert told["certificate"]["newton_step"] is None

    def test_sequences_are_named_by_their_tokens(self, run):
        told = solved(run, "tdpo2", "--vocabulary", "2", "--max-length", "2")
        assert sorted(row["tokens"] for row in told["responses"]) == sorted(
            [[], [0], [1], [0, 0], [0, 1], [1, 0], [1, 1]]
        )
        text = run("solve", "dpo", "--vocabulary", "2", "--max-length", "2").stdout
        assert "(none)" in text
        assert "1 0" in text

    def test_prompts_have_a_column_and_a_few_of_them_are_shown(self, run):
        text = run("solve", "dpo", "--num-prompts", "5", *SMALL).stdout
        rows = re.findall(r"^ +(\d) +\d  ", text, re.MULTILINE)
        assert sorted(set(rows)) == ["0", "1", "2"]
        assert len(rows) == 12
        assert "means over prompts" in text
        told = solved(run, "dpo", "--num-prompts", "5", *SMALL)
        assert [row["prompt"] for row in told["responses"]] == [prompt for prompt in range(5) for _ in range(8)]

    def test_more_responses_are_shown_on_demand(self, run):
        short, long = (
            run("solve", "dpo", "--num-classes", "20").stdout,
            run("solve", "dpo", "--num-classes", "20", "-v").stdout,
        )
        assert "… 8 more rows; -v shows all" in short
        assert len(re.findall(r"^ +\d+ +0\.", long, re.MULTILINE)) == 20

    def test_a_restricted_policy_has_no_closed_form(self, run):
        told = solved(run, "dpo", "--num-features", "2", *SMALL)
        assert told["closed_form"]["note"] == "The policy is restricted to a log-linear class."

    def test_a_function_of_the_users_is_solved(self, run, here):
        (here / "mine.py").write_text(
            "import torch\ndef squared(pairs, *, beta=1.0):\n"
            "    margin = pairs.chosen.log_pi - pairs.rejected.log_pi\n    return (beta * margin - 1.0) ** 2\n"
        )
        told = solved(run, "mine.py:squared", "--num-classes", "4")
        assert told["certificate"]["status"] == "converged"
        assert told["closed_form"]["note"] == "None is known."
        ds.OBJECTIVES.remove("squared")

    def test_on_a_terminal_without_greek_letters_they_are_spelled_out(self, run, monkeypatch):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
        monkeypatch.setattr(sys, "stdout", terminal)
        assert run("solve", "dpo", *SMALL).code == 0
        assert b"\\u03c0_ref" in terminal.buffer.getvalue()


def pretend_that_nothing_is_found(monkeypatch) -> None:
    """Let the solver find nothing, at any setting."""
    from dataclasses import replace

    import didsim.stationary as stationary

    solve_many = stationary.solve_many

    def nothing(*arguments, **settings):
        found = solve_many(*arguments, **settings)
        gone = {"status": "no-stationary-point", "policy": None, "newton_step": np.inf, "basin": 0.0}
        return [replace(solution, **gone) for solution in found]

    monkeypatch.setattr(stationary, "solve_many", nothing)


class TestPairs:
    def test_the_pairs_are_those_that_training_runs_through(self, run):
        problem, loss = ds.Problem.from_temperature(4, 2.0, 42), ds.objective("dpo")
        from didsim._solving import draw_pairs

        pairs = draw_pairs(problem, loss, 50, 3)
        history = ds.train(problem, loss, mode="dataset", dataset=50, steps=1, seed=3)
        same = ds.train(problem, loss, mode="dataset", dataset=pairs, steps=1, seed=3)
        np.testing.assert_array_equal(history.metrics["loss"], same.metrics["loss"])

    def test_separable_pairs_lead_to_the_boundary(self, run):
        told = solved(run, "dpo", "--num-classes", "2", "--pairs", "3", "--seed", "1")
        assert told["certificate"]["status"] == "boundary"
        assert told["identification"]["status"] == "at-infinity"
        assert told["closed_form"] is None

    def test_many_pairs_lead_near_the_populations_policy(self, run):
        told = solved(run, "dpo", "--num-classes", "4", "--pairs", "100000")
        assert told["certificate"]["status"] == "converged"
        assert told["identification"]["status"] == "exists"
        assert told["distances"]["js_target"] < 1e-3

    def test_a_world_of_finitely_many_pairs_is_told_as_drawn_pairs_are(self, run):
        arguments = ("solve", "dpo", "--world", "finite_data", "-W", "num_pairs=30")
        done, told = run(*arguments), document(run(*arguments, "--json").stdout)
        sample = ds.worlds.finite_data(num_pairs=30)
        counts = np.rint(sample.pairs * 30).astype(int)
        chosen, rejected = (np.repeat(classes, counts[counts > 0]) for classes in np.nonzero(counts))
        found = ds.identify(ds.PreferenceDataset.from_classes(chosen, rejected, 32), 32)
        assert found.num_pairs == 30
        assert found.status == "not-identified"
        assert told["identification"] == {"status": found.status, "sentence": found.sentence}
        assert told["closed_form"] is None
        assert "for 30 pairs\n" in done.stdout
        assert f"not-identified: {found.sentence}" in done.stdout
        assert "for 9 drawn pairs\n" in run(*arguments, "--pairs", "9").stdout

    def test_the_number_of_prompts_is_said(self, run):
        assert (
            "on 16 classes, 4 prompts, world boilerplate, for the population"
            in run("solve", "dpo", "--world", "boilerplate").stdout
        )
        assert "prompt" not in run("solve", "dpo", *SMALL).stdout

    def test_another_seed_draws_other_pairs(self, run):
        arguments = ("dpo", "--num-classes", "4", "--pairs", "1000")
        one, two = (solved(run, *arguments, "--seed", seed) for seed in (1, 2))
        assert one["responses"] != two["responses"]


class TestGrid:
    def test_there_is_a_row_for_each_combination(self, run):
        told = solved(run, "dpo", *SMALL, "--grid", "beta=0.5,1", "--grid", "tau=0.5,2,4")
        values = [(row["values"]["beta"], row["values"]["tau"]) for row in told["rows"]]
        assert values == [(beta, tau) for beta in (0.5, 1.0) for tau in (0.5, 2.0, 4.0)]
        assert told["axes"] == ["beta", "tau"]
        for row in told["rows"]:
            assert (row["js_target"] < ROUNDING) == (row["values"]["beta"] == 1.0)

    def test_each_row_is_what_it_is_alone(self, run):
        [_, row] = solved(run, "cpo", *SMALL, "--grid", "beta=0.5,1", "-S", "lam=0.5")["rows"]
        alone = solved(run, "cpo", *SMALL, "-S", "beta=1", "-S", "lam=0.5")
        assert row["js_target"] == pytest.approx(alone["distances"]["js_target"], rel=1e-6)
        assert row["hyperparameters"] == alone["hyperparameters"]

    def test_tau_is_the_hyperparameter_where_there_is_one(self, run):
        told = solved(run, "ipo", *SMALL, "--grid", "tau=0.1,1")
        assert [row["hyperparameters"]["tau"] for row in told["rows"]] == [0.1, 1.0]
        assert told["world"]["tau"] == 4.0

    def test_the_search_grid_is_the_objectives_own(self, run):
        told = solved(run, "simpo", *SMALL, "--grid", "search")
        assert [row["hyperparameters"] for row in told["rows"]] == ds.OBJECTIVES["simpo"].grid()

    def test_what_is_set_selects_from_the_search_grid(self, run):
        told = solved(run, "simpo", *SMALL, "--grid", "search", "-S", "beta=2")
        assert {row["hyperparameters"]["beta"] for row in told["rows"]} == {2.0}
        assert "beta" not in told["axes"]

    def test_the_search_grid_may_be_crossed_with_temperatures(self, run):
        told = solved(run, "slic", "--num-classes", "4", "--grid", "search", "-S", "lam=1", "--grid", "tau=0.5,2")
        assert {row["values"]["tau"] for row in told["rows"]} == {0.5, 2.0}

    def test_a_grid_of_names_is_possible(self, run):
        told = solved(run, "mi_dpo", "--num-classes", "4", "--grid", "prior=reference,uniform")
        assert [row["values"]["prior"] for row in told["rows"]] == ["reference", "uniform"]

    def test_each_temperature_has_pairs_of_its_own(self, run):
        told = solved(run, "dpo", "--num-classes", "4", "--pairs", "1000", "--grid", "tau=0.5,2")
        alone = solved(run, "dpo", "--num-classes", "4", "--pairs", "1000", "--tau", "2")
        assert told["rows"][1]["js_target"] == pytest.approx(alone["distances"]["js_target"], rel=1e-6)

    def test_the_table_has_a_line_for_each(self, run):
        lines = run("solve", "dpo", *SMALL, "--grid", "beta=0.5,1").stdout.splitlines()
        assert lines[0].split() == ["beta", "status", "JS(π*‖π)", "JS(q‖π)", "KL(π‖π_ref)", "residual"]
        assert [line.split()[:2] for line in lines[1:3]] == [["0.5", "converged"], ["1", "converged"]]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--grid", "gama=1"], "Did you mean gamma"),
            (["--grid", "beta"], "NAME=V1,V2,..."),
            (["--grid", "=1"], "NAME=V1,V2,..."),
            (["--grid", ""], "NAME=V1,V2,..."),
            (["--grid", "beta="], "none of them empty"),
            (["--grid", "beta=1,,2"], "none of them empty"),
            (["--grid", "beta=1,5;2"], "decimals take a point"),
            (["--grid", "beta=0,5"], "decimals take a point"),
            (["--grid", "beta=0,5,1,5"], "decimals take a point"),
            (["--grid", "gamma=1,1"], "names a value twice"),
            (["--grid", "beta=nan"], "finite number"),
            (["--grid", "tau=0"], "finite number in (0, inf)"),
            (["--grid", "gamma_form=absolut"], "Did you mean absolute?"),
            (["--grid", "beta=1", "--grid", "beta=2"], "beta is given twice"),
            (["--grid", "beta=1", "-S", "beta=2"], "beta is given twice"),
            (["--grid", "search", "--grid", "search"], "search once"),
            (["--grid", "search", "--grid", "beta=1"], "names all hyperparameters"),
            (["--grid", "search", "-S", "beta=77"], "No point of the search grid"),
            (["--grid", "beta=" + ",".join(map(str, range(1, 10_002)))], "at most 10000 combinations; these are 10001"),
            (["-S", "gama=1"], "Did you mean gamma"),
            (["--vocabulary", "3"], "--max-length"),
        ],
        ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
    )
    def test_a_mistake_is_explained(self, run, arguments, said):
        refuses(run("solve", "simpo", *arguments), 2, said)

    def test_a_hyperparameter_that_would_not_be_read_is_refused(self, run):
        refuses(run("solve", "mi_dpo", "--grid", "prior=reference", "--grid", "length_penalty=1,2"), 2, "unused")


def in_directory(folder, *arguments) -> None:
    """Call the command line in a directory."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["didsim", *arguments, "-q"])
        with pytest.raises(SystemExit) as ending:
            main()
    signal.signal(signal.SIGTERM, handler)
    assert ending.value.code == 0


KEPT = {
    "solve_dpo": ("dpo", "--num-classes", "4"),
    "solve_mi_dpo": ("mi_dpo", "-Sprior=learned", "--num-prompts", "2", "--num-classes", "4"),
    "solve_dpo_grid": ("dpo", "--num-classes", "4", "--grid", "beta=0.5,1", "--grid", "tau=2,4"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A directory with the results of several calls."""
    folder = tmp_path_factory.mktemp("kept")
    for arguments in KEPT.values():
        in_directory(folder, "solve", *arguments, "--out", "out")
    return folder / "out"


class TestKept:
    @pytest.mark.parametrize("name", KEPT)
    def test_numbers_picture_and_document_are_kept(self, run, kept, name):
        made = {path.suffix for path in kept.iterdir() if path.stem == name}
        assert made == {".csv", ".svg", ".pdf", ".png", ".json"}
        content = json.loads((kept / f"{name}.json").read_text("utf-8"), parse_constant=pytest.fail)
        assert solved(run, *KEPT[name]).items() <= content.items()
        assert content["experiment"] == "solve"
        assert content["alt"] in unescape((kept / f"{name}.svg").read_text("utf-8"))

    @pytest.mark.parametrize("name", KEPT)
    def test_the_picture_is_redrawn_from_the_csv_alone(self, run, here, kept, name):
        shutil.copy(kept / f"{name}.csv", here)
        assert run("plot", f"{name}.csv", "--format", "svg,png").code == 0
        for ending in ("svg", "png"):
            assert (here / f"{name}.{ending}").read_bytes() == (kept / f"{name}.{ending}").read_bytes()

    def test_the_manifest_or_an_option_names_a_renamed_file(self, run, here, kept):
        shutil.copy(kept / "solve_dpo.csv", here / "other.csv")
        refuses(run("plot", "other.csv"), 2, "experiment must be one of")
        assert run("plot", "other.csv", "--experiment", "solve", "--format", "png").code == 0
        shutil.copy(kept / "solve_dpo.json", here / "other.json")
        assert run("plot", "other.csv", "--format", "png").code == 0

    def test_the_csv_holds_what_was_found(self, run, kept):
        told = solved(run, *KEPT["solve_dpo"])
        frame = pd.read_csv(kept / "solve_dpo.csv")
        curve = frame[(frame["series"] == "stationary") & (frame["quantity"] == "probability")]
        assert curve["value"].tolist() == [row["stationary"] for row in told["responses"]]
        assert frame.loc[frame["quantity"] == "js_target", "value"].tolist() == [told["distances"]["js_target"]]

    def test_nothing_is_kept_without_being_asked(self, run, here):
        run("solve", "dpo", *SMALL)
        assert list(here.iterdir()) == []

    def test_where_nothing_was_found_there_is_a_picture_too(self, run, here, monkeypatch):
        pretend_that_nothing_is_found(monkeypatch)
        assert run("solve", "dpo", *SMALL, "--out", "out").code == 0
        assert run("solve", "dpo", *SMALL, "--grid", "beta=1,2", "--out", "out").code == 0
        assert (here / "out" / "solve_dpo_grid.png").exists()

    def test_an_unusable_directory_is_a_matter_of_resources(self, run, here):
        (here / "taken").write_text("a file")
        refuses(run("solve", "dpo", *SMALL, "--out", "taken"), 7, "taken")
        (here / "full").mkdir()
        (here / "full" / "mine.txt").write_text("mine")
        refuses(run("solve", "dpo", *SMALL, "--out", "full"), 7, "not didsim's")

    @pytest.mark.parametrize(
        ("old", "new"),
        [("stationary", "nonesuch"), (",value,", ",number,"), ("probability", "JS"), (",converged", "")],
    )
    def test_a_damaged_csv_is_bad_data(self, run, here, kept, old, new):
        (here / "solve_dpo.csv").write_text((kept / "solve_dpo.csv").read_text("utf-8").replace(old, new), "utf-8")
        refuses(run("plot", "solve_dpo.csv", "--format", "png"), 4, "solve_dpo.csv")
        assert not (here / "solve_dpo.png").exists()

    @pytest.mark.parametrize(
        ("name", "column"), [("solve_dpo", "value"), ("solve_dpo_grid", "js_target"), ("solve_dpo_grid", "x")]
    )
    @pytest.mark.parametrize("value", ["nan", "-1", "abc", "inf"])
    def test_a_cell_that_is_no_distance_or_probability_is_bad_data(self, run, here, kept, name, column, value):
        frame = pd.read_csv(kept / f"{name}.csv", dtype=str, keep_default_na=False)
        frame.loc[3, column] = value
        frame.to_csv(here / f"{name}.csv", index=False)
        done = run("plot", f"{name}.csv", "--format", "png")
        if (column, value) == ("x", "-1"):
            assert done.code == 0
        else:
            refuses(done, 4, f"{name}.csv")


def test_the_readme_shows_what_the_command_prints(run):
    """Words and numbers agree; what is rounding is small in both."""
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    [(command, shown)] = re.findall(r"^```text\n\$ didsim (solve .*?)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    printed = run(*shlex.split(command)).stdout
    assert len(printed.splitlines()) == len(shown.splitlines())
    for ours, theirs in zip(printed.split(), shown.split(), strict=True):
        number = re.fullmatch(r"[-+.e\d]+", theirs)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-3, abs=1e-9) if number else ours == theirs
