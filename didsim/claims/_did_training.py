"""Appendix H of the DID paper: descent directions of DPO-PG."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, IDENTITY, ROUNDING
from didsim.claims._did_steps import DPO_PG_CLIPPING, DPO_PG_RMSPROP
from didsim.claims._did_training_ends import FIGURE_7
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.objectives import Pairs, objective, projected_gradient

BATCH = {
    "num_classes": Count(2, 5),
    "num_features": Count(1, 4),
    "features": Reals(sizes=("num_classes", "num_features")),
    "policy": Simplex(),
    "chosen": Simplex(),
    "rejected": Simplex(),
}
"""A log-linear policy π ∝ π₀ e^{φ·θ} at θ = 0, and how often each response is y_w and y_l in a batch."""

YES_OR_NO = "yes or no: 1 where the loss does not fall along Δθ, by its slope and the rounding of that"

PLAIN = "Δθ is −η times the projected gradient, as in Definition H.1"

VANISHING = 1e-6
"""A direction shorter than this share of ∇L(y_w) is the rounding of 0."""


def is_plain(instance: Instance) -> bool:
    """Return whether the step is the projected gradient itself, its coordinates not rescaled as by RMSprop."""
    return "scales" not in instance


def log_policy(instance: Instance, theta: Tensor) -> Tensor:
    """Return log π_θ, π_θ ∝ π₀ e^{φ·θ + ½ c θ·θ}; the curvature c is 0 for a log-linear policy."""
    start = torch.tensor(instance["policy"], dtype=torch.float64).log()
    logits = start + torch.tensor(instance["features"], dtype=torch.float64) @ theta
    if instance.get("bends", False):
        logits = logits + 0.5 * torch.tensor(instance["curvature"], dtype=torch.float64) * (theta @ theta)
    return torch.log_softmax(logits, dim=-1)


def mean_nll(instance: Instance, side: str, theta: Tensor) -> Tensor:
    """Return L(y_w) or L(y_l), the mean negative log-likelihood of the "chosen" or "rejected" responses of a batch."""
    log_pi = log_policy(instance, theta)
    loss = objective("dpo_pg")(Pairs.from_log_probs(log_pi_chosen=log_pi, log_pi_rejected=log_pi))
    return torch.tensor(instance[side], dtype=torch.float64) @ loss


def gradient(loss: Callable[[Tensor], Tensor], instance: Instance) -> Tensor:
    """Return the gradient of a loss at θ = 0, by automatic differentiation."""
    theta = torch.zeros(instance["num_features"], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(loss(theta), theta)[0]


def gradients(instance: Instance) -> tuple[Tensor, Tensor, Tensor]:
    """Return ∇L(y_w), ∇L(y_l), and the step Δθ/η of DPO-PG."""
    chosen, rejected = (gradient(partial(mean_nll, instance, side), instance) for side in ("chosen", "rejected"))
    scales = torch.tensor(instance.get("scales", 1.0), dtype=torch.float64)
    return chosen, rejected, -scales * projected_gradient(chosen, rejected)


def has_direction(instance: Instance) -> bool:
    """Return whether ∇L(y_w) is no multiple c ≥ 0 of ∇L(y_l), from their closed forms φᵀ(π − w) and φᵀ(π − l)."""
    features, policy = np.array(instance["features"]), np.array(instance["policy"])
    chosen, rejected = (features.T @ (policy - np.array(instance[side])) for side in ("chosen", "rejected"))
    lengths, product = np.linalg.norm(chosen) * np.linalg.norm(rejected), chosen @ rejected
    if np.linalg.norm(chosen) == 0.0:
        return False
    return bool(product <= 0.0 or 1.0 - (product / lengths) ** 2 > VANISHING**2)


def does_not_fall(loss: Tensor, step: Tensor, chosen: Tensor) -> float:
    """Return 1 unless a loss of this gradient falls along a step; where nothing moves nothing falls."""
    if float(step.norm()) <= VANISHING * float(chosen.norm()):
        return 1.0
    return float(float(step @ loss) >= -1e-12 * float(step.norm() * loss.norm()))


def lowers_chosen(instance: Instance) -> float:
    """Return 1 where Δθ is no descent direction of L(y_w)."""
    chosen, _, step = gradients(instance)
    return does_not_fall(chosen, step, chosen)


THREE_RESPONSES: Instance = {
    "num_classes": 3,
    "num_features": 2,
    "features": [[2.0, 1.0], [1.0, 1.0], [-3.0, -2.0]],
    "policy": [1 / 3, 1 / 3, 1 / 3],
    "chosen": [1.0, 0.0, 0.0],
    "rejected": [0.0, 1.0, 0.0],
}
"""One pair of responses 0 and 1 of three: gradients −(2, 1) and −(1, 1), and a projected one of (−½, ½)."""

THEOREM_H_4 = Claim(
    name="did.thm-H.4",
    statement="Δθ of DPO-PG is a descent direction of the negative log-likelihood L(y_w) of preferred responses.",
    source="DID paper, Theorem H.4, Definition H.1",
    verdict="holds-conditionally",
    note=(
        "The proof takes the Cauchy–Schwarz inequality as strict, and ∇L(y_w) as other than 0. Where ∇L(y_w) = c "
        "∇L(y_l) with c ≥ 0 the projection leaves nothing: Δθ = 0, and L(y_w) does not fall. That is no rare "
        "case: with one parameter, or two responses, all gradients are parallel. Smallest counterexample: two "
        "responses, π = (½, ½), and a batch with the same responses on both sides, w = l = (¾, ¼). In all other "
        "cases it holds, opposite gradients included; for ∇L(y_l) = 0 the formula reads 0/0, and didsim takes Δθ "
        "= −η ∇L(y_w)."
    ),
    fields=BATCH,
    check=lowers_chosen,
    tolerance=ROUNDING,
    reason=YES_OR_NO,
    assumptions={PLAIN: is_plain},
    condition=("∇L(y_w) is no multiple c ≥ 0 of ∇L(y_l)", has_direction),
    corrected="x.dpo-pg-slopes",
    control=Control(breaks=PLAIN, instance={**THREE_RESPONSES, "scales": [1.0, 4.0]}),
)


def lowers_rejected(instance: Instance) -> float:
    """Return how steeply L(y_l) falls along Δθ, relative to both gradients, or where it is level how fast it bends."""
    chosen, rejected, step = gradients(instance)
    length, lengths = float(step.norm()), float(chosen.norm() * rejected.norm())
    if length <= VANISHING * float(chosen.norm()):
        return 0.0
    slope = float(step @ rejected) / lengths if lengths > 0.0 else 0.0
    if abs(slope) > ROUNDING:
        return max(0.0, -slope)
    theta = torch.zeros_like(step, requires_grad=True)
    with torch.enable_grad():
        slopes_of_loss = torch.autograd.grad(mean_nll(instance, "rejected", theta), theta, create_graph=True)[0]
        bend = torch.autograd.grad(slopes_of_loss @ step, theta)[0]
    return max(0.0, -float(step @ bend) / length**2)


THEOREM_H_5 = Claim(
    name="did.thm-H.5",
    statement="Δθ of DPO-PG is not a descent direction of the negative log-likelihood L(y_l) of rejected responses.",
    source="DID paper, Theorem H.5, Definition H.2",
    verdict="holds-conditionally",
    note=(
        "The proof shows that L(y_l) has no negative slope along Δθ. But wherever something is projected out that "
        "slope is exactly 0, and then the curvature decides, as the definition of a descent direction has it. For a "
        "table of logits or a log-linear policy L(y_l) is a log-sum-exp minus a linear function, so convex, and cannot "
        "fall: there the theorem holds. A policy whose logits bend, as those of a neural network do, can lower L(y_l) "
        "for all small steps. Counterexample: three responses, π uniform at θ = 0, logits φ·θ + ½ c θ·θ with φ = (2, "
        "1), (1, 1), (−3, −2) and c = (0, 1, 0), and one pair, of chosen 0 and rejected 1: the step goes along (1, "
        "−1)/√2, and there the second derivative of L(y_l) is 1/3 − 2/3 < 0."
    ),
    fields={**BATCH, "bends": Choice((False, True)), "curvature": Reals(sizes=("num_classes",))},
    check=lowers_rejected,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={PLAIN: is_plain},
    condition=("the policy is log-linear: logits do not bend", lambda i: not i["bends"]),
    corrected="x.dpo-pg-slopes",
    control=Control(
        breaks=PLAIN, instance={**THREE_RESPONSES, "bends": False, "curvature": [0.0] * 3, "scales": [4.0, 1.0]}
    ),
)


def pair_loss(instance: Instance, theta: Tensor) -> Tensor:
    """Return the mean of f(β(h_w − h_l)) over the pairs of a batch, y_w and y_l independent."""
    log_pi = log_policy(instance, theta)
    log_ref = torch.tensor(reference_of(instance), dtype=torch.float64).log()
    size = (len(log_pi), len(log_pi))
    pairs = Pairs.from_log_probs(
        log_pi_chosen=log_pi[:, None].expand(size),
        log_pi_rejected=log_pi.expand(size),
        log_ref_chosen=log_ref[:, None].expand(size),
        log_ref_rejected=log_ref.expand(size),
        weights=torch.outer(*(torch.tensor(instance[side], dtype=torch.float64) for side in ("chosen", "rejected"))),
    )
    return pairs.mean(objective(instance["loss"], beta=instance["beta"])(pairs))


def reference_of(instance: Instance) -> Any:
    """Return π_ref: the policy itself at the start of training, another one later."""
    return instance["policy"] if instance["starts"] else instance["reference"]


def lowers_pair_loss(instance: Instance) -> float:
    """Return 1 where Δθ is no descent direction of the loss of the pairs."""
    chosen, _, step = gradients(instance)
    return does_not_fall(gradient(partial(pair_loss, instance), instance), step, chosen)


def one_margin(instance: Instance) -> bool:
    """Return whether all pairs of the batch have one margin, those of a response with itself aside."""
    log_ratio = np.log(instance["policy"]) - np.log(reference_of(instance))
    margins = log_ratio[:, None] - log_ratio
    counted = np.outer(instance["chosen"], instance["rejected"]) * (1.0 - np.eye(len(margins))) > 0.0
    return bool(np.ptp(margins[counted]) < ROUNDING) and has_direction(instance)


COROLLARY_H_5_1 = Claim(
    name="did.cor-H.5.1",
    statement=(
        "For every f with f′ < 0, Δθ of DPO-PG is a descent direction of the loss f(β(h_w − h_l)) of a batch, h = log "
        "π/π_ref."
    ),
    source="DID paper, Corollary H.5.1; Appendix H: “guaranteed to reduce the DPO loss under small step sizes”",
    verdict="holds-conditionally",
    note=(
        "The proof is that of a single pair (the signs of ∇f and of both products are flipped in it, which "
        "cancels). In a batch each pair weighs f′ of its own margin, while the projection weighs all alike, so "
        "that the batch's loss may rise. Smallest counterexample, two responses: w = (3/5, 2/5), l = (2/5, 3/5), "
        "π = (½, ½), π_ref = (1/5, 4/5), β = 1. The margin is log 4 = 1.39 and already above DPO's optimum 2 log "
        "1.5 = 0.81, but DPO-PG still raises response 0 towards w. It holds where all pairs have the same margin "
        "(one pair, or the first step from π_ref), unless Δθ = 0 as in Theorem H.4: then ∇f = β f′ (∇L(y_l) − "
        "∇L(y_w)), and both products have the right sign."
    ),
    fields={
        **BATCH,
        "reference": Simplex(),
        "starts": Choice((True, False)),
        "beta": BETA,
        "loss": Choice(("dpo", "exponential", "robust_dpo")),
    },
    check=lowers_pair_loss,
    tolerance=ROUNDING,
    reason=YES_OR_NO,
    assumptions={PLAIN: is_plain},
    condition=("all pairs have one margin, and ∇L(y_w) is no multiple c ≥ 0 of ∇L(y_l)", one_margin),
    corrected="x.dpo-pg-slopes",
    control=Control(
        breaks=PLAIN,
        instance={
            **THREE_RESPONSES,
            "features": [[3.0, 2.0], [2.0, 1.0], [-5.0, -3.0]],
            "scales": [4.0, 1.0],
            "reference": [1 / 3, 1 / 3, 1 / 3],
            "starts": True,
            "beta": 1.0,
            "loss": "dpo",
        },
    ),
)


def slopes(instance: Instance) -> float:
    """Return how far the slopes along Δθ are from their closed forms, relative to both gradients."""
    chosen, rejected, step = gradients(instance)
    fall = float(step @ chosen + step @ step)
    rise = float(step @ rejected) - max(0.0, -float(chosen @ rejected))
    length = float(chosen.norm())
    return max(abs(fall) / length**2, abs(rise) / (length * float(rejected.norm()))) if length > 0.0 else 0.0


DPO_PG_SLOPES = Claim(
    name="x.dpo-pg-slopes",
    statement=(
        "Along the step of DPO-PG L(y_w) falls at the rate |p|² and L(y_l) rises at the rate max(0, −g_w·g_l), p being "
        "the projected gradient: neither goes the other way to first order."
    ),
    source="corrects Theorems H.4, H.5 and Corollary H.5.1 of the DID paper",
    verdict="holds",
    note=(
        "Let g_w, g_l be the gradients and p the projected one. If g_w·g_l > 0, p is orthogonal to g_l and "
        "differs from g_w by a multiple of it, so p·g_w = |p|² and p·g_l = 0; otherwise p = g_w. Either way "
        "p·g_w = |p|² and p·g_l = min(0, g_w·g_l). So L(y_w) falls unless p = 0, which is when g_w = c g_l with "
        "c ≥ 0, and the mean margin L(y_l) − L(y_w) never falls to first order. The control rescales "
        "coordinates, as RMSprop and Adam do, and breaks this."
    ),
    fields=BATCH,
    check=slopes,
    tolerance=ROUNDING,
    reason="an identity of scalar products, relative to the lengths of both gradients",
    assumptions={PLAIN: is_plain},
    control=Control(breaks=PLAIN, instance={**THREE_RESPONSES, "scales": [1.0, 4.0]}),
)

CLAIMS = (
    THEOREM_H_4,
    THEOREM_H_5,
    COROLLARY_H_5_1,
    DPO_PG_SLOPES,
    DPO_PG_CLIPPING,
    DPO_PG_RMSPROP,
    FIGURE_7,
)
