"""Quantizing block by block: the library's own file, byte for byte, in a memory that no tensor's size decides."""

from __future__ import annotations

import ctypes as C
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from support.models import make_base
from test_merge import write_adapter

from meton_plugins.finetune.engine.file_types import FILE_TYPES
from meton_plugins.finetune.engine.jobs import TrainingRows, quantize
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.process import Child
from meton_plugins.finetune.errors import FinetuneError
from meton_plugins.finetune.gguf.merge import merge

PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def by_the_library(library: Library, source: Path, target: Path, kind: str) -> bytes:
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[kind], 1
    assert library.llama_model_quantize(str(source).encode(), str(target).encode(), C.byref(params)) == 0
    return target.read_bytes()


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_the_librarys_own_file(engine: Engine, library: Library, tmp_path: Path, kind: str) -> None:
    source = make_base(tmp_path / "b.gguf", "qwen3", kind="f16", width=256, inner=512, layers=2)
    quantize(source, tmp_path / "own.gguf", kind)
    assert (tmp_path / "own.gguf").read_bytes() == by_the_library(library, source, tmp_path / "its.gguf", kind)


@pytest.mark.parametrize("changes", [{"width": 96, "inner": 160}, {"tied": True, "width": 256}], ids=["odd", "tied"])
@pytest.mark.parametrize("half", ["f16", "f32"])
def test_rows_that_fit_no_block_and_shared_heads(
    engine: Engine, library: Library, tmp_path: Path, changes: dict[str, Any], half: str
) -> None:
    source = make_base(tmp_path / "b.gguf", "llama", kind=half, **changes)
    quantize(source, tmp_path / "own.gguf", "q4_k_m")
    own = (tmp_path / "own.gguf").read_bytes()
    assert own == by_the_library(library, source, tmp_path / "its.gguf", "q4_k_m")


# Memory

LARGE: Any = {"width": 512, "heads": 8, "kv_heads": 2, "inner": 32_768, "layers": 1}
DEEP: Any = {"width": 512, "heads": 8, "kv_heads": 2, "inner": 1536, "layers": 16}

MERGE = """
import sys
from pathlib import Path
from meton_plugins.finetune.gguf import merge
import gguf.quants, numpy
numpy.ones((64, 64), numpy.float32) @ numpy.ones((64, 64), numpy.float32)
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024
before = peak()
merge.merge(*map(Path, sys.argv[1:]))
print(peak() - before)
"""


def largest_mb(path: Path) -> float:
    """The largest tensor in F32."""
    return max(4 * int(tensor.n_elements) for tensor in GGUFReader(path).tensors) / 2**20


@pytest.mark.parametrize("shape", [LARGE, DEEP], ids=["large", "deep"])
def test_memory_of_a_merge(tmp_path: Path, shape: dict[str, Any]) -> None:
    base = make_base(tmp_path / "b.gguf", "qwen3", kind="f16", **shape)
    adapter = write_adapter(tmp_path / "a.gguf", base)
    assert base.stat().st_size > 90e6
    command = [sys.executable, "-c", MERGE, str(base), str(adapter), str(tmp_path / "m.gguf")]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Some blocks, and what the adapter adds to 4,096 rows, for this matrix and the next.
    assert grown < 40 + largest_mb(base)


def test_memory_of_a_quantize(engine: Engine, tmp_path: Path) -> None:
    source, peak = make_base(tmp_path / "b.gguf", "qwen3", kind="f16", **LARGE), 0.0
    job = {"kind": "quantize", "source": str(source), "target": str(tmp_path / "q.gguf"), "type": "q8_0", "threads": 2}
    with Child(job) as child:
        for _ in child:
            status = Path(f"/proc/{child.process.pid}/status").read_text(encoding="utf-8")
            peak = max(
                [peak, *(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))]
            )
    # The library alone holds 2.5 of its largest tensor, 160 MB here, besides the 60 MB of the process.
    assert 20 < peak < 60 + largest_mb(source)


SAID = "".join(
    json.dumps({"id": str(n), "messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": a}]})
    + "\n"
    for n, a in enumerate(["The harbour is open.", "No ship came in.", "Two ships left at noon.", "Nobody knows."])
)


def moved_bytes(base: Path, made: Path) -> set[str]:
    old = {tensor.name: tensor.data for tensor in GGUFReader(base).tensors}
    return {tensor.name for tensor in GGUFReader(made).tensors if (tensor.data != old[tensor.name]).any()}


def test_roundings_are_chosen_on_training_rows(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind="q4_k_m", width=256, inner=512, layers=2)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=2e-3)
    file = tmp_path / "train.jsonl"
    file.write_text(SAID, encoding="utf-8")
    rows, told = TrainingRows(file, "", 256, chat_template="chatml"), []
    written = quantize(base, tmp_path / "1.gguf", "base", lambda *at: told.append(at), adapter=adapter, rows=rows)
    assert written.chosen is not None
    assert written.chosen.reason == ""
    assert written.chosen.tensors == written.adapted == 14
    assert written.chosen.rows == 4
    assert written.chosen.error is not None
    assert written.chosen.error < 0.6
    assert told[-1][0] == told[-1][1]
    assert (tmp_path / "1.gguf").stat().st_size == base.stat().st_size
    adapted = {f"blk.{n}.{name}.weight" for n in range(2) for name in PROJECTIONS}
    assert moved_bytes(base, tmp_path / "1.gguf") == adapted
    quantize(base, tmp_path / "2.gguf", "base", adapter=adapter, rows=rows)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    # A type that is the base's own goes the same way.
    q4_k_m = quantize(base, tmp_path / "q.gguf", "q4_k_m", adapter=adapter, rows=rows)
    assert q4_k_m.chosen is not None
    assert q4_k_m.chosen.tensors == 14


def test_without_training_rows_they_go_at_random_and_why_is_said(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind="q4_0", width=64, inner=128, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=2e-3)
    (tmp_path / "empty.jsonl").write_text("")
    for rows, reason in (
        (None, "no training rows were given"),
        (TrainingRows(tmp_path / "empty.jsonl", "", 256, chat_template="chatml"), "no training row is left"),
        (TrainingRows(tmp_path / "gone.jsonl", "", 256, chat_template="chatml"), "gone.jsonl"),
    ):
        written = quantize(base, tmp_path / "m.gguf", "base", adapter=adapter, rows=rows)
        assert written.chosen is not None
        assert written.chosen.tensors == 0
        assert reason in written.chosen.reason
        merge(base, adapter, tmp_path / "merged.gguf", kind="base")
        assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "merged.gguf").read_bytes()


def test_a_change_that_is_no_number_leaves_no_file(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", "llama", kind="q4_0", width=64, inner=128, layers=1)
    adapter = write_adapter(tmp_path / "a.gguf", base, size=float("nan"))
    (tmp_path / "train.jsonl").write_text(SAID, encoding="utf-8")
    rows = TrainingRows(tmp_path / "train.jsonl", "", 256, chat_template="chatml")
    with pytest.raises(FinetuneError, match="no number: train again with a lower learning rate"):
        quantize(base, tmp_path / "m.gguf", "base", adapter=adapter, rows=rows)
    assert not list(tmp_path.glob("*m.gguf*"))
