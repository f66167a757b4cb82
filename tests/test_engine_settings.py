"""What the engine refuses, how it says so, and what it leaves untouched."""

import dataclasses
import math
import random
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from didsim import METRICS, Policy, PreferenceDataset, Problem, objective, train, train_many
from didsim.engine import OPTIMISERS, SCHEDULES, Settings
from didsim.torch_bridge import threads

NAN, INF = float("nan"), float("inf")

BAD_WHOLE_NUMBERS = (NAN, INF, 0, -1, True, "abc", "12", 2.5, None, 10**12, 1e12, [3])
BAD_POSITIVE_NUMBERS = (NAN, INF, -INF, 0, 0.0, -1e-3, True, "abc", "1e-3", "nan", 1e-400, [1e-3], 10**400)
BAD_SEEDS = (-1, 2**65, 2**63, True, "abc", 2.5, NAN, None, b"1", object())
BAD_NAMES = ("", "abc", None, 3, True, ["adam"])


def problem(num_classes: int = 5) -> Problem:
    return Problem.from_temperature(num_classes, tau=2.0, seed=1)


def run(**settings):
    return train(problem(), objective("dpo"), **{"steps": 3, "batch_size": 4, **settings})


def refusal(name: str):
    """A ValueError or TypeError of the package's form, which names the argument."""
    return pytest.raises((ValueError, TypeError), match=rf"^{name}\b.* must be ")


# --- bad values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD_WHOLE_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["steps", "batch_size", "record_every"])
def test_what_is_not_a_positive_whole_number_is_refused_by_name(name, value):
    with refusal(name):
        run(**{name: value})


@pytest.mark.parametrize("value", BAD_POSITIVE_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["learning_rate", "clip"])
def test_what_is_not_a_positive_number_is_refused_by_name(name, value):
    with refusal(name):
        run(**{name: value})


def test_a_learning_rate_is_needed_but_clipping_can_be_left_out():
    with refusal("learning_rate"):
        run(learning_rate=None)
    assert run(clip=None).status == "completed"


@pytest.mark.parametrize("value", BAD_SEEDS, ids=lambda value: repr(value)[:12])
def test_a_bad_seed_is_refused_by_name(value):
    with refusal("seed"):
        run(seed=value)


@pytest.mark.parametrize("value", BAD_SEEDS[:8], ids=repr)
def test_a_bad_seed_among_good_ones_is_refused_by_name(value):
    with refusal("seed"):
        train_many([(problem(), objective("dpo"))] * 2, steps=2, seed=[3, value])


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3]], ids=repr)
def test_a_list_of_seeds_of_the_wrong_length_is_refused(seeds):
    with pytest.raises(ValueError, match=r"^seed must be one number, or 2 of them"):
        train_many([(problem(), objective("dpo"))] * 2, steps=2, seed=seeds)


@pytest.mark.parametrize("value", BAD_NAMES, ids=repr)
@pytest.mark.parametrize("name", ["schedule", "optimiser", "mode", "dtype", "path"])
def test_an_unknown_name_is_refused(name, value):
    with refusal(name):
        run(**{name: value})


@pytest.mark.parametrize(
    ("name", "typo", "meant"),
    [
        ("optimiser", "adamm", "adam"),
        ("optimiser", "rmsprob", "rmsprop"),
        ("schedule", "cosin", "cosine"),
        ("mode", "sample", "sampled"),
        ("dtype", "float46", "float64"),
        ("path", "tabel", "table"),
        ("metrics", ("js_traget",), "js_target"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_one_that_was_meant(name, typo, meant):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .* Did you mean .*{meant}"):
        run(**{name: typo})


def test_a_mistyped_setting_is_answered_with_the_one_that_was_meant():
    with pytest.raises(ValueError, match=r"^setting must be one of .*Did you mean learning_rate"):
        run(learning_rat=1e-3)


@pytest.mark.parametrize("value", [("nonsense",), ("loss", "abc"), (3,), (None,), "loss", 3], ids=repr)
def test_unknown_metrics_are_refused_by_name(value):
    with refusal("metrics"):
        run(metrics=value)


def test_a_run_may_record_no_metric_at_all():
    history = run(metrics=())
    assert list(history.frame.columns) == ["step"]
    assert history.steps.tolist() == [0, 3]


@pytest.mark.parametrize("mode", ["sampled", "population"])
def test_a_dataset_outside_its_mode_is_refused(mode):
    with pytest.raises(ValueError, match=r"^mode and dataset must be given together"):
        run(mode=mode, dataset=10)


def test_the_dataset_mode_without_a_dataset_is_refused():
    with pytest.raises(ValueError, match=r"^mode and dataset must be given together"):
        run(mode="dataset")


@pytest.mark.parametrize("value", [0, -1, True, "abc", 2.5, NAN, 10**12, [1, 2]], ids=repr)
def test_what_is_neither_a_dataset_nor_a_number_of_pairs_is_refused(value):
    with refusal("dataset"):
        run(mode="dataset", dataset=value)


def test_the_population_has_no_pairs_to_gather():
    with pytest.raises(ValueError, match=r"^path must be .*population"):
        run(mode="population", path="gather")


@pytest.mark.parametrize("value", [[0.2] * 5, "abc", 3, np.full(5, 0.2)], ids=["list", "str", "int", "array"])
def test_an_initial_policy_that_is_no_policy_is_refused_by_name(value):
    with refusal("initial_policy"):
        run(initial_policy=value)


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 5), (2, 5)], ids=repr)
def test_an_initial_policy_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"^initial_policy must be of shape \[5\]"):
        run(initial_policy=Policy.from_logits(np.zeros(shape)))


def test_an_initial_policy_that_excludes_a_drawn_class_is_refused():
    with pytest.raises(ValueError, match=r"^initial_policy must be positive where the reference is"):
        run(initial_policy=Policy.from_logits([0.0, 0.0, -INF, 0.0, 0.0]))


def test_an_initial_policy_outside_the_reference_is_refused_before_training():
    """Its differential information distribution does not exist: π/π_ref is infinite."""
    reference = Policy.from_probs([0.5, 0.5, 0.0])
    gapped = Problem(reference, reference, Policy.from_probs([0.2, 0.8, 0.0]), reference)
    with refusal("initial_policy"):
        train(gapped, objective("dpo"), steps=2, initial_policy=Policy.from_probs([0.2, 0.3, 0.5]))


# --- bad jobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [[], ()], ids=repr)
def test_no_jobs_at_all_are_refused(jobs):
    with pytest.raises(ValueError, match=r"^jobs must be at least one pair"):
        train_many(jobs, steps=2)


@pytest.mark.parametrize("jobs", [None, 3, "ab"], ids=repr)
def test_jobs_that_are_no_list_are_refused_by_name(jobs):
    with pytest.raises((ValueError, TypeError), match=r"^(a job|jobs) must be "):
        train_many(jobs, steps=2)


@pytest.mark.parametrize(
    "job",
    [
        3,
        None,
        "dpo",
        (problem(),),
        (problem(), objective("dpo"), 3),
        (problem(), "dpo"),
        (objective("dpo"), problem()),
        (problem().reference, objective("dpo")),
        (None, None),
    ],
    ids=lambda job: type(job).__name__ if not isinstance(job, tuple) else "/".join(type(j).__name__ for j in job),
)
def test_a_job_that_is_no_pair_of_problem_and_objective_is_refused(job):
    with pytest.raises(TypeError, match=r"^a job must be a pair \(problem, objective\)"):
        train_many([(problem(), objective("dpo")), job], steps=2)


def test_problems_of_different_sizes_are_refused():
    jobs = [(problem(5), objective("dpo")), (problem(6), objective("dpo"))]
    with pytest.raises(ValueError, match=r"^num_classes of all jobs must be the same; got \[5, 6\]"):
        train_many(jobs, steps=2)


def test_hyperparameters_of_several_runs_in_one_job_are_refused_in_words():
    """A bound tensor [R, 1, 1] is a whole grid: not what one job trains."""
    grid = objective("dpo", beta=torch.tensor([0.5, 1.0, 2.0])[:, None, None])
    with pytest.raises((ValueError, TypeError), match=r"beta|hyperparameter"):
        train(problem(), grid, steps=2)


def test_a_batch_that_memory_cannot_hold_is_refused_with_the_number():
    large = problem(300_000)  # its table of pairs alone would need 720 GB
    with pytest.raises(ValueError, match=r"^memory of the batch must be below .*GiB; got .*about \d+\.\d GiB"):
        train(large, objective("dpo"), steps=2, metrics=("loss",))


def test_metrics_over_all_pairs_are_left_out_by_default_where_there_are_too_many():
    history = train(problem(3000), objective("dpo"), steps=1, batch_size=8)
    assert set(history.metrics) == set(METRICS) - {"loss", "accuracy"}


def test_a_trace_that_memory_cannot_hold_is_refused_with_the_number():
    with pytest.raises(ValueError, match=r"^memory of the batch must be below .*GiB; got .*about \d+\.\d GiB"):
        train_many([(problem(), objective("dpo"))] * 2000, steps=10**9, record_every=1)


def test_policies_that_memory_cannot_hold_are_refused_with_the_number():
    with pytest.raises(ValueError, match=r"^memory of the batch must be below .*GiB; got .*about \d+\.\d GiB"):
        train(problem(1000), objective("dpo"), steps=10**8, record_every=1, keep_policies=True)


@pytest.mark.parametrize("value", [0, 1, "yes", None, 1.0, (True,)])
def test_to_keep_policies_is_true_or_false(value):
    with refusal("keep_policies"):
        run(keep_policies=value)


def test_many_classes_are_trained_when_no_table_is_needed():
    history = train(problem(20_000), objective("dpo"), steps=2, batch_size=8, metrics=("js_target",))
    assert history.status == "completed"


# --- good values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_whole_numbers(kind):
    ours = run(steps=kind(4), batch_size=kind(3), record_every=kind(2), seed=[kind(7)])
    assert ours.frame.equals(run(steps=4, batch_size=3, record_every=2, seed=7).frame)


def test_a_seed_of_numpy_is_a_seed():
    assert run(seed=np.int64(7)).frame.equals(run(seed=7).frame)


def test_a_number_of_pairs_of_numpy_is_a_number_of_pairs():
    ours = run(mode="dataset", dataset=np.int64(9))
    assert ours.frame.equals(run(mode="dataset", dataset=9).frame)


@pytest.mark.parametrize("value", [np.float64(0.25), np.float32(0.25), Fraction(1, 4), Decimal("0.25")], ids=repr)
@pytest.mark.parametrize("name", ["learning_rate", "clip"])
def test_numbers_of_other_kinds_are_taken_or_refused_by_name(name, value):
    try:
        ours = run(**{name: value})
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{name} must be ")  # noqa: PT017 - either outcome is a pass
    else:
        assert ours.frame.equals(run(**{name: 0.25}).frame)


def test_the_largest_seed_is_accepted():
    assert run(seed=2**63 - 1).status == "completed"


@pytest.mark.parametrize("seeds", [(1, 2), np.array([1, 2]), range(1, 3)], ids=repr)
def test_any_sequence_of_seeds_will_do(seeds):
    jobs = [(problem(), objective("dpo"))] * 2
    ours = train_many(jobs, steps=3, batch_size=4, seed=seeds)
    expected = train_many(jobs, steps=3, batch_size=4, seed=[1, 2])
    for history, other in zip(ours, expected, strict=True):
        assert history.frame.equals(other.frame)


def test_the_defaults_are_those_of_the_paper():
    defaults = Settings()
    assert (defaults.optimiser, defaults.learning_rate, defaults.schedule) == ("rmsprop", 1e-3, "constant")
    assert (defaults.batch_size, defaults.clip, defaults.dtype, defaults.mode) == (512, 1.0, "float32", "sampled")
    assert set(run().metrics) == set(METRICS)


def test_settings_cannot_be_changed_afterwards():
    settings = Settings(steps=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_starts_at_the_full_learning_rate_and_never_reaches_zero(schedule):
    factors = [Settings(steps=9, schedule=schedule).schedule_factor(step) for step in range(9)]
    assert factors[0] == 1.0
    assert min(factors) > 0.0
    assert factors == sorted(factors, reverse=True)


# --- no side effects ------------------------------------------------------------------------------------

EVERYTHING = [
    {"mode": "sampled", "path": "table"},
    {"mode": "sampled", "path": "gather"},
    {"mode": "dataset", "dataset": 20},
    {"mode": "population", "dtype": "float64"},
]


def global_state() -> dict[str, object]:
    """Whatever a library could leave changed behind it."""
    name, keys, *position = np.random.get_state()  # noqa: NPY002 - the global generator is what we look at
    return {
        "numpy generator": (name, keys.tobytes(), *position),
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "python generator": random.getstate(),
        "torch threads": torch.get_num_threads(),
        "torch dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "numpy errors": np.geterr(),
        "print options": str(np.get_printoptions()),
        "warnings": list(warnings.filters),
    }


@pytest.mark.parametrize("settings", EVERYTHING, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_training_leaves_the_process_as_it_found_it(settings, optimiser):
    """From a state that nobody would choose: what an earlier test left changed would otherwise go unseen."""
    with threads(3), np.errstate(over="raise", divide="raise", invalid="raise", under="print"):
        before = global_state()
        run(optimiser=optimiser, **settings)
        assert global_state() == before


def test_a_refused_run_leaves_the_process_as_it_found_it():
    with threads(3), np.errstate(over="raise", divide="raise", invalid="raise", under="print"):
        before = global_state()
        with refusal("steps"):
            run(steps=0)
        with pytest.raises(ValueError, match="num_classes"):
            train_many([(problem(5), objective("dpo")), (problem(6), objective("dpo"))])
        assert global_state() == before


def test_training_does_not_read_the_global_generators():
    first = run(seed=3)
    np.random.seed(99)  # noqa: NPY002 - the global generator is what we disturb
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert run(seed=3).frame.equals(first.frame)


def test_training_does_not_depend_on_the_default_dtype():
    first = run(steps=20)
    torch.set_default_dtype(torch.float64)
    try:
        second = run(steps=20)
    finally:
        torch.set_default_dtype(torch.float32)
    assert second.frame.equals(first.frame)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_training_works_where_gradients_are_switched_off(guard):
    """A caller's evaluation loop is no reason to fail: the engine asks for the gradients it needs."""
    with guard():
        history = run()
    assert history.frame.equals(run().frame)


@pytest.mark.parametrize("settings", EVERYTHING, ids=lambda s: "-".join(map(str, s.values())))
def test_inputs_are_not_changed(settings):
    ours, loss, start = problem(), objective("slic", delta=0.5), Policy.from_logits([0.1, 0.2, 0.3, 0.4, 0.5])
    seeds, jobs, metrics = [5, 6], [(ours, loss), (ours, objective("dpo"))], ["loss", "js_did"]
    policies = (ours.reference, ours.target, ours.rejected, ours.chosen, start)
    before = [policy.log_probs.copy() for policy in policies]
    kept_jobs, kept_hyperparameters = list(jobs), dict(loss.hyperparameters)
    if settings["mode"] == "dataset":
        rows = PreferenceDataset.from_classes([0, 1, 2, 3], [4, 4, 0, 0], 5)
        settings = {**settings, "dataset": rows}
    train_many(jobs, steps=4, batch_size=3, seed=seeds, initial_policy=start, metrics=metrics, **settings)
    for policy, expected in zip(policies, before, strict=True):
        np.testing.assert_array_equal(policy.log_probs, expected)
    assert (seeds, jobs, metrics) == ([5, 6], kept_jobs, ["loss", "js_did"])
    assert dict(loss.hyperparameters) == kept_hyperparameters
    if settings["mode"] == "dataset":
        assert rows.chosen.tolist() == [0, 1, 2, 3]
        assert rows.rejected.tolist() == [4, 4, 0, 0]


def test_histories_share_no_memory():
    first, second = train_many([(problem(), objective("dpo"))] * 2, steps=3)
    kept = second.frame
    for values in first.metrics.values():
        values[:] = math.pi
    first.steps[:] = 0
    assert second.frame.equals(kept)
    assert not np.shares_memory(first.policy.log_probs, second.policy.log_probs)


def test_progress_is_told_each_recorded_step_that_was_taken():
    told: list[int] = []
    history = train_many([(problem(), objective("dpo"))], steps=7, record_every=3, progress=told.append)[0]
    assert history.steps.tolist() == [0, *told] == [0, 3, 6, 7]
