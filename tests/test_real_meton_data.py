"""What a chat in a real, unmodified Meton leaves in the library.

As in test_real_meton.py: METON_HOME and METON_PYTHON; without them skipped, with REQUIRE_METON=1 a failure.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chat_server import ChatServer, chat_server
from support.meton_session import MetonSession

from meton_plugins.finetune import form
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Example, Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings

ROOT = Path(__file__).resolve().parent.parent


def _pythons() -> list[str]:
    home = os.environ.get("METON_HOME", "")
    own = Path(home, "venv", "bin", "python")
    named = os.environ.get("METON_PYTHON") or (str(own) if home and own.exists() else "")
    return [part for part in named.split(os.pathsep) if part]


@pytest.fixture(scope="module", params=_pythons() or [None], ids=lambda path: Path(path).parts[-3] if path else "none")
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter with Meton's packages."""
    if request.param and os.environ.get("METON_HOME"):
        return str(request.param)
    reason = "No Meton to test in: set METON_HOME to a checkout and run `make test-meton`."
    if os.environ.get("REQUIRE_METON") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _shell(*words: object) -> None:
    """meton-finetune, as a user's shell starts it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("METON_FINETUNE_HOME", "OLLAMA_HOST")}
    command = [sys.executable, "-m", "meton_plugins.finetune", *map(str, words)]
    env = {**kept, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


def _clone(to: Path) -> Path:
    """A checkout whose file tool may read inside it."""
    subprocess.run(["git", "clone", "-q", os.environ["METON_HOME"], str(to)], check=True)
    config = to / "config.yaml"
    config.write_text(config.read_text().replace("/media/development/projects/", str(to)))
    return to


@pytest.fixture(scope="module")
def equipped(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The interpreter with the packages that the plugin needs beside Meton's."""
    checkout = _clone(tmp_path_factory.mktemp("equipped") / "Meton")
    _shell("install", "--meton", checkout, "--python", python)
    yield python
    _shell("uninstall", "--meton", checkout, "--python", python)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


class Talk:
    """A checkout of its own, and sessions in it."""

    def __init__(self, checkout: Path, python: str, server: ChatServer) -> None:
        self.checkout, self.python, self.server = checkout, python, server
        self.home = Home(checkout / "feedback_data" / "finetune")
        self.read = json.dumps({"action": "read", "path": str(checkout / "setup.sh")})
        server.rules[:] = [
            ("what does setup.sh", f"THOUGHT: I read it.\nACTION: file_operations\nACTION_INPUT: {self.read}\nANSWER:",
             "THOUGHT: I know now.\nACTION: NONE\nACTION_INPUT:\nANSWER: It makes a place to run in."),
            ("fail", 500, 500),
        ]  # fmt: skip

    def start(self, *words: str, **env: str) -> MetonSession:
        command = [sys.executable, "-m", "meton_plugins.finetune", "run", "--meton", str(self.checkout), *words]
        command += ["--python", self.python]
        return MetonSession(self.checkout, self.server.address, command, env={"PYTHONPATH": str(ROOT), **env})

    def examples(self) -> dict[str, Example]:
        with Library(self.home.library) as library:
            return {example.question: example for example in library.find()}

    def saved(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (self.checkout / "conversations").glob("*.json")]


@pytest.fixture
def talk(equipped: str, server: ChatServer, tmp_path: Path) -> Talk:
    return Talk(_clone(tmp_path / "Meton"), equipped, server)


def test_turns_are_kept_rated_fixed_and_trained_call_by_call(talk: Talk, tmp_path: Path) -> None:
    editor = tmp_path / "ed.py"
    editor.write_text("import sys\nopen(sys.argv[1], 'w').write('In the editor.')\n")
    command = shlex.join([sys.executable, str(editor)])
    with talk.start(EDITOR=command, VISUAL=command) as chat:
        assert "/dataset harvest off" in chat.started
        assert "/+ good  /- bad  /fix correct it" in chat.send("first question")
        chat.send("what does setup.sh do")
        assert "Rated 5: what does setup.sh do" in chat.send("/+")
        assert "Rated 4: first question" in chat.send("/dataset rate 4 --turn -2")
        assert "/+ good" not in chat.send("fail now")
        assert "/fix" in chat.send("/+")
        chat.send("third question")
        assert "Fixed: third question" in chat.send("/fix")
        said, code = chat.leave()
    assert code == 0
    assert "4 rated, 3 usable; 4 in the library" in said
    found = talk.examples()
    scores = {question: (example.score, example.status) for question, example in found.items()}
    assert scores == {
        "first question": (4, "usable"), "what does setup.sh do": (5, "usable"),
        "fail now": (5, "rejected"), "third question": (5, "usable"),
    }  # fmt: skip
    assert found["third question"].correction == "In the editor."
    read = found["what does setup.sh do"]
    with Library(talk.home.library) as library:
        calls = library.calls(read.id)
        assert len(calls) == 2
        assert all(len(call.instructions) > 50_000 > len(call.prompt) for call in calls)
        assert {call.instructions for e in found.values() for call in library.calls(e.id)} == {calls[0].instructions}
        assert "User Query: what does setup.sh do" in calls[0].prompt
        manifest = dataset.build(library, BuildSettings(), talk.home.datasets)
    rows = {row.id: row for row in dataset.load(talk.home.datasets / manifest.id).train}
    assert [row for row in rows if row.startswith(read.id)] == [f"{read.id}#1", f"{read.id}#2"]
    step = form.parse(rows[f"{read.id}#1"].messages[-1].content)
    assert step is not None
    assert step.action == "file_operations"
    assert "Previous Tool Calls:\n- file_operations: ✓ Read" in rows[f"{read.id}#2"].messages[0].content
    assert (manifest.examples["train"], manifest.counts["train"]) == (3, 4)

    # What Meton saved of the same session brings nothing new, and takes nothing away.
    with talk.start() as chat:
        assert "/dataset harvest off" not in chat.started
        assert "0 new, 3 known" in chat.send("/dataset harvest")
        chat.leave()
    with Library(talk.home.library) as library:
        assert library.counts().examples == 4
        assert len(library.calls(read.id)) == 2


def test_a_private_session_leaves_nothing_now_and_later(talk: Talk) -> None:
    with talk.start("--private") as chat:
        assert "/+ good" not in chat.send("a secret question")
        assert "This session is private" in chat.send("/+")
        chat.leave()
    assert talk.examples() == {}
    assert any("a secret question" in json.dumps(one) for one in talk.saved())
    with talk.start() as chat:
        chat.send("an open question")
        chat.send("/dataset harvest off")
        assert "/+ good" not in chat.send("a question after off")
        out = chat.send("/dataset harvest")
        chat.leave()
    assert "the session was private" in out
    assert set(talk.examples()) == {"an open question", "a question after off"}


@pytest.mark.parametrize("how", ["kill", "hang up", "ctrl-c"])
def test_a_session_that_ends_anyhow_keeps_its_turns(talk: Talk, how: str) -> None:
    with talk.start() as chat:
        chat.send("first question")
        chat.send("second question")
        chat.send("/-")
        if how == "kill":
            # The process that `run` became, or its child.
            os.killpg(os.getpgid(chat.child.pid), signal.SIGKILL)
        elif how == "hang up":
            chat.child.close()
        else:
            assert "1 rated, 0 usable; 2 in the library" in chat.interrupt(r"in the library[^\n]*\n")
    time.sleep(0.2)
    assert {q: e.score for q, e in talk.examples().items()} == {"first question": None, "second question": 1}
