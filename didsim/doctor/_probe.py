"""Calling the function: its losses, its gradients, and the form in which it returns them."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from didsim.doctor._batches import (
    QUANTITIES,
    Batch,
    at_reference,
    doubled,
    extremes,
    generic_batches,
    single_pairs,
)
from didsim.doctor._subject import Subject

Settings = Mapping[str, float]

TOLERANCES = {torch.float64: (1e-6, 1e-9), torch.float32: (1e-3, 1e-4)}
"""Relative and absolute; a logarithm of (x + 1e-8) still counts as log x: the extremes tell the two apart."""

COARSE = (3e-2, 1e-2)
"""For results of half precision."""


class LossError(Exception):
    """The function failed, or returned something that is not a loss; the text says which, and where."""


@dataclass(frozen=True)
class Probe:
    """A function with what is known of its result.

    Attributes:
        subject: the function.
        dtype: the dtype of the log-probabilities that it is given.
        aggregation: "none" for one loss per pair, "mean" or "sum" over pairs, or "other".
        separate: whether the loss of a pair depends on that pair alone.
        precision: the dtype of what it returns.
    """

    subject: Subject
    dtype: torch.dtype = torch.float64
    aggregation: str = "none"
    separate: bool = True
    precision: torch.dtype = torch.float64

    def result(self, batch: Batch, settings: Settings | None = None, inputs: dict[str, Tensor] | None = None) -> Tensor:
        """Call the function on copies of a batch, and return its loss as it comes.

        Args:
            batch: the pairs.
            settings: hyperparameters that differ from the subject's own.
            inputs: is filled with the tensors that the function was given.

        Raises:
            LossError: if the function fails, or returns no tensor.
        """
        given = {name: _cast(tensor, self.dtype).clone() for name, tensor in batch.items()}
        if inputs is not None:
            inputs.update(given)
        try:
            found = self.subject.call(given, {**self.subject.settings, **(settings or {})})
        except Exception as error:
            raise LossError(f"the function raised {type(error).__name__}: {error}{_place(error)}") from error
        while isinstance(found, tuple | list) and found:
            found = found[0]
        if not isinstance(found, Tensor):
            raise LossError(
                f"the function returned {_article(type(found).__name__)}, not a tensor: nothing can be differentiated. "
                "Return the tensor of losses; call .item() or float() only to print it"
            )
        return found

    def losses(self, batch: Batch, settings: Settings | None = None) -> Tensor:
        """Return one loss per pair, [B]; of a function that mixes pairs into one number, that number, [1]."""
        if self.aggregation == "none":
            return self.result(batch, settings).detach().reshape(-1)
        if not self.separate:
            return self.result(batch, settings).detach().reshape(1)
        return torch.cat([self.result(pair, settings).detach().reshape(1) for pair in single_pairs(batch)])

    def reduce(self, losses: Tensor) -> Tensor:
        """Bring losses per pair, [B], to the form of `losses`."""
        if self.aggregation == "none" or self.separate:
            return losses
        return (losses.sum() if self.aggregation == "sum" else losses.mean()).reshape(1)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Return d(sum of losses)/d log π of each response, [B] for each side; 0 where no gradient arrives."""
        leaves = {name: _cast(tensor, self.dtype) for name, tensor in batch.items()}
        leaves = {name: x.clone().requires_grad_(name.startswith("log_pi")) for name, x in leaves.items()}
        result = self.result(leaves)
        sought = [leaf for leaf in leaves.values() if leaf.requires_grad]
        if not result.requires_grad:
            return {name: torch.zeros_like(leaves[name]) for name in QUANTITIES[:2]}
        try:
            found = torch.autograd.grad(result.sum(), sought, allow_unused=True, materialize_grads=True)
        except RuntimeError as error:
            raise LossError(f"its gradient cannot be computed: {error}") from error
        factor = len(sought[0]) if self.aggregation == "mean" else 1
        return {name: factor * gradient for name, gradient in zip(QUANTITIES[:2], found, strict=True)}

    def close(self, ours: Tensor, theirs: Tensor) -> bool:
        """Tell whether two results are equal up to the rounding of the function's own precision."""
        relative, absolute = TOLERANCES.get(self.precision, COARSE)
        ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)
        return ours.shape == theirs.shape and torch.allclose(ours, theirs, relative, absolute, equal_nan=True)

    @cached_property
    def batches(self) -> tuple[dict[str, Tensor], ...]:
        """Generic pairs."""
        return generic_batches()

    @cached_property
    def at_reference(self) -> dict[str, Tensor]:
        """The first of these batches with π = π_ref."""
        return at_reference(self.batches[0])

    @cached_property
    def own(self) -> list[Tensor]:
        """The losses of the generic batches at the subject's own hyperparameters."""
        return self.values({})

    def values(self, settings: Settings) -> list[Tensor]:
        """Return the losses of the generic batches; computed once for each set of hyperparameters."""
        key = tuple(sorted(settings.items()))
        if key not in self._values:
            self._values[key] = [self.losses(batch, settings) for batch in self.batches]
        return self._values[key]

    @cached_property
    def _values(self) -> dict[tuple, list[Tensor]]:
        return {}

    @cached_property
    def used(self) -> frozenset[str]:
        """The quantities that make a difference to the loss."""
        return frozenset(name for name in self.subject.takes if self._reacts_to(name))

    @cached_property
    def shifted(self) -> dict[str, float]:
        """Another value for each hyperparameter; those that the function refuses to change are left out."""
        others = {name: _elsewhere(value) for name, value in self.subject.settings.items()}
        return {name: value for name, value in others.items() if self._accepts({name: value})}

    @cached_property
    def ignored(self) -> frozenset[str]:
        """The hyperparameters that make no difference, whatever they are."""
        return frozenset(name for name in self.shifted if not self._heeds(name))

    def _reacts_to(self, name: str) -> bool:
        shaken = [self.losses(_shaken(batch, name)) for batch in self.batches]
        return any(not _same(there, here) for there, here in zip(shaken, self.own, strict=True))

    def _accepts(self, settings: Settings) -> bool:
        try:
            self.values(settings)
        except LossError:
            return False
        return True

    def _heeds(self, name: str) -> bool:
        """Try several values, on generic pairs and on extreme ones: a cap may never be reached on the former."""
        value = self.subject.settings[name]
        places = [*self.batches, *extremes(1.0).values()]
        for other in (self.shifted[name], 10.0 * value, 0.1 * value, 0.0):
            try:
                if any(not _same(self.losses(batch, {name: other}), self.losses(batch)) for batch in places):
                    return True
            except LossError:
                return True  # it was looked at, and refused
        return False


def examine_form(subject: Subject) -> tuple[Probe, str]:
    """Find out in what form a function returns its losses.

    Returns:
        The probe, and why float64 is not supported, or "".

    Raises:
        LossError: if the function fails, or what it returns is no loss of the pairs.
    """
    probe, complaint = Probe(subject), ""
    batch = probe.batches[0]
    try:
        result = probe.result(batch)
    except LossError as error:
        probe, complaint = replace(probe, dtype=torch.float32), str(error)
        try:
            result = probe.result(batch)
        except LossError:
            raise error from None
    size = len(batch["log_pi_chosen"])
    if result.shape not in ((size,), (), (1,)):
        raise LossError(
            f"the function returned the shape {tuple(result.shape)} for {size} pairs; a loss is ({size},) or (). "
            "Look for tensors of shapes [B] and [B, 1] that meet and broadcast"
        )
    probe = replace(probe, precision=result.dtype)
    if result.shape == (size,):
        return _per_pair(probe), complaint
    return _reduced(probe), complaint


def _per_pair(probe: Probe) -> Probe:
    batch = probe.batches[0]
    try:
        alone = torch.cat([probe.result(pair).detach().reshape(-1) for pair in single_pairs(batch)])
    except LossError:  # it cannot see a batch of one
        return replace(probe, separate=False)
    return replace(probe, separate=probe.close(alone, probe.result(batch).detach()))


def _reduced(probe: Probe) -> Probe:
    """Tell a mean from a sum by the loss of each pair twice, and by the losses of the pairs alone."""
    batch = probe.batches[0]
    once, twice = (probe.result(pairs).detach().reshape(1) for pairs in (batch, doubled(batch)))
    mean, total = probe.close(twice, once), probe.close(twice, 2.0 * once)
    aggregation = "mean" if mean else "sum" if total else "other"
    try:
        alone = torch.cat([probe.result(pair).detach().reshape(1) for pair in single_pairs(batch)])
    except LossError:
        return replace(probe, aggregation=aggregation, separate=False)
    expected = alone.sum() if aggregation == "sum" else alone.mean()
    separate = aggregation != "other" and probe.close(expected.reshape(1), once)
    return replace(probe, aggregation=aggregation, separate=separate)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x.nan_to_num(nan=0.5), y.nan_to_num(nan=0.5))


def _shaken(batch: Batch, name: str) -> dict[str, Tensor]:
    """Change one quantity of every pair, and of no two pairs alike: a constant may cancel in a batch statistic."""
    steps = torch.arange(1, len(batch[name]) + 1)
    return {**batch, name: batch[name] + (steps if name.startswith("length") else -0.1 * steps)}


def _elsewhere(value: float) -> float:
    """Return another value in the same region: positive stays positive, a probability stays one."""
    return 0.83 * value if value else 0.13


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeiou" else f"a {noun}"


def _place(error: Exception) -> str:
    """Say where the user's own code failed: the last line that belongs neither to a library nor to the doctor."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and "didsim/doctor" not in frame.filename.replace("\\", "/")
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


__all__ = ["LossError", "Probe", "Settings", "examine_form"]
