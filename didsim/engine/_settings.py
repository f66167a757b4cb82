"""The settings of a training run, checked when they are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from didsim._checks import POSITIVE, check_choice, check_integer, check_number, message
from didsim.engine._draws import MODES
from didsim.engine._metrics import METRICS
from didsim.engine._optimisers import OPTIMISERS, SCHEDULES
from didsim.policy import Policy
from didsim.preference import MAX_SEED, PreferenceDataset
from didsim.torch_bridge import DTYPES

PATHS = ("auto", "table", "gather")

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
        metrics: the names of the recorded quantities, from `METRICS`.
        dtype: "float32" or "float64"; metrics are always computed in float64.
        path: "table" sums over the K × K table of pairs, "gather" over the drawn pairs; both give the same
            numbers, and "auto" takes the faster.
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
    metrics: tuple[str, ...] = field(default_factory=lambda: tuple(METRICS))
    dtype: str = "float32"
    path: str = "auto"

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, MAX_STEPS)
        check_integer("batch_size", self.batch_size, 1, MAX_BATCH)
        check_integer("record_every", self.record_every, 1, MAX_STEPS)
        check_number("learning_rate", self.learning_rate, POSITIVE)
        if self.clip is not None:
            check_number("clip", self.clip, POSITIVE)
        for seed in [self.seed] if isinstance(self.seed, int) else self.seed:
            check_integer("seed", seed, 0, MAX_SEED)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_choice("mode", self.mode, MODES)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("path", self.path, PATHS)
        for name in self.metrics:
            check_choice("metrics", name, METRICS)
        self._check_dataset()

    def _check_dataset(self) -> None:
        if (self.mode == "dataset") != (self.dataset is not None):
            hint = 'A dataset belongs to mode="dataset", and that mode needs one.'
            raise ValueError(message("mode and dataset", "given together", (self.mode, self.dataset), hint))
        if isinstance(self.dataset, int):
            check_integer("dataset", self.dataset, 1, MAX_BATCH)
        if self.mode == "population" and self.path == "gather":
            raise ValueError(message("path", '"auto" or "table" in the mode "population"', self.path))

    def seeds(self, num_runs: int) -> list[int]:
        """Return one seed for each of the runs."""
        if isinstance(self.seed, int):
            return [self.seed] * num_runs
        if len(self.seed) != num_runs:
            raise ValueError(message("seed", f"one number, or {num_runs} of them", len(self.seed)))
        return list(self.seed)

    def schedule_factor(self, step: int) -> float:
        """Return the fraction of the learning rate that is used at a step."""
        factor: Callable[[float], float] = SCHEDULES[self.schedule]
        return factor(step / self.steps)
