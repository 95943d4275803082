"""A chat that is heard: kept as it happens, rated without ids, never slowed down."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.chat import INSTRUCTIONS, LOOK, call, finished
from support.host import RecordingHost

from meton_plugins.finetune import form
from meton_plugins.finetune.collect.live import HINT, LiveTurns
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.plugin import register
from meton_plugins.finetune.settings import BuildSettings, load
from meton_plugins.host.api import FinishedTurn, ToolCall

ROOT = Path(__file__).parent.parent
SECRET = "sk" + "-ant-api03-" + "aB3dE5" * 7


class Chat:
    """A host with the whole plugin, and its chat."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.home = Home(root)
        self.host = RecordingHost(root, **more)
        register(self.host)
        [listener] = self.host.listeners
        assert isinstance(listener, LiveTurns)
        self.live = listener

    def say(self, *turns: FinishedTurn) -> list[str | None]:
        return [self.live.turn(turn) for turn in turns]

    def __call__(self, line: str, code: int = 0) -> str:
        """Type `line`, a command of ours."""
        self.host.clear()
        word, _, rest = line.partition(" ")
        command = self.host.commands["/dataset"]
        rest = f"{command.aliases[word]} {rest}" if word in command.aliases else rest
        assert command.run(rest) == code, self.host.output
        return self.host.output

    @property
    def library(self) -> Library:
        assert self.live.flush(10)
        return Library(self.home.library)

    def scores(self) -> list[int | None]:
        """Newest first."""
        with self.library as library:
            return [example.score for example in library.find()]


@pytest.fixture
def chat(home: Path) -> Chat:
    return Chat(home)


def test_a_turn_becomes_a_candidate_with_its_calls(chat: Chat) -> None:
    assert chat.say(finished()) == [HINT]
    with chat.library as library:
        [example] = library.find()
        calls = library.calls(example.id)
    assert (example.status, example.model, example.failure, example.origin) == ("candidate", "m:7b", None, "agent")
    assert [use.input for use in example.tools] == ['{"action": "read"}']
    assert [c.whole for c in calls] == [c.prompt for c in finished().calls]
    assert {c.instructions for c in calls} == {INSTRUCTIONS}
    assert (calls[0].completion, calls[0].origin) == (LOOK, "agent")


def test_a_hundred_turns_store_the_instructions_once(chat: Chat) -> None:
    chat.say(*(finished(number) for number in range(100)))
    with chat.library as library:
        assert library.counts().examples == 100
    assert chat.home.library.stat().st_size < 8 * len(INSTRUCTIONS)


@pytest.mark.parametrize("where", ["question", "answer", "prompt", "completion", "instructions", "tool", "context"])
def test_secrets_are_stored_nowhere(chat: Chat, where: str) -> None:
    text = f"key: {SECRET} !"
    more: dict[str, Any] = {
        "question": {"question": text},
        "answer": {"answer": text},
        "prompt": {"calls": (call(f"User Query: {text}", "ANSWER: x"),)},
        "completion": {"calls": (call("User Query: x", text),)},
        "instructions": {"calls": (call(f"{text}\nUser Query: x", "ANSWER: x"),)},
        "tool": {"tools": (ToolCall("t", text, text),)},
        "context": {"context": (("user", text),)},
    }[where]
    chat.say(finished(**more))
    with chat.library as library:
        assert library.counts().examples == 1
        [example] = library.find()
        assert "<API_KEY_1>" in repr((example, library.calls(example.id)))
    assert all(SECRET.encode() not in path.read_bytes() for path in chat.home.root.iterdir())


def test_what_was_said_before_is_kept_short_and_ends_between_words(chat: Chat) -> None:
    said = [("user" if number % 3 else "tool", f"{number} " + "word " * 20_000) for number in range(20)]
    said[-1] = ("assistant", "x " * 990 + f"{SECRET}{SECRET} and more " + "y " * 5000)
    said[-2] = ("user", "z" * 100_000)
    chat.say(finished(context=tuple(said)))
    with chat.library as library:
        [example] = library.find()
    assert [message.role for message in example.context] == ["user"] * 7 + ["assistant"]
    assert example.context[0].content.startswith("10 word ")
    assert all(len(message.content) <= 2002 for message in example.context)
    assert example.context[-1].content == f"{'x ' * 990}…"
    assert example.context[-2].content == "…"


@pytest.mark.parametrize(
    ("more", "label"),
    [
        ({"success": False}, {"failure": "the agent failed"}),
        ({"answer": "Task completed."}, {"failure": "the answer did not keep the form"}),
        ({"answer": "I encountered an error while reasoning: x"}, {"failure": "the model call failed"}),
        ({"origin": "sub-agent"}, {"origin": "sub-agent"}),
        ({"origin": "web"}, {"origin": "web"}),
    ],
    ids=["failed", "empty", "error", "sub-agent", "web"],
)
def test_what_is_no_answer_of_the_chat_is_labelled_and_does_not_train(
    chat: Chat, more: dict[str, Any], label: dict[str, str]
) -> None:
    chat.say(finished(1), finished(2, **more))
    with chat.library as library:
        newest, _ = library.find()
        assert {name: getattr(newest, name) for name in label} == label
        kept = dataset.plan(library, BuildSettings(unrated=True)).funnel.kept
    assert [example.question for example in kept] == ["What is in file 1?"]


def test_sub_agents_and_failures_get_no_hint(chat: Chat) -> None:
    assert chat.say(finished(1, origin="sub-agent"), finished(2, success=False)) == [None, None]


def test_the_hint_can_be_turned_off(chat: Chat) -> None:
    chat.home.root.mkdir()
    chat.home.settings.write_text("[harvest]\nhint = false\n")
    assert chat.say(finished()) == [None]
    assert len(chat.scores()) == 1


@pytest.mark.parametrize(
    ("line", "scores"),
    [
        ("/+", [5, None, None]),
        ("/-", [1, None, None]),
        ("/+ 4", [4, None, None]),
        ("/dataset rate 2", [2, None, None]),
        ("/dataset rate good --turn -2", [None, 5, None]),
        ("/dataset rate bad --turn=-3", [None, None, 1]),
        ("/fix Mine.", [5, None, None]),
        ("/fix --turn -2 Mine.", [None, 5, None]),
    ],
)
def test_ratings_mean_this_session(chat: Chat, line: str, scores: list[int | None]) -> None:
    # Newer by its clock, but not of this chat; a sub-agent's turn is no answer that the user saw.
    other = Chat(chat.home.root)
    other.say(finished(50, session="other"))
    assert other.live.flush(10)
    chat.say(finished(1), finished(2), finished(3), finished(4, origin="sub-agent"))
    chat(line)
    with chat.library as library:
        found = {example.question: example.score for example in library.find()}
    assert [found[f"What is in file {number}?"] for number in (3, 2, 1)] == scores
    assert [found[f"What is in file {number}?"] for number in (50, 4)] == [None, None]


def test_the_same_words_twice_are_one_example_and_still_the_last_answer(chat: Chat) -> None:
    chat.say(finished(1), finished(2), finished(1))
    chat("/+")
    chat("/dataset rate 2 --turn -2")
    with chat.library as library:
        assert {e.question: e.score for e in library.find()} == {"What is in file 1?": 5, "What is in file 2?": 2}


def test_a_turn_too_far_back(chat: Chat) -> None:
    chat.say(finished(1))
    assert "This session has 1 answer" in chat("/dataset rate good --turn -2", 1)


def test_without_a_turn_the_newest_in_the_library_is_meant(chat: Chat) -> None:
    with Library(chat.home.library) as library:
        from meton_plugins.finetune.collect.heard import as_turn

        library.take(as_turn(finished(7)))
    assert "file 7" in chat("/+")


def test_a_failure_rated_good_says_what_helps(chat: Chat) -> None:
    chat.say(finished(1, success=False))
    assert "/fix" in chat("/+")
    assert "will be learned" in chat("/fix What it really holds.")
    with chat.library as library:
        assert library.find()[0].status == "usable"


def test_a_private_session_leaves_nothing(home: Path) -> None:
    chat = Chat(home, private=True)
    assert chat.live.notices() == []
    assert chat.say(finished(1), finished(2)) == [None, None]
    for line in ("/+", "/- 2", "/fix Mine.", "/dataset rate good --turn -1"):
        out = chat(line, 1)
        assert "private" in out
        assert len(out.splitlines()) == 1
    assert chat.live.end() is None
    assert chat.scores() == []


def conversation(folder: Path, *turns: FinishedTurn, name: str = "session_1.json") -> None:
    """Meton's own file of these turns, its clock some milliseconds off."""
    folder.mkdir(parents=True, exist_ok=True)
    messages = []
    for number, turn in enumerate(turns):
        for role, content in (("user", turn.question), ("assistant", turn.answer)):
            metadata = {} if role == "user" else {"tool_calls": 0, "model": turn.model}
            stamp = f"2026-03-02T09:{number:02}:0{len(role)}.004321"
            messages.append({"role": role, "content": content, "timestamp": stamp, "metadata": metadata})
    session = turns[0].session
    value = {"session_id": session, "start_time": "2026-03-02T08:59:00", "messages": messages, "max_history": 20}
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize("first", ["live", "file"])
def test_what_was_heard_and_lies_in_a_file_is_one_example(home: Path, tmp_path: Path, first: str) -> None:
    chat = Chat(home, conversations_dir=tmp_path / "conversations")
    turns = [finished(1), finished(2, answer=f"  The key {SECRET} is in it.\n")]
    conversation(tmp_path / "conversations", *turns)
    if first == "live":
        chat.say(*turns)
        chat("/+")
    chat("/dataset harvest")
    if first == "file":
        chat.say(*turns)
    with chat.library as library:
        found = library.find()
        assert len(found) == 2
        assert [len(library.calls(e.id)) for e in found] == [2, 2]
        assert {e.session for e in found} == {turns[0].session}
    assert "0 new, 2 known" in chat("/dataset harvest")


def test_a_later_harvest_leaves_private_sessions_alone(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "conversations"
    Chat(home, private=True, conversations_dir=folder).say(finished(1))
    conversation(folder, finished(1))
    conversation(folder, finished(2, session="open"), name="session_2.json")
    chat = Chat(home, conversations_dir=folder)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not Library(chat.home.library).kept_out([finished().session]):
        time.sleep(0.01)
    assert "1 × the session was private" in chat("/dataset harvest")
    with chat.library as library:
        assert [e.session for e in library.find()] == ["open"]


def test_harvesting_off_and_on(chat: Chat) -> None:
    assert "no longer" in chat("/dataset harvest off")
    assert chat.say(finished(1)) == [None]
    assert "/dataset harvest on" in chat("/+", 1)
    chat("/dataset harvest on")
    assert chat.say(finished(2)) == [HINT]
    chat("/+")
    assert chat.scores() == [5]


TOML = {
    "none": ("", "[harvest]\nenabled = false\n"),
    "others": ("base = 'x' # mine\n", "base = 'x' # mine\n\n[harvest]\nenabled = false\n"),
    "no newline": ("base = 'x'", "base = 'x'\n\n[harvest]\nenabled = false\n"),
    "comment": (
        "# a\n[harvest] # b\nhint = true\n enabled=true   # c\n[build]\nunrated = true\n",
        "# a\n[harvest] # b\nhint = true\n enabled=false   # c\n[build]\nunrated = true\n",
    ),
    "key missing": ("[harvest]\nhint = false\n", "[harvest]\nenabled = false\nhint = false\n"),
    "bare head": ("[harvest]", "[harvest]\nenabled = false\n"),
    "dotted": ("harvest.enabled = true # x\n[build]\n", "harvest.enabled = false # x\n[build]\n"),
    "windows": ("[harvest]\r\nenabled = true\r\n", "[harvest]\r\nenabled = false\r\n"),
}


@pytest.mark.parametrize(("old", "new"), TOML.values(), ids=TOML)
def test_settings_keep_what_the_user_wrote(chat: Chat, old: str, new: str) -> None:
    chat.home.root.mkdir()
    if old:
        chat.home.settings.write_bytes(old.encode())
    chat("/dataset harvest off")
    assert chat.home.settings.read_bytes() == new.encode()
    assert load(chat.home.settings).harvest.enabled is False
    assert chat.home.settings.stat().st_mode & 0o777 == 0o600
    chat("/dataset harvest on")
    assert load(chat.home.settings).harvest.enabled is True
    chat("/dataset harvest off")
    assert chat.home.settings.read_bytes() == new.encode()


@pytest.mark.parametrize(
    "text",
    ["harvest = {enabled = true}\n", "base = '''\n[harvest]\nenabled = true\n'''\n", "[harvest\n", "[nope]\n"],
    ids=["inline", "in a string", "broken", "unknown"],
)
def test_settings_that_cannot_be_changed_safely_are_left(chat: Chat, text: str) -> None:
    chat.home.root.mkdir()
    chat.home.settings.write_text(text)
    chat("/dataset harvest off", 1)
    assert chat.home.settings.read_text() == text


def test_broken_settings_keep_nothing_and_say_so_once(chat: Chat) -> None:
    chat.home.root.mkdir()
    chat.home.settings.write_text("[harvest\n")
    assert chat.say(finished()) == [None]
    [line] = chat.live.notices()
    assert "not TOML" in line
    assert chat.live.notices() == []
    chat.home.settings.unlink()
    assert chat.scores() == []


def test_first_use_is_explained_once_in_the_life_of_a_folder(chat: Chat) -> None:
    [line] = chat.live.notices()
    assert "/dataset harvest off" in line
    assert str(chat.home.root) in line
    assert chat.live.notices() == []
    assert Chat(chat.home.root).live.notices() == []
    assert chat.home.told.stat().st_mode & 0o777 == 0o600


def test_the_summary_of_a_session(chat: Chat) -> None:
    assert chat.live.end() is None
    other = Chat(chat.home.root)
    other.say(finished(50, session="other"))
    assert other.live.end() == "0 rated, 0 usable; 1 in the library"
    chat.say(*(finished(number) for number in range(4)))
    for line in ("/+", "/dataset rate bad --turn -2", "/fix --turn -3 Mine."):
        chat(line)
    assert chat.live.end() == "3 rated, 2 usable; 5 in the library"


def test_an_answer_that_was_forgotten_stays_out_of_the_session(chat: Chat) -> None:
    chat.say(finished(1), finished(2))
    with chat.library as library:
        name = library.find()[0].id
    chat(f"/dataset rate good {name}")
    chat(f"/dataset forget {name} --yes")
    chat.say(finished(2))
    assert "forgotten" in chat("/+", code=1)
    assert chat.live.end() == "0 rated, 0 usable; 1 in the library"


def run(home: Home, name: str, status: str, **state: Any) -> Path:
    folder = home.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    base = {"path": "b.gguf", "sha256": "", "architecture": "qwen2", "parameters": 1, "size": 1, "mtime_ns": 1}
    record = {
        "name": name, "created": "", "base": base, "dataset": "d", "learned": "last", "examples": {"train": 10},
        "settings": {}, "template": "basic", "system": "", "threads": 1,
    }  # fmt: skip
    if not (folder / "run.json").exists():
        (folder / "run.json").write_text(json.dumps(record))
    (folder / "state.json").write_text(json.dumps({"status": status, "attempt": 1, **state}))
    return folder


def test_news_of_runs_are_told_once(chat: Chat) -> None:
    chat.live.notices()
    run(chat.home, "one", "paused")
    assert chat.live.notices() == []
    run(chat.home, "one", "finished", base_loss=7.188, best_loss=3.514)
    run(chat.home, "two", "failed", error="The disk is full.")
    assert chat.live.notices() == [
        "The run one has finished (validation loss 7.19 → 3.51): /export model one makes a model of it.",
        "The run two has failed: The disk is full.",
    ]
    assert chat.live.notices() == []
    assert Chat(chat.home.root).live.notices() == []
    run(chat.home, "two", "running", attempt=2)
    assert chat.live.notices() == ["The run two was interrupted: /finetune resume two goes on with it."]
    run(chat.home, "two", "finished", attempt=3)
    assert chat.live.notices() == ["The run two has finished: /export model two makes a model of it."]
    assert chat.live.notices() == []


def test_many_runs_make_few_lines(chat: Chat) -> None:
    chat.live.notices()
    for number in range(9):
        run(chat.home, f"run-{number}", "finished")
    lines = chat.live.notices()
    assert len(lines) == 4
    assert lines[0].startswith("6 more runs")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"tokens_per_s": 50.0, "trained_seconds": 2000.0, "step": 100}, ", about 1 min to train here"),
        ({"tokens_per_s": 50.0, "trained_seconds": 400000.0, "step": 100}, ", about 3.3 h to train here"),
        ({"trained_seconds": 2000.0, "step": 100}, ""),
        ({"tokens_per_s": 50.0}, ""),
    ],
    ids=["minutes", "hours", "no speed", "no step"],
)
def test_the_time_to_train_is_measured_or_left_out(chat: Chat, state: dict[str, Any], words: str) -> None:
    run(chat.home, "one", "finished", **state)
    words = words.replace("about 1 min", "about 60 s")
    chat.say(finished())
    chat("/+")
    assert chat.live.end() == "1 rated, 1 usable; 1 in the library" + words


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Another process holds the library's write lock."""
    with Library(path) as library:
        library.counts()
    body = "import sqlite3, sys, time\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    body += "c.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\ntime.sleep(float(sys.argv[2]))\n"
    command = [sys.executable, "-c", body, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield


def test_a_turn_waits_for_nobody(chat: Chat) -> None:
    with locked(chat.home.library, 1):
        start = time.perf_counter()
        for number in range(5):
            one = time.perf_counter()
            chat.live.turn(finished(number))
            assert time.perf_counter() - one < 0.05
        # Five turns, heard while the lock is held; a rating waits for it, and finds the last of them.
        chat("/+")
        assert time.perf_counter() - start > 0.5
    assert chat.scores() == [5, None, None, None, None]


def test_a_turn_costs_less_than_five_milliseconds(chat: Chat) -> None:
    chat.live.turn(finished(0))
    seconds = []
    for number in range(1, 21):
        assert chat.live.flush(10)
        turn = finished(number)
        start = time.perf_counter()
        chat.live.turn(turn)
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[10] < 0.005


def test_turns_of_many_threads_are_all_kept(chat: Chat) -> None:
    threads = [
        threading.Thread(target=lambda n=n: chat.live.turn(finished(n, origin="web", session=f"web{n}")))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(chat.scores()) == 20


def test_a_library_that_cannot_be_written_is_told_once(chat: Chat) -> None:
    chat.live.notices()
    chat.home.library.write_bytes(b"no database" * 500)
    assert chat.say(finished()) == [HINT]
    assert chat.live.flush(10)
    [line] = chat.live.notices()
    assert "damaged" in line
    assert chat.live.notices() == []
    assert "damaged" in chat("/+", 1)


def test_the_end_does_not_wait_for_a_lock(chat: Chat) -> None:
    chat.say(finished(1))
    assert chat.live.flush(10)
    with locked(chat.home.library, 5):
        chat.say(finished(2))
        start = time.perf_counter()
        assert chat.live.end() == "0 rated, 0 usable; 1 in the library"
        assert time.perf_counter() - start < 4


TALKER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from support.chat import finished
    from support.host import RecordingHost
    from meton_plugins.finetune.plugin import register

    host = RecordingHost(Path(sys.argv[1]))
    register(host)
    for number in range(100000):
        host.listeners[0].turn(finished(number))
        print(number, flush=True)
        sys.stdin.readline()
    """
)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_kill_9_loses_at_most_the_turn_in_flight(home: Path, turns: int) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", TALKER, str(home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(turns):
        assert process.stdout.readline() == f"{number}\n"
        if number < turns - 1:
            time.sleep(0.5)  # the model answers: far longer with any real one
            process.stdin.write("\n")
            process.stdin.flush()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    with Library(Home(home).library) as library:
        kept = {example.question for example in library.find()}
        assert {f"What is in file {number}?" for number in range(turns - 1)} <= kept
        assert all(len(library.calls(example.id)) == 2 for example in library.find())
    with closing(sqlite3.connect(Home(home).library)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def built(chat: Chat, **settings: Any) -> tuple[dataset.Manifest, dict[str, tuple[str, str]]]:
    """The dataset, and its rows: id to what is asked and what is said."""
    with chat.library as library:
        manifest = dataset.build(library, BuildSettings.model_validate(settings), chat.home.datasets)
    whole = dataset.load(chat.home.datasets / manifest.id)
    rows = whole.train + whole.validation + whole.heldout
    return manifest, {row.id: (row.messages[-2].content, row.messages[-1].content) for row in rows}


def test_every_call_of_a_good_turn_trains(chat: Chat) -> None:
    chat.say(finished(1))
    chat("/+")
    manifest, rows = built(chat)
    with chat.library as library:
        [example] = library.find()
    assert list(rows) == [f"{example.id}#1", f"{example.id}#2"]
    asked, said = rows[f"{example.id}#1"]
    assert (asked, said) == (form.prompt(example.question), LOOK)
    asked, said = rows[f"{example.id}#2"]
    assert asked == form.prompt(example.question, (), example.tools)
    assert said == form.wrap(example.answer, "I know.")
    assert all(form.score(text) == 1.0 for _, text in rows.values())
    assert manifest.counts["train"] == 2
    assert manifest.examples == {"train": 1, "validation": 0, "heldout": 0}
    assert "1 answer gave 2 chats" in chat("/dataset build")


def test_a_fix_replaces_only_the_final_answer(chat: Chat) -> None:
    chat.say(finished(1))
    chat("/fix Mine.")
    _, rows = built(chat)
    assert [said for _, said in rows.values()] == [LOOK, form.wrap("Mine.", "I know.")]


FORMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "decorated": (
        {"calls": (call("User Query: x", "**THOUGHT:** Hm.\n**ACTION:** NONE\n**ANSWER:** It holds the number 1."),)},
        [form.wrap("It holds the number 1.", "Hm.")],
    ),
    "unreadable last": (
        {"calls": (call("User Query: x", LOOK), call("Sum up.", "It holds the number 1."))},
        [LOOK, form.wrap("It holds the number 1.")],
    ),
    "turned down": (
        {"calls": (call("User Query: x", LOOK), call("User Query: x", "ANSWER: It likely holds 2."))},
        [LOOK, form.wrap("It holds the number 1.")],
    ),
    "loop": (
        {"calls": (call("User Query: x", LOOK), call("User Query: x", LOOK), call("x", "ANSWER: y"))},
        [LOOK, form.wrap("It holds the number 1.")],
    ),
    "sub-agent's call": (
        {"calls": (call("User Query: x", LOOK, "sub-agent"), call("x", "ANSWER: y"))},
        [form.wrap("It holds the number 1.")],
    ),
    "answer beside a tool": (
        {"calls": (call("User Query: x", f"{LOOK} made up"), call("x", "ANSWER: y"))},
        [LOOK, form.wrap("It holds the number 1.")],
    ),
    "none": ({"calls": ()}, [form.wrap("It holds the number 1.")]),
}


@pytest.mark.parametrize(("more", "said"), FORMS.values(), ids=FORMS)
def test_what_a_model_said_is_brought_into_the_form(chat: Chat, more: dict[str, Any], said: list[str]) -> None:
    chat.say(finished(1, **more))
    chat("/+")
    _, rows = built(chat)
    assert [text for _, text in rows.values()] == said
    assert all("#" in name for name in rows) == bool(more["calls"])


def test_plain_rows_are_one_an_answer(chat: Chat) -> None:
    chat.say(finished(1))
    chat("/+")
    _, rows = built(chat, form="plain")
    assert [said for _, said in rows.values()] == ["It holds the number 1."]


def test_all_rows_of_a_turn_lie_on_one_side(chat: Chat) -> None:
    chat.say(*(finished(number, session=f"s{number}") for number in range(50)))
    assert chat.live.flush(30)
    for number in range(50):
        chat(f"/dataset rate good --turn -{50 - number}")
    with chat.library as library:
        manifest = dataset.build(library, BuildSettings(plain_share=0), chat.home.datasets)
    whole = dataset.load(chat.home.datasets / manifest.id)
    sides = [{row.id.split("#")[0] for row in side} for side in (whole.train, whole.validation, whole.heldout)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert [manifest.counts[side] for side in ("train", "validation", "heldout")] == [2 * len(side) for side in sides]


def test_rows_name_the_tools_that_the_model_was_told_of(chat: Chat) -> None:
    said = "Long instructions. " * 100
    tools = "CRITICAL - EXACT TOOL NAMES (copy these exactly in your ACTION field):\nfile_operations, web_search, <x>\n"
    heard = finished(1)
    calls = tuple(replace(call, prompt=f"{said}\n{tools}\nUser Query: {heard.question}") for call in heard.calls)
    chat.say(replace(heard, calls=calls))
    chat("/+")
    _, rows = built(chat)
    assert rows
    for asked, _ in rows.values():
        assert "\nTools: file_operations, web_search\n" in asked
    with chat.library as library:
        assert library.newest_instructions() == f"{said}\n{tools}\n"


def test_secrets_in_completions_are_taken_out_again_when_building(chat: Chat) -> None:
    chat.say(finished(1))
    chat("/+")
    with closing(sqlite3.connect(chat.home.library)) as connection:
        late = LOOK.replace("read", f"read {SECRET}")
        connection.execute("UPDATE calls SET completion = ? WHERE number = 0", (late,))
        connection.commit()
    _, rows = built(chat)
    assert "<API_KEY_1>" in next(iter(rows.values()))[1]
    assert SECRET not in repr(rows)


@pytest.fixture
def elsewhere(home: Path, tmp_path: Path) -> Callable[..., Chat]:
    """A chat beside Meton's own files."""

    def make(feedback: Any = None, exports: dict[str, Any] | None = None) -> Chat:
        conversation(tmp_path / "meton" / "conversations", finished(1), finished(2))
        if feedback is not None:
            folder = tmp_path / "meton" / "feedback_data"
            folder.mkdir()
            text = feedback if isinstance(feedback, str) else json.dumps(feedback)
            (folder / "feedback_db.json").write_text(text)
        for name, value in (exports or {}).items():
            folder = tmp_path / "meton" / "exports"
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(value))
        return Chat(home, conversations_dir=tmp_path / "meton" / "conversations")

    return make


def opinion(kind: str, number: int = 1, **more: Any) -> dict[str, Any]:
    turn = finished(number)
    return {
        "id": f"{kind}-{number}", "timestamp": "2026-03-02T09:00:00", "query": turn.question, "response": turn.answer,
        "feedback_type": kind, "feedback_text": "", "correction": None, "context": {}, "tags": [], **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "score", "correction"),
    [
        (opinion("positive"), 5, None),
        (opinion("negative"), 1, None),
        (opinion("correction", correction="Better."), 5, "Better."),
        (opinion("correction", correction=f"Use {SECRET}."), 5, "Use <API_KEY_1>."),
        (opinion("correction"), 1, None),
    ],
    ids=["positive", "negative", "correction", "secret", "no text"],
)
def test_ratings_given_elsewhere(
    elsewhere: Callable[..., Chat], entry: dict[str, Any], score: int, correction: str | None
) -> None:
    chat = elsewhere([entry])
    assert "Took 1 rating" in chat("/dataset harvest")
    with chat.library as library:
        found = {e.question: e for e in library.find()}
    assert len(found) == 2
    rated = found["What is in file 1?"]
    assert (rated.score, rated.correction) == (score, correction)
    assert found["What is in file 2?"].score is None
    chat(f"/dataset rate 3 {rated.id}")
    assert "Took" not in chat("/dataset harvest")
    with chat.library as library:
        assert library.get(rated.id).score == 3


def test_a_rating_of_an_answer_that_no_file_holds_brings_it_along(elsewhere: Callable[..., Chat]) -> None:
    chat = elsewhere([opinion("positive", 7), opinion("positive", 8, id=None), opinion("positive", 8, id=None)])
    chat("/dataset harvest")
    chat("/dataset harvest")
    with chat.library as library:
        found = [e for e in library.find() if e.source == "feedback"]
    assert {e.question: e.score for e in found} == {"What is in file 7?": 5, "What is in file 8?": 5}
    assert len({e.session for e in found}) == 2


def test_the_users_own_rating_stands(elsewhere: Callable[..., Chat]) -> None:
    chat = elsewhere([opinion("positive", 2)])
    chat.say(finished(2))
    chat("/-")
    chat("/dataset harvest")
    with chat.library as library:
        assert {e.question: e.score for e in library.find()} == {"What is in file 1?": None, "What is in file 2?": 1}


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '[1, {"feedback_type": "positive"}, {"query": "", "response": "x", "feedback_type": "positive"}]'],
    ids=["cut", "no list", "malformed"],
)
def test_a_damaged_feedback_file_is_a_remark(elsewhere: Callable[..., Chat], content: str) -> None:
    out = elsewhere(content)("/dataset harvest")
    assert "2 new" in out
    assert "feedback_db.json" in out


def test_exports_are_taken_too(elsewhere: Callable[..., Chat], tmp_path: Path) -> None:
    conversation(tmp_path / "away", finished(3, session="exported"), name="one.json")
    conversation(tmp_path / "away", finished(4, session="alone"), name="two.json")
    one, two = (json.loads((tmp_path / "away" / name).read_text()) for name in ("one.json", "two.json"))
    chat = elsewhere(
        exports={
            "conversations_1.json": {"export_metadata": {}, "conversations": [one, {"broken": 1}]},
            "meton_complete_1.json": {"conversations": [one, two], "memories": []},
            "memories_1.json": {"memories": [1]},
        }
    )
    out = chat("/dataset harvest")
    assert "3 files, 3 sessions: 4 new, 0 known" in out
    assert "memories" not in out
    assert "0 new, 4 known" in chat("/dataset harvest")
