"""How often a worker starts a killed engine again, and what it says when it gives up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.runs import Bench

from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.errors import EngineError
from meton_plugins.finetune.train import worker
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.train.worker import RESTARTS, Worker

pytest_plugins = ["support.run_fixtures"]

BEGIN = {"event": "begin", "step": 0, "steps": 60, "epochs": 6}
#: Events of one engine after the other, and the signal that ends each; 0 for a good end.
Lives = list[tuple[list[dict[str, Any]], int]]


@pytest.fixture
def run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run of a worker in this process."""
    monkeypatch.setattr(worker, "REST", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    yield bench.create()
    signal.signal(signal.SIGTERM, before)


def work(run: Run, monkeypatch: pytest.MonkeyPatch, lives: Lives) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of a worker whose engines live so, and the jobs that they were given."""
    jobs: list[dict[str, Any]] = []

    class Engine:
        def __init__(self, job: dict[str, Any], **_: Any) -> None:
            jobs.append(job)
            self.events, self.end = lives[len(jobs) - 1]
            self.process = SimpleNamespace(poll=lambda: -self.end)

        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def send(self, line: str) -> None:
            pass

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from self.events
            if self.end:
                raise EngineError(f"The engine ended by signal {self.end}.")

    monkeypatch.setattr(worker, "Child", Engine)
    return Worker(run).work(), jobs


def checkpoint(step: int) -> dict[str, Any]:
    return {"event": "checkpoint", "step": step, "path": f"step_{step:08d}"}


def finished(step: int) -> dict[str, Any]:
    return {"event": "finished", "step": step, "peak_rss_mb": 1.0}


KILLED = int(signal.SIGKILL)


def test_it_gives_up_when_nothing_is_gained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, jobs = work(run, monkeypatch, [([BEGIN], KILLED)] * 9)
    assert (code, len(jobs), run.status) == (1, 1 + RESTARTS, "failed")
    assert run.state.error == (
        "The engine was killed 4 times without getting past step 0, most likely because memory ran out: close other "
        "programs and resume, or start a new run with a smaller --ctx-size (now 1024) or a smaller base."
    )
    assert [event["message"][-12:] for event in run.events() if event["event"] == "restarted"] == [
        "(try 1 of 3)", "(try 2 of 3)", "(try 3 of 3)",
    ]  # fmt: skip


def test_it_goes_on_as_long_as_something_is_gained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lives: Lives = [([BEGIN, checkpoint(5 * n)], KILLED) for n in range(1, 11)]
    code, jobs = work(run, monkeypatch, [*lives, ([BEGIN, finished(60)], 0)])
    assert (code, len(jobs), run.status) == (0, 11, "finished")
    tries = [event["message"][-12:] for event in run.events() if event["event"] == "restarted"]
    assert tries == ["(try 1 of 3)"] * 10


def test_what_was_gained_before_counts_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = {"event": "resumed", "step": 5, "epoch": 0}
    lives: Lives = [([BEGIN, checkpoint(5)], KILLED), *[([resumed, BEGIN], KILLED)] * 9]
    code, jobs = work(run, monkeypatch, lives)
    assert (code, len(jobs)) == (1, 1 + RESTARTS)
    assert "without getting past step 5" in (run.state.error or "")


@pytest.mark.parametrize("blow", [signal.SIGABRT, signal.SIGSEGV, signal.SIGILL])
def test_an_engine_that_ends_itself_would_do_so_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, blow: signal.Signals
) -> None:
    code, jobs = work(run, monkeypatch, [([BEGIN], int(blow))])
    assert (code, len(jobs), run.state.error) == (1, 1, f"The engine ended by signal {int(blow)}.")
    assert run.status == "failed"


def test_a_pause_is_wanted_while_no_engine_lives(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_wish", lambda self: "pause")
    code, jobs = work(run, monkeypatch, [([BEGIN, checkpoint(5)], KILLED)])
    assert (code, len(jobs), run.status, run.state.step) == (0, 1, "paused", 5)


def test_a_stop_is_wanted_while_no_engine_lives(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only an engine can make the adapter.
    monkeypatch.setattr(worker, "REST", 60.0)
    monkeypatch.setattr(Worker, "_wish", lambda self: "stop")
    stopped = {**finished(5), "event": "stopped"}
    code, jobs = work(run, monkeypatch, [([BEGIN, checkpoint(5)], KILLED), ([BEGIN, stopped], 0)])
    assert (code, len(jobs), run.status) == (0, 2, "stopped")


def test_notes_are_kept_each_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = [{"event": "note", "message": text} for text in ("one thing", "another", "one thing")]
    work(run, monkeypatch, [([BEGIN, *notes, finished(60)], 0)])
    assert run.state.note == "one thing; another"


def test_what_the_engine_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, [job] = work(run, monkeypatch, [([BEGIN, finished(60)], 0)])
    assert (job["nice"], job["compute"], job["start"]) == (10, None, None)
    (run.folder / "done").unlink()
    (run.folder / "start.gguf").touch()
    _, [job] = work(run, monkeypatch, [([BEGIN, finished(60)], 0)])
    assert job["start"] == str(run.folder / "start.gguf")


def test_how_it_computes_is_recorded_before_the_first_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ComputeConfig(threads=3, weights="unpacked", tokens_per_s={"f32 unpacked x3": 9.5})
    decided = {"event": "compute", "compute": compute.model_dump()}
    before = (run.folder / "run.json").stat().st_mtime_ns
    _, [first, again] = work(run, monkeypatch, [([decided, BEGIN, checkpoint(5)], KILLED), ([BEGIN, finished(60)], 0)])
    assert first["compute"] is None
    # Also a child that was killed right after it goes on as it began.
    assert ComputeConfig.model_validate(again["compute"]) == compute
    assert (run.record.compute, run.record.threads) == (compute, 3)
    assert (run.folder / "run.json").stat().st_mtime_ns == before, "runs are listed by the time they were made"
