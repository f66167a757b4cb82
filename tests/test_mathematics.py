"""Policies, information, differential information, problems and optima, against mpmath and against their laws."""

import itertools
import math

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from oracles import policies as oracle

import didsim as ds
from didsim import torch_bridge
from didsim._numerics import expectation, relative_entropy_terms
from didsim.objectives import Pairs, Responses, objective
from didsim.policy import MAX_CLASSES

MODEST = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)

EPS = 2.0**-52
TINY = 2.0**-1022
"""Below the smallest normal float64 a relative error means nothing."""

ROUNDINGS = 8
"""How many roundings a result may be off. Each is weighed by how much the quantity moves when the
log-probabilities it is computed from move by a relative 2^-52; a sum over K ≤ 8 classes adds at most K."""

LOG_2 = math.log(2.0)
INF = math.inf


ORDINARY = st.floats(-20.0, 20.0)
EXTREME = st.one_of(st.floats(-1e4, 1e4), st.sampled_from([-1e4, 1e4, 0.0, 720.0, -720.0, 745.0, -INF]))


def several_logits(elements, count, min_size=1):
    """`count` lists of logits over the same K classes, each with a finite one."""

    def of_size(k):
        one = st.lists(elements, min_size=k, max_size=k).filter(lambda logits: max(logits) > -INF)
        return st.tuples(*[one] * count)

    return st.integers(min_size, 8).flatmap(of_size)


def policy_and_oracle(logits):
    """A policy, and the same distribution in high precision: what its log-probabilities say, normalised."""
    policy = ds.Policy.from_logits(logits)
    return policy, oracle.log_softmax(policy.log_probs)


def assert_near(got, want, tolerance, what=""):
    """|got − want| ≤ tolerance, where want is an mpf; infinities must be equal."""
    got = float(got)
    if want == oracle.inf:
        assert got == INF, f"{what}: got {got}, want inf"
        return
    assert math.isfinite(got), f"{what}: got {got}, want {float(want)}"
    assert abs(got - want) <= tolerance, f"{what}: got {got}, want {float(want)}, tolerance {tolerance}"


def assert_same_distribution(policy, want, tolerance):
    """Log-probabilities agree; a class of probability 0 has exactly 0."""
    assert policy.log_probs.shape == (len(want),)
    for got, x in zip(policy.log_probs, want, strict=True):
        if x == oracle.MINUS_INF:
            assert got == -INF
        else:
            assert_near(got, x, tolerance)


def finite(values):
    return [abs(float(x)) for x in values if math.isfinite(x)]


class TestPolicy:
    @hypothesis.given(several_logits(ORDINARY, 1) | several_logits(EXTREME, 1))
    @hypothesis.example(([-INF, 3.0],))
    @hypothesis.example(([1e4],))
    @MODEST
    def test_log_probabilities_are_those_of_high_precision(self, drawn):
        (logits,) = drawn
        tolerance = ROUNDINGS * EPS * (1.0 + 2.0 * max(finite(logits)))
        assert_same_distribution(ds.Policy.from_logits(logits), oracle.log_softmax(logits), tolerance)

    @hypothesis.given(several_logits(EXTREME, 1))
    @MODEST
    def test_probabilities_are_the_exponentials_and_sum_to_one(self, drawn):
        policy, exact = policy_and_oracle(*drawn)
        for got, want, log_prob in zip(policy.probs, oracle.probs(exact), policy.log_probs, strict=True):
            # normalising once leaves a shift of some roundings of the largest logit, 2e4 at most
            assert_near(got, want, (1.0 + abs(max(log_prob, -750.0))) * EPS * want + 2e4 * EPS * want + TINY)
        assert policy.probs.sum() == pytest.approx(1.0, abs=2e4 * EPS)

    @hypothesis.given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=8))
    @MODEST
    def test_from_probs_divides_the_remainder_out(self, weights):
        probs = np.array(weights) / np.sum(weights) * (1.0 + 5e-7)
        with oracle.mp.workdps(oracle.DIGITS):
            total = oracle.fsum(map(oracle.mpf, map(float, probs)))
            want = [oracle.log(oracle.mpf(float(p)) / total) for p in probs]
        # log p is right to half a unit of up to log 1e13 ≈ 30
        assert_same_distribution(ds.Policy.from_probs(probs), want, ROUNDINGS * EPS * 30.0)

    def test_a_class_of_logit_minus_infinity_has_probability_exactly_zero(self):
        policy = ds.Policy.from_logits([0.0, -INF, 0.0])
        assert policy.probs[1] == 0.0
        assert policy.log_probs[1] == -INF

    def test_a_probability_of_zero_is_kept(self):
        assert ds.Policy.from_probs([0.25, 0.0, 0.75]).log_probs[1] == -INF

    def test_one_class_has_probability_one(self):
        assert ds.Policy.from_logits([-1e4]).probs.tolist() == [1.0]

    def test_two_classes_are_a_logistic_function(self):
        probs = ds.Policy.from_logits([1.5, 0.0]).probs
        assert probs[0] == pytest.approx(1.0 / (1.0 + math.exp(-1.5)), rel=4 * EPS)

    @hypothesis.given(several_logits(ORDINARY, 1), st.floats(-1e4, 1e4))
    @MODEST
    def test_a_shift_of_the_logits_changes_nothing(self, drawn, shift):
        logits = np.array(drawn[0])
        moved = ds.Policy.from_logits(logits + shift).log_probs
        tolerance = ROUNDINGS * EPS * (1.0 + abs(shift) + np.abs(logits).max())
        assert np.abs(moved - ds.Policy.from_logits(logits).log_probs).max() <= tolerance

    def test_leading_axes_are_a_batch_of_policies(self):
        logits = np.random.default_rng(0).standard_normal((2, 3, 5))
        batch = ds.Policy.from_logits(logits)
        assert batch.num_classes == 5
        for x in range(2):
            for y in range(3):
                single = ds.Policy.from_logits(logits[x, y])
                assert np.abs(batch.log_probs[x, y] - single.log_probs).max() <= 4 * EPS

    def test_log_probabilities_cannot_be_written(self):
        with pytest.raises(ValueError, match="read-only"):
            ds.Policy.from_logits([0.0, 1.0]).log_probs[0] = 3.0

    @pytest.mark.parametrize(
        "build",
        [ds.Policy.from_logits, ds.Policy.from_probs, lambda p: ds.Policy.from_log_probs(np.log(p))],
    )
    def test_the_policy_does_not_follow_a_later_change_of_the_input(self, build):
        given = np.array([0.25, 0.75])
        policy = build(given)
        before = policy.log_probs.copy()
        given[:] = 0.5
        assert policy.log_probs.tolist() == before.tolist()


LOGITS = np.array([[0.5, -1.25, 2.0], [1.0, 0.0, -3.0]])


class TestForeignArrays:
    @pytest.mark.parametrize(
        "given",
        [
            LOGITS.astype(np.float32),
            np.asfortranarray(LOGITS),
            np.repeat(LOGITS, 2, axis=1)[:, ::2],
            LOGITS[:, ::-1].copy()[:, ::-1],
            LOGITS.tolist(),
            tuple(map(tuple, LOGITS.tolist())),
        ],
        ids=["float32", "fortran", "strided", "reversed", "lists", "tuples"],
    )
    def test_the_same_numbers_give_the_same_policy(self, given):
        assert ds.Policy.from_logits(given).log_probs.tolist() == ds.Policy.from_logits(LOGITS).log_probs.tolist()

    def test_whole_numbers_are_logits_too(self):
        whole, real = (ds.Policy.from_logits(np.array([1, 2, -3], dtype)) for dtype in (np.int64, np.float64))
        assert whole.log_probs.tolist() == real.log_probs.tolist()
        assert whole.log_probs.dtype == np.float64

    @pytest.mark.parametrize("function", [ds.kl, ds.js, ds.tv, ds.did, ds.ideal_rejected, ds.preference_probabilities])
    def test_read_only_inputs_are_read_and_writable_ones_left_alone(self, function):
        p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
        want = function(p, q)
        assert (p.tolist(), q.tolist()) == ([0.25, 0.75], [0.5, 0.5])
        assert p.flags.writeable
        p.setflags(write=False)
        q.setflags(write=False)
        got = function(p, q)
        for x in (want, got):
            assert np.all(np.isfinite(getattr(x, "log_probs", x)))
        assert np.array_equal(getattr(got, "log_probs", got), getattr(want, "log_probs", want))

    def test_a_policy_and_its_probabilities_are_the_same_argument(self):
        p, q = ds.Policy.from_probs([0.25, 0.75]), ds.Policy.from_probs([0.5, 0.5])
        assert ds.kl(p, q) == ds.kl([0.25, 0.75], [0.5, 0.5])


class TestBadPolicies:
    @pytest.mark.parametrize("bad", [math.nan, INF])
    @pytest.mark.parametrize(
        ("name", "build", "values"),
        [
            ("logits", ds.Policy.from_logits, [[0.0, 1.0], [2.0, 0.0]]),
            ("probs", ds.Policy.from_probs, [[0.5, 0.5], [1.0, 0.0]]),
            ("log_probs", ds.Policy.from_log_probs, [[0.0, -INF], [0.0, -INF]]),
        ],
    )
    def test_what_is_no_number_is_refused_with_its_index(self, name, build, values, bad):
        values[1][1] = bad
        with pytest.raises(ValueError, match=rf"^{name}\[1, 1\] must be .*; got {bad}"):
            build(values)

    def test_none_among_numbers_is_refused_with_its_index(self):
        with pytest.raises((ValueError, TypeError), match=r"logits\[1\]"):
            ds.Policy.from_logits([0.0, None])

    @pytest.mark.parametrize("logits", [[-INF], [-INF, -INF], [[0.0, 1.0], [-INF, -INF]]])
    def test_logits_that_are_all_minus_infinity_are_refused(self, logits):
        with pytest.raises(ValueError, match="logits must be finite for at least one class"):
            ds.Policy.from_logits(logits)

    @pytest.mark.parametrize("build", [ds.Policy.from_logits, ds.Policy.from_probs, ds.Policy.from_log_probs])
    @pytest.mark.parametrize("empty", [[], [[]], np.zeros((0, 3)), 1.0, np.float64(1.0), np.array(0.0)])
    def test_no_classes_and_no_axis_are_refused(self, build, empty):
        with pytest.raises(ValueError, match=r"the shape of .* must be \[\.\.\., K\] with K ≥ 1"):
            build(empty)

    @pytest.mark.parametrize("bad", [["a", "b"], "ab", [[1.0], [1.0, 2.0]], [object()], ["1", "2"], [b"1", b"2"]])
    def test_what_is_not_made_of_numbers_is_refused(self, bad):
        with pytest.raises(TypeError, match="logits must be an array of real numbers"):
            ds.Policy.from_logits(bad)

    def test_complex_numbers_are_refused(self):
        with pytest.raises(TypeError, match="logits must be an array of real numbers"):
            ds.Policy.from_logits(np.array([1.0 + 2.0j, 0.0]))

    @pytest.mark.parametrize("probs", [[0.5, 0.6], [0.5, 0.5 + 2e-6], [0.5, 0.5 - 2e-6], [0.0, 0.0], [2.0]])
    def test_probabilities_that_do_not_sum_to_one_are_refused(self, probs):
        with pytest.raises(ValueError, match="the sum of the probabilities must be 1 within 1e-6"):
            ds.Policy.from_probs(probs)

    @pytest.mark.parametrize("excess", [-9e-7, 9e-7])
    def test_a_sum_within_the_tolerance_is_divided_out(self, excess):
        assert ds.Policy.from_probs([0.5, 0.5 + excess]).probs.sum() == pytest.approx(1.0, abs=2 * EPS)

    def test_one_bad_policy_in_a_batch_is_refused(self):
        with pytest.raises(ValueError, match="the sum of the probabilities"):
            ds.Policy.from_probs([[0.5, 0.5], [0.5, 0.4]])

    def test_a_negative_probability_is_refused_with_its_index(self):
        with pytest.raises(ValueError, match=r"probs must be non-negative; got -0\.5\. Look at index \(0, 1\)"):
            ds.Policy.from_probs([[1.5, -0.5]])

    @pytest.mark.parametrize("log_probs", [[0.0, 0.0], [-1.0, -1.0], [5.0, -INF], [1e4, 0.0]])
    def test_log_probabilities_that_do_not_sum_to_one_are_refused(self, log_probs):
        with pytest.raises(ValueError, match=r"the sum of the probabilities .*use Policy\.from_logits"):
            ds.Policy.from_log_probs(log_probs)

    def test_logits_at_the_ends_of_float64_need_no_warning(self):
        assert ds.Policy.from_logits([1e308, -1e308]).probs.tolist() == [1.0, 0.0]

    def test_more_classes_than_could_be_allocated_are_refused(self):
        one = np.zeros(1)
        huge = np.lib.stride_tricks.as_strided(one, shape=(MAX_CLASSES + 1,), strides=(0,))
        with pytest.raises(ValueError, match=f"num_classes must be at most {MAX_CLASSES}"):
            ds.Policy.from_logits(huge)


def kl_scale(p, q):
    """How much KL(p‖q) moves, relative to ε, when each log-probability moves by a relative ε.

    ∂/∂log q = q − p, and ∂/∂log p = p log(p/q); the 1 beside each |log| is the rounding of the term itself.
    """
    return float(
        sum(
            abs(oracle.exp(y) - oracle.exp(x)) * (1 + abs(y)) + oracle.exp(x) * abs(x - y) * (1 + abs(x))
            for x, y in zip(p, q, strict=True)
            if x > oracle.MINUS_INF and y > oracle.MINUS_INF
        )
    ) + float(sum(oracle.exp(y) * (1 + abs(y)) for x, y in zip(p, q, strict=True) if x == oracle.MINUS_INF < y))


def js_scale(p, q):
    """The same for JS: the first-order effect of log m cancels; of second order, ε² remains of it."""
    m = oracle.mixture(p, q)
    first = sum(
        oracle.exp(x) * abs(x - y) * (1 + abs(x)) / 2
        for side in (p, q)
        for x, y in zip(side, m, strict=True)
        if x > oracle.MINUS_INF
    )
    absent = sum(
        oracle.exp(y) * (1 + abs(y))
        for side in (p, q)
        for x, y in zip(side, m, strict=True)
        if x == oracle.MINUS_INF < y
    )
    second = sum(oracle.exp(y) * (1 + abs(y)) ** 2 for y in m if y > oracle.MINUS_INF)
    return float(first + absent) + ROUNDINGS * EPS * float(second)


def check_kl(drawn):
    (p, exact_p), (q, exact_q) = map(policy_and_oracle, drawn)
    tolerance = ROUNDINGS * EPS * kl_scale(exact_p, exact_q) + TINY
    assert_near(ds.kl(p, q), oracle.kl(exact_p, exact_q), tolerance)


def check_js(drawn):
    (p, exact_p), (q, exact_q) = map(policy_and_oracle, drawn)
    tolerance = ROUNDINGS * EPS * js_scale(exact_p, exact_q) + TINY
    assert_near(ds.js(p, q), oracle.js(exact_p, exact_q), tolerance)


class TestEntropy:
    @hypothesis.given(several_logits(ORDINARY, 1) | several_logits(EXTREME, 1))
    @hypothesis.example(([-INF, 0.0, 1e4],))
    @MODEST
    def test_entropy_is_that_of_high_precision(self, drawn):
        policy, exact = policy_and_oracle(*drawn)
        # ∂H/∂log p = −p(1 + log p)
        scale = sum(oracle.exp(x) * (1 + abs(x)) ** 2 for x in exact if x > oracle.MINUS_INF)
        assert_near(ds.entropy(policy), oracle.entropy(exact), ROUNDINGS * EPS * float(scale))

    @pytest.mark.parametrize("k", [1, 2, 3, 32])
    def test_entropy_of_the_uniform_policy_is_log_k(self, k):
        assert ds.entropy(np.full(k, 1.0 / k)) == pytest.approx(math.log(k), rel=4 * EPS, abs=4 * EPS)

    def test_entropy_of_a_certain_policy_is_zero(self):
        assert ds.entropy([0.0, 1.0, 0.0]) == 0.0


class TestKl:
    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_kl_is_that_of_high_precision_at_ordinary_logits(self, drawn):
        check_kl(drawn)

    @hypothesis.given(several_logits(EXTREME, 2))
    @hypothesis.example(([0.0, -720.0], [-720.0, 0.0]))
    @hypothesis.example(([1e4, -1e4], [-1e4, 1e4]))
    @MODEST
    def test_kl_is_that_of_high_precision_at_extreme_logits(self, drawn):
        check_kl(drawn)

    @hypothesis.given(several_logits(ORDINARY, 2, min_size=2), st.integers(1, 9))
    @MODEST
    def test_kl_of_nearby_policies_keeps_its_digits(self, drawn, digits):
        step = 10.0**-digits
        base, direction = map(np.array, drawn)
        check_kl((base, base + step * np.tanh(direction)))

    @hypothesis.given(several_logits(EXTREME, 1))
    @MODEST
    def test_kl_of_a_policy_from_itself_is_zero(self, drawn):
        assert ds.kl(ds.Policy.from_logits(drawn[0]), ds.Policy.from_logits(drawn[0])) == 0.0

    def test_kl_is_infinite_where_the_second_lacks_support(self):
        assert ds.kl([0.5, 0.5], [1.0, 0.0]) == INF

    def test_kl_is_finite_where_only_the_first_lacks_support(self):
        assert ds.kl([1.0, 0.0], [0.5, 0.5]) == pytest.approx(LOG_2, rel=4 * EPS)

    def test_kl_is_not_symmetric(self):
        assert ds.kl([0.5, 0.5], [0.1, 0.9]) == pytest.approx(0.5 * math.log(25.0 / 9.0), rel=4 * EPS)
        assert ds.kl([0.1, 0.9], [0.5, 0.5]) == pytest.approx(0.1 * math.log(0.2) + 0.9 * math.log(1.8), rel=8 * EPS)

    def test_kl_over_leading_axes_is_that_of_each_row(self):
        rows = np.array([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]])
        assert ds.kl(rows, [0.5, 0.5]).tolist() == [float(ds.kl(row, [0.5, 0.5])) for row in rows]


class TestJs:
    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_js_is_that_of_high_precision_at_ordinary_logits(self, drawn):
        check_js(drawn)

    @hypothesis.given(several_logits(EXTREME, 2))
    @hypothesis.example(([0.0, -720.0], [-720.0, 0.0]))
    @hypothesis.example(([1e4, -1e4], [-1e4, 1e4]))
    @MODEST
    def test_js_is_that_of_high_precision_at_extreme_logits(self, drawn):
        check_js(drawn)

    @pytest.mark.parametrize("digits", range(1, 10))
    def test_js_of_nearby_policies_keeps_its_digits(self, digits):
        # down to JS ≈ 1e-18, where p − q carries 7 digits and the naive sum of logarithms none
        logits = np.random.default_rng(digits).standard_normal((2, 6))
        nearby = (logits[0], logits[0] + 3.0 * 10.0**-digits * logits[1])
        check_js(nearby)
        (p, exact_p), (q, exact_q) = map(policy_and_oracle, nearby)
        want = float(oracle.js(exact_p, exact_q))
        assert want == pytest.approx(10.0 ** (-2 * digits), rel=0.9)
        # log p/q ≈ √(8 JS) is a difference of numbers near 3, each right to a relative 2^-53
        assert float(ds.js(p, q)) == pytest.approx(want, rel=ROUNDINGS * EPS * 3.0 / math.sqrt(want))

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_js_is_symmetric(self, drawn):
        p, q = map(ds.Policy.from_logits, drawn)
        assert float(ds.js(p, q)) == pytest.approx(float(ds.js(q, p)), rel=ROUNDINGS * EPS, abs=TINY)

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_js_lies_between_zero_and_log_2(self, drawn):
        value = ds.js(*map(ds.Policy.from_logits, drawn))
        assert 0.0 <= value <= LOG_2 * (1.0 + ROUNDINGS * EPS)

    @pytest.mark.parametrize("zeros", [1, 3])
    def test_js_of_policies_without_shared_support_is_log_2(self, zeros):
        left = np.r_[np.full(zeros, 1.0 / zeros), np.zeros(zeros)]
        assert ds.js(left, left[::-1]) == pytest.approx(LOG_2, rel=4 * EPS)

    @hypothesis.given(several_logits(ORDINARY, 1))
    @MODEST
    def test_js_of_a_policy_from_itself_is_zero_to_the_square_of_rounding(self, drawn):
        policy = ds.Policy.from_logits(drawn[0])
        assert 0.0 <= ds.js(policy, policy) <= (ROUNDINGS * EPS * (1.0 + 40.0)) ** 2


class TestTv:
    @hypothesis.given(several_logits(ORDINARY, 2) | several_logits(EXTREME, 2))
    @MODEST
    def test_tv_is_that_of_high_precision(self, drawn):
        (p, exact_p), (q, exact_q) = map(policy_and_oracle, drawn)
        # the rounding of log p moves p by p |log p| ε
        scale = sum(oracle.exp(x) * (1 + abs(x)) for x in (*exact_p, *exact_q) if x > oracle.MINUS_INF)
        assert_near(ds.tv(p, q), oracle.tv(exact_p, exact_q), ROUNDINGS * EPS * float(scale))

    @hypothesis.given(several_logits(EXTREME, 3))
    @MODEST
    def test_tv_is_a_distance_between_zero_and_one(self, drawn):
        p, q, r = map(ds.Policy.from_logits, drawn)
        assert ds.tv(p, p) == 0.0
        assert ds.tv(p, q) == ds.tv(q, p)
        # rounding of exp(log p) at log-probabilities up to 2e4: those are 0; of others, some units
        slack = 1000 * EPS
        assert 0.0 <= ds.tv(p, q) <= 1.0 + slack
        assert ds.tv(p, r) <= ds.tv(p, q) + ds.tv(q, r) + slack

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_pinsker_bounds_tv_by_kl(self, drawn):
        p, q = map(ds.Policy.from_logits, drawn)
        assert ds.tv(p, q) <= math.sqrt(float(ds.kl(p, q)) / 2.0) + 100 * EPS


class TestRenyi:
    @pytest.mark.parametrize("alpha", [0.25, 0.5, 2.0, 5.0])
    @hypothesis.given(drawn=several_logits(ORDINARY, 2) | several_logits(EXTREME, 2))
    @MODEST
    def test_renyi_is_that_of_high_precision(self, alpha, drawn):
        (p, exact_p), (q, exact_q) = map(policy_and_oracle, drawn)
        largest = max(
            [
                1.0,
                *(
                    alpha * abs(x) + abs(1 - alpha) * abs(y)
                    for x, y in zip(p.log_probs, q.log_probs, strict=True)
                    if x > -INF and y > -INF
                ),
            ]
        )
        tolerance = ROUNDINGS * EPS * largest / abs(alpha - 1.0)
        assert_near(ds.renyi(p, q, alpha), oracle.renyi(exact_p, exact_q, alpha), tolerance)

    def test_renyi_of_order_one_is_kl(self):
        assert ds.renyi([0.5, 0.5], [0.25, 0.75], 1.0) == ds.kl([0.5, 0.5], [0.25, 0.75])

    @pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4])
    def test_renyi_tends_to_kl_as_alpha_tends_to_one(self, step):
        p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
        ratio = np.log(p / q)
        slope = 0.5 * float(p @ (ratio - p @ ratio) ** 2)
        for sign in (-1.0, 1.0):
            gap = float(ds.renyi(p, q, 1.0 + sign * step) - ds.kl(p, q))
            # D_α = KL + (α − 1) Var_p(log p/q)/2 + O((α − 1)²), with a third cumulant below 1
            assert gap == pytest.approx(sign * step * slope, abs=step**2)

    def test_renyi_keeps_its_digits_as_alpha_tends_to_one(self):
        p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
        (_, exact_p), (_, exact_q) = policy_and_oracle(np.log(p)), policy_and_oracle(np.log(q))
        for alpha in (1.0 + s * 10.0**-d for d in (3, 6, 9, 12, 15) for s in (-1.0, 1.0)):
            # D_α is smooth through α = 1: nothing in it grows like 1/(α − 1)
            want = oracle.renyi(exact_p, exact_q, alpha)
            assert_near(ds.renyi(p, q, alpha), want, 1e-12, f"alpha = {alpha!r}")

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_renyi_grows_with_its_order(self, drawn):
        p, q = map(ds.Policy.from_logits, drawn)
        values = [float(ds.renyi(p, q, alpha)) for alpha in (0.1, 0.5, 0.9, 1.0, 1.5, 3.0, 10.0)]
        # logits within 20 make exponents up to 40 α, and 1/(α − 1) is 10 at most
        slack = ROUNDINGS * EPS * 400.0
        assert all(low <= high + slack for low, high in itertools.pairwise(values))

    def test_renyi_knows_missing_support(self):
        assert ds.renyi([0.5, 0.5], [1.0, 0.0], 2.0) == INF
        assert ds.renyi([0.5, 0.5], [1.0, 0.0], 0.5) == pytest.approx(LOG_2, rel=8 * EPS)
        assert ds.renyi([1.0, 0.0], [0.0, 1.0], 0.5) == INF
        assert ds.renyi([1.0, 0.0], [0.0, 1.0], 2.0) == INF
        assert ds.renyi([1.0, 0.0], [0.5, 0.5], 2.0) == pytest.approx(LOG_2, rel=8 * EPS)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, INF, True, "2", None])
    def test_an_order_that_is_not_positive_is_refused(self, alpha):
        with pytest.raises((ValueError, TypeError), match="alpha must be a finite number in"):
            ds.renyi([0.5, 0.5], [0.5, 0.5], alpha)


class TestClassNumbers:
    """Two distributions over different numbers of classes have no divergence, ratio or preference."""

    PAIRS = (([0.5, 0.5], [0.2, 0.3, 0.5]), ([1.0], [0.2, 0.3, 0.5]), ([0.2, 0.3, 0.5], [1.0]))

    @pytest.mark.parametrize(("p", "q"), PAIRS)
    @pytest.mark.parametrize("function", [ds.kl, ds.js, ds.tv, lambda p, q: ds.renyi(p, q, 2.0)])
    def test_divergences_refuse_different_numbers_of_classes(self, function, p, q):
        with pytest.raises(ValueError, match="the numbers of classes of p and q must be equal"):
            function(p, q)

    @pytest.mark.parametrize("function", [ds.did, ds.ideal_rejected, ds.preference_probabilities, ds.power_law])
    def test_ratios_refuse_different_numbers_of_classes(self, function):
        for p, q in self.PAIRS:
            with pytest.raises(ValueError, match="class"):
                function(p, q)


class TestLeadingAxes:
    """Leading axes are batches, and broadcast like numpy's: one policy against many, and many against one."""

    ROWS = np.array([[0.5, 0.5], [0.2, 0.8], [0.75, 0.25]])
    ONE = np.array([0.3, 0.7])

    @pytest.mark.parametrize(
        "function",
        [
            ds.kl,
            ds.js,
            ds.tv,
            lambda p, q: ds.renyi(p, q, 0.5),
            lambda p, q: ds.renyi(p, q, 1.0),
            lambda p, q: ds.renyi(p, q, 2.0),
        ],
        ids=["kl", "js", "tv", "renyi-half", "renyi-one", "renyi-two"],
    )
    def test_a_divergence_of_batches_is_that_of_each_pair(self, function):
        tolerance = {"rtol": 4 * EPS, "atol": 4 * EPS}
        np.testing.assert_allclose(
            function(self.ROWS, self.ONE), [function(row, self.ONE) for row in self.ROWS], **tolerance
        )
        np.testing.assert_allclose(
            function(self.ONE, self.ROWS), [function(self.ONE, row) for row in self.ROWS], **tolerance
        )
        table = [[function(p, q) for q in self.ROWS] for p in self.ROWS]
        np.testing.assert_allclose(function(self.ROWS[:, None], self.ROWS), table, **tolerance)

    @pytest.mark.parametrize("function", [ds.did, ds.ideal_rejected])
    def test_a_ratio_of_batches_is_that_of_each_pair(self, function):
        tolerance = {"rtol": 8 * EPS, "atol": 0.0}
        for p, q in ((self.ROWS, self.ONE), (self.ONE, self.ROWS), (self.ROWS, self.ROWS[::-1])):
            rows = zip(*np.broadcast_arrays(p, q), strict=True)
            np.testing.assert_allclose(function(p, q).probs, [function(*row).probs for row in rows], **tolerance)

    def test_the_entropy_of_a_batch_is_that_of_each_policy(self):
        assert ds.entropy(self.ROWS).tolist() == [float(ds.entropy(row)) for row in self.ROWS]


class TestNumerics:
    def test_what_has_probability_zero_contributes_nothing(self):
        assert expectation(np.array([0.0, 1.0]), np.array([-INF, 2.0])) == 2.0
        assert expectation(np.array([0.0, 1.0]), np.array([math.nan, 2.0])) == 2.0

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_no_term_of_a_relative_entropy_is_negative(self, drawn):
        p, q = map(ds.Policy.from_logits, drawn)
        assert np.all(relative_entropy_terms(p.log_probs, q.log_probs) >= 0.0)


def log_scale(*groups):
    return 1.0 + sum(max(finite(group), default=0.0) for group in groups)


class TestDid:
    @hypothesis.given(several_logits(ORDINARY, 2) | several_logits(EXTREME, 2))
    @MODEST
    def test_did_is_that_of_high_precision(self, drawn):
        numerator, denominator = drawn
        # the denominator may vanish only where the numerator does
        numerator = [x if y > -INF else -INF for x, y in zip(numerator, denominator, strict=True)]
        hypothesis.assume(max(numerator) > -INF)
        (pi, exact_pi), (ref, exact_ref) = policy_and_oracle(numerator), policy_and_oracle(denominator)
        tolerance = ROUNDINGS * EPS * log_scale(pi.log_probs, ref.log_probs)
        assert_same_distribution(ds.did(pi, ref), oracle.did(exact_pi, exact_ref), tolerance)

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_did_leads_from_the_reference_to_the_policy(self, drawn):
        # Definition 3.1: π ∝ π_ref q
        pi, ref = map(ds.Policy.from_logits, drawn)
        again = ds.Policy.from_logits(ref.log_probs + ds.did(pi, ref).log_probs)
        assert np.abs(again.log_probs - pi.log_probs).max() <= ROUNDINGS * EPS * log_scale(pi.log_probs, ref.log_probs)

    @hypothesis.given(several_logits(ORDINARY, 1))
    @MODEST
    def test_did_of_no_update_is_uniform(self, drawn):
        policy = ds.Policy.from_logits(drawn[0])
        k = policy.num_classes
        assert np.abs(ds.did(policy, policy).probs - 1.0 / k).max() <= ROUNDINGS * EPS

    def test_a_class_that_both_exclude_stays_excluded(self):
        assert ds.did([0.5, 0.5, 0.0], [0.25, 0.75, 0.0]).probs == pytest.approx([0.75, 0.25, 0.0], rel=4 * EPS)

    def test_mass_on_a_class_that_the_reference_excludes_is_refused_with_the_class(self):
        with pytest.raises(ValueError, match=r"ratio of the two policies must be finite; .*Class \[1\]"):
            ds.did([0.5, 0.5], [1.0, 0.0])

    def test_one_class_has_a_did_of_one(self):
        assert ds.did([1.0], [1.0]).probs.tolist() == [1.0]


class TestIdealRejected:
    @hypothesis.given(several_logits(ORDINARY, 2) | several_logits(EXTREME, 2), st.floats(0.01, 10.0))
    @MODEST
    def test_the_ideal_rejected_distribution_is_that_of_high_precision(self, drawn, beta):
        numerator = [x if y > -INF else -INF for x, y in zip(*drawn, strict=True)]
        hypothesis.assume(max(numerator) > -INF)
        (ref, exact_ref), (target, exact_target) = policy_and_oracle(numerator), policy_and_oracle(drawn[1])
        tolerance = ROUNDINGS * EPS * (1.0 + beta) * log_scale(ref.log_probs, target.log_probs)
        want = oracle.ideal_rejected(exact_ref, exact_target, beta)
        assert_same_distribution(ds.ideal_rejected(ref, target, beta), want, tolerance)

    def test_the_ideal_rejected_distribution_depends_on_beta_as_a_power(self):
        # by hand: ratio π_ref/π* = (2, 2/3); at β = 2 the weights are ½(4, 4/9), that is (9, 1)/10
        assert ds.ideal_rejected([0.5, 0.5], [0.25, 0.75], 2.0).probs == pytest.approx([0.9, 0.1], rel=8 * EPS)

    @pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, INF, -INF, True, "1", None])
    def test_a_beta_outside_its_domain_is_refused(self, beta):
        for build in (ds.ideal_rejected, ds.Problem.from_policies):
            with pytest.raises((ValueError, TypeError), match="beta must be a finite number in"):
                build([0.5, 0.5], [0.25, 0.75], beta)

    @pytest.mark.parametrize("beta", [1e300, 1e-300])
    def test_a_beta_far_out_gives_a_distribution(self, beta):
        got = ds.ideal_rejected([0.3, 0.7], [0.6, 0.4], beta).probs.tolist()
        assert got == ([0.0, 1.0] if beta > 1 else pytest.approx([0.3, 0.7], rel=4 * EPS))

    def test_a_beta_that_overflows_is_refused_by_its_name(self):
        with pytest.raises(ValueError, match="beta"):
            ds.ideal_rejected([0.3, 0.7], [0.999, 0.001], 1e308)

    def test_a_target_that_excludes_a_class_of_the_reference_is_refused(self):
        with pytest.raises(ValueError, match=r"Class \[1\] has mass above the line"):
            ds.ideal_rejected([0.5, 0.5], [1.0, 0.0])


def some_problem(tau=4.0, k=8, seed=3):
    return ds.Problem.from_temperature(num_classes=k, tau=tau, seed=seed)


BETAS = (0.1, 0.5, 1.0, 2.0, 10.0)


class TestPowerLaw:
    @pytest.mark.parametrize("tau", [0.5, 2.0, 4.0, 50.0])
    def test_the_temperature_problem_has_exponent_one(self, tau):
        problem = some_problem(tau)
        law = ds.power_law(ds.did(problem.reference, problem.rejected), problem.did)
        # log-ratios of size s = |1 − 1/τ| carry an error of some 10 ε
        size = abs(1.0 - 1.0 / tau)
        assert law.exponent == pytest.approx(1.0, abs=10 * ROUNDINGS * EPS / size)
        assert law.residual <= 10 * ROUNDINGS * EPS

    @pytest.mark.parametrize("beta", BETAS)
    def test_a_problem_from_policies_has_exponent_beta(self, beta):
        rng = np.random.default_rng(5)
        reference, target = (ds.Policy.from_logits(rng.standard_normal(6)) for _ in range(2))
        problem = ds.Problem.from_policies(reference, target, beta)
        law = ds.power_law(ds.did(problem.reference, problem.rejected), problem.did)
        assert law.exponent == pytest.approx(beta, rel=10 * ROUNDINGS * EPS * (1.0 + 1.0 / beta))
        assert law.residual <= 10 * ROUNDINGS * EPS * (1.0 + beta)

    def test_the_residual_measures_what_is_no_power_law(self):
        # by hand: log q₂ = (−1, 0, 1) + c and log q₁ = (1, −2, 1) + c' are orthogonal
        law = ds.power_law(ds.Policy.from_logits([1.0, -2.0, 1.0]), ds.Policy.from_logits([-1.0, 0.0, 1.0]))
        assert law.exponent == pytest.approx(0.0, abs=8 * EPS)
        assert law.residual == pytest.approx(2.0, rel=8 * EPS)

    def test_a_power_of_a_uniform_distribution_is_refused_whatever_its_rounding(self):
        for k in range(1, 40):
            with pytest.raises(ValueError, match="the second distribution must be other than uniform"):
                ds.power_law(ds.Policy.from_logits(np.arange(k)), np.full(k, 1.0 / k))

    def test_a_class_of_probability_zero_is_refused(self):
        for p, q in (([1.0, 0.0], [0.5, 0.5]), ([0.5, 0.5], [1.0, 0.0])):
            with pytest.raises(ValueError, match="both distributions must be positive on every class"):
                ds.power_law(p, q)


class TestPreferences:
    @hypothesis.given(several_logits(ORDINARY, 2) | several_logits(st.floats(-1e4, 1e4), 2))
    @MODEST
    def test_preference_probabilities_are_those_of_high_precision(self, drawn):
        (w, exact_w), (x, exact_x) = map(policy_and_oracle, drawn)
        got = ds.preference_probabilities(w, x)
        for i in range(w.num_classes):
            for j in range(w.num_classes):
                want = oracle.preference(exact_w, exact_x, i, j)
                scale = sum(abs(float(p[c])) for p in (exact_w, exact_x) for c in (i, j))
                # σ'(s) = σ(1 − σ): what the rounding of the scores does to it
                tolerance = ROUNDINGS * EPS * float(want + scale * want * (1 - want)) + TINY
                assert_near(got[i, j], want, tolerance)

    @hypothesis.given(several_logits(ORDINARY, 2))
    @MODEST
    def test_one_of_two_is_preferred(self, drawn):
        table = ds.preference_probabilities(*map(ds.Policy.from_logits, drawn))
        assert np.all(np.diag(table) == 0.5)
        assert np.abs(table + table.T - 1.0).max() <= 2 * EPS

    @pytest.mark.parametrize("beta", BETAS)
    def test_preferences_are_the_logistic_of_beta_times_the_did(self, beta):
        # Theorem 3.3
        rng = np.random.default_rng(7)
        reference, target = (ds.Policy.from_logits(rng.standard_normal(5)) for _ in range(2))
        problem = ds.Problem.from_policies(reference, target, beta)
        exact_did = oracle.did(*(oracle.log_softmax(p.log_probs) for p in (target, reference)))
        for i in range(5):
            for j in range(5):
                want = oracle.sigmoid(beta * (exact_did[i] - exact_did[j]))
                assert_near(problem.preferences[i, j], want, ROUNDINGS * EPS * 10.0 * (1.0 + beta))

    def test_preferences_are_the_share_of_pairs_in_which_one_was_chosen(self):
        # by hand: (¾·½) / (¾·½ + ¼·½) = ¾
        assert ds.preference_probabilities([0.75, 0.25], [0.5, 0.5])[0, 1] == pytest.approx(0.75, rel=4 * EPS)

    def test_a_class_of_probability_zero_is_refused(self):
        for p, q in (([1.0, 0.0], [0.5, 0.5]), ([0.5, 0.5], [1.0, 0.0]), ([1.0, 0.0], [1.0, 0.0])):
            with pytest.raises(ValueError, match="both distributions must be positive on every class"):
                ds.preference_probabilities(p, q)

    def test_a_batch_gives_a_table_for_each_policy_or_is_refused(self):
        batch = np.array([[0.5, 0.5], [0.2, 0.8], [0.75, 0.25]])
        try:
            tables = ds.preference_probabilities(batch, batch[::-1])
        except ValueError:
            return
        want = [ds.preference_probabilities(p, q) for p, q in zip(batch, batch[::-1], strict=True)]
        assert np.array_equal(tables, want)


class TestProblems:
    @pytest.mark.parametrize("tau", [0.25, 1.0, 4.0])
    @pytest.mark.parametrize("k", [1, 2, 32])
    def test_the_temperature_problem_is_built_as_the_paper_says(self, tau, k):
        theta = np.random.default_rng(11).standard_normal(k)
        problem = ds.Problem.from_temperature(num_classes=k, tau=tau, seed=11)
        tolerance = ROUNDINGS * EPS * (1.0 + np.abs(theta).max()) * (2.0 + 1.0 / tau)
        assert_same_distribution(problem.reference, oracle.log_softmax(theta), tolerance)
        assert_same_distribution(problem.target, oracle.log_softmax(theta / tau), tolerance)
        assert_same_distribution(problem.rejected, oracle.log_softmax(2.0 * theta - theta / tau), tolerance)
        assert_same_distribution(problem.did, oracle.log_softmax(theta / tau - theta), tolerance)
        assert problem.chosen is problem.reference
        assert problem.num_classes == k

    def test_the_temperature_problem_has_the_ideal_rejected_distribution_of_beta_one(self):
        problem = some_problem()
        ideal = ds.ideal_rejected(problem.reference, problem.target, 1.0)
        assert np.abs(ideal.log_probs - problem.rejected.log_probs).max() <= ROUNDINGS * EPS * 10.0

    def test_two_references_lead_to_the_same_did(self):
        # q_{π_ref/π_l} = q_{π*/π_ref}
        problem = some_problem()
        other = ds.did(problem.reference, problem.rejected)
        assert np.abs(other.log_probs - problem.did.log_probs).max() <= ROUNDINGS * EPS * 10.0

    @pytest.mark.parametrize("tau", [0, 0.0, -1.0, math.nan, INF, -INF, 1e-320, "4", "abc", None, True])
    def test_a_temperature_that_cannot_be_is_refused(self, tau):
        with pytest.raises((ValueError, TypeError), match="tau must be"):
            ds.Problem.from_temperature(8, tau=tau)

    @pytest.mark.parametrize("tau", [1e-300, 1e308])
    def test_a_temperature_far_out_gives_its_limit(self, tau):
        problem = ds.Problem.from_temperature(4, tau=tau, seed=1)
        best = np.zeros(4)
        best[np.argmax(problem.reference.probs)] = 1.0
        assert problem.target.probs.tolist() == (best.tolist() if tau < 1 else [0.25] * 4)

    @pytest.mark.parametrize("k", [0, -1, 3.0, True, 10**9, 1e9, MAX_CLASSES + 1, "3", math.nan, [3]])
    def test_a_number_of_classes_that_cannot_be_is_refused(self, k):
        with pytest.raises(
            (ValueError, TypeError), match=f"num_classes must be a whole number from 1 to {MAX_CLASSES}"
        ):
            ds.Problem.from_temperature(k)

    @pytest.mark.parametrize("seed", [-1, 2**65, 2**63, "abc", 1.0, None, True])
    def test_a_seed_that_cannot_be_is_refused(self, seed):
        with pytest.raises((ValueError, TypeError), match="seed must be a whole number from 0"):
            ds.Problem.from_temperature(3, seed=seed)

    def test_the_seed_alone_decides_the_problem(self):
        np.random.seed(1)  # noqa: NPY002 -- the global generator must not matter
        first = some_problem(seed=5).reference.log_probs
        np.random.seed(2)  # noqa: NPY002
        assert some_problem(seed=5).reference.log_probs.tolist() == first.tolist()
        assert some_problem(seed=6).reference.log_probs.tolist() != first.tolist()

    def test_policies_of_different_shapes_are_no_problem(self):
        two, three = ds.Policy.from_logits([0.0, 1.0]), ds.Policy.from_logits([0.0, 1.0, 2.0])
        with pytest.raises(ValueError, match=r"the policies of a problem must be of one shape \[K\]"):
            ds.Problem(two, three, two, two)

    def test_batches_of_policies_are_no_problem(self):
        batch = ds.Policy.from_logits([[0.0, 1.0], [1.0, 0.0]])
        with pytest.raises(ValueError, match=r"the policies of a problem must be of one shape \[K\]"):
            ds.Problem(batch, batch, batch, batch)

    def test_chosen_responses_that_the_reference_cannot_give_are_refused(self):
        half, certain = ds.Policy.from_probs([0.5, 0.5]), ds.Policy.from_probs([1.0, 0.0])
        with pytest.raises(ValueError, match="chosen must be zero wherever the reference is zero"):
            ds.Problem(reference=certain, target=half, rejected=half, chosen=half)

    def test_a_target_that_no_reweighting_of_the_reference_reaches_is_refused(self):
        with pytest.raises(ValueError, match=r"target|ratio"):
            ds.Problem.from_policies([1.0, 0.0], [0.5, 0.5])

    def test_the_digest_depends_on_the_pairs_by_value_and_on_nothing_else(self):
        problem, again, other = some_problem(), some_problem(), some_problem(seed=4)
        assert problem.pair_digest == again.pair_digest
        assert problem.pair_digest != other.pair_digest
        same_pairs = ds.Problem(problem.reference, other.target, problem.rejected, problem.chosen)
        assert same_pairs.pair_digest == problem.pair_digest
        for chosen, rejected in ((problem.chosen, other.rejected), (other.chosen, problem.rejected)):
            other_pairs = ds.Problem(problem.reference, problem.target, rejected, chosen)
            assert other_pairs.pair_digest != problem.pair_digest


class TestPreferenceDataset:
    BUILD = staticmethod(ds.PreferenceDataset.from_classes)

    def test_classes_are_kept_as_read_only_integers(self):
        given = np.array([0, 2, 1], dtype=np.uint8)
        dataset = self.BUILD(given, [1, 1, 1], num_classes=3)
        given[:] = 0
        assert dataset.chosen.tolist() == [0, 2, 1]
        assert dataset.chosen.dtype == dataset.rejected.dtype == np.int64
        assert not dataset.chosen.flags.writeable
        assert len(dataset) == 3

    @pytest.mark.parametrize("side", ["chosen", "rejected"])
    @pytest.mark.parametrize("bad", [-1, 3, 10**6])
    def test_a_class_out_of_range_is_refused_with_its_row(self, side, bad):
        rows = {"chosen": [0, 1, 2], "rejected": [0, 1, 2]}
        rows[side][2] = bad
        with pytest.raises(ValueError, match=rf"^{side}\[2\] must be a class from 0 to 2; got {bad}"):
            self.BUILD(**rows, num_classes=3)

    @pytest.mark.parametrize("bad", [3.0, 1.0, "1", None, 2**70])
    def test_a_class_that_is_no_whole_number_is_refused(self, bad):
        with pytest.raises((TypeError, ValueError), match="chosen"):
            self.BUILD([0, bad], [0, 0], num_classes=4)

    def test_truth_values_are_no_classes(self):
        with pytest.raises(TypeError, match=r"chosen\[0\] must be a whole number; got True"):
            self.BUILD([True, False], [0, 0], num_classes=2)

    def test_a_truth_value_among_whole_numbers_is_refused(self):
        with pytest.raises(TypeError, match="chosen"):
            self.BUILD([0, True], [0, 0], num_classes=2)

    def test_a_class_that_is_no_whole_number_is_named_with_its_row(self):
        with pytest.raises(TypeError, match=r"chosen\[1\]"):
            self.BUILD([0, 3.0], [0, 0], num_classes=4)

    @pytest.mark.parametrize(
        "bad",
        [
            np.array([0.0, 1.0]),
            np.array([False, True]),
            torch.tensor([0.5, 1.7]),
            torch.tensor([False, True]),
            pd.Series([0.5, 1.7]),
            pd.Series([False, True]),
            pd.Series([0, None]),
            pd.Series(["0", "1"]),
        ],
        ids=[
            "floats",
            "truths",
            "tensor",
            "truth tensor",
            "column",
            "truth column",
            "column with a gap",
            "text column",
        ],
    )
    def test_a_column_of_anything_but_whole_numbers_is_refused(self, bad):
        with pytest.raises(TypeError, match="chosen"):
            self.BUILD(bad, [0, 0], num_classes=3)

    @pytest.mark.parametrize("good", [(2, 0), range(2, 4), np.array([2, 0], np.uint8), pd.Series([2, 0])])
    def test_a_column_of_whole_numbers_is_taken_from_wherever_it_comes(self, good):
        dataset = self.BUILD(good, [0, 0], num_classes=4)
        assert dataset.chosen.tolist() == [int(x) for x in good]

    @pytest.mark.parametrize("empty", [[], np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)])
    def test_no_pairs_are_no_dataset(self, empty):
        with pytest.raises(ValueError, match=r"the shape of chosen must be \[n\] with n ≥ 1"):
            self.BUILD(empty, empty, num_classes=3)

    @pytest.mark.parametrize("bad", [[[0], [1]], 0, np.int64(0)])
    def test_classes_that_are_no_list_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"the shape of chosen must be \[n\]"):
            self.BUILD(bad, [0], num_classes=3)

    def test_ragged_lists_are_refused_by_name(self):
        with pytest.raises((ValueError, TypeError), match="chosen"):
            self.BUILD([[0], [1, 2]], [0, 0], num_classes=3)

    def test_sides_of_different_length_are_refused(self):
        with pytest.raises(ValueError, match=r"chosen and rejected must be equally long; got \(2, 1\)"):
            self.BUILD([0, 1], [0], num_classes=3)

    def test_a_number_of_classes_that_cannot_be_is_refused_by_name(self):
        for bad in (0, -1, 3.0, True, math.nan, "3", None):
            with pytest.raises((ValueError, TypeError), match="num_classes"):
                self.BUILD([0], [0], num_classes=bad)


def population_gradient(problem, loss, policy):
    """The population loss over the K × K table and its gradient by the logits, by automatic differentiation."""
    logits = torch.tensor(policy.log_probs, requires_grad=True)
    log_pi = torch.log_softmax(logits, dim=0)
    log_ref = torch.tensor(problem.reference.log_probs)
    pairs = Pairs(Responses(log_pi[:, None], log_ref[:, None]), Responses(log_pi[None, :], log_ref[None, :]))
    weights = torch.tensor(np.outer(problem.chosen.probs, problem.rejected.probs))
    value = (weights * loss(pairs)).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient.abs().max().item()


class TestDpoOptimum:
    @hypothesis.given(several_logits(ORDINARY, 4), st.floats(0.05, 20.0))
    @MODEST
    def test_the_optimum_is_that_of_high_precision(self, drawn, beta):
        exact, policies = [], []
        for logits in drawn:
            policy, want = policy_and_oracle(logits)
            policies.append(policy)
            exact.append(want)
        reference, target, rejected, prior = policies
        problem = ds.Problem(reference=reference, target=target, rejected=rejected, chosen=reference)
        scale = log_scale(*(p.log_probs for p in policies)) * (1.0 + 1.0 / beta)
        for zeta, given in ((exact[0], None), (exact[3], prior)):
            want = oracle.dpo_optimum(zeta, exact[0], exact[2], beta)
            assert_same_distribution(ds.dpo_optimum(problem, beta, given), want, ROUNDINGS * EPS * scale)

    @pytest.mark.parametrize("beta", BETAS)
    def test_the_optimum_of_the_matching_beta_is_the_target(self, beta):
        rng = np.random.default_rng(13)
        reference, target = (ds.Policy.from_logits(rng.standard_normal(6)) for _ in range(2))
        optimum = ds.dpo_optimum(ds.Problem.from_policies(reference, target, beta), beta)
        error = np.abs(optimum.log_probs - target.log_probs).max()
        assert error <= 10 * ROUNDINGS * EPS * (1.0 + 1.0 / beta)

    def test_the_optimum_of_another_beta_is_not_the_target(self):
        # by hand: π ∝ π_ref (π*/π_ref)^{β_problem/β} = ½(1.6², 0.4²) ∝ (16, 1)
        problem = ds.Problem.from_policies([0.5, 0.5], [0.8, 0.2], beta=2.0)
        assert ds.dpo_optimum(problem, beta=1.0).probs == pytest.approx([16 / 17, 1 / 17], rel=16 * EPS)

    def test_the_temperature_problem_has_its_target_as_optimum(self):
        problem = some_problem()
        error = np.abs(ds.dpo_optimum(problem).log_probs - problem.target.log_probs).max()
        assert error <= 10 * ROUNDINGS * EPS

    @pytest.mark.parametrize("beta", BETAS)
    def test_the_dpo_gradient_vanishes_at_the_target(self, beta):
        rng = np.random.default_rng(17)
        reference, target = (ds.Policy.from_logits(rng.standard_normal(6)) for _ in range(2))
        problem, loss = ds.Problem.from_policies(reference, target, beta), objective("dpo", beta=beta)
        # each of K terms β w l σ is right to some ε, more by the rounding of margins up to 10 β
        tolerance = ROUNDINGS * EPS * beta * (1.0 + 10.0 * beta)
        for policy in (problem.target, ds.dpo_optimum(problem, beta)):
            assert population_gradient(problem, loss, policy)[1] <= tolerance
        assert population_gradient(problem, loss, problem.reference)[1] > 1e-3

    @pytest.mark.parametrize("beta", BETAS)
    def test_the_gradient_of_log_pi_vanishes_at_the_optimum_under_the_uniform_prior(self, beta):
        problem, loss = some_problem(), objective("log_pi", beta=beta)
        optimum = ds.dpo_optimum(problem, beta, prior=np.full(8, 0.125))
        tolerance = ROUNDINGS * EPS * beta * (1.0 + 10.0 * beta)
        assert population_gradient(problem, loss, optimum)[1] <= tolerance
        assert population_gradient(problem, loss, ds.dpo_optimum(problem, beta))[1] > 1e-3

    def test_the_loss_is_larger_everywhere_around_the_optimum(self):
        problem, loss = some_problem(), objective("dpo")
        optimum = ds.dpo_optimum(problem)
        least, _ = population_gradient(problem, loss, optimum)
        for direction in np.random.default_rng(19).standard_normal((20, 8)):
            around = ds.Policy.from_logits(optimum.log_probs + 0.1 * direction)
            assert population_gradient(problem, loss, around)[0] > least + 1e-6

    @pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, INF, True, "1", None])
    def test_a_beta_outside_its_domain_is_refused(self, beta):
        with pytest.raises((ValueError, TypeError), match="beta must be a finite number in"):
            ds.dpo_optimum(some_problem(), beta=beta)

    @pytest.mark.parametrize("beta", [1e-300, 1e300])
    def test_a_beta_far_out_gives_its_limit(self, beta):
        problem = ds.Problem.from_policies([0.5, 0.5], [0.8, 0.2])
        got = ds.dpo_optimum(problem, beta=beta).probs
        assert got == pytest.approx([1.0, 0.0] if beta < 1 else [0.5, 0.5], rel=4 * EPS, abs=0.0)

    @pytest.mark.parametrize("k", [1, 8])
    def test_a_beta_whose_inverse_overflows_is_refused_by_its_name(self, k):
        with pytest.raises(ValueError, match="beta"):
            ds.dpo_optimum(some_problem(tau=0.5, k=k), beta=1e-320)

    def test_a_prior_over_other_classes_is_refused(self):
        with pytest.raises(ValueError, match="the number of classes of prior must be 8; got 2"):
            ds.dpo_optimum(some_problem(), prior=[0.5, 0.5])

    def test_an_optimum_at_infinity_is_refused(self):
        certain, half = ds.Policy.from_probs([1.0, 0.0]), ds.Policy.from_probs([0.5, 0.5])
        with pytest.raises(ValueError, match=r"Class \[1\] has mass above the line and none below it"):
            ds.dpo_optimum(ds.Problem(reference=half, target=half, rejected=certain, chosen=half))


class TestTorchBridge:
    def test_a_tensor_is_a_copy_of_the_array(self):
        array = np.arange(6.0).reshape(2, 3).T
        array.setflags(write=False)
        tensor = torch_bridge.to_tensor(array)
        tensor[0, 0] = 7.0
        assert array[0, 0] == 0.0
        assert tensor.dtype == torch.float64
        assert tensor[1:].tolist() == array[1:].tolist()

    def test_an_array_is_a_float64_copy_of_the_tensor(self):
        tensor = torch.tensor([0.1, 0.2], dtype=torch.float32, requires_grad=True)
        array = torch_bridge.to_array(tensor)
        assert array.dtype == np.float64
        array[0] = 7.0
        assert tensor[0].item() == float(np.float32(0.1))

    def test_whole_tensors_stay_whole(self):
        assert torch_bridge.to_array(torch.tensor([2**53 + 1])).tolist() == [2**53 + 1]

    def test_a_dtype_is_asked_for_by_name(self):
        assert torch_bridge.as_dtype("float32") is torch.float32
        with pytest.raises(ValueError, match=r"dtype must be one of float32, float64; got 'float46'\. Did you mean"):
            torch_bridge.as_dtype("float46")

    def test_the_number_of_threads_is_restored_even_after_an_error(self):
        before = torch.get_num_threads()
        inside = []

        @torch_bridge.threads(before + 1)
        def block():
            inside.append(torch.get_num_threads())
            raise RuntimeError("inside")

        with pytest.raises(RuntimeError, match="inside"):
            block()
        assert inside == [before + 1]
        assert torch.get_num_threads() == before

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_log_zero_stands_for_probability_exactly_zero(self, dtype):
        zero = torch.tensor(torch_bridge.LOG_ZERO, dtype=dtype)
        assert zero.exp().item() == 0.0
        assert torch.isfinite(zero - zero)
