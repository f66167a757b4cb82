"""Section 3 of the MI-DPO paper: mutual information, the optimal policy under a prior, its dual, and the loss."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import IDENTITY, ROUNDING
from didsim.claims._fields import Choice, Count, Field, Instance, Simplex
from didsim.info import js, kl, marginal, mutual_information
from didsim.objectives import Pairs, Responses, objective
from didsim.optima import dpo_optimum
from didsim.policy import Policy
from didsim.preference import Problem

CHANNEL: Mapping[str, Field] = {
    "num_prompts": Count(1, 4),
    "num_classes": Count(2, 5),
    "prompts": Simplex(("num_prompts",)),
    "policy": Simplex(("num_prompts", "num_classes")),
    "prior": Simplex(),
}
"""A policy over a few prompts, and a prior."""


def variational(instance: Instance) -> float:
    """Return how far Σ p KL(π_x‖ζ) is from I + KL(marginal‖ζ), or at the marginal from I, in nats.

    Or how far I is from the Jensen–Shannon divergence, if π of the first prompt and ζ are the policies of two prompts.
    """
    prompts, policy = np.array(instance["prompts"]), np.array(instance["policy"])
    information = mutual_information(policy, prompts)

    def functional(prior: Policy) -> float:
        return float(prompts @ kl(policy, prior))

    candidate = marginal(policy, instance.get("weights", prompts))
    at_prior = functional(Policy.from_probs(instance["prior"])) - information
    gap = abs(at_prior - kl(candidate, instance["prior"]))
    two = np.stack([policy[0], np.array(instance["prior"])])
    apart = abs(mutual_information(two, np.array([0.5, 0.5])) - js(*two))
    return float(max(gap, abs(functional(candidate) - information), apart))


LEMMA_1 = Claim(
    name="mi.lem-1",
    statement=(
        "The mutual information is the least Σ_x p(x) KL(π(·|x) ‖ ζ) over priors ζ(y), and the marginal "
        "Σ_x p(x) π(y|x) attains it."
    ),
    source="MI-DPO paper, Lemma 1",
    verdict="holds",
    note=(
        "Proof: log π/ζ = log π/m + log m/ζ with m the marginal; averaging over prompts and responses gives "
        "Σ_x p(x) KL(π_x ‖ ζ) = I(X; Y) + KL(m ‖ ζ). The last term is positive unless ζ = m, so the best prior is "
        "unique. For two prompts of weight 1/2 the minimum is the Jensen–Shannon divergence of their policies, which "
        "the check compares too. The prior must be free of the prompt, and free to be m: a family of priors without m "
        "has a larger minimum. The weights in m have to be those of the prompts, as the control shows."
    ),
    fields=CHANNEL,
    check=variational,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"the marginal is taken over the prompts' own weights p(x)": lambda i: "weights" not in i},
    control=Control(
        breaks="the marginal is taken over the prompts' own weights p(x)",
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "prompts": [0.75, 0.25],
            "policy": [[0.75, 0.25], [0.25, 0.75]],
            "prior": [0.5, 0.5],
            "weights": [0.5, 0.5],
        },
    ),
)

REWARDED: Mapping[str, Field] = {
    "num_classes": Count(2, 5),
    "prior": Simplex(),
    "worth": Simplex(),
    "beta": Choice((0.1, 0.5, 1.0, 2.0, 10.0)),
}
"""A prior, and the exponentials e^r of a reward, normalised: a constant in r changes nothing."""


def reward_of(instance: Instance) -> FloatArray:
    """Return the reward r of each response."""
    return np.log(instance["worth"])


def slope_spread(instance: Instance, power: float) -> float:
    """Return by how much the derivatives of E r − (1/β) KL(π‖ζ) by π(y) differ at π ∝ ζ e^{power·r}, times β.

    It is relative to the largest of their terms. The objective is concave in π: its maximum over the simplex is where
    they are all equal.
    """
    reward, log_zeta = reward_of(instance), np.log(instance["prior"])
    weight = instance.get("weight", 1.0 / instance["beta"])
    log_pi = Policy.from_logits(log_zeta + power * reward).log_probs
    terms = reward / weight, log_pi - log_zeta
    slopes = terms[0] - terms[1]
    return float(np.ptp(slopes) / (1.0 + max(np.abs(term).max() for term in terms)))


EQUATION_5 = Claim(
    name="mi.eq-5",
    statement="The policy that maximises E r − (1/β) KL(π ‖ ζ) is ζ e^{βr}, normalised at each prompt.",
    source="MI-DPO paper, Eq. 5 with Section 3.1 and Appendix A",
    verdict="holds",
    note=(
        "The objective is concave in π, and its derivative r − (1/β)(log π/ζ + 1) has to be the same for every "
        "response: log π = log ζ + βr + constant. So under the weight 1/β, which the paper prints in Eq. 3 and in "
        "Section 3, the exponent is βr, as in Eq. 5; the exponent r/β that Section 2 prints is that of the usual "
        "weight β, see mi.eq-3. The control has the weight β = 2 with the exponent 2r: r/2 would be right."
    ),
    fields=REWARDED,
    check=lambda i: slope_spread(i, i["beta"]),
    tolerance=ROUNDING,
    reason="an identity: rounding, relative to the largest of the terms that cancel",
    assumptions={"the weight of the divergence is 1/β": lambda i: "weight" not in i},
    control=Control(
        breaks="the weight of the divergence is 1/β",
        instance={"num_classes": 2, "prior": [0.5, 0.5], "worth": [0.75, 0.25], "beta": 2.0, "weight": 2.0},
    ),
)

EQUATION_3 = Claim(
    name="mi.eq-3",
    statement="The policy that maximises E r − (1/β) KL(π ‖ π_ref), Eq. 3, is π_ref e^{r/β}, normalised.",
    source="MI-DPO paper, Section 2, the display after Eq. 3",
    verdict="holds-conditionally",
    note=(
        "Section 2 prints the weight 1/β of one convention and the exponent r/β of the other; with Eq. 3 the exponent "
        "has to be βr, as in Eq. 5. The two agree for β = 1, or if the reward is constant. Counterexample: π_ref = "
        "(1/2, 1/2), e^r ∝ (4, 1), β = 2: the optimal odds are 16 and the printed ones 2. The next display, "
        "r = β log π/π_ref + β log Z, belongs to r/β too; the DPO loss of Eq. 1 uses α and is not affected."
    ),
    fields={**REWARDED, "beta": Choice((0.5, 1.0, 1.0, 1.0, 2.0))},
    check=lambda i: slope_spread(i, i.get("power", 1.0 / i["beta"])),
    tolerance=ROUNDING,
    reason="an identity: rounding, relative to the largest of the terms that cancel",
    assumptions={"the exponent is r/β": lambda i: "power" not in i},
    condition=("β = 1", lambda i: i["beta"] == 1.0),
    corrected="mi.eq-5",
    control=Control(
        breaks="the exponent is r/β",
        instance={"num_classes": 2, "prior": [0.5, 0.5], "worth": [0.75, 0.25], "beta": 1.0, "power": 2.0},
    ),
)


def dual_steps(instance: Instance) -> float:
    """Return by how much the worst of the printed steps from the Lagrangian to Eq. 5 is off, times β.

    λ is given by its distance from λ*, and all is relative to the largest exponent.
    """
    zeta = torch.tensor(instance["prior"], dtype=torch.float64)
    tilt = instance["beta"] * torch.tensor(reward_of(instance))
    printed = -torch.log((zeta * torch.exp(tilt - 1.0)).sum())  # βλ*
    multiplier = (printed + instance["shift"]).requires_grad_()
    policy = zeta * torch.exp(tilt - 1.0) * torch.exp(multiplier)

    def lagrangian(pi: Tensor) -> Tensor:
        objective_ = (pi * (tilt + torch.log(zeta))).sum() - (pi * torch.log(pi)).sum()
        return objective_ + multiplier * (pi.sum() - 1.0)

    leaf = policy.detach().requires_grad_()
    (stationary,) = torch.autograd.grad(lagrangian(leaf), leaf, retain_graph=True)
    value = lagrangian(policy)
    entropy_weights = policy if instance.get("with_prior", False) else policy / zeta
    middle = (policy * (tilt + torch.log(zeta))).sum()
    middle = middle - (entropy_weights * (tilt + torch.log(zeta) - 1.0 + multiplier)).sum()
    middle = middle + multiplier * (policy.sum() - 1.0)
    final = policy.sum() - multiplier
    (slope,) = torch.autograd.grad(value, multiplier, retain_graph=True)
    optimum = zeta * torch.exp(tilt - 1.0) * torch.exp(printed + instance.get("offset", 0.0))
    eq_5 = torch.tensor(Policy.from_logits(np.log(instance["prior"]) + tilt.numpy()).probs)
    errors = (
        stationary.abs().max(),
        (middle - value).abs(),
        (final - value).abs(),
        (slope - (policy.sum() - 1.0)).abs(),
        (optimum.sum() - 1.0).abs(),
        (optimum - eq_5).abs().max(),
    )
    size = (1.0 + policy.sum()) * (1.0 + tilt.abs().max() + torch.log(zeta).abs().max() + multiplier.abs())
    return float((max(errors) / size).detach())


DUAL_FIELDS: Mapping[str, Field] = {**REWARDED, "shift": Choice((-2.0, -1.0, 0.0, 1.0, 2.0))}

DUAL = Claim(
    name="mi.dual",
    statement="Every printed step from the Lagrangian over its dual function q(λ) to λ* and Eq. 5 is right.",
    source="MI-DPO paper, Appendix A",
    verdict="fails",
    note=(
        "One line is not: where the entropy is put back into the Lagrangian, ζ(y) is missing from the second sum, "
        "which should be (1/β) Σ ζ e^{βr−1} e^{βλ} (βr + log ζ − 1 + βλ). Counterexample: ζ = (1/2, 1/2), equal "
        "rewards, β = 1, λ = λ*: the printed line is log 2 too large, since the sum of (1/2) log(1/2) over both "
        "responses is taken as one of log(1/2). The next line, q(λ) = (1/β) Σ ζ e^{βr−1} e^{βλ} − λ, is right again, "
        "and so are dq/dλ, λ* and the policy."
    ),
    fields=DUAL_FIELDS,
    check=dual_steps,
    tolerance=ROUNDING,
    reason="an identity: rounding, relative to the largest of the terms that cancel",
    assumptions={"λ* is taken as printed": lambda i: "offset" not in i},
    corrected="x.dual",
    control=Control(
        breaks="λ* is taken as printed",
        instance={
            "num_classes": 2,
            "prior": [0.5, 0.5],
            "worth": [0.75, 0.25],
            "beta": 1.0,
            "shift": 0.0,
            "offset": 1.0,
            "with_prior": True,
        },
    ),
)

DUAL_CORRECTED = Claim(
    name="x.dual",
    statement="With ζ(y) restored in the second sum of q(λ), every step from the Lagrangian to Eq. 5 is right.",
    source="ours; corrects mi.dual",
    verdict="holds",
    note=(
        "At π_λ = ζ e^{βr−1} e^{βλ} the derivative of the Lagrangian by π is 0; there q(λ) = (1/β) Σ π_λ − λ, and "
        "dq/dλ = Σ π_λ − 1, which is 0 at λ* = −(1/β) log Σ ζ e^{βr−1}. The factor e^{−1} then cancels. The dual of "
        "a maximum is to be minimised: q is convex in λ. The check takes the Lagrangian and its derivatives by "
        "automatic differentiation, at λ* and away from it. The control moves λ* by 1/β: the policy then sums to e."
    ),
    fields=DUAL_FIELDS,
    check=lambda i: dual_steps({**i, "with_prior": True}),
    tolerance=ROUNDING,
    reason="an identity: rounding, relative to the largest of the terms that cancel",
    assumptions={"λ* is taken as printed": lambda i: "offset" not in i},
    control=Control(breaks="λ* is taken as printed", instance=DUAL.control.instance),
)


def loss_from_rewards(instance: Instance) -> float:
    """Return how far MI-DPO's loss at the optimal policy is from −log of the Bradley–Terry probabilities of r.

    Values are relative to the largest reward; gradients are those of the loss of both orders of a pair, by log π, when
    labels have these probabilities. With pairs of these odds the library's optimum is compared with Eq. 5.
    """
    reward, beta = torch.tensor(reward_of(instance)), instance["beta"]
    prior = Policy.from_probs(instance["prior"])
    policy = Policy.from_logits(prior.log_probs + beta * reward_of(instance))
    alpha = instance.get("alpha", 1.0 / beta)
    log_pi = torch.tensor(policy.log_probs, requires_grad=True)
    log_zeta = torch.tensor(prior.log_probs)
    chosen, rejected = (Responses(log_pi.unsqueeze(axis), log_zeta=log_zeta.unsqueeze(axis)) for axis in (1, 0))
    losses = objective("mi_dpo", alpha=alpha, prior="given")(Pairs(chosen, rejected))
    log_odds = reward.unsqueeze(1) - reward.unsqueeze(0)
    wanted = torch.nn.functional.softplus(-log_odds)
    (gradient,) = torch.autograd.grad((torch.sigmoid(log_odds) * losses).sum(), log_pi)
    size = float(1.0 + reward.abs().max())
    value = float((losses.detach() - wanted).abs().max()) / size
    labels = Policy.from_probs(instance["worth"])
    uniform = Policy.from_logits(np.zeros(labels.num_classes))
    problem = Problem(reference=uniform, target=uniform, chosen=labels, rejected=uniform)
    ends = dpo_optimum(problem, alpha, prior).log_probs - policy.log_probs
    end = np.abs(ends).max() / (1.0 + np.abs(policy.log_probs).max())
    return float(max(value, float(gradient.abs().max()) / alpha / size, end))


LOSS = Claim(
    name="mi.loss",
    statement=(
        "If labels are Bradley–Terry in r and π is the optimal policy of Eq. 5, the probability of a label is "
        "σ(α log π/ζ (y_1) − α log π/ζ (y_2)) with α = 1/β: MI-DPO's loss is its negative logarithm."
    ),
    source="MI-DPO paper, Section 3.2 and Appendix A.1",
    verdict="holds",
    note=(
        "By Eq. 5 r = (1/β)(log π/ζ + log Ẑ), and log Ẑ is the same for both responses, since they answer the same "
        "prompt. The check finds every pair's loss equal to −log σ(r_1 − r_2), the gradient of the expected loss zero "
        "at this policy, and the library's stationary policy ζ (w/l)^{1/α} equal to Eq. 5 where w/l ∝ e^r, with w and "
        "l the distributions of chosen and rejected responses. With α = β in place of 1/β, as in the control, the "
        "policy is scaled twice."
    ),
    fields=REWARDED,
    check=loss_from_rewards,
    tolerance=ROUNDING,
    reason="an identity: rounding, relative to the largest of the terms that cancel",
    assumptions={"α = 1/β": lambda i: "alpha" not in i},
    control=Control(
        breaks="α = 1/β",
        instance={"num_classes": 2, "prior": [0.5, 0.5], "worth": [0.75, 0.25], "beta": 2.0, "alpha": 2.0},
    ),
)

CLAIMS = (LEMMA_1, EQUATION_5, EQUATION_3, DUAL, DUAL_CORRECTED, LOSS)
