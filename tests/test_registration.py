"""Losses of one's own: what can be registered, how it then behaves, and what is refused."""

import pytest
import torch
from samples import as_table, make_pairs, one_pair, random_pair, table

from didsim._checks import Interval
from didsim.objectives import OBJECTIVES, Link, Objective, Pairs, Parameter, group_key, objective, register_objective
from didsim.objectives import _registry as registry


@pytest.fixture(autouse=True)
def registry_as_it_was(monkeypatch):
    """Undo every registration."""
    monkeypatch.setattr(OBJECTIVES, "_records", dict(OBJECTIVES._records))


def squared(pairs, *, beta=0.5, target=1.0):
    """(β(h_w − h_l) − target)², a loss of one's own.

    And more on it.
    """
    return (beta * (pairs.chosen.log_ratio - pairs.rejected.log_ratio) - target) ** 2


class TestDecorator:
    def test_it_returns_the_function_as_it_was(self):
        assert register_objective(squared) is squared
        assert register_objective(needs={"reference"})(squared) is squared

    def test_the_loss_then_stands_among_the_objectives_under_its_name(self):
        before = len(OBJECTIVES)
        register_objective(squared)
        assert "squared" in OBJECTIVES
        assert "squared" in list(OBJECTIVES)
        assert len(OBJECTIVES) == before + 1
        assert repr(objective("squared")) == "objective('squared', beta=0.5, target=1.0)"

    def test_a_bare_decorator_and_one_with_facts_both_register(self):
        @register_objective
        def mine(pairs):
            return -pairs.chosen.log_pi

        @register_objective(name="other_name", title="Another", needs={"length"})
        def yours(pairs, *, scale=2.0):
            return -scale * pairs.chosen.mean_log_pi

        assert objective("mine")(one_pair(-1.5, -2.0)).tolist() == [1.5]
        assert objective("other_name", scale=3.0)(one_pair(-1.5, -2.0, -1.0, -1.0, 3.0, 1.0)).tolist() == [1.5]
        assert "yours" not in OBJECTIVES
        assert OBJECTIVES["other_name"].title == "Another"
        assert OBJECTIVES["other_name"].needs == {"length"}

    def test_it_gives_the_value_and_gradient_of_the_function(self):
        register_objective(squared, needs={"reference"})
        pairs = make_pairs([random_pair(seed) for seed in range(4)])
        loss = objective("squared", beta=0.25)
        assert torch.equal(loss(pairs), squared(pairs, beta=0.25, target=1.0))
        (gradient,) = torch.autograd.grad(loss(pairs).sum(), pairs.chosen.log_pi)
        margin = (pairs.chosen.log_ratio - pairs.rejected.log_ratio).detach()
        torch.testing.assert_close(gradient, 2.0 * 0.25 * (0.25 * margin - 1.0), rtol=1e-14, atol=0.0)

    def test_the_record_says_what_the_function_says(self):
        register_objective(squared)
        record = OBJECTIVES["squared"]
        assert record.title == "squared"
        assert record.formula == "(β(h_w − h_l) − target)², a loss of one's own."
        assert record.source.endswith(":squared")
        assert {key: p.default for key, p in record.parameters.items()} == {"beta": 0.5, "target": 1.0}
        assert record.grid() == [{"beta": 0.5, "target": 1.0}]
        assert not record.separates
        assert not record.bind().sees_responses_only

    def test_hyperparameters_are_the_keyword_only_arguments_of_their_kind(self):
        @register_objective
        def mine(pairs, *, whole=2, real=0.5, flag=True):
            return pairs.chosen.log_pi * whole * real * (1.0 if flag else 0.0)

        bound = objective("mine", flag=False)
        assert dict(bound.hyperparameters) == {"whole": 2.0, "real": 0.5, "flag": False}
        assert bound.options == {"flag": False}
        with pytest.raises(TypeError, match=r"^flag must be True or False; got 1"):
            objective("mine", flag=1)
        with pytest.raises(ValueError, match=r"^real must be a finite number"):
            objective("mine", real=float("nan"))
        with pytest.raises(ValueError, match="hyperparameter of mine must be one of: whole, real, flag"):
            objective("mine", fla=True)

    def test_parameters_may_be_described_with_domains_names_and_grids(self):
        form = Parameter("square", ("square", "hinge"), ("square", "hinge"), "the shape of the loss")

        @register_objective(
            parameters={"form": form, "target": Parameter(1.0, Interval(0.0), (0.5, 1.0), "the target")}
        )
        def mine(pairs, *, form="square", target=1.0):
            gap = target - pairs.chosen.log_pi
            return gap**2 if form == "square" else torch.relu(gap)

        assert len(OBJECTIVES["mine"].grid()) == 4
        assert objective("mine", form="hinge")(one_pair(-1.0, -2.0)).tolist() == [2.0]
        with pytest.raises(ValueError, match=r"^form must be one of square, hinge; got 'hing'.*Did you mean hinge"):
            objective("mine", form="hing")
        with pytest.raises(ValueError, match=r"^target must be"):
            objective("mine", target=-1.0)

    def test_one_value_per_run_works_for_a_function_too(self):
        register_objective(squared)
        parts = table()
        betas = torch.tensor([0.5, 2.0], dtype=torch.float64)
        together = objective("squared", beta=betas[:, None, None])(as_table(*parts, runs=2))
        alone = torch.stack([objective("squared", beta=beta)(as_table(*parts)) for beta in betas.tolist()])
        torch.testing.assert_close(together, alone, rtol=1e-15, atol=0.0)

    def test_what_it_needs_is_asked_of_the_pairs(self):
        register_objective(squared, needs={"reference"})
        one = torch.tensor([-1.0])
        with pytest.raises(ValueError, match="This objective needs the reference policy; pass log_ref_chosen="):
            objective("squared")(Pairs.from_log_probs(log_pi_chosen=one, log_pi_rejected=one))


class TestRecord:
    RECORD = Objective(
        "my_hinge",
        "My hinge",
        "max(0, 1 − log π_w + log π_l)",
        "nowhere",
        score=lambda y: y.log_pi,
        link=Link(value=lambda m: torch.relu(1.0 - m), slope=lambda m: -(m < 1.0).to(m.dtype)),
    )

    def test_a_record_is_registered_as_it_is(self):
        assert register_objective(self.RECORD) is self.RECORD
        assert OBJECTIVES["my_hinge"] is self.RECORD
        assert objective("my_hinge")(one_pair(-1.0, -1.5)).tolist() == [0.5]
        assert objective("my_hinge").sees_responses_only

    def test_two_records_of_one_name_are_never_evaluated_together(self):
        other = Objective("my_hinge", "", "", "nowhere", chosen_anchor=lambda y: y.log_pi)
        assert group_key(self.RECORD.bind()) != group_key(other.bind())


class TestRefusals:
    @pytest.mark.parametrize("name", list(OBJECTIVES))
    def test_the_name_of_a_built_in_objective_is_refused_and_nothing_is_changed(self, name):
        before = OBJECTIVES[name]
        with pytest.raises(ValueError, match=f"name of an objective must be a new one; got '{name}'.*choose another"):
            register_objective(squared, name=name)
        with pytest.raises(ValueError, match="choose another"):
            register_objective(Objective(name, "", "", "", chosen_anchor=lambda y: y.log_pi))
        assert OBJECTIVES[name] is before

    def test_a_loss_may_be_registered_again_as_when_a_notebook_cell_is_changed_and_run_twice(self):
        def define(sign):
            def mine(pairs):
                return sign * pairs.chosen.log_pi

            return mine

        for sign in (1.0, -1.0):
            register_objective(define(sign))
            assert objective("mine")(one_pair(-1.0, -2.0)).tolist() == [-sign]

    @pytest.mark.parametrize("thing", [3, "dpo", 1.5, [], {}])
    def test_what_is_no_function_is_refused(self, thing):
        with pytest.raises(TypeError, match=r"^a loss must be a function loss\(pairs"):
            register_objective(thing)

    def test_a_function_that_takes_no_pairs_or_more_than_pairs_is_refused(self):
        for bad in (lambda: None, lambda chosen, rejected: chosen, lambda pairs, beta=1.0: pairs):
            with pytest.raises(TypeError, match=r"a loss must be a function loss\(pairs.*positional arguments"):
                register_objective(bad, name="mine")
        assert "mine" not in OBJECTIVES

    def test_a_hyperparameter_without_a_default_is_refused_by_name(self):
        def mine(pairs, *, beta):
            return beta * pairs.chosen.log_pi

        with pytest.raises(TypeError, match=r"^the default of beta of mine must be a number or a truth value"):
            register_objective(mine)
        assert "mine" not in OBJECTIVES

    @pytest.mark.parametrize("default", ["sum", None, [1.0]])
    def test_a_default_that_says_nothing_about_its_domain_is_refused_by_name(self, default):
        def mine(pairs, *, how=default):
            return pairs.chosen.log_pi

        with pytest.raises(TypeError, match=r"the default of how of mine .* name others in parameters="):
            register_objective(mine)

    def test_a_need_that_no_problem_offers_is_refused(self):
        with pytest.raises(ValueError, match=r"needs of squared must be among reference, .*; got \['wealth'\]"):
            register_objective(squared, needs={"wealth"})

    def test_a_fact_that_a_record_does_not_have_is_refused(self):
        with pytest.raises(TypeError, match="colour"):
            register_objective(squared, colour="red")


class TestInstalledPackages:
    class EntryPoint:
        """What an installed package offers."""

        def __init__(self, name, loaded):
            self.name, self.loaded = name, loaded

        def load(self):
            return self.loaded

    @pytest.fixture
    def installed(self, monkeypatch):
        def install(*points):
            offered = [self.EntryPoint(*point) for point in points]
            monkeypatch.setattr(registry, "entry_points", lambda group: offered if group == "didsim.objectives" else [])
            registry._installed.cache_clear()

        yield install
        registry._installed.cache_clear()

    def test_their_functions_and_records_are_objectives(self, installed):
        installed(("theirs", squared), ("ignored", TestRecord.RECORD))
        assert objective("theirs", beta=1.0)(one_pair(-1.0, -2.0, -1.0, -1.0)).tolist() == [0.0]
        assert OBJECTIVES["my_hinge"] is TestRecord.RECORD

    def test_they_cannot_replace_a_built_in_objective(self, installed):
        installed(("dpo", squared))
        assert OBJECTIVES["dpo"].pair is None
