"""Tiny bases for tests: every architecture, tokenizer and tensor type that the engine trains, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, TokenType, quants

from meton_plugins.finetune.engine.file_types import FILE_TYPES
from meton_plugins.finetune.engine.jobs import quantize
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.gguf.chat_template import BUILT_IN
from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny

__all__ = ["MERGES", "PIECES", "Tokenizer", "make_base", "rewrite", "with_specials"]

Tokenizer = Literal["bpe", "spm"]

#: Whole words of both vocabularies; all else is spelled letter by letter.
WORDS: Final = ("the", "answer", "is", "question", "user", "assistant", "blue", "sky", "Paris", "def", "return")


def _merges() -> list[tuple[str, str]]:
    """Byte-level BPE: "Ġ" is the space before a word, "Ċ" a newline; a word grows by one letter a merge."""
    made: dict[tuple[str, str], None] = {("Ċ", "Ċ"): None, ("Ġ", "Ġ"): None}
    for word in WORDS:
        for start in ("", "Ġ"):
            whole = start + word
            for end in range(1, len(whole)):
                made[whole[:end], whole[end]] = None
    return list(made)


def _pieces() -> list[tuple[str, float]]:
    """SentencePiece: single letters, then words that grow by a letter; merged in order, so scores fall."""
    texts: dict[str, None] = {}
    for word in WORDS:
        for start in ("", "▁"):
            whole = start + word
            for end in range(2, len(whole) + 1):
                texts[whole[:end]] = None
    texts["▁▁"] = None
    letters = ["▁", *(chr(n) for n in range(33, 127)), *"äöüéß"]
    return [(text, -float(rank)) for rank, text in enumerate([*texts, *letters])]


MERGES: Final = _merges()
PIECES: Final = _pieces()


def make_base(
    path: Path,
    architecture: str = "qwen2",
    tokenizer: Tokenizer = "bpe",
    kind: str = "f32",
    *,
    chat_template: str | None = BUILT_IN["chatml"],
    **shape: Any,
) -> Path:
    """Write a base with random weights to `path` and return it.

    `kind`: f32, f16, bf16, or a quantization of the engine (which must be installed); K-quants need a width that 256
    divides, which is then the default. `shape`: fields of `TinyShape`.
    """
    quantized = kind in FILE_TYPES and kind != "f16"
    if quantized:
        shape = {"width": 256, "inner": 256, "layers": 1, **shape}
    vocabulary: Any = {"pieces": PIECES} if tokenizer == "spm" else {"merges": MERGES}
    target = path.with_name(f"{path.stem}-f16.gguf") if quantized else path
    make_tiny(
        target,
        TinyShape(architecture, **shape),
        half=kind == "f16" or quantized,
        chat_template=chat_template,
        **vocabulary,
    )
    if quantized:
        quantize(target, path, kind)
        target.unlink()
    elif kind == "bf16":
        rewrite(path, path, tensor_type=GGMLQuantizationType.BF16)
    return path


def rewrite(
    source: Path,
    target: Path,
    *,
    tensor_type: GGMLQuantizationType | None = None,
    drop: str = "",
    add: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    architecture: str | None = None,
    alignment: int | None = None,
    library: Library | None = None,
) -> Path:
    """A copy of a GGUF with something changed: matrices in another type, keys beginning with `drop` left out, keys
    added or replaced (`add`), F32 tensors added (`extra`). `library`: quantizes types that the gguf package cannot."""
    reader = GGUFReader(source)
    old = str(reader.get_field("general.architecture").contents())  # type: ignore[union-attr]
    temporary = target.with_name(f"{target.name}.new")
    writer = GGUFWriter(temporary, architecture or old)
    if alignment:
        writer.add_custom_alignment(alignment)
    changed = add or {}
    for key, field in reader.fields.items():
        if (
            key.startswith("GGUF.")
            or key == "general.architecture"
            or key in changed
            or (drop and key.startswith(drop))
        ):
            continue
        name = key.replace(f"{old}.", f"{architecture}.", 1) if architecture and key.startswith(f"{old}.") else key
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for key, value in changed.items():
        writer.add_key_value(key, value, GGUFValueType.UINT32 if type(value) is int else GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        if tensor_type is None or len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        else:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            if tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F64):
                whole = np.float32 if tensor_type == GGMLQuantizationType.F32 else np.float64
                writer.add_tensor(tensor.name, np.array(values, dtype=whole))
            elif library:
                writer.add_tensor(tensor.name, _quantized(library, values, tensor_type), raw_dtype=tensor_type)
            else:
                writer.add_tensor(tensor.name, quants.quantize(values, tensor_type), raw_dtype=tensor_type)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, np.asarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(target)
    return target


def _quantized(library: Library, values: Any, kind: GGMLQuantizationType) -> Any:
    """The bytes of `values` [rows, columns] as the library quantizes them, each number as important as the others."""
    weights, size = GGML_QUANT_SIZES[kind]
    numbers = np.ascontiguousarray(values, np.float32)
    (rows, columns), out = numbers.shape, np.empty((len(numbers), numbers.shape[1] // weights * size), np.uint8)
    importance = np.ones(columns, np.float32)
    library.ggml_quantize_chunk(
        int(kind), numbers.ctypes.data, out.ctypes.data, 0, rows, columns, importance.ctypes.data
    )
    return out


def with_specials(source: Path, target: Path, names: Sequence[str], *, bos: str, eos: str, add_bos: bool) -> Path:
    """A copy with control tokens `names` added, and `bos` and `eos` named among all tokens. For its vocabulary only."""
    reader = GGUFReader(source)

    def listed(key: str) -> list[Any]:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        return [] if field is None else list(field.contents())

    tokens, types, scores = listed("tokens"), listed("token_type"), listed("scores")
    new = [name for name in names if name not in tokens]
    tokens += new
    types += [int(TokenType.CONTROL)] * len(new)
    add: dict[str, Any] = {"tokens": tokens, "token_type": types, "add_bos_token": add_bos}
    if scores:
        add["scores"] = scores + [0.0] * len(new)
    add |= {"bos_token_id": tokens.index(bos), "eos_token_id": tokens.index(eos)}
    return rewrite(source, target, add={f"tokenizer.ggml.{key}": value for key, value in add.items()})
