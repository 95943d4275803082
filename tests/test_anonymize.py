"""`/dataset export`: names replaced by stable placeholders, seen by the user before anything is written."""

from __future__ import annotations

import json
import logging
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.host import RecordingHost

from meton_plugins.finetune.commands.dataset import make
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.anonymize import KINDS, anonymize
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Turn

FOUND = {
    "mail": ("Write to mira.k" + "@" + "harbor-team.net please", "Write to <MAIL_1> please"),
    "home": ("cat /home/" + "mira/notes.txt", "cat /home/<USER_1>/notes.txt"),
    "mac": ("open /Users/" + "Mira.K/x.", "open /Users/<USER_1>/x."),
    "windows": ("C:\\Users\\" + "Mira\\x", "C:\\Users\\<USER_1>\\x"),
    "windows in json": ('{"p": "C:\\\\Users\\\\' + 'Mira\\\\x"}', '{"p": "C:\\\\Users\\\\<USER_1>\\\\x"}'),
    "prompt": ("mira@thinkpad:~/work$ ls", "<USER_1>@<HOST_1>:~/work$ ls"),
    "ssh": ("ssh -p 22 mira@build7", "ssh -p 22 <USER_1>@<HOST_1>"),
    "name": ("Author: Mira van Kell <mira@" + "harbor-team.net>", "Author: <NAME_1> <<MAIL_1>>"),
    "name before a placeholder": ("Signed-off-by: Jörg Kell <<EMAIL_1>>", "Signed-off-by: <NAME_1> <<EMAIL_1>>"),
    "machine": ("ping nas.kell.lan now", "ping <HOST_1> now"),
    "address": ("it listens on 192.168.178.20:80", "it listens on <IP_1>:80"),
    "address 6": ("ping fe80::1ff:fe23:4567:890a", "ping <IP_1>"),
    "private url": ("see http://wiki.corp/team/x?y=1 there", "see <URL_1> there"),
    "bare url": ("curl http://build7:8080/job", "curl <URL_1>"),
    "url by address": ("http://10.0.0.7/x", "<URL_1>"),
    "phone": ("call +49 170 5550123 or (030) 5550-1234", "call <PHONE_1> or <PHONE_2>"),
    "american phone": ("call 202-555-0143.", "call <PHONE_1>."),
    "word": ("Harbor is a harbor.", "<PROJECT_1> is a <PROJECT_1>."),
    "word in code": ("from harbor_api import HarborClient", "from PROJECT_1_api import PROJECT_1Client"),
}


@pytest.mark.parametrize(("before", "after"), FOUND.values(), ids=FOUND)
def test_names_are_replaced(before: str, after: str) -> None:
    words = ["harbor"] if "arbor" in before and "team" not in before else []
    [[cleaned]], replaced = anonymize([[before]], words)
    assert cleaned == after
    assert all(each.kind in KINDS and each.value in before for each in replaced)
    assert anonymize([[cleaned]])[0] == [[cleaned]]


KEPT = [
    "http://localhost:11434/api and http://127.0.0.1:8000/ and https://docs.python.org/3/",
    "version 1.2.3 of 2026-03-02T10:20:30, at 12:30:45, 0.0.0.0 and ::1, 203.0.113.9",
    "/home/user/x, /Users/you, root@server:~# ls, git@github.com:team/x.git",
    "you@example.com, a @ b.T, @pytest.fixture, std::vector, a[1:2:3]",
    "local = threading.local(); self.nav.home; a[1::2], x[::3], wiki.internal.search(), 123:2:3",
    "1234567890 items, 555-1234, 3.141592653589793, id 20260302-090000",
    "x = '<EMAIL_1>' + '<HOME_2>'",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_names_nobody_is_kept(text: str) -> None:
    assert anonymize([[text]]) == ([[text]], [])


def test_the_same_name_has_one_placeholder_in_all_chats() -> None:
    chats = [
        ["<USER_3> said so", "ls /home/" + "mira"],
        ["Mira's file: \\nmira, miracle, MIRA", "/home/" + "nora"],
        ["mira@thinkpad:~$ ls\nthe ThinkPad is slow"],
    ]
    cleaned, replaced = anonymize(chats)
    assert cleaned == [
        ["<USER_3> said so", "ls /home/<USER_4>"],
        ["<USER_4>'s file: \\n<USER_4>, miracle, <USER_4>", "/home/<USER_5>"],
        ["<USER_4>@<HOST_1>:~$ ls\nthe <HOST_1> is slow"],
    ]
    assert [(each.placeholder, each.count) for each in replaced] == [("<USER_4>", 5), ("<USER_5>", 1), ("<HOST_1>", 2)]


def test_json_stays_json() -> None:
    value = {
        "t": "a\nmira" + "@" + "harbor-team.net\tmira\\",
        "u": "http://wiki.corp/x\\y",
        "p": "C:\\Users\\" + "mira\\n",
    }
    [[cleaned]], replaced = anonymize([[json.dumps(value)]], ["corp"])
    assert len(replaced) >= 3
    assert set(json.loads(cleaned)) == set(value)


@pytest.mark.parametrize("unit", ["a@", "a.", "1.", "a:", "http://", "+4 ", "ssh a@", "A b ", "/home/", "(030) ", "a-"])
def test_no_line_takes_long(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    began = time.process_time()
    anonymize([[text]], ["a"])
    assert time.process_time() - began < 5


class Place:
    """A library with three rated answers, and the command on a terminal."""

    def __init__(self, home: Path, tmp_path: Path) -> None:
        self.home = Home(home)
        self.file = tmp_path / "out" / "chats.jsonl"
        self.file.parent.mkdir()
        with Library(self.home.library) as library:
            turns = [
                Turn(session="a", at="2026-01", question="What is on 192.168.7.9?", answer="The harbor service is."),
                Turn(
                    session="b", at="2026-02", question="ssh mira@build7", answer="Mira is on build7\n    as you see."
                ),
                Turn(session="c", at="2026-03", question="Not rated", answer="by anybody at all."),
            ]
            ids, _ = library.add(turns)
            library.rate(ids[:2], 5)
        self.host = RecordingHost(home, width=200)
        self.host.console = Console(file=self.host._stream, width=200, force_terminal=True, color_system=None)
        self.command = make(self.host, self.home)

    def __call__(self, line: str, code: int = 0, answer: bool | None = None) -> str:
        self.host.clear()
        self.host._answers = iter([answer])
        assert self.command.run(f"export --output {self.file} {line}") == code, self.host.output
        return self.host.output

    @property
    def chats(self) -> list[list[dict[str, str]]]:
        return [json.loads(line)["messages"] for line in self.file.read_text().splitlines()]


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Place:
    return Place(home, tmp_path)


def test_rated_answers_are_written(place: Place) -> None:
    assert "Wrote 2 chats" in place("")
    assert [[m["role"] for m in chat] for chat in place.chats] == [["user", "assistant"]] * 2
    assert place.chats[1][1]["content"] == "Mira is on build7\n    as you see."
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600
    assert place.host.asked == []


def test_replacements_are_seen_before_anything_is_written(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        said = place("--anonymize --word Harbor", 1, answer=False)
        assert not place.file.exists()
        assert list(place.file.parent.iterdir()) == []
        said = place("--anonymize --word Harbor", answer=True)
    for shown in ("<IP_1>", "192.168.7.9", "<USER_1>", "mira", "<HOST_1>", "build7", "<PROJECT_1>", "1 ×"):
        assert shown in said
    assert len(place.host.asked) == 2
    assert "mira" not in "".join(place.host.asked) + caplog.text
    assert [[m["content"] for m in chat] for chat in place.chats] == [
        ["What is on <IP_1>?", "The <PROJECT_1> service is."],
        ["ssh <USER_1>@<HOST_1>", "<USER_1> is on <HOST_1>\n    as you see."],
    ]


def test_where_nobody_looks_nothing_is_shown_or_written(place: Place) -> None:
    assert "add --yes" in place("--anonymize", 2, answer=None)
    assert not place.file.exists()
    for terminal, as_json in ((False, False), (True, True)):
        place.host.console = Console(file=place.host._stream, width=200, force_terminal=terminal, color_system=None)
        place.host.json = as_json
        said = place("--anonymize", 2, answer=True)
        assert "mira" not in said.lower()
        assert not place.file.exists()


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_yes_writes_and_shows_counts_alone(place: Place, as_json: bool) -> None:
    place.host.json = as_json
    said = place("--anonymize --yes")
    assert "192.168" not in said
    assert "mira" not in said.lower()
    if as_json:
        assert json.loads(said)["replaced"] == {"USER": 1, "HOST": 1, "IP": 1}
    assert "192.168" not in place.file.read_text()
    assert len(place.chats) == 2


def test_a_file_that_is_there_stays(place: Place) -> None:
    place.file.write_text("mine")
    assert "--force" in place("", 2)
    assert place.file.read_text() == "mine"
    place("--force")
    assert len(place.chats) == 2


def test_a_full_disk_leaves_the_old_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.file.write_text("mine")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meton_plugins.finetune.paths.os.fsync", full)
    place("--force", 1)
    assert [path.read_text() for path in place.file.parent.iterdir()] == ["mine"]


def test_a_dataset_is_written_whole(place: Place) -> None:
    with Library(place.home.library) as library:
        settings = BuildSettings(form="plain", unrated=True)
        manifest = dataset.build(library, settings, place.home.datasets, name="all")
    place("--dataset all --anonymize --yes")
    assert len(place.chats) == 3 == sum(manifest.examples.values())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--word x", 2),
        ("--anonymize --word ''", 2),
        ("--dataset nope", 1),
        ("--output /no/such/x.jsonl", 2),
        ("--output /", 2),
    ],
)
def test_bad_input_is_one_sentence(place: Place, line: str, code: int) -> None:
    assert place(line, code).startswith("✗ ")
    assert not place.file.exists()


def test_nothing_rated_is_one_sentence(home: Path, tmp_path: Path) -> None:
    host = RecordingHost(home)
    assert make(host, Home(home)).run(f"export --output {tmp_path / 'x'}") == 1
    assert "rated 4 or 5" in host.output
