"""export.json beside the exported files: where they come from, and what of the tuning they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Export", "ExportedFile", "Rounding", "Side", "Survival", "Which", "read_export"]

#: Which of a run's adapters: the best on its validation side, or that of its last step.
Which = Literal["best", "last"]
#: The rows of a run that its files are measured on.
Side = Literal["validation", "training"]


class _Record(BaseModel):
    # A later version may write more: readers keep what they know.
    model_config = ConfigDict(extra="ignore")


class Rounding(_Record):
    """How the roundings of `tensors` on the base's own grid were chosen: on so many training rows and tokens of them.
    `error`: what is left of it beside what the tuning adds, over all that was looked at (`gguf.merge.Chosen`).
    `reason`: why they went at random.
    """

    tensors: int = 0
    rows: int = 0
    tokens: int = 0
    error: float | None = None
    reason: str = ""


class ExportedFile(_Record):
    """One file of an export. `bytes` is its size; `loss` is in nats a token on the rows of `Survival`.

    `broken`: its loss is not a number, because its values overflow somewhere. `kept`: the part of the adapter's gain.

    What earlier versions did not record is empty or None: tensors by type; adapted tensors whose type changed with
    `--quant base`; RMS change / step and the part of the change that was clipped, over the tensors that stay on the
    base's own grid; the seed of their roundings and how these were chosen.
    """

    quant: str
    path: str
    sha256: str
    bytes: int
    loss: float | None = None
    broken: bool = False
    kept: float | None = None
    types: dict[str, int] = {}
    retyped: dict[str, int] = {}
    change_per_step: float | None = None
    clipped: float | None = None
    seed: int | None = None
    rounding: Rounding | None = None


class Survival(_Record):
    """What the adapter gains, in nats a token, on rows of `side`: the run's validation rows, or those it trained on.

    `reason`: why there is nothing to measure a file by; `again`: the next export may know better.
    """

    side: Side = "validation"
    rows: int = 0
    left_out: int = 0
    base: float | None = None
    adapter: float | None = None
    reason: str = ""
    again: bool = False
    #: What the losses count; those of older versions counted all learned tokens, Meton's form too.
    counts: Literal["answer", "all"] = "all"

    def keeps(self, loss: float | None) -> float | None:
        """The part of the adapter's gain that a file of this `loss` has; None where that says nothing."""
        if loss is None or self.reason or self.base is None or self.adapter is None:
            return None
        return (self.base - loss) / (self.base - self.adapter)


class Export(_Record):
    """export.json. `survival` is None where it was not looked at."""

    run: str
    base: dict[str, str | None]
    adapter: Which = "best"
    adapter_sha256: str
    template: str
    created: str
    files: list[ExportedFile] = []
    survival: Survival | None = None

    def has(self, quant: str) -> bool:
        """Whether there is a file of that type."""
        return any(file.quant == quant for file in self.files)


def read_export(folder: Path) -> Export | None:
    """export.json in `folder`, or None."""
    try:
        return Export.model_validate_json((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
