"""AdamW and accumulation against float64 NumPy, written from the paper: Loshchilov and Hutter (2019), algorithm 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import BaseMaker
from support.reference import Reference

from meton_plugins.finetune.engine.adamw import AdamW, mean_gradient
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model

Array32 = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
SHAPES = {"a": 96, "b": 33, "c": 1}


class Paper:
    """Algorithm 2, with the gradient scaled down to `max_norm` first; float64."""

    def __init__(self, weights: dict[str, Array32], weight_decay: float, max_norm: float) -> None:
        self.theta = {name: values.astype(np.float64) for name, values in weights.items()}
        self.m = {name: np.zeros(values.size) for name, values in weights.items()}
        self.v = {name: np.zeros(values.size) for name, values in weights.items()}
        self.decay, self.max_norm, self.t = weight_decay, max_norm, 0

    def step(self, rows: list[tuple[int, dict[str, Array32]]], rate: float) -> None:
        """Lines 4 to 12; the gradient is that of the mean over all tokens of all rows."""
        self.t += 1
        tokens = sum(count for count, _ in rows)
        g = {
            name: np.sum([count * grads[name].astype(np.float64) for count, grads in rows], axis=0) / tokens
            for name in self.theta
        }
        norm = float(np.linalg.norm(np.concatenate(list(g.values()))))
        if self.max_norm and norm > self.max_norm:
            g = {name: values * self.max_norm / norm for name, values in g.items()}
        for name, theta in self.theta.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g[name]
            self.v[name] = 0.999 * self.v[name] + 0.001 * g[name] ** 2
            m_hat = self.m[name] / (1 - 0.9**self.t)
            v_hat = self.v[name] / (1 - 0.999**self.t)
            self.theta[name] = theta - rate * (m_hat / (np.sqrt(v_hat) + 1e-8) + self.decay * theta)


def random_rows(random: np.random.Generator, count: int, size: float = 1.0) -> list[tuple[int, dict[str, Array32]]]:
    """Rows of different numbers of tokens and their gradients."""
    return [
        (
            int(random.integers(1, 200)),
            {name: (size * random.standard_normal(n)).astype(np.float32) for name, n in SHAPES.items()},
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("rows", [1, 4, 8])
@pytest.mark.parametrize(
    ("weight_decay", "max_norm"),
    [(0.0, 0.0), (0.1, 0.0), (0.1, 1.0), (0.01, 1e6)],
    ids=["plain", "decay", "decay-and-clipping", "clipping-that-never-clips"],
)
def test_steps_are_the_papers(rows: int, weight_decay: float, max_norm: float) -> None:
    # Measured: within 4e-7 of the largest weight after 20 steps.
    random = np.random.default_rng(rows)
    weights = {name: random.standard_normal(n).astype(np.float32) for name, n in SHAPES.items()}
    kept = dict(weights)
    paper = Paper(weights, weight_decay, max_norm)
    optimizer = AdamW(weight_decay=weight_decay, max_norm=max_norm)
    for step in range(20):
        rate = 0.05 / (1 + step)
        batch = random_rows(random, rows, size=2.0 if step % 2 else 0.01)
        optimizer.step(weights, mean_gradient(batch), rate)
        paper.step(batch, rate)
    for name, values in weights.items():
        assert values is kept[name]  # in place: these are the engine's own weights
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, paper.theta[name], rtol=0, atol=2e-6)


def test_parts_matter() -> None:
    # Each of what the comparison above is about changes the result, so that it could fail.
    def after(**options: Any) -> Array32:
        random = np.random.default_rng(0)
        weights = {name: random.standard_normal(n).astype(np.float32) for name, n in SHAPES.items()}
        optimizer = AdamW(**options)
        for _ in range(5):
            optimizer.step(weights, mean_gradient(random_rows(random, 4)), 0.05)
        return weights["a"]

    plain = after(weight_decay=0.0, max_norm=0.0)
    assert np.abs(after(weight_decay=0.1, max_norm=0.0) - plain).max() > 1e-3
    # Adam does not care how long gradients are, but for epsilon; clipping some steps and not others it would notice.
    assert np.abs(after(weight_decay=0.0, max_norm=0.0, beta1=0.5) - plain).max() > 1e-3


@pytest.mark.parametrize(("size", "max_norm"), [(3.0, 1.0), (1e-3, 1.0), (3.0, 0.0)], ids=["clips", "leaves", "off"])
def test_norm_is_reported_before_clipping(size: float, max_norm: float) -> None:
    weights = {"a": np.ones(4, dtype=np.float32)}
    gradient = {"a": np.full(4, size / 2, dtype=np.float32)}
    optimizer = AdamW(max_norm=max_norm, weight_decay=0)
    assert optimizer.step(weights, gradient, 0.1) == pytest.approx(size, rel=1e-6)
    scale = min(1.0, max_norm / size) if max_norm else 1.0
    np.testing.assert_allclose(optimizer.first["a"], 0.1 * scale * size / 2, rtol=1e-5)


def test_zero_gradient_is_no_division_by_zero() -> None:
    weights = {"a": np.ones(4, dtype=np.float32)}
    assert AdamW(weight_decay=0.5).step(weights, {"a": np.zeros(4, dtype=np.float32)}, 0.1) == 0
    np.testing.assert_allclose(weights["a"], 0.95, rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradient_that_is_no_number_changes_nothing(bad: float) -> None:
    weights = {"a": np.ones(4, dtype=np.float32), "b": np.ones(4, dtype=np.float32)}
    optimizer = AdamW()
    gradient = {"a": np.ones(4, dtype=np.float32), "b": np.array([1, bad, 1, 1], dtype=np.float32)}
    assert not np.isfinite(optimizer.step(weights, gradient, 0.1))
    assert optimizer.steps == 0
    for values in weights.values():
        np.testing.assert_array_equal(values, 1)


def test_state_goes_on_bit_by_bit() -> None:
    def batches(seed: int, count: int) -> list[dict[str, Array32]]:
        random = np.random.default_rng(seed)
        return [mean_gradient(random_rows(random, 2)) for _ in range(count)]

    start = {name: np.linspace(-1, 1, n, dtype=np.float32) for name, n in SHAPES.items()}
    through = {name: values.copy() for name, values in start.items()}
    optimizer = AdamW()
    for gradient in batches(1, 5) + batches(2, 5):
        optimizer.step(through, gradient, 1e-2)

    first, weights = AdamW(), {name: values.copy() for name, values in start.items()}
    for gradient in batches(1, 5):
        first.step(weights, gradient, 1e-2)
    saved = {name: values.copy() for name, values in first.state().items()}
    second = AdamW()
    second.load(first.steps, saved)
    for gradient in batches(2, 5):
        second.step(weights, gradient, 1e-2)
    assert second.steps == optimizer.steps == 10
    for name in SHAPES:
        np.testing.assert_array_equal(weights[name], through[name])
        np.testing.assert_array_equal(second.first[name], optimizer.first[name])
        np.testing.assert_array_equal(second.second[name], optimizer.second[name])


def test_loaded_state_is_a_copy() -> None:
    optimizer = AdamW()
    arrays = {"m/a": np.ones(3, dtype=np.float32), "v/a": np.ones(3, dtype=np.float32)}
    optimizer.load(1, arrays)
    optimizer.step({"a": np.ones(3, dtype=np.float32)}, {"a": np.ones(3, dtype=np.float32)}, 0.1)
    np.testing.assert_array_equal(arrays["m/a"], 1)
    np.testing.assert_array_equal(arrays["v/a"], 1)


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_mean_gradient_is_that_of_the_pooled_loss(library: Library, base: BaseMaker, rows: int) -> None:
    # Of the real engine: the slope, by finite differences in float64, of the mean over all learned tokens of all rows.
    path = base("qwen3", "bpe", "f32")
    random = np.random.default_rng(rows)
    batch = []
    for _ in range(rows):
        tokens = random.integers(0, 200, int(random.integers(4, 40))).astype(np.int32)
        trained = random.random(len(tokens)) < 0.5
        trained[-1] = True
        batch.append((tokens, trained))
    with Model(library, path) as model, RowTrainer(model, 64, 1, Adapter(rank=4, alpha=8, seed=1)) as trainer:
        optimizer = AdamW()
        for tokens, trained in batch[:1] * 4:
            _, gradients = trainer.gradients(tokens, trained)
            optimizer.step(trainer.weights(), gradients, 1e-2)
        parts = [(int(trained[1:].sum()), trainer.gradients(tokens, trained)[1]) for tokens, trained in batch]
        weights = {name: values.astype(np.float64) for name, values in trainer.weights().items()}
    pooled = mean_gradient(parts)
    reference = Reference(path, 4, 2.0)

    def loss() -> float:
        parts = [reference.losses(tokens, weights)[trained[1:]] for tokens, trained in batch]
        return float(np.concatenate(parts).mean())

    for name, at in [("blk.0.attn_q.weight.lora_b", 5), ("blk.1.ffn_down.weight.lora_a", 11)]:
        kept = weights[name][at]
        weights[name][at] = kept + 1e-5
        above = loss()
        weights[name][at] = kept - 1e-5
        slope = (above - loss()) / 2e-5
        weights[name][at] = kept
        assert pooled[name][at] == pytest.approx(slope, abs=3e-6 * float(np.abs(pooled[name]).max()))
        if rows > 1:  # the plain mean of the rows' gradients is something else
            plain = np.mean([grads[name][at] for _, grads in parts])
            assert abs(plain - slope) > 1e-4 * abs(slope)
