"""Exercise of lesson 7 in torch, where the gradient is the matter: a margin that moves, and must not be pulled at."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from didsim.lessons.grading._exercise import Exercise, Function, Inputs, Slip

if TYPE_CHECKING:
    from torch import Tensor

LOGS = ("log_pi_chosen", "log_pi_rejected", "log_ref_chosen", "log_ref_rejected")


def moving_margin_loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta, gamma, alpha):
    """Return −log σ(β (log π_chosen − log π_rejected) − sg[γ + α m]), [B], with m = β times DPO's margin."""
    import torch  # slow to load, and no other exercise needs it

    margin = (log_pi_chosen - log_ref_chosen) - (log_pi_rejected - log_ref_rejected)
    asked = gamma + alpha * beta * margin
    return -torch.nn.functional.logsigmoid(beta * (log_pi_chosen - log_pi_rejected) - asked.detach())


def loss_and_gradient(function: Function, inputs: Inputs) -> Any:
    """Return what the function returns, and the gradient of its sum by log π of chosen and rejected."""
    import torch

    tensors = {name: torch.tensor(inputs[name], dtype=torch.float64) for name in LOGS}
    leaves = [tensors[name].requires_grad_() for name in LOGS[:2]]
    rest = {name: value for name, value in inputs.items() if name not in LOGS}
    loss = function(*tensors.values(), *rest.values())
    if not isinstance(loss, torch.Tensor):
        return loss
    if not loss.requires_grad:
        return {"the loss": loss.detach().numpy(), "its gradient by log_pi_chosen": None}
    gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    named = {f"its gradient by {name}": g for name, g in zip(LOGS[:2], gradients, strict=True)}
    found = {"the loss": loss.detach(), **named}
    return {name: None if value is None else value.numpy() for name, value in found.items()}


def _draw(rng: Any) -> Inputs:
    logs = {name: [round(-float(x), 2) for x in rng.exponential(5.0, 2)] for name in LOGS}
    settings = {"beta": (0.5, 3.0), "gamma": (0.0, 1.5), "alpha": (0.05, 0.5)}
    return {**logs, **{name: round(float(rng.uniform(*ends)), 2) for name, ends in settings.items()}}


def _variant(margin: Callable[..., "Tensor"]) -> Function:
    """Return the loss with another margin, a function of (h_w − h_l, log π_w − log π_l, β, γ, α)."""

    def loss(*inputs):
        import torch

        chosen, rejected, ref_chosen, ref_rejected, *settings = inputs
        log_ratios = (chosen - ref_chosen) - (rejected - ref_rejected)
        return -torch.nn.functional.logsigmoid(margin(log_ratios, chosen - rejected, *settings))

    return loss


def _at_reference(alpha: float) -> Inputs:
    logs = dict(zip(LOGS, ([-3.0], [-5.0], [-3.0], [-5.0]), strict=True))
    return {**logs, "beta": 2.0, "gamma": 0.5, "alpha": alpha}


MOVING_MARGIN = Exercise(
    "ex14",
    7,
    "α-DPO's margin: a prior that moves, behind a stopped gradient",
    moving_margin_loss,
    draw=_draw,
    extremes={
        "π = π_ref, where the moving part is 0": _at_reference(0.2),
        "α = 0, where the loss is SimPO's": {
            **dict(zip(LOGS, ([-3.0], [-5.0], [-2.0], [-9.0]), strict=True)),
            **{"beta": 2.0, "gamma": 0.5, "alpha": 0.0},
        },
        "a pair that is very wrong": {
            **dict(zip(LOGS, ([-900.0], [-1.0], [-2.0], [-801.0]), strict=True)),
            **{"beta": 2.0, "gamma": 0.5, "alpha": 0.1},
        },
    },
    hints=(
        "There are two margins: SimPO's, β(log π_chosen − log π_rejected), which is trained, and DPO's, which sets how "
        "much is asked for.",
        "The margin that is asked for is γ + α m, with m = β times the difference of log π/π_ref. It depends on π, but "
        "sg[·] says that no gradient flows through it.",
        "Tensor.detach() stops a gradient. Apply it to what is asked for, and to nothing else.",
    ),
    slips=(
        Slip(
            "The value is right, the gradient is not: it flows through the margin that is asked for. Detach that.",
            _variant(lambda h, d, beta, gamma, alpha: beta * d - gamma - alpha * beta * h),
        ),
        Slip(
            "Nothing can be learnt: the gradient is stopped through the whole loss, not just what is asked for.",
            _variant(lambda h, d, beta, gamma, alpha: (beta * d - gamma - alpha * beta * h).detach()),
        ),
        Slip(
            "What is asked for is added. It is subtracted: the more is asked for, the greater the loss.",
            _variant(lambda h, d, beta, gamma, alpha: beta * d + (gamma + alpha * beta * h).detach()),
        ),
        Slip(
            "β is missing in m, which is β times DPO's margin.",
            _variant(lambda h, d, beta, gamma, alpha: beta * d - gamma - alpha * h.detach()),
        ),
        Slip(
            "The reference is missing in m: it is a difference of log π/π_ref.",
            _variant(lambda h, d, beta, gamma, alpha: beta * d - gamma - alpha * beta * d.detach()),
        ),
    ),
    observe=loss_and_gradient,
)

EXERCISES = (MOVING_MARGIN,)
