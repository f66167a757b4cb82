"""The examinations that need no other objective: what the function does with its arguments, and its gradient."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from didsim.doctor._batches import QUANTITIES, SIDES, Batch
from didsim.doctor._probe import LossError, Probe
from didsim.doctor._report import Finding, symbol

MEANINGS = {
    "log_pi_chosen": "log π(y_w)",
    "log_pi_rejected": "log π(y_l)",
    "log_ref_chosen": "log π_ref(y_w)",
    "log_ref_rejected": "log π_ref(y_l)",
    "length_chosen": "the length of y_w",
    "length_rejected": "the length of y_l",
}

RESPONSES = {"chosen": "y_w", "rejected": "y_l"}


def examine_dtype(probe: Probe, complaint: str) -> Iterator[Finding]:
    """Say whether float64 goes in and comes out; silent if it does."""
    if complaint:
        sentence = f"float64 is not supported ({complaint}); everything below was seen in float32, less sharply."
        yield Finding("float64", "warning", sentence)
    elif probe.precision != torch.float64:
        sentence = f"float64 goes in, {probe.precision} comes out: a cast inside. Comparisons are less sharp for it."
        yield Finding("float64", "info", sentence)


def examine_aggregation(probe: Probe) -> Finding:
    """Say whether the result is one loss per pair, their mean or their sum."""
    sentences = {
        "none": "The result is one loss per pair.",
        "mean": "The result is the mean over pairs.",
        "sum": "The result is the sum over pairs, so the gradient grows with the batch; the mean does not.",
        "other": "The result is one number, neither the mean nor the sum over pairs: the batch twice gives neither the "
        "same nor twice the loss.",
    }
    mixed = " The loss of a pair depends on the other pairs of the batch." if not probe.separate else ""
    status = "warning" if probe.aggregation == "other" else "info"
    return Finding("aggregation", status, sentences[probe.aggregation] + mixed)


def examine_inputs(probe: Probe) -> Finding:
    """Tell whether a call changes the tensors that it is given."""
    batch, inputs = probe.batches[0], {}
    probe.result(batch, inputs=inputs)
    words = probe.subject.takes
    changed = [words[name] for name in words if not torch.equal(inputs[name], batch[name].to(inputs[name].dtype))]
    if changed:
        sentence = (
            f"The function changes {' and '.join(changed)} in place: the caller's tensor has other values after the "
            "call. Look for +=, -=, *= and methods that end in an underscore, and write x = x + y."
        )
        return Finding("in-place change", "problem", sentence)
    return Finding("in-place change", "ok", "The tensors that go in are unchanged by the call.")


def examine_repetition(probe: Probe) -> Finding:
    """Tell whether the same call gives the same loss."""
    first, second = (probe.result(probe.batches[0]).detach() for _ in range(2))
    if torch.equal(first.nan_to_num(), second.nan_to_num()):
        return Finding("repetition", "ok", "The same call gives the same loss.")
    sentence = (
        "Two calls with the same arguments give different losses: the function draws random numbers, or keeps a state. "
        "Nothing else can be examined before that is settled."
    )
    return Finding("repetition", "problem", sentence)


def _start(probe: Probe) -> str:
    """Return the words for where training starts: a loss without a reference does not know."""
    has_reference = any(name.startswith("log_ref") for name in probe.used)
    return "at π = π_ref" if has_reference else "on the test pairs"


def examine_at_reference(probe: Probe) -> Finding:
    """State value and gradient where training starts, at π = π_ref."""
    where = _start(probe).replace("at", "At", 1).replace("on", "On", 1)
    losses, gradients = probe.losses(probe.at_reference), probe.gradients(probe.at_reference)
    slopes = [float(gradients[name].mean()) for name in QUANTITIES[:2]]
    if not all(bool(x.isfinite().all()) for x in (losses, *gradients.values())):
        sentence = f"{where} the loss is {_some(losses)} and its gradient {slopes}."
        return Finding("at the reference", "problem", sentence)
    known = " = log 2" if bool(((losses - math.log(2.0)).abs() < 1e-6).all()) else ""
    sentence = (
        f"{where} the loss is {_some(losses)}{known}; its gradient is {slopes[0]:+.4g} on log π(y_w) and "
        f"{slopes[1]:+.4g} on log π(y_l), in the mean over pairs."
    )
    return Finding("at the reference", "info", sentence)


def examine_slope(probe: Probe, excused: str) -> Finding:
    """Tell whether the loss falls as the margin grows, where training starts.

    Args:
        probe: the function.
        excused: the objective that the function equals, or "": it may rise by its definition, as DiscoPOP does.
    """
    gradients = probe.gradients(probe.at_reference)
    slope = float((gradients["log_pi_chosen"] - gradients["log_pi_rejected"]).mean())
    if slope > 0 and excused:
        sentence = f"The loss rises as the margin grows (slope {slope:+.4g} {_start(probe)}), as {excused} does there."
        return Finding("slope", "info", sentence)
    if slope > 0:
        sentence = (
            f"The sign is wrong: {_start(probe)} the loss rises as the margin log π(y_w) − log π(y_l) grows (slope "
            f"{slope:+.4g}), so training would prefer the rejected response. Look for a missing or a second minus."
        )
        return Finding("slope", "problem", sentence)
    if slope < 0:
        return Finding("slope", "ok", f"The loss falls as the margin grows (slope {slope:+.4g} {_start(probe)}).")
    return Finding(
        "slope", "warning", f"The gradient of the loss does not react to the margin: it is 0 {_start(probe)}."
    )


def examine_gradient(probe: Probe, by_design: str) -> Finding:
    """Hold the gradient against finite differences of the value.

    Args:
        probe: the function.
        by_design: an objective that the function equals in value and gradient, or "": where the two differ for the
            objective too, a stopped gradient belongs to the method.
    """
    wrong = []
    for name in QUANTITIES[:2]:
        expected, gradient = _differences(probe, name), probe.gradients(probe.batches[0])[name].to(torch.float64)
        scale = float(expected.abs().max())
        if float((gradient - expected).abs().max()) > _gradient_tolerance(probe) * max(scale, 1e-3):
            wrong.append((name, gradient, expected))
    if not wrong:
        return Finding("gradient", "ok", "The gradient agrees with finite differences of the value on both sides.")
    if by_design:
        sentence = f"The gradient is not the slope of the value: {by_design} stops it in places, by its definition."
        return Finding("gradient", "info", sentence)
    return Finding("gradient", "problem", _gradient_words(wrong))


def _gradient_words(wrong: list[tuple[str, Tensor, Tensor]]) -> str:
    dead = [name for name, gradient, _ in wrong if not bool(gradient.any())]
    remedy = "Look for .detach(), .item(), .data, float() or torch.no_grad()."
    if len(dead) == 2:
        return (
            "The policy is detached: the loss moves with log π, and no gradient reaches it, so training would change "
            f"nothing. {remedy}"
        )
    if dead:
        side = RESPONSES[dead[0].removeprefix("log_pi_")]
        return (
            f"The policy is detached on one side: no gradient reaches log π({side}), though it moves the loss. {remedy}"
        )
    name, gradient, expected = wrong[0]
    worst = int((gradient - expected).abs().argmax())
    return (
        f"The gradient is not the slope of the value: on {MEANINGS[name]} it is {float(gradient[worst]):.4g} where "
        f"finite differences give {float(expected[worst]):.4g}. A part of the loss is detached. {remedy}"
    )


def _gradient_tolerance(probe: Probe) -> float:
    return 1e-4 if probe.precision == probe.dtype == torch.float64 else 5e-2


def _differences(probe: Probe, name: str) -> Tensor:
    """Return central differences of the sum of losses along one quantity, [B]."""
    batch = probe.batches[0]
    step = 1e-5 if probe.precision == probe.dtype == torch.float64 else 1e-2

    def total(index: int, by: float) -> Tensor:
        moved = batch[name].clone()
        moved[index] += by
        found = probe.losses({**batch, name: moved}).to(torch.float64)
        return found.sum()

    indices = range(len(batch[name]))
    factor = len(batch[name]) if probe.aggregation == "mean" and not probe.separate else 1
    return torch.stack([factor * (total(i, step) - total(i, -step)) / (2.0 * step) for i in indices])


def examine_shift(probe: Probe) -> Finding:
    """Shift the logits of a softmax policy, and then the log-probabilities themselves."""
    generator = torch.Generator().manual_seed(7)
    size = len(probe.batches[0]["log_pi_chosen"])
    logits = torch.randn(size, 6, dtype=torch.float64, generator=generator)
    still, moved = (probe.losses(_softmax_pairs(probe.batches[0], logits + by)) for by in (0.0, 37.0))
    if not probe.close(moved, still):
        sentence = (
            f"The loss changes when a constant is added to the logits of a softmax policy (from {_some(still)} to "
            f"{_some(moved)}), though the policy is the same."
        )
        return Finding("shift", "problem", sentence)
    batch = probe.batches[0]
    shifted = probe.losses({**batch, **{name: batch[name] - 1.0 for name in QUANTITIES[:2]}})
    anyway = "The loss is unchanged when a constant is added to the logits, as it must be"
    if probe.close(shifted, probe.own[0]):
        return Finding("shift", "info", f"{anyway}; adding one to both log-probabilities does not change it either.")
    sentence = f"{anyway}; adding one to both log-probabilities changes it: more than their difference counts."
    return Finding("shift", "info", sentence)


def _softmax_pairs(batch: Batch, logits: Tensor) -> dict[str, Tensor]:
    """Return the batch under a softmax policy over K classes, 0 chosen and 1 rejected; logits: [B, K]."""
    log_probs = logits.log_softmax(-1)
    return {**batch, **{f"log_pi_{side}": log_probs[:, index] for index, side in enumerate(SIDES)}}


def examine_reference(probe: Probe) -> Finding:
    """Say whether the reference policy plays a part."""
    names = [name for name in probe.subject.takes if name.startswith("log_ref")]
    used = [name for name in names if name in probe.used]
    if not used:
        return Finding("reference", "info", "The reference policy is not used.")
    if len(used) < 2:
        sentence = f"Of the reference only {MEANINGS[used[0]]} is used."
        return Finding("reference", "warning", sentence)
    return Finding("reference", "info", "The reference policy is used.")


def examine_beta(probe: Probe, excused: str) -> Iterator[Finding]:
    """Say with which power of β the gradient grows at π = π_ref; 1 for a β that enters once.

    Args:
        probe: the function.
        excused: the objective that the function equals, or "": it has β where it should.
    """
    value = probe.subject.settings.get("beta")
    if value is None or "beta" in probe.ignored or value <= 0:
        return
    sizes = []
    for factor in (1e-3, 2e-3):
        subject = replace(probe.subject, settings={**probe.subject.settings, "beta": factor})
        moved = replace(probe, subject=subject)
        try:
            sizes.append(float(moved.gradients(_even_pairs(probe))["log_pi_chosen"].abs().mean()))
        except LossError:
            return
    if min(sizes) > 0 and all(map(math.isfinite, sizes)):
        power = math.log2(sizes[1] / sizes[0])
        if abs(power - 2.0) < 0.02 and not excused:
            sentence = "The gradient at margin 0 grows as β²: β seems to enter twice. Multiply by β once."
            yield Finding("beta", "warning", sentence)
        elif abs(power - 1.0) < 0.02:
            yield Finding("beta", "ok", "β enters once: the gradient at margin 0 grows in proportion to it.")


def _even_pairs(probe: Probe) -> dict[str, Tensor]:
    """Return pairs whose two responses are alike, with π = π_ref: every margin is 0."""
    batch = probe.at_reference
    return {name: batch[name.replace("rejected", "chosen")] for name in batch}


def examine_arguments(probe: Probe, excused: str, explained: dict[str, str]) -> Iterator[Finding]:
    """Name the arguments that make no difference.

    Args:
        probe: the function.
        excused: the objective that the function equals, or "": what it does not need may be ignored.
        explained: for a hyperparameter that is ignored, what the loss equals all the same.
    """
    for name in sorted(probe.ignored):
        equal = f", which equals {explained[name]} whatever is passed" if name in explained else ""
        sentence = (
            f"{name} is accepted and ignored: {symbol(name)} is missing from the loss{equal}. Use it, or remove it."
        )
        yield Finding("arguments", "problem", sentence)
    unused = [] if probe.subject.takes_pairs else [name for name in probe.subject.takes if name not in probe.used]
    if unused:
        words = " and ".join(probe.subject.takes[name] for name in unused)
        meant = " and ".join(MEANINGS[name] for name in unused)
        sentence = f"{words} ({meant}) {'is' if len(unused) == 1 else 'are'} accepted and ignored: no value matters."
        advice = f"{excused} needs no more; other objectives do." if excused else "Use what is passed, or remove it."
        yield Finding("arguments", "warning" if excused else "problem", f"{sentence} {advice}")
    if not probe.ignored and not unused:
        yield Finding("arguments", "ok", "Every argument makes a difference.")


def _some(losses: Tensor) -> str:
    """Return a loss, or the range of several."""
    low, high = float(losses.min()), float(losses.max())
    return f"{low:.4g}" if math.isnan(low) or high - low <= 1e-6 * abs(high) else f"{low:.4g} to {high:.4g}"


__all__ = [
    "examine_aggregation",
    "examine_arguments",
    "examine_at_reference",
    "examine_beta",
    "examine_dtype",
    "examine_gradient",
    "examine_inputs",
    "examine_reference",
    "examine_repetition",
    "examine_shift",
    "examine_slope",
]
