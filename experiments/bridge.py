"""A small transformer trained by the language-model path, against the exact stationary policy of each objective."""

from copy import deepcopy

import pandas as pd

from didsim import Policy, Problem, Sequences, js, objective, solve
from didsim.experiment import KINDS, Spec, describe, kind_of, mean_bands, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import OKABE_ITO, objective_look

SPEC = Spec(
    id="bridge",
    title="A transformer trained with each objective ends at the policy that the solver finds",
    source="ours",
    caption=(
        "Jensen–Shannon divergence (nats, mean over prompts) between the stationary policy that the solver finds "
        "and the policy of a transformer of two layers, enumerated: before training, where it is π_ref, and after. "
    ),
    alt="A row for each objective with two dots on a logarithmic axis, far apart for most of them.",
    axes={"objective": tuple(name for name in IMPLEMENTATIONS)},
    batch={"seed": seeds(2)},
    constants={"vocabulary": 3, "max_length": 3, "num_prompts": 2, "tau": 2.0, "steps": 2000, "learning_rate": 5e-3},
    quick={"objective": ("dpo", "simpo", "tdpo2"), "steps": 100},
    size=(5.2, 6.6),
    headline="js_solver",
    minutes=40.0,
)
