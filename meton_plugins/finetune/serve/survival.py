"""The survival check: what exported files keep of what the adapter gained on the validation side."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ..curate.manifest import FILES
from ..engine.file_types import FILE_TYPES
from ..engine.jobs import count_tokens
from ..errors import FinetuneError
from ..gguf.inspect import fingerprint
from ..paths import Home
from ..train.runs import Run
from .contender import Chat, Contender
from .export_record import Export, ExportedFile, Survival
from .subject import template_of

__all__ = ["ENOUGH", "kept", "measure", "unmeasured", "warnings"]

#: Below this part of the gain a better type is advised.
ENOUGH: Final = 0.9
#: Rows that all files read; on a 7B model each costs seconds, and paired by row these say enough.
MOST: Final = 32
#: Two ways of computing the same model differ by as much, in nats a token: a smaller gain cannot be divided.
LEAST_GAIN: Final = 0.005
#: Types worth advising, the smallest first.
LADDER: Final = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")

#: Stage, done, total.
Tell = Callable[[str, int, int], None]
#: More than this of a gain is all of it.
ALL: Final = 0.9995


class _Scale(NamedTuple):
    """What all files are measured by: the same rows, read in the same way."""

    home: Home
    chats: list[Chat]
    left_out: int
    reader: Contender
    ctx_size: int

    def loss(self, name: str, file: Path, sha256: str, tell: Tell, adapter: Path | None = None) -> float:
        """Nats a token of `file` with `adapter`; `sha256` stands for both."""
        one = self.reader._replace(name=name, file=file, sha256=sha256, adapter=adapter)
        found = one.losses(self.home, self.chats, self.ctx_size, partial(tell, f"measuring {name}"))
        return sum(loss.nats for loss in found.values()) / sum(loss.tokens for loss in found.values())


def unmeasured(export: Export) -> bool:
    """Whether `measure` has something to do."""
    seen = export.survival
    return seen is None or seen.again or (not seen.reason and any(map(_open, export.files)))


def measure(
    home: Home, run: Run, adapter: Path, merged: Path, export: Export, save: Callable[[], None], tell: Tell
) -> None:
    """Fill in `export.survival` and the loss of each file that has none; `save` is called after each.

    `merged`: the F16 file, where it still is. What cannot be measured is a `reason`, never an error: the files are
    good.
    """
    try:
        scale = _scale(home, run)
        export.survival = scale if isinstance(scale, Survival) else _gain(scale, run, adapter, merged, export, tell)
        save()
        for file in export.files:
            if _open(file) and isinstance(scale, _Scale) and not export.survival.reason:
                file.loss = _number(scale.loss(file.quant, Path(file.path), file.sha256, tell))
                file.broken = file.loss is None
                save()
    except FinetuneError as error:
        export.survival = Survival(reason=error.sentence, again=True)
        save()


def _open(file: ExportedFile) -> bool:
    return file.loss is None and not file.broken


def _number(loss: float) -> float | None:
    """`loss`, or None for what is no number: JSON has no word for it, and no share can be taken of it."""
    return loss if math.isfinite(loss) else None


def kept(export: Export, quant: str) -> str:
    """`keeps 97% of the gain`; empty where that is not known."""
    if any(file.broken for file in export.files if file.quant == quant):
        return "gives no numbers"
    share = _share(export, quant)
    if share is None:
        return ""
    # Rounded down, but for what only the file's rounding took away.
    percent = 100 if share > ALL else math.floor(100 * share)
    return f"keeps {'all' if percent >= 100 else f'{percent}%' if percent > 0 else 'nothing'} of the gain"


def warnings(export: Export) -> list[str]:
    """A sentence for each file that keeps too little, with the next better type."""
    lines = []
    for file in export.files:
        if file.broken:
            lines.append(f"{file.quant} gives no numbers, for its values overflow: train with a lower learning rate.")
        share = _share(export, file.quant)
        if share is None or share >= ENOUGH:
            continue
        better = _better(export, file.quant)
        if better is None:
            way = "and nothing keeps more: the merge itself loses it, so train on a Q8_0 or F16 base"
        elif export.has(better):
            way = f"and {better} more: type /model-register add {export.run} --quant {better}"
        else:
            way = f"and {better} should keep more: type /export model {export.run} --quant {better}"
        lines.append(f"{file.quant} {kept(export, file.quant)}, {way}.")
    return lines


def _share(export: Export, quant: str) -> float | None:
    loss = next((file.loss for file in export.files if file.quant == quant), None)
    return None if export.survival is None else export.survival.keeps(loss)


def _better(export: Export, quant: str) -> str | None:
    """The next better type that is not known to keep too little itself."""
    larger = list(FILE_TYPES)[: list(FILE_TYPES).index(quant)]
    for each in LADDER:
        share, broken = _share(export, each), any(f.broken for f in export.files if f.quant == each)
        if each in larger and not broken and (share is None or share >= ENOUGH):
            return each
    return None


def _scale(home: Home, run: Run) -> _Scale | Survival:
    """The rows that fit and who reads them; a Survival with its reason where there are none."""
    record = run.record
    base, template = Path(record.base.path), template_of(run)
    rows = _rows(run.folder / "dataset" / FILES["validation"])
    if not rows:
        reason = "the run has no validation rows: rate more answers and build again"
        return Survival(reason=f"What the files keep of the tuning is not measured, for {reason}.")
    counts = count_tokens(base, [messages for _, messages in rows], template, record.system)
    ctx_size = record.settings.ctx_size
    fit = [row for row, count in zip(rows, counts, strict=True) if 0 < count <= ctx_size]
    if not fit:
        reason = f"none of the {len(rows)} validation rows fits into {ctx_size} tokens: train with a larger --ctx-size"
        return Survival(left_out=len(rows), reason=f"What the files keep of the tuning is not measured, for {reason}.")
    chosen = sorted(fit, key=lambda row: hashlib.sha256(row[0].encode()).digest())[:MOST]
    reader = Contender("base", base, record.base.sha256, None, template, record.system).paced(fit[0][1][:-1])
    return _Scale(home, chosen, len(rows) - len(fit), reader, ctx_size)


def _gain(scale: _Scale, run: Run, adapter: Path, merged: Path, export: Export, tell: Tell) -> Survival:
    base = run.record.base
    both = hashlib.sha256(f"{base.sha256} {export.adapter_sha256}".encode()).hexdigest()
    before = scale.loss("the base", Path(base.path), base.sha256, tell)
    after = scale.loss("the adapter", Path(base.path), both, tell, adapter)
    found = Survival(rows=len(scale.chats), left_out=scale.left_out, base=before, adapter=after)
    if _number(before) is None or _number(after) is None:
        whole = found.model_copy(update={"base": _number(before), "adapter": _number(after)})
        which = "The base" if whole.base is None else "The adapter"
        return whole.model_copy(
            update={"reason": f"{which} gives no numbers on the validation rows: its values overflow."}
        )
    if before - after < LEAST_GAIN:
        found.reason = (
            f"The adapter gains nothing on {len(scale.chats)} validation rows (loss {before:.3f} → {after:.3f}), so "
            f"there is nothing that a file could keep: see /finetune show {run.name}."
        )
    elif merged.is_file():
        known = next((file.sha256 for file in export.files if file.quant == "f16"), None)
        found.merged = _number(scale.loss("the merged file", merged, known or fingerprint(merged), tell))
        found.merged_broken = found.merged is None
    elif export.survival is not None:
        found.merged, found.merged_broken = export.survival.merged, export.survival.merged_broken
    return found


def _rows(path: Path) -> list[Chat]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [(str(row["id"]), list(row["messages"])) for row in rows]
