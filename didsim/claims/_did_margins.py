"""Theorem 3.5 and Appendix G of the DID paper: ordered log-margins and the power law."""

from collections.abc import Callable

import numpy as np

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, ROUNDING
from didsim.claims._fields import Choice, Count, Instance, Simplex
from didsim.differential import did, ideal_rejected, power_law
from didsim.info import Distribution
from didsim.policy import Policy

LAW = "the power law q_{π_ref/π_l} ∝ q_{π*/π_ref}^β"

ORDERED = "each log-margin grows from π_l to π_ref by more than T exactly if it does from π_ref to π*"

NOT_TURNED = "the distribution on the left leads from π_l to π_ref, and not back"

TRIPLE = {"num_classes": Count(2, 4), "reference": Simplex(), "target": Simplex(), "beta": BETA}

BENT = {**TRIPLE, "bend": Choice((0.0, 1.0))}
"""π_l ∝ π_ref exp(−β (b + bend tanh b)), b = log π*/π_ref: in the order of the power law, and on it if bend = 0."""

LEVEL = Choice((0.0, 0.0, 1.0, 3.0))
"""A threshold T in nats, above which a margin is sufficiently larger."""

RELATIVE = "rounding, in units of the largest margin and scale if these are above 1"


def rejected_of(instance: Instance) -> Distribution:
    """Return π_l: as given, or on the power law, or bent away from it in the same order."""
    reference, target, beta = (instance[name] for name in ("reference", "target", "beta"))
    if "rejected" in instance:
        return instance["rejected"]
    if not instance.get("bend", 0.0):
        return ideal_rejected(reference, target, beta)
    gain = np.log(target) - np.log(reference)
    return Policy.from_logits(np.log(reference) - beta * (gain + instance["bend"] * np.tanh(gain)))


def gains(instance: Instance) -> tuple[FloatArray, FloatArray]:
    """Return log q from π_l to π_ref and from π_ref to π*, [K] each; their differences are the gains of log-margins."""
    first = did(instance["reference"], rejected_of(instance))
    return first.log_probs, did(instance["target"], instance["reference"]).log_probs


def margins(gain: FloatArray) -> FloatArray:
    """Return the gains of all log-margins, [K, K]."""
    return gain[:, None] - gain


def disagreement(first: FloatArray, second: FloatArray, level: float) -> float:
    """Return how far the margins of a pair, of which one is above a level and the other is not, are from it."""
    apart = np.minimum(np.abs(first - level), np.abs(second - level))
    return float(np.where((first > level) != (second > level), apart, 0.0).max())


def off_power_law(instance: Instance) -> float:
    """Return how far the DIDs are from a power law with a positive exponent, relative to margins above 1 nat.

    The one on the left may be turned, for a control.
    """
    first, second = gains(instance)
    first = -first if "turned" in instance else first  # q_{π_l/π_ref}
    largest = max(1.0, float(np.ptp(first)))
    flat = float(np.abs(first - first.mean()).max())
    if np.ptp(second) < ROUNDING:
        return flat / largest
    fit = power_law(Policy.from_logits(first), Policy.from_logits(second))
    return (fit.residual if fit.exponent > 0.0 else flat) / largest


def ordered(instance: Instance) -> bool:
    """Return whether the order of the log-margins agrees at the threshold."""
    first, second = (margins(gain) for gain in gains(instance))
    return disagreement(first, second, instance["threshold"]) <= ROUNDING


def proportional(instance: Instance) -> bool:
    """Return whether one positive factor leads from all gains of π* over π_ref to those of π_ref over π_l."""
    first, second = (margins(gain) for gain in gains(instance))
    top = np.unravel_index(second.argmax(), second.shape)
    if second[top] < ROUNDING or first[top] <= 0.0:
        return bool(np.abs(first).max() < ROUNDING > second[top])
    factor = first[top] / second[top]
    return bool(np.abs(first - factor * second).max() <= 0.1 * ROUNDING * max(1.0, np.abs(first).max()))


EVERY_LEVEL: tuple[str, Callable[[Instance], bool]] = (
    "some β > 0 makes the order agree at every level t on the left and t/β on the right, not only at one",
    proportional,
)

THEOREM_3_5_FORWARD = Claim(
    name="did.thm-3.5-forward",
    statement=(
        "If log-margins grow sufficiently (≫) from π_l to π_ref for exactly those pairs for which they do from π_ref "
        "to π*, then q_{π_ref/π_l} ∝ q_{π*/π_ref}^β for some β > 0."
    ),
    source="DID paper, Theorem 3.5 (1 ⇒ 2), Appendix F.4, Case 1",
    verdict="holds-conditionally",
    note=(
        "Here x ≫ y means x > y + T with a threshold T ≥ 0, and an order at one level says which gains are larger, not "
        "how much larger they are. Take π_ref = (1, 1, 2)/4, π* = (1, 2, 7)/10, π_l = (2, 1, 1)/4: π*/π_ref ∝ (2, 4, "
        "7) and π_ref/π_l ∝ (1, 2, 4) are in the same order, yet no power of one is the other; and with a large T no "
        "pair may qualify on either side, so that the premise is empty. The printed proof concludes from 'both "
        "preference probabilities are nearly 1' that reward differences are nearly equal, but σ is flat there. What "
        "helps is the order at every level (x.log-margin-levels); with two responses and T = 0 nothing more is needed. "
        "Where that condition is met so is the conclusion, whatever the policies are: the control therefore turns "
        "q_{π_ref/π_l} round, to q_{π_l/π_ref}."
    ),
    fields={**BENT, "threshold": LEVEL},
    check=off_power_law,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={ORDERED: ordered, NOT_TURNED: lambda i: "turned" not in i},
    condition=EVERY_LEVEL,
    corrected="x.log-margin-levels",
    control=Control(
        breaks=NOT_TURNED,
        instance={
            "num_classes": 3,
            "reference": [0.25, 0.25, 0.5],
            "target": [0.1, 0.2, 0.7],
            "beta": 1.0,
            "bend": 0.0,
            "threshold": 0.0,
            "turned": True,
        },
    ),
)


def off_order(instance: Instance) -> float:
    """Return by how much the order of the log-margins disagrees at the threshold, in nats."""
    first, second = (margins(gain) for gain in gains(instance))
    return disagreement(first, second, instance["threshold"])


def on_power_law(instance: Instance) -> bool:
    """Return whether the DIDs are on a power law."""
    return off_power_law(instance) <= ROUNDING


THEOREM_3_5_BACKWARD = Claim(
    name="did.thm-3.5-backward",
    statement=(
        "If q_{π_ref/π_l} ∝ q_{π*/π_ref}^β with β > 0, then log-margins grow sufficiently (≫) from π_l to π_ref for "
        "exactly those pairs for which they do from π_ref to π*."
    ),
    source="DID paper, Theorem 3.5 (2 ⇒ 1), Appendix F.4, Case 2",
    verdict="holds-conditionally",
    note=(
        "The power law makes each gain on the left β times that on the right: Δ_l = β Δ. So both are positive together "
        "(T = 0), but with one threshold T > 0 on both sides the pairs with Δ between T and T/β are sufficiently "
        "larger on one side alone. For example π_ref = (1, 1)/2, π* = (4, 1)/5, β = 1/2 and T = 1: Δ = log 4 = 1.39 is "
        "above 1, Δ_l = 0.69 is not. Hence it holds exactly if T = 0, or β = 1, or no gain lies in between; with T on "
        "the left and T/β on the right it always holds, which is what Appendix G's scales α and β are for."
    ),
    fields={**TRIPLE, "threshold": LEVEL},
    check=off_order,
    tolerance=ROUNDING,
    reason="a margin is above or below a threshold up to rounding",
    assumptions={LAW: on_power_law},
    condition=("T = 0 or β = 1", lambda i: i["threshold"] == 0.0 or i["beta"] == 1.0),
    corrected="x.log-margin-levels",
    control=Control(
        breaks=LAW,
        instance={
            "num_classes": 3,
            "reference": [0.25, 0.25, 0.5],
            "target": [0.1, 0.2, 0.7],
            "beta": 1.0,
            "threshold": 0.0,
            "rejected": [0.25, 0.5, 0.25],
        },
    ),
)


def scaled_gains(instance: Instance) -> tuple[FloatArray, FloatArray, float]:
    """Return the gains times α and times β, and the unit of their rounding; β is αγ unless "scale" gives it."""
    alpha = instance["alpha"]
    scale = instance.get("scale", alpha * instance["beta"])
    first, second = gains(instance)
    unit = max(1.0, abs(alpha), abs(scale)) * max(1.0, float(np.ptp(first)), float(np.ptp(second)))
    return alpha * first, scale * second, unit


def either_way(instance: Instance) -> float:
    """Return the violation of both directions of the generalised theorem.

    Scales so small that no margin is above T > 0 make the order agree on every pair: then there always are some.
    """
    lawful = on_power_law(instance)
    if lawful and np.ptp(gains(instance)[1]) >= ROUNDING:
        first, second = (Policy.from_logits(gain) for gain in gains(instance))
        instance = {"scale": instance["alpha"] * power_law(first, second).exponent, **instance}
    first, second, unit = scaled_gains(instance)
    apart = disagreement(margins(first), margins(second), instance["threshold"]) / unit
    if lawful:
        return apart
    return off_power_law(instance) if apart <= ROUNDING or instance["threshold"] > 0.0 else 0.0


POSITIVE_SCALES = "α and β are positive"


def positive_scales(instance: Instance) -> bool:
    """Return whether both scales are positive."""
    return instance["alpha"] > 0.0 and instance.get("scale", 1.0) > 0.0


THEOREM_G = Claim(
    name="did.thm-G",
    statement=(
        "There are α, β > 0 with which α-scaled log-margins grow sufficiently (≫) from π_l to π_ref for exactly those "
        "pairs for which β-scaled ones do from π_ref to π*, if and only if q_{π_ref/π_l} ∝ q_{π*/π_ref}^γ, γ > 0."
    ),
    source="DID paper, Appendix G",
    verdict="holds-conditionally",
    note=(
        "From the power law the order follows, with β = αγ: both sides are then the same numbers, so that they pass "
        "any threshold T together. The other direction fails: for T > 0 small α and β always exist that put all "
        "margins below T on both sides, so that the condition is met by any three policies and says nothing. For "
        "example π_ref = (1, 1)/2, π* = π_l = (4, 1)/5, T = 1: with α = β = 1/2 no margin is above 1 nat, and the "
        "exponent of the power law would have to be −1. For T = 0 the scales do not matter, and the counterexample of "
        "did.thm-3.5-forward applies. If the order has to agree at every level, the theorem holds with γ = β/α."
    ),
    fields={**BENT, "alpha": BETA, "threshold": LEVEL},
    check=either_way,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={POSITIVE_SCALES: positive_scales},
    condition=EVERY_LEVEL,
    corrected="x.log-margin-levels",
    control=Control(
        breaks=POSITIVE_SCALES,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.8, 0.2],
            "beta": 1.0,
            "bend": 0.0,
            "alpha": -1.0,
            "scale": 1.0,
            "threshold": 0.0,
        },
    ),
)


def levels(instance: Instance) -> float:
    """Return the violation of: the order agrees at every level if and only if the power law holds with γ = β/α."""
    gain, other, unit = scaled_gains(instance)
    first, second = margins(gain), margins(other)
    tried = instance.get("levels", ((first + second) / 2.0).ravel().tolist())
    apart = max(disagreement(first, second, level) for level in tried) / unit
    off = float(np.ptp(gain - other)) / unit
    if apart <= ROUNDING / 4.0:
        return off
    return apart if off <= ROUNDING / 4.0 else 0.0


LOG_MARGIN_LEVELS = Claim(
    name="x.log-margin-levels",
    statement=(
        "The gain of a log-margin from π_l to π_ref, times α, exceeds t exactly if its gain from π_ref to π*, times "
        "β, does, for every level t and every pair, if and only if q_{π_ref/π_l} ∝ q_{π*/π_ref}^{β/α}."
    ),
    source="ours, the corrected form of DID paper, Theorem 3.5 and Appendix G",
    verdict="holds",
    note=(
        "Proof: let A and B be the two scaled gains of a pair. If A ≠ B, a level between them is passed by one alone; "
        "so agreement at all levels means A = B for every pair, that is α log q_{π_ref/π_l} = β log q_{π*/π_ref} + c, "
        "the power law. It is enough to try the level midway between A and B for each pair, as the check does. "
        "'Sufficiently larger' therefore has to mean 'larger by t, whatever t is'. The control tries the level 0 alone."
    ),
    fields={**BENT, "alpha": BETA},
    check=levels,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"every level t is tried": lambda i: "levels" not in i},
    control=Control(
        breaks="every level t is tried",
        instance={
            "num_classes": 3,
            "reference": [0.25, 0.25, 0.5],
            "target": [0.1, 0.2, 0.7],
            "beta": 1.0,
            "bend": 0.0,
            "alpha": 1.0,
            "rejected": [0.5, 0.25, 0.25],
            "levels": [0.0],
        },
    ),
)

CLAIMS = (THEOREM_3_5_FORWARD, THEOREM_3_5_BACKWARD, THEOREM_G, LOG_MARGIN_LEVELS)
