"""What instances are made of, and the search for counterexamples: planted ones are found, and made simple."""

import json
import math
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from didsim.claims import CLAIMS, Claim, Control, check_claim, search, shrink
from didsim.claims._fields import (
    LEAST,
    ROUND,
    Choice,
    Count,
    Instance,
    Reals,
    Seed,
    Simplex,
    draw,
    pack,
    shape_of,
    simpler,
    unpack,
    without,
)
from didsim.claims._search import MOST_SHRINKS, _climb
from didsim.claims._verify import draw_instance, residual_of, rng_of

MODEST = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)

SUM = 1e-12
"""Sums of a dozen probabilities are off by some roundings."""

EXACT = 1e-9
"""Logits are the logarithms of rounded probabilities, and reach 60 nats; so do logarithms of positive numbers."""

FIELDS = {
    "weights": Simplex(("num_prompts",)),
    "num_prompts": Count(1, 3),
    "num_classes": Count(2, 5),
    "policy": Simplex(("num_prompts", "num_classes")),
    "reference": Simplex(),
    "square": Reals(sizes=("num_classes", "num_classes")),
    "scores": Reals(low=-1.0, sizes=("num_classes",)),
    "beta": Reals(low=0.0),
    "gamma": Reals(),
    "seed": Seed(),
    "family": Choice(("one", "two")),
}
"""One field of each kind, named before the counts that are its sizes, too."""

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> Instance:
    """Return an instance of all kinds of fields."""
    return draw(FIELDS, np.random.default_rng(seed))


def assert_valid(instance: Instance, fields: Any = None) -> None:
    """Hold the values of an instance against what its fields promise."""
    fields = FIELDS if fields is None else fields
    assert set(instance) == set(fields)
    assert json.loads(json.dumps(instance, allow_nan=False)) == instance
    for name, field in fields.items():
        values = np.array(instance[name]) if field.sizes else np.array([instance[name]])
        assert values.shape == (shape_of(field, instance) or (1,))
        match field:
            case Count():
                assert isinstance(instance[name], int)
                assert field.low <= instance[name] <= field.high
            case Simplex():
                assert (values > 0.0).all()
                np.testing.assert_allclose(values.sum(axis=-1), 1.0, rtol=0.0, atol=SUM)
            case Reals():
                assert np.isfinite(values).all()
                assert (values > field.low).all()
            case Choice():
                assert instance[name] in field.options
            case Seed():
                assert isinstance(instance[name], int)


def denominator_of(fractions: list[float]) -> int:
    """Return the smallest of the round denominators that some fractions have in common."""
    products = {n: np.array(fractions) * n for n in ROUND}
    return next(n for n, product in products.items() if np.allclose(product, np.round(product), atol=1e-9))


# --- fields --------------------------------------------------------------------------------------------------


class TestDraws:
    @MODEST
    @hypothesis.given(SEEDS)
    def test_drawn_values_are_what_their_fields_promise(self, seed):
        assert_valid(drawn(seed))
        assert list(drawn(seed)) == list(FIELDS)

    @MODEST
    @hypothesis.given(SEEDS)
    def test_the_same_generator_draws_the_same(self, seed):
        assert drawn(seed) == drawn(seed)

    def test_every_count_and_choice_is_drawn(self):
        instances = [drawn(seed) for seed in range(200)]
        assert {instance["num_prompts"] for instance in instances} == {1, 2, 3}
        assert {instance["num_classes"] for instance in instances} == {2, 3, 4, 5}
        assert {instance["family"] for instance in instances} == {"one", "two"}

    def test_scales_reach_from_almost_uniform_to_almost_certain(self):
        smallest = np.array([min(drawn(seed)["reference"]) for seed in range(300)])
        assert smallest.min() < 0.002
        assert smallest.max() > 0.3


class TestNumbers:
    @MODEST
    @hypothesis.given(SEEDS)
    def test_packing_and_unpacking_gives_an_instance_back(self, seed):
        instance = drawn(seed)
        again = unpack(FIELDS, pack(FIELDS, instance), instance)
        assert_valid(again)
        for name in FIELDS:
            if isinstance(FIELDS[name], Simplex | Reals):
                np.testing.assert_allclose(again[name], instance[name], rtol=EXACT, atol=1e-15)
            else:
                assert again[name] == instance[name]

    @MODEST
    @hypothesis.given(SEEDS)
    def test_all_continuous_numbers_are_packed_and_nothing_else(self, seed):
        instance = drawn(seed)
        names = ("weights", "policy", "reference", "square", "scores", "beta", "gamma")
        assert len(pack(FIELDS, instance)) == sum(np.size(instance[name]) for name in names)

    @MODEST
    @hypothesis.given(SEEDS, st.floats(-1e6, 1e6))
    def test_any_numbers_unpack_to_valid_values(self, seed, size):
        instance = drawn(seed)
        numbers = size * np.random.default_rng(seed).standard_normal(len(pack(FIELDS, instance)))
        assert_valid(unpack(FIELDS, numbers, instance))

    def test_moving_one_number_moves_one_field(self):
        instance = drawn(3)
        numbers = pack(FIELDS, instance)
        numbers[-1] += 0.25  # γ is the last of the continuous fields
        moved = unpack(FIELDS, numbers, instance)
        assert moved["gamma"] == pytest.approx(instance["gamma"] + 0.25)
        others = {name: field for name, field in FIELDS.items() if name != "gamma"}
        np.testing.assert_allclose(pack(others, moved), pack(others, instance), rtol=0.0, atol=EXACT)

    def test_fields_without_numbers_refuse_them(self):
        for field in (Count(1, 2), Seed(), Choice((1,))):
            with pytest.raises(TypeError, match="no numbers"):
                field.value(np.zeros(1), ())

    def test_probabilities_stay_positive_however_far_logits_are(self):
        assert min(Simplex().value(np.array([0.0, 1e300]), (2,))) == pytest.approx(math.exp(-LEAST))
        assert Reals(low=0.0).value(np.array([-1e300]), ()) > 0.0
        assert math.isfinite(Reals(low=0.0).value(np.array([1e300]), ()))

    def test_instances_of_claims_come_back_from_their_numbers(self):
        for claim in CLAIMS.values():
            instance = draw_instance(claim, rng_of(claim, 0))
            again = unpack(claim.fields, pack(claim.fields, instance), instance)
            before, after = pack(claim.fields, instance), pack(claim.fields, again)
            np.testing.assert_allclose(after - after.mean(), before - before.mean(), atol=1e-7, err_msg=claim.name)


class TestSmallerInstances:
    @MODEST
    @hypothesis.given(SEEDS, st.integers(0, 10))
    def test_without_a_class_everything_else_stays(self, seed, index):
        instance = drawn(seed)
        hypothesis.assume(instance["num_classes"] > 2)
        index %= instance["num_classes"]
        smaller = without(FIELDS, instance, "num_classes", index)
        assert_valid(smaller)
        kept = [i for i in range(instance["num_classes"]) if i != index]
        assert smaller["num_classes"] == len(kept)
        assert smaller["square"] == np.array(instance["square"])[np.ix_(kept, kept)].tolist()
        assert smaller["scores"] == np.array(instance["scores"])[kept].tolist()
        for name in ("reference", "policy"):  # probabilities keep their ratios
            parts = np.array(instance[name])[..., kept]
            np.testing.assert_allclose(smaller[name], parts / parts.sum(axis=-1, keepdims=True), rtol=SUM)
        assert all(smaller[name] == instance[name] for name in ("num_prompts", "weights", "beta", "gamma", "seed"))

    @MODEST
    @hypothesis.given(SEEDS)
    def test_without_a_prompt_its_policy_goes_and_weights_are_normalised_again(self, seed):
        instance = drawn(seed)
        hypothesis.assume(instance["num_prompts"] > 1)
        smaller = without(FIELDS, instance, "num_prompts", 0)
        assert_valid(smaller)
        np.testing.assert_allclose(smaller["policy"], instance["policy"][1:], rtol=SUM)
        assert sum(smaller["weights"]) == pytest.approx(1.0, abs=SUM)

    @MODEST
    @hypothesis.given(SEEDS)
    def test_simpler_instances_are_valid_and_others(self, seed):
        instance = drawn(seed)
        candidates = list(simpler(FIELDS, instance))
        assert candidates
        for candidate in candidates:
            assert_valid(candidate)
            assert candidate != instance
        sizes = ("num_prompts", "num_classes")
        fewer = [i for i, each in enumerate(candidates) if any(each[size] < instance[size] for size in sizes)]
        assert fewer == list(range(len(fewer)))  # smaller ones come first

    def test_counts_do_not_go_below_their_least(self):
        instance = {**drawn(0), "num_classes": 2}
        fields = {"num_classes": Count(2, 5)}
        assert list(simpler(fields, {"num_classes": instance["num_classes"]})) == []

    def test_whole_numbers_stay_whole(self):
        claim = CLAIMS["x.stop-gradient-lengths"]
        fields = {**claim.fields, "num_pairs": Count(1, 3)}
        instance = {name: [1, 2, 3] if "length" in name else [1.0, 2.0, 3.0] for name in fields}
        smaller = without(fields, {**instance, "num_pairs": 3}, "num_pairs", 0)
        assert [type(length) for name in fields if "length" in name for length in smaller[name]] == [int] * 4

    @MODEST
    @hypothesis.given(SEEDS, st.integers(2, 6))
    def test_simpler_probabilities_are_positive_fractions_the_simplest_first(self, seed, size):
        value = Simplex().draw(np.random.default_rng(seed), (size,), 3.0)
        denominators = []
        for candidate in Simplex().simpler(value):
            assert min(candidate) > 0.0
            denominators.append(denominator_of(candidate))
        assert denominators
        assert denominators[0] >= size

    def test_what_is_simple_already_becomes_no_simpler_by_longer_fractions(self):
        assert list(Simplex().simpler([0.5, 0.5])) == []
        assert list(Simplex().simpler([1.0 / 3.0, 2.0 / 3.0])) == [[0.5, 0.5]]
        assert [0.25, 0.75] not in Simplex().simpler([0.25, 0.75])
        assert list(Reals().simpler(2.0)) == []
        assert list(Reals().simpler(0.25)) == [0.0, 0.2]
        assert list(Reals(low=0.0).simpler(0.25)) == [0.2]

    def test_zero_has_no_sign(self):
        assert [str(value) for value in Reals().simpler(-0.04)] == ["0.0", "0.0"]


# --- the search ----------------------------------------------------------------------------------------------

CORNER = "the corner is nobody's"


def toy(check: Any, fields: Any = None, **facts: Any) -> Claim:
    """Return a claim about some policies with a control that fails, whatever its check says of other instances."""
    given = {"num_classes": Count(2, 5), "reference": Simplex(), "target": Simplex(), "beta": Reals(low=0.0)}
    fields = given if fields is None else fields

    def checked(instance: Instance) -> float:
        return 1.0 if "control" in instance else float(check(instance))

    return Claim(
        name="toy.search",
        statement="It is small.",
        source="ours",
        verdict="holds",
        note="A toy. It serves the tests.",
        fields=fields,
        check=checked,
        tolerance=1e-6,
        reason="a round number",
        **{
            "assumptions": {CORNER: lambda i: "control" not in i},
            "control": Control(breaks=CORNER, instance={"control": True}),
            **facts,
        },
    )


def hidden(instance: Instance) -> float:
    """Return how far a response is beyond a probability of 0.999, where no draw is; its slope shows the way there."""
    return max(instance["reference"]) - 0.999


class TestSearch:
    def test_a_violation_that_no_draw_hits_is_found(self):
        claim = toy(hidden)
        near = [draw_instance(claim, rng) for rng in [rng_of(claim, 0)] for _ in range(20)]
        assert max(residual_of(claim, instance) for instance in near) < claim.tolerance
        assert check_claim(claim, 20).verdict == "holds"
        found = search(claim, 20)
        assert found is not None
        assert residual_of(claim, found) > claim.tolerance
        assert check_claim(claim, 20, more=[found]).verdict == "fails"

    def test_optimisation_climbs_where_draws_only_point(self):
        fields = {"x": Reals(), "y": Reals()}
        claim = toy(lambda i: 1e-3 - 0.05 * ((i["x"] - 3.7) ** 2 + (i["y"] + 2.2) ** 2), fields)
        start = {"x": 1.0, "y": 1.0}
        assert residual_of(claim, start) < 0.0
        found = _climb(claim, start)
        assert found is not None
        assert found["x"] == pytest.approx(3.7, abs=0.2)
        assert found["y"] == pytest.approx(-2.2, abs=0.2)

    def test_nothing_is_found_against_a_true_claim(self):
        assert search(toy(lambda i: abs(sum(i["reference"]) - 1.0)), 10) is None

    def test_nothing_is_found_against_a_claim_without_numbers(self):
        assert search(toy(lambda i: 0.0, {"seed": Seed(), "family": Choice(("a", "b"))}), 10) is None

    def test_assumptions_are_kept(self):
        bounded = {CORNER: lambda i: "control" not in i, "no response is certain": lambda i: max(i["reference"]) < 0.99}
        assert search(toy(hidden, assumptions=bounded), 20) is None

    def test_what_lies_outside_the_condition_is_known_and_not_looked_for(self):
        condition = ("π_ref is almost uniform", lambda i: max(i["reference"]) < 0.6)
        assert search(toy(lambda i: max(i["reference"]) - 0.6, condition=condition), 20) is None
        assert search(toy(lambda i: max(i["reference"]) - 0.59, condition=condition), 20) is not None

    def test_what_is_not_a_number_is_a_violation(self):
        found = search(toy(lambda i: math.nan if i["beta"] > 20.0 else 0.0), 20)
        assert found is not None
        assert found["beta"] > 20.0

    def test_the_same_seed_finds_the_same(self):
        assert search(toy(hidden), 10, seed=3) == search(toy(hidden), 10, seed=3)

    @pytest.mark.parametrize(("name", "options"), [("draws", {"draws": 0}), ("seed", {"draws": 5, "seed": -1})])
    def test_numbers_out_of_range_are_refused(self, name, options):
        with pytest.raises(ValueError, match=name):
            search(toy(hidden), **options)


class TestShrink:
    @MODEST
    @hypothesis.given(SEEDS)
    def test_a_counterexample_stays_one_and_becomes_small_and_round(self, seed):
        claim = toy(lambda i: abs(i["reference"][0] - 1.0 / len(i["reference"])))
        start = draw(claim.fields, np.random.default_rng(seed))
        hypothesis.assume(residual_of(claim, start) > 0.01 and start["beta"] > 0.001)
        ended = shrink(claim, start)
        assert_valid(ended, claim.fields)
        assert residual_of(claim, ended) > 10.0 * claim.tolerance
        assert ended["num_classes"] == 2
        assert ended["target"] == [0.5, 0.5]  # what plays no part becomes as simple as can be
        assert ended["beta"] == round(ended["beta"], 0 if start["beta"] >= 0.5 else 3)
        assert denominator_of(ended["reference"]) <= 100
        assert shrink(claim, ended) == ended

    def test_it_ends_at_the_smallest_size_that_violates(self):
        claim = toy(lambda i: float(i["num_classes"] >= 4))
        start = {**draw(claim.fields, np.random.default_rng(0)), "num_classes": 5, "beta": 1.2345}
        for name in ("reference", "target"):
            start[name] = [0.11, 0.13, 0.17, 0.19, 0.4]
        assert shrink(claim, start) == {
            "num_classes": 4,
            "reference": [0.25] * 4,
            "target": [0.25] * 4,
            "beta": 1.0,
        }

    def test_round_numbers_that_no_longer_violate_are_not_taken(self):
        claim = toy(lambda i: float(0.24 < i["beta"] < 0.27), {"beta": Reals(low=0.0)})
        assert shrink(claim, {"beta": 0.25432}) == {"beta": 0.25}

    def test_simple_fractions_do_not_take_turns(self):
        seen = []
        claim = toy(lambda i: seen.append(i) or abs(i["reference"][0] - 0.5))
        start = {"num_classes": 2, "reference": [0.3, 0.7], "target": [0.123, 0.877], "beta": 1.234}
        ended = shrink(claim, start)
        assert ended == {"num_classes": 2, "reference": [1 / 3, 2 / 3], "target": [0.5, 0.5], "beta": 1.0}
        assert len(seen) < MOST_SHRINKS / 4

    def test_assumptions_and_conditions_are_kept(self):
        claim = toy(
            lambda i: i["beta"],
            {"beta": Reals(low=0.0), "gamma": Reals()},
            assumptions={"β is not whole": lambda i: i["beta"] % 1.0 != 0.0},
            condition=("γ is above 1/2", lambda i: i["gamma"] > 0.5),
        )
        assert shrink(claim, {"beta": 1.2345, "gamma": 0.5678}) == {"beta": 1.2, "gamma": 1.0}

    def test_a_violation_of_no_size_is_left_as_it_is(self):
        claim = toy(lambda i: 2e-6 * i["beta"], {"beta": Reals(low=0.0)})
        assert shrink(claim, {"beta": 1.2345}) == {"beta": 1.2345}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, claim in CLAIMS.items() if claim.verdict != "fails" and claim.cost == 1]
)
def test_the_search_finds_nothing_against_what_the_ledger_says_holds(name):
    found = search(CLAIMS[name], 20)
    assert found is None, (residual_of(CLAIMS[name], found), found)
