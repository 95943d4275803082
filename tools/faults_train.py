"""Kill what trains, again and again, and look whether the run still ends as if nobody had touched it.

`python tools/faults_train.py [--kills N] [--seed N]` trains a tiny base in real processes: a session that starts the
run and waits, the worker, its engine; with early stopping, validations within epochs, and checkpoints by step and by
time. At random moments, and in the middle of checkpoints and validations, it ends the engine, the worker, both or the
session with SIGKILL. Then the run must go on by itself, or with one `finetune resume`, sometimes typed in two sessions
at once, and in the end

- it is finished, stopped early at the same step, and both its adapters are those of an undisturbed run, byte for byte;
- every line of its events is whole; every step and every validation is there, with the undisturbed run's losses;
- there never were two writers: a worker's and an engine's events stand together, their steps without a gap.

The last line is `N kills, N survived, N identical`; the exit code is 0 where the numbers are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from meton_plugins.finetune.curate import dataset  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.gguf.tiny import make_tiny  # noqa: E402
from meton_plugins.finetune.library import Library  # noqa: E402
from meton_plugins.finetune.paths import Home, engine_dir  # noqa: E402
from meton_plugins.finetune.settings import BuildSettings  # noqa: E402
from meton_plugins.finetune.train.runs import Run  # noqa: E402
from meton_plugins.finetune.turn import Turn  # noqa: E402

#: Most kills of one run.
A_RUN = 12
#: A run that is not over after so many seconds is stuck.
PATIENCE = 180.0
#: It overfits and stops early; checkpoints by time fall on other steps in each run. One thread, for a busy machine.
FLAGS = {
    "epochs": 40, "learning_rate": 0.004, "lora_rank": 4, "batch_size": 4, "save_steps": 6, "save_minutes": 0.004,
    "eval_steps": 7, "patience": 8, "min_delta": 0.01, "threads": 1, "template": "bare",
}  # fmt: skip
#: What is killed, and how often beside the others.
VICTIMS = {"engine": 4, "worker": 4, "both": 2, "session": 2}

#: What a resume says where another session's was faster.
FASTER = ("is at work already", "is training on this machine", "Another session is starting")


class Broken(Exception):
    """A run did not survive, or came to another end."""


class Bench:
    """A data folder with a base and a dataset; `reference` is the run that nothing disturbed."""

    def __init__(self, folder: Path) -> None:
        engine = installed().folder
        # Also the engine's folder and the locks of this machine are the test's own.
        os.environ |= {"METON_FINETUNE_HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "share")}
        engine_dir().parent.mkdir(parents=True)
        engine_dir().symlink_to(engine)
        self.home = Home(folder / "home").make()
        self.base = make_tiny(folder / "base.gguf")
        templates = self.home.root / "templates" / "modelfiles"
        templates.mkdir(parents=True)
        (templates / "bare.Modelfile").write_text("FROM .\n", encoding="utf-8")
        at, asked = "2026-01-01T10:00:00", [(f"What is {n}?", f"It is {n * n % 97}, we say.") for n in range(34)]
        turns = [Turn(session=q, at=at, question=q, answer=a) for q, a in asked]
        with Library(self.home.library) as library:
            library.rate(library.add(turns)[0], 5)
            dataset.build(library, BuildSettings(form="plain", context_turns=0), self.home.datasets)

    def command(self, *words: str) -> subprocess.Popen[str]:
        """`meton-finetune finetune WORDS` under way."""
        return subprocess.Popen(
            [sys.executable, "-m", "meton_plugins.finetune", "finetune", *words], cwd=ROOT, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def start(self, name: str) -> subprocess.Popen[str]:
        """A session that starts the run `name` and waits for it."""
        flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in FLAGS.items()]
        return self.command("start", "--base", str(self.base), "--name", name, "--wait", *flags)

    def run(self, name: str) -> Run:
        """The run, there or not."""
        return Run(self.home.runs / name)


def engines_of(worker: psutil.Process) -> list[psutil.Process]:
    """The engines of a worker, which may end at any moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process for process in worker.children() if process.status() != psutil.STATUS_ZOMBIE]
    return []


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Victim:
    """One run, and what is done to it."""

    def __init__(self, bench: Bench, name: str, choose: random.Random) -> None:
        self.bench, self.name, self.choose = bench, name, choose
        self.run = bench.run(name)
        self.session = bench.start(name)
        self.typed: list[subprocess.Popen[str]] = []
        self.killed: Counter[str] = Counter()

    def kill(self) -> None:
        """At a random moment, end something; then let the run go on."""
        self._aim()
        if self.run.done:
            return
        what = self.choose.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        worker = self.worker()
        engines = engines_of(worker) if worker else []
        session = [psutil.Process(self.session.pid)] if self.session.poll() is None else []
        its = [worker] if worker else []
        both = [*its, *engines] if engines else []
        targets = {"engine": engines, "worker": its, "both": both, "session": session}[what]
        for process in targets:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if targets:
            self.killed[what] += 1
            # Until it is gone it holds its lock, as if it lived.
            self._until(lambda: all(gone(process) for process in targets), "what was killed is gone")
            self.revive()

    def _aim(self) -> None:
        """Wait for a moment to strike."""
        signs: list[Callable[[], bool]] = [
            lambda: any((self.run.folder / "checkpoints").glob(".step_*")),
            lambda: any(self.run.folder.glob(".best.gguf*")),
            lambda: self._last_event() in ("validation", "early"),
            lambda: self._last_event() in ("resumed", "begin", "restarted"),
        ]
        sign = self.choose.choice([None, None, None, *signs])
        end = time.monotonic() + self.choose.uniform(0, 2)
        while time.monotonic() < end and not self.run.done and not (sign and sign()):
            time.sleep(0.001)

    def _last_event(self) -> str:
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
            return str(json.loads((self.run.folder / "events.jsonl").read_bytes().splitlines()[-1])["event"])
        return ""

    def worker(self) -> psutil.Process | None:
        """The one worker of this run; Broken where there are two."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            named = process.info["cmdline"] or ()
            if named and named[-1] == str(self.run.folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        # A second one may be waiting for the first one's lock to be free; it has no engine.
        if len(found) > 1 and sum(len(engines_of(process)) for process in found) > 1:
            raise Broken(f"{self.name} has {len(found)} workers, and more than one engine")
        return found[0] if found else None

    @property
    def there(self) -> bool:
        """Whether the session has made the run; looking at the locks of one that is not would make its folder."""
        return (self.run.folder / "run.json").exists()

    def revive(self) -> None:
        """Where the run does not go on by itself: one command."""
        if not self.there:
            if self.session.poll() is not None:
                self.session.communicate()  # killed before it had made its run: type the same again
                self.session = self.bench.start(self.name)
            return
        self._until(lambda: self.worker() is None or self.run.alive, "its worker holds its lock")
        if self.run.alive or self.run.done:
            return
        if self.session.poll() is None and self.run.state.attempt == 0:
            return  # it is about to start the worker
        self.resume(2 if self.choose.random() < 0.3 else 1)

    def resume(self, sessions: int) -> None:
        """Type `finetune resume`, in so many sessions at once, and wait until the run is at work again."""
        self._heard()
        before = self.run.state.attempt
        self.typed = [self.bench.command("resume", self.name) for _ in range(sessions)]
        self._until(lambda: self.run.state.attempt > before or not self._typing(), "it is resumed")
        if not self._typing():
            self._heard()

    def _typing(self) -> bool:
        return any(process.poll() is None for process in self.typed)

    def _heard(self) -> None:
        """Broken where a resume was refused, and no other session was faster (it may have been typed before a kill)."""
        said = [process.communicate(timeout=PATIENCE)[0] for process in self.typed]
        refused = [text for process, text in zip(self.typed, said, strict=True) if process.returncode]
        if refused and len(refused) == len(said) and not any(busy in text for busy in FASTER for text in refused):
            raise Broken(f"{self.name} cannot be resumed: {said}")
        self.typed = []

    def _until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > end:
                raise Broken(f"{self.name}: waited in vain until {what}; it is {self._how()}")
            time.sleep(0.01)

    def _how(self) -> str:
        return f"{self.run.status}: {self.run.state.error}" if self.there else "not there"

    def finish(self) -> None:
        """Let it come to its end."""
        self._until(lambda: self.there or self.session.poll() is not None, "it is there")
        if not self.there:
            self.revive()
            self._until(lambda: self.there, "it is there")
        self._until(self._over, "it is over")
        if not self.run.done:  # killed too often without getting anywhere, or just before its last word
            self.revive()
        self._until(lambda: self.run.done and not self.run.alive, "it is over")
        self._heard()
        self.session.communicate(timeout=PATIENCE)

    def _over(self) -> bool:
        # Until its session has started the worker, nothing is at work and yet it goes on.
        started = self.run.state.attempt > 0 or self.session.poll() is not None
        return self.run.done or (started and not self.run.alive)


def check(run: Run, reference: Run) -> None:
    """Broken where `run` came to another end than `reference`."""
    if run.status != "finished":
        raise Broken(f"{run.name} is {run.status}: {run.state.error}")
    facts = ("step", "best_loss", "best_step", "base_loss", "since_best", "note")
    for fact in facts:
        if getattr(run.state, fact) != getattr(reference.state, fact):
            raise Broken(f"{run.name}: {fact} is {getattr(run.state, fact)}, not {getattr(reference.state, fact)}")
    check_events(run, reference)


def check_events(run: Run, reference: Run) -> None:
    """Every line whole, each attempt in one piece, all steps and validations there with the same losses."""
    lines = (run.folder / "events.jsonl").read_bytes().splitlines()
    try:
        events = [json.loads(line) for line in lines]
    except ValueError as error:
        raise Broken(f"{run.name}: a line of its events is torn ({error})") from error
    attempts = [event["attempt"] for event in events]
    if attempts != sorted(attempts):
        raise Broken(f"{run.name}: two workers wrote at the same time")
    expected = None
    for event in events:
        if event["event"] == "begin":
            expected = event["step"] + 1
        elif event["event"] == "step":
            if event["step"] != expected:
                raise Broken(f"{run.name}: step {event['step']} came where {expected} was due")
            expected += 1
    if losses(run) != losses(reference):
        raise Broken(f"{run.name}: its losses are not those of an undisturbed run")


def losses(run: Run) -> list[tuple[str, int, float]]:
    """Of each step and validation, as readers see them."""
    told = run.events()
    return sorted((e["event"], e["step"], e["loss"]) for e in told if e["event"] in ("step", "validation"))


def identical(run: Run, reference: Run) -> bool:
    """Whether both adapters are the undisturbed run's, byte for byte."""
    return all(
        (run.folder / name).read_bytes() == (reference.folder / name).read_bytes()
        for name in ("adapter.gguf", "best.gguf")
    )


def undisturbed(bench: Bench) -> Run:
    """The run that all are compared with; Broken where it would show nothing."""
    session = bench.start("undisturbed")
    said, _ = session.communicate(timeout=PATIENCE)
    run = bench.run("undisturbed")
    state: Any = run.state
    if run.status != "finished" or not state.note or not 0 < state.best_step < state.step < state.steps:
        raise Broken(f"the undisturbed run did not learn, then stop early: {said}")
    return run


def campaign(folder: Path, kills: int, seed: int) -> tuple[Counter[str], int, int]:
    """Kill so often; what was killed, and how many kills were survived, and without a trace."""
    bench = Bench(folder)
    reference = undisturbed(bench)
    print(f"undisturbed: {reference.state.step} of {reference.state.steps} steps, {reference.state.note}", flush=True)
    choose = random.Random(seed)
    killed: Counter[str] = Counter()
    survived = same = 0
    for number in range(1, 10**6):
        if killed.total() >= kills:
            break
        victim = Victim(bench, f"r{number}", choose)
        try:
            for _ in range(4 * A_RUN):
                if victim.run.done or victim.killed.total() >= min(A_RUN, kills - killed.total()):
                    break
                victim.kill()
            victim.finish()
            check(victim.run, reference)
        except (Broken, subprocess.TimeoutExpired) as error:
            killed += victim.killed
            print(f"run {number} of seed {seed}: {error} (see {folder})")
            break
        killed += victim.killed
        survived += victim.killed.total()
        if not identical(victim.run, reference):
            print(f"run {number} of seed {seed}: its adapters are others (see {folder})")
            break
        same += victim.killed.total()
        shutil.rmtree(victim.run.folder)
        print(f"{killed.total()} kills: {dict(victim.killed)} in r{number}", flush=True)
    return killed, survived, same


def end_all(folder: Path) -> None:
    """End every process that still works in `folder`."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(word).startswith(f"{folder}/") for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def main() -> int:
    """Kill and compare, as often as was asked; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how often (default: 200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random moments")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-train-"))
    began = time.monotonic()
    try:
        killed, survived, same = campaign(folder, options.kills, options.seed)
    finally:
        end_all(folder)
    print(", ".join(f"{n} × {what}" for what, n in sorted(killed.items())), f"in {time.monotonic() - began:.0f} s")
    print(f"{killed.total()} kills, {survived} survived, {same} identical")
    if killed.total() == survived == same == options.kills:
        shutil.rmtree(folder)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
