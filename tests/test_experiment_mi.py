"""Laws of the numbers in the figures that answer to the MI-DPO paper, against values that their code does not use."""

from functools import cache

import numpy as np
import pytest

from didsim.experiment import load_experiment, seeds
from didsim.worlds import bradley_terry

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

SEEDS = seeds(3)


def cell(name, **changes):
    """Return the rows of one cell of an experiment, of its full plan but for few seeds and these changes."""
    experiment = load_experiment(name)
    first = experiment.spec.cells()[0]
    return experiment.module.run_cell({**first, "seed": SEEDS, **changes})


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)


def js(p, q):
    middle = 0.5 * (p + q)
    return 0.5 * ((p * np.log(p / middle)).sum(axis=-1) + (q * np.log(q / middle)).sum(axis=-1))


# --- mi_table ---------------------------------------------------------------------------------------------


def recovered(prior):
    rows = cell("mi_table", prior=prior)
    return rows.pivot_table(index="seed", columns="quantity", values="value")


@pytest.mark.parametrize("prior", load_experiment("mi_table").spec.axes["prior"])
def test_a_prior_recovers_its_loss_to_rounding_unless_it_is_the_printed_one(prior):
    exact = recovered(prior)[["value", "gradient"]].to_numpy() < 1e-13
    assert exact.all() if prior != "r_dpo, printed" else not exact.any()


def test_the_gradient_of_centropy_with_its_prior_frozen_is_divided_by_eta():
    np.testing.assert_allclose(recovered("centropy")["gradient_frozen"], 1.0 / 0.8 - 1.0, rtol=1e-9)


@pytest.mark.parametrize("prior", ["centropy", "simpo", "tdpo", "tis_dpo", "sparse_po"])
def test_freezing_a_prior_changes_the_gradient_and_not_where_it_ends(prior):
    found = recovered(prior)
    assert (found["gradient_frozen"] > 1e-3).all()
    assert (found["end_frozen"] < 1e-12).all()


def test_a_uniform_prior_forgets_the_reference_and_the_last_policy_moves_twice():
    module = load_experiment("mi_table").module
    distances = {prior: recovered(prior)["js_target"] for prior in ("uniform", "previous")}
    for seed in SEEDS:
        problem, _ = module._world({"alpha": 2.0, "num_prompts": 2, "prior": "uniform"}, seed)
        gain = problem.target.log_probs - problem.reference.log_probs
        for prior, scores in (("uniform", gain), ("previous", problem.target.log_probs + gain)):
            expected = js(problem.target.probs, softmax(scores)).mean()
            assert distances[prior][seed] == pytest.approx(expected, abs=1e-9)


# --- mi_joint ---------------------------------------------------------------------------------------------


WORLDS = ("all policies", "restricted, one prompt")


@cache
def ends(world):
    """Return the last values of every prior with one prompt."""
    rows = cell("mi_joint", world=world, num_prompts=1, num_classes=6, num_features=2, steps=600)
    return rows.sort_values("step").groupby(["quantity", "prior", "seed"])["value"].last()


def test_a_learned_prior_takes_half_of_what_is_to_be_learned():
    """Policy and prior have opposite gradients, so that a free policy with one prompt ends at π_ref e^{r/2}."""
    found = ends("all policies")["js_target", "learned"]
    for seed in SEEDS:
        world = bradley_terry(6, seed=seed, num_prompts=1)
        half = softmax(0.5 * (world.reference.log_probs + world.target.log_probs))
        assert found[seed] == pytest.approx(js(world.target.probs, half).item(), rel=1e-3)


@pytest.mark.parametrize("world", WORLDS)
def test_a_learned_prior_attains_the_least_loss_and_dpo_does_if_its_class_can(world):
    excess = ends(world)["excess"]
    assert (excess["learned"].abs() < 1e-6).all()
    assert (excess["reference"].abs() < 1e-6).all() if world == "all policies" else (excess["reference"] > 1e-4).all()


@pytest.mark.parametrize("world", WORLDS)
def test_alternation_with_one_prompt_has_margins_of_zero(world):
    """Its loss is log 2, and the least one is the entropy of the labels."""
    excess = ends(world)["excess"]["marginal"]
    for seed in SEEDS:
        law = bradley_terry(6, seed=seed, num_prompts=1).pairs[0]
        entropy = -(law * np.log(law / (law + law.T))).sum()
        assert excess[seed] == pytest.approx(np.log(2.0) - entropy, abs=1e-9)


def test_a_policy_whose_prior_follows_it_loses_all_responses_that_are_rejected_more_often():
    """At margins of 0 its gradient is the constant (l − w)/2, whose signs RMSprop follows with equal steps."""
    found = ends("all policies")["js_target", "marginal"]
    for seed in SEEDS:
        world = bradley_terry(6, seed=seed, num_prompts=1)
        kept = np.where(world.chosen.probs > world.rejected.probs, world.reference.probs, 1e-12)
        assert found[seed] == pytest.approx(js(world.target.probs, kept / kept.sum()).item(), rel=1e-3)


@pytest.mark.parametrize("world", WORLDS)
def test_the_best_policy_of_the_class_is_the_target_only_if_all_are_allowed(world):
    assert (ends(world)["js_best", "best"] < 1e-15).all() == (world == "all policies")
