"""Sums over a language model's vocabulary, of which the logits exist for a few positions at a time only.

A TRL model returns the log-probability of each token without whole logits. What token-level objectives need beyond it,
the divergence from the reference at each position and the like, is computed here from last hidden states, by the very
formulas of `NextTokens`, in chunks that are computed again in the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from didsim.objectives import Mapped, NextTokens

CHUNK = 1024
"""Positions whose next-token distributions exist at once: 0.5 GB in float32 for 128 000 tokens, and as much again."""


@dataclass(frozen=True)
class HiddenTokens:
    """A `Vocabulary` of last hidden states, [B, T] with N tokens in all.

    Attributes:
        mask: True where there is a token, [B, T].
        hidden: the policy's last hidden state before each token, [N, H].
        head: from hidden states [n, H] to logits [n, V].
        ref_hidden: the reference's, [N, H], or None.
        ref_head: the reference's head, or None.
        chunk: so many positions at a time.
    """

    mask: Tensor
    hidden: Tensor
    head: Callable[[Tensor], Tensor]
    ref_hidden: Tensor | None = None
    ref_head: Callable[[Tensor], Tensor] | None = None
    chunk: int = CHUNK
    _found: dict[object, Tensor] = field(default_factory=dict, repr=False)

    def forward_kl(self) -> Tensor:
        """Return KL(π_ref(·|y_<t) ‖ π(·|y_<t)) at each position, in nats, [B, T]; 0 where there is no token."""
        return self._each("forward_kl")

    def reverse_kl(self) -> Tensor:
        """Return KL(π(·|y_<t) ‖ π_ref(·|y_<t)) at each position, in nats, [B, T]."""
        return self._each("reverse_kl")

    def log_tilt(self, exponent: float | Tensor) -> Tensor:
        """Return log Σ_v π (π/π_ref)^ε at each position, [B, T]; ε is a number."""
        return self._each("log_tilt", exponent)

    def log_collision(self) -> Tensor:
        """Return log Σ_v π² at each position, [B, T]."""
        return self._each("log_collision")

    def map(self, function: Callable[[Tensor], Tensor]) -> Mapped:
        """Return the same sums, laid out anew by a function once they are known."""
        return Mapped(self, function)

    def half(self, number: int) -> "HiddenTokens":
        """Return the first (0) or the second (1) half of the batch."""
        masks = self.mask.chunk(2)
        first = int(masks[0].sum())
        rows = slice(0, first) if number == 0 else slice(first, None)
        ref_hidden = None if self.ref_hidden is None else self.ref_hidden[rows]
        return HiddenTokens(masks[number], self.hidden[rows], self.head, ref_hidden, self.ref_head, self.chunk)

    def log_probs_of(self, labels: Tensor) -> Tensor:
        """Return the policy's log-probability of given tokens [B, T], [B, T]; 0 where there is none."""
        wanted = labels[self.mask]

        def chosen(rows: slice) -> Tensor:
            return log_probs(self.head(self.hidden[rows])).gather(1, wanted[rows, None])[:, 0]

        return self._laid_out(chosen)

    def _each(self, name: str, *arguments: float | Tensor) -> Tensor:
        """Return a sum of `NextTokens` at each position; it is kept, since reward and loss may ask for the same."""

        def one_sum(rows: slice) -> Tensor:
            return getattr(self._of_chunk(rows), name)(*arguments)

        key = (name, *map(float, arguments))
        found = self._found.get(key)
        if found is None or (torch.is_grad_enabled() and not found.requires_grad):
            found = self._found[key] = self._laid_out(one_sum)
        return found

    def _laid_out(self, function: Callable[[slice], Tensor]) -> Tensor:
        """Return a number for each position, from the numbers of chunks that are computed again when going back."""
        starts = range(0, len(self.hidden), self.chunk)
        parts = [checkpoint(function, slice(start, start + self.chunk), use_reentrant=False) for start in starts]
        values = torch.cat(parts) if parts else self.hidden.sum(-1)
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)

    def _of_chunk(self, rows: slice) -> NextTokens:
        log_ref = None
        if self.ref_hidden is not None and self.ref_head is not None:
            with torch.no_grad():
                log_ref = log_probs(self.ref_head(self.ref_hidden[rows]))
        return NextTokens(log_probs(self.head(self.hidden[rows])), log_ref)


def log_probs(logits: Tensor) -> Tensor:
    """Return log-probabilities, in float32 at least."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
