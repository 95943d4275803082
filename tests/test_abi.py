"""The ctypes side against the C headers that came with the engine: fields in order, types, constants, signatures."""

from __future__ import annotations

import ctypes as C
import functools
import re
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.engine import adapted, gradient, library
from meton_plugins.finetune.engine.abi import (
    ABORT_CALLBACK,
    EPOCH_CALLBACK,
    EVAL_CALLBACK,
    FUNCTIONS,
    LOG_CALLBACK,
    STRUCTS,
)
from meton_plugins.finetune.engine.file_types import FILE_TYPES
from meton_plugins.finetune.engine.package import HEADERS, Engine
from meton_plugins.finetune.settings import PROJECTIONS

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_CONSTANTS = {"GGML_MAX_DIMS", "GGML_MAX_OP_PARAMS", "GGML_MAX_SRC", "GGML_MAX_NAME"}

#: C's plain types; a pointer of any kind is told apart before this is asked.
PLAIN: dict[str, Any] = {
    "int8_t": C.c_int8, "int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64, "uint64_t": C.c_uint64,
    "int": C.c_int, "size_t": C.c_size_t, "float": C.c_float, "double": C.c_double, "bool": C.c_bool, "char": C.c_char,
    "llama_token": C.c_int32, "llama_pos": C.c_int32, "llama_seq_id": C.c_int32,
}  # fmt: skip

CALLBACKS = (EVAL_CALLBACK, EPOCH_CALLBACK, LOG_CALLBACK, ABORT_CALLBACK)


class Headers:
    """The package's headers as text without comments, and what the tests look up in them."""

    def __init__(self, include: Path) -> None:
        texts = [(include / name).read_text(encoding="utf-8") for name in HEADERS]
        self.text = _COMMENT.sub("", "\n".join(texts))
        self.functions = set(re.findall(r"typedef\s+[\w\s*]+\(\s*\*\s*(\w+)\s*\)", self.text))
        pattern = r"typedef\s+struct\s+\w+\s*\*\s*(\w+)\s*;"
        self.handles = set(re.findall(pattern, self.text))
        self.numbers = {
            name: int(value)
            for name, value in re.findall(r"#\s*define\s+(\w+)\s+(\d+)\b", self.text)
            if name in _CONSTANTS
        }

    def body(self, keyword: str, name: str) -> str:
        """What stands between the braces of `struct name` or `enum name`."""
        found = re.search(rf"\b{keyword}\s+{name}\s*\{{", self.text)
        assert found, f"no {keyword} {name} in the headers"
        depth, start = 1, found.end()
        for index in range(start, len(self.text)):
            depth += {"{": 1, "}": -1}.get(self.text[index], 0)
            if depth == 0:
                return self.text[start:index]
        raise AssertionError(f"{keyword} {name} has no end")

    def fields(self, struct: str) -> list[tuple[str, Any]]:
        """Name and ctypes type of each field; structs within are laid flat, their names put before."""
        body = self.body("struct", struct)
        made: list[tuple[str, Any]] = []
        for inner, name in re.findall(r"struct\s*\{([^{}]*)\}\s*(\w+)\s*;", body):
            body = body.replace(inner, "", 1)
            made += [(f"{name}.{field}", kind) for field, kind in self._plain_fields(inner)]
        body = re.sub(r"struct\s*\{\s*\}\s*\w+\s*;", "", body)
        return self._plain_fields(body) + made

    def _plain_fields(self, body: str) -> list[tuple[str, Any]]:
        made: list[tuple[str, Any]] = []
        for declaration in body.split(";"):
            text = " ".join(declaration.split())
            if text:
                found = re.fullmatch(r"(.+?)(\w+)((?:\s*\[[^\]]+\])?)", text)
                assert found, f"cannot read the field {text!r}"
                made.append((found[2], self._kind(found[1], found[3])))
        return made

    def _kind(self, written: str, array: str) -> Any:
        stars = written.count("*")
        words = [w for w in written.replace("*", " ").split() if w not in ("const", "struct")]
        if stars or words[-1] in self.functions | self.handles:
            kind: Any = C.c_void_p
        elif words[0] == "enum":
            kind = C.c_int
        else:
            assert words[-1] in PLAIN, f"unknown C type {written!r}"
            kind = PLAIN[words[-1]]
        if array:
            size = eval(
                array.strip(" []"), {"__builtins__": {}, "sizeof": lambda t: 4, "int32_t": 0}, dict(self.numbers)
            )
            kind = kind * int(size)
        return kind

    def values(self, enum: str) -> dict[str, int]:
        """Names and numbers of an enum."""
        made: dict[str, int] = {}
        number = -1
        for entry in self.body("enum", enum).split(","):
            text = " ".join(entry.split())
            if not text:
                continue
            name, _, written = (part.strip() for part in text.partition("="))
            number = int(eval(written, {"__builtins__": {}}, made)) if written else number + 1
            made[name] = number
        return made

    def signature(self, function: str) -> tuple[str, list[str]]:
        """Result and arguments as written, without names."""
        for found in re.finditer(rf"\b{function}\s*\(([^()]*)\)", self.text):
            line = re.split(r"[;{}()]", self.text[: found.start()][-400:])[-1]
            result = re.fullmatch(r"(?:GGML|LLAMA|GGML_BACKEND)_API\b(.*)", " ".join(line.split()))
            if result:
                inside = " ".join(found[1].split())
                return result[1].strip(), [] if inside in ("", "void") else [a.strip() for a in inside.split(",")]
        raise AssertionError(f"no function {function} in the headers")


@functools.lru_cache(maxsize=1)
def _read(include: Path) -> Headers:
    return Headers(include)


@pytest.fixture
def headers(engine: Engine) -> Headers:
    return _read(engine.include.resolve())


def _like(kind: Any) -> Any:
    """`kind` with every sort of pointer made the same: ours are void where nothing is read through them."""
    if kind in (C.c_void_p, C.c_char_p) or (isinstance(kind, type) and issubclass(kind, C._Pointer)):
        return C.c_void_p
    return kind


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_the_headers(headers: Headers, name: str) -> None:
    ours = [(field[0], _like(field[1])) for field in STRUCTS[name]._fields_]
    theirs = headers.fields(name)
    if name == "ggml_opt_optimizer_params":
        flat = ["adamw.alpha", "adamw.beta1", "adamw.beta2", "adamw.eps", "adamw.wd", "sgd.alpha", "sgd.wd"]
        assert [field for field, _ in theirs] == flat
        theirs = [(mine[0], kind) for mine, (_, kind) in zip(ours, theirs, strict=True)]
    assert [field for field, _ in ours] == [field for field, _ in theirs]
    for (field, mine), (_, their) in zip(ours, theirs, strict=True):
        assert _same(mine, their), f"{name}.{field}: {mine} is not {their}"
    built = type("Built", (C.Structure,), {"_fields_": theirs})
    assert C.sizeof(STRUCTS[name]) == C.sizeof(built)


def _same(mine: Any, their: Any) -> bool:
    if issubclass(mine, C.Array):
        return issubclass(their, C.Array) and mine._length_ == their._length_ and _same(mine._type_, their._type_)
    return _like(mine) is _like(their) or (mine, their) == (C.c_int, C.c_int32)


def test_size_of_tensor(headers: Headers) -> None:
    # By hand, so that a mistake that our parser and our struct share is seen: x86-64 and arm64 Linux alike.
    assert C.sizeof(STRUCTS["ggml_tensor"]) == 336


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_the_headers(headers: Headers, name: str) -> None:
    result, arguments = headers.signature(name)
    our_result, our_arguments = FUNCTIONS[name]
    assert _fits(headers, our_result, result), f"{name} returns {result}"
    assert len(our_arguments) == len(arguments), f"{name} takes {arguments}"
    for mine, written in zip(our_arguments, arguments, strict=True):
        assert _fits(headers, mine, written, argument=True), f"{name}: {mine} for {written!r}"


def _fits(headers: Headers, mine: Any, written: str, *, argument: bool = False) -> bool:
    """Whether a ctypes type can stand for the C type `written` (with the name of the argument behind it)."""
    words = written.replace("*", " * ").replace("const ", " ").split()
    pointer = "*" in words
    words = [w for w in words if w not in ("*", "struct")]
    if argument and len(words) > (2 if words[0] == "enum" else 1):
        words = words[:-1]
    if mine is None:
        return words == ["void"] and not pointer
    if pointer or words[-1] in headers.functions | headers.handles:
        return _like(mine) is C.c_void_p or mine in CALLBACKS
    if words[0] == "enum":
        return mine is C.c_int
    if words[-1] in STRUCTS:
        return mine is STRUCTS[words[-1]]
    return _same(mine, PLAIN[words[-1]])


def test_number_of_operations(headers: Headers) -> None:
    assert headers.values("ggml_op")["GGML_OP_COUNT"] == library.OPERATIONS


def test_number_of_the_optimizer_step(headers: Headers, library: library.Library) -> None:
    assert library.op("OPT_STEP_ADAMW") == headers.values("ggml_op")["GGML_OP_OPT_STEP_ADAMW"]


def test_no_operation_is_zero(headers: Headers) -> None:
    # A node is taken over by writing 0 into its op.
    assert headers.values("ggml_op")["GGML_OP_NONE"] == 0


def test_projection_bits(headers: Headers) -> None:
    modules = headers.values("llama_lora_target_module")
    names = {
        "attn_q": "ATTN_Q", "attn_k": "ATTN_K", "attn_v": "ATTN_V", "attn_output": "ATTN_O", "ffn_gate": "FFN_GATE",
        "ffn_up": "FFN_UP", "ffn_down": "FFN_DOWN",
    }  # fmt: skip
    assert tuple(names) == PROJECTIONS
    bits = {ours: modules[f"LLAMA_LORA_TARGET_{theirs}"] for ours, theirs in names.items()}
    assert bits == adapted.TARGET_BITS


@pytest.mark.parametrize(
    ("enum", "name", "value"),
    [
        ("ggml_type", "GGML_TYPE_F32", 0),  # type_k, type_v
        ("ggml_type", "GGML_TYPE_I32", gradient.I32),
        ("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_DISABLED", 0),
        ("ggml_opt_optimizer_type", "GGML_OPT_OPTIMIZER_TYPE_ADAMW", 0),
        ("llama_load_mode", "LLAMA_LOAD_MODE_NONE", 0),
    ],
    ids=lambda value: str(value),
)
def test_numbers_that_are_written_down(headers: Headers, enum: str, name: str, value: int) -> None:
    assert headers.values(enum)[name] == value


@pytest.mark.parametrize("name", FILE_TYPES)
def test_file_types(headers: Headers, name: str) -> None:
    prefix = "LLAMA_FTYPE_MOSTLY_"
    assert FILE_TYPES[name] == headers.values("llama_ftype")[prefix + name.upper()]
