"""Sums over more points than a table of pairs can hold, against tables in higher precision and against their laws."""

import math
from unittest import mock

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from didsim.engine import _sums
from didsim.engine._sums import dense_sums, smooth_sums, step_sums
from didsim.objectives import OBJECTIVES, _links, objective
from didsim.torch_bridge import LOG_ZERO

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
"""PyTorch compiles a few derivatives when the first tangent is asked for."""

MODEST = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)

K = 2000
LOOKED_AT = slice(None, None, 61)
"""The targets at which a table is made."""

ROUNDING = 1e-12
"""Of Σ |w| |F|: what panels may add to a sum."""

LOOSE = 1e4
"""An estimate may exceed the error so many times, where the error is more than a few roundings."""

KINKED = (_links.HINGE, _links.HINGE_WITH_TARGET_MARGIN, _links.UNIT_HINGE, _links.CLIPPED_LOGISTIC)
"""Links whose slopes jump; the others are analytic, with poles no nearer to the real line than τπ in DiscoPOP's."""

SMOOTH = sorted(name for name, record in OBJECTIVES.items() if record.link not in (None, *KINKED))

SPREADS = (1.0, 20.0, 60.0)


def slope_of(name, **hyperparameters):
    return objective(name, **hyperparameters).slope


def curvature_of(name, **hyperparameters):
    slope = slope_of(name, **hyperparameters)
    return lambda margin: torch.func.jvp(slope, (margin,), (torch.ones_like(margin),))[1]


DERIVATIVES = {"slope": slope_of, "curvature": curvature_of}


def exact_sigmoid(m):
    return 1.0 / (1.0 + np.exp(-m))


def exact_blend_slope(m):
    tau = np.longdouble(0.05)
    share, rest = exact_sigmoid(m / tau), exact_sigmoid(-m / tau)
    logistic = -share * rest / tau * np.log1p(np.exp(-m)) - rest * exact_sigmoid(-m)
    # σ(m/τ) e^(−m) by one exponential: the factors would overflow apart
    return logistic + np.exp(-np.log1p(np.exp(-m / tau)) - m) * (rest / tau - 1.0)


KERNELS = {
    "logistic slope": (slope_of("simpo", gamma=0.5), lambda m: -exact_sigmoid(0.5 - m)),
    "logistic curvature": (
        lambda m: torch.sigmoid(m) * torch.sigmoid(-m),
        lambda m: exact_sigmoid(m) * exact_sigmoid(-m),
    ),
    "steep logistic": (lambda m: torch.sigmoid(9.0 * m), lambda m: exact_sigmoid(9.0 * m)),
    "exponential": (slope_of("exponential"), lambda m: -np.exp(-m)),
    "square": (slope_of("ipo", tau=0.25), lambda m: 2.0 * (m - 2.0)),
    "blend": (slope_of("discopop", tau=0.05), exact_blend_slope),
    "wave": (torch.cos, np.cos),
    "quartic": (lambda m: m * m * m * m - 3.0 * m, lambda m: m * m * m * m - 3.0 * m),
}
"""Kernels, and the same formulas for numpy's long doubles."""

ONE_SIGN = ("logistic slope", "logistic curvature", "exponential")
"""The steep one varies by orders of magnitude within a panel."""


def uniform(generator, count, spread):
    return spread * (torch.rand(1, count, generator=generator, dtype=torch.float64) - 0.5)


def normal(generator, count, spread):
    return (spread / 6.0) * torch.randn(1, count, generator=generator, dtype=torch.float64).clamp(-3.0, 3.0)


def clustered(generator, count, spread):
    centres = uniform(generator, 5, spread)
    picked = centres[:, torch.randint(5, (count,), generator=generator)]
    return picked + 1e-3 * normal(generator, count, spread)


SCORES = {"uniform": uniform, "normal": normal, "clustered": clustered}


def points(seed, spread, scores="normal", count=K):
    """Targets, sources, and probabilities that span many orders of magnitude, [1, K] each."""
    generator = torch.Generator().manual_seed(seed)
    targets, sources, logits = (SCORES[scores](generator, count, size) for size in (spread, spread, 60.0))
    return targets, sources, torch.softmax(logits, dim=-1)


def signed(weights):
    return weights * torch.where(torch.arange(weights.shape[-1]) % 3 == 0, -1.0, 1.0)


def table(values):
    """Margins t_i − s_j of some targets in long double, [n, m]."""
    targets, sources = (part[0].numpy().astype(np.longdouble) for part in values)
    return targets[:, None] - sources


def exact_sums(formula, targets, sources, weights):
    """Sums, and those of absolute values, over one row, in long double."""
    with np.errstate(over="ignore"):
        terms = formula(table((targets, sources))) * weights[0].numpy().astype(np.longdouble)
    return terms.sum(1), np.abs(terms).sum(1)


def sums_of_computed(kernel, targets, sources, weights):
    """Sums in long double of the numbers that a kernel returns for a table, and of their absolute values."""
    return exact_sums(lambda m: kernel(torch.from_numpy(m.astype(float))[None])[0].numpy(), targets, sources, weights)


def assert_sums(sums, exact, scale, at=LOOKED_AT, rough=0.0):
    """Sums are right up to rounding, and their error is estimated, neither below the true one nor far above it.

    A kernel may be `rough` by so much itself: the automatic curvature of a logistic has the factor 1 − σ.
    """
    error = np.abs(sums.values[0, at].numpy() - exact)
    estimate = sums.error[0, at].numpy()
    assert (error <= ROUNDING * scale + rough).all(), f"error {float((error / scale).max()):.2g}"
    assert (error <= estimate).all(), f"error is {float((error / estimate).max()):.2g} × estimate"
    visible = error > 1e-14 * scale
    assert (estimate <= LOOSE * error)[visible].all()


@pytest.fixture
def panels_only(monkeypatch):
    """Small tables are summed by panels too, and none is summed outright."""

    def refuse(*_):
        raise AssertionError("the table was summed")

    monkeypatch.setattr(_sums, "SMALL_TABLE", 0)
    monkeypatch.setattr(_sums, "FEW", 0)
    monkeypatch.setattr(_sums, "_table_sums", refuse)


@pytest.mark.usefixtures("panels_only")
class TestAccuracy:
    @pytest.mark.parametrize("derivative", DERIVATIVES)
    @pytest.mark.parametrize("name", SMOOTH)
    def test_sums_are_those_of_the_table_for_every_smooth_objective(self, name, derivative):
        kernel = DERIVATIVES[derivative](name)
        for seed, (spread, scores) in enumerate(
            [(1.0, "uniform"), (20.0, "normal"), (60.0, "uniform"), (60.0, "clustered")]
        ):
            targets, sources, weights = points(seed, spread, scores)
            sums = smooth_sums(kernel, targets, sources, weights)
            part = targets[:, LOOKED_AT]
            exact, scale = sums_of_computed(kernel, part, sources, weights)
            assert_sums(sums, exact, scale, rough=_sums.EPS if derivative == "curvature" else 0.0)
            dense = dense_sums(kernel, part, sources, weights)[0].numpy()
            assert (np.abs(dense - exact) <= ROUNDING * scale).all()

    @pytest.mark.parametrize("scores", SCORES)
    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("name", KERNELS)
    def test_the_error_is_not_underestimated(self, name, spread, scores):
        kernel, formula = KERNELS[name]
        targets, sources, weights = points(7, spread, scores)
        values = formula(table((targets[:, LOOKED_AT], sources)))
        for some in (weights, signed(weights), torch.full_like(weights, 1.0 / K)):
            sums = smooth_sums(kernel, targets, sources, some)
            assert_sums(sums, *exact_sums(lambda _: values, targets[:, LOOKED_AT], sources, some))

    @pytest.mark.parametrize("name", ONE_SIGN)
    def test_sums_of_one_sign_are_relatively_accurate_however_small(self, name):
        kernel, formula = KERNELS[name]
        smallest = math.inf
        for shift in (-45.0, 45.0):
            targets, sources, weights = points(1, 30.0)
            sums = smooth_sums(kernel, targets + shift, sources, weights)
            exact, scale = exact_sums(formula, (targets + shift)[:, LOOKED_AT], sources, weights)
            smallest = min(smallest, scale.min())
            assert (np.abs(sums.values[0, LOOKED_AT].numpy() - exact) <= 1e-13 * scale).all()
            assert (sums.error[0, LOOKED_AT].numpy() <= 1e-11 * scale).all()
        assert smallest < 1e-20

    @pytest.mark.parametrize("score", [0.0, 0.3, -1e-300, 17.0, 1e5])
    def test_many_equal_points_are_summed_without_drift(self, score):
        count = 300_000
        scores = torch.full((1, count), score, dtype=torch.float64)
        weight = np.longdouble(1.0 / count)
        sums = smooth_sums(slope_of("simpo", gamma=0.5), scores, scores, torch.full_like(scores, float(weight)))
        exact = -weight * count / (1.0 + np.exp(np.longdouble(-0.5)))
        assert_sums(sums, exact, np.abs(exact))

    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    @pytest.mark.parametrize("spread", [0.0, 1e-9, 3.0])
    def test_a_few_points_make_a_few_panels(self, count, spread):
        targets, sources, weights = points(3, spread, count=count)
        kernel, formula = KERNELS["logistic slope"]
        for shift in (0.0, 1.0, -17.25):
            sums = smooth_sums(kernel, targets + shift, sources, weights)
            exact = exact_sums(formula, targets + shift, sources, weights)
            assert_sums(sums, *exact, at=slice(None))

    @pytest.mark.parametrize("share", [0.001, 0.5])
    def test_scores_of_log_zero_cost_no_panels_in_between(self, share):
        targets, sources, weights = points(5, 20.0)
        out = torch.rand(1, K, generator=torch.Generator().manual_seed(0)) < share
        kernel, formula = KERNELS["logistic slope"]
        for beta in (0.1, 10.0):
            far = [torch.where(out, beta * LOG_ZERO + part, part) for part in (targets, sources)]
            sums = smooth_sums(kernel, *far, weights)
            assert_sums(sums, *exact_sums(formula, far[0][:, LOOKED_AT], far[1], weights))

    def test_rows_have_their_own_ranges_and_hyperparameters(self):
        gammas, spreads = (-2.0, 0.0, 30.0), (1.0, 60.0, 8.0)
        rows = [points(seed, spread) for seed, spread in enumerate(spreads)]
        rows[2] = (rows[2][0] - 1000.0, rows[2][1] - 1000.0, signed(rows[2][2]))
        gamma = torch.tensor(gammas, dtype=torch.float64)[:, None, None]
        sums = smooth_sums(slope_of("simpo", gamma=gamma), *(torch.cat(part) for part in zip(*rows, strict=True)))
        for i, (targets, sources, weights) in enumerate(rows):
            formula = lambda m, gamma=gammas[i]: -exact_sigmoid(gamma - m)  # noqa: E731
            exact = exact_sums(formula, targets[:, LOOKED_AT], sources, weights)
            assert_sums(_sums.Sums(sums.values[i : i + 1], sums.error[i : i + 1]), *exact)

    def test_targets_may_be_fewer_or_elsewhere(self):
        _, sources, weights = points(6, 20.0)
        kernel, formula = KERNELS["logistic curvature"]
        for targets in (torch.tensor([[-31.0, 0.25, 44.0]]), torch.tensor([[500.0, -500.0]])):
            sums = smooth_sums(kernel, targets.double(), sources, weights)
            assert_sums(sums, *exact_sums(formula, targets.double(), sources, weights), at=slice(None))

    def test_weights_of_zero_count_for_nothing(self):
        targets, sources, weights = points(8, 20.0)
        kernel = slope_of("dpo")
        sums = smooth_sums(kernel, targets, sources, torch.zeros_like(weights))
        assert not sums.values.any()
        assert not sums.error.any()
        half = torch.where(sources < 0, weights, 0.0)
        kept = smooth_sums(kernel, targets, sources[:, sources[0] < 0], weights[:, sources[0] < 0])
        both = smooth_sums(kernel, targets, sources, half)
        assert ((both.values - kept.values).abs() <= both.error).all()

    @pytest.mark.parametrize("name", ["exponential", "logistic slope"])
    def test_the_error_is_infinite_where_the_kernel_overflows(self, name):
        targets, sources, weights = points(9, 20.0)
        targets[0, :3] = LOG_ZERO
        sums = smooth_sums(KERNELS[name][0], targets, sources, weights)
        overflows = name == "exponential"
        assert sums.error[0, :3].isinf().all() == overflows
        assert sums.error[0, 3:].isfinite().all()
        exact = exact_sums(KERNELS[name][1], targets[:, 3::61], sources, weights)
        assert_sums(sums, *exact, at=slice(3, None, 61))

    def test_the_order_of_points_does_not_matter(self):
        targets, sources, weights = points(10, 20.0)
        sums = smooth_sums(slope_of("dpo"), targets, sources, weights)
        order, other = (torch.randperm(K, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        mixed = smooth_sums(slope_of("dpo"), targets[:, order], sources[:, other], weights[:, other])
        # weights are added in another order
        assert ((mixed.values - sums.values[:, order]).abs() <= sums.error[:, order]).all()

    def test_they_may_be_taken_while_differentiating(self):
        targets, sources, weights = points(11, 20.0)
        curvature = smooth_sums(curvature_of("dpo"), targets, sources, weights)

        def inside(x):
            return x * smooth_sums(curvature_of("dpo"), targets, sources, weights).values

        values, tangents = torch.func.jvp(inside, (torch.ones(()).double(),), (torch.ones(()).double(),))
        torch.testing.assert_close(values, curvature.values, rtol=0.0, atol=0.0)
        torch.testing.assert_close(tangents, curvature.values, rtol=0.0, atol=0.0)

    @hypothesis.given(
        st.lists(st.floats(-40.0, 40.0), min_size=1, max_size=12),
        st.lists(st.tuples(st.floats(-40.0, 40.0), st.floats(-1.0, 1.0)), min_size=1, max_size=12),
        st.sampled_from(sorted(set(KERNELS) - {"blend"})),
    )
    @hypothesis.example([0.0, 1.0, -1.0], [(0.0, 1.0), (1.0, -1.0), (-1.0, 1.0)], "exponential")
    @hypothesis.settings(MODEST, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
    def test_any_points_and_weights(self, targets, pairs, name):
        kernel, formula = KERNELS[name]
        numbers = [torch.tensor([part], dtype=torch.float64) for part in (targets, *zip(*pairs, strict=True))]
        sums = smooth_sums(kernel, *numbers)
        exact, _ = exact_sums(formula, *numbers)
        assert (np.abs(sums.values[0].numpy() - exact) <= sums.error[0].numpy()).all()


class TestFallback:
    @pytest.mark.parametrize("name", KERNELS)
    def test_a_small_table_is_summed_outright(self, name):
        kernel, formula = KERNELS[name]
        targets, sources, weights = points(12, 60.0, count=200)
        with mock.patch.object(_sums, "_resolve", side_effect=AssertionError("panels were made")):
            sums = smooth_sums(kernel, targets, sources, signed(weights))
        assert torch.equal(sums.values, dense_sums(kernel, targets, sources, signed(weights)))
        assert_sums(sums, *exact_sums(formula, targets, sources, signed(weights)), at=slice(None))

    def test_points_too_scattered_for_panels_are_summed_outright(self):
        targets, sources, weights = points(13, 1e5, "uniform")
        sums = smooth_sums(slope_of("dpo"), targets, sources, weights)
        assert torch.equal(sums.values, dense_sums(slope_of("dpo"), targets, sources, weights))

    def test_numbers_too_large_for_panels_are_summed_outright(self):
        targets, sources, weights = points(13, 1.0)
        targets[0, 0] = -1e300
        sums = smooth_sums(slope_of("dpo"), targets, sources, weights)
        assert sums.values[0, 0] == pytest.approx(-1.0, rel=1e-14)

    @pytest.mark.parametrize("kernel", [torch.relu, lambda m: torch.tanh(1e4 * m)])
    def test_a_kernel_too_rough_for_panels_is_summed_outright(self, kernel):
        targets, sources, weights = points(14, 20.0, count=500)
        sums = smooth_sums(kernel, targets, sources, weights)
        assert torch.equal(sums.values, dense_sums(kernel, targets, sources, weights))

    @pytest.mark.usefixtures("panels_only")
    @pytest.mark.parametrize("scores", ["uniform", "normal"])
    @pytest.mark.parametrize("kernel", [torch.abs, lambda m: torch.tanh(300.0 * m), lambda m: torch.relu(m - 0.7)])
    def test_else_the_error_says_what_panels_could_do(self, kernel, scores, monkeypatch):
        monkeypatch.setattr(_sums, "MODERATE_TABLE", 0)
        monkeypatch.setattr(_sums, "MOST_PANELS", 60)
        targets, sources, weights = points(15, 20.0, scores)
        for some in (weights, torch.full_like(weights, 1.0 / K)):
            sums = smooth_sums(kernel, targets, sources, some)
            error = (sums.values - dense_sums(kernel, targets, sources, some)).abs()
            assert (error <= sums.error).all()
            assert error.max() > 1e-9
            assert sums.error.max() < LOOSE * error.max()

    def test_a_search_for_narrower_panels_ends(self, panels_only, monkeypatch):
        monkeypatch.setattr(_sums, "MODERATE_TABLE", 0)
        nothing = torch.zeros(1, 5, dtype=torch.float64)
        sums = smooth_sums(lambda m: m.sign() + 0.5, nothing, nothing, nothing + 1.0)
        assert ((sums.values - 2.5).abs() <= sums.error).all()

    def test_roughness_of_the_kernel_itself_does_not_narrow_the_panels(self):
        # 1 − σ(m) has lost its digits where all the weights are
        targets, sources, weights = points(16, 4.0)
        kernel = curvature_of("dpo")
        with mock.patch.object(_sums._Panels, "of", wraps=_sums._Panels.of) as cut:
            sums = smooth_sums(kernel, torch.cat([targets - 30.0, targets], 1), sources, weights)
        assert [call.args[-1] for call in cut.call_args_list] == [1.0, 0.5]
        assert sums.error.max() < 1e-14

    @pytest.mark.parametrize("block", [1, 7, 64, 10**6])
    def test_blocks_of_a_table_make_no_difference(self, block):
        targets, sources, weights = (torch.cat([part, -part]) for part in points(17, 20.0, count=31))
        kernel = slope_of("simpo", gamma=torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None, None])
        whole = (kernel(targets[:, :, None] - sources[:, None]) * weights[:, None]).sum(-1)
        with mock.patch.object(_sums, "BLOCK", block):
            torch.testing.assert_close(dense_sums(kernel, targets, sources, weights), whole, rtol=0.0, atol=1e-15)

    def test_no_points_have_no_sums(self):
        one, none = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.float64)
        assert smooth_sums(torch.cos, one, none, none).values.tolist() == [[0.0]]
        assert smooth_sums(torch.cos, none, one, one).values.shape == (1, 0)
        assert step_sums(0.0, one, none, none).tolist() == [[0.0]]
        assert step_sums(0.0, none, one, one).shape == (1, 0)


def brute_steps(threshold, targets, sources, weights):
    """The table path: the slope of a hinge."""
    active = (threshold - (targets[:, :, None] - sources[:, None])).relu_().sign_()
    return (active * weights[:, None]).sum(-1)


NUMBERS = st.one_of(
    st.integers(-4, 4).map(float),
    # sums of these are rounded
    st.integers(-30, 30).map(lambda k: k / 10.0),
    st.floats(-1e300, 1e300),
    st.sampled_from([LOG_ZERO, 5e-324, -5e-324, 2.0**-1022, 1.0 + 2.0**-52, 1e16, 1e16 + 2.0]),
)


class TestSteps:
    @hypothesis.given(
        st.lists(NUMBERS, min_size=1, max_size=9),
        st.lists(st.tuples(NUMBERS, st.integers(-(2**20), 2**20)), min_size=1, max_size=9),
        NUMBERS,
    )
    @hypothesis.example([0.3], [(0.2, 1), (0.1, 2), (0.0, 4)], 0.1)
    @MODEST
    def test_pairs_are_counted_exactly_as_in_the_table(self, targets, pairs, threshold):
        sources, weights = (list(part) for part in zip(*pairs, strict=True))
        numbers = [torch.tensor([part], dtype=torch.float64) for part in (targets, sources, weights)]
        # sums of integers are exact
        assert torch.equal(step_sums(threshold, *numbers), brute_steps(threshold, *numbers))

    def test_a_difference_that_equals_the_threshold_does_not_count(self):
        sources = torch.tensor([[1.0, 2.0, 2.0, 3.0]], dtype=torch.float64)
        weights = torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=torch.float64)
        targets = torch.tensor([[2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
        assert step_sums(1.0, targets, sources, weights).tolist() == [[1110.0, 1000.0, 0.0, 0.0]]

    @pytest.mark.parametrize("name", ["hinge", "slic", "repo"])
    def test_hinges_have_these_slopes(self, name):
        targets, sources, weights = points(18, 6.0)
        threshold = {"hinge": 1.0, "slic": 0.5, "repo": 0.4}[name]
        loss = {"hinge": {}, "slic": {"delta": 0.5}, "repo": {"gamma": 0.4}}[name]
        want = dense_sums(slope_of(name, **loss), targets, sources, weights)
        torch.testing.assert_close(-step_sums(threshold, targets, sources, weights), want, rtol=1e-13, atol=0.0)

    def test_rows_have_their_own_thresholds(self):
        rows = [points(seed, spread) for seed, spread in ((19, 1.0), (20, 60.0))]
        threshold = torch.tensor([0.1, -7.0], dtype=torch.float64)[:, None, None]
        numbers = [torch.cat(part) for part in zip(*rows, strict=True)]
        got = step_sums(threshold, *numbers)
        torch.testing.assert_close(got, brute_steps(threshold, *numbers), rtol=1e-13, atol=0.0)

    def test_a_sum_over_many_equal_weights_does_not_drift(self):
        count = 10**6
        sources = torch.arange(count, dtype=torch.float64)[None]
        got = step_sums(0.5, sources, sources, torch.full_like(sources, 0.1))
        want = 0.1 * torch.arange(count, 0, -1, dtype=torch.float64)
        torch.testing.assert_close(got, want[None], rtol=1e-14, atol=0.0)


class TestErrors:
    @pytest.mark.parametrize("function", [lambda *parts: smooth_sums(torch.cos, *parts), lambda *p: step_sums(0.0, *p)])
    @pytest.mark.parametrize(("place", "name"), [(0, "targets"), (1, "sources"), (2, "weights")])
    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_not_finite_are_refused(self, function, place, name, odd):
        parts = [torch.zeros(1, 3, dtype=torch.float64) for _ in range(3)]
        parts[place][0, 1] = odd
        with pytest.raises(ValueError, match=rf"^{name} must be finite; got {odd}\. Let a large negative number"):
            function(*parts)

    @pytest.mark.parametrize(
        "part", [torch.zeros(1, 3), torch.zeros(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.int64)]
    )
    def test_other_numbers_are_refused(self, part):
        good = torch.zeros(1, 3, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"^sources must be float64 \[L, ·\]; got 'torch\."):
            smooth_sums(torch.cos, good, part, good)

    @pytest.mark.parametrize("shapes", [((1, 3), (1, 3), (1, 2)), ((2, 3), (1, 3), (1, 3)), ((1, 3), (2, 3), (2, 3))])
    def test_shapes_that_do_not_fit_are_refused(self, shapes):
        parts = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        with pytest.raises(ValueError, match=r"^targets, sources, weights must be of shapes \[L, n\], \[L, m\], "):
            smooth_sums(torch.cos, *parts)
