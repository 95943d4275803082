"""Our reading of a GGUF's header against the gguf package's, and what is written from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from support.models import make_base, rewrite

from meton_plugins.finetune.gguf.header import make_header, number_entry, read_header

SMALL: Any = {"layers": 1, "width": 32, "inner": 32}


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
@pytest.mark.parametrize("alignment", [None, 128])
def test_says_what_the_package_says(tmp_path: Path, tokenizer: Any, alignment: int | None) -> None:
    base = make_base(tmp_path / "b.gguf", "qwen3", tokenizer, **SMALL)
    more = {"mine.yes": True, "mine.half": 0.5, "mine.parts": [0.25, -1.5], "mine.words": ["été", ""], "mine.text": ""}
    path = rewrite(base, tmp_path / "r.gguf", add=more, alignment=alignment)
    ours, theirs = read_header(path), GGUFReader(path)
    assert {key: ours.value(key) for key in ours.entries} == {
        key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")
    }
    assert ours.data_offset == theirs.data_offset
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (one.name, one.shape, one.tensor_type) == (other.name, tuple(other.shape.tolist()), other.tensor_type)
        assert (one.n_elements, one.n_bytes, one.data_offset) == (other.n_elements, other.n_bytes, other.data_offset)
        assert ours.numbers(one).tobytes() == other.data.tobytes()
    tokens = theirs.fields["tokenizer.ggml.tokens"].contents()
    assert ours.length("tokenizer.ggml.tokens") == len(tokens)
    assert ours.text("tokenizer.ggml.tokens", len(tokens) - 1).decode() == tokens[-1]
    assert (ours.value("none", 7), ours.length("none"), ours.length("mine.half")) == (7, 0, 0)


def test_rows_in_the_middle(tmp_path: Path) -> None:
    path = make_base(tmp_path / "b.gguf", **SMALL)
    header = read_header(path)
    tensor = next(t for t in header.tensors if t.name == "token_embd.weight")
    whole = next(t for t in GGUFReader(path).tensors if t.name == tensor.name).data
    np.testing.assert_array_equal(header.numbers(tensor, 3, 9).view(np.float32), whole[3:9])
    np.testing.assert_array_equal(header.numbers(tensor, tensor.rows - 1).view(np.float32), whole[-1:])


def test_header_is_the_packages_byte_for_byte(tmp_path: Path) -> None:
    path = make_base(tmp_path / "b.gguf", **SMALL)
    header = read_header(path)
    made, offsets = make_header(
        (header.raw(entry) for entry in header.entries.values()),
        ((tensor.name, tensor.shape, tensor.tensor_type, tensor.n_bytes) for tensor in header.tensors),
    )
    assert path.read_bytes().startswith(made)
    assert [len(made) + offset for offset in offsets[:-1]] == [tensor.data_offset for tensor in header.tensors]
    assert len(made) + offsets[-1] == path.stat().st_size


def test_nested_arrays_are_kept(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "n.gguf", "llama")
    writer.add_key_value("mine.pairs", [[1, 2], [3]], GGUFValueType.ARRAY)
    writer.add_key_value("mine.after", 5, GGUFValueType.UINT32)
    writer.add_tensor("x", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(tmp_path / "n.gguf")
    assert header.value("mine.pairs") == [[1, 2], [3]]
    assert header.value("mine.after") == 5
    assert header.raw(header.entries["mine.after"]) == number_entry("mine.after", 5)


def test_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    from meton_plugins.finetune.errors import ModelError

    path = make_base(tmp_path / "b.gguf", **SMALL)
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(header.data_offset + 10)
    with pytest.raises(ModelError, match="became shorter while it was read: copy it again"):
        header.numbers(header.tensors[0])
