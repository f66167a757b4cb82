"""Each registered objective against its oracle, and the laws that the family keeps."""

import functools
import math
from types import MappingProxyType
from typing import ClassVar

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from oracles import batch_losses, duals, token_losses
from oracles import losses as oracle
from oracles.losses import Pair
from samples import (
    EPS,
    LATTICE,
    SAME_FORMULA,
    activating,
    as_table,
    assert_same,
    every_option,
    float32_number,
    grid,
    grid_of,
    is_number,
    kind_of,
    label,
    make_pairs,
    one_pair,
    responses,
    table,
    value_and_gradients,
    values_and_gradients,
    without,
)

from didsim._checks import Interval
from didsim.objectives import (
    NEEDS,
    OBJECTIVES,
    PRIORS,
    BoundObjective,
    Link,
    NextTokens,
    Objective,
    Pairs,
    Parameter,
    Responses,
    Tokens,
    group_key,
    objective,
    stack,
)
from didsim.objectives._math import log1mexp, power_transform, softplus_neg
from didsim.objectives._objective import BOOLEAN

NAMES = sorted(OBJECTIVES)
MODEST = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)

ROUNDINGS = 8
"""How many roundings a loss may be off, each weighed by the sensitivity that the oracle reports. A loss is a
dozen operations of at most one rounding, most of half of one; ORPO's log-odds near p = 1 are some 28 times
larger than their sensitivity, and come to four."""

TINY = {torch.float32: 2.0**-126, torch.float64: 2.0**-1022}
"""Below the smallest normal number a relative error means nothing: results may be flushed to 0."""

CUT = {dtype: 0.5 * math.log(torch.finfo(dtype).max) for dtype in EPS}
"""Where the exponent of e^h is cut, as f_dpo, chi_po and alphapo document: 354 in float64, 44 in float32."""

NEAREST_CORNER = 1e-12
"""At a kink there is no gradient, and within rounding of it either of two is right."""


@functools.cache
def evaluate(name, pair, items, cut):
    """The oracle's answer, remembered: float64 and float32 are held against the same one."""
    return oracle.evaluate(name, pair, dict(items), cut)


def assert_close(got, want, tolerance, what):
    if math.isinf(want):
        assert got == want, f"{what}: got {got}, want {want}"
        return
    assert math.isfinite(got), f"{what}: got {got}, want {want}"
    assert abs(got - want) <= tolerance, f"{what}: got {got}, want {want}, off by {abs(got - want) / tolerance}"


def lattice_for(name, hyperparameters):
    """Every pair for the defaults; for the other points of the grid a quarter of them, in turn."""
    turn = grid_of(name).index(hyperparameters)
    return LATTICE if hyperparameters == objective(name).hyperparameters else LATTICE[turn % 4 :: 4]


def check_against_oracle(name, points, hyperparameters, dtype):
    """Hold value and gradient of every pair against the oracle, to a few roundings of their inputs."""
    loss = objective(name, **hyperparameters)
    values, gradients = value_and_gradients(loss, make_pairs(points, dtype))
    largest = torch.finfo(dtype).max
    checked = 0
    for i, pair in enumerate(points):
        want = evaluate(name, pair, tuple(hyperparameters.items()), CUT[dtype] if name in oracle.CUT else None)
        if want.corner <= NEAREST_CORNER:
            continue
        what = f"{loss!r} at {pair}"
        unit = ROUNDINGS * EPS[dtype]
        # what is beyond the largest number of the dtype is infinite
        expected = math.copysign(math.inf, want.value) if abs(want.value) > largest else want.value
        assert_close(values[i], expected, unit * want.value_scale + TINY[dtype], what)
        for key, slope in want.gradient.items():
            slope = math.copysign(math.inf, slope) if abs(slope) > largest else slope
            tolerance = unit * want.gradient_scale[key] + TINY[dtype]
            assert_close(gradients[key][i], slope, tolerance, f"{what}, gradient by {key}")
        checked += 1
    return checked


class TestAgainstTheOracle:
    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_every_registered_objective_and_prior_has_an_oracle(self, name, options):
        if kind_of(name, options) == "unknown":
            pytest.fail(f"objective {name!r} with {options} has no oracle: add its formula to tests/oracles")

    def test_every_oracle_is_of_a_registered_objective(self):
        assert {*oracle.LOSSES, *token_losses.LOSSES, *batch_losses.LOSSES} == set(OBJECTIVES)
        assert {*oracle.LOG_PRIORS, *token_losses.LOG_PRIORS} == set(PRIORS)

    def test_no_objective_has_two_oracles(self):
        counts = [len(known) for known in (oracle.LOSSES, token_losses.LOSSES, batch_losses.LOSSES)]
        assert sum(counts) == len({*oracle.LOSSES, *token_losses.LOSSES, *batch_losses.LOSSES})

    @pytest.mark.parametrize(("name", "hyperparameters"), grid("responses"))
    def test_value_and_gradient_are_right_in_float64_from_certain_to_impossible(self, name, hyperparameters):
        points = lattice_for(name, hyperparameters)
        checked = check_against_oracle(name, points, hyperparameters, torch.float64)
        assert checked >= len(points) // 2  # some pairs lie at a kink

    @pytest.mark.parametrize(("name", "hyperparameters"), grid("responses"))
    def test_float32_agrees_to_the_rounding_of_float32(self, name, hyperparameters):
        check_against_oracle(name, lattice_for(name, hyperparameters), hyperparameters, torch.float32)

    @pytest.mark.parametrize("name", sorted(oracle.LOSSES))
    @hypothesis.given(data=st.data())
    @MODEST
    def test_value_and_gradient_are_right_at_ordinary_values(self, name, data):
        points = [point for point in grid_of(name) if kind_of(name, point) == "responses"]
        hyperparameters = data.draw(st.sampled_from(points))
        numbers = data.draw(st.lists(st.floats(-50.0, -1e-6), min_size=8, max_size=8))
        lengths = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
        pair = Pair(*numbers[:4], *map(float, lengths), *numbers[4:], data.draw(st.floats(0.0, 20.0)))
        check_against_oracle(name, [pair], hyperparameters, torch.float64)

    @pytest.mark.parametrize("name", sorted(oracle.LOSSES))
    def test_the_oracles_own_derivatives_are_those_of_numerical_differentiation(self, name):
        point = grid_of(name)[-1]
        point = point if kind_of(name, point) == "responses" else grid_of(name)[0]
        pair = LATTICE[12]
        with mpmath.mp.workdps(oracle.DIGITS), duals.without_stops():
            numbers, options = oracle._inputs(name, pair, point, CUT[torch.float64])
            together = oracle._loss(name, oracle._varying(numbers, numbers), options)
            for key, value in numbers.items():

                def along(x, key=key, numbers=numbers, options=options):
                    return oracle._loss(name, {**numbers, key: x}, options)

                want = mpmath.diff(along, value)
                assert mpmath.almosteq(duals.slope(together, key), want, rel_eps=1e-15, abs_eps=1e-30), key


FORGOTTEN = frozenset({("rmipo", "gamma_min", 1e300), ("rmipo", "gamma_min", -1e300), ("mi_dpo", "eta", 1e-300)})
"""γ_min + (γ_max − γ_min) forgets a γ_max beside 1e300, and 1 − η an η of 1e-300: numbers that nobody means."""


def extreme_hyperparameters():
    """Each numeric hyperparameter in turn at 1e300, 1e-300 and −1e300, where its domain holds them."""
    for name in NAMES:
        for key, parameter in OBJECTIVES[name].parameters.items():
            if is_number(parameter):
                for value in (1e300, 1e-300, -1e300):
                    point = {**activating(name, key), key: value}
                    if (name, key, value) in FORGOTTEN:
                        continue
                    if value in parameter.domain and kind_of(name, point) == "responses":
                        yield pytest.param(name, point, id=label(name, point))


class TestExtremeHyperparameters:
    POINTS = (
        Pair(-1e4, -1e-12, -2.5, -0.5, 3.0, 1.0),
        Pair(-1e-12, -1e4, -0.5, -2.5, 1.0, 3.0),
        Pair(-1.25, -2.0, -1.25, -2.0),
    )

    @pytest.mark.parametrize(("name", "hyperparameters"), list(extreme_hyperparameters()))
    def test_value_and_gradient_are_those_of_high_precision(self, name, hyperparameters):
        loss = objective(name, **hyperparameters)
        values, gradients = value_and_gradients(loss, make_pairs(self.POINTS))
        # what underflows inside a loss is then multiplied by the hyperparameter
        numbers = [abs(value) for value in hyperparameters.values() if not isinstance(value, str | bool)]
        floor = TINY[torch.float64] * max(1.0, *numbers)
        unit = ROUNDINGS * EPS[torch.float64]
        for i, pair in enumerate(self.POINTS):
            value, gradient = oracle.value_and_gradient(name, pair, loss.hyperparameters, CUT[torch.float64])
            what = f"{loss!r} at {pair}"
            # beside a huge hyperparameter each term is huge, 0, or of order 1: nothing cancels
            assert_close(values[i], value, unit * abs(value) + floor, what)
            for key, slope in gradient.items():
                if math.isinf(value) and math.isinf(slope):
                    assert not math.isfinite(gradients[key][i])  # beside an infinite loss it may be ∞ − ∞
                    continue
                assert_close(gradients[key][i], slope, unit * abs(slope) + floor, f"{what}, gradient by {key}")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            pytest.param(*p.values, id=p.id)
            for p in every_option(*(n for n in NAMES if "beta" in OBJECTIVES[n].parameters))
        ],
    )
    def test_beta_of_1e300_gives_no_nan(self, name, options):
        # e^(−βD) with D < 0 and β β_i D with a β_i that is β times larger are beyond the largest number: infinite
        # and so is β e^354, where the exponent of a loss is cut; and β α β M, a target per unit of β
        overflow = name in {"exponential", "discopop", "beta_dpo", "f_dpo", "alphapo"}
        overflow |= name == "alpha_dpo" and options.get("gamma_form") == "ratio"
        loss = objective(name, beta=1e300, **options)(make_pairs(self.POINTS))
        assert not loss.isnan().any()
        assert overflow or torch.isfinite(loss).all()


def vocabulary_of(logits):
    """Responses that are one token out of all K, whose policy has these logits and whose reference is uniform."""
    log_pi, log_ref = (torch.log_softmax(scores, dim=0) for scores in (logits, torch.zeros_like(logits)))

    def response(token):
        sums = NextTokens(log_pi[None, None, :], log_ref[None, None, :])
        tokens = Tokens(log_pi[[token]][None], torch.tensor([[True]]), log_ref[[token]][None], sums)
        kl = sums.reverse_kl().sum()
        return Responses(
            *(log_pi[[token]], log_ref[[token]], torch.ones(1, dtype=logits.dtype), tokens),
            *(log_pi[[token]], log_ref[[token]], kl),
        )

    return response


class TestCertainAndImpossibleResponses:
    """Log-probabilities of exactly 0 and −inf: what a softmax gives when it saturates."""

    @staticmethod
    def loss_of_logits(loss, logits, chosen, rejected):
        response = vocabulary_of(logits)
        return loss(Pairs(response(chosen), response(rejected)))

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_one_class_gives_a_finite_loss_and_gradient_zero(self, name, options):
        logits = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        value = self.loss_of_logits(objective(name, **options), logits, 0, 0)
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.tolist() == [0.0]

    LOG_2 = ("dpo", "cdpo", "log_pi", "mi_dpo", "tdpo1", "tdpo2", "tis_dpo", "epsilon_dpo", "ld_dpo", "beta_dpo", "aot")

    @pytest.mark.parametrize("name", [*LOG_2, "wpo", "r_dpo", "h_dpo", "f_dpo", "chi_po", "dpo_norm", "entropy_probe"])
    def test_one_class_gives_the_loss_log_2(self, name):
        value = self.loss_of_logits(objective(name), torch.zeros(1, dtype=torch.float64), 0, 0)
        assert_same(value, torch.tensor([math.log(2.0)], dtype=torch.float64))

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_a_saturated_policy_has_a_finite_loss_and_gradient(self, name, options):
        # in float32 a lead of 40 nats makes the larger log π exactly 0
        for scores in ([40.0, 0.0], [0.0, 40.0], [1e4, -1e4], [-1e4, 1e4]):
            logits = torch.tensor(scores, requires_grad=True)
            value = self.loss_of_logits(objective(name, **options), logits, 0, 1)
            (gradient,) = torch.autograd.grad(value.sum(), logits)
            if name == "exponential" and scores[0] < -1e3:
                assert value.isinf().all()  # e^20000
            else:
                assert torch.isfinite(value).all(), scores
                assert torch.isfinite(gradient).all(), scores

    INFINITE_DIVERGENCE = frozenset({"tdpo1", "tdpo2", "sparse_po"})
    """KL(π_ref‖π) of a token that π makes impossible is infinite, and infinity stands on both sides of the margin."""

    INFINITE_MEAN = frozenset({"beta_dpo"})
    """A pair is held against the mean of the batch, which is infinite."""

    @pytest.mark.parametrize("name", sorted(set(NAMES) - INFINITE_DIVERGENCE - INFINITE_MEAN))
    @pytest.mark.parametrize("side", [0, 1])
    def test_an_impossible_response_gives_the_limit_of_the_loss(self, name, side):
        # −1e300 stands for the limit: every present loss has reached it there, or overflows, or is cut at e^354
        points = ((-0.5, x) if side else (x, -0.5) for x in (-1e300, -math.inf))
        limit, exact = (objective(name)(one_pair(*point)).item() for point in points)
        # the limit of robust_dpo is −∞: it is unbounded below
        assert limit == exact or (min(abs(limit), abs(exact)) > 1e150 and limit * exact > 0.0)

    def test_smoothing_by_zero_is_dpo_even_for_an_impossible_rejected_response(self):
        pairs = one_pair(-0.5, -math.inf)
        assert objective("cdpo", label_smoothing=0.0)(pairs).tolist() == objective("dpo")(pairs).tolist()
        assert objective("robust_dpo", label_smoothing=0.0)(pairs).tolist() == objective("dpo")(pairs).tolist()

    def test_orpo_without_odds_is_the_nll_even_for_a_certain_rejected_response(self):
        assert objective("orpo", lam=0.0)(one_pair(-0.5, 0.0)).tolist() == [0.5]

    BOUNDED = frozenset({"kto", "apo_zero", "apo_down", "simper", "exo", "chi_po"})
    """Losses made of probabilities, or of a margin that is cut: the worst they can be is a finite number."""

    @pytest.mark.parametrize(
        "name", sorted(set(NAMES) - BOUNDED - INFINITE_DIVERGENCE - INFINITE_MEAN - {"wpo", "alphapo"})
    )
    def test_an_impossible_chosen_response_has_an_infinite_loss(self, name):
        assert objective(name)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    def test_wpo_gives_no_weight_to_an_impossible_response(self):
        # e^{log π} S(β log π) → 0
        assert objective("wpo")(one_pair(-1e300, -0.5)).tolist() == [0.0]

    def test_slic_without_likelihood_is_the_hinge_even_for_an_impossible_chosen_response(self):
        assert objective("slic", lam=0.0)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    def test_orpo_without_odds_is_the_nll_even_for_an_impossible_chosen_response(self):
        assert objective("orpo", lam=0.0)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    @pytest.mark.parametrize(
        "name", ["dpo", "log_pi", "simpo", "mi_dpo", "h_dpo", "r_dpo", "dpo_norm", "entropy_probe"]
    )
    def test_an_impossible_rejected_response_has_gradient_zero(self, name):
        pairs = one_pair(-0.5, -math.inf)
        _, chosen, rejected = values_and_gradients(objective(name), pairs)
        assert (chosen, rejected) == ([0.0], [0.0])


MARGINS = (-1e4, -750.0, -40.0, -3.1, -1e-9, 0.0, 1e-9, 0.37, 2.9, 40.0, 750.0, 1e4)
LINKED = [name for name in NAMES if OBJECTIVES[name].link is not None]


class TestLinks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", LINKED)
    def test_slope_is_the_derivative_of_the_value(self, name, dtype):
        for hyperparameters in grid_of(name):
            loss = objective(name, **hyperparameters)
            margin = torch.tensor(MARGINS, dtype=dtype)
            # e^(−m) is infinite far out, and of no use to compare
            margin = margin[loss.link(margin) < torch.finfo(dtype).max].requires_grad_()
            (derivative,) = torch.autograd.grad(loss.link(margin).sum(), margin)
            slope = loss.slope(margin.detach())
            # the largest slope sets the scale: smoothing subtracts two slopes of opposite sign
            tolerance = SAME_FORMULA * EPS[dtype] * derivative.abs().max().item() + TINY[dtype]
            torch.testing.assert_close(slope, derivative, rtol=0.0, atol=tolerance)

    @pytest.mark.parametrize("name", LINKED)
    def test_slope_keeps_its_relative_accuracy_in_the_tail(self, name):
        # at m = 40 the logistic slope is −e^−40: a form 1 − σ(m) would give 0 there
        loss = objective(name)
        margin = torch.tensor([40.0], dtype=torch.float64, requires_grad=True)
        (derivative,) = torch.autograd.grad(loss.link(margin).sum(), margin)
        torch.testing.assert_close(
            loss.slope(margin.detach()), derivative, rtol=SAME_FORMULA * EPS[torch.float64], atol=0.0
        )

    @pytest.mark.parametrize("name", LINKED)
    def test_slope_takes_one_hyperparameter_per_run(self, name):
        margin = torch.linspace(-2.0, 2.5, 6, dtype=torch.float64).reshape(2, 3)
        runs, singles = one_value_per_run(name)
        together = runs.slope(margin)
        want = torch.stack([single.slope(margin) for single in singles])
        assert_same(together.expand_as(want), want)

    @pytest.mark.parametrize("name", LINKED)
    def test_link_and_slope_leave_the_margin_as_it_was(self, name):
        margin = torch.tensor(MARGINS, dtype=torch.float64)
        objective(name).link(margin)
        objective(name).slope(margin)
        assert margin.tolist() == list(MARGINS)

    def test_hinge_at_its_kink_has_slope_zero(self):
        loss = objective("slic", delta=1.0, lam=0.0)
        assert loss.slope(torch.tensor([0.5, 1.0, 1.5])).tolist() == [-1.0, 0.0, 0.0]
        assert values_and_gradients(loss, one_pair(-1.0, -2.0)) == ([0.0], [0.0], [0.0])


class TestStableFunctions:
    @pytest.mark.parametrize("x", [-1e-300, -1e-12, -0.3, -math.log(2.0), -0.7, -5.0, -40.0, -745.0, -1e4])
    def test_log1mexp_and_its_gradient_are_right_to_a_few_roundings(self, x):
        point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        value = log1mexp(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        with mpmath.mp.workdps(oracle.DIGITS):
            exact = mpmath.mpf(x)
            want = float(mpmath.log(-mpmath.expm1(exact)))
            slope = float(1 / -mpmath.expm1(-exact))
        unit = SAME_FORMULA * EPS[torch.float64]
        assert value.item() == pytest.approx(want, rel=unit, abs=TINY[torch.float64])
        assert gradient.item() == pytest.approx(slope, rel=unit, abs=TINY[torch.float64])

    def test_log1mexp_has_finite_gradients_when_near_and_far_points_come_together(self):
        x = torch.tensor([-1e-30, -1e-8, -1.0, -100.0, -1e4], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(log1mexp(x).sum(), x)
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("x", [-1e300, -1e4, -40.0, 0.0, 1e-9, 40.0, 700.0])
    def test_softplus_neg_is_right_in_both_tails(self, x):
        with mpmath.mp.workdps(oracle.DIGITS):
            want = float(oracle.s(mpmath.mpf(x)))
        got = softplus_neg(torch.tensor([x], dtype=torch.float64)).item()
        assert got == pytest.approx(want, rel=SAME_FORMULA * EPS[torch.float64], abs=0.0)

    @pytest.mark.parametrize("x", [-1e4, -300.0, -1e-9, 1e-300, 0.3, 300.0])
    @pytest.mark.parametrize("power", [-1.0, -0.5, -1e-12, 0.0, 1e-300, 0.25, 1.0])
    def test_power_transform_and_its_gradient_are_right_up_to_the_cut(self, x, power):
        point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        value = power_transform(point, power)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        with mpmath.mp.workdps(400):
            exact, a = mpmath.mpf(x), mpmath.mpf(power)
            exponent = min(a * exact, mpmath.mpf(CUT[torch.float64]))
            want = exact if power == 0 else mpmath.expm1(exponent) / a
            slope = mpmath.exp(a * exact) if exponent == a * exact else mpmath.mpf(0)
        # the exponent is rounded first, which costs as many units as it is large
        unit = SAME_FORMULA * EPS[torch.float64] * max(1.0, abs(float(exponent)))
        smallest = 2.0**-1074 / abs(power) if power else 0.0  # what is lost of ax below it, divided by a
        assert value.item() == pytest.approx(float(want), rel=unit, abs=smallest)
        assert gradient.item() == pytest.approx(float(slope), rel=unit, abs=TINY[torch.float64])


class TestNeeds:
    GIVEN: ClassVar = {
        "reference": "log_ref",
        "length": "length_chosen=",
        "tokens": "tokens=",
        "vocabulary": "vocabulary=",
        "marginal": "log_marginal_chosen=",
        "mean_kl": "mean_kl=",
        "prior": "log_zeta=",
    }
    """How an error says to give what is missing."""

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_an_objective_asks_for_exactly_what_it_says_it_needs(self, name, options):
        loss, whole = objective(name, **options), one_pair(-1.0, -2.0)
        for missing, how in self.GIVEN.items():
            pairs = Pairs(without(whole.chosen, missing), without(whole.rejected, missing))
            needs = {"prior" if need == "given_prior" else need for need in loss.needs}  # both are log ζ
            if missing in needs:
                with pytest.raises(ValueError, match=f"^This objective needs .*{how}"):
                    loss(pairs)
            else:
                assert loss(pairs).shape == (1,), missing

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_what_is_needed_is_something_a_problem_can_offer(self, name, options):
        assert objective(name, **options).needs <= set(NEEDS)

    def test_every_need_is_that_of_some_objective(self):
        needed = (objective(*point.values[:1], **point.values[1]).needs for point in every_option(*NAMES))
        assert frozenset().union(*needed) == set(NEEDS)

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_a_loss_that_sees_responses_only_is_made_of_their_log_probabilities_and_lengths(self, name, options):
        loss = objective(name, **options)
        if loss.sees_responses_only:
            pair = one_pair(-1.0, -2.0)
            bare = Pairs(
                *(Responses(y.log_pi, y.log_ref, y.length) for y in (pair.chosen, pair.rejected)),
            )
            assert loss(bare).tolist() == loss(pair).tolist()

    def test_losses_known_to_see_more_than_responses_say_so(self):
        more = {"kto", "alpha_dpo", "beta_dpo", "rmipo", "aot", "aot_unpaired", "dpo_pg", *token_losses.LOSSES}
        assert {name for name in NAMES if not objective(name).sees_responses_only} == more

    def test_the_uniform_prior_needs_no_reference(self):
        one = torch.tensor([-1.0])
        pairs = Pairs.from_log_probs(log_pi_chosen=one, log_pi_rejected=2 * one)
        value = objective("mi_dpo", prior="uniform")(pairs)
        assert value.item() == pytest.approx(math.log1p(math.exp(-1.0)), rel=EPS[torch.float32])


WRONG_TYPES = (True, False, "abc", "1.0", b"1", None, [1.0], 1j)
NOT_FINITE = (math.nan, math.inf, -math.inf, np.float64("nan"))


def refused_numbers(interval):
    """Numbers outside an interval, found from its ends alone."""
    yield from NOT_FINITE
    if math.isfinite(interval.low):
        yield from (interval.low - 1.0, math.nextafter(interval.low, -math.inf))
        if not interval.closed_low:
            yield interval.low
    if math.isfinite(interval.high):
        yield from (interval.high + 1.0, math.nextafter(interval.high, math.inf))
        if not interval.closed_high:
            yield interval.high


def refusals():
    for name in NAMES:
        for key, parameter in OBJECTIVES[name].parameters.items():
            if is_number(parameter):
                bad = [*refused_numbers(parameter.domain), *WRONG_TYPES]
            elif parameter.domain == BOOLEAN:
                bad = [0, 1, 1.0, None, "True", "", [True], np.True_, torch.tensor(True)]
            else:
                first = parameter.domain[0]
                bad = [0, 1.0, math.nan, True, None, "", "abc", first.upper(), f"{first} ", [first]]
            yield pytest.param(name, key, bad, id=f"{name}-{key}")


NUMERIC = [
    (name, key) for name in NAMES for key, parameter in OBJECTIVES[name].parameters.items() if is_number(parameter)
]


def bind(name, key, value):
    """Bind one hyperparameter, with the option under which it is read."""
    return objective(name, **{**activating(name, key), key: value})


def one_value_per_run(name, options=MappingProxyType({}), dtype=torch.float64):
    """The objective with tensors [3, 1, 1], and the three bindings of one value each."""
    runs, singles = dict(options), [dict(options) for _ in range(3)]
    record = OBJECTIVES[name]
    for key in record.active(options):
        if is_number(record.parameters[key]):
            base = record.parameters[key].default or record.parameters[key].grid[-1]
            # dyadic multiples, so that float32 holds their ratios exactly; all lie in any domain from 0
            values = [float32_number(base * factor) for factor in (1.0, 0.5, 0.125)]
            runs[key] = torch.tensor(values, dtype=dtype)[:, None, None]
            for single, value in zip(singles, values, strict=True):
                single[key] = value
    return objective(name, **runs), [objective(name, **single) for single in singles]


PIECES = ("score", "rejected_score", "chosen_anchor", "rejected_anchor")
PARTS = [
    (name, piece)
    for name in NAMES
    for piece in PIECES
    if name in oracle.LOSSES and getattr(OBJECTIVES[name], piece) is not None
]


EXPONENTIALS = frozenset({"apo_zero", "apo_down", "bco", "nca", "kto", "simper", "alphapo", "chi_po", "f_dpo"})


class TestParts:
    """The derivative of each part by log π, against automatic differentiation of the part."""

    LOG_PI = torch.tensor([-1e4, -30.0, -2.0, -0.1, -1e-7, -1e-12, 0.0], dtype=torch.float64)
    LOG_REF = torch.linspace(-800.0, -1.1, 7, dtype=torch.float64)
    LENGTH = torch.tensor([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 1.0], dtype=torch.float64)

    @pytest.mark.parametrize(("name", "piece"), PARTS)
    def test_pulling_back_equals_automatic_differentiation(self, name, piece):
        # near p = 1 automatic differentiation itself loses digits: e^x / expm1(x) takes two roundings of it; and
        # where a probability is e^−30 or e^300, the rounding of its exponent costs as many units as that is large
        tolerance = SAME_FORMULA * EPS[torch.float64] * (32.0 if name in EXPONENTIALS else 1.0)
        # NCA's ½ σ(c) − σ(−c) cancels near c = log 2
        smallest = SAME_FORMULA * EPS[torch.float64] if name == "nca" else TINY[torch.float64]
        weights = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
        part = getattr(OBJECTIVES[name], piece)
        for point in grid_of(name):
            if kind_of(name, point) != "responses":
                continue
            loss = objective(name, **point)
            leaf = self.LOG_PI.clone().requires_grad_()
            values = getattr(loss, piece)(responses(leaf, self.LOG_REF, self.LENGTH, self.LOG_REF))
            (want,) = torch.autograd.grad(values, leaf, weights, materialize_grads=True)
            given = responses(self.LOG_PI, self.LOG_REF, self.LENGTH, self.LOG_REF)
            got = loss.pull_back(part, given, weights)
            torch.testing.assert_close(got.expand_as(want), want, rtol=tolerance, atol=smallest)

    def test_a_part_without_a_slope_is_differentiated(self):
        record = Objective("mine", "", "", "", chosen_anchor=lambda y: y.log_pi**3)
        responses = Responses(torch.tensor([-2.0]))
        assert record.bind().pull_back(record.chosen_anchor, responses, torch.tensor([10.0])).tolist() == [120.0]


class TestHyperparameters:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_domains_are_those_where_the_formula_makes_sense(self, name):
        if name not in oracle.DOMAINS:
            pytest.fail(f"the domains of objective {name!r} are not in DOMAINS of tests/oracles/losses.py")
        domains = {
            key: str(parameter.domain)
            if is_number(parameter)
            else "truth values"
            if parameter.domain == BOOLEAN
            else "names"
            for key, parameter in OBJECTIVES[name].parameters.items()
        }
        assert domains == oracle.DOMAINS[name]

    @pytest.mark.parametrize(("name", "key", "values"), list(refusals()))
    def test_a_value_outside_the_domain_is_refused_by_name(self, name, key, values):
        for value in values:
            with pytest.raises((ValueError, TypeError), match=rf"^{key} must be .*; got "):
                bind(name, key, value)

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    @pytest.mark.parametrize("value", ["abc", None, True])
    def test_what_is_no_number_is_a_type_error(self, name, key, value):
        with pytest.raises(TypeError, match=f"^{key} must be a finite number"):
            bind(name, key, value)

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    def test_one_bad_value_in_a_tensor_is_refused(self, name, key):
        parameter = OBJECTIVES[name].parameters[key]
        for bad in refused_numbers(parameter.domain):
            values = torch.tensor([parameter.default, bad, parameter.default], dtype=torch.float64)
            with pytest.raises(ValueError, match=f"^{key} must be a finite number"):
                bind(name, key, values[:, None, None])

    def test_an_empty_tensor_is_refused_by_name(self):
        with pytest.raises((ValueError, TypeError), match=r"^beta must be"):
            objective("dpo", beta=torch.empty(0))

    @pytest.mark.parametrize("name", NAMES)
    def test_an_unknown_hyperparameter_is_an_error_that_suggests_near_ones(self, name):
        for key in OBJECTIVES[name].parameters:
            with pytest.raises(ValueError, match=f"hyperparameter of {name} .*'{key}_'.*Did you mean .*{key}"):
                objective(name, **{f"{key}_": 1.0})

    @pytest.mark.parametrize("name", NAMES)
    def test_a_hyperparameter_of_another_objective_is_an_error(self, name):
        others = {key for record in OBJECTIVES.values() for key in record.parameters}
        for key in others - set(OBJECTIVES[name].parameters):
            with pytest.raises(ValueError, match=f"hyperparameter of {name} must be one of: .*'{key}'"):
                objective(name, **{key: 0.25})

    @pytest.mark.parametrize("name", NAMES)
    def test_an_unknown_name_is_an_error_that_suggests_near_ones(self, name):
        with pytest.raises(ValueError, match=f"objective must be one of .*; got '{name}o'.*Did you mean.*{name}"):
            objective(f"{name}o")

    @pytest.mark.parametrize("name", [None, 3, ["dpo"], "", "DPO "])
    def test_what_is_no_name_is_an_error(self, name):
        with pytest.raises((ValueError, TypeError), match="objective must be one of"):
            objective(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_defaults_are_used_for_what_is_not_given(self, name):
        record = OBJECTIVES[name]
        assert objective(name).hyperparameters == {key: record.parameters[key].default for key in record.active({})}

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    def test_whole_numbers_and_numpy_numbers_are_taken_as_floats(self, name, key):
        value = OBJECTIVES[name].parameters[key].default
        for same in (np.float64(value), np.array(value)):
            taken = bind(name, key, same).hyperparameters[key]
            assert type(taken) is float
            assert taken == value
        if 1.0 in OBJECTIVES[name].parameters[key].domain:
            assert type(bind(name, key, 1).hyperparameters[key]) is float

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_one_value_per_run_equals_one_call_per_value(self, name, options, dtype):
        parts = table(dtype)
        runs, singles = one_value_per_run(name, options, dtype)
        want = torch.stack([single(as_table(*parts)) for single in singles])
        assert_same(runs(as_table(*parts, runs=3)).expand_as(want), want, SAME_FORMULA * max(1.0, want.abs().max()))
        if any(torch.is_tensor(value) for value in runs.hyperparameters.values()):
            assert not torch.equal(want[0], want[1])

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_a_stack_of_bindings_equals_one_call_per_binding(self, name, options):
        parts = table()
        _, singles = one_value_per_run(name, options)
        want = torch.stack([single(as_table(*parts)) for single in singles])
        stacked = stack(singles, torch.float64)
        got = stacked(as_table(*parts, runs=3))
        assert_same(got.expand_as(want), want, SAME_FORMULA * max(1.0, want.abs().max()))
        for value in stacked.hyperparameters.values():
            assert isinstance(value, str | bool) or (value.shape, value.dtype) == ((3, 1, 1), torch.float64)

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_options_are_what_is_no_number(self, name, options):
        assert objective(name, **options).options == options

    @pytest.mark.parametrize(
        ("name", "key"), [(n, k) for n in NAMES for k, p in OBJECTIVES[n].parameters.items() if p.when]
    )
    def test_what_the_options_leave_unread_is_an_error_that_names_the_option(self, name, key):
        parameter = OBJECTIVES[name].parameters[key]
        option, accepted = parameter.when
        others = [value for value in OBJECTIVES[name].parameters[option].domain if value not in accepted]
        assert others
        for other in others:
            with pytest.raises(
                ValueError, match=rf"^{key} of {name} must be given only with {option}=.*; got '{option}={other}'"
            ):
                objective(name, **{option: other, key: parameter.default})
            assert key not in objective(name, **{option: other}).hyperparameters
        for value in accepted:
            assert key in objective(name, **{option: value, key: parameter.default}).hyperparameters

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("mi_dpo", {"eta": 0.9}),
            ("mi_dpo", {"prior": "reference", "eta": 0.9}),
            ("mi_dpo", {"prior": "centropy", "gamma": 0.9}),
            ("alpha_dpo", {"reference_form": "uniform", "alpha": 0.1}),
            ("alpha_dpo", {"reference_form": "policy", "margin": "tdpo"}),
            ("f_dpo", {"alpha": 0.3}),
            ("rmipo", {"schedule": "none", "gamma_min": 0.1}),
        ],
    )
    def test_a_hyperparameter_that_would_be_unused_is_refused(self, name, given):
        with pytest.raises(ValueError, match=r"It would be unused\."):
            objective(name, **given)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_grid_names_each_binding_once_and_only_what_is_read(self, name):
        points = OBJECTIVES[name].grid()
        bound = [objective(name, **point).hyperparameters for point in points]
        assert bound == points  # every point binds, and leaves nothing to a default
        assert len({tuple(point.items()) for point in points}) == len(points)
        for key, parameter in OBJECTIVES[name].parameters.items():
            tried = {point[key] for point in points if key in point}
            assert tried == set(parameter.grid) or (parameter.when and not tried)

    def test_bindings_that_cannot_be_evaluated_together_are_not_stacked(self):
        different = [objective("dpo"), objective("log_pi")]
        options = [objective("mi_dpo", prior="uniform"), objective("mi_dpo", prior="reference")]
        stopped = [objective("mi_dpo", stop_gradient=flag) for flag in (False, True)]
        for losses in (different, options, stopped):
            assert group_key(losses[0]) != group_key(losses[1])
            with pytest.raises(ValueError, match="losses must be of one objective with the same named options"):
                stack(losses, torch.float64)

    def test_bindings_that_differ_in_numbers_only_share_a_group(self):
        assert group_key(objective("simpo", beta=2.0)) == group_key(objective("simpo", beta=3.0, gamma=1.0))

    def test_a_binding_shows_what_would_make_it_again(self):
        assert repr(objective("mi_dpo", alpha=2, prior="uniform")) == (
            "objective('mi_dpo', alpha=2.0, prior='uniform', stop_gradient=False)"
        )


class TestTable:
    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_a_table_of_pairs_holds_the_loss_of_each_pair(self, name, options):
        parts, loss = table(), objective(name, **options)
        together = loss(as_table(*parts))
        k = len(parts[0])
        assert together.shape == (k, k)
        if "batch" in loss.needs:
            return
        for i in range(k):
            for j in range(k):
                single = Pairs(*(responses(*(part[at] for part in parts)) for at in (i, j)))
                assert_same(loss(single), together[i, j], SAME_FORMULA * max(1.0, together[i, j].abs().item()))

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_the_loss_is_invariant_to_a_shift_of_the_logits(self, name, options):
        _, log_ref, length = table()
        logits = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64, requires_grad=True)
        loss = objective(name, **options)
        losses = [loss(as_table(torch.log_softmax(logits + shift, dim=0), log_ref, length)) for shift in (0.0, 8.0)]
        # adding 8 to the logits costs them up to half a unit in the last place of 8, which β of 2.5 and IPO's
        # slope of 10 enlarge, and calibration squares a number near 5
        scale = max(1.0, losses[0].abs().max().item())
        torch.testing.assert_close(*losses, rtol=0.0, atol=32 * EPS[torch.float64] * scale)
        (gradient,) = torch.autograd.grad(losses[0].sum(), logits)
        assert abs(gradient.sum().item()) <= 32 * EPS[torch.float64] * max(1.0, gradient.abs().sum().item())

    @pytest.mark.parametrize(("name", "options"), every_option(*(name for name in NAMES if OBJECTIVES[name].separates)))
    def test_the_loss_is_the_link_of_the_score_margin_plus_the_anchors(self, name, options):
        pairs, loss = as_table(*table()), objective(name, **options)
        margin = loss.score(pairs.chosen) - loss.rejected_score(pairs.rejected)
        anchors = loss.chosen_anchor(pairs.chosen) + loss.rejected_anchor(pairs.rejected)
        assert_same(loss(pairs), loss.link(margin) + anchors)

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_inputs_are_left_as_they_were(self, name, options):
        parts = table()
        runs, _ = one_value_per_run(name, options)
        given = [*parts, *(v for v in runs.hyperparameters.values() if torch.is_tensor(v))]
        before = [tensor.clone() for tensor in given]
        runs(as_table(*parts, runs=3))
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_implicit_reward_is_one_number_for_each_response(self, name):
        y = as_table(*table()).chosen
        loss = objective(name)
        reward = loss.implicit_reward(y)
        assert reward.shape == y.log_pi.shape
        if OBJECTIVES[name].implicit_reward is None:
            assert torch.equal(reward, loss.score(y))
        # a reward by which to rank: it grows with log π
        above = loss.implicit_reward(responses(y.log_pi.clamp(max=-0.1) + 0.05, y.log_ref, y.length))
        below = loss.implicit_reward(responses(y.log_pi.clamp(max=-0.1), y.log_ref, y.length))
        assert (above > below).all()


class TestRegistry:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_record_stands_under_its_own_name(self, name):
        assert OBJECTIVES[name].name == name
        assert objective(name).name == name

    @pytest.mark.parametrize("prior", sorted(PRIORS))
    def test_a_prior_stands_under_its_own_name(self, prior):
        assert PRIORS[prior].name == prior

    @pytest.mark.parametrize("name", NAMES)
    def test_a_record_says_where_its_formula_stands(self, name):
        record = OBJECTIVES[name]
        assert all(text.strip() for text in (record.title, record.formula, record.source))
        assert all(parameter.meaning.strip() for parameter in record.parameters.values())

    @pytest.mark.parametrize("name", NAMES)
    def test_defaults_and_grids_lie_in_their_domains(self, name):
        for key, parameter in OBJECTIVES[name].parameters.items():
            assert parameter.grid
            for value in (parameter.default, *parameter.grid):
                assert parameter.check(key, value) == value

    def test_the_registry_cannot_be_changed_by_assignment(self):
        with pytest.raises(TypeError):
            OBJECTIVES["dpo"] = OBJECTIVES["cdpo"]

    def test_the_grids_are_those_of_the_paper(self):
        grids = {(n, k): p.grid for n in NAMES for k, p in OBJECTIVES[n].parameters.items()}
        assert grids["slic", "delta"] == (0.1, 0.5, 1.0, 2.0)
        assert grids["slic", "lam"] == (0.1, 0.5, 1.0, 10.0)
        assert grids["orpo", "lam"] == (0.1, 0.5, 1.0, 2.0)
        assert grids["simpo", "beta"] == (2.0, 2.5)
        assert grids["simpo", "gamma"] == (0.3, 0.5, 1.0, 1.2, 1.4, 1.6)
        assert grids["cal_dpo", "beta"] == (0.001, 0.002, 0.003, 0.01, 0.1)

    def test_a_record_whose_pieces_take_other_hyperparameters_is_refused(self):
        with pytest.raises(ValueError, match=r"parameters of mine .*look at \['beta'\]"):
            Objective(name="mine", title="", formula="", source="", chosen_anchor=lambda y, *, beta: beta * y.log_pi)

    def test_a_record_with_an_unused_hyperparameter_is_refused(self):
        spare = {"spare": Parameter(1.0, Interval(), (1.0,), "does nothing")}
        with pytest.raises(ValueError, match=r"parameters of mine .*look at \['spare'\]"):
            Objective("mine", "", "", "", spare, chosen_anchor=lambda y: y.log_pi)

    def test_a_record_with_a_score_but_no_link_is_refused(self):
        with pytest.raises(ValueError, match="score and link of mine must be given together"):
            Objective("mine", "", "", "", score=lambda y: y.log_pi)

    def test_a_record_of_anchors_alone_has_margin_and_slope_zero(self):
        loss = Objective("mine", "", "", "", chosen_anchor=lambda y: -y.log_pi).bind()
        pairs = as_table(*table())
        assert torch.equal(loss(pairs), -pairs.chosen.log_pi.expand(4, 4))
        assert loss.slope(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
        assert loss.score(pairs.chosen).count_nonzero() == 0

    def test_a_link_of_ones_own_works_like_the_registered_ones(self):
        link = Link(value=lambda m, *, tau: (m - 0.5 / tau) ** 2, slope=lambda m, *, tau: 2.0 * (m - 0.5 / tau))
        parameters = {"tau": Parameter(0.5, Interval(0.0), (0.5,), "")}
        loss = Objective("mine", "", "", "", parameters, score=lambda y: y.log_ratio, link=link).bind(tau=0.25)
        assert isinstance(loss, BoundObjective)
        # h_w − h_l = 3 and 1/(2τ) = 2
        assert values_and_gradients(loss, one_pair(-1.0, -4.0, -1.0, -1.0)) == ([1.0], [2.0], [-2.0])


def good_arguments(size=2):
    fill = {"log_pi": -1.0, "log_ref": -2.0, "length": 3.0}
    return {
        f"{name}_{side}": torch.full((size,), value) for name, value in fill.items() for side in ("chosen", "rejected")
    }


class TestPairs:
    @pytest.mark.parametrize("name", sorted(good_arguments()))
    def test_what_is_no_tensor_is_refused_by_name(self, name):
        with pytest.raises(TypeError, match=f"^{name} must be a torch tensor; got 'list'"):
            Pairs.from_log_probs(**good_arguments() | {name: [-1.0, -1.0]})

    @pytest.mark.parametrize("name", sorted(set(good_arguments()) - {"log_pi_chosen"}))
    def test_another_shape_than_that_of_log_pi_chosen_is_refused_by_name(self, name):
        for shape in ((3,), (1,), (), (2, 1)):
            with pytest.raises(ValueError, match=f"shape of {name} must be .2,.; got"):
                Pairs.from_log_probs(**good_arguments() | {name: torch.ones(shape)})

    @pytest.mark.parametrize("side", ["chosen", "rejected"])
    @pytest.mark.parametrize("name", ["log_ref", "length"])
    def test_one_side_alone_is_refused(self, name, side):
        arguments = good_arguments()
        del arguments[f"{name}_{side}"]
        with pytest.raises(ValueError, match=f"must be given together; got 'no {name}_{side}'"):
            Pairs.from_log_probs(**arguments)

    @pytest.mark.parametrize("name", [n for n in sorted(good_arguments()) if n.startswith("log_")])
    def test_whole_log_probabilities_are_refused_by_name(self, name):
        with pytest.raises(TypeError, match=f"^{name} must be a floating-point tensor"):
            Pairs.from_log_probs(**good_arguments() | {name: torch.tensor([-1, -2])})

    @pytest.mark.parametrize("name", ["length_chosen", "length_rejected"])
    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
    def test_a_length_that_is_not_positive_is_refused_by_name(self, name, bad):
        with pytest.raises(ValueError, match=f"^{name} must be positive everywhere"):
            Pairs.from_log_probs(**good_arguments() | {name: torch.tensor([3.0, bad])})

    @pytest.mark.parametrize("name", NAMES)
    def test_whole_lengths_give_the_same_loss_as_floats(self, name):
        parts = torch.tensor([[-1.5, -2.0], [-1.0, -3.0]])
        lengths = torch.tensor([[3, 7], [1, 2]])
        whole, real = (
            objective(name)(Pairs(*(responses(*parts, length) for length in given)))
            for given in (lengths, lengths.float())
        )
        assert torch.equal(whole, real)
        assert whole.dtype == torch.float32

    @pytest.mark.parametrize("bad", [-1.0, math.nan])
    def test_a_weight_that_is_negative_or_no_number_is_refused(self, bad):
        with pytest.raises(ValueError, match="weights"):
            Pairs.from_log_probs(**good_arguments(), weights=torch.tensor([1.0, bad]))

    def test_the_mean_without_weights_counts_all_alike(self):
        assert Pairs.from_log_probs(**good_arguments()).mean(torch.tensor([1.0, 4.0])).item() == 2.5

    def test_the_mean_is_weighted(self):
        pairs = Pairs.from_log_probs(**good_arguments(), weights=torch.tensor([3.0, 1.0]))
        assert pairs.mean(torch.tensor([1.0, 5.0])).item() == 2.0

    @pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan])
    def test_a_pair_of_weight_zero_counts_not_even_if_infinite(self, worst):
        pairs = Pairs.from_log_probs(**good_arguments(), weights=torch.tensor([2.0, 0.0]))
        assert pairs.mean(torch.tensor([1.5, worst])).item() == 1.5

    def test_an_infinite_loss_of_positive_weight_is_not_hidden(self):
        pairs = Pairs.from_log_probs(**good_arguments(), weights=torch.tensor([1.0, 1e-30]))
        assert pairs.mean(torch.tensor([1.0, math.inf])).item() == math.inf

    def test_the_mean_of_weights_is_that_of_repeated_pairs(self):
        values = torch.tensor([0.5, 3.0, -1.0], dtype=torch.float64)
        counts = torch.tensor([2, 1, 5])
        pairs = Pairs.from_log_probs(**good_arguments(3), weights=counts.double())
        assert_same(pairs.mean(values), values.repeat_interleave(counts).mean())

    def test_the_mean_of_no_pairs_is_an_error_and_not_a_number(self):
        with pytest.raises(ValueError, match=r"pair|empty"):
            Pairs.from_log_probs(**good_arguments(0)).mean(torch.empty(0))

    def test_the_mean_under_weights_that_are_all_zero_is_an_error_and_not_a_number(self):
        with pytest.raises(ValueError, match="weight"):
            Pairs.from_log_probs(**good_arguments(), weights=torch.zeros(2)).mean(torch.ones(2))
