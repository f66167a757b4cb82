"""The one form that every objective shares, and how hyperparameters are bound to it.

    loss(chosen, rejected) = link( score(chosen) − score(rejected) )
                             + chosen_anchor(chosen) + rejected_anchor(rejected)

`score` and the anchors look at one response, `link` is a scalar function: so the same four pieces give the
loss of a batch, the K × K table of the population loss, and their gradients.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from didsim._checks import Interval, check_choice, check_number, did_you_mean, message
from didsim.objectives._links import Link
from didsim.objectives._pairs import Pairs, Responses

Part = Callable[..., Tensor]
"""``part(responses, **hyperparameters)``: one number for each response."""


def slope(derivative: Callable[..., Tensor | float]) -> Callable[[Part], Part]:
    """Attach to a part its derivative by log π, of the same arguments.

    It spares the engine automatic differentiation, and the tests hold it against that. A part without one works
    all the same.
    """

    def attach(part: Part) -> Part:
        part.slope = derivative  # type: ignore[attr-defined]
        return part

    return attach


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter of an objective.

    Attributes:
        default: its value when none is given.
        domain: the interval of numbers, or the names, that are accepted.
        grid: the values that the paper's search tries.
        meaning: one line on what it does.
    """

    default: float | str
    domain: Interval | tuple[str, ...]
    grid: tuple[float | str, ...]
    meaning: str

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise an error that names the accepted ones."""
        if isinstance(self.domain, tuple):
            return check_choice(name, value, self.domain)
        if isinstance(value, Tensor):
            if value.numel() == 0:
                raise ValueError(message(name, f"at least one number in {self.domain}", "an empty tensor"))
            for extreme in (value.min().item(), value.max().item()):
                check_number(name, extreme, self.domain)
            return value
        return check_number(name, value, self.domain)


@dataclass(frozen=True)
class Objective:
    """A preference objective: a record of the pieces of its loss.

    Attributes:
        name: its name in `OBJECTIVES`.
        title: its name in prose.
        formula: the loss per pair.
        source: where the formula stands.
        parameters: its hyperparameters; exactly those that the pieces take.
        score: the score of a response, or None when the loss consists of anchors alone.
        link: the scalar function of the score margin.
        chosen_anchor: a term of the chosen response alone.
        rejected_anchor: a term of the rejected response alone.
        implicit_reward: the reward that the objective implies; the score unless given.
        needs: what a problem must offer: "reference", "length".
        conventions: where papers and libraries disagree, and which reading is meant here.
    """

    name: str
    title: str
    formula: str
    source: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    score: Part | None = None
    link: Link | None = None
    chosen_anchor: Part | None = None
    rejected_anchor: Part | None = None
    implicit_reward: Part | None = None
    needs: frozenset[str] = frozenset()
    conventions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.score is None) != (self.link is None):
            raise ValueError(message(f"score and link of {self.name}", "given together", "one of them"))
        taken = frozenset().union(*(_keywords(piece) for piece in self.pieces()))
        if taken != frozenset(self.parameters):
            odd = sorted(taken ^ frozenset(self.parameters))
            hint = f"Its pieces take {sorted(taken)}; look at {odd}."
            raise ValueError(
                message(f"parameters of {self.name}", "those of its pieces", sorted(self.parameters), hint)
            )

    def pieces(self) -> list[Callable[..., Tensor]]:
        """The functions that make up the loss."""
        link = (self.link.value, self.link.slope) if self.link else ()
        parts = (self.score, self.chosen_anchor, self.rejected_anchor)
        slopes = (getattr(part, "slope", None) for part in parts)
        return [piece for piece in (*parts, *link, *slopes) if piece is not None]

    def bind(self, **hyperparameters: Any) -> "BoundObjective":
        """Bind hyperparameters: numbers, names, or tensors [R, 1, 1] that hold one value per run.

        Raises:
            ValueError: if one is outside its domain, or is not a hyperparameter of this objective.
            TypeError: if one is not a number.
        """
        for name in hyperparameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                hint = did_you_mean(name, self.parameters)
                raise ValueError(message(f"hyperparameter of {self.name}", f"one of: {known}", name, hint))
        values = {
            name: parameter.check(name, hyperparameters.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }
        return BoundObjective(self, values)


@dataclass(frozen=True)
class BoundObjective:
    """An objective with its hyperparameters: a function from pairs to losses, ``loss(pairs)``."""

    objective: Objective
    hyperparameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The objective's name."""
        return self.objective.name

    @cached_property
    def score(self) -> Part:
        """The score of each response; 0 when the loss consists of anchors alone."""
        return self._bound(self.objective.score)

    @cached_property
    def implicit_reward(self) -> Part:
        """The reward that the objective implies for each response."""
        return self._bound(self.objective.implicit_reward or self.objective.score)

    @cached_property
    def link(self) -> Part:
        """The link's value at each score margin; 0 when there is none."""
        return self._bound(self.objective.link and self.objective.link.value)

    @cached_property
    def slope(self) -> Part:
        """The link's slope at each score margin; 0 when there is none."""
        return self._bound(self.objective.link and self.objective.link.slope)

    @cached_property
    def chosen_anchor(self) -> Part:
        """The term of each chosen response."""
        return self._bound(self.objective.chosen_anchor)

    @cached_property
    def rejected_anchor(self) -> Part:
        """The term of each rejected response."""
        return self._bound(self.objective.rejected_anchor)

    def __call__(self, pairs: Pairs) -> Tensor:
        """Return one loss per pair, in nats, of the pairs' shape.

        Raises:
            ValueError: if the objective needs a reference or lengths that the pairs do not have.
        """
        margin = self.score(pairs.chosen) - self.score(pairs.rejected)
        anchors = self.chosen_anchor(pairs.chosen) + self.rejected_anchor(pairs.rejected)
        return self.link(margin) + anchors

    def __repr__(self) -> str:
        values = "".join(f", {name}={value!r}" for name, value in self.hyperparameters.items())
        return f"objective({self.name!r}{values})"

    def pull_back(self, part: Part, responses: Responses, weights: Tensor) -> Tensor:
        """Return Σ w · d part / d log π for each response: by the part's slope, or by automatic differentiation."""
        derivative = getattr(part, "slope", None)
        if derivative is not None:
            return self._bound(derivative)(responses) * weights
        with torch.enable_grad():
            leaf = responses.log_pi.detach().requires_grad_()
            values = self._bound(part)(replace(responses, log_pi=leaf))
        return torch.autograd.grad(values, leaf, weights)[0]

    def _bound(self, piece: Part | None) -> Part:
        """Bind the hyperparameters that a piece takes; a piece that is not there is 0."""
        if piece is None:
            return _zero
        if piece not in self._partials:
            taken = {name: self.hyperparameters[name] for name in _keywords(piece)}
            self._partials[piece] = partial(piece, **taken)
        return self._partials[piece]

    @cached_property
    def _partials(self) -> dict[Part, Part]:
        return {}


def _zero(x: Responses | Tensor) -> Tensor:
    return torch.zeros_like(x.log_pi if isinstance(x, Responses) else x)


def stack(losses: Sequence[BoundObjective], dtype: torch.dtype) -> BoundObjective:
    """Join bindings of one objective into one whose numbers are tensors [R, 1, 1], one entry per run.

    Raises:
        ValueError: if they differ in the objective or in an option that is not a number.
    """
    first = losses[0]
    if any(group_key(loss) != group_key(first) for loss in losses):
        raise ValueError(message("losses", "of one objective with the same named options", losses))
    stacked = {
        name: value
        if isinstance(value, str)
        else _column(name, [float(loss.hyperparameters[name]) for loss in losses], dtype)
        for name, value in first.hyperparameters.items()
    }
    return BoundObjective(first.objective, stacked)


def _column(name: str, values: list[float], dtype: torch.dtype) -> Tensor:
    """Return one value per run, [R, 1, 1]; refuse what the dtype would turn into 0 or infinity."""
    column = torch.tensor(values, dtype=dtype)
    for value, held in zip(values, column.tolist(), strict=True):
        if math.isinf(held) or (value != 0.0 and held == 0.0):
            raise ValueError(message(name, f"a number that {dtype} can hold", value, 'Use dtype="float64".'))
    return column[:, None, None]


def group_key(loss: BoundObjective) -> tuple[str, ...]:
    """Return what two losses must share to be evaluated in one call: the objective and its named options."""
    options = (value for value in loss.hyperparameters.values() if isinstance(value, str))
    return (loss.name, str(id(loss.objective)), *options)  # a user's record may bear a known name


def _keywords(piece: Callable[..., Tensor]) -> frozenset[str]:
    """The names of a piece's keyword-only arguments."""
    parameters = inspect.signature(piece).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


__all__ = ["BoundObjective", "Objective", "Parameter", "Part", "group_key", "slope", "stack"]
