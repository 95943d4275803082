"""What a chat in a real, unmodified Meton leaves in the library."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.chat_server import ChatServer
from support.meton_session import MetonSession
from support.real_meton import CLI, ROOT, clone

from meton_plugins.finetune import form
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Example, Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Message

pytest_plugins = ["support.real_meton_fixtures"]


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
        command = [*CLI, "run", "--meton", str(self.checkout), *words]
        command += ["--python", self.python]
        return MetonSession(self.checkout, self.server.address, command, env={"PYTHONPATH": str(ROOT), **env})

    def examples(self) -> dict[str, Example]:
        with Library(self.home.library) as library:
            return {example.question: example for example in library.find()}

    def saved(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (self.checkout / "conversations").glob("*.json")]


@pytest.fixture
def talk(equipped: str, server: ChatServer, tmp_path: Path) -> Talk:
    return Talk(clone(tmp_path / "Meton"), equipped, server)


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


def test_the_library_works_in_the_chat(talk: Talk, tmp_path: Path) -> None:
    samples = ROOT / "examples" / "training_data"
    with talk.start() as chat:
        chat.send("first question")
        chat.send("/+")
        for line, words in {
            f"/dataset import {samples}": "Imported",
            "/dataset search first question": "first",
            "/dataset stats": "usable",
            "/dataset duplicates": "alike by 85",
            "/dataset build --dry-run": "nothing was frozen",
            f"/dataset build --name mine --output {tmp_path / 'out.jsonl'} --format sharegpt": "Dataset ",
            "/dataset versions": "mine",
            "/dataset preview --number 1": "ANSWER:",
            "/dataset diff mine mine": "same rows",
            "/dataset leaks": "leak",
            "/dataset tag list": "tag",
            f"/dataset export --output {tmp_path / 'e.jsonl'} --anonymize --yes": "e.jsonl",
            f"/dataset backup {tmp_path / 'b.tar.gz'}": "b.tar.gz",
            "/dataset forget before:2001-01-01 --yes": "before",
            "/finetune compare a b": "There is no run",
            "/model-register check": "There is no run",
        }.items():
            said = chat.send(line)
            assert words in said, f"{line}: {said}"
            assert "Traceback" not in said
        _, code = chat.leave()
    assert code == 0
    assert (tmp_path / "out.jsonl").stat().st_size > 1000
    # What a check of the form would send for a question that was never heard is what Meton itself sends.
    heard = talk.examples()["first question"]
    with Library(talk.home.library) as library:
        [call] = library.calls(heard.id)
        asked = [Message(role="user", content=heard.question)]
        assert form.full_prompt(call.instructions, heard.question, asked) == call.whole
        assert "file_operations" in form.tools_in(call.instructions)


def test_what_lies_about_is_taken_once(talk: Talk) -> None:
    with talk.start("--private") as chat:
        chat.send("a private question")
        chat.leave()
    with talk.start() as chat:
        chat.send("/dataset harvest off")
        chat.send("an old question")
        chat.send("/export conversations")
        chat.leave()
    exported = list((talk.checkout / "exports").glob("*.json"))
    assert any("an old question" in path.read_text() for path in exported)
    rating = {
        "id": "f1", "timestamp": "2026-11-22T10:00:00", "query": "an old question", "feedback_type": "correction",
        "response": "Echo from qwen2.5-coder:32b: an old question", "feedback_text": "", "correction": "Better.",
        "context": {}, "tags": [],
    }  # fmt: skip
    (talk.checkout / "feedback_data" / "feedback_db.json").write_text(json.dumps([rating]))
    with talk.start() as chat:
        assert "1 new, 0 known" in chat.send("/dataset harvest")
        assert "0 new, 1 known" in chat.send("/dataset harvest")
        chat.leave()
    [example] = talk.examples().values()
    assert (example.question, example.correction, example.status) == ("an old question", "Better.", "usable")


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
