"""Rejected responses near the ideal ones, token by token, and how much each must weigh.

DPO with exponent β ends at π* where y_w ~ π_ref and y_l ~ π_l(y|x) = π_ref (π_ref/π*)^β / Z(x) ("Differential
Information Distribution" paper, Eq. 1). Normalised token by token in place of as a whole, that is the proposal
ρ(y|x) = Π_t u(y_t)/z_t, with u = π_ref (π_ref/π*)^β of a token and z_t the sum of u over all tokens, from which one can
draw. Hence the importance weight of a response, the unnormalised π_l over ρ, is w(y) = Π_t z_t, and E_ρ[w] = Z(x).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from didsim.errors import BadDataError
from didsim.llm._vocabulary import log_probs


class RejectedLogits(LogitsProcessor):
    """Makes of the logits of π_ref those of the proposal, at each step of generation, and notes log z.

    Args:
        target: the model π*, over the same tokens.
        beta: the exponent β.
        seen: where the prompts' tokens stand, 0 or 1, padded on the left, [B, P].
    """

    def __init__(self, target: Any, beta: float, seen: Tensor) -> None:
        self.target, self.beta = target, beta
        self.log_normalisers: list[Tensor] = []
        self._seen, self._cache = seen.to(target.device), None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Return log-probabilities of the next token under the proposal, [B, V], from the reference's logits."""
        log_ref = log_probs(scores)
        excess = self.beta * (log_ref - log_probs(self._next_logits(input_ids)))
        log_u = torch.where(log_ref.isneginf(), log_ref, log_ref + excess)
        log_z = log_u.logsumexp(-1)
        if not bool(log_z.isfinite().all()):
            raise BadDataError("The target excludes a token that the reference does not: no weight would be finite.")
        self.log_normalisers.append(log_z)
        return log_u - log_z.unsqueeze(1)

    def _next_logits(self, input_ids: Tensor) -> Tensor:
        """Let π* read what it has not read yet, and return its logits of the next token."""
        new = input_ids.shape[1] - self._seen.shape[1]
        self._seen = torch.nn.functional.pad(self._seen, (0, new), value=1)
        positions = (self._seen.cumsum(1) - 1).clamp(min=0)
        unread = slice(None) if self._cache is None else slice(-1, None)
        output = self.target(
            input_ids=input_ids[:, unread],
            attention_mask=self._seen,
            position_ids=positions[:, unread],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1]

    def log_weights(self, responses: Sequence[Sequence[int]]) -> list[float]:
        """Return log w = Σ_t log z_t of the responses that were drawn, in nats."""
        steps = torch.stack(self.log_normalisers, 1).double().tolist()
        return [sum(row[: len(tokens)]) for row, tokens in zip(steps, responses, strict=True)]
