"""Scalar functions of tensors that the formulas share, stable in value and gradient."""

import math
from typing import Any

import torch
from torch import Tensor


def softplus_neg(x: Tensor) -> Tensor:
    """Return S(x) = −log σ(x) = log(1 + e^(−x)); accurate for every x, where log(sigmoid) is not."""
    return -torch.nn.functional.logsigmoid(x)


def sigmoid(x: Tensor) -> Tensor:
    """Return σ(x) = e^(log σ(x)), whose gradient σ(x) σ(−x) is right in both tails.

    That of `torch.sigmoid` is σ (1 − σ) from a rounded σ: in float32 off by a thousandth at x = 10, and 0 from x = 17.
    """
    return torch.exp(torch.nn.functional.logsigmoid(x))


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


def power_transform(x: Tensor, power: float | Tensor) -> Tensor:
    """Return (e^(ax) − 1)/a, and its limit x for a = 0.

    It is the derivative of an α-divergence (a = α − 1 at x = log u), the forward KL's 1 − e^(−x) (a = −1), and
    α-PO's reward (a = −α). The exponent is cut where e^(ax) would come near the largest number of the dtype, so that
    differences stay finite; beyond it the gradient is 0.
    """
    power = torch.as_tensor(power, dtype=x.dtype)
    safe = torch.where(power == 0, 1.0, power)
    return torch.where(power == 0, x, _expm1(_bounded(safe * x)) / safe)


def _expm1(x: Tensor) -> Tensor:
    """Return e^x − 1; that of torch has the gradient (e^x − 1) + 1, which for very negative x is 0 and not e^x."""
    near = x > -1.0
    return torch.where(near, torch.expm1(torch.where(near, x, 0.0)), torch.exp(torch.where(near, 0.0, x)) - 1.0)


def bounded_exp(x: Tensor) -> Tensor:
    """Return e^x, cut where it would come near the largest number of the dtype."""
    return torch.exp(_bounded(x))


def bounded_exp_slope(x: Tensor) -> Tensor:
    """Return the derivative of `bounded_exp`: e^x, and 0 beyond the cut."""
    bounded = _bounded(x)
    return torch.where(bounded == x, torch.exp(bounded), 0.0)


def _bounded(exponent: Tensor) -> Tensor:
    """Cut an exponent at half the logarithm of the largest number: e^354 in float64, e^44 in float32."""
    return exponent.clamp(max=0.5 * math.log(torch.finfo(exponent.dtype).max))


class _StopGradient(torch.autograd.Function):
    """The identity, with a backward pass of zeros and the identity as its forward-mode derivative."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.zeros_like(gradients[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int | None]:
        return stop_gradient(args[0]), in_dims[0]


def stop_gradient(x: Tensor) -> Tensor:
    """Return sg[x]: x itself, which training takes for a constant.

    Training differentiates backwards and sees no path through x. The solver needs the derivative of the whole
    gradient field, stopped terms included: it differentiates that field forwards, where this is the identity.
    """
    return _StopGradient.apply(x)  # type: ignore[return-value]


def stop_gradient_if(stopped: bool, x: Tensor) -> Tensor:
    """Return sg[x] or x, as an option of the method says."""
    return stop_gradient(x) if stopped else x
