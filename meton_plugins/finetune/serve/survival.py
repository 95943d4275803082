"""The survival check: what exported files keep of what the adapter gained on the run's validation rows.

Exact is the base with the adapter: a file that keeps everything loses as many nats a token as these two together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ..curate.manifest import FILES
from ..engine.file_types import FILE_TYPES
from ..engine.jobs import count_tokens, default_quantization
from ..errors import FinetuneError
from ..paths import Home
from ..train.runs import Run
from .contender import Chat, Contender
from .export_record import Export, ExportedFile, Side, Survival
from .subject import template_of

__all__ = ["ENOUGH", "kept", "measure", "unmeasured", "warnings"]

#: Below this part of the gain a better type is advised.
ENOUGH: Final = 0.95
#: Rows that all files read; on a 7B model each costs seconds, and paired by row these say enough.
MOST: Final = 32
#: Two ways of computing the same model differ by as much, in nats a token: a smaller gain cannot be divided.
LEAST_GAIN: Final = 0.005
#: Types worth advising, the smallest first.
LADDER: Final = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
#: Types of a base whose own grid is as fine as q8_0, or finer.
FINE: Final = ("Q8_0", "F16", "BF16", "F32")
#: A change of so small a part of a step is little more than the noise of its rounding.
TINY: Final = 0.01
#: A change of which so much does not fit between a block's levels is worth a word.
CLIPPED: Final = 0.1

#: The dataset's part for each side; the first that has rows is measured on.
SIDES: Final[dict[Side, Literal["validation", "train"]]] = {"validation": "validation", "training": "train"}

#: Stage, done, total.
Tell = Callable[[str, int, int], None]
#: More than this of a gain is all of it.
ALL: Final = 0.9995


class _Scale(NamedTuple):
    """What all files are measured by: the same rows, read in the same way."""

    home: Home
    chats: list[Chat]
    side: Side
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


def measure(home: Home, run: Run, adapter: Path, export: Export, save: Callable[[], None], tell: Tell) -> None:
    """Fill in `export.survival` and the loss of each file that has none; `save` is called after each.

    What cannot be measured is a `reason`, never an error: the files are good.
    """
    try:
        scale = _scale(home, run)
        if export.survival is not None and export.survival.counts == "all":
            for file in export.files:  # losses of an older version counted Meton's form too: they are not compared
                file.loss = None
        export.survival = scale if isinstance(scale, Survival) else _gain(scale, run, adapter, export, tell)
        save()
        for file in export.files:
            if _open(file) and isinstance(scale, _Scale) and not export.survival.reason:
                file.loss = _number(scale.loss(file.quant, Path(file.path), file.sha256, tell))
                file.broken = file.loss is None
            file.kept = export.survival.keeps(file.loss)
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
    """A sentence for each file that keeps too little, with what helps."""
    lines = []
    for file in export.files:
        if file.broken:
            lines.append(f"{file.quant} gives no numbers, for its values overflow: train with a lower learning rate.")
        share = _share(export, file.quant)
        if share is None or share >= ENOUGH:
            continue
        better = _better(export, file)
        if better is None:
            way = "and no type keeps more: train longer or with a higher learning rate, so that the change grows"
        elif export.has(better):
            way = f"and {better} more: type /model-register add {export.run} --quant {better}"
        else:
            way = f"and {better} should keep more: type /export model {export.run} --quant {better}"
        lines.append(f"{file.quant} {kept(export, file.quant)}, {way}.")
        if better and file.change_per_step is not None and file.change_per_step < TINY:
            lines.append(
                f"Its change is {file.change_per_step:.3f} of a quantization step: a longer training, or one with a "
                "higher learning rate, survives better too."
            )
    lines += [
        f"{file.clipped:.0%} of the change does not fit into {file.quant}, whose scales stay the base's: "
        "a larger type has room for it, or a lower learning rate needs less."
        for file in export.files
        if file.clipped is not None and file.clipped > CLIPPED
    ]
    return lines


def _share(export: Export, quant: str) -> float | None:
    loss = next((file.loss for file in export.files if file.quant == quant), None)
    return None if export.survival is None else export.survival.keeps(loss)


def _better(export: Export, file: ExportedFile) -> str | None:
    """The next type that should keep more and is not known to keep too little itself."""
    larger = list(FILE_TYPES)
    if file.quant != "base":
        larger = larger[: larger.index(file.quant)]
    elif file.types and max(file.types, key=lambda kind: (kind not in ("F32",), file.types[kind])) in FINE:
        larger = ["f16"]
    else:
        larger = ["f16", "q8_0"]
    ladder: list[str] = [each for each in LADDER if each in larger]
    if file.quant not in ("base", "f16") and _base_is_quantized(export):
        ladder.insert(0, "base")
    for each in ladder:
        share, broken = _share(export, each), any(f.broken for f in export.files if f.quant == each)
        if not broken and (share is None or share >= ENOUGH):
            return each
    return None


def _base_is_quantized(export: Export) -> bool:
    path = Path(export.base.get("path") or "")
    return path.is_file() and default_quantization(path) == "base"


def _scale(home: Home, run: Run) -> _Scale | Survival:
    """The rows that fit and who reads them; a Survival with its reason where there are none."""
    record = run.record
    base, template, ctx_size = Path(record.base.path), template_of(run), record.settings.ctx_size
    too_long = 0
    for side, name in SIDES.items():
        rows = _rows(run.folder / "dataset" / FILES[name])
        counts = count_tokens(base, [messages for _, messages in rows], template, record.system)
        fit = [row for row, count in zip(rows, counts, strict=True) if 0 < count <= ctx_size]
        if fit:
            chosen = sorted(fit, key=lambda row: hashlib.sha256(row[0].encode()).digest())[:MOST]
            reader = Contender("base", base, record.base.sha256, None, template, record.system).paced(fit[0][1][:-1])
            return _Scale(home, chosen, side, len(rows) - len(fit), reader, ctx_size)
        too_long += len(rows)
    reason = f"none of the {too_long} rows of the run fits into {ctx_size} tokens: train with a larger --ctx-size"
    if not too_long:
        reason = "the run has no rows: rate more answers and build again"
    return Survival(left_out=too_long, reason=f"What the files keep of the tuning is not measured, for {reason}.")


def _gain(scale: _Scale, run: Run, adapter: Path, export: Export, tell: Tell) -> Survival:
    base = run.record.base
    both = hashlib.sha256(f"{base.sha256} {export.adapter_sha256}".encode()).hexdigest()
    before = scale.loss("the base", Path(base.path), base.sha256, tell)
    after = scale.loss("the adapter", Path(base.path), both, tell, adapter)
    found = Survival(
        side=scale.side, rows=len(scale.chats), left_out=scale.left_out, base=before, adapter=after, counts="answer"
    )
    if _number(before) is None or _number(after) is None:
        whole = found.model_copy(update={"base": _number(before), "adapter": _number(after)})
        which = "The base" if whole.base is None else "The adapter"
        return whole.model_copy(
            update={"reason": f"{which} gives no numbers on the {scale.side} rows: its values overflow."}
        )
    if before - after < LEAST_GAIN:
        found.reason = (
            f"The adapter gains nothing on {len(scale.chats)} {scale.side} rows (loss {before:.3f} → {after:.3f}), so "
            f"there is nothing that a file could keep: see /finetune show {run.name}."
        )
    return found


def _rows(path: Path) -> list[Chat]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [(str(row["id"]), list(row["messages"])) for row in rows]
