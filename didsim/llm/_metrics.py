"""What is logged of a batch: TRL's quantities under TRL's names, and those of the theory.

Means are over all pairs of all processes, whatever their weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from didsim.llm._reading import Batch, Reading, token_mask
from didsim.objectives import BoundObjective, Pairs

Gather = Callable[[Tensor], Tensor]


def of_pairs(loss: BoundObjective, pairs: Pairs) -> dict[str, Tensor]:
    """Return what is known of whole responses, for each pair, in nats: [B] each.

    `rewards/*` are of the reward that the objective implies. `displacement/*` tell how far responses fell below the
    reference: the mean of `chosen_share` is the share of pairs whose chosen response did. The mean of `kl/ref_policy`,
    log π_ref − log π of chosen responses, is an estimate of KL(π_ref ‖ π) where these are drawn from π_ref, as in the
    DID paper.
    """
    with torch.no_grad():
        chosen, rejected = pairs.chosen, pairs.rejected
        rewards = [loss.implicit_reward(side) for side in (chosen, rejected)]
        fallen = [(side.log_ratio < 0).float() for side in (chosen, rejected)]
        values = {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/accuracies": (rewards[0] > rewards[1]).float(),
            "rewards/margins": rewards[0] - rewards[1],
            "logps/chosen": chosen.log_pi,
            "logps/rejected": rejected.log_pi,
            "displacement/chosen_share": fallen[0],
            "displacement/rejected_share": fallen[1],
            "displacement/chosen": chosen.log_ratio,
            "displacement/rejected": rejected.log_ratio,
            "kl/ref_policy": -chosen.log_ratio,
        }
        return {name: value.float() for name, value in values.items()}


def measures(loss: BoundObjective, pairs: Pairs, gather: Gather) -> dict[str, float]:
    """Return the means of what is known of whole responses, in nats."""
    return {name: gather(value).mean().item() for name, value in of_pairs(loss, pairs).items()}


def of_tokens(policy: Reading, batch: Batch, gather: Gather) -> dict[str, float]:
    """Return what TRL's fused head knows of single tokens: entropy, mean logits, and accuracy on chosen responses."""
    mask, output = token_mask(batch), policy.output
    sides = dict(zip(("chosen", "rejected"), mask.chunk(2), strict=True))
    width = mask.shape[1]

    def mean(values: Tensor, where: Tensor) -> float:
        total = gather(torch.where(where, values.float(), 0.0).sum()).sum()
        return (total / gather(where.sum()).sum().clamp(min=1)).item()

    with torch.no_grad():
        found = {"entropy": mean(output.entropy[:, -width:], mask)}
        logits = output.mean_logits[:, -width:].chunk(2)
        found |= {f"logits/{side}": mean(part, sides[side]) for side, part in zip(sides, logits, strict=True)}
        found["mean_token_accuracy"] = mean(output.is_top1[:, -width:].chunk(2)[0], sides["chosen"])
    return found
