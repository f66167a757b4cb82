"""Priors ζ of MI-DPO: what the policy's log-probability is measured against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from didsim.objectives._pairs import Responses
from didsim.objectives._token_level import (
    forward_kl,
    masked_forward_kl,
    masked_log_ratio,
    weighted_log_ratio,
    weighted_reverse_kl,
)


@dataclass(frozen=True)
class Prior:
    """A prior ζ(y), up to a constant factor, which cancels between chosen and rejected.

    Attributes:
        name: its name in `PRIORS`.
        formula: ζ in the paper's notation.
        log_zeta: log ζ of a chosen response in nats, ``log_zeta(responses, **values)``, where the values are those of
            the hyperparameters α, η, γ, a, c of `mi_dpo`. Where ζ contains π, gradient flows through it, as the
            paper's recoveries assume; the option stop_gradient of `mi_dpo` stops it.
        recovers: the loss that MI-DPO becomes under this prior.
        rejected_log_zeta: log ζ of a rejected response, where it differs.
        needs: what pairs must offer.
    """

    name: str
    formula: str
    log_zeta: Callable[..., Tensor]
    recovers: str
    rejected_log_zeta: Callable[..., Tensor] | None = None
    needs: frozenset[str] = frozenset()


REFERENCE, LENGTH = frozenset({"reference"}), frozenset({"length"})
VOCABULARY = frozenset({"reference", "tokens", "vocabulary"})


def _simpo(sign: float) -> Callable[..., Tensor]:
    """Return log of π^(1−1/|y|) e^{±γ/(2α)}."""
    return lambda y, *, alpha, gamma, **_: y.log_pi - y.mean_log_pi + sign * 0.5 * gamma / alpha


def _beside(y: Responses, **_: object) -> Tensor:
    """Return log ζ of a prior that stands beside the policy, learned or given."""
    return y.prior


PRIORS: Mapping[str, Prior] = MappingProxyType(
    {
        prior.name: prior
        for prior in (
            Prior("reference", "π_ref(y|x)", lambda y, **_: y.reference, "DPO", needs=REFERENCE),
            Prior(
                "previous",
                "π^{(t−1)}(y|x), the reference of the current round (didsim.dice)",
                lambda y, **_: y.reference,
                "DICE",
                needs=REFERENCE,
            ),
            Prior("uniform", "1/|Y|", lambda y, **_: torch.zeros_like(y.log_pi), "the reward r = α log π"),
            Prior(
                "centropy",
                "π_ref(y|x) π(y|x)^{1−η}",
                lambda y, *, eta, **_: y.reference + (1.0 - eta) * y.log_pi,
                "cEntropy (h_dpo)",
                needs=REFERENCE,
            ),
            Prior(
                "simpo",
                "π(y|x)^{1−1/|y|} e^{±γ/(2α)}, + if chosen",
                _simpo(1.0),
                "SimPO",
                rejected_log_zeta=_simpo(-1.0),
                needs=LENGTH,
            ),
            Prior(
                "r_dpo",
                "π_ref(y|x) e^{−(a/α)|y|}",
                lambda y, *, alpha, length_penalty, **_: y.reference - length_penalty / alpha * y.num_tokens,
                "R-DPO",
                needs=REFERENCE | LENGTH,
            ),
            Prior(
                "tdpo",
                "π_ref(y|x) exp(−Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t)))",
                lambda y, **_: y.reference - forward_kl(y),
                "TDPO1",
                needs=VOCABULARY,
            ),
            Prior(
                "tis_dpo",
                "π(y|x) Π_t (π_ref/π)^w exp(c Σ_t w KL(π(·|y_<t) ‖ π_ref(·|y_<t)))",
                lambda y, *, kl_weight, **_: y.log_pi - weighted_log_ratio(y) + kl_weight * weighted_reverse_kl(y),
                "TIS-DPO",
                needs=VOCABULARY,
            ),
            Prior(
                "sparse_po",
                "π(y|x) Π_t (π_ref/π)^{μ₁} exp(−Σ_t μ₂ KL(π_ref(·|y_<t) ‖ π(·|y_<t)))",
                lambda y, **_: y.log_pi - masked_log_ratio(y) - masked_forward_kl(y),
                "SparsePO",
                needs=VOCABULARY,
            ),
            Prior(
                "marginal",
                "Σ_x p(x) π(y|x)",
                lambda y, **_: y.marginal,
                "the mutual-information penalty",
                needs=frozenset({"marginal"}),
            ),
            Prior(
                "learned", "softmax(φ), optimised beside π", _beside, "MI-DPO of Section 5", needs=frozenset({"prior"})
            ),
            Prior("given", "ζ(y), fixed with the problem", _beside, "-", needs=frozenset({"given_prior"})),
        )
    }
)
"""Every registered prior, by name."""
