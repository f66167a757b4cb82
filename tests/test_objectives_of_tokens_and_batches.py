"""Objectives that look at tokens or at the whole batch against their oracles, and every objective's differences."""

import functools
import math

import pytest
import torch
from oracles import batch_losses, token_losses
from oracles.losses import Pair
from samples import (
    NEGLIGIBLE,
    TOKEN_PAIRS,
    activating,
    as_responses,
    every_option,
    grid,
    is_number,
    label,
    random_numbers,
    random_pair,
    responses,
)

from didsim.objectives import (
    OBJECTIVES,
    Pairs,
    Responses,
    _adaptive,
    _mutual_information,
    _pointwise,
    _token_level,
    objective,
)

NAMES = sorted(OBJECTIVES)


@functools.cache
def exact_tokens(name, pair, items):
    return token_losses.evaluate(name, *TOKEN_PAIRS[pair], dict(items))


def largest_number(pair):
    """The largest finite log-probability that enters the loss of a pair of responses."""
    rows = (row for y in pair for table in (y.logits, y.ref_logits) for row in table)
    spreads = ([x for x in row if math.isfinite(x)] for row in rows)
    return max(1.0, *(max(row) - min(row) for row in spreads))


class TestTokens:
    @pytest.mark.parametrize(("name", "hyperparameters"), grid("tokens"))
    def test_value_and_gradient_by_logits_weights_and_masks_are_right(self, name, hyperparameters):
        (chosen, by_chosen), (rejected, by_rejected) = (as_responses(side) for side in zip(*TOKEN_PAIRS, strict=True))
        values = objective(name, **hyperparameters)(Pairs(chosen, rejected))
        leaves = {("w", what): leaf for what, leaf in by_chosen.items()}
        leaves |= {("l", what): leaf for what, leaf in by_rejected.items()}
        gradients = torch.autograd.grad(values.sum(), leaves.values(), materialize_grads=True)
        for i, pair in enumerate(TOKEN_PAIRS):
            want, slopes = exact_tokens(name, i, tuple(hyperparameters.items()))
            scale = largest_number(pair)
            assert values[i].item() == pytest.approx(want, rel=NEGLIGIBLE, abs=NEGLIGIBLE * scale)
            steepest = max(1.0, *map(abs, slopes.values()))
            for (side, what), gradient in zip(leaves, gradients, strict=True):
                exact = torch.zeros_like(gradient[i])
                for key, slope in slopes.items():
                    if key[:2] == (side, what):
                        exact[key[2:]] = slope
                torch.testing.assert_close(gradient[i], exact, rtol=NEGLIGIBLE, atol=NEGLIGIBLE * scale * steepest)

    @pytest.mark.parametrize("epsilon", OBJECTIVES["epsilon_dpo"].parameters["epsilon"].grid)
    def test_the_margin_of_some_pairs_rises_with_epsilon_of_others_falls_and_of_others_neither(self, epsilon):
        with token_losses.mp.workdps(50):
            exact = [[token_losses.read(side, y) for side, y in zip("wl", pair, strict=True)] for pair in TOKEN_PAIRS]
            signs = [token_losses.epsilon_sign(*sides, token_losses.mpf(epsilon)) for sides in exact[:5]]
        assert set(signs) == {-1, 0, 1}

    @pytest.mark.parametrize(
        ("name", "point"),
        [
            pytest.param(name, {**activating(name, key), key: value}, id=label(name, {key: value}))
            for name in sorted(token_losses.LOSSES)
            for key, parameter in OBJECTIVES[name].parameters.items()
            if is_number(parameter)
            for value in (1e300, 1e-300)
            if value in parameter.domain
        ],
    )
    def test_extreme_hyperparameters_give_what_high_precision_gives(self, name, point):
        chosen, rejected = (as_responses(side)[0] for side in zip(*TOKEN_PAIRS, strict=True))
        values = objective(name, **point)(Pairs(chosen, rejected))
        for i, pair in enumerate(TOKEN_PAIRS):
            numbers = objective(name, **point).hyperparameters
            want, _ = exact_tokens(name, i, tuple(numbers.items()))
            # a divergence that is 0 but for rounding is multiplied too
            scale = largest_number(pair) * max(1.0, *(x for x in numbers.values() if not isinstance(x, str | bool)))
            assert values[i].item() == pytest.approx(want, rel=NEGLIGIBLE, abs=NEGLIGIBLE * scale)


BATCHES = {
    "alike": (tuple(map(random_pair, range(5))), None),
    "weighted": (tuple(map(random_pair, range(5, 11))), (2.0, 0.0, 1.0, 0.5, 3.0, 0.25)),
    "one pair": ((random_pair(11),), None),
    "equal margins": (
        (Pair(-1.0, -1.5, -1.25, -1.0), Pair(-2.0, -2.5, -1.25, -1.0), Pair(-3.0, -3.5, -2.25, -2.0)),
        None,
    ),
    "certain and impossible": (
        (Pair(-1e-12, -1e4, -3.0, -0.5), Pair(-1e4, -1e-12, -0.5, -3.0), Pair(-1.0, -2.0, -1e-12, -1e4)),
        (1.0, 2.0, 1.0),
    ),
}


def as_batch(pairs, weights):
    """A batch of pairs whose log-probabilities require gradients."""
    columns = {key: torch.tensor([getattr(y, key) for y in pairs], dtype=torch.float64) for key in vars(pairs[0])}
    leaves = [columns[key].requires_grad_() for key in ("lw", "ll")]
    chosen, rejected = (responses(*(columns[f"{key}{side}"] for key in "lrn")) for side in "wl")
    mass = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return Pairs(chosen, rejected, mass), leaves


POINTS = [
    pytest.param(*point.values, id=point.id, marks=pytest.mark.slow if number % 3 else ())
    for number, point in enumerate(grid("batch"))
]
"""Every combination of options stands there with three sets of numbers; one of them is among the fast tests."""


class TestBatches:
    @pytest.mark.parametrize(("name", "hyperparameters"), POINTS)
    def test_every_pairs_loss_and_its_gradient_by_every_pair_are_right(self, name, hyperparameters):
        for what, (pairs, weights) in BATCHES.items():
            given, leaves = as_batch(pairs, weights)
            values = objective(name, **hyperparameters)(given)
            jacobian = [
                torch.stack(torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True))
                for value in values
            ]
            losses, slopes = batch_losses.evaluate(name, pairs, weights, hyperparameters)
            numbers = (getattr(y, key) for y in pairs for key in ("lw", "ll", "rw", "rl"))
            scale = max(1.0, *map(abs, numbers))
            for got, exact in ((values, losses), (torch.stack(jacobian), slopes)):
                want = torch.tensor(exact, dtype=torch.float64)
                largest = max(1.0, want.abs().max().item())
                message = functools.partial("{1} for the batch {0!r}: {2}".format, what, name)
                torch.testing.assert_close(got, want, rtol=NEGLIGIBLE, atol=NEGLIGIBLE * scale * largest, msg=message)

    @pytest.mark.parametrize("name", sorted(batch_losses.LOSSES))
    @pytest.mark.parametrize("beta", [1e300, 1e-300])
    def test_extreme_betas_give_what_high_precision_gives(self, name, beta):
        pairs, weights = BATCHES["weighted"]
        values = objective(name, beta=beta)(as_batch(pairs, weights)[0])
        want, _ = batch_losses.evaluate(name, pairs, weights, objective(name, beta=beta).hyperparameters)
        for got, exact in zip(values.tolist(), want, strict=True):
            assert got == pytest.approx(exact, rel=NEGLIGIBLE)

    @pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.3, 0.999])
    @pytest.mark.parametrize("outlier", [5.0, 30.0, 1e4])
    def test_the_filter_of_beta_dpo_drops_the_fraction_that_it_is_asked_to_drop(self, rho, outlier):
        margins = torch.tensor([*random_numbers(3, 199), outlier], dtype=torch.float64)
        zeros = torch.zeros_like(margins)
        given = Pairs(Responses(margins, zeros), Responses(zeros, zeros))
        kept = _adaptive.kept_fraction(given, margins, rho)
        assert kept.mean().item() == pytest.approx(1.0 - rho, rel=1e-12)
        assert kept.argmin() == 199

    def test_beta_dpo_without_a_filter_keeps_every_pair_in_full(self):
        given, _ = as_batch(*BATCHES["alike"])
        assert _adaptive.kept_fraction(given, given.chosen.log_ratio, 0.0).tolist() == [1.0] * 5


class HeldFixed:
    """Stands for sg[x]: remembers each x of the first evaluation, and returns it in all later ones."""

    def __init__(self):
        self.values, self.turn = [], None

    def __call__(self, x):
        if self.turn is None:
            self.values.append(x.detach().clone())
            return self.values[-1]
        self.turn += 1
        return self.values[self.turn - 1]

    def where(self, stopped, x):
        return self(x) if stopped else x


@pytest.fixture
def held_fixed(monkeypatch):
    held = HeldFixed()
    for module in (_pointwise, _token_level):
        monkeypatch.setattr(module, "stop_gradient", held)
    for module in (_adaptive, _mutual_information):
        monkeypatch.setattr(module, "stop_gradient_if", held.where)
    monkeypatch.setattr(_adaptive, "sg", held)
    return held


class TestFiniteDifferences:
    """With what is stopped held fixed, every gradient is that of finite differences."""

    @staticmethod
    def of_policy(loss):
        log_ref = torch.tensor(random_numbers(0, 2, 4), dtype=torch.float64).abs().neg()
        length = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 2.0, 1.0, 3.0]], dtype=torch.float64)
        weights = torch.tensor([1.0, 0.5, 2.0, 0.25], dtype=torch.float64)

        def function(*log_pi):
            kl = sum(part.exp().sum() for part in log_pi)  # moves with the policy, as the real one does
            sides = zip(log_pi, log_ref, length, strict=True)
            chosen, rejected = (responses(*parts, mean_kl=kl) for parts in sides)
            return loss(Pairs(chosen, rejected, weights))

        return function, torch.tensor(random_numbers(7, 2, 4), dtype=torch.float64).abs().add(0.05).neg()

    @pytest.mark.parametrize(("name", "options"), every_option(*NAMES))
    def test_gradient_equals_finite_differences(self, name, options, request):
        function, point = self.of_policy(objective(name, **options))
        leaves = [part.clone().requires_grad_() for part in point]
        real = torch.autograd.grad(function(*leaves).sum(), leaves, materialize_grads=True)

        held = request.getfixturevalue("held_fixed")
        function(*leaves)

        def replayed(*log_pi):
            held.turn = 0
            return function(*log_pi)

        assert torch.autograd.gradcheck(replayed, leaves)
        fixed = torch.autograd.grad(replayed(*leaves).sum(), leaves, materialize_grads=True)
        torch.testing.assert_close(real, fixed, rtol=NEGLIGIBLE, atol=NEGLIGIBLE)

    STOPPED = ("kto", "tdpo2", "wpo", "alpha_dpo", "beta_dpo", "rmipo")

    @pytest.mark.parametrize("name", NAMES)
    def test_finite_differences_that_see_through_stopped_gradients_find_another_gradient(self, name):
        function, point = self.of_policy(objective(name))
        leaves = [part.clone().requires_grad_() for part in point]
        agrees = torch.autograd.gradcheck(function, leaves, raise_exception=False)
        assert agrees == (name not in self.STOPPED)
