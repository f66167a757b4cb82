"""The pairs on which a loss is tried: generic ones, the reference policy itself, and extremes."""

from collections.abc import Mapping

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
"""The six quantities of a batch of pairs, [B] each, under the names that `Pairs.from_log_probs` gives them."""

SIDES = ("chosen", "rejected")
KINDS = ("log_pi", "log_ref", "length")
QUANTITIES = tuple(f"{kind}_{side}" for kind in KINDS for side in SIDES)

GENERIC_SIZES = (8, 5)


def generic_batches() -> tuple[dict[str, Tensor], ...]:
    """Return pairs without symmetry: margins of both signs, and lengths that differ from pair to pair."""
    generator = torch.Generator().manual_seed(20)
    return tuple(_generic(size, generator) for size in GENERIC_SIZES)


def _generic(size: int, generator: torch.Generator) -> dict[str, Tensor]:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(size, dtype=torch.float64, generator=generator)

    batch = {}
    for side in SIDES:
        batch[f"log_ref_{side}"] = uniform(-9.0, -4.0)
        batch[f"log_pi_{side}"] = batch[f"log_ref_{side}"] + uniform(-2.5, 2.5)
        batch[f"length_{side}"] = 2 + torch.randperm(size, generator=generator)
    # the two lengths of a pair differ
    batch["length_rejected"] = batch["length_rejected"] + (batch["length_rejected"] == batch["length_chosen"])
    return batch


def at_reference(batch: Batch) -> dict[str, Tensor]:
    """Return the same pairs under the policy π = π_ref."""
    return {**batch, **{f"log_pi_{side}": batch[f"log_ref_{side}"] for side in SIDES}}


def doubled(batch: Batch) -> dict[str, Tensor]:
    """Return each pair twice."""
    return {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}


def single_pairs(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the pairs one by one."""
    size = len(batch["log_pi_chosen"])
    return [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(size)]


def extremes(scale: float) -> dict[str, dict[str, Tensor]]:
    """Return single pairs at the ends of what a training run may meet, each with its description.

    Args:
        scale: the factor β of the margin inside the loss; margins of ±700 are taken with and without it.
    """
    tiny, huge = -1e-12, -1e4
    cases = {
        "a margin of −700": _margin(-700.0),
        "a margin of 700": _margin(700.0),
        f"a scaled margin of −700 (β = {scale:g})": _margin(-700.0 / scale),
        f"a scaled margin of 700 (β = {scale:g})": _margin(700.0 / scale),
        "log-probabilities of −1e4 (all four)": _pair(huge, huge, huge, huge),
        "log-probabilities of −1e-12 (all four)": _pair(tiny, tiny, tiny, tiny),
        "a margin of 2e4 (log π(y_w) = −1e-12, log π(y_l) = −1e4)": _pair(tiny, huge, huge, tiny),
        "a margin of −2e4 (log π(y_w) = −1e4, log π(y_l) = −1e-12)": _pair(huge, tiny, tiny, huge),
    }
    return {text: case for text, case in cases.items() if scale != 1.0 or "scaled" not in text}


def _margin(margin: float) -> dict[str, Tensor]:
    """Return a pair whose margin is the same with a reference and without one."""
    return _pair(-1.0 + min(margin, 0.0), -1.0 - max(margin, 0.0), -1.0, -1.0)


def _pair(log_pi_w: float, log_pi_l: float, log_ref_w: float, log_ref_l: float) -> dict[str, Tensor]:
    values = (log_pi_w, log_pi_l, log_ref_w, log_ref_l)
    log_probs = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in zip(QUANTITIES, values, strict=False)
    }
    return {**log_probs, **{f"length_{side}": torch.ones(1, dtype=torch.int64) for side in SIDES}}


__all__ = [
    "KINDS",
    "QUANTITIES",
    "SIDES",
    "Batch",
    "at_reference",
    "doubled",
    "extremes",
    "generic_batches",
    "single_pairs",
]
