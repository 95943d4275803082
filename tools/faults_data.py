"""Kill what works on the data folder, again and again, and look whether anything was lost.

`python tools/faults_data.py [--kills N] [--seed N]` starts real processes that harvest, import, rate, take turns,
build, forget, back up and upgrade, ends each with SIGKILL at a random moment, and then checks that

- the library opens, and SQLite finds file, keys and full-text index whole;
- every rating that the process had acknowledged is there, and every turn;
- every dataset is whole or absent, and every name leads to one;
- what was to be forgotten is in no byte of the folder, once the same command was typed again;
- the work, begun again, comes to its end.

The last line is `N kills, N whole`; the exit code is 0 where the numbers are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from meton_plugins.finetune.commands.dataset import VERBS  # noqa: E402
from meton_plugins.finetune.curate import dataset  # noqa: E402
from meton_plugins.finetune.curate.build import NAMES  # noqa: E402
from meton_plugins.finetune.library import Library  # noqa: E402
from meton_plugins.finetune.library.schema import MIGRATIONS  # noqa: E402
from meton_plugins.finetune.paths import Home  # noqa: E402
from meton_plugins.finetune.plugin import register  # noqa: E402
from meton_plugins.finetune.turn import Turn  # noqa: E402
from meton_plugins.host.console import ConsoleHost  # noqa: E402

#: How often each kind of work is killed, beside the others.
OFTEN = {"rate": 5, "take": 3, "harvest": 4, "build": 4, "forget": 4, "backup": 1, "upgrade": 2, "import": 4}
#: Seconds that a work is thought to take, until it was seen to end.
GUESS = 0.4
#: Datasets that stay from one kill to the next, so that forgetting has some to redact.
KEPT = 4
#: A child that takes longer to come up is stuck.
PATIENCE = 60.0


def typed(home: Path, line: str) -> int:
    """Type a line after /dataset; its exit code. Nothing is shown."""
    host = ConsoleHost(home)
    host.console.quiet = True
    register(host)
    return host.commands["/dataset"].run(line)


# --- what the children do -------------------------------------------------------------------------------------------


def say(*words: object) -> None:
    """A line for the parent, in one write: it is there whole, or it was not said."""
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


def rate(home: Path, seed: str) -> None:
    """Rate for ever, each time saying so before and after."""
    choose = random.Random(seed)
    with Library(home / "library.db") as library:
        scores = {example.id: example.score for example in library.find(limit=400)}
        while True:
            name, score = choose.choice(list(scores)), choose.randint(1, 5)
            say("will", name, score, scores[name] or 0)
            library.rate([name], score)
            say("did", name, score)


def take(home: Path, seed: str) -> None:
    """Take turns in as a chat does, for ever."""
    for number in range(10**6):
        with Library(home / "library.db") as library:
            name = library.take(turn(f"live-{seed}", number))
        say("took", name)


def upgrade(home: Path, _: str) -> None:
    """Open a library of version 2."""
    with Library(home / "library.db") as library:
        library.counts()


def line(home: Path, text: str) -> None:
    """Type `text`."""
    if typed(home, text):
        raise SystemExit(f"failed: {text}")


CHILDREN: dict[str, Callable[[Path, str], None]] = {"rate": rate, "take": take, "upgrade": upgrade, "line": line}


# --- what they work on ----------------------------------------------------------------------------------------------


def turn(session: str, number: int) -> Turn:
    """A turn with a word of its own."""
    return Turn(
        session=session,
        at=f"2026-03-02T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}",
        question=f"How do I use part {number} of {session}?",
        answer=f"Take it as it is. Its word is {word(session, number)}. " + "It needs no care. " * 12,
    )


def word(session: str, number: int) -> str:
    """Only in this turn, and in what quotes it."""
    return f"w{number}q{session}".replace("-", "q")


def conversations(folder: Path, name: str, files: int = 40, turns: int = 5) -> Path:
    """A folder of conversation files as Meton leaves it."""
    folder.mkdir(parents=True)
    for file in range(files):
        session = f"{name}-{file}"
        messages = []
        for one in (turn(session, number) for number in range(turns)):
            messages.append({"role": "user", "content": one.question, "timestamp": one.at})
            messages.append({"role": "assistant", "content": one.answer, "timestamp": f"{one.at}.5", "metadata": {}})
        (folder / f"session_{file}.json").write_text(json.dumps({"session_id": session, "messages": messages}))
    return folder


def messages_file(path: Path, name: str, count: int = 200) -> Path:
    """A file of OpenAI messages to import."""
    lines = []
    for one in (turn(name, number) for number in range(count)):
        said = [{"role": "user", "content": one.question}, {"role": "assistant", "content": one.answer}]
        lines.append(json.dumps({"messages": said}))
    path.write_text("\n".join(lines) + "\n")
    return path


def old_library(path: Path, rows: int = 1500) -> None:
    """A library as version 2 made it, each example rated."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for step in MIGRATIONS[:2]:
            for statement in step:
                connection.execute(statement)
        for number in range(rows):
            one = turn("old", number)
            connection.execute(
                "INSERT INTO examples (id, identity, session, at, source, question, answer, context, tools, score,"
                " added_at) VALUES (?, ?, ?, ?, 'meton', ?, ?, '[]', '[]', ?, '')",
                (f"{number:010x}", str(number), one.session, one.at, one.question, one.answer, 1 + number % 5),
            )
        connection.execute("PRAGMA user_version = 2")
        connection.commit()


# --- the parent -----------------------------------------------------------------------------------------------------


class Broken(Exception):
    """Something was lost."""


@dataclass
class Book:
    """What the children acknowledged, and so what must be there."""

    #: The scores that an example may have: the acknowledged one, and one that was under way. None: not rated.
    ratings: dict[str, set[int | None]] = field(default_factory=dict)
    turns: set[str] = field(default_factory=set)
    gone: dict[str, str] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)

    def hear(self, text: str) -> None:
        """Take what a child said; half a line was not said."""
        for said in text.splitlines(keepends=True):
            words = said.split()
            if not said.endswith("\n") or not words:
                continue
            if words[0] == "will":  # it may be there: the child was killed before it could say so
                self.ratings.setdefault(words[1], {int(words[3]) or None}).add(int(words[2]))
            elif words[0] == "did":
                self.ratings[words[1]] = {int(words[2])}
            elif words[0] == "took":
                self.turns.add(words[1])


class Faults:
    """A data folder, what is done to it, and what must be true of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.random = random.Random(seed)
        self.book = Book()
        self.seconds: dict[str, float] = {}
        self.round = 0
        self.kinds = [kind for kind in OFTEN if kind != "import" or "import" in VERBS]
        with Library(self.home.make().library) as library:
            ids, _ = library.add(turn(f"first-{number // 6}", number) for number in range(600))
            library.rate(ids, 5)
        self.book.turns |= set(ids)
        self.book.ratings |= {name: {5} for name in ids}

    def kill(self) -> str | None:
        """One kill, and a look at what is left: the kind of work that was killed, None where it was faster."""
        self.round += 1
        kind = self.random.choices(self.kinds, [OFTEN[kind] for kind in self.kinds])[0]
        home, child, finish = self._work(kind)
        beside = [("rate", f"{self.round}b")] if kind not in ("rate", "upgrade") and self.round % 3 == 0 else []
        # An open end is killed soon; work that ends, anywhere before its end.
        limit = self.random.uniform(0, 1.1 * self.seconds.get(kind, GUESS))
        processes = [self._start(home, *one) for one in (child, *beside)]
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(limit)
        took = time.monotonic() - began
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            self.book.hear(process.communicate()[0])
        code = processes[0].returncode
        if code not in (0, -signal.SIGKILL):
            raise Broken(f"{kind} ended with {code} before it was killed")
        if code == 0:
            self.seconds[kind] = took
        elif kind not in ("rate", "take"):
            self.seconds.setdefault(kind, GUESS)
            self.seconds[kind] = max(self.seconds[kind], took)
        if kind == "upgrade":
            self._sound(home.library)
        else:
            self.check(datasets=kind != "forget")
        finish()
        self.check()
        self._prune()
        return kind if code == -signal.SIGKILL else None

    def _prune(self) -> None:
        """Take away what was looked at: a folder that grows for ever would only make the next look slower."""
        names = dataset.names(self.home)
        for old in dataset.versions(self.home)[KEPT:]:
            for name in (name for name, identity in names.items() if identity == old.id):
                (self.home.datasets / NAMES / name).unlink()
            shutil.rmtree(self.home.datasets / old.id)
        for path in self.folder.iterdir():
            if path.name not in ("home", "share"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _work(self, kind: str) -> tuple[Home, tuple[str, str], Callable[[], None]]:
        """Where a child works, what it does, and how the work is brought to its end afterwards."""
        name = f"r{self.round}"
        if kind in ("rate", "take"):
            return self.home, (kind, name), lambda: None
        if kind == "upgrade":
            home = Home(self.folder / name)
            old_library(home.library)
            return home, (kind, name), lambda: self._upgraded(home)
        if kind == "forget":
            return self._forgetting()
        text = {
            "harvest": lambda: f"harvest --conversations-dir {conversations(self.folder / name, name)}",
            "import": lambda: f"import {messages_file(self.folder / f'{name}.jsonl', name)}",
            "build": lambda: f"build --form plain --unrated --min-length {self.round} --name {name}",
            "backup": lambda: f"backup {self.folder}/{name}.zip",
        }[kind]()
        return self.home, ("line", text), lambda: self._again(kind, name, text)

    def _again(self, kind: str, name: str, text: str) -> None:
        """The same line once more does what is left to do."""
        archive = self.folder / f"{name}.zip"
        if kind == "backup" and archive.exists():
            with zipfile.ZipFile(archive) as whole:
                if whole.testzip() is not None:
                    raise Broken("a backup has its name and is not whole")
            return
        if typed(self.home.root, text):
            raise Broken(f"{kind} could not be begun again")
        if kind == "build" and name not in dataset.names(self.home):
            raise Broken("a dataset that was built again has no name")
        if kind in ("harvest", "import"):
            with Library(self.home.library) as library:
                found = sum(one.session.startswith(f"{name}-") for one in library.find())
                if found == 0 and kind == "import":
                    found = len(library.search(f"of {name}", 1000))
            if found != 200:
                raise Broken(f"{kind} begun again left {found} of 200 turns in the library")

    def _forgetting(self) -> tuple[Home, tuple[str, str], Callable[[], None]]:
        with Library(self.home.library) as library:
            found = [one for one in library.find() if one.question.startswith("How do I use part")]
            chosen = self.random.sample(found, 2)
        words = {one.id: one.answer.split("Its word is ")[1].split(".")[0] for one in chosen}
        text = f"forget {' '.join(words)} --yes"
        # From here on they may be gone at any moment, and another child may be rating them.
        self.book.going |= words.keys()

        def finish() -> None:
            with Library(self.home.library) as library:
                there = {one.id for one in library.find()} & words.keys()
                pending = library.unfinished()
            if typed(self.home.root, text) and (there or pending):
                raise Broken("a forgetting could not be finished")
            self.book.gone |= words

        return self.home, ("line", text), finish

    def _upgraded(self, home: Home) -> None:
        with Library(home.library) as library:
            found = library.find()
        if sorted(one.id for one in found) != [f"{number:010x}" for number in range(1500)]:
            raise Broken("an upgrade lost examples")
        if any(one.score != 1 + int(one.id, 16) % 5 for one in found):
            raise Broken("an upgrade lost ratings")
        self._sound(home.library)
        copy = home.root / "library.v2.db"
        with closing(sqlite3.connect(copy)) as connection:
            if connection.execute("SELECT count(*) FROM examples").fetchone() != (1500,):
                raise Broken("the copy that an upgrade left is not whole")
        shutil.rmtree(home.root)

    def _start(self, home: Home, kind: str, text: str) -> subprocess.Popen[str]:
        """A child that is about to begin: what Python takes to start is no work on the folder."""
        process = subprocess.Popen(
            [sys.executable, __file__, "--child", kind, str(home.root), text], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise Broken(f"a child for {kind} did not come up")
        return process

    def check(self, *, datasets: bool = True) -> None:
        """Broken where anything is lost, or there that must not be."""
        self._sound(self.home.library)
        with Library(self.home.library) as library:
            scores = {one.id: one.score for one in library.find()}
        if missing := self.book.turns - scores.keys() - self.book.going:
            raise Broken(f"{len(missing)} turns are gone: {sorted(missing)[:3]}")
        for name, allowed in self.book.ratings.items():
            if name not in self.book.going and scores.get(name, 0) not in allowed:
                raise Broken(f"the rating of {name} is {scores.get(name, 'gone')}, not one of {allowed}")
        if not datasets:
            return
        for path in self.home.datasets.glob("[!.]*") if self.home.datasets.is_dir() else ():
            if path.name != NAMES:
                dataset.load(path)
        for name, identity in dataset.names(self.home).items():
            if not (self.home.datasets / identity).is_dir():
                raise Broken(f"the name {name} leads to no dataset")
        if self.book.gone:
            raws = [path.read_bytes() for path in self.home.root.rglob("*") if path.is_file()]
            for text in self.book.gone.values():
                if any(f"{text}.".encode() in raw for raw in raws):
                    raise Broken(f"a forgotten word is still there: {text}")

    def _sound(self, path: Path) -> None:
        """The library opens, and is whole as SQLite sees it."""
        with Library(path) as library:
            library.counts()
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            for pragma, good in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
                if (said := connection.execute(f"PRAGMA {pragma}").fetchall()) != good:
                    raise Broken(f"{pragma} says {said[:3]}")
            connection.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
            both = "SELECT (SELECT count(*) FROM places JOIN examples ON id = example), count(*) FROM examples"
            known, there = connection.execute(both).fetchone()
            if known != there:
                raise Broken(f"the index knows {known} of {there} examples")


def main() -> int:
    """Kill and look, as often as was asked; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how often (default: 200)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random moments")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, home, text = options.child
        say("ready")
        CHILDREN[kind](Path(home), text)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    # Also the locks of this machine are the test's own.
    os.environ |= {"METON_FINETUNE_HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "share")}
    faults = Faults(folder, options.seed)
    killed: Counter[str] = Counter()
    whole = 0
    while killed.total() < options.kills:
        try:
            kind = faults.kill()
        except Exception as error:
            killed["broken"] += 1
            print(f"round {faults.round} of seed {options.seed}: {type(error).__name__}: {error} (see {folder})")
            break
        if kind is not None:
            killed[kind] += 1
            whole += 1
            if killed.total() % 20 == 0:
                print(f"{killed.total()} kills: {dict(killed)}", flush=True)
    print(", ".join(f"{number} × {kind}" for kind, number in sorted(killed.items())))
    print(f"{killed.total()} kills, {whole} whole")
    if whole == killed.total():
        shutil.rmtree(folder)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
