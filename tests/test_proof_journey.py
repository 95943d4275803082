"""From two runs to a slot and back, typed into a shell against a real Ollama: the bad one is refused, the good one is
taken. JOURNEY_TRANSCRIPT=FILE keeps what was shown (docs/proof-session.txt is one).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest
from support.models import make_base
from support.ollama_server import private_server
from support.runs import SLOW, Bench, judged_dataset

pytest_plugins = ["support.run_fixtures"]

BASE = "tiny-base:latest"
CONFIG = f"# mine\nmodels:\n  primary: {BASE}\n  fallback: {BASE}\n"


class Journey:
    """A shell, and all that was typed and shown in it."""

    def __init__(self, bench: Bench, config: Path) -> None:
        self.bench, self.config = bench, config
        self.shown: list[str] = []

    def __call__(self, line: str, code: int = 0) -> str:
        """Type `meton-finetune LINE`."""
        words = ["--config", str(self.config), *line.split()]
        with self.bench.popen(*words) as process:
            said, _ = process.communicate(timeout=4 * SLOW)
        assert process.returncode == code, said
        self.shown.append(f"$ meton-finetune {line}\n{said}")
        return str(said)

    def json(self, line: str) -> object:
        """The same for machines; not part of the transcript."""
        return self.bench.json("--config", str(self.config), *line.split())


@pytest.fixture
def journey(bench: Bench, tmp_path: Path) -> Iterator[Journey]:
    """A base of a width that every quantization takes, known to the server, and 26 held-out answers."""
    bench.dataset = judged_dataset(bench.home)
    bench.base = make_base(tmp_path / "base.gguf", width=256, inner=256, layers=1)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    with private_server(tmp_path / "ollama") as server:
        bench.environment["OLLAMA_HOST"] = server.url
        with contextlib.closing(ollama.Client(server.url)) as client:
            client.create(model=BASE, files={"base.gguf": client.create_blob(str(bench.base))})
        yield Journey(bench, config)


def test_the_gate_decides(journey: Journey) -> None:
    flags = f"--base {BASE} --template bare --threads 1 --epochs 1 --lora-rank 8 --patience 0"
    journey(f"finetune start --name good {flags} --learning-rate 3e-4 --wait")
    journey(f"finetune start --name bad {flags} --learning-rate 0.1 --wait")

    said = journey("export model good --quant q4_k_m,q8_0,f16")
    assert all(quant in said for quant in ("q4_k_m", "q8_0", "f16"))
    journey("export model bad --quant q8_0")
    tags = {}
    for name in ("bad", "good"):
        said = journey(f"model-register add {name}{' --quant q8_0' if name == 'good' else ''}")
        found = re.search(rf"Registered (meton-{name}:v1-\S+)", said)
        assert found, said
        tags[name] = found[1]

    said = journey(f"model-register promote {tags['bad']} --slot primary --yes", code=1)
    assert "✗ forgets little" in said
    assert f"{tags['bad']} does not pass the gate (fail)" in said
    assert journey.config.read_text() == CONFIG
    said = journey(f"model-register promote {tags['good']} --slot primary --yes")
    assert said.count("✓") == 5, said
    assert f"primary: {BASE} → {tags['good']}" in said

    said = journey("model-register compare good base --prompts held-out --limit 8")
    assert "What is number" in said
    assert "promoted, passed the gate" in journey("model-register history")
    assert f"primary: {tags['good']} → {BASE}" in journey("model-register rollback --slot primary")
    assert journey.config.read_text() == CONFIG
    said = journey(f"model-register retire {tags['bad']} --yes")
    assert tags["bad"] in said
    listed = json.dumps(journey.json("model-register list"))
    assert tags["good"] in listed
    if path := os.environ.get("JOURNEY_TRANSCRIPT"):
        text = "\n".join(journey.shown).replace(str(journey.bench.home.root), "~/meton-finetune")
        Path(path).write_text(text.replace(str(journey.config), "~/Meton/config.yaml"), encoding="utf-8")
