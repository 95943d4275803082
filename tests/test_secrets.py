"""Secrets: found in prose, code and JSON, left alone where there is none, never shown, and quickly."""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import re
import sysconfig
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.host import RecordingHost
from support.leaks import RULES, SETTINGS, left_over, planted

from meton_plugins.finetune.collect.clean import scrubbed
from meton_plugins.finetune.commands.dataset import make
from meton_plugins.finetune.curate.secret_forms import FORMS
from meton_plugins.finetune.curate.secret_names import NAMES
from meton_plugins.finetune.curate.secrets import KINDS, placeholder_share, scrub
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.turn import Call, Message, ToolUse, Turn

ROOT = Path(__file__).resolve().parent.parent


# Built in parts, so that no scanner takes this file for a leak.
SECRETS = {
    "aws": ("AKIA" + "QZ7NVK3MRB5TYWXC", "AWS_KEY"),
    "github": ("ghp" + "_" + "aB3dE5" * 6, "GITHUB_TOKEN"),
    "github-fine": ("github" + "_pat_" + "11AB" * 8, "GITHUB_TOKEN"),
    "gitlab": ("glpat" + "-" + "x1Y2z3" * 4, "GITLAB_TOKEN"),
    "openai": ("sk" + "-proj-" + "aB3dE5" * 7, "API_KEY"),
    "anthropic": ("sk" + "-ant-api03-" + "aB3dE5" * 7, "API_KEY"),
    "hugging-face": ("hf" + "_" + "aBcDeF" * 6, "API_KEY"),
    "google": ("AIza" + "Sy3" * 11 + "ab", "API_KEY"),
    "slack": ("xoxb" + "-123456789012-abcDEF123", "SLACK_TOKEN"),
    "stripe": ("sk" + "_live_" + "4eC39HqLyjWDarjtT1", "STRIPE_KEY"),
    "npm": ("npm" + "_" + "aB3dE5" * 6, "PACKAGE_TOKEN"),
    "sendgrid": ("SG" + "." + "aB3dE5" * 3 + "." + "aB3dE5" * 7, "MAIL_KEY"),
    "telegram": ("123456789" + ":AA" + "b" * 33, "BOT_TOKEN"),
    "jwt": ("eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".c2lnbmF0dXJl", "JWT"),
    "pem": (
        "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEowIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----",
        "PRIVATE_KEY",
    ),
    "url": ("postgres://harbor:" + "s3cr3t-pw" + "@db.internal:5432/x", "CREDENTIALS"),
    "assignment": ('password = "' + "tr0ub4dor&3x" + '"', "PASSWORD"),
    "environment": ("HARBOR_SECRET=" + "q9w8e7r6t5y4", "SECRET"),
    "e-mail": ("mira.k" + "@" + "harbor-team.net", "EMAIL"),
    "home": ("/home/" + "mira/work", "HOME"),
    "windows": ("C:\\Users\\" + "Mira\\work", "HOME"),
}


@pytest.mark.parametrize(("secret", "kind"), SECRETS.values(), ids=SECRETS)
def test_secrets_become_placeholders(secret: str, kind: str) -> None:
    before = f"Take this:\n{secret}\nand go."
    [first, second], counts = scrub([before, f"again\n{secret}\n"])
    assert counts == {kind: 1}
    assert f"<{kind}_1>" in first
    assert f"<{kind}_1>" in second
    assert first.startswith("Take this:\n")
    assert first.endswith("\nand go.")
    assert scrub([first, second]) == ([first, second], {})


def test_only_the_value_goes() -> None:
    value = "q9w8" + "e7r6t5y4"
    [url], _ = scrub([f"https://host.net/cb?access_token={value}&state=xyz&page=2"])
    assert url == "https://host.net/cb?access_token=<SECRET_1>&state=xyz&page=2"


CLEAN = {
    "decorator": "@pytest.fixture\ndef f(): ...",
    "ssh remote": "git clone git@github.com:team/harbor.git",
    "environment read": 'token = os.environ["HARBOR_TOKEN"]',
    "tokenizer": 'tokenizer = "bert-base-uncased-v2"',
    "placeholder": 'api_key = "your-api-key-here"',
    "call": "password = get_password(user)",
    "sha": "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "uuid": "5e551011-0000-4000-8000-000000000000",
    "url": "https://docs.python.org/3/library/re.html#re.sub",
    "address": "http://127.0.0.1:11434/api/generate",
    "maths": "a @ b.T and x@y",
    "markers": 'MARKS = ("-----BEGIN PRIVATE' + ' KEY-----", "-----END PRIVATE' + ' KEY-----")',
    "public key": 'publicKeyToken="1fc8b3b9a1e18e3b"',
    "digest": '{"key_sha256": "d306cf01314d51bd37892d874308200951a35265ede54d200f1e065004c3e9ea"}',
    "a login of the documents": "postgresql://scott:tiger@localhost/test and amqp://guest:guest@mq",
    "a type": "key: PKCS12PrivateKeyTypes | None,",
    "a model": "model_key = text-embedding-3-small",
    "home word": "see ~/home/readme and the /home page",
}


@pytest.mark.parametrize("text", CLEAN.values(), ids=CLEAN)
def test_clean_text_is_left_alone(text: str) -> None:
    assert scrub([text]) == ([text], {})


def test_numbers_go_on_after_those_in_the_text() -> None:
    [text], counts = scrub(["<EMAIL_3> wrote to " + "mira" + "@" + "harbor-team.net"])
    assert text == "<EMAIL_3> wrote to <EMAIL_4>"
    assert counts == {"EMAIL": 1}
    assert placeholder_share("<EMAIL_3>") == 1.0
    assert placeholder_share("no secret") == 0.0


def test_there_are_more_than_twenty_kinds() -> None:
    assert len(KINDS) >= 20
    assert len(set(KINDS)) == len(KINDS)


def test_planted_secrets_are_found() -> None:
    """The bench plants more of each; the rules are all of gitleaks' that look at text."""
    assert len(RULES) == 221
    total: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for plant in planted(1, seed=7):
        [cleaned], _ = scrub([plant.text])
        total[plant.setting] += 1
        missed[plant.setting] += left_over(cleaned, plant.secret)
        assert scrub([cleaned]) == ([cleaned], {})
        if plant.setting == "json":
            json.loads(cleaned)
    assert {name: total[name] for name in SETTINGS} == dict.fromkeys(SETTINGS, 221)
    assert all(missed[name] <= 0.05 * total[name] for name in SETTINGS), missed


def test_the_measure_of_recall_can_fail() -> None:
    assert left_over("it is aB3dE5aB3dE5aB3 there", "xxaB3dE5aB3dE5aB3")
    assert left_over("short s3cr3t", "s3cr3t")
    assert not left_over("<API_KEY_1>dE5", "aB3dE5aB3dE5aB3dE5")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_secrets", ROOT / "bench" / "find_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def code(bench: ModuleType) -> list[str]:
    """Pieces of 40 lines of the standard library and the installed packages."""
    paths = sysconfig.get_paths()
    found: list[str] = bench.pieces([Path(paths["purelib"]), Path(paths["stdlib"])], "measure", 5000)
    assert len(found) == 5000
    return found


def test_clean_code_is_left_alone(bench: ModuleType, code: list[str]) -> None:
    counts, _ = bench.false_hits(code, None)
    assert counts["EMAIL"] > 0, "authors leave their addresses: nothing was looked at"
    false = sum(count for kind, count in counts.items() if kind not in bench.TRUE)
    assert 1000 * false / len(code) < 1, counts


def test_it_is_quick(bench: ModuleType, code: list[str]) -> None:
    """Measured 0.34 to 0.48 of a plain scan for words, which the first version was 0.20 of."""
    _, ratio = bench.speed(code[:1500])
    assert ratio > 0.2


def hostile(literal: str) -> list[str]:
    """Lines of 100 kB around one literal: alone, with what its tail may hold, and with what it may not."""
    units = [literal, literal + "A1-", literal + "=x1", literal + "@1"]
    return [(unit * (100_000 // len(unit) + 1))[:100_000] for unit in units] + [literal + "a1B2" * 25_000]


@pytest.mark.parametrize("literal", sorted({*(form.literal for form in FORMS), *NAMES}))
def test_no_line_takes_long(literal: str) -> None:
    """The worst that was found took 0.6 s, 160 times as long as prose does; exponential ones take for ever."""
    prose = ["The plain words of a chat go on and on, without an end. " * 1800]
    began = time.process_time()
    for _ in range(5):
        scrub(prose)
    allowed = max(0.02, time.process_time() - began) / 5 * 400
    for text in hostile(literal):
        began = time.process_time()
        scrub([text])
        assert time.process_time() - began < allowed


def test_the_same_secret_has_one_number_also_where_nothing_names_it() -> None:
    value = "q9w8" + "e7r6t5y4"
    texts = [f"Does {value} look right to you?", f'db_password = "{value}"', f"mysql -p{value} fails", "nothing"]
    cleaned, counts = scrub(texts)
    assert cleaned[0] == "Does <PASSWORD_1> look right to you?"
    assert cleaned[1] == 'db_password = "<PASSWORD_1>"'
    assert cleaned[3] == "nothing"
    assert counts == {"PASSWORD": 1}
    assert scrub(cleaned) == (cleaned, {})


def awkward(dice: random.Random) -> str:
    """A secret with what JSON must escape round it."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    word = "".join(dice.choice(alphabet) for _ in range(24)) + "7x"
    return dice.choice(
        [
            "/home/" + "mira/work", "/home/" + "mél.k/x", "C:\\Users\\" + "nora\\n", "mira" + "@" + "harbor-team.net",
            f'password = "{word}\\"', f'password = "{word[:9]}\\"{word[9:]}"', f"token={word}\\",
            "gh" + f"p_{word}abcdefghij",
            f"postgres://u:{word}@db.internal/x", "-----BEGIN PRIVATE" + f" KEY-----\n{word * 3}",
            f"Authorization: Bearer {word}", f"{{'api_key': '{word}'}}",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_json_stays_json(seed: int) -> None:
    dice = random.Random(seed)
    between = ["\n", "\t", '"', "\\", " ", "é", "\b", "/", "\r\n", "n", "{", "€ "]
    text = "".join(dice.choice(between) + awkward(dice) + dice.choice(between) for _ in range(4))
    value = {"path": text, "password": text, "list": [text, 12345678, None], "api_key": {"token": text}}
    for ascii in (True, False):
        whole = json.dumps(value, ensure_ascii=ascii, indent=dice.choice([None, 1]))
        call = f"THOUGHT: x\nACTION: file\nACTION_INPUT: {json.dumps(value, ensure_ascii=ascii)}\nANSWER: "
        [cleaned, said], counts = scrub([whole, call])
        assert counts
        assert set(json.loads(cleaned)) == set(value)
        json.loads(said.split("ACTION_INPUT: ")[1].split("\nANSWER")[0])


def test_a_number_that_is_a_secret_elsewhere_stays_json() -> None:
    value = "4820193" + "756102938"
    texts = [f'{{"a": {value}, "b": [1, "{value} x"]}}', f"client_id = '{value}'", f"[{value}"]
    [first, _, third], _ = scrub(texts)
    assert json.loads(first) == {"a": "<SECRET_1>", "b": [1, "<SECRET_1> x"]}
    assert third == "[<SECRET_1>"


def test_home_folders_in_tool_inputs() -> None:
    given = json.dumps(
        {"action": "read", "path": "/home/" + "mira/notes.txt", "note": "a\nmira" + "@" + "harbor-team.net"}
    )
    turn = Turn(
        session="s", at="2026", question="Read my notes", answer="In /home/" + "mira there are some.",
        context=(Message(role="user", content="/home/" + "mira"),),
        tools=(ToolUse(name="file", input=given, output="/home/" + "mira/notes.txt: 3 lines"),),
        calls=(Call(prompt="p", completion=f"ACTION: file\nACTION_INPUT: {given}"),),
    )  # fmt: skip
    counts: Counter[str] = Counter()
    [clean] = scrubbed([turn], scrub, counts)
    assert json.loads(clean.tools[0].input) == {
        "action": "read", "path": "<HOME_1>/notes.txt", "note": "a\n<EMAIL_1>",
    }  # fmt: skip
    assert clean.tools[0].output == "<HOME_1>/notes.txt: 3 lines"
    assert clean.answer == "In <HOME_1> there are some."
    assert json.loads(clean.calls[0].completion.split("ACTION_INPUT: ")[1])["path"] == "<HOME_1>/notes.txt"
    assert counts == {"HOME": 1, "EMAIL": 1}


def test_what_is_not_a_text_of_one_byte_is_scrubbed_too() -> None:
    key = "gh" + "p_" + "aB3dE5" * 6
    for text in (
        f"İstanbul İ {key} …",
        f"😀 {key}",
        f"\ud800 {key}",
        f"\x00{key}\x00",
        f"ǅ token = 'q9w8e7r6t5y4' {key}",
    ):
        [cleaned], counts = scrub([text])
        assert key not in cleaned
        assert counts["GITHUB_TOKEN"] == 1
        assert len(text) - len(key) < len(cleaned) + 20


@pytest.mark.parametrize("line", ["harvest", "build --unrated", "list --limit 0", "stats", "show {id}"])
@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_no_value_is_printed_or_logged(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, line: str, as_json: bool,
) -> None:  # fmt: skip
    plants = [plant for plant in planted(1, seed=3) if plant.setting == "prose"][::9]
    found = [plant.secret for plant in plants if not left_over(scrub([plant.text])[0][0], plant.secret)]
    assert len(found) > 20
    folder = tmp_path / "conversations"
    folder.mkdir()
    messages = []
    for number, plant in enumerate(plants):
        for role, content in (("user", plant.text), ("assistant", f"You should change this: {plant.text}")):
            at = f"2026-03-02T09:{number:02}:0{int(role == 'assistant')}"
            messages.append({"role": role, "content": content, "timestamp": at, "metadata": {}})
    (folder / "session_20260302_090000_abcdef12.json").write_text(
        json.dumps({"session_id": "abcdef12", "start_time": "2026-03-02T09:00:00", "messages": messages})
    )
    host = RecordingHost(home, conversations_dir=folder)
    command = make(host, Home(home))
    with caplog.at_level(logging.DEBUG):
        assert command.run("harvest") == 0
        with Library(home / "library.db") as library:
            name = library.find(limit=1)[0].id
        host.json = as_json
        command.run(line.format(id=name))
        # What goes wrong in the middle must not show them either.
        monkeypatch.setattr("meton_plugins.finetune.library.Library.add", broken)
        assert command.run("harvest") == 1
    out, err = capfd.readouterr()
    shown = host.output + caplog.text + out + err
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert (home / "errors.log").exists()
    for secret in found:
        assert not left_over(shown, secret)
        assert secret.encode() not in kept, "a mapping would be a list of the secrets"


def broken(self: Library, turns: Any) -> None:
    raise RuntimeError(f"cannot take {len(list(turns))} turns")


def test_counts_are_by_kind() -> None:
    key = "gh" + "p_" + "aB3dE5" * 6
    _, counts = scrub([f"{key} {key}", "gh" + "o_" + "xY7zK9" * 6, "mira" + "@" + "harbor-team.net"])
    assert counts == {"GITHUB_TOKEN": 2, "EMAIL": 1}


def test_every_literal_lies_in_what_its_pattern_finds() -> None:
    """A form whose literal is not in its own matches would never be tried."""
    assert all(re.compile(form.source) for form in FORMS)
    assert all(form.literal == form.literal.lower() for form in FORMS if form.folded)
    seen = {kind for plant in planted(1) for kind in scrub([plant.text])[1]}
    assert {form.kind for form in FORMS} - seen <= {"EMAIL", "HOME", "BEARER"}
