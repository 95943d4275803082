"""A plugin inside a double of Meton that has just the contract: for every machine."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.meton_double import FILES, imported, write_checkout

from meton_plugins.finetune.collect.failures import PREFIXES
from meton_plugins.host import attach, environment, hook, launch, recorder, surface
from meton_plugins.host.api import Command, Effect, FinishedTurn, Host, ToolSpec
from meton_plugins.host.config_file import ConfigFile
from meton_plugins.host.errors import HostError

ROOT = Path(__file__).resolve().parent.parent
TUNED = "meton-a:v1"


class Plugin:
    """A plugin of a test's own: writes down what it hears, and has a command for every way to go wrong."""

    def __init__(self) -> None:
        self.turns: list[FinishedTurn] = []
        self.lines: list[str] = []
        self.news: list[str] = []
        self.typed: list[str] = []
        self.broken = False

    def register(self, host: Host) -> None:
        self.host = host
        ways: dict[str, Callable[[], object]] = {
            "exit": lambda: sys.exit(3), "raise": lambda: 1 / 0,
            "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT), "ask": lambda: host.ask("Sure?"),
        }  # fmt: skip

        def run(text: str) -> int:
            self.typed.append(text)
            ways.get(text, lambda: None)()
            return 0

        host.add_command(Command("/plug", "plugs", run, ("in", "out"), {"/p+": "in quickly"}))
        host.add_command(Command("/export", "exports", run, ("model", "adapter")))
        host.add_tool(ToolSpec("plug_tool", "Plug. No input.", Effect.READ, False, self._tool))
        host.add_listener(self)

    def _tool(self, text: str) -> str:
        if text == "raise":
            raise ValueError("no")
        return f"plugged {text!r} {self.host.ask('Plug?')}"

    def turn(self, turn: FinishedTurn) -> str | None:
        self.turns.append(turn)
        if self.broken:
            raise RuntimeError("broken")
        return f"[bold] {len(self.turns)} heard"

    def notices(self) -> list[str]:
        news, self.news = self.news, []
        return news

    def end(self) -> str | None:
        return f"end after {len(self.turns)}"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_checkout(tmp_path / "host")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("METON_FINETUNE_HOME")
    return folder


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    one = Plugin()
    monkeypatch.setattr(sys.modules[__name__], "register", one.register, raising=False)
    return one


def manifest(**more: object) -> dict[str, Any]:
    entry = f"{__name__}:register"
    return {"id": "finetune", "entry_point": entry, "data_folder": "feedback_data/finetune", "root": str(ROOT), **more}


@pytest.fixture
def cli(checkout: Path, plugin: Plugin) -> Iterator[Any]:
    """A MetonCLI with the plugin, initialized."""
    before = signal.getsignal(signal.SIGINT)
    with imported(checkout) as module:
        attach.attach(module, checkout, manifest())
        living = module.MetonCLI()
        assert living.initialize()
        assert living.plugin_finetune is not None
        living.module = module
        yield living
    assert signal.getsignal(signal.SIGINT) is before


def typed(cli: Any, *lines: str) -> str:
    """What the screen shows for some lines typed into the loop, and the end of input."""
    rest = iter(lines)

    def read(_prompt: object = "") -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    with pytest.MonkeyPatch.context() as patch, cli.console.capture() as screen:
        patch.setattr(builtins, "input", read)
        cli.run()
    return str(screen.get())


def test_the_host_is_what_the_plugin_was_promised(cli: Any, plugin: Plugin, checkout: Path) -> None:
    host = plugin.host
    assert isinstance(host, object)
    assert (host.name, host.json, host.private) == ("meton", False, False)
    assert host.console is cli.console
    assert host.data_dir == checkout / "feedback_data" / "finetune"
    assert host.data_dir.stat().st_mode & 0o777 == 0o700
    assert host.conversations_dir == checkout / "conversations"
    assert host.slots is not None
    assert host.slots.path == checkout / "config.yaml"
    assert host.slots.read() == {"primary": "big:32b", "fallback": "small:8b", "quick": "tiny:1b"}


def test_the_data_folder_can_be_elsewhere(
    checkout: Path, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METON_FINETUNE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("METON_FINETUNE_PRIVATE", "1")
    with imported(checkout) as module:
        attach.attach(module, checkout, manifest())
        assert module.MetonCLI().initialize()
    assert plugin.host.data_dir == tmp_path / "elsewhere"
    assert plugin.host.private
    assert not (checkout / "feedback_data").exists()


@pytest.mark.parametrize(
    ("line", "ours", "shown"),
    [
        pytest.param("/plug in [/INST] \"x", 'in [/INST] "x', "", id="untouched"),
        pytest.param("/PLUG  out", "out", "", id="as-the-host-reads-words"),
        pytest.param("/plug", "", "", id="bare"),
        pytest.param("/p+ 4", "in quickly 4", "", id="short-form"),
        pytest.param("/export model run-1", "model run-1", "", id="our-verb"),
        pytest.param("/export all [x] ", None, "host got /export all [x]", id="its-verb"),
        pytest.param("/export models", None, "host got /export models", id="not-our-verb"),
        pytest.param("/export --help", None, "host got /export --help", id="its-flag"),
        pytest.param("/export", "", "host got /export", id="bare-shared-shows-both"),
        pytest.param("/plugs in", None, "host got /plugs in", id="unknown"),
    ],
)  # fmt: skip
def test_commands_find_their_way(cli: Any, plugin: Plugin, line: str, ours: str | None, shown: str) -> None:
    said = typed(cli, line)
    assert plugin.typed == ([] if ours is None else [ours])
    assert shown in said
    assert ("host got" in said) == bool(shown)


@pytest.mark.parametrize(
    "way", ["exit", "raise", "interrupt", "ask", "[bold", "[/INST]", "\x00\x1b[31m", "x" * 100_000]
)
def test_no_command_ends_the_chat(cli: Any, plugin: Plugin, way: str) -> None:
    assert "big:32b says still there" in typed(cli, f"/plug {way}", "still there")
    assert plugin.typed == [way]


def test_files_of_the_plugins_are_private_and_those_of_the_host_are_not(cli: Any, checkout: Path) -> None:
    before = os.umask(0o022)
    try:
        cli.plugin_finetune.host.add_command(Command("/touch", "", lambda _: (checkout / "ours").touch() or 0))
        typed(cli, "/touch")
        (checkout / "theirs").touch()
    finally:
        os.umask(before)
    assert (checkout / "ours").stat().st_mode & 0o777 == 0o600
    assert (checkout / "theirs").stat().st_mode & 0o777 == 0o644


def test_help_is_the_hosts_and_then_ours(cli: Any) -> None:
    said = typed(cli, "/help")
    assert said.index("the host's help") < said.index("/plug") < said.index("short for /plug in quickly")


def test_a_turn_is_heard_whole(cli: Any, plugin: Plugin) -> None:
    said = typed(cli, "first", "use plug_tool ANSWER:")
    assert said.index("big:32b says first") < said.index("[bold] 1 heard")
    first, second = plugin.turns
    assert (first.session, first.question, first.answer) == ("session-1", "first", "big:32b says first")
    assert (first.success, first.model, first.origin) == (True, "big:32b", "agent")
    assert [(call.prompt, call.completion, call.model, call.origin) for call in first.calls] == [
        ("Q: first", "big:32b says first", "big:32b", "agent")
    ]
    assert first.context == ()
    assert first.at.startswith(cli.conversation.messages[0]["timestamp"])
    assert len(first.at) > len(cli.conversation.messages[0]["timestamp"])
    assert second.context == (("user", "first"), ("assistant", "big:32b says first"))
    assert [(tool.name, tool.input, tool.output) for tool in second.tools] == [
        ("plug_tool", "ANSWER:", "plugged 'ANSWER:' None")
    ]


@pytest.mark.parametrize(("question", "heard"), [("fail", 1), ("silence", 1), ("crash", 0)])
def test_a_failure_is_no_success(cli: Any, plugin: Plugin, question: str, heard: int) -> None:
    typed(cli, question)
    assert [turn.success for turn in plugin.turns] == [False] * heard


def test_the_known_failures_are_the_same_on_both_sides() -> None:
    assert [opening for opening, _ in PREFIXES] == list(recorder.FAILED)


def test_a_sub_agents_turn_is_labelled(cli: Any, plugin: Plugin) -> None:
    typed(cli, "delegate a look")
    inner, outer = plugin.turns
    assert (inner.origin, inner.session, inner.question) == ("sub-agent", "inner", "a look")
    assert [call.origin for call in outer.calls] == ["sub-agent", "agent"]
    assert [call.origin for call in inner.calls] == ["sub-agent"]


def test_an_agent_beside_the_chat_is_labelled(cli: Any, plugin: Plugin) -> None:
    module = sys.modules["core.agent"]
    conversation = type(cli.conversation)
    module.MetonAgent(cli.config, cli.model_manager, conversation("task")).run("a task")
    manager = type(cli.model_manager)(cli.config)
    module.MetonAgent(cli.config, manager, conversation("page")).run("a page")
    assert [(turn.origin, turn.session) for turn in plugin.turns] == [("sub-agent", "task"), ("web", "page")]


def test_a_commands_turn_is_heard_when_the_command_is_over(cli: Any, plugin: Plugin) -> None:
    module = sys.modules["core.agent"]
    task = module.MetonAgent(cli.config, cli.model_manager, type(cli.conversation)("task"))
    cli.plugin_finetune.command("/agent run", lambda _: bool(task.run("a task")))
    assert [turn.origin for turn in plugin.turns] == ["sub-agent"]


def test_a_web_thread_and_the_chat_do_not_mix(cli: Any, plugin: Plugin) -> None:
    module = sys.modules["core.agent"]
    other = module.MetonAgent(cli.config, type(cli.model_manager)(cli.config), type(cli.conversation)("page"))
    threads = [threading.Thread(target=other.run, args=(f"page {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for i in range(8):
        typed(cli, f"chat {i}")
    for thread in threads:
        thread.join()
    assert all(len(turn.calls) == 1 and turn.calls[0].completion.endswith(turn.question[-6:]) for turn in plugin.turns)
    assert sorted(turn.origin for turn in plugin.turns) == ["agent"] * 8 + ["web"] * 8


def test_a_broken_listener_costs_nothing(cli: Any, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    plugin.broken = True
    said = typed(cli, "first", "second")
    assert "big:32b says second" in said
    assert "heard" not in said.replace("end after", "")
    assert "RuntimeError: broken" in caplog.text


def test_recording_adds_less_than_five_milliseconds(cli: Any, plugin: Plugin) -> None:
    plugin.broken = False
    began = time.perf_counter()
    for i in range(100):
        cli.agent.run(f"question {i}")
    assert (time.perf_counter() - began) / 100 < 0.005
    assert len(plugin.turns) == 100


def test_notices_come_once_and_only_before_the_loops_prompt(cli: Any, plugin: Plugin) -> None:
    plugin.news = ["run-1 [/INST] finished"]
    assert typed(cli, "").count("run-1 [/INST] finished") == 1

    def later(_text: str) -> int:
        plugin.news = ["run-2 failed"]
        return 0

    cli.plugin_finetune.host.add_command(Command("/later", "", later))
    said = typed(cli, "/later", "/sure", "yes")
    assert said.index("run-2 failed") < said.index("sure yes")


def test_the_end_has_a_line(cli: Any) -> None:
    said = typed(cli, "one", "/exit")
    assert said.index("Goodbye!") < said.index("end after 1")


def test_the_end_says_nothing_where_it_interrupted_the_plugin(cli: Any, plugin: Plugin) -> None:
    session = cli.plugin_finetune

    class Ear(Plugin):
        def notices(self) -> list[str]:
            cli.shutdown()
            return []

    session.host.listeners.append(Ear())
    with cli.console.capture() as screen:
        session.before_prompt()
    assert "Goodbye!" in screen.get()
    assert "end after" not in screen.get()


# Slots


def holders(cli: Any) -> list[str]:
    configs = (cli.config, cli.model_manager.config, cli.agent.config, cli.subagent_manager.spawner.config)
    return [config.config.models.primary for config in configs]


def test_a_swap_reaches_the_file_and_all_of_the_session(cli: Any, plugin: Plugin) -> None:
    slots = plugin.host.slots
    assert slots is not None
    typed(cli, "before", "/reload")
    slots.write("primary", TUNED, expected="big:32b")
    assert holders(cli) == [TUNED] * 4
    assert f"{TUNED} says after" in typed(cli, "after", "/reload", "/save")
    assert slots.read()["primary"] == TUNED
    slots.write("primary", "big:32b", expected=TUNED)
    assert "big:32b says back" in typed(cli, "back")


def test_a_swap_from_elsewhere_is_noticed_before_a_query_and_before_a_save(cli: Any, checkout: Path) -> None:
    config = ConfigFile(checkout / "config.yaml")
    config.write("primary", TUNED, expected="big:32b")
    said = typed(cli, "hello", "again")
    assert f"{TUNED} says hello" in said
    assert said.count("was changed elsewhere") == 1
    config.write("primary", "big:32b", expected=TUNED)
    typed(cli, "/save")
    assert config.read()["primary"] == "big:32b"


def test_a_model_chosen_by_hand_stays(cli: Any, plugin: Plugin) -> None:
    slots = plugin.host.slots
    assert slots is not None
    cli.model_manager.current_model = "tiny:1b"
    slots.write("primary", TUNED, expected="big:32b")
    assert "tiny:1b says hello" in typed(cli, "hello")
    slots.write("quick", "other:1b", expected="tiny:1b")
    assert "other:1b says hello" in typed(cli, "hello")


def test_two_slots_with_one_name(cli: Any, plugin: Plugin) -> None:
    slots = plugin.host.slots
    assert slots is not None
    slots.write("fallback", "big:32b", expected="small:8b")
    slots.write("fallback", TUNED, expected="big:32b")
    assert "big:32b says hello" in typed(cli, "hello")


def test_a_profiles_plain_dict_takes_a_swap(cli: Any, plugin: Plugin) -> None:
    slots = plugin.host.slots
    assert slots is not None
    cli.config.config.models = {"primary": "big:32b", "settings": {}}
    slots.write("primary", TUNED, expected="big:32b")
    assert cli.config.config.models == {"primary": TUNED, "settings": {}}
    assert f"{TUNED} says hello" in typed(cli, "hello")


def test_a_broken_config_is_one_line_and_the_session_goes_on(cli: Any, checkout: Path) -> None:
    whole = (checkout / "config.yaml").read_text()
    (checkout / "config.yaml").write_text("models: [")
    said = typed(cli, "hello", "again")
    assert said.count("is not YAML") == 1
    assert "big:32b says again" in said
    (checkout / "config.yaml").write_text(whole.replace("big:32b", TUNED))
    assert f"{TUNED} says mended" in typed(cli, "mended")


def test_refresh_is_quick(cli: Any, plugin: Plugin) -> None:
    began = time.perf_counter()
    for _ in range(1000):
        cli.plugin_finetune.host.slots.refresh()
    assert time.perf_counter() - began < 0.5


# Tools


@pytest.mark.parametrize("text", ["ANSWER:", "", "```json\n{}\n```", '{"x": 1}'])
def test_a_tool_takes_and_gives_text(cli: Any, text: str) -> None:
    tool = cli.agent.tool_map["plug_tool"]
    assert tool._run(text) == f"plugged {text!r} None"
    assert tool.description.split("\n")[0] == "Plug. No input."


def test_a_tool_that_raises_is_a_sentence(cli: Any) -> None:
    assert cli.agent.tool_map["plug_tool"]._run("raise") == "plug_tool failed unexpectedly (ValueError)."


@pytest.mark.parametrize(
    ("typed_text", "answer"), [("y", True), ("YES", True), ("", False), ("no", False), (None, False)]
)
def test_asking_stops_the_spinner(
    cli: Any, plugin: Plugin, monkeypatch: pytest.MonkeyPatch, typed_text: str | None, answer: bool
) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())

    def read() -> str:
        assert not spinner._live.is_started
        if typed_text is None:
            raise KeyboardInterrupt
        return typed_text

    monkeypatch.setattr(builtins, "input", read)
    with cli.console.status("Thinking") as spinner:
        assert plugin.host.ask("[/INST]?") is answer
        assert spinner._live.is_started


def test_nobody_is_asked_off_the_main_thread(plugin: Plugin, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    answers: list[bool | None] = []
    thread = threading.Thread(target=lambda: answers.append(plugin.host.ask("Sure?")))
    thread.start()
    thread.join()
    assert answers == [None]


# Attaching


def test_json_is_lent_only_where_it_is_missing_and_told_once(checkout: Path, plugin: Plugin, tmp_path: Path) -> None:
    for told in (True, False):
        with imported(checkout) as module:
            attach.attach(module, checkout, manifest())
            living = module.MetonCLI()
            with living.console.capture() as screen:
                living.initialize()
            assert ("uses json" in screen.get()) is told
            assert living.agent.later("[1]") == [1]
    whole = write_checkout(tmp_path / "whole", core_agent="import json\n" + FILES["core/agent.py"])
    os.chdir(whole)
    with imported(whole) as module:
        attach.attach(module, whole, manifest())
        living = module.MetonCLI()
        with living.console.capture() as screen:
            living.initialize()
        assert screen.get() == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [
        ("cli_py", "process_query", "answer", "cli.MetonCLI.process_query"),
        ("core_models", "_llm_cache", "_llms", "core.models.ModelManager._llm_cache"),
        ("core_agent", "def add_tool", "def add_a_tool", "core.agent.MetonAgent.add_tool"),
        ("agents_subagent_spawner", "self.spawner", "self.maker", "agents.subagent_spawner.SubAgentManager.spawner"),
    ],
)
def test_a_host_that_lacks_something_starts_without(
    tmp_path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    file: str, old: str, new: str, name: str,
) -> None:  # fmt: skip
    key = next(path for path in FILES if path.removesuffix(".py").replace("/", "_") == file.removesuffix("_py"))
    folder = write_checkout(tmp_path / "host", **{file.removesuffix("_py"): FILES[key].replace(old, new)})
    monkeypatch.chdir(folder)
    assert [need.label for need, there in surface.in_source(folder).items() if not there] == [name]
    assert name in str(launch.refusal(folder))
    with imported(folder) as module:
        hook.attach(module, str(folder), manifest())
        living = module.MetonCLI()
        assert living.initialize()
        assert living.agent.tools == []
        assert living.handle_command("/plug in")
        said = capsys.readouterr()
    assert name in said.err + said.out.replace("\n", "")
    assert plugin.typed == []


def test_a_plugin_that_fails_to_register_leaves_nothing_behind(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def register(host: Host) -> None:
        host.add_tool(ToolSpec("half", "Half.", Effect.READ, False, str))
        raise RuntimeError("half-way")

    monkeypatch.setattr(sys.modules[__name__], "register", register, raising=False)
    with imported(checkout) as module:
        run = sys.modules["core.agent"].MetonAgent.run
        attach.attach(module, checkout, manifest())
        living = module.MetonCLI()
        assert living.initialize()
        assert living.agent.tools == []
        assert sys.modules["core.agent"].MetonAgent.run is run
        assert "host got /plug" in typed(living, "/plug")
    assert "finetune was not loaded (half-way)" in capsys.readouterr().out


def test_the_double_has_the_whole_surface(checkout: Path) -> None:
    assert all(surface.in_source(checkout).values())


def python(checkout: Path, code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that stands in `checkout`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=env, capture_output=True, text=True, check=False,
        input="/finetune status\n/dataset stats\nhello\n/exit\n",
    )  # fmt: skip


@pytest.fixture
def hooked(tmp_path: Path) -> Path:
    """A folder with the hook under the name that it has in Meton's environment."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / f"{hook.INSTALLED}.py").write_text((ROOT / "meton_plugins" / "host" / "hook.py").read_text())
    return folder


PLAIN = f"import {hook.INSTALLED}, runpy; runpy.run_path('meton.py', run_name='__main__')"


def test_the_hook_loads_what_the_marker_says(checkout: Path, hooked: Path) -> None:
    marker = checkout / "feedback_data" / "finetune" / hook.MARKER
    without = python(checkout, PLAIN, hooked)
    assert "host got /dataset stats" in without.stdout
    assert without.stderr == ""
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps(manifest(entry_point="meton_plugins.finetune.plugin:register")))
    done = python(checkout, PLAIN, hooked)
    assert "host got" not in done.stdout, done.stdout + done.stderr
    assert "big:32b says hello" in done.stdout
    names = python(checkout, f"{PLAIN.partition(';')[0]}; import cli, tools, sys; print(tools.MINE)", hooked)
    assert "the host" in names.stdout


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x"}', '{"id": "finetune", "root": "/nowhere"}'])
def test_a_marker_that_is_wrong_is_one_line(checkout: Path, hooked: Path, text: str) -> None:
    marker = checkout / "feedback_data" / "finetune" / hook.MARKER
    marker.parent.mkdir(parents=True)
    marker.write_text(text)
    done = python(checkout, PLAIN, hooked)
    assert "big:32b says hello" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "Meton starts without it." in done.stderr


def test_the_hook_leaves_every_other_cli_alone(tmp_path: Path, hooked: Path) -> None:
    (tmp_path / "cli.py").write_text("print('another program')")
    done = python(tmp_path, f"import {hook.INSTALLED}, cli", hooked, tmp_path)
    assert (done.stdout, done.stderr) == ("another program\n", "")


def test_run_starts_the_checkout_with_its_own_arguments(checkout: Path) -> None:
    (checkout / "meton.py").write_text(f"{FILES['meton.py']}    print(sys.argv[1:])\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    given = ["--loud", "-x", "a b"]
    done = subprocess.run(
        [sys.executable, "-m", "meton_plugins.finetune", "run", "--meton", str(checkout), *given], cwd=ROOT, env=env,
        capture_output=True, text=True, check=False, input="/finetune status\nhello\n/exit\n",
    )  # fmt: skip
    assert "host got" not in done.stdout, done.stdout + done.stderr
    assert "big:32b says hello" in done.stdout
    assert str(given) in done.stdout
    assert done.returncode == 0


def test_a_chat_starts_without_the_rooms_that_it_does_not_need_yet(tmp_path: Path) -> None:
    # Meton's user waits for what is imported here; each of these costs 5 to 100 ms.
    rooms = ("collect.heard", "curate", "engine", "gguf", "library", "report", "serve.register", "train")
    code = "import sys, meton_plugins.finetune.plugin; print(*sys.modules)"
    loaded = python(tmp_path, code, ROOT).stdout.split()
    assert "meton_plugins.finetune.plugin" in loaded
    found = [name for room in rooms for name in loaded if name.startswith(f"meton_plugins.finetune.{room}")]
    assert found == []
    assert not {"httpx", "numpy", "ollama", "ruamel.yaml", "sqlite3"} & set(loaded)


def test_run_refuses_what_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no Meton checkout: it has no meton\.py"):
        launch.checked(tmp_path)


def uninstalled(checkout: Path, *words: str, code: int = 0) -> str:
    """What `meton-finetune uninstall` says."""
    command = [sys.executable, "-m", "meton_plugins.finetune", "uninstall", "--meton", str(checkout), *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def marked(checkout: Path, **said: str) -> Path:
    """The marker that `install` writes."""
    marker = checkout / "feedback_data" / "finetune" / hook.MARKER
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({**manifest(), **said}))
    return marker


@pytest.mark.parametrize("named", [True, False])
def test_uninstall_ends_well_where_the_environment_is_gone(checkout: Path, tmp_path: Path, named: bool) -> None:
    python = tmp_path / "env" / "bin" / "python"
    marker = marked(checkout, python=str(python))
    said = uninstalled(checkout, *(["--python", str(python)] if named else []))
    assert "no longer loads the plugin" in said
    assert f"gone: {tmp_path / 'env'} (the environment was deleted before" in said
    assert not marker.exists()
    again = uninstalled(checkout, code=1)
    assert "name the Python that runs Meton with --python" in again
    assert again.count("\n") == 1


def test_uninstall_ends_well_where_the_environment_is_broken(checkout: Path, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(tmp_path / "an-old-python")
    marker = marked(checkout, python=str(python))
    assert "its Python does not run any more, so delete that environment" in uninstalled(checkout)
    assert not marker.exists()


def test_uninstall_with_a_python_that_is_not_there_touches_nothing(checkout: Path) -> None:
    marker = marked(checkout, python=sys.executable)
    said = uninstalled(checkout, "--python", "/nowhere/bin/python", code=1)
    assert f"There is no /nowhere/bin/python: the plugin was installed with --python {sys.executable}." in said
    assert marker.exists()


def test_uninstall_where_nobody_knows_the_environment(checkout: Path) -> None:
    marker = marked(checkout)
    assert "left: the hook, in an environment that is not known here" in uninstalled(checkout)
    assert not marker.exists()


def test_orphans_are_those_that_nothing_else_needs() -> None:
    needs = {"a": {"b"}, "b": set(), "c": {"d"}, "d": {"e"}, "e": set(), "pip": set()}
    found = environment.Environment((3, 11), Path(), Path(), dict.fromkeys(needs, "1"), needs)
    assert environment.orphans(found, ["a", "b", "d", "e", "pip"]) == ["a", "b"]
    assert environment.orphans(found, ["c", "d", "e"]) == ["c", "d", "e"]


def test_an_interpreter_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with contextlib.suppress(OSError), pytest.raises(HostError, match="cannot be run"):
        environment.look(tmp_path / "python")
