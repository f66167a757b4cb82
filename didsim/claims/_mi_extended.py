"""Beyond a given prior in the MI-DPO paper: constraints (Section 5.1), and alternating with the marginal prior."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import ROUNDING, SOLVED
from didsim.claims._fields import Choice, Count, Field, Instance, Simplex
from didsim.claims._mi_pairs import space_of
from didsim.claims._mi_prior import WEIGHTS, all_pairs, expected_loss
from didsim.differential import did
from didsim.info import marginal, mutual_information
from didsim.objectives import BoundObjective, objective
from didsim.optima import dpo_optimum
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.stationary import solve, solve_alternating

SMALL = {"num_classes": Count(2, 5), "policy": Simplex()}
LAMBDAS = Choice((0.1, 0.5, 1.0, 2.0))


def with_sides(chosen: Any, rejected: Any, **more: Any) -> Problem:
    """Return the problem of pairs with these distributions; the reference is uniform."""
    parts = {"chosen": Policy.from_probs(chosen), "rejected": Policy.from_probs(rejected)}
    uniform = Policy.from_logits(np.zeros(parts["chosen"].log_probs.shape))
    return Problem(reference=uniform, target=uniform, **parts, **more)


def pair_losses(loss: BoundObjective, policy: Policy, log_zeta: Tensor | None = None) -> FloatArray:
    """Return the loss of every pair of sequences, [K, K]."""
    log_pi = torch.tensor(policy.log_probs)[None]
    uniform = np.full(policy.num_classes, 1.0 / policy.num_classes)
    problem = with_sides(uniform, uniform, space=space_of(policy.num_classes))
    return loss(all_pairs(problem, log_pi, torch.zeros_like(log_pi) if log_zeta is None else log_zeta)).numpy()[0]


def constrained_loss(instance: Instance) -> BoundObjective:
    """Return CPO or ORPO with the λ of an instance."""
    if instance["objective"] == "cpo":
        return objective("cpo", beta=instance["beta"], lam=instance["lam"])
    return objective("orpo", lam=instance["lam"])


def not_a_probability(instance: Instance) -> float:
    """Return by how much e^{−loss} of both orders of a pair misses a sum of 1, for the worst pair."""
    chances = np.exp(-pair_losses(constrained_loss(instance), Policy.from_probs(instance["policy"])))
    off_diagonal = ~np.eye(len(chances), dtype=bool)
    return float(np.abs(chances + chances.T - 1.0)[off_diagonal].max())


CONSTRAINTS = Claim(
    name="mi.constraints",
    statement=(
        "With some constraint g(π, ζ) ≤ ε on the rewarded problem of Section 5.1, the derivation of Section 3.2 gives "
        "the losses of CPO and ORPO."
    ),
    source="MI-DPO paper, Section 5.1",
    verdict="fails",
    note=(
        "No constraint can: whatever g is, the optimal policy fixes a reward r(x, y), with a multiplier times the "
        "derivative of g in it, and the loss is −log σ(r_w − r_l), so that its exponentials e^{−loss} for both orders "
        "of a pair are probabilities and add up to 1. Those of CPO and ORPO do not, since they add −λ log π_w, or −log "
        "π_w/|y_w|, outside σ. Counterexample: two equally likely responses and CPO with λ = 1: the sum is 1/4 + 1/4. "
        "A constraint on the loss in place of the rewarded problem does lead to CPO: see x.constraints. With λ = 0 CPO "
        "is MI-DPO under a uniform prior; ORPO with λ = 0 is a likelihood without preferences, the control."
    ),
    fields={**SMALL, "objective": Choice(("cpo", "orpo")), "beta": Choice((0.1, 0.5, 1.0, 2.0)), "lam": LAMBDAS},
    check=not_a_probability,
    tolerance=ROUNDING,
    reason="probabilities, rounded",
    assumptions={"λ > 0": lambda i: i["lam"] > 0.0},
    corrected="x.constraints",
    control=Control(
        breaks="λ > 0",
        instance={
            "num_classes": 3,
            "policy": [0.25, 0.25, 0.5],
            "objective": "orpo",
            "beta": 1.0,
            "lam": 0.0,
        },
    ),
)


def constrained_minimum(instance: Instance) -> float:
    """Return by how much a policy of no lower likelihood undercuts CPO's, or how far the losses are from their sums."""
    beta, lam = instance["beta"], instance["lam"]
    problem = with_sides(instance["chosen"], instance["rejected"])
    uniform = Policy.from_logits(np.zeros(instance["num_classes"]))
    found = solve(problem, objective("cpo", beta=beta, lam=lam), starts=1).policy
    if found is None:
        return np.inf
    least = likelihood(problem, found) - instance.get("slack", 0.0)
    competitor = feasible(problem, Policy.from_probs(instance["policy"]), least)
    undercut = expected_loss(problem, found, uniform, beta) - expected_loss(problem, competitor, uniform, beta)
    return max(0.0, undercut, split(instance, competitor))


def likelihood(problem: Problem, policy: Policy) -> float:
    """Return E log π(y_w), in nats."""
    return float((problem.chosen.probs * policy.log_probs).sum())


def feasible(problem: Problem, policy: Policy, least: float) -> Policy:
    """Return the first policy on the way to w, the most likely one, whose chosen log-likelihood is at least this."""
    low, high = 0.0, 1.0
    if likelihood(problem, policy) >= least:
        return policy
    for _ in range(50):
        middle = 0.5 * (low + high)
        enough = likelihood(problem, _between(policy, problem.chosen, middle)) >= least
        low, high = (low, middle) if enough else (middle, high)
    return _between(policy, problem.chosen, high)


def _between(first: Policy, last: Policy, share: float) -> Policy:
    return Policy.from_logits((1.0 - share) * first.log_probs + share * last.log_probs)


def split(instance: Instance, policy: Policy) -> float:
    """Return how far CPO and ORPO are from MI-DPO under their priors plus a likelihood, at a policy."""
    beta, lam, lengths = instance["beta"], instance["lam"], space_of(instance["num_classes"]).lengths
    likelihoods = -policy.log_probs[:, None]
    cpo = pair_losses(objective("mi_dpo", alpha=beta, prior="uniform"), policy) + lam * likelihoods
    mean = torch.tensor(policy.log_probs / lengths)
    log_zeta = torch.tensor(policy.log_probs) - mean + torch.log(-torch.expm1(mean))
    odds = pair_losses(objective("mi_dpo", alpha=1.0, prior="given"), policy, log_zeta)
    orpo = lam * odds + likelihoods / lengths[:, None]
    printed = (objective("cpo", beta=beta, lam=lam), objective("orpo", lam=lam))
    wanted = [pair_losses(loss, policy) for loss in printed]
    return max(float((np.abs(got - want) / (1.0 + want)).max()) for got, want in zip((cpo, orpo), wanted, strict=True))


CONSTRAINTS_CORRECTED = Claim(
    name="x.constraints",
    statement=(
        "CPO's policy is the one that minimises MI-DPO's loss under a uniform prior among those whose chosen "
        "log-likelihood is at least its own; ORPO's loss is λ times MI-DPO's under ζ = π^{1−1/|y|}(1 − π^{1/|y|}) "
        "plus a likelihood."
    ),
    source="ours; corrects mi.constraints",
    verdict="holds",
    note=(
        "Put the constraint on the loss: minimise J_MI-DPO subject to −E log π(y_w) ≤ ε; the Lagrangian is J − "
        "λ E log π(y_w) up to a constant, which is CPO. Both parts are convex in the logits, so CPO's minimum is also "
        "the constrained one, with ε its own. Proof: a policy with a higher likelihood and a lower J would have a "
        "lower CPO loss. For ORPO the same split needs a prior that contains π, through which the gradient flows; "
        "that its minimum is a constrained one follows in the same way, for a global minimum. With slack in the "
        "likelihood, as in the control, a policy of lower J is allowed."
    ),
    fields={
        "num_classes": Count(3, 3),
        "chosen": Choice(WEIGHTS),
        "rejected": Choice(WEIGHTS),
        "policy": Simplex(),
        "beta": Choice((0.1, 0.5, 1.0, 2.0)),
        "lam": LAMBDAS,
    },
    check=constrained_minimum,
    tolerance=SOLVED,
    reason="the solver's policy is known to 1e-8 nats, and losses change by as much times β at most",
    assumptions={"ε is what CPO's policy attains": lambda i: i.get("slack", 0.0) == 0.0},
    cost=50,
    control=Control(
        breaks="ε is what CPO's policy attains",
        instance={
            "num_classes": 2,
            "chosen": [0.75, 0.25],
            "rejected": [0.25, 0.75],
            "policy": [0.9, 0.1],
            "beta": 1.0,
            "lam": 2.0,
            "slack": 1.0,
        },
    ),
)

ALTERNATING: Mapping[str, Field] = {
    "num_prompts": Count(1, 3),
    "num_classes": Count(2, 4),
    "prompts": Simplex(("num_prompts",)),
    "chosen": Simplex(("num_prompts", "num_classes")),
    "rejected": Simplex(("num_prompts", "num_classes")),
    "prior": Simplex(),
    "alpha": Choice((0.5, 1.0, 2.0)),
}
"""Pairs for a few prompts, and a prior to start with."""


def alternating_problem(instance: Instance) -> Problem:
    """Return the problem whose reference is the prior that the alternation starts with, at every prompt."""
    prompts = np.array(instance["prompts"])
    sides = [Policy.from_probs(instance[name]) for name in ("chosen", "rejected")]
    reference = Policy.from_probs(np.tile(instance["prior"], (len(prompts), 1)))
    return Problem(reference=reference, target=reference, chosen=sides[0], rejected=sides[1], prompts=prompts)


def rise_of_loss(instance: Instance) -> float:
    """Return by how much the loss rises when the prior becomes the marginal of its best policy, in nats."""
    problem, prior, alpha = alternating_problem(instance), Policy.from_probs(instance["prior"]), instance["alpha"]
    policy = dpo_optimum(problem, alpha, Policy.from_probs(instance.get("policy_prior", instance["prior"])))
    after = marginal(policy, problem.prompt_weights)
    return max(0.0, expected_loss(problem, policy, after, alpha) - expected_loss(problem, policy, prior, alpha))


def draw_losses(axes: Any) -> None:
    """Draw the loss after each half-step of the alternation."""
    instance = {
        "num_prompts": 2,
        "num_classes": 3,
        "prompts": [0.5, 0.5],
        "chosen": [[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]],
        "rejected": [[0.2, 0.4, 0.4], [0.3, 0.4, 0.3]],
        "prior": [0.2, 0.4, 0.4],
    }
    problem, prior = alternating_problem(instance), Policy.from_probs(instance["prior"])
    losses = []
    for _ in range(8):
        policy = dpo_optimum(problem, 1.0, prior)
        losses.append(expected_loss(problem, policy, prior, 1.0))
        prior = marginal(policy, problem.prompt_weights)
        losses.append(expected_loss(problem, policy, prior, 1.0))
    rounds = np.arange(1, len(losses) + 1) / 2.0
    panel = axes[0, 0]
    panel.plot(rounds, losses, color="C0")
    panel.plot(rounds[::2], losses[::2], "o", color="C0", label="after the policy's step")
    panel.plot(rounds[1::2], losses[1::2], "o", color="C1", label="after the prior's step")
    panel.set_xlabel("round")
    panel.set_ylabel("loss of MI-DPO, nats")
    panel.legend()


MARGINAL_PRIOR = Claim(
    name="mi.marginal-prior",
    statement=(
        "Alternating between the policy that minimises J_MI-DPO given ζ and the optimal prior of Lemma 1, its "
        "marginal, lowers J_MI-DPO at every step."
    ),
    source="MI-DPO paper, Section 3.1 (Eq. 4, Lemma 1) with the alternation of Section 5.2",
    verdict="fails",
    note=(
        "The two optima are of different problems: a free policy meets every preference exactly after its own step, "
        "whatever ζ is, so the loss is as low as it can be, and a step of the prior can only raise it, unless nothing "
        "moves. Counterexample: one prompt, two responses, chosen w = (3/4, 1/4), rejected l = (1/4, 3/4), ζ = (1/2, "
        "1/2), α = 1: the policy is (0.9, 0.1), with the loss 0.463; with ζ = π, which is its marginal, every loss is "
        "log 2. What the alternation does raise is the reward minus the mutual information, and it ends with few "
        "responses: see x.marginal-prior. With one prompt the marginal is the policy itself, so that J_MI-DPO with "
        "gradient through it is log 2 for every policy."
    ),
    fields=ALTERNATING,
    check=rise_of_loss,
    tolerance=ROUNDING,
    reason="losses of some ten nats, rounded",
    cost=2,
    assumptions={"the policy is the minimiser given ζ": lambda i: "policy_prior" not in i},
    corrected="x.marginal-prior",
    control=Control(
        breaks="the policy is the minimiser given ζ",
        instance={
            "num_prompts": 1,
            "num_classes": 2,
            "prompts": [1.0],
            "chosen": [[0.75, 0.25]],
            "rejected": [[0.25, 0.75]],
            "prior": [0.5, 0.5],
            "alpha": 1.0,
            "policy_prior": [0.4, 0.6],
        },
    ),
    picture=draw_losses,
)


def rewarded(problem: Problem, policy: Policy, alpha: float) -> float:
    """Return E r − α I(X; Y) of a policy, with the reward r = log(w/l) that the pairs show, in nats."""
    reward = did(problem.chosen, problem.rejected).log_probs
    reward = reward - reward.max(axis=-1, keepdims=True)
    expected = problem.prompt_weights @ (policy.probs * reward).sum(axis=-1)
    return float(expected - alpha * mutual_information(policy, problem.prompt_weights))


def alternation(instance: Instance) -> float:
    """Return by how much the rewarded objective ever falls, or ends too low; or how many responses survive too many."""
    problem, prior, alpha = alternating_problem(instance), Policy.from_probs(instance["prior"]), instance["alpha"]
    values = []
    for _ in range(STEPS):
        policy = dpo_optimum(problem, alpha, prior)
        values.append(rewarded(problem, policy, alpha))
        prior = marginal(policy, problem.prompt_weights)
    falls = float(np.max(-np.diff(values), initial=0.0))
    solution = solve_alternating(problem, alpha, rounds=MOST_ROUNDS)
    if solution.policy is None:
        return falls  # too slow to be followed to its end
    too_low = values[-1] - rewarded(problem, Policy(np.atleast_2d(solution.policy.log_probs)), alpha)
    too_many = int(solution.survivors[0].sum()) - instance["num_prompts"]
    return float(max(falls, too_low, too_many, 0.0) / (1.0 + abs(values[0])))


STEPS, MOST_ROUNDS = 10, 3000


def in_general_position(instance: Instance) -> bool:
    """Return whether no X + 1 of the points (e^{r_x(y)/α})_x, one for each response, lie in one hyperplane."""
    problem = alternating_problem(instance)
    gains = did(problem.chosen, problem.rejected).log_probs / instance["alpha"]
    points = np.exp(gains - gains.max(axis=1, keepdims=True)).T
    rows = np.column_stack([points, np.ones(len(points))])
    size = rows.shape[1]
    return all(abs(np.linalg.det(rows[list(some)])) > 1e-6 for some in combinations(range(len(rows)), size))


def draw_collapse(axes: Any) -> None:
    """Draw the prior of the alternation, round after round: of four responses two survive two prompts."""
    gains = np.array([[2.0, 1.6, 0.0, 1.0], [0.0, 0.9, 2.0, 1.2]])
    prior, panel = Policy.from_logits(np.zeros(4)), axes[0, 0]
    sides = Policy.from_logits(gains).probs, np.full((2, 4), 0.25)
    problem = with_sides(*sides, prompts=np.array([0.5, 0.5]))
    path = []
    for _ in range(60):
        path.append(prior.probs)
        prior = marginal(dpo_optimum(problem, 1.0, prior), problem.prompt_weights)
    for response, probs in enumerate(np.array(path).T):
        panel.plot(np.arange(len(path)), probs, color=f"C{response}", label=f"response {response}")
    panel.set_xlabel("round")
    panel.set_ylabel("prior ζ(y), probability")
    panel.legend()


MARGINAL_PRIOR_CORRECTED = Claim(
    name="x.marginal-prior",
    statement=(
        "The alternation raises E r − α I(X; Y), r = log(w/l) of chosen w and rejected l, at every step, to its "
        "maximum, where no more responses keep probability than there are prompts."
    ),
    source="ours; corrects mi.marginal-prior; Arimoto 1972, Blahut 1972",
    verdict="holds",
    note=(
        "Both steps maximise E r − α Σ_x p(x) KL(π_x ‖ ζ), the policy by Eq. 5 and the prior by Lemma 1. The best "
        "policy's value is α Σ_x p(x) log Z_x, Z_x = Σ_y ζ(y) e^{r_x(y)/α}, concave in ζ, so the end is a maximum and "
        "not just a fixed point. There every surviving y has Σ_x p(x) e^{r_x(y)/α}/Z_x = 1: the points "
        "(e^{r_x(y)/α})_x lie in one hyperplane, which in general holds no more than X of them, X being the number of "
        "prompts. With one prompt only the response of the largest w/l survives; ties are the exception, as in the "
        "control, where w = l and every prior is a fixed point. The mutual information itself need not fall: for w/l ∝ "
        "(3, 1) at one of two equally likely prompts, (1, 3) at the other, and α = 1 it rises from 0.05 to 0.13 nats "
        "in 7 steps from ζ = (0.9, 0.1)."
    ),
    fields=ALTERNATING,
    check=alternation,
    tolerance=ROUNDING,
    reason="rewards of some hundred nats, rounded, relative to them",
    assumptions={"no X + 1 of the points e^{r(y)/α} lie in one hyperplane": in_general_position},
    cost=8,
    control=Control(
        breaks="no X + 1 of the points e^{r(y)/α} lie in one hyperplane",
        instance={
            "num_prompts": 1,
            "num_classes": 2,
            "prompts": [1.0],
            "chosen": [[0.5, 0.5]],
            "rejected": [[0.5, 0.5]],
            "prior": [0.5, 0.5],
            "alpha": 1.0,
        },
    ),
    picture=draw_collapse,
)

CLAIMS = (CONSTRAINTS, CONSTRAINTS_CORRECTED, MARGINAL_PRIOR, MARGINAL_PRIOR_CORRECTED)
