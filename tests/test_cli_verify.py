"""The command `verify`: what it prints, keeps and refuses, and when it ends with 1."""

import json
import math
from dataclasses import replace

import pytest
from test_cli import document, refuses

import didsim as ds
from didsim import claims
from didsim.claims import CLAIMS, DRAWS
from didsim.cli import cli

QUICK = ("mi.eq-*", "--draws", "5")
KEYS = {
    *("name", "source", "statement", "verdict", "recorded", "residual", "tolerance", "instances", "control"),
    *("counterexample", "violation", "sentence", "note"),
}


def verified(run, *arguments) -> dict:
    done = run("verify", *arguments, "--json")
    assert done.code == 0, done.stderr
    return document(done.stdout)


def pretend(monkeypatch, name: str, **changes) -> None:
    """Change a claim of the ledger for one test."""
    ledger = {**CLAIMS, name: replace(CLAIMS[name], **changes)}
    monkeypatch.setattr(claims, "CLAIMS", ledger)
    monkeypatch.setattr("didsim.claims._ledger.CLAIMS", ledger)


class TestTable:
    def test_a_row_stands_for_each_claim_in_the_order_of_the_ledger(self, run):
        lines = run("verify", *QUICK).stdout.splitlines()
        assert lines[0].split() == [
            "name",
            "source",
            "verdict",
            "instances",
            "worst",
            "residual",
            "tolerance",
            "seconds",
        ]
        assert [line.split()[0] for line in lines[1:3]] == [name for name in CLAIMS if name.startswith("mi.eq-")]

    def test_a_claim_that_does_not_simply_hold_has_a_sentence(self, run):
        printed = run("verify", *QUICK).stdout
        assert "mi.eq-3: fails as printed; no counterexample in " in printed
        assert "\nmi.eq-5:" not in printed

    def test_the_verdicts_are_counted_without_claiming_a_proof(self, run):
        printed = run("verify", *QUICK).stdout
        last = printed.splitlines()[-1]
        assert last.startswith("2 claims: 1 holds, 1 holds-conditionally; all as recorded.")
        assert "prove" not in printed

    def test_more_is_told_on_request(self, run):
        claim = CLAIMS["mi.eq-3"]
        printed = run("verify", *QUICK, "-v").stdout
        for text in (claim.statement, claim.note, claim.reason, claim.control.breaks, *claim.assumptions):
            assert text in printed

    def test_nothing_is_said_on_stderr_and_nothing_written(self, run, here):
        assert run("verify", *QUICK).stderr == ""
        assert list(here.iterdir()) == []


class TestDocument:
    def test_it_has_the_parts_that_are_promised(self, run):
        told = verified(run, *QUICK)
        assert set(told) == {"schema_version", "draws", "seed", "search", "claims"}
        assert (told["draws"], told["seed"], told["search"]) == (5, 0, False)
        assert all(set(row) == KEYS for row in told["claims"])

    def test_it_agrees_with_the_python_interface(self, run):
        [row] = verified(run, "mi.eq-3", "--draws", "7", "--seed", "3")["claims"]
        result = ds.verify("mi.eq-3", draws=7, seed=3)
        for name in KEYS - {"source", "statement", "recorded", "tolerance"}:
            assert row[name] == getattr(result, name), name
        assert row["recorded"] == result.claim.verdict

    def test_the_same_seed_gives_the_same_bytes_and_another_one_other_draws(self, run):
        first, again = (run("verify", *QUICK, "--json").stdout for _ in range(2))
        assert first == again
        assert verified(run, *QUICK, "--seed", "1")["claims"] != verified(run, *QUICK)["claims"]

    def test_what_a_claim_ends_with_does_not_depend_on_the_others(self, run):
        alone = verified(run, "mi.eq-5", "--draws", "5")["claims"]
        assert [row for row in verified(run, *QUICK)["claims"] if row["name"] == "mi.eq-5"] == alone

    def test_the_default_draws_are_those_of_the_package(self, run):
        assert verified(run, "mi.eq-5")["draws"] == DRAWS
        [option] = [p for p in cli.commands["verify"].params if p.name == "draws"]
        assert f"[{DRAWS}]" in option.help

    def test_an_infinite_residual_is_null(self, run, monkeypatch):
        pretend(monkeypatch, "mi.eq-5", check=lambda instance: math.inf, verdict="fails")
        [row] = verified(run, "mi.eq-5", "--draws", "5")["claims"]
        assert (row["residual"], row["violation"], row["control"]) == (None, None, None)
        assert row["counterexample"]


class TestSelection:
    def test_names_and_globs_go_together_and_each_claim_is_checked_once(self, run):
        rows = verified(run, "mi.eq-5", "mi.eq-*", "did.lem-D.1", "--draws", "2")["claims"]
        assert sorted(row["name"] for row in rows) == ["did.lem-D.1", "mi.eq-3", "mi.eq-5"]

    def test_a_mistyped_name_suggests_the_nearest(self, run):
        refuses(run("verify", "did.thm-33"), 2, "Did you mean", "did.thm-3.3", "didsim list claims")

    def test_a_glob_that_matches_nothing_selects_nothing(self, run):
        refuses(run("verify", "mi.eq-*", "nonesuch.*"), 5, "'nonesuch.*'")


class TestVerdicts:
    def test_a_verdict_that_differs_from_the_recorded_one_ends_with_1(self, run, monkeypatch):
        pretend(monkeypatch, "mi.eq-5", verdict="fails")
        done = run("verify", *QUICK)
        assert done.code == 1
        assert "holds, not fails" in done.stdout
        assert "mi.eq-5: no counterexample in 5 instances (recorded: fails)" in done.stdout
        assert "1 not as recorded" in done.stdout

    def test_the_document_is_printed_all_the_same(self, run, monkeypatch):
        pretend(monkeypatch, "mi.eq-5", verdict="fails")
        done = run("verify", *QUICK, "--json")
        assert done.code == 1
        [row] = [row for row in document(done.stdout)["claims"] if row["name"] == "mi.eq-5"]
        assert (row["verdict"], row["recorded"]) == ("holds", "fails")


class TestSearch:
    def test_what_is_found_is_kept_and_can_be_replayed(self, run, here):
        done = run("verify", "alpha.w-corr", "--search", "--draws", "5")
        path = here / "didsim-out" / "counterexamples" / "alpha.w-corr.json"
        assert done.code == 0
        assert f"didsim verify --replay {path.relative_to(here)}" in done.stderr
        again = run("verify", "--replay", path, "--json")
        assert again.code == 0
        assert document(again.stdout)["violates"]

    def test_the_same_seed_finds_the_same(self, run, here):
        for out in ("one", "two"):
            run("verify", "alpha.w-corr", "--search", "--draws", "5", "--out", out)
        one, two = ((here / out / "counterexamples" / "alpha.w-corr.json").read_bytes() for out in ("one", "two"))
        assert one == two

    def test_that_nothing_is_found_is_said(self, run, here):
        done = run("verify", "mi.eq-5", "--search", "--draws", "2")
        assert done.code == 0
        assert "The search found no counterexample." in done.stderr
        assert not (here / "didsim-out" / "counterexamples").exists()

    def test_a_counterexample_to_what_is_recorded_to_hold_ends_with_1(self, run, monkeypatch):
        pretend(monkeypatch, "mi.eq-5", check=lambda instance: 1.0)
        done = run("verify", "mi.eq-5", "--search", "--draws", "2")
        assert done.code == 1
        assert "Kept 1 counterexample" in done.stderr

    def test_a_directory_of_someone_elses_is_refused_before_anything_is_done(self, run, here):
        (here / "mine").mkdir()
        (here / "mine" / "thesis.txt").write_text("mine")
        refuses(run("verify", "mi.eq-5", "--search", "--out", "mine"), 7, "not didsim's")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mi.eq-5", "--replay", "x.json"), "does not go with NAME"),
        (("--replay", "x.json", "--draws", "3"), "does not go with --draws"),
        (("--replay", "x.json", "--report", "r.html", "--search"), "does not go with --report, --search"),
        (("mi.eq-5", "--out", "there"), "--out"),
        (("mi.eq-5", "--report", "figure.csv"), "FILE.html; got 'figure.csv'"),
        (("mi.eq-5", "--report", "."), "directory"),
    ],
)
def test_options_that_would_not_be_read_are_refused(run, arguments, said):
    refuses(run("verify", *arguments), 2, said)


class TestReport:
    def test_the_page_is_written_whole_with_the_same_bytes_again(self, run, here):
        (here / "b.html").write_text("old")
        for name in ("deep/er/a.html", "b.html"):
            done = run("verify", *QUICK, "--report", name)
            assert (done.code, done.stderr) == (0, "")
        page = (here / "b.html").read_bytes()
        assert page == (here / "deep/er/a.html").read_bytes()
        assert page.endswith(b"</html>\n")

    def test_it_is_written_when_a_verdict_differs_too(self, run, here, monkeypatch):
        pretend(monkeypatch, "mi.eq-5", verdict="fails")
        assert run("verify", *QUICK, "--report", "r.html").code == 1
        assert "recorded: fails" in (here / "r.html").read_text("utf-8")

    def test_where_it_cannot_be_written_is_a_matter_of_resources(self, run, here):
        (here / "file").write_text("mine")
        refuses(run("verify", *QUICK, "--report", "file/r.html"), 7)


# --- replay -----------------------------------------------------------------------------------------------


def write(here, content, name="instance.json"):
    (here / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return here / name


THEOREM = "did.thm-3.3"
GOOD = {"num_classes": 2, "reference": [0.75, 0.25], "target": [0.5, 0.5], "beta": 1}


class TestReplay:
    @pytest.mark.parametrize(
        "name", [name for name, claim in CLAIMS.items() if claim.counterexample and claim.cost < 20]
    )
    def test_every_saved_counterexample_violates_its_claim(self, run, here, name):
        path = write(here, {"claim": name, "instance": CLAIMS[name].counterexample})
        told = document(run("verify", "--replay", path, "--json").stdout)
        assert told["meets_assumptions"]
        assert told["violates"]
        assert told["residual"] is None or told["residual"] > told["tolerance"]

    @pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.cost < 10])
    def test_every_negative_control_can_be_replayed_and_lies_outside_its_claim(self, run, here, name):
        done = run(
            "verify", "--replay", write(here, {"claim": name, "instance": CLAIMS[name].control.instance}), "--json"
        )
        assert done.code == 0, done.stderr
        told = document(done.stdout)
        assert told["broken"] == [CLAIMS[name].control.breaks]
        assert not told["violates"]

    def test_an_instance_that_agrees_is_told_so(self, run, here):
        done = run("verify", "--replay", write(here, {"claim": THEOREM, "instance": GOOD}))
        assert done.code == 0
        assert "assumption   met: the power law" in done.stdout
        assert done.stdout.endswith("The instance does not violate the claim.\n")

    def test_an_instance_that_breaks_an_assumption_says_nothing_of_the_claim(self, run, here):
        done = run("verify", "--replay", write(here, {"claim": THEOREM, "instance": {**GOOD, "rejected": [0.5, 0.5]}}))
        assert done.code == 0
        assert "assumption   broken: the power law" in done.stdout
        assert "Outside the claim, which supposes that the power law" in done.stdout

    def test_an_instance_that_contradicts_the_recorded_verdict_ends_with_1(self, run, here, monkeypatch):
        pretend(monkeypatch, THEOREM, check=lambda instance: math.nan)
        done = run("verify", "--replay", write(here, {"claim": THEOREM, "instance": GOOD}), "--json")
        assert done.code == 1
        assert document(done.stdout)["residual"] is None
        assert "contradicts the recorded verdict, holds" in done.stderr

    def test_that_a_condition_is_not_met_is_said(self, run, here):
        claim = CLAIMS["mi.eq-3"]
        done = run("verify", "--replay", write(here, {"claim": claim.name, "instance": claim.counterexample}))
        assert done.code == 0
        assert f"condition    not met: {claim.condition[0]}" in done.stdout
        assert "violates the claim as printed, and does not meet its condition" in done.stdout


def with_instance(**changes) -> dict:
    return {"claim": THEOREM, "instance": {**GOOD, **changes}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must hold"),
        ("null", "must hold"),
        ({"instance": GOOD}, "the name of a claim is missing"),
        ({"claim": 3, "instance": GOOD}, "the name of a claim is missing"),
        ({"claim": "did.thm-33", "instance": GOOD}, "Did you mean"),
        ({"claim": THEOREM}, "its instance is no such object"),
        ({"claim": THEOREM, "instance": [1]}, "its instance is no such object"),
        ({"claim": THEOREM, "instance": {}}, "num_classes is missing; reference is missing"),
        (with_instance(gamma=1), "'gamma' is no field of it, which are beta"),
        (with_instance(beta="1"), 'beta must be a finite number; got "1"'),
        (with_instance(beta=True), "beta must be a finite number; got true"),
        (with_instance(beta=None), "beta must be a finite number; got null"),
        (with_instance(beta=[1]), "beta must be a finite number"),
        (with_instance(beta=math.inf), "beta must be a finite number; got Infinity"),
        (with_instance(beta=math.nan), "beta must be a finite number; got NaN"),
        (with_instance(beta=-1), "beta is out of its range; got -1"),
        (with_instance(num_classes=2.0), "num_classes must be a whole number"),
        (with_instance(num_classes=3), "reference must have the shape [3] of num_classes; it has [2]"),
        (with_instance(reference=0.5), "reference must be a list, each entry a finite number"),
        (with_instance(reference=["a", "b"]), "reference must be a list"),
        (with_instance(reference=[[0.5], [0.5]]), "reference must be a list"),
        (with_instance(reference=[0.5, 0.4]), "reference is out of its range"),
        (with_instance(reference=[1.5, -0.5]), "reference is out of its range"),
        (with_instance(rejected=[0.5, 0.25, 0.25]), "cannot take it"),
    ],
)
def test_a_bad_file_is_explained_without_a_traceback(run, here, content, said):
    refuses(run("verify", "--replay", write(here, content)), 4, "instance.json", said)


def test_a_file_that_cannot_be_read_is_bad_data(run, here):
    refuses(run("verify", "--replay", "nonesuch.json"), 4, "Cannot read nonesuch.json")
    refuses(run("verify", "--replay", here), 4, "Cannot read")
    (here / "latin.json").write_bytes(b'{"claim": "\xe9"}')
    refuses(run("verify", "--replay", "latin.json"), 4, "is not JSON")
