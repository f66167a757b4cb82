"""Section 3 of the α-DPO paper: the uniform reference, and the limits α = 0 and α = 1."""

import math

from didsim.claims import _alpha_bound, _alpha_margin
from didsim.claims._alpha_pairs import (
    ONE_PAIR,
    PAIRS,
    RELATIVE,
    RELATIVE_REASON,
    Lengths,
    disagreement,
    evaluate,
    size_of,
)
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA
from didsim.claims._fields import Choice, Count, Instance, Reals
from didsim.objectives import objective

SHORT = {**PAIRS, "length_chosen": Lengths(2), "length_rejected": Lengths(2)}
del SHORT["ref_chosen"], SHORT["ref_rejected"]


def with_uniform_reference(instance: Instance) -> Instance:
    """Return an instance whose reference is U(y) = V^(−|y|), unless it says which one it is."""
    nats = math.log(instance["vocabulary"])
    sides = {f"ref_{side}": [nats * n for n in instance[f"length_{side}"]] for side in ("chosen", "rejected")}
    return {**sides, **instance}


def uniform_reference(instance: Instance) -> float:
    """Return how far DPO from U is from SimPO with one γ, without (Eq. 6) and with (Eq. 7) normalisation."""
    pairs = with_uniform_reference(instance)
    beta = instance["beta"]
    gamma = beta * (pairs["ref_rejected"][0] - pairs["ref_chosen"][0])
    plain = objective("alpha_dpo", beta=beta, gamma=gamma, reference_form="uniform", length_normalise=False)
    return max(
        disagreement(objective("dpo", beta=beta), plain, pairs),
        disagreement(objective("dpo_norm", beta=beta), objective("simpo", beta=beta, gamma=gamma), pairs),
    )


def equally_long(instance: Instance) -> bool:
    """Return whether the two responses of each pair are equally long."""
    return list(instance["length_chosen"]) == list(instance["length_rejected"])


UNIFORM = {"the reference is uniform over the vocabulary, U(y|x) = V^(−|y|)": lambda i: "ref_chosen" not in i}

THEOREM_3_1 = Claim(
    name="alpha.thm-3.1",
    statement=(
        "With the uniform reference U(y|x) = V^(−|y|) over V tokens DPO's loss is −log σ(β(log π_w − log π_l) − γ) "
        "with a constant γ, and with rewards normalised by length it is SimPO's loss with this γ."
    ),
    source="α-DPO paper, Theorem 3.1, Eqs. 6 and 7, Appendix A.1",
    verdict="holds-conditionally",
    note=(
        "By its own definition U gives γ = β(log U_w − log U_l) = −β log V (|y_w| − |y_l|), which differs from pair to "
        "pair; the proof's remark about 'distinct subsets of the vocabulary' does not follow from U(y) = V^(−|y|). "
        "Counterexample: V = 2, β = 1, a pair of lengths 1 and 1 has γ = 0, one of lengths 1 and 2 has γ = log 2. "
        "Normalised by length, log U/|y| = −log V for every response, so that γ = 0. Where both responses of each pair "
        "are equally long the theorem is true, but only with γ = 0: no positive γ, which is what SimPO is about, comes "
        "from a uniform reference."
    ),
    fields={"vocabulary": Count(2, 6), "beta": BETA, **SHORT},
    check=uniform_reference,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions=UNIFORM,
    condition=("the two responses of each pair are equally long (then γ = 0)", equally_long),
    control=Control(
        breaks=next(iter(UNIFORM)),
        instance={
            "vocabulary": 2,
            "beta": 1.0,
            "num_pairs": 2,
            "chosen": [1.0, 1.0],
            "rejected": [1.0, 1.0],
            "length_chosen": [1, 1],
            "length_rejected": [1, 1],
            "ref_chosen": [1.0, 1.0],
            "ref_rejected": [1.0, 2.0],
        },
    ),
    corrected="x.uniform-reference",
)


def length_penalty(instance: Instance) -> float:
    """Return how far DPO from U is from R-DPO without a reference, and normalised DPO from SimPO with γ = 0."""
    pairs = with_uniform_reference(instance)
    beta, penalty = instance["beta"], instance["beta"] * math.log(instance["vocabulary"])
    none = {**pairs, "ref_chosen": [0.0] * instance["num_pairs"], "ref_rejected": [0.0] * instance["num_pairs"]}
    dpo, r_dpo = (
        evaluate(objective("dpo", beta=beta), pairs),
        evaluate(objective("r_dpo", beta=beta, alpha=penalty), none),
    )
    gap = max(float((one - other).abs().max()) for one, other in zip(dpo, r_dpo, strict=True)) / size_of(pairs)
    simpo = objective("simpo", beta=beta, gamma=0.0)
    return max(gap, disagreement(objective("dpo_norm", beta=beta), simpo, pairs))


UNIFORM_REFERENCE = Claim(
    name="x.uniform-reference",
    statement=(
        "With U(y|x) = V^(−|y|) over V tokens as reference DPO's loss is −log σ(β(log π_w − log π_l) + β log V (|y_w| "
        "− |y_l|)), R-DPO's penalty of length without a reference; with log-ratios divided by length it is SimPO's "
        "with γ = 0."
    ),
    source="ours; corrects the α-DPO paper's Theorem 3.1",
    verdict="holds",
    note=(
        "Proof: −β(log U_w − log U_l) = β log V (|y_w| − |y_l|), and log U(y)/|y| = −log V cancels in a difference. So "
        "a uniform reference asks more of a chosen response that is shorter than the rejected one. SimPO's γ is a "
        "hyperparameter of its own, and stands for no reference over responses. Value and gradient are compared."
    ),
    fields={"vocabulary": Count(2, 6), "beta": BETA, **SHORT},
    check=length_penalty,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions=UNIFORM,
    control=THEOREM_3_1.control,
)


def without_alpha(instance: Instance) -> float:
    """Return how far α-DPO at α = 0 is from SimPO."""
    beta, gamma = instance["beta"], instance["gamma"]
    options = {"alpha": instance.get("alpha", 0.0), "normalise": instance["normalise"]}
    loss = objective("alpha_dpo", beta=beta, gamma=gamma, stop_gradient=instance["stop_gradient"], **options)
    return disagreement(loss, objective("simpo", beta=beta, gamma=gamma), instance)


SWITCHES = {"normalise": Choice((True, False)), "stop_gradient": Choice((True, False))}

LIMIT_0 = Claim(
    name="alpha.limit-0",
    statement="α-DPO with α = 0 is SimPO.",
    source="α-DPO paper, Section 3.2, Eqs. 8 and 12",
    verdict="holds",
    note=(
        "At α = 0 the target γ + αM* is γ, whatever the reference, the standardisation and the stop-gradient. Value "
        "and gradient agree for pairs of unequal lengths, and hence so do the policies at which the gradient vanishes. "
        "What is shown is that the loss is SimPO's; that SimPO in turn has a uniform reference is another matter "
        "(alpha.thm-3.1)."
    ),
    fields={"beta": BETA, "gamma": Reals(), **SWITCHES, **PAIRS},
    check=without_alpha,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={"α = 0": lambda i: "alpha" not in i},
    control=Control(
        breaks="α = 0",
        instance={"beta": 1.0, "gamma": 0.0, "alpha": 0.5, "normalise": False, "stop_gradient": True, **ONE_PAIR},
    ),
)


def at_one(instance: Instance) -> float:
    """Return how far α-DPO at α = 1, with γ = 0 and log-probabilities of whole responses, is from DPO."""
    options = {"alpha": instance.get("alpha", 1.0), "reference_form": instance.get("reference_form", "ratio")}
    normalise = instance.get("normalise", False)
    loss = objective(
        "alpha_dpo", beta=instance["beta"], gamma=0.0, length_normalise=False, normalise=normalise, **options
    )
    return disagreement(loss, objective("dpo", beta=instance["beta"]), instance)


LIMIT_1 = Claim(
    name="alpha.limit-1",
    statement="α-DPO with α = 1 is DPO.",
    source="α-DPO paper, Section 3.2 after Eq. 8; RMiPO paper, Appendix A ('when α = 1, it is equivalent to DPO')",
    verdict="fails",
    note=(
        "With α = 1 the policy cancels: Δlog π − Δ(log π − log π_ref) = Δlog π_ref, Δ being the difference of y_w and "
        "y_l, so that the loss is S(β Δlog π_ref − γ), S(z) = −log σ(z), whatever π is. Without the stop-gradient "
        "nothing is learnt; with it every pair keeps its weight for ever, and no policy inside the simplex is "
        "stationary unless the weighted pairs cancel. Counterexample with γ = 0 and no normalisation: log π = −1 and "
        "−2, log π_ref = −2 and −2, β = 1: α-DPO's loss is log 2, DPO's is S(1) = 0.313. Standardising M does not mend "
        "it. The reference also enters with the wrong sign: DPO subtracts β Δlog π_ref, and so does the implicit "
        "reference U·π_ref^α at α = 1."
    ),
    fields={"beta": BETA, "normalise": Choice((False, True)), **PAIRS},
    check=at_one,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={"α = 1": lambda i: "alpha" not in i},
    control=Control(breaks="α = 1", instance={"beta": 1.0, "alpha": 0.5, "normalise": False, **ONE_PAIR}),
    corrected="x.alpha-dpo-is-dpo",
)

FORM = "the implicit reference is U·π_ref^α"

IS_DPO = Claim(
    name="x.alpha-dpo-is-dpo",
    statement=(
        "With the implicit reference U·π_ref^α in place of U·(π/π_ref)^α, not standardised and not normalised by "
        "length, α-DPO with α = 1 and γ = 0 is DPO."
    ),
    source="ours; corrects the α-DPO paper's remark after Eq. 8; the form is a row of its Table 2",
    verdict="holds",
    note=(
        "Proof: β Δlog π − αβ Δlog π_ref, Δ being the difference of y_w and y_l, is DPO's margin at α = 1. Between 0 "
        "and 1 this form leads from SimPO without normalisation (π ∝ (w/l)^{1/β}, of chosen w and rejected l) to DPO, "
        "π ∝ π_ref^α (w/l)^{1/β}: it is the interpolation that the paper describes. The paper's own form has the "
        "reference in the opposite direction, which the control shows."
    ),
    fields={"beta": BETA, **PAIRS},
    check=lambda i: at_one({"reference_form": "reference", **i}),
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={FORM: lambda i: "reference_form" not in i},
    control=Control(breaks=FORM, instance={"beta": 1.0, "reference_form": "ratio", **ONE_PAIR}),
)


CLAIMS = (
    THEOREM_3_1,
    UNIFORM_REFERENCE,
    LIMIT_0,
    LIMIT_1,
    IS_DPO,
    *_alpha_bound.CLAIMS,
    *_alpha_margin.CLAIMS,
)
