"""The grids of quantized tensors: every type decodes as gguf says, stays byte for byte, and moves as far as asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from meton_plugins.finetune.gguf.grid import FLOATS, GRIDS, has_grid, move, random_numbers

ROWS, COLUMNS = 24, 512
KINDS = [*GRIDS, *FLOATS]


def random_rows(name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Rows of random quants with scales of about one size, and some of them 0."""
    random = np.random.default_rng(seed)
    kind = GGMLQuantizationType[name]
    weights, size = GGML_QUANT_SIZES[kind]
    if name == "F32":
        return random.standard_normal((ROWS, COLUMNS)).astype(np.float32).view(np.uint8)
    if name == "F16":
        return random.standard_normal((ROWS, COLUMNS)).astype(np.float16).view(np.uint8)
    if name == "BF16":
        bits = random.standard_normal((ROWS, COLUMNS)).astype(np.float32).view(np.uint32)
        return (bits >> np.uint32(16)).astype(np.uint16).view(np.uint8)
    blocks = random.integers(0, 256, (ROWS * COLUMNS // weights, size), np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = random.integers(118, 124, len(blocks))
    else:
        halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}
        halves |= dict.fromkeys(("Q4_K", "Q5_K"), (0, 2))
        for offset in halves.get(name, (0,)):
            scale = random.uniform(0.01, 0.02, (len(blocks), 1)) * random.choice([-1, 1], (len(blocks), 1))
            blocks[:, offset : offset + 2] = scale.astype("<f2").view(np.uint8)
    return blocks.reshape(ROWS, -1)


def numbers(name: str, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(dequantize(rows, GGMLQuantizationType[name]), np.float32).reshape(ROWS, COLUMNS)


def uniform(rows: int = ROWS) -> npt.NDArray[np.float32]:
    return random_numbers(1, "blk.0.attn_q.weight", 0, rows, COLUMNS)


def step_of(name: str, rows: npt.NDArray[np.uint8]) -> float:
    """The mean distance of two levels."""
    _, tally = move(GGMLQuantizationType[name], rows, np.zeros((ROWS, COLUMNS), np.float32), uniform())
    return tally.steps / tally.weights


@pytest.mark.parametrize("name", KINDS)
def test_no_change_leaves_every_byte(name: str) -> None:
    rows = random_rows(name)
    assert has_grid(GGMLQuantizationType[name])
    same, tally = move(GGMLQuantizationType[name], rows, np.zeros((ROWS, COLUMNS), np.float32), uniform())
    np.testing.assert_array_equal(same, rows)
    assert (tally.weights, tally.squares, tally.changes, tally.lost) == (ROWS * COLUMNS, 0, 0, 0)


@pytest.mark.parametrize("name", GRIDS)
def test_levels_and_scales_are_those_of_gguf(name: str) -> None:
    """Quants set to any code: between two codes, the numbers of gguf differ by the scale times the levels."""
    grid, rows = GRIDS[name], random_rows(name)
    blocks = rows.reshape(-1, grid.block_bytes)
    codes = grid.codes(blocks)
    np.testing.assert_array_equal(grid.with_codes(blocks, codes), blocks)
    other = np.random.default_rng(5).integers(0, grid.highest + 1, codes.shape).astype(np.uint8)
    written = grid.with_codes(blocks, other)
    np.testing.assert_array_equal(grid.codes(written), other)
    levels = np.array(grid.levels or range(-grid.zero, grid.highest + 1 - grid.zero), np.float32)
    scales = np.repeat(grid.scales(blocks), grid.size // grid.scales(blocks).shape[1], 1)
    expected = scales * (levels[other] - levels[codes])
    difference = numbers(name, written.reshape(rows.shape)) - numbers(name, rows)
    np.testing.assert_allclose(difference, expected.reshape(difference.shape), rtol=1e-5, atol=1e-5)
    if name not in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"):  # the types without a minimum
        np.testing.assert_array_equal(numbers(name, rows), (scales * levels[codes]).reshape(ROWS, COLUMNS))


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind != "F32"])
@pytest.mark.parametrize("size", [0.02, 0.2])
def test_a_small_change_is_there_in_the_mean(name: str, size: float) -> None:
    rows = random_rows(name)
    change = np.full((ROWS, COLUMNS), size * step_of(name, rows), np.float32)
    total, rounds = np.zeros_like(change, np.float64), 40
    for seed in range(rounds):
        random = random_numbers(seed, name, 0, ROWS, COLUMNS)
        written, tally = move(GGMLQuantizationType[name], rows, change, random)
        total += numbers(name, written) - numbers(name, rows)
    kept, lost = total.sum() / (rounds * change.sum(dtype=np.float64)), tally.lost / tally.changes
    # What does not fit is made up for by the other quants of its block, unless most of these lie at its ends too.
    few = 0.1 if name in ("Q2_K", "Q3_K") else 0.02
    assert kept == pytest.approx(1, abs=few if size == 0.2 else max(few, 0.06))
    # Of random Q2_K quants each fourth lies at the end that it would pass, of Q8_0 one in 256.
    assert lost < {"Q2_K": 0.35, "Q3_K": 0.18}.get(name, 0.09)
    nearest, _ = move(GGMLQuantizationType[name], rows, change, np.full_like(change, 0.5))
    if name not in FLOATS and not GRIDS[name].levels:
        share = (numbers(name, nearest) - numbers(name, rows)).sum() / change.sum(dtype=np.float64)
        assert share < 0.6, "the nearest value loses what is smaller than half a step"


@pytest.mark.parametrize("name", KINDS)
def test_a_large_change_goes_to_the_ends_and_is_counted(name: str) -> None:
    rows = random_rows(name)
    change = np.where(np.arange(COLUMNS) % 2, -1e4, 1e4).astype(np.float32) * np.ones((ROWS, 1), np.float32)
    written, tally = move(GGMLQuantizationType[name], rows, change, uniform())
    assert np.isfinite(numbers(name, written)).all()
    if name in FLOATS:
        np.testing.assert_allclose(numbers(name, written), numbers(name, rows) + change, rtol=2**-7)
        assert tally.lost == 0
    else:
        assert tally.lost / tally.changes > 0.99


@pytest.mark.parametrize("name", GRIDS)
def test_blocks_of_scale_zero_stay_and_are_counted(name: str) -> None:
    rows = random_rows(name)
    if name == "MXFP4":
        pytest.skip("its scales are powers of two, none of them 0")
    blocks = rows.reshape(-1, GRIDS[name].block_bytes)
    at = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}.get(name, 0)
    blocks[: len(blocks) // 2, at : at + 2] = 0
    change = np.full((ROWS, COLUMNS), 1e-4, np.float32)
    written, tally = move(GGMLQuantizationType[name], rows, change, uniform())
    np.testing.assert_array_equal(written[: ROWS // 2], rows[: ROWS // 2])
    assert (written[ROWS // 2 :] != rows[ROWS // 2 :]).any()
    assert tally.lost / tally.changes >= 0.5


@pytest.mark.parametrize("name", KINDS)
def test_any_split_gives_the_same_bytes(name: str) -> None:
    rows, kind = random_rows(name), GGMLQuantizationType[name]
    change = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.003)
    whole, _ = move(kind, rows, change, random_numbers(3, "x", 0, ROWS, COLUMNS))
    for cut in (1, 7, 23):
        parts = [
            move(kind, rows[a:b], change[a:b], random_numbers(3, "x", a, b - a, COLUMNS))[0]
            for a, b in ((0, cut), (cut, ROWS))
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    other, _ = move(kind, rows, change, random_numbers(4, "x", 0, ROWS, COLUMNS))
    assert name == "F32" or (other != whole).any()


def test_random_numbers_are_even_and_differ_by_name() -> None:
    one = random_numbers(0, "a", 0, 1000, 37)
    assert one.min() >= 0
    assert one.max() < 1
    counts = np.histogram(one, 10, (0, 1))[0] / one.size
    assert np.abs(counts - 0.1).max() < 0.01
    assert (random_numbers(0, "b", 0, 1000, 37) != one).mean() > 0.99
    assert (random_numbers(0, "a", 1, 999, 37) == one[1:]).all()


def test_a_signed_byte_gets_no_new_lowest_value() -> None:
    rows = random_rows("Q8_0")
    codes = GRIDS["Q8_0"].codes(rows.reshape(-1, 34)).reshape(ROWS, COLUMNS)
    change = np.full((ROWS, COLUMNS), -100, np.float32)
    scales = np.repeat(GRIDS["Q8_0"].scales(rows.reshape(-1, 34)), 32, 1).reshape(ROWS, COLUMNS)
    written, _ = move(GGMLQuantizationType.Q8_0, rows, change, uniform())
    after = GRIDS["Q8_0"].codes(written.reshape(-1, 34)).reshape(ROWS, COLUMNS)
    assert ((after == 0) <= (codes == 0)).all()
    assert (after[scales > 0] <= 1).all()
    assert (after[scales < 0] == 255).all()
