"""bf16: what rounding does, what oneDNN makes of it, and that a training in it is the same training.

Where the CPU does not multiply bf16, NumPy does it here on numbers that were rounded alike.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import BaseMaker
from support.passes import (
    ADAPTER,
    check_same_bits,
    check_slopes,
    check_twenty_steps,
    first,
    own,
    row_of,
    theirs,
    with_uneven_norms,
)

from meton_plugins.finetune.engine import accelerated
from meton_plugins.finetune.engine import autotune as autotune_module
from meton_plugins.finetune.engine.autotune import Wishes, autotune
from meton_plugins.finetune.engine.compute import ComputeConfig, multiplies_bf16
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.trainer_factory import open_trainer
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.graph import bf16 as numbers
from meton_plugins.finetune.graph import check, onednn
from meton_plugins.finetune.graph.bf16 import rounded, widened
from meton_plugins.finetune.graph.blas import Array, Blas
from meton_plugins.finetune.graph.head import Head
from meton_plugins.finetune.graph.onednn import OneDnn
from meton_plugins.finetune.graph.shape import Unsupported
from meton_plugins.finetune.graph.team import Team
from meton_plugins.finetune.graph.weights import Stored, Weights


def nearest(number: float) -> int:
    """The bits of the nearest bf16, the even one of two, by exact arithmetic."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    below, rest = bits >> 16, bits & 0xFFFF
    return below + (rest > 0x8000 or (rest == 0x8000 and below & 1))


def test_rounding_is_to_the_nearest() -> None:
    random = np.random.default_rng(1)
    numbers = np.concatenate([
        random.normal(size=4000) * 10.0 ** random.integers(-30, 30, 4000),
        random.integers(-2048, 2048, 4000) / 1024,  # as of F16: many lie in the middle
        [0.0, -0.0, 1.0, math.inf, -math.inf, 3.3895e38, 1e-40, -1e-45],
    ]).astype(np.float32)  # fmt: skip
    expected = np.array([nearest(float(number)) for number in numbers], np.uint16)
    assert np.array_equal(rounded(numbers[None])[0], expected)
    assert np.array_equal(rounded(numbers[:, None])[:, 0], expected)
    back = widened(expected)[:8000]
    assert np.all(np.abs(back - numbers[:8000]) <= 2.0**-8 * np.abs(numbers[:8000]))
    assert math.isnan(float(widened(rounded(np.full((1, 1), np.nan, np.float32)))[0, 0]))


def test_rounding_in_pieces_and_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x: Array = np.random.default_rng(2).normal(size=(37, 50)).astype(np.float32)
    expected = rounded(x)
    monkeypatch.setattr(numbers, "PIECE", 7)
    assert np.array_equal(rounded(x), expected)
    out = np.zeros((37, 60), np.uint16)
    rounded(x[:, 10:30], out[:, 5:25])
    assert np.array_equal(out[:, 5:25], expected[:, 10:30])
    assert not out[:, :5].any()
    assert not out[:, 25:].any()


@pytest.fixture
def products(engine: Engine) -> Path:
    """oneDNN's library."""
    if engine.products_path is None:
        pytest.skip("oneDNN is not installed: setup could not fetch it.")
    return engine.products_path


@pytest.mark.parametrize("by", ["cpu", "numpy"])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 40, 3), (37, 1, 5), (200, 90, 130), (5, 0, 4)])
def test_products_of_bf16(request: pytest.FixtureRequest, size: tuple[int, int, int], by: str) -> None:
    if by == "cpu":
        if not multiplies_bf16():
            pytest.skip("This CPU does not multiply bf16.")
        blas = Blas(request.getfixturevalue("products"), bf16=True)
        assert blas.bf16
    else:
        blas = Blas()
    random = np.random.default_rng(7)
    rows, inner, columns = size
    for turned in range(4):
        a: Array = random.normal(size=(rows, inner + 3)).astype(np.float32)[:, 2:-1]
        b: Array = random.normal(size=(inner, columns + 2)).astype(np.float32)[:, 1:-1]
        a = np.asfortranarray(a) if turned & 1 else a
        b = np.asfortranarray(b) if turned & 2 else b
        expected = widened(rounded(a)).astype(np.float64) @ widened(rounded(b))
        out = np.ones((rows, columns + 2), np.float32)
        # One of the two is enough.
        blas.product(rounded(a), b, out[:, 1:-1], scale=0.5)
        assert np.allclose(out[:, 1:-1], expected / 2, atol=1e-4)
        blas.product(a, rounded(b), out[:, 1:-1], add=True)
        assert np.allclose(out[:, 1:-1], expected * 1.5, atol=1e-4)
        assert np.all(out[:, [0, -1]] == 1)


def test_onednn_multiplies_by_itself_in_each_thread(products: Path) -> None:
    library = OneDnn(products)
    assert library.version == "3.2.0"
    assert (library.bf16 is not None) is multiplies_bf16()


@pytest.mark.parametrize("case", ["missing", "junk", "another library", "wrong"])
def test_a_onednn_that_does_not_work_is_not_used(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    path = tmp_path / "libdnnl.so.3"
    if case == "junk":
        path.write_bytes(b"\x7fELF, but no more")
    elif case == "another library":
        shutil.copy(request.getfixturevalue("engine").backend_path, path)
    elif case == "wrong":
        path = request.getfixturevalue("products")
        monkeypatch.setattr(onednn, "CLOSE", 0.0)
    with pytest.raises(OSError, match=r"."):
        OneDnn(path)
    assert Blas(path).name.startswith("openblas")
    with pytest.raises(Unsupported, match=r"^openblas .* does not multiply bf16 here"):
        Blas(path, bf16=True)


@pytest.mark.parametrize("spread", [1.0, 1.5, 2.0])
def test_the_gradient_of_what_is_nearly_certain(spread: float) -> None:
    """There the right token's row of W and the mean of all rows nearly cancel."""
    random = np.random.default_rng(4)
    weight: Array = random.normal(size=(300, 64)).astype(np.float32)
    targets = random.integers(0, 300, 40)
    x: Array = (spread * weight[targets] / 8).astype(np.float32)
    blas = Blas()
    blas.bf16 = True
    team = Team(blas, 1)
    stored = Stored(weight.ctypes.data, 300, 64, weight.strides[0], None)
    dx = np.empty_like(x)
    losses = Head("output.weight", Weights({"output.weight": stored}, team), team).losses(x, targets, dx)
    scores = x.astype(np.float64) @ weight.T
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    right = chances[np.arange(40), targets]
    assert losses == pytest.approx(-np.log(right), rel=0.2, abs=1e-6)
    chances[np.arange(40), targets] -= 1
    expected = chances @ weight
    assert np.all(np.linalg.norm(dx - expected, axis=1) <= 0.05 * np.linalg.norm(expected, axis=1) + 1e-5)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our pass is in bf16, also where the CPU does not multiply it."""

    class Bf16(Blas):
        def __init__(self, path: Path | None = None, *, bf16: bool = False) -> None:
            super().__init__(path)
            self.bf16 = bf16

    monkeypatch.setattr(accelerated, "Blas", Bf16)


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_library_says_the_same(
    library: Library, base: BaseMaker, bf16: None, architecture: str, kind: str
) -> None:  # fmt: skip
    path = with_uneven_norms(base(architecture, kind=kind, tied=architecture == "qwen2"))
    row = row_of(40, 200)
    with theirs(library, path) as trainer:
        loss, gradients = trainer.gradients(*first(row))
    with own(library, path, bf16=True) as trainer:
        assert trainer.bf16
        found, mine = trainer.gradients(*first(row))
        assert trainer.loss(*first(row)) == pytest.approx(found, rel=1e-6)
    assert found == pytest.approx(loss, rel=2e-3 if kind in ("f32", "f16") else 5e-3)
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert np.abs(mine[name] - gradient).max() <= 0.1 * np.abs(gradient).max(), name


# The first two only where it is asked for: `engine.compute.bf16_allowed`.
@pytest.mark.parametrize(("kind", "close"), [("f32", 4e-3), ("f16", 4e-3), ("q8_0", 5e-3), ("q4_k_m", 5e-3)])
def test_twenty_steps_are_the_same_training(
    library: Library, base: BaseMaker, bf16: None, kind: str, close: float
) -> None:  # fmt: skip
    check_twenty_steps(library, base("qwen3", kind=kind), ComputeConfig(precision="bf16", weights="unpacked"), close)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_gradient_is_the_slope_of_the_loss(
    library: Library, base: BaseMaker, bf16: None, architecture: str
) -> None:  # fmt: skip
    """Of the loss in F32, whose slope does not go up and down in small steps."""
    path = with_uneven_norms(base(architecture))
    row = row_of(21, 200)
    with own(library, path, bf16=True) as trainer:
        _, gradients = trainer.gradients(*first(row))
    with own(library, path) as trainer:
        check_slopes(trainer, row, gradients, 0.03)


def test_the_same_bits_each_time_packed_or_unpacked(library: Library, base: BaseMaker, bf16: None) -> None:
    check_same_bits(library, base("qwen3", kind="q4_k_m"), bf16=True)


@pytest.mark.parametrize("limit", ["COSINE", "LIMITS"])
def test_where_bf16_is_too_coarse_f32_goes_on(
    library: Library, base: BaseMaker, bf16: None, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    impossible = {
        "COSINE": 1.1,
        "LIMITS": {**check.LIMITS, "bf16": dataclasses.replace(check.LIMITS["bf16"], layer=0.0)},
    }
    monkeypatch.setattr(check, limit, impossible[limit])
    monkeypatch.setattr(autotune_module, "bf16_allowed", lambda *_: True)
    path = base("qwen3")
    with Model(library, path) as model:
        wishes = Wishes(accelerate=True, precision="bf16", weights="unpacked", threads=1, cores=1)
        compute = autotune(model, path, inspect(path), [row_of(30, model.size)], ADAPTER, wishes, 1e4)
    assert (compute.trainer, compute.precision, compute.weights) == ("own", "f32", "unpacked")
    (note,) = compute.notes
    assert note.startswith("the base's weights are multiplied in F32, because ")


def test_the_log_says_in_which_numbers(
    library: Library, base: BaseMaker, bf16: None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = base("qwen2", kind="q8_0")
    lines: list[str] = []
    for precision in ("bf16", "f32"):
        compute = ComputeConfig.model_validate({"precision": precision})
        with Model(library, path) as model, open_trainer(model, path, 10, ADAPTER, compute):
            pass
        lines += [line for line in capfd.readouterr().err.splitlines() if line.startswith("own pass: ")]
    assert [", bf16, " in line for line in lines] == [True, False]
    assert ", f32, " in lines[1]
