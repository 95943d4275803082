"""`/dataset` and its short forms, as a user types them."""

from __future__ import annotations

import shlex
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.host import RecordingHost
from support.typed import EXAMPLES, Typed

from meton_plugins.finetune.commands.dataset import ALIASES, VERBS, make
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home


def test_the_command_names_its_words() -> None:
    command = make(RecordingHost(Path()), Home(Path()))
    assert command.name == "/dataset"
    assert command.verbs == tuple(VERBS)
    assert dict(command.aliases) == {"/+": "rate good", "/-": "rate bad", "/fix": "fix"}
    assert all(words.split()[0] in VERBS for words in ALIASES.values())


@pytest.mark.parametrize("line", ["", "help", "--help", *(f"{verb} --help" for verb in VERBS)])
def test_help(typed: Typed, line: str) -> None:
    assert "usage: /dataset" in typed(line)


def test_the_whole_way(full: Typed) -> None:
    assert "0 new, 44 known, 1 left out" in full("harvest")
    for example in full.json("list --limit 0"):
        full(f"rate good {example['id']}")
    out = full("build --name demo")
    assert "Dataset " in out
    assert "(demo)" in out
    [version] = full.json("versions")
    assert version["names"] == ["demo"]
    assert (version["train"], version["validation"], version["heldout"]) == (30, 9, 8)
    assert full.json("stats")["splits"] == {"train": 27, "validation": 9, "heldout": 8}
    assert "demo" in full("versions")
    assert "44" in full("stats")


@pytest.mark.parametrize(
    ("line", "turn", "score"),
    [
        ("/+", 0, 5),
        ("/-", 0, 1),
        ("/+ 4", 0, 4),
        ("/- 2", 0, 2),
        ("rate 3", 0, 3),
        ("rate good --turn -2", 1, 5),
        ("rate bad --turn=-3", 2, 1),
    ],
)
def test_rating_an_answer_of_the_last_session(full: Typed, line: str, turn: int, score: int) -> None:
    assert f"Rated {score}" in full(line)
    answers = full.json("list --limit 3")
    assert [e["score"] for e in answers] == [score if n == turn else None for n in range(3)]


def test_rating_by_name_and_session(full: Typed) -> None:
    one, other, *_ = full.json("list")
    assert full.json(f"rate 4 {one['id'][:6]} {other['id']}")["rated"][0]["status"] == "usable"
    assert "3 answers" in full(f"rate good session:{one['session'][:8]}")
    assert [e["score"] for e in full.json("list --limit 4")] == [5, 5, 5, None]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("Don't use it.", "Don't use it."),
        ("use x[i] and [/INST] or [bold]", "use x[i] and [/INST] or [bold]"),
        ('"Quoted whole."', "Quoted whole."),
        ('"Quoted" in part', '"Quoted" in part'),
        ("--turn -2 The one before.", "The one before."),
        (shlex.join(["it's", "x[i]", "now"]), "it's x[i] now"),
        (shlex.join(["two\nlines of it's text"]), "two\nlines of it's text"),
        ("two  spaces", "two  spaces"),
        ("a\\nb $HOME `id`", "a\\nb $HOME `id`"),
        ("decade of added facade", "decade of added facade"),
    ],
)
def test_fixing_takes_the_text_as_typed(full: Typed, text: str, stored: str) -> None:
    turn = 1 if text.startswith("--turn") else 0
    before = full.json("list --limit 3")[turn]
    full(f"/fix {text}")
    after = full.json("list --limit 3")[turn]
    assert (after["correction"], after["answer"], after["score"]) == (stored, before["answer"], 5)
    shown = full(f"show {after['id']}")
    assert stored in shown
    assert before["answer"] in shown


def test_a_rating_is_taken_back(full: Typed) -> None:
    [one, two, *_] = full.ids
    full(f"rate bad {one} {two}")
    assert "Took the rating back: 2 answers" in full(f"rate none {one} {two}")
    [shown, *_] = full.json("list --limit 1")
    assert (shown["score"], shown["rated_at"], shown["status"]) == (None, None, "candidate")
    assert "Took the rating back: " in full("rate none")
    assert {one, two} <= {example["id"] for example in full.json("list --unrated --limit 0")}


def test_a_new_fix_replaces_the_earlier_one_and_says_so(full: Typed) -> None:
    [name, *_] = full.ids
    assert "earlier" not in full(f"fix {name} The first text.")
    assert "it replaces your earlier correction" in full(f"fix {name} The second text.")
    assert full.json(f"fix {name} A third text.")["replaced"] is True
    assert full.json(f"show {name}")["correction"] == "A third text."


def test_a_fix_is_taken_back(full: Typed) -> None:
    """Its pair is gone, its side of the split is not, and the bad answer does not keep the good text's score."""
    full(f"rate good {' '.join(full.ids)}")
    [name, *_] = full.ids
    full(f"fix {name} My own text.")
    full("build --form plain")
    before = full.json(f"show {name}")
    assert before["split"]
    for line in (f"fix --undo {name} and more", f"fix --undo --turn -1 {name}", "fix --undo --turn"):
        full(line, 2)
    assert full.json(f"show {name}")["correction"] == "My own text."
    assert "Took your correction back" in full(f"fix --undo {name[:5]}")
    after = full.json(f"show {name}")
    assert (after["correction"], after["score"], after["rated_at"], after["status"]) == (None, None, None, "candidate")
    assert (after["answer"], after["split"]) == (before["answer"], before["split"])
    assert "has no correction to take back" in full(f"fix --undo {name}", 1)
    assert full.json("build --form plain")["counts"].get("pairs", 0) == 0
    assert full("search My own text") == "No example holds that.\n"
    full("fix The last answer, mended.")
    assert full.json("fix --undo")["correction"] is None
    full("fix --turn -2 The one before.")
    assert full.json("fix --undo --turn -2")["correction"] is None


def test_a_pair_that_was_imported_keeps_its_better_answer(full: Typed, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Which?", "chosen": "This one.", "rejected": "That one."}\n')
    full(f"import {tmp_path / 'pairs.jsonl'}")
    [name] = [example["id"] for example in full.json("list --search Which?") if example["correction"] == "This one."]
    assert "the worse one of a pair" in full(f"fix --undo {name}", 1)
    assert full.json(f"show {name}")["correction"] == "This one."


def test_fixing_by_id(full: Typed) -> None:
    name = full.json("list --limit 9")[8]["id"]
    assert full.json(f"fix {name} Better.")["id"] == name
    secret = "sk" + "-ant-" + "aB3" * 12
    assert full.json(f"fix {name} Use {secret}.")["correction"] == "Use <API_KEY_1>."


def editor(tmp_path: Path, body: str) -> str:
    script = tmp_path / "my editor.py"
    script.write_text(f"import os, sys\npath = sys.argv[-1]\n{body}\n")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(command: str) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", command)

    return use


def test_fixing_in_the_editor(full: Typed, terminal: Callable[[str], None], tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = f"open({str(seen)!r}, 'w').write(oct(os.stat(path).st_mode & 0o777) + open(path).read())\n"
    terminal(editor(tmp_path, body + "open(path, 'w').write('Two lines,\\n  indented.\\n')"))
    before = full.json("list --limit 1")[0]["answer"]
    full("fix")
    assert full.json("list --limit 1")[0]["correction"] == "Two lines,\n  indented."
    assert seen.read_text() == "0o600" + before
    assert list(full.home.root.glob("fix-*")) == []


@pytest.mark.parametrize(
    "body",
    ["pass", "sys.exit(3)", "os.unlink(path)", "open(path, 'wb').write(b'\\xff')", "open(path, 'w').write(' ')"],
    ids=["unchanged", "failed", "removed", "binary", "emptied"],
)
def test_an_editor_that_brings_nothing(full: Typed, terminal: Callable[[str], None], tmp_path: Path, body: str) -> None:
    terminal(editor(tmp_path, body))
    assert full("fix", 1).startswith("✗ ")
    assert full.json("stats")["corrected"] == 0
    assert list(full.home.root.glob("fix-*")) == []


@pytest.mark.parametrize("command", ["", "/no/such/editor", "'open"])
def test_no_editor(full: Typed, terminal: Callable[[str], None], command: str) -> None:
    terminal(command)
    full("fix", 2)


BAD = {
    "unknown word": ("bogus", 2),
    "open quote": ("list --search 'x", 2),
    "no score": ("rate", 2),
    "score 9": ("rate 9", 2),
    "contradiction": ("/- 5", 2),
    "unknown id": ("rate good 0123456789", 1),
    "one digit": ("rate 4 2", 1),
    "both": ("rate good abcd1 --turn -1", 2),
    "turn 0": ("rate good --turn 0", 2),
    "turn x": ("rate good --turn x", 2),
    "turn far": ("rate good --turn -99", 1),
    "no session": ("rate good session:", 1),
    "fix unknown": ("fix 0123456789 text", 1),
    "fix no text": ("fix", 2),
    "fix no turn": ("fix --turn", 2),
    "show nothing": ("show nope", 1),
    "limit": ("list --limit x", 2),
    "negative limit": ("list --limit -1", 2),
    "flag": ("list --nope", 2),
    "threshold": ("build --quality-threshold 7", 2),
    "form": ("build --form alpaca2", 2),
    "keyword": ("build --unrated --filter-keyword zebra", 1),
    "unrated": ("build", 1),
    "name": ("build --unrated --name ../x", 2),
    "base": ("build --unrated --base /no/such.gguf", 1),
    "no folder": ("harvest --conversations-dir /no/such", 1),
    "markup": ("[/INST] [bold", 2),
    "control": ("rate \x00\x1b[31m", 2),
    "long": ("rate " + "x" * 100_000, 2),
}


@pytest.mark.parametrize(("line", "code"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_changes_nothing(full: Typed, line: str, code: int) -> None:
    before = full.json("stats")
    out = full(line, code)
    assert out.startswith("✗ ")
    assert len(out.strip().splitlines()) == 1
    assert len(out) < 1000
    assert set(full.json(line, code)) == {"error"}
    assert full.json("stats") == before
    assert not full.home.datasets.exists()


def test_markup_in_texts_is_only_text(full: Typed) -> None:
    full("fix [/INST] [bold] x[i] :smile:")
    for line in ("list --limit 1", "list --search [bold]", f"show {full.json('list')[0]['id']}"):
        assert "[/INST] [bold] x[i] :smile:" in full(line)


def test_harvest_tells_what_it_left(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for path in EXAMPLES.glob("*_3936bdf5.json"):
        (tmp_path / "c" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "c" / "cut.json").write_text('{"messages": [')
    out = typed(f"harvest --conversations-dir {shlex.quote(str(tmp_path / 'c'))}")
    assert "3 files, 1 session: 3 new, 0 known" in out
    assert "cut.json: cut off" in out


def test_no_folder_to_harvest(typed: Typed) -> None:
    typed.host.conversations_dir = None
    assert "--conversations-dir" in typed("harvest", 2)


def test_the_library_is_private(full: Typed) -> None:
    with Library(full.home.library) as library:
        assert stat.S_IMODE(library.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", ["rate good", "stats", "list", "fix Text {}."])
def test_commands_are_quick(full: Typed, line: str) -> None:
    seconds = []
    for attempt in range(4):
        start = time.perf_counter()
        full(line.format(attempt))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_a_fix_never_takes_the_wrong_answer(full: Typed) -> None:
    before = full.json("list --limit 0")
    old = next(e["id"] for e in before[5:] if any(letter.isdigit() for letter in e["id"][:4]))
    said = full(f"fix {old[:4]} Another text.", 2)
    assert f"{old[:4]} may mean the example {old}: type its whole ID" in said
    assert "not a session" in full("fix session:0618 Another text.", 2)
    assert "usage: /dataset fix" in full("fix --help me")
    assert full.json("list --limit 0") == before
    assert "Fixed: " in full("fix 9999 bottles of text")
