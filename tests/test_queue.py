"""The queue: runs wait for the machine, whoever ends a training starts the next, and no kill loses or doubles one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.finetuning import Typed
from support.runs import Bench, Ingredients, children, over, reached, steps, until, workers

from meton_plugins.finetune.errors import BusyError, EngineError, FinetuneError
from meton_plugins.finetune.paths import Home, engine_dir, queue_file, write_json
from meton_plugins.finetune.train import launch
from meton_plugins.finetune.train.launch import add, ask, begin, drop, kick, start, trains
from meton_plugins.finetune.train.lock import start_lock
from meton_plugins.finetune.train.news import news
from meton_plugins.finetune.train.queue import place, put, take_out, waiting
from meton_plugins.finetune.train.runs import Run, all_runs

pytest_plugins = ["support.run_fixtures"]


@pytest.fixture
def busy(bench: Bench) -> Run:
    """The run `busy`, which trains until it is asked to end."""
    run = bench.create("busy", epochs=10000)
    start(run)
    reached(run, 1)
    return run


@pytest.fixture
def typed(bench: Bench) -> Typed:
    return Typed(bench.home.root)


def queued(bench: Bench, name: str = "two", **changes: Any) -> Run:
    """A new run that waits."""
    run, _ = begin(lambda: bench.create(name, **{"epochs": 1, **changes}))
    assert run.status == "queued"
    return run


def finished(run: Run) -> None:
    """Wait until `run` was started by somebody else and came to its end, at its first attempt."""
    until(lambda: run.done, f"{run.name} is done")
    over(run)
    assert (run.status, run.state.attempt) == ("finished", 1), run.state.error
    assert steps(run) == list(range(1, run.state.steps + 1))


def end(run: Run) -> None:
    ask(run, "stop")
    over(run)


def kill(run: Run) -> None:
    os.kill(run.state.pid, signal.SIGKILL)
    until(lambda: run.status == "interrupted", f"{run.name} is dead")


# The file


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "run.json").write_text("{}")
    return root / name


def test_places(tmp_path: Path) -> None:
    a, b, c = (folder(tmp_path / "runs", name) for name in "abc")
    assert (waiting(), place(a), take_out(a)) == ([], None, False)
    put([a, b], "start")
    put([b, c, a], "resume")
    assert [(entry.folder, entry.by) for entry in waiting()] == [(a, "start"), (b, "start"), (c, "resume")]
    assert [place(each) for each in (a, b, c)] == [1, 2, 3]
    assert queue_file().stat().st_mode & 0o777 == 0o600
    assert take_out(b)
    assert [place(each) for each in (a, b, c)] == [1, None, 2]
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert place(tmp_path / "link" / "c") == 2
    put([tmp_path / "link" / "c"], "start")
    assert len(waiting()) == 2


def test_a_run_that_is_gone_or_over_or_under_way_does_not_wait(tmp_path: Path) -> None:
    names = ("gone", "over", "begun", "waits")
    put([folder(tmp_path, name) for name in names], "start")
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "over" / "done").touch()
    write_json(tmp_path / "begun" / "state.json", {"attempt": 1, "status": "failed"})
    assert [entry.folder.name for entry in waiting()] == ["waits"]
    put([], "start")
    assert len(queue_file().read_text().splitlines()) == 1
    # It may wait again: what was void was the old line.
    put([tmp_path / "begun"], "resume")
    assert [entry.folder.name for entry in waiting()] == ["waits", "begun"]


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a"), folder(tmp_path, "b")
    put([a, b], "start")
    first, second = queue_file().read_text().splitlines()
    lost = ['{"folder": 7}', "null", "[]", "{", "\x00", '{"folder": "a\\u0000b", "at": "", "by": "", "attempt": 0}']
    queue_file().write_text("\n".join([first, *lost, second[:30], second, second[: len(second) // 2]]))
    assert [entry.folder for entry in waiting()] == [a, b]
    queue_file().write_bytes(b"\xff\xfe\n" + first.encode())
    assert [entry.folder for entry in waiting()] == [a]


def test_a_folder_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    made = folder(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), "a")
    put([made], "start")
    assert place(made) == 1


# One training at a time


def test_a_second_start_waits_and_starts_by_itself(bench: Bench, busy: Run) -> None:
    said = bench.command(*bench.words(name="two", epochs=1))
    assert said.startswith("     base  base.gguf")
    assert "not measured while another run trains" in said
    assert said.endswith(
        "two waits in the queue, place 1: busy trains now.\n"
        "It starts by itself, also when you leave. See who waits with /finetune queue list.\n"
    )
    two = bench.run("two")
    assert (two.status, two.state.attempt, two.place) == ("queued", 0, 1)
    assert "three waits in the queue, place 2" in bench.command(*bench.words(name="three", epochs=1))
    assert bench.json(*bench.words(name="four", epochs=1))["status"] == "queued"
    listed = bench.command("finetune", "status")
    assert re.search("^two    queued       place 1 in the queue$", listed, re.MULTILINE)
    assert re.search("^four   queued       place 3 in the queue$", listed, re.MULTILINE)
    said = bench.command("finetune", "stop")  # the one that trains, not the newest
    assert said == ("busy stops after this step and keeps the best so far.\nThen two starts, the next in the queue.\n")
    for run in (two, bench.run("three"), bench.run("four")):
        finished(run)
    began = [span(run)[0] for run in all_runs(bench.home.runs)]
    assert began == sorted(began)
    assert waiting() == []


def test_the_list(bench: Bench, busy: Run, typed: Typed) -> None:
    assert typed("queue list") == "busy trains now.\nNothing waits in the queue.\n"
    two, _three = queued(bench), queued(bench, "three")
    put([folder(bench.home.root.parent / "else", "other")], "queue add")
    lines = typed("queue").splitlines()
    assert (lines[0], lines[1].split()) == ("busy trains now.", ["place", "run", "waits", "since", "by"])
    assert [line.split()[:2] for line in lines[2:]] == [
        ["1", "two"], ["2", "three"], ["3", str(bench.home.root.parent / "else" / "other")],
    ]  # fmt: skip
    said = typed.json("queue list")
    assert said["trains"] == str(busy.folder)
    assert [(each["place"], each["run"], each["by"]) for each in said["waiting"]] == [
        (1, "two", "start"), (2, "three", "start"), (3, "other", "queue add"),
    ]  # fmt: skip
    assert said["waiting"][0]["folder"] == str(two.folder)
    assert typed(f"queue drop three {bench.home.root.parent / 'else' / 'other'}").count("is out of the queue.") == 2
    assert typed("queue drop three", code=1) == "✗ 'three' does not wait in the queue: there wait two.\n"
    assert typed("queue drop", code=2) == "✗ Say which run: /finetune queue drop RUN.\n"
    assert "takes no run" in typed("queue list two", code=2)
    assert "takes add, list, drop" in typed("queue frob", code=2)
    typed("queue drop two")
    assert "nothing waits" in typed("queue drop two", code=1)
    assert bench.run("two").status == "new"
    assert "(start it: /finetune resume two)" in typed("status two")
    end(busy)
    assert bench.run("two").state.attempt == 0


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_what_waits_is_taken_out(bench: Bench, busy: Run, typed: Typed, verb: str) -> None:
    queued(bench)
    assert typed(f"{verb} two") == "two is out of the queue: /finetune queue add two puts it back.\n"
    assert (bench.run("two").status, waiting()) == ("new", [])
    assert typed("queue add two") == "two waits in the queue, place 1: busy trains now.\n"
    assert typed("queue add two") == "two waits in the queue, place 1: busy trains now.\n"
    assert len(waiting()) == 1
    end(busy)
    finished(bench.run("two"))
    assert typed("queue add two", code=1) == "✗ The run two is finished: start a new one.\n"


def test_a_run_at_work_does_not_wait(bench: Bench, busy: Run) -> None:
    with pytest.raises(BusyError, match="busy is at work already"):
        add([busy])
    end(busy)


def test_add_starts_where_nobody_trains(bench: Bench, typed: Typed) -> None:
    bench.create("two", epochs=1)
    assert typed("queue add two").startswith("two  ")
    finished(bench.run("two"))


# What ends a training starts the next


@pytest.mark.parametrize("how", ["finished", "stopped", "paused", "failed"])
def test_whoever_ends_starts_the_next(bench: Bench, how: str) -> None:
    one = bench.create("one", epochs=12)
    start(one)
    reached(one, 1)
    two = queued(bench)
    if how == "failed":
        [engine] = children(one.state.pid)
        engine.send_signal(signal.SIGABRT)  # a killed engine is started again, one that aborts is not
    elif how != "finished":
        ask(one, {"stopped": "stop", "paused": "pause"}[how])
    over(one)
    assert one.status == how
    finished(two)


def test_what_fails_at_once_does_not_hold_up_the_others(own_base: Bench) -> None:
    busy = own_base.create("busy", epochs=10000)
    start(busy)
    reached(busy, 1)
    two, three = queued(own_base), queued(own_base, "three")
    record = json.loads((two.folder / "run.json").read_text())
    record["base"]["path"] = str(own_base.base) + ".gone"
    write_json(two.folder / "run.json", record)
    end(busy)
    finished(three)
    assert two.status == "failed"
    assert "is gone" in (two.state.error or "")


def test_a_shutdown_starts_nothing(bench: Bench, busy: Run) -> None:
    two = queued(bench)
    pid = busy.state.pid
    os.killpg(pid, signal.SIGTERM)
    over(busy)
    until(lambda: not workers(bench.home.runs), "the worker is gone", seconds=10)
    assert (busy.status, two.status, two.state.attempt) == ("paused", "queued", 0)


def test_a_run_that_paused_by_itself_starts_nothing(bench: Bench) -> None:
    """A full disk would end the others as well."""
    run = bench.create("one")
    put([bench.create("two").folder], "start")
    write_json(run.folder / "state.json", {"status": "paused", "attempt": 1, "error": "The disk is full."})
    launch.hand_over(run)
    assert bench.run("two").status == "queued"
    write_json(run.folder / "state.json", {"status": "paused", "attempt": 1})
    launch.hand_over(run)
    over(bench.run("two"))
    assert bench.run("two").state.attempt == 1


# Resuming


def test_resume_waits_too_and_loses_nothing(bench: Bench, ingredients: Ingredients) -> None:
    one = bench.create("one")
    start(one)
    reached(one, 12)
    ask(one, "pause")
    over(one)
    busy = bench.create("busy", epochs=10000)
    start(busy)
    assert bench.command("finetune", "resume", "one") == "one waits in the queue, place 1: busy trains now.\n"
    assert re.fullmatch(r"one  queued  place 1 in the queue  step \d+/60\n", bench.command("finetune", "status", "one"))
    end(busy)
    until(lambda: one.done, "one is done")
    over(one)
    assert (one.status, one.state.attempt) == ("finished", 2)
    assert one.adapter("last").read_bytes() == ingredients.adapter.read_bytes()


def test_a_resumed_run_goes_before_those_that_wait(bench: Bench, busy: Run) -> None:
    two = queued(bench)
    kill(busy)
    start(busy)
    assert (busy.status, two.status) == ("running", "queued")
    end(busy)
    finished(two)


def test_resuming_what_waits_starts_it_once(bench: Bench, busy: Run) -> None:
    two, three = queued(bench), queued(bench, "three")
    kill(busy)
    start(three)
    finished(three)
    finished(two)
    assert waiting() == []


def test_a_failed_run_that_waits_is_no_failure(bench: Bench, busy: Run, typed: Typed) -> None:
    two = queued(bench)
    write_json(two.folder / "state.json", {"status": "failed", "attempt": 1, "error": "Something."})
    assert two.status == "failed"
    assert typed("resume two") == "two waits in the queue, place 1: busy trains now.\n"
    drop(two.folder)
    end(busy)


# Nobody was left to start the next


def look(bench: Bench, where: str) -> None:
    if where == "news":
        news(bench.home)
    else:
        bench.command("finetune", *where.split())


@pytest.mark.parametrize("where", ["status", "queue list", "news"])
def test_a_later_look_starts_the_next(bench: Bench, busy: Run, where: str) -> None:
    two = queued(bench)
    kill(busy)
    time.sleep(0.3)
    assert two.status == "queued"
    look(bench, where)
    finished(two)


def test_a_start_lets_those_go_first_that_wait(bench: Bench, busy: Run) -> None:
    two = queued(bench, epochs=8)
    kill(busy)
    said = bench.command(*bench.words(name="three", epochs=1))
    assert "three waits in the queue, place 1: two trains now." in said
    finished(two)
    finished(bench.run("three"))


def test_many_looks_at_once_start_one(bench: Bench, busy: Run) -> None:
    runs = [queued(bench, name) for name in ("two", "three", "four")]
    kill(busy)
    looks = [bench.popen("finetune", "status") for _ in range(4)]
    for each in looks:
        said, _ = each.communicate(timeout=60)
        assert each.returncode == 0, said
    for run in runs:
        finished(run)
    assert waiting() == []


def test_a_look_while_another_session_starts_waits_for_nothing(bench: Bench) -> None:
    put([bench.create("two").folder], "start")
    with start_lock():
        began = time.monotonic()
        kick(bench.home.runs)
        assert time.monotonic() - began < 1
    assert bench.run("two").status == "queued"


def test_a_look_at_an_empty_queue_takes_no_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> bool:
        raise AssertionError("looked at a lock")

    monkeypatch.setattr(launch, "held", taken)
    bench.create("two")
    kick(bench.home.runs)


def test_a_worker_that_is_killed_while_it_hands_over_loses_nothing(bench: Bench) -> None:
    one = bench.create("one", epochs=12)
    start(one)
    two = queued(bench)
    pid = one.state.pid
    with start_lock():
        over(one)
        assert one.done
        os.kill(pid, signal.SIGKILL)  # it waits for the lock, to start the next
    assert two.status == "queued"
    kick(bench.home.runs)
    finished(two)


def test_a_session_that_is_killed_between_start_and_note_starts_nothing_twice(bench: Bench) -> None:
    """The line of a run that has begun since is void, though nobody took it out."""
    two = bench.create("two")
    engine_dir().unlink()  # so that it fails at once, and could be started again
    put([two.folder], "start")
    line = queue_file().read_text()
    assert start(two).status == "failed"
    over(two)
    queue_file().write_text(line)
    assert (waiting(), two.status) == ([], "failed")
    kick(bench.home.runs)
    assert two.state.attempt == 1


def test_a_worker_that_does_not_come_up_stays_in_the_queue(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    two = bench.create("two", epochs=1)
    put([two.folder], "start")
    with monkeypatch.context() as patch:
        patch.setattr(launch, "bootstrap", lambda _module: ["false"])
        kick(bench.home.runs)
        assert (two.status, two.state.attempt) == ("queued", 0)
        # Who starts a run is told of it, and it does not wait for what may never come.
        with pytest.raises(EngineError, match="did not come up"):
            begin(lambda: bench.create("three", epochs=1))
    assert [entry.folder.name for entry in waiting()] == ["two"]
    kick(bench.home.runs)
    finished(two)


# Two sessions, two homes


@pytest.mark.parametrize("attempt", range(4))
def test_two_sessions_at_the_same_moment(bench: Bench, attempt: int) -> None:
    sessions = [bench.popen(*bench.words(name=name, epochs=4)) for name in ("left", "right")]
    said = {}
    for name, session in zip(("left", "right"), sessions, strict=True):
        said[name], _ = session.communicate(timeout=60)
        assert session.returncode == 0, said
    waited = [name for name, words in said.items() if f"{name} waits in the queue, place 1: " in words]
    if waited:
        [other] = {"left", "right"} - set(waited)
        assert f"{other} trains now" in said[waited[0]] or "as soon as the machine is free" in said[waited[0]]
        assert "It trains in the background" in said[other]
    else:  # the first was over before the second came
        assert all(f"{name}  " in words for name, words in said.items())
    for name in said:
        finished(bench.run(name))
    one, two = sorted((span(bench.run(name)) for name in said), key=lambda each: each[0])
    assert one[1] <= two[0], "they trained one after the other"


def span(run: Run) -> tuple[str, str]:
    """When its first event was, and its last."""
    times = [event["at"] for event in run.events()]
    return times[0], times[-1]


def test_the_queue_is_the_machines(bench: Bench, busy: Run, tmp_path: Path) -> None:
    """Two checkouts share it; each names the other's runs by their path."""
    other = Home(tmp_path / "other")
    shutil.copytree(bench.home.root / "templates", other.root / "templates")
    said = bench.command("--home", str(other.root), *bench.words(name="two", epochs=1))
    assert f"two waits in the queue, place 1: {busy.folder} trains now." in said
    two = Run(other.runs / "two")
    assert f"1      {two.folder}" in bench.command("finetune", "queue", "list")
    assert "1      two " in bench.command("--home", str(other.root), "finetune", "queue", "list")
    end(busy)
    finished(two)


# Waiting for one's turn


def test_start_and_wait_stays_until_its_turn_is_over(bench: Bench, busy: Run) -> None:
    with bench.popen(*bench.words("--wait", name="two", epochs=1)) as session:
        assert session.stdout is not None
        waits = "two waits in the queue, place 1: busy trains now.\n"
        assert waits in iter(session.stdout.readline, "")
        kill(busy)  # nobody starts the next but the one that waits
        said, _ = session.communicate(timeout=60)
    assert session.returncode == 0
    assert "two  finished" in said


def test_ctrl_c_while_it_waits_leaves_it_in_the_queue(bench: Bench, busy: Run) -> None:
    with bench.popen(*bench.words("--wait", name="two", epochs=1)) as session:
        assert session.stdout is not None
        assert any("waits in the queue" in line for line in iter(session.stdout.readline, ""))
        time.sleep(0.5)
        os.killpg(session.pid, signal.SIGINT)
        said, _ = session.communicate(timeout=60)
    assert "two keeps its place" in said
    assert bench.run("two").status == "queued"
    end(busy)
    finished(bench.run("two"))


def test_who_trains(bench: Bench, busy: Run) -> None:
    assert trains() == busy.folder
    end(busy)
    assert trains() is None
    with pytest.raises(FinetuneError, match=r"busy is not training \(it is stopped\)"):
        ask(busy, "stop")
