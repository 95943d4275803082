"""A backup holds what cannot be made again, and restoring brings it back whole or changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.typed import Typed, plain_run

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.schema import VERSION
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.serve import restore as service
from meton_plugins.finetune.serve.backup import RECORD, wanted
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.train.lock import run_lock
from meton_plugins.finetune.train.runs import all_runs
from meton_plugins.finetune.turn import Turn


def turn(number: int) -> Turn:
    at = f"2026-03-{number + 1:02}T10:00:00"
    return Turn(session=f"s{number % 9}", at=at, question=f"What is {number}?", answer=f"It is {number}, no doubt.")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with something of everything. To be copied."""
    home = Home(tmp_path_factory.mktemp("full") / "home").make()
    with Library(home.library) as library:
        ids, _ = library.add(turn(number) for number in range(27))
        library.rate(ids, 5)
        library.tag(ids[:3], ["first"])
        library.keep_out("secret session")
        for form in ("plain", "meton"):
            frozen = dataset.build(library, BuildSettings(form=form), home.datasets, name=form)
    for name in ("one", "two"):
        run = plain_run(home, name, home.datasets / frozen.id)
        (run.folder / "engine.log").write_text("noise")
        (run.folder / "events.jsonl").write_text('{"event": "begin"}\n')
    home.settings.write_text('base = "qwen2.5-coder:7b"\n')
    home.history.write_text('{"id": "1"}\n')
    write_json(home.told, {"harvest": True})
    write_json(private_dir(private_dir(home.models) / "one") / "export.json", {"run": "one"})
    (home.models / "one" / "one-f16.gguf").write_bytes(b"GGUF" * 1000)
    (home.root / "library.v1.db").write_bytes(b"old")
    os.utime(home.datasets / frozen.id / "manifest.json", (1, 1))
    return home.root


@pytest.fixture
def typed(full: Path, home: Path) -> Typed:
    """A user in front of a copy of it."""
    shutil.copytree(full, home)
    return Typed(home)


@pytest.fixture
def kept(typed: Typed, tmp_path: Path) -> Path:
    """A backup of it."""
    typed(f"backup {tmp_path}/kept.zip")
    return tmp_path / "kept.zip"


def content(root: Path) -> dict[str, Any]:
    """All that a backup should bring back: bytes and times of files, and what the library says."""
    files = {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(("library.db", "told.json")) and path.suffix != ".lock"
    }
    with Library(Home(root).library) as library:
        rows = [example.model_dump() for example in library.find()]
        return {**files, "library": (rows, library.tags(), library.private_sessions(), library.tombstones())}


def test_there_and_back(typed: Typed, kept: Path) -> None:
    before = content(typed.home.root)
    latest, names = dataset.resolve(typed.home), dataset.names(typed.home)
    shutil.rmtree(typed.home.root)
    said = typed(f"restore {kept}")
    assert "one  finished" in said
    assert "two  finished" in said
    after = content(typed.home.root)
    left_out = {
        "library.v1.db", "models/one/one-f16.gguf",
        *(f"runs/{name}/engine.log" for name in ("one", "two")),
        *(f"runs/{name}/checkpoints/step_00000001/adapter.gguf" for name in ("one", "two")),
    }  # fmt: skip
    assert after == {name: value for name, value in before.items() if name not in left_out}
    assert (dataset.resolve(typed.home), dataset.names(typed.home)) == (latest, names)
    assert [run.name for run in all_runs(typed.home.runs)] == ["one", "two"]
    for path in typed.home.root.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    with Library(typed.home.library) as library:
        assert len(library.search("doubt", 50)) == 27, "the index came along"
        assert library.add([Turn(session="s0", at="", question="What is 0?", answer="It is 0, no doubt.")])[1] == 1


def test_the_archive_is_private_and_says_what_it_is(typed: Typed, tmp_path: Path) -> None:
    (typed.home.root / "elsewhere").symlink_to(tmp_path)
    said = typed.json(f"backup {tmp_path}")
    path = Path(said["file"])
    assert path.parent == tmp_path
    assert path.name.startswith("meton-finetune-2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (said["bytes"], said["runs"], said["datasets"]) == (path.stat().st_size, 2, 2)
    assert said["links"] == ["elsewhere"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        record = json.loads(archive.read(RECORD))
        assert record["library"] == VERSION
        for entry in record["files"]:
            raw = archive.read(f"home/{entry['path']}")
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert [left.name for left in tmp_path.iterdir() if left.name.startswith(".")] == []
    assert list(typed.home.root.glob(".*")) == []
    assert "KB" in typed(f"backup {tmp_path}/other.zip")


def test_a_library_in_use_is_whole_in_it(typed: Typed, tmp_path: Path) -> None:
    with Library(typed.home.library) as writer:
        name = writer.find()[0].id
        writer.rate([name], 2)  # still in the write-ahead log
        typed(f"backup {tmp_path}/kept.zip")
        writer.rate([name], 3)
    shutil.rmtree(typed.home.root)
    typed(f"restore {tmp_path}/kept.zip")
    assert typed.json(f"show {name}")["score"] == 2


@pytest.mark.parametrize(
    ("target", "says"),
    [("{tmp}/there.zip", "already"), ("{home}/in.zip", "lies in the data folder"), ("{tmp}/no/where.zip", "no folder")],
)
def test_where_no_backup_may_be(typed: Typed, tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "there.zip").write_text("mine")
    assert says in typed(
        f"backup {target.format(tmp=tmp_path, home=typed.home.root)}", code=2 if "no/" not in target else 1
    )
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_nothing_to_back_up(home: Path, tmp_path: Path) -> None:
    assert "nothing" in Typed(home)(f"backup {tmp_path}/kept.zip", code=1)


def test_a_backup_that_fails_leaves_nothing(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipfile.ZipFile.writestr", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert "No space left" in typed(f"backup {tmp_path}/kept.zip", code=1)
    assert [path.name for path in tmp_path.iterdir() if "kept" in path.name] == []


def test_one_thing_is_counted_as_one(home: Path, tmp_path: Path) -> None:
    typed = Typed(home)
    with Library(typed.home.make().library) as library:
        library.rate(library.add([turn(0)])[0], 5)
    typed("build --form plain")
    said = typed(f"backup {tmp_path}/one.zip")
    assert " of 1 dataset and 0 runs;" in said
    assert "No two of 1 example are alike" in typed("duplicates")
    assert "to train: 1 row, 1 example the same" in typed("diff latest latest")


def test_a_backup_that_is_none_is_said_before_force_is_asked_for(typed: Typed, kept: Path) -> None:
    assert "There is no file" in typed(f"restore {kept}.gone", code=1)
    kept.write_bytes(kept.read_bytes()[:-100])
    said = typed(f"restore {kept}", code=1)
    assert "is damaged or no backup" in said
    assert "--force" not in said


def test_data_is_replaced_only_with_force_and_kept(typed: Typed, kept: Path) -> None:
    with Library(typed.home.library) as library:
        library.add([Turn(session="new", at="2026-05-01", question="Newer?", answer="Yes, newer.")])
    assert "--force" in typed(f"restore {kept}", code=2)
    assert typed.json("stats")["examples"] == 28
    said = typed.json(f"restore {kept} --force")
    assert typed.json("stats")["examples"] == 27
    with Library(Path(said["kept"]) / "library.db") as library:
        assert library.counts().examples == 28
    assert said["runs"] == ["one", "two"]


@pytest.mark.parametrize("made", ["nothing", "empty folder", "told", "empty library"])
def test_a_folder_without_data_is_replaced(typed: Typed, kept: Path, made: str) -> None:
    root = typed.home.root
    shutil.rmtree(root)
    if made != "nothing":
        private_dir(root / "runs")
    if made == "told":
        write_json(typed.home.told, {"harvest": True})
    if made == "empty library":
        typed("stats")
        assert typed.home.library.exists()
    said = typed.json(f"restore {kept}")
    assert said["kept"] is None
    assert typed.json("stats")["examples"] == 27
    assert [path.name for path in root.parent.iterdir() if "restore" in path.name] == []


@pytest.mark.parametrize("file", ["tombstone", "private", "settings", "run", "foreign"])
def test_little_data_is_data(typed: Typed, kept: Path, file: str) -> None:
    root = typed.home.root
    shutil.rmtree(root)
    typed.home.make()
    with Library(typed.home.library) as library:
        if file == "tombstone":
            library.obey({"a": "now"})
        if file == "private":
            library.keep_out("s")
    if file in ("settings", "foreign"):
        (root / ("settings.toml" if file == "settings" else "letter.txt")).write_text("")
    if file == "run":
        private_dir(private_dir(typed.home.runs) / "one")
    assert "--force" in typed(f"restore {kept}", code=2)


def test_what_was_forgotten_since_does_not_come_back(typed: Typed, kept: Path) -> None:
    with Library(typed.home.library) as library:
        name = library.find()[0].id
        library.keep_out("another")
    typed(f"forget {name} --yes")
    said = typed.json(f"restore {kept} --force")
    assert said["forgotten"] == 1
    with Library(typed.home.library) as library:
        assert library.counts().examples == 26
        assert library.tombstones()
        assert len(library.private_sessions()) == 2
        assert library.unfinished() == ()
    lines = [line for path in typed.home.datasets.glob("*/*.jsonl") for line in path.read_text().splitlines()]
    assert lines
    assert name not in {json.loads(line)["id"] for line in lines}
    receipt = typed.json(f"forget {typed.json('list')[0]['id']} --yes")
    assert {str(kept), said["kept"]} <= set(receipt["backups"])


def test_a_run_at_work_is_not_pulled_from_under(typed: Typed, kept: Path) -> None:
    with run_lock(typed.home.runs / "two"):
        assert "/finetune stop two" in typed(f"restore {kept} --force", code=1)


def rewrite(source: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], **more: Any) -> None:
    """Make the archive anew with other members; `change` gets them and the record."""
    with zipfile.ZipFile(source) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    record = json.loads(members.pop(RECORD))
    change(members, record)
    with zipfile.ZipFile(source, "w", more.get("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, raw in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = more.get("modes", {}).get(name, 0o100600) << 16
            info.compress_type = more.get("compression", zipfile.ZIP_DEFLATED)
            archive.writestr(info, raw)
        archive.writestr(RECORD, json.dumps(record))


def add(path: str, raw: bytes = b"hostile") -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """A member more, as the record lists it."""

    def change(members: dict[str, bytes], record: dict[str, Any]) -> None:
        members[f"home/{path}"] = raw
        sha256 = hashlib.sha256(raw).hexdigest()
        record["files"].append({"path": path, "bytes": len(raw), "sha256": sha256, "mtime_ns": 1})

    return change


def setting(**values: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda members, record: record.update(values)


def entry(name: str, **values: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def change(members: dict[str, bytes], record: dict[str, Any]) -> None:
        next(one for one in record["files"] if one["path"] == name).update(values)

    return change


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "up": lambda path: rewrite(path, add("../evil.txt")),
    "up inside": lambda path: rewrite(path, add("runs/../../evil.txt")),
    "absolute": lambda path: rewrite(path, add("/tmp/evil.txt")),
    "backslash": lambda path: rewrite(path, add("..\\evil.txt")),
    "drive": lambda path: rewrite(path, add("C:evil.txt")),
    "newline": lambda path: rewrite(path, add("runs/a\nb")),
    "dot": lambda path: rewrite(path, add("./evil.txt")),
    "hidden": lambda path: rewrite(path, add(".bashrc")),
    "deep": lambda path: rewrite(path, add("a/" * 40 + "b")),
    "write-ahead log": lambda path: rewrite(path, add("library.db-wal")),
    "checkpoint": lambda path: rewrite(path, add("runs/one/checkpoints/x.npz")),
    "file and folder": lambda path: rewrite(path, add("settings.toml/x")),
    "link": lambda path: rewrite(path, lambda m, r: None, modes={"home/settings.toml": 0o120777}),
    "device": lambda path: rewrite(path, lambda m, r: None, modes={"home/settings.toml": 0o020666}),
    "odd compression": lambda path: rewrite(path, lambda m, r: None, compression=zipfile.ZIP_LZMA),
    "unlisted": lambda path: rewrite(path, lambda m, r: m.update({"home/more.txt": b"x"})),
    "outside": lambda path: rewrite(path, lambda m, r: m.update({"evil.txt": b"x"})),
    "missing": lambda path: rewrite(path, lambda m, r: m.pop("home/settings.toml")),
    "other bytes": lambda path: rewrite(path, lambda m, r: m.update({"home/settings.toml": b"q" * 26})),
    "other hash": lambda path: rewrite(path, entry("settings.toml", sha256="0" * 64)),
    "other size": lambda path: rewrite(path, entry("settings.toml", bytes=1)),
    "too large": lambda path: rewrite(path, entry("settings.toml", bytes=10**15)),
    "listed twice": lambda path: rewrite(path, lambda m, r: r["files"].append(r["files"][0])),
    "newer": lambda path: rewrite(path, setting(version=2)),
    "newer library": lambda path: rewrite(path, setting(library=VERSION + 1)),
    "other product": lambda path: rewrite(path, setting(product="photos")),
    "no list": lambda path: rewrite(path, setting(files="all")),
    "broken library": lambda path: rewrite(path, lambda m, r: (m.pop("home/library.db"), r.update(
        files=[one for one in r["files"] if one["path"] != "library.db"]), add("library.db", b"x" * 5000)(m, r))),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a letter"),
    "one bit": lambda path: flip(path),
    "twice": lambda path: twice(path),
}  # fmt: skip


def flip(path: Path) -> None:
    """A bit of the library changed, within the archive's own stream."""
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("home/library.db").header_offset + 400
    raw = bytearray(path.read_bytes())
    raw[place] ^= 8
    path.write_bytes(bytes(raw))


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("home/settings.toml", b"another")


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_archive_changes_nothing(typed: Typed, kept: Path, spoil: Callable[[Path], Any]) -> None:
    before = content(typed.home.root)
    beside = sorted(path.name for path in kept.parent.iterdir())
    spoil(kept)
    said = typed(f"restore {kept} --force", code=1)
    assert str(kept) in said
    assert "Unexpected" not in said
    assert content(typed.home.root) == before
    assert sorted(path.name for path in kept.parent.iterdir()) == beside
    assert not Path("/tmp/evil.txt").exists()


def test_the_spoiling_itself_spoils_nothing(typed: Typed, kept: Path) -> None:
    """Each case above fails for its own reason: made anew without a change, the archive is good."""
    rewrite(kept, add("notes/mine.txt"))
    typed(f"restore {kept} --force")
    assert (typed.home.root / "notes" / "mine.txt").read_bytes() == b"hostile"


def test_a_restore_that_fails_at_the_end_puts_the_old_folder_back(
    typed: Typed, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(typed.home.root)
    real = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".restore-" in self.name:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert "Input/output error" in typed(f"restore {kept} --force", code=1)
    assert content(typed.home.root) == before


def test_what_a_killed_restore_unpacked_is_removed_by_the_next(typed: Typed, kept: Path) -> None:
    left = private_dir(typed.home.root.parent / ".home.restore-killed")
    fresh = private_dir(typed.home.root.parent / ".home.restore-living")
    os.utime(left, (1, 1))
    typed(f"restore {kept} --force")
    assert not left.exists()
    assert fresh.exists()
    assert service.STALE_SECONDS > 600


def test_a_full_disk_is_seen_before_anything_is_unpacked(
    typed: Typed, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    before = content(typed.home.root)
    assert "only 0 MB are free" in typed(f"restore {kept} --force", code=1)
    assert content(typed.home.root) == before


@pytest.mark.parametrize("year", [1970, 2150])
def test_times_that_no_zip_knows_come_back(typed: Typed, tmp_path: Path, year: int) -> None:
    when = (year - 1970) * 31_556_952 * 10**9 + 10**9
    os.utime(typed.home.settings, ns=(when, when))
    typed(f"backup {tmp_path}/kept.zip")
    typed(f"restore {tmp_path}/kept.zip --force")
    assert typed.home.settings.stat().st_mtime_ns == when


def test_no_such_file(home: Path) -> None:
    assert "no file" in Typed(home)("restore nowhere.zip", code=1)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("library.db", True), ("library.db-wal", False), ("library.v2.db", False), ("settings.toml", True),
        ("split.lock", False), ("runs/one/best.gguf", True), ("runs/one/adapter.gguf", True),
        ("runs/one/start.gguf", True), ("recipes/mine.toml", True), ("runs/one/learned.json", True),
        ("runs/one/dataset/train.jsonl", True), ("runs/one/checkpoints/step_1/adapter.gguf", False),
        ("runs/one/checkpoints/step_1/position.json", False), ("models/one/one-q4.gguf", False),
        ("models/one/v1.json", True), ("runs/one/engine.log", False), ("datasets/.a.tmp/train.jsonl", False),
        ("templates/modelfiles/mine.Modelfile", True), ("runs/checkpoints/run.json", True),
    ],
)  # fmt: skip
def test_what_is_in_a_backup(path: str, kept: bool) -> None:
    assert wanted(path) is kept
