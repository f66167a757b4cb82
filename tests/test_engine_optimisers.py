"""Optimisers, clipping and schedules against PyTorch's own, run by run and step by step."""

import math

import numpy as np
import pytest
import torch

from didsim.engine._optimisers import OPTIMISERS, SCHEDULES, clip_by_run_

NUM_RUNS, NUM_CLASSES, NUM_STEPS = 5, 7, 60

ROUNDING = 1e-13
"""Relative; both sides do the same dozen float64 operations per step, perhaps in another order: 60 steps of
a few times 2.2e-16."""

TORCH_OPTIMISERS = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}

SPREAD = (1e-12, 1e-6, 1e-3, 1.0, 1e6)
"""One size of gradient per run: the smallest ones make the ε of a denominator count."""


def random_gradients(seed: int) -> torch.Tensor:
    """Gradients of all steps, [S, R, K]; run 2 has some that are exactly zero."""
    draws = np.random.default_rng(seed).standard_normal((NUM_STEPS, NUM_RUNS, NUM_CLASSES))
    gradients = torch.tensor(draws * np.array(SPREAD)[None, :, None])
    gradients[::3, 2] = 0.0
    return gradients


def random_logits(seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((NUM_RUNS, NUM_CLASSES)))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=ROUNDING, atol=ROUNDING)


def test_every_optimiser_has_a_counterpart_in_pytorch():
    assert set(OPTIMISERS) == set(TORCH_OPTIMISERS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_takes_the_steps_of_its_pytorch_counterpart(name):
    logits, gradients = random_logits(0), random_gradients(1)
    ours = OPTIMISERS[name](logits)
    alone = [torch.nn.Parameter(row.clone()) for row in logits]
    theirs = [TORCH_OPTIMISERS[name]([parameter], lr=1.0) for parameter in alone]
    for step, gradient in enumerate(gradients):
        learning_rate = 0.01 * (1.0 + 0.9 * math.sin(step))
        ours.update(logits, gradient.clone(), learning_rate)
        for optimiser, parameter, row in zip(theirs, alone, gradient, strict=True):
            optimiser.param_groups[0]["lr"] = learning_rate
            parameter.grad = row.clone()
            optimiser.step()
        assert_close(logits, torch.stack([parameter.detach() for parameter in alone]))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_run_is_moved_as_if_the_others_were_not_there(name):
    gradients = random_gradients(2)
    together, alone = random_logits(3), random_logits(3)[3:4].clone()
    batch, single = OPTIMISERS[name](together), OPTIMISERS[name](alone)
    for gradient in gradients:
        batch.update(together, gradient.clone(), 0.05)
        single.update(alone, gradient[3:4].clone(), 0.05)
    np.testing.assert_array_equal(together[3:4].numpy(), alone.numpy())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_gradient_that_is_always_zero_moves_nothing(name):
    logits = random_logits(4)
    before = logits.clone()
    optimiser = OPTIMISERS[name](logits)
    for _ in range(5):
        optimiser.update(logits, torch.zeros_like(logits), 0.1)
    np.testing.assert_array_equal(logits.numpy(), before.numpy())


@pytest.mark.parametrize("max_norm", [1e-9, 0.3, 1.0, 50.0])
def test_clipping_equals_that_of_pytorch_for_each_run(max_norm):
    for gradient in random_gradients(5):
        expected = []
        for row in gradient:
            parameter = torch.nn.Parameter(torch.zeros_like(row))
            parameter.grad = row.clone()
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
            expected.append(parameter.grad)
        clipped = gradient.clone()
        clip_by_run_(clipped, max_norm)
        np.testing.assert_allclose(clipped.numpy(), torch.stack(expected).numpy(), rtol=ROUNDING, atol=0.0)


def test_clipping_leaves_a_small_gradient_exactly_as_it_is():
    gradient = torch.full((2, 4), 0.25, dtype=torch.float64)
    gradient[1] *= 100.0
    before = gradient.clone()
    clip_by_run_(gradient, 1.0)
    np.testing.assert_array_equal(gradient[0].numpy(), before[0].numpy())
    assert float(gradient[1].norm()) == pytest.approx(1.0, rel=1e-6)  # the 1e-6 that PyTorch adds to the norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_of_rmsprop_is_ten_learning_rates_long(dtype):
    """v = 0.01 g², hence g/√v = ±10 whatever the size of the gradient."""
    logits = torch.zeros(1, 3, dtype=dtype)
    OPTIMISERS["rmsprop"](logits).update(logits, torch.tensor([[2.0, -3.0, 500.0]], dtype=dtype), 1e-3)
    np.testing.assert_allclose(logits.numpy(), [[-1e-2, 1e-2, -1e-2]], rtol=1e-6)  # float32 has 1.2e-7


def test_schedules_start_at_the_full_rate_and_go_where_they_say():
    progress = np.linspace(0.0, 1.0, 11)
    closed_forms = {
        "constant": np.ones(11),
        "linear": 1.0 - progress,
        "cosine": np.cos(np.pi * progress / 2.0) ** 2,  # = (1 + cos πp)/2
    }
    assert set(SCHEDULES) == set(closed_forms)
    for name, expected in closed_forms.items():
        factors = [SCHEDULES[name](float(p)) for p in progress]
        np.testing.assert_allclose(factors, expected, rtol=0.0, atol=ROUNDING)


def test_the_cosine_schedule_is_that_of_pytorch():
    steps = 40
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    for step in range(steps):
        assert SCHEDULES["cosine"](step / steps) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()
