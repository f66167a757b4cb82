"""Theorem L.1 and footnote 4 of the DID paper: rejected responses that lead to the target, and where DPO ends."""

import numpy as np
import torch

from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, CERTIFICATE, SOLVED, WORLD, problem_of
from didsim.claims._did_theory import dataset_of, encodes
from didsim.claims._did_tools import RESOLVABLE, distance, expected_loss, is_moderate, slope_at
from didsim.claims._fields import Count, Instance, Simplex
from didsim.differential import did, ideal_rejected, tilt
from didsim.objectives import objective
from didsim.policy import Policy
from didsim.preference import preference_probabilities
from didsim.stationary import solve


def stationary_at_target(instance: Instance) -> float:
    """Return the slope of the DPO loss at π*, or by how much another policy has a smaller loss, whichever is more."""
    problem, loss = problem_of(instance), objective("dpo", beta=instance["beta"])
    policies = torch.tensor(problem.target.log_probs), torch.tensor(np.log(instance["other"]))
    least, other = (float(expected_loss(problem, loss, log_pi)) for log_pi in policies)
    return max(slope_at(problem, loss, problem.target), least - other)


POWER_LAW = "π_l ∝ π_ref (π_ref/π*)^β"

THEOREM_L_1_IF = Claim(
    name="did.thm-L.1-if",
    statement="If y_w ~ π_ref and y_l ~ π_l ∝ π_ref (π_ref/π*)^β, then DPO at β ends at π*.",
    source="DID paper, Theorem L.1, Case 2, and Eq. 1",
    verdict="holds",
    note=(
        "With these rejected responses log π_ref/π_l is β log π*/π_ref up to a constant, so the labels follow the "
        "Bradley–Terry model that DPO has at π*, and no other margins fit better. The check takes the gradient of the "
        "library's loss at π* by automatic differentiation, and compares the loss with that of another policy. "
        "Pairs of a response with itself occur and change nothing. The control draws rejected responses uniformly."
    ),
    fields={**WORLD, "beta": BETA, "other": Simplex()},
    check=stationary_at_target,
    tolerance=1e-10,
    reason="an identity: a slope of sums of K² terms below 1, each exact to rounding",
    cost=2,
    assumptions={POWER_LAW: encodes, RESOLVABLE: is_moderate},
    control=Control(
        breaks=POWER_LAW,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.8, 0.2],
            "beta": 1.0,
            "other": [0.5, 0.5],
            "rejected": [0.5, 0.5],
        },
    ),
)


def round_trip(instance: Instance) -> float:
    """Return how far π_l is from the ideal one for the policy that DPO learns from it, over max(1, β), in nats."""
    problem, beta = problem_of({**instance, "target": instance["reference"]}), instance["beta"]
    policy = solve(problem, objective("dpo", beta=beta), starts=1).policy
    if policy is None:
        return float("inf")
    return distance(ideal_rejected(problem.reference, policy, beta), problem.rejected) / max(1.0, beta)


FROM_REFERENCE = "y_w is drawn from π_ref"


def dpo_is_moderate(instance: Instance) -> bool:
    """Return whether the problem, and the policy that DPO learns from it, are not too extreme for float64."""
    problem = problem_of({**instance, "target": instance["reference"]})
    return is_moderate(instance, tilt(problem.reference, problem.chosen, problem.rejected, 1.0 / instance["beta"]))


THEOREM_L_1_ONLY_IF = Claim(
    name="did.thm-L.1-only-if",
    statement="If y_w ~ π_ref, y_l ~ π_l, and DPO at β ends at π*, then π_l ∝ π_ref (π_ref/π*)^β.",
    source="DID paper, Theorem L.1, Case 1",
    verdict="holds",
    note=(
        "Whatever π_l is, DPO ends at π ∝ π_ref (π_ref/π_l)^{1/β}; that equation can be solved for π_l, so that one "
        "target belongs to one π_l. The check lets DPO learn from an arbitrary π_l, and computes the ideal rejected "
        "distribution of what it learnt: it is π_l again. It needs β of the loss to be that of the formula, "
        "y_w and y_l drawn independently, and y_w ~ π_ref: in the control they come from another policy, and Eq. 1 "
        "then leads to a wrong π_l. In general π_l ∝ w (π_ref/π*)^β with w the distribution of y_w."
    ),
    fields={"num_classes": Count(2, 6), "reference": Simplex(), "rejected": Simplex(), "beta": BETA},
    check=round_trip,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={FROM_REFERENCE: lambda i: "chosen" not in i, RESOLVABLE: dpo_is_moderate},
    control=Control(
        breaks=FROM_REFERENCE,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "rejected": [0.2, 0.8],
            "beta": 1.0,
            "chosen": [0.75, 0.25],
        },
    ),
)


def end_of_dpo(instance: Instance) -> float:
    """Return how far the DPO policy and its DID are from π_ref p*^{1/β} and p*^{1/β}, in nats."""
    problem, beta = problem_of({**instance, "target": instance["reference"]}), instance["beta"]
    dataset, table = None, preference_probabilities(problem.chosen, problem.rejected)
    if "wins" in instance:
        wins = np.array(instance["wins"])
        dataset, table = dataset_of(wins), wins / np.maximum(wins + wins.T, 1)
    odds = table[1:, 0] / table[0, 1:]  # of each other response against response 0
    preferred = Policy.from_logits(np.log([1.0, *odds]))
    policy = solve(problem, objective("dpo", beta=beta), dataset=dataset, starts=1).policy
    if policy is None:
        return float("inf")
    power = Policy.from_logits(preferred.log_probs / beta)
    aim = Policy.from_logits(problem.reference.log_probs + power.log_probs)
    return max(distance(policy, aim), distance(did(policy, problem.reference), power))


TRANSITIVE = "labels are Bradley–Terry in log p*"

FOOTNOTE_4 = Claim(
    name="did.footnote-4",
    statement="DPO converges to π ∝ π_ref p*^{1/β}, whose differential information is ∝ p*^{1/β}.",
    source="DID paper, footnote 4 and Appendix L",
    verdict="holds",
    note=(
        "Here y_w and y_l come from any two distributions w and l, and p* is read off the table of preferences, as the "
        "odds against response 0. The loss is least where β log π/π_ref = log p* + c, which is the statement. A "
        "p* has to exist: if labels are not Bradley–Terry (control: 0 beats 1 and 1 beats 2 three times of four, 0 and "
        "2 are even), no p* gives all the odds, and DPO ends at a compromise. On finite data the policy is the "
        "same function of the estimate of p*, if one exists."
    ),
    fields={
        "num_classes": Count(2, 6),
        "reference": Simplex(),
        "chosen": Simplex(),
        "rejected": Simplex(),
        "beta": BETA,
    },
    check=end_of_dpo,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={TRANSITIVE: lambda i: "wins" not in i, RESOLVABLE: dpo_is_moderate},
    control=Control(
        breaks=TRANSITIVE,
        instance={
            "num_classes": 3,
            "reference": [0.25, 0.25, 0.5],
            "chosen": [0.25, 0.25, 0.5],
            "rejected": [0.5, 0.25, 0.25],
            "beta": 1.0,
            "wins": [[0, 3, 2], [1, 0, 3], [2, 1, 0]],
        },
    ),
)

CLAIMS = (THEOREM_L_1_IF, THEOREM_L_1_ONLY_IF, FOOTNOTE_4)
