"""Closed forms of stationary policies: the engine's gradient of the population loss vanishes at each of them."""

import itertools
import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from didsim.engine._gradient import plain_gradient
from didsim.engine._plan import plan_runs
from didsim.engine._settings import Settings
from didsim.engine._weights import TableWeights
from didsim.objectives import OBJECTIVES, PRIORS, objective, register_objective
from didsim.optima import CLOSED_FORMS, MI_DPO_FORMS, NO_CLOSED_FORM, closed_form, dpo_optimum
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.spaces import Categorical, Sequences
from didsim.torch_bridge import finite_log

TAUS = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
BETAS = (0.1, 0.5, 1.0, 2.0)

RELATIVE = 1e-12
"""How small a gradient is beside what its pairs contribute: their rounding, times the margins of 100 nats there are."""

FLOOR = 2e-13
"""The same beside the largest contribution: sums over all responses enter every component of a gradient."""


# --- problems -------------------------------------------------------------------------------------------


def unrelated(num_prompts=None, space=None, seed=0, scale=1.0) -> Problem:
    """A problem whose four policies and prior have nothing to do with each other."""
    space = space or Categorical(5)
    rng = np.random.default_rng(seed)
    shape = (space.num_responses,) if num_prompts is None else (num_prompts, space.num_responses)
    parts = [Policy.from_logits(scale * rng.standard_normal(shape)) for _ in range(4)]
    prompts = None if num_prompts is None else np.arange(1.0, num_prompts + 1)
    prompts = None if prompts is None else prompts / prompts.sum()
    return Problem(*parts, prompts=prompts, space=space, prior=Policy.from_logits(rng.standard_normal(shape[-1])))


SPACES = {
    "classes": (None, Categorical(5)),
    "prompts": (2, Categorical(4)),
    "sequences": (None, Sequences(2, 3)),
    "prompted sequences": (2, Sequences(2, 2)),
}
"""Prompts and space; sequences have lengths from 1 to 3."""

PARTIAL = ("prompts", "sequences")
"""Those with one of two properties, which prompted sequences have both."""


@cache
def problems(kind: str) -> list[Problem]:
    num_prompts, space = SPACES[kind]
    size = {"num_classes": space.num_responses} if isinstance(space, Categorical) else {"space": space}
    made = [Problem.from_temperature(tau=tau, seed=3, num_prompts=num_prompts, **size) for tau in TAUS]
    zeta = unrelated(None, space, seed=9).prior
    made = [
        Problem(p.reference, p.target, p.rejected, p.chosen, prompts=p.prompts, space=p.space, prior=zeta) for p in made
    ]
    return [*made, *(unrelated(num_prompts, space, seed) for seed in range(3))]


# --- points that meet the condition of a form, and points that do not -----------------------------------

LENGTHS = ({"length_normalise": True}, {"length_normalise": False})
ZERO = {"gamma": 0.0}
NO_MARGIN = {"gamma_min": 0.0, "gamma_max": 0.0}

MET = {
    "dpo": [{}],
    "wpo": [{}],
    "cdpo": [{"label_smoothing": 0.0}],
    "robust_dpo": [{"label_smoothing": 0.0}],
    "dpop": [{"lam": 0.0}],
    "epsilon_dpo": [{"epsilon": 0.0}],
    "beta_dpo": [
        {"alpha": 0.0, "rho": 0.0},
        {"alpha": 0.8, "rho": 0.0, "level": "batch"},
        {"alpha": 0.8, "rho": 0.0, "level": "batch", "margin": "raw"},
    ],
    "tdpo2": [{"alpha": 0.0}],
    "ld_dpo": [{"ld_alpha": 1.0}],
    "log_pi": [{}],
    "entropy_probe": [{}],
    "cpo": [{"lam": 0.0}],
    "exponential": [{}],
    "h_dpo": [{"eta": 0.5}, {"eta": 1.0}, {"eta": 2.0}],
    "r_dpo": [{"alpha": 0.0}, {"alpha": 0.7}],
    "dpo_norm": [{}],
    "ipo": [{"aggregation": "sum"}, {"aggregation": "mean"}],
    "f_dpo": [
        *({"divergence": name} for name in ("reverse_kl", "forward_kl", "js")),
        *({"divergence": "alpha", "alpha": order} for order in (-1.5, 0.5, 1.0, 1.0 - 1e-9)),
    ],
    "chi_po": [{"r_max": 30.0}],
    "sppo": [{}],
    "simpo": [{**ZERO, "gamma_form": form} for form in ("absolute", "ratio")],
    "rmipo": [
        *({**NO_MARGIN, **form} for form in LENGTHS),
        *({**NO_MARGIN, "schedule": schedule} for schedule in ("linear", "cosine")),
        {**NO_MARGIN, "signal": "log_pi", "aggregation": "mean", "gamma_form": "ratio"},
        {**NO_MARGIN, "stop_gradient": False},
        {"gamma_max": 0.0, "schedule": "none"},
    ],
    "alpha_dpo": [
        {**ZERO, "alpha": 0.0},
        *({**ZERO, "reference_form": "uniform", **form} for form in LENGTHS),
        *(
            {**ZERO, "alpha": 0.2, "normalise": False, "reference_form": name, "gamma_form": unit, **form, **stop}
            for name, unit, form, stop in itertools.product(
                ("ratio", "policy", "reference", "inverse_reference"),
                ("absolute", "ratio"),
                ({"length_normalise": False}, {}),
                ({"stop_gradient": False}, {}),
            )
            if unit == "absolute" or name in ("reference", "inverse_reference")
        ),
        *(
            {**ZERO, "alpha": 0.4, "normalise": False, "margin": "tdpo", "length_normalise": False, **more}
            for more in ({}, {"stop_gradient": False}, {"gamma_form": "ratio"})
        ),
    ],
    "alphapo": [{**ZERO, "alpha": shape} for shape in (0.25, 1.0, 0.0, 1e-9)],
    "orpo": [{"lam": 0.0}],
    "tdpo1": [{}],
    "sparse_po": [{}, {"lam": 0.3}],
    "tis_dpo": [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.0}],
    "mi_dpo": [
        {"prior": name, **more, **stop}
        for name, more in [
            *((name, {}) for name in ("reference", "previous", "uniform", "tdpo", "sparse_po", "given")),
            ("centropy", {"eta": 0.6}),
            ("simpo", ZERO),
            ("r_dpo", {"length_penalty": 0.4}),
            ("tis_dpo", {"kl_weight": 0.7}),
        ]
        for stop in ({}, {"stop_gradient": True})
    ],
}

VIOLATED = {
    "cdpo": [{"label_smoothing": 0.1}],
    "robust_dpo": [{"label_smoothing": 0.1}],
    "dpop": [{"lam": 5.0}],
    "epsilon_dpo": [{"epsilon": 0.01}],
    "beta_dpo": [{"alpha": 0.5}, {"alpha": 0.0, "rho": 0.2}, {"alpha": 0.5, "rho": 0.2, "level": "batch"}],
    "tdpo2": [{"alpha": 0.5}],
    "ld_dpo": [{"ld_alpha": 0.5}],
    "cpo": [{"lam": 1.0}],
    "f_dpo": [{"divergence": "alpha", "alpha": 3.0, "beta": 0.01}],
    "chi_po": [{"r_max": 0.01}],
    "simpo": [{"gamma": 0.5}],
    "rmipo": [{}, {"gamma_min": 0.1, "gamma_max": 0.1}, {"gamma_max": 0.3, "schedule": "none"}],
    "alpha_dpo": [
        {"alpha": 0.0, "gamma": 0.3},
        {**ZERO, "alpha": 0.1},
        {**ZERO, "alpha": 0.1, "reference_form": "reference"},
        {**ZERO, "alpha": 1.0, "normalise": False},
        {**ZERO, "alpha": 1.0, "normalise": False, "reference_form": "policy", "length_normalise": False},
        {**ZERO, "alpha": 0.1, "normalise": False, "margin": "tdpo"},
    ],
    "alphapo": [{"gamma": 0.1}, {**ZERO, "alpha": -0.25, "beta": 0.01}],
    "orpo": [{"lam": 0.1}],
    "sparse_po": [{"masks": "learned"}],
    "mi_dpo": [{"prior": "learned"}, {"prior": "marginal"}, {"prior": "simpo", "gamma": 0.5}],
}
"""On sequences with two prompts."""

DECIDED_BY_THE_PROBLEM = {"sppo", "tis_dpo"}
"""Their conditions concern no hyperparameter."""


def points(table):
    return [pytest.param(name, options, id=f"{name} {options}") for name in table for options in table[name]]


def scale_of(name: str) -> str | None:
    """The hyperparameter that runs through `BETAS`."""
    known = OBJECTIVES[name].parameters
    return "alpha" if name == "mi_dpo" else next((scale for scale in ("beta", "tau") if scale in known), None)


def jobs(name: str, options: dict, made: list[Problem]) -> list:
    """Every problem with every scale."""
    scale = scale_of(name)
    losses = [objective(name, **options, **({scale: beta} if scale else {})) for beta in (BETAS if scale else (1.0,))]
    return list(itertools.product(made, losses))


# --- the gradient ---------------------------------------------------------------------------------------


def gradients(batch: list, policies: list[Policy]) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of all runs at these policies, and the sizes of what their pairs contribute, [R, D] each.

    A contribution is the gradient of the pairs that share a prompt and a chosen response.
    """
    plan = plan_runs(batch, Settings(mode="population", steps=1, dtype="float64", metrics=()))
    (group,) = plan.groups
    weights = TableWeights.from_joint(plan.joint("float64"))
    tables = [
        finite_log(batch[job][0].space.next_log_probs(np.atleast_2d(policies[job].log_probs))) for job in plan.order
    ]
    logits = torch.tensor(np.stack(tables)).flatten(1)
    gradient = plain_gradient(group, logits, weights)
    leaf = logits.clone().requires_grad_()
    if group.loss.objective.gradient_rule is not None:
        return gradient.numpy(), np.ones(gradient.shape)
    pairs = weights.pairs(group.snapshot(leaf), group.streams)
    assert pairs.weights is not None
    terms = torch.where(pairs.weights > 0, pairs.weights * group.loss(pairs), 0.0).sum(-1)
    each = torch.eye(terms.numel() // len(leaf), dtype=torch.float64)[:, None].expand(-1, len(leaf), -1)
    parts = torch.autograd.grad(terms.reshape(len(leaf), -1), leaf, each, is_grads_batched=True)[0]
    torch.testing.assert_close(parts.sum(0), gradient, rtol=1e-9, atol=1e-9 * float(parts.abs().sum(0).max()))
    return gradient.numpy(), parts.abs().sum(0).numpy()


def assert_stationary(batch: list, policies: list[Policy]) -> None:
    gradient, sizes = gradients(batch, policies)
    allowed = RELATIVE * sizes + FLOOR * sizes.max(axis=1, keepdims=True)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.abs(gradient) <= allowed), (np.abs(gradient) / allowed).max()


@pytest.mark.parametrize(
    "kind", ["classes", "prompted sequences", *(pytest.param(kind, marks=pytest.mark.slow) for kind in PARTIAL)]
)
@pytest.mark.parametrize(("name", "options"), points(MET))
def test_the_gradient_vanishes_at_the_closed_form(name, options, kind):
    batch = jobs(name, options, problems(kind))
    policies = [closed_form(*job) for job in batch]
    found = [(job, policy) for job, policy in zip(batch, policies, strict=True) if policy is not None]
    needed = 6 * len(batch) // 9 if name == "sppo" else len(batch)  # where w is not π_ref its sum may be too small
    assert len(found) >= needed
    for (problem, _), policy in found:
        assert policy.log_probs.shape == problem.reference.log_probs.shape
        np.testing.assert_allclose(policy.probs.sum(-1), 1.0, rtol=1e-14)
    assert_stationary(*map(list, zip(*found, strict=True)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("f_dpo", {"divergence": "alpha", "alpha": 2.0}), ("alphapo", {"gamma": 0.0, "alpha": -0.25})],
)
@pytest.mark.parametrize("kind", ["classes", "prompts", "sequences"])
def test_bounded_rewards_have_a_closed_form_where_preferences_are_narrow_enough(name, options, kind):
    batch = jobs(name, options, problems(kind))
    found = [(job, policy) for job in batch if (policy := closed_form(*job)) is not None]
    assert 0 < len(found) < len(batch)
    assert_stationary(*map(list, zip(*found, strict=True)))


@pytest.mark.parametrize(("name", "options"), points(VIOLATED))
def test_there_is_no_closed_form_where_the_condition_is_not_met(name, options):
    for problem in problems("prompted sequences"):
        if np.abs(np.log(problem.chosen.probs / problem.rejected.probs)).max() > 0.1:
            assert closed_form(problem, objective(name, **options)) is None


# --- conditions that concern the problem ----------------------------------------------------------------


ONE_DECISION = [
    ("ld_dpo", {"ld_alpha": 0.3}),
    *(("alpha_dpo", {**ZERO, "alpha": 0.4, "margin": "tdpo", **more}) for more in ({}, {"normalise": False})),
    ("alpha_dpo", {**ZERO, "alpha": 0.4, "margin": "tdpo", "stop_gradient": False}),
]


@pytest.mark.parametrize(("name", "options"), ONE_DECISION)
@pytest.mark.parametrize("kind", ["classes", "prompts"])
def test_single_decisions_have_closed_forms_of_their_own(name, options, kind):
    batch = jobs(name, options, problems(kind))
    assert_stationary(batch, [closed_form(*job) for job in batch])


@pytest.mark.parametrize("more", [{}, {"schedule": "linear"}, {"stop_gradient": False}])
def test_one_prompt_has_no_mutual_information(more):
    options = {"gamma_min": 0.4, "gamma_max": 0.0, **more}
    for kind in ("classes", "sequences"):
        batch = jobs("rmipo", options, problems(kind))
        assert_stationary(batch, [closed_form(*job) for job in batch])
    assert closed_form(problems("prompts")[0], objective("rmipo", **options)) is None


def test_chi_po_has_a_closed_form_up_to_the_clip():
    """Its margin is to be log 9, and is cut at 2R."""
    for r_max, found in ((0.5001 * math.log(9), True), (0.4999 * math.log(9), False)):
        assert (closed_form(of_odds(9.0), objective("chi_po", r_max=r_max)) is not None) == found


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("tis_dpo", {}, "weights"),
        ("sparse_po", {}, "reward_mask"),
        ("sparse_po", {}, "kl_mask"),
        ("mi_dpo", {"prior": "tis_dpo"}, "weights"),
        ("mi_dpo", {"prior": "sparse_po"}, "kl_mask"),
    ],
)
def test_token_weights_must_be_1(name, options, weights):
    free = unrelated(None, Sequences(2, 2))
    parts = (free.reference, free.target, free.rejected, free.chosen)
    loss, ones = objective(name, **options), np.ones(9)
    same = Problem(*parts, space=free.space, token_weights={weights: ones})
    np.testing.assert_array_equal(closed_form(same, loss).log_probs, closed_form(free, loss).log_probs)
    other = Problem(*parts, space=free.space, token_weights={weights: np.append(ones[1:], 0.5)})
    assert closed_form(other, loss) is None


def test_sppo_has_a_closed_form_whenever_the_chosen_responses_are_the_references():
    for seed, beta in itertools.product(range(20), (1e-3, 0.1, 1.0, 30.0)):
        free = unrelated(seed=seed, scale=2.0)
        problem = Problem(free.reference, free.target, free.rejected, free.reference)
        assert_stationary(
            [(problem, objective("sppo", beta=beta))], [closed_form(problem, objective("sppo", beta=beta))]
        )


def test_sppo_ends_at_the_reference_where_nothing_is_preferred():
    policy = Policy.from_probs([0.5, 0.3, 0.2])
    problem = Problem(policy, policy, policy, policy)
    np.testing.assert_allclose(closed_form(problem, objective("sppo")).probs, policy.probs, rtol=1e-14)


def test_sppo_has_none_where_the_sum_is_below_1():
    """π_ref holds what is rejected: M = 0.9 e^{−r/2β} + 0.1 e^{r/2β} < 1."""
    reference, chosen = Policy.from_probs([0.9, 0.1]), Policy.from_probs([0.1, 0.9])
    problem = Problem(reference, reference, reference, chosen)
    assert closed_form(problem, objective("sppo", beta=1.0)) is None


def test_a_prior_must_be_given():
    problem = Problem.from_temperature(4)
    assert closed_form(problem, objective("mi_dpo", prior="given")) is None


def test_a_restricted_policy_has_no_closed_form():
    problem = Problem.from_temperature(6, num_features=2)
    for name in CLOSED_FORMS:
        assert closed_form(problem, objective(name)) is None


def test_an_objective_of_ones_own_has_no_closed_form():
    @register_objective(needs={"reference"})
    def my_dpo(pairs, *, beta=1.0):
        return torch.nn.functional.softplus(beta * (pairs.rejected.log_ratio - pairs.chosen.log_ratio))

    try:
        assert closed_form(Problem.from_temperature(4), objective("my_dpo")) is None
    finally:
        OBJECTIVES.remove("my_dpo")


# --- names ----------------------------------------------------------------------------------------------


def test_every_objective_has_a_closed_form_or_a_reason():
    assert set(CLOSED_FORMS) | set(NO_CLOSED_FORM) == set(OBJECTIVES)
    conditional = {name for name, form in CLOSED_FORMS.items() if form.condition}
    assert set(CLOSED_FORMS) & set(NO_CLOSED_FORM) == conditional


def test_every_prior_has_a_closed_form_or_a_reason():
    assert set(PRIORS) - set(MI_DPO_FORMS) == {"learned", "marginal"}
    assert set(MI_DPO_FORMS) < set(PRIORS)
    assert all(f"'{name}'" in NO_CLOSED_FORM["mi_dpo"] for name in ("learned", "marginal"))


def test_every_form_and_every_condition_is_tested():
    assert set(MET) == set(CLOSED_FORMS)
    conditional = {name for name, form in CLOSED_FORMS.items() if form.condition}
    assert set(VIOLATED) == conditional - DECIDED_BY_THE_PROBLEM
    assert {options["prior"] for options in MET["mi_dpo"]} == set(MI_DPO_FORMS)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_record_says_what_it_is(name):
    form = CLOSED_FORMS[name]
    assert form.objective == name
    assert form.formula
    assert "\n" not in form.formula + form.condition


@pytest.mark.parametrize("name", NO_CLOSED_FORM)
def test_a_reason_is_a_sentence(name):
    assert NO_CLOSED_FORM[name].endswith(".")


# --- laws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), points(MET))
@pytest.mark.parametrize("space", [Categorical(4), Sequences(2, 2)])
def test_prompts_are_problems_side_by_side(name, options, space):
    together, loss = unrelated(3, space, seed=4), objective(name, **options)
    rows = [
        Problem(
            *(Policy(part.log_probs[row].copy()) for part in (
                together.reference, together.target, together.rejected, together.chosen
            )),
            space=space,
            prior=together.prior,
        )
        for row in range(3)
    ]  # fmt: skip
    alone = [closed_form(row, loss) for row in rows]
    if None in alone:
        assert closed_form(together, loss) is None
    else:
        stacked = np.stack([policy.log_probs for policy in alone])
        np.testing.assert_allclose(closed_form(together, loss).log_probs, stacked, rtol=0.0, atol=1e-12)


IDENTITIES = [
    (("simpo", {"gamma": 0.0, "beta": 2.0}), ("log_pi", {"beta": 2.0}), "classes"),
    (("alphapo", {"gamma": 0.0, "alpha": 1e-12, "beta": 2.0}), ("simpo", {"gamma": 0.0, "beta": 2.0}), "sequences"),
    (("f_dpo", {"divergence": "alpha", "alpha": 1e-14}), ("f_dpo", {"divergence": "forward_kl"}), "sequences"),
    (("f_dpo", {"divergence": "alpha", "alpha": 1.0 + 1e-12}), ("dpo", {}), "sequences"),
    (("exponential", {"beta": 0.5}), ("dpo", {"beta": 1.0}), "sequences"),
    (("h_dpo", {"eta": 1.0}), ("dpo", {}), "sequences"),
    (("r_dpo", {"alpha": 0.0}), ("dpo", {}), "sequences"),
    (("r_dpo", {"alpha": 0.7}), ("dpo", {}), "classes"),
    (("dpo_norm", {"beta": 1.0}), ("dpo", {}), "prompts"),
    (("tdpo1", {"beta": 1.0}), ("dpo", {}), "prompts"),
    (("tis_dpo", {"beta": 1.0, "alpha": 0.0}), ("dpo", {}), "sequences"),
    (("tis_dpo", {"beta": 1.0, "alpha": 0.8}), ("dpo", {}), "classes"),
    (("sparse_po", {"beta": 0.3}), ("tdpo1", {"beta": 0.3}), "prompted sequences"),
    (("ipo", {"aggregation": "mean"}), ("ipo", {}), "classes"),
    (("orpo", {"lam": 0.0}), ("dpo_pg", None), "classes"),
    (("entropy_probe", {}), ("log_pi", {}), "sequences"),
    (
        ("alpha_dpo", {**ZERO, "beta": 2.0, "alpha": 0.25, "normalise": False, "reference_form": "policy"}),
        ("log_pi", {"beta": 1.5}),
        "prompts",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "kind"), IDENTITIES, ids=lambda value: str(value))
def test_closed_forms_that_are_the_same(ours, theirs, kind):
    for problem in problems(kind):
        policy = closed_form(problem, objective(ours[0], **ours[1]))
        other = problem.chosen if theirs[1] is None else closed_form(problem, objective(theirs[0], **theirs[1]))
        np.testing.assert_allclose(policy.log_probs, other.log_probs, rtol=0.0, atol=1e-9)


def test_the_closed_form_of_dpo_is_its_optimum_and_the_target():
    for problem, beta in itertools.product(problems("prompts"), BETAS):
        policy = closed_form(problem, objective("dpo", beta=beta))
        np.testing.assert_array_equal(policy.log_probs, dpo_optimum(problem, beta).log_probs)
    problem = problems("sequences")[0]
    for name in ("dpo", "wpo"):
        found = closed_form(problem, objective(name, beta=1.0)).log_probs
        np.testing.assert_allclose(found, problem.target.log_probs, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", "simpo", "f_dpo", "ipo", "tis_dpo", "sppo"])
def test_hyperparameters_may_be_tensors_of_one_number(name):
    scale = scale_of(name)
    numbers = {scale: 0.5, **({"gamma": 0.0} if name == "simpo" else {})}
    tensors = {key: torch.tensor([[value]], dtype=torch.float64) for key, value in numbers.items()}
    problem = problems("sequences")[2]
    found, want = (closed_form(problem, objective(name, **given)) for given in (tensors, numbers))
    np.testing.assert_array_equal(found.log_probs, want.log_probs)


# --- values by hand -------------------------------------------------------------------------------------


def of_odds(odds, reference=(0.5, 0.5)):
    """Two classes with w₀ l₁ / (w₁ l₀) = odds: w = (x, 1)/(1 + x) and l = (1, x)/(1 + x) with x² = odds."""
    x = math.sqrt(odds)
    chosen, rejected = (Policy.from_probs(np.array(part) / (1 + x)) for part in ((x, 1.0), (1.0, x)))
    pi_ref = Policy.from_probs(reference)
    return Problem(pi_ref, pi_ref, rejected, chosen)


BY_HAND = [
    # h₀ − h₁ = log 4: 4 to 1
    ("dpo", {"beta": 1.0}, 4.0, 0.8),
    # 2(h₀ − h₁) = log 4
    ("exponential", {"beta": 1.0}, 4.0, 2 / 3),
    ("h_dpo", {"beta": 1.0, "eta": 2.0}, 4.0, 2 / 3),
    # r = ±0.6 and V = 0.72, where w = 0.8: h₀ − h₁ = 1.2/(2τ · 1.36)
    ("ipo", {"tau": 0.5}, 16.0, 1 / (1 + math.exp(-1.2 / 1.36))),
    # 1/(2π₁) − 1/(2π₀) = log odds at π₀ = 0.8: 2.5 − 0.625
    ("f_dpo", {"beta": 1.0, "divergence": "forward_kl"}, math.exp(1.875), 0.8),
    # log σ(h₀)/σ(h₁) = log (π₀/(π₀ + ½)) / (π₁/(π₁ + ½)), at 0.8: (0.8/1.3)/(0.2/0.7)
    ("f_dpo", {"beta": 1.0, "divergence": "js"}, 0.8 / 1.3 * 0.7 / 0.2, 0.8),
    # χ² + KL: 2π₀ − 2π₁ + log π₀/π₁ at 0.8
    ("chi_po", {"beta": 1.0, "r_max": 2.0}, 4.0 * math.exp(1.2), 0.8),
    # α = 2: f′ = e^h − 1: 2(π₀ − π₁) = 1.2
    ("f_dpo", {"beta": 1.0, "divergence": "alpha", "alpha": 2.0}, math.exp(1.2), 0.8),
    # rewards 1 − 1/π: 1/0.2 − 1/0.8
    ("alphapo", {"beta": 1.0, "alpha": 1.0, "gamma": 0.0}, math.exp(3.75), 0.8),
    # rewards π − 1
    ("alphapo", {"beta": 1.0, "alpha": -1.0, "gamma": 0.0}, math.exp(0.6), 0.8),
    # w = (0.8, 0.2)
    ("orpo", {"lam": 0.0}, 16.0, 0.8),
    # β log π − αβ h: (1 − α)(log π₀ − log π₁) = log 4 with α = ½
    ("alpha_dpo", {"beta": 1.0, "alpha": 0.5, "gamma": 0.0, "normalise": False}, 4.0, 16 / 17),
]


@pytest.mark.parametrize(("name", "options", "odds", "want"), BY_HAND)
def test_two_classes_by_hand(name, options, odds, want):
    policy = closed_form(of_odds(odds), objective(name, **options))
    assert policy.probs == pytest.approx([want, 1 - want], rel=1e-13)


def test_sppo_of_two_classes_by_hand():
    """w + l = 1 for both, r = ±1/3: (h₀ − x)/π₀ = (h₁ + x)/π₁ with x = 1/(6β), which at π₀ = 0.8 is solved for x."""
    x = 0.2 * math.log(0.8 / 0.5) - 0.8 * math.log(0.2 / 0.5)
    policy = closed_form(of_odds(4.0), objective("sppo", beta=1.0 / (6.0 * x)))
    assert policy.probs == pytest.approx([0.8, 0.2], rel=1e-13)


def test_simpo_of_unequal_lengths_by_hand():
    """Sequences of one symbol, at most 2: lengths 1, 2, 2. Equal scores e^c: x + 2x² = 1 at x = ½."""
    policy = Policy.from_probs([0.2, 0.3, 0.5])
    problem = Problem(policy, policy, policy, policy, space=Sequences(1, 2))
    found = closed_form(problem, objective("simpo", gamma=0.0))
    assert found.probs == pytest.approx([0.5, 0.25, 0.25], rel=1e-14)


def test_tdpo_of_a_tree_by_hand():
    """V(y) = log (4, 2, 8) with uniform choices: the prefix has V = (log 2 + log 8)/2 = log 4, no more than the end."""
    space = Sequences(1, 2)
    reference, rejected = Policy.from_probs([0.5, 0.25, 0.25]), Policy.from_probs([1 / 2, 1 / 3, 1 / 6])
    chosen = Policy.from_logits(np.log([4.0, 8.0, 2.0]) + rejected.log_probs)
    problem = Problem(reference, reference, rejected, chosen, space=space)
    # after the symbol: to end (response 1) or the second symbol (response 2), 8 to 2
    found = closed_form(problem, objective("tdpo1", beta=1.0))
    assert found.probs == pytest.approx([0.5, 0.4, 0.1], rel=1e-14)
    # TIS-DPO with α = 1: V = E_π V = 0.8 log 8 + 0.2 log 2
    weight = math.exp(0.8 * math.log(8) + 0.2 * math.log(2))
    found = closed_form(problem, objective("tis_dpo", beta=1.0, alpha=1.0))
    assert found.probs[0] == pytest.approx(4 / (4 + weight), rel=1e-14)
    # with α = 0 it is DPO: log of the mean of 8 and 2 is 5
    found = closed_form(problem, objective("tis_dpo", beta=1.0, alpha=0.0))
    assert found.probs == pytest.approx([4 / 9, 4 / 9, 1 / 9], rel=1e-14)


# --- far out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), points(MET))
@pytest.mark.parametrize("kind", ["classes", "prompted sequences"])
def test_extreme_problems_and_scales_give_a_policy_or_a_clear_error(name, options, kind):
    num_prompts, space = SPACES[kind]
    scale = scale_of(name)
    size = {"num_classes": 5} if kind == "classes" else {"space": space}
    for tau, beta in itertools.product((0.01, 0.5, 1.0, 100.0), (1e-320, 1e-300, 1e-3, 1e3, 1e300)):
        problem = Problem.from_temperature(tau=tau, seed=1, num_prompts=num_prompts, **size)
        problem = Problem(
            problem.reference, problem.target, problem.rejected, problem.chosen, prompts=problem.prompts,
            space=problem.space, prior=Policy.from_probs(np.full(problem.num_classes, 1 / problem.num_classes)),
        )  # fmt: skip
        loss = objective(name, **options, **({scale: beta} if scale else {}))
        try:
            policy = closed_form(problem, loss)
        except ValueError as error:
            if "must be moderate enough" not in str(error) or 1e-3 <= beta <= 1e3:
                raise
        else:
            assert policy is None or np.all(np.abs(policy.probs.sum(-1) - 1.0) < 1e-12)
            assert policy is not None or name in ("chi_po", "f_dpo", "alpha_dpo")


@pytest.mark.parametrize("tau", [0.01, 0.05, 50.0])
@pytest.mark.parametrize("beta", [1e-3, 1e3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpo_norm", {}),
        ("f_dpo", {"divergence": "forward_kl"}),
        ("f_dpo", {"divergence": "js"}),
        ("tdpo1", {}),
        ("tis_dpo", {}),
        ("sppo", {}),
        ("simpo", {"gamma": 0.0}),
        ("chi_po", {"r_max": 500.0}),
    ],
)
def test_scores_far_out_satisfy_their_equation(name, options, tau, beta):
    """A gradient underflows there; that the solver's own sums to 1 and is a policy does not say that it is right."""
    problem = Problem.from_temperature(space=Sequences(2, 2), tau=tau, seed=5)
    policy = closed_form(problem, objective(name, beta=beta, **options))
    level = (problem.chosen.log_probs - problem.rejected.log_probs) / beta
    h = policy.log_probs - problem.reference.log_probs
    if name == "sppo":
        w, low = problem.chosen.log_probs, problem.rejected.log_probs
        miss = np.tanh(0.5 * (w - low)) / (2 * beta) - h
        seen = miss > 1e-3 / beta
        excess = (np.log(miss[seen]) + np.logaddexp(w, low)[seen]) - policy.log_probs[seen]
        level, scores = np.zeros(seen.sum()), excess
    else:
        scores = SCORES[name, options.get("divergence")](problem, policy, h)
    spread = scores - level
    tolerance = 1e-11 * (1.0 + np.abs(level).max() + np.abs(policy.log_probs).max())
    assert np.ptp(spread) <= tolerance


def prefix_kl(problem: Problem, policy: Policy, *, reverse: bool) -> np.ndarray:
    """Σ_t KL(π_ref ‖ π), or of π from π_ref, for each response, in plain loops over its decisions."""
    space = problem.space
    ref, pi = (space.next_log_probs(p.log_probs) for p in (problem.reference, policy))
    p, q = (pi, ref) if reverse else (ref, pi)
    kl = (np.exp(p) * (p - q)).sum(-1)
    return np.array(
        [sum(kl[space.contexts[y, t]] for t in range(space.lengths[y])) for y in range(space.num_responses)]
    )


SCORES = {
    ("dpo_norm", None): lambda problem, policy, h: h / problem.space.lengths,
    ("simpo", None): lambda problem, policy, h: policy.log_probs / problem.space.lengths,
    ("f_dpo", "forward_kl"): lambda problem, policy, h: -np.exp(-h),
    ("f_dpo", "js"): lambda problem, policy, h: -np.logaddexp(0.0, -h),
    ("chi_po", None): lambda problem, policy, h: np.exp(h) + h,
    ("tdpo1", None): lambda problem, policy, h: h + prefix_kl(problem, policy, reverse=False),
    ("tis_dpo", None): lambda problem, policy, h: h - prefix_kl(problem, policy, reverse=True),
}
"""The scores per unit of β, which differ from v/β by a constant."""


@pytest.mark.parametrize("name", ["tdpo1", "tis_dpo", "dpo_norm"])
def test_300_000_sequences_are_no_trouble(name):
    problem = Problem.from_temperature(space=Sequences(8, 6), tau=2.0, seed=0)
    policy = closed_form(problem, objective(name, beta=0.5))
    assert policy.num_classes == 299_593
    # the gradient of K² pairs is out of reach; the equation of the scores is not
    space, level = problem.space, 2.0 * (problem.chosen.log_probs - problem.rejected.log_probs)
    h = policy.log_probs - problem.reference.log_probs
    ref, pi = (space.next_log_probs(p.log_probs) for p in (problem.reference, policy))
    first, second, sign = (pi, ref, -1.0) if name == "tis_dpo" else (ref, pi, 1.0)
    kl = sign * (np.exp(first) * (first - second)).sum(-1)
    total = np.where(np.arange(6) < space.lengths[:, None], kl[space.contexts], 0.0).sum(-1)
    scores = h / space.lengths if name == "dpo_norm" else h + total
    assert np.ptp(scores - level) <= 1e-10


# --- responses that are excluded, or never chosen or rejected -------------------------------------------


@pytest.mark.parametrize(("name", "options"), points(MET))
@pytest.mark.parametrize("space", [Categorical(4), Sequences(1, 3)])
def test_what_the_reference_excludes_keeps_probability_0(name, options, space):
    logits = np.random.default_rng(2).standard_normal((4, 4))
    logits[:, 1] = -np.inf
    zeta = Policy.from_probs([0.1, 0.2, 0.3, 0.4])
    problem = Problem(*(Policy.from_logits(part) for part in logits), space=space, prior=zeta)
    policy = closed_form(problem, objective(name, **options))
    if policy is None:
        assert name == "sppo"
        return
    assert policy.probs[1] == 0.0
    assert policy.probs.sum() == pytest.approx(1.0, rel=1e-14)
    if isinstance(space, Categorical):
        kept = [0, 2, 3]
        parts = (Policy.from_logits(part[kept]) for part in logits)
        smaller = Problem(*parts, prior=Policy.from_logits(zeta.log_probs[kept]))
        want = closed_form(smaller, objective(name, **options)).log_probs
        np.testing.assert_allclose(policy.log_probs[kept], want, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), points(MET))
def test_a_class_that_is_never_rejected_puts_the_policy_at_infinity(name, options):
    certain, half = Policy.from_probs([1.0, 0.0]), Policy.from_probs([0.5, 0.5])
    problem = Problem(half, half, certain, half, prior=half)
    if name in ("ipo", "orpo", "sppo"):  # their targets are bounded
        assert np.all(closed_form(problem, objective(name, **options)).probs > 0)
    else:
        with pytest.raises(ValueError, match=r"Class \[1\] has mass above the line and none below it"):
            closed_form(problem, objective(name, **options))


@pytest.mark.parametrize(("name", "options"), points(MET))
def test_a_class_that_is_never_chosen_dies_out_or_leaves_no_solution(name, options):
    certain, half = Policy.from_probs([1.0, 0.0]), Policy.from_probs([0.5, 0.5])
    problem = Problem(half, half, half, certain, prior=half)
    policy = closed_form(problem, objective(name, **options))
    if name in ("ipo", "sppo"):
        assert policy is None or np.all(policy.probs > 0)
    else:
        assert policy is None or policy.probs.tolist() == [1.0, 0.0]
        assert policy is not None or name == "chi_po"


# --- the reasons ----------------------------------------------------------------------------------------


P = 0.7
ON_TWO_CLASSES = [
    ("cdpo", {"label_smoothing": 0.1}, math.log(0.66 / 0.34)),
    ("robust_dpo", {"label_smoothing": 0.1}, math.log(0.75 / 0.25)),
    ("exo", {"label_smoothing": 0.1}, 0.4 * math.log(9.0)),
]
"""The margins βD that the reasons name, for p* = 0.7: σ(m) = 0.8·0.7 + 0.1, (0.7 − 0.1)/0.8, and m = 0.4 log 9."""


@pytest.mark.parametrize(("name", "options", "margin"), ON_TWO_CLASSES)
def test_the_margin_that_each_pair_asks_for_is_stationary_on_two_classes(name, options, margin):
    problem, loss = of_odds(P / (1 - P), reference=(0.4, 0.6)), objective(name, beta=1.0, **options)
    policy = Policy.from_logits(problem.reference.log_probs + np.array([margin, 0.0]))
    assert_stationary([(problem, loss)], [policy])


NO_INTERIOR = [("kto", {}), ("apo_zero", {}), ("simper", {})]


@pytest.mark.parametrize(("name", "options"), NO_INTERIOR)
def test_no_policy_inside_the_simplex_is_stationary(name, options):
    problem = unrelated(seed=1)
    for seed in range(20):
        policy = Policy.from_logits(3.0 * np.random.default_rng(seed).standard_normal(5))
        gradient, _ = gradients([(problem, objective(name, **options))], [policy])
        assert np.abs(gradient).max() > 1e-8


def test_simper_of_single_tokens_is_least_where_one_of_them_has_all():
    problem = unrelated(seed=1)
    margin = problem.chosen.probs - problem.rejected.probs
    for seed in range(50):
        policy = Policy.from_logits(3.0 * np.random.default_rng(seed).standard_normal(5))
        assert -(policy.probs * margin).sum() > -margin.max()


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.0, -1.7, -2.5])
def test_projected_gradients_vanish_on_a_ray_of_policies(distance):
    chosen, rejected = np.array([0.4, 0.35, 0.25]), np.array([0.3, 0.35, 0.35])
    half = Policy.from_probs([0.5, 0.3, 0.2])
    problem = Problem(half, half, Policy.from_probs(rejected), Policy.from_probs(chosen))
    job = (problem, objective("dpo_pg"))
    gradient, _ = gradients([job], [Policy.from_probs(chosen + distance * (chosen - rejected))])
    assert np.abs(gradient).max() < 1e-15
    gradient, _ = gradients([job], [Policy.from_probs(chosen - 0.5 * (chosen - rejected))])
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("tdpo2", {"alpha": 0.5}, "dpo"),
        ("epsilon_dpo", {"epsilon": 0.3}, "dpo"),
        ("beta_dpo", {"alpha": 0.5}, "dpo"),
        ("cdpo", {"label_smoothing": 0.1}, "dpo"),
        ("simpo", {"gamma": 0.5}, "log_pi"),
        ("alpha_dpo", {"gamma": 0.0, "alpha": 0.1}, "log_pi"),
        ("cal_dpo", {}, "dpo"),
        ("bco", {}, "dpo"),
    ],
)
@pytest.mark.parametrize("kind", ["classes", "sequences"])
def test_a_gradient_does_not_vanish_at_the_closed_form_of_another(name, options, other, kind):
    """What is refused is not stationary where one might think; and the measure sees it."""
    problem = problems(kind)[2]
    policy = closed_form(problem, objective(other, beta=1.0))
    gradient, sizes = gradients([(problem, objective(name, **options, beta=1.0))], [policy])
    assert (np.abs(gradient) / sizes.max()).max() > 1e-4


def test_a_marginal_prior_of_one_prompt_leaves_every_policy_stationary():
    problem, policy = unrelated(seed=1), Policy.from_logits(np.random.default_rng(0).standard_normal(5))
    gradient, _ = gradients([(problem, objective("mi_dpo", prior="marginal"))], [policy])
    assert np.abs(gradient).max() < 1e-15


def test_a_bound_objective_is_only_asked_for_its_name_and_hyperparameters():
    problem = Problem.from_temperature(4)
    loss = SimpleNamespace(name="dpo", hyperparameters={"beta": 0.5})
    np.testing.assert_array_equal(closed_form(problem, loss).log_probs, dpo_optimum(problem, 0.5).log_probs)
