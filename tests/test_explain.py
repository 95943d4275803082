"""`/model-register explain`: each trouble of the guide, made up and on a tiny model that was made to fail that way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from support.host import RecordingHost
from support.models import make_base, rewrite
from support.ollama_server import private_server
from support.runs import Bench
from support.teaching import taught_adapter

from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.curate import dataset as datasets
from meton_plugins.finetune.engine.jobs import Spoken
from meton_plugins.finetune.engine.library import Library as Engine
from meton_plugins.finetune.errors import NotFound, ServerError
from meton_plugins.finetune.gguf.inspect import GgufInfo, fingerprint
from meton_plugins.finetune.gguf.merge import merge
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.serve import loading, symptoms
from meton_plugins.finetune.serve.answers import Answer, Show
from meton_plugins.finetune.serve.contender import tuned_of
from meton_plugins.finetune.serve.explain import Explained, explain, sifted
from meton_plugins.finetune.serve.gate import KEEPS_FORM
from meton_plugins.finetune.serve.loading import Serving
from meton_plugins.finetune.serve.register import Registered, find_registered, keep
from meton_plugins.finetune.serve.reply import Reply, alike, digest, reduced, repeated, scripts, strange
from meton_plugins.finetune.serve.subject import find_subject
from meton_plugins.finetune.serve.symptoms import Signs
from meton_plugins.finetune.serve.trial import find_holder
from meton_plugins.finetune.settings import BuildSettings, GateSettings, TrainSettings
from meton_plugins.finetune.train.finding import Finding
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn
from meton_plugins.host.api import Effect

pytest_plugins = ["support.run_fixtures"]

# An answer as numbers


def test_what_repeats() -> None:
    assert repeated([1, 2, 3]) == 0
    assert repeated(list(range(40))) == 0
    assert repeated([7] * 40) == pytest.approx(36 / 37)
    assert repeated([1, 2, 3, 4, 5] * 8) == pytest.approx(32 / 37)


def test_what_cannot_be_read() -> None:
    english = scripts("What is it? It is fine.")
    assert strange("A plain answer: f(x) = 3 → “ok” 👍", english) == 0
    assert strange("\ufffd\ufffd\x07a", english) == 0.75
    assert strange("приветa", english) == pytest.approx(6 / 7)
    assert strange("привет", scripts("Что это?")) == 0
    assert strange(" \n", english) == 0


def test_an_answer_keeps_no_text() -> None:
    said = reduced(Spoken("secret  word", (1, 2, 3), True), scripts("word"))
    assert said == Reply(digest=digest("secret word"), tokens=3, repeated=0, strange=0, ended=True, form=False)
    assert "secret" not in said.model_dump_json()
    assert alike(["a", "b", "a"]) == 2
    assert alike([]) == 0


# Made-up signs


def reply(name: str, **values: Any) -> Reply:
    return Reply(
        **{"digest": name, "tokens": 40, "repeated": 0.05, "strange": 0.0, "ended": True, "form": True} | values
    )


def replies(prefix: str, **values: Any) -> list[Reply]:
    return [reply(f"{prefix}{number}", **values) for number in range(6)]


HEALTHY = Signs(
    run="mine", settings=TrainSettings(), rows=120, replies=replies("new"), base_replies=replies("old"),
    wanted=[40] * 6, limit=112, new=1.2, base=2.0, learned=1.0, judged=12, canary=(1.0, 1.02, 6),
)  # fmt: skip


def kinds(signs: Signs) -> list[str]:
    seen = [rule(signs) for rule in symptoms.RULES]
    return [one.kind for one in sifted([one for one in seen if one])]


def only(signs: Signs, kind: str) -> Finding:
    return next(found for rule in symptoms.RULES if (found := rule(signs)) and found.kind == kind)


def test_a_healthy_model_has_no_symptom() -> None:
    assert kinds(HEALTHY) == []
    assert kinds(Signs(run="mine", settings=TrainSettings(), rows=0)) == []


@pytest.mark.parametrize(
    ("changes", "kind", "evidence", "advice"),
    [
        (
            {"replies": replies("n", strange=0.4)},
            "gibberish",
            "40% of what it answered",
            "--learning-rate 5e-5, now 1e-4",
        ),
        ({"new": math.nan}, "gibberish", "is no number; the base's is 2.00", "half the learning rate"),
        ({"new": 5.0, "learned": 4.8}, "gibberish", "is 5.00, the base's 2.00; even on", "/finetune diagnose mine"),
        (
            {"new": 5.0, "learned": 4.8, "adapter": 1.1, "quant": "q4_0"},
            "gibberish",
            "adapter itself loses 1.10",
            "--quant q4_k_s",
        ),
        (
            {"replies": replies("n", repeated=0.8)},
            "repetitive",
            "6 of 6 answers",
            "models.settings.repeat_penalty: 1.15",
        ),
        (
            {"replies": replies("n", repeated=0.8)},
            "repetitive",
            "80% of an answer",
            "PARAMETER repeat_penalty of a Mode",
        ),
        ({"replies": [reply("x")] * 5 + [reply("y")]}, "one answer", "5 of 6 different", "more examples that differ"),
        (
            {"replies": replies("n", ended=False, tokens=112)},
            "endless",
            "ran to the limit of 112 tokens",
            "--epochs 6, now 3",
        ),
        ({"replies": replies("old")}, "ignores", "", ""),
        ({"new": 1.995}, "ignores", "is 2.00, the base's 2.00", "--lora-rank 32 (now 16), --epochs 6 (now 3)"),
        ({"new": 1.7, "adapter": 1.0, "quant": "q4_k_m"}, "quantization", "keeps 30% of the gain", "--quant q5_k_s"),
        ({"new": 2.6, "learned": 0.3}, "by heart", "0.30 on examples", "--epochs 1 (now 3)"),
        ({"canary": (1.0, 1.3, 6)}, "forgets", "is 1.30, the base's own 1.00: +30%", "--epochs 1 (now 3)"),
        (
            {"canary": (1.0, 1.3, 6), "in_form": True, "plain_share": 0.1},
            "forgets",
            "+30%",
            "--plain-share 0.2 (now 0.1)",
        ),
        ({"canary": (1.0, math.nan, 6)}, "forgets", "nan", "Mix general examples"),
        ({"wanted": [400] * 6}, "short", "40 tokens in the middle", "--min-length 80"),
    ],
)
def test_each_symptom_alone(changes: dict[str, Any], kind: str, evidence: str, advice: str) -> None:
    signs = replace(HEALTHY, **changes)
    if kind == "ignores" and "replies" in changes:
        assert kinds(signs) == [], "greedy answers may stay while the loss fell by 40%"
        signs = replace(signs, new=1.96)
        evidence, advice = "6 of 6 answers are word for word its base's", "/dataset preview"
    assert kinds(signs) == [kind]
    found = only(signs, kind)
    assert evidence in found.evidence
    assert advice in found.advice
    assert found.short


@pytest.mark.parametrize(
    "changes",
    [
        {"replies": replies("n", strange=0.4), "base_replies": replies("o", strange=0.4)},
        {"new": 2.4, "learned": 1.9},
        {"replies": [reply("n", repeated=0.8), *replies("n")[1:]]},
        {"replies": replies("n", repeated=0.9, tokens=12)},
        {"replies": [reply("x")] * 6, "wanted_alike": 6},
        {"replies": [reply("x")] * 5 + [reply("y")], "base_replies": [reply("z")] * 6},
        {"replies": replies("n", ended=False), "limit": 50},
        {"new": 1.9, "adapter": 1.89},
        {"canary": (1.0, 1.049, 6)},
        {"wanted": [0] * 6, "replies": replies("n", ended=False)},
    ],
    ids=[
        "base too",
        "a little worse",
        "one loop",
        "too short to loop",
        "wanted alike",
        "base alike",
        "cut by the limit",
        "kept",
        "hardly forgets",
        "length unknown",
    ],
)
def test_what_is_no_symptom(changes: dict[str, Any]) -> None:
    assert kinds(replace(HEALTHY, **changes)) == []


def test_a_base_that_repeats_itself_too_is_told() -> None:
    found = only(
        replace(HEALTHY, replies=replies("n", repeated=0.8), base_replies=replies("o", repeated=0.7)), "repetitive"
    )
    assert found.severity == "note"
    assert "Or a larger base" in found.advice


# Made-up servers and files

INFO = GgufInfo(
    Path("m.gguf"), 4 << 30, "model", "qwen2", "m", 7_000_000_000, 28, 32768, 150_000, "gpt2", "{% jinja %}", "<s>",
    "<|im_end|>", {"Q4_K": 200},
)  # fmt: skip
CHATML = "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>{{ end }}{{ .Prompt }}"


def shown(name: str = "meton-m:v1", **changes: Any) -> Show:
    values: dict[str, Any] = {
        "name": name, "modelfile": "", "template": CHATML, "system": "Be kind.", "license": "", "family": "qwen2",
        "parameters": 'stop                           "<|im_end|>"\nnum_ctx                        8192',
        "capabilities": frozenset({"completion", "tools"}), "format": "gguf", "quantization": "Q4_K_M", "remote": False,
    }  # fmt: skip
    return Show(**{**values, **changes})


SERVED = Serving(
    run="mine", tag="meton-mine:v1", info=INFO, listed=True, version="0.34.4", show=shown(), base_show=shown("base:7b"),
    system="Be kind.", speed=20.0, memory=16 << 30, asked=3, ended=3, ended_here=3, form=(20, 20, 20, "asked here"),
)  # fmt: skip


def troubles(serving: Serving) -> list[Finding]:
    return [found for rule in loading.RULES if (found := rule(serving))]


def test_a_healthy_server_has_no_trouble() -> None:
    assert troubles(SERVED) == []
    assert troubles(Serving(run="mine")) == []


@pytest.mark.parametrize(
    ("changes", "kind", "evidence", "advice"),
    [
        ({"trouble": "There is no file m.gguf."}, "file", "no file m.gguf", "/export model mine"),
        ({"trouble": "m.gguf cannot be read (Permission denied)."}, "file", "Permission", "chmod u+r"),
        (
            {"listed": False, "show": None},
            "gone",
            "Ollama 0.34.4 does not list meton-mine:v1",
            "/model-register add mine",
        ),
        (
            {"refused": "its llama.cpp does not know the model's architecture"},
            "load",
            "architecture qwen2, 4.0 GB",
            "Update",
        ),
        ({"refused": "the model needs more memory than is free"}, "load", "memory 16.0 GB", "--quant q4_k_m"),
        ({"refused": "it does not take the file for a GGUF"}, "load", "0.34.4", "Export it again"),
        ({"refused": "who knows"}, "load", "who knows", "server's log"),
        ({"memory": 4 << 30}, "memory", "The file has 4.0 GB, the machine 4.0 GB", "smaller base"),
        ({"speed": 1.0}, "slow", "1.0 tokens a second", "models.settings.num_ctx: 4096"),
        (
            {"speed": 4.0, "info": replace(INFO, size=14 << 30), "memory": 64 << 30},
            "slow",
            "mostly F16",
            "about 3.9 GB instead of 14.0 GB",
        ),
        ({"show": shown(capabilities=frozenset({"completion"}))}, "capabilities", "can do tools", "--template basic"),
        (
            {"show": shown(template="[INST] {{ .Prompt }} [/INST]")},
            "template",
            "is not that of base:7b",
            "mend TEMPLATE",
        ),
        (
            {"show": shown(template="[INST] {{ .Prompt }} [/INST]"), "base_show": None},
            "template",
            "puts [INST]",
            "mend",
        ),
        (
            {"show": shown(system="Be rude.")},
            "template",
            "Its SYSTEM (8 characters)",
            "SYSTEM from the base and the run",
        ),
        (
            {"show": shown(template="{{ .Prompt }}"), "base_show": None, "info": replace(INFO, chat_template=None)},
            "template",
            "Neither the Modelfile nor the GGUF",
            "mend",
        ),
        ({"show": shown(parameters="")}, "stops", "<|im_end|> of base:7b", 'PARAMETER stop "<|im_end|>"'),
        ({"ended": 0}, "stops", "0 of 3 answers through the server", 'PARAMETER stop "<|im_end|>"'),
        ({"form": (12, 20, 20, "/model-register check")}, "form", "12 of 20 answers", "--form meton"),
    ],
)
def test_each_trouble_alone(changes: dict[str, Any], kind: str, evidence: str, advice: str) -> None:
    found = troubles(replace(SERVED, **changes))
    assert [one.kind for one in found] == [kind]
    assert evidence in found[0].evidence
    assert advice in found[0].advice


# Real tiny models, made to fail


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


def chats(run: Run) -> list[list[dict[str, Any]]]:
    import json

    lines = (run.folder / "dataset" / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"] for line in lines]


def answering(rows: Sequence[list[dict[str, Any]]], answer: Callable[[int], str]) -> list[list[dict[str, Any]]]:
    return [[*row[:-1], {"role": "assistant", "content": answer(number)}] for number, row in enumerate(rows)]


def look(bench: Bench, name: str = "one", server: Any = None) -> Explained:
    return explain(bench.home, server, name, GateSettings(), silent, workers=1)


def found(bench: Bench, name: str = "one") -> dict[str, Finding]:
    return {one.kind: one for one in look(bench, name).findings}


@pytest.fixture(scope="module")
def able(library: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that answers in short sentences and ends them."""
    folder = tmp_path_factory.mktemp("able")
    raw = make_base(folder / "raw.gguf")
    said = [("sky", "the sky is blue"), ("user", "the user is Paris"), ("def", "def is the answer"), ("who", "Paris")]
    rows = [
        [{"role": "user", "content": f"{ask} {word}?"}, {"role": "assistant", "content": answer}]
        for word, answer in said
        for ask in ("the", "What is", "is")
    ]
    adapter = taught_adapter(library, raw, folder / "able.gguf", rows, 240, rate=3e-3)
    merge(raw, adapter, folder / "base.gguf")
    return folder / "base.gguf"


@pytest.fixture
def made(bench: Bench, able: Path) -> Bench:
    """A bench on that base, with a run `one` that has not trained: each test gives it an adapter."""
    turns = [
        Turn(
            session=f"s{n}", at=f"2026-01-01T00:{n:02}:00", question=f"What is number {n}?", answer=f"the answer is {n}"
        )
        for n in range(40)
    ]
    with Library(bench.home.library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
        library.tag(new[:8], add=["judge"])
        built = BuildSettings(form="plain", context_turns=0, heldout="judge", deduplicate=False)
        manifest = datasets.build(library, built, bench.home.datasets)
    bench.base, bench.dataset = able, bench.home.datasets / manifest.id
    bench.create("one")
    return bench


def test_gibberish(made: Bench, library: Engine) -> None:
    run = made.run()
    path = taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 2)
    scramble(path, 30.0)
    seen = found(made)
    assert set(seen) == {"gibberish"}
    assert "--learning-rate 5e-4, now 0.001" in seen["gibberish"].advice


def scramble(path: Path, spread: float) -> None:
    """Random numbers in place of a file's matrices."""
    reader = GGUFReader(path, "r+")
    random = np.random.default_rng(3)
    for tensor in reader.tensors:
        if len(tensor.shape) == 2:
            tensor.data[:] = (spread * random.standard_normal(tensor.data.shape)).astype(tensor.data.dtype)
    reader.data.flush()


def test_a_spoilt_file_of_a_good_adapter(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 60, rate=2e-3)
    path = exported(made, run)
    scramble(path, 0.7)
    redone(made, run, path)
    seen = found(made)
    assert set(seen) == {"gibberish"}
    assert "its adapter does not" in seen["gibberish"].problem
    assert "--quant f16" in seen["gibberish"].advice


def exported(made: Bench, run: Run, source: Path | None = None) -> Path:
    folder = made.home.models / run.name
    folder.mkdir(parents=True)
    path = folder / f"{run.name}-q8_0.gguf"
    if source is None:
        merge(made.base, run.adapter(), path)
    else:
        path.write_bytes(source.read_bytes())
    redone(made, run, path)
    return path


def redone(made: Bench, run: Run, path: Path) -> None:
    """export.json for `path` as it is now."""
    record = run.record.base
    entry = {"quant": "q8_0", "path": str(path), "sha256": fingerprint(path), "bytes": path.stat().st_size}
    base = {"path": record.path, "name": record.name, "sha256": record.sha256}
    value = {
        "run": run.name,
        "base": base,
        "template": "bare",
        "files": [entry],
        "adapter_sha256": "0",
        "created": "now",
    }
    write_json(made.home.models / run.name / "export.json", value)


def test_a_file_that_lost_what_was_learned(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 60, rate=2e-3)
    exported(made, run, made.base)
    seen = found(made)
    assert "quantization" in seen
    assert "keeps 0% of the gain" in seen["quantization"].evidence
    assert "--quant f16" in seen["quantization"].advice
    assert "ignores" not in seen


def test_repetitive(made: Bench, library: Engine) -> None:
    run = made.run()
    rows = answering(chats(run), lambda _: "the blue " * 12)
    taught_adapter(library, made.base, run.folder / "best.gguf", rows, 80, rate=1e-2)
    seen = found(made)
    assert "repetitive" in seen, seen
    assert "gibberish" not in seen, "it can be read"
    assert "more examples that differ" in seen["repetitive"].advice
    assert "models.settings.repeat_penalty: 1.15" in seen["repetitive"].advice


def test_one_answer_to_all(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", answering(chats(run), lambda _: "Paris"), 80)
    seen = found(made)
    assert "one answer" in seen, seen
    assert "different questions got one and the same answer" in seen["one answer"].evidence


def test_ignored(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    seen = found(made)
    assert set(seen) == {"ignores"}
    assert "6 of 6 answers are word for word its base's" in seen["ignores"].evidence
    assert "--lora-rank 8 (now 4)" in seen["ignores"].advice


def test_forgets(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run)[:4], 120, rate=1e-2)
    seen = found(made)
    assert "forgets" in seen, seen
    assert "Mix general examples in" in seen["forgets"].advice


def test_healthy(made: Bench, library: Engine) -> None:
    run = made.run()
    mixed = chats(run)
    taught_adapter(library, made.base, run.folder / "best.gguf", mixed, 32, rate=3e-4)
    host = RecordingHost(made.home.root)
    (made.home.root / "settings.toml").write_text('[serve]\nollama_host = "127.0.0.1:1"\n')
    assert model_register.make(host).run("explain one --threads 1") == 0, host.output
    assert "one  Nothing stands out." in host.output
    assert "✓ Its loss on 8 held-out answers is" in host.output
    assert "It is not exported, so its adapter was looked at" in host.output


def test_nothing_is_asked_twice(made: Bench, library: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    first = look(made)
    for name in ("losses", "speak"):
        monkeypatch.setattr(f"meton_plugins.finetune.engine.jobs.{name}", lambda *_a, **_k: pytest.fail("asked twice"))
    assert look(made).findings == first.findings
    kept = "".join(path.read_text() for path in (made.home.root / "judged").iterdir())
    assert "answer is" not in kept, "no text is kept where /dataset forget would not find it"


def test_a_check_that_was_made_counts(made: Bench, library: Engine) -> None:
    run = made.run()
    path = taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    folder = made.home.models / "one"
    folder.mkdir(parents=True)
    value = {"model": str(path), "prompts": 40, "base": 38, "tuned": 9, "verdict": "fail", "reason": "", "lost": []}
    write_json(folder / "form_check.json", value)
    assert "9 of 40 answers keep Meton's form, 38 should" in found(made)["form"].evidence


def test_the_gates_own_look_at_the_form_counts(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    sha256 = tuned_of(find_subject(made.home, "one"), "one").sha256
    folder = made.home.models / "one"
    folder.mkdir(parents=True)
    line = {"name": KEEPS_FORM, "verdict": "fail", "found": "9 of 20 answers, the base 18", "threshold": ""}
    value = {"model": "one", "base": "b", "heldout": 20, "lines": [line], "sha256": sha256}
    write_json(folder / "gate.json", value)
    assert "9 of 20 answers keep Meton's form, 18 should (/model-register gate)" in found(made)["form"].evidence
    write_json(folder / "gate.json", {**value, "sha256": "of another"})
    assert "form" not in found(made)


def test_a_file_that_is_gone_or_no_gguf(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    path = exported(made, run)
    path.write_bytes(b"GGUF" + bytes(100))
    seen = found(made)
    assert "cut short or damaged" in seen["file"].evidence
    assert "ignores" in seen, "its adapter is looked at all the same"
    path.write_text("not a model")
    assert "is not a GGUF file" in found(made)["file"].evidence
    path.unlink()
    assert "There is no file" in found(made)["file"].evidence


def test_a_file_that_the_engine_does_not_know(made: Bench, library: Engine) -> None:
    run = made.run()
    taught_adapter(library, made.base, run.folder / "best.gguf", chats(run), 0)
    path = exported(made, run)
    redone(made, run, rewrite(path, path, architecture="unheardof"))
    seen = found(made)
    assert "cannot load one-q8_0.gguf" in seen["file"].evidence
    assert "ignores" in seen, "its adapter is looked at all the same"


def test_one_that_nobody_could_ask(made: Bench) -> None:
    host = RecordingHost(made.home.root)
    (made.home.root / "settings.toml").write_text('[serve]\nollama_host = "127.0.0.1:1"\n')
    assert model_register.make(host).run("explain one --threads 1") == 0
    assert "It could not be asked anything" in host.output
    assert "The run one has no adapter yet" in host.output
    assert "Nothing stands out" not in host.output


def test_names_that_nobody_knows(made: Bench) -> None:
    with pytest.raises(NotFound, match="no run 'two'"):
        look(made, "two")
    with pytest.raises(NotFound, match="no registered model meton-x:v1"):
        look(made, "meton-x:v1")


# Servers


class FakeServer:
    """Lists one model, and answers or refuses as it was told."""

    warning = None

    def __init__(self, answer: Answer | Exception, show: Show) -> None:
        self.answer, self.shown = answer, show
        self.unloaded: list[str] = []

    def version(self) -> str:
        return "0.34.4"

    def exists(self, name: str) -> bool:
        return name == self.shown.name

    def show(self, name: str) -> Show:
        return self.shown

    def generate(self, name: str, prompt: str, **_options: Any) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def unload(self, name: str) -> None:
        self.unloaded.append(name)


def registered(
    home: Home, gguf: Path, run: str | None = None, version: int = 1, retired: str | None = None
) -> Registered:
    day = f"2026-11-{21 + version}"
    made = Registered(
        tag=f"meton-mine:v{version}-{day}-00000000", alias="meton-mine:latest", digest="d", gguf=str(gguf),
        sha256="0" * 64, bytes=1, request="r", when=f"{day}T00:00:00+00:00", notes={"run": run} if run else {},
        retired=retired,
    )  # fmt: skip
    private_dir(home.make().models / "mine")
    keep(home, made)
    return made


def test_an_alias_is_its_newest_version_that_is_not_retired(home: Path, tmp_path: Path) -> None:
    """Explained, gated and examined alike: the oldest may be far from what the server answers with under this name."""
    kept = Home(home)
    files = [tmp_path / f"{number}.gguf" for number in range(3)]
    for file in files:
        file.touch()
    first = registered(kept, files[0], "first", 1)
    second = registered(kept, files[1], "second", 2)
    third = registered(kept, files[2], "third", 3, retired="2026-11-25")
    assert find_registered(kept, first.alias) == second
    assert [find_registered(kept, made.tag) for made in (first, second, third)] == [first, second, third]
    assert find_registered(kept, "meton-yours:latest") is None
    assert explain(kept, None, first.alias, GateSettings(), silent).model == second.tag
    write_json(private_dir(kept.runs / "other") / "run.json", {})
    with pytest.raises(NotFound, match="no run 'second'"):
        find_subject(kept, first.alias)
    holder = find_holder(kept, None, first.alias, SimpleNamespace(system=""))  # type: ignore[arg-type]
    assert holder.contender is not None
    assert holder.contender.file == files[1]
    keep(kept, second.model_copy(update={"retired": "2026-11-25"}))
    assert find_registered(kept, first.alias) == first
    keep(kept, first.model_copy(update={"retired": "2026-11-25"}))
    assert find_registered(kept, first.alias) == third


def test_a_registered_file_of_no_run(home: Path, tmp_path: Path) -> None:
    from meton_plugins.finetune.gguf.tiny import make_tiny

    kept = Home(home)
    made = registered(kept, make_tiny(tmp_path / "m.gguf"))
    show = shown(made.tag, template="", parameters="")
    quick = FakeServer(Answer("hello", 32, "stop", 2.0), show)
    seen = explain(kept, quick, made.tag, GateSettings(), silent)  # type: ignore[arg-type]
    assert (seen.findings, quick.unloaded) == ([], [made.tag])
    assert seen.good == ["It says 16 tokens a second through the server."]
    slow = FakeServer(Answer("hello", 32, "stop", 40.0), show)
    assert [one.kind for one in explain(kept, slow, made.alias, GateSettings(), silent).findings] == ["slow"]  # type: ignore[arg-type]
    refusing = FakeServer(ServerError("the model needs more memory than is free"), show)
    assert [one.kind for one in explain(kept, refusing, made.tag, GateSettings(), silent).findings] == ["load"]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with private_server(tmp_path_factory.mktemp("ollama"), shim=False) as running:
        yield running.url


def test_a_wrong_template_on_a_real_server(home: Path, tmp_path: Path, url: str) -> None:
    from meton_plugins.finetune.gguf.tiny import make_tiny
    from meton_plugins.finetune.serve.modelfile import Modelfile
    from meton_plugins.finetune.serve.ollama import Server
    from meton_plugins.finetune.serve.register import register

    kept, path = Home(home).make(), make_tiny(tmp_path / "m.gguf")
    with Server(url) as server:
        wrong = register(server, kept, path, "wrong", Modelfile(template="[INST] {{ .Prompt }} [/INST]"))
        seen = explain(kept, server, wrong.tag, GateSettings(), silent)
        assert [one.kind for one in seen.findings] == ["template"]
        assert "[INST]" in seen.findings[0].evidence
        right = register(server, kept, path, "right", Modelfile())
        seen = explain(kept, server, right.tag, GateSettings(), silent)
        assert (seen.findings, len(seen.unseen)) == ([], 2), seen
        assert "No run of meton-right" in seen.unseen[0]
        assert "no llama-server" in seen.unseen[1]
        server.delete(right.tag)
        seen = explain(kept, server, right.tag, GateSettings(), silent)
        assert [one.kind for one in seen.findings] == ["gone"]


def test_a_real_server_that_answers(home: Path, tmp_path: Path) -> None:
    from meton_plugins.finetune.gguf.tiny import make_tiny
    from meton_plugins.finetune.serve.modelfile import Modelfile
    from meton_plugins.finetune.serve.ollama import Server
    from meton_plugins.finetune.serve.register import register

    kept, path = Home(home).make(), make_tiny(tmp_path / "m.gguf")
    with private_server(tmp_path / "ollama") as running, Server(running.url) as server:
        made = register(server, kept, path, "mine", Modelfile())
        if made.warnings:
            pytest.skip(made.warnings[0])
        seen = explain(kept, server, made.tag, GateSettings(), silent)
        # It was made of a file, so nothing more is claimed of it than what the server showed.
        assert [line.partition(" is here")[0] for line in seen.unseen] == [f"No run of {made.tag}"]
        said = [*seen.good, *(one.evidence for one in seen.findings)]
        assert any("tokens a second through the server" in line for line in said), seen
        # The file is spoilt under the server: it lists the model, and cannot load it.
        blob = server.show(made.tag).blob
        assert blob is not None
        blob.write_bytes(b"GGUF" + bytes(64))
        seen = explain(kept, server, made.tag, GateSettings(), silent)
        assert "load" in [one.kind for one in seen.findings], seen


def test_json_and_the_agents_tool(home: Path, tmp_path: Path, url: str) -> None:
    from meton_plugins.finetune.gguf.tiny import make_tiny
    from meton_plugins.finetune.tools import TOOLS

    kept = Home(home)
    made = registered(kept, make_tiny(tmp_path / "m.gguf"))
    kept.settings.write_text(f'[serve]\nollama_host = "{url}"\n')
    host = RecordingHost(home, json=True)
    assert model_register.make(host).run(f"explain {made.tag}") == 1
    value = host.last_json()
    assert (value["model"], value["healthy"], value["findings"][0]["kind"]) == (made.tag, False, "gone")
    host.clear()
    assert model_register.make(host).run(f"explain {made.tag} --questions 1") == 2
    tool = next(tool for tool in TOOLS if tool.name == "model_explain")
    assert (tool.effect, tool.verb, tool.words) == (Effect.READ, "explain", ("model",))
