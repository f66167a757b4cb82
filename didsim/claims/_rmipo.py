"""Section 3.1 of the RMiPO paper: what β and γ do, and the margin that a reference implies."""

import numpy as np

from didsim.claims import _rmipo_popularity, _rmipo_tables
from didsim.claims._alpha_pairs import MODERATE, PAIRS, RELATIVE, RELATIVE_REASON, evaluate, moderate, size_of, world_of
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, CERTIFICATE, SOLVED, WORLD
from didsim.claims._fields import Count, Instance, Reals
from didsim.objectives import objective
from didsim.stationary import solve_many

FEW = {**WORLD, "num_classes": Count(2, 4)}

THREE = {"num_classes": 3, "reference": [0.5, 0.25, 0.25], "target": [0.2, 0.2, 0.6]}

TWO_BETAS = {"beta": Reals(low=0.0), "other_beta": Reals(low=0.0), "gamma": Reals(low=0.0)}


def at_two_betas(instance: Instance) -> list[np.ndarray]:
    """Return log π of SimPO's stationary policies at both values of β; none if one was not found."""
    gammas = instance["gamma"], instance.get("other_gamma", instance["gamma"])
    betas = instance["beta"], instance["other_beta"]
    losses = [objective("simpo", beta=beta, gamma=gamma) for beta, gamma in zip(betas, gammas, strict=True)]
    solutions = solve_many([(world_of(instance), loss) for loss in losses], starts=1)
    found = [s.policy.log_probs for s in solutions if s.status == "converged" and s.policy is not None]
    return found if len(found) == 2 else []


def shift_by_beta(instance: Instance) -> float:
    """Return how far β moves the stationary policy, in nats of log π."""
    found = at_two_betas(instance)
    return float(np.abs(found[0] - found[1]).max()) if found else 0.0


SAME_GAMMA = "γ is the same for both β"
BETWEEN = "both β are between 0.5 and 5"

INSIGHT_1 = Claim(
    name="rmipo.insight-1",
    statement="β does not shift the stationary points of −E log σ(βΔlog π − γ): they are governed by γ.",
    source="RMiPO paper, Insight I, Section 3.1 after Eq. 5, Appendix B, Eqs. 9 to 11",
    verdict="fails",
    note=(
        "β cancels as a factor of the gradient, but it stands inside the sigmoid too, in Eq. 11 itself. With γ = 0 the "
        "stationary policy is π ∝ (w/l)^{1/β}, w and l being the distributions of chosen and rejected responses, which "
        "depends on β unless no pair is preferred. Counterexample: two responses, π_ref = (½, ½), π* = (0.8, 0.2), γ = "
        "0: β = 1 ends at (4/5, 1/5) and β = 2 at (2/3, 1/3). γ moves the stationary policy as well; neither is 'the' "
        "parameter. What is true is that β only stretches it (x.beta-tempers)."
    ),
    fields={**FEW, **TWO_BETAS},
    check=shift_by_beta,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    assumptions={SAME_GAMMA: lambda i: "other_gamma" not in i},
    control=Control(
        breaks=SAME_GAMMA,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.8, 0.2],
            "beta": 1.0,
            "other_beta": 1.0,
            "gamma": 0.0,
            "other_gamma": 1.0,
        },
    ),
    cost=20,
    corrected="x.beta-tempers",
)


def profile_by_beta(instance: Instance) -> float:
    """Return how far the two stationary policies are from one profile β log π + const, in nats."""
    found = at_two_betas(instance)
    if not found:
        return float("inf")
    profiles = [instance[name] * log_pi for name, log_pi in zip(("beta", "other_beta"), found, strict=True)]
    first, second = (profile - profile.mean() for profile in profiles)
    return float(np.abs(first - second).max())


TEMPERS = Claim(
    name="x.beta-tempers",
    statement=(
        "For responses of one token the stationary policies of −E log σ(βΔlog π − γ) at several β and one γ are powers "
        "of each other: β log π is the same for all β, up to a constant."
    ),
    source="ours; corrects the RMiPO paper's Insight I",
    verdict="holds",
    note=(
        "Proof: the loss depends on the policy through the scores s = β log π alone. At a stationary policy inside the "
        "simplex its derivative by every score is 0 (the lemma of didsim.optima), an equation in which neither β nor π "
        "stands, and whose solution is unique up to a constant because the loss is convex in s. So γ and the pairs fix "
        "the profile s, and β is the temperature at which it becomes a policy, π ∝ e^{s/β}. The solver is compared at "
        "two values of β."
    ),
    fields={**FEW, **TWO_BETAS},
    check=profile_by_beta,
    tolerance=SOLVED * 5.0,
    reason="the solver's certificate, times a β of at most 5",
    assumptions={
        **INSIGHT_1.assumptions,
        MODERATE: moderate,
        BETWEEN: lambda i: all(0.5 <= i[name] <= 5.0 for name in ("beta", "other_beta")),
    },
    control=Control(
        breaks=SAME_GAMMA,
        instance={**THREE, "beta": 1.0, "other_beta": 1.0, "gamma": 0.0, "other_gamma": 1.0},
    ),
    cost=20,
)


def implicit_margin(instance: Instance) -> float:
    """Return how far DPO is from the loss without a reference at γ = β Δlog π_ref, in value and gradient."""
    beta = instance["beta"]
    gaps = []
    for pair in range(instance["num_pairs"]):
        alone = {name: [instance[name][pair]] for name in PAIRS if name != "num_pairs"}
        gamma = beta * (alone["ref_rejected"][0] - alone["ref_chosen"][0])
        options = {"gamma": instance.get("gamma", gamma), "reference_form": "uniform", "length_normalise": False}
        losses = objective("dpo", beta=beta), objective("alpha_dpo", beta=beta, **options)
        (value, slope), (other, other_slope) = (evaluate(loss, alone) for loss in losses)
        gaps += [float((value - other).abs().max()), float((slope - other_slope).abs().max())]
    return max(gaps) / size_of(instance)


OWN_MARGIN = "each pair has its own γ = β(log π_ref(y_w) − log π_ref(y_l))"

EQUATION_4 = Claim(
    name="rmipo.eq-4",
    statement=(
        "DPO's loss is −log σ(β log π_w − β log π_l − γ_ref) with a margin of each pair, γ_ref = β log π_ref(y_w|x) − "
        "β log π_ref(y_l|x)."
    ),
    source="RMiPO paper, Eq. 4",
    verdict="holds",
    note=(
        "Proof: with h = log π/π_ref and Δ the difference of y_w and y_l, β(h_w − h_l) = β Δlog π − β Δlog π_ref. As "
        "printed Eq. 4 lacks the minus sign and the expectation of a loss; with them it is an identity, in value and "
        "gradient. Two cautions. γ_ref has either sign: where the reference prefers the rejected response, DPO asks "
        "for less than nothing. And SimPO's reward is divided by length, which this one is not, so that the two losses "
        "differ by more than the margin if lengths differ."
    ),
    fields={"beta": BETA, **PAIRS},
    check=implicit_margin,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={OWN_MARGIN: lambda i: "gamma" not in i},
    control=Control(
        breaks=OWN_MARGIN,
        instance={
            "beta": 1.0,
            "gamma": 0.0,
            "num_pairs": 1,
            "chosen": [1.0],
            "rejected": [2.0],
            "ref_chosen": [1.0],
            "ref_rejected": [2.0],
            "length_chosen": [1],
            "length_rejected": [1],
        },
    ),
)

CLAIMS = (INSIGHT_1, TEMPERS, EQUATION_4, *_rmipo_popularity.CLAIMS, *_rmipo_tables.CLAIMS)
