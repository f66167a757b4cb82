"""Across the papers: where every objective leads in the DID problem, in closed form or not, at its defaults.

One check for each of four kinds of objectives, repeated over the registry.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from didsim.claims._claim import Claim, Control
from didsim.claims._common import CERTIFICATE, SOLVED, one_step, problem_of
from didsim.claims._fields import Choice, Instance, Simplex
from didsim.engine import train
from didsim.info import tv
from didsim.objectives import IMPLEMENTATIONS, OBJECTIVES, BoundObjective, objective
from didsim.optima import CLOSED_FORMS, MI_DPO_FORMS, NO_CLOSED_FORM, closed_form
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.spaces import Sequences
from didsim.stationary import Solution, solve

BOUNDARY = ("kto", "apo_zero", "simper")
"""Those whose field pushes responses with w < l down wherever they are."""

NOT_ALWAYS = ("robust_dpo", "chi_po", "apo_down", "beta_dpo", "aot_unpaired", "dpo_pg")
"""Those that have no isolated stationary policy in some DID problems."""

KINKED = ("hinge", "dpop", "slic", "repo", "epsilon_dpo")
"""Those whose stationary policies stand at kinks or jumps, where the field itself is not 0."""

OF_TWO = ("aot",)
"""Those looked at for two responses only: with more the solver neither always finds a policy nor shows that none is."""

SEQUENCES = 7
"""This number of responses is all sequences of at most two tokens out of two, whose lengths differ."""

WIDEST = 6.0
"""Policies and their ratios spread over no more nats, so that the solver resolves them."""

MODERATE = f"log-probabilities and log-ratios spread over at most {WIDEST:g} nats"
DISTINCT = "the target is not the reference"
ALL_PAIRS = "every response can be chosen and rejected"


SYMBOLS: Mapping[str, str] = {
    r"\bw\b|\bw_i": "w and l are the distributions of chosen and rejected responses",
    r"\bv\b|v_i": "v = log(w/l) of chosen w and rejected l",
    r"ζ": "ζ = π_ref is the default prior",
    r"\bc\b": "c is a constant that Σ π = 1 fixes",
    r"ω": "ω is Wright's function, ω(z) + log ω(z) = z",
    r"V\(x\)": "x is a prefix and a the next token or the end",
    r"f′": "f′ is the derivative of the divergence's f",
    r"h_i|h_j|βh|in h:|S\(D\)": "h = log π/π_ref",
    r"S\(D\)": "D is the margin of h and S(z) = −log σ(z)",
    r"in a:": "a = log π/|y|",
    r"Λ": "Λ is the multiplier of Σ π = 1",
    r"G_i": "G_i is the derivative of the loss by the score of response i",
    r"− z\)": "z is KTO's KL(π ‖ π_ref)",
    r"p\*": "p* is the chance that the first of two responses is the chosen one",
    r"\bm\b": "m is its margin over the other",
    r"K_w": "K is the sequential KL(π_ref ‖ π)",
}
"""What the symbols of formulas mean, by what they look like."""


def legend(text: str) -> str:
    """Return what the symbols of a text mean, as words between commas."""
    return ", ".join(words for symbol, words in SYMBOLS.items() if re.search(symbol, text))


def world(instance: Instance) -> Problem:
    """Return the DID problem of an instance, over classes or sequences."""
    if instance["num_classes"] != SEQUENCES:
        return problem_of(instance)
    return Problem.from_policies(instance["reference"], instance["target"], space=Sequences(2, 2))


def is_moderate(instance: Instance) -> bool:
    """Return whether nothing in a world is extreme."""
    reference, target = np.log(instance["reference"]), np.log(instance["target"])
    return max(np.ptp(reference), np.ptp(target), np.ptp(target - reference)) <= WIDEST


def is_distinct(instance: Instance) -> bool:
    """Return whether there is something to learn."""
    return float(tv(instance["reference"], instance["target"])) > 1e-3


def can_be_all(instance: Instance) -> bool:
    """Return whether no response is excluded from being chosen."""
    return min(instance.get("chosen", [1.0])) > 0.0


def solved(instance: Instance, loss: BoundObjective) -> Solution:
    """Return where a loss leads from π_ref."""
    return solve(world(instance), loss, starts=1)


def off_the_form(name: str) -> Callable[[Instance], float]:
    """Return the check of an objective with a closed form: the largest difference of log-probabilities."""

    def check(instance: Instance) -> float:
        problem, solution = world(instance), solved(instance, objective(name))
        form = closed_form(problem, objective(name, **instance.get("of_form", {})))
        if solution.status != "converged" or solution.policy is None or form is None:
            return np.inf
        moved = np.array(instance.get("moved", 0.0))
        return float(np.abs(solution.policy.log_probs - form.log_probs - moved).max())

    return check


def off_the_boundary(name: str) -> Callable[[Instance], float]:
    """Return the check of an objective without an interior: what is left of responses with w < l; 1 if it is inside."""

    def check(instance: Instance) -> float:
        problem, solution = world(instance), solved(instance, objective(name))
        if solution.status != "boundary" or solution.policy is None:
            return 1.0
        return float(solution.policy.probs[problem.chosen.log_probs < problem.rejected.log_probs].sum())

    return check


def off_rest(name: str) -> Callable[[Instance], float]:
    """Return the check of an objective without a formula: how far a gradient step leads from the solver's policy.

    At kinks and jumps it is by how much the expected loss is lower at policies around it.
    """

    def check(instance: Instance) -> float:
        solution = solved(instance, objective(name))
        if solution.status != "converged" or solution.policy is None:
            return np.inf
        place = Policy.from_logits(solution.policy.log_probs + np.array(instance.get("moved", 0.0)))
        if name in KINKED:
            return _gain_around(world(instance), objective(name), place)
        after = one_step(world(instance), objective(name), place)
        return float(np.abs(after.log_probs - place.log_probs).max())

    return check


def off_existence(name: str) -> Callable[[Instance], float]:
    """Return the check of existence: 0 where there is an isolated stationary policy in the simplex, else 1."""
    return lambda instance: float(solved(instance, objective(name)).status != "converged")


def _gain_around(problem: Problem, loss: BoundObjective, place: Policy) -> float:
    """Return by how much the expected loss falls at most, per nat, along the axes of the logits around a place."""

    def value(policy: Policy) -> float:
        settings = {"steps": 1, "mode": "population", "dtype": "float64", "metrics": ("loss",)}
        return float(train(problem, loss, initial_policy=policy, **settings).metrics["loss"][0])

    aside = np.concatenate([np.eye(problem.num_classes), -np.eye(problem.num_classes)]) * ASIDE
    around = min(value(Policy.from_logits(place.log_probs + step)) for step in aside)
    return max(0.0, value(place) - around) / ASIDE


ASIDE = 1e-3
"""How far beside a kink the loss is looked at, in nats."""


def _claim(name: str) -> Claim:
    """Return the claim about one objective, by what is known of it."""
    if name in NOT_ALWAYS:
        return _existence(name)
    if name in BOUNDARY:
        return _boundary(name)
    example = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.2, 0.6])
    return _without_form(name) if closed_form(example, objective(name)) is None else _with_form(name)


def _base(name: str, sizes: tuple[int, ...]) -> dict:
    title, loss = OBJECTIVES[name].title, objective(name)
    defaults = ", ".join(f"{key} = {value}" for key, value in loss.hyperparameters.items())
    return {
        "name": f"x.stationary-{name}",
        "source": f"ours; {OBJECTIVES[name].source}",
        "fields": {"num_classes": Choice(sizes), "reference": Simplex(), "target": Simplex()},
        "cost": 100,
        "title": title,
        "defaults": f"the defaults ({defaults})" if defaults else "",
    }


MOVED = {"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25], "moved": [0.1, 0.0]}
STAYS = "the policy is the one that the solver names"
RESTS: dict[str, Callable[[Instance], bool]] = {MODERATE: is_moderate, STAYS: lambda i: "moved" not in i}


def _with_form(name: str) -> Claim:
    lengths = Problem.from_policies(
        np.ones(SEQUENCES) / SEQUENCES, np.ones(SEQUENCES) / SEQUENCES, space=Sequences(2, 2)
    )
    differ = closed_form(lengths, objective(name)) is not None
    base = _base(name, (2, 3, 4, SEQUENCES) if differ else (2, 3, 4))
    title, defaults = base.pop("title"), base.pop("defaults")
    form = MI_DPO_FORMS["given"].formula if name == "mi_dpo" else CLOSED_FORMS[name].formula
    return Claim(
        **base,
        statement=f"{title}: in the DID problem it leads to {form}, where {legend(form)}.",
        verdict="holds",
        note=(
            "The derivation is in didsim.optima: it solves the equations by which the population loss is stationary on "
            "the simplex. The solver, which knows nothing of the formula, is compared with it"
            f"{' at ' + defaults if defaults else ''}. Where the formula is not the target, no amount of training or "
            "data repairs it: it is bias."
        ),
        check=off_the_form(name),
        tolerance=SOLVED,
        reason=CERTIFICATE,
        assumptions=RESTS,
        control=Control(breaks=STAYS, instance=MOVED),
    )


def _without_form(name: str) -> Claim:
    base = _base(name, (2,) if name in OF_TWO else (2, 3) if name in KINKED else (2, 3, SEQUENCES))
    title, defaults = base.pop("title"), base.pop("defaults")
    why = NO_CLOSED_FORM.get(name) or f"There is one only with {CLOSED_FORMS[name].condition}."
    meaning, kinked = legend(why), name in KINKED
    way = (
        "the policy stands at kinks or jumps, and the expected loss is no lower at policies around it"
        if kinked
        else "a gradient step of the engine on the exact population loss moves no log-probability from there"
    )
    return Claim(
        **base,
        statement=(
            f"{title}: in the DID problem{' of two responses' if name in OF_TWO else ''} it has an isolated stationary "
            "policy inside the simplex, for which no closed form is known."
        ),
        verdict="holds",
        note=(
            f"Why there is no formula: {why} {f'Here {meaning}. ' if meaning else ''}The solver finds the policy "
            f"numerically at {defaults or 'its only setting'}, and the check does not take its word: {way}. That a "
            "formula is not known does not mean that none exists."
        ),
        check=off_rest(name),
        tolerance=1e-11 if kinked else SOLVED,
        reason="the rounding of losses up to a hundred, 1e-14, divided by 1e-3 nats" if kinked else CERTIFICATE,
        assumptions=RESTS,
        control=Control(breaks=STAYS, instance={**MOVED, "moved": [0.5, 0.0]}),
    )


def _boundary(name: str) -> Claim:
    base = _base(name, (2, 3, 4))
    title, defaults = base.pop("title"), base.pop("defaults")
    return Claim(
        **base,
        statement=(
            f"{title}: in the DID problem it has no stationary policy inside the simplex; responses that are rejected "
            "more often than chosen die out."
        ),
        verdict="holds",
        note=(
            f"{NO_CLOSED_FORM[name]} Here {legend(NO_CLOSED_FORM[name])}. Training at {defaults or 'its only setting'} "
            "so approaches the boundary without arriving, and looks converged when it is only slow. With a target that "
            "is the reference nothing pushes, and every policy is stationary: that is the control."
        ),
        check=off_the_boundary(name),
        tolerance=1e-12,
        reason="the solver puts responses that die out at probability 0",
        assumptions={MODERATE: is_moderate, DISTINCT: is_distinct},
        control=Control(
            breaks=DISTINCT, instance={"num_classes": 2, "reference": [0.75, 0.25], "target": [0.75, 0.25]}
        ),
    )


def _existence(name: str) -> Claim:
    base = _base(name, (2,))
    title, defaults = base.pop("title"), base.pop("defaults")
    why = NO_CLOSED_FORM.get(name) or f"There is a formula only with {CLOSED_FORMS[name].condition}."
    meaning = legend(why)
    return Claim(
        **base,
        statement=f"{title}: in every DID problem it has an isolated stationary policy inside the simplex.",
        verdict="fails",
        note=(
            f"{why} {f'Here {meaning}. ' if meaning else ''}At {defaults or 'its only setting'} the counterexample is "
            "a small problem where the solver finds none: didsim solve says of it whether stationary policies form a "
            "continuum, lie on the boundary, or were not found at all, which is evidence and no proof. Where training "
            "seems to stop there, it is slow, or it depends on the start."
        ),
        check=off_existence(name),
        tolerance=0.5,
        reason="a status, 0 or 1",
        assumptions={MODERATE: is_moderate, DISTINCT: is_distinct, ALL_PAIRS: can_be_all},
        control=FAR_APART
        if name == "chi_po"
        else Control(
            breaks=ALL_PAIRS,
            instance={"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25], "chosen": [1.0, 0.0]},
        ),
    )


FAR_APART = Control(breaks=MODERATE, instance={"num_classes": 2, "reference": [0.999, 0.001], "target": [0.001, 0.999]})
"""A margin that χPO clips; at a response that is never chosen it has a stationary policy."""

CLAIMS = tuple(_claim(name) for name in IMPLEMENTATIONS)
