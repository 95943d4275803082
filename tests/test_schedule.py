"""The learning rate of each step and the order of rows: functions of the settings alone, so that a resume is exact."""

from __future__ import annotations

import math

import pytest

from meton_plugins.finetune.engine.schedule import FLOOR, learning_rate, order


def rates(total: int, warmup: float, peak: float = 1.0) -> list[float]:
    return [learning_rate(step, total, peak, warmup) for step in range(total)]


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_rates_are_positive_and_at_most_the_peak(total: int, warmup: float) -> None:
    # A rate of 0 would make a step that does nothing.
    assert all(0 < rate <= 2e-4 for rate in rates(total, warmup, 2e-4))


def test_warmup_rises_in_even_steps_to_the_peak() -> None:
    made = rates(100, 0.1)
    assert made[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert made[10] == 1.0
    assert max(made) == 1.0


def test_cosine_falls_to_a_tenth() -> None:
    made = rates(101, 0.0)
    assert made[0] == 1.0
    assert made[50] == pytest.approx((1 + FLOOR) / 2)
    assert made[25] == pytest.approx(FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi / 4)) / 2)
    assert made[100] == pytest.approx(0.1)
    assert made == sorted(made, reverse=True)


def test_steps_after_the_end_stay_at_the_floor() -> None:
    assert learning_rate(500, 100, 1.0, 0.1) == pytest.approx(FLOOR)


@pytest.mark.parametrize("warmup", [0.0, 0.05], ids=["none", "some"])
def test_one_step_is_at_the_peak(warmup: float) -> None:
    assert rates(1, warmup) == [1.0]


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_every_row_once_an_epoch(rows: int) -> None:
    for epoch in range(3):
        assert sorted(order(rows, 42, epoch)) == list(range(rows))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert list(order(50, 42, 3)) == list(order(50, 42, 3))
    assert list(order(50, 42, 3)) != list(order(50, 42, 4))
    assert list(order(50, 42, 3)) != list(order(50, 43, 3))


def test_order_is_the_same_on_every_machine() -> None:
    # A run goes on elsewhere, with another NumPy, in the same order.
    assert order(8, 42, 0).tolist() == [4, 1, 3, 6, 0, 7, 2, 5]
