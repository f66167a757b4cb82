"""Section 4 of the MI-DPO paper: SparsePO, and what becomes of any prior that is frozen."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from didsim.claims._claim import Claim, Control
from didsim.claims._common import CERTIFICATE, ROUNDING, SOLVED
from didsim.claims._fields import Choice, Count, Field, Instance, Reals
from didsim.claims._mi_pairs import (
    COST,
    RELATIVE,
    SEQUENCES,
    distance,
    flows,
    problem_of,
)
from didsim.claims._mi_roles import with_weights
from didsim.engine import evaluated, snapshot_pairs
from didsim.objectives import objective
from didsim.policy import Policy
from didsim.stationary import solve


def recovers_sparse_po(instance: Instance) -> float:
    """Return how far MI-DPO is from SparsePO: as printed, −E[u − Δ], or with its log σ."""
    alpha = instance["alpha"]
    loss = objective("mi_dpo", alpha=alpha, prior="sparse_po", stop_gradient=not flows(instance))
    bare, logits = snapshot_pairs(problem_of(instance), Policy.from_probs(instance["policy"]), loss)
    masks = {name: (instance[name], instance[name]) for name in ("reward_mask", "kl_mask")}
    pairs = with_weights(bare, **masks)
    original = objective("sparse_po", beta=alpha, lam=instance.get("lam", 0.0))
    losses = original(pairs)
    if not instance.get("logistic", False):
        losses = original.rejected_score(pairs.rejected) - original.score(pairs.chosen)
    size = alpha * (1.0 + np.max(instance["reward_mask"]) + np.max(instance["kl_mask"]))
    return distance(evaluated(loss(pairs), pairs, logits), evaluated(losses, pairs, logits), size)


MASKED: Mapping[str, Field] = {
    **SEQUENCES,
    "num_positions": Count(5, 5),
    "reward_mask": Reals(low=0.0, sizes=("num_classes", "num_positions")),
    "kl_mask": Reals(low=0.0, sizes=("num_classes", "num_positions")),
}
"""Sequences with two masks for each token."""

ONES = [[1.0] * 5] * 2
AT_REFERENCE: Instance = {
    "num_prompts": 1,
    "num_classes": 2,
    "num_positions": 5,
    "policy": [[0.5, 0.5]],
    "reference": [[0.5, 0.5]],
    "chosen": [[0.75, 0.25]],
    "rejected": [[0.25, 0.75]],
    "alpha": 1.0,
    "reward_mask": ONES,
    "kl_mask": ONES,
}
"""Two responses at π = π_ref, masks of 1."""

SPARSE_PO = Claim(
    name="mi.recovers-sparse-po",
    statement=(
        "With the prior ζ ∝ π Π_t (π_ref/π)^{μ₁} exp(−Σ_t μ₂ KL(π_ref ‖ π)) MI-DPO is SparsePO, whose loss is printed "
        "as −E[u − Δ], in value and in gradient."
    ),
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="fails",
    note=(
        "As printed, SparsePO's loss has no log σ: it is linear in the margin and in general has no minimum, while "
        "MI-DPO's is −log σ of the same margin. Counterexample: any two responses at π = π_ref, where the printed loss "
        "is 0 and MI-DPO's log 2. It is a misprint: the loss of the SparsePO paper, its Eq. 6, has the log σ, and an "
        "L1 norm of the masks besides. See x.recovers-sparse-po for what does hold."
    ),
    fields=MASKED,
    check=recovers_sparse_po,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the masks have no L1 norm in the loss": lambda i: i.get("lam", 0.0) == 0.0},
    cost=COST,
    corrected="x.recovers-sparse-po",
    control=Control(
        breaks="the masks have no L1 norm in the loss",
        instance={**AT_REFERENCE, "lam": 1.0, "logistic": True},
    ),
)

SPARSE_PO_CORRECTED = Claim(
    name="x.recovers-sparse-po",
    statement=(
        "With log σ restored, masks that are given, and gradient that flows through ζ, MI-DPO under the same prior is "
        "SparsePO, in value and in gradient."
    ),
    source="ours; corrects mi.recovers-sparse-po",
    verdict="holds",
    note=(
        "π cancels in log π/ζ, and u and Δ are left. With ζ frozen only the gradient of α log π remains, whatever the "
        "masks: the control has masks of 1/2 and two responses at π = π_ref, and the frozen gradient is twice "
        "SparsePO's. The masks belong to tokens and not to roles, so that one ζ serves chosen and rejected responses. "
        "If masks are learned, their L1 norm is no part of any prior and has to be added to the loss."
    ),
    fields=MASKED,
    check=lambda i: recovers_sparse_po({**i, "logistic": True}),
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"gradient flows through ζ": flows},
    cost=COST,
    control=Control(
        breaks="gradient flows through ζ",
        instance={**AT_REFERENCE, "frozen": True, "reward_mask": [[0.5] * 5] * 2},
    ),
)


def stationary_if_frozen(instance: Instance) -> float:
    """Return the gradient through ζ, relative to α, where the solver finds the frozen one to vanish."""
    problem, alpha, prior = problem_of(instance), instance["alpha"], {"prior": instance["prior"]}
    if "features" in instance:
        problem = replace(problem, features=np.array(instance["features"]))
    frozen, free = (objective("mi_dpo", alpha=alpha, stop_gradient=stop, **prior) for stop in (True, False))
    policy = solve(problem, frozen, starts=1).policy
    if policy is None:
        return np.inf
    pairs, logits = snapshot_pairs(problem_of(instance), policy, free)
    by_logits = evaluated(free(pairs), pairs, logits)[1]
    if problem.features is not None:
        by_logits = problem.features[0].T @ by_logits
    return float(np.abs(by_logits).max()) / (1.0 + alpha)


FROZEN_PRIOR = Claim(
    name="x.frozen-prior",
    statement="A free policy that is stationary for MI-DPO with ζ frozen is stationary with gradient through ζ too.",
    source="ours; beside mi.recovers-centropy, -simpo, -tdpo and -tis-dpo",
    verdict="holds",
    note=(
        "Whether ζ is frozen changes the gradient, and so the path, but not where a free policy ends. Proof: let s be "
        "the scores α log π/ζ, G = ∂L/∂s the derivative of the loss by them, and J that of log π by the logits; the "
        "loss sees differences of scores only, so Σ G = 0. The frozen gradient is α Jᵀ G, and Jᵀ G = 0 means G ∝ π, "
        "since log π can move in every direction that keeps Σ π = 1. Both together give G = 0, and then the gradient "
        "through ζ, which is G times the full derivative of s, is 0 as well. A policy of fewer parameters, as in the "
        "control, has a smaller J: there the two end at different places."
    ),
    fields={
        **SEQUENCES,
        "num_prompts": Count(1, 1),
        "num_classes": Count(2, 4),
        "prior": Choice(("centropy", "simpo", "tdpo", "tis_dpo")),
    },
    check=stationary_if_frozen,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    assumptions={"the policy is free": lambda i: "features" not in i},
    cost=100,
    control=Control(
        breaks="the policy is free",
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "policy": [[0.5, 0.25, 0.25]],
            "reference": [[0.5, 0.25, 0.25]],
            "chosen": [[0.5, 0.25, 0.25]],
            "rejected": [[0.25, 0.5, 0.25]],
            "alpha": 1.0,
            "prior": "simpo",
            "features": [[1.0], [0.0], [2.0], [0.0]],
        },
    ),
)
