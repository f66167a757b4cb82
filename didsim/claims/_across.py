"""Across the papers: displacement, sample size, and which divergences go with which losses."""

from typing import Any

import numpy as np

from didsim.claims import _across_displacement, _across_divergences
from didsim.claims._claim import Claim, Control
from didsim.claims._fields import Choice, Count, Instance, Seed, Simplex
from didsim.differential import ideal_rejected
from didsim.identification import EXISTS, identify, predicted_error
from didsim.info import kl
from didsim.objectives import objective
from didsim.preference import PreferenceDataset, Problem
from didsim.stationary import solve

DATASETS, PAIRS = 200, 2_000
"""So many datasets of so many pairs stand for the mean error."""


def sample_error(instance: Instance) -> float:
    """Return how far the mean of KL(π°‖π̂) over datasets is from the prediction, in standard errors.

    Each dataset is one prompt of a larger problem, as prompts are fitted apart; those without a maximum are left out.
    """
    reference, target, beta = instance["reference"], instance["target"], instance["beta"]
    one, classes = Problem.from_policies(reference, target, beta=beta), instance["num_classes"]
    rng, copies = np.random.default_rng(instance["seed"]), instance.get("copies", 1)
    drawn = [rng.choice(classes, (DATASETS, PAIRS // copies), p=side.probs) for side in (one.chosen, one.rejected)]
    sides = [np.tile(side, (1, copies)) for side in drawn]
    fits = np.array(identify(_dataset(sides, classes), classes, DATASETS).statuses) == EXISTS
    count = int(fits.sum())
    if count == 0:
        return float("inf")
    tables = [np.tile(policy, (count, 1)) for policy in (reference, target)]
    many = Problem.from_policies(*tables, beta=beta, prompts=np.full(count, 1.0 / count))
    pairs = _dataset([side[fits] for side in sides], classes)
    fitted = solve(many, objective("dpo", beta=beta), dataset=pairs, starts=1).policy
    if fitted is None:
        return float("inf")
    mean, predicted = kl(many.target, fitted).mean(), predicted_error(one, sides[0].shape[1], beta=beta).kl
    return float(abs(mean / predicted - 1.0) / np.sqrt(2.0 / count))


def _dataset(sides: list[Any], num_classes: int) -> PreferenceDataset:
    """Return the pairs of several datasets [X, n] as those of X prompts."""
    count, size = sides[0].shape
    asked = np.repeat(np.arange(count), size)
    return PreferenceDataset.from_classes(sides[0].ravel(), sides[1].ravel(), num_classes, asked, count)


INDEPENDENT = "pairs are drawn independently"

SAMPLE_SIZE = Claim(
    name="x.sample-size",
    statement=(
        "Over datasets of n pairs whose maximum-likelihood policy π̂ exists, the mean of KL(π°‖π̂), π° being DPO's "
        "policy of the population, is for large n that of the Fisher information, ½ Σ π° Var log π̂, which falls like "
        "1/n."
    ),
    source="ours; van der Vaart (1998), Theorem 5.39; didsim.predicted_error",
    verdict="holds",
    note=(
        "The errors e of the fitted scores have the covariance I⁺/n for large n, I being the Fisher information of one "
        "pair, and log π̂ − log π° = (e − Σ π° e)/β. The condition is needed for every n: with a positive chance some "
        "response never wins or never loses, π̂ does not exist, and the plain expectation of KL is infinite; for two "
        "responses that chance is about (1 − w₀l₁)ⁿ + (1 − w₁l₀)ⁿ, of chosen w and rejected l. The check fits 200 "
        "datasets of 2000 pairs, in which each response is seen a hundred times or more, and asks for a mean within "
        "eight standard errors. Copies bring nothing: in the control each pair stands four times, and the error is "
        "four times what n promises."
    ),
    fields={
        "num_classes": Count(2, 4),
        "reference": Simplex(),
        "target": Simplex(),
        "beta": Choice((0.5, 1.0, 2.0)),
        "seed": Seed(),
    },
    check=sample_error,
    tolerance=8.0,
    reason="eight standard errors of a mean of χ²: a larger error has a chance of 1e-9",
    assumptions={
        "every response is chosen and rejected a hundred times or more": lambda i: (
            min(*i["reference"], *ideal_rejected(i["reference"], i["target"], i["beta"]).probs) > 0.05
        ),
        INDEPENDENT: lambda i: "copies" not in i,
    },
    cost=100,
    control=Control(
        breaks=INDEPENDENT,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.75, 0.25],
            "beta": 1.0,
            "seed": 0,
            "copies": 4,
        },
    ),
)

CLAIMS = (*_across_displacement.CLAIMS, SAMPLE_SIZE, *_across_divergences.CLAIMS)
