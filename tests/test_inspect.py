"""GGUF files that cannot be used: each is refused in one sentence that says what to do; and the facts of a good one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from support.models import make_base, rewrite

from meton_plugins.finetune.errors import ModelError
from meton_plugins.finetune.gguf.chat_template import BUILT_IN
from meton_plugins.finetune.gguf.inspect import check_trainable, fingerprint, inspect, open_gguf

SMALL: Any = {"layers": 1, "width": 32, "inner": 32}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_base(tmp_path / "good.gguf", "llama", **SMALL)


def adapter(path: Path) -> Path:
    """A LoRA on its own."""
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for part in ("a", "b"):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{part}", np.ones((32, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refused(path: Path) -> str:
    """Why training on `path` is refused."""
    with pytest.raises(ModelError) as caught:
        check_trainable(inspect(path))
    assert caught.value.sentence == str(caught.value)
    return caught.value.sentence


def with_bytes(content: bytes) -> Callable[[Path, Path], Path]:
    def make(good: Path, folder: Path) -> Path:
        path = folder / "bad.gguf"
        path.write_bytes(content)
        return path

    return make


BAD: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "missing": (lambda good, to: to / "none.gguf", "There is no file "),
    "a-folder": (lambda good, to: to, "There is no file "),
    "empty": (with_bytes(b""), "is not a GGUF file: "),
    "three-bytes": (with_bytes(b"GGU"), "is not a GGUF file: "),
    "text": (with_bytes(b"not a model\n" * 100), "is not a GGUF file: "),
    "safetensors": (with_bytes(b'\x40\0\0\0\0\0\0\0{"a":{}}'), "is not a GGUF file: "),
    "magic-alone": (with_bytes(b"GGUF"), "is cut short or damaged: "),
    "version-of-the-moon": (with_bytes(b"GGUF" + bytes([99, 0, 0, 0]) + bytes(64)), "is cut short or damaged: "),
    "adapter": (lambda good, to: adapter(to / "a.gguf"), "is an adapter, not a base model: "),
    "projector": (lambda good, to: rewrite(good, to / "p.gguf", add={"general.type": "mmproj"}), "mmproj, not a base"),
    "unknown-architecture": (
        lambda good, to: rewrite(good, to / "g.gguf", architecture="gpt2"),
        "has the architecture 'gpt2', which cannot be trained yet: use one of llama, qwen2, qwen3.",
    ),
    "unsupported-type": (
        lambda good, to: rewrite(good, to / "t.gguf", tensor_type=GGMLQuantizationType.F64),
        "holds F64 tensors, which cannot be trained on: use a Q4_K_M or Q8_0 version.",
    ),
    "vision": (
        lambda good, to: rewrite(good, to / "v.gguf", extra={"v.patch_embd.weight": np.ones((4, 4))}),
        "holds parts for images or sound (v.patch_embd.weight): use the text-only model.",
    ),
    "sound": (
        lambda good, to: rewrite(good, to / "s.gguf", extra={"a.conv.weight": np.ones((4, 4))}),
        "holds parts for images or sound",
    ),
    "no-tokenizer": (
        lambda good, to: rewrite(good, to / "n.gguf", drop="tokenizer.ggml."),
        "has no tokenizer inside: convert it again with its tokenizer.",
    ),
    "split": (
        lambda good, to: rewrite(good, to / "s.gguf", add={"split.count": 3, "split.no": 0}),
        "is one of 3 parts: join them with llama-gguf-split --merge first.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_sentence(good: Path, tmp_path: Path, name: str) -> None:
    make, words = BAD[name]
    sentence = refused(make(good, tmp_path))
    assert words in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert ": " in sentence  # what is wrong: what to do


@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999], ids=lambda part: f"{part:.2%}")
def test_cut_short(good: Path, tmp_path: Path, part: float) -> None:
    content = good.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(part * len(content))])
    assert refused(path) in (
        f"{path} is cut short or damaged: download or copy it again.",
        f"{path} is not a GGUF file: give a model in GGUF format.",
    )


def test_last_byte_missing(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(good.read_bytes()[:-64])
    assert "cut short" in refused(path)


def test_damage_is_never_a_traceback(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    path = tmp_path / "damaged.gguf"
    dice = random.Random(1)
    refusals: list[str] = []
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(dice.choice((1, 3))):
            damaged[dice.randrange(0, 64 if dice.random() < 0.3 else 12_000)] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            check_trainable(inspect(path))
        except ModelError as error:
            refusals.append(error.sentence)
    assert len(refusals) > 20
    assert all(sentence.endswith(".") for sentence in refusals)


@pytest.mark.parametrize(
    ("key", "value"),
    [("llama.block_count", "two"), ("llama.context_length", "many"), ("tokenizer.ggml.eos_token_id", "x")],
)
def test_word_where_a_number_belongs(good: Path, tmp_path: Path, key: str, value: str) -> None:
    path = rewrite(good, tmp_path / "w.gguf", add={key: value})
    assert refused(path) == f"{path} is damaged: download or copy it again."


def test_text_that_is_no_text(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "u.gguf"
    content = good.read_bytes()
    at = content.index(b"{% for m")
    path.write_bytes(content[:at] + b"\xc8" + content[at + 1 :])
    assert refused(path) == f"{path} is damaged: download or copy it again."


def test_file_that_may_not_be_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"cannot be read \(Permission denied\): give a file that you may read\.$"):
        open_gguf(good)


def test_facts(tmp_path: Path) -> None:
    path = make_base(tmp_path / "f.gguf", "qwen3", "spm", layers=3, width=32, inner=64, context=512)
    info = inspect(path)
    check_trainable(info)
    assert (info.architecture, info.kind, info.layers, info.context_length) == ("qwen3", "model", 3, 512)
    assert (info.name, info.tokenizer, info.bos, info.eos) == ("tiny", "llama", "<s>", "</s>")
    assert info.chat_template == BUILT_IN["chatml"]
    assert info.size == path.stat().st_size
    assert info.types == {"F32": len(open_gguf(path).tensors)}
    assert info.parameters == sum(int(np.prod(t.shape)) for t in open_gguf(path).tensors)
    assert (info.splits, info.foreign) == (1, ())


def test_base_without_template_or_special_tokens(tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", chat_template=None, **SMALL)
    path = rewrite(
        base, tmp_path / "n.gguf", drop="tokenizer.ggml.bos_token_id", add={"tokenizer.ggml.eos_token_id": 9**9}
    )
    info = inspect(path)
    assert info.chat_template is None
    assert (info.bos, info.eos) == ("", "")


def test_bf16_can_be_trained(tmp_path: Path) -> None:
    check_trainable(inspect(make_base(tmp_path / "b.gguf", "llama", kind="bf16", **SMALL)))


def test_fingerprint_is_the_sha256_of_the_bytes(good: Path) -> None:
    told: list[tuple[int, int]] = []
    assert (
        fingerprint(good, lambda done, total: told.append((done, total)))
        == hashlib.sha256(good.read_bytes()).hexdigest()
    )
    assert told[-1] == (good.stat().st_size, good.stat().st_size)


def test_blob_of_ollama_is_named_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / f"sha256-{'ab' * 32}"
    path.write_bytes(b"anything")
    assert fingerprint(path) == "ab" * 32
    other = tmp_path / "sha256-short"
    other.write_bytes(b"anything")
    assert fingerprint(other) == hashlib.sha256(b"anything").hexdigest()
