"""The batched training engine: many runs as one tensor, every recorded quantity exact."""

from didsim.engine._evaluation import Evaluation, evaluated, snapshot_pairs
from didsim.engine._gradient import Group, nested_backward, plain_gradient
from didsim.engine._history import History
from didsim.engine._loop import train, train_many
from didsim.engine._metrics import METRICS
from didsim.engine._optimisers import OPTIMISERS, SCHEDULES
from didsim.engine._outer import dice
from didsim.engine._plan import MOST_TABLED, Job, Plan, plan_runs
from didsim.engine._probe import ProbeResult, beta_accuracy, entropy_probe, monte_carlo_entropy
from didsim.engine._product import LinkSums, ProductWeights, reason_against_sums
from didsim.engine._separable import separable_losses
from didsim.engine._settings import Settings
from didsim.engine._weights import TableWeights, Weights

__all__ = [
    "METRICS",
    "MOST_TABLED",
    "OPTIMISERS",
    "SCHEDULES",
    "Evaluation",
    "Group",
    "History",
    "Job",
    "LinkSums",
    "Plan",
    "ProbeResult",
    "ProductWeights",
    "Settings",
    "TableWeights",
    "Weights",
    "beta_accuracy",
    "dice",
    "entropy_probe",
    "evaluated",
    "monte_carlo_entropy",
    "nested_backward",
    "plain_gradient",
    "plan_runs",
    "reason_against_sums",
    "separable_losses",
    "snapshot_pairs",
    "train",
    "train_many",
]
