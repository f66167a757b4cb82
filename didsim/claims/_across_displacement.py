"""Displacement: how the likelihood of chosen responses starts to move, for every objective."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import IDENTITY, ROUNDING
from didsim.claims._fields import Choice, Count, Instance, Seed, Simplex
from didsim.engine import Settings, plain_gradient, plan_runs, train
from didsim.objectives import OBJECTIVES, BoundObjective, objective
from didsim.policy import Policy
from didsim.preference import Problem

PULLS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("dpo", "r_dpo", "dpop", "dpo_norm", "tdpo1", "tdpo2", "tis_dpo", "sparse_po", "epsilon_dpo", "ld_dpo"),
            lambda beta, **_: beta / 2,
        ),
        **dict.fromkeys(("beta_dpo", "aot", "aot_unpaired", "bco"), lambda beta, **_: beta / 2),
        **dict.fromkeys(("kto", "nca", "apo_zero"), lambda beta, **_: beta / 4),
        **dict.fromkeys(("hinge", "exponential", "chi_po"), lambda beta, **_: beta),
        "mi_dpo": lambda alpha, **_: alpha / 2,
        "cdpo": lambda beta, label_smoothing: beta * (0.5 - label_smoothing),
        "robust_dpo": lambda beta, label_smoothing: beta / (2 - 4 * label_smoothing),
        "exo": lambda beta, label_smoothing: -beta * logit(label_smoothing) / 4,
        "discopop": lambda beta, tau: beta * (0.75 - (1 - np.log(2)) / (4 * tau)),
        "ipo": lambda tau, **_: 1 / tau,
        "sppo": lambda beta: 1 / beta,
        "cal_dpo": lambda beta, calibration_weight: 0.5 + calibration_weight / beta,
        "f_dpo": lambda beta, divergence, **_: beta / (4 if divergence == "js" else 2),
    }
)
"""κ of the objectives whose score is a log-ratio: at π_ref the logits move by κ (w − l)."""

LOG_PI_SCORES: Mapping[str, Callable[..., tuple[Any, Any, Any, float]]] = MappingProxyType(
    {
        "log_pi": lambda x, beta: (beta * x, beta, lambda m: expit(-m), 0.0),
        "entropy_probe": lambda x: (x, 1.0, lambda m: expit(-m), 0.0),
        "h_dpo": lambda x, beta, eta: (beta * (eta - 1) * x, beta * eta, lambda m: expit(-m), 0.0),
        "simpo": lambda x, beta, gamma, **_: (beta * x, beta, lambda m: expit(gamma - m), 0.0),
        "alpha_dpo": lambda x, beta, gamma, **_: (beta * x, beta, lambda m: expit(gamma - m), 0.0),
        "rmipo": lambda x, beta, gamma_max, **_: (beta * x, beta, lambda m: expit(gamma_max - m), 0.0),
        "alphapo": lambda x, beta, gamma, alpha, **_: (
            -beta * np.expm1(-alpha * x) / alpha,
            beta * np.exp(-alpha * x),
            lambda m: expit(gamma - m),
            0.0,
        ),
        "repo": lambda x, gamma: (x, 1.0, lambda m: m < gamma, 0.0),
        "slic": lambda x, delta, lam: (x, 1.0, lambda m: m < delta, lam),
        "cpo": lambda x, beta, lam: (beta * x, beta, lambda m: expit(-m), lam),
        "orpo": lambda x, lam: (logit(np.exp(x)), 1 / -np.expm1(x), lambda m: lam * expit(-m), 1.0),
    }
)
"""Of the others, from x = log π_ref: the scores, their slopes by log π, the pull −link′ of a margin, and λ of −λ log π.

At π_ref α-DPO's adaptive margin is 0, and with one prompt RMiPO's is γ_max.
"""


def velocity(instance: Instance, loss: BoundObjective) -> FloatArray:
    """Return how the logits start to move under gradient flow from π_ref, in closed form, [K]."""
    p, w, l = (np.array(instance[name]) for name in ("reference", "chosen", "rejected"))  # noqa: E741
    given = loss.hyperparameters
    if loss.name in PULLS:
        return PULLS[loss.name](**given) * (w - l)
    if loss.name in LOG_PI_SCORES:
        score, slope, pull, likelihood = LOG_PI_SCORES[loss.name](np.log(p), **given)
        pulls = np.outer(w, l) * pull(score[:, None] - score)
        push = slope * (pulls.sum(axis=1) - pulls.sum(axis=0)) + likelihood * w
        return push - p * push.sum()
    return OTHERS[loss.name](p, w, l, **given)


def _simper(p: FloatArray, w: FloatArray, l: FloatArray) -> FloatArray:  # noqa: E741
    return p * (w - l) - p * (p @ (w - l))


def _wpo(p: FloatArray, w: FloatArray, l: FloatArray, beta: float) -> FloatArray:  # noqa: E741
    return beta / 2 * p * (w * (p @ l) - l * (p @ w)) / (p @ p) ** 2


def _projected(p: FloatArray, w: FloatArray, l: FloatArray) -> FloatArray:  # noqa: E741
    return w - p - max(0.0, (w - p) @ (l - p)) / ((l - p) @ (l - p)) * (l - p)


OTHERS: Mapping[str, Callable[..., FloatArray]] = MappingProxyType(
    {
        "simper": _simper,
        "wpo": _wpo,
        "dpo_pg": _projected,
        "apo_down": lambda p, w, l, beta: beta / 4 * (p - l),  # noqa: E741
    }
)
"""Objectives of a form of their own: SimPER's exponentials, WPO's weights, DPO-PG's rule, APO-down's σ(βh_w)."""

NAMES = (*PULLS, *LOG_PI_SCORES, *OTHERS)
"""All objectives of didsim."""


def loss_of(instance: Instance) -> BoundObjective:
    """Return the objective of an instance, at a point of its search grid; MI-DPO with the prior π_ref."""
    name = instance["objective"]
    if name == "mi_dpo":
        return objective(name)
    grid = OBJECTIVES[name].grid()
    return objective(name, **grid[instance["point"] % len(grid)])


def world_of(instance: Instance) -> Problem:
    """Return a problem with these chosen and rejected responses; π_ref is the target, which no loss looks at."""
    reference, w, l = (Policy.from_probs(instance[name]) for name in ("reference", "chosen", "rejected"))  # noqa: E741
    return Problem(reference, reference, rejected=l, chosen=w)


def gradient(problem: Problem, loss: BoundObjective, policy: Policy) -> FloatArray:
    """Return the gradient of the population loss by the logits of a policy, [K], by automatic differentiation."""
    settings = Settings(steps=1, mode="population", path="table", dtype="float64", metrics=(), initial_policy=policy)
    plan = plan_runs([(problem, loss)], settings)
    with torch.enable_grad():
        return plain_gradient(plan.groups[0], plan.initial, plan.exact_weights("float64"))[0].numpy()


def displacement(instance: Instance) -> float:
    """Return the error of the predicted d/dt E_w[log π] = (w − π)·v, relative to |w − π| (1 + |v|)."""
    world, loss = world_of(instance), loss_of(instance)
    start = Policy.from_probs(instance["start"]) if "start" in instance else world.reference
    difference, flow = world.chosen.probs - start.probs, -gradient(world, loss, start)
    length = np.linalg.norm(difference)
    error = abs(difference @ (velocity(instance, loss) - flow))
    return float(error / (length * (1.0 + np.linalg.norm(flow)))) if length > 0.0 else 0.0


START = "training starts at π_ref"

PAIR_WORLD = {"num_classes": Count(2, 6), "reference": Simplex(), "chosen": Simplex(), "rejected": Simplex()}

DISPLACEMENT = Claim(
    name="x.displacement",
    statement=(
        "When training starts at π_ref, the mean log-likelihood of chosen responses, y_w ~ w, moves at the rate (w − "
        "π_ref)·v, with the velocity v of the logits in closed form for every objective: v = κ (w − l) for those on "
        "log-ratios."
    ),
    source="ours; DID paper, Section 4.2 on displacement",
    verdict="holds",
    note=(
        "The gradient of E_w[log π] by the logits is w − π, and gradient flow moves the logits by v = −∇L. For a loss "
        "on log-ratios all margins are 0 at π_ref, so that every pair pulls alike: v = κ (w − l), with l the "
        "distribution of rejected responses and κ = β/2 for DPO, 1/τ for IPO, β/4 for KTO. So for κ > 0 the chosen "
        "responses fall at first exactly if (w − π_ref)·(w − l) < 0, whichever of these losses is taken: if what they "
        "have more of than π_ref, rejected ones have even more of. DiscoPOP at its default τ = 0.05 has κ < 0, since "
        "its loss grows with the margin near π_ref; scores without a reference weigh pairs by their margins under "
        "π_ref; and DPO-PG does not fall at first. If w = π_ref the rate is 0 for all: see x.displacement-did."
    ),
    fields={**PAIR_WORLD, "objective": Choice(NAMES), "point": Seed()},
    check=displacement,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={START: lambda i: "start" not in i},
    cost=2,
    control=Control(
        breaks=START,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "chosen": [0.75, 0.25],
            "rejected": [0.25, 0.75],
            "objective": "dpo",
            "point": 0,
            "start": [0.6, 0.4],
        },
    ),
)


def rise(instance: Instance) -> float:
    """Return by how much E_w[log π] rises in three steps of training, in nats."""
    reference = Policy.from_probs(instance["reference"])
    world = world_of({"chosen": instance["reference"], **instance})
    options: dict[str, Any] = {"steps": 3, "mode": "population", "dtype": "float64", "path": "table", "metrics": ()}
    history = train(world, loss_of(instance), learning_rate=instance["learning_rate"], **options)
    if history.policy is None:
        return 0.0
    return max(0.0, float(world.chosen.probs @ (history.policy.log_probs - reference.log_probs)))


FROM_REFERENCE = "chosen responses come from π_ref"

DISPLACEMENT_DID = Claim(
    name="x.displacement-did",
    statement=(
        "Where chosen responses come from π_ref, as in the DID construction, no objective ever raises their mean "
        "log-likelihood above its start."
    ),
    source="ours; DID paper, Sections 3.4 and 4.2",
    verdict="holds",
    note=(
        "E_{π_ref}[log π] = −H(π_ref) − KL(π_ref‖π), which is largest at π = π_ref, where training starts: every "
        "step that changes the policy lowers it, whatever the objective, also where a likelihood term or "
        "DPO-PG's projection is to prevent that, and whether the update sharpens or smooths. So in this "
        "construction displacement is no sign of a differential information of high entropy. To first order "
        "nothing happens, and after a short time t the fall is ½ t² Var_{π_ref}(v), v being the velocity of the "
        "logits. The control takes other chosen responses."
    ),
    fields={
        "num_classes": Count(2, 6),
        "reference": Simplex(),
        "rejected": Simplex(),
        "objective": Choice(NAMES),
        "point": Seed(),
        "learning_rate": Choice((0.001, 0.03, 1.0)),
    },
    check=rise,
    tolerance=ROUNDING,
    reason="Gibbs' inequality, and the rounding of log-probabilities",
    assumptions={FROM_REFERENCE: lambda i: "chosen" not in i},
    cost=8,
    control=Control(
        breaks=FROM_REFERENCE,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "chosen": [0.75, 0.25],
            "rejected": [0.25, 0.75],
            "objective": "dpo",
            "point": 0,
            "learning_rate": 0.03,
        },
    ),
)

CLAIMS = (DISPLACEMENT, DISPLACEMENT_DID)
