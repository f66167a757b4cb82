"""Laws of the numbers in the figures that answer to the MI-DPO paper, against values that their code does not use."""

import numpy as np
import pytest

from didsim.experiment import load_experiment, seeds

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
