"""Stationary policies: every certificate is checked by routes that do not pass through the solver."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from oracles import losses
from oracles import stationary as oracle
from test_optima import BETAS, MET, TAUS, points, scale_of

from didsim.engine import Settings, TableWeights, plain_gradient, plan_runs, train, train_many
from didsim.info import js
from didsim.objectives import OBJECTIVES, objective
from didsim.optima import closed_form
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem
from didsim.spaces import Sequences
from didsim.stationary import _attempts as attempts_module
from didsim.stationary import solve, solve_many
from didsim.stationary._field import ResponseField, derived, derived_through_stops
from didsim.stationary._plain import PlainField
from didsim.torch_bridge import finite_log

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
"""PyTorch compiles a few derivatives when the first tangent is asked for."""

RESIDUAL, NEWTON_STEP = 1e-9, 1e-8
"""What "converged" promises."""

LOOSE = 2.0
"""The same by other routes, whose differences are exact to some six digits."""

SAME = 1e-8
"""In log-probabilities."""

KINDS = {
    "steep classes": {"num_classes": 6, "tau": 0.5},
    "classes": {"num_classes": 6, "tau": 2.0},
    "prompts": {"num_classes": 4, "tau": 1.5, "num_prompts": 2},
    "sequences": {"space": Sequences(2, 2), "tau": 2.0},
}


@cache
def problem_of(kind: str) -> Problem:
    return Problem.from_temperature(**KINDS[kind], seed=3)


@cache
def solution_of(name: str, kind: str, **hyperparameters):
    return solve(problem_of(kind), objective(name, **hyperparameters), starts=1)


# --- the field, by the engine's own gradient ------------------------------------------------------------


def field_of(problem, loss):
    """The run of a problem as the engine lays it out, and its weights."""
    plan = plan_runs([(problem, loss)], Settings(mode="population", path="table", steps=1, dtype="float64", metrics=()))
    (group,) = plan.groups
    return group, TableWeights.from_joint(plan.joint("float64")), plan.initial


def logits_of(problem, policy):
    """The logits of decisions of a policy, [1, D]."""
    return torch.tensor(finite_log(problem.space.next_log_probs(np.atleast_2d(policy.log_probs))).reshape(1, -1))


def differences(function, x, size=1e-5):
    """The Jacobian of a function from [1, D] to [1, D] by central differences of fourth order, [D, D]."""
    columns = []
    for unit in torch.eye(x.shape[1], dtype=x.dtype):
        near, far = ((function(x + k * size * unit) - function(x - k * size * unit))[0] for k in (1, 2))
        columns.append((8.0 * near - far) / (12.0 * size))
    return torch.stack(columns, dim=1).numpy()


def newton_change(problem, gradient, jacobian, excluded):
    """The change of log π of decisions by a Newton step that leaves the mean logit of each context."""
    size = problem.space.num_actions
    contexts = np.arange(len(gradient)) // size
    shifts = (contexts[:, None] == np.unique(contexts)).astype(float)
    shifts[excluded] = 0.0
    scale = np.sqrt(np.maximum(np.abs(np.diag(jacobian)), 1e-300))
    matrix = jacobian / scale[:, None] / scale + np.diag(excluded.astype(float))
    shifts = shifts * scale[:, None]
    shifts /= np.maximum(np.linalg.norm(shifts, axis=0), 1e-300)
    step = np.linalg.solve(matrix + shifts @ shifts.T, -np.where(excluded, 0.0, gradient) / scale) / scale
    return step


def decision_mass(problem, group, weights):
    """The mass of pairs whose responses pass through the context of each decision, [D]."""
    mass = (weights.chosen(group.streams) + weights.rejected(group.streams))[..., 0].numpy()
    space = problem.space
    table = np.zeros((len(mass), space.num_contexts))
    for number, length in enumerate(space.lengths):
        for context in space.contexts[number][:length]:
            table[:, context] += mass[:, number]
    return np.repeat(table[:, :, None], space.num_actions, axis=2).ravel()


KINKED = frozenset(oracle.KINKED)
"""Their fields jump: they have tests of their own."""

OUTSIDE = {
    "apo_down": frozenset(KINDS),
    "apo_zero": frozenset(KINDS),
    "kto": frozenset(KINDS),
    "simper": frozenset(KINDS),
    "beta_dpo": frozenset(KINDS),
    "aot_unpaired": frozenset(KINDS),
    "dpo_pg": frozenset(KINDS),
    "robust_dpo": frozenset({"steep classes", "sequences"}),
}
"""Those that need not have an isolated stationary policy inside the simplex; the statuses have tests of their own."""

UNDERFLOWS = frozenset({"wpo"})
"""Its weights are squares of probabilities, down to 1e-60, whose differences say nothing; it has a closed form."""

COSTLY = {("wpo", kind) for kind in KINDS} | {("discopop", "sequences"), ("alpha_dpo", "sequences")}

INSIDE = [
    pytest.param(name, kind, id=f"{name} {kind}", marks=[pytest.mark.slow] if (name, kind) in COSTLY else [])
    for name in sorted(OBJECTIVES)
    for kind in KINDS
    if name not in KINKED and kind not in OUTSIDE.get(name, frozenset())
]


@pytest.mark.parametrize(("name", "kind"), INSIDE)
def test_a_converged_policy_is_stationary_by_the_engines_gradient(name, kind):
    problem, loss, solution = problem_of(kind), objective(name), solution_of(name, kind)
    assert solution.status == "converged", solution.sentence
    assert solution.residual <= RESIDUAL
    assert solution.newton_step <= NEWTON_STEP
    assert solution.survivors.all()
    group, weights, _ = field_of(problem, loss)
    logits = logits_of(problem, solution.policy)
    gradient = plain_gradient(group, logits, weights)[0].numpy()
    mass = decision_mass(problem, group, weights)
    parts = 1 if problem.space.max_length == 1 else problem.space.num_responses
    assert np.all(np.abs(gradient) <= LOOSE * parts * RESIDUAL * mass)
    if name in UNDERFLOWS:
        return
    jacobian = differences(lambda x: plain_gradient(group, x, weights), logits)
    step = newton_change(problem, gradient, jacobian, np.zeros(len(gradient), dtype=bool))
    moved = problem.space.log_probs(np.log(_softmax(logits.numpy()[0] + step, problem)))
    assert np.abs(moved - np.atleast_2d(solution.policy.log_probs)).max() <= LOOSE * NEWTON_STEP


def _softmax(logits, problem):
    table = logits.reshape(problem.num_prompts, problem.space.num_contexts, problem.space.num_actions)
    table = np.exp(table - table.max(-1, keepdims=True))
    return table / table.sum(-1, keepdims=True)


EXACT = sorted(set(losses.LOSSES) - KINKED - {"mi_dpo", "dpo_pg", "kto", "apo_zero", "apo_down", "simper"})


@pytest.mark.parametrize("name", EXACT)
def test_a_converged_policy_is_stationary_by_formulas_of_50_digits(name):
    problem, solution = problem_of("prompts"), solution_of(name, "prompts")
    arguments = (problem.prompt_weights, problem.chosen.probs, problem.rejected.probs)
    field = oracle.exact_field(
        *(name, objective(name).hyperparameters, *arguments, solution.policy.log_probs, problem.reference.log_probs)
    )
    mass = problem.prompt_weights[:, None] * (problem.chosen.probs + problem.rejected.probs)
    assert np.all(np.abs(field) <= LOOSE * RESIDUAL * mass)


# --- losses with kinks --------------------------------------------------------------------------------------

KINK_POINTS = [
    ("hinge", {}),
    ("hinge", {"beta": 0.3}),
    ("repo", {}),
    ("slic", {}),
    ("slic", {"delta": 0.3, "lam": 1.0}),
    ("dpop", {"lam": 0.5}),
    ("epsilon_dpo", {"beta": 0.5, "epsilon": 0.2}),
    ("chi_po", {}),
]
SLOW = [pytest.mark.slow]
KINKED_JOBS = [
    pytest.param(
        *(name, options, kind),
        id=f"{name} {options} {kind}",
        marks=SLOW if kind == "steep classes" and name in ("dpop", "chi_po", "epsilon_dpo") else [],
    )
    for (name, options), kind in itertools.product(KINK_POINTS, ("steep classes", "classes"))
]


def kinked(name, options, problem):
    loss = oracle.KINKED[name](**objective(name, **options).hyperparameters)
    return loss, (problem.reference.log_probs, problem.chosen.probs, problem.rejected.probs)


@pytest.mark.parametrize(("name", "options", "kind"), KINKED_JOBS)
def test_some_slopes_at_the_kinks_make_the_field_vanish(name, options, kind):
    solution = solution_of(name, kind, **options)
    assert solution.status == "converged", solution.sentence
    loss, given = kinked(name, options, problem_of(kind))
    assert loss.least_residual(solution.policy.log_probs, *given) <= LOOSE * RESIDUAL


@pytest.mark.parametrize(
    ("name", "options", "kind"), [param for param in KINKED_JOBS if param.values[0] in oracle.CONVEX]
)
def test_no_other_policy_has_a_smaller_convex_loss(name, options, kind):
    """Steps of all sizes in random directions, and towards the other classes."""
    solution, rng = solution_of(name, kind, **options), np.random.default_rng(0)
    loss, given = kinked(name, options, problem_of(kind))
    log_pi = solution.policy.log_probs
    least = loss.value(log_pi, *given)
    for size in np.repeat(np.logspace(-7, 1.5, 40), 5):
        other = Policy.from_logits(log_pi + size * rng.standard_normal(len(log_pi))).log_probs
        assert loss.value(other, *given) >= least - 1e-13


@pytest.mark.parametrize("kind", ["steep classes", "classes"])
@pytest.mark.parametrize(("name", "options", "goal"), [("hinge", {"beta": 0.3}, 1.0), ("repo", {}, 0.5)])
def test_hinges_reach_the_minimum_of_a_linear_program(name, options, goal, kind):
    solution, problem = solution_of(name, kind, **options), problem_of(kind)
    loss, given = kinked(name, options, problem)
    least = oracle.least_hinge(goal, problem.chosen.probs, problem.rejected.probs)
    np.testing.assert_allclose(loss.value(solution.policy.log_probs, *given), least, rtol=1e-9)


@pytest.mark.parametrize("name", ["hinge", "repo", "slic", pytest.param("dpop", marks=SLOW), "chi_po", "epsilon_dpo"])
def test_prompts_with_kinks_are_problems_side_by_side(name):
    problem, solution = problem_of("prompts"), solution_of(name, "prompts")
    assert solution.status == "converged"
    for row in range(2):
        loss, _ = kinked(name, {}, problem)
        given = (part.log_probs[row] for part in (problem.reference,))
        chosen, rejected = problem.chosen.probs[row], problem.rejected.probs[row]
        assert loss.least_residual(solution.policy.log_probs[row], *given, chosen, rejected) <= LOOSE * RESIDUAL


def test_corners_are_the_pairs_at_the_kink():
    problem, solution = problem_of("classes"), solution_of("repo", "classes")
    margins = solution.policy.log_probs[:, None] - solution.policy.log_probs
    found = {(0, i, j) for i, j in np.argwhere(np.abs(margins - 0.5) <= 1e-8)}
    assert {tuple(map(int, corner)) for corner in solution.corners} == found
    assert len(found) >= problem.num_classes - 1
    assert f"{len(found)} kinks" in solution.sentence


# --- closed forms -------------------------------------------------------------------------------------------


def temperatures(size=8, seeds=(1, 2), taus=TAUS, **more):
    return [Problem.from_temperature(size, tau=tau, seed=seed, **more) for tau in taus for seed in seeds]


def assert_agreement(name, options, problems, betas=BETAS):
    scale = scale_of(name)
    bound = [objective(name, **options, **({scale: beta} if scale else {})) for beta in (betas if scale else (1.0,))]
    batch = [(problem, loss) for problem, loss in itertools.product(problems, bound)]
    forms = [closed_form(*job) for job in batch]
    assert None not in forms
    for solution, form in zip(solve_many(batch, starts=1), forms, strict=True):
        assert solution.status == "converged", (solution.loss, solution.sentence)
        difference = np.abs(solution.policy.log_probs - form.log_probs).max()
        assert difference <= SAME, (solution.loss, difference)


FIRST_POINTS = [(name, MET[name][0]) for name in MET if name != "wpo"]  # which takes long
MI_DPO_POINTS = [("mi_dpo", options) for options in MET["mi_dpo"] if options["prior"] != "given"]


@pytest.mark.parametrize(("name", "options"), FIRST_POINTS)
def test_the_solver_finds_the_closed_form(name, options):
    """At β = 0.1 and τ = ¼ classes have log-probabilities of −100."""
    fast = objective(name, **options).sees_responses_only
    assert_agreement(name, options, temperatures(seeds=(1, 2) if fast else (1,), taus=TAUS if fast else TAUS[::2]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [param for param in points(MET) if param.values[1].get("prior") != "given"],
)
def test_the_solver_finds_the_closed_form_under_every_option(name, options):
    assert_agreement(name, options, temperatures(size=6, seeds=(1, 2, 3)))


@pytest.mark.parametrize(("name", "options"), [("mi_dpo", options) for _, options in MI_DPO_POINTS])
def test_the_solver_finds_the_closed_form_of_each_prior(name, options):
    assert_agreement(name, options, temperatures(size=5, seeds=(1,), taus=(0.5, 2.0)), betas=(0.5, 1.0))


def test_the_solver_finds_the_optimum_under_a_given_prior():
    parts = temperatures(taus=(2.0,))[0]
    zeta = Policy.from_logits(np.random.default_rng(0).standard_normal(8))
    problem = Problem(parts.reference, parts.target, parts.rejected, parts.chosen, prior=zeta)
    assert_agreement("mi_dpo", {"prior": "given"}, [problem])


@pytest.mark.parametrize("divergence", ["forward_kl", pytest.param("alpha", marks=pytest.mark.slow)])
def test_steep_divergences_are_solved_by_their_scores_where_logits_lead_nowhere(divergence, monkeypatch):
    options, problems = {"divergence": divergence}, temperatures(size=6, seeds=(3,), taus=(2.0, 4.0))
    assert_agreement("f_dpo", options, problems, betas=(0.1,))
    monkeypatch.setattr(attempts_module, "settle_by_scores", lambda field, rest: rest)
    found = solve_many([(problem, objective("f_dpo", beta=0.1, **options)) for problem in problems], starts=1)
    assert {solution.status for solution in found} == {"no-stationary-point"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_rare_response_moves_on_among_others_that_are_at_rest(seed):
    """WPO's weights make its field smaller than the rounding of the others' where log π is below −60."""
    problem = Problem.from_temperature(6, 0.25, seed)
    assert_agreement("wpo", {}, [problem], betas=(0.1,))


def test_wpo_ends_at_the_optimum_of_dpo():
    """Its weights are products of probabilities: where policies get steep, its field is tiny everywhere."""
    assert_agreement("wpo", {}, temperatures(taus=(0.8, 2.0)), betas=(0.5, 1.0, 2.0))


def test_32_classes_have_the_closed_form():
    assert_agreement("dpo", {}, temperatures(size=32, seeds=(1, 2, 3)))


@pytest.mark.parametrize("name", ["dpo", "simpo", "tdpo1", "dpo_norm", "alpha_dpo"])
@pytest.mark.parametrize("prompts", [None, 2])
def test_sequences_have_the_closed_form(name, prompts):
    problems = temperatures(None, (1,), (0.8, 2.0), space=Sequences(2, 2), num_prompts=prompts)
    assert_agreement(name, MET[name][0], problems, betas=(0.5, 2.0))


def test_the_reference_may_be_the_did_itself():
    """At τ = ½ the DID from π_ref to π* is π_ref."""
    problem = Problem.from_temperature(8, tau=0.5, seed=0)
    np.testing.assert_allclose(problem.did.log_probs, problem.reference.log_probs, rtol=1e-12)
    solution = solve(problem, objective("log_pi"))
    assert solution.status == "converged"
    assert solution.unique
    np.testing.assert_allclose(solution.policy.log_probs, problem.reference.log_probs, rtol=0.0, atol=SAME)


# --- derivatives of fields ----------------------------------------------------------------------------------


def close(found, wanted, digits=1e-6):
    """Central differences are exact to about ten digits of the largest entry."""
    np.testing.assert_allclose(found, wanted, rtol=0.0, atol=digits * np.abs(wanted).max())


def random_logits(problem, seed=0):
    rng = np.random.default_rng(seed)
    return Policy.from_logits(
        problem.reference.log_probs + 0.5 * rng.standard_normal(problem.reference.log_probs.shape)
    )


SEMI_GRADIENTS = [
    ("alpha_dpo", {}, "classes"),
    ("alpha_dpo", {"normalise": False}, "prompts"),
    ("alpha_dpo", {"reference_form": "policy"}, "sequences"),
    ("rmipo", {}, "prompts"),
    ("rmipo", {"signal": "log_pi"}, "sequences"),
    ("kto", {}, "prompts"),
    ("beta_dpo", {"margin": "raw"}, "classes"),
    ("beta_dpo", {"rho": 0.2}, "prompts"),
    ("tdpo2", {}, "sequences"),
    ("wpo", {"beta": 1.0}, "sequences"),
    ("mi_dpo", {"prior": "marginal", "stop_gradient": True}, "prompts"),
    ("sparse_po", {"masks": "learned"}, "sequences"),
    ("mi_dpo", {"prior": "learned"}, "prompts"),
    ("dpo_pg", {}, "classes"),
    ("aot", {}, "classes"),
]
THROUGH_STOPS = ("alpha_dpo", "rmipo", "kto", "beta_dpo", "tdpo2", "wpo")


def plain_field(name, options, kind):
    problem = problem_of(kind)
    group, weights, initial = field_of(problem, objective(name, **options))
    own = logits_of(problem, random_logits(problem))
    return PlainField(group, weights), torch.cat([own, initial[:, own.shape[1] :]], dim=1)


@pytest.mark.parametrize(("name", "options", "kind"), SEMI_GRADIENTS)
def test_the_jacobian_is_the_derivative_of_the_field_stopped_terms_included(name, options, kind):
    field, unknowns = plain_field(name, options, kind)
    close(field.linearise(unknowns)[1][0].numpy(), differences(field.gradient, unknowns))


@pytest.mark.parametrize(("name", "options", "kind"), [point for point in SEMI_GRADIENTS if point[0] in THROUGH_STOPS])
def test_a_jacobian_without_the_stopped_terms_would_be_seen(name, options, kind, monkeypatch):
    """`detach` in place of `stop_gradient` loses them: the derivative of what remains is another matrix."""
    field, unknowns = plain_field(name, options, kind)
    wanted = field.linearise(unknowns)[1][0].numpy()
    for module in ("_math", "_adaptive", "_token_level", "_pointwise"):
        for called in ("stop_gradient", "sg"):
            monkeypatch.setattr(f"didsim.objectives.{module}.{called}", torch.Tensor.detach, raising=False)
    lost = plain_field(name, options, kind)[0].linearise(unknowns)[1][0].numpy()
    assert np.abs(lost - wanted).max() > 1e-3 * np.abs(wanted).max()


SMOOTH_RESPONSES = sorted(
    name for name in OBJECTIVES if objective(name).sees_responses_only and name not in oracle.KINKED
)
RESPONSE_POINTS = [
    *((name, {}) for name in SMOOTH_RESPONSES),
    *(("mi_dpo", {"prior": prior, "stop_gradient": stop}) for prior in ("simpo", "centropy") for stop in (False, True)),
    ("f_dpo", {"divergence": "alpha", "alpha": 0.5}),
    ("alphapo", {"alpha": -0.25}),
    ("simpo", {"gamma_form": "ratio"}),
]


def response_field(problem, loss):
    group, weights, _ = field_of(problem, loss)
    size = problem.space.num_responses
    shape = (-1, size, 1)
    allowed = torch.ones(problem.num_prompts, size, dtype=torch.bool)
    return ResponseField(group.loss, weights.joint, group.log_ref.reshape(shape), group.length.reshape(shape), allowed)


@pytest.mark.parametrize("name", [name for name, one in OBJECTIVES.items() if one.margin_link is not None])
def test_slopes_of_links_have_one_derivative_backwards_and_forwards(name):
    """Operations in place could spoil the former, which the solver takes."""
    margins = torch.tensor([-1e4, -750.0, -40.0, -3.1, 0.0, 1e-9, 0.37, 2.9, 40.0, 750.0, 1e4], dtype=torch.float64)
    for point in OBJECTIVES[name].grid():
        slope = objective(name, **point).slope
        torch.testing.assert_close(derived(slope, margins), derived_through_stops(slope, margins), rtol=1e-13, atol=0.0)


@pytest.mark.parametrize(("name", "options"), RESPONSE_POINTS)
@pytest.mark.parametrize("kind", ["sequences", "classes"])
def test_the_hessian_in_responses_is_the_derivative_of_the_field(name, options, kind):
    problem, loss = problem_of(kind), objective(name, **options)
    field = response_field(problem, loss)
    unknowns = torch.tensor(np.atleast_2d(random_logits(problem).log_probs))
    wanted = differences(field.gradient, unknowns)
    close(field.linearise(unknowns)[1][0].numpy(), wanted)
    if field.is_gradient:
        close(wanted.T, wanted)


@pytest.mark.parametrize(("name", "options"), RESPONSE_POINTS)
def test_the_field_of_responses_is_the_engines_gradient_of_classes(name, options):
    problem, loss = problem_of("prompts"), objective(name, **options)
    logits = logits_of(problem, random_logits(problem))
    group, weights, _ = field_of(problem, loss)
    wanted = plain_gradient(group, logits, weights).numpy()
    found = response_field(problem, loss).gradient(logits.reshape(2, -1)).reshape(1, -1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0.0, atol=1e-13 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "name",
    sorted(name for name in OBJECTIVES if objective(name).sees_responses_only or name in ("tdpo1", "wpo", "aot")),
)
def test_the_scale_is_the_mass_of_pairs(name):
    problem = problem_of("prompts")
    mass = problem.prompt_weights[:, None] * (problem.chosen.probs + problem.rejected.probs)
    group, weights, _ = field_of(problem, objective(name))
    np.testing.assert_allclose(PlainField(group, weights).scale.reshape(2, -1).numpy(), mass, rtol=1e-12)
    if objective(name).sees_responses_only:
        np.testing.assert_allclose(response_field(problem, objective(name)).scale.numpy(), mass, rtol=1e-12)


# --- where training ends ------------------------------------------------------------------------------------

TRAINED = [
    ("dpo", {}, "classes"),
    ("simpo", {}, "classes"),
    ("cal_dpo", {}, "classes"),
    pytest.param("alpha_dpo", {}, "classes", marks=SLOW),
    pytest.param("tdpo2", {"beta": 0.5}, "classes", marks=SLOW),
    ("rmipo", {}, "prompts"),
    pytest.param("kto", {}, "classes", marks=SLOW),
    ("slic", {}, "classes"),
]
STEPS = 800
"""Of Adam, with a learning rate that falls from 0.1 to 0."""

NEAR, NEAR_THE_BOUNDARY = 1e-5, 1e-3
"""In nats of JS: probabilities that die out fall as the inverse of time."""


def trained(problem, loss, **settings):
    given = {"optimiser": "adam", "learning_rate": 0.1, "schedule": "cosine", "clip": None, "steps": STEPS}
    return train(problem, loss, **{**given, "metrics": (), "record_every": STEPS, **settings}).policy


@pytest.mark.parametrize(("name", "options", "kind"), TRAINED)
def test_long_training_ends_at_the_solution(name, options, kind):
    problem = problem_of(kind) if kind == "prompts" else Problem.from_temperature(4, tau=2.0, seed=3)
    loss = objective(name, **options)
    solution, policy = solve(problem, loss), trained(problem, loss, mode="population", dtype="float64")
    assert solution.status == ("boundary" if name == "kto" else "converged")
    apart = np.max(js(policy, solution.policy))
    assert apart <= (NEAR_THE_BOUNDARY if name in ("kto", "slic") else NEAR), apart
    assert np.max(js(problem.reference, solution.policy)) > 10.0 * NEAR_THE_BOUNDARY


def test_training_on_samples_ends_near_the_solution():
    problem, loss = Problem.from_temperature(4, tau=2.0, seed=3), objective("simpo")
    policy = trained(problem, loss, batch_size=4096, steps=1500, record_every=1500)
    assert js(policy, solve(problem, loss).policy) <= NEAR_THE_BOUNDARY


def test_training_on_a_dataset_ends_at_its_solution():
    """All pairs at each step: full batches of the dataset are its population."""
    problem, loss = Problem.from_temperature(4, tau=2.0, seed=3), objective("ipo", tau=0.5)
    rng = np.random.default_rng(0)
    dataset = PreferenceDataset(rng.integers(0, 4, 60), rng.integers(0, 4, 60), np.zeros(60, dtype=int))
    policy = trained(problem, loss, mode="dataset", dataset=dataset, batch_size=60, dtype="float64")
    solution = solve(problem, loss, dataset=dataset)
    assert solution.status == "converged"
    assert js(policy, solution.policy) <= NEAR
    assert js(policy, solve(problem, loss).policy) > 100.0 * NEAR


# --- batches ------------------------------------------------------------------------------------------------

BATCHED = (
    *("dpo", "hinge", "kto", "tdpo2", "robust_dpo", "slic"),
    *(pytest.param(name, marks=SLOW) for name in ("alpha_dpo", "wpo", "epsilon_dpo", "dpop")),
)
ALONE = 1e-10


def assert_same(one, other, atol=ALONE):
    assert one.status == other.status
    assert one.continuum == other.continuum
    np.testing.assert_array_equal(one.survivors, other.survivors)
    assert (one.policy is None) == (other.policy is None)
    if one.policy is not None:
        np.testing.assert_allclose(one.policy.log_probs, other.policy.log_probs, rtol=0.0, atol=atol)


@pytest.mark.parametrize("name", BATCHED)
def test_a_job_in_a_batch_equals_the_job_alone(name):
    problems = [Problem.from_temperature(4, tau=tau, seed=seed) for tau, seed in ((2.0, 0), (0.8, 1), (4.0, 2))]
    jobs = [(problem, objective(other)) for problem in problems for other in (name, "dpo", "simpo")]
    together = solve_many(jobs, starts=2)
    backwards = solve_many(jobs[::-1], starts=2)[::-1]
    for job, one, other in zip(jobs, together, backwards, strict=True):
        assert one.problem is job[0]
        assert one.loss is job[1]
        assert_same(one, other)
    for job, one in list(zip(jobs, together, strict=True))[::3]:
        assert_same(one, solve(*job, starts=2))


@pytest.mark.parametrize("name", ["dpo", "slic", "tdpo2", "kto"])
def test_equal_prompts_are_one(name):
    one = Problem.from_temperature(4, tau=2.0, seed=5)
    parts = (one.reference, one.target, one.rejected, one.chosen)
    twice = Problem(*(Policy(np.stack([part.log_probs] * 2)) for part in parts), prompts=[0.25, 0.75])
    alone, both = solve(one, objective(name)), solve(twice, objective(name))
    assert alone.status == both.status
    for row in range(2):
        np.testing.assert_array_equal(both.survivors[row], alone.survivors)
        np.testing.assert_allclose(both.policy.log_probs[row], alone.policy.log_probs, rtol=0.0, atol=SAME)


@pytest.mark.parametrize("name", ["dpo", "hinge", "alpha_dpo", "kto", "epsilon_dpo"])
def test_the_solution_does_not_depend_on_how_many_starts_are_tried(name):
    problem = problem_of("classes")
    first = solve(problem, objective(name), starts=1)
    assert_same(solve(problem, objective(name), starts=4), first)


def test_starts_say_how_many_led_to_the_solution():
    solution = solve(problem_of("classes"), objective("simpo"), starts=5)
    assert solution.starts == 5
    assert solution.basin == 1.0
    assert solution.unique
    assert solution.others == ()
    assert "all 5 starts led here" in solution.sentence


def test_the_same_seed_gives_the_same_bytes():
    problem = problem_of("classes")
    one, other = (solve(problem, objective("alpha_dpo"), starts=3, seed=7) for _ in range(2))
    assert one.policy.log_probs.tobytes() == other.policy.log_probs.tobytes()
    assert (one.residual, one.newton_step, one.eigenvalue) == (other.residual, other.newton_step, other.eigenvalue)


@pytest.mark.slow
def test_random_starts_follow_the_seed():
    problem = Problem.from_temperature(4, tau=2.0, seed=3)
    found = [solve(problem, objective("aot_unpaired"), starts=6, seed=seed) for seed in (0, 0, 1)]
    assert found[0].sentence == found[1].sentence


def test_nothing_outside_is_touched():
    problem, state = problem_of("classes"), torch.random.get_rng_state()
    before = [part.log_probs.copy() for part in (problem.reference, problem.target, problem.rejected, problem.chosen)]
    initial = Policy.from_probs(np.full(6, 1.0 / 6.0))
    started = initial.log_probs.copy()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    jobs = [(problem, objective("slic")), (problem, objective("alpha_dpo"))]
    solve_many(jobs, initial_policy=initial)
    assert len(jobs) == 2
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (grad, dtype)
    after = (problem.reference, problem.target, problem.rejected, problem.chosen)
    for part, copy in zip(after, before, strict=True):
        np.testing.assert_array_equal(part.log_probs, copy)
    np.testing.assert_array_equal(initial.log_probs, started)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(mode):
    problem = problem_of("prompts")
    with mode():
        for name in ("dpo", "rmipo", "dpo_pg"):
            solve(problem, objective(name), starts=1)
        assert solve(problem, objective("rmipo")).status == "converged"


def test_another_initial_policy_is_where_the_flow_starts():
    problem = Problem.from_temperature(4, tau=2.0, seed=3)
    there = solve(problem, objective("log_pi")).policy
    at_once = solve(problem, objective("log_pi"), initial_policy=there, starts=1)
    assert at_once.iterations < solve(problem, objective("log_pi"), starts=1).iterations
    np.testing.assert_allclose(at_once.policy.log_probs, there.log_probs, rtol=0.0, atol=SAME)


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "word", "arguments"),
    [
        (ValueError, "starts", {"starts": 0}),
        (ValueError, "starts", {"starts": 10_000}),
        (TypeError, "starts", {"starts": 1.5}),
        (ValueError, "seed", {"seed": -1}),
        (TypeError, "seed", {"seed": "0"}),
        (TypeError, "initial_policy", {"initial_policy": [0.5, 0.5]}),
        (ValueError, "initial_policy", {"initial_policy": Policy.from_probs([0.5, 0.5])}),
        (ValueError, "initial_policy", {"initial_policy": Policy.from_probs([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])}),
        (TypeError, "step", {"steps": 10}),
    ],
)
def test_arguments_that_are_not_acceptable_are_named(error, word, arguments):
    with pytest.raises(error, match=word):
        solve(problem_of("classes"), objective("dpo"), **arguments)


@pytest.mark.parametrize(
    ("error", "jobs"),
    [
        (ValueError, []),
        (TypeError, "dpo"),
        (TypeError, [problem_of("classes")]),
        (TypeError, [(problem_of("classes"), "dpo")]),
        (ValueError, [(problem_of("classes"), objective("dpo")), (problem_of("prompts"), objective("dpo"))]),
    ],
)
def test_jobs_that_are_not_acceptable_are_refused(error, jobs):
    with pytest.raises(error):
        solve_many(jobs)


@pytest.mark.parametrize("name", ["dpo", "ipo", "alpha_dpo", "tdpo1"])
def test_restricted_policies_are_stationary_in_their_weights(name):
    problem = Problem.from_temperature(8, tau=2.0, seed=3, num_features=3)
    loss = objective(name)
    solution = solve(problem, loss)
    assert solution.status == "converged", solution.sentence
    ratios = solution.policy.log_probs - problem.reference.log_probs
    design = np.column_stack([problem.features.reshape(8, -1), np.ones(8)])
    weights, *_ = np.linalg.lstsq(design, ratios, rcond=None)
    np.testing.assert_allclose(design @ weights, ratios, rtol=0.0, atol=1e-9)
    group, table, _ = field_of(problem, loss)
    gradient = plain_gradient(group, torch.tensor(weights[None, :3]), table)
    assert gradient.abs().max() <= 1e-8


def test_training_and_solving_agree_for_restricted_policies():
    problem, loss = Problem.from_temperature(6, tau=2.0, seed=3, num_features=2), objective("dpo")
    policy = trained(problem, loss, mode="population", dtype="float64")
    assert js(policy, solve(problem, loss).policy) <= NEAR


def test_many_runs_of_training_meet_many_solutions():
    jobs = [(Problem.from_temperature(4, tau=tau, seed=1), objective("dpo", beta=1.0)) for tau in (1.0, 2.0, 4.0)]
    settings = {"optimiser": "adam", "learning_rate": 0.1, "schedule": "cosine", "clip": None}
    histories = train_many(
        jobs, **settings, steps=STEPS, record_every=STEPS, metrics=(), mode="population", dtype="float64"
    )
    for history, solution in zip(histories, solve_many(jobs), strict=True):
        assert js(history.policy, solution.policy) <= NEAR
