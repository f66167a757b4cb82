"""Many bindings of one objective as one, so that one call evaluates a whole grid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from didsim._checks import message
from didsim.objectives._objective import BoundObjective


def stack(losses: Sequence[BoundObjective], dtype: torch.dtype) -> BoundObjective:
    """Join bindings of one objective into one whose numbers are tensors [R, 1, 1], one entry per run.

    Raises:
        ValueError: if they differ in the objective or in an option that is not a number.
    """
    first = losses[0]
    if any(group_key(loss) != group_key(first) for loss in losses):
        raise ValueError(message("losses", "of one objective with the same named options", losses))
    options = first.options
    stacked = {
        name: options[name]
        if name in options
        else _column(name, [float(loss.hyperparameters[name]) for loss in losses], dtype)
        for name in first.hyperparameters
    }
    return BoundObjective(first.objective, stacked)


def _column(name: str, values: list[float], dtype: torch.dtype) -> Tensor:
    """Return one value per run, [R, 1, 1]; refuse what the dtype would turn into 0 or infinity."""
    column = torch.tensor(values, dtype=dtype)
    for value, held in zip(values, column.tolist(), strict=True):
        if math.isinf(held) or (value != 0.0 and held == 0.0):
            raise ValueError(message(name, f"a number that {dtype} can hold", value, 'Use dtype="float64".'))
    return column[:, None, None]


def group_key(loss: BoundObjective) -> tuple[str, ...]:
    """Return what two losses must share to be evaluated in one call: the objective and its named options."""
    options = (f"{name}={value}" for name, value in loss.options.items())
    return (loss.name, str(id(loss.objective)), *options)  # a user's record may bear a known name
