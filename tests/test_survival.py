"""The survival check: what exported files keep of the adapter's gain, and what is said where that is not known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.host import RecordingHost, User
from support.runs import Bench

from meton_plugins.finetune.commands import export as command
from meton_plugins.finetune.engine import jobs
from meton_plugins.finetune.errors import EngineError
from meton_plugins.finetune.paths import engine_dir
from meton_plugins.finetune.serve.export import export_model
from meton_plugins.finetune.serve.export_record import Export, ExportedFile, Survival, read_export
from meton_plugins.finetune.serve.survival import MOST, kept, unmeasured, warnings
from meton_plugins.finetune.train.runs import Run

pytest_plugins = ["support.run_fixtures"]


def made(survival: Survival | None, **losses: float | None) -> Export:
    """An export with a file of each type in `losses`."""
    files = [ExportedFile(quant=q, path=f"/x/{q}", sha256="0", bytes=1, loss=loss) for q, loss in losses.items()]
    return Export(
        run="one", base={}, adapter_sha256="0", template="basic", created="2026", files=files, survival=survival
    )


GAIN = Survival(rows=8, base=3.0, adapter=1.0)


# What is kept


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (1.06, "keeps 97% of the gain"),
        (1.2, "keeps 90% of the gain"),
        (1.201, "keeps 89% of the gain"),
        (1.0, "keeps all of the gain"),
        (0.9, "keeps all of the gain"),
        (2.99, "keeps nothing of the gain"),
        (4.0, "keeps nothing of the gain"),
        (None, ""),
    ],
)
def test_the_part_that_is_kept(loss: float | None, words: str) -> None:
    assert kept(made(GAIN, q4_k_m=loss), "q4_k_m") == words


def test_nothing_is_said_where_nothing_is_known() -> None:
    for survival in (None, Survival(reason="no rows"), Survival(rows=3, base=1.0, adapter=1.0, reason="no gain")):
        export = made(survival, q8_0=1.0)
        assert kept(export, "q8_0") == ""
        assert warnings(export) == []


@pytest.mark.parametrize(
    ("losses", "way"),
    [
        ({"q4_k_m": 1.5}, "q5_k_m should keep more: type /export model one --quant q5_k_m."),
        ({"q4_k_m": 1.5, "q5_k_m": 1.1}, "q5_k_m more: type /model-register add one --quant q5_k_m."),
        ({"q2_k": 1.5, "q4_k_m": 1.4, "q5_k_m": 1.3}, "q6_k should keep more: type /export model one --quant q6_k."),
        ({"q8_0": 1.5}, "f16 should keep more: type /export model one --quant f16."),
        ({"q5_0": 1.5}, "q5_k_m should keep more: type /export model one --quant q5_k_m."),
        ({"f16": 1.5}, "no type keeps more: train longer or with a higher learning rate, so that the change grows."),
        ({"q8_0": 1.5, "f16": 1.4}, "train longer or with a higher learning rate, so that the change grows."),
        ({"base": 1.5}, "q8_0 should keep more: type /export model one --quant q8_0."),
        ({"base": 1.5, "q8_0": 1.4}, "f16 should keep more: type /export model one --quant f16."),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_the_next_better_type_is_advised(losses: dict[str, float], way: str) -> None:
    said = warnings(made(GAIN, **losses))
    assert said[0].endswith(way), said
    assert len(said) == len([loss for loss in losses.values() if loss > 1.1])


def test_what_is_still_to_be_measured() -> None:
    assert unmeasured(made(None, q8_0=None))
    assert unmeasured(made(GAIN, q8_0=1.0, q4_0=None))
    assert not unmeasured(made(GAIN, q8_0=1.0))
    assert not unmeasured(made(Survival(reason="no rows"), q8_0=None))
    assert unmeasured(made(Survival(reason="no engine", again=True), q8_0=None))


def test_a_file_whose_values_overflow_is_said_to_be_of_no_use() -> None:
    export = made(GAIN, q8_0=1.5, f16=None)
    export.files[1].broken = True
    assert not unmeasured(export)
    assert kept(export, "f16") == "gives no numbers"
    first, second = warnings(export)
    assert first.startswith("q8_0 keeps 75% of the gain, and no type keeps more: ")
    assert second == "f16 gives no numbers, for its values overflow: train with a lower learning rate."


# Real files


class Typed(User):
    """A user of /export."""

    def __init__(self, bench: Bench) -> None:
        host = RecordingHost(bench.home.root, width=200)
        super().__init__(host, command.make(host, bench.home))
        self.folder = bench.home.models / "one"

    @property
    def export(self) -> Export:
        found = read_export(self.folder)
        assert found is not None
        return found


@pytest.fixture
def typed(bench: Bench, trained: Run) -> Typed:
    """With six validation rows: on so small a library the split leaves but one."""
    more = (trained.folder / "dataset" / "train.jsonl").read_text().splitlines(keepends=True)[:5]
    with (trained.folder / "dataset" / "validation.jsonl").open("a") as file:
        file.writelines(more)
    return Typed(bench)


def test_base_adapter_and_each_file_are_measured(typed: Typed, bench: Bench, trained: Run) -> None:
    said = typed("model --quant q8_0,q4_0")
    export = typed.export
    seen = export.survival
    assert seen is not None
    assert seen.reason == ""
    # The same by the job that reads a dataset file.
    file = trained.folder / "dataset" / "validation.jsonl"
    tuned = jobs.evaluate(bench.base, file, adapter=trained.adapter(), ctx_size=1024)
    assert seen.base == pytest.approx(jobs.evaluate(bench.base, file, ctx_size=1024), abs=1e-4)
    assert seen.adapter == pytest.approx(tuned, abs=1e-4)
    assert (seen.rows, seen.left_out) == (6, 0)
    for each in export.files:
        assert each.loss == pytest.approx(jobs.evaluate(Path(each.path), file, ctx_size=1024), abs=1e-4)
    q8_0, q4_0 = (seen.keeps(each.loss) for each in export.files)
    assert q8_0 is not None
    assert q4_0 is not None
    assert abs(1 - q8_0) < 0.05
    assert abs(1 - q4_0) > abs(1 - q8_0), "a coarser type keeps less, or strays more"
    assert f"{kept(export, 'q8_0')}  {typed.folder / 'one-q8_0.gguf'}" in said
    assert f"Nats a token on 6 validation rows: base {seen.base:.3f}, with the adapter {seen.adapter:.3f}" in said
    assert not (typed.folder / "one-f16.gguf").exists()


def test_as_json(typed: Typed) -> None:
    said = typed.json("model --quant q8_0")
    share = typed.export.survival.keeps(typed.export.files[0].loss) if typed.export.survival else None
    assert share is not None
    assert said["keeps"] == {"q8_0": share}
    assert said["warnings"] == []
    assert said["survival"]["rows"] == 6


def never(*_given: Any, **_named: Any) -> Any:
    pytest.fail("nothing is to be measured")


def test_twice_measures_once(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    first = typed("model --quant q8_0")
    for name in ("losses", "count_tokens", "pace"):
        monkeypatch.setattr(jobs, name, never)
        monkeypatch.setattr(f"meton_plugins.finetune.serve.survival.{name}", never, raising=False)
    again = typed("model --quant q8_0")
    assert "Everything was there already" in again
    assert again.replace("Everything was there already; nothing was written.\n", "") == first


def test_without_the_check_nothing_is_measured_until_it_is_wanted(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("meton_plugins.finetune.serve.survival.count_tokens", never)
        said = typed("model --quant q8_0 --no-check")
    assert "keeps" not in said
    assert typed.export.survival is None
    said = typed("model --quant q8_0")
    assert "nothing was written" in said
    assert "of the gain" in said
    assert typed.export.survival is not None


def rows(run: Run, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    file = run.folder / "dataset" / "validation.jsonl"
    changed = change([json.loads(line) for line in file.read_text().splitlines()])
    file.write_text("".join(f"{json.dumps(row)}\n" for row in changed))


def test_without_validation_rows_the_training_rows_are_read(typed: Typed, trained: Run) -> None:
    (trained.folder / "dataset" / "validation.jsonl").unlink()
    said = typed("model --quant q8_0")
    seen = typed.export.survival
    assert seen is not None
    assert (seen.side, seen.reason) == ("training", "")
    assert seen.rows > 0
    assert f"Nats a token on {seen.rows} training rows" in said
    assert "this says how exact the files are, not what was learned" in said
    assert typed.export.files[0].kept == pytest.approx(1, abs=0.05)
    assert not unmeasured(typed.export)


def test_without_any_rows(typed: Typed, trained: Run) -> None:
    for name in ("validation", "train"):
        (trained.folder / "dataset" / f"{name}.jsonl").unlink()
    assert "is not measured, for the run has no rows: rate more answers and build again." in typed("model --quant q8_0")
    assert not unmeasured(typed.export)


def longer(row: dict[str, Any], by: int) -> dict[str, Any]:
    question, answer = row["messages"][-2:]
    return {**row, "messages": [{**question, "content": question["content"] + " more" * by}, answer]}


def test_rows_that_are_too_long(typed: Typed, trained: Run) -> None:
    rows(trained, lambda found: [longer(found[0], 2000), *found[1:]])
    said = typed("model --quant q8_0")
    seen = typed.export.survival
    assert seen is not None
    assert (seen.rows, seen.left_out) == (5, 1)
    assert "1 more is too long for the run's --ctx-size." in said
    rows(trained, lambda found: [longer(row, 2000) for row in found])
    (trained.folder / "dataset" / "train.jsonl").unlink()
    (typed.folder / "export.json").unlink()
    said = typed("model --quant q8_0")
    assert "none of the 6 rows of the run fits into 1024 tokens: train with a larger --ctx-size." in said


def test_many_rows_are_read_in_part(typed: Typed, trained: Run) -> None:
    rows(trained, lambda found: [{**row, "id": f"{row['id']}-{n}"} for n in range(20) for row in found])
    typed("model --quant q8_0")
    assert typed.export.survival is not None
    assert typed.export.survival.rows == MOST


def test_an_adapter_that_gains_nothing(typed: Typed, bench: Bench) -> None:
    bench.train("idle", epochs=1, learning_rate=1e-9)
    said = typed("model idle --quant q8_0")
    assert "The adapter gains nothing on" in said
    assert "see /finetune show idle." in said
    assert "keeps" not in said


def test_a_merge_that_overflows(typed: Typed, bench: Bench) -> None:
    """Half precision has no numbers above 65,504: what a far too high learning rate makes of a model may need them."""
    bench.train("wild", epochs=1, learning_rate=0.3, lora_rank=8)
    said = typed("model wild --quant f16,q8_0")
    export = read_export(bench.home.models / "wild")
    assert export is not None
    seen = export.survival
    assert seen is not None
    text = (bench.home.models / "wild" / "export.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [file.broken for file in export.files] == [True, False]
    assert "f16 gives no numbers, for its values overflow" in said


def test_an_engine_that_fails_costs_no_file_and_the_next_export_measures(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: Any, **_named: Any) -> Any:
        raise EngineError("The engine ended by itself.")

    with monkeypatch.context() as patch:
        patch.setattr("meton_plugins.finetune.engine.jobs.pace", broken)
        said = typed("model --quant q8_0")
    assert "The engine ended by itself." in said
    assert (typed.folder / "one-q8_0.gguf").is_file()
    assert "of the gain" in typed("model --quant q8_0")


def test_a_check_that_is_interrupted_leaves_whole_files(
    bench: Bench, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: Any, **_named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("meton_plugins.finetune.engine.jobs.pace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_model(bench.home, trained, ["q8_0"])
    export, written = export_model(bench.home, trained, ["q8_0"])
    assert not written
    assert kept(export, "q8_0")


def test_without_an_engine_the_merge_is_still_written(typed: Typed) -> None:
    engine_dir().unlink()
    said = typed("model --quant f16")
    assert "The training engine is not installed" in said
    assert (typed.folder / "one-f16.gguf").is_file()


def test_another_adapter_is_measured_anew(typed: Typed, trained: Run) -> None:
    shutil.copy(trained.folder / "checkpoints" / "step_00000055" / "adapter.gguf", trained.folder / "best.gguf")
    typed("model --quant q8_0")
    first = typed.export.survival
    typed("model --quant q8_0 --adapter last")
    second = typed.export.survival
    assert first is not None
    assert second is not None
    assert first.base == second.base
    assert first.adapter != second.adapter


def test_an_export_of_an_earlier_version_is_read(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had a merged F16 file, and recorded neither types nor what each file keeps."""
    typed("model --quant q8_0")
    file = typed.folder / "export.json"
    record = json.loads(file.read_text())
    for name in ("kept", "types", "retyped", "change_per_step", "clipped", "seed"):
        del record["files"][0][name]
    record["survival"] |= {"merged": 2.5, "merged_broken": False}
    del record["survival"]["side"]
    file.write_text(json.dumps(record))
    monkeypatch.setattr("meton_plugins.finetune.serve.survival.count_tokens", never)
    said = typed("model --quant q8_0")
    assert "Everything was there already" in said
    assert "validation row" in said
    assert typed.json("model --quant q8_0")["keeps"]["q8_0"] == pytest.approx(1, abs=0.05)
    assert typed.export.files[0].seed is None


def test_what_is_known_of_a_file_is_recorded(typed: Typed) -> None:
    typed("model --quant base,q8_0")
    base, q8_0 = typed.export.files
    assert (base.quant, q8_0.quant) == ("base", "q8_0")
    assert Path(base.path).name == "one-base.gguf"
    assert base.types == {"F32": base.types["F32"]}
    assert q8_0.types["Q8_0"] > 0
    for each in (base, q8_0):
        assert each.retyped == {}
        assert each.seed is not None
        assert each.kept == pytest.approx(1, abs=0.05)


def test_a_small_part_of_a_step_and_what_is_left_out_are_said() -> None:
    export = made(GAIN, base=1.5)
    export.files[0] = export.files[0].model_copy(
        update={"change_per_step": 0.004, "clipped": 0.25, "types": {"F32": 90, "Q4_K": 60, "Q6_K": 10}}
    )
    first, second, third = warnings(export)
    assert first.endswith("q8_0 should keep more: type /export model one --quant q8_0.")
    assert second.startswith("Its change is 0.004 of a quantization step: a longer training")
    assert third.startswith("25% of the change does not fit into base, whose scales stay the base's")
    export.files[0].types = {"F32": 90, "Q8_0": 60}
    assert "--quant f16." in warnings(export)[0]
