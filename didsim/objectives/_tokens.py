"""What token-level objectives look at: the decisions that make up a response, and the choice behind each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Known = TypeVar("Known")


def required(value: Known | None, what: str, how: str) -> Known:
    """Return a quantity that an objective looks at, or say how to give it."""
    if value is None:
        raise ValueError(f"This objective needs {what}; {how}.")
    return value


class Vocabulary(Protocol):
    """Sums over all tokens that could have been chosen at each position, [..., T]."""

    def forward_kl(self) -> Tensor:
        """Return KL(π_ref(·|y_<t) ‖ π(·|y_<t)) at each position, in nats."""
        ...

    def reverse_kl(self) -> Tensor:
        """Return KL(π(·|y_<t) ‖ π_ref(·|y_<t)) at each position, in nats."""
        ...

    def log_tilt(self, exponent: float | Tensor) -> Tensor:
        """Return log Σ_v π(v|y_<t) (π/π_ref)(v|y_<t)^ε at each position: the normaliser of logits (1+ε)θ − εθ_ref.

        Args:
            exponent: ε, a number or a tensor that broadcasts against whole distributions, [..., T, V].
        """
        ...

    def log_collision(self) -> Tensor:
        """Return log Σ_v π(v|y_<t)² at each position."""
        ...

    def map(self, function: Callable[[Tensor], Tensor]) -> "Vocabulary":
        """Lay out every sum anew by a function."""
        ...


@dataclass(frozen=True)
class NextTokens:
    """A `Vocabulary` from whole next-token distributions.

    Attributes:
        log_pi: log π(v|y_<t) for every token v, [..., T, V], finite or −inf.
        log_ref: the same under π_ref, or None when there is no reference.
    """

    log_pi: Tensor
    log_ref: Tensor | None = None

    def forward_kl(self) -> Tensor:
        """Return Σ_v π_ref (log π_ref − log π)."""
        return _kl(self._reference, self.log_pi)

    def reverse_kl(self) -> Tensor:
        """Return Σ_v π (log π − log π_ref)."""
        return _kl(self.log_pi, self._reference)

    def log_tilt(self, exponent: float | Tensor) -> Tensor:
        """Return log Σ_v π (π/π_ref)^ε; exactly 0 where the two policies agree.

        Σ π e^r = 1 + Σ π (e^r − 1) with r = ε log π/π_ref loses no digits when r is small; a log-sum-exp does not
        overflow when it is large.
        """
        supported = self.log_pi > -torch.inf
        log_pi, log_ref = (torch.where(supported, part, 0.0) for part in (self.log_pi, self._reference))
        tilt = exponent * (log_pi - log_ref)
        near = torch.log1p((self.log_pi.exp() * torch.expm1(tilt.clamp(-1.0, 1.0))).sum(-1))
        far = torch.logsumexp(torch.where(supported, log_pi + tilt, -torch.inf), dim=-1)
        return torch.where(tilt.abs().amax(-1) <= 1.0, near, far)

    def log_collision(self) -> Tensor:
        """Return log Σ_v π²."""
        return torch.logsumexp(2.0 * self.log_pi, dim=-1)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mapped":
        """Return the same sums, laid out anew by a function once they are known."""
        return Mapped(self, function)

    @property
    def _reference(self) -> Tensor:
        return required(self.log_ref, "the reference's next-token distributions", "give NextTokens its log_ref=")


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return Σ p (log p − log q) over the last axis, where p = 0 contributes 0."""
    supported = log_p > -torch.inf
    difference = torch.where(supported, log_p, 0.0) - torch.where(supported, log_q, 0.0)
    return (log_p.exp() * difference).sum(-1)


@dataclass(frozen=True)
class Mapped:
    """A `Vocabulary` whose sums are laid out anew by a function, once they are known."""

    vocabulary: Vocabulary
    function: Callable[[Tensor], Tensor]

    def forward_kl(self) -> Tensor:
        """Return KL(π_ref ‖ π) at each position."""
        return self.function(self.vocabulary.forward_kl())

    def reverse_kl(self) -> Tensor:
        """Return KL(π ‖ π_ref) at each position."""
        return self.function(self.vocabulary.reverse_kl())

    def log_tilt(self, exponent: float | Tensor) -> Tensor:
        """Return log Σ_v π (π/π_ref)^ε at each position."""
        return self.function(self.vocabulary.log_tilt(exponent))

    def log_collision(self) -> Tensor:
        """Return log Σ_v π² at each position."""
        return self.function(self.vocabulary.log_collision())

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mapped":
        """Return the same sums, laid out once more."""
        return Mapped(self, function)


@dataclass(frozen=True)
class Tokens:
    """The decisions of a response, padded to T positions.

    Attributes:
        log_pi: log π(y_t|y_<t), [..., T]; what stands at masked positions is never looked at.
        mask: True where there is a token, [..., T].
        log_ref: the same as `log_pi` under π_ref.
        vocabulary: sums over the tokens that could have been chosen.
        weights: the importance w of each token (TIS-DPO); 1 unless given.
        reward_mask: the mask μ₁ ≥ 0 on the log-ratio of each token (SparsePO); 1 unless given.
        kl_mask: the mask μ₂ ≥ 0 on the divergence at each token (SparsePO); 1 unless given.
    """

    log_pi: Tensor
    mask: Tensor
    log_ref: Tensor | None = None
    vocabulary: Vocabulary | None = None
    weights: Tensor | None = None
    reward_mask: Tensor | None = None
    kl_mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Tokens":
        """Apply a function to every quantity that is there."""
        parts = {
            name: None if part is None else function(part) for name, part in vars(self).items() if name != "vocabulary"
        }
        vocabulary = None if self.vocabulary is None else self.vocabulary.map(function)
        return replace(self, **parts, vocabulary=vocabulary)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the tokens of a response, [...]; masked positions do not count, even if NaN."""
        return torch.where(self.mask, values, 0.0).sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the tokens of a response, [...]."""
        return self.total(values) / self.mask.sum(-1)

    @property
    def log_ratio(self) -> Tensor:
        """The log-ratio log π − log π_ref of each token, [..., T], 0 at masked positions."""
        reference = required(self.log_ref, "log π_ref of each token", "give Tokens its log_ref=")
        return torch.where(self.mask, self.log_pi, 0.0) - torch.where(self.mask, reference, 0.0)

    @property
    def sums(self) -> Vocabulary:
        """The sums over the vocabulary; an error if they are not known."""
        return required(self.vocabulary, "next-token distributions", "give Tokens its vocabulary=")

    @property
    def position(self) -> Tensor:
        """The number of each token within its response, from 1, [..., T]."""
        return self.mask.cumsum(-1)
