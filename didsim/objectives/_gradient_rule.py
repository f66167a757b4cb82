"""Methods that are a rule for gradients and not a loss: DPO-PG.

>>> from torch import tensor
>>> projected_gradient(tensor([1.0, 1.0]), tensor([2.0, 0.0]))
tensor([0., 1.])
>>> projected_gradient(tensor([1.0, 1.0]), tensor([-2.0, 0.0]))
tensor([1., 1.])
>>> projected_gradient(tensor([1.0, 1.0]), tensor([0.0, 0.0]))
tensor([1., 1.])

As an objective its loss is what it descends, the negative log-likelihood of chosen responses:

>>> from didsim.objectives import Pairs, objective
>>> objective("dpo_pg")(Pairs.from_log_probs(log_pi_chosen=tensor([-1.5]), log_pi_rejected=tensor([-2.0])))
tensor([1.5000])
"""

import torch
from torch import Tensor

from didsim.objectives._log_ratio import log_pi
from didsim.objectives._objective import Objective, slope
from didsim.objectives._pairs import Responses


def projected_gradient(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return g_w − max(0, g_w·g_l)/‖g_l‖² g_l: the part of g_w that does not lower the rejected responses' loss too.

    The ratio does not change when g_l is divided by its largest entry, and squares then neither underflow nor overflow.
    Where g_l = 0 there is nothing to project out, and the result is g_w.

    Args:
        chosen: the gradient g_w of the mean negative log-likelihood of chosen responses, [..., D].
        rejected: the gradient g_l of that of rejected ones, [..., D].

    Source: DID paper, Definition H.1.
    """
    largest = rejected.abs().amax(-1, keepdim=True)
    unit = rejected / torch.where(largest > 0, largest, 1.0)
    square = (unit * unit).sum(-1, keepdim=True)
    overlap = (chosen * unit).sum(-1, keepdim=True).clamp(min=0.0)
    return chosen - overlap / torch.where(square > 0, square, 1.0) * unit


@slope(lambda y: -1.0)
def nll(y: Responses) -> Tensor:
    """−log π."""
    return -y.log_pi


DPO_PG = Objective(
    name="dpo_pg",
    title="DPO, projected gradient",
    formula="a rule for gradients: g_w − max(0, g_w·g_l)/‖g_l‖² g_l,  g the gradients of −mean log π of y_w and of y_l",
    source="DID paper, Definition H.1",
    chosen_anchor=nll,
    gradient_rule=projected_gradient,
    implicit_reward=log_pi,
    conventions=(
        "Its loss is what it descends: the negative log-likelihood of chosen responses.",
        "Any optimiser follows; gradients are clipped after the projection. A zero g_l leaves g_w as it is.",
    ),
)
