"""What a model says of a batch of pairs, and what of it an objective looks at.

A batch is TRL's: `input_ids`, `attention_mask` and `completion_mask`, [2B, L], the chosen responses above the rejected
ones, padded on the right. Position t of a reading is about token t + 1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from didsim._checks import message
from didsim.llm._vocabulary import HiddenTokens
from didsim.objectives import Pairs, Responses, Tokens, Vocabulary

Batch = Mapping[str, Tensor]

NOT_THE_MODEL_S = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps", "weight")
"""What of a batch the model does not take."""


@dataclass(frozen=True)
class Distinct:
    """What a model read of sequences of which a batch holds several copies.

    Attributes:
        mask: where the tokens of responses stand, [U, T].
        hidden: last hidden states before them, [n, H].
        index: which of these sequences each row of the batch is, [2B].
    """

    mask: Tensor
    hidden: Tensor
    index: Tensor


@dataclass(frozen=True)
class Reading:
    """One pass of a model over a batch.

    Attributes:
        log_probs: log π of each token of a response, 0 elsewhere, in nats, float32 [2B, T]; float64 of a float64 model.
        output: all that TRL's fused head returns.
        hidden: last hidden states before the tokens of responses, [N, H], if they were asked for.
        head: what makes logits of them.
        distinct: the same hidden states without repetitions, where rows are repeated.
    """

    log_probs: Tensor
    output: Any = None
    hidden: Tensor | None = None
    head: Callable[[Tensor], Tensor] | None = None
    distinct: Distinct | None = None


def read(model: nn.Module, inner: Any, batch: Batch, with_hidden: bool = False, with_routers: bool = False) -> Reading:
    """Run a model with TRL's fused head.

    Args:
        model: as it is trained, perhaps wrapped for several devices.
        inner: the transformer itself, to which TRL added the fused head.
        batch: the batch.
        with_hidden: keep last hidden states, for sums over the vocabulary.
        with_routers: ask a mixture of experts for its balancing loss.
    """
    mask = token_mask(batch)
    given: dict[str, Any] = _of_the_model(batch)
    if with_routers:
        given["output_router_logits"] = True
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    is_double = inner.dtype == torch.float64  # in which TRL's head does not compute
    with _last_hidden(inner, with_hidden or is_double) as seen:
        output = model(**given, use_cache=False, labels=labels, fused_lm_head=True)
    # prompt-learning adapters put virtual tokens in front
    log_probs = output.log_probs[:, -mask.shape[1] :]
    if not seen:
        return Reading(log_probs, output)
    hidden, head = seen[0][:, :-1][:, -mask.shape[1] :][mask], inner.get_output_embeddings()
    if is_double:
        log_probs = HiddenTokens(mask, hidden, head).log_probs_of(batch["input_ids"][:, 1:])
    return Reading(log_probs, output, hidden, head)


def logits(model: nn.Module, batch: Batch) -> Any:
    """Return the model's own output, with whole logits, by a further pass without gradients."""
    with torch.no_grad():
        return model(**_of_the_model(batch), use_cache=False)


def _of_the_model(batch: Batch) -> dict[str, Any]:
    return {name: part for name, part in batch.items() if name not in NOT_THE_MODEL_S}


def token_mask(batch: Batch) -> Tensor:
    """Return where the tokens of responses stand, True or False [2B, T]."""
    return batch["completion_mask"][:, 1:].bool()


@contextmanager
def _last_hidden(inner: Any, wanted: bool) -> Any:
    """Collect what the transformer's body returns."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return
    handle = inner.base_model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state)
    )
    try:
        yield seen
    finally:
        handle.remove()


def pairs_of(
    policy: Reading,
    reference: Reading | None,
    batch: Batch,
    needs: Collection[str],
    log_marginal: Tensor | None = None,
    mean_kl: Tensor | None = None,
    log_zeta: Tensor | None = None,
    masks: Tensor | None = None,
) -> Pairs:
    """Lay out what an objective looks at: responses [B], tokens [B, T].

    Args:
        policy: how the policy reads the batch.
        reference: how the reference does.
        batch: the batch; `weight` [B], if it is there, weighs the pairs.
        needs: those of the objective.
        log_marginal: log π(y) without the prompt, [2B].
        mean_kl: KL(π ‖ π_ref), a number.
        log_zeta: log ζ(y) under a learned prior, [2B].
        masks: μ₁ and μ₂ of each token, [2B, T, 2].

    Raises:
        ValueError: if a response has no tokens, or a weight is negative, infinite or NaN.
    """
    if "weight" in batch and not bool((batch["weight"].isfinite() & (batch["weight"] >= 0)).all()):
        raise ValueError(message("weight", "finite and not negative for every pair", batch["weight"].tolist()))
    mask = token_mask(batch)
    length = mask.sum(1)
    if not bool((length > 0).all()):
        row = int((length == 0).nonzero()[0, 0])
        side, pair = ("chosen", "rejected")[row >= len(mask) // 2], row % (len(mask) // 2)
        hint = "Was it cut off by max_length? Raise that, or drop such pairs from the data."
        raise ValueError(message(f"the {side} response of pair {pair} of a batch", "at least one token", "none", hint))
    vocabulary = _vocabulary(policy, reference, mask) if "vocabulary" in needs else (None, None)
    sides = []
    for number in (0, 1):
        rows = slice(0, len(mask) // 2) if number == 0 else slice(len(mask) // 2, None)
        log_ref = None if reference is None else reference.log_probs[rows]
        tokens = None
        if "tokens" in needs:
            own = {} if masks is None else {"reward_mask": masks[rows, :, 0], "kl_mask": masks[rows, :, 1]}
            tokens = Tokens(policy.log_probs[rows], mask[rows], log_ref, vocabulary[number], **own)
        sides.append(
            Responses(
                log_pi=policy.log_probs[rows].sum(1),
                log_ref=None if log_ref is None else log_ref.sum(1),
                length=length[rows],
                tokens=tokens,
                log_marginal=None if log_marginal is None else log_marginal[rows],
                log_zeta=None if log_zeta is None else log_zeta[rows],
                mean_kl=mean_kl,
            )
        )
    weights = batch["weight"].to(policy.log_probs.dtype) if "weight" in batch else None
    return Pairs(sides[0], sides[1], weights)


def _vocabulary(policy: Reading, reference: Reading | None, mask: Tensor) -> tuple[Vocabulary, Vocabulary]:
    """Return the sums over the vocabulary at the tokens of chosen and of rejected responses."""
    assert policy.hidden is not None  # it was read for this
    assert policy.head is not None
    ref_hidden, ref_head = (None, None) if reference is None else (reference.hidden, reference.head)
    if policy.distinct is None:
        sums = HiddenTokens(mask, policy.hidden, policy.head, ref_hidden, ref_head)
        return sums.half(0), sums.half(1)
    once = policy.distinct
    if reference is not None and reference.distinct is not None:
        ref_hidden = reference.distinct.hidden
    sums = HiddenTokens(once.mask, once.hidden, policy.head, ref_hidden, ref_head)
    chosen, rejected = once.index.chunk(2)
    return sums.map(lambda values: values[chosen]), sums.map(lambda values: values[rejected])


def log_prior(reference: Reading, alone: Batch, prior: nn.Module) -> Tensor:
    """Return log ζ(y) of responses without their prompts under a learned prior, [2B]; π_ref has read them."""
    assert reference.hidden is not None  # it was read for this
    sums = HiddenTokens(token_mask(alone), reference.hidden, prior)
    return sums.log_probs_of(alone["input_ids"][:, 1:]).sum(1)


def token_masks(reference: Reading, batch: Batch, masks: nn.Module) -> Tensor:
    """Return the learned masks μ₁ and μ₂ of each token, [2B, T, 2], 0 where there is none."""
    assert reference.hidden is not None  # it was read for this
    where, values = token_mask(batch), masks(reference.hidden)
    both = where.unsqueeze(2).expand(-1, -1, 2)
    return values.new_zeros(both.shape).masked_scatter(both, values)


def without_prompts(batch: Batch, first: int, pad: int) -> Batch:
    """Return the responses of a batch behind a first token, without their prompts.

    A token that nothing precedes in the batch is not scored there; so it is not here, but is the first token itself.
    """
    before, kept = _split(batch, batch["completion_mask"].bool())
    return padded([one or [first] for one in before], kept, pad, batch["input_ids"].device)


def mismatched(batch: Batch, pad: int, max_length: int | None = None) -> Batch:
    """Return the prompts of a batch, each with the responses to the next one, cut off after `max_length` tokens.

    Raises:
        ValueError: if the batch has one pair only.
    """
    size = len(batch["input_ids"]) // 2
    if size < 2:
        hint = "Its z is estimated from responses to other prompts of the batch: raise per_device_train_batch_size."
        raise ValueError(message("pairs in a batch of KTO", "at least 2", size, hint))
    before, kept = _split(batch, batch["attention_mask"].bool())
    turned = [kept[half * size + (row + 1) % size] for half in (0, 1) for row in range(size)]
    if max_length is not None:
        turned = [two[: max(max_length - len(one), 0)] for one, two in zip(before, turned, strict=True)]
    return padded(before, turned, pad, batch["input_ids"].device)


def _split(batch: Batch, shown: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """Return of each row the tokens that are shown but not scored, and those that are scored."""
    scored = batch["completion_mask"].bool() & (torch.arange(shown.shape[1], device=shown.device) > 0)
    unscored = shown & ~scored
    before, kept = (
        [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]
        for masks in (unscored, scored)
    )
    return before, kept


def padded(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], pad: int, device: torch.device) -> Batch:
    """Lay out prompts and responses as TRL's collator does."""
    longest = max(len(one) + len(two) for one, two in zip(before, after, strict=True))
    rows = {"input_ids": [], "attention_mask": [], "completion_mask": []}
    for one, two in zip(before, after, strict=True):
        gap = longest - len(one) - len(two)
        rows["input_ids"].append([*one, *two, *[pad] * gap])
        rows["attention_mask"].append([1] * (longest - gap) + [0] * gap)
        rows["completion_mask"].append([0] * len(one) + [1] * len(two) + [0] * gap)
    return {name: torch.tensor(part, device=device) for name, part in rows.items()}
