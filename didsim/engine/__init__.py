"""The batched training engine: many runs as one tensor, every recorded quantity exact."""

from didsim.engine._history import History
from didsim.engine._loop import train, train_many
from didsim.engine._metrics import METRICS
from didsim.engine._optimisers import OPTIMISERS, SCHEDULES
from didsim.engine._outer import dice
from didsim.engine._probe import ProbeResult, beta_accuracy, entropy_probe, monte_carlo_entropy
from didsim.engine._settings import Settings

__all__ = [
    "METRICS",
    "OPTIMISERS",
    "SCHEDULES",
    "History",
    "ProbeResult",
    "Settings",
    "beta_accuracy",
    "dice",
    "entropy_probe",
    "monte_carlo_entropy",
    "train",
    "train_many",
]
