"""Registering stops where the server would write a chat otherwise than training did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.host import RecordingHost
from support.ollama_server import private_server
from support.runs import Bench

from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.serve.export import export_model
from meton_plugins.finetune.serve.ollama import Server
from meton_plugins.finetune.train.runs import Run

pytest_plugins = ["support.run_fixtures"]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with private_server(tmp_path / "ollama") as running:
        yield running.url


def models(url: str) -> list[str]:
    with Server(url) as server:
        return [model.name for model in server.models()]


def test_a_model_is_served_as_it_was_trained_or_not_at_all(bench: Bench, trained: Run, url: str) -> None:
    bench.home.settings.write_text(f'[serve]\nollama_host = "{url}"\n')
    export_model(bench.home, trained, ["f16"])
    host = RecordingHost(bench.home.root)
    # As if it had been trained with another template than the one inside its GGUF, by which the server writes.
    record = json.loads((trained.folder / "run.json").read_text())
    other = {**record, "settings": {**record["settings"], "chat_template": "llama-2"}}
    (trained.folder / "run.json").write_text(json.dumps(other))
    assert model_register.make(host).run("add one") == 1
    assert "otherwise than it was trained (chat 1 of 3: training writes '[INST]" in host.output
    assert models(url) == [], "neither the tag nor its alias is left"
    assert not list((bench.home.models / "one").glob("v*.json"))

    (trained.folder / "run.json").write_text(json.dumps(record))
    host.clear()
    assert model_register.make(host).run("add one") == 0, host.output
    assert len(models(url)) == 2
    assert "not known" not in host.output
