"""A data folder of an older version (tests/data/f199d7f.tar.gz, made by that commit) opens, resumes and exports.

The archive is never made anew: where a test here fails, what reads older data has to be mended.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.host import RecordingHost
from support.runs import Bench, end_workers, over
from support.typed import Typed

from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.process import run_job
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.paths import Home, queue_file
from meton_plugins.finetune.settings import load
from meton_plugins.finetune.train.runs import Run

ARCHIVE = Path(__file__).resolve().parent / "data" / "f199d7f.tar.gz"
HALF = {"half": "tiny-f32.gguf", "half-q8": "tiny-q8_0.gguf"}


def unpack(folder: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.10 and 3.11 got the filter in a patch release; the archive is our own.
        safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safely)
    return folder


@pytest.fixture
def older(home: Path, tmp_path: Path) -> Iterator[Bench]:
    """The folder as the user's own; its bases lie in another place than when its runs began."""
    unpacked = unpack(tmp_path / "unpacked")
    (unpacked / "home").rename(home)
    yield Bench(Home(home), unpacked / "bases" / "tiny-f32.gguf", home / "datasets" / "older")
    queue_file().unlink(missing_ok=True)
    end_workers(home / "runs")


def expected(older: Bench) -> dict[str, dict[str, Any]]:
    text = (older.base.parent.parent / "expected.json").read_text(encoding="utf-8")
    values: dict[str, dict[str, Any]] = json.loads(text)
    return values


def test_the_library_and_its_ratings_are_there(older: Bench) -> None:
    examples = older.json("dataset", "list", "--limit", "100")
    assert len(examples) == 24
    shown = [older.json("dataset", "show", one["id"]) for one in (examples[0], examples[1], examples[2])]
    assert [one["score"] for one in shown] == [1, 5, 5]
    assert shown[1]["correction"] == "It is on shelf 99, behind the door."
    stats = older.json("dataset", "stats")
    assert (stats["examples"], stats["scores"], stats["corrected"]) == (24, {"1": 1, "5": 23}, 1)
    assert stats["splits"] == {"heldout": 2, "train": 19, "validation": 2}
    assert older.command("dataset", "stats")


def test_the_settings_hold(older: Bench) -> None:
    settings = load(older.home.settings)
    assert (settings.train.lora_rank, settings.train.template, settings.gate.fewest) == (4, "bare", 8)
    assert settings.build.context_turns == 0


def test_the_frozen_dataset_is_there_and_another_can_be_built(older: Bench) -> None:
    versions = older.json("dataset", "versions")
    assert [(one["id"], one["names"]) for one in versions] == [("0739aaabe342", ["older"])]
    older.command("dataset", "build", "--name", "newer", "--form", "plain")
    assert len(older.json("dataset", "versions")) == 2


def test_the_runs_are_listed_and_shown(older: Bench) -> None:
    listed = {one["name"]: one["status"] for one in older.json("finetune", "runs")}
    assert listed == {"done": "finished", "half": "paused", "half-q8": "paused"}
    for name in listed:
        shown = older.json("finetune", "show", name)
        assert shown["state"]["step"] > 0
        assert name in older.command("finetune", "show", name)
        assert older.command("finetune", "logs", name)
    assert older.command("finetune", "compare", "done", "half")


@pytest.mark.parametrize("name", HALF)
def test_a_paused_run_goes_on_to_its_end(older: Bench, engine: Engine, name: str) -> None:
    run, wanted = Run(older.home.runs / name), expected(older)[name]
    paused_at = run.state.step
    assert paused_at == wanted["paused_at"]
    older.command("finetune", "resume", name, "--base", str(older.base.parent / HALF[name]))
    over(run)
    assert run.status == "finished", run.state.error
    done = [event["step"] for event in run.events() if event["event"] == "step"]
    assert done == list(range(1, wanted["step"] + 1))
    assert [event["step"] for event in run.events() if event["event"] == "resumed"] == [paused_at]
    assert run.state.loss == pytest.approx(wanted["loss"], rel=0.02)
    for which in ("best", "last"):
        assert loss(run, which) < wanted["base_loss"] / 2  # type: ignore[arg-type]


def loss(run: Run, which: Any) -> float:
    """Of one of the run's adapters on its validation rows, by the engine's own pass."""
    record = run.record
    result = run_job(
        "evaluate", base=record.base.path, file=str(run.folder / "dataset" / "validation.jsonl"), system=record.system,
        adapter=str(run.adapter(which)), ctx_size=record.settings.ctx_size, chat_template=None, threads=1,
    )  # fmt: skip
    return float(result["loss"])


def test_a_run_whose_base_is_gone_says_how_to_name_it(older: Bench, engine: Engine) -> None:
    said = older.command("finetune", "resume", "half", code=1)
    run = Run(older.home.runs / "half")
    over(run)
    assert "is gone" in (run.state.error or said)
    assert "--base" in (run.state.error or said)


def test_a_finished_run_exports_with_its_adapter(older: Bench, engine: Engine) -> None:
    older.command("finetune", "resume", "done", "--base", str(older.base))
    older.command("export", "adapter", "done")
    older.command("export", "model", "done", "--quant", "f16")
    written = older.home.models / "done"
    assert inspect(written / "done-f16.gguf").architecture == "qwen2"
    assert (written / "done-adapter.gguf").read_bytes() == (older.home.runs / "done" / "best.gguf").read_bytes()
    files = json.loads((written / "export.json").read_text(encoding="utf-8"))["files"]
    assert "f16" in [file["quant"] for file in files]


def test_a_new_run_goes_on_from_the_older_adapter(older: Bench, engine: Engine) -> None:
    older.command("finetune", "resume", "done", "--base", str(older.base))
    older.command(
        "finetune", "start", "--yes", "--wait", "--from", "done", "--dataset", "older", "--base", str(older.base),
        "--name", "more", "--epochs", "1",
    )  # fmt: skip
    run = Run(older.home.runs / "more")
    assert run.status == "finished", run.state.error
    assert run.state.start_loss is not None
    assert run.state.base_loss is not None
    assert run.state.start_loss < run.state.base_loss


def test_a_backup_of_it_can_be_restored(older: Bench, home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    older.command("dataset", "backup", str(archive))
    other = Typed(tmp_path / "other")
    assert isinstance(other.host, RecordingHost)
    other(f"restore {archive}")
    assert len(other.ids) == 24
