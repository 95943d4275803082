"""Break what turns a file into the model of a slot, at each point, and look what is left.

`python tools/faults_serve.py [--points N] [--seed N]` starts a real Ollama of its own. Each round has a fresh data
folder, a fresh config.yaml and a GGUF that the server has not seen, and types

    meton-finetune --config config.yaml model-register add FILE --name NAME --slot primary --force --yes

which registers, creates, names and swaps. It is broken by

- the server: at one request of the sequence it dies, answers nonsense, cuts its answer, does the work and says nothing,
  or says that its disk is full (a proxy between both sees to it);
- SIGKILL of our process, between two steps (before or after a request, a write, a sync, a rename) or at any moment;
- a disk that is full, of the data folder or of config.yaml.

Afterwards config.yaml must be whole and name a model that the server has; history must agree with it; every manifest
must be whole and true; and the doctor must name what is unfinished, and nothing else. The same line, typed again, must
finish the job: one version, its alias, the swap, nothing left open.

The last line is `N kills, N whole, N finished on the second call`; the exit code is 0 where the numbers are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny  # noqa: E402
from meton_plugins.finetune.paths import Home  # noqa: E402
from meton_plugins.finetune.report.health import unfinished  # noqa: E402
from meton_plugins.finetune.serve.history import History  # noqa: E402
from meton_plugins.finetune.serve.ollama import Server  # noqa: E402
from meton_plugins.finetune.serve.register import list_registered  # noqa: E402
from meton_plugins.host.config_file import ConfigFile  # noqa: E402
from tools.private_ollama import Unavailable, private_server  # noqa: E402

OLD: Final = "old:7b"
CONFIG: Final = f"# mine\nmodels:\n  primary: {OLD}   # answers all\n  fallback: {OLD}\n"
#: Ways in which a request goes wrong.
FAULTS: Final = ("dies", "nonsense", "cuts", "silent", "full")
#: Seconds after which a process hangs.
PATIENCE: Final = 120.0
#: Where a child writes how many points it came through.
COUNT: Final = "FAULTS_COUNT"


class Broken(Exception):
    """What must hold does not."""


# --- a server that fails at one request -------------------------------------------------------------------------------


class Proxy(ThreadingHTTPServer):
    """Stands before the server at `behind`. At request number `at` (from 0) it does what `fault` says."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(behind)
        self.behind = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.lock = threading.Lock()
        self.heal()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def heal(self) -> None:
        """From now on all goes through; nothing has been asked yet."""
        self.seen: list[str] = []
        self.at, self.fault, self.dead = -1, "", False

    def spoil(self, at: int, fault: str) -> None:
        """Fail at request number `at`."""
        self.heal()
        self.at, self.fault = at, fault

    def turn(self, request: str) -> str:
        """What becomes of this request: a fault, or nothing."""
        with self.lock:
            if self.dead:
                return "dies"
            number = len(self.seen)
            self.seen.append(request)
            if number != self.at:
                return ""
            self.dead = self.fault == "dies"
            return self.fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _work(self) -> None:
        fault = self.server.turn(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "dies":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault == "nonsense":
            self._answer(200, {"Content-Type": "text/html"}, b"<html>It works!</html>")
            return
        if fault == "full":
            self._answer(500, {"Content-Type": "application/json"}, b'{"error":"write: no space left on device"}')
            return
        status, headers, said = self._forward(body)
        if fault == "silent":
            self._hang_up()
        elif fault == "cuts":
            self._answer(status, headers, said, half=True)
            self._hang_up()
        else:
            self._answer(status, headers, said)

    do_GET = do_HEAD = do_POST = do_DELETE = _work

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.behind, timeout=PATIENCE)
        try:
            kept = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            connection.request(self.command, self.path, body if self.command in ("POST", "DELETE") else None, kept)
            answer = connection.getresponse()
            return answer.status, {"Content-Type": answer.headers.get("Content-Type") or ""}, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], said: bytes, *, half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said[: len(said) // 2] if half else said)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(behind: str) -> Iterator[Proxy]:
    """A proxy for the length of the block."""
    with Proxy(behind) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


# --- what the children do ---------------------------------------------------------------------------------------------


def child(kill_at: int, words: Sequence[str]) -> int:
    """Type `words`; at point number `kill_at` this process kills itself with SIGKILL."""
    import httpx

    from meton_plugins.finetune.__main__ import main

    count = 0

    def point() -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def between(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def work(*args: Any, **kwargs: Any) -> Any:
            point()
            found = real(*args, **kwargs)
            point()
            return found

        setattr(owner, name, work)

    for name in ("replace", "fsync", "write", "unlink"):
        between(os, name)
    between(httpx.Client, "send")
    code = main(words)
    if named := os.environ.get(COUNT):
        Path(named).write_text(str(count), encoding="utf-8")
    return code


# --- a round ----------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    """A data folder, a config.yaml and a file that is to become the model of its primary slot."""

    folder: Path
    name: str
    url: str

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home = Home(self.folder / "home").make()
        self.home.settings.write_text(f'[serve]\nollama_host = "{self.url}"\n', encoding="utf-8")
        self.config = self.folder / "config.yaml"
        self.config.write_text(CONFIG, encoding="utf-8")

    def words(self, gguf: Path) -> list[str]:
        """The line that is broken, and typed again."""
        line = ["--home", str(self.home.root), "--config", str(self.config), "model-register", "add", str(gguf)]
        return [*line, "--name", self.name, "--slot", "primary", "--force", "--yes"]

    def check(self, listed: dict[str, str]) -> str:
        """Broken where old and new state are mixed; else which of them holds: `old` or `new`. `listed`: digests."""
        text = self.config.read_text(encoding="utf-8")
        holds = ConfigFile(self.config).read()["primary"]
        if text != CONFIG.replace(OLD, holds, 1):
            raise Broken(f"config.yaml is not whole: {text!r}")
        if holds not in listed:
            raise Broken(f"config.yaml names {holds}, which the server does not have")
        for made in list_registered(self.home):
            if listed.get(made.tag) != made.digest:
                raise Broken(f"the manifest of {made.tag} is not true")
            if listed.get(made.alias) != made.digest:
                raise Broken(f"{made.tag} has a manifest and not its alias")
        swaps = History(self.home.history).swaps(self.config)
        known = [made.tag for made in list_registered(self.home)]
        if holds != OLD and holds not in known:
            raise Broken(f"config.yaml names {holds}, of which there is no manifest")
        done = [swap for swap in swaps if swap.state == "done"]
        if done and done[-1].new != holds:
            raise Broken(f"history says {done[-1].new}, config.yaml {holds}")
        begun = [swap for swap in swaps if swap.state == "begun"]
        if holds != OLD and not any(swap.new == holds for swap in (*done, *begun)):
            raise Broken(f"history knows nothing of {holds}")
        self._told(bool(begun), holds)
        return "old" if holds == OLD else "new"

    def _told(self, begun: bool, holds: str) -> None:
        """The doctor names what is open, and only that."""
        said = {found.what: found.found for found in unfinished(self.home, {"primary": holds})}
        pending = bool(list(self.home.models.glob("*/v*.pending")))
        if ("registration" in said) != pending or ("swap" in said) != begun:
            raise Broken(f"the doctor says {said or 'nothing'}; a registration is open: {pending}, a swap: {begun}")
        if begun and holds not in said["swap"]:
            raise Broken(f"the doctor does not say that {holds} holds the slot: {said['swap']}")

    def finished(self, listed: dict[str, str]) -> None:
        """Broken where the second call left anything to do."""
        if self.check(listed) != "new":
            raise Broken("the second call did not finish the swap")
        if open_ := unfinished(self.home, {"primary": ConfigFile(self.config).read()["primary"]}):
            raise Broken(f"after the second call there is still {open_[0]}")
        versions = [name for name in listed if name.startswith(f"meton-{self.name}:v")]
        if len(versions) != 1 or len(list_registered(self.home)) != 1:
            raise Broken(f"there are {len(versions)} versions of one file: {versions}")
        standing = History(self.home.history).standing("primary", self.config)
        if [(swap.old, swap.new) for swap in standing] != [(OLD, versions[0])]:
            raise Broken(f"history has {len(standing)} swaps that stand: {standing}")


class Campaign:
    """Rounds against one server."""

    def __init__(self, folder: Path, front: Proxy, server: Server, seed: int) -> None:
        self.folder, self.front, self.server = folder, front, server
        self.random = random.Random(seed)
        self.number = 0
        self.took = 1.0

    def start(self) -> tuple[Round, Path]:
        """A fresh round, and the file of it."""
        self.number += 1
        folder = self.folder / f"r{self.number}"
        made = Round(folder, f"m{self.number}", self.front.url)
        return made, make_tiny(folder / "m.gguf", TinyShape(width=32, layers=1, heads=2, seed=self.number))

    def type(self, words: Sequence[str], *, kill_at: int = 0, **options: Any) -> subprocess.Popen[str]:
        """The line in a process of its own."""
        command = [sys.executable, __file__, "--child", str(kill_at), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Its exit code, and what it said."""
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            raise Broken("it hung") from error
        if "Traceback" in said or "Unexpected" in said:
            raise Broken(f"it said: {said}")
        return process.returncode, said

    def measure(self) -> tuple[int, int]:
        """One round without a fault: how many points and requests it has."""
        made, gguf = self.start()
        self.front.heal()
        began = time.monotonic()
        code, said = self.ended(self.type(made.words(gguf), env={**os.environ, COUNT: str(self.folder / "count")}))
        self.took = time.monotonic() - began
        if code:
            raise Broken(f"without any fault it failed: {said}")
        made.finished(self.listed())
        return int((self.folder / "count").read_text()), len(self.front.seen)

    def listed(self) -> dict[str, str]:
        """What the server has."""
        return {model.name: model.digest for model in self.server.models()}

    def request(self, at: int, fault: str) -> Callable[[Round, Path], str]:
        """A fault at request number `at`."""

        def work(made: Round, gguf: Path) -> str:
            self.front.spoil(at, fault)
            code, said = self.ended(self.type(made.words(gguf)))
            asked = self.front.seen[at] if len(self.front.seen) > at else "nothing"
            if code < 0:
                raise Broken(f"it died: {said}")
            return f"{fault} at {asked}"

        return work

    def step(self, at: int) -> Callable[[Round, Path], str]:
        """SIGKILL at point number `at`."""

        def work(made: Round, gguf: Path) -> str:
            self.front.heal()
            code, said = self.ended(self.type(made.words(gguf), kill_at=at))
            if code not in (0, -signal.SIGKILL):
                raise Broken(f"it failed before it was killed: {said}")
            return f"SIGKILL at point {at}"

        return work

    def moment(self) -> Callable[[Round, Path], str]:
        """SIGKILL at any moment."""

        def work(made: Round, gguf: Path) -> str:
            self.front.heal()
            process = self.type(made.words(gguf))
            wait = self.random.uniform(0.3, 1.0) * self.took
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            process.kill()
            process.communicate()
            return f"SIGKILL after {wait:.2f} s"

        return work

    def disk(self, room: int) -> Callable[[Round, Path], str]:
        """No file of ours may grow over `room` bytes, which is what a full disk looks like from here."""

        def work(made: Round, gguf: Path) -> str:
            self.front.heal()
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # noqa: E731
            code, said = self.ended(self.type(made.words(gguf), preexec_fn=limit))
            if code < 0:
                raise Broken(f"it died of a full disk: {said}")
            return f"disk full after {room} bytes"

        return work

    def small_disk(self, pages: int) -> Callable[[Round, Path], str]:
        """The data folder on a disk with `pages` of 4 KB left."""

        def work(made: Round, gguf: Path) -> str:
            self.front.heal()
            place = made.home.root
            settings = made.home.settings.read_bytes()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)], check=True)
            try:
                made.home.settings.write_bytes(settings)
                filler = place / "filler"
                free = os.statvfs(place).f_bavail
                filler.write_bytes(bytes(4096 * max(0, free - pages)))
                code, said = self.ended(self.type(made.words(gguf)))
                if code < 0:
                    raise Broken(f"it died of a full disk: {said}")
                made.check(self.listed())
                filler.unlink()
                kept = made.folder / "kept"
                shutil.copytree(place, kept)
            finally:
                subprocess.run(["umount", "-l", str(place)], check=True)
            shutil.rmtree(place)
            kept.rename(place)
            return f"a disk with {pages} pages left"

        return work

    def play(self, work: Callable[[Round, Path], str]) -> str:
        """A round with a fault, and the second call."""
        made, gguf = self.start()
        what = work(made, gguf)
        state = made.check(self.listed())
        self.front.heal()
        self.again(made, gguf, f"{what}: {state}")
        return f"{what}: {state}"

    def again(self, made: Round, gguf: Path, what: str) -> None:
        """The same line again."""
        code, said = self.ended(self.type(made.words(gguf)))
        if code:
            raise Unfinished(f"{what}; the second call failed: {said}")
        try:
            made.finished(self.listed())
        except Broken as error:
            raise Unfinished(f"{what}; {error}") from error
        holds = ConfigFile(made.config).read()["primary"]
        for name in (holds, f"meton-{made.name}:latest"):
            self.server.delete(name)
        shutil.rmtree(made.folder)


class Unfinished(Broken):
    """What the second call did not bring to its end."""


def may_mount() -> bool:
    """Whether this user can make a small disk."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as place:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", "-l", place], check=True)
        return done.returncode == 0


def plan(campaign: Campaign, points: int, steps: int, requests: int) -> list[Callable[[Round, Path], str]]:
    """`points` faults, spread over all that there is: every request and every step where there is room for them."""
    choose = campaign.random
    disks: list[Callable[[Round, Path], str]] = [campaign.disk(room) for room in (0, 60, 300, 700)]
    if may_mount():
        disks = [*disks[:2], *(campaign.small_disk(pages) for pages in range(4))]
    share = {"disk": max(1, points // 10), "moment": max(1, points // 12), "request": max(1, 2 * points // 5)}
    at = [(number, FAULTS[(number + turn) % len(FAULTS)]) for turn in range(len(FAULTS)) for number in range(requests)]
    work = [choose.choice(disks) for _ in range(share["disk"])] if share["disk"] < len(disks) else disks
    work += [campaign.moment() for _ in range(share["moment"])]
    work += [campaign.request(*one) for one in spread(at[: max(requests, share["request"])], share["request"])]
    left = points - len(work)
    work += [campaign.step(one) for one in spread(range(1, steps + 1), left)]
    while len(work) < points:
        work.append(campaign.moment())
    return work


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `values`, evenly."""
    count = min(count, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def main() -> int:
    """Break and look; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60, metavar="N", help="how many faults (default: 60)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random moments")
    options = parser.parse_args()
    # Ended from outside, it still ends its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="faults-serve-"))
    os.environ |= {"XDG_DATA_HOME": str(folder / "share"), "PYTHONPATH": str(ROOT)}
    os.environ.pop("OLLAMA_HOST", None)
    killed, whole, finished = 0, 0, 0
    states: Counter[str] = Counter()
    try:
        with (
            private_server(folder / "ollama", program=_bare(folder)) as running,
            proxy(running.url) as front,
            Server(running.url) as server,
        ):
            campaign = Campaign(folder, front, server, options.seed)
            _give_old(server, folder)
            steps, requests = campaign.measure()
            print(f"without a fault: {steps} points, {requests} requests, {campaign.took:.1f} s", flush=True)
            for work in plan(campaign, options.points, steps, requests):
                killed += 1
                try:
                    said = campaign.play(work)
                    whole, finished = whole + 1, finished + 1
                    states[said.rpartition(": ")[2]] += 1
                    print(f"  {said}", flush=True)
                except Unfinished as error:
                    whole += 1
                    print(f"✗ round {campaign.number}: {error}", flush=True)
                except Exception as error:
                    print(f"✗ round {campaign.number}: {type(error).__name__}: {error}", flush=True)
    except Unavailable as error:
        print(error)
        return 2
    print(f"afterwards the old state held {states['old']} times, the new one {states['new']} times")
    print(f"{killed} kills, {whole} whole, {finished} finished on the second call")
    if killed == whole == finished:
        shutil.rmtree(folder)
        return 0
    print(f"(see {folder})", file=sys.stderr)
    return 1


def _bare(folder: Path) -> Path:
    """Ollama's program alone: what loads and runs models is not needed to keep them."""
    from tools.private_ollama import executable

    place = folder / "bin"
    place.mkdir()
    return Path(shutil.copy(executable(), place / "ollama"))


def _give_old(server: Server, folder: Path) -> None:
    """The model that the slot holds before."""
    gguf = make_tiny(folder / "old.gguf", TinyShape(width=32, layers=1, heads=2, seed=99_999))
    digest = f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    server.upload(gguf, digest)
    server.create({"model": OLD, "files": {"old.gguf": digest}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(int(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
