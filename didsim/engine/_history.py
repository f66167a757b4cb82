"""What a training run leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from didsim._arrays import FloatArray
from didsim.engine._metrics import METRICS, State
from didsim.engine._plan import Plan
from didsim.engine._priors import learned_prior
from didsim.objectives import BoundObjective
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.torch_bridge import Tensor, to_array, to_tensor


@dataclass(frozen=True)
class History:
    """The record of one run.

    Attributes:
        problem: what was trained on.
        loss: the objective.
        steps: the recorded steps, int64 [N].
        metrics: one array [N] per recorded quantity, in nats where it has a unit.
        policy: the final policy, [K], or [X, K] with prompts; None if the run diverged.
        policies: the policies of the recorded steps, [N, K] or [N, X, K]; None unless they were asked for.
        status: "completed", or "diverged at step k".
        prior: the final prior ζ that was learned beside the policy, [K], or None if none was.
    """

    problem: Problem
    loss: BoundObjective
    steps: np.ndarray
    metrics: Mapping[str, FloatArray]
    policy: Policy | None
    status: str
    prior: Policy | None = None
    policies: Policy | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The record as a table: a column `step`, and one for each metric."""
        return pd.DataFrame({"step": self.steps, **self.metrics})


class Recorder:
    """Collects the metrics of all runs of a plan at chosen steps."""

    def __init__(self, plan: Plan, parameters: Tensor, keep_policies: bool = False) -> None:
        self._plan = plan
        self._kept: list[FloatArray] | None = [] if keep_policies else None
        self._steps: list[int] = []
        self._values: list[list[FloatArray]] = []
        self.record(0, parameters)

    def record(self, step: int, parameters: Tensor) -> None:
        """Record the policies of all runs, given their parameters [R, D + companions]."""
        values = to_array(parameters)
        finite = np.isfinite(values).all(axis=1, keepdims=True)
        held = to_tensor(np.where(finite, values, 0.0))  # the rows of a diverged run are dropped in the end
        policies = self._plan.policies
        self._state = State(policies.policies(held[:, : policies.num_parameters]), held)
        self._steps.append(step)
        if self._kept is not None:
            self._kept.append(self._state.policy.log_probs)
        self._values.append([METRICS[name](self._plan.truth, self._state) for name in self._plan.metrics])

    def histories(self, losses: list[BoundObjective], finite_steps: FloatArray) -> list[History]:
        """Return one history per run, in the order of the caller, for which `losses` are given.

        Args:
            losses: the objective of each of the caller's jobs.
            finite_steps: for each run, how many steps left it finite, [R].
        """
        values = np.array(self._values).reshape(len(self._steps), len(self._plan.metrics), len(losses))
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
            metrics={name: values[: len(steps), column].copy() for column, name in enumerate(self._plan.metrics)},
            policy=self._alone(run, self._state.policy.log_probs[run].copy()) if completed else None,
            status="completed" if completed else f"diverged at step {finite_steps + 1}",
            prior=self._prior(run) if completed and "prior" in loss.needs else None,
            policies=self._trace(run, len(steps)),
        )

    def _trace(self, run: int, count: int) -> Policy | None:
        """Return the first policies of a run, where they are kept."""
        return None if self._kept is None else self._alone(run, np.stack([one[run] for one in self._kept[:count]]))

    def _alone(self, run: int, log_probs: FloatArray) -> Policy:
        """Return policies [..., X, K] of a run in the shape of its problem."""
        return Policy(log_probs if self._plan.problems[run].prompts is not None else log_probs[..., 0, :])

    def _prior(self, run: int) -> Policy:
        space, size = self._plan.policies.space, self._plan.policies.num_parameters
        decisions = space.num_contexts * space.num_actions
        return learned_prior(self._plan.problems[run], to_array(self._state.parameters[run, size : size + decisions]))
