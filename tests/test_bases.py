"""The base that a user names: found where Ollama keeps it, read in its place, and every refusal says what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from support.models import rewrite

from meton_plugins.finetune.errors import FinetuneError, ModelError, NotFound, ServerError
from meton_plugins.finetune.gguf.tiny import make_tiny
from meton_plugins.finetune.serve.bases import resolve_base
from meton_plugins.finetune.serve.ollama import Server, Show
from meton_plugins.finetune.train.planner import base_record

SHOW = Show(
    name="coder:7b", modelfile="", template="", system="", parameters="", license="MIT", family="qwen2", format="gguf",
    capabilities=frozenset({"completion"}), quantization="Q4_K_M", remote=False,
)  # fmt: skip


class Double:
    """A server that lists one model, and says of it what a test wants."""

    def __init__(self, blob: Path | None, warning: str | None = None, **says: Any) -> None:
        from_line = "" if blob is None else f"FROM {blob}\n"
        self.shown = dataclasses.replace(SHOW, modelfile=f"# Modelfile\n{from_line}TEMPLATE x\n", **says)
        self.warning = warning
        self.asked: list[str] = []

    def exists(self, name: str) -> bool:
        self.asked.append(name)
        return name == self.shown.name

    def show(self, name: str) -> Show:
        return self.shown


def server(blob: Path | None, warning: str | None = None, **says: Any) -> Server:
    return cast(Server, Double(blob, warning, **says))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "good.gguf")


def as_blob(path: Path) -> Path:
    """The file as Ollama keeps it: under its hash."""
    folder = path.parent / "models" / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    return path.rename(folder / f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}")


def test_the_servers_own_file_is_read_in_its_place(good: Path) -> None:
    blob = as_blob(good)
    before = (blob.stat().st_mtime_ns, blob.read_bytes())
    base = resolve_base("coder:7b", server(blob))
    assert (base.path, base.name, base.show and base.show.license) == (blob, "coder:7b", "MIT")
    record = base_record(base.path, base.name)
    assert (record.path, record.name, record.sha256) == (str(blob), "coder:7b", blob.name.removeprefix("sha256-"))
    assert (blob.stat().st_mtime_ns, blob.read_bytes()) == before
    assert list(blob.parent.iterdir()) == [blob], "nothing is copied or left beside it"


def test_a_path_asks_no_server(good: Path) -> None:
    double = server(good)
    assert resolve_base(str(good), double) == (good, None, None)
    assert cast(Double, double).asked == []


def test_a_name_without_a_tag_is_the_latest() -> None:
    double = server(None)
    with pytest.raises(NotFound, match="Ollama has no model coder:latest: type `ollama pull coder:latest`"):
        resolve_base("coder", double)
    assert cast(Double, double).asked == ["coder:latest"]


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        ({"remote": True}, ModelError, "runs on somebody else's machine, so its weights are not here: pull a local"),
        ({"format": "safetensors"}, ModelError, "is kept as safetensors, and only a GGUF can be tuned: pull another"),
        ({}, ModelError, "does not say where the GGUF of coder:7b is: name the file itself."),
    ],
    ids=["remote", "format", "no-place"],
)
def test_what_the_server_says_can_rule_it_out(says: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        resolve_base("coder:7b", server(None, **says))


@pytest.mark.parametrize(
    ("warning", "where"),
    [("far away", "on another machine or in a container"), (None, "in a place this user cannot see")],
    ids=["remote-server", "own-server"],
)
def test_another_machines_path(tmp_path: Path, warning: str | None, where: str) -> None:
    blob = tmp_path / "blobs" / "sha256-1"
    with pytest.raises(NotFound) as caught:
        resolve_base("coder:7b", server(blob, warning))
    assert caught.value.sentence == (
        f"The server keeps coder:7b {where} ({blob}): copy the GGUF to this machine and name the copy."
    )


UNREADABLE = "You may not read {what} ({path}): ask for the right, or name a copy that is yours."


def test_a_file_that_may_not_be_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may read everything, so the system's answer is changed and not the file.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for text, what in (("coder:7b", "coder:7b"), (str(good), str(good))):
        with pytest.raises(ModelError) as caught:
            resolve_base(text, server(good))
        assert caught.value.sentence == UNREADABLE.format(what=what, path=good)


def test_a_folder_that_may_not_be_looked_into(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ollama's service keeps its files in a folder of its own user's: Python then raises where others say no."""

    def refuse(self: Path, **_options: Any) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    blob = as_blob(good)
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self, **o: refuse(self) if "blobs" in self.parts else real(self, **o))
    with pytest.raises(ModelError) as caught:
        resolve_base("coder:7b", server(blob))
    assert caught.value.sentence == UNREADABLE.format(what="coder:7b", path=blob)


def test_no_server_and_no_file() -> None:
    with pytest.raises(NotFound, match="no Ollama server was asked"):
        resolve_base("coder:7b", None)
    with pytest.raises(
        ServerError, match=r"There is no file coder:7b, and a model of that name needs the server: No O"
    ):
        resolve_base("coder:7b", Server("127.0.0.1:1"))


BAD: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "vision": (
        lambda good, to: rewrite(good, to, extra={"v.patch_embd.weight": np.ones((4, 4))}),
        "coder:7b holds parts for images or sound (v.patch_embd.weight): use the text-only model.",
    ),
    "draft": (
        lambda good, to: rewrite(good, to, extra={"mtp.head.weight": np.ones((4, 4))}),
        "coder:7b holds parts for images or sound (mtp.head.weight): use the text-only model.",
    ),
    "type": (
        lambda good, to: rewrite(good, to, tensor_type=GGMLQuantizationType.F64),
        "coder:7b holds F64 tensors, which cannot be trained on: use a Q4_K_M or Q8_0 version.",
    ),
    "adapter": (
        lambda good, to: rewrite(good, to, add={"general.type": "adapter"}),
        "coder:7b is an adapter, not a base model: give the model that it belongs to.",
    ),
    "mmproj": (
        lambda good, to: rewrite(good, to, add={"general.type": "mmproj"}),
        "coder:7b is an mmproj, not a base model: give the model that it belongs to.",
    ),
    "split": (
        lambda good, to: rewrite(good, to, add={"split.count": 3, "split.no": 0}),
        "coder:7b is one of 3 parts: join them with llama-gguf-split --merge first.",
    ),
    "architecture": (
        lambda good, to: rewrite(good, to, architecture="gpt2"),
        "coder:7b has the architecture 'gpt2', which cannot be trained yet: use one of llama, qwen2, qwen3.",
    ),
    "tokenizer": (
        lambda good, to: rewrite(good, to, drop="tokenizer.ggml."),
        "coder:7b has no tokenizer inside: convert it again with its tokenizer.",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_cannot_be_tuned_is_refused_under_its_own_name(good: Path, tmp_path: Path, kind: str) -> None:
    make, sentence = BAD[kind]
    base = resolve_base("coder:7b", server(as_blob(make(good, tmp_path / "bad.gguf"))))
    with pytest.raises(FinetuneError) as caught:
        base_record(base.path, base.name)
    assert caught.value.sentence == sentence, "the hash that Ollama calls the file by helps nobody"
