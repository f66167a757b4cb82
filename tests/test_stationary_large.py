"""Stationary policies without a table of pairs: the field and its derivative, and what they lead to."""

import numpy as np
import pytest
import torch
from test_spaces import logits, unrelated

from didsim import OBJECTIVES, Problem, Sequences, objective
from didsim.engine import ProductWeights, Settings, TableWeights, plan_runs
from didsim.engine import _plan as plan_module
from didsim.optima import closed_form
from didsim.stationary import _large as large_module
from didsim.stationary import solve, solve_many
from didsim.stationary._dense import DenseEquations
from didsim.stationary._field import ResponseField
from didsim.stationary._large import LargeField, reason_against_large
from didsim.stationary._plain import PlainField
from didsim.torch_bridge import threads

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

EXACT = 1e-10
"""Of derivatives, relative to the largest: sums of many terms."""

FOUND = 1e-8
"""Of policies, in nats: the certificate's own."""

ALPHA_DPO = (
    {"stop_gradient": False},
    {"reference_form": "policy"},
    {"reference_form": "uniform"},
    {"normalise": False},
    {"gamma_form": "ratio"},
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threads(1):
        yield


def group_of(problem, loss):
    plan = plan_runs([(problem, loss)], Settings(mode="population", steps=1, dtype="float64", path="table"))
    return plan.groups[0], TableWeights.from_joint(plan.joint("float64"))


SERVED = [(name, {}) for name in OBJECTIVES if reason_against_large(group_of(unrelated(4), objective(name))[0]) is None]
SERVED += [("alpha_dpo", options) for options in ALPHA_DPO] + [("mi_dpo", {"prior": "simpo"})]
FAST = ("dpo", "simpo", "orpo", "cal_dpo", "alpha_dpo")
"""Of the others the derivatives are compared by the slow tests."""

EVERY_SERVED = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name,
            options,
            id="-".join([name, *map(str, options.values())]),
            marks=() if name in FAST and not options else pytest.mark.slow,
        )
        for name, options in SERVED
    ],
)


def large_field(group, problem):
    excluded = torch.zeros(problem.num_prompts, problem.num_classes, dtype=torch.bool)
    return LargeField.of(group, ProductWeights.of([problem], torch.float64), excluded)


def dense_field(group, weights):
    if not group.loss.sees_responses_only:
        return PlainField(group, weights)
    shape = (-1, group.policies.space.num_responses, 1)
    log_ref, length = group.log_ref.reshape(shape), group.length.reshape(shape)
    return ResponseField(group.loss, weights.joint, log_ref, length, torch.ones(log_ref.shape[:2], dtype=torch.bool))


@pytest.fixture
def softmaxed(monkeypatch):
    """Turn a field into the same in the logits of a softmax, whatever the loss."""
    monkeypatch.setattr(large_module, "is_shift_free", lambda loss: False)
    return lambda field: LargeField(field.loss, field.pairs, field.allowed, torch.ones_like(field.pace))


def dense_matrix(field, theta):
    along = field.equations(theta).along
    return torch.stack([along(column[None])[0] for column in torch.eye(theta.shape[1], dtype=theta.dtype)], dim=1)


def assert_alike(got, want, tolerance):
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


@EVERY_SERVED
def test_field_and_jacobian_are_the_dense_ones(name, options, softmaxed):
    problem = unrelated(50)
    group, weights = group_of(problem, objective(name, **options))
    field, dense = softmaxed(large_field(group, problem)), dense_field(group, weights)
    theta = torch.tensor(logits(1, 50, seed=7))
    assert_alike(field.gradient(theta), dense.gradient(theta), 1e-12)
    assert_alike(dense_matrix(field, theta), dense.linearise(theta)[1][0], EXACT)


@pytest.mark.parametrize("name", ["dpo", "simpo", "orpo", "cal_dpo", "exo"])
def test_panels_of_three_hundred_responses_give_the_dense_jacobian(name, softmaxed):
    problem = unrelated(300)
    group, weights = group_of(problem, objective(name))
    field, dense = softmaxed(large_field(group, problem)), dense_field(group, weights)
    theta = torch.tensor(logits(1, 300, seed=7))
    directions = torch.eye(300, dtype=torch.float64)[::30]
    along = field.equations(theta).along
    got = torch.stack([along(direction[None])[0] for direction in directions])
    assert_alike(got, dense.linearise(theta)[1][0][:, ::30].T, EXACT)


@pytest.mark.parametrize("name", ["kto", "alpha_dpo"])
def test_prompts_that_see_each_other_are_one_row(name, softmaxed):
    problem = unrelated(3, 6, prompts=[0.2, 0.5, 0.3])
    group, weights = group_of(problem, objective(name))
    field, plain = softmaxed(large_field(group, problem)), PlainField(group, weights)
    theta = torch.tensor(logits(1, 18, seed=7))
    assert_alike(field.gradient(theta), plain.gradient(theta), 1e-12)
    assert_alike(dense_matrix(field, theta), plain.linearise(theta)[1][0], EXACT)


@pytest.mark.parametrize("name", ["simpo", "alpha_dpo", "dpo", "orpo"])
def test_its_own_logits_make_policies_and_a_field_that_differentiates(name):
    problem = unrelated(2, 15, space=Sequences(2, 3), prompts=[0.25, 0.75])
    group, _ = group_of(problem, objective(name))
    field, theta = large_field(group, problem), 3.0 * torch.tensor(logits(1, 30, seed=7))
    log_pi = field.log_pi(theta)
    torch.testing.assert_close(log_pi.reshape(2, 15).exp().sum(1), torch.ones(2).double(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(field.log_pi(theta + field.pace * 5.0), log_pi, rtol=0.0, atol=1e-11)
    step = 1e-5 * torch.tensor(logits(1, 30, seed=8))
    slope = (field.gradient(theta + step) - field.gradient(theta - step)) / 2.0
    assert_alike(field.equations(theta).along(step), slope, 1e-7)
    change = (field.log_pi(theta + step) - field.log_pi(theta - step)) / 2.0
    assert_alike(field.change(theta, step), change, 1e-7)


@pytest.mark.parametrize("name", ["dpo", "simpo", "cal_dpo", "alpha_dpo"])
def test_the_krylov_step_is_the_dense_one(name, softmaxed):
    problem = unrelated(60)
    group, weights = group_of(problem, objective(name))
    field, dense = softmaxed(large_field(group, problem)), dense_field(group, weights)
    theta = torch.tensor(logits(1, 60, seed=7))
    equations, exact = field.equations(theta), DenseEquations.of(dense, theta)
    newton, fine = equations.step(None)
    want, _ = exact.step(None)
    assert fine.all()
    assert_alike(field.change(theta, newton), field.change(theta, want), 1e-5)


@pytest.fixture
def without_tables(monkeypatch):
    """Take every space for a large one."""
    monkeypatch.setattr(plan_module, "MOST_TABLED", 1)


def assert_same_solution(found, wanted, tolerance=FOUND):
    assert found.status == wanted.status
    assert np.array_equal(found.survivors, wanted.survivors)
    alive = wanted.survivors
    np.testing.assert_allclose(found.policy.log_probs[alive], wanted.policy.log_probs[alive], rtol=0.0, atol=tolerance)


SOLVED = (
    *("dpo", "orpo", "cpo", "cal_dpo", "kto", "r_dpo", "ipo", "sppo"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("simpo", "exo", "alpha_dpo")),
)


@pytest.mark.parametrize("name", SOLVED)
def test_solutions_without_a_table_are_those_with_one(name, monkeypatch):
    problem, loss = Problem.from_temperature(None, 2.0, 1, space=Sequences(3, 3)), objective(name)
    wanted = solve(problem, loss, starts=1)
    monkeypatch.setattr(plan_module, "MOST_TABLED", 1)
    found = solve(problem, loss, starts=1)
    assert found.residual <= 1e-9
    assert found.newton_step <= 1e-8
    assert_same_solution(found, wanted)


@pytest.mark.parametrize(
    "name", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("alpha_dpo", "kto"))]
)
def test_prompts_are_solved_without_a_table_too(name, monkeypatch):
    problem, loss = Problem.from_temperature(10, 2.0, 1, num_prompts=3), objective(name)
    wanted = solve(problem, loss, starts=1)
    monkeypatch.setattr(plan_module, "MOST_TABLED", 1)
    assert_same_solution(solve(problem, loss, starts=1), wanted)


CLOSED = [
    ("dpo", {}),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in [("r_dpo", {}), ("simpo", {"gamma": 0.0}), ("h_dpo", {})]),
]


@pytest.mark.parametrize(("name", "options"), CLOSED)
def test_closed_forms_are_found_in_a_space_of_thousands(name, options):
    problem, loss = Problem.from_temperature(None, 2.0, 1, space=Sequences(8, 4)), objective(name, **options)
    solution, exact = solve(problem, loss), closed_form(problem, loss)
    assert solution.status == "converged"
    assert solution.starts == 1
    np.testing.assert_allclose(solution.policy.log_probs, exact.log_probs, rtol=0.0, atol=FOUND)


def test_several_starts_of_several_jobs_are_tried_where_they_are_asked_for(without_tables):
    problem = Problem.from_temperature(20, 2.0, 1)
    solutions = solve_many([(problem, objective("dpo", beta=beta)) for beta in (0.5, 1.0)], starts=3)
    for solution, beta in zip(solutions, (0.5, 1.0), strict=True):
        assert solution.starts == 3
        assert solution.basin == 1.0
        exact = closed_form(problem, objective("dpo", beta=beta))
        np.testing.assert_allclose(solution.policy.log_probs, exact.log_probs, rtol=0.0, atol=FOUND)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("slic", "It has kinks"), ("repo", "It has kinks"), ("hinge", "It has kinks"), ("tdpo1", "It needs tokens")],
)
def test_what_cannot_be_solved_without_a_table_is_refused_with_the_reason(name, reason, without_tables):
    with pytest.raises(ValueError, match=f"{name} must be solved where X·K² is at most .*{reason}"):
        solve(unrelated(5), objective(name))


LARGE = [("simpo", {"gamma": 0.5}), ("simpo", {"gamma": 0.0})]
LARGE += [(name, {}) for name in ("orpo", "cpo", "cal_dpo", "dpo", "r_dpo", "alpha_dpo", "kto")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), LARGE)
def test_three_hundred_thousand_sequences_are_solved(name, options):
    problem, loss = Problem.from_temperature(None, 2.0, 1, space=Sequences(8, 6)), objective(name, **options)
    solution, exact = solve(problem, loss), closed_form(problem, loss)
    assert solution.status == ("boundary" if name == "kto" else "converged")
    assert solution.residual <= 1e-9
    assert solution.newton_step <= 1e-8
    if exact is not None:
        np.testing.assert_allclose(solution.policy.log_probs, exact.log_probs, rtol=0.0, atol=FOUND)
