"""Training: against closed forms, against plain loops over pairs, alone and in a batch, and where it fails."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from didsim import (
    METRICS,
    OBJECTIVES,
    Pairs,
    Policy,
    PreferenceDataset,
    Problem,
    dpo_optimum,
    js,
    objective,
    train,
    train_many,
)
from didsim.engine import OPTIMISERS, SCHEDULES, Settings, evaluated, snapshot_pairs
from didsim.engine._draws import sampled_blocks
from didsim.engine._gradient import gradient_of, plain_gradient
from didsim.engine._plan import plan_runs
from didsim.engine._weights import DrawnWeights, TableWeights
from didsim.objectives import NextTokens, Responses, Tokens
from didsim.torch_bridge import threads

CONVERGED = 1e-10
"""A JS divergence, the bound that the project promises for exact training with a decaying step."""

ROUNDING = 1e-12
"""Relative to the largest entry of a gradient, or absolute on metrics of size 1 to 10: sums of a few hundred
float64 terms."""

TRAINED = 1e-10
"""Absolute, on log-probabilities after about a hundred float64 steps: RMSprop divides rounding errors of
1e-16 by gradients that may be 1e-5 small, and each step adds to them."""

TRAINED_FLOAT32 = 2e-5
"""The same in float32 after 20 steps: one rounding of a logit near 5 is 5e-7, and each step makes one."""

DIFFERENCES = 1e-7
"""Relative, of a central difference with h = 1e-5: h² in the slope and 1e-16/h in rounding."""

PAPER_METHODS = ("dpo", "slic", "orpo", "simpo", "cal_dpo")

FINISHED = re.compile(r"completed|diverged at step [1-9]\d*")


def grid(name: str) -> list:
    """Every point of the search grid of an objective, but the marginal prior: with one prompt it is π itself."""
    return [objective(name, **point) for point in OBJECTIVES[name].grid() if point.get("prior") != "marginal"]


def test_a_loss_at_one_policy_is_differentiated_in_the_mean_over_prompts():
    """Of DPO at π_ref the gradient by logits is (l − w)/2, for each prompt as often as it is asked."""
    log_probs = np.log([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    reference, chosen, rejected = (Policy.from_log_probs(x) for x in (log_probs, log_probs[::-1], log_probs))
    problem = Problem(reference, reference, rejected, chosen, np.array([0.25, 0.75]))
    pairs, logits = snapshot_pairs(problem, reference, objective("dpo"))
    losses, gradient = evaluated(objective("dpo")(pairs), pairs, logits)
    np.testing.assert_allclose(losses, np.log(2.0), atol=1e-15)
    expected = 0.5 * (rejected.probs - chosen.probs) * np.array([[0.25], [0.75]])
    np.testing.assert_allclose(gradient, expected.ravel(), atol=1e-15)


def test_mi_dpo_under_the_marginal_of_a_single_prompt_has_nothing_to_learn():
    history = train(skewed_problem(5), objective("mi_dpo", prior="marginal"), steps=5, dtype="float64")
    np.testing.assert_allclose(history.metrics["loss"], math.log(2.0), rtol=ROUNDING)
    np.testing.assert_allclose(history.policy.log_probs, history.problem.reference.log_probs, rtol=0.0, atol=ROUNDING)


def plain_gradients(groups, parameters, weights):
    """The definition, group by group."""
    return torch.cat([plain_gradient(group, parameters[group.runs], weights) for group in groups])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors on a shared machine: more threads only wait for each other."""
    with threads(1):
        yield


def gapped_problem(num_classes: int, seed: int = 0) -> Problem:
    """The first, the last and a middle class have probability zero under every distribution."""
    theta = np.random.default_rng(seed).standard_normal(num_classes)
    theta[[0, num_classes // 2, -1]] = -np.inf
    return Problem.from_policies(Policy.from_logits(theta), Policy.from_logits(0.4 * theta))


def skewed_problem(num_classes: int, seed: int = 0) -> Problem:
    """Four unrelated distributions: nothing that holds for the DID construction alone survives here."""
    draws = np.random.default_rng(seed).standard_normal((4, num_classes))
    return Problem(*(Policy.from_logits(theta) for theta in draws))


def several_problems(num_classes: int) -> list[Problem]:
    return [
        Problem.from_temperature(num_classes, tau=0.5, seed=1),
        skewed_problem(num_classes, seed=2),
        gapped_problem(num_classes, seed=3),
    ]


def assert_rows_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Compare gradients [R, K], each run relative to its own largest entry."""
    scale = theirs.abs().amax(dim=1, keepdim=True)
    assert bool((scale > 0).all())
    np.testing.assert_allclose((ours / scale).numpy(), (theirs / scale).numpy(), rtol=0.0, atol=ROUNDING)


def assert_same_history(ours, theirs, tolerance: float) -> None:
    assert ours.status == theirs.status == "completed"
    assert ours.steps.tolist() == theirs.steps.tolist()
    np.testing.assert_allclose(ours.policy.log_probs, theirs.policy.log_probs, rtol=0.0, atol=tolerance)
    for name, values in theirs.metrics.items():
        # the loss of Cal-DPO reaches 5e5 on the paper's grid, hence relative too
        np.testing.assert_allclose(ours.metrics[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


# --- closed forms ---------------------------------------------------------------------------------------

TEMPERATURES = (0.5, 2.0, 4.0)
EXACT = {"mode": "population", "dtype": "float64", "learning_rate": 1e-2, "record_every": 100}


def paper_problems() -> list[Problem]:
    return [Problem.from_temperature(32, tau=tau, seed=seed) for tau in TEMPERATURES for seed in (0, 1)]


def test_exact_dpo_reaches_the_target():
    jobs = [(problem, objective("dpo")) for problem in paper_problems()]
    for history in train_many(jobs, steps=1500, schedule="cosine", **EXACT):
        assert history.metrics["js_target"][0] > 1e-3
        assert history.metrics["js_target"][-1] < CONVERGED
        assert js(history.policy, history.problem.target) < CONVERGED


def test_a_constant_step_stays_above_its_floor():
    """RMSprop with a constant step of 1e-2 ends in a cycle about that wide, and JS is quadratic in it."""
    jobs = [(problem, objective("dpo")) for problem in paper_problems()]
    for history in train_many(jobs, steps=1500, schedule="constant", **EXACT):
        settled = history.metrics["js_target"][-5:]
        assert settled.max() < 1e-4
        assert history.metrics["js_target"].min() > 100 * CONVERGED


def test_exact_training_of_log_pi_reaches_the_did_and_not_the_target():
    jobs = [(problem, objective("log_pi")) for problem in paper_problems()]
    for history in train_many(jobs, steps=3000, schedule="cosine", **EXACT):  # further than the target
        assert history.metrics["js_did"][-1] < CONVERGED
        apart = js(history.problem.target, history.problem.did)
        assert apart > 0.01
        assert history.metrics["js_target"][-1] == pytest.approx(apart, rel=1e-4)  # √CONVERGED, with room


def test_sampled_dpo_approaches_the_target():
    """Its error is that of averaging some 10⁵ late pairs: (K − 1)/n is 3e-4 in χ², an eighth of it in JS."""
    jobs = [(problem, objective("dpo")) for problem in paper_problems()]
    for history in train_many(jobs, steps=2000, schedule="cosine", learning_rate=1e-2, record_every=2000):
        assert history.metrics["js_target"][-1] < 2e-4
        assert history.metrics["js_target"][-1] < history.metrics["js_target"][0] / 40


@pytest.mark.parametrize("beta", [0.2, 0.5, 3.0])
def test_dpo_reaches_the_target_of_a_problem_built_for_its_beta(beta):
    rng = np.random.default_rng(5)
    reference, target = (Policy.from_logits(rng.standard_normal(10)) for _ in range(2))
    problem = Problem.from_policies(reference, target, beta=beta)
    history = train(problem, objective("dpo", beta=beta), steps=2500, schedule="cosine", **EXACT)
    assert history.metrics["js_target"][-1] < CONVERGED


def test_dpo_at_another_beta_reaches_the_closed_form_of_that_beta():
    problem = Problem.from_temperature(10, tau=2.0, seed=3)
    history = train(problem, objective("dpo", beta=0.5), steps=2500, schedule="cosine", **EXACT)
    assert js(history.policy, dpo_optimum(problem, beta=0.5)) < CONVERGED
    assert history.metrics["js_target"][-1] > 1e-3


# --- gradients ------------------------------------------------------------------------------------------


def gradient_batch(name: str, num_classes: int = 9):
    """A plan with the grid of an objective on several problems, and logits away from the reference."""
    jobs = [(problem, loss) for problem in several_problems(num_classes) for loss in grid(name)]
    plan = plan_runs(jobs, Settings(mode="population", steps=1, dtype="float64", metrics=("js_target",)))
    noise = np.random.default_rng(7).standard_normal(plan.initial.shape)
    return plan, plan.initial + torch.tensor(noise)


def drawn_pairs(plan, num_classes: int, batch_size: int = 40):
    """One step of pairs of each stream, uniform over the classes that have a positive probability."""
    rng = np.random.default_rng(8)
    sides = [
        [rng.choice(np.flatnonzero(stream.problem.chosen.probs), (1, batch_size)) for stream in plan.streams]
        for _ in range(2)
    ]
    return (*sides, 1, num_classes, torch.float64)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_fused_gradient_is_the_plain_one_over_a_table(name):
    plan, logits = gradient_batch(name)
    weights = TableWeights.from_joint(plan.joint("float64"))
    plain = plain_gradients(plan.groups, logits, weights)
    assert_rows_close(gradient_of(plan.groups, logits, weights), plain)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_fused_gradient_is_the_plain_one_over_drawn_pairs(name):
    plan, logits = gradient_batch(name)
    weights = DrawnWeights.from_draws(*drawn_pairs(plan, 9)).at(0)
    plain = plain_gradients(plan.groups, logits, weights)
    assert_rows_close(gradient_of(plan.groups, logits, weights), plain)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("gradient", [plain_gradients, gradient_of])
def test_a_table_and_a_list_of_the_same_pairs_give_the_same_gradient(name, gradient):
    plan, logits = gradient_batch(name)
    pairs = drawn_pairs(plan, 9)
    listed = gradient(plan.groups, logits, DrawnWeights.from_draws(*pairs).at(0))
    assert_rows_close(gradient(plan.groups, logits, TableWeights.from_draws(*pairs).at(0)), listed)


def test_gradients_of_mixed_objectives_are_those_of_each():
    problems = several_problems(9)
    jobs = [(problem, loss) for problem in problems for name in PAPER_METHODS for loss in grid(name)]
    plan = plan_runs(jobs, Settings(mode="population", steps=1, dtype="float64"))
    logits = plan.initial + torch.tensor(np.random.default_rng(9).standard_normal((len(jobs), 9)))
    before = logits.clone()
    weights = TableWeights.from_joint(plan.joint("float64"))
    assert_rows_close(gradient_of(plan.groups, logits, weights), plain_gradients(plan.groups, logits, weights))
    np.testing.assert_array_equal(logits.numpy(), before.numpy())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_sums_to_zero_over_the_classes(name):
    """Adding a constant to all logits changes no policy."""
    plan, logits = gradient_batch(name)
    gradient = gradient_of(plan.groups, logits, TableWeights.from_joint(plan.joint("float64")))
    total = gradient[:, :9].sum(dim=1).abs() / gradient.abs().amax(dim=1)
    assert float(total.max()) < ROUNDING


# --- independent loops over pairs -----------------------------------------------------------------------

FORMULAS = {
    "dpo": lambda w, rw, y, ry, *, beta: math.log1p(math.exp(-beta * ((w - rw) - (y - ry)))),
    "log_pi": lambda w, rw, y, ry, *, beta: math.log1p(math.exp(-beta * (w - y))),
    "cdpo": lambda w, rw, y, ry, *, beta, label_smoothing: (
        (1 - label_smoothing) * math.log1p(math.exp(-beta * (w - rw - y + ry)))
        + label_smoothing * math.log1p(math.exp(beta * (w - rw - y + ry)))
    ),
    "slic": lambda w, rw, y, ry, *, delta, lam: max(0.0, delta - w + y) - lam * w,
    "orpo": lambda w, rw, y, ry, *, lam: (
        -w - lam * math.log(1 / (1 + (math.exp(y) / (1 - math.exp(y))) / (math.exp(w) / (1 - math.exp(w)))))
    ),
    "simpo": lambda w, rw, y, ry, *, beta, gamma, gamma_form: math.log1p(math.exp(gamma - beta * (w - y))),
    "cal_dpo": lambda w, rw, y, ry, *, beta, calibration_weight: (
        math.log1p(math.exp(-(w - rw) + (y - ry)))
        + calibration_weight * ((w - rw - 1 / (2 * beta)) ** 2 + (y - ry + 1 / (2 * beta)) ** 2)
    ),
}
"""Losses of one pair by their textbook formulas: log π and log π_ref of y_w, then of y_l."""


def loss_by_hand(problem: Problem, log_pi: np.ndarray, loss) -> float:
    """Add up π_w(i)·π_l(j)·ℓ(i, j) pair by pair; a pair that is never drawn is never looked at."""
    formula, log_ref, total = FORMULAS[loss.name], problem.reference.log_probs, 0.0
    for i, p in enumerate(problem.chosen.probs):
        for j, q in enumerate(problem.rejected.probs):
            if p * q > 0.0:
                total += p * q * formula(log_pi[i], log_ref[i], log_pi[j], log_ref[j], **loss.hyperparameters)
    return total


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("make", [skewed_problem, gapped_problem])
def test_the_recorded_loss_is_a_double_loop_over_pairs(name, make):
    problem = make(7, seed=4)
    jobs = [(problem, loss) for loss in grid(name)]
    for history in train_many(jobs, steps=30, learning_rate=0.01, dtype="float64", batch_size=16, record_every=30):
        for policy, recorded in zip((problem.reference, history.policy), history.metrics["loss"], strict=True):
            expected = loss_by_hand(problem, policy.log_probs, history.loss)
            assert recorded == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_recorded_loss_is_that_of_a_batch_of_all_weighted_pairs(name):
    """The same for every registered objective, on pairs that are made by hand and not by the engine."""
    problem = skewed_problem(5, seed=6)
    for history in train_many([(problem, loss) for loss in grid(name)[:12]], steps=20, dtype="float64"):
        pairs = all_pairs(problem, history)
        total = (pairs.weights * history.loss(pairs)).sum().item()
        assert history.metrics["loss"][-1] == pytest.approx(total, rel=ROUNDING)


def all_pairs(problem: Problem, history) -> Pairs:
    """Every pair of classes as one batch [K²] of responses of one token, with the weight that it has."""
    chosen, rejected = (side.ravel() for side in np.indices((problem.num_classes,) * 2))
    log_pi, log_ref = (torch.tensor(p.log_probs) for p in (history.policy, problem.reference))
    mean_kl = (log_pi.exp() * (log_pi - log_ref)).sum()

    def side(classes: np.ndarray) -> Responses:
        tokens = Tokens(
            log_pi[classes, None],
            torch.ones(len(classes), 1, dtype=torch.bool),
            log_ref[classes, None],
            NextTokens(*(table.expand(len(classes), 1, -1) for table in (log_pi, log_ref))),
        )
        zeta = None if history.prior is None else torch.tensor(history.prior.log_probs)[classes]
        ones = torch.ones(len(classes), dtype=torch.float64)
        return Responses(log_pi[classes], log_ref[classes], ones, tokens, log_pi[classes], zeta, mean_kl)

    weights = problem.chosen.probs[chosen] * problem.rejected.probs[rejected]
    return Pairs(side(chosen), side(rejected), torch.tensor(weights))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_plain_gradient_is_the_slope_of_the_double_loop(name):
    problem, step = skewed_problem(5, seed=7), 1e-5
    losses = grid(name)
    plan = plan_runs([(problem, loss) for loss in losses], Settings(mode="population", steps=1, dtype="float64"))
    theta = np.random.default_rng(10).standard_normal(5)
    gradient = plain_gradients(
        plan.groups, torch.tensor(np.tile(theta, (len(losses), 1))), TableWeights.from_joint(plan.joint("float64"))
    )
    for run, position in enumerate(plan.order):

        def value(logits, loss=losses[position]):
            return loss_by_hand(problem, Policy.from_logits(logits).log_probs, loss)

        slopes = [(value(theta + step * e) - value(theta - step * e)) / (2 * step) for e in np.eye(5)]
        scale = max(abs(slope) for slope in slopes)
        # a loss of 5e5 (Cal-DPO at β = 0.001) rounds at 1e-10, which the division by h makes 1e-5
        rounding = 1e-16 * abs(value(theta)) / step
        np.testing.assert_allclose(gradient[run].numpy(), slopes, rtol=0.0, atol=DIFFERENCES * scale + 10 * rounding)


TORCH_OPTIMISERS = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}

TORCH_LOSSES = {
    "dpo": lambda w, rw, y, ry: -torch.nn.functional.logsigmoid(0.7 * (w - rw - y + ry)),
    "slic": lambda w, rw, y, ry: torch.relu(0.5 - w + y) - 0.3 * w,
    "simpo": lambda w, rw, y, ry: -torch.nn.functional.logsigmoid(2.5 * (w - y) - 0.4),
}
OURS = {
    "dpo": objective("dpo", beta=0.7),
    "slic": objective("slic", delta=0.5, lam=0.3),
    "simpo": objective("simpo", beta=2.5, gamma=0.4),
}


def train_plainly(problem, pairs, loss, optimiser, *, learning_rate, clip, factor):
    """A training loop as anyone would write it in PyTorch; `pairs` are the classes of each step, [S, 2, B]."""
    logits = torch.nn.Parameter(torch.tensor(problem.reference.log_probs))
    log_ref = torch.tensor(problem.reference.log_probs)
    updates = TORCH_OPTIMISERS[optimiser]([logits], lr=learning_rate)
    for step, (chosen, rejected) in enumerate(pairs):
        updates.param_groups[0]["lr"] = learning_rate * factor(step / len(pairs))
        updates.zero_grad()
        log_pi = torch.log_softmax(logits, dim=0)
        loss(log_pi[chosen], log_ref[chosen], log_pi[rejected], log_ref[rejected]).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([logits], clip)
        updates.step()
    return torch.log_softmax(logits.detach(), dim=0).numpy()


@pytest.mark.parametrize("path", ["table", "gather"])
@pytest.mark.parametrize("name", TORCH_LOSSES)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_training_equals_a_plain_loop_in_pytorch(path, name, optimiser):
    """Schedules and clipping vary with the optimiser, so that each combination costs one run."""
    problem, steps = skewed_problem(6, seed=11), 80
    pairs = torch.tensor(np.stack(next(sampled_blocks(problem, 5, 24, steps)), axis=1))
    clip = {"sgd": 0.02, "rmsprop": 0.05, "adam": None}[optimiser]
    schedule = {"sgd": "constant", "rmsprop": "cosine", "adam": "linear"}[optimiser]
    factor = {
        "constant": lambda progress: 1.0,
        "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0,
        "linear": lambda progress: 1.0 - progress,
    }[schedule]
    expected = train_plainly(
        problem, pairs, TORCH_LOSSES[name], optimiser, learning_rate=0.02, clip=clip, factor=factor
    )
    history = train(
        problem,
        OURS[name],
        **{"steps": steps, "batch_size": 24, "seed": 5, "learning_rate": 0.02, "optimiser": optimiser},
        **{"clip": clip, "schedule": schedule, "dtype": "float64", "path": path},
    )
    np.testing.assert_allclose(history.policy.log_probs, expected, rtol=0.0, atol=TRAINED)


def test_the_plain_loops_cover_every_schedule():
    assert set(SCHEDULES) == {"constant", "cosine", "linear"}


# --- batches --------------------------------------------------------------------------------------------


def paper_grid_jobs(num_classes: int) -> list:
    """The 38 configurations of the paper's search, on each of several problems."""
    losses = [loss for name in PAPER_METHODS for loss in grid(name)]
    assert len(losses) == 38
    return [(problem, loss) for problem in several_problems(num_classes) for loss in losses]


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sampled", "path": "table"},
        {"mode": "sampled", "path": "gather"},
        {"mode": "dataset", "dataset": 50},
        {"mode": "population"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_run_in_a_batch_equals_the_same_run_alone(settings):
    jobs = paper_grid_jobs(12)
    common = {"steps": 25, "batch_size": 20, "record_every": 10, "dtype": "float64", "seed": 9, **settings}
    for (problem, loss), together in zip(jobs, train_many(jobs, **common), strict=True):
        assert together.problem is problem
        assert together.loss is loss
        assert_same_history(together, train(problem, loss, **common), TRAINED)


def test_a_float32_run_in_a_batch_equals_the_same_run_alone_up_to_rounding():
    jobs = paper_grid_jobs(12)
    common = {"steps": 20, "batch_size": 64, "record_every": 20, "metrics": ("js_target", "accuracy")}
    for job, together in zip(jobs, train_many(jobs, **common), strict=True):
        alone = train(*job, **common)
        np.testing.assert_allclose(together.policy.log_probs, alone.policy.log_probs, rtol=0.0, atol=TRAINED_FLOAT32)


def test_the_order_of_jobs_does_not_matter():
    jobs = paper_grid_jobs(8)
    shuffled = np.random.default_rng(0).permutation(len(jobs))
    common = {"steps": 40, "batch_size": 20, "record_every": 20, "dtype": "float64"}
    in_order = train_many(jobs, **common)
    for position, history in zip(shuffled, train_many([jobs[i] for i in shuffled], **common), strict=True):
        assert history.problem is jobs[position][0]
        assert_same_history(history, in_order[position], TRAINED)


def test_a_job_that_is_given_twice_gives_the_same_twice():
    problem = skewed_problem(8)
    first, _, second = train_many(
        [(problem, objective("dpo")), (problem, objective("slic")), (problem, objective("dpo"))], steps=50
    )
    assert first.frame.equals(second.frame)


@pytest.mark.parametrize("name", PAPER_METHODS)
def test_a_table_of_pairs_trains_as_a_list_of_pairs_does(name):
    jobs = [(problem, loss) for problem in several_problems(10) for loss in grid(name)[::3]]
    common = {"steps": 100, "batch_size": 16, "dtype": "float64", "record_every": 50}
    for table, listed in zip(
        train_many(jobs, path="table", **common), train_many(jobs, path="gather", **common), strict=True
    ):
        assert_same_history(table, listed, TRAINED)


@pytest.mark.parametrize("num_classes", [2, 63, 64, 65, 90])
def test_the_automatic_path_gives_the_same_numbers_at_every_size(num_classes):
    job = (skewed_problem(num_classes), objective("simpo"))
    common = {"steps": 30, "dtype": "float64", "metrics": ("js_did",), "batch_size": 50}
    auto, table, gather = (train(*job, path=path, **common) for path in ("auto", "table", "gather"))
    assert_same_history(auto, table, TRAINED)
    assert_same_history(auto, gather, TRAINED)


def test_objectives_of_the_same_name_are_kept_apart():
    """A user's variant may keep the name it was copied from."""
    mine = dataclasses.replace(OBJECTIVES["dpo"], score=OBJECTIVES["log_pi"].score).bind(beta=1.0)
    problem = Problem.from_temperature(8, tau=2.0, seed=0)
    common = {"steps": 50, "dtype": "float64"}
    together = train_many([(problem, objective("dpo")), (problem, mine)], **common)
    for history in together:
        assert_same_history(history, train(problem, history.loss, **common), TRAINED)


# --- records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "record_every", "expected"),
    [(10, 4, [0, 4, 8, 10]), (10, 5, [0, 5, 10]), (3, 50, [0, 3]), (1, 1, [0, 1]), (2, 1, [0, 1, 2])],
)
def test_the_first_and_the_last_step_are_always_recorded(steps, record_every, expected):
    history = train(skewed_problem(4), objective("dpo"), steps=steps, record_every=record_every, batch_size=2)
    assert history.steps.tolist() == expected
    assert history.frame["step"].tolist() == expected


def test_the_frame_has_the_step_and_each_metric():
    history = train(skewed_problem(4), objective("dpo"), steps=2)
    assert list(history.frame.columns) == ["step", *METRICS]
    assert set(history.metrics) == set(METRICS)
    some = train(skewed_problem(4), objective("dpo"), steps=2, metrics=("js_did", "loss"))
    assert list(some.frame.columns) == ["step", "js_did", "loss"]


def test_recording_more_often_changes_no_number():
    common = {"steps": 24, "batch_size": 8}
    rarely = train(skewed_problem(5), objective("orpo"), record_every=24, **common).frame
    often = train(skewed_problem(5), objective("orpo"), record_every=1, **common).frame
    assert often.iloc[[0, 24]].reset_index(drop=True).equals(rarely)


def test_training_for_fewer_steps_is_the_start_of_training_for_more():
    long = train(skewed_problem(5), objective("dpo"), steps=90, record_every=30, batch_size=8)
    short = train(skewed_problem(5), objective("dpo"), steps=60, record_every=30, batch_size=8)
    assert long.frame.iloc[:3].equals(short.frame)


def metrics_by_hand(problem: Problem, policy: Policy, loss, reward: np.ndarray) -> dict[str, float]:
    """Every metric from probabilities alone, class by class; classes outside the support are left out."""
    inside = problem.reference.probs > 0.0
    p, ref, target, chosen, rejected = (
        distribution.probs[inside]
        for distribution in (policy, problem.reference, problem.target, problem.chosen, problem.rejected)
    )

    def normalised(x):
        return x / x.sum()

    def kl(a, b):
        return float(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)))

    def js(a, b):
        return 0.5 * kl(a, (a + b) / 2) + 0.5 * kl(b, (a + b) / 2)

    learnt = normalised(p / ref)
    ranked = sum(
        chosen[i] * rejected[j] * (1.0 if reward[i] > reward[j] else 0.5 if reward[i] == reward[j] else 0.0)
        for i in range(len(p))
        for j in range(len(p))
    )
    return {
        "loss": loss_by_hand(problem, policy.log_probs, loss),
        "js_target": js(target, p),
        "mutual_information": 0.0,
        "js_did": js(normalised(target / ref), p),
        "kl_target_policy": kl(target, p),
        "kl_policy_target": kl(p, target),
        "log_pi_chosen": float(chosen @ np.log(p)),
        "log_pi_rejected": float(rejected @ np.log(p)),
        "margin": float((chosen - rejected) @ np.log(p / ref)),
        "accuracy": float(ranked),
        "did_entropy": -float(learnt @ np.log(learnt)),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [skewed_problem, gapped_problem])
@pytest.mark.parametrize("name", ["dpo", "simpo", "log_pi"])
def test_every_metric_is_what_its_name_says(name, make, dtype):
    """At the start all of DPO's rewards are ties; at the end none are."""
    problem, loss = make(7, seed=12), objective(name)
    inside = problem.reference.probs > 0.0
    history = train(problem, loss, steps=60, record_every=60, learning_rate=0.01, batch_size=8, dtype=dtype)
    for row, policy in enumerate((problem.reference, history.policy)):
        reward = policy.log_probs[inside] - (problem.reference.log_probs[inside] if name == "dpo" else 0.0)
        expected = metrics_by_hand(problem, policy, loss, reward)
        assert set(expected) == set(METRICS)
        recorded = {metric: values[row] for metric, values in history.metrics.items()}
        assert recorded == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


def test_the_initial_policy_is_where_training_starts():
    problem, start = skewed_problem(5), Policy.from_logits([0.5, -0.2, 0.1, 1.0, -1.0])
    history = train(problem, objective("dpo"), steps=4, initial_policy=start, dtype="float64")
    assert history.metrics["js_target"][0] == pytest.approx(float(js(start, problem.target)), abs=ROUNDING)
    assert history.metrics["log_pi_chosen"][0] == pytest.approx(
        float(problem.chosen.probs @ start.log_probs), abs=ROUNDING
    )
    # and the log-ratio still refers to the reference
    assert history.metrics["loss"][0] == pytest.approx(
        loss_by_hand(problem, start.log_probs, history.loss), abs=ROUNDING
    )


@pytest.mark.parametrize("settings", [{"path": "table"}, {"path": "gather"}, {"mode": "population"}], ids=str)
def test_the_same_call_gives_the_same_bits(settings):
    jobs = paper_grid_jobs(16)[::5]
    common = {"steps": 40, "batch_size": 32, "record_every": 10, **settings}
    with threads(1):
        first, second = train_many(jobs, **common), train_many(jobs, **common)
    for ours, again in zip(first, second, strict=True):
        assert ours.frame.equals(again.frame)
        np.testing.assert_array_equal(ours.policy.log_probs, again.policy.log_probs)


# --- divergence -----------------------------------------------------------------------------------------


def assert_honest(history) -> None:
    """No trace holds NaN or an infinity; a run without a policy says that it diverged, and when."""
    assert FINISHED.fullmatch(history.status)
    assert np.all(np.isfinite(history.frame.to_numpy(dtype=float)))
    assert (history.policy is None) == history.status.startswith("diverged")
    assert history.steps[0] == 0
    if history.policy is None:
        assert history.steps[-1] < int(history.status.split()[-1])
    else:
        assert not np.any(np.isnan(history.policy.log_probs))


def overflowing_job(num_classes: int = 8) -> tuple:
    """The target log-ratio 1/(2β) = 5e38 is infinite in float32, so the first gradient is not a number."""
    return skewed_problem(num_classes), objective("cal_dpo", beta=1e-39)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("learning_rate", [1e4, 1e38, 1e300])
def test_a_huge_learning_rate_leaves_an_honest_record(learning_rate, dtype, optimiser):
    jobs = [(Problem.from_temperature(8, tau=2.0, seed=0), objective(name)) for name in ("dpo", "slic", "orpo")]
    common = {"steps": 30, "record_every": 1, "batch_size": 32}
    for history in train_many(jobs, learning_rate=learning_rate, dtype=dtype, optimiser=optimiser, **common):
        assert_honest(history)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_learning_rate_beyond_float32_diverges_at_the_first_step(optimiser):
    history = train(
        skewed_problem(8), objective("dpo"), learning_rate=1e300, steps=20, record_every=1, optimiser=optimiser
    )
    assert history.status == "diverged at step 1"
    assert history.policy is None
    assert history.steps.tolist() == [0]


def test_a_run_without_a_gradient_survives_a_learning_rate_that_ruins_the_others():
    """Uniform everywhere and K a power of two: the exact gradient is exactly zero."""
    uniform = Policy.from_probs(np.full(8, 0.125))
    still = Problem(uniform, uniform, uniform, uniform)
    common = {"mode": "population", "learning_rate": 1e38, "steps": 20, "record_every": 4}
    moved, kept = train_many([(skewed_problem(8), objective("dpo")), (still, objective("dpo"))], **common)
    assert moved.status.startswith("diverged at step")
    assert kept.status == "completed"
    np.testing.assert_allclose(kept.policy.probs, 0.125, rtol=0.0, atol=ROUNDING)
    assert kept.steps.tolist() == [0, 4, 8, 12, 16, 20]


def test_a_run_that_diverges_leaves_the_others_untouched():
    others = [(skewed_problem(8), objective(name)) for name in ("cal_dpo", "dpo", "slic")]
    jobs = [*others[:2], overflowing_job(), *others[2:]]
    common = {"steps": 25, "record_every": 10}
    histories = train_many(jobs, **common)
    diverged = histories.pop(2)
    assert diverged.policy is None
    assert diverged.steps.tolist() == [0]
    assert_honest(diverged)
    for history, job in zip(histories, others, strict=True):
        assert_same_history(history, train(*job, **common), TRAINED_FLOAT32)


@pytest.mark.parametrize("record_every", [1, 7, 20])
def test_the_step_of_divergence_is_the_first_that_was_not_finite(record_every):
    """Not the next step that happened to be recorded."""
    history = train(*overflowing_job(), steps=20, record_every=record_every)
    assert history.status == "diverged at step 1"


def test_divergence_at_the_last_step_is_noticed():
    history = train(*overflowing_job(), steps=1, record_every=50)
    assert history.status == "diverged at step 1"
    assert history.policy is None


# --- classes of probability zero, a single class, extreme logits ----------------------------------------


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("settings", [{"path": "table"}, {"path": "gather"}, {"mode": "population"}], ids=str)
def test_a_class_of_probability_zero_stays_at_exactly_zero(settings, optimiser):
    problem = gapped_problem(8)
    jobs = [(problem, OBJECTIVES[name].bind()) for name in OBJECTIVES]
    outside = problem.reference.probs == 0.0
    assert outside.sum() == 3
    for history in train_many(jobs, steps=30, learning_rate=0.05, optimiser=optimiser, **settings):
        assert_honest(history)
        assert history.status == "completed"
        assert np.all(history.policy.log_probs[outside] == -np.inf)
        assert np.all(history.policy.probs[~outside] > 0.0)
        assert history.policy.probs.sum() == pytest.approx(1.0, abs=ROUNDING)


@pytest.mark.parametrize("name", PAPER_METHODS)
def test_classes_of_probability_zero_change_nothing_for_the_others(name):
    """Masking a class equals deleting it."""
    problem, loss = gapped_problem(9), objective(name)
    inside = problem.reference.probs > 0.0

    def kept(policy):
        return Policy.from_logits(policy.log_probs[inside])

    smaller = Problem(*(kept(p) for p in (problem.reference, problem.target, problem.rejected, problem.chosen)))
    common = {"mode": "population", "steps": 60, "dtype": "float64", "learning_rate": 0.01}
    whole, part = train(problem, loss, **common), train(smaller, loss, **common)
    np.testing.assert_allclose(whole.policy.log_probs[inside], part.policy.log_probs, rtol=0.0, atol=TRAINED)
    for metric, values in part.metrics.items():
        np.testing.assert_allclose(whole.metrics[metric], values, rtol=TRAINED, atol=TRAINED, err_msg=metric)


def outside_the_reference() -> Problem:
    """Class 2 is rejected half of the time, and the reference excludes it: log π/π_ref is log 0/0."""
    reference = Policy.from_probs([0.5, 0.5, 0.0])
    return Problem(reference, reference, Policy.from_probs([0.2, 0.3, 0.5]), reference)


def test_rejected_classes_outside_the_reference_are_refused():
    with pytest.raises(ValueError, match="rejected"):
        train(outside_the_reference(), objective("dpo"), steps=2)


def test_a_dataset_outside_the_reference_is_refused():
    rows = PreferenceDataset.from_classes([0, 2], [1, 1], num_classes=3)
    reference = Policy.from_probs([0.5, 0.5, 0.0])
    problem = Problem(reference, reference, reference, reference)
    with pytest.raises(ValueError, match="dataset"):
        train(problem, objective("dpo"), mode="dataset", dataset=rows, steps=2)


@pytest.mark.parametrize("path", ["table", "gather"])
def test_dpo_on_a_single_class_has_loss_log_2_and_gradient_zero(path):
    problem = Problem.from_temperature(1, tau=2.0, seed=0)
    history = train(problem, objective("dpo"), steps=5, path=path, record_every=1)
    np.testing.assert_allclose(history.metrics["loss"], math.log(2.0), rtol=0.0, atol=ROUNDING)
    assert history.policy.log_probs.tolist() == [0.0]
    plan = plan_runs([(problem, objective("dpo"))], Settings(mode="population", steps=1))
    weights = TableWeights.from_joint(plan.joint("float32"))
    for gradient in (plain_gradients, gradient_of):
        assert gradient(plan.groups, torch.zeros(1, 1), weights).tolist() == [[0.0]]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_single_class_leaves_an_honest_record(name):
    """The odds of a class that is certain are infinite: ORPO may stop, but not record NaN."""
    assert_honest(train(Problem.from_temperature(1, tau=2.0, seed=0), objective(name), steps=5, record_every=1))


def test_log_probabilities_below_minus_ten_thousand_are_not_cut_off():
    """Half of the pairs are of one class with itself; the others have the margins ±20 000."""
    half = Policy.from_probs([0.5, 0.5])
    problem = Problem(Policy.from_logits([1e4, -1e4]), half, half, half)
    history = train(
        problem, objective("log_pi"), mode="population", dtype="float64", steps=1, metrics=("loss", "log_pi_chosen")
    )
    assert history.metrics["log_pi_chosen"][0] == pytest.approx(-1e4, rel=ROUNDING)
    assert history.metrics["loss"][0] == pytest.approx(0.5 * math.log(2.0) + 0.25 * 2e4, rel=ROUNDING)


def test_divergences_stay_finite_between_policies_that_are_a_thousand_nats_apart():
    reference = Policy.from_logits([0.0, -1000.0])
    problem = Problem(reference, Policy.from_probs([0.5, 0.5]), reference, reference)
    history = train(problem, objective("dpo"), steps=1, metrics=("js_target", "kl_policy_target", "kl_target_policy"))
    assert history.metrics["kl_policy_target"][0] == pytest.approx(math.log(2.0), rel=ROUNDING)
    assert history.metrics["kl_target_policy"][0] == pytest.approx(500.0 - math.log(2.0), rel=ROUNDING)
    # the policies are (½, ½) and (1, 0), their mean is (¾, ¼)
    expected = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2.0)) + 0.5 * math.log(4 / 3)
    assert history.metrics["js_target"][0] == pytest.approx(expected, rel=ROUNDING)


class TestKeptPolicies:
    SETTINGS = {"steps": 7, "record_every": 3, "batch_size": 16, "seed": 3}  # noqa: RUF012 - never changed

    def test_they_are_those_at_the_recorded_steps(self):
        problem = Problem.from_temperature(5, 2.0, 1)
        history = train(problem, objective("dpo"), keep_policies=True, **self.SETTINGS)
        assert history.policies.log_probs.shape == (4, 5)
        np.testing.assert_array_equal(history.policies.log_probs[-1], history.policy.log_probs)
        for number, steps in ((1, 3), (2, 6)):
            shorter = train(problem, objective("dpo"), **{**self.SETTINGS, "steps": steps})
            np.testing.assert_array_equal(history.policies.log_probs[number], shorter.policy.log_probs)

    def test_each_run_of_a_batch_has_its_own_whatever_the_order(self):
        problem = Problem.from_temperature(5, 2.0, 1)
        names = ("simpo", "dpo", "kto", "simpo")
        batch = train_many([(problem, objective(name)) for name in names], keep_policies=True, **self.SETTINGS)
        for history in batch:
            np.testing.assert_array_equal(history.policies.log_probs[-1], history.policy.log_probs)
            np.testing.assert_allclose(
                np.array([js(problem.target, policy) for policy in history.policies.probs]),
                history.metrics["js_target"],
                atol=1e-15,
            )

    def test_with_prompts_there_is_one_row_for_each(self):
        problem = Problem.from_temperature(5, 2.0, 1, num_prompts=2)
        history = train(problem, objective("dpo"), keep_policies=True, **self.SETTINGS)
        assert history.policies.log_probs.shape == (4, 2, 5)

    def test_a_run_that_diverged_keeps_those_before(self):
        problem = Problem.from_temperature(5, 2.0, 1)
        settings = {"optimiser": "sgd", "learning_rate": 1e300, "clip": None, "dtype": "float64", "record_every": 1}
        history = train(problem, objective("exponential"), keep_policies=True, steps=4, **settings)
        assert history.policy is None
        assert len(history.policies.log_probs) == len(history.steps) < 5

    def test_they_are_not_kept_unless_asked_for(self):
        assert train(Problem.from_temperature(5, 2.0, 1), objective("dpo"), **self.SETTINGS).policies is None
