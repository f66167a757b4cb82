"""Expected losses and gradients written out in loops, on two problems at once; what spaces refuse, and extremes."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import didsim as ds
from didsim import Policy, PreferenceDataset, Problem, Sequences, objective, train, train_many
from didsim.engine import Settings
from didsim.engine._gradient import gradient_of, plain_losses
from didsim.engine._plan import plan_runs
from didsim.engine._weights import DrawnWeights, TableWeights

LOOPS = 1e-11
"""Absolute, on losses and gradients of order 1."""

SPACE = Sequences(2, 2)
RESPONSES = [s for length in range(3) for s in itertools.product(range(2), repeat=length)]
DECISIONS = [
    [(RESPONSES.index(s[:t]), s[t] if t < len(s) else 2) for t in range(min(len(s) + 1, 2))] for s in RESPONSES
]
"""The prefix and the action, 2 for the end, of each decision of each sequence."""


def logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def world(seed: int, features: int | None) -> Problem:
    """Two prompts of unequal weight, sequences, and everything that a problem may bring."""
    rng = np.random.default_rng(seed)
    return Problem(
        *(Policy.from_logits(rng.standard_normal((2, 7))) for _ in range(4)),
        prompts=rng.dirichlet([1.0, 3.0]),
        space=SPACE,
        features=None if features is None else rng.standard_normal((2, 9, features)),
        prior=Policy.from_logits(rng.standard_normal(7)),
        token_weights={name: rng.uniform(0.0, 2.0, 9) for name in ("weights", "reward_mask", "kl_mask")},
    )


class Loops:
    """The policy of one run at parameters θ, decision by decision."""

    def __init__(self, problem: Problem, theta: torch.Tensor) -> None:
        self.problem, self.size = problem, 18 if problem.features is None else problem.features.shape[-1]
        self.beside = theta[self.size :]
        self.log_ref = torch.zeros(2, 3, 3, dtype=torch.float64)
        for x, c, a in itertools.product(range(2), range(3), range(3)):
            mass = [p for p, taken in zip(problem.reference.probs[x], DECISIONS, strict=True) if (c, a) in taken]
            self.log_ref[x, c, a] = math.log(sum(mass))
        self.log_ref = torch.log_softmax(self.log_ref, -1)
        if problem.features is None:
            scores = theta[: self.size].reshape(2, 3, 3)
        else:
            change = [[float(v) * theta[i] for i, v in enumerate(row)] for row in problem.features.reshape(18, -1)]
            scores = self.log_ref + torch.stack([sum(row) for row in change]).reshape(2, 3, 3)
        self.log_pi = torch.log_softmax(scores, -1)

    def total(self, y: int, term) -> torch.Tensor:
        return sum(term(c, a) for c, a in DECISIONS[y])

    def pi(self, x: int, y: int) -> torch.Tensor:
        return self.total(y, lambda c, a: self.log_pi[x, c, a])

    def h(self, x: int, y: int) -> torch.Tensor:
        return self.total(y, lambda c, a: self.log_pi[x, c, a] - self.log_ref[x, c, a])

    def forward(self, x: int, c: int) -> torch.Tensor:
        return (self.log_ref[x, c].exp() * (self.log_ref[x, c] - self.log_pi[x, c])).sum()

    def reverse(self, x: int, c: int) -> torch.Tensor:
        return (self.log_pi[x, c].exp() * (self.log_pi[x, c] - self.log_ref[x, c])).sum()

    def marginal(self, y: int) -> torch.Tensor:
        return sum(p * self.pi(x, y).exp() for x, p in enumerate(self.problem.prompts)).log()

    def given(self, name: str, c: int, a: int) -> float:
        return float(self.problem.token_weights[name][3 * c + a])


def softplus(x: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.logsigmoid(-x)


def tis_score(at: Loops, x: int, y: int, alpha: float) -> torch.Tensor:
    w = lambda c, a: at.given("weights", c, a)  # noqa: E731
    h = at.total(y, lambda c, a: w(c, a) * (at.log_pi[x, c, a] - at.log_ref[x, c, a]))
    return h - alpha * at.total(y, lambda c, a: w(c, a) * at.reverse(x, c))


def sparse_loss(at: Loops, x: int, w: int, r: int, beta: float, lam: float, learned: bool) -> torch.Tensor:
    def mask(number: int, c: int, a: int) -> torch.Tensor | float:
        if not learned:
            return at.given(("reward_mask", "kl_mask")[number], c, a)
        return at.beside[9 * number + 3 * c + a].clamp(min=0.0)

    def score(y: int) -> torch.Tensor:
        h = at.total(y, lambda c, a: mask(0, c, a) * (at.log_pi[x, c, a] - at.log_ref[x, c, a]))
        return h + at.total(y, lambda c, a: mask(1, c, a) * at.forward(x, c))

    size = sum(at.total(y, lambda c, a: mask(0, c, a) + mask(1, c, a)) for y in (w, r))
    return softplus(-beta * (score(w) - score(r))) + lam * size


def kto_loss(at: Loops, x: int, w: int, r: int, beta: float) -> torch.Tensor:
    kls = [sum(at.pi(x, y).exp() * at.h(x, y) for y in range(7)) for x in range(2)]
    z = sum(p * kl for p, kl in zip(at.problem.prompts, kls, strict=True)).detach()
    return 2.0 - torch.sigmoid(beta * (at.h(x, w) - z)) - torch.sigmoid(beta * (z - at.h(x, r)))


def rmipo_loss(at: Loops, x: int, w: int, r: int, beta: float) -> torch.Tensor:
    relevance = (at.pi(x, w) - at.marginal(w)) - (at.pi(x, r) - at.marginal(r))
    gamma = (0.3 + 1.3 * torch.exp(-relevance.clamp(min=0.0))).detach()
    return softplus(gamma - beta * (at.pi(x, w) / len(DECISIONS[w]) - at.pi(x, r) / len(DECISIONS[r])))


def learned_zeta(at: Loops, y: int) -> torch.Tensor:
    log_zeta = torch.log_softmax(at.beside[:9].reshape(3, 3), -1)
    return at.total(y, lambda c, a: log_zeta[c, a])


def mi_loss(at: Loops, x: int, w: int, r: int, alpha: float, log_zeta) -> torch.Tensor:
    return softplus(-alpha * (at.pi(x, w) - log_zeta(w) - at.pi(x, r) + log_zeta(r)))


def given_zeta(at: Loops, y: int) -> float:
    return float(at.problem.prior.log_probs[y])


def long(y: int) -> int:
    return len(DECISIONS[y])


def ld_part(at: Loops, x: int, y: int, shared: int, alpha: float) -> torch.Tensor:
    terms = [at.log_pi[x, c, a] - at.log_ref[x, c, a] for c, a in DECISIONS[y]]
    return sum(terms[:shared]) + alpha * sum(terms[shared:])


BY_HAND = {
    "kto": (objective("kto", beta=0.7), lambda at, x, w, r: kto_loss(at, x, w, r, 0.7)),
    "rmipo": (objective("rmipo", beta=1.5), lambda at, x, w, r: rmipo_loss(at, x, w, r, 1.5)),
    "tis_dpo": (
        objective("tis_dpo", beta=0.8, alpha=0.6),
        lambda at, x, w, r: softplus(-0.8 * (tis_score(at, x, w, 0.6) - tis_score(at, x, r, 0.6))),
    ),
    "ld_dpo": (
        objective("ld_dpo", beta=0.8, ld_alpha=0.3),
        lambda at, x, w, r: softplus(
            -0.8 * (ld_part(at, x, w, min(long(w), long(r)), 0.3) - ld_part(at, x, r, min(long(w), long(r)), 0.3))
        ),
    ),
    "sparse_po, given": (
        objective("sparse_po", beta=0.9, lam=0.2),
        lambda at, x, w, r: sparse_loss(at, x, w, r, 0.9, 0.2, learned=False),
    ),
    "sparse_po, learned": (
        objective("sparse_po", beta=0.9, lam=0.2, masks="learned"),
        lambda at, x, w, r: sparse_loss(at, x, w, r, 0.9, 0.2, learned=True),
    ),
    "mi_dpo, given": (
        objective("mi_dpo", alpha=1.2, prior="given"),
        lambda at, x, w, r: mi_loss(at, x, w, r, 1.2, lambda y: given_zeta(at, y)),
    ),
    "mi_dpo, learned": (
        objective("mi_dpo", alpha=1.2, prior="learned"),
        lambda at, x, w, r: mi_loss(at, x, w, r, 1.2, lambda y: learned_zeta(at, y)),
    ),
    "mi_dpo, marginal": (
        objective("mi_dpo", alpha=1.2, prior="marginal"),
        lambda at, x, w, r: mi_loss(at, x, w, r, 1.2, at.marginal),
    ),
}


def population(problem: Problem) -> list[tuple[float, int, int, int]]:
    chosen, rejected = problem.chosen.probs, problem.rejected.probs
    cells = itertools.product(range(2), range(7), range(7))
    return [(problem.prompts[x] * chosen[x, w] * rejected[x, r], x, w, r) for x, w, r in cells]


@pytest.mark.parametrize("features", [None, 3], ids=["free", "restricted"])
@pytest.mark.parametrize("path", ["table", "gather"])
def test_losses_and_gradients_of_two_problems_in_one_batch_are_loops_over_prompts_and_tokens(path, features):
    problems = [world(seed, features) for seed in (1, 2)]
    losses = {id(loss): by_hand for loss, by_hand in BY_HAND.values()}
    jobs = [(problem, loss) for loss, _ in BY_HAND.values() for problem in problems][1:]  # no regular pattern
    mode = "population" if path == "table" else "sampled"
    plan = plan_runs(jobs, Settings(steps=1, dtype="float64", path=path, mode=mode, metrics=()))
    parameters = plan.initial + torch.tensor(logits(*plan.initial.shape, seed=3))
    if path == "table":
        weights = TableWeights.from_joint(plan.joint("float64"))
        pairs = {id(problem): population(problem) for problem in problems}
    else:
        rng = np.random.default_rng(4)
        drawn = [(rng.integers(2, size=6), rng.integers(7, size=6), rng.integers(7, size=6)) for _ in plan.streams]
        sides = [[(7 * rows[0] + rows[side])[None] for rows in drawn] for side in (1, 2)]
        weights = DrawnWeights.from_draws(*sides, 2, 7, torch.float64).at(0)
        pairs = {
            id(stream.problem): [(1.0 / 6.0, *map(int, row)) for row in zip(*rows, strict=True)]
            for stream, rows in zip(plan.streams, drawn, strict=True)
        }
    gradients = gradient_of(plan.groups, parameters, weights)
    values = torch.cat([plain_losses(group, parameters[group.runs], weights) for group in plan.groups])
    for run, position in enumerate(plan.order):
        problem, loss = jobs[position]
        leaf = parameters[run].clone().requires_grad_()
        at, by_hand = Loops(problem, leaf), losses[id(loss)]
        expected = sum(share * by_hand(at, x, w, r) for share, x, w, r in pairs[id(problem)])
        assert values[run].item() == pytest.approx(expected.item(), abs=LOOPS)
        (slope,) = torch.autograd.grad(expected, leaf)
        np.testing.assert_allclose(gradients[run], slope, rtol=0.0, atol=LOOPS, err_msg=repr(loss))


def test_the_start_of_a_learned_prior_is_the_marginal_by_the_weights_of_the_prompts():
    problem = world(3, None)
    plan = plan_runs([(problem, objective("mi_dpo", prior="learned"))], Settings(steps=1, dtype="float64"))
    prior = SPACE.policy(plan.initial[0, 18:27].reshape(3, 3).numpy())
    expected = problem.prompts @ problem.reference.probs
    np.testing.assert_allclose(prior.probs, expected, rtol=0.0, atol=LOOPS)


def test_problems_that_differ_in_the_weights_of_their_prompts_alone_have_draws_of_their_own():
    policies = [Policy.from_logits(logits(2, 3, seed=k)) for k in range(4)]
    problems = [Problem(*policies, prompts=prompts) for prompts in ([0.1, 0.9], [0.9, 0.1])]
    jobs = [(problem, objective("dpo")) for problem in problems]
    for history in train_many(jobs, mode="population", dtype="float64", steps=2):
        alone = train(history.problem, objective("dpo"), mode="population", dtype="float64", steps=2)
        np.testing.assert_allclose(history.policy.log_probs, alone.policy.log_probs, rtol=0.0, atol=LOOPS)
        assert history.metrics["loss"] == pytest.approx(alone.metrics["loss"], abs=LOOPS)


def test_the_recorded_loss_of_a_dataset_is_a_sum_over_its_pairs_and_their_prompts():
    problem = Problem(*(Policy.from_logits(logits(2, 3, seed=k)) for k in range(4)), prompts=[0.3, 0.7])
    rows = PreferenceDataset.from_classes([0, 1, 2], [1, 2, 2], 3, prompts=[1, 0, 1], num_prompts=2)
    history = train(
        problem, objective("dpo", beta=0.5), mode="dataset", dataset=rows, steps=9, dtype="float64", learning_rate=0.1
    )
    h = history.policy.log_probs - problem.reference.log_probs
    margins = h[rows.prompts, rows.chosen] - h[rows.prompts, rows.rejected]
    assert history.metrics["loss"][-1] == pytest.approx(float(np.log1p(np.exp(-0.5 * margins)).mean()), abs=LOOPS)
    assert history.metrics["accuracy"][-1] == pytest.approx(float((1.0 + np.sign(margins)).mean() / 2.0), abs=LOOPS)


def test_margins_are_averages_over_prompts_by_their_weights():
    problem = Problem(*(Policy.from_logits(logits(2, 3, seed=k)) for k in range(4)), prompts=[0.1, 0.9])
    history = train(problem, objective("dpo"), steps=5, dtype="float64", learning_rate=0.1)
    h = history.policy.log_probs - problem.reference.log_probs
    expected = problem.prompts @ ((problem.chosen.probs - problem.rejected.probs) * h).sum(1)
    assert history.metrics["margin"][-1] == pytest.approx(float(expected), abs=LOOPS)
    odds = history.policy.probs / problem.reference.probs
    did = odds / odds.sum(1, keepdims=True)
    entropy = problem.prompts @ -(did * np.log(did)).sum(1)
    assert history.metrics["did_entropy"][-1] == pytest.approx(float(entropy), abs=LOOPS)


def test_float32_holds_a_prompt_whose_weight_it_would_round_to_zero():
    """Only the rare prompt leads to class 2: log π(2) is log 1e-60 and more, not −∞."""
    probs = np.array([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]])
    problem = Problem(*[Policy.from_probs(probs)] * 4, prompts=[1e-60, 1.0])
    for dtype in ("float32", "float64"):
        plan = plan_runs([(problem, objective("rmipo"))], Settings(steps=1, dtype=dtype))
        every = plan.groups[0].snapshot(plan.initial.to(getattr(torch, dtype))).every_response()
        assert every.log_marginal[0, 2].item() == pytest.approx(math.log(0.5e-60), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: replace(p, prior=[0.25] * 4), r"prior must be a didsim.Policy; got \[0.25"),
        (lambda p: replace(p, target=np.full(4, 0.25)), "target must be a didsim.Policy"),
        (lambda p: replace(p, space="sequences"), "space must be such as didsim.Sequences"),
        (lambda p: replace(p, token_weights=[1.0] * 4), "token_weights must be a mapping"),
        (lambda p: ds.beta_accuracy(p.target, [0.5, 0.5], p.reference), "must be of one shape, .K. or .X, K."),
        (lambda p: ds.beta_accuracy([[0.5, 0.5]] * 2, [0.5, 0.5], [0.5, 0.5]), "must be of one shape, .K. or .X, K."),
        (lambda p: ds.monte_carlo_entropy(np.full((2, 2, 2), 0.5), 10), "the shape of policy must be .K. or .X, K."),
        (
            lambda p: train(replace(p, features=np.full((4, 1), 1e300)), objective("dpo"), steps=1),
            "features must be numbers that torch.float32 can hold; got 1e.300. Use dtype=",
        ),
        (
            lambda p: train(replace(p, token_weights={"weights": np.full(4, 1e300)}), objective("tis_dpo"), steps=1),
            "token_weights.'weights'. must be numbers that torch.float32 can hold",
        ),
        (
            lambda p: train(
                Problem.from_temperature(10**6), objective("dpo"), mode="population", path="table", steps=1
            ),
            'memory of the batch must be below .* or mode="sampled" with path="auto"',
        ),
        (
            lambda p: train(Problem.from_temperature(10**6), objective("dpo"), metrics=("loss",), steps=1),
            "memory of the batch must be below .* or metrics without loss and accuracy",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(Problem.from_temperature(4, tau=2.0))


def test_features_belong_to_their_prompt_or_to_all():
    problem, features = Problem.from_temperature(4, num_prompts=3), logits(3, 4, 2)
    np.testing.assert_array_equal(replace(problem, features=features).features, features)
    np.testing.assert_array_equal(replace(problem, features=features[0]).features, np.stack([features[0]] * 3))


def test_the_weights_of_prompts_cannot_be_changed_behind_a_problem():
    problem = Problem.from_temperature(4, num_prompts=2)
    with pytest.raises(ValueError, match="read-only"):
        problem.prompts[0] = 0.9


def test_the_decisions_of_long_sequences_count_as_memory(monkeypatch):
    problem = Problem.from_temperature(space=Sequences(2, 14), tau=2.0)
    monkeypatch.setattr("didsim.engine._plan.os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * 10**7}.__getitem__)
    with pytest.raises(ValueError, match="memory of the batch"):
        train(problem, objective("dpo"), steps=1)


def test_a_pair_that_the_reference_excludes_is_named():
    reference = Policy.from_probs([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    problem = Problem(*[reference] * 4, prompts=[0.5, 0.5])
    rows = PreferenceDataset.from_classes([0, 2], [1, 0], 3, prompts=[0, 1], num_prompts=2)
    with pytest.raises(ValueError, match=r"rejected\[1\] of the dataset must be a class that .*; got 0"):
        train(problem, objective("dpo"), mode="dataset", dataset=rows, steps=1)


class TestPriors:
    PROBS = np.array([[0.5, 0.3, 0.2, 0.0], [0.2, 0.8, 0.0, 0.0]])

    def test_a_given_prior_may_exclude_what_every_prompt_excludes_and_nothing_else(self):
        policies = [Policy.from_probs(self.PROBS)] * 4
        assert Problem(*policies, prompts=[0.4, 0.6], prior=Policy.from_probs([0.4, 0.4, 0.2, 0.0])).prior is not None
        with pytest.raises(ValueError, match="prior must be positive wherever the reference is; got '0 for class 2'"):
            Problem(*policies, prompts=[0.4, 0.6], prior=Policy.from_probs([0.4, 0.6, 0.0, 0.0]))

    @pytest.mark.parametrize("radius", [0.0, 5e-3, None])
    def test_a_learned_prior_gives_nothing_to_what_every_prompt_excludes(self, radius):
        with np.errstate(divide="ignore"):
            policies = [Policy.from_logits(np.log(self.PROBS) + logits(2, 4, seed=k)) for k in range(4)]
        problem = Problem(*policies, prompts=[0.4, 0.6])
        loss, common = objective("mi_dpo", prior="learned"), {"dtype": "float64", "learning_rate": 0.01, "steps": 200}
        history = train(problem, loss, mode="population", trust_region=radius, **common)
        assert history.prior.log_probs[3] == -math.inf
        distance = float(ds.kl(history.prior, ds.marginal(problem.reference, problem.prompts)))
        if radius is None:
            assert 1e-2 < distance < 10.0
        else:
            assert 0.5 * radius <= distance <= radius + LOOPS  # it would go further if it could

    def test_clipping_bounds_the_step_of_the_policy_and_its_prior_together(self):
        problem = Problem(*(Policy.from_logits(logits(4, seed=k)) for k in range(4)))
        once = {"steps": 1, "optimiser": "sgd", "learning_rate": 1.0, "clip": 1e-3, "dtype": "float64"}
        history = train(problem, objective("mi_dpo", prior="learned"), mode="population", **once)
        steps = np.stack([history.policy.log_probs, history.prior.log_probs]) - problem.reference.log_probs
        steps -= steps.mean(axis=1, keepdims=True)  # log-probabilities are logits up to a constant
        assert np.linalg.norm(steps, axis=1).min() > 1e-4
        assert np.linalg.norm(steps) == pytest.approx(1e-3, rel=1e-4)


class TestDice:
    PROBLEM = Problem(*(Policy.from_logits(logits(3, 4, seed=k)) for k in range(4)), prompts=[0.05, 0.05, 0.9])

    def test_an_initial_policy_is_that_of_the_first_round_only(self):
        start = Policy.from_logits(logits(3, 4, seed=9))
        first, second = ds.dice(self.PROBLEM, rounds=2, initial_policy=start, steps=20, dtype="float64")
        assert first.metrics["js_target"][0] == pytest.approx(
            float(self.PROBLEM.prompts @ ds.js(start, self.PROBLEM.target))
        )
        assert second.metrics["js_target"][0] == pytest.approx(first.metrics["js_target"][-1], rel=1e-9)
        assert second.metrics["margin"][0] == pytest.approx(0.0, abs=LOOPS)

    def test_rounds_draw_anew(self):
        still = {"steps": 1, "learning_rate": 1e-30, "dtype": "float64", "optimiser": "sgd"}
        problem = Problem.from_temperature(6, tau=2.0)
        one, two = ds.dice(problem, rounds=2, seed=5, **{**still, "learning_rate": 1e-3})
        again = train(two.problem, objective("dpo"), seed=6, **{**still, "learning_rate": 1e-3})
        assert two.policy.log_probs.tolist() == again.policy.log_probs.tolist()
        assert one.problem.reference is problem.reference

    def test_each_round_trains_on_pairs_of_the_last_policy_labelled_against_its_own_reference(self, monkeypatch):
        from didsim.engine import _outer

        seen, draw = [], _outer.relabelled_pairs

        def watched(problem, policy, *arguments):
            seen.append((problem.reference, policy, draw(problem, policy, *arguments)))
            return seen[-1][2]

        monkeypatch.setattr(_outer, "relabelled_pairs", watched)
        common = {"steps": 15, "batch_size": 16, "dtype": "float64", "learning_rate": 0.05}
        histories = ds.dice(self.PROBLEM, rounds=3, relabel=40, seed=5, **common)
        assert [reference for reference, _, _ in seen[:2]] == [h.problem.reference for h in histories[:2]]
        assert [policy for _, policy, _ in seen[:2]] == [h.policy for h in histories[:2]]
        last = histories[2]
        again = train(last.problem, objective("dpo"), mode="dataset", dataset=seen[1][2], seed=7, **common)
        assert last.policy.log_probs.tolist() == again.policy.log_probs.tolist()

    def test_relabelled_prompts_come_by_their_weights(self):
        from didsim.engine._outer import relabelled_pairs

        pairs = relabelled_pairs(self.PROBLEM, self.PROBLEM.target, 20_000, 0.0, 0)
        counts = np.bincount(pairs.prompts, minlength=3) / 20_000
        np.testing.assert_allclose(counts, self.PROBLEM.prompts, atol=0.01)

    def test_it_ends_at_a_round_that_diverges(self):
        histories = ds.dice(Problem.from_temperature(4), rounds=3, steps=5, learning_rate=1e300)
        assert [history.status for history in histories] == ["diverged at step 1"]


class TestProbeOfPrompts:
    PI, REFERENCE = (Policy.from_logits(2.0 * logits(2, 5, seed=k)) for k in (1, 2))
    PROMPTS = np.array([0.1, 0.9])

    def test_entropies_are_averages_over_prompts_by_their_weights(self):
        settings = {"mode": "population", "dtype": "float64", "learning_rate": 0.01, "steps": 30}
        result = ds.entropy_probe(self.PI, self.REFERENCE, prompts=self.PROMPTS, samples=200_000, **settings)
        truth = self.PROMPTS @ ds.entropy(ds.did(self.PI, self.REFERENCE))
        assert result.true_entropy == pytest.approx(float(truth), rel=1e-12)
        assert result.probe_entropy == pytest.approx(float(self.PROMPTS @ ds.entropy(result.probe)), rel=1e-12)
        assert result.estimate == pytest.approx(result.probe_entropy, abs=0.01)

    def test_the_slope_is_that_on_the_log_ratio_not_on_the_policy(self):
        did = ds.did(self.PI, self.REFERENCE)
        assert ds.beta_accuracy(did, self.PI, self.REFERENCE) == 1.0
        # a probe that is flat has slope 0, which is not negative
        assert ds.beta_accuracy(np.full((2, 5), 0.2), self.PI, self.REFERENCE) == 1.0

    def test_responses_that_the_policy_excludes_have_the_least_log_ratio(self):
        rising, falling = [0.7, 0.3], [0.3, 0.7]
        assert ds.beta_accuracy(rising, [1.0, 0.0], [0.5, 0.5]) == 1.0
        assert ds.beta_accuracy(falling, [1.0, 0.0], [0.5, 0.5]) == 0.0
        result = ds.entropy_probe([0.6, 0.4, 0.0], [0.3, 0.4, 0.3], steps=50)
        assert 0.0 <= result.beta_accuracy <= 1.0


def test_a_run_whose_masks_overflow_has_diverged_even_if_its_policy_is_finite():
    problem = Problem.from_temperature(4, tau=2.0)
    loss, huge = objective("sparse_po", masks="learned", lam=100.0), {"optimiser": "sgd", "learning_rate": 1e37}
    history = train(problem, loss, mode="population", clip=None, steps=1, **huge)
    assert (history.status, history.policy) == ("diverged at step 1", None)


def test_a_pair_of_weight_zero_does_not_count_even_if_its_loss_is_infinite():
    from didsim.engine._gradient import _expectation

    weights, losses = torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[math.inf, 1.0, 2.0]])
    assert _expectation(weights, losses, 1).tolist() == [1.5]
