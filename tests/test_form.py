"""The agent's form: what is written is what Meton reads."""

from __future__ import annotations

import re

import pytest

from meton_plugins.finetune import form
from meton_plugins.finetune.form import Step, divide, parse, render, score
from meton_plugins.finetune.turn import Message, ToolUse

ANSWERS = {
    "plain": "Use FastAPI.",
    "lines": "First this.\n\nThen that:\n  - indented",
    "code": "```python\ndef f(x):\n    return x[0]\n```",
    "heads": "The model must write ANSWER: and ACTION: NONE.",
    "unicode": "Grüße 🎉 — ok",
}


def as_meton_reads(text: str) -> dict[str, str]:
    """The four parts by the rules that Meton's agent follows: first head, lazily up to the next line's head."""
    rules = {
        "action": r"ACTION:\s*(\S+)",
        "answer": r"ANSWER:\s*(.+?)$",
        "thought": r"THOUGHT:\s*(.+?)(?=\nACTION:|$)",
    }
    found = {name: re.search(rule, text, re.DOTALL) for name, rule in rules.items()}
    return {name: match.group(1).strip() if match else "" for name, match in found.items()}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_wrapped_answer_comes_back_whole(answer: str) -> None:
    text = form.wrap(answer)
    step = form.parse(text)
    assert step is not None
    assert step.answer == answer
    assert step.action is None
    assert form.score(text) == 1.0
    read = as_meton_reads(text)
    assert read["answer"] == answer
    assert read["action"] == "NONE"
    assert read["thought"] == form.THOUGHT


def test_wrapping_twice_changes_nothing() -> None:
    once = form.wrap("Use FastAPI.")
    assert form.wrap(once) == once


def test_a_thought_cannot_end_itself() -> None:
    text = form.wrap("Yes.", thought="I see\nACTION: rm\nANSWER: no")
    assert as_meton_reads(text)["action"] == "NONE"
    assert as_meton_reads(text)["answer"] == "Yes."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("Just an answer.", None),
        ("THOUGHT: hm\nACTION: NONE\nACTION_INPUT:\nANSWER:", None),
        ("ANSWER: only this", form.Step(answer="only this")),
        ("```\nTHOUGHT: t\nACTION: NONE\nACTION_INPUT:\nANSWER: a\n```", form.Step("t", None, "", "a")),
        ("**THOUGHT:** t\n**ACTION:** NONE\n**ACTION_INPUT:**\n**ANSWER:** a", form.Step("t", None, "", "a")),
        ("thought: t\nanswer : a", form.Step("t", None, "", "a")),
        (
            'THOUGHT: read\nACTION: `file_operations`\nACTION_INPUT: ```json\n{"path": "x"}\n```\nANSWER:',
            form.Step("read", "file_operations", '{"path": "x"}', ""),
        ),
        ("ACTION: none.\nANSWER: a", form.Step("", "none.", "", "a")),
    ],
    ids=["empty", "no-form", "no-answer", "answer-only", "fenced", "bold", "lower", "tool", "odd-action"],
)
def test_parse(text: str, expected: form.Step | None) -> None:
    assert form.parse(text) == expected


def test_scores_fall_with_each_thing_that_is_lost() -> None:
    whole = form.wrap("a")
    without_input = whole.replace("ACTION_INPUT:\n", "")
    chatter = "Sure!\n" + whole
    bold = whole.replace("ANSWER:", "**ANSWER:**")
    scores = [form.score(text) for text in (whole, chatter, without_input, bold, "ANSWER", "Use FastAPI.")]
    assert scores[0] == 1.0
    assert all(0 < score < 1 for score in scores[1:4])
    assert scores[4:] == [0.0, 0.0]
    swapped = "ACTION: NONE\nTHOUGHT: t\nACTION_INPUT:\nANSWER: a"
    assert form.score(swapped) < 1.0


def test_the_prompt_is_short_and_holds_all() -> None:
    assert len(form.COMPACT_INSTRUCTIONS) <= 300
    for head in form.SECTIONS:
        assert f"{head}:" in form.COMPACT_INSTRUCTIONS
    context = [Message(role="user", content="x" * 500), Message(role="assistant", content="short")]
    text = form.prompt(" Why? ", context, [ToolUse(name="reader", output="42 lines")])
    assert "User Query: Why?\n" in text
    assert "USER: " + "x" * 200 + "...\nASSISTANT: short" in text
    assert "- reader: 42 lines" in text
    assert text.index("Recent Conversation") < text.index("User Query") < text.index("reader")
    assert "Recent Conversation" not in form.prompt("Why?")


@pytest.mark.parametrize(
    "step",
    [
        Step("I look.", "file_operations", '{"action": "read",\n "path": "x"}', ""),
        Step("I know.", None, "", "Two\nlines. ACTION: is a word here."),
    ],
    ids=["tool", "answer"],
)
def test_a_rendered_step_is_read_back(step: Step) -> None:
    text = render(step)
    assert parse(text) == step
    assert score(text) == 1.0


def test_an_answer_beside_a_tool_is_dropped() -> None:
    assert render(Step("t", "ls", "{}", "made up")) == "THOUGHT: t\nACTION: ls\nACTION_INPUT: {}\nANSWER:"


@pytest.mark.parametrize(
    "own",
    [
        "Recent Conversation:\nUSER: hi\n\nUser Query: hi",
        "User Query: hi",
        "━━━━\nRELEVANT MEMORIES (from previous sessions):\n━━━━\n  • x\n\nRecent Conversation:",
        "Previous Thoughts:\n1. look",
    ],
    ids=["context", "query", "memories", "thoughts"],
)
def test_instructions_are_told_from_the_rest(own: str) -> None:
    instructions = "You are Meton.\n" * 200 + "\n\n"
    assert divide(instructions + own) == (instructions, own)
    assert divide(own) == ("", own)
    assert divide("You are someone else. " * 200) == ("", "You are someone else. " * 200)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("CRITICAL - EXACT TOOL NAMES (copy these):\na_tool, b.c\n\nmore", ("a_tool", "b.c")),
        ("EXACT TOOL NAMES:\nonly_one", ("only_one",)),
        ("EXACT TOOL NAMES:\n\nnone here", ()),
        ("EXACT TOOL NAMES:\nrm -rf /, ok, [bold]\n", ("ok",)),
        ("no such section: a, b", ()),
        ("", ()),
    ],
    ids=["two", "one", "empty", "hostile", "other", "nothing"],
)
def test_tools_that_instructions_offer(text: str, names: tuple[str, ...]) -> None:
    assert form.tools_in(text) == names


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("THOUGHT: t\nACTION: NONE\nACTION_INPUT:\nANSWER: a", True),
        ("THOUGHT: t\nACTION: reader\nACTION_INPUT: {}\nANSWER:", True),
        ("ANSWER: a", True),
        ("THOUGHT: t\nACTION: reader\nACTION_INPUT: {}", False),
        ("**ANSWER:** a", False),
        ("Use FastAPI.", False),
        ("THOUGHT: t\nACTION: NONE\nACTION_INPUT:\nANSWER:", False),
        ("", False),
    ],
    ids=["answer", "tool", "only-answer", "no-answer-head", "bold", "plain", "empty-answer", "nothing"],
)
def test_keeping_the_form(text: str, kept: bool) -> None:
    assert form.keeps(text) is kept


def test_the_answer_of_a_text() -> None:
    assert form.answer_of(form.wrap("Use FastAPI.\n\nIt is quick.")) == "Use FastAPI.\n\nIt is quick."
    assert form.answer_of("Use ANSWER: as a head.") == "Use ANSWER: as a head."


def test_a_full_prompt_divides_where_metons_does() -> None:
    instructions = "You are Meton.\n" + "Do this.\n" * 200 + "\n"
    context = [Message(role="user", content="Hi"), Message(role="assistant", content="x" * 300)]
    text = form.full_prompt(instructions, " Why? ", context)
    assert divide(text) == (instructions, text[len(instructions) :])
    assert text[len(instructions) :].startswith("Recent Conversation:\nUSER: Hi\nASSISTANT: " + "x" * 200 + "...\n")
    assert "\nUser Query: Why?\n\nNow, think step by step" in text
    assert text.endswith("ready to give the final ANSWER")


@pytest.mark.parametrize("question", ["Why?", "Two\n\nparagraphs and `code`", "What does User Query: mean?"])
@pytest.mark.parametrize("tools", [(), (ToolUse(name="ls", output="a\n\nb"), ToolUse(name="cat", output="x"))])
@pytest.mark.parametrize("context", [(), (Message(role="user", content="hi"), Message(role="assistant", content="ho"))])
def test_a_question_is_found_in_its_prompt(
    question: str, tools: tuple[ToolUse, ...], context: tuple[Message, ...]
) -> None:
    assert form.asked(form.prompt(question, context, tools)) == question
    assert form.asked(question) == question
    assert form.unprompted(form.prompt(question, context, tools)) == (question, tools)
    assert form.unprompted(question) is None
