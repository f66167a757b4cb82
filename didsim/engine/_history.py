"""What a training run leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from didsim._arrays import FloatArray
from didsim.engine._metrics import METRICS
from didsim.engine._plan import Plan
from didsim.engine._settings import Settings
from didsim.objectives import BoundObjective
from didsim.policy import Policy
from didsim.preference import Problem


@dataclass(frozen=True)
class History:
    """The record of one run.

    Attributes:
        problem: what was trained on.
        loss: the objective.
        steps: the recorded steps, int64 [N].
        metrics: one array [N] per recorded quantity, in nats where it has a unit.
        policy: the final policy, or None if the run diverged.
        status: "completed", or "diverged at step k".
    """

    problem: Problem
    loss: BoundObjective
    steps: np.ndarray
    metrics: Mapping[str, FloatArray]
    policy: Policy | None
    status: str

    @property
    def frame(self) -> pd.DataFrame:
        """The record as a table: a column `step`, and one for each metric."""
        return pd.DataFrame({"step": self.steps, **self.metrics})


class Recorder:
    """Collects the metrics of all runs of a plan at chosen steps."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._names = settings.metrics
        self._excluded = np.isneginf(plan.initial.log_probs)
        self._steps: list[int] = []
        self._values: list[list[FloatArray]] = []
        self._add(0, plan.initial)

    def record(self, step: int, logits: FloatArray) -> None:
        """Record the policies of all runs, given their logits [R, K]."""
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        held = np.where(finite[:, None], logits, 0.0)  # the rows of a diverged run are dropped in the end
        self._add(step, Policy.from_logits(np.where(self._excluded, -np.inf, held)))

    def _add(self, step: int, policy: Policy) -> None:
        self._policy = policy
        self._steps.append(step)
        self._values.append([METRICS[name](self._plan.truth, self._policy) for name in self._names])

    def histories(self, losses: list[BoundObjective], finite_steps: FloatArray) -> list[History]:
        """Return one history per run, in the order of the caller, for which `losses` are given.

        Args:
            losses: the objective of each of the caller's jobs.
            finite_steps: for each run, how many steps left it finite, [R].
        """
        values = np.array(self._values).reshape(len(self._steps), len(self._names), len(losses))
        runs = {position: run for run, position in enumerate(self._plan.order)}
        return [
            self._history(runs[position], loss, int(finite_steps[runs[position]]), values[..., runs[position]])
            for position, loss in enumerate(losses)
        ]

    def _history(self, run: int, loss: BoundObjective, finite_steps: int, values: FloatArray) -> History:
        steps = np.array(self._steps)
        steps = steps[steps <= finite_steps]
        completed = finite_steps == self._steps[-1]
        return History(
            problem=self._plan.problems[run],
            loss=loss,
            steps=steps,
            metrics={name: values[: len(steps), column].copy() for column, name in enumerate(self._names)},
            policy=Policy(self._policy.log_probs[run].copy()) if completed else None,
            status="completed" if completed else f"diverged at step {finite_steps + 1}",
        )
