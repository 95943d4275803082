"""Training rows by the engine's own tokenizer: the trained tokens spell the answer and its end, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.models import Tokenizer, make_base, with_specials

from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.gguf.chat_template import BUILT_IN, ChatTemplate
from meton_plugins.finetune.gguf.rows import Row, build_rows, prompt_tokens

#: For each built-in template: its control tokens, the first of them the beginning and the last the end of text, and
#: what an answer "blue" is followed and preceded by.
FORMATS: dict[str, tuple[list[str], str, str]] = {
    "chatml": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "", "<|im_end|>"),
    "llama-2": (["<s>", "</s>"], " ", " </s>"),
    "llama-3": (["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "", "<|eot_id|>"),
    "deepseek": (["<｜begin▁of▁sentence｜>", "<|EOT|>"], "", "\n<|EOT|>"),
}
TOKENIZERS: tuple[Tokenizer, ...] = ("bpe", "spm")

#: Makes the vocabulary and the template of a format.
Opener = Callable[..., "tuple[Model, ChatTemplate]"]


@pytest.fixture(scope="module")
def opened(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    folder = tmp_path_factory.mktemp("vocabularies")
    models: dict[tuple[str, str, bool], Model] = {}
    with ExitStack() as stack:

        def make(name: str, tokenizer: Tokenizer, source: str | None = None, *, add_bos: bool = True) -> Any:
            names, key = FORMATS[name][0], (name, tokenizer, add_bos)
            if key not in models:
                stem = f"{name}-{tokenizer}-{add_bos}"
                base = make_base(folder / f"{stem}-b.gguf", "llama", tokenizer, layers=1, width=8, heads=2, inner=8)
                path = with_specials(
                    base, folder / f"{stem}.gguf", names, bos=names[0], eos=names[-1],
                    add_bos=add_bos and name != "chatml",
                )  # fmt: skip
                models[key] = stack.enter_context(Model(library, path, vocab_only=True))
            return models[key], ChatTemplate(source or BUILT_IN[name], bos=names[0], eos=names[-1])

        yield make


def chat(*texts: str, system: str = "") -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def taught(row: Row, model: Model) -> str:
    """What the trained tokens spell."""
    return b"".join(model.piece(int(t)) for t, yes in zip(row.tokens, row.trained, strict=True) if yes).decode()


def prompt_of(row: Row) -> list[int]:
    """The tokens before the first trained one."""
    return [int(t) for t in row.tokens[: int(row.trained.argmax())]]


def only(rows: list[Row]) -> Row:
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "answer",
    [
        "the answer is blue",
        "Paris",
        "42",
        "def f(x):\n    return {\n\t'a': x,\n    }\n\n\nthe end",
        "Grüße, 日本語, 🙂👩‍👩‍👧, ﷽, naïve e\u0301, \u200b zero width",
        "two  spaces,   three,\ttab and trailing words",
    ],
    ids=["words", "word", "number", "code", "unicode", "spaces"],
)
def test_trained_tokens_are_the_answer_and_its_end(
    opened: Opener, name: str, tokenizer: Tokenizer, answer: str
) -> None:
    model, template = opened(name, tokenizer)
    messages = chat("the question is the sky?", answer, system="be kind")
    rows, skipped = build_rows([("a", messages)], template, model, 4096)
    assert not skipped
    row = only(rows)
    _, before, after = FORMATS[name]
    assert taught(row, model) == before + answer + after
    assert model.is_end(int(row.tokens[-1]))
    prompt = prompt_tokens(template.render(messages[:-1], generate=True), model)
    assert prompt_of(row) == prompt
    assert [bool(t) for t in row.trained] == [False] * len(prompt) + [True] * (len(row.tokens) - len(prompt))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", ["llama-2", "llama-3", "deepseek"])
@pytest.mark.parametrize("add_bos", [True, False], ids=["tokenizer-adds-it", "template-alone"])
def test_one_beginning_of_text(opened: Opener, name: str, tokenizer: Tokenizer, add_bos: bool) -> None:
    model, template = opened(name, tokenizer, add_bos=add_bos)
    rows, _ = build_rows([("a", chat("the sky?", "blue"))], template, model, 4096)
    begin = model.encode(FORMATS[name][0][0], start=False)
    assert len(begin) == 1
    assert [int(t) for t in only(rows).tokens].count(begin[0]) == 1
    assert int(only(rows).tokens[0]) == begin[0]


def test_beginning_of_text_is_put_where_a_template_names_none(opened: Opener) -> None:
    model, template = opened("llama-3", "bpe", "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert prompt_tokens(template.render(chat("the"), generate=True), model)[0] == model.bos


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "answer",
    ["\nblue", "\n\n\nblue", " blue", "  blue", "   ", "\tblue", "|blue", ":"],
    ids=["newline", "newlines", "space", "spaces", "blank", "tab", "bar", "colon"],
)
def test_no_token_crosses_the_start_of_an_answer(opened: Opener, name: str, tokenizer: Tokenizer, answer: str) -> None:
    # Both vocabularies join two newlines or two spaces in one token, which may lie half in the prompt.
    model, template = opened(name, tokenizer)
    rows, skipped = build_rows([("a", chat("the sky?", answer))], template, model, 4096)
    if not answer.strip():
        assert [each.reason for each in skipped] == ["nothing to train on: it has no answer"]
        return
    assert not skipped
    row = only(rows)
    _, before, after = FORMATS[name]
    said = answer.strip() if name == "llama-3" else answer  # its template trims
    assert taught(row, model) == before + said + after
    assert prompt_of(row) == prompt_tokens(template.render(chat("the sky?"), generate=True), model)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_answer_right_after_a_control_token(opened: Opener, tokenizer: Tokenizer) -> None:
    # SentencePiece puts a space there that the answer does not have.
    source = (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    model, template = opened("chatml", tokenizer, source)
    rows, skipped = build_rows([("a", chat("the sky?", "the blue"))], template, model, 4096)
    assert not skipped
    assert taught(only(rows), model) == "the blue<|im_end|>"
    assert prompt_of(only(rows)) == prompt_tokens("<|im_start|>the sky?<|im_end|><|im_start|>", model)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", FORMATS)
def test_last_answer_or_all(opened: Opener, name: str, tokenizer: Tokenizer) -> None:
    model, template = opened(name, tokenizer)
    messages = chat("the sky?", "blue", "the sea?", "blue too", "and Paris?", "grey")
    _, before, after = FORMATS[name]
    last, _ = build_rows([("a", messages)], template, model, 4096, "last")
    assert taught(only(last), model) == f"{before}grey{after}"
    every, _ = build_rows([("a", messages)], template, model, 4096, "all")
    assert taught(only(every), model) == "".join(f"{before}{text}{after}" for text in ("blue", "blue too", "grey"))
    assert list(only(every).tokens) == list(only(last).tokens)


def test_messages_after_the_last_answer_are_left_out(opened: Opener) -> None:
    model, template = opened("chatml", "bpe")
    rows, _ = build_rows([("a", chat("the sky?", "blue", "and now?"))], template, model, 4096)
    assert "and now" not in model.text([int(t) for t in only(rows).tokens])


#: As Qwen 3 does: thoughts are kept in the last answer only.
THINKING = (
    "{%- for m in messages %}{%- if m.role == 'assistant' and not loop.last %}"
    "{{- '<|im_start|>assistant\n' + m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_template_that_rewrites_history_gives_a_row_an_answer(opened: Opener, tokenizer: Tokenizer) -> None:
    model, template = opened("chatml", tokenizer, THINKING)
    answers = ["<think>the sky</think>\nblue", "<think>the sea</think>\nblue too"]
    messages = chat("the sky?", answers[0], "the sea?", answers[1])
    rows, skipped = build_rows([("a", messages)], template, model, 4096, "all")
    assert not skipped
    assert [taught(row, model) for row in rows] == [f"{text}<|im_end|>" for text in answers]
    assert {row.id for row in rows} == {"a"}
    for row, upto in zip(rows, (1, 3), strict=True):
        assert prompt_of(row) == prompt_tokens(template.render(messages[:upto], generate=True), model)
    assert "the sky</think>" not in model.text(prompt_of(rows[1]))


def test_token_that_crosses_a_seam_gives_a_row_an_answer(opened: Opener) -> None:
    # Read again, "\n" + "\nblue" is one token "\n\n": the first answer's tokens are not in the second one's prompt.
    model, template = opened("chatml", "bpe")
    messages = chat("the sky?", "\nblue", "the sea?", "blue")
    rows, _ = build_rows([("a", messages)], template, model, 4096, "all")
    assert [taught(row, model) for row in rows] == ["\nblue<|im_end|>", "blue<|im_end|>"]
    for row, upto in zip(rows, (1, 3), strict=True):
        assert prompt_of(row) == prompt_tokens(template.render(messages[:upto], generate=True), model)


@pytest.mark.parametrize(
    ("messages", "ctx_size", "reason"),
    [
        (chat("the sky?", "blue " * 40), 32, r"\d+ tokens, longer than --ctx-size 32"),
        (chat("the sky?"), 4096, "nothing to train on: it has no answer"),
        (chat("the sky?", ""), 4096, "nothing to train on: it has no answer"),
        (chat("the sky?", "blue", "and?", " \n"), 4096, "nothing to train on: it has no answer"),
        (chat("the sky?", "<|im_start|>user\nhi"), 4096, r"its answer contains the control token '<\|im_start\|>'"),
        (chat("the sky?", "say <|im_end|>"), 4096, r"its answer contains the control token '<\|im_end\|>'"),
        (chat("the sky?", "<|endoftext|>"), 4096, r"its answer contains the control token '<\|endoftext\|>'"),
    ],
    ids=["too-long", "no-answer", "empty", "last-is-blank", "control-token", "end-token", "end-of-text"],
)
def test_skipped_with_a_reason(opened: Opener, messages: list[dict[str, str]], ctx_size: int, reason: str) -> None:
    model, template = opened("chatml", "bpe")
    good = chat("the sky?", "blue")
    rows, skipped = build_rows([("bad", messages), ("good", good)], template, model, ctx_size)
    assert [row.id for row in rows] == ["good"]
    assert [each.id for each in skipped] == ["bad"]
    assert re.fullmatch(reason, skipped[0].reason), skipped[0].reason


def test_row_of_exactly_the_context_is_kept(opened: Opener) -> None:
    model, template = opened("chatml", "bpe")
    rows, _ = build_rows([("a", chat("the sky?", "blue"))], template, model, 4096)
    length = only(rows).length
    assert length == len(only(rows).tokens) - 1
    kept, skipped = build_rows([("a", chat("the sky?", "blue"))], template, model, length)
    assert (len(kept), len(skipped)) == (1, 0)
    kept, skipped = build_rows([("a", chat("the sky?", "blue"))], template, model, length - 1)
    assert (len(kept), len(skipped)) == (0, 1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}!", "does not continue its own prompt"),
        ("{{ raise_exception('no system, please') }}", "no system, please"),
        ("{{ messages[9].content + 'x' }}", "cannot render"),
    ],
    ids=["not-a-continuation", "refuses", "breaks"],
)
def test_template_that_cannot_say_where_answers_begin(opened: Opener, source: str, reason: str) -> None:
    model, template = opened("chatml", "bpe", source)
    rows, skipped = build_rows([("a", chat("the sky?", "blue"))], template, model, 4096)
    assert not rows
    assert reason in skipped[0].reason


def test_learned_counts_what_is_predicted(opened: Opener) -> None:
    model, template = opened("chatml", "bpe")
    row = only(build_rows([("a", chat("the sky?", "blue"))], template, model, 4096)[0])
    assert row.learned == len(model.encode("blue<|im_end|>", start=False))


# What a loss counts


def counted(row: Row, model: Model) -> str:
    """What the tokens spell that a loss counts."""
    mask = row.trained if row.answer is None else row.answer
    return b"".join(model.piece(int(t)) for t, yes in zip(row.tokens, mask, strict=True) if yes).decode()


FORM_ANSWER = "THOUGHT: the question\nACTION: NONE\nACTION_INPUT:\nANSWER: the blue\n\n  ANSWER: sky"
FORM_CALL = 'THOUGHT: the question\nACTION: read_file\nACTION_INPUT: {"path": "a.py"}\nANSWER:'
#: Texts, and what of them counts. Tokens of a small vocabulary are mostly single letters, so no token crosses a seam
#: but those that begin with a space.
SAYINGS = {
    "answer": (FORM_ANSWER, "the blue\n\n  ANSWER: sky"),
    "call": (FORM_CALL, 'read_file{"path": "a.py"}'),
    "call-without-input": ("THOUGHT: x\nACTION: list_files\nACTION_INPUT:\nANSWER:", "list_files"),
    "call-and-answer": ("THOUGHT: x\nACTION: run\nACTION_INPUT: {}\nANSWER: done", "run{}"),
    "decorated": ("**THOUGHT:** x\n**ACTION:** NONE\n**ANSWER:** 42", "42"),
    "fenced": ("```\nTHOUGHT: x\nACTION: NONE\nACTION_INPUT:\nANSWER: 42\n```", "42"),
    "umlauts": ("THOUGHT: Grüße, 日本語\nACTION: NONE\nACTION_INPUT:\nANSWER: Grüße, 🙂!", "Grüße, 🙂!"),
    "empty-answer": ("THOUGHT: x\nACTION: NONE\nACTION_INPUT:\nANSWER:", None),
    "plain": ("the sky is blue", None),
    "one-head": ("the sky\nAnswer: blue", None),
}  # fmt: skip


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("text", "content"), SAYINGS.values(), ids=SAYINGS)
def test_of_the_form_only_what_it_says_counts(
    opened: Opener, name: str, tokenizer: Tokenizer, text: str, content: str | None
) -> None:
    model, template = opened(name, tokenizer)
    rows, _ = build_rows([("a", chat("the sky?", text))], template, model, 4096)
    row = only(rows)
    end = model.piece(int(row.tokens[-1])).decode()
    if content is None:
        assert row.answer is None
        assert row.counted == row.learned
        return
    assert row.answer is not None
    assert not (row.answer & ~row.trained).any()
    # A token that begins with the space before a word is the word's.
    assert re.sub(r"\s", "", counted(row, model)) == re.sub(r"\s", "", content + end)
    assert counted(row, model).startswith((content[0], " "))
    assert row.counted < row.learned
    assert row.of_learned.sum() == row.counted


def test_of_several_answers_each_counts_as_it_is(opened: Opener) -> None:
    model, template = opened("chatml", "bpe")
    messages = chat("the sky?", FORM_CALL, "the sea?", "blue too", "and?", FORM_ANSWER)
    (row,), _ = build_rows([("a", messages)], template, model, 4096, "all")
    end = "<|im_end|>"
    assert counted(row, model).replace(" ", "") == (
        f'read_file{{"path": "a.py"}}{end}blue too{end}the blue\n\n  ANSWER: sky{end}'
    ).replace(" ", "")
    (last,), _ = build_rows([("a", messages)], template, model, 4096, "last")
    assert counted(last, model).replace(" ", "") == f"the blue\n\n  ANSWER: sky{end}".replace(" ", "")
    assert (last.tokens == row.tokens).all()
