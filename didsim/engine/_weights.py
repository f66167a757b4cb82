"""The weights of pairs at one step: a K × K table, or a list of drawn pairs. Both give the same sums.

Runs share weights: `Weights` hold one table or list per *stream* (a problem with a seed), and `streams` [L] says
which one each row of a batch sees. With tables a row is one prompt of one run, and each prompt of a stream has its
table; with lists a row is a run, and a response to a prompt x has the number x·K + y. K stands for the responses of
one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from didsim._arrays import IntArray
from didsim.engine._draws import count_table
from didsim.engine._policies import Snapshot
from didsim.objectives import BoundObjective, Pairs
from didsim.torch_bridge import to_tensor


@dataclass(frozen=True)
class Streams:
    """Which stream each row of a batch sees.

    Attributes:
        index: the number of the stream, int64 [L].
        repeats: n, when the rows see stream 0 n times, then stream 1 n times, and so on through all of them; or None.
    """

    index: Tensor
    repeats: int | None

    @classmethod
    def of(cls, numbers: Sequence[int], count: int) -> "Streams":
        """Look for the regular pattern among so many streams."""
        repeats = len(numbers) // count
        regular = list(numbers) == [number for number in range(count) for _ in range(repeats)]
        return cls(torch.tensor(numbers, dtype=torch.int64), repeats if regular else None)

    def weigh_(self, values: Tensor, tables: Tensor) -> Tensor:
        """Multiply each row's values [L, K, K], in place, by the table [P, K, K] of its stream."""
        if self.repeats is None:
            return values.mul_(tables.index_select(0, self.index))
        # the same products, without a copy of the table for each row
        values.view(-1, self.repeats, *tables.shape[1:]).mul_(tables.unsqueeze(1))
        return values


class Weights(Protocol):
    """Non-negative weights of pairs that sum to 1 for each stream."""

    def chosen(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a chosen response, [L, K, 1]."""
        ...

    def rejected(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a rejected response, [L, K, 1]."""
        ...

    def slope_sums(
        self, loss: BoundObjective, chosen: Tensor, rejected: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Return Σ_j w_ij·link′ for each chosen response i and Σ_i w_ij·link′ for each rejected j, [L, K, 1] each.

        They are the derivatives of Σ w·link(chosen_i − rejected_j) by chosen_i, and, with a minus, by rejected_j.
        """
        ...

    def pairs(self, snapshot: Snapshot, streams: Streams) -> Pairs:
        """Lay out the pairs of each run with their weights, for the plain evaluation of a loss."""
        ...


@dataclass(frozen=True)
class TableWeights:
    """Weights as tables, P for all prompts of all streams: joint [P, K, K], and its margins [P, K, 1]."""

    joint: Tensor
    chosen_margin: Tensor
    rejected_margin: Tensor

    @classmethod
    def from_joint(cls, joint: Tensor) -> "TableWeights":
        """Take a table whose axes −2 and −1 are the classes of chosen and rejected responses."""
        return cls(joint, joint.sum(-1).unsqueeze(-1), joint.sum(-2).unsqueeze(-1))

    @classmethod
    def from_draws(
        cls,
        chosen: Sequence[IntArray],
        rejected: Sequence[IntArray],
        num_prompts: int,
        num_classes: int,
        dtype: torch.dtype,
    ) -> "TableWeights":
        """Count drawn pairs, one array [S, B] per stream, into tables [S, P, K, K] that sum to 1 for each stream."""
        tables = [count_table(*numbers, num_prompts, num_classes) for numbers in zip(chosen, rejected, strict=True)]
        joint = torch.cat([to_tensor(table, dtype) for table in tables], dim=1)
        return cls.from_joint(joint.div_(chosen[0].shape[1]))

    def at(self, step: int) -> "TableWeights":
        """Return the tables of one step of a block [S, P, K, K]."""
        return self._by_step[step]

    @cached_property
    def _by_step(self) -> "list[TableWeights]":
        parts = (self.joint.unbind(), self.chosen_margin.unbind(), self.rejected_margin.unbind())
        return [TableWeights(*tables) for tables in zip(*parts, strict=True)]

    def chosen(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a chosen response, [L, K, 1]."""
        return self.chosen_margin.index_select(0, streams.index)

    def rejected(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a rejected response, [L, K, 1]."""
        return self.rejected_margin.index_select(0, streams.index)

    def slope_sums(
        self, loss: BoundObjective, chosen: Tensor, rejected: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Sum link slopes over rows and columns of the table."""
        slopes = streams.weigh_(loss.slope(chosen - rejected.mT), self.joint)
        return slopes.sum(2, keepdim=True), slopes.sum(1).unsqueeze(-1)

    def pairs(self, snapshot: Snapshot, streams: Streams) -> Pairs:
        """Lay chosen responses along rows [L, K, 1] and rejected ones along columns [L, 1, K]."""
        every = snapshot.every_response()
        return Pairs(
            every.map(lambda part: part.unsqueeze(2)),
            every.map(lambda part: part.unsqueeze(1)),
            self.joint.index_select(0, streams.index),
            snapshot.policies.num_prompts,
        )


@dataclass(frozen=True)
class DrawnWeights:
    """Weights as lists of equally weighted pairs: the classes of y_w and y_l, int64 [P, B]."""

    chosen_classes: Tensor
    rejected_classes: Tensor
    num_classes: int
    dtype: torch.dtype

    @classmethod
    def from_draws(
        cls,
        chosen: Sequence[IntArray],
        rejected: Sequence[IntArray],
        num_prompts: int,
        num_classes: int,
        dtype: torch.dtype,
    ) -> "DrawnWeights":
        """Take drawn pairs, one array [S, B] per stream, as lists [S, P, B]."""
        lists = [torch.stack([to_tensor(classes) for classes in side], dim=1) for side in (chosen, rejected)]
        return cls(lists[0], lists[1], num_prompts * num_classes, dtype)

    def at(self, step: int) -> "DrawnWeights":
        """Return the pairs of one step of a block [S, P, B]."""
        return DrawnWeights(self.chosen_classes[step], self.rejected_classes[step], self.num_classes, self.dtype)

    def chosen(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a chosen response, [L, K, 1]."""
        return self._chosen_margin.index_select(0, streams.index)

    def rejected(self, streams: Streams) -> Tensor:
        """Return the weight of each class as a rejected response, [L, K, 1]."""
        return self._rejected_margin.index_select(0, streams.index)

    def slope_sums(
        self, loss: BoundObjective, chosen: Tensor, rejected: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Gather the scores of the pairs, and scatter the slopes back to their classes."""
        winners, losers = self._gathered(streams)
        slopes = loss.slope(chosen.gather(1, winners) - rejected.gather(1, losers)).div_(winners.shape[1])
        by_chosen = torch.zeros_like(chosen).scatter_add_(1, winners, slopes)
        return by_chosen, torch.zeros_like(rejected).scatter_add_(1, losers, slopes)

    def pairs(self, snapshot: Snapshot, streams: Streams) -> Pairs:
        """Take both responses of each pair, [L, B, 1]."""
        sides = (
            self.chosen_classes.index_select(0, streams.index),
            self.rejected_classes.index_select(0, streams.index),
        )
        chosen, rejected = (snapshot.drawn_responses(side).map(lambda part: part.unsqueeze(2)) for side in sides)
        weights = torch.full((*sides[0].shape, 1), 1.0 / sides[0].shape[1], dtype=self.dtype)
        return Pairs(chosen, rejected, weights, 1)

    def _gathered(self, streams: Streams) -> tuple[Tensor, Tensor]:
        winners = self.chosen_classes.index_select(0, streams.index).unsqueeze(-1)
        losers = self.rejected_classes.index_select(0, streams.index).unsqueeze(-1)
        return winners, losers

    @cached_property
    def _chosen_margin(self) -> Tensor:
        return self._count(self.chosen_classes)

    @cached_property
    def _rejected_margin(self) -> Tensor:
        return self._count(self.rejected_classes)

    def _count(self, classes: Tensor) -> Tensor:
        weight = torch.full(classes.shape, 1.0 / classes.shape[1], dtype=self.dtype)
        empty = torch.zeros(len(classes), self.num_classes, dtype=self.dtype)
        return empty.scatter_add_(1, classes, weight).unsqueeze(-1)
