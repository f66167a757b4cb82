"""Laws of the leaderboard: what its rules choose, and its ranks."""

import numpy as np
import pytest
from scipy.special import expit, log_expit, logit

from didsim import Policy, kl
from didsim.experiment import load_experiment, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.worlds import bradley_terry, nash_policy

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

BOARD = load_experiment("leaderboard")
WORLDS = ("DID", "20% noise", "length bias", "restricted")


def rows_of(name, **changes):
    plan = BOARD.spec.replaced(objective=(name,), seed=seeds(2), world=WORLDS, steps=300, **changes)
    return BOARD.module.run_cell(plan.cells()[0])


@pytest.fixture(scope="module")
def board():
    """The summary of a few objectives in a few worlds."""
    import pandas as pd

    return BOARD.module.summarise(pd.concat([rows_of(name) for name in ("dpo", "ipo", "r_dpo")], ignore_index=True))


def mean(board, quantity, series, panel):
    return board.set_index(["quantity", "series", "panel"])["mean"][quantity, series, panel]


def test_an_oracle_is_never_farther_from_the_truth_than_a_practitioner(board):
    for name in ("dpo", "ipo", "r_dpo"):
        for world in WORLDS:
            oracle, practitioner = (mean(board, f"js_{rule}", name, world) for rule in ("oracle", "practitioner"))
            assert oracle <= practitioner * (1.0 + 1e-6)


def test_the_practitioner_takes_the_likeliest_and_the_oracle_the_nearest_and_ties_go_to_the_first():
    likely, near, dull = (-0.3, 0.5, "likely"), (-0.6, 0.1, "near"), (-0.9, 0.9, "dull")
    for found in ([likely, near, dull], [dull, near, likely], [near, dull, likely]):
        assert BOARD.module._RULES["practitioner"](found) == likely
        assert BOARD.module._RULES["oracle"](found) == near
    rounding = [(-0.3, 0.1, "first"), (-0.3 + 1e-12, 0.1 - 1e-12, "second")]
    assert all(choose(rounding)[2] == "first" for choose in BOARD.module._RULES.values())


def test_dpo_is_exact_in_its_own_construction_and_r_dpo_is_for_an_oracle_where_length_is_paid(board):
    assert mean(board, "js_practitioner", "dpo", "DID") < 1e-12
    assert mean(board, "js_oracle", "r_dpo", "length bias") < 1e-12 < mean(board, "js_oracle", "dpo", "length bias")


def test_ranks_of_n_objectives_have_the_mean_of_1_to_n(board):
    for rule in ("oracle", "practitioner"):
        assert board[board["quantity"] == f"rank_{rule}"]["mean"].mean() == pytest.approx(2.0)


def test_every_objective_with_a_temperature_may_choose_it():
    for name in IMPLEMENTATIONS:
        betas = {point.hyperparameters.get("beta") for point in BOARD.module._points(name)}
        assert betas == {None} or len(betas) > 1, name
    assert {1.0, 0.5} <= {point.hyperparameters["beta"] for point in BOARD.module._points("dpo")}


def test_the_start_is_the_reference_once_and_has_no_rank(board):
    start = board[board["quantity"] == "js_start"]
    assert sorted(start["panel"]) == sorted(WORLDS)
    assert set(start["series"]) == {"reference"}
    assert not (board["quantity"].str.startswith("rank") & (board["series"] == "reference")).any()
    worlds = [BOARD.module._draw("DID", seed, dict(BOARD.spec.constants))[2] for seed in seeds(2)]
    gone = [0.5 * (kl(w.target, middle) + kl(w.reference, middle)) for w in worlds for middle in [between(w)]]
    assert mean(board, "js_start", "reference", "DID") == pytest.approx(np.mean(gone))


def test_for_small_rewards_the_truth_of_circles_is_that_of_log_odds():
    """To first order π* ∝ π_ref e^r, which the game reaches at β = 1/4 and not at another."""
    _, _, truth = BOARD.module._draw("circles", 42, dict(BOARD.spec.constants))
    wins = expit(1e-6 * logit(truth.preferences))
    small = nash_policy(truth.reference, wins, beta=0.25)
    assert nash_policy(truth.reference, truth.preferences, beta=0.25).log_probs == pytest.approx(truth.target.log_probs)
    gains = small.log_probs - truth.reference.log_probs
    wanted = logit(wins) @ truth.reference.probs
    assert gains - gains.mean() == pytest.approx(wanted - wanted.mean(), rel=1e-3, abs=1e-12)


def between(world):
    return Policy.from_probs(0.5 * (world.target.probs + world.reference.probs))


def test_held_out_likelihood_is_that_of_the_implied_reward_and_largest_at_the_truth():
    world = bradley_terry(5, seed=3)
    rng = np.random.default_rng(0)

    def by_hand(policy):
        gain = policy.log_probs - world.reference.log_probs
        return sum(world.pairs[i, j] * log_expit(gain[i] - gain[j]) for i in range(5) for j in range(5))

    found = BOARD.module._likelihood(world.target, world)
    assert found == pytest.approx(by_hand(world.target))
    for _ in range(20):
        other = Policy.from_logits(world.target.log_probs + rng.normal(size=5))
        assert BOARD.module._likelihood(other, world) == pytest.approx(by_hand(other))
        assert by_hand(other) < found


def test_the_labels_of_the_noisy_world_are_flipped_as_often_as_it_says():
    seen, _, truth = BOARD.module._draw("20% noise", 42, dict(BOARD.spec.constants))
    clean = bradley_terry(8, seed=42)
    gain = clean.target.log_probs - clean.reference.log_probs
    wins = expit(gain[:, None] - gain[None, :])
    assert seen.preferences == pytest.approx(0.8 * wins + 0.2 * wins.T)
    assert truth.target.probs == pytest.approx(clean.target.probs)
