"""The checker is checked: bugs planted in the library, one at a time, each turn claims of the ledger red."""

import math
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from didsim import differential, info, preference
from didsim.claims import CLAIMS, check_claim
from didsim.engine import _gradient as gradient_module
from didsim.engine import plain_gradient
from didsim.engine._weights import TableWeights
from didsim.objectives import OBJECTIVES, Link, Pairs, Responses, projected_gradient
from didsim.objectives._links import LOGISTIC, target_margin
from didsim.objectives._math import _StopGradient, softplus_neg
from didsim.objectives._objective import slope
from didsim.objectives._tokens import Tokens
from didsim.policy import Policy
from didsim.preference import Problem

KINDS = (
    "sign of the margin",
    "missing β",
    "wrong reference",
    "mean for sum",
    "clipped gradient",
    "lost detach",
    "wrong log base",
    "swapped pair",
    "unnormalised q",
    "off-by-one length",
)
"""What a ledger must see, in the words of its specification."""

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A bug: of what kind, in which place, how it is planted, and some claims that see it in a few draws."""

    kind: str
    where: str
    plant: Plant
    seen_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """Kind and place."""
        return f"{self.kind}: {self.where}"


BUGS: list[Bug] = []


def bug(kind: str, where: str, *seen_by: str) -> Callable[[Plant], Plant]:
    """Add a way to plant a bug to the list."""

    def add(plant: Plant) -> Plant:
        BUGS.append(Bug(kind, where, plant, seen_by))
        return plant

    return add


def everywhere(patch: pytest.MonkeyPatch, original: Any, planted: Any) -> None:
    """Put another function into every module of the package that holds the original, under whatever name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "didsim":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, attribute, planted)


def in_registry(patch: pytest.MonkeyPatch, name: str, **pieces: Any) -> None:
    """Put another record into the registry: that of an objective with some other pieces."""
    patch.setitem(OBJECTIVES._records, name, replace(OBJECTIVES[name], **pieces))


# --- sign of the margin --------------------------------------------------------------------------------------


@bug("sign of the margin", "DPO is S(−m)", "did.thm-L.1-if", "mi.recovers-dpo")
def _(patch: pytest.MonkeyPatch) -> None:
    link = Link(value=lambda margin: softplus_neg(-margin), slope=lambda margin: margin.sigmoid())
    in_registry(patch, "dpo", link=link)


@bug("sign of the margin", "SimPO is S(m + γ)", "mi.recovers-simpo", "alpha.limit-0")
def _(patch: pytest.MonkeyPatch) -> None:
    def shifted(margin: torch.Tensor, gamma: Any, beta: Any, gamma_form: str) -> torch.Tensor:
        return margin + target_margin(gamma, beta, gamma_form)

    link = Link(
        value=lambda margin, *, beta, gamma, gamma_form: softplus_neg(shifted(margin, gamma, beta, gamma_form)),
        slope=lambda margin, *, beta, gamma, gamma_form: -(-shifted(margin, gamma, beta, gamma_form)).sigmoid(),
    )
    in_registry(patch, "simpo", link=link)


@bug("sign of the margin", "R-DPO is S(βD − α(|y_w| − |y_l|))", "x.recovers-r-dpo")
def _(patch: pytest.MonkeyPatch) -> None:
    @slope(lambda y, *, beta, alpha: beta)
    def score(y: Responses, *, beta: Any, alpha: Any) -> torch.Tensor:
        return beta * y.log_ratio - alpha * y.num_tokens

    in_registry(patch, "r_dpo", score=score)


# --- missing β -----------------------------------------------------------------------------------------------


@bug("missing β", "DPO's score is h", "did.thm-L.1-if", "x.lld-sign")
def _(patch: pytest.MonkeyPatch) -> None:
    @slope(lambda y, *, beta: 1.0)
    def score(y: Responses, *, beta: Any) -> torch.Tensor:
        return y.log_ratio

    in_registry(patch, "dpo", score=score)


@bug("missing β", "SimPO's score is the mean of log π", "mi.recovers-simpo", "x.uniform-reference")
def _(patch: pytest.MonkeyPatch) -> None:
    @slope(lambda y, *, beta: 1.0 / y.num_tokens)
    def score(y: Responses, *, beta: Any) -> torch.Tensor:
        return y.mean_log_pi

    in_registry(patch, "simpo", score=score)


@bug("missing β", "the ideal rejected distribution is π_ref²/π*", "did.thm-3.3", "did.thm-L.1-if")
def _(patch: pytest.MonkeyPatch) -> None:
    original = differential.ideal_rejected
    everywhere(patch, original, lambda reference, target, beta=1.0: original(reference, target))


# --- wrong reference -----------------------------------------------------------------------------------------


@bug("wrong reference", "losses see a uniform one", "did.thm-L.1-if", "rmipo.eq-4")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Responses, "reference", property(lambda y: torch.zeros_like(y.log_pi)))


@bug("wrong reference", "the engine sees the target in its place", "x.f-divergence")
def _(patch: pytest.MonkeyPatch) -> None:
    decided = property(lambda problem: problem.space.next_log_probs(np.atleast_2d(problem.target.log_probs)))
    patch.setattr(Problem, "next_log_ref", decided)


@bug("wrong reference", "q is taken from a uniform one", "did.thm-3.2")
def _(patch: pytest.MonkeyPatch) -> None:
    original = differential.did
    everywhere(patch, original, lambda pi, pi_ref: original(pi, np.full(_size(pi), 1.0 / _size(pi))))


def _size(pi: Any) -> int:
    return pi.num_classes if isinstance(pi, Policy) else np.shape(pi)[-1]


# --- mean for sum --------------------------------------------------------------------------------------------


@bug("mean for sum", "log-ratios are per token", "mi.recovers-dpo", "rmipo.eq-4")
def _(patch: pytest.MonkeyPatch) -> None:
    per_token = property(lambda y: (y.log_pi - y.reference) / (1.0 if y.length is None else y.length))
    patch.setattr(Responses, "log_ratio", per_token)


@bug("mean for sum", "sums over the tokens of a response are means", "x.sequential-kl-mean")
def _(patch: pytest.MonkeyPatch) -> None:
    original = Tokens.total
    patch.setattr(Tokens, "total", lambda tokens, values: original(tokens, values) / tokens.mask.sum(-1))


@bug("mean for sum", "and the reverse: log π per token is not divided", "x.uniform-reference")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Responses, "mean_log_pi", property(lambda y: y.log_pi))


# --- clipped gradient ----------------------------------------------------------------------------------------

LIMIT = 0.05


@bug("clipped gradient", "the engine's gradients, at a norm of 0.05", "x.lld-sign")
def _(patch: pytest.MonkeyPatch) -> None:
    def clip(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (LIMIT / gradient.norm(dim=-1, keepdim=True).clamp(min=LIMIT))

    for original in (plain_gradient, gradient_module.fused_gradient):
        everywhere(patch, original, lambda *given, original=original, **more: clip(original(*given, **more)))


@bug("clipped gradient", "the pull of each pair in DPO, at ½", "did.thm-L.1-if", "rmipo.eq-4")
def _(patch: pytest.MonkeyPatch) -> None:
    # the loss is linear below the margin 0, where its slope would be beyond −½
    link = Link(
        value=lambda margin: softplus_neg(margin.clamp(min=0.0)) - 0.5 * margin.clamp(max=0.0),
        slope=lambda margin: -(-margin.clamp(min=0.0)).sigmoid(),
    )
    in_registry(patch, "dpo", link=link)


@bug("clipped gradient", "DPO-PG's projection, number by number", "x.dpo-pg-slopes")
def _(patch: pytest.MonkeyPatch) -> None:
    def clipped(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return projected_gradient(chosen, rejected).clamp(-LIMIT, LIMIT)

    everywhere(patch, projected_gradient, clipped)
    in_registry(patch, "dpo_pg", gradient_rule=clipped)


# --- lost detach ---------------------------------------------------------------------------------------------


@bug("lost detach", "gradient flows through sg[·]", "mi.recovers-tdpo", "x.stop-gradient-lengths")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_StopGradient, "backward", staticmethod(lambda ctx, *gradients: gradients[0]))


# --- wrong log base ------------------------------------------------------------------------------------------


def _in_bits(function: Any) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        everywhere(patch, function, lambda *given, **more: function(*given, **more) / math.log(2.0))

    return plant


IN_BITS = {
    info.entropy: ("did.app-E-identity", "did.app-K-mc"),
    info.kl: ("did.app-E-identity", "mi.lem-1"),
    info.js: ("mi.lem-1",),
    info.mutual_information: ("mi.lem-1", "x.prompt-dependence"),
    info.pmi: ("x.prompt-dependence",),
}

for function, names in IN_BITS.items():
    bug("wrong log base", f"{function.__name__} is in bits", *names)(_in_bits(function))


@bug("wrong log base", "S(m) is in bits", "x.lld-sign", "mi.recovers-dpo")
def _(patch: pytest.MonkeyPatch) -> None:
    link = Link(
        value=lambda margin: LOGISTIC.value(margin) / math.log(2.0),
        slope=lambda margin: LOGISTIC.slope(margin) / math.log(2.0),
    )
    in_registry(patch, "dpo", link=link)


# --- swapped pair --------------------------------------------------------------------------------------------


@bug("swapped pair", "Pairs.from_log_probs", "did.thm-L.1-if", "rmipo.eq-4")
def _(patch: pytest.MonkeyPatch) -> None:
    original = Pairs.from_log_probs

    def swapped(**given: Any) -> Pairs:
        pairs = original(**given)
        return replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen)

    patch.setattr(Pairs, "from_log_probs", staticmethod(swapped))


@bug("swapped pair", "the engine's tables of pairs", "x.lld-sign", "x.f-divergence")
def _(patch: pytest.MonkeyPatch) -> None:
    original = TableWeights.from_joint
    patch.setattr(TableWeights, "from_joint", staticmethod(lambda joint: original(joint.mT)))


@bug("swapped pair", "p*(i ≻ j)", "did.thm-3.3")
def _(patch: pytest.MonkeyPatch) -> None:
    original = preference.preference_probabilities
    everywhere(patch, original, lambda chosen, rejected: original(rejected, chosen))


# --- unnormalised q ------------------------------------------------------------------------------------------


@bug("unnormalised q", "did leaves π/π_ref as it is", "did.thm-3.2", "did.app-E-identity")
def _(patch: pytest.MonkeyPatch) -> None:
    def ratio(pi: Any, pi_ref: Any) -> Policy:
        updated, reference = (p if isinstance(p, Policy) else Policy.from_probs(p) for p in (pi, pi_ref))
        return Policy(updated.log_probs - reference.log_probs)

    everywhere(patch, differential.did, ratio)


@bug("unnormalised q", "the marginal sums over prompts without their weights", "mi.lem-1", "x.prompt-dependence")
def _(patch: pytest.MonkeyPatch) -> None:
    original = info.marginal

    def summed(policy: Any, prompts: Any) -> Policy:
        return Policy(original(policy, prompts).log_probs + math.log(len(prompts)))

    everywhere(patch, original, summed)


# --- off-by-one length ---------------------------------------------------------------------------------------


@bug("off-by-one length", "|y| + 1 tokens", "x.uniform-reference", "x.stop-gradient-lengths")
def _(patch: pytest.MonkeyPatch) -> None:
    original = Responses.num_tokens.fget
    assert original is not None
    patch.setattr(Responses, "num_tokens", property(lambda y: original(y) + 1))


@bug("off-by-one length", "|y| − 1 tokens, and 1 at least", "x.recovers-r-dpo", "x.stop-gradient-lengths")
def _(patch: pytest.MonkeyPatch) -> None:
    original = Responses.num_tokens.fget
    assert original is not None
    patch.setattr(Responses, "num_tokens", property(lambda y: (original(y) - 1).clamp(min=1)))


@bug("off-by-one length", "sums over tokens leave out the last one", "x.sequential-kl-mean")
def _(patch: pytest.MonkeyPatch) -> None:
    def short(tokens: Tokens, values: torch.Tensor) -> torch.Tensor:
        inside = tokens.mask & (tokens.position < tokens.mask.sum(-1, keepdim=True))
        return torch.where(inside, values, 0.0).sum(-1)

    patch.setattr(Tokens, "total", short)


# --- the kill matrix -----------------------------------------------------------------------------------------


def is_red(name: str, draws: int) -> bool:
    """Return whether the check of a claim raises, or finds another verdict than recorded in two draws or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning alone does not count
        try:
            return not check_claim(CLAIMS[name], max(draws, 2 * CLAIMS[name].cost), 0).agrees
        except Exception:
            return True


def killed_by(planted: Bug, names: Iterable[str], draws: int) -> list[str]:
    """Plant a bug, and return which claims turn red."""
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        return [name for name in names if is_red(name, draws)]


DRAWS = 4
"""Few, since a bug that hides in most instances is none of these."""


def test_bugs_of_every_kind_are_planted():
    assert list(dict.fromkeys(planted.kind for planted in BUGS)) == list(KINDS)
    assert all(planted.seen_by for planted in BUGS)


@pytest.mark.parametrize("planted", BUGS, ids=lambda planted: planted.name)
def test_the_bug_turns_claims_red_that_are_green_without_it(planted):
    assert killed_by(planted, planted.seen_by, DRAWS) == list(planted.seen_by)
    assert [name for name in planted.seen_by if is_red(name, DRAWS)] == []  # and nothing of it is left


AFFORDABLE = [name for name, claim in CLAIMS.items() if claim.cost <= 20]
"""The claims that take seconds together; the others take half a minute."""


@pytest.mark.slow
def test_every_bug_kills_claims_of_the_ledger():
    """Check all claims that take little time under all bugs; print who is killed."""
    assert [name for name in AFFORDABLE if is_red(name, DRAWS)] == []
    matrix = {planted.name: killed_by(planted, AFFORDABLE, DRAWS) for planted in BUGS}
    print(f"\nKill matrix: which claims turn red under which bug ({len(AFFORDABLE)} claims, {len(BUGS)} bugs)")
    for name, killed in matrix.items():
        print(f"{len(killed):4d}  {name}\n      {', '.join(killed) or '-'}")
    assert [name for name, killed in matrix.items() if not killed] == []
    assert [name for name in AFFORDABLE if is_red(name, DRAWS)] == []  # and nothing of the bugs is left
