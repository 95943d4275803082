"""The library: nothing twice, nothing lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from meton_plugins.finetune.errors import DataError, NotFound, UsageError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.records import identity, score_of
from meton_plugins.finetune.library.schema import MIGRATIONS, VERSION, backup_of
from meton_plugins.finetune.turn import Call, Message, ToolUse, Turn

ROOT = Path(__file__).parent.parent


def turn(number: int, session: str = "s1", answer: str = "Use it.", **more: object) -> Turn:
    at = f"2026-03-02T09:{number:02}:00.000001"
    return Turn.model_validate(
        {"session": session, "at": at, "question": f"Question {number}?", "answer": answer, **more}
    )


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "home" / "library.db") as library:
        yield library


def test_the_file_is_private_and_survives_power_cuts(library: Library) -> None:
    library.add([turn(1)])
    assert library.path.stat().st_mode & 0o777 == 0o600
    assert library.path.parent.stat().st_mode & 0o777 == 0o700
    for beside in library.path.parent.glob("library.db-*"):
        assert beside.stat().st_mode & 0o077 == 0
    connection = library._connection()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_turn_enters_once(library: Library) -> None:
    whole = turn(
        1, context=(Message(role="user", content="earlier"),), tools=(ToolUse(name="t", output="out"),), model="m:7b"
    )
    new, known = library.add([whole, turn(2)])
    assert (len(new), known) == (2, 0)
    assert library.add([whole, turn(2), turn(3)])[1] == 2
    example = library.get(new[0])
    assert (example.context, example.tools, example.model) == (whole.context, whole.tools, "m:7b")
    assert library.counts().examples == 3


def test_the_number_of_a_placeholder_makes_no_new_turn(library: Library) -> None:
    library.add([turn(1, answer="the key is <API_KEY_1>")])
    assert library.add([turn(1, answer="the key is <API_KEY_2>")]) == ([], 1)


@pytest.mark.parametrize(
    ("score", "status"),
    [(5, "usable"), (4, "usable"), (3, "candidate"), (2, "rejected"), (1, "rejected")],
)
def test_what_a_score_means(library: Library, score: int, status: str) -> None:
    [name], _ = library.add([turn(1)])
    assert library.get(name).status == "candidate"
    assert library.rate([name], score)[0].status == status


@pytest.mark.parametrize(("word", "score"), [("good", 5), ("BAD", 1), ("3", 3)])
def test_words_for_scores(word: str, score: int) -> None:
    assert score_of(word) == score


@pytest.mark.parametrize("word", ["0", "6", "great", "", "²", "45"])
def test_no_score(word: str) -> None:
    with pytest.raises(UsageError):
        score_of(word)


def test_one_unknown_id_rates_nothing(library: Library) -> None:
    [name], _ = library.add([turn(1)])
    with pytest.raises(NotFound):
        library.rate([name, "0000000000"], 5)
    assert library.get(name).score is None


def test_a_fix_keeps_both_texts(library: Library) -> None:
    [name], _ = library.add([turn(1, answer="Use Flask.")])
    library.rate([name], 1)
    fixed = library.fix(name, " Use FastAPI.\n")
    assert (fixed.target, fixed.rejected, fixed.score) == ("Use FastAPI.", "Use Flask.", 5)
    for text in ("", "  ", "Use FastAPI."):
        with pytest.raises(DataError):
            library.fix(name, text)
    assert library.fix(name, "Use Flask.").rejected is None


def test_ids_by_their_beginning(library: Library) -> None:
    [name], _ = library.add([turn(1)])
    assert library.get(name[:4]).id == name
    assert library.get(name.upper()).id == name
    for wrong in ("", name[:3], "zzzz", "%", name + "0", "ab' OR 1"):
        with pytest.raises(NotFound):
            library.get(wrong)


def test_an_ambiguous_beginning_is_refused(library: Library) -> None:
    library.add([turn(1), turn(2)])
    connection = library._connection()
    for number, row in enumerate(connection.execute("SELECT id FROM examples").fetchall()):
        connection.execute("UPDATE examples SET id = ? WHERE id = ?", (f"abcd{number}00000", row[0]))
    with pytest.raises(NotFound, match="More than one"):
        library.get("abcd")
    assert library.get("abcd1").id == "abcd100000"


def test_finding(library: Library) -> None:
    library.add([turn(1, answer="STRASSE 100%"), turn(2, answer="other"), turn(3, session="s2", answer="third")])
    assert [e.answer for e in library.find()] == ["third", "other", "STRASSE 100%"]
    assert [e.answer for e in library.find(search="straße 100%")] == ["STRASSE 100%"]
    assert library.find(search="_") == []
    assert len(library.find(limit=2)) == 2
    library.rate([library.find()[0].id], 5)
    assert len(library.find(unrated=True)) == 2
    assert [e.session for e in library.last_session()] == ["s2"]


def test_lone_surrogates_are_stored(library: Library) -> None:
    [name], _ = library.add([turn(1, answer="cut emoji \ud83d here")])
    assert library.get(name).answer.startswith("cut emoji ")


@pytest.mark.parametrize("content", [b"not a database at all, only text " * 50, b"SQLite format 3\0" + b"\xff" * 2000])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.db"
    path.write_bytes(content)
    with Library(path) as library, pytest.raises(DataError):
        library.counts()
    assert path.read_bytes() == content


def test_a_newer_library_is_left_alone(library: Library) -> None:
    library.add([turn(1)])
    library._connection().execute(f"PRAGMA user_version = {VERSION + 1}")
    library.close()
    with pytest.raises(DataError, match="newer"):
        library.counts()


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from meton_plugins.finetune.library import Library
    from meton_plugins.finetune.turn import Turn

    with Library(Path(sys.argv[1])) as library:
        for number in range(int(sys.argv[3])):
            at = f"2026-03-02T09:00:00.{number:06}"
            shared = Turn(session="both", at=at, question=f"q{number}", answer="same")
            own = Turn(session=sys.argv[2], at=at, question=f"q{number}", answer="own")
            library.add([shared])
            [name], _ = library.add([own])
            library.rate([name], 1 + number % 5)
            print(name, 1 + number % 5, flush=True)
    """
)


def start(path: Path, session: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), session, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    writers = [start(path, session, 150) for session in ("a", "b")]
    ended = [(writer.communicate(timeout=60), writer.returncode) for writer in writers]
    assert [code for _, code in ended] == [0, 0], ended
    with Library(path) as library:
        counts = library.counts()
    assert counts.examples == 450
    assert counts.scores == dict.fromkeys(range(1, 6), 60)


def test_kill_9_loses_no_acknowledged_rating(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    told: dict[str, int] = {}
    for attempt in range(5):
        writer = start(path, f"s{attempt}", 100000)
        assert writer.stdout is not None
        for _ in range(3 + 7 * attempt):
            name, score = writer.stdout.readline().split()
            told[name] = int(score)
        time.sleep(0.001 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate(timeout=30)
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                told[line.split()[0]] = int(line.split()[1])
    with Library(path) as library:
        assert {name: library.get(name).score for name in told} == told
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def asked(number: int, instructions: str = "be Meton " * 7000, **more: object) -> Call:
    return Call.model_validate(
        {"instructions": instructions, "prompt": f"User Query: {number}", "completion": f"ANSWER: {number}", **more}
    )


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_calls_are_kept_and_their_instructions_stored_once(library: Library) -> None:
    calls = (asked(1), asked(2, origin="subagent"), asked(3, instructions="", model="m:7b"))
    ids, _ = library.add([turn(n, calls=calls) for n in range(20)])
    assert library.calls(ids[7]) == calls
    assert calls[0].whole == "be Meton " * 7000 + "User Query: 1"
    assert rows(library.path, "SELECT count(*) FROM instructions") == [(1,)]
    library.close()
    assert library.path.stat().st_size < 4 * 63_000, "instructions once, and an empty index"
    by_id = {e.id: e.steps for e in library.find(steps=True)}
    assert by_id[ids[3]] == ("ANSWER: 1", "ANSWER: 3")
    assert {e.steps for e in library.find()} == {()}


@pytest.mark.parametrize("first", ["file", "live"])
def test_a_turn_heard_and_found_in_a_file_is_one(library: Library, first: str) -> None:
    live = turn(1, calls=(asked(1),), tools=(ToolUse(name="t", input="{}", output="o"),))
    file = turn(1, tools=(ToolUse(name="t", output="o"),)).model_copy(update={"at": "2026-03-02T09:01:00.004213"})
    order = [file, live] if first == "file" else [live, file]
    assert library.take(order[0]) == library.take(order[1])
    [example] = library.find()
    assert library.calls(example.id) == live.calls
    assert example.tools == live.tools


@pytest.mark.parametrize(
    ("label", "score", "correction", "status"),
    [
        ({"failure": "the agent failed"}, None, None, "rejected"),
        ({"failure": "the agent failed"}, 5, None, "rejected"),
        ({"failure": "the agent failed"}, None, "Mine.", "usable"),
        ({"origin": "subagent"}, None, None, "candidate"),
    ],
)
def test_labels_decide_the_status(
    library: Library, label: dict[str, str], score: int | None, correction: str | None, status: str
) -> None:
    [name], _ = library.add([turn(1, **label)])
    if score:
        library.rate([name], score)
    if correction:
        library.fix(name, correction)
    example = library.get(name)
    assert (example.status, example.failure, example.origin) == (
        status,
        label.get("failure"),
        label.get("origin", "agent"),
    )
    counts = library.counts()
    assert {"usable": counts.usable, "candidate": counts.candidates, "rejected": counts.rejected}[status] == 1


def test_private_sessions_are_known_by_hash_only(library: Library) -> None:
    library.keep_out("s1")
    library.keep_out("s1")
    assert library.kept_out(["s1", "s2"]) == {"s1"}
    library.close()
    assert b"s1" not in library.path.read_bytes()


WORDS = 'def parse_config(path): reads the settings; CAFÉ, 東京都庁, 🦓🦓🦓, it\'s 100% "quoted" AND (odd) * NEAR/2 {x}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("parse_config", True), ("ARSE_CONF", True), ("config settings", True), ("settings parse_config", True),
        ("café", True), ("東京都", True), ("京都庁", True), ("都庁", True), ("🦓🦓🦓", True), ("it's", True),
        ("100%", True),
        ('"quoted"', True), ("AND (odd)", True), ("NEAR/2", True), ("{x}", True), ("* NEAR", True), ("x", True),
        ("parse_config nowhere", False), ("京東都", False), ("config*", False), ("nowhere OR settings", False),
        ('" OR settings OR "', False), ("question:parse", False), ("NOT nowhere", False), ("^def", False),
        ("_config' --", False), ("zz", False), ("", False), ("   ", False), ("\0settings", False), ("\ud83d", False),
    ],
)  # fmt: skip
def test_search_takes_the_text_as_it_is(library: Library, text: str, found: bool) -> None:
    [name], _ = library.add([turn(1, answer=WORDS)])
    library.add([turn(n, answer="something else entirely") for n in range(2, 9)])
    assert [hit.example.id for hit in library.search(text)] == ([name] if found else [])


def test_search_agrees_with_looking_at_each(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite has no index, it is the same answer, only slower."""
    pieces = [
        "import",
        "numpy",
        "as",
        "np",
        "Path",
        "open(",
        "with",
        "for x in",
        "日本語",
        "élan",
        "a-b",
        '"q"',
        "it's",
    ]
    random = Random(3)
    library.add(turn(n % 60, session=f"s{n}", answer=" ".join(random.choices(pieces, k=9))) for n in range(300))
    asked = [" ".join(random.choices(pieces, k=random.randint(1, 3))) for _ in range(40)]
    asked += [piece[1:4] for piece in pieces]
    fast = {text: {hit.example.id for hit in library.search(text, 1000)} for text in asked}
    assert sum(map(len, fast.values())) > 1000
    monkeypatch.setattr("meton_plugins.finetune.library.searching.candidates", lambda *_: None)
    monkeypatch.setattr("meton_plugins.finetune.library.searching.POOL", 1000)
    slow = {text: {hit.example.id for hit in library.search(text, 1000)} for text in asked}
    assert {text: len(names) for text, names in fast.items() if len(names) < 300} == {
        text: len(names) for text, names in slow.items() if len(fast[text]) < 300
    }
    assert all(fast[text] <= slow[text] for text in asked)


def test_the_best_match_comes_first_and_is_shown_where_it_stands(library: Library) -> None:
    texts = [
        "the settings file is read by parse_config",
        "parse_config parse_config parse_config",
        "misparse_configure",
        f"{'long ago ' * 50}we spoke of parse_config {'and more ' * 50}",
    ]
    ids, _ = library.add(turn(n, answer=text) for n, text in enumerate(texts))
    [asked], _ = library.add([turn(9, question="What does parse_config do?", answer="It reads.")])
    hits = library.search("parse_config")
    assert [hit.example.id for hit in hits][:2] == [asked, ids[1]]
    assert hits[-1].example.id == ids[2], "a part of a word is the last that was meant"
    for hit in hits:
        assert next(hit.piece.text[start:end] for start, end in hit.piece.marks) == "parse_config"
    long = next(hit for hit in hits if hit.example.id == ids[3])
    assert long.piece.text.startswith("… ")
    assert long.piece.text.endswith(" …")
    assert len(long.piece.text) < 250
    assert {hit.field for hit in hits} == {"question", "answer"}
    library.fix(ids[0], "the CORRECTED text names parse_config, too")
    [hit] = library.search("corrected")
    assert hit.field == "correction"
    assert [len(library.search("parse_config", limit)) for limit in (1, 3)] == [1, 3]


def sound(path: Path) -> None:
    """File and index are whole, and the index knows exactly the examples."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        ids = connection.execute("SELECT example FROM places ORDER BY 1").fetchall()
        assert ids == connection.execute("SELECT id FROM examples ORDER BY 1").fetchall()


def test_the_index_follows_every_change(library: Library) -> None:
    ids, _ = library.add(turn(n, answer=f"word{n:04} common") for n in range(40))
    library.fix(ids[3], "quite another text")
    library.fix(ids[3], "a third text")
    library.ask_instead(ids[4], "Is this edited?")
    library.bury(what := library.seek(ids[5:9]))
    library.purge(what)
    sound(library.path)
    assert library.search("quite another") == library.search("word0006") == []
    assert ids[4] not in [hit.example.id for hit in library.search("question 4", 100)]
    for text, name in (("third text", ids[3]), ("this edited", ids[4]), ("word0003", ids[3]), ("word0004", ids[4])):
        assert [hit.example.id for hit in library.search(text)] == [name]
    assert len(library.search("common", 100)) == 36
    library._connection().execute("DELETE FROM examples WHERE session = 's1' AND at < '2026-03-02T09:20'")
    library._connection().execute("VACUUM")
    library.add([turn(50, answer="after the numbers may have changed")])
    sound(library.path)
    assert len(library.search("common", 100)) == 20
    assert len(library.search("after the numbers")) == 1


@pytest.mark.parametrize(
    "answer",
    ["", "a", "a\0b and after", "🦓" * 9, "x" * 100_000, "é\u0301\u200b", "line\r\nline\ttab", "cut \ud83d here"],
)
def test_the_index_follows_odd_texts(library: Library, answer: str) -> None:
    [name], _ = library.add([turn(1, answer=answer)])
    sound(library.path)
    library.fix(name, f"{answer} mended")
    library.fix(name, f"{answer} again")
    sound(library.path)
    # SQLite ends a text at a NUL: what is behind it is kept, and not found.
    assert [hit.example.id for hit in library.search("again")] == ([] if "\0" in answer else [name])
    assert library.get(name).target.endswith("again")
    library.bury(what := library.seek([name]))
    library.purge(what)
    library.compact()
    sound(library.path)
    assert library.search("again") == []


def test_two_sessions_open_an_older_library_at_once(tmp_path: Path) -> None:
    path = tmp_path / "home" / "library.db"
    old_library(path, 2, turns=40)
    code = "import sys, pathlib; from meton_plugins.finetune.library import Library as L; "
    code += "print(len(L(pathlib.Path(sys.argv[1])).search('question', 99)))"
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["40\n"] * 3
    sound(path)


def test_without_the_index_nothing_is_lost(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite without FTS5 reads and writes the library; the next with it finds what was written meanwhile."""
    library.add([turn(1, answer="written before")])
    library.close()
    monkeypatch.setattr("meton_plugins.finetune.library.index._able", lambda _: False)
    library.add([turn(2, answer="written meanwhile")])
    library.fix(library.find()[1].id, "mended meanwhile")
    assert [len(library.search(text)) for text in ("written", "meanwhile", "mended")] == [2, 2, 1]
    library.compact()
    library.close()
    monkeypatch.undo()
    assert [len(library.search(text)) for text in ("written", "meanwhile", "mended")] == [2, 2, 1]
    sound(library.path)


def test_tags(library: Library) -> None:
    ids, _ = library.add(turn(n) for n in range(4))
    assert library.get(ids[0]).tags == ()
    assert [one.tags for one in library.tag(ids[:2], ["python", "web"])] == [("python", "web")] * 2
    library.tag(ids[1:3], ["web"], ["python"])
    assert library.tags() == {"python": 1, "web": 3}
    assert [one.id for one in library.find(tag="web")] == [ids[2], ids[1], ids[0]]
    assert library.find(tag="wEb' OR 1") == []
    with pytest.raises(NotFound):
        library.tag([ids[3], "0000000000"], ["web"])
    assert library.get(ids[3]).tags == ()


def test_another_question_is_still_known_by_its_old_words(library: Library) -> None:
    [name], _ = library.add([turn(1)])
    library.rate([name], 2)
    assert library.ask_instead(name, " Question one? ").question == "Question one?"
    assert library.get(name).score == 2
    assert library.add([turn(1)]) == ([], 1)
    with pytest.raises(DataError):
        library.ask_instead(name, "  ")
    library.bury(library.seek([name]))
    assert library.add([turn(1), turn(1, session="s9"), turn(1, session="s9", question="Question one?")]) == ([], 0)


def old_library(path: Path, version: int, turns: int = 3) -> None:
    """A library as that version made it."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for step in MIGRATIONS[:version]:
            for statement in step:
                connection.execute(statement)
        for number in range(turns):
            one = turn(number)
            connection.execute(
                "INSERT INTO examples (id, identity, session, at, source, question, answer, context, tools, score,"
                " added_at) VALUES (?, ?, ?, ?, 'meton', ?, ?, '[]', '[]', ?, '')",
                (identity(one)[:10], identity(one), one.session, one.at, one.question, one.answer, 3 + number % 3),
            )
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_older_library_is_copied_and_upgraded(tmp_path: Path, version: int) -> None:
    path = tmp_path / "home" / "library.db"
    old_library(path, version)
    with Library(path) as library:
        assert sorted(e.score or 0 for e in library.find()) == [3, 4, 5]
        assert library.add([turn(n, calls=(asked(n),)) for n in range(4)])[1] == 3
        assert all(library.calls(e.id) for e in library.find())
    copy = path.with_name(f"library.v{version}.db")
    assert copy == backup_of(path, version)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert rows(copy, "PRAGMA user_version") == [(version,)]
    assert rows(copy, "SELECT count(*), sum(score) FROM examples") == [(3, 12)]
    assert rows(path, "PRAGMA user_version") == [(VERSION,)]
    sound(path)
    with Library(path) as library:
        assert [hit.example.question for hit in library.search("question 1")] == ["Question 1?"]
        assert len(library.search("use it")) == 4
        assert library.tag([library.find()[0].id], ["new"])[0].tags == ("new",)
    assert {p.name for p in path.parent.glob("*tmp*")} == set()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "home" / "library.db"
    old_library(path, 1)
    broken = (MIGRATIONS[0], (*MIGRATIONS[1], "CREATE NONSENSE"))
    monkeypatch.setattr("meton_plugins.finetune.library.schema.MIGRATIONS", broken)
    with Library(path) as library, pytest.raises(DataError):
        library.counts()
    assert rows(path, "PRAGMA user_version") == [(1,)]
    monkeypatch.undo()
    with Library(path) as library:
        assert library.counts().examples == 3


def test_a_new_library_leaves_no_copy(library: Library) -> None:
    library.add([turn(1)])
    assert {p.name.split("-")[0] for p in library.path.parent.iterdir()} == {"library.db"}
