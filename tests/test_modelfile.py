"""Modelfiles: the grammar of Ollama's own parser, nasty texts, inheritance, and what Meton overrides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from meton_plugins.finetune.errors import ConfigError, NotFound, UsageError
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.serve.modelfile import (
    Message,
    Modelfile,
    parameters_overridden_by_meton,
    parse,
    to_create_request,
    write,
)
from meton_plugins.finetune.serve.ollama import Show
from meton_plugins.finetune.serve.templates import inherit, list_templates, load_template

SHIPPED = ("basic", "explainer", "fastapi-expert", "langchain-expert", "python-specialist")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        pytest.param("SYSTEM You are kind.", "system", "You are kind.", id="bare"),
        pytest.param("system  you   are ", "system", "you   are", id="lower-case-and-trimmed"),
        pytest.param('SYSTEM " kind "', "system", " kind ", id="quoted"),
        pytest.param('SYSTEM """a\nb"""', "system", "a\nb", id="two-lines"),
        pytest.param('SYSTEM "a\nb"', "system", "a\nb", id="two-lines-one-quote"),
        pytest.param('SYSTEM """a\n# b\nPARAMETER stop c\n"""', "system", "a\n# b\nPARAMETER stop c\n", id="hash"),
        pytest.param('SYSTEM """a"b""c"""', "system", 'a"b""c', id="quotes-within"),
        pytest.param('SYSTEM """a\n"""  \t\nLICENSE x', "system", "a\n", id="blanks-after-closing"),
        pytest.param('SYSTEM ""', "system", "", id="empty"),
        pytest.param('SYSTEM """"""', "system", "", id="empty-three"),
        pytest.param("SYSTEM it's # no comment", "system", "it's # no comment", id="hash-within"),
        pytest.param("SYSTEM a\\nb", "system", "a\\nb", id="no-escapes"),
        pytest.param("SYSTEM a\r\nLICENSE b", "system", "a", id="crlf"),
        pytest.param("SYSTEM a\nSYSTEM b", "system", "b", id="last-wins"),
        pytest.param("# SYSTEM x\n\n  # y\nSYSTEM z", "system", "z", id="comments"),
        pytest.param("PARAMETER stop a\nPARAMETER stop \" b\"", "parameters", {"stop": ["a", " b"]}, id="stops-add-up"),
        pytest.param("PARAMETER top_k 40\nPARAMETER top_k 50", "parameters", {"top_k": 50}, id="last-parameter-wins"),
        pytest.param("PARAMETER use_mmap F", "parameters", {"use_mmap": False}, id="bool"),
        pytest.param("PARAMETER temperature 1e-1", "parameters", {"temperature": 0.1}, id="float"),
        pytest.param("MESSAGE user hi\nMESSAGE assistant ho", "messages",
                     (Message("user", "hi"), Message("assistant", "ho")), id="messages"),
        pytest.param("LICENSE a\nLICENSE b", "licenses", ("a", "b"), id="licences"),
        pytest.param("RENDERER qwen3-coder\nPARSER qwen3-coder", "parser", "qwen3-coder", id="renderer-parser"),
    ],
)  # fmt: skip
def test_parse(text: str, field: str, value: object) -> None:
    assert getattr(parse(f"FROM .\n{text}"), field) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("FROM .\nSYSTM x", "line 2: 'SYSTM x'", id="unknown"),
        pytest.param("FROM .\n\n4 x", "line 3", id="digit"),
        pytest.param("FROM .\nSYSTEM", "SYSTEM needs a blank", id="no-value"),
        pytest.param("FROM .\nSYSTEM \"\"\"never\nended", "line 2: the quoted text", id="never-closed"),
        pytest.param("FROM .\nMESSAGE robot hi", "system, user, assistant, not 'robot'", id="role"),
        pytest.param("FROM .\nPARAMETER top_q 1", "no PARAMETER 'top_q'", id="unknown-parameter"),
        pytest.param("FROM .\nPARAMETER top_k much", "top_k takes a whole number", id="wrong-type"),
        pytest.param("FROM .\nPARAMETER top_k 1_0", "top_k takes a whole number", id="pythonic-number"),
        pytest.param("FROM .\nPARAMETER temperature nan", "temperature cannot be", id="nan"),
        pytest.param("FROM .\nPARAMETER use_mmap yes", "true or false", id="wrong-bool"),
        pytest.param("FROM .\nPARAMETER mirostat 1", "no longer takes", id="retired"),
        pytest.param("FROM .\nPARAMETER stop", "PARAMETER stop needs", id="parameter-without-value"),
        pytest.param("FROM .\nADAPTER x.gguf", "ADAPTER is not used here", id="adapter"),
        pytest.param("SYSTEM x", "no FROM line", id="no-from"),
        pytest.param("", "no FROM line", id="empty"),
    ],
)  # fmt: skip
def test_bad_text_names_the_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.Modelfile") as caught:
        parse(text, "my.Modelfile")
    assert words in caught.value.sentence


NASTY = [
    'say "hi"',
    '"', '""', '"x', 'x"', '"x"', " x", "x ", "\tx", "#x", "a\n#b", "a\nSYSTEM b", 'a"\nb', '"a\nb', "\n", "",
    "a\r\nb",
    "\r", '"""', 'a"""b', '"""a', "ünïcødé 🎉", "a\u200db", "\u00a0x", "{{ .Prompt }}", "[/INST] [bold]x[/bold]",
    "x\ny\n", 'first "word"\nsecond', "\x1cx", "a\x00b",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_any_text_comes_back_or_is_refused_and_never_becomes_an_instruction(text: str) -> None:
    modelfile = Modelfile(
        system=text, parameters={"stop": [text, "b"]}, messages=(Message("user", text),), licenses=(text,)
    )
    assert to_create_request(modelfile, "a:b", {})["messages"] == [{"role": "user", "content": text}]
    assert parse(write(modelfile)) == modelfile


def test_a_text_that_the_grammar_cannot_say_is_refused_and_still_travels_as_json() -> None:
    text = 'so:\n"""\nPARAMETER stop x\n'
    with pytest.raises(ConfigError, match="no escapes"):
        write(Modelfile(system=text))
    assert to_create_request(Modelfile(system=text), "a:b", {}) == {
        "model": "a:b", "files": {}, "stream": True, "system": text,
    }  # fmt: skip


def test_random_texts_round_trip() -> None:
    chance = random.Random(1)
    refused = 0
    for _round in range(3000):
        text = "".join(
            chance.choice(['"', '"""', "\n", " ", "a", "#", "\r", "\t", "SYSTEM x"]) for _ in range(chance.randrange(9))
        )
        modelfile = Modelfile(system=text, renderer="r")
        try:
            assert parse(write(modelfile)) == modelfile
        except ConfigError:
            refused += 1
    assert refused < 1000


# Fuzzed against the grammar: texts are made by its rules, so what they mean is known without the parser.

WORDS = (
    "SYSTEM",
    "# no comment",
    "FROM x",
    "PARAMETER stop y",
    "it's",
    "ü",
    "🎉",
    "{{ .Prompt }}",
    "\\n",
    "a",
    "0",
    "<|end|>",
)
CHOICES = [*WORDS, '"', '""', '"""', " ", "  ", "\t", "\n", "\r\n", "\n\n", "#"]
BLANKS = (" ", "\t", "  ", " \t ")


def any_text(chance: random.Random, most: int = 8) -> str:
    return "".join(chance.choice(CHOICES) for _ in range(chance.randrange(most)))


def spelled(chance: random.Random, value: str) -> str | None:
    """One of the ways in which the grammar says `value`; None where that way cannot."""
    bare = value == value.strip(" \t\r\n") and not set(value) & {"\n", "\r"} and not value.startswith('"')
    ends = [line.strip() for line in re.split(r"[\r\n]", value)]
    ways = []
    if bare and value:
        ways.append(value)
    # A quoted text ends at the first line that, from the opening quote on, ends with the same quote.
    if not f'"{value}"'.startswith('"""') and not any(line.endswith('"') for line in ends[:-1]):
        ways.append(f'"{value}"')
    if not any(line.endswith('"""') for line in ends[:-1]):
        ways.append(f'"""{value}"""')
    return chance.choice(ways) if ways else None


def any_instruction(chance: random.Random, meant: dict[str, Any]) -> str:
    """A line (or several) of a Modelfile; what it means is put into `meant`."""
    kind = chance.choice(("SYSTEM", "TEMPLATE", "LICENSE", "MESSAGE", "stop", "number", "comment", "nothing"))
    if kind == "comment":
        return "#" + any_text(chance).replace("\n", "").replace("\r", "")
    if kind == "nothing":
        return chance.choice(("", "  ", "\t"))
    name = "".join(
        chance.choice((letter, letter.lower())) for letter in ("PARAMETER" if kind in ("stop", "number") else kind)
    )
    gap, end = chance.choice(BLANKS), chance.choice(("", " ", "\t"))
    if kind == "number":
        parameter, value = chance.choice((("top_k", 7), ("temperature", 0.25), ("use_mmap", False), ("seed", -3)))
        meant["parameters"][parameter] = value
        return f"{name} {parameter}{gap}{str(value).lower()}{end}"
    value = any_text(chance)
    said = spelled(chance, value)
    if said is None:
        return ""
    if kind == "stop":
        meant["parameters"].setdefault("stop", []).append(value)
        return f"{name} stop{gap}{said}{end}"
    if kind == "MESSAGE":
        role = chance.choice(("system", "user", "assistant"))
        meant["messages"].append(Message(role, value))
        return f"{name} {role}{gap}{said}{end}"
    if kind == "LICENSE":
        meant["licenses"].append(value)
    else:
        meant[kind.lower()] = value
    return f"{name}{gap}{said}{end}"


def any_modelfile(chance: random.Random) -> tuple[str, Modelfile]:
    """A text by the grammar, and what it means."""
    meant: dict[str, Any] = {"parameters": {}, "messages": [], "licenses": []}
    newline = chance.choice(("\n", "\r\n"))
    lines = ["FROM ."] + [any_instruction(chance, meant) for _ in range(chance.randrange(7))]
    meant["messages"], meant["licenses"] = tuple(meant["messages"]), tuple(meant["licenses"])
    return newline.join(lines) + chance.choice(("", newline)), Modelfile(**meant)


def test_texts_made_by_the_grammar_mean_what_they_say() -> None:
    chance = random.Random(7)
    for _round in range(3000):
        text, meant = any_modelfile(chance)
        assert parse(text) == meant, text


def test_whole_modelfiles_round_trip() -> None:
    chance = random.Random(8)
    written = 0
    for _round in range(2000):
        _text, modelfile = any_modelfile(chance)
        with contextlib.suppress(ConfigError):  # a line of some text ends with three quotes
            text = write(modelfile)
            written += 1
            assert parse(text) == modelfile, text
    assert written > 1500


def test_a_damaged_text_is_read_or_refused_with_its_line() -> None:
    chance = random.Random(9)
    refused = 0
    for _round in range(3000):
        text, _meant = any_modelfile(chance)
        letters = list(text)
        for _each in range(chance.randrange(1, 4)):
            at = chance.randrange(len(letters) + 1)
            letters[at : at + chance.randrange(3)] = chance.choice(CHOICES)
        said = ""
        try:
            found = parse("".join(letters), "my.Modelfile")
        except ConfigError as error:
            said = error.sentence
        if said:
            assert re.match(r"my\.Modelfile(, line \d+: | has no FROM line)", said)
            refused += 1
            continue
        with contextlib.suppress(ConfigError):
            assert parse(write(found)) == found
    assert 300 < refused < 2700


def test_ollamas_own_parser_reads_the_same(tmp_path: Path) -> None:
    """Its command line has the parser that counts: it reads what we write, and its server says what it read."""
    from meton_plugins.finetune.gguf.tiny import make_tiny
    from meton_plugins.finetune.serve.ollama import Server
    from tests.support.ollama_server import private_server
    from tools.private_ollama import executable

    gguf = make_tiny(tmp_path / "tiny.gguf")
    chance = random.Random(10)
    with private_server(tmp_path / "server") as running, Server(running.url) as server:
        environment = {"OLLAMA_HOST": running.url, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        read = 0
        for number in range(30):
            system, stop, said = (any_text(chance) or "x" for _ in range(3))
            modelfile = Modelfile(
                base=str(gguf), system=system, parameters={"stop": [stop]}, messages=(Message("user", said),)
            )
            try:
                text = write(modelfile)
            except ConfigError:
                continue
            (tmp_path / "Modelfile").write_bytes(text.encode())
            command = [str(executable()), "create", f"m:{number}", "-f", str(tmp_path / "Modelfile")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, (text, done.stderr)
            show = server.show(f"m:{number}")
            assert (show.system, inherit(Modelfile(), show).parameters) == (system, {"stop": [stop]}), text
            read += 1
            reply = httpx.post(f"{running.url}/api/show", json={"model": f"m:{number}"}, trust_env=False).json()
            assert reply["messages"] == [{"role": "user", "content": said}], text
        assert read > 20


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates(name: str) -> None:
    modelfile = load_template(name)
    assert modelfile.system
    assert modelfile.system == modelfile.system.strip()
    assert (modelfile.template, modelfile.renderer, modelfile.base) == (None, None, ".")
    assert parse(write(modelfile)) == modelfile


def test_own_templates_stand_before_shipped_ones(home: Path) -> None:
    folder = home / "templates" / "modelfiles"
    folder.mkdir(parents=True)
    (folder / "basic.Modelfile").write_bytes(b"\xef\xbb\xbfFROM .\r\nSYSTEM mine\r\n")
    (folder / "far.Modelfile").write_text("FROM llama3\n")
    (folder / "bad.Modelfile").write_bytes(b"FROM .\nSYSTEM \xff\n")
    assert [t.name for t in list_templates(Home(home))] == sorted({*SHIPPED, "far", "bad"})
    assert load_template("basic", Home(home)).system == "mine"
    assert load_template(str(folder / "basic.Modelfile")).system == "mine"
    with pytest.raises(ConfigError, match=r"begins with `FROM \.`"):
        load_template("far", Home(home))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_template("bad", Home(home))
    with pytest.raises(NotFound, match="there are bad, basic"):
        load_template("nope", Home(home))
    with pytest.raises(UsageError):
        load_template("..", Home(home))


BASE = Show(
    name="base:7b",
    modelfile='FROM /blobs/sha256-1\nTEMPLATE """{{ .System }}\nRENDERER evil\n"""\nSYSTEM "x\nPARSER evil"\n'
    'RENDERER qwen3-coder\nPARSER qwen3-coder\nPARAMETER stop <|im_end|>\nLICENSE MIT\nRENDERER late\n',
    template="{{ .System }}\nRENDERER evil\n",
    system="x\nPARSER evil",
    parameters='stop                           "<|im_end|>"\nstop       "a\\"b"\ntemperature   0.7\n'
    "num_ctx   32768\nmirostat  1\nnum_batch  1e+03\nuse_mmap  false",
    license="MIT",
    capabilities=frozenset({"completion", "tools"}),
    family="qwen2",
    format="gguf",
    quantization="Q4_K_M",
    remote=False,
)  # fmt: skip


def test_a_template_inherits_what_it_leaves_open() -> None:
    own = Modelfile(system="kind", parameters={"temperature": 0.1, "stop": ["END"]})
    made = inherit(own, BASE)
    assert made.system == "kind"
    assert made.template == BASE.template
    assert (made.renderer, made.parser) == ("qwen3-coder", "qwen3-coder")
    assert made.licenses == ("MIT",)
    assert made.parameters == {
        "stop": ["<|im_end|>", 'a"b', "END"],
        "temperature": 0.1,
        "num_ctx": 32768,
        "num_batch": 1000,
        "use_mmap": False,
    }
    assert inherit(own, None) == own


@pytest.mark.parametrize(
    "text", ["{{ .Prompt }}", "", "{% for m in messages %}{{ m }}{% endfor %}"], ids=["default", "none", "jinja"]
)
def test_only_a_go_template_is_inherited(text: str) -> None:
    assert inherit(Modelfile(), dataclasses.replace(BASE, template=text)).template is None


def test_an_own_template_does_not_take_the_renderer() -> None:
    made = inherit(Modelfile(template="{{ .System }}"), BASE)
    assert (made.template, made.renderer, made.parser) == ("{{ .System }}", None, None)


def test_what_meton_overrides_is_said_with_the_setting_to_change() -> None:
    lines = parameters_overridden_by_meton(Modelfile(parameters={"temperature": 0.2, "num_predict": 9, "stop": ["x"]}))
    words = "is overridden by Meton with each call: set models.settings"
    assert lines == [
        f"PARAMETER num_predict 9 {words}.max_tokens in its config.yaml instead.",
        f"PARAMETER temperature 0.2 {words}.temperature in its config.yaml instead.",
    ]


def test_create_request_checks_parameters() -> None:
    with pytest.raises(ConfigError, match="top_k cannot be"):
        to_create_request(Modelfile(parameters={"top_k": "x"}), "a:b", {})
