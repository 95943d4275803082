"""Our own pass against the library's, against NumPy in float64, and against itself; and when it steps back.

Tolerances are three times the worst that was seen on AVX2. What differs from the library's quantized bases is the
library's: it rounds activations to 8 bits before it multiplies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BaseMaker
from gguf import GGMLQuantizationType
from support.models import rewrite
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

from meton_plugins.finetune.engine import accelerated, compute
from meton_plugins.finetune.engine import autotune as autotune_module
from meton_plugins.finetune.engine.accelerated import NativeTrainer
from meton_plugins.finetune.engine.adamw import AdamW, mean_gradient
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.autotune import BlockTimes, Wishes, autotune
from meton_plugins.finetune.engine.compute import ComputeConfig, bf16_allowed
from meton_plugins.finetune.engine.gradient import RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.trainer_factory import open_trainer
from meton_plugins.finetune.errors import ModelError
from meton_plugins.finetune.gguf.inspect import GgufInfo, check_trainable, inspect
from meton_plugins.finetune.gguf.rows import Row
from meton_plugins.finetune.graph import pointwise
from meton_plugins.finetune.graph.attention import Attention
from meton_plugins.finetune.graph.blas import Array, Blas
from meton_plugins.finetune.graph.head import Head
from meton_plugins.finetune.graph.packing import packed
from meton_plugins.finetune.graph.shape import NEIGHBOURS, Shape, Unsupported, shape_of
from meton_plugins.finetune.graph.team import Team
from meton_plugins.finetune.graph.weights import Stored, Weights

KINDS = ("f32", "f16", "q8_0", "q4_k_m", "q6_k", "q5_0", "q4_0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_library_says_the_same(library: Library, base: BaseMaker, architecture: str, kind: str) -> None:
    path = with_uneven_norms(base(architecture, kind=kind, tied=architecture == "qwen2"))
    row = row_of(40, 200)
    with theirs(library, path) as trainer:
        loss, gradients = trainer.gradients(*first(row))
    with own(library, path) as trainer:
        found, mine = trainer.gradients(*first(row))
        assert trainer.loss(*first(row)) == pytest.approx(found, rel=1e-6)
    close, alike = {"f32": (5e-7, 1e-5), "f16": (1e-4, 5e-3)}.get(kind, (5e-3, 0.1))
    assert found == pytest.approx(loss, rel=close)
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert np.abs(mine[name] - gradient).max() <= alike * np.abs(gradient).max(), name


@pytest.mark.parametrize(("kind", "close"), [("f32", 1e-3), ("f16", 1e-3), ("q8_0", 5e-3), ("q4_k_m", 5e-3)])
def test_twenty_steps_are_the_same_training(library: Library, base: BaseMaker, kind: str, close: float) -> None:
    check_twenty_steps(library, base("qwen3", kind=kind), ComputeConfig(), close)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_gradient_is_the_slope_of_the_loss(library: Library, base: BaseMaker, architecture: str) -> None:
    path = with_uneven_norms(base(architecture))
    row = row_of(21, 200)
    with own(library, path) as trainer:
        check_slopes(trainer, row, trainer.gradients(*first(row))[1], 0.02)


def test_some_projections_alone(library: Library, base: BaseMaker) -> None:
    path = base("qwen3")
    row = row_of(20, 200)
    with own(library, path) as trainer:
        everything = {name: values.copy() for name, values in trainer.weights().items()}
    few = Adapter(rank=4, alpha=8, seed=1, targets=("attn_v", "ffn_down"))
    with Model(library, path) as model, RowTrainer(model, 64, 1, few) as trainer:
        trainer.gradients(*first(row))
        for name, values in trainer.weights().items():
            values[:] = everything[name]
        loss, gradients = trainer.gradients(*first(row))
    with own(library, path, adapter=few) as graph:
        for name, values in graph.weights().items():
            values[:] = everything[name]
        found, mine = graph.gradients(*first(row))
    assert found == pytest.approx(loss, rel=1e-6)
    assert mine.keys() == gradients.keys()
    assert all(np.allclose(mine[name], gradients[name], atol=1e-5 * np.abs(gradients[name]).max()) for name in mine)


def test_packed_rows_do_not_see_each_other(library: Library, base: BaseMaker) -> None:
    rows = [row_of(length, 200, length) for length in (31, 7, 18, 1, 24)]
    rows[3].trained[1:] = True
    rows[4] = in_form(rows[4])
    with own(library, base("qwen2")) as trainer:
        groups = trainer.groups(rows)
        assert [sum(row.length for row in group) for group in groups] == [81]
        together, gradients = trainer.mean(groups[0])
        alone = [(row.learned, trainer.gradients(*first(row))) for row in rows]
        totals = trainer.totals(groups[0])
        of_form = trainer.loss(rows[4].tokens, rows[4].trained & (np.cumsum(rows[4].trained) <= 6)) * 6
    learned = sum(count for count, _ in alone)
    mean = sum(count * loss for count, (loss, _) in alone) / learned
    assert together == pytest.approx(mean, rel=1e-6)
    assert totals == pytest.approx((mean * learned - of_form, of_form), rel=1e-6)
    expected = mean_gradient([(count, found) for count, (_, found) in alone])
    assert all(np.abs(gradients[n] - g).max() <= 1e-5 * np.abs(g).max() for n, g in expected.items())


def test_the_librarys_pass_tells_answers_from_form_as_ours_does(library: Library, base: BaseMaker) -> None:
    rows = [in_form(row_of(24, 200)), row_of(9, 200, 2)]
    with own(library, base("qwen2")) as trainer:
        mine = trainer.totals(rows)
    with theirs(library, base("qwen2")) as slow:
        assert slow.totals(rows) == pytest.approx(mine, rel=1e-5)
    assert min(mine) > 1


def in_form(row: Row) -> Row:
    """The same, the first six of its learned tokens being Meton's form."""
    return dataclasses.replace(row, answer=row.trained & (np.cumsum(row.trained) > 6))


def test_groups_are_whole_and_fit() -> None:
    random = np.random.default_rng(5)
    for _ in range(200):
        lengths = random.integers(1, 100, random.integers(0, 40)).tolist()
        most = max(lengths, default=1) + int(random.integers(0, 100))
        groups = packed(lengths, most)
        assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
        assert all(sum(lengths[place] for place in group) <= most for group in groups)
        assert len(groups) <= 2 * sum(lengths) / most + 1
        assert groups == packed(lengths, most)


def test_the_same_bits_each_time_packed_or_unpacked(library: Library, base: BaseMaker) -> None:
    check_same_bits(library, base("qwen3", kind="q4_k_m"))


def test_threads_change_nothing_but_the_last_bits(library: Library, base: BaseMaker) -> None:
    path = base("qwen3", width=128, inner=512)
    row = row_of(90, 200)
    with own(library, path, threads=1) as trainer:
        loss, gradients = trainer.gradients(*first(row))
    with own(library, path, threads=3) as trainer:
        found, mine = trainer.gradients(*first(row))
    assert found == pytest.approx(loss, rel=1e-6)
    assert all(np.abs(mine[name] - g).max() <= 1e-5 * np.abs(g).max() for name, g in gradients.items())


# The parts


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def team(threads: int) -> Iterator[Team]:
    made = Team(Blas(), threads)
    yield made
    made.close()


@pytest.mark.parametrize("by", ["onednn", "openblas", "numpy"])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 40, 3), (37, 1, 5), (200, 90, 130), (130, 90, 300)])
def test_products(engine: Engine, threads: int, size: tuple[int, int, int], by: str) -> None:
    if by == "onednn" and not engine.products:
        pytest.skip("oneDNN is not installed: setup could not fetch it.")
    blas = Blas(engine.products_path if by == "onednn" else None)
    assert blas.name.startswith("onednn" if by == "onednn" else "openblas")
    if by == "numpy":
        blas._f32 = None
    team = Team(blas, threads)
    random = np.random.default_rng(7)
    rows, inner, columns = size
    for turned in range(4):
        a: Array = random.normal(size=(rows, inner + 3)).astype(np.float32)[:, 2:-1]
        b: Array = random.normal(size=(inner, columns + 2)).astype(np.float32)[:, 1:-1]
        a = np.asfortranarray(a) if turned & 1 else a
        b = np.asfortranarray(b) if turned & 2 else b
        out: Array = random.normal(size=(rows, columns + 4)).astype(np.float32)
        before = out.copy()

        def product(out: Array, a: Array = a, b: Array = b, **how: Any) -> None:
            parts = team.parts(columns, rows * inner * columns)
            team.each(lambda part: team.blas.product(a, b[:, part], out[:, part], **how), parts)

        product(out[:, 3:-1], scale=0.5)
        expected = 0.5 * a.astype(np.float64) @ b
        assert np.allclose(out[:, 3:-1], expected, atol=1e-4)
        product(out[:, 3:-1], add=True, scale=2.0)
        assert np.allclose(out[:, 3:-1], 5 * expected, atol=1e-3)
        assert np.array_equal(out[:, :3], before[:, :3])
        assert np.array_equal(out[:, -1:], before[:, -1:])
    team.close()


def test_an_error_in_a_thread_is_heard(team: Team) -> None:
    def work(part: int) -> None:
        if part == 5:
            raise ValueError("five")

    with pytest.raises(ValueError, match="five"):
        team.each(work, range(9))


def shape(**changes: Any) -> Shape:
    values: dict[str, Any] = {
        "layers": 1, "width": 32, "heads": 4, "kv_heads": 2, "head": 8, "inner": 16, "vocabulary": 50, "epsilon": 1e-6,
        "rope_base": 10000.0, "rope_factor": 1.0, "neighbours": False, "parameters": 0,
    }  # fmt: skip
    return Shape(**{**values, **changes})


def test_attention_is_attention(team: Team) -> None:
    """Over segments longer and shorter than a block, against all pairs in float64."""
    sizes, random = shape(), np.random.default_rng(2)
    segments = [slice(0, 300), slice(300, 301), slice(301, 360)]
    q, dout = (random.normal(size=(360, 32)).astype(np.float32) for _ in range(2))
    k, v = (random.normal(size=(360, 16)).astype(np.float32) for _ in range(2))
    out, logs = np.empty_like(q), np.empty((4, 360), np.float32)
    changes = [np.empty_like(each) for each in (q, k, v)]
    attention = Attention(sizes, team)
    attention.forward(q, k, v, segments, out, logs, out)
    attention.backward(dout, q, k, v, out, logs, segments, *changes)
    expected = [np.zeros(each.shape) for each in (q, q, k, v)]
    for rows in segments:
        for head in range(4):
            mine, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
            a, b, c, d = (
                each[rows, part].astype(np.float64)
                for each, part in ((q, mine), (k, shared), (v, shared), (dout, mine))
            )
            scores = a @ b.T / np.sqrt(8)
            scores[np.triu_indices(len(a), 1)] = -np.inf
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            expected[0][rows, mine] = shares @ c
            slopes = d @ c.T
            slopes = shares * (slopes - (slopes * shares).sum(1, keepdims=True)) / np.sqrt(8)
            expected[1][rows, mine] = slopes @ b
            expected[2][rows, shared] += slopes.T @ a
            expected[3][rows, shared] += shares.T @ d
    for found, wanted in zip((out, *changes), expected, strict=True):
        assert np.abs(found - wanted).max() < 2e-5


def stored(values: Array) -> Stored:
    return Stored(values.ctypes.data, values.shape[0], values.shape[1], values.strides[0], None)


def test_the_head_is_softmax(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several parts of the vocabulary, with scores that grow from part to part and a great range."""
    monkeypatch.setattr("meton_plugins.finetune.graph.head.LEAST", 7)
    monkeypatch.setattr("meton_plugins.finetune.graph.head.MOST", 7)
    random = np.random.default_rng(4)
    weight = (random.normal(size=(50, 32)) * np.linspace(0.1, 6, 50)[:, None]).astype(np.float32)
    x = random.normal(size=(23, 32)).astype(np.float32)
    targets = random.integers(0, 50, 23)
    head = Head("output.weight", Weights({"output.weight": stored(weight)}, team), team)
    dx = np.empty_like(x)
    losses = head.losses(x, targets, dx)
    scores = x.astype(np.float64) @ weight.T
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    assert losses == pytest.approx(-np.log(chances[np.arange(23), targets]), abs=2e-5)
    assert head.losses(x, targets) == pytest.approx(losses, abs=1e-6)
    chances[np.arange(23), targets] -= 1
    assert np.abs(dx - chances @ weight).max() < 1e-4
    assert np.allclose(head.logits(x), scores, atol=1e-4)


def test_gate_of_large_numbers() -> None:
    gate = np.array([[-1e4, -90, -1, 0, 1, 90, 1e4]], np.float32)
    up = np.full_like(gate, 2)
    out = np.empty_like(gate)
    with np.errstate(all="raise", under="ignore"):
        pointwise.gated(gate, up, out)
        assert np.allclose(out[0, 2:], 2 * gate[0, 2:] / (1 + np.exp(-gate[0, 2:].astype(np.float64))))
        assert np.allclose(out[0, :2], 0)
        dy = np.ones_like(gate)
        pointwise.gated_back(dy, gate, up)
    assert np.allclose(dy, out)
    assert np.allclose(gate[0, [0, 3, 6]], [0, 1, 2])


# What it does not compute


VALUES = {
    "qwen3.embedding_length": 32, "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2,
    "qwen3.block_count": 1, "qwen3.feed_forward_length": 16, "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip
TENSORS = {
    "token_embd.weight": (50, 32), "output_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32), "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_gate.weight": (16, 32), "blk.0.ffn_up.weight": (16, 32), "blk.0.ffn_down.weight": (32, 16),
}  # fmt: skip


def test_a_known_base_has_a_shape() -> None:
    found = shape_of("qwen3", VALUES, TENSORS)
    assert (found.head, found.kv_heads, found.rope_base, found.rope_factor) == (8, 2, 10000.0, 1.0)
    linear = {**VALUES, "qwen3.rope.scaling.type": "linear", "qwen3.rope.scaling.factor": 4.0}
    assert shape_of("qwen3", linear, TENSORS).rope_factor == 4.0


@pytest.mark.parametrize(
    ("values", "tensors", "reason"),
    [
        ({"qwen3.attention.sliding_window": 8}, {}, "it says qwen3.attention.sliding_window"),
        ({"qwen3.rope.scaling.type": "yarn"}, {}, "its positions are scaled by yarn"),
        ({"qwen3.expert_count": 8}, {}, "it says qwen3.expert_count"),
        ({"qwen3.attention.value_length": 16}, {}, "its heads are of several sizes"),
        ({"qwen3.rope.dimension_count": 4}, {}, "its heads are of several sizes"),
        ({}, {"blk.0.ffn_gate_inp.weight": (8, 32)}, "it holds the tensor blk.0.ffn_gate_inp.weight"),
        ({}, {"blk.0.ffn_up.bias": (16,)}, "it holds the tensor blk.0.ffn_up.bias"),
        ({}, {"output.bias": (50,)}, "it holds the tensor output.bias"),
        ({}, {"blk.0.ffn_up.weight": (8, 32)}, "blk.0.ffn_up.weight is not 16 x 32"),
        ({"qwen3.embedding_length": "wide"}, {}, "its description is not as expected"),
    ],
)
def test_what_is_not_known_is_left_to_the_library(
    values: dict[str, Any], tensors: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(Unsupported, match=f"^{reason}"):
        shape_of("qwen3", {**VALUES, **values}, {**TENSORS, **tensors})
    with pytest.raises(Unsupported, match="the architecture is gemma"):
        shape_of("gemma", {}, {})


def decided(library: Library, path: Path, rows: int = 1, **wishes: Any) -> ComputeConfig:
    """How a run on `path` computes, with one thread, its weights packed unless `wishes` say otherwise."""
    with Model(library, path) as model:
        wanted = {"accelerate": True, "precision": "f32", "weights": "packed", "threads": 1, "cores": 1, **wishes}
        lengths = [30 - number for number in range(rows)][::-1]
        made = [row_of(length, model.size, length) for length in lengths]
        return autotune(model, path, inspect(path), made, ADAPTER, Wishes(**wanted), 1e4)


def test_a_base_with_an_unknown_key_is_trained_by_the_library(
    library: Library, base: BaseMaker, tmp_path: Path
) -> None:
    path = rewrite(base("qwen2"), tmp_path / "other.gguf", add={"qwen2.final_logit_softcapping": 30.0})
    found = decided(library, path)
    assert (found.trainer, found.reason) == ("library", "it says qwen2.final_logit_softcapping")
    assert found.slowdown is None
    with Model(library, path) as model, open_trainer(model, path, 10, ADAPTER, found) as trainer:
        assert isinstance(trainer, RowTrainer)
        assert trainer.mean([row_of(10, model.size)])[0] > 0


def test_what_only_our_pass_trains_is_refused_without_it(library: Library, base: BaseMaker) -> None:
    with pytest.raises(ModelError, match=r"BF16 tensors, which only our own pass trains on.*accelerate off"):
        decided(library, base("qwen2", kind="bf16"), accelerate=False)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "reason"),
    [
        ("block", "gated", lambda gate, up, out: np.multiply(gate, up, out=out), "its hidden states differ"),
        ("block", "norm_back", lambda dy, x, w, e, dx, add=False: None, "its gradient is not that of its loss"),
        ("block", "gated_back", lambda dy, gate, up: None, "its gradient is not that of its loss"),
    ],
)
def test_a_pass_that_computes_wrongly_is_found_out(
    library: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch, module: str, name: str, wrong: Any, reason: str
) -> None:
    monkeypatch.setattr(f"meton_plugins.finetune.graph.{module}.{name}", wrong)
    found = decided(library, base("qwen3", kind="q8_0"))
    assert found.trainer == "library"
    assert found.reason
    assert found.reason.startswith(reason)
    assert found.slowdown
    assert found.slowdown > 0


@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
def test_wrong_positions_are_found_out(
    library: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(NEIGHBOURS, "qwen3", True)
    accelerated.shape_of_file.cache_clear()
    path = base("qwen3", kind=kind)
    with (
        Model(library, path) as model,
        NativeTrainer(model, path, 30, 1, ADAPTER) as trainer,
        pytest.raises(Unsupported, match="its hidden states differ"),
    ):
        trainer.check(row_of(30, model.size).tokens, 1)
    accelerated.shape_of_file.cache_clear()


def test_the_check_leaves_the_adapter_as_it_was(library: Library, base: BaseMaker) -> None:
    path = base("qwen2")
    with Model(library, path) as model, NativeTrainer(model, path, 30, 1, ADAPTER) as trainer:
        before = {name: values.copy() for name, values in trainer.weights().items()}
        trainer.check(row_of(30, model.size).tokens, 1)
        assert trainer.weights().keys() == before.keys()
        assert all(np.array_equal(trainer.weights()[name], values) for name, values in before.items())
        assert not any(values.any() for name, values in before.items() if name.endswith("lora_b"))


@pytest.mark.parametrize(
    "kind", ["q4_1", "q5_1", "q2_k", "q3_k", "iq4_nl", "iq4_xs", "iq3_s", "iq2_s", "mxfp4", "bf16", "tq2_0"]
)
def test_every_type_trains(library: Library, base: BaseMaker, tmp_path: Path, kind: str) -> None:
    """Types that the library's own graph does not train on: our pass needs only what unpacks a block."""
    whole, number = base("qwen3", width=256, inner=256), GGMLQuantizationType[kind.upper()]
    path = rewrite(whole, tmp_path / f"{kind}.gguf", tensor_type=number, library=library)
    check_trainable(inspect(path))
    assert decided(library, path).own
    with Model(library, path) as model, open_trainer(model, path, 30, ADAPTER, ComputeConfig()) as trainer:
        row, optimizer = row_of(30, model.size), AdamW()
        losses = []
        for _ in range(8):
            loss, gradients = trainer.mean([row])
            optimizer.step(trainer.weights(), gradients, 1e-2)
            losses.append(loss)
    assert losses[-1] < 0.97 * losses[0]


def base_of(parameters: int, kind: str = "Q4_K") -> GgufInfo:
    types = {"F32": 9, kind: 14}
    return GgufInfo(Path("b.gguf"), 1, "model", "qwen3", "b", parameters, 1, 64, 200, "gpt2", None, "", "", types)


def engine_with(products: str) -> Engine:
    return Engine(Path("/nowhere"), "1", "", "", "", {}, "", products)


PLAIN, ONEDNN = engine_with(""), engine_with("libdnnl.so.3")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CPU multiplies bf16."""
    monkeypatch.setattr(compute, "multiplies_bf16", lambda: True)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], share: float = 1.0) -> None:
    """Rows take `seconds` by the name of the candidate, their threads having a core for `share` of that."""

    def times(_trainer: Any, _row: Any, _layers: Any, *, threads: int, bf16: bool, unpacked: bool) -> BlockTimes:
        config = ComputeConfig(
            threads=threads, precision="bf16" if bf16 else "f32", weights="unpacked" if unpacked else "packed"
        )
        took = seconds[config.name]
        return BlockTimes(took, took / 3, took * threads * share, took * threads * share / 3, 1.0)

    monkeypatch.setattr(autotune_module, "block_times", times)


@pytest.mark.parametrize(
    ("seconds", "wishes", "name"),
    [
        ({"f32 packed x2": 1.0, "f32 unpacked x2": 0.5}, {}, "f32 unpacked x2"),
        ({"f32 packed x2": 1.0, "f32 unpacked x2": 0.95}, {}, "f32 packed x2"),
        ({"f32 packed x2": 1.0}, {"weights": "packed"}, "f32 packed x2"),
        ({"f32 unpacked x2": 1.0}, {"weights": "unpacked"}, "f32 unpacked x2"),
        ({"f32 packed x1": 1.0}, {"weights": "packed", "threads": 1}, "f32 packed x1"),
    ],
    ids=["unpacked is faster", "hardly", "packed is wished", "unpacked is wished", "one thread is wished"],
)
def test_what_is_measured_to_be_faster_is_taken(
    library: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], wishes: Any,
    name: str,
) -> None:  # fmt: skip
    timed(monkeypatch, seconds)
    found = decided(library, base("qwen2"), **{"weights": "auto", "threads": 0, "cores": 2, **wishes})
    assert found.name == name
    assert found.tokens_per_s.keys() == seconds.keys()


def test_threads_that_wait_for_each_other_are_compared_with_one(
    library: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"f32 packed x2": 1.0, "f32 packed x1": 1.4}, share=0.7)
    found = decided(library, base("qwen2"), threads=0, cores=2)
    # On a machine that another program uses, what counts is what the row takes without it.
    assert found.name == "f32 packed x2"
    timed(monkeypatch, {"f32 packed x2": 1.0, "f32 packed x1": 0.5}, share=0.7)
    assert decided(library, base("qwen2"), threads=0, cores=2).name == "f32 packed x1"


def test_unpacked_weights_leave_half_of_the_free_memory(
    library: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"f32 packed x1": 1.0, "f32 unpacked x1": 0.1})
    path = base("qwen2", kind="q8_0")
    with Model(library, path) as model, NativeTrainer(model, path, 30, 1, ADAPTER) as trainer:
        need = trainer.unpacked_bytes(range(trainer.layers), 4) / 2**20
        wishes, rows = Wishes(True, "f32", "auto", 1, 1), [row_of(30, model.size)]
    assert need > 0
    for room, weights in ((2.01 * need, "unpacked"), (1.99 * need, "packed")):
        with Model(library, path) as model:
            assert autotune(model, path, inspect(path), rows, ADAPTER, wishes, room).weights == weights


@pytest.mark.parametrize(
    ("engine_", "kind", "wishes", "bf16"),
    [(ONEDNN, "Q4_K", {}, True), (ONEDNN, "F16", {}, False), (ONEDNN, "F32", {}, False),
     (ONEDNN, "F16", {"precision": "bf16"}, True), (ONEDNN, "Q4_K", {"precision": "f32"}, False),
     (PLAIN, "Q4_K", {}, False),
     (PLAIN, "F16", {"precision": "bf16"}, False)],
    ids=["quantized", "f16", "f32", "f16, bf16 wished", "quantized, f32 wished", "no oneDNN",
         "no oneDNN, bf16 wished"],
)  # fmt: skip
def test_bf16_where_something_multiplies_it(
    machine: None, engine_: Engine, kind: str, wishes: Any, bf16: bool
) -> None:  # fmt: skip
    assert bf16_allowed(engine_, base_of(1, kind), wishes.get("precision", "auto")) is bf16


@pytest.mark.parametrize(
    ("flags", "bf16"), [("fma avx512f avx512_bf16 sha_ni", True), ("amx_bf16", True), ("avx512f avx512_bf16x", False)]
)
def test_what_the_cpu_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, bf16: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    for path, expected in ((tmp_path / "cpuinfo", bf16), (tmp_path / "none", False)):
        monkeypatch.setattr(compute, "CPU", path)
        assert compute.multiplies_bf16.__wrapped__() is expected


def test_the_log_says_how(library: Library, base: BaseMaker, capfd: pytest.CaptureFixture[str]) -> None:
    path = base("qwen2", kind="q8_0")
    for weights in ("unpacked", "packed"):
        how = ComputeConfig.model_validate({"weights": weights})
        with Model(library, path) as model, open_trainer(model, path, 10, ADAPTER, how):
            pass
        line = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("own pass: "))
        assert line.endswith(f"threads: 1, weights: {weights}")
