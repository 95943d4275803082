"""Kill what trains, again and again, and look whether the run still ends as if nobody had touched it.

`python tools/faults_train.py [--kills N] [--real N] [--seed N]` trains a tiny base, and for the last `--real` kills a
real model, SmolLM2, in real processes: a session that starts the run and waits, the worker, its engine; with early
stopping, validations within epochs, and checkpoints by step and by time. At random moments, and in the middle of
checkpoints and validations, it ends the engine, the worker, both or the session with SIGKILL, or fills the disk that
the data folder lies on (a tmpfs, where this user may mount one) until the run has paused and recorded why. Then the run
must go on by itself, or with one `finetune resume`, sometimes typed in two sessions at once, and in the end

- it is finished, stopped early at the same step, and both its adapters are those of an undisturbed run, byte for byte;
- every line of its events is whole; every step and every validation is there, with the undisturbed run's losses;
- there never were two writers: a worker's and an engine's events stand together, their steps without a gap.

The last line is `N kills, N survived, N identical`, a full disk being counted as a kill; the exit code is 0 where the
numbers are the same. Where SmolLM2 cannot be had, or no disk be mounted, that is said, and the tiny base or the other
kills take their place.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from tools.real_models import Unavailable, real_model  # noqa: E402

#: Most kills of one run.
A_RUN = 12
#: It overfits and stops early; checkpoints by time fall on other steps in each run. One thread, for a busy machine.
TINY_FLAGS = {
    "epochs": 40, "learning_rate": 0.004, "lora_rank": 4, "batch_size": 4, "save_steps": 6, "save_minutes": 0.004,
    "eval_steps": 7, "patience": 8, "min_delta": 0.01, "threads": 1, "template": "bare",
}  # fmt: skip
REAL_FLAGS = {
    "epochs": 10, "learning_rate": 0.003, "lora_rank": 4, "batch_size": 2, "save_steps": 5, "save_minutes": 0.1,
    "eval_steps": 4, "patience": 3, "min_delta": 0.01, "threads": 2, "template": "bare",
}  # fmt: skip
#: What is done, and how often beside the others.
VICTIMS = {"engine": 4, "worker": 4, "both": 2, "session": 2, "disk": 2}
#: Bytes that a full disk still has free: nothing, a few events, most of a tiny run's checkpoint.
LEFT_FREE = (0, 0, 4 << 10, 40 << 10, 150 << 10)

#: What a resume says where another session's was faster.
FASTER = ("is at work already", "is training on this machine", "Another session is starting")


class Broken(Exception):
    """A run did not survive, or came to another end."""


@dataclass(frozen=True)
class Subject:
    """What is trained. `window`: seconds within which a kill strikes; after `patience` seconds a run is stuck."""

    base: Path
    flags: dict[str, Any]
    examples: int
    window: float
    patience: float
    disk_mb: int


def tiny(folder: Path) -> Subject:
    """A base of random weights."""
    return Subject(make_tiny(folder / "base.gguf"), TINY_FLAGS, 34, 2.0, 180.0, 64)


def real() -> Subject:
    """SmolLM2 as it comes; Unavailable where it cannot be had."""
    return Subject(real_model("smollm2"), REAL_FLAGS, 14, 15.0, 900.0, 1024)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own at `folder`; whether this user may mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class Bench:
    """A data folder with a base and a dataset. `own_disk`: it lies on a file system that may be filled."""

    def __init__(self, folder: Path, engine: Path, subject: Subject, own_disk: bool) -> None:
        # Also the engine's folder and the locks of this machine are the test's own.
        os.environ |= {"METON_FINETUNE_HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "share")}
        engine_dir().parent.mkdir(parents=True)
        engine_dir().symlink_to(engine)
        self.home = Home(folder / "home").make()
        self.subject, self.base, self.own_disk = subject, subject.base, own_disk
        templates = self.home.root / "templates" / "modelfiles"
        templates.mkdir(parents=True)
        (templates / "bare.Modelfile").write_text("FROM .\n", encoding="utf-8")
        at, asked = (
            "2026-01-01T10:00:00",
            [(f"What is {n}?", f"It is {n * n % 97}, we say.") for n in range(subject.examples)],
        )
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
        flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in self.subject.flags.items()]
        return self.command("start", "--base", str(self.base), "--name", name, "--wait", *flags)

    def run(self, name: str) -> Run:
        """The run, there or not."""
        return Run(self.home.runs / name)

    @contextlib.contextmanager
    def full_disk(self, left: int) -> Iterator[None]:
        """Meanwhile the disk has `left` bytes free."""
        filler = self.home.root / "filler"
        try:
            with filler.open("wb") as file:
                free = shutil.disk_usage(self.home.root).free
                # Others write meanwhile: what is free now may be gone at once.
                while (size := free - left) > 0:
                    try:
                        os.posix_fallocate(file.fileno(), 0, size)
                        break
                    except OSError:
                        free = shutil.disk_usage(self.home.root).free
            yield
        finally:
            filler.unlink(missing_ok=True)


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
        self.patience = bench.subject.patience
        self.run = bench.run(name)
        self.session = bench.start(name)
        self.typed: list[subprocess.Popen[str]] = []
        self.killed: Counter[str] = Counter()
        #: Not left to chance in the first run, so that few kills too hold a full disk.
        self.disk_first = bench.own_disk and name == "r1"

    def kill(self) -> None:
        """At a random moment, end something; then let the run go on."""
        self._aim()
        if self.run.done:
            return
        what = "disk" if self.disk_first else self.choose.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if what == "disk":
            if self.bench.own_disk and self.run.state.status == "running":
                self.fill(self.choose.choice(LEFT_FREE))
            return
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

    def fill(self, left: int) -> None:
        """Leave so many bytes on the disk until the run has paused; then make room, and let it go on."""
        with self.bench.full_disk(left):
            self._until(lambda: self.run.done or not self.run.alive, "it meets the full disk")
            state = self.run.state
        if self.run.done:
            return
        if state.status != "paused" or "disk is full" not in (state.error or ""):
            raise Broken(f"{self.name} met a full disk and says {state.status}: {state.error}")
        self.killed["disk"] += 1
        self.disk_first = False
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
        end = time.monotonic() + self.choose.uniform(0, self.bench.subject.window)
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
        said = [process.communicate(timeout=self.patience)[0] for process in self.typed]
        refused = [text for process, text in zip(self.typed, said, strict=True) if process.returncode]
        if refused and len(refused) == len(said) and not any(busy in text for busy in FASTER for text in refused):
            raise Broken(f"{self.name} cannot be resumed: {said}")
        self.typed = []

    def _until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self.patience
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
        self.session.communicate(timeout=self.patience)

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
    said, _ = session.communicate(timeout=bench.subject.patience)
    run = bench.run("undisturbed")
    state: Any = run.state
    if run.status != "finished" or not state.note or not 0 < state.best_step < state.step < state.steps:
        raise Broken(f"the undisturbed run did not learn, then stop early: {said}")
    return run


@dataclass
class Tally:
    """How many kills there were, by what was killed; how many a run survived, and how many left no trace."""

    killed: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    identical: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.killed + other.killed, self.survived + other.survived, self.identical + other.identical)


def campaign(folder: Path, engine: Path, subject: Subject, kills: int, seed: int) -> Tally:
    """Kill so often; it ends early where a run came to another end than the undisturbed one."""
    tally = Tally()
    with small_disk(folder / "home", subject.disk_mb) as mounted:
        if not mounted:
            print("No disk can be mounted here (root may): no disk is filled.")
        bench = Bench(folder, engine, subject, mounted)
        reference = undisturbed(bench)
        print(
            f"undisturbed: {reference.state.step} of {reference.state.steps} steps, {reference.state.note}", flush=True
        )
        choose = random.Random(seed)
        number = 0
        while tally.killed.total() < kills:
            number += 1
            if not one_run(bench, reference, f"r{number}", choose, kills - tally.killed.total(), tally):
                print(f"That was run {number} of seed {seed} on {subject.base.name}.")
                break
        end_all(folder)
    return tally


def one_run(bench: Bench, reference: Run, name: str, choose: random.Random, most: int, tally: Tally) -> bool:
    """Train once with at most `most` kills, which `tally` counts; whether all was as it should be."""
    victim = Victim(bench, name, choose)
    wrong: object = None
    try:
        for _ in range(4 * A_RUN):
            if victim.run.done or victim.killed.total() >= min(A_RUN, most):
                break
            victim.kill()
        victim.finish()
        check(victim.run, reference)
        tally.survived += victim.killed.total()
        if not identical(victim.run, reference):
            wrong = "its adapters are others"
    except (Broken, subprocess.TimeoutExpired) as error:
        wrong = error
    tally.killed += victim.killed
    if wrong:
        kept = Path(tempfile.mkdtemp(prefix="faults-train-")) / name
        shutil.copytree(victim.run.folder, kept, ignore_dangling_symlinks=True)
        print(f"{wrong} (see {kept})")
        return False
    tally.identical += victim.killed.total()
    shutil.rmtree(victim.run.folder)
    print(f"{tally.killed.total()} kills: {dict(victim.killed)} in {name}", flush=True)
    return True


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
    parser.add_argument("--real", type=int, default=20, metavar="N", help="how many of these on SmolLM2 (default: 20)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random moments")
    options = parser.parse_args()
    on_real = min(options.real, options.kills)
    if on_real:
        try:
            real_model("smollm2")
        except Unavailable as error:
            print(f"No kill is on SmolLM2, all are on the tiny base: {error}")
            on_real = 0
    # Before the user data folder is another.
    engine = installed().folder
    folder = Path(tempfile.mkdtemp(prefix="faults-train-"))
    total = Tally()
    try:
        for name, kills in (("tiny", options.kills - on_real), ("smollm2", on_real)):
            if not kills:
                continue
            began = time.monotonic()
            place = folder / name
            place.mkdir()
            subject = tiny(place) if name == "tiny" else real()
            tally = campaign(place, engine, subject, kills, options.seed)
            counted = ", ".join(f"{n} × {what}" for what, n in sorted(tally.killed.items()))
            print(f"{subject.base.name}: {counted} in {time.monotonic() - began:.0f} s", flush=True)
            total += tally
            if not tally.killed.total() == tally.identical == kills:
                break
    finally:
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{total.killed.total()} kills, {total.survived} survived, {total.identical} identical")
    return 0 if total.killed.total() == total.survived == total.identical == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
