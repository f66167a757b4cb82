"""The ledger: every claim gives its recorded verdict, its control fails, its counterexample replays."""

import io
import json
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from didsim.claims import CLAIMS, VERDICTS, Claim, Control, Result, check_claim, select, verify
from didsim.claims import _claim as claim_module
from didsim.claims._claim import COUNTEREXAMPLES
from didsim.claims._fields import Count, Instance, Reals
from didsim.claims._verify import draw_instance, residual_of, rng_of
from didsim.objectives._registry import BUILT_IN

FEW = 20
"""Draws that take seconds for the whole ledger."""

CHEAP = [name for name, claim in CLAIMS.items() if claim.cost <= 4]
COSTLY = {
    f"x.stationary-{name}"
    for name in (
        *("robust_dpo", "epsilon_dpo", "wpo", "alpha_dpo", "beta_dpo", "dpop", "aot", "aot_unpaired", "kto", "tdpo1"),
        *("tdpo2", "tis_dpo", "ld_dpo", "repo", "rmipo"),
    )
}
"""Of which one draw takes more than a second: others of the same check are among the fast tests."""

SAVED = {path.stem: path for path in sorted(COUNTEREXAMPLES.glob("*.json"))}
DRAWN = [name for name, claim in CLAIMS.items() if claim.picture is not None]

EXPECTED = (
    *("did.thm-2.1", "did.lem-D.1", "did.thm-3.2", "did.thm-3.3", "did.thm-3.4-if", "did.thm-3.4-only-if"),
    *("did.thm-3.5-forward", "did.thm-3.5-backward", "did.thm-G", "did.thm-L.1-if", "did.thm-L.1-only-if"),
    *("did.footnote-4", "did.claim-4.1-reinforce", "did.claim-4.1-smooth", "did.app-E-identity"),
    *("did.app-E-inequality", "did.lld", "did.thm-H.4", "did.thm-H.5", "did.cor-H.5.1", "did.app-K-mc"),
    *("did.app-K-entropy", "did.app-K-greedy", "did.app-K.1", "did.fig-7"),
    *("mi.lem-1", "mi.eq-5", "mi.dual", "mi.loss", "mi.recovers-dpo", "mi.recovers-dice", "mi.recovers-centropy"),
    *("mi.recovers-simpo", "mi.recovers-r-dpo", "mi.recovers-tdpo", "mi.recovers-tis-dpo", "mi.recovers-sparse-po"),
    *("mi.joint-min", "mi.prompt-dependence", "mi.constraints", "mi.marginal-prior"),
    *("alpha.thm-3.1", "alpha.limit-0", "alpha.limit-1", "alpha.lem-4.2", "alpha.w-corr", "alpha.lem-4.3"),
    *("alpha.kl-control", "alpha.stop-gradient"),
    *("rmipo.insight-1", "rmipo.eq-4", "rmipo.eq-6", "rmipo.eq-7", "rmipo.margin", "rmipo.prior-invariance"),
    *("rmipo.reference-cancels", "rmipo.robust-beta", "rmipo.fig-8", "rmipo.table-7", "rmipo.table-8"),
    *("x.recovery-design", "x.displacement", "x.sample-size", "x.f-divergence"),
    *(f"x.stationary-{record.name}" for record in BUILT_IN),
)
"""The claims that the ledger was asked for; it holds corrected statements besides."""

MARKUP = re.compile(r"`|\*\*|\$|\\|\]\(|</?[a-z]+>|&[a-z]+;|\n|^#")
ABBREVIATIONS = re.compile(r"\b(?:Eqs?|Figs?|Apps?|Secs?|Nos?|vs|cf|resp|al|e\.g|i\.e)\.")


@cache
def result_of(name: str) -> Result:
    """Check a claim of the ledger with few draws, once."""
    return check_claim(CLAIMS[name], FEW, 0)


def counterexample_of(name: str) -> Instance:
    """Return the saved counterexample of a claim that has one."""
    instance = CLAIMS[name].counterexample
    assert instance is not None
    return instance


def checked(names: Iterable[str]) -> list:
    """Return claims to check with few draws, the costly ones for the slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in names]


def found(result: Result) -> tuple[Any, ...]:
    """Return all that a check found, in a form that can be compared."""
    numbers = (result.residual, result.control, result.violation)
    return result.verdict, result.instances, result.sentence, repr(numbers), json.dumps(result.counterexample)


def sentences(text: str) -> int:
    """Count the sentences of a text."""
    return len(re.findall(r"[.!?][”)’]*(?=\s|$)", ABBREVIATIONS.sub("", text)))


# --- what every entry of the ledger must have ----------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_the_ledger_has_every_claim_that_was_asked_for(name):
    assert name in CLAIMS


@pytest.mark.parametrize("name", CLAIMS)
class TestEntries:
    def test_it_says_what_where_and_why(self, name):
        claim = CLAIMS[name]
        for text in (claim.statement, claim.source, claim.note, claim.reason):
            assert text == text.strip() != ""
        assert claim.statement.endswith((".", "?"))

    def test_its_note_is_a_few_plain_sentences(self, name):
        note = CLAIMS[name].note
        assert 2 <= sentences(note) <= 6
        assert all(MARKUP.search(text) is None for text in (note, CLAIMS[name].statement, CLAIMS[name].source))
        assert "  " not in note

    def test_its_verdict_is_final_and_goes_with_what_it_was_judged_by(self, name):
        claim = CLAIMS[name]
        assert claim.name == name
        assert claim.verdict in set(VERDICTS) - {"inconclusive"}
        assert 0.0 < claim.tolerance < math.inf
        assert claim.condition is None or claim.condition[0].strip()
        assert claim.verdict != "holds-conditionally" or claim.condition is not None
        assert claim.verdict != "approximate" or (claim.bound is not None and claim.bound > claim.tolerance)

    def test_its_control_breaks_one_assumption_and_meets_the_others_and_the_condition(self, name):
        claim = CLAIMS[name]
        assert claim.control.breaks in claim.assumptions
        met = {words: holds(claim.control.instance) for words, holds in claim.assumptions.items()}
        assert met == {words: words != claim.control.breaks for words in claim.assumptions}
        assert claim.meets_condition(claim.control.instance)

    def test_instances_are_json(self, name):
        claim = CLAIMS[name]
        instances = [claim.control.instance, draw_instance(claim, rng_of(claim, 0))]
        assert json.loads(json.dumps(instances, allow_nan=False)) == instances
        assert set(instances[1]) == set(claim.fields)

    def test_what_corrects_it_is_another_claim_that_holds(self, name):
        corrected = CLAIMS[name].corrected
        assert corrected is None or (corrected != name and CLAIMS[corrected].verdict.startswith("holds"))


@pytest.mark.parametrize("name", CLAIMS)
def test_only_what_does_not_hold_as_printed_has_a_counterexample(name):
    claim = CLAIMS[name]
    assert (name in SAVED) == (claim.verdict != "holds")
    assert (claim.counterexample is None) == (claim.verdict == "holds")


@pytest.mark.parametrize("name", checked(CLAIMS))
class TestResults:
    def test_few_draws_find_the_recorded_verdict(self, name):
        result = result_of(name)
        assert result.verdict == CLAIMS[name].verdict, (result.sentence, result.residual, result.counterexample)
        assert result.agrees
        assert result.residual >= 0.0

    def test_its_control_fails(self, name):
        assert result_of(name).control > CLAIMS[name].tolerance

    def test_the_counterexample_is_the_saved_one(self, name):
        assert result_of(name).counterexample == CLAIMS[name].counterexample


@pytest.mark.parametrize("name", checked(name for name, claim in CLAIMS.items() if claim.verdict != "holds"))
class TestCounterexamples:
    def test_it_meets_the_assumptions(self, name):
        assert CLAIMS[name].meets_assumptions(counterexample_of(name))

    def test_where_a_condition_helps_it_lies_outside(self, name):
        claim = CLAIMS[name]
        assert claim.verdict != "holds-conditionally" or not claim.meets_condition(counterexample_of(name))

    def test_it_violates_the_statement_again_and_again(self, name):
        violation = result_of(name).violation
        assert violation is not None
        assert violation > CLAIMS[name].tolerance
        assert residual_of(CLAIMS[name], counterexample_of(name)) == violation
        assert result_of(name).counterexample == json.loads(SAVED[name].read_text("utf-8"))["instance"]


@pytest.mark.parametrize("name", SAVED)
def test_every_saved_counterexample_belongs_to_a_claim(name):
    saved = json.loads(SAVED[name].read_text("utf-8"))
    assert set(saved) == {"claim", "instance"}
    assert saved["claim"] == name
    assert name in CLAIMS


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_with_words_at_the_axes(name):
    picture = CLAIMS[name].picture
    assert picture is not None
    figure = Figure()
    axes = figure.subplots(1, 1, squeeze=False)
    picture(axes)
    assert axes[0, 0].has_data()
    assert axes[0, 0].get_xlabel().strip()
    assert axes[0, 0].get_ylabel().strip()
    figure.savefig(io.BytesIO())


# --- the same seed, the same result --------------------------------------------------------------------------


class TestReproducibility:
    def test_neither_repetition_nor_order_changes_what_is_found(self):
        forwards = {name: found(check_claim(CLAIMS[name], 4, 3)) for name in CHEAP}
        backwards = {name: found(check_claim(CLAIMS[name], 4, 3)) for name in reversed(CHEAP)}
        assert forwards == backwards

    def test_the_global_state_of_torch_is_neither_read_nor_changed(self):
        results = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            results.append([found(check_claim(CLAIMS[name], 2, 0)) for name in CHEAP])
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.get_default_dtype() == torch.float32
            assert torch.is_grad_enabled()
        assert results[0] == results[1]

    def test_another_seed_draws_other_instances(self):
        for claim in CLAIMS.values():
            drawn = [draw_instance(claim, rng_of(claim, seed)) for seed in (0, 1, 2, 3, 4)]
            assert any(instance != drawn[0] for instance in drawn), claim.name

    def test_claims_of_one_check_draw_different_instances(self):
        claim = CLAIMS["did.thm-3.2"]
        other = CLAIMS["did.app-E-identity"]
        assert rng_of(claim, 0).random() != rng_of(other, 0).random()

    @pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if 1 < claim.cost * 2 <= FEW])
    def test_a_single_draw_finds_the_recorded_verdict_too(self, name):
        assert check_claim(CLAIMS[name], 1, 0).agrees


@pytest.mark.slow
class TestTheWholeLedger:
    @pytest.mark.parametrize("seed", [1, 2])
    @pytest.mark.parametrize("name", CLAIMS)
    def test_default_draws_find_the_recorded_verdict(self, name, seed):
        result = verify(name, seed=seed)
        assert result.agrees, (result.verdict, result.sentence, result.residual, result.counterexample)

    @pytest.mark.parametrize("name", CLAIMS)
    def test_the_same_seed_finds_the_same(self, name):
        assert found(verify(name, draws=FEW, seed=7)) == found(verify(name, draws=FEW, seed=7))


# --- how a verdict follows -----------------------------------------------------------------------------------

SIZE, SIGN = "x is at most 3", "x is positive"


def toy(check: Any = lambda i: 0.0, **facts: Any) -> Claim:
    """Return a claim of one positive number x ≤ 3, whose control x = 4 has the residual 1 unless told otherwise."""

    def checked(instance: Instance) -> float:
        return 1.0 if instance["x"] == 4.0 else check(instance)

    given: dict[str, Any] = {
        "name": "toy.claim",
        "statement": "x is good.",
        "source": "ours",
        "verdict": "holds",
        "note": "A toy. It serves the tests.",
        "fields": {"x": Reals(low=0.0)},
        "check": checked,
        "tolerance": 0.1,
        "reason": "a round number",
        "assumptions": {SIZE: lambda i: i["x"] <= 3.0, SIGN: lambda i: i["x"] > 0.0},
        "control": Control(breaks=SIZE, instance={"x": 4.0}),
    }
    return Claim(**{**given, **facts})


class TestVerdicts:
    def test_no_violation_holds(self):
        result = check_claim(toy(), 7)
        assert (result.verdict, result.instances, result.residual, result.control) == ("holds", 7, 0.0, 1.0)
        assert result.counterexample is result.violation is None
        assert result.sentence == "no counterexample in 7 instances"

    def test_a_residual_of_the_tolerance_itself_is_no_violation(self):
        assert check_claim(toy(lambda i: 0.1), 5).verdict == "holds"

    @pytest.mark.parametrize("control", [0.0, 0.1, math.nan])
    def test_a_control_that_does_not_fail_is_inconclusive(self, control):
        result = check_claim(toy(check=lambda i: 0.0, control=Control(breaks=SIZE, instance={"x": 5.0})), 5)
        assert result.verdict == "inconclusive"
        violated = toy(lambda i: control if i["x"] == 5.0 else 9.0, control=Control(breaks=SIZE, instance={"x": 5.0}))
        assert check_claim(violated, 5).verdict == "inconclusive"

    def test_a_violation_fails_and_is_shown(self):
        result = check_claim(toy(lambda i: i["x"]), 50)
        assert result.verdict == "fails"
        assert result.counterexample is not None
        assert result.violation == result.residual == result.counterexample["x"] > 1.0
        assert result.sentence == "a counterexample violates it"

    def test_a_violation_outside_the_condition_holds_conditionally(self):
        claim = toy(lambda i: max(0.0, i["x"] - 1.0), condition=("x is at most 1", lambda i: i["x"] <= 1.0))
        result = check_claim(claim, 50)
        assert (result.verdict, result.residual) == ("holds-conditionally", 0.0)
        assert result.counterexample is not None
        assert result.counterexample["x"] > 1.0
        assert re.fullmatch(r"fails as printed; no .* in \d+ instances where x is at most 1", result.sentence)

    def test_a_violation_inside_the_condition_fails(self):
        claim = toy(lambda i: max(0.0, i["x"] - 0.5), condition=("x is at most 1", lambda i: i["x"] <= 1.0))
        assert check_claim(claim, 50).verdict == "fails"

    def test_a_condition_that_is_not_needed_leaves_it_holding(self):
        assert check_claim(toy(condition=("x is at most 1", lambda i: i["x"] <= 1.0)), 20).verdict == "holds"

    def test_a_condition_that_nothing_meets_saves_nothing(self):
        result = check_claim(toy(lambda i: i["x"], condition=("never", lambda i: False)), 20)
        assert (result.verdict, result.residual) == ("fails", math.inf)

    def test_draws_go_on_until_one_meets_the_condition(self):
        condition = ("x is in a small part", lambda i: i["x"] < 0.05)
        result = check_claim(toy(lambda i: float(i["x"] >= 0.05), condition=condition), 2)
        assert result.verdict == "holds-conditionally"
        assert result.instances > 2

    @pytest.mark.parametrize(("bound", "verdict"), [(3.0, "approximate"), (0.5, "fails")])
    def test_within_its_bound_it_is_approximate(self, bound, verdict):
        result = check_claim(toy(lambda i: i["x"], bound=bound), 100)
        assert result.verdict == verdict
        assert (result.sentence == "not exact, but within 3 in 100 instances") == (verdict == "approximate")

    def test_what_is_not_a_number_counts_as_infinite(self):
        claim = toy(lambda i: math.nan)
        assert residual_of(claim, {"x": 1.0}) == math.inf
        result = check_claim(claim, 5)
        assert (result.verdict, result.residual, result.violation) == ("fails", math.inf, math.inf)

    def test_one_that_is_not_a_number_among_many_is_found(self):
        numbers = iter([0.0, 0.0, math.nan, 0.0, 0.0])
        assert check_claim(toy(lambda i: next(numbers)), 5).verdict == "fails"

    def test_further_instances_are_checked_too(self):
        claim = toy(lambda i: float(i["x"] == 2.0))
        assert check_claim(claim, 5).verdict == "holds"
        result = check_claim(claim, 5, more=[{"x": 2.0}])
        assert (result.verdict, result.instances, result.counterexample) == ("fails", 6, {"x": 2.0})

    def test_a_saved_counterexample_is_replayed_and_shown_even_if_others_are_worse(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claim_module, "COUNTEREXAMPLES", tmp_path)
        saved = {"claim": "toy.claim", "instance": {"x": 0.5}}
        (tmp_path / "toy.claim.json").write_text(json.dumps(saved), "utf-8")
        result = check_claim(toy(lambda i: i["x"]), 30)
        assert (result.instances, result.counterexample, result.violation) == (31, {"x": 0.5}, 0.5)
        assert result.residual > 0.5

    def test_a_saved_counterexample_that_violates_nothing_is_not_shown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claim_module, "COUNTEREXAMPLES", tmp_path)
        saved = {"claim": "toy.claim", "instance": {"x": 0.01}}
        (tmp_path / "toy.claim.json").write_text(json.dumps(saved), "utf-8")
        result = check_claim(toy(lambda i: i["x"]), 30)
        assert result.counterexample != {"x": 0.01}
        assert check_claim(toy(), 5).verdict == "holds"

    def test_costly_claims_are_drawn_less_but_once_at_least(self):
        counts = [check_claim(toy(cost=cost), draws).instances for cost, draws in [(1, 1), (4, 20), (50, 20)]]
        assert counts == [1, 5, 1]

    def test_without_instances_there_is_no_verdict(self):
        with pytest.raises(RuntimeError, match=r"toy\.claim: none of 1000 draws meets its assumptions"):
            check_claim(toy(assumptions={SIZE: lambda i: False}), 5)

    def test_an_error_of_the_check_is_not_hidden(self):
        def broken(instance: Instance) -> float:
            raise ArithmeticError("broken")

        with pytest.raises(ArithmeticError, match="broken"):
            check_claim(toy(broken), 5)

    def test_only_draws_that_meet_all_assumptions_are_checked(self):
        seen = []
        check_claim(toy(lambda i: seen.append(i["x"]) or 0.0, fields={"x": Reals(), "n": Count(1, 2)}), 100)
        assert len(seen) == 100
        assert all(0.0 < x <= 3.0 for x in seen)


# --- what is asked of the ledger -----------------------------------------------------------------------------


class TestVerify:
    def test_it_checks_the_claim_of_a_name(self):
        result = verify("did.thm-3.3", draws=5, seed=4)
        assert (result.name, result.verdict, result.instances) == ("did.thm-3.3", "holds", 5)
        assert result.note == CLAIMS["did.thm-3.3"].note

    def test_the_search_adds_nothing_to_a_claim_that_holds(self):
        assert found(verify("did.thm-3.2", draws=4, search=True)) == found(verify("did.thm-3.2", draws=4))

    @pytest.mark.parametrize(("name", "meant"), [("did.thm-33", "did.thm-3.3"), ("mi.lem1", "mi.lem-1")])
    def test_unknown_names_are_refused_with_a_suggestion(self, name, meant):
        with pytest.raises(ValueError, match=rf"claim must be .*; got '{re.escape(name)}'.*{re.escape(meant)}"):
            verify(name)

    @pytest.mark.parametrize("name", ["", "nothing like it at all", None, 3])
    def test_other_names_are_refused_too(self, name):
        with pytest.raises(ValueError, match="claim must be the name of a claim"):
            verify(name)

    @pytest.mark.parametrize("options", [{"draws": 0}, {"draws": -5}, {"draws": 10**9}, {"seed": -1}])
    def test_numbers_out_of_range_are_refused(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            verify("did.thm-3.2", **options)

    @pytest.mark.parametrize("options", [{"draws": 2.5}, {"draws": "20"}, {"draws": True}, {"seed": 0.5}])
    def test_what_is_no_whole_number_is_refused(self, options):
        with pytest.raises(TypeError, match=next(iter(options))):
            verify("did.thm-3.2", **options)


class TestSelect:
    def test_nothing_selects_everything_in_the_order_of_the_ledger(self):
        assert select([]) == list(CLAIMS)

    def test_a_glob_selects_what_it_matches(self):
        assert select(["mi.*"]) == [name for name in CLAIMS if name.startswith("mi.")]
        assert select(["did.thm-3.5-*"]) == ["did.thm-3.5-forward", "did.thm-3.5-backward"]

    def test_several_patterns_select_each_claim_once_in_the_order_of_the_ledger(self):
        assert select(["rmipo.margin", "did.thm-3.?", "did.thm-3.3"]) == select(["did.thm-3.?", "rmipo.margin"])
        assert select(["rmipo.margin", "did.thm-3.2"]) == ["did.thm-3.2", "rmipo.margin"]

    @pytest.mark.parametrize("pattern", ["did.thm-33", "zzz.*", ""])
    def test_a_pattern_that_matches_nothing_is_refused(self, pattern):
        with pytest.raises(ValueError, match="claim must be a name or a glob that matches claims"):
            select(["did.thm-3.3", pattern])

    def test_the_refusal_of_a_misspelt_name_suggests_one(self):
        with pytest.raises(ValueError, match=re.escape("did.thm-3.3")):
            select(["did.thm-33"])
