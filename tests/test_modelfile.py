"""Modelfiles: the grammar of Ollama's own parser, nasty texts, inheritance, and what Meton overrides."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

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
