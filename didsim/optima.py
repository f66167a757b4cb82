"""Closed forms of the policies at which population losses are stationary.

The loss is L = Σ_xij p(x) w(i|x) l(j|x) ℓ(i, j), with w the distribution of chosen and l that of rejected responses,
over all policies of the simplex (no features). Prompts then separate, and everything below is said of one of them:
v = log(w/l), h = log π/π_ref, a = log π/|y|, and c is a constant that Σ π = 1 fixes.

Lemma. Let ℓ be a link of the score margin, f(s_i − s_j), with scores s_i = φ_i(log π_i) and φ_i increasing. Then a
stationary policy is stationary in the scores themselves. Proof: let G_i = ∂L/∂s_i. Adding a number to all scores
changes no margin, hence Σ G_i = 0. Stationarity on the simplex says G_i φ_i′ = π_i Λ with one multiplier Λ, hence
Σ G_i = Λ Σ π_i/φ_i′ = 0 and Λ = 0. So G = 0: the scores are those that would minimise L if they were free, up to the
constant c. A convex link has one such solution, and the logistic one, S(s_i − s_j), has s = v + c:
w_i l_j σ(−m) = w_j l_i σ(m) for every pair where m = v_i − v_j.

Two extensions. A gradient that is stopped in a part of the scores only replaces φ_i′ > 0 by another positive slope. And
scores of whole sequences that depend on more than log π_i serve as well if policies and scores (up to c) correspond one
to one, smoothly: the Jacobian then reaches every change of the scores, so that G = 0 again.

Pairs that are drawn jointly, P_ij in place of w_i l_j. The lemma does not look at the law of pairs. If the preferences
are those of scores, P_ij/P_ji = e^{v_i − v_j} for all that are compared, and comparisons lead from each response to
every other, then s = v + c is the solution for the logistic link here too, the only one: on each pair by itself
P_ij σ(−m) = P_ji σ(m). So is it for the exponential one, P_ij e^{−m} = P_ji e^{m} with m = (v_i − v_j)/2. How often
pairs are compared drops out, and every formula of v = log(w/l) holds with these v; the problem that
`Problem.independent` names has them. Those of SPPO and ORPO read nothing but the margins w and l. IPO's reads more: how
often each pair is compared. Where there are no such scores there is no formula here.

A response that is never chosen gets probability 0, which is a limit and not a stationary point. The equations of the
scores and their solutions stand in `didsim._formulas`, one function for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from didsim import _formulas as formulas
from didsim._checks import POSITIVE, check_number, message
from didsim._formulas import Form, tilted
from didsim.info import Distribution
from didsim.policy import Policy, as_policy
from didsim.preference import Problem

__all__ = [
    "CLOSED_FORMS",
    "MI_DPO_FORMS",
    "NO_CLOSED_FORM",
    "ClosedForm",
    "closed_form",
    "dpo_optimum",
]


def dpo_optimum(problem: Problem, beta: float = 1.0, prior: Distribution | None = None) -> Policy:
    """Return the policy at which the population DPO loss of a problem is smallest.

    Derivation: E S(β m) with m_ij = h_i − h_j, h = log π/ζ, is smallest where the model's preference
    σ(β m_ij) equals p*(i ≻ j) = σ(log(w/l)_i − log(w/l)_j) for every pair, which β h = log(w/l) + c
    achieves. Hence π ∝ ζ (w/l)^{1/β}, with w and l the distributions of chosen and rejected responses.

    Args:
        problem: where the pairs come from.
        beta: the β > 0 of the loss.
        prior: ζ; π_ref (DPO) by default. The uniform one gives the optimum of r = β log π.

    Returns:
        A policy [K], or [X, K] with prompts. In the DID construction with the same β it is the target π*. Of pairs that
        are drawn jointly it is π ∝ ζ e^{v/β}, where p* = σ(v_i − v_j).

    Raises:
        ValueError: if β ≤ 0, if a chosen class is never rejected (the optimum lies at infinity), or if pairs are drawn
            jointly and no scores v explain them, or they leave some open.

    Source: footnote 4 (π ∝ π_ref p*^{1/β}) with Appendix F.2.

    >>> problem = Problem.from_policies([0.5, 0.5], [0.8, 0.2], beta=0.5)
    >>> dpo_optimum(problem, beta=0.5).probs
    array([0.8, 0.2])
    """
    zeta = problem.reference if prior is None else as_policy(prior)
    if zeta.num_classes != problem.num_classes:
        raise ValueError(message("the number of classes of prior", str(problem.num_classes), zeta.num_classes))
    world = problem.independent
    if world is None:
        hint = "`didsim.solve` finds the optimum of any pairs, if there is one."
        raise ValueError(message("the preferences", "σ(v_i − v_j) of scores v", "pairs that no scores explain", hint))
    return tilted(world, check_number("beta", beta, POSITIVE), zeta)


@dataclass(frozen=True)
class ClosedForm:
    """The stationary policy of an objective's population loss, as a formula.

    Attributes:
        objective: the objective's name in `OBJECTIVES`.
        formula: the policy, in the notation of this module.
        condition: when it applies, in words; "" if always.
        policy: ``policy(problem, **hyperparameters)``, given all that the objective reads, as floats and options: a
            policy [K] or [X, K], or None where the condition is not met. The problem must have no features.
    """

    objective: str
    formula: str
    condition: str
    policy: Form


def closed_form(problem: Problem, loss: Any) -> Policy | None:
    """Return the stationary policy of a population loss where a formula for it is known, and None elsewhere.

    Args:
        problem: where the pairs come from.
        loss: a bound objective; its name and its hyperparameters are what counts here.

    Returns:
        A policy [K], or [X, K] with prompts. None for an objective of the user's own, for a problem with features,
        where the condition of the `ClosedForm` is not met, and where pairs are drawn jointly by a law of which the
        formula does not hold.

    Raises:
        ValueError: if a chosen response is never rejected (the policy lies at infinity), or if hyperparameters are so
            extreme that log-probabilities overflow.

    >>> from didsim.objectives import objective
    >>> problem = Problem.from_policies([0.5, 0.5], [0.8, 0.2])
    >>> closed_form(problem, objective("h_dpo", eta=2.0)).probs         # ∝ (0.8, 0.2)^{1/2}
    array([0.66666667, 0.33333333])
    >>> closed_form(problem, objective("cdpo", label_smoothing=0.1)) is None
    True
    """
    if loss.name not in CLOSED_FORMS or problem.features is not None:
        return None
    world = as_if_independent(problem, loss.name)
    if world is None:
        return None
    given = loss.hyperparameters.items()
    values = {name: value if isinstance(value, str | bool) else float(value) for name, value in given}
    return CLOSED_FORMS[loss.name].policy(world, **values)


def as_if_independent(problem: Problem, name: str) -> Problem | None:
    """Return a problem of independent responses in which the closed form of an objective is the same.

    None where pairs are drawn jointly by a law of which closed forms say nothing.
    """
    if problem.pairs is None:
        return problem
    if name in OF_MARGINS:
        return replace(problem, pairs=None)
    return None if name in OF_FREQUENCIES else problem.independent


OF_MARGINS = frozenset({"orpo", "sppo"})
"""Objectives whose closed forms depend on how often each response is chosen and rejected, and on nothing else."""

OF_FREQUENCIES = frozenset({"ipo"})
"""Objectives whose closed forms depend on how often each pair is compared; all others depend on preferences."""


def _mi_dpo(problem: Problem, *, prior: str, **options: Any) -> Policy | None:
    """The equation of the objective that the prior recovers, under its names for the hyperparameters.

    A ζ that contains π is part of the score of a response; where its gradient is stopped, φ′ is α.
    """
    if prior not in MI_DPO_FORMS:
        return None
    renamed = {"alpha": "beta", "length_penalty": "alpha", "kl_weight": "alpha"}
    given = {"masks": "given"} | {renamed.get(name, name): value for name, value in options.items()}
    return MI_DPO_FORMS[prior].policy(problem, **given)


DPO_FORM = "π ∝ π_ref (w/l)^{1/β}"
SIMPO_FORM = "π ∝ ((w/l)^{1/β} e^c)^{|y|}"
TDPO_FORM = "π(a|x) ∝ π_ref(a|x) e^{V(xa)}, V(y) = v(y)/β, V(x) = Σ_a π_ref(a|x) V(xa)"

_FORMS = (
    ClosedForm("dpo", DPO_FORM, "", formulas.dpo),
    ClosedForm("wpo", DPO_FORM, "", formulas.dpo),
    ClosedForm("cdpo", DPO_FORM, "ε = 0", formulas.where(formulas.dpo, label_smoothing=0.0)),
    ClosedForm("robust_dpo", DPO_FORM, "ε = 0", formulas.where(formulas.dpo, label_smoothing=0.0)),
    ClosedForm("dpop", DPO_FORM, "λ = 0", formulas.where(formulas.dpo, lam=0.0)),
    ClosedForm("epsilon_dpo", DPO_FORM, "ε = 0", formulas.where(formulas.dpo, epsilon=0.0)),
    ClosedForm("beta_dpo", DPO_FORM, "ρ = 0, and α = 0 or level = 'batch'", formulas.beta_dpo),
    ClosedForm("tdpo2", DPO_FORM, "α = 0", formulas.where(formulas.dpo, alpha=0.0)),
    ClosedForm("ld_dpo", DPO_FORM, "α = 1, or responses of one length", formulas.ld_dpo),
    ClosedForm("log_pi", "π ∝ (w/l)^{1/β}", "", formulas.log_pi),
    ClosedForm("entropy_probe", "π ∝ w/l", "", formulas.log_pi),
    ClosedForm("cpo", "π ∝ (w/l)^{1/β}", "λ = 0", formulas.where(formulas.log_pi, lam=0.0)),
    ClosedForm("exponential", "π ∝ π_ref (w/l)^{1/(2β)}", "", formulas.exponential),
    ClosedForm("h_dpo", "π ∝ (π_ref (w/l)^{1/β})^{1/η}", "", formulas.h_dpo),
    ClosedForm("r_dpo", "π ∝ π_ref (w/l)^{1/β} e^{−(α/β)|y|}", "", formulas.r_dpo),
    ClosedForm("dpo_norm", "π ∝ π_ref ((w/l)^{1/β} e^c)^{|y|}", "", formulas.dpo_norm),
    ClosedForm(
        "ipo",
        "π ∝ π_ref e^s, or π_ref e^{|y|(s + c)} for means: s = r/(2τ(1 + V/2)), r = (w−l)/(w+l), V = Σ (w−l)²/(w+l)",
        "",
        formulas.ipo,
    ),
    ClosedForm("f_dpo", "π = π_ref (f′)⁻¹(v/β + c)", "not α > 1, or v narrow enough for f′ > −1/(α−1)", formulas.f_dpo),
    ClosedForm("chi_po", "π = π_ref ω(v/β + c)", "max |v_i − v_j| ≤ 2R", formulas.chi_po),
    ClosedForm(
        "sppo",
        "π = π_ref e^{tr − ω(tr + log π_ref/(w+l) + c)}, t = 1/(2β), r = (w−l)/(w+l)",
        "Σ π_ref e^{tr} ≥ 1, which holds if w = π_ref",
        formulas.sppo,
    ),
    ClosedForm("simpo", SIMPO_FORM, "γ = 0", formulas.where(formulas.simpo, gamma=0.0)),
    ClosedForm("rmipo", SIMPO_FORM, "γ_max = 0, and γ_min = 0 or no schedule or one prompt", formulas.rmipo),
    ClosedForm(
        "alpha_dpo",
        "π ∝ ((w/l)^{1/β} e^c)^{1/κ} π_ref^{k/κ}, κ > 0 the coefficient of log π, k = 0 or ±α",
        "γ = 0, and α = 0 or no reference, or a margin that is not standardised",
        formulas.alpha_dpo,
    ),
    ClosedForm(
        "alphapo",
        "π = (1 − α(v/β + c))^{−|y|/α}",
        "γ = 0, and α ≥ 0 or v narrow enough for rewards above −β/|α|",
        formulas.where(formulas.alphapo, gamma=0.0),
    ),
    ClosedForm("orpo", "π ∝ w/|y|", "λ = 0", formulas.where(formulas.orpo, lam=0.0)),
    ClosedForm("tdpo1", TDPO_FORM, "", formulas.tdpo),
    ClosedForm("sparse_po", TDPO_FORM, "given masks that are 1", formulas.where(formulas.sparse_po, masks="given")),
    ClosedForm(
        "tis_dpo",
        "π(a|x) ∝ π_ref(a|x) e^{V(xa)}, V(y) = v(y)/β, V(x) = log Σ_a π_ref e^V + α KL(π(·|x) ‖ π_ref(·|x))",
        "token weights that are 1",
        formulas.tis_dpo,
    ),
    ClosedForm("mi_dpo", "that of the prior, in MI_DPO_FORMS", "neither 'marginal' nor 'learned'", _mi_dpo),
)

CLOSED_FORMS: Mapping[str, ClosedForm] = MappingProxyType({form.objective: form for form in _FORMS})
"""The closed forms by the name of the objective."""

MI_DPO_FORMS: Mapping[str, ClosedForm] = MappingProxyType(
    {
        "reference": CLOSED_FORMS["dpo"],
        "previous": CLOSED_FORMS["dpo"],
        "uniform": CLOSED_FORMS["log_pi"],
        "centropy": CLOSED_FORMS["h_dpo"],
        "simpo": CLOSED_FORMS["simpo"],
        "r_dpo": CLOSED_FORMS["r_dpo"],
        "tdpo": CLOSED_FORMS["tdpo1"],
        "tis_dpo": CLOSED_FORMS["tis_dpo"],
        "sparse_po": CLOSED_FORMS["sparse_po"],
        "given": ClosedForm("mi_dpo", "π ∝ ζ (w/l)^{1/α}", "the problem has a prior", formulas.given_prior),
    }
)
"""The closed forms of MI-DPO by the name of the prior: those of the objectives it recovers, whose β is its α."""

NO_CLOSED_FORM: Mapping[str, str] = MappingProxyType(
    {
        "cdpo": "ε > 0: each pair asks for σ(m) = (1 − 2ε) p* + ε, which is no difference of scores unless K = 2.",
        "robust_dpo": "ε > 0: each pair asks for σ(m) = (p* − ε)/(1 − 2ε), which is no difference of scores unless "
        "K = 2; where p* ≤ ε it is no probability, and the loss falls without end.",
        "exo": "Each pair asks for m = (2p* − 1) log((1 − ε)/ε), which is no difference of scores unless K = 2.",
        "discopop": "Each pair asks for a margin that is no difference of scores, and the loss is not convex in it.",
        "hinge": "The loss is piecewise linear in h: its minima are solutions of a linear program, at kinks.",
        "repo": "The loss is piecewise linear in a: its minima are solutions of a linear program, at kinks.",
        "slic": "The loss is piecewise linear in log π: its minima are solutions of a convex program, at kinks.",
        "simpo": "γ ≠ 0: each pair asks for p* σ(γ − m) = (1 − p*) σ(γ + m), no difference of scores unless K = 2.",
        "alphapo": "γ ≠ 0: as for simpo. α < 0: rewards lie above −β/|α|, and where v is too wide for that the policy "
        "goes to the boundary of the simplex.",
        "rmipo": "As for simpo where γ ≠ 0; and γ differs from pair to pair, unless it is γ_max throughout.",
        "alpha_dpo": "γ ≠ 0: as for simpo. A standardised margin has its mean subtracted, which is another γ, and a "
        "spread that depends on the policy. Where the coefficient of log π is not positive for every response the "
        "lemma fails. TDPO's K is a sum over tokens, and does not combine with a mean over them.",
        "f_dpo": "α > 1: f′ ≥ −1/(α − 1), and where v is too wide for that the policy goes to the boundary.",
        "chi_po": "Pairs whose margin is to exceed 2R are clipped and pull no more, so that they leave ranges of "
        "stationary policies.",
        "dpop": "λ > 0: chosen and rejected responses have different scores, with a kink at π = π_ref.",
        "cpo": "λ > 0: the likelihood term fixes Λ = −λ: G_i = λ(w_i − π_i) mixes powers of π with π itself.",
        "orpo": "λ > 0: the likelihood term adds w/|y| to sums of σ over the odds of all other responses.",
        "cal_dpo": "Squares of single responses are added to S(D): sums of σ(h_i − h_j) with h and Λe^h.",
        "sppo": "Σ π_ref e^{r/(2β)} < 1 (never if w = π_ref): Λ > 0, and each response is on one of two branches of "
        "Lambert's function.",
        "nca": "(3w/2 + l/2) σ(βh) − w = π Λ/β: powers e^{βh} and e^h in one equation, with Λ ≠ 0.",
        "bco": "(w + l) σ(βh) − w = π Λ/β: powers e^{βh} and e^h in one equation; Λ = 0 only if Σ π_ref e^{v/β} = 1.",
        "apo_down": "σ of single responses is added to σ of margins, and neither is convex.",
        "apo_zero": "G_i = β (l_i − w_i) σ′(βh_i) has both signs and π_i Λ has one: there is none inside the simplex. "
        "Responses with w < l die out, and among the others σ′(βh)(w − l) ∝ π.",
        "kto": "G_i = β (λ_l l_i − λ_w w_i) σ′(β(h_i − z)) has both signs if λ_w = λ_l, and π_i Λ has one: there is "
        "none inside the simplex. Responses with λ_w w < λ_l l die out.",
        "simper": "G_i = (l_i − w_i) π_i^{1/|y_i|}/|y_i| has both signs and π_i Λ has one: there is none inside the "
        "simplex. Responses with w < l die out; of single tokens the one of the largest w − l stays alone.",
        "aot": "Sorting couples pairs anew wherever margins are equal; between, each margin has another partner.",
        "aot_unpaired": "Sorting couples responses anew wherever log-ratios are equal; the partners depend on π.",
        "epsilon_dpo": "ε > 0: β is β/(1 + ε) in one order of a pair and β/(1 − ε) in the other, and jumps between.",
        "beta_dpo": "α > 0: β depends on the margin of each pair, and on the mean of all. ρ > 0: the filter weighs "
        "the two orders of a pair differently.",
        "tdpo2": "α > 0: the gradient of K_w is stopped and that of K_l is not, so that it does not vanish where that "
        "of the margins does, not even for single decisions.",
        "ld_dpo": "α < 1 and several lengths: what a response's score is depends on its partner's length.",
        "sparse_po": "Masks that are not 1: K enters the scores of the tokens of one prefix by different amounts. "
        "Learned masks: the policy is stationary beside masks that are so too.",
        "tis_dpo": "Token weights that are not 1: K′ enters the scores of the tokens of one prefix by different "
        "amounts, and powers of π differ between them.",
        "dpo_pg": "Not one policy: w, and of single decisions every policy w + t(w − l) beyond w, t > 0, or beyond l, "
        "t < −1, has projected gradient 0.",
        "mi_dpo": "'learned': not one policy, since any ζ serves with π_x ∝ ζ (w_x/l_x)^{1/α}. 'marginal': with one "
        "prompt the margin is 0 whatever π; with more, π_x ∝ ζ (w_x/l_x)^{1/α} would have to average to ζ, which "
        "asks for K equations of X constants.",
    }
)
"""Why there is no closed form, by the name of the objective: at all, or where the condition of one is not met."""
