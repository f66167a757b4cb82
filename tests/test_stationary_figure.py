"""Tests of the figure `stationary`, from its cells to its picture."""

import numpy as np
import pandas as pd
import pytest

from didsim import OBJECTIVES, Problem, js, objective, solve
from didsim.experiment import load_experiment, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import render

STATIONARY = load_experiment("stationary")
KINDS = {"converged", "boundary", "continuum", "unsolved"}


def solved(name, **changes):
    """Return the rows of one cell of `stationary`, of few classes and seeds, at one temperature."""
    given = {"objective": name, "tau": (4.0,), "seed": seeds(4), "num_classes": 5, "trial_seeds": 2, "most_points": 12}
    return STATIONARY.module.run_cell({**given, **changes})


def values(rows, quantity):
    return rows[rows["quantity"] == quantity].set_index("seed")["value"]


def svg(experiment, frame):
    return render(lambda axes: experiment.module.draw(frame, axes), experiment.spec.panels, (5, 4), ("svg",))["svg"]


def test_every_objective_that_comes_with_didsim_is_in_the_full_plan():
    assert STATIONARY.spec.axes["objective"] == tuple(IMPLEMENTATIONS)
    assert set(IMPLEMENTATIONS) <= set(OBJECTIVES)


def test_the_quick_plan_is_a_part_of_the_full_one():
    assert set(STATIONARY.spec.quick["objective"]) < set(STATIONARY.spec.axes["objective"])


def test_dpo_is_exact_and_the_log_pi_reward_is_the_did():
    assert values(solved("dpo"), "js_target").max() < 1e-20
    assert values(solved("log_pi"), "js_did").max() < 1e-20


def test_distances_are_those_of_the_solver_for_every_seed():
    rows = solved("cal_dpo")
    beta = float(rows["hyperparameters"].iloc[0].removeprefix("beta=").split()[0])
    for seed in seeds(4):
        problem = Problem.from_temperature(5, 4.0, seed)
        policy = solve(problem, objective("cal_dpo", beta=beta), starts=1).policy
        assert values(rows, "js_target")[seed] == pytest.approx(float(js(problem.target, policy)), rel=1e-9)
        assert values(rows, "js_did")[seed] == pytest.approx(float(js(problem.did, policy)), rel=1e-9)


def test_the_point_of_the_grid_is_the_best_one_for_all_seeds_together():
    rows = solved("simpo", seed=seeds(2))
    chosen = values(rows, "js_target").mean()
    for point in OBJECTIVES["simpo"].grid():
        problems = [Problem.from_temperature(5, 4.0, seed) for seed in seeds(2)]
        others = [solve(problem, objective("simpo", **point), starts=1) for problem in problems]
        distance = np.mean([float(js(one.problem.target, one.policy)) for one in others])
        assert chosen <= distance * (1.0 + 1e-9)


def test_each_temperature_has_its_own_best_point():
    taus = (0.25, 2.0, 4.0)
    together = solved("simpo", tau=taus).set_index(["tau", "seed", "quantity"])
    assert together["hyperparameters"].nunique() > 1
    for tau in taus:
        alone = solved("simpo", tau=(tau,)).set_index(["tau", "seed", "quantity"])
        assert (together.loc[alone.index, "hyperparameters"] == alone["hyperparameters"]).all()
        assert together.loc[alone.index, "value"].to_numpy() == pytest.approx(alone["value"].to_numpy(), abs=1e-12)


def test_points_that_tie_up_to_rounding_leave_the_first_of_the_grid():
    point = next(iter(OBJECTIVES["r_dpo"].grid()))
    wanted = objective("r_dpo", **point).hyperparameters
    written = dict(part.split("=") for part in solved("r_dpo")["hyperparameters"].iloc[0].split())
    assert float(written["alpha"]) == wanted["alpha"]


def test_the_kinds_of_a_point_are_shares():
    rows = solved("kto")
    kinds = rows[rows["quantity"].isin(KINDS)]
    assert set(kinds["quantity"]) == KINDS
    assert (kinds.groupby("seed")["value"].sum() == 1.0).all()


def test_an_objective_without_an_isolated_solution_has_no_distance():
    rows = solved("dpo_pg")
    assert set(rows["quantity"]) == KINDS
    assert not {"js_target", "js_did"} & set(STATIONARY.module.summarise(rows)["quantity"])


def table(*points):
    """Return a summary as `stationary` draws it: (objective, τ, kind, JS to the target, JS to q)."""
    rows = []
    for name, tau, kind, target, did in points:
        measured = {"js_target": target, "js_did": did} if target is not None else {}
        for quantity, mean in {**measured, **{one: float(one == kind) for one in KINDS}}.items():
            rows.append({"panel": "", "series": name, "quantity": quantity, "x": tau, "mean": mean})
    frame = pd.DataFrame(rows)
    return frame.assign(lo=frame["mean"], hi=frame["mean"], n=2, band="", hyperparameters="")


def words(frame):
    """Return what stands in the cells of the left panel, row by row, and the order of the rows."""
    seen = {}

    def look(axes):
        STATIONARY.module.draw(frame, axes)
        axis = axes.flat[0]
        seen["rows"] = [label.get_text() for label in axis.get_yticklabels()]
        seen["cells"] = [text.get_text() for text in axis.texts]

    render(look, (1, 2), (5, 4), ("svg",))
    return seen


def test_a_table_shows_exactness_limits_and_what_has_no_solution():
    frame = table(
        ("simpo", 2.0, "boundary", 0.031, 0.2),
        ("dpo_pg", 2.0, "continuum", None, None),
        ("dpo", 2.0, "converged", 0.0, 2e-5),
        ("robust_dpo", 2.0, "unsolved", None, None),
    )
    seen = words(frame)
    assert seen["rows"] == ["DPO", "SimPO", "rDPO", "DPO-PG"]
    assert seen["cells"] == ["exact", "0.031 ∂", "none", "none ~"]


def test_objectives_are_ordered_by_the_mean_logarithm_of_their_distance():
    frame = table(
        *(("simpo", tau, "converged", 0.01, 0.2) for tau in (0.5, 2.0)),
        *(("orpo", tau, "converged", value, 0.2) for tau, value in ((0.5, 0.5), (2.0, 1e-5))),
    )
    assert words(frame)["rows"] == ["ORPO", "SimPO"]


def test_a_table_without_distances_is_no_summary_of_this_figure():
    with pytest.raises(KeyError):
        svg(STATIONARY, table(("dpo", 2.0, "converged", 0.1, 0.1)).query("quantity == 'js_did'"))
