"""The settings of a training run, checked when they are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from didsim._checks import NON_NEGATIVE, POSITIVE, check_choice, check_integer, check_number, check_truth, message
from didsim.engine._draws import MODES
from didsim.engine._metrics import METRICS
from didsim.engine._optimisers import OPTIMISERS, SCHEDULES
from didsim.policy import Policy
from didsim.preference import MAX_SEED, PreferenceDataset
from didsim.torch_bridge import DTYPES

PATHS = ("auto", "table", "gather", "sums")

MAX_STEPS = 10**9
MAX_BATCH = 10**7


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How runs are trained; the defaults are those of the DID paper, Appendix J.1.

    Attributes:
        steps: the number of optimiser steps; the paper does not state it.
        batch_size: pairs per step in the modes "sampled" and "dataset".
        learning_rate: the step size of the optimiser.
        schedule: how the learning rate decays: "constant", "linear" or "cosine" (both to 0).
        optimiser: "rmsprop", "adam" or "sgd", with PyTorch's defaults.
        clip: the largest gradient norm of a run; None leaves gradients alone.
        seed: the seed of the draws: one for all runs, or one for each.
        mode: "sampled" draws fresh pairs at each step; "dataset" runs through a fixed set in shuffled
            epochs; "population" takes the exact expectation over all pairs.
        dataset: for the mode "dataset": the pairs, or how many to draw from each problem.
        initial_policy: where training starts; the problem's reference by default.
        record_every: steps between two records; the first and the last state are always recorded.
        metrics: the names of the recorded quantities, from `METRICS`; by default all, but for those that sum over
            K² pairs where K is large.
        keep_policies: keep the policies of the recorded steps in the history too.
        dtype: "float32" or "float64"; metrics are always computed in float64.
        path: "table" sums over the K × K table of pairs, "gather" over the drawn pairs; both give the same
            numbers, and "auto" takes the faster. In the mode "population", "sums" needs no table, but a loss that is a
            function of a score of the chosen response minus one of the rejected, with terms of single responses
            beside: sums over both responses apart are exact to rounding. "auto" takes it where X·K² is large.
        trust_region: keep a learned prior of MI-DPO at KL(ζ ‖ π_ref) of at most so many nats, with prompts of the
            marginal of π_ref; None lets it go.
    """

    steps: int = 6000
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: str = "constant"
    optimiser: str = "rmsprop"
    clip: float | None = 1.0
    seed: int | Sequence[int] = 42
    mode: str = "sampled"
    dataset: PreferenceDataset | int | None = None
    initial_policy: Policy | None = None
    record_every: int = 50
    metrics: tuple[str, ...] | None = None
    keep_policies: bool = False
    dtype: str = "float32"
    path: str = "auto"
    trust_region: float | None = None

    def __post_init__(self) -> None:
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)  # the way to set a field of a frozen dataclass

    def _checked(self) -> dict[str, Any]:
        """Return every field, checked and as a plain Python value."""
        return {
            "steps": check_integer("steps", self.steps, 1, MAX_STEPS),
            "batch_size": check_integer("batch_size", self.batch_size, 1, MAX_BATCH),
            "record_every": check_integer("record_every", self.record_every, 1, MAX_STEPS),
            "learning_rate": check_number("learning_rate", self.learning_rate, POSITIVE),
            "clip": None if self.clip is None else check_number("clip", self.clip, POSITIVE),
            "seed": _check_seeds(self.seed),
            "schedule": check_choice("schedule", self.schedule, SCHEDULES),
            "optimiser": check_choice("optimiser", self.optimiser, OPTIMISERS),
            "mode": check_choice("mode", self.mode, MODES),
            "keep_policies": check_truth("keep_policies", self.keep_policies),
            "dtype": check_choice("dtype", self.dtype, DTYPES),
            "path": self._checked_path(),
            "metrics": None if self.metrics is None else _check_metrics(self.metrics),
            "trust_region": (
                None if self.trust_region is None else check_number("trust_region", self.trust_region, NON_NEGATIVE)
            ),
            "dataset": self._checked_dataset(),
            "initial_policy": self._checked_initial_policy(),
        }

    def _checked_path(self) -> str:
        if self.mode == "population" and self.path == "gather":
            raise ValueError(message("path", '"auto", "table" or "sums" in the mode "population"', self.path))
        if self.mode != "population" and self.path == "sums":
            hint = "Sums need pairs whose responses are drawn independently, each with its exact probability."
            raise ValueError(message("path", f'"auto", "table" or "gather" in the mode "{self.mode}"', self.path, hint))
        return check_choice("path", self.path, PATHS)

    def _checked_dataset(self) -> PreferenceDataset | int | None:
        if (self.mode == "dataset") != (self.dataset is not None):
            hint = 'A dataset belongs to mode="dataset", and that mode needs one.'
            raise ValueError(message("mode and dataset", "given together", (self.mode, self.dataset), hint))
        if self.dataset is None or isinstance(self.dataset, PreferenceDataset):
            return self.dataset
        return check_integer("dataset", self.dataset, 1, MAX_BATCH)

    def _checked_initial_policy(self) -> Policy | None:
        if self.initial_policy is not None and not isinstance(self.initial_policy, Policy):
            raise TypeError(message("initial_policy", "a didsim.Policy", self.initial_policy))
        return self.initial_policy

    def seeds(self, num_runs: int) -> list[int]:
        """Return one seed for each of the runs."""
        if isinstance(self.seed, int):
            return [self.seed] * num_runs
        if len(self.seed) != num_runs:
            raise ValueError(message("seed", f"one number, or {num_runs} of them", len(self.seed)))
        return list(self.seed)

    def schedule_factor(self, step: int) -> float:
        """Return the fraction of the learning rate that is used at a step."""
        return SCHEDULES[self.schedule](step / self.steps)


def _check_seeds(seed: Any) -> int | tuple[int, ...]:
    if isinstance(seed, str | bytes) or not hasattr(seed, "__len__"):
        return check_integer("seed", seed, 0, MAX_SEED)
    return tuple(check_integer("seed", one, 0, MAX_SEED) for one in seed)


def _check_metrics(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(message("metrics", "a tuple of names", names))
    return tuple(check_choice("metrics", name, METRICS) for name in names)
