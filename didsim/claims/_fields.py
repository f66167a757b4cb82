"""What an instance of a claim is made of: named fields that can be drawn, moved and simplified.

An instance is a dictionary of JSON values: numbers, strings, and (nested) lists of numbers. Its fields say how values
are drawn at random, which numbers an optimiser may move, and what a simpler value would be; so a claim says once what
it ranges over, and random search, optimisation and shrinking all follow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from didsim._arrays import FloatArray

Instance = dict[str, Any]
"""The values of the fields of a claim, by name; what `json` can write."""

SCALES = (0.3, 1.0, 3.0)
"""The standard deviations of logits, and of the logarithms of positive numbers, from which instances are drawn."""

ROUND = (1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100, 1000)
"""The denominators of simpler probabilities, the simplest first."""


class Field(Protocol):
    """One quantity of an instance."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of the counts that its axes have."""
        ...

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Any:
        """Return a random value."""
        ...

    def numbers(self, value: Any) -> FloatArray:
        """Return the numbers that an optimiser may move, without bounds; none for a field that is not continuous."""
        ...

    def value(self, numbers: FloatArray, shape: tuple[int, ...]) -> Any:
        """Return the value that such numbers stand for."""
        ...

    def simpler(self, value: Any) -> Iterator[Any]:
        """Yield values nearby that are easier to write down, the easiest first."""
        ...


@dataclass(frozen=True)
class _Fixed:
    """A field that is not continuous."""

    @property
    def sizes(self) -> tuple[str, ...]:
        return ()

    def numbers(self, value: Any) -> FloatArray:
        """Return none."""
        return np.empty(0)

    def value(self, numbers: FloatArray, shape: tuple[int, ...]) -> Any:
        """Refuse: there are no numbers."""
        raise TypeError("a field that is not continuous has no numbers")

    def simpler(self, value: Any) -> Iterator[Any]:
        """Yield nothing."""
        yield from ()


@dataclass(frozen=True)
class Count(_Fixed):
    """A whole number from `low` to `high`, such as the number of responses K; other fields may have it as a size."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> int:
        """Return one with equal chances."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def simpler(self, value: int) -> Iterator[int]:
        """Yield smaller ones."""
        yield from range(self.low, value)


@dataclass(frozen=True)
class Seed(_Fixed):
    """A whole number that seeds what the check draws itself."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> int:
        """Return one."""
        return int(rng.integers(2**31))


@dataclass(frozen=True)
class Choice(_Fixed):
    """One of some values."""

    options: tuple[Any, ...]

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Any:
        """Return one with equal chances."""
        return self.options[int(rng.integers(len(self.options)))]


@dataclass(frozen=True)
class Simplex:
    """Probabilities, positive, that add up to 1 along the last axis, whose sizes are counts of the instance."""

    sizes: tuple[str, ...] = ("num_classes",)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Any:
        """Return a softmax of normal logits."""
        return self.value(scale * rng.standard_normal(shape).ravel(), shape)

    def numbers(self, value: Any) -> FloatArray:
        """Return the logits."""
        return np.log(np.asarray(value, dtype=float)).ravel()

    def value(self, numbers: FloatArray, shape: tuple[int, ...]) -> Any:
        """Return the softmax of logits."""
        logits = numbers.reshape(shape)
        weights = np.exp(np.clip(logits - logits.max(axis=-1, keepdims=True), -LEAST, 0.0))
        return (weights / weights.sum(axis=-1, keepdims=True)).tolist()

    def simpler(self, value: Any) -> Iterator[Any]:
        """Yield positive fractions of small denominators, up to that of the value itself."""
        probs = np.asarray(value, dtype=float)
        for denominator in ROUND:
            parts = np.maximum(np.round(probs * denominator), 1.0)
            largest = parts.argmax(axis=-1)[..., None]
            rest = denominator - parts.sum(axis=-1, keepdims=True)
            np.put_along_axis(parts, largest, np.take_along_axis(parts, largest, -1) + rest, -1)
            if (parts > 0).all():
                fractions = (parts / denominator).tolist()
                if fractions == value:
                    return  # further ones are not simpler: shrinking would go to and fro between them
                yield fractions


LEAST = 60.0
"""The lowest logit of a probability, below the highest one: an optimiser shall not run out of the numbers."""


@dataclass(frozen=True)
class Reals:
    """Real numbers; a single one without sizes.

    Attributes:
        low: if finite, numbers are above it, and drawn and moved by the logarithm of their distance from it.
        sizes: the counts that are its axes.
    """

    low: float = -np.inf
    sizes: tuple[str, ...] = ()

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Any:
        """Return normal, or log-normal, numbers."""
        return self.value(scale * rng.standard_normal(shape).ravel(), shape)

    def numbers(self, value: Any) -> FloatArray:
        """Return the numbers, or their logarithms."""
        values = np.asarray(value, dtype=float).ravel()
        return values if np.isinf(self.low) else np.log(values - self.low)

    def value(self, numbers: FloatArray, shape: tuple[int, ...]) -> Any:
        """Return the numbers themselves, above `low` even where rounding would end at it."""
        if np.isinf(self.low):
            return numbers.reshape(shape).tolist()
        values = self.low + np.exp(np.clip(numbers, -LEAST, LEAST))
        return np.maximum(values, np.nextafter(self.low, np.inf)).reshape(shape).tolist()

    def simpler(self, value: Any) -> Iterator[Any]:
        """Yield numbers of fewer digits."""
        values = np.asarray(value, dtype=float)
        for digits in (0, 1, 2, 3):
            rounded = np.round(values, digits) + 0.0  # 0 and not −0
            if (rounded == values).all():
                return
            if (rounded > self.low).all():
                yield rounded.tolist()


def draw(fields: Mapping[str, Field], rng: np.random.Generator) -> Instance:
    """Draw an instance: the counts first, then what has them as its sizes; each field at a scale of its own."""
    instance: Instance = {}
    for name in sorted(fields, key=lambda name: len(fields[name].sizes)):
        scale = SCALES[int(rng.integers(len(SCALES)))]
        instance[name] = fields[name].draw(rng, shape_of(fields[name], instance), scale)
    return {name: instance[name] for name in fields}


def shape_of(field: Field, instance: Instance) -> tuple[int, ...]:
    """Return the shape of a field by the counts of an instance."""
    return tuple(instance[size] for size in field.sizes)


def pack(fields: Mapping[str, Field], instance: Instance) -> FloatArray:
    """Return all numbers of an instance that may be moved, one after the other."""
    return np.concatenate([np.empty(0), *(field.numbers(instance[name]) for name, field in fields.items())])


def unpack(fields: Mapping[str, Field], numbers: FloatArray, like: Instance) -> Instance:
    """Return an instance with other numbers, and everything else as it was."""
    instance, first = dict(like), 0
    for name, field in fields.items():
        if size := len(field.numbers(like[name])):
            instance[name] = field.value(numbers[first : first + size], shape_of(field, like))
            first += size
    return instance


def without(fields: Mapping[str, Field], instance: Instance, size: str, index: int) -> Instance:
    """Return an instance with one class, prompt, … less; probabilities are normalised again."""
    smaller = {**instance, size: instance[size] - 1}
    for name, field in fields.items():
        values = np.asarray(instance[name]) if size in field.sizes else None
        for axis, axis_size in enumerate(field.sizes):
            if values is not None and axis_size == size:
                values = np.delete(values, index, axis=axis)
        if values is not None:
            if isinstance(field, Simplex):
                values = values / values.sum(axis=-1, keepdims=True)
            smaller[name] = values.tolist()
    return smaller


def simpler(fields: Mapping[str, Field], instance: Instance) -> Iterator[Instance]:
    """Yield instances that are easier to write down: of smaller counts, then of rounder numbers."""
    sizes: Sequence[str] = [name for name, field in fields.items() if isinstance(field, Count)]
    for size in sizes:
        field = fields[size]
        assert isinstance(field, Count)  # as they were chosen
        if instance[size] > field.low:
            yield from (without(fields, instance, size, index) for index in range(instance[size]))
    for name, field in fields.items():
        if name not in sizes:
            yield from ({**instance, name: value} for value in field.simpler(instance[name]))
