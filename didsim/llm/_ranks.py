"""Pairs of all processes together, for objectives that look at the whole batch."""

from typing import Any

import torch
from torch import Tensor

from didsim._checks import message
from didsim.objectives import Pairs, Responses


def across_ranks(pairs: Pairs, accelerator: Any) -> Pairs:
    """Return the pairs of all processes; gradients flow through those of this process only.

    Raises:
        ValueError: if single tokens are needed, whose number differs between processes.
    """
    if pairs.chosen.tokens is not None:
        hint = "Take another option, or one process."
        raise ValueError(
            message("an objective of the whole batch on several processes", "without tokens", "tokens", hint)
        )

    def whole(values: Tensor | None) -> Tensor | None:
        if values is None or values.ndim == 0:
            return values
        size, rank = len(values), accelerator.process_index
        parts = accelerator.gather(values.detach())
        return torch.cat([parts[: rank * size], values, parts[(rank + 1) * size :]])

    def side(y: Responses) -> Responses:
        parts = {name: whole(part) for name, part in vars(y).items() if name not in ("tokens", "mean_kl")}
        return Responses(**parts, tokens=None, mean_kl=y.mean_kl)  # type: ignore[arg-type]

    return Pairs(side(pairs.chosen), side(pairs.rejected), whole(pairs.weights))
