"""What a run is (run.json, written once by the session) and how it stands (state.json, written by its worker)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..engine.compute import ComputeConfig
from ..settings import TrainSettings

__all__ = ["BaseRecord", "Redacted", "RunRecord", "State", "Status"]

Status = Literal["starting", "running", "paused", "stopped", "failed", "finished"]


class _Record(BaseModel):
    # A later version may write more: readers keep what they know.
    model_config = ConfigDict(extra="ignore")


class BaseRecord(_Record):
    """The base of a run. `size` in bytes and `mtime_ns` tell cheaply whether the file is still the same."""

    path: str
    sha256: str
    name: str | None = None
    architecture: str
    parameters: int
    size: int
    mtime_ns: int


class RunRecord(_Record):
    """run.json."""

    schema_version: int = 1
    name: str
    created: str
    base: BaseRecord
    dataset: str
    learned: Literal["last", "all"]
    examples: dict[str, int]
    settings: TrainSettings
    template: str
    system: str
    threads: int
    #: What its validation loss counts: what answers and calls say, or all learned tokens, as older versions did.
    loss_counts: Literal["answer", "all"] = "all"
    #: How it computes, decided once. None: a run that waits for its first start, or one of an older version.
    compute: ComputeConfig | None = None
    #: The run whose best adapter this one began with (`start.gguf` in its folder).
    parent: str | None = None
    #: sha256 of that adapter: a name may be another run's later.
    parent_adapter: str | None = None
    #: With a parent: examples that it or its ancestors were trained on, for each new one; None for the whole dataset.
    replay: float | None = None
    recipe: str | None = None
    #: The sweep that it was made by, and whether that keeps the adapters of those that did not win.
    sweep: str | None = None
    keep_all: bool = False
    #: What was foreseen: see `plan.Plan`.
    plan: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class State(_Record):
    """state.json: the truth of the moment it was written.

    `loss` is in nats a learned token, the others in nats a token that counts (`RunRecord.loss_counts`).
    """

    status: Status = "starting"
    attempt: int = 0
    pid: int = 0
    updated: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    loss_trend: float | None = None
    base_loss: float | None = None
    #: With the adapter of the run that this one continues, before its first step.
    start_loss: float | None = None
    validation_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    #: What Meton's form alone loses, on the validation side: with the base, with the best adapter.
    base_form_loss: float | None = None
    best_form_loss: float | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    trained_seconds: float = 0.0
    peak_rss_mb: float | None = None
    #: Validations since one that was better by more than min_delta.
    since_best: int = 0
    skipped: int = 0
    #: Why it failed, or paused by itself.
    error: str | None = None
    #: What the user should know of it though it goes on: it stopped early, it was taken up on another machine.
    note: str | None = None
    #: Why its adapters and checkpoints are gone: a sweep keeps its winner's alone.
    removed: str | None = None


class Redacted(_Record):
    """A line of redacted.json: so many rows of the run's dataset went because the user had their words forgotten.

    It was `trained` on some of them; others only `judged` it. `through` is the run before it that was trained on them,
    where it was not: its adapter began with that run's.
    """

    at: str
    forgotten: str
    trained: int
    judged: int
    through: str | None = None
