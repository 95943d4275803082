"""`/finetune` as a user types it: what it says, what it asks, and how it ends."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from support.finetuning import Typed
from support.host import RecordingHost, Slots
from support.models import make_base, rewrite
from support.runs import SETTINGS, Bench, over, reached

from meton_plugins.finetune.commands import dataset, export, finetune, model_register, watch
from meton_plugins.finetune.commands.finetune import VERBS
from meton_plugins.finetune.commands.starting import reserved
from meton_plugins.finetune.engine import setup as engine_setup
from meton_plugins.finetune.engine.package import VERSION
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home, append_json, engine_dir, write_json
from meton_plugins.finetune.plugin import commands_for
from meton_plugins.finetune.report import health
from meton_plugins.finetune.settings import BuildSettings, TrainSettings
from meton_plugins.finetune.train import runs as runs_module
from meton_plugins.finetune.train.launch import ask
from meton_plugins.finetune.train.record import State
from meton_plugins.finetune.train.runs import Run, all_runs
from meton_plugins.finetune.turn import Turn

pytest_plugins = ["support.run_fixtures"]

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def typed(home: Path) -> Typed:
    return Typed(home)


@pytest.fixture
def ready(bench: Bench) -> Typed:
    """With engine, base and dataset at hand."""
    return Typed(bench.home.root)


def start(bench: Bench, *words: str, **flags: Any) -> str:
    """The line that starts a run with the settings of the tests."""
    return " ".join(bench.words(*words, **flags)[1:])


# Words and help


def test_the_command_names_its_words(home: Path) -> None:
    command = finetune.make(RecordingHost(home), Home(home))
    assert command.name == "/finetune"
    assert command.verbs == (
        "setup", "doctor", "plan", "start", "status", "watch", "logs", "pause", "resume", "stop", "queue", "sweep",
        "runs", "show", "diagnose", "note", "compare", "delete", "refresh", "recipes",
    )  # fmt: skip


@pytest.mark.parametrize("line", ["", "  ", "help", "--help", "-h"])
def test_help_lists_every_verb(typed: Typed, line: str) -> None:
    said = typed(line)
    assert said.startswith("usage: /finetune VERB")
    assert all(f"\n  {verb} " in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(typed: Typed, verb: str) -> None:
    said = typed(f"{verb} --help")
    assert said.startswith(f"usage: /finetune {verb}")
    assert VERBS[verb].summary.split("%")[0] in said


@pytest.mark.parametrize("name", TrainSettings.model_fields)
def test_every_setting_is_a_flag_with_its_help(typed: Typed, name: str) -> None:
    said = " ".join(typed("start --help").split())
    assert f"--{name.replace('_', '-')} " in said
    assert (TrainSettings.model_fields[name].description or "no description") in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frobnicate", "/finetune has no word 'frobnicate': it has setup, doctor"),
        ("status --wrong", "/finetune status does not take --wrong; see /finetune status --help."),
        ("start --epoch 3", "/finetune start does not take --epoch 3"),
        ("runs x", "/finetune runs does not take x"),
        ("start --epochs", "Argument --epochs: expected one argument"),
        ("start --epochs=three", "--epochs takes a whole number from 1 to 10000, not 'three'."),
        ("start --epochs=0", "--epochs takes a whole number from 1 to 10000, not '0'."),
        ("start --ctx-size=7", "--ctx-size takes a whole number from 8 to 131072, not '7'."),
        ("start --learning-rate=0", "--learning-rate takes a number above 0 and up to 1, not '0'."),
        ("start --learning-rate=nan", "--learning-rate takes a number above 0"),
        ("start --max-grad-norm=nan", "--max-grad-norm takes a number from 0 up, not 'nan'."),
        ("start --lora-targets=attn_q,head", "--lora-targets takes attn_q, attn_k"),
        ("start --lora-targets=,", "--lora-targets takes attn_q"),
        ("logs --lines many", "--lines takes a whole number, not 'many'."),
    ],
    ids=lambda text: text[:24],
)
def test_wrong_words_are_named(typed: Typed, line: str, words: str) -> None:
    assert words in typed.refused(line, code=2)


def test_a_log_of_no_lines(ready: Typed, bench: Bench) -> None:
    bench.create()
    assert "--lines takes a number from 1 up" in ready.refused("logs --lines 0", code=2)


# Lines that nobody means

NASTY = {
    "quote": "'", "double": '"', "tag": "[/INST]", "open": "[bold", "markup": "[bold]x[/bold]", "long": "x" * 100_000,
    "nul": "a\x00b", "escape": "\x1b[31mred", "blank": " \t ", "emoji": "😀", "code": ":smile:", "dash": "-",
    "dashes": "--", "equals": "--=x", "backslash": "\\", "shell": "$(reboot) `reboot`", "percent": "%s %(x)s {0}",
    "newline": "a\r\nb", "half": "\ud800", "up": "../..", "root": "/", "home": "~", "star": "*", "minus": "-1",
    "turned": "\u202etxt",
}  # fmt: skip


def calm(host: RecordingHost, code: int) -> None:
    """One sentence of bearable length where the line was refused, and nothing that a terminal would obey."""
    said = host.output.removeprefix("… checking the package\n")
    assert code in (0, 1, 2)
    assert "Unexpected" not in said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", said)
    if code:
        assert said.startswith("✗ ")
        assert said.count("\n") == 1
        assert len(said) < 700


@pytest.mark.parametrize("line", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("name", ["/dataset", "/finetune", "/export", "/model-register"])
def test_no_line_raises(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    # Some words take the line for the name of a file that they write: not into the checkout, nor the user's own folder.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    host = RecordingHost(home, slots=Slots({"primary": "a:b"}))
    command = commands_for(host)[name]
    for verb in ("", *command.verbs):
        if verb in ("setup", "doctor"):  # with words of their own below
            continue
        host.clear()
        calm(host, command.run(f"{verb} {line}"))


@pytest.mark.parametrize("line", NASTY.values(), ids=NASTY)
def test_no_value_of_a_flag_raises(ready: Typed, bench: Bench, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    word = "'" + line.replace("'", "'\\''") + "'"
    given = f"--base={bench.base} --dataset={bench.dataset} --template=bare"
    tried = (
        f"start {given} --base={word}", f"start {given} --dataset={word}", f"start {given} --template={word}",
        f"start {given} --chat-template={word}", f"start {given} --seed={word}", f"logs --lines={word}",
        f"show {word}", f"doctor {word}",
    )  # fmt: skip
    for text in tried:
        ready.host.clear()
        code = ready.command.run(text)
        assert code, text
        calm(ready.host, code)
    assert all_runs(bench.home.runs) == []


def test_an_error_in_our_own_code_is_one_sentence_too(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_runs: Path) -> list[Run]:
        raise ZeroDivisionError("a [bold]bug[/bold]")

    monkeypatch.setattr(runs_module, "all_runs", broken)
    typed.home.make()
    log = typed.home.root / "errors.log"
    said = typed.refused("status")
    assert said == f"✗ Unexpected ZeroDivisionError: a [bold]bug[/bold]. Please report this, with what {log} says."
    assert "raise ZeroDivisionError" in log.read_text(encoding="utf-8")
    assert log.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(typed.home.root)
    assert typed.refused("status").endswith("Please report this.")


@pytest.mark.parametrize("code", [0, 3, None, "text"], ids=str)
def test_nothing_ends_the_host(typed: Typed, monkeypatch: pytest.MonkeyPatch, code: Any) -> None:
    def leave(_runs: Path) -> list[Run]:
        raise SystemExit(code)

    monkeypatch.setattr(runs_module, "all_runs", leave)
    assert "please report this" in typed.refused("status", code=3 if code == 3 else 1)


# Starting


def test_start_says_what_happens_now(ready: Typed, bench: Bench) -> None:
    said = ready(start(bench, name="one"))
    run = bench.run()
    assert re.search(r"^one  (running|finished)  ", said, re.MULTILINE)
    assert said.splitlines()[-1] == (
        "It trains in the background, also when you leave. See it with /finetune watch one."
    )
    assert "one  " in ready("status")
    over(run)
    assert re.fullmatch(r"one  finished  step 60/60  validation loss \d\.\d{3} → \d\.\d{3}\n", ready("status one"))


def test_start_and_wait_as_json(ready: Typed, bench: Bench) -> None:
    said = ready.json(start(bench, "--wait", epochs=1))
    assert (said["run"], said["status"], said["step"], said["skipped"]) == ("one", "finished", 10, 0)
    assert ready.json("status one") == [said]
    shown = ready.json("show one")
    assert (shown["name"], shown["state"]["status"]) == ("one", "finished")
    assert shown["settings"]["epochs"] == 1
    events = ready.json("logs one --lines 2")
    assert [event["event"] for event in events] == ["checkpoint", "finished"]


def test_flags_are_laid_over_the_settings_file(ready: Typed, bench: Bench) -> None:
    bench.home.settings.write_text(
        f'base = "{bench.base}"\n[train]\nepochs = 1\nthreads = 1\nctx_size = 100\ntemplate = "bare"\n',
        encoding="utf-8",
    )
    ready(f"start --dataset {bench.dataset} --ctx-size 128 --lora-targets 'attn_q, attn_v' --wait")
    [run] = all_runs(bench.home.runs)
    assert run.name == "run-1"
    settings = run.record.settings
    assert (settings.epochs, settings.ctx_size, settings.lora_targets) == (1, 128, ("attn_q", "attn_v"))
    adapted = {tensor.name.split(".")[2] for tensor in GGUFReader(run.folder / "adapter.gguf").tensors}
    assert adapted == {"attn_q", "attn_v"}


def test_a_template_file_of_the_users(
    ready: Typed, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named relative to where the user stands; what the run needs of it is in the run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.Modelfile").write_text("FROM .\nSYSTEM Hello.\n", encoding="utf-8")
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        encoding="utf-8",
    )
    said = ready(start(bench, "--wait", template="mine.Modelfile", chat_template="chat.jinja", epochs=1))
    assert "finished" in said
    record = bench.run().record
    assert (record.system, record.template) == ("Hello.", str(tmp_path / "mine.Modelfile"))
    (tmp_path / "chat.jinja").rename(tmp_path / "moved.jinja")
    shutil.rmtree(bench.run().folder / "checkpoints")
    (bench.run().folder / "done").unlink()
    assert "running" in ready("resume one") or bench.run().status == "finished"
    over(bench.run())
    assert bench.run().status == "finished"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("start", "'start' is a command's word"), ("list", "'list' is a command's word"),
        ("model", "'model' is a command's word"), ("rate", "'rate' is a command's word"),
        ("latest", "'latest' is a command's word"), ("a/b", "'a/b' cannot name a run"),
        ("..", "'..' cannot name a run"), ("a..b", "'a..b' cannot name a run"), ("Run", "'Run' cannot name a run"),
        (".hidden", "'.hidden' cannot name a run"), ("x" * 65, "cannot name a run"), ("ü", "'ü' cannot name a run"),
        ("end.", "'end.' cannot name a run"), ("''", "'' cannot name a run"),
    ],
)  # fmt: skip
def test_names_that_cannot_be(ready: Typed, bench: Bench, name: str, words: str) -> None:
    assert words in ready.refused(f"start --base {bench.base} --dataset {bench.dataset} --name {name}", code=2)
    assert not bench.home.runs.exists()


def test_a_name_that_is_taken_is_refused_before_the_base_is_read(ready: Typed, bench: Bench) -> None:
    bench.create("one")
    said = ready.refused(start(bench, name="one", base="nowhere.gguf"), code=2)
    assert said == "✗ There is a run 'one' already: give another --name."


@contextlib.contextmanager
def listing(*names: str) -> Iterator[str]:
    """A server that says it is Ollama and lists `names`; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers: dict[str, Any] = {
                "/api/version": {"version": "0.30.0"}, "/api/tags": {"models": [{"model": name} for name in names]}
            }  # fmt: skip
            body = json.dumps(answers.get(self.path, {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def truncated(path: Path) -> None:
    whole = make_base(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_in_header(path: Path) -> None:
    path.write_bytes(make_base(path).read_bytes()[:100])


def adapter(path: Path) -> None:
    rewrite(make_base(path), path, add={"general.type": "adapter", "adapter.type": "lora"})


def no_template(path: Path) -> None:
    make_base(path, chat_template=None)


def unknown_architecture(path: Path) -> None:
    rewrite(make_base(path), path, architecture="gemma3")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04"), "is not a GGUF file"),
        (lambda path: path.write_bytes(b""), "is not a GGUF file"),
        (lambda path: path.mkdir(), "is a folder: name the GGUF file in it"),
        (truncated, "is cut short"),
        (cut_in_header, "is cut short or damaged"),
        (adapter, r"is an? adapter, not a base model"),
        (unknown_architecture, "has the architecture 'gemma3', which cannot be trained yet"),
        (no_template, "has no chat template: add --chat-template"),
    ],
    ids=["zip", "empty", "folder", "truncated", "header", "adapter", "architecture", "template"],
)
def test_a_base_that_cannot_be(
    ready: Typed, bench: Bench, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    bench.base = tmp_path / "spoilt.gguf"
    spoil(bench.base)
    assert re.search(words, ready.refused(start(bench)))
    assert all_runs(bench.home.runs) == []


def test_a_base_that_is_nowhere(ready: Typed, bench: Bench) -> None:
    bench.base = Path("nowhere.gguf")
    assert "There is no file nowhere.gguf." in ready.refused(start(bench))


def test_no_base_at_all(ready: Typed, bench: Bench) -> None:
    said = ready.refused(f"start --dataset {bench.dataset}", code=2)
    assert said == "✗ Say what to train on: --base with a GGUF file or the name of an Ollama model."


def test_a_named_base_that_must_be_pulled(ready: Typed, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with listing("other:latest") as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        bench.base = Path("qwen3")
        assert "Ollama has no model qwen3:latest: type `ollama pull qwen3:latest`." in ready.refused(start(bench))


def test_a_named_base_without_a_server(ready: Typed, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    bench.base = Path("qwen3:4b")
    assert "start it with `ollama serve`" in ready.refused(start(bench))


def test_no_engine(ready: Typed, bench: Bench) -> None:
    engine_dir().unlink()
    said = ready.refused(start(bench))
    assert said == ("✗ The training engine is not installed: run /finetune setup (or meton-finetune finetune setup).")


def test_no_dataset(ready: Typed, bench: Bench) -> None:
    assert "There is no dataset yet: make one with /dataset build." in ready.refused(f"start --base {bench.base}")
    assert "There is no dataset" in ready.refused(f"start --base {bench.base} --dataset nope")


def test_no_template(ready: Typed, bench: Bench) -> None:
    assert "There is no template nope: there are" in ready.refused(start(bench, template="nope"))


def test_no_chat_template(ready: Typed, bench: Bench) -> None:
    assert "There is no chat template 'nope'" in ready.refused(start(bench, chat_template="nope"), code=2)


def test_a_dataset_that_was_changed(ready: Typed, bench: Bench, tmp_path: Path) -> None:
    bench.dataset = Path(shutil.copytree(bench.dataset, tmp_path / "changed"))
    with (bench.dataset / "train.jsonl").open("a") as file:
        file.write("{}\n")
    assert "was changed after it was frozen: build the dataset again" in ready.refused(start(bench))
    assert all_runs(bench.home.runs) == []


def mixed(home: Home, answers: list[str]) -> Path:
    """A dataset with one conversation an answer."""
    turns = [
        Turn(session=f"x{n}", at=f"2026-02-{n + 1:02d}T10:00:00", question=f"Question {n}?", answer=answer)
        for n, answer in enumerate(answers)
    ]
    with Library(home.library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
        manifest = dataset_build(library, home)
    return home.datasets / manifest


def dataset_build(library: Library, home: Home) -> str:
    from meton_plugins.finetune.curate.dataset import build

    return build(library, BuildSettings(form="plain", context_turns=0, quality_threshold=0), home.datasets).id


def test_examples_that_do_not_fit_are_counted_and_named(ready: Typed, bench: Bench) -> None:
    long = "A very long answer indeed, which says in many words what few would have said. " * 20
    bench.dataset = mixed(bench.home, [long if n % 4 == 0 else f"Answer number {n} it is." for n in range(12)])
    said = ready(start(bench, "--wait", epochs=1, ctx_size=256))
    run = bench.run()
    rows = [event for event in run.events() if event["event"] == "rows"]
    skipped = [example for event in rows for example in event["skipped"]]
    assert len(skipped) == run.state.skipped
    assert 1 <= run.state.skipped <= 3
    assert all(re.fullmatch(r"\d+ tokens, longer than --ctx-size 256", example["reason"]) for example in skipped)
    assert re.search(r"\d examples? (is|are) left out; /finetune logs one names them\.", said)
    logged = ready("logs one --lines 100")
    for example in skipped:
        assert f"left out {example['id']}: {example['reason']}" in logged
    assert f"{run.state.skipped} example" in ready("show one")


def test_nothing_is_left_to_train_on(ready: Typed, bench: Bench) -> None:
    assert "No example is left to train on: all are left out; raise --ctx-size" in ready.refused(
        start(bench, ctx_size=8)
    )
    assert all_runs(bench.home.runs) == []
    said = ready(start(bench, ctx_size=8).replace("start", "plan", 1), code=1)
    assert re.search(r"^ left out  11: longer than --ctx-size 8 ", said, re.MULTILINE)


# A base in BF16


@pytest.mark.parametrize("flag", ["", "--f16-copy"], ids=["as it is", "with the flag of an older version"])
def test_a_bf16_base_is_trained_as_it_is(bench: Bench, tmp_path: Path, flag: str) -> None:
    bench.base = make_base(tmp_path / "brain.gguf", kind="bf16")
    typed = Typed(bench.home.root)
    typed(start(bench, "--yes", "--wait", *filter(None, [flag]), epochs=1))
    assert typed.host.asked == []
    assert bench.run().record.base.path == str(bench.base)
    assert not (bench.home.root / "bases").exists()


# Looking and steering


@pytest.mark.parametrize("verb", ["watch", "logs", "pause", "resume", "stop", "show"])
def test_before_the_first_run(typed: Typed, verb: str) -> None:
    assert typed.refused(verb) == "✗ There is no run yet: start one with /finetune start."


@pytest.mark.parametrize("verb", ["watch", "logs", "pause", "resume", "stop", "show", "status"])
def test_a_run_that_is_not_there(ready: Typed, bench: Bench, verb: str) -> None:
    bench.create("one")
    assert "There is no run 'two': there are one." in ready.refused(f"{verb} two")
    assert "cannot name a run" in ready.refused(f"{verb} '[/INST]'", code=2)


def test_status_of_nothing(typed: Typed) -> None:
    assert typed("status") == "No run yet. Rate answers, /dataset build, then /finetune start.\n"
    assert typed.json("status") == []
    assert typed("runs") == typed("status")


STATES = {
    "running": (
        State(status="running", step=3, steps=60, epoch=1, epochs=6, loss=2.5, loss_trend=-0.1, tokens_per_s=99.6,
              seconds_left=125),
        "one  interrupted  step 3/60  (go on: /finetune resume one)",
    ),
    "paused": (State(status="paused", step=3, steps=60), "one  paused  step 3/60  (go on: /finetune resume one)"),
    "failed": (
        State(status="failed", error="The base x[/INST] is gone."),
        "one  failed  The base x[/INST] is gone.  (go on: /finetune resume one)",
    ),
    "stopped": (
        State(status="stopped", step=5, steps=60, base_loss=3, best_loss=2.25),
        "one  stopped  step 5/60  validation loss 3.000 → 2.250",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("state", "line"), STATES.values(), ids=STATES)
def test_status_in_one_line(ready: Typed, bench: Bench, state: State, line: str) -> None:
    run = bench.create()
    write_json(run.folder / "state.json", state.model_dump(mode="json"))
    assert ready("status one") == f"{line}\n"


def test_a_living_run_in_one_line(ready: Typed, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.create()
    write_json(run.folder / "state.json", STATES["running"][0].model_dump(mode="json"))
    monkeypatch.setattr(Run, "alive", True)
    assert ready("status one") == ("one  running  epoch 1/6  step 3/60  loss 2.500 ↓  100 tokens/s  2 min left\n")


def test_several_runs_stand_in_columns(ready: Typed, bench: Bench) -> None:
    for name in ("a", "longer-name"):
        run = bench.create(name)
        write_json(run.folder / "state.json", State(status="paused", step=3, steps=60).model_dump(mode="json"))
    first, second = ready("status").splitlines()
    assert first.index("paused") == second.index("paused")
    assert first.index("step") == second.index("step")


def test_show_says_all_that_matters(ready: Typed, bench: Bench) -> None:
    run = bench.create(epochs=4)
    said = ready("show one")
    for words in (
        "one  new  (start it: /finetune resume one)", "base.gguf  qwen2  0.1 M parameters",
        f"{bench.dataset.name}  10 train  1 validation",
        "epochs 4", f"rank {SETTINGS.lora_rank}", "left out  nothing", str(run.folder),
    ):  # fmt: skip
        assert words in said
    labels = [line.index("  ", 9) for line in said.splitlines()[1:] if line.strip()]
    assert set(labels) == {9}, "every label ends where the others do"


def test_logs_are_lines(ready: Typed, bench: Bench) -> None:
    run = bench.create()
    for event in (
        {"event": "rows", "side": "train", "rows": 3, "skipped": [{"id": "ab", "reason": "[bold]too long"}]},
        {"event": "step", "step": 1, "steps": 60, "epoch": 1, "epochs": 6, "loss": 2.3456, "gradient_norm": 0.51234,
         "learning_rate": 0.001, "tokens_per_s": 1234.5, "seconds": 1.0},
        {"event": "validation", "step": 1, "epoch": 1, "loss": 2.0, "best": True},
        {"event": "failed", "message": "The engine was killed."},
    ):  # fmt: skip
        append_json(run.folder / "events.jsonl", {**event, "attempt": 1, "at": "2026-11-22T15:53:35.149+00:00"})
    assert ready("logs one").splitlines() == [
        "15:53:35  rows        side train  rows 3",
        "                      left out ab: [bold]too long",
        "15:53:35  step        1/60  epoch 1/6  loss 2.346  gradient 0.512  rate 0.001  1234 tokens/s",
        "15:53:35  validation  loss 2.000 after step 1 (epoch 1), the best so far",
        "15:53:35  failed      The engine was killed.",
        f"The engine's own log: {run.folder / 'engine.log'}",
    ]
    assert ready("logs one --lines 1").splitlines()[0].endswith("The engine was killed.")


def test_steering_a_run(ready: Typed, bench: Bench) -> None:
    ready(start(bench, epochs=100))
    run = bench.run()
    reached(run, 1)
    assert ready("pause") == "one saves a checkpoint and frees the memory.\n"
    over(run)
    assert "one  paused" in ready("status")
    assert ready.refused("stop") == "✗ The run one is not training (it is paused)."
    assert ready.json("resume")["status"] == "running"
    assert "is at work already" in ready.refused("resume")
    assert ready.json("stop one") == {"run": "one", "asked": "stop"}
    over(run)
    assert "one is stopped: start a new one" in ready.refused("resume")
    assert ready("watch").startswith("one  stopped")


def test_watch_shows_a_run_until_it_is_over(ready: Typed, bench: Bench) -> None:
    ready(start(bench, epochs=10))
    lines = ready("watch one").splitlines()
    assert lines[-1].startswith("one  finished  step 100/100")
    assert lines[0].startswith(("one  running", "one  finished"))


def test_watch_ends_with_the_runs_own_end(ready: Typed, bench: Bench) -> None:
    run = bench.create()
    write_json(run.folder / "state.json", State(status="failed", error="Too bad.").model_dump(mode="json"))
    assert ready("watch", code=1) == "one  failed  Too bad.  (go on: /finetune resume one)\n"


def test_ctrl_c_leaves_the_watch_and_not_the_run(ready: Typed, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(start(bench, epochs=100))

    def interrupted(_run: Run) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "run_line", interrupted)
    assert ready("watch", code=130).endswith("one goes on. See it again with /finetune watch one.\n")
    monkeypatch.undo()
    assert bench.run().alive
    ask(bench.run(), "stop")
    over(bench.run())


# Setup and doctor


def test_setup_of_an_engine_in_place_does_nothing(ready: Typed) -> None:
    assert f"✓ Engine {VERSION} is in place" in ready("setup")
    assert ready.json("setup")["installed"] is False


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [(None, 2, "There is no readable file"), (b"nonsense", 1, "is not @qvac/fabric")],
    ids=["missing", "another"],
)
def test_setup_from_a_file_that_is_not_the_package(
    typed: Typed, tmp_path: Path, content: bytes | None, code: int, words: str
) -> None:
    file = tmp_path / "fabric.tgz"
    if content is not None:
        file.write_bytes(content)
    lines = typed(f"setup --from {file}", code=code).splitlines()
    assert lines[-1].startswith("✗ ")
    assert words in lines[-1]
    assert not engine_dir().exists()


def test_setup_without_a_network(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_setup, "_npm", lambda: ["false"])
    lines = typed("setup", code=1).splitlines()
    assert "The engine could not be fetched (npm ended with code 1): check the network" in lines[-1]
    assert len(lines) == 2


def rows(typed: Typed, code: int = 0) -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in typed.json("doctor", code)}


def test_doctor_of_a_machine_in_order(ready: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    with listing() as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        found = rows(Typed(ready.home.root, slots=Slots({"primary": "a"}, Path("/x/config.yaml"))))
    machine = ("memory", "disk", "GPU", "llama-finetune-lora")
    assert {what: row["verdict"] for what, row in found.items() if what not in machine} == {
        "CPU": "ok", "engine": "ok", "training": "ok", "Ollama": "ok", "host": "ok",
    }  # fmt: skip
    assert found["Ollama"]["found"] == "0.30.0"
    assert found["host"]["found"] == "test, /x/config.yaml"
    assert VERSION in found["engine"]["found"]
    assert str(ready.home.root) in found["disk"]["found"]


def test_doctor_says_what_to_do(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10**9))
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/llama-finetune-lora")
    found = rows(typed, code=1)
    advice = {what: (row["verdict"], row["advice"]) for what, row in found.items()}
    assert advice["engine"] == ("bad", "run /finetune setup")
    assert advice["disk"] == ("note", "an export needs 2 to 3 times its base")
    assert advice["Ollama"][0] == "note"
    assert "ollama serve" in advice["Ollama"][1]
    assert "--config" in advice["host"][1]
    assert "never zeroes its gradients" in advice["llama-finetune-lora"][1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_doctor_fits_the_terminal(home: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    said = Typed(home, width=width)("doctor", code=1)
    assert max(map(len, said.splitlines())) <= width
    assert "✗  engine" in said


@pytest.mark.parametrize(
    ("system", "machine", "glibc", "verdict", "words"),
    [
        ("linux", "x86_64", ("glibc", "2.31"), "bad", "glibc 2.35 or newer"),
        ("linux", "x86_64", ("", ""), "bad", "glibc 2.35 or newer"),
        ("linux", "aarch64", ("glibc", "2.39"), "note", "unproven"),
        ("darwin", "arm64", ("", ""), "note", "unproven"),
        ("linux", "riscv64", ("glibc", "2.39"), "bad", "not built for linux on riscv64"),
        ("win32", "AMD64", ("", ""), "bad", "does not run on Windows"),
    ],
    ids=["old-glibc", "musl", "arm", "mac", "riscv", "windows"],
)
def test_doctor_knows_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, glibc: tuple[str, str], verdict: str, words: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: glibc)
    last = list(health._platform())[-1]
    assert last.verdict == verdict
    assert words in f"{last.found} {last.advice}"


# Settings that cannot be read are told by the command that needs them


@pytest.mark.parametrize("line", ["start", "doctor"])
def test_a_broken_settings_file(ready: Typed, line: str) -> None:
    ready.home.settings.write_text("[train\n", encoding="utf-8")
    assert f"{ready.home.settings} is not TOML" in ready.refused(line)


def test_reserved_names_are_the_words_of_all_commands() -> None:
    words = reserved()
    for command in (dataset, export, finetune, model_register):
        assert set(command.VERBS) <= set(words)


# Two runs side by side


def test_compare(typed: Typed, bench: Bench, trained: Run) -> None:
    other = Run(Path(shutil.copytree(trained.folder, trained.folder.with_name("two"))))
    record = json.loads((other.folder / "run.json").read_text())
    record["settings"]["learning_rate"] = 0.5
    (other.folder / "run.json").write_text(json.dumps({**record, "name": "two"}))
    state = json.loads((other.folder / "state.json").read_text())
    (other.folder / "state.json").write_text(json.dumps({**state, "best_loss": state["best_loss"] + 1}))
    found = typed.json("compare one two")
    assert found["differ"] == {"learning_rate": [1e-3, 0.5]}
    assert found["better"] == "one"
    assert found["results"]["status"] == ["finished", "finished"]
    assert [row["epoch"] for row in found["losses"]] == list(range(trained.record.settings.epochs + 1))
    assert found["warning"] is None
    said = typed("compare one two")
    assert "one is better on the validation side." in said
    assert re.search(r"learning_rate +0\.001 +0\.5", said)
    record["dataset"] = "other"
    (other.folder / "run.json").write_text(json.dumps({**record, "name": "two"}))
    found = typed.json("compare one two")
    assert found["better"] is None
    assert "different datasets" in found["warning"]
    assert "There is no run 'three'" in typed("compare one three", 1)
