"""Laws of the numbers in the figure on finite data, against values that its code does not use."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from didsim import PreferenceDataset, identify, predicted_error
from didsim.experiment import load_experiment, seeds
from didsim.worlds import bradley_terry, draw_finite

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

EXPERIMENT = load_experiment("sample_size")


def cell(**changes):
    """Return the rows of one size, of the full plan but for these changes."""
    return EXPERIMENT.module.run_cell({**EXPERIMENT.spec.cells()[0], "seed": seeds(4), **changes})


def test_of_two_responses_an_estimate_exists_if_each_was_seen_to_beat_the_other():
    """With a, b the chances that a pair shows one and the other, inclusion and exclusion give the share."""
    rows = cell(num_classes=2, num_pairs=12, datasets=400, steps=1)
    rows = rows[(rows["panel"] == "all pairs") & (rows["quantity"] == "share")]
    shares = rows.pivot_table(index="seed", columns="series", values="value")
    for seed, share in shares.iterrows():
        world = bradley_terry(num_classes=2, seed=seed)
        w = 2.0 * world.reference.probs.prod()
        a = w * expit(np.subtract(*(world.target.log_probs - world.reference.log_probs)))
        b = w - a
        exists = 1.0 - (1.0 - a) ** 12 - (1.0 - b) ** 12 + (1.0 - w) ** 12
        open_ = (1.0 - w) ** 12
        for name, expected in (("exists", exists), ("not-identified", open_), ("at-infinity", 1.0 - exists - open_)):
            assert share[name] == pytest.approx(expected, abs=4.0 * np.sqrt(expected * (1.0 - expected) / 400) + 1e-9)


def test_the_limiting_law_of_two_responses_is_a_scaled_chi_square():
    """KL tends to ½ π₁π₂ (δs)², and δs has the variance of the log-odds of two counts, (1/a + 1/b)/n."""
    world = bradley_terry(num_classes=2)
    draws = EXPERIMENT.module._limiting_errors(world, 1000)
    odds = world.pairs[0, 1], world.pairs[1, 0]
    scale = 0.5 * world.target.probs.prod() * (1.0 / odds[0] + 1.0 / odds[1]) / 1000
    assert np.median(draws) == pytest.approx(0.4549 * scale, rel=0.05)  # the median of χ² with one degree of freedom
    assert draws.mean() == pytest.approx(scale, rel=0.05)


def test_the_limiting_law_of_many_responses_has_the_mean_that_the_library_predicts():
    world = bradley_terry(num_classes=8, seed=3)
    draws = EXPERIMENT.module._limiting_errors(world, 500)
    assert draws.mean() == pytest.approx(predicted_error(world, 500).kl, abs=4.0 * draws.std() / np.sqrt(len(draws)))


def test_many_pairs_have_the_errors_of_the_limit_and_the_accuracy_of_bayes():
    rows = cell(num_classes=4, num_pairs=300_000, datasets=100, steps=1000)
    means = rows.groupby(["quantity", "series"])["value"].mean()
    for name in ("median", "90% quantile"):
        assert means["kl", name] == pytest.approx(means["kl_limit", name], rel=0.15)
    assert means["js", "mean"] == pytest.approx(means["js_limit", "mean"], rel=0.1)
    for name in ("training pairs", "fresh pairs"):
        assert means["accuracy", name] == pytest.approx(means["accuracy", "Bayes"], abs=1e-3)


def test_a_quantile_that_is_infinite_in_one_world_has_no_mean():
    rows = cell(num_pairs=30, datasets=10, steps=1)
    assert not (rows["quantity"] == "kl").any()
    rows = rows.assign(value=rows["value"].clip(upper=1.0))
    extra = rows[rows["quantity"] == "kl_limit"].query("seed < 44").assign(quantity="kl")
    points = EXPERIMENT.module.summarise(pd.concat([rows, extra], ignore_index=True))
    assert "kl_limit" in set(points["quantity"])
    assert "kl" not in set(points["quantity"])


def test_the_words_of_the_caption_are_those_of_a_dataset():
    world = bradley_terry(num_classes=8, seed=42)
    sample = draw_finite(world, 100, 1.0, 42 * EXPERIMENT.spec.constants["datasets"])
    found = identify(PreferenceDataset.from_classes(*np.nonzero(sample.pairs), 8), 8)
    assert found.sentence in EXPERIMENT.spec.caption
