"""The running figure of speed: what disturbs a step or two does not spoil it, and a lasting change is followed."""

from __future__ import annotations

import pytest

from meton_plugins.finetune.engine.speed import WINDOW, Speed


def test_nothing_yet() -> None:
    assert Speed().tokens_per_s == 0


def test_tokens_over_seconds_of_rows_of_any_length() -> None:
    speed = Speed()
    for tokens, seconds in ((10, 1.0), (100, 5.0), (50, 4.0)):
        speed.add(tokens, seconds)
    assert speed.tokens_per_s == pytest.approx(160 / 10)


@pytest.mark.parametrize("at", [0, 1, 9, 19])
def test_a_sleep_of_hours_in_a_step_changes_nothing(at: int) -> None:
    speed = Speed()
    for number in range(20):
        speed.add(100, 36_000.0 if number == at else 1.0)
    assert speed.tokens_per_s == pytest.approx(100)


def test_a_lasting_change_is_followed() -> None:
    speed = Speed()
    for _ in range(WINDOW):
        speed.add(100, 1.0)
    for _ in range(WINDOW):
        speed.add(100, 20.0)
    assert speed.tokens_per_s == pytest.approx(5)


def test_a_step_that_took_no_time_is_no_error() -> None:
    speed = Speed()
    speed.add(10, 0.0)
    assert speed.tokens_per_s > 0
