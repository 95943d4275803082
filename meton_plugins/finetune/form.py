"""The form in which Meton's agent reads a model: THOUGHT, ACTION, ACTION_INPUT, ANSWER.

Rows for training and questions to a tuned model use the same short prompt, in place of Meton's 56,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .turn import Message, ToolUse

__all__ = [
    "COMPACT_INSTRUCTIONS",
    "Step",
    "answer_of",
    "asked",
    "content_spans",
    "divide",
    "full_prompt",
    "keeps",
    "parse",
    "prompt",
    "render",
    "score",
    "tools_in",
    "unprompted",
    "wrap",
]

COMPACT_INSTRUCTIONS: Final = """\
You are Meton, a local coding assistant. Reply in four parts:
THOUGHT: what to do next
ACTION: a tool's name, or NONE
ACTION_INPUT: JSON for the tool, or empty
ANSWER: the final answer, or empty while a tool is needed"""

QUERY: Final = "User Query: "
RAN: Final = "Previous Tool Calls:"
TAIL: Final = "Reply with THOUGHT, ACTION, ACTION_INPUT and ANSWER."

#: The end of Meton's own prompt, from the question on (core/agent.py), for questions that no call was heard of.
_FULL_TAIL: Final = """User Query: {question}

Now, think step by step and respond with THOUGHT, ACTION, ACTION_INPUT, and ANSWER.

CRITICAL RULES:
1. If you just received a tool result above, you MUST provide an ANSWER based on that result
2. DO NOT call the same tool twice in a row with the same input
3. After getting a file's contents or other tool result, immediately provide your ANSWER
4. Only use ACTION: NONE when you're ready to give the final ANSWER"""

#: Where Meton's instructions name its tools, in one line.
_TOOLS: Final = re.compile(r"EXACT TOOL NAMES[^\n]*:\n([^\n]+)")
#: A name that may stand in a prompt; anything else is not a tool of Meton's.
_TOOL_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}")

#: Meton shows its agent this much of each earlier message; a longer one would train on what is never served.
CONTEXT_LIMIT: Final = 200

#: A whole file read by a tool would push the answer out of the training context.
TOOL_LIMIT: Final = 2000

THOUGHT: Final = "I can answer this directly."

SECTIONS: Final = ("THOUGHT", "ACTION", "ACTION_INPUT", "ANSWER")

#: A section's head at a line's start, also as models decorate it: `**ANSWER:**`, `### Answer:`, `> ANSWER :`.
_HEAD: Final = re.compile(
    r"^[ \t>#*_`-]{0,8}(THOUGHT|ACTION[ _]INPUT|ACTION|ANSWER)[*_`]{0,3}[ \t]*:[*_`]{0,3}", re.MULTILINE | re.IGNORECASE
)
_EXACT: Final = re.compile(r"^(THOUGHT|ACTION_INPUT|ACTION|ANSWER):", re.MULTILINE)
#: What Meton puts behind its instructions, whichever comes first: from there on each call has words of its own.
_OWN: Final = re.compile(
    r"^(?:━+\nRELEVANT MEMORIES|Recent Conversation:|Previous Thoughts:|Previous Tool Calls:|⚠️ ⚠️|User Query:)",
    re.MULTILINE,
)
#: Instructions shorter than this are not worth a place of their own.
SHORTEST: Final = 1000

_FENCE: Final = re.compile(r"\A\s*```[\w-]*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One reply of the agent's model. `action` is None where no tool is wanted."""

    thought: str = ""
    action: str | None = None
    action_input: str = ""
    answer: str = ""


def parse(text: str) -> Step | None:
    """The step in `text`; None where it holds neither an answer nor a tool to run.

    Fences around the whole reply and decorated or missing heads are forgiven. All after ANSWER belongs to the answer,
    as Meton reads it.
    """
    parts = _parts(_unfenced(text))
    action: str | None = parts.get("ACTION", "").split("\n")[0].strip().strip("*_`\"'[]<>").strip()
    if not action or action.upper() in ("NONE", "N/A", "NULL"):
        action = None
    answer = parts.get("ANSWER", "")
    if not answer and action is None:
        return None
    return Step(parts.get("THOUGHT", ""), action, _unfenced(parts.get("ACTION_INPUT", "")).strip(), answer)


def answer_of(text: str) -> str:
    """The answer in a text that is in the form; any other text is one already."""
    step = parse(text) if score(text) == 1.0 else None
    return text if step is None or not step.answer else step.answer


def content_spans(text: str) -> list[tuple[int, int]] | None:
    """Where in `text`, from character to character, a reply in the form says what only it says; None for another text.

    Of an answer that is all after `ANSWER:`; of a call the tool's name and its input. Without the white space around
    them. One head alone is not the form: a plain text may have a line that begins with `Answer:`.
    """
    match = _FENCE.match(text)
    start, end = match.span(1) if match and "```" not in match.group(1) else (0, len(text))
    heads: dict[str, tuple[int, int]] = {}
    matches = [match for match in _HEAD.finditer(text) if start <= match.start() < end]
    for match, last in zip(matches, [*(after.start() for after in matches[1:]), end], strict=False):
        name = match.group(1).upper().replace(" ", "_")
        if name == "ANSWER":
            heads[name] = (match.end(), end)
            break
        heads.setdefault(name, (match.end(), last))
    step = parse(text)
    if step is None or len(heads) < 2:
        return None
    if step.action is None:
        return [_trimmed(text, *heads["ANSWER"])]
    first, last = _trimmed(text, *heads["ACTION"])
    line = text.find("\n", first, last)
    spans = [(first, last if line < 0 else line)]
    if step.action_input:
        spans.append(_trimmed(text, *heads["ACTION_INPUT"]))
    return spans


def wrap(answer: str, thought: str = THOUGHT) -> str:
    """`answer` as a final step in the form; a text that is already one is left as it is."""
    answer = answer.strip()
    if score(answer) == 1.0:
        return answer
    return render(Step(thought=thought or THOUGHT, answer=answer))


def render(step: Step) -> str:
    """`step` exactly in the form. Where a tool is wanted there is no answer: Meton runs the tool and drops it."""
    # A head inside the thought would end it early when Meton reads the step.
    thought = " ".join(re.sub(r"(THOUGHT|ACTION|ACTION_INPUT|ANSWER):", r"\1", step.thought).split())
    asked, answer = (f" {step.action_input}".rstrip(), "") if step.action else ("", f" {step.answer}")
    return f"THOUGHT: {thought}\nACTION: {step.action or 'NONE'}\nACTION_INPUT:{asked}\nANSWER:{answer}"


def divide(prompt: str) -> tuple[str, str]:
    """A prompt of Meton's as its constant instructions and the rest; together they are the prompt."""
    match = _OWN.search(prompt)
    cut = match.start() if match and match.start() >= SHORTEST else 0
    return prompt[:cut], prompt[cut:]


def tools_in(instructions: str) -> tuple[str, ...]:
    """The tools that Meton's instructions offer, by the names that ACTION takes; empty where they name none."""
    match = _TOOLS.search(instructions)
    names = [name.strip() for name in match.group(1).split(",")] if match else []
    return tuple(name for name in names if _TOOL_NAME.fullmatch(name))


def prompt(
    question: str, context: Sequence[Message] = (), tools: Sequence[ToolUse] = (), offered: Sequence[str] = ()
) -> str:
    """What the model is asked: instructions with the names of the `offered` tools, then as Meton shows them earlier
    messages, the question and the results of `tools`.
    """
    parts = [COMPACT_INSTRUCTIONS]
    if offered:
        parts[0] += f"\nTools: {', '.join(offered)}"
    if context:
        parts.append(_conversation(context))
    parts.append(f"{QUERY}{question.strip()}")
    if tools:
        lines = [f"- {tool.name}: {_cut(tool.output, TOOL_LIMIT)}" for tool in tools]
        parts.append("\n".join([RAN, *lines]))
    parts.append(TAIL)
    return "\n\n".join(parts)


def full_prompt(instructions: str, question: str, context: Sequence[Message] = ()) -> str:
    """What Meton sends at the first step of a turn: its whole `instructions`, the conversation, the question."""
    conversation = _conversation(context) if context else ""
    return f"{instructions}{conversation}\n\n\n\n\n\n{_FULL_TAIL.format(question=question.strip())}"


def keeps(text: str) -> bool:
    """Whether Meton can go on with `text`: an exact head `ANSWER:` is there, and an answer or a tool to run."""
    step = parse(text)
    return step is not None and any(match.group(1) == "ANSWER" for match in _EXACT.finditer(text))


def unprompted(text: str) -> tuple[str, tuple[ToolUse, ...]] | None:
    """The question in what `prompt` made, and what tools gave, as it was shown; None for another text."""
    start = text.find(f"\n\n{QUERY}")
    if not text.startswith(COMPACT_INSTRUCTIONS) or start < 0:
        return None
    whole = text[start + 2 + len(QUERY) :].removesuffix(f"\n\n{TAIL}")
    question, _, results = whole.partition(f"\n\n{RAN}\n- ")
    pairs = (result.partition(": ") for result in results.split("\n- ") if results)
    return question, tuple(ToolUse(name=name, output=output) for name, _, output in pairs)


def asked(text: str) -> str:
    """The question in what `prompt` made; another text as it is."""
    found = unprompted(text)
    return text if found is None else found[0]


def score(text: str) -> float:
    """How well `text` keeps the form, 0 to 1.

    0: Meton would find nothing to show or do. Half for an answer or action that can be found by its exact head, the
    rest for each of the four heads exactly written, once before ANSWER, in their order.
    """
    step = parse(text)
    if step is None:
        return 0.0
    heads = [match.group(1) for match in _EXACT.finditer(text)]
    if "ANSWER" in heads:
        heads = heads[: heads.index("ANSWER") + 1]
    found = 0.5 if ("ANSWER" if step.answer else "ACTION") in heads else 0.2
    kept = [head for head in SECTIONS if heads.count(head) == 1]
    in_order = kept == [head for head in heads if head in kept]
    exact = 0.5 * len(kept) / len(SECTIONS) * (1.0 if in_order else 0.5)
    leading = 1.0 if text.lstrip().startswith("THOUGHT:") or not heads else 0.9
    return round((found + exact) * leading, 4)


def _conversation(context: Sequence[Message]) -> str:
    lines = [f"{message.role.upper()}: {_cut(message.content, CONTEXT_LIMIT)}" for message in context]
    return "\n".join(["Recent Conversation:", *lines])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    said = text[start:end]
    return start + len(said) - len(said.lstrip()), start + len(said.rstrip())


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    matches = list(_HEAD.finditer(text))
    for index, match in enumerate(matches):
        name = match.group(1).upper().replace(" ", "_")
        if name == "ANSWER":
            parts[name] = text[match.end() :].strip()
            break
        end = matches[index + 1].start() if index + 1 < len(matches) else len(text)
        parts.setdefault(name, text[match.end() : end].strip())
    return parts


def _unfenced(text: str) -> str:
    match = _FENCE.match(text)
    return match.group(1) if match and "```" not in match.group(1) else text


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
