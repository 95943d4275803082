"""Fixtures for tests against a real Ollama: `url, server = ollama_fixtures.url, ollama_fixtures.server`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meton_plugins.finetune.serve.ollama import Server

from .ollama_server import private_server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server listens."""
    with private_server(tmp_path_factory.mktemp("ollama")) as running:
        yield running.url


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    """It, without models before and after a test."""
    with Server(url) as found:
        yield found
        for model in found.models():
            found.delete(model.name)
