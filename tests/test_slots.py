"""Swaps of a slot: promoted, recorded, rolled back, and whole again after a crash at any point."""

from __future__ import annotations

import json
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
        self.unloaded: list[str] = []

    def exists(self, name: str) -> bool:
        return name in self.models

    def unload(self, name: str) -> None:
        if name not in self.models:
            raise NotFound(f"no model {name}")
        self.unloaded.append(name)

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
        pytest.param(B, "tertiary", UsageError, "choose one of primary, fallback, quick", id="no-such-slot"),
    ],
)
def test_refused(store: ConfigFile, history: History, model: str, slot: str, error: type, words: str) -> None:
    before = store.path.read_bytes()
    with pytest.raises(error, match=words):
        promote(store, server(B), history, model, slot, "")
    assert store.path.read_bytes() == before
    assert history.swaps() == []


def test_a_slot_that_the_config_does_not_have(store: ConfigFile, history: History) -> None:
    for work in (
        lambda: promote(store, server(A), history, A, "quick", ""),
        lambda: rollback(store, history, "quick"),
    ):
        with pytest.raises(ConfigError, match=r"names no model for quick: add models\.quick there, or choose another"):
            work()
    assert history.swaps() == []


def test_the_quick_slot_where_there_is_one(tmp_path: Path, history: History) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("models:\n  primary: big:32b\n  quick: small:3b  # fast\n")
    store = ConfigFile(path)
    assert promote(store, server(A), history, A, "quick", "").old == "small:3b"
    assert path.read_text() == f"models:\n  primary: big:32b\n  quick: {A}  # fast\n"
    assert rollback(store, history, "quick").new == "small:3b"


def test_what_no_slot_holds_any_more_leaves_the_servers_memory(store: ConfigFile, history: History) -> None:
    both = Double(A, B)
    there = cast(Server, both)
    promote(store, there, history, A, "primary", "")
    assert both.unloaded == [], "the server does not have big:32b, and that is no error"
    promote(store, there, history, A, "fallback", "")
    promote(store, there, history, B, "primary", "")
    assert both.unloaded == [], "fallback still holds the old one"
    promote(store, there, history, B, "fallback", "")
    assert both.unloaded == [A]
    rollback(store, history, "primary", 1, there)
    rollback(store, history, "fallback", 1, there)
    assert both.unloaded == [A, B]


def test_history_keeps_who_and_reads_lines_without(store: ConfigFile, history: History) -> None:
    history.who = "anna in meton"
    promote(store, server(A), history, A, "primary", "better")
    (swap,) = history.swaps()
    assert (swap.who, swap.why, swap.when[:2]) == ("anna in meton", "better", "20")
    old = swap.model_dump(mode="json", exclude={"who"})
    history.path.write_text(f"{json.dumps(old)}\n")
    assert history.swaps()[0].who == ""


def test_rollback_to_a_retired_model_is_refused(store: ConfigFile, history: History) -> None:
    for model in (A, B, C):
        promote(store, server(A, B, C), history, model, "primary", "")
    gone = {A: "2026-11-22T10:00:00+00:00"}
    with pytest.raises(NotFound, match=f"2 steps back primary held {A}, which was retired on 2026-11-22 and is gone"):
        rollback(store, history, "primary", 2, retired=gone)
    assert store.read()["primary"] == C
    assert rollback(store, history, "primary", 1, retired=gone).new == B
    with pytest.raises(NotFound, match="1 step back primary held"):
        rollback(store, history, "primary", 1, retired=gone)
    assert rollback(store, history, "primary", 2, retired=gone).new == "big:32b"


def test_what_the_last_swaps_need(store: ConfigFile, history: History, tmp_path: Path) -> None:
    assert history.in_use() == {}
    for model in (A, B, C):
        promote(store, server(A, B, C), history, model, "primary", "")
    promote(store, server(A, B, C), history, C, "fallback", "")
    assert set(history.in_use()) == {C, B, "small:8b"}
    assert history.in_use()[B] == f"rollback gives it back to primary of {store.path}"
    rollback(store, history, "primary")
    assert set(history.in_use()) == {A, B, C, "small:8b"}
    store.path.unlink()
    assert history.in_use() == {}


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
