"""Independent responses: gradients by sums over both sides apart equal those over the table of pairs."""

import numpy as np
import pytest
import torch
from test_spaces import OPTIONS, PROBLEMS, logits, unrelated

from didsim import OBJECTIVES, Policy, Problem, Sequences, objective, train
from didsim.engine import MOST_TABLED, ProductWeights, Settings, TableWeights, reason_against_sums
from didsim.engine._gradient import gradient_of, plain_gradient, separable_gradient
from didsim.engine._plan import plan_runs
from didsim.objectives import IndependentPairs, Link, Objective, Pairs, Responses
from didsim.objectives._objective import BoundObjective
from didsim.torch_bridge import threads

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

ROUNDING = 1e-12
"""Relative to the largest entry of a gradient."""

ALPHA_DPO = (
    {"stop_gradient": False},
    {"reference_form": "policy"},
    {"reference_form": "policy", "stop_gradient": False},
    {"reference_form": "uniform"},
    {"reference_form": "reference"},
    {"reference_form": "inverse_reference"},
    {"normalise": False},
    {"normalise": False, "stop_gradient": False},
    {"gamma_form": "ratio"},
    {"length_normalise": False},
    {"margin": "tdpo"},
)
CASES = [(name, options) for name, options in OPTIONS if reason_against_sums(objective(name, **options)) is None]
CASES += [("alpha_dpo", options) for options in ALPHA_DPO]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threads(1):
        yield


def plan_of(jobs, path="sums", dtype="float64", **settings):
    return plan_runs(jobs, Settings(mode="population", steps=1, dtype=dtype, path=path, **settings))


def moved(plan, seed=0):
    noise = np.random.default_rng(seed).normal(0.0, 0.7, plan.initial.shape)
    return plan.initial + torch.tensor(noise)


def assert_alike(got, want, tolerance=ROUNDING):
    assert got.isfinite().all()
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max().clamp(min=1e-300))


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{'-'.join(map(str, o.values()))}" for n, o in CASES])
def test_sums_give_the_gradient_of_the_table(make, name, options):
    plan = plan_of([(make(), objective(name, **options))])
    parameters, group = moved(plan), plan.groups[0]
    want = plain_gradient(group, parameters, TableWeights.from_joint(plan.joint("float64")))
    weights = plan.exact_weights("float64")
    assert isinstance(weights, ProductWeights)
    assert_alike(separable_gradient(group, parameters, weights), want)
    assert_alike(gradient_of(plan.groups, parameters, weights), want)


@pytest.mark.parametrize("name", ["dpo", "simpo", "slic", "repo", "hinge", "kto", "alpha_dpo", "tdpo2", "exponential"])
def test_panels_of_a_thousand_responses_give_the_gradient_of_the_table(name):
    space = Sequences(6, 4)
    plan = plan_of([(unrelated(space.num_responses, space=space), objective(name))])
    parameters = moved(plan)
    want = gradient_of(plan.groups, parameters, TableWeights.from_joint(plan.joint("float64")))
    assert_alike(gradient_of(plan.groups, parameters, plan.exact_weights("float64")), want)


def test_many_runs_of_many_objectives_and_problems_are_one_batch():
    problems = [unrelated(3, 40, prompts=[0.2, 0.5, 0.3], seed=seed) for seed in (0, 10)]
    losses = [objective("alpha_dpo", alpha=a) for a in (0.1, 0.5)]
    losses += [objective("dpo", beta=0.5), objective("kto"), objective("simpo", gamma=2.0)]
    plan = plan_of([(problem, loss) for problem in problems for loss in losses])
    parameters = moved(plan)
    want = gradient_of(plan.groups, parameters, TableWeights.from_joint(plan.joint("float64")))
    assert_alike(gradient_of(plan.groups, parameters, plan.exact_weights("float64")), want)


@pytest.mark.parametrize("name", ["dpo", "slic", "alpha_dpo", "exponential"])
def test_a_response_that_the_reference_excludes_does_not_count(name):
    probs = np.array([0.5, 0.3, 0.2, 0.0])
    rejected = Policy.from_probs([0.2, 0.2, 0.6, 0.0])
    reference = Policy.from_probs(probs)
    problem = Problem(reference, rejected, rejected, reference)
    plan = plan_of([(problem, objective(name))])
    parameters = moved(plan)
    want = plain_gradient(plan.groups[0], parameters, TableWeights.from_joint(plan.joint("float64")))
    assert_alike(gradient_of(plan.groups, parameters, plan.exact_weights("float64")), want)


def test_a_run_that_has_diverged_leaves_the_others_alone():
    problem = unrelated(300)
    plan = plan_of([(problem, objective("dpo", beta=beta)) for beta in (0.1, 1.0)])
    parameters = moved(plan)
    want = gradient_of(plan.groups, parameters, plan.exact_weights("float64"))
    parameters[0] = torch.nan
    got = gradient_of(plan.groups, parameters, plan.exact_weights("float64"))
    assert got[0].isnan().all()
    torch.testing.assert_close(got[1], want[1], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["dpo", "alpha_dpo", "kto", "tdpo1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_by_sums_is_training_by_the_table(name, dtype):
    problem = unrelated(2, 85, space=Sequences(4, 3), prompts=[0.25, 0.75])
    settings = dict(mode="population", steps=20, learning_rate=0.01, dtype=dtype, record_every=20)
    by_path = [train(problem, objective(name), path=path, **settings).policy.log_probs for path in ("table", "sums")]
    np.testing.assert_allclose(*by_path, rtol=0.0, atol=1e-9 if dtype == "float64" else 1e-4)


def test_large_spaces_are_trained_on_by_sums_and_record_no_loss():
    large = Problem.from_temperature(3000, tau=2.0)
    plan = plan_of([(large, objective("dpo"))], path="auto")
    assert 3000**2 > MOST_TABLED
    assert plan.path == "sums"
    assert {"loss", "accuracy"}.isdisjoint(plan.metrics)
    assert plan_of([(large, objective("wpo"))], path="auto", metrics=()).path == "table"
    assert plan_of([(unrelated(100), objective("dpo"))], path="auto").path == "table"


REFUSED = {name: reason_against_sums(objective(name)) for name in OBJECTIVES}


@pytest.mark.parametrize("name", [name for name, reason in REFUSED.items() if reason])
def test_sums_refuse_what_does_not_separate_by_name_and_reason(name):
    with pytest.raises(ValueError, match=f"path must be .* got '\"sums\" for {name}'.*{REFUSED[name]}"):
        plan_of([(unrelated(5), objective("dpo")), (unrelated(5), objective(name))])


def test_only_these_objectives_are_refused():
    refused = {name for name, reason in REFUSED.items() if reason}
    pairwise = {"epsilon_dpo", "wpo", "ld_dpo", "beta_dpo", "rmipo", "aot", "aot_unpaired"}
    assert refused == pairwise | {"dpo_pg", "chi_po"}


@pytest.mark.parametrize("settings", [{"mode": "sampled"}, {"mode": "dataset", "dataset": 10}])
def test_sums_belong_to_the_population(settings):
    with pytest.raises(ValueError, match=r"path must be .*drawn independently"):
        Settings(path="sums", **settings)


def test_product_weights_have_no_pairs():
    plan = plan_of([(unrelated(5), objective("dpo"))])
    group = plan.groups[0]
    with pytest.raises(ValueError, match="a table or a list"):
        plan.exact_weights("float64").pairs(group.snapshot(plan.initial), group.streams)


def test_a_link_with_a_corner_that_does_not_say_so_is_summed_as_it_is_written():
    kinked = Link(lambda m: torch.relu(1.0 - m) ** 2, lambda m: -2.0 * torch.relu(1.0 - m))
    record = Objective("squared_hinge", "", "", "", score=lambda y: 3.0 * y.log_pi, link=kinked)
    plan = plan_of([(unrelated(400), BoundObjective(record, {}))])
    parameters = moved(plan)
    want = gradient_of(plan.groups, parameters, TableWeights.from_joint(plan.joint("float64")))
    assert_alike(gradient_of(plan.groups, parameters, plan.exact_weights("float64")), want)


# --- statistics of independent pairs --------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_run", [1, 3])
def test_z_scores_from_both_sides_are_those_of_all_pairs(rows_per_run):
    log_pi, log_ref, *shares = (torch.tensor(logits(6, 7, seed=seed)) for seed in range(4))
    chosen, rejected = (part.softmax(1) for part in shares)
    mass = torch.tensor([0.2, 0.5, 0.3] * 2 if rows_per_run == 3 else [1.0] * 6, dtype=torch.float64)
    y = Responses(log_pi, log_ref)
    joint = mass[:, None, None] * chosen[:, :, None] * rejected[:, None, :]
    table = Pairs(y.map(lambda x: x[:, :, None]), y.map(lambda x: x[:, None, :]), joint, rows_per_run)
    apart = IndependentPairs(
        y.map(lambda x: x[:, :, None]), chosen[..., None], rejected[..., None], mass[:, None, None], rows_per_run
    )
    want = table.standardise(table.difference(lambda y: y.log_ratio))
    got = apart.standardise(apart.difference(lambda y: y.log_ratio))
    torch.testing.assert_close(got.chosen - got.rejected.mT, want, rtol=0.0, atol=1e-13)


def test_z_scores_of_equal_margins_are_0_with_a_gradient_of_0():
    ones = torch.full((1, 4, 1), 0.1, dtype=torch.float64, requires_grad=True)
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)[None, :, None]
    pairs = IndependentPairs(Responses(ones), share, share.flip(1), torch.ones(1, 1, 1).double(), 1)
    z = pairs.standardise(pairs.difference(lambda y: y.log_pi))
    assert z.chosen.tolist() == z.rejected.tolist() == [[[0.0]] * 4]
    assert torch.autograd.grad((z.chosen + z.rejected).sum(), ones)[0].tolist() == [[[0.0]] * 4]
