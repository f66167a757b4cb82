"""Section 4.1 of the α-DPO paper: its relation to online SimPO, and the corrected importance weights."""

from typing import Any

import numpy as np
import torch

from didsim.claims._alpha_pairs import (
    ONE_PAIR,
    PAIRS,
    RELATIVE,
    RELATIVE_REASON,
    largest,
    log_probs_of,
    pairs_of,
    size_of,
)
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, IDENTITY, ROUNDING
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.objectives import Pairs, Responses, objective, reward_margin
from didsim.policy import Policy
from didsim.preference import preference_probabilities

SMALL = (1e-2, 1e-3, 1e-4)
"""Values of α that are tried where a statement says that a sufficiently small one exists."""


def table(instance: Instance) -> Pairs:
    """Return all K² pairs of single-token responses, drawn from π_ref and labelled by Bradley–Terry rewards."""
    policy, reference = (torch.tensor(np.log(instance[name])) for name in ("policy", "reference"))
    size, ones = len(policy), torch.ones(len(policy), dtype=torch.float64)
    indices = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    sides = [Responses(policy[at], reference[at], ones[at]) for at in indices]
    rewards = Policy.from_logits(instance["reward"]).probs
    labels = torch.tensor(preference_probabilities(rewards, np.full(size, 1.0 / size)))
    drawn = torch.tensor(instance["reference"], dtype=torch.float64)
    return Pairs(sides[0], sides[1], weights=2.0 * drawn[:, None] * drawn * labels)


def bound_gap(instance: Instance, alpha: float) -> float:
    """Return the loss of α-DPO minus the bound of Lemma 4.2, divided by α, in units of the terms of a margin."""
    pairs, beta, gamma = table(instance), instance["beta"], instance["gamma"]
    strength = alpha if instance["margin"] == "M" else alpha / beta
    surrogate = objective("alpha_dpo", beta=beta, gamma=gamma, alpha=strength, normalise=False)(pairs)
    simpo = objective("simpo", beta=beta, gamma=gamma)(pairs)
    chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    log_z = torch.logsumexp(torch.tensor(np.log(instance["reference"])) + alpha * chosen[:, 0], dim=0)
    sign = instance.get("sign", 1.0)
    corrected = alpha * sign * (chosen - rejected)
    exponent = corrected if instance["weights"] == "corrected" else alpha * (chosen + rejected) - 2.0 * log_z
    rest = alpha * (chosen - rejected) * (-torch.expm1(-simpo) - simpo)  # log σ(A) − σ(A) + 1
    # differences of expectations, pair by pair: less is lost to rounding
    gap = (surrogate - simpo) - torch.expm1(exponent) * simpo - rest
    return float(pairs.mean(gap)) / alpha / (1.0 + float(simpo.max()))


def lower_bound(instance: Instance) -> float:
    """Return the least violation of Lemma 4.2 over small values of α."""
    return min(max(0.0, bound_gap(instance, alpha)) for alpha in SMALL)


AS_IN_PROOF = "the online loss has the corrected weights of Eq. 16, and the target is γ + αB as in the proof"
TIED = "the old policy is π_ref (π/π_ref)^α, normalised"

LEMMA_4_2 = Claim(
    name="alpha.lem-4.2",
    statement=(
        "For every π and π_ref there is a small α > 0 with L_α-DPO ≤ L_SimPO^online + E[αB (log σ(A) − σ(A) + 1)]."
    ),
    source="α-DPO paper, Lemma 4.2, Definition 4.1, Eqs. 13 to 16, Appendix A.2",
    verdict="holds-conditionally",
    note=(
        "The proof takes three steps that the statement does not: the old policy is π_ref (π/π_ref)^α, the importance "
        "weights of Eq. 15 are replaced by the 'corrected' ones of Eq. 16, w = e^{αB}, and M is taken as B = h_w − "
        "h_l, h = log π/π_ref, without the β of Eq. 10 and the z-score of Eq. 11; with all three it holds. With M = βB "
        "the left side exceeds the right one by α(β − 1) E[B σ(−A)] to first order, A being SimPO's margin, and the "
        "weights of Definition 4.1 add 2α E[−(h_l + KL(π_ref‖π)) log σ(A)] on the right: both may have the wrong sign "
        "for every small α. Counterexample with the loss of Definition 4.1 and M of Eq. 10: two responses, π_ref = (½, "
        "½), π = (¾, ¼), rewards 2 and 0, β = ½, γ = 0. With β = 1, where M = B, the weights alone still violate it. "
        "Even where it holds, what bounds is not the online loss but a biased one plus a term of either sign."
    ),
    fields={
        "num_classes": Count(2, 4),
        "reference": Simplex(),
        "policy": Simplex(),
        "reward": Reals(sizes=("num_classes",)),
        "beta": BETA,
        "gamma": Reals(low=0.0),
        "weights": Choice(("corrected", "definition 4.1")),
        "margin": Choice(("B", "M")),
    },
    check=lower_bound,
    tolerance=ROUNDING,
    reason="rounding of losses to 1e-16 of their size, divided by an α of 1e-4, some thousand times over",
    assumptions={TIED: lambda i: "sign" not in i},
    condition=(AS_IN_PROOF, lambda i: i["weights"] == "corrected" and i["margin"] == "B"),
    control=Control(
        breaks=TIED,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "policy": [0.75, 0.25],
            "reward": [2.0, 0.0],
            "beta": 1.0,
            "gamma": 0.0,
            "weights": "corrected",
            "margin": "B",
            "sign": -1.0,
        },
    ),
    corrected="x.lower-bound",
)


def pair_bound(instance: Instance) -> float:
    """Return by how much S(A − t) exceeds e^t S(A) + t(log σ(A) + σ(−A)), t = αM, in units of the terms."""
    beta, gamma, alpha = (instance[name] for name in ("beta", "gamma", "alpha"))
    pairs = pairs_of(instance, log_probs_of(instance).detach())
    surrogate = objective("alpha_dpo", beta=beta, gamma=gamma, alpha=alpha, normalise=False)(pairs)
    simpo = objective("simpo", beta=beta, gamma=gamma)(pairs)
    t = alpha * beta * pairs.difference(lambda y: y.log_ratio)
    if "weights" in instance:
        t_weights = alpha * beta * (pairs.chosen.log_ratio + pairs.rejected.log_ratio)
    else:
        t_weights = t
    margin = reward_margin(pairs, beta, length_normalise=True) - gamma
    log_simpo = torch.where(margin > 30.0, -margin, torch.log(simpo))  # where S(A) may be too small for a number
    bound = torch.exp(t_weights + log_simpo) + t * (-torch.expm1(-simpo) - simpo)
    size = (1.0 + alpha) * size_of(instance) + abs(gamma)
    return largest(surrogate - bound) / size


def draw_bound(axes: Any) -> None:
    """Draw the bound minus the loss against αM, for three values of A."""
    ax, t = axes[0, 0], torch.linspace(-3.0, 1.5, 200, dtype=torch.float64)
    for number, margin in enumerate((-1.0, 0.0, 1.0)):
        simpo = torch.nn.functional.softplus(torch.full_like(t, -margin))
        bound = torch.exp(t) * simpo + t * (-torch.expm1(-simpo) - simpo)
        gap = bound - torch.nn.functional.softplus(t - margin)
        ax.plot(t, gap, color=f"C{number}", label=f"A = {margin:g}")
    ax.axhline(0.0, color="grey", linewidth=0.8)
    ax.set_xlabel("αM [nats]")
    ax.set_ylabel("bound − loss [nats]")
    ax.legend()


EXPONENTIAL_WEIGHTS = "the weights are the corrected ones, w = e^{αM}"

LOWER_BOUND = Claim(
    name="x.lower-bound",
    statement=(
        "For every single pair, every margin A, every α ≥ 0 and M as in Eq. 10, S(A − αM) ≤ e^{αM} S(A) + αM (log σ(A) "
        "− σ(A) + 1), where S(z) = −log σ(z)."
    ),
    source="ours; corrects and extends the α-DPO paper's Lemma 4.2",
    verdict="holds",
    note=(
        "With the same αM in the target, the weight and the last term no small α is needed, and no expectation. Proof: "
        "let t = αM, u = e^{−A}, so that S(A) = log(1 + u) and S(A − t) = log(1 + u e^t). Right minus left is f(t) = "
        "(e^t − t) log(1 + u) + t u/(1 + u) − log(1 + u e^t), with f(0) = 0 and f′(t) = (e^t − 1) [log(1 + u) − u/((1 "
        "+ u)(1 + u e^t))], whose bracket is positive, since log(1 + u) ≥ u/(1 + u): f falls before 0 and rises after "
        "it. A may be normalised by length and M not, since the proof needs no relation between them. The weights are "
        "those of an old policy π_ref (π/π_ref)^{αβ} under Eq. 16."
    ),
    fields={"beta": BETA, "gamma": Reals(), "alpha": BETA, **PAIRS},
    check=pair_bound,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={EXPONENTIAL_WEIGHTS: lambda i: "weights" not in i},
    control=Control(
        breaks=EXPONENTIAL_WEIGHTS,
        instance={
            "beta": 1.0,
            "gamma": 0.0,
            "alpha": 1.0,
            **ONE_PAIR,
            "chosen": [2.0],
            "rejected": [3.0],
            "ref_chosen": [1.0],
            "ref_rejected": [1.0],
            "weights": "definition 4.1",
        },
    ),
    picture=draw_bound,
)


def moments(instance: Instance) -> tuple[float, float, float, float]:
    """Return mean and variance of the corrected weights of all pairs, and those of the exact ones."""
    reference, old = np.array(instance["reference"]), np.array(instance["old"])
    ratio = old / reference
    chances = reference[:, None] * np.array(instance.get("rejected", reference))
    found = []
    for weights in (ratio[:, None] / ratio, ratio[:, None] * ratio):
        mean = float((chances * weights).sum())
        found += [mean, float((chances * (weights - mean) ** 2).sum())]
    return found[0], found[1], found[2], found[3]


def more_variance(instance: Instance) -> float:
    """Return by which share the variance of the corrected weights exceeds that of the exact ones."""
    _, corrected, _, exact = moments(instance)
    return max(0.0, corrected / max(exact, np.finfo(float).tiny) - 1.0)


INDEPENDENT = "y_w and y_l are drawn independently from π_ref"
OLD = {"num_classes": Count(2, 5), "reference": Simplex(), "old": Simplex()}

CORRECTED_WEIGHTS = Claim(
    name="alpha.w-corr",
    statement="The corrected importance weights of Eq. 16 have a smaller variance than the exact ones of Eq. 15.",
    source="α-DPO paper, Section 4.1 after Eq. 16 ('functions as a variance reduction technique')",
    verdict="fails",
    note=(
        "Let ρ = π_old/π_ref. Exact weights ρ_w ρ_l have variance (E[ρ²])² − 1, corrected ones ρ_w/ρ_l have E[ρ²] "
        "E[ρ^−2] − (E[ρ^−1])²: dividing by ρ_l trades large weights, where the old policy has more mass than π_ref, "
        "for larger ones where it has less. Counterexample: π_ref = (½, ½), π_old = (¾, ¼) gives 0.5625 for the exact "
        "weights and 1 for the corrected ones. For two responses under a uniform reference it is never smaller: with ρ "
        "= 1 ± d the ratio of the variances is 1/(1 − d²)². For ρ close to 1 the corrected variance minus the exact "
        "one is −2 E[(ρ − 1)³] to third order, so that it takes an old policy that raises a few responses much to "
        "gain."
    ),
    fields=OLD,
    check=more_variance,
    tolerance=ROUNDING,
    reason="the rounding of variances relative to them, with room for weights that hardly vary",
    assumptions={INDEPENDENT: lambda i: "rejected" not in i},
    control=Control(
        breaks=INDEPENDENT,
        instance={"num_classes": 2, "reference": [0.5, 0.5], "old": [0.75, 0.25], "rejected": [0.25, 0.75]},
    ),
    corrected="x.corrected-weights",
)


def weight_formulas(instance: Instance) -> float:
    """Return how far mean and variance of both weights over all pairs are from their formulas, relatively."""
    reference, old = np.array(instance["reference"]), np.array(instance["old"])
    ratio = old / reference
    second, inverse, inverse_second = ((reference * ratio**power).sum() for power in (2, -1, -2))
    chi_squared = ((reference - old) ** 2 / old).sum()
    expected = (1.0 + chi_squared, second * inverse_second - inverse**2, 1.0, second**2 - 1.0)
    scale = (inverse, second * inverse_second, 1.0, second**2)
    pieces = zip(moments(instance), expected, scale, strict=True)
    return max(abs(found - wanted) / size for found, wanted, size in pieces)


WEIGHTS = Claim(
    name="x.corrected-weights",
    statement=(
        "The corrected weights have mean 1 + χ²(π_ref‖π_old) and variance E[ρ²] E[ρ^−2] − (E[ρ^−1])² under π_ref, ρ = "
        "π_old/π_ref; the exact ones have mean 1 and variance (E[ρ²])² − 1."
    ),
    source="ours; corrects the α-DPO paper's remark after Eq. 16",
    verdict="holds",
    note=(
        "Proof: y_w and y_l are independent, so that moments of products and ratios factorise; E ρ = 1, and E[1/ρ] = Σ "
        "π_ref²/π_old = 1 + χ²(π_ref‖π_old). So the corrected weights do not average to 1 unless π_old = π_ref, and "
        "comparing the two variances, all in closed form, says for which old policies they are less spread."
    ),
    fields=OLD,
    check=weight_formulas,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={INDEPENDENT: lambda i: "rejected" not in i},
    control=CORRECTED_WEIGHTS.control,
)

CLAIMS = (LEMMA_4_2, LOWER_BOUND, CORRECTED_WEIGHTS, WEIGHTS)
