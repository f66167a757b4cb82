"""MI-DPO: the loss that becomes one or another of its relatives by the choice of its prior.

At π = π_ref, with log-probabilities −1 and −2, it is log 2 under the prior ζ = π_ref, and S(1) under a uniform one:

>>> from torch import tensor
>>> from didsim.objectives import Pairs, objective
>>> pairs = Pairs.from_log_probs(
...     log_pi_chosen=tensor([-1.0]), log_pi_rejected=tensor([-2.0]),
...     log_ref_chosen=tensor([-1.0]), log_ref_rejected=tensor([-2.0]))
>>> objective("mi_dpo", prior="reference")(pairs), objective("mi_dpo", prior="uniform")(pairs)
(tensor([0.6931]), tensor([0.3133]))
"""

from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, REAL
from didsim.objectives._links import LOGISTIC
from didsim.objectives._math import stop_gradient_if
from didsim.objectives._objective import BOOLEAN, Objective, Parameter, Part
from didsim.objectives._pairs import Responses
from didsim.objectives._priors import PRIORS


def _information(*, rejected: bool) -> Part:
    """Return the part α (log π − log ζ) of chosen or of rejected responses, whose priors differ for SimPO only."""

    def part(
        y: Responses,
        *,
        alpha: float | Tensor,
        prior: str,
        eta: float | Tensor,
        gamma: float | Tensor,
        length_penalty: float | Tensor,
        kl_weight: float | Tensor,
        stop_gradient: bool,
    ) -> Tensor:
        values = {"alpha": alpha, "eta": eta, "gamma": gamma, "length_penalty": length_penalty, "kl_weight": kl_weight}
        zeta = PRIORS[prior]
        log_zeta = zeta.rejected_log_zeta if rejected and zeta.rejected_log_zeta else zeta.log_zeta
        return alpha * (y.log_pi - stop_gradient_if(stop_gradient, log_zeta(y, **values)))

    return part


EVERYWHERE = tuple(name for name in PRIORS if name != "given")
"""The priors that every problem has."""

MI_DPO = Objective(
    name="mi_dpo",
    title="Mutual-information DPO",
    formula="S(α[(log π_w − log ζ_w) − (log π_l − log ζ_l)])",
    source="MI-DPO paper, the loss of Section 3; its priors: Section 4 and Appendix B",
    parameters={
        "alpha": Parameter(1.0, POSITIVE, (1.0,), "scale of the implicit reward"),
        "prior": Parameter("reference", tuple(PRIORS), EVERYWHERE, "the prior ζ"),
        "eta": Parameter(0.95, POSITIVE, (0.95,), "power η of centropy", ("prior", ("centropy",))),
        "gamma": Parameter(0.5, REAL, (0.5,), "reward margin γ of simpo", ("prior", ("simpo",))),
        "length_penalty": Parameter(0.1, NON_NEGATIVE, (0.1,), "R-DPO's coefficient a", ("prior", ("r_dpo",))),
        "kl_weight": Parameter(1.0, NON_NEGATIVE, (1.0,), "TIS-DPO's coefficient c", ("prior", ("tis_dpo",))),
        "stop_gradient": Parameter(False, BOOLEAN, (False,), "whether ζ is a constant to the gradient"),
    },
    score=_information(rejected=False),
    rejected_score=_information(rejected=True),
    link=LOGISTIC,
    option_needs={("prior", prior.name): prior.needs for prior in PRIORS.values()},
    conventions=(
        "Gradient flows through ζ where ζ contains π, as the paper's recoveries assume; stop_gradient=True gives the "
        "algorithm that holds ζ while the policy moves.",
        "The prior 'marginal' with stop_gradient=True alternates ζ = Σ_x p(x) π(y|x) with steps of the policy, as "
        "Blahut and Arimoto do.",
        "r_dpo: the paper prints e^{−β|y|}, which with its α = 1/β fixes R-DPO's coefficient at 1; here e^{−(a/α)|y|}.",
    ),
)
