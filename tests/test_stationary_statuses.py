"""What the solver says where training ends elsewhere: at the boundary, on a continuum, at one of several, nowhere."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from didsim.engine import Settings, TableWeights, plain_gradient, plan_runs
from didsim.objectives import OBJECTIVES, objective
from didsim.optima import closed_form
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem
from didsim.spaces import Sequences
from didsim.stationary import Solution, solve, solve_many
from didsim.stationary import _dense as dense
from didsim.stationary._dense import DenseEquations
from didsim.stationary._settle import settle

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
"""PyTorch compiles a few derivatives when the first tangent is asked for."""

RESIDUAL = 2e-9
"""The 1e-9 that is promised, by another route."""

SAME = 1e-8
"""In log-probabilities."""


def dataset_of(*pairs):
    chosen, rejected = zip(*pairs, strict=True)
    return PreferenceDataset(np.array(chosen), np.array(rejected), np.zeros(len(pairs), dtype=int))


def uniform(size):
    policy = Policy.from_probs(np.full(size, 1.0 / size))
    return Problem(policy, policy, policy, policy)


def of(reference, chosen, rejected):
    reference, chosen, rejected = map(Policy.from_probs, (reference, chosen, rejected))
    return Problem(reference, reference, rejected, chosen)


def field(problem, loss, log_pi, dataset=None):
    """The engine's gradient by the logits of classes, and the mass of pairs, [X, K] each."""
    settings = {"mode": "population"} if dataset is None else {"mode": "dataset", "dataset": dataset}
    plan = plan_runs([(problem, loss)], Settings(**settings, path="table", steps=1, dtype="float64", metrics=()))
    (group,), weights = plan.groups, TableWeights.from_joint(plan.joint("float64"))
    shape = np.atleast_2d(log_pi).shape
    gradient = plain_gradient(group, torch.tensor(log_pi).reshape(1, -1), weights)
    mass = weights.chosen(group.streams) + weights.rejected(group.streams)
    return gradient.reshape(shape).numpy(), mass.reshape(shape).numpy()


DEPTHS = (12.0, 20.0, 30.0)
"""In nats: where probabilities that die out may be looked at, before the push down is lost in rounding."""


def assert_limit(solution: Solution, dataset=None):
    """Survivors feel no force however little of the others is left, and these are pushed down, or not at all."""
    log_pi, alive = np.atleast_2d(solution.policy.log_probs), np.atleast_2d(solution.survivors)
    np.testing.assert_array_equal(np.isneginf(log_pi), ~alive)
    assert alive.any(axis=1).all()
    np.testing.assert_allclose(np.exp(log_pi).sum(1), 1.0, rtol=1e-12)
    for depth in (*DEPTHS, 500.0):
        gradient, mass = field(solution.problem, solution.loss, np.where(alive, log_pi, -depth), dataset)
        down = gradient[~alive]
        assert np.all(down >= 0.0)
        if depth == DEPTHS[0]:
            assert np.all(down > 0.0)
    assert np.all(np.abs(gradient[alive]) <= RESIDUAL * mass[alive])


# --- the boundary -------------------------------------------------------------------------------------------


def test_a_separable_dataset_leads_to_the_boundary():
    """0 beats 1 and 1 beats 2, always: margins grow without end, and 0 stays alone."""
    dataset = dataset_of((0, 1), (1, 2))
    solution = solve(uniform(3), objective("dpo"), dataset=dataset)
    assert solution.status == "boundary"
    np.testing.assert_array_equal(solution.survivors, [True, False, False])
    np.testing.assert_array_equal(solution.policy.probs, [1.0, 0.0, 0.0])
    assert "only {0} keep probability" in solution.sentence


def test_of_a_chain_the_linked_top_survives():
    """0 and 1 beat each other 2 : 1, and both beat 2: in the limit their odds are 2 : 1."""
    dataset = dataset_of((0, 1), (0, 1), (1, 0), (0, 2), (1, 2))
    solution = solve(uniform(3), objective("log_pi"), dataset=dataset)
    assert solution.status == "boundary"
    np.testing.assert_allclose(solution.policy.probs, [2.0 / 3.0, 1.0 / 3.0, 0.0], rtol=SAME)
    assert_limit(solution, dataset)


def test_a_response_that_is_never_chosen_dies_out():
    problem = of([0.4, 0.3, 0.3], [0.6, 0.4, 0.0], [0.3, 0.3, 0.4])
    for name in ("dpo", "simpo", "ipo"):
        loss = objective(name, **({"gamma": 0.0} if name == "simpo" else {}))
        solution, form = solve(problem, loss), closed_form(problem, loss)
        if name == "ipo":  # its margins stay finite
            assert solution.status == "converged"
        else:
            assert solution.status == "boundary"
            np.testing.assert_array_equal(solution.survivors, [True, True, False])
            assert_limit(solution)
        np.testing.assert_allclose(solution.policy.probs, form.probs, rtol=SAME)


def test_a_response_that_is_never_rejected_stays_alone():
    problem = of([0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.0, 0.5, 0.5])
    solution = solve(problem, objective("dpo"))
    assert solution.status == "boundary"
    np.testing.assert_array_equal(solution.survivors, [True, False, False])
    assert_limit(solution)


@pytest.mark.parametrize("name", ["kto", "simper", "apo_zero"])
@pytest.mark.parametrize("tau", [0.5, 2.0, *(pytest.param(tau, marks=pytest.mark.slow) for tau in (0.8, 4.0))])
@pytest.mark.parametrize("prompts", [None, 2])
def test_losses_of_single_responses_lead_to_the_boundary(name, tau, prompts):
    problem = Problem.from_temperature(5, tau=tau, seed=3, num_prompts=prompts)
    solution = solve(problem, objective(name))
    assert solution.status == "boundary"
    assert_limit(solution)
    worse = problem.chosen.probs < problem.rejected.probs
    assert not np.any(solution.survivors & worse)
    assert "boundary" in solution.sentence


@pytest.mark.parametrize("tau", [0.25, 0.5, 0.8, 2.0, 4.0])
def test_simper_leaves_the_class_of_the_largest_gain(tau):
    problem = Problem.from_temperature(6, tau=tau, seed=1)
    solution = solve(problem, objective("simper"))
    gains = problem.chosen.probs - problem.rejected.probs
    np.testing.assert_array_equal(np.flatnonzero(solution.survivors), [np.argmax(gains)])


def test_kto_keeps_what_is_more_desired_than_not_if_weights_are_even():
    """Two classes gain and two lose: only the former may survive."""
    problem = of([0.25, 0.25, 0.25, 0.25], [0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4])
    solution = solve(problem, objective("kto"))
    assert solution.status == "boundary"
    assert not solution.survivors[2:].any()


def test_prompts_are_named_in_the_sentence():
    first, second = Policy.from_probs([0.5, 0.3, 0.2]), Policy.from_probs([0.2, 0.3, 0.5])
    stacked = Policy(np.stack([first.log_probs, second.log_probs]))
    chosen = Policy.from_probs([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    rejected = Policy.from_probs([[0.3, 0.3, 0.4], [0.3, 0.3, 0.4]])
    solution = solve(Problem(stacked, stacked, rejected, chosen, prompts=[0.5, 0.5]), objective("dpo"))
    assert solution.status == "boundary"
    assert "to prompt 0 only {0, 1}" in solution.sentence
    assert "prompt 1" not in solution.sentence
    assert_limit(solution)


@pytest.mark.parametrize("name", ["dpo", "tdpo1", "wpo"])
def test_sequences_that_are_never_chosen_die_out(name):
    """Of V = 2, T = 2: those that begin with the second token."""
    space = Sequences(2, 2)
    begins = np.array(
        [length > 0 and actions[0] == 1 for length, actions in zip(space.lengths, space.actions, strict=True)]
    )
    even = np.full(space.num_responses, 1.0)
    chosen = Policy.from_probs(np.where(begins, 0.0, even) / np.sum(~begins))
    same = Policy.from_probs(even / even.sum())
    solution = solve(Problem(same, same, same, chosen, space=space), objective(name, beta=1.0), starts=1)
    assert solution.status == "boundary"
    np.testing.assert_array_equal(solution.survivors, ~begins)
    np.testing.assert_allclose(solution.policy.probs[~begins], 1.0 / np.sum(~begins), rtol=1e-7)


# --- a continuum --------------------------------------------------------------------------------------------


def assert_continuum(solution: Solution, dimensions):
    assert solution.status == "no-stationary-point"
    assert solution.continuum == dimensions
    assert solution.policy is not None
    assert not solution.unique
    assert f"a set of {dimensions} dimension" in solution.sentence


def test_unlinked_comparisons_leave_a_continuum():
    dataset = dataset_of((0, 1), (0, 1), (1, 0), (2, 3), (3, 2))
    solution = solve(uniform(4), objective("log_pi"), dataset=dataset)
    assert_continuum(solution, 1)
    p = solution.policy.probs
    np.testing.assert_allclose([p[0] / p[1], p[2] / p[3]], [2.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "exponential"])
def test_each_further_group_of_comparisons_adds_a_dimension(name, groups):
    pairs = [(2 * g + i, 2 * g + 1 - i) for g in range(groups) for i in (0, 0, 1)]
    solution = solve(uniform(2 * groups), objective(name), dataset=dataset_of(*pairs), starts=1)
    assert_continuum(solution, groups - 1)


def test_a_class_that_is_never_compared_leaves_a_continuum():
    dataset = dataset_of((0, 1), (0, 1), (1, 0))
    solution = solve(uniform(3), objective("log_pi"), dataset=dataset)
    assert_continuum(solution, 1)


def test_winners_that_never_met_leave_a_continuum_at_the_boundary():
    """0 and 1 both beat 2 and never meet: 2 dies out, and what is left of 0 against 1 is not decided."""
    dataset = dataset_of((0, 2), (1, 2))
    solution = solve(uniform(3), objective("dpo"), dataset=dataset)
    assert solution.status != "converged"
    assert solution.continuum == 1
    if solution.policy is not None:
        np.testing.assert_allclose(solution.policy.probs, [0.5, 0.5, 0.0], atol=1e-6)


def test_one_prompt_has_no_information_to_maximise():
    """π is its own marginal: the margin is 0 whatever the policy."""
    problem = Problem.from_temperature(5, tau=2.0, seed=3)
    solution = solve(problem, objective("mi_dpo", prior="marginal"))
    assert_continuum(solution, 4)
    np.testing.assert_allclose(solution.policy.log_probs, problem.reference.log_probs, rtol=1e-12)


@pytest.mark.parametrize("prompts", [None, 2, 3])
def test_a_learned_prior_is_free(prompts):
    """For any ζ there is the policy π_x ∝ ζ (w_x/l_x)^{1/α}."""
    problem = Problem.from_temperature(4, tau=2.0, seed=3, num_prompts=prompts)
    solution = solve(problem, objective("mi_dpo", prior="learned"))
    assert_continuum(solution, 3)
    ratios = np.atleast_2d(problem.chosen.log_probs - problem.rejected.log_probs)
    excess = np.atleast_2d(solution.policy.log_probs) - solution.prior.log_probs - ratios
    np.testing.assert_allclose(excess - excess[:, :1], 0.0, atol=1e-7)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.5])
def test_projected_gradients_vanish_on_a_ray(t):
    """π = w + t (w − l), t ≥ 0."""
    problem = of([0.2, 0.3, 0.5], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4])
    w, l = problem.chosen.probs, problem.rejected.probs  # noqa: E741
    near = np.array([1.01, 1.0, 0.97]) * (w + t * (w - l))
    solution = solve(problem, objective("dpo_pg"), initial_policy=Policy.from_probs(near / near.sum()), starts=1)
    assert_continuum(solution, 1)
    reached = (solution.policy.probs - w) @ (w - l) / ((w - l) @ (w - l))
    assert abs(reached - t) < 0.1
    np.testing.assert_allclose(solution.policy.probs, w + reached * (w - l), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("tau", [0.25, 0.5, 0.8, 2.0, 4.0])
@pytest.mark.parametrize("kind", [{"num_classes": 6}, {"num_classes": 6, "num_prompts": 2}, {"num_classes": 32}])
def test_the_ray_begins_where_training_does(tau, kind):
    """π_ref = w is its end: whether it is seen must depend neither on the last bit nor on the flow beside it."""
    problems = [Problem.from_temperature(**kind, tau=tau, seed=seed) for seed in (*range(40), 135)]
    for solution in solve_many([(problem, objective("dpo_pg")) for problem in problems], starts=1):
        assert_continuum(solution, 1)
        w, l = solution.problem.chosen.probs.ravel(), solution.problem.rejected.probs.ravel()  # noqa: E741
        along, beyond = w - l, solution.policy.probs.ravel() - w
        t = beyond @ along / (along @ along)
        assert t > -1e-7
        np.testing.assert_allclose(beyond, t * along, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.0])
@pytest.mark.parametrize("size", [6, 32])
def test_other_rules_with_two_pieces_have_isolated_zeros(share, size):
    """g_w + share · max(0, g_w·g_l)/‖g_l‖² g_l vanishes at w alone, unless share is −1: it is DPO-PG's."""

    def rule(chosen, rejected):
        both = (chosen * rejected).sum(-1, keepdim=True).clamp(min=0.0)
        return chosen + share * both / (rejected * rejected).sum(-1, keepdim=True) * rejected

    record = replace(OBJECTIVES["dpo_pg"], gradient_rule=rule)
    problems = [Problem.from_temperature(size, tau=tau, seed=seed) for tau in (0.5, 2.0) for seed in range(10)]
    for solution in solve_many([(problem, record.bind()) for problem in problems], starts=1):
        assert solution.status == "converged"
        assert solution.continuum == 0
        np.testing.assert_allclose(solution.policy.log_probs, solution.problem.chosen.log_probs, rtol=0.0, atol=SAME)


def test_a_ray_that_leads_out_of_the_simplex_is_its_end_only():
    """A response is rejected and never chosen: w + t (w − l) is no policy for t > 0."""
    problem = of([0.4, 0.3, 0.3], [0.6, 0.4, 0.0], [0.3, 0.3, 0.4])
    solution = solve(problem, objective("dpo_pg"), starts=12)
    assert solution.status == "boundary"
    assert solution.unique
    np.testing.assert_allclose(solution.policy.probs, [0.6, 0.4, 0.0], rtol=0.0, atol=1e-9)


# --- nothing ------------------------------------------------------------------------------------------------


def test_a_loss_without_a_minimum_has_no_stationary_point():
    """p* = 0.97 beyond 1 − ε = 0.9: robust DPO falls without end in the margin of every pair of opposite wins."""
    problem = of([0.4, 0.3, 0.3], [0.85, 0.1, 0.05], [0.05, 0.15, 0.8])
    solution = solve(problem, objective("robust_dpo", label_smoothing=0.1), starts=1)
    assert solution.status != "converged"
    if solution.status == "no-stationary-point":
        assert solution.policy is None
        assert "None was found" in solution.sentence


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_robust_dpo_has_a_minimum_if_labels_are_noisy_enough(epsilon):
    problem = of([0.5, 0.5], [0.6, 0.4], [0.4, 0.6])
    p = 0.36 / 0.52
    solution = solve(problem, objective("robust_dpo", label_smoothing=epsilon))
    assert solution.status == "converged"
    goal = (p - epsilon) / (1.0 - 2.0 * epsilon)
    np.testing.assert_allclose(odds(solution), math.log(goal / (1.0 - goal)), rtol=SAME)


@pytest.mark.parametrize("name", ["dpo", "alpha_dpo", "slic"])
def test_a_policy_is_not_called_stationary_before_it_is(name, monkeypatch):
    monkeypatch.setattr("didsim.stationary._settle.MOST_ITERATIONS", 2)
    monkeypatch.setattr("didsim.stationary._corners.MOST_ROUNDS", 1, raising=False)
    solution = solve(Problem.from_temperature(6, tau=2.0, seed=3), objective(name), starts=1)
    assert solution.status == "no-stationary-point"
    assert solution.policy is None
    assert solution.basin == 0.0
    assert not solution.unique
    assert solution.continuum == 0
    assert "None was found" in solution.sentence


# --- several ------------------------------------------------------------------------------------------------

SEVERAL = of([0.5, 0.5], [0.55, 0.45], [0.45, 0.55])


def odds(solution):
    """The margin of 0 over 1 in log-ratios to a uniform reference."""
    return float(solution.policy.log_probs[0] - solution.policy.log_probs[1])


def discopop_minima(p, tau=0.05):
    """The zeros with rising slope of p f′(m) − (1 − p) f′(−m), on a grid and by bisection."""

    def value(m):
        share = 1.0 / (1.0 + math.exp(-m / tau)) if m > -700.0 * tau else 0.0
        return (1.0 - share) * math.log1p(math.exp(-m)) + share * math.exp(-m)

    def slope(m, step=1e-6):
        loss = lambda x: p * value(x) + (1.0 - p) * value(-x)  # noqa: E731
        return (loss(m + step) - loss(m - step)) / (2.0 * step)

    grid, found = np.linspace(-4.0, 4.0, 4001), []
    slopes = [slope(m) for m in grid]
    for low, high, before, after in zip(grid, grid[1:], slopes, slopes[1:], strict=False):
        if before < 0.0 <= after:
            for _ in range(60):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
            found.append(0.5 * (low + high))
    return found


def test_discopop_has_several_solutions():
    minima = discopop_minima(0.55**2 / (0.55**2 + 0.45**2))
    assert len(minima) > 1
    solution = solve(SEVERAL, objective("discopop"), starts=12)
    found = sorted([odds(solution), *(float(-np.diff(other.log_probs)[0]) for other in solution.others)])
    assert solution.status == "converged"
    np.testing.assert_allclose(found, minima, atol=1e-4)
    assert 0.0 < solution.basin < 1.0
    assert not solution.unique
    assert "not the only one" in solution.sentence
    assert solution.eigenvalue > 0.0


@pytest.mark.parametrize("away", [-1.5, 1.5])
def test_the_start_decides_which_of_several_is_reported(away):
    initial = Policy.from_logits([away, 0.0])
    minima = discopop_minima(0.55**2 / (0.55**2 + 0.45**2))
    solution = solve(SEVERAL, objective("discopop"), initial_policy=initial, starts=1)
    np.testing.assert_allclose(odds(solution), min(minima, key=lambda m: abs(m - away)), atol=1e-4)


# --- excluded responses, and spaces of one and two classes --------------------------------------------------

FREE = ("dpo", "simpo", "slic", "alpha_dpo", "tdpo1", "tdpo2", "epsilon_dpo", "rmipo", "cal_dpo", "sppo")


@pytest.mark.parametrize("name", FREE)
def test_responses_that_the_reference_excludes_are_not_there(name):
    with_it = of([0.5, 0.3, 0.0, 0.2], [0.5, 0.3, 0.0, 0.2], [0.2, 0.3, 0.0, 0.5])
    without = of([0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    one, other = solve(with_it, objective(name)), solve(without, objective(name))
    assert one.status == other.status == "converged"
    np.testing.assert_array_equal(one.survivors, [True, True, False, True])
    assert one.policy.probs[2] == 0.0
    np.testing.assert_allclose(one.policy.probs[[0, 1, 3]], other.policy.probs, rtol=1e-7)


@pytest.mark.parametrize("name", ["dpo", "kto", "alpha_dpo", "hinge", "dpo_pg", "tdpo2"])
def test_a_single_response_is_certain(name):
    solution = solve(uniform(1), objective(name))
    np.testing.assert_array_equal(solution.policy.probs, [1.0])
    assert solution.status == "converged"


TWO = of([0.5, 0.5], [0.7, 0.3], [0.4, 0.6])
WINS = 0.42 / (0.42 + 0.12)
"""p*(0 ≻ 1): 0.7 · 0.6 against 0.3 · 0.4."""


def logit(p):
    return math.log(p / (1.0 - p))


@pytest.mark.parametrize(
    ("name", "options", "margin"),
    [
        ("dpo", {"beta": 0.5}, 2.0 * logit(WINS)),
        ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, 2.0 * logit(0.8 * WINS + 0.1)),
        ("robust_dpo", {"beta": 0.5, "label_smoothing": 0.1}, 2.0 * logit((WINS - 0.1) / 0.8)),
        ("exo", {"beta": 0.5, "label_smoothing": 0.1}, 2.0 * (2.0 * WINS - 1.0) * math.log(9.0)),
        ("ipo", {"tau": 0.5}, 2.0 * WINS - 1.0),
        ("exponential", {"beta": 0.5}, logit(WINS)),
        ("hinge", {"beta": 0.5}, 2.0),
        ("repo", {"gamma": 0.5}, 0.5),
        ("h_dpo", {"eta": 2.0}, 0.5 * logit(WINS)),
    ],
)
def test_two_classes_by_hand(name, options, margin):
    solution = solve(TWO, objective(name, **options))
    assert solution.status == "converged", solution.sentence
    np.testing.assert_allclose(odds(solution), margin, rtol=SAME)


@pytest.mark.parametrize("gamma", [-1.0, 0.5, 2.0])
def test_simpo_of_two_classes_by_hand(gamma):
    """p σ(γ − m) = (1 − p) σ(γ + m): with r = p/(1 − p), g = e^γ, x = e^m it is r (1 + g x) = x (g + x)."""
    r, g = WINS / (1.0 - WINS), math.exp(gamma)
    x = 0.5 * (g * (r - 1.0) + math.sqrt(g * g * (r - 1.0) ** 2 + 4.0 * r))
    solution = solve(TWO, objective("simpo", beta=2.0, gamma=gamma))
    np.testing.assert_allclose(2.0 * odds(solution), math.log(x), rtol=SAME)


def test_statuses_are_told_apart_within_a_batch():
    losses = [objective(name) for name in ("dpo", "kto", "mi_dpo", "simper", "ipo")]
    losses[2] = objective("mi_dpo", prior="marginal")
    problem = Problem.from_temperature(4, tau=2.0, seed=3)
    statuses = [solution.status for solution in solve_many([(problem, loss) for loss in losses], starts=1)]
    assert statuses == ["converged", "boundary", "no-stationary-point", "boundary", "converged"]


def test_survivors_and_policies_have_the_shape_of_the_problem():
    for prompts, name in itertools.product((None, 1, 2), ("dpo", "kto", "tdpo2")):
        problem = Problem.from_temperature(3, tau=2.0, seed=3, num_prompts=prompts)
        solution = solve(problem, objective(name), starts=1)
        assert solution.policy.log_probs.shape == solution.survivors.shape == problem.reference.log_probs.shape


@dataclass(frozen=True)
class Replicator:
    """A field of three responses of fitness 1, 0, and 3 π_0 − 1: the last may live once the first one does."""

    allowed: torch.Tensor

    is_gradient = is_ramped = has_corners = False

    def take(self, rows):
        return replace(self, allowed=self.allowed[rows])

    def freeze(self, unknowns, dead):
        return replace(self, allowed=self.allowed & ~dead)

    @property
    def scale(self):
        return self.allowed.double().clamp(min=1.0)

    @property
    def shifts(self):
        return self.allowed.double().unsqueeze(2)

    def log_pi(self, unknowns):
        return torch.log_softmax(unknowns, dim=1)

    def choices(self, unknowns):
        return self.log_pi(unknowns)

    def change(self, unknowns, step):
        return step - (self.log_pi(unknowns).exp() * step).sum(1, keepdim=True)

    def gradient(self, unknowns):
        pi = self.log_pi(unknowns).exp()
        fitness = torch.stack([torch.ones_like(pi[:, 0]), torch.zeros_like(pi[:, 0]), 3.0 * pi[:, 0] - 1.0], dim=1)
        return -pi * (fitness - (pi * fitness).sum(1, keepdim=True))

    def noise(self, unknowns):
        return torch.zeros_like(unknowns)

    def linearise(self, unknowns):
        return self.gradient(unknowns), torch.func.jacfwd(lambda x: self.gradient(x[None])[0])(unknowns[0])[None]

    def equations(self, unknowns):
        return DenseEquations.of(self, unknowns)


def test_a_response_that_died_out_too_early_comes_back():
    field = Replicator(torch.ones(1, 3, dtype=torch.bool))
    rest = settle(field, torch.tensor([[-12.0, 0.0, -40.0]], dtype=torch.float64))  # the last one falls at first
    assert rest.march.settled.all()
    assert rest.dead.tolist() == [[False, True, False]]
    probs = field.log_pi(rest.march.unknowns).exp()
    torch.testing.assert_close(probs, torch.tensor([[2 / 3, 0.0, 1 / 3]], dtype=torch.float64), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("dpo", {}), ("simpo", {"gamma": 0.0}), ("log_pi", {})])
def test_what_rounding_hides_is_not_called_solved(name, options):
    """At such temperatures log-probabilities fall below −100, and pairs that pull on them weigh less than 1e-40."""
    loss = objective(name, **options)
    jobs = [(Problem.from_temperature(4, tau, seed), loss) for tau in (0.05, 0.1, 0.5) for seed in range(20)]
    solutions = solve_many(jobs, starts=1)
    assert {solution.status for solution in solutions} == {"converged", "no-stationary-point"}
    for (problem, _), solution in zip(jobs, solutions, strict=True):
        if solution.status == "converged":
            exact = closed_form(problem, loss).log_probs
            np.testing.assert_allclose(solution.policy.log_probs, exact, rtol=0.0, atol=1e-7)


def test_a_jacobian_whose_eigenvalues_are_not_found_breaks_no_batch(monkeypatch):
    """LAPACK gives up on one matrix of a batch by an exception: here on all that have a 7 in the corner."""
    real = torch.linalg.eigvals

    def eigvals(matrices):
        if (matrices[:, 0, 0] == 7.0).any():
            raise torch.linalg.LinAlgError("failed to converge")
        return real(matrices)

    monkeypatch.setattr(torch.linalg, "eigvals", eigvals)
    matrices = torch.diag_embed(torch.tensor([[1.0, 2.0], [7.0, 2.0], [3.0, 4.0]]))
    found = dense._spectrum(matrices)
    assert found[[0, 2]].sort(1).values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found[1].isnan().all()
