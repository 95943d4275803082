"""The agent's tools: lenient with what a model sends, strict with what it may do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.host import RecordingHost, Slots

from meton_plugins.finetune import tools
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.plugin import commands_for, register
from meton_plugins.finetune.tools import LONGEST, TOOLS, Tool
from meton_plugins.finetune.turn import Turn
from meton_plugins.host.api import Command, Effect, Host

BY_NAME = {tool.name: tool for tool in TOOLS}
ASKING = [tool for tool in TOOLS if tool.effect is not Effect.READ]
WITH_WORDS = [tool for tool in TOOLS if tool.words]


class Agent:
    """A model that uses tools; every command only writes down the line that it was given."""

    def __init__(self, home: Path, answers: list[bool | None], said: str = "Done.", code: int = 0) -> None:
        self.host = RecordingHost(home, answers=answers)
        self.lines: list[str] = []
        self.said, self.code = said, code
        for spec in tools.make(self.host, self._commands):
            self.host.add_tool(spec)

    def _commands(self, host: Host) -> Mapping[str, Command]:
        def run(name: str, line: str) -> int:
            self.lines.append(f"{name} {line}")
            host.console.print(self.said, markup=False, highlight=False, soft_wrap=True)
            return self.code

        names = ("/dataset", "/finetune", "/export", "/model-register")
        return {name: Command(name, "", lambda line, name=name: run(name, line)) for name in names}  # type: ignore[misc]

    def use(self, name: str, text: str) -> str:
        return self.host.tools[name].run(text)


def value(tool: Tool) -> str:
    """A value that the first word of a tool may have."""
    return {"score": "4", "model": "meton-one:3"}.get(tool.words[0], "run-1")


# What a model sends


@pytest.mark.parametrize("tool", WITH_WORDS, ids=lambda tool: tool.name)
@pytest.mark.parametrize(
    "form",
    [
        '{{"{name}": "{value}"}}', '```json\n{{"{name}": "{value}"}}\n```', '```\n{{"{name}": "{value}"}}```',
        "{value}", "'{value}'", '"{value}"', "```\n{value}\n```", "  {value}\n",
    ],
    ids=["json", "fenced", "bare fence", "word", "quoted", "double", "fenced word", "blanks"],
)  # fmt: skip
def test_a_value_is_understood_in_every_form(home: Path, tool: Tool, form: str) -> None:
    agent = Agent(home, [True])
    agent.use(tool.name, form.format(name=tool.words[0], value=value(tool)))
    switches = "".join(f" {switch}" for switch in tool.switches)
    assert agent.lines == [f"{tool.command} {tool.verb} {value(tool)}{switches}"]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("text", ["", "  ", "ANSWER:", "{}", "none", "None", "null", "```json\n{}\n```", '{"x": null}'])
def test_nothing_is_understood_as_nothing(home: Path, tool: Tool, text: str) -> None:
    agent = Agent(home, [True])
    first = (*tool.words, *tool.flags, "x")[0]
    said = agent.use(tool.name, text.replace('"x"', f'"{first}"'))
    if tool.needs:
        assert said.startswith(f"✗ {tool.name} needs {tool.words[0]}: ")
        assert f'"{tool.words[0]}"' in said, "the model is shown how"
        assert (agent.lines, agent.host.asked) == ([], [])
    else:
        switches = "".join(f" {switch}" for switch in tool.switches)
        assert agent.lines == [f"{tool.command} {tool.verb}{switches}"]


def test_options_become_flags(home: Path) -> None:
    agent = Agent(home, [True] * 3)
    agent.use("training_start", '{"epochs": 3, "learning_rate": 0.0002, "name": "a b", "base": ""}')
    agent.use("dataset_build", '{"filter_keyword": "it\'s; rm -rf /"}')
    agent.use("model_export", '{"run": "run-1", "quant": "q8_0,f16"}')
    assert [shlex.split(line) for line in agent.lines] == [
        ["/finetune", "start", "--epochs=3", "--learning-rate=0.0002", "--name=a b"],
        ["/dataset", "build", "--filter-keyword=it's; rm -rf /"],
        ["/export", "model", "run-1", "--quant=q8_0,f16"],
    ]


WRONG = {
    "cut": ('{"run": "run-1', "takes JSON with run"),
    "unknown": ('{"runs": "run-1"}', "takes run, not 'runs'"),
    "list": ('{"run": ["run-1"]}', "takes plain values for run"),
    "object": ('{"run": {"name": "run-1"}}', "takes plain values for run"),
    "truth": ('{"run": true}', "takes plain values for run"),
    "newline": ('{"run": "run-1\\nrun-2"}', "takes a short run in one line"),
    "escape": ('{"run": "\\u001b[2Jrun-1"}', "takes a short run in one line"),
    "turned": ('{"run": "run-1\\u202e"}', "takes a short run in one line"),
    "nul": ("run\x00", "takes a short run in one line"),
    "half": ("run\ud800", "takes a short run in one line"),
    "long": ("x" * 201, "takes a short run in one line"),
    "option": ("--yes", "takes run, not an option"),
    "short option": ("-x", "takes run, not an option"),
    "option in json": ('{"run": "--help"}', "takes run, not an option"),
    "fenced option": ("```\n--yes\n```", "takes run, not an option"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_sent_back(home: Path, text: str, words: str) -> None:
    """With the mark, for the model can mend it; the user is not asked, and nothing runs."""
    agent = Agent(home, [True])
    said = agent.use("training_stop", text)
    assert said.startswith("✗ training_stop ")
    assert words in said
    assert "\n" not in said
    assert len(said) < 400
    assert (agent.lines, agent.host.asked) == ([], [])


@pytest.mark.parametrize("tool", WITH_WORDS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("word", ["--yes", "-x", "--slot=primary", "- "])
def test_no_tool_takes_an_option_for_a_word(home: Path, tool: Tool, word: str) -> None:
    agent = Agent(home, [True])
    assert agent.use(tool.name, f'{{"{tool.words[0]}": "{word}"}}').startswith("✗ ")
    assert agent.lines == []


@pytest.mark.parametrize(
    "word", ["a b", "a'b", 'a"b', "a; rm -rf /", "$(reboot)", "`x`", "a\\b", "a --yes", "[/INST]", "😀"]
)
def test_a_value_stays_one_word(home: Path, word: str) -> None:
    agent = Agent(home, [True])
    agent.use("model_promote", f"{word}")
    [line] = agent.lines
    assert shlex.split(line) == ["/model-register", "promote", word, "--yes"]


# Asking first


@pytest.mark.parametrize("tool", ASKING, ids=lambda tool: tool.name)
@pytest.mark.parametrize("answer", [True, False, None], ids=["yes", "no", "nobody"])
def test_what_changes_something_is_asked_about(home: Path, tool: Tool, answer: bool | None) -> None:
    agent = Agent(home, [answer])
    text = value(tool) if tool.words else ""
    said = agent.use(tool.name, text)
    [question] = agent.host.asked
    line = f"{tool.command} {tool.verb} {text}".strip()
    assert question.startswith(f"The assistant wants to {tool.does} ({line}")
    assert question.endswith("). Do it?")
    assert bool(agent.lines) is bool(answer)
    if not answer:
        assert said.startswith("Not done: ")
        assert ("the user said no" in said) is (answer is False)
        assert (line in said) is (answer is None)


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in ASKING], ids=lambda tool: tool.name)
def test_what_only_reads_asks_nobody(home: Path, tool: Tool) -> None:
    agent = Agent(home, [])
    agent.use(tool.name, value(tool) if tool.words else "")
    assert agent.host.asked == []
    assert len(agent.lines) == 1


def test_a_question_says_what_is_really_run(home: Path) -> None:
    agent = Agent(home, [True])
    agent.use("model_promote", '{"model": "meton-one:3", "slot": "primary"}')
    assert agent.host.asked == [
        "The assistant wants to change the model that answers you "
        "(/model-register promote meton-one:3 --slot=primary --yes). Do it?"
    ]
    assert agent.lines == ["/model-register promote meton-one:3 --slot=primary --yes"]


# What comes back


@pytest.mark.parametrize(
    ("code", "said", "heard"),
    [(0, "It is well.", "It is well."), (1, "✗ It is busy.", "It is busy."), (2, "✗ No such flag.", "✗ No such flag."),
     (130, "✗ Interrupted.", "Interrupted."), (0, "", "Done.")],
    ids=["fine", "refused", "typed wrongly", "interrupted", "silent"],
)  # fmt: skip
def test_only_what_a_model_can_mend_keeps_the_mark(home: Path, code: int, said: str, heard: str) -> None:
    assert Agent(home, [], said=said, code=code).use("training_status", "") == heard


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 100_000])
def test_answers_are_bounded(home: Path, length: int) -> None:
    said = Agent(home, [], said="x" * length).use("training_status", "")
    assert len(said) == LONGEST
    assert said.endswith("…") is (length > LONGEST)


# With the real commands


@pytest.fixture
def real(home: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingHost:
    """A host with everything registered, whose user agrees to all."""
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    host = RecordingHost(home, answers=[True] * 50, slots=Slots({"primary": "a:b"}))
    register(host)
    return host


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_is_a_command_that_exists(real: RecordingHost, tool: Tool) -> None:
    assert tool.verb in commands_for(real)[tool.command].verbs
    spec = real.tools[tool.name]
    assert (spec.effect, spec.asks) == (tool.effect, tool.effect is not Effect.READ)
    assert len(tool.description) < 120
    assert "\n" not in tool.description


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_word_and_flag_of_a_tool_is_one_of_its_command(real: RecordingHost, tool: Tool) -> None:
    command = commands_for(real)[tool.command]
    real.clear()
    command.run(f"{tool.verb} --help")
    for flag in (*(f"--{name.replace('_', '-')}" for name in tool.flags), *tool.switches):
        assert flag in real.output


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("text", ["", "nothing-of-that-name", '{"x": 1}', "[/INST]", "-1", "a" * 100_000])
def test_nothing_raises_and_refusals_have_no_mark(real: RecordingHost, tool: Tool, text: str) -> None:
    said = real.tools[tool.name].run(text)
    assert 0 < len(said) <= LONGEST
    assert "Unexpected" not in said
    if said.startswith("✗ "):
        assert "There is no run" not in said, "a model cannot mend that"


def test_a_refusal_that_no_model_can_mend(real: RecordingHost) -> None:
    assert real.tools["training_stop"].run("") == "There is no run yet: start one with /finetune start."
    assert real.tools["training_start"].run("").startswith("The training engine is not installed")
    assert real.tools["rate_answer"].run("4").startswith("There is no answer to rate yet")


def test_a_tool_really_does_it(real: RecordingHost, home: Path) -> None:
    with Library(home / "library.db") as library:
        library.add([Turn(session="s", at="2026-01-01T10:00:00", question="Why [bold]?", answer="So.")])
    said = real.tools["rate_answer"].run('{"score": 4}')
    assert said.startswith("Rated 4: Why [bold]?")
    assert real.asked == ["The assistant wants to rate the last answer (/dataset rate 4). Do it?"]
    with Library(home / "library.db") as library:
        [example] = library.find()
    assert example.score == 4
    assert real.output == "", "what a tool says goes to the model"


def test_a_tools_command_asks_nobody_a_second_time(home: Path) -> None:
    """It was agreed to already; a command that asks of itself is told that nobody is there."""
    heard: list[Any] = []

    def commands(host: Host) -> Mapping[str, Command]:
        def run(_line: str) -> int:
            heard.append((host.ask("Really?"), host.json, host.name, host.data_dir, host.slots, host.conversations_dir))
            return 0

        return {"/finetune": Command("/finetune", "", run)}

    host = RecordingHost(home, answers=[True, True])
    [spec] = [spec for spec in tools.make(host, commands) if spec.name == "training_stop"]
    spec.run("run-1")
    assert heard == [(None, False, "test agent", home, None, None)], "the history tells the assistant from its user"
