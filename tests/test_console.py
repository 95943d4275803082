"""The real console: its prompt under a terminal, scripts through a pipe, one command from the shell."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pexpect
import pytest

from meton_plugins.finetune import __version__
from meton_plugins.finetune.__main__ import main
from meton_plugins.finetune.commands import dataset, export, finetune, model_register
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.turn import Turn
from meton_plugins.host.console import ConsoleHost

PROMPT = "finetune>"
#: A terminal is told to mark what is pasted while a line is read, and not while a command runs.
READS, RUNS = "\x1b[?2004h", "\x1b[?2004l"
CTRL_C, CTRL_D, TAB, UP = "\x03", "\x04", "\t", "\x1b[A"
#: What a terminal obeys: colours, cursor moves, modes, titles.
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>78])")


def shell(*words: str, code: int = 0, text: str = "", **environment: str) -> str:
    """What `meton-finetune WORDS` prints, errors last, having ended with `code`.

    In this process: a Python takes long to start.
    """
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    mask = os.umask(0o022)
    try:
        with (
            mock.patch.dict(os.environ, {"COLUMNS": "120", **environment}), mock.patch("sys.stdin", io.StringIO(text)),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        ):  # fmt: skip
            ended = main(words)
    finally:
        os.umask(mask)
    out.flush()
    said = out.buffer.getvalue().decode() + err.getvalue()
    assert code or not err.getvalue(), said
    assert ended == code, said
    return str(said)


def program(*words: str, code: int = 0, text: str = "", **environment: str) -> str:
    """The same as a program of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "meton_plugins.finetune", *words], input=text, capture_output=True, text=True,
        timeout=60, env={**os.environ, "COLUMNS": "120", **environment}, check=False,
    )  # fmt: skip
    assert code or not done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def terminal(home: Path) -> Iterator[pexpect.spawn[str]]:
    """The console at a terminal, standing at its first prompt."""
    child = pexpect.spawn(
        sys.executable, ["-m", "meton_plugins.finetune"], encoding="utf-8", timeout=20, dimensions=(40, 100),
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )  # fmt: skip
    assert "type help for the commands, exit to leave." in ready(child)
    yield child
    child.close(force=True)


def ready(child: pexpect.spawn[str]) -> str:
    """Wait until the prompt is up; what was on the screen before it."""
    child.expect_exact(READS)
    said = ESCAPES.sub("", child.before or "").replace("\r", "")
    child.expect_exact(PROMPT)
    return said


def typed(child: pexpect.spawn[str], line: str) -> str:
    """Type a line; what its command prints."""
    child.send(line + "\r")
    child.expect_exact(RUNS)
    return ready(child)


# At a terminal


def test_help_names_every_command_and_verb(terminal: pexpect.spawn[str]) -> None:
    said = typed(terminal, "help")
    words = set(said.split())
    for command, name in (
        (dataset, "/dataset"), (finetune, "/finetune"), (export, "/export"), (model_register, "/model-register"),
    ):  # fmt: skip
        assert name in words
        assert set(command.VERBS) <= words
    assert "/+ is /dataset rate good" in said


@pytest.mark.parametrize("line", ["dataset stats", "/dataset stats", "  dataset   stats  ", "dataset\tstats"])
def test_a_command_with_and_without_its_slash(terminal: pexpect.spawn[str], line: str) -> None:
    assert "0 in 0 sessions" in typed(terminal, f"\x1b[200~{line}\x1b[201~")  # pasted, for a tab would complete


def test_a_short_form_stands_for_its_words(terminal: pexpect.spawn[str]) -> None:
    assert "There is no answer to rate yet" in typed(terminal, "/+ 4")


def test_an_unknown_command_is_answered_by_one_that_is_near(terminal: pexpect.spawn[str]) -> None:
    assert "✗ There is no command 'datset': did you mean /dataset?" in typed(terminal, "datset stats")
    assert "✗ There is no command '[/INST]': type help for the commands." in typed(terminal, "[/INST]")


@pytest.mark.parametrize(
    ("start", "whole"),
    [
        ("fine", "finetune"),
        ("/fine", "/finetune"),
        ("dataset ver", "dataset versions"),
        ("export ad", "export adapter"),
    ],
)
def test_tab_completes(terminal: pexpect.spawn[str], start: str, whole: str) -> None:
    terminal.send(start)
    # The completions come up below the line by themselves.
    terminal.expect_exact(whole.split()[-1].removeprefix("/"))
    terminal.send(TAB)
    assert f"usage: /{whole.removeprefix('/')}" in typed(terminal, " --help")


def test_the_history_is_kept_and_is_the_users_alone(home: Path, terminal: pexpect.spawn[str]) -> None:
    typed(terminal, "dataset stats")
    typed(terminal, "dataset versions")
    file = home / "history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("+")]
    assert lines == ["+dataset stats", "+dataset versions"]
    assert "0 in 0 sessions" in typed(terminal, UP + UP)


def test_ctrl_c_drops_the_line_and_stays(terminal: pexpect.spawn[str]) -> None:
    terminal.send("dataset versions")
    terminal.expect_exact("versions")
    terminal.send(CTRL_C)
    terminal.expect_exact(RUNS)
    assert "No dataset" not in ready(terminal)
    assert "0 in 0 sessions" in typed(terminal, "dataset stats")


@pytest.mark.parametrize(
    "way", ["exit\r", "/exit\r", "quit\r", "q\r", CTRL_D], ids=["exit", "/exit", "quit", "q", "ctrl-d"]
)
def test_ways_out(terminal: pexpect.spawn[str], way: str) -> None:
    typed(terminal, "nonsense")
    terminal.send(way)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_a_question_is_asked_at_the_terminal(home: Path, terminal: pexpect.spawn[str], tmp_path: Path) -> None:
    turns = [Turn(session="s", at="2026-01-01T10:00:00", question="Whom do I ask?", answer="Ask ada@example.org.")]
    with Library(home / "library.db") as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
    for answer in ("n", "nonsense", "", CTRL_C):
        terminal.send(f"dataset export --anonymize --output {tmp_path / 'chats.jsonl'}\r")
        terminal.expect_exact("[y/N] ")
        terminal.send(answer + ("" if answer == CTRL_C else "\r"))
        said = " ".join(ready(terminal).split())
        assert "✗ Nothing was written." in said
    assert not (tmp_path / "chats.jsonl").exists()


# Through a pipe


def test_a_script(home: Path) -> None:
    said = shell(text="# a comment\n\ndataset stats\n/dataset versions\n")
    assert "0 in 0 sessions" in said
    assert "No dataset yet" in said
    assert PROMPT not in said


def test_a_script_goes_on_after_a_mistake_and_tells(home: Path) -> None:
    said = program(text="nonsense\ndataset stats\n", code=2)
    assert "There is no command 'nonsense'" in said
    assert "0 in 0 sessions" in said


def test_a_script_may_leave(home: Path) -> None:
    assert shell(text="exit\nnonsense\n") == ""


def test_a_script_that_is_no_text(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meton_plugins.finetune"], input=b"\xff\xfe\x00\n\x80dataset stats\n",
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, b"")
    assert done.stdout.decode().count("There is no command") == 2


def test_without_any_input(home: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m meton_plugins.finetune <&-', sys.executable], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# One command


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["dataset", "stats"], 0, "0 in 0 sessions"), (["/dataset", "stats"], 0, "0 in 0 sessions"),
        (["help"], 0, "COMMAND --help tells more."), (["finetune"], 0, "usage: /finetune VERB"),
        (["finetune", "show"], 1, "✗ There is no run yet"), (["finetune", "nope"], 2, "✗ /finetune has no word"),
        (["nonsense"], 2, "✗ There is no command 'nonsense'"), ([""], 2, "✗ There is no command ''"),
        (["dataset", "show", "it's"], 1, "✗ "), (["--nope"], 2, "✗ meton-finetune does not take --nope"),
        (["--home"], 2, "✗ Argument --home: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_one_command_and_its_exit_code(home: Path, words: list[str], code: int, said: str) -> None:
    assert said in shell(*words, code=code)


def test_the_program_ends_with_the_code(home: Path) -> None:
    assert "✗ There is no run yet" in program("finetune", "show", code=1)
    assert json.loads(program("--json", "dataset", "stats"))["examples"] == 0


@pytest.mark.parametrize(
    "words", [["--json", "dataset", "stats"], ["dataset", "stats", "--json"]], ids=["in front", "at the end"]
)
def test_json(home: Path, words: list[str]) -> None:
    assert json.loads(shell(*words))["examples"] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [(["finetune", "show"], 1), (["finetune", "nope"], 2), (["nonsense"], 2)],
    ids=["1", "2", "unknown"],
)
def test_errors_as_json(home: Path, words: list[str], code: int) -> None:
    said = json.loads(shell("--json", *words, code=code))
    assert list(said) == ["error"]
    assert not said["error"].startswith("✗")


def test_words_arrive_as_the_shell_gave_them(home: Path) -> None:
    with Library(home / "library.db") as library:
        [new], _ = library.add([Turn(session="s", at="2026-01-01T10:00:00", question="Why?", answer="So.")])
    text = 'It\'s "so"; $HOME [/INST] [bold]x'
    shell("dataset", "fix", new, text)
    assert json.loads(shell("--json", "dataset", "show", new))["correction"] == text
    assert text in shell("dataset", "show", new)


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
def test_version(home: Path, json_too: bool) -> None:
    if json_too:
        assert json.loads(shell("--json", "--version")) == {"version": __version__}
    else:
        assert shell("--version") == f"meton-finetune {__version__}\n"
    assert not home.exists(), "asking for the version makes nothing"


def test_help_of_the_program(home: Path) -> None:
    said = shell("--help")
    for flag in ("--version", "--json", "--config PATH", "--home PATH"):
        assert flag in said
    assert not home.exists()


def test_another_home(home: Path, tmp_path: Path) -> None:
    for words in (["--home", str(tmp_path / "a")], [f"--home={tmp_path / 'b'}"], ["--home", "~/c"]):
        shell(*words, "dataset", "stats", HOME=str(tmp_path))
    for name in ("a", "b", "c"):
        assert (tmp_path / name / "library.db").is_file()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / name / "library.db").stat().st_mode) == 0o600
    assert not home.exists()


def test_a_relative_home_is_the_same_folder_from_everywhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = json.loads(shell("--json", "--home", "here", "finetune", "doctor", code=1))
    disk = next(row["found"] for row in rows if row["what"] == "disk")
    assert disk.endswith(f"free for {tmp_path / 'here'}")


def test_a_home_that_cannot_be(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = shell("--home", str(tmp_path / "file" / "x"), "dataset", "stats", code=1)
    assert said == f"✗ The system refused: Not a directory ({tmp_path / 'file' / 'x'}).\n"


def test_config_names_the_file_whose_slots_are_shown(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("models:\n  primary: a:b\n", encoding="utf-8")
    for words in (["--config", str(config)], [f"--config={config}"]):
        rows = json.loads(shell("--json", *words, "finetune", "doctor", code=1))
        assert {"verdict": "ok", "what": "host", "found": f"console, {config}", "advice": ""} in rows
    (home / "settings.toml").write_text(f'[serve]\nconfig = "{config}"\n', encoding="utf-8")
    rows = json.loads(shell("--json", "finetune", "doctor", code=1))
    assert f"console, {config}" in [row["found"] for row in rows]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[train\n", "is not TOML"), (b"[train]\nepoch = 3\n", "there is no setting 'train.epoch'"),
        (b"\xff\xfe", "cannot be read"),
    ],
    ids=["toml", "key", "encoding"],
)  # fmt: skip
def test_settings_that_cannot_be_read(home: Path, content: bytes, words: str) -> None:
    home.mkdir()
    (home / "settings.toml").write_bytes(content)
    said = shell("finetune", "start", code=1)
    assert said.startswith(f"✗ {home / 'settings.toml'}")
    assert words in said
    assert said.count("\n") == 1
    assert "0 in 0 sessions" in shell("dataset", "stats"), "what needs no settings works"
    assert __version__ in shell("--version")


def test_validate(home: Path) -> None:
    assert shell("validate").startswith("✓ plugin.toml says what registration makes: 4 commands")
    said = json.loads(shell("validate", "--json"))
    assert said["problems"] == []
    assert said["templates"]
    assert "usage: meton-finetune validate" in shell("validate", "--help")
    assert "does not take more" in shell("validate", "more", code=2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_everything(home: Path, encoding: str) -> None:
    assert "There is no command 'nonsense'" in program("nonsense", code=2, PYTHONIOENCODING=encoding)


def test_a_name_that_is_not_utf8(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meton_plugins.finetune", b"export", b"model", b"\xff\xfe"],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().count("\n") == 1


def told(*words: str, to: str, text: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program whose standard output may be the file `to`."""
    done = subprocess.run(
        ["/bin/bash", "-c", f'"$0" -m meton_plugins.finetune "$@" {to}', sys.executable, *words],
        capture_output=True, text=True, input=text, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_an_error_is_no_result(home: Path) -> None:
    """What is piped on is results; one who types lines, or a machine that reads JSON, looks in one place."""
    sentence = "There is no example 'cafe' in the library: see /dataset list."
    assert told("dataset", "show", "cafe", to="") == (1, "", f"✗ {sentence}\n")
    assert told("nonsense", to="")[:2] == (2, "")
    assert told("--nonsense", to="")[:2] == (2, "")
    code, out, err = told("--json", "dataset", "show", "cafe", to="")
    assert (code, json.loads(out), err) == (1, {"error": sentence}, "")
    assert told(to="", text="dataset show cafe\n") == (1, f"✗ {sentence}\n", "")


@pytest.mark.parametrize(
    "line", ["dataset list", "--json dataset list", "dataset --help", "--json nonsense", "--help", "help"]
)
def test_a_full_disk_behind_the_pipe(home: Path, line: str) -> None:
    code, _, err = told(*line.split(), to="> /dev/full")
    assert (code, err) == (1, "✗ The system refused: No space left on device.\n")


@pytest.mark.parametrize("line", ["dataset list", "--json dataset list", "help", "--help"])
def test_a_reader_who_has_left_is_told_nothing(home: Path, line: str) -> None:
    assert told(*line.split(), to="| true") == (0, "", "")


# What is imported

HEAVY = ("numpy", "gguf", "rich", "langchain_core", "ollama", "httpx", "jinja2", "prompt_toolkit", "ruamel", "psutil")


@pytest.mark.parametrize(
    "code",
    [
        "import meton_plugins.finetune.plugin",
        "from meton_plugins.finetune.plugin import register\n"
        "from meton_plugins.host.console import ConsoleHost\n"
        "from pathlib import Path\n"
        "host = ConsoleHost(Path('unused'))\nregister(host)\nassert host.commands and host.tools",
        "import meton_plugins.finetune.__main__",
    ],
    ids=["imported", "registered", "console"],
)
def test_registering_imports_nothing_heavy(code: str) -> None:
    """Meton must not start slower, nor fail, for a plugin that is only there."""
    ask = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "pydantic" in loaded, "the probe sees what is loaded"
    assert loaded.isdisjoint(HEAVY)


# The host itself


class Typist:
    """A standard input that is a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "as_json", "typed", "answer"),
    [
        (True, False, "y", True), (True, False, " YES ", True), (True, False, "n", False), (True, False, "", False),
        (True, False, "yesterday", False), (True, False, EOFError(), False), (True, False, KeyboardInterrupt(), False),
        (False, False, "y", None), (True, True, "y", None),
    ],
    ids=["y", "YES", "n", "nothing", "other", "end", "ctrl-c", "no terminal", "json"],
)  # fmt: skip
def test_asking(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, as_json: bool, typed: str | BaseException, answer: bool | None
) -> None:
    def read() -> str:
        if isinstance(typed, BaseException):
            raise typed
        return typed

    monkeypatch.setattr(sys, "stdin", Typist(terminal))
    monkeypatch.setattr("builtins.input", read)
    host = ConsoleHost(Path("unused"), json=as_json)
    assert host.ask("Really [bold]?") is answer


def test_asking_from_another_thread_is_nobody() -> None:
    import threading

    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(ConsoleHost(Path("unused")).ask("?")))
    thread.start()
    thread.join()
    assert said == [None]
