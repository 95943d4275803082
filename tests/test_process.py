"""The child process: whatever becomes of it, its parent gets a sentence, and no process is left; and the short jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import BaseMaker
from gguf import GGUFReader
from support.models import make_base, rewrite
from support.teaching import CHAT, TAUGHT, trained_adapter

from meton_plugins.finetune.engine import jobs, process, work
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Decoder, Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.process import Child, bootstrap, run_job
from meton_plugins.finetune.errors import EngineError, FinetuneError, ModelError, UsageError
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import build_rows
from meton_plugins.finetune.turn import Message

ROOT = Path(__file__).resolve().parent.parent


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process has ended, a zombie included, within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


Fake = Callable[[str], None]


@pytest.fixture
def fake(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a script in the place of the child's program."""

    def put(script: str) -> None:
        monkeypatch.setattr(process, "bootstrap", lambda module: [sys.executable, "-c", script])

    return put


# Real failures of the library


def test_assert_of_the_library_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    # Four heads cannot share three: the library finds out when it builds its graph, and aborts.
    base = make_base(tmp_path / "b.gguf", "llama", heads=4, kv_heads=3)
    log = tmp_path / "engine.log"
    with Child(_generate(base), log=log) as child, pytest.raises(EngineError) as caught:
        list(child)
    assert caught.value.sentence == (
        "The engine stopped itself (abort): its input or the memory was not what it expects. "
        "Its last words: ABORT: ggml.c:3460: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed"
    )
    assert "GGML_ASSERT" in caught.value.log
    assert child.process.returncode == -signal.SIGABRT
    assert "GGML_ASSERT" in log.read_text()


def test_exception_of_the_library_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    # SentencePiece without byte tokens: a letter that the vocabulary lacks is looked up in vain.
    base = make_base(tmp_path / "b.gguf", "llama", "spm")
    field = GGUFReader(base).get_field("tokenizer.ggml.tokens")
    assert field is not None
    tokens = [f"<gone {text[3:]}" if text.startswith("<0x") else text for text in field.contents()]
    bad = rewrite(base, tmp_path / "bad.gguf", add={"tokenizer.ggml.tokens": tokens})
    chat = [{"role": "user", "content": "日本"}, {"role": "assistant", "content": "日本"}]
    log = tmp_path / "engine.log"
    with pytest.raises(EngineError, match=r"abort.*Its last words: .*terminating.*key not found"):
        run_job("count", base=str(bad), chats=[chat], log=log)
    assert "__libc_start" not in log.read_text(errors="replace")  # no debugger was started, where there is one


def test_base_that_the_library_refuses_says_why(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", layers=1, width=32, inner=32)
    bad = rewrite(base, tmp_path / "bad.gguf", add={"qwen2.embedding_length": 64})
    with pytest.raises(EngineError) as caught:
        jobs.generate(bad, [CHAT])
    assert caught.value.sentence.startswith("The engine cannot load bad.gguf (error loading model: check_tensor_dims: ")
    assert caught.value.sentence.endswith("): use another version of it.")


def test_adapter_of_another_base(engine: Engine, library: Library, base: BaseMaker, tmp_path: Path) -> None:
    adapter = trained_adapter(library, base("qwen2", width=32, inner=32), tmp_path, steps=1)
    with pytest.raises(EngineError, match=r"^The adapter a\.gguf does not fit this base: name the base that it was"):
        jobs.generate(base("qwen2"), [CHAT], adapter=adapter)


@pytest.mark.parametrize(
    ("kill", "words"),
    [
        (signal.SIGKILL, "The engine was killed, most likely because memory ran out: close other programs, or use "
         "a smaller --ctx-size or base."),
        (signal.SIGSEGV, "The engine crashed (SIGSEGV)."),
        (signal.SIGTERM, "The engine crashed (SIGTERM)."),
        (signal.SIGILL, "The engine used an instruction that this CPU lacks: run /finetune setup --again."),
    ],
    ids=["kill", "segv", "term", "ill"],
)  # fmt: skip
def test_killed_while_it_works(engine: Engine, base: BaseMaker, kill: signal.Signals, words: str) -> None:
    with Child(_generate(base(), chats=[CHAT] * 2000)) as child:
        events = iter(child)
        assert next(events)["event"] == "progress"
        child.process.send_signal(kill)
        with pytest.raises(EngineError) as caught:
            list(events)
    assert caught.value.sentence == words
    assert child.process.returncode == -kill


def test_ctrl_c_is_not_the_childs(engine: Engine, base: BaseMaker) -> None:
    with Child(_generate(base(), chats=[CHAT] * 300)) as child:
        events: list[dict[str, Any]] = []
        for event in child:
            if not events:
                child.process.send_signal(signal.SIGINT)
            events.append(event)
    assert events[-1]["event"] == "result"


def _generate(base: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "generate", "base": str(base), "chats": [CHAT], "limit": 3, "threads": 1, **changes}


# What comes out of it


def test_lines_that_are_no_events_are_left_out(fake: Fake) -> None:
    fake(
        "import sys\n"
        'sys.stdout.buffer.write(b\'garbage\\n\\xff\\xfe\\n\\n[1]\\n7\\nnull\\n{}\\n{"event": 5}\\n"event"\\n\')\n'
        'print(\'{"event": "progress", "done": 1, "total": 2}\')\n'
        'print(\'{"event": "result", "value": "é"}\')\n'
        'sys.stdout.write(\'{"event": "resu\')\n'
    )
    told: list[tuple[int, int]] = []
    assert run_job("x", progress=lambda done, total: told.append((done, total))) == {"event": "result", "value": "é"}
    assert told == [(1, 2)]


@pytest.mark.parametrize(
    ("event", "kind", "sentence"),
    [
        ({"message": "No such template.", "kind": "UsageError"}, UsageError, "No such template."),
        ({"message": "Bad\n  base.", "kind": "ModelError"}, ModelError, "Bad base."),
        ({"message": "Odd.", "kind": "Nonsense"}, EngineError, "Odd."),
        ({"message": "Odd.", "kind": "annotations"}, EngineError, "Odd."),
        ({"message": "Odd."}, EngineError, "Odd."),
    ],
    ids=["usage", "model", "unknown", "no-error", "none"],
)
def test_errors_keep_their_kind(fake: Fake, event: dict[str, str], kind: type[FinetuneError], sentence: str) -> None:
    line = json.dumps({"event": "error", **event})
    fake(f"import sys; print({line!r}); sys.exit(1)")
    with pytest.raises(FinetuneError) as caught:
        run_job("x")
    assert type(caught.value) is kind
    assert caught.value.sentence == sentence


def test_end_without_a_result_is_an_error(fake: Fake) -> None:
    fake("pass")
    with pytest.raises(EngineError, match=r"^The engine ended without a result: .*\.$"):
        run_job("x")


def test_exit_code_with_words(fake: Fake) -> None:
    fake("import sys; print('fine', file=sys.stderr); print('error: no moon', file=sys.stderr); sys.exit(7)")
    with pytest.raises(EngineError) as caught:
        run_job("x")
    assert caught.value.sentence == "The engine ended with code 7. Its last words: error: no moon"
    assert caught.value.log == "error: no moon"


def test_words_of_an_earlier_attempt_are_not_repeated(fake: Fake, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("GGML_ASSERT(yesterday) failed\n")
    fake("import sys; sys.exit(7)")
    with pytest.raises(EngineError, match=r"^The engine ended with code 7\.$"):
        run_job("x", log=log)
    assert log.read_text() == "GGML_ASSERT(yesterday) failed\n"  # kept for who wants to read it


def test_long_log_is_read_at_its_end(fake: Fake) -> None:
    fake("import sys; print('x' * 200000, file=sys.stderr); print('error: full moon', file=sys.stderr); sys.exit(7)")
    with pytest.raises(EngineError, match="full moon"):
        run_job("x")


def test_error_in_the_job_is_a_sentence(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"^The engine ended with code 1\. Its last words: KeyError: 'nothing'$"):
        run_job("nothing")


def test_engine_that_is_not_installed(home: Path) -> None:
    with pytest.raises(EngineError, match=r"^The training engine is not installed: run /finetune setup"):
        run_job("count", base="x", chats=[])


def test_the_child_waits_until_what_it_said_is_dealt_with(fake: Fake) -> None:
    # A checkpoint after steps that nobody wrote down would hide them for ever.
    fake(
        "import json, sys, time\n"
        "def say(**event): print(json.dumps(event), flush=True)\n"
        "sys.stdin.readline()\n"
        "say(event='step')\n"
        "say(event='sync')\n"
        "answer = sys.stdin.readline().strip()\n"
        "say(event='result', answer=answer, at=time.monotonic())\n"
    )
    seen, dealt_with = [], 0.0
    with Child({"kind": "x"}) as child:
        for event in child:
            if event["event"] == "step":
                time.sleep(0.3)
                dealt_with = time.monotonic()
            seen.append(event)
    assert [event["event"] for event in seen] == ["step", "sync", "result"]
    assert seen[-1]["answer"] == "synced"
    assert seen[-1]["at"] > dealt_with


# What it is to the machine


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has this file.")
def test_it_is_the_first_that_the_kernel_ends(engine: Engine, base: BaseMaker) -> None:
    with Child(_generate(base(), chats=[CHAT] * 2000)) as child:
        next(iter(child))
        assert Path(f"/proc/{child.process.pid}/oom_score_adj").read_text().strip() == "1000"
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"


@pytest.mark.parametrize("nice", [0, 7, 19])
def test_it_gives_way_as_far_as_is_wanted(engine: Engine, base: BaseMaker, nice: int) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with Child(_generate(base(), chats=[CHAT] * 2000, nice=nice)) as child:
        next(iter(child))
        threads = [int(task.name) for task in Path(f"/proc/{child.process.pid}/task").iterdir()]
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {max(mine, nice)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


# What it leaves behind


def test_no_process_is_left(engine: Engine, base: BaseMaker) -> None:
    child = Child(_generate(base(), chats=[CHAT] * 2000))
    with pytest.raises(ZeroDivisionError), child:
        _fail_after(child)
    assert gone(child.process.pid, 0.1)
    assert child.process.stdin is not None
    assert child.process.stdin.closed


def _fail_after(child: Child) -> None:
    next(iter(child))
    raise ZeroDivisionError


def test_child_that_never_ends_by_itself(fake: Fake) -> None:
    fake("import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    with Child({"kind": "x"}) as child:
        assert not gone(child.process.pid, 0.1)
    assert gone(child.process.pid, 0.1)


def test_words_to_a_dead_child_are_lost_quietly(fake: Fake) -> None:
    fake("pass")
    with Child({"kind": "x"}) as child:
        child.process.wait()
        for _ in range(3):
            child.send("stop")


@pytest.mark.parametrize(
    "held",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's.")),
    ],
    ids=["its-input-ends", "its-input-is-held-open"],
)
def test_child_dies_with_its_parent(engine: Engine, base: BaseMaker, held: bool) -> None:
    job = _generate(base(), chats=[CHAT] * 500, limit=200)
    script = (
        f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from meton_plugins.finetune.engine.process import Child\n"
        f"with Child({job!r}) as child:\n"
        "    next(iter(child))\n"
        f"    holder = os.fork() if {held} else 0\n"
        f"    if {held} and not holder:\n"
        "        time.sleep(30)\n"
        "        os._exit(0)\n"
        "    print(child.process.pid, holder, flush=True)\n"
        "    time.sleep(30)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    holder = 0
    try:
        assert parent.stdout is not None
        pid, holder = (int(word) for word in parent.stdout.readline().split())
        assert not gone(pid, 0.1)
        parent.kill()
        parent.wait()
        assert gone(pid)
    finally:
        parent.kill()
        parent.wait()
        if holder:
            os.kill(holder, signal.SIGKILL)
        assert parent.stdout is not None
        parent.stdout.close()


def test_child_ends_when_nobody_writes_to_it(engine: Engine, base: BaseMaker) -> None:
    # Where there is no PR_SET_PDEATHSIG.
    with Child(_generate(base(), chats=[CHAT] * 2000)) as child:
        next(iter(child))
        assert child.process.stdin is not None
        child.process.stdin.close()
        assert child.process.wait(10) == 71


# Apart from the host


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder like Meton's: modules whose names hide others, on the path, in the environment too."""
    folder = tmp_path / "meton"
    folder.mkdir()
    for name in (
        "config",
        "utils",
        "core",
        "json",
        "numpy",
        "gguf",
        "jinja2",
        "sitecustomize",
        "meton_plugins",
        "tools",
    ):
        (folder / f"{name}.py").write_text(f"raise SystemExit('the host was imported: {name}')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "config.py"))
    monkeypatch.syspath_prepend(folder)
    return folder


def test_nothing_of_the_host_is_imported(engine: Engine, base: BaseMaker, hostile: Path) -> None:
    assert jobs.count_tokens(base(), [TAUGHT])[0] > 0


def test_bootstrap_knows_the_packages_and_us_alone(hostile: Path) -> None:
    command = bootstrap("meton_plugins.finetune.engine.child")
    assert command[1] == "-I"
    assert str(hostile) not in command[-1]
    assert str(ROOT) in command[-1]
    start, _, _ = command[-1].partition("from meton_plugins")
    program = f"{start}import json; print(json.dumps(sys.path))"
    done = subprocess.run([*command[:-1], program], capture_output=True, text=True, check=True)
    assert not {str(hostile), "", "."} & set(json.loads(done.stdout))


# The jobs


def dataset(path: Path, *chats: list[dict[str, str]]) -> Path:
    """A dataset file."""
    lines = [json.dumps({"id": f"e{i}", "messages": chat}) for i, chat in enumerate(chats)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def answer(library: Library, base: Path, **changes: Any) -> list[str]:
    """What the job `generate` says to CHAT, in this process."""
    events: list[dict[str, Any]] = []
    job = _generate(base, **changes)
    work.generate(library, job, lambda event, **values: events.append({"event": event, **values}), lambda: None)
    assert events[-1]["event"] == "result"
    return [str(text) for text in events[-1]["answers"]]


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
def test_taught_answer_is_given(library: Library, base: BaseMaker, tmp_path: Path, tokenizer: str) -> None:
    path = base("qwen2", tokenizer)
    adapter = trained_adapter(library, path, tmp_path)
    assert answer(library, path, chats=[CHAT, CHAT], limit=30, adapter=str(adapter)) == ["the blue", "the blue"]
    assert answer(library, path, limit=30) != ["the blue"]


def test_generate(engine: Engine, library: Library, base: BaseMaker, tmp_path: Path) -> None:
    adapter = trained_adapter(library, base(), tmp_path)
    told: list[tuple[int, int]] = []
    mine = [Message(role="user", content="the sky?")]
    answers = jobs.generate(
        base(), [CHAT, mine], limit=30, adapter=adapter, progress=lambda done, total: told.append((done, total))
    )
    assert answers == ["the blue", "the blue"]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {told[-1][0]}


def test_what_prompts_begin_with_is_read_once(library: Library, base: BaseMaker, tmp_path: Path) -> None:
    adapter, read = trained_adapter(library, base(), tmp_path), []
    long = "the quick brown fox. " * 60
    chats = [[{"role": "system", "content": long}, {"role": "user", "content": f"{word}?"}] for word in ("a", "bb")]
    job = _generate(base(), limit=6, adapter=str(adapter))

    def said(*chats: Any) -> list[str]:
        events: list[dict[str, Any]] = []
        work.JOBS["generate"](
            library, {**job, "chats": chats}, lambda event, **values: events.append(values), lambda: None
        )
        read.append([event["done"] for event in events[:-1]])
        return [str(answer) for answer in events[-1]["answers"]]

    assert said(*chats) == [*said(chats[0]), *said(chats[1])]
    together, first, second = (steps[-1] for steps in read)
    assert together < 0.6 * (first + second)
    assert len(read[0]) >= 4  # read in parts, each told


def test_an_answer_ends_where_it_is_enough(library: Library, base: BaseMaker, tmp_path: Path) -> None:
    adapter = str(trained_adapter(library, base(), tmp_path))
    assert answer(library, base(), limit=30, adapter=adapter, until="^the") == ["the"]


def test_the_pace_of_generating(engine: Engine, base: BaseMaker) -> None:
    other = [{"role": "user", "content": "the sea, then?"}]
    measured = jobs.pace(base(), [CHAT, other])
    [alone] = [jobs.pace(base(), [CHAT])]
    assert 0 < measured.common < measured.longest
    assert measured.longest <= measured.common + measured.rest
    assert (alone.common, alone.rest) == (0, alone.longest)
    assert measured.read_per_s > 0
    assert measured.seconds(2, 30) > measured.seconds(2, 1) > 0
    # A prompt that is twice as long costs more than twice as much.
    longer = measured._replace(common=2 * measured.common, rest=0)
    assert longer.seconds(0, 0) > 2 * measured._replace(rest=0).seconds(0, 0)
    assert measured.attention == pytest.approx(2 * 64 * 2 / 74_000, rel=0.1)


def test_one_beginning_of_text_before_a_generated_answer(library: Library, base: BaseMaker, tmp_path: Path) -> None:
    # The template names it and the tokenizer adds it: the model has learned to read one.
    path = base("llama", "spm")
    named, plain = (tmp_path / name for name in ("named.jinja", "plain.jinja"))
    named.write_text("{{ bos_token }}{{ messages[0].content }}")
    plain.write_text("{{ messages[0].content }}")
    answers = [answer(library, path, limit=12, chat_template=str(file)) for file in (named, plain)]
    assert answers[0] == answers[1]


def test_generate_stops_at_the_limit(library: Library, base: BaseMaker) -> None:
    short, long = (answer(library, base(), limit=limit)[0] for limit in (1, 5))
    assert long.startswith(short)
    assert long != short


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "tuned"])
def test_evaluate_is_the_mean_over_learned_tokens(
    engine: Engine, library: Library, base: BaseMaker, tmp_path: Path, with_adapter: bool
) -> None:
    path = base()
    adapter = trained_adapter(library, path, tmp_path) if with_adapter else None
    other = [{"role": "user", "content": "the question?"}, {"role": "assistant", "content": "Paris is the answer"}]
    file = dataset(tmp_path / "held.jsonl", TAUGHT, other)
    loss = jobs.evaluate(path, file, adapter=adapter, ctx_size=128)
    with Model(library, path) as model, Decoder(model, 64, 1, adapter) as decoder:
        rows, _ = build_rows([("a", TAUGHT), ("b", other)], template_for(inspect(path), None), model, 128)
        losses = np.concatenate([decoder.losses(row.tokens)[row.trained[1:]] for row in rows])
    assert loss == pytest.approx(losses.mean(), abs=1e-6)


def loss_of(library: Library, base: Path, file: Path, **changes: Any) -> float:
    """What the job `evaluate` says, in this process."""
    events: list[dict[str, Any]] = []
    job = {"base": str(base), "file": str(file), "system": "", "ctx_size": 128, "threads": 1, **changes}
    work.evaluate(library, job, lambda event, **values: events.append({"event": event, **values}), lambda: None)
    return float(events[-1]["loss"])


def test_evaluate_puts_the_system_message(library: Library, base: BaseMaker, tmp_path: Path) -> None:
    file = dataset(tmp_path / "held.jsonl", TAUGHT)
    system = {"role": "system", "content": "the user is the question"}
    own = dataset(tmp_path / "own.jsonl", [system, *TAUGHT])
    with_system = loss_of(library, base(), file, system=system["content"])
    assert with_system == loss_of(library, base(), own, system="another")
    assert with_system != loss_of(library, base(), file)


@pytest.mark.parametrize(("ctx_size", "chats"), [(4, [TAUGHT]), (128, [CHAT])], ids=["all-too-long", "no-answers"])
def test_evaluate_without_examples_is_a_sentence(
    library: Library, base: BaseMaker, tmp_path: Path, ctx_size: int, chats: list[list[dict[str, str]]]
) -> None:
    file = dataset(tmp_path / "held.jsonl", *chats)
    with pytest.raises(EngineError, match=rf"held\.jsonl holds no example that fits --ctx-size {ctx_size}\.$"):
        loss_of(library, base(), file, ctx_size=ctx_size)


def test_count_is_the_length_of_the_rows(engine: Engine, library: Library, base: BaseMaker) -> None:
    path = base("llama", "spm")
    with Model(library, path, vocab_only=True) as model:
        rows, _ = build_rows([("a", TAUGHT)], template_for(inspect(path), None), model, 128)
    assert jobs.count_tokens(path, [TAUGHT, CHAT, TAUGHT]) == [len(rows[0].tokens), 0, len(rows[0].tokens)]
    assert jobs.count_tokens(path, []) == []
    system = {"role": "system", "content": "be brief"}
    assert jobs.count_tokens(path, [TAUGHT], system="be brief") == jobs.count_tokens(path, [[system, *TAUGHT]])
    assert jobs.count_tokens(path, [[system, *TAUGHT]], system="other") == jobs.count_tokens(path, [[system, *TAUGHT]])


def test_paths_may_be_relative(
    engine: Engine, base: BaseMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child works in the engine's folder.
    (tmp_path / "b.gguf").symlink_to(base())
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>")
    file = dataset(tmp_path / "d.jsonl", TAUGHT)
    monkeypatch.chdir(tmp_path)
    here = Path("b.gguf")
    assert jobs.count_tokens(here, [TAUGHT])[0] > 0
    assert jobs.generate(here, [CHAT], limit=2, chat_template="t.jinja")
    assert jobs.evaluate(here, Path(file.name), ctx_size=99) > 0
    jobs.quantize(here, Path("q.gguf"), "q8_0")
    assert (tmp_path / "q.gguf").is_file()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda to: to / "none.gguf", ModelError, "There is no file"),
        (lambda to: _empty(to / "empty.gguf"), ModelError, "is not a GGUF file"),
    ],
    ids=["missing", "empty"],
)
def test_base_that_cannot_be_used(
    engine: Engine, tmp_path: Path, make: Callable[[Path], Path], kind: type[FinetuneError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        jobs.generate(make(tmp_path), [CHAT])


def _empty(path: Path) -> Path:
    path.touch()
    return path


def test_dataset_file_that_is_missing_is_not_a_full_disk(engine: Engine, base: BaseMaker, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        jobs.evaluate(base(), tmp_path / "none.jsonl", ctx_size=99)
    path = tmp_path / "none.jsonl"
    assert caught.value.sentence == f"The system refused the engine's work: No such file or directory ({path})."


def test_quantize_to_a_full_disk(engine: Engine, base: BaseMaker, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^The engine could not quantize to q8_0 \(.*\): is the disk full\?$"):
        run_job("quantize", source=str(base()), target="/dev/full", type="q8_0", threads=1)


def test_failed_quantize_leaves_no_file(engine: Engine, tmp_path: Path) -> None:
    base = make_base(tmp_path / "b.gguf", kind="q4_0")
    with pytest.raises(ModelError, match="is not a LoRA adapter"):
        jobs.quantize(base, tmp_path / "q.gguf", "q8_0", adapter=base)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".gguf", ".tmp")] == ["b.gguf"]


@pytest.mark.parametrize(("name", "expected"), [("Q4_K_M", "q4_k_m"), ("f16", "f16")])
def test_quantization_by_any_case(name: str, expected: str) -> None:
    assert jobs.check_quantization(name) == expected


def test_unknown_quantization_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"^There is no quantization 'q9': choose one of base, f16, q8_0, .*q2_k\.$"):
        jobs.check_quantization("q9")


def test_threads() -> None:
    assert jobs.threads(3) == 3
    assert jobs.threads() == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else jobs.threads() >= 1
