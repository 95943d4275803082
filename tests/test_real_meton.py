"""The plugin inside a real, unmodified Meton, driven in a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chat_server import ChatServer
from support.meton_session import MetonSession
from support.real_meton import CLI, ROOT, clone, freeze, git, shell

from meton_plugins.finetune.tools import TOOLS
from meton_plugins.host.config_file import ConfigFile

pytest_plugins = ["support.real_meton_fixtures"]


@pytest.fixture(scope="module")
def plain(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that nobody touched."""
    return clone(tmp_path_factory.mktemp("plain") / "Meton")


@pytest.fixture(scope="module")
def before(python: str) -> set[str]:
    """What the environment holds before `install`."""
    return freeze(python)


@pytest.fixture(scope="module")
def installed(python: str, before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout that loads the plugin, and the probe beside it."""
    checkout = clone(tmp_path_factory.mktemp("installed") / "Meton")
    said = shell("install", "--meton", checkout, "--python", python)
    probe = checkout.parent / "probe"
    probe.mkdir()
    shutil.copy(ROOT / "tests" / "support" / "probe.py", probe / "probe_plugin.py")
    marker = json.loads((checkout / "feedback_data" / "finetune" / "attach.json").read_text())
    marker.update(id="probe", entry_point="probe_plugin:register", data_folder="feedback_data/probe")
    (checkout / "feedback_data" / "probe").mkdir()
    (checkout / "feedback_data" / "probe" / "attach.json").write_text(json.dumps(marker))
    (checkout.parent / "install.txt").write_text(said)
    yield checkout
    shell("uninstall", "--meton", checkout, "--python", python)


@pytest.fixture(autouse=True)
def no_rules(server: ChatServer) -> None:
    server.rules.clear()
    server.requests.clear()


def start(checkout: Path, python: str, server: ChatServer, **env: str) -> MetonSession:
    """`python meton.py`, as its user types it."""
    path = str(checkout.parent / "probe")
    return MetonSession(checkout, server.address, [python, "meton.py"], env={"PYTHONPATH": path, **env})


def turns(checkout: Path) -> list[dict[str, Any]]:
    """What the probe heard, and forget it."""
    log = checkout / "feedback_data" / "probe" / "turns.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def test_installing_changes_no_version_and_no_tracked_file(installed: Path, before: set[str], python: str) -> None:
    assert before <= freeze(python)
    assert git(installed, "status", "--short") == ""
    said = (installed.parent / "install.txt").read_text()
    for path in re.findall(r"written: (\S+)", said):
        assert Path(path).exists()
    assert "attach.json" in said
    assert "meton-plugins.pth" in said
    assert "git clean -fdx" in said
    assert "packages added to" in shell("install", "--meton", installed, "--python", python)  # again: no harm


def test_metons_own_launcher_loads_it(installed: Path, python: str, server: ChatServer) -> None:
    (installed / "venv").mkdir()
    (installed / "venv" / "bin").symlink_to(Path(python).parent)
    with MetonSession(installed, server.address, [str(installed / "meton")]) as chat:
        assert "Plugin Commands" in chat.send("/help")
        assert chat.leave()[1] == 0
    assert git(installed, "status", "--short") == ""
    shutil.rmtree(installed / "venv")


def test_the_doctor_finds_all_of_the_surface(plain: Path) -> None:
    said = shell("doctor", "--meton", plain)
    assert "MetonCLI.process_query" in said
    assert "✗" not in said


def test_help_and_tools_show_ours_after_metons(installed: Path, python: str, server: ChatServer) -> None:
    with start(installed, python, server) as chat:
        said = chat.send("/help")
        assert said.index("Exit Meton") < said.index("Plugin Commands") < said.index("/model-register")
        assert "short for /dataset rate good" in said
        tools = chat.send("/tools")
        assert tools.index("spawn_agent") < tools.index("dataset_stats") < tools.index("model_rollback")
        ours = [line for line in tools.splitlines() if re.search(r"│ (dataset|training|model|rate)\w*_", line)]
        assert len(ours) == len(TOOLS)
        assert not any("..." in line for line in ours)
        assert chat.leave()[1] == 0


SHARED = ("/export nonsense", "/export --help", "/export config out/c.json", "/export all out/a.json", "/exportx",
          "/foo [/INST] bar", "/EXPORT conversations out/v.json", "/import", "/finetun")  # fmt: skip


def test_metons_own_words_behave_as_without_the_plugin(
    installed: Path, plain: Path, python: str, server: ChatServer
) -> None:
    said: list[list[str]] = []
    for checkout in (plain, installed):
        with start(checkout, python, server) as chat:
            lines = [chat.send(line) for line in ("/export", *SHARED)]
            said.append([line.replace(str(checkout), "CHECKOUT") for line in lines])
            assert chat.leave()[1] == 0
    alone, beside = said
    assert beside[1:] == alone[1:]
    shown = alone[0].removesuffix("\n\nYou: ")
    assert beside[0].startswith(shown)
    assert "adapter" in beside[0].removeprefix(shown)


HOSTILE = (
    '/dataset show "open', "/dataset show [/INST] [bold x[0]", "/dataset --help", "/finetune --frobnicate",
    "/probe raise",
    "/probe exit", "/export model --nope", "/model-register", "/fix --help", "/dataset list " + "x" * 3000,
    "/dataset show \x01\x02\x1b[31mred", "/DATASET STATS", "/finetune status no-such-run", "/- 'x",
)  # fmt: skip


def test_nothing_typed_ends_the_chat(installed: Path, python: str, server: ChatServer) -> None:
    with start(installed, python, server) as chat:
        for line in HOSTILE:
            assert chat.send(line).endswith("\nYou: "), line
        assert "probe got '[/INST] \"x'" in chat.send('/probe [/INST] "x')
        assert "probe got 'plus 4'" in chat.send("/p+ 4")
        assert "sleeping" in chat.send("/probe sleep", "sleeping")
        assert "Interrupted." in chat.interrupt()
        assert "Echo from qwen2.5-coder:32b: still there?" in chat.send("still there?")
        chat.send("/probe ask", r"Really\? \[y/N\] ")
        assert "said False" in chat.interrupt()
        chat.send("/probe ask", r"Really\? \[y/N\] ")
        assert "said True" in chat.send("y")
        ended = chat.interrupt("heard")
    assert "Goodbye" in ended


def piped(checkout: Path, python: str, server: ChatServer, *lines: str) -> str:
    """What Meton says where its input is no terminal, so that a line may be of any length."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "METON_", "OLLAMA"))}
    env = {**kept, "OLLAMA_HOST": server.address, "TERM": "dumb", "COLUMNS": "150", "HOME": str(checkout.parent),
           "PYTHONPATH": str(checkout.parent / "probe"), "PYTHONWARNINGS": "ignore"}  # fmt: skip
    typed = "".join(f"{line}\n" for line in (*lines, "/exit"))
    done = subprocess.run(
        [python, "meton.py"], cwd=checkout, env=env, input=typed, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_hundred_thousand_characters_end_nothing(installed: Path, python: str, server: ChatServer) -> None:
    long = "x" * 100_000
    said = piped(
        installed, python, server, f"/dataset show {long}", f"/fix {long}", f"/export model {long}", "and now?"
    )
    assert "Echo from qwen2.5-coder:32b: and now?" in said
    assert long not in said


def test_a_tool_refuses_where_nobody_can_agree(installed: Path, python: str, server: ChatServer) -> None:
    server.rules.append(("train now", "THOUGHT: t\nACTION: training_start\nACTION_INPUT: {}\nANSWER:", "Asked."))
    turns(installed)
    assert "Asked." in piped(installed, python, server, "train now")
    [output] = [tool["output"] for tool in turns(installed)[0]["tools"]]
    assert output == "Not done: nobody is there to agree. The user can type it: /finetune start"


def test_turns_are_heard_whole(installed: Path, python: str, server: ChatServer) -> None:
    read = json.dumps({"action": "read", "path": str(installed / "setup.sh")})
    server.rules += [
        ("what does setup.sh", f"THOUGHT: read\nACTION: file_operations\nACTION_INPUT: {read}\nANSWER:", "It sets up."),
        ("fail", 500, 500),
    ]  # fmt: skip
    turns(installed)
    with start(installed, python, server) as chat:
        where = chat.send("/probe where")
        assert f"{installed}/feedback_data/probe|{installed}/conversations|False" in where
        assert "hint [/INST] 1" in chat.send("first")
        assert "It sets up." in chat.send("what does setup.sh do")
        chat.send("fail")
        chat.send("break the ear")
        session = chat.send("/status")
        assert "4 turns heard" in chat.leave()[0]
    heard = turns(installed)
    own = [turn for turn in heard if turn["origin"] == "agent"]
    assert [turn["question"] for turn in own] == ["first", "what does setup.sh do", "fail", "break the ear"]
    assert [turn["success"] for turn in own] == [True, True, False, True]
    first, second = own[:2]
    assert first["session"][:16] in session
    assert first["answer"] == "Echo from qwen2.5-coder:32b: first"
    assert first["model"] == "qwen2.5-coder:32b"
    assert len(first["calls"]) == 1
    assert len(first["calls"][0]["prompt"]) > 50_000
    assert first["calls"][0]["completion"].endswith("ANSWER: Echo from qwen2.5-coder:32b: first")
    assert first["context"] == []
    assert re.search(r"[+-]\d\d:\d\d$", first["at"])
    assert second["context"] == [["user", "first"], ["assistant", first["answer"]]]
    assert [tool["name"] for tool in second["tools"]] == ["file_operations"]
    assert "setup.sh" in second["tools"][0]["input"]
    assert second["tools"][0]["output"].startswith("✓ Read")
    saved = [json.loads(path.read_text()) for path in (installed / "conversations").glob("*.json")]
    stamps = {message["timestamp"] for one in saved for message in one["messages"] if message["role"] == "user"}
    assert first["at"][:26] in {stamp[:26] for stamp in stamps}  # so that a back-fill finds the same turn


def test_a_sub_agents_turn_carries_its_word(installed: Path, python: str, server: ChatServer) -> None:
    # Meton 1.1's spawn_agent tool fails before it spawns; runs within a turn are tested on the double.
    turns(installed)
    with start(installed, python, server) as chat:
        assert "Echo from" in chat.send("/agent run explorer look around")
        chat.leave()
    heard = turns(installed)
    assert [turn["origin"] for turn in heard] == ["sub-agent"]
    assert {call["origin"] for call in heard[0]["calls"]} == {"sub-agent"}


def test_an_agents_tool_asks_below_the_spinner(installed: Path, python: str, server: ChatServer) -> None:
    server.rules.append(("use the probe", "THOUGHT: t\nACTION: probe_tool\nACTION_INPUT:\nANSWER:", "Used."))
    server.rules.append(("train now", "THOUGHT: t\nACTION: training_start\nACTION_INPUT: {}\nANSWER:", "Asked."))
    turns(installed)
    with start(installed, python, server) as chat:
        chat.send("use the probe", r"May the probe\? \[y/N\] ")
        assert "Used." in chat.send("y")
        chat.send("train now", r"The assistant wants to train .*Do it\? \[y/N\] ")
        assert "Asked." in chat.send("n")
        chat.leave()
    heard = turns(installed)
    assert heard[0]["tools"][0]["output"] == "asked: True 'ANSWER:'"
    assert heard[1]["tools"][0]["output"] == "Not done: the user said no."


def test_a_notice_is_shown_once_before_the_next_prompt(installed: Path, python: str, server: ChatServer) -> None:
    news = installed / "feedback_data" / "probe" / "news"
    with start(installed, python, server) as chat:
        news.write_text("run-1 [bold] finished\n")
        assert "run-1 [bold] finished\n\nYou: " in chat.send("/status")
        assert "finished" not in chat.send("")
        news.write_text("run-2 failed\n")
        assert "run-2 failed" in chat.send("")
        chat.leave()


def test_a_swap_from_elsewhere_reaches_the_session_and_stays(installed: Path, python: str, server: ChatServer) -> None:
    tuned, config = "meton-tuned:v1", ConfigFile(installed / "config.yaml")
    server.models.append(tuned)
    old = config.read()["primary"]
    with start(installed, python, server) as chat:
        assert f"Echo from {old}" in chat.send("before")
        config.write("primary", tuned, expected=old)
        swapped = chat.send("after")
        assert f"models.primary was changed elsewhere: {old} → {tuned}" in swapped
        assert f"Echo from {tuned}: after" in swapped
        for line in ("/reload", "/web off", "/param reset", "/param set temperature 0.5"):
            chat.send(line)
            assert f"Echo from {tuned}" in chat.send(f"and after {line[1:]}")
            assert config.read()["primary"] == tuned
        config.write("primary", old, expected=tuned)
        chat.send("/web off")  # it writes Meton's own copy of the file
        assert config.read()["primary"] == old
        assert f"Echo from {old}" in chat.send("back")
        config.write("fallback", tuned, expected=config.read()["fallback"])
        assert f"Echo from {old}" in chat.send("the other slot")
        assert f"Switched to model: {tuned}" in chat.send("/model fallback")
        chat.leave()
    assert [model for model, _ in server.asked()][:2] == [old, tuned]
    git(installed, "checkout", "-q", "config.yaml")


def test_promote_and_rollback_in_the_chat(installed: Path, python: str, server: ChatServer) -> None:
    tuned = "meton-a:v1-2026-11-22-00000001"
    server.models.append(tuned)
    with start(installed, python, server) as chat:
        chat.send(f"/model-register promote {tuned} --slot primary", r"\[y/N\] ")
        said = chat.send("y")
        assert f"Echo from {tuned}" in chat.send("who?"), said
        chat.send("/reload")
        chat.send("/web off")
        assert f"Echo from {tuned}" in chat.send("still?")
        chat.leave()
    with start(installed, python, server) as chat:
        assert f"Echo from {tuned}" in chat.send("after a restart?")
        chat.send("/model-register rollback --slot primary")
        assert "Echo from qwen2.5-coder:32b" in chat.send("and back?")
        chat.leave()
    assert ConfigFile(installed / "config.yaml").read()["primary"] == "qwen2.5-coder:32b"
    git(installed, "checkout", "-q", "config.yaml")


def test_run_needs_no_installation(installed: Path, plain: Path, python: str, server: ChatServer) -> None:
    command = [*CLI, "run", "--meton", str(plain), "--python", python, "--private"]
    told = "core/agent.py uses json without importing it"
    with MetonSession(plain, server.address, command, env={"PYTHONPATH": str(ROOT)}) as chat:
        assert told in chat.started
        assert "/model-register" in chat.send("/help")
        assert "Echo from" in chat.send("hello")
        assert chat.leave()[1] == 0
    with MetonSession(plain, server.address, command, env={"PYTHONPATH": str(ROOT)}) as chat:
        assert told not in chat.started
    assert git(plain, "status", "--short") == ""
    assert (plain / "feedback_data" / "finetune").stat().st_mode & 0o777 == 0o700
    with start(plain, python, server) as chat:
        assert "Unknown command" in chat.send("/dataset")


def test_a_meton_that_lacks_something_starts_without(
    installed: Path, python: str, server: ChatServer, tmp_path: Path
) -> None:
    older = clone(tmp_path / "Meton")
    models = older / "core" / "models.py"
    models.write_text(models.read_text().replace("_llm_cache", "_llms"))
    assert "core.models.ModelManager._llm_cache" in shell("install", "--meton", older, "--python", python, code=1)
    assert re.search(r"✗ +ModelManager\._llm_cache", shell("doctor", "--meton", older, code=1))
    command = [*CLI, "run", "--meton", str(older), "--python", python]
    with MetonSession(older, server.address, command, env={"PYTHONPATH": str(ROOT)}) as chat:
        assert "this Meton lacks core.models.ModelManager._llm_cache" in chat.started
        assert "Unknown command" in chat.send("/dataset")
        assert "Echo from" in chat.send("hello")
        assert "dataset_stats" not in chat.send("/tools")
    cli = older / "cli.py"
    cli.write_text(cli.read_text().replace("def process_query", "def answer").replace(".process_query(", ".answer("))
    with MetonSession(older, server.address, command, env={"PYTHONPATH": str(ROOT)}) as chat:
        assert "lacks cli.MetonCLI.process_query" in chat.started
        assert "Echo from" in chat.send("hello")


def test_a_plugin_that_moved_away_is_one_line(installed: Path, python: str, server: ChatServer) -> None:
    marker = installed / "feedback_data" / "finetune" / "attach.json"
    whole = marker.read_text()
    try:
        marker.write_text(whole.replace(str(ROOT), "/nowhere"))
        with start(installed, python, server) as chat:
            assert "meton-finetune install" in chat.started
            assert "Unknown command" in chat.send("/dataset")
        marker.write_text("{")
        with start(installed, python, server) as chat:
            assert "was not loaded" in chat.started
    finally:
        marker.write_text(whole)


def test_uninstalling_takes_it_back(installed: Path, before: set[str], python: str, server: ChatServer) -> None:
    said = shell("uninstall", "--meton", installed, "--python", python)
    assert "attach.json" in said
    assert f"left: {installed}/feedback_data/finetune" in said
    shutil.rmtree(installed / "feedback_data" / "probe")
    assert freeze(python) == before
    with start(installed, python, server) as chat:
        assert "Unknown command" in chat.send("/dataset")
    assert "gone: " in shell("uninstall", "--purge", "--meton", installed, "--python", python)
    assert not (installed / "feedback_data" / "finetune").exists()
    assert git(installed, "status", "--short") == ""
