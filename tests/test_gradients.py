"""The engine's loss and gradients against float64 NumPy (`support.reference`), its own logits and finite differences.

Tolerances are three times the worst that was seen on AVX2, over all architectures and tokenizers:
F32 bases 7e-7 in the loss and 8e-7 in the gradient (of the tensor's largest entry); F16 2e-4 and 1.4e-3, because the
library rounds activations to F16; quantized ones 6e-3 and 5e-2, because it quantizes activations to 8 bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from conftest import BaseMaker
from support.models import Tokenizer
from support.reference import Reference

from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Decoder, Model
from meton_plugins.finetune.errors import EngineError
from meton_plugins.finetune.gguf.inspect import ARCHITECTURES, LIBRARY_TYPES, inspect
from meton_plugins.finetune.settings import PROJECTIONS

TEXT = "the answer is blue sky Paris, and 12 apples"
RANK, ALPHA = 4, 8.0
STEP = 1e-5

#: What the file type is made of; the mixed ones hold other types too.
TYPE_OF = {
    "f32": "F32", "f16": "F16", "q8_0": "Q8_0", "q6_k": "Q6_K", "q5_k_m": "Q5_K", "q4_k_m": "Q4_K", "q5_0": "Q5_0",
    "q4_0": "Q4_0",
}  # fmt: skip


class Case(NamedTuple):
    """A base and how well its gradients match."""

    architecture: str
    tokenizer: Tokenizer
    kind: str
    tied: bool = False

    @property
    def tolerance(self) -> tuple[float, float]:
        """Of the loss, in nats; of the gradient, as a part of the tensor's largest entry."""
        return {"f32": (2e-6, 2.5e-6), "f16": (6e-4, 5e-3)}.get(self.kind, (2e-2, 0.15))

    @property
    def id(self) -> str:
        """Its name in a report."""
        return "-".join([self.architecture, self.tokenizer, self.kind, *(["tied"] if self.tied else [])])


CASES = [
    Case("llama", "bpe", "f32"), Case("llama", "spm", "f32", tied=True), Case("qwen2", "bpe", "f32", tied=True),
    Case("qwen2", "spm", "f32"), Case("qwen3", "bpe", "f32"), Case("qwen3", "spm", "f32"),
    Case("llama", "bpe", "f16"), Case("qwen2", "spm", "f16"), Case("qwen3", "bpe", "f16", tied=True),
    Case("llama", "spm", "q8_0"), Case("qwen2", "bpe", "q8_0", tied=True), Case("qwen3", "spm", "q8_0"),
    Case("llama", "bpe", "q4_k_m"), Case("llama", "spm", "q4_k_m"), Case("qwen2", "bpe", "q4_k_m"),
    Case("qwen3", "spm", "q4_k_m"), Case("qwen2", "spm", "q4_k_m", tied=True), Case("qwen3", "bpe", "q6_k"),
    Case("llama", "spm", "q5_k_m"), Case("qwen2", "bpe", "q5_0"), Case("qwen3", "spm", "q4_0"),
]  # fmt: skip


def test_every_trainable_thing_is_here() -> None:
    assert {case.architecture for case in CASES} == set(ARCHITECTURES)
    assert {TYPE_OF[case.kind] for case in CASES} == set(LIBRARY_TYPES)
    for architecture in ARCHITECTURES:
        mine = [case for case in CASES if case.architecture == architecture]
        assert {case.tokenizer for case in mine} == {"bpe", "spm"}
        assert {case.kind for case in mine} >= {"f32", "f16", "q8_0", "q4_k_m"}


class Row(NamedTuple):
    """Tokens and mask as `RowTrainer` takes them."""

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]


def row_of(model: Model, text: str = TEXT, *, part: int = 1) -> Row:
    """`text` as a row, every token learned but each `part`-th where `part` is more than 1."""
    tokens = np.asarray(model.encode(text, start=True), dtype=np.int32)
    trained = np.arange(len(tokens)) % part != 0 if part > 1 else np.ones(len(tokens), dtype=np.bool_)
    return Row(tokens, trained)


@contextmanager
def trainer_of(model: Model, *, adapter: Adapter | None = None, steps: int = 4) -> Iterator[RowTrainer]:
    """A trainer whose adapter has done a few steps, so that B is not 0."""
    with RowTrainer(model, 64, 1, adapter or Adapter(rank=RANK, alpha=ALPHA, seed=1)) as trainer:
        optimizer, row = AdamW(), row_of(model)
        for _ in range(steps):
            _, gradients = trainer.gradients(*row)
            optimizer.step(trainer.weights(), gradients, 1e-2)
        yield trainer


def largest(array: npt.NDArray[np.float64] | npt.NDArray[np.float32]) -> float:
    """The largest absolute entry."""
    return float(np.abs(array).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_loss_and_gradients_match_numpy(library: Library, base: BaseMaker, case: Case) -> None:
    path = base(
        case.architecture, case.tokenizer, case.kind, layers=2 if case.kind in ("f32", "f16") else 1, tied=case.tied
    )
    assert TYPE_OF[case.kind] in inspect(path).types
    with Model(library, path) as model:
        row = row_of(model, part=3)
        with trainer_of(model) as trainer:
            loss, gradients = trainer.gradients(*row)
            weights = {name: values.astype(np.float64) for name, values in trainer.weights().items()}
            assert trainer.loss(*row) == loss
    assert len(gradients) == 2 * len(PROJECTIONS) * inspect(path).layers
    reference = Reference(path, RANK, ALPHA / RANK)

    def true_loss() -> float:
        return float(reference.losses(row.tokens, weights)[row.trained[1:]].mean())

    for_loss, for_gradient = case.tolerance
    assert loss == pytest.approx(true_loss(), abs=for_loss)
    random = np.random.default_rng(7)
    for name, gradient in gradients.items():
        assert largest(gradient) > 0, name
        # Two coordinates by central differences, and one direction that sees the whole tensor.
        directions = [np.eye(1, gradient.size, int(at))[0] for at in random.choice(gradient.size, 2, replace=False)]
        noise = random.standard_normal(gradient.size)
        directions.append(noise / np.linalg.norm(noise) + gradient / np.linalg.norm(gradient))
        for direction in directions:
            kept = weights[name]
            weights[name] = kept + STEP * direction
            above = true_loss()
            weights[name] = kept - STEP * direction
            slope = (above - true_loss()) / (2 * STEP)
            weights[name] = kept
            size = largest(gradient) if np.count_nonzero(direction) == 1 else float(np.linalg.norm(gradient))
            assert float(gradient @ direction) == pytest.approx(slope, abs=for_gradient * size), name


@pytest.mark.parametrize(
    ("architecture", "kind", "step", "tolerance"),
    [
        ("llama", "f32", 1e-2, 1e-3),
        ("qwen3", "f32", 1e-2, 1e-3),
        ("qwen2", "f16", 3e-2, 1e-2),
        # Quantized activations make the loss a staircase: only a long step sees its slope.
        ("llama", "q8_0", 0.1, 0.05),
        ("qwen2", "q4_k_m", 0.1, 0.05),
    ],
)
def test_gradient_is_the_slope_of_the_engines_own_loss(
    library: Library, base: BaseMaker, architecture: str, kind: str, step: float, tolerance: float
) -> None:
    with Model(library, base(architecture, "bpe", kind)) as model, trainer_of(model) as trainer:
        row = row_of(model)
        _, gradients = trainer.gradients(*row)
        weights = trainer.weights()
        norm = float(np.sqrt(sum(float(g @ g) for g in gradients.values())))
        losses = {}
        for sign in (1, -1):
            for name, gradient in gradients.items():
                weights[name] += np.float32(sign * step / norm) * gradient
            losses[sign] = trainer.loss(*row)
            for name, gradient in gradients.items():
                weights[name] -= np.float32(sign * step / norm) * gradient
    assert (losses[1] - losses[-1]) / (2 * step) == pytest.approx(norm, rel=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("part", [1, 3, 7], ids=["all-trained", "two-thirds", "most"])
def test_loss_is_the_mean_over_trained_tokens_of_the_logits(
    library: Library, base: BaseMaker, tmp_path: Path, architecture: str, part: int
) -> None:
    # Measured: within 7e-7.
    file = tmp_path / "adapter.gguf"
    with Model(library, base(architecture)) as model:
        row = row_of(model, part=part)
        with trainer_of(model) as trainer:
            loss = trainer.loss(*row)
            trainer.save(file)
        with Decoder(model, 64, 1, file) as decoder:
            losses = decoder.losses(row.tokens)
        with Decoder(model, 64, 1) as decoder:
            without = decoder.losses(row.tokens)
    assert loss == pytest.approx(losses[row.trained[1:]].mean(), abs=3e-6)
    assert abs(loss - without[row.trained[1:]].mean()) > 0.01  # the adapter does something


def test_decoder_reads_the_same_in_pieces(library: Library, base: BaseMaker) -> None:
    with Model(library, base()) as model, Decoder(model, 64, 1) as decoder:
        row = row_of(model)
        losses = decoder.losses(row.tokens)
        decoder.forget()
        for i, token in enumerate(row.tokens[:-1]):
            logits = decoder.read([int(token)]).astype(np.float64)
            logits -= logits.max()
            assert np.log(np.exp(logits).sum()) - logits[row.tokens[i + 1]] == pytest.approx(losses[i], abs=1e-4)


@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
def test_gradient_of_a_row_does_not_depend_on_earlier_rows(library: Library, base: BaseMaker, kind: str) -> None:
    # The library adds gradients up for ever; without the mend the third is the sum of all.
    with Model(library, base("qwen2", "bpe", kind)) as model, trainer_of(model) as trainer:
        row, other = row_of(model), row_of(model, "def Paris return the user 99")
        loss, alone = trainer.gradients(*row)
        _, between = trainer.gradients(*other)
        trainer.loss(*other)
        again_loss, again = trainer.gradients(*row)
    assert again_loss == loss
    for name in alone:
        np.testing.assert_array_equal(again[name], alone[name])
        assert not np.array_equal(between[name], alone[name])


def test_loss_changes_neither_weights_nor_gradient(library: Library, base: BaseMaker) -> None:
    with Model(library, base()) as model, trainer_of(model) as trainer:
        row = row_of(model)
        before = {name: values.copy() for name, values in trainer.weights().items()}
        assert trainer.loss(*row) == trainer.loss(*row)
        trainer.gradients(*row)
        for name, values in trainer.weights().items():
            np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("lengths", [(1, 2, 3, 17, 63, 64), (64, 5, 33, 1, 64)], ids=["growing", "mixed"])
def test_rows_of_every_length(library: Library, base: BaseMaker, lengths: tuple[int, ...]) -> None:
    path = base("llama")
    reference = Reference(path, RANK, ALPHA / RANK)
    random = np.random.default_rng(3)
    with Model(library, path) as model, trainer_of(model) as trainer:
        weights = {name: values.astype(np.float64) for name, values in trainer.weights().items()}
        for length in lengths:
            tokens = random.integers(0, 200, length + 1).astype(np.int32)
            trained = np.ones(length + 1, dtype=np.bool_)
            loss, gradients = trainer.gradients(tokens, trained)
            assert loss == pytest.approx(reference.losses(tokens, weights).mean(), abs=5e-6)
            assert all(np.isfinite(values).all() for values in gradients.values())


def test_rows_of_short_length_have_their_own_gradient(library: Library, base: BaseMaker) -> None:
    # What a longer row left behind in the buffers must not be read.
    with Model(library, base()) as model, trainer_of(model) as trainer:
        row, longer = row_of(model, "blue sky"), row_of(model)
        first = trainer.gradients(*row)
        trainer.gradients(*longer)
        second = trainer.gradients(*row)
        assert first[0] == second[0]
        for name in first[1]:
            np.testing.assert_array_equal(first[1][name], second[1][name])


def test_short_rows_cost_less(library: Library, base: BaseMaker) -> None:
    # Rows are computed at their own length, not padded to the context. Measured: a fortieth of the time.
    with Model(library, base("llama")) as model, RowTrainer(model, 512, 1, Adapter(rank=2)) as trainer:

        def seconds(length: int) -> float:
            tokens, trained = np.ones(length + 1, dtype=np.int32), np.ones(length + 1, dtype=np.bool_)
            taken = []
            for _ in range(4):
                started = time.perf_counter()
                trainer.gradients(tokens, trained)
                taken.append(time.perf_counter() - started)
            return min(taken)

        assert seconds(16) < seconds(512) / 3


def test_tokens_that_are_not_trained_do_not_matter_as_labels(library: Library, base: BaseMaker) -> None:
    with Model(library, base()) as model, trainer_of(model) as trainer:
        row = row_of(model)
        trained = row.trained.copy()
        trained[-1] = False
        other = row.tokens.copy()
        other[-1] = (other[-1] + 1) % 200
        first, second = trainer.gradients(row.tokens, trained), trainer.gradients(other, trained)
        whole = trainer.gradients(*row)
    assert first[0] == second[0] != whole[0]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])


@pytest.mark.parametrize("length", [0, 257], ids=["nothing-to-predict", "longer-than-the-context"])
def test_row_that_does_not_fit_is_refused(library: Library, base: BaseMaker, length: int) -> None:
    with Model(library, base()) as model, RowTrainer(model, 64, 1, Adapter(rank=2)) as trainer:
        assert trainer.n_ctx <= 256
        tokens = np.zeros(length + 1, dtype=np.int32)
        with pytest.raises(EngineError, match=r"^A row of \d+ tokens does not fit a context of \d+\.$"):
            trainer.loss(tokens, np.ones(length + 1, dtype=np.bool_))


def test_new_adapter_changes_nothing_and_a_seed_decides_it(library: Library, base: BaseMaker) -> None:
    with Model(library, base()) as model:
        row = row_of(model)
        with Decoder(model, 64, 1) as decoder:
            plain = decoder.losses(row.tokens).mean()
        first: dict[int, dict[str, npt.NDArray[np.float32]]] = {}
        for attempt, seed in enumerate((5, 5, 6, 0, 0)):
            with RowTrainer(model, 64, 1, Adapter(rank=RANK, alpha=ALPHA, seed=seed)) as trainer:
                loss, gradients = trainer.gradients(*row)
                assert loss == pytest.approx(plain, abs=3e-6)
                assert all(not g.any() for name, g in gradients.items() if name.endswith("lora_a"))  # B is 0
                assert any(g.any() for name, g in gradients.items() if name.endswith("lora_b"))
                first[attempt] = {name: w.copy() for name, w in trainer.weights().items()}

    def same(one: int, two: int) -> bool:
        return all(np.array_equal(first[one][name], first[two][name]) for name in first[one])

    assert same(0, 1)
    assert same(3, 4)  # 0 is a seed like any other
    assert not same(0, 2)
    assert not same(0, 3)


@pytest.mark.parametrize("targets", [("attn_q", "attn_v"), ("ffn_down",), PROJECTIONS], ids=["q-v", "down", "all"])
def test_only_the_targets_are_adapted(library: Library, base: BaseMaker, targets: tuple[str, ...]) -> None:
    with (
        Model(library, base()) as model,
        RowTrainer(model, 64, 1, Adapter(rank=2, alpha=4, targets=targets)) as trainer,
    ):
        _, gradients = trainer.gradients(*row_of(model))
    names = {name.split(".")[2] for name in gradients}
    assert names == set(targets)


def test_training_learns_a_row_by_heart(library: Library, base: BaseMaker) -> None:
    # Measured: 6.5 at first, 0.41 after 30 steps, 0.20 after 60.
    with Model(library, base()) as model, trainer_of(model, steps=60) as trainer:
        assert trainer.loss(*row_of(model)) < 0.5


def test_library_does_not_flood_the_log(library: Library, base: BaseMaker, capfd: pytest.CaptureFixture[str]) -> None:
    with Model(library, base()) as model, trainer_of(model) as trainer:
        capfd.readouterr()
        for _ in range(5):
            trainer.gradients(*row_of(model))
        said = capfd.readouterr()
    assert len(said.err) + len(said.out) < 200
