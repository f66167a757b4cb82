"""What a loss sees: the log-probabilities and lengths of chosen and rejected responses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from didsim._checks import message


@dataclass(frozen=True)
class Responses:
    """One response of each pair, as far as a loss may look at it.

    Attributes:
        log_pi: log π(y|x) in nats, summed over tokens.
        log_ref: the same under π_ref, or None when there is no reference.
        length: the number of tokens, or None when it is not known.
    """

    log_pi: Tensor
    log_ref: Tensor | None = None
    length: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Responses":
        """Apply a function to every quantity that is there."""
        parts = (self.log_pi, self.log_ref, self.length)
        return Responses(*(None if part is None else function(part) for part in parts))  # type: ignore[arg-type]

    @property
    def reference(self) -> Tensor:
        """The log-probability under π_ref, in nats; an error if there is none."""
        return _required(self.log_ref, "log_ref", "the reference policy")

    @property
    def log_ratio(self) -> Tensor:
        """The log-ratio h = log π − log π_ref, in nats."""
        return self.log_pi - self.reference

    @property
    def mean_log_pi(self) -> Tensor:
        """The log-probability per token a = log π / |y|, in nats."""
        return self.log_pi / _required(self.length, "length", "the lengths of the responses")


def _required(value: Tensor | None, name: str, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"This objective needs {what}; pass {name}_chosen= and {name}_rejected=.")
    return value


@dataclass(frozen=True)
class Pairs:
    """Preference pairs, each with a weight.

    Attributes:
        chosen: the chosen responses y_w.
        rejected: the rejected responses y_l; broadcastable against `chosen`.
        weights: the non-negative weight of each pair, or None when all count alike.
    """

    chosen: Responses
    rejected: Responses
    weights: Tensor | None = None

    @classmethod
    def from_log_probs(
        cls,
        *,
        log_pi_chosen: Tensor,
        log_pi_rejected: Tensor,
        log_ref_chosen: Tensor | None = None,
        log_ref_rejected: Tensor | None = None,
        length_chosen: Tensor | None = None,
        length_rejected: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> "Pairs":
        """Check and collect the tensors of a batch of pairs.

        Args:
            log_pi_chosen: log π(y_w|x) summed over tokens, in nats, [B].
            log_pi_rejected: log π(y_l|x), [B].
            log_ref_chosen: log π_ref(y_w|x), [B]; needed by objectives with a reference.
            log_ref_rejected: log π_ref(y_l|x), [B].
            length_chosen: the number of tokens of y_w, integer or float, [B]; needed by objectives that
                normalise by length.
            length_rejected: the number of tokens of y_l, [B].
            weights: the weight of each pair, [B]; all alike by default.

        Raises:
            TypeError: if one of them is not a tensor, or log-probabilities are not floating-point.
            ValueError: if shapes differ, only one side is given, or a length is not positive.
        """
        _check_together("log_ref", log_ref_chosen, log_ref_rejected)
        _check_together("length", length_chosen, length_rejected)
        given = {
            "log_pi_chosen": log_pi_chosen,
            "log_pi_rejected": log_pi_rejected,
            "log_ref_chosen": log_ref_chosen,
            "log_ref_rejected": log_ref_rejected,
            "length_chosen": length_chosen,
            "length_rejected": length_rejected,
            "weights": weights,
        }
        for name, tensor in given.items():
            if tensor is not None:
                _check_tensor(name, tensor, like=log_pi_chosen)
        return cls(
            Responses(log_pi_chosen, log_ref_chosen, length_chosen),
            Responses(log_pi_rejected, log_ref_rejected, length_rejected),
            weights,
        )

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean of one value per pair; a pair of weight 0 does not count, even if infinite.

        Raises:
            ValueError: if there are no pairs, or if all their weights are 0.
        """
        if values.numel() == 0:
            raise ValueError(message("the number of pairs", "at least 1", 0))
        if self.weights is None:
            return values.mean()
        total = self.weights.sum()
        if total.item() == 0.0:
            raise ValueError(message("weights", "positive for at least one pair", "all 0"))
        return torch.where(self.weights > 0, self.weights * values, 0.0).sum() / total


def _check_together(name: str, chosen: Tensor | None, rejected: Tensor | None) -> None:
    if (chosen is None) != (rejected is None):
        missing = f"{name}_chosen" if chosen is None else f"{name}_rejected"
        raise ValueError(message(f"{name}_chosen and {name}_rejected", "given together", f"no {missing}"))


def _check_tensor(name: str, tensor: Tensor, like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(message(name, "a torch tensor", type(tensor).__name__))
    if tensor.shape != like.shape:
        raise ValueError(message(f"the shape of {name}", str(tuple(like.shape)), tuple(tensor.shape)))
    if name.startswith("log_") and not tensor.is_floating_point():
        raise TypeError(message(name, "a floating-point tensor", tensor.dtype))
    if name.startswith("length") and not bool((tensor > 0).all()):
        raise ValueError(message(name, "positive everywhere", tensor.min().item()))
    if name == "weights" and not bool((tensor >= 0).all()):
        raise ValueError(message(name, "non-negative everywhere", tensor.min().item()))
