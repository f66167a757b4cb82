"""The only place where numpy and torch meet."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from didsim._checks import check_choice

__all__ = ["DTYPES", "Tensor", "as_dtype", "finite_log", "threads", "to_array", "to_tensor"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}

LOG_ZERO = -1e4
"""Stands for log 0 in tensors: exp(−1e4) is exactly 0 in float32 and float64, and differences stay finite."""


def as_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of that name, float32 or float64."""
    return DTYPES[check_choice("dtype", name, DTYPES)]


def finite_log(log_probs: np.ndarray) -> np.ndarray:
    """Replace −inf by a number whose exponential is exactly 0 all the same."""
    return np.where(np.isneginf(log_probs), LOG_ZERO, log_probs)


def to_tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
    """Copy an array into a new tensor on the CPU."""
    return torch.tensor(array, dtype=dtype)


def to_array(tensor: Tensor) -> np.ndarray:
    """Copy a tensor into a new float64 (or integer) array."""
    values = tensor.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy().copy()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with a fixed number of torch threads, and restore the former number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
