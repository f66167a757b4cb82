"""The one form that every objective shares, and how hyperparameters are bound to it.

    loss(chosen, rejected) = link( score(chosen) − rejected_score(rejected) )
                             + chosen_anchor(chosen) + rejected_anchor(rejected)

Scores and anchors look at one response, `link` is a scalar function: so the same pieces give the loss of a batch, the
K × K table of the population loss, and their gradients. The few objectives that do not separate, because their margin
depends on both responses or on the whole batch, carry one function of the pairs instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from didsim._checks import Interval, check_choice, check_number, did_you_mean, message
from didsim.objectives._links import Link
from didsim.objectives._pair_functions import Contrast, Jumps, keywords
from didsim.objectives._pairs import Pairs, Responses

Part = Callable[..., Tensor]
"""``part(responses, **hyperparameters)``: one number for each response."""

BOOLEAN = (False, True)
"""The domain of an option that is either on or off."""

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "reference": "log π_ref of both responses",
        "length": "the number of tokens of both responses",
        "tokens": "log π and log π_ref of each token",
        "vocabulary": "sums over all tokens that could have been chosen at each position",
        "marginal": "log π(y) without the prompt",
        "mean_kl": "KL(π ‖ π_ref) averaged over prompts",
        "batch": "statistics of the whole batch of pairs, or of the population",
        "prior": "a prior ζ that is learned beside the policy",
        "given_prior": "a fixed prior ζ that comes with the problem",
        "masks": "token masks that are learned beside the policy",
    }
)
"""What an objective may look at beyond log π of both responses."""

RESPONSE_NEEDS = frozenset({"reference", "length"})
"""The needs that concern one response as a whole: not its tokens, other prompts, or other responses."""


def slope(
    derivative: Callable[..., Tensor | float], corner: Callable[[Responses], Tensor] | None = None
) -> Callable[[Part], Part]:
    """Attach to a part its derivative by log π, of the same arguments.

    It spares the engine automatic differentiation, and the tests hold it against that. A part without one works
    all the same.

    Args:
        derivative: the slope of the part.
        corner: the log π at which the slope jumps, if it does.
    """

    def attach(part: Part) -> Part:
        part.slope = derivative  # type: ignore[attr-defined]
        part.corner = corner  # type: ignore[attr-defined]
        return part

    return attach


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter of an objective.

    Attributes:
        default: its value when none is given.
        domain: the interval of numbers, or the names or truth values, that are accepted.
        grid: the values that the paper's search tries.
        meaning: one line on what it does.
        when: an option and those of its values under which this hyperparameter is read, or None if it always is.
    """

    default: float | str | bool
    domain: Interval | tuple[str, ...] | tuple[bool, ...]
    grid: tuple[float | str | bool, ...]
    meaning: str
    when: tuple[str, tuple[str | bool, ...]] | None = None

    @property
    def is_option(self) -> bool:
        """Whether it is a name or a truth value, and not a number."""
        return not isinstance(self.domain, Interval)

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise an error that names the accepted ones."""
        if self.domain == BOOLEAN:
            if not isinstance(value, bool):
                raise TypeError(message(name, "True or False", value))
            return value
        if isinstance(self.domain, tuple):
            return check_choice(name, value, [str(choice) for choice in self.domain])
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
        rejected_score: the score of a rejected response, where it differs from that of a chosen one.
        link: the scalar function of the score margin.
        chosen_anchor: a term of the chosen response alone.
        rejected_anchor: a term of the rejected response alone.
        pair: ``pair(pairs, **hyperparameters)``, the whole loss, in place of all these when it does not separate.
        jumps: for a pair function whose field jumps: where and how.
        contrast: for a pair function that is a link of a difference of scores, given statistics of all pairs: how.
        gradient_rule: for a method that is a rule for gradients: a function of the gradients of the mean negative
            log-likelihood of chosen and of rejected responses, [..., D] each; the loss is then what it descends.
        implicit_reward: the reward that the objective implies; the score unless given.
        needs: what pairs must offer, of `NEEDS`.
        option_needs: what they must offer besides when an option has a value: (option, value) to needs.
        conventions: where papers and libraries disagree, and which reading is meant here.
    """

    name: str
    title: str
    formula: str
    source: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    score: Part | None = None
    rejected_score: Part | None = None
    link: Link | None = None
    chosen_anchor: Part | None = None
    rejected_anchor: Part | None = None
    pair: Callable[..., Tensor] | None = None
    jumps: Jumps | None = None
    contrast: Contrast | None = None
    gradient_rule: Callable[[Tensor, Tensor], Tensor] | None = None
    implicit_reward: Part | None = None
    needs: frozenset[str] = frozenset()
    option_needs: Mapping[tuple[str, str | bool], frozenset[str]] = field(default_factory=dict)
    conventions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.score is None) != (self.link is None):
            raise ValueError(message(f"score and link of {self.name}", "given together", "one of them"))
        if self.pair is not None and (self.score or self.chosen_anchor or self.rejected_anchor):
            raise ValueError(message(f"pair of {self.name}", "given in place of score and anchors", "both"))
        taken = frozenset().union(*(keywords(piece) for piece in self.pieces()))
        unknown = frozenset().union(self.needs, *self.option_needs.values()) - frozenset(NEEDS)
        if unknown:
            raise ValueError(message(f"needs of {self.name}", f"among {', '.join(NEEDS)}", sorted(unknown)))
        if taken != frozenset(self.parameters):
            odd = sorted(taken ^ frozenset(self.parameters))
            hint = f"Its pieces take {sorted(taken)}; look at {odd}."
            raise ValueError(
                message(f"parameters of {self.name}", "those of its pieces", sorted(self.parameters), hint)
            )

    def pieces(self) -> list[Callable[..., Tensor]]:
        """The functions that make up the loss."""
        link = (self.link.value, self.link.slope) if self.link else ()
        parts = (self.score, self.rejected_score, self.chosen_anchor, self.rejected_anchor, self.pair)
        slopes = (getattr(part, "slope", None) for part in parts)
        return [piece for piece in (*parts, *link, *slopes) if piece is not None]

    @property
    def separates(self) -> bool:
        """Whether the loss is a link of a score margin plus anchors of single responses."""
        return self.pair is None

    @property
    def margin_link(self) -> Link | None:
        """The link of the margin, also where scores depend on statistics of all pairs; None if there is none."""
        return self.link if self.contrast is None else self.contrast.link

    def active(self, options: Mapping[str, Any]) -> list[str]:
        """Return the names of the hyperparameters that are read under these options, defaults for the others."""
        names = []
        for name, parameter in self.parameters.items():
            if parameter.when is None:
                names.append(name)
                continue
            option, values = parameter.when
            if options.get(option, self.parameters[option].default) in values:
                names.append(name)
        return names

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the values that the search grids name, of hyperparameters that are read."""
        points = product(*(parameter.grid for parameter in self.parameters.values()))
        combinations = (dict(zip(self.parameters, point, strict=True)) for point in points)
        read = ({name: point[name] for name in self.active(point)} for point in combinations)
        return list({tuple(point.items()): point for point in read}.values())

    def bind(self, **hyperparameters: Any) -> "BoundObjective":
        """Bind hyperparameters: numbers, names, or tensors [R, 1, 1] that hold one value per run.

        Raises:
            ValueError: if one is outside its domain, or is not a hyperparameter of this objective, or is one that
                the options given leave unread.
            TypeError: if one is not a number.
        """
        for name in hyperparameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                hint = did_you_mean(name, self.parameters)
                raise ValueError(message(f"hyperparameter of {self.name}", f"one of: {known}", name, hint))
        read = self.active(hyperparameters)
        for name in hyperparameters:
            if name not in read:
                option, values = self.parameters[name].when or ("", ())
                accepted = f"given only with {option}={' or '.join(map(repr, values))}"
                got = hyperparameters.get(option, self.parameters[option].default)
                raise ValueError(message(f"{name} of {self.name}", accepted, f"{option}={got}", "It would be unused."))
        values = {
            name: self.parameters[name].check(name, hyperparameters.get(name, self.parameters[name].default))
            for name in read
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

    @property
    def options(self) -> dict[str, Any]:
        """The hyperparameters that are names or truth values."""
        return {name: self.hyperparameters[name] for name in _options(self)}

    @cached_property
    def needs(self) -> frozenset[str]:
        """What pairs must offer under the options that were chosen."""
        chosen = self.options.items()
        return self.objective.needs.union(*(self.objective.option_needs.get(item, frozenset()) for item in chosen))

    @property
    def sees_responses_only(self) -> bool:
        """Whether the loss is made of log π, log π_ref and length of single responses, and of nothing else."""
        return self.objective.separates and self.objective.gradient_rule is None and self.needs <= RESPONSE_NEEDS

    @cached_property
    def score(self) -> Part:
        """The score of each chosen response; 0 when the loss consists of anchors alone."""
        return self.bound(self.objective.score)

    @cached_property
    def rejected_score(self) -> Part:
        """The score of each rejected response."""
        return self.bound(self.objective.rejected_score or self.objective.score)

    @cached_property
    def implicit_reward(self) -> Part:
        """The reward that the objective implies for each response."""
        return self.bound(self.objective.implicit_reward or self.objective.score)

    @cached_property
    def link(self) -> Part:
        """The link's value at each score margin; 0 when there is none."""
        return self.bound(self.objective.margin_link and self.objective.margin_link.value)

    @cached_property
    def slope(self) -> Part:
        """The link's slope at each score margin; 0 when there is none."""
        return self.bound(self.objective.margin_link and self.objective.margin_link.slope)

    @cached_property
    def chosen_anchor(self) -> Part:
        """The term of each chosen response."""
        return self.bound(self.objective.chosen_anchor)

    @cached_property
    def rejected_anchor(self) -> Part:
        """The term of each rejected response."""
        return self.bound(self.objective.rejected_anchor)

    def __call__(self, pairs: Pairs) -> Tensor:
        """Return one loss per pair, in nats, of the pairs' shape.

        Raises:
            ValueError: if the objective needs a quantity that the pairs do not have.
        """
        if self.objective.pair is not None:
            return self.bound(self.objective.pair)(pairs)
        margin = self.score(pairs.chosen) - self.rejected_score(pairs.rejected)
        anchors = self.chosen_anchor(pairs.chosen) + self.rejected_anchor(pairs.rejected)
        return self.link(margin) + anchors

    def __repr__(self) -> str:
        values = "".join(f", {name}={value!r}" for name, value in self.hyperparameters.items())
        return f"objective({self.name!r}{values})"

    def take(self, rows: Tensor) -> "BoundObjective":
        """Return some of the runs of a stacked objective, whose numbers are tensors [R, 1, 1]."""
        taken = {name: x[rows] if isinstance(x, Tensor) else x for name, x in self.hyperparameters.items()}
        return BoundObjective(self.objective, taken)

    @property
    def link_corner(self) -> Any:
        """The margin at which the link's slope jumps upwards, or None."""
        corner = self.objective.margin_link and self.objective.margin_link.corner
        return None if corner is None else self.bound(corner)()

    def slope_of(self, part: Part, responses: Responses) -> Callable[[Tensor], Tensor]:
        """Return d part / d log π as a function of log π: the part's slope, or its automatic derivative."""
        derivative = getattr(part, "slope", None)

        def slope(log_pi: Tensor) -> Tensor:
            if derivative is not None:
                return self.bound(derivative)(replace(responses, log_pi=log_pi)) + torch.zeros_like(log_pi)
            values, *pull = torch.func.vjp(lambda x: self.bound(part)(replace(responses, log_pi=x)), log_pi)
            return pull[0](torch.ones_like(values))[0]

        return slope

    def pull_back(self, part: Part, responses: Responses, weights: Tensor) -> Tensor:
        """Return Σ w · d part / d log π for each response."""
        derivative = getattr(part, "slope", None)
        if derivative is not None:  # not yet broadcast to all responses
            return self.bound(derivative)(responses) * weights
        return self.slope_of(part, responses)(responses.log_pi) * weights

    def bound(self, piece: Callable[..., Any] | None) -> Callable[..., Any]:
        """Bind the hyperparameters that a piece takes; a piece that is not there is 0."""
        if piece is None:
            return _zero
        if piece not in self._partials:
            # one that the options leave unread keeps its default, which the piece ignores
            taken = {
                name: self.hyperparameters.get(name, self.objective.parameters[name].default)
                for name in keywords(piece)
            }
            self._partials[piece] = partial(piece, **taken)
        return self._partials[piece]

    @cached_property
    def _partials(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return {}


def _zero(x: Responses | Tensor) -> Tensor:
    return torch.zeros_like(x.log_pi if isinstance(x, Responses) else x)


def _options(loss: BoundObjective) -> list[str]:
    return [name for name in loss.hyperparameters if loss.objective.parameters[name].is_option]


__all__ = ["BOOLEAN", "NEEDS", "BoundObjective", "Objective", "Parameter", "Part", "slope"]
