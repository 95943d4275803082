"""What a GGUF file is, and whether it can be trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import ModelError
from .header import Header, read_header

__all__ = [
    "ARCHITECTURES",
    "LIBRARY_TYPES",
    "TRAINABLE_TYPES",
    "GgufInfo",
    "check_library_trainable",
    "check_trainable",
    "fingerprint",
    "inspect",
    "open_gguf",
    "sha256_of",
]

#: Architectures whose gradients our tests compare with finite differences.
ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")

#: Tensor types that our own pass trains on: all that the engine can unpack.
TRAINABLE_TYPES: Final = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K", "MXFP4",
    "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0",
)  # fmt: skip

#: Those that the engine's own training graph was seen to train on; others abort its process or were never tried.
LIBRARY_TYPES: Final = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q5_0", "Q4_0")

#: Vision, audio and draft parts, which a text adapter cannot follow.
FOREIGN_TENSORS: Final = re.compile(r"^(v|mm|a|s|mtp)\.")

#: Ollama names its files by content, so the name is the hash.
BLOB: Final = re.compile(r"sha256-([0-9a-f]{64})")


@dataclass(frozen=True)
class GgufInfo:
    """The facts of one GGUF file. `types` counts tensors by type; sizes are in bytes."""

    path: Path
    size: int
    kind: str
    architecture: str
    name: str
    parameters: int
    layers: int
    context_length: int
    vocabulary: int
    tokenizer: str
    chat_template: str | None
    bos: str
    eos: str
    types: dict[str, int] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    splits: int = 1

    @property
    def quantized(self) -> bool:
        """Whether any of its weights are more coarse than F16."""
        return bool(self.types.keys() - {"F32", "F16"})


def open_gguf(path: Path) -> Header:
    """The header of `path`; ModelError where it is missing, not GGUF, or cut short."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}: give the path of a GGUF file or the name of an Ollama model.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror or error}): give a file that you may read."
        ) from error
    if start != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: give a model in GGUF format.")
    try:
        return read_header(path)
    except Exception as error:  # whatever Python says of bytes that are not there or mean nothing
        raise ModelError(f"{path} is cut short or damaged: download or copy it again.") from error


def inspect(path: Path) -> GgufInfo:
    """Read the header of `path`; ModelError where that fails."""
    header = open_gguf(path)
    try:
        return _facts(header)
    except (ValueError, TypeError, IndexError) as error:  # a text that is no UTF-8, a word where a number belongs
        raise ModelError(f"{path} is damaged: download or copy it again.") from error


def _facts(header: Header) -> GgufInfo:
    path, value = header.path, header.value
    architecture = str(value("general.architecture", ""))
    types: dict[str, int] = {}
    for tensor in header.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    vocabulary = header.length("tokenizer.ggml.tokens")

    def token(key: str) -> str:
        number = value(key)
        if number is None or not 0 <= int(number) < vocabulary:
            return ""
        return header.text("tokenizer.ggml.tokens", int(number)).decode("utf-8", "replace")

    return GgufInfo(
        path=path,
        size=path.stat().st_size,
        kind=str(value("general.type", "model")),
        architecture=architecture,
        name=str(value("general.name", path.stem)),
        parameters=sum(tensor.n_elements for tensor in header.tensors),
        layers=int(value(f"{architecture}.block_count", 0)),
        context_length=int(value(f"{architecture}.context_length", 0)),
        vocabulary=vocabulary,
        tokenizer=str(value("tokenizer.ggml.model", "")),
        chat_template=value("tokenizer.chat_template"),
        bos=token("tokenizer.ggml.bos_token_id"),
        eos=token("tokenizer.ggml.eos_token_id"),
        types=types,
        foreign=tuple(t.name for t in header.tensors if FOREIGN_TENSORS.match(t.name)),
        splits=int(value("split.count", 1) or 1),
    )


def check_trainable(info: GgufInfo, name: str | None = None) -> None:
    """ModelError, in one sentence, where a LoRA cannot be trained on this file, which the user calls `name`."""
    # A file of Ollama's is called by its hash, which nobody typed.
    file = name or info.path.name
    if info.kind in ("adapter", "mmproj"):
        raise ModelError(f"{file} is an {info.kind}, not a base model: give the model that it belongs to.")
    if info.splits > 1:
        raise ModelError(f"{file} is one of {info.splits} parts: join them with llama-gguf-split --merge first.")
    if info.architecture not in ARCHITECTURES:
        raise ModelError(
            f"{file} has the architecture {info.architecture or 'unknown'!r}, which cannot be trained yet: "
            f"use one of {', '.join(ARCHITECTURES)}."
        )
    if info.foreign:
        raise ModelError(f"{file} holds parts for images or sound ({info.foreign[0]}): use the text-only model.")
    if not info.tokenizer or not info.vocabulary:
        raise ModelError(f"{file} has no tokenizer inside: convert it again with its tokenizer.")
    bad = [name for name in info.types if name not in TRAINABLE_TYPES]
    if bad:
        raise ModelError(f"{file} holds {bad[0]} tensors, which cannot be trained on: use a Q4_K_M or Q8_0 version.")


def check_library_trainable(info: GgufInfo, reason: str | None = None) -> None:
    """ModelError where the engine's own pass has to train this file, for `reason` (after "because"), and cannot."""
    bad = [name for name in info.types if name not in LIBRARY_TYPES]
    if bad:
        why = f"because {reason}" if reason else "with accelerate off"
        raise ModelError(
            f"{info.path.name} holds {bad[0]} tensors, which only our own pass trains on, and that cannot be used here "
            f"{why}: use a Q4_K_M or Q8_0 version."
        )


def fingerprint(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """sha256 of the file, as hex. An Ollama blob's own name is taken for it. `progress(bytes_done, bytes_total)`."""
    named = BLOB.fullmatch(path.name)
    return named.group(1) if named else sha256_of(path, progress)


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """sha256 of the file's bytes, whatever its name, as hex. `progress(bytes_done, bytes_total)`."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    return digest.hexdigest()
