"""`verify`: draw instances of a claim, replay its counterexample and its control, and conclude."""

import math
import zlib
from collections.abc import Iterable

import numpy as np

from didsim._checks import check_integer
from didsim.claims._claim import Claim, Result
from didsim.claims._fields import Instance, draw
from didsim.preference import MAX_SEED

DRAWS = 200
"""The default number of random instances of an ordinary claim."""

MOST_DRAWS = 10**7

LEAST_DRAWS, TRIES = 1, 1000
"""The fewest random instances, and how many draws are made for one that meets the assumptions."""


def residual_of(claim: Claim, instance: Instance) -> float:
    """Return the residual of an instance; what is not a number counts as infinite."""
    residual = float(claim.check(instance))
    return math.inf if math.isnan(residual) else residual


def rng_of(claim: Claim, seed: int) -> np.random.Generator:
    """Return the random numbers of a claim, which do not depend on what else is checked."""
    return np.random.default_rng([check_integer("seed", seed, 0, MAX_SEED), zlib.crc32(claim.name.encode())])


def draw_instance(claim: Claim, rng: np.random.Generator) -> Instance:
    """Draw an instance that meets the assumptions.

    Raises:
        RuntimeError: if the fields of the claim hardly ever meet its assumptions.
    """
    for _ in range(TRIES):
        instance = draw(claim.fields, rng)
        if claim.meets_assumptions(instance):
            return instance
    raise RuntimeError(f"{claim.name}: none of {TRIES} draws meets its assumptions")


def check_claim(claim: Claim, draws: int = DRAWS, seed: int = 0, more: Iterable[Instance] = ()) -> Result:
    """Check a claim.

    Args:
        claim: the claim.
        draws: how many random instances; of a costly claim a share of them, at least one.
        seed: of the draws.
        more: further instances, such as a search has found.

    Returns:
        What was found. The saved counterexample is replayed whatever is drawn.
    """
    check_integer("draws", draws, 1, MOST_DRAWS)
    rng = rng_of(claim, seed)
    drawn = [draw_instance(claim, rng) for _ in range(max(LEAST_DRAWS, draws // claim.cost))]
    while sum(map(claim.meets_condition, drawn)) < LEAST_DRAWS and len(drawn) < TRIES:
        drawn.append(draw_instance(claim, rng))  # of those that do not meet the condition nothing is claimed
    known = [] if claim.counterexample is None else [claim.counterexample]
    instances = [*known, *more, *drawn]
    residuals = [residual_of(claim, instance) for instance in instances]
    inside = [r for r, instance in zip(residuals, instances, strict=True) if claim.meets_condition(instance)]
    worst = int(np.argmax(residuals))
    violated = residuals[worst] > claim.tolerance
    shown = 0 if known and residuals[0] > claim.tolerance else worst  # the saved one is the easiest to read
    control = float(claim.check(claim.control.instance))  # a control that is not a number has not failed
    verdict = _verdict(claim, residuals[worst], max(inside, default=math.inf), control)
    return Result(
        claim=claim,
        verdict=verdict,
        instances=len(instances),
        residual=max(inside, default=math.inf),
        control=control,
        counterexample=instances[shown] if violated else None,
        violation=residuals[shown] if violated else None,
        sentence=_sentence(claim, verdict, len(instances), len(inside)),
    )


def _verdict(claim: Claim, worst: float, inside: float, control: float) -> str:
    """Conclude from the worst residual of all instances, and of those that meet the condition."""
    if not control > claim.tolerance:
        return "inconclusive"  # a check that cannot fail says nothing
    if worst <= claim.tolerance:
        return "holds"
    if claim.condition is not None and inside <= claim.tolerance:
        return "holds-conditionally"
    if claim.bound is not None and inside <= claim.bound:
        return "approximate"
    return "fails"


def _sentence(claim: Claim, verdict: str, instances: int, inside: int) -> str:
    """Word what was found, without claiming more than that."""
    condition = "" if claim.condition is None else claim.condition[0]
    match verdict:
        case "holds":
            return f"no counterexample in {_counted(instances)}"
        case "holds-conditionally":
            return f"fails as printed; no counterexample in {_counted(inside)} where {condition}"
        case "approximate":
            return f"not exact, but within {claim.bound:g} in {_counted(inside)}"
        case "fails":
            return "a counterexample violates it"
        case _:
            return "the negative control does not fail, so the check says nothing"


def _counted(instances: int) -> str:
    return "1 instance" if instances == 1 else f"{instances} instances"
