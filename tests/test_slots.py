"""Swaps of a slot: promoted, recorded, rolled back, and whole again after a crash at any point."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from meton_plugins.finetune.errors import ConfigError, NotFound, ServerError, UsageError
from meton_plugins.finetune.serve.history import History
from meton_plugins.finetune.serve.ollama import Server
from meton_plugins.finetune.serve.slots import promote, rollback, settle
from meton_plugins.host.config_file import ConfigFile
from meton_plugins.host.errors import HostError

A, B, C = "meton-a:v1-2026-11-22-00000001", "meton-a:v2-2026-11-22-00000002", "meton-a:v3-2026-11-22-00000003"


class Double:
    """A server that lists some models and can, or cannot, answer."""

    def __init__(self, *models: str, note: str | None = None) -> None:
        self.models, self.note = models, note

    def exists(self, name: str) -> bool:
        return name in self.models

    def try_out(self, name: str) -> str | None:
        if self.note == "dead":
            raise ServerError("the model answers nothing")
        return self.note


def server(*models: str, note: str | None = None) -> Server:
    return cast(Server, Double(*models, note=note))


@pytest.fixture
def store(tmp_path: Path) -> ConfigFile:
    path = tmp_path / "config.yaml"
    path.write_text("models:\n  primary: big:32b # kept\n  fallback: small:8b\n")
    return ConfigFile(path)


@pytest.fixture
def history(home: Path) -> History:
    return History(home / "history.jsonl")


def test_promote_and_roll_back(store: ConfigFile, history: History) -> None:
    all_models = server(A, B, C, "big:32b")
    before = store.path.read_bytes()
    assert promote(store, all_models, history, A, "primary", "first") == ("primary", "big:32b", A, True, None)
    promote(store, all_models, history, B, "primary", "second")
    promote(store, all_models, history, C, "fallback", "third")
    promote(store, all_models, history, C, "primary", "fourth")
    assert store.read() == {"primary": C, "fallback": C}
    assert rollback(store, history, "primary") == ("primary", C, B, True, None)
    assert rollback(store, history, "primary", 2, all_models) == ("primary", B, "big:32b", True, None)
    note = rollback(store, history, "fallback", 1, all_models).note
    assert note
    assert "ollama pull small:8b" in note
    assert store.path.read_bytes() == before
    with pytest.raises(NotFound, match="Nothing to roll back"):
        rollback(store, history, "primary")
    swaps = history.swaps()
    assert [(s.slot, s.old, s.new, s.why, s.state) for s in swaps[:2]] == [
        ("primary", "big:32b", A, "first", "done"),
        ("primary", A, B, "second", "done"),
    ]
    assert len(swaps[5].undoes) == 2
    assert history.path.stat().st_mode & 0o777 == 0o600


def test_promoted_again_after_a_rollback(store: ConfigFile, history: History) -> None:
    promote(store, server(A, B), history, A, "primary", "")
    rollback(store, history, "primary")
    promote(store, server(A, B), history, B, "primary", "")
    promote(store, server(A, B), history, A, "primary", "")
    assert rollback(store, history, "primary", 2).new == "big:32b"


@pytest.mark.parametrize(
    ("model", "slot", "error", "words"),
    [
        pytest.param(A, "primary", NotFound, "does not list", id="not-listed"),
        pytest.param("meton-b", "primary", UsageError, "name:tag", id="no-tag"),
        pytest.param("Meton-b:v1", "primary", UsageError, "lowercase", id="capital"),
        pytest.param(B, "tertiary", UsageError, "choose primary or fallback", id="no-such-slot"),
    ],
)
def test_refused(store: ConfigFile, history: History, model: str, slot: str, error: type, words: str) -> None:
    before = store.path.read_bytes()
    with pytest.raises(error, match=words):
        promote(store, server(B), history, model, slot, "")
    assert store.path.read_bytes() == before
    assert history.swaps() == []


def test_a_model_that_does_not_answer_is_not_promoted(store: ConfigFile, history: History) -> None:
    with pytest.raises(ServerError, match="answers nothing"):
        promote(store, server(A, note="dead"), history, A, "primary", "")
    assert store.read()["primary"] == "big:32b"
    assert promote(store, server(A, note="cannot run models"), history, A, "primary", "").note == "cannot run models"


def test_what_holds_the_slot_already_is_no_swap(store: ConfigFile, history: History) -> None:
    promote(store, server(A), history, A, "primary", "")
    assert not promote(store, server(A), history, A, "primary", "").changed
    assert len(history.swaps()) == 1


def test_rollback_refuses_where_the_file_was_changed(store: ConfigFile, history: History) -> None:
    promote(store, server(A), history, A, "primary", "")
    store.write("primary", "mine:1b", expected=A)
    with pytest.raises(ConfigError, match="somebody changed it since"):
        rollback(store, history, "primary")
    assert store.read()["primary"] == "mine:1b"


@pytest.mark.parametrize("steps", [0, 2])
def test_rollback_by_a_wrong_number(store: ConfigFile, history: History, steps: int) -> None:
    promote(store, server(A), history, A, "primary", "")
    with pytest.raises(UsageError):
        rollback(store, history, "primary", steps)


def test_another_file_has_its_own_swaps(store: ConfigFile, history: History, tmp_path: Path) -> None:
    promote(store, server(A), history, A, "primary", "")
    (tmp_path / "other.yaml").write_text(f"models:\n  primary: {A}\n")
    with pytest.raises(NotFound):
        rollback(ConfigFile(tmp_path / "other.yaml"), history, "primary")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["before-write", "after-write", "after-mark"])
def test_killed_at_any_point(store: ConfigFile, history: History, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def killed(*_given: Any, **_named: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if point == "before-write":
            patch.setattr(ConfigFile, "write", killed)
        if point == "after-write":
            patch.setattr(History, "mark", killed)
        if point != "after-mark":
            with pytest.raises(Killed):
                promote(store, server(A), history, A, "primary", "")
        else:
            promote(store, server(A), history, A, "primary", "")
    if point == "before-write":
        assert [swap.state for swap in history.swaps()] == ["begun"]
        assert promote(store, server(A), history, A, "primary", "again").changed
    assert rollback(store, history, "primary").new == "big:32b"
    assert {swap.state for swap in history.swaps()} <= {"done", "dropped"}
    assert settle(store, history) == []


def test_a_failed_write_is_recorded_as_dropped(store: ConfigFile, history: History) -> None:
    store.path.chmod(0o444)
    with pytest.raises(HostError, match="read-only"):
        promote(store, server(A), history, A, "primary", "")
    assert [swap.state for swap in history.swaps()] == ["dropped"]


def test_a_line_cut_by_a_crash_costs_only_itself(store: ConfigFile, history: History) -> None:
    promote(store, server(A), history, A, "primary", "")
    with history.path.open("a") as file:
        file.write('{"id": "x", "slot"')
    promote(store, server(B), history, B, "primary", "")
    assert [swap.new for swap in history.swaps()] == [A, B]
    assert rollback(store, history, "primary", 2).new == "big:32b"
