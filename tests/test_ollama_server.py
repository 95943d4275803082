"""The Ollama server: a real one for what works, a double for what old and broken ones say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import ollama_fixtures

from meton_plugins.finetune.errors import FinetuneError, ModelError, NotFound, ServerError, UsageError
from meton_plugins.finetune.gguf.tiny import make_tiny
from meton_plugins.finetune.paths import Home, write_json
from meton_plugins.finetune.serve.answers import CannotGenerate, version_of
from meton_plugins.finetune.serve.bases import resolve_base
from meton_plugins.finetune.serve.history import History
from meton_plugins.finetune.serve.modelfile import Modelfile, parse, to_create_request
from meton_plugins.finetune.serve.ollama import Server, check_model_name
from meton_plugins.finetune.serve.register import list_registered, register
from meton_plugins.finetune.serve.slots import promote, rollback
from meton_plugins.finetune.serve.templates import inherit, load_template
from meton_plugins.host.config_file import ConfigFile
from tests.support.ollama_server import private_server

# Not as a plugin: that would be every module's, and others have a `server` too.
url, server = ollama_fixtures.url, ollama_fixtures.server

NASTY = 'Say """quotes"""\n"""\nPARAMETER stop evil\nFROM elsewhere\n'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def create(server: Server, path: Path, model: str, modelfile: Modelfile) -> None:
    server.upload(path, digest_of(path))
    server.create(to_create_request(modelfile, model, {path.name: digest_of(path)}))


def test_upload_create_show_generate_copy_delete(server: Server, tiny: Path) -> None:
    assert server.check() == "0.34.4"
    assert server.warning is None
    seen: list[tuple[int, int]] = []
    steps: list[str] = []
    digest = digest_of(tiny)
    first = not server.has_blob(digest)
    assert server.upload(tiny, digest, lambda done, total: seen.append((done, total))) is first
    assert seen[-1] == (tiny.stat().st_size,) * 2
    assert not server.upload(tiny, digest)
    modelfile = Modelfile(system=NASTY, parameters={"stop": ["<|im_end|>", 'a"b\nc'], "temperature": 0.5})
    server.create(to_create_request(modelfile, "meton-x:v1", {"tiny.gguf": digest}), steps.append)
    assert steps[-1] == "success"
    show = server.show("meton-x:v1")
    assert show.system == NASTY
    assert show.blob is not None
    assert show.blob.name == digest.replace(":", "-")
    assert "completion" in show.capabilities
    assert not show.remote
    assert inherit(Modelfile(), show).parameters == {"stop": ["<|im_end|>", 'a"b\nc'], "temperature": 0.5}
    answer = server.generate("meton-x:v1", "Hello", options={"num_predict": 8, "temperature": 0, "seed": 1})
    assert 1 <= answer.tokens <= 8
    raw = server.generate("meton-x:v1", "Hello", raw=True, options={"num_predict": 4, "temperature": 0})
    assert raw.tokens >= 1
    server.unload("meton-x:v1")
    server.copy("meton-x:v1", "meton-x:latest")
    assert server.exists("meton-x:latest")
    assert not server.exists("meton-x")
    assert server.find("meton-x:latest") == server.find("meton-x:v1")._replace(name="meton-x:latest")  # type: ignore[union-attr]
    server.delete("meton-x:v1")
    assert [model.name for model in server.models()] == ["meton-x:latest"]


def test_register_promote_and_roll_back(server: Server, tiny: Path, home: Path, tmp_path: Path) -> None:
    place = Home(home)
    modelfile = load_template("python-specialist")
    made = register(server, place, tiny, "house", modelfile, notes={"run": "house"})
    assert made.fresh
    assert made.tag.startswith("meton-house:v1-")
    assert made.tag.endswith(made.sha256[:8])
    assert not made.warnings
    assert len(made.overridden) == 3
    assert {model.name for model in server.models()} == {made.tag, "meton-house:latest"}
    assert server.show(made.alias).system == modelfile.system

    again = register(server, place, tiny, "house", modelfile)
    assert (again.tag, again.fresh, again.notes) == (made.tag, False, {"run": "house"})
    other = register(server, place, tiny, "house", load_template("explainer"))
    assert other.tag.startswith("meton-house:v2-")
    assert [model.tag for model in list_registered(place)] == [made.tag, other.tag]
    assert server.show("meton-house:latest").system == load_template("explainer").system

    server.delete(made.tag)
    assert register(server, place, tiny, "house", modelfile).tag == made.tag
    assert server.exists(made.tag)

    (tmp_path / "config.yaml").write_text("models:\n  primary: big:32b\n")
    store, history = ConfigFile(tmp_path / "config.yaml"), History(place.history)
    assert promote(store, server, history, made.tag, "primary", "test").note is None
    assert store.read() == {"primary": made.tag}
    assert "big:32b" in str(rollback(store, history, "primary", server=server).note)
    assert store.read() == {"primary": "big:32b"}


@pytest.mark.parametrize("point", ["create", "copy", "manifest"])
def test_killed_while_registering_then_once_more(
    server: Server, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def killed(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    place = Home(home)
    with monkeypatch.context() as patch:
        if point == "manifest":
            from meton_plugins.finetune.serve import register as module

            patch.setattr(
                module, "write_json", lambda p, v: write_json(p, v) if p.name.endswith(".pending") else killed()
            )
        else:
            patch.setattr(Server, point, killed)
        with pytest.raises(KeyboardInterrupt):
            register(server, place, tiny, "house", Modelfile(system="x"))
    assert list_registered(place) == []
    made = register(server, place, tiny, "house", Modelfile(system="x"))
    assert made.tag.startswith("meton-house:v1-")
    assert {model.name for model in server.models()} == {made.tag, made.alias}
    assert not list((home / "models" / "house").glob("*.pending"))


def test_what_the_base_can_do_must_stay(server: Server, tiny: Path, home: Path) -> None:
    base = server_show_with_tools(server, tiny)
    with pytest.raises(ServerError, match="would lose what base:1b can do \\(tools\\)"):
        register(server, Home(home), tiny, "house", Modelfile(template="{{ .Prompt }}!"), base=base)
    assert {model.name for model in server.models()} == {"base:1b"}
    kept = register(server, Home(home), tiny, "house", inherit(Modelfile(), base), base=base)
    assert "tools" in kept.capabilities


def server_show_with_tools(server: Server, tiny: Path) -> Any:
    template = "{{ if .Tools }}{{ .Tools }}{{ end }}{{ .System }}{{ .Prompt }}"
    create(server, tiny, "base:1b", Modelfile(template=template, licenses=("MIT",)))
    base = server.show("base:1b")
    assert "tools" in base.capabilities
    assert parse(base.modelfile).licenses == ("MIT",)
    return base


def test_a_base_that_the_server_has(server: Server, tiny: Path) -> None:
    create(server, tiny, "qwen-tiny:1b", Modelfile())
    base = resolve_base("qwen-tiny:1b", server)
    assert base.name == "qwen-tiny:1b"
    assert base.path.read_bytes() == tiny.read_bytes()
    assert resolve_base(str(tiny), None) == (tiny, None, None)
    with pytest.raises(NotFound, match="type `ollama pull qwen-other:latest`"):
        resolve_base("qwen-other", server)
    with pytest.raises(NotFound, match=r"no file .*nope\.gguf"):
        resolve_base("nope.gguf", server)
    with pytest.raises(ModelError, match="is a folder"):
        resolve_base(str(tiny.parent), server)


def test_a_wrong_digest_is_refused(server: Server, tiny: Path) -> None:
    with pytest.raises(ServerError, match="changed while it was sent"):
        server.upload(tiny, f"sha256:{'0' * 64}")


def test_a_file_that_is_no_gguf(server: Server, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"no GGUF at all")
    with pytest.raises(ServerError, match="refused while creating"):
        create(server, tmp_path / "x.bin", "x:1", Modelfile())
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:-9000])
    with pytest.raises(ServerError):
        create(server, tmp_path / "cut.gguf", "x:1", Modelfile())
    assert server.models() == []


def test_a_model_that_is_not_there(server: Server) -> None:
    for work in (server.show, server.delete, lambda name: server.generate(name, "x"), lambda n: server.copy(n, "y:1")):
        with pytest.raises(NotFound, match="no model nope:1b"):
            work("nope:1b")


@pytest.mark.parametrize(
    "name", ["x", "x:", ":x", "X:y", "x:y z", "-x:y", "x:.y", "a/b/c:d", "é:x", "x" * 81 + ":y", "x:y\n"]
)
def test_names_that_ollama_would_refuse(name: str) -> None:
    with pytest.raises(UsageError, match="write name:tag"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["meton-a:v1-2026-11-22-01234567", "a/b:c", "_x:_y", "qwen2.5-coder:7b"])
def test_names_that_it_takes(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":5", "http://127.0.0.1:5"),
        ("box:5/", "http://box:5"),
        ("https://box", "https://box:443"),
        ("[::1]:5", "http://[::1]:5"),
        ("http://localhost", "http://localhost:80"),
    ],
)
def test_addresses(host: str | None, url: str) -> None:
    assert Server(host).url == url
    assert (Server(host).warning is None) is ("box" not in url)


@pytest.mark.parametrize("host", ["http://", "ftp://x", "a:b:c", "x:99999", "http://user:secret@box"])
def test_addresses_that_are_none(host: str) -> None:
    with contextlib.suppress(UsageError):
        assert Server(host).url == "http://127.0.0.1:80"
        assert host == "http://"


def test_a_real_server_without_llama_server(tiny: Path, home: Path, tmp_path: Path) -> None:
    with private_server(tmp_path / "alone", shim=False) as running, Server(running.url) as server:
        made = register(server, Home(home), tiny, "house", Modelfile())
        assert "no llama-server program" in made.warnings[0]
        with pytest.raises(CannotGenerate):
            server.generate(made.tag, "x")


def test_a_full_disk_leaves_no_model(tiny: Path, home: Path, tmp_path: Path) -> None:
    full = (500, {"error": "write /x/blobs/sha256-1: no space left on device"})
    with contextlib.ExitStack() as stack:
        if small_disk(stack, tmp_path / "server" / "models"):
            running = stack.enter_context(private_server(tmp_path / "server"))
            server = stack.enter_context(Server(running.url))
        else:
            version = (200, {"version": "0.34.4"})
            server = stack.enter_context(double(blobs=full, tags=(200, {"models": []}), version=version))
        with pytest.raises(ServerError, match="its disk is full"):
            register(server, Home(home), tiny, "house", Modelfile())
        assert server.models() == []
        assert list_registered(Home(home)) == []


def small_disk(stack: contextlib.ExitStack, folder: Path) -> bool:
    """A file system of 200 kB at `folder`, where this user may mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    stack.callback(subprocess.run, ["umount", str(folder)], check=True)
    return True


def test_nothing_of_the_server_stays(tiny: Path, tmp_path: Path) -> None:
    with private_server(tmp_path / "server") as running, Server(running.url) as server:
        create(server, tiny, "x:1", Modelfile())
        server.generate("x:1", "x", options={"num_predict": 1})
        family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        assert len(family) > 1
    gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert len(gone) == len(family)


def test_no_model_is_ever_pulled(server: Server) -> None:
    with pytest.raises(FinetuneError):
        server.create({"model": "x:1", "files": {}})
    assert server.models() == []


def test_nobody_there() -> None:
    for work in (
        Server("127.0.0.1:1").version,
        Server("127.0.0.1:1").models,
        lambda: Server("127.0.0.1:1").show("a:b"),
    ):
        with pytest.raises(ServerError, match="start it with `ollama serve`"):
            work()


# What other servers say: a double that answers each path with what a test gives it.


@contextlib.contextmanager
def double(**answers: tuple[int, Any]) -> Iterator[Server]:
    """A server that answers `/api/<name>` with (status, JSON or text); anything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            status, body = answers.get(self.path.removeprefix("/api/").split("/")[0], (404, "404 page not found"))
            if status == DROPPED and self.command != "HEAD":
                self.connection.close()
                return
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_args: Any) -> None:
            """Quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        with Server(f"127.0.0.1:{httpd.server_port}") as server:
            yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


#: A status for which the double closes the connection without a word.
DROPPED = 499


def stream(*events: dict[str, Any]) -> tuple[int, str]:
    return 200, "".join(json.dumps(event) + "\n" for event in events)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        pytest.param((200, {"version": "0.11.9"}), "0.11.9 .* is too old", id="too-old"),
        pytest.param((200, {"version": 34}), "not known here", id="odd"),
        pytest.param((200, "<html>"), "not known here", id="web-page"),
        pytest.param((502, "bad gateway"), "not known here", id="proxy"),
        pytest.param((200, []), "not known here", id="list"),
    ],
)
def test_versions_that_cannot_be_used(version: tuple[int, Any], words: str) -> None:
    with double(version=version) as server, pytest.raises(ServerError, match=words):
        server.check()


@pytest.mark.parametrize("version", ["0.12.0", "0.34.1-rc1", "1.2.3", "0.0.0", "v0.40.0"])
def test_versions_that_can(version: str) -> None:
    with double(version=(200, {"version": version})) as server:
        assert server.check() == version
    assert version_of("0.0.0") is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param((400, {"error": "invalid model name"}), "refuses the model's name", id="name"),
        pytest.param((400, {"error": "neither 'from' or 'files' was specified"}), "too old to take files", id="old"),
        pytest.param(
            (400, {"error": "LoRA adapters are no longer supported"}), "register the merged GGUF", id="adapter"
        ),
        pytest.param((500, {"error": "write /x: no space left on device"}), "its disk is full", id="disk"),
        pytest.param((500, "nonsense"), "status 500, version 0.99.0.*it said: nonsense", id="nonsense"),
        pytest.param(stream({"status": "parsing GGUF"}, {"error": "unexpected EOF"}), "cut short", id="mid-stream"),
        pytest.param(stream({"error": 'tensor "a" offset+size (9) exceeds file size (5)'}), "cut short", id="tensor"),
        pytest.param(stream({"error": "unknown type"}), "does not know the file's type", id="type"),
        pytest.param(stream({"status": "parsing GGUF"}), "stopped after 'parsing GGUF'", id="dies"),
        pytest.param((200, ""), "stopped after 'nothing'", id="silence"),
        pytest.param((200, "what?\n"), "not known here", id="no-json"),
        pytest.param((200, "[]\n"), "not known here", id="list"),
        pytest.param(stream({"progress": 1}), "not known here", id="other-fields"),
    ],
)
def test_create_that_fails(answer: tuple[int, Any], words: str) -> None:
    with double(create=answer, version=(200, {"version": "0.99.0"})) as server:
        with pytest.raises(ServerError, match=words) as caught:
            server.create({"model": "a:b"})
        assert "\n" not in caught.value.sentence


@pytest.mark.parametrize(
    "answer", [(200, "x"), (200, {"models": 5}), (200, []), (500, "oops"), (404, "404 page not found")]
)
def test_lists_that_are_none(answer: tuple[int, Any]) -> None:
    with double(tags=answer) as server, pytest.raises(ServerError):
        server.models()


@pytest.mark.parametrize(
    "answer", [(200, "x"), (200, []), (200, {"capabilities": 7}), (200, {"details": "x"}), (500, {})]
)
def test_shows_that_are_none(answer: tuple[int, Any]) -> None:
    with double(show=answer) as server, pytest.raises(FinetuneError):
        server.show("a:b")


def test_a_server_without_llama_server_keeps_models_and_says_so() -> None:
    words = "error starting llama-server: llama-server binary not found (checked: /x)"
    with double(generate=(500, {"error": words})) as server:
        with pytest.raises(CannotGenerate):
            server.generate("a:b", "x")
        assert "no llama-server program" in str(server.try_out("a:b"))


def test_an_answer_of_nothing_is_a_failure() -> None:
    with (
        double(generate=(200, {"model": "a", "response": "", "done": True, "eval_count": 0})) as server,
        pytest.raises(ServerError, match="answers nothing"),
    ):
        server.try_out("a:b")


def test_an_answer_that_stops_in_the_middle() -> None:
    with double(generate=(200, {"response": "x", "done": False})) as server, pytest.raises(ServerError, match="middle"):
        server.generate("a:b", "x")


def test_an_upload_that_vanishes(tiny: Path) -> None:
    with double(blobs=(404, "")) as server, pytest.raises(ServerError):
        server.upload(tiny, digest_of(tiny))


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda server, tiny: server.upload(tiny, digest_of(tiny)), id="upload"),
        pytest.param(lambda server, _tiny: server.create({"model": "a:b"}), id="create"),
        pytest.param(lambda server, _tiny: server.generate("a:b", "x"), id="generate"),
        pytest.param(lambda server, _tiny: server.show("a:b"), id="show"),
        pytest.param(lambda server, _tiny: server.models(), id="list"),
        pytest.param(lambda server, _tiny: server.copy("a:b", "c:d"), id="copy"),
        pytest.param(lambda server, _tiny: server.delete("a:b"), id="delete"),
        pytest.param(lambda server, _tiny: server.version(), id="version"),
    ],
)
def test_a_server_that_dies(tiny: Path, work: Callable[[Server, Path], object]) -> None:
    names = ("blobs", "create", "generate", "show", "tags", "copy", "delete", "version")
    with double(**dict.fromkeys(names, (DROPPED, ""))) as server:
        with pytest.raises(ServerError) as caught:
            work(server, tiny)
        assert "try again" in caught.value.sentence or "start it" in caught.value.sentence


def test_a_remote_models_blob_is_not_taken() -> None:
    listed = (200, {"models": [{"name": "big:cloud", "model": "big:cloud", "digest": "x", "size": 1}]})
    remote = (200, {"remote_host": "https://x", "details": {}})
    away = (200, {"modelfile": "# x\nFROM /far/away/blobs/sha256-1\n", "details": {"format": "gguf"}})
    with double(tags=listed, show=remote) as server, pytest.raises(ModelError, match="somebody else's machine"):
        resolve_base("big:cloud", server)
    with double(tags=listed, show=away) as server, pytest.raises(NotFound, match="copy the GGUF to this machine"):
        resolve_base("big:cloud", server)
