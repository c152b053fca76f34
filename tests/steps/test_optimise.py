"""Optimisers as nnU-Net and AdamW set them, and the schedules by their formulas."""

from __future__ import annotations

import pytest
import torch

from autoseg.steps.optimise import adamw, constant, cosine, one_cycle, poly, sgd


def weights() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def test_sgd_follows_nesterov() -> None:
    w, rate, momentum, decay = weights(), 0.1, 0.9, 0.01
    optimiser = sgd([w], rate, momentum, decay)
    expected, velocity = w.detach().clone(), torch.zeros(3)
    for _ in range(4):
        optimiser.zero_grad()
        (3 * w).sum().backward()
        optimiser.step()
        gradient = 3 + decay * expected
        velocity = momentum * velocity + gradient
        expected = expected - rate * (gradient + momentum * velocity)
    assert torch.allclose(w.detach(), expected, atol=1e-6)


def test_adamw_first_step_is_the_rate_and_decays_apart_from_the_gradient() -> None:
    w = weights()
    before = w.detach().clone()
    optimiser = adamw([w], rate=0.1, weight_decay=0.5)
    (1000 * w).sum().backward()
    optimiser.step()
    assert torch.allclose(w.detach(), before * (1 - 0.1 * 0.5) - 0.1, atol=1e-6)


def test_defaults() -> None:
    assert {k: sgd([weights()]).defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5,
    }  # fmt: skip
    assert {k: adamw([weights()]).defaults[k] for k in ("lr", "weight_decay")} == {"lr": 1e-3, "weight_decay": 0.01}


@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_poly_falls_to_zero(power: float) -> None:
    schedule = poly(100, power)
    factors = [schedule(step) for step in range(101)]
    assert factors[0] == 1 and factors[100] == 0
    assert factors[50] == pytest.approx(0.5**power)
    assert factors == sorted(factors, reverse=True) and len(set(factors)) == 101


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine_falls_to_its_end(end: float) -> None:
    schedule = cosine(100, end)
    factors = [schedule(step) for step in range(101)]
    assert factors[0] == 1 and factors[100] == pytest.approx(end) and factors[50] == pytest.approx((1 + end) / 2)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("total", [1000, 1001])
def test_one_cycle_is_torchs(total: int) -> None:
    optimiser = torch.optim.SGD([weights()], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=total + 1, cycle_momentum=False)
    schedule = one_cycle(total)
    for step in range(total):
        # torch counts its steps to the peak from one less
        assert schedule(step) == pytest.approx(optimiser.param_groups[0]["lr"], abs=0.01)
        optimiser.step()
        theirs.step()
    assert schedule(0) == pytest.approx(0.04) and max(map(schedule, range(total))) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", [poly, cosine, constant])
def test_a_warm_up_rises_in_equal_steps_and_leaves_the_curve_whole(kind) -> None:
    warm, cold = kind(100, warmup=0.2), kind(80)
    assert [warm(step) for step in range(20)] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert [warm(step) for step in range(20, 100)] == [cold(step) for step in range(80)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(poly, {"warmup": 1}), (cosine, {"end": 2}), (cosine, {"warmup": -0.1}), (one_cycle, {"rise": 0}),
     (one_cycle, {"start": 0})],
)  # fmt: skip
def test_impossible_schedules_are_refused(kind, options) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        kind(100, **options)


def test_constant_is_constant() -> None:
    assert {constant(100)(step) for step in (0, 1, 99, 100)} == {1.0}
