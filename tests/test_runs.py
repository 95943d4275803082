"""The detached worker on a tiny base: it outlives what started it, and whatever ends it, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import BaseMaker
from support.runs import SETTINGS, Bench, Ingredients, children, gone, one_core, over, reached, steps, until, workers

from meton_plugins.finetune import __version__
from meton_plugins.finetune.engine.compute import multiplies_bf16
from meton_plugins.finetune.engine.package import VERSION, find
from meton_plugins.finetune.errors import BusyError, DataError, EngineError, FinetuneError, NotFound, UsageError
from meton_plugins.finetune.gguf.inspect import fingerprint, inspect
from meton_plugins.finetune.paths import append_json, engine_dir, training_lock, write_json
from meton_plugins.finetune.train import unfinished
from meton_plugins.finetune.train.identity import lost
from meton_plugins.finetune.train.launch import ask, start
from meton_plugins.finetune.train.lock import machine_lock, run_lock, say_who_trains
from meton_plugins.finetune.train.planner import free_name
from meton_plugins.finetune.train.queue import waiting
from meton_plugins.finetune.train.record import State
from meton_plugins.finetune.train.runs import Run, all_runs, find_run

pytest_plugins = ["support.run_fixtures"]

TOTAL = 60
#: Epochs, of ten steps each, of a run that a wish must reach, which takes a fifth of a second: here that is 50 steps.
LONG = 60
#: Python notices a full disk, or the reader of what the library wrote does.
DISK = re.compile("disk is full|disk full")


def finished(run: Run, ingredients: Ingredients) -> None:
    """The run came to its end, and learned what an undisturbed run learns, bit for bit."""
    assert run.status == "finished", run.state.error
    assert run.state.step == TOTAL
    assert steps(run) == list(range(1, TOTAL + 1))
    assert (run.folder / "adapter.gguf").read_bytes() == ingredients.adapter.read_bytes()


def resumed(run: Run) -> Run:
    start(run)
    over(run)
    return run


# A run by itself


def test_a_run_trains_by_itself_to_its_end(bench: Bench, ingredients: Ingredients) -> None:
    assert "one  running" in bench.command(*bench.words())
    run = bench.run()
    over(run)
    finished(run, ingredients)
    state = run.state
    assert (state.attempt, state.epoch, state.epochs, state.steps) == (1, 6, 6, TOTAL)
    assert state.base_loss is not None
    assert state.best_loss is not None
    assert state.best_loss < state.base_loss
    assert state.tokens_per_s is not None
    assert state.tokens_per_s > 0
    assert state.seconds_left == 0
    assert state.peak_rss_mb is not None
    assert (run.adapter("best").name, run.adapter("last").name) == ("best.gguf", "adapter.gguf")
    kinds = [event["event"] for event in run.events()]
    assert kinds[:3] == ["rows", "rows", "begin"]
    assert kinds[-1] == "finished"
    assert kinds.count("validation") == 7
    assert json.loads((run.folder / "done").read_text())["status"] == "finished"
    written = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.is_file()}
    assert max(written, key=lambda name: written[name]) == "done"
    assert not list(run.folder.glob("**/.*")), "no temporary file is left"
    assert len(list((run.folder / "checkpoints").iterdir())) == 2


def test_everything_is_the_users_alone(bench: Bench) -> None:
    # Meton has the usual umask: what the console does about its own must not be needed.
    before = os.umask(0o022)
    try:
        run = bench.train(epochs=1)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [run.folder, *run.folder.rglob("*")]}
    assert {path.name: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_the_record_says_what_the_run_is_made_of(bench: Bench) -> None:
    template = bench.home.root / "templates" / "modelfiles" / "kind.Modelfile"
    template.write_text("FROM .\nSYSTEM Be kind.\n", encoding="utf-8")
    bench.command(*bench.words(template="kind", epochs=1, threads=0))
    run = bench.run()
    record = run.record
    assert (record.schema_version, record.name) == (1, "one")
    assert record.base.path == str(bench.base)
    assert record.base.sha256 == fingerprint(bench.base)
    assert record.base.architecture == "qwen2"
    assert record.base.parameters == inspect(bench.base).parameters
    assert record.dataset == bench.dataset.name
    assert (record.learned, record.examples) == ("last", {"train": 10, "validation": 1})
    assert (record.template, record.system) == ("kind", "Be kind.")
    assert record.settings.threads == 0
    assert record.threads in (1, len(os.sched_getaffinity(0))), "the faster of the two, as it was measured"
    assert record.plan is not None
    engine = find()
    assert engine is not None
    versions = {"plugin": __version__, "engine": VERSION, "backend": engine.backend}
    assert record.versions == {**versions, "products": engine.products_name}
    for file in ("train.jsonl", "validation.jsonl", "manifest.json"):
        assert (run.folder / "dataset" / file).read_bytes() == (bench.dataset / file).read_bytes()
    over(run)


# What ends a session does not end its run


@pytest.fixture
def session(bench: Bench) -> Iterator[subprocess.Popen[str]]:
    """A session that started the run `one` and waits for it."""
    with bench.popen(*bench.words("--wait")) as process:
        until(lambda: (bench.run().folder / "run.json").exists(), "the run is there")
        reached(bench.run(), 3)
        yield process


def test_a_killed_session_leaves_its_run_to_finish(
    bench: Bench, session: subprocess.Popen[str], ingredients: Ingredients
) -> None:
    os.killpg(session.pid, signal.SIGKILL)
    session.communicate(timeout=20)
    run = bench.run()
    assert run.alive
    over(run)
    finished(run, ingredients)
    assert run.state.attempt == 1


@pytest.mark.parametrize(
    ("blow", "code", "words"),
    [(signal.SIGINT, 130, "one goes on. See it again with /finetune watch one."), (signal.SIGHUP, -signal.SIGHUP, "")],
    ids=["ctrl-c", "hangup"],
)
def test_the_terminals_signals_end_the_session_alone(
    bench: Bench, session: subprocess.Popen[str], blow: signal.Signals, code: int, words: str
) -> None:
    run = bench.run()
    before = steps(run)[-1]
    assert session.stdout is not None
    # On a busy machine the run is sooner at work than its session at watching; the plan comes before either.
    assert any(line.startswith("one  ") for line in iter(session.stdout.readline, ""))
    os.killpg(session.pid, blow)
    said, _ = session.communicate(timeout=20)
    assert session.returncode == code
    assert words in said
    reached(run, before + 5)
    assert run.status == "running"


def test_the_workers_own_group_minds_no_terminal(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 10)
    os.killpg(run.state.pid, signal.SIGINT)
    os.killpg(run.state.pid, signal.SIGHUP)
    over(run)
    finished(run, ingredients)
    assert run.state.attempt == 1


def test_a_shutdown_pauses_the_run(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 12)
    os.killpg(run.state.pid, signal.SIGTERM)  # a service manager asks every process of the machine
    over(run)
    assert (run.status, run.state.error) == ("paused", None)
    finished(resumed(run), ingredients)


# What ends a worker or its engine loses nothing


def test_a_killed_worker_takes_its_engine_along(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 17)
    [child] = children(run.state.pid)
    os.kill(run.state.pid, signal.SIGKILL)
    until(lambda: gone(child), "the engine is gone", seconds=2)
    until(lambda: run.status == "interrupted", "the status says so", seconds=2)
    assert re.search("^one  interrupted .*/finetune resume one", bench.command("finetune", "status"))
    before = steps(run)
    assert "one  running" in bench.command("finetune", "resume", "one")
    over(run)
    finished(run, ingredients)
    assert run.state.attempt == 2
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    again = [line["step"] for line in lines if line["event"] == "step" and line["attempt"] == 2]
    assert again == list(range(again[0], TOTAL + 1))
    assert again[0] <= before[-1] + 1
    assert [line["step"] for line in lines if line["event"] == "resumed"] == [again[0] - 1]


def test_a_killed_engine_is_started_again(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 17)
    [child] = children(run.state.pid)
    child.kill()
    over(run)
    finished(run, ingredients)
    assert (run.state.attempt, run.state.error) == (1, None)
    [told] = [event for event in run.events() if event["event"] == "restarted"]
    assert told["message"] == (
        "the engine was killed, most likely because memory ran out: "
        f"it begins again at step {told['step']} (try 1 of 3)"
    )


def test_a_worker_asked_to_pause_while_its_engine_is_gone(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 17)
    [child] = children(run.state.pid)
    child.kill()
    until(lambda: any(event["event"] == "restarted" for event in run.events()), "it rests")
    os.kill(run.state.pid, signal.SIGTERM)
    over(run)
    assert (run.status, run.state.attempt) == ("paused", 1)
    finished(resumed(run), ingredients)


def test_an_engine_that_ends_itself_is_a_failure_that_is_told(bench: Bench, ingredients: Ingredients) -> None:
    run = died(bench, signal.SIGABRT)
    assert (run.state.error or "").startswith("The engine stopped itself (abort): its input or the memory was not")
    assert run.events()[-1] == {**run.events()[-1], "event": "failed", "message": run.state.error}
    assert not [event for event in run.events() if event["event"] == "restarted"]
    assert not run.done
    finished(resumed(run), ingredients)
    assert run.state.error is None


def died(bench: Bench, blow: signal.Signals) -> Run:
    """A run whose engine was dealt `blow` in the middle."""
    run = bench.create()
    start(run)
    reached(run, 17)
    [child] = children(run.state.pid)
    child.send_signal(blow)
    over(run)
    assert run.status == "failed"
    assert (run.state.error or "").startswith("The engine ")
    return run


def test_no_step_before_a_checkpoint_is_lost(bench: Bench, ingredients: Ingredients) -> None:
    # The engine runs ahead of a worker that hangs: what the worker has not written down must be trained again.
    run = bench.create()
    start(run)
    reached(run, 3)
    worker = run.state.pid
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.5)
    saved = [int(path.name[-8:]) for path in run.folder.glob("checkpoints/step_*")]
    assert max(saved, default=0) <= steps(run)[-1] < TOTAL
    os.kill(worker, signal.SIGKILL)
    until(lambda: run.status == "interrupted", "the status says so")
    finished(resumed(run), ingredients)


def test_a_sleeping_machine_spoils_no_figure(bench: Bench) -> None:
    run = bench.create(epochs=1000)
    start(run)
    reached(run, 20)
    [child] = children(run.state.pid)
    for _ in range(20):  # it may be saving when it is put to sleep, which is no step
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(child.pid, signal.SIGCONT)
        reached(run, steps(run)[-1] + 3)
        told = [event for event in run.events() if event["event"] == "step"]
        slow = max(told, key=lambda event: event["seconds"])
        if slow["seconds"] > 1.1:
            break
    else:
        pytest.fail("no step was slow")
    ask(run, "stop")
    over(run)
    asleep = slow["tokens"] / slow["seconds"]
    after = [
        event["tokens_per_s"] for event in run.events() if event["event"] == "step" and event["step"] >= slow["step"]
    ]
    assert min(after[:30]) > 3 * asleep


def test_after_a_reboot_the_number_of_a_worker_belongs_to_another(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 17)
    os.kill(run.state.pid, signal.SIGKILL)
    until(lambda: run.status == "interrupted", "the status says so")
    for lock in (run.folder / "worker.lock", run.folder / "engine.lock", training_lock()):
        lock.unlink(missing_ok=True)
    # A bystander that is only called like the worker.
    with subprocess.Popen(["sleep", "60"]) as bystander:
        write_json(run.folder / "state.json", {**run.state.model_dump(), "pid": bystander.pid})
        assert run.status == "interrupted"
        assert "one  interrupted" in bench.command("finetune", "status", "one")
        with pytest.raises(FinetuneError, match="one is not training"):
            ask(run, "stop")
        finished(resumed(run), ingredients)
        assert bystander.poll() is None
        bystander.kill()


def test_a_run_killed_before_its_last_word_says_it_again(bench: Bench, trained: Run, ingredients: Ingredients) -> None:
    (trained.folder / "done").unlink()
    finished(resumed(trained), ingredients)
    assert trained.done


def test_a_new_run_removes_what_a_killed_session_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.create("one")
    left = bench.home.runs / ".two.abcd1234"
    left.mkdir()
    bench.create("two")
    assert left.exists(), "it is young: its session may live"
    monkeypatch.setattr(unfinished, "YOUNG", 0.0)
    bench.create("three")
    assert not left.exists()
    assert [run.name for run in all_runs(bench.home.runs)] == ["one", "two", "three"]


def test_a_kill_before_the_first_checkpoint_begins_again(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create(save_steps=10**6)
    start(run)
    reached(run, 3)
    os.kill(run.state.pid, signal.SIGKILL)
    until(lambda: run.status == "interrupted", "the status says so")
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    finished(resumed(run), ingredients)


def test_a_session_that_dies_before_its_worker_lives_leaves_a_run_to_resume(bench: Bench) -> None:
    run = bench.create(epochs=1)
    run.control("stop")  # meant for the attempt that there was, which is none
    assert run.status == "new"
    assert resumed(run).status == "finished"


def test_a_half_line_of_a_full_disk_costs_no_other(bench: Bench) -> None:
    run = bench.create(epochs=1)
    with (run.folder / "events.jsonl").open("w") as file:
        file.write('{"event": "step", "st')
    resumed(run)
    assert [event["event"] for event in run.events()][:4] == ["rows", "rows", "compute", "begin"]
    assert steps(run) == list(range(1, 11))


def test_readers_keep_the_last_of_a_repeated_step(bench: Bench) -> None:
    run = bench.create()
    for event in (
        {"event": "step", "step": 1, "loss": 3.0, "attempt": 1},
        {"event": "step", "step": 2, "loss": 2.0, "attempt": 1},
        {"event": "checkpoint", "step": 1, "attempt": 1},
        {"event": "validation", "step": 2, "loss": 2.5, "attempt": 1},
        {"event": "resumed", "step": 1, "attempt": 2},
        {"event": "step", "step": 2, "loss": 1.0, "attempt": 2},
        {"event": "validation", "step": 2, "loss": 1.5, "attempt": 2},
    ):
        append_json(run.folder / "events.jsonl", event)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('7\nnull\n{"no": "event"}\n{"event": "step", "st')
    told = [(event["event"], event["step"], event.get("loss")) for event in run.events()]
    assert told == [
        ("step", 1, 3.0), ("checkpoint", 1, None), ("resumed", 1, None), ("step", 2, 1.0), ("validation", 2, 1.5),
    ]  # fmt: skip


# Stop, pause


def test_stop_keeps_what_there_is(bench: Bench) -> None:
    run = bench.create(epochs=LONG)
    start(run)
    reached(run, 12)
    ask(run, "stop")
    over(run)
    assert run.status == "stopped"
    assert 12 <= run.state.step < 10 * LONG
    assert run.adapter("last").is_file()
    assert run.adapter("best").is_file()
    assert json.loads((run.folder / "done").read_text())["status"] == "stopped"
    with pytest.raises(FinetuneError, match="one is stopped: start a new one"):
        start(run)
    with pytest.raises(FinetuneError, match=r"one is not training \(it is stopped\)"):
        ask(run, "stop")


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_pause_and_resume_change_nothing(bench: Bench, base: BaseMaker, kind: str) -> None:
    """Of a quantized base in bf16 too, where the CPU multiplies that itself."""
    bench.base = base("qwen3", kind=kind)
    whole, run = bench.train("whole", epochs=LONG), bench.create(epochs=LONG)
    for step in (7, 30):  # within an epoch, and after another attempt
        start(run)
        reached(run, step)
        ask(run, "pause")
        over(run)
        assert run.status == "paused"
        assert step <= run.state.step < 10 * LONG
        assert not run.done
    resumed(run)
    assert (run.status, run.state.step, run.state.attempt) == ("finished", 10 * LONG, 3)
    assert steps(run) == list(range(1, 10 * LONG + 1))
    assert (run.folder / "adapter.gguf").read_bytes() == (whole.folder / "adapter.gguf").read_bytes()
    engine = find()
    numbers = "bf16" if kind == "q8_0" and engine and engine.products and multiplies_bf16() else "f32"
    assert (run.folder / "engine.log").read_text().count(f", {numbers}, threads: 1") == 3


# One training at a time


def test_a_run_at_work_is_not_started_again(bench: Bench) -> None:
    run = bench.create(epochs=1000)
    start(run)
    reached(run, 1)
    with pytest.raises(BusyError, match="one is at work already"):
        start(run)
    assert "one is at work already" in bench.command("finetune", "resume", "one", code=1)
    assert waiting() == []
    ask(run, "stop")
    over(run)


def test_a_worker_at_its_end_is_waited_for(bench: Bench) -> None:
    """Its state says finished; freeing a large model takes longer."""
    run = bench.train(epochs=1)
    say_who_trains(run.folder)
    held = threading.Event()

    def linger() -> None:
        with run_lock(run.folder), machine_lock():
            held.set()
            time.sleep(0.6)

    lingering = threading.Thread(target=linger)
    lingering.start()
    held.wait()
    assert start(bench.create("two", epochs=1)).status != "failed"
    lingering.join()


def test_the_first_free_name(bench: Bench) -> None:
    assert free_name(bench.home.runs) == "run-1"
    bench.create("run-1")
    bench.create("run-3")
    assert free_name(bench.home.runs) == "run-2"
    with pytest.raises(UsageError, match="There is a run 'run-3' already"):
        bench.create("run-3")
    # A folder that is no run (yet) also has the name.
    (bench.home.runs / "run-2").mkdir()
    assert free_name(bench.home.runs) == "run-4"


# What a worker finds missing


def test_a_worker_without_an_engine(bench: Bench) -> None:
    run = bench.create()
    engine_dir().unlink()
    state = start(run)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.startswith("The training engine is not installed: run /finetune setup")
    assert "The training engine is not installed" in bench.command("finetune", "resume", code=1)


def test_a_base_that_is_gone_comes_back(own_base: Bench) -> None:
    run = own_base.create(epochs=1)
    away = own_base.base.rename(own_base.base.with_suffix(".away"))
    state = start(run)
    assert state.status == "failed"
    assert (state.error or "").startswith(f"The base {own_base.base} is gone: put it back, or name where it is now")
    away.rename(own_base.base)
    assert resumed(run).status == "finished"


def test_a_base_that_was_touched_is_the_same_and_one_that_changed_is_not(own_base: Bench) -> None:
    run = own_base.create(epochs=1)
    os.utime(own_base.base)
    assert resumed(run).status == "finished"
    run = own_base.create("two", epochs=1)
    with own_base.base.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    state = start(run)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.startswith(f"The base {own_base.base} has changed since the run began")


def test_a_moved_base_is_named(own_base: Bench, tmp_path: Path, ingredients: Ingredients) -> None:
    run = own_base.create()
    start(run)
    reached(run, 12)
    ask(run, "pause")
    over(run)
    away = own_base.base.rename(tmp_path / "away.gguf")
    said = own_base.command("finetune", "resume", "one", code=1)
    assert "put it back, or name where it is now with /finetune resume one --base" in said
    other = Path(shutil.copy(away, tmp_path / "other.gguf"))
    with other.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    said = own_base.command("finetune", "resume", "one", "--base", str(other), code=1)
    assert f"{other} is not the base that the run one began with: name a copy of that file." in said
    assert "one  running" in own_base.command("finetune", "resume", "one", "--base", str(away))
    over(run)
    finished(run, ingredients)
    assert run.record.base.path == str(away)
    assert json.loads((run.folder / "run.json").read_text())["base"]["path"] == str(own_base.base)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "other"}'])
def test_a_moved_base_that_cannot_be_read_is_none(bench: Bench, text: str) -> None:
    run = bench.create()
    (run.folder / "base.json").write_text(text)
    assert run.record.base.path == str(bench.base)
    (run.folder / "base.json").write_text(json.dumps({**run.record.base.model_dump(), "sha256": "x", "path": "/other"}))
    assert run.record.base.path == str(bench.base)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(bench: Bench, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 12)
    ask(run, "pause")
    over(run)
    newest = max((run.folder / "checkpoints").iterdir())
    (newest / "optimizer.npz").write_bytes(b"")
    finished(resumed(run), ingredients)
    assert run.state.note == f"the checkpoint {newest.name} was damaged: training went on from the one before it"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"versions": {"engine": "0.1.0"}}, f"it began with the engine 0.1.0 and goes on with {VERSION}"),
        ({"versions": {"backend": "old.so"}}, "it began with the backend old.so and goes on with "),
        ({"versions": {"products": "oneDNN 1.0"}}, "it began with products by oneDNN 1.0 and goes on with "),
        (
            {"threads": 999, "compute": {"trainer": "library", "threads": 999}},
            "it began on 999 threads and goes on with ",
        ),
    ],
    ids=["engine", "backend", "products", "threads"],
)
def test_what_cannot_be_kept_is_said(bench: Bench, change: dict[str, Any], note: str) -> None:
    run = bench.create(epochs=40)
    record = json.loads((run.folder / "run.json").read_text())
    versions = {**record["versions"], **change.get("versions", {})}
    (run.folder / "run.json").write_text(json.dumps({**record, **change, "versions": versions}))
    assert run.state.note is None
    for _ in range(2):
        with one_core():
            start(run)
        if run.state.attempt == 1:
            reached(run, 1)
            ask(run, "pause")
        over(run)
    assert (run.status, run.state.attempt) == ("finished", 2)
    said = run.state.note or ""
    assert said.startswith(note)
    assert said.endswith(": bit-identity with an undisturbed run is lost")
    assert said.count("bit-identity") == 1
    assert {event["message"] for event in run.events() if event["event"] == "note"} == {said}


def test_a_run_that_does_not_say_its_products_began_with_numpys(bench: Bench) -> None:
    record, engine = bench.create().record, find()
    assert engine is not None
    assert lost(record, engine, 2) is None
    older = record.model_copy(update={"versions": {"engine": VERSION, "backend": engine.backend}})
    assert lost(older, replace(engine, products=""), 2) is None
    assert "with products by NumPy's BLAS and goes on with oneDNN" in str(lost(older, replace(engine, products="x"), 2))
    plain = older.model_copy(update={"settings": record.settings.model_copy(update={"accelerate": False})})
    assert lost(plain, replace(engine, products="x"), 2) is None


def test_nothing_is_said_where_all_is_kept(trained: Run) -> None:
    assert trained.state.note is None
    assert not [event for event in trained.events() if event["event"] == "note"]


# A full disk


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """The folder of runs on a file system of 3 MB."""
    runs = bench.home.runs
    runs.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", runs], check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield runs
    finally:
        subprocess.run(["umount", "--lazy", runs], check=True)


def paused_by_itself(run: Run) -> None:
    """It says why, and what to do; every line that it wrote is whole."""
    assert run.status == "paused"
    assert not run.done
    assert DISK.search(run.state.error or "")
    assert "resume" in (run.state.error or "")
    for line in (run.folder / "events.jsonl").read_bytes().splitlines():
        json.loads(line)


def test_a_full_disk_in_a_checkpoint(bench: Bench, small_disk: Path, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 12)
    ask(run, "pause")
    over(run)
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    # Room for the events and the state, and not for another checkpoint.
    with (small_disk / "filler").open("wb") as file, contextlib.suppress(OSError):
        file.write(b"\0" * (shutil.disk_usage(small_disk).free - 60_000))
    start(run)
    over(run)
    paused_by_itself(run)
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == kept
    assert "one  paused" in bench.command("finetune", "status", "one")
    assert "disk" in bench.command("finetune", "status", "one")
    (small_disk / "filler").unlink()
    finished(resumed(run), ingredients)


def test_a_disk_without_any_room_left(bench: Bench, small_disk: Path, ingredients: Ingredients) -> None:
    run = bench.create()
    start(run)
    reached(run, 12)
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    over(run)
    paused_by_itself(run)
    with (small_disk / "more").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:  # also what was kept free to say so
            file.write(b"\0" * 4096)
    with pytest.raises(EngineError, match=r"is full: make room, then resume"):
        start(run)
    for name in ("filler", "more"):
        (small_disk / name).unlink()
    finished(resumed(run), ingredients)


def test_a_checkpoint_that_cannot_be_written(bench: Bench, ingredients: Ingredients) -> None:
    """The same without the right to mount: the engine may not write files beyond a size."""
    run = bench.create()
    start(run)
    reached(run, 12)
    [child] = children(run.state.pid)
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    over(run)
    paused_by_itself(run)
    finished(resumed(run), ingredients)


# Runs elsewhere, and runs that are none


def test_a_run_moves_to_another_home(bench: Bench, ingredients: Ingredients, tmp_path: Path) -> None:
    run = bench.create()
    start(run)
    reached(run, 12)
    os.kill(run.state.pid, signal.SIGKILL)
    until(lambda: run.status == "interrupted", "the status says so")
    other = tmp_path / "other" / "runs"
    shutil.copytree(run.folder, other / "one")
    shutil.rmtree(run.folder)
    home = ["--home", str(other.parent)]
    assert bench.json(*home, "finetune", "show", "one")["state"]["status"] == "interrupted"
    moved = resumed(Run(other / "one"))
    finished(moved, ingredients)


def test_finding_a_run(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no run yet"):
        find_run(bench.home.runs, None)
    first, second = bench.create("first"), bench.create("second")
    os.utime(first.folder / "run.json", (1, 1))
    assert [run.name for run in all_runs(bench.home.runs)] == ["first", "second"]
    assert find_run(bench.home.runs, None).folder == second.folder
    assert find_run(bench.home.runs, "latest").folder == second.folder
    assert find_run(bench.home.runs, "first").folder == first.folder
    with pytest.raises(NotFound, match=r"There is no run 'third': there are first, second\."):
        find_run(bench.home.runs, "third")
    with pytest.raises(UsageError, match="cannot name a run"):
        find_run(bench.home.runs, "../first")


def test_a_damaged_run_is_named(bench: Bench) -> None:
    run = bench.create()
    (run.folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=rf"The run one has no readable run\.json: delete {run.folder}\."):
        _ = run.record
    (run.folder / "state.json").write_text("{", encoding="utf-8")
    assert run.state == State()


def test_adapters_before_there_are_any(bench: Bench) -> None:
    run = bench.create()
    with pytest.raises(NotFound, match="one has no adapter yet"):
        run.adapter()
    (run.folder / "adapter.gguf").touch()
    assert run.adapter("best").name == "adapter.gguf"


def test_a_wish_that_cannot_be_read_is_none(bench: Bench) -> None:
    run = bench.create()
    assert run.wanted(0) is None
    for value in ("{", "[]", '"stop"', '{"want": "stop"}'):
        (run.folder / "control.json").write_text(value, encoding="utf-8")
        assert run.wanted(0) is None
    write_json(run.folder / "control.json", {"want": "stop", "attempt": 0})
    assert run.wanted(0) == "stop"


def test_the_machines_lock_is_free_when_all_is_over(bench: Bench) -> None:
    bench.train(epochs=1)
    assert training_lock().is_file()
    until(lambda: not workers(bench.home.runs), "the worker is gone", seconds=5)
    bench.train("two", epochs=1)
    assert SETTINGS.epochs > 1


def test_a_run_keeps_its_date(bench: Bench, tmp_path: Path) -> None:
    # A template may write the date: resumed tomorrow, a run would read other rows than it began with.
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    losses = []
    for name, created in (("a", "2001-02-03"), ("b", "2001-02-03"), ("c", "2033-11-30")):
        run = bench.create(name, epochs=1, chat_template=str(template))
        record = json.loads((run.folder / "run.json").read_text())
        (run.folder / "run.json").write_text(json.dumps({**record, "created": f"{created}T10:00:00+00:00"}))
        start(run)
        over(run)
        losses.append(run.state.base_loss)
    assert losses[0] == losses[1] != losses[2]
