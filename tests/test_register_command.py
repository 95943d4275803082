"""`/model-register`, as a user types it, against a real Ollama."""

from __future__ import annotations

import hashlib
import json
import re
from io import StringIO
from pathlib import Path
from time import sleep

import httpx
import pytest
from rich.console import Console
from support import ollama_fixtures

from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.commands.progress import bar
from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.report.health import unfinished
from meton_plugins.finetune.serve.ollama import Server
from meton_plugins.host.config_file import ConfigFile
from tests.support.host import RecordingHost
from tests.support.models import rewrite

# Not as a plugin: that would be every module's, and others have a `server` too.
url, server = ollama_fixtures.url, ollama_fixtures.server

CONFIG = "# mine\nmodels:\n  primary: big:32b\n  fallback: small:8b\n"


@pytest.fixture
def exported(home: Path) -> Path:
    """The export of a run `house`, as `/export model` leaves it."""
    folder = Home(home).make().models / "house"
    folder.mkdir(parents=True)
    files = []
    for seed, quant in enumerate(("q8_0", "q4_k_m")):
        path = make_tiny(folder / f"house-{quant}.gguf", TinyShape(seed=seed))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append({"quant": quant, "path": str(path), "sha256": digest, "bytes": path.stat().st_size})
    base = {"path": "/nowhere.gguf", "name": None, "sha256": "0" * 64}
    export = {"run": "house", "base": base, "template": "explainer", "files": files}
    (folder / "export.json").write_text(json.dumps({**export, "adapter_sha256": "0", "created": "2026-11-22"}))
    return folder


@pytest.fixture
def offline(home: Path, tmp_path: Path) -> RecordingHost:
    """A host whose Ollama server is away."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    Home(home).make().settings.write_text('[serve]\nollama_host = "127.0.0.1:1"\n')
    return RecordingHost(home, slots=ConfigFile(tmp_path / "config.yaml"))


@pytest.fixture
def host(offline: RecordingHost, server: Server, url: str) -> RecordingHost:
    (offline.data_dir / "settings.toml").write_text(f'[serve]\nollama_host = "{url}"\n')
    return offline


def run(host: RecordingHost, line: str) -> int:
    host.clear()
    return model_register.make(host).run(line)


def test_register_promote_roll_back(host: RecordingHost, exported: Path) -> None:
    assert run(host, "house --slot primary --yes --force --quant q8_0") == 0
    assert "Registered meton-house:v1-" in host.output
    assert "PARAMETER temperature 0.6 is overridden by Meton" in host.output
    assert "primary: big:32b → meton-house:v1-" in host.output
    assert host.slots is not None
    tag = host.slots.read()["primary"]
    assert tag in host.slots.path.read_text()
    assert host.slots.path.read_text().startswith("# mine\n")

    host.json = True
    assert run(host, "add house --quant q8_0") == 0
    made = host.last_json()["model"]
    assert (made["tag"], made["fresh"]) == (tag, False)
    assert (made["notes"]["run"], made["notes"]["template"]) == ("house", "explainer")
    assert run(host, "list") == 0
    assert [(row["model"], row["slot"], row["server"]) for row in host.last_json()] == [(tag, "primary", "yes")]
    assert run(host, "rollback --slot primary") == 0
    assert host.last_json()["new"] == "big:32b"
    assert run(host, "history") == 0
    assert [(row["new"], row["state"]) for row in host.last_json()] == [(tag, "done"), ("big:32b", "done")]
    assert host.slots.path.read_text() == CONFIG

    host.json = False
    for verb in ("list", "history", "templates", "templates basic"):
        assert run(host, verb) == 0
    assert run(host, "rollback") == 1
    assert "Nothing to roll back" in host.output


def test_a_registration_that_was_killed_at_its_very_end(host: RecordingHost, exported: Path) -> None:
    assert run(host, "house --quant q8_0") == 0
    home = Home(host.data_dir)
    manifest = next(exported.glob("v1-*.json"))
    tag = json.loads(manifest.read_text())["tag"]
    manifest.with_suffix(".pending").write_text(json.dumps({"tag": tag, "request": "as it was"}))
    assert [found.found for found in unfinished(home)] == [f"{tag} was begun and not finished"]
    assert run(host, "house --quant q8_0") == 0
    assert unfinished(home) == []


def test_an_alias_that_the_server_only_said_it_made(
    host: RecordingHost, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "copy", lambda *_names: None)
    assert run(host, "house --quant q8_0") == 1
    assert "also meton-house:latest, and it did not" in host.output
    assert not list(exported.glob("v1-*.json")), "what has a manifest has its alias"
    monkeypatch.undo()
    assert run(host, "house --quant q8_0") == 0
    assert len(list(exported.glob("v*.json"))) == 1


def test_the_newest_export_and_another_template(host: RecordingHost, exported: Path) -> None:
    assert run(host, "house --template basic --name other") == 0
    assert "Registered meton-other:v1-" in host.output
    assert "trained with the SYSTEM of explainer" in host.output
    assert "/model-register promote meton-other:v1-" in host.output


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [(True, 0, "primary: big:32b →"), (False, 1, "so primary stays as it is"), (None, 2, "add --yes")],
    ids=["yes", "no", "nobody"],
)
def test_promoting_asks(host: RecordingHost, exported: Path, answer: bool | None, code: int, words: str) -> None:
    host._answers = iter((answer, answer))
    assert run(host, "house --slot primary --force") == code
    assert words in host.output
    # What does not pass the gate is asked about twice.
    assert len(host.asked) == (2 if answer else 1)
    assert "does not pass the gate" in host.asked[0]
    assert host.slots is not None
    assert (host.slots.read()["primary"] == "big:32b") is (code != 0)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        pytest.param(
            "promote meton-x:v1 --yes", 1, "does not list meton-x:v1, so primary keeps big:32b", id="not-listed"
        ),
        pytest.param("promote big --yes", 2, "name:tag", id="no-tag"),
        pytest.param("promote a:b --slot slow --yes", 2, "--slot takes primary, fallback, quick", id="slot"),
        pytest.param("promote a:b --slot quick --yes", 1, "names no model for quick: add models.quick", id="quick"),
        pytest.param("house --slot quick --yes", 1, "names no model for quick: add models.quick", id="add-to-quick"),
        pytest.param("promote", 2, "required", id="nothing-named"),
        pytest.param("rollback --steps x", 2, "--steps takes a whole number", id="steps"),
        pytest.param("nope", 1, "no file and no exported run nope", id="no-run"),
        pytest.param("add nope.gguf", 1, "There is no file nope.gguf", id="no-file"),
        pytest.param("house --quant q2_k", 2, "/export model house --quant q2_k", id="quant"),
        pytest.param("house --template nope", 1, "no template nope", id="template"),
        pytest.param("house --name Über", 2, "cannot name a model", id="name"),
        pytest.param("[bold]", 2, "'[bold]' cannot name a run", id="markup"),
        pytest.param("templates nope", 1, "no template nope", id="templates"),
        pytest.param('add "open', 2, "close the quote", id="quote"),
        pytest.param("--wrong", 2, "required", id="flag"),
    ],
)
def test_bad_lines_get_one_sentence(host: RecordingHost, exported: Path, line: str, code: int, words: str) -> None:
    assert run(host, line) == code
    assert words in host.output
    assert host.output.startswith("✗ ")
    assert host.output.count("\n") == 1
    assert host.slots is not None
    assert host.slots.path.read_text() == CONFIG


def test_an_export_that_changed_is_refused(host: RecordingHost, exported: Path) -> None:
    with (exported / "house-q4_k_m.gguf").open("ab") as file:
        file.write(b"x")
    assert run(host, "house") == 1
    assert "is not what was exported" in host.output


def test_a_file_by_its_path(host: RecordingHost, tmp_path: Path) -> None:
    make_tiny(tmp_path / "Mine.gguf")
    assert run(host, f"add {tmp_path / 'Mine.gguf'}") == 0
    assert "Registered meton-mine:v1-" in host.output


def test_a_model_of_somebody_else_needs_no_gate(host: RecordingHost, exported: Path, url: str) -> None:
    assert run(host, "add house --quant q8_0") == 0
    with Server(url) as server:
        server.copy("meton-house:latest", "theirs:7b")
    host._answers = iter([True])
    assert run(host, "promote theirs:7b --slot primary") == 0
    assert "in place of big:32b?" in host.asked[0]
    host.json = True
    assert run(host, "history") == 0
    assert host.last_json()[-1]["why"] == "promoted"


def test_the_duties_of_the_licence_are_shown(host: RecordingHost, exported: Path, url: str) -> None:
    export = json.loads((exported / "export.json").read_text())
    export["base"]["name"] = "base:7b"
    (exported / "export.json").write_text(json.dumps(export))
    text = 'LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n"Agreement" means...\n\n"""\n'
    file = exported / "house-q8_0.gguf"
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    with Server(url) as server:
        server.upload(file, digest)
        server.create({"model": "base:7b", "files": {"a.gguf": digest}, "license": [text], "stream": True})
        assert run(host, "house") == 0
        assert 'it must show "Built with Llama", and its name must begin with "Llama" (section 1.b.i).' in host.output
        assert server.show("meton-house:latest").license == server.show("base:7b").license == text


def test_a_licence_that_only_the_gguf_names(host: RecordingHost, tmp_path: Path) -> None:
    for key, words in (("llama3.2", 'it must show "Built with Llama"'), ("apache-2.0", "")):
        path = tmp_path / f"{key}.gguf"
        rewrite(make_tiny(path), path, add={"general.license": key})
        assert run(host, f"add {path}") == 0
        assert words in host.output
        assert ("A reminder, not advice." in host.output) is bool(words)


def loaded(url: str) -> list[str]:
    """The models in the server's memory."""
    return [model["name"] for model in httpx.get(f"{url}/api/ps", trust_env=False).json()["models"]]


def test_the_version_before_leaves_the_servers_memory(host: RecordingHost, exported: Path, url: str) -> None:
    def registered(line: str) -> str:
        host.json = True
        assert run(host, line) == 0
        return str(host.last_json()["model"]["tag"])

    first = registered("house --quant q8_0")
    with Server(url) as server:
        server.generate(first, "x", options={"num_predict": 1})
        assert loaded(url) == [first]
        second = registered("house --quant q4_k_m")
        assert loaded(url) == [], "the alias means the second one now"

        # What a slot holds is asked next, and stays; until another takes its place.
        assert run(host, f"promote {second} --yes --force") == 0
        server.generate(second, "x", options={"num_predict": 1})
        third = registered("house --quant q8_0 --template basic")
        assert second in loaded(url)
        assert run(host, f"promote {third} --yes --force") == 0
        assert second not in loaded(url)


def test_a_slot_that_is_missing_is_said_before_anything_is_made(host: RecordingHost, exported: Path, url: str) -> None:
    assert run(host, "house --slot quick --yes") == 1
    with Server(url) as server:
        assert server.models() == []


def test_an_upload_shows_its_speed(offline: RecordingHost) -> None:
    screen = StringIO()
    offline.console = Console(file=screen, force_terminal=True, width=100)
    with bar(offline, in_bytes=("uploading",)) as tell:
        tell("merging", 1, 4)
        tell("uploading", 0, 8_000_000)
        sleep(0.05)
        tell("uploading", 4_000_000, 8_000_000)
        sleep(0.3)
    lines = screen.getvalue().splitlines()
    assert re.search(r"uploading .* 50% .*\d\d\.\d MB/s", next(line for line in lines if "MB/s" in line))
    assert not any("merging" in line and "MB/s" in line for line in lines)


def test_no_config(host: RecordingHost, exported: Path) -> None:
    host.slots = None
    assert run(host, "house --slot primary --yes") == 1
    assert "serve.config in settings.toml" in host.output
    assert run(host, "list") == 0


def test_config_that_is_broken(host: RecordingHost, exported: Path) -> None:
    assert host.slots is not None
    host.slots.path.write_text("models: [")
    assert run(host, "house --slot primary --yes") == 1
    assert "is not YAML" in host.output
    assert run(host, "rollback") == 1


def test_with_the_server_away(offline: RecordingHost, exported: Path) -> None:
    for line in ("house", "promote meton-x:v1 --yes"):
        assert run(offline, line) == 1
        assert "start it with `ollama serve`" in offline.output
    assert run(offline, "list") == 0
    assert run(offline, "history") == 0
    assert run(offline, "rollback") == 1
    assert "Nothing to roll back" in offline.output


@pytest.mark.parametrize("line", ["", "--help", "-h", *(f"{verb} --help" for verb in model_register.VERBS)])
def test_help(offline: RecordingHost, line: str) -> None:
    assert run(offline, line) == 0
    assert "/model-register" in offline.output


def test_the_command_names_its_verbs(offline: RecordingHost) -> None:
    command = model_register.make(offline)
    assert (command.name, command.verbs) == ("/model-register", model_register.VERBS)


# A fallback that is not there


@pytest.mark.parametrize("agrees", [True, False])
def test_a_missing_fallback_is_offered_the_base(host: RecordingHost, exported: Path, url: str, agrees: bool) -> None:
    assert run(host, "add house --quant q8_0") == 0
    export = json.loads((exported / "export.json").read_text())
    export["base"]["name"] = "base:7b"
    (exported / "export.json").write_text(json.dumps(export))
    with Server(url) as server:
        server.copy("meton-house:latest", "base:7b")
    assert run(host, "add house --quant q4_k_m") == 0
    host.json = True
    assert run(host, "list") == 0
    tag = next(row["model"] for row in host.last_json() if row["quant"] == "q4_k_m")
    host.json = False
    assert run(host, f"promote {tag} --slot primary") == 1
    assert "does not pass the gate" in host.output
    assert host.asked == []
    host._answers = iter([True, True, agrees])
    assert run(host, f"promote {tag} --slot primary --force") == 0
    assert host.asked[-1] == "The server lacks small:8b, which fallback holds. Put base:7b there?"
    assert host.slots is not None
    assert host.slots.read() == {"primary": tag, "fallback": "base:7b" if agrees else "small:8b"}
    assert ("fallback: small:8b → base:7b" in host.output) is agrees
    if agrees:
        assert run(host, "rollback --slot fallback") == 0
        assert host.slots.read()["fallback"] == "small:8b"
    else:
        assert "/model-register promote base:7b --slot fallback" in host.output


def test_a_missing_fallback_is_told_where_nobody_can_be_asked(host: RecordingHost, exported: Path, url: str) -> None:
    assert run(host, "add house --slot primary --yes --force") == 0
    # Neither the base nor what the slot held before is on the server.
    assert "The server lacks small:8b, which fallback holds: `ollama pull small:8b`" in host.output
    assert host.slots is not None
    assert host.slots.read()["fallback"] == "small:8b"
    assert host.asked == []
    with Server(url) as server:
        server.copy("meton-house:latest", "small:8b")
    assert run(host, "add house --slot primary --yes --force") == 0
    assert "The server lacks" not in host.output
