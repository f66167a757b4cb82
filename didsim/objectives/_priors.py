"""Priors ζ of MI-DPO: what the policy's log-probability is measured against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from didsim.objectives._pairs import Responses


@dataclass(frozen=True)
class Prior:
    """A prior ζ(y), up to a constant factor, which cancels between chosen and rejected.

    Attributes:
        name: its name in `PRIORS`.
        formula: ζ in the paper's notation.
        log_zeta: log ζ of a response, in nats. No gradient is stopped: where ζ contains π, gradient
            flows through it, as the paper's recoveries assume.
        recovers: the loss that MI-DPO becomes under this prior.
    """

    name: str
    formula: str
    log_zeta: Callable[[Responses], Tensor]
    recovers: str


PRIORS: Mapping[str, Prior] = MappingProxyType(
    {
        prior.name: prior
        for prior in (
            Prior("reference", "π_ref(y|x)", lambda y: y.reference, "DPO"),
            Prior("uniform", "1/|Y|", lambda y: torch.zeros_like(y.log_pi), "the reward r = α log π"),
        )
    }
)
"""Every registered prior, by name."""
