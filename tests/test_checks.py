"""The argument checks: what is accepted, what is refused, and what the refusal says."""

import decimal
import fractions
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from didsim._checks import (
    NON_NEGATIVE,
    POSITIVE,
    REAL,
    Interval,
    check_choice,
    check_integer,
    check_number,
    did_you_mean,
    message,
    parse_number,
)

MODEST = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)

HALF_OPEN = Interval(0.0, 0.5, closed_low=True)
NOT_FINITE = (math.nan, math.inf, -math.inf)
LEAST = 5e-324
"""The smallest positive float64."""


class TestMessage:
    def test_a_message_names_the_accepted_and_the_given(self):
        assert message("beta", "positive", -1) == "beta must be positive; got -1."

    def test_a_hint_follows(self):
        assert (
            message("beta", "positive", "1", "Drop the quotes.") == "beta must be positive; got '1'. Drop the quotes."
        )


class TestInterval:
    @pytest.mark.parametrize(
        ("interval", "members", "others"),
        [
            (POSITIVE, [LEAST, 1.0, 1e308], [0.0, -0.0, -LEAST, -1.0]),
            (NON_NEGATIVE, [0.0, -0.0, LEAST, 1e308], [-LEAST, -1.0]),
            (REAL, [-1e308, -1.0, 0.0, 1e308], []),
            (HALF_OPEN, [0.0, 0.25, math.nextafter(0.5, 0.0)], [-LEAST, 0.5, 0.6]),
            (Interval(1.0, 2.0), [1.5], [1.0, 2.0, 0.5, 2.5]),
            (Interval(1.0, 2.0, closed_high=True), [2.0], [1.0, math.nextafter(2.0, 3.0)]),
            (Interval(1.0, 1.0, closed_low=True, closed_high=True), [1.0], [0.0, 2.0]),
            (Interval(1.0, 1.0), [], [1.0]),
        ],
        ids=str,
    )
    def test_an_interval_holds_exactly_its_members(self, interval, members, others):
        assert all(x in interval for x in members)
        assert not any(x in interval for x in (*others, *NOT_FINITE))

    def test_an_infinite_end_is_no_member_even_of_a_closed_interval(self):
        everything = Interval(closed_low=True, closed_high=True)
        assert not any(x in everything for x in NOT_FINITE)
        assert 1e308 in everything

    def test_an_interval_is_written_with_its_brackets(self):
        assert str(POSITIVE) == "(0, inf)"
        assert str(NON_NEGATIVE) == "[0, inf)"
        assert str(HALF_OPEN) == "[0, 0.5)"
        assert str(Interval(-1.0, 1.0, closed_high=True)) == "(-1, 1]"
        assert str(REAL) == "(-inf, inf)"


class TestCheckNumber:
    @pytest.mark.parametrize(
        "value", [2, 2.0, np.float32(2.0), np.float64(2.0), np.int64(2), np.array(2.0), fractions.Fraction(2)]
    )
    def test_every_kind_of_number_becomes_a_float(self, value):
        number = check_number("beta", value)
        assert type(number) is float
        assert number == 2.0

    @pytest.mark.parametrize(
        "value", [True, False, None, "2", "abc", b"2", 1j, [2.0], (2.0,), {}, object(), np.array([2.0, 3.0])]
    )
    def test_what_is_no_number_is_a_type_error_that_names_it(self, value):
        with pytest.raises(TypeError, match=r"^beta must be a finite number in \(0, inf\); got "):
            check_number("beta", value, POSITIVE)

    def test_a_numpy_truth_value_is_no_number(self):
        with pytest.raises(TypeError, match="beta must be a finite number"):
            check_number("beta", np.True_, POSITIVE)

    @pytest.mark.parametrize("value", NOT_FINITE)
    def test_what_is_not_finite_is_refused_everywhere(self, value):
        with pytest.raises(ValueError, match=rf"^x must be a finite number in \(-inf, inf\); got {value}"):
            check_number("x", value)

    @pytest.mark.parametrize(
        ("value", "interval"), [(0, POSITIVE), (0.0, POSITIVE), (-1, NON_NEGATIVE), (0.5, HALF_OPEN), (-0.1, HALF_OPEN)]
    )
    def test_a_number_outside_is_refused_with_the_interval(self, value, interval):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
            check_number("x", value, interval)
        assert str(caught.value) == f"x must be a finite number in {interval}; got {value!r}."

    def test_a_whole_number_beyond_float64_is_said_to_overflow(self):
        with pytest.raises(ValueError, match=r"It overflows a float64\.$"):
            check_number("x", 10**400)

    def test_a_positive_number_that_float64_rounds_to_zero_is_not_positive(self):
        with pytest.raises(ValueError, match="x must be a finite number"):
            check_number("x", decimal.Decimal("1e-400"), POSITIVE)

    def test_the_value_comes_back_unrounded(self):
        assert check_number("x", 0.1) == 0.1
        assert check_number("x", LEAST, POSITIVE) == LEAST


class TestParseNumber:
    @hypothesis.given(st.floats(allow_nan=False, allow_infinity=False))
    @MODEST
    def test_what_python_prints_is_read_back(self, number):
        assert parse_number("x", repr(number)) == number

    @pytest.mark.parametrize(
        ("text", "number"), [("1e-3", 0.001), (" 2.5 ", 2.5), ("1E5", 1e5), ("+3", 3.0), (".5", 0.5), ("5e-324", LEAST)]
    )
    def test_the_usual_spellings_are_read(self, text, number):
        assert parse_number("x", text) == number

    @pytest.mark.parametrize("text", ["0", "0.0", "-0", "0e-400", "0.000e5", "00"])
    def test_zero_is_zero_however_written(self, text):
        assert parse_number("x", text) == 0.0

    @pytest.mark.parametrize(
        "text", ["1e-400", "-1e-400", "1E-400", "0.5e-324", "0.0001e-330", "0." + "0" * 400 + "1", " 3e-999 "]
    )
    @pytest.mark.parametrize("interval", [POSITIVE, NON_NEGATIVE, REAL])
    def test_underflow_is_said_and_not_rounded_to_zero(self, text, interval):
        with pytest.raises(ValueError, match=r"^beta must be .*It underflows to 0 in float64\.$"):
            parse_number("beta", text, interval)

    @pytest.mark.parametrize("text", ["1,5", "0,1", "1.000,5", "1,000"])
    def test_a_decimal_comma_is_refused_with_a_hint(self, text):
        with pytest.raises(ValueError, match=rf"got '{text}'\. Use a decimal point\.$"):
            parse_number("beta", text)

    @pytest.mark.parametrize("text", ["", " ", "abc", "1.5.2", "0x10", "one", "1e", "--1", "1 2", "True", "None"])
    def test_what_is_no_number_is_refused_without_a_hint(self, text):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
            parse_number("beta", text)
        assert str(caught.value) == f"beta must be a finite number in (-inf, inf); got {text!r}."

    @pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e400", "-1e400"])
    def test_what_is_not_finite_is_refused(self, text):
        with pytest.raises(ValueError, match=r"beta must be a finite number in \(-inf, inf\); got"):
            parse_number("beta", text)

    @pytest.mark.parametrize(("text", "interval"), [("0", POSITIVE), ("-1", NON_NEGATIVE), ("0.5", HALF_OPEN)])
    def test_a_number_outside_is_refused_with_the_interval(self, text, interval):
        with pytest.raises(ValueError, match="beta") as caught:
            parse_number("beta", text, interval)
        assert str(caught.value).startswith(f"beta must be a finite number in {interval}; got ")


class TestCheckInteger:
    @pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
    def test_every_kind_of_whole_number_becomes_an_int(self, value):
        number = check_integer("steps", value, 1, 5)
        assert type(number) is int
        assert number == 3

    @pytest.mark.parametrize("value", [1, 5])
    def test_both_ends_are_members(self, value):
        assert check_integer("steps", value, 1, 5) == value

    @pytest.mark.parametrize("value", [0, 6, -1, 10**12, 2**65, -(2**65)])
    def test_a_number_outside_is_refused_with_both_ends(self, value):
        with pytest.raises(ValueError, match=rf"^steps must be a whole number from 1 to 5; got {value}\."):
            check_integer("steps", value, 1, 5)

    @pytest.mark.parametrize(
        "value", [True, False, np.True_, 3.0, np.float64(3.0), math.nan, math.inf, "3", "abc", b"3", None, [3], 3j]
    )
    def test_what_is_no_whole_number_is_a_type_error(self, value):
        with pytest.raises(TypeError, match=r"^steps must be a whole number from 1 to 5; got "):
            check_integer("steps", value, 1, 5)


class TestCheckChoice:
    CHOICES = ("reference", "uniform", "marginal")

    @pytest.mark.parametrize("name", CHOICES)
    def test_a_choice_is_returned(self, name):
        assert check_choice("prior", name, self.CHOICES) == name

    def test_choices_may_be_any_iterable_of_names(self):
        assert check_choice("prior", "uniform", iter(self.CHOICES)) == "uniform"
        assert check_choice("prior", "uniform", dict.fromkeys(self.CHOICES)) == "uniform"

    def test_an_error_lists_the_choices_and_suggests_the_near_one(self):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
            check_choice("prior", "unifrom", self.CHOICES)
        assert str(caught.value) == (
            "prior must be one of reference, uniform, marginal; got 'unifrom'. Did you mean uniform?"
        )

    @pytest.mark.parametrize("value", [None, 3, True, "", "UNIFORM ", ["uniform"], math.nan])
    def test_what_is_no_choice_is_refused(self, value):
        with pytest.raises(ValueError, match=r"^prior must be one of reference, uniform, marginal; got "):
            check_choice("prior", value, self.CHOICES)

    def test_an_array_is_refused_by_name(self):
        with pytest.raises((ValueError, TypeError), match=r"^prior must be one of"):
            check_choice("prior", np.ones(2), self.CHOICES)

    def test_a_choice_among_none_is_refused(self):
        with pytest.raises(ValueError, match="prior must be one of"):
            check_choice("prior", "uniform", [])


class TestDidYouMean:
    def test_the_near_names_are_suggested_nearest_first(self):
        assert did_you_mean("dppo", ["simpo", "orpo", "dpo", "slic"]).startswith("Did you mean dpo")

    def test_at_most_three_are_suggested(self):
        assert did_you_mean("abcd", ["abce", "abcf", "abcg", "abch"]).count(" or ") == 2

    def test_nothing_is_suggested_when_nothing_is_near(self):
        assert did_you_mean("xyz", ["reference", "uniform"]) == ""
        assert did_you_mean("xyz", []) == ""

    def test_any_iterable_of_names_will_do(self):
        assert did_you_mean("gama", iter(["beta", "gamma"])) == "Did you mean gamma?"
