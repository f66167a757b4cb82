"""Optimisers over a batch of runs: the update rules of torch.optim, applied in place to [R, K] tensors."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda progress: 1.0,
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    }
)
"""Factors of the learning rate, as functions of the progress from 0 to 1."""


class Optimiser(Protocol):
    """What moves the logits, and what it remembers between steps."""

    def update(self, logits: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Move the logits in place against the gradient."""


class SGD:
    """θ ← θ − lr·g."""

    def __init__(self, logits: Tensor) -> None:
        pass

    def update(self, logits: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Take one step."""
        logits.add_(gradient, alpha=_representable(-learning_rate, logits))


class RMSprop:
    """v ← αv + (1−α)g²;  θ ← θ − lr·g/(√v + ε)."""

    ALPHA, EPSILON = 0.99, 1e-8

    def __init__(self, logits: Tensor) -> None:
        self.square_average = torch.zeros_like(logits)

    def update(self, logits: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Take one step."""
        self.square_average.mul_(self.ALPHA).addcmul_(gradient, gradient, value=1.0 - self.ALPHA)
        denominator = self.square_average.sqrt().add_(self.EPSILON)
        logits.addcdiv_(gradient, denominator, value=_representable(-learning_rate, logits))


class Adam:
    """m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − lr·m̂/(√v̂ + ε), hats divided by 1 − βᵗ."""

    BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, logits: Tensor) -> None:
        self.average = torch.zeros_like(logits)
        self.square_average = torch.zeros_like(logits)
        self.step = 0

    def update(self, logits: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Take one step."""
        self.step += 1
        self.average.lerp_(gradient, 1.0 - self.BETA_1)
        self.square_average.mul_(self.BETA_2).addcmul_(gradient, gradient, value=1.0 - self.BETA_2)
        scale = math.sqrt(1.0 - self.BETA_2**self.step)
        denominator = self.square_average.sqrt().div_(scale).add_(self.EPSILON)
        step_size = learning_rate / (1.0 - self.BETA_1**self.step)
        logits.addcdiv_(self.average, denominator, value=_representable(-step_size, logits))


def _representable(factor: float, like: Tensor) -> float:
    """Return a factor that the dtype can hold: infinite where it overflows, so that the run diverges and says so."""
    return factor if abs(factor) <= torch.finfo(like.dtype).max else math.copysign(math.inf, factor)


OPTIMISERS: Mapping[str, Callable[[Tensor], Optimiser]] = MappingProxyType(
    {"rmsprop": RMSprop, "adam": Adam, "sgd": SGD}
)
"""Every optimiser, by name."""


def clip_by_run_(gradient: Tensor, max_norm: float) -> Tensor:
    """Scale down, in place, the gradient of each run whose norm exceeds `max_norm`.

    As torch.nn.utils.clip_grad_norm_ does for one run: g·min(1, c/(‖g‖ + 1e-6)).
    """
    norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient.mul_((max_norm / norms.add_(1e-6)).clamp_(max=1.0))
