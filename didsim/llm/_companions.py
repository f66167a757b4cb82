"""Modules that are learned beside the policy, as further heads of the same model.

Each is a submodule of the language model, so that optimiser, clipping, data-parallel training and checkpoints know of
it. Both look at the reference's last hidden states, which do not change while they learn.
"""

import torch
from torch import Tensor, nn

from didsim.objectives import BoundObjective

NAME = "didsim_companion"
"""Under this name the module is part of the model, and of its checkpoints."""


class TokenPrior(nn.Module):
    """A prior ζ(y) = Π_t ζ(y_t | y_<t) over responses without their prompts: MI-DPO's learned one.

    At the start it is π_ref without a prompt. Source: MI-DPO paper, Section 5; the head is ours.

    Args:
        head: the reference's language-model head, which is copied.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().clone().float())
        self.bias = None if head.bias is None else nn.Parameter(head.bias.detach().clone().float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of the reference's last hidden states [N, H]."""
        return nn.functional.linear(hidden.float(), self.weight, self.bias)


class TokenMasks(nn.Module):
    """The masks μ₁ and μ₂ of SparsePO, max(0, w·h + b) of the reference's last hidden state h; both 1 at the start.

    Source: Christopoulou et al. 2024, Section 3.2, where h are the activations of all layers.

    Args:
        size: of a hidden state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.ones_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return μ₁ and μ₂, [N, 2], at hidden states [N, H]."""
        return torch.relu(self.linear(hidden.float()))


def companion_of(loss: BoundObjective, head: nn.Linear) -> nn.Module | None:
    """Return what the objective needs beside the policy, or None."""
    if "prior" in loss.needs:
        return TokenPrior(head)
    if "masks" in loss.needs:
        return TokenMasks(head.in_features)
    return None
