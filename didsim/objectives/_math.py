"""Scalar functions of tensors that the formulas share, stable in value and gradient."""

import math

import torch
from torch import Tensor


def softplus_neg(x: Tensor) -> Tensor:
    """Return S(x) = −log σ(x) = log(1 + e^(−x)); accurate for every x, where log(sigmoid) is not."""
    return -torch.nn.functional.logsigmoid(x)


def scaled(weight: float | Tensor, x: Tensor) -> Tensor:
    """Return weight·x, where a weight of 0 gives 0 even if x is infinite."""
    return weight * torch.where(x.isfinite() | (weight != 0), x, 0.0)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − e^x) for x < 0, with a gradient that is finite wherever the true one is.

    log(1 − e^x) = log(−expm1(x)) is accurate near 0, log1p(−e^x) far from it. Both branches are given
    harmless inputs where the other is taken: the gradient of a `where` multiplies the unused one by 0,
    and 0·inf is NaN. x = 0 is what rounding makes of a probability next to 1; it counts as the largest
    negative number, with gradient 0.
    """
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -math.log(2.0)
    close = torch.where(near, x, -1.0)
    far = torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(close)), torch.log1p(-torch.exp(far)))


def log1mexp_slope(x: Tensor) -> Tensor:
    """Return d log(1 − e^x) / dx = −e^x / (1 − e^x) = −1 / expm1(−x); 0 at x = 0, as in `log1mexp`."""
    return torch.where(x < 0, -1.0 / torch.expm1(-x), 0.0)
