"""Which f-divergences go with which losses: where the normaliser cancels."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from didsim.claims._across_displacement import gradient
from didsim.claims._claim import Claim, Control
from didsim.claims._common import ROUNDING
from didsim.claims._fields import Choice, Count, Instance, Simplex
from didsim.objectives import OBJECTIVES, BoundObjective, Link, Objective, Responses, objective
from didsim.policy import Policy
from didsim.preference import Problem


def link_of(name: str, **hyperparameters: float) -> Link:
    """Return the link of an objective, its hyperparameters bound."""
    link = OBJECTIVES[name].link
    assert link is not None  # asked for where there is one
    value, slope = link.value, link.slope
    return Link(lambda margin: value(margin, **hyperparameters), lambda margin: slope(margin, **hyperparameters))


LINKS: Mapping[str, Link] = MappingProxyType(
    {
        "logistic": link_of("dpo"),
        "exponential": link_of("exponential"),
        "hinge": link_of("hinge"),
        "squared": link_of("ipo", tau=0.5),
        "smoothed": link_of("cdpo", label_smoothing=0.1),
    }
)
"""The losses of a reward margin: those of DPO, the exponential one, RSO's hinge, IPO's at τ = ½, cDPO's at ε = 0.1."""

DIVERGENCES: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "reverse KL": {"divergence": "reverse_kl"},
        "forward KL": {"divergence": "forward_kl"},
        "Jensen–Shannon": {"divergence": "js"},
        "α = ½": {"divergence": "alpha", "alpha": 0.5},
        "Pearson χ²": {"divergence": "alpha", "alpha": 2.0},
    }
)
"""The divergences of f-DPO; its α-divergence of order 2 is Pearson's."""

VALID = "logistic of pairs"
"""The loss that is valid with every divergence."""

INVALID = (
    *(f"{link} of pairs" for link in LINKS if link != "logistic"),
    *(f"{link} of responses" for link in LINKS),
)
"""Other links of reward margins, link(r_w − r_l), and losses of single responses, link(r_w) + link(−r_l)."""


def f_loss(divergence: str, loss: str, beta: float) -> BoundObjective:
    """Return a loss of the rewards r = β f′(π/π_ref), made of f-DPO's score and a link."""
    link, _, sees = loss.split()
    reward, function = objective("f_dpo", beta=beta, **DIVERGENCES[divergence]).score, LINKS[link]
    facts: dict[str, Any] = {"formula": loss, "source": "ours", "needs": frozenset({"reference"})}
    if sees == "pairs":
        facts |= {"score": lambda y: reward(y), "link": function}  # bound parts would be bound again
    else:
        facts |= {
            "chosen_anchor": lambda y: function.value(reward(y)),
            "rejected_anchor": lambda y: function.value(-reward(y)),
        }
    return Objective(name=f"{divergence}, {loss}", title=f"f-DPO, {divergence}", **facts).bind()


def f_problem(instance: Instance) -> Problem:
    """Return the problem whose pairs are Bradley–Terry in r = β f′(π*/π_ref): π* is its f-regularised optimum."""
    reference, target = (Policy.from_probs(instance[name]) for name in ("reference", "target"))
    log_pi, log_ref = (torch.tensor(policy.log_probs) for policy in (target, reference))
    reward = f_loss(instance["divergence"], VALID, instance["beta"]).score(Responses(log_pi, log_ref))
    rejected = Policy.from_logits(reference.log_probs - reward.numpy())
    if "rejected" in instance:
        rejected = Policy.from_probs(instance["rejected"])
    return Problem(reference, target, rejected, reference)


def f_residual(instance: Instance) -> float:
    """Return the gradient of the loss by the logits at π*, relative to the weights of responses in pairs."""
    problem = f_problem(instance)
    slope = gradient(problem, f_loss(instance["divergence"], instance["loss"], instance["beta"]), problem.target)
    return float((np.abs(slope) / (problem.chosen.probs + problem.rejected.probs)).max())


def draw_validity(axes: Any) -> None:
    """Draw which divergences and losses go together, on pairs of three responses."""
    losses, world = (VALID, *INVALID), {"reference": [0.5, 0.3, 0.2], "target": [0.2, 0.3, 0.5], "beta": 1.0}
    table = [[f_residual({**world, "divergence": name, "loss": loss}) for loss in losses] for name in DIVERGENCES]
    axis = axes[0, 0]
    axis.imshow(np.array(table) > ROUNDING, cmap="Greys", vmin=0, vmax=2)
    for (row, column), value in np.ndenumerate(table):
        axis.text(column, row, "0" if value < ROUNDING else f"{value:.2f}", ha="center", va="center", fontsize=7)
    axis.set_xticks(range(len(losses)), losses, rotation=40, ha="right")
    axis.set_yticks(range(len(table)), list(DIVERGENCES))
    axis.set_xlabel("loss")
    axis.set_ylabel("divergence")
    axis.set_title("gradient at the f-regularised optimum")


REWARD_PAIRS = "pairs are Bradley–Terry in the reward"

F_DIVERGENCE = Claim(
    name="x.f-divergence",
    statement=(
        "A loss of r = β f′(π/π_ref), for any divergence f and any link, is stationary at the f-regularised optimum "
        "argmax E_π[r] − β D_f(π‖π_ref)."
    ),
    source="ours; Wang et al. 2024 on f-DPO; didsim objective f_dpo",
    verdict="holds-conditionally",
    note=(
        "At the optimum r = β f′(π/π_ref) + λ, where λ makes Σ π = 1; for the reverse KL it is β log Z. First, the "
        "loss must see differences of rewards only, so that λ cancels: one of single responses, such as BCO's, asks "
        "for λ = 0. Second, its link must be least at the true margin m = r_i − r_j: the logistic one is, whatever f, "
        "since p* = σ(m) says that w_i l_j σ(−m) = w_j l_i σ(m), of chosen w and rejected l, so that the two orders of "
        "each pair cancel, while the exponential one ends at the optimum of 2β. Counterexample: π_ref = (½, ½), π* = "
        "(¾, ¼), β = 1, reverse KL, exponential link. All five divergences go with the logistic link of pairs, as long "
        "as the optimum is positive, which for f′(0) finite, as Pearson's, not every reward allows."
    ),
    fields={
        "num_classes": Count(2, 4),
        "reference": Simplex(),
        "target": Simplex(),
        "beta": Choice((0.5, 1.0, 2.0)),
        "divergence": Choice(tuple(DIVERGENCES)),
        # so that even a few draws have the valid one
        "loss": Choice((VALID,) * (2 * len(INVALID)) + INVALID),
    },
    check=f_residual,
    tolerance=ROUNDING,
    reason="rounding, in the units of the solver's certificate",
    assumptions={
        "no response is rarer than 1 in 50": lambda i: min(*i["reference"], *i["target"]) > 0.02,
        REWARD_PAIRS: lambda i: "rejected" not in i,
    },
    condition=("the loss is the logistic one of reward margins", lambda i: i["loss"] == VALID),
    cost=2,
    picture=draw_validity,
    control=Control(
        breaks=REWARD_PAIRS,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.75, 0.25],
            "beta": 1.0,
            "divergence": "forward KL",
            "loss": VALID,
            "rejected": [0.25, 0.75],
        },
    ),
)

CLAIMS = (F_DIVERGENCE,)
