"""The field of any loss on any class of policies, by automatic differentiation, in the parameters of the engine.

The method defines the field: the gradient of the expected loss with its stopped terms held, or what a gradient rule
makes of two gradients. Its derivative includes the dependence through the stopped terms: `stop_gradient` has no
backward derivative, but a forward one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from didsim.engine import Group, TableWeights, nested_backward, plain_gradient
from didsim.objectives import BoundObjective, stop_gradient
from didsim.stationary._dense import DenseEquations
from didsim.stationary._field import CORNER_TOLERANCE, Corners


@dataclass(frozen=True)
class PlainField:
    """The field of R runs that share one objective and its named options.

    The unknowns [R, D] of a run are the parameters of its policy, and of what is learned beside it.

    Attributes:
        group: the runs.
        weights: the tables of pairs of all streams.
        frozen: True for unknowns that stay as they are, [R, D].
        corners: how jumps are resolved; None takes the values that training takes.
    """

    group: Group
    weights: TableWeights
    frozen: Tensor | None = None
    corners: Corners | None = None

    is_gradient = False
    """Stopped terms and gradient rules make fields that are the gradient of nothing."""

    def noise(self, unknowns: Tensor) -> Tensor:
        """Return 0: the terms that are added up are not known apart, [L, D]."""
        return torch.zeros_like(unknowns)

    def equations(self, unknowns: Tensor) -> DenseEquations:
        """Return Newton's equations of all rows."""
        return DenseEquations.of(self, unknowns)

    @property
    def is_ramped(self) -> bool:
        """Whether ramps stand for jumps."""
        return self.corners is not None

    def take(self, rows: Tensor) -> "PlainField":
        """Return the field of some runs."""
        frozen = None if self.frozen is None else self.frozen[rows]
        return PlainField(self.group.take(rows), self.weights, frozen, self.corners and self.corners.take(rows))

    def gradient(self, unknowns: Tensor) -> Tensor:
        """Return the field, [R, D]."""
        return plain_gradient(self._ramped, unknowns, self.weights, nested_backward)

    def linearise(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the field, [R, D], and its derivative, [R, D, D], stopped terms included."""

        def along(direction: Tensor) -> Tensor:
            return torch.func.jvp(self.gradient, (unknowns,), (direction.expand_as(unknowns),))[1]

        columns = torch.func.vmap(along, chunk_size=CHUNK)(torch.eye(unknowns.shape[1], dtype=unknowns.dtype))
        return self.gradient(unknowns), columns.permute(1, 2, 0)

    def __post_init__(self) -> None:
        # what is computed once and kept must not be computed inside a differentiation, which would own it
        _ = self.group.policies.log_ref, self.group.policies.paths.mask

    @property
    def has_corners(self) -> bool:
        """Whether the field jumps."""
        return self.group.loss.objective.jumps is not None

    def with_corners(self, corners: Corners | None = None) -> "PlainField":
        """Resolve the jumps; without multipliers, in the middle of windows of width 1."""
        if corners is None:
            runs = len(self.group.policies.next_log_ref)
            middle = torch.full((runs, *self._table), 0.5, dtype=self.group.log_ref.dtype)
            corners = Corners((middle,) * NUM_SWITCHES, torch.ones_like(middle[:, :1, :1]))
        return replace(self, corners=corners)

    def resolve(self, unknowns: Tensor) -> tuple[Tensor, ...]:
        """Return the multipliers that the windows around the jumps show: the next ones of the method."""
        steps = (self._steps(switch, number) for number, switch in enumerate(self._switches(unknowns)))
        return tuple(self._by_run(step) for step in steps)

    def at_corners(self, unknowns: Tensor) -> Tensor:
        """Return the pairs at which the field jumps: (run, prompt · K + chosen, rejected), int64 [N, 3]."""
        weighty = self._by_run(self.weights.joint.index_select(0, self.group.streams.index)) > 0
        at = [self._by_run(switch).abs() <= CORNER_TOLERANCE for switch in self._switches(unknowns)]
        pairs = torch.nonzero(weighty & torch.stack(at).any(0))
        return pairs[pairs[:, 1] % self._table[1] != pairs[:, 2]]

    @property
    def _table(self) -> tuple[int, int]:
        """The shape of the table of pairs of a run, [X·K, K]."""
        policies = self.group.policies
        return policies.num_prompts * policies.space.num_responses, policies.space.num_responses

    def _by_run(self, table: Tensor) -> Tensor:
        """Lay out tables of prompts, [R·X, K, K], as tables of runs, [R, X·K, K]."""
        return table.reshape(-1, *self._table)

    def _switches(self, unknowns: Tensor) -> tuple[Tensor, ...]:
        jumps = self.group.loss.objective.jumps
        assert jumps is not None  # its callers ask
        return self.group.loss.bound(jumps.switches)(
            self.weights.pairs(self.group.snapshot(unknowns), self.group.streams)
        )

    def _steps(self, switch: Tensor, number: int) -> Tensor:
        """Return the ramp that stands for the step of a switch, for whose slope training has no eyes."""
        assert self.corners is not None  # asked for where jumps are resolved
        return stop_gradient(self.corners.share(number, self._by_run(switch), 0.0)).reshape(switch.shape)

    @cached_property
    def _ramped(self) -> Group:
        """The group, with ramps in place of the steps of its loss."""
        loss = self.group.loss
        if self.corners is None or loss.objective.jumps is None:
            return self.group
        record = replace(loss.objective, pair=loss.objective.jumps.with_steps(self._steps), jumps=None)
        return replace(self.group, loss=BoundObjective(record, loss.hyperparameters))

    @property
    def scale(self) -> Tensor:
        """The mass a + b of pairs whose responses depend on each unknown, [R, D]."""
        return self._scale

    @cached_property
    def _scale(self) -> Tensor:
        policies, streams = self.group.policies, self.group.streams
        mass = (self.weights.chosen(streams) + self.weights.rejected(streams))[..., 0]
        mass = mass.reshape(len(policies.next_log_ref), policies.num_prompts, -1)
        # log π is the sum of the log-probabilities of decisions: its derivative counts where they occur
        pull = _pulled(policies.log_pi, torch.zeros_like(policies.next_log_ref))
        decisions = pull(mass).flatten(1)
        own = decisions if policies.features is None else self._feature_scale(decisions)
        beside = decisions.unflatten(1, (policies.num_prompts, -1)).sum(1)
        return torch.cat([own, *(beside.repeat(1, size // beside.shape[1]) for _, size in self._companions)], dim=1)

    def _feature_scale(self, decisions: Tensor) -> Tensor:
        """Return Σ mass · |φ − mean φ| for each feature, the mean being that of π_ref in each context."""
        policies = self.group.policies
        assert policies.features is not None  # its caller asks
        features = policies.features.unflatten(1, policies.next_log_ref.shape[1:])
        mean = (policies.next_log_ref.exp().unsqueeze(-1) * features).sum(3, keepdim=True)
        return torch.einsum("gn,gnd->gd", decisions, (features - mean).abs().flatten(1, 3))

    @property
    def shifts(self) -> Tensor:
        """The directions that change no policy: one for each context whose action is chosen freely, [R, D, S]."""
        contexts = self._contexts
        directions = torch.nn.functional.one_hot(contexts.clamp(min=0), max(int(contexts.max()), 0) + 1)
        directions = torch.where(contexts[:, None] >= 0, directions, 0)
        return directions * self.allowed.to(self.scale.dtype).unsqueeze(2)

    @cached_property
    def _contexts(self) -> Tensor:
        """The number of the context in which each unknown is a choice, [D]; −1 for one that is none."""
        policies, actions, parts, first = self.group.policies, self.group.policies.space.num_actions, [], 0
        sizes = [("policy" if policies.features is None else "weights", policies.num_parameters), *self._companions]
        for name, size in sizes:
            free = name in ("policy", "prior")
            parts.append(first + torch.arange(size) // actions if free else torch.full((size,), -1))
            first += size // actions if free else 0
        return torch.cat(parts)

    @property
    def allowed(self) -> Tensor:
        """False for unknowns that stay as they are: what the reference excludes, and what is frozen, [R, D]."""
        return self._allowed

    @cached_property
    def _allowed(self) -> Tensor:
        excluded = self.group.policies.excluded
        own = excluded.flatten(1)
        if self.group.policies.features is not None:
            own = torch.zeros(len(excluded), self.group.policies.num_parameters, dtype=torch.bool)
        everywhere = excluded.all(1).flatten(1)
        beside = [everywhere.repeat(1, size // everywhere.shape[1]) for _, size in self._companions]
        fixed = torch.cat([own, *beside], dim=1)
        return ~fixed if self.frozen is None else ~(fixed | self.frozen)

    def choices(self, unknowns: Tensor) -> Tensor:
        """Return the log-probability of each choice, [R, D]; 0 for an unknown that is none."""
        snapshot = self.group.snapshot(unknowns)
        own = snapshot.next_log_pi.flatten(1)
        if self.group.policies.features is not None:
            own = torch.zeros_like(unknowns[:, : self.group.policies.num_parameters])
        beside = [
            self._normalised(name, values) if name == "prior" else torch.zeros_like(values)
            for name, values in snapshot.companions.items()
        ]
        return torch.cat([own, *beside], dim=1)

    def freeze(self, unknowns: Tensor, dead: Tensor) -> "PlainField":
        """Return the same field, in which dead choices, and contexts that only they lead to, stay as they are."""
        policies = self.group.policies
        if policies.features is not None:
            return replace(self, frozen=dead)
        next_log_pi = self.group.snapshot(unknowns).next_log_pi
        pull = _pulled(policies.log_pi, next_log_pi)
        reached = pull(policies.log_pi(next_log_pi).exp()).sum(-1, keepdim=True)
        unreached = (reached < UNREACHED).expand_as(next_log_pi).flatten(1)
        beside = torch.zeros(len(dead), dead.shape[1] - unreached.shape[1], dtype=torch.bool)
        return replace(self, frozen=dead | torch.cat([unreached, beside], dim=1))

    @property
    def _companions(self) -> list[tuple[str, int]]:
        return self.group.companion_sizes

    def log_pi(self, unknowns: Tensor) -> Tensor:
        """Return log π of each response, and what is learned beside it, [R, X·K + companions]."""
        policies = self.group.policies
        snapshot = self.group.snapshot(unknowns)
        beside = [self._normalised(name, values) for name, values in snapshot.companions.items()]
        return torch.cat([policies.log_pi(snapshot.next_log_pi).flatten(1), *beside], dim=1)

    def _normalised(self, name: str, values: Tensor) -> Tensor:
        if name != "prior":
            return values
        actions = self.group.policies.space.num_actions
        return torch.log_softmax(values.unflatten(1, (-1, actions)), dim=-1).flatten(1)

    def change(self, unknowns: Tensor, step: Tensor) -> Tensor:
        """Return how a small step changes `log_pi`, of the same shape."""
        return torch.func.jvp(self.log_pi, (unknowns,), (step,))[1]


NUM_SWITCHES = 2
"""The most switches that a loss looks at."""

UNREACHED = 1e-10
"""A context of less probability is reached through dead choices only."""

CHUNK = 64
"""Directions that are differentiated at once: it bounds the memory of a Jacobian."""


def _pulled(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map that takes derivatives by the values of a function to derivatives by x."""
    return lambda weights: torch.func.vjp(function, x)[1](weights)[0]
