"""Training data of others: what was written is read again, and damage costs one record."""

from __future__ import annotations

import codecs
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.formats import values as values_module
from meton_plugins.finetune.formats.chat import BadRecord, Chat, Said
from meton_plugins.finetune.formats.reading import CHATS, detect, read
from meton_plugins.finetune.formats.values import values
from meton_plugins.finetune.formats.writing import WRITES, write

CODE = "```python\ndef first(xs):\n\treturn xs[0]  # [i]\n\n\n    # indented, and a blank line before\n```"
#: Pieces that formats stumble over: line ends, marks of other formats and of their own, what JSON escapes.
PIECES = (
    CODE, "\n\n  ", "é漢😀", "\t", "\r\n", "word ", "# note\n", "\u2028", "\\n", '"', "{", "]", "z",
    "[INST]", "[/INST]", "<s>", "</s>", "<<SYS>>", "\n<s>[INST] ", "<|im_start|>user\n", "<|im_end|>", "<|endoftext|>",
)  # fmt: skip


def chat(*texts: str, system: str | None = None, **more: Any) -> Chat:
    first = [Said("system", system)] if system is not None else []
    return Chat((*first, *(Said("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts))), **more)


def save(path: Path, chats: list[Chat], name: str, **more: Any) -> tuple[int, int]:
    with path.open("wb") as file:
        written, left = write(file, chats, name, **more)
    return written, sum(left.values())


def found(path: Path, wanted: str | None = None) -> list[Any]:
    """Chats, and for what is damaged its line and reason."""
    return [(r.line, str(r.found)) if isinstance(r.found, BadRecord) else r.found for r in read(path, wanted)]


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fitting(name: str, made: Chat) -> Chat:
    """`made` with what a format's records always have."""
    if name in ("messages", "sharegpt", "alpaca", "chat", "llama"):
        return made
    return Chat(
        made.messages, rejected="worse\n  one" if name == "preference" else None,
        good=name == "rating" or None, only_last=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
def test_what_was_written_is_read_again(tmp_path: Path, name: str, as_list: bool) -> None:
    chats = [
        fitting(name, made)
        for made in (
            chat("How?", CODE),
            chat("  indented\n\n", "\n\n    answer\r\n"),
            chat("one", "first", "two", CODE, system="Be\nbrief.\n"),
        )
    ]
    assert save(tmp_path / "f", chats, name, as_list=as_list) == (3, 0)
    assert detect(tmp_path / "f") == name
    assert found(tmp_path / "f") == chats
    assert found(tmp_path / "f", name) == chats


@pytest.mark.parametrize("name", WRITES)
def test_random_chats_come_back_or_are_left_out(tmp_path: Path, name: str) -> None:
    """Byte for byte; what a text format cannot hold is counted, never changed."""
    total = 0
    for seed in range(150):
        random_ = random.Random(f"{name}{seed}")

        def text(random_: random.Random = random_) -> str:
            return "".join(random_.choice(PIECES) for _ in range(random_.randint(1, 5))) + random_.choice(
                ["x", "x ", ""]
            )

        chats = []
        for _ in range(random_.randint(1, 4)):
            texts = [text() if random_.random() < 0.9 else "x" for _ in range(2 * random_.randint(1, 3))]
            texts = [one if one.strip() else "x" for one in texts]
            chats.append(fitting(name, chat(*texts, system=random_.choice([None, "s"]))))
        written, left = save(tmp_path / "f", chats, name, as_list=seed % 2 == 1)
        assert written + left == len(chats)
        assert left == 0 or name in ("chat", "llama")
        rest = iter(chats)
        back = found(tmp_path / "f")
        assert len(back) == written
        assert all(any(one == other for other in rest) for one in back), "the same chats, in their order"
        total += written
    assert total > 150


def test_tools_come_back(tmp_path: Path) -> None:
    asked = Chat(
        (Said("user", "q"), Said("tool", "42", "code_executor", '{"code": "6*7"}'), Said("assistant", "It is 42."))
    )
    for name in ("messages", "sharegpt"):
        save(tmp_path / name, [asked], name)
        assert found(tmp_path / name) == [asked]
    for name in ("alpaca", "llama", "chat"):
        assert save(tmp_path / name, [asked], name) == (0, 1)


WILD: dict[str, tuple[str, Any, Chat]] = {
    "parts": ("messages", {"messages": [
        {"role": "developer", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"}]}, chat("a", "b", system="s")),
    "tool-calls": ("messages", {"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "function": {"name": "ls", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "a.py"}, {"role": "assistant", "content": "a.py"}]},
        Chat((Said("user", "q"), Said("tool", "a.py", "ls", "{}"), Said("assistant", "a.py")))),
    "tool-words": ("messages", {"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [
            {"id": "1", "function": {"name": "ls", "arguments": "{}"}},
            {"id": "2", "function": {"name": "cat", "arguments": "a"}}]},
        {"role": "tool", "tool_call_id": "2", "content": "x"}, {"role": "tool", "tool_call_id": "1", "content": "y"},
        {"role": "assistant", "content": "z"}]},
        Chat((Said("user", "q"), Said("tool", "x", "cat", "a"), Said("tool", "y", "ls", "{}"),
            Said("assistant", "z")))),
    "function-call": ("messages", {"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "function_call": {"name": "ls", "arguments": "{}"}},
        {"role": "function", "name": "ls", "content": "x"}, {"role": "assistant", "content": "a"}]},
        Chat((Said("user", "q"), Said("tool", "x", "ls", "{}"), Said("assistant", "a")))),
    "weight": ("messages", {"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "weight": 0},
        {"role": "user", "content": "p"}, {"role": "assistant", "content": "yes"}]},
        Chat((Said("user", "q"), Said("assistant", "no", learn=False), Said("user", "p"), Said("assistant", "yes")))),
    "sharegpt-names": ("sharegpt", {"conversations": [
        {"from": "Human", "value": "q"}, {"from": "chatgpt", "value": "a"}], "system": "s"},
        chat("q", "a", system="s")),
    "sharegpt-roles": ("sharegpt", {"conversations": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, chat("q", "a")),
    "sharegpt-call": ("sharegpt", {"conversations": [
        {"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "ls", "arguments": {"p": 1}}'},
        {"from": "observation", "value": "x"}, {"from": "gpt", "value": "a"}]},
        Chat((Said("user", "q"), Said("tool", "x", "ls", '{"p": 1}'), Said("assistant", "a")))),
    "alpaca-input": ("alpaca", {"instruction": "Sort", "input": "3 1", "output": "1 3"}, chat("Sort\n\n3 1", "1 3")),
    "alpaca-history": ("alpaca", {"instruction": "q2", "input": "", "output": "a2", "history": [["q1", "a1"]]},
        chat("q1", "a1", "q2", "a2")),
    "dolly": ("alpaca", {"instruction": "q", "context": "c", "response": "a"}, chat("q\n\nc", "a")),
    "question": ("completion", {"question": "q", "answer": "a"}, chat("q", "a", only_last=True)),
    "completion-messages": ("completion", {
        "prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        chat("q", "a", only_last=True)),
    "pair-messages": ("preference", {
        "prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]},
        chat("q", "good", rejected="bad", only_last=True)),
    "pair-implicit": ("preference", {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]},
        chat("q", "good", rejected="bad", only_last=True)),
    "pair-question": ("preference", {"system": "s", "question": "q", "chosen": "good", "rejected": "bad"},
        chat("q", "good", system="s", rejected="bad", only_last=True)),
    "pair-sharegpt": ("preference", {
        "conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"}}, chat("q", "good", rejected="bad", only_last=True)),
    "label-number": ("rating", {"prompt": "q", "completion": "a", "label": 0},
        chat("q", "a", good=False, only_last=True)),
    "text-llama": ("llama", {"text": "<s>[INST] q [/INST] a </s>"}, chat("q", "a")),
    "text-chatml": ("chat", {"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"},
        chat("q", "a")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "record", "expected"), WILD.values(), ids=WILD)
def test_records_as_they_are_in_the_wild(tmp_path: Path, name: str, record: Any, expected: Chat) -> None:
    shapes = {
        "one.weird": json.dumps(record, indent=2), "lines": json.dumps(record) + "\n" + json.dumps(record) + "\n",
        "list": json.dumps([record, record], indent=1), "held": json.dumps({"version": 1, "data": [record, record]}),
    }  # fmt: skip
    for file, text in shapes.items():
        path = put(tmp_path / file, text)
        assert detect(path) == name
        assert found(path) == [expected] * (1 if file == "one.weird" else 2)


LLAMA = {
    "guide": ('<s>[INST] Write it [/INST]\n```python\ndef f():\n    """D."""\n\n    return 1\n```\n</s>\n\n'
        "<s>[INST] Explain [/INST] This. </s>\n", [
        chat("Write it", '```python\ndef f():\n    """D."""\n\n    return 1\n```'),
        chat("Explain", "This.")]),
    "system": ("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s>", [
        chat("Hi", "Hello", system="Be kind.")]),
    "turns": ("<s>[INST] a [/INST] b </s><s>[INST] c [/INST] d </s>", [chat("a", "b", "c", "d")]),
    "mistral": ("<s>[INST] a [/INST] b</s>[INST] c [/INST] d</s>", [chat("a", "b", "c", "d")]),
    "bare": ("[INST] a [/INST] b\n[INST] c [/INST] d\n", [chat("a", "b"), chat("c", "d")]),
    "windows": ("<s>[INST] a [/INST]\r\nb\r\n  c\r\n</s>\r\n<s>[INST] d [/INST] e </s>\r\n",
        [chat("a", "b\r\n  c"), chat("d", "e")]),
    "notes": ("# mine\n\n<s>[INST] a [/INST] b </s>\n# more\n<s>[INST] c [/INST] d </s>", [
        chat("a", "b"), chat("c", "d")]),
    "html": ("<s>[INST] a [/INST] <s>old</s> new </s>\n<s>[INST] c [/INST] d </s>", [chat("a", "<s>old</s> new"),
        chat("c", "d")]),
    "cut": ("<s>[INST] a [/INST] b </s>\n<s>[INST] c [/INST] half of", [chat("a", "b"), (2, "cut off: no </s>")]),
    "cut-question": ("<s>[INST] a\n<s>[INST] c [/INST] d </s>\n", [(1, "cut off: no [/INST]"), chat("c", "d")]),
    "stray": ("<s>[INST] a [/INST] b </s>\nstray\n<s>[INST] c [/INST] d </s>",
        [(1, "text outside of [INST] ... </s>"), chat("c", "d")]),
    "empty": ("<s>[INST]  [/INST] b </s>\n<s>[INST] c [/INST]  </s>", [(1, "no question"), (2, "no answer")]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LLAMA.values(), ids=LLAMA)
def test_the_guides_text(tmp_path: Path, text: str, expected: list[Any]) -> None:
    path = put(tmp_path / "training_data", text)
    assert detect(path) == "llama"
    assert found(path) == expected


CHATML = {
    "turns": ("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb\n  c<|im_end|>\n",
        [chat("a", "b\n  c", system="s")]),
    "blank-lines": ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n", [chat("a", "b"), chat("c", "d")]),
    "systems": ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>system\ns<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
        [chat("a", "b"), chat("c", "d", system="s")]),
    "end-marks": ("<|im_start|>user\na<|im_end|><|im_start|>assistant\nb<|im_end|><|endoftext|>"
        "<|im_start|>user\nc<|im_end|><|im_start|>assistant\nd<|im_end|><|endoftext|>", [
        chat("a", "b"), chat("c", "d")]),
    "cut": ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\nhalf", [chat("a", "b"), (6, "cut off: no <|im_end|>")]),
    "role": ("<|im_start|>wizard\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n", [
        (1, "a message of an unknown role")]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CHATML.values(), ids=CHATML)
def test_chatml(tmp_path: Path, text: str, expected: list[Any]) -> None:
    path = put(tmp_path / "f", text)
    assert detect(path) == "chat"
    assert found(path) == expected


@pytest.mark.parametrize("size", [7, 64, 500])
@pytest.mark.parametrize("name", ["llama", "chat"])
def test_text_is_the_same_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    chats = [chat(f"question {n} " * 20, f"answer\n\n{n} " * 30, system=f"s{n}") for n in range(40)]
    save(tmp_path / "f", chats, name)
    monkeypatch.setattr("meton_plugins.finetune.formats.texts.CHUNK", size)
    assert found(tmp_path / "f") == chats
    lines = (tmp_path / "f").read_text().split("\n")
    assert all("s" in lines[record.line - 1 + (name == "chat")] for record in read(tmp_path / "f"))


GOOD = {"prompt": "q", "completion": "é a"}
DAMAGE: dict[str, tuple[str, list[int | tuple[int, str]]]] = {
    "line": ('G\n{"prompt": "q", "comp\nG\n', [1, (2, "not JSON (Invalid control character at)"), 3]),
    "open-list": ('G\n{"prompt": ["q", \nG\nG\n', [
        1, (2, "not JSON (Expecting ',' delimiter)"), 3, 4]),
    "words": ("G\nhello there\nmore\nG\n", [
        1, (2, "not JSON (Expecting value)"), (3, "not JSON (Expecting value)"), 4]),
    "end": ('G\nG\n{"prompt": "q", "completion": "hal', [1, 2, (3, "cut off: the JSON ends in the middle")]),
    "list-element": ('[G,\n{"prompt": , "x": 1},\nG]', [1, (2, "not JSON (Expecting value)"), 3]),
    "list-inline": ('[G, {"a": ,"b": {"c": "]"}}, G]', [1, (1, "not JSON (Expecting value)"), 1]),
    "list-end": ("[\n G,\n G,\n {", [2, 3, (4, "cut off: the JSON ends in the middle")]),
    "list-pretty": ('[\n  {\n    "prompt": {]\n  },\n  G\n]\n', [
        (2, "not JSON (Expecting property name enclosed in double quotes)"), 5]),
    "unknown": ('G\n{"a": 1}\n7\nG', [1, (2, "a record of no known format"), (3, "a record of no known format"), 4]),
    "incomplete": ('G\n{"prompt": "q", "completion": "  "}\n{"prompt": 5, "completion": "a"}\n', [
        1, (2, "no answer"), (3, "its messages are no list")]),
    "trailing": ("G trailing\nG,\nG", [1, (1, "not JSON (Expecting value)"), 2, 3]),
    "brace": ('[\nG,{\nG,\nG\n]', [
        2, (2, "not JSON (Expecting property name enclosed in double quotes)"), 3, 4]),
    "before-a-list": ("1e999[\nG\n]\n[G]", [(1, "a record of no known format"), 2, 4]),
    "zeros": ("G\nG\n" + "\0" * 3000, [1, 2, (3, "not JSON (Expecting value)")]),
    "number": ('G\n{"prompt": ' + "9" * 5000 + "}\nG\n", [1, (2, "not JSON (a number too long)"), 3]),
    "deep": ("G\n" + "[" * 200_000 + "\nG\n", [1, (2, "nested too deeply"), 3]),
    "meton": ('G\n{"session_id": "s", "messages": []}\n', [1, (
        2, "one of Meton's own files among other records: import it as a file of its own")]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_damage_costs_the_record_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: list[Any], chunk: int
) -> None:
    monkeypatch.setattr(values_module, "CHUNK", chunk)
    path = put(tmp_path / "f", text.replace("G", json.dumps(GOOD, ensure_ascii=False)))
    places = [(r.line, str(r.found)) if isinstance(r.found, BadRecord) else r.line for r in read(path)]
    assert places == expected


def test_random_values_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(200):
        random_ = random.Random(seed)
        monkeypatch.setattr(values_module, "CHUNK", random_.randint(1, 40))
        made = [
            {"k" * random_.randint(1, 5): random_.choice(['a\n"b', 1.5, [1, {"x": "]}"}], {"z": "é}{"}, None])}
            for _ in range(random_.randint(0, 6))
        ]
        texts = [
            "\n".join(map(json.dumps, made)), json.dumps(made), json.dumps(made, indent=2),
            "\n".join(json.dumps(value, indent=1) for value in made),
        ]  # fmt: skip
        for text in texts:
            with put(tmp_path / "f", text).open(encoding="utf-8", newline="\n") as file:
                assert [value for _, value in values(file)] == made


def test_an_object_of_records_numbers_them(tmp_path: Path) -> None:
    path = put(tmp_path / "f", json.dumps({"examples": [GOOD, {"prompt": "q"}]}))
    [good, bad] = read(path)
    assert isinstance(good.found, Chat)
    assert (bad.number, str(bad.found)) == (2, "a record of no known format")


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda text: text.encode(),
    "utf-8-mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16-le-mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be-mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "cp1252": lambda text: text.encode("cp1252"),
}


@pytest.mark.parametrize("encoded", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("name", ["messages", "llama", "chat"])
def test_encodings(tmp_path: Path, encoded: Callable[[str], bytes], name: str) -> None:
    chats = [chat("Größe — “naïve”?", "Ça coûte 5 €.\n\tfin"), chat("b", "c")]
    save(tmp_path / "f", chats, name)
    put(tmp_path / "g", encoded((tmp_path / "f").read_bytes().decode()))
    assert detect(tmp_path / "g") == name
    assert found(tmp_path / "g") == chats


def test_latin_1_is_told_from_windows(tmp_path: Path) -> None:
    record = '{"prompt": "Gr\u00f6\u00dfe\u0085\u0090", "completion": "a"}'
    [made] = found(put(tmp_path / "f", record.encode("latin-1")))
    assert made.messages[0].content == "Größe\x85\x90"


def test_a_damaged_byte_in_utf_8_costs_one_record(tmp_path: Path) -> None:
    line = json.dumps(GOOD, ensure_ascii=False).encode()
    path = put(tmp_path / "f", line + b"\n" + line.replace(b"q", b"\xff") + b"\n" + line + b"\n" + line[:-4])
    reasons = [str(r.found) if isinstance(r.found, BadRecord) else "" for r in read(path)]
    assert reasons == ["", "holds bytes that are not UTF-8 text", "", "cut off: the JSON ends in the middle"]
    text = "<s>[INST] é [/INST] b </s>\n".encode()
    path = put(tmp_path / "g", text + text.replace(b"b", b"\xff") + text)
    assert [isinstance(record.found, Chat) for record in read(path)] == [True, False, True]


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n\n", b"plain words\nand more", b"# A guide\n\n```\n<s>[INST] q [/INST] a </s>\n```\n", b"\0\1\2" * 99,
     b'{"name": "package"}', b"[1, 2, 3]", b"{", codecs.BOM_UTF16_LE + b"\x00\xd8", b"a,b\n1,2\n"],
)  # fmt: skip
def test_other_files_are_no_training_data(tmp_path: Path, raw: bytes) -> None:
    assert detect(put(tmp_path / "f", raw)) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"session_id": "s", "messages": []}, "meton"),
        ({"conversations": [{"session_id": "s", "messages": []}]}, "meton"),
        ([{"feedback_type": "positive", "query": "q", "response": "r"}], "feedback"),
    ],
)
def test_metons_own_files_are_known(tmp_path: Path, value: Any, name: str) -> None:
    assert detect(put(tmp_path / "f", json.dumps(value, indent=2))) == name


def test_a_large_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    """16 MB as lines, as one list on one line, and as text."""
    count, answer = 4_000, "word " * 800
    chats = [chat(f"q{n}", answer) for n in range(count)]
    for name, as_list in (("messages", False), ("messages", True), ("llama", False)):
        save(tmp_path / "f", chats, name, as_list=as_list)
        if as_list:
            put(tmp_path / "f", (tmp_path / "f").read_bytes().replace(b"\n", b" "))
        size = (tmp_path / "f").stat().st_size
        told: list[int] = []
        tracemalloc.start()
        number = sum(isinstance(record.found, Chat) for record in read(tmp_path / "f", tell=told.append))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert number == count
        assert size > 16_000_000
        assert peak < 8_000_000
        assert told[-1] == size
        assert told == sorted(told)


def test_every_format_is_documented_with_an_example(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "data-formats.md").read_text(encoding="utf-8")
    shown = {}
    for part in text.split("\n**")[1:]:
        name, block = part.partition(".**")[0], part.split("```")[1]
        path = put(tmp_path / name, block.removeprefix("json").removeprefix("\n"))
        assert detect(path) == name
        shown[name] = found(path)
    assert set(shown) == set(CHATS)
    assert all(isinstance(one, Chat) for chats in shown.values() for one in chats)
    assert shown["llama"][1] == chat(
        "And a string?", "`s[::-1]`.", "Why?", "A slice with step -1 runs backwards.", system="Be brief."
    )


def test_every_format_can_be_read_and_written() -> None:
    assert set(CHATS) == set(WRITES)


JUNK = (b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\xff", b"\0", b",", b"<s>", b"</s>", b"[INST]", b"[/INST]",
        b"<|im_end|>", b"<|im_start|>", b"null", b"1e999", b"\xf0\x9f")  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
def test_random_damage_costs_at_most_its_neighbours(tmp_path: Path, name: str, as_list: bool) -> None:
    """One place of a file is broken: nothing raises, and of twelve records nine or more are as they were."""
    chats = [fitting(name, chat(f"question {n} é", f"answer {n}\n  code[{n}]")) for n in range(12)]
    save(tmp_path / "f", chats, name, as_list=as_list)
    whole = (tmp_path / "f").read_bytes()
    for seed in range(60):
        random_ = random.Random(f"{name}{seed}")
        broken = bytearray(whole)
        at = random_.randrange(len(broken))
        broken[at : at + random_.choice([0, 0, 1, 5])] = random_.choice([*JUNK, b""])
        back = found(put(tmp_path / "f", bytes(broken)), name)
        assert sum(one in back for one in chats) >= 9, (seed, at)
        detect(tmp_path / "f")
        for other in CHATS:
            found(tmp_path / "f", other)
