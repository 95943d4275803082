"""Checkpoints: a training that was interrupted ends with the same bytes, and no interruption spoils what was saved."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BaseMaker
from gguf import GGUFWriter
from support.attempts import Attempts, Events, Killed, losses, rows

from meton_plugins.finetune.engine import checkpoint
from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.checkpoint import Position
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.errors import DiskFull, EngineError, FinetuneError
from meton_plugins.finetune.paths import append_json, read_json_lines, replacing_path


@pytest.fixture
def attempts(library: Library, base: BaseMaker, tmp_path: Path) -> Callable[..., Attempts]:
    counter = itertools.count()
    return lambda **settings: Attempts(
        library, base(settings.pop("architecture", "qwen2")), tmp_path / f"run{next(counter)}", **settings
    )


#: Events and results of the run with these settings that nothing interrupted.
Uninterrupted = Callable[..., "tuple[Events, dict[str, bytes]]"]


@pytest.fixture(scope="module")
def _whole() -> dict[str, tuple[Events, dict[str, bytes]]]:
    return {}


@pytest.fixture
def uninterrupted(
    attempts: Callable[..., Attempts], _whole: dict[str, tuple[Events, dict[str, bytes]]]
) -> Uninterrupted:
    def make(**settings: Any) -> tuple[Events, dict[str, bytes]]:
        key = repr(sorted({"batch_size": 1, "architecture": "qwen2", **settings}.items()))
        if key not in _whole:
            run = attempts(**settings)
            _whole[key] = run.attempt(), run.results
        return _whole[key]

    return make


def names(folder: Path) -> list[str]:
    """What lies in `folder`, hidden or not, in order."""
    return sorted(path.name for path in folder.iterdir())


# 10 rows: 10 steps an epoch of one row each, or 3 of four rows, the last of two.
@pytest.mark.parametrize(
    ("batch_size", "stops"),
    [(1, [2, 10, 19]), (1, [1, 11]), (4, [2]), (4, [3]), (4, [1, 4, 5])],
    ids=["1-epoch-end", "1-inside", "4-inside", "4-epoch-end", "4-often"],
)
def test_paused_and_resumed_is_the_same_byte_for_byte(
    attempts: Callable[..., Attempts], uninterrupted: Uninterrupted, batch_size: int, stops: list[int]
) -> None:
    straight, results = uninterrupted(batch_size=batch_size)
    assert straight[-1]["event"] == "finished"
    parts = attempts(batch_size=batch_size)
    seen: dict[int, float] = {}
    for stop in stops:
        events = parts.attempt(pause_at=stop)
        assert events[-1] == {"event": "paused", "step": stop}
        seen |= losses(events)
        assert not (parts.folder / "adapter.gguf").exists()
    last = parts.attempt()
    assert (last[0]["event"], last[0]["step"]) == ("resumed", stops[-1])
    assert seen | losses(last) == losses(straight)
    assert parts.results == results
    for name in ("step", "best_loss", "best_step", "base_loss"):
        assert last[-1][name] == straight[-1][name]


@pytest.mark.parametrize(
    ("architecture", "kill_at", "kill_in"),
    [
        ("qwen2", 1, "step"), ("qwen2", 5, "step"), ("qwen2", 10, "validation"), ("qwen2", 12, "checkpoint"),
        ("qwen2", 20, "validation"), ("llama", 5, "step"), ("qwen3", 5, "step"),
    ],
    ids=["before-any", "between", "in-validation", "after-checkpoint", "last-validation", "llama", "qwen3"],
)  # fmt: skip
def test_killed_and_resumed_is_the_same_byte_for_byte(
    attempts: Callable[..., Attempts], uninterrupted: Uninterrupted, architecture: str, kill_at: int, kill_in: str
) -> None:
    straight, results = uninterrupted(architecture=architecture)
    parts = attempts(architecture=architecture)
    first = parts.attempt(kill_at=kill_at, kill_in=kill_in)
    assert first[-1]["event"] == "killed"
    second = parts.attempt()
    assert second[-1]["event"] == "finished"
    assert losses(first) | losses(second) == losses(straight)
    assert parts.results == results


def test_clipping_is_the_same_after_a_resume(attempts: Callable[..., Attempts]) -> None:
    # The norm is a sum over tensors: their order may not depend on whether the adapter is new or from a file.
    whole, parts = (attempts(max_grad_norm=0.01, batch_size=4) for _ in range(2))
    straight = whole.attempt()
    assert all(event["gradient_norm"] > 0.01 for event in straight if event["event"] == "step")
    parts.attempt(pause_at=4)
    parts.attempt()
    assert parts.results == whole.results


def test_settings_change_the_bytes(uninterrupted: Uninterrupted) -> None:
    # Else the comparisons above would say nothing.
    changes: list[dict[str, Any]] = [{}, {"batch_size": 4}, {"batch_size": 4, "seed": 43}]
    assert len({uninterrupted(**each)[1]["adapter.gguf"] for each in changes}) == 3


def test_stop_ends_the_run_with_an_adapter(attempts: Callable[..., Attempts]) -> None:
    run = attempts()
    events = run.attempt(pause_at=4, want="stop")
    assert (events[-1]["event"], events[-1]["step"]) == ("stopped", 4)
    assert (run.folder / "adapter.gguf").stat().st_size > 1000


def test_last_two_checkpoints_are_kept(attempts: Callable[..., Attempts]) -> None:
    run = attempts()
    events = run.attempt()
    written = [event["path"] for event in events if event["event"] == "checkpoint"]
    assert len(written) == 8
    assert names(run.folder / "checkpoints") == written[-2:] == ["step_00000018", "step_00000020"]


def test_validation_and_best(uninterrupted: Uninterrupted) -> None:
    events, _ = uninterrupted()
    checks = [event for event in events if event["event"] == "validation"]
    assert [event["step"] for event in checks] == [0, 10, 20]
    assert events[-1]["base_loss"] == checks[0]["loss"]
    best = min(checks[1:], key=lambda event: event["loss"])
    assert (events[-1]["best_loss"], events[-1]["best_step"]) == (best["loss"], best["step"])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_ends_the_training_and_spoils_nothing(
    attempts: Callable[..., Attempts], uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real, steps = RowTrainer.gradients, 0

    def gradients(self: RowTrainer, *row: Any) -> Any:
        nonlocal steps
        steps += 1
        loss, made = real(self, *row)
        if steps == 7:
            next(iter(made.values()))[0] = float("nan")
            return (float("nan") if what == "loss" else loss), made
        return loss, made

    run = attempts(accelerate=False)
    monkeypatch.setattr(RowTrainer, "gradients", gradients)
    with pytest.raises(EngineError, match=r"no longer a number at step 7.*halve --learning-rate \(now 0\.01\)\.$"):
        run.attempt()
    newest = checkpoint.latest(run.folder / "checkpoints")
    assert newest is not None
    assert newest.name == "step_00000006"
    run.attempt()
    assert run.results == uninterrupted(accelerate=False)[1]


class Weights:
    """Stands for a trainer: writes an adapter as the library does."""

    def __init__(self, *, half: bool = False, size: int = 64) -> None:
        self.half, self.size = half, size

    def save(self, path: Path) -> None:
        writer = GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 8.0)
        for part in ("a", "b"):
            writer.add_tensor(f"blk.0.attn_q.weight.lora_{part}", np.ones((self.size, 4), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if self.half:
            os.truncate(path, path.stat().st_size // 2)


WEIGHTS: Any = Weights()


def saved(folder: Path, step: int, trainer: Any = None, steps: int = 3) -> Path:
    """A checkpoint of `step`, its optimizer filled with the number of the step."""
    optimizer = AdamW()
    optimizer.load(steps, {"m/a": np.full(100, step, np.float32), "v/a": np.full(100, step, np.float32)})
    return checkpoint.save(folder, Position(step=step, epoch=1, batch=2), trainer or WEIGHTS, optimizer)


def assert_usable(folder: Path, step: int) -> None:
    """The newest checkpoint is that of `step`, and whole; nothing half-made lies about."""
    newest = checkpoint.latest(folder)
    assert newest is not None
    optimizer = AdamW()
    assert checkpoint.restore(newest, optimizer) == Position(step=step, epoch=1, batch=2)
    np.testing.assert_array_equal(optimizer.first["a"], np.full(100, step, np.float32))
    assert checkpoint.adapter_file(newest).stat().st_size > 500
    leftovers = [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    assert leftovers == []


def test_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    saved(tmp_path / "c", 7)
    assert_usable(tmp_path / "c", 7)
    assert names(tmp_path / "c" / "step_00000007") == ["adapter.gguf", "optimizer.npz", "position.json"]


def _fail_savez(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def half(file: Any, **arrays: Any) -> None:
        file.write(b"PK\x03\x04 half of it")
        raise error

    monkeypatch.setattr(np, "savez", half)


def _fail_replace(monkeypatch: pytest.MonkeyPatch, error: BaseException, target: str) -> None:
    real = os.replace

    def replace(source: Any, destination: Any) -> None:
        if Path(destination).name.startswith(target):
            raise error
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), Killed()],
    ids=["disk-full", "interrupt", "killed"],
)
@pytest.mark.parametrize("stage", ["optimizer", "adapter.gguf", "optimizer.npz", "position.json", "step_"])
def test_interrupted_save_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException
) -> None:
    folder = tmp_path / "c"
    saved(folder, 5)
    with monkeypatch.context() as patch:
        if stage == "optimizer":
            _fail_savez(patch, error)
        else:  # when the file, or the whole checkpoint, is to get its name
            _fail_replace(patch, error, stage)
        with pytest.raises(type(error)):
            saved(folder, 6)
    assert_usable(folder, 5)
    assert names(folder) == ["step_00000005"]
    saved(folder, 6)
    assert_usable(folder, 6)


def test_half_an_adapter_is_noticed(tmp_path: Path) -> None:
    # The library says yes when the disk was full.
    folder = tmp_path / "c"
    saved(folder, 5)
    with pytest.raises(
        DiskFull, match=r"^The adapter could not be written to .*: if the disk is full, make room, then resume\.$"
    ) as caught:
        saved(folder, 6, Weights(half=True))
    assert isinstance(caught.value, FinetuneError)
    assert_usable(folder, 5)


def test_what_a_kill_left_behind_is_ignored_and_swept(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    saved(folder, 5)
    for name in (".step_00000006.partial", ".step_00000003.partial", "step_00000009"):
        (folder / name).mkdir()
        (folder / name / "adapter.gguf").write_bytes(b"GGUF")
    newest = checkpoint.latest(folder)
    assert newest is not None
    assert newest.name == "step_00000005"
    saved(folder, 7)
    assert_usable(folder, 7)


def test_same_step_again_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    saved(folder, 5)
    (folder / "step_00000006").mkdir()
    (folder / "step_00000006" / "optimizer.npz").write_bytes(b"")
    saved(folder, 6)
    assert_usable(folder, 6)


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert checkpoint.latest(tmp_path / "empty") is None


@pytest.mark.parametrize("part", ["position.json", "optimizer.npz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9], ids=["empty", "start", "most"])
def test_damaged_checkpoint_is_one_sentence(tmp_path: Path, part: str, keep: float) -> None:
    path = saved(tmp_path / "c", 5) / part
    os.truncate(path, int(keep * path.stat().st_size))
    with pytest.raises(EngineError) as caught:
        checkpoint.restore(tmp_path / "c" / "step_00000005", AdamW())
    assert caught.value.sentence.endswith("cannot be read: delete it to resume from the one before.")


def test_position_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", 5) / "position.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "moon": "full"}))
    with pytest.raises(EngineError, match="cannot be read"):
        checkpoint.restore(tmp_path / "c" / "step_00000005", AdamW())


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "adapter cut": lambda folder: os.truncate(folder / "adapter.gguf", 300),
    "adapter of zeros": lambda folder: flip(folder / "adapter.gguf"),
    "optimizer empty": lambda folder: os.truncate(folder / "optimizer.npz", 0),
    "position empty": lambda folder: os.truncate(folder / "position.json", 0),
    "position of a list": lambda folder: (folder / "position.json").write_text("[1]"),
    "best gone": lambda folder: (folder / "best.gguf").unlink(),
    "best damaged": lambda folder: flip(folder / "best.gguf"),
}


def flip(path: Path) -> None:
    """Change the last byte of what alone has this name."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.unlink()
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_set_aside(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    folder, best = tmp_path / "c", tmp_path / "best.gguf"
    WEIGHTS.save(best)
    for step in (5, 6):
        checkpoint.save(folder, Position(step=step), WEIGHTS, AdamW(), best)
    assert checkpoint.usable(folder) == (folder / "step_00000006", [])
    damage(folder / "step_00000006")
    assert checkpoint.usable(folder) == (folder / "step_00000005", ["step_00000006"])
    assert checkpoint.usable(folder) == (folder / "step_00000005", [])
    assert (folder / "damaged_step_00000006").is_dir()  # who knows what its user can save of it
    damage(folder / "step_00000005")
    assert checkpoint.usable(folder) == (None, ["step_00000005"])
    checkpoint.save(folder, Position(step=6), WEIGHTS, AdamW())
    assert checkpoint.usable(folder) == (folder / "step_00000006", [])


def test_the_best_adapter_of_a_checkpoint_takes_no_room(tmp_path: Path) -> None:
    best = tmp_path / "best.gguf"
    WEIGHTS.save(best)
    path = checkpoint.save(tmp_path / "c", Position(step=1), WEIGHTS, AdamW(), best)
    assert (path / "best.gguf").samefile(best)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_the_best_adapter_goes_back_with_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:  # some file systems have none

        def refuse(*_: Any) -> None:
            raise OSError(errno.EPERM, "no links")

        monkeypatch.setattr(os, "link", refuse)
    best = tmp_path / "best.gguf"
    best.write_bytes(b"first")
    kept = checkpoint.save(tmp_path / "c", Position(step=1), WEIGHTS, AdamW(), best) / "best.gguf"
    checkpoint.place_best(kept, best)
    with replacing_path(best) as temporary:
        temporary.write_bytes(b"second")
    assert kept.read_bytes() == b"first"
    for _ in range(2):
        checkpoint.place_best(kept, best)
        assert best.read_bytes() == b"first"
        assert names(tmp_path) == ["best.gguf", "c"]
    checkpoint.place_best(None, best)
    assert names(tmp_path) == ["c"]
    checkpoint.place_best(tmp_path / "c" / "none.gguf", best)


@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.6], ids=lambda part: f"{part:.0%}-free")
def test_disk_really_full(library: Library, base: BaseMaker, small_disk: Path, part: float) -> None:
    # `part`: how much of what a checkpoint takes is free, so that one stage after another meets the full disk.
    path = base("qwen2", "bpe", "f32", width=32, inner=32)
    folder = small_disk / "checkpoints"
    with Model(library, path) as model, RowTrainer(model, 32, 1, Adapter(rank=4, alpha=8)) as trainer:
        row, optimizer = rows(1, 1)[0], AdamW()
        for _ in range(2):
            _, gradients = trainer.gradients(row.tokens, row.trained)
            optimizer.step(trainer.weights(), gradients, 1e-2)
        checkpoint.save(folder, Position(step=1), trainer, optimizer)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        free = shutil.disk_usage(small_disk).free
        assert free > 2 * size
        (small_disk / "other").write_bytes(bytes(int(free - part * size)))
        fits = True
        try:
            checkpoint.save(folder, Position(step=2), trainer, optimizer)
        except (EngineError, OSError) as error:
            fits, raised = False, error
    assert fits == (part > 1)
    if not fits:  # both become one sentence in `engine.child`
        assert isinstance(raised, DiskFull) or raised.errno == errno.ENOSPC, raised
    newest = checkpoint.latest(folder)
    assert newest is not None
    assert newest.name == ("step_00000002" if fits else "step_00000001")
    assert checkpoint.restore(newest, AdamW()).step == (2 if fits else 1)
    assert not [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]


@pytest.mark.parametrize("length", [10, 900, 5000, 20_000])
def test_no_line_is_torn_by_a_full_disk(small_disk: Path, length: int) -> None:
    path = small_disk / "events.jsonl"
    whole = 0

    def fill() -> None:
        nonlocal whole
        while True:
            append_json(path, {"number": whole, "text": "x" * length})
            whole += 1

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert whole > 5
    assert path.read_bytes().endswith(b"\n")
    assert [line["number"] for line in read_json_lines(path)] == list(range(whole))
    assert len(path.read_bytes().splitlines()) == whole
