"""What is wrong with a training run before its first step: its reference, loss, gradient and memory."""

import os
from typing import Any

import torch
from torch import Tensor

from didsim.doctor import Finding
from didsim.llm._trainer import PreferenceTrainer
from didsim.objectives import Pairs

ROUNDING = {"float32": 1e-3, "bfloat16": 0.5}
"""Nats by which two passes over one response may differ."""

VANISHED = 1e-6
"""The derivative of a pair's loss by its log-probabilities below which the pair teaches nothing."""

LAYERS_AT_ONCE, POSITIONS_AT_ONCE = 16, 1024
"""So many hidden states of a layer, and positions with a whole distribution, exist at once; for an estimate."""

TIGHT = 0.8
"""The share of the machine's memory from which a run may not fit."""

GIB = 2**30


def examine_start(trainer: PreferenceTrainer, own_reference: bool) -> list[Finding]:
    """Look at the first batch of a run, without a step of training.

    Args:
        trainer: as it would be trained.
        own_reference: whether the reference is the model itself as it is before training.
    """
    batch = next(iter(trainer.get_train_dataloader()))
    tolerance = ROUNDING["bfloat16" if trainer.args.bf16 else "float32"]
    trainer.model.train()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            pairs, again = trainer.pairs(batch), trainer.pairs(batch)
    except ValueError as error:
        return [Finding("empty", "problem", str(error)), _memory(trainer)]
    loss, norm = _gradient_norm(trainer, batch)
    return [
        _noise(pairs, again, tolerance),
        _reference(pairs, own_reference, tolerance),
        *_responses(trainer, pairs, own_reference, loss, tolerance),
        _gradient(norm),
        _memory(trainer),
    ]


def _both(pairs: Pairs, name: str) -> Tensor:
    return torch.cat([getattr(side, name).detach() for side in (pairs.chosen, pairs.rejected)])


def _noise(pairs: Pairs, again: Pairs, tolerance: float) -> Finding:
    moved = {
        who: float((_both(pairs, name) - _both(again, name)).abs().max())
        for who, name in (("policy", "log_pi"), ("reference", "log_ref"))
    }
    noisy = [who for who, by in moved.items() if not by <= tolerance]
    if not noisy:
        return Finding("dropout", "ok", "Two passes over the same pairs give the same: there is no dropout.")
    words = f"Two passes of the {' and of the '.join(noisy)} over the same pairs differ by up to "
    words += f"{max(moved.values()):.4g} nats: there is dropout, and the reward at the start is noise. Set "
    return Finding("dropout", "problem", words + "attention_dropout and the like to 0 in config.json.")


def _reference(pairs: Pairs, own: bool, tolerance: float) -> Finding:
    apart = _both(pairs, "log_ratio").abs()
    if not own:
        words = f"The reference is another model: log π differs from log π_ref by {float(apart.mean()):.4g} nats "
        return Finding("reference", "info", words + "per response on average, at the start.")
    if float(apart.max()) <= tolerance:
        return Finding("reference", "ok", "The policy is its reference at the start: the reward is 0.")
    words = "The policy is not its reference at the start: log π differs from log π_ref by up to "
    return Finding(
        "reference",
        "problem",
        words + f"{float(apart.max()):.4g} nats. Look for dropout, and for weights that were changed since the copy.",
    )


def _responses(trainer: PreferenceTrainer, pairs: Pairs, own: bool, loss: float, tolerance: float) -> list[Finding]:
    """Return what can be said of objectives that see whole responses only."""
    if not trainer.objective.sees_responses_only:
        return []
    findings = [_saturation(trainer, pairs)]
    if own:
        wanted = float(trainer.mean_loss(_as_responses(pairs, "log_ref")))
        name = trainer.objective.name
        if abs(loss - wanted) <= tolerance * max(1.0, abs(wanted)):
            words = f"The loss at the start is {loss:.4g} nats, as {name} gives where π = π_ref."
            findings.append(Finding("loss", "ok", words))
        else:
            words = f"The loss at the start is {loss:.4g} nats, where {name} gives {wanted:.4g} at π = π_ref."
            findings.append(Finding("loss", "problem", words))
    return findings


def _as_responses(pairs: Pairs, log_pi: str, learnt: bool = False) -> Pairs:
    """Return pairs of whole responses, with log π or log π_ref in the place of log π."""
    sides = {"chosen": pairs.chosen, "rejected": pairs.rejected}
    found: dict[str, Any] = {}
    for name, side in sides.items():
        found[f"log_pi_{name}"] = getattr(side, log_pi).detach().clone().requires_grad_(learnt)
        found |= {f"log_ref_{name}": side.reference.detach(), f"length_{name}": side.length}
    return Pairs.from_log_probs(**found, weights=pairs.weights)


def _saturation(trainer: PreferenceTrainer, pairs: Pairs) -> Finding:
    seen = _as_responses(pairs, "log_pi", learnt=True)
    parts = [seen.chosen.log_pi, seen.rejected.log_pi]
    with torch.enable_grad():
        slopes = torch.autograd.grad(trainer.objective(seen).sum(), parts, allow_unused=True)
    size = sum((slope.abs() for slope in slopes if slope is not None), torch.zeros_like(parts[0]))
    dead = int((size < VANISHED).sum())
    if dead == 0:
        return Finding("slope", "ok", "Every pair of the first batch has a slope to learn from.")
    words = f"{dead} of {len(size)} pairs of the first batch have a slope below {VANISHED:g}, and teach nothing: their "
    words += "margins are saturated (the reference is far away), or a hyperparameter such as β is too small."
    return Finding("slope", "problem" if dead == len(size) else "warning", words)


def _gradient_norm(trainer: PreferenceTrainer, batch: Any) -> tuple[float, float]:
    """Return the loss of a batch, and the norm of its gradient."""
    trainer.model.zero_grad()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, batch)
    if not loss.requires_grad:
        return float(loss), 0.0
    loss.backward()
    parts = [part.grad.float().norm() for part in trainer.model.parameters() if part.grad is not None]
    trainer.model.zero_grad()
    return float(loss.detach()), float(torch.stack(parts).norm()) if parts else 0.0


def _gradient(norm: float) -> Finding:
    if 0.0 < norm < float("inf"):
        return Finding(
            "gradient", "ok", f"The gradient of the first batch is finite and not 0 (its norm is {norm:.4g})."
        )
    if norm == 0.0:
        words = (
            "The gradient of the first batch is 0: nothing would be trained. Are weights frozen, or responses alike?"
        )
        return Finding("gradient", "problem", words)
    words = (
        "The gradient of the first batch is not finite. Take bfloat16 or float32, and look for weights that are huge."
    )
    return Finding("gradient", "problem", words)


# --- memory -----------------------------------------------------------------------------------------------


def _memory(trainer: PreferenceTrainer) -> Finding:
    parts = memory_of(trainer)
    total, there = sum(parts.values()), _machine()
    told = ", ".join(f"{name} {size / GIB:.2g}" for name, size in parts.items())
    words = f"Training would take about {total / GIB:.2g} GiB, by a rough estimate ({told}); the machine has "
    words += f"{there / GIB:.3g}."
    if total > there:
        return Finding(
            "memory", "problem", f"{words} Take --lora, a smaller --batch-size or --max-length, or more devices."
        )
    return Finding("memory", "warning" if total > TIGHT * there else "ok", words)


def memory_of(trainer: PreferenceTrainer) -> dict[str, float]:
    """Estimate the bytes that training takes on one device: float32 weights, AdamW, checkpointed activations."""
    policy, trained = (
        sum(part.numel() for part in trainer.model.parameters() if part.requires_grad or not only)
        for only in (False, True)
    )
    reference = 0 if trainer.ref_model is None else sum(part.numel() for part in trainer.ref_model.parameters())
    config = trainer.model.config.get_text_config()
    tokens = 2 * trainer.args.per_device_train_batch_size * _longest(trainer)
    width = config.hidden_size * (config.num_hidden_layers + LAYERS_AT_ONCE)
    logits = 2 * min(tokens, POSITIONS_AT_ONCE) * config.vocab_size
    size = 2 if trainer.args.bf16 else 4
    return {
        "weights": 4.0 * policy,
        "gradients": 4.0 * trained,
        "optimiser": 8.0 * trained,
        "reference": 4.0 * reference,
        "activations": float(size * tokens * width + 4 * logits),
    }


def _longest(trainer: PreferenceTrainer) -> int:
    """Return the number of tokens of the longest sequence."""
    rows = trainer.train_dataset
    lengths = (
        len(prompt) + max(len(chosen), len(rejected))
        for prompt, chosen, rejected in zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    )
    return min(max(lengths), trainer.args.max_length or 2**60)


def _machine() -> float:
    """Return the bytes of memory of the device that would train."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
