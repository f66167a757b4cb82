"""Theorem 3.4 of the DID paper: which reward recovers the target policy, and which others do."""

from dataclasses import replace

import numpy as np
import torch

from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, CERTIFICATE, SOLVED, WORLD, problem_of
from didsim.claims._did_theory import encodes
from didsim.claims._did_tools import RESOLVABLE, RESOLVED, distance, is_moderate, slope_at, spread
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.objectives import BoundObjective, Responses, objective
from didsim.optima import closed_form
from didsim.preference import Problem
from didsim.stationary import solve

EVERY = "every policy is allowed"


def recovery(instance: Instance) -> float:
    """Return how far the DPO policy is from π*, or over a restricted class from the policy nearest to π* in KL."""
    problem, loss = problem_of(instance), objective("dpo", beta=instance["beta"])
    if "features" in instance:
        moments = np.array(instance["features"])
        policy = solve(replace(problem, features=moments), loss, starts=1).policy
        missed = problem.target.probs if policy is None else problem.target.probs - policy.probs
        return float(np.abs(problem.prompt_weights @ np.atleast_2d(missed) @ moments).max())
    found = distance(solve(problem, loss, starts=1).policy, problem.target)
    return max(found, slope_at(problem, loss, problem.target, instance["constant"]))


THEOREM_3_4_IF = Claim(
    name="did.thm-3.4-if",
    statement="If preferences encode the differential information from π_ref to π*, then preference optimisation with "
    "r = β log π/π_ref + C(x) ends at π*.",
    source="DID paper, Theorem 3.4 (⇐), Appendix F.3",
    verdict="holds",
    note=(
        "Proof: by Theorem 3.3 the labels are Bradley–Terry in β log π*/π_ref. The population loss is strictly convex "
        "in differences of rewards, so its only minimum has r = β log π*/π_ref up to a constant per prompt, and log π "
        "is then log π* up to a constant that Σ π = 1 fixes. The solver finds it, and the gradient of the loss with "
        "log π_ref shifted by a number per prompt, which is what C(x) is, vanishes at π*. That every policy is allowed "
        "does real work: in a log-linear class without π* (control: three responses, one feature) the DPO policy "
        "is not the one that minimises KL(π* ‖ π)."
    ),
    fields={
        "num_prompts": Count(1, 2),
        "num_classes": Count(2, 4),
        "prompts": Simplex(("num_prompts",)),
        "reference": Simplex(("num_prompts", "num_classes")),
        "target": Simplex(("num_prompts", "num_classes")),
        "beta": BETA,
        "constant": Reals(sizes=("num_prompts",)),
    },
    check=recovery,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={EVERY: lambda i: "features" not in i, RESOLVABLE: is_moderate},
    control=Control(
        breaks=EVERY,
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "prompts": [1.0],
            "reference": [[0.25, 0.25, 0.5]],
            "target": [[0.1, 0.8, 0.1]],
            "beta": 1.0,
            "constant": [0.0],
            "features": [[0.0], [1.0], [3.0]],
        },
    ),
)

SAME_REWARD = 1e-3
"""Rewards that differ by less count as the same, in units of β above 1."""


def each_target(instance: Instance) -> list[Instance]:
    """Return one instance for each target, with its own rejected responses if they are given."""
    rejected = instance.get("rejected")
    if rejected is None:
        return [{**instance, "target": target} for target in instance["targets"]]
    both = zip(instance["targets"], rejected, strict=True)
    return [{**instance, "target": target, "rejected": own} for target, own in both]


def problems_of(instance: Instance) -> list[Problem]:
    """Return one DID problem for each target, all with the same π_ref and β."""
    return [problem_of(each) for each in each_target(instance)]


def tuned_alpha(instance: Instance) -> float:
    """Return the given α, or that which brings α (log π* − κ log π_ref) nearest to β log π*/π_ref, π* the first."""
    if "alpha" in instance:
        return instance["alpha"]
    log_ref, log_target = np.log(instance["reference"]), np.log(instance["targets"][0])
    wanted, offered = instance["beta"] * (log_target - log_ref), log_target - instance["kappa"] * log_ref
    wanted, offered = wanted - wanted.mean(), offered - offered.mean()
    return float(wanted @ offered / max(offered @ offered, 1e-30))


def other_reward(instance: Instance) -> BoundObjective:
    """Return the logistic loss of the reward r = α (log π − κ log π_ref), with α tuned to the first target."""
    alpha, kappa = tuned_alpha(instance), instance["kappa"]
    return objective("h_dpo", beta=alpha * kappa, eta=1.0 / kappa) if kappa else objective("log_pi", beta=alpha)


def another_reward(instance: Instance) -> float:
    """Return by how much a reward that recovers every target differs from β log π/π_ref + C; 0 if it misses one.

    It is in units of β above 1. The rewards are compared at two policies, of which the uniform one tells their
    coefficients of log π_ref apart, and the other one those of log π.
    """
    problems, loss = problems_of(instance), other_reward(instance)
    for problem in problems:
        formula = closed_form(problem, loss)
        if formula is None or distance(formula, problem.target) > SOLVED:
            return 0.0
    if any(distance(solve(problem, loss, starts=1).policy, problem.target) > SOLVED for problem in problems):
        return 0.0
    log_ref = torch.tensor(problems[0].reference.log_probs)
    lopsided = torch.log_softmax(torch.eye(len(log_ref), dtype=log_ref.dtype)[0], dim=0)
    dpo, found = objective("dpo", beta=instance["beta"]), 0.0
    for log_pi in (torch.full_like(log_ref, -np.log(len(log_ref))), lopsided):
        responses = Responses(log_pi, log_ref, torch.ones_like(log_ref))
        difference = loss.implicit_reward(responses) - dpo.implicit_reward(responses)
        found = max(found, spread(difference.numpy()))
    return found / max(1.0, instance["beta"])


def several(instance: Instance) -> bool:
    """Return whether there are two targets that differ."""
    targets = np.log(instance["targets"])
    return len(targets) > 1 and spread(targets[0] - targets[1]) > 0.01


REWARDS = {
    "num_targets": Choice((1, 2, 2, 2)),
    "num_classes": Count(2, 3),
    "reference": Simplex(),
    "targets": Simplex(("num_targets", "num_classes")),
    "beta": BETA,
    "kappa": Choice((0.0, 0.5, 0.9, 1.0, 2.0)),
}
"""A reward α (log π − κ log π_ref), and the targets that it is to recover."""

RISES = "the reward rises with π: α > 0"

ENCODED = "preferences encode the differential information to each target"

OTHER_EXPONENT: Instance = {
    "num_targets": 2,
    "num_classes": 2,
    "reference": [0.5, 0.5],
    "targets": [[0.8, 0.2], [0.9, 0.1]],
    "beta": 2.0,
    "kappa": 1.0,
    "alpha": 1.0,
    "rejected": [[0.2, 0.8], [0.1, 0.9]],
}
"""Two targets, whose rejected responses belong to β = 1, while β = 2: so r = log π/π_ref recovers both."""


def all_moderate(instance: Instance) -> bool:
    """Return whether the problems of all targets are moderate."""
    return all(is_moderate(each) for each in each_target(instance))


def all_encoded(instance: Instance) -> bool:
    """Return whether the power law holds for all targets."""
    return all(encodes(each) for each in each_target(instance))


THEOREM_3_4_ONLY_IF = Claim(
    name="did.thm-3.4-only-if",
    statement="If preferences encode the differential information from π_ref to π*, then preference optimisation with "
    "a reward r ends at π* only if r = β log π/π_ref + C.",
    source="DID paper, Theorem 3.4 (⇒), Appendix F.3",
    verdict="holds-conditionally",
    note=(
        "For one given target other rewards end at π* too: with π_ref = (3/4, 1/4), π* = (9/10, 1/10) and β = 1 it is "
        "p* = π_ref, and r = ½ log π, without any reference, ends at p*² ∝ (9, 1), which is π*. This is the paper's "
        "own temperature family: if π* ∝ π_ref^{1/τ}, then r = α (log π − κ log π_ref), the form that is checked, "
        "recovers π* exactly at α = β (1 − τ)/(1 − κτ), if that is positive. The printed proof asks for P(Y | r) ∝ q^β "
        "at all π, while recovery needs it at π = π* only. If one reward, a continuous function of π, is to recover "
        "every target uniquely, only the printed form is left: π ↦ r mod constants is then one to one, its image is "
        "open (invariance of domain), and a minimum of the strictly convex loss over an open set is the free one, so "
        "that r = β log π*/π_ref + C at each π = π*. Losses other than the logistic one may recover every target as "
        "well (x.exponential-link); in the control the pairs encode β = 1 in place of 2, and r = log π/π_ref recovers "
        "both targets."
    ),
    fields=REWARDS,
    check=another_reward,
    tolerance=SAME_REWARD,
    reason="recovery is known to 1e-7 nats and targets differ by 1e-2, which fixes α/β to 1e-5, and rewards to 1e-4 β",
    cost=4,
    assumptions={RISES: lambda i: tuned_alpha(i) > 1e-6, ENCODED: all_encoded, RESOLVABLE: all_moderate},
    condition=("the same reward has to recover two targets that differ by 0.01 nats or more", several),
    corrected="x.one-reward-for-all",
    control=Control(breaks=ENCODED, instance=OTHER_EXPONENT),
)


def both_directions(instance: Instance) -> float:
    """Return the larger violation of both directions, each in units of its own tolerance."""
    dpo = objective("dpo", beta=instance["beta"])
    found = [distance(solve(problem, dpo, starts=1).policy, problem.target) for problem in problems_of(instance)]
    return max(max(found) / SOLVED, another_reward(instance) / SAME_REWARD)


THEOREM_3_4 = replace(
    THEOREM_3_4_ONLY_IF,
    name="did.thm-3.4",
    statement="If preferences encode the differential information from π_ref to π*, then preference optimisation with "
    "a reward r ends at π* if and only if r = β log π/π_ref + C.",
    source="DID paper, Theorem 3.4, Appendix F.3",
    note=(
        "Both directions at once. That r = β log π/π_ref + C ends at π* holds, with a proof in did.thm-3.4-if. That "
        "only this reward does fails for a single target: with π_ref = (3/4, 1/4), π* = (9/10, 1/10) and β = 1 the "
        "reward ½ log π ends at π* as well. It is right if the same reward has to recover every target from the same "
        "reference: see did.thm-3.4-only-if."
    ),
    fields={**REWARDS, "num_targets": Count(2, 2)},
    check=both_directions,
    tolerance=1.0,
    reason="each direction in units of its own tolerance: 1e-7 nats for the policy, 1e-3 for the reward, in nats or β",
    cost=20,
)


def answer(instance: Instance) -> float:
    """Return how far the answer of a reward to a change of target is from β/α times that change, in nats."""
    loss = other_reward(instance)
    first, second = (solve(problem, loss, starts=1).policy for problem in problems_of(instance))
    if first is None or second is None:
        return float("inf")
    change = np.subtract(*np.log(instance["targets"]))
    return spread(first.log_probs - second.log_probs - instance["beta"] / instance["alpha"] * change)


def answers_moderate(instance: Instance) -> bool:
    """Return whether problems are moderate, and the policies that the reward leads to are not extreme."""
    if not all_moderate(instance):
        return False
    found = (closed_form(problem, other_reward(instance)) for problem in problems_of(instance))
    return all(policy is not None and spread(policy.log_probs) <= RESOLVED for policy in found)


ONE_REWARD_FOR_ALL = Claim(
    name="x.one-reward-for-all",
    statement=(
        "If the target changes, the policy to which r = α (log π − κ log π_ref) leads changes β/α times as much in "
        "log π; so a reward of this family that recovers two different targets is β log π/π_ref + C."
    ),
    source="ours, the corrected form of DID paper, Theorem 3.4",
    verdict="holds",
    note=(
        "Proof: the population loss is least where α (log π − κ log π_ref) = β (log π* − log π_ref) + c. Subtract this "
        "for two targets: α Δlog π = β Δlog π* + c. If both are recovered, Δlog π = Δlog π* ≠ 0 gives α = β, and then "
        "either equation makes (κ − 1) log π_ref a constant, so that r = β log π/π_ref + C. A reward tuned to one "
        "target misses another by |β/α − 1| times their distance. In the control the rejected responses do not follow "
        "the target, and neither does the policy."
    ),
    fields={
        **REWARDS,
        "num_targets": Count(2, 2),
        "num_classes": Count(2, 4),
        "alpha": BETA,
    },
    check=answer,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={ENCODED: all_encoded, RESOLVABLE: answers_moderate},
    control=Control(
        breaks=ENCODED,
        instance={
            "num_targets": 2,
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "targets": [[0.8, 0.2], [0.9, 0.1]],
            "beta": 1.0,
            "kappa": 0.0,
            "alpha": 1.0,
            "rejected": [[0.2, 0.8], [0.2, 0.8]],
        },
    ),
)


def exponential(instance: Instance) -> float:
    """Return how far the policy of the exponential loss is from π*, in nats."""
    problem = problem_of(instance)
    loss = objective("exponential", beta=instance.get("link_beta", instance["beta"] / 2.0))
    return distance(solve(problem, loss, starts=1).policy, problem.target)


HALF = "the exponential loss has β/2"

EXPONENTIAL_LINK = Claim(
    name="x.exponential-link",
    statement=(
        "From the same pairs the exponential loss e^{−(β/2)(h_w − h_l)}, h = log π/π_ref, recovers every target, as "
        "DPO does at β."
    ),
    source="ours, an answer to DID paper, Theorem 3.4",
    verdict="holds",
    note=(
        "Let w and l be the distributions of y_w and y_l, and h* = log π*/π_ref: a link f of the margin leads to π* if "
        "w_i l_j f′(m) = w_j l_i f′(−m) for every pair at m = b (h*_i − h*_j). Since w_i l_j/(w_j l_i) = e^{β(h*_i − "
        "h*_j)}, every link with f′(−m)/f′(m) = e^{cm} does, at b = β/c. The logistic one has c = 1 and the "
        "exponential one c = 2, and both are strictly convex, so that nothing else is stationary (the lemma in "
        "didsim.optima). So the logistic loss is not the only one that recovers π*; the control takes the exponential "
        "loss at β itself, which stops short of it."
    ),
    fields={**WORLD, "beta": BETA},
    check=exponential,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={HALF: lambda i: "link_beta" not in i, RESOLVABLE: is_moderate},
    control=Control(
        breaks=HALF,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.8, 0.2],
            "beta": 1.0,
            "link_beta": 1.0,
        },
    ),
)


CLAIMS = (
    THEOREM_3_4,
    THEOREM_3_4_IF,
    THEOREM_3_4_ONLY_IF,
    ONE_REWARD_FOR_ALL,
    EXPONENTIAL_LINK,
)
