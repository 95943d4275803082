"""Roundings chosen by activations: on every grid closer than chance, where only quants move, and always the same."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from test_grid import COLUMNS, ROWS, numbers, random_rows, step_of, uniform

from meton_plugins.finetune.gguf.grid import FLOATS, GRIDS, Numbers, move
from meton_plugins.finetune.gguf.rounding import COARSE, can_choose, choose, emphasized

TOKENS = 96


def activations(seed: int = 0) -> Numbers:
    """As of a model: some directions and columns carry most, and one column is never used."""
    random = np.random.default_rng(seed)
    inner = random.standard_normal((TOKENS, 24)) * np.geomspace(3, 0.1, 24)
    inputs = inner @ random.standard_normal((24, COLUMNS)) + 0.3 * random.standard_normal((TOKENS, COLUMNS))
    inputs *= np.geomspace(2, 0.1, COLUMNS)
    inputs[:, 7] = 0
    return np.asarray(inputs, np.float32)


def factor() -> Numbers:
    """A of `low_rank`."""
    random = np.random.default_rng(3)
    random.standard_normal((ROWS, 4))
    return np.asarray(random.standard_normal((4, COLUMNS)), np.float32)


def low_rank(name: str, rows: object, size: float) -> Numbers:
    """A change as a LoRA makes one, of so many steps in the root mean square."""
    random = np.random.default_rng(3)
    change = random.standard_normal((ROWS, 4)) @ random.standard_normal((4, COLUMNS))
    return np.asarray(change * size * step_of(name, rows) / np.sqrt(np.mean(change**2)), np.float32)


def error(name: str, new: object, rows: object, change: Numbers, inputs: Numbers) -> float:
    """What is missing in the answers, or too much, beside what the change adds to them."""
    moved = numbers(name, new) - numbers(name, rows)
    return float(np.linalg.norm((moved - change) @ inputs.T) / np.linalg.norm(change @ inputs.T))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", [0.02, 0.2])
def test_answers_are_nearer_than_by_chance(name: str, size: float) -> None:
    kind, rows, inputs = GGMLQuantizationType[name], random_rows(name), activations()
    change = low_rank(name, rows, size)
    chosen = choose(kind, rows, change, inputs, uniform())
    by_chance, tally = move(kind, rows, change, uniform())
    found = error(name, chosen.rows, rows, change, inputs)
    assert found < (1.2 if size < 0.1 else 0.3)
    assert found < error(name, by_chance, rows, change, inputs) / 4
    assert (chosen.left / chosen.answers) ** 0.5 == pytest.approx(found, rel=0.01)
    assert chosen.tally == pytest.approx(tally, rel=1e-4)
    if name in COARSE:  # else by chance
        np.testing.assert_array_equal(numbers(name, chosen.rows)[:, 7], numbers(name, rows)[:, 7])


@pytest.mark.parametrize("name", GRIDS)
def test_the_change_keeps_its_strength_in_the_directions_that_the_adapter_reads(name: str) -> None:
    kind, rows, inputs = GGMLQuantizationType[name], random_rows(name), activations()
    change, a = low_rank(name, rows, 0.02), factor()
    trained = inputs[:64]
    wanted = change @ trained.T

    def strength(looked: Numbers) -> float:
        moved = numbers(name, choose(kind, rows, change, looked, uniform()).rows) - numbers(name, rows)
        return float(np.vdot(moved @ trained.T, wanted) / np.vdot(wanted, wanted))

    found = strength(emphasized(kind, inputs, len(trained), a))
    assert found == pytest.approx(1, abs=0.1)
    if name in COARSE:
        assert abs(found - 1) < abs(strength(inputs) - 1)


@pytest.mark.parametrize("name", ["Q4_1", "Q5_0"])
def test_fewer_rows_stand_for_many_activations(name: str) -> None:
    kind = GGMLQuantizationType[name]
    inputs = np.concatenate([activations(seed) for seed in range(12)])[:, :256]
    a = factor()[:, :256]
    looked = emphasized(kind, inputs, len(inputs), a)
    assert len(inputs) > 4 * 256 >= 4 * len(looked)
    some = emphasized(kind, inputs[:200], 200, a)
    assert len(some) > 200
    # The same sums of squares as all of them, and more in what the adapter sees.
    more = looked.T @ looked - inputs.T @ inputs
    assert np.linalg.eigvalsh(more).min() > -1e-3 * np.abs(more).max()


def test_a_column_with_massive_activations_does_not_stand_for_all_that_is_unseen() -> None:
    inputs = activations()
    inputs[:, 3] *= 1e4
    inputs[:, 7] = 0
    looked = emphasized(GGMLQuantizationType.Q4_1, inputs, len(inputs), factor())[-4:]
    sizes = np.abs(looked).max(0)
    assert np.isfinite(looked).all()
    assert sizes[3] < 100 * np.median(sizes)
    assert sizes[7] == 0


@pytest.mark.parametrize("name", GRIDS)
def test_nothing_but_quants_moves_and_nothing_without_a_change(name: str) -> None:
    kind, rows, grid = GGMLQuantizationType[name], random_rows(name), GRIDS[name]
    same = choose(kind, rows, np.zeros((ROWS, COLUMNS), np.float32), activations(), uniform())
    np.testing.assert_array_equal(same.rows, rows)
    assert (same.answers, same.left) == (0, 0)
    new = choose(kind, rows, low_rank(name, rows, 0.5), activations(), uniform()).rows
    assert (new != rows).any()
    # The old quants in the new blocks: all else is as it was.
    old = grid.codes(rows.reshape(-1, grid.block_bytes))
    back = grid.with_codes(new.reshape(-1, grid.block_bytes), old)
    np.testing.assert_array_equal(back.reshape(rows.shape), rows)


def test_rows_do_not_depend_on_each_other() -> None:
    kind, rows = GGMLQuantizationType.Q4_K, random_rows("Q4_K")
    change, inputs = low_rank("Q4_K", rows, 0.2), activations()
    whole = choose(kind, rows, change, inputs, uniform()).rows
    parts = [
        choose(kind, rows[part], change[part], inputs, uniform()[part]).rows for part in (slice(0, 10), slice(10, ROWS))
    ]
    assert np.mean(np.concatenate(parts) != whole) < 1e-3  # but for what the last bits of a product decide
    np.testing.assert_array_equal(choose(kind, rows, change, inputs, uniform()).rows, whole)


def test_a_change_past_the_ends_stays_on_the_grid_and_is_counted() -> None:
    kind, rows = GGMLQuantizationType.Q4_1, random_rows("Q4_1")
    change = np.full((ROWS, COLUMNS), 40 * step_of("Q4_1", rows), np.float32)
    chosen = choose(kind, rows, change, activations(), uniform())
    assert chosen.tally.lost > chosen.tally.changes / 2
    assert np.isfinite(numbers("Q4_1", chosen.rows)).all()


def test_floats_go_by_chance() -> None:
    assert not any(can_choose(GGMLQuantizationType[name]) for name in FLOATS)
