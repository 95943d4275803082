"""`/model-register retire`, against a real Ollama: what may go, what must stay and why, and what history says after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import ollama_fixtures

from meton_plugins.finetune import tools
from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.gguf.inspect import sha256_of
from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.serve import register as registering
from meton_plugins.finetune.serve.export_record import Export, ExportedFile, read_export
from meton_plugins.finetune.serve.history import History
from meton_plugins.finetune.serve.modelfile import Modelfile
from meton_plugins.finetune.serve.ollama import Server
from meton_plugins.finetune.serve.register import Registered, list_registered, register
from meton_plugins.host.config_file import ConfigFile
from tests.support.host import RecordingHost

# Not as a plugin: that would be every module's, and others have a `server` too.
url, server = ollama_fixtures.url, ollama_fixtures.server

CONFIG = "# mine\nmodels:\n  primary: big:32b\n  fallback: small:8b\n"


@pytest.fixture
def host(home: Path, tmp_path: Path, url: str) -> RecordingHost:
    (tmp_path / "config.yaml").write_text(CONFIG)
    Home(home).make().settings.write_text(f'[serve]\nollama_host = "{url}"\n')
    return RecordingHost(home, slots=ConfigFile(tmp_path / "config.yaml"), name="console", width=200)


@pytest.fixture
def versions(server: Server, home: Path) -> list[Registered]:
    """Three versions of `house`, each an export of its own, with a base that the server has."""
    place = Home(home)
    folder = private_dir(place.models / "house")
    files, found = [], []
    for seed, quant in enumerate(("q8_0", "q4_k_m", "f16")):
        path = make_tiny(folder / f"house-{quant}.gguf", TinyShape(seed=seed))
        files.append(ExportedFile(quant=quant, path=str(path), sha256=sha256_of(path), bytes=path.stat().st_size))
        notes = {"run": "house", "quant": quant, "base": {"name": "base:7b"}}
        found.append(register(server, place, path, "house", Modelfile(system=quant), notes=notes))
    export = Export(run="house", base={}, adapter_sha256="0", template="basic", created="2026", files=files)
    write_json(folder / "export.json", export.model_dump())
    server.copy(found[0].tag, "base:7b")
    return found


def run(host: RecordingHost, line: str) -> int:
    host.clear()
    return model_register.make(host).run(line)


def promoted(host: RecordingHost, *models: str, slot: str = "primary") -> None:
    """Put `models` into a slot, one after the other, as the user would."""
    for model in models:
        assert run(host, f"promote {model} --slot {slot} --yes --force") == 0, host.output


def names(server: Server) -> set[str]:
    return {model.name for model in server.models()} - {"base:7b"}


def retired(home: Path) -> list[str]:
    return [made.tag for made in list_registered(Home(home)) if made.retired]


# What goes


def test_all_that_nothing_needs_goes_after_asking(
    host: RecordingHost, server: Server, versions: list[Registered], home: Path
) -> None:
    old, middle, new = (made.tag for made in versions)
    promoted(host, old, middle, new)
    host._answers = iter([True, True])
    assert run(host, "retire") == 0
    # The new one answers, and rollback gives the middle one back.
    assert host.asked[-2] == "Remove 1 model from the Ollama server, which frees up to 426 KB there?"
    assert f"{old}  426 KB, registered 20" in host.output
    assert f"Retired {old}." in host.output
    assert f"{new} stays: primary holds it." in host.output
    assert f"{middle} stays: rollback gives it back to primary of" in host.output
    assert names(server) == {middle, new, "meton-house:latest"}
    assert retired(home) == [old]

    # Its exported file went with it, and export.json does not speak of it.
    assert host.asked[-1].startswith("Delete 1 exported file too (426 KB)? /export model writes it again.")
    assert not Path(versions[0].gguf).exists()
    export = read_export(home / "models" / "house")
    assert export is not None
    assert [file.quant for file in export.files] == ["q4_k_m", "f16"]

    # The manifest stays, list and history say so, and no way leads back there.
    assert run(host, "list") == 0
    assert [line.split()[-1] for line in host.output.splitlines() if old in line] == ["retired"]
    assert run(host, "history") == 0
    assert f"big:32b → {old} (gone)" in host.output
    assert f"{old} (gone) → {middle}  (promoted, forced: " in host.output
    assert run(host, "rollback --steps 2") == 1
    assert host.output.startswith(f"✗ 2 steps back primary held {old}, which was retired on 20")
    assert "choose another number of --steps" in host.output
    assert host.slots is not None
    assert host.slots.read()["primary"] == new
    assert run(host, "rollback --steps 3") == 0
    assert host.slots.read()["primary"] == "big:32b"


def test_one_by_its_name_and_again(host: RecordingHost, server: Server, versions: list[Registered], home: Path) -> None:
    assert run(host, f"retire {versions[1].tag} --yes") == 0
    assert names(server) == {versions[0].tag, versions[2].tag, "meton-house:latest"}
    assert Path(versions[1].gguf).exists(), "--yes alone deletes no file"
    assert run(host, f"retire {versions[1].tag} --yes") == 1
    assert "was retired on 20" in host.output
    # Registered again it is as it was, under its own name.
    again = register(server, Home(home), Path(versions[1].gguf), "house", Modelfile(system="q4_k_m"))
    assert (again.tag, again.retired) == (versions[1].tag, None)
    assert retired(home) == []
    assert versions[1].tag in names(server)


def test_the_alias_moves_to_the_newest_that_is_left(
    host: RecordingHost, server: Server, versions: list[Registered]
) -> None:
    assert run(host, f"retire {versions[2].tag} --yes --files") == 0
    assert "Deleted 1 exported file (426 KB)." in host.output
    assert server.show("meton-house:latest").system == "q4_k_m"
    assert run(host, "retire --yes") == 0
    assert names(server) == set(), "the last version takes the alias with it"
    assert run(host, "retire --yes") == 0
    assert "No registered model can go." in host.output


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [([False], 1, "Nothing was removed."), ([None], 2, "add --yes to do it")],
    ids=["no", "nobody"],
)
def test_without_a_yes_nothing_goes(
    host: RecordingHost, server: Server, versions: list[Registered], answers: list[Any], code: int, words: str
) -> None:
    host._answers = iter(answers)
    assert run(host, "retire") == code
    assert words in host.output
    assert {made.tag for made in versions} < names(server)


def test_no_to_the_files_keeps_them(host: RecordingHost, server: Server, versions: list[Registered]) -> None:
    host._answers = iter([True, False])
    assert run(host, f"retire {versions[1].tag}") == 0
    assert Path(versions[1].gguf).exists()


def test_as_json(host: RecordingHost, server: Server, versions: list[Registered]) -> None:
    promoted(host, versions[2].tag)
    host.json = True
    assert run(host, "retire --yes") == 0
    said = host.last_json()
    assert said["retired"] == [made.tag for made in versions[:2]]
    assert said["stay"] == [{"model": versions[2].tag, "reason": "primary holds it"}]
    assert (list(said["files"]), said["files_deleted"]) == ([made.gguf for made in versions[:2]], False)


# What stays


def test_each_reason_to_stay(
    host: RecordingHost, server: Server, versions: list[Registered], tmp_path: Path, home: Path
) -> None:
    old, middle, new = (made.tag for made in versions)
    promoted(host, middle, new)
    promoted(host, old, slot="fallback")
    for line, words in (
        (new, f"{new} stays: primary holds it. Nothing was removed."),
        (old, f"{old} stays: fallback holds it."),
        (f"{old} {middle}", f"{old} stays: fallback holds it."),
        (middle, f"{middle} stays: rollback gives it back to primary of {tmp_path / 'config.yaml'}."),
        ("base:7b", "base:7b stays: it is a base, and tuned models such as meton-house:v"),
        ("meton-house:latest", "is another name of the newest version: name versions, such as meton-house:v1-"),
        (
            "theirs:7b",
            "/model-register made no theirs:7b, so it removes none: `ollama rm theirs:7b` removes any model.",
        ),
    ):
        assert run(host, f"retire {line} --yes") == 2
        assert words in host.output
    assert retired(home) == []
    assert {old, middle, new} < names(server)


def test_what_somebody_took_out_of_a_slot_by_hand_may_go(
    host: RecordingHost, server: Server, versions: list[Registered]
) -> None:
    promoted(host, versions[0].tag, versions[1].tag)
    assert host.slots is not None
    host.slots.write("primary", "mine:1b", expected=versions[1].tag)
    assert run(host, "rollback") == 1, "no way leads back from there"
    host.clear()
    assert run(host, f"retire {versions[0].tag} {versions[1].tag} --yes") == 0
    assert names(server) == {versions[2].tag, "meton-house:latest"}


def test_a_slot_that_holds_the_alias_holds_its_version(
    host: RecordingHost, server: Server, versions: list[Registered]
) -> None:
    assert host.slots is not None
    host.slots.write("primary", "meton-house:latest", expected="big:32b")
    assert run(host, f"retire {versions[2].tag} --yes") == 2
    assert "stays: primary holds it" in host.output
    assert run(host, f"retire {versions[1].tag} --yes") == 0


def test_another_checkouts_slots_count_too(
    host: RecordingHost, server: Server, versions: list[Registered], tmp_path: Path, home: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG)
    host.slots, mine = ConfigFile(other), host.slots
    promoted(host, versions[0].tag)
    host.slots = mine
    assert run(host, f"retire {versions[0].tag} --yes") == 2
    assert f"stays: primary of {other} was given it" in host.output
    other.unlink()
    assert run(host, f"retire {versions[0].tag} --yes") == 0


def test_a_model_that_a_run_was_trained_on(
    host: RecordingHost, server: Server, versions: list[Registered], home: Path
) -> None:
    """Ollama's own copy may be the very file that such a run needs for its export."""
    folder = private_dir(home / "runs" / "next")
    base = {"path": "/blobs/sha256-1", "sha256": versions[1].sha256, "architecture": "qwen3", "parameters": 1}
    record = {"name": "next", "created": "2026", "base": {**base, "size": 1, "mtime_ns": 1}, "dataset": "d"}
    record |= {"learned": "last", "examples": {}, "settings": {}, "template": "basic", "system": "", "threads": 1}
    write_json(folder / "run.json", record)
    assert run(host, f"retire {versions[1].tag} --yes") == 2
    assert "stays: the run next was trained on it" in host.output


def test_a_broken_configuration_stops_everything(
    host: RecordingHost, server: Server, versions: list[Registered]
) -> None:
    assert host.slots is not None
    host.slots.path.write_text("models: [")
    assert run(host, "retire --yes") == 1
    assert "is not YAML" in host.output
    assert {made.tag for made in versions} < names(server)


def test_a_file_of_the_users_own_is_never_deleted(
    host: RecordingHost, server: Server, home: Path, tmp_path: Path
) -> None:
    own = make_tiny(tmp_path / "own.gguf")
    made = register(server, Home(home), own, "own", Modelfile())
    assert run(host, f"retire {made.tag} --yes --files") == 0
    assert own.exists()
    assert names(server) == set()


def test_a_file_that_another_version_needs_stays(
    host: RecordingHost, server: Server, versions: list[Registered], home: Path
) -> None:
    twin = register(server, Home(home), Path(versions[0].gguf), "house", Modelfile(system="other"))
    assert run(host, f"retire {versions[0].tag} --yes --files") == 0
    assert Path(twin.gguf).exists()
    assert twin.tag in names(server)


# Accidents


@pytest.mark.parametrize("point", ["copy", "delete", "manifest"])
def test_killed_in_the_middle_then_once_more(
    host: RecordingHost,
    server: Server,
    versions: list[Registered],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    def killed(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    tag = versions[2].tag
    with monkeypatch.context() as patch:
        if point == "manifest":
            patch.setattr(registering, "write_json", killed)
        else:
            patch.setattr(Server, point, killed)
        assert run(host, f"retire {tag} --yes") == 130
    assert retired(home) == []
    assert run(host, f"retire {tag} --yes") == 0
    assert retired(home) == [tag]
    assert names(server) == {versions[0].tag, versions[1].tag, "meton-house:latest"}
    assert server.show("meton-house:latest").system == "q4_k_m"


def test_what_somebody_removed_by_hand_is_marked(
    host: RecordingHost, server: Server, versions: list[Registered], home: Path
) -> None:
    server.delete(versions[0].tag)
    host._answers = iter([True, False])
    assert run(host, f"retire {versions[0].tag}") == 0
    assert "the server does not have it any more" in host.output
    assert retired(home) == [versions[0].tag]


def test_with_the_server_away(home: Path) -> None:
    Home(home).make().settings.write_text('[serve]\nollama_host = "127.0.0.1:1"\n')
    host = RecordingHost(home)
    assert run(host, "retire --yes") == 1
    assert "start it with `ollama serve`" in host.output


# By the assistant


def test_the_assistant_may_after_the_user_agreed(
    host: RecordingHost, server: Server, versions: list[Registered], home: Path
) -> None:
    from meton_plugins.finetune.plugin import commands_for

    tool = next(spec for spec in tools.make(host, commands_for) if spec.name == "model_retire")
    ask = json.dumps({"model": versions[0].tag})
    assert tool.run("").startswith("✗ model_retire needs model")
    host._answers = iter([False, True])
    assert tool.run(ask) == "Not done: the user said no."
    assert tool.run(ask).startswith(f"Retired {versions[0].tag}.")
    assert "wants to remove a model from the Ollama server (/model-register retire" in host.asked[-1]
    assert retired(home) == [versions[0].tag]
    assert Path(versions[0].gguf).exists()


def test_history_says_who(host: RecordingHost, server: Server, versions: list[Registered]) -> None:
    from meton_plugins.finetune.plugin import commands_for

    promoted(host, versions[0].tag)
    tool = next(spec for spec in tools.make(host, commands_for) if spec.name == "model_rollback")
    host._answers = iter([True])
    tool.run('{"slot": "primary"}')
    by_hand, by_agent = History(Home(host.data_dir).history).swaps()
    assert by_hand.who.endswith(" in console")
    assert by_agent.who == f"{by_hand.who} agent"
    assert run(host, "history") == 0
    assert f"(rollback, {by_agent.who})" in host.output
