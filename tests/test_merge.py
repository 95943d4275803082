"""Merging: the file answers as base and adapter did together, keeps all that the base says, and others can load it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import BaseMaker
from gguf import GGUFReader, GGUFValueType, GGUFWriter, quants
from support.models import make_base, rewrite
from support.teaching import ANSWER, CHAT, trained_adapter

from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.jobs import generate, quantize
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Decoder, Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.errors import ModelError
from meton_plugins.finetune.gguf import merge as merging
from meton_plugins.finetune.gguf import stream
from meton_plugins.finetune.gguf.inspect import inspect, open_gguf
from meton_plugins.finetune.gguf.merge import Progress, merge
from tools import mainline

SMALL: Any = {"layers": 1, "width": 32, "inner": 32}
TEXT = "the answer is blue sky Paris, and 12 apples"


def f16_copy(base: Path, out: Path, progress: Progress | None = None) -> None:
    """`base` in F16 with an adapter that changes nothing."""
    merge(base, write_adapter(out.with_suffix(".zero.gguf"), base, size=0.0), out, progress)


def write_adapter(path: Path, base: Path, *, rank: int = 2, alpha: float | None = 4.0, **changes: Any) -> Path:
    """A LoRA with random factors for every projection of `base`, or with something wrong: `changes`."""
    random = np.random.default_rng(1)
    writer = GGUFWriter(path, changes.get("architecture", inspect(base).architecture))
    writer.add_type(changes.get("kind", "adapter"))
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for tensor in open_gguf(base).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            inputs, outputs = (int(n) for n in tensor.shape)
            name = changes.get("name", "{}").format(tensor.name)
            a = random.standard_normal((rank, inputs + changes.get("wider", 0))).astype(np.float32)
            b = random.standard_normal((outputs, rank + changes.get("crooked", 0))).astype(np.float32)
            writer.add_tensor(f"{name}.lora_a", a * np.float32(changes.get("size", 0.1)))
            if not changes.get("half"):
                writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(library: Library, path: Path, adapter: Path | None = None) -> npt.NDArray[np.float64]:
    """Logits after each of a few prompts, centred."""
    made = []
    with Model(library, path) as model, Decoder(model, 64, 1, adapter) as decoder:
        tokens = model.encode(TEXT, start=True)
        for end in range(1, len(tokens), 4):
            decoder.forget()
            each = decoder.read(tokens[:end]).astype(np.float64)
            made.append(each - each.mean())
    return np.array(made)


# The largest difference in logits, which are at most 3.7; the adapter changes them by up to 7. Measured: 0.010 over F32
# and F16 bases (matrices and activations are rounded to F16), 0.027 over Q8_0, 0.054 over Q4_K_M (the base alone
# quantizes its activations to 8 bits).
@pytest.mark.parametrize(
    ("architecture", "kind", "tolerance"),
    [
        ("llama", "f32", 0.03),
        ("qwen2", "f32", 0.03),
        ("qwen3", "f32", 0.03),
        ("qwen2", "f16", 0.03),
        ("llama", "q8_0", 0.1),
        ("qwen3", "q4_k_m", 0.2),
    ],
)
def test_merged_logits_are_those_of_base_and_adapter(
    library: Library, base: BaseMaker, tmp_path: Path, architecture: str, kind: str, tolerance: float
) -> None:
    path = base(architecture, "bpe", kind)
    adapter = write_adapter(tmp_path / "a.gguf", path)
    out = tmp_path / "m.gguf"
    assert merge(path, adapter, out).adapted == 7 * inspect(path).layers
    together = logits(library, path, adapter)
    assert np.abs(logits(library, out) - together).max() < tolerance
    assert np.abs(logits(library, path) - together).max() > 4 * tolerance  # the adapter does something


@pytest.mark.parametrize("block", [7, 4096])
def test_merged_matrices_are_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(merging, "CHUNK_NUMBERS", 32 * block)
    path = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", path, rank=3, alpha=12.0)
    merge(path, adapter, tmp_path / "m.gguf")
    factors = {t.name: t.data.astype(np.float64) for t in GGUFReader(adapter).tensors}
    before = {t.name: t for t in GGUFReader(path).tensors}
    after = {t.name: t for t in GGUFReader(tmp_path / "m.gguf").tensors}
    assert list(before) == list(after)
    adapted = 0
    for name, tensor in before.items():
        expected = tensor.data.astype(np.float64)
        if f"{name}.lora_a" in factors:
            adapted += 1
            expected = expected + 4.0 * factors[f"{name}.lora_b"] @ factors[f"{name}.lora_a"]
        merged = after[name]
        if len(tensor.shape) == 1:
            assert merged.tensor_type.name == "F32"
            np.testing.assert_array_equal(merged.data, tensor.data)
        else:
            assert merged.tensor_type.name == "F16"
            assert merged.data.shape == expected.shape
            np.testing.assert_allclose(merged.data, expected, rtol=2**-10, atol=1e-6)
    assert adapted == 7


def values(path: Path) -> dict[str, tuple[Any, Any, Any]]:
    """Every key with its types and value, but for those of the file itself."""
    reader = GGUFReader(path)
    return {
        key: (field.types[0], field.types[-1], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key != "general.file_type"
    }


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
def test_all_that_the_base_says_is_kept(tmp_path: Path, tokenizer: Any) -> None:
    base = make_base(tmp_path / "b.gguf", "qwen3", tokenizer, **SMALL)
    path = rewrite(
        base,
        tmp_path / "r.gguf",
        add={
            "general.name": "Größe 日本 🙂",
            "general.tags": ["chat", "été"],
            "mine.yes": True,
            "mine.half": 0.5,
            "mine.large": 2**31 + 5,
            "mine.numbers": [1, -2, 3],
            "mine.parts": [0.25, -1.5],
            "tokenizer.chat_template.tool_use": "{{ messages }}\n",
        },
    )
    merge(path, write_adapter(tmp_path / "a.gguf", path), tmp_path / "m.gguf")
    before, after = values(path), values(tmp_path / "m.gguf")
    assert set(before) == set(after)
    for key, value in before.items():
        assert after[key] == value, key
    assert before["general.name"][2] == "Größe 日本 🙂"
    file_type = GGUFReader(tmp_path / "m.gguf").get_field("general.file_type")
    assert file_type is not None
    assert file_type.contents() == 1  # MOSTLY_F16


def test_quantized_file_keeps_tokenizer_and_template(engine: Engine, tmp_path: Path) -> None:
    path = make_base(tmp_path / "b.gguf", "llama", "spm", width=256, inner=256, layers=1)
    merge(path, write_adapter(tmp_path / "a.gguf", path, size=0.01), tmp_path / "m.gguf")
    quantize(tmp_path / "m.gguf", tmp_path / "q.gguf", "q4_k_m")
    before, after = values(path), values(tmp_path / "q.gguf")
    for key, value in before.items():
        assert after[key] == value, key
    assert set(after) - set(before) <= {"general.quantization_version"}
    assert "Q4_K" in inspect(tmp_path / "q.gguf").types


@pytest.mark.parametrize("alignment", [64, 128])
@pytest.mark.parametrize("padding", [0, 16, 32, 48])
def test_base_with_an_alignment_of_its_own(library: Library, tmp_path: Path, alignment: int, padding: int) -> None:
    # The rows of this base are 32 bytes: tensors lie elsewhere at 32 than at 64.
    base = make_base(tmp_path / "b.gguf", layers=1, width=8, heads=2, inner=8)
    path = rewrite(base, tmp_path / "r.gguf", alignment=alignment, add={"general.description": "x" * padding})
    f16_copy(path, tmp_path / "h.gguf")
    before = {t.name: t.data for t in GGUFReader(base).tensors}
    for tensor in GGUFReader(tmp_path / "h.gguf").tensors:
        np.testing.assert_allclose(tensor.data, before[tensor.name], rtol=2**-10, atol=1e-6)
    with Model(library, tmp_path / "h.gguf"):
        pass
    merge(path, write_adapter(tmp_path / "a.gguf", path), tmp_path / "m.gguf")
    with Model(library, tmp_path / "m.gguf"):
        pass


def test_array_without_elements_is_kept(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    reader = GGUFReader(base)
    writer = GGUFWriter(tmp_path / "e.gguf", "qwen2")
    writer.add_key_value("mine.nothing", ["x"], GGUFValueType.ARRAY, GGUFValueType.STRING)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = (tmp_path / "e.gguf").read_bytes()
    one = (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"x"
    assert content.count(one) == 1
    # No element instead of one; the nine bytes that it took go before the data, as padding.
    emptied = content.replace(one, (0).to_bytes(8, "little"))
    start = open_gguf(tmp_path / "e.gguf").data_offset
    (tmp_path / "e.gguf").write_bytes(emptied[: start - 9] + bytes(9) + content[start:])
    f16_copy(tmp_path / "e.gguf", tmp_path / "h.gguf")
    assert values(tmp_path / "h.gguf")["mine.nothing"][2] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "llama"}, "was trained on another architecture than b.gguf: name its own base."),
        ({"kind": "model"}, "a.gguf is not a LoRA adapter."),
        ({"alpha": None}, "a.gguf does not say its alpha."),
        ({"name": "{}.more"}, "does not fit this base: blk.0."),
        ({"half": True}, "does not fit this base: blk.0."),
        ({"wider": 8}, "has another shape."),
        ({"crooked": 1}, "has another shape."),
    ],
    ids=["architecture", "no-adapter", "no-alpha", "other-tensors", "no-partner", "other-shape", "other-rank"],
)
def test_adapter_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", base, **changes)
    with pytest.raises(ModelError) as caught:
        merge(base, adapter, tmp_path / "m.gguf")
    assert words in caught.value.sentence
    assert caught.value.sentence.endswith(".")
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["a.gguf", "b.gguf"]


def test_adapter_of_a_larger_base(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    larger = make_base(tmp_path / "l.gguf", layers=2, width=32, inner=32)
    adapter = write_adapter(tmp_path / "a.gguf", larger)
    with pytest.raises(ModelError, match=r"does not fit this base: blk\.1\.\w+\.weight has no partner\."):
        merge(base, adapter, tmp_path / "m.gguf")


@pytest.mark.parametrize(("size", "bad"), [(1e7, True), (1e3, False)], ids=["too-large", "large"])
def test_numbers_that_f16_cannot_hold(tmp_path: Path, size: float, bad: bool) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=size)
    if bad:
        with pytest.raises(ModelError, match=r"^blk\.0\.\S+ holds numbers that F16 cannot: train again"):
            merge(base, adapter, tmp_path / "m.gguf")
        assert not (tmp_path / "m.gguf").exists()
    else:
        merge(base, adapter, tmp_path / "m.gguf")
        assert all(np.isfinite(t.data).all() for t in GGUFReader(tmp_path / "m.gguf").tensors)


def test_not_a_number_is_noticed(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=float("nan"))
    with pytest.raises(ModelError, match="holds numbers that F16 cannot"):
        merge(base, adapter, tmp_path / "m.gguf")


def test_progress_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    told: list[tuple[int, int]] = []
    f16_copy(base, tmp_path / "h.gguf", lambda done, total: told.append((done, total)))
    count = len(open_gguf(base).tensors)
    assert told == [(i, count) for i in range(1, count + 1)]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_disk_full_while_merging(small_disk: Path, tmp_path: Path, part: float) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", base)
    merge(base, adapter, small_disk / "m.gguf")
    size = (small_disk / "m.gguf").stat().st_size
    before = (small_disk / "m.gguf").read_bytes()
    other = write_adapter(tmp_path / "a2.gguf", base, size=0.2)
    (small_disk / "filler").write_bytes(bytes(int(shutil.disk_usage(small_disk).free - part * size)))
    with pytest.raises(OSError, match="No space left") as caught:
        merge(base, other, small_disk / "m.gguf")
    assert caught.value.errno == errno.ENOSPC  # and not NumPy's "11360 requested and 3888 written"
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "m.gguf"]
    assert (small_disk / "m.gguf").read_bytes() == before  # the earlier file stays
    (small_disk / "filler").unlink()
    merge(base, other, small_disk / "m.gguf")
    assert (small_disk / "m.gguf").read_bytes() != before


def test_interrupted_merge_leaves_no_file(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", **SMALL)
    adapter = write_adapter(tmp_path / "a.gguf", base)

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(base, adapter, tmp_path / "m.gguf", interrupt)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.gguf", "b.gguf"]


# In mainline llama.cpp


@pytest.mark.parametrize(
    ("architecture", "tokenizer", "kind", "quant"),
    [("qwen2", "bpe", "f32", "q8_0"), ("llama", "spm", "q8_0", "q4_k_m"), ("qwen3", "bpe", "q4_k_m", "q4_k_m")],
)
def test_quantized_merge_answers_in_mainline(
    engine: Engine,
    library: Library,
    base: BaseMaker,
    tmp_path: Path,
    architecture: str,
    tokenizer: Any,
    kind: str,
    quant: str,
) -> None:
    path = base(architecture, tokenizer, kind, width=256, inner=256, layers=1)
    adapter = trained_adapter(library, path, tmp_path)
    merge(path, adapter, tmp_path / "m.gguf")
    quantize(tmp_path / "m.gguf", tmp_path / "q.gguf", quant)
    assert mainline.answers(tmp_path / "q.gguf", [CHAT], 30) == [ANSWER]
    assert mainline.answers(path, [CHAT], 30) != [ANSWER]
    assert generate(tmp_path / "q.gguf", [CHAT], limit=30) == [ANSWER]


ASK_WITH_LORA = """
import json, os, sys
import xllamacpp as x
params = x.CommonParams()
params.model.path, params.offline, params.ui, params.n_parallel, params.n_ctx = sys.argv[1], True, False, 1, 1024
params.use_jinja, params.verbosity = True, 0
params.lora_adapters = [x.CommonAdapterLoraInfo(sys.argv[2], 1.0)]
request = {"messages": json.loads(sys.argv[3]), "max_tokens": 30, "temperature": 0}
answer = x.Server(params).handle_chat_completions(request)
print(json.dumps(answer["choices"][0]["message"]["content"]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_adapter_loads_in_mainline(library: Library, base: BaseMaker, tmp_path: Path, architecture: str) -> None:
    # The library trains factors for qwen2's biases too, which mainline refuses: they are not in our file.
    path = base(architecture)
    adapter = trained_adapter(library, path, tmp_path)
    assert not [t.name for t in GGUFReader(adapter).tensors if "bias" in t.name]
    command = [sys.executable, "-c", ASK_WITH_LORA, str(path), str(adapter), json.dumps(CHAT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ANSWER


def test_raw_adapter_of_qwen2_has_bias_factors(library: Library, base: BaseMaker, tmp_path: Path) -> None:
    # If this fails, the library has mended it, and `gguf.adapter.tidy` need not strip them.
    with Model(library, base("qwen2")) as model, RowTrainer(model, 64, 1, Adapter(rank=2)) as trainer:
        trainer.save(tmp_path / "raw.gguf")
    assert [t.name for t in GGUFReader(tmp_path / "raw.gguf").tensors if ".bias.lora_" in t.name]


# In the base's own types

#: A type for each kind of grid that gguf can write, and a mix as the library makes it.
OWN: Any = ["f32", "f16", "bf16", "q8_0", "q4_0", "q5_0", "q4_k_m", "q2_k"]


def bytes_of(path: Path) -> dict[str, bytes]:
    """Every tensor's name with its bytes, in their order."""
    header = open_gguf(path)
    return {tensor.name: header.numbers(tensor).tobytes() for tensor in header.tensors}


@pytest.mark.parametrize("kind", OWN)
def test_own_types_change_adapted_tensors_and_nothing_else(engine: Engine, tmp_path: Path, kind: str) -> None:
    base = make_base(tmp_path / "b.gguf", "qwen3", kind=kind, width=256, inner=256, layers=2)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=0.001)
    written = merge(base, adapter, tmp_path / "m.gguf", kind="base")
    before, after = open_gguf(base), open_gguf(tmp_path / "m.gguf")
    assert after.head == before.head
    assert (tmp_path / "m.gguf").stat().st_size == base.stat().st_size
    assert written.types == inspect(base).types
    assert written.retyped == {}
    old, new = bytes_of(base), bytes_of(tmp_path / "m.gguf")
    adapted = {tensor.name.removesuffix(".lora_a") for tensor in open_gguf(adapter).tensors} & set(old)
    assert len(adapted) == written.adapted == 14
    assert {name for name in old if old[name] != new[name]} == adapted
    assert (written.change_per_step is None) == (kind == "f32")


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_own_types_keep_the_change(engine: Engine, tmp_path: Path, kind: str) -> None:
    """Along the change itself nearly all of it is there; the nearest value of the grid has hardly any."""
    base = make_base(tmp_path / "b.gguf", "llama", kind=kind, width=256, inner=512, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size={"q8_0": 3e-5, "q4_k_m": 3e-4}[kind])
    written = merge(base, adapter, tmp_path / "m.gguf", kind="base")
    assert written.change_per_step is not None
    assert written.change_per_step < 0.15
    factors = {t.name: t.data.astype(np.float64) for t in GGUFReader(adapter).tensors}
    before = {t.name: t for t in GGUFReader(base).tensors}
    dot = square = 0.0
    for tensor in GGUFReader(tmp_path / "m.gguf").tensors:
        if f"{tensor.name}.lora_a" in factors:
            change = 2.0 * factors[f"{tensor.name}.lora_b"] @ factors[f"{tensor.name}.lora_a"]
            old = quants.dequantize(before[tensor.name].data, before[tensor.name].tensor_type)
            moved = quants.dequantize(tensor.data, tensor.tensor_type) - old
            dot, square = dot + float((moved * change).sum()), square + float((change * change).sum())
    assert dot / square == pytest.approx(1, abs=0.05)
    assert written.clipped < 0.1


def test_own_types_do_not_depend_on_threads_or_blocks(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind="q4_k_m", width=256, inner=512, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=1e-3)
    first = merge(base, adapter, tmp_path / "1.gguf", kind="base")
    other = merge(base, adapter, tmp_path / "seed.gguf", kind="base", seed=2)
    monkeypatch.setattr(merging, "MOST_THREADS", 1)
    monkeypatch.setattr(merging, "CHUNK_NUMBERS", 256 * 5)
    monkeypatch.setattr(stream, "BLOCK_NUMBERS", 256 * 3)
    again = merge(base, adapter, tmp_path / "2.gguf", kind="base")
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    assert first.change_per_step == pytest.approx(again.change_per_step)
    assert (tmp_path / "1.gguf").read_bytes() != (tmp_path / "seed.gguf").read_bytes()
    assert other.types == first.types


def test_own_types_keep_alignment_unknown_keys_and_other_tensors(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind="q8_0", width=32, inner=32, layers=1)
    path = rewrite(base, tmp_path / "r.gguf", alignment=128, add={"mine.numbers": [1, 2], "mine.text": "Größe"})
    merge(path, write_adapter(tmp_path / "a.gguf", path, size=0.001), tmp_path / "m.gguf", kind="base")
    assert open_gguf(tmp_path / "m.gguf").head == open_gguf(path).head
    assert open_gguf(tmp_path / "m.gguf").alignment == 128


def codebook_base(path: Path, base: Path, name: str) -> Path:
    """`base` with its projections as random blocks of a type without a grid of its own."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    random, kind = np.random.default_rng(3), GGMLQuantizationType[name]
    weights, size = GGML_QUANT_SIZES[kind]
    header = open_gguf(base)
    writer_tensors, types = [], []
    for tensor in header.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            blocks = random.integers(0, 256, (tensor.n_elements // weights, size), np.uint8)
            blocks[:, :2] = np.full((len(blocks), 1), 0.001, "<f2").view(np.uint8)
            writer_tensors.append(blocks.tobytes())
            types.append((tensor, kind))
        else:
            writer_tensors.append(header.numbers(tensor).tobytes())
            types.append((tensor, tensor.tensor_type))
    layout = stream.new_layout(map(header.raw, header.entries.values()), types, header.alignment)
    content = bytearray(layout.size)
    content[: len(layout.head)] = layout.head
    for offset, data in zip(layout.offsets, writer_tensors, strict=True):
        content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "becomes"), [("IQ2_XXS", "Q2_K"), ("IQ2_S", "Q2_K"), ("IQ3_XXS", "Q3_K"), ("IQ3_S", "Q3_K")]
)
def test_a_type_without_a_grid_goes_to_the_smallest_that_is_not_smaller(
    engine: Engine, library: Library, tmp_path: Path, name: str, becomes: str
) -> None:
    base = make_base(tmp_path / "f.gguf", "llama", kind="f16", width=256, inner=256, layers=1)
    path = codebook_base(tmp_path / "b.gguf", base, name)
    adapter = write_adapter(tmp_path / "a.gguf", path, size=0.01)
    with pytest.raises(ModelError, match=f"cannot be written as {becomes} without the engine"):
        merge(path, adapter, tmp_path / "m.gguf", kind="base")
    written = quantize(path, tmp_path / "m.gguf", "base", adapter=adapter)
    assert written.retyped == {f"{name} → {becomes}": 7}
    assert open_gguf(tmp_path / "m.gguf").head[: open_gguf(path).head.index(b"token_embd")] == open_gguf(path).head[
        : open_gguf(path).head.index(b"token_embd")
    ]  # fmt: skip
    before, after = bytes_of(path), bytes_of(tmp_path / "m.gguf")
    assert list(before) == list(after)
    assert before["token_embd.weight"] == after["token_embd.weight"]
    with Model(library, tmp_path / "m.gguf"):
        pass


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_a_type_that_is_the_bases_own_is_rounded_on_its_grid(engine: Engine, tmp_path: Path, kind: str) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind=kind, width=256, inner=256, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=1e-4)
    quantize(base, tmp_path / "q.gguf", kind, adapter=adapter)
    merge(base, adapter, tmp_path / "m.gguf", kind="base")
    assert bytes_of(tmp_path / "q.gguf") == bytes_of(tmp_path / "m.gguf")


@pytest.mark.parametrize(("source", "kind"), [("q4_k_m", "q8_0"), ("q8_0", "q5_k_m"), ("bf16", "q8_0")])
def test_other_types_are_quantized_from_the_exact_weights(
    engine: Engine, tmp_path: Path, source: str, kind: str
) -> None:
    """As if there had been a file of F32 in between."""
    base = make_base(tmp_path / "b.gguf", "llama", kind=source, width=256, inner=256, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=0.01)
    quantize(base, tmp_path / "q.gguf", kind, adapter=adapter)
    factors = {t.name: t.data.astype(np.float64) for t in GGUFReader(adapter).tensors}
    compared = 0
    before = {t.name: t for t in GGUFReader(base).tensors}
    for tensor in GGUFReader(tmp_path / "q.gguf").tensors:
        own = before[tensor.name]
        if f"{tensor.name}.lora_a" in factors and tensor.tensor_type.name == "Q8_0" != own.tensor_type.name:
            change = 2.0 * factors[f"{tensor.name}.lora_b"] @ factors[f"{tensor.name}.lora_a"]
            exact = quants.dequantize(own.data, own.tensor_type) + change.astype(np.float32)
            np.testing.assert_array_equal(tensor.data, quants.quantize(exact, tensor.tensor_type))
            compared += 1
    assert compared == (0 if kind == "q5_k_m" else 7)
    assert {t.name for t in GGUFReader(tmp_path / "q.gguf").tensors} == set(before)


REAL = Path(os.environ.get("REAL_MODELS", Path.home() / ".cache" / "real-models")) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not REAL.is_file(), reason=f"there is no {REAL}")
def test_a_real_base_in_its_own_types(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", REAL, size=1e-4)
    written = merge(REAL, adapter, tmp_path / "m.gguf", kind="base")
    before, after = open_gguf(REAL), open_gguf(tmp_path / "m.gguf")
    assert after.head == before.head
    assert (tmp_path / "m.gguf").stat().st_size == REAL.stat().st_size
    assert written.adapted == 210
    assert written.types["Q4_1"] == 210
    # Each block has its lowest and its highest quant at the ends of the range.
    assert 0.02 < written.clipped < 0.06
    for old, new in zip(before.tensors, after.tensors, strict=True):
        same = np.array_equal(before.numbers(old), after.numbers(new))
        assert same == (not old.name.startswith("blk.") or len(old.shape) == 1), old.name
