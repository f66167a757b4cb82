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
        self._diverged_at: dict[int, int] = {}
        self._add(0, plan.initial)

    def record(self, step: int, logits: FloatArray) -> None:
        """Record the policies of all runs, given their logits [R, K]; a run that is not finite is over."""
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        for run in np.flatnonzero(~finite):
            self._diverged_at.setdefault(int(run), step)
        held = np.where(finite[:, None], logits, 0.0)
        self._add(step, Policy.from_logits(np.where(self._excluded, -np.inf, held)))

    def _add(self, step: int, policy: Policy) -> None:
        self._policy = policy
        self._steps.append(step)
        self._values.append([METRICS[name](self._plan.truth, self._policy) for name in self._names])

    def histories(self, losses: list[BoundObjective]) -> list[History]:
        """Return one history per run, in the caller's order, for which `losses` are given."""
        values = np.array(self._values).reshape(len(self._steps), len(self._names), -1)
        runs = {position: run for run, position in enumerate(self._plan.order)}
        return [self._history(runs[position], loss, values) for position, loss in enumerate(losses)]

    def _history(self, run: int, loss: BoundObjective, values: FloatArray) -> History:
        end = self._diverged_at.get(run)
        kept = len(self._steps) if end is None else self._steps.index(end)
        return History(
            problem=self._plan.problems[run],
            loss=loss,
            steps=np.array(self._steps[:kept]),
            metrics={name: values[:kept, column, run].copy() for column, name in enumerate(self._names)},
            policy=Policy(self._policy.log_probs[run].copy()) if end is None else None,
            status="completed" if end is None else f"diverged at step {end}",
        )
