"""Laws of the numbers in the figures that answer to the DID paper, against values that their code does not use."""

import numpy as np
import pytest

from didsim import Policy, Problem, dpo_optimum, fisher_information, objective, train
from didsim.experiment import load_experiment, seeds
from didsim.objectives import IMPLEMENTATIONS

pytestmark = pytest.mark.slow  # of the gallery; `make test` runs the main figures

SEEDS = seeds(4)


def cell(name, **changes):
    """Return the rows of one cell of an experiment, of its full plan but for few seeds and these changes."""
    experiment = load_experiment(name)
    first = experiment.spec.cells()[0]
    return experiment.module.run_cell({**first, "seed": SEEDS, **changes})


def values(rows, quantity, by):
    """Return a quantity, with rows for seeds and columns for the points of a curve."""
    return rows[rows["quantity"] == quantity].pivot_table(index="seed", columns=by, values="value")


# --- claim41_phase ----------------------------------------------------------------------------------------


def phase(family):
    return cell("claim41_phase", family=family, num_classes=6, points=25)


def test_at_half_the_temperature_the_information_is_the_reference_itself():
    table = values(phase("temperature"), "excess", ["sharpness", "x"])
    at = table.columns.get_level_values("x")
    assert np.abs(table.loc[:, np.isclose(at, 0.5)]).to_numpy().max() < 1e-13
    assert (table.loc[:, at < 0.49] < 0.0).all(axis=None)
    assert (table.loc[:, (at > 0.51) & (at <= 1.0)] > 0.0).all(axis=None)


def test_the_information_of_a_boost_depends_on_the_boost_alone():
    rows = phase("boost")
    excess, room = (values(rows, name, ["sharpness", "x"]) for name in ("excess", "certain_range"))
    for (sharpness, factor), column in excess.items():
        share = factor / (factor + 5.0)
        spread = -share * np.log(share) - (1.0 - share) * np.log((1.0 - share) / 5.0)
        reference = np.log(6.0) - room[sharpness, 0.0] ** 2 / 8.0
        np.testing.assert_allclose(column, spread - reference, atol=1e-12)


def test_the_information_of_a_mixture_leans_to_what_the_reference_hardly_gives():
    """With weight s of the uniform policy q ∝ 1 + s/(K π_ref)."""
    excess = values(phase("mixture"), "excess", ["sharpness", "x"])
    for (sharpness, weight), column in excess.items():
        for seed, found in column.items():
            theta = np.random.default_rng(seed).standard_normal(6)
            reference = np.exp(sharpness * theta) / np.exp(sharpness * theta).sum()
            q = 1.0 + weight / (6.0 * reference)
            q = q / q.sum()
            assert found == pytest.approx(reference @ np.log(reference) - q @ np.log(q), abs=1e-12)


def test_small_updates_have_informations_of_high_entropy_in_every_direction():
    rows = phase("direction")
    excess, certain = (values(rows, name, ["sharpness", "x"]) for name in ("excess", "certain_range"))
    below = [(s, x) for s, x in excess if (x <= certain[s, 0.0]).all()]
    assert len(below) > 50
    assert (excess[below] >= 0.0).all(axis=None)
    assert (excess < 0.0).any(axis=None)


# --- fig5_8_9 ---------------------------------------------------------------------------------------------

LIKELIHOODS = load_experiment("fig5_8_9")


@pytest.mark.parametrize("power", LIKELIHOODS.spec.axes["power"])
def test_wherever_pairs_come_from_dpo_ends_at_the_target(power):
    world = LIKELIHOODS.module._world(6, power, 42)
    np.testing.assert_allclose(dpo_optimum(world, 1.0).log_probs, world.target.log_probs, atol=1e-12)


def test_in_the_second_world_rejected_responses_are_the_ideal_ones():
    world = LIKELIHOODS.module._world(6, 0.0, 42)
    assert (world.chosen.probs == world.reference.probs).all()
    odds = 2.0 * world.reference.log_probs - world.target.log_probs
    np.testing.assert_allclose(world.rejected.log_probs, odds - np.log(np.exp(odds).sum()), atol=1e-12)


def test_the_dpo_loss_starts_at_log_2_and_is_that_of_a_loop_over_all_pairs():
    world = LIKELIHOODS.module._world(4, 1.0, 42)
    history = train(world, objective("slic"), steps=50, record_every=50, batch_size=8, keep_policies=True)
    start, end = LIKELIHOODS.module._dpo_loss(history)
    ratio = history.policy.log_probs - world.reference.log_probs
    expected = sum(
        world.chosen.probs[i] * world.rejected.probs[j] * np.log1p(np.exp(ratio[j] - ratio[i]))
        for i in range(4)
        for j in range(4)
    )
    assert start == pytest.approx(np.log(2.0), abs=1e-12)
    assert end == pytest.approx(expected, abs=1e-12)


def test_dpo_pg_lowers_rejected_responses_only_where_its_gradients_are_exact_and_its_steps_plain():
    """What the caption says of the third world: the paper's lemma is about the gradient, not about RMSprop's steps."""
    world = LIKELIHOODS.module._world(32, -1.0, 42)
    exact = {"mode": "population", "optimiser": "sgd", "clip": None, "learning_rate": 0.5}
    plain, sampled = (
        train(world, objective("dpo_pg"), steps=1000, record_every=1000, metrics=("log_pi_rejected",), **settings)
        for settings in (exact, {})
    )
    assert np.diff(plain.metrics["log_pi_rejected"]) < 0.0 < np.diff(sampled.metrics["log_pi_rejected"])


# --- fig2_10_11 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1 / 3, 3.0])
def displaced(request):
    return cell("fig2_10_11", tau=request.param, num_classes=6, steps=2000, record_every=2000)


def moves(rows, quantity):
    return values(rows[rows["series"] == "all s"], quantity, "x")


def test_one_step_of_the_engine_is_the_closed_form(displaced):
    rate, predicted = moves(displaced, "rate"), moves(displaced, "rate_predicted")
    np.testing.assert_allclose(rate, predicted, atol=1e-4)  # a step of 1e-4 has an error of its own size
    assert np.ptp(predicted.to_numpy()) > 0.05


def test_the_sign_of_the_first_move_is_that_of_s_whatever_the_entropy(displaced):
    predicted = moves(displaced, "rate_predicted")
    powers = predicted.columns.to_numpy()
    assert (np.sign(predicted.to_numpy().round(12)) == np.sign(powers)).all()


def test_from_the_target_all_of_its_divergence_is_gained_and_from_the_reference_all_is_lost(displaced):
    end, tau = moves(displaced, "end"), displaced["tau"].iloc[0]
    for seed in SEEDS:
        log_ref = np.random.default_rng(seed).standard_normal(6)
        reference, target = (np.exp(logits) / np.exp(logits).sum() for logits in (log_ref, log_ref / tau))
        assert end.loc[seed, 1.0] == pytest.approx(target @ np.log(target / reference), abs=1e-12)
        assert end.loc[seed, 0.0] == pytest.approx(reference @ np.log(target / reference), abs=1e-12)


def test_training_in_the_did_construction_only_lowers_chosen_responses(displaced):
    curves = displaced[(displaced["series"] == "s = 0") & (displaced["quantity"] == "log_pi_chosen")]
    assert (curves[curves["x"] > 0]["value"] < 0.0).all()
    assert (curves[curves["x"] == 0]["value"] == 0.0).all()


# --- table1_2 ---------------------------------------------------------------------------------------------

TABLES = load_experiment("table1_2")


@pytest.fixture(scope="module")
def estimated():
    return cell("table1_2", num_classes=5, num_prompts=2, steps=600, beta=(0.2, 0.1))


def test_the_exact_entropy_of_table_1_is_that_of_the_odds_to_a_power(estimated):
    exact = values(estimated[estimated["panel"] == "Table 1"].query("series != 'reference'"), "exact", "x")
    for seed in SEEDS:
        _, update = np.random.default_rng(seed).standard_normal((2, 2, 5))
        for beta in (0.2, 0.1):
            policy = np.exp(0.1 * update / beta) / np.exp(0.1 * update / beta).sum(axis=1, keepdims=True)
            assert exact.loc[seed, beta] == pytest.approx(-(policy * np.log(policy)).sum() / 2, abs=1e-9)


def test_all_probes_of_table_2_are_held_against_one_truth(estimated):
    truths = values(estimated[estimated["panel"] == "Table 2"], "exact", ["x", "series"])
    assert len(truths.columns) == 9
    assert (truths.T.groupby("x").nunique() == 1).all(axis=None)
    assert (truths < np.log(5.0) + 1e-12).all(axis=None)


def test_errors_are_estimates_less_exact_values(estimated):
    of = {name: values(estimated.query("series != 'reference'"), name, ["panel", "series", "x"]) for name in COMPARED}
    np.testing.assert_allclose(of["estimate"] - of["exact"], of["error"], atol=1e-15)


COMPARED = ("exact", "estimate", "error")


def test_the_truth_of_table_2_is_the_information_that_leads_to_the_policy_and_not_away():
    """Of large updates the two differ in entropy: DPO at β ends near π_ref e^{u/β}, whose information is e^{u/β}."""
    rows = cell("table1_2", num_classes=4, num_prompts=1, odds=1.0, beta=(1.0,), steps=1000)
    found = values(rows[rows["panel"] == "Table 2"], "exact", ["series", "x"])["long", 1.0]
    gaps = []
    for seed in SEEDS:
        _, update = np.random.default_rng(seed).standard_normal((2, 4))
        towards, away = (np.exp(s * update) / np.exp(s * update).sum() for s in (1.0, -1.0))
        right, wrong = (-(q @ np.log(q)) for q in (towards, away))
        assert found[seed] == pytest.approx(right, abs=0.02)
        gaps.append(abs(right - wrong))
    assert max(gaps) > 0.3


def test_a_long_probe_is_nearer_the_truth_than_a_greedy_one(estimated):
    errors = values(estimated[estimated["panel"] == "Table 2"], "error", ["series", "x"]).abs().mean()
    assert (errors["long"] < 0.05).all()
    assert (errors["greedy"] > 3.0 * errors["long"]).all()


def test_the_spread_is_the_mean_distance_from_the_bias(estimated):
    three = estimated[estimated["seed"].isin(SEEDS[:3])]  # of an odd number the median would give another spread
    points = TABLES.module.summarise(three).set_index(["panel", "series", "quantity", "x"])["mean"]
    errors = values(three[three["panel"] == "Table 2"], "error", ["series", "x"])["greedy", 0.2]
    assert points["Table 2", "greedy", "spread", 0.2] == pytest.approx(np.mean(np.abs(errors - errors.mean())))


# --- fig13 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0.5, 3.0])
def probed(request):
    """The rows of a probe of few responses, and τ."""
    return cell("fig13", tau=request.param, num_classes=4, steps=1024, learning_rate=(0.01, 0.1)), request.param


def test_an_untrained_probe_is_accurate_for_reinforcing_updates_and_never_for_smoothing_ones(probed):
    rows, tau = probed
    assert (values(rows, "beta_accuracy", ["rate", "step"]).xs(0, axis=1, level="step") == float(tau < 1.0)).all(
        axis=None
    )


def test_an_untrained_probe_errs_by_the_difference_of_entropies(probed):
    rows, tau = probed
    error = values(rows, "error", ["rate", "step"])[0.01, 0]
    for seed in SEEDS:
        theta = np.random.default_rng(seed).standard_normal(4)
        start, truth = (np.exp(s * theta) / np.exp(s * theta).sum() for s in (1.0, 1.0 / tau - 1.0))
        expected = abs(truth @ np.log(truth) - start @ np.log(start))
        assert error[seed] == pytest.approx(expected, abs=1e-12)


def test_at_half_the_temperature_the_probe_is_right_before_training(probed):
    rows, tau = probed
    start = values(rows, "error", ["rate", "step"])[0.01, 0]
    assert (start.max() < 1e-12) == (tau == 0.5)


def test_a_larger_rate_fluctuates_more(probed):
    last = values(probed[0], "fluctuation", ["rate", "step"]).xs(1024, axis=1, level="step").mean()
    assert last[0.1] > 3.0 * last[0.01]


# --- fig6 -------------------------------------------------------------------------------------------------


def rewarded(correlation):
    return cell("fig6", correlation=correlation, num_classes=5, steps=20, points=5, beta=(0.5, 2.0))


def test_gains_are_those_of_the_tilted_reference_and_of_the_tilted_uniform_policy():
    gain = values(rewarded(0.7), "gain", ["objective", "x"])
    for seed in SEEDS:
        reward, other = np.random.default_rng(seed).standard_normal((2, 5))
        log_ref = 0.7 * reward + np.sqrt(0.51) * other
        policies = [np.exp(s) / np.exp(s).sum() for s in (log_ref, log_ref + reward / 2.0, reward / 2.0)]
        start, ratio, alone = (policy @ reward for policy in policies)
        assert gain.loc[seed, ("dpo", 2.0)] == pytest.approx(ratio - start, abs=1e-12)
        assert gain.loc[seed, ("log_pi", 2.0)] == pytest.approx(alone - start, abs=1e-12)


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.7])
def test_no_policy_has_more_regularised_reward_than_that_of_the_log_ratio(correlation):
    rows = rewarded(correlation)
    gain, divergence = (values(rows, quantity, ["objective", "x"]) for quantity in ("gain", "kl"))
    for beta in gain["dpo"]:
        best = gain["dpo", beta] - beta * divergence["dpo", beta]
        assert (gain["log_pi", beta] - beta * divergence["log_pi", beta] < best).all()


# --- simplex ----------------------------------------------------------------------------------------------

SIMPLEX = load_experiment("simplex")


@pytest.fixture(scope="module")
def field():
    rows = SIMPLEX.module.run_cell(
        {**SIMPLEX.spec.cells()[0], "part": "field", "seed": (42,), "objective": ("dpo", "simpo")}
    )
    return rows.set_index(["panel", "series", "quantity", "x"])["value"]


def test_every_objective_that_comes_with_didsim_has_a_triangle():
    assert SIMPLEX.spec.batch["objective"] == tuple(IMPLEMENTATIONS)
    assert len(IMPLEMENTATIONS) <= SIMPLEX.spec.panels[0] * SIMPLEX.spec.panels[1]


def test_arrows_of_dpo_are_the_closed_form_of_its_gradient(field):
    """Logits move by v_i = Σ_j (w_i l_j σ(h_j − h_i) − w_j l_i σ(h_i − h_j)), and π_i by π_i (v_i − π·v)."""
    world = Problem.from_policies(SIMPLEX.module._REFERENCE, SIMPLEX.module._TARGET)
    w, l = world.chosen.probs, world.rejected.probs  # noqa: E741
    for x in range(15):
        first, second = (field["dpo", "field", name, x] for name in ("p1", "p2"))
        policy = np.array([first, second, 1.0 - first - second])
        ratio = np.log(policy) - world.reference.log_probs
        pull = np.outer(w, l) / (1.0 + np.exp(ratio[:, None] - ratio))
        velocity = pull.sum(axis=1) - pull.sum(axis=0)
        flow = policy * (velocity - policy @ velocity)
        arrow = np.array([field["dpo", "field", name, x] for name in ("d1", "d2")])
        cross = flow[0] * arrow[1] - flow[1] * arrow[0]
        assert flow[:2] @ arrow > 0.0
        assert abs(cross) < 1e-3 * np.linalg.norm(flow[:2]) * np.linalg.norm(arrow)


def test_the_ring_of_dpo_is_at_the_target_and_that_of_simpo_is_not(field):
    rings = {name: [field[name, "end", quantity, 0] for quantity in ("p1", "p2")] for name in ("dpo", "simpo")}
    np.testing.assert_allclose(rings["dpo"], SIMPLEX.module._TARGET[:2], atol=1e-9)
    assert np.abs(np.array(rings["simpo"]) - SIMPLEX.module._TARGET[:2]).max() > 0.01


def test_dpo_arrives_from_everywhere():
    for part in ("from π_ref", "from 2", "from 3"):
        plan = {**SIMPLEX.spec.cells()[0], "part": part, "seed": SEEDS, "objective": ("dpo",)}
        rows = SIMPLEX.module.run_cell(plan)
        assert rows[rows["quantity"] == "js_target"]["value"].max() < 5e-3  # from 0.05 and more


# --- heatmap_8x8 ------------------------------------------------------------------------------------------


def test_no_policy_attains_more_than_the_target_of_reinforcement_learning():
    """max_π E R − β KL(π‖π_ref) = β log Σ π_ref e^{R/β}."""
    rows = cell("heatmap_8x8", pairs=500, size=4, steps=200)
    value = values(rows, "objective", "series")
    tables = values(rows, "probability", ["series", "x"]).loc[42]
    reward = values(rows, "reward", ["series", "x"]).loc[42, "reward"].to_numpy().reshape(4, 4)
    reference = tables["reference"].to_numpy().reshape(4, 4)
    largest = 0.5 * np.log((reference * np.exp(reward / 0.5)).sum(axis=1)).mean()
    np.testing.assert_allclose(value["target"], largest, atol=1e-12)
    assert (value["trained"] < largest).all()
    assert (value["trained"] > value["reference"]).all()


def test_dpo_from_fresh_pairs_is_reinforcement_learning():
    rows = cell("heatmap_8x8", pairs="population", size=4, steps=2000)
    assert (
        values(rows, "js_target", "series")["trained"].max()
        < 1e-3
        < values(rows, "js_target", "series")["reference"].min()
    )


# --- precision --------------------------------------------------------------------------------------------


def test_rounding_errors_are_of_the_size_of_the_format_times_the_depth():
    errors = values(cell("precision", part="rounding"), "error", ["series", "x"]).mean()
    for name, digits in (("float64", 53), ("float32", 24), ("bfloat16", 8)):
        for depth in (4.0, 64.0):
            assert 0.02 < errors[name, depth] / (depth * 2.0**-digits) < 50.0
    assert (errors["bf16, summed in float32"] < errors["bfloat16"]).all()


def test_training_in_float64_ends_at_the_odds():
    """The steps suffice: what is left in the figure is the precision."""
    module, size = load_experiment("precision").module, 6
    odds = np.random.default_rng(0).standard_normal((2, size))
    labels = 1.0 / (1.0 + np.exp(odds[:, None, :] - odds[:, :, None]))
    log_ref = np.log(np.full(size, 1.0 / size))
    found = module._train(log_ref, labels, module._DTYPES["float64"], {"steps": 600, "learning_rate": 5.0})
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True), odds - odds.mean(axis=1, keepdims=True), atol=1e-6
    )


def test_deep_responses_of_bfloat16_hardly_move():
    errors = values(cell("precision", part="training", steps=200), "error", ["series", "x"]).mean()
    depths = errors["bfloat16"].index
    assert errors["bfloat16"][depths > 100.0].mean() > 3.0 * errors["bfloat16"][depths < 10.0].mean()
    assert (errors["float32"] < 1e-4).all()


# --- hyperparameter_phase ---------------------------------------------------------------------------------


def test_dpo_is_stable_on_one_side_of_the_line_and_not_on_the_other():
    module = load_experiment("hyperparameter_phase").module
    for beta in (0.3, 3.0):
        world = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], beta)
        rates = dict(module._rates(world, beta, 1000))
        near = Policy.from_logits(world.target.log_probs + np.array([1e-3, -1e-3, 0.0]))
        ends = {}
        for factor in (0.9, 1.1):
            settings = {"mode": "population", "optimiser": "sgd", "clip": None, "dtype": "float64", "metrics": ()}
            settings |= {"learning_rate": factor * rates["stable_rate"], "steps": 200, "initial_policy": near}
            end = train(world, objective("dpo", beta=beta), **settings)
            ends[factor] = np.abs(end.policy.log_probs - world.target.log_probs).max()
        assert ends[0.9] < 1e-5 < 1e-3 < ends[1.1]


def test_the_slowest_error_falls_by_a_thousand_at_the_rate_of_arrival():
    module = load_experiment("hyperparameter_phase").module
    world = Problem.from_policies([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 2.0)
    rate = dict(module._rates(world, 2.0, 1000))["arrival_rate"]
    _, vectors = np.linalg.eigh(fisher_information(world))
    near = Policy.from_logits(world.target.log_probs + 1e-4 * vectors[:, 1])
    settings = {"mode": "population", "optimiser": "sgd", "clip": None, "dtype": "float64", "metrics": ()}
    end = train(
        world, objective("dpo", beta=2.0), steps=1000, learning_rate=rate, initial_policy=near, **settings
    ).policy.log_probs
    start, left = (np.ptp(policy - world.target.log_probs) for policy in (near.log_probs, end))
    assert left / start == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(("name", "overflows"), [("dpo", False), ("exponential", True)])
def test_only_a_slope_without_bound_overflows(name, overflows):
    rows = cell("hyperparameter_phase", part=name, num_classes=3, steps=100, points=4)
    assert (values(rows, "diverged", ["beta", "x"]).to_numpy().max() == 1.0) == overflows


@pytest.mark.parametrize(("name", "excludes"), [("dpo", False), ("apo_zero", True)])
def test_only_a_limit_on_the_boundary_is_marked_so(name, excludes):
    rows = cell("hyperparameter_phase", part=name, num_classes=3, steps=5, points=3)
    assert (values(rows, "boundary", ["beta", "x"]).to_numpy() == float(excludes)).all()


# --- heatmap_8x8 ------------------------------------------------------------------------------------------


def test_pairs_have_an_estimate_if_at_every_prompt_each_response_was_seen_to_win_and_to_lose():
    module = load_experiment("heatmap_8x8").module
    beaten = np.array([[[0.0, 0.5], [0.5, 0.0]], [[0.0, 0.3], [0.7, 0.0]]])
    never = np.array([[[0.0, 0.5], [0.5, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    reference = Policy.from_probs(np.full((2, 2), 0.5))
    for pairs, exists in ((beaten, True), (never, False)):
        sample = Problem.from_pairs(reference, reference, pairs, prompts=np.array([0.5, 0.5]))
        assert module._has_estimate(sample) == exists
