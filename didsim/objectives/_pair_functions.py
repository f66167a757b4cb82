"""Losses that do not separate, in forms that tell more about them than one function of the pairs would."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor

from didsim.objectives._links import Link
from didsim.objectives._pairs import Pairs


def keywords(piece: Callable[..., Any]) -> frozenset[str]:
    """The names of a piece's keyword-only arguments."""
    parameters = inspect.signature(piece).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Jumps:
    """A loss whose gradient field jumps, because it looks at the signs of other quantities.

    Attributes:
        switches: ``switches(pairs, **hyperparameters)``, the quantities that are looked at, in nats.
        given: ``given(pairs, *steps, **hyperparameters)``, the loss for steps that are 1 where a switch is positive and
            0 elsewhere. Where a switch is 0 the field takes no value; numbers between 0 and 1 stand for those around.
    """

    switches: Callable[..., tuple[Tensor, ...]]
    given: Callable[..., Tensor]

    @property
    def pair(self) -> Callable[..., Tensor]:
        """The loss itself."""
        return self.with_steps(lambda switch, number: (switch > 0).to(switch.dtype))

    def with_steps(self, step: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
        """Return the loss with other functions in place of the steps, of a switch and its number."""

        @wraps(self.given)
        def pair(pairs: Pairs, **hyperparameters: Any) -> Tensor:
            taken = {name: hyperparameters[name] for name in keywords(self.switches)}
            steps = (step(switch, number) for number, switch in enumerate(self.switches(pairs, **taken)))
            return self.given(pairs, *steps, **hyperparameters)

        return pair


@dataclass(frozen=True)
class Contrast:
    """A loss that is a link of a difference of scores, once statistics of all pairs are known.

    Attributes:
        margin: ``margin(pairs, **hyperparameters)``, made of `pairs.difference` and `pairs.standardise`, of sums and
            differences of such, and of products with numbers: of nothing that mixes both responses of a pair
            otherwise, so that `IndependentPairs` can keep them apart.
        link: the function of the margin, without hyperparameters.
    """

    margin: Callable[..., Any]
    link: Link

    @property
    def pair(self) -> Callable[..., Tensor]:
        """The loss itself."""

        @wraps(self.margin)
        def pair(pairs: Pairs, **hyperparameters: Any) -> Tensor:
            return self.link.value(self.margin(pairs, **hyperparameters))

        return pair
