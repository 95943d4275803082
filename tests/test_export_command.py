"""`/export`: a run's tuned model as GGUF, its adapter, and nothing half done."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from gguf import GGUFReader
from support.host import RecordingHost, User
from support.models import rewrite
from support.runs import Bench, until

from meton_plugins.finetune.commands import export
from meton_plugins.finetune.commands.export import VERBS
from meton_plugins.finetune.engine.file_types import FILE_TYPES
from meton_plugins.finetune.gguf.inspect import fingerprint, inspect
from meton_plugins.finetune.paths import engine_dir
from meton_plugins.finetune.serve import export as service
from meton_plugins.finetune.serve.export import export_model
from meton_plugins.finetune.serve.export_record import Export, read_export
from meton_plugins.finetune.train.runs import Run

pytest_plugins = ["support.run_fixtures"]


class Typed(User):
    """A user of /export."""

    def __init__(self, bench: Bench) -> None:
        host = RecordingHost(bench.home.root)
        super().__init__(host, export.make(host, bench.home))
        self.folder = bench.home.models / "one"

    @property
    def files(self) -> list[str]:
        """What lies in the run's folder of exports, but for the lock."""
        if not self.folder.exists():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.name != "export.lock")


@pytest.fixture
def typed(bench: Bench, trained: Run) -> Typed:
    return Typed(bench)


def types(path: Path) -> set[str]:
    return {tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


# Words


@pytest.mark.parametrize("line", ["", "--help", "help"])
def test_help(typed: Typed, line: str) -> None:
    said = typed(line)
    assert said.startswith("usage: /export VERB")
    assert all(f"\n  {verb} " in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(typed: Typed, verb: str) -> None:
    assert typed(f"{verb} --help").startswith(f"usage: /export {verb}")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("frobnicate", 2, "/export has no word 'frobnicate': it has model, adapter, report."),
        ("model one two", 2, "/export model does not take two"),
        ("model --quant q9_9", 2, "There is no quantization 'q9_9': choose one of base, f16, q8_0"),
        ("model --quant '[/INST]'", 2, "There is no quantization '[/INST]'"),
        ("model --quant ''", 2, "Say which quantization to write, such as --quant q4_k_m."),
        ("model --quant ,,", 2, "Say which quantization to write"),
        ("model --adapter middle", 2, "--adapter takes best, last, not 'middle'."),
        ("model nope", 1, "There is no run 'nope': there are one."),
        ("adapter nope", 1, "There is no run 'nope'"),
        ("model ../one", 2, "cannot name a run"),
    ],
)
def test_wrong_lines(typed: Typed, line: str, code: int, words: str) -> None:
    assert words in typed.refused(line, code)
    assert typed.files == []


def test_without_a_run(bench: Bench) -> None:
    assert Typed(bench).refused("model") == "✗ There is no run yet: start one with /finetune start."


# A model


def test_a_model_in_two_types(typed: Typed, bench: Bench, trained: Run) -> None:
    lines = typed("model --quant q8_0,F16").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["q8_0", "f16"]
    assert lines[0].endswith(str(typed.folder / "one-q8_0.gguf"))
    assert lines[-1] == "Next: /model-register add one"
    assert typed.files == ["export.json", "one-f16.gguf", "one-q8_0.gguf"]
    assert types(typed.folder / "one-f16.gguf") == {"F16", "F32"}
    assert "Q8_0" in types(typed.folder / "one-q8_0.gguf")
    made = read_export(typed.folder)
    assert made is not None
    assert made.base == {"path": str(bench.base), "name": None, "sha256": fingerprint(bench.base)}
    assert (made.run, made.adapter, made.template) == ("one", "best", "bare")
    assert made.adapter_sha256 == fingerprint(trained.adapter("best"))
    for file in made.files:
        path = Path(file.path)
        assert (file.bytes, file.sha256) == (path.stat().st_size, fingerprint(path))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in typed.folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(typed.folder.stat().st_mode) == 0o700


def test_an_unquantized_base_is_quantized_unless_said_otherwise(typed: Typed) -> None:
    typed("model")
    assert typed.files == ["export.json", "one-q4_k_m.gguf"]


def test_an_export_as_json(typed: Typed) -> None:
    said = typed.json("model one --quant q8_0")
    assert Export.model_validate(said) == read_export(typed.folder)
    assert typed.json("model nope", code=1) == {"error": "There is no run 'nope': there are one."}


def test_twice_does_no_work(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("model --quant q8_0")
    before = {name: (typed.folder / name).stat().st_mtime_ns for name in typed.files}

    def never(*_: Any) -> None:
        pytest.fail("nothing is to be written")

    with monkeypatch.context() as patch:
        patch.setattr(service, "merge", never)
        patch.setattr(service, "quantize", never)
        assert "Everything was there already; nothing was written." in typed("model --quant q8_0,Q8_0")
    assert {name: (typed.folder / name).stat().st_mtime_ns for name in typed.files} == before
    said = typed("model --quant q4_0")
    assert "Everything" not in said
    assert [line.split()[0] for line in said.splitlines()[:2]] == ["q8_0", "q4_0"]
    assert (typed.folder / "one-q8_0.gguf").stat().st_mtime_ns == before["one-q8_0.gguf"]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"GGUF")], ids=["gone", "cut"])
def test_a_file_that_is_no_longer_whole_is_written_again(typed: Typed, spoil: Any) -> None:
    typed("model --quant q8_0")
    whole = (typed.folder / "one-q8_0.gguf").read_bytes()
    spoil(typed.folder / "one-q8_0.gguf")
    assert "Everything" not in typed("model --quant q8_0")
    assert (typed.folder / "one-q8_0.gguf").read_bytes() == whole


def test_another_adapter_replaces_the_files_of_the_first(typed: Typed, trained: Run) -> None:
    shutil.copy(trained.folder / "checkpoints" / "step_00000055" / "adapter.gguf", trained.folder / "best.gguf")
    typed("model --quant q8_0,q4_0")
    best = (typed.folder / "one-q8_0.gguf").read_bytes()
    typed("model --quant q8_0 --adapter last")
    assert typed.files == ["export.json", "one-q8_0.gguf"], "no file is left under a name that now means another model"
    assert (typed.folder / "one-q8_0.gguf").read_bytes() != best
    made = read_export(typed.folder)
    assert made is not None
    assert (made.adapter, made.adapter_sha256) == ("last", fingerprint(trained.adapter("last")))


def test_every_type_that_is_offered_can_be_written(typed: Typed) -> None:
    typed(f"model --quant {','.join(FILE_TYPES)}")
    assert len([name for name in typed.files if name.endswith(".gguf")]) == len(FILE_TYPES)


def records(path: Path) -> dict[str, bytes]:
    """Every key of a GGUF with the bytes that stand for it: its name, types and value."""
    fields = GGUFReader(path).fields
    return {key: b"".join(bytes(part) for part in fields[key].parts) for key in fields if not key.startswith("GGUF.")}


def test_all_that_serving_needs_is_kept_byte_for_byte(own_base: Bench) -> None:
    """Chat template, tokenizer, ends of a turn, rope settings, licence and notes: only the file's own type changes."""
    architecture = inspect(own_base.base).architecture
    rope = {"freq_base": 1e6, "scaling.type": "linear", "scaling.factor": 2.0, "scaling.finetuned": True}
    added = {
        **{f"{architecture}.rope.{key}": value for key, value in rope.items()},
        f"{architecture}.attention.sliding_window": 4096,
        "tokenizer.ggml.eot_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.chat_template.tool_use": "{% for tool in tools %}{{ tool }}{% endfor %}\n",
        "general.license": "other",
        "general.license.name": "größe-1.0",
        "general.tags": ["chat", "été"],
    }
    rewrite(own_base.base, own_base.base, add=added)
    own_base.train(epochs=1)
    typed = Typed(own_base)
    typed("model --quant f16,q8_0,q4_k_m --no-check")
    before = records(own_base.base)
    assert set(added) < set(before)
    assert {"tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"} < set(before)
    for quant in ("f16", "q8_0", "q4_k_m"):
        after = records(typed.folder / f"one-{quant}.gguf")
        assert set(after) - set(before) <= {"general.file_type", "general.quantization_version"}
        changed = [key for key, value in before.items() if after.get(key) != value]
        assert set(changed) <= {"general.file_type"}, quant


# An adapter


def test_an_adapter(typed: Typed, trained: Run, bench: Bench) -> None:
    lines = typed("adapter").splitlines()
    copy = typed.folder / "one-adapter.gguf"
    assert lines[0].split()[0] == "adapter"
    assert lines[0].endswith(str(copy))
    assert lines[1] == f"Belongs to the base with sha256 {fingerprint(bench.base)}."
    assert copy.read_bytes() == trained.adapter("best").read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    said = typed.json("adapter --adapter last")
    assert said["base_sha256"] == fingerprint(bench.base)
    assert copy.read_bytes() == trained.adapter("last").read_bytes()
    assert typed.files == ["one-adapter.gguf"]


@pytest.mark.parametrize("line", ["model", "adapter", "model --adapter last"])
def test_a_run_without_an_adapter(typed: Typed, trained: Run, line: str) -> None:
    (trained.folder / "adapter.gguf").unlink()
    (trained.folder / "best.gguf").unlink()
    assert typed.refused(line).startswith("✗ The run one has no adapter yet: wait for its first epoch")
    assert typed.files == []


# What stands in the way


def test_a_base_that_changed(own_base: Bench) -> None:
    run = own_base.train(epochs=1)
    with own_base.base.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    typed = Typed(own_base)
    assert "has changed since the run began: put the old one back" in typed.refused("model")
    own_base.base.unlink()
    assert f"The base {own_base.base} is gone: put it back, or name where it is now" in typed.refused("model")
    assert typed.files == []
    assert "adapter" in typed("adapter"), "an adapter needs no base"
    assert run.status == "finished"


def test_no_engine(typed: Typed) -> None:
    engine_dir().unlink()
    assert "The training engine is not installed" in typed.refused("model --quant q8_0")
    assert "f16" in typed("model --quant f16"), "merging needs none"


def test_not_enough_disk(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=100_000))
        said = typed.refused("model --quant q8_0")
    assert said == f"✗ The export needs 0.0 GB of disk and {typed.folder} has 0.0 GB free: make room."
    assert typed.files == []
    typed("model --quant q8_0")


@pytest.fixture
def small_models(bench: Bench) -> Iterator[Path]:
    """The folder of models on a file system of a few hundred kB, whose free space looks larger than it is."""
    models = bench.home.models
    models.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=320k,mode=700", "tmpfs", str(models)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield models
    finally:
        subprocess.run(["umount", "--lazy", models], check=True)


def test_the_disk_fills_up_in_the_middle(typed: Typed, small_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_models / "filler").write_bytes(b"\0" * 270_000)
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage)
        said = typed.refused("model --quant q8_0")
    assert "disk" in said or "No space left" in said
    assert not [name for name in typed.files if "q8_0" in name or name.startswith(".") or name == "export.json"]
    (small_models / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", small_models], check=True)
    typed("model --quant q8_0")
    assert typed.files == ["export.json", "one-q8_0.gguf"]


def test_one_export_of_a_run_at_a_time(typed: Typed, bench: Bench) -> None:
    typed.folder.mkdir(parents=True)
    with FileLock(typed.folder / "export.lock"):
        said: list[str] = []
        other = threading.Thread(target=lambda: said.append(Typed(bench).refused("model")))
        other.start()
        other.join()
    assert said == ["✗ Another session is exporting one: wait for it, then type the same again."]
    typed("model --quant q8_0")


# Killed in the middle

#: A session whose merge takes its time.
SLOW_MERGE = """
import sys, time
from meton_plugins.finetune.gguf import merge
quick = merge._quantized
def slow(*arguments):
    time.sleep(0.05)
    return quick(*arguments)
merge._quantized = slow
from meton_plugins.finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("quant", "code"), [("f16", SLOW_MERGE), ("q8_0", None)])
def test_a_killed_export_leaves_nothing_under_a_files_name(
    typed: Typed, bench: Bench, quant: str, code: str | None
) -> None:
    words = ["export", "model", "one", "--quant", quant]
    program = ["-c", code] if code else ["-m", "meton_plugins.finetune"]
    moment = f".one-{quant}.gguf.*.tmp"
    with subprocess.Popen([sys.executable, *program, *words], stdout=subprocess.PIPE, text=True) as session:
        until(lambda: list(typed.folder.glob(moment)) or session.poll() is not None, f"there is {moment}")
        assert session.poll() is None, "the export was over before the test could touch it"
        session.send_signal(signal.SIGKILL)
        session.wait()
    assert "export.json" not in typed.files
    assert f"one-{quant}.gguf" not in typed.files
    assert [line.split()[0] for line in typed(f"model one --quant {quant}").splitlines()[:1]] == [quant]
    assert typed.files == ["export.json", f"one-{quant}.gguf"]


def test_the_f16_file_of_a_killed_earlier_version_goes(typed: Typed) -> None:
    typed.folder.mkdir(parents=True, mode=0o700)
    (typed.folder / "one-f16.gguf").write_bytes(b"half")
    typed("model --quant q8_0")
    assert typed.files == ["export.json", "one-q8_0.gguf"]


def test_progress_names_its_stages(bench: Bench, trained: Run) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}
    export_model(
        bench.home,
        trained,
        ["q8_0"],
        "best",
        lambda stage, done, total: stages.setdefault(stage, []).append((done, total)),
    )
    assert list(stages) == [
        "writing q8_0",
        "hashing q8_0",
        "measuring the base",
        "measuring the adapter",
        "measuring q8_0",
    ]
    for seen in stages.values():
        assert seen == sorted(seen)
        done, total = seen[-1]
        assert done == total
