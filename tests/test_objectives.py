"""Each registered objective against its oracle, and the laws that the family keeps."""

import functools
import itertools
import math
from types import MappingProxyType

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from oracles import losses as oracle

from didsim._checks import Interval
from didsim.objectives import (
    OBJECTIVES,
    PRIORS,
    BoundObjective,
    Link,
    Objective,
    Pairs,
    Parameter,
    Responses,
    group_key,
    objective,
    stack,
)
from didsim.objectives._math import log1mexp, softplus_neg

NAMES = sorted(OBJECTIVES)
MODEST = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}

ROUNDINGS = 8
"""How many roundings a loss may be off, each weighed by the sensitivity that the oracle reports. A loss is a
dozen operations of at most one rounding, most of half of one; ORPO's log-odds near p = 1 are some 28 times
larger than their sensitivity, and come to four."""

TINY = {torch.float32: 2.0**-126, torch.float64: 2.0**-1022}
"""Below the smallest normal number a relative error means nothing: results may be flushed to 0."""

DIGITS_FOR_1E300 = 1000
"""A slope of 1e300 makes a function bend within 1e-300: finite differences need steps far below that."""

SAME_FORMULA = 4
"""Two routes through the same few operations may round differently, by so many units in the last place."""


def float32_number(x):
    """Round to float32, so that both precisions are given the same number."""
    return float(np.float32(x))


LOG_PROBS = tuple(map(float32_number, (-1e-12, -0.013, -1.7, -33.3, -1e4)))
LATTICE = tuple(
    # the reference and the lengths run through their values at a different pace than the policy does
    (
        (LOG_PROBS[i], LOG_PROBS[j], LOG_PROBS[(2 * i + j + 1) % 5], LOG_PROBS[(i + 3 * j + 2) % 5]),
        ((1.0, 1.0), (7.0, 2.0), (3.0, 1000.0))[(i + j) % 3],
    )
    for i in range(5)
    for j in range(5)
)
"""Log-probabilities from −1e-12 to −1e4, with equal and unequal lengths; none of them lies at a kink."""


def grid_of(name):
    """Every combination of the values that the record's grids and defaults name."""
    combinations = [{}]
    for key, parameter in OBJECTIVES[name].parameters.items():
        values = dict.fromkeys((parameter.default, *parameter.grid))
        combinations = [{**point, key: value} for point in combinations for value in values]
    return combinations


GRID = [
    pytest.param(name, point, id="-".join([name, *(f"{key}={value}" for key, value in point.items())]))
    for name in NAMES
    for point in grid_of(name)
]


def require_oracle(name, hyperparameters=MappingProxyType({})):
    """Fail, in words, when an objective or a prior is registered that the oracle does not know."""
    if name not in oracle.LOSSES:
        pytest.fail(f"objective {name!r} has no oracle: add its formula to tests/oracles/losses.py")
    prior = hyperparameters.get("prior")
    if prior is not None and prior not in oracle.LOG_PRIORS:
        pytest.fail(f"prior {prior!r} has no oracle: add it to LOG_PRIORS in tests/oracles/losses.py")


@functools.cache
def evaluate(name, log_probs, lengths, items):
    """The oracle's answer, remembered: float64 and float32 are held against the same one."""
    return oracle.evaluate(name, log_probs, lengths, dict(items))


def make_pairs(points, dtype=torch.float64, weights=None):
    """Pairs from ((lw, ll, rw, rl), (nw, nl)), whose two policy tensors require gradients."""
    columns = [torch.tensor(column, dtype=dtype) for column in zip(*(p for p, _ in points), strict=True)]
    lengths = [torch.tensor(column, dtype=dtype) for column in zip(*(n for _, n in points), strict=True)]
    lw, ll, rw, rl = columns
    return Pairs.from_log_probs(
        log_pi_chosen=lw.requires_grad_(),
        log_pi_rejected=ll.requires_grad_(),
        log_ref_chosen=rw,
        log_ref_rejected=rl,
        length_chosen=lengths[0],
        length_rejected=lengths[1],
        weights=weights,
    )


def one_pair(lw, ll, rw=-1.0, rl=-1.0, nw=1.0, nl=1.0):
    return make_pairs([((lw, ll, rw, rl), (nw, nl))])


def values_and_gradients(loss, pairs):
    """The loss of each pair and its derivatives by both log-probabilities, as lists of floats."""
    values = loss(pairs)
    gradients = torch.autograd.grad(values.sum(), [pairs.chosen.log_pi, pairs.rejected.log_pi], materialize_grads=True)
    return values.tolist(), *(gradient.tolist() for gradient in gradients)


def assert_close(got, want, tolerance, what):
    assert math.isfinite(got), f"{what}: got {got}, want {want}"
    assert abs(got - want) <= tolerance, f"{what}: got {got}, want {want}, off by {abs(got - want) / tolerance}"


def check_against_oracle(name, points, hyperparameters, dtype, skip_kinks=False):
    """Hold value and gradient of every pair against the oracle, to a few roundings of their inputs."""
    require_oracle(name, hyperparameters)
    loss = objective(name, **hyperparameters)
    results = zip(*values_and_gradients(loss, make_pairs(points, dtype)), strict=True)
    for (log_probs, lengths), (value, *gradient) in zip(points, results, strict=True):
        want = evaluate(name, log_probs, lengths, tuple(hyperparameters.items()))
        what = f"{loss!r} at {log_probs}, lengths {lengths}"
        unit = ROUNDINGS * EPS[dtype]
        assert_close(value, want.value, unit * want.value_scale + TINY[dtype], what)
        for side in (0, 1):
            tolerance = unit * want.gradient_scale[side] + TINY[dtype]
            assert_close(gradient[side], want.gradient[side], tolerance, f"{what}, gradient {side}")


def assert_same(got, want, units=SAME_FORMULA):
    """Two tensors agree to a few units in the last place of the larger of 1 and their entries."""
    assert got.dtype == want.dtype
    tolerance = units * EPS[got.dtype]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


class TestAgainstTheOracle:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_registered_objective_has_an_oracle(self, name):
        require_oracle(name)

    @pytest.mark.parametrize("prior", sorted(PRIORS))
    def test_every_registered_prior_has_an_oracle(self, prior):
        require_oracle("mi_dpo", {"prior": prior})

    def test_every_oracle_is_of_a_registered_objective(self):
        assert set(oracle.LOSSES) <= set(OBJECTIVES)
        assert set(oracle.LOG_PRIORS) <= set(PRIORS)

    @pytest.mark.parametrize(("name", "hyperparameters"), GRID)
    def test_value_and_gradient_are_right_in_float64_from_certain_to_impossible(self, name, hyperparameters):
        check_against_oracle(name, LATTICE, hyperparameters, torch.float64)

    @pytest.mark.parametrize(("name", "hyperparameters"), GRID)
    def test_float32_agrees_to_the_rounding_of_float32(self, name, hyperparameters):
        check_against_oracle(name, LATTICE, hyperparameters, torch.float32)

    @pytest.mark.parametrize("name", NAMES)
    @hypothesis.given(data=st.data())
    @MODEST
    def test_value_and_gradient_are_right_at_ordinary_values(self, name, data):
        hyperparameters = data.draw(st.sampled_from(grid_of(name)))
        log_probs = tuple(data.draw(st.lists(st.floats(-50.0, -1e-6), min_size=4, max_size=4)))
        lengths = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
        require_oracle(name, hyperparameters)
        # at a kink there is no gradient, and within rounding of it either of two is right
        hypothesis.assume(oracle.kink_distance(name, log_probs, hyperparameters) > 1e-9)
        check_against_oracle(name, [(log_probs, tuple(map(float, lengths)))], hyperparameters, torch.float64)

    @pytest.mark.parametrize("name", NAMES)
    def test_gradient_equals_finite_differences(self, name):
        generator = torch.Generator().manual_seed(0)
        lw, ll, rw, rl = (-3.0 * torch.rand(4, 6, generator=generator, dtype=torch.float64) - 0.1).unbind()
        lengths = torch.arange(1.0, 7.0, dtype=torch.float64)
        loss = objective(name)

        def of_policy(chosen, rejected):
            return loss(
                Pairs.from_log_probs(
                    log_pi_chosen=chosen,
                    log_pi_rejected=rejected,
                    log_ref_chosen=rw,
                    log_ref_rejected=rl,
                    length_chosen=lengths,
                    length_rejected=lengths.flip(0),
                )
            )

        assert torch.autograd.gradcheck(of_policy, (lw.requires_grad_(), ll.requires_grad_()))


def extreme_hyperparameters():
    """Each numeric hyperparameter in turn at 1e300, 1e-300 and −1e300, where its domain holds them."""
    for name in NAMES:
        for key, parameter in OBJECTIVES[name].parameters.items():
            if isinstance(parameter.domain, Interval):
                for value in (1e300, 1e-300, -1e300):
                    if parameter.domain.low < value < parameter.domain.high:
                        yield pytest.param(name, {key: value}, id=f"{name}-{key}={value}")


class TestExtremeHyperparameters:
    POINTS = (
        ((-1e4, -1e-12, -2.5, -0.5), (3.0, 1.0)),
        ((-1e-12, -1e4, -0.5, -2.5), (1.0, 3.0)),
        ((-1.25, -2.0, -1.25, -2.0), (1.0, 1.0)),
    )

    @pytest.mark.parametrize(("name", "hyperparameters"), list(extreme_hyperparameters()))
    def test_value_and_gradient_are_those_of_high_precision(self, name, hyperparameters):
        require_oracle(name)
        loss = objective(name, **hyperparameters)
        results = zip(*values_and_gradients(loss, make_pairs(self.POINTS)), strict=True)
        # what underflows inside a loss is then multiplied by the hyperparameter
        floor = TINY[torch.float64] * max(1.0, *map(abs, hyperparameters.values()))
        for (log_probs, lengths), got in zip(self.POINTS, results, strict=True):
            value, gradient = oracle.value_and_gradient(
                name, log_probs, lengths, loss.hyperparameters, DIGITS_FOR_1E300
            )
            for x, want in zip(got, (value, *gradient), strict=True):
                if math.isinf(want):  # beyond the largest float64: calibration towards ±1/(2·1e-300)
                    assert x == want
                else:
                    # beside a huge hyperparameter each term is huge, 0, or of order 1: nothing cancels
                    what = f"{loss!r} at {log_probs}"
                    assert_close(x, want, ROUNDINGS * EPS[torch.float64] * abs(want) + floor, what)

    @pytest.mark.parametrize("name", [n for n in NAMES if "beta" in OBJECTIVES[n].parameters])
    def test_beta_of_1e300_gives_a_finite_loss(self, name):
        assert torch.isfinite(objective(name, beta=1e300)(make_pairs(self.POINTS))).all()


class TestCertainAndImpossibleResponses:
    """Log-probabilities of exactly 0 and −inf: what a softmax gives when it saturates."""

    @staticmethod
    def loss_of_logits(loss, logits, chosen, rejected):
        log_pi = torch.log_softmax(logits, dim=0)
        log_ref = torch.log_softmax(torch.zeros_like(logits), dim=0)
        ones = torch.ones(1, dtype=logits.dtype)
        return loss(
            Pairs.from_log_probs(
                log_pi_chosen=log_pi[[chosen]],
                log_pi_rejected=log_pi[[rejected]],
                log_ref_chosen=log_ref[[chosen]],
                log_ref_rejected=log_ref[[rejected]],
                length_chosen=ones,
                length_rejected=ones,
            )
        )

    @pytest.mark.parametrize("name", NAMES)
    def test_one_class_gives_a_finite_loss_and_gradient_zero(self, name):
        logits = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        value = self.loss_of_logits(objective(name), logits, 0, 0)
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.tolist() == [0.0]

    @pytest.mark.parametrize("name", ["dpo", "cdpo", "log_pi", "mi_dpo"])
    def test_one_class_gives_the_loss_log_2(self, name):
        value = self.loss_of_logits(objective(name), torch.zeros(1, dtype=torch.float64), 0, 0)
        assert_same(value, torch.tensor([math.log(2.0)], dtype=torch.float64))

    @pytest.mark.parametrize("name", NAMES)
    def test_a_saturated_policy_that_is_right_has_a_finite_loss_and_gradient(self, name):
        # in float32 a lead of 40 nats makes log π(y_w) exactly 0
        logits = torch.tensor([40.0, 0.0], requires_grad=True)
        value = self.loss_of_logits(objective(name), logits, 0, 1)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_an_impossible_rejected_response_gives_the_limit_of_the_loss(self, name):
        # −1e300 stands for the limit: every present loss has reached it there, or overflows
        limit, exact = (objective(name)(one_pair(-0.5, x)).item() for x in (-1e300, -math.inf))
        assert limit == exact or min(limit, exact) > 1e290

    def test_smoothing_by_zero_is_dpo_even_for_an_impossible_rejected_response(self):
        pairs = one_pair(-0.5, -math.inf)
        assert objective("cdpo", label_smoothing=0.0)(pairs).tolist() == objective("dpo")(pairs).tolist()

    def test_orpo_without_odds_is_the_nll_even_for_a_certain_rejected_response(self):
        assert objective("orpo", lam=0.0)(one_pair(-0.5, 0.0)).tolist() == [0.5]

    @pytest.mark.parametrize("name", NAMES)
    def test_an_impossible_chosen_response_has_an_infinite_loss(self, name):
        assert objective(name)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    def test_slic_without_likelihood_is_the_hinge_even_for_an_impossible_chosen_response(self):
        assert objective("slic", lam=0.0)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    def test_orpo_without_odds_is_the_nll_even_for_an_impossible_chosen_response(self):
        assert objective("orpo", lam=0.0)(one_pair(-math.inf, -0.5)).tolist() == [math.inf]

    @pytest.mark.parametrize("name", ["dpo", "log_pi", "simpo", "mi_dpo"])
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
            margin = torch.tensor(MARGINS, dtype=dtype, requires_grad=True)
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
        with oracle.mp.workdps(oracle.DIGITS):
            exact = oracle.mpf(x)
            want = float(oracle.log(-oracle.expm1(exact)))
            slope = float(1 / -oracle.expm1(-exact))
        unit = SAME_FORMULA * EPS[torch.float64]
        assert value.item() == pytest.approx(want, rel=unit, abs=TINY[torch.float64])
        assert gradient.item() == pytest.approx(slope, rel=unit, abs=TINY[torch.float64])

    def test_log1mexp_has_finite_gradients_when_near_and_far_points_come_together(self):
        x = torch.tensor([-1e-30, -1e-8, -1.0, -100.0, -1e4], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(log1mexp(x).sum(), x)
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("x", [-1e300, -1e4, -40.0, 0.0, 1e-9, 40.0, 700.0])
    def test_softplus_neg_is_right_in_both_tails(self, x):
        with oracle.mp.workdps(oracle.DIGITS):
            want = float(oracle.s(oracle.mpf(x)))
        got = softplus_neg(torch.tensor([x], dtype=torch.float64)).item()
        assert got == pytest.approx(want, rel=SAME_FORMULA * EPS[torch.float64], abs=0.0)


class TestNeeds:
    GIVEN = ("reference", "length")

    @staticmethod
    def pairs_without(missing):
        one = torch.tensor([-1.0])
        given = {"log_pi_chosen": one, "log_pi_rejected": 2 * one}
        if missing != "reference":
            given |= {"log_ref_chosen": one, "log_ref_rejected": one}
        if missing != "length":
            given |= {"length_chosen": -one, "length_rejected": -one}
        return Pairs.from_log_probs(**given)

    @pytest.mark.parametrize("missing", GIVEN)
    @pytest.mark.parametrize("name", NAMES)
    def test_an_objective_asks_for_exactly_what_it_says_it_needs(self, name, missing):
        pairs = self.pairs_without(missing)
        if missing in OBJECTIVES[name].needs:
            argument = {"reference": "log_ref_chosen=", "length": "length_chosen="}[missing]
            with pytest.raises(ValueError, match=f"{missing}.*{argument}"):
                objective(name)(pairs)
        else:
            assert objective(name)(pairs).shape == (1,)

    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_needed_is_something_a_problem_can_offer(self, name):
        assert OBJECTIVES[name].needs <= set(self.GIVEN)

    def test_the_uniform_prior_needs_no_reference(self):
        value = objective("mi_dpo", prior="uniform")(self.pairs_without("reference"))
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
            if isinstance(parameter.domain, Interval):
                bad = [*refused_numbers(parameter.domain), *WRONG_TYPES]
            else:
                first = parameter.domain[0]
                bad = [0, 1.0, math.nan, True, None, "", "abc", first.upper(), f"{first} ", [first]]
            for value in bad:
                yield pytest.param(name, key, value, id=f"{name}-{key}={value!r}")


NUMERIC = [
    (name, key)
    for name in NAMES
    for key, parameter in OBJECTIVES[name].parameters.items()
    if isinstance(parameter.domain, Interval)
]


def one_value_per_run(name, dtype=torch.float64):
    """The objective with tensors [3, 1, 1], and the three bindings of one value each."""
    runs, singles = {}, [{}, {}, {}]
    for key, parameter in OBJECTIVES[name].parameters.items():
        if isinstance(parameter.default, str):
            continue
        # dyadic multiples, so that float32 holds their ratios exactly; all lie in any domain from 0
        values = [float32_number(parameter.default * factor) for factor in (1.0, 0.5, 0.125)]
        runs[key] = torch.tensor(values, dtype=dtype)[:, None, None]
        for single, value in zip(singles, values, strict=True):
            single[key] = value
    return objective(name, **runs), [objective(name, **single) for single in singles]


def table(dtype=torch.float64, k=4):
    """All pairs of K responses, as columns against rows."""
    generator = torch.Generator().manual_seed(1)
    log_pi = torch.log_softmax(torch.randn(k, generator=generator, dtype=torch.float64), dim=0).to(dtype)
    log_ref = torch.log_softmax(torch.randn(k, generator=generator, dtype=torch.float64), dim=0).to(dtype)
    length = torch.arange(1, k + 1, dtype=dtype)
    return log_pi, log_ref, length


def as_table(log_pi, log_ref, length):
    return Pairs(
        Responses(log_pi[:, None], log_ref[:, None], length[:, None]),
        Responses(log_pi[None, :], log_ref[None, :], length[None, :]),
    )


PARTS = [
    (name, piece)
    for name in NAMES
    for piece in ("score", "chosen_anchor", "rejected_anchor")
    if getattr(OBJECTIVES[name], piece) is not None
]


class TestParts:
    """The derivative of each part by log π, against automatic differentiation of the part."""

    @pytest.mark.parametrize(("name", "piece"), PARTS)
    def test_pulling_back_equals_automatic_differentiation(self, name, piece):
        log_pi = torch.tensor([-1e4, -30.0, -2.0, -0.1, -1e-7, -1e-12, 0.0], dtype=torch.float64)
        log_ref, length = torch.linspace(-5.0, -1.0, 7).double(), torch.tensor([1.0, 2, 3, 4, 1, 2, 1]).double()
        weights = torch.linspace(-1.0, 2.0, 7).double()
        for point in itertools.product(*(parameter.grid for parameter in OBJECTIVES[name].parameters.values())):
            loss = objective(name, **dict(zip(OBJECTIVES[name].parameters, point, strict=True)))
            leaf = log_pi.clone().requires_grad_()
            values = getattr(loss, piece)(Responses(leaf, log_ref, length))
            (want,) = torch.autograd.grad(values, leaf, weights)
            got = loss.pull_back(getattr(OBJECTIVES[name], piece), Responses(log_pi, log_ref, length), weights)
            # near p = 1 automatic differentiation itself loses digits: e^x / expm1(x) takes two roundings of it
            torch.testing.assert_close(got.expand_as(want), want, rtol=SAME_FORMULA * EPS[torch.float64], atol=0.0)

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
            key: "names" if isinstance(parameter.domain, tuple) else str(parameter.domain)
            for key, parameter in OBJECTIVES[name].parameters.items()
        }
        assert domains == oracle.DOMAINS[name]

    @pytest.mark.parametrize(("name", "key", "value"), list(refusals()))
    def test_a_value_outside_the_domain_is_refused_by_name(self, name, key, value):
        with pytest.raises((ValueError, TypeError), match=rf"^{key} must be .*; got "):
            objective(name, **{key: value})

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    @pytest.mark.parametrize("value", ["abc", None, True])
    def test_what_is_no_number_is_a_type_error(self, name, key, value):
        with pytest.raises(TypeError, match=f"^{key} must be a finite number"):
            objective(name, **{key: value})

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    def test_one_bad_value_in_a_tensor_is_refused(self, name, key):
        parameter = OBJECTIVES[name].parameters[key]
        for bad in refused_numbers(parameter.domain):
            values = torch.tensor([parameter.default, bad, parameter.default], dtype=torch.float64)
            with pytest.raises(ValueError, match=f"^{key} must be a finite number"):
                objective(name, **{key: values[:, None, None]})

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
        defaults = {key: parameter.default for key, parameter in OBJECTIVES[name].parameters.items()}
        assert objective(name).hyperparameters == defaults

    @pytest.mark.parametrize(("name", "key"), NUMERIC)
    def test_whole_numbers_and_numpy_numbers_are_taken_as_floats(self, name, key):
        value = OBJECTIVES[name].parameters[key].default
        for same in (np.float64(value), np.array(value)):
            taken = objective(name, **{key: same}).hyperparameters[key]
            assert type(taken) is float
            assert taken == value
        if 1.0 < OBJECTIVES[name].parameters[key].domain.high:
            assert type(objective(name, **{key: 1}).hyperparameters[key]) is float

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", NAMES)
    def test_one_value_per_run_equals_one_call_per_value(self, name, dtype):
        pairs = as_table(*table(dtype))
        runs, singles = one_value_per_run(name, dtype)
        want = torch.stack([single(pairs) for single in singles])
        assert_same(runs(pairs).expand_as(want), want)
        if any(key_name == name for key_name, _ in NUMERIC):
            assert not torch.equal(want[0], want[1])

    @pytest.mark.parametrize("name", NAMES)
    def test_a_stack_of_bindings_equals_one_call_per_binding(self, name):
        pairs = as_table(*table())
        _, singles = one_value_per_run(name)
        want = torch.stack([single(pairs) for single in singles])
        stacked = stack(singles, torch.float64)
        assert_same(stacked(pairs).expand_as(want), want)
        for value in stacked.hyperparameters.values():
            assert isinstance(value, str) or (value.shape, value.dtype) == ((3, 1, 1), torch.float64)

    def test_bindings_that_cannot_be_evaluated_together_are_not_stacked(self):
        different = [objective("dpo"), objective("log_pi")]
        options = [objective("mi_dpo", prior="uniform"), objective("mi_dpo", prior="reference")]
        for losses in (different, options):
            assert group_key(losses[0]) != group_key(losses[1])
            with pytest.raises(ValueError, match="losses must be of one objective with the same named options"):
                stack(losses, torch.float64)

    def test_bindings_that_differ_in_numbers_only_share_a_group(self):
        assert group_key(objective("simpo", beta=2.0)) == group_key(objective("simpo", beta=3.0, gamma=1.0))

    def test_a_binding_shows_what_would_make_it_again(self):
        assert repr(objective("mi_dpo", alpha=2, prior="uniform")) == (
            "objective('mi_dpo', alpha=2.0, prior='uniform')"
        )


class TestTable:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_table_of_pairs_holds_the_loss_of_each_pair(self, name):
        log_pi, log_ref, length = table()
        together = objective(name)(as_table(log_pi, log_ref, length))
        k = len(log_pi)
        assert together.shape == (k, k)
        for i in range(k):
            for j in range(k):
                single = Pairs.from_log_probs(
                    log_pi_chosen=log_pi[i],
                    log_pi_rejected=log_pi[j],
                    log_ref_chosen=log_ref[i],
                    log_ref_rejected=log_ref[j],
                    length_chosen=length[i],
                    length_rejected=length[j],
                )
                assert_same(objective(name)(single), together[i, j])

    @pytest.mark.parametrize("name", NAMES)
    def test_the_loss_is_invariant_to_a_shift_of_the_logits(self, name):
        _, log_ref, length = table()
        logits = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64, requires_grad=True)
        losses = [
            objective(name)(as_table(torch.log_softmax(logits + shift, dim=0), log_ref, length)) for shift in (0.0, 8.0)
        ]
        # adding 8 to the logits costs them up to half a unit in the last place of 8, β of 2 doubles it,
        # and calibration squares a number near 5
        scale = max(1.0, losses[0].abs().max().item())
        torch.testing.assert_close(*losses, rtol=0.0, atol=16 * EPS[torch.float64] * scale)
        (gradient,) = torch.autograd.grad(losses[0].sum(), logits)
        assert abs(gradient.sum().item()) <= 16 * EPS[torch.float64] * gradient.abs().sum().item()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_loss_is_the_link_of_the_score_margin_plus_the_anchors(self, name):
        pairs, loss = as_table(*table()), objective(name)
        margin = loss.score(pairs.chosen) - loss.score(pairs.rejected)
        anchors = loss.chosen_anchor(pairs.chosen) + loss.rejected_anchor(pairs.rejected)
        assert_same(loss(pairs), loss.link(margin) + anchors)

    @pytest.mark.parametrize("name", NAMES)
    def test_inputs_are_left_as_they_were(self, name):
        log_pi, log_ref, length = table()
        runs, _ = one_value_per_run(name)
        given = [log_pi, log_ref, length, *(v for v in runs.hyperparameters.values() if not isinstance(v, str))]
        before = [tensor.clone() for tensor in given]
        runs(as_table(log_pi, log_ref, length))
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def paired_results(first, second, points=LATTICE):
    """Values and gradients of two bindings on the same pairs, as tensors."""
    return [
        torch.tensor(values_and_gradients(loss, make_pairs(points)), dtype=torch.float64) for loss in (first, second)
    ]


class TestIdentities:
    def test_cdpo_without_smoothing_is_dpo(self):
        got, want = paired_results(objective("cdpo", beta=0.7, label_smoothing=0.0), objective("dpo", beta=0.7))
        assert_same(got, want)

    def test_mi_dpo_under_the_reference_prior_is_dpo(self):
        got, want = paired_results(objective("mi_dpo", alpha=0.7, prior="reference"), objective("dpo", beta=0.7))
        # log ζ is recovered as log π − h, which costs a rounding of numbers up to 1e4
        torch.testing.assert_close(got, want, rtol=SAME_FORMULA * EPS[torch.float64], atol=1e4 * EPS[torch.float64])

    def test_mi_dpo_under_the_uniform_prior_is_log_pi(self):
        got, want = paired_results(objective("mi_dpo", alpha=0.7, prior="uniform"), objective("log_pi", beta=0.7))
        assert_same(got, want)

    def test_orpo_without_odds_is_the_nll_per_token(self):
        values, chosen, rejected = values_and_gradients(objective("orpo", lam=0.0), make_pairs(LATTICE))
        assert values == [-log_probs[0] / lengths[0] for log_probs, lengths in LATTICE]
        assert chosen == [-1.0 / lengths[0] for _, lengths in LATTICE]
        assert rejected == [0.0] * len(LATTICE)

    def test_simpo_of_one_token_without_margin_is_log_pi(self):
        points = [(log_probs, (1.0, 1.0)) for log_probs, _ in LATTICE]
        got, want = paired_results(objective("simpo", beta=2.5, gamma=0.0), objective("log_pi", beta=2.5), points)
        assert_same(got, want)

    def test_simpo_with_gamma_is_lighter_the_larger_the_margin_already_is(self):
        # by hand: β(a_w − a_l) = 2(−1 + 3) = 4, so the loss is S(4 − γ), larger for a larger γ
        losses = [objective("simpo", beta=2.0, gamma=g)(one_pair(-1.0, -3.0)).item() for g in (0.0, 1.0, 4.0)]
        assert losses == pytest.approx([math.log1p(math.exp(g - 4.0)) for g in (0.0, 1.0, 4.0)], rel=1e-15)

    def test_slic_without_likelihood_is_the_hinge(self):
        loss = objective("slic", delta=1.0, lam=0.0)
        assert loss(make_pairs([((-1.0, -1.5, 0.0, 0.0), (1, 1)), ((-1.0, -4.0, 0.0, 0.0), (1, 1))])).tolist() == [
            0.5,
            0.0,
        ]

    def test_calibration_vanishes_where_the_log_ratios_are_plus_and_minus_half_of_one_over_beta(self):
        # h_w = 1, h_l = −1 and 1/(2β) = 1: only S(2) remains, whatever the weight
        pairs = one_pair(-1.0, -3.0, -2.0, -2.0)
        for weight in (0.5, 1.0, 100.0):
            loss = objective("cal_dpo", beta=0.5, calibration_weight=weight)
            assert loss(pairs).item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-15)

    def test_calibration_is_weighted(self):
        pairs = one_pair(-1.0, -3.0)
        full, half = (objective("cal_dpo", calibration_weight=c)(pairs).item() for c in (1.0, 0.5))
        # h = (0, −2), 1/(2β) = 5: calibration 25 + 9 = 34
        assert full - half == pytest.approx(17.0, rel=1e-15)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
    def test_dpo_at_the_reference_is_log_2_with_gradient_half_of_beta(self, beta):
        points = [((x, y, x, y), (1.0, 1.0)) for x in LOG_PROBS for y in LOG_PROBS]
        values, chosen, rejected = values_and_gradients(objective("dpo", beta=beta), make_pairs(points))
        assert values == pytest.approx([math.log(2.0)] * len(points), rel=EPS[torch.float64])
        assert chosen == [-beta / 2] * len(points)
        assert rejected == [beta / 2] * len(points)

    def test_dpo_does_not_see_what_both_responses_share(self):
        shifted = objective("dpo")(one_pair(-1.0 - 4.0, -2.0 - 4.0, -1.5, -1.25))
        assert_same(shifted, objective("dpo")(one_pair(-1.0, -2.0, -1.5, -1.25)))

    @pytest.mark.parametrize("beta", [0.1, 2.0])
    def test_the_implicit_reward_of_dpo_is_beta_times_the_log_ratio(self, beta):
        log_pi, log_ref, length = table()
        reward = objective("dpo", beta=beta).implicit_reward(Responses(log_pi, log_ref, length))
        assert_same(reward, beta * (log_pi - log_ref))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_implicit_reward_is_the_score_unless_the_record_says_otherwise(self, name):
        responses = Responses(*table())
        loss = objective(name)
        if OBJECTIVES[name].implicit_reward is None:
            assert torch.equal(loss.implicit_reward(responses), loss.score(responses))
        else:
            assert loss.implicit_reward(responses).shape == responses.log_pi.shape


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
        assert values_and_gradients(loss, one_pair(-1.0, -4.0)) == ([1.0], [2.0], [-2.0])


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
        lengths = {"length_chosen": torch.tensor([3, 7]), "length_rejected": torch.tensor([1, 2])}
        floats = {key: value.float() for key, value in lengths.items()}
        whole, real = (objective(name)(Pairs.from_log_probs(**good_arguments() | given)) for given in (lengths, floats))
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
