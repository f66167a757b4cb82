"""Gradient rules: the gradient of a second loss beside the first, and what an optimiser sees of both.

The first gradient, of chosen responses, is in `.grad`, where training accumulates it and averages it over processes.
The second one, of rejected responses, is accumulated here, and averaged when the optimiser is about to step: so the
rule is applied once per step, to the gradients of the whole batch, and before these are clipped.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Rule = Callable[[Tensor, Tensor], Tensor]


class SecondGradient:
    """The gradient of a second loss by the parameters that are trained.

    Args:
        rule: from the first and the second gradient as vectors to what the optimiser sees.
        parameters: all parameters of the model; those that need no gradient do not count.
        accelerator: accelerate's, which averages over processes.
    """

    def __init__(self, rule: Rule, parameters: Iterable[nn.Parameter], accelerator: Any) -> None:
        self.rule = rule
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.accelerator = accelerator
        self._sums: list[Tensor] | None = None

    def add(self, loss: Tensor) -> None:
        """Add the gradient of a loss, whose graph is kept for the first one."""
        parts = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        found = [
            torch.zeros_like(parameter) if part is None else part
            for parameter, part in zip(self.parameters, parts, strict=True)
        ]
        if self._sums is None:
            self._sums = found
        else:
            for total, part in zip(self._sums, found, strict=True):
                total += part

    def apply(self) -> None:
        """Replace each `.grad` by its part of rule(first, second), both taken as one vector, and start anew."""
        assert self._sums is not None  # something was added before the optimiser steps
        first = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        second = self.accelerator.reduce(_as_vector(self._sums), reduction="mean")
        ruled = self.rule(_as_vector(first), second).split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, ruled, strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)
        self._sums = None


def _as_vector(parts: list[Tensor]) -> Tensor:
    """Lay out tensors one after the other, in float32 at least."""
    flat = torch.cat([part.flatten() for part in parts])
    return flat if flat.dtype == torch.float64 else flat.float()
