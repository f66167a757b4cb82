"""Spaces of responses: classes of a categorical policy, or sequences over a small vocabulary.

Every response is a list of decisions. A decision is made in a *context* and is one of A *actions*; a policy is a
distribution over the actions of each context, so that π(y) is the product over the decisions of y. A categorical
response is a single decision in the only context; a sequence decides in each prefix which token comes next, or that
it ends.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from didsim._arrays import ArrayLike, FloatArray, IntArray
from didsim._checks import check_integer, message
from didsim._numerics import log_softmax, logsumexp
from didsim.policy import MAX_CLASSES, Policy

MAX_LENGTH = 64
"""The longest sequences that are accepted; V = 1 already makes 65 responses of them."""


class Space(ABC):
    """A set of K responses, each a list of at most T decisions in N contexts with A actions."""

    num_responses: int
    num_contexts: int
    num_actions: int
    max_length: int

    @property
    @abstractmethod
    def lengths(self) -> IntArray:
        """The number of decisions of each response, [K]."""

    @property
    @abstractmethod
    def contexts(self) -> IntArray:
        """The context of each decision, [K, T]; 0 behind the end of a response."""

    @property
    @abstractmethod
    def actions(self) -> IntArray:
        """The action of each decision, [K, T]; 0 behind the end of a response."""

    @abstractmethod
    def log_probs(self, next_log_probs: Any, concatenate: Callable[..., Any] = np.concatenate) -> Any:
        """Add up the log-probabilities of decisions to those of responses.

        Args:
            next_log_probs: log π(action|context), [..., N, A].
            concatenate: `numpy.concatenate`, or `torch.concatenate` for tensors.

        Returns:
            log π(y), [..., K].
        """

    @abstractmethod
    def next_log_probs(self, log_probs: ArrayLike) -> FloatArray:
        """Return log π(action|context), [..., N, A], of a policy over responses, log π [..., K].

        A context that the policy never reaches gets the uniform distribution.
        """

    def policy(self, logits: ArrayLike) -> Policy:
        """Return the policy over responses, [..., K], whose contexts have these logits, [..., N, A].

        Raises:
            ValueError: if the last two axes are not [N, A].
        """
        scores = np.asarray(logits, dtype=np.float64)
        if scores.shape[-2:] != (self.num_contexts, self.num_actions):
            raise ValueError(
                message("the shape of logits", f"[..., {self.num_contexts}, {self.num_actions}]", scores.shape)
            )
        return Policy.from_log_probs(self.log_probs(Policy.from_logits(scores).log_probs))


@dataclass(frozen=True)
class Categorical(Space):
    """K classes: every response is one decision.

    >>> Categorical(3).lengths
    array([1, 1, 1])
    """

    num_responses: int

    def __post_init__(self) -> None:
        check_integer("num_classes", self.num_responses, 1, MAX_CLASSES)

    @property
    def num_contexts(self) -> int:  # type: ignore[override]
        """The only context N = 1."""
        return 1

    @property
    def num_actions(self) -> int:  # type: ignore[override]
        """The number of classes K."""
        return self.num_responses

    @property
    def max_length(self) -> int:  # type: ignore[override]
        """One decision, T = 1."""
        return 1

    @cached_property
    def lengths(self) -> IntArray:  # type: ignore[override]
        """Ones, [K]."""
        return np.ones(self.num_responses, dtype=np.int64)

    @property
    def contexts(self) -> IntArray:
        """Zeros, [K, 1]."""
        return np.zeros((self.num_responses, 1), dtype=np.int64)

    @property
    def actions(self) -> IntArray:
        """The classes, [K, 1]."""
        return np.arange(self.num_responses)[:, None]

    def log_probs(self, next_log_probs: Any, concatenate: Callable[..., Any] = np.concatenate) -> Any:
        """Drop the axis of the only context."""
        return next_log_probs[..., 0, :]

    def next_log_probs(self, log_probs: ArrayLike) -> FloatArray:
        """Add the axis of the only context."""
        return np.asarray(log_probs, dtype=np.float64)[..., None, :]

    def __str__(self) -> str:
        return f"{self.num_responses} classes"


@dataclass(frozen=True)
class Sequences(Space):
    """All sequences of at most T tokens over a vocabulary of V, the empty one included.

    A policy decides in each prefix which of the V tokens follows, or, as action V, that the sequence ends; at T tokens
    it is cut. The length |y| counts decisions: the end counts, a cut does not, so that the empty sequence has length 1.
    Responses are numbered by their number of tokens, then in lexicographic order; a prefix is the context of the same
    number.

    Attributes:
        vocabulary: V ≥ 1.
        max_length: T ≥ 1.

    >>> space = Sequences(vocabulary=2, max_length=2)
    >>> [space.tokens(response) for response in range(space.num_responses)]
    [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    >>> space.lengths
    array([1, 2, 2, 2, 2, 2, 2])
    """

    vocabulary: int
    max_length: int

    def __post_init__(self) -> None:
        check_integer("vocabulary", self.vocabulary, 1, MAX_CLASSES)
        check_integer("max_length", self.max_length, 1, MAX_LENGTH)
        if self.num_responses > MAX_CLASSES:
            hint = "Take a smaller vocabulary or length."
            raise ValueError(message("the number of sequences", f"at most {MAX_CLASSES}", self.num_responses, hint))

    @property
    def num_responses(self) -> int:  # type: ignore[override]
        """K = Σ_{t≤T} V^t."""
        return self._start(self.max_length + 1)

    @property
    def num_contexts(self) -> int:  # type: ignore[override]
        """The number of prefixes that can be continued, N = Σ_{t<T} V^t."""
        return self._start(self.max_length)

    @property
    def num_actions(self) -> int:  # type: ignore[override]
        """The tokens and the end, A = V + 1."""
        return self.vocabulary + 1

    @cached_property
    def lengths(self) -> IntArray:  # type: ignore[override]
        """The number of tokens and the end, if it is not cut, [K]."""
        return np.minimum(self._num_tokens + 1, self.max_length)

    @cached_property
    def contexts(self) -> IntArray:  # type: ignore[override]
        """The prefix in which each decision is made, [K, T]."""
        steps = np.arange(self.max_length)
        # the first t tokens of a sequence of n, read as a number in base V, are its number divided by V^(n−t)
        dropped = np.maximum(self._num_tokens[:, None] - steps, 0)
        prefixes = self._starts[steps] + self._rank[:, None] // self.vocabulary**dropped
        return np.where(steps < self.lengths[:, None], prefixes, 0)

    @cached_property
    def actions(self) -> IntArray:  # type: ignore[override]
        """The token that follows each prefix, or V for the end, [K, T]."""
        steps = np.arange(self.max_length)
        dropped = np.maximum(self._num_tokens[:, None] - steps - 1, 0)
        tokens = self._rank[:, None] // self.vocabulary**dropped % self.vocabulary
        decided = np.where(steps < self._num_tokens[:, None], tokens, self.vocabulary)
        return np.where(steps < self.lengths[:, None], decided, 0)

    def tokens(self, response: int) -> tuple[int, ...]:
        """Return the tokens of a response, without the end."""
        number = check_integer("response", response, 0, self.num_responses - 1)
        return tuple(self.actions[number, : self._num_tokens[number]].tolist())

    def index(self, tokens: Sequence[int]) -> int:
        """Return the number of the response that has these tokens.

        >>> Sequences(vocabulary=2, max_length=2).index((1, 0))
        5
        """
        if len(tokens) > self.max_length:
            raise ValueError(message("tokens", f"at most {self.max_length}", len(tokens)))
        rank = 0
        for token in tokens:
            rank = rank * self.vocabulary + check_integer("a token", token, 0, self.vocabulary - 1)
        return self._start(len(tokens)) + rank

    def log_probs(self, next_log_probs: Any, concatenate: Callable[..., Any] = np.concatenate) -> Any:
        """Walk down the tree of prefixes: log π(prefix + token) = log π(prefix) + log π(token|prefix)."""
        first = next_log_probs[..., 0, :]
        prefixes, ended = first[..., :-1], [first[..., -1:]]
        for step in range(1, self.max_length):
            level = next_log_probs[..., self._starts[step] : self._starts[step + 1], :]
            ended.append(prefixes + level[..., -1])
            longer = prefixes[..., None] + level[..., :-1]
            prefixes = longer.reshape(*longer.shape[:-2], -1)
        return concatenate([*ended, prefixes], axis=-1)

    def next_log_probs(self, log_probs: ArrayLike) -> FloatArray:
        """Walk up the tree: the mass of a prefix is that of ending there and of all its continuations."""
        given = np.asarray(log_probs, dtype=np.float64)
        mass, levels = given[..., self._starts[self.max_length] :], []
        for step in reversed(range(self.max_length)):
            ended = given[..., self._starts[step] : self._starts[step + 1]]
            continued = mass.reshape(*ended.shape, self.vocabulary)
            choices = np.concatenate([continued, ended[..., None]], axis=-1)
            mass = logsumexp(choices, axis=-1)
            reached = mass[..., None] > -np.inf
            levels.append(log_softmax(np.where(reached, choices, 0.0), axis=-1))
        return np.concatenate(levels[::-1], axis=-2)

    def __str__(self) -> str:
        return f"{self.num_responses} sequences of at most {self.max_length} of {self.vocabulary} tokens"

    def _start(self, length: int) -> int:
        """Return the number of sequences of fewer than so many tokens: where those of that length start."""
        return sum(self.vocabulary**step for step in range(length))

    @cached_property
    def _starts(self) -> IntArray:
        return np.array([self._start(length) for length in range(self.max_length + 2)])

    @cached_property
    def _num_tokens(self) -> IntArray:
        counts = [self.vocabulary**length for length in range(self.max_length + 1)]
        return np.repeat(np.arange(self.max_length + 1), counts)

    @cached_property
    def _rank(self) -> IntArray:
        """The place of each response among those of its number of tokens."""
        return np.arange(self.num_responses) - self._starts[self._num_tokens]


__all__ = ["Categorical", "Sequences", "Space"]
